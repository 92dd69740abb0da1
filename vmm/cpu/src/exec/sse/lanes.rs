//! Vectors as arrays of lanes, lane 0 the least significant.

/// A lane type of which `N` fill 128 bits.
pub(super) trait Lane<const N: usize>: Copy {
    /// The lanes of a vector.
    fn split(vector: u128) -> [Self; N];
    /// The vector of lanes.
    fn join(lanes: [Self; N]) -> u128;
}

macro_rules! lane {
    ($($lane:ty, $count:literal;)*) => {$(
        impl Lane<$count> for $lane {
            #[inline(always)]
            fn split(vector: u128) -> [Self; $count] {
                std::array::from_fn(|n| (vector >> (n as u32 * <$lane>::BITS)) as $lane)
            }
            #[inline(always)]
            fn join(lanes: [Self; $count]) -> u128 {
                let mut bytes = [0; 16];
                for (to, from) in bytes.chunks_exact_mut(16 / $count).zip(lanes) {
                    to.copy_from_slice(&from.to_le_bytes());
                }
                u128::from_le_bytes(bytes)
            }
        }
    )*};
}

lane! {
    u8, 16; i8, 16;
    u16, 8; i16, 8;
    u32, 4; i32, 4;
    u64, 2; i64, 2;
}

/// Applies a function to each lane.
#[inline(always)]
pub(super) fn map<T: Lane<N>, const N: usize>(f: impl Fn(T) -> T) -> impl Fn(u128) -> u128 {
    move |a| T::join(T::split(a).map(&f))
}

/// Applies a function to each pair of lanes.
#[inline(always)]
pub(super) fn zip<T: Lane<N>, const N: usize>(
    f: impl Fn(T, T) -> T,
) -> impl Fn(u128, u128) -> u128 {
    move |a, b| {
        let (a, b) = (T::split(a), T::split(b));
        T::join(std::array::from_fn(|n| f(a[n], b[n])))
    }
}

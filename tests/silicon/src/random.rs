//! The tests' random numbers: SplitMix64 (Steele, Lea, Flood 2014), so that a seed means the same
//! tests for ever.

/// A generator.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Seeded by several numbers.
    pub fn new(seeds: &[u64]) -> Random {
        let mut random = Random(0x6a09_e667_f3bc_c909);
        for seed in seeds {
            random.0 ^= seed;
            random.0 = random.next();
        }
        random
    }

    /// 64 random bits.
    #[inline]
    #[expect(clippy::should_implement_trait, reason = "endless, and no adapter is wanted")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `bound`, which is at least 1.
    #[inline]
    pub fn below(&mut self, bound: u32) -> u32 {
        (((self.next() >> 32) * u64::from(bound)) >> 32) as u32
    }

    /// True in `parts` of 1000 calls.
    #[inline]
    pub fn permille(&mut self, parts: u32) -> bool {
        self.below(1000) < parts
    }

    /// One of several.
    #[inline]
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u32) as usize]
    }
}

//! Packed integer arithmetic on 64-bit words: the lanes of MMX registers. Those of XMM
//! registers are in `sse/lanes.rs`.
//!
//! A lane operation is a closure over one lane: `words(a, b, i16::saturating_add)`. The compiler
//! turns these into vector code.

/// Applies `f` to each of eight bytes.
#[inline(always)]
pub(crate) fn bytes(a: u64, b: u64, f: impl Fn(u8, u8) -> u8) -> u64 {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    u64::from_le_bytes(std::array::from_fn(|n| f(a[n], b[n])))
}

/// Applies `f` to each of eight signed bytes.
#[inline(always)]
pub(crate) fn signed_bytes(a: u64, b: u64, f: impl Fn(i8, i8) -> i8) -> u64 {
    bytes(a, b, |a, b| f(a as i8, b as i8) as u8)
}

/// The four 16-bit words, lowest first.
#[inline(always)]
pub(crate) fn to_words(a: u64) -> [u16; 4] {
    std::array::from_fn(|n| (a >> (16 * n)) as u16)
}

/// Four 16-bit words, lowest first, as one value.
#[inline(always)]
pub(crate) fn from_words(words: [u16; 4]) -> u64 {
    words.iter().rev().fold(0, |sum, &word| sum << 16 | u64::from(word))
}

/// The two 32-bit double words, lowest first.
#[inline(always)]
pub(crate) fn to_dwords(a: u64) -> [u32; 2] {
    [a as u32, (a >> 32) as u32]
}

/// Two 32-bit double words, lowest first, as one value.
#[inline(always)]
pub(crate) fn from_dwords(dwords: [u32; 2]) -> u64 {
    u64::from(dwords[1]) << 32 | u64::from(dwords[0])
}

/// Applies `f` to each of four 16-bit words.
#[inline(always)]
pub(crate) fn words(a: u64, b: u64, f: impl Fn(u16, u16) -> u16) -> u64 {
    let (a, b) = (to_words(a), to_words(b));
    from_words(std::array::from_fn(|n| f(a[n], b[n])))
}

/// Applies `f` to each of four signed words.
#[inline(always)]
pub(crate) fn signed_words(a: u64, b: u64, f: impl Fn(i16, i16) -> i16) -> u64 {
    words(a, b, |a, b| f(a as i16, b as i16) as u16)
}

/// Applies `f` to each of two 32-bit double words.
#[inline(always)]
pub(crate) fn dwords(a: u64, b: u64, f: impl Fn(u32, u32) -> u32) -> u64 {
    let (a, b) = (to_dwords(a), to_dwords(b));
    from_dwords([f(a[0], b[0]), f(a[1], b[1])])
}

/// Applies `f` to each of two signed double words.
#[inline(always)]
pub(crate) fn signed_dwords(a: u64, b: u64, f: impl Fn(i32, i32) -> i32) -> u64 {
    dwords(a, b, |a, b| f(a as i32, b as i32) as u32)
}

/// PACKSSWB of two 64-bit operands: the words of `a`, then of `b`, as signed bytes with saturation.
#[inline(always)]
pub(crate) fn pack_words_signed(a: u64, b: u64) -> u64 {
    pack_words(a, b, |word| word.clamp(-128, 127) as u8)
}

/// PACKUSWB: signed words as unsigned bytes with saturation.
#[inline(always)]
pub(crate) fn pack_words_unsigned(a: u64, b: u64) -> u64 {
    pack_words(a, b, |word| word.clamp(0, 255) as u8)
}

#[inline(always)]
fn pack_words(a: u64, b: u64, f: impl Fn(i16) -> u8) -> u64 {
    let (a, b) = (to_words(a), to_words(b));
    u64::from_le_bytes(std::array::from_fn(|n| f(if n < 4 { a[n] } else { b[n - 4] } as i16)))
}

/// PACKSSDW: the double words of `a`, then of `b`, as signed words with saturation.
#[inline(always)]
pub(crate) fn pack_dwords_signed(a: u64, b: u64) -> u64 {
    let (a, b) = (to_dwords(a), to_dwords(b));
    from_words(
        [a[0], a[1], b[0], b[1]]
            .map(|dword| (dword as i32).clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as u16),
    )
}

/// Interleaves the low 32 bits of both by bytes: a0 b0 a1 b1 a2 b2 a3 b3 (PUNPCKLBW). For PUNPCKH
/// pass `a >> 32` and `b >> 32`.
#[inline(always)]
pub(crate) fn interleave_bytes(a: u64, b: u64) -> u64 {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    u64::from_le_bytes(std::array::from_fn(|n| if n & 1 == 0 { a[n / 2] } else { b[n / 2] }))
}

/// Interleaves the low 32 bits of both by words: a0 b0 a1 b1 (PUNPCKLWD).
#[inline(always)]
pub(crate) fn interleave_words(a: u64, b: u64) -> u64 {
    let (a, b) = (to_words(a), to_words(b));
    from_words([a[0], b[0], a[1], b[1]])
}

/// The low double words of both: a0 b0 (PUNPCKLDQ).
#[inline(always)]
pub(crate) fn interleave_dwords(a: u64, b: u64) -> u64 {
    a & 0xffff_ffff | b << 32
}

/// PMULHW: high halves of the signed products.
#[inline(always)]
pub(crate) fn multiply_high_signed(a: u64, b: u64) -> u64 {
    signed_words(a, b, |a, b| ((i32::from(a) * i32::from(b)) >> 16) as i16)
}

/// PMULHUW: high halves of the unsigned products.
#[inline(always)]
pub(crate) fn multiply_high_unsigned(a: u64, b: u64) -> u64 {
    words(a, b, |a, b| ((u32::from(a) * u32::from(b)) >> 16) as u16)
}

/// PMULHRSW: the signed products' bits 30:15, rounded.
#[inline(always)]
pub(crate) fn multiply_high_rounded(a: u64, b: u64) -> u64 {
    signed_words(a, b, |a, b| ((((i32::from(a) * i32::from(b)) >> 14) + 1) >> 1) as i16)
}

/// PMADDWD: sums of adjacent signed products, as double words (wrapping: four times 0x8000 gives
/// 0x80000000).
#[inline(always)]
pub(crate) fn multiply_add_words(a: u64, b: u64) -> u64 {
    let (a, b) = (to_words(a), to_words(b));
    let product = |n: usize| i32::from(a[n] as i16) * i32::from(b[n] as i16);
    let sum = |n: usize| product(n).wrapping_add(product(n + 1)) as u32;
    from_dwords([sum(0), sum(2)])
}

/// PMADDUBSW: sums of adjacent products of unsigned bytes of `a` and signed bytes of `b`, with
/// signed saturation.
#[inline(always)]
pub(crate) fn multiply_add_bytes(a: u64, b: u64) -> u64 {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    let product = |n: usize| i32::from(a[n]) * i32::from(b[n] as i8);
    from_words(std::array::from_fn(|n| {
        let sum = product(2 * n) + product(2 * n + 1);
        sum.clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as u16
    }))
}

/// PMULUDQ: the unsigned product of the low double words.
#[inline(always)]
pub(crate) fn multiply_dword(a: u64, b: u64) -> u64 {
    (a & 0xffff_ffff) * (b & 0xffff_ffff)
}

/// PSADBW: the sum of absolute differences of eight unsigned bytes.
#[inline(always)]
pub(crate) fn sum_of_differences(a: u64, b: u64) -> u64 {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    a.iter().zip(b).map(|(&a, b)| u64::from(a.abs_diff(b))).sum()
}

/// PAVGB.
#[inline(always)]
pub(crate) fn average_bytes(a: u64, b: u64) -> u64 {
    bytes(a, b, |a, b| ((u16::from(a) + u16::from(b) + 1) >> 1) as u8)
}

/// PAVGW.
#[inline(always)]
pub(crate) fn average_words(a: u64, b: u64) -> u64 {
    words(a, b, |a, b| ((u32::from(a) + u32::from(b) + 1) >> 1) as u16)
}

/// PMOVMSKB: the top bits of eight bytes.
#[inline(always)]
pub(crate) fn byte_mask(a: u64) -> u64 {
    a.to_le_bytes().iter().rev().fold(0, |mask, &byte| mask << 1 | u64::from(byte >> 7))
}

/// All ones where `holds`: the results of PCMPEQ and PCMPGT.
macro_rules! comparison {
    ($($(#[$doc:meta])* $name:ident: $lanes:ident, $type:ty, $operator:tt;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub(crate) fn $name(a: u64, b: u64) -> u64 {
            $lanes(a, b, |a, b| if a $operator b { <$type>::MAX } else { 0 })
        }
    )*};
}
comparison! {
    /// PCMPEQB.
    equal_bytes: bytes, u8, ==;
    /// PCMPEQW.
    equal_words: words, u16, ==;
    /// PCMPEQD.
    equal_dwords: dwords, u32, ==;
}

/// PCMPGTB.
#[inline(always)]
pub(crate) fn greater_bytes(a: u64, b: u64) -> u64 {
    signed_bytes(a, b, |a, b| -i8::from(a > b))
}

/// PCMPGTW.
#[inline(always)]
pub(crate) fn greater_words(a: u64, b: u64) -> u64 {
    signed_words(a, b, |a, b| -i16::from(a > b))
}

/// PCMPGTD.
#[inline(always)]
pub(crate) fn greater_dwords(a: u64, b: u64) -> u64 {
    signed_dwords(a, b, |a, b| -i32::from(a > b))
}

/// PSLLW/D/Q, PSRLW/D/Q: `shift` of lanes; a count above the lane's width gives zero.
macro_rules! shift {
    ($($(#[$doc:meta])* $name:ident: $lanes:ident, $type:ty, $operator:tt;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub(crate) fn $name(a: u64, count: u64) -> u64 {
            if count >= u64::from(<$type>::BITS) {
                return 0;
            }
            $lanes(a, 0, |a, _| a $operator count)
        }
    )*};
}
shift! {
    /// PSLLW.
    shift_left_words: words, u16, <<;
    /// PSLLD.
    shift_left_dwords: dwords, u32, <<;
    /// PSRLW.
    shift_right_words: words, u16, >>;
    /// PSRLD.
    shift_right_dwords: dwords, u32, >>;
}

/// PSLLQ.
#[inline(always)]
pub(crate) fn shift_left_qword(a: u64, count: u64) -> u64 {
    if count >= 64 { 0 } else { a << count }
}

/// PSRLQ.
#[inline(always)]
pub(crate) fn shift_right_qword(a: u64, count: u64) -> u64 {
    if count >= 64 { 0 } else { a >> count }
}

/// PSRAW: a count above 15 fills with the sign.
#[inline(always)]
pub(crate) fn shift_right_signed_words(a: u64, count: u64) -> u64 {
    signed_words(a, 0, |a, _| a >> count.min(15))
}

/// PSRAD.
#[inline(always)]
pub(crate) fn shift_right_signed_dwords(a: u64, count: u64) -> u64 {
    signed_dwords(a, 0, |a, _| a >> count.min(31))
}

/// PSIGNB.
#[inline(always)]
pub(crate) fn sign_bytes(a: u64, b: u64) -> u64 {
    signed_bytes(a, b, |a, b| a.wrapping_mul(b.signum()))
}

/// PSIGNW.
#[inline(always)]
pub(crate) fn sign_words(a: u64, b: u64) -> u64 {
    signed_words(a, b, |a, b| a.wrapping_mul(b.signum()))
}

/// PSIGND.
#[inline(always)]
pub(crate) fn sign_dwords(a: u64, b: u64) -> u64 {
    signed_dwords(a, b, |a, b| a.wrapping_mul(b.signum()))
}

/// PHADDW, PHSUBW and the saturating forms: `f` of adjacent words of `a`, then of `b`.
#[inline(always)]
pub(crate) fn horizontal_words(a: u64, b: u64, f: impl Fn(i16, i16) -> i16) -> u64 {
    let (a, b) = (to_words(a).map(|word| word as i16), to_words(b).map(|word| word as i16));
    from_words([f(a[0], a[1]), f(a[2], a[3]), f(b[0], b[1]), f(b[2], b[3])].map(|r| r as u16))
}

/// PHADDD, PHSUBD: `f` of the two double words of `a`, then of `b`.
#[inline(always)]
pub(crate) fn horizontal_dwords(a: u64, b: u64, f: impl Fn(u32, u32) -> u32) -> u64 {
    let (a, b) = (to_dwords(a), to_dwords(b));
    from_dwords([f(a[0], a[1]), f(b[0], b[1])])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_operations_by_hand() {
        assert_eq!(bytes(0xff01, 0x0201, u8::wrapping_add), 0x0102);
        assert_eq!(bytes(0xff01, 0x0201, u8::saturating_add), 0xff02);
        assert_eq!(pack_words_signed(0x7fff_8000_0001_ffff, 0), 0x7f80_01ff);
        assert_eq!(pack_words_unsigned(0x7fff_8000_0001_0100, 0), 0xff00_01ff);
        assert_eq!(pack_dwords_signed(0x7fff_ffff_8000_0000, 1), 0x0000_0001_7fff_8000);
        assert_eq!(interleave_bytes(0x0403_0201, 0x1413_1211), 0x1404_1303_1202_1101);
        assert_eq!(interleave_words(0x0002_0001, 0x0012_0011), 0x0012_0002_0011_0001);
        assert_eq!(interleave_dwords(0x9_0000_0001, 2), 0x2_0000_0001);
        assert_eq!(
            multiply_add_words(0x8000_8000_0003_0002, 0x8000_8000_0005_0007),
            0x8000_0000_0000_001d
        );
        assert_eq!(multiply_add_bytes(0xffff, 0x7f7f), 0x7fff);
        assert_eq!(multiply_high_rounded(0x8000, 0x8000), 0x8000);
        assert_eq!(sum_of_differences(0xff00, 0x00ff), 510);
        assert_eq!(average_bytes(0xff01, 0xfe02), 0xff02);
        assert_eq!(byte_mask(0x8000_0000_0000_0080), 0x81);
        assert_eq!(greater_words(0x0001_ffff, 0xffff_0000), 0xffff_0000);
        assert_eq!(equal_dwords(0x1_0000_0002, 0x1_0000_0003), 0xffff_ffff_0000_0000);
        assert_eq!(shift_left_words(0x8001_8001, 1), 0x0002_0002);
        assert_eq!(shift_left_words(0x8001_8001, 16), 0);
        assert_eq!(shift_right_signed_words(0x8000, u64::MAX), 0xffff);
        assert_eq!(sign_bytes(0x80_0501, 0xff_00ff), 0x80_00ff);
        assert_eq!(
            horizontal_words(0x0002_0001, 0x7fff_7fff, i16::saturating_add),
            0x7fff_0000_0003
        );
    }
}

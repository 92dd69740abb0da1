//! Operand values: corners first, noise second.

use crate::random::Random;

/// An integer for an operand of any size.
pub fn integer(r: &mut Random) -> u64 {
    match r.below(16) {
        0 => 0,
        1 => u64::MAX,
        2 => 1,
        3 => r.pick(&[
            0x7f,
            0x80,
            0xff,
            0x7fff,
            0x8000,
            0xffff,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            0x7fff_ffff_ffff_ffff,
            0x8000_0000_0000_0000,
            0x8080_8080_8080_8080,
            0x8000_0000_8000_0000,
        ]),
        4 => 1 << r.below(64),
        5 => (1 << r.below(64)) - 1,
        6 => !(1 << r.below(64)),
        7 => u64::from(r.below(70)),
        8 => (r.below(70) as u64).wrapping_neg(),
        9 => r.next() & 0xffff_ffff,
        10 => r.next() >> r.below(64),
        _ => r.next(),
    }
}

/// A single-precision value.
pub fn single(r: &mut Random) -> u32 {
    let sign = r.below(2) << 31;
    sign | match r.below(20) {
        0 => 0,
        1 => 0x7f80_0000,
        2 => 0x7fc0_0000 | r.below(1 << 22),
        3 => 0x7f80_0001 | r.below(1 << 22) & 0x3f_ffff,
        4 => 1 + r.below((1 << 23) - 1),
        5 => r.pick(&[0x7f7f_ffff, 0x0080_0000, 0x007f_ffff, 1, 0x3f80_0000, 0x4b00_0000]),
        6 => (r.below(64) as f32).to_bits(),
        7 => (r.below(1 << 20) as f32 / 1024.0).to_bits(),
        8 => r.pick(&[0x4f00_0000, 0x4f80_0000, 0x5f00_0000, 0x5f80_0000, 0x3f00_0000]),
        // Exponents near 1, so that sums round and cancel.
        9..16 => (107 + r.below(40)) << 23 | r.below(1 << 23),
        16 => (r.below(26)) << 23 | r.below(1 << 23),
        17 => (229 + r.below(26)) << 23 | r.below(1 << 23),
        _ => (r.next() as u32) & 0x7fff_ffff,
    }
}

/// A double-precision value.
pub fn double(r: &mut Random) -> u64 {
    let sign = u64::from(r.below(2)) << 63;
    let fraction = r.next() >> 12;
    let exponent = |e: u32| u64::from(e) << 52;
    sign | match r.below(20) {
        0 => 0,
        1 => exponent(0x7ff),
        2 => exponent(0x7ff) | 1 << 51 | fraction >> 1,
        3 => exponent(0x7ff) | fraction >> 1 | 1,
        4 => fraction | 1,
        5 => r.pick(&[
            0x7fef_ffff_ffff_ffff,
            0x0010_0000_0000_0000,
            0x000f_ffff_ffff_ffff,
            1,
            0x3ff0_0000_0000_0000,
            0x4330_0000_0000_0000,
        ]),
        6 => f64::from(r.below(64)).to_bits(),
        7 => (f64::from(r.below(1 << 20)) / 1024.0).to_bits(),
        8 => r.pick(&[
            0x41e0_0000_0000_0000,
            0x41f0_0000_0000_0000,
            0x43e0_0000_0000_0000,
            0x43f0_0000_0000_0000,
            0x47ef_ffff_f000_0000,
            0x36a0_0000_0000_0000,
        ]),
        9..14 => exponent(1003 + r.below(40)) | fraction,
        // The range in which conversion to single precision underflows or overflows.
        14 => exponent(860 + r.below(40)) | fraction,
        15 => exponent(1140 + r.below(20)) | fraction,
        16 => exponent(r.below(56)) | fraction,
        17 => exponent(1990 + r.below(56)) | fraction,
        _ => r.next() >> 1,
    }
}

/// A double extended-precision value, unsupported encodings included, as its 10 bytes.
pub fn extended(r: &mut Random) -> [u8; 10] {
    let significand = 1 << 63 | r.next() >> r.pick(&[1, 1, 1, 12, 41, 63]);
    let low_zero = significand & (u64::MAX << r.pick(&[0, 0, 0, 11, 40, 60]));
    let sign = (r.below(2) as u16) << 15;
    let (exponent, significand) = match r.below(24) {
        0 => (0, 0),
        1 => (0x7fff, 1 << 63),
        2 => (0x7fff, 0xc000_0000_0000_0000 | significand),
        3 => (0x7fff, significand & !(1 << 62) | 1),
        // Denormal, pseudo-denormal.
        4 => (0, significand >> (1 + r.below(63))),
        5 => (0, significand),
        // Unnormal, pseudo-infinity, pseudo-NaN.
        6 => (r.below(0x7fff) as u16, significand >> 1),
        7 => (0x7fff, r.pick(&[0, 1, 1 << 62])),
        8 => r.pick(&[
            (0x3fff, 1 << 63),
            (0x7ffe, u64::MAX),
            (1, 1 << 63),
            (0x4000, 0xc90f_daa2_2168_c235),
            (0x3ffe, 0xb172_17f7_d1cf_79ac),
            (0x403e, 1 << 63),
            (0x401e, 1 << 63),
            (0x3ffe, 1 << 63),
            (0x43fe, u64::MAX),
            (0x407f, u64::MAX),
        ]),
        9 => {
            let value = u64::from(1 + r.below(64));
            (0x403e - value.leading_zeros() as u16, value << value.leading_zeros())
        }
        // Around the limits of single and double precision.
        10 => (0x3f6a + r.below(24) as u16, low_zero),
        11 => (0x407c + r.below(6) as u16, low_zero),
        12 => (0x3bcd + r.below(54) as u16, low_zero),
        13 => (0x43fb + r.below(6) as u16, low_zero),
        // Around the limits of the integers.
        14 => (0x400b + r.below(54) as u16, low_zero),
        15 => (r.below(70) as u16, low_zero),
        16 => (0x7f9f + r.below(0x60) as u16, low_zero),
        17 => (r.below(0x7fff) as u16, significand),
        _ => (0x3fe8 + r.below(48) as u16, low_zero),
    };
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&significand.to_le_bytes());
    bytes[8..].copy_from_slice(&(sign | exponent).to_le_bytes());
    bytes
}

/// A packed decimal number, now and then with digits that are none.
pub fn decimal(r: &mut Random) -> [u8; 10] {
    let mut bytes = [0; 10];
    let digit = |r: &mut Random| if r.permille(3) { r.below(16) } else { r.below(10) } as u8;
    for byte in &mut bytes[..9] {
        *byte = digit(r) << 4 | digit(r);
    }
    bytes[9] = r.pick(&[0, 0x80]);
    bytes
}

/// What a vector register or a 16-byte operand may hold.
pub fn vector(r: &mut Random) -> [u8; 16] {
    let mut bytes = [0; 16];
    match r.below(8) {
        0..3 => {
            for lane in bytes.as_chunks_mut::<4>().0 {
                *lane = single(r).to_le_bytes();
            }
        }
        3..6 => {
            for lane in bytes.as_chunks_mut::<8>().0 {
                *lane = double(r).to_le_bytes();
            }
        }
        6 => {
            for lane in bytes.as_chunks_mut::<8>().0 {
                *lane = integer(r).to_le_bytes();
            }
        }
        _ => {
            for lane in bytes.as_chunks_mut::<2>().0 {
                *lane = (integer(r) as u16).to_le_bytes();
            }
        }
    }
    bytes
}

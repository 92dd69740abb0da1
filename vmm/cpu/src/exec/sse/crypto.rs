//! AES-NI (FIPS 197) and PCLMULQDQ.

use super::lanes::Lane;
use crate::exec::Exec;
use iced_x86::{Code, Instruction};

/// The semantics of an instruction of this family.
pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    let exec: Exec = match i.code() {
        Code::Aesenc_xmm_xmmm128 => {
            |cpu, i| cpu.binary(i, |a, key| mix_columns(substitute_shifted(a)) ^ key)
        }
        Code::Aesenclast_xmm_xmmm128 => {
            |cpu, i| cpu.binary(i, |a, key| substitute_shifted(a) ^ key)
        }
        Code::Aesdec_xmm_xmmm128 => {
            |cpu, i| cpu.binary(i, |a, key| unmix_columns(restore_shifted(a)) ^ key)
        }
        Code::Aesdeclast_xmm_xmmm128 => |cpu, i| cpu.binary(i, |a, key| restore_shifted(a) ^ key),
        Code::Aesimc_xmm_xmmm128 => |cpu, i| cpu.binary(i, |_, b| unmix_columns(b)),
        Code::Aeskeygenassist_xmm_xmmm128_imm8 => |cpu, i| cpu.ternary(i, |_, b, c| assist(b, c)),
        Code::Pclmulqdq_xmm_xmmm128_imm8 => |cpu, i| cpu.ternary(i, carryless_product),
        _ => return None,
    };
    Some(exec)
}

/// Product in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1.
const fn multiply(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    while b != 0 {
        if b & 1 != 0 {
            product ^= a;
        }
        a = double(a);
        b >>= 1;
    }
    product
}

const fn double(a: u8) -> u8 {
    a << 1 ^ if a & 0x80 != 0 { 0x1b } else { 0 }
}

/// FIPS 197, 5.1.1: the inverse in GF(2^8), then an affine map.
const SBOX: [u8; 256] = {
    let mut table = [0; 256];
    // `p` runs through the powers of 3, which are all nonzero elements, and `q` through the inverses.
    let (mut p, mut q) = (1u8, 1u8);
    loop {
        p ^= double(p);
        q = multiply(q, 0xf6);
        let affine =
            q ^ q.rotate_left(1) ^ q.rotate_left(2) ^ q.rotate_left(3) ^ q.rotate_left(4) ^ 0x63;
        table[p as usize] = affine;
        if p == 1 {
            break;
        }
    }
    table[0] = 0x63;
    table
};

const INVERSE_SBOX: [u8; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        table[SBOX[n] as usize] = n as u8;
        n += 1;
    }
    table
};

/// InvMixColumns of a column whose first byte is the index: the others are rotations of it.
const UNMIX: [u32; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        let byte = n as u8;
        table[n] = u32::from_le_bytes([
            multiply(byte, 0xe),
            multiply(byte, 0x9),
            multiply(byte, 0xd),
            multiply(byte, 0xb),
        ]);
        n += 1;
    }
    table
};

/// ShiftRows and SubBytes, which commute. Byte `row + 4 * column` is that of the state.
fn substitute_shifted(state: u128) -> u128 {
    let bytes = state.to_le_bytes();
    u128::from_le_bytes(std::array::from_fn(|n| SBOX[usize::from(bytes[(n + 4 * (n % 4)) % 16])]))
}

/// InvShiftRows and InvSubBytes.
fn restore_shifted(state: u128) -> u128 {
    let bytes = state.to_le_bytes();
    u128::from_le_bytes(std::array::from_fn(|n| {
        INVERSE_SBOX[usize::from(bytes[(n + 12 * (n % 4)) % 16])]
    }))
}

/// MixColumns: each byte becomes 2a + 3b + c + d of itself and those below it.
fn mix_columns(state: u128) -> u128 {
    u32::join(u32::split(state).map(|column| {
        // Doubles four bytes at once.
        let doubled = ((column & 0x7f7f_7f7f) << 1) ^ ((column >> 7 & 0x0101_0101) * 0x1b);
        let below = column.rotate_right(8);
        doubled
            ^ doubled.rotate_right(8)
            ^ below
            ^ column.rotate_right(16)
            ^ column.rotate_right(24)
    }))
}

/// InvMixColumns.
fn unmix_columns(state: u128) -> u128 {
    u32::join(u32::split(state).map(|column| {
        let bytes = column.to_le_bytes();
        let part = |n: usize| UNMIX[usize::from(bytes[n])].rotate_left(8 * n as u32);
        part(0) ^ part(1) ^ part(2) ^ part(3)
    }))
}

/// AESKEYGENASSIST: SubWord of dwords 1 and 3, each also rotated and with the round constant.
fn assist(b: u128, constant: u8) -> u128 {
    let words = u32::split(b)
        .map(|word| u32::from_le_bytes(word.to_le_bytes().map(|byte| SBOX[usize::from(byte)])));
    let rotated = |word: u32| word.rotate_right(8) ^ u32::from(constant);
    u32::join([words[1], rotated(words[1]), words[3], rotated(words[3])])
}

/// PCLMULQDQ: bits 0 and 4 of the selector choose the halves.
fn carryless_product(a: u128, b: u128, selector: u8) -> u128 {
    let a = u64::split(a)[usize::from(selector & 1)];
    let b = u64::split(b)[usize::from(selector >> 4 & 1)];
    // Four bits of `b` at a time, from the top.
    let mut multiples = [0u128; 16];
    for n in 1..16 {
        multiples[n] =
            if n % 2 == 0 { multiples[n / 2] << 1 } else { multiples[n - 1] ^ u128::from(a) };
    }
    (0..16)
        .rev()
        .fold(0, |product, nibble| product << 4 ^ multiples[(b >> (4 * nibble) & 15) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boxes_are_those_of_fips_197() {
        assert_eq!(SBOX[..8], [0x63, 0x7c, 0x77, 0x7b, 0xf2, 0x6b, 0x6f, 0xc5]);
        assert_eq!((SBOX[0x53], SBOX[0xff]), (0xed, 0x16));
        assert_eq!((INVERSE_SBOX[0], INVERSE_SBOX[0x63], INVERSE_SBOX[0xff]), (0x52, 0, 0x7d));
    }
}

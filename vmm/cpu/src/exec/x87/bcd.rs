//! Packed decimal: FBLD and FBSTP (SDM vol. 1, 8.2.2): 18 digits, two a byte, sign in bit 79.

use super::host;
use super::load_store::of_integer;
use crate::cpu::Cpu;
use crate::exec::Done;
use crate::fpu::status;
use iced_x86::Instruction;

/// What FBSTP stores for an invalid operand (SDM vol. 1, table 8-... packed BCD indefinite).
const INDEFINITE: u128 = 0xffff_c000_0000_0000_0000;

/// FBLD. Digits above 9, undefined by the manual, count with their value; bits 78:72 are ignored.
pub(super) fn load(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.x87_ready()?;
    let bits = cpu.read_ten_bytes(i)?;
    // 18 digits of at most 15 sum to less than 1.7e18.
    let digits = (0..18).rev().fold(0u64, |sum, n| sum * 10 + (bits >> (4 * n)) as u64 % 16);
    let mut value = of_integer(digits as i64);
    if bits >> 79 & 1 != 0 {
        value.sign_exponent |= 0x8000;
    }
    cpu.push_checked(i, value, 0);
    Ok(())
}

/// FBSTP.
pub(super) fn store(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.x87_ready()?;
    let (bits, raised) = if cpu.fpu.is_empty(0) {
        (INDEFINITE, status::IE | status::SF)
    } else {
        let (bits, word) = host::store_bcd(cpu.fpu.control, cpu.fpu.st(0));
        (bits, host::raised(word))
    };
    cpu.finish_store(i, raised, true, |cpu| cpu.write_ten_bytes(i, bits))
}

//! Multiplication and division (SDM vol. 1, 7.3.2.3 and 7.3.2.4).

use super::{Done, Exec};
use crate::cpu::{Cpu, gpr};
use crate::exception::{Abort, vector};
use crate::flags::{sign_extend, zero_extend};
use iced_x86::{Instruction, Mnemonic, Register};

/// The semantics of this family's instructions.
pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    Some(match i.mnemonic() {
        Mnemonic::Mul => mul,
        Mnemonic::Imul if i.op_count() == 1 => imul_wide,
        Mnemonic::Imul => imul,
        Mnemonic::Div => div,
        Mnemonic::Idiv => idiv,
        Mnemonic::Mulx => |cpu, i| cpu.if_vex(i, mulx),
        _ => return None,
    })
}

/// The low and high registers of a double-width value; AX is both halves of the 8-bit one.
fn pair(size: u32) -> (Register, Register) {
    match size {
        1 => (Register::AL, Register::AH),
        2 => (Register::AX, Register::DX),
        4 => (Register::EAX, Register::EDX),
        _ => (Register::RAX, Register::RDX),
    }
}

/// Writes a double-width product and its flags: CF and OF say that the upper half matters, SF and
/// PF follow the lower half, ZF and AF are 0 (see docs/cpu-model.md).
fn write_product(cpu: &mut Cpu, product: u128, significant: bool, size: u32) {
    let (low, high) = pair(size);
    cpu.set_reg(low, product as u64);
    cpu.set_reg(high, (product >> (size * 8)) as u64);
    cpu.arith.set_product(product as u64, significant, size);
}

fn mul(cpu: &mut Cpu, i: &Instruction) -> Done {
    let size = cpu.operand_size(i, 0);
    let factor = cpu.read_operand(i, 0)?;
    let product = u128::from(cpu.reg(pair(size).0)) * u128::from(factor);
    write_product(cpu, product, product >> (size * 8) != 0, size);
    Ok(())
}

fn signed_product(a: u64, b: u64, size: u32) -> (i128, bool) {
    let signed = |value| i128::from(sign_extend(value, size) as i64);
    let product = signed(a) * signed(b);
    (product, product != signed(product as u64))
}

fn imul_wide(cpu: &mut Cpu, i: &Instruction) -> Done {
    let size = cpu.operand_size(i, 0);
    let factor = cpu.read_operand(i, 0)?;
    let (product, significant) = signed_product(cpu.reg(pair(size).0), factor, size);
    write_product(cpu, product as u128, significant, size);
    Ok(())
}

/// Two and three operands: the truncated product.
fn imul(cpu: &mut Cpu, i: &Instruction) -> Done {
    let size = cpu.operand_size(i, 0);
    let (left, right) = if i.op_count() == 2 { (0, 1) } else { (1, 2) };
    let left = cpu.read_operand(i, left)?;
    let right = cpu.read_operand(i, right)?;
    let (product, significant) = signed_product(left, right, size);
    cpu.set_reg(i.op0_register(), product as u64);
    cpu.arith.set_product(product as u64, significant, size);
    Ok(())
}

fn mulx(cpu: &mut Cpu, i: &Instruction) -> Done {
    let size = cpu.operand_size(i, 0);
    let factor = cpu.read_operand(i, 2)?;
    let product = u128::from(zero_extend(cpu.gpr[gpr::RDX], size)) * u128::from(factor);
    // The low half first: if both destinations are one register, the high half stays.
    cpu.set_reg(i.op1_register(), product as u64);
    cpu.set_reg(i.op0_register(), (product >> (size * 8)) as u64);
    Ok(())
}

#[cold]
fn divide_error(cpu: &mut Cpu) -> Abort {
    cpu.exception(vector::DE, None)
}

/// The double-width dividend.
fn dividend(cpu: &Cpu, size: u32) -> u128 {
    let (low, high) = pair(size);
    u128::from(cpu.reg(high)) << (size * 8) | u128::from(cpu.reg(low))
}

/// DIV. The flags, undefined by the manual, stay as they were.
fn div(cpu: &mut Cpu, i: &Instruction) -> Done {
    let size = cpu.operand_size(i, 0);
    let divisor = u128::from(cpu.read_operand(i, 0)?);
    let dividend = dividend(cpu, size);
    let (Some(quotient), Some(remainder)) =
        (dividend.checked_div(divisor), dividend.checked_rem(divisor))
    else {
        return Err(divide_error(cpu));
    };
    if quotient >> (size * 8) != 0 {
        return Err(divide_error(cpu));
    }
    let (low, high) = pair(size);
    cpu.set_reg(low, quotient as u64);
    cpu.set_reg(high, remainder as u64);
    Ok(())
}

/// IDIV. The flags, undefined by the manual, stay as they were.
fn idiv(cpu: &mut Cpu, i: &Instruction) -> Done {
    let size = cpu.operand_size(i, 0);
    let divisor = i128::from(sign_extend(cpu.read_operand(i, 0)?, size) as i64);
    let unused = 128 - size * 16;
    let dividend = (dividend(cpu, size) << unused) as i128 >> unused;
    let (Some(quotient), Some(remainder)) =
        (dividend.checked_div(divisor), dividend.checked_rem(divisor))
    else {
        return Err(divide_error(cpu));
    };
    if quotient != i128::from(sign_extend(quotient as u64, size) as i64) {
        return Err(divide_error(cpu));
    }
    let (low, high) = pair(size);
    cpu.set_reg(low, quotient as u64);
    cpu.set_reg(high, remainder as u64);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::table::{exception, prepare, run64, run64_all, step};
    use crate::testing::Bench;

    const CF: u64 = 1;
    const PF: u64 = 4;
    const SF: u64 = 0x80;
    const OF: u64 = 0x800;

    #[test]
    fn products_and_their_flags() {
        // mul bl: 0x83 * 0x10
        let ([rax, ..], flags) = run64(&[0xf6, 0xe3], [0x83, 0, 0, 0x10], 0x8d5);
        assert_eq!((rax, flags), (0x830, CF | OF | PF));
        // mul rbx
        let ([rax, _, rdx, _], flags) = run64(&[0x48, 0xf7, 0xe3], [u64::MAX, 0, 7, u64::MAX], 0);
        assert_eq!((rax, rdx, flags), (1, u64::MAX - 1, CF | OF));
        // imul ebx: -1 * 2, the halves zero-extended
        let ([rax, _, rdx, _], flags) = run64(&[0xf7, 0xeb], [0xffff_ffff, 0, 9 << 32, 2], 0);
        assert_eq!((rax, rdx, flags), (0xffff_fffe, 0xffff_ffff, SF));
        // imul ax, bx, -128 keeps RAX above AX
        let ([rax, ..], flags) = run64(&[0x66, 0x6b, 0xc3, 0x80], [0xabcd_0000, 0, 0, 0x101], 0);
        assert_eq!((rax, flags), (0xabcd_7f80, CF | OF));
        // A zero product leaves ZF clear.
        let ([rax, ..], flags) = run64(&[0x0f, 0xaf, 0xc3], [0, 0, 0, 5], 0x40);
        assert_eq!((rax, flags), (0, PF));
    }

    #[test]
    fn quotients_remainders_and_overflow() {
        // div cl; idiv cl
        let ([rax, ..], flags) = run64(&[0xf6, 0xf1], [0x1_0203, 3, 0, 0], 0x8d5);
        assert_eq!((rax, flags), (0x1_02ab, 0x8d5), "0x203 / 3 = 0xab rest 2");
        let ([rax, ..], _) = run64(&[0xf6, 0xf9], [0xfff9, 2, 0, 0], 0);
        assert_eq!(rax, 0xfffd, "-7 / 2 = -3 rest -1");
        // div rcx over 128 bits
        let ([rax, _, rdx, _], _) = run64(&[0x48, 0xf7, 0xf1], [5, 16, 15, 0], 0);
        assert_eq!((rax, rdx), (0xf000_0000_0000_0000, 5));
        for (code, gpr) in [
            (&[0xf6, 0xf1][..], [0, 0, 0, 0]),
            (&[0xf6, 0xf1], [0x300, 3, 0, 0]),
            // idiv cl: -32768 / 1, and 128 / 1
            (&[0xf6, 0xf9], [0x8000, 1, 0, 0]),
            (&[0xf6, 0xf9], [0x80, 1, 0, 0]),
            (&[0x48, 0xf7, 0xf9], [0, u64::MAX, 1 << 63, 0]),
            (&[0x48, 0xf7, 0xf9], [0, 0, 0, 0]),
        ] {
            let mut bench = Bench::long();
            prepare(&mut bench, |state| state.gpr[..4].copy_from_slice(&gpr));
            let before = bench.cpu.state();
            assert_eq!(step(&mut bench, code), exception(0, None), "{code:x?} {gpr:x?}");
            assert_eq!(bench.cpu.state(), before);
        }
        // The most negative quotient fits: -32768 / 256 = -128.
        let ([rax, ..], _) = run64(&[0x66, 0xf7, 0xf9], [0x8000, 0x100, 0xffff, 0], 0);
        assert_eq!(rax, 0xff80);
    }

    #[test]
    fn mulx_writes_the_high_half_last_and_no_flag() {
        // mulx eax, ecx, ebx; mulx eax, eax, ebx
        let start = [0, 0, 0xffff_ffff, 0xffff_ffff];
        let (out, flags) = run64_all(&[0xc4, 0xe2, 0x73, 0xf6, 0xc3], start, 0x8d5);
        assert_eq!((out[0], out[1], flags), (0xffff_fffe, 1, 0x8d5));
        let (out, _) = run64_all(&[0xc4, 0xe2, 0x7b, 0xf6, 0xc3], start, 0);
        assert_eq!(out[0], 0xffff_fffe);
    }
}

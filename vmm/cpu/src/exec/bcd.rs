//! Decimal arithmetic (SDM vol. 1, 7.3.3). The decoder knows these only outside 64-bit mode.

use super::{Done, Exec};
use crate::cpu::Cpu;
use crate::exception::vector;
use crate::flags::rflags;
use iced_x86::{Instruction, Mnemonic, Register};

/// The semantics of this family's instructions.
pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    Some(match i.mnemonic() {
        Mnemonic::Aaa => |cpu, _| ascii_adjust(cpu, |ax| ax.wrapping_add(0x106)),
        Mnemonic::Aas => |cpu, _| ascii_adjust(cpu, |ax| ax.wrapping_sub(0x106)),
        Mnemonic::Aad => aad,
        Mnemonic::Aam => aam,
        Mnemonic::Daa => |cpu, _| decimal_adjust(cpu, u64::wrapping_add),
        Mnemonic::Das => |cpu, _| decimal_adjust(cpu, u64::wrapping_sub),
        _ => return None,
    })
}

/// Sets SF, ZF and PF from AL, CF and AF as given, and clears OF.
fn set_flags(cpu: &mut Cpu, carry: bool, auxiliary: bool) {
    cpu.arith.set_result_cf_of(cpu.reg(Register::AL), carry, false, 1);
    if auxiliary {
        let bits = cpu.arith.bits() | rflags::AF;
        cpu.arith.set_bits(bits);
    }
}

/// AAA and AAS.
fn ascii_adjust(cpu: &mut Cpu, adjust: impl FnOnce(u64) -> u64) -> Done {
    let ax = cpu.reg(Register::AX);
    let carry = ax & 0xf > 9 || cpu.arith.af();
    let ax = if carry { adjust(ax) } else { ax };
    cpu.set_reg(Register::AX, ax & 0xff0f);
    set_flags(cpu, carry, carry);
    Ok(())
}

/// DAA and DAS.
fn decimal_adjust(cpu: &mut Cpu, adjust: impl Fn(u64, u64) -> u64) -> Done {
    let old = cpu.reg(Register::AL);
    let low = old & 0xf > 9 || cpu.arith.af();
    let high = old > 0x99 || cpu.arith.cf();
    let mut al = old;
    // Only DAS borrows out of the first step without the second one being due.
    let mut carry = high;
    if low {
        al = adjust(al, 6);
        carry |= al > 0xff;
    }
    if high {
        al = adjust(al, 0x60);
    }
    cpu.set_reg(Register::AL, al);
    set_flags(cpu, carry, low);
    Ok(())
}

fn aad(cpu: &mut Cpu, i: &Instruction) -> Done {
    let base = i.immediate(0);
    let tens = cpu.reg(Register::AH).wrapping_mul(base);
    let al = cpu.reg(Register::AL).wrapping_add(tens) & 0xff;
    cpu.set_reg(Register::AX, al);
    set_flags(cpu, false, false);
    Ok(())
}

fn aam(cpu: &mut Cpu, i: &Instruction) -> Done {
    let base = i.immediate(0);
    let al = cpu.reg(Register::AL);
    let (Some(tens), Some(ones)) = (al.checked_div(base), al.checked_rem(base)) else {
        return Err(cpu.exception(vector::DE, None));
    };
    cpu.set_reg(Register::AX, tens << 8 | ones);
    set_flags(cpu, false, false);
    Ok(())
}

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
        Mnemonic::Salc => |cpu, _| {
            let carry = cpu.arith.cf();
            cpu.set_reg(Register::AL, if carry { 0xff } else { 0 });
            Ok(())
        },
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

#[cfg(test)]
mod tests {
    use super::super::table::{exception, prepare, step};
    use crate::testing::Bench;

    const CF: u64 = 1;
    const PF: u64 = 4;
    const AF: u64 = 0x10;
    const ZF: u64 = 0x40;
    const SF: u64 = 0x80;

    #[test]
    fn decimal_adjustments() {
        for (code, ax, flags, result, after) in [
            // daa: 79 + 35 = 114 (the manual's example), das: 35 - 47 = 88 with a borrow
            (&[0x27][..], 0xae, PF, 0x14, CF | AF | PF),
            (&[0x2f], 0xee, CF | AF, 0x88, CF | AF | SF | PF),
            // das borrows out of the first step alone
            (&[0x2f], 0x02, AF, 0xfc, CF | AF | SF | PF),
            (&[0x27], 0x00, 0, 0x00, ZF | PF),
            // aaa, aas
            (&[0x37], 0x010b, 0, 0x0201, CF | AF),
            (&[0x37], 0x01f5, 0, 0x0105, PF),
            (&[0x37], 0x00fa, 0, 0x0200, CF | AF | ZF | PF),
            (&[0x3f], 0x02ff, 0, 0x0109, CF | AF | PF),
            // aad, aam
            (&[0xd5, 10], 0x0703, CF | AF, 73, 0),
            (&[0xd5, 0xff], 0x0203, 0, 1, 0),
            (&[0xd4, 10], 0x5549, CF, 0x0703, PF),
        ] {
            let mut bench = Bench::protected();
            prepare(&mut bench, |state| {
                state.gpr[0] = ax;
                state.rflags = flags | 2;
            });
            step(&mut bench, code).unwrap();
            let state = bench.cpu.state();
            assert_eq!((state.gpr[0], state.rflags & !2), (result, after), "{code:x?} {ax:x}");
        }
        assert_eq!(step(&mut Bench::protected(), &[0xd4, 0]), exception(0, None));
    }
}

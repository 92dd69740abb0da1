//! Near control transfers (SDM vol. 1, 7.3.8) and BOUND.

use super::transfer::condition;
use super::{Done, Exec};
use crate::cpu::Cpu;
use crate::exception::{Abort, vector};
use crate::flags::sign_extend;
use crate::mmu::is_canonical;
use iced_x86::{Code, FlowControl, Instruction, Mnemonic, OpKind, Register};

/// The semantics of this family's instructions.
pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    let flow = i.flow_control();
    Some(match i.mnemonic() {
        Mnemonic::Jmp if flow == FlowControl::UnconditionalBranch && i.is_jmp_short_or_near() => {
            |cpu, i| {
                let target = cpu.near_target(i);
                cpu.jump(target)
            }
        }
        Mnemonic::Jmp if i.is_jmp_near_indirect() => jmp_indirect,
        Mnemonic::Call if i.is_call_near() => call,
        Mnemonic::Call if i.is_call_near_indirect() => call_indirect,
        Mnemonic::Ret => ret,
        Mnemonic::Loop => |cpu, i| count_loop(cpu, i, |_| true),
        Mnemonic::Loope => |cpu, i| count_loop(cpu, i, |zf| zf),
        Mnemonic::Loopne => |cpu, i| count_loop(cpu, i, |zf| !zf),
        Mnemonic::Jcxz => |cpu, i| jump_if_zero(cpu, i, Register::CX),
        Mnemonic::Jecxz => |cpu, i| jump_if_zero(cpu, i, Register::ECX),
        Mnemonic::Jrcxz => |cpu, i| jump_if_zero(cpu, i, Register::RCX),
        Mnemonic::Bound => bound,
        _ if i.is_jcc_short_or_near() => |cpu, i| {
            if condition(cpu, i) {
                let target = cpu.near_target(i);
                cpu.jump(target)?;
            }
            Ok(())
        },
        _ => return None,
    })
}

impl Cpu {
    /// Checks a near branch target: canonical in 64-bit mode, within CS elsewhere; else #GP(0).
    pub(crate) fn check_near_target(&mut self, target: u64) -> Result<(), Abort> {
        let valid = if self.is_64bit() {
            is_canonical(target)
        } else {
            target <= u64::from(self.cs().limit)
        };
        if valid { Ok(()) } else { Err(self.general_protection(0)) }
    }

    /// Continues at `target`, an offset in CS already cut to the operand size.
    pub(crate) fn jump(&mut self, target: u64) -> Done {
        self.check_near_target(target)?;
        self.next_rip = target;
        Ok(())
    }

    /// Pushes the return address, `size` bytes wide, and continues at `target`.
    fn call_to(&mut self, target: u64, size: u32) -> Done {
        self.check_near_target(target)?;
        self.push(self.next_rip, size)?;
        self.next_rip = target;
        Ok(())
    }
}

fn jmp_indirect(cpu: &mut Cpu, i: &Instruction) -> Done {
    let target = cpu.read_operand(i, 0)?;
    cpu.jump(target)
}

fn call(cpu: &mut Cpu, i: &Instruction) -> Done {
    let size = match i.op0_kind() {
        OpKind::NearBranch16 => 2,
        OpKind::NearBranch32 => 4,
        _ => 8,
    };
    let target = cpu.near_target(i);
    cpu.call_to(target, size)
}

fn call_indirect(cpu: &mut Cpu, i: &Instruction) -> Done {
    let size = cpu.operand_size(i, 0);
    let target = cpu.read_operand(i, 0)?;
    cpu.call_to(target, size)
}

fn ret(cpu: &mut Cpu, i: &Instruction) -> Done {
    let size = match i.code() {
        Code::Retnw | Code::Retnw_imm16 => 2,
        Code::Retnd | Code::Retnd_imm16 => 4,
        _ => 8,
    };
    let release = if i.op_count() == 1 { i64::from(i.immediate16()) } else { 0 };
    let target = cpu.read_sized(crate::segment::SegReg::Ss, cpu.stack_offset(0), size)?;
    cpu.jump(target)?;
    cpu.set_stack_offset(cpu.stack_offset(i64::from(size) + release));
    Ok(())
}

/// The counter that the address size selects: CX, ECX or RCX.
fn loop_counter(i: &Instruction) -> Register {
    use Code::*;
    match i.code() {
        Loop_rel8_16_CX | Loop_rel8_32_CX | Loope_rel8_16_CX | Loope_rel8_32_CX
        | Loopne_rel8_16_CX | Loopne_rel8_32_CX => Register::CX,
        Loop_rel8_16_RCX | Loop_rel8_64_RCX | Loope_rel8_16_RCX | Loope_rel8_64_RCX
        | Loopne_rel8_16_RCX | Loopne_rel8_64_RCX => Register::RCX,
        _ => Register::ECX,
    }
}

/// LOOP, LOOPE, LOOPNE: decrements the counter, and branches if it is not zero and ZF agrees.
fn count_loop(cpu: &mut Cpu, i: &Instruction, zf_agrees: impl FnOnce(bool) -> bool) -> Done {
    let counter = loop_counter(i);
    let count = sign_extend(cpu.reg(counter).wrapping_sub(1), counter.size() as u32);
    if count != 0 && zf_agrees(cpu.arith.zf()) {
        let target = cpu.near_target(i);
        cpu.jump(target)?;
    }
    cpu.set_reg(counter, count);
    Ok(())
}

fn jump_if_zero(cpu: &mut Cpu, i: &Instruction, counter: Register) -> Done {
    if cpu.reg(counter) == 0 {
        let target = cpu.near_target(i);
        cpu.jump(target)?;
    }
    Ok(())
}

/// BOUND: #BR unless op0 lies between the two signed words or doublewords at op1.
fn bound(cpu: &mut Cpu, i: &Instruction) -> Done {
    let size = cpu.operand_size(i, 0);
    let (segment, offset) = cpu.operand_offset(i);
    let signed = |value| sign_extend(value, size) as i64;
    let lower = signed(cpu.read_sized(segment, offset, size)?);
    let after = offset.wrapping_add(size.into());
    let after = crate::flags::zero_extend(after, cpu.address_size(i));
    let upper = signed(cpu.read_sized(segment, after, size)?);
    let index = signed(cpu.reg(i.op0_register()));
    if index < lower || index > upper {
        return Err(cpu.exception(vector::BR, None));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::table::{exception, prepare, step};
    use crate::testing::{Bench, CODE, DATA, STACK};

    fn rip_after(bench: &mut Bench, code: &[u8]) -> u64 {
        step(bench, code).unwrap();
        bench.cpu.state().rip
    }

    #[test]
    fn calls_and_returns() {
        let mut bench = Bench::long();
        // call +0x100; ret 8
        assert_eq!(rip_after(&mut bench, &[0xe8, 0, 1, 0, 0]), CODE + 0x105);
        assert_eq!(bench.cpu.state().gpr[4], STACK - 8);
        assert_eq!(rip_after(&mut bench, &[0xc2, 8, 0]), CODE + 5);
        assert_eq!(bench.cpu.state().gpr[4], STACK + 8);
        // call [rax]; jmp rcx. The 66 prefix does not shorten branches in 64-bit mode.
        bench.poke(DATA, &(CODE + 0x200).to_le_bytes());
        prepare(&mut bench, |state| {
            state.gpr[0] = DATA;
            state.gpr[1] = CODE + 0x300;
        });
        assert_eq!(rip_after(&mut bench, &[0xff, 0x10]), CODE + 0x200);
        assert_eq!(rip_after(&mut bench, &[0x66, 0xff, 0xe1]), CODE + 0x300);
        assert_eq!(rip_after(&mut bench, &[0xeb, 0xfe]), CODE + 0x300);
        // In a 32-bit segment a 16-bit branch cuts EIP to 16 bits.
        let mut bench = Bench::protected();
        assert_eq!(rip_after(&mut bench, &[0x66, 0xe9, 0x10, 0]), 0x14);
    }

    #[test]
    fn targets_that_do_not_exist() {
        let mut bench = Bench::long();
        prepare(&mut bench, |state| state.gpr[0] = 0x8000_0000_0000);
        let before = bench.cpu.state();
        // jmp rax; call rax
        assert_eq!(step(&mut bench, &[0xff, 0xe0]), exception(13, Some(0)));
        assert_eq!(step(&mut bench, &[0xff, 0xd0]), exception(13, Some(0)));
        assert_eq!(bench.cpu.state(), before);
        // ret to it leaves RSP
        bench.poke(STACK, &0x8000_0000_0000u64.to_le_bytes());
        assert_eq!(step(&mut bench, &[0xc3]), exception(13, Some(0)));
        assert_eq!(bench.cpu.state(), before);
        // Beyond the limit of CS; a branch that is not taken does not look.
        let mut bench = Bench::protected();
        prepare(&mut bench, |state| {
            state.seg[1].limit = 0x1_ffff;
            state.gpr[1] = 2;
        });
        assert_eq!(step(&mut bench, &[0xe9, 0, 0, 1, 0]), exception(13, Some(0)));
        assert_eq!(step(&mut bench, &[0x0f, 0x83, 0, 0, 1, 0]), exception(13, Some(0)));
        step(&mut bench, &[0x0f, 0x82, 0, 0, 1, 0]).unwrap();
    }

    #[test]
    fn loops_count_in_the_address_size() {
        let mut bench = Bench::long();
        let counted = |bench: &mut Bench, code: &[u8], rcx, rflags| {
            prepare(bench, |state| {
                state.rip = CODE;
                state.gpr[1] = rcx;
                state.rflags = rflags;
            });
            step(bench, code).unwrap();
            let state = bench.cpu.state();
            (state.gpr[1], state.rip != CODE + code.len() as u64)
        };
        assert_eq!(counted(&mut bench, &[0xe2, 5], 1, 2), (0, false));
        assert_eq!(counted(&mut bench, &[0xe2, 5], 0, 2), (u64::MAX, true));
        assert_eq!(counted(&mut bench, &[0x67, 0xe2, 5], 5 << 32, 2), (0xffff_ffff, true));
        assert_eq!(counted(&mut bench, &[0xe1, 5], 2, 2), (1, false));
        assert_eq!(counted(&mut bench, &[0xe1, 5], 2, 0x42), (1, true));
        assert_eq!(counted(&mut bench, &[0xe0, 5], 2, 0x42), (1, false));
        // jrcxz, jecxz
        assert_eq!(counted(&mut bench, &[0xe3, 5], 1 << 32, 2), (1 << 32, false));
        assert_eq!(counted(&mut bench, &[0x67, 0xe3, 5], 1 << 32, 2), (1 << 32, true));
    }

    #[test]
    fn bounds() {
        let mut bench = Bench::protected();
        bench.poke(DATA, &[(-2i32).to_le_bytes(), 5i32.to_le_bytes()].concat());
        for (index, within) in [(-3i32, false), (-2, true), (5, true), (6, false)] {
            prepare(&mut bench, |state| {
                state.gpr[0] = u64::from(index as u32);
                state.gpr[3] = DATA;
            });
            let expected = if within { Ok(()) } else { exception(5, None) };
            assert_eq!(step(&mut bench, &[0x62, 0x03]), expected, "{index}");
        }
    }
}

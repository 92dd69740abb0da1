//! The stack: PUSH and POP in all forms, PUSHA and POPA, ENTER and LEAVE (SDM vol. 1, 6.2 and 6.6),
//! and the pushes and pops that other families are made of.

use super::{Done, Exec};
use crate::cpu::{Cpu, gpr};
use crate::exception::Abort;
use crate::flags::zero_extend;
use crate::segment::SegReg;
use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

/// The semantics of this family's instructions.
pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    Some(match i.mnemonic() {
        Mnemonic::Push if i.op0_register().is_segment_register() => push_segment,
        Mnemonic::Push => push,
        Mnemonic::Pop if i.op0_register().is_segment_register() => return None,
        Mnemonic::Pop => pop,
        Mnemonic::Pusha | Mnemonic::Pushad => pusha,
        Mnemonic::Popa | Mnemonic::Popad => popa,
        Mnemonic::Enter => enter,
        Mnemonic::Leave => leave,
        _ => return None,
    })
}

impl Cpu {
    /// The stack pointer's offset in SS after adding `delta` bytes, in the stack's width.
    pub(crate) fn stack_offset(&self, delta: i64) -> u64 {
        let sum = self.gpr[gpr::RSP].wrapping_add(delta as u64);
        zero_extend(sum, self.stack_size())
    }

    /// Sets SP, ESP or RSP, whichever the stack's width says; SP keeps the bits above it.
    pub(crate) fn set_stack_offset(&mut self, offset: u64) {
        let register = match self.stack_size() {
            2 => Register::SP,
            4 => Register::ESP,
            _ => Register::RSP,
        };
        self.set_reg(register, offset);
    }

    /// Pushes `size` bytes (2, 4 or 8). On a fault nothing has changed.
    pub(crate) fn push(&mut self, value: u64, size: u32) -> Done {
        let offset = self.stack_offset(-i64::from(size));
        self.write_sized(SegReg::Ss, offset, value, size)?;
        self.set_stack_offset(offset);
        Ok(())
    }

    /// Pops `size` bytes (2, 4 or 8), zero-extended. On a fault nothing has changed.
    pub(crate) fn pop(&mut self, size: u32) -> Result<u64, Abort> {
        let value = self.read_sized(SegReg::Ss, self.stack_offset(0), size)?;
        self.set_stack_offset(self.stack_offset(size.into()));
        Ok(value)
    }
}

/// Bytes that one push or pop of this instruction moves.
fn slot_size(i: &Instruction) -> u32 {
    i.stack_pointer_increment().unsigned_abs()
}

fn push(cpu: &mut Cpu, i: &Instruction) -> Done {
    let value = cpu.read_operand(i, 0)?;
    cpu.push(value, slot_size(i))
}

/// PUSH of a segment register: a 32-bit slot gets only its lower half written, as on all recent
/// Intel processors (SDM vol. 2B, PUSH); a 64-bit one is zero-extended, and QEMU's processor does that with either.
fn push_segment(cpu: &mut Cpu, i: &Instruction) -> Done {
    let selector = cpu.seg[super::operand::segment_of(i.op0_register()) as usize].selector.into();
    let size = slot_size(i);
    let half = size == 4 && !cpu.model.is_qemus();
    let offset = cpu.stack_offset(-i64::from(size));
    cpu.write_sized(SegReg::Ss, offset, selector, if half { 2 } else { size })?;
    cpu.set_stack_offset(offset);
    Ok(())
}

fn pop(cpu: &mut Cpu, i: &Instruction) -> Done {
    let size = slot_size(i);
    let before = cpu.gpr[gpr::RSP];
    let value = cpu.pop(size)?;
    if i.op0_kind() == OpKind::Register {
        cpu.set_reg(i.op0_register(), value);
        return Ok(());
    }
    // A destination addressed by the stack pointer is addressed by the incremented one.
    cpu.write_operand(i, 0, value).inspect_err(|_| cpu.gpr[gpr::RSP] = before)
}

/// PUSHA: AX, CX, DX, BX, the original SP, BP, SI, DI.
fn pusha(cpu: &mut Cpu, i: &Instruction) -> Done {
    let size = slot_size(i) / 8;
    let lowest = cpu.stack_offset(-i64::from(size) * 8);
    for index in 0..8 {
        let offset = cpu.stack_offset(-i64::from(size) * (index as i64 + 1));
        cpu.write_sized(SegReg::Ss, offset, cpu.gpr[index], size)?;
    }
    cpu.set_stack_offset(lowest);
    Ok(())
}

fn popa(cpu: &mut Cpu, i: &Instruction) -> Done {
    let size = slot_size(i) / 8;
    let mut values = [0; 8];
    for (index, value) in values.iter_mut().rev().enumerate() {
        let offset = cpu.stack_offset(i64::from(size) * index as i64);
        *value = cpu.read_sized(SegReg::Ss, offset, size)?;
    }
    let registers = if size == 2 {
        [
            Register::AX,
            Register::CX,
            Register::DX,
            Register::BX,
            Register::SP,
            Register::BP,
            Register::SI,
            Register::DI,
        ]
    } else {
        [
            Register::EAX,
            Register::ECX,
            Register::EDX,
            Register::EBX,
            Register::ESP,
            Register::EBP,
            Register::ESI,
            Register::EDI,
        ]
    };
    let highest = cpu.stack_offset(i64::from(size) * 8);
    for (index, (register, value)) in registers.into_iter().zip(values).enumerate() {
        // The stored stack pointer is thrown away.
        if index != gpr::RSP {
            cpu.set_reg(register, value);
        }
    }
    cpu.set_stack_offset(highest);
    Ok(())
}

/// The frame pointer in the width of the operand.
fn frame_register(size: u32) -> Register {
    match size {
        2 => Register::BP,
        4 => Register::EBP,
        _ => Register::RBP,
    }
}

/// ENTER. The pushes go through a local stack pointer, so that a fault in one of them, or the check
/// that the final stack pointer can be written at, leaves all registers as they were.
fn enter(cpu: &mut Cpu, i: &Instruction) -> Done {
    let size = match i.code() {
        Code::Enterw_imm16_imm8 => 2,
        Code::Enterd_imm16_imm8 => 4,
        _ => 8,
    };
    let locals = i64::from(i.immediate16());
    let level = i.immediate8_2nd() & 31;
    let step = i64::from(size);
    let width = cpu.stack_size();
    let frame = cpu.gpr[gpr::RBP];
    let mut delta = -step;
    cpu.write_sized(SegReg::Ss, cpu.stack_offset(delta), frame, size)?;
    let new_frame = cpu.stack_offset(delta);
    for n in 1..i64::from(level) {
        let outer = zero_extend(frame.wrapping_sub((n * step) as u64), width);
        let link = cpu.read_sized(SegReg::Ss, outer, size)?;
        delta -= step;
        cpu.write_sized(SegReg::Ss, cpu.stack_offset(delta), link, size)?;
    }
    if level > 0 {
        delta -= step;
        cpu.write_sized(SegReg::Ss, cpu.stack_offset(delta), new_frame, size)?;
    }
    let top = cpu.stack_offset(delta - locals);
    cpu.probe_write(SegReg::Ss, top, size)?;
    cpu.set_reg(frame_register(size), new_frame);
    cpu.set_stack_offset(top);
    Ok(())
}

fn leave(cpu: &mut Cpu, i: &Instruction) -> Done {
    let size = match i.code() {
        Code::Leavew => 2,
        Code::Leaved => 4,
        _ => 8,
    };
    let frame = zero_extend(cpu.gpr[gpr::RBP], cpu.stack_size());
    let value = cpu.read_sized(SegReg::Ss, frame, size)?;
    cpu.set_stack_offset(frame);
    cpu.set_stack_offset(cpu.stack_offset(size.into()));
    cpu.set_reg(frame_register(size), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::table::{exception, prepare, step};
    use crate::testing::{Bench, DATA, STACK};

    /// What lies on top of the stack of a bench at base 0.
    fn top(bench: &Bench) -> (u64, u64) {
        let rsp = bench.cpu.state().gpr[4];
        (rsp, u64::from_le_bytes(bench.peek(rsp)))
    }

    #[test]
    fn pushes_of_all_widths() {
        let mut bench = Bench::long();
        prepare(&mut bench, |state| state.gpr[0] = 0x1122_3344_5566_7788);
        // push rax; push ax; push -2; push qword 0x80000000; push rsp; push fs
        step(&mut bench, &[0x50]).unwrap();
        assert_eq!(top(&bench), (STACK - 8, 0x1122_3344_5566_7788));
        step(&mut bench, &[0x66, 0x50]).unwrap();
        assert_eq!(top(&bench).0, STACK - 10);
        assert_eq!(top(&bench).1 & 0xffff, 0x7788);
        step(&mut bench, &[0x6a, 0xfe]).unwrap();
        assert_eq!(top(&bench), (STACK - 18, -2i64 as u64));
        step(&mut bench, &[0x68, 0, 0, 0, 0x80]).unwrap();
        assert_eq!(top(&bench), (STACK - 26, 0xffff_ffff_8000_0000));
        step(&mut bench, &[0x54]).unwrap();
        assert_eq!(top(&bench), (STACK - 34, STACK - 26));
        step(&mut bench, &[0x0f, 0xa0]).unwrap();
        assert_eq!(top(&bench), (STACK - 42, 0x10));
        // pop rsp: the popped value stays
        step(&mut bench, &[0x5c]).unwrap();
        assert_eq!(bench.cpu.state().gpr[4], 0x10);
    }

    #[test]
    fn a_pushed_segment_register_leaves_the_upper_half_of_its_slot() {
        let mut bench = Bench::protected();
        bench.poke(STACK - 4, &[0xee; 4]);
        step(&mut bench, &[0x1e]).unwrap();
        assert_eq!(bench.peek::<4>(STACK - 4), [0x10, 0, 0xee, 0xee]);
    }

    #[test]
    fn a_popped_address_counts_from_the_new_stack_pointer() {
        let mut bench = Bench::long();
        bench.poke(STACK, &[1, 2, 3, 4, 5, 6, 7, 8]);
        // pop qword [rsp]
        step(&mut bench, &[0x8f, 0x04, 0x24]).unwrap();
        assert_eq!(top(&bench), (STACK + 8, 0x0807_0605_0403_0201));
        // A destination that faults leaves the stack pointer alone.
        prepare(&mut bench, |state| state.gpr[0] = 0x4000_0000);
        assert_eq!(step(&mut bench, &[0x8f, 0x00]), exception(14, Some(2)));
        assert_eq!(bench.cpu.state().gpr[4], STACK + 8);
    }

    #[test]
    fn all_registers_at_once() {
        for code in [[0x60, 0x61], [0x66, 0x60]] {
            let mut bench = Bench::protected();
            prepare(&mut bench, |state| {
                for (n, register) in state.gpr[..8].iter_mut().enumerate() {
                    *register = if n == 4 { STACK } else { 0x1_0001 * n as u64 };
                }
            });
            let before = bench.cpu.state().gpr;
            step(&mut bench, &code).unwrap();
            let size = if code[0] == 0x66 { 2 } else { 4 };
            let low = bench.cpu.state().gpr[4];
            assert_eq!(low, STACK - 8 * size);
            assert_eq!(bench.peek::<2>(low), 7u16.to_le_bytes());
            assert_eq!(bench.peek::<2>(low + 3 * size), (STACK as u16).to_le_bytes());
            prepare(&mut bench, |state| {
                for n in [0, 1, 2, 3, 5, 6, 7] {
                    state.gpr[n] = 0x1_0000 * n as u64;
                }
            });
            step(&mut bench, &if size == 2 { [0x66, 0x61] } else { [0x61, 0x90] }).unwrap();
            assert_eq!(bench.cpu.state().gpr, before);
        }
    }

    #[test]
    fn the_real_mode_stack_wraps() {
        let mut bench = Bench::real();
        prepare(&mut bench, |state| {
            state.gpr[4] = 0xabcd_0000;
            state.gpr[0] = 0x1234;
        });
        step(&mut bench, &[0x50]).unwrap();
        assert_eq!(bench.cpu.state().gpr[4], 0xabcd_fffe);
        assert_eq!(bench.peek::<2>(0xfffe), [0x34, 0x12]);
        step(&mut bench, &[0x5b]).unwrap();
        assert_eq!((bench.cpu.state().gpr[4], bench.cpu.state().gpr[3]), (0xabcd_0000, 0x1234));
        // A word that straddles the limit: #SS(0).
        prepare(&mut bench, |state| state.gpr[4] = 1);
        assert_eq!(step(&mut bench, &[0x50]), exception(12, Some(0)));
    }

    #[test]
    fn frames() {
        let mut bench = Bench::long();
        // The caller's frame: its own link at RBP - 8.
        prepare(&mut bench, |state| state.gpr[5] = DATA);
        bench.poke(DATA - 8, &0x77u64.to_le_bytes());
        // enter 32, 2 pushes RBP, the outer link and the new frame, then leaves 32 bytes.
        step(&mut bench, &[0xc8, 32, 0, 2]).unwrap();
        let state = bench.cpu.state();
        assert_eq!((state.gpr[5], state.gpr[4]), (STACK - 8, STACK - 24 - 32));
        assert_eq!(bench.peek::<8>(STACK - 8), DATA.to_le_bytes());
        assert_eq!(bench.peek::<8>(STACK - 16), 0x77u64.to_le_bytes());
        assert_eq!(bench.peek::<8>(STACK - 24), (STACK - 8).to_le_bytes());
        step(&mut bench, &[0xc9]).unwrap();
        let state = bench.cpu.state();
        assert_eq!((state.gpr[5], state.gpr[4]), (DATA, STACK));
        // The final stack pointer must be writable, though nothing is written there.
        prepare(&mut bench, |state| state.gpr[4] = 0x8000);
        let before = bench.cpu.state();
        assert_eq!(step(&mut bench, &[0xc8, 0, 0xf0, 0]), exception(14, Some(2)));
        assert_eq!(bench.cpu.state().gpr, before.gpr);
    }
}

//! Register values between [`CpuState`] and gdb's bytes, little-endian.

use super::{Layout, Register, What, registers};
use dejavm_cpu::{CpuState, F80, Fpu, gpr};

/// Why a register was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwritable {
    /// There is none of that number, or the bytes are not as many as it has.
    NoSuch,
    /// Selectors name descriptors: loading one would have to read the guest's tables and could fault.
    Selector,
    /// It is the interrupt controller's.
    TaskPriority,
}

/// Appends the register's bytes; `task_priority` is CR8. `false` if there is none of that number.
pub fn read(
    layout: Layout,
    state: &CpuState,
    task_priority: u8,
    number: usize,
    out: &mut Vec<u8>,
) -> bool {
    let all = registers(layout);
    let Some(register) = all.get(number) else { return false };
    let bytes = usize::from(register.bits / 8);
    let value = value(register, state, task_priority).to_le_bytes();
    out.extend(value.iter().take(bytes));
    true
}

fn value(register: &Register, state: &CpuState, task_priority: u8) -> u128 {
    let segment = |number: u8| state.seg[usize::from(number)];
    let wide = match register.what {
        What::General(number) => state.gpr[usize::from(number)],
        What::InstructionPointer => state.rip,
        What::Flags => state.rflags,
        What::Selector(number) => u64::from(segment(number).selector),
        What::Base(number) => segment(number).base,
        What::KernelGsBase => state.msr.kernel_gs_base,
        What::Cr0 => state.cr0,
        What::Cr2 => state.cr2,
        What::Cr3 => state.cr3,
        What::Cr4 => state.cr4,
        What::Cr8 => u64::from(task_priority),
        What::Efer => state.efer,
        What::Mxcsr => u64::from(state.mxcsr),
        What::X87Control(index) => u64::from(x87_control(&state.fpu, index)),
        What::Xmm(number) => return state.xmm[usize::from(number)],
        What::X87(number) => {
            let F80 { significand, sign_exponent } =
                state.fpu.registers[usize::from(state.fpu.top.wrapping_add(number) & 7)];
            return u128::from(sign_exponent) << 64 | u128::from(significand);
        }
    };
    u128::from(wide)
}

fn x87_control(fpu: &Fpu, index: u8) -> u32 {
    match index {
        0 => u32::from(fpu.control),
        1 => u32::from(fpu.status) | u32::from(fpu.top & 7) << 11,
        2 => u32::from(full_tags(fpu)),
        3 => u32::from(fpu.instruction_selector),
        // gdb's register has 32 bits; the upper half of a 64-bit pointer is in fiseg's place there, but
        // a selector tells 32-bit code more.
        4 => fpu.instruction_pointer as u32,
        5 => u32::from(fpu.data_selector),
        6 => fpu.data_pointer as u32,
        _ => u32::from(fpu.opcode),
    }
}

/// The full tag word (SDM vol. 1, 8.1.7): two bits for each physical register.
fn full_tags(fpu: &Fpu) -> u16 {
    (0..8u8).fold(0, |word, index| {
        let F80 { significand, sign_exponent } = fpu.registers[usize::from(index)];
        let tag = match sign_exponent & 0x7fff {
            _ if fpu.valid >> index & 1 == 0 => 3,
            0 if significand == 0 => 1,
            0 | 0x7fff => 2,
            _ if significand >> 63 == 0 => 2,
            _ => 0,
        };
        word | tag << (2 * index)
    })
}

/// Writes a register into `state`.
///
/// # Errors
/// What cannot be written; equal values always can.
pub fn write(
    layout: Layout,
    state: &mut CpuState,
    task_priority: u8,
    number: usize,
    bytes: &[u8],
) -> Result<(), Unwritable> {
    let all = registers(layout);
    let register = all.get(number).ok_or(Unwritable::NoSuch)?;
    if bytes.len() != usize::from(register.bits / 8) {
        return Err(Unwritable::NoSuch);
    }
    let mut wide = [0; 16];
    wide.get_mut(..bytes.len()).ok_or(Unwritable::NoSuch)?.copy_from_slice(bytes);
    let new = u128::from_le_bytes(wide);
    let mask = if register.bits == 128 { u128::MAX } else { (1 << register.bits) - 1 };
    if value(register, state, task_priority) & mask == new {
        return Ok(());
    }
    let narrow = new as u64;
    match register.what {
        What::General(number) => state.gpr[usize::from(number)] = narrow,
        What::InstructionPointer => state.rip = narrow,
        // Bit 1 is always set, bits 3, 5, 15 and 22 and up never (SDM vol. 1, 3.4.3).
        What::Flags => state.rflags = narrow & 0x3f_7fd5 | 2,
        What::Selector(_) => return Err(Unwritable::Selector),
        What::Base(number) => state.seg[usize::from(number)].base = narrow,
        What::KernelGsBase => state.msr.kernel_gs_base = narrow,
        What::Cr0 => state.cr0 = narrow,
        What::Cr2 => state.cr2 = narrow,
        What::Cr3 => state.cr3 = narrow,
        What::Cr4 => state.cr4 = narrow,
        What::Cr8 => return Err(Unwritable::TaskPriority),
        What::Efer => state.efer = narrow,
        What::Mxcsr => state.mxcsr = narrow as u32 & 0xffff,
        What::Xmm(number) => state.xmm[usize::from(number)] = new,
        What::X87(number) => {
            let physical = usize::from(state.fpu.top.wrapping_add(number) & 7);
            state.fpu.registers[physical] =
                F80 { significand: narrow, sign_exponent: (new >> 64) as u16 };
        }
        What::X87Control(index) => write_x87_control(&mut state.fpu, index, narrow),
    }
    Ok(())
}

fn write_x87_control(fpu: &mut Fpu, index: u8, value: u64) {
    match index {
        0 => fpu.control = value as u16,
        1 => {
            fpu.status = value as u16 & !(7 << 11);
            fpu.top = (value >> 11 & 7) as u8;
        }
        2 => {
            fpu.valid = (0..8).fold(0, |valid, i| valid | u8::from(value >> (2 * i) & 3 != 3) << i);
        }
        3 => fpu.instruction_selector = value as u16,
        4 => fpu.instruction_pointer = value,
        5 => fpu.data_selector = value as u16,
        6 => fpu.data_pointer = value,
        _ => fpu.opcode = value as u16 & 0x7ff,
    }
}

/// The instruction pointer and the stack pointer's numbers: what a stop reply tells at once.
pub(crate) fn expedited(layout: Layout) -> [usize; 2] {
    let all = registers(layout);
    let find = |what| all.iter().position(|register| register.what == what).unwrap_or(0);
    [find(What::InstructionPointer), find(What::General(gpr::RSP as u8))]
}

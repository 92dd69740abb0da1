//! What a debugger changes in a live machine. Such changes enter from outside, so they are inputs: they
//! are checked here, once when they are made and again when a recording brings them back.

use dejavm_cpu::{CpuState, F80, SegReg, control, rflags};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A register that a debugger can write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Register {
    /// RAX to R15, in the order of instruction encodings. Outside long mode bits 63:32 are dropped.
    General(u8),
    /// RIP. Outside 64-bit code bits 63:32 are dropped. A CPU that waits in HLT goes on there.
    Rip,
    /// RFLAGS: the bits of [`RFLAGS_WRITABLE`]; the others stay.
    Rflags,
    /// The base of FS or GS, in long mode only.
    FsBase,
    /// See `FsBase`.
    GsBase,
    /// The MSR that SWAPGS exchanges with the base of GS, in long mode only.
    KernelGsBase,
    /// XMM0 to XMM15.
    Xmm(u8),
    /// MXCSR: bits 31:16 must be zero.
    Mxcsr,
    /// The x87's physical data registers R0 to R7: 80 bits.
    X87(u8),
}

/// The bits of RFLAGS that a debugger can write (SDM vol. 1, 3.4.3): all that exist but VM, which changes
/// what segments mean, and VIF and VIP.
pub const RFLAGS_WRITABLE: u64 = rflags::ALL & !(rflags::VM | rflags::VIF | rflags::VIP);

/// MXCSR's reserved bits (SDM vol. 1, 10.2.3).
const MXCSR_RESERVED: u32 = 0xffff_0000;
/// Bits of an x87 data register.
const X87_BITS: u32 = 80;

const GENERAL: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Register::General(n) => match GENERAL.get(usize::from(*n)) {
                Some(name) => f.write_str(name),
                None => write!(f, "general register {n}"),
            },
            Register::Rip => f.write_str("rip"),
            Register::Rflags => f.write_str("eflags"),
            Register::FsBase => f.write_str("fs_base"),
            Register::GsBase => f.write_str("gs_base"),
            Register::KernelGsBase => f.write_str("k_gs_base"),
            Register::Xmm(n) => write!(f, "xmm{n}"),
            Register::Mxcsr => f.write_str("mxcsr"),
            Register::X87(n) => write!(f, "x87 register R{n}"),
        }
    }
}

/// Why a debugger's write to a register is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteRefused {
    /// An address that no register holds.
    #[error("{register} cannot be {value:#x}: that address is not canonical")]
    NotCanonical {
        /// Which.
        register: Register,
        /// What was to be written.
        value: u64,
    },
    /// Bits that must be zero.
    #[error("{register} cannot be {value:#x}: it has reserved bits set")]
    Reserved {
        /// Which.
        register: Register,
        /// What was to be written.
        value: u128,
    },
    /// A base that only long mode has.
    #[error("{0} can be written in long mode only")]
    OutsideLongMode(Register),
    /// A number of no register.
    #[error("there is no {0}")]
    NoSuchRegister(Register),
    /// A register that a debugger may look at only.
    #[error(
        "{0} cannot be written: general registers, rip, eflags (not vm, vif, vip), fs_base, gs_base, \
         k_gs_base, the x87's data registers, xmm and mxcsr can"
    )]
    ReadOnly(&'static str),
}

fn is_canonical(address: u64) -> bool {
    (address as i64) << 16 >> 16 == address as i64
}

fn is_long(state: &CpuState) -> bool {
    state.efer & control::EFER_LMA != 0
}

/// The value as a register of 64 bits, of which 32 exist in some modes.
fn narrow(register: Register, value: u128, wide: bool) -> Result<u64, WriteRefused> {
    let value = u64::try_from(value).map_err(|_| WriteRefused::Reserved { register, value })?;
    Ok(if wide { value } else { value & 0xffff_ffff })
}

/// An address in long mode.
fn base(register: Register, value: u128, state: &CpuState) -> Result<u64, WriteRefused> {
    if !is_long(state) {
        return Err(WriteRefused::OutsideLongMode(register));
    }
    let value = narrow(register, value, true)?;
    if is_canonical(value) {
        Ok(value)
    } else {
        Err(WriteRefused::NotCanonical { register, value })
    }
}

/// Writes one register as a debugger does; a refused write changes nothing. What is accepted depends on
/// the mode that the CPU is in.
///
/// # Errors
/// Values and registers that the debugger may not write.
pub fn write_register(
    state: &mut CpuState,
    register: Register,
    value: u128,
) -> Result<(), WriteRefused> {
    let reserved = WriteRefused::Reserved { register, value };
    let missing = WriteRefused::NoSuchRegister(register);
    match register {
        Register::General(n) => {
            let value = narrow(register, value, is_long(state))?;
            *state.gpr.get_mut(usize::from(n)).ok_or(missing)? = value;
        }
        Register::Rip => {
            let code = &state.seg[SegReg::Cs as usize].rights;
            let wide = is_long(state) && code.is_long();
            let value = narrow(register, value, wide)?;
            if !is_canonical(value) {
                return Err(WriteRefused::NotCanonical { register, value });
            }
            state.rip = value;
            state.halted = false;
        }
        Register::Rflags => {
            let value = narrow(register, value, true)?;
            state.rflags = state.rflags & !RFLAGS_WRITABLE | value & RFLAGS_WRITABLE;
        }
        Register::FsBase => {
            state.seg[SegReg::Fs as usize].base = base(register, value, state)?;
        }
        Register::GsBase => {
            state.seg[SegReg::Gs as usize].base = base(register, value, state)?;
        }
        Register::KernelGsBase => state.msr.kernel_gs_base = base(register, value, state)?,
        Register::Xmm(n) => *state.xmm.get_mut(usize::from(n)).ok_or(missing)? = value,
        Register::Mxcsr => match u32::try_from(value) {
            Ok(value) if value & MXCSR_RESERVED == 0 => state.mxcsr = value,
            _ => return Err(reserved),
        },
        Register::X87(_) if value >> X87_BITS != 0 => return Err(reserved),
        Register::X87(n) => {
            let (significand, sign_exponent) = (value as u64, (value >> 64) as u16);
            let physical = state.fpu.registers.get_mut(usize::from(n)).ok_or(missing)?;
            *physical = F80 { significand, sign_exponent };
        }
    }
    Ok(())
}

/// Every register that [`write_register`] knows, and its value.
fn writable(state: &CpuState) -> Vec<(Register, u128)> {
    let mut all = Vec::new();
    let numbered = |values: &[u64]| -> Vec<u128> { values.iter().map(|&v| v.into()).collect() };
    let mut group = |make: fn(u8) -> Register, values: Vec<u128>| {
        all.extend((0u8..).map(make).zip(values));
    };
    group(Register::General, numbered(&state.gpr));
    group(Register::Xmm, state.xmm.to_vec());
    let x87 = state.fpu.registers.iter();
    group(
        Register::X87,
        x87.map(|r| u128::from(r.sign_exponent) << 64 | u128::from(r.significand)).collect(),
    );
    all.extend([
        (Register::Rip, state.rip.into()),
        (Register::Rflags, (state.rflags & RFLAGS_WRITABLE).into()),
        (Register::FsBase, state.seg[SegReg::Fs as usize].base.into()),
        (Register::GsBase, state.seg[SegReg::Gs as usize].base.into()),
        (Register::KernelGsBase, state.msr.kernel_gs_base.into()),
        (Register::Mxcsr, state.mxcsr.into()),
    ]);
    all
}

/// The writes that make `to` of `from`: only registers that differ.
///
/// # Errors
/// If they differ in something that a debugger may not write, or may not write so.
pub fn register_writes(
    from: &CpuState,
    to: &CpuState,
) -> Result<Vec<(Register, u128)>, WriteRefused> {
    let before = writable(from);
    let mut rest = to.clone();
    rest.gpr = from.gpr;
    rest.rip = from.rip;
    rest.rflags = to.rflags & !RFLAGS_WRITABLE | from.rflags & RFLAGS_WRITABLE;
    for register in [SegReg::Fs, SegReg::Gs] {
        rest.seg[register as usize].base = from.seg[register as usize].base;
    }
    rest.msr.kernel_gs_base = from.msr.kernel_gs_base;
    rest.xmm = from.xmm;
    rest.mxcsr = from.mxcsr;
    rest.fpu.registers = from.fpu.registers;
    if rest != *from {
        let control =
            |state: &CpuState| [state.cr0, state.cr2, state.cr3, state.cr4, state.efer, state.xcr0];
        let what = if rest.seg != from.seg {
            "a segment register"
        } else if rest.rflags != from.rflags {
            "a reserved bit of eflags"
        } else if control(&rest) != control(from) {
            "a control register"
        } else if rest.fpu != from.fpu {
            "the x87's control, status or tag word"
        } else {
            "this register"
        };
        return Err(WriteRefused::ReadOnly(what));
    }
    let writes: Vec<(Register, u128)> = writable(to)
        .into_iter()
        .zip(before)
        .filter(|(new, old)| new.1 != old.1)
        .map(|(new, _)| new)
        .collect();
    let mut state = from.clone();
    for &(register, value) in &writes {
        write_register(&mut state, register, value)?;
    }
    Ok(writes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long() -> CpuState {
        let mut state = CpuState::reset();
        state.efer = control::EFER_LME | control::EFER_LMA;
        state.seg[SegReg::Cs as usize].rights.0 |= 1 << 9;
        state
    }

    #[test]
    fn what_differs_is_written_and_nothing_else() {
        let from = long();
        assert_eq!(register_writes(&from, &from), Ok(vec![]));
        let mut to = from.clone();
        to.gpr[15] = u64::MAX;
        to.rip = 0xffff_8000_0000_0000;
        to.rflags |= rflags::ZF | rflags::IF;
        to.seg[SegReg::Gs as usize].base = 0x7fff_ffff_ffff;
        to.msr.kernel_gs_base = 5;
        to.xmm[3] = u128::MAX;
        to.mxcsr = 0x1fbf;
        to.fpu.registers[7] = F80 { significand: 9, sign_exponent: 0x8001 };
        let writes = register_writes(&from, &to).unwrap();
        assert_eq!(writes.len(), 8, "{writes:?}");
        let mut written = from.clone();
        for (register, value) in writes {
            write_register(&mut written, register, value).unwrap();
        }
        assert_eq!(written, to);
    }

    #[test]
    fn what_no_register_holds_is_refused_with_a_sentence() {
        let mut state = long();
        let before = state.clone();
        for (register, value, sentence) in [
            (Register::Rip, 1 << 47, "rip cannot be 0x800000000000: that address is not canonical"),
            (
                Register::FsBase,
                1 << 63,
                "fs_base cannot be 0x8000000000000000: that address is not",
            ),
            (Register::General(16), 0, "there is no general register 16"),
            (Register::General(0), 1 << 64, "rax cannot be 0x10000000000000000: it has reserved"),
            (Register::Xmm(16), 0, "there is no xmm16"),
            (Register::X87(8), 0, "there is no x87 register R8"),
            (Register::X87(0), 1 << 80, "x87 register R0 cannot be"),
            (Register::Mxcsr, 0x1_0000, "mxcsr cannot be 0x10000: it has reserved bits set"),
        ] {
            let error = write_register(&mut state, register, value).unwrap_err().to_string();
            assert!(error.starts_with(sentence), "{error}");
            assert_eq!(state, before);
        }
        let mut to = before.clone();
        to.seg[SegReg::Cs as usize].selector = 8;
        let error = register_writes(&before, &to).unwrap_err().to_string();
        assert!(error.starts_with("a segment register cannot be written: general"), "{error}");
        for change in [
            |state: &mut CpuState| state.cr3 = 0x1000,
            |state: &mut CpuState| state.rflags |= rflags::VM,
            |state: &mut CpuState| state.fpu.status = 1,
            |state: &mut CpuState| state.position.0 = 1,
            |state: &mut CpuState| state.halted = true,
        ] {
            let mut to = before.clone();
            change(&mut to);
            assert!(matches!(register_writes(&before, &to), Err(WriteRefused::ReadOnly(_))));
        }
    }

    #[test]
    fn registers_are_as_wide_as_the_mode_has_them() {
        let mut state = CpuState::reset();
        state.halted = true;
        write_register(&mut state, Register::General(0), u64::MAX.into()).unwrap();
        write_register(&mut state, Register::Rip, 0xffff_ffff_0000_1000).unwrap();
        assert_eq!((state.gpr[0], state.rip, state.halted), (0xffff_ffff, 0x1000, false));
        let refused = write_register(&mut state, Register::GsBase, 0);
        assert_eq!(refused, Err(WriteRefused::OutsideLongMode(Register::GsBase)));
        write_register(&mut state, Register::Rflags, u64::MAX.into()).unwrap();
        assert_eq!(state.rflags, RFLAGS_WRITABLE | 2);
    }
}

//! The x87 FPU (SDM vol. 1, chapter 8; vol. 2, F*).
//!
//! Exact operations run on the host's FPU with every exception masked ([`host`]), but for the plain
//! cases of the commonest, which are faster in integers ([`plain`]); transcendentals are
//! software ([`transcendental`]). What unmasked exceptions do is applied afterwards, in
//! [`Cpu::accept`]: faults found before computing leave the operands alone, and the #MF itself waits
//! for the next waiting instruction.
//!
//! What the manual leaves undefined, defined by the model: C0, C2 and C3 keep their values where the
//! manual says "undefined"; C1 is cleared by every instruction that does not round away from zero or
//! overflow the stack, but FCMOVcc without a fault, FNOP, FLDCW, FNCLEX and the stores of control and
//! status leave it. A comparison that meets an unmasked exception leaves its condition codes or flags
//! alone, as Intel's manual says (AMD's processors set them). PC = 1 is extended precision. With
//! CR0.NE = 0 a pending exception would assert FERR#; nothing is wired to it, so execution goes on as
//! if IGNNE# were asserted.

mod arithmetic;
mod bcd;
mod compare;
mod environment;
mod host;
mod load_store;
mod plain;
mod transcendental;
mod wide;

#[cfg(test)]
mod native_tests;
#[cfg(test)]
mod tests;

use super::{Done, Exec};
use crate::cpu::{Cpu, control};
use crate::exception::{Abort, vector};
use crate::fpu::{F80, status};
use crate::mmu::Access;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// Where a result goes, which decides what an unmasked overflow or underflow does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Destination {
    /// The bias-adjusted result is delivered.
    Register,
    /// Nothing is written.
    Memory,
}

/// The ST(i) number of a register operand.
fn st_number(i: &Instruction, operand: u32) -> u8 {
    (i.op_register(operand) as u32).wrapping_sub(Register::ST0 as u32) as u8 & 7
}

/// Selects the semantics of an x87 instruction.
pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    use Mnemonic as M;
    if !matches!(i.mnemonic() as u32, f if is_x87_mnemonic(f)) {
        return None;
    }
    arithmetic::select(i)
        .or_else(|| load_store::select(i))
        .or_else(|| compare::select(i))
        .or_else(|| environment::select(i))
        .or_else(|| transcendental::select(i))
        .or_else(|| match i.mnemonic() {
            M::Fbld => Some(bcd::load as Exec),
            M::Fbstp => Some(bcd::store as Exec),
            _ => None,
        })
}

/// A cheap filter: the decoder's mnemonics are in alphabetical order.
fn is_x87_mnemonic(mnemonic: u32) -> bool {
    (Mnemonic::F2xm1 as u32..=Mnemonic::Fyl2xp1 as u32).contains(&mnemonic)
        || mnemonic == Mnemonic::Wait as u32
}

impl Cpu {
    /// What a non-waiting x87 instruction checks: #NM if CR0.EM or CR0.TS.
    #[inline]
    fn x87_available(&mut self) -> Done {
        if self.cr0 & (control::CR0_EM | control::CR0_TS) != 0 {
            return Err(self.exception(vector::NM, None));
        }
        Ok(())
    }

    /// What a waiting x87 instruction checks: #NM, then the pending exception.
    #[inline]
    fn x87_ready(&mut self) -> Done {
        self.x87_available()?;
        self.x87_pending()
    }

    /// #MF if an unmasked exception is pending and CR0.NE = 1.
    #[inline]
    fn x87_pending(&mut self) -> Done {
        if self.fpu.is_exception_pending() && self.cr0 & control::CR0_NE != 0 {
            return Err(self.math_fault());
        }
        Ok(())
    }

    #[cold]
    fn math_fault(&mut self) -> Abort {
        self.exception(vector::MF, None)
    }

    /// What every instruction on MMX registers checks: #UD if CR0.EM, #NM if CR0.TS, #MF if an x87
    /// exception is pending. Call [`Fpu::enter_mmx`](crate::Fpu) once nothing can fault any more.
    #[inline]
    pub(crate) fn mmx_ready(&mut self) -> Done {
        if self.cr0 & control::CR0_EM != 0 {
            return Err(self.undefined_opcode());
        }
        self.x87_ready()
    }

    /// Notes the exceptions that a computation raised (with SF and C1 as they belong to them) and
    /// tells whether its result is to be delivered and the stack popped.
    #[inline]
    fn accept(&mut self, i: &Instruction, raised: u16, destination: Destination) -> bool {
        self.fpu.status &= !status::C1;
        if raised & !self.fpu.control & status::EXCEPTIONS == 0 {
            self.fpu.status |= raised & (status::EXCEPTIONS | status::SF | status::C1);
            return true;
        }
        self.accept_unmasked(i, raised, destination)
    }

    /// The unmasked responses of SDM vol. 1, 8.5, by the precedence of 4.9.2.
    #[cold]
    fn accept_unmasked(&mut self, i: &Instruction, raised: u16, to: Destination) -> bool {
        use status::{C1, DE, EXCEPTIONS, IE, OE, PE, SF, UE, ZE};
        let unmasked = raised & !self.fpu.control & EXCEPTIONS;
        let (noted, deliver) = if raised & (IE | ZE) != 0 {
            let c1 = if raised & SF != 0 { C1 } else { 0 };
            (raised & (IE | ZE | SF | c1), unmasked & (IE | ZE) == 0)
        } else if unmasked & DE != 0 {
            (DE, false)
        } else if unmasked & (OE | UE) != 0 && to == Destination::Memory {
            (raised & !(PE | C1), false)
        } else {
            (raised & (EXCEPTIONS | C1), true)
        };
        self.fpu.status |= noted;
        if noted & !self.fpu.control & EXCEPTIONS != 0 {
            self.note_pointers(i);
        }
        self.fpu.summarize();
        deliver
    }

    /// A stack underflow, or with `overflow` an overflow; whether it is masked.
    #[cold]
    fn stack_fault(&mut self, i: &Instruction, overflow: bool) -> bool {
        let c1 = if overflow { status::C1 } else { 0 };
        self.accept(i, status::IE | status::SF | c1, Destination::Register)
    }

    /// Fills in FOP, FIP, FCS, FDP and FDS for an instruction that raised an unmasked exception.
    fn note_pointers(&mut self, i: &Instruction) {
        self.fpu.instruction_pointer = self.rip;
        self.fpu.instruction_selector = self.cs().selector;
        self.fpu.opcode = self.x87_opcode(i).unwrap_or(0);
        (self.fpu.data_pointer, self.fpu.data_selector) = if i.op0_kind() == OpKind::Memory {
            let (segment, offset) = self.operand_offset(i);
            (offset, self.seg[segment as usize].selector)
        } else {
            (0, 0)
        };
    }

    /// The low three bits of the first opcode byte and the ModRM byte, read again from the code.
    fn x87_opcode(&mut self, i: &Instruction) -> Option<u16> {
        let mut opcode = None;
        for n in 0..i.len() as u64 {
            let linear = self.cs_linear(self.rip.wrapping_add(n));
            let gpa = self.translate(linear, Access::Fetch).ok()?;
            let mut byte = [0];
            self.ram().read(gpa, &mut byte).ok()?;
            match opcode {
                Some(first) => return Some(first | u16::from(byte[0])),
                None if byte[0] & 0xf8 == 0xd8 => opcode = Some(u16::from(byte[0] & 7) << 8),
                None => {}
            }
        }
        None
    }

    /// Pushes a value, or answers the stack overflow.
    #[inline]
    fn push_checked(&mut self, i: &Instruction, value: F80, raised: u16) {
        if !self.fpu.is_empty(7) {
            if self.stack_fault(i, true) {
                self.fpu.push(F80::INDEFINITE);
            }
            return;
        }
        // A denormal operand is loaded even where that is unmasked: processors do, though the manual
        // says that TOP stays.
        let denormal_only = raised == status::DE;
        if self.accept(i, raised, Destination::Register) || denormal_only {
            self.fpu.push(value);
        }
    }
}

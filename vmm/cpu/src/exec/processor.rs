//! HLT, CPUID, XGETBV and XSETBV, and the instructions that hint and do nothing.

use super::Exec;
use crate::cpu::{Cpu, control, gpr};
use crate::exception::Abort;
use iced_x86::{Instruction, Mnemonic};

/// XCR0 bit of the x87 state: always on.
const XCR0_X87: u64 = 1 << 0;
/// XCR0 bit of the SSE state.
const XCR0_SSE: u64 = 1 << 1;

pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    Some(match i.mnemonic() {
        Mnemonic::Hlt => |cpu, _| cpu.hlt(),
        Mnemonic::Cpuid => |cpu, _| cpu.cpuid(),
        Mnemonic::Xgetbv => |cpu, _| cpu.xgetbv(),
        Mnemonic::Xsetbv => |cpu, _| cpu.xsetbv(),
        Mnemonic::Nop
        | Mnemonic::Pause
        | Mnemonic::Reservednop
        | Mnemonic::Endbr32
        | Mnemonic::Endbr64
        | Mnemonic::Rdsspd
        | Mnemonic::Rdsspq
        | Mnemonic::Cldemote
        | Mnemonic::Prefetch
        | Mnemonic::Prefetchw
        | Mnemonic::Prefetchwt1
        | Mnemonic::Prefetchnta
        | Mnemonic::Prefetcht0
        | Mnemonic::Prefetcht1
        | Mnemonic::Prefetcht2 => |_, _| Ok(()),
        _ => return None,
    })
}

impl Cpu {
    fn hlt(&mut self) -> Result<(), Abort> {
        self.require_cpl0()?;
        self.halted = true;
        self.end_of_block = true;
        Ok(())
    }

    fn cpuid(&mut self) -> Result<(), Abort> {
        let leaf = self.gpr[gpr::RAX] as u32;
        let subleaf = self.gpr[gpr::RCX] as u32;
        let os_xsave = self.cr4 & control::CR4_OSXSAVE != 0;
        let answer = self.model.cpuid(leaf, subleaf, self.apic_id, os_xsave);
        self.gpr[gpr::RAX] = answer.eax.into();
        self.gpr[gpr::RBX] = answer.ebx.into();
        self.gpr[gpr::RCX] = answer.ecx.into();
        self.gpr[gpr::RDX] = answer.edx.into();
        Ok(())
    }

    fn xgetbv(&mut self) -> Result<(), Abort> {
        if self.cr4 & control::CR4_OSXSAVE == 0 {
            return Err(self.undefined_opcode());
        }
        if self.gpr[gpr::RCX] as u32 != 0 {
            return Err(self.general_protection(0));
        }
        self.gpr[gpr::RAX] = self.xcr0 & 0xffff_ffff;
        self.gpr[gpr::RDX] = self.xcr0 >> 32;
        Ok(())
    }

    fn xsetbv(&mut self) -> Result<(), Abort> {
        if self.cr4 & control::CR4_OSXSAVE == 0 {
            return Err(self.undefined_opcode());
        }
        self.require_cpl0()?;
        let value = self.gpr[gpr::RAX] & 0xffff_ffff | self.gpr[gpr::RDX] << 32;
        let known = value & !(XCR0_X87 | XCR0_SSE) == 0 && value & XCR0_X87 != 0;
        if self.gpr[gpr::RCX] as u32 != 0 || !known {
            return Err(self.general_protection(0));
        }
        self.xcr0 = value;
        self.end_of_block = true;
        Ok(())
    }
}

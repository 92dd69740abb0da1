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
        Mnemonic::Pause => |cpu, _| {
            cpu.pause();
            Ok(())
        },
        Mnemonic::Nop
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
        self.require_alone()?;
        let at = self.position;
        self.bus().halts(at);
        self.halted = true;
        self.end_of_block = true;
        Ok(())
    }

    fn cpuid(&mut self) -> Result<(), Abort> {
        let leaf = self.gpr[gpr::RAX] as u32;
        let subleaf = self.gpr[gpr::RCX] as u32;
        let os_xsave = self.cr4 & control::CR4_OSXSAVE != 0;
        let answer =
            self.model.cpuid_among(self.turns.processors(), leaf, subleaf, self.apic_id, os_xsave);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Features, Model};
    use crate::run::Stop;
    use crate::testing::{Bench, CODE};

    #[test]
    fn instructions_that_the_model_lacks_are_undefined() {
        let codes: [&[u8]; 9] = [
            // MONITOR, MWAIT, RSM, VMCALL, VMMCALL, RDRAND EAX, XGETBV, INVPCID, POPCNT (on V1)
            &[0x0f, 0x01, 0xc8],
            &[0x0f, 0x01, 0xc9],
            &[0x0f, 0xaa],
            &[0x0f, 0x01, 0xc1],
            &[0x0f, 0x01, 0xd9],
            &[0x0f, 0xc7, 0xf0],
            &[0x0f, 0x01, 0xd0],
            &[0x66, 0x0f, 0x38, 0x82, 0x05, 0, 0, 3, 0],
            &[0xf3, 0x0f, 0xb8, 0xc1],
        ];
        for code in codes {
            let mut bench = Bench::protected().with_tables();
            bench.cpu.model = Model::V1;
            assert_eq!(bench.run_to_halt(code), Some(6), "{code:x?}");
            assert_eq!(bench.stack32(0), CODE as u32);
        }
    }

    #[test]
    fn hints_of_absent_features_do_nothing() {
        let codes: [&[u8]; 5] = [
            // ENDBR64, RDSSPD EAX, PREFETCHW [EAX], CLDEMOTE [EAX], NOP [EAX]
            &[0xf3, 0x0f, 0x1e, 0xfa],
            &[0xf3, 0x0f, 0x1e, 0xc8],
            &[0x0f, 0x0d, 0x08],
            &[0x0f, 0x1c, 0x00],
            &[0x0f, 0x1f, 0x00],
        ];
        for code in codes {
            let mut bench = Bench::protected().with_tables();
            assert_eq!(bench.run(code, 1), Stop::Limit, "{code:x?}");
            assert_eq!(bench.cpu.rip, CODE + code.len() as u64);
            assert_eq!(bench.cpu.gpr[gpr::RAX], 0);
        }
    }

    #[test]
    fn without_bmi1_tzcnt_is_bsf() {
        // TZCNT EAX, ECX with ECX = 0: BSF leaves EAX and sets ZF; TZCNT gives 32 and sets CF.
        let code = [0xf3, 0x0f, 0xbc, 0xc1];
        for (features, expected) in [(Features::empty(), 7), (Features::BMI1, 32)] {
            let mut bench = Bench::protected();
            bench.cpu.model.features = features;
            bench.change(|state| state.gpr[gpr::RAX] = 7);
            assert_eq!(bench.run(&code, 1), Stop::Limit);
            assert_eq!(bench.cpu.gpr[gpr::RAX], expected);
        }
    }

    #[test]
    fn xsetbv_takes_x87_with_or_without_sse() {
        for (value, vector) in [(1, None), (3, None), (2, Some(13)), (7, Some(13))] {
            let mut bench = Bench::protected().with_tables();
            bench.cpu.model.features = Features::XSAVE;
            bench.change(|state| {
                state.cr4 = control::CR4_OSXSAVE;
                state.gpr[gpr::RAX] = value;
                state.gpr[gpr::RDX] = 0;
            });
            assert_eq!(bench.run_to_halt(&[0x0f, 0x01, 0xd1, 0xf4]), vector, "{value}");
            assert_eq!(bench.cpu.xcr0, if vector.is_none() { value } else { 1 });
        }
    }

    #[test]
    fn cpuid_fills_four_registers() {
        let mut bench = Bench::protected();
        bench.change(|state| state.gpr[gpr::RAX] = 0);
        assert_eq!(bench.run(&[0x0f, 0xa2], 1), Stop::Limit);
        let gpr = bench.cpu.gpr;
        let vendor =
            [gpr[gpr::RBX], gpr[gpr::RDX], gpr[gpr::RCX]].map(|word| (word as u32).to_le_bytes());
        assert_eq!(vendor.concat(), b"GenuineIntel");
    }
}

//! SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS and the FS and GS base instructions (SDM vol. 2B; vol.
//! 3A, 5.8.7 and 5.8.8), as an Intel processor has them: SYSCALL in 64-bit mode only.

use super::Exec;
use super::descriptor::is_null;
use crate::cpu::{Cpu, control, gpr};
use crate::exception::Abort;
use crate::flags::rflags;
use crate::mmu::is_canonical;
use crate::segment::{Rights, SegReg, Segment};
use iced_x86::{Instruction, Mnemonic};

pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    Some(match i.mnemonic() {
        Mnemonic::Syscall => |cpu, _| cpu.syscall(),
        Mnemonic::Sysret => |cpu, _| cpu.sysret(false),
        Mnemonic::Sysretq => |cpu, _| cpu.sysret(true),
        Mnemonic::Sysenter => |cpu, _| cpu.sysenter(),
        Mnemonic::Sysexit => |cpu, _| cpu.sysexit(false),
        Mnemonic::Sysexitq => |cpu, _| cpu.sysexit(true),
        Mnemonic::Swapgs => |cpu, _| cpu.swapgs(),
        Mnemonic::Rdfsbase => |cpu, i| cpu.read_base(i, SegReg::Fs),
        Mnemonic::Rdgsbase => |cpu, i| cpu.read_base(i, SegReg::Gs),
        Mnemonic::Wrfsbase => |cpu, i| cpu.write_base(i, SegReg::Fs),
        Mnemonic::Wrgsbase => |cpu, i| cpu.write_base(i, SegReg::Gs),
        _ => return None,
    })
}

/// Descriptor rights that these instructions load without reading a table: flat, accessed.
const CODE32: u16 = 0xc9b;
const CODE64: u16 = 0xa9b;
const DATA: u16 = 0xc93;

fn flat(selector: u16, rights: u16, dpl: u8) -> Segment {
    Segment { selector, base: 0, limit: u32::MAX, rights: Rights(rights | u16::from(dpl) << 5) }
}

impl Cpu {
    fn load_flat(&mut self, cs: Segment, ss: u16, cpl: u8) {
        self.seg[SegReg::Ss as usize] = flat(ss, DATA, cpl);
        self.commit_cs(cs, cpl);
    }

    fn syscall(&mut self) -> Result<(), Abort> {
        if self.efer & control::EFER_SCE == 0 || !self.is_64bit() {
            return Err(self.undefined_opcode());
        }
        let selector = (self.msr.star >> 32) as u16 & !3;
        self.gpr[gpr::RCX] = self.next_rip;
        self.gpr[11] = self.rflags() & !rflags::RF;
        self.next_rip = self.msr.lstar;
        let flags = self.rflags() & !(self.msr.sfmask | rflags::RF);
        self.set_rflags(flags);
        self.load_flat(flat(selector, CODE64, 0), selector.wrapping_add(8), 0);
        if flags & rflags::TF == 0 {
            self.drop_single_step();
        }
        Ok(())
    }

    fn sysret(&mut self, to_64bit: bool) -> Result<(), Abort> {
        if self.efer & control::EFER_SCE == 0 || !self.is_64bit() {
            return Err(self.undefined_opcode());
        }
        let target = self.gpr[gpr::RCX];
        if self.cpl != 0 || to_64bit && !is_canonical(target) {
            return Err(self.general_protection(0));
        }
        let base = (self.msr.star >> 48) as u16;
        let flags = self.gpr[11];
        let traps = flags & rflags::TF != 0;
        if traps {
            // Only where an instruction runs alone is anything looked for behind it.
            self.require_alone()?;
        }
        let keep = !(rflags::RF | rflags::VM);
        self.set_rflags(flags & keep);
        if traps {
            // The trap comes right after SYSRET, not one instruction later.
            self.earn_single_step();
        }
        let ss = base.wrapping_add(8) | 3;
        if to_64bit {
            self.next_rip = target;
            self.load_flat(flat(base.wrapping_add(16) | 3, CODE64, 3), ss, 3);
        } else {
            self.next_rip = target & 0xffff_ffff;
            self.load_flat(flat(base | 3, CODE32, 3), ss, 3);
        }
        Ok(())
    }

    fn sysenter(&mut self) -> Result<(), Abort> {
        let selector = self.msr.sysenter_cs as u16;
        if self.is_real_mode() || is_null(selector) {
            return Err(self.general_protection(0));
        }
        let long = self.is_long_mode();
        self.system_flags &= !(rflags::VM | rflags::IF | rflags::RF);
        let mask = if long { u64::MAX } else { 0xffff_ffff };
        self.gpr[gpr::RSP] = self.msr.sysenter_esp & mask;
        self.next_rip = self.msr.sysenter_eip & mask;
        let selector = selector & !3;
        let rights = if long { CODE64 } else { CODE32 };
        self.load_flat(flat(selector, rights, 0), selector.wrapping_add(8), 0);
        Ok(())
    }

    fn sysexit(&mut self, to_64bit: bool) -> Result<(), Abort> {
        let selector = self.msr.sysenter_cs as u16;
        if self.is_real_mode() || is_null(selector) || self.cpl != 0 {
            return Err(self.general_protection(0));
        }
        let (rip, rsp) = (self.gpr[gpr::RDX], self.gpr[gpr::RCX]);
        if to_64bit {
            if !is_canonical(rip) || !is_canonical(rsp) {
                return Err(self.general_protection(0));
            }
            self.next_rip = rip;
            self.gpr[gpr::RSP] = rsp;
            let cs = flat(selector.wrapping_add(32) | 3, CODE64, 3);
            self.load_flat(cs, selector.wrapping_add(40) | 3, 3);
        } else {
            self.next_rip = rip & 0xffff_ffff;
            self.gpr[gpr::RSP] = rsp & 0xffff_ffff;
            let cs = flat(selector.wrapping_add(16) | 3, CODE32, 3);
            self.load_flat(cs, selector.wrapping_add(24) | 3, 3);
        }
        Ok(())
    }

    fn swapgs(&mut self) -> Result<(), Abort> {
        if !self.is_64bit() {
            return Err(self.undefined_opcode());
        }
        self.require_cpl0()?;
        let gs = &mut self.seg[SegReg::Gs as usize];
        std::mem::swap(&mut gs.base, &mut self.msr.kernel_gs_base);
        Ok(())
    }

    fn require_fsgsbase(&mut self) -> Result<(), Abort> {
        if !self.is_64bit() || self.cr4 & control::CR4_FSGSBASE == 0 {
            return Err(self.undefined_opcode());
        }
        Ok(())
    }

    fn read_base(&mut self, i: &Instruction, register: SegReg) -> Result<(), Abort> {
        self.require_fsgsbase()?;
        self.set_reg(i.op_register(0), self.seg[register as usize].base);
        Ok(())
    }

    fn write_base(&mut self, i: &Instruction, register: SegReg) -> Result<(), Abort> {
        self.require_fsgsbase()?;
        let base = self.reg(i.op_register(0));
        if !is_canonical(base) {
            return Err(self.general_protection(0));
        }
        self.seg[register as usize].base = base;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mmu::{Engine, Tuning};
    use crate::run::Stop;
    use crate::testing::{Bench, CODE, STACK};

    const SYSCALL: [u8; 2] = [0x0f, 0x05];
    const SYSRETQ: [u8; 3] = [0x48, 0x0f, 0x07];

    fn bench() -> Bench {
        let mut bench = Bench::long().with_tables();
        bench.change(|state| {
            state.msr.star = 0x0023_0008 << 32;
            state.msr.lstar = 0x1_0300;
            state.msr.sfmask = 0x300;
        });
        bench
    }

    /// SDM vol. 2B, SYSCALL.
    #[test]
    fn syscall_saves_rip_and_rflags_and_masks() {
        let mut bench = bench().at_level_3();
        bench.change(|state| state.rflags = 0x202);
        assert_eq!(bench.run(&SYSCALL, 1), Stop::Limit);
        let state = bench.cpu.state();
        assert_eq!((state.cpl, state.rip, state.rflags), (0, 0x1_0300, 2));
        assert_eq!((state.gpr[gpr::RCX], state.gpr[11]), (CODE + 2, 0x202));
        assert_eq!((state.seg[1].selector, state.seg[2].selector), (8, 0x10));
        assert_eq!((state.seg[1].rights.0, state.seg[2].rights.0), (0xa9b, 0xc93));
        assert_eq!(state.gpr[gpr::RSP], STACK, "the stack is the kernel's to change");
    }

    #[test]
    fn sysret_goes_to_64_bit_or_compatibility_mode() {
        for (code, cs, rights) in [(&SYSRETQ[..], 0x33, 0xafb), (&SYSRETQ[1..], 0x23, 0xcfb)] {
            let mut bench = bench();
            bench.change(|state| {
                state.gpr[gpr::RCX] = CODE + 0x40;
                state.gpr[11] = 0x1_3246;
            });
            assert_eq!(bench.run(code, 1), Stop::Limit);
            let state = bench.cpu.state();
            assert_eq!((state.cpl, state.rip), (3, CODE + 0x40));
            assert_eq!((state.seg[1].selector, state.seg[1].rights.0), (cs, rights));
            assert_eq!(state.seg[2].selector, 0x2b);
            assert_eq!(state.rflags, 0x3246, "RF is cleared");
        }
    }

    /// Also where the instruction is one of a block, as it is unless single steps were on before.
    #[test]
    fn sysret_that_sets_tf_traps_before_the_next_instruction() {
        for engine in [Engine::Reference, Engine::Interpreter, Engine::Translator] {
            let mut bench = bench();
            bench.cpu.set_tuning(Tuning { engine, translate_after: 0, ..Tuning::default() });
            bench.poke(CODE + 0x40, &[0x90, 0x90]);
            bench.change(|state| {
                state.gpr[gpr::RCX] = CODE + 0x40;
                state.gpr[11] = 0x102;
            });
            assert_eq!(bench.run_to_halt(&SYSRETQ), Some(1), "{engine:?}");
            assert_eq!(bench.stack64(0), CODE + 0x40, "{engine:?}");
            assert_eq!(bench.cpu.dr[6], 0xffff_4ff0, "{engine:?}");
        }
    }

    #[test]
    fn sysret_to_a_non_canonical_address_faults_at_level_0() {
        let mut bench = bench();
        bench.change(|state| state.gpr[gpr::RCX] = 0x8000_0000_0000);
        assert_eq!(bench.run_to_halt(&SYSRETQ), Some(13));
        assert_eq!((bench.stack64(0), bench.stack64(2)), (0, 8));
    }

    #[test]
    fn syscall_needs_sce_and_64_bit_mode() {
        let mut without = bench();
        without.change(|state| state.efer &= !control::EFER_SCE);
        assert_eq!(without.run_to_halt(&SYSCALL), Some(6));
        let mut compatible = bench();
        compatible.change(|state| state.seg[1].rights.0 = 0xc9b);
        assert_eq!(compatible.run_to_halt(&SYSCALL), Some(6));
        let mut bench = Bench::protected().with_tables();
        assert_eq!(bench.run_to_halt(&SYSCALL), Some(6));
    }

    #[test]
    fn sysenter_and_sysexit_use_the_selectors_after_each_other() {
        let mut bench = Bench::protected().with_tables().at_level_3();
        bench.change(|state| {
            state.msr.sysenter_cs = 8;
            state.msr.sysenter_esp = 0x2_7000;
            state.msr.sysenter_eip = 0x1_0400;
            state.rflags = 0x202;
        });
        bench.poke(0x1_0400, &[0x0f, 0x35]);
        assert_eq!(bench.run(&[0x0f, 0x34], 1), Stop::Limit);
        let state = bench.cpu.state();
        assert_eq!((state.cpl, state.rip, state.gpr[gpr::RSP]), (0, 0x1_0400, 0x2_7000));
        assert_eq!(state.rflags, 2, "IF is cleared");
        assert_eq!((state.seg[1].selector, state.seg[2].selector), (8, 0x10));
        bench.change(|state| {
            state.gpr[gpr::RDX] = CODE + 2;
            state.gpr[gpr::RCX] = STACK;
        });
        assert_eq!(bench.go(1), Stop::Limit);
        let state = bench.cpu.state();
        assert_eq!((state.cpl, state.rip, state.gpr[gpr::RSP]), (3, CODE + 2, STACK));
        assert_eq!((state.seg[1].selector, state.seg[2].selector), (0x1b, 0x23));
    }

    #[test]
    fn sysenter_without_a_code_segment_is_refused() {
        let mut bench = Bench::protected().with_tables().at_level_3();
        assert_eq!(bench.run_to_halt(&[0x0f, 0x34]), Some(13));
    }

    #[test]
    fn swapgs_exchanges_the_bases_at_level_0_only() {
        let mut bench = bench();
        bench.change(|state| {
            state.msr.kernel_gs_base = 0x1111;
            state.seg[SegReg::Gs as usize].base = 0x2222;
        });
        assert_eq!(bench.run(&[0x0f, 0x01, 0xf8], 1), Stop::Limit);
        assert_eq!(bench.cpu.msr.kernel_gs_base, 0x2222);
        assert_eq!(bench.cpu.seg[SegReg::Gs as usize].base, 0x1111);
        let mut bench = self::bench().at_level_3();
        assert_eq!(bench.run_to_halt(&[0x0f, 0x01, 0xf8]), Some(13));
    }

    #[test]
    fn base_instructions_need_the_feature_and_cr4() {
        // WRFSBASE RAX; RDFSBASE RCX
        let code = [0xf3, 0x48, 0x0f, 0xae, 0xd0, 0xf3, 0x48, 0x0f, 0xae, 0xc1];
        assert_eq!(bench().run_to_halt(&code), Some(6), "the model lacks it");
        let mut bench = bench();
        bench.cpu.model.features |= crate::model::Features::FSGSBASE;
        bench.change(|state| state.gpr[gpr::RAX] = 0xffff_8000_0000_0000);
        assert_eq!(bench.run_to_halt(&code), Some(6), "CR4.FSGSBASE is clear");
        bench.change(|state| {
            state.halted = false;
            state.rip = CODE;
            state.cr4 |= control::CR4_FSGSBASE;
        });
        assert_eq!(bench.run(&code, 2), Stop::Limit);
        assert_eq!(bench.cpu.gpr[gpr::RCX], 0xffff_8000_0000_0000);
    }
}

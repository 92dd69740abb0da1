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
        let keep = !(rflags::RF | rflags::VM);
        self.set_rflags(flags & keep);
        if flags & rflags::TF != 0 {
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

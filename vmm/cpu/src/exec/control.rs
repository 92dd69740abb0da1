//! Control registers, and what follows from changing them: modes and paging (SDM vol. 3A, 2.5, 4.1
//! and 9.8.5; vol. 2B, MOV to control registers).

use super::Exec;
use crate::cpu::{Cpu, control};
use crate::exception::Abort;
use dejavm_units::Gpa;
use iced_x86::{Code, Instruction, Mnemonic, Register};

/// Bits of CR0 that exist.
const CR0_KNOWN: u64 = 0xe005_003f;
/// Changes of CR0 that make PAE paging read its page-directory-pointer table again.
const CR0_PDPTE: u64 = control::CR0_CD | control::CR0_NW | control::CR0_PG;
/// Changes of CR4 that do.
const CR4_PDPTE: u64 = control::CR4_PAE | control::CR4_PGE | control::CR4_PSE | control::CR4_SMEP;
/// Bits of CR0 that LMSW and SMSW know: PE, MP, EM, TS.
const MACHINE_STATUS: u64 = 0xf;

pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    Some(match i.code() {
        Code::Mov_r32_cr | Code::Mov_r64_cr => |cpu, i| cpu.mov_from_control(i),
        Code::Mov_cr_r32 | Code::Mov_cr_r64 => |cpu, i| cpu.mov_to_control(i),
        _ => match i.mnemonic() {
            Mnemonic::Clts => |cpu, _| cpu.clts(),
            Mnemonic::Smsw => |cpu, i| cpu.smsw(i),
            Mnemonic::Lmsw => |cpu, i| cpu.lmsw(i),
            Mnemonic::Invlpg => |cpu, i| cpu.invlpg(i),
            // Caches are not modelled.
            Mnemonic::Invd | Mnemonic::Wbinvd | Mnemonic::Wbnoinvd => |cpu, _| cpu.require_cpl0(),
            _ => return None,
        },
    })
}

impl Cpu {
    /// #GP(0) unless at privilege level 0 (real mode is).
    pub(crate) fn require_cpl0(&mut self) -> Result<(), Abort> {
        if self.cpl == 0 { Ok(()) } else { Err(self.general_protection(0)) }
    }

    fn mov_from_control(&mut self, i: &Instruction) -> Result<(), Abort> {
        let value = match i.op_register(1) {
            Register::CR0 => self.cr0,
            Register::CR2 => self.cr2,
            Register::CR3 => self.cr3,
            Register::CR4 => self.cr4,
            Register::CR8 => {
                self.require_cpl0()?;
                self.require_alone()?;
                u64::from(self.bus().cr8() & 0xf)
            }
            _ => return Err(self.undefined_opcode()),
        };
        self.require_cpl0()?;
        self.set_reg(i.op_register(0), value);
        Ok(())
    }

    fn mov_to_control(&mut self, i: &Instruction) -> Result<(), Abort> {
        let value = self.reg(i.op_register(1));
        let register = i.op_register(0);
        let known = matches!(
            register,
            Register::CR0 | Register::CR2 | Register::CR3 | Register::CR4 | Register::CR8
        );
        if !known {
            return Err(self.undefined_opcode());
        }
        self.require_cpl0()?;
        match register {
            Register::CR0 => self.set_cr0(value),
            Register::CR2 => {
                self.cr2 = value;
                Ok(())
            }
            Register::CR3 => self.set_cr3(value),
            Register::CR4 => self.set_cr4(value),
            _ => self.set_cr8(value),
        }
    }

    /// MOV CR0 (SDM vol. 2B, MOV to control registers: exceptions).
    pub(crate) fn set_cr0(&mut self, value: u64) -> Result<(), Abort> {
        let paging = value & control::CR0_PG != 0;
        let was_paging = self.cr0 & control::CR0_PG != 0;
        if value >> 32 != 0
            || paging && value & control::CR0_PE == 0
            || value & control::CR0_NW != 0 && value & control::CR0_CD == 0
        {
            return Err(self.general_protection(0));
        }
        let new = value & CR0_KNOWN | control::CR0_ET;
        let pae = self.cr4 & control::CR4_PAE != 0;
        let long_enabled = self.efer & control::EFER_LME != 0;
        let mut efer = self.efer;
        if paging && !was_paging && long_enabled {
            // IA-32e activation: no 64-bit CS yet, and no 16-bit TSS.
            let tss16 = self.tr.rights.kind() & 8 == 0 && !self.tr.rights.is_null();
            if !pae || self.cs().rights.is_long() || tss16 {
                return Err(self.general_protection(0));
            }
            efer |= control::EFER_LMA;
        } else if !paging && was_paging {
            if self.is_64bit() {
                return Err(self.general_protection(0));
            }
            efer &= !control::EFER_LMA;
        }
        let changed = (self.cr0 ^ new) & CR0_PDPTE != 0;
        if changed && paging && pae && efer & control::EFER_LMA == 0 {
            self.load_pdptes(self.cr3)?;
        }
        self.cr0 = new;
        self.efer = efer;
        self.translations_changed();
        Ok(())
    }

    /// MOV CR3.
    pub(crate) fn set_cr3(&mut self, value: u64) -> Result<(), Abort> {
        if self.is_long_mode() && value >> crate::mmu::PHYSICAL_BITS != 0 {
            return Err(self.general_protection(0));
        }
        if self.uses_pdptes() {
            self.load_pdptes(value)?;
        }
        self.cr3 = value;
        self.translations_changed();
        Ok(())
    }

    /// MOV CR4.
    pub(crate) fn set_cr4(&mut self, value: u64) -> Result<(), Abort> {
        if value & !self.model.cr4_bits() != 0 {
            return Err(self.general_protection(0));
        }
        let pae = value & control::CR4_PAE != 0;
        if !pae && self.is_long_mode() {
            return Err(self.general_protection(0));
        }
        let paging = self.cr0 & control::CR0_PG != 0;
        let changed = (self.cr4 ^ value) & CR4_PDPTE != 0;
        if changed && paging && pae && !self.is_long_mode() {
            self.load_pdptes(self.cr3)?;
        }
        self.cr4 = value;
        self.translations_changed();
        Ok(())
    }

    fn set_cr8(&mut self, value: u64) -> Result<(), Abort> {
        if value > 15 {
            return Err(self.general_protection(0));
        }
        self.require_alone()?;
        let at = self.position;
        self.bus().set_cr8(value as u8, at);
        self.end_of_block = true;
        Ok(())
    }

    fn translations_changed(&mut self) {
        self.flush_translations();
        self.end_of_block = true;
    }

    /// PAE paging outside IA-32e mode is on.
    pub(crate) fn uses_pdptes(&self) -> bool {
        self.cr0 & control::CR0_PG != 0 && self.cr4 & control::CR4_PAE != 0 && !self.is_long_mode()
    }

    /// Reads the four page-directory-pointer entries at `cr3`; #GP(0), and none changed, if a
    /// present one has reserved bits set (SDM vol. 3A, 4.4.1).
    pub(crate) fn load_pdptes(&mut self, cr3: u64) -> Result<(), Abort> {
        const RESERVED_LOW: u64 = 0x1e6;
        let reserved = !((1 << crate::mmu::PHYSICAL_BITS) - 1) | RESERVED_LOW;
        let table = cr3 & 0xffff_ffe0;
        let mut entries = [0; 4];
        for (n, entry) in entries.iter_mut().enumerate() {
            let gpa = Gpa(self.a20(table + n as u64 * 8).0);
            let mut bytes = [0xff; 8];
            // A table outside RAM reads as the empty bus does, which sets reserved bits.
            let _ = self.ram().read(gpa, &mut bytes);
            *entry = u64::from_le_bytes(bytes);
            if *entry & 1 != 0 && *entry & reserved != 0 {
                return Err(self.general_protection(0));
            }
        }
        self.pdpte = entries;
        Ok(())
    }

    fn clts(&mut self) -> Result<(), Abort> {
        self.require_cpl0()?;
        self.cr0 &= !control::CR0_TS;
        self.end_of_block = true;
        Ok(())
    }

    fn smsw(&mut self, i: &Instruction) -> Result<(), Abort> {
        self.require_umip()?;
        let value = self.cr0;
        self.write_selector_operand(i, 0, value)
    }

    /// LMSW can set PE but not clear it.
    fn lmsw(&mut self, i: &Instruction) -> Result<(), Abort> {
        self.require_cpl0()?;
        let value = u64::from(self.selector_operand(i, 0)?) & MACHINE_STATUS;
        let kept = self.cr0 & control::CR0_PE;
        self.set_cr0(self.cr0 & !MACHINE_STATUS | value | kept)
    }

    fn invlpg(&mut self, i: &Instruction) -> Result<(), Abort> {
        self.require_cpl0()?;
        let (segment, offset) = self.operand_offset(i);
        let linear = self.unchecked_linear(segment, offset);
        self.invalidate_page(linear);
        self.end_of_block = true;
        Ok(())
    }

    /// CR4.UMIP keeps SGDT, SIDT, SLDT, STR and SMSW from user code (SDM vol. 3A, 2.5).
    pub(crate) fn require_umip(&mut self) -> Result<(), Abort> {
        let guarded = self.cr4 & control::CR4_UMIP != 0 && self.cpl != 0 && !self.is_real_mode();
        if guarded { Err(self.general_protection(0)) } else { Ok(()) }
    }

    /// Segment base plus offset, as instructions use it that access no memory.
    fn unchecked_linear(&self, segment: crate::segment::SegReg, offset: u64) -> u64 {
        use crate::segment::SegReg;
        let base = self.seg[segment as usize].base;
        if !self.is_64bit() {
            return base.wrapping_add(offset) & 0xffff_ffff;
        }
        if matches!(segment, SegReg::Fs | SegReg::Gs) { base.wrapping_add(offset) } else { offset }
    }
}

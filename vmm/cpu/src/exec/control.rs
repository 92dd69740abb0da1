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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::gpr;
    use crate::run::Stop;
    use crate::testing::{Bench, CODE};

    const MOV_CR0_EAX: [u8; 3] = [0x0f, 0x22, 0xc0];
    const MOV_CR3_EAX: [u8; 3] = [0x0f, 0x22, 0xd8];
    const MOV_CR4_EAX: [u8; 3] = [0x0f, 0x22, 0xe0];

    fn load(mut bench: Bench, code: &[u8], value: u64) -> (Option<u8>, Bench) {
        bench.change(|state| {
            state.gpr[gpr::RAX] = value;
            state.rip = CODE;
            state.halted = false;
        });
        let mut code = code.to_vec();
        code.push(0xf4);
        (bench.run_to_halt(&code), bench)
    }

    #[test]
    fn impossible_values_of_cr0_are_refused() {
        for value in [0x8000_0010, 0x2000_0011u64] {
            let (vector, _) = load(Bench::protected().with_tables(), &MOV_CR0_EAX, value);
            assert_eq!(vector, Some(13), "{value:#x}");
        }
        let (vector, _) = load(Bench::long().with_tables(), &MOV_CR0_EAX, 1 << 32 | 0x8000_0011);
        assert_eq!(vector, Some(13));
        // 64-bit code may not switch paging off.
        let (vector, _) = load(Bench::long().with_tables(), &MOV_CR0_EAX, 0x11);
        assert_eq!(vector, Some(13));
    }

    #[test]
    fn reserved_bits_of_cr4_and_absent_features_are_refused() {
        for bit in [11u32, 12, 13, 14, 16, 17, 18, 20, 21, 22, 23] {
            let (vector, _) = load(Bench::protected().with_tables(), &MOV_CR4_EAX, 1 << bit);
            assert_eq!(vector, Some(13), "bit {bit}");
        }
        let (vector, _) = load(Bench::long().with_tables(), &MOV_CR4_EAX, 0x600);
        assert_eq!(vector, Some(13), "PAE cannot go while IA-32e mode is active");
    }

    #[test]
    fn user_code_reads_no_control_register() {
        let mut bench = Bench::protected().with_tables().at_level_3();
        assert_eq!(bench.run_to_halt(&[0x0f, 0x20, 0xc0]), Some(13));
        let mut bench = Bench::protected().with_tables();
        assert_eq!(bench.run_to_halt(&[0x0f, 0x20, 0xc8]), Some(6), "CR1 does not exist");
    }

    /// SDM vol. 3A, 9.8.5.
    #[test]
    fn paging_with_lme_enters_ia32e_mode_and_leaving_it_clears_lma() {
        let mut bench = Bench::long().with_tables();
        bench.change(|state| {
            state.cr0 &= !control::CR0_PG;
            state.efer &= !control::EFER_LMA;
            state.seg[1].rights.0 = 0xc9b;
            state.gpr[gpr::RAX] = state.cr0 | control::CR0_PG;
            state.gpr[gpr::RCX] = state.cr0;
        });
        // MOV CR0, EAX; NOP; MOV CR0, ECX; NOP
        let code = [0x0f, 0x22, 0xc0, 0x90, 0x0f, 0x22, 0xc1, 0x90];
        assert_eq!(bench.run(&code, 2), Stop::Limit);
        assert!(bench.cpu.is_long_mode() && !bench.cpu.is_64bit());
        assert_eq!(bench.go(2), Stop::Limit);
        assert!(!bench.cpu.is_long_mode());
        assert_ne!(bench.cpu.efer & control::EFER_LME, 0);
    }

    #[test]
    fn activating_ia32e_mode_without_pae_is_refused() {
        let mut bench = Bench::protected().with_tables();
        bench.change(|state| state.efer = control::EFER_LME);
        let (vector, bench) = load(bench, &MOV_CR0_EAX, 0x8000_0011);
        assert_eq!(vector, Some(13));
        assert_eq!(bench.cpu.efer, control::EFER_LME);
    }

    /// SDM vol. 3A, 4.4.1.
    #[test]
    fn page_directory_pointers_are_latched_and_checked() {
        let mut bench = Bench::protected().with_tables();
        // PDPTE 0 to a directory with one 2 MiB page.
        bench.poke(0xa000, &0xb001u64.to_le_bytes());
        bench.poke(0xb000, &0x83u64.to_le_bytes());
        bench.change(|state| {
            state.cr4 = control::CR4_PAE;
            state.cr3 = 0xa000;
        });
        let (vector, mut bench) = load(bench, &MOV_CR0_EAX, 0x8000_0011);
        assert_eq!(vector, None);
        assert_eq!(bench.cpu.pdpte, [0xb001, 0, 0, 0]);
        // A reserved bit in a present entry of the next table: #GP, and CR3 stays.
        bench.poke(0xa020, &0xb003u64.to_le_bytes());
        let (vector, bench) = load(bench, &MOV_CR3_EAX, 0xa020);
        assert_eq!(vector, Some(13));
        assert_eq!((bench.cpu.cr3, bench.cpu.pdpte[0]), (0xa000, 0xb001));
    }

    #[test]
    fn cr3_beyond_the_physical_width_is_refused_in_long_mode() {
        let (vector, bench) = load(Bench::long().with_tables(), &MOV_CR3_EAX, 1 << 40);
        assert_eq!((vector, bench.cpu.cr3), (Some(13), 0x1000));
    }

    #[test]
    fn lmsw_sets_pe_and_cannot_clear_it() {
        let mut bench = Bench::protected().with_tables();
        bench.change(|state| state.gpr[gpr::RAX] = 0xffff_fffe);
        assert_eq!(bench.run(&[0x0f, 0x01, 0xf0], 1), Stop::Limit);
        assert_eq!(bench.cpu.cr0 & 0x1f, 0x1f);
        // SMSW EAX; CLTS
        assert_eq!(
            bench.run(&[0x90, 0x90, 0x90, 0x0f, 0x01, 0xe0, 0x0f, 0x06], 2 + 2),
            Stop::Limit
        );
    }

    #[test]
    fn umip_hides_the_tables_from_user_code() {
        for code in [[0x0f, 0x01, 0xe0], [0x0f, 0x00, 0xc0], [0x0f, 0x00, 0xc8]] {
            let mut bench = Bench::protected().with_tables().at_level_3();
            assert_eq!(bench.run(&code, 1), Stop::Limit);
            let mut bench = Bench::protected().with_tables().at_level_3();
            bench.change(|state| state.cr4 = control::CR4_UMIP);
            assert_eq!(bench.run_to_halt(&code), Some(13));
        }
    }

    #[test]
    fn privileged_instructions_fault_at_level_3() {
        let codes: [&[u8]; 8] = [
            &[0xf4],
            &[0x0f, 0x06],
            &[0x0f, 0x08],
            &[0x0f, 0x09],
            &[0x0f, 0x30],
            &[0x0f, 0x32],
            &[0x0f, 0x01, 0x3d, 0, 0, 3, 0],
            &[0x0f, 0x00, 0xd8],
        ];
        for code in codes {
            let mut bench = Bench::protected().with_tables().at_level_3();
            assert_eq!(bench.run_to_halt(code), Some(13), "{code:x?}");
            assert_eq!(bench.stack32(0), 0);
        }
    }
}

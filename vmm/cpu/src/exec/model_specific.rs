//! RDMSR, WRMSR, and the counters: RDTSC, RDTSCP, RDPMC (SDM vol. 4; vol. 2B).

use super::Exec;
use crate::bus::Bus;
use crate::context::Loan;
use crate::cpu::{Cpu, control, gpr};
use crate::exception::Abort;
use crate::mmu::is_canonical;
use crate::segment::SegReg;
use dejavm_memory::GuestRam;
use dejavm_units::Position;
use iced_x86::{Instruction, Mnemonic};

/// Register numbers (SDM vol. 4, table 2-2).
mod number {
    pub(super) const TSC: u32 = 0x10;
    pub(super) const PLATFORM_ID: u32 = 0x17;
    pub(super) const EBL_CR_POWERON: u32 = 0x2a;
    pub(super) const FEATURE_CONTROL: u32 = 0x3a;
    pub(super) const TSC_ADJUST: u32 = 0x3b;
    pub(super) const BIOS_UPDATE_TRIGGER: u32 = 0x79;
    pub(super) const BIOS_SIGN_ID: u32 = 0x8b;
    pub(super) const MTRRCAP: u32 = 0xfe;
    pub(super) const SYSENTER_CS: u32 = 0x174;
    pub(super) const SYSENTER_ESP: u32 = 0x175;
    pub(super) const SYSENTER_EIP: u32 = 0x176;
    pub(super) const MCG_CAP: u32 = 0x179;
    pub(super) const MCG_STATUS: u32 = 0x17a;
    pub(super) const MISC_ENABLE: u32 = 0x1a0;
    pub(super) const DEBUGCTL: u32 = 0x1d9;
    pub(super) const MTRR_VARIABLE: u32 = 0x200;
    pub(super) const MTRR_VARIABLE_LAST: u32 = 0x20f;
    pub(super) const MTRR_FIX64K: u32 = 0x250;
    pub(super) const MTRR_FIX16K: u32 = 0x258;
    pub(super) const MTRR_FIX16K_LAST: u32 = 0x259;
    pub(super) const MTRR_FIX4K: u32 = 0x268;
    pub(super) const MTRR_FIX4K_LAST: u32 = 0x26f;
    pub(super) const PAT: u32 = 0x277;
    pub(super) const MTRR_DEF_TYPE: u32 = 0x2ff;
    pub(super) const EFER: u32 = 0xc000_0080;
    pub(super) const STAR: u32 = 0xc000_0081;
    pub(super) const LSTAR: u32 = 0xc000_0082;
    pub(super) const CSTAR: u32 = 0xc000_0083;
    pub(super) const FMASK: u32 = 0xc000_0084;
    pub(super) const FS_BASE: u32 = 0xc000_0100;
    pub(super) const GS_BASE: u32 = 0xc000_0101;
    pub(super) const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub(super) const TSC_AUX: u32 = 0xc000_0103;
}

/// IA32_MTRRCAP: eight variable ranges, fixed ranges, write combining.
const MTRR_CAPABILITIES: u64 = 0x508;
/// A microcode revision that no update file beats for long.
const MICROCODE_REVISION: u64 = 1 << 32;
/// IA32_FEATURE_CONTROL: locked, nothing enabled.
const FEATURE_CONTROL_LOCKED: u64 = 1;
/// The only bit of IA32_MISC_ENABLE that is kept: fast strings.
const MISC_ENABLE_KEPT: u64 = 1;
/// IA32_DEBUGCTL.LBR and BTF are kept, without effect.
const DEBUGCTL_KEPT: u64 = 3;

pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    Some(match i.mnemonic() {
        Mnemonic::Rdmsr => |cpu, _| cpu.rdmsr(),
        Mnemonic::Wrmsr => |cpu, _| cpu.wrmsr(),
        Mnemonic::Rdtsc => |cpu, _| cpu.rdtsc(),
        Mnemonic::Rdtscp => |cpu, _| {
            cpu.rdtsc()?;
            cpu.gpr[gpr::RCX] = cpu.msr.tsc_aux & 0xffff_ffff;
            Ok(())
        },
        // The models have no performance counters, so every counter number is wrong.
        Mnemonic::Rdpmc => |cpu, _| Err(cpu.general_protection(0)),
        _ => return None,
    })
}

/// Whether a byte is a memory type that MTRRs know: UC, WC, WT, WP, WB.
fn is_mtrr_type(kind: u64) -> bool {
    matches!(kind, 0 | 1 | 4 | 5 | 6)
}

/// Whether all eight bytes are memory types; the PAT knows UC- (7) too.
fn are_memory_types(value: u64, with_uc_minus: bool) -> bool {
    value.to_le_bytes().iter().all(|&byte| is_mtrr_type(byte.into()) || with_uc_minus && byte == 7)
}

/// Index in `Msrs::mtrr_fixed` of a fixed-range register.
fn fixed_mtrr(number: u32) -> Option<usize> {
    match number {
        number::MTRR_FIX64K => Some(0),
        number::MTRR_FIX16K..=number::MTRR_FIX16K_LAST => {
            Some((number - number::MTRR_FIX16K) as usize + 1)
        }
        number::MTRR_FIX4K..=number::MTRR_FIX4K_LAST => {
            Some((number - number::MTRR_FIX4K) as usize + 3)
        }
        _ => None,
    }
}

/// Whether the register exists only with IA-32e mode.
fn is_long_mode_register(msr: u32) -> bool {
    matches!(msr, number::STAR..=number::FMASK | number::FS_BASE..=number::KERNEL_GS_BASE)
}

impl Cpu {
    /// RDMSR by another engine at a position of its own: the value, or `None` for #GP(0).
    pub fn read_model_specific(
        &mut self,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        msr: u32,
        at: Position,
    ) -> Option<u64> {
        self.model_specific(ram, bus, at, |cpu| cpu.read_msr(msr))
    }

    /// WRMSR by another engine at a position of its own; `false` for #GP(0).
    pub fn write_model_specific(
        &mut self,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        msr: u32,
        value: u64,
        at: Position,
    ) -> bool {
        self.model_specific(ram, bus, at, |cpu| cpu.write_msr(msr, value)).is_some()
    }

    fn model_specific<T>(
        &mut self,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        at: Position,
        access: impl FnOnce(&mut Cpu) -> Result<T, Abort>,
    ) -> Option<T> {
        let Loan { cpu } = &mut self.lend(ram, bus);
        let before = (std::mem::replace(&mut cpu.alone, true), cpu.abort);
        let here = std::mem::replace(&mut cpu.position, at);
        let result = access(cpu).ok();
        cpu.position = here;
        // The exception is the other engine's to deliver.
        (cpu.alone, cpu.abort) = before;
        result
    }

    fn rdmsr(&mut self) -> Result<(), Abort> {
        self.require_cpl0()?;
        let number = self.gpr[gpr::RCX] as u32;
        let value = self.read_msr(number)?;
        self.gpr[gpr::RAX] = value & 0xffff_ffff;
        self.gpr[gpr::RDX] = value >> 32;
        Ok(())
    }

    fn wrmsr(&mut self) -> Result<(), Abort> {
        self.require_cpl0()?;
        let number = self.gpr[gpr::RCX] as u32;
        let value = self.gpr[gpr::RAX] & 0xffff_ffff | self.gpr[gpr::RDX] << 32;
        self.write_msr(number, value)?;
        self.end_of_block = true;
        Ok(())
    }

    fn rdtsc(&mut self) -> Result<(), Abort> {
        if self.cr4 & control::CR4_TSD != 0 && self.cpl != 0 {
            return Err(self.general_protection(0));
        }
        let value = self.time_stamp_counter()?;
        self.gpr[gpr::RAX] = value & 0xffff_ffff;
        self.gpr[gpr::RDX] = value >> 32;
        Ok(())
    }

    fn time_stamp_counter(&mut self) -> Result<u64, Abort> {
        // `position` is exact in every instruction that runs by its reference semantics.
        let at = self.position;
        Ok(self.bus().tsc(at).wrapping_add(self.msr.tsc_offset))
    }

    fn has_msr(&self, msr: u32) -> bool {
        let long = self.model.has_long_mode();
        match msr {
            number::TSC_AUX => self.model.has_rdtscp(),
            number::TSC_ADJUST => self.model.has_tsc_adjust(),
            _ => long || !is_long_mode_register(msr),
        }
    }

    fn read_msr(&mut self, msr: u32) -> Result<u64, Abort> {
        if !self.has_msr(msr) {
            return Err(self.general_protection(0));
        }
        Ok(match msr {
            number::TSC => self.time_stamp_counter()?,
            number::PLATFORM_ID | number::EBL_CR_POWERON => 0,
            number::FEATURE_CONTROL => FEATURE_CONTROL_LOCKED,
            // Nothing but WRMSR moves the counter, so offset and adjustment are the same number.
            number::TSC_ADJUST => self.msr.tsc_offset,
            number::BIOS_SIGN_ID => MICROCODE_REVISION,
            number::MTRRCAP => MTRR_CAPABILITIES,
            number::SYSENTER_CS => self.msr.sysenter_cs,
            number::SYSENTER_ESP => self.msr.sysenter_esp,
            number::SYSENTER_EIP => self.msr.sysenter_eip,
            // Machine check exists, with no banks.
            number::MCG_CAP | number::MCG_STATUS => 0,
            number::MISC_ENABLE => self.msr.misc_enable,
            number::DEBUGCTL => self.msr.debugctl,
            number::MTRR_VARIABLE..=number::MTRR_VARIABLE_LAST => {
                let index = (msr - number::MTRR_VARIABLE) as usize;
                self.msr.mtrr_variable[index / 2][index % 2]
            }
            number::PAT => self.msr.pat,
            number::MTRR_DEF_TYPE => self.msr.mtrr_def_type,
            number::EFER => self.efer,
            number::STAR => self.msr.star,
            number::LSTAR => self.msr.lstar,
            number::CSTAR => self.msr.cstar,
            number::FMASK => self.msr.sfmask,
            number::FS_BASE => self.seg[SegReg::Fs as usize].base,
            number::GS_BASE => self.seg[SegReg::Gs as usize].base,
            number::KERNEL_GS_BASE => self.msr.kernel_gs_base,
            number::TSC_AUX => self.msr.tsc_aux,
            _ => {
                if let Some(index) = fixed_mtrr(msr) {
                    return Ok(self.msr.mtrr_fixed[index]);
                }
                self.require_alone()?;
                let at = self.position;
                match self.bus().msr_read(msr, at) {
                    Some(value) => value,
                    None => return Err(self.general_protection(0)),
                }
            }
        })
    }

    /// #GP(0) unless `allowed`.
    fn require_valid(&mut self, allowed: bool) -> Result<(), Abort> {
        if allowed { Ok(()) } else { Err(self.general_protection(0)) }
    }

    fn write_msr(&mut self, msr: u32, value: u64) -> Result<(), Abort> {
        let exists = self.has_msr(msr);
        self.require_valid(exists)?;
        match msr {
            number::TSC => {
                let now = self.time_stamp_counter()?;
                let moved = value.wrapping_sub(now);
                self.msr.tsc_offset = self.msr.tsc_offset.wrapping_add(moved);
            }
            number::TSC_ADJUST => self.msr.tsc_offset = value,
            // Writing clears the revision until CPUID puts it back; updates are accepted and
            // change nothing.
            number::BIOS_SIGN_ID | number::BIOS_UPDATE_TRIGGER | number::EBL_CR_POWERON => {}
            number::SYSENTER_CS => self.msr.sysenter_cs = value & 0xffff_ffff,
            number::SYSENTER_ESP => {
                self.require_valid(is_canonical(value))?;
                self.msr.sysenter_esp = value;
            }
            number::SYSENTER_EIP => {
                self.require_valid(is_canonical(value))?;
                self.msr.sysenter_eip = value;
            }
            number::MCG_STATUS => self.require_valid(value == 0)?,
            number::MISC_ENABLE => self.msr.misc_enable = value & MISC_ENABLE_KEPT,
            number::DEBUGCTL => self.msr.debugctl = value & DEBUGCTL_KEPT,
            number::MTRR_VARIABLE..=number::MTRR_VARIABLE_LAST => {
                self.write_variable_mtrr((msr - number::MTRR_VARIABLE) as usize, value)?;
            }
            number::PAT => {
                self.require_valid(are_memory_types(value, true))?;
                self.msr.pat = value;
            }
            number::MTRR_DEF_TYPE => {
                self.require_valid(value & !0xcff == 0 && is_mtrr_type(value & 0xff))?;
                self.msr.mtrr_def_type = value;
            }
            number::EFER => self.write_efer(value)?,
            number::STAR => self.msr.star = value,
            number::LSTAR => {
                self.require_valid(is_canonical(value))?;
                self.msr.lstar = value;
            }
            number::CSTAR => {
                self.require_valid(is_canonical(value))?;
                self.msr.cstar = value;
            }
            number::FMASK => self.msr.sfmask = value & 0xffff_ffff,
            number::FS_BASE => {
                self.require_valid(is_canonical(value))?;
                self.seg[SegReg::Fs as usize].base = value;
            }
            number::GS_BASE => {
                self.require_valid(is_canonical(value))?;
                self.seg[SegReg::Gs as usize].base = value;
            }
            number::KERNEL_GS_BASE => {
                self.require_valid(is_canonical(value))?;
                self.msr.kernel_gs_base = value;
            }
            number::TSC_AUX => {
                self.require_valid(value >> 32 == 0)?;
                self.msr.tsc_aux = value;
            }
            number::PLATFORM_ID | number::FEATURE_CONTROL | number::MTRRCAP | number::MCG_CAP => {
                return Err(self.general_protection(0));
            }
            _ => {
                if let Some(index) = fixed_mtrr(msr) {
                    self.require_valid(are_memory_types(value, false))?;
                    self.msr.mtrr_fixed[index] = value;
                    return Ok(());
                }
                self.require_alone()?;
                let at = self.position;
                let accepted = self.bus().msr_write(msr, value, at);
                self.require_valid(accepted)?;
            }
        }
        Ok(())
    }

    fn write_variable_mtrr(&mut self, index: usize, value: u64) -> Result<(), Abort> {
        let address = value >> crate::mmu::PHYSICAL_BITS == 0;
        let low = if index.is_multiple_of(2) {
            value & 0xf00 == 0 && is_mtrr_type(value & 0xff)
        } else {
            value & 0x7ff == 0
        };
        self.require_valid(address && low)?;
        self.msr.mtrr_variable[index / 2][index % 2] = value;
        Ok(())
    }

    /// IA32_EFER (SDM vol. 3A, 2.2.1): LMA cannot be written, LME not while paging is on.
    fn write_efer(&mut self, value: u64) -> Result<(), Abort> {
        let known = self.model.efer_bits();
        let changes_lme = (value ^ self.efer) & control::EFER_LME != 0;
        let paging = self.cr0 & control::CR0_PG != 0;
        self.require_valid(value & !(known | control::EFER_LMA) == 0)?;
        self.require_valid(!(changes_lme && paging))?;
        self.efer = value & known & !control::EFER_LMA | self.efer & control::EFER_LMA;
        self.flush_translations();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;
    use crate::run::Stop;
    use crate::testing::{Bench, CODE};

    const RDMSR: [u8; 3] = [0x0f, 0x32, 0xf4];
    const WRMSR: [u8; 3] = [0x0f, 0x30, 0xf4];

    fn write(bench: &mut Bench, msr: u32, value: u64) -> Option<u8> {
        bench.change(|state| {
            state.halted = false;
            state.rip = CODE;
            state.gpr[gpr::RCX] = msr.into();
            state.gpr[gpr::RAX] = value & 0xffff_ffff;
            state.gpr[gpr::RDX] = value >> 32;
        });
        bench.run_to_halt(&WRMSR)
    }

    fn read(bench: &mut Bench, msr: u32) -> Option<u64> {
        bench.change(|state| {
            state.halted = false;
            state.rip = CODE;
            state.gpr[gpr::RCX] = msr.into();
        });
        match bench.run_to_halt(&RDMSR) {
            None => Some(bench.cpu.gpr[gpr::RDX] << 32 | bench.cpu.gpr[gpr::RAX]),
            Some(vector) => {
                assert_eq!(vector, 13);
                None
            }
        }
    }

    #[test]
    fn registers_read_back_what_was_written() {
        for (msr, value) in [
            (0xc000_0081u32, 0x0123_4567_89ab_cdefu64),
            (0xc000_0082, 0xffff_8000_1234_5678),
            (0xc000_0084, 0x4_7700),
            (0xc000_0100, 0x7fff_ffff_f000),
            (0xc000_0102, 0xffff_ffff_8000_0000),
            (0xc000_0103, 0x1001),
            (0x174, 0x10),
            (0x175, 0xffff_fe00_0000_1000),
            (0x277, 0x0007_0106_0007_0106),
            (0x2ff, 0xc06),
            (0x250, 0x0606_0606_0606_0606),
            (0x26f, 0x0505_0505_0505_0505),
            (0x200, 0xc000_0000),
            (0x20f, 0xff_c000_0800),
        ] {
            let mut bench = Bench::long().with_tables();
            assert_eq!(write(&mut bench, msr, value), None, "{msr:#x}");
            assert_eq!(read(&mut bench, msr), Some(value), "{msr:#x}");
        }
    }

    #[test]
    fn values_that_the_manual_forbids_are_refused() {
        for (msr, value) in [
            (0xc000_0082u32, 0x8000_0000_0000u64),
            (0xc000_0100, 0x1_0000_0000_0000),
            (0xc000_0103, 1 << 32),
            (0x277, 0x0007_0206_0007_0406),
            (0x250, 0x07),
            (0x2ff, 0x1000),
            (0x2ff, 0x02),
            (0x201, 1 << 41),
            (0xc000_0080, 1 << 1),
            (0xc000_0080, 1 << 12),
            (0xfe, 0),
            (0x179, 0),
            (0xdead_beef, 0),
        ] {
            let mut bench = Bench::long().with_tables();
            assert_eq!(write(&mut bench, msr, value), Some(13), "{msr:#x} = {value:#x}");
        }
        assert_eq!(read(&mut Bench::long().with_tables(), 0xdead_beef), None);
    }

    #[test]
    fn lme_is_frozen_and_lma_is_the_processors() {
        let mut bench = Bench::long().with_tables();
        let efer = bench.cpu.efer;
        assert_eq!(write(&mut bench, 0xc000_0080, efer & !0x100), Some(13));
        assert_eq!(write(&mut bench, 0xc000_0080, 0x901), None, "LMA clear in the value");
        assert_eq!(read(&mut bench, 0xc000_0080), Some(0xd01));
    }

    #[test]
    fn the_32_bit_model_has_no_long_mode_registers() {
        for msr in [0xc000_0081u32, 0xc000_0100, 0xc000_0102, 0xc000_0103] {
            let mut bench = Bench::protected().with_tables();
            bench.cpu.model = Model::V1;
            assert_eq!(read(&mut bench, msr), None, "{msr:#x}");
        }
        let mut bench = Bench::protected().with_tables();
        bench.cpu.model = Model::V1;
        assert_eq!(write(&mut bench, 0xc000_0080, 0x800), None);
        assert_eq!(write(&mut bench, 0xc000_0080, 0x100), Some(13));
    }

    /// SDM vol. 3B, 17.17.3. The empty board's counter is the position.
    #[test]
    fn writing_the_counter_moves_the_adjustment_and_back() {
        let mut bench = Bench::long().with_tables();
        assert_eq!(write(&mut bench, 0x10, 1000), None);
        let at_write = bench.cpu.position.0 - 2;
        assert_eq!(read(&mut bench, 0x3b), Some(1000 - at_write));
        assert_eq!(write(&mut bench, 0x3b, 0), None);
        let now = bench.cpu.position.0;
        assert_eq!(read(&mut bench, 0x10), Some(now));
    }

    #[test]
    fn rdtsc_obeys_tsd_and_rdpmc_finds_no_counter() {
        let mut bench = Bench::protected().with_tables().at_level_3();
        assert_eq!(bench.run(&[0x0f, 0x31], 1), Stop::Limit);
        let mut bench = Bench::protected().with_tables().at_level_3();
        bench.change(|state| state.cr4 = control::CR4_TSD);
        assert_eq!(bench.run_to_halt(&[0x0f, 0x31]), Some(13));
        let mut bench = Bench::protected().with_tables();
        assert_eq!(bench.run_to_halt(&[0x0f, 0x33]), Some(13));
    }

    #[test]
    fn rdtscp_returns_the_auxiliary_word() {
        let mut bench = Bench::long().with_tables();
        bench.change(|state| state.msr.tsc_aux = 0x1005);
        assert_eq!(bench.run(&[0x0f, 0x01, 0xf9], 1), Stop::Limit);
        assert_eq!(bench.cpu.gpr[gpr::RCX], 0x1005);
    }
}

//! LGDT, LIDT, LLDT, LTR and their stores (SDM vol. 3A, 2.4; vol. 2A and 2B).

use super::Exec;
use super::descriptor::{error_code, is_null, null_segment, system};
use crate::cpu::Cpu;
use crate::exception::Abort;
use crate::flags::zero_extend;
use crate::mmu::is_canonical;
use crate::segment::TableRegister;
use iced_x86::{Instruction, Mnemonic};

pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    Some(match i.mnemonic() {
        Mnemonic::Lgdt => |cpu, i| {
            cpu.gdtr = cpu.load_table_register(i)?;
            Ok(())
        },
        Mnemonic::Lidt => |cpu, i| {
            cpu.idtr = cpu.load_table_register(i)?;
            Ok(())
        },
        Mnemonic::Sgdt => |cpu, i| cpu.store_table_register(i, cpu.gdtr),
        Mnemonic::Sidt => |cpu, i| cpu.store_table_register(i, cpu.idtr),
        Mnemonic::Lldt => |cpu, i| cpu.lldt(i),
        Mnemonic::Ltr => |cpu, i| cpu.ltr(i),
        Mnemonic::Sldt => |cpu, i| cpu.store_system_selector(i, cpu.ldtr.selector),
        Mnemonic::Str => |cpu, i| cpu.store_system_selector(i, cpu.tr.selector),
        _ => return None,
    })
}

impl Cpu {
    fn load_table_register(&mut self, i: &Instruction) -> Result<TableRegister, Abort> {
        self.require_cpl0()?;
        let (segment, offset) = self.operand_offset(i);
        let base_at = zero_extend(offset.wrapping_add(2), self.address_size(i));
        let limit = self.read_sized(segment, offset, 2)? as u16;
        let size = if self.is_64bit() { 8 } else { 4 };
        let mut base = self.read_sized(segment, base_at, size)?;
        if i.code() == iced_x86::Code::Lgdt_m1632_16 || i.code() == iced_x86::Code::Lidt_m1632_16 {
            base &= 0xff_ffff;
        }
        if !is_canonical(base) {
            return Err(self.general_protection(0));
        }
        self.end_of_block = true;
        Ok(TableRegister { base, limit })
    }

    fn store_table_register(&mut self, i: &Instruction, table: TableRegister) -> Result<(), Abort> {
        self.require_umip()?;
        let (segment, offset) = self.operand_offset(i);
        let base_at = zero_extend(offset.wrapping_add(2), self.address_size(i));
        let size = if self.is_64bit() { 8 } else { 4 };
        self.probe_write(segment, offset, 2)?;
        self.write_sized(segment, base_at, table.base, size)?;
        self.write_sized(segment, offset, table.limit.into(), 2)
    }

    fn store_system_selector(&mut self, i: &Instruction, selector: u16) -> Result<(), Abort> {
        if self.is_real_mode() || self.is_v86() {
            return Err(self.undefined_opcode());
        }
        self.require_umip()?;
        self.write_selector_operand(i, 0, selector.into())
    }

    fn lldt(&mut self, i: &Instruction) -> Result<(), Abort> {
        if self.is_real_mode() || self.is_v86() {
            return Err(self.undefined_opcode());
        }
        self.require_cpl0()?;
        let selector = self.selector_operand(i, 0)?;
        if is_null(selector) {
            self.ldtr = null_segment(selector);
            self.end_of_block = true;
            return Ok(());
        }
        let (descriptor, base) = self.system_descriptor(selector)?;
        if !descriptor.is_system(system::LDT) {
            return Err(self.general_protection(error_code(selector)));
        }
        if !descriptor.rights().is_present() {
            return Err(self.not_present(error_code(selector)));
        }
        self.ldtr = descriptor.segment(selector);
        self.ldtr.base = base;
        self.end_of_block = true;
        Ok(())
    }

    fn ltr(&mut self, i: &Instruction) -> Result<(), Abort> {
        if self.is_real_mode() || self.is_v86() {
            return Err(self.undefined_opcode());
        }
        self.require_cpl0()?;
        let selector = self.selector_operand(i, 0)?;
        if is_null(selector) {
            return Err(self.general_protection(0));
        }
        let (descriptor, base) = self.system_descriptor(selector)?;
        let available = descriptor.is_system(system::TSS32_AVAILABLE)
            || !self.is_long_mode() && descriptor.is_system(system::TSS16_AVAILABLE);
        if !available {
            return Err(self.general_protection(error_code(selector)));
        }
        if !descriptor.rights().is_present() {
            return Err(self.not_present(error_code(selector)));
        }
        self.set_task_busy(&descriptor, true)?;
        self.tr = descriptor.segment(selector);
        self.tr.base = base;
        self.tr.rights.0 |= 2;
        self.end_of_block = true;
        Ok(())
    }

    /// The system descriptor in the GDT that a selector names, with its 32- or 64-bit base; #GP if
    /// there is none.
    fn system_descriptor(
        &mut self,
        selector: u16,
    ) -> Result<(super::descriptor::Descriptor, u64), Abort> {
        let found = if selector & 4 != 0 {
            None
        } else if self.is_long_mode() {
            self.wide_descriptor(selector)?
        } else {
            self.descriptor(selector)?.map(|descriptor| (descriptor, 0))
        };
        let Some((descriptor, upper)) = found else {
            return Err(self.general_protection(error_code(selector)));
        };
        let base = descriptor.base() | upper << 32;
        if !is_canonical(base) || upper >> 40 & 0x1f != 0 {
            return Err(self.general_protection(error_code(selector)));
        }
        Ok((descriptor, base))
    }

    /// Sets or clears the busy bit of a TSS descriptor in memory.
    pub(crate) fn set_task_busy(
        &mut self,
        descriptor: &super::descriptor::Descriptor,
        busy: bool,
    ) -> Result<(), Abort> {
        let rights = u64::from(descriptor.rights().0 & 0xff);
        let rights = if busy { rights | 2 } else { rights & !2 };
        let address = self.system_linear(descriptor.address, 5);
        self.store_system(address, rights, 1)
    }
}

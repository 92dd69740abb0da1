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

#[cfg(test)]
mod tests {
    use crate::cpu::gpr;
    use crate::run::Stop;
    use crate::testing::{Bench, DATA, segment_descriptor, tables};
    use tables::FREE;

    #[test]
    fn lgdt_and_sgdt_round_the_table() {
        let mut bench = Bench::protected();
        bench.poke(DATA, &[0x34, 0x12, 0x78, 0x56, 0x34, 0x92]);
        // LGDT [DATA]; SGDT [DATA + 0x10]
        let code = [0x0f, 0x01, 0x15, 0, 0, 3, 0, 0x0f, 0x01, 0x05, 0x10, 0, 3, 0];
        assert_eq!(bench.run(&code, 2), Stop::Limit);
        assert_eq!((bench.cpu.gdtr.base, bench.cpu.gdtr.limit), (0x9234_5678, 0x1234));
        assert_eq!(bench.peek::<6>(DATA + 0x10), [0x34, 0x12, 0x78, 0x56, 0x34, 0x92]);
        // With a 16-bit operand the base has 24 bits.
        assert_eq!(
            bench.run(&[[0x90; 14].as_slice(), &[0x66], &code[..7]].concat(), 13),
            Stop::Limit
        );
        bench.change(|state| state.rip = crate::testing::CODE);
        assert_eq!(bench.run(&[&[0x66], &code[..7]].concat(), 1), Stop::Limit);
        assert_eq!(bench.cpu.gdtr.base, 0x34_5678);
    }

    #[test]
    fn lidt_loads_ten_bytes_in_long_mode_and_wants_them_canonical() {
        let mut bench = Bench::long().with_tables();
        bench.poke(DATA, &[0xff, 0x0f, 0, 0x50, 0, 0, 0, 0, 0, 0]);
        let code = [0x0f, 0x01, 0x1c, 0x25, 0, 0, 3, 0];
        assert_eq!(bench.run(&code, 1), Stop::Limit);
        assert_eq!((bench.cpu.idtr.base, bench.cpu.idtr.limit), (0x5000, 0xfff));
        bench.change(|state| state.rip = crate::testing::CODE);
        bench.poke(DATA, &[0xff, 0x0f, 0, 0, 0, 0, 0, 0x80, 0, 0]);
        assert_eq!(bench.run_to_halt(&code), Some(13));
    }

    #[test]
    fn ltr_marks_the_task_busy_and_refuses_a_busy_one() {
        let mut bench = Bench::protected().with_tables();
        bench.set_descriptor(FREE, segment_descriptor(0x7000, 0x67, 0x89, 0));
        bench.change(|state| state.gpr[gpr::RAX] = FREE.into());
        // LTR AX; LTR AX
        assert_eq!(bench.run_to_halt(&[0x0f, 0x00, 0xd8, 0x0f, 0x00, 0xd8]), Some(13));
        assert_eq!(bench.stack32(0), u32::from(FREE));
        assert_eq!((bench.cpu.tr.selector, bench.cpu.tr.base), (FREE, 0x7000));
        assert_eq!(bench.peek::<8>(tables::GDT + u64::from(FREE))[5], 0x8b);
    }

    #[test]
    fn ltr_takes_a_64_bit_base_in_long_mode() {
        let mut bench = Bench::long().with_tables();
        bench.set_descriptor(FREE, segment_descriptor(0x7000, 0x67, 0x89, 0));
        bench.set_descriptor(FREE + 8, 0xffff_8000);
        bench.change(|state| state.gpr[gpr::RAX] = FREE.into());
        assert_eq!(bench.run(&[0x0f, 0x00, 0xd8], 1), Stop::Limit);
        assert_eq!(bench.cpu.tr.base, 0xffff_8000_0000_7000);
    }

    #[test]
    fn lldt_takes_null_and_ldts_of_the_gdt_only() {
        let mut bench = Bench::protected().with_tables();
        assert_eq!(bench.run(&[0x0f, 0x00, 0xd0], 1), Stop::Limit);
        assert!(bench.cpu.ldtr.rights.is_null());
        for (access, vector) in [(0x82u8, None), (0x02, Some(11)), (0x92, Some(13))] {
            let mut bench = Bench::protected().with_tables();
            bench.set_descriptor(FREE, segment_descriptor(0xa000, 0xff, access, 0));
            bench.poke(0xa008, &segment_descriptor(0x1_0000, 0xffff, 0x92, 0).to_le_bytes());
            bench.change(|state| {
                state.gpr[gpr::RAX] = FREE.into();
                state.gpr[gpr::RCX] = 0xc;
            });
            // LLDT AX; MOV DS, CX through the LDT
            let code = [0x0f, 0x00, 0xd0, 0x8e, 0xd9, 0xf4];
            assert_eq!(bench.run_to_halt(&code), vector, "{access:#x}");
            if vector.is_none() {
                assert_eq!((bench.cpu.seg[3].selector, bench.cpu.seg[3].base), (0xc, 0x1_0000));
            }
        }
    }

    #[test]
    fn the_system_registers_do_not_exist_in_real_mode() {
        for code in [[0x0f, 0x00, 0xd0], [0x0f, 0x00, 0xd8], [0x0f, 0x00, 0xc0], [0x0f, 0x00, 0xc8]]
        {
            let mut bench = Bench::real();
            bench.poke(6 * 4, &[0, 0, 0, 0x09]);
            bench.poke(0x9000, &[0xf4]);
            bench.run_to_halt(&code);
            assert_eq!(bench.cpu.cs_linear(bench.cpu.rip), 0x9001);
        }
    }
}

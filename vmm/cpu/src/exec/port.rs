//! Port input and output (SDM vol. 1, chapter 19; vol. 2A, IN and INS; vol. 2B, OUT and OUTS).

use super::Exec;
use super::string::REPETITIONS_MAX;
use crate::cpu::{Cpu, gpr};
use crate::exception::Abort;
use crate::flags::{rflags, zero_extend};
use crate::segment::SegReg;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    Some(match i.mnemonic() {
        Mnemonic::In => |cpu, i| cpu.port_input(i),
        Mnemonic::Out => |cpu, i| cpu.port_output(i),
        Mnemonic::Insb => |cpu, i| cpu.port_string(i, 1, true),
        Mnemonic::Insw => |cpu, i| cpu.port_string(i, 2, true),
        Mnemonic::Insd => |cpu, i| cpu.port_string(i, 4, true),
        Mnemonic::Outsb => |cpu, i| cpu.port_string(i, 1, false),
        Mnemonic::Outsw => |cpu, i| cpu.port_string(i, 2, false),
        Mnemonic::Outsd => |cpu, i| cpu.port_string(i, 4, false),
        _ => return None,
    })
}

impl Cpu {
    /// #GP(0) unless IOPL or the TSS's I/O permission bitmap lets this level use `size` ports (SDM
    /// vol. 1, 19.5).
    fn check_port(&mut self, port: u16, size: u32) -> Result<(), Abort> {
        if self.is_real_mode() || !self.is_v86() && self.cpl <= self.iopl() {
            return Ok(());
        }
        if self.tr.rights.kind() & 8 == 0 || self.tr.rights.is_null() {
            return Err(self.general_protection(0));
        }
        let map = self.tss_field(0x66, 2)?;
        // Two bytes are read whatever the port: the map must end in a byte of ones.
        let bits = self.tss_field(map + u64::from(port / 8), 2)?;
        let wanted = (1u64 << size) - 1;
        if bits >> (port & 7) & wanted != 0 {
            return Err(self.general_protection(0));
        }
        Ok(())
    }

    fn port_operand(&self, i: &Instruction, n: u32) -> u16 {
        if i.op_kind(n) == OpKind::Register {
            self.gpr[gpr::RDX] as u16
        } else {
            u16::from(i.immediate8())
        }
    }

    fn port_input(&mut self, i: &Instruction) -> Result<(), Abort> {
        let port = self.port_operand(i, 1);
        let size = i.op_register(0).size() as u32;
        self.check_port(port, size)?;
        self.require_alone()?;
        self.port_breakpoint(port, size);
        let at = self.position;
        let value = self.bus().port_in(port, size as u8, at);
        self.set_reg(i.op_register(0), zero_extend(value.into(), size));
        self.end_of_block = true;
        Ok(())
    }

    fn port_output(&mut self, i: &Instruction) -> Result<(), Abort> {
        let port = self.port_operand(i, 0);
        let size = i.op_register(1).size() as u32;
        self.check_port(port, size)?;
        self.require_alone()?;
        self.port_breakpoint(port, size);
        let value = self.reg(i.op_register(1)) as u32;
        let at = self.position;
        self.bus().port_out(port, size as u8, value, at);
        self.end_of_block = true;
        Ok(())
    }

    /// INS and OUTS. A repeated one transfers all its elements in one execution; registers move
    /// with each, so that a page fault restarts it where it stopped.
    fn port_string(&mut self, i: &Instruction, size: u32, input: bool) -> Result<(), Abort> {
        let port = self.gpr[gpr::RDX] as u16;
        self.check_port(port, size)?;
        self.require_alone()?;
        self.end_of_block = true;
        let (index, width) = string_index(i, input);
        let repeated = i.has_rep_prefix() || i.has_repne_prefix();
        let at = self.position;
        let step = if self.flag(rflags::DF) { u64::from(size).wrapping_neg() } else { size.into() };
        let mut allowed = REPETITIONS_MAX;
        loop {
            if repeated && zero_extend(self.gpr[gpr::RCX], width) == 0 {
                return Ok(());
            }
            if allowed == 0 {
                self.repeat_later();
                return Ok(());
            }
            allowed -= 1;
            let offset = zero_extend(self.gpr[index], width);
            if input {
                self.probe_write(SegReg::Es, offset, size)?;
                let value = self.bus().port_in(port, size as u8, at);
                self.write_sized(SegReg::Es, offset, value.into(), size)?;
            } else {
                let segment = self.operand_segment(i);
                let value = self.read_sized(segment, offset, size)?;
                self.bus().port_out(port, size as u8, value as u32, at);
            }
            self.port_breakpoint(port, size);
            self.advance(index, step, width);
            if !repeated {
                return Ok(());
            }
            self.advance(gpr::RCX, u64::MAX, width);
        }
    }

    /// Adds to an index or count register of the address size.
    fn advance(&mut self, register: usize, step: u64, width: u32) {
        let value = &mut self.gpr[register];
        let sum = value.wrapping_add(step);
        *value = match width {
            2 => *value & !0xffff | sum & 0xffff,
            4 => sum & 0xffff_ffff,
            _ => sum,
        };
    }
}

/// The register that indexes memory, and the address size in bytes.
fn string_index(i: &Instruction, input: bool) -> (usize, u32) {
    let kind = if input { i.op0_kind() } else { i.op1_kind() };
    let width = match kind {
        OpKind::MemoryESDI | OpKind::MemorySegSI => 2,
        OpKind::MemoryESEDI | OpKind::MemorySegESI => 4,
        _ => 8,
    };
    debug_assert_eq!(i.memory_base(), Register::None);
    (if input { gpr::RDI } else { gpr::RSI }, width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Stop;
    use crate::testing::{Bench, DATA, tables};

    #[test]
    fn the_three_widths_reach_the_bus() {
        let mut bench = Bench::protected();
        bench.change(|state| {
            state.gpr[gpr::RAX] = 0x1234_5678;
            state.gpr[gpr::RDX] = 0xfedc_0cf8;
        });
        // OUT 0x80, AL; OUT DX, AX; OUT DX, EAX; IN AL, DX
        assert_eq!(bench.run(&[0xe6, 0x80, 0x66, 0xef, 0xef, 0xec], 4), Stop::Limit);
        let writes = [(0x80, 1, 0x78), (0xcf8, 2, 0x5678), (0xcf8, 4, 0x1234_5678)];
        assert_eq!(bench.board.port_writes, writes);
        assert_eq!(bench.board.port_reads, [(0xcf8, 1)]);
        assert_eq!(bench.cpu.gpr[gpr::RAX], 0x1234_5600);
    }

    /// SDM vol. 1, 19.5.2.
    #[test]
    fn the_permission_bitmap_decides_above_iopl() {
        // (map base, TSS limit, byte of the map for ports 0x78-0x7f, opcode bytes, allowed)
        let cases: [(u16, u32, u8, &[u8], bool); 6] = [
            (0x68, 0x200, 0x00, &[0xe6, 0x7e], true),
            (0x68, 0x200, 0x40, &[0xe6, 0x7e], false),
            (0x68, 0x200, 0x80, &[0x66, 0xe7, 0x7e], false),
            (0x68, 0x200, 0x80, &[0xe6, 0x7e], true),
            // The map must reach one byte beyond the port's.
            (0x68, 0x68 + 0xf, 0x00, &[0xe6, 0x7e], false),
            (0x201, 0x200, 0x00, &[0xe6, 0x7e], false),
        ];
        for (base, limit, byte, code, allowed) in cases {
            let mut bench = Bench::protected().with_tables().at_level_3();
            bench.poke(tables::TSS + 0x66, &base.to_le_bytes());
            bench.poke(tables::TSS + 0x68 + 0xf, &[byte]);
            bench.change(|state| state.tr.limit = limit);
            if allowed {
                assert_eq!(bench.run(code, 1), Stop::Limit);
                assert_eq!(bench.board.port_writes.len(), 1);
            } else {
                assert_eq!(bench.run_to_halt(code), Some(13), "{code:x?}");
                assert!(bench.board.port_writes.is_empty());
            }
        }
        let mut bench = Bench::protected().with_tables().at_level_3();
        bench.change(|state| state.rflags = 0x3002);
        assert_eq!(bench.run(&[0xe6, 0x7e], 1), Stop::Limit);
    }

    #[test]
    fn a_repeated_transfer_is_one_instruction() {
        let mut bench = Bench::protected();
        bench.poke(DATA, &[1, 2, 3, 4]);
        bench.change(|state| {
            state.gpr[gpr::RSI] = DATA;
            state.gpr[gpr::RDX] = 0x3f8;
            state.gpr[gpr::RCX] = 4;
        });
        // REP OUTSB
        assert_eq!(bench.run(&[0xf3, 0x6e], 1), Stop::Limit);
        let bytes: Vec<u32> = bench.board.port_writes.iter().map(|&(_, _, value)| value).collect();
        assert_eq!(bytes, [1, 2, 3, 4]);
        assert_eq!((bench.cpu.gpr[gpr::RCX], bench.cpu.gpr[gpr::RSI]), (0, DATA + 4));
    }

    #[test]
    fn a_fault_in_the_middle_leaves_what_is_left_to_do() {
        let mut bench = Bench::long().with_tables();
        bench.change(|state| {
            state.gpr[gpr::RDI] = 0x3f_fffe;
            state.gpr[gpr::RDX] = 0x1f0;
            state.gpr[gpr::RCX] = 4;
        });
        // REP INSW into the end of the mapped 4 MiB.
        assert_eq!(bench.run_to_halt(&[0xf3, 0x66, 0x6d]), Some(14));
        assert_eq!((bench.cpu.gpr[gpr::RCX], bench.cpu.gpr[gpr::RDI]), (3, 0x40_0000));
        assert_eq!(bench.board.port_reads.len(), 1, "the faulting element was not read");
        assert_eq!(bench.cpu.cr2, 0x40_0000);
    }
}

//! Port input and output (SDM vol. 1, chapter 19; vol. 2A, IN and INS; vol. 2B, OUT and OUTS).

use super::Exec;
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
        loop {
            if repeated && zero_extend(self.gpr[gpr::RCX], width) == 0 {
                return Ok(());
            }
            let offset = zero_extend(self.gpr[index], width);
            if input {
                self.probe_write(SegReg::Es, offset, size)?;
                let value = self.bus().port_in(port, size as u8, at);
                self.write_sized(SegReg::Es, offset, value.into(), size)?;
            } else {
                let segment = super::operand::segment_of(i.memory_segment());
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

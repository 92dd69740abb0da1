//! Control: FNINIT, FNCLEX, control and status words, environments and whole states, the stack's
//! own instructions, WAIT.

use super::st_number;
use crate::cpu::{Cpu, control};
use crate::exception::{Abort, vector};
use crate::exec::{Done, Exec};
use crate::fpu::{F80, Fpu, status};
use iced_x86::{Instruction, Mnemonic};

pub(super) fn select(i: &Instruction) -> Option<Exec> {
    use Mnemonic as M;
    Some(match i.mnemonic() {
        M::Wait => wait,
        M::Fnop => |cpu, _| cpu.x87_ready(),
        // Instructions of the 8087 and 80287 that their successors ignore.
        M::Fneni | M::Fndisi | M::Fnsetpm => |cpu, _| cpu.x87_available(),
        M::Fninit => |cpu, _| {
            cpu.x87_available()?;
            cpu.fpu.initialize();
            Ok(())
        },
        M::Fnclex => |cpu, _| {
            cpu.x87_available()?;
            cpu.fpu.status &= !(status::EXCEPTIONS | status::SF);
            cpu.fpu.summarize();
            Ok(())
        },
        M::Fldcw => |cpu, i| {
            cpu.x87_ready()?;
            let word = cpu.read_operand(i, 0)? as u16;
            cpu.fpu.set_control_word(word);
            Ok(())
        },
        M::Fnstcw => |cpu, i| {
            cpu.x87_available()?;
            let word = cpu.fpu.control;
            cpu.write_operand(i, 0, word.into())
        },
        M::Fnstsw => |cpu, i| {
            cpu.x87_available()?;
            let word = cpu.fpu.status_word();
            cpu.write_operand(i, 0, word.into())
        },
        M::Fnstenv => store_environment,
        M::Fldenv => load_environment,
        M::Fnsave => save,
        M::Frstor => restore,
        M::Ffree => |cpu, i| {
            cpu.x87_ready()?;
            cpu.fpu.status &= !status::C1;
            cpu.fpu.free(st_number(i, 0));
            Ok(())
        },
        M::Ffreep => |cpu, i| {
            cpu.x87_ready()?;
            cpu.fpu.status &= !status::C1;
            cpu.fpu.free(st_number(i, 0));
            cpu.fpu.pop();
            Ok(())
        },
        M::Fincstp => |cpu, _| {
            cpu.x87_ready()?;
            cpu.fpu.top = (cpu.fpu.top + 1) & 7;
            cpu.fpu.status &= !status::C1;
            Ok(())
        },
        M::Fdecstp => |cpu, _| {
            cpu.x87_ready()?;
            cpu.fpu.top = cpu.fpu.top.wrapping_sub(1) & 7;
            cpu.fpu.status &= !status::C1;
            Ok(())
        },
        _ => return None,
    })
}

/// WAIT: #NM if CR0.MP and CR0.TS; CR0.EM does not matter.
fn wait(cpu: &mut Cpu, _i: &Instruction) -> Done {
    const BOTH: u64 = control::CR0_MP | control::CR0_TS;
    if cpu.cr0 & BOTH == BOTH {
        return Err(cpu.exception(vector::NM, None));
    }
    cpu.x87_pending()
}

/// The four layouts of the environment (SDM vol. 1, figures 8-9 to 8-12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    /// Seven 32-bit fields; seven 16-bit fields otherwise.
    wide: bool,
    /// Selectors and offsets; 20- and 32-bit linear addresses otherwise.
    protected: bool,
}

/// The longest environment, in bytes.
const ENVIRONMENT_MAX: usize = 28;
/// Bytes of eight registers.
const REGISTERS: usize = 80;

impl Layout {
    /// By the operand's size (the decoder's 14, 28, 94 or 108 bytes) and the mode.
    fn of(cpu: &Cpu, i: &Instruction) -> Layout {
        use iced_x86::Code as C;
        let wide = matches!(
            i.code(),
            C::Fldenv_m28byte | C::Fnstenv_m28byte | C::Frstor_m108byte | C::Fnsave_m108byte
        );
        Layout { wide, protected: !cpu.is_real_mode() && !cpu.is_v86() }
    }

    fn size(self) -> usize {
        if self.wide { 28 } else { 14 }
    }

    /// The seven fields as stored.
    fn encode(self, fpu: &Fpu) -> [u8; ENVIRONMENT_MAX] {
        let (ip, dp) = (fpu.instruction_pointer, fpu.data_pointer);
        let (cs, ds) = (u32::from(fpu.instruction_selector), u32::from(fpu.data_selector));
        let opcode = u32::from(fpu.opcode & 0x7ff);
        let mut fields = [
            fpu.control.into(),
            fpu.status_word().into(),
            fpu.tag_word().into(),
            ip as u32,
            cs | opcode << 16,
            dp as u32,
            ds,
        ];
        if !self.protected {
            let ip = (cs << 4).wrapping_add(ip as u32);
            let dp = (ds << 4).wrapping_add(dp as u32);
            // Bits 15:0, then bits 31:16 at bit 12.
            fields[3] = ip & 0xffff;
            fields[4] = (ip >> 16) << 12 | opcode;
            fields[5] = dp & 0xffff;
            fields[6] = (dp >> 16) << 12;
        }
        let mut bytes = [0; ENVIRONMENT_MAX];
        if self.wide {
            // Reserved upper halves are stored as ones, as processors do.
            let halves: &[usize] = if self.protected { &[0, 1, 2, 6] } else { &[0, 1, 2, 3, 5] };
            for &n in halves {
                fields[n] |= 0xffff_0000;
            }
            for (field, bytes) in fields.iter().zip(bytes.chunks_exact_mut(4)) {
                bytes.copy_from_slice(&field.to_le_bytes());
            }
        } else {
            for (field, bytes) in fields.iter().zip(bytes.chunks_exact_mut(2)) {
                bytes.copy_from_slice(&(*field as u16).to_le_bytes());
            }
        }
        bytes
    }

    /// Takes the seven fields.
    fn decode(self, bytes: &[u8; ENVIRONMENT_MAX], fpu: &mut Fpu) {
        let field = |n: usize| {
            if self.wide {
                u32::from_le_bytes(std::array::from_fn(|k| bytes[4 * n + k]))
            } else {
                u16::from_le_bytes([bytes[2 * n], bytes[2 * n + 1]]).into()
            }
        };
        if self.protected {
            fpu.instruction_pointer = field(3).into();
            fpu.instruction_selector = field(4) as u16;
            fpu.opcode = (field(4) >> 16 & 0x7ff) as u16;
            fpu.data_pointer = field(5).into();
            fpu.data_selector = field(6) as u16;
        } else {
            let address = |low: u32, high: u32| u64::from(low & 0xffff | high >> 12 << 16);
            fpu.instruction_pointer = address(field(3), field(4) & 0x0fff_ffff);
            fpu.instruction_selector = 0;
            fpu.opcode = (field(4) & 0x7ff) as u16;
            fpu.data_pointer = address(field(5), field(6) & 0x0fff_ffff);
            fpu.data_selector = 0;
        }
        fpu.set_tag_word(field(2) as u16);
        fpu.set_control_and_status(field(0) as u16, field(1) as u16);
    }
}

impl Cpu {
    /// Writes a structure at the memory operand, all or nothing.
    fn write_block(&mut self, i: &Instruction, bytes: &[u8]) -> Done {
        let (segment, offset) = self.operand_offset(i);
        let size = bytes.len() as u32;
        let linear = self.linear(segment, offset, size, true)?;
        self.probe_store(linear, size)?;
        let mut at = linear;
        // Every structure's size is even.
        for pair in bytes.chunks_exact(2) {
            self.store(at, u16::from_le_bytes([pair[0], pair[1]]).into(), 2)?;
            at = at.wrapping_add(2);
        }
        Ok(())
    }

    /// Reads a structure at the memory operand.
    fn read_block(&mut self, i: &Instruction, bytes: &mut [u8]) -> Result<(), Abort> {
        let (segment, offset) = self.operand_offset(i);
        let linear = self.linear(segment, offset, bytes.len() as u32, false)?;
        let mut at = linear;
        for pair in bytes.chunks_exact_mut(2) {
            pair.copy_from_slice(&(self.load(at, 2)? as u16).to_le_bytes());
            at = at.wrapping_add(2);
        }
        Ok(())
    }
}

/// FNSTENV: afterwards all exceptions are masked.
fn store_environment(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.x87_available()?;
    let layout = Layout::of(cpu, i);
    let bytes = layout.encode(&cpu.fpu);
    cpu.write_block(i, &bytes[..layout.size()])?;
    cpu.fpu.set_control_word(cpu.fpu.control | status::EXCEPTIONS);
    Ok(())
}

fn load_environment(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.x87_ready()?;
    let layout = Layout::of(cpu, i);
    let mut bytes = [0; ENVIRONMENT_MAX];
    cpu.read_block(i, &mut bytes[..layout.size()])?;
    layout.decode(&bytes, &mut cpu.fpu);
    Ok(())
}

/// FNSAVE: the environment and ST(0) to ST(7); afterwards the FPU is as after FNINIT.
fn save(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.x87_available()?;
    let layout = Layout::of(cpu, i);
    let mut bytes = [0; ENVIRONMENT_MAX + REGISTERS];
    let size = layout.size();
    bytes[..ENVIRONMENT_MAX].copy_from_slice(&layout.encode(&cpu.fpu));
    for (n, ten) in bytes[size..size + REGISTERS].chunks_exact_mut(10).enumerate() {
        ten.copy_from_slice(&cpu.fpu.st(n as u8).bits().to_le_bytes()[..10]);
    }
    cpu.write_block(i, &bytes[..size + REGISTERS])?;
    cpu.fpu.initialize();
    Ok(())
}

fn restore(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.x87_ready()?;
    let layout = Layout::of(cpu, i);
    let mut bytes = [0; ENVIRONMENT_MAX + REGISTERS];
    let size = layout.size();
    cpu.read_block(i, &mut bytes[..size + REGISTERS])?;
    let mut environment = [0; ENVIRONMENT_MAX];
    environment[..size].copy_from_slice(&bytes[..size]);
    layout.decode(&environment, &mut cpu.fpu);
    for (n, ten) in bytes[size..size + REGISTERS].chunks_exact(10).enumerate() {
        let mut bits = [0; 16];
        bits[..10].copy_from_slice(ten);
        let physical = cpu.fpu.physical(n as u8);
        cpu.fpu.registers[physical] = F80::from_bits(u128::from_le_bytes(bits));
    }
    Ok(())
}

impl Fpu {
    /// FNINIT: the control, status, tag words and pointers; the registers keep their values.
    fn initialize(&mut self) {
        *self = Fpu { registers: self.registers, ..Fpu::default() };
    }
}

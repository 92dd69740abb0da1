//! Instructions executed alone, decoded once: those that cross a page, touch devices, wait in loops.
//!
//! An entry is used only if the bytes just fetched are the bytes that it was decoded from, so nothing
//! has to be told when code changes.

use crate::exec::Exec;
use iced_x86::Instruction;

const ENTRIES: usize = 1024;
/// The longest x86 instruction, in bytes.
pub(crate) const INSTRUCTION_BYTES_MAX: usize = 15;

#[derive(Clone, Copy)]
struct Entry {
    /// 16, 32 or 64; 0 for an empty entry.
    bits: u8,
    /// Place in the page: decoded addresses are relative to it.
    offset: u16,
    bytes: [u8; INSTRUCTION_BYTES_MAX],
    instruction: Instruction,
    exec: Exec,
}

/// What the bytes fetched so far say.
pub(crate) enum Recent {
    /// The instruction.
    Known(Instruction, Exec),
    /// Its beginning; fetch more before deciding.
    Longer,
    /// Nothing known.
    Unknown,
}

/// The cache.
pub(crate) struct RecentInstructions {
    entries: Box<[Entry]>,
}

fn index(linear: u64) -> usize {
    (linear ^ linear >> 10) as usize % ENTRIES
}

impl RecentInstructions {
    pub(crate) fn new() -> RecentInstructions {
        let empty = Entry {
            bits: 0,
            offset: 0,
            bytes: [0; INSTRUCTION_BYTES_MAX],
            instruction: Instruction::default(),
            exec: |cpu, _| Err(cpu.undefined_opcode()),
        };
        RecentInstructions { entries: vec![empty; ENTRIES].into_boxed_slice() }
    }

    pub(crate) fn get(&self, linear: u64, bits: u32, bytes: &[u8]) -> Recent {
        let entry = &self.entries[index(linear)];
        if u32::from(entry.bits) != bits || u64::from(entry.offset) != linear & 0xfff {
            return Recent::Unknown;
        }
        let len = entry.instruction.len();
        let have = len.min(bytes.len());
        if entry.bytes[..have] != bytes[..have] {
            return Recent::Unknown;
        }
        if have < len { Recent::Longer } else { Recent::Known(entry.instruction, entry.exec) }
    }

    pub(crate) fn set(
        &mut self,
        linear: u64,
        bits: u32,
        fetched: &[u8],
        instruction: Instruction,
        exec: Exec,
    ) {
        let mut bytes = [0; INSTRUCTION_BYTES_MAX];
        bytes[..instruction.len()].copy_from_slice(&fetched[..instruction.len()]);
        let offset = (linear & 0xfff) as u16;
        self.entries[index(linear)] = Entry { bits: bits as u8, offset, bytes, instruction, exec };
    }
}

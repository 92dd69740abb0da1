//! DUMP_HEADER64 and DUMP_HEADER32. What is not said stays as Windows fills it: `PAGEPAGE...`.

use crate::windows::runs::{PageRun, RUNS_MAX_32, RUNS_MAX_64};

/// Bytes of the headers: memory begins behind.
pub const BYTES_64: u64 = 0x2000;
pub const BYTES_32: u64 = 0x1000;
/// A comment, as LiveKD leaves one.
const COMMENT: &[u8] = b"vmss2core: a guest at rest\0";
/// STATUS_BREAKPOINT, not continuable: what Windows' own tools say of a dump that no exception made.
const EXCEPTION_CODE: u32 = 0x8000_0003;
const EXCEPTION_FLAGS: u32 = 1;

/// What kind of dump it is (DUMP_TYPE_...).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum DumpType {
    /// All memory, run by run.
    Full = 1,
    /// Pages by a bitmap; those that are not there are zero.
    BitmapFull = 5,
    /// Pages by a bitmap: the kernel's.
    BitmapKernel = 6,
}

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The 64-bit format.
    pub is_64: bool,
    /// 32-bit only: page tables have 64-bit entries.
    pub is_pae: bool,
    /// 15 for a free build.
    pub major: u32,
    /// The build.
    pub minor: u32,
    /// CR3 with the kernel in it.
    pub directory_table_base: u64,
    /// MmPfnDatabase
    pub pfn_database: u64,
    /// PsLoadedModuleList
    pub modules: u64,
    /// PsActiveProcessHead
    pub processes: u64,
    /// 0x14c, 0x8664
    pub machine: u16,
    /// How many there are.
    pub processors: u32,
    /// Code and four parameters.
    pub bugcheck: [u64; 5],
    /// KdDebuggerDataBlock
    pub debugger_data: u64,
    /// Memory.
    pub runs: Vec<PageRun>,
    /// CONTEXT of the processor that is shown first.
    pub context: Vec<u8>,
    /// Where it executes.
    pub instruction: u64,
    /// Full or by bitmap.
    pub dump_type: DumpType,
    /// Bytes.
    pub required_space: u64,
    /// 100 ns since 1601.
    pub system_time: u64,
    /// 100 ns since the start.
    pub up_time: u64,
    /// From KUSER_SHARED_DATA.
    pub product_type: u32,
    /// From KUSER_SHARED_DATA.
    pub suite_mask: u32,
}

struct Bytes(Vec<u8>);

impl Bytes {
    fn filler(bytes: u64) -> Bytes {
        Bytes(b"PAGE".iter().copied().cycle().take(bytes as usize).collect())
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn word(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_le_bytes());
    }

    fn long(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_le_bytes());
    }
}

impl Header {
    /// Bytes of this format.
    pub fn bytes(is_64: bool) -> u64 {
        if is_64 { BYTES_64 } else { BYTES_32 }
    }

    /// How many runs this format has room for.
    pub fn runs_max(is_64: bool) -> usize {
        if is_64 { RUNS_MAX_64 } else { RUNS_MAX_32 }
    }

    /// As it is in the file.
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.runs.len() <= Header::runs_max(self.is_64), "the caller counted them");
        if self.is_64 { self.encode_64() } else { self.encode_32() }
    }

    fn encode_64(&self) -> Vec<u8> {
        let mut out = Bytes::filler(BYTES_64);
        out.put(0x000, b"PAGEDU64");
        out.word(0x008, self.major);
        out.word(0x00c, self.minor);
        out.long(0x010, self.directory_table_base);
        out.long(0x018, self.pfn_database);
        out.long(0x020, self.modules);
        out.long(0x028, self.processes);
        out.word(0x030, self.machine.into());
        out.word(0x034, self.processors);
        out.word(0x038, self.bugcheck[0] as u32);
        for (at, &parameter) in (0x040..).step_by(8).zip(&self.bugcheck[1..]) {
            out.long(at, parameter);
        }
        out.put(0x060, &[0]);
        out.long(0x080, self.debugger_data);
        out.word(0x088, self.runs.len() as u32);
        out.long(0x090, self.runs.iter().map(|run| run.pages).sum());
        for (at, run) in (0x098..).step_by(16).zip(&self.runs) {
            out.long(at, run.first);
            out.long(at + 8, run.pages);
        }
        out.put(0x348, &self.context);
        out.put(0xf00, &[0; 0x98]);
        out.word(0xf00, EXCEPTION_CODE);
        out.word(0xf04, EXCEPTION_FLAGS);
        out.long(0xf10, self.instruction);
        out.word(0xf98, self.dump_type as u32);
        out.long(0xfa0, self.required_space);
        out.long(0xfa8, self.system_time);
        out.put(0xfb0, COMMENT);
        out.long(0x1030, self.up_time);
        // No secondary data behind memory.
        out.word(0x103c, 0);
        out.word(0x1040, self.product_type);
        out.word(0x1044, self.suite_mask);
        // KdSecondaryVersion: CONTEXT is that of AMD64 as it is since XP.
        out.put(0x104d, &[2]);
        out.0
    }

    fn encode_32(&self) -> Vec<u8> {
        let mut out = Bytes::filler(BYTES_32);
        out.put(0x000, b"PAGEDUMP");
        out.word(0x008, self.major);
        out.word(0x00c, self.minor);
        out.word(0x010, self.directory_table_base as u32);
        out.word(0x014, self.pfn_database as u32);
        out.word(0x018, self.modules as u32);
        out.word(0x01c, self.processes as u32);
        out.word(0x020, self.machine.into());
        out.word(0x024, self.processors);
        for (at, &value) in (0x028..).step_by(4).zip(&self.bugcheck) {
            out.word(at, value as u32);
        }
        out.put(0x03c, &[0]);
        out.put(0x05c, &[u8::from(self.is_pae)]);
        out.word(0x060, self.debugger_data as u32);
        out.word(0x064, self.runs.len() as u32);
        out.word(0x068, self.runs.iter().map(|run| run.pages as u32).sum());
        for (at, run) in (0x06c..).step_by(8).zip(&self.runs) {
            out.word(at, run.first as u32);
            out.word(at + 4, run.pages as u32);
        }
        out.put(0x320, &self.context);
        out.put(0x7d0, &[0; 0x50]);
        out.word(0x7d0, EXCEPTION_CODE);
        out.word(0x7d4, EXCEPTION_FLAGS);
        out.word(0x7dc, self.instruction as u32);
        out.put(0x820, COMMENT);
        out.word(0xf88, self.dump_type as u32);
        out.long(0xfa0, self.required_space);
        out.long(0xfb8, self.up_time);
        out.long(0xfc0, self.system_time);
        out.0
    }
}

#[cfg(test)]
mod tests;

//! The registers of a virtual processor, as the group `cpu` has them.

use crate::source::ReadAt;
use crate::write::TagList;
use crate::{Error, Group, Result, Tag, Tags};
use std::collections::BTreeMap;

/// Indices of [`Vcpu::segments`].
#[expect(missing_docs, reason = "the registers' names")]
pub mod segment {
    pub const ES: usize = 0;
    pub const CS: usize = 1;
    pub const SS: usize = 2;
    pub const DS: usize = 3;
    pub const FS: usize = 4;
    pub const GS: usize = 5;
    pub const LDTR: usize = 6;
    pub const TR: usize = 7;
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Linear address.
    pub base: u64,
    /// The last valid offset.
    pub limit: u16,
}

/// A segment register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentRegister {
    /// The visible part.
    pub selector: u16,
    /// Linear address.
    pub base: u64,
    /// The last valid offset. In files of ours only: nobody knows what VMware calls it.
    pub limit: Option<u32>,
    /// Descriptor bits 40 to 47 in bits 0 to 7, bits 52 to 55 in bits 8 to 11. In files of ours only.
    pub rights: Option<u16>,
}

/// The registers of a virtual processor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vcpu {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub gpr: [u64; 16],
    /// RIP.
    pub rip: u64,
    /// The low 32 bits of RFLAGS.
    pub eflags: u32,
    /// CR0 to CR8.
    pub cr: [u64; 9],
    /// DR0 to DR7.
    pub dr: [u64; 8],
    /// By [`segment`].
    pub segments: [SegmentRegister; 8],
    /// Where the global descriptor table is.
    pub gdtr: Table,
    /// Where the interrupt descriptor table is.
    pub idtr: Table,
    /// HLT was executed and nothing has woken the processor yet.
    pub is_halted: bool,
    /// IA32_EFER. In files of ours only, as is the next.
    pub efer: Option<u64>,
    /// IA32_KERNEL_GS_BASE.
    pub kernel_gs_base: Option<u64>,
}

/// Names of the general registers, in the order of their encodings.
const GPR_NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];
/// What a block `gpregs` holds. VMware's own reader in crash says this order, which is not that of the encodings.
const GPREGS_ORDER: [usize; 16] = [0, 1, 2, 3, 5, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
/// More than any product has.
const VCPUS_MAX: u64 = 1024;

impl Vcpu {
    /// Whether the processor is in long mode (IA-32e), by EFER or, where that is not known, by what it has to be.
    pub fn is_long_mode(&self) -> bool {
        const LMA: u64 = 1 << 10;
        const PAE: u64 = 1 << 5;
        match self.efer {
            Some(efer) => efer & LMA != 0,
            // Without paging or PAE there is none; a 32-bit system has nothing above 4 GiB.
            None => {
                let high = [self.rip, self.idtr.base, self.gdtr.base]
                    .iter()
                    .any(|&address| address >> 32 != 0);
                self.cr[0] >> 31 & 1 != 0 && self.cr[4] & PAE != 0 && high
            }
        }
    }

    /// Tags for readers of all kinds, those of processor `n`.
    pub(crate) fn write(&self, n: u32, tags: &mut TagList) {
        for (name, value) in GPR_NAMES.iter().zip(self.gpr) {
            tags.long(name, &[n], value);
        }
        tags.long("rip", &[n], self.rip);
        tags.word("eip", &[n], self.rip as u32);
        tags.word("eflags", &[n], self.eflags);
        tags.inline("halted", &[n], &[u8::from(self.is_halted)]);
        for (index, &value) in (0..).zip(&self.cr) {
            tags.long("CR64", &[n, index], value);
        }
        for (index, &value) in (0..).zip(&self.cr[..5]) {
            tags.word("CR", &[n, index], value as u32);
        }
        for (index, &value) in (0..).zip(&self.dr) {
            tags.long("DR64", &[n, index], value);
        }
        for index in [6, 7] {
            tags.word("DR", &[n, index], self.dr[index as usize] as u32);
        }
        for (name, table) in [("GDTR", self.gdtr), ("IDTR", self.idtr)] {
            tags.inline(name, &[n, 0], &table.limit.to_le_bytes());
            tags.word(name, &[n, 1], table.base as u32);
            tags.word(name, &[n, 2], (table.base >> 32) as u32);
        }
        for (index, segment) in (0..).zip(&self.segments) {
            tags.word("S", &[n, index], segment.selector.into());
            tags.long("S.base64", &[n, index], segment.base);
            if let Some(limit) = segment.limit {
                tags.word("dejavm.S.limit", &[n, index], limit);
            }
            if let Some(rights) = segment.rights {
                tags.word("dejavm.S.rights", &[n, index], rights.into());
            }
        }
        for (name, value) in
            [("dejavm.EFER", self.efer), ("dejavm.KernelGSBase", self.kernel_gs_base)]
        {
            if let Some(value) = value {
                tags.long(name, &[n], value);
            }
        }
    }

    /// Reads all processors of a group.
    pub(crate) fn read_all(source: &dyn ReadAt, group: &Group) -> Result<Vec<Vcpu>> {
        let mut vcpus: BTreeMap<u32, Vcpu> = BTreeMap::new();
        let mut count = None;
        for tag in Tags::new(source, group)? {
            let tag = tag?;
            if tag.name == "cpu:numVCPUs" {
                count = tag.integer();
                if count.is_some_and(|count| count > VCPUS_MAX) {
                    let what = format!(
                        "{} processors, where {VCPUS_MAX} are more than any product has",
                        count.unwrap_or(0)
                    );
                    return Err(Error::damaged(tag.position, what));
                }
            }
            let Some(&n) = tag.indices.first() else { continue };
            if u64::from(n) >= count.unwrap_or(VCPUS_MAX) {
                continue;
            }
            vcpus.entry(n).or_default().take(source, &tag)?;
        }
        let count = count.unwrap_or(vcpus.len() as u64);
        if count == 0 {
            return Err(Error::Missing("a processor"));
        }
        Ok((0..count as u32).map(|n| vcpus.remove(&n).unwrap_or_default()).collect())
    }

    fn take(&mut self, source: &dyn ReadAt, tag: &Tag) -> Result<()> {
        let index = tag.indices.get(1).map(|&index| index as usize);
        let value = tag.integer();
        if let Some(at) = GPR_NAMES.iter().position(|&name| name == tag.name) {
            self.gpr[at] = value.unwrap_or(self.gpr[at]);
            return Ok(());
        }
        match (tag.name.as_str(), index, value) {
            ("rip", None, Some(value)) => self.rip = value,
            ("eip", None, Some(value)) if self.rip == 0 => self.rip = value,
            ("eflags" | "EFLAGS", None, Some(value)) => self.eflags |= value as u32,
            ("halted", None, Some(value)) => self.is_halted = value != 0,
            ("CR64", Some(at), Some(value)) => set(&mut self.cr, at, value),
            ("CR", Some(at), Some(value)) if self.cr.get(at) == Some(&0) => self.cr[at] = value,
            ("DR64", Some(at), Some(value)) => set(&mut self.dr, at, value),
            ("DR", Some(at), Some(value)) if self.dr.get(at) == Some(&0) => self.dr[at] = value,
            ("GDTR", Some(at), Some(value)) => self.gdtr.set_part(at, value),
            ("IDTR", Some(at), Some(value)) => self.idtr.set_part(at, value),
            ("S", Some(at), Some(value)) => {
                self.segment(at, |segment| segment.selector = value as u16)
            }
            ("S.base64", Some(at), Some(value)) => self.segment(at, |segment| segment.base = value),
            ("dejavm.S.limit", Some(at), Some(value)) => {
                self.segment(at, |segment| segment.limit = Some(value as u32));
            }
            ("dejavm.S.rights", Some(at), Some(value)) => {
                self.segment(at, |segment| segment.rights = Some(value as u16));
            }
            ("dejavm.EFER", None, Some(value)) => self.efer = Some(value),
            ("dejavm.KernelGSBase", None, Some(value)) => self.kernel_gs_base = Some(value),
            ("gpregs" | "CR64" | "GDTR" | "IDTR", None, None) => self.take_block(source, tag)?,
            _ => {}
        }
        Ok(())
    }

    /// Several registers in one value.
    fn take_block(&mut self, source: &dyn ReadAt, tag: &Tag) -> Result<()> {
        let Some(bytes) = tag.bytes(source, 256)? else { return Ok(()) };
        let longs = || {
            bytes
                .chunks_exact(8)
                .map(|long| u64::from_le_bytes(long.try_into().expect("eight bytes")))
        };
        match (tag.name.as_str(), bytes.len()) {
            ("gpregs", 128) => {
                for (at, value) in GPREGS_ORDER.into_iter().zip(longs()) {
                    self.gpr[at] = value;
                }
            }
            ("CR64", 64 | 72) => {
                for (at, value) in longs().enumerate() {
                    self.cr[at] = value;
                }
            }
            ("GDTR" | "IDTR", 10) => {
                let (limit, base) = bytes.split_at(2);
                let table = Table {
                    limit: u16::from_le_bytes(limit.try_into().expect("two bytes")),
                    base: u64::from_le_bytes(base.try_into().expect("eight bytes")),
                };
                *(if tag.name == "GDTR" { &mut self.gdtr } else { &mut self.idtr }) = table;
            }
            _ => {}
        }
        Ok(())
    }

    fn segment(&mut self, at: usize, change: impl FnOnce(&mut SegmentRegister)) {
        if let Some(segment) = self.segments.get_mut(at) {
            change(segment);
        }
    }
}

impl Table {
    fn set_part(&mut self, part: usize, value: u64) {
        match part {
            0 => self.limit = value as u16,
            1 => self.base = self.base & !0xffff_ffff | value & 0xffff_ffff,
            2 => self.base = self.base & 0xffff_ffff | value << 32,
            _ => {}
        }
    }
}

fn set(registers: &mut [u64], at: usize, value: u64) {
    if let Some(register) = registers.get_mut(at) {
        *register = value;
    }
}

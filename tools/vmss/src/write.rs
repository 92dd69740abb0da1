//! Writing a checkpoint such that every reader opens it: crash, volatility 2 and 3, LeechCore, mdb. Why each thing is
//! as it is: `docs/formats/vmss.md`.

use crate::group::{GROUP_BYTES, HEADER_BYTES, NAME_BYTES};
use crate::tag::{BLOCK_HEADER_BYTES, PLAIN};
use crate::{Error, Magic, Region, Result, Vcpu};
use std::io::{self, Write};

/// No reader knows what the header's second word means; they all take this.
const VERSION: u32 = 8;
/// What the group `Checkpoint` of ESX 4.1 says.
const FILE_VERSION: u32 = 10;
/// `Platform`: x86.
const PLATFORM_X86: u32 = 1;
/// Embedded memory begins at a multiple of this, as in files of ESX.
const ALIGNMENT: u64 = 0x1_0000;
/// crash reads 6400 bytes for each group where it means 80, and refuses files that are too short for that.
const BYTES_PER_GROUP_IN_CRASH: u64 = 6400;
/// crash has room for three regions, and reckons right with two.
const REGIONS_MAX: usize = 2;

/// What made a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    /// `ProductName`.
    pub name: String,
    /// `VersionNumber`.
    pub version: String,
}

/// The tags of a group, encoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TagList {
    bytes: Vec<u8>,
}

impl TagList {
    /// None yet.
    pub fn new() -> TagList {
        TagList::default()
    }

    /// A value of 32 bits.
    pub fn word(&mut self, name: &str, indices: &[u32], value: u32) {
        self.inline(name, indices, &value.to_le_bytes());
    }

    /// A value of 64 bits.
    pub fn long(&mut self, name: &str, indices: &[u32], value: u64) {
        self.inline(name, indices, &value.to_le_bytes());
    }

    /// A value of at most 61 bytes.
    ///
    /// # Panics
    /// If there are more, or the name or the indices are too many.
    pub fn inline(&mut self, name: &str, indices: &[u32], value: &[u8]) {
        assert!(value.len() < 62, "62 and 63 mean blocks");
        self.begin(name, indices, value.len() as u8);
        self.bytes.extend_from_slice(value);
    }

    /// A value of any size.
    ///
    /// # Panics
    /// If the name or the indices are too many.
    pub fn block(&mut self, name: &str, indices: &[u32], value: &[u8]) {
        self.begin_block(name, indices, value.len() as u64, 0);
        self.bytes.extend_from_slice(value);
    }

    fn begin_block(&mut self, name: &str, indices: &[u32], bytes: u64, padding: u16) {
        self.begin(name, indices, PLAIN);
        self.bytes.extend_from_slice(&bytes.to_le_bytes());
        self.bytes.extend_from_slice(&bytes.to_le_bytes());
        self.bytes.extend_from_slice(&padding.to_le_bytes());
        self.bytes.resize(self.bytes.len() + usize::from(padding), 0);
    }

    fn begin(&mut self, name: &str, indices: &[u32], size: u8) {
        assert!(indices.len() < 4, "two bits count indices");
        let name_bytes = u8::try_from(name.len()).expect("a byte counts a name's bytes");
        assert!(name_bytes > 0, "a tag has a name");
        self.bytes.extend_from_slice(&[(indices.len() as u8) << 6 | size, name_bytes]);
        self.bytes.extend_from_slice(name.as_bytes());
        for index in indices {
            self.bytes.extend_from_slice(&index.to_le_bytes());
        }
    }

    /// Bytes so far.
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// Two zeros end a group.
const END: [u8; 2] = [0; 2];

/// A checkpoint to be written.
pub struct Writer {
    groups: Vec<(String, TagList)>,
    memory: TagList,
    memory_bytes: u64,
}

impl Writer {
    /// A checkpoint of these processors, with memory of these regions.
    ///
    /// # Errors
    /// If there are more regions than readers understand, or pages than the format can number, or holes in the file.
    pub fn new(product: &Product, vcpus: &[Vcpu], regions: &[Region]) -> Result<Writer> {
        if regions.is_empty() || regions.len() > REGIONS_MAX {
            return Err(Error::Layout(format!(
                "it has {} regions, and crash reckons right with one or two only",
                regions.len()
            )));
        }
        let mut memory = TagList::new();
        memory.word("regionsCount", &[], regions.len() as u32);
        let mut pages = 0;
        for (n, region) in (0..).zip(regions) {
            let number = |value: u64| {
                u32::try_from(value).map_err(|_| {
                    Error::Layout(format!(
                        "page {value:#x} has more than the 32 bits of the format"
                    ))
                })
            };
            if region.page_in_file != pages {
                return Err(Error::Layout(format!(
                    "region {n} does not follow the one before it in the file"
                )));
            }
            pages += region.pages;
            memory.word("regionPPN", &[n], number(region.first_page)?);
            memory.word("regionPageNum", &[n], number(region.page_in_file)?);
            memory.word("regionSize", &[n], number(region.pages)?);
        }
        memory.word("align_mask", &[0, 0], (ALIGNMENT - 1) as u32);
        let memory_bytes = pages * crate::PAGE_BYTES;

        let mut about = TagList::new();
        about.word("fileversion", &[], FILE_VERSION);
        for (name, text) in [("ProductName", &product.name), ("VersionNumber", &product.version)] {
            let mut field = text.as_bytes().to_vec();
            field.resize(0x100, 0);
            about.block(name, &[], &field);
        }
        about.word("Platform", &[], PLATFORM_X86);
        about.word("memSize", &[], u32::try_from(memory_bytes >> 20).unwrap_or(u32::MAX));

        let mut cpu = TagList::new();
        cpu.word("cpu:numVCPUs", &[], vcpus.len() as u32);
        for (n, vcpu) in (0..).zip(vcpus) {
            vcpu.write(n, &mut cpu);
        }
        let groups = vec![("Checkpoint".to_owned(), about), ("cpu".to_owned(), cpu)];
        Ok(Writer { groups, memory, memory_bytes })
    }

    /// Adds a group of one's own. Readers skip what they do not know.
    ///
    /// # Panics
    /// If its name has more than 63 bytes.
    pub fn group(&mut self, name: &str, tags: TagList) {
        assert!(name.len() < NAME_BYTES, "a name of a group has 63 bytes at most");
        self.groups.push((name.to_owned(), tags));
    }

    /// Writes the checkpoint without memory, for a `.vmem` beside it with the regions back to back.
    ///
    /// # Errors
    /// As the operating system has it.
    pub fn write(&self, out: &mut (impl Write + ?Sized)) -> io::Result<()> {
        let written = self.write_groups(out, &self.memory, 0)?;
        let least = HEADER_BYTES + (self.groups.len() as u64 + 1) * BYTES_PER_GROUP_IN_CRASH;
        let padding = least.saturating_sub(written) as usize;
        out.write_all(&vec![0; padding])
    }

    /// Writes the checkpoint with memory: `contents` writes the regions back to back.
    ///
    /// # Errors
    /// As the operating system has it, or `contents`.
    pub fn write_embedded<W: Write + ?Sized>(
        &self,
        out: &mut W,
        contents: impl FnOnce(&mut W) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut memory = self.memory.clone();
        let tag_bytes = 2 + "Memory".len() as u64 + 8;
        let begin = self.memory_position() + memory.len() + tag_bytes + BLOCK_HEADER_BYTES;
        let padding = begin.next_multiple_of(ALIGNMENT) - begin;
        memory.begin_block("Memory", &[0, 0], self.memory_bytes, padding as u16);
        self.write_groups(out, &memory, self.memory_bytes)?;
        contents(out)?;
        out.write_all(&END)
    }

    /// Where the last group begins.
    fn memory_position(&self) -> u64 {
        let table = HEADER_BYTES + (self.groups.len() as u64 + 1) * GROUP_BYTES;
        table + self.groups.iter().map(|(_, tags)| tags.len() + END.len() as u64).sum::<u64>()
    }

    /// Writes all but `behind` bytes of the last group, and its end if there are none; how many bytes that was.
    fn write_groups(
        &self,
        out: &mut (impl Write + ?Sized),
        memory: &TagList,
        behind: u64,
    ) -> io::Result<u64> {
        let mut head = Vec::new();
        for word in [Magic::Normal.value(), VERSION, self.groups.len() as u32 + 1] {
            head.extend_from_slice(&word.to_le_bytes());
        }
        let mut position = HEADER_BYTES + (self.groups.len() as u64 + 1) * GROUP_BYTES;
        let groups = self.groups.iter().map(|(name, tags)| (name.as_str(), tags.len()));
        for (name, bytes) in groups.chain([("memory", memory.len() + behind)]) {
            let mut field = name.as_bytes().to_vec();
            field.resize(NAME_BYTES, 0);
            head.extend_from_slice(&field);
            let size = bytes + END.len() as u64;
            head.extend_from_slice(&position.to_le_bytes());
            head.extend_from_slice(&size.to_le_bytes());
            position += size;
        }
        for (_, tags) in &self.groups {
            head.extend_from_slice(&tags.bytes);
            head.extend_from_slice(&END);
        }
        head.extend_from_slice(&memory.bytes);
        if behind == 0 {
            head.extend_from_slice(&END);
        }
        out.write_all(&head)?;
        Ok(head.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Checkpoint, SegmentRegister, Table};
    use std::sync::Arc;

    fn vcpu(n: u64) -> Vcpu {
        Vcpu {
            gpr: std::array::from_fn(|at| 0x1111_2222_3333_0000 + n * 0x100 + at as u64),
            rip: 0xffff_ffff_8100_0000 + n,
            eflags: 0x246,
            cr: std::array::from_fn(|at| 0x8005_0033 + at as u64),
            dr: std::array::from_fn(|at| at as u64 * 3),
            segments: std::array::from_fn(|at| SegmentRegister {
                selector: at as u16 * 8,
                base: 0xffff_8880_0000_0000 + at as u64,
                limit: Some(u32::MAX),
                rights: Some(0xa9b),
            }),
            gdtr: Table { base: 0xffff_fe00_0000_1000, limit: 0x7f },
            idtr: Table { base: 0xffff_fe00_0000_0000, limit: 0xfff },
            is_halted: n == 1,
            efer: Some(0xd01),
            kernel_gs_base: Some(7 + n),
        }
    }

    const REGIONS: [Region; 2] = [
        Region { first_page: 0, page_in_file: 0, pages: 3 },
        Region { first_page: 0x10_0000, page_in_file: 3, pages: 2 },
    ];

    fn writer() -> (Writer, Vec<Vcpu>) {
        let vcpus = vec![vcpu(0), vcpu(1)];
        let product = Product { name: "dejavm".into(), version: "1".into() };
        let mut writer = Writer::new(&product, &vcpus, &REGIONS).unwrap();
        let mut own = TagList::new();
        own.block("state", &[], &[9; 1000]);
        writer.group("dejavm", own);
        (writer, vcpus)
    }

    #[test]
    fn what_is_written_is_read() {
        let (writer, vcpus) = writer();
        let mut file = Vec::new();
        writer.write(&mut file).unwrap();
        assert_eq!(file.len(), 12 + 4 * 6400, "crash wants that many bytes for four groups");
        let checkpoint = Checkpoint::of(Arc::new(file)).unwrap();
        assert_eq!(checkpoint.vcpus().unwrap(), vcpus);
        assert!(checkpoint.embedded_memory().unwrap().is_none());
        let contents: Vec<u8> = (0..5 * 4096u32).map(|n| (n >> 12) as u8).collect();
        let memory = checkpoint.memory_in(Arc::new(contents)).unwrap();
        assert_eq!(memory.regions(), REGIONS);
        let mut byte = [0];
        memory.read(0x1_0000_1000, &mut byte).unwrap();
        assert_eq!(byte, [4]);
        assert_eq!(checkpoint.value("dejavm", "state", 1000).unwrap(), Some(vec![9; 1000]));
        assert_eq!(checkpoint.value("dejavm", "state", 999).unwrap(), None);
    }

    #[test]
    fn embedded_memory_is_aligned_and_last() {
        let (writer, vcpus) = writer();
        let mut file = Vec::new();
        let contents: Vec<u8> = (0..5 * 4096u32).map(|n| (n >> 12) as u8).collect();
        writer.write_embedded(&mut file, |out| out.write_all(&contents)).unwrap();
        assert_eq!(file[0x1_0000..][..contents.len()], contents);
        assert_eq!(file.len(), 0x1_0000 + contents.len() + 2);
        let checkpoint = Checkpoint::of(Arc::new(file.clone())).unwrap();
        let group = checkpoint.table().find("memory").unwrap();
        assert_eq!(group.position + group.size, file.len() as u64);
        assert_eq!(checkpoint.vcpus().unwrap(), vcpus);
        let memory = checkpoint.embedded_memory().unwrap().unwrap();
        let mut byte = [0];
        memory.read(0x1_0000_1fff, &mut byte).unwrap();
        assert_eq!(byte, [4]);
    }

    /// Every prefix, and every byte changed in some ways: an error or another checkpoint, and no panic.
    #[test]
    fn damaged_files_are_refused_or_read() {
        let (writer, _) = writer();
        let mut file = Vec::new();
        writer.write(&mut file).unwrap();
        let read = |bytes: Vec<u8>| {
            let source = Arc::new(bytes);
            let Ok(checkpoint) = Checkpoint::of(source.clone()) else { return false };
            let vcpus = checkpoint.vcpus().is_ok();
            let memory =
                checkpoint.memory_in(source).is_ok() && checkpoint.embedded_memory().is_ok();
            vcpus && memory
        };
        let used = file.iter().rposition(|&byte| byte != 0).unwrap();
        for end in (0..used).step_by(7) {
            assert!(!read(file[..end].to_vec()), "{end} bytes");
        }
        for at in 0..used {
            for change in [0x01, 0x80, 0xff] {
                let mut bytes = file.clone();
                bytes[at] ^= change;
                let _ = read(bytes);
            }
        }
    }
}

//! `debug.guest` and `debug.vmem`: what ESXi writes of a guest when its kernel panics or the processor shuts down,
//! where `monitor.mini-suspend_on_panic` or `monitor.suspend_on_triplefault` asks for it. Registers and the layout of
//! memory, nothing else. There is no magic: the name ends in `.guest`, and all sizes must agree. Layout: crash's
//! `vmware_guestdump.c`, by VMware's and Broadcom's Alexey Makhalov.

use crate::packed::open_memory;
use crate::source::{ReadAt, read_all};
use crate::{
    Error, GuestMemory, PAGE_BYTES, Paths, Region, Result, SegmentRegister, Table, Vcpu,
    memory_beside, open_file, segment, unwrapped,
};
use std::path::Path;

/// A guest dump, opened.
pub struct GuestDump {
    /// Of the format: 1 (ESXi 6.7 and before), 3 (6.8), 4 (7.0), 5 (8.0), 6 (8.0u2), 7 (9.0).
    pub version: u32,
    /// The processors: general registers, control registers, where the IDT is.
    pub vcpus: Vec<Vcpu>,
    /// Where memory is.
    pub regions: Vec<Region>,
}

/// Version and number of processors.
const HEADER_BYTES: u64 = 8;
/// Of a processor: CR0 (32 bits), CR2, CR3, CR4, ten reserved, base of the IDT (64 bits each).
const CONTROL_BYTES: usize = 4 + 14 * 8;
/// Of a processor: 21 registers in the order of Linux's `pt_regs`.
const GENERAL_BYTES: usize = 21 * 8;
/// Reserved behind them.
const REST_BYTES: u64 = 65;
/// CR0: ET, which is always set, and all bits that there are (SDM vol. 3A, 2.5).
const CR0_ET: u64 = 1 << 4;
const CR0_BITS: u64 = 0xe005_003f;
/// More than any product has.
const VCPUS_MAX: u32 = 1024;
/// There is room for two.
const HOLES_MAX: u32 = 2;

/// Where things are in a version.
struct Layout {
    /// Where memory is described.
    memory_at: u64,
    /// Page numbers there have 32 bits instead of 64.
    is_narrow: bool,
    /// Between that and the processors.
    behind_memory: u64,
    /// Between a processor's control registers and its general ones.
    gap: u64,
}

impl Layout {
    fn of(version: u32) -> Option<Layout> {
        let (before, behind_memory, gap) = match version {
            1 => (13, 4, 45),
            3 => (14, 0, 45),
            4 | 5 => (14, 0, 42),
            6 => (15, 0, 42),
            7 => (8, 11, 42),
            _ => return None,
        };
        let memory_at = HEADER_BYTES + before;
        Some(Layout { memory_at, is_narrow: version == 1, behind_memory, gap })
    }
}

/// Each processor has a page behind what is known of it. crash's comments say that it comes before the next processor,
/// crash's code says that it comes after them all: the control registers tell.
impl GuestDump {
    /// Whether a file is named like one.
    pub fn is_named_so(path: &Path) -> bool {
        unwrapped(path).extension().is_some_and(|extension| extension == "guest")
    }

    /// Opens a dump, and its memory: the file named, or what lies beside it.
    ///
    /// # Errors
    /// If sizes do not agree, or there is no memory of just the right size.
    pub fn open(path: &Path, memory: Option<&Path>) -> Result<(GuestDump, GuestMemory, Paths)> {
        GuestDump::open_in(&*open_file(path)?, path, memory)
    }

    /// The same, where the file at the path is open.
    ///
    /// # Errors
    /// As for `open`.
    pub fn open_in(
        source: &dyn ReadAt,
        path: &Path,
        memory: Option<&Path>,
    ) -> Result<(GuestDump, GuestMemory, Paths)> {
        let dump = GuestDump::of(source)?;
        let memory_path = match memory {
            Some(path) => path.to_owned(),
            None => memory_beside(path)?,
        };
        let bytes = dump.regions.iter().map(Region::bytes).sum();
        let source = open_memory(&memory_path, bytes)?;
        let wrong = |source| Error::File { path: memory_path.clone(), source };
        let size = source.size().map_err(wrong)?;
        if size != bytes {
            let what = format!("it has {size:#x} bytes, and the guest has {bytes:#x}");
            return Err(Error::OtherMemory { path: memory_path, what });
        }
        let memory = GuestMemory::new(source, 0, dump.regions.clone())?.named(&memory_path);
        Ok((dump, memory, Paths { state: path.into(), memory: Some(memory_path) }))
    }

    /// The dump in a source.
    ///
    /// # Errors
    /// If sizes do not agree.
    pub fn of(source: &dyn ReadAt) -> Result<GuestDump> {
        let no = |what: String| Err(Error::GuestDump(what));
        let word = |at| Ok(u32::from_le_bytes(array(source, at)?));
        let (version, count) = (word(0)?, word(4)?);
        let Some(layout) = Layout::of(version) else {
            return no(format!("it says version {version}, and 1 and 3 to 7 are known"));
        };
        let (regions, mut at) = layout.memory(source)?;
        if version == 7 {
            match word(at)? {
                0 => {
                    let what =
                        "the guest of a debug.guest with AArch64 processors; x86 is supported";
                    return Err(Error::Unsupported(what.into()));
                }
                1 => {}
                other => {
                    return no(format!(
                        "it says processors of kind {other}, and 0 and 1 are known"
                    ));
                }
            }
        }
        at += layout.behind_memory;
        if count == 0 || count > VCPUS_MAX {
            return no(format!("it says that there are {count} processors"));
        }
        let each = CONTROL_BYTES as u64 + layout.gap + GENERAL_BYTES as u64 + REST_BYTES;
        let count = u64::from(count);
        let expected = at + count * (each + PAGE_BYTES);
        let size = source.size().map_err(|source| Error::Read { at: 0, source })?;
        if size != expected {
            return no(format!(
                "with {count} processors in version {version} it would have {expected} bytes, and it has {size}"
            ));
        }
        let read = |step: u64| -> Result<Vec<Vcpu>> {
            (0..count).map(|n| vcpu(source, at + n * step, layout.gap)).collect()
        };
        let [apart, together] = [read(each + PAGE_BYTES)?, read(each)?];
        let likely = |vcpus: &[Vcpu]| {
            let cr0 = vcpus.iter().map(|vcpu| vcpu.cr[0]);
            cr0.filter(|cr0| cr0 & CR0_ET != 0 && cr0 & !CR0_BITS == 0).count()
        };
        let vcpus = if likely(&together) > likely(&apart) { together } else { apart };
        Ok(GuestDump { version, vcpus, regions })
    }
}

impl Layout {
    /// Where memory is, and where in the file the description ends.
    fn memory(&self, source: &dyn ReadAt) -> Result<(Vec<Region>, u64)> {
        let mut at = self.memory_at;
        let mut number = |is_narrow: bool| -> Result<u64> {
            let value = match is_narrow {
                true => u32::from_le_bytes(array(source, at)?).into(),
                false => u64::from_le_bytes(array(source, at)?),
            };
            at += if is_narrow { 4 } else { 8 };
            Ok(value)
        };
        let last = number(false)?;
        let pages = number(self.is_narrow)?;
        let _reserved = number(true)?;
        let count = number(true)?;
        if count > HOLES_MAX.into() {
            let what =
                format!("it says that memory has {count} holes, and there is room for {HOLES_MAX}");
            return Err(Error::GuestDump(what));
        }
        let mut holes = [(0, 0); HOLES_MAX as usize];
        for hole in &mut holes {
            *hole = (number(self.is_narrow)?, number(self.is_narrow)?);
        }
        if self.is_narrow {
            at += 8 * count;
        }
        let holes = &holes[..count as usize];
        let all = holes.iter().try_fold(pages, |sum, hole| sum.checked_add(hole.1));
        let end = all.and_then(|all| all.checked_mul(PAGE_BYTES));
        if last.checked_add(1) != end || end == Some(0) {
            let what = format!(
                "its memory of {pages:#x} pages does not end at {last:#x}, the last address that it says"
            );
            return Err(Error::GuestDump(what));
        }
        let all = all.unwrap_or(0);
        let (mut regions, mut first_page, mut page_in_file) = (Vec::new(), 0, 0);
        for &(hole, hole_pages) in holes.iter().chain([&(all, 0)]) {
            let next = hole.checked_add(hole_pages).filter(|&next| next <= all);
            let (Some(pages), Some(next)) = (hole.checked_sub(first_page), next) else {
                let what = format!(
                    "it says that {hole_pages:#x} pages from page {hole:#x} are a hole in memory"
                );
                return Err(Error::GuestDump(what));
            };
            if pages > 0 {
                regions.push(Region { first_page, page_in_file, pages });
            }
            (first_page, page_in_file) = (next, page_in_file + pages);
        }
        Ok((regions, at))
    }
}

fn array<const N: usize>(source: &dyn ReadAt, at: u64) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    read_all(source, &mut bytes, at)?;
    Ok(bytes)
}

fn vcpu(source: &dyn ReadAt, at: u64, gap: u64) -> Result<Vcpu> {
    let control: [u8; CONTROL_BYTES] = array(source, at)?;
    let general: [u8; GENERAL_BYTES] = array(source, at + CONTROL_BYTES as u64 + gap)?;
    let long = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    let control = |n: usize| long(&control[4 + 8 * n..12 + 8 * n]);
    let register = |n: usize| long(&general[8 * n..8 * n + 8]);
    let cr0: [u8; 4] = array(source, at)?;
    let mut vcpu = Vcpu {
        // RAX to R15 by encoding, out of r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi.
        gpr: [10, 11, 12, 5, 19, 4, 13, 14, 9, 8, 7, 6, 3, 2, 1, 0].map(register),
        rip: register(16),
        eflags: register(18) as u32,
        idtr: Table { base: control(13), limit: 0xfff },
        ..Vcpu::default()
    };
    vcpu.cr[0] = u32::from_le_bytes(cr0).into();
    (vcpu.cr[2], vcpu.cr[3], vcpu.cr[4]) = (control(0), control(1), control(2));
    for (at, register) in [(segment::CS, 17), (segment::SS, 20)].map(|(at, n)| (at, register(n))) {
        vcpu.segments[at] = SegmentRegister { selector: register as u16, ..Default::default() };
    }
    Ok(vcpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A dump as the table in `docs/formats/vmss.md` has it, with a hole from 3 to 4 GiB.
    fn dump(version: u32, vcpus: u32, apart: bool) -> Vec<u8> {
        let (before, narrow, behind, gap) = match version {
            1 => (13, true, 8 + 4, 45),
            3 => (14, false, 0, 45),
            4 | 5 => (14, false, 0, 42),
            6 => (15, false, 0, 42),
            7 => (8, false, 11, 42),
            other => unreachable!("{other}"),
        };
        let mut out = Vec::new();
        out.extend(version.to_le_bytes());
        out.extend(vcpus.to_le_bytes());
        out.resize(out.len() + before, 0xcc);
        let number = |out: &mut Vec<u8>, value: u64, is_narrow: bool| match is_narrow {
            true => out.extend((value as u32).to_le_bytes()),
            false => out.extend(value.to_le_bytes()),
        };
        number(&mut out, 0x1_4000_0000 - 1, false);
        number(&mut out, 0x10_0000, narrow);
        number(&mut out, 0xdddd_dddd, true);
        number(&mut out, 1, true);
        for value in [0xc_0000, 0x4_0000, 0, 0] {
            number(&mut out, value, narrow);
        }
        if version == 7 {
            out.extend(1u32.to_le_bytes());
            out.resize(out.len() + behind - 4, 0xcc);
        } else {
            out.resize(out.len() + behind, 0xcc);
        }
        for n in 0..u64::from(vcpus) {
            out.extend(0x8005_0033u32.to_le_bytes());
            for value in
                [0x22, 0x33, 0x6f0].into_iter().chain([0; 10]).chain([0xffff_fe00_0000_0000])
            {
                out.extend((value + n).to_le_bytes());
            }
            out.resize(out.len() + gap, 0xcc);
            for register in 0..21 {
                out.extend((0xffff_8000_0000_0000 + 0x100 * n + register).to_le_bytes());
            }
            out.resize(out.len() + 65 + if apart { 4096 } else { 0 }, 0xcc);
        }
        let pages = if apart { 0 } else { vcpus as usize };
        out.resize(out.len() + 4096 * pages, 0xcc);
        out
    }

    #[test]
    fn every_version_is_read() {
        let versions = [(1, 69), (3, 78), (4, 78), (5, 78), (6, 79), (7, 83)];
        for (version, bytes, apart) in
            versions.into_iter().flat_map(|(n, bytes)| [(n, bytes, true), (n, bytes, false)])
        {
            let file = dump(version, 2, apart);
            let each = if version < 4 { 4490 } else { 4487 };
            assert_eq!(file.len(), bytes + 2 * each, "as crash reckons");
            let dump = GuestDump::of(&file).unwrap();
            assert_eq!((dump.version, dump.vcpus.len()), (version, 2));
            let expected = [
                Region { first_page: 0, page_in_file: 0, pages: 0xc_0000 },
                Region { first_page: 0x10_0000, page_in_file: 0xc_0000, pages: 0x4_0000 },
            ];
            assert_eq!(dump.regions, expected);
            let vcpu = &dump.vcpus[1];
            let register = |n: u64| 0xffff_8000_0000_0100 + n;
            assert_eq!(vcpu.gpr[4], register(19), "RSP");
            assert_eq!(vcpu.gpr[0], register(10), "RAX");
            assert_eq!(vcpu.gpr[15], register(0), "R15");
            assert_eq!((vcpu.rip, vcpu.eflags), (register(16), 0x112));
            assert_eq!(vcpu.segments[segment::SS].selector, 0x114);
            assert_eq!(vcpu.cr[..5], [0x8005_0033, 0, 0x23, 0x34, 0x6f1]);
            assert_eq!(vcpu.idtr.base, 0xffff_fe00_0000_0001);
            assert!(vcpu.is_long_mode());
        }
    }

    #[test]
    fn what_does_not_agree_is_refused() {
        let said = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut file = dump(7, 1, true);
            change(&mut file);
            GuestDump::of(&file).map(|dump| dump.version).unwrap_err().to_string()
        };
        assert!(said(&|file| file[0] = 2).contains("version 2"));
        assert!(said(&|file| file.push(0)).contains("4570 bytes"));
        assert!(said(&|file| file.truncate(100)).contains("4570 bytes"));
        assert!(said(&|file| file.truncate(50)).contains("ends"));
        assert!(said(&|file| file[72] = 0).contains("AArch64"));
        assert!(said(&|file| file[16] = 0).contains("last address"));
        assert!(said(&|file| file[4..8].fill(0xff)).contains("4294967295 processors"));
        assert!(said(&|file| file[36] = 3).contains("3 holes"));
        assert!(
            said(&|file| file[46] = 1).contains("hole in memory"),
            "{}",
            said(&|file| file[46] = 1)
        );
    }
}

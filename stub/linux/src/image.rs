//! Where the kernel's image lies, from registers and page tables alone.

use crate::paging::{Paging, Space, Walk};
use crate::reader::Reader;
use crate::view::GuestView;
use dejavm_cpu::CpuState;
use dejavm_units::{Gpa, Gva};

/// `__START_KERNEL_map` of x86-64, and the gigabyte from there that the kernel's image lies in.
const IMAGE_AREA: std::ops::Range<u64> = 0xffff_ffff_8000_0000..0xffff_ffff_c000_0000;
/// More than the image of any kernel in use.
const IMAGE_BYTES_MAX: u64 = 128 << 20;
/// 32 bits: how far around its entry point a kernel is looked for.
const REACH_BELOW: u64 = 32 << 20;
const REACH_ABOVE: u64 = 32 << 20;
/// `PAGE_OFFSET` of 32-bit kernels: `VMSPLIT_3G` first, then the others.
const PAGE_OFFSETS: [u64; 5] = [0xc000_0000, 0xb000_0000, 0x8000_0000, 0x7800_0000, 0x4000_0000];

/// Addresses that the kernel itself has put into registers and tables: its entry points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Anchors {
    /// `MSR_LSTAR`: where SYSCALL enters, `entry_SYSCALL_64`.
    pub syscall: Option<Gva>,
    /// `IA32_SYSENTER_EIP`: where SYSENTER enters.
    pub sysenter: Option<Gva>,
    /// The gate of vector 14, page faults.
    pub page_fault: Option<Gva>,
}

impl Anchors {
    /// The anchors of a vCPU.
    pub(crate) fn of(cpu: &CpuState, reader: &Reader<'_>) -> Anchors {
        let kernel = |at: u64| {
            let high =
                if reader.word_bytes() == 4 { at >= 0x4000_0000 } else { IMAGE_AREA.contains(&at) };
            high.then_some(Gva(at))
        };
        Anchors {
            syscall: if reader.word_bytes() == 8 { kernel(cpu.msr.lstar) } else { None },
            sysenter: kernel(cpu.msr.sysenter_eip),
            page_fault: gate(cpu, reader, 14).and_then(kernel),
        }
    }

    /// Any of them, the most telling first.
    pub fn any(&self) -> Option<Gva> {
        self.syscall.or(self.sysenter).or(self.page_fault)
    }
}

/// The offset in an IDT gate (SDM vol. 3A, 6.11 and 6.14.1).
fn gate(cpu: &CpuState, reader: &Reader<'_>, vector: u64) -> Option<u64> {
    let bytes = if reader.word_bytes() == 8 { 16 } else { 8 };
    let at = reader.offset(Gva(cpu.idtr.base), vector * bytes);
    let mut gate = [0; 16];
    reader.read(at, &mut gate[..bytes as usize])?;
    let present = gate[5] & 0x80 != 0;
    let low = u64::from(u16::from_le_bytes([gate[0], gate[1]]));
    let middle = u64::from(u16::from_le_bytes([gate[6], gate[7]]));
    let high = u64::from(u32::from_le_bytes([gate[8], gate[9], gate[10], gate[11]]));
    present.then_some(low | middle << 16 | high << 32)
}

/// A range of linear addresses that is contiguous in physical memory and holds the kernel's image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) start: Gva,
    pub(crate) physical: Gpa,
    pub(crate) bytes: u64,
    /// 32 bits: the start of the linear map; 64 bits: none needed.
    pub(crate) page_offset: Option<u64>,
    /// `start` is `_text` to the byte, not just somewhere before it.
    pub(crate) exact: bool,
}

impl Image {
    /// Finds the image in `reader`'s space.
    pub(crate) fn find(reader: &Reader<'_>, anchors: &Anchors) -> Option<Image> {
        match reader.space.paging {
            Paging::TwoLevel | Paging::Pae => Image::around_anchor(reader, anchors.any()?),
            Paging::FourLevel | Paging::FiveLevel => Image::first_mapping(reader),
        }
    }

    /// 64 bits: nothing is mapped from `__START_KERNEL_map` to `_text`.
    fn first_mapping(reader: &Reader<'_>) -> Option<Image> {
        let mut found: Option<Image> = None;
        let mut at = IMAGE_AREA.start;
        while at < IMAGE_AREA.end {
            let step = match reader.walk(Gva(at)) {
                Walk::Absent { block_bytes } => block_bytes,
                Walk::Mapped { gpa, page_bytes, .. } => {
                    let page = page_bytes - (at & (page_bytes - 1));
                    match &mut found {
                        None => {
                            found = Some(Image {
                                start: Gva(at),
                                physical: gpa,
                                bytes: page,
                                page_offset: None,
                                exact: true,
                            });
                        }
                        Some(image) => {
                            let distance = at - image.start.0;
                            if distance > IMAGE_BYTES_MAX {
                                break;
                            }
                            if gpa.0 == image.physical.0.wrapping_add(distance) {
                                image.bytes = distance + page;
                            }
                        }
                    }
                    page
                }
            };
            // The end of the block that holds `at`.
            at = (at & !(step - 1)).checked_add(step)?;
        }
        found.filter(|image| image.bytes >= 1 << 20)
    }

    /// 32 bits: everything low is mapped linearly, so the image is where an entry point is.
    fn around_anchor(reader: &Reader<'_>, anchor: Gva) -> Option<Image> {
        let entry = reader.translate(anchor)?;
        let linear = |offset: &u64| {
            let probe =
                |physical: u64| reader.translate(Gva(offset + physical)) == Some(Gpa(physical));
            probe(0x10_0000) && probe(0x40_0000)
        };
        let page_offset = PAGE_OFFSETS.into_iter().find(linear)?;
        // The entry itself may be an alias (the CPU entry area); physical addresses are not.
        let start = (entry.0.saturating_sub(REACH_BELOW) & !0xfff).max(0x10_0000);
        let end = (entry.0 + REACH_ABOVE) & !0xfff;
        Some(Image {
            start: Gva(page_offset.checked_add(start)?),
            physical: Gpa(start),
            bytes: end.checked_sub(start)?,
            page_offset: Some(page_offset),
            exact: false,
        })
    }

    /// A copy of it, with zeros where no RAM is.
    pub(crate) fn copy(&self, view: &dyn GuestView) -> Vec<u8> {
        const PIECE: u64 = 1 << 16;
        let in_ram: u64 =
            view.ram().iter().map(|range| range.end.saturating_sub(range.start)).sum();
        let bytes = self.bytes.min(IMAGE_BYTES_MAX).min(in_ram);
        let mut copy = vec![0; bytes as usize];
        for (number, piece) in copy.chunks_mut(PIECE as usize).enumerate() {
            let at = self.physical.wrapping_add(number as u64 * PIECE);
            if !view.read_physical(at, piece) {
                piece.fill(0);
                for (number, page) in piece.chunks_mut(0x1000).enumerate() {
                    if !view.read_physical(at.wrapping_add(number as u64 * 0x1000), page) {
                        page.fill(0);
                    }
                }
            }
        }
        copy
    }

    /// The physical address of a byte of the image.
    pub(crate) fn to_physical(self, at: Gva) -> Option<Gpa> {
        let offset = at.0.checked_sub(self.start.0)?;
        (offset < self.bytes).then(|| self.physical.wrapping_add(offset))
    }
}

/// The spaces that vCPU's CR3 may name: as it stands, and with the bit cleared that page-table isolation sets for user mode.
pub(crate) fn spaces(cpu: &CpuState) -> Vec<Space> {
    let Some(paging) = Paging::of(cpu) else { return Vec::new() };
    let root = paging.root(cpu.cr3);
    let kernel_half = Gpa(root.0 & !0x1000);
    let mut roots = vec![root];
    if kernel_half != root {
        roots.push(kernel_half);
    }
    roots.into_iter().map(|root| Space { root, paging }).collect()
}

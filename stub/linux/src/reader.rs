//! Bounded reads of guest memory through one address space.

use crate::paging::{Paging, Space, Walk};
use crate::view::GuestView;
use dejavm_units::{Gpa, Gva};
use std::cell::Cell;

/// Reads linear memory and counts them: whatever the guest's memory says, the work ends. A read beyond the
/// allowance fails like one of unmapped memory.
pub(crate) struct Reader<'a> {
    pub(crate) view: &'a dyn GuestView,
    pub(crate) space: Space,
    /// Pages still allowed to be read.
    left: Cell<u64>,
    /// The last translation: page address and physical page.
    last: Cell<Option<(u64, u64)>>,
}

impl<'a> Reader<'a> {
    /// A reader that gives up after `pages_max` pieces of pages.
    pub(crate) fn new(view: &'a dyn GuestView, space: Space, pages_max: u64) -> Reader<'a> {
        Reader { view, space, left: Cell::new(pages_max), last: Cell::new(None) }
    }

    /// Bytes of a pointer in this space.
    pub(crate) fn word_bytes(&self) -> u64 {
        match self.space.paging {
            Paging::TwoLevel | Paging::Pae => 4,
            Paging::FourLevel | Paging::FiveLevel => 8,
        }
    }

    fn spend(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0
    }

    pub(crate) fn walk(&self, at: Gva) -> Walk {
        if self.spend() {
            self.space.walk(self.view, at)
        } else {
            Walk::Absent { block_bytes: 1 << 30 }
        }
    }

    pub(crate) fn translate(&self, at: Gva) -> Option<Gpa> {
        let page = at.0 & !0xfff;
        if let Some((linear, physical)) = self.last.get()
            && linear == page
        {
            return Some(Gpa(physical | at.0 & 0xfff));
        }
        match self.walk(at) {
            Walk::Mapped { gpa, .. } => {
                self.last.set(Some((page, gpa.0 & !0xfff)));
                Some(gpa)
            }
            Walk::Absent { .. } => None,
        }
    }

    /// Reads all of `into`, or fails.
    pub(crate) fn read(&self, at: Gva, into: &mut [u8]) -> Option<()> {
        let mut done = 0;
        while done < into.len() {
            let here = Gva(at.0.checked_add(done as u64)?);
            let count = ((0x1000 - (here.0 & 0xfff)) as usize).min(into.len() - done);
            let gpa = self.translate(here)?;
            if !self.spend() || !self.view.read_physical(gpa, &mut into[done..done + count]) {
                return None;
            }
            done += count;
        }
        Some(())
    }

    pub(crate) fn u32(&self, at: Gva) -> Option<u32> {
        let mut bytes = [0; 4];
        self.read(at, &mut bytes)?;
        Some(u32::from_le_bytes(bytes))
    }

    /// A pointer-sized word, zero-extended.
    pub(crate) fn word(&self, at: Gva) -> Option<u64> {
        if self.word_bytes() == 4 {
            return self.u32(at).map(u64::from);
        }
        let mut bytes = [0; 8];
        self.read(at, &mut bytes)?;
        Some(u64::from_le_bytes(bytes))
    }

    /// An address `offset` bytes on, in this space's width.
    pub(crate) fn offset(&self, base: Gva, offset: u64) -> Gva {
        let sum = base.0.wrapping_add(offset);
        Gva(if self.word_bytes() == 4 { sum & 0xffff_ffff } else { sum })
    }

    /// The word at `base + offset`.
    pub(crate) fn word_at(&self, base: Gva, offset: u64) -> Option<u64> {
        self.word(self.offset(base, offset))
    }

    /// A pointer at `base + offset`, if it may point into the kernel.
    pub(crate) fn pointer_at(&self, base: Gva, offset: u64) -> Option<Gva> {
        let value = Gva(self.word_at(base, offset)?);
        self.is_kernel_pointer(value).then_some(value)
    }

    /// Could be the address of a kernel object: high half, and aligned as pointers to structures are.
    pub(crate) fn is_kernel_pointer(&self, at: Gva) -> bool {
        if self.word_bytes() == 4 {
            // VMSPLIT_1G puts the kernel at 0x40000000; lower than that is nobody's.
            (0x4000_0000..0xffff_f000).contains(&at.0) && at.0.is_multiple_of(4)
        } else {
            (0xff00_0000_0000_0000..0xffff_ffff_ffff_f000).contains(&at.0) && at.0.is_multiple_of(8)
        }
    }

    /// NUL-terminated text of at most `bytes_max` bytes, as it is shown: control characters and bytes beyond ASCII as `?`.
    pub(crate) fn text(&self, at: Gva, bytes_max: usize) -> Option<String> {
        let mut bytes = vec![0; bytes_max];
        self.read(at, &mut bytes)?;
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes_max);
        Some(
            bytes[..end]
                .iter()
                .map(|&byte| if (0x20..0x7f).contains(&byte) { char::from(byte) } else { '?' })
                .collect(),
        )
    }
}

//! Bulk moves and fills within a page: the fast path of repeated string instructions.
//!
//! Both functions do what that many single elements would do, or nothing at all: where anything but
//! plain RAM is met (a fault, a device, decoded code, page tables in use) they return 0 and the
//! caller goes on one element at a time, which finds the same and acts on it.

use super::walk::Access;
use crate::cpu::Cpu;
use dejavm_memory::PageFlags;
use dejavm_units::Gpa;

/// The most that one call moves.
const PAGE_BYTES: usize = 0x1000;

impl Cpu {
    /// Copies `bytes` bytes upwards between two linear addresses, each range within its page, as if
    /// by elements of `element` bytes in ascending order. Returns how many bytes were copied: a
    /// multiple of `element`, 0 if the caller must do the next element itself.
    pub(crate) fn copy_chunk(&mut self, from: u64, to: u64, bytes: u32, element: u32) -> u32 {
        assert_in_page(from, bytes);
        assert_in_page(to, bytes);
        // The order of single elements: the load's translation, then the store's.
        let Some(source) = self.plain_page(from, Access::Read) else { return 0 };
        let Some(target) = self.plain_page(to, Access::Write) else { return 0 };
        // The second translation may have made a page table of the source.
        if !self.is_plain(source) {
            return 0;
        }
        let mut bytes = bytes;
        // A target just above its source in the same frame reads what it wrote before; copies of
        // at most their distance do not.
        let distance = target.0.wrapping_sub(source.0);
        if distance != 0 && distance < u64::from(bytes) {
            bytes = distance as u32 / element * element;
        }
        let mut buffer = [0; PAGE_BYTES];
        let buffer = &mut buffer[..bytes as usize];
        let ram = self.ram();
        if ram.read(source, buffer).is_err() || ram.write_by_cpu(target, buffer).is_err() {
            return 0;
        }
        bytes
    }

    /// Fills `bytes` bytes at a linear address, within one page, with copies of the low `element`
    /// bytes of `value`. Returns how many bytes were filled: `bytes`, or 0 if the caller must do the
    /// next element itself.
    pub(crate) fn fill_chunk(&mut self, to: u64, value: u64, element: u32, bytes: u32) -> u32 {
        assert_in_page(to, bytes);
        let Some(target) = self.plain_page(to, Access::Write) else { return 0 };
        let mut buffer = [0; PAGE_BYTES];
        let buffer = &mut buffer[..bytes as usize];
        for piece in buffer.chunks_exact_mut(element as usize) {
            piece.copy_from_slice(&value.to_le_bytes()[..element as usize]);
        }
        if self.ram().write_by_cpu(target, buffer).is_err() {
            return 0;
        }
        bytes
    }

    /// Translates an address into a page of RAM from which nothing is derived; `None` for any
    /// other, and for a fault.
    fn plain_page(&mut self, linear: u64, access: Access) -> Option<Gpa> {
        // Data breakpoints are met element by element.
        if self.dr[7] & 0xff != 0 {
            return None;
        }
        let gpa = self.translate(linear, access).ok()?;
        self.is_plain(gpa).then_some(gpa)
    }

    /// Whether an address lies in RAM from which nothing is derived.
    fn is_plain(&mut self, gpa: Gpa) -> bool {
        let derived = PageFlags::CODE.union(PageFlags::PAGE_TABLE);
        let ram = self.ram();
        ram.host_page(gpa.pfn()).is_some() && !ram.flags(gpa.pfn()).intersects(derived)
    }
}

fn assert_in_page(linear: u64, bytes: u32) {
    assert!((linear & 0xfff) + u64::from(bytes) <= PAGE_BYTES as u64);
}

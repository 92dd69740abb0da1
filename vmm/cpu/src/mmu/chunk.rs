//! Bulk moves and fills within a page: the fast path of repeated string instructions.
//!
//! Both functions do what that many single elements would do, or nothing at all: where anything but
//! plain RAM is met (a fault, a device, decoded code, page tables in use) they return 0 and the
//! caller goes on one element at a time, which finds the same and acts on it.
//!
//! UNSAFETY: the spans are host pointers into guest RAM that [`Cpu::readable_span`] and
//! [`Cpu::writable_span`] vouch for, valid until the next translation; nothing is translated between
//! asking for them and using them.
#![expect(unsafe_code, reason = "copies between spans of guest RAM; see UNSAFETY above")]

use crate::cpu::Cpu;

/// The most that one call moves.
const PAGE_BYTES: usize = 0x1000;

impl Cpu {
    /// Copies `bytes` bytes upwards between two linear addresses, each range within its page, as if
    /// by elements of `element` bytes in ascending order. Returns how many bytes were copied: a
    /// multiple of `element`, 0 if the caller must do the next element itself.
    pub(crate) fn copy_chunk(&mut self, from: u64, to: u64, bytes: u32, element: u32) -> u32 {
        assert_in_page(from, bytes);
        assert_in_page(to, bytes);
        // Data breakpoints are met element by element.
        if self.dr[7] & 0xff != 0 {
            return 0;
        }
        let bytes =
            self.unwatched_bytes(from, bytes, false).min(self.unwatched_bytes(to, bytes, true));
        let bytes = bytes / element * element;
        // The order of single elements: the load's translation, then the store's, which may take
        // the first away again.
        let length = bytes as usize;
        if self.readable_span(from, length).is_none() {
            return 0;
        }
        let Some(target) = self.writable_span(to, length) else { return 0 };
        let Some(source) = self.known_readable_span(from, length) else { return 0 };
        let mut bytes = bytes;
        // A target just above its source in the same frame reads what it wrote before; copies of
        // at most their distance do not.
        let distance = (target as usize).wrapping_sub(source as usize);
        if distance != 0 && distance < length {
            bytes = distance as u32 / element * element;
        }
        // SAFETY: both spans hold `length >= bytes` bytes of mapped RAM; `copy` allows overlap.
        unsafe { std::ptr::copy(source, target, bytes as usize) };
        bytes
    }

    /// Fills `bytes` bytes at a linear address, within one page, with copies of the low `element`
    /// bytes of `value`. Returns how many bytes were filled: `bytes`, or 0 if the caller must do the
    /// next element itself.
    pub(crate) fn fill_chunk(&mut self, to: u64, value: u64, element: u32, bytes: u32) -> u32 {
        assert_in_page(to, bytes);
        if self.dr[7] & 0xff != 0 {
            return 0;
        }
        let bytes = self.unwatched_bytes(to, bytes, true) / element * element;
        let Some(target) = self.writable_span(to, bytes as usize) else { return 0 };
        let pattern = value.to_le_bytes();
        let pattern = &pattern[..element as usize];
        if pattern.iter().all(|&byte| byte == pattern[0]) {
            // SAFETY: the span holds `bytes` bytes of mapped RAM.
            unsafe { std::ptr::write_bytes(target, pattern[0], bytes as usize) };
            return bytes;
        }
        for at in (0..bytes as usize).step_by(element as usize) {
            // SAFETY: `bytes` is a multiple of `element`, so each element lies in the span.
            unsafe {
                std::ptr::copy_nonoverlapping(pattern.as_ptr(), target.add(at), element as usize);
            };
        }
        bytes
    }
}

fn assert_in_page(linear: u64, bytes: u32) {
    assert!((linear & 0xfff) + u64::from(bytes) <= PAGE_BYTES as u64);
}

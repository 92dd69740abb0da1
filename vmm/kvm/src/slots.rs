//! Guest RAM as the kernel's memory slots.
//!
//! UNSAFETY: the kernel is told addresses of the guest's RAM and writes there. It does so only within ioctls on the vCPU. So
//! those that may touch memory are made only between [`Slots::bind`], which takes the RAM's exclusive borrow and checks that
//! it is the one whose addresses the kernel was told, and the end of that borrow.
#![expect(unsafe_code, reason = "memory slots; see UNSAFETY above")]

use crate::error::{KvmError, refused};
use dejavm_memory::{GuestRam, VGA_WINDOW};
use dejavm_units::{Gpa, PAGE_SIZE, Pfn};
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;

/// The slots of one VM.
#[derive(Default)]
pub(crate) struct Slots {
    /// [`GuestRam::identity`] of the RAM that the kernel knows; 0: none.
    bound: u64,
    slots: Vec<(Gpa, u64)>,
}

impl Slots {
    /// Makes a RAM the VM's. While the borrow of `ram` lasts, the vCPU may run.
    pub(crate) fn bind(&mut self, vm: &VmFd, ram: &mut GuestRam) -> Result<(), KvmError> {
        if self.bound == ram.identity() {
            return Ok(());
        }
        for slot in 0..self.slots.len() {
            self.set(vm, slot, Gpa(0), 0, 0)?;
        }
        (self.bound, self.slots) = (0, ranges(ram));
        for (slot, (start, bytes)) in self.slots.clone().into_iter().enumerate() {
            let host = ram.host_page(start.pfn()).expect("a range of RAM begins in RAM");
            self.set(vm, slot, start, bytes, host as u64)?;
        }
        self.bound = ram.identity();
        Ok(())
    }

    fn set(
        &self,
        vm: &VmFd,
        slot: usize,
        start: Gpa,
        bytes: u64,
        host: u64,
    ) -> Result<(), KvmError> {
        let region = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: KVM_MEM_LOG_DIRTY_PAGES,
            guest_phys_addr: start.0,
            memory_size: bytes,
            userspace_addr: host,
        };
        // SAFETY: the addresses are those of a mapping that is alive whenever the vCPU runs: see UNSAFETY.
        unsafe { vm.set_user_memory_region(region) }.map_err(refused("a memory slot"))
    }

    /// Tells the RAM which of its pages the guest has written since the last call, and the caller too.
    pub(crate) fn note_dirty(&self, vm: &VmFd, ram: &mut GuestRam) -> Result<Vec<Pfn>, KvmError> {
        assert_eq!(self.bound, ram.identity(), "the RAM that the vCPU ran on");
        let mut written = Vec::new();
        for (slot, &(start, bytes)) in self.slots.iter().enumerate() {
            let log = vm
                .get_dirty_log(slot as u32, bytes as usize)
                .map_err(refused("the log of written pages"))?;
            for (word, bits) in log.into_iter().enumerate().filter(|&(_, bits)| bits != 0) {
                for bit in (0..64).filter(|bit| bits >> bit & 1 != 0) {
                    let pfn = Pfn(start.pfn().0 + word as u64 * 64 + bit);
                    ram.note_written(pfn);
                    written.push(pfn);
                }
            }
        }
        Ok(written)
    }
}

/// Where RAM is.
fn ranges(ram: &GuestRam) -> Vec<(Gpa, u64)> {
    let mut ranges: Vec<(Gpa, u64)> = Vec::new();
    for page in ram.pages().map(Pfn::gpa) {
        match ranges.last_mut() {
            Some((start, bytes)) if start.0 + *bytes == page.0 && page.0 != VGA_WINDOW.end => {
                *bytes += PAGE_SIZE;
            }
            _ => ranges.push((page, PAGE_SIZE)),
        }
    }
    ranges
}

//! The guest's memory as a source of bytes, as if it were its `.vmem`.

use crate::Windows;
use std::io;
use std::sync::Arc;
use vmss::{GuestMemory, ReadAt, Region};

impl Windows {
    /// Its memory, opened without a file.
    ///
    /// # Panics
    /// If its regions overlap.
    pub fn guest_memory(&self) -> GuestMemory {
        let source = Image { memory: self.memory.clone(), regions: self.regions.clone() };
        GuestMemory::new(Arc::new(source), 0, self.regions.clone()).expect("regions in their order")
    }
}

struct Image {
    memory: crate::Memory,
    regions: Vec<Region>,
}

impl ReadAt for Image {
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let number = at / 4096;
        let region = self.regions.iter().find(|region| {
            (region.page_in_file..region.page_in_file + region.pages).contains(&number)
        });
        let Some(region) = region else { return Ok(0) };
        let page = self.memory.page(number - region.page_in_file + region.first_page);
        let rest = &page[(at % 4096) as usize..];
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.regions.iter().map(Region::bytes).sum())
    }
}

//! Physical memory of which most was never touched.

use std::collections::BTreeMap;

const PAGE: u64 = 4096;

/// Physical memory; what nobody has put there is zero.
#[derive(Clone, Default)]
pub struct Memory {
    pages: BTreeMap<u64, Box<[u8; 4096]>>,
}

impl Memory {
    /// Puts bytes at a physical address.
    pub fn put(&mut self, at: u64, bytes: &[u8]) {
        let (mut at, mut bytes) = (at, bytes);
        while !bytes.is_empty() {
            let offset = (at % PAGE) as usize;
            let (now, rest) = bytes.split_at(bytes.len().min(4096 - offset));
            let page = self.pages.entry(at / PAGE).or_insert_with(|| Box::new([0; 4096]));
            page[offset..offset + now.len()].copy_from_slice(now);
            (at, bytes) = (at + now.len() as u64, rest);
        }
    }

    /// Reads bytes from a physical address.
    pub fn read(&self, at: u64, count: usize) -> Vec<u8> {
        (at..at + count as u64)
            .map(|at| self.pages.get(&(at / PAGE)).map_or(0, |page| page[(at % PAGE) as usize]))
            .collect()
    }

    /// A page's contents, by its number.
    pub fn page(&self, number: u64) -> [u8; 4096] {
        self.pages.get(&number).map_or([0; 4096], |page| **page)
    }

    /// Numbers of the pages that were touched.
    pub fn touched(&self) -> impl Iterator<Item = u64> {
        self.pages.keys().copied()
    }
}

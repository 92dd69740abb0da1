//! Blocks of guest memory that were read lately: introspection reads words here and there, and a system call for each
//! would be most of its time.

use std::collections::BTreeMap;
use std::sync::Mutex;
use vmss::GuestMemory;

const BLOCK_BYTES: usize = 64 << 10;
const PAGE: usize = 4096;
/// 16 MiB of them. Then it begins anew: what is read again comes back at once.
const BLOCKS_MAX: usize = 256;

/// The blocks, by their guest-physical address.
#[derive(Default)]
pub struct Cache(Mutex<BTreeMap<u64, Box<[u8]>>>);

impl Cache {
    /// Reads from memory, or from what was read of it.
    pub fn read(&self, memory: &GuestMemory, address: u64, into: &mut [u8]) -> vmss::Result<()> {
        let start = address & !(BLOCK_BYTES as u64 - 1);
        let from = (address - start) as usize;
        // What is read in large pieces is read once.
        if into.len() > PAGE || from + into.len() > BLOCK_BYTES {
            return memory.read(address, into);
        }
        let mut blocks = self.0.lock().expect("nobody panics with it");
        if !blocks.contains_key(&start) {
            let mut block = vec![0; BLOCK_BYTES].into_boxed_slice();
            if memory.read(start, &mut block).is_err() {
                // At the edge of memory: not all of the block is there.
                return memory.read(address, into);
            }
            if blocks.len() >= BLOCKS_MAX {
                blocks.clear();
            }
            blocks.insert(start, block);
        }
        into.copy_from_slice(&blocks[&start][from..from + into.len()]);
        Ok(())
    }
}

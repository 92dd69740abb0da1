//! Jumps between translations of one page: straight to the target while it has host code, to an exit while
//! it has not.

use super::emit::distance;
use super::host::CodeMemory;
use crate::code::BlockKey;
use std::collections::BTreeMap;

/// A jump: where its 32-bit distance lies, and the exit that it takes while it has no target.
#[derive(Clone, Copy)]
pub(super) struct Site {
    pub(super) at: u32,
    pub(super) exit: u32,
}

#[derive(Default)]
struct Target {
    entry: Option<u32>,
    sites: Vec<Site>,
}

/// All jumps by target.
#[derive(Default)]
pub(super) struct Links(BTreeMap<BlockKey, Target>);

impl Links {
    /// A jump to a block, which leads there at once if the block has code.
    pub(super) fn add(&mut self, memory: &mut CodeMemory, key: BlockKey, site: Site) {
        let target = self.0.entry(key).or_default();
        target.sites.push(site);
        if let Some(entry) = target.entry {
            memory.write(site.at, &distance(site.at, entry));
        }
    }

    pub(super) fn connect(&mut self, memory: &mut CodeMemory, key: BlockKey, entry: u32) {
        let target = self.0.entry(key).or_default();
        target.entry = Some(entry);
        for site in &target.sites {
            memory.write(site.at, &distance(site.at, entry));
        }
    }

    pub(super) fn disconnect(&mut self, memory: &mut CodeMemory, key: BlockKey) {
        let Some(target) = self.0.get_mut(&key) else { return };
        target.entry = None;
        for site in &target.sites {
            memory.write(site.at, &distance(site.at, site.exit));
        }
    }
}

//! What VMCOREINFO tells of a kernel, and the kernel's own address space, found and proved by it.

use crate::guest::Guest;
use dejavm_linux::{GuestView, Paging, Space};
use dejavm_units::{Gpa, Gva};
use std::collections::BTreeMap;

/// `struct new_utsname`: six names (Linux, include/uapi/linux/utsname.h).
pub const NAMES: usize = 6;
/// Bytes of each.
pub const NAME_BYTES: usize = 65;
/// Where x86-64 has the kernel's image before randomization, less what is `phys_base` (`__START_KERNEL_map`).
const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
/// With page-table isolation a processor in user mode has the page above the kernel's table in CR3.
const USER_TABLE: u64 = 1 << 12;

/// The lines of VMCOREINFO.
pub struct Kernel<'a> {
    guest: &'a Guest,
    lines: BTreeMap<&'a str, &'a str>,
}

impl<'a> Kernel<'a> {
    /// Of the kernel whose text this is.
    pub fn new(guest: &'a Guest, text: &'a [u8]) -> Kernel<'a> {
        let text = str::from_utf8(text).unwrap_or_default();
        Kernel { guest, lines: text.lines().filter_map(|line| line.split_once('=')).collect() }
    }

    /// A line's value.
    pub fn value(&self, key: &str) -> Option<&'a str> {
        self.lines.get(key).copied()
    }

    /// `SYMBOL(name)`: an address.
    pub fn symbol(&self, name: &str) -> Option<u64> {
        u64::from_str_radix(self.value(&format!("SYMBOL({name})"))?, 16).ok()
    }

    /// Numbers of the kinds `SIZE`, `OFFSET`, `LENGTH`.
    pub fn size(&self, kind: &str, name: &str) -> Option<u64> {
        self.value(&format!("{kind}({name})"))?.parse().ok()
    }

    /// `NUMBER(name)`, which may be negative.
    pub fn number(&self, name: &str) -> Option<i64> {
        self.value(&format!("NUMBER({name})"))?.parse().ok()
    }

    /// Whether its pointers have 64 bits. A 32-bit kernel may have more memory than 4 GiB.
    pub fn is_64(&self) -> bool {
        let symbols = ["init_uts_ns", "swapper_pg_dir", "_stext"];
        match symbols.iter().find_map(|name| self.symbol(name)) {
            Some(address) => address > u64::from(u32::MAX),
            None => self.guest.is_64(),
        }
    }

    /// What is added to addresses of the image, less where it was linked; 0 for i386, which has none.
    pub fn phys_base(&self) -> u64 {
        self.number("phys_base").map_or(0, i64::cast_unsigned)
    }

    /// `uname`'s six names, each with its zeros: the kernel's, or what VMCOREINFO knows of them.
    pub fn names(&self, memory: Option<&KernelMemory<'_>>) -> Vec<u8> {
        if let Some(names) = memory.and_then(|memory| self.names_in(memory)) {
            return names;
        }
        let machine = if self.is_64() { "x86_64" } else { "i686" };
        let release = self.value("OSRELEASE").unwrap_or_default();
        let mut out = vec![0; NAMES * NAME_BYTES];
        for (at, name) in [(0, "Linux"), (2, release), (4, machine)] {
            let name = &name.as_bytes()[..name.len().min(NAME_BYTES - 1)];
            out[at * NAME_BYTES..at * NAME_BYTES + name.len()].copy_from_slice(name);
        }
        out
    }

    /// The names in memory, if they are of this release: proof that addresses lead where they should.
    fn names_in(&self, memory: &KernelMemory<'_>) -> Option<Vec<u8>> {
        // Before there was a line for it, only a reference count was in front of them.
        let offset = self.size("OFFSET", "uts_namespace.name").unwrap_or(4);
        let mut names = vec![0; NAMES * NAME_BYTES];
        memory.read(self.symbol("init_uts_ns")?.checked_add(offset)?, &mut names)?;
        let name =
            |at: usize| names[at * NAME_BYTES..][..NAME_BYTES].split(|&byte| byte == 0).next();
        let release = self.value("OSRELEASE")?.as_bytes();
        (name(0) == Some(b"Linux") && name(2) == Some(release)).then_some(names)
    }

    /// The kernel's address space: its own page tables, or those of a processor.
    pub fn memory(&self) -> Option<KernelMemory<'a>> {
        let memory = |space| KernelMemory { guest: self.guest, space, is_64: self.is_64() };
        let candidates = self.own_tables().into_iter().chain(self.processors_tables());
        candidates.map(memory).find(|memory: &KernelMemory<'_>| self.names_in(memory).is_some())
    }

    fn own_tables(&self) -> Option<Space> {
        let table = self.symbol("init_top_pgt").or_else(|| self.symbol("swapper_pg_dir"))?;
        if !self.is_64() {
            // Where the direct map begins is not told: a processor's tables have to do.
            return None;
        }
        let root = Gpa(table.wrapping_sub(KERNEL_MAP).wrapping_add(self.phys_base()));
        let five = self.number("pgtable_l5_enabled") == Some(1);
        Some(Space { root, paging: if five { Paging::FiveLevel } else { Paging::FourLevel } })
    }

    fn processors_tables(&self) -> impl Iterator<Item = Space> {
        (0..self.guest.vcpus.len()).flat_map(|n| {
            let state = self.guest.cpu_state(n);
            let spaces = Paging::of(&state).map(|paging| {
                let both = [state.cr3, state.cr3 & !USER_TABLE];
                both.map(|cr3| Space { root: paging.root(cr3), paging })
            });
            spaces.into_iter().flatten()
        })
    }
}

/// The kernel's memory, by its own addresses.
pub struct KernelMemory<'a> {
    guest: &'a Guest,
    space: Space,
    is_64: bool,
}

impl KernelMemory<'_> {
    /// Reads all of `into`, or fails.
    pub fn read(&self, at: u64, into: &mut [u8]) -> Option<()> {
        let (mut at, mut into) = (at, into);
        while !into.is_empty() {
            let count = into.len().min((4096 - at % 4096) as usize);
            let (now, rest) = into.split_at_mut(count);
            let place = self.space.translate(self.guest, Gva(at))?;
            self.guest.memory.read(place.0, now).ok()?;
            (at, into) = (at.checked_add(count as u64)?, rest);
        }
        Some(())
    }

    /// Bytes of a pointer.
    pub fn pointer_bytes(&self) -> u64 {
        if self.is_64 { 8 } else { 4 }
    }

    /// A pointer.
    pub fn pointer(&self, at: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes[..self.pointer_bytes() as usize])?;
        Some(u64::from_le_bytes(bytes))
    }
}

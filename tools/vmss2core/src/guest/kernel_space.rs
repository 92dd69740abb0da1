//! The kernel's page tables by what Linux says of itself, where a file tells no control registers: kdump's do not.

use vmss::GuestMemory;

/// Control registers with which addresses of the kernel can be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelSpace {
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
}

/// Where x86-64 maps the kernel's image before it is moved (`__START_KERNEL_map`).
const IMAGE: u64 = 0xffff_ffff_8000_0000;
const PG_AND_PE: u64 = 1 << 31 | 1;
const PAE: u64 = 1 << 5;
const LA57: u64 = 1 << 12;

/// The tables that VMCOREINFO of a 64-bit kernel leads to, if they are in memory.
pub fn of(vmcoreinfo: &[u8], memory: &GuestMemory) -> Option<KernelSpace> {
    let text = std::str::from_utf8(vmcoreinfo).ok()?;
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let table = ["SYMBOL(init_top_pgt)", "SYMBOL(swapper_pg_dir)", "SYMBOL(init_level4_pgt)"]
        .iter()
        .find_map(|key| value(key))?;
    let table = u64::from_str_radix(table.trim(), 16).ok()?;
    // How far physical memory and the image are apart, in decimal and perhaps below zero.
    let base: i64 = value("NUMBER(phys_base)")?.trim().parse().ok()?;
    let cr3 = table.checked_sub(IMAGE)?.checked_add_signed(base)?;
    let five_levels = value("NUMBER(pgtable_l5_enabled)").is_some_and(|value| value.trim() == "1");
    let mut entries = [0; 4096];
    memory.read(cr3, &mut entries).ok()?;
    let is_table = cr3 % 4096 == 0 && entries[2048..].iter().any(|&byte| byte != 0);
    let cr4 = PAE | if five_levels { LA57 } else { 0 };
    is_table.then_some(KernelSpace { cr0: PG_AND_PE, cr3, cr4 })
}

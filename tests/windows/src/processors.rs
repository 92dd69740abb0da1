//! Processors: their KPCR in memory, their registers in the checkpoint.

use crate::builder::Builder;
use crate::{Options, System};
use vmss::{SegmentRegister, Table, Vcpu, segment};

/// The kernel's CR3, in KPCR, while the user's is loaded.
const KPCR_KERNEL_CR3: u64 = 0x7000;

/// Puts the KPCR of processor `n` into memory; its KPRCB, CONTEXT and KSPECIAL_REGISTERS.
pub fn put_kpcr(
    builder: &mut Builder,
    options: &Options,
    n: usize,
    version_block: u64,
) -> (u64, (u64, u64)) {
    let layout = options.system.layout();
    let kpcr = kpcr(options.system, n);
    builder.map_new(kpcr & !0xfff, layout.kpcr_pages);
    let prcb = kpcr + layout.prcb;
    let is_64 = options.system.is_64();
    builder.pointer(kpcr + if is_64 { 0x18 } else { 0x1c }, kpcr);
    builder.pointer(kpcr + 0x20, prcb);
    builder.pointer(kpcr + 0x38, idt(kpcr));
    // Only the first processor's has it.
    if n == 0 && options.kpcr_version {
        builder.pointer(kpcr + if is_64 { 0x108 } else { 0x34 }, version_block);
    }
    if options.shadow {
        let cr3 = builder.space.root;
        builder.pointer(kpcr + KPCR_KERNEL_CR3, cr3);
    }
    builder.put(prcb + u64::from(layout.prcb_number), &(n as u32).to_le_bytes());
    // Gate 0: the handler in three parts (SDM vol. 3A, 6.14.1), or in two.
    let handler = builder.handler();
    let mut gate = [0; 16];
    gate[0..2].copy_from_slice(&(handler as u16).to_le_bytes());
    gate[2..4].copy_from_slice(&0x10u16.to_le_bytes());
    gate[5] = 0x8e;
    gate[6..8].copy_from_slice(&((handler >> 16) as u16).to_le_bytes());
    gate[8..12].copy_from_slice(&((handler >> 32) as u32).to_le_bytes());
    builder.put(idt(kpcr), &gate[..if is_64 { 16 } else { 8 }]);

    let context = if options.context_in_prcb || layout.prcb_context == 0 {
        prcb + u64::from(layout.prcb_context_frame)
    } else {
        // From one page into the next.
        let context = layout.pool + 0x10_0e00 + n as u64 * 0x3000;
        builder.map_new(context & !0xfff, 2);
        builder.pointer(prcb + u64::from(layout.prcb_context), context);
        context
    };
    (prcb, (context, prcb + u64::from(layout.prcb_special)))
}

fn kpcr(system: System, n: usize) -> u64 {
    let (first, step) = system.layout().kpcr;
    // 32-bit systems have the first not at the beginning of a page.
    let within = if system.is_64() { 0 } else { 0xc00 };
    first + n as u64 * step + if n == 0 { within } else { 0 }
}

/// In the KPCR's pages, behind all else.
fn idt(kpcr: u64) -> u64 {
    (kpcr & !0xfff) + 0x2f00
}

/// The registers of processor `n`: the first executes the kernel, the others users' code.
pub fn vcpu(options: &Options, n: usize, cr3: u64, rip: u64) -> Vcpu {
    let is_64 = options.system.is_64();
    let in_kernel = n == 0 && !options.shadow;
    let kpcr = kpcr(options.system, n);
    let teb = if is_64 { 0x0000_00d8_5f3a_1000 } else { 0x7ffd_f000 } + n as u64 * 0x2000;
    let stack = if in_kernel { options.system.layout().pool + 0x1000 } else { 0x22_f000 };
    let value = |at: u64| {
        let value = 0x1111_0000_0000_0000 * (n as u64 + 1) + 0x0101_0101 * at;
        if is_64 { value } else { value & 0xffff_ffff }
    };
    let mut gpr: [u64; 16] = std::array::from_fn(|at| value(at as u64 + 1));
    gpr[4] = stack + 0x100 * n as u64;
    if !is_64 {
        gpr[8..].fill(0);
    }
    let (kernel_selectors, user_selectors) = if is_64 {
        (
            [0x2b, 0x10, 0x18, 0x2b, 0x53, 0x2b, 0, 0x40],
            [0x2b, 0x33, 0x2b, 0x2b, 0x53, 0x2b, 0, 0x40],
        )
    } else {
        ([0x23, 0x08, 0x10, 0x23, 0x30, 0, 0, 0x28], [0x23, 0x1b, 0x23, 0x23, 0x3b, 0, 0, 0x28])
    };
    let cr4 = match options.system {
        // PSE, no PAE.
        System::Xp32 => 0x6d9,
        System::Seven32 | System::Seven64 | System::Ten64 => 0x6f9,
    };
    let selectors: [u16; 8] = if in_kernel { kernel_selectors } else { user_selectors };
    let mut segments: [SegmentRegister; 8] =
        selectors.map(|selector| SegmentRegister { selector, ..SegmentRegister::default() });
    if is_64 {
        segments[segment::GS].base = if in_kernel { kpcr } else { teb };
    } else {
        segments[segment::FS].base = if in_kernel { kpcr } else { teb };
    }
    let kernel_gs = if in_kernel { teb } else { kpcr };
    let knows = is_64 && options.knows_kernel_gs;
    Vcpu {
        gpr,
        rip: if in_kernel {
            rip
        } else if is_64 {
            0x7ff7_1234_0000
        } else {
            0x40_1000
        },
        eflags: 0x246,
        cr: [0x8005_0033, 0, 0x1000 + n as u64, cr3, cr4, 0, 0, 0, 0],
        dr: [1, 2, 3, 4, 0, 0, 0xffff_0ff0, 0x400],
        segments,
        gdtr: Table { base: (kpcr & !0xfff) + 0x2e00, limit: 0x6f },
        idtr: Table { base: idt(kpcr), limit: 0xfff },
        is_halted: false,
        // VMware's files do not say it, as far as is known.
        efer: None,
        kernel_gs_base: knows.then_some(kernel_gs),
    }
}

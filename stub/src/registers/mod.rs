//! The registers as gdb knows them: which there are, how wide, and their values. The numbers and the
//! order are QEMU's (`gdb-xml/i386-64bit.xml`, `i386-32bit.xml`), which is what other debuggers that
//! read no description expect; ours come behind them.

mod description;
mod values;

use std::sync::LazyLock;

pub use description::target_xml;
pub(crate) use values::expedited;
pub use values::{Unwritable, read, write};

/// Which register file gdb sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// i386: 8 general registers of 32 bits.
    Bits32,
    /// x86-64.
    Bits64,
}

/// What a register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A general register, by instruction encoding.
    General(u8),
    InstructionPointer,
    Flags,
    /// A selector, by instruction encoding: ES, CS, SS, DS, FS, GS.
    Selector(u8),
    /// Its base.
    Base(u8),
    KernelGsBase,
    Cr0,
    Cr2,
    Cr3,
    Cr4,
    Cr8,
    Efer,
    /// ST(i).
    X87(u8),
    /// The x87 control and status registers in gdb's order: fctrl fstat ftag fiseg fioff foseg fooff fop.
    X87Control(u8),
    Xmm(u8),
    Mxcsr,
}

/// One register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Register {
    pub(crate) name: &'static str,
    pub(crate) bits: u16,
    pub(crate) kind: &'static str,
    pub(crate) feature: Feature,
    pub(crate) what: What,
}

/// Where a register stands in the description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Feature {
    Core,
    Sse,
    /// gdb knows from this one that fs_base and gs_base are bases.
    Segments,
    /// Ours: gdb lists it by `info registers system`.
    System,
}

const NAMES_64: [&str; 16] = [
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];
/// The encodings of [`NAMES_64`].
const ORDER_64: [u8; 16] = [0, 3, 1, 2, 6, 7, 5, 4, 8, 9, 10, 11, 12, 13, 14, 15];
const NAMES_32: [&str; 8] = ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"];
const SELECTORS: [(&str, u8); 6] =
    [("cs", 1), ("ss", 2), ("ds", 3), ("es", 0), ("fs", 4), ("gs", 5)];
const X87: [&str; 8] = ["st0", "st1", "st2", "st3", "st4", "st5", "st6", "st7"];
const X87_CONTROL: [&str; 8] =
    ["fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop"];
const XMM: [&str; 16] = [
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
    "xmm11", "xmm12", "xmm13", "xmm14", "xmm15",
];
const MORE_BASES: [(&str, u8); 4] =
    [("cs_base", 1), ("ss_base", 2), ("ds_base", 3), ("es_base", 0)];

static REGISTERS: LazyLock<[Vec<Register>; 2]> =
    LazyLock::new(|| [table(Layout::Bits32), table(Layout::Bits64)]);

/// The layout's registers by number.
pub(crate) fn registers(layout: Layout) -> &'static [Register] {
    match layout {
        Layout::Bits32 => &REGISTERS[0],
        Layout::Bits64 => &REGISTERS[1],
    }
}

fn table(layout: Layout) -> Vec<Register> {
    let mut all = Vec::with_capacity(72);
    let mut add = |name, bits, kind, feature, what| {
        all.push(Register { name, bits, kind, feature, what });
    };
    use Feature::{Core, Segments, Sse, System};
    let wide = match layout {
        Layout::Bits64 => {
            for (name, number) in NAMES_64.into_iter().zip(ORDER_64) {
                let pointer = matches!(name, "rbp" | "rsp");
                let kind = if pointer { "data_ptr" } else { "int64" };
                add(name, 64, kind, Core, What::General(number));
            }
            add("rip", 64, "code_ptr", Core, What::InstructionPointer);
            (64, "int64")
        }
        Layout::Bits32 => {
            for (number, name) in (0..).zip(NAMES_32) {
                let pointer = matches!(name, "ebp" | "esp");
                let kind = if pointer { "data_ptr" } else { "int32" };
                add(name, 32, kind, Core, What::General(number));
            }
            add("eip", 32, "code_ptr", Core, What::InstructionPointer);
            (32, "int32")
        }
    };
    let (bits, int) = wide;
    add("eflags", 32, "eflags", Core, What::Flags);
    for (name, number) in SELECTORS {
        add(name, 32, "int32", Core, What::Selector(number));
    }
    // gdb 13 dies of the segments feature in an i386 description.
    let bases = if layout == Layout::Bits64 { Segments } else { System };
    add("fs_base", bits, int, bases, What::Base(4));
    add("gs_base", bits, int, bases, What::Base(5));
    add("k_gs_base", bits, int, System, What::KernelGsBase);
    add("cr0", bits, "cr0", System, What::Cr0);
    add("cr2", bits, int, System, What::Cr2);
    add("cr3", bits, int, System, What::Cr3);
    add("cr4", bits, "cr4", System, What::Cr4);
    add("cr8", bits, int, System, What::Cr8);
    add("efer", bits, "efer", System, What::Efer);
    for (number, name) in (0..).zip(X87) {
        add(name, 80, "i387_ext", Core, What::X87(number));
    }
    for (number, name) in (0..).zip(X87_CONTROL) {
        add(name, 32, "int32", Core, What::X87Control(number));
    }
    let count = if layout == Layout::Bits64 { 16 } else { 8 };
    for (number, name) in (0..).zip(XMM).take(count) {
        add(name, 128, "vec128", Sse, What::Xmm(number));
    }
    add("mxcsr", 32, "mxcsr", Sse, What::Mxcsr);
    for (name, number) in MORE_BASES {
        add(name, bits, int, System, What::Base(number));
    }
    all
}

#[cfg(test)]
mod tests;

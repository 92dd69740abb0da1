//! Segment registers with their hidden parts (SDM vol. 3A, 3.4.3).

use serde::{Deserialize, Serialize};

/// Index of a segment register in [`Cpu::seg`](crate::Cpu), in instruction-encoding order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
#[expect(missing_docs, reason = "the registers' names")]
pub enum SegReg {
    Es = 0,
    Cs = 1,
    Ss = 2,
    Ds = 3,
    Fs = 4,
    Gs = 5,
}

/// A segment register: the selector and the descriptor that was loaded with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Segment {
    /// The visible part.
    pub selector: u16,
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes, granularity already applied (the last valid offset).
    pub limit: u32,
    /// Access rights: descriptor bits 40-47 in bits 0-7, bits 52-55 in bits 8-11.
    pub rights: Rights,
}

/// The access rights of a descriptor: type (bits 0-3), S (4), DPL (5-6), P (7), AVL (8), L (9),
/// D/B (10), G (11); bit 12 marks a register that was loaded with a null selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rights(pub u16);

impl Rights {
    /// A data segment register that holds a null selector: any access through it faults.
    pub const NULL: Rights = Rights(1 << 12);

    /// The four type bits.
    #[inline]
    pub const fn kind(self) -> u8 {
        (self.0 & 0xf) as u8
    }
    /// S: a code or data segment (a system descriptor otherwise).
    #[inline]
    pub const fn is_code_or_data(self) -> bool {
        self.0 & 1 << 4 != 0
    }
    /// A code segment.
    #[inline]
    pub const fn is_code(self) -> bool {
        self.0 & (1 << 4 | 1 << 3) == 1 << 4 | 1 << 3
    }
    /// A conforming code segment.
    #[inline]
    pub const fn is_conforming(self) -> bool {
        self.is_code() && self.0 & 1 << 2 != 0
    }
    /// An expand-down data segment.
    #[inline]
    pub const fn is_expand_down(self) -> bool {
        self.0 & (1 << 4 | 1 << 3 | 1 << 2) == 1 << 4 | 1 << 2
    }
    /// A data segment that may be read, or a readable code segment.
    #[inline]
    pub const fn is_readable(self) -> bool {
        self.is_code_or_data() && (!self.is_code() || self.0 & 1 << 1 != 0)
    }
    /// A writable data segment.
    #[inline]
    pub const fn is_writable(self) -> bool {
        self.0 & (1 << 4 | 1 << 3 | 1 << 1) == 1 << 4 | 1 << 1
    }
    /// Descriptor privilege level.
    #[inline]
    pub const fn dpl(self) -> u8 {
        (self.0 >> 5 & 3) as u8
    }
    /// P: the segment is present.
    #[inline]
    pub const fn is_present(self) -> bool {
        self.0 & 1 << 7 != 0
    }
    /// L: 64-bit code.
    #[inline]
    pub const fn is_long(self) -> bool {
        self.0 & 1 << 9 != 0
    }
    /// D/B: 32-bit default operand size, or 32-bit stack.
    #[inline]
    pub const fn is_big(self) -> bool {
        self.0 & 1 << 10 != 0
    }
    /// The register holds a null selector.
    #[inline]
    pub const fn is_null(self) -> bool {
        self.0 & 1 << 12 != 0
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TableRegister {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}

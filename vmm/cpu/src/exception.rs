//! Exceptions and the other ways in which an instruction does not complete.

/// Exception vectors (SDM vol. 3A, table 6-1).
#[expect(missing_docs, reason = "the manual's mnemonics")]
pub mod vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const XM: u8 = 19;
}

/// The current instruction did not complete; [`Cpu::abort_reason`](crate::Cpu) says why. Carries
/// nothing itself so that `Result<u64, Abort>` travels in two registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Abort(pub(crate) ());

/// Why an instruction did not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortReason {
    /// A fault: to be delivered with `rip` at this instruction.
    Exception {
        /// The vector.
        vector: u8,
        /// The error code, for the vectors that push one.
        error_code: Option<u32>,
    },
    /// The instruction touches something whose effects must be seen before the next instruction (a
    /// device, a page table in use, decoded code): run it again as a block of its own.
    RetryAlone,
    /// A fault while delivering a double fault.
    Shutdown,
}

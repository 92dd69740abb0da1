//! KUSER_SHARED_DATA: a page at the same address in every Windows, with times and versions.

use crate::windows::space::Space;

const AT_64: u64 = 0xffff_f780_0000_0000;
const AT_32: u64 = 0xffdf_0000;
/// Offsets, the same since Windows 2000 where not said otherwise.
const INTERRUPT_TIME: usize = 0x008;
const SYSTEM_TIME: usize = 0x014;
const NT_SYSTEM_ROOT: usize = 0x030;
/// Since Windows 10.
const NT_BUILD_NUMBER: usize = 0x260;
const NT_PRODUCT_TYPE: usize = 0x264;
const NT_MAJOR_VERSION: usize = 0x26c;
const NT_MINOR_VERSION: usize = 0x270;
const SUITE_MASK: usize = 0x2d0;
const BYTES: usize = 0x2d4;

/// What dumps want of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedData {
    /// 100 ns since 1601, UTC.
    pub system_time: u64,
    /// 100 ns since the start.
    pub interrupt_time: u64,
    /// 1 workstation, 2 domain controller, 3 server.
    pub product_type: u32,
    /// Bits.
    pub suite_mask: u32,
    /// 5, 6, 10
    pub major: u32,
    /// The build, where the system says it here.
    pub build: Option<u32>,
}

impl SharedData {
    /// Reads it, if the address space has it and it looks as it should: a version that exists, and a system root
    /// with a drive. No other system has that at this address.
    pub fn read(space: &Space<'_>) -> Option<SharedData> {
        let at = if space.is_64() { AT_64 } else { AT_32 };
        let bytes: [u8; BYTES] = space.bytes(at)?;
        let word = |at: usize| {
            u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes of the page"))
        };
        // KSYSTEM_TIME: the low word, and the high word in front of its copy.
        let time = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let (major, minor) = (word(NT_MAJOR_VERSION), word(NT_MINOR_VERSION));
        let colon = [b':', 0, b'\\', 0];
        let looks_right = matches!((major, minor), (5, 0..=2) | (6, 0..=4) | (10, 0))
            && bytes[NT_SYSTEM_ROOT].is_ascii_alphabetic()
            && bytes[NT_SYSTEM_ROOT + 2..][..4] == colon;
        looks_right.then(|| SharedData {
            system_time: time(SYSTEM_TIME),
            interrupt_time: time(INTERRUPT_TIME),
            product_type: word(NT_PRODUCT_TYPE),
            suite_mask: word(SUITE_MASK),
            major,
            build: Some(word(NT_BUILD_NUMBER) & 0xffff).filter(|&build| major >= 10 && build > 0),
        })
    }
}

//! What differs between the Windows that there are.

/// A Windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// Windows XP without PAE: its debugger data block does not say where KPRCB has CONTEXT.
    Xp32,
    /// Windows 7 with Service Pack 1, 32-bit with PAE.
    Seven32,
    /// The same, 64-bit.
    Seven64,
    /// Windows 10, 64-bit: its debugger data block is encoded.
    Ten64,
}

/// Where things are.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The build.
    pub build: u16,
    /// Major and minor version.
    pub version: (u32, u32),
    /// The kernel's first byte.
    pub kernel: u64,
    /// The symbols of the kernel; without, it is known by its export directory.
    pub symbols: Option<&'static str>,
    /// The page tables' index of themselves.
    pub self_reference: u64,
    /// KUSER_SHARED_DATA.
    pub shared_data: u64,
    /// The first KPCR, and how far it is to the next.
    pub kpcr: (u64, u64),
    /// Pages of a KPCR with its KPRCB.
    pub kpcr_pages: u64,
    /// KPRCB in KPCR.
    pub prcb: u64,
    /// Nonpaged pool.
    pub pool: u64,
    /// KDDEBUGGER_DATA64.Size
    pub data_bytes: u32,
    /// In KPRCB: the pointer to CONTEXT.
    pub prcb_context: u16,
    /// CONTEXT itself, for systems without the pointer.
    pub prcb_context_frame: u16,
    /// KSPECIAL_REGISTERS
    pub prcb_special: u16,
    /// The processor's number.
    pub prcb_number: u16,
}

impl System {
    /// All of them.
    pub const ALL: [System; 4] = [System::Xp32, System::Seven32, System::Seven64, System::Ten64];

    /// Whether it is a 64-bit system.
    pub fn is_64(self) -> bool {
        matches!(self, System::Seven64 | System::Ten64)
    }

    /// Where it has things.
    pub fn layout(self) -> Layout {
        match self {
            System::Xp32 => Layout {
                build: 2600,
                version: (5, 1),
                kernel: 0x804d_7000,
                symbols: None,
                self_reference: 0x300,
                shared_data: 0xffdf_0000,
                kpcr: (0xf783_c000, 0x4000),
                kpcr_pages: 4,
                prcb: 0x120,
                pool: 0x8160_0000,
                data_bytes: 0x290,
                prcb_context: 0,
                prcb_context_frame: 0,
                prcb_special: 0,
                prcb_number: 0x10,
            },
            System::Seven32 => Layout {
                build: 7601,
                version: (6, 1),
                kernel: 0x8284_5000,
                symbols: Some("ntkrpamp.pdb"),
                self_reference: 3,
                shared_data: 0xffdf_0000,
                kpcr: (0x807c_4000, 0x1_0000),
                kpcr_pages: 5,
                prcb: 0x120,
                pool: 0x8500_0000,
                data_bytes: 0x340,
                prcb_context: 0x33a0,
                prcb_context_frame: 0x18,
                prcb_special: 0x2e4,
                prcb_number: 0x3cc,
            },
            System::Seven64 => Layout {
                build: 7601,
                version: (6, 1),
                kernel: 0xffff_f800_02a1_4000,
                symbols: Some("ntkrnlmp.pdb"),
                self_reference: 0x1ed,
                shared_data: 0xffff_f780_0000_0000,
                kpcr: (0xffff_f880_02f6_4000, 0x7_1000),
                kpcr_pages: 6,
                prcb: 0x180,
                pool: 0xffff_fa80_0180_0000,
                data_bytes: 0x340,
                prcb_context: 0x4bd8,
                prcb_context_frame: 0x120,
                prcb_special: 0x40,
                prcb_number: 0x24,
            },
            System::Ten64 => Layout {
                build: 19041,
                version: (10, 0),
                kernel: 0xffff_f805_1040_0000,
                symbols: Some("ntkrnlmp.pdb"),
                self_reference: 0x1a3,
                shared_data: 0xffff_f780_0000_0000,
                kpcr: (0xffff_f805_0c22_3000, 0x9_7000),
                kpcr_pages: 11,
                prcb: 0x180,
                pool: 0xffff_990f_1a60_0000,
                data_bytes: 0x380,
                prcb_context: 0x8620,
                prcb_context_frame: 0x1f0,
                prcb_special: 0x100,
                prcb_number: 0x24,
            },
        }
    }
}

//! KDDEBUGGER_DATA64, plain and as kernels since Windows 8 keep it.

/// The kernel's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// KiWaitNever
    pub never: u64,
    /// KiWaitAlways
    pub always: u64,
}

/// Encodes a block as the kernel does it, with the address of KdpDataBlockEncoded.
pub fn encode(plain: &[u8], keys: Keys, flag: u64) -> Vec<u8> {
    let longs = plain.chunks_exact(8).map(|long| u64::from_le_bytes(long.try_into().expect("8")));
    let encoded = longs.map(|plain| {
        let swapped = (plain ^ keys.always).swap_bytes() ^ flag;
        swapped.rotate_right((keys.never & 0xff) as u32 & 63) ^ keys.never
    });
    encoded.flat_map(u64::to_le_bytes).collect()
}

/// What the block says, by the offsets in WDBGEXTS.H.
pub struct Fields {
    /// The list's head.
    pub list: u64,
    pub bytes: u32,
    pub kernel: u64,
    pub modules: u64,
    pub processes: u64,
    pub bugcheck: u64,
    pub pfn_database: u64,
    pub build_lab: u64,
    pub processor_block: u64,
    pub physical_memory_block: u64,
    pub prcb_context: u16,
    pub prcb_context_frame: u16,
    pub prcb_special: u16,
    pub prcb_number: u16,
}

impl Fields {
    /// The block; 32-bit systems extend the sign of addresses.
    pub fn block(&self, is_64: bool) -> Vec<u8> {
        let mut out = vec![0; self.bytes as usize];
        let addresses = [
            (0x00, self.list),
            (0x08, self.list),
            (0x18, self.kernel),
            (0x48, self.modules),
            (0x50, self.processes),
            (0x88, self.bugcheck),
            (0xc0, self.pfn_database),
            (0x208, self.build_lab),
            (0x218, self.processor_block),
            (0x270, self.physical_memory_block),
        ];
        for (at, address) in addresses {
            let wide = if is_64 { address } else { i64::from(address as u32 as i32) as u64 };
            out[at..at + 8].copy_from_slice(&wide.to_le_bytes());
        }
        out[0x10..0x14].copy_from_slice(b"KDBG");
        out[0x14..0x18].copy_from_slice(&self.bytes.to_le_bytes());
        let offsets = [
            (0x2bc, self.prcb_context_frame),
            (0x2be, self.prcb_number),
            (0x2f2, self.prcb_special),
            (0x338, self.prcb_context),
        ];
        // Older blocks end before.
        for (at, offset) in offsets.into_iter().filter(|(at, _)| at + 2 <= self.bytes as usize) {
            out[at..at + 2].copy_from_slice(&offset.to_le_bytes());
        }
        out
    }
}

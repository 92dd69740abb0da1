//! A kernel's image as it is mapped: headers, the name of its symbols, code, data.

/// Bytes of the image.
pub const BYTES: u32 = 0x41_0000;
/// Read-only data: two pages.
pub const RDATA: u32 = 0x1000;
/// Code; what is between was thrown away after the start.
pub const TEXT: u32 = 0x20_0000;
/// Data: 16 pages, the last of the image.
pub const DATA: u32 = 0x40_0000;
pub const DATA_BYTES: u32 = 0x1_0000;
/// KiDivideErrorFault.
pub const HANDLER: u64 = 0x20_13c0;

/// The first three pages: headers and read-only data.
pub fn front(is_64: bool, symbols: Option<&str>) -> Vec<u8> {
    let mut out = vec![0; 0x3000];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    const PE: usize = 0xf8;
    put(0, b"MZ\x90\0");
    put(0x3c, &(PE as u32).to_le_bytes());
    put(PE, b"PE\0\0");
    put(PE + 4, &if is_64 { 0x8664u16 } else { 0x14c }.to_le_bytes());
    put(PE + 6, &4u16.to_le_bytes());
    let optional_bytes: usize = if is_64 { 0xf0 } else { 0xe0 };
    put(PE + 20, &(optional_bytes as u16).to_le_bytes());
    put(PE + 22, &0x22u16.to_le_bytes());
    let optional = PE + 24;
    put(optional, &if is_64 { 0x20bu16 } else { 0x10b }.to_le_bytes());
    put(optional + 56, &BYTES.to_le_bytes());
    put(optional + 60, &0x600u32.to_le_bytes());
    let directories = optional + if is_64 { 0x70 } else { 0x60 };
    put(directories - 4, &16u32.to_le_bytes());
    // The export directory, with the name.
    put(directories, &(RDATA + 0x400).to_le_bytes());
    put(directories + 4, &40u32.to_le_bytes());
    put(RDATA as usize + 0x400 + 12, &(RDATA + 0x440).to_le_bytes());
    put(RDATA as usize + 0x440, b"ntoskrnl.exe\0");
    let sections: [(&[u8], u32, u32, u32); 4] = [
        (b".rdata", RDATA, 0x2000, 0x4800_0040),
        (b"INIT", 0x3000, 0x1f_d000, 0x6200_0020),
        (b".text", TEXT, 0x20_0000, 0x6800_0020),
        (b".data", DATA, DATA_BYTES, 0xc800_0040),
    ];
    for (n, (name, at, bytes, characteristics)) in sections.into_iter().enumerate() {
        let entry = optional + optional_bytes + n * 40;
        put(entry, name);
        put(entry + 8, &bytes.to_le_bytes());
        put(entry + 12, &at.to_le_bytes());
        put(entry + 36, &characteristics.to_le_bytes());
    }
    let Some(symbols) = symbols else { return out };
    // The debug directory: two entries, of which the second is the one.
    put(directories + 6 * 8, &(RDATA + 0x40).to_le_bytes());
    put(directories + 6 * 8 + 4, &56u32.to_le_bytes());
    let debug = RDATA as usize + 0x40;
    put(debug + 12, &13u32.to_le_bytes());
    put(debug + 28 + 12, &2u32.to_le_bytes());
    put(debug + 28 + 16, &(24 + symbols.len() as u32 + 1).to_le_bytes());
    put(debug + 28 + 20, &(RDATA + 0x200).to_le_bytes());
    let record = RDATA as usize + 0x200;
    put(record, b"RSDS");
    put(record + 4, b"\x10\x32\x54\x76\x98\xba\xdc\xfe\x10\x32\x54\x76\x98\xba\xdc\xfe");
    put(record + 20, &1u32.to_le_bytes());
    put(record + 24, symbols.as_bytes());
    out
}

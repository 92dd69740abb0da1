//! A test double: no macOS can be fetched and run here, so this is memory as xnu lays it out, with a Mach-O kernel in it that
//! has been moved, and the same kernel as a file.

use std::io::Write;
use std::path::{Path, PathBuf};
use vmss::{Product, Region, Vcpu, Writer, segment};

/// Where `__TEXT` of xnu is linked.
pub const TEXT: u64 = 0xffff_ff80_0020_0000;
pub const SLIDE: u64 = 0x1260_0000;
pub const UUID: [u8; 16] = *b"\x01\x23\x45\x67\x89\xab\xcd\xef\xfe\xdc\xba\x98\x76\x54\x32\x10";
const PAGES: usize = 1024;
const TEXT_PHYSICAL: usize = 0x20_0000;

pub fn registers() -> Vcpu {
    let mut vcpu = Vcpu {
        gpr: std::array::from_fn(|n| 0x1000_0000_0000_0000 + n as u64),
        rip: TEXT + SLIDE + 0x1000,
        eflags: 0x246,
        efer: Some(0xd01),
        ..Vcpu::default()
    };
    vcpu.cr[0] = 0x8001_003b;
    vcpu.cr[3] = 0x1000;
    vcpu.cr[4] = 0x660;
    vcpu.segments[segment::CS].selector = 8;
    vcpu
}

fn kernel() -> Vec<u8> {
    let mut out = Vec::new();
    let words = |out: &mut Vec<u8>, words: &[u32]| {
        words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
    };
    // MH_EXECUTE, with a segment and a UUID.
    words(&mut out, &[0xfeed_facf, 0x0100_0007, 3, 2, 2, 72 + 24, 1, 0]);
    words(&mut out, &[0x19, 72]);
    out.extend_from_slice(b"__TEXT\0\0\0\0\0\0\0\0\0\0");
    for value in [TEXT, 0x20_0000, 0, 0x2000] {
        out.extend_from_slice(&value.to_le_bytes());
    }
    words(&mut out, &[5, 5, 0, 0, 0x1b, 24]);
    out.extend_from_slice(&UUID);
    out.resize(0x1000, 0);
    out.extend_from_slice(&[0x90; 0x1000]);
    out
}

/// Writes the checkpoint and the kernel into a folder; their names.
pub fn write(folder: &Path) -> (PathBuf, PathBuf) {
    let mut memory = vec![0u8; PAGES * 4096];
    let mut entry = |table: usize, index: u64, value: u64| {
        let at = table + index as usize * 8;
        memory[at..at + 8].copy_from_slice(&value.to_le_bytes());
    };
    let at = TEXT + SLIDE;
    entry(0x1000, at >> 39 & 511, 0x2003);
    entry(0x2000, at >> 30 & 511, 0x3003);
    entry(0x3000, at >> 21 & 511, TEXT_PHYSICAL as u64 | 0x83);
    let kernel = kernel();
    memory[TEXT_PHYSICAL..TEXT_PHYSICAL + kernel.len()].copy_from_slice(&kernel);

    let (state, file) = (folder.join("mac.vmss"), folder.join("mach_kernel"));
    let region = Region { first_page: 0, page_in_file: 0, pages: PAGES as u64 };
    let product = Product { name: "test".into(), version: "1".into() };
    let writer = Writer::new(&product, &[registers()], &[region]).unwrap();
    writer.write(&mut std::fs::File::create(&state).unwrap()).unwrap();
    std::fs::write(state.with_extension("vmem"), memory).unwrap();
    std::fs::File::create(&file).unwrap().write_all(&kernel).unwrap();
    (state, file)
}

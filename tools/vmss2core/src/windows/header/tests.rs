//! Headers like two real ones, byte by byte.
//!
//! These are bytes of `resources/test/coredump_win10_64bit_stripped.raw` and `coredump_win7_32bit_stripped.raw` of
//! memflow-coredump (MIT licence), headers of dumps that LiveKD made of real systems.

use super::*;

/// Windows 10, 64-bit: from the beginning to the end of four runs.
const REAL_64: &[&str] = &[
    "50414745445536340f000000f023000000a0b1e6030000000000000080dfffff",
    "b0a2a21005f8ffff60e0a11005f8ffff64860000080000000000000050414745",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0041474550414745504147455041474550414745504147455041474550414745",
    "200ba01005f8ffff04000000504147456ffc3f00000000000100000000000000",
    "9f000000000000000001000000000000eff7070000000000fffb070000000000",
    "e10300000000000000001000000000000000380000000000",
];
/// Windows 7, 32-bit with PAE: from the beginning to the end of two runs.
const REAL_32: &[&str] = &[
    "5041474544554d500f000000b11d0000e0f262bf00979b8250989982181f9982",
    "4c01000002000000000000000000000000000000000000000000000000414745",
    "5041474550414745504147455041474550414745504147455041474501414745",
    "50414745020000007dff0b00010000009e00000000010000dffe0b00",
];

fn bytes(rows: &[&str]) -> Vec<u8> {
    let digits = rows.concat();
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// What both have.
fn header(is_64: bool, runs: &[(u64, u64)]) -> Header {
    Header {
        is_64,
        is_pae: true,
        major: 15,
        minor: 0,
        directory_table_base: 0,
        pfn_database: 0,
        modules: 0,
        processes: 0,
        machine: 0,
        processors: 0,
        bugcheck: [0; 5],
        debugger_data: 0,
        runs: runs.iter().map(|&(first, pages)| PageRun { first, pages }).collect(),
        context: Vec::new(),
        instruction: 0,
        dump_type: DumpType::Full,
        required_space: 0,
        system_time: 0,
        up_time: 0,
        product_type: 0,
        suite_mask: 0,
    }
}

#[test]
fn as_livekd_wrote_it_for_windows_10() {
    let header = Header {
        minor: 0x23f0,
        directory_table_base: 0x3_e6b1_a000,
        pfn_database: 0xffff_df80_0000_0000,
        modules: 0xffff_f805_10a2_a2b0,
        processes: 0xffff_f805_10a1_e060,
        machine: 0x8664,
        processors: 8,
        debugger_data: 0xffff_f805_10a0_0b20,
        instruction: 0xffff_f805_197b_2f8f,
        required_space: 0x3_ffc6_f000,
        system_time: 0x01d6_4cb3_a523_a374,
        ..header(true, &[(1, 0x9f), (0x100, 0x7_f7ef), (0x7_fbff, 0x3e1), (0x10_0000, 0x38_0000)])
    };
    let ours = header.encode();
    assert_eq!(ours.len(), 0x2000);
    assert_eq!(ours[..0xd8], bytes(REAL_64));
    // Code, flags, no further record, where, no parameters.
    assert_eq!(
        ours[0xf00..0xf1c],
        *b"\x03\0\0\x80\x01\0\0\0\0\0\0\0\0\0\0\0\x8f\x2f\x7b\x19\x05\xf8\xff\xff\0\0\0\0"
    );
    assert_eq!(ours[0xf98..0xfa0], *b"\x01\0\0\0PAGE");
    assert_eq!(ours[0xfa0..0xfb0], *b"\x00\xf0\xc6\xff\x03\0\0\0\x74\xa3\x23\xa5\xb3\x4c\xd6\x01");
    assert_eq!(ours[0x1038..0x1040], *b"PAGE\0\0\0\0");
    assert_eq!(ours[0x1048..0x1054], *b"PAGEP\x02GEPAGE");
    assert_eq!(header.required_space, 4096 * header.runs.iter().map(|run| run.pages).sum::<u64>());
}

#[test]
fn as_livekd_wrote_it_for_windows_7() {
    let header = Header {
        minor: 7601,
        directory_table_base: 0xbf62_f2e0,
        pfn_database: 0x829b_9700,
        modules: 0x8299_9850,
        processes: 0x8299_1f18,
        machine: 0x14c,
        processors: 2,
        instruction: 0xa013_3516,
        required_space: 0xbff7_d000,
        system_time: 0x01d6_5091_99bf_63e0,
        ..header(false, &[(1, 0x9e), (0x100, 0xb_fedf)])
    };
    let ours = header.encode();
    assert_eq!(ours.len(), 0x1000);
    let mut real = bytes(REAL_32);
    // LiveKD left out where the debugger's data block is. WinDbg wants it.
    assert_eq!(real[0x60..0x64], *b"PAGE");
    real[0x60..0x64].fill(0);
    assert_eq!(ours[..0x7c], real);
    assert_eq!(ours[0x7d0..0x7e4], *b"\x03\0\0\x80\x01\0\0\0\0\0\0\0\x16\x35\x13\xa0\0\0\0\0");
    assert_eq!(ours[0xf84..0xf90], *b"PAGE\x01\0\0\0PAGE");
    assert_eq!(ours[0xfa0..0xfac], *b"\x00\xd0\xf7\xbf\0\0\0\0PAGE");
    assert_eq!(ours[0xfc0..0xfcc], *b"\xe0\x63\xbf\x99\x91\x50\xd6\x01PAGE");
}

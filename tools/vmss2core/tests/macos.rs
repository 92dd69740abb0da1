//! Mach-O cores, read with the crate `object`. What they show is a test double: see `mac_guest`.

mod mac_guest;

use mac_guest::{SLIDE, TEXT, UUID, registers};
use object::LittleEndian as Le;
use object::macho::{LC_NOTE, LC_THREAD, MachHeader64};
use object::read::macho::MachHeader;
use vmss2core::{Kind, MacOptions};

#[test]
fn a_core_has_registers_memory_and_the_kernels_place() {
    let folder = tempfile::tempdir().unwrap();
    let (state, kernel) = mac_guest::write(folder.path());
    let output = folder.path().join("vmss.core");
    let options = |kernel| MacOptions { is_64: true, kernel };
    let kind = Kind::MacOs(options(kernel));
    assert_eq!(
        vmss2core::convert(&kind, &state, None, &output).unwrap(),
        std::slice::from_ref(&output)
    );

    let bytes = std::fs::read(&output).unwrap();
    let header = MachHeader64::<Le>::parse(&*bytes, 0).unwrap();
    assert_eq!(header.filetype(Le), object::macho::MH_CORE);
    let mut commands = header.load_commands(Le, &*bytes, 0).unwrap();
    let (mut threads, mut notes, mut segments) = (0, 0, 0);
    while let Some(command) = commands.next().unwrap() {
        let raw = command.raw_data();
        let long = |at: usize| u64::from_le_bytes(raw[at..at + 8].try_into().unwrap());
        if command.cmd() == LC_THREAD {
            threads += 1;
            assert_eq!(raw[8..12], 4u32.to_le_bytes(), "x86_THREAD_STATE64");
            let expected = registers();
            // RAX first; RIP is the seventeenth.
            assert_eq!((long(16), long(16 + 16 * 8)), (expected.gpr[0], expected.rip));
        } else if command.cmd() == LC_NOTE {
            notes += 1;
            assert_eq!(&raw[8..22], b"main bin spec\0");
            let at = long(24) as usize;
            assert_eq!(bytes[at + 8..at + 16], (TEXT + SLIDE).to_le_bytes());
            assert_eq!(bytes[at + 16..at + 32], UUID);
        } else if let Some((segment, _)) = command.segment_64().unwrap() {
            segments += 1;
            let (at, offset) = (segment.vmaddr.get(Le), segment.fileoff.get(Le) as usize);
            assert_eq!((at, segment.vmsize.get(Le)), (TEXT + SLIDE, 0x20_0000));
            assert_eq!(bytes[offset..offset + 4], 0xfeed_facfu32.to_le_bytes());
        }
    }
    assert_eq!((threads, notes, segments), (1, 1, 1));
}

#[test]
fn what_is_no_kernel_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (state, kernel) = mac_guest::write(folder.path());
    let output = folder.path().join("vmss.core");
    let refused = |is_64: bool, kernel: &std::path::Path| {
        let kind = Kind::MacOs(MacOptions { is_64, kernel: kernel.into() });
        vmss2core::convert(&kind, &state, None, &output).unwrap_err().to_string()
    };
    assert!(refused(false, &kernel).contains("it is no kernel of macOS of 32 bits"));
    assert!(refused(true, &state).contains("it is no kernel of macOS of 64 bits"));
    let bytes = std::fs::read(&kernel).unwrap();
    std::fs::write(&kernel, &bytes[..40]).unwrap();
    assert!(refused(true, &kernel).contains("too short"));
    assert!(!output.exists());
}

//! Every field of the headers, and that all else is as in two real ones.
//!
//! The real ones were written by LiveKD: of Windows 10 (64-bit) and of Windows 7 (32-bit, PAE). They are
//! `resources/test/coredump_win10_64bit_stripped.raw` and `coredump_win7_32bit_stripped.raw` of memflow-coredump (MIT). Here
//! are the ranges that they fill; the rest of them is `PAGEPAGE...`. What their fields hold is compared in
//! `vmss2core/src/windows/header/tests.rs`.

use dejavm_windows_guest::dump::{Dump, dump, of, usual};
use dejavm_windows_guest::{Options, System, Windows};
use vmss2core::WindowsOptions;

/// Ranges that are not filler in the real header of Windows 10, with four runs.
const REAL_64: &[(u64, u64)] = &[
    (0x000, 0x03c),
    (0x040, 0x061),
    (0x080, 0x08c),
    (0x090, 0x0e8),
    (0x348, 0x818),
    (0xf00, 0xf9c),
    (0xfa0, 0xfc8),
    (0x103c, 0x1040),
    (0x104d, 0x104e),
];
/// What we say beyond: the comment's length, up time, product and suite.
const BEYOND_64: &[(u64, u64)] = &[(0xfc8, 0xfd0), (0x1030, 0x1038), (0x1040, 0x1048)];
/// The same of Windows 7, with two runs.
const REAL_32: &[(u64, u64)] = &[
    (0x000, 0x03d),
    (0x05c, 0x05d),
    (0x064, 0x07c),
    (0x320, 0x5ec),
    (0x7d0, 0x838),
    (0xf88, 0xf8c),
    (0xfa0, 0xfa8),
    (0xfc0, 0xfc8),
];
/// The debugger data block, the comment's length, up time.
const BEYOND_32: &[(u64, u64)] = &[(0x060, 0x064), (0x838, 0x840), (0xfb8, 0xfc0)];

fn assert_filler(dump: &Dump, ranges: &[&[(u64, u64)]]) {
    let header = dump.bytes(0, dump.header_bytes() as usize);
    let filled = |at: u64| ranges.concat().iter().any(|&(from, to)| (from..to).contains(&at));
    for (at, &byte) in (0..).zip(&header) {
        assert!(filled(at) || byte == b"PAGE"[at as usize % 4], "{at:#x}: {byte:#04x}");
    }
}

#[test]
fn headers_of_64_bit_systems() {
    for system in [System::Seven64, System::Ten64] {
        let dump = usual(&Options::new(system));
        let (guest, layout) = (&dump.guest, system.layout());
        assert_filler(&dump, &[REAL_64, BEYOND_64]);
        assert_eq!(dump.bytes(0, 8), b"PAGEDU64");
        assert_eq!((dump.word(0x08), dump.word(0x0c)), (15, layout.build.into()));
        assert_eq!(dump.long(0x10), guest.space.root);
        assert_eq!(dump.long(0x18), guest.pfn_database.1, "what is in MmPfnDatabase");
        assert_eq!((dump.long(0x20), dump.long(0x28)), (guest.modules, guest.processes));
        assert_eq!((dump.word(0x30), dump.word(0x34)), (0x8664, 2));
        assert_eq!(dump.word(0x38), 0x161, "LIVE_SYSTEM_DUMP");
        assert_eq!(dump.bytes(0x40, 33), [0; 33], "parameters, VersionUser");
        assert_eq!(dump.long(0x80), guest.debugger_data.0);
        // Runs as Windows has them: without page 0 and the hole for devices.
        let runs = [(1, 0x9e), (0x100, 0x2f00), (0x10_0000, 0x1000)];
        let pages: u64 = runs.iter().map(|(_, pages)| pages).sum();
        assert_eq!((dump.word(0x88), dump.long(0x90)), (3, pages));
        for (n, (first, pages)) in (0..).zip(runs) {
            assert_eq!((dump.long(0x98 + n * 16), dump.long(0xa0 + n * 16)), (first, pages));
        }
        let vcpu = &guest.vcpus[0];
        assert_eq!((dump.word(0xf00), dump.word(0xf04), dump.long(0xf08)), (0x8000_0003, 1, 0));
        assert_eq!((dump.long(0xf10), dump.word(0xf18)), (vcpu.rip, 0));
        assert_eq!((dump.word(0xf98), dump.long(0xfa0)), (1, pages * 4096));
        let (time, up_time, product, suite) = guest.shared;
        assert_eq!((dump.long(0xfa8), dump.long(0x1030)), (time, up_time));
        assert_eq!((dump.word(0x1040), dump.word(0x1044)), (product, suite));
        assert_eq!((dump.word(0x103c), dump.bytes(0x104d, 1)[0]), (0, 2));
        let comment = dump.bytes(0xfb0, 128);
        let end = comment.iter().position(|&byte| byte == 0).unwrap();
        assert_eq!(&comment[..end], b"vmss2core: a guest at rest");
        assert_eq!(dump.size(), 0x2000 + pages * 4096);
        assert_context_64(&dump.bytes(0x348, 0x4d0), &dump, 0);
    }
}

/// CONTEXT in winnt.h.
#[track_caller]
fn assert_context_64(context: &[u8], dump: &Dump, n: usize) {
    let vcpu = &dump.guest.vcpus[n];
    let half = |at: usize| u16::from_le_bytes(context[at..at + 2].try_into().unwrap());
    let word = |at: usize| u32::from_le_bytes(context[at..at + 4].try_into().unwrap());
    let long = |at: usize| u64::from_le_bytes(context[at..at + 8].try_into().unwrap());
    assert_eq!(word(0x30), 0x10_0017, "control, integer, segments, debug");
    assert_eq!((word(0x34), word(0x118)), (0x1f80, 0x1f80), "MXCSR twice");
    let selectors: [u16; 6] = std::array::from_fn(|n| half(0x38 + n * 2));
    let [es, cs, ss, ds, fs, gs, ..] = vcpu.segments.map(|segment| segment.selector);
    assert_eq!(selectors, [cs, ds, es, fs, gs, ss]);
    assert_eq!(word(0x44), vcpu.eflags);
    let debug: [u64; 6] = std::array::from_fn(|n| long(0x48 + n * 8));
    assert_eq!(debug, [1, 2, 3, 4, 0xffff_0ff0, 0x400]);
    let registers = [
        (0x78, 0), // RAX
        (0x80, 1), // RCX
        (0x88, 2), // RDX
        (0x90, 3), // RBX
        (0x98, 4), // RSP
        (0xa0, 5), // RBP
        (0xa8, 6), // RSI
        (0xb0, 7), // RDI
        (0xb8, 8), // R8
        (0xf0, 15),
    ];
    for (at, register) in registers {
        assert_eq!(long(at), vcpu.gpr[register], "register {register}");
    }
    assert_eq!(long(0xf8), vcpu.rip);
}

#[track_caller]
fn assert_context_32(context: &[u8], dump: &Dump, n: usize) {
    let vcpu = &dump.guest.vcpus[n];
    let word = |at: usize| u32::from_le_bytes(context[at..at + 4].try_into().unwrap());
    assert_eq!(word(0), 0x1_0017);
    let selectors = [0x8c, 0x90, 0x94, 0x98, 0xbc, 0xc8].map(word);
    let [es, cs, ss, ds, fs, gs, ..] = vcpu.segments.map(|segment| u32::from(segment.selector));
    assert_eq!(selectors, [gs, fs, es, ds, cs, ss]);
    let [eax, ecx, edx, ebx, esp, ebp, esi, edi, ..] = vcpu.gpr.map(|value| value as u32);
    let registers = [0x9c, 0xa0, 0xa4, 0xa8, 0xac, 0xb0, 0xb4, 0xb8, 0xc0, 0xc4].map(word);
    let rip = vcpu.rip as u32;
    assert_eq!(registers, [edi, esi, ebx, edx, ecx, eax, ebp, rip, vcpu.eflags, esp]);
}

#[test]
fn headers_of_32_bit_systems() {
    for system in [System::Xp32, System::Seven32] {
        check_32(system);
    }
}

fn check_32(system: System) {
    let dump = usual(&Options::new(system));
    let guest = &dump.guest;
    assert_filler(&dump, &[REAL_32, BEYOND_32]);
    let word = |at: u64| u64::from(dump.word(at));
    assert_eq!(dump.bytes(0, 8), b"PAGEDUMP");
    assert_eq!((word(0x08), word(0x0c)), (15, system.layout().build.into()));
    assert_eq!(word(0x10), guest.space.root, "with the five bits that PAE's root has in a page");
    assert_eq!(word(0x10) & 0xfff, if system == System::Xp32 { 0 } else { 0x2e0 });
    assert_eq!(word(0x14), guest.pfn_database.0, "where MmPfnDatabase is");
    assert_eq!((word(0x18), word(0x1c)), (guest.modules, guest.processes));
    assert_eq!((word(0x20), word(0x24)), (0x14c, 2));
    assert_eq!(word(0x28), 0x161, "LIVE_SYSTEM_DUMP");
    assert_eq!(dump.bytes(0x2c, 17), [0; 17]);
    let pae = u8::from(system == System::Seven32);
    assert_eq!(dump.bytes(0x5c, 1), [pae], "PaeEnabled");
    assert_eq!(word(0x60), guest.debugger_data.0);
    assert_eq!((word(0x64), word(0x68)), (2, 0x9e + 0x3f00));
    assert_eq!([word(0x6c), word(0x70), word(0x74), word(0x78)], [1, 0x9e, 0x100, 0x3f00]);
    assert_eq!((word(0x7d0), word(0x7d4), word(0x7d8)), (0x8000_0003, 1, 0));
    assert_eq!((word(0x7dc), word(0x7e0)), (guest.vcpus[0].rip, 0));
    assert_eq!((word(0xf88), dump.long(0xfa0)), (1, 0x3f9e * 4096));
    let (time, up_time, ..) = guest.shared;
    assert_eq!((dump.long(0xfc0), dump.long(0xfb8)), (time, up_time));
    assert_eq!(dump.size(), 0x1000 + 0x3f9e * 4096);
    assert_context_32(&dump.bytes(0x320, 0x2cc), &dump, 0);
}

#[test]
fn processors_have_their_registers_where_debuggers_look() {
    for system in System::ALL {
        for context_in_prcb in [false, true] {
            let dump = usual(&Options { context_in_prcb, ..Options::new(system) });
            for (n, &(context, special)) in dump.guest.contexts.iter().enumerate() {
                let vcpu = &dump.guest.vcpus[n];
                let long = if system.is_64() { 8 } else { 4 };
                let special = dump.linear(special, if system.is_64() { 0x74 } else { 0x3c });
                let mut padded = special[long * 2..long * 3].to_vec();
                padded.resize(8, 0);
                assert_eq!(padded, vcpu.cr[3].to_le_bytes(), "CR3");
                // KDESCRIPTOR of IDTR.
                let limit = 12 * long + long - 2;
                assert_eq!(special[limit..limit + 2], vcpu.idtr.limit.to_le_bytes());
                let base = 13 * long;
                assert_eq!(special[base..base + long], vcpu.idtr.base.to_le_bytes()[..long]);
                match system.is_64() {
                    true => assert_context_64(&dump.linear(context, 0x4d0), &dump, n),
                    false => assert_context_32(&dump.linear(context, 0x2cc), &dump, n),
                }
            }
        }
    }
}

/// Whoever's number is whose: KPRCBs are found by the processors' own bases.
#[test]
fn processors_may_be_in_another_order() {
    let mut guest = Windows::new(&Options::new(System::Ten64));
    guest.vcpus.reverse();
    guest.contexts.reverse();
    let dump = of(guest, &WindowsOptions::default()).unwrap();
    for n in [0, 1] {
        assert_context_64(&dump.linear(dump.guest.contexts[n].0, 0x4d0), &dump, n);
    }
    assert_context_64(&dump.bytes(0x348, 0x4d0), &dump, 1);
}

#[test]
fn crashed_systems_say_why() {
    let bugcheck = [0xd1, 0xffff_f801_dead_0008, 2, 1, 0xffff_f801_1234_5678];
    for system in System::ALL {
        let dump = usual(&Options { bugcheck, ..Options::new(system) });
        match system.is_64() {
            true => {
                assert_eq!(dump.word(0x38), 0xd1);
                let parameters: [u64; 4] = std::array::from_fn(|n| dump.long(0x40 + n as u64 * 8));
                assert_eq!(parameters, bugcheck[1..]);
            }
            false => {
                let values: [u32; 5] = std::array::from_fn(|n| dump.word(0x28 + n as u64 * 4));
                assert_eq!(values, bugcheck.map(|value| value as u32));
            }
        }
    }
}

/// The processor whose stack says that it called KeBugCheckEx is shown first, whatever the others do.
#[test]
fn the_processor_that_crashed_comes_first() {
    for system in System::ALL {
        let bugcheck = [0xd1, 0xdead_0008, 2, 1, 0x8284_1234];
        for who in [0, 1] {
            let mut guest = Windows::new(&Options { bugcheck, ..Options::new(system) });
            let (kernel, stack) = (guest.vcpus[0].clone(), system.layout().pool + 0x8000);
            guest.vcpus[1].segments = kernel.segments;
            let own = if system.is_64() { 5 } else { 4 };
            guest.vcpus[1].segments[own].base = system.layout().kpcr.0 + system.layout().kpcr.1;
            guest.vcpus[1].rip = kernel.rip + 1;
            let long = if system.is_64() { 8 } else { 4 };
            for (n, vcpu) in (0..).zip(&mut guest.vcpus) {
                vcpu.gpr[4] = stack + n * 0x2000;
            }
            for (n, value) in (0..).zip(bugcheck) {
                let at = guest.space.physical(stack + who * 0x2000 + 0x1358 + n * long);
                guest.memory.put(at, &value.to_le_bytes()[..long as usize]);
            }
            let rip = guest.vcpus[who as usize].rip;
            let dump = of(guest, &WindowsOptions::default()).unwrap();
            match system.is_64() {
                true => assert_eq!(dump.long(0x348 + 0xf8), rip),
                false => assert_eq!(u64::from(dump.word(0x320 + 0xb8)), rip),
            }
        }
    }
}

#[test]
fn builds_are_as_given_or_as_the_system_says() {
    let build = |options: &Options, build| {
        dump(options, &WindowsOptions { build, ..WindowsOptions::default() }).unwrap().word(0x0c)
    };
    let seven = Options::new(System::Seven64);
    assert_eq!(build(&seven, Some(1234)), 1234);
    let silent = |system| Options { version_block: false, ..Options::new(system) };
    // KUSER_SHARED_DATA says it since Windows 10; of others the product assumed these.
    assert_eq!(build(&silent(System::Ten64), None), 19041);
    assert_eq!(build(&silent(System::Seven64), None), 6000);
    assert_eq!(build(&silent(System::Seven32), None), 2195);
}

//! The memory in dumps is the guest's, page by page, but for what is said to be otherwise.

use dejavm_windows_guest::dump::{Dump, dump, usual};
use dejavm_windows_guest::{Options, System};
use std::collections::BTreeSet;
use vmss2core::WindowsOptions;

/// Physical addresses of bytes that a dump has otherwise.
fn patched(dump: &Dump) -> BTreeSet<u64> {
    let guest = &dump.guest;
    let (context, special) = if guest.system.is_64() { (0x4d0, 0x74) } else { (0x2cc, 0x3c) };
    let mut ranges: Vec<(u64, u64)> = vec![];
    for &(at, special_at) in &guest.contexts {
        ranges.extend([(at, context), (special_at, special)]);
    }
    ranges.push((guest.debugger_data.0, guest.debugger_data.1.len() as u64));
    ranges.push((guest.flag, 1));
    let bytes = ranges.into_iter().flat_map(|(at, count)| at..at + count);
    bytes.map(|at| guest.space.physical(at)).collect()
}

/// A page in a dump is the guest's but for those bytes.
#[track_caller]
fn assert_page(dump: &Dump, patched: &BTreeSet<u64>, page: u64, found: &[u8]) {
    let expected = dump.guest.memory.page(page);
    for (offset, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let at = page * 4096 + offset as u64;
        assert!(
            found == expected || patched.contains(&at),
            "{at:#x}: {found:#x}, not {expected:#x}"
        );
    }
}

#[test]
fn full_dumps_have_all_pages() {
    for system in System::ALL {
        let dump = usual(&Options::new(system));
        let patched = patched(&dump);
        let all: Vec<u64> =
            dump.guest.runs.iter().flat_map(|&(first, pages)| first..first + pages).collect();
        let begin = dump.header_bytes();
        let contents = dump.bytes(begin, all.len() * 4096);
        for (&page, found) in all.iter().zip(contents.chunks_exact(4096)) {
            assert_page(&dump, &patched, page, found);
        }
    }
}

/// The bitmap behind the header.
struct Bitmap {
    first: u64,
    pages: Vec<u64>,
}

fn bitmap(dump: &Dump, mark: &[u8]) -> Bitmap {
    let at = dump.header_bytes();
    assert_eq!(dump.bytes(at, 8), [mark, b"DUMP"].concat());
    let (first, present, bits) = (dump.long(at + 0x20), dump.long(at + 0x28), dump.long(at + 0x30));
    assert!(bits.is_multiple_of(32), "volatility reads words");
    let bytes = dump.bytes(at + 0x38, bits as usize / 8);
    let pages: Vec<u64> =
        (0..bits).filter(|bit| bytes[*bit as usize / 8] >> (bit % 8) & 1 != 0).collect();
    assert_eq!(pages.len() as u64, present);
    assert_eq!(dump.size(), first + present * 4096);
    assert_eq!(dump.long(0xfa0), dump.size(), "RequiredDumpSpace");
    Bitmap { first, pages }
}

fn kind(dump: &Dump) -> u32 {
    dump.word(if dump.guest.system.is_64() { 0xf98 } else { 0xf88 })
}

#[test]
fn bitmap_dumps_leave_out_zeros() {
    for system in System::ALL {
        let windows = WindowsOptions { bitmap: true, ..WindowsOptions::default() };
        let dump = dump(&Options::new(system), &windows).unwrap();
        assert_eq!(kind(&dump), 5);
        let bitmap = bitmap(&dump, b"FDMP");
        let patched = patched(&dump);
        let in_runs = |page: u64| {
            dump.guest.runs.iter().any(|&(first, pages)| (first..first + pages).contains(&page))
        };
        let patched_pages: BTreeSet<u64> = patched.iter().map(|at| at / 4096).collect();
        let expected: BTreeSet<u64> = dump
            .guest
            .memory
            .touched()
            .filter(|&page| {
                dump.guest.memory.page(page) != [0; 4096] || patched_pages.contains(&page)
            })
            .chain(patched_pages.iter().copied())
            .filter(|&page| in_runs(page))
            .collect();
        assert_eq!(bitmap.pages, expected.into_iter().collect::<Vec<_>>());
        for (n, &page) in (0..).zip(&bitmap.pages) {
            assert_page(&dump, &patched, page, &dump.bytes(bitmap.first + n * 4096, 4096));
        }
    }
}

#[test]
fn kernel_dumps_have_what_the_kernel_has() {
    for system in System::ALL {
        let windows = WindowsOptions { kernel_only: true, ..WindowsOptions::default() };
        let dump = dump(&Options::new(system), &windows).unwrap();
        assert_eq!(kind(&dump), 6);
        let bitmap = bitmap(&dump, b"SDMP");
        let patched = patched(&dump);
        let kernel = if system.is_64() { 1 << 63 } else { 1 << 31 };
        for (&page, &physical) in dump.guest.space.mapped() {
            if page * 4096 >= kernel {
                assert!(bitmap.pages.binary_search(&(physical / 4096)).is_ok(), "{page:#x}");
            }
        }
        assert!(bitmap.pages.binary_search(&(dump.guest.space.root / 4096)).is_ok());
        // What nobody has mapped: the random pages.
        assert!(bitmap.pages.binary_search(&0x2000).is_err());
        for (n, &page) in (0..).zip(&bitmap.pages) {
            assert_page(&dump, &patched, page, &dump.bytes(bitmap.first + n * 4096, 4096));
        }
    }
}

#[test]
fn memory_blocks_that_make_no_sense_are_not_followed() {
    let regions = [(0, 0x3000), (0x10_0000, 0x1000)];
    let wrong: [&[(u64, u64)]; 5] = [
        &[],
        &[(1, 0x9e), (0x100, 0x3000)],
        &[(0x100, 0x10), (1, 0x9e)],
        &[(1, 0)],
        &[(u64::MAX, 2)],
    ];
    for runs in wrong {
        let dump = usual(&Options { runs: Some(runs.to_vec()), ..Options::new(System::Ten64) });
        assert_eq!(dump.word(0x88), 2, "{runs:?}");
        for (n, (first, pages)) in (0..).zip(regions) {
            assert_eq!((dump.long(0x98 + n * 16), dump.long(0xa0 + n * 16)), (first, pages));
        }
    }
}

/// A header has room for 42.
#[test]
fn more_runs_than_a_header_holds_become_a_bitmap() {
    for (count, expected) in [(42, 1), (43, 5)] {
        let mut runs: Vec<(u64, u64)> = (0..count - 1).map(|n| (1 + n * 3, 2)).collect();
        runs.push((0x100, 0x2f00));
        let dump = usual(&Options { runs: Some(runs), ..Options::new(System::Ten64) });
        assert_eq!(kind(&dump), expected, "{count} runs");
        assert_eq!(dump.word(0x88), if expected == 1 { 42 } else { 0 });
    }
}

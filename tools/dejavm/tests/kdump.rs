//! kdump's compressed format: makedumpfile takes it as input and counts the same pages as in the ELF core; crash knows it; it
//! has what the checkpoint has.

mod program;

use program::facts::Guest as Recorded;
use program::{Folder, dejavm};
use std::num::NonZero;
use std::path::Path;
use std::process::{Command, Stdio};
use vmss2core::{Compression, Conversion, Guest, Kind, LinuxOptions, Silent};

const PAGE: usize = 4096;

fn kdump(compression: Compression, without_free: bool) -> Kind {
    let kdump = Some(compression);
    Kind::Linux(LinuxOptions { kdump, without_free, ..LinuxOptions::default() })
}

fn convert(folder: &Folder, guest: &Guest, kind: &Kind, threads: usize, name: &str) -> String {
    let output = folder.path(name);
    let threads = NonZero::new(threads).unwrap();
    let output_path = Some(Path::new(&output));
    let conversion = Conversion { guest, output: output_path, threads, progress: &Silent };
    conversion.make(kind).unwrap();
    output
}

/// What makedumpfile says of a core while it makes a dump of it: pages of zeros, free pages, pages that remain.
fn makedumpfile(core: &str, level: &str, out: &str) -> [u64; 3] {
    let ran = Command::new("makedumpfile")
        .args(["--message-level", "20", "-f", "-c", "-d", level, core, out])
        .output()
        .expect("makedumpfile is installed: `tools/install-deps.sh test`");
    let said = [ran.stdout, ran.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(ran.status.success(), "{core}: {said}");
    ["Pages filled with zero", "Free pages", "Remaining pages"].map(|what| {
        let line = said.lines().find(|line| line.trim_start().starts_with(what));
        let number = line.unwrap_or_else(|| panic!("{what}: {said}")).rsplit("0x").next().unwrap();
        u64::from_str_radix(number.trim(), 16).unwrap()
    })
}

/// A dump, taken apart by what diskdump_mod.h of makedumpfile says.
struct Dump {
    bytes: Vec<u8>,
    level: u32,
    vmcoreinfo: String,
    notes: u64,
    /// Of each page that there is: whether it is in the file.
    pages: Vec<(u64, bool)>,
    /// Offset, size and flags of each page in the file.
    descriptors: Vec<(u64, u32, u32)>,
}

impl Dump {
    fn open(path: &str, is_64: bool) -> Dump {
        let bytes = std::fs::read(path).unwrap();
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let size = |at: usize| if is_64 { long(at) } else { word(at).into() };
        assert_eq!(&bytes[..8], b"KDUMP   ");
        assert_eq!(word(8), 6, "header_version");
        let names: Vec<&[u8]> = bytes[12..12 + 390].chunks(65).collect();
        let name = |n: usize| str::from_utf8(names[n]).unwrap().trim_end_matches('\0');
        assert_eq!((name(0), name(4)), ("Linux", if is_64 { "x86_64" } else { "i686" }));
        let status = if is_64 { 424 } else { 412 };
        assert_eq!(word(status + 4), 4096, "block_size");
        let (sub_blocks, bitmap_blocks) = (word(status + 8) as usize, word(status + 12) as usize);
        // phys_base, dump_level, split, start_pfn, end_pfn, then offsets of 64 bits with sizes of a long.
        let (level, info, notes, last) = if is_64 { (8, 32, 48, 96) } else { (4, 20, 32, 72) };
        let sub = |at: usize| PAGE + at;
        let offset = long(sub(info)) as usize;
        let text = &bytes[offset..][..size(sub(info) + 8) as usize];
        let pages_end = long(sub(last));
        assert_eq!(u64::from(word(status + 16)), pages_end, "max_mapnr");
        let first = PAGE * (1 + sub_blocks);
        let second = first + bitmap_blocks / 2 * PAGE;
        let bit = |at: usize, page: u64| bytes[at + page as usize / 8] >> (page % 8) & 1 != 0;
        let pages = (0..pages_end).filter(|&page| bit(first, page));
        let pages: Vec<(u64, bool)> = pages.map(|page| (page, bit(second, page))).collect();
        let count = pages.iter().filter(|(_, is_stored)| *is_stored).count();
        let begin = first + bitmap_blocks * PAGE;
        let descriptors = (0..count).map(|n| begin + 24 * n);
        Dump {
            level: word(sub(level)),
            vmcoreinfo: str::from_utf8(text).unwrap().to_owned(),
            notes: size(sub(notes) + 8),
            descriptors: descriptors.map(|at| (long(at), word(at + 8), word(at + 12))).collect(),
            pages,
            bytes,
        }
    }

    fn free(&self) -> u64 {
        self.pages.iter().filter(|(_, is_stored)| !is_stored).count() as u64
    }

    /// Pages that are the one page of zeros.
    fn zeros(&self) -> u64 {
        let zero = |&&(at, size, flags): &&(u64, u32, u32)| {
            flags == 0 && size == 4096 && self.bytes[at as usize..][..PAGE] == [0; PAGE]
        };
        self.descriptors.iter().filter(zero).count() as u64
    }
}

/// Demands that a dump has what a checkpoint has: of free pages, zeros if they are left out.
fn assert_contents(path: &str, dump: &Dump, guest: &Guest) {
    let read = Guest::open(Path::new(path), None).unwrap();
    let pages: u64 = guest.memory.regions().iter().map(|region| region.pages).sum();
    assert_eq!(dump.pages.len() as u64, pages);
    let (mut ours, mut theirs) = ([0; PAGE], [0; PAGE]);
    for &(page, is_stored) in dump.pages.iter().filter(|(_, is_stored)| *is_stored) {
        let at = page * PAGE as u64;
        guest.memory.read(at, &mut ours).unwrap();
        read.memory.read(at, &mut theirs).unwrap();
        assert!(!is_stored || ours == theirs, "{path}: page {page:#x}");
    }
    assert_eq!(read.vcpus.len(), guest.vcpus.len());
    assert_eq!(read.vcpus[0].rip, guest.vcpus[0].rip);
}

/// Demands that as many pages are free as the guest said a moment before.
fn assert_free(dump: &Dump, recorded: &Recorded) {
    let said = recorded.facts.memory_free;
    assert!(said.abs_diff(dump.free() * 4) < 2048, "{} pages, {said} kB", dump.free());
}

#[test]
fn makedumpfile_and_crash_read_it() {
    let recorded = Recorded::record("kdump_amd64", "amd64", "256", "");
    let folder = &recorded.folder;
    let state = recorded.checkpoint("guest.vmss", "");
    let guest = Guest::open(Path::new(&state), None).unwrap();
    let make = |kind: &Kind, threads, name| convert(folder, &guest, kind, threads, name);
    let elf = make(&Kind::Linux(LinuxOptions::default()), 2, "elf");

    // The same with any number of threads.
    let whole = make(&kdump(Compression::Zlib, false), 1, "zlib");
    let zstd = make(&kdump(Compression::Zstd, false), 3, "zstd");
    for (kind, one, name) in [
        (kdump(Compression::Zlib, false), &whole, "zlib.5"),
        (kdump(Compression::Zstd, false), &zstd, "zstd.1"),
    ] {
        let other = make(&kind, if name == "zlib.5" { 5 } else { 1 }, name);
        assert!(std::fs::read(one).unwrap() == std::fs::read(other).unwrap(), "{name}");
    }
    let used = make(&kdump(Compression::Zlib, true), 2, "used");
    let raw = make(&kdump(Compression::None, true), 2, "raw");

    // makedumpfile finds the same pages in all of them, and in ours what we said.
    let out = |name: &str| folder.path(name);
    let of_elf = makedumpfile(&elf, "17", &out("elf.17"));
    let all = makedumpfile(&elf, "1", &out("elf.1"));
    let [zeros, free, remaining] = of_elf;
    assert!(zeros > 0 && free > 10_000 && remaining > 1000, "{of_elf:?}");
    assert_eq!(makedumpfile(&whole, "17", &out("whole.17")), of_elf);
    assert_eq!(makedumpfile(&whole, "1", &out("whole.1")), all);
    assert_eq!(makedumpfile(&used, "1", &out("used.1")), of_elf);
    assert_eq!(makedumpfile(&raw, "1", &out("raw.1")), of_elf);
    let dump = Dump::open(&whole, true);
    assert_eq!((dump.free(), dump.zeros(), dump.level), (0, all[0], 1));
    let without = Dump::open(&used, true);
    assert_eq!((without.free(), without.zeros(), without.level), (free, zeros, 17));
    assert_free(&without, &recorded);
    for (path, dump) in [(&whole, &dump), (&used, &without)] {
        assert!(dump.vmcoreinfo.starts_with(&format!("OSRELEASE={}\n", recorded.facts.release)));
        assert!(dump.notes > 356, "a status for each processor");
        assert_contents(path, dump, &guest);
    }
    assert_contents(&zstd, &Dump::open(&zstd, true), &guest);

    // What it makes of ours is what it makes of the ELF core, behind header and notes, but for names that an ELF core has not.
    let (ours, theirs) = (Dump::open(&out("whole.1"), true), Dump::open(&out("elf.1"), true));
    assert!(ours.descriptors == theirs.descriptors && ours.pages == theirs.pages);
    let data = theirs.descriptors[0].0 as usize;
    assert!(ours.bytes[data..] == theirs.bytes[data..]);
    let bytes = |path: &str| std::fs::metadata(path).unwrap().len();
    assert!(bytes(&zstd) <= bytes(&out("elf.1")), "{} > {}", bytes(&zstd), bytes(&out("elf.1")));

    // The kernel's log, out of ours.
    let log = out("log");
    let ran = Command::new("makedumpfile").args(["--dump-dmesg", "-f", &used, &log]).output();
    assert!(ran.unwrap().status.success());
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains(&format!("Linux version {} ", recorded.facts.release)), "{log}");

    // Without a vmlinux crash says what it sees and gives up.
    let crash = Command::new("crash").args(["-d1", &zstd]).stdin(Stdio::null()).output();
    let crash = crash.expect("crash is installed: `tools/install-deps.sh test`");
    let said = String::from_utf8_lossy(&crash.stdout);
    for wanted in [
        "KDUMP_CMPRS_LOCAL",
        "DUMP_DH_COMPRESSED_ZSTD",
        "DUMP_EXCLUDE_ZERO",
        &format!("release: {}\n", recorded.facts.release),
        &format!("OSRELEASE={}\n", recorded.facts.release),
        "num_prstatus_notes: 1",
    ] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
}

/// Headers of 32 bits, and page structures in one array.
#[test]
fn a_32_bit_guest_has_headers_of_its_own() {
    let recorded = Recorded::record("kdump_i386", "686-pae", "256", "");
    let state = recorded.checkpoint("guest.vmss", "");
    let guest = Guest::open(Path::new(&state), None).unwrap();
    let make = |kind: &Kind, name| convert(&recorded.folder, &guest, kind, 2, name);
    let used = make(&kdump(Compression::Zstd, true), "used");
    let dump = Dump::open(&used, false);
    assert_free(&dump, &recorded);
    assert!(dump.zeros() > 0);
    assert!(dump.vmcoreinfo.starts_with(&format!("OSRELEASE={}\n", recorded.facts.release)));
    assert_contents(&used, &dump, &guest);
    let whole = make(&kdump(Compression::Zlib, false), "whole");
    let dump = Dump::open(&whole, false);
    assert_eq!(dump.free(), 0);
    assert_contents(&whole, &dump, &guest);
}

#[test]
fn what_is_not_known_is_said() {
    let folder = Folder::new("kdump_refused");
    let (kernel, file) = (folder.guest("hello"), folder.path("hello.dvr"));
    dejavm(
        "record --kernel {} -m 16 -o {} --idle skip --json --console {}",
        &[&kernel, &file, &folder.path("console")],
    )
    .ok();
    let state = folder.path("hello.vmss");
    dejavm("snapshot {} --at end -o {}", &[&file, &state]).ok();
    let guest = Guest::open(Path::new(&state), None).unwrap();
    let output = folder.0.join("vmss.core");
    let refused = |kind: Kind| {
        let threads = NonZero::<usize>::MIN;
        let conversion =
            Conversion { guest: &guest, output: Some(&output), threads, progress: &Silent };
        conversion.make(&kind).unwrap_err().to_string()
    };
    let sentence = refused(kdump(Compression::Zstd, false));
    assert!(sentence.contains("no Linux kernel was found"), "{sentence}");
    // Who says how far it was moved is believed that it is Linux; more is not known of it.
    let kdump = Some(Compression::Zstd);
    let options = |without_free| LinuxOptions {
        slide: Some(0),
        kdump,
        without_free,
        ..LinuxOptions::default()
    };
    let sentence = refused(Kind::Linux(options(true)));
    assert!(sentence.contains("which pages are free cannot be told"), "{sentence}");
    assert!(sentence.contains("no page tables lead to"), "{sentence}");
    assert!(
        std::fs::read_dir(&folder.0).unwrap().all(|entry| {
            !entry.unwrap().file_name().to_string_lossy().starts_with("vmss.core")
        })
    );
}

//! Intact files of guests to start mutations from, one of each kind that is read.

use crate::Random;
use dejavm_windows_guest::{Options, System, Windows};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use vmss::{PAGE_BYTES, Product, Region, SeekableWriter, Vcpu, Writer};
use vmss2core::{Compression, Kind, LinuxOptions, convert};

/// Pages of a guest that is no Windows.
const PAGES: u64 = 128;
const VMCOREINFO: &[u8] =
    b"OSRELEASE=6.1.0\nPAGESIZE=4096\nSYMBOL(init_top_pgt)=ffffffff80001000\n\
    NUMBER(phys_base)=0\nSYMBOL(mem_section)=ffff888000003000\nSIZE(page)=64\nNUMBER(PG_buddy)=4\n\
    KERNELOFFSET=0\n";
/// Words that mutations may hit, of a file.
const PLACES_MAX: usize = 1 << 16;

/// Files are cut short where no more follows.
const TAIL_MAX: u64 = 1 << 20;

/// A guest's files in a folder of their own.
pub struct Seed {
    /// With `in` in it.
    pub folder: PathBuf,
    /// Of the file to open, in `in`.
    pub name: &'static str,
    /// Files that matter, and the words in them that are not zero.
    targets: Vec<(PathBuf, Vec<u64>)>,
}

/// What was changed in a file, to be put back.
pub struct Change {
    file: File,
    at: u64,
    before: [u8; 8],
    /// What was behind it, if the file was cut short there.
    tail: Option<Vec<u8>>,
}

impl Seed {
    /// One of each kind, in folders of this one.
    pub fn all(folder: &Path) -> Vec<Seed> {
        let mut seeds = Vec::new();
        for (n, system) in System::ALL.into_iter().enumerate() {
            let folder = folder.join(format!("windows-{n}"));
            let from = folder.join("in");
            fs::create_dir_all(&from).expect("the test's own folder");
            Windows::new(&Options::new(system)).write(&from).expect("the test's own folder");
            seeds.push(Seed::new(folder, "windows.vmss", &["windows.vmem"]));
        }
        let windows = seeds[0].folder.join("in").join(seeds[0].name);
        let small = small(&folder.join("small"));
        seeds.push(Seed::new(folder.join("small"), "X.vmss", &["X.vmem"]));
        let made = |name: &'static str, bytes: &[u8], more: &[(&'static str, Vec<u8>)]| {
            let folder = folder.join(name);
            let from = folder.join("in");
            fs::create_dir_all(&from).expect("the test's own folder");
            let mut others = Vec::new();
            for (name, bytes) in more.iter().chain([&(name, bytes.to_vec())]) {
                fs::write(from.join(name), bytes).expect("the test's own folder");
                others.push(*name);
            }
            others.retain(|other| *other != name);
            Seed::new(folder, name, &others)
        };
        let core = |kind: &Kind, input: &Path| {
            let made = convert(kind, input, None, &folder.join("core")).expect("it is intact");
            fs::read(&made[0]).expect("it was just made")
        };
        let linux = |kdump| Kind::Linux(LinuxOptions { kdump, ..LinuxOptions::default() });
        seeds.push(made("windows.core", &core(&Kind::Physical, &windows), &[]));
        seeds.push(made("elf", &core(&linux(None), &small), &[]));
        seeds.push(made("linear", &core(&Kind::Linear(Some(0)), &small), &[]));
        let zlib = core(&linux(Some(Compression::Zlib)), &small);
        seeds.push(made("kdump-zlib", &zlib, &[]));
        seeds.push(made("kdump-zstd", &core(&linux(Some(Compression::Zstd)), &small), &[]));
        seeds.push(made("flattened", &flattened(&zlib), &[]));
        let embedded = embedded(&small);
        seeds.push(made("embedded.vmsn", &embedded, &[]));
        let mut packed = SeekableWriter::new(Vec::new()).expect("there is memory");
        packed.write_all(&embedded).expect("into memory");
        seeds.push(made("embedded.vmsn.zst", &packed.finish().expect("into memory"), &[]));
        let memory = fs::read(small.with_extension("vmem")).expect("it was just made");
        seeds.push(made("debug.guest", &guest_dump(), &[("debug.vmem", memory)]));
        fs::remove_file(folder.join("core")).expect("it was just made");
        let _ = fs::remove_file(folder.join("core0"));
        seeds
    }

    /// A guest in `folder/in`, in a file of this name and others.
    pub fn new(folder: PathBuf, name: &'static str, others: &[&str]) -> Seed {
        let from = folder.join("in");
        let paths = others.iter().copied().chain([name]).map(|name| from.join(name));
        let targets = paths.map(|path| (path.clone(), words(&path))).collect();
        Seed { folder, name, targets }
    }

    /// Changes something: a byte, a word, or a word to what another is; or cuts a file short. `None` where a file was cut
    /// short before.
    pub fn change(&self, random: &mut Random) -> Option<Change> {
        let (path, words) = &self.targets[random.below(self.targets.len())];
        let file = File::options().read(true).write(true).open(path).expect("an intact seed");
        let size = file.metadata().expect("an intact seed").len();
        // Headers are in front, and few words in all.
        let among = if random.below(2) == 0 { words.len().min(64) } else { words.len() };
        let at = words[random.below(among)];
        let from = words[random.below(words.len())];
        if at.max(from) + 8 > size {
            return None;
        }
        let mut before = [0; 8];
        file.read_exact_at(&mut before, at).expect("a word of the file");
        let word = u64::from_le_bytes(before);
        let mut other = [0; 8];
        file.read_exact_at(&mut other, from).expect("a word of the file");
        let bit = 1u64.rotate_left(random.below(64) as u32);
        let byte = u64::from(random.next_u64() as u8) << (8 * random.below(8));
        let changed = match random.below(8) {
            0 => word ^ bit,
            1 => word ^ byte,
            2 => u64::from_le_bytes(other),
            3 => u64::MAX,
            4 => word & 0xffff_ffff | u64::MAX << 32,
            5 => word.wrapping_add(0x1000),
            6 => random.next_u64() >> random.below(64),
            _ => 0,
        };
        file.write_all_at(&changed.to_le_bytes(), at).expect("the test's own file");
        let tail = (random.below(24) == 0 && size - at < TAIL_MAX).then(|| {
            let mut tail = vec![0; (size - at - 8) as usize];
            file.read_exact_at(&mut tail, at + 8).expect("the end of the file");
            file.set_len(at).expect("the test's own file");
            tail
        });
        Some(Change { file, at, before, tail })
    }
}

impl Change {
    /// Puts it back.
    pub fn undo(self) {
        self.file.write_all_at(&self.before, self.at).expect("the test's own file");
        if let Some(tail) = self.tail {
            self.file.write_all_at(&tail, self.at + 8).expect("the test's own file");
        }
    }
}

/// Where words that are not zero are in a file: all in front, and some of the rest if there are many.
fn words(path: &Path) -> Vec<u64> {
    let file = File::open(path).expect("an intact seed");
    let size = file.metadata().expect("an intact seed").len();
    let mut block = vec![0; 64 << 10];
    let (mut found, mut at, mut seen, mut step) = (Vec::new(), 0, 0u64, 1);
    while at + 8 <= size {
        let bytes = (size - at).min(block.len() as u64) as usize / 8 * 8;
        file.read_exact_at(&mut block[..bytes], at).expect("an intact seed");
        let words = (at..).step_by(8).zip(block[..bytes].chunks_exact(8));
        for (place, _) in words.filter(|(_, word)| **word != [0; 8]) {
            seen += 1;
            if seen % step == 0 {
                found.push(place);
            }
        }
        if found.len() > PLACES_MAX {
            let mut n = 0;
            found.retain(|_| {
                n += 1;
                n < 128 || n % 2 == 0
            });
            step *= 2;
        }
        at += bytes as u64;
    }
    found
}

/// A guest in long mode with an identity mapping, and what Linux would say of itself.
fn small(folder: &Path) -> PathBuf {
    let from = folder.join("in");
    fs::create_dir_all(&from).expect("the test's own folder");
    let state = from.join("X.vmss");
    let mut out = Vec::new();
    writer().write(&mut out).expect("into memory");
    fs::write(&state, out).expect("the test's own folder");
    let mut memory = vec![0; (PAGES * PAGE_BYTES) as usize];
    let mut put = |at: usize, bytes: &[u8]| memory[at..at + bytes.len()].copy_from_slice(bytes);
    // Tables at pages 1 to 4: PML4 for both halves, and the addresses at the very end.
    for (at, entry) in [
        (0x1000, 0x2003u64),
        (0x1000 + 8 * 273, 0x2003),
        (0x1000 + 8 * 511, 0x2003),
        (0x2000, 0x3003),
        (0x2000 + 8 * 510, 0x3003),
        (0x3000, 0x4003),
        (0x3008, 0x83),
    ] {
        put(at, &entry.to_le_bytes());
    }
    for page in 0..PAGES {
        put(0x4000 + 8 * page as usize, &(page << 12 | 3).to_le_bytes());
    }
    let mut note = Vec::new();
    for word in [11, VMCOREINFO.len() as u32, 0] {
        note.extend_from_slice(&word.to_le_bytes());
    }
    note.extend_from_slice(b"VMCOREINFO\0\0");
    note.extend_from_slice(VMCOREINFO);
    put(0x10_000, &note);
    let mut random = Random::new(7);
    for page in 32..48 {
        for word in 0..512 {
            put(page * 4096 + word * 8, &(random.next_u64() >> random.below(64)).to_le_bytes());
        }
    }
    fs::write(state.with_extension("vmem"), memory).expect("the test's own folder");
    state
}

fn writer() -> Writer {
    let mut vcpu = Vcpu { rip: 0xffff_ffff_8000_8000, efer: Some(0xd01), ..Vcpu::default() };
    vcpu.gpr = std::array::from_fn(|n| 0xffff_8880_0000_0000 + 0x1000 * n as u64);
    (vcpu.cr[0], vcpu.cr[3], vcpu.cr[4]) = (0x8005_0033, 0x1000, 0x6f0);
    vcpu.idtr.base = 0xffff_ffff_8000_9000;
    let other = Vcpu { rip: 0x8000, is_halted: true, ..vcpu.clone() };
    let regions = [
        Region { first_page: 0, page_in_file: 0, pages: PAGES / 2 },
        Region { first_page: PAGES, page_in_file: PAGES / 2, pages: PAGES / 2 },
    ];
    let product = Product { name: "hostile".into(), version: "1".into() };
    Writer::new(&product, &[vcpu, other], &regions).expect("two regions")
}

fn embedded(small: &Path) -> Vec<u8> {
    let memory = fs::read(small.with_extension("vmem")).expect("it was just made");
    let mut out = Vec::new();
    writer().write_embedded(&mut out, |out| out.write_all(&memory)).expect("into memory");
    out
}

/// As makedumpfile writes into a pipe.
fn flattened(dump: &[u8]) -> Vec<u8> {
    let mut out = b"makedumpfile\0\0\0\0".to_vec();
    out.resize(4096, 0);
    for (at, piece) in (0u64..).step_by(5000).zip(dump.chunks(5000)) {
        out.extend_from_slice(&at.to_be_bytes());
        out.extend_from_slice(&(piece.len() as u64).to_be_bytes());
        out.extend_from_slice(piece);
    }
    out.extend_from_slice(&[0xff; 16]);
    out
}

/// `debug.guest` of ESXi 8.0, with one processor.
fn guest_dump() -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&5u32.to_le_bytes());
    out.extend_from_slice(&1u32.to_le_bytes());
    out.resize(8 + 14, 1);
    let hole = PAGES / 2;
    for long in [(PAGES + hole) * PAGE_BYTES - 1, PAGES, 1 << 32, PAGES / 2, hole, 0, 0] {
        out.extend_from_slice(&long.to_le_bytes());
    }
    out.extend_from_slice(&0x8005_0033u32.to_le_bytes());
    for long in [0, 0x1000, 0x6f0].into_iter().chain([0; 10]).chain([0xffff_ffff_8000_9000u64]) {
        out.extend_from_slice(&long.to_le_bytes());
    }
    out.resize(out.len() + 42, 0);
    (0..21u64).for_each(|n| out.extend_from_slice(&(0xffff_8880_0000_0000 + n).to_le_bytes()));
    out.resize(out.len() + 65 + 4096, 0);
    out
}

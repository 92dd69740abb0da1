//! Guests whose memory and registers are arbitrary: introspection answers, in bounded work, and never panics.

#![expect(clippy::disallowed_macros, reason = "seeds are printed")]

use dejavm_cpu::CpuState;
use dejavm_linux::{Btf, GuestView, Kernel, LinuxOffsets};
use dejavm_units::{Gpa, Gva};
use std::cell::Cell;
use std::ops::Range;

/// Reads that one question may cost: listing tasks is allowed the most.
const READS_MAX: u64 = 64 << 20;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

struct Guest {
    cpu: CpuState,
    ram: Vec<u8>,
    reads: Cell<u64>,
}

impl GuestView for Guest {
    fn vcpus(&self) -> usize {
        2
    }

    fn cpu_state(&self, _vcpu: usize) -> CpuState {
        self.cpu.clone()
    }

    fn read_physical(&self, at: Gpa, into: &mut [u8]) -> bool {
        self.reads.set(self.reads.get() + 1);
        let found =
            usize::try_from(at.0).ok().and_then(|at| self.ram.get(at..at.checked_add(into.len())?));
        found.is_some_and(|bytes| {
            into.copy_from_slice(bytes);
            true
        })
    }

    fn ram(&self) -> Vec<Range<u64>> {
        let whole = 0..self.ram.len() as u64;
        Vec::from([whole])
    }
}

impl Guest {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.ram.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    fn put_word(&mut self, at: u64, word: u64) {
        self.put(at as usize, &word.to_le_bytes());
    }
}

const TABLES: u64 = 0x1000;
const IMAGE: u64 = 0x20_0000;
const TEXT: u64 = 0xffff_ffff_8100_0000;
const DIRECT_32: u64 = 0xc000_0000;

/// A guest with page tables that map an image, in one of the three common modes, and an image of noise with the magic
/// words of everything that is looked for.
fn guest(random: &mut Random) -> Guest {
    let bytes = 4 << 20;
    let mut guest = Guest { cpu: CpuState::reset(), ram: vec![0; bytes], reads: Cell::new(0) };
    let noise = random.below(3);
    for chunk in guest.ram[IMAGE as usize..].chunks_exact_mut(8) {
        let value = match noise {
            0 => random.next(),
            // Numbers that could be sizes, offsets, lengths.
            1 => random.below(256) << (8 * random.below(4)),
            // Addresses of each other.
            _ => TEXT + (random.below(2 << 20) & !7),
        };
        chunk.copy_from_slice(&value.to_le_bytes());
    }
    let cpu = &mut guest.cpu;
    cpu.cr0 |= 1 << 31 | 1;
    cpu.cpl = if random.below(2) == 0 { 0 } else { 3 };
    cpu.cr3 = TABLES;
    cpu.gpr[4] = random.next();
    let long = random.below(3) != 0;
    let kernel = if long {
        cpu.efer |= 1 << 8 | 1 << 10;
        cpu.cr4 |= 1 << 5;
        TEXT
    } else {
        DIRECT_32 + IMAGE
    };
    let inside = |random: &mut Random| kernel + random.below(2 << 20);
    cpu.msr.lstar = inside(random);
    cpu.msr.sysenter_eip = inside(random);
    cpu.idtr.base = inside(random);
    cpu.gdtr.base = inside(random);
    cpu.gdtr.limit = 0xffff;
    cpu.tr.base = inside(random);
    cpu.seg[5].base = inside(random);
    cpu.msr.kernel_gs_base = inside(random);
    if long {
        guest.put_word(TABLES + 511 * 8, (TABLES + 0x1000) | 3);
        guest.put_word(TABLES + 0x1000 + 510 * 8, (TABLES + 0x2000) | 3);
        guest.put_word(TABLES + 0x2000 + 8 * 8, IMAGE | 0x83);
        // Sometimes a table that leads to itself.
        if random.below(4) == 0 {
            guest.put_word(TABLES + 0x2000 + 9 * 8, (TABLES + 0x2000) | 3);
        }
    } else {
        for page in 0..2 {
            guest.put(
                (TABLES + (768 + page) * 4) as usize,
                &((page << 22) as u32 | 0x83).to_le_bytes(),
            );
        }
    }
    for _ in 0..40 {
        plant(&mut guest, random);
    }
    guest
}

/// Puts something down that introspection looks for.
fn plant(guest: &mut Guest, random: &mut Random) {
    let at = (IMAGE + (random.below(2 << 20) & !7)) as usize;
    match random.below(6) {
        0 => {
            let mut header = [0; 24];
            header[..4].copy_from_slice(&[0x9f, 0xeb, 1, 0]);
            header[4] = 24;
            let types = random.below(0x4000) as u32 * 4;
            header[12..16].copy_from_slice(&types.to_le_bytes());
            header[16..20].copy_from_slice(&types.to_le_bytes());
            header[20..24].copy_from_slice(&(random.below(0x4000) as u32).to_le_bytes());
            guest.put(at, &header);
            guest.put(
                at + 24 + types as usize,
                b"\0task_struct\0mm_struct\0tasks\0pid\0comm\0mm\0pgd\0",
            );
        }
        1 => guest.put(at, b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\0"),
        2 => guest.put(at, b"swapper/0\0\0\0\0\0\0\0"),
        3 => guest.put(
            at & !0xfff,
            b"OSRELEASE=6.1\nBUILD-ID=zz\nSYMBOL(_stext)=ffffffffffffffffff\n\xff\xfe",
        ),
        4 => guest.put(at, b"kthreadd\0\0\0\0\0\0\0\0"),
        // A ring of one, or a run of markers.
        _ => {
            for number in 0..64_u32 {
                guest.put(at + 4 * number as usize, &(number * 1024).to_le_bytes());
            }
        }
    }
}

/// Asks everything, and counts.
fn ask(guest: &Guest) {
    let bounded = |what: &str| {
        let reads = guest.reads.replace(0);
        assert!(reads <= READS_MAX, "{what} took {reads} reads");
    };
    let offsets: LinuxOffsets =
        "0x20614,0x80,0,0x68,0x194,0xa4,0x1b0,0x24,0x18,0x28,0x2000,0xc4,0xec,0x10"
            .parse()
            .unwrap();
    let long = LinuxOffsets { long: true, next_task: 0x48, tasks: 0, ..offsets.clone() };
    let found = [
        Kernel::find(guest),
        Kernel::with_offsets(guest, &offsets),
        Kernel::with_offsets(guest, &long),
    ];
    bounded("finding");
    for mut kernel in found.into_iter().flatten() {
        let _ = kernel.observe(guest);
        bounded("observing");
        let _ = kernel.current(guest);
        bounded("current");
        let tasks = kernel.tasks(guest).unwrap_or_default();
        bounded("tasks");
        for task in tasks.iter().take(8) {
            let registers = kernel.task_registers(guest, task);
            if let Some(source) = registers.default_source() {
                let _ = kernel.task_state(guest, task, source);
            }
            let _ =
                kernel.space_of(guest, task).map(|space| space.translate(guest, Gva(0x40_0000)));
        }
        bounded("registers");
        if let Some(symbols) = kernel.symbols() {
            let _ = (symbols.symbol_at(Gva(TEXT)), symbols.address_of("_text"));
        }
    }
}

#[test]
fn arbitrary_memory_and_registers() {
    for seed in 0..150 {
        println!("seed {seed}");
        ask(&guest(&mut Random(seed)));
    }
}

/// Registers that point anywhere, over tables that may be anything.
#[test]
fn arbitrary_page_tables() {
    for seed in 0..150 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let mut guest = guest(&mut random);
        for _ in 0..64 {
            let at = TABLES + (random.below(0x4000) & !7);
            let entry = random.below(8 << 20) | random.below(1 << 12) | 1;
            guest.put_word(at, entry);
        }
        guest.cpu.cr3 = random.below(0x10_0000);
        guest.cpu.cr4 ^= if random.below(2) == 0 { 1 << 12 } else { 1 << 5 };
        guest.cpu.tr.base = random.next();
        guest.cpu.gdtr.base = u64::MAX - random.below(64);
        guest.cpu.idtr.base = u64::MAX - random.below(64);
        ask(&guest);
    }
}

/// Type information of a small kernel, as the format's document describes it, with one byte after the other changed.
#[test]
fn mutated_types() {
    let strings = b"\0task_struct\0pid\0int\0list_head\0";
    let mut types = Vec::new();
    let mut word = |value: u32| types.extend_from_slice(&value.to_le_bytes());
    // 1: int, 4 bytes, 32 bits.
    for value in [17, 1 << 24, 4, 32] {
        word(value);
    }
    // 2: struct task_struct { <anonymous 3> at 0; int pid at 64 bits }.
    for value in [1, 4 << 24 | 2, 16, 0, 3, 0, 13, 1, 64] {
        word(value);
    }
    // 3: struct (anonymous) { struct task_struct again }: a structure within itself.
    for value in [0, 4 << 24 | 1, 16, 0, 2, 0] {
        word(value);
    }
    let header =
        [0xeb9f | 1 << 16, 24, 0, types.len() as u32, types.len() as u32, strings.len() as u32];
    let mut data: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    data.extend_from_slice(&types);
    data.extend_from_slice(strings);
    let btf = Btf::parse(&data).unwrap();
    assert_eq!(btf.len(), 3);
    assert_eq!(btf.offset("task_struct", "pid"), Some(8));
    assert_eq!(btf.offset("task_struct", "tgid"), None);
    for at in 0..data.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut damaged = data.clone();
            damaged[at] = value;
            if let Some(btf) = Btf::parse(&damaged) {
                let _ = (
                    btf.offset("task_struct", "pid"),
                    btf.offset("task_struct", "nothing.here"),
                    btf.pointer_bytes(),
                );
            }
        }
        let _ = Btf::parse(&data[..at]);
    }
}

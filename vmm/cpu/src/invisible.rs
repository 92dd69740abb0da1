//! Tests of what no guest may see: the TLB's size and flushes, decoded blocks, where runs are cut.
//! Random programs that edit their own page tables and code run on CPUs tuned differently, side by side.

use crate::cpu::{Cpu, control};
use crate::debugger::{Breakpoint, Stops, WatchHit, WatchKind, Watchpoint};
use crate::mmu::{Engine, Tuning};
use crate::run::Stop;
use crate::testing::{Bench, CODE, tables};
use dejavm_memory::{GuestRam, RamLayout};
use dejavm_units::{Gpa, Gva, Position};

const ROOTS: [u64; 3] = [0x20_0000, 0x20_1000, 0x20_2000];
const PDPT: u64 = 0x20_3000;
const PD: u64 = 0x20_4000;
/// Page tables, then frames of data.
const PAGE_TABLES: [u64; 3] = [0x20_5000, 0x20_6000, 0x20_7000];
/// Frames that windows may show: all tables, data, and code from [`PROGRAM`] on.
const FRAMES: u64 = 24;
const PROGRAM: u64 = 0x21_0000;
/// Bytes from one label to the next.
const SLOT: u64 = 64;
const LABELS: u64 = 8 * 4096 / SLOT;
/// Linear addresses whose page tables the programs edit.
const WINDOWS: u64 = 0x40_0000;
const HIGHER_HALVES: [u64; 3] = [0, 0xffff_8000_0000_0000, 0xffff_8080_0000_0000];

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % bound
    }
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
    /// Few pages, so that they meet.
    fn window(&mut self) -> u64 {
        let page = self.pick(&[0, 1, 2, 3, 511, 512, 513]);
        self.pick(&HIGHER_HALVES) + WINDOWS + page * 4096
    }
    fn frame(&mut self) -> u64 {
        ROOTS[0] + self.below(FRAMES) * 4096
    }
    fn address(&mut self) -> u64 {
        let offset = self.pick(&[0, 8, 0x40, 0x41, 0x7f8, 0x800, 0xff8, 0xffd, 0xfff]);
        let page = if self.below(3) == 0 { self.frame() } else { self.window() };
        page + offset
    }
    fn label(&mut self) -> u64 {
        let at = self.below(LABELS) * SLOT;
        if self.below(2) == 0 { PROGRAM + at } else { self.window() + at % 4096 }
    }
    /// Where a table entry lies and what to put there.
    fn entry(&mut self) -> (u64, u64) {
        let flags = self.pick(&[7, 7, 7, 3, 0x27, 0x67, 0x63, 5, 0]);
        match self.below(24) {
            0 => {
                let at = self.pick(&ROOTS) + self.pick(&[256, 256, 257, 511]) * 8;
                (at, self.pick(&[PDPT, PDPT, ROOTS[0], ROOTS[1]]) | flags)
            }
            1 => (PD + self.pick(&[2, 3]) * 8, self.pick(&[0x20_0087, 0x20_00e7, PD | flags])),
            2 | 3 => (PD + self.pick(&[2, 3]) * 8, self.pick(&PAGE_TABLES) | 7),
            _ => {
                let at = self.pick(&PAGE_TABLES) + self.pick(&[0, 1, 2, 3, 511]) * 8;
                (at, self.frame() | flags)
            }
        }
    }

    /// One piece of code: at most 26 bytes.
    fn piece(&mut self) -> Vec<u8> {
        let mut code = Vec::new();
        let mut mov = |register: u8, value: u64| {
            code.extend([0x48, 0xb8 | register]);
            code.extend(value.to_le_bytes());
        };
        match self.below(17) {
            // mov [rbx], rax: a table entry.
            0..=2 => {
                let (at, value) = self.entry();
                mov(3, at);
                mov(0, value);
                code.extend([0x48, 0x89, 0x03]);
            }
            // and byte [rbx], 0x9f: clears accessed and dirty bits.
            3 => {
                mov(3, self.entry().0);
                code.extend([0x80, 0x23, 0x9f]);
            }
            // mov rcx, [rbx]; add ecx, [rbx]
            4 | 5 => {
                mov(3, self.address());
                code.extend([0x48, 0x8b, 0x0b, 0x03, 0x0b]);
            }
            // mov [rbx], ecx; add [rbx], dl; movups [rbx], xmm0
            6 | 7 => {
                mov(3, self.address());
                code.extend(self.pick(&[
                    [0x89, 0x0b, 0x90],
                    [0x00, 0x13, 0x90],
                    [0x0f, 0x11, 0x03],
                ]));
            }
            // Writes into code: inc byte [rbx] for an immediate, or a whole short jump.
            8 => {
                mov(3, PROGRAM + self.below(LABELS) * SLOT + self.pick(&[2, 3, 30]));
                code.extend(self.pick(&[[0xfe, 0x03, 0x90, 0x90], [0x66, 0xff, 0x03, 0x90]]));
            }
            // mov cr3, rax
            9 => {
                mov(0, self.pick(&ROOTS));
                code.extend([0x0f, 0x22, 0xd8]);
            }
            // jmp rax; call rax
            10 | 11 => {
                mov(0, self.label());
                code.extend([0xff, self.pick(&[0xe0, 0xe0, 0xd0])]);
            }
            // rep movsb, rep stosq of some pages
            12 => {
                mov(6, self.address());
                mov(7, self.address());
                code.extend([0xb9, 0x11, 0, 0, 0]);
                code.extend(self.pick(&[[0xf3, 0xa4, 0x90], [0xf3, 0x48, 0xab]]));
            }
            // sysretq to a label
            13 => {
                mov(1, self.label());
                code.extend([0x49, 0xc7, 0xc3, 2, 0, 0, 0, 0x48, 0x0f, 0x07]);
            }
            // syscall
            14 => code.extend([0x0f, 0x05]),
            // CR0.WP toggles, or an INVLPG
            15 => {
                if self.below(2) == 0 {
                    code.extend([0x0f, 0x20, 0xc0, 0x48, 0x0f, 0xba, 0xf8, 16, 0x0f, 0x22, 0xc0]);
                } else {
                    mov(3, self.address());
                    code.extend([0x0f, 0x01, 0x3b]);
                }
            }
            // Arithmetic and the stack.
            _ => code.extend([0x01, 0xd1, 0x50, 0x5a, 0xc1, 0xe9, 3, 0x48, 0x0f, 0xaf, 0xc1]),
        }
        code
    }

    /// A label's code: pieces, then a jump to the next label or another.
    fn slot(&mut self) -> Vec<u8> {
        let mut code = Vec::new();
        loop {
            let piece = self.piece();
            if code.len() + piece.len() > SLOT as usize - 5 {
                break;
            }
            code.extend(piece);
        }
        if self.below(3) == 0 {
            let back = self.below(8) as i64 * SLOT as i64 + code.len() as i64 + 5;
            code.push(0xe9);
            code.extend((-back as i32).to_le_bytes());
        }
        code.resize(SLOT as usize, 0x90);
        code
    }
}

fn bench(seed: u64, tuning: Tuning) -> Bench {
    let random = &mut Random(seed);
    let mut bench = Bench::long().with_tables();
    bench.cpu.set_tuning(tuning);
    bench.change(|state| {
        state.cr3 = ROOTS[0];
        state.cr0 |= control::CR0_WP;
        state.rip = PROGRAM;
        state.gpr[2] = 0x1234_5678_9abc_def0;
        state.msr.star = 0x0010_0008 << 32;
        state.msr.lstar = PROGRAM + 5 * SLOT;
    });
    for root in ROOTS {
        let accessed = random.pick(&[0, 0x20]);
        for n in [0, 256, 257] {
            bench.poke(root + n * 8, &(PDPT | 7 | accessed).to_le_bytes());
        }
    }
    bench.poke(PDPT, &(PD | 7).to_le_bytes());
    for (n, entry) in [0x87, 0x20_0087, PAGE_TABLES[0] | 7, PAGE_TABLES[1] | 7].iter().enumerate() {
        bench.poke(PD + n as u64 * 8, &u64::to_le_bytes(*entry));
    }
    for table in PAGE_TABLES {
        for page in 0..512u64 {
            let entry = (ROOTS[0] + (page % FRAMES) * 4096) | 7;
            bench.poke(table + page * 8, &entry.to_le_bytes());
        }
    }
    for label in 0..LABELS {
        bench.poke(PROGRAM + label * SLOT, &random.slot());
    }
    bench
}

pub(crate) fn whole_ram(bench: &Bench) -> Vec<u8> {
    let mut bytes = vec![0; 4 << 20];
    for pfn in bench.ram.pages() {
        let at = pfn.gpa().0 as usize;
        bench.ram.read(pfn.gpa(), &mut bytes[at..at + 4096]).unwrap();
    }
    bytes
}

/// Runs exactly so many instructions, in one go or cut.
fn go(bench: &mut Bench, instructions: u64, cut: u64) -> Stop {
    let end = bench.cpu.position.0 + instructions;
    let middle = Position(bench.cpu.position.0 + cut.min(instructions));
    match bench.cpu.run_until(&mut bench.ram, &mut bench.board, middle) {
        Stop::Limit => bench.cpu.run_until(&mut bench.ram, &mut bench.board, Position(end)),
        other => other,
    }
}

/// Runs one program everywhere; how many instructions it had.
fn compare(seed: u64) -> u64 {
    let default = Tuning::default();
    let engine = Engine::Reference;
    let translate_after = 0;
    let tunings = [
        default,
        Tuning { tlb_slots: 1, ..default },
        Tuning { tlb_slots: 64, flush_seed: Some(seed), ..default },
        Tuning { engine: Engine::Interpreter, ..default },
        Tuning { translate_after, ..default },
        Tuning { translate_after: 1, mix_seed: Some(seed), ..default },
        Tuning { translate_after, tlb_slots: 1, flush_seed: Some(seed ^ 2), ..default },
        Tuning { engine, ..default },
        Tuning { engine, tlb_slots: 1, flush_seed: Some(seed ^ 1), ..default },
    ];
    let mut benches = tunings.map(|tuning| bench(seed, tuning));
    let random = &mut Random(seed ^ 0x1234_5678);
    for round in 0..60 {
        let instructions = 1 + random.below(400);
        let cuts = tunings.map(|_| random.below(instructions + 1));
        let mut stops = Vec::new();
        for (bench, cut) in benches.iter_mut().zip(cuts) {
            stops.push(go(bench, instructions, cut));
        }
        let at = benches[0].cpu.position.0;
        let first = benches[0].cpu.state();
        for n in 1..benches.len() {
            let context = format!("seed {seed:#x}, round {round}, position {at}, {:?}", tunings[n]);
            assert_eq!(stops[0], stops[n], "{context}");
            assert_eq!(first, benches[n].cpu.state(), "{context}");
        }
        if random.below(4) == 0 || stops[0] != Stop::Limit {
            let dirty = benches[0].ram.take_dirty();
            let ram = whole_ram(&benches[0]);
            for n in 1..benches.len() {
                let context = format!("seed {seed:#x}, round {round}, at {at}, {:?}", tunings[n]);
                assert_eq!(dirty, benches[n].ram.take_dirty(), "{context}");
                let other = whole_ram(&benches[n]);
                let byte = (0..ram.len()).find(|&at| ram[at] != other[at]);
                assert_eq!(byte, None, "{context}");
            }
        }
        match stops[0] {
            Stop::Limit => {}
            // A handler's HLT: go on at some label, everything derived still there.
            Stop::Halted => {
                let label = random.label();
                for bench in &mut benches {
                    bench.cpu.halted = false;
                    bench.cpu.rip = label;
                    bench.cpu.gpr[4] = crate::testing::STACK;
                }
            }
            Stop::Shutdown | Stop::Board | Stop::Livelock => break,
            Stop::Breakpoint { .. } | Stop::Watchpoint(_) => unreachable!("no stops are set"),
        }
    }
    benches[0].cpu.position.0
}

/// Stops at random where programs run, near `rip` above all, and where they load and store.
fn random_stops(random: &mut Random, rip: u64) -> Stops {
    let space = |random: &mut Random| {
        let spaces = [None, None, Some(Gpa(ROOTS[0])), Some(Gpa(ROOTS[1] | 0x18))];
        random.pick(&spaces)
    };
    let breakpoints = (0..random.below(40))
        .map(|_| {
            let near = (rip & !(SLOT - 1)).wrapping_add(random.below(12) * SLOT);
            let label = if random.below(3) == 0 { random.label() } else { near };
            let at = label.wrapping_add(random.pick(&[0, 0, 10, 20, 13, 23, 3, 1]));
            Breakpoint { at: Gva(at), space: space(random) }
        })
        .collect();
    let watchpoints = (0..random.below(12))
        .map(|_| {
            let start = Gva(random.address());
            let bytes = random.pick(&[1, 1, 1, 2, 8, 200, 9000]);
            let kind = random.pick(&[WatchKind::Write, WatchKind::Read, WatchKind::Access]);
            Watchpoint { start, bytes, kind, space: space(random) }
        })
        .collect();
    Stops { breakpoints, watchpoints }
}

/// What a run was stopped by on its way, and where.
type Met = Vec<(Position, u64, Stop, Vec<WatchHit>)>;

/// As [`go`], past all stops.
fn go_past_stops(bench: &mut Bench, instructions: u64, cut: u64, met: &mut Met) -> Stop {
    let end = bench.cpu.position.0 + instructions;
    let mut last = Stop::Limit;
    for limit in [bench.cpu.position.0 + cut.min(instructions), end] {
        loop {
            bench.cpu.pass_stop();
            last = bench.cpu.run_until(&mut bench.ram, &mut bench.board, Position(limit));
            let (Stop::Breakpoint { .. } | Stop::Watchpoint(_)) = last else { break };
            let hits = bench.cpu.watch_hits().collect();
            met.push((bench.cpu.position, bench.cpu.rip, last, hits));
            assert!(met.len() < 100_000, "it goes on");
        }
        if last != Stop::Limit {
            break;
        }
    }
    last
}

/// Runs one program without stops and, decoded and one by one, with the same stops; how many were met.
fn compare_stops(seed: u64) -> usize {
    let default = Tuning::default();
    let reference = Tuning {
        engine: Engine::Reference,
        tlb_slots: 64,
        flush_seed: Some(seed),
        ..Tuning::default()
    };
    let mut plain = bench(seed, default);
    let mut stopped = [
        bench(seed, default),
        bench(seed, reference),
        bench(seed, Tuning { tlb_slots: 1, ..default }),
    ];
    let random = &mut Random(seed ^ 0x7777_7777);
    let mut count = 0;
    for round in 0..60 {
        if random.below(4) == 0 {
            let stops = random_stops(random, plain.cpu.rip);
            stopped.iter_mut().for_each(|bench| bench.cpu.set_stops(&stops));
        }
        let instructions = 1 + random.below(1200);
        let stop = go(&mut plain, instructions, instructions);
        let mut mets = Vec::new();
        for bench in &mut stopped {
            let context = format!("seed {seed:#x}, round {round}");
            let mut met = Met::new();
            let cut = random.below(instructions + 1);
            assert_eq!(stop, go_past_stops(bench, instructions, cut, &mut met), "{context}");
            assert_eq!(plain.cpu.state(), bench.cpu.state(), "{context}");
            mets.push(met);
        }
        assert_eq!(mets[0], mets[1], "seed {seed:#x}, round {round}");
        assert_eq!(mets[0], mets[2], "seed {seed:#x}, round {round}");
        count += mets[0].len();
        if round % 8 == 7 {
            let (dirty, ram) = (plain.ram.take_dirty(), whole_ram(&plain));
            for bench in &mut stopped {
                assert_eq!(dirty, bench.ram.take_dirty(), "seed {seed:#x}, round {round}");
                assert!(ram == whole_ram(bench), "seed {seed:#x}, round {round}");
            }
        }
        if stop == Stop::Halted {
            let label = random.label();
            for bench in stopped.iter_mut().chain([&mut plain]) {
                bench.cpu.halted = false;
                bench.cpu.rip = label;
                bench.cpu.gpr[4] = crate::testing::STACK;
            }
        } else if stop != Stop::Limit {
            break;
        }
    }
    count
}

#[test]
fn stops_change_nothing_and_are_met_the_same_everywhere() {
    let mut count = 0;
    for seed in 1..=12u64 {
        count += compare_stops(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
    assert!(count > 2_000, "only {count} stops were met");
}

#[test]
fn programs_that_edit_their_page_tables_and_code_run_the_same_everywhere() {
    let mut instructions = 0;
    for seed in 1..=10u64 {
        instructions += compare(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
    assert!(instructions > 20_000, "only {instructions} instructions ran");
}

/// Two PML4s with equal upper halves: each keeps accessed bits of its own.
#[test]
fn spaces_that_share_a_supervisor_tlb_have_their_own_accessed_bits() {
    const OTHER: u64 = 0x30_0000;
    const UPPER: u64 = 0xffff_8000_0000_0000;
    let mut bench = Bench::long();
    for root in [0x1000, OTHER] {
        bench.poke(root, &0x2007u64.to_le_bytes());
        bench.poke(root + 0x800, &0x2007u64.to_le_bytes());
    }
    bench.change(|state| {
        (state.gpr[0], state.gpr[2], state.gpr[3]) = (OTHER, 0x1000, UPPER);
    });
    // Both spaces are known before either has walked through the upper half:
    // mov cr3, rax; mov cr3, rdx; mov rcx, [rbx]; mov cr3, rax; mov rcx, [rbx]
    let code =
        [0x0f, 0x22, 0xd8, 0x0f, 0x22, 0xda, 0x48, 0x8b, 0x0b, 0x0f, 0x22, 0xd8, 0x48, 0x8b, 0x0b];
    assert_eq!(bench.run(&code, 5), Stop::Limit);
    for root in [0x1000, OTHER] {
        assert_eq!(u64::from_le_bytes(bench.peek(root + 0x800)), 0x2027, "{root:#x}");
    }
}

/// SDM vol. 2A, JMP, CALL, Jcc: the branch itself faults, with nothing pushed.
#[test]
fn direct_branches_out_of_the_canonical_range_fault_where_they_stand() {
    const LAST_PAGE: u64 = 0x7fff_ffff_f000;
    // jmp, call, jz to far beyond the page's end
    for code in [&[0xe9, 0, 0x20, 0, 0][..], &[0xe8, 0, 0x20, 0, 0], &[0x0f, 0x84, 0, 0x20, 0, 0]] {
        for engine in [Engine::Translator, Engine::Interpreter, Engine::Reference] {
            let mut bench = Bench::long().with_tables();
            bench.cpu.set_tuning(Tuning { engine, translate_after: 0, ..Tuning::default() });
            // The last pages of the lower half show the first 2 MiB.
            bench.poke(0x1000 + 255 * 8, &0x20_1007u64.to_le_bytes());
            bench.poke(0x20_1000 + 511 * 8, &0x20_2007u64.to_le_bytes());
            bench.poke(0x20_2000 + 511 * 8, &0x87u64.to_le_bytes());
            bench.poke(LAST_PAGE & 0x1f_ffff, code);
            bench.change(|state| {
                state.rip = LAST_PAGE;
                state.rflags |= 0x40;
            });
            assert_ne!(bench.go(100), Stop::Limit);
            assert_eq!(bench.handled(), Some(13), "{code:x?}");
            // Error code, then RIP; the frame is the first thing on the stack.
            assert_eq!((bench.stack64(0), bench.stack64(1)), (0, LAST_PAGE), "{code:x?}");
            assert_eq!(bench.stack64(4), crate::testing::STACK, "{code:x?}");
        }
    }
}

/// The time stamp counter, wherever in a block it is read.
#[test]
fn all_engines_read_the_same_time() {
    // rdtsc; mov esi, eax; mov edi, edx; nop; rdtscp; jmp back
    let code = [0x0f, 0x31, 0x89, 0xc6, 0x89, 0xd7, 0x90, 0x0f, 0x01, 0xf9, 0xeb, 0xf4];
    for engine in [Engine::Translator, Engine::Interpreter, Engine::Reference] {
        let mut bench = Bench::long();
        bench.cpu.set_tuning(Tuning { engine, translate_after: 0, ..Tuning::default() });
        bench.change(|state| {
            state.msr.tsc_offset = 0x12_3456_7890;
            state.msr.tsc_aux = 0xabc;
        });
        // Six instructions a round; the last round ends behind its RDTSCP.
        assert_eq!(bench.run(&code, 6 * 10 + 5), Stop::Limit, "{engine:?}");
        let state = bench.cpu.state();
        let (first, second) = (0x12_3456_7890u64 + 60, 0x12_3456_7890u64 + 64);
        assert_eq!((state.gpr[7], state.gpr[6]), (first >> 32, first & 0xffff_ffff), "{engine:?}");
        assert_eq!((state.gpr[2], state.gpr[0]), (second >> 32, second & 0xffff_ffff));
        assert_eq!(state.gpr[1], 0xabc);
    }
}

/// A CPU that is lent other RAM of the same size forgets the first: translations and code.
#[test]
fn another_ram_is_noticed() {
    let mut bench = Bench::protected();
    // inc eax; jmp back
    assert_eq!(bench.run(&[0x40, 0xeb, 0xfd], 100), Stop::Limit);
    bench.ram = GuestRam::new(RamLayout::new(4 << 20).unwrap()).unwrap();
    let before = bench.cpu.state().gpr[0];
    // dec eax; jmp back
    bench.ram.write(Gpa(CODE), &[0x48, 0xeb, 0xfd]).unwrap();
    assert_eq!(bench.go(100), Stop::Limit);
    assert_eq!(bench.cpu.state().gpr[0], before - 50);
}

/// A walk that sets an accessed bit in a page table which is also decoded code drops that code.
#[test]
fn accessed_bits_in_code_are_executed() {
    for engine in [Engine::Translator, Engine::Interpreter, Engine::Reference] {
        let mut bench = Bench::protected().with_tables();
        bench.cpu.set_tuning(Tuning { engine, translate_after: 0, ..Tuning::default() });
        // Page directory at 0x10_0000: 4 MiB at 0 by a large page, and 0x4000_0000 by an entry that
        // is code: add ecx, imm32 with bits 0 to 7 of the entry as its last byte... executed before
        // and after the walk that sets the accessed bit.
        const DIRECTORY: u64 = 0x10_0000;
        let entry_at = DIRECTORY + 0x100 * 4;
        bench.poke(DIRECTORY, &0xe3u32.to_le_bytes());
        // The entry 0x0000_0083 follows B9: mov ecx, 0x83; then ret.
        bench.poke(entry_at - 1, &[0xb9, 0x83, 0, 0, 0, 0xc3]);
        bench.change(|state| {
            state.cr3 = DIRECTORY;
            state.cr4 |= control::CR4_PSE;
            state.cr0 |= control::CR0_PG;
            state.gpr[0] = entry_at - 1;
        });
        // call eax; mov edx, ecx; mov bl, [0x40000000]; call eax; hlt
        let code = [0xff, 0xd0, 0x89, 0xca, 0x8a, 0x1d, 0, 0, 0, 0x40, 0xff, 0xd0, 0xf4];
        assert_eq!(bench.run_to_halt(&code), None);
        let state = bench.cpu.state();
        assert_eq!((state.gpr[2], state.gpr[1]), (0x83, 0xa3), "{engine:?}");
    }
}

/// Handlers are told by the tables' addresses only; this keeps the programs clear of them.
const _: () = assert!(tables::HANDLERS + 0x1000 < CODE && CODE < ROOTS[0]);

/// Not a guest's business either: a CPU may be moved while it holds translations.
#[test]
fn a_cpu_may_be_moved() {
    let mut bench = Bench::long();
    assert_eq!(bench.run(&[0x90, 0xeb, 0xfd], 10), Stop::Limit);
    let moved: Box<Cpu> = Box::new(bench.cpu);
    let mut bench = Bench { cpu: *moved, ram: bench.ram, board: bench.board };
    assert_eq!(bench.go(10), Stop::Limit);
    assert_eq!(bench.cpu.position.0, 20);
}

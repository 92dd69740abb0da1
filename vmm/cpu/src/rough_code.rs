//! Code as no compiler makes it, by host code from the first entry on and by the reference semantics: random
//! bytes, jumps into the middle of instructions, instructions across pages, code that changes itself, one
//! page at several addresses, code where no RAM is, spaces switched all the time, and a memory for host code
//! that is always full.

#![expect(clippy::disallowed_macros, reason = "tests print seeds")]

use crate::invisible::whole_ram;
use crate::mmu::{Engine, Tuning};
use crate::run::Stop;
use crate::sequences::{Random, random_instruction};
use crate::testing::{Bench, STACK};
use dejavm_units::Position;

/// Two spaces: PML4, PDPT, PD and PT each.
const ROOTS: [u64; 2] = [0x20_0000, 0x20_4000];
/// Pages of code, at their own addresses too.
const FRAMES: u64 = 0x21_0000;
const FRAME_COUNT: u64 = 8;
/// Linear addresses that show the frames, each page some frame, in each space others.
const VIEW: u64 = 0x40_0000;
const VIEW_PAGES: u64 = 32;
/// Linear addresses where no RAM is.
const DEVICE: u64 = 0x60_0000;
const DATA: u64 = 0x23_0000;

impl Random {
    /// Somewhere in the code, between instructions or not.
    fn place(&mut self) -> u64 {
        let offset = if self.below(3) == 0 { self.below(4096) } else { self.below(64) * 64 };
        match self.below(40) {
            0 => DEVICE + self.below(0x1000),
            1..10 => FRAMES + self.below(FRAME_COUNT) * 4096 + offset,
            _ => VIEW + self.below(VIEW_PAGES) * 4096 + offset,
        }
    }

    /// A piece of code that may end a block.
    fn piece(&mut self) -> Vec<u8> {
        let constant = |register: u8, value: u64| {
            let mut code = vec![0x48, 0xb8 | register];
            code.extend(value.to_le_bytes());
            code
        };
        match self.below(30) {
            // Jcc, JMP, CALL a little forwards or backwards; LOOP; JRCXZ.
            0..5 => vec![0x70 | self.next() as u8 & 15, self.next() as u8 >> 1],
            5 => vec![self.pick(&[0xeb, 0xe2, 0xe3]), self.next() as u8],
            6..9 => {
                let distance = self.below(0x4000) as i32 - 0x2000;
                let mut code =
                    self.pick(&[&[0xe9u8][..], &[0xe8], &[0x0f, 0x84], &[0x0f, 0x8d]]).to_vec();
                code.extend(distance.to_le_bytes());
                code
            }
            9 | 10 => vec![0xc3],
            // JMP RAX, CALL RAX, PUSH RAX and RET.
            11..14 => {
                let mut code = constant(0, self.place());
                code.extend(self.pick(&[&[0xffu8, 0xe0][..], &[0xff, 0xd0], &[0x50, 0xc3]]));
                code
            }
            // MOV CR3, RAX
            14 => {
                let mut code = constant(0, self.pick(&ROOTS));
                code.extend([0x0f, 0x22, 0xd8]);
                code
            }
            // Pointers to code and data.
            15 => constant(self.pick(&[3, 6, 7]), self.place()),
            16 | 17 => constant(self.pick(&[3, 5, 6, 7]), DATA + 0x100 + self.below(0x800)),
            18 => constant(4, STACK - 8 * self.below(32)),
            // INC byte [rbx]; MOV [rdi], eax
            19 => self.pick(&[&[0xfeu8, 0x03][..], &[0x89, 0x07]]).to_vec(),
            _ => random_instruction(self),
        }
    }

    fn operands(&mut self) -> [u64; 16] {
        std::array::from_fn(|n| match n {
            1 => self.below(200),
            4 => STACK - 8 * self.below(32),
            _ if self.below(3) == 0 => self.next(),
            _ => DATA + 0x100 + self.below(0x800),
        })
    }
}

fn bench(random: &mut Random, bytes: bool, tuning: Tuning) -> Bench {
    let mut bench = Bench::long().with_tables();
    bench.cpu.set_tuning(tuning);
    for root in ROOTS {
        let entries = [(root, root + 0x1007), (root + 0x1000, root + 0x2007)];
        let directory = [0x87, 0x20_0087, root + 0x3007, 0x80_0087].into_iter().enumerate();
        let directory = directory.map(|(n, entry)| (root + 0x2000 + n as u64 * 8, entry));
        for (at, entry) in entries.into_iter().chain(directory) {
            bench.poke(at, &u64::to_le_bytes(entry));
        }
        for page in 0..VIEW_PAGES {
            // The first eight pages are the frames in order, so that code goes on across pages.
            let frame = if page < 8 && root == ROOTS[0] { page } else { random.below(FRAME_COUNT) };
            let entry = FRAMES + frame * 4096 + 7;
            bench.poke(root + 0x3000 + page * 8, &entry.to_le_bytes());
        }
    }
    let mut code = Vec::new();
    while code.len() < (FRAME_COUNT * 4096) as usize {
        if bytes {
            code.extend(random.next().to_le_bytes());
        } else {
            let piece = random.piece();
            // Most slots begin with an instruction.
            if code.len() % 64 + piece.len() > 64 && random.below(4) != 0 {
                code.resize(code.len().next_multiple_of(64), 0x90);
            }
            code.extend(piece);
        }
    }
    code.truncate((FRAME_COUNT * 4096) as usize);
    bench.poke(FRAMES, &code);
    bench.change(|state| state.cr3 = ROOTS[0]);
    bench
}

/// Runs one program in all tunings, `distance` of the round at a time; how many instructions completed.
fn compare(
    seed: u64,
    bytes: bool,
    tunings: &[Tuning],
    rounds: u64,
    distance: impl Fn(u64) -> u64,
) -> u64 {
    println!("seed {seed:#x}, random bytes: {bytes}");
    let mut benches: Vec<Bench> =
        tunings.iter().map(|tuning| bench(&mut Random(seed), bytes, *tuning)).collect();
    let fresh = benches[0].cpu.state();
    let random = &mut Random(seed ^ 0x5555);
    let mut completed = 0;
    let mut restart = true;
    for round in 0..rounds {
        if restart {
            let (place, gpr) = (random.place(), random.operands());
            for bench in &mut benches {
                let position = bench.cpu.position;
                bench.cpu.set_state(&fresh);
                bench.cpu.position = position;
                bench.cpu.rip = place;
                bench.cpu.gpr[..16].copy_from_slice(&gpr);
            }
        }
        let begin = benches[0].cpu.position.0;
        let limit = Position(begin + distance(round));
        let stops: Vec<Stop> = benches
            .iter_mut()
            .map(|bench| bench.cpu.run_until(&mut bench.ram, &mut bench.board, limit))
            .collect();
        let first = benches[0].cpu.state();
        completed += first.position.0 - begin;
        for (n, bench) in benches.iter().enumerate().skip(1) {
            let context = format!("seed {seed:#x}, round {round}, from {begin}, {:?}", tunings[n]);
            assert_eq!(stops[0], stops[n], "{context}");
            assert_eq!(first, bench.cpu.state(), "{context}");
        }
        if round % 64 == 63 || round + 1 == rounds {
            let dirty = benches[0].ram.take_dirty();
            let ram = whole_ram(&benches[0]);
            for (n, bench) in benches.iter_mut().enumerate().skip(1) {
                let context = format!("seed {seed:#x}, round {round}, {:?}", tunings[n]);
                assert_eq!(dirty, bench.ram.take_dirty(), "{context}");
                let other = whole_ram(bench);
                let at = (0..ram.len()).find(|&at| ram[at] != other[at]);
                assert_eq!(at, None, "{context}");
            }
        }
        // An exception's handler halts. Now and then something else begins, wherever this one is.
        restart = stops[0] != Stop::Limit || random.below(16) == 0;
    }
    completed
}

fn tunings() -> Vec<Tuning> {
    let reference = Tuning { engine: Engine::Reference, ..Tuning::default() };
    let at_once = Tuning { translate_after: 0, ..Tuning::default() };
    let soon = Tuning { translate_after: 1, ..Tuning::default() };
    vec![
        reference,
        at_once,
        soon,
        Tuning { tlb_slots: 1, ..at_once },
        // Full after some hundred blocks.
        Tuning { code_bytes: 0, ..soon },
        Tuning { tlb_slots: 64, flush_seed: Some(9), mix_seed: Some(7), code_bytes: 0, ..soon },
    ]
}

#[test]
fn random_instructions_with_loops_and_calls() {
    let mut completed = 0;
    for seed in 1..=6u64 {
        completed +=
            compare(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), false, &tunings(), 1500, |round| {
                1 + round % 300
            });
    }
    assert!(completed > 50_000, "only {completed} instructions completed");
}

#[test]
fn random_bytes() {
    let mut completed = 0;
    for seed in 1..=3u64 {
        completed +=
            compare(seed.wrapping_mul(0x5851_f42d_4c95_7f2d), true, &tunings(), 1500, |_| 50);
    }
    assert!(completed > 2_000, "only {completed} instructions completed");
}

/// Every length of budget, so that every block is refused in each of its ways.
#[test]
fn budgets_of_every_length() {
    for budget in 1..=200 {
        let completed = compare(0x1234_5677 + budget, false, &tunings()[..3], 40, |_| budget);
        assert!(completed > 0);
    }
}

/// 10 000 switches between two spaces, with different code at one address.
#[test]
fn spaces_are_switched_all_the_time() {
    let at_once = Tuning { translate_after: 0, ..Tuning::default() };
    for tuning in
        [at_once, Tuning { tlb_slots: 1, ..at_once }, Tuning { mix_seed: Some(3), ..at_once }]
    {
        let mut bench = bench(&mut Random(77), false, tuning);
        // In the first space the page at VIEW adds 1 to RBX, in the second 1000.
        bench.poke(FRAMES, &[0x48, 0x81, 0xc3, 1, 0, 0, 0, 0xc3]);
        bench.poke(FRAMES + 0x1000, &[0x48, 0x81, 0xc3, 0xe8, 3, 0, 0, 0xc3]);
        bench.poke(ROOTS[0] + 0x3000, &(FRAMES | 7).to_le_bytes());
        bench.poke(ROOTS[1] + 0x3000, &((FRAMES + 0x1000) | 7).to_le_bytes());
        // mov cr3, rsi; call rax; mov cr3, rdi; call rax; dec ecx; jnz; hlt
        bench.poke(
            crate::testing::CODE,
            &[
                0x0f, 0x22, 0xde, 0xff, 0xd0, 0x0f, 0x22, 0xdf, 0xff, 0xd0, 0xff, 0xc9, 0x75, 0xf2,
                0xf4,
            ],
        );
        bench.change(|state| {
            state.rip = crate::testing::CODE;
            (state.gpr[0], state.gpr[1], state.gpr[3]) = (VIEW, 5000, 0);
            (state.gpr[6], state.gpr[7]) = (ROOTS[0], ROOTS[1]);
        });
        assert_eq!(bench.go(1_000_000), Stop::Halted, "{tuning:?}");
        assert_eq!(bench.cpu.state().gpr[3], 5000 * 1001, "{tuning:?}");
        assert_eq!(bench.cpu.position.0, 5000 * 10 + 1, "{tuning:?}");
    }
}

/// A loop over a block whose immediate it increments each time, in the same page and in the next: whoever
/// jumps there must not find what was there before.
#[test]
fn changed_blocks_are_not_jumped_to_as_they_were() {
    let default = Tuning::default();
    for distance in [0x80u32, 0x1000] {
        for translate_after in [0, 1, 16] {
            let mut bench = Bench::long().with_tables();
            bench.cpu.set_tuning(Tuning { translate_after, ..default });
            // inc byte [target + 2]; jmp target
            let mut code = vec![0xfe, 0x05];
            code.extend((distance + 2 - 6).to_le_bytes());
            code.push(0xe9);
            code.extend((distance - 11).to_le_bytes());
            bench.poke(crate::testing::CODE, &code);
            // target: add ebx, 0; dec ecx; jnz back; hlt
            let mut target = vec![0x81, 0xc3, 0, 0, 0, 0, 0xff, 0xc9, 0x0f, 0x85];
            target.extend((-14 - distance as i32).to_le_bytes());
            target.push(0xf4);
            bench.poke(crate::testing::CODE + u64::from(distance), &target);
            bench.change(|state| (state.gpr[1], state.gpr[3]) = (200, 0));
            assert_eq!(bench.go(100_000), Stop::Halted);
            assert_eq!(bench.cpu.state().gpr[3], 200 * 201 / 2, "{distance:#x}, {translate_after}");
        }
    }
}

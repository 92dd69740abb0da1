//! Stops where they are meant, in each mode, and nowhere else.

use super::*;
use crate::mmu::{Engine, Tuning};
use crate::run::Stop;
use crate::segment::SegReg;
use crate::testing::{Bench, CODE, DATA, STACK, tables};

const AHEAD: u64 = 1000;

fn breakpoints(at: &[u64]) -> Stops {
    let breakpoint = |&at| Breakpoint { at: Gva(at), space: None };
    Stops { breakpoints: at.iter().map(breakpoint).collect(), watchpoints: Vec::new() }
}

fn watch(start: u64, bytes: u64, kind: WatchKind) -> Stops {
    let watchpoint = Watchpoint { start: Gva(start), bytes, kind, space: None };
    Stops { breakpoints: Vec::new(), watchpoints: vec![watchpoint] }
}

fn at(at: u64) -> Stop {
    Stop::Breakpoint { at: Gva(at) }
}

fn hit(index: usize, address: u64, kind: WatchKind) -> Stop {
    Stop::Watchpoint(WatchHit { index, address: Gva(address), kind, processor: 0 })
}

/// Runs as a machine does: past the stop told of before.
fn go_on(bench: &mut Bench, instructions: u64) -> Stop {
    bench.cpu.pass_stop();
    bench.go(instructions)
}

/// Each mode, by handlers and by the reference semantics alone.
fn every_mode() -> Vec<Bench> {
    let mut benches = Vec::new();
    for engine in [Engine::Translator, Engine::Interpreter, Engine::Reference] {
        for mut bench in [Bench::real(), Bench::protected(), Bench::long()] {
            bench.cpu.set_tuning(Tuning { engine, translate_after: 0, ..Tuning::default() });
            benches.push(bench);
        }
    }
    benches
}

// NOP; NOP; NOP; JMP to the first.
const LOOP: [u8; 5] = [0x90, 0x90, 0x90, 0xeb, 0xfb];

#[test]
fn a_breakpoint_stops_before_its_instruction_in_every_mode() {
    for mut bench in every_mode() {
        bench.cpu.set_stops(&breakpoints(&[CODE + 2]));
        bench.poke(CODE, &LOOP);
        for round in 0..5 {
            assert_eq!(go_on(&mut bench, AHEAD), at(CODE + 2));
            assert_eq!(bench.cpu.position.0, 2 + round * 4, "{:#x}", bench.cpu.cr0);
            assert_eq!(bench.cpu.cs_linear(bench.cpu.rip), CODE + 2);
            // Until it is passed, the CPU does not move.
            assert_eq!(bench.go(AHEAD), at(CODE + 2));
        }
    }
}

#[test]
fn a_breakpoint_where_the_run_starts_does_not_stop_it() {
    for mut bench in every_mode() {
        bench.poke(CODE, &LOOP);
        bench.cpu.set_stops(&breakpoints(&[CODE]));
        assert_eq!(go_on(&mut bench, AHEAD), at(CODE));
        assert_eq!(bench.cpu.position.0, 4);
        // Nor after a run of nothing.
        assert_eq!(go_on(&mut bench, 0), Stop::Limit);
        assert_eq!(go_on(&mut bench, AHEAD), at(CODE));
        assert_eq!(bench.cpu.position.0, 8);
    }
}

#[test]
fn arriving_at_a_breakpoint_comes_before_arriving_at_the_limit() {
    for mut bench in every_mode() {
        bench.poke(CODE, &LOOP);
        bench.cpu.set_stops(&breakpoints(&[CODE + 2]));
        let mut arrivals = Vec::new();
        while bench.cpu.position.0 < 20 {
            if go_on(&mut bench, 1) == at(CODE + 2) {
                arrivals.push(bench.cpu.position.0);
            }
        }
        assert_eq!(arrivals, [2, 6, 10, 14, 18]);
    }
}

#[test]
fn breakpoints_enter_decoded_code_and_leave_it() {
    let mut bench = Bench::long();
    bench.poke(CODE, &LOOP);
    assert_eq!(go_on(&mut bench, 400), Stop::Limit);
    bench.cpu.set_stops(&breakpoints(&[CODE + 1, CODE + 3]));
    assert_eq!(go_on(&mut bench, AHEAD), at(CODE + 1));
    assert_eq!(go_on(&mut bench, AHEAD), at(CODE + 3));
    bench.cpu.set_stops(&breakpoints(&[CODE + 2]));
    assert_eq!(go_on(&mut bench, AHEAD), at(CODE + 2));
    bench.cpu.set_stops(&Stops::default());
    assert_eq!(go_on(&mut bench, AHEAD), Stop::Limit);
    // As a debugger does at each stop: nothing is decoded anew for the same places.
    bench.cpu.set_stops(&breakpoints(&[CODE + 2]));
    assert!(bench.cpu.debugger.new_cuts.is_empty());
    assert_eq!(go_on(&mut bench, AHEAD), at(CODE + 2));
    assert_eq!(bench.cpu.position.0, 406 + AHEAD + 4);
}

/// Twice as many as there are page offsets, of which most are used no more.
#[test]
fn breakpoints_that_come_and_go_are_all_met() {
    let mut bench = Bench::long();
    // 5000 NOPs; JMP back.
    let mut code = vec![0x90; 5000];
    code.push(0xe9);
    code.extend((-5005i32).to_le_bytes());
    bench.poke(CODE, &code);
    for n in 0..8192u64 {
        let place = CODE + n * 1237 % 5000;
        bench.cpu.set_stops(&breakpoints(&[place]));
        assert_eq!(go_on(&mut bench, 5001), at(place), "{n}");
    }
}

#[test]
fn an_instruction_across_pages_is_stopped_at_too() {
    let mut bench = Bench::long();
    // NOP; MOV ECX, imm32 across the page's end; JMP back.
    let start = CODE + 0x1000 - 3;
    bench.poke(start, &[0x90, 0xb9, 7, 0, 0, 0, 0xeb, 0xf8]);
    bench.change(|state| state.rip = start);
    bench.cpu.set_stops(&breakpoints(&[start + 1]));
    for round in 0..3 {
        assert_eq!(go_on(&mut bench, AHEAD), at(start + 1));
        assert_eq!(bench.cpu.position.0, 1 + round * 3);
    }
}

/// Two processes share a page of code, at different addresses; the breakpoint is in one.
#[test]
fn a_breakpoint_belongs_to_its_space() {
    const OTHER: u64 = 0x30_0000;
    const TABLE: u64 = 0x30_1000;
    const SHARED: u64 = 0x8000_0000;
    for tables_differ in [false, true] {
        let mut bench = Bench::long();
        // Both map the code at 2 GiB; the second, if asked, by tables of its own.
        bench.poke(0x2010, &(TABLE | 7).to_le_bytes());
        bench.poke(TABLE, &0x87u64.to_le_bytes());
        let pdpt = if tables_differ { OTHER + 0x2000 } else { 0x2000 };
        bench.poke(OTHER, &(pdpt | 7).to_le_bytes());
        for (n, entry) in [0x3007, 0, TABLE | 7].iter().enumerate() {
            bench.poke(OTHER + 0x2000 + n as u64 * 8, &u64::to_le_bytes(*entry));
        }
        // MOV CR3, RAX; XCHG RAX, RDX; INC RCX; JMP back
        let code = [0x0f, 0x22, 0xd8, 0x48, 0x92, 0x48, 0xff, 0xc1, 0xeb, 0xf6];
        bench.poke(CODE, &code);
        bench.change(|state| {
            (state.gpr[0], state.gpr[2]) = (OTHER, 0x1000);
            state.rip = SHARED + CODE;
        });
        let place = SHARED + CODE + 5;
        let here = Breakpoint { at: Gva(place), space: Some(Gpa(OTHER)) };
        bench.cpu.set_stops(&Stops { breakpoints: vec![here], watchpoints: vec![] });
        for round in 0..4 {
            assert_eq!(go_on(&mut bench, AHEAD), at(place));
            let state = bench.cpu.state();
            assert_eq!((state.cr3, state.gpr[1]), (OTHER, round * 2), "{tables_differ}");
        }
        // The same physical page at another linear address is another place.
        bench.cpu.set_stops(&breakpoints(&[CODE + 5]));
        assert_eq!(go_on(&mut bench, AHEAD), Stop::Limit);
    }
}

/// With PAE paging the top tables are 32 bytes long: Linux has those of many processes in one page.
#[test]
fn a_breakpoint_belongs_to_its_space_within_a_page_of_tables() {
    const ROOT: u64 = 0x30_0000;
    const OTHER: u64 = ROOT + 0x20;
    let mut bench = Bench::protected();
    for root in [ROOT, OTHER] {
        bench.poke(root, &0x30_1001u64.to_le_bytes());
    }
    bench.poke(0x30_1000, &0x83u64.to_le_bytes());
    // MOV CR3, EAX; XCHG EAX, EDX; INC ECX; JMP back
    bench.poke(CODE, &[0x0f, 0x22, 0xd8, 0x92, 0x41, 0xeb, 0xf9]);
    bench.change(|state| {
        (state.gpr[0], state.gpr[2]) = (OTHER, ROOT);
        state.cr3 = ROOT;
        state.pdpte = [0x30_1001, 0, 0, 0];
        state.cr4 |= crate::cpu::control::CR4_PAE;
        state.cr0 |= crate::cpu::control::CR0_PG;
    });
    let here = Breakpoint { at: Gva(CODE + 4), space: Some(Gpa(OTHER)) };
    bench.cpu.set_stops(&Stops { breakpoints: vec![here], watchpoints: vec![] });
    for round in 0..4 {
        assert_eq!(go_on(&mut bench, AHEAD), at(CODE + 4));
        let state = bench.cpu.state();
        assert_eq!((state.cr3, state.gpr[1]), (OTHER, round * 2));
    }
}

#[test]
fn an_instruction_that_cannot_be_fetched_is_not_reached() {
    let mut bench = Bench::long().with_tables();
    let hole = 0x7000_0000;
    // JMP to the hole, whose page fault is handled by a HLT.
    let mut code = vec![0xe9];
    code.extend(((hole - (CODE + 5)) as i32).to_le_bytes());
    bench.poke(CODE, &code);
    bench.cpu.set_stops(&breakpoints(&[hole]));
    assert_eq!(go_on(&mut bench, AHEAD), Stop::Halted);
    assert_eq!(bench.handled(), Some(14));
}

#[test]
fn an_interrupt_goes_before_a_breakpoint() {
    let mut bench = Bench::long().with_tables();
    bench.poke(CODE, &LOOP);
    bench.change(|state| state.rflags |= crate::flags::rflags::IF);
    // The handler returns.
    bench.poke(tables::HANDLERS + 0x30 * 16, &[0x48, 0xcf]);
    bench.cpu.set_stops(&breakpoints(&[CODE + 2, tables::HANDLERS + 0x30 * 16]));
    assert_eq!(go_on(&mut bench, 2), at(CODE + 2));
    bench.board.interrupt = Some(0x30);
    assert_eq!(go_on(&mut bench, AHEAD), at(tables::HANDLERS + 0x30 * 16));
    assert_eq!(bench.cpu.position.0, 2);
    assert_eq!(go_on(&mut bench, AHEAD), at(CODE + 2));
    assert_eq!(bench.cpu.position.0, 3);
}

/// 32-bit code, 16-bit stack pointer arithmetic left aside: (code, first watched byte, bytes, kind,
/// the stop's address or none).
#[test]
fn accesses_stop_after_their_instruction() {
    let data = DATA as u32;
    let absolute = |opcode: &[u8], at: u32| [opcode, &at.to_le_bytes(), &[0x90]].concat();
    let (write, read, access) = (WatchKind::Write, WatchKind::Read, WatchKind::Access);
    for (code, start, bytes, kind, address, seen) in [
        // MOV [DATA], EAX; MOV EAX, [DATA]; ADD [DATA], EAX
        (absolute(&[0xa3], data), 0, 4, write, Some(0), write),
        (absolute(&[0xa3], data), 0, 4, read, None, write),
        (absolute(&[0xa3], data), 0, 4, access, Some(0), write),
        (absolute(&[0xa1], data), 0, 4, write, None, read),
        (absolute(&[0xa1], data), 0, 4, read, Some(0), read),
        (absolute(&[0xa1], data), 0, 4, access, Some(0), read),
        (absolute(&[0x01, 0x05], data), 0, 4, write, Some(0), write),
        (absolute(&[0x01, 0x05], data), 0, 4, read, Some(0), read),
        (absolute(&[0x01, 0x05], data), 0, 4, access, Some(0), write),
        // One byte of four, and the neighbours.
        (absolute(&[0xa3], data), 3, 1, write, Some(3), write),
        (absolute(&[0xa3], data), 4, 1, write, None, write),
        (absolute(&[0xa3], data + 4), 0, 4, write, None, write),
        (absolute(&[0xa3], data + 4), 0, 5, write, Some(4), write),
        // Across the page's end, watched on either side.
        (absolute(&[0xa3], data + 0xffe), 0xfff, 1, write, Some(0xfff), write),
        (absolute(&[0xa3], data + 0xffe), 0x1001, 1, write, Some(0x1001), write),
        (absolute(&[0xa3], data + 0xffe), 0x1002, 1, write, None, write),
        (absolute(&[0xa1], data + 0xffe), 0x1001, 1, read, Some(0x1001), read),
        // Long ranges: ends with its last byte.
        (absolute(&[0xa3], data + 0x2800), 0, 0x2801, write, Some(0x2800), write),
        (absolute(&[0xa3], data + 0x2800), 0, 0x2800, write, None, write),
        (absolute(&[0xa3], data), 0, u64::MAX, write, Some(0), write),
    ] {
        for engine in [Engine::Translator, Engine::Interpreter, Engine::Reference] {
            let mut bench = Bench::protected();
            bench.cpu.set_tuning(Tuning { engine, translate_after: 0, ..Tuning::default() });
            // Decoded and in the TLB before it is watched.
            assert_eq!(bench.run(&code, 1), Stop::Limit);
            bench.change(|state| state.rip = CODE);
            bench.cpu.set_stops(&watch(DATA + start, bytes, kind));
            let expected = match address {
                Some(address) => hit(0, DATA + address, seen),
                None => Stop::Limit,
            };
            let context = format!("{code:x?} {start:#x} {bytes:#x} {kind:?} {engine:?}");
            assert_eq!(go_on(&mut bench, 2), expected, "{context}");
            if address.is_some() {
                let state = bench.cpu.state();
                assert_eq!((state.position.0, state.rip), (2, CODE + code.len() as u64 - 1));
                assert_eq!(go_on(&mut bench, 1), Stop::Limit, "{context}");
            }
            bench.cpu.set_stops(&Stops::default());
            bench.change(|state| state.rip = CODE);
            assert_eq!(go_on(&mut bench, 2), Stop::Limit, "{context}");
        }
    }
}

#[test]
fn wide_stores_and_loads_are_seen() {
    // (code with RBX = DATA, last byte touched, kind)
    for (code, last, kind) in [
        (&[0x0f, 0x11, 0x03][..], 15, WatchKind::Write), // movups [rbx], xmm0
        (&[0x0f, 0x10, 0x03], 15, WatchKind::Read),      // movups xmm0, [rbx]
        (&[0x66, 0x0f, 0xd6, 0x03], 7, WatchKind::Write), // movq [rbx], xmm0
        (&[0x0f, 0x54, 0x03], 15, WatchKind::Read),      // andps xmm0, [rbx]
        (&[0x0f, 0xae, 0x03], 0x19f, WatchKind::Write),  // fxsave [rbx]
        (&[0xdb, 0x3b], 9, WatchKind::Write),            // fstp tbyte [rbx]
        (&[0x48, 0x0f, 0xc7, 0x0b], 15, WatchKind::Write), // cmpxchg16b [rbx]
        (&[0xf0, 0x48, 0x0f, 0xc1, 0x03], 7, WatchKind::Write), // lock xadd [rbx], rax
        (&[0x48, 0x87, 0x03], 7, WatchKind::Write),      // xchg [rbx], rax
        (&[0xff, 0x33], 7, WatchKind::Read),             // push [rbx]
        (&[0x8f, 0x03], 7, WatchKind::Write),            // pop [rbx]
        (&[0x0f, 0x01, 0x03], 9, WatchKind::Write),      // sgdt [rbx]
    ] {
        for (first, wanted) in [(DATA + last, true), (DATA + last + 1, false)] {
            let mut bench = Bench::long();
            bench.change(|state| state.gpr[3] = DATA);
            assert_eq!(bench.run(code, 1), Stop::Limit, "{code:x?}");
            bench.cpu.set_stops(&watch(first, 1, kind));
            bench.change(|state| state.rip = CODE);
            let expected = if wanted { hit(0, first, kind) } else { Stop::Limit };
            assert_eq!(go_on(&mut bench, 1), expected, "{code:x?} {first:#x}");
            assert_eq!(bench.cpu.state().rip, CODE + code.len() as u64);
        }
    }
}

#[test]
fn the_cpus_own_pushes_are_seen() {
    let mut bench = Bench::long().with_tables();
    bench.poke(CODE, &LOOP);
    bench.change(|state| state.rflags |= crate::flags::rflags::IF);
    bench.cpu.set_stops(&watch(STACK - 16, 8, WatchKind::Write));
    assert_eq!(go_on(&mut bench, 10), Stop::Limit);
    bench.board.interrupt = Some(0x30);
    // Watched on the way: RSP's slot of the frame.
    assert_eq!(go_on(&mut bench, 10), hit(0, STACK - 16, WatchKind::Write));
    let state = bench.cpu.state();
    assert_eq!((state.position.0, state.rip), (10, tables::HANDLERS + 0x30 * 16));
    // A page fault's frame too.
    let mut bench = Bench::long().with_tables();
    bench.poke(CODE, &[0xa0, 0, 0, 0, 0, 1, 0, 0, 0]);
    bench.cpu.set_stops(&watch(STACK - 8, 1, WatchKind::Access));
    assert_eq!(go_on(&mut bench, 10), hit(0, STACK - 8, WatchKind::Write));
    let state = bench.cpu.state();
    assert_eq!((state.position.0, state.rip), (0, tables::HANDLERS + 14 * 16));
    assert_eq!(go_on(&mut bench, 10), Stop::Halted);
}

#[test]
fn descriptors_that_become_accessed_are_stores() {
    let mut bench = Bench::protected().with_tables();
    let descriptor = crate::testing::segment_descriptor(0, 0xfffff, 0x92, 0xc);
    bench.set_descriptor(tables::FREE, descriptor);
    bench.change(|state| state.gpr[0] = tables::FREE.into());
    let access_byte = tables::GDT + u64::from(tables::FREE) + 5;
    bench.cpu.set_stops(&watch(access_byte, 1, WatchKind::Write));
    // MOV DS, EAX, twice: the second finds it accessed.
    bench.poke(CODE, &[0x8e, 0xd8, 0x8e, 0xd8]);
    assert!(matches!(go_on(&mut bench, 2), Stop::Watchpoint(_)));
    assert_eq!(bench.cpu.position.0, 1);
    assert_eq!(go_on(&mut bench, 1), Stop::Limit);
}

const REP_MOVSB: [u8; 2] = [0xf3, 0xa4];

#[test]
fn a_repetition_is_done_when_it_stops() {
    // (watched offset in the target, bytes, seen at): the copy takes 0x2800 bytes to DATA + 3.
    for (start, bytes, address) in [
        (0, 3, None),
        (0, 4, Some(3)),
        (3, 1, Some(3)),
        (0x1800, 2, Some(0x1800)),
        (0xff0, 0x1020, Some(0xff0)),
        (0x2802, 1, Some(0x2802)),
        (0x2803, 1, None),
    ] {
        for (kind, base) in [(WatchKind::Write, DATA), (WatchKind::Read, DATA + 0x8000)] {
            let mut bench = Bench::long();
            let pattern: Vec<u8> = (0..0x2800).map(|n| (n * 7 + n / 256) as u8).collect();
            bench.poke(DATA + 0x8003, &pattern);
            bench.poke(CODE, &REP_MOVSB);
            bench.change(|state| {
                (state.gpr[6], state.gpr[7]) = (DATA + 0x8003, DATA + 3);
                state.gpr[1] = 0x2800;
            });
            bench.cpu.set_stops(&watch(base + start, bytes, kind));
            let expected = match address {
                Some(address) => hit(0, base + address, kind),
                None => Stop::Limit,
            };
            assert_eq!(go_on(&mut bench, 1), expected, "{start:#x} {bytes:#x} {kind:?}");
            let state = bench.cpu.state();
            assert_eq!((state.position.0, state.rip, state.gpr[1]), (1, CODE + 2, 0));
            assert!(bench.peek::<0x2800>(DATA + 3)[..] == pattern);
        }
    }
}

/// What was accessed before a fault is told even so: the elements are done.
#[test]
fn a_repetition_that_faults_tells_what_it_did() {
    for (watched, kind) in [(DATA, WatchKind::Read), (0x3f_fff8, WatchKind::Write)] {
        let mut bench = Bench::long().with_tables();
        bench.poke(CODE, &REP_MOVSB);
        // Eight bytes of target are left before nothing is mapped.
        bench.change(|state| {
            (state.gpr[6], state.gpr[7], state.gpr[1]) = (DATA, 0x3f_fff8, 100);
        });
        bench.cpu.set_stops(&watch(watched, 1, kind));
        assert_eq!(go_on(&mut bench, 10), hit(0, watched, kind));
        let state = bench.cpu.state();
        assert_eq!((state.position.0, state.gpr[1]), (0, 92));
        assert_eq!(state.rip, tables::HANDLERS + 14 * 16);
    }
}

/// A load whose instruction then faults is told of when the instruction completes.
#[test]
fn an_instruction_that_faults_did_not_load() {
    let mut bench = Bench::long().with_tables();
    // MOVSB from DATA to where nothing is mapped.
    bench.poke(CODE, &[0xa4]);
    bench.change(|state| (state.gpr[6], state.gpr[7]) = (DATA, 0x7000_0000));
    bench.cpu.set_stops(&watch(DATA, 1, WatchKind::Read));
    assert_eq!(go_on(&mut bench, 10), Stop::Halted);
    assert_eq!(bench.handled(), Some(14));
}

#[test]
fn a_watchpoint_belongs_to_its_space() {
    const OTHER: u64 = 0x30_0000;
    let mut bench = Bench::long();
    bench.poke(OTHER, &0x2007u64.to_le_bytes());
    // MOV CR3, RAX; XCHG RAX, RDX; INC qword [RBX]; JMP back
    let code = [0x0f, 0x22, 0xd8, 0x48, 0x92, 0x48, 0xff, 0x03, 0xeb, 0xf6];
    bench.poke(CODE, &code);
    bench.change(|state| {
        (state.gpr[0], state.gpr[2], state.gpr[3]) = (OTHER, 0x1000, DATA);
    });
    let mut stops = watch(DATA, 8, WatchKind::Write);
    stops.watchpoints[0].space = Some(Gpa(0x1000));
    bench.cpu.set_stops(&stops);
    for round in 0..4 {
        assert_eq!(go_on(&mut bench, AHEAD), hit(0, DATA, WatchKind::Write));
        assert_eq!(u64::from_le_bytes(bench.peek(DATA)), 2 + 2 * round);
        assert_eq!(bench.cpu.cr3, 0x1000);
    }
}

#[test]
fn every_watchpoint_of_an_instruction_is_told() {
    let mut bench = Bench::long();
    // MOVSQ: a load from DATA + 0x100, a store to DATA.
    bench.poke(CODE, &[0x48, 0xa5]);
    bench.change(|state| (state.gpr[6], state.gpr[7]) = (DATA + 0x100, DATA));
    let watchpoint =
        |start, bytes, kind| Watchpoint { start: Gva(start), bytes, kind, space: None };
    let watchpoints = vec![
        watchpoint(DATA, 1, WatchKind::Write),
        watchpoint(DATA + 4, 0x1000, WatchKind::Access),
        watchpoint(DATA + 8, 1, WatchKind::Access),
        watchpoint(DATA + 0x107, 1, WatchKind::Read),
        watchpoint(DATA, 0, WatchKind::Access),
    ];
    bench.cpu.set_stops(&Stops { breakpoints: vec![], watchpoints });
    assert_eq!(go_on(&mut bench, 1), hit(1, DATA + 4, WatchKind::Write));
    let hits: Vec<_> =
        bench.cpu.watch_hits().map(|hit| (hit.index, hit.address.0, hit.kind)).collect();
    let expected = [
        (1, DATA + 4, WatchKind::Write),
        (3, DATA + 0x107, WatchKind::Read),
        (0, DATA, WatchKind::Write),
    ];
    assert_eq!(hits, expected);
}

/// Real mode: linear addresses with a segment's base, and the stack.
#[test]
fn real_mode_is_watched() {
    let mut bench = Bench::real();
    bench.change(|state| state.seg[2].base = STACK);
    // PUSH AX
    bench.poke(CODE, &[0x50]);
    bench.cpu.set_stops(&watch(STACK + 0xffee, 2, WatchKind::Write));
    assert_eq!(go_on(&mut bench, 1), hit(0, STACK + 0xffee, WatchKind::Write));
}

/// An access that wraps at 4 GiB touches both ends.
#[test]
fn an_access_around_4_gib_touches_both_ends() {
    for (start, wanted) in [(0xffff_ffff, true), (1, true), (2, false)] {
        let mut bench = Bench::protected();
        // MOV [DS base + 0xfffe], EAX: linear 0xfffffffe.
        bench.change(|state| state.seg[SegReg::Ds as usize].base = 0xffff_0000);
        bench.poke(CODE, &[0xa3, 0xfe, 0xff, 0, 0]);
        bench.cpu.set_stops(&watch(start, 1, WatchKind::Write));
        let stop = go_on(&mut bench, 1);
        assert_eq!(stop == hit(0, start, WatchKind::Write), wanted, "{start:#x}: {stop:?}");
    }
}

/// The guest's own debug registers and single steps go on beside ours.
#[test]
fn the_guests_breakpoints_stay_its_own() {
    let mut ends = Vec::new();
    for own in [true, false] {
        let mut bench = Bench::protected().with_tables();
        bench.poke(CODE, &LOOP);
        bench.poke(tables::HANDLERS + 16, &[0xf4]);
        bench.change(|state| {
            (state.dr[0], state.dr[1]) = (CODE + 3, STACK - 4);
            state.dr[7] = 0x400 | 1 | 0b1101 << 20 | 4;
        });
        if own {
            let mut stops = breakpoints(&[CODE + 2, CODE + 3, tables::HANDLERS + 16]);
            stops.watchpoints = watch(STACK - 4, 4, WatchKind::Write).watchpoints;
            bench.cpu.set_stops(&stops);
            assert_eq!(go_on(&mut bench, AHEAD), at(CODE + 2));
            // Ours goes first; then the guest's #DB pushes its frame.
            assert_eq!(go_on(&mut bench, AHEAD), at(CODE + 3));
            assert_eq!(go_on(&mut bench, AHEAD), hit(0, STACK - 4, WatchKind::Write));
            assert_eq!(bench.cpu.rip, tables::HANDLERS + 16);
            assert_eq!(bench.cpu.breakpoint_here(&bench.ram), Some(Gva(tables::HANDLERS + 16)));
        }
        assert_eq!(go_on(&mut bench, AHEAD), Stop::Halted);
        assert_eq!(bench.handled(), Some(1));
        assert_eq!(bench.cpu.dr[6] & 0xf, 3, "the handler's frame hit the other one");
        ends.push(bench.cpu.state());
    }
    assert_eq!(ends[0], ends[1]);
}

/// 16-byte accesses on a watched page that touch no watched byte, and those across its end.
#[test]
fn a_watched_pages_other_bytes_are_as_ever() {
    for engine in [Engine::Translator, Engine::Interpreter, Engine::Reference] {
        let mut bench = Bench::long();
        bench.cpu.set_tuning(Tuning { engine, translate_after: 0, ..Tuning::default() });
        bench.change(|state| {
            state.gpr[3] = DATA + 0xff8;
            state.gpr[6] = DATA + 0x20;
            state.xmm[0] = 0x1111_2222_3333_4444_5555_6666_7777_8888;
        });
        bench.cpu.set_stops(&watch(DATA + 0x40, 1, WatchKind::Access));
        // movups [rbx], xmm0; movups [rsi], xmm0; movups xmm1, [rbx]; inc qword [rsi]; jmp back
        let code =
            [0x0f, 0x11, 0x03, 0x0f, 0x11, 0x06, 0x0f, 0x10, 0x0b, 0x48, 0xff, 0x06, 0xeb, 0xf2];
        assert_eq!(bench.run(&code, 24), Stop::Limit);
        let state = bench.cpu.state();
        assert_eq!(state.xmm[1], state.xmm[0]);
        assert_eq!(u128::from_le_bytes(bench.peek(DATA + 0xff8)), state.xmm[0]);
        assert_eq!(u128::from_le_bytes(bench.peek(DATA + 0x20)), state.xmm[0] + 1);
        // Made a page table meanwhile, or code: the right to store was taken back in time.
        bench.poke(DATA + 0x100, &[0xb8, 1, 0, 0, 0, 0xc3]);
        bench.change(|state| {
            state.rip = CODE;
            state.gpr[6] = DATA + 0x101;
            state.gpr[7] = DATA + 0x100;
        });
        // L: inc byte [rsi]; call rdi; jmp L
        let code = [0xfe, 0x06, 0xff, 0xd7, 0xeb, 0xfa];
        assert_eq!(bench.run(&code, 5 * 20), Stop::Limit);
        assert_eq!(bench.cpu.state().gpr[0], 21, "{engine:?}");
    }
}

/// An instruction that reads, computes with the flags it changes, and writes, is executed once.
#[test]
fn watched_instructions_are_executed_once() {
    for code in [
        &[0x48, 0x11, 0x03][..],         // adc [rbx], rax
        &[0x48, 0x19, 0x03],             // sbb [rbx], rax
        &[0x48, 0xd1, 0x13],             // rcl qword [rbx], 1
        &[0x48, 0xff, 0x03],             // inc qword [rbx]
        &[0x48, 0xf7, 0x1b],             // neg qword [rbx]
        &[0x48, 0x0f, 0xb1, 0x13],       // cmpxchg [rbx], rdx
        &[0x48, 0x0f, 0xc1, 0x03],       // xadd [rbx], rax
        &[0x48, 0x0f, 0xbb, 0x03],       // btc [rbx], rax
        &[0x48, 0x0f, 0xa4, 0x03, 0x05], // shld [rbx], rax, 5
        &[0x50],                         // push rax
        &[0x8f, 0x03],                   // pop [rbx]
        &[0xff, 0x33],                   // push [rbx]
        &[0xc8, 0x20, 0, 3],             // enter 32, 3
        &[0xff, 0x13],                   // call [rbx]
        &[0x48, 0xa5],                   // movsq
        &[0x0f, 0xae, 0x1b],             // stmxcsr [rbx]
    ] {
        let mut states = Vec::new();
        for kind in [None, Some(WatchKind::Write), Some(WatchKind::Read), Some(WatchKind::Access)] {
            let mut bench = Bench::long();
            bench.change(|state| {
                state.gpr[0] = 7;
                state.gpr[2] = 0x55;
                (state.gpr[3], state.gpr[6], state.gpr[7]) = (DATA, DATA + 8, DATA);
                (state.gpr[4], state.gpr[5]) = (DATA + 0x80, DATA + 0x100);
                state.rflags |= 1;
            });
            bench.poke(DATA, &(CODE + 0x100).to_le_bytes());
            if let Some(kind) = kind {
                bench.cpu.set_stops(&watch(DATA - 0x100, 0x400, kind));
            }
            // Then it goes round and round, where it falls or where it calls.
            bench.poke(CODE, &[code, &[0xeb, 0xfe]].concat());
            bench.poke(CODE + 0x100, &[0xeb, 0xfe]);
            let mut stops = 0;
            loop {
                let left = 100 - bench.cpu.position.0;
                if go_on(&mut bench, left) == Stop::Limit {
                    break;
                }
                assert_eq!(bench.cpu.position.0, 1, "{code:x?}");
                stops += 1;
            }
            if kind != Some(WatchKind::Read) && kind != Some(WatchKind::Write) {
                assert_eq!(stops, usize::from(kind.is_some()), "{code:x?}");
            }
            states.push((bench.cpu.state(), bench.peek::<0x400>(DATA - 0x100)));
        }
        for watched in &states[1..] {
            assert!(*watched == states[0], "{code:x?}");
        }
    }
}

/// A page whose translation is cached for the slow path is mapped elsewhere.
#[test]
fn a_watched_page_follows_its_table() {
    const LINEAR: u64 = 0x8000_0000;
    const TABLE: u64 = 0xb000;
    let mut bench = Bench::long();
    bench.poke(0x2010, &0xa007u64.to_le_bytes());
    bench.poke(0xa000, &(TABLE | 7).to_le_bytes());
    bench.poke(TABLE, &(DATA | 7).to_le_bytes());
    bench.poke(DATA, &[1; 8]);
    bench.poke(DATA + 0x1000, &[2; 8]);
    bench.change(|state| {
        (state.gpr[0], state.gpr[3], state.gpr[6]) = ((DATA + 0x1000) | 7, LINEAR, TABLE);
    });
    bench.cpu.set_stops(&watch(LINEAR + 0x800, 1, WatchKind::Access));
    // mov cl, [rbx]; mov cl, [rbx]; mov [rbx + 8], cl; mov [rsi], rax; mov dl, [rbx]; mov [rbx + 8], dl
    let code =
        [0x8a, 0x0b, 0x8a, 0x0b, 0x88, 0x4b, 0x08, 0x48, 0x89, 0x06, 0x8a, 0x13, 0x88, 0x53, 0x08];
    assert_eq!(bench.run(&[&code[..], &[0xeb, 0xfe]].concat(), 20), Stop::Limit);
    let state = bench.cpu.state();
    assert_eq!((state.gpr[1] & 0xff, state.gpr[2] & 0xff), (1, 2));
    assert_eq!((bench.peek(DATA + 8), bench.peek(DATA + 0x1008)), ([1], [2]));
}

/// The last page of the 64-bit address space, and an access around its end.
#[test]
fn the_end_of_the_address_space_is_watched() {
    const LAST_PAGE: u64 = 0xffff_ffff_ffff_f000;
    for (code, address, count, watched) in [
        (&[0xf3, 0xaa][..], LAST_PAGE, 0x1000, u64::MAX), // rep stosb
        (&[0xf3, 0xaa], LAST_PAGE, 0xfff, u64::MAX - 1),
        (&[0x48, 0xab], u64::MAX - 3, 0, u64::MAX), // stosq
        (&[0x48, 0xab], u64::MAX - 3, 0, 3),
    ] {
        let mut bench = Bench::long();
        for (table, next) in [(0x1ff8, 0xa007u64), (0xaff8, 0xb007), (0xbff8, 0x20_0087)] {
            bench.poke(table, &next.to_le_bytes());
        }
        bench.poke(CODE, code);
        bench.change(|state| (state.gpr[7], state.gpr[1]) = (address, count));
        // A length that would go around ends with the address space.
        let bytes = if watched < LAST_PAGE { 1 } else { u64::MAX };
        bench.cpu.set_stops(&watch(watched, bytes, WatchKind::Write));
        assert_eq!(go_on(&mut bench, 1), hit(0, watched, WatchKind::Write), "{address:#x}");
        bench.cpu.set_stops(&watch(4, LAST_PAGE - 4, WatchKind::Access));
        bench.change(|state| (state.rip, state.gpr[7], state.gpr[1]) = (CODE, address, count));
        assert_eq!(go_on(&mut bench, 1), Stop::Limit, "{address:#x}");
    }
}

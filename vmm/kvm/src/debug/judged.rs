//! A debugger's stops in debug registers, on a **stand-in**: no host of ours has a KVM whose debug registers tell of all that guests do, so
//! the processor is the software CPU, with its own debug registers (SDM vol. 3B, 18.2), which know nothing of debuggers. It gets what the
//! kernel would get, a `#DB` is what the kernel would come out with, and the stop must be the one that the software CPU's debugger
//! finds, which knows nothing of debug registers.

use super::*;
use crate::nobody::Nobody;
use dejavm_cpu::{
    Breakpoint, CpuState, Model, Rights, SegReg, Segment, Stop, TableRegister, Watchpoint, control,
    gpr, rflags,
};
use dejavm_memory::{GuestRam, RamLayout};
use dejavm_units::{Gpa, Position};

const GDT: u64 = 0x4000;
const IDT: u64 = 0x5000;
/// A HLT, where `#DB` leads.
const HANDLER: u64 = 0x8000;
const CODE: u64 = 0x1_0000;
const STACK: u64 = 0x2_0000;
const DATA: u64 = 0x3_0000;
/// Bytes of data that are accessed and watched.
const DATA_BYTES: u64 = 24;
const INSTRUCTIONS: u64 = 60;
const ROUNDS: u64 = 100;
const FAR: Position = Position(1 << 40);
/// Vector of `#DB`, and B0 to B3 in DR6.
const DB: u64 = 1;
const B0_TO_B3: u64 = 0xf;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % bound
    }
}

/// Stores, loads and both, of 1, 2 and 4 bytes, aligned or not, and NOPs; HLT at the end. And where its instructions begin.
fn program(random: &mut Random) -> (Vec<u8>, Vec<u64>) {
    let (mut code, mut starts) = (Vec::new(), Vec::new());
    for _ in 0..INSTRUCTIONS {
        starts.push(CODE + code.len() as u64);
        let address = (DATA + random.below(DATA_BYTES)) as u32;
        // MOV [address], AL or EAX; MOV AL or EAX, [address]; INC byte or dword [address]
        let opcode: &[u8] = match random.below(8) {
            0 => &[0xa2],
            1 => &[0xa3],
            2 => &[0x66, 0xa3],
            3 => &[0xa0],
            4 => &[0xa1],
            5 => &[0xfe, 0x05],
            6 => &[0xff, 0x05],
            _ => {
                code.push(0x90);
                continue;
            }
        };
        code.extend_from_slice(opcode);
        code.extend_from_slice(&address.to_le_bytes());
    }
    code.push(0xf4);
    (code, starts)
}

/// Breakpoints and watchpoints, never more than debug registers hold.
fn stops(random: &mut Random, starts: &[u64]) -> Stops {
    loop {
        let mut stops = Stops::default();
        for _ in 0..random.below(3) {
            let at = Gva(starts[random.below(starts.len() as u64) as usize]);
            stops.breakpoints.push(Breakpoint { at, space: None });
        }
        for _ in 0..random.below(3) {
            let start = Gva(DATA + random.below(DATA_BYTES));
            let bytes = 1 + random.below(8);
            let kind = [WatchKind::Write, WatchKind::Access][random.below(2) as usize];
            stops.watchpoints.push(Watchpoint { start, bytes, kind, space: None });
        }
        if assign(&stops).is_some() {
            return stops;
        }
    }
}

fn start() -> CpuState {
    let flat = |selector, rights| Segment { selector, base: 0, limit: u32::MAX, rights };
    let mut state = CpuState::reset();
    state.cr0 |= control::CR0_PE;
    state.seg = [flat(0x10, Rights(0xc93)); 6];
    state.seg[SegReg::Cs as usize] = flat(0x08, Rights(0xc9b));
    state.gdtr = TableRegister { base: GDT, limit: 0x17 };
    state.idtr = TableRegister { base: IDT, limit: 0x7ff };
    state.rip = CODE;
    state.gpr[gpr::RSP] = STACK;
    state
}

/// RAM with the program, the tables, and a handler of `#DB` at whose HLT the processor has left.
fn memory(code: &[u8]) -> GuestRam {
    let mut ram = GuestRam::new(RamLayout::new(2 << 20).expect("a size")).expect("memory");
    let mut poke = |at, bytes: &[u8]| ram.write(Gpa(at), bytes).expect("there is RAM");
    poke(CODE, code);
    poke(HANDLER, &[0xf4]);
    poke(GDT + 8, &0x00cf_9b00_0000_ffff_u64.to_le_bytes());
    poke(GDT + 16, &0x00cf_9300_0000_ffff_u64.to_le_bytes());
    let gate = HANDLER & 0xffff | 0x08 << 16 | 0x8e00 << 32 | (HANDLER >> 16) << 48;
    poke(IDT + DB * 8, &gate.to_le_bytes());
    ram
}

/// The stand-in goes on from a state with these debug registers set: DR6 and where it stands if it came out, else `None`.
fn come_out(
    cpu: &mut Cpu,
    from: &CpuState,
    registers: [u64; 8],
    passes: bool,
    ram: &mut GuestRam,
) -> Option<(u64, u64)> {
    let mut state = from.clone();
    for n in [0, 1, 2, 3, 7] {
        state.dr[n] = registers[n];
    }
    // Past a breakpoint that was told of.
    if passes {
        state.rflags |= rflags::RF;
    }
    cpu.set_state(&state);
    assert_eq!(cpu.run_until(ram, &mut Nobody, FAR), Stop::Halted);
    let state = cpu.state();
    if state.rip != HANDLER + 1 {
        return None;
    }
    let mut frame = [0; 4];
    ram.read(Gpa(state.gpr[gpr::RSP]), &mut frame).expect("there is RAM");
    Some((state.dr[6] & B0_TO_B3, u32::from_le_bytes(frame).into()))
}

#[test]
fn debug_registers_stop_where_a_debugger_stops() {
    let (mut breakpoints, mut watchpoints) = (0, 0);
    let mut cpus = [Cpu::new(Model::V2, 0), Cpu::new(Model::V2, 0)];
    let [cpu, stand_in] = &mut cpus;
    for seed in 0..ROUNDS {
        let mut random = Random(seed);
        let (code, starts) = program(&mut random);
        let stops = stops(&mut random, &starts);
        let told = Told { executed: true, accessed: true };
        let plan = Plan::of(&stops, told);
        let request = guest_debug::request(&plan.request());
        let (mut ram, mut others) = (memory(&code), memory(&code));
        cpu.set_state(&start());
        cpu.set_stops(&stops);
        loop {
            let here = cpu.state();
            cpu.pass_stop();
            let passes = stops.breakpoints.iter().any(|stop| stop.at.0 == here.rip);
            let out = come_out(stand_in, &here, request.arch.debugreg, passes, &mut others);
            let stop = cpu.run_until(&mut ram, &mut Nobody, FAR);
            let what = format!("seed {seed}, at {:#x}: {stops:x?}", here.rip);
            if stop == Stop::Halted {
                assert_eq!(out, None, "{what}");
                break;
            }
            let (dr6, rip) = out.unwrap_or_else(|| panic!("{stop:x?} is not found; {what}"));
            assert_eq!(rip, cpu.state().rip, "{stop:x?}; {what}");
            let Plan::Registers(registers) = &plan else { panic!("{what}") };
            match (registers.hit(dr6, cpu), stop) {
                (None, Stop::Breakpoint { at }) => {
                    assert_eq!(at.0, rip, "{what}");
                    breakpoints += 1;
                }
                (Some(hit), Stop::Watchpoint(_)) => {
                    // Of several that one instruction hits, either may be told. Which byte it was, a register does not tell.
                    let is_same = |expected: WatchHit| {
                        (hit.index, hit.kind) == (expected.index, expected.kind)
                            && hit.address.0.abs_diff(expected.address.0) < 8
                    };
                    let expected: Vec<_> = cpu.watch_hits().collect();
                    assert!(
                        expected.iter().copied().any(is_same),
                        "{hit:x?} {expected:x?}; {what}"
                    );
                    watchpoints += 1;
                }
                (hit, stop) => panic!("{hit:x?}, and {stop:x?}; {what}"),
            }
        }
    }
    assert!(breakpoints > 50 && watchpoints > 200, "{breakpoints}, {watchpoints}");
}

//! Arbitrary bytes as guest code, in each mode of the CPU.

use dejavm_cpu::{CpuState, Engine, Rights, SegReg, Segment, TableRegister, Tuning, control, gpr};
use dejavm_machine::{Boot, Idle, Machine, MachineConfig, Stop};
use dejavm_memory::{GuestRam, RamLayout};
use dejavm_units::{Gpa, GuestNs, Position};
use std::time::{Duration, Instant};

/// The mode that the code starts in; it may leave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the manual's names")]
pub enum Mode {
    Real,
    Protected,
    /// Protected mode with 2-level paging.
    Paged,
    Long,
}

impl Mode {
    /// All of them.
    pub const ALL: [Mode; 4] = [Mode::Real, Mode::Protected, Mode::Paged, Mode::Long];
}

/// Where things are in the guest's RAM; all below 64 KiB for real mode's sake.
const GDT: u64 = 0x500;
const IDT: u64 = 0x1000;
const HANDLER: u64 = 0x2000;
/// Room for each of them.
const HANDLER_BYTES: u64 = 0x20;
const DATA: u64 = 0x3000;
const CODE: u64 = 0x4000;
const STACK_TOP: u64 = 0xf000;
const TABLES: u64 = 0x2_0000;
const CODE_MAX: usize = 0x2000;
const RAM_BYTES: u64 = 2 << 20;
/// Waits in HLT before the guest is given up, and time.
const IDLES_MAX: u32 = 100;
const PATIENCE: Duration = Duration::from_millis(20);
/// Instructions between two looks at the time.
const SLICE: u64 = 16;
/// With so much in ECX the next may be a long repetition over device memory, and then so are those after it: the same one goes on.
const LONG_REPETITION: u64 = 1 << 20;

/// Runs `code` for so many instructions. All general registers and the data page are filled from it
/// too, so that addresses come near what exists. Returns how many instructions completed.
pub fn guest_code(mode: Mode, code: &[u8], instructions: u64) -> u64 {
    let mut machine = machine(mode, code);
    // A long repetition over device memory counts as one instruction for 2^22 elements, and takes a quarter of a second.
    let begun = Instant::now();
    let mut idles = 0;
    while idles < IDLES_MAX && begun.elapsed() < PATIENCE {
        let until = Position(instructions.min(machine.position().0 + slice(&machine)));
        match machine.run(until) {
            Stop::Limit if until.0 < instructions => {}
            Stop::Limit | Stop::End(_) => break,
            Stop::Idle { wake } => {
                let limit = wake.unwrap_or(GuestNs(machine.guest_ns().0.saturating_add(1_000_000)));
                let (Idle::Runnable | Idle::Waiting) = machine.idle_until(limit);
                idles += 1;
            }
            Stop::Breakpoint { .. } | Stop::Watchpoint { .. } => unreachable!("no stops are set"),
        }
        machine.take_output();
    }
    // A state that can be reached can be saved, and taken again.
    let saved = machine.save();
    machine.restore(&saved).expect("a state that was reached can be restored");
    machine.position().0
}

/// How many instructions to run before the next look.
fn slice(machine: &Machine) -> u64 {
    let counter = machine.cpu_state().gpr[gpr::RCX] & 0xffff_ffff;
    if counter < LONG_REPETITION { SLICE } else { 1 }
}

/// As [`guest_code`], by host code from every block's first or second entry on and by the reference semantics,
/// which must do the same.
///
/// # Panics
/// If they do not.
pub fn translated_code(mode: Mode, code: &[u8], instructions: u64) -> u64 {
    let mut machines = [machine(mode, code), machine(mode, code)];
    let [translated, reference] = &mut machines;
    translated.set_tuning(Tuning { translate_after: code.len() as u8 & 1, ..Tuning::default() });
    reference.set_tuning(Tuning { engine: Engine::Reference, ..Tuning::default() });
    let begun = Instant::now();
    let mut idles = 0;
    while idles < IDLES_MAX && begun.elapsed() < PATIENCE {
        let until = Position(instructions.min(machines[0].position().0 + slice(&machines[0])));
        let stops = machines.each_mut().map(|machine| machine.run(until));
        assert_eq!(stops[0], stops[1], "before position {until}");
        let states = machines.each_ref().map(Machine::save);
        assert!(states[0] == states[1], "{:#?}\nor\n{:#?}", states[0].cpu, states[1].cpu);
        let outputs = machines.each_mut().map(Machine::take_output);
        assert_eq!(outputs[0], outputs[1], "before position {until}");
        match stops[0] {
            Stop::Limit if until.0 < instructions => {}
            Stop::Limit | Stop::End(_) => break,
            Stop::Idle { wake } => {
                let now = machines[0].guest_ns().0;
                let limit = wake.unwrap_or(GuestNs(now.saturating_add(1_000_000)));
                for machine in &mut machines {
                    let (Idle::Runnable | Idle::Waiting) = machine.idle_until(limit);
                }
                idles += 1;
            }
            Stop::Breakpoint { .. } | Stop::Watchpoint { .. } => unreachable!("no stops are set"),
        }
    }
    let dirty = machines.each_mut().map(|machine| machine.ram_mut().take_dirty());
    assert_eq!(dirty[0], dirty[1], "the pages that were written");
    for pfn in &dirty[0] {
        let mut pages = [[0; 4096]; 2];
        for (page, machine) in pages.iter_mut().zip(&machines) {
            machine.ram().read(pfn.gpa(), page).expect("it was written");
        }
        let at = (0..4096).find(|&at| pages[0][at] != pages[1][at]);
        assert_eq!(at, None, "the page at {}", pfn.gpa());
    }
    machines[0].position().0
}

/// A machine that is about to execute `code`.
fn machine(mode: Mode, code: &[u8]) -> Machine {
    let code = &code[..code.len().min(CODE_MAX)];
    let config = MachineConfig::new(RamLayout::new(RAM_BYTES).expect("a constant that fits"));
    let boot = Boot { image: dejavm_images::HELLO, initrd: None, cmdline: "" };
    let mut machine = Machine::boot(&config, &boot).expect("our own guest boots");
    write_surroundings(mode, machine.ram_mut());
    write(machine.ram_mut(), CODE, code);
    write(machine.ram_mut(), DATA, code.get(..0x1000).unwrap_or(code));
    let mut state = machine.save();
    state.cpu = registers(mode, code);
    machine.restore(&state).expect("a state of our own");
    machine
}

fn write(ram: &mut GuestRam, at: u64, bytes: &[u8]) {
    ram.write(Gpa(at), bytes).expect("it lies in RAM");
}

/// Which handler a vector has: one that returns (0), one that goes on a byte behind the instruction that faulted, which would do so
/// again for ever (1), and that with an error code on the stack (2).
fn handler_of(mode: Mode, vector: u64) -> usize {
    match vector {
        8 | 10..=14 | 17 | 21 if mode != Mode::Real => 2,
        0 | 5..=14 | 16 | 17 | 19 => 1,
        _ => 0,
    }
}

/// Descriptor tables, handlers, page tables.
fn write_surroundings(mode: Mode, ram: &mut GuestRam) {
    let code = if mode == Mode::Long { 0x00af_9b00_0000_ffffu64 } else { 0x00cf_9b00_0000_ffff };
    let gdt =
        [0, 0, code, 0x00cf_9300_0000_ffff, 0x00cf_fb00_0000_ffff, 0x00cf_f300_0000_ffff, 0, 0];
    for (index, descriptor) in gdt.iter().enumerate() {
        write(ram, GDT + 8 * index as u64, &u64::to_le_bytes(*descriptor));
    }
    for vector in 0..256 {
        let handler = HANDLER + HANDLER_BYTES * handler_of(mode, vector) as u64;
        let gate = (0x8e00 << 32 | 0x10 << 16 | handler).to_le_bytes();
        match mode {
            Mode::Real => write(ram, 4 * vector, &(handler as u32).to_le_bytes()),
            Mode::Protected | Mode::Paged => write(ram, IDT + 8 * vector, &gate),
            Mode::Long => write(ram, IDT + 16 * vector, &gate),
        }
    }
    // They complete an instruction before they fault themselves, so that the budget ends them long before they are taken for
    // endless.
    let handlers: [&[u8]; 3] = match mode {
        // nop; iret. nop; push bp; mov bp, sp; inc word [bp + 2]; pop bp; iret.
        Mode::Real => [&[0x90, 0xcf], b"\x90\x55\x89\xe5\xff\x46\x02\x5d\xcf", &[]],
        // nop; iretd. nop; inc dword [esp]; iretd. nop; add esp, 4; inc dword [esp]; iretd.
        Mode::Protected | Mode::Paged => {
            [&[0x90, 0xcf], b"\x90\xff\x04\x24\xcf", b"\x90\x83\xc4\x04\xff\x04\x24\xcf"]
        }
        // The same of 64 bits.
        Mode::Long => [
            &[0x90, 0x48, 0xcf],
            b"\x90\x48\xff\x04\x24\x48\xcf",
            b"\x90\x48\x83\xc4\x08\x48\xff\x04\x24\x48\xcf",
        ],
    };
    for (at, handler) in (HANDLER..).step_by(HANDLER_BYTES as usize).zip(handlers) {
        write(ram, at, handler);
    }
    match mode {
        Mode::Real | Mode::Protected => {}
        Mode::Paged => {
            // 4 MiB pages, user and supervisor, writable.
            for entry in 0..1024u32 {
                let bytes = (entry << 22 | 0x87).to_le_bytes();
                write(ram, TABLES + 4 * u64::from(entry), &bytes);
            }
        }
        Mode::Long => {
            write(ram, TABLES, &((TABLES + 0x1000) | 7).to_le_bytes());
            write(ram, TABLES + 0x1000, &((TABLES + 0x2000) | 7).to_le_bytes());
            for entry in 0..512 {
                write(ram, TABLES + 0x2000 + 8 * entry, &(entry << 21 | 0x87).to_le_bytes());
            }
        }
    }
}

fn registers(mode: Mode, code: &[u8]) -> CpuState {
    let mut cpu = CpuState::reset();
    for (n, register) in cpu.gpr.iter_mut().enumerate() {
        let byte = |k: usize| u64::from(code.get(8 * n + k).copied().unwrap_or(0));
        // Near the data page, or anything.
        *register = match byte(7) % 4 {
            0 => (0..8).map(|k| byte(k) << (8 * k)).sum(),
            1 => byte(0),
            _ => DATA + byte(0) * 8 + byte(1),
        };
    }
    cpu.gpr[gpr::RSP] = STACK_TOP;
    cpu.rip = CODE;
    // Interrupts on for half of them.
    cpu.rflags = 2 | (code.len() as u64 & 1) << 9;
    let (code_rights, flat) = match mode {
        Mode::Real => (0x9b, false),
        Mode::Protected | Mode::Paged => (0xc9b, true),
        Mode::Long => (0xa9b, true),
    };
    let segment = |selector, rights| match flat {
        true => Segment { selector, base: 0, limit: u32::MAX, rights: Rights(rights) },
        false => Segment { selector: 0, base: 0, limit: 0xffff, rights: Rights(rights) },
    };
    cpu.seg = [segment(0x18, if flat { 0xc93 } else { 0x93 }); 6];
    cpu.seg[SegReg::Cs as usize] = segment(0x10, code_rights);
    cpu.gdtr = TableRegister { base: GDT, limit: 63 };
    cpu.tr = Segment { selector: 0, base: 0, limit: 0x67, rights: Rights(0x8b) };
    cpu.cr0 = control::CR0_ET;
    cpu.idtr = TableRegister { base: IDT, limit: 256 * 16 - 1 };
    match mode {
        Mode::Real => cpu.idtr = TableRegister { base: 0, limit: 0x3ff },
        Mode::Protected => cpu.cr0 |= control::CR0_PE,
        Mode::Paged => {
            cpu.cr0 |= control::CR0_PE | control::CR0_PG;
            cpu.cr3 = TABLES;
            cpu.cr4 = control::CR4_PSE | control::CR4_OSFXSR;
        }
        Mode::Long => {
            cpu.cr0 |= control::CR0_PE | control::CR0_PG;
            cpu.cr3 = TABLES;
            cpu.cr4 = control::CR4_PAE | control::CR4_OSFXSR;
            cpu.efer = control::EFER_LME | control::EFER_LMA | control::EFER_SCE;
        }
    }
    cpu
}

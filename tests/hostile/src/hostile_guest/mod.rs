//! A guest with every card there is, whose program does to them what no driver would, in a machine that is recorded and replayed.
//!
//! The program is code of the guest's own ([`Program`]); what it does is in `attacks` and, from a seed, in `random`. While it runs,
//! frames, keys and serial bytes arrive. Beside the machine's RAM two others' are mapped, which must stay as they are.

mod attacks;
mod program;
mod random;
mod world;

pub use attacks::{ATTACKS, Attack};
pub use program::Program;
pub use random::random_program;

use dejavm_cpu::{CpuState, Engine, Rights, SegReg, Segment, TableRegister, Tuning, control, gpr};
use dejavm_machine::{
    Card, Drive, End, Firmware, Hardware, IdeDrive, Machine, MachineConfig, MachineState,
};
use dejavm_memory::RamLayout;
use dejavm_replay::{
    CheckpointPolicy, Ending, Header, Observer, RecordOptions, ReplayOptions, Replayer, SEMANTICS,
    record,
};
use dejavm_units::{Gpa, PAGE_SIZE, Position};
use std::io::Cursor;
use std::sync::Arc;

const RAM_BYTES: u64 = 4 << 20;
/// Where the program is.
const CODE: u64 = 0x10_0000;
const CODE_MAX: usize = 1 << 20;
const STACK_TOP: u32 = 0x8_0000;
const GDT: u64 = 0x500;
const IDT: u64 = 0x1000;
const HANDLER: u64 = 0x1800;
/// Bytes of each drive.
const DRIVE_BYTES: u64 = 64 << 10;
/// Instructions that a program gets.
const INSTRUCTIONS: u64 = 40_000_000;
/// What the RAM beside the machine's holds.
const PATTERN: [u8; PAGE_SIZE as usize] = [0x5c; PAGE_SIZE as usize];

/// What a program leaves by when it is through.
pub const THROUGH: u32 = 0x600d;

fn config() -> MachineConfig {
    let drive = || Drive { bytes: DRIVE_BYTES, read_only: false };
    let ide = |drive, cd| Some(IdeDrive { drive, cd });
    let hardware = Hardware {
        drives: vec![drive(), drive(), drive()],
        cards: vec![
            Card::VirtioBlock { drive: 0 },
            Card::VirtioNet { mac: world::VIRTIO_MAC },
            Card::VirtioRng { seed: 7 },
            Card::E1000 { mac: world::E1000_MAC },
            Card::Ide { drives: [ide(1, false), ide(2, true), None, None] },
            Card::VirtioConsole,
        ],
        // For its configuration device, and ROM to aim at; nobody executes it.
        firmware: Some(Firmware { rom: vec![0xf4; 64 << 10].into(), video_rom: Vec::new().into() }),
        display: true,
        ..Hardware::default()
    };
    let ram = RamLayout::new(RAM_BYTES).expect("a constant that fits");
    MachineConfig { hardware, ..MachineConfig::new(ram) }
}

/// A machine about to execute a program.
fn machine(program: &Program) -> Machine {
    let mut machine = Machine::power_on(&config()).expect("it can be built");
    let code = program.code();
    assert!(code.len() < CODE_MAX, "{} bytes of code are too many", code.len());
    let flat = 0x00cf_9b00_0000_ffffu64;
    let data = 0x00cf_9300_0000_ffffu64;
    let gate = 0x8e00u64 << 32 | 0x10 << 16 | HANDLER;
    let ram = machine.ram_mut();
    let mut write = |at: u64, bytes: &[u8]| ram.write(Gpa(at), bytes).expect("it lies in RAM");
    for (slot, descriptor) in (0..).zip([0, 0, flat, data]) {
        write(GDT + 8 * slot, &descriptor.to_le_bytes());
    }
    for vector in 0..256 {
        write(IDT + 8 * vector, &gate.to_le_bytes());
    }
    write(HANDLER, &[0xcf]);
    write(CODE, code);
    let segment =
        |selector, rights| Segment { selector, base: 0, limit: u32::MAX, rights: Rights(rights) };
    let mut cpu = CpuState::reset();
    cpu.seg = [segment(0x18, 0xc93); 6];
    cpu.seg[SegReg::Cs as usize] = segment(0x10, 0xc9b);
    cpu.gdtr = TableRegister { base: GDT, limit: 31 };
    cpu.idtr = TableRegister { base: IDT, limit: 256 * 8 - 1 };
    cpu.cr0 = control::CR0_ET | control::CR0_PE;
    cpu.rip = CODE;
    cpu.gpr[gpr::RSP] = STACK_TOP.into();
    machine.set_processor_state(0, &cpu);
    set_storages(&mut machine);
    machine
}

fn set_storages(machine: &mut Machine) {
    let image = |n: u8| (0..DRIVE_BYTES).map(|at| (at >> 9) as u8 ^ n).collect::<Vec<u8>>();
    machine.set_storages((0..3).map(|n| Arc::new(image(n)) as _).collect());
}

/// A machine whose RAM is full of a pattern.
fn bystander() -> Machine {
    let mut machine = Machine::power_on(&config()).expect("it can be built");
    let pages: Vec<_> = machine.ram().pages().collect();
    for pfn in pages {
        machine.ram_mut().write_page(pfn, &PATTERN).expect("its own pages are RAM");
    }
    machine
}

fn is_untouched(bystander: &Machine) -> bool {
    let mut page = [0; PAGE_SIZE as usize];
    bystander.ram().pages().all(|pfn| {
        bystander.ram().read_page(pfn, &mut page).expect("its own pages are RAM");
        page == PATTERN
    })
}

/// Nobody looks on.
struct Nobody;

impl Observer for Nobody {}

/// All that is known at the end.
fn state(machine: &Machine) -> (MachineState, Vec<(u64, Vec<u8>)>) {
    let page = |pfn: dejavm_units::Pfn| {
        let mut page = vec![0; PAGE_SIZE as usize];
        machine.ram().read_page(pfn, &mut page).expect("its own pages");
        (pfn.0, page)
    };
    (machine.save(), machine.ram().all_pages().map(page).collect())
}

/// Records a program and replays it in three ways; how it ended.
///
/// # Panics
/// If a replay is another run, or anything outside the machine was written.
pub fn run(program: &Program, seed: u64) -> Ending {
    let before = bystander();
    let mut recorded_machine = machine(program);
    let after = bystander();
    let options = RecordOptions {
        header: Header {
            creator: "dejavm-hostile".to_owned(),
            semantics: SEMANTICS,
            config: config(),
            guest: Vec::new(),
            digest_interval: 200_000,
        },
        externals: Vec::new(),
        embed_pages: true,
        until: Some(Position(INSTRUCTIONS)),
        checkpoints: CheckpointPolicy::NONE,
        parent: None,
    };
    let mut file = Vec::new();
    let mut world = world::Traffic::new(seed);
    let recorded =
        record(&mut recorded_machine, &mut world, &mut file, &options).expect("memory takes all");
    let end = state(&recorded_machine);
    drop(recorded_machine);

    let default = Tuning::default();
    let ways = [
        default,
        Tuning { translate_after: 0, ..default },
        Tuning { engine: Engine::Interpreter, ..default },
    ];
    for tuning in ways {
        let mut replayer = Replayer::open(Cursor::new(&file[..])).expect("it was just written");
        let start: MachineState = replayer.start_state().expect("it has one");
        let mut machine =
            Machine::from_state(&replayer.header().config, &start).expect("it was one");
        replayer.load_pages(&mut machine).expect("they are in the file");
        set_storages(&mut machine);
        machine.set_tuning(tuning);
        let replayed = replayer
            .run(&mut machine, &ReplayOptions::default(), &mut Nobody)
            .unwrap_or_else(|error| panic!("{tuning:?}: {error}"));
        assert_eq!(replayed.last_digest.as_ref(), Some(&recorded.digest), "{tuning:?}");
        assert_eq!(replayed.ending, Some(recorded.ending), "{tuning:?}");
        assert!(state(&machine) == end, "{tuning:?}: the end is another");
    }
    assert!(is_untouched(&before) && is_untouched(&after), "RAM of others was written");
    recorded.ending
}

/// Whether a program came to its end.
pub fn is_through(ending: Ending) -> bool {
    ending == Ending::Guest(End::DebugExit(THROUGH))
}

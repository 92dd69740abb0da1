//! The board driven as the CPU would drive it, without one.

use super::*;
use dejavm_cpu::Bus;
use dejavm_memory::RamLayout;
use dejavm_units::Gpa;

const RATE: u64 = 2000;
const PIT_HZ: u64 = 1_193_182;

fn board() -> Board {
    Board::new(&MachineConfig::new(RamLayout::new(4 << 20).unwrap()))
}

fn ram() -> GuestRam {
    GuestRam::new(RamLayout::new(4 << 20).unwrap()).unwrap()
}

/// A board, and the position of the next access: each access is an instruction.
struct Script {
    board: Board,
    ram: GuestRam,
    position: u64,
}

impl Script {
    fn new() -> Script {
        Script { board: board(), ram: ram(), position: 0 }
    }

    fn out(&mut self, port: u16, value: u8) {
        self.board.port_out(port, 1, value.into(), Position(self.position));
        self.position += 1;
    }

    fn input(&mut self, port: u16) -> u8 {
        self.position += 1;
        self.board.port_in(port, 1, Position(self.position - 1)) as u8
    }

    fn store(&mut self, gpa: u64, value: u32) {
        self.board.mmio_write(Gpa(gpa), 4, value.into(), Position(self.position));
        self.position += 1;
    }

    /// What Linux and our guests write to the pair: vectors from 0x30 on, all masked but `unmasked`.
    fn initialise_pic(&mut self, unmasked: u16) {
        for (command, data, base, wiring) in [(0x20, 0x21, 0x30, 4), (0xa0, 0xa1, 0x38, 2)] {
            self.out(command, 0x11);
            self.out(data, base);
            self.out(data, wiring);
            self.out(data, 1);
        }
        self.out(0x21, !unmasked as u8);
        self.out(0xa1, (!unmasked >> 8) as u8);
    }

    /// Channel 0 as a rate generator.
    fn start_timer(&mut self, count: u16) {
        self.out(0x43, 0x34);
        self.out(0x40, count as u8);
        self.out(0x40, (count >> 8) as u8);
    }

    /// Runs to `position`, stopping where the board wants it; whether an interrupt waits there.
    fn run_to(&mut self, position: u64) -> bool {
        loop {
            let now = self.board.clock.at(Position(self.position));
            self.board.fire_deadlines(now, &mut self.ram);
            let bound = self.board.bound_runs(Position(position)).0;
            if self.board.interrupt_pending() || bound <= self.position {
                return self.board.interrupt_pending();
            }
            self.position = bound;
        }
    }
}

/// The first position at which PIT tick `tick` runs.
fn position_of_tick(tick: u64) -> u64 {
    let ns = (tick * 1_000_000_000).div_ceil(PIT_HZ);
    (ns * RATE).div_ceil(1000)
}

#[test]
fn the_timer_interrupts_at_the_exact_position() {
    let mut script = Script::new();
    script.initialise_pic(1);
    script.start_timer(11_932);
    // The count was written within tick 0, is loaded at tick 1, and the output rises 11 932 later.
    for period in 1..=3 {
        let due = position_of_tick(1 + period * 11_932);
        assert!(!script.run_to(due - 1), "period {period}");
        assert_eq!(script.position, due - 1);
        assert!(script.run_to(due), "period {period}");
        assert_eq!(script.board.acknowledge_interrupt(Position(due)), 0x30);
        assert!(!script.board.interrupt_pending());
        script.out(0x20, 0x20);
    }
}

#[test]
fn a_deadline_that_moves_nearer_takes_control() {
    let mut script = Script::new();
    script.initialise_pic(1);
    script.board.bound_runs(Position(u64::MAX));
    assert!(!script.board.wants_control());
    script.start_timer(100);
    assert!(script.board.wants_control());
    let bound = script.board.bound_runs(Position(u64::MAX));
    // The output falls one tick before it rises.
    assert_eq!(bound, Position(position_of_tick(100)));
    assert!(!script.board.wants_control());
    script.out(0x80, 0);
    assert!(!script.board.wants_control(), "an access that moves nothing does not");
}

#[test]
fn the_timer_reaches_the_processor_through_the_io_apic() {
    const IO_APIC: u64 = 0xfec0_0000;
    const LAPIC: u64 = 0xfee0_0000;
    let mut script = Script::new();
    script.initialise_pic(0);
    script.store(LAPIC + 0xf0, 0x1ff);
    script.store(LAPIC + 0x350, 0x1_0000);
    // Pin 2: vector 0x31, fixed, edge, to APIC 0.
    for (register, value) in [(0x15, 0), (0x14, 0x31)] {
        script.store(IO_APIC, register);
        script.store(IO_APIC + 0x10, value);
    }
    script.start_timer(1000);
    let due = position_of_tick(1001);
    assert!(!script.run_to(due - 1));
    assert!(script.run_to(due));
    assert_eq!(script.board.acknowledge_interrupt(Position(due)), 0x31);
    // In service until its end.
    assert!(!script.run_to(position_of_tick(2001)));
    script.store(LAPIC + 0xb0, 0);
    assert!(script.board.interrupt_pending());
}

#[test]
fn the_local_timer_interrupts_and_cr8_holds_it_back() {
    const LAPIC: u64 = 0xfee0_0000;
    let mut script = Script::new();
    script.initialise_pic(0);
    script.store(LAPIC + 0xf0, 0x1ff);
    script.store(LAPIC + 0x3e0, 0xb);
    script.store(LAPIC + 0x320, 0x40);
    let start = script.board.clock.at(Position(script.position)).0;
    script.store(LAPIC + 0x380, 1000);
    script.board.set_cr8(4, Position(script.position));
    assert!(!script.run_to((start + 1000) * 2));
    assert_eq!(script.board.cr8(), 4);
    script.board.set_cr8(3, Position(script.position));
    assert!(script.board.interrupt_pending());
    assert_eq!(script.board.acknowledge_interrupt(Position(script.position)), 0x40);
}

#[test]
fn without_a_local_apic_the_pair_drives_the_processor() {
    const APIC_BASE: u32 = 0x1b;
    let mut script = Script::new();
    let base = script.board.msr_read(APIC_BASE, Position(0)).unwrap();
    assert_eq!(base, 0xfee0_0900);
    assert!(script.board.msr_write(APIC_BASE, base & !0x800, Position(0)));
    assert!(!script.board.msr_write(APIC_BASE, 1 << 60, Position(0)));
    assert_eq!(script.board.mmio_read(Gpa(0xfee0_0030), 4, Position(0)), 0xffff_ffff);
    script.initialise_pic(1);
    script.start_timer(1000);
    assert!(script.run_to(position_of_tick(1001)));
    assert_eq!(script.board.acknowledge_interrupt(Position(script.position)), 0x30);
    assert_eq!(script.board.msr_read(0x1c, Position(0)), None);
}

#[test]
fn registers_in_memory_are_read_at_any_width() {
    let mut board = board();
    let mut read = |gpa, size| board.mmio_read(Gpa(gpa), size, Position(0));
    // The version register of the local APIC, and what lies beside it.
    assert_eq!(read(0xfee0_0030, 4), 0x0005_0014);
    assert_eq!(read(0xfee0_0032, 1), 0x05);
    assert_eq!(read(0xfee0_0031, 2), 0x0500);
    assert_eq!(read(0xfee0_0030, 8), 0x0005_0014);
    // Nothing answers in the VGA window, nor far beyond RAM.
    assert_eq!(read(0xb_8000, 2), 0xffff);
    assert_eq!(read(u64::MAX - 1, 8), u64::MAX);
}

#[test]
fn ports_answer_at_any_width_and_the_unknown_are_counted() {
    let mut board = board();
    // The host bridge's vendor and device.
    board.port_out(0xcf8, 4, 0x8000_0000, Position(0));
    assert_eq!(board.port_in(0xcfc, 4, Position(0)), 0x1237_8086);
    assert_eq!(board.port_in(0xcfe, 2, Position(0)), 0x1237);
    assert_eq!(board.port_in(0xcf8, 4, Position(0)), 0x8000_0000);
    board.port_out(0xcf8, 4, 0x8000_f800, Position(0));
    assert_eq!(board.port_in(0xcfc, 4, Position(0)), 0xffff_ffff);
    // A word is two bytes: scratch registers of COM1 and, at 0x400, nothing.
    board.port_out(0x3ff, 2, 0x1234, Position(0));
    assert_eq!(board.port_in(0x3ff, 2, Position(0)), 0xff34);
    assert_eq!(board.port_in(0x3ff, 4, Position(0)), 0xe9ff_ff34);
    let unknown: Vec<u16> = board.unknown_ports.keys().copied().collect();
    assert_eq!(unknown, [0x400, 0x401]);
    // 3.579545 MHz: 3579 ticks in a millisecond.
    assert_eq!(board.port_in(0x608, 4, Position(2_000_000)), 3579);
}

#[test]
fn serial_input_waits_for_room_and_keeps_its_order() {
    let mut script = Script::new();
    let typed: Vec<u8> = (0..100).collect();
    script.out(0x3fa, 0x07);
    script.board.apply(&Input::Serial { port: 0, bytes: typed[..60].to_vec() });
    script.board.apply(&Input::Serial { port: 0, bytes: typed[60..].to_vec() });
    let mut received = Vec::new();
    while script.input(0x3fd) & 1 != 0 {
        received.push(script.input(0x3f8));
    }
    assert_eq!(received, typed);
    for byte in b"ok\n" {
        script.out(0x3f8, *byte);
    }
    script.out(0xe9, b'!');
    let expected = [
        Output::Serial { port: 0, bytes: b"ok\n".to_vec() },
        Output::DebugConsole { bytes: b"!".to_vec() },
    ];
    assert_eq!(script.board.take_output(), expected);
    assert_eq!(script.board.take_output(), []);
}

#[test]
fn every_way_to_end_is_told_apart() {
    let ended = |accesses: &[(u16, u8, u32)]| {
        let mut board = board();
        for (port, size, value) in accesses {
            assert_eq!(board.end(), None);
            board.port_out(*port, *size, *value, Position(0));
        }
        assert_eq!(board.wants_control(), board.end().is_some());
        board.end()
    };
    // SLP_TYP 5, SLP_EN.
    assert_eq!(ended(&[(0x604, 2, 5 << 10 | 1 << 13)]), Some(End::PowerOff));
    assert_eq!(ended(&[(0x604, 2, 3 << 10 | 1 << 13)]), None);
    assert_eq!(ended(&[(0xcf9, 1, 2), (0xcf9, 1, 6)]), Some(End::Reset));
    assert_eq!(ended(&[(0x92, 1, 3)]), Some(End::Reset));
    assert_eq!(ended(&[(0x64, 1, 0xfe)]), Some(End::Reset));
    assert_eq!(ended(&[(0xf4, 1, 0x10)]), Some(End::DebugExit(0x10)));
}

#[test]
fn the_power_button_raises_the_sci() {
    let mut script = Script::new();
    script.initialise_pic(1 << 9 | 1 << 2);
    // PM1_EN: PWRBTN_EN.
    script.board.port_out(0x602, 2, 0x100, Position(0));
    assert!(!script.board.interrupt_pending());
    script.board.apply(&Input::PowerButton);
    assert_eq!(script.board.acknowledge_interrupt(Position(0)), 0x39);
}

#[test]
fn a_restored_board_goes_on_as_if_it_had_never_stopped() {
    let mut script = Script::new();
    script.initialise_pic(0xffff);
    script.start_timer(997);
    script.out(0x70, 0x0b);
    script.out(0x71, 0x42);
    script.board.apply(&Input::Serial { port: 0, bytes: vec![7; 40] });
    let mut position = script.position;
    for step in 0..200 {
        position += 77_777;
        let (clock, state) = script.board.save();
        let mut restored = board();
        restored.restore(&clock, &state).unwrap();
        assert_eq!(restored.save(), (clock, state), "step {step}");
        let mut twin = Script { board: restored, ram: ram(), position: script.position };
        for script in [&mut script, &mut twin] {
            while script.run_to(position) {
                script.board.acknowledge_interrupt(Position(script.position));
                script.out(0x20, 0x20);
                script.out(0xa0, 0x20);
                script.out(0x70, 0x0c);
                script.input(0x71);
            }
        }
        assert_eq!(script.board.save(), twin.board.save(), "step {step}");
        script = if step % 2 == 0 { twin } else { script };
    }
    assert!(script.board.save().1.pit != board().save().1.pit);
}

/// xorshift64*: the seed is the test's, so that a failure can be run again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.next() as usize % from.len()]
    }
}

/// One access of a guest that has lost its mind.
fn misbehave(script: &mut Script, random: &mut Random) {
    let at = Position(script.position);
    script.position += 1;
    let port: u16 = random.pick(&[
        0x20, 0x21, 0x40, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71, 0x92, 0xa0, 0xa1, 0xcf8, 0xcfc,
        0x3f8, 0x3fc, 0x4d0, 0x600, 0x604, 0x608, 0xffff,
    ]);
    let port = port.wrapping_add((random.next() & 3) as u16);
    let size = random.pick(&[1u8, 2, 4]);
    let base = random.pick(&[0xfee0_0000u64, 0xfec0_0000, 0xfee0_0300, 0xfec0_0010, 0xb_8000]);
    let gpa = Gpa(base + (random.next() & 0x3ff & random.pick(&[0x3f0, 0x3ff, 0x10])));
    let value = random.pick(&[random.0, random.0 & 0xff, 0x1ff, 0x2_0040, 1 << 31]);
    match random.next() % 6 {
        0 => drop(script.board.port_in(port, size, at)),
        1 => script.board.port_out(port, size, value as u32, at),
        2 => drop(script.board.mmio_read(gpa, random.pick(&[1, 2, 4, 8]), at)),
        3 => script.board.mmio_write(gpa, random.pick(&[1, 2, 4, 8]), value, at),
        4 => {
            // Mostly left where it is and on, so that the other accesses find it.
            let base = random.pick(&[0xfee0_0900, 0xfee0_0900, 0xfee0_0900, 0xfee0_0100, value]);
            script.board.msr_write(0x1b, base & 0xffff_ffff, at);
        }
        _ => script.board.set_cr8((value & 15) as u8, at),
    }
    if script.board.interrupt_pending() && random.next() & 1 == 0 {
        script.board.acknowledge_interrupt(at);
    }
    script.board.take_nmi();
}

#[test]
fn nothing_a_guest_does_to_the_board_is_too_much_and_its_state_can_always_be_restored() {
    for seed in 1..=20 {
        let mut random = Random(seed);
        let mut script = Script::new();
        for step in 0..3_000 {
            misbehave(&mut script, &mut random);
            if step % 10 == 0 {
                let ahead = 1 + random.next() % 20_000;
                script.run_to(script.position + ahead);
            }
            if step % 100 == 0 {
                let (clock, state) = script.board.save();
                let mut restored = board();
                restored.restore(&clock, &state).unwrap_or_else(|refusal| {
                    panic!("seed {seed}, step {step}: {refusal}");
                });
                assert_eq!(restored.save(), (clock, state), "seed {seed}, step {step}");
                assert_eq!(restored.interrupt, script.board.interrupt, "seed {seed}, step {step}");
                assert_eq!(restored.next_deadline, script.board.next_deadline, "seed {seed}");
                script.board = restored;
            }
        }
    }
}

#[test]
fn what_nobody_reads_does_not_grow_without_bound() {
    let mut board = board();
    for _ in 0..100 {
        board.apply(&Input::Serial { port: 0, bytes: vec![7; 4096] });
    }
    assert_eq!(board.serial[0].waiting.len(), 1 << 16);
}

/// Ports of the PC's second to fourth serial ports, and that they share two lines.
#[test]
fn serial_ports_that_exist_are_where_a_pc_has_them() {
    let mut config = MachineConfig::new(RamLayout::new(4 << 20).unwrap());
    config.hardware.serial_ports = [true, false, true];
    let mut script = Script { board: Board::new(&config), ram: ram(), position: 0 };
    script.initialise_pic(1 << 3 | 1 << 4);
    // COM3 is not there, the scratch registers of the others are.
    for (base, exists) in [(0x3f8, true), (0x2f8, true), (0x3e8, false), (0x2e8, true)] {
        script.out(base + 7, 0x5a);
        assert_eq!(script.input(base + 7), if exists { 0x5a } else { 0xff }, "{base:#x}");
    }
    for (port, base, line) in [(1u8, 0x2f8, 3), (3, 0x2e8, 3), (0, 0x3f8, 4)] {
        script.out(base + 4, 0x0b);
        script.out(base + 1, 1);
        assert!(!script.board.interrupt);
        script.board.apply(&Input::Serial { port, bytes: vec![port] });
        assert!(script.board.interrupt, "{base:#x}");
        assert_eq!(script.board.pic.acknowledge(), 0x30 + line, "{base:#x}");
        assert_eq!(script.input(base), port);
        script.out(base, b'a' + port);
        script.out(0x20, 0x20);
        let bytes = vec![b'a' + port];
        assert_eq!(script.board.take_output(), [Output::Serial { port, bytes }]);
    }
    script.board.apply(&Input::Serial { port: 2, bytes: vec![1; 9] });
    assert!(!script.board.interrupt, "nobody is there");

    script.board.apply(&Input::Serial { port: 3, bytes: vec![7; 40] });
    let ((clock, state), serial) = (script.board.save(), script.board.save_serial());
    let mut restored = Board::new(&config);
    restored.restore_serial(&serial).unwrap();
    restored.restore(&clock, &state).unwrap();
    assert_eq!(restored.save_serial(), serial);
    assert_eq!((serial.len(), serial[1].waiting.len()), (2, 39));
    assert!(board().restore_serial(&serial).is_err(), "a machine without them");
}

//! What every chip must do, proven by seeded random scripts of guest accesses, advances and host
//! inputs. A new chip is one `device_suite!`.
//!
//! 1. *Restore equals continue*: saved (through bincode), restored into a fresh chip and continued, a
//!    script gives the same reads, lines and final state.
//! 2. *Restore undoes*: a chip that went on is brought back exactly, and what went on had changed the
//!    saved state.
//! 3. *Advance splits*: one `advance` and many, and stops at every deadline, end in the same state;
//!    outputs do not change between deadlines, and a deadline that was reached is over.
//! 4. *Nothing panics*: no access at any time, and no state that `restore` accepts.
//!
//! Each failure prints its seed. Seeds are fixed; a longer run is a larger `SEEDS`.

use crate::RestoreError;
use crate::card::Card;
use crate::vga::Vga;
use dejavm_units::GuestNs;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// Scripts per property and chip, usually.
const SEEDS: u64 = 300;
/// Steps of a script.
const STEPS: usize = 150;

/// SplitMix64: enough randomness for scripts, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// A chip as the suite sees it.
pub(crate) struct Subject<C, S> {
    pub(crate) new: fn() -> C,
    /// Scripts per property: fewer for a chip that takes long to make.
    pub(crate) seeds: u64,
    /// Registers that the scripts prefer.
    pub(crate) regs: &'static [u64],
    /// Bits of the values that scripts write.
    pub(crate) value_bits: u32,
    pub(crate) read: fn(&mut C, u64, GuestNs) -> u64,
    /// Returns the effect, if writes have one.
    pub(crate) write: fn(&mut C, u64, u64, GuestNs) -> u64,
    /// A host input or the taking of an output, chosen and filled from the number.
    pub(crate) host: fn(&mut C, u64) -> u64,
    /// Lines and other outputs that may change by themselves.
    pub(crate) outputs: fn(&C) -> Vec<u64>,
    pub(crate) deadline: fn(&C) -> Option<GuestNs>,
    pub(crate) advance: fn(&mut C, GuestNs),
    pub(crate) save: fn(&C) -> S,
    pub(crate) restore: fn(&mut C, S) -> Result<(), RestoreError>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Read {
        reg: u64,
    },
    Write {
        reg: u64,
        value: u64,
    },
    Host(u64),
    /// To the deadline, if there is one within a second.
    ToDeadline,
    Advance {
        ns: u64,
    },
    /// Passing time of which the chip is not told.
    Wait {
        ns: u64,
    },
}

fn some_ns(random: &mut Random) -> u64 {
    let magnitude = random.below(34);
    random.below(1 << magnitude)
}

fn script(seed: u64, regs: &[u64], value_bits: u32) -> Vec<Step> {
    let mut random = Random(seed);
    let mask = (1u64 << value_bits) - 1;
    (0..STEPS)
        .map(|_| {
            let reg = match random.below(20) {
                0 => random.below(0x1000),
                _ => regs[random.below(regs.len() as u64) as usize],
            };
            match random.below(16) {
                0..5 => Step::Read { reg },
                5..10 => {
                    let value = match random.below(4) {
                        0 => random.below(4),
                        1 => 1 << random.below(u64::from(value_bits)),
                        _ => random.next() & mask,
                    };
                    Step::Write { reg, value }
                }
                10..12 => Step::Host(random.next()),
                12..14 => Step::ToDeadline,
                14 => Step::Advance { ns: some_ns(&mut random) },
                _ => Step::Wait { ns: some_ns(&mut random) },
            }
        })
        .collect()
}

/// A chip, the time it is at, and what it showed.
struct Run<'s, C, S> {
    subject: &'s Subject<C, S>,
    chip: C,
    now: GuestNs,
    seen: Vec<u64>,
}

impl<'s, C, S> Run<'s, C, S> {
    fn new(subject: &'s Subject<C, S>) -> Run<'s, C, S> {
        Run { subject, chip: (subject.new)(), now: GuestNs(0), seen: Vec::new() }
    }

    fn do_all(&mut self, steps: &[Step]) {
        for step in steps {
            self.do_one(*step);
        }
    }

    fn do_one(&mut self, step: Step) {
        let Subject { read, write, host, outputs, deadline, advance, .. } = self.subject;
        match step {
            Step::Read { reg } => self.seen.push(read(&mut self.chip, reg, self.now)),
            Step::Write { reg, value } => {
                self.seen.push(write(&mut self.chip, reg, value, self.now));
            }
            Step::Host(input) => self.seen.push(host(&mut self.chip, input)),
            Step::ToDeadline => {
                if let Some(GuestNs(ns)) = deadline(&self.chip)
                    && ns.saturating_sub(self.now.0) < 1_000_000_000
                {
                    self.now = GuestNs(ns.max(self.now.0));
                    advance(&mut self.chip, self.now);
                    // Else the board, which goes from deadline to deadline, would stand still.
                    let next = deadline(&self.chip);
                    assert!(next.is_none_or(|next| next > self.now), "{next:?} at {}", self.now);
                }
            }
            Step::Advance { ns } => {
                self.now = GuestNs(self.now.0 + ns);
                advance(&mut self.chip, self.now);
            }
            Step::Wait { ns } => self.now = GuestNs(self.now.0 + ns),
        }
        self.seen.extend(outputs(&self.chip));
        self.seen.push(deadline(&self.chip).map_or(u64::MAX, |deadline| deadline.0));
    }
}

impl<C, S> Subject<C, S>
where
    S: Clone + PartialEq + Debug + Serialize + DeserializeOwned,
{
    fn script(&self, seed: u64) -> Vec<Step> {
        script(seed, self.regs, self.value_bits)
    }

    fn run(&self, steps: &[Step]) -> Run<'_, C, S> {
        let mut run = Run::new(self);
        run.do_all(steps);
        run
    }

    pub(crate) fn restore_equals_continue(&self) {
        for seed in 0..self.seeds {
            let steps = self.script(seed);
            let (before, after) = steps.split_at(seed as usize * STEPS / self.seeds as usize);
            let mut continued = self.run(before);
            let saved = (self.save)(&continued.chip);
            let mut restored = Run { now: continued.now, ..Run::new(self) };
            (self.restore)(&mut restored.chip, self.through_bincode(&saved))
                .unwrap_or_else(|error| panic!("seed {seed}: {error}: {saved:?}"));
            assert_eq!((self.save)(&restored.chip), saved, "seed {seed}");
            assert_eq!(
                (self.outputs)(&restored.chip),
                (self.outputs)(&continued.chip),
                "seed {seed}"
            );
            continued.seen.clear();
            continued.do_all(after);
            restored.do_all(after);
            assert_eq!(restored.seen, continued.seen, "seed {seed}");
            assert_eq!((self.save)(&restored.chip), (self.save)(&continued.chip), "seed {seed}");
        }
    }

    pub(crate) fn restore_undoes(&self) {
        let mut changed = false;
        for seed in 0..self.seeds {
            let steps = self.script(seed);
            let (before, after) = steps.split_at(STEPS / 2);
            let mut run = self.run(before);
            let saved = (self.save)(&run.chip);
            run.do_all(after);
            changed |= (self.save)(&run.chip) != saved;
            (self.restore)(&mut run.chip, saved.clone())
                .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            assert_eq!((self.save)(&run.chip), saved, "seed {seed}");
        }
        assert!(changed, "no script changes the saved state: it does not hold the state");
    }

    pub(crate) fn advance_splits(&self) {
        for seed in 0..self.seeds {
            let at_once = self.run(&self.script(seed));
            let (start, saved) = (at_once.now, (self.save)(&at_once.chip));
            let mut random = Random(seed ^ 0xadca);
            let end = GuestNs(start.0 + some_ns(&mut random));
            let copy = || {
                let mut chip = (self.new)();
                (self.restore)(&mut chip, saved.clone())
                    .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                // The scripts end with time that the chip may not know of.
                (self.advance)(&mut chip, start);
                chip
            };
            let mut once = copy();
            (self.advance)(&mut once, end);

            let mut pieces = copy();
            for _ in 0..20 {
                let time = GuestNs(start.0 + random.below(end.0 - start.0 + 1));
                (self.advance)(&mut pieces, time);
                // Neither repeating nor going back in time may matter.
                let reached = (self.save)(&pieces);
                (self.advance)(&mut pieces, time);
                (self.advance)(&mut pieces, GuestNs(time.0 / 2));
                assert_eq!((self.save)(&pieces), reached, "seed {seed}: {time} again");
            }
            (self.advance)(&mut pieces, end);
            assert_eq!((self.save)(&pieces), (self.save)(&once), "seed {seed}: {start} to {end}");

            let mut stops = copy();
            self.stop_at_deadlines(&mut stops, start, end, seed);
            assert_eq!((self.save)(&stops), (self.save)(&once), "seed {seed}: {start} to {end}");
        }
    }

    /// Advances from deadline to deadline, and looks whether anything changes before one.
    fn stop_at_deadlines(&self, chip: &mut C, start: GuestNs, end: GuestNs, seed: u64) {
        let mut now = start;
        // Not all the way for a timer of a few nanoseconds.
        for _ in 0..500 {
            let outputs = (self.outputs)(chip);
            let next = (self.deadline)(chip).map_or(end, |deadline| deadline.max(now).min(end));
            if next.0 > now.0 {
                (self.advance)(chip, GuestNs(next.0 - 1));
                assert_eq!((self.outputs)(chip), outputs, "seed {seed}: changes before {next}");
            }
            (self.advance)(chip, next);
            if next >= end {
                break;
            }
            now = next;
        }
        (self.advance)(chip, end);
    }

    pub(crate) fn nothing_panics(&self) {
        for seed in 0..self.seeds {
            let mut random = Random(seed ^ 0xf422);
            let mut run = Run::new(self);
            for _ in 0..2 * STEPS {
                let (reg, value) = (random.next() >> random.below(64), random.next());
                // Times from all over, the end of time included, and backwards.
                run.now = match random.below(8) {
                    0 => GuestNs(u64::MAX - random.below(1000)),
                    1 => GuestNs(random.next() >> random.below(64)),
                    _ => run.now,
                };
                let reg_of_chip = self.regs[value as usize % self.regs.len()];
                let reg = if random.below(2) == 0 { reg } else { reg_of_chip };
                (self.read)(&mut run.chip, reg, run.now);
                (self.write)(&mut run.chip, reg, value, run.now);
                (self.host)(&mut run.chip, value);
                (self.advance)(&mut run.chip, run.now);
                (self.outputs)(&run.chip);
                (self.deadline)(&run.chip);
            }
            self.hostile_states(seed);
        }
    }

    /// Damages saved states; what is accepted must run.
    fn hostile_states(&self, seed: u64) {
        let steps = self.script(seed);
        let saved = encoded(&(self.save)(&self.run(&steps).chip));
        let mut random = Random(seed ^ 0x4057);
        for _ in 0..40 {
            let mut bytes = saved.clone();
            for _ in 0..=random.below(3) {
                if !bytes.is_empty() {
                    let at = random.below(bytes.len() as u64) as usize;
                    bytes[at] = match random.below(4) {
                        0 => 0,
                        1 => 0xff,
                        _ => random.next() as u8,
                    };
                }
            }
            let Some(state) = decoded::<S>(&bytes) else { continue };
            let mut run = Run::new(self);
            if (self.restore)(&mut run.chip, state).is_ok() {
                run.do_one(Step::ToDeadline);
                run.do_all(&steps);
            }
        }
    }

    fn through_bincode(&self, state: &S) -> S {
        decoded(&encoded(state)).expect("what was encoded can be decoded")
    }
}

fn encoded<S: Serialize>(state: &S) -> Vec<u8> {
    // Fixed widths, so that a damaged byte stays in its field.
    let config = bincode::config::standard().with_fixed_int_encoding();
    bincode::serde::encode_to_vec(state, config).expect("states are plain data")
}

fn decoded<S: DeserializeOwned>(bytes: &[u8]) -> Option<S> {
    let config = bincode::config::standard().with_fixed_int_encoding().with_limit::<0x10000>();
    bincode::serde::decode_from_slice(bytes, config).ok().map(|(state, _)| state)
}

/// The suite for a chip. `read` and `write` may be left out of a chip with byte registers.
macro_rules! device_suite {
    ($name:ident: $chip:ty = $new:expr, regs $regs:expr, host $host:expr, outputs $outputs:expr) => {
        device_suite!($name: $chip = $new, regs $regs,
            read |chip, reg, now| u64::from(chip.read(reg as u16, now)),
            write 8, |chip, reg, value, now| { chip.write(reg as u16, value as u8, now); 0 },
            host $host, outputs $outputs);
    };
    ($name:ident: $chip:ty = $new:expr, regs $regs:expr, read $read:expr,
            write $value_bits:expr, $write:expr, host $host:expr, outputs $outputs:expr) => {
        device_suite!($name: $chip = $new, seeds SEEDS, regs $regs, read $read,
            write $value_bits, $write, host $host, outputs $outputs);
    };
    ($name:ident: $chip:ty = $new:expr, seeds $seeds:expr, regs $regs:expr, read $read:expr,
            write $value_bits:expr, $write:expr, host $host:expr, outputs $outputs:expr) => {
        mod $name {
            use super::*;
            #[allow(unused_imports, reason = "a card names itself in full")]
            use crate::*;

            fn subject() -> Subject<$chip, impl Clone + PartialEq + Debug + Serialize + DeserializeOwned> {
                Subject {
                    new: || $new,
                    seeds: $seeds,
                    regs: $regs,
                    value_bits: $value_bits,
                    read: $read,
                    write: $write,
                    host: $host,
                    outputs: $outputs,
                    deadline: |chip| chip.deadline(),
                    advance: |chip, now| chip.advance(now),
                    save: |chip| chip.save(),
                    restore: |chip, state| chip.restore(state),
                }
            }

            #[test]
            fn restore_equals_continue() {
                subject().restore_equals_continue();
            }

            #[test]
            fn restore_undoes() {
                subject().restore_undoes();
            }

            #[test]
            fn advance_splits() {
                subject().advance_splits();
            }

            #[test]
            fn nothing_panics() {
                subject().nothing_panics();
            }
        }
    };
}

/// The suite for a card, in a machine of its own with a drive of so many bytes, whose guest does anything.
macro_rules! card_suite {
    ($name:ident: $card:ty = $new:expr, drive $drive:expr, host $host:expr) => {
        device_suite!($name: crate::testing::Machine<$card> =
                crate::testing::Machine::new($new, 0x2000, $drive),
            regs &[0, 1],
            read |chip, reg, now| chip.anything(reg.wrapping_mul(0x9e37_79b9_7f4a_7c15) & !7, now),
            write 60, |chip, _, value, now| chip.anything(value, now),
            host $host,
            outputs |chip| chip.outputs());
    };
}

device_suite!(pic: Pic = Pic::new(), regs &[0, 1, 2, 3, 4, 5],
    host |chip, n| match n % 4 {
        0 => u64::from(chip.acknowledge()),
        1 if n >> 60 == 0 => { chip.reset(); 0 }
        _ => { chip.set_line((n >> 8) as u8 % 16, n >> 16 & 1 != 0); 0 }
    },
    outputs |chip| vec![chip.interrupt_pending().into()]);

device_suite!(pit: Pit = Pit::new(), regs &[0, 0, 1, 2, 3, 3, 4],
    host |chip, n| { if n >> 60 == 0 { chip.reset(); } u64::from(chip.speaker()) },
    outputs |chip| vec![chip.out(0).into()]);

device_suite!(rtc: Rtc = Rtc::new(1_795_354_495), regs &[0, 1],
    read |chip, reg, now| u64::from(chip.read(reg as u16, now)),
    // Twelve bits name the register and its value at once, else scripts seldom meet a register.
    write 12, |chip, reg, value, now| {
        chip.write(0, (value >> 8) as u8, now);
        chip.write(reg as u16, value as u8, now);
        0
    },
    host |chip, n| match n % 8 {
        0 => { chip.reset(); 0 }
        1 => { chip.set_cmos((n >> 8) as u8 % 114 + 14, (n >> 16) as u8); 0 }
        _ => chip.nmi_masked().into(),
    },
    outputs |chip| vec![chip.irq().into()]);

device_suite!(uart: Uart16550 = Uart16550::new(), regs &[0, 1, 2, 3, 4, 5, 6, 7],
    host |chip, n| match n % 8 {
        0..4 => chip.receive(&n.to_le_bytes()) as u64,
        4 => chip.receive_break().into(),
        5 => chip.take_transmitted().iter().map(|byte| u64::from(*byte)).sum(),
        6 => {
            chip.set_modem_inputs(n & 0x100 != 0, n & 0x200 != 0, n & 0x400 != 0, n & 0x800 != 0);
            0
        }
        _ => { if n >> 60 == 0 { chip.reset(); } chip.room() as u64 }
    },
    outputs |chip| vec![chip.irq().into()]);

device_suite!(i8042: I8042 = I8042::new(), regs &[0, 4],
    read |chip, reg, now| u64::from(chip.read(reg as u16, now)),
    // The ninth bit chooses among commands that scripts would seldom meet.
    write 9, |chip, reg, value, now| {
        const COMMANDS: [u8; 8] = [0xd4, 0xa8, 0xae, 0x60, 0xd3, 0xf4, 0xf3, 0xed];
        let byte = value as u8;
        chip.write(reg as u16, if value >> 8 != 0 { COMMANDS[usize::from(byte % 8)] } else { byte }, now);
        0
    },
    host |chip, n| match n % 8 {
        0..3 => {
            let key = crate::i8042::Key { code: (n >> 8) as u8, extended: n >> 16 & 1 != 0 };
            chip.key(key, n >> 17 & 1 != 0).into()
        }
        3..6 => {
            chip.move_mouse((n >> 8) as i32 >> 20, (n >> 16) as i32 >> 22, 1, (n >> 4) as u8);
            0
        }
        6 => chip.take_reset().into(),
        _ => { if n >> 60 == 0 { chip.reset(); } u64::from(chip.lights()) }
    },
    outputs |chip| vec![chip.keyboard_irq().into(), chip.mouse_irq().into(), chip.a20().into()]);

device_suite!(lapic: Lapic = Lapic::new(0, true),
regs &[
    0x20, 0x30, 0x80, 0xa0, 0xb0, 0xb0, 0xd0, 0xe0, 0xf0, 0x100, 0x190, 0x220, 0x280, 0x300,
    0x310, 0x320, 0x320, 0x320, 0x330, 0x350, 0x360, 0x370, 0x380, 0x380, 0x390, 0x3e0,
],
read |chip, reg, now| u64::from(chip.read(reg as u16, now)),
write 32, |chip, reg, value, now| match chip.write(reg as u16, value as u32, now) {
    crate::lapic::WriteEffect::None => 0,
    crate::lapic::WriteEffect::EndOfInterrupt(vector) => 1 + u64::from(vector),
    crate::lapic::WriteEffect::Ipi(ipi) => 1000 + u64::from(ipi.message.vector),
},
host |chip, n| {
    let byte = (n >> 8) as u8;
    match n % 16 {
        0..4 => u64::from(chip.acknowledge()),
        4..7 => {
            // A guest would have enabled it.
            let trigger = if n >> 40 & 1 != 0 { TriggerMode::Level } else { TriggerMode::Edge };
            if let Some(message) = InterruptMessage::from_msi(0xfee0_0000, (n >> 8) as u32 & 0x7ff) {
                chip.accept(&InterruptMessage { trigger, ..message });
            }
            0
        }
        7 => { chip.set_lint0(byte & 1 != 0); 0 }
        8 => { chip.set_lint1(byte & 1 != 0); 0 }
        9 => chip.take_nmi().into(),
        10 => u64::from(chip.take_init()) + u64::from(chip.take_startup().unwrap_or(0)),
        11 => { chip.acknowledge_external(); chip.take_smi().into() }
        12 => { chip.set_cr8(byte & 0xf); u64::from(chip.cr8()) }
        13 => chip.set_apic_base(0xfee0_0100 | if byte < 0xf0 { 0x800 } else { 0 }).into(),
        14 if byte < 8 => { chip.reset(); 0 }
        14 if byte < 32 => { chip.reset_by_init(); 0 }
        _ => { let _ = chip.write(0xf0, 0x1ff, GuestNs(0)); 0 }
    }
},
outputs |chip| vec![
    chip.interrupt_pending().into(),
    chip.external_interrupt_pending().into(),
    chip.signal_pending().into(),
    chip.processor_priority().into(),
]);

device_suite!(ioapic: IoApic = IoApic::new(1), regs &[0x00, 0x10, 0x10],
    read |chip, reg, now| u64::from(chip.read(reg, now)),
    // Eight bits name the register and thirty-two its value.
    write 40, |chip, reg, value, now| {
        chip.write(0, (value >> 32) as u32 % 0x42, now);
        chip.write(reg, value as u32, now);
        0
    },
    host |chip, n| match n % 8 {
        0..4 => { chip.set_line((n >> 8) as u8 % 24, n >> 16 & 1 != 0); 0 }
        4..6 => chip.take_message().map_or(0, |message| 1 + u64::from(message.vector)),
        6 => { chip.end_of_interrupt((n >> 8) as u8); 0 }
        _ => { if n >> 60 == 0 { chip.reset(); } 0 }
    },
    outputs |_| vec![]);

device_suite!(acpi_pm: AcpiPm = AcpiPm::new(crate::acpi_pm::TimerWidth::Bits24),
    regs &[0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12],
    host |chip, n| match n % 4 {
        0 => { chip.press_power_button(); 0 }
        1 => chip.take_sleep_request().map_or(9, u64::from),
        2 => chip.take_reset().into(),
        _ => { if n >> 60 == 0 { chip.reset(); } 0 }
    },
    outputs |chip| vec![chip.sci().into()]);

device_suite!(pci: PciHost = PciHost::new(), regs &[0, 4, 5, 6, 7],
    read |chip, reg, now| {
        let width = [crate::pci::Width::Byte, crate::pci::Width::Word, crate::pci::Width::Dword];
        width.iter().map(|width| u64::from(chip.read(reg as u16, *width, now))).sum()
    },
    // Twelve bits choose the register of one of the bridges, thirty-two its value.
    write 44, |chip, reg, value, now| {
        use crate::pci::Width;
        let address = 1 << 31 | (value >> 32) as u32 & 0xfff;
        chip.write(0, Width::Dword, address, now);
        let width = [Width::Byte, Width::Word, Width::Dword][(value >> 4) as usize % 3];
        chip.write(reg as u16, width, value as u32, now);
        0
    },
    host |chip, n| { if n >> 60 == 0 { chip.reset(); } u64::from(chip.pirq_route(n as usize % 4).unwrap_or(0)) },
    outputs |chip| chip.pam().iter().map(|(_, _, shadow)| shadow.read_ram.into()).collect());

device_suite!(system_control: SystemControl = SystemControl::new(), regs &[0, 1],
    host |chip, n| match n % 4 {
        0 => { chip.reset(); 0 }
        _ => match chip.take_reset() {
            None => 0,
            Some(ResetKind::Processor) => 1,
            Some(ResetKind::System) => 2,
        },
    },
    outputs |chip| vec![chip.a20().into()]);

card_suite!(virtio_block: crate::virtio::Function<crate::virtio::block::Block> =
    crate::virtio::Function::new(crate::virtio::block::Block::new(0x2000, false, "suite")),
drive 0x2000,
host |chip, n| {
    use crate::virtio::driver::{offer, start};
    // A driver that knows what it does, mostly.
    let now = GuestNs(n >> 50);
    match n % 8 {
        0 | 1 => start(chip, n >> 8 & 0x3000_0000, 0),
        _ => {
            let kind = (n >> 8) as u8 % 5;
            let header = [kind, 0, 0, 0, 0, 0, 0, 0, (n >> 16) as u8 % 20, 0, 0, 0, 0, 0, 0, 0];
            chip.memory.bytes[0x400..0x410].copy_from_slice(&header);
            let bytes = 512 * (n >> 24 & 3) as u32;
            let data = (0x1000 + (n >> 26 & 0x1000), bytes, kind != 1);
            offer(chip, 0, (n >> 32) as u16 % 8, &[(0x400, 16, false), data, (0x500, 1, true)], now);
        }
    }
    0
});

card_suite!(ide: crate::ide::Ide = {
    use crate::ide::{Ide, Media};
    let disk = Media::Disk { sectors: 16, read_only: false };
    let cd = Media::Cd { sectors: 4 };
    let mut ide = Ide::new([Some(disk), Some(cd), None, Some(disk)]);
    ide.enable();
    ide
},
    // Each of the card's drives is this one.
    drive 0x2000,
    host |chip, n| {
        use crate::card::Card;
        // A driver that knows what it does, mostly.
        const COMMANDS: [u8; 16] = [
            0x20, 0x24, 0xc4, 0xc8, 0x25, 0x30, 0x34, 0xc5, 0xca, 0x35, 0xec, 0xa0, 0xa0, 0xa1, 0xc6, 0xef,
        ];
        const PACKETS: [u8; 8] = [0x28, 0x28, 0xa8, 0x12, 0x25, 0x43, 0x5a, 0x03];
        let now = GuestNs(n >> 50);
        let region = if n & 0x10 == 0 { 0 } else { 2 };
        let mut write = |at: u64, value: u64| chip.card.write(region, at, 1, value, now);
        match n % 8 {
            0..3 => {
                write(6, 0x40 | n >> 8 & 0x10);
                write(1, n >> 16 & 1);
                write(2, n >> 24 & 3);
                write(3, n >> 32 & 0xf);
                write(4, 0);
                write(5, n >> 40 & 8);
                write(7, COMMANDS[(n >> 44) as usize % 16].into());
                0
            }
            3 => {
                let packet = [PACKETS[(n >> 8) as usize % 8], 0, 0, 0, 0, (n >> 12) as u8 & 3, 0, 0, 2, 0, 0, 0];
                for pair in packet.as_chunks::<2>().0 {
                    chip.card.write(region, 0, 2, u16::from_le_bytes(*pair).into(), now);
                }
                0
            }
            4 | 5 => (0..n >> 8 & 0x1ff).fold(0, |sum: u64, _| sum.wrapping_mul(31) ^ chip.card.read(region, 0, 2, now)),
            6 => {
                (0..n >> 8 & 0x1ff).for_each(|word| chip.card.write(region, 0, 2, word, now));
                0
            }
            _ => {
                chip.card.config_write(4, crate::pci::Width::Word, 5, now);
                chip.memory.bytes[0x100..0x108].copy_from_slice(&[0, 0x10, 0, 0, 0, 4, 0, (n >> 8) as u8]);
                let master = u64::from(region) * 4;
                chip.card.write(4, master, 1, 0, now);
                chip.card.write(4, master + 4, 4, 0x100, now);
                chip.card.write(4, master, 1, 1 | n >> 16 & 8, now);
                chip.card.read(4, master + 2, 1, now)
            }
        }
    });

card_suite!(virtio_net: crate::virtio::Function<crate::virtio::net::Net> =
    crate::virtio::Function::new(crate::virtio::net::Net::new([2, 0, 0, 0, 0, 1])),
drive 0,
host |chip, n| {
    use crate::virtio::driver::{offer, start};
    let now = GuestNs(n >> 50);
    let (first, bytes) = ((n >> 32) as u16 % 8, (n >> 8) as u32 & 0x7ff);
    match n % 8 {
        0 => start(chip, n >> 8 & 0x3000_8000, (n >> 4) as u16 & 1),
        1 | 2 => offer(chip, 0, first, &[(0x1000, bytes, true)], now),
        3 | 4 => offer(chip, 1, first, &[(0x400, 12, false), (0x1000, bytes, false)], now),
        5 => chip.card.device_mut().set_link(n >> 8 & 3 != 0, now),
        _ => chip.card.device_mut().receive(&vec![n as u8; bytes as usize], now),
    }
    chip.card.device().room() as u64
});

card_suite!(virtio_rng: crate::virtio::Function<crate::virtio::rng::Rng> =
    crate::virtio::Function::new(crate::virtio::rng::Rng::new(7)),
drive 0,
host |chip, n| {
    use crate::virtio::driver::{offer, start};
    let now = GuestNs(n >> 50);
    match n % 4 {
        0 => start(chip, n >> 8 & 0x3000_0000, 0),
        _ => offer(chip, 0, (n >> 32) as u16 % 8, &[(0x1000, (n >> 8) as u32 & 0x1fff, true)], now),
    }
    0
});

card_suite!(virtio_console: crate::virtio::Function<crate::virtio::console::Console> =
    crate::virtio::Function::new(crate::virtio::console::Console::default()),
drive 0,
host |chip, n| {
    use crate::virtio::driver::{offer, start};
    let now = GuestNs(n >> 50);
    let (first, bytes) = ((n >> 32) as u16 % 8, (n >> 8) as u32 & 0x7ff);
    match n % 8 {
        0 => start(chip, n >> 8 & 0x3000_0000, (n >> 4) as u16 & 1),
        1 | 2 => offer(chip, 0, first, &[(0x1000, bytes, true)], now),
        3 | 4 => offer(chip, 1, first, &[(0x1000, bytes, false)], now),
        5 => return chip.card.device_mut().take_transmitted().iter().map(|byte| u64::from(*byte)).sum(),
        _ => chip.card.device_mut().receive(&vec![n as u8; bytes as usize], now),
    }
    0
});

card_suite!(e1000: crate::e1000::E1000 = crate::e1000::E1000::new([2, 0, 0, 0, 0, 1]),
drive 0,
host |chip, n| {
    use crate::card::Card;
    use crate::pci::Width;
    let now = GuestNs(n >> 50);
    let value = n >> 8 & 0xffff_ffff;
    let mut write = |register: u64, value: u64| chip.card.write(0, register, 4, value, now);
    match n % 16 {
        // A driver that sets its rings up, moves their tails, plays with EEPROM and PHY, resets.
        0 | 1 => {
            for (register, value) in [
                (0x2800, 0x400), (0x2808, 128), (0x2818, 7),
                (0x3800, 0x800), (0x3808, 128), (0x400, 2), (0xd0, 0xff),
                (0x100, 2 | value & 0x0603_803c),
            ] {
                write(register, value);
            }
            chip.card.config_write(4, Width::Word, 7, now);
        }
        2 | 3 => write(0x2818, value % 8),
        4 | 5 => write(0x3818, value % 8),
        6 | 7 => write(0x10, value),
        8 => write([0x14, 0x20][value as usize & 1], value),
        9 => write([0x5200, 0x5404, 0x1000, 0xc8, 0xd8][value as usize % 5], value),
        10 if value < 1 << 26 => write(0, 1 << 26 | 1 << 31),
        11 => chip.card.set_link(value & 3 != 0),
        _ => {
            let mut frame = vec![n as u8; value as usize & 0x7ff];
            frame.iter_mut().zip([2, 0, 0, 0, 0, 1]).for_each(|(to, from)| *to = from);
            chip.card.receive(&frame, now);
        }
    }
    chip.card.room() as u64
});

device_suite!(fw_cfg: FwCfg = {
    let mut items = crate::fw_cfg::Items::new();
    items.add_file("etc/suite", [1, 2, 3, 4, 5].as_slice().into());
    FwCfg::new(items)
},
    regs &[0, 1, 1, 4, 8, 10, 11],
    // A descriptor, and the copy that it asks for: what is in memory afterwards.
    host |chip, n| {
        const ITEMS: [u8; 4] = [0x00, 0x01, 0x19, 0x20];
        if n >> 60 == 0 {
            chip.reset();
        }
        let mut memory = crate::testing::Memory::new(0x400);
        let words = [
            u32::from(ITEMS[(n >> 8) as usize % 4]) << 16 | n as u32 & 0x1f,
            (n >> 16) as u32 & 0x7f,
            0,
            (n >> 24) as u32 & 0x3ff,
        ];
        for (at, word) in (0x100..).step_by(4).zip(words) {
            memory.bytes[at..at + 4].copy_from_slice(&word.to_be_bytes());
        }
        for (reg, byte) in (4..).zip(0x100u64.to_be_bytes()) {
            chip.write(reg, byte, GuestNs(0));
        }
        chip.service(&mut memory);
        memory.bytes.iter().fold(0, |sum: u64, byte| sum.wrapping_mul(31) ^ u64::from(*byte))
    },
    outputs |chip| vec![chip.wants_service().into()]);

/// A display whose memory nobody touches: it is the board's to bring over, and not in the state.
struct Screen(Vga);

impl Screen {
    /// The window and the offset in it of a number: ports, the extension's, and those that are mapped into memory.
    fn place(reg: u64) -> (u8, u64) {
        match reg >> 12 & 3 {
            0 => (2, 0x400 + reg % 0x118),
            1 => (10, reg % 4),
            _ => (9, reg % 0x30),
        }
    }

    fn deadline(&self) -> Option<GuestNs> {
        Card::deadline(&self.0)
    }

    fn advance(&mut self, _now: GuestNs) {}

    fn save(&self) -> crate::vga::State {
        self.0.save()
    }

    fn restore(&mut self, state: crate::vga::State) -> Result<(), RestoreError> {
        self.0.restore(state)
    }
}

device_suite!(vga: Screen = Screen(Vga::new()),
    // Each has 16 MiB.
    seeds 20,
    regs &[
        0x2010, 0x2014, 0x2015, 0x2016, 0x2017, 0x2018, 0x2019, 0x201c, 0x201e, 0x201f, 0x2024, 0x2025, 0x202a, 0x1000, 0x1001,
        0x0000, 0x0100,
    ],
    read |chip, reg, now| {
        let (region, offset) = Screen::place(reg);
        chip.0.read(region, offset, 1, now)
    },
    // Index and data at once.
    write 16, |chip, reg, value, now| {
        let (region, offset) = Screen::place(reg);
        chip.0.write(region, offset, 2, value, now);
        0
    },
    host |chip, n| {
        use crate::pci::Width;
        let now = GuestNs(0);
        match n % 4 {
            0 => chip.0.config_write((n >> 8) as u8 & 0x3c, Width::Dword, (n >> 16) as u32, now),
            1 if n >> 60 == 0 => chip.0.reset(),
            1 | 2 => {
                // A linear mode; what memory holds stays.
                let depth = [4, 8, 15, 16, 24, 32][(n >> 8) as usize % 6];
                let size = [n >> 16 & 0x7ff, n >> 32 & 0x3ff];
                for (register, value) in [(4, 0), (1, size[0]), (2, size[1]), (3, depth), (4, 0xc1)] {
                    chip.0.write(10, 0, 2, register, now);
                    chip.0.write(10, 1, 2, value, now);
                }
            }
            _ => {}
        }
        chip.0.config_read((n >> 8) as u8 & 0x3c, Width::Dword, now).into()
    },
    outputs |chip| chip.0.windows().iter().map(|window| window.first).collect());

//! Arbitrary bytes as all that happens to one device: accesses of a guest that means no good, what it puts into the memory that
//! the device reads, frames and keys, time, and between any two of them a save and a restore.
//!
//! One harness serves all devices ([`run`]); a device says how it is reached, in a file of its own ([`Device`]). Each script is
//! run twice, the second time with every save that it asks for restored into a fresh device, which then goes on: both must show
//! the same. Nothing panics, each call of a card's `service` moves a bounded number of bytes and puts its deadline off, and no
//! drive is accessed beyond its end.
//!
//! `tests/devices.rs` runs scripts from seeds, `../../fuzz` those that a fuzzer finds.

mod all;
mod cards;
mod chips;
mod memory;
mod script;

pub use all::{ALL, Entry};
pub use cards::{
    E1000Card, IdeFunction, VgaCard, VirtioBlock, VirtioConsole, VirtioNet, VirtioRng,
};
pub use chips::{
    AcpiBlock, FirmwareConfig, IoApicChip, Keyboard, LocalApic, PciBridges, Pics, RealTimeClock,
    SerialPort, SystemPorts, Timer,
};
pub use memory::Memory;
pub use script::{Script, random_script};

use dejavm_devices::RestoreError;
use dejavm_units::GuestNs;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// Configuration space, as a set of registers.
pub const CONFIG: u8 = 15;

/// Steps of a script at most.
const STEPS_MAX: usize = 2000;
/// Deadlines on the way to a time, before the device is told of that time alone.
const DEADLINES_MAX: usize = 64;
/// Bytes that one call of `service` may move.
const MOVED_MAX: u64 = 48 << 20;
/// Bytes that all of a script may move and read: then it is over.
const SCRIPT_MOVED_MAX: u64 = 8 << 20;

/// A device as the harness sees it.
pub trait Device: Sized {
    /// What it saves.
    type State: Clone + PartialEq + Debug + Serialize + DeserializeOwned;

    /// Registers that scripts prefer: the set, and the offset in it.
    const REGISTERS: &'static [(u8, u32)];

    /// Restores of a script at most: a few where each takes long.
    const RESTORES_MAX: usize = STEPS_MAX;

    /// The device at power-on.
    fn power_on() -> Self;

    /// What a driver does at first, as a script, in one of several ways: fuzzers and seeds begin with it.
    fn begin(_script: &mut Script, _variant: u64) {}

    /// What a driver does when all is set up as [`Device::begin`] does it: one request, in one of many ways.
    fn request(_script: &mut Script, _number: u64, _memory: &Memory) {}

    /// A guest's access, if that can reach the device; what it reads.
    fn read(&mut self, region: u8, offset: u64, size: u8, now: GuestNs) -> u64;

    /// A guest's access, if that can reach the device; what comes of it, if writes have effects outside.
    fn write(&mut self, region: u8, offset: u64, size: u8, value: u64, now: GuestNs) -> u64;

    /// Something from the host's side, or the taking of an output, chosen by `what`.
    fn host(&mut self, _what: u8, _bytes: &[u8], _now: GuestNs) -> u64 {
        0
    }

    /// Lines, messages: what others see of it.
    fn outputs(&mut self) -> Vec<u64>;

    /// When it changes by itself.
    fn deadline(&self) -> Option<GuestNs>;

    /// It is that late.
    fn service(&mut self, now: GuestNs, memory: &mut Memory);

    /// The reset pin.
    fn reset(&mut self);

    /// Its state.
    fn save(&self) -> Self::State;

    /// Becomes that.
    fn restore(&mut self, state: Self::State) -> Result<(), RestoreError>;

    /// What a machine brings over besides the state.
    fn bring(&mut self, _from: &mut Self) {}

    /// What people see of it, which takes long to make.
    fn shown(&mut self) -> u64 {
        0
    }
}

/// A device under way.
struct Run<D> {
    device: D,
    memory: Memory,
    now: GuestNs,
    /// What was seen of it.
    seen: Vec<u64>,
    /// How often it was restored.
    restored: usize,
}

/// Runs a script on a device. See the module's documentation; returns how much was seen of the device.
///
/// # Panics
/// If the device is at fault.
pub fn run<D: Device>(bytes: &[u8]) -> usize {
    let mut continued = Run::<D>::new();
    continued.go(bytes, false);
    let mut restored = Run::<D>::new();
    restored.go(bytes, true);
    let differs = continued.seen.iter().zip(&restored.seen).position(|(a, b)| a != b);
    assert_eq!(differs, None, "what is seen after a restore is what is seen without");
    assert_eq!(continued.seen.len(), restored.seen.len());
    assert_eq!(continued.device.save(), restored.device.save());
    assert_eq!(continued.device.shown(), restored.device.shown());
    assert!(continued.memory == restored.memory, "memory or the drive differs after a restore");
    continued.seen.len()
}

impl<D: Device> Run<D> {
    fn new() -> Run<D> {
        Run {
            device: D::power_on(),
            memory: Memory::new(),
            now: GuestNs(0),
            seen: Vec::new(),
            restored: 0,
        }
    }

    fn go(&mut self, bytes: &[u8], restores: bool) {
        let mut reader = script::Reader::new(bytes, D::REGISTERS);
        for _ in 0..STEPS_MAX {
            let Some(step) = reader.next_step() else { break };
            if self.memory.work() > SCRIPT_MOVED_MAX {
                break;
            }
            self.step(step, restores);
            let outputs = self.device.outputs();
            self.seen.extend(outputs);
            self.seen.push(self.device.deadline().map_or(u64::MAX, |deadline| deadline.0));
        }
    }

    /// A driver's steps, among which is no driver.
    fn drive(&mut self, script: Script) {
        let bytes = script.into_bytes();
        let mut reader = script::Reader::new(&bytes, D::REGISTERS);
        while let Some(step) = reader.next_step() {
            self.step(step, false);
        }
    }

    fn step(&mut self, step: script::Step, restores: bool) {
        use script::Step;
        let now = self.now;
        match step {
            Step::Read { region, offset, size } => {
                let value = self.device.read(region, offset.into(), size, now);
                self.seen.push(value);
            }
            Step::Write { region, offset, size, value } => {
                let value = value & (u64::MAX >> (64 - 8 * u32::from(size)));
                self.seen.push(self.device.write(region, offset.into(), size, value, now));
            }
            Step::Memory { at, bytes } => self.memory.put(at, &bytes),
            Step::ToDeadline => {
                // Further away nothing is waited for.
                let deadline = self.device.deadline().filter(|at| at.0 < now.0 + (1 << 40));
                self.advance(deadline.unwrap_or(now).max(now));
            }
            Step::Advance { ns } => self.advance(GuestNs(now.0.saturating_add(ns))),
            Step::Wait { ns } => self.now = GuestNs(now.0.saturating_add(ns)),
            Step::Restore => {
                if restores && self.restored < D::RESTORES_MAX {
                    self.restored += 1;
                    self.restore();
                }
            }
            Step::Host { what, bytes } => self.seen.push(self.device.host(what, &bytes, now)),
            Step::Reset => self.device.reset(),
            Step::Begin { variant } => {
                let mut script = Script::default();
                D::begin(&mut script, variant);
                self.drive(script);
            }
            Step::Request { number } => {
                let mut script = Script::default();
                D::request(&mut script, number, &self.memory);
                self.drive(script);
            }
        }
    }

    /// As the board does: from deadline to deadline.
    fn advance(&mut self, to: GuestNs) {
        for _ in 0..DEADLINES_MAX {
            let Some(deadline) = self.device.deadline().filter(|deadline| *deadline <= to) else {
                self.now = to;
                self.device.service(to, &mut self.memory);
                return;
            };
            // A deadline in the past means now.
            self.now = deadline.max(self.now);
            let before = self.memory.moved;
            self.device.service(self.now, &mut self.memory);
            let moved = self.memory.moved - before;
            assert!(moved <= MOVED_MAX, "{moved} bytes are more than a call may move");
            let next = self.device.deadline();
            assert!(next.is_none_or(|next| next > self.now), "{next:?} at {}", self.now);
        }
    }

    /// A fresh device goes on.
    fn restore(&mut self) {
        let saved = self.device.save();
        let config = bincode::config::standard();
        let bytes = bincode::serde::encode_to_vec(&saved, config).expect("states are plain data");
        let (state, _) = bincode::serde::decode_from_slice::<D::State, _>(&bytes, config)
            .expect("what was encoded can be decoded");
        assert_eq!(state, saved);
        let mut fresh = D::power_on();
        fresh.restore(state).unwrap_or_else(|error| panic!("{error}: {saved:?}"));
        fresh.bring(&mut self.device);
        assert_eq!(fresh.save(), saved);
        self.device = fresh;
    }
}

//! Intel 8254 programmable interval timer and the PC's port 0x61 (Intel 8254 datasheet, 231164-005;
//! 82371SB, "PIIX3", NMI status and control register).
//!
//! Data path: the 1.193182 MHz clock decrements three counters. Channel 0 drives IRQ 0, channel 1
//! once timed memory refresh, channel 2 feeds the speaker and can be read back at port 0x61, whose
//! bit 0 is its gate.
//!
//! Nothing counts here: a counter is the tick at which it was loaded, and its value, its output and
//! its next transition are arithmetic on the tick of the moment. A count that is written at a tick
//! is loaded at the next one, as the chip does.
//!
//! Not modelled: the NMI sources of port 0x61 (its status bits read as zero).

use crate::clock::Clock;
use crate::{PortRange, RestoreError};
use dejavm_units::GuestNs;
use serde::{Deserialize, Serialize};

/// Registers 0 to 3 are ports 0x40 to 0x43 (counters, control word); register 4 is port 0x61.
pub const PORTS: [PortRange; 2] =
    [PortRange { first: 0x40, count: 4, reg: 0 }, PortRange { first: 0x61, count: 1, reg: 4 }];

/// Frequency of the counters' clock, in Hz (14.31818 MHz / 12).
pub const FREQUENCY_HZ: u32 = 1_193_182;

const CLOCK: Clock = Clock::from_hz(FREQUENCY_HZ);
/// The refresh request that port 0x61 bit 4 toggles with: every 18 ticks, 15.09 us.
const REFRESH_TICKS: u64 = 18;

const PORT_61_GATE_2: u8 = 1 << 0;
const PORT_61_SPEAKER: u8 = 1 << 1;
const PORT_61_WRITABLE: u8 = 0x0f;
const PORT_61_REFRESH: u8 = 1 << 4;
const PORT_61_OUT_2: u8 = 1 << 5;

/// The six counting modes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Mode {
    InterruptOnTerminalCount,
    OneShot,
    RateGenerator,
    SquareWave,
    SoftwareStrobe,
    HardwareStrobe,
}

/// Which bytes of the count an access to the counter's port transfers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Access {
    Low,
    High,
    LowThenHigh,
}

/// One counter.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Channel {
    mode: Mode,
    access: Access,
    bcd: bool,
    gate: bool,
    /// The count register as written (binary or BCD; 0 is the largest count).
    reload: u16,
    /// A count has been written since the control word.
    programmed: bool,
    /// `reload` waits for a trigger or for the end of the period.
    reload_waits: bool,
    /// First byte of a two-byte write.
    low_byte: Option<u8>,
    /// The next unlatched or latched read gives the high byte of two.
    high_byte_next: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
    /// The count that the counting element was last loaded with: 1..=65536; `None` since the
    /// control word.
    loaded: Option<u32>,
    /// Ticks counted down before `origin`.
    base: u64,
    /// The tick from which on the clock is counted, if `running`.
    origin: u64,
    running: bool,
    /// The tick at which `reload` takes effect (rate generator and square wave).
    switch_at: Option<u64>,
}

/// Everything of the chip that can change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    channels: [Channel; 3],
    /// The writable bits of port 0x61.
    port_61: u8,
    now: GuestNs,
}

/// The 8254 and port 0x61.
#[derive(Clone, Debug)]
pub struct Pit {
    // Configuration: none.
    // Glue: none.
    state: State,
}

impl Default for Pit {
    fn default() -> Pit {
        Pit::new()
    }
}

impl Channel {
    const fn unprogrammed(gate: bool) -> Channel {
        Channel {
            mode: Mode::SquareWave,
            access: Access::LowThenHigh,
            bcd: false,
            gate,
            reload: 0,
            programmed: false,
            reload_waits: false,
            low_byte: None,
            high_byte_next: false,
            latched_count: None,
            latched_status: None,
            loaded: None,
            base: 0,
            origin: 0,
            running: false,
            switch_at: None,
        }
    }

    fn counting(mode: Mode, reload: u16, tick: u64) -> Channel {
        let mut channel = Channel { mode, reload, programmed: true, ..Channel::unprogrammed(true) };
        channel.load(tick);
        channel
    }

    /// The largest count: what a count of zero means and what the counter wraps at.
    fn modulus(&self) -> u32 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    /// `reload` as a number of ticks, 1 or more.
    fn reload_ticks(&self) -> u32 {
        let raw = u32::from(self.reload);
        let ticks = if self.bcd {
            // Digits above 9 are the guest's mistake; they weigh what they say.
            (0..4).map(|digit| ((raw >> (4 * digit)) & 0xf) * 10u32.pow(digit)).sum()
        } else {
            raw
        };
        if ticks == 0 { self.modulus() } else { ticks }
    }

    /// A counter value as the guest reads it.
    fn encode(&self, ticks: u64) -> u16 {
        let value = (ticks % u64::from(self.modulus())) as u32;
        if self.bcd {
            (0..4).map(|digit| (value / 10u32.pow(digit) % 10) << (4 * digit)).sum::<u32>() as u16
        } else {
            value as u16
        }
    }

    fn elapsed(&self, tick: u64) -> u64 {
        if self.running {
            self.base.saturating_add(tick.saturating_sub(self.origin))
        } else {
            self.base
        }
    }

    /// Loads the counting element from the count register at `tick`.
    fn load(&mut self, tick: u64) {
        self.loaded = Some(self.reload_ticks());
        self.reload_waits = false;
        self.base = 0;
        self.origin = tick;
        self.running = true;
        self.switch_at = None;
    }

    /// Takes the new count at the end of the period that ended at or before `tick`.
    fn settle(&mut self, tick: u64) {
        let (Some(at), Some(old)) = (self.switch_at, self.loaded) else { return };
        if tick < at || !self.running {
            return;
        }
        let ended_in_the_middle = !self.elapsed(at).is_multiple_of(u64::from(old));
        self.load(at);
        if self.mode == Mode::SquareWave && ended_in_the_middle {
            // The new count takes over for the low half.
            self.base = u64::from(self.reload_ticks().div_ceil(2));
        }
    }

    fn out(&self, tick: u64) -> bool {
        let Some(loaded) = self.loaded else {
            return self.mode != Mode::InterruptOnTerminalCount;
        };
        let n = u64::from(loaded);
        let elapsed = self.elapsed(tick);
        match self.mode {
            Mode::InterruptOnTerminalCount | Mode::OneShot => elapsed >= n,
            // A count of one is illegal; the output then never falls.
            Mode::RateGenerator => !self.gate || n == 1 || elapsed % n != n - 1,
            Mode::SquareWave => !self.gate || elapsed % n < n.div_ceil(2),
            Mode::SoftwareStrobe | Mode::HardwareStrobe => elapsed != n,
        }
    }

    /// The first tick after `tick` at which the output differs from that at `tick`.
    fn next_transition(&self, tick: u64) -> Option<u64> {
        let n = u64::from(self.loaded?);
        if !self.running {
            return None;
        }
        let elapsed = self.elapsed(tick);
        let target = match self.mode {
            Mode::InterruptOnTerminalCount | Mode::OneShot => (elapsed < n).then_some(n),
            // Nothing moves, until a longer count takes over.
            Mode::RateGenerator | Mode::SquareWave if n == 1 => return self.switch_at,
            Mode::RateGenerator => {
                let to_fall = n - 1 - elapsed % n;
                Some(elapsed.saturating_add(to_fall.max(1)))
            }
            Mode::SquareWave => {
                let (phase, high) = (elapsed % n, n.div_ceil(2));
                Some(elapsed.saturating_add(if phase < high { high - phase } else { n - phase }))
            }
            Mode::SoftwareStrobe | Mode::HardwareStrobe => match elapsed {
                e if e < n => Some(n),
                e if e == n => Some(n + 1),
                _ => None,
            },
        }?;
        Some(self.origin.saturating_add(target.saturating_sub(self.base)))
    }

    /// The counting element as the guest reads it.
    fn count(&self, tick: u64) -> u16 {
        let Some(loaded) = self.loaded else { return self.reload };
        let n = u64::from(loaded);
        let elapsed = self.elapsed(tick);
        match self.mode {
            Mode::InterruptOnTerminalCount
            | Mode::OneShot
            | Mode::SoftwareStrobe
            | Mode::HardwareStrobe => {
                let modulus = u64::from(self.modulus());
                self.encode(n + modulus - elapsed % modulus)
            }
            Mode::RateGenerator => self.encode(n - elapsed % n),
            // Counts down by two, twice a period; an odd count loses its one first and its high
            // half lasts one tick longer, at zero.
            Mode::SquareWave => {
                let (phase, high) = (elapsed % n, n.div_ceil(2));
                let in_half = if phase < high { phase } else { phase - high };
                self.encode((n & !1) - 2 * in_half)
            }
        }
    }

    fn status(&self, tick: u64) -> u8 {
        let null_count =
            self.loaded.is_none() || self.reload_waits || (self.running && tick < self.origin);
        let access = match self.access {
            Access::Low => 1,
            Access::High => 2,
            Access::LowThenHigh => 3,
        };
        let mode = match self.mode {
            Mode::InterruptOnTerminalCount => 0,
            Mode::OneShot => 1,
            Mode::RateGenerator => 2,
            Mode::SquareWave => 3,
            Mode::SoftwareStrobe => 4,
            Mode::HardwareStrobe => 5,
        };
        u8::from(self.out(tick)) << 7
            | u8::from(null_count) << 6
            | access << 4
            | mode << 1
            | u8::from(self.bcd)
    }

    /// A control word that programs this counter.
    fn write_control(&mut self, value: u8) {
        let access = match (value >> 4) & 3 {
            1 => Access::Low,
            2 => Access::High,
            // 0, the latch command, does not come here.
            _ => Access::LowThenHigh,
        };
        let mode = match (value >> 1) & 7 {
            0 => Mode::InterruptOnTerminalCount,
            1 => Mode::OneShot,
            2 | 6 => Mode::RateGenerator,
            4 => Mode::SoftwareStrobe,
            5 => Mode::HardwareStrobe,
            // 3 and 7.
            _ => Mode::SquareWave,
        };
        *self = Channel {
            mode,
            access,
            bcd: value & 1 != 0,
            reload: self.reload,
            ..Channel::unprogrammed(self.gate)
        };
    }

    fn write_count(&mut self, value: u8, tick: u64) {
        let count = match (self.access, self.low_byte) {
            (Access::Low, _) => u16::from(value),
            (Access::High, _) => u16::from(value) << 8,
            (Access::LowThenHigh, None) => {
                self.low_byte = Some(value);
                if self.mode == Mode::InterruptOnTerminalCount {
                    // "Writing the first byte disables counting. OUT is set low immediately."
                    self.loaded = None;
                    self.running = false;
                    self.base = 0;
                }
                return;
            }
            (Access::LowThenHigh, Some(low)) => u16::from_le_bytes([low, value]),
        };
        self.low_byte = None;
        self.reload = count;
        self.programmed = true;
        match self.mode {
            Mode::InterruptOnTerminalCount | Mode::SoftwareStrobe => {
                self.load(tick + 1);
                self.running = self.gate;
            }
            Mode::OneShot | Mode::HardwareStrobe => self.reload_waits = true,
            Mode::RateGenerator | Mode::SquareWave => self.write_period(tick),
        }
    }

    /// A new count for a periodic mode: at once if nothing counts yet, else at the end of the period
    /// (of the half period for the square wave).
    fn write_period(&mut self, tick: u64) {
        let Some(old) = self.loaded else {
            self.load(tick + 1);
            self.running = self.gate;
            return;
        };
        if !self.running {
            self.reload_waits = true;
        } else if tick < self.origin {
            self.load(self.origin);
        } else {
            let n = u64::from(old);
            let phase = self.elapsed(tick) % n;
            let high = n.div_ceil(2);
            let left = if self.mode == Mode::SquareWave && phase < high {
                high - phase
            } else {
                n - phase
            };
            self.reload_waits = true;
            self.switch_at = Some(tick + left);
        }
    }

    fn set_gate(&mut self, level: bool, tick: u64) {
        if level == self.gate {
            return;
        }
        self.gate = level;
        match (self.mode, level) {
            (Mode::InterruptOnTerminalCount | Mode::SoftwareStrobe, true) => {
                self.origin = tick;
                self.running = self.loaded.is_some();
            }
            (
                Mode::InterruptOnTerminalCount
                | Mode::SoftwareStrobe
                | Mode::RateGenerator
                | Mode::SquareWave,
                false,
            ) => {
                self.base = self.elapsed(tick);
                self.running = false;
                self.switch_at = None;
            }
            (Mode::OneShot | Mode::HardwareStrobe, false) => {}
            (
                Mode::OneShot | Mode::HardwareStrobe | Mode::RateGenerator | Mode::SquareWave,
                true,
            ) => {
                if self.programmed {
                    self.load(tick + 1);
                }
            }
        }
    }

    fn latch_count(&mut self, tick: u64) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.count(tick));
        }
    }

    fn latch_status(&mut self, tick: u64) {
        if self.latched_status.is_none() {
            self.latched_status = Some(self.status(tick));
        }
    }

    fn read(&mut self, tick: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self.latched_count.unwrap_or_else(|| self.count(tick)).to_le_bytes();
        let (byte, last) = match (self.access, self.high_byte_next) {
            (Access::Low, _) => (low, true),
            (Access::High, _) => (high, true),
            (Access::LowThenHigh, false) => (low, false),
            (Access::LowThenHigh, true) => (high, true),
        };
        self.high_byte_next = !last;
        if last {
            self.latched_count = None;
        }
        byte
    }
}

// Guest side.
impl Pit {
    /// The chip at power-on. The datasheet leaves the counters undefined; they run here as the
    /// firmware of a PC leaves them (channel 0 at 18.2 Hz, channel 1 for refresh), so that a kernel
    /// which is loaded without firmware finds what it expects.
    pub fn new() -> Pit {
        let mut pit = Pit {
            state: State {
                channels: [const { Channel::unprogrammed(true) }; 3],
                port_61: 0,
                now: GuestNs(0),
            },
        };
        pit.reset();
        pit
    }

    /// Back to power-on.
    pub fn reset(&mut self) {
        let tick = self.tick();
        self.state.port_61 = 0;
        self.state.channels = [
            Channel::counting(Mode::SquareWave, 0, tick),
            Channel::counting(Mode::RateGenerator, REFRESH_TICKS as u16, tick),
            Channel::unprogrammed(false),
        ];
    }

    /// Reads register `reg` (see [`PORTS`]); the control word and what is not there read all-ones.
    pub fn read(&mut self, reg: u16, now: GuestNs) -> u8 {
        self.advance(now);
        let tick = self.tick();
        match reg {
            0..=2 => self.state.channels[usize::from(reg)].read(tick),
            4 => self.read_port_61(tick),
            _ => 0xff,
        }
    }

    /// Writes register `reg` (see [`PORTS`]).
    pub fn write(&mut self, reg: u16, value: u8, now: GuestNs) {
        self.advance(now);
        let tick = self.tick();
        match reg {
            0..=2 => self.state.channels[usize::from(reg)].write_count(value, tick),
            3 => self.write_control(value, tick),
            4 => {
                self.state.port_61 = value & PORT_61_WRITABLE;
                self.state.channels[2].set_gate(value & PORT_61_GATE_2 != 0, tick);
            }
            _ => {}
        }
    }

    fn write_control(&mut self, value: u8, tick: u64) {
        let selected = usize::from(value >> 6);
        if let Some(channel) = self.state.channels.get_mut(selected) {
            if value & 0x30 == 0 {
                channel.latch_count(tick);
            } else {
                channel.write_control(value);
            }
            return;
        }
        // Read-back command: bits 1 to 3 select counters, bits 5 and 4, low, what is latched.
        for (index, channel) in self.state.channels.iter_mut().enumerate() {
            if value & (2 << index) == 0 {
                continue;
            }
            if value & 0x20 == 0 {
                channel.latch_count(tick);
            }
            if value & 0x10 == 0 {
                channel.latch_status(tick);
            }
        }
    }

    fn read_port_61(&self, tick: u64) -> u8 {
        let refresh = if (tick / REFRESH_TICKS) & 1 != 0 { PORT_61_REFRESH } else { 0 };
        let out_2 = if self.out(2) { PORT_61_OUT_2 } else { 0 };
        self.state.port_61 | refresh | out_2
    }
}

// Board side.
impl Pit {
    /// Level of the output of `channel` (0..3). Channel 0 drives IRQ 0.
    pub fn out(&self, channel: usize) -> bool {
        assert!(channel < 3, "the 8254 has no channel {channel}");
        self.state.channels[channel].out(self.tick())
    }

    /// Level of the speaker.
    pub fn speaker(&self) -> bool {
        self.state.port_61 & PORT_61_SPEAKER != 0 && self.out(2)
    }

    /// The next transition, either way, of channel 0's output. In the rate generator mode there are
    /// two in a period: the output is low for its last tick. The other outputs reach no interrupt
    /// line and are seen only by reading.
    pub fn deadline(&self) -> Option<GuestNs> {
        self.state.channels[0].next_transition(self.tick()).and_then(|tick| CLOCK.start_of(tick))
    }

    /// Brings the counters to `now`.
    pub fn advance(&mut self, now: GuestNs) {
        self.state.now = self.state.now.max(now);
        let tick = self.tick();
        for channel in &mut self.state.channels {
            channel.settle(tick);
        }
    }

    fn tick(&self) -> u64 {
        CLOCK.tick_at(self.state.now)
    }
}

mod save_restore {
    use super::*;

    impl Pit {
        /// The state of the chip.
        pub fn save(&self) -> State {
            let Pit { state } = self;
            state.clone()
        }

        /// Becomes `state`. Refuses a count outside 1..=65536, bits that port 0x61 cannot hold, a gate
        /// that contradicts port 0x61, and ticks that are not of this time.
        pub fn restore(&mut self, state: State) -> Result<(), RestoreError> {
            let check = |valid, field| RestoreError::unless(valid, "the 8254", field);
            check(state.port_61 & !PORT_61_WRITABLE == 0, "port_61")?;
            let tick = CLOCK.tick_at(state.now);
            let gates = state.channels.each_ref().map(|channel| channel.gate);
            check(gates == [true, true, state.port_61 & PORT_61_GATE_2 != 0], "gate")?;
            for channel in &state.channels {
                check(channel.loaded.is_none_or(|n| (1..=0x1_0000).contains(&n)), "loaded")?;
                check(channel.loaded.is_some() || !channel.running, "running")?;
                // Nothing counts more than time has passed, or is due later than a count away.
                let bound = tick + 0x1_0000;
                check(channel.base <= bound, "base")?;
                check(channel.origin <= bound, "origin")?;
                check(channel.switch_at.is_none_or(|at| at <= bound), "switch_at")?;
            }
            self.state = state;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HZ: u128 = 1_193_182;

    /// The first nanosecond of a tick.
    fn at(tick: u64) -> GuestNs {
        GuestNs((u128::from(tick) * 1_000_000_000).div_ceil(HZ) as u64)
    }

    fn program(pit: &mut Pit, channel: u16, mode: u8, count: u16, tick: u64) {
        pit.write(3, (channel as u8) << 6 | 0x30 | mode << 1, at(tick));
        pit.write(channel, count as u8, at(tick));
        pit.write(channel, (count >> 8) as u8, at(tick));
    }

    fn latched(pit: &mut Pit, channel: u16, tick: u64) -> u16 {
        pit.write(3, (channel as u8) << 6, at(tick));
        u16::from_le_bytes([pit.read(channel, at(tick)), pit.read(channel, at(tick))])
    }

    /// The ticks in `ticks` at which OUT changes, with its new level, found by looking at each.
    fn observed(pit: &mut Pit, channel: usize, ticks: std::ops::Range<u64>) -> Vec<(u64, bool)> {
        pit.advance(at(ticks.start));
        let mut level = pit.out(channel);
        let mut changes = Vec::new();
        for tick in ticks {
            pit.advance(at(tick));
            if pit.out(channel) != level {
                level = !level;
                changes.push((tick, level));
            }
        }
        changes
    }

    /// The same through `deadline`.
    fn predicted(pit: &mut Pit, ticks: std::ops::Range<u64>) -> Vec<(u64, bool)> {
        pit.advance(at(ticks.start));
        let mut changes = Vec::new();
        while let Some(deadline) = pit.deadline() {
            if deadline >= at(ticks.end) {
                break;
            }
            pit.advance(deadline);
            changes.push(((u128::from(deadline.0) * HZ / 1_000_000_000) as u64, pit.out(0)));
        }
        changes
    }

    #[test]
    fn deadlines_are_the_transitions() {
        for mode in 0..6 {
            for count in [1u16, 2, 3, 4, 5, 9, 50] {
                let mut pit = Pit::new();
                program(&mut pit, 0, mode, count, 100);
                let mut other = pit.clone();
                assert_eq!(
                    observed(&mut pit, 0, 100..300),
                    predicted(&mut other, 100..300),
                    "mode {mode} count {count}"
                );
            }
        }
    }

    #[test]
    fn mode_0_rises_n_plus_1_ticks_after_the_write() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 0, 4, 100);
        assert!(!pit.out(0));
        assert_eq!(observed(&mut pit, 0, 100..200), [(105, true)]);
        // The counter wraps and goes on.
        assert_eq!(latched(&mut pit, 0, 205), 0xffff - 99);
        // The first byte of a new count stops it and lowers the output.
        pit.write(0, 9, at(300));
        assert!(!pit.out(0));
        assert_eq!(pit.deadline(), None);
    }

    #[test]
    fn mode_1_waits_for_its_gate_and_retriggers() {
        let mut pit = Pit::new();
        program(&mut pit, 2, 1, 10, 100);
        assert!(pit.out(2));
        pit.write(4, 1, at(200));
        assert!(!pit.out(2));
        pit.write(4, 0, at(205));
        pit.write(4, 1, at(206));
        assert_eq!(observed(&mut pit, 2, 206..300), [(217, true)]);
    }

    #[test]
    fn mode_2_is_low_for_the_last_tick() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 2, 5, 99);
        assert_eq!(
            observed(&mut pit, 0, 99..112),
            [(104, false), (105, true), (109, false), (110, true)]
        );
        assert_eq!(latched(&mut pit, 0, 115), 5);
        assert_eq!(latched(&mut pit, 0, 119), 1);
    }

    #[test]
    fn mode_2_takes_a_new_count_at_the_end_of_the_period() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 2, 10, 99);
        pit.write(0, 4, at(103));
        pit.write(0, 0, at(103));
        assert_eq!(
            observed(&mut pit, 0, 103..116),
            [(109, false), (110, true), (113, false), (114, true)]
        );
    }

    #[test]
    fn a_count_of_one_gives_way_to_a_longer_one() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 2, 1, 99);
        assert_eq!(observed(&mut pit, 0, 99..120), []);
        pit.write(0, 5, at(120));
        pit.write(0, 0, at(120));
        assert_eq!(
            predicted(&mut pit, 120..130),
            [(121, true), (125, false), (126, true)],
            "the first is the taking over, without a transition"
        );
    }

    #[test]
    fn mode_2_gate_stops_and_restarts() {
        let mut pit = Pit::new();
        pit.write(4, 1, at(0));
        program(&mut pit, 2, 2, 10, 99);
        pit.write(4, 0, at(109));
        assert!(pit.out(2), "a low gate raises the output at once");
        assert_eq!(observed(&mut pit, 2, 109..200), []);
        pit.write(4, 1, at(200));
        assert_eq!(observed(&mut pit, 2, 200..212), [(210, false), (211, true)]);
    }

    #[test]
    fn mode_3_halves() {
        let mut even = Pit::new();
        program(&mut even, 0, 3, 6, 99);
        assert_eq!(observed(&mut even, 0, 99..110), [(103, false), (106, true), (109, false)]);
        let mut odd = Pit::new();
        program(&mut odd, 0, 3, 5, 99);
        assert_eq!(observed(&mut odd, 0, 99..109), [(103, false), (105, true), (108, false)]);
        let counts: Vec<u16> = (110..115).map(|tick| latched(&mut odd, 0, tick)).collect();
        assert_eq!(counts, [4, 2, 0, 4, 2]);
    }

    #[test]
    fn mode_3_takes_a_new_count_at_the_half() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 3, 20, 99);
        pit.write(0, 4, at(101));
        pit.write(0, 0, at(101));
        assert_eq!(
            observed(&mut pit, 0, 101..117),
            [(110, false), (112, true), (114, false), (116, true)]
        );
    }

    #[test]
    fn mode_4_strobes_once() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 4, 3, 99);
        assert_eq!(observed(&mut pit, 0, 99..90_000), [(103, false), (104, true)]);
    }

    #[test]
    fn mode_5_strobes_after_its_trigger() {
        let mut pit = Pit::new();
        program(&mut pit, 2, 5, 3, 99);
        assert_eq!(observed(&mut pit, 2, 99..200), []);
        pit.write(4, 1, at(200));
        assert_eq!(observed(&mut pit, 2, 200..300), [(204, false), (205, true)]);
    }

    #[test]
    fn mode_0_gate_pauses() {
        let mut pit = Pit::new();
        pit.write(4, 1, at(0));
        program(&mut pit, 2, 0, 10, 99);
        pit.write(4, 0, at(105));
        assert_eq!(latched(&mut pit, 2, 150), 5);
        pit.write(4, 1, at(200));
        assert_eq!(pit.read(4, at(204)) & 0x20, 0);
        assert_eq!(pit.read(4, at(205)) & 0x20, 0x20);
    }

    #[test]
    fn bcd_counts() {
        let mut pit = Pit::new();
        pit.write(3, 0x31, at(99));
        pit.write(0, 0x00, at(99));
        pit.write(0, 0x10, at(99));
        assert_eq!(latched(&mut pit, 0, 101), 0x0999);
        assert_eq!(latched(&mut pit, 0, 1101), 0x9999);
    }

    #[test]
    fn read_back_latches_status_then_count() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 2, 0x1234, 100);
        pit.write(3, 0xc2, at(100));
        assert_eq!(pit.read(0, at(100)), 0x80 | 0x40 | 0x30 | 0x04, "not loaded yet");
        pit.read(0, at(100));
        pit.read(0, at(100));
        pit.write(3, 0xc2, at(101));
        pit.write(3, 0xc2, at(500));
        assert_eq!(pit.read(0, at(600)), 0xb4);
        assert_eq!(pit.read(0, at(600)), 0x34, "the first latch wins");
        assert_eq!(pit.read(0, at(600)), 0x12);
    }

    #[test]
    fn low_byte_only_access() {
        let mut pit = Pit::new();
        pit.write(3, 0x90, at(99));
        pit.write(4, 1, at(99));
        pit.write(2, 200, at(99));
        assert_eq!(pit.read(2, at(100)), 200);
        assert_eq!(pit.read(2, at(110)), 190);
    }

    #[test]
    fn port_61_toggles_with_refresh_and_shows_out_2() {
        let mut pit = Pit::new();
        let first = pit.read(4, GuestNs(0)) & 0x10;
        assert_ne!(first, pit.read(4, GuestNs(15_200)) & 0x10);
        pit.write(4, 0xff, GuestNs(15_200));
        assert_eq!(pit.read(4, GuestNs(15_200)) & 0x0f, 0x0f);
    }

    #[test]
    fn a_hundred_hertz_for_an_hour_does_not_drift() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 2, 11932, 0);
        let hour = GuestNs(3_600_000_000_000);
        pit.advance(hour);
        // 3600 s * 1193182 Hz = 4 295 455 200 ticks, the first of which loaded the counter.
        let phase = (4_295_455_200u64 - 1) % 11932;
        assert_eq!(u64::from(latched(&mut pit, 0, 4_295_455_200)), 11932 - phase);
    }

    #[test]
    fn restore_refuses_ticks_of_another_time() {
        let refused = |change: fn(&mut State)| {
            let mut state = Pit::new().save();
            change(&mut state);
            Pit::new().restore(state).unwrap_err().field
        };
        assert_eq!(refused(|state| state.channels[0].base = u64::MAX), "base");
        assert_eq!(refused(|state| state.channels[0].origin = 1 << 40), "origin");
        assert_eq!(refused(|state| state.channels[0].switch_at = Some(1 << 40)), "switch_at");
        assert_eq!(refused(|state| state.channels[0].loaded = Some(0)), "loaded");
        assert_eq!(refused(|state| state.channels[2].gate = true), "gate");
    }
}

//! Motorola MC146818A real-time clock and its CMOS memory (Motorola datasheet ADI1026; the 128 bytes
//! and the NMI gate of the index port are the PC/AT's).
//!
//! Data path: a 32.768 kHz divider chain sets PF at the selected rate and, once a second, starts an
//! update: the calendar in registers 0 to 9 goes on by a second, UF is set, and AF if the alarm
//! registers match. Register C holds the flags until it is read; each has its enable in register B.
//!
//! The time is a function of guest time and of the start time in the configuration. The calendar is
//! kept in the guest's registers, as in the chip, so that whatever the guest writes stays there until
//! the next update. An update makes sense of nonsense by carrying (minute 75 is a quarter past).
//!
//! Decided where documents leave room:
//! * UIP is set for the 8 ticks (244 us) before an update; the update itself takes no time.
//! * The century in register 0x32 takes part in the calendar, as firmware and ACPI expect.
//! * Every divider setting but "reset" runs the clock at its normal speed.
//!
//! Not modelled: daylight saving, the square wave output, loss of battery.

use crate::clock::Clock;
use crate::{PortRange, RestoreError};
use dejavm_units::GuestNs;
use serde::{Deserialize, Serialize};

/// Register 0 is the index port 0x70, register 1 the data port 0x71.
pub const PORTS: [PortRange; 1] = [PortRange { first: 0x70, count: 2, reg: 0 }];

/// Bytes of CMOS memory, clock registers included.
pub const CMOS_SIZE: usize = 128;

/// Frequency of the divider chain's crystal, in Hz.
pub const FREQUENCY_HZ: u32 = 32_768;

const CLOCK: Clock = Clock::from_hz(FREQUENCY_HZ);
const TICKS_PER_SECOND: u64 = FREQUENCY_HZ as u64;
/// UIP is set this long before an update: 244 us.
const UIP_TICKS: u64 = 8;

const SECONDS: usize = 0x00;
const SECONDS_ALARM: usize = 0x01;
const MINUTES: usize = 0x02;
const MINUTES_ALARM: usize = 0x03;
const HOURS: usize = 0x04;
const HOURS_ALARM: usize = 0x05;
const DAY_OF_WEEK: usize = 0x06;
const DAY_OF_MONTH: usize = 0x07;
const MONTH: usize = 0x08;
const YEAR: usize = 0x09;
const REGISTER_A: usize = 0x0a;
const REGISTER_B: usize = 0x0b;
const REGISTER_C: usize = 0x0c;
const REGISTER_D: usize = 0x0d;
const CENTURY: usize = 0x32;

const A_UIP: u8 = 1 << 7;
const A_DIVIDER_RESET: u8 = 0x60;
const A_RATE: u8 = 0x0f;
const B_24_HOURS: u8 = 1 << 1;
const B_BINARY: u8 = 1 << 2;
const B_SQWE: u8 = 1 << 3;
const B_UIE: u8 = 1 << 4;
const B_AIE: u8 = 1 << 5;
const B_PIE: u8 = 1 << 6;
const B_SET: u8 = 1 << 7;
const C_UF: u8 = 1 << 4;
const C_AF: u8 = 1 << 5;
const C_PF: u8 = 1 << 6;
const C_IRQF: u8 = 1 << 7;
const C_FLAGS: u8 = C_UF | C_AF | C_PF;
const D_VRT: u8 = 1 << 7;
const HOURS_PM: u8 = 1 << 7;

const SECONDS_PER_DAY: i64 = 86_400;
/// The calendar repeats, days of the week included, after 400 years, and the registers after 10 000.
const DAYS_PER_10_000_YEARS: i64 = 25 * 146_097;

/// Everything of the chip that can change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    /// The 128 bytes as the guest reads them, but for UIP, IRQF and VRT, which are computed.
    registers: Vec<u8>,
    /// The register that the data port accesses, 0..128.
    index: u8,
    /// Bit 7 of the index port.
    nmi_masked: bool,
    /// The tick at which the divider chain last came out of reset.
    divider_origin: u64,
    /// The tick of the next update.
    next_update: u64,
    now: GuestNs,
}

/// The real-time clock.
#[derive(Clone, Debug)]
pub struct Rtc {
    // Configuration: the start time, which has become state.
    // Glue: none.
    state: State,
}

/// Days since 1970-01-01 of a date of the Gregorian calendar; `month` is 1..=12, `day` may be any.
fn days_from_date(year: i64, month: i64, day: i64) -> i64 {
    // Years that begin in March, so that the leap day is the last of its year.
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let month_from_march = (month + 9) % 12;
    let leap_days =
        shifted_year.div_euclid(4) - shifted_year.div_euclid(100) + shifted_year.div_euclid(400);
    // 153 days in any five months from March: 31, 30, 31, 30, 31.
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    // 719 468 days from 0000-03-01 to 1970-01-01.
    365 * shifted_year + leap_days + day_of_year - 719_468
}

/// Year, month (1..=12) and day of the month of a number of days since 1970-01-01.
fn date_from_days(days: i64) -> (i64, i64, i64) {
    // By years of mean length, which is off by at most one.
    let mut year = 1970 + (days * 400).div_euclid(146_097) - 1;
    while days_from_date(year + 1, 1, 1) <= days {
        year += 1;
    }
    let mut month = 12;
    while days_from_date(year, month, 1) > days {
        month -= 1;
    }
    (year, month, days - days_from_date(year, month, 1) + 1)
}

impl State {
    fn register(&self, index: usize) -> u8 {
        self.registers[index]
    }

    fn is_binary(&self) -> bool {
        self.register(REGISTER_B) & B_BINARY != 0
    }

    fn decode(&self, byte: u8) -> i64 {
        i64::from(if self.is_binary() { byte } else { (byte >> 4) * 10 + (byte & 0xf) })
    }

    /// `value` in 0..100.
    fn encode(&self, value: i64) -> u8 {
        let value = value as u8;
        if self.is_binary() { value } else { ((value / 10) << 4) | (value % 10) }
    }

    fn encode_hours(&self, hours: i64) -> u8 {
        if self.register(REGISTER_B) & B_24_HOURS != 0 {
            return self.encode(hours);
        }
        let pm = if hours >= 12 { HOURS_PM } else { 0 };
        pm | self.encode((hours + 11) % 12 + 1)
    }

    fn decode_hours(&self, byte: u8) -> i64 {
        if self.register(REGISTER_B) & B_24_HOURS != 0 {
            return self.decode(byte);
        }
        self.decode(byte & !HOURS_PM) % 12 + if byte & HOURS_PM != 0 { 12 } else { 0 }
    }

    /// Seconds since 1970 that the registers say.
    fn calendar(&self) -> i64 {
        let field = |index| self.decode(self.register(index));
        let month = (field(MONTH) - 1).rem_euclid(12) + 1;
        let days = days_from_date(field(CENTURY) * 100 + field(YEAR), month, field(DAY_OF_MONTH));
        days * SECONDS_PER_DAY
            + self.decode_hours(self.register(HOURS)) * 3600
            + field(MINUTES) * 60
            + field(SECONDS)
    }

    fn set_calendar(&mut self, seconds: i64, day_of_week: i64) {
        let (year, month, day) = date_from_days(seconds.div_euclid(SECONDS_PER_DAY));
        let [second, minute, hour] = self.time_of_day(seconds);
        for (index, value) in [
            (DAY_OF_WEEK, day_of_week),
            (DAY_OF_MONTH, day),
            (MONTH, month),
            (YEAR, year.rem_euclid(100)),
            (CENTURY, year.div_euclid(100).rem_euclid(100)),
        ] {
            self.registers[index] = self.encode(value);
        }
        self.registers[SECONDS] = second;
        self.registers[MINUTES] = minute;
        self.registers[HOURS] = hour;
    }

    /// The second, minute and hour registers at `seconds` since 1970.
    fn time_of_day(&self, seconds: i64) -> [u8; 3] {
        let second_of_day = seconds.rem_euclid(SECONDS_PER_DAY);
        [
            self.encode(second_of_day % 60),
            self.encode(second_of_day / 60 % 60),
            self.encode_hours(second_of_day / 3600),
        ]
    }

    fn alarm_matches(&self, time_of_day: [u8; 3]) -> bool {
        let alarm = [SECONDS_ALARM, MINUTES_ALARM, HOURS_ALARM].map(|index| self.register(index));
        // The two top bits set mean "any".
        alarm.iter().zip(time_of_day).all(|(&alarm, now)| alarm & 0xc0 == 0xc0 || alarm == now)
    }

    /// `count` updates, 1 or more.
    fn update(&mut self, count: u64) {
        // Fits: 2^64 ns are fewer than 2^35 seconds.
        let count = count as i64;
        let before = self.calendar();
        if self.register(REGISTER_C) & C_AF == 0 {
            // A day of seconds holds every time there is.
            let matched = (1..=count.min(SECONDS_PER_DAY))
                .any(|second| self.alarm_matches(self.time_of_day(before + second)));
            if matched {
                self.registers[REGISTER_C] |= C_AF;
            }
        }
        let after = before + count;
        let days = after.div_euclid(SECONDS_PER_DAY) - before.div_euclid(SECONDS_PER_DAY);
        // The day of the week is a counter of its own, right only if the guest set it right.
        let day_of_week = self.decode(self.register(DAY_OF_WEEK)) - 1 + days;
        self.set_calendar(after, day_of_week.rem_euclid(7) + 1);
        self.registers[REGISTER_C] |= C_UF;
    }

    fn divider_in_reset(&self) -> bool {
        self.register(REGISTER_A) & A_DIVIDER_RESET == A_DIVIDER_RESET
    }

    fn updates_run(&self) -> bool {
        self.register(REGISTER_B) & B_SET == 0 && !self.divider_in_reset()
    }

    /// Ticks between periodic flags, if they are on (datasheet, table 5).
    fn period(&self) -> Option<u64> {
        match self.register(REGISTER_A) & A_RATE {
            0 => None,
            rate @ (1 | 2) => Some(1 << (rate + 6)),
            rate => Some(1 << (rate - 1)),
        }
        .filter(|_| !self.divider_in_reset())
    }

    fn tick(&self) -> u64 {
        CLOCK.tick_at(self.now)
    }

    fn irq(&self) -> bool {
        self.register(REGISTER_B) & self.register(REGISTER_C) & C_FLAGS != 0
    }
}

// Guest side.
impl Rtc {
    /// The clock, set to `start_epoch_seconds` (since 1970-01-01 UTC, leap seconds not counted) at
    /// guest time zero: BCD, 24 hours, 1024 Hz selected, no interrupt enabled, memory zero.
    pub fn new(start_epoch_seconds: u64) -> Rtc {
        let mut state = State {
            registers: vec![0; CMOS_SIZE],
            index: 0,
            nmi_masked: false,
            divider_origin: 0,
            next_update: TICKS_PER_SECOND,
            now: GuestNs(0),
        };
        state.registers[REGISTER_A] = 0x26;
        state.registers[REGISTER_B] = B_24_HOURS;
        // Beyond year 9999 the registers repeat, and so may the seconds.
        let cycle = (DAYS_PER_10_000_YEARS * SECONDS_PER_DAY) as u64;
        let seconds = (start_epoch_seconds % cycle) as i64;
        // 1970-01-01 was a Thursday; 1 is Sunday.
        let day_of_week = (seconds / SECONDS_PER_DAY + 4) % 7 + 1;
        state.set_calendar(seconds, day_of_week);
        Rtc { state }
    }

    /// The reset pin: interrupts off, flags clear. Clock and memory have a battery.
    pub fn reset(&mut self) {
        self.state.registers[REGISTER_B] &= !(B_PIE | B_AIE | B_UIE | B_SQWE);
        self.state.registers[REGISTER_C] = 0;
        self.state.index = 0;
        self.state.nmi_masked = false;
    }

    /// Reads register `reg` (see [`PORTS`]); the index port cannot be read.
    pub fn read(&mut self, reg: u16, now: GuestNs) -> u8 {
        self.advance(now);
        if reg != 1 {
            return 0xff;
        }
        let index = usize::from(self.state.index);
        match index {
            REGISTER_A => {
                let left = self.state.next_update.saturating_sub(self.state.tick());
                let updating = self.state.updates_run() && left <= UIP_TICKS;
                self.state.register(REGISTER_A) | if updating { A_UIP } else { 0 }
            }
            REGISTER_C => {
                let irqf = if self.state.irq() { C_IRQF } else { 0 };
                std::mem::take(&mut self.state.registers[REGISTER_C]) | irqf
            }
            REGISTER_D => D_VRT,
            _ => self.state.register(index),
        }
    }

    /// Writes register `reg` (see [`PORTS`]).
    pub fn write(&mut self, reg: u16, value: u8, now: GuestNs) {
        self.advance(now);
        match reg {
            0 => {
                self.state.index = value & 0x7f;
                self.state.nmi_masked = value & 0x80 != 0;
            }
            1 => self.write_register(usize::from(self.state.index), value),
            _ => {}
        }
    }

    fn write_register(&mut self, index: usize, value: u8) {
        let state = &mut self.state;
        match index {
            REGISTER_A => {
                let was_in_reset = state.divider_in_reset();
                state.registers[REGISTER_A] = value & !A_UIP;
                if was_in_reset && !state.divider_in_reset() {
                    // "The first update cycle begins one half second later."
                    state.divider_origin = state.tick();
                    state.next_update = state.tick() + TICKS_PER_SECOND / 2;
                }
            }
            REGISTER_B => {
                // SET high clears UIE.
                let cleared = if value & B_SET != 0 { B_UIE } else { 0 };
                state.registers[REGISTER_B] = value & !cleared;
            }
            REGISTER_C | REGISTER_D => {}
            _ => state.registers[index] = value,
        }
    }
}

// Board side.
impl Rtc {
    /// Level of the interrupt line (IRQ 8; active here, low on the pin).
    pub fn irq(&self) -> bool {
        self.state.irq()
    }

    /// Whether bit 7 of the index port keeps NMI from the processor.
    pub fn nmi_masked(&self) -> bool {
        self.state.nmi_masked
    }

    /// A byte of memory, as firmware left it or the guest wrote it; `index` in 14..128.
    pub fn cmos(&self, index: u8) -> u8 {
        let index = usize::from(index);
        assert!((REGISTER_D + 1..CMOS_SIZE).contains(&index), "CMOS {index} is not memory");
        self.state.register(index)
    }

    /// Sets a byte of memory, as the setup of a PC would; `index` in 14..128.
    pub fn set_cmos(&mut self, index: u8, value: u8) {
        let index = usize::from(index);
        assert!((REGISTER_D + 1..CMOS_SIZE).contains(&index), "CMOS {index} is not memory");
        self.state.registers[index] = value;
    }

    /// When the interrupt line may rise by itself. With the alarm enabled that is each second; while
    /// the line is high it is never, since only a read of register C lowers it.
    pub fn deadline(&self) -> Option<GuestNs> {
        let state = &self.state;
        if state.irq() {
            return None;
        }
        let enabled = state.register(REGISTER_B);
        let periodic = state.period().filter(|_| enabled & B_PIE != 0).map(|period| {
            let since_origin = state.tick().saturating_sub(state.divider_origin);
            state.divider_origin.saturating_add((since_origin / period + 1) * period)
        });
        let update = (enabled & (B_UIE | B_AIE) != 0 && state.updates_run())
            .then_some(state.next_update.max(state.tick().saturating_add(1)));
        let next = [periodic, update].into_iter().flatten().min()?;
        CLOCK.start_of(next)
    }

    /// Brings the clock to `now`.
    pub fn advance(&mut self, now: GuestNs) {
        let state = &mut self.state;
        let before = state.tick();
        state.now = state.now.max(now);
        let tick = state.tick();
        if tick == before || state.divider_in_reset() {
            return;
        }
        if let Some(period) = state.period() {
            let periods = |tick: u64| tick.saturating_sub(state.divider_origin) / period;
            if periods(tick) > periods(before) {
                state.registers[REGISTER_C] |= C_PF;
            }
        }
        if tick >= state.next_update {
            let count = (tick - state.next_update) / TICKS_PER_SECOND + 1;
            state.next_update += count * TICKS_PER_SECOND;
            if state.updates_run() {
                state.update(count);
            }
        }
    }
}

mod save_restore {
    use super::*;

    impl Rtc {
        /// The state of the chip.
        pub fn save(&self) -> State {
            let Rtc { state } = self;
            state.clone()
        }

        /// Becomes `state`. Refuses another size of memory, an index beyond it, register bits that
        /// are computed, and a divider chain that is not of this time.
        pub fn restore(&mut self, state: State) -> Result<(), RestoreError> {
            let check = |valid, field| RestoreError::unless(valid, "the real-time clock", field);
            check(state.registers.len() == CMOS_SIZE, "registers")?;
            check(usize::from(state.index) < CMOS_SIZE, "index")?;
            check(state.register(REGISTER_A) & A_UIP == 0, "register A")?;
            check(state.register(REGISTER_C) & !C_FLAGS == 0, "register C")?;
            let tick = state.tick();
            check(state.divider_origin <= tick, "divider_origin")?;
            check(state.next_update <= tick + TICKS_PER_SECOND, "next_update")?;
            self.state = state;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    /// 2026-11-22 13:34:55 UTC, a Sunday.
    const START: u64 = 1_795_354_495;

    fn get(rtc: &mut Rtc, index: u8, now: u64) -> u8 {
        rtc.write(0, index, GuestNs(now));
        rtc.read(1, GuestNs(now))
    }

    fn set(rtc: &mut Rtc, index: u8, value: u8, now: u64) {
        rtc.write(0, index, GuestNs(now));
        rtc.write(1, value, GuestNs(now));
    }

    /// Century, year, month, day, weekday, hour, minute, second.
    fn clock(rtc: &mut Rtc, now: u64) -> [u8; 8] {
        [0x32, 9, 8, 7, 6, 4, 2, 0].map(|index| get(rtc, index, now))
    }

    #[test]
    fn starts_at_the_configured_time_and_counts_seconds() {
        let mut rtc = Rtc::new(START);
        assert_eq!(clock(&mut rtc, 0), [0x20, 0x26, 0x11, 0x22, 1, 0x13, 0x34, 0x55]);
        assert_eq!(clock(&mut rtc, SECOND - 1)[7], 0x55);
        assert_eq!(clock(&mut rtc, SECOND)[7], 0x56);
        assert_eq!(
            clock(&mut rtc, 11 * 3600 * SECOND),
            [0x20, 0x26, 0x11, 0x23, 2, 0x00, 0x34, 0x55]
        );
    }

    #[test]
    fn dates_and_days_agree_for_ten_thousand_years() {
        let (mut year, mut month, mut day) = (0, 1, 1);
        let mut days = days_from_date(0, 1, 1);
        assert_eq!(days_from_date(1970, 1, 1), 0);
        while year < 10_000 {
            assert_eq!(date_from_days(days), (year, month, day));
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 => 28 + i64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            days += 1;
            day += 1;
            if day > length {
                (day, month) = (1, month + 1);
            }
            if month > 12 {
                (month, year) = (1, year + 1);
            }
        }
    }

    #[test]
    fn leap_day_and_century() {
        // 2000-02-28 23:59:59.
        let mut rtc = Rtc::new(951_782_399);
        assert_eq!(clock(&mut rtc, 0)[..4], [0x20, 0x00, 0x02, 0x28]);
        assert_eq!(clock(&mut rtc, SECOND)[..4], [0x20, 0x00, 0x02, 0x29]);
        // 1999-12-31 23:59:59.
        let mut rtc = Rtc::new(946_684_799);
        assert_eq!(clock(&mut rtc, SECOND), [0x20, 0x00, 0x01, 0x01, 7, 0, 0, 0]);
    }

    #[test]
    fn twelve_hours_and_binary() {
        let mut rtc = Rtc::new(START);
        set(&mut rtc, 0x0b, 0x00, 0);
        for (index, value) in [(4u8, 0x12u8), (2, 0x59), (0, 0x59)] {
            set(&mut rtc, index, value, 0);
        }
        assert_eq!(clock(&mut rtc, SECOND)[5..], [0x01, 0, 0], "1 am follows 12 am");
        set(&mut rtc, 4, 0x92, SECOND);
        assert_eq!(clock(&mut rtc, 3601 * SECOND)[5..], [0x81, 0, 0], "1 pm follows 12 pm");
        rtc = Rtc::new(START);
        set(&mut rtc, 0x0b, 0x06, SECOND);
        for (index, value) in [(4u8, 0u8), (2, 59), (0, 59), (7, 31), (8, 12), (9, 99), (0x32, 20)]
        {
            set(&mut rtc, index, value, SECOND);
        }
        assert_eq!(clock(&mut rtc, 2 * SECOND)[5..], [1, 0, 0]);
        set(&mut rtc, 0x0b, 0x04, 2 * SECOND);
        set(&mut rtc, 4, 12, 2 * SECOND);
        set(&mut rtc, 0, 59, 2 * SECOND);
        assert_eq!(clock(&mut rtc, 3 * SECOND)[5..], [12, 1, 0], "12 am is midnight");
    }

    #[test]
    fn set_stops_the_calendar_and_divider_reset_restarts_it() {
        let mut rtc = Rtc::new(START);
        set(&mut rtc, 0x0b, 0x92, 0);
        assert_eq!(get(&mut rtc, 0x0b, 0), 0x82, "SET clears UIE");
        set(&mut rtc, 0x0a, 0x76, 0);
        set(&mut rtc, 0, 0x10, 5 * SECOND);
        assert_eq!(get(&mut rtc, 0, 9 * SECOND), 0x10);
        set(&mut rtc, 0x0a, 0x26, 9 * SECOND);
        set(&mut rtc, 0x0b, 0x02, 9 * SECOND);
        assert_eq!(get(&mut rtc, 0, 9 * SECOND + SECOND / 2 - 1), 0x10);
        assert_eq!(get(&mut rtc, 0, 9 * SECOND + SECOND / 2), 0x11);
    }

    #[test]
    fn uip_for_244_us_before_the_update() {
        let mut rtc = Rtc::new(START);
        assert_eq!(get(&mut rtc, 0x0a, SECOND - 250_000), 0x26);
        assert_eq!(get(&mut rtc, 0x0a, SECOND - 240_000), 0xa6);
        assert_eq!(get(&mut rtc, 0x0a, SECOND), 0x26);
    }

    #[test]
    fn periodic_interrupts_at_1024_hz() {
        let mut rtc = Rtc::new(START);
        assert_eq!(rtc.deadline(), None);
        set(&mut rtc, 0x0b, 0x42, 0);
        let mut count = 0;
        while let Some(deadline) = rtc.deadline().filter(|deadline| deadline.0 <= SECOND) {
            assert!(!rtc.irq());
            rtc.advance(deadline);
            assert!(rtc.irq());
            assert_eq!(rtc.deadline(), None, "the line stays until C is read");
            assert_eq!(get(&mut rtc, 0x0c, deadline.0) & 0xc0, 0xc0);
            assert_eq!(get(&mut rtc, 0x0c, deadline.0), 0);
            count += 1;
        }
        assert_eq!(count, 1024);
    }

    #[test]
    fn rates() {
        for (rate, ns) in [(1u8, 3_906_250u64), (2, 7_812_500), (3, 122_071), (15, 500_000_000)] {
            let mut rtc = Rtc::new(START);
            set(&mut rtc, 0x0a, 0x20 | rate, 0);
            set(&mut rtc, 0x0b, 0x42, 0);
            assert_eq!(rtc.deadline(), Some(GuestNs(ns)), "rate {rate}");
        }
    }

    #[test]
    fn alarm_at_a_time_and_every_minute() {
        let mut rtc = Rtc::new(START);
        for (index, value) in [(1u8, 0x03u8), (3, 0x35), (5, 0x13)] {
            set(&mut rtc, index, value, 0);
        }
        set(&mut rtc, 0x0b, 0x22, 0);
        rtc.advance(GuestNs(8 * SECOND - 1));
        assert!(!rtc.irq());
        rtc.advance(rtc.deadline().unwrap());
        assert!(rtc.irq());
        assert_eq!(get(&mut rtc, 0x0c, 8 * SECOND), 0x80 | 0x40 | 0x20 | 0x10);
        set(&mut rtc, 3, 0xc0, 8 * SECOND);
        set(&mut rtc, 5, 0xff, 8 * SECOND);
        rtc.advance(GuestNs(68 * SECOND - 1));
        assert!(!rtc.irq());
        rtc.advance(GuestNs(68 * SECOND));
        assert!(rtc.irq());
    }

    #[test]
    fn an_alarm_is_not_missed_in_one_long_advance() {
        // A second ago: the last second of a day to come. And a second that never is.
        for (second, days, matched) in [(0x54u8, 1, true), (0x54, 9, true), (0x60, 9, false)] {
            let mut rtc = Rtc::new(START);
            for (index, value) in [(1u8, second), (3, 0x34), (5, 0x13)] {
                set(&mut rtc, index, value, 0);
            }
            let flags = get(&mut rtc, 0x0c, days * 86_400 * SECOND);
            assert_eq!(flags & 0x20 != 0, matched, "{second:#x} in {days} days");
        }
    }

    #[test]
    fn update_ended_each_second() {
        let mut rtc = Rtc::new(START);
        set(&mut rtc, 0x0b, 0x12, 0);
        assert_eq!(rtc.deadline(), Some(GuestNs(SECOND)));
        rtc.advance(GuestNs(SECOND));
        assert!(rtc.irq());
        rtc.reset();
        assert!(!rtc.irq());
        assert_eq!(rtc.deadline(), None);
    }

    #[test]
    fn memory_and_nmi_gate() {
        let mut rtc = Rtc::new(START);
        rtc.set_cmos(0x34, 0x5a);
        assert_eq!(get(&mut rtc, 0x34, 0), 0x5a);
        assert_eq!(get(&mut rtc, 0x0d, 0), 0x80);
        rtc.write(0, 0xb4, GuestNs(0));
        assert!(rtc.nmi_masked());
        assert_eq!(rtc.read(1, GuestNs(0)), 0x5a);
    }

    #[test]
    fn restore_refuses_another_size_of_memory() {
        let mut state = Rtc::new(START).save();
        state.registers.pop();
        assert_eq!(Rtc::new(START).restore(state).unwrap_err().field, "registers");
    }
}

//! ACPI fixed hardware: PM1a event and control blocks, power management timer, reset register (ACPI
//! 6.5, 4.8.3 and 4.8.3.6).
//!
//! Data path: a status bit whose enable is set raises SCI; a write of SLP_EN becomes a sleep request
//! that the board takes; the timer is arithmetic on guest time.
//!
//! The board has no system management mode: FADT.SMI_CMD must be zero, and SCI_EN reads as one.
//! Registers are at the offsets of the constants below and may be accessed by the byte; the board
//! splits wider accesses, low byte first (SLP_TYP and SLP_EN share a byte).
//!
//! Not modelled: general-purpose events, PM2, the processor block, the global lock.

use crate::RestoreError;
use crate::clock::Clock;
use dejavm_units::GuestNs;
use serde::{Deserialize, Serialize};

/// PM1a_EVT_BLK: status, then enable, two bytes each.
pub const PM1_EVENT: u16 = 0;
/// PM1a_CNT_BLK, two bytes.
pub const PM1_CONTROL: u16 = 4;
/// PM_TMR_BLK, four bytes.
pub const PM_TIMER: u16 = 8;
/// RESET_REG, one byte.
pub const RESET_REGISTER: u16 = 12;
/// Number of I/O ports from the base.
pub const PORT_COUNT: u16 = 16;
/// FADT.RESET_VALUE: what resets the machine when it is written to the reset register.
pub const RESET_VALUE: u8 = 0x01;

/// Frequency of the power management timer, in Hz.
pub const TIMER_FREQUENCY_HZ: u32 = 3_579_545;

const CLOCK: Clock = Clock::from_hz(TIMER_FREQUENCY_HZ);

const TMR: u16 = 1 << 0;
const GBL: u16 = 1 << 5;
const PWRBTN: u16 = 1 << 8;
const SLPBTN: u16 = 1 << 9;
const RTC: u16 = 1 << 10;
const EVENTS: u16 = TMR | GBL | PWRBTN | SLPBTN | RTC;
const WAK_STS: u16 = 1 << 15;
const SCI_EN: u16 = 1 << 0;
const BM_RLD: u16 = 1 << 1;
const SLP_TYP: u16 = 7 << 10;
const SLP_TYP_SHIFT: u32 = 10;
const SLP_EN: u16 = 1 << 13;

/// Width of the power management timer, as FADT.TMR_VAL_EXT says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimerWidth {
    /// 24 bits: wraps every 4.7 s.
    Bits24,
    /// 32 bits: wraps every 20 min.
    Bits32,
}

/// Everything of the block that can change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    status: u16,
    enable: u16,
    /// BM_RLD and SLP_TYP.
    control: u16,
    sleep_requested: Option<u8>,
    reset_requested: bool,
    now: GuestNs,
}

/// The ACPI power management block.
#[derive(Clone, Debug)]
pub struct AcpiPm {
    // Configuration.
    timer_width: TimerWidth,
    // Glue: none.
    state: State,
}

// Guest side.
impl AcpiPm {
    /// The block at power-on.
    pub fn new(timer_width: TimerWidth) -> AcpiPm {
        AcpiPm {
            timer_width,
            state: State {
                status: 0,
                enable: 0,
                control: 0,
                sleep_requested: None,
                reset_requested: false,
                now: GuestNs(0),
            },
        }
    }

    /// Back to power-on. The timer goes on.
    pub fn reset(&mut self) {
        let now = self.state.now;
        *self = AcpiPm::new(self.timer_width);
        self.state.now = now;
    }

    /// Reads the byte at offset `reg`; all-ones if nothing is there.
    pub fn read(&mut self, reg: u16, now: GuestNs) -> u8 {
        self.advance(now);
        let [status_low, status_high] = self.state.status.to_le_bytes();
        let [enable_low, enable_high] = self.state.enable.to_le_bytes();
        let [control_low, control_high] = (self.state.control | SCI_EN).to_le_bytes();
        match reg {
            0 => status_low,
            1 => status_high,
            2 => enable_low,
            3 => enable_high,
            4 => control_low,
            5 => control_high,
            8..=11 => self.timer().to_le_bytes()[usize::from(reg - PM_TIMER)],
            RESET_REGISTER => 0,
            _ => 0xff,
        }
    }

    /// The power management timer, as one read of four bytes.
    pub fn read_timer(&mut self, now: GuestNs) -> u32 {
        self.advance(now);
        self.timer()
    }

    /// Writes the byte at offset `reg`.
    pub fn write(&mut self, reg: u16, value: u8, now: GuestNs) {
        self.advance(now);
        let low = u16::from(value);
        let high = low << 8;
        let state = &mut self.state;
        match reg {
            // Status bits are cleared by writing ones.
            0 => state.status &= !low,
            1 => state.status &= !high,
            2 => state.enable = (state.enable & 0xff00 | low) & EVENTS,
            3 => state.enable = (state.enable & 0x00ff | high) & EVENTS,
            4 => state.control = state.control & 0xff00 | low & BM_RLD,
            5 => {
                state.control = state.control & 0x00ff | high & SLP_TYP;
                if high & SLP_EN != 0 {
                    state.sleep_requested = Some((state.control >> SLP_TYP_SHIFT) as u8);
                }
            }
            RESET_REGISTER => state.reset_requested |= value == RESET_VALUE,
            _ => {}
        }
    }

    fn timer(&self) -> u32 {
        let tick = CLOCK.tick_at(self.state.now);
        match self.timer_width {
            TimerWidth::Bits24 => tick as u32 & 0x00ff_ffff,
            TimerWidth::Bits32 => tick as u32,
        }
    }

    /// TMR_STS is set whenever the most significant bit changes: number of the bit.
    fn timer_top_bit(&self) -> u32 {
        match self.timer_width {
            TimerWidth::Bits24 => 23,
            TimerWidth::Bits32 => 31,
        }
    }
}

// Board and host side.
impl AcpiPm {
    /// Level of SCI (as "asserted": the pin is active low).
    pub fn sci(&self) -> bool {
        self.state.status & self.state.enable & EVENTS != 0
    }

    /// The power button was pressed for a moment.
    pub fn press_power_button(&mut self) {
        self.state.status |= PWRBTN;
    }

    /// The sleep type (SLP_TYP, 0..8) that the guest asked for since the last call. Which of them is
    /// "off" stands in the board's `\_S5` object.
    pub fn take_sleep_request(&mut self) -> Option<u8> {
        self.state.sleep_requested.take()
    }

    /// Whether the guest wrote the reset register since the last call.
    pub fn take_reset(&mut self) -> bool {
        std::mem::take(&mut self.state.reset_requested)
    }

    /// When the timer raises SCI, if it is enabled to and has not.
    pub fn deadline(&self) -> Option<GuestNs> {
        if self.state.enable & TMR == 0 || self.sci() {
            return None;
        }
        let top_bit = self.timer_top_bit();
        CLOCK.start_of(((CLOCK.tick_at(self.state.now) >> top_bit) + 1) << top_bit)
    }

    /// Brings the timer to `now`.
    pub fn advance(&mut self, now: GuestNs) {
        let top_bit = self.timer_top_bit();
        let before = CLOCK.tick_at(self.state.now) >> top_bit;
        self.state.now = self.state.now.max(now);
        if CLOCK.tick_at(self.state.now) >> top_bit != before {
            self.state.status |= TMR;
        }
    }
}

mod save_restore {
    use super::*;

    impl AcpiPm {
        /// The state of the block.
        pub fn save(&self) -> State {
            let AcpiPm { timer_width: _, state } = self;
            state.clone()
        }

        /// Becomes `state`. Refuses bits that do not exist.
        pub fn restore(&mut self, state: State) -> Result<(), RestoreError> {
            let check = |valid, field| RestoreError::unless(valid, "the ACPI block", field);
            check(state.status & !(EVENTS | WAK_STS) == 0, "status")?;
            check(state.enable & !EVENTS == 0, "enable")?;
            check(state.control & !(BM_RLD | SLP_TYP) == 0, "control")?;
            check(state.sleep_requested.is_none_or(|kind| kind < 8), "sleep_requested")?;
            self.state = state;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: GuestNs = GuestNs(0);
    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn timer_runs_at_3579545_hz_and_wraps() {
        let mut narrow = AcpiPm::new(TimerWidth::Bits24);
        let mut wide = AcpiPm::new(TimerWidth::Bits32);
        assert_eq!(wide.read_timer(GuestNs(SECOND)), 3_579_545);
        assert_eq!(narrow.read_timer(GuestNs(SECOND)), 3_579_545);
        assert_eq!(wide.read_timer(GuestNs(10 * SECOND)), 35_795_450);
        assert_eq!(narrow.read_timer(GuestNs(10 * SECOND)), 35_795_450 - 2 * (1 << 24));
        let bytes = [8, 9, 10, 11].map(|reg| wide.read(reg, GuestNs(10 * SECOND)));
        assert_eq!(u32::from_le_bytes(bytes), 35_795_450);
    }

    #[test]
    fn timer_overflow_raises_sci_at_its_deadline() {
        let mut pm = AcpiPm::new(TimerWidth::Bits24);
        assert_eq!(pm.deadline(), None);
        pm.write(2, 0x01, T);
        let deadline = pm.deadline().unwrap();
        // 2^23 ticks.
        assert_eq!(deadline.0, (8_388_608u64 * SECOND).div_ceil(3_579_545));
        pm.advance(GuestNs(deadline.0 - 1));
        assert!(!pm.sci());
        pm.advance(deadline);
        assert!(pm.sci());
        assert_eq!(pm.read(0, deadline), 0x01);
        pm.write(0, 0x01, deadline);
        assert!(!pm.sci());
        assert!(pm.deadline().unwrap() > deadline);
    }

    #[test]
    fn power_button() {
        let mut pm = AcpiPm::new(TimerWidth::Bits32);
        pm.press_power_button();
        assert!(!pm.sci());
        pm.write(3, 0x01, T);
        assert!(pm.sci());
        pm.write(1, 0x01, T);
        assert!(!pm.sci());
    }

    #[test]
    fn sleep_type_is_requested_with_slp_en() {
        let mut pm = AcpiPm::new(TimerWidth::Bits32);
        assert_eq!(pm.read(4, T), 0x01, "SCI_EN");
        pm.write(4, 0x01, T);
        pm.write(5, 5 << 2, T);
        assert_eq!(pm.take_sleep_request(), None);
        pm.write(5, 5 << 2 | 1 << 5, T);
        assert_eq!(pm.take_sleep_request(), Some(5));
        assert_eq!(pm.read(5, T), 5 << 2, "SLP_EN reads as zero");
    }

    #[test]
    fn reset_register() {
        let mut pm = AcpiPm::new(TimerWidth::Bits32);
        pm.write(12, 0, T);
        assert!(!pm.take_reset());
        pm.write(12, 1, T);
        assert!(pm.take_reset());
        assert!(!pm.take_reset());
    }
}

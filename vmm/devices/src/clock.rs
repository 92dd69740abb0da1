//! Exact conversion between guest nanoseconds and the ticks of a crystal.
//!
//! Tick numbers are absolute (tick 0 is machine start), so nothing accumulates: the tick at a time
//! is always `floor(ns * hz / 10^9)`, and tick `t` begins at the first nanosecond for which that
//! floor is `t`, which is `ceil(t * 10^9 / hz)`. Example at 1 193 182 Hz: tick 1 begins at 839 ns.

use dejavm_units::GuestNs;

const NS_PER_SECOND: u128 = 1_000_000_000;

/// A crystal below 1 GHz, in phase with machine start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Clock {
    hz: u32,
}

impl Clock {
    /// A clock of `hz` ticks a second; `hz` in 1..10^9.
    pub(crate) const fn from_hz(hz: u32) -> Clock {
        assert!(hz > 0 && hz < 1_000_000_000);
        Clock { hz }
    }

    /// Number of the tick that is running at `now`.
    pub(crate) fn tick_at(self, now: GuestNs) -> u64 {
        // Fits: hz < 10^9, so the quotient is at most `now`.
        (u128::from(now.0) * u128::from(self.hz) / NS_PER_SECOND) as u64
    }

    /// The first nanosecond of `tick`; `None` if guest time cannot express it.
    pub(crate) fn start_of(self, tick: u64) -> Option<GuestNs> {
        let ns = (u128::from(tick) * NS_PER_SECOND).div_ceil(u128::from(self.hz));
        u64::try_from(ns).ok().map(GuestNs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_starts_at_its_first_nanosecond() {
        for hz in [1u32, 32_768, 1_193_182, 3_579_545, 999_999_999] {
            let clock = Clock::from_hz(hz);
            for tick in [1u64, 2, 3, 1_000, 1_193_182, 1 << 33] {
                let GuestNs(start) = clock.start_of(tick).unwrap();
                assert_eq!(clock.tick_at(GuestNs(start)), tick, "{hz} Hz");
                assert_eq!(clock.tick_at(GuestNs(start - 1)), tick - 1, "{hz} Hz");
            }
        }
    }

    #[test]
    fn no_drift_over_a_year() {
        let year_s = 365 * 86_400;
        let clock = Clock::from_hz(1_193_182);
        assert_eq!(clock.tick_at(GuestNs(year_s * 1_000_000_000)), year_s * 1_193_182);
    }

    #[test]
    fn the_end_of_time_is_not_an_overflow() {
        let clock = Clock::from_hz(32_768);
        assert!(clock.tick_at(GuestNs(u64::MAX)) > 0);
        assert_eq!(clock.start_of(u64::MAX), None);
    }
}

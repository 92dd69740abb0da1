//! Exact conversion between guest nanoseconds and the ticks of a crystal.
//!
//! Tick numbers are absolute (tick 0 is machine start), so nothing accumulates: the tick at a time
//! is always `floor(ns * hz / 10^9)`, and tick `t` begins at the first nanosecond for which that
//! floor is `t`, which is `ceil(t * 10^9 / hz)`. Example at 1 193 182 Hz: tick 1 begins at 839 ns.

use dejavm_units::GuestNs;

const NS_PER_SECOND: u64 = 1_000_000_000;

/// A crystal below 1 GHz, in phase with machine start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Clock {
    hz: u64,
}

impl Clock {
    /// A clock of `hz` ticks a second; `hz` in 1..10^9.
    pub(crate) const fn from_hz(hz: u32) -> Clock {
        assert!(hz > 0 && (hz as u64) < NS_PER_SECOND);
        Clock { hz: hz as u64 }
    }

    /// Number of the tick that is running at `now`.
    ///
    /// Whole seconds hold whole ticks, so only the rest of a second is divided, and 64 bits do: the
    /// rest times `hz` is below 10^18, and there are never more ticks than nanoseconds.
    #[inline]
    pub(crate) const fn tick_at(self, now: GuestNs) -> u64 {
        let (seconds, rest) = (now.0 / NS_PER_SECOND, now.0 % NS_PER_SECOND);
        seconds * self.hz + rest * self.hz / NS_PER_SECOND
    }

    /// The first nanosecond of `tick`; `None` if guest time cannot express it.
    #[inline]
    pub(crate) fn start_of(self, tick: u64) -> Option<GuestNs> {
        let (seconds, rest) = (tick / self.hz, tick % self.hz);
        let rest_ns = (rest * NS_PER_SECOND).div_ceil(self.hz);
        seconds.checked_mul(NS_PER_SECOND)?.checked_add(rest_ns).map(GuestNs)
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
        for hz in [1u32, 32_768, 1_193_182, 3_579_545, 999_999_999] {
            let clock = Clock::from_hz(hz);
            let last = u128::from(u64::MAX) * u128::from(hz) / 1_000_000_000;
            assert_eq!(u128::from(clock.tick_at(GuestNs(u64::MAX))), last, "{hz} Hz");
            assert!(clock.start_of(last as u64).is_some(), "{hz} Hz");
            assert_eq!(clock.start_of(last as u64 + 2), None, "{hz} Hz");
        }
    }
}

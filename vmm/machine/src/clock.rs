//! The virtual clock (DESIGN 3.3): guest time as a function of position and of the idle time skipped.
//!
//! `guest_ns(p) = floor(p * 1000 / rate) + idle_ns`. Nothing accumulates, so nothing drifts. Example
//! at the default rate of 2000 instructions per microsecond: position 7 is 3 ns; a deadline at 3 ns is
//! reached at position 6, the smallest whose time is not less.

use dejavm_units::{GuestNs, Position};
use serde::{Deserialize, Serialize};

/// TSC ticks per guest nanosecond: a 2 GHz time stamp counter.
pub(crate) const TSC_PER_NS: u64 = 2;

/// The clock of one machine.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    // Configuration.
    instructions_per_us: u32,
    state: State,
}

/// What of the clock can change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Guest time skipped while the CPU was halted, in nanoseconds.
    pub idle_ns: u64,
}

impl Clock {
    pub(crate) fn new(instructions_per_us: u32) -> Clock {
        assert!(instructions_per_us > 0, "the configuration was checked");
        Clock { instructions_per_us, state: State::default() }
    }

    /// Guest time at `position`. Saturates at the end of time (584 years).
    #[inline]
    pub(crate) fn at(&self, position: Position) -> GuestNs {
        GuestNs(self.scaled(position, 1000).saturating_add(self.state.idle_ns))
    }

    /// The time stamp counter at `position`.
    #[inline]
    pub(crate) fn tsc(&self, position: Position) -> u64 {
        let idle = self.state.idle_ns.wrapping_mul(TSC_PER_NS);
        self.scaled(position, 1000 * TSC_PER_NS).wrapping_add(idle)
    }

    /// By how much the time stamp counter is ahead of the position, until time is skipped; `None` if it
    /// does not tick once for each instruction.
    pub(crate) fn tsc_ahead(&self) -> Option<u64> {
        (1000 * TSC_PER_NS == u64::from(self.instructions_per_us))
            .then(|| self.state.idle_ns.wrapping_mul(TSC_PER_NS))
    }

    /// The smallest position whose time is not before `deadline`, if the CPU never idles until then.
    pub(crate) fn position_of(&self, deadline: GuestNs) -> Position {
        let busy_ns = deadline.0.saturating_sub(self.state.idle_ns);
        let position = (u128::from(busy_ns) * u128::from(self.instructions_per_us)).div_ceil(1000);
        Position(u64::try_from(position).unwrap_or(u64::MAX))
    }

    /// Skips idle time so that `position` is at `time`; nothing happens if it is later already.
    pub(crate) fn skip_to(&mut self, time: GuestNs, position: Position) {
        let GuestNs(now) = self.at(position);
        let skipped = time.0.saturating_sub(now);
        self.state.idle_ns = self.state.idle_ns.saturating_add(skipped);
    }

    fn scaled(&self, position: Position, per_us: u64) -> u64 {
        let scaled =
            u128::from(position.0) * u128::from(per_us) / u128::from(self.instructions_per_us);
        u64::try_from(scaled).unwrap_or(u64::MAX)
    }

    pub(crate) fn save(&self) -> State {
        let Clock { instructions_per_us: _, state } = self;
        state.clone()
    }

    pub(crate) fn restore(&mut self, state: &State) {
        self.state = state.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_reached_at_the_first_position_that_is_not_before_it() {
        for rate in [1, 3, 999, 1000, 1001, 2000, 7919, 1_000_000] {
            let mut clock = Clock::new(rate);
            clock.skip_to(GuestNs(12_345), Position(17));
            for deadline in (12_346..13_500).chain([1 << 40, (1 << 40) + 1]) {
                let Position(position) = clock.position_of(GuestNs(deadline));
                assert!(clock.at(Position(position)).0 >= deadline, "rate {rate}");
                assert!(clock.at(Position(position - 1)).0 < deadline, "rate {rate}");
            }
        }
    }

    #[test]
    fn idle_time_moves_the_clock_and_the_counter_but_not_backwards() {
        let mut clock = Clock::new(2000);
        assert_eq!(clock.at(Position(7)), GuestNs(3));
        assert_eq!(clock.tsc(Position(7)), 7);
        assert_eq!(clock.tsc_ahead(), Some(0));
        clock.skip_to(GuestNs(1000), Position(7));
        assert_eq!(clock.at(Position(7)), GuestNs(1000));
        clock.skip_to(GuestNs(500), Position(7));
        assert_eq!(clock.at(Position(7)), GuestNs(1000));
        assert_eq!(clock.tsc(Position(7)), 7 + 2 * 997);
        assert_eq!(clock.tsc_ahead(), Some(2 * 997));
    }

    #[test]
    fn no_drift_and_no_overflow_at_the_end_of_time() {
        let clock = Clock::new(3);
        assert_eq!(clock.at(Position(3_000_000_000_000)), GuestNs(1_000_000_000_000_000));
        assert_eq!(clock.at(Position(u64::MAX)), GuestNs(u64::MAX));
        assert_eq!(Clock::new(1_000_000).position_of(GuestNs(u64::MAX)), Position(u64::MAX));
    }
}

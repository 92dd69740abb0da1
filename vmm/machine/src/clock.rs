//! The virtual clock (DESIGN 3.3): guest time as a function of position and of the idle time skipped.
//!
//! `guest_ns(p) = floor(p * 1000 / rate) + idle_ns`. Nothing accumulates, so nothing drifts. Example
//! at the default rate of 2000 instructions per microsecond: position 7 is 3 ns; a deadline at 3 ns is
//! reached at position 6, the smallest whose time is not less.
//!
//! Where time passes by exits, it is `exits * 1000 + idle_ns`, whatever the position: no deadline is reached by executing
//! alone.

use crate::config::TimeBase;
use dejavm_units::{GuestNs, Position};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// TSC ticks per guest nanosecond: a 2 GHz time stamp counter.
pub(crate) const TSC_PER_NS: u64 = 2;
/// Guest time that an exit takes.
const NS_PER_EXIT: u64 = 1000;

/// The clock of one machine.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    // Configuration.
    base: TimeBase,
    state: State,
}

/// What of the clock can change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Guest time skipped while the CPU was halted, in nanoseconds.
    pub idle_ns: u64,
    /// See [`TimeBase::Exits`]; with the other, 0.
    pub exits: u64,
}

/// In files one number, `exits << 64 | idle_ns`: without exits it is encoded as `idle_ns` alone is, which older files have.
#[derive(Serialize, Deserialize)]
struct InFiles(u128);

/// For people.
#[derive(Serialize)]
struct ForPeople {
    idle_ns: u64,
    exits: u64,
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let State { idle_ns, exits } = *self;
        match serializer.is_human_readable() {
            true => ForPeople { idle_ns, exits }.serialize(serializer),
            false => InFiles(u128::from(exits) << 64 | u128::from(idle_ns)).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for State {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<State, D::Error> {
        let InFiles(both) = InFiles::deserialize(deserializer)?;
        Ok(State { idle_ns: both as u64, exits: (both >> 64) as u64 })
    }
}

impl Clock {
    pub(crate) fn new(base: TimeBase) -> Clock {
        assert!(base != TimeBase::Instructions { per_us: 0 }, "the configuration was checked");
        Clock { base, state: State::default() }
    }

    /// What time passes by.
    pub(crate) fn base(&self) -> TimeBase {
        self.base
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
        (self.base == TimeBase::Instructions { per_us: 1000 * TSC_PER_NS as u32 })
            .then(|| self.state.idle_ns.wrapping_mul(TSC_PER_NS))
    }

    /// The smallest position whose time is not before `deadline`, if the CPU never idles until then; where time passes by exits,
    /// the first position or none.
    pub(crate) fn position_of(&self, deadline: GuestNs) -> Position {
        let busy_ns = deadline.0.saturating_sub(self.state.idle_ns);
        match self.base {
            TimeBase::Instructions { per_us } => {
                let position = (u128::from(busy_ns) * u128::from(per_us)).div_ceil(1000);
                Position(u64::try_from(position).unwrap_or(u64::MAX))
            }
            TimeBase::Exits if busy_ns <= self.state.exits.saturating_mul(NS_PER_EXIT) => {
                Position(0)
            }
            TimeBase::Exits => Position(u64::MAX),
        }
    }

    /// Skips idle time so that `position` is at `time`; nothing happens if it is later already.
    pub(crate) fn skip_to(&mut self, time: GuestNs, position: Position) {
        let GuestNs(now) = self.at(position);
        let skipped = time.0.saturating_sub(now);
        self.state.idle_ns = self.state.idle_ns.saturating_add(skipped);
    }

    /// So many exits happen; whether time passes by them.
    pub(crate) fn count_exits(&mut self, count: u64) -> bool {
        let counts = self.base == TimeBase::Exits;
        if counts {
            self.state.exits = self.state.exits.saturating_add(count);
        }
        counts
    }

    /// Exits so far, where time passes by them.
    pub(crate) fn exits(&self) -> u64 {
        self.state.exits
    }

    fn scaled(&self, position: Position, per_us: u64) -> u64 {
        let (count, rate) = match self.base {
            TimeBase::Instructions { per_us: rate } => (position.0, rate),
            TimeBase::Exits => (self.state.exits, 1),
        };
        let scaled = u128::from(count) * u128::from(per_us) / u128::from(rate);
        u64::try_from(scaled).unwrap_or(u64::MAX)
    }

    pub(crate) fn save(&self) -> State {
        let Clock { base: _, state } = self;
        state.clone()
    }

    pub(crate) fn restore(&mut self, state: &State) {
        self.state = state.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_instructions(per_us: u32) -> Clock {
        Clock::new(TimeBase::Instructions { per_us })
    }

    #[test]
    fn exits_take_a_microsecond_each_and_instructions_nothing() {
        let mut clock = Clock::new(TimeBase::Exits);
        assert!(clock.count_exits(3));
        clock.skip_to(GuestNs(5_500), Position(1_000_000));
        assert_eq!(clock.at(Position(0)), GuestNs(5_500));
        assert_eq!(clock.at(Position(u64::MAX)), GuestNs(5_500));
        assert_eq!((clock.tsc(Position(9)), clock.tsc_ahead()), (11_000, None));
        assert_eq!(clock.position_of(GuestNs(5_501)), Position(u64::MAX));
        assert!(clock.count_exits(1));
        assert_eq!(clock.position_of(GuestNs(6_500)), Position(0));
        assert_eq!(clock.exits(), 4);
        assert!(!by_instructions(2000).count_exits(1));
    }

    #[test]
    fn a_deadline_is_reached_at_the_first_position_that_is_not_before_it() {
        for rate in [1, 3, 999, 1000, 1001, 2000, 7919, 1_000_000] {
            let mut clock = by_instructions(rate);
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
        let mut clock = by_instructions(2000);
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
        let clock = by_instructions(3);
        assert_eq!(clock.at(Position(3_000_000_000_000)), GuestNs(1_000_000_000_000_000));
        assert_eq!(clock.at(Position(u64::MAX)), GuestNs(u64::MAX));
        assert_eq!(by_instructions(1_000_000).position_of(GuestNs(u64::MAX)), Position(u64::MAX));
    }
}

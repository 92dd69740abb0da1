//! How long a guest executes without an exit before it is kicked, and a landmark is left.
//!
//! A landmark costs: the pages that were written are hashed, and the kernel learns anew which ones are, by a fault each. A guest that writes
//! many is kicked less often. That is nobody's business but the recorder's: how much time passes at a landmark is in the recording.

use std::ops::RangeInclusive;
use std::time::Duration;

/// In microseconds. At the longest a person at its console notices nothing yet, and software finds the instant.
const TURNS_US: RangeInclusive<u32> = 10_000..=100_000;
/// A turn is so many times as long as what the end of the one before took us. The faults take two or three times that: all of it comes
/// to about a twentieth of the guest's time.
const TURN_PER_LANDMARK: u128 = 64;

/// The time between two kicks.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    us: u32,
    allowed: RangeInclusive<u32>,
}

impl Default for Turn {
    fn default() -> Turn {
        Turn { us: *TURNS_US.start(), allowed: TURNS_US }
    }
}

impl Turn {
    /// Always as long, whatever it costs.
    ///
    /// # Panics
    /// If it is 0.
    pub(super) fn always(us: u32) -> Turn {
        assert_ne!(us, 0, "a timer of no time never runs out");
        Turn { us, allowed: us..=us }
    }

    /// Microseconds of processor time; as many pass for the guest at its end.
    pub(super) fn us(&self) -> u32 {
        self.us
    }

    /// A turn has ended, and its landmark took so much processor time.
    pub(super) fn ended(&mut self, spent: Duration) {
        let wanted = u32::try_from(spent.as_micros() * TURN_PER_LANDMARK).unwrap_or(u32::MAX);
        self.us = wanted.clamp(*self.allowed.start(), *self.allowed.end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn landmarks_that_cost_more_come_less_often() {
        let mut turn = Turn::default();
        for (spent_us, us) in [
            (0, 10_000),
            (100, 10_000),
            (200, 12_800),
            (1_000, 64_000),
            (u64::MAX, 100_000),
            (3, 10_000),
        ] {
            turn.ended(Duration::from_micros(spent_us));
            assert_eq!(turn.us(), us, "{spent_us} us");
        }
        let mut always = Turn::always(500);
        always.ended(Duration::from_millis(7));
        assert_eq!(always.us(), 500);
    }
}

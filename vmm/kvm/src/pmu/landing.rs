//! Stopping a guest at exactly a position, with a counter whose interrupt comes late, early, or never.
//!
//! The counter is armed a *margin* early, and that stop is taken for nothing but a hint that the target is near. From there a breakpoint at
//! the target's address stops before each instruction that could be it, and what is found is compared. The guest goes on from there with
//! RFLAGS.RF set, which passes the breakpoint; it is single-stepped only where the count is the target's already, for a string
//! instruction: steps leave traces where an instruction faults, and one may be two.
//!
//! ```text
//!        margin
//!      ◄────────►
//!  ────┬────────┬──────  branches
//!      │  ▲  ▲ ▲│
//!    alarm│  │ │target: here by breakpoint or step, or at rest, never by the counter's interrupt
//!         │  breakpoints that are not it
//!       late stop
//! ```
//!
//! Rules, each paid for by somebody:
//! - The alarm may stop the guest anywhere (rr: 100 branches late, or 10 000; harmony: 28 207 once, at a limit of 256). Stopped at the
//!   target's count or beyond, the target may be behind: an overshoot, also where all is equal, for an address may be passed
//!   more than once between two branches. The caller goes back to a checkpoint and takes a wider margin; the widest needs no alarm.
//! - An interrupt that never comes shows in the guest's next exit: the target lies before it. A guest that has none is to be kicked
//!   by the caller now and then; a kick is as good a stop as the alarm's.
//! - A branch count and an address are no position: string instructions have RCX, and loops without a conditional branch have nothing but
//!   their registers ([`Place::registers`]). What differs in memory alone is not told apart here: [`settle`] is for choosing places
//!   of which that is not asked.
//! - Counts rise by one at a step at most, and never fall; what does otherwise is no clock.
//!
//! What is *not* found out here: a count that was too high by the time that a loop's registers are what they will be again, so
//! that an earlier round is taken for the target. The digests of a recording find that.
//!
//! A string instruction at the target's address and count is stepped through element by element: microseconds an element. (rr
//! shortens that by a smaller RCX.)

use super::counter::PERIOD_MIN;
use dejavm_units::Gva;
use std::num::NonZeroU64;

/// Where a guest stands: before an instruction, or between two elements of a string instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Exits that the guest took and that have been answered: accesses to devices and HLT, nothing that depends on the host.
    pub exits: u64,
    /// Conditional branches retired, as the counter says, since some moment that is the same for all places compared.
    pub branches: u64,
    /// The linear address of the instruction (the base of CS plus RIP).
    pub rip: Gva,
    /// RCX: how much of a string instruction is left.
    pub rcx: u64,
    /// Something that differs when the general registers or RFLAGS do (without RF and TF, which belong to whoever steps): a hash.
    pub registers: u64,
}

/// Why a guest stands still again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// By the counter, or by anything else on the host: they are not told apart, and need not be.
    Interrupted,
    /// Before the instruction at the breakpoint.
    Breakpoint,
    /// After the one step that was asked for. It may have been two instructions (MOV SS), or one element of a string.
    Stepped,
    /// At an exit: the access is complete and its instruction is behind.
    Exit,
}

/// What landing needs of a guest.
pub trait Guest {
    /// Why the guest does not go on.
    type Error;

    /// Where it stands.
    ///
    /// # Errors
    /// If the host refuses, or the counter was not counting all the time.
    fn place(&mut self) -> Result<Place, Self::Error>;

    /// Runs until the counter has counted so many more branches, until the breakpoint, if there is one, or until an exit.
    /// The instruction that the guest stands at is passed, all of it, and stops nothing. Somebody must interrupt a guest that runs
    /// for long.
    ///
    /// # Errors
    /// As [`Guest::place`].
    fn run(
        &mut self,
        alarm: Option<NonZeroU64>,
        breakpoint: Option<Gva>,
    ) -> Result<Stop, Self::Error>;

    /// Executes one instruction, or one element of a string; delivers no interrupt.
    ///
    /// # Errors
    /// As [`Guest::place`].
    fn step(&mut self) -> Result<Stop, Self::Error>;
}

/// How [`land`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// At the target.
    Landed,
    /// At an exit before the target: once it is answered, [`land`] goes on.
    Exit,
}

/// What it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effort {
    /// Stops by the counter or a kick.
    pub interrupts: u64,
    /// Stops at the target's address.
    pub breakpoints: u64,
    /// Single steps.
    pub steps: u64,
}

/// Why the target was not landed on. The guest stands somewhere: go back to a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Miss {
    /// The counter's interrupt came too late.
    #[error(
        "the counter's interrupt was too late for a margin of {margin} branches: the guest stopped {by} branches after the target's"
    )]
    Overshoot {
        /// Branches beyond the target's count; with 0, it may or may not have been passed.
        by: u64,
        /// The margin.
        margin: u64,
    },
    /// The counter's interrupt never came.
    #[error(
        "the counter's interrupt never came: the guest went on to its next exit, {by} branches after the target's"
    )]
    NeverStopped {
        /// Branches beyond the target's count (below zero: the count is wrong, or the guest is not the one that was recorded).
        by: i64,
    },
    /// Every instruction at the address was looked at, and none was it.
    #[error(
        "the guest was nowhere what it should be at the target, {by} branches after it now; a count was wrong, the target is not a \
         place that can be stopped at (after MOV SS), or the guest is not the one that was recorded"
    )]
    NotThere {
        /// Branches beyond the target's count (below zero: an exit came first).
        by: i64,
    },
    /// More branches than instructions.
    #[error("the counter counted {counted} branches in one step: it counts something else too")]
    Overcount {
        /// What it counted.
        counted: u64,
    },
    /// The count exceeds the target's although exits are missing.
    #[error(
        "the count is {by} above the target's, and the guest has {exits} exits to go before it: a count was wrong, or the guest is \
         not the one that was recorded"
    )]
    TooMany {
        /// Branches beyond the target's count.
        by: u64,
        /// Exits that are missing.
        exits: u64,
    },
    /// A count that went down.
    #[error("the count fell by {by}: the counter was taken away, or is not one")]
    Fell {
        /// By how much.
        by: u64,
    },
    /// Nothing happens any more.
    #[error(
        "the guest loops without a conditional branch and without an exit, and never comes to the target"
    )]
    Stalled,
}

/// Why landing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure<E> {
    /// The guest does not go on.
    Guest(E),
    /// The target was missed.
    Missed(Miss),
}

impl<E> From<Miss> for Failure<E> {
    fn from(miss: Miss) -> Failure<E> {
        Failure::Missed(miss)
    }
}

/// Interruptions, and other stops, in a row without a branch between them: a string instruction may be kicked often, and looked at for
/// each element, but not for ever.
const KICKS_MAX: u32 = 1000;
const LOOKS_MAX: u32 = 1 << 20;

/// Goes on from an exact place (a checkpoint, an answered exit, a landing) to the target, or to the next exit if that comes first
/// (`target.exits` says). The alarm is set `margin` branches early, or not at all if they are not that far apart.
///
/// # Errors
/// [`Failure`]. Where the target was missed, it may be behind.
pub fn land<G: Guest>(
    guest: &mut G,
    target: &Place,
    margin: u64,
    effort: &mut Effort,
) -> Result<Arrival, Failure<G::Error>> {
    let mut journey = Journey { guest, target, effort, kicks: 0, looks: 0 };
    let here = journey.guest.place().map_err(Failure::Guest)?;
    if here.exits < target.exits {
        return journey.reach_exit(here);
    }
    let by = here.branches.saturating_sub(target.branches);
    if here.exits > target.exits || by > 0 {
        return Err(Miss::Overshoot { by, margin }.into());
    }
    let near = journey.approach(here, margin)?;
    journey.seek(near)?;
    Ok(Arrival::Landed)
}

struct Journey<'a, G> {
    guest: &'a mut G,
    target: &'a Place,
    effort: &'a mut Effort,
    kicks: u32,
    looks: u32,
}

impl<G: Guest> Journey<'_, G> {
    fn run(
        &mut self,
        alarm: Option<NonZeroU64>,
        breakpoint: Option<Gva>,
    ) -> Result<Stop, Failure<G::Error>> {
        let stop = self.guest.run(alarm, breakpoint).map_err(Failure::Guest)?;
        match stop {
            Stop::Interrupted => self.effort.interrupts += 1,
            Stop::Breakpoint => self.effort.breakpoints += 1,
            Stop::Stepped | Stop::Exit => {}
        }
        Ok(stop)
    }

    /// The place after a stop, if it can be one after `before`.
    fn place_after(&mut self, before: &Place, stop: Stop) -> Result<Place, Failure<G::Error>> {
        let here = self.guest.place().map_err(Failure::Guest)?;
        if here.branches < before.branches {
            return Err(Miss::Fell { by: before.branches - here.branches }.into());
        }
        if here.branches != before.branches {
            (self.kicks, self.looks) = (0, 0);
        }
        match stop {
            Stop::Interrupted => self.kicks += 1,
            Stop::Breakpoint | Stop::Stepped | Stop::Exit => self.looks += 1,
        }
        if self.kicks > KICKS_MAX || self.looks > LOOKS_MAX {
            return Err(Miss::Stalled.into());
        }
        Ok(here)
    }

    fn beyond(&self, here: &Place) -> i64 {
        here.branches.wrapping_sub(self.target.branches) as i64
    }

    /// The target is behind an exit: no count needed until then.
    fn reach_exit(&mut self, mut here: Place) -> Result<Arrival, Failure<G::Error>> {
        loop {
            let stop = self.run(None, None)?;
            here = self.place_after(&here, stop)?;
            if here.branches > self.target.branches && here.exits <= self.target.exits {
                let by = here.branches - self.target.branches;
                return Err(Miss::TooMany { by, exits: self.target.exits - here.exits }.into());
            }
            if stop == Stop::Exit {
                return Ok(Arrival::Exit);
            }
        }
    }

    /// Runs as far as the alarm can be trusted to be early enough.
    fn approach(&mut self, mut here: Place, margin: u64) -> Result<Place, Failure<G::Error>> {
        loop {
            let distance = self.target.branches - here.branches;
            let alarm = distance.saturating_sub(margin);
            let Some(alarm) = NonZeroU64::new(alarm).filter(|alarm| alarm.get() >= PERIOD_MIN)
            else {
                return Ok(here);
            };
            let stop = self.run(Some(alarm), None)?;
            here = self.place_after(&here, stop)?;
            if stop == Stop::Exit || here.exits != self.target.exits {
                return Err(Miss::NeverStopped { by: self.beyond(&here) }.into());
            }
            // With an equal count it may have been passed, and nothing here would tell.
            if here.branches >= self.target.branches {
                let by = here.branches - self.target.branches;
                return Err(Miss::Overshoot { by, margin }.into());
            }
        }
    }

    /// Looks at every instruction at the target's address. Nothing that could be the target goes by unseen, so unlike in
    /// [`Journey::approach`] it does not matter what stopped the guest where all is equal.
    fn seek(&mut self, mut here: Place) -> Result<(), Failure<G::Error>> {
        // An instruction that the kernel emulates may not be passed by RFLAGS.RF.
        let mut is_stuck = false;
        while here != *self.target {
            if here.branches > self.target.branches || here.exits != self.target.exits {
                return Err(Miss::NotThere { by: self.beyond(&here) }.into());
            }
            let before = here;
            if is_stuck || here.rip == self.target.rip && here.branches == self.target.branches {
                is_stuck = false;
                self.effort.steps += 1;
                let stop = self.guest.step().map_err(Failure::Guest)?;
                here = self.place_after(&before, stop)?;
                let counted = here.branches - before.branches;
                if counted > 1 {
                    return Err(Miss::Overcount { counted }.into());
                }
            } else {
                // The alarm is for a target that never comes.
                let after = (self.target.branches - here.branches).saturating_add(1);
                let alarm = NonZeroU64::new(after.max(PERIOD_MIN));
                let stop = self.run(alarm, Some(self.target.rip))?;
                here = self.place_after(&before, stop)?;
                is_stuck = stop == Stop::Breakpoint && here == before;
            }
        }
        Ok(())
    }
}

/// How [`land_from`] tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tries {
    /// The margin of the first attempt: what the event's skid suggests ([`super::events::Event::skid`]).
    pub margin: u64,
    /// How many attempts there are.
    pub attempts_max: u32,
}

impl Tries {
    /// The first attempts have alarms, and the last have none, which cannot be late.
    pub const ATTEMPTS: u32 = 8;
}

/// How much wider a margin becomes with each attempt, and how many attempts have one.
const WIDER: u64 = 8;
const WITH_MARGIN: u32 = 4;

/// The margin of an attempt, counted from 0: wider each time, and in the end no alarm at all, which cannot be late.
fn margin_of(first: u64, attempt: u32) -> u64 {
    if attempt >= WITH_MARGIN {
        return u64::MAX;
    }
    first.max(1).saturating_mul(WIDER.pow(attempt))
}

/// What [`land_from`] took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Attempts; 1 if nothing was missed.
    pub attempts: u32,
    /// All of them together.
    pub effort: Effort,
    /// Why the last but one missed, if there was one.
    pub missed: Option<Miss>,
}

/// Lands on the target from a checkpoint, as often as it takes. `restore` puts the guest, and its counter, where the checkpoint is;
/// `answer` answers the exit that the guest is at.
///
/// # Errors
/// [`Failure`] of the last attempt.
pub fn land_from<G: Guest>(
    guest: &mut G,
    target: &Place,
    tries: Tries,
    mut restore: impl FnMut(&mut G) -> Result<(), G::Error>,
    mut answer: impl FnMut(&mut G) -> Result<(), G::Error>,
) -> Result<Report, Failure<G::Error>> {
    let mut report = Report::default();
    loop {
        restore(guest).map_err(Failure::Guest)?;
        let margin = margin_of(tries.margin, report.attempts);
        report.attempts += 1;
        let arrived = loop {
            match land(guest, target, margin, &mut report.effort) {
                Ok(Arrival::Landed) => break Ok(()),
                Ok(Arrival::Exit) => answer(guest).map_err(Failure::Guest)?,
                Err(failure) => break Err(failure),
            }
        };
        match arrived {
            Ok(()) => return Ok(report),
            Err(Failure::Missed(miss)) if report.attempts < tries.attempts_max => {
                report.missed = Some(miss);
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// Where [`settle`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Right behind a conditional branch: no other place has this count first.
    Branch(Place),
    /// At an exit, which is a position of its own.
    Exit,
    /// Neither came within the steps allowed.
    Nowhere(Place),
}

/// Goes on from wherever the guest was stopped to a place that is found again by its count alone: for choosing, while recording,
/// where an interrupt enters. Such a place is no string's middle, in no loop without branches, and never where MOV SS or STI holds
/// interrupts off.
///
/// # Errors
/// [`Failure`]
pub fn settle<G: Guest>(guest: &mut G, steps_max: u64) -> Result<Settled, Failure<G::Error>> {
    let mut here = guest.place().map_err(Failure::Guest)?;
    for _ in 0..steps_max {
        let stop = guest.step().map_err(Failure::Guest)?;
        let now = guest.place().map_err(Failure::Guest)?;
        if stop == Stop::Exit {
            return Ok(Settled::Exit);
        }
        match now.branches.checked_sub(here.branches) {
            Some(0) => here = now,
            Some(1) => return Ok(Settled::Branch(now)),
            Some(counted) => return Err(Miss::Overcount { counted }.into()),
            None => return Err(Miss::Fell { by: here.branches - now.branches }.into()),
        }
    }
    Ok(Settled::Nowhere(here))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// Stops in the order given.
    struct Scripted {
        here: Place,
        script: VecDeque<(&'static str, Stop, Place)>,
        alarms: Vec<Option<u64>>,
    }

    impl Scripted {
        fn next(&mut self, call: &str) -> Stop {
            let (expected, stop, place) = self.script.pop_front().expect("the script goes on");
            assert_eq!(call, expected, "left: {:?}", self.script);
            self.here = place;
            stop
        }
    }

    impl Guest for Scripted {
        type Error = std::convert::Infallible;

        fn place(&mut self) -> Result<Place, Self::Error> {
            Ok(self.here)
        }
        fn run(
            &mut self,
            alarm: Option<NonZeroU64>,
            breakpoint: Option<Gva>,
        ) -> Result<Stop, Self::Error> {
            self.alarms.push(alarm.map(NonZeroU64::get));
            Ok(self.next(if breakpoint.is_some() { "break" } else { "run" }))
        }
        fn step(&mut self) -> Result<Stop, Self::Error> {
            Ok(self.next("step"))
        }
    }

    fn at(branches: u64, rip: u64, rcx: u64) -> Place {
        Place { exits: 1, branches, rip: Gva(rip), rcx, registers: 0 }
    }

    fn play(
        from: Place,
        target: Place,
        script: &[(&'static str, Stop, Place)],
    ) -> (Result<Arrival, Miss>, Vec<Option<u64>>) {
        let script = script.iter().copied().collect();
        let mut guest = Scripted { here: from, script, alarms: Vec::new() };
        let outcome = land(&mut guest, &target, 100, &mut Effort::default());
        assert!(guest.script.is_empty(), "not asked for: {:?}", guest.script);
        let outcome = outcome.map_err(|failure| match failure {
            Failure::Missed(miss) => miss,
            Failure::Guest(never) => match never {},
        });
        (outcome, guest.alarms)
    }

    use Stop::{Breakpoint, Exit, Interrupted, Stepped};

    #[test]
    fn armed_early_then_a_breakpoint_then_a_step_off_it() {
        let target = at(1000, 0x50, 7);
        let (outcome, alarms) = play(
            at(0, 0x10, 0),
            target,
            &[
                ("run", Interrupted, at(930, 0x20, 0)),
                ("break", Breakpoint, at(980, 0x50, 7)),
                ("break", Breakpoint, at(1000, 0x50, 9)),
                ("step", Stepped, at(1000, 0x50, 8)),
                ("step", Stepped, target),
            ],
        );
        assert_eq!(outcome, Ok(Arrival::Landed));
        // 1000 less a margin of 100; then one beyond the target, but not fewer than can be waited for.
        assert_eq!(alarms, [Some(900), Some(71), Some(32)]);
    }

    #[test]
    fn a_breakpoint_that_cannot_be_passed_is_stepped_off() {
        let (target, before) = (at(1000, 0x50, 7), at(980, 0x50, 7));
        let script = [
            ("break", Breakpoint, before),
            ("break", Breakpoint, before),
            ("step", Stepped, at(980, 0x53, 7)),
            ("break", Breakpoint, target),
        ];
        assert_eq!(play(at(950, 0x10, 0), target, &script).0, Ok(Arrival::Landed));
    }

    #[test]
    fn an_early_stop_is_armed_again() {
        let target = at(1000, 0x50, 0);
        let script = [
            ("run", Interrupted, at(0, 0x10, 0)),
            ("run", Interrupted, at(500, 0x20, 0)),
            ("run", Interrupted, at(901, 0x20, 0)),
            ("break", Breakpoint, target),
        ];
        let (outcome, alarms) = play(at(0, 0x10, 0), target, &script);
        assert_eq!(outcome, Ok(Arrival::Landed));
        assert_eq!(alarms, [Some(900), Some(900), Some(400), Some(100)]);
    }

    #[test]
    fn where_it_stands_already_nothing_runs() {
        let target = at(1000, 0x50, 0);
        assert_eq!(play(target, target, &[]).0, Ok(Arrival::Landed));
    }

    #[test]
    fn the_interrupt_does_not_land_even_where_all_is_equal() {
        let target = at(1000, 0x50, 0);
        for (place, by) in [(target, 0), (at(1007, 0x20, 0), 7)] {
            let script = [("run", Interrupted, place)];
            let outcome = play(at(0, 0x10, 0), target, &script).0;
            assert_eq!(outcome, Err(Miss::Overshoot { by, margin: 100 }));
        }
        assert_eq!(
            play(at(1001, 0x10, 0), target, &[]).0,
            Err(Miss::Overshoot { by: 1, margin: 100 })
        );
    }

    #[test]
    fn what_no_one_stopped_is_seen_at_the_exit() {
        let target = at(1000, 0x50, 0);
        let beyond = Place { exits: 2, ..at(1020, 0x99, 0) };
        let near = at(950, 0x10, 0);
        let (far, exit) = (at(0, 0x10, 0), Exit);
        assert_eq!(
            play(far, target, &[("run", exit, beyond)]).0,
            Err(Miss::NeverStopped { by: 20 })
        );
        assert_eq!(
            play(near, target, &[("break", exit, beyond)]).0,
            Err(Miss::NotThere { by: 20 })
        );
        // The guest stood at the address, and its next instruction was an exit: it was not the target.
        let behind = Place { exits: 2, ..at(1000, 0x52, 1) };
        let script = [("break", Breakpoint, at(1000, 0x50, 1)), ("step", exit, behind)];
        assert_eq!(play(near, target, &script).0, Err(Miss::NotThere { by: 0 }));
    }

    #[test]
    fn a_target_behind_an_exit_needs_no_alarm_until_then() {
        let target = Place { exits: 2, ..at(1000, 0x50, 0) };
        let (outcome, alarms) =
            play(at(0, 0, 0), target, &[("run", Exit, Place { exits: 2, ..at(400, 0x30, 0) })]);
        assert_eq!((outcome, alarms), (Ok(Arrival::Exit), vec![None]));
        let script = [("run", Interrupted, at(1003, 0x30, 0))];
        assert_eq!(play(at(0, 0, 0), target, &script).0, Err(Miss::TooMany { by: 3, exits: 1 }));
    }

    #[test]
    fn counts_that_no_counter_gives() {
        let target = at(1000, 0x50, 0);
        let script =
            [("break", Breakpoint, at(1000, 0x50, 1)), ("step", Stepped, at(1002, 0x51, 0))];
        assert_eq!(play(at(960, 0, 0), target, &script).0, Err(Miss::Overcount { counted: 2 }));
        let script = [("run", Interrupted, at(40, 0, 0))];
        assert_eq!(play(at(50, 0, 0), target, &script).0, Err(Miss::Fell { by: 10 }));
    }

    #[test]
    fn a_guest_that_goes_nowhere_is_given_up() {
        let (spin, target) = (at(1000, 0x50, 1), at(1000, 0x50, 0));
        let script = vec![("step", Stepped, spin); LOOKS_MAX as usize + 1];
        assert_eq!(play(spin, target, &script).0, Err(Miss::Stalled));
        let script = vec![("run", Interrupted, at(0, 0x10, 5)); KICKS_MAX as usize + 1];
        assert_eq!(play(at(0, 0x10, 0), target, &script).0, Err(Miss::Stalled));
    }

    #[test]
    fn margins_grow_until_there_is_none() {
        let margins: Vec<u64> = (0..6).map(|attempt| margin_of(100, attempt)).collect();
        assert_eq!(margins, [100, 800, 6400, 51_200, u64::MAX, u64::MAX]);
        assert_eq!(margin_of(u64::MAX / 2, 1), u64::MAX);
    }
}

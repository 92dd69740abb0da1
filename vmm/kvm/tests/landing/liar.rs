//! A counter that lies, on a processor that is stopped late, early or not at all.

use crate::course::Course;
use crate::machine::Kind;
use crate::program::Random;
use dejavm_kvm::pmu::landing::{Guest, Place, Stop};
use dejavm_units::Gva;
use std::convert::Infallible;
use std::num::NonZeroU64;

/// Steps after which somebody looks what the guest is doing.
const KICK: u64 = 3000;
/// Instructions that a stop may be late besides, each of which may be a branch.
pub const SLACK_MAX: u64 = 6;

/// In which ways it lies. Numbers are "once in so many", 0 never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lies {
    /// Branches that a stop may be late, most times.
    pub skid_max: u64,
    /// Stops that are later than that, by any distance.
    pub late_in: u64,
    /// Alarms that never come.
    pub lost_in: u64,
    /// Runs that something else interrupts.
    pub interrupted_in: u64,
    /// Steps with which branches are counted that were none.
    pub over_in: u64,
    /// Steps with which branches are forgotten.
    pub under_in: u64,
}

/// A guest that goes along a course.
pub struct Liar {
    pub course: Course,
    /// Where it stands.
    pub at: usize,
    lies: Lies,
    random: Random,
    /// Branches of the course before the counter was set to 0.
    uncounted: u64,
    /// What the counter says beyond what it should.
    error: i64,
    /// In the middle of a string instruction: a breakpoint at it does not stop it.
    inside: bool,
}

impl Liar {
    pub fn new(course: Course, lies: Lies, seed: u64) -> Liar {
        let random = Random::new(seed);
        Liar { course, at: 0, lies, random, uncounted: 0, error: 0, inside: false }
    }

    /// Back to somewhere, where the count is 0.
    pub fn restore(&mut self, at: usize) {
        self.uncounted = self.course.stand(at).place.branches;
        (self.at, self.error, self.inside) = (at, 0, false);
    }

    fn happens(&mut self, once_in: u64) -> bool {
        once_in != 0 && self.random.once_in(once_in)
    }

    fn branches(&mut self) -> u64 {
        self.course.stand(self.at).place.branches
    }

    fn reading(&mut self) -> u64 {
        (self.branches() - self.uncounted).saturating_add_signed(self.error)
    }

    /// One step, counted; whether it was an exit.
    fn advance(&mut self) -> bool {
        let step = self.course.stand(self.at).step;
        self.at += 1;
        self.inside = step.inside;
        if self.happens(self.lies.over_in) {
            self.error += 1 + self.random.below(3) as i64;
        }
        if self.happens(self.lies.under_in) && self.reading() > 3 {
            self.error -= 1 + self.random.below(3) as i64;
        }
        step.exit
    }

    fn skid(&mut self) -> u64 {
        if self.happens(self.lies.late_in) {
            // By powers of two, so that some are far.
            let far = 1 << self.random.below(12);
            return self.lies.skid_max + self.random.below(far);
        }
        self.random.below(self.lies.skid_max + 1)
    }
}

impl Guest for Liar {
    type Error = Infallible;

    fn place(&mut self) -> Result<Place, Infallible> {
        let branches = self.reading();
        Ok(Place { branches, ..self.course.stand(self.at).place })
    }

    fn run(
        &mut self,
        alarm: Option<NonZeroU64>,
        breakpoint: Option<Gva>,
    ) -> Result<Stop, Infallible> {
        let lost = self.happens(self.lies.lost_in);
        let due = alarm.filter(|_| !lost).map(|alarm| self.reading() + alarm.get());
        let interrupted = self.happens(self.lies.interrupted_in).then(|| self.random.below(200));
        let mut stop: Option<(u64, u64)> = None;
        for steps in 0.. {
            let stand = self.course.stand(self.at);
            let stops = breakpoint == Some(stand.place.rip) && !stand.shadow && !self.inside;
            if stops && steps > 0 {
                return Ok(Stop::Breakpoint);
            }
            if interrupted == Some(steps) || steps == KICK {
                return Ok(Stop::Interrupted);
            }
            match &mut stop {
                Some((branches, slack)) if stand.place.branches >= *branches => {
                    if *slack == 0 {
                        return Ok(Stop::Interrupted);
                    }
                    *slack -= 1;
                }
                Some(_) => {}
                None if due.is_some_and(|due| self.reading() >= due) => {
                    let late = stand.place.branches + self.skid();
                    stop = Some((late, self.random.below(SLACK_MAX)));
                    continue;
                }
                None => {}
            }
            if self.advance() {
                return Ok(Stop::Exit);
            }
        }
        unreachable!("it is kicked")
    }

    fn step(&mut self) -> Result<Stop, Infallible> {
        let step = self.course.stand(self.at).step;
        let mut exit = self.advance();
        // MOV SS holds the step's exception off, and a delivery may.
        if !exit && (step.kind == Kind::LoadsSs || step.delivery && self.random.once_in(2)) {
            exit = self.advance();
        }
        Ok(if exit { Stop::Exit } else { Stop::Stepped })
    }
}

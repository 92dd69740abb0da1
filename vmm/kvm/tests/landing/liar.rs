//! A counter that lies, on a processor that is stopped late, early or not at all.

use crate::machine::{Kind, Machine, Whole};
use crate::program::Random;
use dejavm_cpu::{CpuState, gpr, rflags};
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

pub struct Liar {
    pub machine: Machine,
    lies: Lies,
    random: Random,
    /// Branches retired since the checkpoint.
    branches: u64,
    /// What the counter says beyond that.
    error: i64,
    /// In the middle of a string instruction: a breakpoint at it does not stop it.
    inside: bool,
}

impl Liar {
    pub fn new(machine: Machine, lies: Lies, seed: u64) -> Liar {
        Liar { machine, lies, random: Random::new(seed), branches: 0, error: 0, inside: false }
    }

    /// Back to a checkpoint, where the count is 0.
    pub fn restore(&mut self, checkpoint: &Whole) {
        self.machine.restore(checkpoint);
        (self.branches, self.error, self.inside) = (0, 0, false);
    }

    fn happens(&mut self, once_in: u64) -> bool {
        once_in != 0 && self.random.once_in(once_in)
    }

    fn reading(&self) -> u64 {
        self.branches.saturating_add_signed(self.error)
    }

    /// One step, counted; whether it was an exit.
    fn advance(&mut self) -> bool {
        let step = self.machine.step();
        self.branches += u64::from(step.kind == Kind::ConditionalBranch);
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

/// The place of a machine that counted so many branches.
pub fn place_of(state: &CpuState, exits: u64, branches: u64) -> Place {
    let flags = state.rflags & !(rflags::RF | rflags::TF);
    let registers = state.gpr.iter().chain([&flags]);
    // FNV-1a by words: nobody chooses registers here to collide.
    let registers = registers.fold(0xcbf2_9ce4_8422_2325u64, |hash, &word| {
        (hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(29)
    });
    Place { exits, branches, rip: Gva(state.rip), rcx: state.gpr[gpr::RCX], registers }
}

impl Guest for Liar {
    type Error = Infallible;

    fn place(&mut self) -> Result<Place, Infallible> {
        Ok(place_of(&self.machine.state(), self.machine.board.exits, self.reading()))
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
            let state = self.machine.state();
            let stops = breakpoint == Some(Gva(state.rip)) && !state.interrupt_shadow;
            // After a stop inside a string it depends on RFLAGS.RF, which depends on what stopped it.
            if stops && !(self.inside && (steps > 0 || self.random.once_in(2))) {
                return Ok(Stop::Breakpoint);
            }
            if interrupted == Some(steps) || steps == KICK {
                return Ok(Stop::Interrupted);
            }
            match &mut stop {
                Some((branches, slack)) if self.branches >= *branches => {
                    if *slack == 0 {
                        return Ok(Stop::Interrupted);
                    }
                    *slack -= 1;
                }
                Some(_) => {}
                None if due.is_some_and(|due| self.reading() >= due) => {
                    let late = self.branches + self.skid();
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
        let state = self.machine.state();
        let before = self.machine.kind(state.rip);
        let at = state.position;
        let mut exit = self.advance();
        // MOV SS holds the step's exception off, and a delivery may.
        let delivered = self.machine.state().position == at;
        if !exit && (before == Kind::LoadsSs || delivered && self.random.once_in(2)) {
            exit = self.advance();
        }
        Ok(if exit { Stop::Exit } else { Stop::Stepped })
    }
}

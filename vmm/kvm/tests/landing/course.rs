//! All that happens in a program, step by step, as the software CPU does it: what a guest goes along, again and again.

use crate::machine::{Instant, Kind, Machine, Step, Whole};
use crate::program::{Ingredients, Random, generate};
use dejavm_cpu::{CpuState, gpr, rflags};
use dejavm_kvm::pmu::landing::Place;
use dejavm_units::Gva;

/// Steps of a program before its checkpoint, at most.
const BEFORE_MAX: u64 = 500;
/// Steps from the checkpoint to the farthest target.
const STEPS_MIN: u64 = 200;
const STEPS_MAX: u64 = 2500;

/// Where a guest can stand still, and what comes then.
#[derive(Clone, Copy)]
pub struct Stand {
    /// The place; branches are counted from the checkpoint on.
    pub place: Place,
    /// Where that is for the CPU at full speed.
    pub instant: Instant,
    /// MOV SS was before: neither breakpoints nor steps stop here.
    pub shadow: bool,
    /// What the next step is.
    pub step: Step,
}

/// A program with all that happens in it from a checkpoint on.
pub struct Course {
    pub seed: u64,
    checkpoint: Whole,
    path: Vec<Stand>,
    /// Stands that can be targets; behind them the path goes on as far as anyone goes.
    pub targets: usize,
    /// At the path's end.
    machine: Machine,
    program: Vec<u8>,
}

impl Course {
    pub fn new(seed: u64, ingredients: Ingredients) -> Course {
        let mut random = Random::new(seed ^ 0x5eed);
        let program = generate(seed, ingredients);
        let mut machine = Machine::new(&program);
        for _ in 0..random.below(BEFORE_MAX) {
            machine.step();
        }
        let checkpoint = machine.whole();
        let targets = (STEPS_MIN + random.below(STEPS_MAX - STEPS_MIN)) as usize;
        let mut course = Course { seed, checkpoint, path: Vec::new(), targets, machine, program };
        course.stand(targets);
        course
    }

    /// The n-th place on the way.
    pub fn stand(&mut self, n: usize) -> Stand {
        while self.path.len() <= n {
            let before = self.path.last();
            let branches = before.map_or(0, |it| {
                it.place.branches + u64::from(it.step.kind == Kind::ConditionalBranch)
            });
            // The checkpoint may be inside a string, or behind a delivery: what is counted starts there.
            let instant = before.map_or(Instant::default(), |it| it.instant.after(&it.step));
            let state = self.machine.state();
            let place = place_of(&state, self.machine.board.exits, branches);
            let step = self.machine.step();
            self.path.push(Stand { place, instant, shadow: state.interrupt_shadow, step });
        }
        self.path[n]
    }

    /// Places that can be targets.
    pub fn targets(&self) -> &[Stand] {
        &self.path[..self.targets]
    }

    /// Compares places of the path with where the software CPU comes to by blocks and host code, all of the machine.
    pub fn verify(&self, mut places: Vec<usize>) {
        places.sort_unstable();
        let (mut steps, mut truth) = (Machine::new(&self.program), Machine::new(&self.program));
        steps.restore(&self.checkpoint);
        let mut at = 0;
        for n in places {
            while at < n {
                steps.step();
                at += 1;
            }
            truth.go(&self.checkpoint, self.path[n].instant);
            let difference = steps.whole().difference(&truth.whole());
            assert_eq!(difference, None, "seed {}, step {n}: the simulation is wrong", self.seed);
        }
    }
}

/// The place of a machine that counted so many branches.
fn place_of(state: &CpuState, exits: u64, branches: u64) -> Place {
    let flags = state.rflags & !(rflags::RF | rflags::TF);
    let registers = state.gpr.iter().chain([&flags]);
    // FNV-1a by words: nobody chooses registers here to collide.
    let registers = registers.fold(0xcbf2_9ce4_8422_2325u64, |hash, &word| {
        (hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(29)
    });
    Place { exits, branches, rip: Gva(state.rip), rcx: state.gpr[gpr::RCX], registers }
}

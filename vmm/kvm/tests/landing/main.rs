//! Landing on positions with a counter that lies: thousands of targets in guests made at random. Where the landing says that it is there, all of
//! the machine is compared with the software CPU's at that count of instructions.

mod liar;
mod machine;
mod program;

use dejavm_kvm::pmu::landing::{
    Arrival, Effort, Failure, Miss, Place, Report, Settled, land, land_from, settle,
};
use liar::{Liar, Lies, SLACK_MAX, place_of};
use machine::{Instant, Kind, Machine, Whole};
use program::{Ingredients, Random, generate};

/// What the counter's skid is taken to be.
const MARGIN: u64 = 24;
/// Steps from the checkpoint to the farthest target.
const STEPS_MAX: u64 = 2500;
/// Targets in one program.
const TARGETS: u64 = 12;

/// A program with all that happens in it from a checkpoint on.
struct Course {
    seed: u64,
    program: Vec<u8>,
    checkpoint: Whole,
    /// Each place that the guest can stand at, and where that is.
    path: Vec<(Place, Instant)>,
    /// Those where MOV SS was before: neither breakpoints nor steps stop there.
    shadows: Vec<bool>,
    /// The CPU at full speed.
    truth: Machine,
}

impl Course {
    fn new(seed: u64, ingredients: Ingredients) -> Course {
        let mut random = Random::new(seed ^ 0x5eed);
        let program = generate(seed, ingredients);
        let mut machine = Machine::new(&program);
        for _ in 0..random.below(500) {
            machine.step();
        }
        let checkpoint = machine.whole();
        let steps = 200 + random.below(STEPS_MAX - 200);
        let (mut path, mut shadows) = (Vec::new(), Vec::new());
        let (mut instant, mut branches) = (Instant::default(), 0);
        // The checkpoint may be inside a string, or behind a delivery: what is counted starts there.
        for _ in 0..steps {
            let state = machine.state();
            path.push((place_of(&state, machine.board.exits, branches), instant));
            shadows.push(state.interrupt_shadow);
            let step = machine.step();
            branches += u64::from(step.kind == Kind::ConditionalBranch);
            instant = match (step.delivery, step.inside) {
                (true, _) => Instant { deliveries: instant.deliveries + 1, ..instant },
                (_, true) => Instant { elements: instant.elements + 1, ..instant },
                (false, false) => {
                    Instant { instructions: instant.instructions + 1, ..Instant::default() }
                }
            };
        }
        let truth = Machine::new(&program);
        Course { seed, program, checkpoint, path, shadows, truth }
    }

    /// Some way along it: anywhere, or right at an exit, or inside a string if there is one.
    fn target(&self, random: &mut Random) -> usize {
        let anywhere = random.below(self.path.len() as u64) as usize;
        let wanted = |&index: &usize| match random.below(40) {
            0 => index > 0 && self.path[index - 1].0.exits < self.path[index].0.exits,
            1 => self.path.get(index + 1).is_some_and(|it| it.0.exits > self.path[index].0.exits),
            2..=6 => self.path[index].1.elements > 0,
            7 => self.path[index].1.deliveries > 0,
            _ => true,
        };
        (anywhere..self.path.len()).find(wanted).unwrap_or(anywhere)
    }

    /// What is wrong with where a machine stands, which should be at an index of the path.
    fn wrong(&mut self, machine: &Machine, index: usize) -> Option<String> {
        self.truth.go(&self.checkpoint, self.path[index].1);
        machine.whole().difference(&self.truth.whole())
    }
}

/// What became of the landings of a test.
#[derive(Debug, Default)]
struct Tally {
    landed: u64,
    retried: u64,
    failed: u64,
    shadowed: u64,
    inside_strings: u64,
    effort: Effort,
    misses: Vec<Miss>,
}

impl Tally {
    fn saw(&self, kind: fn(&Miss) -> bool) -> usize {
        self.misses.iter().filter(|miss| kind(miss)).count()
    }
}

/// Lands on targets in programs made from seeds, which are printed where something is wrong.
fn landings(programs: u64, first_seed: u64, lies: Lies) -> Tally {
    let mut tally = Tally::default();
    for seed in first_seed..first_seed + programs {
        let exit_in = if seed % 2 == 0 { 400 } else { 12 };
        let mut course = Course::new(seed, Ingredients { exit_in, memory_loops: false });
        let mut random = Random::new(seed ^ 0x7a26);
        let mut guest = Liar::new(Machine::new(&course.program), lies, seed ^ 0x11a2);
        for _ in 0..TARGETS {
            let index = course.target(&mut random);
            attempt(&mut course, &mut guest, index, &mut tally);
        }
    }
    tally
}

fn attempt(course: &mut Course, guest: &mut Liar, index: usize, tally: &mut Tally) {
    let (target, instant) = course.path[index];
    let checkpoint = &course.checkpoint;
    let restore = |guest: &mut Liar| {
        guest.restore(checkpoint);
        Ok(())
    };
    let result = land_from(guest, &target, MARGIN, restore, |_| Ok(()));
    match result {
        Ok(Report { attempts, effort, missed }) => {
            if let Some(wrong) = course.wrong(&guest.machine, index) {
                panic!("seed {}, step {index}, {target:x?}: {wrong}", course.seed);
            }
            tally.landed += 1;
            tally.retried += u64::from(attempts > 1);
            tally.inside_strings += u64::from(instant.elements > 0);
            tally.effort.interrupts += effort.interrupts;
            tally.effort.breakpoints += effort.breakpoints;
            tally.effort.steps += effort.steps;
            tally.misses.extend(missed);
        }
        Err(Failure::Missed(miss)) => {
            if course.shadows[index] {
                tally.shadowed += 1;
            } else {
                tally.failed += 1;
                tally.misses.push(miss);
            }
        }
        Err(Failure::Guest(never)) => match never {},
    }
}

/// All counts are right, all stops within the margin, now and then something else interrupts.
#[test]
fn an_honest_counter_lands_at_the_first_attempt() {
    let lies = Lies { skid_max: MARGIN - SLACK_MAX, interrupted_in: 5, ..Lies::default() };
    let tally = landings(150, 1000, lies);
    eprintln!("{tally:?}");
    assert_eq!(tally.failed, 0, "{tally:?}");
    assert_eq!(tally.landed + tally.shadowed, 150 * TARGETS);
    // A target behind MOV SS is refused, and little else is made of those.
    assert!(tally.shadowed < tally.landed / 10, "{tally:?}");
    assert_eq!(tally.retried, 0, "{tally:?}");
    assert!(tally.inside_strings > 100 && tally.effort.interrupts > 1000, "{tally:?}");
}

/// Interrupts may be late by any distance: seen each time, and in the end no interrupt is relied upon.
#[test]
fn late_interrupts_are_retried_until_it_lands() {
    let lies = Lies { skid_max: 2 * MARGIN, late_in: 3, interrupted_in: 20, ..Lies::default() };
    let tally = landings(120, 2000, lies);
    eprintln!("{tally:?}");
    assert_eq!(tally.failed, 0, "{tally:?}");
    assert!(tally.saw(|miss| matches!(miss, Miss::Overshoot { .. })) > 100, "{tally:?}");
}

/// Interrupts may never come.
#[test]
fn lost_interrupts_are_retried_until_it_lands() {
    let lies = Lies { skid_max: MARGIN / 2, lost_in: 3, ..Lies::default() };
    let tally = landings(120, 3000, lies);
    eprintln!("{tally:?}");
    assert_eq!(tally.failed, 0, "{tally:?}");
    assert!(tally.saw(|miss| matches!(miss, Miss::NeverStopped { .. })) > 20, "{tally:?}");
    assert!(tally.retried > 100, "{tally:?}");
}

/// A count that is wrong now and then is landed with sooner or later, one that is wrong all the time never; neither where it should not.
#[test]
fn wrong_counts_land_exactly_or_not_at_all() {
    for (first_seed, over_in, under_in) in
        [(4000, 3000, 0), (4100, 0, 3000), (4200, 40, 0), (4300, 0, 40), (4400, 500, 500)]
    {
        let lies = Lies { skid_max: MARGIN / 2, over_in, under_in, ..Lies::default() };
        let tally = landings(40, first_seed, lies);
        eprintln!("over {over_in} under {under_in}: {tally:?}");
        let rarely = over_in + under_in >= 1000;
        assert!(tally.retried > 20, "{tally:?}");
        assert!(if rarely { tally.landed > 400 } else { tally.failed > 100 }, "{tally:?}");
    }
}

#[test]
fn everything_at_once_is_never_silently_wrong() {
    let lies = Lies {
        skid_max: 2 * MARGIN,
        late_in: 3,
        lost_in: 5,
        interrupted_in: 5,
        over_in: 2000,
        under_in: 2000,
    };
    let tally = landings(120, 5000, lies);
    eprintln!("{tally:?}");
    assert!(tally.landed > 1000 && tally.retried > 300, "{tally:?}");
}

/// Where a recorder puts its interrupts: wherever it stopped the guest, some steps on. These places are found in guests that also have loops
/// that only memory tells the rounds of.
#[test]
fn settled_places_are_found_by_their_count() {
    let lies = Lies { skid_max: MARGIN - SLACK_MAX, interrupted_in: 10, ..Lies::default() };
    let (mut landed, mut exits) = (0, 0);
    for seed in 6000..6150 {
        let mut course = Course::new(seed, Ingredients { exit_in: 100, memory_loops: true });
        let mut random = Random::new(seed ^ 0x5e77);
        let mut guest = Liar::new(Machine::new(&course.program), lies, seed ^ 0x1e);
        for _ in 0..TARGETS {
            // Stopped anywhere, by anything.
            let index = random.below(course.path.len() as u64 * 3 / 4) as usize;
            guest.restore(&course.checkpoint);
            for _ in 0..index {
                guest.machine.step();
            }
            let place = match settle(&mut guest, 10_000).expect("the counter is right") {
                Settled::Exit => {
                    exits += 1;
                    continue;
                }
                Settled::Branch(place) => place,
                Settled::Nowhere(place) => panic!("seed {seed}: nowhere from {index}: {place:x?}"),
            };
            // The counter started there: what it would say had it counted from the checkpoint on.
            let branches = place.branches + course.path[index].0.branches;
            let target = Place { branches, ..place };
            let Some(index) = course.path.iter().position(|(place, _)| *place == target) else {
                continue;
            };
            assert!(index > 0 && course.path[index - 1].0.branches < branches, "seed {seed}");
            let mut tally = Tally::default();
            attempt(&mut course, &mut guest, index, &mut tally);
            assert_eq!((tally.landed, tally.retried), (1, 0), "seed {seed}, step {index}");
            landed += 1;
        }
    }
    assert!(landed > 1000 && exits > 20, "{landed} landed, {exits} at exits");
}

/// The limit that the documentation states: rounds of a loop that differ in nothing but memory are one place, and the first of them
/// is found.
#[test]
fn what_only_memory_tells_apart_is_one_place() {
    let mut twice = 0;
    for seed in 7000..7040 {
        let mut course = Course::new(seed, Ingredients { exit_in: 100, memory_loops: true });
        let mut guest = Liar::new(Machine::new(&course.program), Lies::default(), seed);
        let again = |index: &usize| {
            let first = course.path.iter().position(|it| it.0 == course.path[*index].0);
            first != Some(*index)
        };
        let Some(index) = (0..course.path.len()).find(again) else { continue };
        let target = course.path[index].0;
        guest.restore(&course.checkpoint);
        let landed = loop {
            match land(&mut guest, &target, MARGIN, &mut Effort::default()) {
                Ok(Arrival::Exit) => {}
                landed => break landed,
            }
        };
        assert_eq!(landed, Ok(Arrival::Landed), "seed {seed}");
        let first = course.path.iter().position(|it| it.0 == target).expect("it is there");
        assert_eq!(course.wrong(&guest.machine, first), None, "seed {seed}");
        assert!(course.wrong(&guest.machine, index).is_some(), "seed {seed}");
        twice += 1;
    }
    assert!(twice > 10, "{twice} programs had such places");
}

//! Landing on positions with a counter that lies: thousands of targets in guests made at random. Where the landing says that it is there, the
//! place is the target, and all of the machine there is what the software CPU comes to at full speed.

mod course;
mod liar;
mod machine;
mod program;

use course::Course;
use dejavm_kvm::pmu::landing::{
    Arrival, Effort, Failure, Miss, Place, Report, Settled, Tries, land, land_from, settle,
};
use liar::{Liar, Lies, SLACK_MAX};
use program::{Ingredients, Random};
use std::fmt;

/// What the counter's skid is taken to be.
const MARGIN: u64 = 24;
/// Targets in one program, and one in so many of them is compared with the CPU at full speed.
const TARGETS: u64 = 25;
const VERIFIED_IN: usize = 5;

/// A target some way along: anywhere, or right at an exit, or inside a string if there is one.
fn choose(course: &Course, random: &mut Random) -> usize {
    let path = course.targets();
    let anywhere = random.below(path.len() as u64) as usize;
    let wanted = |&index: &usize| match random.below(40) {
        0 => index > 0 && path[index - 1].step.exit,
        1 => path[index].step.exit,
        2..=6 => path[index].instant.elements > 0,
        7 => path[index].instant.deliveries > 0,
        _ => true,
    };
    (anywhere..path.len()).find(wanted).unwrap_or(anywhere)
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
    overshoots: u64,
    never_stopped: u64,
    wrong_counts: u64,
}

impl Tally {
    fn count(&mut self, miss: Option<Miss>) {
        match miss {
            None => {}
            Some(Miss::Overshoot { .. }) => self.overshoots += 1,
            Some(Miss::NeverStopped { .. }) => self.never_stopped += 1,
            Some(
                Miss::NotThere { .. }
                | Miss::Overcount { .. }
                | Miss::TooMany { .. }
                | Miss::Fell { .. }
                | Miss::Stalled,
            ) => self.wrong_counts += 1,
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { landed, retried, failed, shadowed, inside_strings, effort, .. } = self;
        let Effort { interrupts, breakpoints, steps } = effort;
        write!(
            out,
            "{landed} landed ({retried} retried, {inside_strings} in strings; {interrupts} interrupts, {breakpoints} breakpoints, \
             {steps} steps), {failed} failed, {shadowed} behind MOV SS"
        )
    }
}

/// Lands on targets in programs made from seeds, which are printed where something is wrong.
fn landings(programs: u64, first_seed: u64, lies: Lies) -> Tally {
    let mut tally = Tally::default();
    for seed in first_seed..first_seed + programs {
        let exit_in = if seed % 2 == 0 { 400 } else { 12 };
        let course = Course::new(seed, Ingredients { exit_in, memory_loops: false });
        let mut random = Random::new(seed ^ 0x7a26);
        let targets: Vec<usize> = (0..TARGETS).map(|_| choose(&course, &mut random)).collect();
        let mut guest = Liar::new(course, lies, seed ^ 0x11a2);
        for &target in &targets {
            attempt(&mut guest, target, &mut tally);
        }
        guest.course.verify(targets.into_iter().step_by(VERIFIED_IN).collect());
    }
    eprintln!("seeds from {first_seed}, {lies:?}: {tally}");
    tally
}

fn attempt(guest: &mut Liar, index: usize, tally: &mut Tally) {
    let stand = guest.course.stand(index);
    let restore = |guest: &mut Liar| {
        guest.restore(0);
        Ok(())
    };
    let tries = Tries { margin: MARGIN, attempts_max: Tries::ATTEMPTS };
    match land_from(guest, &stand.place, tries, restore, |_| Ok(())) {
        Ok(Report { attempts, effort, missed }) => {
            let seed = guest.course.seed;
            assert_eq!(guest.at, index, "seed {seed}: step, where {:x?} should be", stand.place);
            tally.landed += 1;
            tally.retried += u64::from(attempts > 1);
            tally.inside_strings += u64::from(stand.instant.elements > 0);
            tally.effort.interrupts += effort.interrupts;
            tally.effort.breakpoints += effort.breakpoints;
            tally.effort.steps += effort.steps;
            tally.count(missed);
        }
        // What is between MOV SS and the next instruction is no place to stop at.
        Err(Failure::Missed(_)) if stand.shadow => tally.shadowed += 1,
        Err(Failure::Missed(miss)) => {
            tally.failed += 1;
            tally.count(Some(miss));
        }
        Err(Failure::Guest(never)) => match never {},
    }
}

/// All counts are right, all stops within the margin, now and then something else interrupts.
#[test]
fn an_honest_counter_lands_at_the_first_attempt() {
    let lies = Lies { skid_max: MARGIN - SLACK_MAX, interrupted_in: 5, ..Lies::default() };
    let tally = landings(150, 1000, lies);
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
    assert_eq!(tally.failed, 0, "{tally:?}");
    assert!(tally.overshoots > 100, "{tally:?}");
}

/// Interrupts may never come.
#[test]
fn lost_interrupts_are_retried_until_it_lands() {
    let lies = Lies { skid_max: MARGIN / 2, lost_in: 3, ..Lies::default() };
    let tally = landings(120, 3000, lies);
    assert_eq!(tally.failed, 0, "{tally:?}");
    assert!(tally.never_stopped > 20, "{tally:?}");
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
    assert!(tally.landed > 1000 && tally.retried > 300, "{tally:?}");
}

/// Where a recorder puts its interrupts: wherever it stopped the guest, some steps on. These places are found in guests that also have loops
/// that only memory tells the rounds of.
#[test]
fn settled_places_are_found_by_their_count() {
    let lies = Lies { skid_max: MARGIN - SLACK_MAX, interrupted_in: 10, ..Lies::default() };
    let (mut landed, mut exits) = (0, 0);
    for seed in 6000..6150 {
        let course = Course::new(seed, Ingredients { exit_in: 8, memory_loops: true });
        let mut random = Random::new(seed ^ 0x5e77);
        let mut guest = Liar::new(course, lies, seed ^ 0x1e);
        for _ in 0..TARGETS {
            // Stopped anywhere, by anything.
            let stopped = random.below(guest.course.targets as u64) as usize;
            guest.restore(stopped);
            let place = match settle(&mut guest, 10_000).expect("the counter is right") {
                Settled::Exit => {
                    exits += 1;
                    continue;
                }
                Settled::Branch(place) => place,
                Settled::Nowhere(place) => {
                    panic!("seed {seed}: nowhere from {stopped}: {place:x?}")
                }
            };
            // The counter started there: what it would say had it counted from the checkpoint on.
            let settled = guest.at;
            let target = guest.course.stand(settled).place;
            let before = guest.course.stand(settled - 1).place;
            let since = target.branches - guest.course.stand(stopped).place.branches;
            assert_eq!(place, Place { branches: since, ..target }, "seed {seed}");
            assert!(before.branches < target.branches, "seed {seed}: not right behind a branch");
            let mut tally = Tally::default();
            attempt(&mut guest, settled, &mut tally);
            assert_eq!((tally.landed, tally.retried), (1, 0), "seed {seed}, step {settled}");
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
        let course = Course::new(seed, Ingredients { exit_in: 100, memory_loops: true });
        let path = course.targets();
        let first_like = |index: usize| {
            let first = path[..index]
                .iter()
                .rposition(|it| it.place.branches != path[index].place.branches);
            let near = first.map_or(0, |it| it + 1);
            (near..index).find(|&it| path[it].place == path[index].place)
        };
        let Some((first, second)) = (0..path.len()).find_map(|n| Some((first_like(n)?, n))) else {
            continue;
        };
        let target = path[second].place;
        let mut guest = Liar::new(course, Lies::default(), seed);
        guest.restore(0);
        let landed = loop {
            match land(&mut guest, &target, MARGIN, &mut Effort::default()) {
                Ok(Arrival::Exit) => {}
                landed => break landed,
            }
        };
        assert_eq!(landed, Ok(Arrival::Landed), "seed {seed}");
        assert_eq!(guest.at, first, "seed {seed}: and not {second}");
        guest.course.verify(vec![first, second]);
        twice += 1;
    }
    assert!(twice > 10, "{twice} programs had such places");
}

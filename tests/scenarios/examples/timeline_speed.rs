//! How long standing somewhere takes: `cargo run --release -p dejavm-scenarios --example timeline_speed -- FILE.dvr
//! [SEED] [ROUNDS]`. Prints the median and the worst of seeks to random positions, of single steps back after
//! each, of steps back right after opening the file, and of runs back to a breakpoint.
#![expect(clippy::print_stdout, reason = "its result")]

use dejavm_machine::{Breakpoint, Stops};
use dejavm_replay::{Direction, Timeline, TimelineOptions, TimelineStop};
use dejavm_scenarios::Random;
use dejavm_units::{Gva, Position};
use std::fs::File;
use std::time::Instant;

fn milliseconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64() * 1e3
}

fn report(what: &str, times: &mut [f64]) {
    times.sort_by(f64::total_cmp);
    let (Some(worst), Some(median)) = (times.last(), times.get(times.len() / 2)) else { return };
    println!("{what}: median {median:.1} ms, worst {worst:.1} ms of {}", times.len());
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().expect("a recording");
    let seed = arguments.next().map_or(1, |seed| seed.parse().expect("a seed"));
    let rounds: usize = arguments.next().map_or(40, |rounds| rounds.parse().expect("a number"));
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let open = || {
        let file = File::open(&path).expect("the recording opens");
        Timeline::open(file, TimelineOptions::default()).expect("the recording is sound")
    };
    let mut timeline = None;
    let opening = milliseconds(|| timeline = Some(open()));
    let mut timeline = timeline.expect("it was opened");
    let end = timeline.end().0;
    println!(
        "opened in {opening:.1} ms; {end} instructions, {} checkpoints",
        timeline.checkpoint_count()
    );

    let starts: Vec<u64> = timeline.checkpoint_positions().map(|at| at.0).chain([end]).collect();
    let widest = starts.windows(2).max_by_key(|pair| pair[1] - pair[0]).expect("start and end");
    println!("the widest gap between checkpoints is from {} to {}", widest[0], widest[1]);

    let mut fresh = Vec::new();
    let mut fresh_steps = Vec::new();
    for _ in 0..rounds.div_ceil(8) {
        let mut timeline = open();
        let position = Position(random.below(end));
        fresh.push(milliseconds(|| {
            timeline.seek(position).expect("it replays");
        }));
        fresh_steps.push(milliseconds(|| {
            timeline.step(Direction::Backward, 1).expect("it replays");
        }));
    }
    report("seek right after opening", &mut fresh);
    report("the first step back after it", &mut fresh_steps);

    let whole = milliseconds(|| {
        timeline.seek(Position(end)).expect("it replays");
    });
    println!(
        "all of it: {whole:.0} ms, {:.0} M/s, {} checkpoints in {} MiB",
        end as f64 / whole / 1e3,
        timeline.checkpoint_count(),
        timeline.checkpoint_bytes() >> 20
    );

    let (mut seeks, mut firsts, mut steps, mut runs) = (vec![], vec![], vec![], vec![]);
    let mut met = 0;
    for _ in 0..rounds {
        let position = Position(random.below(end));
        seeks.push(milliseconds(|| {
            timeline.seek(position).expect("it replays");
        }));
        for count in 0..20 {
            let time = milliseconds(|| {
                timeline.step(Direction::Backward, 1).expect("it replays");
            });
            if count == 0 {
                firsts.push(time);
            } else {
                steps.push(time);
            }
        }
        // A place that was just executed, to come back to from somewhat later.
        let state = timeline.machine().cpu_state();
        let at = Gva(state.rip.wrapping_add(state.seg[1].base));
        timeline.seek(Position(position.0 + random.below(50_000_000))).expect("it replays");
        let stops = Stops { breakpoints: vec![Breakpoint { at, space: None }], ..Stops::default() };
        let mut stop = TimelineStop::Start;
        runs.push(milliseconds(|| {
            stop = timeline
                .run(Direction::Backward, None, &stops, &mut |_, _| true, &mut |_| true)
                .expect("it replays");
        }));
        met += usize::from(stop == TimelineStop::Breakpoint { at });
    }
    report("seek to a random position", &mut seeks);
    report("the first step back there", &mut firsts);
    report("19 more steps back", &mut steps);
    report("run back to a breakpoint", &mut runs);
    println!(
        "{met} of {rounds} runs met it; {} checkpoints in {} MiB",
        timeline.checkpoint_count(),
        timeline.checkpoint_bytes() >> 20
    );
}

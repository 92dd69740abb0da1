//! Keys typed at moments that nobody chose: 20 recordings, 20 equal replays.

use dejavm_machine::End;
use dejavm_replay::Ending;
use dejavm_scenarios::{Debian, Desk, Kernel, Random, SECOND_NS, Typing, engines, tape};

const READY: &str = "DEJAVM-ECHO-READY";

/// Records a guest that echoes lines, typed to by a hand that `seed` moves, and replays it.
fn typed(seed: u64) {
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let mut script = Vec::new();
    // Into the boot: nobody listens yet, and the kernel may or may not keep it.
    for _ in 0..random.below(6) {
        let letters = 1 + random.below(20);
        let line = random.word(letters) + "\n";
        script.push(Typing::new("", random.below(SECOND_NS / 20), &line));
    }
    let lines: Vec<String> = (0..3 + random.below(6))
        .map(|_| {
            let letters = 1 + random.below(30);
            random.word(letters)
        })
        .collect();
    let mut after = READY;
    for line in &lines {
        // In one go, or key by key while the guest already echoes.
        if random.below(2) == 0 {
            script.push(Typing::new(after, random.below(SECOND_NS / 10), &format!("{line}\n")));
        } else {
            for key in line.chars().chain(['\n']) {
                let delay_ns = random.below(SECOND_NS / 100);
                script.push(Typing::new(after, delay_ns, &key.to_string()));
                after = "";
            }
        }
        after = "";
    }
    script.push(Typing::new(after, random.below(SECOND_NS / 10), "quit\n"));

    let guest = Debian::new(Kernel::Cloud, "echo");
    let mut desk = Desk::with_script(script);
    // Digests cut the recorder's slices, so they too move where keys can enter.
    let interval = 20_000_000 + random.below(100_000_000);
    let tape = tape(guest.boot(), guest.config(), &mut desk, interval, None);
    let console = desk.console();
    assert_eq!(tape.recorded.ending, Ending::Guest(End::PowerOff), "seed {seed}:\n{console}");
    assert_eq!(desk.acts_left(), 0, "seed {seed}: everything was typed\n{console}");
    for line in &lines {
        assert!(console.contains(&format!("[{line}]")), "seed {seed}: {line} in\n{console}");
    }
    // One of the engines in each run, and all of them in four runs.
    let replay = tape.assert_replays(&desk, engines()[seed as usize % 4]);
    assert!(replay.replayed.inputs > lines.len() as u64, "seed {seed}: all inputs were applied");
}

// Four tests of five runs, so that two processors share them.

#[test]
fn runs_0_to_4_replay() {
    (0..5).for_each(typed);
}

#[test]
fn runs_5_to_9_replay() {
    (5..10).for_each(typed);
}

#[test]
fn runs_10_to_14_replay() {
    (10..15).for_each(typed);
}

#[test]
fn runs_15_to_19_replay() {
    (15..20).for_each(typed);
}

/// Keys interrupt a guest that computes and does not read them.
#[test]
fn keys_during_work_replay() {
    let seed = 20;
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let script: Vec<Typing> = (0..200)
        .map(|act| {
            let after = if act == 0 { "DEJAVM-INIT" } else { "" };
            let letters = 1 + random.below(3);
            Typing::new(after, random.below(SECOND_NS / 1000), &random.word(letters))
        })
        .collect();
    let guest = Debian::new(Kernel::Cloud, "demo");
    let mut desk = Desk::with_script(script);
    let tape = tape(guest.boot(), guest.config(), &mut desk, 50_000_000, None);
    let console = desk.console();
    assert!(console.contains("DEJAVM-WORKLOAD-OK"), "{console}");
    let replay = tape.assert_replays_by_all_engines(&desk);
    let (typed, inputs) = (200 - desk.acts_left() as u64, replay.replayed.inputs);
    println!("{inputs} inputs of 200 entered before the guest ended");
    assert_eq!(inputs, typed);
    assert!(inputs >= 20, "most of them while it worked");
}

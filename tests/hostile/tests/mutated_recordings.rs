//! Mutated recordings on the real machine, start states included.

use dejavm_hostile::{Random, recording_file, repair, seed_recording, timeline};

const ROUNDS: u64 = 3000;

fn frames(file: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut at = 16;
    while let Some(frame) = file.get(at..at + 24) {
        found.push(at);
        at += 24 + u32::from_le_bytes(frame[8..12].try_into().unwrap()) as usize;
    }
    found
}

#[test]
fn no_recording_harms_the_host() {
    let seed = 0x6476_7200;
    let seeds: Vec<Vec<u8>> = [dejavm_images::HELLO, dejavm_images::ECHO, dejavm_images::TIMER]
        .iter()
        .map(|guest| seed_recording(guest))
        .collect();
    for file in &seeds {
        assert!(recording_file(file), "what was recorded replays");
    }
    let mut equal = 0;
    for round in 0..ROUNDS {
        let mut random = Random::new(seed + round);
        let mut file = seeds[random.below(seeds.len())].clone();
        let frames = frames(&file);
        for _ in 0..1 + random.below(4) {
            // The header, the start state and the pages are the most dangerous.
            let among = if random.below(2) == 0 { 3.min(frames.len()) } else { frames.len() };
            let at = frames[random.below(among)];
            let end = frames.iter().copied().find(|&next| next > at).unwrap_or(file.len());
            let byte = at + 24 + random.below((end - at - 24).max(1));
            if byte < end {
                file[byte] = random.next_u64() as u8;
            }
            repair(&mut file, at);
        }
        eprintln!("seed {seed:#x}, round {round}");
        equal += u64::from(recording_file(&file));
    }
    assert!(equal < ROUNDS / 2, "mutations are noticed: {equal} of {ROUNDS} replayed equal");
}

#[test]
fn no_recording_harms_who_stands_in_it() {
    let seed = 0x6476_7201;
    let seeds: Vec<Vec<u8>> = [dejavm_images::HELLO, dejavm_images::ECHO, dejavm_images::TIMER]
        .iter()
        .map(|guest| seed_recording(guest))
        .collect();
    for file in &seeds {
        assert!(timeline(file), "what was recorded can be stood in");
    }
    // Contents of pages, checkpoints.
    let checkpoint = |file: &[u8], at: usize| matches!(file[at + 4], 11 | 12);
    let many =
        |file: &&Vec<u8>| frames(file).iter().filter(|&&at| checkpoint(file, at)).count() > 2;
    assert_eq!(seeds.iter().filter(many).count(), 2, "all but the shortest guest");
    let mut sound = 0;
    for round in 0..ROUNDS / 5 {
        let mut random = Random::new(seed + round);
        let mut file = seeds[random.below(seeds.len())].clone();
        let all = frames(&file);
        let checkpoints: Vec<usize> =
            all.iter().copied().filter(|&at| checkpoint(&file, at)).collect();
        for _ in 0..1 + random.below(4) {
            let few = checkpoints.is_empty() || random.below(3) == 0;
            let among = if few { &all } else { &checkpoints };
            let at = among[random.below(among.len())];
            let end = all.iter().copied().find(|&next| next > at).unwrap_or(file.len());
            let byte = at + 24 + random.below((end - at - 24).max(1));
            if byte < end {
                file[byte] = random.next_u64() as u8;
            }
            // Else only the checksum is wrong.
            if random.below(8) > 0 {
                repair(&mut file, at);
            }
        }
        eprintln!("seed {seed:#x}, round {round}");
        sound += u64::from(timeline(&file));
    }
    assert!(sound > 50 && sound < ROUNDS / 5, "{sound} went as they should");
}

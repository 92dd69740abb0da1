//! Machines of several processors, by the program.

mod program;

use program::{Folder, dejavm};
use std::path::Path;
use vmss::Checkpoint;

#[test]
fn several_processors_are_recorded_told_of_and_replayed() {
    let folder = Folder::new("processors");
    let kernel = folder.guest("smp");
    let mut lengths = Vec::new();
    for (n, options) in
        ["", "--slice 777", "--schedule-seed 1", "--schedule-seed 2"].iter().enumerate()
    {
        let file = folder.path(&format!("{n}.dvr"));
        let line = format!("record --kernel {{}} -m 32 --smp 3 {options} --rtc-epoch 0 -o {{}}");
        let recorded = dejavm(&line, &[&kernel, &file]).ok();
        assert!(recorded.stdout.contains("3 processors"), "{options}: {}", recorded.stdout);
        let replayed = dejavm("replay {}", &[&file]).ok();
        assert_eq!(replayed.stdout, recorded.stdout, "{options}");
        let info = dejavm("info {} --json", &[&file]).ok().json();
        assert_eq!(info["machine"]["processors"], 3, "{options}");
        lengths.push(info["position"].as_u64().unwrap());
        let told = dejavm("info {}", &[&file]).ok().stdout;
        let expected = match n {
            0 => "processors    3, turns of 50000 instructions",
            1 => "processors    3, turns of 777 instructions",
            2 => "processors    3, turns of about 50000 instructions by seed 1",
            _ => "processors    3, turns of about 50000 instructions by seed 2",
        };
        assert!(told.contains(expected), "{told}");
    }
    lengths.sort_unstable();
    lengths.dedup();
    assert_eq!(lengths.len(), 4, "who runs when makes a difference: {lengths:?}");
}

/// Branches from where all is well still, each dealing turns by a seed of its own, until one fails; that one fails again.
#[test]
fn branches_hunt_for_a_race() {
    let folder = Folder::new("race");
    let (kernel, file, branch) = (folder.guest("race"), folder.path("r.dvr"), folder.path("b.dvr"));
    let recorded = dejavm("record --kernel {} -m 16 --smp 2 -o {} --json", &[&kernel, &file]);
    assert_eq!(recorded.ok().json()["debug_exit"], 0x10);
    let caught = (0..60).find(|seed| {
        let line = format!("branch {{}} --at 3000 --schedule-seed {seed} -o {{}} --force --json");
        dejavm(&line, &[&file, &branch]).ok().json()["debug_exit"] == 0x11
    });
    let seed = caught.expect("a seed that catches it");
    let again = dejavm("replay {} --json", &[&branch]).ok();
    assert_eq!(again.json()["debug_exit"], 0x11);
    let told = dejavm("info {} --json", &[&branch]).ok().json();
    assert_eq!(told["machine"]["schedule_seed"], seed);
}

/// Checkpoints have all processors, and a machine of several goes on from one.
#[test]
fn checkpoints_have_every_processor() {
    let folder = Folder::new("processors_snapshot");
    let (kernel, file, state) = (folder.guest("race"), folder.path("r.dvr"), folder.path("s.vmss"));
    let line = "record --kernel {} -m 16 --smp 4 --slice 500 -o {} --json";
    let whole = dejavm(line, &[&kernel, &file]).ok().json();
    let at = (whole["position"].as_u64().unwrap() / 2).to_string();
    dejavm("snapshot {} --at {} -o {}", &[&file, &at, &state]).ok();
    let vcpus = Checkpoint::open(Path::new(&state), None).unwrap().0.vcpus().unwrap();
    // Two work, and two are not needed.
    assert_eq!(
        vcpus.iter().map(|vcpu| vcpu.is_halted).collect::<Vec<_>>(),
        [false, false, true, true]
    );
    let again = folder.path("again.dvr");
    let gone_on = dejavm("record --from {} -o {} --json", &[&state, &again]).ok().json();
    for field in ["position", "guest_ns", "ending", "machine_hash"] {
        assert_eq!(gone_on[field], whole[field], "{field}");
    }
    dejavm("verify {}", &[&again]).ok();
}

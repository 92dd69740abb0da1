//! Machines of several processors, by the program.

mod program;

use program::{Folder, dejavm};

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

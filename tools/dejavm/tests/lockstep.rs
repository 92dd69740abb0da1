//! `dejavm verify --lockstep`: interpreter and translator side by side.

mod program;

use program::{Folder, dejavm};
use serde_json::Value;

#[test]
fn guests_of_our_own_run_the_same() {
    let folder = Folder::new("lockstep_guests");
    for (name, step) in
        [("hello", 1), ("modes", 7), ("paging", 100), ("smc", 1000), ("timer", 5000)]
    {
        let (kernel, file) = (folder.guest(name), folder.path(&format!("{name}.dvr")));
        let line = "record --kernel {} -m 32 -o {} --digest-interval 100000 --json";
        let recorded = dejavm(line, &[&kernel, &file]).ok().json();
        for tuning in ["", "--translate-after 0"] {
            let line = format!("verify {{}} --json --lockstep {step} {tuning}");
            let verified = dejavm(&line, &[&file]).ok().json();
            assert_eq!(verified["result"], "equal", "{name}");
            assert_eq!(verified["position"], recorded["position"], "{name}");
            assert_eq!(verified["machine_hash"], recorded["machine_hash"], "{name}");
            let instructions = recorded["position"].as_u64().unwrap();
            let comparisons = verified["lockstep"]["comparisons"].as_u64().unwrap();
            assert!(comparisons >= instructions / step, "{name}: {comparisons}");
        }
    }
    let file = folder.path("hello.dvr");
    let told = dejavm("verify {} --lockstep 100", &[&file]).ok();
    assert!(told.stdout.starts_with("equal: "), "{}", told.stdout);
    assert!(told.sentence().contains("interpreter and translator did the same"));
}

/// A mistake at a position is found there, whatever the distance between comparisons.
#[test]
fn a_difference_is_narrowed_to_its_instruction() {
    let folder = Folder::new("lockstep_mistake");
    let (kernel, file) = (folder.guest("spin"), folder.path("spin.dvr"));
    let line = "record --kernel {} -m 32 -o {} --until 3000000 --digest-interval 1000000";
    dejavm(line, &[&kernel, &file]).ok();
    for (mistake, at) in
        [("1234567", 1_234_567), ("1234567,memory", 1_234_567), ("2999999", 2_999_999)]
    {
        for step in [1_000, 400_000] {
            let line = format!("verify {{}} --json --lockstep {step} --lockstep-mistake {mistake}");
            let told = dejavm(&line, &[&file]);
            assert_eq!(told.code, 3, "{mistake}: {}", told.stderr);
            let json = told.json();
            assert_eq!((&json["result"], &json["exit_code"]), (&"differ".into(), &3.into()));
            assert_eq!(json["first_at"], at, "{mistake}, every {step}: {json:#}");
            let what: Vec<&str> =
                json["what"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            let expected = if mistake.ends_with("memory") { "RAM at " } else { "rbx: " };
            assert!(what.iter().any(|line| line.starts_with(expected)), "{what:?}");
            let instructions = json["instructions"].as_array().unwrap();
            assert_eq!(instructions.len() as u64, at.min(40), "{mistake}");
            let last = instructions.last().and_then(Value::as_str).unwrap();
            assert!(last.trim_start().starts_with(&format!("{} ", at - 1)), "{last}");
        }
    }
    let told = dejavm("verify {} --lockstep 1000 --lockstep-mistake 2000000", &[&file]);
    assert_eq!(told.code, 3);
    for part in ["spin.dvr", "first at position 2000000", "rbx: ", "the instructions before"] {
        assert!(told.stderr.contains(part), "no {part:?} in {}", told.stderr);
    }
    assert_eq!(told.stdout, "");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let folder = Folder::new("lockstep_refused");
    let (kernel, file) = (folder.guest("hello"), folder.path("hello.dvr"));
    dejavm("record --kernel {} -m 32 -o {}", &[&kernel, &file]).ok();
    for line in
        ["--lockstep 0", "--lockstep", "--lockstep many", "--lockstep 5 --engine soft,interp"]
    {
        let told = dejavm(&format!("verify {{}} {line}"), &[&file]);
        assert_eq!((told.code, told.stdout.as_str()), (2, ""), "{line}: {}", told.stderr);
    }
    assert_eq!(dejavm("verify {} --lockstep 5", &[&folder.path("none.dvr")]).code, 6);
}

/// A whole boot of a stock kernel, some work and a panic. Needs `make images`; says so if they are not there.
#[test]
fn a_whole_boot_runs_the_same() {
    let found = ["vmlinuz-cloud-amd64", "initramfs-amd64.gz"].map(dejavm_images::fetched);
    let [Ok(kernel), Ok(initramfs)] = &found else {
        return println!("nothing compared: {found:?}");
    };
    let folder = Folder::new("lockstep_boot");
    let file = folder.path("boot.dvr");
    let (kernel, initramfs) = (kernel.to_str().unwrap(), initramfs.to_str().unwrap());
    let append = "console=ttyS0,panic=-1,cryptomgr.notests,dejavm.workload=demo".replace(',', " ");
    let recorded = program::run(&[
        "record",
        "--kernel",
        kernel,
        "--initrd",
        initramfs,
        "--append",
        &append,
        "-m",
        "192",
        "-o",
        &file,
        "--json",
        "--digest-interval",
        "20000000",
        "--idle",
        "skip",
    ])
    .ok()
    .json();
    let verified = dejavm("verify {} --json --lockstep 50000", &[&file]).ok().json();
    assert_eq!(verified["machine_hash"], recorded["machine_hash"]);
    assert_eq!(verified["memory_hash"], recorded["memory_hash"]);
    let instructions = recorded["position"].as_u64().unwrap();
    assert!(instructions > 500_000_000, "{instructions}");
    assert!(verified["lockstep"]["comparisons"].as_u64().unwrap() >= instructions / 50_000);
    println!("{verified:#}");
}

//! Whole machines with guests that abuse every card: they survive it, and their recordings replay.

use dejavm_hostile::hostile_guest::{ATTACKS, Program, is_through, random_program, run};

#[test]
fn attacks_are_survived_and_replay() {
    for (name, attack) in ATTACKS {
        eprintln!("{name}");
        let mut program = Program::default();
        attack(&mut program);
        program.finish();
        let ending = run(&program, 1);
        assert!(is_through(ending), "{name}: {ending:?}");
    }
}

#[test]
fn random_programs_replay() {
    const PROGRAMS: u64 = 12;
    let through = (0..PROGRAMS).filter(|seed| {
        eprintln!("seed {seed}");
        is_through(run(&random_program(*seed), *seed))
    });
    let through = through.count() as u64;
    // Some write over their own code, or make an interrupt of INIT.
    assert!(through > PROGRAMS / 2, "{through}");
}

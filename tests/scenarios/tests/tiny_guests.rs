//! Our own guests print what they must, and replay whatever the TLB does.

use dejavm_cpu::Tuning;
use dejavm_images::{ALL, EXIT_FAILED, EXIT_OK};
use dejavm_machine::{End, MachineConfig};
use dejavm_memory::RamLayout;
use dejavm_replay::Ending;
use dejavm_scenarios::{Desk, SECOND_NS, TINY_RAM_BYTES, Typing, expected, tape, tiny};

/// All of `name`'s life: transcript, end, and replays in every tuning.
fn lives_and_replays(name: &str) {
    let elf = ALL.iter().find(|(guest, _)| *guest == name).expect("a guest of ours").1;
    let config = MachineConfig::new(RamLayout::new(TINY_RAM_BYTES).expect("a size"));
    let keys = ["hello", ", again", "\r", "q"];
    let mut desk = if name == "echo" {
        Desk::with_script(keys.map(|keys| Typing::new("", SECOND_NS / 7, keys)))
    } else {
        Desk::new()
    };
    let tape = tape(tiny(elf), config, &mut desk, 1_000_000, None);
    let output = String::from_utf8_lossy(desk.output_bytes()).into_owned();
    let exit = if name == "demo" { EXIT_FAILED } else { EXIT_OK };
    let ending = Ending::Guest(End::DebugExit(u32::from(exit)));
    assert_eq!(tape.recorded.ending, ending, "{name}:\n{output}");
    assert_eq!(desk.acts_left(), 0);
    if let Some(expected) = expected(name) {
        assert_eq!(desk.debug_console(), expected, "{name}");
    }
    if name == "echo" {
        assert!(desk.console().contains("HELLO, AGAIN"), "{}", desk.console());
    }
    tape.assert_replays_by_all_engines(&desk);
    for tlb_slots in [1, 64, 4096] {
        for flush_seed in [None, Some(0x5eed + tlb_slots as u64)] {
            tape.assert_replays(&desk, Tuning { tlb_slots, flush_seed, ..Tuning::default() });
        }
    }
}

macro_rules! guests {
    ($($name:ident),*) => {
        $(
            #[test]
            fn $name() {
                lives_and_replays(stringify!($name));
            }
        )*
        #[test]
        fn all_are_here() {
            let names: Vec<&str> = ALL.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

guests!(
    breaks, counter, demo, echo, hello, modes, nmi, paging, priority, race, smc, smp, spin, timer
);

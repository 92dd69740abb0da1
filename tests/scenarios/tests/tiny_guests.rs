//! Our own guests print what they must, and replay whatever the TLB does.

use dejavm_cpu::Tuning;
use dejavm_images::{ALL, EXIT_FAILED, EXIT_OK};
use dejavm_machine::{End, Input, MachineConfig};
use dejavm_memory::RamLayout;
use dejavm_replay::Ending;
use dejavm_scenarios::{Desk, SECOND_NS, TINY_RAM_BYTES, Typing, expected, tape, tiny};

/// Keys, far and near motions, the wheel, clicks; more of each at once than goes into a packet.
fn keyboard_and_mouse() -> Vec<Typing> {
    let key = |code, extended, pressed| Input::Key { code, extended, pressed };
    let mouse = |right, up, wheel, buttons| Input::Mouse { right, up, wheel, buttons };
    let enter = [key(0x1c, false, true), key(0x1c, false, false)];
    let left = [key(0x4b, true, true), key(0x4b, true, false)];
    vec![
        Typing::doing("desk ready", SECOND_NS / 7, &enter),
        Typing::doing("", SECOND_NS / 7, &left),
        Typing::doing("", SECOND_NS / 7, &[mouse(5, -3, 0, 0), mouse(0, 0, 0, 1)]),
        Typing::doing("", SECOND_NS / 7, &[mouse(0, 0, 0, 0), mouse(0, 0, -1, 0)]),
        Typing::doing("", SECOND_NS / 7, &[mouse(-300, 0, 0, 4)]),
        Typing::doing("", SECOND_NS / 7, &[key(1, false, true), key(1, false, false)]),
    ]
}

/// As the manuals have it: make and break codes of set 1, with the prefix of the arrow; packets of buttons and signs, motion to the
/// right and upwards, wheel.
const KEYBOARD_AND_MOUSE: &str = "desk ready, mouse 03\nk1c\nk9c\nke0\nk4b\nke0\nkcb\n\
    m2805fd00\nm09000000\nm08000000\nm080000ff\nm1c010000\nm1cd30000\nk01\nk81\ndesk done\n";

/// All of `name`'s life: transcript, end, and replays in every tuning.
fn lives_and_replays(name: &str) {
    let elf = ALL.iter().find(|(guest, _)| *guest == name).expect("a guest of ours").1;
    let config = MachineConfig::new(RamLayout::new(TINY_RAM_BYTES).expect("a size"));
    let keys = ["hello", ", again", "\r", "q"];
    let mut desk = match name {
        "echo" => Desk::with_script(keys.map(|keys| Typing::new("", SECOND_NS / 7, keys))),
        "desk" => Desk::with_script(keyboard_and_mouse()),
        _ => Desk::new(),
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
    if name == "desk" {
        assert_eq!(desk.debug_console(), KEYBOARD_AND_MOUSE);
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
    breaks, counter, demo, desk, echo, hello, modes, multiboot, nmi, paging, priority, race,
    shadow, smc, smp, spin, timer
);

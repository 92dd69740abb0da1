//! A timeline under the debugger, against the oracle that runs its guest again.

use dejavm_gdb_tests::{Client, Rerun};
use dejavm_machine::MachineConfig;
use dejavm_memory::RamLayout;
use dejavm_replay::{Replayer, Timeline, TimelineOptions};
use dejavm_scenarios::{Desk, Random, TINY_RAM_BYTES, rebuild, tape, tiny};
use dejavm_stub::{Replaying, Target};
use std::io::Cursor;

const SEED: u64 = 0x7265_7664;
/// Operations on each of the two guests: ten thousand in all.
const OPERATIONS: u64 = 5000;

fn replaying(image: &[u8]) -> Replaying<Cursor<Vec<u8>>> {
    let config = MachineConfig::new(RamLayout::new(TINY_RAM_BYTES).unwrap());
    let tape = tape(tiny(image), config, &mut Desk::new(), 0, None);
    let mut replayer = Replayer::open(Cursor::new(tape.file)).unwrap();
    let machine = rebuild(&mut replayer).unwrap();
    // So little room and such short distances that checkpoints come and go.
    let options = TimelineOptions { memory_bytes: 1 << 20, spacing: 100 };
    Replaying::new(Timeline::new(replayer, machine, options).unwrap()).unwrap()
}

/// One random thing that a debugger may want.
fn wish(random: &mut Random, places: &[u64], watched: u64, end: u64) -> Vec<String> {
    let place = places[random.below(places.len() as u64) as usize];
    let point = match random.below(4) {
        0 | 1 => format!("0,{place:x},1"),
        2 => format!("2,{:x},{:x}", watched + random.below(32), 1 + random.below(8)),
        // Every other time that register 0 is even.
        _ => format!("0,{place:x},1;X6,2600002201{}27", "0f"),
    };
    let go = |command: &str| vec![format!("Z{point}"), command.to_owned(), format!("z{point}")];
    match random.below(8) {
        0 => vec!["s".to_owned()],
        1 => vec!["bs".to_owned()],
        2 | 3 => go("c"),
        4 | 5 => go("bc"),
        6 => vec![format!("vCont;r{:x},{:x}:1", place, place + 12)],
        _ => {
            let command = format!("goto {}", random.below(end + 1));
            vec![format!(
                "qRcmd,{}",
                command.bytes().map(|byte| format!("{byte:02x}")).collect::<String>()
            )]
        }
    }
}

/// Every reply, every register and the position are those of a machine that was run there anew.
fn equals_the_oracle(image: &'static [u8], places: &[u64], watched: u64) {
    let mut replay = replaying(image);
    let mut oracle = Rerun::replay(image);
    let end = oracle.end().0;
    assert_eq!(replay.extent().1.0, end);
    let mut replay = Client::new(&mut replay);
    let mut oracle = Client::new(&mut oracle);
    let mut random = Random::new(SEED);
    let last = |packets: Vec<String>| packets.last().cloned().unwrap_or_default();
    for operation in 0..OPERATIONS {
        for packet in wish(&mut random, places, watched, end) {
            eprintln!("seed {SEED:#x}, operation {operation}: {packet}");
            assert_eq!(last(replay.packets(&packet)), last(oracle.packets(&packet)));
        }
        assert_eq!(replay.monitor("position"), oracle.monitor("position"));
        assert_eq!(replay.ask("g"), oracle.ask("g"));
        // The guest's code, data and stack.
        assert_eq!(replay.ask("m100000,10000"), oracle.ask("m100000,10000"));
    }
}

#[test]
fn a_plain_guest_equals_the_oracle() {
    equals_the_oracle(
        dejavm_images::HELLO,
        &[0x10_005a, 0x10_0070, 0x10_0075, 0x10_0064, 0x10_0133],
        0x10_67e0,
    );
}

/// No breakpoint on a handler's first instruction, and no watchpoint where the interrupt pushes: after an idle stretch
/// that is where the machine is at the same position as behind `hlt`, and the oracle knows positions only.
#[test]
fn a_guest_with_interrupts_equals_the_oracle() {
    equals_the_oracle(
        dejavm_images::TIMER,
        &[0x10_01d4, 0x10_0161, 0x10_0162, 0x10_01df, 0x10_005a],
        0x10_6800,
    );
}

/// The task priority is no register of the CPU's, and right all the same wherever one comes from.
#[test]
fn cr8_is_the_local_apics_task_priority() {
    // The stores to its register: `movl $VALUE, 0xfee00080`.
    const STORE: usize = 10;
    let image = dejavm_images::PRIORITY;
    let places: Vec<u64> = [0x5f, 0xf0, 0].map(|value| 0x10_0000 + at_store(image, value)).into();
    let mut replay = replaying(image);
    let mut live = Rerun::live(image);
    let mut client = Client::new(&mut live);
    for (place, priority) in places.iter().zip(["cr8=0x5\n", "cr8=0xf\n", "cr8=0x0\n"]) {
        let behind = place + STORE as u64;
        assert_eq!(client.ask(&format!("Z0,{behind:x},1")), "OK");
        assert!(client.packets("c").pop().unwrap().contains("swbreak"));
        assert_eq!(client.monitor("r cr8"), priority);
    }
    let mut client = Client::new(&mut replay);
    client.monitor("goto end");
    // Backwards: each store is the next to execute, and what the one before it stored is there.
    for (place, priority) in places.iter().zip(["cr8=0x0\n", "cr8=0x5\n", "cr8=0xf\n"]).rev() {
        assert_eq!(client.ask(&format!("Z0,{place:x},1")), "OK");
        assert!(client.packets("bc").pop().unwrap().contains("swbreak"));
        assert_eq!(client.monitor("r cr8"), priority);
    }
}

/// Where in the guest's code, which the file has at 0x1000, it stores `value`.
fn at_store(image: &[u8], value: u8) -> u64 {
    let store = [0xc7, 0x05, 0x80, 0x00, 0xe0, 0xfe, value, 0, 0, 0];
    let found: Vec<usize> =
        (0..image.len() - store.len()).filter(|at| image[*at..].starts_with(&store)).collect();
    assert_eq!(found.len(), 1, "{found:x?}");
    found[0] as u64 - 0x1000
}

#[test]
fn the_recordings_own_words() {
    let mut target = replaying(dejavm_images::TIMER);
    let mut client = Client::new(&mut target);
    assert!(client.monitor("info").starts_with("recorded by dejavm-scenarios, CPU dejavm-v2\n"));
    assert!(client.monitor("events start").starts_with("nothing entered the machine"));
    assert!(client.monitor("pace 5").contains("there is no pace"));
    assert!(client.monitor("goto 99999999").contains("lies behind the recording's end"));
    assert!(client.monitor("goto end").starts_with("position "));
    // `count`, which the handler of the timer's interrupt raises at 0x1001d4.
    let found = client.monitor("last-write 0x106800 4");
    assert!(found.starts_with("written at 0x106800 by the instruction at 0x1001d4"), "{found}");
    let before = client.monitor("position");
    assert_eq!(
        client.monitor("checkpoint").split(';').next(),
        Some(&*format!("position {}", before.trim()))
    );
    // Marks name positions.
    assert_eq!(client.monitor("mark here"), format!("here is position {before}"));
    assert!(client.monitor("goto -5").starts_with("position "));
    assert!(client.monitor("marks").ends_with("  here\n"));
    assert!(client.monitor("goto here").starts_with(&format!("position {},", before.trim())));
    assert_eq!(
        client.monitor("stopat here"),
        format!("the machine stands at {before}").replace('\n', " already\n")
    );
}

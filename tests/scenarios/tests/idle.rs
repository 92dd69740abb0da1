//! A replay does not wait: time in which the guest sleeps costs no instructions.

use dejavm_machine::End;
use dejavm_replay::Ending;
use dejavm_scenarios::{Debian, Desk, Kernel, SECOND_NS, Typing, tape};

/// Nanoseconds of guest time that one instruction takes, as a fraction: half of one.
const INSTRUCTIONS_PER_NS: u64 = 2;

/// A world that really sleeps wakes up often and has nothing; the replay jumps from timer to timer.
#[test]
fn a_sleeping_guest_replays_without_waiting() {
    let guest = Debian::new(Kernel::Cloud, "idle");
    let script = [
        Typing::new("guest# ", SECOND_NS / 10, "sleep 90; echo slept=$?\n"),
        Typing::new("slept=0", SECOND_NS / 10, "exit\n"),
    ];
    let mut desk = Desk::with_script(script).napping(SECOND_NS / 100);
    let tape = tape(guest.boot(), guest.config(), &mut desk, 1 << 28, None);
    let (at, console) = (tape.recorded.at, desk.console());
    assert_eq!(tape.recorded.ending, Ending::Guest(End::PowerOff), "{console}");
    assert!(at.guest_ns.0 >= 90 * SECOND_NS, "{}", at.guest_ns);
    assert!(desk.naps() >= 9000, "{} naps", desk.naps());

    let replay = tape.assert_replays_by_all_engines(&desk);
    let executed_ns = replay.replayed.at.position.0 / INSTRUCTIONS_PER_NS;
    println!(
        "guest time {}, of which {} ms were executed; {} naps while recording",
        at.guest_ns,
        executed_ns / 1_000_000,
        desk.naps()
    );
    assert!(executed_ns < at.guest_ns.0 / 20, "{executed_ns} ns were executed");
}

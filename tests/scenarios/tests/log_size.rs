//! How small the log is: bytes after the start state, digests and the once-a-second progress included.

use dejavm_machine::End;
use dejavm_replay::Ending;
use dejavm_scenarios::{Debian, Desk, Kernel, SECOND_NS, Typing, tape};
use dejavm_units::GuestNs;

/// The CLI's default.
const DIGEST_INTERVAL: u64 = 1 << 28;

/// At most half a byte for a thousand instructions of work.
#[test]
fn work_logs_next_to_nothing() {
    let guest = Debian::new(Kernel::Cloud, "busy");
    // The recorder flushes once a second of its host's time, in which it runs some 300 M
    // instructions: 150 ms of guest time.
    let mut desk = Desk::new().flushing_every(SECOND_NS * 15 / 100);
    let tape = tape(guest.boot(), guest.config(), &mut desk, DIGEST_INTERVAL, None);
    assert_eq!(tape.recorded.ending, Ending::Guest(End::PowerOff), "{}", desk.console());
    let (bytes, instructions) = (tape.recorded.log_bytes, tape.recorded.at.position.0);
    println!(
        "{bytes} bytes of log for {instructions} instructions: {:.5} bytes per 1000; {} flushes",
        bytes as f64 * 1000.0 / instructions as f64,
        desk.flushes()
    );
    assert!(desk.flushes() >= 10);
    tape.assert_replays_by_all_engines(&desk);
    assert!(bytes * 2000 <= instructions);
}

/// At most 10 KB for a minute of an idle prompt.
#[test]
fn an_idle_prompt_logs_little() {
    let guest = Debian::new(Kernel::Cloud, "idle");
    let length = |minutes: u64| {
        let stop = GuestNs(minutes * 60 * SECOND_NS);
        let script = [Typing::new("guest# ", SECOND_NS, "echo $((6 * 7))\n")];
        let mut desk = Desk::with_script(script).stopping_at(stop);
        let tape = tape(guest.boot(), guest.config(), &mut desk, DIGEST_INTERVAL, None);
        assert_eq!(tape.recorded.ending, Ending::Stopped);
        assert!(tape.recorded.at.guest_ns >= stop);
        assert!(desk.console().contains("\n42"), "the prompt answers:\n{}", desk.console());
        assert!(desk.flushes() >= minutes * 50, "{} flushes", desk.flushes());
        if minutes == 1 {
            tape.assert_replays_by_all_engines(&desk);
        }
        (tape.recorded.log_bytes, tape.recorded.at.position.0)
    };
    let ((bytes_1, position_1), (bytes_4, position_4)) = (length(1), length(4));
    let a_minute = (bytes_4 - bytes_1) / 3;
    println!(
        "an idle minute: {a_minute} bytes of log, {} instructions; the minute with the boot: \
         {bytes_1} bytes",
        (position_4 - position_1) / 3
    );
    assert!(a_minute <= 10_000);
}

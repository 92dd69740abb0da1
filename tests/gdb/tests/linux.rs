//! A Linux guest's processes as gdb's threads, on a replay.

use dejavm_gdb_tests::{Client, Gdb};
use dejavm_replay::{Replayer, Timeline, TimelineOptions};
use dejavm_scenarios::{Debian, Desk, Kernel, SECOND_NS, Typing, rebuild, tape};
use dejavm_stub::{Lasting, Replaying, Target};
use dejavm_units::Position;
use std::io::Cursor;

/// Instructions before the end where the tests look around: both loops run.
const BEFORE_END: u64 = 200_000_000;

/// A replay, and the pids that the guest printed.
struct Guest {
    replay: Replaying<Cursor<Vec<u8>>>,
    shell: u32,
    sleeper: u32,
    loops: [u32; 2],
}

/// A shell, a sleeper, and two loops that run the same code at the same addresses.
fn guest(kernel: Kernel) -> Guest {
    let debian = Debian::new(kernel, "idle");
    let mut desk = Desk::with_script([
        Typing::new("guest# ", 0, "sleep 1000 & echo SLEEPER $!; echo SHELL $$\n"),
        Typing::new("guest# ", 0, "(while :; do :; done) & echo LOOP $!\n"),
        Typing::new("guest# ", 0, "(while :; do :; done) & echo LOOP $!\n"),
        Typing::new("guest# ", SECOND_NS / 5, "poweroff -f\n"),
    ]);
    let tape = tape(debian.boot(), debian.config(), &mut desk, 0, None);
    let console = desk.console().replace('\r', "");
    let number = |text: &str, skip: usize| -> u32 {
        let found = console.lines().filter_map(|line| line.strip_prefix(text)?.trim().parse().ok());
        found.into_iter().nth(skip).unwrap_or_else(|| panic!("no {text} in {console}"))
    };
    let sleeper = number("SLEEPER ", 0);
    let shell = number("SHELL ", 0);
    let loops = [number("LOOP ", 0), number("LOOP ", 1)];
    let mut replayer = Replayer::open(Cursor::new(tape.file)).unwrap();
    let machine = rebuild(&mut replayer).unwrap();
    let timeline = Timeline::new(replayer, machine, TimelineOptions::default()).unwrap();
    let mut replay = Replaying::new(timeline).unwrap();
    let (_, end) = replay.extent();
    replay.seek(Position(end.0 - BEFORE_END), &mut || false).unwrap();
    Guest { replay, shell, sleeper, loops }
}

/// The thread that a stop reply names.
fn stopped_in(reply: &str) -> u32 {
    let (_, rest) = reply.split_once("thread:").unwrap_or_else(|| panic!("{reply}"));
    u32::from_str_radix(rest.split(';').next().unwrap(), 16).unwrap()
}

/// The instruction pointer of the selected thread.
fn pointer(client: &mut Client<'_>, kernel: Kernel) -> u64 {
    let (number, bytes) = if kernel == Kernel::Pae { ("8", 4) } else { ("10", 8) };
    let text = client.ask(&format!("p{number}"));
    let digits: String = (0..bytes).rev().map(|byte| &text[2 * byte..2 * byte + 2]).collect();
    u64::from_str_radix(&digits, 16).unwrap()
}

fn processes_are_threads(kernel: Kernel) {
    let Guest { mut replay, shell, sleeper, loops } = guest(kernel);
    let mut client = Client::new(&mut replay);
    let text = client.monitor("linux");
    assert!(text.contains("Linux 6.1.0-50-"), "{text}");
    assert!(!text.contains("could not be verified") && !text.contains("not all"), "{text}");
    let xml = client.ask("qXfer:threads:read::0,ffff");
    for (pid, name) in
        [(1, "init"), (2, "kthreadd"), (sleeper, "sleep"), (loops[0], "sh"), (loops[1], "sh")]
    {
        let thread = format!("<thread id=\"{pid:x}\"");
        let (_, rest) = xml.split_once(&thread).unwrap_or_else(|| panic!("{pid} in {xml}"));
        assert!(
            rest.split('>').next().unwrap().contains(&format!("name=\"{name}\"")),
            "{pid} {name}: {xml}"
        );
    }

    // The sleeper stands behind its system call, in its own memory.
    assert_eq!(client.ask(&format!("Hg{sleeper:x}")), "OK");
    let at = pointer(&mut client, kernel);
    let entry = client.ask(&format!("m{:x},2", at - 2));
    assert!(entry == "0f05" || entry == "cd80", "{entry} before {at:#x}");
    let value = if kernel == Kernel::Pae { "01020304" } else { "0102030405060708" };
    let refused = client.ask(&format!("P0={value}"));
    assert!(refused.contains("not on a CPU"), "{refused}");

    // Where one loop is, the other comes by as well; a breakpoint set for the one does not stop the other.
    for pid in loops {
        let other = loops.into_iter().find(|&other| other != pid).unwrap();
        client.monitor("linux");
        assert_eq!(client.ask(&format!("Hg{pid:x}")), "OK");
        let hot = hot_address(&mut client, kernel, other);
        assert_eq!(client.ask(&format!("Hg{pid:x}")), "OK");
        for round in 0..4 {
            assert_eq!(client.ask(&format!("Z0,{hot:x},1")), "OK");
            let reply = client.packets("vCont;c").pop().unwrap();
            assert!(reply.contains("swbreak"), "{reply}");
            assert_eq!(stopped_in(&reply), pid, "round {round}: {reply}");
            assert_eq!(pointer(&mut client, kernel), hot);
            // gdb takes its breakpoints out at each stop, whoever is selected.
            assert_eq!(client.ask(&format!("Hg{other:x}")), "OK");
            assert_eq!(client.ask(&format!("z0,{hot:x},1")), "OK");
        }
    }

    // A step of a process that waits ends where it goes on: the shell reads the last command.
    assert_eq!(client.ask(&format!("Hg{shell:x}")), "OK");
    let waits = pointer(&mut client, kernel);
    let reply = client.packets(&format!("vCont;s:{shell:x};c")).pop().unwrap();
    assert!(!reply.contains("replaylog"), "{reply}");
    assert_eq!((stopped_in(&reply), pointer(&mut client, kernel)), (shell, waits), "{reply}");

    // Selected stays selected, wherever the machine goes.
    assert_eq!(client.ask(&format!("Hg{sleeper:x}")), "OK");
    client.monitor("goto -1000");
    assert_eq!(pointer(&mut client, kernel), at);
    // Before the kernel has tasks there is the CPU.
    client.monitor("goto start");
    let xml = client.ask("qXfer:threads:read::0,ffff");
    assert!(xml.contains("name=\"cpu0\""), "{xml}");
    client.monitor("linux off");
    assert_eq!(client.ask("qC"), "QC1");
    client.monitor("goto end");
    client.monitor("goto -200000000");
    drop(client);
    modes_outlive_a_client(&mut replay, sleeper);
}

/// Threads are what the last client left, tasks or CPUs; nothing has to be said again.
fn modes_outlive_a_client(replay: &mut Replaying<Cursor<Vec<u8>>>, sleeper: u32) {
    let lasting = Lasting::default();
    let mut client = Client::after(replay, lasting.clone());
    assert_eq!(client.ask("qfThreadInfo"), "m1");
    let line = client.monitor("linuxoffsets");
    assert!(client.monitor("linux").contains("threads are its"));
    let threads = client.ask("qfThreadInfo");
    let registers = (client.ask(&format!("Hg{sleeper:x}")), client.ask("g"));
    let detached = client.ask("D");
    // The second one finds them at once, wherever the machine is then.
    drop(client);
    let mut client = Client::after(replay, lasting.clone());
    assert_eq!((detached.as_str(), client.ask("qfThreadInfo")), ("OK", threads));
    assert_ne!(stopped_in(&client.ask("?")), 1);
    assert_eq!((client.ask(&format!("Hg{sleeper:x}")), client.ask("g")), registers);
    client.monitor("goto -100000");
    assert_eq!((client.ask(&format!("Hg{sleeper:x}")), client.ask("g")), registers);
    client.monitor("linux off");
    // The third one finds the CPU; by the product's line too, it is for those that follow.
    drop(client);
    let mut client = Client::after(replay, lasting.clone());
    assert_eq!(client.ask("qfThreadInfo"), "m1");
    client.monitor(&format!("linuxoffsets {line}"));
    drop(client);
    let mut client = Client::after(replay, lasting);
    assert_eq!((client.ask(&format!("Hg{sleeper:x}")), client.ask("g")), registers);
    // Clients of another machine know nothing of it.
    drop(client);
    let mut client = Client::after(replay, Lasting::default());
    assert_eq!(client.ask("qfThreadInfo"), "m1");
}

/// Where a loop is when it is interrupted: user code that runs over and over.
fn hot_address(client: &mut Client<'_>, kernel: Kernel, pid: u32) -> u64 {
    for _ in 0..1000 {
        client.monitor("goto +300000");
        let current = stopped_in(&client.ask("?"));
        if current == pid {
            let at = pointer(client, kernel);
            if at < 0x4000_0000 {
                client.monitor("goto -300000");
                return at;
            }
        }
    }
    panic!("{pid} never runs");
}

#[test]
fn processes_of_the_cloud_kernel() {
    processes_are_threads(Kernel::Cloud);
}

#[test]
fn processes_of_the_32_bit_kernel() {
    processes_are_threads(Kernel::Pae);
}

#[test]
fn gdb_lists_and_selects_processes() {
    let Guest { mut replay, sleeper, loops, .. } = guest(Kernel::Cloud);
    let select = format!(
        "python [t.switch() for t in gdb.selected_inferior().threads() if {sleeper} in t.ptid]"
    );
    let commands = [
        "monitor linux",
        "info threads",
        &select,
        "maintenance flush register-cache",
        "thread",
        "x/i $pc - 2",
        "reverse-stepi",
        "info threads",
        "monitor linux tasks",
        "monitor help linuxoffsets",
        "monitor linuxoffsets",
        "monitor symbol entry_SYSCALL_64",
        "detach",
    ];
    let gdb = Gdb::plain();
    let text = gdb.run(&mut replay, &commands);
    println!("{text}");
    // Another gdb that comes after it sees tasks at once, with their own registers.
    let again = gdb.run(&mut replay, &["info threads", &select, "x/i $pc - 2", "detach"]);
    println!("{again}");
    let listed = again.split("(gdb) info threads\n").nth(1).unwrap();
    assert!(listed.contains(&format!("Thread {sleeper} \"sleep\" (S)")), "{again}");
    assert!(listed.contains("syscall"), "{again}");
    assert!(text.contains(&format!("Thread {sleeper} \"sleep\" (S)")), "{text}");
    assert!(text.contains(&format!("Thread {} \"sh\" (R", loops[0])), "{text}");
    assert!(text.contains("syscall"), "{text}");
    assert!(text.contains("\"kthreadd\" (S, kernel)"), "{text}");
    assert!(text.contains("entry_SYSCALL_64 is at 0xffffffff"), "{text}");
    assert!(text.contains("-l 0x60100,0x8e0,0,0x890,"), "{text}");
}

/// A key that enters where a step begins: its interrupt is taken first, and run through as those behind an instruction are.
#[test]
fn a_step_where_a_key_is_pressed() {
    let kernel = Kernel::Cloud;
    let Guest { mut replay, .. } = guest(kernel);
    let mut client = Client::new(&mut replay);
    let events = client.monitor("events start 100");
    let key = events.lines().find(|line| line.contains("poweroff")).expect("it is typed last");
    let at: u64 = key.split_whitespace().next().unwrap().parse().unwrap();
    client.monitor(&format!("goto {at}"));
    let user = |at: u64| at < 1 << 47;
    let before = pointer(&mut client, kernel);
    assert!(user(before), "one of the loops runs: {before:#x}");
    let reply = client.packets("vCont;s:1").pop().unwrap();
    assert!(reply.starts_with("T05"), "{reply}");
    let after = pointer(&mut client, kernel);
    assert!(user(after) && after != before, "{after:#x} from {before:#x}");
    let position: u64 = client.monitor("position").trim().parse().unwrap();
    assert!(position > at + 100, "the handler was run through: {at} {position}");
    // Shown, if one wants to see it.
    client.monitor(&format!("goto {at}"));
    client.monitor("interrupts show");
    client.packets("vCont;s:1");
    assert!(!user(pointer(&mut client, kernel)));
    assert_eq!(client.monitor("position").trim(), (at + 1).to_string());
}

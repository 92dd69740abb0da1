//! The protocol packet by packet: what gdb does not send, other debuggers and enemies do.

use dejavm_gdb_tests::{Client, Rerun};
use dejavm_stub::{Ended, State};

/// Where `put_char` of the guest `hello` is; gdb's tests find it by its name.
const PUT_CHAR: &str = "10005a";

fn replay() -> Rerun {
    Rerun::replay(dejavm_images::HELLO)
}

#[test]
fn the_first_words() {
    let mut target = replay();
    let mut client = Client::new(&mut target);
    let supported = client.ask("qSupported:multiprocess+;swbreak+;error-message+");
    let words: Vec<&str> = supported.split(';').collect();
    for word in [
        "PacketSize=100000",
        "QStartNoAckMode+",
        "ReverseStep+",
        "ReverseContinue+",
        "ConditionalBreakpoints+",
        "qXfer:threads:read+",
        "qXfer:features:read+",
        "qXfer:memory-map:read+",
        "swbreak+",
        "hwbreak+",
        "vContSupported+",
        "binary-upload+",
    ] {
        assert!(words.contains(&word), "{word} in {supported}");
    }
    assert!(!supported.contains("multiprocess"));
    assert_eq!(client.ask("?"), "T0508:00001000;04:00f00000;core:0;thread:1;");
    assert_eq!(client.ask("qAttached"), "1");
    assert_eq!(client.ask("qC"), "QC1");
    assert_eq!(client.ask("qfThreadInfo"), "m1");
    assert_eq!(client.ask("qsThreadInfo"), "l");
    assert_eq!(client.ask("T1"), "OK");
    assert_eq!(client.ask("T2"), "E01");
    assert_eq!(client.ask("Hg2"), "E01");
    assert_eq!(client.ask("vMustReplyEmpty"), "");
    assert!(client.ask("qXfer:memory-map:read::0,fff").starts_with("l<?xml"));
    assert_eq!(client.ask("qXfer:memory-map:read::fff,fff"), "l");
    assert_eq!(client.ask("qXfer:memory-map:read::,"), "E00");
    assert_eq!(client.ask("qqemu.sstepbits"), "ENABLE=1,NOIRQ=2,NOTIMER=4");
    // No kernel runs here, and there is no other file: not the host's either.
    assert_eq!(client.ask("qOffsets"), "");
    assert!(client.ask("qXfer:exec-file:read:1:0,100").starts_with('E'));
    assert_eq!(client.ask("vFile:setfs:0"), "F0");
    assert_eq!(client.ask("vFile:open:2f6b65726e656c,0,0"), "F-1,02", "/kernel");
    assert_eq!(client.ask("vFile:open:2f6574632f706173737764,0,0"), "F-1,02", "/etc/passwd");
    assert_eq!(client.ask("vFile:pread:1,10,0"), "F-1,09");
    assert_eq!(client.ask("vFile:close:1"), "F-1,09");
    let mut live = Rerun::live(dejavm_images::HELLO);
    let mut client = Client::new(&mut live);
    assert!(!client.ask("qSupported").contains("Reverse"));
    assert_eq!(client.ask("bs"), "E.a live machine runs forwards only");
}

#[test]
fn acknowledgements_and_their_absence() {
    let mut target = replay();
    let mut client = Client::new(&mut target);
    assert_eq!(client.raw(b"$qC#b4"), b"+$QC1#c5");
    assert_eq!(client.raw(b"-"), b"$QC1#c5", "the reply again");
    assert_eq!(client.raw(b"+"), b"");
    assert_eq!(client.raw(b"$qC#00"), b"-", "a wrong checksum");
    assert_eq!(client.ask("QStartNoAckMode"), "OK");
    assert_eq!(client.raw(b"$qC#b4"), b"$QC1#c5");
    assert_eq!(client.raw(b"-+$qC#00"), b"");
}

#[test]
fn packets_in_single_bytes_and_many_at_once() {
    let mut target = replay();
    let mut client = Client::new(&mut target);
    let mut got = Vec::new();
    for byte in b"$qC#b4$qC#b4" {
        got.extend(client.raw(&[*byte]));
    }
    assert_eq!(got, client.raw(b"$qC#b4$qC#b4"));
    // A run in the middle: what follows is answered after it.
    let got = client.raw(b"$vCont;s:1#23$qC#b4");
    assert!(got.starts_with(b"+$T05") && got.ends_with(b"+$QC1#c5"), "{}", got.escape_ascii());
    // An interrupt right behind.
    let got = client.raw(b"$vCont;c#a8\x03");
    assert!(got.starts_with(b"+$T02"), "{}", got.escape_ascii());
    // An interrupt while nothing runs is none.
    assert_eq!(client.raw(b"\x03"), b"");
}

#[test]
fn memory_and_registers() {
    let mut target = replay();
    let mut client = Client::new(&mut target);
    let code = client.ask("m100000,8");
    assert_eq!(code.len(), 16);
    assert_eq!(client.ask("x100000,0"), "");
    assert!(client.ask("x100000,4").starts_with('b'));
    assert_eq!(client.ask("mffffffffffffffff,8"), "E14");
    assert_eq!(client.ask("mfee00000,8"), "E14", "a device is never read");
    // RAM ends at 16 MiB: what there is comes.
    assert_eq!(client.ask("mfffffc,100"), "00000000");
    for broken in ["m", "m1", "m1,", "m1,2,3", "mzz,1", "m11111111111111111,1", "x1", "X1", "M1,1"]
    {
        assert!(client.ask(broken).starts_with('E'), "{broken}");
    }
    // As much as can be, not more.
    let long = client.ask("m0,ffffffffffffffff");
    assert!(long.len() <= 1 << 20 && long.len() > 1 << 19, "{}", long.len());
    assert_eq!(client.ask("Qqemu.PhyMemMode:1"), "OK");
    assert_eq!(client.ask("qqemu.PhyMemMode"), "1");
    assert_eq!(client.ask("m100000,8"), code);
    assert_eq!(client.ask("Qqemu.PhyMemMode:0"), "OK");
    let all = client.ask("g");
    let one = client.ask("p8");
    assert_eq!(one, "00001000");
    assert_eq!(all.get(64..72), Some(one.as_str()));
    assert!(client.ask("pffff").starts_with('E'));
    assert!(client.ask("P0=01000000").starts_with("E.this is a replay"));
    assert_eq!(client.ask("P0=00000000"), "OK", "an equal value changes nothing");
    assert!(client.ask("P0=00").starts_with('E'));
    assert!(client.ask("Pffffffff=00").starts_with('E'));
    assert_eq!(client.ask(&format!("G{all}")), "OK");
    assert!(client.ask(&format!("G{all}00")).starts_with('E'));
    assert!(client.ask("M100000,1:90").starts_with("E.this is a replay"));
    assert_eq!(client.ask("qqemu.nothing"), "");
}

#[test]
fn a_live_machine_is_written() {
    let mut target = Rerun::live(dejavm_images::HELLO);
    let mut client = Client::new(&mut target);
    assert_eq!(client.ask("P0=78563412"), "OK");
    assert_eq!(client.ask("p0"), "78563412");
    assert_eq!(client.ask("M200000,3:616263"), "OK");
    assert_eq!(client.ask("X200003,2:d}\x03"), "OK");
    assert_eq!(client.ask("m200000,5"), "6162636423");
    assert!(client.ask("Mfffffffffffffff0,2:0000").starts_with("E."));
    assert!(client.ask("P9=ffffffff").starts_with("OK"));
}

#[test]
fn stepping_and_breakpoints() {
    let mut target = replay();
    let mut client = Client::new(&mut target);
    assert_eq!(client.ask(&format!("Z0,{PUT_CHAR},1")), "OK");
    let hit = client.ask("vCont;c");
    assert!(hit.contains("swbreak:;") && hit.contains("08:5a001000;"), "{hit}");
    assert_eq!(client.ask(&format!("z0,{PUT_CHAR},1")), "OK");
    // A range step ends where the range does: the call is left by its `ret`.
    let left = client.ask("vCont;r10005a,100080:1");
    assert!(left.starts_with("T05") && !left.contains("08:5a001000"), "{left}");
    assert!(client.ask("bs").starts_with("T05"));
    assert_eq!(client.ask("Hc-1"), "OK");
    assert!(client.ask("bs").starts_with("T05"), "the crate would end the session");
    assert!(client.ask("s").starts_with("T05"));
    assert!(client.ask("vCont;s:1;c").starts_with("T05"));
    assert!(client.ask("vCont;s:1").starts_with("T05"), "without a wildcard too");
    assert!(client.ask("bc").contains("replaylog:begin;"));
    assert!(client.packets("c").last().is_some_and(|stop| stop.contains("replaylog:end;")));
    assert!(client.packets("C05").last().is_some_and(|stop| stop.contains("replaylog:end;")));
    for broken in ["vCont;", "vCont;q", "vCont;r1", "c1234", "vCont;c;s;x"] {
        assert!(client.ask(broken).starts_with('E'), "{broken}");
    }
}

#[test]
fn many_breakpoints_and_broken_ones() {
    let mut target = replay();
    let mut client = Client::new(&mut target);
    for at in 0..5000 {
        assert_eq!(client.ask(&format!("Z1,{:x},1", 0x20_0000 + at)), "OK");
    }
    assert_eq!(client.ask(&format!("Z1,{PUT_CHAR},1")), "OK");
    assert!(client.ask("c").contains("hwbreak:;"));
    for broken in ["Z", "Z0", "Z0,", "Z9,1,1", "Z0,1,1;X", "Z0,1,1;Xff,00", "z", "Z2,0,0"] {
        assert!(client.ask(broken).starts_with('E'), "{broken}");
    }
    // A condition that cannot be evaluated stops, for gdb to see to it.
    assert_eq!(client.ask(&format!("Z1,{PUT_CHAR},1;X1,ff")), "OK");
    assert!(client.ask("c").contains("hwbreak:;"));
    // `?` of a new client: the breakpoints of the last are not its.
    client.ask("?");
    assert!(client.packets("c").last().is_some_and(|stop| stop.contains("replaylog:end;")));
}

#[test]
fn what_the_crate_cannot_parse_ends_nothing() {
    let mut target = replay();
    let mut client = Client::new(&mut target);
    for odd in [
        "",
        "G",
        "Gz",
        "P",
        "P0",
        "P=",
        "p",
        "pz",
        "X",
        "M",
        "qXfer",
        "qXfer:features:read:",
        "qXfer:features:read:target.xml:zz,1",
        "qXfer:features:read:other.xml:0,10",
        "qXfer:threads:read::0",
        "qXfer:threads:read::zz,1",
        "qRcmd,",
        "qRcmd,1",
        "qRcmd,zz",
        "vRun",
        "vAttach;1",
        "vFile:open:",
        "!",
        "R00",
        "QPassSignals:",
        "jThreadsInfo",
        "\u{7f}",
        "H",
        "Hx",
        "T",
        "qThreadExtraInfo,",
        "vKil",
    ] {
        client.packets(odd);
        assert_eq!(client.ask("qC"), "QC1", "after {odd:?}");
    }
    let xml = client.ask("qXfer:features:read:target.xml:0,ffffff");
    assert!(xml.contains("<architecture>i386</architecture>"), "{xml}");
    assert_eq!(client.ask("qXfer:features:read:target.xml:ffffff,10"), "l");
    let threads = client.ask("qXfer:threads:read::0,1000");
    assert_eq!(
        threads,
        "l<?xml version=\"1.0\"?><threads><thread id=\"1\" core=\"0\" name=\"cpu0\">kernel, 0x0</thread></threads>"
    );
    assert_eq!(client.ask("qXfer:threads:read::5,4"), "m ver");
}

#[test]
fn the_ends_of_a_session() {
    for (packet, reply, ended) in [
        ("D", vec!["OK"], Ended::Detached),
        ("D;1", vec!["OK"], Ended::Detached),
        ("vKill;1", vec!["OK"], Ended::Killed),
        ("k", vec![], Ended::Killed),
    ] {
        let mut target = replay();
        let mut client = Client::new(&mut target);
        assert_eq!(client.packets(packet), reply);
        assert_eq!(client.state(), State::Ended(ended));
        assert_eq!(client.raw(b"$qC#b4"), b"", "nobody is there any more");
    }
}

#[test]
fn monitor_commands() {
    let mut target = replay();
    let mut client = Client::new(&mut target);
    let help = client.monitor("help");
    for (name, _, _, _) in dejavm_stub::monitor_commands() {
        assert!(help.lines().any(|line| line.split(' ').next() == Some(name)), "{name} in {help}");
        let more = client.monitor(&format!("help {name}"));
        assert!(more.starts_with(&format!("monitor {name}")), "{more}");
    }
    assert_eq!(client.monitor("position"), "0\n");
    assert_eq!(client.monitor("layout"), "gdb was told of the registers of 32-bit mode\n");
    assert_eq!(client.monitor("layout mode"), "32\n");
    assert_eq!(client.monitor("goto"), "usage: monitor goto N|+N|-N|MARK|start|end\n");
    assert_eq!(client.monitor("phys"), "memory addresses are physical\n");
    assert_eq!(client.monitor("virt"), "memory addresses are virtual\n");
    assert_eq!(client.monitor("stopat"), "no position is set\n");
    assert_eq!(client.monitor("r eax"), "eax=0x0\n");
    assert!(client.monitor("r ldtr").starts_with("ldtr sel 0x0 base 0x0 limit"));
    assert!(client.monitor("r st9").starts_with("there is no register `st9`"));
    assert!(client.monitor("\x1b[2J").starts_with("there is no command `?[2J`"));
    assert!(client.monitor("mark 7").contains("is no name for a mark"));
    assert!(client.monitor("branch").contains("live already"));
}

/// A program that is stepped does not see the timer's interrupts come between, unless it is asked for.
#[test]
fn interrupts_are_run_through_while_stepping() {
    let mut target = Rerun::live(dejavm_images::TIMER);
    let mut client = Client::new(&mut target);
    // `hlt` in the loop that waits for 100 ticks.
    client.ask("Z0,100161,1");
    assert!(client.ask("c").contains("08:61011000;"));
    client.ask("z0,100161,1");
    assert_eq!(client.monitor("interrupts show"), "stepping shows interrupts\n");
    client.ask("s");
    let handler = client.ask("s");
    assert!(handler.contains("08:d4011000;"), "behind the first instruction of `tick`: {handler}");
    assert_eq!(client.monitor("interrupts skip"), "stepping runs through interrupts\n");
    // The rest of the handler, and back.
    let back = client.ask("vCont;r1001d3,1001e0:1");
    assert!(back.contains("08:62011000;"), "{back}");
    let done = client.ask("vCont;r100161,100171:1");
    assert!(done.contains("08:71011000;"), "all ticks have come: {done}");
    assert_eq!(client.ask("m106800,4"), "64000000", "100 ticks");
}

/// The same where interrupts come between running instructions.
#[test]
fn a_function_is_stepped_over_in_spite_of_the_timer() {
    let mut target = Rerun::live(dejavm_images::DEMO);
    let mut client = Client::new(&mut target);
    client.ask("Z0,1001d6,1");
    assert!(client.ask("c").contains("08:d6011000;"));
    client.ask("z0,1001d6,1");
    let returned = client.ask("vCont;r1001d6,10021f:1");
    assert!(returned.contains("08:7f011000;"), "back in `main`: {returned}");
}

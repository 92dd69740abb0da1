//! Transcripts of the real gdb over guests of our own, with the simplest target there is.

use dejavm_gdb_tests::{Gdb, Rerun};

/// The transcript's part that belongs to a command, the command's line left out. `nth`: of those alike.
fn after(text: &str, command: &str, nth: usize) -> String {
    let prompt = format!("(gdb) {command}\n");
    let part = text.split(&prompt).nth(nth + 1);
    let part = part.unwrap_or_else(|| panic!("no {command:?} number {nth} in\n{text}"));
    part.split("\n(gdb) ").next().unwrap_or(part).trim().to_owned()
}

fn assert_after(text: &str, command: &str, nth: usize, expected: &str) {
    let got = after(text, command, nth);
    assert!(got.contains(expected), "{command:?} number {nth} printed {got:?}\nin {text}");
}

#[test]
fn forwards_and_backwards() {
    let mut target = Rerun::replay(dejavm_images::HELLO);
    let gdb = Gdb::with_symbols("hello", dejavm_images::HELLO);
    let text = gdb.run(
        &mut target,
        &[
            "info threads",
            "print $cr0",
            "break put_char",
            "continue",
            "monitor position",
            "stepi",
            "monitor position",
            "reverse-stepi",
            "monitor position",
            "continue",
            "print/c $al",
            "reverse-continue",
            "print/c $al",
            "reverse-continue",
            "monitor position",
            "delete",
            "continue",
            "monitor position",
        ],
    );
    assert_after(
        &text,
        "info threads",
        0,
        "* 1    Thread 1 \"cpu0\" (kernel, 0x0) 0x00100000 in start ()",
    );
    assert_after(&text, "print $cr0", 0, "[ PE ET ]");
    assert_after(&text, "continue", 0, "Breakpoint 1, 0x0010005a in put_char ()");
    let position = |nth| {
        let printed = after(&text, "monitor position", nth);
        let printed = printed.lines().next().unwrap_or_default();
        printed.parse::<u64>().unwrap_or_else(|_| panic!("{printed:?} is no number in\n{text}"))
    };
    assert_eq!(position(1), position(0) + 1);
    assert_eq!(position(2), position(0));
    assert_after(&text, "print/c $al", 0, "'e'");
    assert_after(&text, "reverse-continue", 0, "Breakpoint 1, ");
    assert_after(&text, "print/c $al", 1, "'h'");
    assert_after(&text, "reverse-continue", 1, "No more reverse-execution history.");
    assert_eq!(position(3), 0);
    assert_after(&text, "continue", 2, "No more reverse-execution history.");
    assert_eq!(position(4), target.end().0);
}

#[test]
fn conditions_are_judged_in_the_target() {
    let mut target = Rerun::replay(dejavm_images::HELLO);
    let gdb = Gdb::with_symbols("hello", dejavm_images::HELLO).before("set debug remote 1");
    let text = gdb.run(
        &mut target,
        &["break put_char if ($eax & 0xff) == 0x6d && *(char *)$esi == 1", "continue"],
    );
    assert_after(&text, "continue", 0, "No more reverse-execution history.");
    assert_eq!(text.matches("$vCont;c").count(), 1, "{text}");
    let gdb = Gdb::with_symbols("hello", dejavm_images::HELLO).before("set debug remote 1");
    let mut target = Rerun::replay(dejavm_images::HELLO);
    let text = gdb
        .run(&mut target, &["hbreak put_char if ($eax & 0xff) == 0x6d", "continue", "print/c $al"]);
    assert_after(&text, "continue", 0, "hwbreak:");
    assert_after(&text, "print/c $al", 0, "'m'");
    assert_eq!(text.matches("$vCont;c").count(), 1, "{text}");
}

#[test]
fn watchpoints_find_the_writer_both_ways() {
    let mut target = Rerun::replay(dejavm_images::HELLO);
    let gdb = Gdb::with_symbols("hello", dejavm_images::HELLO);
    let text = gdb.run(
        &mut target,
        &[
            "break put_char",
            "continue",
            "delete",
            "watch -l *(int *)($esp - 4)",
            "continue",
            "x/i $pc",
            "monitor position",
            "reverse-continue",
            "x/i $pc",
            "rwatch -l *(int *)$esp",
            "continue",
        ],
    );
    // `push eax` at put_char writes below the stack pointer.
    assert_after(&text, "continue", 1, "Hardware watchpoint 2: -location *(int *)($esp - 4)");
    assert_after(&text, "x/i $pc", 0, "<put_char+1>:\tpush   %edx");
    assert_after(
        &text,
        "reverse-continue",
        0,
        "Hardware watchpoint 2: -location *(int *)($esp - 4)",
    );
    assert_after(&text, "x/i $pc", 1, "<put_char>:\tpush   %eax");
}

#[test]
fn a_replay_cannot_be_changed_and_says_so() {
    let mut target = Rerun::replay(dejavm_images::HELLO);
    let gdb = Gdb::with_symbols("hello", dejavm_images::HELLO);
    let text = gdb.run(
        &mut target,
        &["print $eax = 1", "print $eax", "set *(int *)$esp = 1", "monitor help branch", "kill"],
    );
    assert_after(&text, "print $eax = 1", 0, "this is a replay");
    assert_after(&text, "print $eax = 1", 0, "`monitor branch`");
    assert_after(&text, "print $eax", 0, "= 0");
    assert_after(&text, "set *(int *)$esp = 1", 0, "Cannot access memory");
    assert_after(
        &text,
        "monitor help branch",
        0,
        "this is a replay: what was recorded cannot be changed",
    );
}

#[test]
fn a_live_machine_can() {
    let mut target = Rerun::live(dejavm_images::HELLO);
    let gdb = Gdb::with_symbols("hello", dejavm_images::HELLO);
    let text = gdb.run(
        &mut target,
        &[
            "break put_char",
            "continue",
            "print $eax = 0x4a",
            "delete",
            "set *(char *)$esi = 'u'",
            "stepi 2",
            "reverse-stepi",
            "continue",
            "detach",
        ],
    );
    assert_after(&text, "reverse-stepi", 0, "Target remote does not support this command");
    assert_after(&text, "continue", 1, "the guest ended: DebugExit(16)");
    assert_eq!(target.console(), "Jullo from a guest of dejavm\n", "{text}");
}

/// The memory map hides nothing from gdb: low and high addresses, in 32-bit and in 64-bit code, and physical ones.
#[test]
fn the_memory_map_is_all_addresses() {
    let mut target = Rerun::replay(dejavm_images::PAGING);
    let text = Gdb::plain().run(
        &mut target,
        &[
            "info mem",
            "x/xw 0x100000",
            "x/xw 0xfffffffc",
            // Where the 64-bit code begins, and where it has written to the top of the address space.
            "hbreak *0x100460",
            "continue",
            "monitor layout 64",
            "unset tdesc filename",
            "maintenance flush register-cache",
            "info mem",
            "break *0x100474",
            "continue",
            "x/i $pc",
            "x/xg 0xffffffffffe01000",
            "x/xg 0x201000",
            "delete",
            "break *0xffffffffffe02000",
            "hbreak *0xffffffffffe03000",
            "watch *(long *) 0xffffffffffe01000",
            "reverse-continue",
            "x/i $pc",
            "x/xg 0xffffffffffe01000",
            "monitor phys",
            "x/xg 0xffffffffffe01000",
            "x/xg 0x201000",
        ],
    );
    for nth in 0..2 {
        let list = after(&text, "info mem", nth);
        let ram: Vec<&str> = list.lines().filter(|line| line.contains(" rw ")).collect();
        assert_eq!(ram.len(), 2, "{list}");
        assert!(list.starts_with("Using memory regions provided by the target."), "{list}");
    }
    assert_after(&text, "x/xw 0x100000", 0, "0x100000:\t0x010ffcfa");
    assert_after(&text, "continue", 0, "Breakpoint 1, 0x00100460");
    assert_after(&text, "continue", 1, "Breakpoint 2, 0x0000000000100474");
    for command in ["x/xg 0xffffffffffe01000", "x/xg 0x201000"] {
        assert_after(&text, command, 0, ":\t0x1122334455667788");
    }
    assert_after(&text, "reverse-continue", 0, "New value = 0");
    assert_after(&text, "x/i $pc", 1, "=> 0x100471:\tmov    %rbx,(%rax)");
    assert_after(&text, "x/xg 0xffffffffffe01000", 1, ":\t0x0000000000000000");
    // No RAM is there.
    assert_after(&text, "x/xg 0xffffffffffe01000", 2, "Cannot access memory");
    assert_after(&text, "x/xg 0x201000", 1, ":\t0x0000000000000000");
}

#[test]
fn positions_and_marks() {
    let mut target = Rerun::replay(dejavm_images::HELLO);
    let gdb = Gdb::with_symbols("hello", dejavm_images::HELLO);
    let text = gdb.run(
        &mut target,
        &[
            "monitor stopat 100",
            "continue",
            "monitor position",
            "monitor stopat -40",
            "reverse-continue",
            "monitor position",
            "monitor goto +7",
            "monitor when",
            "monitor goto end",
            "monitor goto 99999999",
            "monitor goto nowhere",
            "monitor r cs",
            "monitor r idtr",
            "monitor r cr0",
            "monitor nonsense",
            "monitor last-write 0x106800",
            "monitor translate 0x1000",
        ],
    );
    assert_after(&text, "continue", 0, "dejavm: position 100");
    assert_after(&text, "monitor position", 0, "100");
    assert_after(&text, "reverse-continue", 0, "dejavm: position 60");
    assert_after(&text, "monitor goto +7", 0, "position 67, at 0x");
    assert_after(&text, "monitor when", 0, "position 67 of 0 to ");
    assert_after(&text, "monitor goto 99999999", 0, "the recording ends before");
    assert_after(&text, "monitor goto nowhere", 0, "`nowhere` is neither a position nor a mark");
    assert_after(
        &text,
        "monitor r cs",
        0,
        "cs 0x8 base 0x0 limit 0xffffffff type 0xb s 1 dpl 0 p 1 db 1",
    );
    assert_after(&text, "monitor r idtr", 0, "idtr base=0x10");
    assert_after(&text, "monitor r cr0", 0, "cr0=0x11");
    assert_after(&text, "monitor nonsense", 0, "there is no command `nonsense`");
    assert_after(&text, "monitor translate 0x1000", 0, "0x1000 is at physical 0x1000");
}

//! A user's program in a guest, debugged with its own symbols by the real gdb.

use dejavm_gdb_tests::Gdb;
use dejavm_machine::{Boot, Machine};
use dejavm_replay::{Replayer, Timeline, TimelineOptions};
use dejavm_scenarios::{Debian, Desk, Kernel, SECOND_NS, Typing, rebuild, tape};
use dejavm_stub::{Replaying, Target};
use dejavm_units::Position;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Counts for ever. Without a library: what it needs of the kernel is three instructions.
const PROGRAM: &str = r#"
struct account { long number; long balance; };
struct account account;
static long turns;

__attribute__((noinline)) void deposit(struct account *to, long amount)
{
    to->balance += amount;
}

/* Another thread of `b`. */
static long second_stack[512];

__attribute__((used)) static void second(void)
{
    for (;;)
        ;
}

static void spawn(void)
{
    /* clone: CLONE_VM, FS, FILES, SIGHAND, THREAD, SYSVSEM. */
    long result = 56;
    __asm__ volatile("syscall\n test %0, %0\n jnz 1f\n call second\n1:"
                     : "+a"(result)
                     : "D"(0x50f00L), "S"(second_stack + 512), "d"(0L)
                     : "rcx", "r11", "memory");
}

__attribute__((noinline)) static void work(long id)
{
    /* Nobody else uses it. */
    __asm__ volatile("movq %0, %%xmm7" : : "r"(id + 0x123400000));
    if (id == 1000)
        spawn();
    for (;;) {
        deposit(&account, id);
        for (volatile int spin = 0; spin < 20000; spin++)
            ;
        turns++;
    }
}

/* The stack begins with the number of arguments, then the arguments: the program's name is `a` or `b`. */
__attribute__((used)) static void start(long *stack)
{
    char *name = (char *)stack[1];
    while (*name)
        name++;
    work(name[-1] == 'a' ? 1 : 1000);
}

__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call start\n");
"#;

fn compile(folder: &Path) -> PathBuf {
    let (source, program) = (folder.join("counter.c"), folder.join("counter"));
    std::fs::write(&source, PROGRAM).unwrap();
    let status = Command::new("gcc")
        .args([
            "-g",
            "-O1",
            "-m64",
            "-static",
            "-nostdlib",
            "-ffreestanding",
            "-fno-pie",
            "-no-pie",
        ])
        .args(["-fno-stack-protector", "-Wl,--build-id=none", "-o"])
        .args([&program, &source])
        .status()
        .unwrap();
    assert!(status.success());
    program
}

/// Files as the kernel unpacks them (`newc`, cpio(5)), behind another archive.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::new();
    let pad = |bytes: &mut Vec<u8>| bytes.resize(bytes.len().next_multiple_of(4), 0);
    for (number, (name, content)) in files.iter().chain([&("TRAILER!!!", &b""[..])]).enumerate() {
        let header =
            [number + 700, 0o100_755, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
        bytes.extend_from_slice(b"070701");
        header.iter().for_each(|field| bytes.extend_from_slice(format!("{field:08X}").as_bytes()));
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(0);
        pad(&mut bytes);
        bytes.extend_from_slice(content);
        pad(&mut bytes);
    }
    bytes
}

/// A recording in which the program runs twice at the same time, as `a` and as `b`.
fn recording(program: &Path) -> Replaying<Cursor<Vec<u8>>> {
    let debian = Debian::new(Kernel::Cloud, "idle");
    let read = |name: &str| std::fs::read(dejavm_images::fetched(name).unwrap()).unwrap();
    let mut initrd = read("initramfs-amd64.gz");
    initrd.resize(initrd.len().next_multiple_of(4), 0);
    let content = std::fs::read(program).unwrap();
    initrd.extend(archive(&[("bin/a", &content), ("bin/b", &content)]));
    let (image, cmdline) = (read("vmlinuz-cloud-amd64"), debian.command_line());
    let boot = Boot { image: &image, initrd: Some(&initrd), cmdline: &cmdline };
    let machine = Machine::boot(&debian.config(), &boot).unwrap();
    let mut desk = Desk::with_script([
        Typing::new("guest# ", 0, "a & b &\n"),
        Typing::new("guest# ", SECOND_NS / 5, "poweroff -f\n"),
    ]);
    let tape = tape(machine, debian.config(), &mut desk, 0, None);
    assert_eq!(desk.acts_left(), 0, "{}", desk.console());
    let mut replayer = Replayer::open(Cursor::new(tape.file)).unwrap();
    let machine = rebuild(&mut replayer).unwrap();
    let timeline = Timeline::new(replayer, machine, TimelineOptions::default()).unwrap();
    let mut replay = Replaying::new(timeline).unwrap();
    let (_, end) = replay.extent();
    replay.seek(Position(end.0 - 200_000_000), &mut || false).unwrap();
    replay
}

#[test]
fn a_process_with_its_symbols() {
    let folder = std::env::temp_dir().join(format!("dejavm-process-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let program = compile(&folder);
    let mut replay = recording(&program);
    // The first of the two threads of `b`.
    let select = "python min([t for t in gdb.selected_inferior().threads() if t.name == 'b'], key=lambda t: t.ptid).switch()";
    // Behind the connection: gdb moves what it has read before to where the kernel's code is.
    let symbols = format!("add-symbol-file {}", program.display());
    let commands = [
        &symbols,
        "monitor linux",
        "info threads",
        select,
        "maintenance flush register-cache",
        // Only this one's: the other is the same program at the same addresses.
        "break deposit",
        "continue",
        "print amount",
        "continue",
        "print amount",
        "backtrace",
        "print to->balance == account.balance",
        "set $before = account.balance",
        "finish",
        "print account.balance - $before",
        // Who wrote this last?
        "delete",
        "watch account.balance",
        "reverse-continue",
        "print account.balance - $before",
        "backtrace 1",
        "delete",
        "next",
        "info threads",
        "python [t.switch() for t in gdb.selected_inferior().threads() if t.name == 'a']",
        "print $xmm7.v2_int64[0] - 0x123400000",
        "detach",
    ];
    let text = Gdb::plain().run(&mut replay, &commands);
    println!("{text}");
    let after = |command: &str, number: usize| -> String {
        let marker = format!("(gdb) {command}\n");
        let part =
            text.split(&marker).nth(number + 1).unwrap_or_else(|| panic!("{command} in {text}"));
        part.split("\n(gdb) ").next().unwrap().trim().to_owned()
    };
    for round in 0..2 {
        assert!(after("continue", round).contains("deposit (to="), "{text}");
        assert!(after("print amount", round).ends_with("= 1000"), "{text}");
    }
    let backtrace = after("backtrace", 0);
    for function in ["deposit", "work", "start", "_start"] {
        assert!(backtrace.contains(&format!("{function} (")), "{function}: {backtrace}");
    }
    assert!(after("print to->balance == account.balance", 0).ends_with("= 1"), "{text}");
    assert!(after("print account.balance - $before", 0).ends_with("= 1000"), "{text}");
    let written = after("reverse-continue", 0);
    assert!(written.contains("Hardware watchpoint") && written.contains("deposit"), "{written}");
    assert!(after("print account.balance - $before", 1).ends_with("= 0"), "{text}");
    // A process's threads, and the SSE registers of one that does not run.
    let list = after("info threads", 1);
    let threads: Vec<&str> = list.lines().filter(|line| line.contains("\"b\"")).collect();
    assert_eq!(threads.len(), 2, "{list}");
    let leader = threads[0].split("Thread ").nth(1).unwrap().split(' ').next().unwrap();
    assert!(threads[1].contains(&format!(", of {leader})")), "{list}");
    assert!(after("print $xmm7.v2_int64[0] - 0x123400000", 0).ends_with("= 1"), "{text}");
    // The kernel's own functions are known as well, without a vmlinux.
    let kthreadd = after("info threads", 1);
    let kthreadd = kthreadd.lines().find(|line| line.contains("\"kthreadd\"")).unwrap();
    assert!(kthreadd.contains("__schedule"), "{kthreadd}");
    std::fs::remove_dir_all(&folder).unwrap();
}

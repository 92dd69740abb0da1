//! Transcripts of the real gdb on stock Debian kernels: one session on a live machine, which ends in a panic, and one on
//! the replay of what was recorded meanwhile. Each command's outcome is looked at, not only that there is one.

use super::gdb::Gdb;
use super::recorder::{Recorder, until};
use super::{Folder, Kept, command};
use std::path::Path;

/// How far before the panic the article of 2007 has its reader stand.
const BEFORE_PANIC: u64 = 5000;
/// What is typed in the guest, and what its shell writes then with one system call.
const TYPED: &str = "echo hello-live\n";
const WRITTEN: &str = "hello-live\\n";
const WRITTEN_BYTES: u64 = 11;

/// A kernel, and how its code is looked at.
pub struct Debian {
    /// As its file is called.
    pub flavour: &'static str,
    /// With types and lines; otherwise gdb has the symbols that the guest's kernel keeps of itself.
    pub vmlinux: Option<String>,
}

/// What the live session leaves to the other.
pub struct Left {
    pub file: String,
    /// Where the guest panicked.
    pub panic: u64,
    /// Its stack pointer there.
    pub stack: u64,
    /// Where the debugger wrote to registers.
    pub written: u64,
}

/// What differs between 32 and 64 bits. A function's arguments: `asmlinkage` apart, 32-bit kernels have the first
/// three in registers (`-mregparm=3`), as have 64-bit ones.
struct Names {
    pc: &'static str,
    sp: &'static str,
    second: &'static str,
    third: &'static str,
    word: &'static str,
    word_bytes: u64,
    /// `__KERNEL_CS`
    code: &'static str,
    /// Where a system call returns to from `ksys_write`.
    caller: &'static str,
}

const LONG: Names = Names {
    pc: "$rip",
    sp: "$rsp",
    second: "$rsi",
    third: "$rdx",
    word: "long",
    word_bytes: 8,
    code: "0x10",
    caller: "do_syscall_64",
};

const SHORT: Names = Names {
    pc: "$eip",
    sp: "$esp",
    second: "$edx",
    third: "$ecx",
    word: "int",
    word_bytes: 4,
    code: "0x60",
    caller: "ia32_sys_write",
};

/// The number that `print` printed, in any base.
fn value(printed: &str) -> u64 {
    let text = printed.rsplit("= ").next().unwrap_or_default().trim();
    let text = text.split_whitespace().next().unwrap_or_default();
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.unwrap_or_else(|_| panic!("no number in {printed:?}"))
}

/// A replay that waits for debuggers.
struct Replayer {
    child: Kept,
    socket: String,
}

impl Replayer {
    fn start(folder: &Folder, file: &str) -> Replayer {
        let socket = folder.path("replay-gdb");
        let listen = format!("--gdb={socket}");
        let child = Kept::new(command(&["replay", file, &listen, "--json"]).spawn().unwrap());
        until("it listens", || Path::new(&socket).exists());
        Replayer { child, socket }
    }

    /// `kill` has ended it.
    fn end(self) {
        assert_eq!(self.child.wait().ok().json()["result"], "debugged");
    }
}

impl Gdb {
    fn value(&mut self, expression: &str) -> u64 {
        value(&self.run(&format!("print/x {expression}")))
    }

    /// The machine has moved behind gdb's back.
    fn look_again(&mut self) {
        self.run("maintenance flush register-cache");
    }

    /// Demands a pattern's absence.
    #[track_caller]
    fn expect_not(&mut self, command: &str, text: &str) -> String {
        let printed = self.run(command);
        assert!(!printed.contains(text), "{text:?} after {command:?}:\n{}", self.transcript);
        printed
    }
}

impl Debian {
    fn names(&self) -> &'static Names {
        if self.flavour.starts_with("686") { &SHORT } else { &LONG }
    }

    /// The kernel's release, as `uname -r` has it.
    fn release(&self) -> String {
        let manifest = fetched(&format!("{}.manifest", self.flavour));
        let text = std::fs::read_to_string(&manifest).unwrap();
        let package = text.lines().find_map(|line| line.strip_prefix("package: linux-image-"));
        package.unwrap().split(':').next().unwrap().to_owned()
    }

    fn boot(&self, folder: &Folder) -> Recorder {
        let kernel = fetched(&format!("vmlinuz-{}", self.flavour));
        let architecture = if self.flavour.starts_with("686") { "i386" } else { "amd64" };
        let initrd = fetched(&format!("initramfs-{architecture}.gz"));
        let append = "console=ttyS0 panic=-1 dejavm.workload=idle cryptomgr.notests";
        let more = ["--initrd", &initrd, "--append", append, "-m", "256", "--idle", "realtime"];
        let mut recorder = Recorder::of(folder, &kernel, &folder.path("it.dvr"), &more);
        recorder.kernel = self.vmlinux.clone().unwrap_or_default();
        recorder
    }

    fn gdb(&self) -> Gdb {
        Gdb::start(self.vmlinux.as_deref())
    }

    /// A guest is typed to, stopped, looked at, written to, left and met again, and panics at last.
    pub fn live_session(&self, folder: &Folder) -> Left {
        let names = self.names();
        let mut recorder = self.boot(folder);
        recorder.await_text("guest# ");
        let mut gdb = self.gdb();
        gdb.run(&format!("target remote {}", recorder.socket));
        self.symbols(&mut gdb);
        self.breakpoints(&mut gdb, &mut recorder);
        self.stepping(&mut gdb);
        self.watching(&mut gdb);
        self.functions(&mut gdb, &mut recorder);
        self.registers(&mut gdb);
        gdb.run("set $xmm7.v4_int32[2] = 0x12345678");
        gdb.run("set $st3 = -2.5");
        written_registers(&mut gdb);
        let written = gdb.position();
        self.memory(&mut gdb);
        self.live_words(&mut gdb);
        self.processes(&mut gdb);
        // Written to: what the shell writes begins with another letter.
        gdb.expect(&format!("break vfs_write if {} == {WRITTEN_BYTES}", names.third), "at");
        recorder.type_in(TYPED);
        gdb.expect("continue", "Breakpoint ");
        gdb.run(&format!("set var *(char *) {} = 'j'", names.second));
        gdb.expect(&format!("x/s {}", names.second), "jello-live");
        gdb.run("delete");
        let detached = gdb.position();
        gdb.expect("detach", "detached");
        drop(gdb);
        recorder.await_text("jello-live");

        // It went on, and another may come; `kill` ends nothing.
        let mut gdb = self.gdb();
        gdb.run(&format!("target remote {}", recorder.socket));
        assert!(gdb.position() > detached);
        gdb.run("kill");
        drop(gdb);
        recorder.type_in("echo it lives\n");
        recorder.await_text("\nit lives");

        let mut gdb = self.gdb();
        gdb.run(&format!("target remote {}", recorder.socket));
        gdb.expect("break panic", "Breakpoint 1 at");
        recorder.type_in("echo c >/proc/sysrq-trigger\n");
        gdb.expect("continue", "Breakpoint 1, ");
        gdb.expect("info symbol $pc", "panic in section .text");
        let panic = gdb.position();
        let stack = gdb.value(names.sp);
        gdb.run("delete");
        gdb.expect("continue", "the guest reset the machine");
        gdb.expect("stepi", "it is over");
        gdb.run("detach");
        drop(gdb);
        let (_, console, _) = recorder.end();
        assert!(console.contains("Kernel panic - not syncing: sysrq triggered crash"), "{console}");
        Left { file: folder.path("it.dvr"), panic, stack, written }
    }

    /// Addresses of both kinds.
    fn memory(&self, gdb: &mut Gdb) {
        let names = self.names();
        let at = gdb.value("&vfs_write");
        let code = gdb.run(&format!("print/x *(unsigned char [16] *) {at}"));
        let (_, code) = code.split_once("= ").unwrap_or_else(|| panic!("{code}"));
        let said = gdb.run(&format!("monitor translate {at:#x}"));
        let physical = said.trim().rsplit(' ').next().unwrap().to_owned();
        assert!(said.contains(" is at physical 0x"), "{said}");
        gdb.expect("monitor phys", "memory addresses are physical");
        gdb.look_again();
        gdb.expect(&format!("print/x *(unsigned char [16] *) {physical}"), code);
        gdb.expect(&format!("print *(char *) {at}"), "Cannot access memory");
        gdb.expect("monitor virt", "memory addresses are virtual");
        gdb.look_again();
        gdb.expect(&format!("print/x *(unsigned char [16] *) {at}"), code);
        // Nobody's: the page below the first.
        gdb.expect(&format!("print *({} *) 0", names.word), "Cannot access memory");
    }

    /// `monitor` commands, as they answer on a live machine.
    fn live_words(&self, gdb: &mut Gdb) {
        let here = gdb.position();
        gdb.expect("monitor when", &format!("position {here} of 0 to {here}"));
        gdb.expect("monitor stopat +1000", "");
        gdb.expect("monitor stopat", &(here + 1000).to_string());
        gdb.expect("continue", &format!("dejavm: position {}", here + 1000));
        gdb.expect("monitor mark here", &format!("here is position {}", here + 1000));
        gdb.expect("monitor marks", "  here\n");
        gdb.expect("monitor info", "a live machine, recorded into ");
        for refused in ["goto -5", "last-write 0xc0000000", "checkpoint"] {
            gdb.expect(&format!("monitor {refused}"), "replay");
        }
        gdb.expect("monitor branch", "this machine is live already");
        gdb.run("monitor events");
        gdb.expect("reverse-stepi", "does not support");
        gdb.expect("reverse-continue", "does not support");
        gdb.expect("monitor pace", "pace");
        gdb.expect("monitor interrupts", "stepping runs through interrupts");
        gdb.expect("monitor interrupts show", "stepping shows interrupts");
        gdb.expect("monitor interrupts skip", "stepping runs through interrupts");
        gdb.expect("monitor layout", "");
        for name in ["position", "stopat", "phys", "linuxoffsets", "branch"] {
            gdb.expect(&format!("monitor help {name}"), &format!("monitor {name} "));
        }
    }

    /// The guest's tasks as threads, by both commands; and back.
    fn processes(&self, gdb: &mut Gdb) {
        gdb.expect("monitor linux", &format!("Linux {}\n", self.release()));
        gdb.look_again();
        let tasks = gdb.expect("info threads", "\"kthreadd\"");
        assert!(tasks.contains("Thread 1 \"init\"") && tasks.contains("\"sh\""), "{tasks}");
        let offsets = gdb.run("monitor linuxoffsets");
        let fields = offsets.trim().trim_start_matches("-l ").split(',').count();
        assert_eq!(fields, 14, "{offsets}");
        assert_eq!(offsets.starts_with("-l "), self.names().word_bytes == 8, "{offsets}");
        gdb.expect("monitor linux off", "threads are CPUs");
        gdb.look_again();
        gdb.expect("info threads", "\"cpu0\"");
        gdb.run(&format!("monitor linuxoffsets {}", offsets.trim()));
        gdb.look_again();
        let again = gdb.expect("info threads", "\"kthreadd\"");
        let names = |list: &str| -> Vec<String> {
            list.lines().filter_map(|line| line.split('"').nth(1).map(str::to_owned)).collect()
        };
        assert_eq!(names(&again), names(&tasks), "{}", gdb.transcript);
        // Which gdb has selected by its number: it waits, in user mode.
        gdb.expect("thread", "(Thread 1)");
        let init = again.lines().find(|line| line.contains("\"init\"")).unwrap();
        let user = if self.names().word_bytes == 8 { 1 << 47 } else { 0xc000_0000 };
        let at = gdb.value(self.names().pc);
        assert!(at < user && init.contains(&format!("{at:x} in ")), "{}", gdb.transcript);
        gdb.expect("monitor linux off", "threads are CPUs");
        gdb.run("thread 1");
        gdb.look_again();
    }

    /// The same again, with a way back: what was recorded cannot be changed, and is always the same.
    pub fn replay_session(&self, folder: &Folder, left: &Left) {
        let names = self.names();
        let server = Replayer::start(folder, &left.file);
        let mut gdb = self.gdb();
        gdb.run(&format!("target remote {}", server.socket));
        assert_eq!(gdb.position(), 0);
        // gdb asks for the kernel's place when it connects: it must run by then.
        gdb.expect("monitor goto end", "position ");
        let end = gdb.position();
        gdb.run("disconnect");
        gdb.run(&format!("target remote {}", server.socket));
        assert_eq!(gdb.position(), end, "`disconnect` lets nothing go on");
        self.symbols(&mut gdb);
        gdb.expect("continue", "No more reverse-execution history.");
        gdb.expect("break panic", "Breakpoint 1 at");
        gdb.expect("reverse-continue", "Breakpoint 1, ");
        assert_eq!(gdb.position(), left.panic, "where it was live");
        assert_eq!(gdb.value(names.sp), left.stack);
        gdb.expect("backtrace 2", "sysrq_handle_crash");

        self.session_of_2007(&mut gdb, left);
        self.backwards(&mut gdb, left);
        self.last_write(&mut gdb, left);
        self.registers(&mut gdb);
        // What was written live enters behind the position: the next instruction sees it.
        gdb.run(&format!("monitor goto {}", left.written));
        gdb.look_again();
        gdb.expect_not("print/x $xmm7.v4_int32[2]", "= 0x12345678");
        gdb.run("stepi");
        written_registers(&mut gdb);
        gdb.run(&format!("monitor goto {}", left.panic));
        gdb.look_again();
        self.memory(&mut gdb);
        self.refusals(&mut gdb);
        self.interrupted_and_hardware(&mut gdb, left);
        self.processes(&mut gdb);
        self.replay_words(&mut gdb, left);
        gdb.run("delete");
        // It goes on to its end then, and another may come.
        gdb.expect("detach", "detached");
        drop(gdb);
        let mut gdb = self.gdb();
        gdb.run(&format!("target remote {}", server.socket));
        gdb.expect("continue", "No more reverse-execution history.");
        assert_eq!(gdb.position(), end);
        println!("{}", gdb.transcript);
        gdb.run("kill");
        drop(gdb);
        server.end();
    }

    /// "VMware Workstation 6: replay debugging", 2007: break in the oops path, note the position; replay again, stop a few
    /// thousand instructions before it, and step from there.
    fn session_of_2007(&self, gdb: &mut Gdb, left: &Left) {
        let Left { panic, stack, .. } = *left;
        gdb.expect("monitor goto start", "position 0, ");
        gdb.look_again();
        gdb.run("disable");
        let before = panic - BEFORE_PANIC;
        gdb.run(&format!("monitor stopat {before}"));
        gdb.expect("continue", &format!("dejavm: position {before}"));
        gdb.expect("monitor when", &format!("position {before} of 0 to "));
        for step in 1..=20 {
            gdb.run("stepi");
            assert!(gdb.position() >= before + step);
        }
        if self.vmlinux.is_some() {
            gdb.run("step");
            gdb.expect("frame", ".c:");
        }
        gdb.run("enable");
        gdb.expect("continue", "Breakpoint 1, ");
        assert_eq!((gdb.position(), gdb.value(self.names().sp)), (panic, stack));
    }

    /// From the panic.
    fn backwards(&self, gdb: &mut Gdb, left: &Left) {
        let names = self.names();
        let here = gdb.value(names.pc);
        gdb.run("stepi");
        assert_ne!(gdb.value(names.pc), here);
        assert_eq!(gdb.position(), left.panic + 1);
        gdb.run("reverse-stepi");
        assert_eq!((gdb.position(), gdb.value(names.pc)), (left.panic, here));
        gdb.run("reverse-stepi");
        assert_eq!(gdb.position(), left.panic - 1);
        gdb.expect("x/i $pc", "call");
        gdb.expect("info symbol $pc", "sysrq_handle_crash + ");
        gdb.expect("continue", "Breakpoint 1, ");
        if self.vmlinux.is_some() {
            self.backwards_by_lines(gdb, left);
        }
        // Out of it, backwards: on the call.
        gdb.run("stepi 3");
        gdb.expect("reverse-finish", "Run back to call of ");
        if gdb.position() == left.panic {
            gdb.run("reverse-stepi");
        }
        gdb.expect("x/i $pc", "call");
        assert_eq!(gdb.position(), left.panic - 1);
        gdb.run("stepi");
    }

    /// `panic` is called in line 155 of drivers/tty/sysrq.c, behind `rcu_read_unlock` in line 153, in 6.1 and long
    /// before and after; the numbers themselves are not looked at.
    fn backwards_by_lines(&self, gdb: &mut Gdb, left: &Left) {
        gdb.expect("frame", "panic (fmt=");
        gdb.expect("print fmt", "\"sysrq triggered crash\\n\"");
        let first = line(&gdb.run("frame"));
        gdb.run("next");
        let second = line(&gdb.run("frame"));
        assert!(second > first);
        gdb.run("reverse-next");
        assert_eq!(line(&gdb.expect("frame", "panic (fmt=")), first);
        // The compiler has scattered the first line.
        let mut frame = String::new();
        for _ in 0..8 {
            gdb.run("reverse-step");
            frame = gdb.run("frame");
            if !frame.contains("panic (fmt=") {
                break;
            }
        }
        assert!(frame.contains("sysrq_handle_crash (key="), "{}", gdb.transcript);
        let call = line(&frame);
        // Backwards into what was called before, and out of it on the other side.
        gdb.run("reverse-step");
        gdb.expect("frame", "__rcu_read_unlock (");
        gdb.expect("backtrace 3", "sysrq_handle_crash (key=");
        gdb.expect("reverse-finish", "Run back to call of ");
        gdb.expect_not("frame", "__rcu_read_unlock (");
        gdb.expect("backtrace 2", "sysrq_handle_crash (key=");
        // Forwards over it, and into what comes behind.
        gdb.expect("tbreak sysrq_handle_crash", "Temporary breakpoint");
        gdb.expect("reverse-continue", "Temporary breakpoint");
        gdb.run("next");
        gdb.expect("backtrace 2", "sysrq_handle_crash (key=");
        if line(&gdb.run("frame")) != call {
            gdb.expect(&format!("until {call}"), &format!("drivers/tty/sysrq.c:{call}"));
        }
        gdb.expect("step", "Breakpoint 1, panic (fmt=");
        assert_eq!(gdb.position(), left.panic);
        // A condition in C, in an earlier frame's terms.
        gdb.run("delete");
        gdb.run("break vfs_write if count == 2 && buf[0] == 99");
        gdb.expect("reverse-continue", ", vfs_write (");
        gdb.expect("print (char *) file->f_path.dentry->d_iname", "\"sysrq-trigger\"");
        gdb.expect("print *buf@2", "\"c\\n\"");
        gdb.expect("info args", "count = 2");
        gdb.run("delete");
        // A variable by its name: whoever wrote it last, and the one before.
        gdb.run("watch jiffies_64");
        let now = gdb.value("jiffies_64");
        gdb.expect("reverse-continue", "Hardware watchpoint");
        assert!(gdb.value("jiffies_64") < now, "{}", gdb.transcript);
        gdb.expect("backtrace", " tick_");
        gdb.expect("continue", "Hardware watchpoint");
        assert_eq!(gdb.value("jiffies_64"), now);
        gdb.run("delete");
        gdb.run("watch panic_timeout");
        let stop = gdb.expect("reverse-continue", "Old value = -1");
        assert!(stop.contains("New value = 0"), "the command line says panic=-1: {stop}");
        gdb.expect("backtrace", "parse_args (");
        gdb.run("delete");
        // gdb takes a read for a write where the value is another than it knows.
        gdb.run("stepi");
        gdb.expect("print panic_timeout", "= -1");
        gdb.run("rwatch panic_timeout");
        gdb.expect("continue", "Value = -1");
        gdb.expect("info symbol $pc", "panic");
        gdb.run("delete");
        gdb.run("break panic");
        gdb.run(&format!("monitor goto {}", left.panic));
        gdb.look_again();
    }

    /// Who put the return address there? The call, one instruction ago.
    fn last_write(&self, gdb: &mut Gdb, left: &Left) {
        let Names { word, sp, .. } = *self.names();
        assert_eq!(gdb.position(), left.panic);
        let said = gdb.run(&format!("monitor last-write {:#x} 4", left.stack));
        assert!(said.contains(&(left.panic - 1).to_string()), "{said}");
        assert_eq!(gdb.position(), left.panic, "it stays");
        gdb.run("delete");
        gdb.run(&format!("watch -l *({word} *) {sp}"));
        gdb.expect("reverse-continue", "Hardware watchpoint");
        assert_eq!(gdb.position(), left.panic - 1);
        gdb.expect("x/i $pc", "call");
        gdb.run("delete");
        gdb.run("break panic");
        gdb.expect("continue", ", ");
        assert_eq!(gdb.position(), left.panic);
    }

    /// `^C` on the way, and what gdb calls hardware, backwards and forwards.
    fn interrupted_and_hardware(&self, gdb: &mut Gdb, left: &Left) {
        let Names { word, sp, word_bytes, .. } = *self.names();
        gdb.run("delete");
        gdb.expect("monitor goto start", "position 0, ");
        gdb.look_again();
        gdb.interrupted("continue");
        let stopped = gdb.position();
        assert!(0 < stopped && stopped < left.panic, "{stopped}");
        gdb.run(&format!("monitor goto {}", left.panic));
        gdb.look_again();
        gdb.expect("hbreak vfs_write", "Hardware assisted breakpoint");
        gdb.expect("reverse-continue", "Breakpoint ");
        gdb.expect("info symbol $pc", "vfs_write");
        assert!(gdb.position() < left.panic);
        // Where it pushes next.
        let stack = gdb.value(sp);
        gdb.expect(&format!("awatch -l *({word} *) ({stack} - {word_bytes})"), "watchpoint");
        gdb.expect("continue", "Hardware access (read/write) watchpoint");
        assert!(gdb.position() < left.panic);
        gdb.run("delete");
        gdb.run("break panic");
        gdb.expect("continue", ", ");
        assert_eq!(gdb.position(), left.panic);
    }

    fn refusals(&self, gdb: &mut Gdb) {
        let Names { word, sp, third, .. } = *self.names();
        let before = gdb.value(third);
        gdb.expect(&format!("print {third} = 0x7777"), "`monitor branch`");
        assert_eq!(gdb.value(third), before);
        gdb.expect(&format!("set var *({word} *) {sp} = 1"), "Cannot access memory");
        // The reason stands in front of what it shows next.
        gdb.expect("monitor position", "`monitor branch`");
        gdb.look_again();
    }

    /// `monitor` commands, as they answer in a replay.
    fn replay_words(&self, gdb: &mut Gdb, left: &Left) {
        let Names { word, sp, .. } = *self.names();
        let panic = left.panic;
        gdb.expect(&format!("monitor goto {panic}"), &format!("position {panic}, at 0x"));
        gdb.look_again();
        gdb.expect("monitor mark crash", &format!("crash is position {panic}"));
        gdb.expect("monitor goto -777", &format!("position {}, ", panic - 777));
        gdb.expect("monitor checkpoint", &format!("position {}", panic - 777));
        gdb.expect("monitor goto crash", &format!("position {panic}, "));
        gdb.expect("monitor marks", "  crash\n");
        gdb.expect("monitor info", "a replay: it runs backwards too");
        // The letters that were typed.
        gdb.expect("monitor events start 5", "COM1: echo hello-live");
        gdb.expect("monitor pace 1000", "pace 1000");
        gdb.expect("monitor halt_delay 0", "pace 0");
        gdb.expect("monitor help", "last-write");
        gdb.run("monitor stopat 5");
        gdb.run("monitor stopat off");
        // A branch can be written to, and leaves the recording as it is.
        gdb.expect("monitor branch", "branch");
        gdb.look_again();
        gdb.run(&format!("set var *({word} *) {sp} = 0x1234"));
        assert_eq!(gdb.value(&format!("*({word} *) {sp}")), 0x1234);
        gdb.expect(&format!("monitor goto {panic}"), &format!("position {panic}, "));
        gdb.look_again();
        assert_ne!(gdb.value(&format!("*({word} *) {sp}")), 0x1234);
    }

    /// gdb knows the kernel's functions, where address-space randomization has put them.
    fn symbols(&self, gdb: &mut Gdb) {
        let banner = format!("Linux version {} ", self.release());
        if self.vmlinux.is_some() {
            gdb.expect("print (char *) linux_banner", &banner);
        } else {
            gdb.expect("info files", "Symbols from \"target:/kernel\"");
        }
        // What the kernel's own table says.
        let own = gdb.run("monitor symbol vfs_write");
        let gdbs = gdb.value("&vfs_write");
        assert!(own.contains(&format!("{gdbs:#x}")), "{own}: {}", gdb.transcript);
        gdb.expect("info threads", "* 1    Thread 1 \"cpu0\"");
    }

    fn breakpoints(&self, gdb: &mut Gdb, recorder: &mut Recorder) {
        let names = self.names();
        let condition = match self.vmlinux {
            Some(_) => format!("count == {WRITTEN_BYTES} && file->f_mode != 0"),
            None => format!("{} == {WRITTEN_BYTES}", names.third),
        };
        gdb.expect(&format!("break vfs_write if {condition}"), "Breakpoint 1 at");
        recorder.type_in(TYPED);
        gdb.expect("continue", "Breakpoint 1, ");
        gdb.expect("info breakpoints", "(target evals)");
        gdb.expect("info breakpoints", "already hit 1 time\n");
        gdb.expect(&format!("x/s {}", names.second), WRITTEN);
        assert_eq!(gdb.value(names.third), WRITTEN_BYTES);
    }

    /// From the first instruction of a function.
    fn stepping(&self, gdb: &mut Gdb) {
        let names = self.names();
        let (start, before) = (gdb.value(names.pc), gdb.position());
        let next = gdb.run("x/2i $pc");
        gdb.run("stepi");
        assert!(gdb.position() > before);
        let second = next.lines().nth(1).unwrap().trim();
        let after = gdb.value(names.pc);
        assert!(after > start && second.starts_with(&format!("{after:#x}")), "{}", gdb.transcript);
        gdb.expect("backtrace 2", "in ksys_write (");
    }

    /// Each kind of watchpoint, on the stack of the function that was entered: where it pushes next, and where it
    /// finds its way back.
    fn watching(&self, gdb: &mut Gdb) {
        let Names { pc, sp, word, word_bytes, .. } = *self.names();
        let entry = gdb.value("&vfs_write");
        let at = gdb.value(pc);
        // One instruction in: it may have pushed already.
        let pushed = gdb.value(sp);
        gdb.expect(&format!("awatch -l *({word} *) ({pushed} - {word_bytes})"), "watchpoint 2:");
        let stop = gdb.expect("continue", "Hardware access (read/write) watchpoint 2:");
        assert!(stop.contains("alue = "), "{stop}");
        assert_eq!(gdb.value(sp), pushed - word_bytes);
        gdb.run("delete 2");
        // Nobody's memory yet. gdb does not stop where a value is written over by itself.
        gdb.run(&format!("set var *({word} *) ({sp} - {word_bytes}) = 0x5a5a5a5a"));
        gdb.expect(
            &format!("watch -l *({word} *) ({sp} - {word_bytes})"),
            "Hardware watchpoint 3:",
        );
        gdb.expect("continue", "Old value = 1515870810");
        assert_eq!(gdb.value(sp), pushed - 2 * word_bytes);
        gdb.run("delete 3");
        let there = gdb.value(pc);
        assert!(entry < at && at < there && there < entry + 64, "{}", gdb.transcript);
        // What a function returns through is read once, at its end.
        let slot = if at == entry { pushed } else { self.return_slot(gdb) };
        let back = gdb.value(&format!("*(unsigned {word} *) {slot}"));
        gdb.expect(&format!("rwatch -l *({word} *) {slot}"), "Hardware read watchpoint 4:");
        gdb.expect("continue", "Hardware read watchpoint 4:");
        assert_eq!(gdb.value(pc), back, "{}", gdb.transcript);
        gdb.expect("info symbol $pc", "ksys_write + ");
        gdb.run("delete 4");
    }

    /// Where `ksys_write`'s address is on the stack, of `vfs_write` that has just begun.
    fn return_slot(&self, gdb: &mut Gdb) -> u64 {
        let Names { sp, word, word_bytes, .. } = *self.names();
        let stack = gdb.value(sp);
        let slots = (0..8).map(|number| stack + number * word_bytes);
        let mut holds = |slot: &u64| {
            gdb.run(&format!("info symbol *(unsigned {word} *) {slot}"))
                .starts_with("ksys_write + ")
        };
        slots.into_iter().find(|slot| holds(slot)).expect("it returns to ksys_write")
    }

    /// Whole functions, and with a vmlinux whole lines.
    fn functions(&self, gdb: &mut Gdb, recorder: &mut Recorder) {
        let names = self.names();
        gdb.run("delete");
        gdb.expect("hbreak ksys_write", "Hardware assisted breakpoint 5 at");
        recorder.type_in(TYPED);
        gdb.expect("continue", "Breakpoint 5, ");
        gdb.expect("info breakpoints", "hw breakpoint");
        if self.vmlinux.is_some() {
            let first = line(&gdb.run("frame"));
            gdb.run("next");
            gdb.expect("frame", "ksys_write (");
            let second = line(&gdb.run("frame"));
            assert_ne!(first, second, "{}", gdb.transcript);
            gdb.run("tbreak vfs_write");
            gdb.expect("continue", "vfs_write (");
            let entry = line(&gdb.run("frame"));
            gdb.run("until");
            assert!(line(&gdb.expect("frame", "vfs_write (")) > entry);
            gdb.expect("finish", "Value returned is $");
            gdb.expect("frame", "ksys_write (");
        } else {
            // Without lines a step is one out of the function: to its caller, or where gdb cannot tell a call (64-bit
            // kernels keep no frame pointers) into the next one.
            for command in ["step", "next"] {
                gdb.expect(command, "has no line number information");
                gdb.expect_not("info symbol $pc", "ksys_write");
                gdb.expect("continue", "Breakpoint 5, ");
            }
            // And `until` one to behind here.
            let here = gdb.value(names.pc);
            gdb.run("until");
            let there = gdb.value(names.pc);
            assert!(here < there && there < here + 16, "{}", gdb.transcript);
        }
        gdb.expect("continue", "Breakpoint 5, ");
        gdb.expect("finish", "Run till exit");
        gdb.expect("info symbol $pc", names.caller);
        gdb.run("delete");
        let stopped = gdb.interrupted("continue");
        assert!(stopped.contains("SIGINT"), "{stopped}");
    }

    /// What the CPU has beside the general registers.
    fn registers(&self, gdb: &mut Gdb) {
        let names = self.names();
        let long = names.word_bytes == 8;
        gdb.expect("info registers cr0", "[ PE ");
        gdb.expect("info registers cr0", " PG ]");
        gdb.expect("info registers cr4", " PAE ");
        gdb.expect("info registers efer", if long { "LME LMA NXE ]" } else { "NXE ]" });
        assert_eq!(gdb.value("$cs"), value(names.code));
        // Page directory pointers need 32 bytes (SDM vol. 3A, 4.4.1), the others a page.
        assert_eq!(gdb.value("$cr3") & if long { 0xfff } else { 0x1f }, 0);
        // The kernel's variables of this CPU lie behind GS on 64 bits, FS on 32.
        let (segment, base) = if long { ("gs", "$gs_base") } else { ("fs", "$fs_base") };
        let per_cpu = gdb.value(base);
        assert!(per_cpu != 0, "{}", gdb.transcript);
        gdb.expect(&format!("monitor r {segment}"), &format!("base {per_cpu:#x} "));
        gdb.expect("monitor r idtr", "idtr base=0xf");
        gdb.expect("info float", " 0x037f ");
        gdb.expect("info registers mxcsr", "0x1f80");
    }
}

/// What the live session writes to registers that hold nothing of the idle kernel's.
fn written_registers(gdb: &mut Gdb) {
    gdb.expect("print/x $xmm7.v4_int32[2]", "= 0x12345678");
    gdb.expect("print $st3", "= -2.5");
}

/// The line of source that `frame` shows.
fn line(frame: &str) -> u32 {
    let (_, rest) = frame.split_once(".c:").unwrap_or_else(|| panic!("no line in {frame}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

/// A file of `make images`.
pub fn fetched(name: &str) -> String {
    let path = dejavm_images::fetched(name).unwrap_or_else(|missing| panic!("{missing}"));
    path.to_str().unwrap().to_owned()
}

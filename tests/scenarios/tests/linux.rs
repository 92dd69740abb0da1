//! What introspection says of a Linux guest, against what the guest says of itself.

use dejavm_cpu::CpuState;
use dejavm_linux::{
    Confidence, GuestView, Kernel, Kernels, Layout, LinuxOffsets, Source, Space, Task,
};
use dejavm_machine::{Hardware, Input, Machine, MachineConfig, Output, Stop};
use dejavm_scenarios::{Debian, Kernel as Flavour, Random};
use dejavm_units::{Gpa, Gva, Position};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::process::Command;

/// Instructions between two looks at the console.
const SLICE: u64 = 2_000_003;
/// More than any of these guests takes to answer.
const PATIENCE: u64 = 12_000_000_000;

/// The 32-bit kernel's line: what `getlinuxoffsets headers` says of its headers, but for `fs`, which nothing uses there.
const PAE_LINE: &str =
    "0x601b0,0x3f0,0,0x3c8,0x584,0x454,0x8c0,0x1c,0x18,0,0x2000,0x478,0x4b0,0x10";

/// A guest at a shell prompt, driven by text.
struct Guest {
    machine: Machine,
    console: String,
    /// How much of the console was waited for.
    read: usize,
}

impl Guest {
    /// Boots to the prompt of the workload `idle`.
    fn at_prompt(flavour: Flavour) -> Guest {
        Guest::on(flavour, Hardware::default())
    }

    /// The same on a machine with more in it.
    fn on(flavour: Flavour, hardware: Hardware) -> Guest {
        let debian = Debian::new(flavour, "idle");
        let machine = debian.boot_on(&MachineConfig { hardware, ..debian.config() });
        let mut guest = Guest { machine, console: String::new(), read: 0 };
        guest.wait_for("guest# ");
        guest
    }

    /// Runs `instructions` more, and through idle time.
    fn run(&mut self, instructions: u64) {
        let until = Position(self.machine.position().0 + instructions);
        while self.machine.position() < until {
            match self.machine.run(until) {
                Stop::Limit => {}
                Stop::Idle { wake: Some(wake) } => {
                    self.machine.idle_until(wake);
                }
                stop => panic!("{stop:?}\n{}", self.console),
            }
            for output in self.machine.take_output() {
                if let Output::Serial { port: _, bytes } = output {
                    self.console.push_str(&String::from_utf8_lossy(&bytes).replace('\r', ""));
                }
            }
        }
    }

    /// Runs until the guest has printed `text`; returns what came before it.
    fn wait_for(&mut self, text: &str) -> String {
        let limit = self.machine.position().0 + PATIENCE;
        loop {
            if let Some(at) = self.console[self.read..].find(text) {
                let before = self.console[self.read..self.read + at].to_owned();
                self.read += at + text.len();
                return before;
            }
            assert!(self.machine.position().0 < limit, "no {text:?} in\n{}", self.console);
            self.run(SLICE);
        }
    }

    /// Types a command; returns what it prints until the next prompt.
    fn command(&mut self, line: &str) -> String {
        self.machine.apply(&Input::Serial { port: 0, bytes: format!("{line}\n").into_bytes() });
        self.wait_for("guest# ")
    }

    /// Name and state of every process, by pid, as `/proc` shows them.
    fn proc_stat(&mut self) -> BTreeMap<u32, (String, char)> {
        let text = self.command("cat /proc/[0-9]*/stat");
        let mut found = BTreeMap::new();
        for line in text.lines() {
            // 88 (idle) S 1 0 0 ...
            let Some((pid, rest)) = line.split_once(" (") else { continue };
            let (Ok(pid), Some((name, rest))) = (pid.parse(), rest.rsplit_once(") ")) else {
                continue;
            };
            found.insert(pid, (name.to_owned(), rest.chars().next().expect("a state")));
        }
        assert!(found.len() > 20, "{text}");
        found
    }
}

/// The tasks are those that the guest lists itself, give or take who came and went in between.
fn assert_same_tasks(tasks: &[Task], said: &BTreeMap<u32, (String, char)>) {
    let found: BTreeMap<u32, &Task> = tasks.iter().map(|task| (task.pid, task)).collect();
    assert_eq!(found.len(), tasks.len(), "no pid twice");
    for (pid, (name, state)) in said {
        // The `cat` that listed itself has ended.
        if name == "cat" {
            continue;
        }
        let task = found.get(pid).unwrap_or_else(|| panic!("{pid} ({name}) is missing"));
        // Workers say more about themselves in /proc than in their comm.
        assert!(name.starts_with(&task.comm), "{pid}: {name} {task:?}");
        assert!(
            task.comm.len() == 15 || name == &task.comm || name.starts_with("kworker"),
            "{pid}: {name} {task:?}"
        );
        assert_eq!(task.tgid, *pid, "{task:?}");
        assert!(task.state == *state || task.state == 'R' || *state == 'R', "{state} {task:?}");
    }
    for task in tasks {
        let known = said.contains_key(&task.pid) || task.pid == 0 || task.state == 'R';
        assert!(known, "/proc does not list {task:?}");
    }
}

fn named<'a>(tasks: &'a [Task], comm: &str) -> &'a Task {
    tasks.iter().find(|task| task.comm == comm).unwrap_or_else(|| panic!("no {comm} in {tasks:#?}"))
}

/// The user registers are those of a system call: the instruction before RIP enters the kernel. In the kernel it waits in the
/// scheduler.
fn assert_sleeper_is_in_a_system_call(view: &Machine, kernel: &Kernel, task: &Task) {
    let registers = kernel.task_registers(view, task);
    assert_eq!(registers.default_source(), Some(Source::User), "{registers:?}");
    let user = registers.user.unwrap();
    let space = kernel.space_of(view, task).unwrap();
    let entry: [u8; 2] = read(view, space, Gva(user.rip - 2));
    // SYSCALL; INT 0x80, which in the vDSO follows a SYSENTER and is where that returns to.
    assert!(entry == [0x0f, 0x05] || entry == [0xcd, 0x80], "{entry:x?} {user:x?}");
    // A fresh stack pointer: what it points to is mapped.
    let _: [u8; 4] = read(view, space, Gva(user.gpr[4].unwrap()));
    let frame = registers.kernel.unwrap();
    let symbol = kernel.symbols().unwrap().symbol_at(Gva(frame.rip)).unwrap();
    assert_eq!(symbol.name, "__schedule", "{frame:x?}");
    let state = kernel.task_state(view, task, Source::User).unwrap();
    assert_eq!((state.cpl, state.rip, state.gpr[4]), (3, user.rip, user.gpr[4].unwrap()));
    assert_eq!(state.cr3, task.user_pgd.unwrap().0);
}

fn read<const N: usize>(view: &Machine, space: Space, at: Gva) -> [u8; N] {
    let mut bytes = [0; N];
    let gpa = space.translate(view, at).unwrap_or_else(|| panic!("{at} is not mapped"));
    assert!(view.read_physical(gpa, &mut bytes));
    bytes
}

/// The product's line, printed and read again, gives the same tasks.
fn assert_line_of_offsets_suffices(view: &Machine, kernel: &Kernel, tasks: &[Task]) {
    let line =
        LinuxOffsets::of(kernel.layout(), kernel.facts().release.as_ref().unwrap()).to_string();
    let offsets: LinuxOffsets = line.parse().unwrap();
    let given =
        Kernel::with_offsets(view, &offsets).unwrap_or_else(|error| panic!("{line}: {error}"));
    assert_eq!(*given.confidence(), Confidence::Verified);
    assert_eq!(given.tasks(view).unwrap(), tasks, "{line}");
    println!("{line}");
    // A line that does not fit is refused, and does not harm.
    let wrong = LinuxOffsets { tasks: offsets.tasks + 8, ..offsets };
    let refused = Kernel::with_offsets(view, &wrong).unwrap_err().to_string();
    assert!(refused.starts_with("these offsets do not fit the guest's kernel"), "{refused}");
}

/// The ELF file made for debuggers says, by binutils' reading, what `/proc/kallsyms` says.
fn assert_symbol_file_is_the_guests(guest: &mut Guest, kernel: &Kernel) {
    let said = guest.command("grep -E ' (_text|panic|schedule|do_exit)$' /proc/kallsyms");
    let path = std::env::temp_dir().join(format!("dejavm-symbols-{}.elf", std::process::id()));
    std::fs::write(&path, kernel.symbol_file().unwrap()).unwrap();
    let nm = Command::new("nm").arg(&path).output().unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(nm.status.success() && nm.stderr.is_empty(), "{nm:?}");
    let listed = String::from_utf8(nm.stdout).unwrap();
    let lines: Vec<&str> = said.lines().filter(|line| line.split(' ').count() == 3).collect();
    assert!(lines.len() >= 4, "{said}");
    for line in lines {
        assert!(listed.lines().any(|other| other == line), "{line}");
    }
}

/// A machine, how much of its memory was read, and whether its kernel says to be another build of the same release.
struct Watched<'a> {
    machine: &'a Machine,
    bytes: Cell<usize>,
    other_build: bool,
}

impl GuestView for Watched<'_> {
    fn vcpus(&self) -> usize {
        1
    }

    fn cpu_state(&self, _vcpu: usize) -> CpuState {
        self.machine.cpu_state()
    }

    fn read_physical(&self, at: Gpa, into: &mut [u8]) -> bool {
        self.bytes.set(self.bytes.get() + into.len());
        let read = GuestView::read_physical(self.machine, at, into);
        if self.other_build {
            let (banner, other) = (b"(debian-kernel@", b"(dejavm-kernel@");
            for place in 0..into.len().saturating_sub(banner.len() - 1) {
                if into[place..].starts_with(banner) {
                    into[place..place + other.len()].copy_from_slice(other);
                }
            }
        }
        read
    }

    fn ram(&self) -> Vec<Range<u64>> {
        GuestView::ram(self.machine)
    }
}

/// A kernel that was found once is found again at a glance, and only that one.
fn assert_found_again_at_a_glance(machine: &Machine, kernel: &Kernel, tasks: &[Task]) {
    let mut kernels = Kernels::default();
    let mut look = |other_build| {
        let view = Watched { machine, bytes: Cell::new(0), other_build };
        let found = kernels.find(&view).unwrap();
        assert_eq!(*found.confidence(), Confidence::Verified);
        assert_eq!((found.layout(), found.slide()), (kernel.layout(), kernel.slide()));
        assert_eq!(found.tasks(machine).unwrap(), tasks);
        assert_eq!(kernels.symbol_file(&found).as_deref(), kernel.symbol_file().as_ref());
        (view.bytes.get(), found.facts().banner.clone().unwrap())
    };
    let (first, again) = (look(false), look(false));
    println!("found by {} bytes, again by {}", first.0, again.0);
    assert!(again.0 < first.0 / 10, "{} and {} bytes were read", first.0, again.0);
    assert_eq!(again.1, first.1);
    // The same place, another build: nothing is taken over.
    let other = look(true);
    assert!(other.0 > first.0 / 2, "{} bytes were read", other.0);
    assert!(other.1.contains("(dejavm-kernel@"), "{}", other.1);
}

fn tasks_are_the_guests(flavour: Flavour, word: u64) -> Kernel {
    let mut guest = Guest::at_prompt(flavour);
    guest.command("sleep 1000 &");
    let said = guest.proc_stat();
    let release = guest.command("uname -r");
    let kernel = Kernel::find(&guest.machine).unwrap();
    assert_eq!(*kernel.confidence(), Confidence::Verified);
    assert!(release.contains(kernel.facts().release.as_ref().unwrap()), "{release}");
    assert_eq!(kernel.layout().pointer_bytes, word);
    let tasks = kernel.tasks(&guest.machine).unwrap();
    assert_same_tasks(&tasks, &said);
    assert_eq!(tasks[0].pid, 0);
    assert!(!named(&tasks, "sleep").kernel_thread && named(&tasks, "kthreadd").kernel_thread);
    assert_sleeper_is_in_a_system_call(&guest.machine, &kernel, named(&tasks, "sleep"));
    assert_line_of_offsets_suffices(&guest.machine, &kernel, &tasks);
    let running: Vec<&Task> = tasks.iter().filter(|task| task.running == Some(0)).collect();
    assert_eq!(running.len(), 1);
    assert_eq!(kernel.current(&guest.machine), [Some(running[0].address)]);
    assert_found_again_at_a_glance(&guest.machine, &kernel, &tasks);
    assert_symbol_file_is_the_guests(&mut guest, &kernel);

    // A loop in user mode, and who it is.
    guest.command("(while :; do :; done) & echo LOOP $!");
    let pid: u32 =
        guest.console.rsplit_once("LOOP ").unwrap().1.lines().next().unwrap().parse().unwrap();
    let mut seen_in_user_mode = 0;
    for _ in 0..20 {
        guest.run(SLICE);
        let tasks = kernel.tasks(&guest.machine).unwrap();
        let running = tasks.iter().find(|task| task.running == Some(0)).expect("somebody runs");
        let cpu = guest.machine.cpu_state();
        if cpu.cpl == 3 {
            assert_eq!(running.pid, pid, "{running:?}");
            // The base of the top table: 32-byte aligned with PAE.
            let mask = if word == 4 { 0xffff_ffe0 } else { 0xf_ffff_ffff_f000 };
            assert_eq!(running.user_pgd.unwrap().0, cpu.cr3 & mask);
            seen_in_user_mode += 1;
        }
    }
    assert!(seen_in_user_mode > 10);
    kernel
}

#[test]
fn tasks_of_the_cloud_kernel() {
    tasks_are_the_guests(Flavour::Cloud, 8);
}

#[test]
fn tasks_of_the_generic_kernel() {
    tasks_are_the_guests(Flavour::Generic, 8);
}

/// No types, and symbols of functions only: all is recognized by what tasks must satisfy. What the kernel's headers give for
/// this kernel: `tools/getlinuxoffsets headers`.
#[test]
fn tasks_of_the_32_bit_kernel() {
    let kernel = tasks_are_the_guests(Flavour::Pae, 4);
    assert_eq!(LinuxOffsets::of(kernel.layout(), "6.1.176").to_string(), PAE_LINE);
    let layout = kernel.layout();
    assert_eq!((layout.state, layout.stack, layout.flags), (Some(0x10), Some(0x14), Some(0x1c)));
    assert_eq!(layout.thread_sp, Some(0x1c));
}

/// A machine whose kernel has lost its type information.
struct WithoutTypes<'a>(&'a Machine);

impl GuestView for WithoutTypes<'_> {
    fn vcpus(&self) -> usize {
        1
    }

    fn cpu_state(&self, _vcpu: usize) -> CpuState {
        self.0.cpu_state()
    }

    fn read_physical(&self, at: Gpa, into: &mut [u8]) -> bool {
        let read = GuestView::read_physical(self.0, at, into);
        // BTF's magic and version.
        let magic = [0x9f, 0xeb, 1, 0];
        for place in 0..into.len().saturating_sub(magic.len() - 1) {
            if into[place..place + magic.len()] == magic {
                into[place] = 0;
            }
        }
        read
    }

    fn ram(&self) -> Vec<Range<u64>> {
        GuestView::ram(self.0)
    }
}

/// What is recognized in a kernel that tells nothing is what a kernel that tells all says of itself; and looking again at
/// other positions does not change it.
#[test]
fn correlation_finds_what_the_types_say() {
    let mut guest = Guest::at_prompt(Flavour::Cloud);
    guest.command("sleep 1000 &");
    let told = Kernel::find(&guest.machine).unwrap().layout().clone();
    let mut kernel = Kernel::find(&WithoutTypes(&guest.machine)).unwrap();
    for position in 0..4 {
        assert_eq!(*kernel.confidence(), Confidence::Verified, "{position}");
        let found = kernel.layout();
        assert_eq!(found.cpu, None, "it was not told");
        let both = |layout: &Layout| {
            let Layout {
                tasks, pid, tgid, comm, mm, active_mm, state, stack, group_leader, ..
            } = layout;
            let Layout { thread_group, thread, thread_sp, thread_sp0, pgd, thread_size, .. } =
                layout;
            [
                tasks,
                pid,
                tgid,
                comm,
                mm,
                active_mm,
                state,
                stack,
                group_leader,
                thread_group,
                thread,
                thread_sp,
                thread_sp0,
                pgd,
                thread_size,
            ]
            .map(|offset| *offset)
        };
        assert_eq!(both(found), both(&told), "{position}");
        assert!(found.flags.is_none_or(|flags| Some(flags) == told.flags), "{position}");
        let with_types = Kernel::find(&guest.machine).unwrap().tasks(&guest.machine).unwrap();
        let without = kernel.tasks(&guest.machine).unwrap();
        let who = |tasks: &[Task]| -> Vec<(Gva, u32, u32, String)> {
            tasks
                .iter()
                .map(|task| (task.address, task.pid, task.tgid, task.comm.clone()))
                .collect()
        };
        assert_eq!(who(&without), who(&with_types), "{position}");
        guest.command("(while :; do :; done) & ls -l /proc >/dev/null");
        guest.run(SLICE * (1 + position));
        kernel.observe(&WithoutTypes(&guest.machine)).unwrap();
    }
}

/// Memory of which some of what is read comes back changed, the same way each time.
struct Corrupted<'a> {
    machine: &'a Machine,
    seed: u64,
    /// One of this many pieces of 64 bytes is damaged.
    rarity: u64,
}

impl GuestView for Corrupted<'_> {
    fn vcpus(&self) -> usize {
        1
    }

    fn cpu_state(&self, _vcpu: usize) -> CpuState {
        self.machine.cpu_state()
    }

    fn read_physical(&self, at: Gpa, into: &mut [u8]) -> bool {
        if !GuestView::read_physical(self.machine, at, into) {
            return false;
        }
        for (offset, byte) in into.iter_mut().enumerate() {
            let address = at.0 + offset as u64;
            let mut random = Random::new(self.seed ^ (address >> 6));
            if random.below(self.rarity) == 0 {
                *byte ^= (random.next_u64() >> (address % 8 * 8)) as u8;
            }
        }
        true
    }

    fn ram(&self) -> Vec<Range<u64>> {
        GuestView::ram(self.machine)
    }
}

/// From the first instruction to the prompt there is an answer at every position; then from damaged memory too.
#[test]
fn every_stage_of_a_boot_and_damaged_memory() {
    let mut guest = Guest {
        machine: Debian::new(Flavour::Cloud, "idle").boot(),
        console: String::new(),
        read: 0,
    };
    let (mut verified, mut partial, mut none) = (0, 0, 0);
    while !guest.console.contains("guest# ") {
        match Kernel::find(&guest.machine) {
            Ok(kernel) if *kernel.confidence() == Confidence::Verified => verified += 1,
            Ok(kernel) => {
                assert_eq!(verified, 0, "what was verified stays so: {}", kernel.confidence());
                partial += 1;
            }
            Err(reason) => {
                assert_eq!(verified + partial, 0, "a kernel that was found is not lost: {reason}");
                none += 1;
            }
        }
        guest.run(50_000_000);
    }
    assert!(none > 0 && verified > 0, "{none} {partial} {verified}");
    println!("none {none}, partial {partial}, verified {verified}");
    for seed in 0..8 {
        println!("seed {seed}");
        let rarity = 1 << (4 + seed * 2);
        let view = Corrupted { machine: &guest.machine, seed, rarity };
        if let Ok(mut kernel) = Kernel::find(&view) {
            let _ = kernel.observe(&view);
            for task in kernel.tasks(&view).unwrap_or_default() {
                let _ = kernel.task_registers(&view, &task);
            }
        }
        // What was learnt from sound memory, over the damaged one.
        let kernel = Kernel::find(&guest.machine).unwrap();
        for task in kernel.tasks(&view).unwrap_or_default() {
            let _ = kernel.task_registers(&view, &task);
        }
    }
}

/// Nothing is taken for settled too early: until the first process has memory of its own, `mm` cannot be told; where the
/// kernel is verified, it is laid out as it is.
#[test]
fn every_stage_of_a_32_bit_boot() {
    let mut guest = Guest {
        machine: Debian::new(Flavour::Pae, "idle").boot(),
        console: String::new(),
        read: 0,
    };
    let mut learnt: Option<Kernel> = None;
    let (mut at_prompt, mut observations) = (0, 0);
    while at_prompt < 3 {
        if guest.console.contains("guest# ") {
            at_prompt += 1;
            guest.run(SLICE);
        } else {
            guest.run(100_000_000);
        }
        let Ok(kernel) = Kernel::find(&guest.machine) else {
            assert!(learnt.is_none(), "a kernel that was found is not lost");
            continue;
        };
        if *kernel.confidence() == Confidence::Verified {
            assert_eq!(LinuxOffsets::of(kernel.layout(), "6.1.176").to_string(), PAE_LINE);
        }
        // The same, learning all the way.
        let learnt = learnt.get_or_insert(kernel);
        observations += 1;
        match learnt.observe(&guest.machine) {
            Ok(()) => {
                assert_eq!(LinuxOffsets::of(learnt.layout(), "6.1.176").to_string(), PAE_LINE)
            }
            Err(reason) => println!("{}: {reason}", guest.machine.position()),
        }
    }
    let learnt = learnt.unwrap();
    assert!(observations > 5, "{observations}");
    assert_eq!(*learnt.confidence(), Confidence::Verified);
    assert_eq!(LinuxOffsets::of(learnt.layout(), "6.1.176").to_string(), PAE_LINE);
}

/// A loop on each of four CPUs: the guest has them all, and each is seen to run a task of its own.
#[test]
fn tasks_on_four_cpus() {
    let mut guest = Guest::on(Flavour::Cloud, Hardware { processors: 4, ..Hardware::default() });
    let said = guest.command("nproc; grep -c ^processor /proc/cpuinfo");
    assert!(said.contains("4\n4\n"), "{said}");
    guest.command("for i in 1 2 3 4; do (while :; do :; done) & done");
    guest.run(200_000_000);
    let kernel = Kernel::find(&guest.machine).unwrap();
    let (mut in_user_mode, mut on_all) = (0, 0);
    for _ in 0..20 {
        guest.run(SLICE);
        let tasks = kernel.tasks(&guest.machine).unwrap();
        let current = kernel.current(&guest.machine);
        assert_eq!(current.len(), 4);
        let running: Vec<&Task> = (0..4)
            .map(|cpu| tasks.iter().find(|task| task.running == Some(cpu)).expect("somebody"))
            .collect();
        for (cpu, task) in running.iter().enumerate() {
            assert_eq!(current[cpu], Some(task.address));
            let state = guest.machine.processor_state(cpu);
            if state.cpl == 3 {
                assert_eq!(task.user_pgd.unwrap().0, state.cr3 & 0xf_ffff_ffff_f000);
                in_user_mode += 1;
            }
        }
        on_all += usize::from(running.iter().all(|task| task.comm == "sh"));
    }
    assert!(in_user_mode > 40 && on_all > 10, "{in_user_mode} {on_all}");
}

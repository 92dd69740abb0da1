//! Two machines in lock-step: what must not differ whatever executes, compared as a recording is replayed.
//!
//! [`Lockstep`] is a [`Guest`] made of two machines, so the replayer drives both. CPU and chips are compared
//! every so many instructions, the pages written and their contents wherever the recording has a digest.
//! At a difference both stand still; [`narrow`] then runs fresh copies from where all was equal, to the
//! first position that shows it.

use dejavm_cpu::{CpuState, Tuning};
use dejavm_machine::{
    End, Idle, Input, Machine, MachineConfig, MachineState, Output, RestoreError, Stop,
};
use dejavm_memory::GuestRam;
use dejavm_replay::Guest;
use dejavm_units::{GuestNs, PAGE_SIZE, Pfn, Position};
use std::collections::BTreeSet;

/// Lines of a difference that are kept.
const LINES_MAX: usize = 24;

/// A mistake of the second machine, to test that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// The lowest bit of RBX is inverted at a position.
    Register(Position),
    /// So is the lowest bit of the byte that the stack pointer points to, or else of the first of RAM.
    Memory(Position),
}

impl Mistake {
    fn at(self) -> Position {
        match self {
            Mistake::Register(at) | Mistake::Memory(at) => at,
        }
    }

    fn make(self, machine: &mut Machine) {
        match self {
            Mistake::Register(_) => {
                let mut state = machine.save();
                state.cpu.gpr[dejavm_cpu::gpr::RBX] ^= 1;
                machine.restore(&state).expect("a register may have any value");
            }
            Mistake::Memory(_) => {
                let stack = dejavm_units::Gva(machine.cpu_state().gpr[dejavm_cpu::gpr::RSP]);
                let gpa = machine.translate(stack, None).unwrap_or_default();
                let mut byte = [0];
                if machine.ram().read(gpa, &mut byte).is_ok() {
                    let _ = machine.ram_mut().write(gpa, &[byte[0] ^ 1]);
                }
            }
        }
    }
}

/// Where two machines differ.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Here both were equal, as far as was compared.
    pub since: Position,
    /// Here they are not.
    pub at: Position,
    /// It is RAM that differs, compared more seldom than the rest.
    pub memory: bool,
    /// What, for people: one field a line, first machine first.
    pub what: Vec<String>,
}

/// What two machines are.
#[derive(Clone, Copy, Debug)]
pub struct LockstepOptions {
    /// The two ways to execute.
    pub tunings: [Tuning; 2],
    /// Instructions between comparisons of CPU and chips, not zero.
    pub step: u64,
    /// From here on RAM is compared as often.
    pub memory_from: Option<Position>,
    /// For tests.
    pub mistake: Option<Mistake>,
}

/// Two machines that run side by side.
pub struct Lockstep {
    machines: [Machine; 2],
    options: LockstepOptions,
    /// Here CPU and chips, and RAM, were found equal last.
    equal: Position,
    memory_equal: Position,
    /// Pages that were written and compared, since they were last asked for.
    dirty: BTreeSet<Pfn>,
    output: Vec<Output>,
    comparisons: u64,
    difference: Option<Difference>,
}

/// A copy of a machine, with RAM of its own.
pub fn copy_of(config: &MachineConfig, machine: &Machine) -> Result<Machine, RestoreError> {
    let mut copy = Machine::from_state(config, &machine.save())?;
    let zero = [0; PAGE_SIZE as usize];
    let mut page = zero;
    for pfn in machine.ram().all_pages() {
        machine.ram().read_page(pfn, &mut page).expect("`all_pages` lists them");
        if page != zero {
            copy.ram_mut().write_page(pfn, &page).expect("it has the same pages");
        }
    }
    copy.ram_mut().take_dirty();
    Ok(copy)
}

impl Lockstep {
    /// Two of a machine that is in its start state.
    ///
    /// # Errors
    /// The host has no memory for the second.
    pub fn new(
        config: &MachineConfig,
        mut machine: Machine,
        options: LockstepOptions,
    ) -> Result<Lockstep, RestoreError> {
        assert!(options.step > 0, "a step is at least one instruction");
        machine.ram_mut().take_dirty();
        let mut machines = [copy_of(config, &machine)?, machine];
        for (machine, tuning) in machines.iter_mut().zip(options.tunings) {
            machine.set_tuning(tuning);
        }
        let start = machines[0].position();
        Ok(Lockstep {
            machines,
            options,
            equal: start,
            memory_equal: start,
            dirty: BTreeSet::new(),
            output: Vec::new(),
            comparisons: 0,
            difference: None,
        })
    }

    /// The difference that was found, if any was.
    pub fn difference(&self) -> Option<&Difference> {
        self.difference.as_ref()
    }

    /// How often CPU and chips were compared.
    pub fn comparisons(&self) -> u64 {
        self.comparisons
    }

    fn differ(&mut self, since: Position, memory: bool, what: Vec<String>) {
        let at = self.machines[0].position();
        self.difference.get_or_insert(Difference { since, at, memory, what });
    }

    /// Compares all but RAM.
    fn compare(&mut self, stops: [Stop; 2]) {
        self.comparisons += 1;
        let states = self.machines.each_ref().map(Machine::save);
        let [left, right] = self.machines.each_mut().map(Machine::take_output);
        let mut what = Vec::new();
        if states[0] != states[1] {
            what = differences(&states[0], &states[1]);
        }
        if stops[0] != stops[1] {
            what.push(format!("the run ended with {:?} or {:?}", stops[0], stops[1]));
        }
        if left != right {
            what.push(format!("output: {left:?} or {right:?}"));
        }
        self.output.extend(left);
        if what.is_empty() {
            self.equal = self.machines[0].position();
        } else {
            self.differ(self.equal, false, what);
        }
    }

    /// Compares the pages that were written since the last time.
    fn compare_memory(&mut self) {
        let dirty = self.machines.each_mut().map(|machine| machine.ram_mut().take_dirty());
        let what = memory_differences(&self.machines, &dirty);
        self.dirty.extend(&dirty[0]);
        if what.is_empty() {
            self.memory_equal = self.machines[0].position();
        } else {
            self.differ(self.memory_equal, true, what);
        }
    }

    fn step(&mut self, until: Position) -> Stop {
        let [left, right] = &mut self.machines;
        let stops = [left.run(until), run_with_mistake(right, until, self.options.mistake)];
        self.compare(stops);
        let here = self.machines[0].position();
        if self.options.memory_from.is_some_and(|from| here >= from) {
            self.compare_memory();
        }
        stops[0]
    }
}

/// Runs, and makes the mistake if it lies on the way.
fn run_with_mistake(machine: &mut Machine, until: Position, mistake: Option<Mistake>) -> Stop {
    if let Some(mistake) = mistake
        && (machine.position().0 + 1..=until.0).contains(&mistake.at().0)
    {
        let stop = machine.run(mistake.at());
        if machine.position() != mistake.at() {
            return stop;
        }
        mistake.make(machine);
    }
    machine.run(until)
}

impl Guest for Lockstep {
    type State = MachineState;

    fn position(&self) -> Position {
        self.machines[0].position()
    }
    fn guest_ns(&self) -> GuestNs {
        self.machines[0].guest_ns()
    }
    fn run(&mut self, until: Position) -> Stop {
        loop {
            if self.difference.is_some() {
                // They have no future in common.
                return Stop::End(End::Livelock);
            }
            let here = self.position();
            let next = Position(here.0.saturating_add(self.options.step)).min(until);
            let stop = self.step(next);
            if stop != Stop::Limit || next >= until {
                return stop;
            }
        }
    }
    fn idle_until(&mut self, limit: GuestNs) -> Idle {
        let [left, right] = self.machines.each_mut().map(|machine| machine.idle_until(limit));
        if left != right {
            self.differ(self.equal, false, vec![format!("waiting: {left:?} or {right:?}")]);
        }
        left
    }
    fn apply(&mut self, input: &Input) {
        self.machines.iter_mut().for_each(|machine| machine.apply(input));
    }
    fn deliveries(&self) -> u32 {
        self.machines[0].deliveries()
    }
    fn take_output(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.output)
    }
    fn save(&self) -> MachineState {
        self.machines[0].save()
    }
    fn ram(&self) -> &GuestRam {
        self.machines[0].ram()
    }
    fn ram_mut(&mut self) -> &mut GuestRam {
        self.machines[0].ram_mut()
    }
    fn take_dirty(&mut self) -> Vec<Pfn> {
        self.compare_memory();
        std::mem::take(&mut self.dirty).into_iter().collect()
    }
}

/// How the pages differ that two machines wrote.
fn memory_differences(machines: &[Machine; 2], dirty: &[Vec<Pfn>; 2]) -> Vec<String> {
    let mut what = Vec::new();
    for (n, which) in ["first", "second"].into_iter().enumerate() {
        let other = &dirty[1 - n];
        for pfn in dirty[n].iter().filter(|pfn| other.binary_search(pfn).is_err()) {
            what.push(format!("only the {which} wrote the page at {}", pfn.gpa()));
        }
    }
    let mut pages = [[0; PAGE_SIZE as usize]; 2];
    for pfn in dirty[0].iter().chain(&dirty[1]) {
        for (page, machine) in pages.iter_mut().zip(machines) {
            machine.ram().read(pfn.gpa(), page).expect("a page that was written is RAM");
        }
        if let Some(n) = (0..pages[0].len()).find(|&n| pages[0][n] != pages[1][n]) {
            let at = pfn.gpa().wrapping_add(n as u64);
            what.push(format!("RAM at {at}: {:#04x} or {:#04x}", pages[0][n], pages[1][n]));
        }
        if what.len() > LINES_MAX {
            break;
        }
    }
    what.truncate(LINES_MAX);
    what
}

/// The fields in which two states differ, one a line.
fn differences(left: &MachineState, right: &MachineState) -> Vec<String> {
    let mut lines = register_differences(&left.cpu, &right.cpu);
    let (left, right) = (format!("{left:#x?}"), format!("{right:#x?}"));
    let mut context: Vec<&str> = Vec::new();
    for (left, right) in left.lines().zip(right.lines()) {
        let depth = left.len() - left.trim_start().len();
        context.retain(|line| line.len() - line.trim_start().len() < depth);
        let place: Vec<&str> = context
            .iter()
            .map(|line| line.trim().trim_end_matches([' ', '{', '[', '(', ':']))
            .collect();
        let place = place.join(".");
        let is_named = ["gpr", "rip", "rflags"].iter().any(|name| {
            place.contains(&format!("cpu: CpuState.{name}"))
                || place.ends_with("CpuState") && left.trim().starts_with(name)
        });
        if left != right && !is_named {
            lines.push(format!("{place}: {} or {}", left.trim(), right.trim()));
        }
        context.push(left);
    }
    lines.truncate(LINES_MAX);
    lines
}

fn register_differences(left: &CpuState, right: &CpuState) -> Vec<String> {
    const NAMES: [&str; 16] = [
        "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",
        "r13", "r14", "r15",
    ];
    let named = NAMES
        .into_iter()
        .zip(left.gpr.into_iter().zip(right.gpr))
        .chain([("rip", (left.rip, right.rip)), ("rflags", (left.rflags, right.rflags))]);
    named
        .filter(|(_, (left, right))| left != right)
        .map(|(name, (left, right))| format!("{name}: {left:#x} or {right:#x}"))
        .collect()
}

/// Where a difference begins.
#[derive(Clone, Debug)]
pub struct Narrowed {
    /// The first position at which it shows.
    pub at: Position,
    /// How, there.
    pub what: Vec<String>,
}

/// Runs copies of `machine`, which stands at `difference.since`, to ever nearer positions until the first is
/// found that shows a difference; `None` if it does not show again. No input may enter on the way.
///
/// # Errors
/// The host has no memory for the copies.
pub fn narrow(
    config: &MachineConfig,
    machine: &Machine,
    difference: &Difference,
    options: &LockstepOptions,
) -> Result<Option<Narrowed>, RestoreError> {
    let differ_at = |at: u64| -> Result<Vec<String>, RestoreError> {
        let mut machines = [copy_of(config, machine)?, copy_of(config, machine)?];
        for (machine, tuning) in machines.iter_mut().zip(options.tunings) {
            machine.set_tuning(tuning);
        }
        let [left, right] = &mut machines;
        advance(left, Position(at), None);
        advance(right, Position(at), options.mistake);
        let states = machines.each_ref().map(Machine::save);
        let mut what = Vec::new();
        if states[0] != states[1] {
            what = differences(&states[0], &states[1]);
        }
        let dirty = machines.each_mut().map(|machine| machine.ram_mut().take_dirty());
        what.extend(memory_differences(&machines, &dirty));
        Ok(what)
    };
    let (mut same, mut different) = (difference.since.0, difference.at.0);
    let mut what = differ_at(different)?;
    if what.is_empty() {
        return Ok(None);
    }
    while different - same > 1 {
        let middle = same + (different - same) / 2;
        let found = differ_at(middle)?;
        if found.is_empty() {
            same = middle;
        } else {
            (different, what) = (middle, found);
        }
    }
    Ok(Some(Narrowed { at: Position(different), what }))
}

/// Runs to a position, letting time pass where the machine waits for a timer.
pub fn advance(machine: &mut Machine, until: Position, mistake: Option<Mistake>) {
    while machine.position() < until {
        match run_with_mistake(machine, until, mistake) {
            Stop::Idle { wake: Some(wake) } => {
                let (Idle::Runnable | Idle::Waiting) = machine.idle_until(wake);
            }
            Stop::Limit
            | Stop::Idle { wake: None }
            | Stop::End(_)
            | Stop::Breakpoint { .. }
            | Stop::Watchpoint { .. } => return,
        }
    }
}

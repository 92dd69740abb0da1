//! The two machines, how they run and where they differ.

use crate::disassembly;
use dejavm_cpu::{SegReg, Tuning, control, gpr};
use dejavm_machine::{
    Boot, Breakpoint, Idle, Machine, MachineConfig, MachineState, Output, Stop, Stops, WatchKind,
    Watchpoint,
};
use dejavm_memory::RamLayout;
use dejavm_units::{Gpa, GuestNs, Gva, PAGE_SIZE, Pfn, Position};

/// Instructions between comparisons of RAM.
const RAM_INTERVAL: u64 = 3_000_000;
/// Instructions between comparisons of CPU and chips, at most.
const STATE_INTERVAL_MAX: u64 = 20_000;
/// Guest time after which a machine that waits is taken to wait for an input.
const PATIENCE_NS: u64 = 5_000_000_000;
/// Instructions shown before a difference: more than a decoded block has.
const SHOWN: u64 = 40;

/// xorshift64: reproducible distances.
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

/// How far a comparison came.
#[derive(Debug)]
pub struct Report {
    /// Where it stopped.
    pub position: Position,
    /// The machine ended, or waits for what never comes.
    pub ended: bool,
    /// How often the second machine was stopped by a breakpoint or watchpoint.
    pub stops: u64,
}

/// A state of both machines that was found equal.
struct Equal {
    state: MachineState,
    /// Its RAM, page by page; `None` for zeros.
    ram: Vec<Option<Box<[u8; PAGE_SIZE as usize]>>>,
}

/// Two machines with one past, and what distinguishes them.
pub struct Twins {
    config: MachineConfig,
    machines: [Machine; 2],
    tunings: [Tuning; 2],
    random: Random,
    /// Where RAM was last compared.
    equal: Equal,
    /// The last comparison of CPU and chips.
    last: Position,
    /// The second machine gets breakpoints and watchpoints, others after each comparison.
    has_stops: bool,
    stops: Stops,
    met: u64,
}

/// The machine's configuration with `mib` MiB of RAM.
pub fn configuration(mib: u64) -> MachineConfig {
    MachineConfig::new(RamLayout::new(mib << 20).expect("a possible size of RAM"))
}

/// Runs to `until`, past all stops, which are counted, letting time jump whenever the machine waits;
/// `false` if it ended before.
fn advance(machine: &mut Machine, until: Position, met: &mut u64) -> bool {
    loop {
        match machine.run(until) {
            Stop::Limit => return true,
            Stop::Idle { wake: None } | Stop::End(_) => return false,
            Stop::Idle { wake: Some(_) } => {
                let patience = GuestNs(machine.guest_ns().0.saturating_add(PATIENCE_NS));
                while machine.idle_until(patience) == Idle::Waiting {
                    if machine.guest_ns() >= patience {
                        return false;
                    }
                }
                if machine.position() >= until {
                    return true;
                }
            }
            Stop::Breakpoint { .. } | Stop::Watchpoint { .. } => *met += 1,
        }
    }
}

/// Stops near what a machine executes and accesses now: the next instructions, return addresses on the
/// stack, what registers point to.
fn nearby_stops(machine: &Machine, random: &mut Random) -> Stops {
    let state = machine.cpu_state();
    let space = |random: &mut Random| (random.below(2) == 0).then_some(Gpa(state.cr3));
    let mut stops = Stops::default();
    let rip = state.seg[SegReg::Cs as usize].base.wrapping_add(state.rip);
    let mut stack = [0; 512];
    let read = machine.read_virtual(Gva(state.gpr[gpr::RSP]), None, &mut stack);
    for word in stack[..read].chunks_exact(8) {
        let word = u64::from_le_bytes(word.try_into().expect("chunks of eight"));
        let word = if state.efer & control::EFER_LMA != 0 { word } else { word & 0xffff_ffff };
        if random.below(4) == 0 && machine.translate(Gva(word), None).is_some() {
            stops.breakpoints.push(Breakpoint { at: Gva(word), space: space(random) });
        }
    }
    for _ in 0..random.below(4) {
        let at = Gva(rip.wrapping_add(random.below(64)));
        stops.breakpoints.push(Breakpoint { at, space: space(random) });
    }
    for _ in 0..random.below(4) {
        let register = state.gpr[random.below(16) as usize];
        let kinds = [WatchKind::Write, WatchKind::Read, WatchKind::Access];
        stops.watchpoints.push(Watchpoint {
            start: Gva(register.wrapping_sub(random.below(128))),
            bytes: [1, 4, 8, 100, 5000][random.below(5) as usize],
            kind: kinds[random.below(3) as usize],
            space: space(random),
        });
    }
    stops
}

fn page(machine: &Machine, pfn: Pfn) -> Box<[u8; PAGE_SIZE as usize]> {
    let mut bytes = Box::new([0; PAGE_SIZE as usize]);
    machine.ram().read(pfn.gpa(), &mut bytes[..]).expect("the page is RAM");
    bytes
}

impl Twins {
    /// Boots an image twice.
    pub fn boot(mib: u64, boot: &Boot<'_>, tunings: [Tuning; 2], seed: u64) -> Twins {
        let config = configuration(mib);
        let machine = Machine::boot(&config, boot).expect("the image boots");
        Twins::from_machine(&config, machine, tunings, seed)
    }

    /// Goes on from a machine: with it, and with a copy of it.
    pub fn from_machine(
        config: &MachineConfig,
        mut machine: Machine,
        tunings: [Tuning; 2],
        seed: u64,
    ) -> Twins {
        println!("lock-step seed {seed:#x}: {tunings:?} from {}", machine.position().0);
        machine.take_output();
        let last = machine.position();
        let mut equal = Equal { state: machine.save(), ram: Vec::new() };
        let pages: Vec<Pfn> = machine.ram().pages().collect();
        equal.note(&machine, &pages);
        machine.set_tuning(tunings[0]);
        machine.ram_mut().take_dirty();
        let copy = equal.machine(config, tunings[1]);
        let mut twins = Twins {
            config: config.clone(),
            machines: [machine, copy],
            tunings,
            random: Random::new(seed),
            equal,
            last,
            has_stops: false,
            stops: Stops::default(),
            met: 0,
        };
        twins.machines[1].ram_mut().take_dirty();
        twins
    }

    /// The second machine will be stopped now and then, and go on.
    #[must_use]
    pub fn with_stops(mut self) -> Twins {
        self.has_stops = true;
        self
    }

    /// Runs both for `instructions` more, or to their end, comparing.
    ///
    /// # Panics
    /// If they differ; prints where.
    pub fn run(&mut self, instructions: u64) -> Report {
        let end = self.last.0.saturating_add(instructions);
        let mut next_ram = self.last.0.saturating_add(RAM_INTERVAL);
        loop {
            let distance = 1 + self.random.below(STATE_INTERVAL_MAX);
            let until = Position(self.last.0.saturating_add(distance).min(end));
            if self.has_stops {
                self.stops = nearby_stops(&self.machines[1], &mut self.random);
                self.machines[1].set_stops(&self.stops);
            }
            let met = &mut self.met;
            let goes_on = self.machines.each_mut().map(|machine| advance(machine, until, met));
            let outputs = self.machines.each_mut().map(Machine::take_output);
            let states = self.machines.each_ref().map(Machine::save);
            if states[0] != states[1] || goes_on[0] != goes_on[1] || outputs[0] != outputs[1] {
                self.explain(until, &states, &outputs);
            }
            let at = states[0].cpu.position;
            let ended = !goes_on[0];
            if ended || at.0 >= next_ram || at.0 >= end {
                next_ram = at.0.saturating_add(RAM_INTERVAL);
                self.compare_ram(&states[0]);
            }
            self.last = at;
            if ended || at.0 >= end {
                return Report { position: at, ended, stops: self.met };
            }
        }
    }

    /// The machines, to go on without comparing.
    pub fn into_machines(mut self) -> [Machine; 2] {
        self.machines[1].set_stops(&Stops::default());
        self.machines
    }

    fn compare_ram(&mut self, state: &MachineState) {
        let dirty = self.machines.each_mut().map(|machine| machine.ram_mut().take_dirty());
        if dirty[0] != dirty[1] {
            let only = |n: usize| {
                let other = &dirty[1 - n];
                dirty[n].iter().filter(|pfn| !other.contains(pfn)).collect::<Vec<_>>()
            };
            let (left, right) = (only(0), only(1));
            let at = self.bisect_ram();
            panic!(
                "dirty pages differ between {} and {}: only left {left:?}, only right {right:?}; {at}",
                self.equal.state.cpu.position.0, state.cpu.position.0
            );
        }
        for &pfn in &dirty[0] {
            let pages = self.machines.each_ref().map(|machine| page(machine, pfn));
            if pages[0] != pages[1] {
                let byte = (0..pages[0].len()).find(|&n| pages[0][n] != pages[1][n]);
                let at = self.bisect_ram();
                panic!(
                    "RAM differs between {} and {}: {pfn:?}, byte {byte:x?}; {at}",
                    self.equal.state.cpu.position.0, state.cpu.position.0
                );
            }
        }
        self.equal.note(&self.machines[0], &dirty[0]);
        self.equal.state = state.clone();
    }

    /// Two machines run from where RAM was last equal to `until` in one go each.
    fn again(&self, until: u64) -> [Machine; 2] {
        let mut machines = self.tunings.map(|tuning| self.equal.machine(&self.config, tuning));
        machines[1].set_stops(&self.stops);
        for machine in &mut machines {
            machine.ram_mut().take_dirty();
            advance(machine, Position(until), &mut 0);
        }
        machines
    }

    /// The first position in a range at which the machines show a difference when run again.
    fn first(&self, from: u64, to: u64, differ: impl Fn(&mut [Machine; 2]) -> bool) -> Option<u64> {
        if !differ(&mut self.again(to)) {
            return None;
        }
        let (mut same, mut different) = (from, to);
        while different - same > 1 {
            let middle = same + (different - same) / 2;
            if differ(&mut self.again(middle)) {
                different = middle;
            } else {
                same = middle;
            }
        }
        Some(different)
    }

    fn bisect_ram(&self) -> String {
        let from = self.equal.state.cpu.position.0;
        let to = self.machines[0].position().0;
        let found = self.first(from, to, |machines| {
            let dirty = machines.each_mut().map(|machine| machine.ram_mut().take_dirty());
            dirty[0] != dirty[1]
                || dirty[0].iter().any(|&pfn| page(&machines[0], pfn) != page(&machines[1], pfn))
        });
        match found {
            None => "not when run again from there".to_string(),
            Some(at) => {
                self.list_instructions(from, at);
                format!("first at {at}")
            }
        }
    }

    fn explain(
        &self,
        until: Position,
        states: &[MachineState; 2],
        outputs: &[Vec<Output>; 2],
    ) -> ! {
        println!("difference between {} and {}:", self.last.0, until.0);
        print_differences(&states[0], &states[1]);
        if outputs[0] != outputs[1] {
            println!("output: {:?}\n     or {:?}", outputs[0], outputs[1]);
        }
        let from = self.equal.state.cpu.position.0;
        let differ = |machines: &mut [Machine; 2]| machines[0].save() != machines[1].save();
        match self.first(self.last.0.max(from), until.0, differ) {
            None => println!("not when run again from {from}"),
            Some(at) => {
                println!("run again from {from}, first at {at}:");
                let [left, right] = self.again(at);
                print_differences(&left.save(), &right.save());
                self.list_instructions(from, at);
            }
        }
        panic!("the machines differ between {} and {}", self.last.0, until.0);
    }

    /// Prints the instructions before a position, as the second machine runs them.
    fn list_instructions(&self, from: u64, at: u64) {
        let mut position = at.saturating_sub(SHOWN).max(from);
        let [_, mut machine] = self.again(position);
        while position < at {
            println!("{}", disassembly::current(&machine));
            position += 1;
            advance(&mut machine, Position(position), &mut 0);
        }
    }
}

/// Prints the lines in which two states' descriptions differ.
fn print_differences(left: &MachineState, right: &MachineState) {
    let (left, right) = (format!("{left:#x?}"), format!("{right:#x?}"));
    let mut context: Vec<&str> = Vec::new();
    for (left, right) in left.lines().zip(right.lines()) {
        let depth = left.len() - left.trim_start().len();
        context.retain(|line| line.len() - line.trim_start().len() < depth);
        if left != right {
            let place: Vec<&str> = context.iter().map(|line| line.trim()).collect();
            println!("  {}: {} or {}", place.join(" "), left.trim(), right.trim());
        }
        context.push(left);
    }
}

impl Equal {
    /// Takes over pages of a machine.
    fn note(&mut self, machine: &Machine, pages: &[Pfn]) {
        for &pfn in pages {
            let index = pfn.0 as usize;
            if self.ram.len() <= index {
                self.ram.resize_with(index + 1, || None);
            }
            let bytes = page(machine, pfn);
            self.ram[index] = bytes.iter().any(|&byte| byte != 0).then_some(bytes);
        }
    }

    /// A machine in this state.
    fn machine(&self, config: &MachineConfig, tuning: Tuning) -> Machine {
        let mut machine = Machine::from_state(config, &self.state).expect("the state is ours");
        for (index, bytes) in self.ram.iter().enumerate() {
            if let Some(bytes) = bytes {
                let gpa = Pfn(index as u64).gpa();
                machine.ram_mut().write(gpa, &bytes[..]).expect("the page is RAM");
            }
        }
        machine.set_tuning(tuning);
        machine
    }
}

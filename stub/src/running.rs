//! Running the machine as the debugger wants it: steps, ranges of instructions, forwards and backwards.

use crate::breakpoints::{Kind, View, space};
use crate::bridge::Bridge;
use crate::packet::number;
use crate::target::{Direction, Inspect, Refusal, Resume, Stopped, Vcpu};
use dejavm_cpu::{Breakpoint, CpuState, SegReg, Stops, WatchKind, gpr};
use dejavm_units::{Gpa, Gva, Position};

/// What the debugger wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Continue,
    Step,
    /// Steps while the instruction pointer is in `start..end`.
    StepWithin {
        start: u64,
        end: u64,
    },
    ContinueBack,
    StepBack,
}

impl Wish {
    /// Reads the actions of `vCont`. The whole machine runs, so one that steps decides: what it says, and of which thread (nothing:
    /// of none).
    pub(crate) fn of_actions(text: &[u8]) -> Option<(Wish, &[u8])> {
        let mut wish = None;
        for action in text.split(|byte| *byte == b';') {
            let mut parts = action.splitn(2, |byte| *byte == b':');
            let (action, thread) = (parts.next()?, parts.next().unwrap_or_default());
            let this = match action.split_first()? {
                (b'c' | b't', []) => Wish::Continue,
                (b'C', signal) if number(signal).is_some() => Wish::Continue,
                (b's', []) => Wish::Step,
                (b'S', signal) if number(signal).is_some() => Wish::Step,
                (b'r', range) => {
                    let mut ends = range.split(|byte| *byte == b',').map(number);
                    let (start, end) = (ends.next()??, ends.next()??);
                    Wish::StepWithin { start, end }
                }
                _ => return None,
            };
            if wish.is_none_or(|(wish, _)| wish == Wish::Continue) {
                wish = Some((this, thread));
            }
        }
        wish
    }
}

/// Why the machine stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It has done what it was asked, or there is nothing more precise to say.
    Stepped,
    Software,
    Hardware,
    Written(Gva),
    Read(Gva),
    Accessed(Gva),
    LogBegins,
    LogEnds,
    Interrupted,
}

/// A stop, as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Halt {
    pub(crate) why: Why,
    /// For the user; may be empty.
    pub(crate) note: String,
}

impl Halt {
    fn plain(why: Why) -> Halt {
        Halt { why, note: String::new() }
    }
}

/// How many steps are done between two looks at the client.
const STEPS_UNATTENDED: u32 = 256;

/// The linear address of the next instruction.
pub(crate) fn linear_instruction_pointer(state: &CpuState) -> Gva {
    let cs = &state.seg[SegReg::Cs as usize];
    let long = state.efer & 1 << 10 != 0 && cs.rights.is_long();
    let at = cs.base.wrapping_add(state.rip);
    Gva(if long { state.rip } else { at & 0xffff_ffff })
}

impl Bridge<'_> {
    /// Does it. `at_once`: the user wants to stop already.
    pub(crate) fn run(&mut self, wish: Wish, at_once: bool) -> Halt {
        self.stepped = None;
        if at_once {
            return Halt::plain(Why::Interrupted);
        }
        let result = match wish {
            Wish::Continue => self.go(Direction::Forward),
            Wish::ContinueBack => self.go(Direction::Backward),
            Wish::Step => self.step(),
            Wish::StepBack => self.step_back(),
            Wish::StepWithin { start, end } => self.step_within(start, end),
        };
        result.unwrap_or_else(|refusal| Halt {
            why: Why::Stepped,
            note: format!("dejavm: {refusal}\n"),
        })
    }

    /// The virtual CPU that steps are of.
    fn stepping(&self) -> Vcpu {
        let on_cpu = self.view().filter(|view| view.on_cpu);
        on_cpu.map_or(self.target.inspect().current_vcpu(), |view| view.vcpu)
    }

    fn is_current(&self, vcpu: Vcpu) -> bool {
        self.target.inspect().current_vcpu() == vcpu
    }

    /// To the next stop.
    fn go(&mut self, direction: Direction) -> Result<Halt, Refusal> {
        let now = self.target.inspect().position();
        let stops = self.points.stops();
        let until = self.stop_at.filter(|at| match direction {
            Direction::Forward => *at > now,
            Direction::Backward => *at < now,
        });
        let (points, layout) = (&self.points, self.layout);
        let mut met = Kind::Software;
        let mut judge = |machine: &dyn Inspect, stopped: &Stopped| match stopped {
            Stopped::Breakpoint { at } => {
                let kind = points.judge(*at, &mut View::new(machine, layout));
                met = kind.unwrap_or(met);
                kind.is_some()
            }
            _ => true,
        };
        let resume = Resume { direction, until, stops: &stops };
        let stopped = self.target.resume(&resume, &mut judge, &mut *self.interrupted)?;
        Ok(self.halt(stopped, &stops, met))
    }

    /// What a stop is called.
    fn halt(&mut self, stopped: Stopped, stops: &Stops, met: Kind) -> Halt {
        let why = match stopped {
            Stopped::Breakpoint { .. } => match met {
                Kind::Hardware => Why::Hardware,
                Kind::Software | Kind::Write | Kind::Read | Kind::Access => Why::Software,
            },
            Stopped::Watchpoint { index, address, kind: _ } => {
                match stops.watchpoints.get(index).map(|watch| watch.kind) {
                    Some(WatchKind::Write) => Why::Written(address),
                    Some(WatchKind::Read) => Why::Read(address),
                    Some(WatchKind::Access) | None => Why::Accessed(address),
                }
            }
            Stopped::Until => {
                let at = self.target.inspect().position();
                if self.stop_at == Some(at) {
                    self.stop_at = None;
                    let note = format!("dejavm: position {at}\n");
                    return Halt { why: Why::Stepped, note };
                }
                Why::Stepped
            }
            Stopped::Start => Why::LogBegins,
            Stopped::End(how) => {
                let replay = self.target.capabilities().replay;
                let why = if replay { Why::LogEnds } else { Why::Stepped };
                return Halt { why, note: format!("dejavm: {how}\n") };
            }
            Stopped::Interrupted => Why::Interrupted,
        };
        Halt::plain(why)
    }

    /// One position on; only watchpoints stop it on the way.
    fn step_plainly(&mut self, direction: Direction) -> Result<(Stopped, Stops), Refusal> {
        let now = self.target.inspect().position();
        let mut stops = self.points.stops();
        stops.breakpoints.clear();
        let until = match direction {
            Direction::Forward => {
                let stopped = self.target.step(&stops, &mut *self.interrupted)?;
                return Ok((stopped, stops));
            }
            Direction::Backward if now <= self.target.extent().0 => {
                return Ok((Stopped::Start, stops));
            }
            Direction::Backward => Position(now.0.saturating_sub(1)),
        };
        let resume = Resume { direction, until: Some(until), stops: &stops };
        let stopped = self.target.resume(&resume, &mut |_, _| true, &mut *self.interrupted)?;
        Ok((stopped, stops))
    }

    fn step_back(&mut self) -> Result<Halt, Refusal> {
        let (stopped, stops) = self.step_plainly(Direction::Backward)?;
        Ok(self.halt(stopped, &stops, Kind::Software))
    }

    /// One instruction forwards; of a thread that is on no CPU, to where it is on one again. Interrupts that come right behind it are run through, as if the
    /// machine took none while it is stepped, unless the user wants to see them.
    fn step(&mut self) -> Result<Halt, Refusal> {
        if let Some(crate::threads::View { on_cpu: false, registers, space, vcpu: _ }) = self.view()
        {
            // A task that does not run: to where it goes on, in its own memory or on its own kernel stack.
            let back = (linear_instruction_pointer(&registers), registers.gpr[gpr::RSP]);
            return self.until_back(None, back, space.filter(|_| registers.cpl == 3));
        }
        let vcpu = self.stepping();
        let mut before = self.target.inspect().registers(vcpu);
        if !self.is_current(vcpu) {
            // To where its turn comes, and it goes on from here.
            let back = (linear_instruction_pointer(&before), before.gpr[gpr::RSP]);
            let halt = self.until_back(Some(vcpu), back, Some(space(&before)))?;
            if halt != Halt::plain(Why::Stepped) || !self.is_current(vcpu) {
                return Ok(halt);
            }
            before = self.target.inspect().registers(vcpu);
        }
        if before.halted && self.skip_interrupts {
            // To where HLT lets the program go on.
            let back = (linear_instruction_pointer(&before), before.gpr[gpr::RSP]);
            return self.until_back(Some(vcpu), back, Some(space(&before)));
        }
        let (stopped, stops) = self.step_plainly(Direction::Forward)?;
        if stopped == Stopped::Until {
            self.stepped = Some(vcpu);
        }
        if stopped == Stopped::Until && self.skip_interrupts {
            let after = self.target.inspect().registers(vcpu);
            // Where another's turn has come, what was delivered was delivered to that.
            if after.deliveries > 0
                && self.is_current(vcpu)
                && let Some(back) = self.interrupted_at(vcpu, &before, &after, 0)
            {
                return self.until_back(Some(vcpu), back, Some(space(&after)));
            }
            let here = (linear_instruction_pointer(&before), before.gpr[gpr::RSP]);
            if self.interrupted_first(vcpu, &before, &after, here) {
                let halt = self.until_back(Some(vcpu), here, Some(space(&before)))?;
                // Only one key after the other can make this happen again.
                return if halt == Halt::plain(Why::Stepped) { self.step() } else { Ok(halt) };
            }
        }
        Ok(self.halt(stopped, &stops, Kind::Software))
    }

    /// What was stepped is not the instruction at `here`, but a handler's first: something entered the machine when it went
    /// on, such as a key, and its interrupt was taken first. The instruction itself is still to come.
    fn interrupted_first(
        &self,
        vcpu: Vcpu,
        before: &CpuState,
        after: &CpuState,
        here: (Gva, u64),
    ) -> bool {
        /// `pusha`, and an error code of the handler's own.
        const PUSHED_MAX: u64 = 9;
        let enabled = before.rflags & 1 << 9 != 0;
        enabled
            && self.began_external_handler(vcpu, after)
            && (0..=PUSHED_MAX)
                .any(|slot| self.interrupted_at(vcpu, before, after, slot) == Some(here))
    }

    /// The CPU is one instruction into the handler of an interrupt of a device: vectors below 32 are the CPU's own.
    fn began_external_handler(&self, vcpu: Vcpu, state: &CpuState) -> bool {
        const INSTRUCTION_BYTES_MAX: u64 = 15;
        let machine = self.target.inspect();
        let gate_bytes = if state.efer & 1 << 10 != 0 { 16 } else { 8 };
        let mut table = vec![0; usize::from(state.idtr.limit.min(0xfff)) + 1];
        let at = Gva(state.idtr.base);
        let length = machine.read_virtual(vcpu, at, None, &mut table);
        let gates = table.get(..length).unwrap_or_default().chunks_exact(gate_bytes);
        gates.skip(32).any(|gate| {
            let half = |at: usize| u64::from(u16::from_le_bytes([gate[at], gate[at + 1]]));
            let mut handler = half(0) | half(6) << 16;
            if gate_bytes == 16 {
                handler |= (half(8) | half(10) << 16) << 32;
            }
            let present = gate[5] & 0x80 != 0;
            let into = state.rip.wrapping_sub(handler);
            present && (1..=INSTRUCTION_BYTES_MAX).contains(&into)
        })
    }

    /// Where the interrupt that was just taken returns to: linear address and stack pointer, from what
    /// the CPU pushed (SDM vol. 3A, figures 6-4 and 6-9). `above`: words that lie on that by now.
    fn interrupted_at(
        &self,
        vcpu: Vcpu,
        before: &CpuState,
        after: &CpuState,
        above: u64,
    ) -> Option<(Gva, u64)> {
        let machine = self.target.inspect();
        let long = after.efer & 1 << 10 != 0;
        let ss = &after.seg[SegReg::Ss as usize];
        let width: u64 = if long { 8 } else { 4 };
        let sp = after.gpr[gpr::RSP].wrapping_add(above * width);
        let slot = |number: u64| {
            let base = if long { 0 } else { ss.base };
            let at = Gva(base.wrapping_add(sp).wrapping_add(number * width));
            let mut bytes = [0; 8];
            let into = bytes.get_mut(..width as usize)?;
            (machine.read_virtual(vcpu, at, None, into) == into.len())
                .then(|| u64::from_le_bytes(bytes))
        };
        let real = after.cr0 & 1 == 0;
        if real || !long && after.rflags & 1 << 17 != 0 {
            return None;
        }
        let saved = slot(0)?;
        let base = before.seg[SegReg::Cs as usize].base;
        let ring = slot(1)? & 3;
        let stack = match (long, ring == u64::from(after.cpl)) {
            (true, _) | (false, false) => slot(3)?,
            (false, true) => sp.wrapping_add(12) & 0xffff_ffff,
        };
        Some((Gva(if long { saved } else { base.wrapping_add(saved) & 0xffff_ffff }), stack))
    }

    /// Runs until the program is at an address with a stack pointer, on a virtual CPU if one is named, or anything else stops it.
    fn until_back(
        &mut self,
        vcpu: Option<Vcpu>,
        back: (Gva, u64),
        space: Option<Gpa>,
    ) -> Result<Halt, Refusal> {
        let (at, stack) = back;
        let mut stops = self.points.stops();
        let here = Breakpoint { at, space };
        stops.breakpoints.push(here);
        let (points, layout) = (&self.points, self.layout);
        let mut met = None;
        let mut judge = |machine: &dyn Inspect, stopped: &Stopped| match stopped {
            Stopped::Breakpoint { at: stopped } => {
                let mut view = View::new(machine, layout);
                let is_its = vcpu.is_none_or(|vcpu| vcpu == machine.current_vcpu());
                let is_back = is_its && *stopped == at && view.registers().gpr[gpr::RSP] == stack;
                met = if is_back { None } else { points.judge(*stopped, &mut view) };
                is_back || met.is_some()
            }
            _ => true,
        };
        let resume = Resume { direction: Direction::Forward, until: None, stops: &stops };
        let stopped = self.target.resume(&resume, &mut judge, &mut *self.interrupted)?;
        let (Stopped::Breakpoint { .. }, None) = (&stopped, met) else {
            return Ok(self.halt(stopped, &stops, met.unwrap_or(Kind::Software)));
        };
        Ok(Halt::plain(Why::Stepped))
    }

    /// `vCont;r`: gdb's `step` and `next` over a line, without a round trip for each instruction.
    fn step_within(&mut self, start: u64, end: u64) -> Result<Halt, Refusal> {
        let stops = self.points.stops();
        let mut unattended = 0;
        let vcpu = self.stepping();
        loop {
            let halt = self.step()?;
            let state = self.target.inspect().registers(vcpu);
            if halt != Halt::plain(Why::Stepped) || !(start..end).contains(&state.rip) {
                return Ok(halt);
            }
            let at = linear_instruction_pointer(&state);
            if stops.breakpoints.iter().any(|point| point.at == at) {
                let mut view = View::new(self.target.inspect(), self.layout);
                if let Some(kind) = self.points.judge(at, &mut view) {
                    return Ok(self.halt(Stopped::Breakpoint { at }, &stops, kind));
                }
            }
            unattended += 1;
            if unattended % STEPS_UNATTENDED == 0 && (self.interrupted)() {
                return Ok(Halt::plain(Why::Interrupted));
            }
        }
    }
}

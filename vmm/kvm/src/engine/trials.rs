//! What this host's KVM does beyond running guests, found out by guests of a few instructions: whether single steps and breakpoints stop
//! them, in the kernel's ring and in programs', and whether a counter of branches counts exactly while it interrupts.

use super::KvmEngine;
use crate::error::KvmError;
use crate::exits::Exit;
use crate::guest_debug::{Kind, Stops};
use crate::host::Host;
use crate::nobody::Nobody;
use crate::pmu::{Branches, HostCounter, Pmu, PmuError};
use crate::registers;
use dejavm_cpu::{
    Cpu, CpuState, Model, Rights, SegReg, Segment, TableRegister, control, gpr, rflags,
};
use dejavm_memory::{GuestRam, RamLayout};
use dejavm_units::{Gpa, Gva, Position};
use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

const RAM_BYTES: u64 = 2 << 20;
const CODE: u64 = 0x1_0000;
const STACK: u64 = 0x2_0000;
const TABLES: [(u64, u64); 3] = [(0x1000, 0x2067), (0x2000, 0x3067), (0x3000, 0xe7)];
const GDT: u64 = 0x4000;
/// Null, then code and data of ring 0, then of ring 3, all flat, accessed (SDM vol. 3A, 3.4.5).
const DESCRIPTORS: [u64; 5] =
    [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00af_fb00_0000_ffff, 0x00cf_f300_0000_ffff];
/// `nop; nop; nop; nop; jmp $`
const NOPS: [u8; 6] = [0x90, 0x90, 0x90, 0x90, 0xeb, 0xfe];
/// A guest that is not stopped goes on for ever: it is kicked after that much processor time.
const PATIENCE: Duration = Duration::from_millis(100);

/// Where code runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// CPL 0.
    Kernel,
    /// CPL 3.
    Programs,
}

/// What is to stop it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopping {
    /// After each instruction.
    Steps,
    /// Before an instruction, by the debug registers.
    Breakpoints,
}

impl KvmEngine {
    /// Tries whether guests can be stopped so, in 64-bit code.
    ///
    /// # Errors
    /// What happens instead, as the end of a sentence.
    pub fn try_stopping(&mut self, ring: Ring, stopping: Stopping) -> Result<(), String> {
        let sentence = |error: KvmError| error.to_string();
        let (mut cpu, mut ram) = self.prepare(&NOPS, ring, 0).map_err(sentence)?;
        self.kicker.arm(PATIENCE, PATIENCE).map_err(sentence)?;
        let tried = match stopping {
            Stopping::Steps => self.try_steps(&mut cpu, &mut ram),
            Stopping::Breakpoints => self.try_breakpoints(&mut cpu, &mut ram),
        };
        self.kicker.disarm();
        self.stop_at(Stops::default()).map_err(sentence)?;
        tried
    }

    fn try_steps(&mut self, cpu: &mut Cpu, ram: &mut GuestRam) -> Result<(), String> {
        for n in 1..=3 {
            self.stop_at(Stops { step: true, ..Stops::default() })
                .map_err(|error| error.to_string())?;
            self.expect_stop(cpu, ram, CODE + n)?;
        }
        Ok(())
    }

    fn try_breakpoints(&mut self, cpu: &mut Cpu, ram: &mut GuestRam) -> Result<(), String> {
        let sentence = |error: KvmError| error.to_string();
        let mut stops = Stops::default();
        stops.breakpoints[0] = Some((Gva(CODE + 2), Kind::Execute));
        stops.breakpoints[1] = Some((Gva(CODE + 4), Kind::Execute));
        self.stop_at(stops).map_err(sentence)?;
        self.expect_stop(cpu, ram, CODE + 2)?;
        // Passed with RF, as the landing does.
        let refused = |error: kvm_ioctls::Error| error.to_string();
        let mut regs = self.vcpu.get_regs().map_err(refused)?;
        regs.rflags |= rflags::RF;
        self.vcpu.set_regs(&regs).map_err(refused)?;
        self.expect_stop(cpu, ram, CODE + 4)
            .map_err(|why| format!("once it has stopped one, {why}"))
    }

    fn expect_stop(&mut self, cpu: &mut Cpu, ram: &mut GuestRam, at: u64) -> Result<(), String> {
        let exit = self.enter(cpu, ram, &mut Nobody, Position(0), false);
        let stopped = match exit.map_err(|error| error.to_string())? {
            Exit::Debug { .. } => self.vcpu.get_regs().map_err(|error| error.to_string())?.rip,
            Exit::Kicked => return Err("the guest goes on".to_owned()),
            Exit::Shutdown => return Err("the guest gets the exception itself".to_owned()),
            Exit::CannotEmulate => return Err("KVM cannot execute the guest".to_owned()),
            Exit::Failed(what) => return Err(what),
            Exit::Done | Exit::Window | Exit::Halt => {
                return Err("the guest does something else".to_owned());
            }
        };
        match stopped == at {
            true => Ok(()),
            false if stopped == at.wrapping_sub(2) => Err("it stops it there again".to_owned()),
            false => Err(format!("it stops {} bytes from where it should", stopped.abs_diff(at))),
        }
    }

    /// A guest of this code, in 64-bit mode, with a value for RCX.
    fn prepare(&mut self, code: &[u8], ring: Ring, rcx: u64) -> Result<(Cpu, GuestRam), KvmError> {
        let layout = RamLayout::new(RAM_BYTES).expect("a size that can be");
        let mut ram = GuestRam::new(layout)
            .map_err(|error| KvmError::Entry(format!("no memory for a guest: {error}")))?;
        let mut poke = |at, bytes: &[u8]| ram.write(Gpa(at), bytes).expect("there is RAM");
        for (at, entry) in TABLES {
            poke(at, &entry.to_le_bytes());
        }
        for (at, descriptor) in (GDT..).step_by(8).zip(DESCRIPTORS) {
            poke(at, &descriptor.to_le_bytes());
        }
        poke(CODE, code);
        let (cs, data, cpl) = match ring {
            Ring::Kernel => ((0x08, 0xa9b), (0x10, 0xc93), 0),
            Ring::Programs => ((0x1b, 0xafb), (0x23, 0xcf3), 3),
        };
        let flat = |(selector, rights)| Segment {
            selector,
            base: 0,
            limit: u32::MAX,
            rights: Rights(rights),
        };
        let mut state = CpuState::reset();
        state.cr0 |= control::CR0_PE | control::CR0_PG | control::CR0_NE | control::CR0_MP;
        state.cr4 = control::CR4_PAE | control::CR4_OSFXSR;
        state.efer = control::EFER_LME | control::EFER_LMA;
        state.cr3 = TABLES[0].0;
        state.seg = [flat(data); 6];
        state.seg[SegReg::Cs as usize] = flat(cs);
        state.cpl = cpl;
        state.gdtr = TableRegister { base: GDT, limit: 8 * DESCRIPTORS.len() as u16 - 1 };
        // An exception that comes to the guest ends it.
        state.idtr = TableRegister { base: 0, limit: 0 };
        state.rip = CODE;
        state.gpr[gpr::RSP] = STACK;
        state.gpr[gpr::RCX] = rcx;
        let mut cpu = Cpu::new(self.model, 0);
        cpu.set_state(&state);
        self.slots.bind(&self.vm, &mut ram)?;
        let board = self.board(&mut Nobody, Position(0));
        registers::load(&self.vcpu, &state, &board)?;
        Ok((cpu, ram))
    }
}

/// How a counter is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrialPlan {
    /// Times that the guest runs.
    pub runs: u32,
    /// Conditional branches that it executes each time.
    pub branches: u32,
    /// It is interrupted after so many, again and again.
    pub period: NonZeroU64,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// As planned.
    pub plan: TrialPlan,
    /// Runs with a wrong count.
    pub wrong: u32,
    /// The largest error.
    pub worst: u64,
    /// Interruptions that came before they were due: not the counter's.
    pub early: u64,
    /// Branches that the counter's interruptions came late, ascending.
    pub skids: Vec<u64>,
}

impl Trial {
    /// Whether it is a clock.
    pub fn is_exact(&self) -> bool {
        self.wrong == 0
    }

    /// So many of a thousand interruptions were not later than that.
    pub fn skid(&self, of_a_thousand: usize) -> Option<u64> {
        let last = self.skids.len().checked_sub(1)?;
        self.skids.get(last * of_a_thousand.min(1000) / 1000).copied()
    }
}

impl fmt::Display for Trial {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Trial { plan: TrialPlan { runs, branches, period: _ }, wrong, worst, skids, .. } = self;
        match wrong {
            0 => write!(out, "exact in {runs} runs of {branches} branches")?,
            _ => write!(
                out,
                "wrong in {wrong} of {runs} runs of {branches} branches, by up to {worst}: it is not used"
            )?,
        }
        let at = |of_a_thousand| self.skid(of_a_thousand).unwrap_or(0);
        match skids.len() {
            0 => write!(out, "; it did not interrupt them"),
            n => write!(
                out,
                "; {n} interrupts, late by {} branches at the median, {} for 99 of 100, {} at most",
                at(500),
                at(990),
                at(1000)
            ),
        }
    }
}

/// Why there is no clock of branches to use.
#[derive(Debug, thiserror::Error)]
pub enum NoClock {
    /// The host has none.
    #[error(transparent)]
    Counter(#[from] PmuError),
    /// The guest that was to show it did not run.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// It does not count exactly.
    #[error("{0}")]
    Inexact(Trial),
}

impl KvmEngine {
    /// Tries whether a counter counts guests' branches exactly while it interrupts them.
    ///
    /// # Errors
    /// If the guest does not run, or the counter cannot be had.
    pub fn try_counter(
        host: &Host,
        model: Model,
        counter: Box<dyn Branches>,
        plan: TrialPlan,
    ) -> Result<Trial, NoClock> {
        let mut engine = KvmEngine::new_unchecked(host, model, 0)?.with_clock(counter);
        let mut trial = Trial { plan, wrong: 0, worst: 0, early: 0, skids: Vec::new() };
        for _ in 0..plan.runs {
            engine.try_run(&mut trial)?;
        }
        trial.skids.sort_unstable();
        Ok(trial)
    }

    fn try_run(&mut self, trial: &mut Trial) -> Result<(), NoClock> {
        // dec ecx; jnz to it; hlt
        const LOOP: [u8; 5] = [0xff, 0xc9, 0x75, 0xfc, 0xf4];
        let TrialPlan { branches, period, .. } = trial.plan;
        let (mut cpu, mut ram) = self.prepare(&LOOP, Ring::Kernel, branches.into())?;
        self.kicker.arm(PATIENCE, PATIENCE)?;
        let clock = &mut self.clock.as_mut().expect("it was given one").branches;
        clock.begin()?;
        let zero = clock.read()?;
        clock.arm(Some(period))?;
        let mut due = zero + period.get();
        loop {
            let exit = self.enter(&mut cpu, &mut ram, &mut Nobody, Position(0), false)?;
            let clock = &mut self.clock.as_mut().expect("it was given one").branches;
            let now = clock.read()?;
            match exit {
                Exit::Halt => {
                    clock.arm(None)?;
                    let error = (now - zero).abs_diff(branches.into());
                    trial.wrong += u32::from(error != 0);
                    trial.worst = trial.worst.max(error);
                    break;
                }
                Exit::Kicked => {
                    match now.checked_sub(due) {
                        Some(late) => trial.skids.push(late),
                        None => trial.early += 1,
                    }
                    clock.arm(Some(period))?;
                    due = now + period.get();
                }
                exit => {
                    let what = format!("a loop of branches ended with {exit:?}");
                    return Err(KvmError::Entry(what).into());
                }
            }
        }
        self.kicker.disarm();
        Ok(())
    }

    /// The host's counter, after a trial: what a recording may rest on.
    ///
    /// # Errors
    /// If there is none, or it does not count exactly.
    pub fn proved_counter(
        host: &Host,
        model: Model,
        pmu: &Pmu,
        plan: TrialPlan,
    ) -> Result<(HostCounter, Trial), NoClock> {
        let unit = *pmu.units.first().ok_or(PmuError::NoCounters)?;
        let trial = KvmEngine::try_counter(host, model, Box::new(HostCounter::new(unit)), plan)?;
        match trial.is_exact() {
            true => Ok((HostCounter::new(unit), trial)),
            false => Err(NoClock::Inexact(trial)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trials_in_a_sentence() {
        let plan = TrialPlan { runs: 7, branches: 100, period: NonZeroU64::new(40).unwrap() };
        let skids = (0..200).map(|n| if n < 199 { n / 10 } else { 5043 }).collect();
        let exact = Trial { plan, wrong: 0, worst: 0, early: 1, skids };
        assert!(exact.is_exact());
        assert_eq!(
            exact.to_string(),
            "exact in 7 runs of 100 branches; 200 interrupts, late by 9 branches at the median, 19 for 99 of 100, 5043 at most"
        );
        let wrong = Trial { wrong: 2, worst: 3, skids: Vec::new(), ..exact };
        assert!(!wrong.is_exact() && wrong.skid(500).is_none());
        let sentence = wrong.to_string();
        assert!(sentence.starts_with("wrong in 2 of 7 runs"), "{sentence}");
        assert!(sentence.ends_with("not used; it did not interrupt them"), "{sentence}");
    }

    /// Where there is a KVM, its guests are stopped where they should be, or something is said.
    #[test]
    fn this_hosts_kvm_stops_guests_or_says_what_it_does_instead() {
        let Ok(host) = Host::open() else { return };
        for ring in [Ring::Kernel, Ring::Programs] {
            for stopping in [Stopping::Steps, Stopping::Breakpoints] {
                let Ok(mut engine) = KvmEngine::new_unchecked(&host, Model::V2, 0) else { return };
                let tried = engine.try_stopping(ring, stopping);
                eprintln!("{stopping:?} in {ring:?}: {tried:?}");
                assert!(tried.is_ok() || tried.is_err_and(|why| why.len() > 10));
            }
        }
    }
}

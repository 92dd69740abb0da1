//! Machines on the host's KVM, where the user asks for it and the host can.

use crate::doctor;
use crate::engine::Engine;
use crate::exit::{Exit, Failure};
use dejavm_cpu::Model;
use dejavm_kvm::pmu::{self, HostCounter};
use dejavm_kvm::{Host, KvmEngine, KvmError, TrialPlan};
use dejavm_machine::{Machine, MachineConfig, TimeBase};
use std::num::NonZeroU64;

/// A short trial, each time: a host may have changed since it was looked at.
const PLAN: TrialPlan =
    TrialPlan { runs: 50, branches: 20_000, period: NonZeroU64::new(2_000).expect("it is not 0") };
/// What to do instead.
const INSTEAD: &str = "`--engine soft` records here, exactly";

/// The tier of the host's KVM, if it is to be used: what it can promise. It was found out by running guests.
pub fn tier(engine: Engine) -> Result<Option<&'static str>, Failure> {
    match engine {
        Engine::Soft | Engine::Interpreter | Engine::Reference | Engine::KvmSteps => Ok(None),
        Engine::Kvm => {
            Host::open().map_err(|error| unusable(&error.to_string()))?;
            let verdict = doctor::judge_kvm();
            match verdict.tier.filter(|_| verdict.works) {
                Some(tier) => Ok(Some(tier)),
                None => Err(unusable(&verdict.reason)),
            }
        }
        Engine::Auto => {
            let why = match Host::open() {
                Err(error) => error.to_string(),
                Ok(_) => doctor::judge_kvm().reason,
            };
            // Until there is a clock that makes KVM exact, it is never chosen by itself.
            eprintln!(
                "dejavm: the software CPU executes, for KVM cannot promise exact replays here: {why}"
            );
            Ok(None)
        }
    }
}

/// What a model is on KVM.
pub fn model(model: Model) -> Model {
    dejavm_kvm::on_kvm(model)
}

/// Puts a machine on KVM. Live ones leave landmarks, replays do not.
pub fn put(machine: &mut Machine, config: &MachineConfig, live: bool) -> Result<(), Failure> {
    let failed = |error: KvmError| unusable(&error.to_string());
    let host = Host::open().map_err(failed)?;
    let engine = KvmEngine::new(&host, config.cpu, 0).map_err(failed)?;
    let engine = if live { engine.leaving_landmarks() } else { engine };
    let engine = match clock(&host, config) {
        Some(clock) => engine.with_clock(Box::new(clock)),
        None => engine,
    };
    machine.set_executor(Some(Box::new(engine)));
    Ok(())
}

/// Puts a machine on KVM by single steps, if that is the engine.
pub fn put_steps(
    machine: &mut Machine,
    config: &MachineConfig,
    engine: Engine,
) -> Result<(), Failure> {
    if engine != Engine::KvmSteps {
        return Ok(());
    }
    if config.time_base == TimeBase::Exits || config.hardware.processors > 1 {
        let sentence = "--engine kvm,step: one processor, whose guest time passes by instructions, is all that it can be; leave the option out";
        return Err(Failure::new(Exit::Usage, sentence));
    }
    // What is stepped, every processor has.
    let engine = Host::open()
        .and_then(|host| KvmEngine::new_unchecked(&host, config.cpu, 0))
        .map_err(|error: KvmError| unusable(&error.to_string()))?;
    machine.set_executor(Some(Box::new(engine.counting_instructions())));
    Ok(())
}

/// The host's counter of branches, if it has one and that counts exactly now. Without one the software CPU looks for landmarks.
fn clock(host: &Host, config: &MachineConfig) -> Option<HostCounter> {
    let pmu = pmu::find().ok()?;
    match KvmEngine::proved_counter(host, config.cpu, &pmu, PLAN) {
        Ok((counter, _)) => Some(counter),
        Err(error) => {
            eprintln!(
                "dejavm: landmarks are looked for by software, for the host's counter of branches is not used: {error}"
            );
            None
        }
    }
}

fn unusable(why: &str) -> Failure {
    Failure::new(Exit::Environment, format!("KVM cannot be used here: {why}; {INSTEAD}"))
}

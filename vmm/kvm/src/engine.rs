//! The run loop: the guest on the host's processor, exit by exit.
//!
//! Positions are exits: what lies between two is not counted, and time passes for the guest from exit to exit. A guest that does
//! not leave the processor is not interrupted.

use crate::cpuid;
use crate::error::{KvmError, refused};
use crate::exits::{Exit, answer};
use crate::host::Host;
use crate::msrs;
use crate::registers::{self, Board};
use crate::slots::Slots;
use dejavm_cpu::{Bus, Cpu, CpuState, Model, Stop, rflags};
use dejavm_memory::GuestRam;
use dejavm_units::Position;
use kvm_ioctls::{VcpuFd, VmFd};

/// IA32_APIC_BASE
const APIC_BASE: u32 = 0x1b;

/// A virtual machine of the kernel's with one vCPU.
pub struct KvmEngine {
    vm: VmFd,
    vcpu: VcpuFd,
    slots: Slots,
    /// Bytes that the kernel maps for the vCPU.
    run_bytes: usize,
    model: Model,
    counts: Counts,
}

/// What the engine did, for people: no part of any state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Times that the guest left the processor for us.
    pub exits: u64,
    /// Instructions that the software CPU executed, because KVM could not.
    pub by_software: u64,
}

impl KvmEngine {
    /// A VM for processors of this model.
    ///
    /// # Errors
    /// If the host cannot be that.
    pub fn new(host: &Host, model: Model, apic_id: u8) -> Result<KvmEngine, KvmError> {
        cpuid::check(host, model, apic_id)?;
        KvmEngine::new_unchecked(host, model, apic_id)
    }

    /// A VM whose guests are told that the processor is of this model, whether or not the host can be that: for finding out
    /// what else it can.
    ///
    /// # Errors
    /// If the kernel makes none.
    pub fn new_unchecked(host: &Host, model: Model, apic_id: u8) -> Result<KvmEngine, KvmError> {
        let vm = host.kvm.create_vm().map_err(refused("a virtual machine"))?;
        // Where Intel's processors without unrestricted guests keep what they need for real mode; above all RAM below 4 GiB.
        vm.set_tss_address(0xfffb_d000).map_err(refused("a place for the TSS of real mode"))?;
        msrs::filter(&vm)?;
        let vcpu = vm.create_vcpu(apic_id.into()).map_err(refused("a vCPU"))?;
        cpuid::freeze(&vcpu, model, apic_id)?;
        let run_bytes = vm.run_size();
        Ok(KvmEngine {
            vm,
            vcpu,
            slots: Slots::default(),
            run_bytes,
            model,
            counts: Counts::default(),
        })
    }

    /// What it did so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Runs as [`Cpu::run_until`] does, but that a position is an exit, and not an instruction.
    ///
    /// # Errors
    /// If the kernel refuses something. The state is that of the last exit.
    pub fn run_until(
        &mut self,
        cpu: &mut Cpu,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        limit: Position,
    ) -> Result<Stop, KvmError> {
        self.slots.bind(&self.vm, ram)?;
        let mut state = cpu.state();
        let mut ready = registers::takes_interrupts(&state);
        let mut loaded = false;
        let stop = loop {
            if bus.wants_control() {
                break Stop::Board;
            }
            let interrupt = bus.interrupt_pending();
            if state.halted && !(interrupt && state.rflags & rflags::IF != 0) {
                break if state.position >= limit { Stop::Limit } else { Stop::Halted };
            }
            if state.position >= limit && !(interrupt && ready) {
                break Stop::Limit;
            }
            if !registers::can_run(&state) || !bus.a20_enabled() {
                match self.by_software(cpu, ram, bus, &mut state, loaded)? {
                    Some(stop) => return Ok(stop),
                    None => {
                        ready = registers::takes_interrupts(&state);
                        loaded = false;
                        continue;
                    }
                }
            }
            if !loaded {
                registers::load(&self.vcpu, &state, &self.board(bus, state.position))?;
                loaded = true;
            }
            state.halted = false;
            if interrupt && ready {
                let vector = bus.acknowledge_interrupt(state.position);
                self.inject(vector)?;
            }
            // An interrupt that the guest does not take yet: the kernel is to come back when it does.
            let waits = bus.interrupt_pending();
            let exit = self.enter(cpu, ram, bus, state.position, waits)?;
            self.counts.exits += 1;
            state.position = Position(state.position.0.saturating_add(1));
            let run = self.vcpu.get_kvm_run();
            ready = run.ready_for_interrupt_injection != 0;
            match exit {
                Exit::Done => {}
                Exit::Halt => {
                    state.halted = true;
                    state.rflags =
                        state.rflags & !rflags::IF | if run.if_flag != 0 { rflags::IF } else { 0 };
                    ready = run.if_flag != 0;
                }
                Exit::Shutdown => break Stop::Shutdown,
                Exit::CannotEmulate => match self.by_software(cpu, ram, bus, &mut state, true)? {
                    Some(stop) => return Ok(stop),
                    None => {
                        ready = registers::takes_interrupts(&state);
                        loaded = false;
                    }
                },
                Exit::Failed(what) => return Err(KvmError::Entry(what)),
            }
        };
        if loaded {
            self.take_out(cpu, ram, bus, &state)?;
        } else {
            cpu.set_state(&state);
        }
        Ok(stop)
    }

    fn board(&self, bus: &mut dyn Bus, at: Position) -> Board {
        Board {
            apic_base: bus.msr_read(APIC_BASE, at).unwrap_or(0),
            cr8: bus.cr8(),
            has_xsave: self.model.cpuid(1, 0, 0, false).ecx >> 26 & 1 != 0,
            has_long_mode: self.model.has_long_mode(),
        }
    }

    /// Makes the kernel deliver an interrupt when the guest is entered next.
    fn inject(&self, vector: u8) -> Result<(), KvmError> {
        let mut events = self.vcpu.get_vcpu_events().map_err(refused("pending events"))?;
        events.flags = 0;
        (events.interrupt.injected, events.interrupt.nr, events.interrupt.soft) = (1, vector, 0);
        self.vcpu.set_vcpu_events(&events).map_err(refused("an interrupt"))
    }

    /// Enters the guest until it needs us, and gives it what it needs. An access to a device is complete when this returns: its
    /// instruction is behind us.
    fn enter(
        &mut self,
        cpu: &mut Cpu,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        at: Position,
        wants_window: bool,
    ) -> Result<Exit, KvmError> {
        let cr8 = u64::from(bus.cr8());
        let run = self.vcpu.get_kvm_run();
        run.request_interrupt_window = wants_window.into();
        run.cr8 = cr8;
        let mut outcome = loop {
            match answer(&mut self.vcpu, self.run_bytes, cpu, ram, bus, at)? {
                // A signal for this thread: no business of the guest's.
                None => {}
                Some(exit) => break exit,
            }
        };
        if outcome == Exit::Done {
            // The kernel completes the access when it is called next: at once, so that no state is taken in between.
            self.vcpu.set_kvm_immediate_exit(1);
            while let Some(exit) = answer(&mut self.vcpu, self.run_bytes, cpu, ram, bus, at)? {
                if exit != Exit::Done {
                    outcome = exit;
                    break;
                }
            }
            self.vcpu.set_kvm_immediate_exit(0);
        }
        let now = self.vcpu.get_kvm_run().cr8;
        if now != cr8 {
            bus.set_cr8(now as u8 & 0xf, at);
        }
        Ok(outcome)
    }

    /// Takes the state out of the vCPU into the CPU that is its home.
    fn take_out(
        &mut self,
        cpu: &mut Cpu,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        state: &CpuState,
    ) -> Result<(), KvmError> {
        // Registers that are not the processor's own may have been written meanwhile: they are at home already.
        let mut whole = CpuState { position: state.position, halted: state.halted, ..cpu.state() };
        let board = self.board(bus, state.position);
        registers::store(&self.vcpu, &mut whole, &board)?;
        self.slots.note_dirty(&self.vm, ram)?;
        cpu.set_state(&whole);
        Ok(())
    }

    /// Lets the software CPU execute an instruction that KVM cannot; `Some` if the run ends with it.
    fn by_software(
        &mut self,
        cpu: &mut Cpu,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        state: &mut CpuState,
        loaded: bool,
    ) -> Result<Option<Stop>, KvmError> {
        if loaded {
            self.take_out(cpu, ram, bus, state)?;
        } else {
            cpu.set_state(state);
        }
        self.counts.by_software += 1;
        let next = Position(state.position.0.saturating_add(1));
        let stop = cpu.run_until(ram, bus, next);
        *state = cpu.state();
        Ok(match stop {
            Stop::Limit | Stop::Halted => None,
            stop => Some(stop),
        })
    }
}

impl dejavm_cpu::Executor for KvmEngine {
    fn run_until(
        &mut self,
        cpu: &mut Cpu,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        limit: Position,
    ) -> Result<Stop, String> {
        KvmEngine::run_until(self, cpu, ram, bus, limit).map_err(|error| error.to_string())
    }
}

//! What the guest left the processor for, and the answer.

use crate::error::{KvmError, refused};
use crate::run_page::port_access;
use dejavm_cpu::{Bus, Cpu};
use dejavm_memory::GuestRam;
use dejavm_units::{Gpa, Position};
use kvm_ioctls::{VcpuExit, VcpuFd};

/// What is to be done after an exit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It was answered.
    Done,
    /// The guest takes interrupts again, as was asked for.
    Window,
    /// Nothing was asked for: a timer made it leave.
    Kicked,
    /// At a breakpoint, or after a single step ([`crate::guest_debug`]).
    Debug {
        /// DR6: which breakpoints (bits 3:0), and whether it was a step (bit 14).
        dr6: u64,
    },
    /// HLT.
    Halt,
    /// A triple fault.
    Shutdown,
    /// The kernel cannot execute the next instruction.
    CannotEmulate,
    /// The processor cannot enter the guest.
    Failed(String),
}

/// Enters the guest and answers what it leaves for; `None` if only a signal made it leave.
pub(crate) fn answer(
    vcpu: &mut VcpuFd,
    run_bytes: usize,
    cpu: &mut Cpu,
    ram: &mut GuestRam,
    bus: &mut dyn Bus,
    at: Position,
) -> Result<Option<Exit>, KvmError> {
    let exit = match vcpu.run() {
        Ok(exit) => exit,
        Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => return Ok(None),
        Err(error) => return Err(refused("to execute the guest")(error)),
    };
    Ok(Some(match exit {
        VcpuExit::IoIn(..) | VcpuExit::IoOut(..) => {
            let access = port_access(vcpu.get_kvm_run(), run_bytes);
            let access = access.expect("the kernel said that it is one");
            for element in access.data.chunks_exact_mut(access.size.into()) {
                let mut wide = [0; 4];
                let bytes = &mut wide[..usize::from(access.size)];
                if access.is_in {
                    let value = bus.port_in(access.port, access.size, at).to_le_bytes();
                    element.copy_from_slice(&value[..element.len()]);
                } else {
                    bytes.copy_from_slice(element);
                    bus.port_out(access.port, access.size, u32::from_le_bytes(wide), at);
                }
            }
            Exit::Done
        }
        VcpuExit::MmioRead(address, data) => {
            let value = bus.mmio_read(Gpa(address), data.len() as u8, at).to_le_bytes();
            data.copy_from_slice(&value[..data.len()]);
            Exit::Done
        }
        VcpuExit::MmioWrite(address, data) => {
            let mut wide = [0; 8];
            wide[..data.len()].copy_from_slice(data);
            bus.mmio_write(Gpa(address), data.len() as u8, u64::from_le_bytes(wide), at);
            Exit::Done
        }
        VcpuExit::X86Rdmsr(access) => {
            match cpu.read_model_specific(ram, bus, access.index, at) {
                Some(value) => (*access.data, *access.error) = (value, 0),
                None => *access.error = 1,
            }
            Exit::Done
        }
        VcpuExit::X86Wrmsr(access) => {
            let taken = cpu.write_model_specific(ram, bus, access.index, access.data, at);
            *access.error = u8::from(!taken);
            Exit::Done
        }
        VcpuExit::IrqWindowOpen => Exit::Window,
        VcpuExit::SetTpr => Exit::Done,
        VcpuExit::Hlt => Exit::Halt,
        VcpuExit::Debug(debug) => Exit::Debug { dr6: debug.dr6 },
        VcpuExit::Shutdown => Exit::Shutdown,
        VcpuExit::InternalError => Exit::CannotEmulate,
        VcpuExit::FailEntry(reason, _) => {
            Exit::Failed(format!("hardware entry failure {reason:#x}"))
        }
        other => Exit::Failed(format!("an exit that nobody asked for: {other:?}")),
    }))
}

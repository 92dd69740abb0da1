//! The crate gdbstub on top of a [`Target`]: registers, memory writes, the description, `monitor`,
//! files, detach and kill. What it cannot do, the session answers before it sees the packet; so it
//! knows one thread only, and never runs the machine.

use crate::breakpoints::Points;
use crate::files::Files;
use crate::lasting::Lasting;
use crate::monitor;
use crate::registers::{self, Layout, Unwritable, registers, target_xml};
use crate::target::{Interrupted, Refusal, Target, Vcpu};
use crate::threads::{ThreadId, Threads, View};
use dejavm_cpu::CpuState;
use dejavm_units::{Gpa, Gva, Position};
use gdbstub::arch::{Arch, BreakpointKind, RegId, Registers};
use gdbstub::conn::Connection;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::single_register_access::SingleRegisterAccess;
use gdbstub::target::ext::base::singlethread::SingleThreadBase;
use gdbstub::target::ext::exec_file::ExecFile;
use gdbstub::target::ext::host_io::HostIo;
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd};
use gdbstub::target::ext::target_description_xml_override::TargetDescriptionXmlOverride;
use gdbstub::target::{TargetError, TargetResult};
use std::cell::RefCell;
use std::convert::Infallible;
use std::num::NonZeroUsize;

/// The architecture, both layouts of it: registers go through as bytes.
#[derive(Debug)]
pub(crate) enum X86 {}

/// A `g` or `G` packet's bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RegisterBytes(Vec<u8>);

/// A register's number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number(usize);

/// What gdb says of a breakpoint's instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ignored;

impl Registers for RegisterBytes {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        unreachable!("the crate asks for it nowhere")
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        self.0.iter().for_each(|byte| write_byte(Some(*byte)));
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        self.0 = bytes.to_vec();
        Ok(())
    }
}

impl RegId for Number {
    fn from_raw_id(id: usize) -> Option<(Number, Option<NonZeroUsize>)> {
        Some((Number(id), None))
    }
}

impl BreakpointKind for Ignored {
    fn from_usize(_: usize) -> Option<Ignored> {
        Some(Ignored)
    }
}

impl Arch for X86 {
    type Usize = u64;
    type Registers = RegisterBytes;
    type BreakpointKind = Ignored;
    type RegId = Number;
}

/// What the crate writes, to be taken apart by the session.
#[derive(Debug, Default)]
pub(crate) struct Wire(pub(crate) Vec<u8>);

impl Connection for Wire {
    type Error = Infallible;

    fn write(&mut self, byte: u8) -> Result<(), Infallible> {
        self.0.push(byte);
        Ok(())
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Infallible> {
        self.0.extend(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// A target in a session.
pub(crate) struct Bridge<'t> {
    pub(crate) target: &'t mut dyn Target,
    pub(crate) interrupted: Box<Interrupted<'t>>,
    pub(crate) threads: Box<dyn Threads + 't>,
    /// Set by `Hg`.
    pub(crate) selected: ThreadId,
    /// The virtual CPU that was stepped, if the last stop is the end of that: another one's turn may have come.
    pub(crate) stepped: Option<Vcpu>,
    /// Registers as gdb was told last.
    pub(crate) layout: Layout,
    /// [`Bridge::layout`] follows the CPU's mode whenever gdb asks for the description.
    pub(crate) follow_mode: bool,
    /// Addresses of memory packets are physical.
    pub(crate) physical: bool,
    pub(crate) points: Points,
    /// `monitor stopat`
    pub(crate) stop_at: Option<Position>,
    /// Interrupts are run through while stepping.
    pub(crate) skip_interrupts: bool,
    /// What gdb can read by name.
    pub(crate) files: RefCell<Files>,
    pub(crate) lasting: Lasting,
    /// Why the last packet was refused, for the reply.
    pub(crate) refusal: Option<Refusal>,
    /// What gdb did not tell the user, for the next text that it shows.
    pub(crate) note: String,
}

impl Bridge<'_> {
    /// The selected thread, or the current one if that is gone.
    pub(crate) fn view(&self) -> Option<View> {
        let machine = self.target.inspect();
        let view = self.threads.view(machine, self.selected);
        view.or_else(|| self.threads.view(machine, self.threads.current(machine)))
    }

    /// Reads at an address of a memory packet; how many bytes.
    pub(crate) fn read_memory(&self, at: u64, into: &mut [u8]) -> usize {
        let machine = self.target.inspect();
        if self.physical {
            return machine.read_physical(Gpa(at), into);
        }
        let Some(view) = self.view() else { return 0 };
        machine.read_virtual(view.vcpu, Gva(at), view.space, into)
    }

    /// Writes at an address of a memory packet.
    pub(crate) fn write_memory(&mut self, at: u64, bytes: &[u8]) -> Result<(), Refusal> {
        if bytes.is_empty() {
            return Ok(());
        }
        let written = if self.physical {
            self.target.write_physical(Gpa(at), bytes)?
        } else {
            let Some(View { vcpu, space, registers: _, on_cpu: _ }) = self.view() else {
                return Refusal::unsupported("there is no such thread");
            };
            self.target.write_virtual(vcpu, Gva(at), space, bytes)?
        };
        if written == bytes.len() {
            return Ok(());
        }
        let first = at.wrapping_add(written as u64);
        Err(Refusal::Failed(format!("there is no RAM at {first:#x}; {written} bytes were written")))
    }

    fn change_registers(
        &mut self,
        change: impl FnOnce(Layout, &mut CpuState, u8) -> Result<(), Unwritable>,
    ) -> Result<(), Refusal> {
        let Some(mut view) = self.view() else {
            return Refusal::unsupported("there is no such thread");
        };
        let before = view.registers.clone();
        let priority = self.target.inspect().task_priority(view.vcpu);
        change(self.layout, &mut view.registers, priority).map_err(|error| {
            Refusal::Unsupported(match error {
                Unwritable::NoSuch => "there is no such register".to_owned(),
                Unwritable::Selector => "a selector cannot be written; its base can".to_owned(),
                Unwritable::TaskPriority => "cr8 cannot be written".to_owned(),
            })
        })?;
        if view.registers == before {
            return Ok(());
        }
        if !view.on_cpu {
            return Refusal::unsupported(
                "this thread is not on a CPU: its registers are in memory",
            );
        }
        self.target.set_registers(view.vcpu, &view.registers)
    }

    /// A `P` packet.
    pub(crate) fn write_register(&mut self, number: usize, bytes: &[u8]) -> Result<(), Refusal> {
        self.change_registers(|layout, state, priority| {
            registers::write(layout, state, priority, number, bytes)
        })
    }

    /// A `G` packet: all of them, or the first few.
    pub(crate) fn write_registers(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.change_registers(|layout, state, priority| {
            let mut rest = bytes;
            for (number, register) in registers(layout).iter().enumerate() {
                if rest.is_empty() {
                    break;
                }
                let width = usize::from(register.bits / 8);
                let (value, more) = rest.split_at_checked(width).ok_or(Unwritable::NoSuch)?;
                registers::write(layout, state, priority, number, value)?;
                rest = more;
            }
            if rest.is_empty() { Ok(()) } else { Err(Unwritable::NoSuch) }
        })
    }

    /// Keeps the sentence for the session to reply; the crate has numbers only.
    fn refused<T>(&mut self, result: Result<T, Refusal>) -> Result<T, TargetError<Infallible>> {
        result.map_err(|refusal| {
            self.refusal = Some(refusal);
            TargetError::Errno(1)
        })
    }

    /// gdb asks for the description from its beginning: the mode that the CPU is in now counts.
    pub(crate) fn choose_layout(&mut self) {
        if self.follow_mode
            && let Some(view) = self.view()
        {
            self.layout = mode(&view.registers);
        }
    }
}

/// The layout that suits the code that is executed.
pub(crate) fn mode(state: &CpuState) -> Layout {
    const LMA: u64 = 1 << 10;
    let long = state.efer & LMA != 0 && state.seg[dejavm_cpu::SegReg::Cs as usize].rights.is_long();
    if long { Layout::Bits64 } else { Layout::Bits32 }
}

impl gdbstub::target::Target for Bridge<'_> {
    type Arch = X86;
    type Error = Infallible;

    fn base_ops(&mut self) -> BaseOps<'_, X86, Infallible> {
        BaseOps::SingleThread(self)
    }

    fn guard_rail_implicit_sw_breakpoints(&self) -> bool {
        true
    }

    fn use_rle(&self) -> bool {
        false
    }

    fn support_monitor_cmd(
        &mut self,
    ) -> Option<&mut dyn MonitorCmd<Arch = X86, Error = Infallible>> {
        Some(self)
    }

    fn support_host_io(&mut self) -> Option<&mut dyn HostIo<Arch = X86, Error = Infallible>> {
        Some(self)
    }

    fn support_exec_file(&mut self) -> Option<&mut dyn ExecFile<Arch = X86, Error = Infallible>> {
        Some(self)
    }

    fn support_target_description_xml_override(
        &mut self,
    ) -> Option<&mut dyn TargetDescriptionXmlOverride<Arch = X86, Error = Infallible>> {
        Some(self)
    }
}

impl SingleThreadBase for Bridge<'_> {
    fn read_registers(&mut self, into: &mut RegisterBytes) -> TargetResult<(), Self> {
        let view = self.view().ok_or(TargetError::NonFatal)?;
        let priority = self.target.inspect().task_priority(view.vcpu);
        into.0.clear();
        for number in 0..registers(self.layout).len() {
            registers::read(self.layout, &view.registers, priority, number, &mut into.0);
        }
        Ok(())
    }

    fn write_registers(&mut self, from: &RegisterBytes) -> TargetResult<(), Self> {
        let result = Bridge::write_registers(self, &from.0);
        self.refused(result)
    }

    fn support_single_register_access(
        &mut self,
    ) -> Option<&mut dyn SingleRegisterAccess<(), Arch = X86, Error = Infallible>> {
        Some(self)
    }

    fn read_addrs(&mut self, at: u64, into: &mut [u8]) -> TargetResult<usize, Self> {
        Ok(self.read_memory(at, into))
    }

    fn write_addrs(&mut self, at: u64, bytes: &[u8]) -> TargetResult<(), Self> {
        let result = self.write_memory(at, bytes);
        if let Err(refusal) = &result {
            // gdb says only that it cannot access memory there, and takes no text now.
            self.note = format!("dejavm: nothing was written to {at:#x}: {refusal}\n");
        }
        self.refused(result)
    }
}

impl SingleRegisterAccess<()> for Bridge<'_> {
    fn read_register(
        &mut self,
        (): (),
        Number(number): Number,
        into: &mut [u8],
    ) -> TargetResult<usize, Self> {
        let view = self.view().ok_or(TargetError::NonFatal)?;
        let priority = self.target.inspect().task_priority(view.vcpu);
        let mut bytes = Vec::new();
        if !registers::read(self.layout, &view.registers, priority, number, &mut bytes) {
            return Err(TargetError::NonFatal);
        }
        into.get_mut(..bytes.len()).ok_or(TargetError::NonFatal)?.copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn write_register(
        &mut self,
        (): (),
        Number(number): Number,
        bytes: &[u8],
    ) -> TargetResult<(), Self> {
        let result = Bridge::write_register(self, number, bytes);
        self.refused(result)
    }
}

impl TargetDescriptionXmlOverride for Bridge<'_> {
    fn target_description_xml(
        &self,
        annex: &[u8],
        offset: u64,
        length: usize,
        buffer: &mut [u8],
    ) -> TargetResult<usize, Self> {
        if annex != b"target.xml" {
            return Err(TargetError::Errno(2));
        }
        Ok(part(target_xml(self.layout).as_bytes(), offset, length, buffer))
    }
}

/// Copies what a `qXfer` asks for.
pub(crate) fn part(text: &[u8], offset: u64, length: usize, buffer: &mut [u8]) -> usize {
    let rest = usize::try_from(offset).ok().and_then(|offset| text.get(offset..)).unwrap_or(&[]);
    let bytes = rest.len().min(length).min(buffer.len());
    buffer[..bytes].copy_from_slice(&rest[..bytes]);
    bytes
}

impl MonitorCmd for Bridge<'_> {
    fn handle_monitor_cmd(
        &mut self,
        command: &[u8],
        mut out: ConsoleOutput<'_>,
    ) -> Result<(), Infallible> {
        let text = String::from_utf8_lossy(command).into_owned();
        out.write_raw(std::mem::take(&mut self.note).as_bytes());
        out.write_raw(monitor::execute(self, &text).as_bytes());
        Ok(())
    }
}

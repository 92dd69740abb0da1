//! What debuggers and people who study a guest ask of a machine at rest: stops, registers, memory by
//! linear address. Looking changes nothing, and stops change nothing but where runs return.

use crate::machine::Machine;
use dejavm_cpu::{Cpu, CpuState, Stops, WatchHit};
use dejavm_units::{Gpa, Gva, PAGE_SIZE};

impl Machine {
    /// Sets where runs stop; nowhere by default. No part of the state: it stays through
    /// [`Machine::restore`]. Cheap when unchanged, and breakpoints that were set recently cost little
    /// to set again.
    pub fn set_stops(&mut self, stops: &Stops) {
        self.cpu.set_stops(stops);
    }

    /// Where runs stop.
    pub fn stops(&self) -> &Stops {
        self.cpu.stops()
    }

    /// All that watchpoints saw when the last run stopped for one: at most one hit for each, in the
    /// order of the accesses. [`Stop::Watchpoint`](crate::Stop::Watchpoint) tells the first.
    pub fn watch_hits(&self) -> Vec<WatchHit> {
        self.cpu.watch_hits().collect()
    }

    /// The breakpoint on the next instruction, if there is one, also where no run stops for it: after a
    /// watchpoint's stop, which goes first, or where a run would start.
    pub fn breakpoint_here(&self) -> Option<Gva> {
        self.cpu.breakpoint_here(&self.ram)
    }

    /// The registers of the processor whose turn it is.
    pub fn cpu_state(&self) -> CpuState {
        self.cpu.state()
    }

    /// The processor that a stop is the doing of: that which did the watched access that the last run stopped for, else that
    /// which executes the next instruction.
    pub fn acting_processor(&self) -> usize {
        let hit = self.cpu.watch_hits().next().map(|hit| usize::from(hit.processor));
        hit.unwrap_or(self.running_processor())
    }

    /// CR8 of a processor that exists: the class of the task priority, 0 to 15, which is the local APIC's.
    pub fn task_priority(&self, processor: usize) -> u8 {
        self.board.lapics[processor].cr8()
    }

    /// Sets the registers, behind the back of any recorder: what is recorded is
    /// [`Input::WriteRegisters`](crate::Input::WriteRegisters).
    pub fn set_cpu_state(&mut self, state: &CpuState) {
        self.cpu.set_state(state);
    }

    /// The physical address that a linear one leads to, by the page tables of the address space with
    /// this CR3 base (bits 51:12), or of the current one, in the current paging mode. Pure: sets no
    /// accessed or dirty bits. `None` where nothing is mapped; rights do not matter.
    pub fn translate(&self, at: Gva, space: Option<Gpa>) -> Option<Gpa> {
        self.cpu.inspect(&self.ram, at, space)
    }

    /// As [`Machine::translate`], for a processor that need not be the running one.
    pub fn translate_by(&self, processor: usize, at: Gva, space: Option<Gpa>) -> Option<Gpa> {
        if processor == self.running_processor() {
            return self.translate(at, space);
        }
        Cpu::inspect_as(&self.processor_state(processor), &self.ram, at, space)
    }

    /// Reads RAM by linear address, as [`Machine::translate`] finds it. Returns how many bytes come
    /// before the first that is not mapped to RAM; devices are not asked.
    pub fn read_virtual(&self, at: Gva, space: Option<Gpa>, into: &mut [u8]) -> usize {
        self.read_virtual_by(self.running_processor(), at, space, into)
    }

    /// As [`Machine::read_virtual`], for a processor that need not be the running one.
    pub fn read_virtual_by(
        &self,
        processor: usize,
        at: Gva,
        space: Option<Gpa>,
        into: &mut [u8],
    ) -> usize {
        let mut done = 0;
        while done < into.len() {
            let piece = self.piece(processor, at, space, done, into.len());
            let Some((gpa, bytes)) = piece else { break };
            if self.ram.read(gpa, &mut into[done..done + bytes]).is_err() {
                break;
            }
            done += bytes;
        }
        done
    }

    /// Writes RAM by linear address, read-only pages too, as [`Machine::read_virtual`] reads, behind the
    /// back of any recorder: what is recorded is [`Input::WriteMemory`](crate::Input::WriteMemory). Marks
    /// pages dirty, and drops decoded code and translations as a store would. Returns how many bytes come
    /// before the first that is not mapped to RAM.
    pub fn write_virtual(&mut self, at: Gva, space: Option<Gpa>, from: &[u8]) -> usize {
        let mut done = 0;
        while done < from.len() {
            let piece = self.piece(self.running_processor(), at, space, done, from.len());
            let Some((gpa, bytes)) = piece else { break };
            if self.ram.write(gpa, &from[done..done + bytes]).is_err() {
                break;
            }
            done += bytes;
        }
        done
    }

    /// Where the byte `done` of `length` bytes at `at` lies, and how many of them lie in that page.
    fn piece(
        &self,
        processor: usize,
        at: Gva,
        space: Option<Gpa>,
        done: usize,
        length: usize,
    ) -> Option<(Gpa, usize)> {
        let linear = Gva(at.0.checked_add(done as u64)?);
        let gpa = self.translate_by(processor, linear, space)?;
        let in_page = (PAGE_SIZE - linear.page_offset()) as usize;
        Some((gpa, in_page.min(length - done)))
    }
}

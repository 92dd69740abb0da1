//! Which chip answers at which physical address where no RAM is.
//!
//! Cards answer where the guest has placed them; neither RAM nor an APIC gives way to one. The registers of both APICs are 32 bits wide. Reads of another width take the bytes from the
//! registers they touch; a narrower write reaches no register (SDM vol. 3A, 11.4.1: such accesses are
//! undefined). Where no chip answers the bus floats high and writes are lost; the VGA window is such a
//! place.

use crate::board::Board;
use crate::memory_map::IO_APIC;
use dejavm_devices::card::Space;
use dejavm_devices::lapic::WriteEffect;
use dejavm_devices::{ioapic, lapic};
use dejavm_units::{Gpa, GuestNs};

/// A chip with registers in memory, and the offset of an access in its window.
#[derive(Clone, Copy)]
enum Target {
    LocalApic(u16),
    IoApic(u64),
    Nothing,
}

impl Board {
    fn target(&mut self, gpa: Gpa) -> Target {
        if let Some(base) = self.lapic().mmio_base()
            && let Some(offset) = gpa.0.checked_sub(base)
            && offset < lapic::WINDOW_SIZE
        {
            return Target::LocalApic(offset as u16);
        }
        match gpa.0.checked_sub(IO_APIC) {
            Some(offset) if offset < ioapic::WINDOW_SIZE => Target::IoApic(offset),
            _ => Target::Nothing,
        }
    }

    pub(crate) fn read_memory(&mut self, gpa: Gpa, size: u8, now: GuestNs) -> u64 {
        if let Target::Nothing = self.target(gpa)
            && let Some(value) = self.cards.read(Space::Memory, gpa.0, size, now)
        {
            return value;
        }
        let size = u64::from(size.clamp(1, 8));
        if let Some(firmware) = &self.firmware {
            let mut bytes = [0; 8];
            if firmware.shadow.read_rom(gpa, &mut bytes[..size as usize]) {
                return u64::from_le_bytes(bytes);
            }
        }
        let first = gpa.0 & !3;
        let skipped = gpa.0 & 3;
        let mut value: u128 = 0;
        for dword in 0..(skipped + size).div_ceil(4) {
            let register = self.read_dword(Gpa(first.wrapping_add(4 * dword)), now);
            value |= u128::from(register) << (32 * dword);
        }
        (value >> (8 * skipped)) as u64 & (u64::MAX >> (64 - 8 * size))
    }

    pub(crate) fn write_memory(&mut self, gpa: Gpa, size: u8, value: u64, now: GuestNs) {
        if let Target::Nothing = self.target(gpa)
            && self.cards.write(Space::Memory, gpa.0, size, value, now)
        {
            return;
        }
        if let Some(firmware) = &mut self.firmware {
            firmware.shadow.store(gpa, value, size);
        }
        if !gpa.0.is_multiple_of(4) {
            return;
        }
        for dword in 0..u64::from(size / 4) {
            let register = (value >> (32 * dword)) as u32;
            self.write_dword(gpa.wrapping_add(4 * dword), register, now);
        }
    }

    fn read_dword(&mut self, gpa: Gpa, now: GuestNs) -> u32 {
        match self.target(gpa) {
            Target::LocalApic(offset) => self.lapic().read(offset, now),
            Target::IoApic(offset) => self.io_apic.read(offset, now),
            Target::Nothing => u32::MAX,
        }
    }

    fn write_dword(&mut self, gpa: Gpa, value: u32, now: GuestNs) {
        match self.target(gpa) {
            Target::LocalApic(offset) => match self.lapic().write(offset, value, now) {
                WriteEffect::None => {}
                WriteEffect::Ipi(ipi) => {
                    let sender = self.lapic().apic_id();
                    lapic::deliver_ipi(&ipi, sender, &mut self.lapics);
                }
                WriteEffect::EndOfInterrupt(vector) => self.io_apic.end_of_interrupt(vector),
            },
            Target::IoApic(offset) => self.io_apic.write(offset, value, now),
            Target::Nothing => {}
        }
    }
}

//! A channel: the registers at its ports, and its half of the bus master.

use super::Media;
use super::drive::{self, Bus, Drive, Need, status};
use crate::RestoreError;
use crate::card::{HostFailed, Surroundings};
use dejavm_units::{Gpa, GuestNs};
use serde::{Deserialize, Serialize};

/// Device control.
const CONTROL_NO_INTERRUPT: u8 = 1 << 1;
const CONTROL_RESET: u8 = 1 << 2;
const CONTROL_PREVIOUS: u8 = 1 << 7;
/// The bit of the device register that selects a drive.
const DEVICE_SLAVE: u8 = 1 << 4;

/// Bus master command and status.
const START: u8 = 1 << 0;
const TO_MEMORY: u8 = 1 << 3;
const ACTIVE: u8 = 1 << 0;
const ERROR: u8 = 1 << 1;
const INTERRUPT: u8 = 1 << 2;
const CAPABLE: u8 = 3 << 5;

/// Entries of a table of physical regions at most: it does not cross 64 KiB.
const REGIONS_MAX: u64 = 0x1_0000 / 8;
/// Bytes moved at a time.
const PIECE: usize = 64 << 10;

/// Everything of a channel that can change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    drives: [Option<drive::State>; 2],
    device: u8,
    control: u8,
    irq: bool,
    active: u8,
    due: Option<GuestNs>,
    bus_master: BusMaster,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct BusMaster {
    command: u8,
    status: u8,
    table: u32,
}

/// A channel with up to two drives.
#[derive(Clone, Debug)]
pub(super) struct Channel {
    drives: [Option<Drive>; 2],
    /// The device register, of which both drives have their copy.
    device: u8,
    control: u8,
    /// An interrupt that no status read has taken back.
    irq: bool,
    /// The drive that `due` is about.
    active: u8,
    /// When it is looked at.
    due: Option<GuestNs>,
    bus_master: BusMaster,
}

impl Channel {
    pub(super) fn new(media: [Option<(Media, usize)>; 2]) -> Channel {
        Channel {
            drives: media.map(|media| media.map(|(media, number)| Drive::new(media, number))),
            device: 0,
            control: 0,
            irq: false,
            active: 0,
            due: None,
            bus_master: BusMaster::default(),
        }
    }

    pub(super) fn reset(&mut self) {
        for drive in self.drives.iter_mut().flatten() {
            drive.reset();
        }
        self.device = 0;
        self.control = 0;
        self.irq = false;
        self.active = 0;
        self.due = None;
        self.bus_master = BusMaster::default();
    }

    fn selected(&self) -> usize {
        usize::from(self.device & DEVICE_SLAVE != 0)
    }

    fn drive(&mut self) -> Option<&mut Drive> {
        let selected = self.selected();
        self.drives[selected].as_mut()
    }

    /// The level of the channel's interrupt line.
    pub(super) fn irq(&self) -> bool {
        self.irq && self.control & CONTROL_NO_INTERRUPT == 0
    }

    fn interrupt(&mut self) {
        self.irq = true;
        self.bus_master.status |= INTERRUPT;
    }

    pub(super) fn deadline(&self) -> Option<GuestNs> {
        self.due
    }

    /// What a drive needs from now on.
    fn follow(&mut self, drive: usize, need: Need, now: GuestNs) {
        match need {
            Need::Nothing => {}
            Need::Interrupt => self.interrupt(),
            Need::Look { after_ns } => {
                self.active = drive as u8;
                // At the end of time nothing comes any more.
                self.due = now.0.checked_add(after_ns).map(GuestNs);
            }
            Need::BusMaster => {
                self.active = drive as u8;
                self.start_transfer(now);
            }
        }
    }

    /// Moves data once both the drive and the bus master are ready.
    fn start_transfer(&mut self, now: GuestNs) {
        let drive = self.drives[usize::from(self.active)].as_ref();
        if self.bus_master.command & START != 0
            && let Some(after_ns) = drive.and_then(Drive::transfer_ns)
        {
            self.due = now.0.checked_add(after_ns).map(GuestNs);
        }
    }

    /// Reads the data register.
    pub(super) fn read_data(&mut self, size: u8, now: GuestNs) -> u64 {
        let selected = self.selected();
        let Some(drive) = &mut self.drives[selected] else { return 0 };
        let (value, need) = drive.read_data(size);
        self.follow(selected, need, now);
        value
    }

    /// Writes the data register.
    pub(super) fn write_data(&mut self, size: u8, value: u64, now: GuestNs) {
        let selected = self.selected();
        let Some(drive) = &mut self.drives[selected] else { return };
        let need = drive.write_data(size, value);
        self.follow(selected, need, now);
    }

    /// Reads a register of the command block but data.
    pub(super) fn read(&mut self, register: u8) -> u8 {
        let previous = self.control & CONTROL_PREVIOUS != 0;
        let device = self.device;
        // Without a drive the lines are pulled down.
        let Some(drive) = self.drive() else { return 0 };
        match register {
            6 => device | 0xa0,
            7 => {
                let status = drive.status();
                self.irq = false;
                status
            }
            _ => drive.register(register, previous),
        }
    }

    pub(super) fn alternate_status(&self) -> u8 {
        self.drives[self.selected()].as_ref().map_or(0, Drive::status)
    }

    /// Writes a register of the command block but data: both drives see it, the selected one obeys commands.
    pub(super) fn write(&mut self, register: u8, value: u8, now: GuestNs) {
        if register == 7 {
            return self.command(value, now);
        }
        // Any write to the command block reads what was written last again.
        self.control &= !CONTROL_PREVIOUS;
        if register == 6 {
            self.device = value;
        }
        for drive in self.drives.iter_mut().flatten() {
            drive.set_register(register, value);
        }
    }

    fn command(&mut self, command: u8, now: GuestNs) {
        const EXECUTE_DIAGNOSTIC: u8 = 0x90;
        self.irq = false;
        self.control &= !CONTROL_PREVIOUS;
        if command == EXECUTE_DIAGNOSTIC {
            for drive in self.drives.iter_mut().flatten() {
                drive.reset();
            }
            self.device = 0;
            self.due = None;
            return self.interrupt();
        }
        let selected = self.selected();
        let Some(drive) = &mut self.drives[selected] else { return };
        if drive.accepts(command) {
            let need = drive.command(command);
            self.follow(selected, need, now);
        }
    }

    pub(super) fn write_control(&mut self, value: u8) {
        let released = self.control & !value & CONTROL_RESET != 0;
        self.control = value;
        if value & CONTROL_RESET != 0 || released {
            for drive in self.drives.iter_mut().flatten() {
                drive.reset();
                if !released {
                    drive.hold();
                }
            }
            self.device = 0;
            self.irq = false;
            self.due = None;
        }
    }

    pub(super) fn read_bus_master(&self, register: u8) -> u8 {
        let BusMaster { command, status, table } = self.bus_master;
        match register {
            0 => command,
            2 => status,
            4..8 => table.to_le_bytes()[usize::from(register - 4)],
            _ => 0,
        }
    }

    pub(super) fn write_bus_master(&mut self, register: u8, value: u8, now: GuestNs) {
        let master = &mut self.bus_master;
        match register {
            0 => {
                let started = value & START != 0 && master.command & START == 0;
                master.command = value & (START | TO_MEMORY);
                if value & START == 0 {
                    master.status &= !ACTIVE;
                } else if started {
                    master.status |= ACTIVE;
                    self.start_transfer(now);
                }
            }
            2 => {
                let kept = master.status & (ACTIVE | (ERROR | INTERRUPT) & !value);
                master.status = kept | value & CAPABLE;
            }
            4..8 => {
                let mut bytes = master.table.to_le_bytes();
                bytes[usize::from(register - 4)] = value;
                master.table = u32::from_le_bytes(bytes) & !3;
            }
            _ => {}
        }
    }

    /// Looks at the drive that is due. `is_master`: whether the function may reach memory.
    pub(super) fn service(&mut self, now: GuestNs, is_master: bool, around: &mut dyn Surroundings) {
        self.due = None;
        let active = usize::from(self.active);
        let Some(drive) = &mut self.drives[active] else { return };
        let started = is_master && self.bus_master.command & START != 0;
        let mut bus = Regions {
            next: Gpa(self.bus_master.table.into()),
            left: REGIONS_MAX,
            at: Gpa(0),
            bytes: 0,
            last: false,
            to_memory: self.bus_master.command & TO_MEMORY != 0,
        };
        let bus: Option<&mut dyn Bus> = if started { Some(&mut bus) } else { None };
        let moves = drive.transfer_ns().is_some();
        // Where the host has failed the machine ends.
        let Ok(need) = drive.look(bus, around) else { return };
        if moves && started {
            self.bus_master.status &= !ACTIVE;
            if drive.status() & status::ERR != 0 {
                self.bus_master.status |= ERROR;
            }
        }
        self.follow(active, need, now);
    }
}

/// The table of physical regions (PIIX3, 2.8.2): memory as a run of bytes.
struct Regions {
    next: Gpa,
    left: u64,
    at: Gpa,
    bytes: u32,
    last: bool,
    to_memory: bool,
}

impl Regions {
    /// A piece of memory, at most so long; `None` behind the last.
    fn piece(&mut self, max: usize, around: &dyn Surroundings) -> Option<(Gpa, usize)> {
        while self.bytes == 0 {
            if self.last || self.left == 0 {
                return None;
            }
            let mut entry = [0; 8];
            around.read_memory(self.next, &mut entry);
            let [a, b, c, d, low, high, _, flags] = entry;
            self.at = Gpa((u32::from_le_bytes([a, b, c, d]) & !1).into());
            self.bytes = match u16::from_le_bytes([low, high]) & !1 {
                0 => 0x1_0000,
                bytes => bytes.into(),
            };
            self.last = flags & 0x80 != 0;
            self.next = self.next.wrapping_add(8);
            self.left -= 1;
        }
        let bytes = max.min(self.bytes as usize);
        let at = self.at;
        self.at = self.at.wrapping_add(bytes as u64);
        self.bytes -= bytes as u32;
        Some((at, bytes))
    }
}

impl Bus for Regions {
    fn to_memory(&mut self, mut from: &[u8], around: &mut dyn Surroundings) -> bool {
        while !from.is_empty() {
            let Some((at, bytes)) = self.piece(from.len(), around) else { return false };
            if self.to_memory {
                around.write_memory(at, &from[..bytes]);
            }
            from = &from[bytes..];
        }
        true
    }

    fn drive_to_memory(
        &mut self,
        drive: usize,
        mut offset: u64,
        mut left: u64,
        around: &mut dyn Surroundings,
    ) -> Result<bool, HostFailed> {
        while left > 0 {
            let max = left.min(PIECE as u64) as usize;
            let Some((at, bytes)) = self.piece(max, around) else { return Ok(false) };
            if self.to_memory {
                around.drive_to_memory(drive, offset, at, bytes as u32)?;
            }
            offset += bytes as u64;
            left -= bytes as u64;
        }
        Ok(true)
    }

    fn memory_to_drive(
        &mut self,
        drive: usize,
        mut offset: u64,
        mut left: u64,
        around: &mut dyn Surroundings,
    ) -> Result<bool, HostFailed> {
        while left > 0 {
            let max = left.min(PIECE as u64) as usize;
            let Some((at, bytes)) = self.piece(max, around) else { return Ok(false) };
            if !self.to_memory {
                around.memory_to_drive(drive, offset, at, bytes as u32)?;
            }
            offset += bytes as u64;
            left -= bytes as u64;
        }
        Ok(true)
    }
}

mod save_restore {
    use super::*;

    impl Channel {
        pub(in super::super) fn save(&self) -> State {
            let Channel { drives, device, control, irq, active, due, bus_master } = self;
            State {
                drives: drives.each_ref().map(|drive| drive.as_ref().map(Drive::save)),
                device: *device,
                control: *control,
                irq: *irq,
                active: *active,
                due: *due,
                bus_master: *bus_master,
            }
        }

        pub(in super::super) fn restore(&mut self, state: State) -> Result<(), RestoreError> {
            let State { drives, device, control, irq, active, due, bus_master } = state;
            let check = |valid, field| RestoreError::unless(valid, "an IDE channel", field);
            check(active < 2, "active")?;
            check(bus_master.table & 3 == 0, "table")?;
            for (drive, state) in self.drives.iter_mut().zip(drives) {
                match (drive, state) {
                    (Some(drive), Some(state)) => drive.restore(state)?,
                    (None, None) => {}
                    _ => return check(false, "drives"),
                }
            }
            self.device = device;
            self.control = control;
            self.irq = irq;
            self.active = active;
            self.due = due;
            self.bus_master = bus_master;
            Ok(())
        }
    }
}

//! A drive: its task file, the protocols of ATA/ATAPI-6 (9), and the commands of a disk.

use super::packet::Sense;
use super::{Media, identify};
use crate::RestoreError;
use crate::card::{HostFailed, Surroundings};
use serde::{Deserialize, Serialize};

/// Status register.
pub(super) mod status {
    pub(in super::super) const ERR: u8 = 1 << 0;
    pub(super) const DRQ: u8 = 1 << 3;
    /// Seek complete.
    pub(super) const DSC: u8 = 1 << 4;
    pub(super) const DRDY: u8 = 1 << 6;
    pub(super) const BSY: u8 = 1 << 7;
}

/// Error register.
const ABORTED: u8 = 1 << 2;
const ID_NOT_FOUND: u8 = 1 << 4;
/// After a reset or a diagnostic: all is well.
const DIAGNOSTIC_PASSED: u8 = 1;

/// Interrupt reason of packet devices, in the count register.
const REASON_COMMAND: u8 = 1;
const REASON_TO_HOST: u8 = 2;

/// From a command to its effect.
const COMMAND_NS: u64 = 10_000;
/// Between two blocks through the data register.
const BLOCK_NS: u64 = 5_000;
/// Bytes that the bus master moves in a nanosecond: 2 GB/s.
const BYTES_PER_NS: u64 = 2;

const SECTOR: u64 = 512;
pub(super) const CD_SECTOR: u64 = 2048;
/// Sectors that READ MULTIPLE moves at a time at most.
pub(super) const MULTIPLE_MAX: u8 = 16;
/// Bytes of the largest block.
const BLOCK_MAX: usize = 1 << 16;
/// Bytes of a packet.
const PACKET: usize = 12;

/// What a drive needs of its channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Need {
    Nothing,
    /// To interrupt.
    Interrupt,
    /// To be looked at.
    Look {
        /// How long from now.
        after_ns: u64,
    },
    /// The bus master.
    BusMaster,
}

/// The bus master as a drive sees it. Where it has no memory left it says `false`.
pub(super) trait Bus {
    fn to_memory(&mut self, from: &[u8], around: &mut dyn Surroundings) -> bool;
    fn drive_to_memory(
        &mut self,
        drive: usize,
        offset: u64,
        bytes: u64,
        around: &mut dyn Surroundings,
    ) -> Result<bool, HostFailed>;
    fn memory_to_drive(
        &mut self,
        drive: usize,
        offset: u64,
        bytes: u64,
        around: &mut dyn Surroundings,
    ) -> Result<bool, HostFailed>;
}

/// What a drive is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Phase {
    /// It waits for a command.
    Idle,
    /// The reset bit is set.
    Held,
    /// A command was written, and is looked at later.
    Command,
    /// The host reads a block.
    DataIn,
    /// The host writes a block.
    DataOut,
    /// The host writes a packet.
    Packet,
    /// The next block to the host is looked for later.
    LoadBlock,
    /// A block from the host is written later.
    StoreBlock,
    /// The bus master moves what is left.
    Transfer,
}

/// Registers of 16 bits, written a byte at a time: what was written last, and before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct TaskFile {
    pub(super) features: [u8; 2],
    pub(super) count: [u8; 2],
    pub(super) low: [u8; 2],
    pub(super) mid: [u8; 2],
    pub(super) high: [u8; 2],
    device: u8,
}

/// Everything of a drive that can change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct State {
    file: TaskFile,
    status: u8,
    error: u8,
    command: u8,
    phase: Phase,
    /// What moves through the data register, how far it is, and where the block ends.
    buffer: Vec<u8>,
    at: u32,
    end: u32,
    /// On the medium: where what comes next is, and how much.
    offset: u64,
    left: u64,
    /// Bytes of a block.
    block: u32,
    writes: bool,
    multiple: u8,
    mode: u8,
    heads: u8,
    sectors: u8,
    sense: Sense,
    /// The packet wants the bus master.
    by_bus_master: bool,
}

/// A drive.
#[derive(Clone, Debug)]
pub(super) struct Drive {
    // Configuration.
    pub(super) media: Media,
    /// Which of the card's drives it is.
    pub(super) number: usize,
    pub(super) state: State,
}

impl State {
    fn new() -> State {
        State {
            file: TaskFile::default(),
            status: 0,
            error: 0,
            command: 0,
            phase: Phase::Idle,
            buffer: Vec::new(),
            at: 0,
            end: 0,
            offset: 0,
            left: 0,
            block: 0,
            writes: false,
            multiple: MULTIPLE_MAX,
            mode: 0,
            heads: identify::HEADS,
            sectors: identify::SECTORS,
            sense: Sense::default(),
            by_bus_master: false,
        }
    }
}

impl Drive {
    pub(super) fn new(media: Media, number: usize) -> Drive {
        let mut drive = Drive { media, number, state: State::new() };
        drive.reset();
        drive
    }

    fn is_packet(&self) -> bool {
        matches!(self.media, Media::Cd { .. })
    }

    fn bytes(&self) -> u64 {
        match self.media {
            Media::Disk { sectors, .. } => sectors.saturating_mul(SECTOR),
            Media::Cd { sectors } => sectors.saturating_mul(CD_SECTOR),
        }
    }

    /// A reset: what the drive is shows in the registers (9.12).
    pub(super) fn reset(&mut self) {
        let mode = self.state.mode;
        self.state = State { mode, ..State::new() };
        self.state.error = DIAGNOSTIC_PASSED;
        self.show_signature();
        self.state.status = if self.is_packet() { 0 } else { status::DRDY | status::DSC };
    }

    fn show_signature(&mut self) {
        let (mid, high) = if self.is_packet() { (0x14, 0xeb) } else { (0, 0) };
        let file = &mut self.state.file;
        (file.count, file.low) = ([1, 0], [1, 0]);
        (file.mid, file.high) = ([mid, 0], [high, 0]);
    }

    /// The reset bit is set.
    pub(super) fn hold(&mut self) {
        self.state.phase = Phase::Held;
        self.state.status = status::BSY;
    }

    pub(super) fn status(&self) -> u8 {
        self.state.status
    }

    /// Reads registers 1 to 5.
    pub(super) fn register(&self, register: u8, previous: bool) -> u8 {
        let file = &self.state.file;
        let which = usize::from(previous);
        match register {
            1 => self.state.error,
            2 => file.count[which],
            3 => file.low[which],
            4 => file.mid[which],
            5 => file.high[which],
            _ => 0,
        }
    }

    /// Writes registers 1 to 6.
    pub(super) fn set_register(&mut self, register: u8, value: u8) {
        let file = &mut self.state.file;
        let pair = match register {
            1 => &mut file.features,
            2 => &mut file.count,
            3 => &mut file.low,
            4 => &mut file.mid,
            5 => &mut file.high,
            6 => return file.device = value,
            _ => return,
        };
        *pair = [value, pair[0]];
    }

    /// Whether a command that is written now is obeyed.
    pub(super) fn accepts(&self, command: u8) -> bool {
        const DEVICE_RESET: u8 = 0x08;
        self.state.status & status::BSY == 0
            || command == DEVICE_RESET && self.is_packet() && self.state.phase != Phase::Held
    }

    pub(super) fn command(&mut self, command: u8) -> Need {
        let state = &mut self.state;
        state.command = command;
        state.error = 0;
        state.status = status::BSY;
        state.phase = Phase::Command;
        state.buffer.clear();
        (state.at, state.end, state.left) = (0, 0, 0);
        Need::Look { after_ns: COMMAND_NS }
    }

    /// How long the bus master will take; `None` while the drive does not wait for it.
    pub(super) fn transfer_ns(&self) -> Option<u64> {
        let State { phase, left, buffer, .. } = &self.state;
        let bytes = (*left).max(buffer.len() as u64);
        (*phase == Phase::Transfer).then(|| COMMAND_NS + bytes / BYTES_PER_NS)
    }

    /// Does what the drive was to be looked at for.
    pub(super) fn look(
        &mut self,
        bus: Option<&mut dyn Bus>,
        around: &mut dyn Surroundings,
    ) -> Result<Need, HostFailed> {
        match self.state.phase {
            Phase::Command => Ok(self.execute()),
            Phase::LoadBlock => self.load(around),
            Phase::StoreBlock if self.state.command == PACKET_COMMAND => Ok(self.packet()),
            Phase::StoreBlock => self.store(around),
            Phase::Transfer => match bus {
                Some(bus) => self.transfer(bus, around),
                None => Ok(Need::Nothing),
            },
            Phase::Idle | Phase::Held | Phase::DataIn | Phase::DataOut | Phase::Packet => {
                Ok(Need::Nothing)
            }
        }
    }

    // How commands end.

    fn ready(&mut self) -> u8 {
        if self.is_packet() { status::DRDY } else { status::DRDY | status::DSC }
    }

    pub(super) fn done(&mut self) -> Need {
        self.state.phase = Phase::Idle;
        self.state.status = self.ready();
        if self.state.command == PACKET_COMMAND {
            self.state.file.count[0] = REASON_COMMAND | REASON_TO_HOST;
        }
        Need::Interrupt
    }

    fn failed(&mut self, error: u8) -> Need {
        self.done();
        self.state.status |= status::ERR;
        self.state.error = error;
        Need::Interrupt
    }

    pub(super) fn sense(&mut self, sense: Sense) -> Need {
        self.state.sense = sense;
        self.failed(sense.key << 4 | ABORTED)
    }

    pub(super) fn last_sense(&mut self) -> Sense {
        std::mem::take(&mut self.state.sense)
    }

    // Data to and from the host.

    /// Shows the host a block of the buffer.
    fn show_block(&mut self) -> Need {
        let limit = match self.state.command {
            PACKET_COMMAND => self.byte_limit(),
            _ => BLOCK_MAX as u32,
        };
        let state = &mut self.state;
        state.end = (state.at.saturating_add(limit)).min(state.buffer.len() as u32);
        if state.command == PACKET_COMMAND {
            let bytes = (state.end - state.at) as u16;
            [state.file.mid[0], state.file.high[0]] = bytes.to_le_bytes();
            state.file.count[0] = REASON_TO_HOST;
        }
        state.phase = Phase::DataIn;
        self.state.status = self.ready() | status::DRQ;
        Need::Interrupt
    }

    /// What a packet device may show at a time: the byte count that the host wrote with the command.
    fn byte_limit(&self) -> u32 {
        self.state.block.max(2)
    }

    /// Lets the host have bytes.
    pub(super) fn give(&mut self, bytes: Vec<u8>) -> Need {
        let state = &mut self.state;
        state.left = 0;
        if bytes.is_empty() {
            return self.done();
        }
        state.buffer = bytes;
        (state.at, state.end) = (0, 0);
        if state.command == PACKET_COMMAND && state.by_bus_master {
            return self.wait_for_bus_master();
        }
        self.show_block()
    }

    /// Lets the host have, or brings, a piece of the medium. `block`: bytes of a block through the data register; `None`: by the
    /// bus master.
    pub(super) fn flow(
        &mut self,
        offset: u64,
        bytes: u64,
        block: Option<u32>,
        writes: bool,
    ) -> Need {
        let state = &mut self.state;
        state.buffer.clear();
        (state.at, state.end) = (0, 0);
        (state.offset, state.left, state.writes) = (offset, bytes, writes);
        let Some(block) = block else { return self.wait_for_bus_master() };
        state.block = block;
        if writes {
            return self.ask_for_block();
        }
        state.phase = Phase::LoadBlock;
        Need::Look { after_ns: BLOCK_NS }
    }

    fn wait_for_bus_master(&mut self) -> Need {
        self.state.phase = Phase::Transfer;
        self.state.status = self.ready() | status::DRQ;
        Need::BusMaster
    }

    fn ask_for_block(&mut self) -> Need {
        let state = &mut self.state;
        let bytes = state.left.min(state.block.into()) as u32;
        state.buffer = vec![0; bytes as usize];
        (state.at, state.end) = (0, bytes);
        state.phase = Phase::DataOut;
        self.state.status = self.ready() | status::DRQ;
        Need::Nothing
    }

    fn load(&mut self, around: &mut dyn Surroundings) -> Result<Need, HostFailed> {
        let state = &mut self.state;
        let bytes = state.left.min(state.block.into());
        let mut buffer = vec![0; bytes as usize];
        around.read_drive(self.number, state.offset, &mut buffer)?;
        state.buffer = buffer;
        (state.at, state.end) = (0, 0);
        state.offset += bytes;
        state.left -= bytes;
        Ok(self.show_block())
    }

    fn store(&mut self, around: &mut dyn Surroundings) -> Result<Need, HostFailed> {
        let state = &mut self.state;
        let buffer = std::mem::take(&mut state.buffer);
        (state.at, state.end) = (0, 0);
        // The buffer is no longer than what is left.
        around.write_drive(self.number, state.offset, &buffer)?;
        state.offset += buffer.len() as u64;
        state.left -= buffer.len() as u64;
        if state.left == 0 {
            return Ok(self.done());
        }
        self.ask_for_block();
        Ok(Need::Interrupt)
    }

    fn transfer(
        &mut self,
        bus: &mut dyn Bus,
        around: &mut dyn Surroundings,
    ) -> Result<Need, HostFailed> {
        let State { offset, left, writes, .. } = self.state;
        let buffer = std::mem::take(&mut self.state.buffer);
        (self.state.at, self.state.end, self.state.left) = (0, 0, 0);
        let whole = if !buffer.is_empty() {
            bus.to_memory(&buffer, around)
        } else if writes {
            bus.memory_to_drive(self.number, offset, left, around)?
        } else {
            bus.drive_to_memory(self.number, offset, left, around)?
        };
        Ok(if whole { self.done() } else { self.failed(ABORTED) })
    }

    /// Reads the data register.
    pub(super) fn read_data(&mut self, size: u8) -> (u64, Need) {
        let state = &mut self.state;
        if state.phase != Phase::DataIn {
            return (0, Need::Nothing);
        }
        let mut value = [0; 8];
        let from = &state.buffer[state.at as usize..state.end as usize];
        let bytes = from.len().min(usize::from(size.min(8)));
        value[..bytes].copy_from_slice(&from[..bytes]);
        state.at += bytes as u32;
        let need = if state.at < state.end {
            Need::Nothing
        } else if (state.end as usize) < state.buffer.len() {
            self.show_block()
        } else if state.left > 0 {
            state.phase = Phase::LoadBlock;
            state.status = status::BSY;
            Need::Look { after_ns: BLOCK_NS }
        } else {
            // A disk's last block was its last interrupt.
            match self.done() {
                Need::Interrupt if self.state.command == PACKET_COMMAND => Need::Interrupt,
                _ => Need::Nothing,
            }
        };
        (u64::from_le_bytes(value), need)
    }

    /// Writes the data register.
    pub(super) fn write_data(&mut self, size: u8, value: u64) -> Need {
        let state = &mut self.state;
        if !matches!(state.phase, Phase::DataOut | Phase::Packet) {
            return Need::Nothing;
        }
        let into = &mut state.buffer[state.at as usize..state.end as usize];
        let bytes = into.len().min(usize::from(size.min(8)));
        into[..bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
        state.at += bytes as u32;
        if state.at < state.end {
            return Need::Nothing;
        }
        state.phase = Phase::StoreBlock;
        state.status = status::BSY;
        Need::Look { after_ns: BLOCK_NS }
    }

    // Commands.

    fn execute(&mut self) -> Need {
        match self.media {
            Media::Disk { read_only, .. } => self.execute_disk(read_only),
            Media::Cd { .. } => self.execute_packet_device(),
        }
    }

    fn execute_packet_device(&mut self) -> Need {
        match self.state.command {
            PACKET_COMMAND => {
                let file = &mut self.state.file;
                let by_bus_master = file.features[0] & 1 != 0;
                let limit = u16::from_le_bytes([file.mid[0], file.high[0]]) & !1;
                file.count[0] = REASON_COMMAND;
                self.state.by_bus_master = by_bus_master;
                self.state.block = if limit == 0 { 0xfffe } else { limit.into() };
                self.state.buffer = vec![0; PACKET];
                (self.state.at, self.state.end) = (0, PACKET as u32);
                self.state.phase = Phase::Packet;
                self.state.status = self.ready() | status::DRQ;
                Need::Nothing
            }
            // IDENTIFY PACKET DEVICE.
            0xa1 => self.give(identify::cd(self.number, self.state.mode)),
            // DEVICE RESET.
            0x08 => {
                self.reset();
                Need::Nothing
            }
            // IDENTIFY DEVICE and READ SECTORS: it is no disk, and says so (9.12).
            0xec | 0x20 => {
                let need = self.failed(ABORTED);
                self.show_signature();
                need
            }
            0xef => self.set_features(),
            // FLUSH CACHE, IDLE and STANDBY, CHECK POWER MODE.
            0xe7 | 0xe0..=0xe3 | 0xe6 => self.done(),
            0xe5 => self.power_mode(),
            _ => self.failed(ABORTED),
        }
    }

    /// The packet has come.
    fn packet(&mut self) -> Need {
        let mut packet = [0; PACKET];
        for (to, from) in packet.iter_mut().zip(std::mem::take(&mut self.state.buffer)) {
            *to = from;
        }
        (self.state.at, self.state.end) = (0, 0);
        let Media::Cd { sectors } = self.media else { return self.failed(ABORTED) };
        self.obey(&packet, sectors)
    }

    /// Moves sectors of a CD as the packet's command said.
    pub(super) fn flow_cd(&mut self, sector: u64, count: u64) -> Need {
        let block = (!self.state.by_bus_master).then_some(self.state.block);
        self.flow(sector * CD_SECTOR, count * CD_SECTOR, block, false)
    }

    fn execute_disk(&mut self, read_only: bool) -> Need {
        let one = SECTOR as u32;
        let multiple = u32::from(self.state.multiple) * one;
        match self.state.command {
            0x20 | 0x21 => self.sectors(false, Some(one), false, read_only),
            0x24 => self.sectors(true, Some(one), false, read_only),
            0x29 if multiple > 0 => self.sectors(true, Some(multiple), false, read_only),
            0xc4 if multiple > 0 => self.sectors(false, Some(multiple), false, read_only),
            0xc8 | 0xc9 => self.sectors(false, None, false, read_only),
            0x25 => self.sectors(true, None, false, read_only),
            0x30 | 0x31 => self.sectors(false, Some(one), true, read_only),
            0x34 => self.sectors(true, Some(one), true, read_only),
            0x39 if multiple > 0 => self.sectors(true, Some(multiple), true, read_only),
            0xc5 if multiple > 0 => self.sectors(false, Some(multiple), true, read_only),
            0xca | 0xcb => self.sectors(false, None, true, read_only),
            0x35 => self.sectors(true, None, true, read_only),
            // READ VERIFY.
            0x40 | 0x41 => self.verify(false),
            0x42 => self.verify(true),
            0xec => {
                let state = &self.state;
                let geometry = (state.heads, state.sectors);
                let identity = identify::disk(
                    self.number,
                    self.bytes() / SECTOR,
                    state.multiple,
                    state.mode,
                    geometry,
                );
                self.give(identity)
            }
            0xef => self.set_features(),
            0xc6 => match self.state.file.count[0] {
                count @ 0..=MULTIPLE_MAX if count == 0 || count.is_power_of_two() => {
                    self.state.multiple = count;
                    self.done()
                }
                _ => self.failed(ABORTED),
            },
            // INITIALIZE DEVICE PARAMETERS: the geometry that the host wants to address by.
            0x91 => {
                self.state.heads = (self.state.file.device & 0xf) + 1;
                self.state.sectors = self.state.file.count[0].max(1);
                self.done()
            }
            // RECALIBRATE, SEEK, FLUSH CACHE (EXT), IDLE and STANDBY.
            0x10..=0x1f | 0x70 | 0xe7 | 0xea | 0xe0..=0xe3 | 0xe6 => self.done(),
            0xe5 => self.power_mode(),
            // READ NATIVE MAX ADDRESS (EXT).
            0xf8 => self.native_max(false),
            0x27 => self.native_max(true),
            _ => self.failed(ABORTED),
        }
    }

    fn power_mode(&mut self) -> Need {
        // Active or idle.
        self.state.file.count[0] = 0xff;
        self.done()
    }

    fn set_features(&mut self) -> Need {
        match self.state.file.features[0] {
            // Transfer mode: PIO and multiword DMA.
            0x03 => match self.state.file.count[0] {
                0x00..=0x01 | 0x08..=0x0c => self.done(),
                mode @ 0x20..=0x22 => {
                    self.state.mode = mode;
                    self.done()
                }
                _ => self.failed(ABORTED),
            },
            // Caches, look-ahead, defaults, power management: taken note of, without effect.
            0x02 | 0x82 | 0x55 | 0xaa | 0x66 | 0xcc | 0x05 | 0x85 | 0x42 | 0xc2 => self.done(),
            _ => self.failed(ABORTED),
        }
    }

    /// What the task file addresses: first sector and count.
    fn address(&self, extended: bool) -> Option<(u64, u64)> {
        const BY_BLOCK: u8 = 1 << 6;
        let State { file, heads, sectors, .. } = &self.state;
        let at = |pair: [u8; 2], which: usize| u64::from(pair[which]);
        let current = at(file.low, 0) | at(file.mid, 0) << 8 | at(file.high, 0) << 16;
        if extended {
            let previous = at(file.low, 1) | at(file.mid, 1) << 8 | at(file.high, 1) << 16;
            let count = at(file.count, 0) | at(file.count, 1) << 8;
            return Some((previous << 24 | current, if count == 0 { 0x1_0000 } else { count }));
        }
        let count = if file.count[0] == 0 { 256 } else { at(file.count, 0) };
        let nibble = u64::from(file.device & 0xf);
        if file.device & BY_BLOCK != 0 {
            return Some((nibble << 24 | current, count));
        }
        let cylinder = at(file.mid, 0) | at(file.high, 0) << 8;
        let sector = at(file.low, 0).checked_sub(1)?;
        let track = cylinder * u64::from(*heads) + nibble;
        Some((track * u64::from(*sectors) + sector, count))
    }

    /// The same, if it is on the disk.
    fn range(&self, extended: bool) -> Option<(u64, u64)> {
        let (first, count) = self.address(extended)?;
        (first + count <= self.bytes() / SECTOR).then_some((first, count))
    }

    fn sectors(
        &mut self,
        extended: bool,
        block: Option<u32>,
        writes: bool,
        read_only: bool,
    ) -> Need {
        if writes && read_only {
            return self.failed(ABORTED);
        }
        match self.range(extended) {
            Some((first, count)) => self.flow(first * SECTOR, count * SECTOR, block, writes),
            None => self.failed(ID_NOT_FOUND),
        }
    }

    fn verify(&mut self, extended: bool) -> Need {
        match self.range(extended) {
            Some(_) => self.done(),
            None => self.failed(ID_NOT_FOUND),
        }
    }

    fn native_max(&mut self, extended: bool) -> Need {
        let last = (self.bytes() / SECTOR).saturating_sub(1);
        let last = if extended { last } else { last.min(0x0fff_ffff) };
        let [low, mid, high, low1, mid1, high1, _, _] = last.to_le_bytes();
        let file = &mut self.state.file;
        if extended {
            (file.low, file.mid, file.high) = ([low, low1], [mid, mid1], [high, high1]);
        } else {
            (file.low[0], file.mid[0], file.high[0]) = (low, mid, high);
            file.device = file.device & 0xf0 | low1 & 0xf;
        }
        self.done()
    }
}

/// PACKET.
const PACKET_COMMAND: u8 = 0xa0;

mod save_restore {
    use super::*;

    impl Drive {
        pub(in super::super) fn save(&self) -> State {
            self.state.clone()
        }

        pub(in super::super) fn restore(&mut self, state: State) -> Result<(), RestoreError> {
            let check = |valid, field| RestoreError::unless(valid, "an IDE drive", field);
            check(state.buffer.len() <= BLOCK_MAX, "buffer")?;
            check(state.at <= state.end && state.end as usize <= state.buffer.len(), "at")?;
            let end = state.offset.checked_add(state.left);
            check(end.is_some_and(|end| end <= self.bytes()), "left")?;
            check(state.block as usize <= BLOCK_MAX, "block")?;
            let flows = matches!(state.phase, Phase::LoadBlock | Phase::DataIn | Phase::DataOut);
            check(!flows || state.left == 0 || state.block > 0, "block")?;
            let moving = match state.phase {
                Phase::DataIn | Phase::DataOut | Phase::Packet => state.at < state.end,
                Phase::StoreBlock if state.command != PACKET_COMMAND => {
                    !state.buffer.is_empty()
                        && state.buffer.len() as u64 <= state.left
                        && state.writes
                }
                Phase::LoadBlock => state.left > 0,
                Phase::Transfer => state.left > 0 || !state.buffer.is_empty(),
                Phase::Idle | Phase::Held | Phase::Command | Phase::StoreBlock => true,
            };
            check(moving, "phase")?;
            let out = state.phase != Phase::DataOut || state.buffer.len() as u64 <= state.left;
            check(out, "phase")?;
            let writable = matches!(self.media, Media::Disk { read_only: false, .. });
            check(writable || !state.writes, "writes")?;
            check(state.multiple <= MULTIPLE_MAX, "multiple")?;
            check(state.heads > 0 && state.sectors > 0, "heads")?;
            self.state = state;
            Ok(())
        }
    }
}

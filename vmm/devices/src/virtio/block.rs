//! The virtio block device (virtio 1.2, 5.2): a disk.
//!
//! Requests are looked at a fixed time after the notification, all that wait then at once, each transferred whole; what
//! was transferred keeps the device busy for a time in proportion, in which it looks at nothing. So nothing is ever under way
//! between two looks, and there is nothing of a request to save.
//!
//! Not modelled: discard, write zeroes, several queues, lifetime, zones.

use super::function::Device;
use super::queue::{Chain, Segment, gather, scatter, skip, total};
use super::transport::Transport;
use crate::RestoreError;
use crate::card::{HostFailed, Surroundings};
use dejavm_units::GuestNs;
use serde::{Deserialize, Serialize};

/// Requests that may wait.
const QUEUE: u16 = 256;
/// From a notification to a look at the queue.
const LATENCY_NS: u64 = 20_000;
/// Bytes moved in a nanosecond: 2 GB/s.
const BYTES_PER_NS: u64 = 2;
/// What a request costs beside its bytes, as bytes.
const REQUEST_COST: u64 = 4096;
/// After so many bytes a look ends.
const LOOK_BYTES: u64 = 8 << 20;

/// Bytes of a segment, and segments of a request, that a driver may use at most.
const SEGMENT_BYTES_MAX: u32 = 256 << 10;
const SEGMENTS_MAX: u32 = 126;
/// Beyond this a request is an error.
const REQUEST_BYTES_MAX: u64 = SEGMENT_BYTES_MAX as u64 * SEGMENTS_MAX as u64;

const SECTOR: u64 = 512;

mod feature {
    pub(super) const SIZE_MAX: u64 = 1 << 1;
    pub(super) const SEG_MAX: u64 = 1 << 2;
    pub(super) const RO: u64 = 1 << 5;
    pub(super) const BLK_SIZE: u64 = 1 << 6;
    pub(super) const FLUSH: u64 = 1 << 9;
    pub(super) const TOPOLOGY: u64 = 1 << 10;
}

/// Types of request.
mod request {
    pub(super) const IN: u32 = 0;
    pub(super) const OUT: u32 = 1;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const GET_ID: u32 = 8;
}

/// The last byte of each request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Status {
    Ok = 0,
    Error = 1,
    Unsupported = 2,
}

/// What became of a request.
struct Done {
    /// Bytes between disk and memory.
    moved: u64,
    /// Bytes written to memory.
    written: u64,
    status: Status,
}

/// Bytes of a serial number.
pub const SERIAL_BYTES: usize = 20;

/// What can change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    due: Option<GuestNs>,
    free_at: GuestNs,
}

/// A disk.
#[derive(Clone, Debug)]
pub struct Block {
    // Configuration.
    sectors: u64,
    read_only: bool,
    serial: [u8; SERIAL_BYTES],
    // State.
    /// When the queue is looked at.
    due: Option<GuestNs>,
    /// Until when the device is busy.
    free_at: GuestNs,
}

impl Block {
    /// A disk of so many bytes (what is no whole sector of 512 bytes is not seen), with a serial number, cut to
    /// [`SERIAL_BYTES`].
    pub fn new(bytes: u64, read_only: bool, serial: &str) -> Block {
        let mut padded = [0; SERIAL_BYTES];
        for (to, from) in padded.iter_mut().zip(serial.bytes()) {
            *to = from;
        }
        let sectors = bytes / SECTOR;
        Block { sectors, read_only, serial: padded, due: None, free_at: GuestNs(0) }
    }

    /// Does a request.
    fn perform(&self, chain: &Chain, around: &mut dyn Surroundings) -> Result<Done, HostFailed> {
        let done = |status| Ok(Done { moved: 0, written: 0, status });
        let mut header = [0; 16];
        if gather(&chain.readable, &mut header, around) < header.len() {
            return done(Status::Error);
        }
        let [kind @ .., _, _, _, _, _, _, _, _, _, _, _, _] = header;
        let [_, _, _, _, _, _, _, _, sector @ ..] = header;
        let (kind, sector) = (u32::from_le_bytes(kind), u64::from_le_bytes(sector));
        match kind {
            request::IN => {
                let bytes = total(&chain.writable).saturating_sub(1);
                let Some(offset) = self.range(sector, bytes) else { return done(Status::Error) };
                self.each(&chain.writable, offset, bytes, |offset, segment| {
                    around.drive_to_memory(0, offset, segment.at, segment.bytes)
                })?;
                Ok(Done { moved: bytes, written: bytes, status: Status::Ok })
            }
            request::OUT => {
                let bytes = total(&chain.readable) - header.len() as u64;
                let offset = self.range(sector, bytes).filter(|_| !self.read_only);
                let Some(offset) = offset else { return done(Status::Error) };
                let data = skip(&chain.readable, header.len() as u64);
                self.each(&data, offset, bytes, |offset, segment| {
                    around.memory_to_drive(0, offset, segment.at, segment.bytes)
                })?;
                Ok(Done { moved: bytes, written: 0, status: Status::Ok })
            }
            // What was written is the machine's already.
            request::FLUSH => done(Status::Ok),
            request::GET_ID => {
                let room = total(&chain.writable).saturating_sub(1).min(SERIAL_BYTES as u64);
                scatter(&chain.writable, &self.serial[..room as usize], around);
                Ok(Done { moved: 0, written: room, status: Status::Ok })
            }
            _ => done(Status::Unsupported),
        }
    }

    /// Where on the disk; `None` if it is not wholly there, or more than a request may be.
    fn range(&self, sector: u64, bytes: u64) -> Option<u64> {
        let sectors = bytes / SECTOR;
        let whole = bytes.is_multiple_of(SECTOR) && bytes <= REQUEST_BYTES_MAX;
        let end = sector.checked_add(sectors)?;
        (whole && end <= self.sectors).then(|| sector * SECTOR)
    }

    /// Goes through the segments until `bytes` are done.
    fn each(
        &self,
        segments: &[Segment],
        offset: u64,
        bytes: u64,
        mut transfer: impl FnMut(u64, Segment) -> Result<(), HostFailed>,
    ) -> Result<(), HostFailed> {
        let mut done = 0;
        for segment in segments {
            let piece = u64::from(segment.bytes).min(bytes - done);
            if piece > 0 {
                transfer(offset + done, Segment { bytes: piece as u32, ..*segment })?;
            }
            done += piece;
        }
        Ok(())
    }

    /// Takes requests until none waits or it was enough; how many bytes they count for, and whether more wait.
    fn look(
        &self,
        transport: &mut Transport,
        around: &mut dyn Surroundings,
    ) -> Result<(u64, bool), HostFailed> {
        let mut cost = 0;
        while cost < LOOK_BYTES {
            let chain = match transport.queue(0).take(around) {
                Ok(Some(chain)) => chain,
                Ok(None) => return Ok((cost, false)),
                Err(_broken) => {
                    transport.needs_reset();
                    return Ok((cost, false));
                }
            };
            let Done { moved, mut written, status } = self.perform(&chain, around)?;
            cost += REQUEST_COST + moved;
            // The status is the last byte of what the device writes; a driver that leaves no room for it gets none.
            if let Some(before) = total(&chain.writable).checked_sub(1) {
                scatter(&skip(&chain.writable, before), &[status as u8], around);
                written += 1;
            }
            let written = u32::try_from(written).unwrap_or(u32::MAX);
            transport.queue(0).give_back(chain.head, written, around);
        }
        Ok((cost, true))
    }
}

impl Device for Block {
    type State = State;
    const NAME: &'static str = "the virtio block device";
    const KIND: u16 = 2;
    // SCSI storage controller, as QEMU has it.
    const CLASS: u32 = 0x01_00_00;

    fn features(&self) -> u64 {
        let always = feature::SIZE_MAX
            | feature::SEG_MAX
            | feature::BLK_SIZE
            | feature::FLUSH
            | feature::TOPOLOGY;
        if self.read_only { always | feature::RO } else { always }
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE]
    }

    fn registers(&self) -> Vec<u8> {
        let mut bytes = vec![0; 60];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &self.sectors.to_le_bytes());
        put(8, &SEGMENT_BYTES_MAX.to_le_bytes());
        put(12, &SEGMENTS_MAX.to_le_bytes());
        put(20, &(SECTOR as u32).to_le_bytes());
        // Physical blocks of 2^3 sectors: those of the overlay.
        put(24, &[3, 0]);
        put(26, &1u16.to_le_bytes());
        bytes
    }

    fn notified(&mut self, _queue: u16, now: GuestNs) {
        if self.due.is_none() {
            // At the end of time nothing comes any more.
            self.due = now.0.checked_add(LATENCY_NS).map(|at| GuestNs(at).max(self.free_at));
        }
    }

    fn deadline(&self) -> Option<GuestNs> {
        self.due
    }

    fn service(&mut self, now: GuestNs, transport: &mut Transport, around: &mut dyn Surroundings) {
        // Where the host has failed the machine ends.
        let Ok((cost, more)) = self.look(transport, around) else { return self.due = None };
        let free_at = now.0.checked_add(cost / BYTES_PER_NS).map(GuestNs);
        self.free_at = free_at.unwrap_or(GuestNs(u64::MAX));
        self.due = free_at.filter(|_| more);
        if !more {
            transport.listen(0, around);
        }
        transport.tell(0, around);
    }

    fn reset(&mut self) {
        self.due = None;
        self.free_at = GuestNs(0);
    }

    fn save(&self) -> State {
        let Block { sectors: _, read_only: _, serial: _, due, free_at } = self;
        State { due: *due, free_at: *free_at }
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        let State { due, free_at } = state;
        self.due = due;
        self.free_at = free_at;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::card::Card;
    use crate::testing::Machine;
    use crate::virtio::Function;
    use crate::virtio::driver::{DATA, REQUESTS, offer, start, used};

    const DISK: u64 = 64 * 512;

    fn machine(read_only: bool) -> Machine<Function<Block>> {
        let card = Function::new(Block::new(DISK, read_only, "dejavm-0"));
        let mut machine = Machine::new(card, 0x4000, DISK as usize);
        start(&mut machine, 0, 0);
        machine
    }

    /// Puts a request's header into memory, `slot` of several.
    fn header(machine: &mut Machine<Function<Block>>, slot: u64, kind: u32, sector: u64) -> u64 {
        let at = (REQUESTS + 32 * slot) as usize;
        machine.memory.bytes[at..at + 4].copy_from_slice(&kind.to_le_bytes());
        machine.memory.bytes[at + 8..at + 16].copy_from_slice(&sector.to_le_bytes());
        machine.memory.bytes[at + 16] = 0xee;
        REQUESTS + 32 * slot
    }

    fn status(machine: &Machine<Function<Block>>, slot: u64) -> u8 {
        machine.memory.bytes[(REQUESTS + 32 * slot + 16) as usize]
    }

    fn request(
        read_only: bool,
        kind: u32,
        sector: u64,
        bytes: u32,
    ) -> (u8, Machine<Function<Block>>) {
        let mut machine = machine(read_only);
        machine.memory.drive.fill(0xdd);
        machine.memory.bytes[0x1000..0x2000].fill(0xaa);
        let at = header(&mut machine, 0, kind, sector);
        let device_writes = kind != 1;
        let pieces = [(at, 16, false), (DATA, bytes, device_writes), (at + 16, 1, true)];
        offer(&mut machine, 0, 0, &pieces, GuestNs(1000));
        machine.advance(GuestNs(1_000_000));
        (status(&machine, 0), machine)
    }

    #[test]
    fn reads_and_writes_reach_the_disk_after_the_latency() {
        let mut machine = machine(false);
        machine.memory.bytes[0x1000..0x1200].fill(0x5a);
        let at = header(&mut machine, 0, 1, 3);
        offer(
            &mut machine,
            0,
            0,
            &[(at, 16, false), (DATA, 512, false), (at + 16, 1, true)],
            GuestNs(50),
        );
        assert_eq!(machine.deadline(), Some(GuestNs(20_050)));
        machine.advance(GuestNs(20_049));
        assert_eq!((used(&machine), machine.card.interrupt()), (0, false));
        machine.advance(GuestNs(20_050));
        assert_eq!((used(&machine), status(&machine, 0)), (1, 0));
        assert!(machine.card.interrupt());
        assert_eq!(machine.card.read(0, 0x1000, 1, GuestNs(20_051)), 1);
        assert!(!machine.card.interrupt(), "reading the status takes it back");
        assert_eq!(machine.memory.drive[3 * 512 - 1..3 * 512 + 1], [0, 0x5a]);

        let at = header(&mut machine, 1, 0, 3);
        offer(
            &mut machine,
            0,
            4,
            &[(at, 16, false), (0x2000, 512, true), (at + 16, 1, true)],
            GuestNs(30_000),
        );
        machine.advance(GuestNs(60_000));
        assert_eq!((used(&machine), status(&machine, 1)), (2, 0));
        assert!(machine.memory.bytes[0x2000..0x2200].iter().all(|byte| *byte == 0x5a));
    }

    #[test]
    fn what_is_not_on_the_disk_is_an_error() {
        for (kind, sector, bytes) in
            [(0, 63, 1024), (0, u64::MAX, 512), (1, 64, 512), (0, 0, 100), (1, u64::MAX / 512, 512)]
        {
            let (status, machine) = request(false, kind, sector, bytes);
            assert_eq!(status, 1, "{kind} {sector} {bytes}");
            assert!(
                machine.memory.drive.iter().all(|byte| *byte == 0xdd),
                "{kind} {sector} {bytes}"
            );
        }
        assert_eq!(request(false, 99, 0, 512).0, 2, "no such request");
        assert_eq!(request(false, 4, 0, 512).0, 0, "flush");
    }

    #[test]
    fn a_read_only_disk_is_read_and_not_written() {
        assert_eq!(request(true, 0, 0, 512).0, 0);
        let (status, machine) = request(true, 1, 0, 512);
        assert_eq!((status, machine.memory.drive[0]), (1, 0xdd));
        assert_eq!(Block::new(DISK, true, "").features() >> 5 & 1, 1);
        assert_eq!(Block::new(DISK, false, "").features() >> 5 & 1, 0);
    }

    #[test]
    fn a_disk_says_what_it_is() {
        let (status, mut machine) = request(false, 8, 0, 20);
        assert_eq!((status, &machine.memory.bytes[0x1000..0x1009]), (0, &b"dejavm-0\0"[..]));
        let mut read = |at: u64| machine.card.read(0, 0x2000 + at, 8, GuestNs(0));
        assert_eq!((read(0), read(20) & 0xffff_ffff), (64, 512));
    }

    #[test]
    fn a_broken_queue_needs_a_reset_and_gets_one() {
        let mut machine = machine(false);
        machine.memory.bytes[0x102] = 9;
        machine.card.write(0, 0x3000, 2, 0, GuestNs(0));
        machine.advance(GuestNs(100_000));
        assert_eq!(machine.card.read(0, 20, 1, GuestNs(0)), 0x4f, "DEVICE_NEEDS_RESET");
        assert!(machine.card.interrupt());
        machine.card.write(0, 0x3000, 2, 0, GuestNs(0));
        assert_eq!(machine.deadline(), None);
        machine.memory.bytes[0x102] = 0;
        start(&mut machine, 0, 0);
        assert_eq!(machine.card.read(0, 20, 1, GuestNs(0)), 15);
    }
}

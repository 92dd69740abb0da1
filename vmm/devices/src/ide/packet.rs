//! The commands of a CD-ROM drive (SPC-3 and MMC-3): one data track.

use super::drive::{CD_SECTOR, Drive, Need};
use serde::{Deserialize, Serialize};

/// What went wrong last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Sense {
    pub(super) key: u8,
    /// Additional sense code and its qualifier.
    code: [u8; 2],
}

const ILLEGAL_REQUEST: u8 = 5;
const INVALID_COMMAND: Sense = Sense { key: ILLEGAL_REQUEST, code: [0x20, 0] };
const OUT_OF_RANGE: Sense = Sense { key: ILLEGAL_REQUEST, code: [0x21, 0] };
const INVALID_FIELD: Sense = Sense { key: ILLEGAL_REQUEST, code: [0x24, 0] };

/// The lead-out, in a table of contents.
const LEAD_OUT: u8 = 0xaa;
/// A data track that may not be copied.
const DATA_TRACK: u8 = 0x14;
/// Frames before the first sector: two seconds of 75.
const PREGAP: u64 = 150;

fn be16(bytes: [u8; 2]) -> usize {
    u16::from_be_bytes(bytes).into()
}

fn be32(bytes: [u8; 4]) -> u64 {
    u32::from_be_bytes(bytes).into()
}

/// A sector as a table of contents has it: by number, or as minute, second, frame.
fn address(sector: u64, as_time: bool) -> [u8; 4] {
    if !as_time {
        return (sector.min(u32::MAX.into()) as u32).to_be_bytes();
    }
    let frames = sector + PREGAP;
    [0, (frames / (75 * 60)).min(255) as u8, (frames / 75 % 60) as u8, (frames % 75) as u8]
}

impl Drive {
    /// Obeys a packet; the disc has so many sectors.
    pub(super) fn obey(&mut self, packet: &[u8; 12], sectors: u64) -> Need {
        let [operation, a, b, c, d, e, f, g, h, i, _, _] = *packet;
        let first = be32([b, c, d, e]);
        match operation {
            // TEST UNIT READY, START STOP UNIT, PREVENT ALLOW MEDIUM REMOVAL, SYNCHRONIZE CACHE.
            0x00 | 0x1b | 0x1e | 0x35 => self.done(),
            0x03 => {
                let Sense { key, code: [code, qualifier] } = self.last_sense();
                let mut reply = vec![0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, code, qualifier];
                reply.resize(18, 0);
                self.reply(reply, d.into())
            }
            // INQUIRY: without vital product data.
            0x12 if a & 1 != 0 => self.sense(INVALID_FIELD),
            0x12 => {
                let mut reply = vec![5, 0x80, 0, 0x21, 31, 0, 0, 0];
                reply.extend(b"DEJAVM  DEJAVM CD-ROM   1   ");
                self.reply(reply, be16([c, d]))
            }
            0x25 => {
                let last = address(sectors.saturating_sub(1), false);
                self.reply([last, (CD_SECTOR as u32).to_be_bytes()].concat(), 8)
            }
            0x28 => self.read(first, be16([g, h]) as u64, sectors),
            0xa8 => self.read(first, be32([f, g, h, i]), sectors),
            // SEEK.
            0x2b if first < sectors => self.done(),
            0x2b => self.sense(OUT_OF_RANGE),
            0x43 => self.table_of_contents(a & 2 != 0, b, f, i, be16([g, h]), sectors),
            // GET CONFIGURATION: the current profile, a CD-ROM, and no features.
            0x46 => self.reply(vec![0, 0, 0, 4, 0, 0, 0, 8], be16([g, h])),
            // GET EVENT STATUS NOTIFICATION, polled: nothing but a medium that is there.
            0x4a if a & 1 == 0 => self.sense(INVALID_FIELD),
            0x4a if d & 1 << 4 != 0 => self.reply(vec![0, 6, 4, 1 << 4, 0, 2, 0, 0], be16([g, h])),
            0x4a => self.reply(vec![0, 2, 0x80, 1 << 4], be16([g, h])),
            // READ DISC INFORMATION: complete, one session, one track.
            0x51 => {
                let mut reply = vec![0, 32, 0x0e, 1, 1, 1, 1];
                reply.resize(34, 0);
                self.reply(reply, be16([g, h]))
            }
            0x5a => self.mode_sense(b & 0x3f, be16([g, h])),
            // MECHANISM STATUS.
            0xbd => self.reply(vec![0; 8], be16([h, i])),
            _ => self.sense(INVALID_COMMAND),
        }
    }

    /// As much of a reply as the host wants.
    fn reply(&mut self, mut reply: Vec<u8>, wanted: usize) -> Need {
        reply.truncate(wanted);
        self.give(reply)
    }

    fn read(&mut self, first: u64, count: u64, sectors: u64) -> Need {
        if first + count > sectors {
            return self.sense(OUT_OF_RANGE);
        }
        // More than any host asks for: each look moves so much at once.
        const COUNT_MAX: u64 = (32 << 20) / CD_SECTOR;
        match count {
            0 => self.done(),
            1..=COUNT_MAX => self.flow_cd(first, count),
            _ => self.sense(INVALID_FIELD),
        }
    }

    fn table_of_contents(
        &mut self,
        as_time: bool,
        format: u8,
        first: u8,
        control: u8,
        wanted: usize,
        sectors: u64,
    ) -> Need {
        // The format is in the lowest bits of byte 2; older hosts have it in the highest of byte 9.
        let format = if format & 0xf != 0 { format & 0xf } else { control >> 6 };
        let track = |number, sector| {
            let [a, b, c, d] = address(sector, as_time);
            [0, DATA_TRACK, number, 0, a, b, c, d]
        };
        let mut reply = vec![0, 0, 1, 1];
        match format {
            0 if first > 1 && first != LEAD_OUT => return self.sense(INVALID_FIELD),
            0 => {
                if first <= 1 {
                    reply.extend(track(1, 0));
                }
                reply.extend(track(LEAD_OUT, sectors));
            }
            // Sessions.
            1 => reply.extend(track(1, 0)),
            _ => return self.sense(INVALID_FIELD),
        }
        let length = (reply.len() as u16 - 2).to_be_bytes();
        reply[..2].copy_from_slice(&length);
        self.reply(reply, wanted)
    }

    /// Mode pages: error recovery, and what the drive can do.
    fn mode_sense(&mut self, page: u8, wanted: usize) -> Need {
        const RECOVERY: [u8; 8] = [0x01, 6, 0, 5, 0, 0, 0, 0];
        // Reads CD-R; locks, ejects by a tray; 704 kB/s.
        const CAPABILITIES: [u8; 22] = [
            0x2a, 20, 0x03, 0, 0x70, 0x60, 0x29, 0, 2, 0xc0, 0, 2, 2, 0, 2, 0xc0, 0, 0, 0, 0, 0, 0,
        ];
        let mut reply = vec![0; 8];
        if matches!(page, 0x01 | 0x3f) {
            reply.extend(RECOVERY);
        }
        if matches!(page, 0x2a | 0x3f) {
            reply.extend(CAPABILITIES);
        }
        if reply.len() == 8 {
            return self.sense(INVALID_FIELD);
        }
        let length = (reply.len() as u16 - 2).to_be_bytes();
        reply[..2].copy_from_slice(&length);
        self.reply(reply, wanted)
    }
}

//! The IDE function of the PIIX3 (Intel 82371SB, 290550-002, chapter 2.4 and 4.4): two channels at the ports of an AT, each with up
//! to two drives, and bus mastering.
//!
//! A command is looked at some time after it was written; then whatever it needs of the drive is done at once. So between two
//! accesses nothing is under way but what the guest moves through the data register.
//!
//! * `channel`: the registers at the channel's ports, which drive they reach, and the bus master;
//! * `drive`: a drive's task file, the protocols, the commands of a disk (ATA/ATAPI-6);
//! * `packet`: the commands of a CD-ROM (MMC-3);
//! * `identify`: what drives say of themselves.
//!
//! Not modelled: the timing registers' effect, native mode, Ultra DMA, removable media without a medium, audio.

mod channel;
mod drive;
mod identify;
mod packet;

pub use channel::State as ChannelState;

use crate::RestoreError;
use crate::card::{Card, Space, Surroundings, Window};
use crate::pci::Width;
use crate::pci_header::PciHeader;
use channel::Channel;
use dejavm_units::GuestNs;
use serde::{Deserialize, Serialize};

/// IDE timing: a word for each channel, whose highest bit lets it decode its ports.
const IDETIM: u8 = 0x40;
const DECODE: u16 = 1 << 15;
/// The base address register of the bus master.
const BUS_MASTER: u8 = 4;

/// The regions of the windows: command and control block of each channel.
const COMMAND_BLOCKS: [(u8, u64); 2] = [(0, 0x1f0), (2, 0x170)];
const CONTROL_BLOCKS: [(u8, u64); 2] = [(1, 0x3f6), (3, 0x376)];
/// ISA lines of the channels.
const LINES: [u16; 2] = [1 << 14, 1 << 15];

/// What is connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Media {
    /// A disk of so many sectors of 512 bytes.
    Disk {
        /// How many.
        sectors: u64,
        /// The guest cannot write.
        read_only: bool,
    },
    /// A CD-ROM drive with a disc of so many sectors of 2048 bytes.
    Cd {
        /// How many.
        sectors: u64,
    },
}

/// Everything that can change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    header: Vec<u8>,
    channels: [ChannelState; 2],
}

/// The function.
#[derive(Clone, Debug)]
pub struct Ide {
    header: PciHeader,
    channels: [Channel; 2],
}

fn header() -> PciHeader {
    let mut header =
        PciHeader::new(0x8086, 0x7010, 0x01_01_80, 0).with_bar(BUS_MASTER, Space::Ports, 16);
    header.set(0x06, &0x0280u16.to_le_bytes());
    header.allow(IDETIM, &[0xff; 4]);
    header
}

impl Ide {
    /// The function at power-on, with primary master and slave, secondary master and slave. Drive n of the card's surroundings is
    /// the nth that there is.
    pub fn new(media: [Option<Media>; 4]) -> Ide {
        let mut number = 0;
        let numbered = media.map(|media| {
            media.map(|media| {
                number += 1;
                (media, number - 1)
            })
        });
        let [a, b, c, d] = numbered;
        Ide { header: header(), channels: [Channel::new([a, b]), Channel::new([c, d])] }
    }

    /// What firmware does: lets both channels decode their ports.
    pub fn enable(&mut self) {
        self.header.write(IDETIM, Width::Dword, u32::from(DECODE) << 16 | u32::from(DECODE));
        self.header.write(0x04, Width::Word, 0x0001);
    }

    /// The state of the function.
    pub fn save(&self) -> State {
        let Ide { header, channels } = self;
        State { header: header.bytes().to_vec(), channels: channels.each_ref().map(Channel::save) }
    }

    /// Becomes `state`.
    pub fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        let State { header, channels } = state;
        let restored = self.header.restore_bytes(&header);
        RestoreError::unless(restored.is_some(), "the IDE function", "header")?;
        for (channel, state) in self.channels.iter_mut().zip(channels) {
            channel.restore(state)?;
        }
        Ok(())
    }
}

impl Card for Ide {
    fn config_read(&mut self, offset: u8, width: Width, _now: GuestNs) -> u32 {
        self.header.read(offset, width, false)
    }

    fn config_write(&mut self, offset: u8, width: Width, value: u32, _now: GuestNs) {
        self.header.write(offset, width, value);
    }

    fn windows(&self) -> Vec<Window> {
        let mut windows = self.header.windows();
        if self.header.word(0x04) & 1 != 0 {
            for channel in [0, 1] {
                if self.header.word(IDETIM + 2 * channel as u8) & DECODE != 0 {
                    let window = |(region, first), bytes| Window {
                        space: Space::Ports,
                        first,
                        bytes,
                        region,
                    };
                    windows.push(window(COMMAND_BLOCKS[channel], 8));
                    windows.push(window(CONTROL_BLOCKS[channel], 1));
                }
            }
        }
        windows
    }

    fn read(&mut self, region: u8, offset: u64, size: u8, now: GuestNs) -> u64 {
        match region {
            0 | 2 if offset == 0 => self.channels[usize::from(region / 2)].read_data(size, now),
            0 | 2 => by_byte(size, |byte| {
                self.channels[usize::from(region / 2)].read((offset + byte) as u8)
            }),
            1 | 3 => self.channels[usize::from(region / 2)].alternate_status().into(),
            _ => by_byte(size, |byte| {
                let at = (offset + byte) as u8;
                self.channels[usize::from(at / 8 % 2)].read_bus_master(at % 8)
            }),
        }
    }

    fn write(&mut self, region: u8, offset: u64, size: u8, value: u64, now: GuestNs) {
        if matches!(region, 0 | 2) && offset == 0 {
            return self.channels[usize::from(region / 2)].write_data(size, value, now);
        }
        for byte in 0..u64::from(size.min(8)) {
            let (at, value) = ((offset + byte) as u8, (value >> (8 * byte)) as u8);
            match region {
                0 | 2 => self.channels[usize::from(region / 2)].write(at, value, now),
                1 | 3 => self.channels[usize::from(region / 2)].write_control(value),
                _ => self.channels[usize::from(at / 8 % 2)].write_bus_master(at % 8, value, now),
            }
        }
    }

    fn isa_lines(&self) -> u16 {
        let line = |(channel, line): (&Channel, u16)| if channel.irq() { line } else { 0 };
        self.channels.iter().zip(LINES).map(line).sum()
    }

    fn deadline(&self) -> Option<GuestNs> {
        self.channels.iter().filter_map(Channel::deadline).min()
    }

    fn service(&mut self, now: GuestNs, around: &mut dyn Surroundings) {
        let master = self.header.is_master();
        for channel in &mut self.channels {
            if channel.deadline().is_some_and(|deadline| deadline <= now) {
                channel.service(now, master, around);
            }
        }
    }

    fn reset(&mut self) {
        self.header = header();
        self.channels.iter_mut().for_each(Channel::reset);
    }
}

fn by_byte(size: u8, mut read: impl FnMut(u64) -> u8) -> u64 {
    (0..u64::from(size.min(8))).fold(0, |value, byte| value | u64::from(read(byte)) << (8 * byte))
}

#[cfg(test)]
mod tests;

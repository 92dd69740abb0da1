//! What a machine has beyond the board of one processor.

use crate::firmware::Firmware;
use crate::storage::Drive;
use serde::{Deserialize, Serialize};

/// What a machine has beyond one processor and the chips of the board. The default is nothing, and is not in a recording's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "InFile", into = "InFile")]
pub struct Hardware {
    /// Processors, the first one included: 1 to [`Hardware::PROCESSORS_MAX`].
    pub processors: u8,
    /// Instructions of a processor's turn, if there are several processors: not 0.
    pub slice: u32,
    /// Makes turns of different lengths, in a sequence that follows from this number.
    pub schedule_seed: Option<u64>,
    /// Drives. Each belongs to one card.
    pub drives: Vec<Drive>,
    /// Cards on the PCI bus, from device 3 on.
    pub cards: Vec<Card>,
    /// What the machine executes first, if no loader puts a kernel into RAM.
    pub firmware: Option<Firmware>,
    /// Whether there is a display: a VGA, device 2 of the PCI bus.
    pub display: bool,
    /// What the guest's reset does.
    pub on_reset: OnReset,
    /// Whether COM2, COM3 and COM4 exist. COM1 always does.
    pub serial_ports: [bool; 3],
}

/// What becomes of a machine that its guest resets, or that a triple fault does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnReset {
    /// It has ended.
    #[default]
    Ends,
    /// It starts again, with firmware. RAM, guest time, the position and what is connected stay.
    Restarts,
}

/// As files have it: what came later stands at the end, if it is there.
#[derive(Serialize, Deserialize)]
struct InFile {
    processors: u8,
    slice: u32,
    schedule_seed: Option<u64>,
    drives: Vec<Drive>,
    cards: Vec<Card>,
    firmware: Option<Firmware>,
    display: bool,
    #[serde(with = "crate::tail")]
    later: Later,
}

/// What hardware did not have at first. More comes last here, as a tail again.
#[derive(Default, PartialEq, Serialize, Deserialize)]
struct Later {
    on_reset: OnReset,
    #[serde(with = "crate::tail")]
    serial_ports: [bool; 3],
}

impl From<InFile> for Hardware {
    fn from(file: InFile) -> Hardware {
        let InFile { processors, slice, schedule_seed, drives, cards, firmware, display, later } =
            file;
        let Later { on_reset, serial_ports } = later;
        Hardware {
            processors,
            slice,
            schedule_seed,
            drives,
            cards,
            firmware,
            display,
            on_reset,
            serial_ports,
        }
    }
}

impl From<Hardware> for InFile {
    fn from(hardware: Hardware) -> InFile {
        let Hardware {
            processors,
            slice,
            schedule_seed,
            drives,
            cards,
            firmware,
            display,
            on_reset,
            serial_ports,
        } = hardware;
        let later = Later { on_reset, serial_ports };
        InFile { processors, slice, schedule_seed, drives, cards, firmware, display, later }
    }
}

/// A card on the PCI bus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Card {
    /// A virtio disk.
    VirtioBlock {
        /// Which of [`Hardware::drives`].
        drive: u16,
    },
    /// The chipset's IDE function, device 1 function 1: one at most.
    Ide {
        /// Primary master and slave, secondary master and slave.
        drives: [Option<IdeDrive>; 4],
    },
    /// A virtio network card.
    VirtioNet {
        /// Its address.
        mac: [u8; 6],
    },
    /// A virtio source of random bytes.
    VirtioRng {
        /// What the bytes follow from.
        seed: u64,
    },
    /// An e1000 network card.
    E1000 {
        /// Its address.
        mac: [u8; 6],
    },
    /// A virtio console: one at most.
    VirtioConsole,
}

/// What is connected to an IDE channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdeDrive {
    /// Which of [`Hardware::drives`].
    pub drive: u16,
    /// It is a CD-ROM drive, and the contents are its disc's.
    pub cd: bool,
}

impl Card {
    /// The drives that are the card's, in its order.
    pub(crate) fn drives(&self) -> Vec<usize> {
        match self {
            Card::VirtioBlock { drive } => vec![usize::from(*drive)],
            Card::Ide { drives } => {
                drives.iter().flatten().map(|drive| usize::from(drive.drive)).collect()
            }
            Card::VirtioNet { mac: _ }
            | Card::VirtioRng { seed: _ }
            | Card::E1000 { mac: _ }
            | Card::VirtioConsole => Vec::new(),
        }
    }
}

impl Hardware {
    /// Processors at most.
    pub const PROCESSORS_MAX: u8 = 8;
    /// Instructions of a turn unless told.
    pub const SLICE_DEFAULT: u32 = 50_000;
}

impl Default for Hardware {
    fn default() -> Hardware {
        Hardware {
            processors: 1,
            slice: Hardware::SLICE_DEFAULT,
            schedule_seed: None,
            drives: Vec::new(),
            cards: Vec::new(),
            firmware: None,
            display: false,
            on_reset: OnReset::Ends,
            serial_ports: [false; 3],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What files had before machines restarted.
    #[derive(Serialize)]
    struct Before(u8, u32, Option<u64>, Vec<Drive>, Vec<Card>, Option<Firmware>, bool);

    #[test]
    fn a_machine_that_ends_is_in_files_as_it_was() {
        let config = bincode::config::standard();
        let encode = |hardware: &Hardware| bincode::serde::encode_to_vec(hardware, config).unwrap();
        let decode = |bytes: &[u8]| -> Hardware {
            bincode::serde::decode_from_slice(bytes, config).unwrap().0
        };
        let ends = Hardware { display: true, ..Hardware::default() };
        let before = Before(1, Hardware::SLICE_DEFAULT, None, vec![], vec![], None, true);
        let old = bincode::serde::encode_to_vec(before, config).unwrap();
        assert_eq!(encode(&ends), old);
        assert_eq!(decode(&old), ends);
        let restarts = Hardware { on_reset: OnReset::Restarts, ..ends };
        assert_eq!(encode(&restarts).len(), old.len() + 2);
        assert_eq!(decode(&encode(&restarts)), restarts);
        let ports = Hardware { serial_ports: [true, false, false], ..restarts };
        assert_eq!(encode(&ports).len(), old.len() + 2 + 4);
        assert_eq!(decode(&encode(&ports)), ports);
    }
}

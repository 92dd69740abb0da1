//! What enters the machine from the world, and what leaves it.

use crate::debugger_write::Register;
use dejavm_cpu::{Counted, Landmark};
use dejavm_units::Gpa;
use serde::{Deserialize, Serialize};

/// Something that enters the machine from outside. It takes effect at the position and guest time at
/// which it is applied; recordings log it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// Bytes arriving on a serial line.
    Serial {
        /// Which serial port: 0 is COM1, 3 COM4, [`VIRTIO_CONSOLE`](crate::VIRTIO_CONSOLE) the virtio console. Ports that the machine
        /// lacks drop the bytes.
        port: u8,
        /// The bytes, in order.
        bytes: Vec<u8>,
    },
    /// A key of the keyboard goes down or up. It is lost if the guest has the keyboard off or does not
    /// read it.
    Key {
        /// Make code of scan code set 1, without bit 7: 0x1c is Enter.
        code: u8,
        /// With the prefix 0xe0: 0x1c is then the keypad's Enter.
        extended: bool,
        /// Down, or up.
        pressed: bool,
    },
    /// The mouse moves, its wheel turns, or its buttons change.
    Mouse {
        /// Motion to the right, in counts.
        right: i32,
        /// Motion upwards, in counts.
        up: i32,
        /// Turn of the wheel towards the user, in notches.
        wheel: i32,
        /// Buttons that are down: bit 0 left, 1 right, 2 middle.
        buttons: u8,
    },
    /// The ACPI power button is pressed.
    PowerButton,
    /// A debugger writes registers, in order; what [`write_register`](crate::write_register) refuses
    /// changes nothing.
    WriteRegisters {
        /// Each with its new value.
        values: Vec<(Register, u128)>,
    },
    /// A debugger writes RAM. Pages that are not RAM keep what they are.
    WriteMemory {
        /// The first byte's address.
        at: Gpa,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Nothing enters: the next input, digest or end is at the same position, but after exceptions of
    /// its instruction, which completes nothing. So it is where a debugger stops in an exception's
    /// handler, and where a triple fault ends the machine.
    Deliveries {
        /// Interrupts and exceptions delivered since an instruction completed.
        count: u32,
    },
    /// The guest goes on to where it was when it had executed for long without an exit, and time passes there. For machines
    /// whose guest time passes by exits ([`TimeBase::Exits`](crate::TimeBase)) and whose positions are exits: nothing else tells
    /// that instant.
    Landmark {
        /// The instant.
        landmark: Landmark,
        /// Guest time that passes, in microseconds.
        us: u32,
    },
    /// Guest time passes here, on a machine whose guest time passes by exits.
    Time {
        /// So many microseconds.
        us: u32,
    },
    /// Nothing enters: where the landmark is that comes next, at the same position, for who counts branches.
    Counted {
        /// By this count.
        counted: Counted,
    },
    /// Frames arrive at a network card. What it has no room for is lost, and so is what is no Ethernet frame.
    Frames {
        /// Which of the machine's cards. Cards that are no network's drop the frames.
        card: u8,
        /// The frames, in order, from the destination address on.
        frames: Vec<Vec<u8>>,
    },
    /// The cable of a network card is plugged in or pulled out.
    Link {
        /// Which of the machine's cards.
        card: u8,
        /// Whether it is in.
        up: bool,
    },
    /// As [`Input::WriteRegisters`], of another processor than the first.
    WriteRegistersOf {
        /// Its number; nothing happens if there is none.
        processor: u8,
        /// Each with its new value.
        values: Vec<(Register, u128)>,
    },
}

impl Input {
    /// Bytes that it brings, as a recorder counts them against its bounds.
    pub fn bytes(&self) -> usize {
        match self {
            Input::Serial { bytes, .. } | Input::WriteMemory { bytes, .. } => bytes.len(),
            Input::WriteRegisters { values } | Input::WriteRegistersOf { processor: _, values } => {
                size_of_val(values.as_slice())
            }
            Input::Landmark { landmark, us: _ } => landmark.bytes(),
            // A length is three bytes at most.
            Input::Frames { card: _, frames } => frames.iter().map(|frame| frame.len() + 3).sum(),
            Input::Key { .. }
            | Input::Mouse { .. }
            | Input::PowerButton
            | Input::Deliveries { .. }
            | Input::Time { .. }
            | Input::Counted { .. }
            | Input::Link { .. } => 0,
        }
    }
}

/// Something that the guest emitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Bytes sent on a serial line.
    Serial {
        /// Which serial port: 0 is COM1, [`VIRTIO_CONSOLE`](crate::VIRTIO_CONSOLE) the virtio console.
        port: u8,
        /// The bytes, in order.
        bytes: Vec<u8>,
    },
    /// Bytes written to the debug console (ports 0xe9 and 0x402).
    DebugConsole {
        /// The bytes, in order.
        bytes: Vec<u8>,
    },
    /// A frame sent by a network card.
    Frame {
        /// Which of the machine's cards.
        card: u8,
        /// The frame, from the destination address on.
        bytes: Vec<u8>,
    },
}

/// What the guest emitted and nobody has taken yet, neighbours of one kind joined.
#[derive(Default)]
pub(crate) struct OutputQueue {
    queue: Vec<Output>,
}

impl OutputQueue {
    pub(crate) fn serial(&mut self, port: u8, sent: &[u8]) {
        if sent.is_empty() {
            return;
        }
        match self.queue.last_mut() {
            Some(Output::Serial { port: last, bytes }) if *last == port => {
                bytes.extend_from_slice(sent);
            }
            _ => self.queue.push(Output::Serial { port, bytes: sent.to_vec() }),
        }
    }

    pub(crate) fn debug_console(&mut self, byte: u8) {
        match self.queue.last_mut() {
            Some(Output::DebugConsole { bytes }) => bytes.push(byte),
            _ => self.queue.push(Output::DebugConsole { bytes: vec![byte] }),
        }
    }

    pub(crate) fn frame(&mut self, card: u8, bytes: Vec<u8>) {
        self.queue.push(Output::Frame { card, bytes });
    }

    pub(crate) fn take(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.queue)
    }
}

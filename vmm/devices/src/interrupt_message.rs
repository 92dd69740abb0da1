//! What travels on the APIC bus: from the IO-APIC, from message-signalled interrupts and between
//! local APICs (SDM vol. 3A, 11.6 and 11.11).

use serde::{Deserialize, Serialize};

/// How a destination is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum DestinationMode {
    /// An APIC id, or 0xff for all.
    Physical,
    /// A set in the addressing of LDR and DFR.
    Logical,
}

/// What is delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum DeliveryMode {
    /// The vector, to all destinations.
    Fixed,
    /// The vector, to the destination that runs at the lowest priority.
    LowestPriority,
    /// System management interrupt.
    Smi,
    /// Non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// Start-up, at page `vector` of the first megabyte.
    StartUp,
    /// The vector comes from the 8259 pair.
    ExtInt,
}

impl DeliveryMode {
    /// From the three bits of ICR, of an LVT entry, of a redirection entry or of an MSI's data;
    /// `None` for the reserved encoding.
    pub fn from_bits(bits: u8) -> Option<DeliveryMode> {
        match bits & 7 {
            0 => Some(DeliveryMode::Fixed),
            1 => Some(DeliveryMode::LowestPriority),
            2 => Some(DeliveryMode::Smi),
            4 => Some(DeliveryMode::Nmi),
            5 => Some(DeliveryMode::Init),
            6 => Some(DeliveryMode::StartUp),
            7 => Some(DeliveryMode::ExtInt),
            _ => None,
        }
    }
}

/// How an interrupt is triggered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum TriggerMode {
    /// By an edge; nobody hears of its end.
    Edge,
    /// By a level; its end is broadcast to the IO-APICs.
    Level,
}

/// An interrupt on its way to local APICs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InterruptMessage {
    /// Destination, read by `dest_mode`.
    pub dest: u8,
    /// How `dest` is written.
    pub dest_mode: DestinationMode,
    /// What is delivered.
    pub delivery_mode: DeliveryMode,
    /// The vector, for the modes that carry one.
    pub vector: u8,
    /// Edge or level.
    pub trigger: TriggerMode,
}

impl InterruptMessage {
    /// The message that a write of `data` to `address` is (SDM vol. 3A, 11.11: addresses
    /// 0xfee0_0000 to 0xfeef_ffff); `None` for another address or the reserved delivery mode.
    pub fn from_msi(address: u64, data: u32) -> Option<InterruptMessage> {
        if address >> 20 != 0xfee {
            return None;
        }
        let logical = address & (1 << 2) != 0;
        let level = data & (1 << 15) != 0;
        Some(InterruptMessage {
            dest: (address >> 12) as u8,
            dest_mode: if logical { DestinationMode::Logical } else { DestinationMode::Physical },
            delivery_mode: DeliveryMode::from_bits((data >> 8) as u8)?,
            vector: data as u8,
            trigger: if level { TriggerMode::Level } else { TriggerMode::Edge },
        })
    }
}

/// To whom an inter-processor interrupt goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Shorthand {
    /// To the message's destination.
    None,
    /// To every processor.
    AllIncludingSelf,
    /// To every processor but the sender.
    AllExcludingSelf,
}

/// An inter-processor interrupt that a local APIC sends. (One to oneself does not leave the chip.)
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ipi {
    /// To whom.
    pub shorthand: Shorthand,
    /// What; its destination counts only without a shorthand.
    pub message: InterruptMessage,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msi_fields() {
        let message = InterruptMessage::from_msi(0xfee0_300c, 0x4123).unwrap();
        assert_eq!(message.dest, 3);
        assert_eq!(message.dest_mode, DestinationMode::Logical);
        assert_eq!(message.delivery_mode, DeliveryMode::LowestPriority);
        assert_eq!(message.vector, 0x23);
        assert_eq!(message.trigger, TriggerMode::Edge);
        assert_eq!(InterruptMessage::from_msi(0xfed0_0000, 0x23), None);
        assert_eq!(InterruptMessage::from_msi(0xfee0_0000, 0x0323), None);
    }
}

//! Intel 82540EM, a gigabit Ethernet card ("e1000"; PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual,
//! 317453, revision 4.0): for guests without virtio.
//!
//! Register names are the manual's. Frames of the guest's, and those that arrived for it, are moved a fixed time after the driver
//! moved a ring's tail or the frame arrived, all that wait then at once; so interrupts are as rare as that, and the throttling
//! registers only keep their values. A frame that the guest has no descriptor for waits; what there is no room for is lost.
//!
//! Not modelled: statistics (they read 0), VLAN tags that the card inserts or removes, checksums of received frames (descriptors
//! say so), the frame check sequence (zeros), flow control, wake-up, link speeds other than 1000 Mbit/s, packets whose descriptors
//! are handed over in several pieces (they wait for the last).

mod eeprom;
mod phy;
mod receive;
mod registers;
mod transmit;

use crate::RestoreError;
use crate::card::{Card, Space, Surroundings, Window};
use crate::ethernet::{Mac, Sent, Waiting};
use crate::pci::Width;
use crate::pci_header::PciHeader;
use dejavm_units::{Gpa, GuestNs};
use eeprom::Eeprom;
use phy::Phy;
use registers::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use transmit::Context;

/// For people.
const NAME: &str = "the e1000 network card";

const REGISTERS_BAR: u8 = 0;
const REGISTERS_BYTES: u32 = 0x2_0000;
const PORTS_BAR: u8 = 1;
const PORTS: u32 = 64;
/// Two ports of 32 bits: which register, and its contents (13.2.1).
const PORT_ADDRESS: u64 = 0;
const PORT_DATA: u64 = 4;

/// From a change to a look at the rings.
const LATENCY_NS: u64 = 10_000;
/// After so many bytes a look ends.
const LOOK_BYTES: u64 = 256 << 10;
/// Bytes sent in a nanosecond: 8 Gbit/s.
const BYTES_PER_NS: u64 = 1;

/// Bytes of a descriptor.
const DESCRIPTOR: u32 = 16;

/// A ring of descriptors: the card works on those from head to tail.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Ring {
    base: u64,
    /// In bytes.
    length: u32,
    head: u32,
    tail: u32,
}

impl Ring {
    fn entries(&self) -> u32 {
        self.length / DESCRIPTOR
    }

    fn descriptor(&self, index: u32) -> Gpa {
        Gpa(self.base).wrapping_add(u64::from(index) * u64::from(DESCRIPTOR))
    }

    fn read(&self, register: u32) -> u32 {
        match register {
            RING_BASE_LOW => self.base as u32,
            RING_BASE_HIGH => (self.base >> 32) as u32,
            RING_LENGTH => self.length,
            RING_HEAD => self.head,
            RING_TAIL => self.tail,
            _ => 0,
        }
    }

    fn write(&mut self, register: u32, value: u32) {
        match register {
            RING_BASE_LOW => self.base = self.base & !0xffff_ffff | u64::from(value & !0xf),
            RING_BASE_HIGH => self.base = self.base & 0xffff_ffff | u64::from(value) << 32,
            RING_LENGTH => self.length = value & 0xf_ff80,
            RING_HEAD => self.head = value & 0xffff,
            RING_TAIL => self.tail = value & 0xffff,
            _ => {}
        }
    }
}

/// Everything that can change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    header: Vec<u8>,
    due: Option<GuestNs>,
    ctrl: u32,
    icr: u32,
    ims: u32,
    rctl: u32,
    tctl: u32,
    receive: Ring,
    transmit: Ring,
    context: Context,
    plain: BTreeMap<u32, u32>,
    port_address: u32,
    eeprom: eeprom::Bus,
    phy: Phy,
    link: bool,
    waiting: Vec<Vec<u8>>,
    sent: Sent,
}

/// The card.
#[derive(Clone, Debug)]
pub struct E1000 {
    // Configuration.
    mac: Mac,
    // State.
    header: PciHeader,
    /// When the rings are looked at.
    due: Option<GuestNs>,
    ctrl: u32,
    icr: u32,
    ims: u32,
    rctl: u32,
    tctl: u32,
    receive: Ring,
    transmit: Ring,
    context: Context,
    /// Registers that only keep what is written; those that are 0 are not here.
    plain: BTreeMap<u32, u32>,
    port_address: u32,
    eeprom: Eeprom,
    phy: Phy,
    /// Whether the cable is in.
    link: bool,
    waiting: Waiting,
    sent: Sent,
}

impl E1000 {
    /// A card with an address, at power-on, its link up.
    pub fn new(mac: Mac) -> E1000 {
        let header = PciHeader::new(0x8086, 0x100e, 0x02_00_00, 2)
            .subsystem(0x8086, 0x001e)
            .with_bar(REGISTERS_BAR, Space::Memory, REGISTERS_BYTES)
            .with_bar(PORTS_BAR, Space::Ports, PORTS)
            .with_interrupt_pin();
        let mut card = E1000 {
            mac,
            header,
            due: None,
            ctrl: 0,
            icr: 0,
            ims: 0,
            rctl: 0,
            tctl: 0,
            receive: Ring::default(),
            transmit: Ring::default(),
            context: Context::default(),
            plain: BTreeMap::new(),
            port_address: 0,
            eeprom: Eeprom::new(mac),
            phy: Phy::new(),
            link: true,
            waiting: Waiting::default(),
            sent: Sent::default(),
        };
        card.reset_device();
        card
    }

    /// What CTRL.RST does: configuration space and the PHY stay (13.4.1), and the first receive address comes from the EEPROM.
    fn reset_device(&mut self) {
        self.due = None;
        self.ctrl = ctrl::FD | ctrl::SLU | ctrl::SPEED_1000;
        self.icr = 0;
        self.ims = 0;
        self.rctl = 0;
        self.tctl = 0;
        self.receive = Ring::default();
        self.transmit = Ring::default();
        self.context = Context::default();
        self.plain.clear();
        self.waiting.clear();
        let [a, b, c, d, e, f] = self.mac;
        self.set_plain(RAL0, u32::from_le_bytes([a, b, c, d]));
        self.set_plain(RAH0, 1 << 31 | u32::from_le_bytes([e, f, 0, 0]));
    }

    fn plain(&self, register: u32) -> u32 {
        self.plain.get(&register).copied().unwrap_or(0)
    }

    fn set_plain(&mut self, register: u32, value: u32) {
        match value {
            0 => self.plain.remove(&register),
            value => self.plain.insert(register, value),
        };
    }

    /// A frame arrives.
    pub fn receive(&mut self, frame: &[u8], now: GuestNs) {
        if self.link && self.rctl & rctl::EN != 0 && self.wants(frame) {
            self.waiting.push(frame);
            self.look_soon(now);
        }
    }

    /// Bytes of frames that the card surely has room for.
    pub fn room(&self) -> usize {
        self.waiting.room()
    }

    /// The cable is plugged in or pulled out.
    pub fn set_link(&mut self, up: bool) {
        if up != self.link {
            self.link = up;
            self.icr |= cause::LSC;
        }
    }

    fn look_soon(&mut self, now: GuestNs) {
        if self.due.is_none() {
            // At the end of time nothing comes any more.
            self.due = now.0.checked_add(LATENCY_NS).map(GuestNs);
        }
    }

    fn read_register(&mut self, register: u32) -> u32 {
        match register {
            CTRL => self.ctrl,
            STATUS => {
                let link = if self.link { status::LU } else { 0 };
                status::FD | status::SPEED_1000 | link
            }
            EECD => self.eeprom.eecd(),
            EERD => self.eeprom.eerd(),
            MDIC => self.phy.mdic(),
            // Reading takes them back (13.4.17).
            ICR => std::mem::take(&mut self.icr),
            IMS => self.ims,
            RCTL => self.rctl,
            TCTL => self.tctl,
            RDBAL..=RDT => self.receive.read(register - RDBAL),
            TDBAL..=TDT => self.transmit.read(register - TDBAL),
            register => self.plain(register),
        }
    }

    fn write_register(&mut self, register: u32, value: u32, now: GuestNs) {
        match register {
            CTRL if value & ctrl::RST != 0 => self.reset_device(),
            CTRL => {
                if value & ctrl::PHY_RST != 0 {
                    self.phy = Phy::new();
                }
                self.ctrl = value & !ctrl::PHY_RST;
            }
            EECD => self.eeprom.set_eecd(value),
            EERD => self.eeprom.set_eerd(value),
            MDIC => {
                let wanted = self.phy.set_mdic(value, self.link);
                self.icr |= if wanted { cause::MDAC } else { 0 };
            }
            ICR => self.icr &= !value,
            ICS => self.icr |= value & cause::ALL,
            IMS => self.ims |= value & cause::ALL,
            IMC => self.ims &= !value,
            RCTL => {
                self.rctl = value;
                self.look_soon(now);
            }
            TCTL => {
                self.tctl = value;
                self.look_soon(now);
            }
            RDBAL..=RDT => {
                self.receive.write(register - RDBAL, value);
                // Frames may wait for the descriptors.
                if register == RDT && !self.waiting.is_empty() {
                    self.look_soon(now);
                }
            }
            TDBAL..=TDT => {
                self.transmit.write(register - TDBAL, value);
                if register == TDT {
                    self.look_soon(now);
                }
            }
            register if is_plain(register) => self.set_plain(register, value),
            _ => {}
        }
    }

    /// Moves what can be moved; what was sent counts for so many bytes, and whether more is to be sent.
    fn look(&mut self, around: &mut dyn Surroundings) -> (u64, bool) {
        if self.rctl & rctl::EN != 0 {
            let mut waiting = std::mem::take(&mut self.waiting);
            while let Some(frame) = waiting.front()
                && self.deliver(frame, around)
            {
                self.icr |= cause::RXT0;
                waiting.pop();
            }
            self.waiting = waiting;
        }
        if self.tctl & tctl::EN == 0 {
            return (0, false);
        }
        let (cost, more, told) = self.transmit(LOOK_BYTES, around);
        if told {
            self.icr |= cause::TXDW;
        }
        if cost > 0 && !more {
            self.icr |= cause::TXQE;
        }
        (cost, more)
    }
}

impl Card for E1000 {
    fn config_read(&mut self, offset: u8, width: Width, _now: GuestNs) -> u32 {
        let pending = self.icr & self.ims != 0;
        self.header.read(offset, width, pending)
    }

    fn config_write(&mut self, offset: u8, width: Width, value: u32, _now: GuestNs) {
        self.header.write(offset, width, value);
    }

    fn windows(&self) -> Vec<Window> {
        self.header.windows()
    }

    /// Registers are 32 bits wide (13.2): a read of another width takes the bytes from those that it touches.
    fn read(&mut self, region: u8, offset: u64, size: u8, _now: GuestNs) -> u64 {
        let ones = u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)));
        if region == PORTS_BAR {
            return match offset {
                PORT_ADDRESS => self.port_address.into(),
                PORT_DATA => self.read_register(self.port_address).into(),
                _ => 0,
            };
        }
        let first = (offset & !3) as u32;
        let mut value = u64::from(self.read_register(first));
        if u64::from(size) + (offset & 3) > 4 {
            value |= u64::from(self.read_register(first.wrapping_add(4))) << 32;
        }
        value >> (8 * (offset & 3)) & ones
    }

    /// A write of another width reaches no register.
    fn write(&mut self, region: u8, offset: u64, size: u8, value: u64, now: GuestNs) {
        match (region, offset, size) {
            (PORTS_BAR, PORT_ADDRESS, 4) => {
                self.port_address = value as u32 & (REGISTERS_BYTES - 4);
            }
            (PORTS_BAR, PORT_DATA, 4) => self.write_register(self.port_address, value as u32, now),
            (REGISTERS_BAR, _, 4) if offset.is_multiple_of(4) => {
                self.write_register(offset as u32, value as u32, now);
            }
            _ => {}
        }
    }

    fn interrupt(&self) -> bool {
        self.icr & self.ims != 0 && self.header.interrupt_allowed()
    }

    fn deadline(&self) -> Option<GuestNs> {
        if self.header.is_master() { self.due } else { None }
    }

    fn service(&mut self, now: GuestNs, around: &mut dyn Surroundings) {
        if !self.header.is_master() || self.due.is_none_or(|due| due > now) {
            return;
        }
        let (cost, more) = self.look(around);
        let next = now.0.checked_add((cost / BYTES_PER_NS).max(1)).map(GuestNs);
        self.due = next.filter(|_| more);
    }

    fn reset(&mut self) {
        let E1000 { mac, link, sent, .. } = *self;
        *self = E1000 { link, sent, ..E1000::new(mac) };
    }
}

mod save_restore {
    use super::*;

    impl E1000 {
        /// What can change.
        pub fn save(&self) -> State {
            let E1000 {
                mac: _,
                header,
                due,
                ctrl,
                icr,
                ims,
                rctl,
                tctl,
                receive,
                transmit,
                context,
                plain,
                port_address,
                eeprom,
                phy,
                link,
                waiting,
                sent,
            } = self;
            State {
                header: header.bytes().to_vec(),
                due: *due,
                ctrl: *ctrl,
                icr: *icr,
                ims: *ims,
                rctl: *rctl,
                tctl: *tctl,
                receive: receive.clone(),
                transmit: transmit.clone(),
                context: *context,
                plain: plain.clone(),
                port_address: *port_address,
                eeprom: eeprom.bus,
                phy: phy.clone(),
                link: *link,
                waiting: waiting.save(),
                sent: *sent,
            }
        }

        /// Becomes `state`.
        pub fn restore(&mut self, state: State) -> Result<(), RestoreError> {
            let State {
                header,
                due,
                ctrl,
                icr,
                ims,
                rctl,
                tctl,
                receive,
                transmit,
                context,
                plain,
                port_address,
                eeprom,
                phy,
                link,
                waiting,
                sent,
            } = state;
            let check = |valid, field| RestoreError::unless(valid, NAME, field);
            for ring in [&receive, &transmit] {
                let mut again = Ring::default();
                for register in [RING_BASE_LOW, RING_BASE_HIGH, RING_LENGTH, RING_HEAD, RING_TAIL] {
                    again.write(register, ring.read(register));
                }
                check(*ring == again, "ring")?;
            }
            let kept = |(register, value): (&u32, &u32)| is_plain(*register) && *value != 0;
            check(plain.iter().all(kept), "plain")?;
            check((icr | ims) & !cause::ALL == 0, "icr")?;
            check(port_address & !(REGISTERS_BYTES - 4) == 0, "port_address")?;
            check(Eeprom::can_be(&eeprom), "eeprom")?;
            check(phy.is_possible(), "phy")?;
            self.waiting.restore(waiting, NAME)?;
            check(self.header.restore_bytes(&header).is_some(), "header")?;
            self.due = due;
            self.ctrl = ctrl;
            self.icr = icr;
            self.ims = ims;
            self.rctl = rctl;
            self.tctl = tctl;
            self.receive = receive;
            self.transmit = transmit;
            self.context = context;
            self.plain = plain;
            self.port_address = port_address;
            self.eeprom.bus = eeprom;
            self.phy = phy;
            self.link = link;
            self.sent = sent;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;

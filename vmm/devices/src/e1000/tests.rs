//! The card, and what drivers do with it.

use super::*;
use crate::testing::Machine;

const MAC: Mac = [0x52, 0x54, 0, 1, 2, 3];
const RECEIVE_RING: u64 = 0x1000;
const TRANSMIT_RING: u64 = 0x2000;
const BUFFERS: u64 = 0x4000;

/// Registers and bits, from the manual.
mod manual {
    pub(super) const CTRL: u64 = 0x0000;
    pub(super) const STATUS: u64 = 0x0008;
    pub(super) const MDIC: u64 = 0x0020;
    pub(super) const ICR: u64 = 0x00c0;
    pub(super) const ICS: u64 = 0x00c8;
    pub(super) const IMS: u64 = 0x00d0;
    pub(super) const RCTL: u64 = 0x0100;
    pub(super) const TCTL: u64 = 0x0400;
    pub(super) const RDBAL: u64 = 0x2800;
    pub(super) const RDT: u64 = 0x2818;
    pub(super) const TDBAL: u64 = 0x3800;
    pub(super) const TDT: u64 = 0x3818;
    pub(super) const MTA: u64 = 0x5200;
    pub(super) const RAL0: u64 = 0x5400;
}
use manual as m;

fn write(machine: &mut Machine<E1000>, register: u64, value: u32, now: u64) {
    machine.card.write(0, register, 4, value.into(), GuestNs(now));
}

fn read(machine: &mut Machine<E1000>, register: u64) -> u32 {
    machine.card.read(0, register, 4, GuestNs(0)) as u32
}

/// A card with rings of eight descriptors; receiving with `rctl` besides the switch.
fn machine(rctl: u32) -> Machine<E1000> {
    let mut machine = Machine::new(E1000::new(MAC), 0x10000, 0);
    machine.card.config_write(4, Width::Word, 0x0006, GuestNs(0));
    for (ring, at) in [(m::RDBAL, RECEIVE_RING), (m::TDBAL, TRANSMIT_RING)] {
        write(&mut machine, ring, at as u32, 0);
        write(&mut machine, ring + 8, 128, 0);
    }
    for n in 0..8 {
        put(&mut machine, RECEIVE_RING + 16 * n, &(BUFFERS + 0x800 * n).to_le_bytes());
    }
    write(&mut machine, m::RCTL, 2 | rctl, 0);
    write(&mut machine, m::TCTL, 2, 0);
    write(&mut machine, m::IMS, 0x9d, 0);
    machine.advance(GuestNs(100_000));
    machine
}

fn put(machine: &mut Machine<E1000>, at: u64, bytes: &[u8]) {
    machine.memory.write_memory(Gpa(at), bytes);
}

fn frame_to(to: Mac, bytes: usize) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.resize(bytes, 7);
    frame
}

#[test]
fn a_frame_arrives_in_a_descriptor_and_interrupts() {
    let mut machine = machine(0);
    write(&mut machine, m::RDT, 4, 200_000);
    machine.card.receive(&frame_to(MAC, 100), GuestNs(300_000));
    assert_eq!(machine.deadline(), Some(GuestNs(310_000)));
    machine.advance(GuestNs(310_000));
    assert!(machine.card.interrupt());
    // 3.2.3: length with the check sequence, DD, EOP and "ignore the checksum".
    let at = RECEIVE_RING as usize;
    assert_eq!(machine.memory.bytes[at + 8..at + 16], [104, 0, 0, 0, 7, 0, 0, 0]);
    assert_eq!(machine.memory.bytes[BUFFERS as usize..][..100], frame_to(MAC, 100));
    assert_eq!(read(&mut machine, m::RDBAL + 0x10), 1, "head");
    assert_eq!(read(&mut machine, m::ICR) & 0x80, 0x80);
    assert!(!machine.card.interrupt(), "reading takes it back");
    assert_eq!(read(&mut machine, m::ICR), 0);
}

#[test]
fn a_frame_waits_for_descriptors_and_goes_over_several() {
    // Buffers of 256 bytes, no check sequence.
    let mut machine = machine(3 << 16 | 1 << 26);
    machine.card.receive(&frame_to(MAC, 700), GuestNs(200_000));
    machine.card.receive(&frame_to(MAC, 20), GuestNs(200_000));
    write(&mut machine, m::RDT, 2, 200_000);
    machine.advance(GuestNs(300_000));
    assert_eq!(read(&mut machine, m::RDBAL + 0x10), 0, "two are not enough");
    write(&mut machine, m::RDT, 7, 400_000);
    machine.advance(GuestNs(500_000));
    assert_eq!(read(&mut machine, m::RDBAL + 0x10), 4);
    let descriptor = |n: usize| {
        let at = RECEIVE_RING as usize + 16 * n;
        let bytes = &machine.memory.bytes[at + 8..at + 16];
        (u16::from_le_bytes([bytes[0], bytes[1]]), bytes[4])
    };
    assert_eq!([0, 1, 2, 3].map(descriptor), [(256, 1), (256, 1), (188, 7), (60, 7)]);
}

#[test]
fn only_frames_for_the_guest_are_received() {
    let broadcast = [0xff; 6];
    let multicast = [0x01, 0, 0x5e, 0, 0x12, 0x34];
    let other = [0x52, 0x54, 0, 9, 9, 9];
    // BAM, MPE, UPE, LPE.
    for (rctl, to, bytes, wanted) in [
        (0, MAC, 60, true),
        (0, other, 60, false),
        (1 << 3, other, 60, true),
        (0, broadcast, 60, false),
        (1 << 15, broadcast, 60, true),
        (0, multicast, 60, false),
        (1 << 4, multicast, 60, true),
        (0, MAC, 1518, true),
        (0, MAC, 1519, false),
        (1 << 5, MAC, 9000, true),
    ] {
        let mut machine = machine(rctl);
        machine.card.receive(&frame_to(to, bytes), GuestNs(200_000));
        assert_eq!(machine.deadline().is_some(), wanted, "{rctl:#x} {to:x?} {bytes}");
    }
    let mut machine = machine(0);
    // 13.5.1: bits 47 to 36 of the address: 0x341 = dword 26, bit 1.
    write(&mut machine, m::MTA + 4 * 26, 1 << 1, 0);
    machine.card.receive(&frame_to(multicast, 60), GuestNs(200_000));
    assert!(machine.deadline().is_some(), "in the multicast table");
}

#[test]
fn frames_are_sent_from_legacy_and_extended_descriptors() {
    let mut machine = machine(0);
    put(&mut machine, BUFFERS, &frame_to(MAC, 64));
    let at = BUFFERS.to_le_bytes();
    // Two pieces: 40 bytes, then 24 with EOP, IFCS and RS. Then extended data of 60 bytes, EOP and RS.
    put(&mut machine, TRANSMIT_RING, &[&at[..], &[40, 0, 0, 0, 0, 0, 0, 0]].concat());
    let rest = (BUFFERS + 40).to_le_bytes();
    put(&mut machine, TRANSMIT_RING + 16, &[&rest[..], &[24, 0, 0, 0x0b, 0, 0, 0, 0]].concat());
    put(&mut machine, TRANSMIT_RING + 32, &[&at[..], &[60, 0, 0x10, 0x29, 0, 0, 0, 0]].concat());
    write(&mut machine, m::TDT, 1, 200_000);
    machine.advance(GuestNs(300_000));
    assert!(machine.memory.sent.is_empty(), "its end is not there yet");
    write(&mut machine, m::TDT, 3, 400_000);
    machine.advance(GuestNs(500_000));
    assert_eq!(machine.memory.sent, [frame_to(MAC, 64), frame_to(MAC, 60)]);
    let status = |n: usize| machine.memory.bytes[TRANSMIT_RING as usize + 16 * n + 12];
    assert_eq!([0, 1, 2].map(status), [0, 1, 1], "DD where it was asked for");
    assert_eq!(read(&mut machine, m::TDBAL + 0x10), 3);
    assert_eq!(read(&mut machine, m::ICR) & 3, 3, "TXDW and TXQE");
}

#[test]
fn link_and_phy_are_what_drivers_ask_for() {
    let mut machine = machine(0);
    let phy = |machine: &mut Machine<E1000>, register: u32| {
        write(machine, m::MDIC, 2 << 26 | 1 << 21 | register << 16, 0);
        let mdic = read(machine, m::MDIC);
        assert_eq!(mdic >> 28, 1, "ready, no error");
        mdic & 0xffff
    };
    assert_eq!((phy(&mut machine, 2), phy(&mut machine, 3)), (0x0141, 0x0c20));
    assert_eq!(phy(&mut machine, 1) & 0x24, 0x24, "negotiated, linked");
    assert_eq!(read(&mut machine, m::STATUS) & 0xc3, 0x83, "full duplex, linked, 1000 Mbit/s");
    machine.card.set_link(false);
    assert!(machine.card.interrupt());
    assert_eq!(read(&mut machine, m::ICR), 4, "LSC");
    assert_eq!(phy(&mut machine, 1) & 0x24, 0);
    assert_eq!(read(&mut machine, m::STATUS) & 2, 0);
    write(&mut machine, m::MDIC, 2 << 26 | 2 << 21, 0);
    assert_eq!(read(&mut machine, m::MDIC) >> 30 & 1, 1, "there is no second PHY");
}

#[test]
fn a_reset_brings_the_address_back_and_ports_lead_to_registers() {
    let mut machine = machine(0);
    write(&mut machine, m::RAL0, 0, 0);
    write(&mut machine, m::ICS, 4, 0);
    assert!(machine.card.interrupt());
    write(&mut machine, m::CTRL, 1 << 26, 0);
    assert!(!machine.card.interrupt());
    assert_eq!(read(&mut machine, m::CTRL) >> 26 & 1, 0);
    assert_eq!(read(&mut machine, m::RAL0), 0x0100_5452);
    assert_eq!(read(&mut machine, m::RAL0 + 4), 0x8000_0302);
    machine.card.write(1, 0, 4, m::RAL0, GuestNs(0));
    assert_eq!(machine.card.read(1, 4, 4, GuestNs(0)), 0x0100_5452);
    assert_eq!(machine.card.read(0, m::RAL0 + 1, 2, GuestNs(0)), 0x0054);
}

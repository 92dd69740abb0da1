//! A network card and a driver that uses it, well or badly.

use super::*;
use crate::card::Card;
use crate::testing::Machine;
use crate::virtio::Function;
use crate::virtio::driver::{DATA, Piece, offer, start, used};

const MAC: Mac = [0x52, 0x54, 0, 1, 2, 3];
/// VIRTIO_NET_F_MRG_RXBUF.
const MERGEABLE: u64 = 1 << 15;

fn machine(features: u64, queue: u16) -> Machine<Function<Net>> {
    let mut machine = Machine::new(Function::new(Net::new(MAC)), 0x8000, 0);
    start(&mut machine, features, queue);
    machine
}

fn frame(bytes: usize, fill: u8) -> Vec<u8> {
    vec![fill; bytes]
}

fn receive(machine: &mut Machine<Function<Net>>, frame: &[u8], now: u64) {
    machine.card.device_mut().receive(frame, GuestNs(now));
}

#[test]
fn a_frame_arrives_after_the_latency() {
    let mut machine = machine(0, 0);
    offer(&mut machine, 0, 0, &[(DATA, 2000, true)], GuestNs(0));
    machine.advance(GuestNs(50_000));
    assert_eq!(used(&machine), 0);
    receive(&mut machine, &frame(60, 7), 60_000);
    assert_eq!(machine.deadline(), Some(GuestNs(70_000)));
    machine.advance(GuestNs(70_000));
    assert_eq!(used(&machine), 1);
    assert!(machine.card.interrupt());
    // 5.1.6: the header has num_buffers 1 at offset 10, the frame follows at 12.
    let got = &machine.memory.bytes[DATA as usize..][..73];
    assert_eq!(got[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!((&got[12..72], got[72]), (&frame(60, 7)[..], 0));
    // Length in the used ring: header and frame.
    assert_eq!(machine.memory.bytes[0x208..0x20c], 72u32.to_le_bytes());
}

#[test]
fn what_arrives_before_the_driver_listens_is_lost_and_what_has_no_buffer_waits() {
    let mut machine = machine(0, 0);
    receive(&mut machine, &frame(60, 1), 1_000);
    machine.advance(GuestNs(100_000));
    offer(&mut machine, 0, 0, &[(DATA, 2000, true)], GuestNs(200_000));
    machine.advance(GuestNs(300_000));
    assert_eq!(used(&machine), 0, "nobody listened");
    for fill in [2, 3] {
        receive(&mut machine, &frame(60, fill), 400_000);
    }
    machine.advance(GuestNs(500_000));
    assert_eq!(used(&machine), 1, "one had a buffer");
    offer(&mut machine, 0, 1, &[(DATA + 0x800, 2000, true)], GuestNs(600_000));
    machine.advance(GuestNs(700_000));
    assert_eq!(used(&machine), 2);
    assert_eq!(machine.memory.bytes[0x1000 + 12], 2);
    assert_eq!(machine.memory.bytes[0x1800 + 12], 3);
}

#[test]
fn a_long_frame_goes_over_several_buffers_if_the_driver_can() {
    let mut machine = machine(MERGEABLE, 0);
    for (slot, at) in [(0, 0x1000), (1, 0x2000)] {
        offer(&mut machine, 0, slot, &[(at, 1000, true)], GuestNs(0));
    }
    receive(&mut machine, &frame(2500, 9), 1_000);
    machine.advance(GuestNs(100_000));
    assert_eq!(used(&machine), 0, "two buffers are not enough, and both are kept");
    offer(&mut machine, 0, 2, &[(0x3000, 1000, true)], GuestNs(200_000));
    machine.advance(GuestNs(300_000));
    assert_eq!(used(&machine), 3);
    assert_eq!(machine.memory.bytes[0x1000 + 10..0x1000 + 14], [3, 0, 9, 9]);
    assert_eq!(machine.memory.bytes[0x3000 + 511..0x3000 + 513], [9, 0], "12 + 2500 = 2000 + 512");

    let mut machine = self::machine(0, 0);
    offer(&mut machine, 0, 0, &[(0x1000, 1000, true)], GuestNs(0));
    receive(&mut machine, &frame(2500, 9), 1_000);
    receive(&mut machine, &frame(60, 4), 1_000);
    machine.advance(GuestNs(100_000));
    assert_eq!(used(&machine), 1, "without, the long one is lost");
    assert_eq!(machine.memory.bytes[0x1000 + 12], 4);
}

fn send(machine: &mut Machine<Function<Net>>, pieces: &[Piece], now: u64) {
    offer(machine, 1, 0, pieces, GuestNs(now));
    machine.advance(GuestNs(now + 1_000_000));
}

#[test]
fn frames_are_sent_without_the_header_and_accounted_for() {
    let mut machine = machine(0, 1);
    machine.memory.bytes[0x1000..0x1040].fill(5);
    let before = machine.card.save();
    send(&mut machine, &[(0x400, 12, false), (DATA, 60, false)], 0);
    assert_eq!(machine.memory.sent, [frame(60, 5)]);
    assert_eq!(used(&machine), 1);
    assert_ne!(machine.card.save(), before);
    send(&mut machine, &[(0x400, 12, false), (DATA, 13, false)], 10_000_000);
    send(&mut machine, &[(0x400, 4, false)], 20_000_000);
    send(&mut machine, &[(0x400, 12, false), (0, u32::MAX, false)], 30_000_000);
    assert_eq!((used(&machine), machine.memory.sent.len()), (4, 1), "no frames, but given back");
}

#[test]
fn a_card_says_what_it_is_and_when_its_cable_is_pulled_out() {
    let mut machine = machine(0, 1);
    let registers = |machine: &mut Machine<Function<Net>>| {
        machine.card.read(0, 0x2000, 8, GuestNs(0)).to_le_bytes()
    };
    assert_eq!(registers(&mut machine), [0x52, 0x54, 0, 1, 2, 3, 1, 0]);
    machine.card.device_mut().set_link(true, GuestNs(0));
    assert_eq!(machine.deadline(), None, "it was in");
    machine.card.device_mut().set_link(false, GuestNs(0));
    machine.advance(GuestNs(1_000_000));
    assert_eq!(registers(&mut machine)[6], 0);
    assert_eq!(machine.card.read(0, 0x1000, 1, GuestNs(0)), 2, "a change of configuration");
    send(&mut machine, &[(0x400, 12, false), (DATA, 60, false)], 10_000_000);
    assert!(machine.memory.sent.is_empty());
}

//! Virtio over PCI, the modern interface (Virtual I/O Device, OASIS, version 1.2): no legacy registers.
//!
//! * `queue`: a split virtqueue, the device's end of it;
//! * `transport`: configuration space, the common registers, notifications, interrupts;
//! * `function`: a card, made of the transport and a [`Device`];
//! * one file for each kind of device.
//!
//! A kind of device implements [`Device`], and is a card as [`Function`]. It is told of notifications as they come, answers
//! with a deadline, and does its work in `service`, where guest memory is: see [`crate::card`].
//!
//! Not modelled: packed queues, queue reset, notification data, administration queues.

pub mod block;
pub mod console;
#[cfg(test)]
pub(crate) mod driver;
mod function;
pub mod net;
pub mod queue;
pub mod rng;
pub mod transport;

pub use function::{Device, Function, State};

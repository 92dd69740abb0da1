//! A virtio device as a card.

use super::transport::{self, Effect, Transport};
use crate::RestoreError;
use crate::card::{Card, Surroundings, Window};
use crate::interrupt_message::InterruptMessage;
use crate::pci::Width;
use dejavm_units::GuestNs;
use serde::{Deserialize, Serialize};

/// A kind of virtio device: what it adds to the transport.
pub trait Device {
    /// Everything that can change and is not the transport's.
    type State;
    /// For people, in refusals of saved states.
    const NAME: &'static str;
    /// The virtio device type (virtio 1.2, 5).
    const KIND: u16;
    /// PCI class, subclass, programming interface.
    const CLASS: u32;

    /// Features that the device offers besides the transport's.
    fn features(&self) -> u64;
    /// The greatest size of each queue: powers of two, at most [`super::queue::SIZE_MAX`].
    fn queue_sizes(&self) -> Vec<u16>;
    /// The device's own registers as they read.
    fn registers(&self) -> Vec<u8>;
    /// The guest writes to them.
    fn write_register(&mut self, _offset: u64, _size: u8, _value: u64) {}
    /// There may be requests in a queue.
    fn notified(&mut self, queue: u16, now: GuestNs);
    /// See [`Card::deadline`].
    fn deadline(&self) -> Option<GuestNs>;
    /// See [`Card::service`]. Only called while the driver is ready, and when the deadline has come.
    fn service(&mut self, now: GuestNs, transport: &mut Transport, around: &mut dyn Surroundings);
    /// The driver, or the reset pin, resets the device.
    fn reset(&mut self);
    /// What can change.
    fn save(&self) -> Self::State;
    /// Becomes `state`.
    fn restore(&mut self, state: Self::State) -> Result<(), RestoreError>;
}

/// The state of a card.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State<S> {
    transport: transport::State,
    device: S,
}

/// A card: a device behind the transport.
#[derive(Clone, Debug)]
pub struct Function<D> {
    transport: Transport,
    device: D,
}

fn transport_of<D: Device>(device: &D) -> Transport {
    Transport::new(D::KIND, D::CLASS, device.features(), &device.queue_sizes())
}

impl<D: Device> Function<D> {
    /// The card at power-on.
    pub fn new(device: D) -> Function<D> {
        Function { transport: transport_of(&device), device }
    }

    /// The device, for what enters it from the host's side.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    fn act(&mut self, effect: Effect, now: GuestNs) {
        match effect {
            Effect::None => {}
            Effect::Reset => self.device.reset(),
            Effect::Notified(queue) => self.device.notified(queue, now),
            Effect::Written { offset, size, value } => {
                self.device.write_register(offset, size, value);
            }
        }
    }

    /// The state of the card.
    pub fn save(&self) -> State<D::State> {
        let Function { transport, device } = self;
        State { transport: transport.save(), device: device.save() }
    }

    /// Becomes `state`.
    pub fn restore(&mut self, state: State<D::State>) -> Result<(), RestoreError> {
        let State { transport, device } = state;
        self.transport.restore(transport, D::NAME)?;
        self.device.restore(device)
    }
}

impl<D: Device> Card for Function<D> {
    fn config_read(&mut self, offset: u8, width: Width, _now: GuestNs) -> u32 {
        self.transport.config_read(offset, width, &self.device.registers())
    }

    fn config_write(&mut self, offset: u8, width: Width, value: u32, now: GuestNs) {
        let effect = self.transport.config_write(offset, width, value);
        self.act(effect, now);
    }

    fn windows(&self) -> Vec<Window> {
        self.transport.windows()
    }

    fn read(&mut self, region: u8, offset: u64, size: u8, _now: GuestNs) -> u64 {
        self.transport.read(region, offset, size, &self.device.registers())
    }

    fn write(&mut self, region: u8, offset: u64, size: u8, value: u64, now: GuestNs) {
        let effect = self.transport.write(region, offset, size, value);
        self.act(effect, now);
    }

    fn interrupt(&self) -> bool {
        self.transport.interrupt()
    }

    fn take_message(&mut self) -> Option<InterruptMessage> {
        self.transport.take_message()
    }

    fn deadline(&self) -> Option<GuestNs> {
        if self.transport.is_running() { self.device.deadline() } else { None }
    }

    fn service(&mut self, now: GuestNs, around: &mut dyn Surroundings) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.device.service(now, &mut self.transport, around);
        }
    }

    fn reset(&mut self) {
        self.device.reset();
        self.transport = transport_of(&self.device);
    }
}

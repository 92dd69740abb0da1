//! The PCI transport (virtio 1.2, 4.1): configuration space with its capabilities, the common registers, notifications,
//! the interrupt status, MSI-X.
//!
//! Base address register 0 decodes 16 KiB of memory:
//!
//! ```text
//! 0x0000  common registers (4.1.4.3)
//! 0x1000  interrupt status (4.1.4.5)
//! 0x2000  the device's own registers
//! 0x3000  notifications, four bytes for each queue (4.1.4.4)
//! ```
//!
//! and register 1 the MSI-X table.

use super::queue::{Broken, Queue, SIZE_MAX};
use crate::RestoreError;
use crate::card::{Space, Surroundings, Window};
use crate::interrupt_message::InterruptMessage;
use crate::msix::{self, MsiX};
use crate::pci::Width;
use crate::pci_header::PciHeader;
use serde::{Deserialize, Serialize};

/// No vector.
pub const NO_VECTOR: u16 = 0xffff;

/// Features that the transport itself knows.
pub mod feature {
    /// Descriptors may refer to tables of descriptors.
    pub const RING_INDIRECT_DESC: u64 = 1 << 28;
    /// Notifications and interrupts are asked for by index.
    pub const RING_EVENT_IDX: u64 = 1 << 29;
    /// Not a legacy device.
    pub const VERSION_1: u64 = 1 << 32;
}

/// Device status (2.1).
mod status {
    pub(super) const DRIVER_OK: u8 = 4;
    pub(super) const FEATURES_OK: u8 = 8;
    pub(super) const DEVICE_NEEDS_RESET: u8 = 64;
}

/// Interrupt status.
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

const VENDOR: u16 = 0x1af4;
/// Device ids are this and the virtio device type.
const DEVICE_BASE: u16 = 0x1040;
/// Vendor-specific capability.
const CAPABILITY_VENDOR: u8 = 9;

const REGISTERS_BAR: u8 = 0;
const MSIX_BAR: u8 = 1;
const COMMON: u64 = 0x0000;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
/// Bytes of each of the four.
const PART: u64 = 0x1000;
const NOTIFY_MULTIPLIER: u32 = 4;

/// In the capability for access through configuration space: bar, offset, length, data.
const WINDOW_BAR: u8 = 4;
const WINDOW_OFFSET: u8 = 8;
const WINDOW_LENGTH: u8 = 12;
const WINDOW_DATA: u8 = 16;

/// What the guest did to the device behind the transport.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Nothing that concerns it.
    None,
    /// It is reset.
    Reset,
    /// There may be requests in this queue.
    Notified(u16),
    /// Its own registers are written.
    Written {
        /// Where.
        offset: u64,
        /// How many bytes.
        size: u8,
        /// What, little-endian.
        value: u64,
    },
}

/// Everything of a transport that can change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    header: Vec<u8>,
    msix: msix::State,
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    config_vector: u16,
    status: u8,
    generation: u8,
    queue_select: u16,
    queues: Vec<Queue>,
    isr: u8,
}

/// The registers between the guest and a device.
#[derive(Clone, Debug)]
pub struct Transport {
    // Configuration.
    features: u64,
    queue_sizes: Vec<u16>,
    /// The capability for access through configuration space.
    window: u8,
    // State.
    header: PciHeader,
    msix: MsiX,
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    config_vector: u16,
    status: u8,
    generation: u8,
    queue_select: u16,
    /// The queues, by number.
    queues: Vec<Queue>,
    isr: u8,
}

/// A capability that says where a part of the registers is (4.1.4).
fn part(kind: u8, offset: u64, length: u32) -> Vec<u8> {
    // The length of all, the kind, the register, an id, padding.
    let mut body = vec![16, kind, REGISTERS_BAR, 0, 0, 0];
    body.extend((offset as u32).to_le_bytes());
    body.extend(length.to_le_bytes());
    body
}

impl Transport {
    /// A transport for a device of virtio type `kind` and PCI class `class`, with `features` besides the transport's own, and
    /// queues of these sizes at most.
    pub fn new(kind: u16, class: u32, features: u64, queue_sizes: &[u16]) -> Transport {
        assert!(queue_sizes.len() < msix::VECTORS_MAX, "each queue has a vector");
        let mut header = PciHeader::new(VENDOR, DEVICE_BASE + kind, class, 1)
            .subsystem(VENDOR, DEVICE_BASE + kind)
            .with_interrupt_pin()
            .with_bar(REGISTERS_BAR, Space::Memory, 0x4000)
            .with_bar(MSIX_BAR, Space::Memory, msix::WINDOW);
        let msix = MsiX::new(&mut header, queue_sizes.len() + 1, MSIX_BAR);
        header.add_capability(CAPABILITY_VENDOR, &part(1, COMMON, 56));
        let mut notify = part(2, NOTIFY, NOTIFY_MULTIPLIER * queue_sizes.len() as u32);
        notify[0] += 4;
        notify.extend(NOTIFY_MULTIPLIER.to_le_bytes());
        header.add_capability(CAPABILITY_VENDOR, &notify);
        header.add_capability(CAPABILITY_VENDOR, &part(3, ISR, 1));
        header.add_capability(CAPABILITY_VENDOR, &part(4, DEVICE, PART as u32));
        let mut through = part(5, 0, 0);
        through[0] += 4;
        through.extend([0; 4]);
        let window = header.add_capability(CAPABILITY_VENDOR, &through);
        header.allow(window + WINDOW_BAR, &[0xff]);
        header.allow(window + WINDOW_OFFSET, &[0xff; 12]);
        let own = feature::VERSION_1 | feature::RING_INDIRECT_DESC | feature::RING_EVENT_IDX;
        Transport {
            features: features | own,
            queue_sizes: queue_sizes.to_vec(),
            window,
            header,
            msix,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            config_vector: NO_VECTOR,
            status: 0,
            generation: 0,
            queue_select: 0,
            queues: queues(queue_sizes),
            isr: 0,
        }
    }

    /// What the driver does by writing 0 to the status. Configuration space stays.
    fn reset_device(&mut self) {
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.driver_features = 0;
        self.config_vector = NO_VECTOR;
        self.status = 0;
        self.queue_select = 0;
        self.queues = queues(&self.queue_sizes);
        self.isr = 0;
    }
}

fn queues(sizes: &[u16]) -> Vec<Queue> {
    sizes.iter().map(|&size| Queue::new(size)).collect()
}

// Device side.
impl Transport {
    /// Whether the driver has accepted a feature.
    pub fn has(&self, feature: u64) -> bool {
        self.driver_features & feature != 0
    }

    /// Whether the driver is ready, and the device may reach memory.
    pub fn is_running(&self) -> bool {
        self.status & status::DRIVER_OK != 0
            && self.status & status::DEVICE_NEEDS_RESET == 0
            && self.header.is_master()
    }

    /// A queue; there is one for each size that `new` was given.
    pub fn queue(&mut self, number: usize) -> &mut Queue {
        &mut self.queues[number]
    }

    /// Interrupts for what was given back in a queue, if the driver wants that.
    pub fn tell(&mut self, number: usize, around: &dyn Surroundings) {
        let event_index = self.has(feature::RING_EVENT_IDX);
        let queue = &mut self.queues[number];
        if queue.wants_interrupt(event_index, around) {
            let vector = queue.vector;
            self.isr |= ISR_QUEUE;
            self.msix.raise(vector, &self.header);
        }
    }

    /// Asks the driver to notify of the next request in a queue: after all that waited were taken.
    pub fn listen(&mut self, number: usize, around: &mut dyn Surroundings) {
        let event_index = self.has(feature::RING_EVENT_IDX);
        self.queues[number].ask_for_notification(event_index, around);
    }

    /// Ends a look at all queues, in order: asks for notifications, and tells the driver of what was given back. `None` if one of
    /// them is broken, which the driver is told instead.
    pub fn looked<T>(
        &mut self,
        look: Result<T, Broken>,
        around: &mut dyn Surroundings,
    ) -> Option<T> {
        match look {
            Ok(found) => {
                for queue in 0..self.queues.len() {
                    self.listen(queue, around);
                    self.tell(queue, around);
                }
                Some(found)
            }
            Err(Broken) => {
                self.needs_reset();
                None
            }
        }
    }

    /// Says that the device's own registers have changed.
    pub fn config_changed(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        if self.status & status::DRIVER_OK != 0 {
            self.isr |= ISR_CONFIG;
            self.msix.raise(self.config_vector, &self.header);
        }
    }

    /// The driver left a queue in a state that cannot be followed: nothing happens any more until it resets the device.
    pub fn needs_reset(&mut self) {
        self.status |= status::DEVICE_NEEDS_RESET;
        self.config_changed();
    }
}

// Guest side. `device`: the device's own registers.
impl Transport {
    /// See [`crate::card::Card::windows`].
    pub fn windows(&self) -> Vec<Window> {
        self.header.windows()
    }

    /// See [`crate::card::Card::interrupt`].
    pub fn interrupt(&self) -> bool {
        self.isr != 0 && !self.msix.enabled(&self.header) && self.header.interrupt_allowed()
    }

    /// See [`crate::card::Card::take_message`].
    pub fn take_message(&mut self) -> Option<InterruptMessage> {
        self.msix.take_message(&self.header)
    }

    /// Reads configuration space.
    pub fn config_read(&mut self, offset: u8, width: Width, device: &[u8]) -> u32 {
        let data = self.window + WINDOW_DATA;
        if (data..data + 4).contains(&offset)
            && let Some((bar, at, size)) = self.through()
        {
            return self.read(bar, at, size, device) as u32;
        }
        let pending = self.isr != 0 && !self.msix.enabled(&self.header);
        self.header.read(offset, width, pending)
    }

    /// Writes configuration space.
    pub fn config_write(&mut self, offset: u8, width: Width, value: u32) -> Effect {
        self.header.write(offset, width, value);
        self.msix.configured(&self.header);
        let data = self.window + WINDOW_DATA;
        if (data..data + 4).contains(&offset)
            && let Some((bar, at, size)) = self.through()
        {
            return self.write(bar, at, size, value.into());
        }
        Effect::None
    }

    /// What the capability for access through configuration space is set to (4.1.4.9).
    fn through(&self) -> Option<(u8, u64, u8)> {
        let bar = self.header.word(self.window + WINDOW_BAR) as u8;
        let offset = self.header.dword(self.window + WINDOW_OFFSET);
        let size = self.header.dword(self.window + WINDOW_LENGTH);
        let fits = matches!(size, 1 | 2 | 4) && offset.is_multiple_of(size);
        fits.then_some((bar, offset.into(), size as u8))
    }

    /// Reads `size` bytes of a window.
    pub fn read(&mut self, region: u8, offset: u64, size: u8, device: &[u8]) -> u64 {
        if region == MSIX_BAR {
            let dword = |at: u64| u64::from(self.msix.read(at));
            let both = dword(offset & !3) | dword((offset & !3) + 4) << 32;
            return both >> (8 * (offset & 3)) & ones(size);
        }
        if region != REGISTERS_BAR {
            return ones(size);
        }
        let at = offset % PART;
        match offset - at {
            COMMON => bytes_at(&self.common(), at, size),
            ISR if at == 0 => std::mem::take(&mut self.isr).into(),
            DEVICE => bytes_at(device, at, size),
            _ => 0,
        }
    }

    /// Writes `size` bytes of a window.
    pub fn write(&mut self, region: u8, offset: u64, size: u8, value: u64) -> Effect {
        if region == MSIX_BAR {
            // Accesses are aligned dwords or two of them (6.8.2).
            if offset.is_multiple_of(4) {
                for dword in 0..u64::from(size / 4) {
                    self.msix.write(offset + 4 * dword, (value >> (32 * dword)) as u32);
                }
            }
            return Effect::None;
        }
        if region != REGISTERS_BAR {
            return Effect::None;
        }
        let at = offset % PART;
        match offset - at {
            COMMON => self.write_common(at, size, value),
            DEVICE => Effect::Written { offset: at, size, value },
            NOTIFY => {
                let queue = (at / u64::from(NOTIFY_MULTIPLIER)) as usize;
                let there =
                    self.is_running() && self.queues.get(queue).is_some_and(Queue::is_enabled);
                if there { Effect::Notified(queue as u16) } else { Effect::None }
            }
            _ => Effect::None,
        }
    }

    /// The common registers as they read.
    fn common(&self) -> [u8; 56] {
        let half = |features: u64, select: u32| match select {
            0 => features as u32,
            1 => (features >> 32) as u32,
            _ => 0,
        };
        let mut bytes = [0; 56];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &self.device_feature_select.to_le_bytes());
        put(4, &half(self.features, self.device_feature_select).to_le_bytes());
        put(8, &self.driver_feature_select.to_le_bytes());
        put(12, &half(self.driver_features, self.driver_feature_select).to_le_bytes());
        put(16, &self.config_vector.to_le_bytes());
        put(18, &(self.queues.len() as u16).to_le_bytes());
        put(20, &[self.status, self.generation]);
        put(22, &self.queue_select.to_le_bytes());
        // A queue that is not there has size 0.
        if let Some(queue) = self.queues.get(usize::from(self.queue_select)) {
            put(24, &queue.size.to_le_bytes());
            put(26, &queue.vector.to_le_bytes());
            put(28, &u16::from(queue.enabled).to_le_bytes());
            put(30, &self.queue_select.to_le_bytes());
            put(32, &queue.descriptors.to_le_bytes());
            put(40, &queue.available.to_le_bytes());
            put(48, &queue.used.to_le_bytes());
        }
        bytes
    }

    fn write_common(&mut self, at: u64, size: u8, value: u64) -> Effect {
        let max = self.queue_sizes.get(usize::from(self.queue_select)).copied();
        let features_open = self.status & status::FEATURES_OK == 0;
        let vectors = self.msix.count();
        let vector = |value: u64| match value as u16 {
            known if usize::from(known) < vectors => known,
            _ => NO_VECTOR,
        };
        let queue = self.queues.get_mut(usize::from(self.queue_select));
        match (at, size, queue) {
            (0, 4, _) => self.device_feature_select = value as u32,
            (8, 4, _) => self.driver_feature_select = value as u32,
            (12, 4, _) if features_open => {
                let shift = match self.driver_feature_select {
                    0 => 0,
                    1 => 32,
                    _ => return Effect::None,
                };
                self.driver_features &= !(0xffff_ffff << shift);
                self.driver_features |= (value & 0xffff_ffff) << shift;
            }
            (16, 2, _) => self.config_vector = vector(value),
            (20, 1, _) => return self.write_status(value as u8),
            (22, 2, _) => self.queue_select = value as u16,
            (26, 2, Some(queue)) => queue.vector = vector(value),
            // From here on: where the rings are, which a queue in use keeps.
            (_, _, Some(queue)) if queue.enabled => {}
            (24, 2, Some(queue)) => {
                let size = value as u16;
                if size.is_power_of_two() && max.is_some_and(|max| size <= max) {
                    queue.size = size;
                }
            }
            (28, 2, Some(queue)) => queue.enabled = value & 1 != 0,
            (32..56, 4 | 8, Some(queue)) => {
                let register = match at & !7 {
                    32 => &mut queue.descriptors,
                    40 => &mut queue.available,
                    _ => &mut queue.used,
                };
                match (at & 7, size) {
                    (0, 8) => *register = value,
                    (0, 4) => *register = *register & !0xffff_ffff | value & 0xffff_ffff,
                    (4, 4) => *register = *register & 0xffff_ffff | value << 32,
                    _ => {}
                }
            }
            _ => {}
        }
        Effect::None
    }

    fn write_status(&mut self, value: u8) -> Effect {
        if value == 0 {
            self.reset_device();
            return Effect::Reset;
        }
        let mut value = value | self.status & status::DEVICE_NEEDS_RESET;
        let newly = value & !self.status;
        let acceptable = self.driver_features & !self.features == 0 && self.has(feature::VERSION_1);
        if newly & status::FEATURES_OK != 0 && !acceptable {
            value &= !status::FEATURES_OK;
        }
        self.status = value;
        Effect::None
    }
}

fn ones(size: u8) -> u64 {
    u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)))
}

/// `size` bytes from `at` on; zeros behind the end.
fn bytes_at(bytes: &[u8], at: u64, size: u8) -> u64 {
    let mut value = [0; 8];
    let from = bytes.iter().skip(at as usize).take(usize::from(size.min(8)));
    for (to, from) in value.iter_mut().zip(from) {
        *to = *from;
    }
    u64::from_le_bytes(value)
}

mod save_restore {
    use super::*;

    impl Transport {
        /// What can change.
        pub fn save(&self) -> State {
            let Transport {
                features: _,
                queue_sizes: _,
                window: _,
                header,
                msix,
                device_feature_select,
                driver_feature_select,
                driver_features,
                config_vector,
                status,
                generation,
                queue_select,
                queues,
                isr,
            } = self;
            State {
                header: header.bytes().to_vec(),
                msix: msix.save(),
                device_feature_select: *device_feature_select,
                driver_feature_select: *driver_feature_select,
                driver_features: *driver_features,
                config_vector: *config_vector,
                status: *status,
                generation: *generation,
                queue_select: *queue_select,
                queues: queues.clone(),
                isr: *isr,
            }
        }

        /// Becomes `state`, of a card called `chip`.
        pub fn restore(&mut self, state: State, chip: &'static str) -> Result<(), RestoreError> {
            let State {
                header,
                msix,
                device_feature_select,
                driver_feature_select,
                driver_features,
                config_vector,
                status,
                generation,
                queue_select,
                queues,
                isr,
            } = state;
            let check = |valid, field| RestoreError::unless(valid, chip, field);
            check(queues.len() == self.queue_sizes.len(), "queues")?;
            for (queue, max) in queues.iter().zip(&self.queue_sizes) {
                queue.check((*max).min(SIZE_MAX), chip)?;
            }
            check(isr & !(ISR_QUEUE | ISR_CONFIG) == 0, "isr")?;
            check(self.header.restore_bytes(&header).is_some(), "header")?;
            self.msix.restore(msix, chip)?;
            self.device_feature_select = device_feature_select;
            self.driver_feature_select = driver_feature_select;
            self.driver_features = driver_features;
            self.config_vector = config_vector;
            self.status = status;
            self.generation = generation;
            self.queue_select = queue_select;
            self.queues = queues;
            self.isr = isr;
            Ok(())
        }
    }
}

//! Cards: reached through the windows that the guest has given them, as on the board.

use super::{CONFIG, Device, Memory, Script};
use dejavm_devices::RestoreError;
use dejavm_devices::card::Card;
use dejavm_devices::e1000::{self, E1000};
use dejavm_devices::ide::{self, Ide, Media};
use dejavm_devices::pci::Width;
use dejavm_devices::vga::{self, PAGE_BYTES, Vga};
use dejavm_devices::virtio::block::{self, Block};
use dejavm_devices::virtio::net::{self, Net};
use dejavm_devices::virtio::rng::{self, Rng};
use dejavm_devices::virtio::{self, Function};
use dejavm_units::GuestNs;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Debug;

/// What the harness has to know of a card.
pub trait Kind {
    /// The chip.
    type Chip: Card;
    /// What it saves.
    type State: Clone + PartialEq + Debug + Serialize + DeserializeOwned;
    /// See [`Device::REGISTERS`].
    const REGISTERS: &'static [(u8, u32)];
    /// At power-on.
    fn power_on() -> Self::Chip;
    /// See [`Device::begin`].
    fn begin(script: &mut Script, variant: u64);
    /// See [`Device::host`].
    fn host(_chip: &mut Self::Chip, _what: u8, _bytes: &[u8], _now: GuestNs) -> u64 {
        0
    }
    /// Its state.
    fn save(chip: &Self::Chip) -> Self::State;
    /// Becomes that.
    fn restore(chip: &mut Self::Chip, state: Self::State) -> Result<(), RestoreError>;
    /// See [`Device::bring`]; `kept` is what was brought before.
    fn bring(_chip: &mut Self::Chip, _from: &mut Self::Chip, _kept: &mut Pages) {}
    /// See [`Device::shown`].
    fn shown(_chip: &Self::Chip) -> u64 {
        0
    }
}

/// Pages of a display's memory.
type Pages = BTreeMap<u64, Vec<u8>>;

/// A card on a bus.
pub struct OnBus<K: Kind> {
    chip: K::Chip,
    pages: Pages,
}

/// A virtio disk.
pub type VirtioBlock = OnBus<BlockKind>;
/// A virtio network card.
pub type VirtioNet = OnBus<NetKind>;
/// A virtio source of random bytes.
pub type VirtioRng = OnBus<RngKind>;
/// The IDE function with two disks and two CD-ROM drives.
pub type IdeFunction = OnBus<IdeKind>;
/// An e1000.
pub type E1000Card = OnBus<E1000Kind>;
/// The display.
pub type VgaCard = OnBus<VgaKind>;

impl<K: Kind> OnBus<K> {
    /// Whether an access of `size` bytes at an offset reaches a window of that region.
    fn reaches(&self, region: u8, offset: u64, size: u8) -> bool {
        self.chip.windows().iter().any(|window| {
            window.region == region && offset < window.bytes && window.bytes - offset >= size.into()
        })
    }

    /// The width and the offset of an access to configuration space that does not leave a dword.
    fn configuration(offset: u64, size: u8) -> (u8, Width) {
        let (width, mask) = match size {
            1 => (Width::Byte, 0xff),
            2 => (Width::Word, 0xfe),
            _ => (Width::Dword, 0xfc),
        };
        (offset as u8 & mask, width)
    }
}

impl<K: Kind> Device for OnBus<K> {
    type State = K::State;
    const REGISTERS: &'static [(u8, u32)] = K::REGISTERS;

    fn power_on() -> Self {
        OnBus { chip: K::power_on(), pages: Pages::new() }
    }

    fn begin(script: &mut Script, variant: u64) {
        K::begin(script, variant);
    }

    fn read(&mut self, region: u8, offset: u64, size: u8, now: GuestNs) -> u64 {
        if region == CONFIG {
            let (offset, width) = Self::configuration(offset, size);
            return self.chip.config_read(offset, width, now).into();
        }
        match self.reaches(region, offset, size) {
            true => self.chip.read(region, offset, size, now),
            false => 0,
        }
    }

    fn write(&mut self, region: u8, offset: u64, size: u8, value: u64, now: GuestNs) -> u64 {
        if region == CONFIG {
            let (offset, width) = Self::configuration(offset, size);
            self.chip.config_write(offset, width, value as u32, now);
        } else if self.reaches(region, offset, size) {
            self.chip.write(region, offset, size, value, now);
        }
        0
    }

    fn host(&mut self, what: u8, bytes: &[u8], now: GuestNs) -> u64 {
        K::host(&mut self.chip, what, bytes, now)
    }

    fn outputs(&mut self) -> Vec<u64> {
        let mut outputs = vec![self.chip.interrupt().into(), self.chip.isa_lines().into()];
        while let Some(message) = self.chip.take_message() {
            outputs.push(message.vector.into());
            assert!(outputs.len() < 100, "messages do not end");
        }
        outputs
    }

    fn deadline(&self) -> Option<GuestNs> {
        self.chip.deadline()
    }

    fn service(&mut self, now: GuestNs, memory: &mut Memory) {
        if self.chip.deadline().is_some_and(|deadline| deadline <= now) {
            self.chip.service(now, memory);
        }
    }

    fn reset(&mut self) {
        self.chip.reset();
    }

    fn save(&self) -> K::State {
        K::save(&self.chip)
    }

    fn restore(&mut self, state: K::State) -> Result<(), RestoreError> {
        K::restore(&mut self.chip, state)
    }

    fn bring(&mut self, from: &mut Self) {
        self.pages = std::mem::take(&mut from.pages);
        K::bring(&mut self.chip, &mut from.chip, &mut self.pages);
    }

    fn shown(&mut self) -> u64 {
        K::shown(&self.chip)
    }
}

/// Entries of the queues that a script's driver sets up.
const SIZE: u16 = 8;
/// Where queue `n` is: its descriptors, what is available, what was used.
fn queue_at(queue: u16) -> [u16; 3] {
    [0, 0x100, 0x200].map(|part| queue * 0x400 + part)
}

/// Negotiates features and sets so many queues up (virtio 1.2, 3.1.1 and 4.1.4.3).
fn start_virtio(script: &mut Script, features: u64, queues: u16) {
    script.config(4, 0x0006);
    let mut write = |at: u32, size: u8, value: u64| {
        script.write(0, at, size, value);
    };
    write(20, 1, 0);
    write(20, 1, 3);
    for half in 0..2u64 {
        write(8, 4, half);
        write(12, 4, (features | 1 << 32) >> (32 * half) & 0xffff_ffff);
    }
    write(20, 1, 11);
    for queue in 0..queues {
        let [descriptors, available, used] = queue_at(queue);
        write(22, 2, queue.into());
        write(24, 2, SIZE.into());
        write(26, 2, queue.into());
        write(32, 8, descriptors.into());
        write(40, 8, available.into());
        write(48, 8, used.into());
        write(28, 2, 1);
    }
    write(20, 1, 15);
}

/// Puts a chain of (address, bytes, whether the device writes) at the queue's descriptors from `first` on, makes it available as
/// the `count`th, and notifies.
fn offer(script: &mut Script, queue: u16, first: u16, count: u16, pieces: &[(u16, u32, bool)]) {
    let [descriptors, available, _] = queue_at(queue);
    for (index, (at, bytes, write)) in (0u16..).zip(pieces) {
        let number = first + index;
        let last = usize::from(index) + 1 == pieces.len();
        let mut descriptor = u64::from(*at).to_le_bytes().to_vec();
        descriptor.extend(bytes.to_le_bytes());
        descriptor.extend((u16::from(!last) | u16::from(*write) << 1).to_le_bytes());
        descriptor.extend((number + 1).to_le_bytes());
        script.memory(descriptors + 16 * number, &descriptor);
    }
    script.memory(available + 4 + 2 * ((count - 1) % SIZE), &first.to_le_bytes());
    script.memory(available + 2, &count.to_le_bytes());
    script.write(0, 0x3000 + 4 * u32::from(queue), 2, queue.into());
}

/// The common registers, the device's own, notifications, the MSI-X table, configuration space.
const VIRTIO: &[(u8, u32)] = &[
    (0, 0),
    (0, 4),
    (0, 8),
    (0, 12),
    (0, 16),
    (0, 18),
    (0, 20),
    (0, 21),
    (0, 22),
    (0, 24),
    (0, 26),
    (0, 28),
    (0, 30),
    (0, 32),
    (0, 36),
    (0, 40),
    (0, 48),
    (0, 0x1000),
    (0, 0x2000),
    (0, 0x2008),
    (0, 0x3000),
    (0, 0x3000),
    (0, 0x3000),
    (0, 0x3004),
    (0, 0x3004),
    (0, 0x3004),
    (1, 0),
    (1, 4),
    (1, 8),
    (1, 12),
    (1, 0x1c),
    (1, 0x800),
    (CONFIG, 4),
    (CONFIG, 0x10),
    (CONFIG, 0x14),
    (CONFIG, 0x40),
    (CONFIG, 0x42),
    (CONFIG, 0x90),
    (CONFIG, 0x94),
    (CONFIG, 0x98),
];

/// Features that a driver may accept, by the bits of a number: tables of descriptors, indices of events, merged buffers.
fn features(variant: u64) -> u64 {
    (variant & 3) << 28 | (variant >> 2 & 1) << 15
}

/// See [`VirtioBlock`].
pub enum BlockKind {}

impl Kind for BlockKind {
    type Chip = Function<Block>;
    type State = virtio::State<block::State>;
    const REGISTERS: &'static [(u8, u32)] = VIRTIO;

    fn power_on() -> Function<Block> {
        Function::new(Block::new(super::memory::DRIVE_BYTES as u64, false, "hostile"))
    }

    fn begin(script: &mut Script, variant: u64) {
        start_virtio(script, features(variant), 1);
        // Reads two sectors, writes one.
        script.memory(0x2000, &[0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        offer(script, 0, 0, 1, &[(0x2000, 16, false), (0x3000, 1024, true), (0x2100, 1, true)]);
        script.to_deadline();
        script.memory(0x2020, &[1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
        offer(script, 0, 3, 2, &[(0x2020, 16, false), (0x3100, 512, false), (0x2100, 1, true)]);
        script.to_deadline();
    }

    fn save(chip: &Self::Chip) -> Self::State {
        chip.save()
    }

    fn restore(chip: &mut Self::Chip, state: Self::State) -> Result<(), RestoreError> {
        chip.restore(state)
    }
}

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// A frame for the card.
fn frame(bytes: &[u8]) -> Vec<u8> {
    let mut frame = MAC.to_vec();
    frame.extend_from_slice(bytes);
    frame
}

/// See [`VirtioNet`].
pub enum NetKind {}

impl Kind for NetKind {
    type Chip = Function<Net>;
    type State = virtio::State<net::State>;
    const REGISTERS: &'static [(u8, u32)] = VIRTIO;

    fn power_on() -> Function<Net> {
        Function::new(Net::new(MAC))
    }

    fn begin(script: &mut Script, variant: u64) {
        start_virtio(script, features(variant), 2);
        offer(script, 0, 0, 1, &[(0x4000, 0x200, true)]);
        offer(script, 0, 1, 2, &[(0x4400, 12, true), (0x4410, 0x100, true)]);
        script.host(1, &[7; 30]);
        script.to_deadline();
        offer(script, 1, 0, 1, &[(0x5000, 12, false), (0x5100, 64, false)]);
        script.to_deadline();
    }

    fn host(chip: &mut Self::Chip, what: u8, bytes: &[u8], now: GuestNs) -> u64 {
        match what % 8 {
            0 => chip.device_mut().set_link(what & 8 != 0, now),
            _ => chip.device_mut().receive(&frame(bytes), now),
        }
        chip.device().room() as u64
    }

    fn save(chip: &Self::Chip) -> Self::State {
        chip.save()
    }

    fn restore(chip: &mut Self::Chip, state: Self::State) -> Result<(), RestoreError> {
        chip.restore(state)
    }
}

/// See [`VirtioRng`].
pub enum RngKind {}

impl Kind for RngKind {
    type Chip = Function<Rng>;
    type State = virtio::State<rng::State>;
    const REGISTERS: &'static [(u8, u32)] = VIRTIO;

    fn power_on() -> Function<Rng> {
        Function::new(Rng::new(7))
    }

    fn begin(script: &mut Script, variant: u64) {
        start_virtio(script, features(variant), 1);
        offer(script, 0, 0, 1, &[(0x4000, 0x40, true), (0x4100, 0x40, true)]);
        script.to_deadline();
    }

    fn save(chip: &Self::Chip) -> Self::State {
        chip.save()
    }

    fn restore(chip: &mut Self::Chip, state: Self::State) -> Result<(), RestoreError> {
        chip.restore(state)
    }
}

/// See [`IdeFunction`].
pub enum IdeKind {}

impl Kind for IdeKind {
    type Chip = Ide;
    type State = ide::State;
    /// The command blocks, data more often than others; the control blocks; the bus master; configuration space.
    const REGISTERS: &'static [(u8, u32)] = &[
        (0, 0),
        (0, 0),
        (0, 0),
        (0, 1),
        (0, 2),
        (0, 3),
        (0, 4),
        (0, 5),
        (0, 6),
        (0, 7),
        (0, 7),
        (2, 0),
        (2, 0),
        (2, 1),
        (2, 2),
        (2, 6),
        (2, 7),
        (1, 0),
        (3, 0),
        (4, 0),
        (4, 2),
        (4, 4),
        (4, 8),
        (4, 12),
        (CONFIG, 4),
        (CONFIG, 0x20),
        (CONFIG, 0x40),
    ];

    fn power_on() -> Ide {
        let disk = |sectors, read_only| Some(Media::Disk { sectors, read_only });
        let sectors = super::memory::DRIVE_BYTES as u64 / 512;
        let cd = Some(Media::Cd { sectors: sectors / 4 });
        Ide::new([disk(sectors, false), cd, cd, disk(sectors - 1, true)])
    }

    fn begin(script: &mut Script, variant: u64) {
        script.config(4, 0x0005).write(CONFIG, 0x40, 4, 0x8000_8000);
        let region = (variant & 1) as u8 * 2;
        let command = |script: &mut Script, device: u64, count: u64, number: u64| {
            for (register, value) in [(6, device), (2, count), (3, 1), (4, 0), (5, 0), (7, number)]
            {
                script.write(region, register, 1, value);
            }
        };
        match variant >> 1 & 3 {
            // IDENTIFY DEVICE or its packet sibling, and a few words of it.
            0 => {
                command(script, 0xe0, 1, [0xec, 0xa1][usize::from(region != 0)]);
                script.to_deadline();
            }
            // WRITE SECTORS.
            1 => {
                command(script, 0xe0, 1, 0x30);
                script.to_deadline().write(region, 0, 2, 0x1234).write(region, 0, 4, 0x5678);
            }
            // READ DMA.
            2 => {
                script.memory(0x100, &[0, 0x10, 0, 0, 0, 2, 0, 0x80]);
                script.write(4, u32::from(region) * 4 + 4, 4, 0x100);
                command(script, 0xe0, 1, 0xc8);
                script.write(4, u32::from(region) * 4, 1, 9).to_deadline();
            }
            // PACKET: READ (10), one sector.
            _ => {
                command(script, 0xf0, 0, 0xa0);
                for word in [0x28, 0, 0x0100, 0, 0x0100, 0] {
                    script.write(region, 0, 2, word);
                }
                script.to_deadline();
            }
        }
    }

    fn save(chip: &Ide) -> ide::State {
        chip.save()
    }

    fn restore(chip: &mut Ide, state: ide::State) -> Result<(), RestoreError> {
        chip.restore(state)
    }
}

/// See [`E1000Card`].
pub enum E1000Kind {}

impl Kind for E1000Kind {
    type Chip = E1000;
    type State = e1000::State;
    /// By the manual's order, tails and lengths more often.
    const REGISTERS: &'static [(u8, u32)] = &[
        (0, 0x00),
        (0, 0x08),
        (0, 0x10),
        (0, 0x10),
        (0, 0x14),
        (0, 0x20),
        (0, 0xc0),
        (0, 0xc8),
        (0, 0xd0),
        (0, 0xd8),
        (0, 0x100),
        (0, 0x400),
        (0, 0x2800),
        (0, 0x2804),
        (0, 0x2808),
        (0, 0x2810),
        (0, 0x2818),
        (0, 0x2818),
        (0, 0x3800),
        (0, 0x3804),
        (0, 0x3808),
        (0, 0x3810),
        (0, 0x3818),
        (0, 0x3818),
        (0, 0x3818),
        (0, 0x5200),
        (0, 0x5400),
        (0, 0x5404),
        (1, 0),
        (1, 4),
        (CONFIG, 4),
        (CONFIG, 0x10),
    ];

    fn power_on() -> E1000 {
        E1000::new(MAC)
    }

    fn begin(script: &mut Script, variant: u64) {
        script.config(4, 7);
        for n in 0..8u16 {
            script.memory(0x400 + 16 * n, &[0, 0x40 + 8 * n as u8, 0, 0, 0, 0, 0, 0]);
        }
        // A context for cutting and checksums; a packet that it is for; one without.
        let cut = [14, 24, 33, 0, 34, 50, 0, 0, 0x40, 0, 0, 0x27, 0, 54, 0x20, 0];
        let packet = [0, 0x20, 0, 0, 0, 0, 0, 0, 0xc8, 0, 0x10, 0x2d, 0, 3, 0, 0];
        let plain = [0, 0x20, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0x09, 0, 0, 0, 0];
        for (n, descriptor) in (0u16..).zip([cut, packet, plain]) {
            script.memory(0x800 + 16 * n, &descriptor);
        }
        for (register, value) in [
            (0x2800, 0x400),
            (0x2808, 128),
            (0x2818, 7),
            (0x3800, 0x800),
            (0x3808, 128),
            (0x400, 2),
            (0xd0, 0xff),
            (0x100, 2 | variant & 0x0603_803c),
            (0x3818, 3),
        ] {
            script.write(0, register, 4, value);
        }
        script.to_deadline().host(1, &[7; 30]).to_deadline();
    }

    fn host(chip: &mut E1000, what: u8, bytes: &[u8], now: GuestNs) -> u64 {
        match what % 8 {
            0 => chip.set_link(what & 8 != 0),
            _ => chip.receive(&frame(bytes), now),
        }
        chip.room() as u64
    }

    fn save(chip: &E1000) -> e1000::State {
        chip.save()
    }

    fn restore(chip: &mut E1000, state: e1000::State) -> Result<(), RestoreError> {
        chip.restore(state)
    }
}

/// See [`VgaCard`].
pub enum VgaKind {}

impl Kind for VgaKind {
    type Chip = Vga;
    type State = vga::State;
    /// The ports, the extension's, memory by both ways, the mapped registers, configuration space.
    const REGISTERS: &'static [(u8, u32)] = &[
        (9, 0x10),
        (9, 0x12),
        (9, 0x14),
        (9, 0x15),
        (9, 0x16),
        (9, 0x17),
        (9, 0x18),
        (9, 0x19),
        (9, 0x1e),
        (9, 0x1f),
        (9, 0x24),
        (9, 0x25),
        (9, 0x2a),
        (10, 0),
        (10, 1),
        (8, 0),
        (8, 0x1234),
        (8, 0x1_8000),
        (8, 0x1_fff8),
        (0, 0),
        (0, 0x10_0000),
        (0, 0xff_fff8),
        (2, 0x400),
        (2, 0x41c),
        (2, 0x500),
        (2, 0x508),
        (CONFIG, 4),
        (CONFIG, 0x10),
        (CONFIG, 0x18),
    ];

    fn power_on() -> Vga {
        Vga::new()
    }

    fn begin(script: &mut Script, variant: u64) {
        script.config(4, 3);
        if variant & 1 != 0 {
            // A linear mode: width, height, bits, on.
            let depth = [4, 8, 15, 16, 24, 32][(variant >> 1) as usize % 6];
            for (register, value) in [(1, 640), (2, 480), (3, depth), (4, 0x41)] {
                script.write(10, 0, 2, register).write(10, 1, 2, value);
            }
        } else {
            // Planes, written by mode 2 of the graphics controller.
            for (index, value) in [(0x14, 0x0f02), (0x14, 0x0604), (0x1e, 0x0205), (0x1e, 0x0506)] {
                script.write(9, index, 2, value);
            }
        }
        script.write(8, 0x100, 4, 0x0102_0304);
    }

    fn save(chip: &Vga) -> vga::State {
        chip.save()
    }

    fn restore(chip: &mut Vga, state: vga::State) -> Result<(), RestoreError> {
        chip.restore(state)
    }

    fn bring(chip: &mut Vga, from: &mut Vga, kept: &mut Pages) {
        from.take_written(|page, contents| {
            kept.insert(page, contents.to_vec());
        });
        let empty = [0; PAGE_BYTES];
        chip.set_memory(|page, into| {
            into.copy_from_slice(kept.get(&page).map_or(&empty[..], |page| page));
        });
    }

    fn shown(chip: &Vga) -> u64 {
        let picture = chip.picture();
        let text = chip.text().map_or(0, |lines| lines.len() as u64);
        picture.rgb.iter().fold(text ^ picture.width as u64, |sum, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }
}

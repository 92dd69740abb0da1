//! The cards on the board's PCI bus: who answers where, and what they reach.
//!
//! Card n of [`Hardware::cards`](crate::Hardware) is device 3 + n of bus 0, function 0: device 2 is left for a display. The IDE
//! function is where the chipset has it, device 1 function 1. INTA# of a
//! device goes to the chipset's PIRQ that the usual swizzle gives, and from there to the ISA line that the guest steers it to; the
//! I/O APIC's pin of that line sees the same level.

mod network;

use crate::config::ConfigError;
use crate::hardware::{Card as Kind, Hardware, IdeDrive};
use crate::input_output::OutputQueue;
use crate::shadow;
use crate::state::RestoreError;
use crate::storage::{Drive, Drives};
use dejavm_devices::card::{Card, HostFailed, Space, Surroundings, Window};
use dejavm_devices::e1000::{self, E1000};
use dejavm_devices::ide::{self, Ide, Media};
use dejavm_devices::pci::{FunctionAddress, ISA_BRIDGE, Width};
use dejavm_devices::virtio::block::Block;
use dejavm_devices::virtio::console::Console;
use dejavm_devices::virtio::net::Net;
use dejavm_devices::virtio::rng::Rng;
use dejavm_devices::virtio::{self, Function};
use dejavm_devices::{InterruptMessage, PciHost, Vga, vga};
use dejavm_memory::{GuestRam, PageFlags};
use dejavm_units::{Gpa, GuestNs, PAGE_SIZE};
use serde::{Deserialize, Serialize};

/// The display's device number.
const DISPLAY_DEVICE: u8 = 2;
/// The device number of the first card.
const FIRST_DEVICE: u8 = 3;
/// The number of the virtio console among serial ports.
pub const VIRTIO_CONSOLE: u8 = 4;
/// Cards at most: what bus 0 has left.
pub(crate) const CARDS_MAX: usize = 32 - FIRST_DEVICE as usize;

/// The state of a card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CardState {
    /// A virtio disk.
    VirtioBlock(virtio::State<virtio::block::State>),
    /// The IDE function.
    Ide(Box<ide::State>),
    /// A virtio network card.
    VirtioNet(virtio::State<virtio::net::State>),
    /// A virtio source of random bytes.
    VirtioRng(virtio::State<virtio::rng::State>),
    /// An e1000 network card.
    E1000(Box<e1000::State>),
    /// The display, which comes last.
    Display(vga::State),
    /// A virtio console.
    VirtioConsole(virtio::State<virtio::console::State>),
}

/// A chip.
#[derive(Debug)]
enum Chip {
    VirtioBlock(Box<Function<Block>>),
    Ide(Box<Ide>),
    VirtioNet(Box<Function<Net>>),
    VirtioRng(Box<Function<Rng>>),
    E1000(Box<E1000>),
    Display(Box<Vga>),
    VirtioConsole(Box<Function<Console>>),
}

impl Chip {
    fn card(&self) -> &dyn Card {
        match self {
            Chip::VirtioBlock(card) => &**card,
            Chip::Ide(card) => &**card,
            Chip::VirtioNet(card) => &**card,
            Chip::VirtioRng(card) => &**card,
            Chip::E1000(card) => &**card,
            Chip::Display(card) => &**card,
            Chip::VirtioConsole(card) => &**card,
        }
    }

    fn card_mut(&mut self) -> &mut dyn Card {
        match self {
            Chip::VirtioBlock(card) => &mut **card,
            Chip::Ide(card) => &mut **card,
            Chip::VirtioNet(card) => &mut **card,
            Chip::VirtioRng(card) => &mut **card,
            Chip::E1000(card) => &mut **card,
            Chip::Display(card) => &mut **card,
            Chip::VirtioConsole(card) => &mut **card,
        }
    }
}

/// A card in its slot.
#[derive(Debug)]
struct Slot {
    at: FunctionAddress,
    chip: Chip,
    /// The machine's drives that are the card's, in the card's order.
    drives: Vec<usize>,
}

/// All cards of a machine.
#[derive(Debug)]
pub(crate) struct Cards {
    slots: Vec<Slot>,
    pub(crate) drives: Drives,
    /// Derived: where which slot answers. The first one counts.
    windows: Vec<(Window, usize)>,
}

/// Refuses cards that no machine can have. They may come from a hostile file.
pub(crate) fn check(hardware: &Hardware) -> Result<(), ConfigError> {
    if hardware.cards.len() > CARDS_MAX {
        return Err(ConfigError::Cards(hardware.cards.len()));
    }
    for (index, drive) in hardware.drives.iter().enumerate() {
        let whole = drive.bytes > 0 && drive.bytes.is_multiple_of(512);
        if !whole || drive.bytes > crate::Drive::BYTES_MAX {
            return Err(ConfigError::DriveSize { drive: index, bytes: drive.bytes });
        }
    }
    let mut used = vec![false; hardware.drives.len()];
    for card in &hardware.cards {
        for drive in card.drives() {
            match used.get_mut(drive) {
                Some(used) if !*used => *used = true,
                _ => return Err(ConfigError::Drive(drive)),
            }
        }
    }
    let ide = hardware.cards.iter().filter(|card| matches!(card, Kind::Ide { .. })).count();
    if ide > 1 {
        return Err(ConfigError::Cards(ide));
    }
    let consoles = hardware.cards.iter().filter(|card| **card == Kind::VirtioConsole).count();
    if consoles > 1 {
        return Err(ConfigError::Consoles(consoles));
    }
    match used.iter().position(|used| !used) {
        None => Ok(()),
        Some(unused) => Err(ConfigError::Drive(unused)),
    }
}

impl Cards {
    /// The cards of hardware that was checked, at power-on.
    pub(crate) fn new(hardware: &Hardware) -> Cards {
        let slot = |(card, device): (&Kind, u8)| {
            let chip = match card {
                Kind::VirtioBlock { drive } => {
                    let config = &hardware.drives[*drive as usize];
                    let serial = format!("dejavm-{drive}");
                    let block = Block::new(config.bytes, config.read_only, &serial);
                    Chip::VirtioBlock(Box::new(Function::new(block)))
                }
                Kind::Ide { drives } => {
                    let media = |IdeDrive { drive, cd }: IdeDrive| {
                        let Drive { bytes, read_only } = hardware.drives[usize::from(drive)];
                        match cd {
                            true => Media::Cd { sectors: bytes / 2048 },
                            false => Media::Disk { sectors: bytes / 512, read_only },
                        }
                    };
                    Chip::Ide(Box::new(Ide::new(drives.map(|drive| drive.map(media)))))
                }
                Kind::VirtioNet { mac } => Chip::VirtioNet(Box::new(Function::new(Net::new(*mac)))),
                Kind::E1000 { mac } => Chip::E1000(Box::new(E1000::new(*mac))),
                Kind::VirtioRng { seed } => {
                    Chip::VirtioRng(Box::new(Function::new(Rng::new(*seed))))
                }
                Kind::VirtioConsole => {
                    Chip::VirtioConsole(Box::new(Function::new(Console::default())))
                }
            };
            let at = match chip {
                Chip::Ide(_) => FunctionAddress { function: 1, ..ISA_BRIDGE },
                Chip::VirtioBlock(_)
                | Chip::VirtioNet(_)
                | Chip::VirtioRng(_)
                | Chip::E1000(_)
                | Chip::VirtioConsole(_)
                | Chip::Display(_) => FunctionAddress { bus: 0, device, function: 0 },
            };
            Slot { at, chip, drives: card.drives() }
        };
        let mut slots: Vec<Slot> = hardware.cards.iter().zip(FIRST_DEVICE..).map(slot).collect();
        if hardware.display {
            let at = FunctionAddress { bus: 0, device: DISPLAY_DEVICE, function: 0 };
            slots.push(Slot { at, chip: Chip::Display(Box::default()), drives: Vec::new() });
        }
        let drives = Drives::new(&hardware.drives);
        let mut cards = Cards { slots, drives, windows: Vec::new() };
        cards.place_windows();
        cards
    }

    /// The display, if there is one.
    pub(crate) fn display(&self) -> Option<&Vga> {
        self.slots.iter().find_map(|slot| match &slot.chip {
            Chip::Display(card) => Some(&**card),
            Chip::VirtioBlock(_)
            | Chip::Ide(_)
            | Chip::VirtioNet(_)
            | Chip::VirtioRng(_)
            | Chip::VirtioConsole(_)
            | Chip::E1000(_) => None,
        })
    }

    /// The display, if there is one.
    pub(crate) fn display_mut(&mut self) -> Option<&mut Vga> {
        self.slots.iter_mut().find_map(|slot| match &mut slot.chip {
            Chip::Display(card) => Some(&mut **card),
            Chip::VirtioBlock(_)
            | Chip::Ide(_)
            | Chip::VirtioNet(_)
            | Chip::VirtioRng(_)
            | Chip::VirtioConsole(_)
            | Chip::E1000(_) => None,
        })
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// What firmware does for cards that decode nothing before.
    pub(crate) fn enable(&mut self) {
        for slot in &mut self.slots {
            match &mut slot.chip {
                Chip::Ide(ide) => ide.enable(),
                Chip::VirtioBlock(_)
                | Chip::VirtioNet(_)
                | Chip::VirtioRng(_)
                | Chip::E1000(_)
                | Chip::VirtioConsole(_)
                | Chip::Display(_) => {}
            }
        }
        self.place_windows();
    }

    /// The bus's reset line.
    pub(crate) fn reset(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.chip.card_mut().reset());
        self.place_windows();
    }

    fn place_windows(&mut self) {
        self.windows.clear();
        for (index, slot) in self.slots.iter().enumerate() {
            self.windows
                .extend(slot.chip.card().windows().into_iter().map(|window| (window, index)));
        }
    }

    fn at(&mut self, address: FunctionAddress) -> Option<&mut dyn Card> {
        let slot = self.slots.iter_mut().find(|slot| slot.at == address)?;
        Some(slot.chip.card_mut())
    }

    /// Reads configuration space; `None`: no card is there.
    pub(crate) fn config_read(
        &mut self,
        (address, offset): (FunctionAddress, u8),
        width: Width,
        now: GuestNs,
    ) -> Option<u32> {
        self.at(address).map(|card| card.config_read(offset, width, now))
    }

    /// Writes configuration space; whether a card is there.
    pub(crate) fn config_write(
        &mut self,
        (address, offset): (FunctionAddress, u8),
        width: Width,
        value: u32,
        now: GuestNs,
    ) -> bool {
        let Some(card) = self.at(address) else { return false };
        card.config_write(offset, width, value, now);
        self.place_windows();
        true
    }

    /// The card whose window holds all `size` bytes at `at`, its region and the offset there.
    fn find(&mut self, space: Space, at: u64, size: u8) -> Option<(&mut dyn Card, u8, u64)> {
        let (window, index, offset) = self.windows.iter().find_map(|(window, index)| {
            let offset = at.checked_sub(window.first)?;
            let whole = offset < window.bytes && window.bytes - offset >= size.into();
            (window.space == space && whole).then_some((window, *index, offset))
        })?;
        let region = window.region;
        Some((self.slots[index].chip.card_mut(), region, offset))
    }

    /// Reads a register; `None`: no card answers.
    pub(crate) fn read(&mut self, space: Space, at: u64, size: u8, now: GuestNs) -> Option<u64> {
        let (card, region, offset) = self.find(space, at, size)?;
        Some(card.read(region, offset, size, now))
    }

    /// Writes a register; whether a card answers.
    pub(crate) fn write(
        &mut self,
        space: Space,
        at: u64,
        size: u8,
        value: u64,
        now: GuestNs,
    ) -> bool {
        let Some((card, region, offset)) = self.find(space, at, size) else { return false };
        card.write(region, offset, size, value, now);
        true
    }

    /// The ISA interrupt lines that the cards drive, by the chipset's steering or past it.
    pub(crate) fn lines(&self, pci: &PciHost) -> u16 {
        let mut lines = 0;
        for Slot { at, chip, .. } in &self.slots {
            let card = chip.card();
            lines |= card.isa_lines();
            if card.interrupt() {
                let route = pci.pirq_route(pirq(at.device));
                lines |= route.map_or(0, |line| 1 << line);
            }
        }
        lines
    }

    /// Bytes arrive at the virtio console, if there is one.
    pub(crate) fn receive_on_console(&mut self, bytes: &[u8], now: GuestNs) {
        for slot in &mut self.slots {
            if let Chip::VirtioConsole(card) = &mut slot.chip {
                card.device_mut().receive(bytes, now);
            }
        }
    }

    /// The next interrupt message of any card's.
    pub(crate) fn take_message(&mut self) -> Option<InterruptMessage> {
        self.slots.iter_mut().find_map(|slot| slot.chip.card_mut().take_message())
    }

    /// When a card wants to be served.
    pub(crate) fn deadline(&self) -> Option<GuestNs> {
        self.slots.iter().filter_map(|slot| slot.chip.card().deadline()).min()
    }

    /// Serves the cards that are due.
    pub(crate) fn service(&mut self, now: GuestNs, ram: &mut GuestRam, output: &mut OutputQueue) {
        for (card, Slot { chip, drives: numbers, .. }) in (0..).zip(&mut self.slots) {
            if chip.card().deadline().is_none_or(|deadline| deadline > now) {
                continue;
            }
            let network = Some(Sender { card, output: &mut *output });
            let drives = &mut self.drives;
            chip.card_mut().service(now, &mut Around { ram, drives, numbers, network });
            if let Chip::VirtioConsole(card) = chip {
                output.serial(VIRTIO_CONSOLE, &card.device_mut().take_transmitted());
            }
        }
    }
}

/// The PIRQ that INTA# of a device on bus 0 is wired to, as on boards with this chipset: device 1's is PIRQA#.
pub(crate) fn pirq(device: u8) -> usize {
    usize::from(device.wrapping_sub(1)) % 4
}

/// What a card reaches.
pub(crate) struct Around<'a> {
    pub(crate) ram: &'a mut GuestRam,
    pub(crate) drives: &'a mut Drives,
    /// Which of the drives are the card's.
    pub(crate) numbers: &'a [usize],
    /// Where a network card's frames go; `None`: it is no card.
    pub(crate) network: Option<Sender<'a>>,
}

/// Where the frames of a network card go.
pub(crate) struct Sender<'a> {
    card: u8,
    output: &'a mut OutputQueue,
}

/// Cuts a range where pages end.
fn by_page(at: Gpa, bytes: usize) -> impl Iterator<Item = (Gpa, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = at.wrapping_add(done as u64);
        let piece = ((PAGE_SIZE - at.page_offset()) as usize).min(bytes - done);
        let range = done..done + piece;
        done += piece;
        (piece > 0).then_some((at, range))
    })
}

impl Surroundings for Around<'_> {
    fn read_memory(&self, at: Gpa, into: &mut [u8]) {
        if self.ram.read(at, into).is_ok() {
            return;
        }
        for (at, range) in by_page(at, into.len()) {
            let piece = &mut into[range];
            if self.ram.read(at, piece).is_err() {
                piece.fill(0xff);
            }
        }
    }

    fn write_memory(&mut self, at: Gpa, from: &[u8]) {
        let may_be_rom =
            at < shadow::END && at.0.saturating_add(from.len() as u64) > shadow::START.0;
        if !may_be_rom && self.ram.write(at, from).is_ok() {
            return;
        }
        for (at, range) in by_page(at, from.len()) {
            let shadowed = (shadow::START..shadow::END).contains(&at);
            if !shadowed || !self.ram.flags(at.pfn()).intersects(PageFlags::READ_ONLY) {
                let _nobody_there = self.ram.write(at, &from[range]);
            }
        }
    }

    fn drive_bytes(&self, drive: usize) -> Option<u64> {
        self.numbers.get(drive).and_then(|&drive| self.drives.bytes(drive))
    }

    fn read_drive(&mut self, drive: usize, offset: u64, into: &mut [u8]) -> Result<(), HostFailed> {
        self.drives.read(self.numbers[drive], offset, into, self.ram)
    }

    fn write_drive(&mut self, drive: usize, offset: u64, from: &[u8]) -> Result<(), HostFailed> {
        self.drives.write(self.numbers[drive], offset, from, self.ram)
    }

    fn send_frame(&mut self, frame: Vec<u8>) {
        if let Some(Sender { card, output }) = &mut self.network {
            output.frame(*card, frame);
        }
    }
}

mod save_restore {
    use super::*;

    impl Cards {
        pub(crate) fn save(&self) -> Vec<CardState> {
            let Cards { slots, drives: _, windows: _ } = self;
            let state = |Slot { at: _, chip, drives: _ }: &Slot| match chip {
                Chip::VirtioBlock(card) => CardState::VirtioBlock(card.save()),
                Chip::Ide(card) => CardState::Ide(Box::new(card.save())),
                Chip::VirtioNet(card) => CardState::VirtioNet(card.save()),
                Chip::VirtioRng(card) => CardState::VirtioRng(card.save()),
                Chip::E1000(card) => CardState::E1000(Box::new(card.save())),
                Chip::Display(card) => CardState::Display(card.save()),
                Chip::VirtioConsole(card) => CardState::VirtioConsole(card.save()),
            };
            slots.iter().map(state).collect()
        }

        pub(crate) fn restore(&mut self, states: &[CardState]) -> Result<(), RestoreError> {
            if states.len() != self.slots.len() {
                return Err(RestoreError::OtherCards);
            }
            for (slot, state) in self.slots.iter_mut().zip(states) {
                match (&mut slot.chip, state) {
                    (Chip::VirtioBlock(card), CardState::VirtioBlock(state)) => {
                        card.restore(state.clone())?;
                    }
                    (Chip::Ide(card), CardState::Ide(state)) => card.restore((**state).clone())?,
                    (Chip::VirtioNet(card), CardState::VirtioNet(state)) => {
                        card.restore(state.clone())?;
                    }
                    (Chip::VirtioRng(card), CardState::VirtioRng(state)) => {
                        card.restore(state.clone())?;
                    }
                    (Chip::E1000(card), CardState::E1000(state)) => {
                        card.restore((**state).clone())?;
                    }
                    (Chip::Display(card), CardState::Display(state)) => {
                        card.restore(state.clone())?;
                    }
                    (Chip::VirtioConsole(card), CardState::VirtioConsole(state)) => {
                        card.restore(state.clone())?;
                    }
                    (
                        Chip::VirtioBlock(_)
                        | Chip::Ide(_)
                        | Chip::E1000(_)
                        | Chip::VirtioNet(_)
                        | Chip::VirtioRng(_)
                        | Chip::VirtioConsole(_)
                        | Chip::Display(_),
                        _,
                    ) => {
                        return Err(RestoreError::OtherCards);
                    }
                }
            }
            self.place_windows();
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dejavm_memory::RamLayout;

    #[test]
    fn a_bus_master_writes_no_rom() {
        let mut ram = GuestRam::new(RamLayout::new(2 << 20).unwrap()).unwrap();
        ram.set_read_only(Gpa(0xf_0000).pfn(), true);
        let mut drives = Drives::default();
        let mut around = Around { ram: &mut ram, drives: &mut drives, numbers: &[], network: None };
        around.write_memory(Gpa(0xe_fff0), &[7; 0x2000]);
        let mut bytes = [0; 0x2020];
        around.read_memory(Gpa(0xe_fff0), &mut bytes);
        assert_eq!(bytes[..0x10], [7; 0x10]);
        assert_eq!(bytes[0x10..0x1010], [0; 0x1000], "that is ROM");
        assert_eq!(bytes[0x1010..0x2000], [7; 0xff0]);
        assert_eq!(bytes[0x2000..], [0; 0x20]);
    }
}

//! Chips with ports or registers of their own, as the board reaches them.

use super::{Device, Memory};
use dejavm_devices::acpi_pm::{self, TimerWidth};
use dejavm_devices::fw_cfg::{self, Items};
use dejavm_devices::i8042::{self, Key};
use dejavm_devices::lapic::WriteEffect;
use dejavm_devices::pci::{self, Width};
use dejavm_devices::{
    AcpiPm, FwCfg, I8042, InterruptMessage, IoApic, Lapic, PciHost, Pic, Pit, RestoreError, Rtc,
    SystemControl, TriggerMode, Uart16550, ioapic, lapic, pic, pit, rtc, system_control, uart16550,
};
use dejavm_units::GuestNs;

/// A byte of the host's choice.
fn at(bytes: &[u8], index: usize) -> u8 {
    bytes.get(index).copied().unwrap_or(0)
}

/// A device that is a chip in a field `0` and knows time by `advance`.
macro_rules! chip {
    ($(#[$doc:meta])* $name:ident($chip:ty, $state:ty) = $new:expr, $registers:expr,
     read $read:expr, write $write:expr, host $host:expr, outputs $outputs:expr) => {
        $(#[$doc])*
        pub struct $name($chip);

        impl Device for $name {
            type State = $state;
            const REGISTERS: &'static [(u8, u32)] = $registers;

            fn power_on() -> Self {
                $name($new)
            }
            fn read(&mut self, _region: u8, offset: u64, size: u8, now: GuestNs) -> u64 {
                let read: fn(&mut $chip, u64, u8, GuestNs) -> u64 = $read;
                read(&mut self.0, offset, size, now)
            }
            fn write(&mut self, _: u8, offset: u64, size: u8, value: u64, now: GuestNs) -> u64 {
                let write: fn(&mut $chip, u64, u8, u64, GuestNs) -> u64 = $write;
                write(&mut self.0, offset, size, value, now)
            }
            fn host(&mut self, what: u8, bytes: &[u8], _now: GuestNs) -> u64 {
                let host: fn(&mut $chip, u8, &[u8]) -> u64 = $host;
                host(&mut self.0, what, bytes)
            }
            fn outputs(&mut self) -> Vec<u64> {
                let outputs: fn(&mut $chip) -> Vec<u64> = $outputs;
                outputs(&mut self.0)
            }
            fn deadline(&self) -> Option<GuestNs> {
                self.0.deadline()
            }
            fn service(&mut self, now: GuestNs, _memory: &mut Memory) {
                self.0.advance(now);
            }
            fn reset(&mut self) {
                self.0.reset();
            }
            fn save(&self) -> $state {
                self.0.save()
            }
            fn restore(&mut self, state: $state) -> Result<(), RestoreError> {
                self.0.restore(state)
            }
        }
    };
    // With ports of a byte each.
    ($(#[$doc:meta])* $name:ident($chip:ty, $state:ty) = $new:expr, $registers:expr,
     host $host:expr, outputs $outputs:expr) => {
        chip!($(#[$doc])* $name($chip, $state) = $new, $registers,
            read |chip, offset, _, now| chip.read(offset as u16, now).into(),
            write |chip, offset, _, value, now| {
                chip.write(offset as u16, value as u8, now);
                0
            },
            host $host, outputs $outputs);
    };
}

chip!(
    /// The 8259 pair.
    Pics(Pic, pic::State) = Pic::new(), &[(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (0, 5)],
    host |chip, what, _| match what % 4 {
        0 => chip.acknowledge().into(),
        _ => { chip.set_line(what >> 2 & 15, what & 0x40 != 0); 0 }
    },
    outputs |chip| vec![chip.interrupt_pending().into()]);

chip!(
    /// The 8254 and port 0x61.
    Timer(Pit, pit::State) = Pit::new(), &[(0, 0), (0, 0), (0, 1), (0, 2), (0, 3), (0, 3), (0, 4)],
    host |chip, _, _| chip.speaker().into(),
    outputs |chip| vec![chip.out(0).into()]);

chip!(
    /// The real-time clock.
    RealTimeClock(Rtc, rtc::State) = Rtc::new(1_795_354_495), &[(0, 0), (0, 1)],
    read |chip, offset, _, now| chip.read(offset as u16, now).into(),
    // The upper byte names the register at once.
    write |chip, offset, _, value, now| {
        chip.write(0, (value >> 8) as u8, now);
        chip.write(offset as u16, value as u8, now);
        0
    },
    host |chip, what, _| chip.cmos(14 + what % 114).into(),
    outputs |chip| vec![chip.irq().into(), chip.nmi_masked().into()]);

chip!(
    /// A 16550A.
    SerialPort(Uart16550, uart16550::State) = Uart16550::new(),
    &[(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (0, 6), (0, 7)],
    host |chip, what, bytes| match what % 4 {
        0 => chip.receive(bytes) as u64,
        1 => chip.receive_break().into(),
        2 => chip.take_transmitted().iter().map(|byte| u64::from(*byte)).sum(),
        _ => {
            let inputs = [4, 8, 16, 32].map(|bit| what & bit != 0);
            chip.set_modem_inputs(inputs[0], inputs[1], inputs[2], inputs[3]);
            chip.room() as u64
        }
    },
    outputs |chip| vec![chip.irq().into()]);

chip!(
/// The keyboard controller, the keyboard and the mouse.
Keyboard(I8042, i8042::State) = I8042::new(), &[(0, 0), (0, 4)],
host |chip, what, bytes| match what % 4 {
    0 | 1 => {
        let key = Key { code: at(bytes, 0), extended: what & 4 != 0 };
        chip.key(key, what & 8 != 0).into()
    }
    2 => {
        let [right, up, wheel] =
            [0, 1, 2].map(|n| i32::from(at(bytes, n) as i8) << (what >> 4));
        chip.move_mouse(right, up, wheel, at(bytes, 3));
        0
    }
    _ => chip.take_reset().into(),
},
outputs |chip| vec![
    chip.keyboard_irq().into(),
    chip.mouse_irq().into(),
    chip.a20().into(),
    chip.lights().into(),
]);

chip!(
/// A local APIC.
LocalApic(Lapic, lapic::State) = Lapic::new(0, true),
&[
    (0, 0x20), (0, 0x30), (0, 0x80), (0, 0xa0), (0, 0xb0), (0, 0xb0), (0, 0xd0), (0, 0xe0), (0, 0xf0), (0, 0x100), (0, 0x190),
    (0, 0x220), (0, 0x280), (0, 0x300), (0, 0x310), (0, 0x320), (0, 0x320), (0, 0x330), (0, 0x350), (0, 0x360), (0, 0x370),
    (0, 0x380), (0, 0x380), (0, 0x390), (0, 0x3e0),
],
read |chip, offset, _, now| chip.read(offset as u16, now).into(),
write |chip, offset, _, value, now| match chip.write(offset as u16, value as u32, now) {
    WriteEffect::None => 0,
    WriteEffect::EndOfInterrupt(vector) => 1 + u64::from(vector),
    WriteEffect::Ipi(ipi) => 1000 + u64::from(ipi.message.vector),
},
host |chip, what, bytes| match what % 8 {
    0 | 1 => chip.acknowledge().into(),
    2 | 3 => {
        let level = what & 8 != 0;
        let trigger = if level { TriggerMode::Level } else { TriggerMode::Edge };
        let data = u32::from(at(bytes, 0)) | u32::from(at(bytes, 1) & 7) << 8;
        if let Some(message) = InterruptMessage::from_msi(0xfee0_0000, data) {
            chip.accept(&InterruptMessage { trigger, ..message });
        }
        0
    }
    4 => { chip.set_lint0(what & 8 != 0); chip.set_lint1(what & 16 != 0); 0 }
    5 => u64::from(chip.take_nmi()) | u64::from(chip.take_init()) << 1
        | u64::from(chip.take_startup().unwrap_or(0)) << 2 | u64::from(chip.take_smi()) << 10,
    6 => { chip.set_cr8(what >> 4); chip.acknowledge_external(); chip.cr8().into() }
    _ => chip.set_apic_base(0xfee0_0100 | u64::from(what & 0xf8) << 8).into(),
},
outputs |chip| vec![
    chip.interrupt_pending().into(),
    chip.external_interrupt_pending().into(),
    chip.signal_pending().into(),
    chip.processor_priority().into(),
]);

chip!(
/// The I/O APIC.
IoApicChip(IoApic, ioapic::State) = IoApic::new(1), &[(0, 0), (0, 0x10), (0, 0x10)],
read |chip, offset, _, now| chip.read(offset, now).into(),
// The upper half names the register at once.
write |chip, offset, _, value, now| {
    if value >> 32 != 0 {
        chip.write(0, (value >> 32) as u32 & 0x3f, now);
    }
    chip.write(offset, value as u32, now);
    0
},
host |chip, what, bytes| match what % 4 {
    0 => { chip.end_of_interrupt(at(bytes, 0)); 0 }
    _ => { chip.set_line((what & 0x7f) % 24, what & 0x80 != 0); 0 }
},
outputs |chip| {
    let mut messages = Vec::new();
    while let Some(message) = chip.take_message() {
        messages.push(message.vector.into());
        assert!(messages.len() < 100, "messages do not end");
    }
    messages
});

chip!(
    /// ACPI's fixed hardware.
    AcpiBlock(AcpiPm, acpi_pm::State) = AcpiPm::new(TimerWidth::Bits24),
    &[(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (0, 8), (0, 11), (0, 12)],
    host |chip, what, _| match what % 4 {
        0 => { chip.press_power_button(); 0 }
        1 => chip.take_sleep_request().map_or(9, u64::from),
        _ => chip.take_reset().into(),
    },
    outputs |chip| vec![chip.sci().into()]);

chip!(
    /// Ports 0x92 and 0xcf9.
    SystemPorts(SystemControl, system_control::State) = SystemControl::new(), &[(0, 0), (0, 1)],
    host |chip, _, _| chip.take_reset().is_some().into(),
    outputs |chip| vec![chip.a20().into()]);

fn width(size: u8) -> Width {
    match size {
        1 => Width::Byte,
        2 => Width::Word,
        _ => Width::Dword,
    }
}

chip!(
    /// The PCI host bridge and the ISA bridge.
    PciBridges(PciHost, pci::State) = PciHost::new(), &[(0, 0), (0, 4), (0, 5), (0, 6), (0, 7)],
    read |chip, offset, size, now| {
        let selected = chip.selected(offset as u16, width(size));
        let read = chip.read(offset as u16, width(size), now);
        u64::from(read) | u64::from(selected.is_some()) << 32
    },
    // The upper half chooses a register of one of the bridges at once.
    write |chip, offset, size, value, now| {
        let select = (value >> 32) as u32;
        if select != 0 {
            chip.write(0, Width::Dword, 1 << 31 | select & 0xfff, now);
        }
        chip.write(offset as u16, width(size), value as u32, now);
        0
    },
    host |chip, what, _| chip.pirq_route(usize::from(what % 4)).map_or(99, u64::from),
    outputs |chip| chip.pam().iter().map(|(_, _, shadow)| shadow.read_ram.into()).collect());

/// The configuration device, whose copies reach memory.
pub struct FirmwareConfig(FwCfg);

impl Device for FirmwareConfig {
    type State = fw_cfg::State;
    /// Selector, data, the address of a descriptor.
    const REGISTERS: &'static [(u8, u32)] =
        &[(0, 0), (0, 1), (0, 1), (0, 4), (0, 7), (0, 8), (0, 10), (0, 11), (0, 11)];

    fn power_on() -> Self {
        let mut items = Items::new();
        items.set(5, &[3, 0]);
        items.add_file("etc/e820", [1, 2, 3, 4, 5].as_slice().into());
        items.add_file("etc/long", vec![7; 5000].into());
        FirmwareConfig(FwCfg::new(items))
    }

    fn begin(script: &mut super::Script, variant: u64) {
        // Select the directory or a file, and copy: the numbers' highest byte comes first.
        let item = [0x19, 0x21][(variant & 1) as usize];
        Self::request(script, 0x0a | item << 5 | (variant >> 1 & 0xff) << 11, &Memory::new());
    }

    fn request(script: &mut super::Script, number: u64, _memory: &Memory) {
        let (control, item) = (number as u8 & 0x1f, (number >> 5) as u8 & 0x3f);
        let [length, long, to, ..] = (number >> 11).to_le_bytes();
        let long = if long < 16 { long } else { 0 };
        script.memory(
            0x100,
            &[0, item, 0, control, 0, long >> 2, long << 6, length, 0, 0, 0, 0, 0, 0, to, 0],
        );
        for (register, byte) in [(8, 0), (9, 0), (10, 1), (11, 0)] {
            script.write(0, register, 1, byte);
        }
        script.to_deadline();
    }

    fn read(&mut self, _region: u8, offset: u64, _size: u8, now: GuestNs) -> u64 {
        self.0.read(offset as u16, now).into()
    }

    fn write(&mut self, _region: u8, offset: u64, _size: u8, value: u64, now: GuestNs) -> u64 {
        self.0.write(offset as u16, value as u8, now);
        0
    }

    fn outputs(&mut self) -> Vec<u64> {
        vec![self.0.wants_service().into()]
    }

    fn deadline(&self) -> Option<GuestNs> {
        self.0.deadline()
    }

    /// The board serves it at the end of the instruction.
    fn service(&mut self, _now: GuestNs, memory: &mut Memory) {
        if self.0.wants_service() {
            self.0.service(memory);
        }
    }

    fn reset(&mut self) {
        self.0.reset();
    }

    fn save(&self) -> fw_cfg::State {
        self.0.save()
    }

    fn restore(&mut self, state: fw_cfg::State) -> Result<(), RestoreError> {
        self.0.restore(state)
    }
}

//! The chips and the wires between them.
//!
//! Whatever touches a chip (an access of the guest, an input, a deadline) ends in [`Board::settle`],
//! which looks at the chips' outputs, sets the interrupt controllers' inputs and notes when something
//! will happen next. Between two such events no output changes, so nobody has to look.

use crate::accesses::Accesses;
use crate::acpi;
use crate::cards::{Cards, pirq};
use crate::clock::{self, Clock};
use crate::config::MachineConfig;
use crate::firmware;
use crate::hardware::{Hardware, OnReset};
use crate::input_output::{Input, Output, OutputQueue};
use crate::machine::End;
use crate::serial::{self, SerialPort};
use crate::state::{BoardState, RestoreError, SerialState};
use dejavm_devices::acpi_pm::TimerWidth;
use dejavm_devices::i8042::Key;
use dejavm_devices::pci::{ISA_BRIDGE, Width};
use dejavm_devices::{AcpiPm, I8042, IoApic, Lapic, PciHost, Pic, Pit, Rtc, SystemControl, lapic};
use dejavm_memory::GuestRam;
use dejavm_units::{GuestNs, Position};
use std::collections::BTreeMap;

/// ISA interrupt lines.
mod irq {
    pub(super) const TIMER: u8 = 0;
    pub(super) const KEYBOARD: u8 = 1;
    pub(super) const RTC: u8 = 8;
    pub(super) const SCI: u8 = crate::acpi::SCI_IRQ;
    pub(super) const MOUSE: u8 = 12;
}

/// The I/O APIC's id. Linux wants it to differ from the processors', which are numbered from 0.
pub(crate) fn io_apic_id(config: &MachineConfig) -> u8 {
    if config.hardware.processors == 1 { 1 } else { Hardware::PROCESSORS_MAX }
}

/// The I/O APIC's pin that ISA interrupt `line` is wired to: the timer is on pin 2, where the cascade
/// would be, as the MADT says.
fn io_apic_pin(line: u8) -> u8 {
    if line == irq::TIMER { 2 } else { line }
}

/// Everything of a machine that is neither CPU nor RAM.
pub(crate) struct Board {
    pub(crate) clock: Clock,

    // The chips.
    pub(crate) pic: Pic,
    pub(crate) pit: Pit,
    pub(crate) rtc: Rtc,
    /// By processor.
    pub(crate) lapics: Vec<Lapic>,
    /// The processor whose turn it is.
    running: usize,
    pub(crate) io_apic: IoApic,
    pub(crate) acpi_pm: AcpiPm,
    pub(crate) pci: PciHost,
    pub(crate) system_control: SystemControl,
    pub(crate) i8042: I8042,
    /// COM1 first.
    pub(crate) serial: Vec<SerialPort>,
    pub(crate) cards: Cards,
    /// What serves the firmware, if the machine starts with one.
    pub(crate) firmware: Option<firmware::Served>,
    /// Why the machine has ended, if it has.
    end: Option<End>,
    /// What becomes of it that is reset.
    on_reset: OnReset,

    // Diagnostics, no part of the state.
    pub(crate) accesses: Accesses,
    /// Accesses to ports where no chip answers.
    pub(crate) unknown_ports: BTreeMap<u16, u64>,

    // Derived by `settle`.
    /// Levels of the ISA interrupt lines, as the interrupt controllers were told.
    lines: u16,
    /// The earliest guest time at which a chip changes by itself.
    next_deadline: Option<GuestNs>,
    /// An interrupt waits for the CPU.
    pub(crate) interrupt: bool,
    /// An NMI, or another signal of the local APIC's, waits.
    pub(crate) signal: bool,

    // Transient.
    pub(crate) output: OutputQueue,
    /// Where the CPU will return at the latest.
    bound: Position,
    /// The CPU is to return at the next instruction boundary.
    pub(crate) wants_control: bool,
    /// Runs end when there were so many exits.
    exits_max: u64,
    /// The machine is to start again: no machine at rest is.
    reset_due: bool,
}

/// The PIIX3's PIRQ route control registers.
const PIRQ_ROUTES: u32 = 0x60;

/// Bit 1 of port 0x92: A20.
const PORT_92_A20: u8 = 1 << 1;

impl Board {
    pub(crate) fn new(config: &MachineConfig) -> Board {
        let mut board = Board {
            clock: Clock::new(config.time_base),
            pic: Pic::new(),
            pit: Pit::new(),
            rtc: Rtc::new(config.rtc_epoch_s),
            lapics: (0..config.hardware.processors).map(|n| Lapic::new(n, n == 0)).collect(),
            running: 0,
            io_apic: IoApic::new(io_apic_id(config)),
            acpi_pm: AcpiPm::new(TimerWidth::Bits32),
            pci: PciHost::new(),
            system_control: SystemControl::new(),
            i8042: I8042::new(),
            serial: serial::ports(&config.hardware),
            cards: Cards::new(&config.hardware),
            firmware: firmware::Served::new(config),
            end: None,
            on_reset: config.hardware.on_reset,
            accesses: Accesses::default(),
            unknown_ports: BTreeMap::new(),
            lines: 0,
            next_deadline: None,
            interrupt: false,
            signal: false,
            output: OutputQueue::default(),
            bound: Position(0),
            wants_control: false,
            exits_max: u64::MAX,
            reset_due: false,
        };
        if config.hardware.firmware.is_some() {
            firmware::set_cmos(config, &mut board.rtc);
        }
        // The boot protocols demand that A20 is on, and so does the reset vector.
        board.system_control.write(0, PORT_92_A20, GuestNs(0));
        board.settle();
        board
    }

    /// Does what firmware does for cards: steers their interrupts to the lines that the ACPI tables name, level-triggered.
    pub(crate) fn set_up_cards(&mut self) {
        if self.cards.is_empty() {
            return;
        }
        self.cards.enable();
        let now = GuestNs(0);
        for device in 1..5 {
            let pirq = pirq(device);
            let select = 1 << 31 | u32::from(ISA_BRIDGE.device) << 11 | PIRQ_ROUTES;
            self.pci.write(0, Width::Dword, select, now);
            self.pci.write(4 + pirq as u16, Width::Byte, acpi::gsi(device.into(), 0).into(), now);
        }
        self.pci.write(0, Width::Dword, 0, now);
        // The edge/level control register of the second 8259.
        self.pic.write(5, acpi::PCI_GSIS.iter().fold(0, |bits, gsi| bits | 1 << (gsi - 8)), now);
        self.settle();
    }

    /// Why the machine has ended, if it has.
    pub(crate) fn end(&self) -> Option<End> {
        self.end
    }

    /// Ends the machine, or resets it where it starts again; the first reason stands.
    pub(crate) fn finish(&mut self, end: End) {
        let is_reset = matches!(end, End::Reset | End::TripleFault);
        if is_reset && self.on_reset == OnReset::Restarts {
            self.reset_due = true;
        } else {
            self.end.get_or_insert(end);
        }
        self.wants_control = true;
    }

    /// Whether the machine is to be reset before anything else happens.
    pub(crate) fn reset_due(&self) -> bool {
        self.reset_due && self.end.is_none()
    }

    /// The reset line. What has a battery, a cable or a line of its own stays as it is: clocks, CMOS memory, drives, serial input
    /// that waits, whether networks are connected.
    pub(crate) fn reset(&mut self, now: GuestNs, ram: &mut GuestRam) {
        self.reset_due = false;
        self.pit.advance(now);
        self.acpi_pm.advance(now);
        self.pic.reset();
        self.pit.reset();
        self.rtc.reset();
        self.lapics.iter_mut().for_each(Lapic::reset);
        self.running = 0;
        self.io_apic.reset();
        self.acpi_pm.reset();
        self.pci.reset();
        self.system_control.reset();
        self.system_control.write(0, PORT_92_A20, now);
        self.i8042.reset();
        self.serial.iter_mut().for_each(SerialPort::reset);
        self.cards.reset();
        if let Some(firmware) = &mut self.firmware {
            firmware.fw_cfg.reset();
        }
        // RAM below 1 MiB gives way to ROM again.
        self.serve_memory_wishes(ram);
        self.exchange_serial();
        self.settle();
    }

    /// Whether the A20 gate lets address bit 20 through.
    pub(crate) fn a20(&self) -> bool {
        self.system_control.a20() || self.i8042.a20()
    }

    /// The earliest guest time at which a chip changes by itself.
    pub(crate) fn next_deadline(&self) -> Option<GuestNs> {
        self.next_deadline
    }

    /// Whether a deadline is not after `now`.
    pub(crate) fn deadline_due(&self, now: GuestNs) -> bool {
        self.next_deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Fires all deadlines up to `now`, each at its own time, in order. Here, and nowhere else, cards reach memory and drives.
    pub(crate) fn fire_deadlines(&mut self, now: GuestNs, ram: &mut GuestRam) {
        while let Some(deadline) = self.next_deadline.filter(|deadline| *deadline <= now) {
            self.pit.advance(deadline);
            self.rtc.advance(deadline);
            self.lapics.iter_mut().for_each(|lapic| lapic.advance(deadline));
            self.acpi_pm.advance(deadline);
            self.i8042.advance(deadline);
            self.cards.service(deadline, ram, &mut self.output);
            if self.cards.drives.failure.is_some() {
                self.finish(End::EngineFailed);
            }
            self.settle();
            let next = self.next_deadline;
            assert!(
                next.is_none_or(|next| next > deadline),
                "a deadline passes when it is reached"
            );
        }
    }

    /// Where a run towards `until` has to stop first, because a deadline is due there.
    pub(crate) fn bound_runs(&mut self, until: Position) -> Position {
        let next = self.next_deadline.map_or(until, |at| self.clock.position_of(at));
        self.bound = next.min(until);
        self.wants_control = self.end.is_some() || self.reset_due;
        self.bound
    }

    /// Looks at the chips' outputs: see the module's documentation.
    pub(crate) fn settle(&mut self) {
        let lines = u16::from(self.pit.out(0)) << irq::TIMER
            | u16::from(self.i8042.keyboard_irq()) << irq::KEYBOARD
            | self.serial.iter().fold(0, |lines, port| lines | port.line())
            | u16::from(self.rtc.irq()) << irq::RTC
            | u16::from(self.acpi_pm.sci()) << irq::SCI
            | u16::from(self.i8042.mouse_irq()) << irq::MOUSE
            | self.cards.lines(&self.pci);
        let mut changed = lines ^ self.lines;
        self.lines = lines;
        while changed != 0 {
            let line = changed.trailing_zeros() as u8;
            changed &= changed - 1;
            let level = lines & 1 << line != 0;
            self.pic.set_line(line, level);
            self.io_apic.set_line(io_apic_pin(line), level);
        }
        while let Some(message) = self.io_apic.take_message() {
            lapic::deliver(&message, &mut self.lapics);
        }
        while let Some(message) = self.cards.take_message() {
            lapic::deliver(&message, &mut self.lapics);
        }
        let external = self.pic.interrupt_pending();
        self.lapics.iter_mut().for_each(|lapic| lapic.set_lint0(external));
        self.run_processor(self.running);

        let deadlines = [
            self.pit.deadline(),
            self.rtc.deadline(),
            self.lapics.iter().filter_map(Lapic::deadline).min(),
            self.acpi_pm.deadline(),
            self.i8042.deadline(),
            self.cards.deadline(),
        ];
        let next = deadlines.into_iter().flatten().min();
        if next != self.next_deadline {
            self.next_deadline = next;
            if next.is_some_and(|next| self.clock.position_of(next) < self.bound) {
                self.wants_control = true;
            }
        }
    }

    /// Whether a device's signal would become an NMI.
    pub(crate) fn makes_nmis(&self) -> bool {
        self.io_apic.makes_nmis() || self.lapics.iter().any(Lapic::makes_nmis)
    }

    /// The local APIC of the processor whose turn it is.
    pub(crate) fn lapic(&mut self) -> &mut Lapic {
        &mut self.lapics[self.running]
    }

    /// What comes from the CPU comes from this processor from now on.
    pub(crate) fn run_processor(&mut self, number: usize) {
        self.running = number;
        let lapic = &self.lapics[number];
        self.interrupt = interrupts(lapic);
        self.signal = lapic.signal_pending();
    }

    /// So many exits happen: see [`TimeBase::Exits`](crate::TimeBase::Exits).
    pub(crate) fn count_exits(&mut self, count: u64) {
        if self.clock.count_exits(count) {
            // The position makes no difference where exits are counted.
            let due = self.deadline_due(self.clock.at(Position(0)));
            self.wants_control |= due || self.exits_reached();
        }
    }

    /// Ends runs when there were so many exits; what it was before.
    pub(crate) fn set_exits_max(&mut self, exits: u64) -> u64 {
        std::mem::replace(&mut self.exits_max, exits)
    }

    /// Whether there were.
    pub(crate) fn exits_reached(&self) -> bool {
        self.clock.exits() >= self.exits_max
    }

    /// The acknowledge cycle: the vector of the interrupt that the CPU takes. What comes through the
    /// 8259 pair goes first, as it has no priority that the local APIC could compare.
    pub(crate) fn acknowledge(&mut self) -> u8 {
        let vector = if self.lapic().external_interrupt_pending() {
            self.lapic().acknowledge_external();
            self.pic.acknowledge()
        } else {
            self.lapic().acknowledge()
        };
        self.settle();
        vector
    }

    /// Takes what the local APIC signals beside interrupts; whether it is an NMI. INIT of the first
    /// processor resets the machine, that of another takes effect when its turn is over; there is no system management mode, and
    /// start-up means nothing to a processor that runs.
    pub(crate) fn take_signals(&mut self) -> bool {
        self.signal = false;
        let is_first = self.running == 0;
        let lapic = self.lapic();
        lapic.take_smi();
        lapic.take_startup();
        let nmi = lapic.take_nmi();
        if is_first && lapic.take_init() {
            self.finish(End::Reset);
        }
        nmi
    }

    /// Whether something waits that reaches RAM, between two instructions.
    pub(crate) fn notice_memory_wishes(&mut self) {
        if let Some(firmware) = &self.firmware {
            self.wants_control |= firmware.wants_service(&self.pci);
        }
    }

    /// Does it, when the instruction that wished it is over.
    pub(crate) fn serve_memory_wishes(&mut self, ram: &mut GuestRam) {
        if let Some(firmware) = &mut self.firmware {
            firmware.service(&self.pci, &mut self.cards.drives, ram);
        }
    }

    /// Acts on what the guest asked of the power and reset registers.
    pub(crate) fn take_requests(&mut self) {
        if self.acpi_pm.take_sleep_request() == Some(acpi::SLEEP_TYPE_S5) {
            self.finish(End::PowerOff);
        }
        let by_acpi = self.acpi_pm.take_reset();
        let by_port = self.system_control.take_reset().is_some();
        let by_keyboard = self.i8042.take_reset();
        if by_acpi || by_port || by_keyboard {
            self.finish(End::Reset);
        }
    }

    pub(crate) fn apply(&mut self, input: &Input) {
        match input {
            Input::Serial { port, bytes } => self.receive_serial(*port, bytes),
            Input::PowerButton => self.acpi_pm.press_power_button(),
            Input::Key { code, extended, pressed } => {
                self.i8042.key(Key { code: *code, extended: *extended }, *pressed);
            }
            Input::Mouse { right, up, wheel, buttons } => {
                self.i8042.move_mouse(*right, *up, *wheel, *buttons);
            }
            // No chip's business.
            Input::WriteRegisters { .. }
            | Input::WriteRegistersOf { .. }
            | Input::WriteMemory { .. }
            | Input::Deliveries { .. }
            | Input::Landmark { .. }
            | Input::Counted { .. } => {}
            // The machine sees to it, which knows the time.
            Input::Frames { .. } | Input::Link { .. } => {}
            Input::Time { us } => self.count_exits((*us).into()),
        }
        self.settle();
    }

    pub(crate) fn take_output(&mut self) -> Vec<Output> {
        self.output.take()
    }
}

/// Whether an interrupt waits for a processor.
pub(crate) fn interrupts(lapic: &Lapic) -> bool {
    lapic.interrupt_pending() || lapic.external_interrupt_pending()
}

mod save_restore {
    use super::*;

    impl Board {
        /// Cards, what serves the firmware, serial ports and processors beyond the first are saved apart.
        pub(crate) fn save(&self) -> (clock::State, BoardState) {
            let Board {
                clock,
                pic,
                pit,
                rtc,
                lapics,
                running: _,
                io_apic,
                acpi_pm,
                pci,
                system_control,
                i8042,
                serial,
                firmware: _,
                cards: _,
                end,
                on_reset: _,
                accesses: _,
                unknown_ports: _,
                lines: _,
                next_deadline: _,
                interrupt: _,
                signal: _,
                output: _,
                bound: _,
                wants_control: _,
                exits_max: _,
                reset_due: _,
            } = self;
            let SerialState { uart: com1, waiting: com1_waiting } = serial[0].save();
            let state = BoardState {
                pic: pic.save(),
                pit: pit.save(),
                rtc: rtc.save(),
                lapic: lapics[0].save(),
                io_apic: io_apic.save(),
                acpi_pm: acpi_pm.save(),
                pci: pci.save(),
                system_control: system_control.save(),
                i8042: i8042.save(),
                com1,
                com1_waiting,
                end: *end,
            };
            (clock.save(), state)
        }

        pub(crate) fn restore(
            &mut self,
            clock: &clock::State,
            state: &BoardState,
        ) -> Result<(), RestoreError> {
            let BoardState {
                pic,
                pit,
                rtc,
                lapic,
                io_apic,
                acpi_pm,
                pci,
                system_control,
                i8042,
                com1,
                com1_waiting,
                end,
            } = state.clone();
            self.clock.restore(clock);
            self.pic.restore(pic)?;
            self.pit.restore(pit)?;
            self.rtc.restore(rtc)?;
            self.lapics[0].restore(lapic)?;
            self.io_apic.restore(io_apic)?;
            self.acpi_pm.restore(acpi_pm)?;
            self.pci.restore(pci)?;
            self.system_control.restore(system_control)?;
            self.i8042.restore(i8042)?;
            self.serial[0].restore(SerialState { uart: com1, waiting: com1_waiting })?;
            self.end = end;
            self.output = OutputQueue::default();
            // A saved controller has been told these levels already, so telling it again is no edge.
            self.lines = 0;
            self.settle();
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;

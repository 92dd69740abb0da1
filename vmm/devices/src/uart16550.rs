//! National 16550A UART: a serial port (National PC16550D datasheet, TL/C/8652).
//!
//! Data path: a byte written to THR is on the wire at once and waits in `transmitted` for the host;
//! bytes that the host receives wait in the FIFO for the guest.
//!
//! Decided where documents leave room:
//! * Characters take no time on the line, whatever the divisor. THR is empty after each write, and
//!   the "THR empty" interrupt is asked for again by each write and by each enabling of it, which is
//!   what the probes of Linux's 8250 driver measure.
//! * For the same reason data below the trigger level is a character timeout (IIR 0xc) at once.
//! * Host input is never lost: `receive` accepts what fits and the host keeps the rest. Only loopback
//!   can overrun.
//! * As on a PC, the interrupt pin reaches the bus only while MCR.OUT2 is set and loopback is off.
//!
//! Not modelled: parity and framing errors, DMA mode, autoflow.

use crate::RestoreError;
use dejavm_units::GuestNs;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Number of I/O ports; registers 0 to 7 follow the base port.
pub const PORT_COUNT: u16 = 8;

/// Characters that the receive FIFO holds.
pub const FIFO_SIZE: usize = 16;

const IER_ERBFI: u8 = 1 << 0;
const IER_ETBEI: u8 = 1 << 1;
const IER_ELSI: u8 = 1 << 2;
const IER_EDSSI: u8 = 1 << 3;

const IIR_NONE: u8 = 0x01;
const IIR_MODEM_STATUS: u8 = 0x00;
const IIR_THR_EMPTY: u8 = 0x02;
const IIR_RECEIVED_DATA: u8 = 0x04;
const IIR_LINE_STATUS: u8 = 0x06;
const IIR_CHARACTER_TIMEOUT: u8 = 0x0c;
const IIR_FIFOS_ENABLED: u8 = 0xc0;

const FCR_ENABLE: u8 = 1 << 0;
const FCR_CLEAR_RECEIVER: u8 = 1 << 1;
const FCR_TRIGGER: u8 = 0xc0;

const LCR_DLAB: u8 = 1 << 7;

const MCR_DTR: u8 = 1 << 0;
const MCR_RTS: u8 = 1 << 1;
const MCR_OUT1: u8 = 1 << 2;
const MCR_OUT2: u8 = 1 << 3;
const MCR_LOOP: u8 = 1 << 4;
const MCR_WRITABLE: u8 = 0x1f;

const LSR_DR: u8 = 1 << 0;
const LSR_OE: u8 = 1 << 1;
const LSR_BI: u8 = 1 << 4;
const LSR_THRE: u8 = 1 << 5;
const LSR_TEMT: u8 = 1 << 6;
const LSR_FIFO_ERROR: u8 = 1 << 7;

const MSR_DELTAS: u8 = 0x0f;
const MSR_TERI: u8 = 1 << 2;
const MSR_CTS: u8 = 1 << 4;
const MSR_DSR: u8 = 1 << 5;
const MSR_RI: u8 = 1 << 6;
const MSR_DCD: u8 = 1 << 7;

/// A received character.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Received {
    byte: u8,
    /// It is a break, not yet reported through LSR.
    is_break: bool,
}

/// Everything of the chip that can change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    ier: u8,
    /// FCR.ENABLE and the trigger level.
    fcr: u8,
    lcr: u8,
    mcr: u8,
    scr: u8,
    divisor: [u8; 2],
    /// MSR: modem inputs and what changed since the last read.
    msr: u8,
    /// Modem inputs at the connector (upper half of MSR), which loopback disconnects.
    connector: u8,
    overrun: bool,
    thr_empty_pending: bool,
    received: VecDeque<Received>,
    /// What the guest sent and the host has not taken.
    transmitted: Vec<u8>,
}

/// A 16550A.
#[derive(Clone, Debug)]
pub struct Uart16550 {
    // Configuration: none.
    // Glue: none.
    state: State,
}

impl Default for Uart16550 {
    fn default() -> Uart16550 {
        Uart16550::new()
    }
}

// Guest side.
impl Uart16550 {
    /// The chip at power-on, connected to a peer that is ready (CTS, DSR and DCD asserted).
    pub fn new() -> Uart16550 {
        let connector = MSR_CTS | MSR_DSR | MSR_DCD;
        Uart16550 {
            state: State {
                ier: 0,
                fcr: 0,
                lcr: 0,
                mcr: 0,
                scr: 0,
                // Undefined at power-on; 9600 baud.
                divisor: [12, 0],
                msr: connector,
                connector,
                overrun: false,
                thr_empty_pending: false,
                received: VecDeque::new(),
                transmitted: Vec::new(),
            },
        }
    }

    /// The master reset pin. What the guest sent before it has left.
    pub fn reset(&mut self) {
        let Uart16550 { state } = self;
        let connector = state.connector;
        let transmitted = std::mem::take(&mut state.transmitted);
        *state = State { connector, msr: connector, transmitted, ..Uart16550::new().state };
    }

    /// Reads register `reg` (0..8); all-ones if there is no such register.
    pub fn read(&mut self, reg: u16, _now: GuestNs) -> u8 {
        let dlab = self.state.lcr & LCR_DLAB != 0;
        match reg {
            0 if dlab => self.state.divisor[0],
            1 if dlab => self.state.divisor[1],
            0 => self.state.received.pop_front().map_or(0, |received| received.byte),
            1 => self.state.ier,
            2 => self.read_iir(),
            3 => self.state.lcr,
            4 => self.state.mcr,
            5 => self.read_lsr(),
            6 => {
                let msr = self.state.msr;
                self.state.msr &= !MSR_DELTAS;
                msr
            }
            7 => self.state.scr,
            _ => 0xff,
        }
    }

    /// Writes register `reg` (0..8).
    pub fn write(&mut self, reg: u16, value: u8, _now: GuestNs) {
        let dlab = self.state.lcr & LCR_DLAB != 0;
        match reg {
            0 if dlab => self.state.divisor[0] = value,
            1 if dlab => self.state.divisor[1] = value,
            0 => self.transmit(value),
            1 => {
                let enabled = value & !self.state.ier;
                self.state.ier = value & (IER_ERBFI | IER_ETBEI | IER_ELSI | IER_EDSSI);
                // THR is empty, always: enabling the interrupt asks for it.
                if enabled & IER_ETBEI != 0 {
                    self.state.thr_empty_pending = true;
                }
            }
            2 => self.write_fcr(value),
            3 => self.state.lcr = value,
            4 => {
                self.state.mcr = value & MCR_WRITABLE;
                self.update_modem_status();
            }
            // LSR and MSR writes are for factory tests.
            7 => self.state.scr = value,
            _ => {}
        }
    }

    fn read_iir(&mut self) -> u8 {
        let source = self.interrupt_source();
        if source == IIR_THR_EMPTY {
            self.state.thr_empty_pending = false;
        }
        source | if self.fifos_enabled() { IIR_FIFOS_ENABLED } else { 0 }
    }

    fn read_lsr(&mut self) -> u8 {
        let lsr = self.lsr();
        self.state.overrun = false;
        if let Some(head) = self.state.received.front_mut() {
            head.is_break = false;
        }
        lsr
    }

    fn write_fcr(&mut self, value: u8) {
        let toggled = (value ^ self.state.fcr) & FCR_ENABLE != 0;
        // "When changing from FIFO mode to 16450 mode and vice versa, data is automatically cleared."
        if toggled || value & (FCR_ENABLE | FCR_CLEAR_RECEIVER) == FCR_ENABLE | FCR_CLEAR_RECEIVER {
            self.state.received.clear();
        }
        // Without FCR.ENABLE the other bits are not programmed.
        self.state.fcr =
            if value & FCR_ENABLE != 0 { value & (FCR_ENABLE | FCR_TRIGGER) } else { 0 };
    }

    fn transmit(&mut self, byte: u8) {
        if self.state.mcr & MCR_LOOP != 0 {
            self.shift_in(Received { byte, is_break: false });
        } else {
            self.state.transmitted.push(byte);
        }
        self.state.thr_empty_pending = true;
    }

    /// A character has come in whether there is room or not.
    fn shift_in(&mut self, received: Received) {
        if self.state.received.len() < self.capacity() {
            self.state.received.push_back(received);
            return;
        }
        self.state.overrun = true;
        if !self.fifos_enabled() {
            // RBR is overwritten; a full FIFO keeps what it has.
            self.state.received.clear();
            self.state.received.push_back(received);
        }
    }

    fn fifos_enabled(&self) -> bool {
        self.state.fcr & FCR_ENABLE != 0
    }

    fn capacity(&self) -> usize {
        if self.fifos_enabled() { FIFO_SIZE } else { 1 }
    }

    fn trigger_level(&self) -> usize {
        match self.state.fcr & (FCR_TRIGGER | FCR_ENABLE) {
            0x41 => 4,
            0x81 => 8,
            0xc1 => 14,
            // 0x01, or no FIFO.
            _ => 1,
        }
    }

    fn lsr(&self) -> u8 {
        let State { received, overrun, .. } = &self.state;
        let head_is_break = received.front().is_some_and(|head| head.is_break);
        let any_error = self.fifos_enabled() && received.iter().any(|r| r.is_break);
        LSR_THRE
            | LSR_TEMT
            | if received.is_empty() { 0 } else { LSR_DR }
            | if *overrun { LSR_OE } else { 0 }
            | if head_is_break { LSR_BI } else { 0 }
            | if any_error { LSR_FIFO_ERROR } else { 0 }
    }

    /// The most urgent enabled interrupt, as IIR tells it.
    fn interrupt_source(&self) -> u8 {
        let State { ier, msr, received, thr_empty_pending, .. } = &self.state;
        if ier & IER_ELSI != 0 && self.lsr() & (LSR_OE | LSR_BI) != 0 {
            IIR_LINE_STATUS
        } else if ier & IER_ERBFI != 0 && !received.is_empty() {
            if received.len() >= self.trigger_level() {
                IIR_RECEIVED_DATA
            } else {
                IIR_CHARACTER_TIMEOUT
            }
        } else if ier & IER_ETBEI != 0 && *thr_empty_pending {
            IIR_THR_EMPTY
        } else if ier & IER_EDSSI != 0 && msr & MSR_DELTAS != 0 {
            IIR_MODEM_STATUS
        } else {
            IIR_NONE
        }
    }

    /// Recomputes MSR from the connector or, in loopback, from MCR, and notes what changed.
    fn update_modem_status(&mut self) {
        let mcr = self.state.mcr;
        let inputs = if mcr & MCR_LOOP == 0 {
            self.state.connector
        } else {
            [(MCR_RTS, MSR_CTS), (MCR_DTR, MSR_DSR), (MCR_OUT1, MSR_RI), (MCR_OUT2, MSR_DCD)]
                .iter()
                .filter(|(output, _)| mcr & output != 0)
                .fold(0, |inputs, (_, input)| inputs | input)
        };
        let mut deltas = (inputs ^ self.state.msr) >> 4;
        if inputs & MSR_RI != 0 {
            // Only the trailing edge of the ring indicator counts.
            deltas &= !MSR_TERI;
        }
        self.state.msr = inputs | (self.state.msr & MSR_DELTAS) | deltas;
    }
}

// Host side.
impl Uart16550 {
    /// Receives as many of `bytes` as fit and returns their number. Nothing is received in loopback.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let accepted = self.room().min(bytes.len());
        self.state
            .received
            .extend(bytes[..accepted].iter().map(|&byte| Received { byte, is_break: false }));
        accepted
    }

    /// Receives a break (Linux: what comes before a SysRq key); false if there is no room for it.
    pub fn receive_break(&mut self) -> bool {
        let fits = self.room() > 0;
        if fits {
            self.state.received.push_back(Received { byte: 0, is_break: true });
        }
        fits
    }

    /// How many bytes [`receive`](Self::receive) would accept now.
    pub fn room(&self) -> usize {
        if self.state.mcr & MCR_LOOP != 0 {
            return 0;
        }
        self.capacity().saturating_sub(self.state.received.len())
    }

    /// What the guest has sent since the last call.
    pub fn take_transmitted(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.state.transmitted)
    }

    /// Moves what the guest has sent since the last call to the end of `sink`.
    pub fn drain_transmitted(&mut self, sink: &mut Vec<u8>) {
        sink.append(&mut self.state.transmitted);
    }

    /// Sets the modem inputs at the connector.
    pub fn set_modem_inputs(&mut self, cts: bool, dsr: bool, ri: bool, dcd: bool) {
        self.state.connector = [(cts, MSR_CTS), (dsr, MSR_DSR), (ri, MSR_RI), (dcd, MSR_DCD)]
            .iter()
            .filter(|(asserted, _)| *asserted)
            .fold(0, |inputs, (_, input)| inputs | input);
        self.update_modem_status();
    }

    /// Level of the interrupt line, as the PC's bus sees it.
    pub fn irq(&self) -> bool {
        self.state.mcr & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2 && self.interrupt_source() != IIR_NONE
    }

    /// Never: characters take no time.
    pub fn deadline(&self) -> Option<GuestNs> {
        None
    }

    /// Nothing depends on time.
    pub fn advance(&mut self, _now: GuestNs) {}
}

mod save_restore {
    use super::*;

    impl Uart16550 {
        /// The state of the chip.
        pub fn save(&self) -> State {
            let Uart16550 { state } = self;
            state.clone()
        }

        /// Becomes `state`. Refuses register bits that do not exist and more characters than fit.
        pub fn restore(&mut self, state: State) -> Result<(), RestoreError> {
            let check = |valid, field| RestoreError::unless(valid, "the 16550A", field);
            check(state.ier & 0xf0 == 0, "ier")?;
            check(state.mcr & !MCR_WRITABLE == 0, "mcr")?;
            check(state.connector & MSR_DELTAS == 0, "connector")?;
            let fcr_valid = state.fcr & !(FCR_ENABLE | FCR_TRIGGER) == 0
                && (state.fcr == 0 || state.fcr & FCR_ENABLE != 0);
            check(fcr_valid, "fcr")?;
            let capacity = if state.fcr & FCR_ENABLE != 0 { FIFO_SIZE } else { 1 };
            check(state.received.len() <= capacity, "received")?;
            self.state = state;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: GuestNs = GuestNs(0);
    const THR: u16 = 0;
    const IER: u16 = 1;
    const IIR: u16 = 2;
    const FCR: u16 = 2;
    const LCR: u16 = 3;
    const MCR: u16 = 4;
    const LSR: u16 = 5;
    const MSR: u16 = 6;

    fn open() -> Uart16550 {
        let mut uart = Uart16550::new();
        uart.write(FCR, 0x07, T);
        uart.write(MCR, 0x0b, T);
        uart
    }

    /// The probes of Linux's drivers/tty/serial/8250/8250_port.c, autoconfig().
    #[test]
    fn linux_autoconfig_finds_a_16550a() {
        let mut uart = Uart16550::new();
        uart.write(IER, 0x0f, T);
        assert_eq!(uart.read(IER, T) & 0x0f, 0x0f);
        uart.write(IER, 0, T);
        assert_eq!(uart.read(IER, T), 0);
        uart.write(MCR, 0x10 | 0x0a, T);
        assert_eq!(uart.read(MSR, T) & 0xf0, 0x90);
        uart.write(MCR, 0, T);
        uart.write(FCR, 1, T);
        assert_eq!(uart.read(IIR, T) >> 6, 3);
        // No EFR behind LCR 0xbf: the same register reads as IIR.
        uart.write(LCR, 0xbf, T);
        assert_ne!(uart.read(2, T), 0);
        // No IER.UUE.
        uart.write(LCR, 0, T);
        uart.write(IER, 0x40, T);
        assert_eq!(uart.read(IER, T), 0);
    }

    /// serial8250_do_startup(): the THRE test and the TXEN test.
    #[test]
    fn linux_finds_no_thre_or_txen_bug() {
        let mut uart = open();
        assert_eq!(uart.read(LSR, T) & 0x60, 0x60);
        uart.write(IER, 0x02, T);
        let iir1 = uart.read(IIR, T);
        uart.write(IER, 0, T);
        uart.write(IER, 0x02, T);
        let iir = uart.read(IIR, T);
        uart.write(IER, 0, T);
        assert_eq!((iir1 & 1, iir & 1), (0, 0), "the interrupt is asked for again");
    }

    #[test]
    fn thr_empty_interrupt_is_cleared_by_reading_iir_and_asked_for_by_writing() {
        let mut uart = open();
        uart.write(IER, 0x02, T);
        assert!(uart.irq());
        assert_eq!(uart.read(IIR, T), 0xc2);
        assert!(!uart.irq());
        assert_eq!(uart.read(IIR, T), 0xc1);
        uart.write(THR, b'x', T);
        assert!(uart.irq());
        assert_eq!(uart.take_transmitted(), b"x");
        assert_eq!(uart.take_transmitted(), b"");
    }

    #[test]
    fn receive_fifo_accepts_16_and_reports_by_trigger_level() {
        let mut uart = open();
        uart.write(FCR, 0x81, T);
        uart.write(IER, 0x01, T);
        assert_eq!(uart.receive(b"abc"), 3);
        assert_eq!(uart.read(IIR, T), 0xcc);
        assert_eq!(uart.receive(b"0123456789abcdef"), 13);
        assert_eq!(uart.read(IIR, T), 0xc4);
        assert_eq!(uart.receive(b"z"), 0);
        let got: Vec<u8> = (0..16).map(|_| uart.read(0, T)).collect();
        assert_eq!(got, b"abc0123456789abc");
        assert!(!uart.irq());
        assert_eq!(uart.read(LSR, T), 0x60);
    }

    #[test]
    fn without_fifo_there_is_one_byte() {
        let mut uart = Uart16550::new();
        assert_eq!(uart.receive(b"ab"), 1);
        assert_eq!(uart.read(LSR, T) & 1, 1);
        assert_eq!(uart.read(0, T), b'a');
        assert_eq!(uart.read(IIR, T), 0x01);
    }

    #[test]
    fn loopback_overruns_and_says_so() {
        for (fcr, capacity, expected) in [(1u8, 16, vec![0, 1, 2]), (0, 1, vec![1])] {
            let mut uart = Uart16550::new();
            uart.write(FCR, fcr, T);
            uart.write(MCR, 0x10, T);
            for byte in 0..=capacity {
                uart.write(THR, byte, T);
            }
            assert_eq!(uart.read(LSR, T) & 0x02, 0x02);
            assert_eq!(uart.read(LSR, T) & 0x02, 0, "reading clears it");
            for byte in expected {
                assert_eq!(uart.read(0, T), byte, "FCR {fcr}");
            }
            assert_eq!(uart.take_transmitted(), b"", "nothing leaves");
            assert_eq!(uart.receive(b"x"), 0, "nothing enters");
        }
    }

    #[test]
    fn break_is_a_line_status_interrupt() {
        let mut uart = open();
        uart.write(IER, 0x05, T);
        assert!(uart.receive_break());
        uart.receive(b"h");
        assert_eq!(uart.read(IIR, T), 0xc6);
        assert_eq!(uart.read(LSR, T), 0x60 | 0x80 | 0x10 | 0x01);
        assert_eq!(uart.read(LSR, T), 0x61);
        assert_eq!(uart.read(0, T), 0);
        assert_eq!(uart.read(0, T), b'h');
    }

    #[test]
    fn out2_gates_the_line() {
        let mut uart = open();
        uart.write(IER, 0x02, T);
        uart.write(MCR, 0x03, T);
        assert!(!uart.irq());
        uart.write(MCR, 0x0b, T);
        assert!(uart.irq());
        uart.write(MCR, 0x1b, T);
        assert!(!uart.irq(), "loopback disconnects the pin");
    }

    #[test]
    fn modem_inputs_interrupt_on_change() {
        let mut uart = open();
        assert_eq!(uart.read(MSR, T), 0xb0);
        uart.write(IER, 0x08, T);
        uart.set_modem_inputs(false, true, true, true);
        assert!(uart.irq());
        assert_eq!(uart.read(IIR, T), 0xc0);
        assert_eq!(uart.read(MSR, T), 0xe1, "delta CTS; a leading edge of RI does not count");
        assert!(!uart.irq());
        uart.set_modem_inputs(false, true, false, true);
        assert_eq!(uart.read(MSR, T), 0xa4, "trailing edge of RI");
    }

    #[test]
    fn divisor_latch() {
        let mut uart = Uart16550::new();
        uart.write(LCR, 0x83, T);
        uart.write(0, 1, T);
        uart.write(1, 2, T);
        assert_eq!((uart.read(0, T), uart.read(1, T)), (1, 2));
        uart.write(LCR, 0x03, T);
        assert_eq!(uart.read(1, T), 0);
        assert_eq!(uart.take_transmitted(), b"");
    }

    #[test]
    fn restore_refuses_an_overfull_fifo() {
        let mut state = Uart16550::new().save();
        state.received = vec![Received { byte: 0, is_break: false }; 2].into();
        assert_eq!(Uart16550::new().restore(state).unwrap_err().field, "received");
    }
}

//! The serial ports as a PC has them: where each answers, which interrupt line it shares, and what waits for it.

use crate::board::Board;
use crate::hardware::Hardware;
use crate::input_output::OutputQueue;
use crate::state::{RestoreError, SerialState};
use dejavm_devices::{Uart16550, uart16550};
use dejavm_units::GuestNs;
use std::collections::VecDeque;

/// First I/O ports of COM1 to COM4.
pub(crate) const BASES: [u16; 4] = [0x3f8, 0x2f8, 0x3e8, 0x2e8];
/// Their ISA interrupt lines: two share one.
pub(crate) const LINES: [u8; 4] = [4, 3, 4, 3];

/// Bytes received that may wait for the guest to read them.
const WAITING_MAX: usize = 1 << 16;

/// A serial port.
pub(crate) struct SerialPort {
    /// 0: COM1.
    number: u8,
    uart: Uart16550,
    /// Input that the UART has no room for yet.
    pub(crate) waiting: VecDeque<u8>,
}

/// The serial ports that a machine has, by number: COM1 always.
pub(crate) fn ports(hardware: &Hardware) -> Vec<SerialPort> {
    let port = |number| SerialPort { number, uart: Uart16550::new(), waiting: VecDeque::new() };
    let others = (1..).zip(hardware.serial_ports).filter(|(_, exists)| *exists);
    std::iter::once(0).chain(others.map(|(number, _)| number)).map(port).collect()
}

impl SerialPort {
    /// The ISA interrupt line, if it is high, as a bit.
    pub(crate) fn line(&self) -> u16 {
        u16::from(self.uart.irq()) << LINES[usize::from(self.number)]
    }

    /// Moves input into the UART as far as it has room, and its output to the host.
    fn exchange(&mut self, output: &mut OutputQueue) {
        while let Some(byte) = self.waiting.front() {
            if self.uart.receive(&[*byte]) == 0 {
                break;
            }
            self.waiting.pop_front();
        }
        output.serial(self.number, &self.uart.take_transmitted());
    }

    /// The reset line. Input that waits goes on waiting.
    pub(crate) fn reset(&mut self) {
        self.uart.reset();
    }

    fn receive(&mut self, bytes: &[u8], output: &mut OutputQueue) {
        // Beyond this the line drops bytes, as a UART does that nobody reads: the state must not
        // grow with what the world sends.
        let room = WAITING_MAX.saturating_sub(self.waiting.len());
        self.waiting.extend(&bytes[..bytes.len().min(room)]);
        self.exchange(output);
    }
}

impl Board {
    /// Which of the serial ports an I/O port is of, and the register.
    fn serial_at(&self, port: u16) -> Option<(usize, u16)> {
        let find = |(index, serial): (usize, &SerialPort)| {
            let register = port.wrapping_sub(BASES[usize::from(serial.number)]);
            (register < uart16550::PORT_COUNT).then_some((index, register))
        };
        self.serial.iter().enumerate().find_map(find)
    }

    /// Moves what waits, on all ports.
    pub(crate) fn exchange_serial(&mut self) {
        self.serial.iter_mut().for_each(|serial| serial.exchange(&mut self.output));
    }

    /// Reads a register; `None`: no serial port has that I/O port.
    pub(crate) fn read_serial(&mut self, port: u16, now: GuestNs) -> Option<u8> {
        let (index, register) = self.serial_at(port)?;
        let serial = &mut self.serial[index];
        let value = serial.uart.read(register, now);
        serial.exchange(&mut self.output);
        Some(value)
    }

    /// Writes a register; whether a serial port has that I/O port.
    pub(crate) fn write_serial(&mut self, port: u16, value: u8, now: GuestNs) -> bool {
        let Some((index, register)) = self.serial_at(port) else { return false };
        let serial = &mut self.serial[index];
        serial.uart.write(register, value, now);
        serial.exchange(&mut self.output);
        true
    }

    /// Bytes arrive at the virtio console.
    pub(crate) fn receive_on_console(&mut self, bytes: &[u8], now: GuestNs) {
        self.cards.receive_on_console(bytes, now);
        self.settle();
    }

    /// Bytes arrive on a line; where there is no port they are lost.
    pub(crate) fn receive_serial(&mut self, number: u8, bytes: &[u8]) {
        if let Some(serial) = self.serial.iter_mut().find(|serial| serial.number == number) {
            serial.receive(bytes, &mut self.output);
        }
    }
}

mod save_restore {
    use super::*;

    impl SerialPort {
        pub(crate) fn save(&self) -> SerialState {
            let SerialPort { number: _, uart, waiting } = self;
            SerialState { uart: uart.save(), waiting: waiting.iter().copied().collect() }
        }

        pub(crate) fn restore(&mut self, state: SerialState) -> Result<(), RestoreError> {
            let SerialState { uart, waiting } = state;
            self.uart.restore(uart)?;
            self.waiting = waiting.into();
            Ok(())
        }
    }

    impl Board {
        /// The state of the ports beyond the first.
        pub(crate) fn save_serial(&self) -> Vec<SerialState> {
            self.serial[1..].iter().map(SerialPort::save).collect()
        }

        /// Becomes that state.
        pub(crate) fn restore_serial(
            &mut self,
            states: &[SerialState],
        ) -> Result<(), RestoreError> {
            let ports = &mut self.serial[1..];
            if ports.len() != states.len() {
                return Err(RestoreError::OtherSerialPorts);
            }
            for (port, state) in ports.iter_mut().zip(states) {
                port.restore(state.clone())?;
            }
            Ok(())
        }
    }
}

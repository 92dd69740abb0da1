//! Programs: accesses as code for flat 32-bit protected mode.

use super::THROUGH;

/// Where what is read is added up.
const SUM: u32 = 0x2000;
/// The PCI configuration mechanism.
const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;

/// A program under construction.
#[derive(Debug, Default)]
pub struct Program {
    code: Vec<u8>,
}

impl Program {
    /// The code; it ends by telling that it is through.
    pub(super) fn code(&self) -> &[u8] {
        &self.code
    }

    /// How long it is.
    pub(super) fn bytes(&self) -> usize {
        self.code.len()
    }

    fn emit(&mut self, parts: &[&[u8]]) {
        self.code.extend(parts.concat());
    }

    /// Writes a port of 1, 2 or 4 bytes.
    pub fn out(&mut self, port: u16, size: u8, value: u32) {
        let instruction: &[u8] = match size {
            1 => &[0xee],
            2 => &[0x66, 0xef],
            _ => &[0xef],
        };
        let (port, value) = (port.to_le_bytes(), value.to_le_bytes());
        self.emit(&[&[0x66, 0xba], &port, &[0xb8], &value, instruction]);
    }

    /// Reads a port of 4 bytes, or of one.
    pub fn input(&mut self, port: u16, size: u8) {
        let instruction: &[u8] = if size == 1 { &[0xec] } else { &[0xed] };
        self.emit(&[&[0x66, 0xba], &port.to_le_bytes(), instruction]);
        self.add_up();
    }

    fn add_up(&mut self) {
        self.emit(&[&[0x01, 0x05], &SUM.to_le_bytes()]);
    }

    /// Writes 1, 2 or 4 bytes of memory.
    pub fn store(&mut self, at: u32, size: u8, value: u32) {
        let (at, value) = (at.to_le_bytes(), value.to_le_bytes());
        match size {
            1 => self.emit(&[&[0xc6, 0x05], &at, &value[..1]]),
            2 => self.emit(&[&[0x66, 0xc7, 0x05], &at, &value[..2]]),
            _ => self.emit(&[&[0xc7, 0x05], &at, &value]),
        }
    }

    /// Writes 8 bytes of memory, in halves.
    pub fn store_wide(&mut self, at: u32, value: u64) {
        self.store(at, 4, value as u32);
        self.store(at.wrapping_add(4), 4, (value >> 32) as u32);
    }

    /// Puts bytes into memory.
    pub fn bytes_at(&mut self, at: u32, bytes: &[u8]) {
        for (index, dword) in (0..).zip(bytes.chunks(4)) {
            let mut padded = [0; 4];
            padded[..dword.len()].copy_from_slice(dword);
            self.store(at + 4 * index, 4, u32::from_le_bytes(padded));
        }
    }

    /// Reads 4 bytes of memory.
    pub fn load(&mut self, at: u32) {
        self.emit(&[&[0xa1], &at.to_le_bytes()]);
        self.add_up();
    }

    /// Lets so many guest microseconds pass.
    pub fn wait(&mut self, us: u32) {
        self.emit(&[&[0xb9], &(us * 2000).max(1).to_le_bytes(), &[0xe2, 0xfe]]);
    }

    /// Fills memory by one instruction.
    pub fn fill(&mut self, at: u32, value: u32, dwords: u32) {
        let (at, value, dwords) = (at.to_le_bytes(), value.to_le_bytes(), dwords.to_le_bytes());
        self.emit(&[&[0xbf], &at, &[0xb8], &value, &[0xb9], &dwords, &[0xfc, 0xf3, 0xab]]);
    }

    /// Writes 4 bytes of a function's configuration space.
    pub fn config(&mut self, device: u8, function: u8, offset: u8, value: u32) {
        let function = u32::from(device) << 11 | u32::from(function) << 8;
        self.out(ADDRESS, 4, 1 << 31 | function | u32::from(offset & 0xfc));
        self.out(DATA, 4, value);
    }

    /// Reads them.
    pub fn read_config(&mut self, device: u8, function: u8, offset: u8) {
        let function = u32::from(device) << 11 | u32::from(function) << 8;
        self.out(ADDRESS, 4, 1 << 31 | function | u32::from(offset & 0xfc));
        self.input(DATA, 4);
    }

    /// The end.
    pub fn finish(&mut self) {
        self.out(0xf4, 4, THROUGH);
    }
}

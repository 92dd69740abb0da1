//! Scripts: bytes that say what happens to a device, so short that a fuzzer's small change is a small change.

use super::memory::MEMORY_BYTES;
use super::{CONFIG, Device};
use crate::Random;

/// One thing that happens.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Read {
        region: u8,
        offset: u32,
        size: u8,
    },
    Write {
        region: u8,
        offset: u32,
        size: u8,
        value: u64,
    },
    /// The guest puts bytes into memory.
    Memory {
        at: u64,
        bytes: Vec<u8>,
    },
    ToDeadline,
    Advance {
        ns: u64,
    },
    /// Time of which the device is not told.
    Wait {
        ns: u64,
    },
    Restore,
    Host {
        what: u8,
        bytes: Vec<u8>,
    },
    Reset,
    /// What a driver does at first.
    Begin {
        variant: u64,
    },
    /// What a driver does then.
    Request {
        number: u64,
    },
}

/// Values that mean something somewhere: bounds, one beyond them, addresses of what is no memory.
const VALUES: [u64; 24] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x200,
    0x7ff,
    0x1000,
    0x7fff,
    0x8000,
    0xffff,
    MEMORY_BYTES as u64 - 8,
    MEMORY_BYTES as u64,
    0xa_0000,
    0xf_0000,
    0xfee0_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 32,
    1 << 63,
    u64::MAX,
];

/// The kinds of step, in the low four bits.
mod kind {
    pub(super) const WRITE: u8 = 4;
    pub(super) const MEMORY: u8 = 6;
    pub(super) const TO_DEADLINE: u8 = 9;
    pub(super) const HOST: u8 = 13;
}

/// Registers named by their number in the device's list are below this; above, they are named by set and offset.
const NAMED: u8 = 0xe0;

/// Takes a script apart.
pub(super) struct Reader<'s> {
    bytes: std::slice::Iter<'s, u8>,
    registers: &'static [(u8, u32)],
}

impl<'s> Reader<'s> {
    pub(super) fn new(bytes: &'s [u8], registers: &'static [(u8, u32)]) -> Reader<'s> {
        Reader { bytes: bytes.iter(), registers }
    }

    /// What is missing at the end is 0.
    fn byte(&mut self) -> u8 {
        self.bytes.next().copied().unwrap_or(0)
    }

    fn number(&mut self, bytes: u32) -> u64 {
        (0..bytes).fold(0, |number, n| number | u64::from(self.byte()) << (8 * n))
    }

    fn register(&mut self) -> (u8, u32) {
        match self.byte() {
            named if named < NAMED => self.registers[usize::from(named) % self.registers.len()],
            region => (region & 0xf, self.number(3) as u32),
        }
    }

    fn value(&mut self) -> u64 {
        match self.byte() {
            known @ 0..0x40 => VALUES[usize::from(known) % VALUES.len()],
            small @ 0x40..0x80 => u64::from(small - 0x40),
            0x80..0xc0 => self.number(2),
            0xc0..0xf0 => self.number(4),
            0xf0.. => self.number(8),
        }
    }

    fn address(&mut self) -> u64 {
        match self.byte() {
            // All of memory.
            low @ 0..0x80 => u64::from(low) << 9,
            0x80..0xc0 => self.number(2),
            0xc0.. => self.value(),
        }
    }

    /// `None` at the end.
    pub(super) fn next_step(&mut self) -> Option<Step> {
        let first = *self.bytes.next()?;
        let high = first >> 4;
        let size = 1 << (high & 3);
        Some(match first & 0xf {
            0 | 1 => {
                let (region, offset) = self.register();
                Step::Read { region, offset, size }
            }
            2..=5 => {
                let (region, offset) = self.register();
                Step::Write { region, offset, size, value: self.value() }
            }
            kind::MEMORY => {
                let at = self.address();
                let count = self.byte() & 0x3f;
                Step::Memory { at, bytes: (0..count).map(|_| self.byte()).collect() }
            }
            7 => {
                // A descriptor, or an element of some other list.
                let at = self.address().wrapping_add(16 * u64::from(high));
                let mut bytes = self.address().to_le_bytes().to_vec();
                bytes.extend(&self.value().to_le_bytes()[..4]);
                bytes.extend([self.byte(), 0, self.byte() & 0x1f, 0]);
                Step::Memory { at, bytes }
            }
            8 => {
                let at = self.address().wrapping_add(2 * u64::from(high));
                Step::Memory { at, bytes: self.value().to_le_bytes()[..2].to_vec() }
            }
            kind::TO_DEADLINE => Step::ToDeadline,
            // Of so many bytes a fuzzer finds none by itself.
            10 => match high {
                0..3 => Step::Begin { variant: self.number(4) },
                _ => Step::Request { number: self.number(6) },
            },
            11 => match high {
                0..12 => Step::Advance { ns: 1 << (self.byte() & 31) },
                _ => Step::Wait { ns: 1 << (self.byte() & 31) },
            },
            12 => Step::Restore,
            kind::HOST | 14 => {
                let (what, count) = (self.byte(), self.byte());
                let given: Vec<u8> = (0..count & 0x1f).map(|_| self.byte()).collect();
                // Long ones repeat what was given.
                let repeats = 1 + usize::from(count >> 5) * usize::from(high);
                Step::Host { what, bytes: given.repeat(repeats) }
            }
            _ if high == 15 => Step::Reset,
            _ => Step::Restore,
        })
    }
}

/// A script under construction: what drivers do.
#[derive(Debug, Default)]
pub struct Script(pub(super) Vec<u8>);

impl Script {
    /// The guest writes a register of so many bytes.
    pub fn write(&mut self, region: u8, offset: u32, size: u8, value: u64) -> &mut Script {
        self.0.push(kind::WRITE | (size.trailing_zeros() as u8) << 4);
        self.0.push(NAMED | region);
        self.0.extend(&offset.to_le_bytes()[..3]);
        self.0.push(0xff);
        self.0.extend(value.to_le_bytes());
        self
    }

    /// The guest writes configuration space, 16 bits.
    pub fn config(&mut self, offset: u32, value: u16) -> &mut Script {
        self.write(CONFIG, offset, 2, value.into())
    }

    /// The guest puts bytes into memory: 63 at most.
    pub fn memory(&mut self, at: u16, bytes: &[u8]) -> &mut Script {
        assert!(bytes.len() < 64, "the length has six bits");
        self.0.extend([kind::MEMORY, 0x80]);
        self.0.extend(at.to_le_bytes());
        self.0.push(bytes.len() as u8);
        self.0.extend(bytes);
        self
    }

    /// Until the device's deadline.
    pub fn to_deadline(&mut self) -> &mut Script {
        self.0.push(kind::TO_DEADLINE);
        self
    }

    /// Something from the host: 31 bytes at most.
    pub fn host(&mut self, what: u8, bytes: &[u8]) -> &mut Script {
        assert!(bytes.len() < 32, "the length has five bits");
        self.0.extend([kind::HOST, what, bytes.len() as u8]);
        self.0.extend(bytes);
        self
    }

    /// The script's bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// What a driver does first, and then random steps: a seed's script.
pub fn random_script<D: Device>(seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut script = Script::default();
    // At times nothing was set up.
    if !seed.is_multiple_of(8) {
        D::begin(&mut script, random.next_u64());
    }
    let mut bytes = script.into_bytes();
    // Some of what was set up is set up wrongly.
    if seed % 4 == 3 && !bytes.is_empty() {
        for _ in 0..random.below(4) {
            let at = random.below(bytes.len());
            bytes[at] = random.next_u64() as u8;
        }
    }
    bytes.extend((0..100 + random.below(900)).map(|_| random.next_u64() as u8));
    bytes
}

//! IDENTIFY DEVICE and IDENTIFY PACKET DEVICE (ATA/ATAPI-6, 8.15 and 8.16).

use super::drive::MULTIPLE_MAX;

/// The geometry that a disk is addressed by unless the host says otherwise.
pub(super) const HEADS: u8 = 16;
pub(super) const SECTORS: u8 = 63;
const CYLINDERS_MAX: u64 = 16383;

/// Capabilities: IORDY, LBA, DMA.
const CAPABILITIES: u16 = 1 << 11 | 1 << 9 | 1 << 8;
/// Words 54-58, 64-70 and 88 are valid.
const VALID: u16 = 7;
/// Multiword DMA 0 to 2.
const MULTIWORD: u16 = 7;
/// The fastest cycle, in nanoseconds.
const CYCLE_NS: u16 = 120;
/// ATA/ATAPI-4 to 6.
const VERSIONS: u16 = 0x70;

struct Words([u16; 256]);

impl Words {
    /// Text is two characters to a word, the first one in the high byte, padded with spaces.
    fn text(&mut self, first: usize, words: usize, text: &str) {
        let mut bytes = text.bytes().chain(std::iter::repeat(b' '));
        for word in &mut self.0[first..first + words] {
            let mut next = || u16::from(bytes.next().unwrap_or(b' '));
            *word = next() << 8 | next();
        }
    }

    fn put(&mut self, first: usize, value: u64, words: usize) {
        for word in 0..words {
            self.0[first + word] = (value >> (16 * word)) as u16;
        }
    }

    fn bytes(self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn common(&mut self, number: usize, model: &str, mode: u8) {
        self.text(10, 10, &format!("dejavm-{number}"));
        self.text(23, 4, "1");
        self.text(27, 20, model);
        self.0[49] = CAPABILITIES;
        self.0[53] = VALID;
        let selected = if mode & 0xf8 == 0x20 { 1u16 << (8 + (mode & 7).min(2)) } else { 0 };
        self.0[63] = MULTIWORD | selected;
        // PIO 3 and 4.
        self.0[64] = 3;
        self.0[65..69].fill(CYCLE_NS);
        self.0[80] = VERSIONS;
    }
}

/// A disk's.
pub(super) fn disk(
    number: usize,
    sectors: u64,
    multiple: u8,
    mode: u8,
    (heads, per_track): (u8, u8),
) -> Vec<u8> {
    let mut words = Words([0; 256]);
    words.common(number, "DEJAVM HARDDISK", mode);
    let cylinders = |heads: u8, per_track: u8| {
        (sectors / (u64::from(heads) * u64::from(per_track))).min(CYLINDERS_MAX)
    };
    // Fixed.
    words.0[0] = 0x0040;
    words.0[1] = cylinders(HEADS, SECTORS) as u16;
    words.0[3] = HEADS.into();
    words.0[6] = SECTORS.into();
    words.0[47] = 0x8000 | u16::from(MULTIPLE_MAX);
    words.0[50] = 0x4000;
    let now = cylinders(heads, per_track);
    words.0[54] = now as u16;
    words.0[55] = heads.into();
    words.0[56] = per_track.into();
    words.put(57, now * u64::from(heads) * u64::from(per_track), 2);
    if multiple > 0 {
        words.0[59] = 0x0100 | u16::from(multiple);
    }
    words.put(60, sectors.min(0x0fff_ffff), 2);
    // Write cache; FLUSH CACHE and its EXT, 48 bits of address.
    words.0[82] = 1 << 5;
    words.0[83] = 0x4000 | 1 << 13 | 1 << 12 | 1 << 10;
    words.0[84] = 0x4000;
    words.0[85] = words.0[82];
    words.0[86] = 1 << 13 | 1 << 12 | 1 << 10;
    words.0[87] = 0x4000;
    words.put(100, sectors, 4);
    // Physical sectors of eight logical ones: the blocks that are kept of what is written.
    words.0[106] = 0x4000 | 1 << 13 | 3;
    words.bytes()
}

/// A CD-ROM drive's.
pub(super) fn cd(number: usize, mode: u8) -> Vec<u8> {
    let mut words = Words([0; 256]);
    words.common(number, "DEJAVM CD-ROM", mode);
    // A packet device, CD-ROM, removable, DRQ within 50 us, packets of 12 bytes.
    words.0[0] = 2 << 14 | 5 << 8 | 1 << 7 | 2 << 5;
    // PACKET, DEVICE RESET.
    words.0[82] = 1 << 9 | 1 << 4;
    words.0[83] = 0x4000;
    words.0[84] = 0x4000;
    words.0[85] = words.0[82];
    words.0[87] = 0x4000;
    words.bytes()
}

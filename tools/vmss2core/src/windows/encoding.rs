//! How kernels since Windows 8 encode their debugger data block, and undoing that without their keys.
//!
//! The kernel makes each 64 bits `e` of a plain value `p` such that, with its keys KiWaitNever and KiWaitAlways and
//! the address `a` of KdpDataBlockEncoded,
//!
//! ```text
//! p = bswap(rol(e ^ never, never & 63) ^ a) ^ always
//! ```
//!
//! Rotations and swaps go through `^`: for two values, `p1 ^ p2 = bswap(rol(e1 ^ e2, never & 63))`, without any key
//! but six bits of one. Two values are known (the tag with the size, and the kernel's base), so a block is recognised by
//! trying 64 rotations, and one known value gives all others. No symbols are needed, and no Windows is too new.

use crate::windows::debugger_data::BLOCK_BYTES;
use crate::windows::image::Kernel;
use crate::windows::space::Space;

const TAG: u32 = u32::from_le_bytes(*b"KDBG");

/// The size and the rotation of an encoded block that begins like this, if it is one of the kernel at `base`.
pub fn recognise(header: &[u8; 0x20], base: u64) -> Option<(u32, u32)> {
    let long = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    let difference = long(0x10) ^ long(0x18);
    // Nothing but a tag with a size is that far from the kernel's base; zeros are not encoded.
    (0..64).find_map(|rotation| {
        let plain = difference.rotate_left(rotation).swap_bytes() ^ base;
        let size = (plain >> 32) as u32;
        (plain as u32 == TAG && BLOCK_BYTES.contains(&size) && size.is_multiple_of(8))
            .then_some((size, rotation))
    })
}

/// How a block is encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// The six low bits of KiWaitNever.
    rotation: u32,
    /// An encoded value, and what it means.
    known: (u64, u64),
}

impl Encoding {
    /// Of a block whose field KernBase means `base`.
    pub fn new(rotation: u32, block: &[u8], base: u64) -> Encoding {
        let encoded = block[0x18..0x20].try_into().expect("a block has it");
        Encoding { rotation, known: (u64::from_le_bytes(encoded), base) }
    }

    /// Decodes a block.
    pub fn decode(&self, block: &mut [u8]) {
        for value in block.chunks_exact_mut(8) {
            let encoded = u64::from_le_bytes((&*value).try_into().expect("eight bytes"));
            value.copy_from_slice(&self.plain(encoded).to_le_bytes());
        }
    }

    fn plain(&self, encoded: u64) -> u64 {
        let (known, meaning) = self.known;
        (encoded ^ known).rotate_left(self.rotation).swap_bytes() ^ meaning
    }

    /// The address of KdpDataBlockEncoded: the one with which two values in the kernel's data are the keys.
    ///
    /// For each value that may be KiWaitNever the bits of KiWaitAlways follow, but for those that the address has
    /// within the kernel; so they are looked up among all values.
    pub fn flag(&self, space: &Space<'_>, kernel: &Kernel) -> Option<u64> {
        /// log2 of the bytes of which two hold the kernel.
        const SPAN: u32 = 26;
        let (encoded, meaning) = self.known;
        let mut values = Vec::new();
        kernel.find(space, |_, page| {
            let longs =
                page.chunks_exact(8).map(|long| u64::from_le_bytes(long.try_into().expect("8")));
            // Keys are random; what begins like an address or a small number is most of all data.
            values.extend(longs.filter(|value| !matches!(value >> 48, 0 | 0xffff)));
            None::<()>
        });
        values.dedup();
        // In the order of what is looked for.
        values.sort_unstable_by_key(|value: &u64| value.swap_bytes());
        let nevers = values.iter().filter(|never| **never & 63 == u64::from(self.rotation));
        let ends = [kernel.base, kernel.base + kernel.bytes - 1].map(|address| address >> SPAN);
        for &never in nevers {
            // a ^ bswap(always) = rol(e ^ never) ^ bswap(p)
            let both = (encoded ^ never).rotate_left(self.rotation) ^ meaning.swap_bytes();
            for high_bits in ends {
                let wanted = both >> SPAN ^ high_bits;
                let first = values.partition_point(|value| value.swap_bytes() >> SPAN < wanted);
                let same = values[first..].iter().map(|value| value.swap_bytes());
                for always in same.take_while(|value| value >> SPAN == wanted) {
                    let at = both ^ always;
                    if kernel.contains(at) && space.bytes(at) == Some([1]) {
                        return Some(at);
                    }
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel does it.
    fn encode(plain: u64, never: u64, always: u64, flag: u64) -> u64 {
        ((plain ^ always).swap_bytes() ^ flag).rotate_right((never & 63) as u32) ^ never
    }

    #[test]
    fn blocks_are_decoded_without_keys() {
        let base = 0xffff_f805_1000_0000;
        let flag = base + 0xc4_5678;
        for (never, always) in
            [(0x1234_5678_9abc_def0, 0xfedc_ba98_7654_3210), (0x8000_0000_0000_0040, 1), (63, 0)]
        {
            let plain: Vec<u64> = (0..0x380 / 8)
                .map(|n| match n {
                    2 => u64::from(TAG) | 0x380 << 32,
                    3 => base,
                    _ => base ^ (n * 0x0123_4567_89ab),
                })
                .collect();
            let encoded: Vec<u8> = plain
                .iter()
                .flat_map(|&plain| encode(plain, never, always, flag).to_le_bytes())
                .collect();
            let header = encoded[..0x20].try_into().unwrap();
            let (size, rotation) = recognise(header, base).unwrap();
            assert_eq!(size, 0x380);
            let mut decoded = encoded.clone();
            Encoding::new(rotation, &encoded, base).decode(&mut decoded);
            let expected: Vec<u8> = plain.iter().flat_map(|plain| plain.to_le_bytes()).collect();
            assert_eq!(decoded, expected);
            assert_eq!(recognise(header, base + 0x1000), None, "another kernel's");
        }
        assert_eq!(recognise(&[0; 0x20], base), None);
        assert_eq!(recognise(&[0xff; 0x20], base), None);
    }
}

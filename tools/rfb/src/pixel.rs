//! Pixels as a client wants them (RFC 6143, 7.4).

/// A pixel format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PixelFormat {
    /// Bytes of a pixel: 1, 2 or 4.
    pub(crate) bytes: usize,
    depth: u8,
    big_endian: bool,
    /// Of red, green and blue: the greatest value, and how far it is shifted to the left.
    parts: [(u16, u8); 3],
}

/// Bytes of a pixel format in messages.
pub(crate) const FORMAT_BYTES: usize = 16;

impl PixelFormat {
    /// The server's own: 32 bits, blue first.
    pub(crate) const NATIVE: PixelFormat = PixelFormat {
        bytes: 4,
        depth: 24,
        big_endian: false,
        parts: [(255, 16), (255, 8), (255, 0)],
    };
    /// What clients get that want a palette: this is it.
    pub(crate) const PALETTE: PixelFormat =
        PixelFormat { bytes: 1, depth: 8, big_endian: false, parts: [(7, 0), (7, 3), (3, 6)] };

    /// Reads a client's wish; `None`: nobody can mean that. A client without true colour gets [`PixelFormat::PALETTE`].
    pub(crate) fn parse(wish: [u8; FORMAT_BYTES]) -> Option<PixelFormat> {
        let [bits, depth, big_endian, true_colour, r1, r0, g1, g0, b1, b0, shifts @ .., _, _, _] =
            wish;
        if true_colour == 0 {
            return (bits == 8).then_some(PixelFormat::PALETTE);
        }
        let bytes = match bits {
            8 | 16 | 32 => usize::from(bits / 8),
            _ => return None,
        };
        let maxima = [[r1, r0], [g1, g0], [b1, b0]].map(u16::from_be_bytes);
        let mut parts = [(0, 0); 3];
        for ((part, max), shift) in parts.iter_mut().zip(maxima).zip(shifts) {
            let fits = shift < bits && u64::from(max) << shift < 1 << bits;
            if !fits {
                return None;
            }
            *part = (max, shift);
        }
        Some(PixelFormat { bytes, depth, big_endian: big_endian != 0, parts })
    }

    /// As it stands in messages.
    pub(crate) fn to_bytes(self) -> [u8; FORMAT_BYTES] {
        let mut bytes = [0; FORMAT_BYTES];
        bytes[..4].copy_from_slice(&[8 * self.bytes as u8, self.depth, self.big_endian.into(), 1]);
        for (index, (max, shift)) in self.parts.into_iter().enumerate() {
            bytes[4 + 2 * index..6 + 2 * index].copy_from_slice(&max.to_be_bytes());
            bytes[10 + index] = shift;
        }
        bytes
    }

    fn value(&self, rgb: [u8; 3]) -> u32 {
        let mut value = 0;
        for (level, (max, shift)) in rgb.into_iter().zip(self.parts) {
            value |= ((u32::from(level) * u32::from(max) + 127) / 255) << shift;
        }
        value
    }

    /// Appends a pixel.
    pub(crate) fn put(&self, rgb: [u8; 3], out: &mut Vec<u8>) {
        if *self == PixelFormat::NATIVE {
            out.extend([rgb[2], rgb[1], rgb[0], 0]);
            return;
        }
        let value = self.value(rgb);
        match (self.bytes, self.big_endian) {
            (1, _) => out.push(value as u8),
            (2, false) => out.extend((value as u16).to_le_bytes()),
            (2, true) => out.extend((value as u16).to_be_bytes()),
            (_, false) => out.extend(value.to_le_bytes()),
            (_, true) => out.extend(value.to_be_bytes()),
        }
    }

    /// Appends a pixel as ZRLE has it: without the byte that holds no colour, if there is one (RFC 6143, 7.7.5).
    pub(crate) fn put_compact(&self, rgb: [u8; 3], out: &mut Vec<u8>) {
        let colours = self.value([255; 3]);
        let start = out.len();
        self.put(rgb, out);
        if self.bytes != 4 || self.depth > 24 {
            return;
        }
        let unused = match (colours >> 24, colours & 0xff) {
            (0, _) => Some(if self.big_endian { 0 } else { 3 }),
            (_, 0) => Some(if self.big_endian { 3 } else { 0 }),
            _ => None,
        };
        if let Some(unused) = unused {
            out.remove(start + unused);
        }
    }

    /// The palette of [`PixelFormat::PALETTE`]: 256 colours of red, green and blue of 16 bits.
    pub(crate) fn palette() -> Vec<[u16; 3]> {
        let level = |value: u16, max: u16| (u32::from(value) * 65_535 / u32::from(max)) as u16;
        (0..256u16).map(|i| [level(i & 7, 7), level(i >> 3 & 7, 7), level(i >> 6, 3)]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(format: PixelFormat, rgb: [u8; 3]) -> (Vec<u8>, Vec<u8>) {
        let (mut whole, mut compact) = (Vec::new(), Vec::new());
        format.put(rgb, &mut whole);
        format.put_compact(rgb, &mut compact);
        (whole, compact)
    }

    #[test]
    fn formats_come_back_and_pixels_are_laid_out() {
        let native = PixelFormat::NATIVE;
        assert_eq!(PixelFormat::parse(native.to_bytes()), Some(native));
        assert_eq!(bytes(native, [1, 2, 3]), (vec![3, 2, 1, 0], vec![3, 2, 1]));
        let wish = [32, 24, 1, 1, 0, 255, 0, 255, 0, 255, 24, 16, 8, 0, 0, 0];
        let high = PixelFormat::parse(wish).unwrap();
        assert_eq!(bytes(high, [1, 2, 3]), (vec![1, 2, 3, 0], vec![1, 2, 3]));
        let wish = [16, 16, 0, 1, 0, 31, 0, 63, 0, 31, 11, 5, 0, 0, 0, 0];
        let small = PixelFormat::parse(wish).unwrap();
        assert_eq!(bytes(small, [255, 0, 255]), (vec![0x1f, 0xf8], vec![0x1f, 0xf8]));
    }

    #[test]
    fn formats_that_hold_no_colours_are_refused() {
        for (at, value) in [(0, 24), (0, 0), (10, 32), (10, 25), (4, 255)] {
            let mut wish = PixelFormat::NATIVE.to_bytes();
            wish[at] = value;
            let refused = PixelFormat::parse(wish).is_none();
            // 0xffff reaches from bit 16 to bit 31.
            assert_eq!(refused, (at, value) != (4, 255), "{at} {value}");
        }
        let mut wish = PixelFormat::NATIVE.to_bytes();
        (wish[0], wish[3]) = (8, 0);
        assert_eq!(PixelFormat::parse(wish), Some(PixelFormat::PALETTE));
        let palette = PixelFormat::palette();
        assert_eq!((palette.len(), palette[255], palette[7]), (256, [65_535; 3], [65_535, 0, 0]));
    }
}

//! ZRLE (RFC 6143, 7.7.5): tiles of 64 by 64 pixels, with a palette where there are few colours, behind zlib, which finds the runs.

use super::{palette, tiles};
use crate::frame::{Frame, Rect};
use crate::pixel::PixelFormat;

const SIDE: u16 = 64;
const RAW: u8 = 0;
const PALETTE_MAX: usize = 16;

pub(super) fn encode(frame: &Frame, rect: Rect, format: &PixelFormat, out: &mut Vec<u8>) {
    for tile in tiles(rect, SIDE) {
        let Some(colours) = palette(frame.pixels(tile), PALETTE_MAX) else {
            out.push(RAW);
            frame.pixels(tile).for_each(|pixel| format.put_compact(pixel, out));
            continue;
        };
        // One colour is a tile of its own kind, whose number is the palette's length too.
        out.push(colours.len() as u8);
        colours.iter().for_each(|colour| format.put_compact(*colour, out));
        let bits = match colours.len() {
            0 | 1 => continue,
            2 => 1,
            3 | 4 => 2,
            _ => 4,
        };
        for y in 0..tile.height {
            let row = frame.row(tile.y + y, tile.x, tile.width).chunks_exact(3);
            let (mut byte, mut used) = (0u8, 0);
            for pixel in row {
                let index = colours.iter().position(|colour| colour == pixel).unwrap_or(0);
                byte |= (index as u8) << (8 - bits - used);
                used += bits;
                if used == 8 {
                    out.push(byte);
                    (byte, used) = (0, 0);
                }
            }
            if used > 0 {
                out.push(byte);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(width: u16, height: u16, rgb: Vec<u8>) -> Vec<u8> {
        let frame = Frame::new(width, height, rgb).unwrap();
        let mut out = Vec::new();
        encode(&frame, frame.whole(), &PixelFormat::NATIVE, &mut out);
        out
    }

    #[test]
    fn palettes_by_the_number_of_colours() {
        assert_eq!(encoded(2, 1, vec![1, 2, 3, 1, 2, 3]), [1, 3, 2, 1]);
        // Two colours, rows of nine pixels: two bytes each.
        let mut rgb = vec![0; 3 * 18];
        rgb[3 * 8..3 * 10].fill(7);
        let expected = [2, 0, 0, 0, 7, 7, 7, 0x00, 0x80, 0x80, 0x00];
        assert_eq!(encoded(9, 2, rgb), expected);
        // Three colours: two bits.
        let expected = [3, 0, 0, 0, 1, 1, 1, 2, 2, 2, 0b00_01_10_00];
        assert_eq!(encoded(3, 1, vec![0, 0, 0, 1, 1, 1, 2, 2, 2]), expected);
    }

    #[test]
    fn many_colours_are_sent_as_they_are() {
        let rgb: Vec<u8> = (0..3 * 17).collect();
        let out = encoded(17, 1, rgb);
        assert_eq!((out[0], out.len()), (0, 1 + 3 * 17));
        assert_eq!(out[1..4], [2, 1, 0]);
    }
}

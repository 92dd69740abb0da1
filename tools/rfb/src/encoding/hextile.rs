//! Hextile (RFC 6143, 7.7.4): tiles of 16 by 16 pixels, of one or two colours as rectangles, others as they are.

use super::{palette, tiles};
use crate::frame::{Frame, Rect};
use crate::pixel::PixelFormat;

const SIDE: u16 = 16;
const RAW: u8 = 1;
const BACKGROUND: u8 = 2;
const FOREGROUND: u8 = 4;
const RECTANGLES: u8 = 8;

pub(super) fn encode(frame: &Frame, rect: Rect, format: &PixelFormat, out: &mut Vec<u8>) {
    for tile in tiles(rect, SIDE) {
        let pixels = usize::from(tile.width) * usize::from(tile.height);
        let start = out.len();
        let fits = match palette(frame.pixels(tile), 2).as_deref() {
            Some(&[background]) => {
                out.push(BACKGROUND);
                format.put(background, out);
                true
            }
            Some(&[background, foreground]) => {
                two_colours(frame, tile, [background, foreground], format, out)
            }
            _ => false,
        };
        if !fits || out.len() - start > 1 + pixels * format.bytes {
            out.truncate(start);
            out.push(RAW);
            frame.pixels(tile).for_each(|pixel| format.put(pixel, out));
        }
    }
}

/// The second colour as runs of pixels on the first; `false`: more than can be counted.
fn two_colours(
    frame: &Frame,
    tile: Rect,
    [background, foreground]: [[u8; 3]; 2],
    format: &PixelFormat,
    out: &mut Vec<u8>,
) -> bool {
    out.push(BACKGROUND | FOREGROUND | RECTANGLES);
    format.put(background, out);
    format.put(foreground, out);
    let count_at = out.len();
    out.push(0);
    let mut count = 0u32;
    for y in 0..tile.height {
        let row = frame.row(tile.y + y, tile.x, tile.width);
        let mut start = None;
        for x in 0..=tile.width {
            let at = 3 * usize::from(x);
            let lit = row.get(at..at + 3).is_some_and(|pixel| pixel == foreground);
            match (start, lit) {
                (None, true) => start = Some(x),
                (Some(from), false) => {
                    out.extend([(from << 4 | y) as u8, ((x - from - 1) << 4) as u8]);
                    count += 1;
                    start = None;
                }
                (None, false) | (Some(_), true) => {}
            }
        }
    }
    let Ok(count) = u8::try_from(count) else { return false };
    out[count_at] = count;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_of_one_and_two_and_many_colours() {
        // 18 by 1: a tile of 16, of two colours, and one of 2, of one colour.
        let mut rgb = vec![0; 3 * 18];
        rgb[3 * 2..3 * 5].fill(9);
        let frame = Frame::new(18, 1, rgb).unwrap();
        let mut out = Vec::new();
        encode(&frame, frame.whole(), &PixelFormat::NATIVE, &mut out);
        let first = [14, 0, 0, 0, 0, 9, 9, 9, 0, 1, 0x20, 0x20];
        assert_eq!(out, [&first[..], &[2, 0, 0, 0, 0]].concat());

        let frame = Frame::new(3, 1, (0..9).collect()).unwrap();
        out.clear();
        encode(&frame, frame.whole(), &PixelFormat::NATIVE, &mut out);
        assert_eq!(out, [1, 2, 1, 0, 0, 5, 4, 3, 0, 8, 7, 6, 0]);
    }
}

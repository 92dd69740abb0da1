//! Rectangles as clients want them (RFC 6143, 7.7).

mod hextile;
mod zrle;

use crate::frame::{Frame, Rect};
use crate::pixel::PixelFormat;
use flate2::{Compress, Compression, FlushCompress, Status};

/// How a rectangle's pixels are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Encoding {
    Raw,
    Hextile,
    Zlib,
    Zrle,
}

impl Encoding {
    pub(crate) const fn number(self) -> i32 {
        match self {
            Encoding::Raw => 0,
            Encoding::Hextile => 5,
            Encoding::Zlib => 6,
            Encoding::Zrle => 16,
        }
    }

    /// The first of a client's list that is known.
    pub(crate) fn choose(wishes: &[i32]) -> Encoding {
        let known = [Encoding::Raw, Encoding::Hextile, Encoding::Zlib, Encoding::Zrle];
        wishes
            .iter()
            .find_map(|wish| known.into_iter().find(|encoding| encoding.number() == *wish))
            .unwrap_or(Encoding::Raw)
    }
}

/// What encodings remember from one rectangle to the next: a stream of zlib's each, for the client's whole life.
pub(crate) struct Encoder {
    zlib: Stream,
    zrle: Stream,
}

impl Encoder {
    pub(crate) fn new() -> Encoder {
        Encoder { zlib: Stream::new(), zrle: Stream::new() }
    }

    /// Appends a rectangle's pixels, the rectangle's header left out.
    pub(crate) fn encode(
        &mut self,
        encoding: Encoding,
        frame: &Frame,
        rect: Rect,
        format: &PixelFormat,
        out: &mut Vec<u8>,
    ) {
        match encoding {
            Encoding::Raw => raw(frame, rect, format, out),
            Encoding::Hextile => hextile::encode(frame, rect, format, out),
            Encoding::Zlib => {
                let mut plain = Vec::new();
                raw(frame, rect, format, &mut plain);
                self.zlib.append(&plain, out);
            }
            Encoding::Zrle => {
                let mut plain = Vec::new();
                zrle::encode(frame, rect, format, &mut plain);
                self.zrle.append(&plain, out);
            }
        }
    }
}

fn raw(frame: &Frame, rect: Rect, format: &PixelFormat, out: &mut Vec<u8>) {
    out.reserve(usize::from(rect.width) * usize::from(rect.height) * format.bytes);
    frame.pixels(rect).for_each(|pixel| format.put(pixel, out));
}

/// A stream of zlib's that is flushed behind each piece.
struct Stream(Compress);

/// By so much the room for a compressed piece grows.
const ROOM: usize = 1 << 14;

impl Stream {
    fn new() -> Stream {
        Stream(Compress::new(Compression::fast(), true))
    }

    /// Appends the length of a piece as compressed, in four bytes, and the piece.
    fn append(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend([0; 4]);
        let mut rest = plain;
        loop {
            out.reserve(ROOM);
            let before = self.0.total_in();
            let status = self
                .0
                .compress_vec(rest, out, FlushCompress::Sync)
                .expect("a compressor in use takes any bytes");
            let taken = usize::try_from(self.0.total_in() - before).expect("what it was given");
            rest = &rest[taken..];
            // All is out when it did not need all of the room.
            if rest.is_empty() && out.len() < out.capacity() {
                break;
            }
            assert!(status != Status::StreamEnd, "nobody ended the stream");
        }
        let length = u32::try_from(out.len() - start - 4).expect("a screen is smaller");
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }
}

/// The colours of some pixels; `None`: more than `most`.
fn palette(pixels: impl Iterator<Item = [u8; 3]>, most: usize) -> Option<Vec<[u8; 3]>> {
    let mut colours: Vec<[u8; 3]> = Vec::new();
    for pixel in pixels {
        if !colours.contains(&pixel) {
            if colours.len() == most {
                return None;
            }
            colours.push(pixel);
        }
    }
    Some(colours)
}

/// A rectangle cut into squares of `side`, row by row; those at the end are smaller.
fn tiles(rect: Rect, side: u16) -> impl Iterator<Item = Rect> {
    let Rect { x, y, width, height } = rect;
    (0..height).step_by(side.into()).flat_map(move |down| {
        (0..width).step_by(side.into()).map(move |right| Rect {
            x: x + right,
            y: y + down,
            width: side.min(width - right),
            height: side.min(height - down),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::ZlibDecoder;
    use std::io::Read;

    #[test]
    fn pieces_of_a_stream_can_be_read_as_they_come() {
        let mut stream = Stream::new();
        let mut sent = Vec::new();
        // The second does not compress, and is longer than the room.
        let mut seed = 1u32;
        let noise = (0..100_000).map(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        });
        let pieces = [vec![7; 50_000], noise.collect(), Vec::new(), vec![1, 2, 3]];
        for piece in &pieces {
            let mut out = Vec::new();
            stream.append(piece, &mut out);
            assert_eq!(out.len(), 4 + u32::from_be_bytes(out[..4].try_into().unwrap()) as usize);
            sent.extend(&out[4..]);
            let mut got = vec![0; piece.len()];
            let mut whole = ZlibDecoder::new(&sent[..]);
            let before: usize =
                pieces.iter().take_while(|it| *it != piece).map(|it| it.len()).sum();
            std::io::copy(&mut whole.by_ref().take(before as u64), &mut std::io::sink()).unwrap();
            whole.read_exact(&mut got).unwrap();
            assert!(got == *piece);
        }
    }

    #[test]
    fn the_first_known_wish_is_taken() {
        assert_eq!(Encoding::choose(&[7, -223, 16, 0]), Encoding::Zrle);
        assert_eq!(Encoding::choose(&[7, 5, 16]), Encoding::Hextile);
        assert_eq!(Encoding::choose(&[7]), Encoding::Raw);
    }
}

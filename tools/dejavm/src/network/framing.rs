//! Frames over a stream, as passt and QEMU's `-netdev stream` have them: the length as four bytes, big-endian, then the frame.

use std::io::{self, Read};

/// The longest frame that is believed: 65 535 bytes behind the header and a VLAN tag.
pub const FRAME_BYTES_MAX: usize = 65_535 + 18;

/// Appends a frame.
pub fn put(frame: &[u8], to: &mut Vec<u8>) {
    to.extend((frame.len() as u32).to_be_bytes());
    to.extend_from_slice(frame);
}

/// Takes frames from a stream.
pub struct Frames<R> {
    stream: R,
    buffer: Vec<u8>,
    /// What of the buffer has not been taken.
    begin: usize,
    end: usize,
}

impl<R: Read> Frames<R> {
    /// Frames of a stream that is at the beginning of one.
    pub fn new(stream: R) -> Frames<R> {
        Frames { stream, buffer: vec![0; 4 * FRAME_BYTES_MAX], begin: 0, end: 0 }
    }

    /// The next frame; `None`: the stream has ended behind a frame.
    pub fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        if !self.fill(4)? {
            return match self.end - self.begin {
                0 => Ok(None),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        let mut length = [0; 4];
        length.copy_from_slice(&self.buffer[self.begin..self.begin + 4]);
        let length = u32::from_be_bytes(length) as usize;
        if length > FRAME_BYTES_MAX {
            let reason = format!("a frame of {length} bytes was announced");
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        if !self.fill(4 + length)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let frame = self.buffer[self.begin + 4..self.begin + 4 + length].to_vec();
        self.begin += 4 + length;
        Ok(Some(frame))
    }

    /// Reads until so many bytes are there; whether they are.
    fn fill(&mut self, bytes: usize) -> io::Result<bool> {
        while self.end - self.begin < bytes {
            if self.begin > 0 {
                self.buffer.copy_within(self.begin..self.end, 0);
                self.end -= self.begin;
                self.begin = 0;
            }
            match self.stream.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Ok(false),
                Ok(got) => self.end += got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives at most some bytes at a time.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let bytes = self.1.min(self.0.len()).min(into.len());
            into[..bytes].copy_from_slice(&self.0[..bytes]);
            self.0 = &self.0[bytes..];
            Ok(bytes)
        }
    }

    #[test]
    fn frames_are_found_wherever_the_reads_are_cut() {
        let sent = [vec![1; 60], vec![], vec![2; FRAME_BYTES_MAX], vec![3; 1514]];
        let mut bytes = Vec::new();
        sent.iter().for_each(|frame| put(frame, &mut bytes));
        assert_eq!(bytes[..4], [0, 0, 0, 60]);
        for cut in [1, 3, 64, 5000, usize::MAX] {
            let mut frames = Frames::new(Pieces(&bytes, cut));
            for frame in &sent {
                assert_eq!(frames.next().unwrap().as_ref(), Some(frame), "cut at {cut}");
            }
            assert_eq!(frames.next().unwrap(), None, "cut at {cut}");
        }
    }

    #[test]
    fn a_torn_frame_and_an_impossible_one_are_errors() {
        let mut bytes = Vec::new();
        put(&[1; 60], &mut bytes);
        for length in 1..bytes.len() {
            assert!(Frames::new(&bytes[..length]).next().is_err(), "{length}");
        }
        assert!(Frames::new(&[0, 1, 0, 18, 0][..]).next().is_err());
    }
}

//! What a client may say, cut out of its bytes (RFC 6143, 7.5).

use crate::frame::Rect;
use crate::pixel::{FORMAT_BYTES, PixelFormat};

/// Why a client is let go. Each text is a sentence without a full stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unwelcome {
    /// It does not speak the protocol.
    #[error("it speaks another protocol than RFB")]
    OtherProtocol,
    /// It wants a password or encryption.
    #[error("it asked for security type {0}, and only 1, none, was offered")]
    Security(u8),
    /// A message that is not known, so that nobody knows where it ends.
    #[error("it sent a message of unknown type {0}")]
    Message(u8),
    /// A pixel format that holds no colours.
    #[error("it asked for an impossible pixel format")]
    PixelFormat,
}

/// A client's message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Message {
    PixelFormat {
        format: PixelFormat,
        palette: bool,
    },
    Encodings(Vec<i32>),
    UpdateRequest {
        incremental: bool,
        part: Rect,
    },
    Key {
        keysym: u32,
        pressed: bool,
    },
    /// With the key's number, as a PC's keyboard has it.
    ScannedKey {
        scan_code: u32,
        pressed: bool,
    },
    Pointer {
        x: u16,
        y: u16,
        buttons: u8,
    },
    /// What it copied: so many bytes follow, which nobody wants.
    CutText {
        bytes: u32,
    },
}

/// Encodings that a client names at most; the rest of a longer list is not heard.
const ENCODINGS_MAX: usize = 256;

/// The first message in `bytes` and its length; `None`: it is not there whole.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Message, usize)>, Unwelcome> {
    let Some(&kind) = bytes.first() else { return Ok(None) };
    let half = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let word =
        |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let length = match kind {
        0 => 4 + FORMAT_BYTES,
        2 => 4,
        3 => 10,
        4 => 8,
        5 => 6,
        6 => 8,
        255 => match bytes.get(1) {
            None => 2,
            Some(0) => 12,
            Some(_) => return Err(Unwelcome::Message(kind)),
        },
        _ => return Err(Unwelcome::Message(kind)),
    };
    if bytes.len() < length {
        return Ok(None);
    }
    let message = match kind {
        0 => {
            let wish: [u8; FORMAT_BYTES] = bytes[4..20].try_into().expect("so many");
            let format = PixelFormat::parse(wish).ok_or(Unwelcome::PixelFormat)?;
            Message::PixelFormat { format, palette: wish[3] == 0 }
        }
        2 => {
            let length = length + 4 * usize::from(half(2));
            let Some(list) = bytes.get(4..length) else { return Ok(None) };
            let encodings = list.chunks_exact(4).take(ENCODINGS_MAX);
            let encodings =
                encodings.map(|each| i32::from_be_bytes([each[0], each[1], each[2], each[3]]));
            return Ok(Some((Message::Encodings(encodings.collect()), length)));
        }
        3 => {
            let part = Rect { x: half(2), y: half(4), width: half(6), height: half(8) };
            Message::UpdateRequest { incremental: bytes[1] != 0, part }
        }
        4 => Message::Key { keysym: word(4), pressed: bytes[1] != 0 },
        5 => Message::Pointer { x: half(2), y: half(4), buttons: bytes[1] },
        6 => Message::CutText { bytes: word(4) },
        // QEMU's, of which only this was offered.
        _ => Message::ScannedKey { scan_code: word(8), pressed: half(2) != 0 },
    };
    Ok(Some((message, length)))
}

//! One client: the handshake (RFC 6143, 7.1 to 7.3), its messages, and when it gets what.
//!
//! Clients of versions 3.3, 3.7 and 3.8 are understood. Beside pictures, a client that knows how is told of other dimensions
//! (DesktopSize), that keys may come with their numbers (QEMU's extended key event), and that the pointer tells motions
//! (QEMU's pointer motion change).

use crate::encoding::{Encoder, Encoding};
use crate::frame::{Frame, Rect};
use crate::keyboard::{Keyboard, Stroke};
use crate::message::{Message, Unwelcome, parse};
use crate::pixel::PixelFormat;
use crate::pointer::{Mouse, Pointer};

const VERSION: &[u8; 12] = b"RFB 003.008\n";
const SECURITY_NONE: u8 = 1;
const DESKTOP_SIZE: i32 = -223;
const POINTER_MOTION_CHANGE: i32 = -257;
const EXTENDED_KEYS: i32 = -258;
const UPDATE: u8 = 0;
const SET_COLOUR_MAP: u8 = 1;
/// Rectangles in one message at most: one place is left.
const RECTANGLES_MAX: usize = 0xff00;
/// Places that a client has to be given anew, at most.
const STALE_MAX: usize = 16;
/// Longest name of a desktop, in bytes.
const NAME_MAX: usize = 1024;

/// Something that a client's user did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A key went down or up.
    Key(Stroke),
    /// The mouse.
    Mouse(Mouse),
}

/// How far the conversation is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Version,
    /// The client chooses; of version 3.8, if so.
    Security {
        told: bool,
    },
    Initialisation,
    Messages,
}

/// The server's side of one client's connection.
pub struct Session {
    name: String,
    /// Keys and the mouse are not heard.
    view_only: bool,
    stage: Stage,
    /// What came and is not a whole message yet.
    input: Vec<u8>,
    /// Bytes to come that nobody wants.
    skip: u32,
    output: Vec<u8>,
    format: PixelFormat,
    encoding: Encoding,
    encoder: Encoder,
    can_resize: bool,
    wants_extended_keys: bool,
    wants_motions: bool,
    /// It was told.
    extended_keys: bool,
    motions: bool,
    /// What it asked for and was not given.
    request: Option<Rect>,
    /// What it has to be given even if it has it.
    stale: Vec<Rect>,
    /// What it shows, by all that it was sent.
    shown: Frame,
    keyboard: Keyboard,
    pointer: Pointer,
}

impl Session {
    /// A client that has just come. `name`: of the desktop; `frame`: whose dimensions are told first. `view_only`: its keys and
    /// its mouse are not heard.
    pub fn new(name: &str, frame: &Frame, view_only: bool) -> Session {
        let mut name = name.to_owned();
        while name.len() > NAME_MAX {
            name.pop();
        }
        Session {
            name,
            view_only,
            stage: Stage::Version,
            input: Vec::new(),
            skip: 0,
            output: VERSION.to_vec(),
            format: PixelFormat::NATIVE,
            encoding: Encoding::Raw,
            encoder: Encoder::new(),
            can_resize: false,
            wants_extended_keys: false,
            wants_motions: false,
            extended_keys: false,
            motions: false,
            request: None,
            stale: vec![frame.whole()],
            shown: Frame::black(frame.width(), frame.height()),
            keyboard: Keyboard::default(),
            pointer: Pointer::default(),
        }
    }

    /// What there is to send.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Whether the client has said all that comes before the screen: it is a viewer, not somebody who only looks whether one is
    /// listened for.
    pub fn is_initialised(&self) -> bool {
        self.stage == Stage::Messages
    }

    /// Whether the client waits for a picture.
    pub fn wants_update(&self) -> bool {
        self.request.is_some()
    }

    /// The client sent something; what its user did.
    ///
    /// # Errors
    /// Why the connection must be closed, when what there is to send has been sent.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Vec<Event>, Unwelcome> {
        let mut events = Vec::new();
        // Piece by piece: what is kept of it is at most one message.
        for piece in bytes.chunks(1 << 12) {
            self.input.extend(piece);
            let mut at = 0;
            while let Some(length) = self.next(at, &mut events)? {
                at += length;
            }
            self.input.drain(..at);
        }
        Ok(events)
    }

    /// The client is gone: what it held down goes up.
    pub fn left(&mut self) -> Vec<Event> {
        let keys = self.keyboard.left().into_iter().map(Event::Key);
        keys.chain(self.pointer.left().map(Event::Mouse)).collect()
    }

    /// Takes what comes next in the input; how many bytes that was.
    fn next(&mut self, at: usize, events: &mut Vec<Event>) -> Result<Option<usize>, Unwelcome> {
        let input = &self.input[at..];
        if self.skip > 0 {
            let skipped = input.len().min(self.skip as usize);
            self.skip -= skipped as u32;
            return Ok((skipped > 0).then_some(skipped));
        }
        match self.stage {
            Stage::Version => {
                let known = &VERSION[..4];
                if !input.starts_with(&known[..input.len().min(4)]) {
                    return Err(Unwelcome::OtherProtocol);
                }
                let Some(version) = input.get(..12) else { return Ok(None) };
                let version: [u8; 12] = version.try_into().expect("so many");
                self.agree(&version)?;
                Ok(Some(12))
            }
            Stage::Security { told } => {
                let Some(&chosen) = input.first() else { return Ok(None) };
                if chosen != SECURITY_NONE {
                    if told {
                        let reason = "there is no password: choose security type None";
                        self.output.extend(1u32.to_be_bytes());
                        self.output.extend((reason.len() as u32).to_be_bytes());
                        self.output.extend(reason.as_bytes());
                    }
                    return Err(Unwelcome::Security(chosen));
                }
                if told {
                    self.output.extend(0u32.to_be_bytes());
                }
                self.stage = Stage::Initialisation;
                Ok(Some(1))
            }
            Stage::Initialisation => {
                // Whether it wants the screen for itself.
                if input.is_empty() {
                    return Ok(None);
                }
                self.initialise();
                Ok(Some(1))
            }
            Stage::Messages => {
                let Some((message, length)) = parse(input)? else { return Ok(None) };
                self.hear(message, events);
                Ok(Some(length))
            }
        }
    }

    /// The client's version: `RFB 003.008` and a newline. Unknown ones are taken for the known one before.
    fn agree(&mut self, version: &[u8; 12]) -> Result<(), Unwelcome> {
        let number = |digits: &[u8]| {
            digits.iter().try_fold(0u16, |value, digit| {
                digit.is_ascii_digit().then(|| value * 10 + u16::from(digit - b'0'))
            })
        };
        let (Some(major), Some(minor)) = (number(&version[4..7]), number(&version[8..11])) else {
            return Err(Unwelcome::OtherProtocol);
        };
        if major < 3 || version[7] != b'.' || version[11] != b'\n' {
            return Err(Unwelcome::OtherProtocol);
        }
        if major == 3 && minor < 7 {
            self.output.extend(u32::from(SECURITY_NONE).to_be_bytes());
            self.stage = Stage::Initialisation;
        } else {
            self.output.extend([1, SECURITY_NONE]);
            self.stage = Stage::Security { told: major > 3 || minor > 7 };
        }
        Ok(())
    }

    fn initialise(&mut self) {
        self.output.extend(self.shown.width().to_be_bytes());
        self.output.extend(self.shown.height().to_be_bytes());
        self.output.extend(self.format.to_bytes());
        self.output.extend((self.name.len() as u32).to_be_bytes());
        self.output.extend(self.name.as_bytes());
        self.stage = Stage::Messages;
    }

    fn hear(&mut self, message: Message, events: &mut Vec<Event>) {
        match message {
            Message::PixelFormat { format, palette } => {
                self.format = format;
                if palette {
                    self.tell_palette();
                }
            }
            Message::Encodings(wishes) => {
                self.encoding = Encoding::choose(&wishes);
                self.can_resize = wishes.contains(&DESKTOP_SIZE);
                self.wants_extended_keys = wishes.contains(&EXTENDED_KEYS) && !self.view_only;
                self.wants_motions = wishes.contains(&POINTER_MOTION_CHANGE) && !self.view_only;
            }
            Message::UpdateRequest { incremental, part } => {
                let part = part.common(self.shown.whole());
                if !incremental && !part.is_empty() {
                    // No pixel is in two places.
                    self.take_stale(part);
                    self.stale.push(part);
                    self.bound_stale();
                }
                self.request = Some(self.request.map_or(part, |earlier| earlier.hull(part)));
            }
            Message::CutText { bytes } => self.skip = bytes,
            Message::Key { .. } | Message::ScannedKey { .. } | Message::Pointer { .. }
                if self.view_only => {}
            Message::Key { keysym, pressed } => {
                events.extend(self.keyboard.symbol(keysym, pressed).into_iter().map(Event::Key));
            }
            Message::ScannedKey { scan_code, pressed } => {
                let strokes = self.keyboard.scanned(scan_code, pressed);
                events.extend(strokes.into_iter().map(Event::Key));
            }
            Message::Pointer { x, y, buttons } => {
                let mouse = self.pointer.moved(x, y, buttons, self.motions);
                events.push(Event::Mouse(mouse));
            }
        }
    }

    fn tell_palette(&mut self) {
        let palette = PixelFormat::palette();
        self.output.extend([SET_COLOUR_MAP, 0, 0, 0]);
        self.output.extend((palette.len() as u16).to_be_bytes());
        for part in palette.into_iter().flatten() {
            self.output.extend(part.to_be_bytes());
        }
    }

    /// Shows the client what is there now: if it asked, and there is something new for it, it is sent.
    pub fn update(&mut self, frame: &Frame) {
        let Some(request) = self.request else { return };
        let same = (frame.width(), frame.height()) == (self.shown.width(), self.shown.height());
        let fitted;
        let frame = if same {
            frame
        } else if self.can_resize {
            self.resize(frame);
            return;
        } else {
            fitted = frame.fitted(self.shown.width(), self.shown.height());
            &fitted
        };
        let mut rects = self.take_stale(request);
        rects.iter().for_each(|rect| self.shown.copy(*rect, frame));
        self.bound_stale();
        rects.extend(self.shown.differences(frame, request));
        rects.truncate(RECTANGLES_MAX);
        let tells = self.untold();
        if rects.is_empty() && tells.is_empty() {
            return;
        }
        self.begin_update(rects.len() + tells.len());
        for (part, encoding) in tells {
            self.rectangle(part, encoding);
        }
        let encoding = self.encoding;
        for rect in rects {
            self.rectangle(rect, encoding.number());
            self.encoder.encode(encoding, frame, rect, &self.format, &mut self.output);
            self.shown.copy(rect, frame);
        }
        self.request = None;
    }

    /// What is said in place of a rectangle, and was not said yet.
    fn untold(&mut self) -> Vec<(Rect, i32)> {
        let mut tells = Vec::new();
        if self.wants_extended_keys && !self.extended_keys {
            self.extended_keys = true;
            tells.push((Rect::default(), EXTENDED_KEYS));
        }
        if self.wants_motions && !self.motions {
            self.motions = true;
            tells.push((Rect::default(), POINTER_MOTION_CHANGE));
        }
        tells
    }

    /// Tells of other dimensions. The client asks for the picture then.
    fn resize(&mut self, frame: &Frame) {
        self.begin_update(1);
        self.rectangle(frame.whole(), DESKTOP_SIZE);
        self.shown = Frame::black(frame.width(), frame.height());
        self.stale = vec![frame.whole()];
        self.request = None;
    }

    /// What has to be given within a part, which is then not to be given any more.
    fn take_stale(&mut self, part: Rect) -> Vec<Rect> {
        let mut taken = Vec::new();
        for stale in std::mem::take(&mut self.stale) {
            let within = stale.common(part);
            if within.is_empty() {
                self.stale.push(stale);
            } else {
                self.stale.extend(stale.without(within));
                taken.push(within);
            }
        }
        taken
    }

    /// Too many places become one that has them all.
    fn bound_stale(&mut self) {
        if self.stale.len() > STALE_MAX {
            let hull = self.stale.drain(..).fold(Rect::default(), Rect::hull);
            self.stale.push(hull);
        }
    }

    fn begin_update(&mut self, rectangles: usize) {
        let count = u16::try_from(rectangles).expect("they were cut off");
        self.output.extend([UPDATE, 0]);
        self.output.extend(count.to_be_bytes());
    }

    fn rectangle(&mut self, Rect { x, y, width, height }: Rect, encoding: i32) {
        for part in [x, y, width, height] {
            self.output.extend(part.to_be_bytes());
        }
        self.output.extend(encoding.to_be_bytes());
    }
}

#[cfg(test)]
mod tests;

//! The server's side of the remote framebuffer protocol, which VNC viewers speak (RFC 6143; extensions as in the community's
//! `rfbproto`): bytes in, bytes out.
//!
//! A [`Session`] is one client. It is fed what the client sends, and shown the picture whenever that suits the server; what it has
//! to say is fetched with [`Session::take_output`]. It sends a picture only to a client that asked for one, once, so a client that
//! does not read makes it hold one picture at most.
//!
//! Nobody is asked for a password, and any client shares the screen with the others.
#![forbid(unsafe_code)]

mod encoding;
mod frame;
mod keyboard;
mod message;
mod pixel;
mod pointer;
mod session;

pub use frame::{Frame, Rect};
pub use keyboard::{Key, Keyboard, Stroke};
pub use message::Unwelcome;
pub use pointer::{Mouse, Pointer};
pub use session::{Event, Session};

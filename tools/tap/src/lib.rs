//! TAP interfaces of the host's (Linux: Documentation/networking/tuntap.rst): files that a read takes a frame from and a write
//! gives one to.
//!
//! UNSAFETY: one ioctl, which reads a structure that this module defines as the kernel does.
#![expect(unsafe_code, reason = "an ioctl")]

use rustix::ioctl::{Opcode, Setter, ioctl, opcode};
use std::fs::{File, OpenOptions};
use std::io;

/// The longest name of an interface, in bytes.
pub const NAME_BYTES_MAX: usize = 15;

const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
/// Ethernet frames, without a header before each.
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;

/// `struct ifreq`: a name and a union, of which this ioctl reads the first two bytes.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; NAME_BYTES_MAX + 1],
    flags: u16,
    rest: [u8; 22],
}

/// Opens an interface; it is made if there is none and the user may do that.
///
/// # Errors
/// If the name is too long, the kernel has no TAP interfaces, or the user may not use this one.
pub fn open(name: &str) -> io::Result<File> {
    if name.len() > NAME_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the name is too long"));
    }
    let tap = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let mut request = InterfaceRequest {
        name: [0; NAME_BYTES_MAX + 1],
        flags: IFF_TAP | IFF_NO_PI,
        rest: [0; 22],
    };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF copies a `struct ifreq`, 40 bytes on 64-bit hosts, from the pointer.
    unsafe { ioctl(&tap, Setter::<TUNSETIFF, InterfaceRequest>::new(request)) }?;
    Ok(tap)
}

const _: () = assert!(size_of::<InterfaceRequest>() == 40);

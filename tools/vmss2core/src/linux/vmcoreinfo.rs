//! VMCOREINFO: what a Linux kernel left about itself in memory, as the note that kdump would put into a core.

use crate::error::Error;
use crate::guest::Guest;
use dejavm_units::Gpa;

/// How the kernel's own note begins: name with padding, then its text.
const NOTE: &[u8] = b"VMCOREINFO\0\0OSRELEASE=";
/// Bytes of the note's header and name.
const HEADER_BYTES: u64 = 12;
const NAME_BYTES: u64 = 12;
/// A page holds all of it.
const TEXT_MAX: u32 = 4096;
const PIECE: u64 = 4 << 20;

/// The text of VMCOREINFO, where the file repeats it, where the kernel's symbols lead to it, or wherever a note begins as the kernel prepares it.
pub fn find(guest: &Guest) -> Result<Option<Vec<u8>>, Error> {
    if let Some(text) = &guest.vmcoreinfo {
        return Ok(Some(text.clone()));
    }
    let at = guest.linux().ok().and_then(|kernel| kernel.facts().vmcoreinfo_at);
    if let Some(Gpa(at)) = at {
        let mut text = vec![0; TEXT_MAX as usize];
        guest.read(at, &mut text)?;
        text.truncate(text.iter().position(|&byte| byte == 0).unwrap_or(text.len()));
        return Ok(Some(text));
    }
    search(guest)
}

fn search(guest: &Guest) -> Result<Option<Vec<u8>>, Error> {
    let finder = memchr::memmem::Finder::new(NOTE);
    let mut piece = vec![0; PIECE as usize];
    for region in guest.memory.regions() {
        let mut at = region.start();
        while at < region.end() {
            let bytes = (region.end() - at).min(PIECE) as usize;
            let piece = &mut piece[..bytes];
            guest.read(at, piece)?;
            // The note is a page of its own: it does not cross pieces.
            for found in finder.find_iter(piece) {
                let name = at + found as u64;
                if let Some(text) = text(guest, name)? {
                    return Ok(Some(text));
                }
            }
            at += bytes as u64;
        }
    }
    Ok(None)
}

/// The text behind the name at an address, if what is before the name fits.
fn text(guest: &Guest, name: u64) -> Result<Option<Vec<u8>>, Error> {
    let mut header = [0; HEADER_BYTES as usize];
    let Some(begin) = name.checked_sub(HEADER_BYTES) else { return Ok(None) };
    guest.read(begin, &mut header)?;
    let word =
        |n: usize| u32::from_le_bytes(header[4 * n..4 * n + 4].try_into().expect("four bytes"));
    let (name_bytes, text_bytes, kind) = (word(0), word(1), word(2));
    if (name_bytes, kind) != (11, 0) || text_bytes > TEXT_MAX {
        return Ok(None);
    }
    let mut text = vec![0; text_bytes as usize];
    guest.read(name + NAME_BYTES, &mut text)?;
    Ok(text.is_ascii().then_some(text))
}

/// The text with another `KERNELOFFSET`: how far the kernel runs from where it was linked.
pub fn with_slide(text: &[u8], slide: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 32);
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        if !line.starts_with(b"KERNELOFFSET=") {
            out.extend_from_slice(line);
        }
    }
    if out.last().is_some_and(|&byte| byte != b'\n') {
        out.push(b'\n');
    }
    out.extend_from_slice(format!("KERNELOFFSET={slide:x}\n").as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_slide_replaces_the_kernels() {
        let text = b"OSRELEASE=6.1.0\nKERNELOFFSET=1f000000\nSYMBOL(_stext)=ffffffff81000000";
        let expected = "OSRELEASE=6.1.0\nSYMBOL(_stext)=ffffffff81000000\nKERNELOFFSET=2a000000\n";
        assert_eq!(with_slide(text, 0x2a00_0000), expected.as_bytes());
        assert_eq!(with_slide(b"", 16), b"KERNELOFFSET=10\n");
    }
}

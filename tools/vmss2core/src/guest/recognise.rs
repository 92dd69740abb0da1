//! What kind of file it is, by how it begins.

use super::{Guest, elf_core, kdump};
use crate::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vmss::{Checkpoint, GuestDump, Magic, ReadAt, open_file, unwrapped};

/// A guest's parts, as a kind of file has them.
pub struct Parts {
    /// Its physical memory.
    pub memory: vmss::GuestMemory,
    /// Its processors; none if the file tells nothing of them.
    pub vcpus: Vec<vmss::Vcpu>,
    /// What Linux says of itself, if the file repeats it.
    pub vmcoreinfo: Option<Vec<u8>>,
    /// What the user should know.
    pub remarks: Vec<String>,
    /// The file that memory is in, if it is one of its own.
    pub memory_file: Option<PathBuf>,
}

/// Files that somebody may well try, how they begin, and what to do instead.
const OTHERS: [(&[u8], &str); 7] = [
    (b"PAGEDU64", "it is a Windows crash dump already, which WinDbg opens as it is"),
    (b"PAGEDUMP", "it is a Windows crash dump already, which WinDbg opens as it is"),
    (b"MDMP", "it is a minidump of a Windows process, which holds no guest's memory"),
    (
        b"QEVM",
        "it is the migration stream of a QEMU guest; QEMU's monitor command dump-guest-memory writes what is read here",
    ),
    (
        b"LibvirtQemudSave",
        "it is a saved guest of libvirt; `virsh dump --memory-only` writes what is read here",
    ),
    (
        b"EMiL",
        "it is memory as LiME stores it, without registers; an ELF core or a kdump of the guest is read",
    ),
    (b"DISKDUMP", "it is a dump of diskdump, which kdump has replaced; crash opens it as it is"),
];

/// Opens a file of any kind.
pub fn open(path: &Path, memory: Option<&Path>) -> Result<Guest, Error> {
    let path = &with_state(path);
    let wrong = |source| Error::Input { path: path.clone(), source };
    let source = open_file(path).map_err(wrong)?;
    let mut begin = [0; 16];
    let count = read(&*source, &mut begin, 0)
        .map_err(|source| wrong(vmss::Error::Read { at: 0, source }))?;
    let unread = |what: &str| Err(Error::Unread { path: path.clone(), what: what.into() });
    if count == 0 {
        return unread("it is empty");
    }
    if let Some((_, what)) = OTHERS.iter().find(|(magic, _)| begin.starts_with(magic)) {
        return unread(what);
    }
    let (source, begin) = match begin.starts_with(kdump::FLATTENED_SIGNATURE) {
        true => {
            let source: Arc<dyn ReadAt> = match kdump::Flattened::new(source) {
                Ok(source) => Arc::new(source),
                Err(what) => return unread(&what),
            };
            read(&*source, &mut begin, 0)
                .map_err(|source| wrong(vmss::Error::Read { at: 0, source }))?;
            (source, begin)
        }
        false => (source, begin),
    };
    let is_elf = begin.starts_with(b"\x7fELF");
    let parts = if is_elf || begin.starts_with(kdump::SIGNATURE) {
        if memory.is_some() {
            return unread("it is a core, which holds its memory: there is no second file to name");
        }
        if is_elf { elf_core::open(path, source)? } else { kdump::open(path, source)? }
    } else if GuestDump::is_named_so(path) {
        let (dump, memory, paths) = GuestDump::open_in(&*source, path, memory).map_err(wrong)?;
        Parts { vcpus: dump.vcpus, ..Parts::of_memory(memory, paths.memory) }
    } else {
        let word = u32::from_le_bytes([begin[0], begin[1], begin[2], begin[3]]);
        if Magic::of(word).is_none() && as_memory(path).is_some() {
            return unread("it is guest memory, and neither its .vmss nor its .vmsn is beside it");
        }
        if Magic::of(word).is_none() {
            return unread(&format!(
                "it is neither a VMware checkpoint nor an ELF core nor a kdump: it begins with {word:#010x}"
            ));
        }
        let (checkpoint, memory, paths) =
            Checkpoint::open_in(source, path, memory).map_err(wrong)?;
        let vcpus = checkpoint.vcpus().map_err(wrong)?;
        Parts { vcpus, ..Parts::of_memory(memory, paths.memory) }
    };
    let mut guest = Guest::of(path, parts);
    guest.remark_strangers();
    Ok(guest)
}

impl Parts {
    fn of_memory(memory: vmss::GuestMemory, path: Option<PathBuf>) -> Parts {
        let missing = memory.bytes_missing();
        let mut remarks = Vec::new();
        if let Some(path) = path.as_ref().filter(|_| missing > 0) {
            remarks.push(format!(
                "{} ends {missing:#x} bytes before the guest's memory does, and they are taken to be zero: right if the \
                 guest never wrote there, wrong if the file was not copied whole",
                path.display()
            ));
        }
        Parts { memory, vcpus: Vec::new(), vmcoreinfo: None, remarks, memory_file: path }
    }
}

/// Who names a checkpoint's memory means the checkpoint beside it.
fn with_state(path: &Path) -> PathBuf {
    let Some(plain) = as_memory(path) else { return path.into() };
    let beside = STATES.iter().flat_map(|state| {
        ["", ".zst", ".gz"].map(|packing| plain.with_extension(format!("{state}{packing}")))
    });
    beside.into_iter().find(|state| state.is_file()).unwrap_or_else(|| path.into())
}

/// What a checkpoint is called behind its dot.
const STATES: [&str; 3] = ["vmss", "vmsn", "guest"];

/// The name of a file that is called guest memory, without what says that it is compressed.
fn as_memory(path: &Path) -> Option<PathBuf> {
    let plain = unwrapped(path);
    let extension = plain.extension()?;
    extension.eq_ignore_ascii_case("vmem").then_some(plain)
}

/// Reads as many bytes as there are, up to all; how many.
pub fn read(source: &dyn ReadAt, into: &mut [u8], at: u64) -> std::io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match source.read_at(&mut into[done..], at.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

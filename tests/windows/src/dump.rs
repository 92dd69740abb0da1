//! A guest, and the dump that is made of it.

use crate::{Options, Windows};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use vmss2core::{Error, Kind, WindowsOptions, convert};

/// A dump, in a folder that goes with it.
pub struct Dump {
    /// What it is of.
    pub guest: Windows,
    /// The dump.
    pub path: PathBuf,
    _folder: tempfile::TempDir,
}

/// Makes a dump of a guest that is built for it.
///
/// # Errors
/// Those of the conversion; nothing half done is left then.
pub fn dump(options: &Options, windows: &WindowsOptions) -> Result<Dump, Error> {
    of(Windows::new(options), windows)
}

/// Makes a dump of a guest.
///
/// # Errors
/// Those of the conversion; nothing half done is left then.
pub fn of(guest: Windows, windows: &WindowsOptions) -> Result<Dump, Error> {
    let folder = tempfile::tempdir().unwrap();
    let input = guest.write(folder.path()).unwrap();
    let path = folder.path().join("memory.dmp");
    let made = convert(&Kind::Windows(windows.clone()), &input, None, &path);
    match made {
        Ok(files) => assert_eq!(files, std::slice::from_ref(&path)),
        Err(error) => {
            let mut left: Vec<_> = fs::read_dir(folder.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            left.sort();
            assert_eq!(left, ["windows.vmem", "windows.vmss"], "nothing half done is left");
            return Err(error);
        }
    }
    Ok(Dump { guest, path, _folder: folder })
}

/// A dump with what is usual.
pub fn usual(options: &Options) -> Dump {
    dump(options, &WindowsOptions::default()).unwrap_or_else(|error| panic!("{options:?}: {error}"))
}

impl Dump {
    /// Bytes of the header.
    pub fn header_bytes(&self) -> u64 {
        if self.guest.system.is_64() { 0x2000 } else { 0x1000 }
    }

    /// Bytes of the file.
    pub fn bytes(&self, at: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        File::open(&self.path).unwrap().read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    /// 16 bits of the file.
    pub fn half(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.bytes(at, 2).try_into().unwrap())
    }

    /// 32 bits of the file.
    pub fn word(&self, at: u64) -> u32 {
        u32::from_le_bytes(self.bytes(at, 4).try_into().unwrap())
    }

    /// 64 bits of the file.
    pub fn long(&self, at: u64) -> u64 {
        u64::from_le_bytes(self.bytes(at, 8).try_into().unwrap())
    }

    /// Bytes that the file has.
    pub fn size(&self) -> u64 {
        fs::metadata(&self.path).unwrap().len()
    }

    /// Where a page of guest memory is in the file, by the runs in the header of a full dump.
    pub fn place(&self, page: u64) -> Option<u64> {
        let is_64 = self.guest.system.is_64();
        let mut offset = self.header_bytes();
        let count = u64::from(self.word(if is_64 { 0x88 } else { 0x64 }));
        for n in 0..count {
            let (first, pages) = match is_64 {
                true => (self.long(0x98 + n * 16), self.long(0xa0 + n * 16)),
                false => (u64::from(self.word(0x6c + n * 8)), u64::from(self.word(0x70 + n * 8))),
            };
            if (first..first + pages).contains(&page) {
                return Some(offset + (page - first) * 4096);
            }
            offset += pages * 4096;
        }
        None
    }

    /// Bytes at a linear address of the kernel, in a full dump.
    pub fn linear(&self, at: u64, count: usize) -> Vec<u8> {
        let byte = |at: u64| {
            let physical = self.guest.space.physical(at);
            self.bytes(self.place(physical / 4096).unwrap() + physical % 4096, 1)[0]
        };
        (at..at + count as u64).map(byte).collect()
    }
}

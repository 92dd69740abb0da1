//! The one file that gdb can read from us: the running kernel's symbols, made from its own symbol table. So gdb
//! knows the kernel's functions without a `vmlinux`, and where a `vmlinux` that the user has belongs.

use crate::bridge::{Bridge, X86, part};
use crate::lasting::Lasting;
use crate::linux::Looking;
use crate::target::Inspect;
use dejavm_units::{Gva, Position};
use gdbstub::common::Pid;
use gdbstub::target::ext::exec_file::ExecFile;
use gdbstub::target::ext::host_io::{
    FsKind, HostIo, HostIoClose, HostIoErrno, HostIoError, HostIoFstat, HostIoOpen,
    HostIoOpenFlags, HostIoOpenMode, HostIoPread, HostIoResult, HostIoSetfs, HostIoStat,
};
use gdbstub::target::{TargetError, TargetResult};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

/// Its name. gdb puts `target:` in front, and asks us for what follows.
const NAME: &str = "/kernel";
/// Files that a client may have open.
const OPEN_MAX: usize = 16;

/// What is known of the guest's kernel.
#[derive(Clone, Default)]
pub(crate) struct KernelFile {
    /// Where its code begins.
    pub(crate) text: Option<Gva>,
    /// Its symbols as an ELF file, if it has a symbol table.
    contents: Option<Arc<Vec<u8>>>,
}

/// Files of a session.
#[derive(Default)]
pub(crate) struct Files {
    /// Looked for at a position.
    kernel: Option<(Position, KernelFile)>,
    open: BTreeMap<u32, Arc<Vec<u8>>>,
    next: u32,
}

impl Files {
    /// The kernel that runs now, if it is one that can be told.
    pub(crate) fn kernel(&mut self, machine: &dyn Inspect, lasting: &Lasting) -> KernelFile {
        let here = machine.position();
        if let Some((at, known)) = &self.kernel
            && *at == here
        {
            return known.clone();
        }
        let mut kernels = lasting.kernels();
        let found = kernels.find(&Looking(machine)).ok();
        let known = found.map_or_else(KernelFile::default, |kernel| KernelFile {
            text: kernel.facts().text,
            contents: kernels.symbol_file(&kernel),
        });
        self.kernel = Some((here, known.clone()));
        known
    }
}

impl ExecFile for Bridge<'_> {
    fn get_exec_file(
        &self,
        _: Option<Pid>,
        offset: u64,
        length: usize,
        buffer: &mut [u8],
    ) -> TargetResult<usize, Self> {
        let known = self.files.borrow_mut().kernel(self.target.inspect(), &self.lasting);
        if known.contents.is_none() {
            return Err(TargetError::NonFatal);
        }
        Ok(part(NAME.as_bytes(), offset, length, buffer))
    }
}

impl HostIo for Bridge<'_> {
    fn support_open(&mut self) -> Option<&mut dyn HostIoOpen<Arch = X86, Error = Infallible>> {
        Some(self)
    }
    fn support_close(&mut self) -> Option<&mut dyn HostIoClose<Arch = X86, Error = Infallible>> {
        Some(self)
    }
    fn support_pread(&mut self) -> Option<&mut dyn HostIoPread<Arch = X86, Error = Infallible>> {
        Some(self)
    }
    fn support_fstat(&mut self) -> Option<&mut dyn HostIoFstat<Arch = X86, Error = Infallible>> {
        Some(self)
    }
    fn support_setfs(&mut self) -> Option<&mut dyn HostIoSetfs<Arch = X86, Error = Infallible>> {
        Some(self)
    }
}

impl HostIoOpen for Bridge<'_> {
    fn open(
        &mut self,
        name: &[u8],
        flags: HostIoOpenFlags,
        _: HostIoOpenMode,
    ) -> HostIoResult<u32, Self> {
        let wanted = name.strip_prefix(b"/").unwrap_or(name);
        if wanted != NAME.trim_start_matches('/').as_bytes() {
            return Err(HostIoError::Errno(HostIoErrno::ENOENT));
        }
        if flags.intersects(HostIoOpenFlags::O_WRONLY | HostIoOpenFlags::O_RDWR) {
            return Err(HostIoError::Errno(HostIoErrno::EROFS));
        }
        let mut files = self.files.borrow_mut();
        let known = files.kernel(self.target.inspect(), &self.lasting);
        let contents = known.contents.ok_or(HostIoError::Errno(HostIoErrno::ENOENT))?;
        if files.open.len() >= OPEN_MAX {
            return Err(HostIoError::Errno(HostIoErrno::EMFILE));
        }
        files.next = files.next.wrapping_add(1) & 0x7fff_ffff;
        let number = files.next;
        files.open.insert(number, contents);
        Ok(number)
    }
}

impl HostIoClose for Bridge<'_> {
    fn close(&mut self, number: u32) -> HostIoResult<(), Self> {
        let closed = self.files.borrow_mut().open.remove(&number);
        closed.map(drop).ok_or(HostIoError::Errno(HostIoErrno::EBADF))
    }
}

impl HostIoPread for Bridge<'_> {
    fn pread(
        &mut self,
        number: u32,
        count: usize,
        offset: u64,
        buffer: &mut [u8],
    ) -> HostIoResult<usize, Self> {
        let files = self.files.borrow();
        let contents = files.open.get(&number).ok_or(HostIoError::Errno(HostIoErrno::EBADF))?;
        // Escapes may double it.
        let most = crate::packet::PACKET_BYTES_MAX / 2 - 64;
        Ok(part(contents, offset, count.min(most), buffer))
    }
}

impl HostIoFstat for Bridge<'_> {
    fn fstat(&mut self, number: u32) -> HostIoResult<HostIoStat, Self> {
        let files = self.files.borrow();
        let contents = files.open.get(&number).ok_or(HostIoError::Errno(HostIoErrno::EBADF))?;
        let bytes = contents.len() as u64;
        Ok(HostIoStat {
            st_dev: 0,
            st_ino: 1,
            st_mode: HostIoOpenMode::S_IFREG | HostIoOpenMode::S_IRUSR,
            st_nlink: 1,
            st_uid: 0,
            st_gid: 0,
            st_rdev: 0,
            st_size: bytes,
            st_blksize: 4096,
            st_blocks: bytes.div_ceil(512),
            st_atime: 0,
            st_mtime: 0,
            st_ctime: 0,
        })
    }
}

impl HostIoSetfs for Bridge<'_> {
    fn setfs(&mut self, _: FsKind) -> HostIoResult<(), Self> {
        Ok(())
    }
}

//! What is to be made, and with what: from here to the one who can.

use crate::arguments::{Kind, LinuxOptions, WindowsOptions};
use crate::error::Error;
use crate::guest::Guest;
use crate::output::Progress;
use crate::{firmware, linear, linux, macos, windows};
use std::num::NonZero;
use std::path::{Path, PathBuf};

/// A conversion: what all of them need.
#[derive(Clone, Copy)]
pub struct Conversion<'a> {
    /// To be converted.
    pub guest: &'a Guest,
    /// The name that the user gave the result, if any.
    pub output: Option<&'a Path>,
    /// Threads that may work.
    pub threads: NonZero<usize>,
    /// Told how far it is.
    pub progress: &'a dyn Progress,
}

impl Conversion<'_> {
    /// The name of the result, `usual` unless the user gave one.
    pub fn output(&self, usual: &str) -> PathBuf {
        self.output.map_or_else(|| usual.into(), Path::to_owned)
    }

    /// What the guest is, and what its debuggers want.
    fn make_auto(
        &self,
        linux: &LinuxOptions,
        windows: &WindowsOptions,
    ) -> Result<Vec<PathBuf>, Error> {
        // Nothing is searched for that, unlike for Linux.
        if windows::recognise(self.guest) {
            self.progress.remark("the guest is a Windows: a crash dump of it, as with -W");
            return self.make(&Kind::Windows(windows.clone()));
        }
        if let Some(what) = linux::recognise(self.guest)? {
            self.progress.remark(&format!("the guest is {what}: a core of its kernel, as with -N"));
            return self.make(&Kind::Linux(linux.clone()));
        }
        self.progress.remark(
            "the guest is no Linux and no Windows: a core of its physical memory, as with -M",
        );
        self.make(&Kind::Physical)
    }

    /// Makes what is asked for; the names of the files.
    ///
    /// # Errors
    /// If it cannot be made: then there is nothing new under these names.
    ///
    /// # Panics
    /// If a list of processes is asked for, which is no file: see [`crate::processes`].
    pub fn make(&self, kind: &Kind) -> Result<Vec<PathBuf>, Error> {
        match kind {
            Kind::Linear(only) => linear::address_spaces(self, *only),
            Kind::Physical => Ok(vec![linear::physical(self)?]),
            Kind::Linux(options) => Ok(vec![linux::core(self, options)?]),
            Kind::Process(id, options) => Ok(vec![linux::process(self, *id, options)?]),
            Kind::Firmware(at) => Ok(vec![firmware::core(self, *at)?]),
            Kind::MacOs(options) => Ok(vec![macos::core(self, options)?]),
            Kind::Auto(linux, windows) => self.make_auto(linux, windows),
            Kind::Processes(_) => panic!("a list of processes is no file"),
            Kind::Windows(options) => Ok(vec![windows::dump(self, options)?]),
        }
    }
}

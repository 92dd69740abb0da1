//! What is to be made, and with what: from here to the one who can.

use crate::arguments::Kind;
use crate::error::Error;
use crate::guest::Guest;
use crate::output::Progress;
use crate::{linear, linux};
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

    /// Makes what is asked for; the names of the files.
    ///
    /// # Errors
    /// If it cannot be made: then there is nothing new under these names.
    pub fn make(&self, kind: &Kind) -> Result<Vec<PathBuf>, Error> {
        match kind {
            Kind::Linear(only) => linear::address_spaces(self, *only),
            Kind::Physical => Ok(vec![linear::physical(self)?]),
            Kind::Linux(options) => Ok(vec![linux::core(self, options)?]),
            _ => Err(Error::NotYet),
        }
    }
}

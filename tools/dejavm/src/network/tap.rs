//! A TAP interface of the host's.

use crate::exit::{Exit, Failure};
use std::fs::File;

/// Opens an interface, which is made if the user may do that.
pub fn open(name: &str) -> Result<File, Failure> {
    dejavm_tap::open(name).map_err(|error| {
        let sentence = format!(
            "the TAP interface {name} cannot be used: {error}; make one for yourself by: ip tuntap add \
             dev {name} mode tap user $USER (as root), or record with --net passt"
        );
        Failure::new(Exit::Environment, sentence)
    })
}

//! The images of a machine that goes on from a checkpoint.

use super::{Format, Image, hash};
use crate::exit::{Exit, Failure};
use dejavm_machine::{Hardware, Storages};
use dejavm_replay::External;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Opens what a checkpoint names, if it is still the same.
pub fn checkpointed(hardware: &Hardware, images: &[External]) -> Result<Storages, Failure> {
    let mut storages: Storages = Vec::new();
    for (number, drive) in hardware.drives.iter().enumerate() {
        let image = images.iter().find_map(|image| match image.drive() {
            Some((of, format)) if of == number => Some((image, Format::named(format)?)),
            _ => None,
        });
        let Some((external, format)) = image else {
            let sentence = format!("its drive {number} has no image that it names");
            return Err(Failure::new(Exit::Recording, sentence));
        };
        let path = Path::new(&external.path);
        let refused = |why: String| {
            let advice = "put back the disk image that the machine had";
            Failure::new(Exit::Recording, format!("{}: {why}; {advice}", external.path))
        };
        let unopened =
            |error: std::io::Error| refused(format!("the disk image cannot be opened: {error}"));
        let file = File::open(path).map_err(unopened)?;
        let image = Image::open(path, &file, format).map_err(unopened)?;
        let same = file.metadata().map_err(unopened)?.len() == external.bytes
            && image.bytes() == drive.bytes
            && hash::of(&file, path)? == external.blake3;
        if !same {
            return Err(refused("the disk image has changed".to_owned()));
        }
        storages.push(Arc::new(image));
    }
    Ok(storages)
}

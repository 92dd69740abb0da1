//! `dejavm record --disk-commit`: what the guest wrote goes into the images.

use crate::disk;
use crate::disks::{DiskOption, Format, Images};
use crate::exit::{Exit, Failure};
use crate::open;
use crate::record::name;
use dejavm_cpu::Tuning;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Refuses images that could not be written, before anything is recorded.
pub fn check(options: &[DiskOption]) -> Result<(), Failure> {
    let written: Vec<&DiskOption> = options.iter().filter(|option| !option.read_only).collect();
    let refused = |sentence: &str| Err(Failure::new(Exit::Usage, sentence));
    if written.is_empty() {
        return refused("--disk-commit: there is no disk that the guest can write");
    }
    let mut paths: Vec<PathBuf> = Vec::new();
    for option in options {
        if !option.read_only && option.format != Format::Raw {
            return refused(
                "--disk-commit: only raw images are written; leave it out, and `dejavm disk` writes a raw one",
            );
        }
        paths.push(option.path.canonicalize().unwrap_or_else(|_| option.path.clone()));
    }
    paths.sort();
    if paths.windows(2).any(|pair| pair[0] == pair[1]) {
        return refused("--disk-commit: two disks are of the same image");
    }
    Ok(())
}

/// Replays to the end, and puts the disks in the place of their images. Each image is the old one or the new one, whenever this ends.
pub fn commit(recording: &Path) -> Result<(), Failure> {
    let (timeline, shown, _) =
        open::at(Some(recording), "end", Tuning::default(), &Images::default())?;
    let externals = timeline.externals().to_vec();
    let (header, machine) = timeline.into_machine();
    for (number, drive) in header.config.hardware.drives.iter().enumerate() {
        let blocks = machine.written_blocks(number).len();
        let external = externals.iter().find(|external| {
            external.drive().is_some_and(|(drive, _)| drive == number && blocks > 0)
        });
        let Some(external) = external else { continue };
        let path = Path::new(&external.path);
        replace(&machine, number, drive.bytes, path).map_err(|error| {
            let sentence = format!(
                "{}: what the guest wrote could not be written into it: {error}; it is as it was, and `dejavm disk {shown} --drive \
                 {number}` writes the disk elsewhere",
                name(path)
            );
            Failure::new(Exit::Failed, sentence)
        })?;
        eprintln!(
            "dejavm: {}: {blocks} blocks that the guest wrote are in it; recordings of what it was need a copy of that (--disk)",
            name(path)
        );
    }
    Ok(())
}

fn replace(
    machine: &dejavm_machine::Machine,
    drive: usize,
    bytes: u64,
    path: &Path,
) -> io::Result<()> {
    let permissions = fs::metadata(path)?.permissions();
    let image = disk::image(machine, drive, bytes, path)?;
    image.finish_in_place_of(permissions)
}

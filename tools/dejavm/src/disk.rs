//! `dejavm disk`: a disk as it stands at a position of a recording.

use crate::Outcome;
use crate::arguments::Disk;
use crate::exit::{Exit, Failure};
use crate::open;
use crate::partial::{Partial, check_room};
use crate::progress::size;
use crate::record::name;
use dejavm_cpu::Tuning;
use dejavm_machine::{Drive, Machine};
use serde_json::json;
use std::io;
use std::path::Path;

/// Bytes read at a time.
const PIECE: usize = 1 << 20;

/// Replays up to there and writes what a drive holds.
pub fn run(arguments: &Disk) -> Result<Outcome, Failure> {
    let Disk { output, force, .. } = arguments;
    if output.exists() && !force {
        let sentence = format!(
            "{}: the file exists; choose another name, or overwrite it with --force",
            name(output)
        );
        return Err(Failure::new(Exit::Failed, sentence));
    }
    let file = arguments.file.as_deref();
    let (timeline, recording, at) =
        open::at(file, &arguments.at, Tuning::default(), &arguments.images)?;
    // One of the images that it reads must not become what it writes.
    let externals = timeline.externals().to_vec();
    if externals.iter().any(|external| same_file(Path::new(&external.path), output)) {
        let sentence = format!(
            "{}: the recording needs this file as it is; choose another name",
            name(output)
        );
        return Err(Failure::new(Exit::Failed, sentence));
    }
    let (header, machine) = timeline.into_machine();
    let drives = &header.config.hardware.drives;
    let drive = chosen(arguments.drive, drives).map_err(|failure| failure.about(&recording))?;
    let failed =
        |error: io::Error| Failure::new(Exit::Failed, format!("{}: {error}", name(output)));
    let image = image(&machine, drive, drives[drive].bytes, output).map_err(failed)?;
    let on_disk = image.finish().map_err(failed)?;
    let written = machine.written_blocks(drive).len();
    eprintln!(
        "dejavm: {}: drive {drive} at position {at} of {recording}, {}, {} on disk; the guest wrote {written} blocks of it",
        name(output),
        size(drives[drive].bytes),
        size(on_disk),
    );
    Ok(Outcome::ok(json!({
        "image": name(output),
        "recording": recording,
        "position": at.0,
        "drive": drive,
        "bytes": drives[drive].bytes,
        "written_blocks": written,
    })))
}

/// Writes a drive to a file that gets its name when it is whole: raw, with holes for zeros.
///
/// # Errors
/// As the host has it, reading the image or writing the file.
pub fn image(machine: &Machine, drive: usize, bytes: u64, output: &Path) -> io::Result<Partial> {
    let needed = || Ok(on_disk_at_least(machine, drive));
    check_room(output, bytes, needed, "or name a file elsewhere")?;
    Partial::write(output, false, |out| {
        let mut piece = vec![0; PIECE];
        let mut at = 0;
        while at < bytes {
            let length = (bytes - at).min(PIECE as u64) as usize;
            let piece = &mut piece[..length];
            machine.read_drive(drive, at, piece).map_err(io::Error::other)?;
            out.write_all(piece)?;
            at += length as u64;
        }
        Ok(())
    })
}

/// What the guest wrote is no hole; of the image only reading it tells.
fn on_disk_at_least(machine: &Machine, drive: usize) -> u64 {
    4096 * machine.written_blocks(drive).len() as u64
}

/// The drive that is meant.
fn chosen(number: Option<usize>, drives: &[Drive]) -> Result<usize, Failure> {
    let refused = |sentence: String| Err(Failure::new(Exit::Usage, sentence));
    if drives.is_empty() {
        return refused("the machine has no disk".into());
    }
    if let Some(number) = number {
        if number < drives.len() {
            return Ok(number);
        }
        let last = drives.len() - 1;
        return refused(format!("--drive {number}: the machine has drives 0 to {last}"));
    }
    let mut writable = (0..drives.len()).filter(|&drive| !drives[drive].read_only);
    match (writable.next(), writable.next(), drives.len()) {
        (Some(drive), None, _) => Ok(drive),
        (None, None, 1) => Ok(0),
        _ => refused(format!(
            "the machine has {} drives: say which with --drive, from 0 on",
            drives.len()
        )),
    }
}

fn same_file(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        (Err(_), _) | (_, Err(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drive_is_the_one_that_can_be_written_unless_told() {
        let drives = |read_only: &[bool]| -> Vec<Drive> {
            read_only.iter().map(|&read_only| Drive { bytes: 512, read_only }).collect()
        };
        for (number, read_only, expected) in [
            (None, &[false][..], Some(0)),
            (None, &[true], Some(0)),
            (None, &[true, false], Some(1)),
            (None, &[false, false], None),
            (None, &[true, true], None),
            (None, &[], None),
            (Some(1), &[false, true], Some(1)),
            (Some(2), &[false, true], None),
        ] {
            let drive = chosen(number, &drives(read_only)).ok();
            assert_eq!(drive, expected, "{number:?} of {read_only:?}");
        }
    }
}

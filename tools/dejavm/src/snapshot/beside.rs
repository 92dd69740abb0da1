//! Checkpoints of machines that are running, or that a debugger holds: beside their recording.

use super::{Source, names, write};
use crate::progress::size;
use crate::record::name as shown;
use dejavm_machine::Machine;
use dejavm_replay::{External, Header};
use std::path::Path;

/// Checkpoints of one position that a recording has beside it at most, by name.
const SAME_POSITION_MAX: u32 = 1000;

/// Writes a machine as it stands. The file's name is `name`, or else the recording's with the position: `bug-123.vmss`
/// beside `bug.dvr`. Nothing is overwritten, and nothing written elsewhere: whoever asks may have come through a network.
/// Returns, as it fails with, a sentence.
pub fn beside(
    recording: &Path,
    header: &Header,
    images: &[External],
    machine: &Machine,
    name: Option<&str>,
) -> Result<String, String> {
    let at = machine.position();
    let path = match name {
        Some(name) if Path::new(name).file_name() == Some(name.as_ref()) => {
            recording.with_file_name(name)
        }
        Some(_) => {
            return Err("it is written beside the recording: a name without a folder".to_owned());
        }
        None => {
            let stem = recording.file_stem().unwrap_or_default().to_string_lossy();
            let ends = (1..SAME_POSITION_MAX).map(|n| match n {
                1 => ".vmss".to_owned(),
                n => format!("-{n}.vmss"),
            });
            let mut paths = ends.map(|end| recording.with_file_name(format!("{stem}-{at}{end}")));
            let free =
                |path: &std::path::PathBuf| !path.exists() && !path.with_extension("vmem").exists();
            paths.find(free).ok_or("there are too many checkpoints of this position")?
        }
    };
    let names = names(&path, false, false, false).map_err(|failure| failure.sentence)?;
    let bytes = write(header, images, &mut Source::Going(machine), &names)
        .map_err(|(path, error)| format!("{}: {error}", path.display()))?;
    Ok(format!("{}: the machine at position {at}; {} on disk", shown(&names.state), size(bytes)))
}

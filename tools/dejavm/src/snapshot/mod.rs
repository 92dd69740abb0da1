//! `dejavm snapshot`: a VMware checkpoint of the machine at a position of a recording.

mod state;

pub use state::Restored;

use crate::Outcome;
use crate::arguments::Snapshot;
use crate::exit::{Exit, Failure};
use crate::open;
use crate::progress::size;
use crate::record::name;
use dejavm_cpu::Tuning;
use dejavm_machine::Machine;
use dejavm_memory::VGA_WINDOW;
use dejavm_replay::Header;
use dejavm_units::Gpa;
use serde_json::json;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use vmss::{PAGE_BYTES, Product, Region, SparseFile, Writer};

/// Bytes of guest memory written at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// Replays up to there and writes what the machine is.
pub fn run(arguments: &Snapshot) -> Result<Outcome, Failure> {
    let state = &arguments.output;
    let memory = (!arguments.embed).then(|| state.with_extension("vmem"));
    check_names(arguments, memory.as_deref())?;
    let (timeline, recording, at) =
        open::at(arguments.file.as_deref(), &arguments.at, Tuning::default())?;
    let (header, machine) = (timeline.header(), timeline.machine());
    let bytes = write(header, machine, state, memory.as_deref()).map_err(|(path, error)| {
        Failure::new(Exit::Failed, format!("{}: {error}", path.display()))
    })?;
    let shown = memory.as_deref().map_or(String::new(), |memory| format!(" and {}", name(memory)));
    eprintln!(
        "dejavm: {}{shown}: the machine at position {at} of {recording}; {} of memory, {} on disk",
        name(state),
        size(machine.ram().layout().total_bytes()),
        size(bytes),
    );
    Ok(Outcome::ok(json!({
        "state": name(state),
        "memory": memory.as_deref().map(name),
        "recording": recording,
        "position": at.0,
        "memory_bytes": machine.ram().layout().total_bytes(),
        "disk_bytes": bytes,
    })))
}

/// Names that other programs recognize, of files that are not there.
fn check_names(arguments: &Snapshot, memory: Option<&Path>) -> Result<(), Failure> {
    let state = &arguments.output;
    let extension = state.extension().and_then(|extension| extension.to_str());
    if !matches!(extension, Some("vmss" | "vmsn")) {
        let sentence = format!(
            "{}: a checkpoint's name ends in .vmss or .vmsn, for other programs go by that",
            state.display()
        );
        return Err(Failure::new(Exit::Usage, sentence));
    }
    for path in [Some(state.as_path()), memory].into_iter().flatten() {
        if path.exists() && !arguments.force {
            let sentence = format!(
                "{}: the file exists; choose another name, or overwrite it with --force",
                path.display()
            );
            return Err(Failure::new(Exit::Failed, sentence));
        }
    }
    Ok(())
}

/// Where RAM is, in the order of the file.
fn regions(machine: &Machine) -> Vec<Region> {
    let layout = machine.ram().layout();
    let low = layout.low_bytes() / PAGE_BYTES;
    let high = layout.high_bytes() / PAGE_BYTES;
    let mut regions = vec![Region { first_page: 0, page_in_file: 0, pages: low }];
    if high > 0 {
        regions.push(Region { first_page: (1 << 32) / PAGE_BYTES, page_in_file: low, pages: high });
    }
    regions
}

/// Writes all, under other names first; returns the bytes on disk.
fn write(
    header: &Header,
    machine: &Machine,
    state: &Path,
    memory: Option<&Path>,
) -> Result<u64, (PathBuf, io::Error)> {
    let product = Product { name: "dejavm".into(), version: env!("CARGO_PKG_VERSION").into() };
    let saved = machine.save();
    let at_state = |error| (state.to_owned(), error);
    let mut writer = Writer::new(&product, &[state::vcpu(&saved.cpu)], &regions(machine))
        .map_err(|error| at_state(io::Error::other(error)))?;
    writer.group(state::GROUP, state::tags(header, &saved));
    let new_state = partial(state);
    let result = match memory {
        Some(memory) => {
            let new_memory = partial(memory);
            let written = sparse(&new_memory, |file| write_memory(machine, file))
                .map_err(|error| (memory.to_owned(), error));
            let written = written.and_then(|bytes| {
                let more = sparse(&new_state, |file| writer.write(file)).map_err(at_state)?;
                fs::rename(&new_memory, memory).map_err(|error| (memory.to_owned(), error))?;
                Ok(bytes + more)
            });
            written.inspect_err(|_| drop(fs::remove_file(&new_memory)))
        }
        None => sparse(&new_state, |file| {
            writer.write_embedded(file, |file| write_memory(machine, file))
        })
        .map_err(at_state),
    };
    let result = result.and_then(|bytes| {
        fs::rename(&new_state, state).map_err(at_state)?;
        Ok(bytes)
    });
    result.inspect_err(|_| drop(fs::remove_file(&new_state)))
}

/// The name of a file that is not whole yet.
fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

fn sparse(
    path: &Path,
    contents: impl FnOnce(&mut SparseFile) -> io::Result<()>,
) -> io::Result<u64> {
    let mut file = SparseFile::new(File::create(path)?)?;
    contents(&mut file)?;
    let file = file.finish()?;
    Ok(std::os::unix::fs::MetadataExt::blocks(&file.metadata()?) * 512)
}

/// The regions one after another. Behind the VGA window there is no RAM: zeros.
fn write_memory(machine: &Machine, file: &mut SparseFile) -> io::Result<()> {
    let ram = machine.ram();
    let layout = ram.layout();
    let mut piece = vec![0; PIECE_BYTES as usize];
    for offset in (0..layout.total_bytes()).step_by(PIECE_BYTES as usize) {
        let Gpa(start) = layout.gpa(offset);
        if start == 0 {
            // The one piece with a hole.
            let (below, above) = (VGA_WINDOW.start as usize, VGA_WINDOW.end as usize);
            piece[below..above].fill(0);
            ram.read(Gpa(0), &mut piece[..below]).map_err(io::Error::other)?;
            ram.read(Gpa(VGA_WINDOW.end), &mut piece[above..]).map_err(io::Error::other)?;
        } else {
            ram.read(Gpa(start), &mut piece).map_err(io::Error::other)?;
        }
        file.write_all(&piece)?;
    }
    Ok(())
}

//! `dejavm snapshot`: a VMware checkpoint of the machine at a position of a recording.

mod beside;
mod state;

pub use beside::beside;
pub use state::Restored;

use crate::Outcome;
use crate::arguments::Snapshot;
use crate::disks::images;
use crate::exit::{Exit, Failure};
use crate::open;
use crate::partial::{Partial, check_room};
use crate::progress::size;
use crate::record::name;
use dejavm_cpu::Tuning;
use dejavm_machine::Machine;
use dejavm_memory::VGA_WINDOW;
use dejavm_replay::{External, Header};
use dejavm_units::Gpa;
use serde_json::json;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;
use vmss::{PAGE_BYTES, Product, Region, Writer, is_zero, unwrapped};

/// Bytes of guest memory read at a time: they fit into the processor's caches.
const PIECE_BYTES: u64 = 256 << 10;
/// Memory of machines that end is given back in units of this: a huge page of the host.
const GIVEN_BACK_BYTES: u64 = 2 << 20;
/// Pieces that are read before the first of them is written.
const PIECES: usize = 4;

/// Replays up to there and writes what the machine is.
pub fn run(arguments: &Snapshot) -> Result<Outcome, Failure> {
    let Snapshot { output, embed, compress, force, .. } = arguments;
    let names = names(output, *embed, *compress, *force)?;
    let (state, memory) = (names.state.as_path(), names.memory.as_deref());
    let (timeline, recording, at) =
        open::at(arguments.file.as_deref(), &arguments.at, Tuning::default(), &arguments.images)?;
    let begun = Instant::now();
    let images = images(timeline.externals());
    let (header, mut machine) = timeline.into_machine();
    let total = machine.ram().layout().total_bytes();
    let bytes = write(&header, &images, &mut Source::Ended(&mut machine), &names).map_err(
        |(path, error)| Failure::new(Exit::Failed, format!("{}: {error}", path.display())),
    )?;
    let shown = memory.map_or(String::new(), |memory| format!(" and {}", name(memory)));
    eprintln!(
        "dejavm: {}{shown}: the machine at position {at} of {recording}; {} of memory, {} on disk",
        name(state),
        size(total),
        size(bytes),
    );
    Ok(Outcome::ok(json!({
        "state": name(state),
        "memory": memory.map(name),
        "recording": recording,
        "position": at.0,
        "memory_bytes": total,
        "disk_bytes": bytes,
        "seconds_writing": begun.elapsed().as_secs_f64(),
    })))
}

/// The files to write.
struct Names {
    state: PathBuf,
    /// Unless memory goes into the other.
    memory: Option<PathBuf>,
    compress: bool,
}

/// Names that other programs recognize, of files that are not there.
fn names(output: &Path, embed: bool, compress: bool, force: bool) -> Result<Names, Failure> {
    let plain = unwrapped(output);
    let compress = compress || plain != output;
    let extension = plain.extension().and_then(|extension| extension.to_str());
    let is_gzip = output.extension().is_some_and(|extension| extension == "gz");
    if !matches!(extension, Some("vmss" | "vmsn")) || is_gzip {
        let sentence = format!(
            "{}: a checkpoint's name ends in .vmss or .vmsn, for other programs go by that, and in .zst behind that if it \
             is compressed",
            output.display()
        );
        return Err(Failure::new(Exit::Usage, sentence));
    }
    let named = |path: PathBuf| {
        let mut name = path.into_os_string();
        name.push(if compress { ".zst" } else { "" });
        PathBuf::from(name)
    };
    let memory = (!embed).then(|| named(plain.with_extension("vmem")));
    let names = Names { state: named(plain), memory, compress };
    for path in [Some(&names.state), names.memory.as_ref()].into_iter().flatten() {
        if path.exists() && !force {
            let sentence = format!(
                "{}: the file exists; choose another name, or overwrite it with --force",
                path.display()
            );
            return Err(Failure::new(Exit::Failed, sentence));
        }
    }
    Ok(names)
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

/// What is written.
enum Source<'a> {
    /// A machine that goes on.
    Going(&'a Machine),
    /// One that is not needed any more. It gives its memory back while it is written: what the file takes up in the
    /// host's memory is not wanted besides, and new memory can cost more time than all the rest.
    Ended(&'a mut Machine),
}

impl Source<'_> {
    fn machine(&self) -> &Machine {
        match self {
            Source::Going(machine) => machine,
            Source::Ended(machine) => machine,
        }
    }

    /// All before this place in the file was read.
    fn has_read(&mut self, until: u64) {
        if let Source::Ended(machine) = self
            && until.is_multiple_of(GIVEN_BACK_BYTES)
        {
            machine.ram_mut().give_back(until - GIVEN_BACK_BYTES, GIVEN_BACK_BYTES);
        }
    }
}

/// Writes all, under other names first; returns the bytes on disk.
fn write(
    header: &Header,
    images: &[External],
    source: &mut Source<'_>,
    names: &Names,
) -> Result<u64, (PathBuf, io::Error)> {
    let machine = source.machine();
    let Names { state, memory, compress } = names;
    let product = Product { name: "dejavm".into(), version: env!("CARGO_PKG_VERSION").into() };
    let saved = machine.save();
    let at_state = |error| (state.clone(), error);
    let others = saved.more.processors.iter().map(|other| &other.cpu);
    let vcpus: Vec<_> = std::iter::once(&saved.cpu).chain(others).map(state::vcpu).collect();
    let mut writer = Writer::new(&product, &vcpus, &regions(machine))
        .map_err(|error| at_state(io::Error::other(error)))?;
    writer.group(state::GROUP, state::tags(header, images, &saved, machine.ram()));
    if !compress {
        let at_most = machine.ram().layout().total_bytes();
        let path = memory.as_ref().unwrap_or(state);
        let advice = "name a file elsewhere, or --compress it";
        check_room(path, at_most, || bytes_of_contents(machine), advice).map_err(at_state)?;
    }
    let Some(memory) = memory else {
        let file = Partial::write(state, *compress, |out| {
            writer.write_embedded(out, |out| write_memory(source, out))
        });
        return file.and_then(Partial::finish).map_err(at_state);
    };
    let at_memory = |error| (memory.clone(), error);
    let contents = Partial::write(memory, *compress, |out| write_memory(source, out));
    let contents = contents.map_err(at_memory)?;
    let rest = Partial::write(state, *compress, |out| writer.write(out)).map_err(at_state)?;
    let bytes = contents.finish().map_err(at_memory)?;
    Ok(bytes + rest.finish().map_err(at_state)?)
}

/// The regions one after another, read while what was read before is written.
fn write_memory(source: &mut Source<'_>, out: &mut (dyn Write + Send)) -> io::Result<()> {
    let (full, to_write) = mpsc::sync_channel::<Vec<u8>>(PIECES);
    let (written, empty) = mpsc::channel();
    thread::scope(|scope| {
        let writer = scope.spawn(move || {
            for piece in to_write {
                out.write_all(&piece)?;
                // Nobody reads any more if reading failed.
                let _ = written.send(piece);
            }
            Ok(())
        });
        let mut read = Ok(());
        for (n, offset) in offsets(source.machine()).enumerate() {
            let mut piece = if n < PIECES {
                vec![0; PIECE_BYTES as usize]
            } else {
                // The writer fails, and says why, if it gives none back.
                let Ok(piece) = empty.recv() else { break };
                piece
            };
            read = read_piece(source.machine(), offset, &mut piece);
            source.has_read(offset + PIECE_BYTES);
            if read.is_err() || full.send(piece).is_err() {
                break;
            }
        }
        drop(full);
        writer.join().expect("it only writes").and(read)
    })
}

/// Bytes of pages that are not zero.
fn bytes_of_contents(machine: &Machine) -> io::Result<u64> {
    let mut bytes = 0;
    let mut piece = vec![0; PIECE_BYTES as usize];
    for offset in offsets(machine) {
        read_piece(machine, offset, &mut piece)?;
        let contents = piece.chunks(PAGE_BYTES as usize).filter(|page| !is_zero(page));
        bytes += contents.count() as u64 * PAGE_BYTES;
    }
    Ok(bytes)
}

/// Where pieces begin in the file. Memory is whole MiB.
fn offsets(machine: &Machine) -> impl Iterator<Item = u64> + use<> {
    (0..machine.ram().layout().total_bytes()).step_by(PIECE_BYTES as usize)
}

/// Reads a piece. Behind the VGA window there is no RAM: zeros.
fn read_piece(machine: &Machine, offset: u64, piece: &mut [u8]) -> io::Result<()> {
    let ram = machine.ram();
    let Gpa(start) = ram.layout().gpa(offset);
    let end = start + piece.len() as u64;
    let mut read = |from: u64, to: u64| {
        let into = &mut piece[(from - start) as usize..(to - start) as usize];
        ram.read(Gpa(from), into).map_err(io::Error::other)
    };
    if end <= VGA_WINDOW.start || VGA_WINDOW.end <= start {
        return read(start, end);
    }
    if start < VGA_WINDOW.start {
        read(start, VGA_WINDOW.start)?;
    }
    if VGA_WINDOW.end < end {
        read(VGA_WINDOW.end, end)?;
    }
    let (from, to) = (VGA_WINDOW.start.max(start), VGA_WINDOW.end.min(end));
    piece[(from - start) as usize..(to - start) as usize].fill(0);
    Ok(())
}

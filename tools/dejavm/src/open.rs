//! Opening a recording and rebuilding its machine.

use crate::disks::{self, Images};
use crate::exit::{Exit, Failure};
use crate::progress::Meter;
use crate::record::{name, read};
use crate::world::stop_on_signals;
use dejavm_cpu::Tuning;
use dejavm_machine::{Boot, Machine};
use dejavm_replay::{
    CheckpointPolicy, External, Header, Reached, RecordOptions, Recorded, Replayer, SEMANTICS,
    Timeline, TimelineOptions, TranscribeError, transcribe,
};
use dejavm_units::Position;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// How recordings are named.
pub const EXTENSION: &str = "dvr";

/// The recording that a command is about, opened.
pub fn file(path: Option<&Path>) -> Result<(File, String), Failure> {
    let Some(path) = path else { return Err(none_named()) };
    let shown = name(path);
    if path.is_dir() {
        let sentence =
            format!("{shown}: this is a folder; `dejavm ls {shown}` lists its recordings");
        return Err(Failure::new(Exit::NotFound, sentence));
    }
    match File::open(path) {
        Ok(file) => Ok((file, shown)),
        Err(error) => {
            let exit = match error.kind() {
                io::ErrorKind::NotFound => Exit::NotFound,
                _ => Exit::Failed,
            };
            Err(Failure::new(exit, format!("{shown}: the recording cannot be opened: {error}")))
        }
    }
}

/// The recordings in a folder, in the order of their names.
pub fn recordings(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in folder.read_dir()? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn none_named() -> Failure {
    let found = recordings(Path::new(".")).unwrap_or_default();
    let names: Vec<String> =
        found.iter().map(|path| name(path.strip_prefix(".").unwrap_or(path))).collect();
    let sentence = match names.as_slice() {
        [] => "no recording is named, and there is none here; `dejavm record` makes one".to_owned(),
        names => format!("no recording is named; here are {}", names.join(", ")),
    };
    Failure::new(Exit::NotFound, sentence)
}

/// A recording, to be replayed instruction by instruction. One whose positions are exits is followed by the software CPU first,
/// into a file that nobody else sees.
pub fn replayer(file: File, images: &Images) -> Result<Replayer<File>, Failure> {
    let replayer = Replayer::open(file)?;
    if !replayer.header().positions_are_exits() {
        return Ok(replayer);
    }
    eprintln!(
        "dejavm: KVM recorded this, which counts no instructions; the software CPU follows it and counts"
    );
    let mut followed = tempfile::tempfile().map_err(no_room)?;
    follow(replayer, &mut followed, images)?;
    Ok(Replayer::open(followed)?)
}

fn no_room(error: io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("there is no room for what it counts: {error}"))
}

/// Lets the software CPU follow a recording whose positions are exits, and record that with instructions for positions. What was packed
/// into it is in the new one too, which is opened for reading and writing.
pub fn follow(
    mut replayer: Replayer<File>,
    sink: &mut File,
    images: &Images,
) -> Result<Recorded, Failure> {
    let machine = machine(&mut replayer, images)?;
    let packed = disks::packed_images(replayer.source())?;
    let mut header = Header { semantics: SEMANTICS, ..replayer.header().clone() };
    header.set_positions_are_exits(false);
    let options = RecordOptions {
        header,
        externals: replayer.externals().to_vec(),
        embed_pages: replayer.is_whole(),
        until: None,
        checkpoints: CheckpointPolicy::NONE,
        parent: replayer.parent().cloned(),
    };
    let stop = stop_on_signals().map_err(|error| {
        Failure::new(Exit::Environment, format!("signals cannot be handled: {error}"))
    })?;
    let mut meter = Meter::new(false, false);
    let result = transcribe(replayer, machine, &mut *sink, &options, &mut |at| {
        meter.show(at, None);
        !stop.load(Ordering::Relaxed)
    });
    meter.finish();
    let recorded = result.map_err(|error| match error {
        TranscribeError::Stopped => Failure::new(Exit::Failed, "stopped"),
        TranscribeError::Replay(error) => error.into(),
        TranscribeError::Record(error) => no_room(io::Error::other(error)),
    })?;
    if let Some(packed) = packed {
        disks::hand_on(packed, sink)?;
    }
    Ok(recorded)
}

/// The recorded machine in its start state.
pub fn machine(replayer: &mut Replayer<File>, images: &Images) -> Result<Machine, Failure> {
    let storages = disks::again(replayer, images)?;
    let mut machine = match replayer.is_whole() {
        true => replayer.rebuild()?,
        false => boot_again(replayer)?,
    };
    machine.set_storages(storages);
    Ok(machine)
}

/// The recorded machine in its start state, from the kernel and the initial RAM disk that were booted.
fn boot_again(replayer: &Replayer<File>) -> Result<Machine, Failure> {
    let mut kernel = None;
    let mut initrd = None;
    for external in replayer.externals().iter().filter(|external| !external.is_drive()) {
        let contents = contents(external)?;
        match external.role.as_str() {
            "kernel" => kernel = Some(contents),
            "initrd" => initrd = Some(contents),
            role => {
                let sentence = format!("it needs a file of a kind that is unknown here: {role:?}");
                return Err(Failure::new(Exit::Recording, sentence));
            }
        }
    }
    let Some(kernel) = kernel else {
        return Err(Failure::new(Exit::Recording, "it needs a kernel but names none"));
    };
    let header = replayer.header();
    let append = header.guest.iter().find(|(role, _)| role == "append");
    let cmdline = append.map_or("", |(_, text)| text.as_str());
    let boot = Boot { image: &kernel, initrd: initrd.as_deref(), cmdline };
    let machine = Machine::boot(&header.config, &boot).map_err(|error| {
        Failure::new(Exit::Recording, format!("its machine cannot be rebuilt: {error}"))
    })?;
    replayer.check_start(&machine)?;
    Ok(machine)
}

/// A file that a recording needs, if it is still the same.
fn contents(external: &External) -> Result<Vec<u8>, Failure> {
    let External { role, path, bytes, blake3: hash } = external;
    let contents =
        read(Path::new(path), &format!("the {role} that it needs")).map_err(|failure| {
            let advice = "put back the file that was recorded";
            Failure::new(Exit::Recording, format!("{failure}; {advice}"))
        })?;
    if contents.len() as u64 == *bytes && blake3::hash(&contents) == *hash {
        return Ok(contents);
    }
    let sentence = format!(
        "{path}: the {role} that it needs has changed since it was recorded ({bytes} bytes then, {} \
         now); put back the file that was recorded",
        contents.len()
    );
    Err(Failure::new(Exit::Recording, sentence))
}

/// A recording, standing where the user says; its name, and the position.
pub fn at(
    path: Option<&Path>,
    place: &str,
    tuning: Tuning,
    images: &Images,
) -> Result<(Timeline<File>, String, Position), Failure> {
    let (file, name) = file(path)?;
    let seek = || {
        let mut replayer = replayer(file, images)?;
        let mut machine = machine(&mut replayer, images)?;
        machine.set_tuning(tuning);
        let mut timeline = Timeline::new(replayer, machine, TimelineOptions::default())?;
        let at = position(&timeline, place)?;
        if timeline.seek(at)? != Reached::Position {
            let (start, end) = (timeline.start(), timeline.end());
            let sentence = format!("position {at} is not in it: it replays from {start} to {end}");
            return Err(Failure::new(Exit::Usage, sentence));
        }
        Ok((timeline, at))
    };
    let (timeline, at) = seek().map_err(|failure: Failure| failure.about(&name))?;
    Ok((timeline, name, at))
}

/// A position as the user names it.
fn position(timeline: &Timeline<File>, text: &str) -> Result<Position, Failure> {
    if let Ok(position) = text.replace('_', "").parse() {
        return Ok(Position(position));
    }
    if let Some(mark) = timeline.marks().iter().rev().find(|mark| mark.name == text) {
        return Ok(mark.at.position);
    }
    match text {
        "start" => Ok(timeline.start()),
        "end" => Ok(timeline.end()),
        _ => {
            let sentence = format!(
                "{text:?} is neither a position nor one of its marks (`start` and `end` always are)"
            );
            Err(Failure::new(Exit::NotFound, sentence))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dejavm_machine::{Card, Drive, MachineConfig, TimeBase};
    use dejavm_memory::RamLayout;
    use dejavm_replay::{Header, IMAGE_BLOCK, SEMANTICS, append_image, record};
    use dejavm_scenarios::{ByExits, Desk};
    use std::collections::BTreeSet;
    use std::io::{Seek, SeekFrom};
    use std::sync::Arc;

    /// A disk that nobody reads while it is recorded.
    struct Blank;

    impl dejavm_machine::Storage for Blank {
        fn read(&self, _offset: u64, into: &mut [u8]) -> io::Result<()> {
            into.fill(0);
            Ok(())
        }
    }

    /// Of a machine with a disk, by an engine that counts exits. The image that it names does not exist.
    fn recording_by_exits() -> File {
        let ram = RamLayout::new(2 << 20).unwrap();
        let mut config = MachineConfig { time_base: TimeBase::Exits, ..MachineConfig::new(ram) };
        let bytes = 8 * IMAGE_BLOCK as u64;
        config.hardware.drives.push(Drive { bytes, read_only: false });
        config.hardware.cards.push(Card::VirtioBlock { drive: 0 });
        let boot = Boot { image: dejavm_images::COUNTER, initrd: None, cmdline: "" };
        let mut machine = Machine::boot(&config, &boot).unwrap();
        machine.set_storages(vec![Arc::new(Blank)]);
        machine.set_executor(Some(Box::new(ByExits::live(1, 200_000))));
        let mut header = Header {
            creator: "test".into(),
            semantics: SEMANTICS,
            config,
            guest: Vec::new(),
            digest_interval: 500,
        };
        header.set_positions_are_exits(true);
        let image = External {
            role: External::drive_role(0, "raw"),
            path: "/nowhere/disk.img".into(),
            bytes,
            blake3: [1; 32],
        };
        let options = RecordOptions {
            header,
            externals: vec![image],
            embed_pages: true,
            until: None,
            checkpoints: CheckpointPolicy::NONE,
            parent: None,
        };
        let mut file = tempfile::tempfile().unwrap();
        record(&mut machine, &mut Desk::new(), &mut file, &options).unwrap();
        file
    }

    /// Instructions are counted in a file of their own, which has to hold the blocks too.
    #[test]
    fn a_packed_recording_whose_positions_are_exits_needs_no_image() {
        let mut file = recording_by_exits();
        let blocks = BTreeSet::from([2, 5]);
        let read = |block: u64, into: &mut [u8]| {
            into.fill(block as u8);
            Ok(())
        };
        append_image(&file, 0, &blocks, read).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut replayer = replayer(file, &Images::default()).unwrap();
        assert!(!replayer.header().positions_are_exits());
        let machine = machine(&mut replayer, &Images::default()).unwrap();
        let mut contents = [0; IMAGE_BLOCK];
        for block in blocks {
            machine.read_drive(0, block * IMAGE_BLOCK as u64, &mut contents).unwrap();
            assert_eq!(contents, [block as u8; IMAGE_BLOCK]);
        }
        assert!(machine.read_drive(0, 0, &mut contents).is_err(), "nobody read that");
    }

    /// As before: it is looked for.
    #[test]
    fn without_what_was_packed_the_image_is_missed() {
        let mut file = recording_by_exits();
        file.seek(SeekFrom::Start(0)).unwrap();
        let failure = replayer(file, &Images::default()).err().unwrap();
        assert!(failure.to_string().contains("/nowhere/disk.img"), "{failure}");
    }
}

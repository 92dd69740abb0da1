//! `dejavm pack`: a recording that needs no disk image any more.

use crate::arguments::Pack;
use crate::disks::{Images, Tracked, pack_into};
use crate::exit::{Exit, Failure};
use crate::progress::size;
use crate::record::name;
use crate::{Outcome, open};
use dejavm_machine::Storages;
use dejavm_replay::{Observer, ReplayOptions};
use serde_json::json;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Nobody looks.
struct Unseen;
impl Observer for Unseen {}

/// Replays a recording, and adds what it reads of disk images to it.
pub fn run(arguments: &Pack) -> Result<Outcome, Failure> {
    let target = arguments.output.as_ref().unwrap_or(&arguments.file);
    let packed = pack(&arguments.file, target, &arguments.images)?;
    Ok(Outcome::ok(json!({
        "result": "packed",
        "file": name(target),
        "blocks": packed.blocks,
        "file_bytes": packed.file_bytes,
    })))
}

/// What became of it.
pub struct Packed {
    /// Blocks of images in it.
    pub blocks: usize,
    /// Bytes of the recording with them.
    pub file_bytes: u64,
}

/// Packs `source`, a recording; `target` may be the same.
pub fn pack(source: &Path, target: &Path, images: &Images) -> Result<Packed, Failure> {
    let (file, shown) = open::file(Some(source))?;
    let about = |failure: Failure| failure.about(&shown);
    let mut replayer = open::replayer(file, images).map_err(about)?;
    let mut machine = open::machine(&mut replayer, images).map_err(about)?;
    if machine.storages().is_empty() {
        return Err(Failure::new(Exit::Usage, "it needs no disk image").about(&shown));
    }
    let tracked: Vec<Arc<Tracked>> =
        machine.storages().iter().map(|storage| Arc::new(Tracked::new(storage.clone()))).collect();
    let storages: Storages = tracked.iter().map(|storage| Arc::clone(storage) as _).collect();
    machine.set_storages(storages);
    let replayed = replayer
        .run(&mut machine, &ReplayOptions::default(), &mut Unseen)
        .map_err(|error| about(error.into()))?;
    if replayed.ending.is_none() {
        let sentence = "the recording is cut short: only whole ones are packed";
        return Err(about(Failure::new(Exit::Recording, sentence)));
    }
    let mut unfinished = target.as_os_str().to_owned();
    unfinished.push(".packing");
    let unfinished = PathBuf::from(unfinished);
    let failed = |error: std::io::Error| {
        Failure::new(Exit::Failed, format!("{}: {error}", unfinished.display()))
    };
    let result = (|| {
        fs::copy(source, &unfinished).map_err(failed)?;
        let file = OpenOptions::new().read(true).write(true).open(&unfinished).map_err(failed)?;
        pack_into(&file, &tracked).map_err(|failure| failure.about(&name(&unfinished)))?;
        fs::rename(&unfinished, target).map_err(failed)
    })();
    if result.is_err() {
        let _gone = fs::remove_file(&unfinished);
    }
    result?;
    let blocks: usize = tracked.iter().map(|storage| storage.touched().len()).sum();
    let file_bytes = fs::metadata(target).map_or(0, |metadata| metadata.len());
    eprintln!(
        "dejavm: {}: {blocks} blocks of disk images are in it, {}; it replays without them",
        name(target),
        size(file_bytes)
    );
    Ok(Packed { blocks, file_bytes })
}

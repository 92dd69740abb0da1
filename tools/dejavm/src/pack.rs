//! `dejavm pack`: a recording that needs no disk image any more.

use crate::arguments::Pack;
use crate::disks::{Tracked, pack_into};
use crate::exit::{Exit, Failure};
use crate::progress::size;
use crate::record::name;
use crate::{Outcome, open};
use dejavm_machine::Storages;
use dejavm_replay::{Observer, ReplayOptions};
use serde_json::json;
use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::sync::Arc;

/// Nobody looks.
struct Unseen;
impl Observer for Unseen {}

/// Replays a recording, and adds what it reads of disk images to it.
pub fn run(arguments: &Pack) -> Result<Outcome, Failure> {
    let (file, shown) = open::file(Some(&arguments.file))?;
    let about = |failure: Failure| failure.about(&shown);
    let mut replayer = open::replayer(file).map_err(about)?;
    let mut machine = open::machine(&mut replayer).map_err(about)?;
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
    let target = arguments.output.clone().unwrap_or_else(|| arguments.file.clone());
    let mut unfinished = target.clone().into_os_string();
    unfinished.push(".packing");
    let unfinished = PathBuf::from(unfinished);
    let failed = |error: std::io::Error| {
        Failure::new(Exit::Failed, format!("{}: {error}", unfinished.display()))
    };
    let result = (|| {
        fs::copy(&arguments.file, &unfinished).map_err(failed)?;
        let file = OpenOptions::new().read(true).write(true).open(&unfinished).map_err(failed)?;
        pack_into(&file, &tracked).map_err(|failure| failure.about(&name(&unfinished)))?;
        fs::rename(&unfinished, &target).map_err(failed)
    })();
    if result.is_err() {
        let _gone = fs::remove_file(&unfinished);
    }
    result?;
    let blocks: usize = tracked.iter().map(|storage| storage.touched().len()).sum();
    let bytes = fs::metadata(&target).map_or(0, |metadata| metadata.len());
    eprintln!(
        "dejavm: {}: {blocks} blocks of disk images are in it, {}; it replays without them",
        name(&target),
        size(bytes)
    );
    let json =
        json!({ "result": "packed", "file": name(&target), "blocks": blocks, "file_bytes": bytes });
    Ok(Outcome::ok(json))
}

//! `dejavm convert`: a recording of KVM's, followed by the software CPU once and for all.

use crate::Outcome;
use crate::arguments::Convert;
use crate::exit::{Exit, Failure};
use crate::open;
use crate::record::{name, recorded_json};
use dejavm_replay::Replayer;
use std::fs::OpenOptions;
use std::time::Instant;

/// Writes a recording with instructions for positions; an existing file is left alone.
pub fn run(arguments: &Convert) -> Result<Outcome, Failure> {
    let (file, from) = open::file(arguments.file.as_deref())?;
    let to = name(&arguments.output);
    let replayer = Replayer::open(file).map_err(|error| Failure::from(error).about(&from))?;
    if !replayer.header().positions_are_exits() {
        let sentence = format!("{from}: its positions are instructions already");
        return Err(Failure::new(Exit::Usage, sentence));
    }
    let sink = OpenOptions::new().read(true).write(true).create_new(true).open(&arguments.output);
    let mut sink = sink.map_err(|error| {
        Failure::new(Exit::Failed, format!("{to}: the recording cannot be made: {error}"))
    })?;
    let begun = Instant::now();
    let recorded = open::follow(replayer, &mut sink, &arguments.images).map_err(|failure| {
        // A part of it would look like the whole.
        let _ = std::fs::remove_file(&arguments.output);
        failure.about(&from)
    })?;
    let at = recorded.at.position;
    eprintln!("dejavm: {to}: {from} followed by the software CPU; {at} instructions");
    let mut value = recorded_json(&recorded, begun.elapsed().as_secs_f64());
    value["result"] = "converted".into();
    value["file"] = to.into();
    Ok(Outcome { json: value, failure: None })
}

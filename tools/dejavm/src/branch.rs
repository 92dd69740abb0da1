//! `dejavm branch`: a machine that was replayed runs on, live.

use crate::Outcome;
use crate::arguments::Branch;
use crate::disks::{hand_on, images, standing_in};
use crate::exit::{Exit, Failure};
use crate::open;
use crate::record::{self, only_by_software};
use crate::recording::{going_on, live, packed_if_wanted, refuse_to_overwrite};
use dejavm_stub::{Replaying, Target};
use std::fs::OpenOptions;

/// Replays up to there, and runs and records the machine from there on.
pub fn run(arguments: &Branch) -> Result<Outcome, Failure> {
    let recording = &arguments.recording;
    refuse_to_overwrite(recording, &[arguments.file.as_ref()])?;
    only_by_software(recording, "a machine goes on from a recording")?;
    let tuning = recording.tuning.tuning();
    let (mut timeline, name, at) =
        open::at(arguments.file.as_deref(), &arguments.at, tuning, &arguments.images)?;
    let about = |failure: Failure| failure.about(&name);
    let parent = timeline.as_parent(&name).map_err(Failure::from).map_err(about)?;
    let mut machine = timeline.branch().map_err(Failure::from).map_err(about)?;
    let mut header = timeline.header().clone();
    arguments.schedule.fill(&mut header.config.hardware);
    machine.deal_turns(&header.config.hardware);
    let (file, _) = open::file(arguments.file.as_deref())?;
    let held = standing_in(&file, &header, timeline.externals(), &arguments.images);
    let held = held.map_err(about)?;
    let options = going_on(recording, header, Some(parent), images(timeline.externals()));
    let bits_64 = Replaying::new(timeline).map_err(Failure::from).map_err(about)?.is_64_bit();
    eprintln!("dejavm: {name}: a live machine goes on from position {at}");
    let Some(held) = held else {
        let recorded = live(recording, machine, &options, bits_64)?;
        return packed_if_wanted(recording, &arguments.images, recorded);
    };
    eprintln!(
        "dejavm: {name}: the image of a disk is not there; the branch reads what the recording holds of it, which becomes its own"
    );
    let recorded = live(recording, machine, &options, bits_64).map_err(|failure| Failure {
        sentence: format!("{failure}, once the image is there again"),
        ..failure
    })?;
    if !recording.no_log {
        let shown = record::name(&recording.output);
        let output = OpenOptions::new().read(true).write(true).open(&recording.output);
        let output = output
            .map_err(|error| Failure::new(Exit::Failed, error.to_string()))
            .and_then(|output| hand_on(held, &output));
        output.map_err(|failure| failure.about(&shown))?;
    }
    Ok(recorded)
}

//! `dejavm branch`: a machine that was replayed runs on, live.

use crate::Outcome;
use crate::arguments::Branch;
use crate::exit::{Exit, Failure};
use crate::open;
use crate::record::CREATOR;
use crate::recording::{checkpoints, live, refuse_to_overwrite};
use dejavm_replay::{
    Header, Reached, RecordOptions, Replayer, SEMANTICS, Timeline, TimelineOptions,
};
use dejavm_stub::{Replaying, Target};
use dejavm_units::Position;

/// Replays up to there, and runs and records the machine from there on.
pub fn run(arguments: &Branch) -> Result<Outcome, Failure> {
    let recording = &arguments.recording;
    refuse_to_overwrite(recording, &[arguments.file.as_ref()])?;
    let (file, name) = open::file(arguments.file.as_deref())?;
    let about = |failure: Failure| failure.about(&name);
    let mut replayer = Replayer::open(file).map_err(Failure::from).map_err(about)?;
    let mut machine = open::machine(&mut replayer).map_err(about)?;
    machine.set_tuning(recording.tuning.tuning());
    let timeline = Timeline::new(replayer, machine, TimelineOptions::default());
    let mut timeline = timeline.map_err(Failure::from).map_err(about)?;
    let at = open::place(&timeline, &arguments.at).map_err(about)?;
    let reached = timeline.seek(at).map_err(Failure::from).map_err(about)?;
    if reached != Reached::Position {
        let sentence = format!(
            "position {at} is not in it: it replays from {} to {}",
            timeline.start(),
            timeline.end()
        );
        return Err(about(Failure::new(Exit::Usage, sentence)));
    }
    let parent = timeline.as_parent(&name).map_err(Failure::from).map_err(about)?;
    let machine = timeline.branch().map_err(Failure::from).map_err(about)?;
    let header = Header {
        creator: CREATOR.into(),
        semantics: SEMANTICS,
        digest_interval: recording.digest_interval,
        ..timeline.header().clone()
    };
    let bits_64 = Replaying::new(timeline).map_err(Failure::from).map_err(about)?.is_64_bit();
    let options = RecordOptions {
        header,
        externals: Vec::new(),
        embed_pages: true,
        until: recording.until.map(Position),
        checkpoints: checkpoints(recording),
        parent: Some(parent),
    };
    eprintln!("dejavm: {name}: a live machine goes on from position {at}");
    live(recording, machine, &options, bits_64)
}

//! `dejavm marks`.

use crate::arguments::Marks;
use crate::disks::Images;
use crate::exit::{Exit, Failure};
use crate::progress::seconds;
use crate::{Outcome, console, open};
use dejavm_replay::{
    Mark, MarkError, Moment, Reached, Replayer, Summary, Timeline, TimelineOptions, add_mark,
    is_mark_name,
};
use dejavm_units::Position;
use serde_json::json;
use std::fs::OpenOptions;
use std::path::Path;

/// Lists marks, after adding one if asked.
pub fn run(arguments: &Marks) -> Result<Outcome, Failure> {
    let (_, name) = open::file(arguments.file.as_deref())?;
    let path = arguments.file.as_deref().expect("`open::file` insists on one");
    if let (Some(mark), Some(at)) = (&arguments.add, arguments.at) {
        add(path, mark, Position(at), &arguments.images).map_err(|failure| failure.about(&name))?;
    }
    let (file, _) = open::file(Some(path))?;
    let summary = Summary::read(file).map_err(|error| Failure::from(error).about(&name))?;
    if !arguments.json {
        let lines = summary.marks.iter().map(|mark| {
            format!("{:>16}  {:>14}  {}\n", mark.at.position, seconds(mark.at), mark.name)
        });
        console::print(&lines.collect::<String>())?;
    }
    let marks: Vec<_> = summary
        .marks
        .iter()
        .map(|mark| {
            json!({
                "name": mark.name,
                "position": mark.at.position.0,
                "guest_ns": mark.at.guest_ns.0,
            })
        })
        .collect();
    Ok(Outcome::ok(json!({ "file": name, "marks": marks })))
}

fn add(path: &Path, name: &str, position: Position, images: &Images) -> Result<(), Failure> {
    if !is_mark_name(name) {
        return Err(Failure::new(Exit::Usage, MarkError::Name.to_string()));
    }
    let at = moment(path, position, images)?;
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(|error| {
        Failure::new(Exit::Failed, format!("the recording cannot be changed: {error}"))
    })?;
    add_mark(&file, &Mark { at, name: name.to_owned() }).map_err(|error| {
        let exit = match &error {
            MarkError::Name => Exit::Usage,
            MarkError::Read(_) | MarkError::Damaged(_) => Exit::Recording,
            MarkError::Write(_) => Exit::Failed,
        };
        Failure::new(exit, error.to_string())
    })
}

/// When a position is: found by going there.
fn moment(path: &Path, position: Position, images: &Images) -> Result<Moment, Failure> {
    let (file, _) = open::file(Some(path))?;
    let mut replayer = Replayer::open(file)?;
    if replayer.header().positions_are_exits() {
        let sentence = "KVM recorded this: its positions are exits and not the instructions that one can stand at, so it takes no marks";
        return Err(Failure::new(Exit::Failed, sentence));
    }
    let machine = open::machine(&mut replayer, images)?;
    let mut timeline = Timeline::new(replayer, machine, TimelineOptions::default())?;
    match timeline.seek(position)? {
        Reached::Position => Ok(timeline.now()),
        Reached::Start | Reached::End | Reached::Interrupted => {
            let (start, end) = (timeline.start(), timeline.end());
            let sentence =
                format!("position {position} is not in the recording, which has {start} to {end}");
            Err(Failure::new(Exit::Usage, sentence))
        }
    }
}

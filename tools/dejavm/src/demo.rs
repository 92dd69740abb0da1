//! `dejavm demo`: records and replays a guest built into the program, in memory.

use crate::Outcome;
use crate::arguments::{Demo, IdlePolicy};
use crate::console::Console;
use crate::exit::{Exit, Failure};
use crate::progress::{Meter, rate, size};
use crate::record::{CREATOR, ending_text, recorded_json};
use crate::replay::replayed_json;
use crate::world::{HostWorld, stop_on_signals};
use dejavm_machine::{Boot, Machine, MachineConfig};
use dejavm_memory::RamLayout;
use dejavm_replay::{
    CheckpointPolicy, Header, Observer, RecordOptions, Recorded, ReplayOptions, Replayed, Replayer,
    SEMANTICS, record,
};
use serde_json::json;
use std::io::Cursor;

const RAM_BYTES: u64 = 16 << 20;
/// Instructions between digests: some for a guest of about a hundred million.
const DIGEST_INTERVAL: u64 = 8 << 20;

/// Records, replays, compares.
pub fn run(arguments: &Demo) -> Result<Outcome, Failure> {
    let tell = |text: String| -> Result<(), Failure> {
        if arguments.json {
            eprint!("{text}");
            return Ok(());
        }
        crate::console::print(&text)
    };
    tell(
        "== recording a guest that crashes: a division whose divisor was overwritten before\n"
            .into(),
    )?;
    let mut console = Console::new(None, arguments.json)?;
    let mut file = Vec::new();
    let meter = Meter::new(false, true);
    let recorded = record_guest(arguments, &mut console, &mut file)?;
    let recording_s = meter.seconds();
    console.check()?;
    tell(format!(
        "\n== recorded: {}; {} instructions, {:.0} M/s; the recording has {}\n",
        ending_text(recorded.ending),
        recorded.at.position,
        rate(recorded.at.position.0, recording_s),
        size(recorded.file_bytes),
    ))?;

    let meter = Meter::new(false, true);
    let replayed = replay_guest(arguments, file)?;
    let replaying_s = meter.seconds();
    let same = replayed.console == recorded.console
        && replayed.at == recorded.at
        && replayed.ending == Some(recorded.ending)
        && replayed.last_digest.as_ref() == Some(&recorded.digest);
    if !same {
        return Err(Failure::new(Exit::Divergence, "the replay is not what was recorded"));
    }
    tell(format!(
        "== replayed: the same crash at position {}; {} digests and {} bytes of console equal, {:.0} M/s\n",
        replayed.at.position,
        replayed.digests,
        replayed.console_bytes,
        rate(replayed.at.position.0, replaying_s),
    ))?;
    Ok(Outcome::ok(json!({
        "result": "equal",
        "recorded": recorded_json(&recorded, recording_s),
        "replayed": replayed_json(&replayed, replaying_s),
    })))
}

fn record_guest(
    arguments: &Demo,
    console: &mut Console,
    file: &mut Vec<u8>,
) -> Result<Recorded, Failure> {
    let failed = |error: String| Failure::new(Exit::Failed, error);
    let ram = RamLayout::new(RAM_BYTES).expect("a constant that fits");
    let config = MachineConfig::new(ram);
    let boot = Boot { image: dejavm_images::DEMO, initrd: None, cmdline: "" };
    let mut machine = Machine::boot(&config, &boot).map_err(|error| failed(error.to_string()))?;
    machine.set_tuning(arguments.tuning.tuning());
    let options = RecordOptions {
        header: Header {
            creator: CREATOR.into(),
            semantics: SEMANTICS,
            config,
            guest: vec![("kernel".into(), "demo, built in".into())],
            digest_interval: DIGEST_INTERVAL,
        },
        externals: Vec::new(),
        embed_pages: true,
        until: None,
        checkpoints: CheckpointPolicy::NONE,
        parent: None,
    };
    let stop = stop_on_signals().map_err(|error| failed(error.to_string()))?;
    let mut meter = Meter::new(false, true);
    let nothing = crossbeam_channel::never();
    let mut world = HostWorld::new(nothing, stop, IdlePolicy::Skip, console, &mut meter);
    Ok(record(&mut machine, &mut world, file, &options)?)
}

fn replay_guest(arguments: &Demo, file: Vec<u8>) -> Result<Replayed, Failure> {
    /// Sees nothing: the hash of the console is enough.
    struct Blind;
    impl Observer for Blind {}
    let mut replayer = Replayer::open(Cursor::new(file))?;
    let mut machine = replayer.rebuild()?;
    machine.set_tuning(arguments.tuning.tuning());
    Ok(replayer.run(&mut machine, &ReplayOptions::default(), &mut Blind)?)
}

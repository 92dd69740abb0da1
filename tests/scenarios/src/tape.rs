//! Recordings in memory, and their replays.

use crate::desk::Desk;
use dejavm_cpu::{Engine, Tuning};
use dejavm_machine::{Machine, MachineConfig, MachineState, Output};
use dejavm_replay::{
    CheckpointPolicy, Hash128, Header, Moment, Observer, RecordOptions, Recorded, ReplayError,
    ReplayOptions, Replayed, Replayer, SEMANTICS, record,
};
use dejavm_units::Position;
use std::io::Cursor;

/// A recording, and what the machine was at its end.
#[derive(Debug)]
pub struct Tape {
    /// The file.
    pub file: Vec<u8>,
    /// How it ended.
    pub recorded: Recorded,
    /// The state at the end.
    pub state: MachineState,
    /// Hash of all of RAM at the end.
    pub ram: Hash128,
}

/// Records a machine that has not run yet.
pub fn tape(
    machine: Machine,
    config: MachineConfig,
    desk: &mut Desk,
    digest_interval: u64,
    until: Option<Position>,
) -> Tape {
    tape_with(machine, config, desk, digest_interval, until, CheckpointPolicy::NONE)
}

/// As [`tape`], of a machine that stays the caller's.
pub fn tape_of(
    machine: &mut Machine,
    config: MachineConfig,
    desk: &mut Desk,
    digest_interval: u64,
    until: Option<Position>,
) -> Tape {
    tape_all(machine, config, desk, digest_interval, until, CheckpointPolicy::NONE)
}

/// As [`tape`], with checkpoints.
pub fn tape_with(
    mut machine: Machine,
    config: MachineConfig,
    desk: &mut Desk,
    digest_interval: u64,
    until: Option<Position>,
    checkpoints: CheckpointPolicy,
) -> Tape {
    tape_all(&mut machine, config, desk, digest_interval, until, checkpoints)
}

fn tape_all(
    machine: &mut Machine,
    config: MachineConfig,
    desk: &mut Desk,
    digest_interval: u64,
    until: Option<Position>,
    checkpoints: CheckpointPolicy,
) -> Tape {
    let mut header = Header {
        creator: "dejavm-scenarios".to_owned(),
        semantics: SEMANTICS,
        config,
        guest: Vec::new(),
        digest_interval,
    };
    header.set_positions_are_exits(machine.counts_exits());
    let options = RecordOptions {
        header,
        externals: Vec::new(),
        embed_pages: true,
        until,
        checkpoints,
        parent: None,
    };
    let mut file = Vec::new();
    let recorded = record(&mut *machine, desk, &mut file, &options).expect("memory takes all");
    Tape { file, recorded, state: machine.save(), ram: ram_hash(machine) }
}

/// A replay, and what the machine was at its end.
#[derive(Debug)]
pub struct Replay {
    /// What the replayer says.
    pub replayed: Replayed,
    /// All output, serial lines and debug console together.
    pub console: Vec<u8>,
    /// The state at the end.
    pub state: MachineState,
    /// Hash of all of RAM at the end.
    pub ram: Hash128,
}

struct Console(Vec<u8>);

impl Observer for Console {
    fn output(&mut self, output: &[Output]) {
        for piece in output {
            match piece {
                Output::Serial { port: _, bytes } | Output::DebugConsole { bytes } => {
                    self.0.extend_from_slice(bytes);
                }
                Output::Frame { .. } => {}
            }
        }
    }
    fn progress(&mut self, _at: Moment) -> bool {
        true
    }
}

/// The machine of a recording, in its start state.
pub fn rebuild<R: std::io::Read + std::io::Seek>(
    replayer: &mut Replayer<R>,
) -> Result<Machine, ReplayError> {
    let state: MachineState = replayer.start_state()?;
    let mut machine = Machine::from_state(&replayer.header().config, &state)
        .map_err(|error| ReplayError::Machine(error.to_string()))?;
    replayer.load_pages(&mut machine)?;
    Ok(machine)
}

/// Replays a recording on a machine built from the file alone.
pub fn replay(file: &[u8], tuning: Tuning, options: &ReplayOptions) -> Result<Replay, ReplayError> {
    let mut replayer = Replayer::open(Cursor::new(file))?;
    let mut machine = rebuild(&mut replayer)?;
    machine.set_tuning(tuning);
    let mut console = Console(Vec::new());
    let replayed = replayer.run(&mut machine, options, &mut console)?;
    let Console(console) = console;
    Ok(Replay { replayed, console, state: machine.save(), ram: ram_hash(&machine) })
}

/// Hash of all of a machine's RAM.
pub fn ram_hash(machine: &Machine) -> Hash128 {
    let ram = machine.ram();
    let mut page = [0; 4096];
    let mut hashes = Vec::new();
    for pfn in ram.pages() {
        ram.read(pfn.gpa(), &mut page).expect("its own pages are RAM");
        hashes.extend_from_slice(&Hash128::of(&page).0);
    }
    Hash128::of(&hashes)
}

/// What executes, in all ways that must do the same: the translator as it is by default, from a block's
/// first entry on, taking turns with the interpreter at random moments, and the interpreter alone.
pub fn engines() -> [Tuning; 4] {
    let default = Tuning::default();
    [
        default,
        Tuning { translate_after: 0, ..default },
        Tuning { translate_after: 1, mix_seed: Some(0x5eed), ..default },
        Tuning { engine: Engine::Interpreter, ..default },
    ]
}

impl Tape {
    /// As [`Tape::assert_replays`], with each of [`engines`].
    pub fn assert_replays_by_all_engines(&self, desk: &Desk) -> Replay {
        let [default, others @ ..] = engines();
        for tuning in others {
            self.assert_replays(desk, tuning);
        }
        self.assert_replays(desk, default)
    }

    /// Replays with all digests verified, and demands that everything at the end is as recorded.
    ///
    /// # Panics
    /// If it is not: this is what the tests are for.
    pub fn assert_replays(&self, desk: &Desk, tuning: Tuning) -> Replay {
        let replay = replay(&self.file, tuning, &ReplayOptions::default())
            .unwrap_or_else(|error| panic!("{tuning:?}: {error}"));
        let Replayed { at, ending, digests, last_digest, console, console_bytes, .. } =
            &replay.replayed;
        assert_eq!(*ending, Some(self.recorded.ending), "{tuning:?}");
        assert_eq!(*at, self.recorded.at, "{tuning:?}");
        assert_eq!(last_digest.as_ref(), Some(&self.recorded.digest), "{tuning:?}");
        assert!(*digests >= 1, "{tuning:?}");
        assert_eq!(
            (*console, *console_bytes),
            (self.recorded.console, self.recorded.console_bytes)
        );
        assert!(replay.console == desk.output_bytes(), "{tuning:?}: the console differs");
        assert!(replay.state == self.state, "{tuning:?}: the final state differs");
        assert_eq!(replay.ram, self.ram, "{tuning:?}: hash of RAM");
        replay
    }
}

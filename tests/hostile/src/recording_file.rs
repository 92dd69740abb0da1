//! Arbitrary bytes as a recording, replayed on the real machine.

use dejavm_machine::{Boot, Breakpoint, Input, Machine, MachineConfig, Output, Register, Stops};
use dejavm_memory::RamLayout;
use dejavm_replay::{
    CheckpointInterval, CheckpointPolicy, Direction, Header, IdleAnswer, Moment, Observer, Polled,
    Progress, RecordOptions, ReplayOptions, Replayer, SEMANTICS, Summary, Timeline,
    TimelineOptions, World, record,
};
use dejavm_units::{Gpa, GuestNs, Gva, Position};
use std::io::Cursor;

/// Positions after which a hostile recording is not followed.
const POSITIONS_MAX: u64 = 50_000;
/// Slices of execution and idle stretches that it may take: a hostile timer fires every nanosecond.
const SLICES_MAX: u32 = 10_000;
/// RAM of a machine that is worth building here.
const RAM_MAX: u64 = 64 << 20;

/// Reads and replays `bytes`; whether they were a recording that replays equal, as far as it is
/// followed.
pub fn recording_file(bytes: &[u8]) -> bool {
    let _ = Summary::read(Cursor::new(bytes));
    let Ok(mut replayer) = Replayer::open(Cursor::new(bytes)) else { return false };
    if replayer.header().config.ram.low_bytes() > RAM_MAX
        || replayer.header().config.ram.high_bytes() > 0
    {
        return false;
    }
    let Ok(mut machine) = replayer.rebuild() else { return false };
    let options = ReplayOptions { until: Some(Position(POSITIONS_MAX)), unverified: false };
    replayer.run(&mut machine, &options, &mut Patience(SLICES_MAX)).is_ok()
}

/// Stands in `bytes` here and there; whether that went as it should.
pub fn timeline(bytes: &[u8]) -> bool {
    let Ok(mut replayer) = Replayer::open(Cursor::new(bytes)) else { return false };
    if replayer.header().config.ram.low_bytes() > RAM_MAX
        || replayer.header().config.ram.high_bytes() > 0
    {
        return false;
    }
    let Ok(machine) = replayer.rebuild() else { return false };
    let options = TimelineOptions { memory_bytes: 16 << 20, spacing: 2000 };
    let Ok(mut timeline) = Timeline::new(replayer, machine, options) else { return false };
    let mut patience = 300;
    let mut watcher = move |_: Moment| {
        patience -= 1;
        patience > 0
    };
    let end = timeline.end().0.min(POSITIONS_MAX);
    let mut sound = true;
    for position in [end, end / 2, end.saturating_sub(3), 0, end / 3] {
        sound &= timeline.seek_watched(Position(position), &mut watcher).is_ok();
    }
    let at = Gva(timeline.machine().cpu_state().rip);
    let stops = Stops { breakpoints: vec![Breakpoint { at, space: None }], ..Stops::default() };
    for direction in [Direction::Forward, Direction::Backward] {
        let until = match direction {
            Direction::Forward => Some(Position(end)),
            Direction::Backward => None,
        };
        let run = timeline.run(direction, until, &stops, &mut |_, _| true, &mut watcher);
        sound &= run.is_ok();
    }
    sound
}

struct Patience(u32);

impl Observer for Patience {
    fn progress(&mut self, _at: Moment) -> bool {
        self.0 -= 1;
        self.0 > 0
    }
}

/// An intact recording to start mutations from: a small guest of our own, with typed input and a
/// debugger's writes.
pub fn seed_recording(guest: &[u8]) -> Vec<u8> {
    struct Typist(u32);
    impl World for Typist {
        fn poll(&mut self) -> Polled {
            self.0 += 1;
            let bytes = b"hello q".get(self.0 as usize..).and_then(|rest| rest.first());
            let mut inputs: Vec<Input> = bytes
                .map(|&byte| Input::Serial { port: 0, bytes: vec![byte] })
                .into_iter()
                .collect();
            // A debugger's writes, harmless until they are mutated.
            if self.0 < 4 {
                let values = vec![(Register::Xmm(9), 7), (Register::Rflags, 2)];
                inputs.push(Input::WriteRegisters { values });
                inputs.push(Input::WriteMemory { at: Gpa(0x1f_fffe), bytes: vec![9; 4] });
            }
            Polled { inputs, flush: true, stop: self.0 > 100 }
        }
        fn idle(&mut self, now: GuestNs, wake: Option<GuestNs>) -> IdleAnswer {
            IdleAnswer::Until(wake.unwrap_or(GuestNs(now.0 + 1000)))
        }
        fn output(&mut self, _output: &[Output]) {}
        fn progress(&mut self, _progress: Progress) {}
    }
    let config = MachineConfig::new(RamLayout::new(2 << 20).expect("a constant that fits"));
    let boot = Boot { image: guest, initrd: None, cmdline: "x" };
    let mut machine = Machine::boot(&config, &boot).expect("our own guests boot");
    let header = Header {
        creator: "hostile".into(),
        semantics: SEMANTICS,
        config,
        guest: Vec::new(),
        digest_interval: 1000,
    };
    let until = Some(Position(POSITIONS_MAX));
    let options = RecordOptions {
        header,
        externals: Vec::new(),
        embed_pages: true,
        until,
        checkpoints: CheckpointPolicy {
            interval: CheckpointInterval::Every(150),
            file_bytes: Some(16 << 20),
        },
        parent: None,
    };
    let mut file = Vec::new();
    record(&mut machine, &mut Typist(0), &mut file, &options).expect("memory takes all");
    file
}

/// Makes the checksums of the chunk at `at` right again, so that what was changed in it is read.
/// Layout: `docs/formats/recording.md`.
pub fn repair(file: &mut [u8], at: usize) {
    const FRAME: usize = 24;
    let Some(frame) = file.get(at..at + FRAME) else { return };
    let stored = u32::from_le_bytes([frame[8], frame[9], frame[10], frame[11]]) as usize;
    if let Some(payload) = file.get(at + FRAME..at + FRAME + stored) {
        let crc = crc32c::crc32c(payload);
        file[at + 16..at + 20].copy_from_slice(&crc.to_le_bytes());
    }
    let crc = crc32c::crc32c(&file[at..at + 20]);
    file[at + 20..at + 24].copy_from_slice(&crc.to_le_bytes());
}

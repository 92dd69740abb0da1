//! A machine that runs live and is recorded: alone, and under a debugger.

use crate::debugger::{Left, Listener, serve};
use crate::progress::size;
use crate::record::{ending_text, name};
use crate::snapshot;
use crate::world::HostWorld;
use dejavm_cpu::{CpuState, Stops};
use dejavm_machine::{Input, Machine, Stop, register_writes};
use dejavm_replay::{
    Advance, Ending, External, Header, RecordError, Recorded, Recorder, World, is_mark_name,
};
use dejavm_stub::{
    Capabilities, Direction, Inspect, Interrupted, Judge, Lasting, Layout, Mark, Options, Refusal,
    Resume, Stopped, Target, Vcpu,
};
use dejavm_units::{Gpa, Gva, PAGE_SIZE, Position};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where debuggers come from, and what they find.
pub struct Debugging {
    /// The socket.
    pub listener: Listener,
    /// The machine does nothing until a debugger has come and lets it go on.
    pub wait: bool,
}

/// A machine and its recording.
pub struct Live<W> {
    recorder: Recorder<Machine, File>,
    world: W,
    /// The recording.
    path: PathBuf,
    header: Header,
    /// The images of the machine's drives.
    images: Vec<External>,
    /// Set by whoever wants a checkpoint.
    snapshot: Arc<AtomicBool>,
    bits_64: bool,
    marks: Vec<Mark>,
    /// What debuggers leave to those that come after.
    lasting: Lasting,
    ended: Option<Ending>,
    failed: Option<RecordError>,
}

impl Live<HostWorld<'_>> {
    /// Runs the machine until it ends or `stop` is set; a debugger that comes stops it in between.
    pub fn run(
        mut self,
        debugging: Option<&Debugging>,
        stop: &AtomicBool,
    ) -> Result<Recorded, RecordError> {
        if let Some(debugging) = debugging {
            if debugging.wait {
                eprintln!("dejavm: the guest starts when a debugger lets it");
            }
            let start = self.recorder.now();
            // One whose connection breaks has let nothing go on.
            while debugging.wait && self.recorder.now() == start {
                if !matches!(self.serve_next(debugging, stop), Some(Left::Lost)) {
                    break;
                }
            }
        }
        loop {
            if self.failed.is_some() || self.ended.is_some() {
                return self.finish();
            }
            match self.recorder.advance(&mut self.world, None)? {
                // No stops are set.
                Advance::Running | Advance::Limit | Advance::Stopped(_) => {}
                Advance::Ended(ending) => self.ended = Some(ending),
            }
            self.snapshot_if_wanted();
            if let Some(debugging) = debugging
                && self.ended.is_none()
                && debugging.listener.has_client()
            {
                self.serve_next(debugging, stop);
            }
        }
    }

    /// Serves the next debugger until it leaves; `None`: `stop` was set before one came.
    fn serve_next(&mut self, debugging: &Debugging, stop: &AtomicBool) -> Option<Left> {
        let connection = debugging.listener.wait(stop);
        let Some(connection) = connection else {
            self.ended = Some(Ending::Stopped);
            return None;
        };
        let layout = if self.bits_64 { Layout::Bits64 } else { Layout::Bits32 };
        self.world.set_attended(true);
        let options = Options { layout: Some(layout), lasting: self.lasting.clone() };
        let left = serve(self, connection, options, stop);
        self.world.set_attended(false);
        match left {
            Left::Stopped => {
                self.ended.get_or_insert(Ending::Stopped);
            }
            Left::Detached | Left::Lost => {
                eprintln!("dejavm: the debugger has left; the guest goes on");
            }
            // A recording is worth more than a slip of the debugger's.
            Left::Killed => eprintln!(
                "dejavm: the debugger has left; `kill` ends no recording, so the guest goes on"
            ),
        }
        Some(left)
    }
}

impl<W: World> Live<W> {
    /// A machine whose recording has begun in the file at `path`, with that header. `bits_64`: gdb sees registers of 64 bits.
    pub fn new(
        recorder: Recorder<Machine, File>,
        world: W,
        path: PathBuf,
        header: Header,
        bits_64: bool,
    ) -> Live<W> {
        let (marks, lasting, ended, failed) = (Vec::new(), Lasting::default(), None, None);
        let (snapshot, images) = (Arc::default(), Vec::new());
        Live {
            recorder,
            world,
            path,
            header,
            images,
            snapshot,
            bits_64,
            marks,
            lasting,
            ended,
            failed,
        }
    }

    /// Checkpoints name the images of the machine's drives.
    pub fn with_images(mut self, images: Vec<External>) -> Live<W> {
        self.images = images;
        self
    }

    /// A checkpoint is written whenever `wanted` is set, which is cleared.
    pub fn snapshots_on(mut self, wanted: Arc<AtomicBool>) -> Live<W> {
        self.snapshot = wanted;
        self
    }

    fn snapshot_if_wanted(&mut self) {
        if self.snapshot.swap(false, Ordering::Relaxed) {
            // A checkpoint that cannot be written ends no recording.
            match self.snapshot(None) {
                Ok(said) => eprintln!("\ndejavm: {said}"),
                Err(refusal) => eprintln!("\ndejavm: {refusal}"),
            }
        }
    }

    /// Ends the recording here, if it has not failed already.
    pub fn finish(mut self) -> Result<Recorded, RecordError> {
        match self.failed {
            Some(error) => Err(error),
            None => {
                let ending = self.ended.unwrap_or(Ending::Stopped);
                self.recorder.finish(&mut self.world, ending)
            }
        }
    }

    /// The machine, to be looked at.
    pub fn machine(&self) -> &Machine {
        self.recorder.guest()
    }

    /// Runs with these stops set.
    fn go(
        &mut self,
        stops: &Stops,
        judge: &mut Judge<'_>,
        interrupted: &mut Interrupted<'_>,
        advance: impl FnMut(&mut Recorder<Machine, File>, &mut W) -> Result<Advance, RecordError>,
    ) -> Result<Stopped, Refusal> {
        if let Some(ending) = self.ended {
            return Ok(Stopped::End(over(ending)));
        }
        // While the debugger held the machine, no time passed for it.
        self.world.resumed();
        self.recorder.guest_mut().set_stops(stops);
        let stopped = self.go_on(judge, interrupted, advance);
        self.recorder.guest_mut().set_stops(&Stops::default());
        stopped
    }

    fn go_on(
        &mut self,
        judge: &mut Judge<'_>,
        interrupted: &mut Interrupted<'_>,
        mut advance: impl FnMut(&mut Recorder<Machine, File>, &mut W) -> Result<Advance, RecordError>,
    ) -> Result<Stopped, Refusal> {
        loop {
            let advance = match advance(&mut self.recorder, &mut self.world) {
                Ok(advance) => advance,
                Err(error) => {
                    let refusal = Refusal::Failed(error.to_string());
                    self.failed = Some(error);
                    return Err(refusal);
                }
            };
            let stopped = match advance {
                Advance::Running => None,
                Advance::Limit => return Ok(Stopped::Until),
                Advance::Ended(ending) => {
                    self.ended = Some(ending);
                    return Ok(Stopped::End(over(ending)));
                }
                Advance::Stopped(Stop::Breakpoint { at }) => Some(Stopped::Breakpoint { at }),
                Advance::Stopped(Stop::Watchpoint { index, address, kind }) => {
                    Some(Stopped::Watchpoint { index, address, kind })
                }
                Advance::Stopped(Stop::Limit | Stop::Idle { .. } | Stop::End(_)) => None,
            };
            if let Some(stopped) = stopped
                && judge(self.machine(), &stopped)
            {
                return Ok(stopped);
            }
            self.snapshot_if_wanted();
            if interrupted() {
                return Ok(Stopped::Interrupted);
            }
        }
    }

    /// Lets a debugger's write enter the machine.
    fn enter(&mut self, input: Input) -> Result<(), Refusal> {
        if let Some(ending) = self.ended {
            return Err(Refusal::Unsupported(over(ending)));
        }
        self.recorder.enter(input).map_err(|error| {
            let refusal = Refusal::Failed(error.to_string());
            self.failed = Some(error);
            refusal
        })
    }

    /// Writes bytes that lie in one page, if that is RAM.
    fn write_piece(&mut self, at: Gpa, bytes: &[u8]) -> Result<bool, Refusal> {
        if self.machine().ram().host_page(at.pfn()).is_none() {
            return Ok(false);
        }
        self.enter(Input::WriteMemory { at, bytes: bytes.to_vec() })?;
        Ok(true)
    }

    /// Writes page by page where `find` says; how many bytes before the first that is nowhere.
    fn write_pieces(
        &mut self,
        start: u64,
        bytes: &[u8],
        find: impl Fn(&Machine, u64) -> Option<Gpa>,
    ) -> Result<usize, Refusal> {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let Some(at) = start.checked_add(done as u64) else { break };
            let room = (PAGE_SIZE - at % PAGE_SIZE) as usize;
            let piece = rest.get(..room).unwrap_or(rest);
            let Some(gpa) = find(self.machine(), at) else { break };
            if !self.write_piece(gpa, piece)? {
                break;
            }
            done += piece.len();
        }
        Ok(done)
    }
}

/// Said of a machine that has ended, to whoever looks at it still.
fn over(ending: Ending) -> String {
    format!("{}: it is over, and its recording is complete when you leave", ending_text(ending))
}

impl<W: World> Target for Live<W> {
    fn inspect(&self) -> &dyn Inspect {
        self.machine()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { replay: false, reverse: false, writable: self.ended.is_none() }
    }

    fn is_64_bit(&self) -> bool {
        self.bits_64
    }

    fn extent(&self) -> (Position, Position) {
        (Position(0), self.recorder.now().position)
    }

    fn resume(
        &mut self,
        resume: &Resume<'_>,
        judge: &mut Judge<'_>,
        interrupted: &mut Interrupted<'_>,
    ) -> Result<Stopped, Refusal> {
        if resume.direction == Direction::Backward {
            return Refusal::unsupported(
                "a live machine runs forwards only: replay its recording to go back",
            );
        }
        self.go(resume.stops, judge, interrupted, |recorder, world| {
            recorder.advance(world, resume.until)
        })
    }

    fn step(
        &mut self,
        stops: &Stops,
        interrupted: &mut Interrupted<'_>,
    ) -> Result<Stopped, Refusal> {
        self.go(stops, &mut |_, _| true, interrupted, Recorder::step)
    }

    fn set_registers(&mut self, Vcpu(vcpu): Vcpu, state: &CpuState) -> Result<(), Refusal> {
        let values = register_writes(&self.machine().processor_state(vcpu as usize), state)
            .map_err(|refused| Refusal::Unsupported(refused.to_string()))?;
        if values.is_empty() {
            return Ok(());
        }
        self.enter(match u8::try_from(vcpu).unwrap_or(u8::MAX) {
            0 => Input::WriteRegisters { values },
            processor => Input::WriteRegistersOf { processor, values },
        })
    }

    fn write_virtual(
        &mut self,
        Vcpu(vcpu): Vcpu,
        at: Gva,
        space: Option<Gpa>,
        bytes: &[u8],
    ) -> Result<usize, Refusal> {
        self.write_pieces(at.0, bytes, |machine, at| {
            machine.translate_by(vcpu as usize, Gva(at), space)
        })
    }

    fn write_physical(&mut self, at: Gpa, bytes: &[u8]) -> Result<usize, Refusal> {
        self.write_pieces(at.0, bytes, |_, at| Some(Gpa(at)))
    }

    fn marks(&self) -> Vec<Mark> {
        self.marks.clone()
    }

    fn set_mark(&mut self, name: &str) -> Result<(), Refusal> {
        if !is_mark_name(name) {
            return Err(Refusal::Unsupported(format!("{name:?} cannot name a position")));
        }
        let at = self.recorder.now().position;
        self.recorder.mark(name).map_err(|error| {
            let refusal = Refusal::Failed(error.to_string());
            self.failed = Some(error);
            refusal
        })?;
        self.marks.retain(|mark| mark.name != name);
        self.marks.push(Mark { name: name.to_owned(), at });
        Ok(())
    }

    fn snapshot(&mut self, name: Option<&str>) -> Result<String, Refusal> {
        let said = snapshot::beside(&self.path, &self.header, &self.images, self.machine(), name);
        // While it was written, no time passed for the machine.
        self.world.resumed();
        said.map_err(Refusal::Failed)
    }

    fn info(&self) -> String {
        let progress = self.recorder.progress();
        format!(
            "a live machine, recorded into {}: {}, of which log {}\n",
            name(&self.path),
            size(progress.file_bytes),
            size(progress.log_bytes),
        )
    }

    fn quiet(&mut self) {
        self.world.look(self.recorder.guest());
        self.snapshot_if_wanted();
        if self.failed.is_none() {
            self.failed = self.recorder.flush().err();
        }
    }
}

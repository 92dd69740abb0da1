//! A replay that a debugger can leave for a live machine, and come back to.

use crate::console::Console;
use crate::disks::{Images, hand_on, images, standing_in};
use crate::exit::Failure;
use crate::live::Live;
use crate::packing_thread;
use crate::record::{CREATOR, name};
use crate::snapshot;
use crate::view::View;
use dejavm_cpu::CpuState;
use dejavm_machine::Output;
use dejavm_replay::{
    CheckpointPolicy, Header, IdleAnswer, PackedImages, Polled, Progress, RecordOptions, Recorder,
    SEMANTICS, World,
};
use dejavm_stub::{
    Capabilities, Happening, Inspect, Interrupted, Judge, Mark, Refusal, Replaying, Resume,
    Stopped, Target, Vcpu,
};
use dejavm_units::{Gpa, GuestNs, Gva, Position};
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Recordings of branches that one recording has beside it at most, by name.
const BRANCHES_MAX: u32 = 10_000;
/// The longest wait of a guest that waits for an input: nobody types here.
const WAIT: Duration = Duration::from_millis(20);
const FLUSH_PERIOD: Duration = Duration::from_secs(1);

/// Where a branch's machine lives: nobody types, and what it sleeps is skipped.
struct Solitude {
    stop: Arc<AtomicBool>,
    flushed: Instant,
    console: Console,
}

impl World for Solitude {
    fn poll(&mut self) -> Polled {
        let flush = self.flushed.elapsed() >= FLUSH_PERIOD;
        if flush {
            self.flushed = Instant::now();
        }
        Polled { inputs: Vec::new(), flush, stop: self.stop.load(Ordering::Relaxed) }
    }

    fn idle(&mut self, _now: GuestNs, wake: Option<GuestNs>) -> IdleAnswer {
        match wake {
            Some(wake) => IdleAnswer::Until(wake),
            None => {
                thread::park_timeout(WAIT);
                IdleAnswer::PollAgain
            }
        }
    }

    fn output(&mut self, output: &[Output]) {
        self.console.write(output);
    }

    fn progress(&mut self, _progress: Progress) {}
}

/// A replay, or the live machine that was made of it.
pub struct Branching {
    replaying: Replaying<File>,
    live: Option<Live<Solitude>>,
    /// The recording.
    path: PathBuf,
    /// Images elsewhere.
    images: Images,
    /// The live machine's recording, and what its disks have nowhere else.
    held: Option<(PathBuf, PackedImages)>,
    stop: Arc<AtomicBool>,
    view: Option<View>,
}

impl Branching {
    /// A replay of the recording at `path`. `stop` ends a live machine's run.
    pub fn new(replaying: Replaying<File>, path: &Path, stop: Arc<AtomicBool>) -> Branching {
        let (path, images) = (path.to_owned(), Images::default());
        Branching { replaying, live: None, path, images, held: None, stop, view: None }
    }

    /// Whose disk images are elsewhere.
    #[must_use]
    pub fn with_images(mut self, images: &Images) -> Branching {
        self.images = images.clone();
        self
    }

    /// With viewers, who see where it stands.
    #[must_use]
    pub fn with_view(mut self, view: Option<View>) -> Branching {
        self.view = view;
        self
    }

    /// The machine may stand elsewhere than before, or be another.
    fn show(&mut self) {
        if let Some(view) = &mut self.view {
            let machine = match &self.live {
                Some(live) => live.machine(),
                None => self.replaying.timeline().machine(),
            };
            view.show_at(machine);
        }
    }

    /// The replay; the live machine is elsewhere.
    pub fn replaying(&self) -> &Replaying<File> {
        &self.replaying
    }

    /// Ends the live machine and its recording, if there is one.
    pub fn leave(&mut self) -> Result<(), Refusal> {
        let held = self.held.take();
        match self.live.take().map(Live::finish) {
            None => Ok(()),
            Some(Ok(_)) => held.map_or(Ok(()), |(path, held)| {
                let file = OpenOptions::new().read(true).write(true).open(&path);
                let file = file.map_err(|error| format!("{}: {error}", name(&path)));
                file.and_then(|file| hand_on(held, &file).map_err(|failure| failure.sentence))
                    .map_err(Refusal::Failed)
            }),
            Some(Err(error)) => Err(Refusal::Failed(error.to_string())),
        }
    }

    fn target(&self) -> &dyn Target {
        match &self.live {
            Some(live) => live,
            None => &self.replaying,
        }
    }

    fn target_mut(&mut self) -> &mut dyn Target {
        match &mut self.live {
            Some(live) => live,
            None => &mut self.replaying,
        }
    }

    /// A file beside the recording: `bug-branch-1.dvr` beside `bug.dvr`.
    fn create(&self) -> Result<(PathBuf, File), Refusal> {
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        for number in 1..=BRANCHES_MAX {
            let path = self.path.with_file_name(format!("{stem}-branch-{number}.dvr"));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok((path, file)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    let sentence =
                        format!("{}: the branch cannot be recorded: {error}", path.display());
                    return Err(Refusal::Failed(sentence));
                }
            }
        }
        Refusal::unsupported("there are too many recordings of branches beside the recording")
    }
}

impl Target for Branching {
    fn inspect(&self) -> &dyn Inspect {
        self.target().inspect()
    }
    fn capabilities(&self) -> Capabilities {
        self.target().capabilities()
    }
    fn is_64_bit(&self) -> bool {
        self.replaying.is_64_bit()
    }
    fn extent(&self) -> (Position, Position) {
        self.target().extent()
    }
    fn resume(
        &mut self,
        resume: &Resume<'_>,
        judge: &mut Judge<'_>,
        interrupted: &mut Interrupted<'_>,
    ) -> Result<Stopped, Refusal> {
        let stopped = self.target_mut().resume(resume, judge, interrupted);
        self.show();
        stopped
    }
    fn set_registers(&mut self, vcpu: Vcpu, state: &CpuState) -> Result<(), Refusal> {
        self.target_mut().set_registers(vcpu, state)
    }
    fn write_virtual(
        &mut self,
        vcpu: Vcpu,
        at: Gva,
        space: Option<Gpa>,
        bytes: &[u8],
    ) -> Result<usize, Refusal> {
        self.target_mut().write_virtual(vcpu, at, space, bytes)
    }
    fn write_physical(&mut self, at: Gpa, bytes: &[u8]) -> Result<usize, Refusal> {
        self.target_mut().write_physical(at, bytes)
    }
    fn seek(
        &mut self,
        to: Position,
        interrupted: &mut Interrupted<'_>,
    ) -> Result<Position, Refusal> {
        let (start, end) = self.replaying.extent();
        if to >= start && to <= end {
            self.leave()?;
        }
        let reached = self.replaying.seek(to, interrupted);
        self.show();
        reached
    }
    fn marks(&self) -> Vec<Mark> {
        self.target().marks()
    }
    fn set_mark(&mut self, name: &str) -> Result<(), Refusal> {
        self.target_mut().set_mark(name)
    }
    fn checkpoint(&mut self) -> Result<String, Refusal> {
        self.target_mut().checkpoint()
    }
    fn branch(&mut self) -> Result<String, Refusal> {
        if self.live.is_some() {
            return Refusal::unsupported("this machine is live already");
        }
        let failed = |error: dejavm_replay::ReplayError| Refusal::Failed(error.to_string());
        let timeline = self.replaying.timeline_mut();
        let machine = timeline.branch().map_err(failed)?;
        let parent = timeline.as_parent(&name(&self.path)).map_err(failed)?;
        let at = parent.at.position;
        let refused = |failure: Failure| Refusal::Failed(failure.sentence);
        let recording = File::open(&self.path)
            .map_err(|error| Refusal::Failed(format!("{}: {error}", name(&self.path))))?;
        let (header, externals) = (timeline.header(), timeline.externals());
        let held = standing_in(&recording, header, externals, &self.images).map_err(refused)?;
        let header =
            Header { creator: CREATOR.into(), semantics: SEMANTICS, ..timeline.header().clone() };
        let options = RecordOptions {
            header,
            externals: images(timeline.externals()),
            embed_pages: true,
            until: None,
            checkpoints: CheckpointPolicy::default(),
            parent: Some(parent),
        };
        let (path, file) = self.create()?;
        let shown = name(&path);
        let mut recorder = Recorder::new(machine, file, &options)
            .map_err(|error| Refusal::Failed(format!("{shown}: {error}")))?;
        let packer = packing_thread::for_host()
            .map_err(|error| Refusal::Failed(format!("a thread cannot be started: {error}")))?;
        if let Some(packer) = packer {
            recorder = recorder.packed_by(Box::new(packer));
        }
        // Standard output is for the result.
        let console = Console::new(None, true).map_err(|error| Refusal::Failed(error.sentence))?;
        let world = Solitude { stop: Arc::clone(&self.stop), flushed: Instant::now(), console };
        let text = format!(
            "a live machine from position {at} on, recorded into {shown}: registers and memory can be \
             written\n`monitor goto POSITION` ends it and returns to the recording, which stays as it is\n"
        );
        let bits_64 = self.is_64_bit();
        self.held = held.map(|held| (path.clone(), held));
        let live = Live::new(recorder, world, path, options.header, bits_64);
        self.live = Some(live.with_images(options.externals));
        Ok(text)
    }
    fn snapshot(&mut self, name: Option<&str>) -> Result<String, Refusal> {
        if let Some(live) = &mut self.live {
            return live.snapshot(name);
        }
        let timeline = self.replaying.timeline();
        let images = images(timeline.externals());
        snapshot::beside(&self.path, timeline.header(), &images, timeline.machine(), name)
            .map_err(Refusal::Failed)
    }
    fn pace(&self) -> Option<u32> {
        self.target().pace()
    }
    fn set_pace(&mut self, pace: u32) -> Result<(), Refusal> {
        self.target_mut().set_pace(pace)
    }
    fn events(&mut self, from: Position, limit: usize) -> Result<Vec<Happening>, Refusal> {
        self.target_mut().events(from, limit)
    }
    fn info(&self) -> String {
        self.target().info()
    }
    fn quiet(&mut self) {
        self.target_mut().quiet();
        self.show();
    }
}

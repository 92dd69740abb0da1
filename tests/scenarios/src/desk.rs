//! Somebody at the guest's terminal, who follows a script and whose watch shows guest time.

use dejavm_machine::{Input, Output};
use dejavm_replay::{IdleAnswer, Moment, Polled, Progress, World};
use dejavm_units::GuestNs;
use std::collections::VecDeque;

/// One act of the script: wait for a text, then for a while, then type.
#[derive(Clone, Debug)]
pub struct Typing {
    /// Console output that must have come since the act before; empty: none.
    pub after: String,
    /// How long to wait then, in guest nanoseconds.
    pub delay_ns: u64,
    /// What to type.
    pub bytes: Vec<u8>,
    /// What to do on keyboard and mouse.
    pub inputs: Vec<Input>,
}

impl Typing {
    /// An act.
    pub fn new(after: &str, delay_ns: u64, bytes: &str) -> Typing {
        Typing {
            after: after.to_owned(),
            delay_ns,
            bytes: bytes.as_bytes().to_vec(),
            inputs: Vec::new(),
        }
    }

    /// An act on keyboard and mouse.
    pub fn doing(after: &str, delay_ns: u64, inputs: &[Input]) -> Typing {
        Typing { inputs: inputs.to_vec(), ..Typing::new(after, delay_ns, "") }
    }
}

/// The world of a recording. See the module's documentation.
#[derive(Debug)]
pub struct Desk {
    script: VecDeque<Typing>,
    /// When the first act of `script` is due, once its text has come.
    due: Option<GuestNs>,
    /// All output in its order; the serial lines' alone; the debug console's alone.
    all: Vec<u8>,
    serial: Vec<u8>,
    debug: Vec<u8>,
    /// How much of `serial` earlier acts have consumed.
    read: usize,
    now: Moment,
    flush_period_ns: u64,
    next_flush: GuestNs,
    /// Idle time passes in steps of at most this; 0: in one.
    nap_ns: u64,
    stop_at: GuestNs,
    stuck: bool,
    naps: u64,
    flushes: u64,
}

impl Desk {
    /// Nobody types; everything is written down once a guest second.
    pub fn new() -> Desk {
        Desk::with_script([])
    }

    /// Somebody types.
    pub fn with_script(script: impl IntoIterator<Item = Typing>) -> Desk {
        let mut desk = Desk {
            script: script.into_iter().collect(),
            due: None,
            all: Vec::new(),
            serial: Vec::new(),
            debug: Vec::new(),
            read: 0,
            now: Moment::default(),
            flush_period_ns: crate::SECOND_NS,
            next_flush: GuestNs(crate::SECOND_NS),
            nap_ns: 0,
            stop_at: GuestNs(u64::MAX),
            stuck: false,
            naps: 0,
            flushes: 0,
        };
        desk.look();
        desk
    }

    /// Writes down what happened every `period_ns` of guest time instead.
    pub fn flushing_every(mut self, period_ns: u64) -> Desk {
        self.flush_period_ns = period_ns;
        self.next_flush = GuestNs(period_ns);
        self
    }

    /// Ends the recording at the first look at or after this guest time.
    pub fn stopping_at(mut self, at: GuestNs) -> Desk {
        self.stop_at = at;
        self
    }

    /// Idle time passes in naps, as for a world that sleeps on a real clock and wakes in between.
    pub fn napping(mut self, nap_ns: u64) -> Desk {
        self.nap_ns = nap_ns;
        self
    }

    /// What the guest sent on its serial lines.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&self.serial).into_owned()
    }

    /// What the guest wrote to its debug console.
    pub fn debug_console(&self) -> String {
        String::from_utf8_lossy(&self.debug).into_owned()
    }

    /// All that the guest sent, serial lines and debug console together.
    pub fn output_bytes(&self) -> &[u8] {
        &self.all
    }

    /// Acts of the script that have not been performed.
    pub fn acts_left(&self) -> usize {
        self.script.len()
    }

    /// How often the idle guest was let wait.
    pub fn naps(&self) -> u64 {
        self.naps
    }

    /// How often everything was written down.
    pub fn flushes(&self) -> u64 {
        self.flushes
    }

    /// Looks whether the text that the next act waits for has come.
    fn look(&mut self) {
        let Some(next) = self.script.front() else { return };
        if self.due.is_some() {
            return;
        }
        let unread = &self.serial[self.read..];
        let text = next.after.as_bytes();
        let found = if text.is_empty() {
            Some(0)
        } else {
            unread.windows(text.len()).position(|window| window == text)
        };
        if let Some(at) = found {
            self.read += at + text.len();
            self.due = Some(GuestNs(self.now.guest_ns.0 + next.delay_ns));
        }
    }

    /// When this world next wants to act by itself, output apart.
    fn next_act(&self) -> GuestNs {
        self.due.unwrap_or(GuestNs(u64::MAX)).min(self.next_flush).min(self.stop_at)
    }
}

impl Default for Desk {
    fn default() -> Desk {
        Desk::new()
    }
}

impl World for Desk {
    fn poll(&mut self) -> Polled {
        let now = self.now.guest_ns;
        let mut polled = Polled { stop: self.stuck || now >= self.stop_at, ..Polled::default() };
        while self.due.is_some_and(|due| due <= now) {
            let act = self.script.pop_front().expect("an act that is due is in the script");
            if !act.bytes.is_empty() {
                polled.inputs.push(Input::Serial { port: 0, bytes: act.bytes });
            }
            polled.inputs.extend(act.inputs);
            self.due = None;
            self.look();
        }
        if now >= self.next_flush {
            polled.flush = true;
            self.flushes += 1;
            self.next_flush = GuestNs(now.0 + self.flush_period_ns);
        }
        polled
    }

    fn idle(&mut self, now: GuestNs, wake: Option<GuestNs>) -> IdleAnswer {
        if wake.is_none() && self.due.is_none() && self.stop_at == GuestNs(u64::MAX) {
            // The guest waits for a key that nobody will press.
            self.stuck = true;
            return IdleAnswer::PollAgain;
        }
        let target = wake.unwrap_or(GuestNs(u64::MAX)).min(self.next_act());
        if target <= now {
            return IdleAnswer::PollAgain;
        }
        self.naps += 1;
        let nap = if self.nap_ns == 0 { u64::MAX } else { self.nap_ns };
        IdleAnswer::Until(target.min(GuestNs(now.0.saturating_add(nap))))
    }

    fn output(&mut self, output: &[Output]) {
        for piece in output {
            match piece {
                Output::Serial { port: _, bytes } => {
                    self.serial.extend_from_slice(bytes);
                    self.all.extend_from_slice(bytes);
                }
                Output::DebugConsole { bytes } => {
                    self.debug.extend_from_slice(bytes);
                    self.all.extend_from_slice(bytes);
                }
                Output::Frame { .. } => {}
            }
        }
        self.look();
    }

    fn progress(&mut self, progress: Progress) {
        self.now = progress.at;
    }
}

//! The host side of a recording: host time, standard input, signals.

use crate::arguments::IdlePolicy;
use crate::console::Console;
use crate::network::Plug;
use crate::progress::Meter;
use crate::serial::{Port, Serial};
use crate::view::{Desk, View};
use crossbeam_channel::{Receiver, Select, TryRecvError, never};
use dejavm_machine::{Input, Machine, Output};
use dejavm_replay::{IdleAnswer, Polled, Progress, World};
use dejavm_units::GuestNs;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Bytes that enter a serial port at once: as many as the FIFO of a 16550 holds. More
/// would only wait inside the machine, and make every digest longer.
const BATCH_BYTES: usize = 16;
/// Bytes for a port that wait here at most before who sends them has to.
const WAITING_BYTES: usize = 4096;
/// Everything is written down this often once a recording runs, and more often at its beginning.
const FLUSH_PERIOD: Duration = Duration::from_secs(1);
const FLUSH_PERIOD_FIRST: Duration = Duration::from_millis(20);
/// The longest wait: signals are seen only after it, and debuggers that come.
const WAIT_MAX: Duration = Duration::from_millis(200);
/// The same while a debugger is there, whose `^C` is seen only after it, and with viewers, who see what the guest does only after it.
const WAIT_MAX_ATTENDED: Duration = Duration::from_millis(20);

/// Signals that end a recording as the user's own command does.
pub fn stop_on_signals() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// The signal that asks for a checkpoint of the machine as it is: SIGUSR1.
pub fn snapshot_on_signal() -> io::Result<Arc<AtomicBool>> {
    let snapshot = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGUSR1, Arc::clone(&snapshot))?;
    Ok(snapshot)
}

/// What is typed, or arrives otherwise, for one serial port.
struct Feed {
    /// `None`: it is for nobody.
    port: Option<Port>,
    input: Receiver<Vec<u8>>,
    waiting: VecDeque<u8>,
}

impl Feed {
    fn new(port: Option<Port>, input: Receiver<Vec<u8>>) -> Feed {
        Feed { port, input, waiting: VecDeque::new() }
    }

    fn take_arrived(&mut self) {
        while self.waiting.len() < WAITING_BYTES {
            match self.input.try_recv() {
                Ok(bytes) if self.port.is_some() => self.waiting.extend(bytes),
                Ok(_) => {}
                Err(TryRecvError::Empty) => return,
                // The guest goes on without input.
                Err(TryRecvError::Disconnected) => self.input = never(),
            }
        }
    }

    fn next(&mut self) -> Option<Input> {
        let port = self.port.filter(|_| !self.waiting.is_empty())?;
        let batch = if port == Port::VIRTIO { WAITING_BYTES } else { BATCH_BYTES };
        let bytes = self.waiting.drain(..self.waiting.len().min(batch)).collect();
        Some(Input::Serial { port: port.number(), bytes })
    }
}

/// A machine's surroundings on this host.
pub struct HostWorld<'a> {
    /// That of standard input first.
    feeds: Vec<Feed>,
    serial: Serial,
    stop: Arc<AtomicBool>,
    idle: IdlePolicy,
    /// Since when the machine waits, in guest time and in host time.
    anchor: Option<(GuestNs, Instant)>,
    wait_max: Duration,
    network: Option<Plug>,
    view: Option<View>,
    desk: Desk,
    flushed: Instant,
    flush_period: Duration,
    console: &'a mut Console,
    meter: &'a mut Meter,
}

impl<'a> HostWorld<'a> {
    /// Surroundings with `input` for the console's serial line. `stop` ends the recording.
    pub fn new(
        input: Receiver<Vec<u8>>,
        stop: Arc<AtomicBool>,
        idle: IdlePolicy,
        console: &'a mut Console,
        meter: &'a mut Meter,
    ) -> HostWorld<'a> {
        HostWorld {
            feeds: vec![Feed::new(Some(Port::COM1), input)],
            serial: Serial::default(),
            stop,
            idle,
            anchor: None,
            wait_max: WAIT_MAX,
            network: None,
            view: None,
            desk: Desk::default(),
            flushed: Instant::now(),
            flush_period: FLUSH_PERIOD_FIRST,
            console,
            meter,
        }
    }

    /// Surroundings with a network.
    #[must_use]
    pub fn with_network(mut self, network: Option<Plug>) -> HostWorld<'a> {
        self.network = network;
        self
    }

    /// Surroundings with serial ports that lead elsewhere than to standard input and output.
    #[must_use]
    pub fn with_serial(mut self, serial: Serial) -> HostWorld<'a> {
        self.feeds[0].port = serial.stdio;
        let arrivals = serial.arrivals().into_iter();
        self.feeds.extend(arrivals.map(|(port, input)| Feed::new(Some(port), input)));
        self.console.show(serial.stdio);
        self.serial = serial;
        self
    }

    /// Surroundings with viewers of the screen.
    #[must_use]
    pub fn with_view(mut self, view: Option<View>) -> HostWorld<'a> {
        self.view = view;
        self.set_attended(false);
        self
    }

    /// Whether a debugger is there.
    pub fn set_attended(&mut self, attended: bool) {
        let attended = attended || self.view.is_some();
        self.wait_max = if attended { WAIT_MAX_ATTENDED } else { WAIT_MAX };
        self.resumed();
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.console.is_broken()
    }

    fn take_arrived(&mut self) {
        self.feeds.iter_mut().for_each(Feed::take_arrived);
        if let Some(network) = &mut self.network {
            network.take_arrived();
        }
        self.take_done();
    }

    /// Takes what viewers' users did.
    fn take_done(&mut self) {
        if let Some(view) = &self.view {
            view.events().try_iter().for_each(|event| self.desk.arrived(event));
        }
    }

    /// Whether something can enter the machine.
    fn has_inputs(&self) -> bool {
        self.feeds.iter().any(|feed| !feed.waiting.is_empty())
            || self.network.as_ref().is_some_and(Plug::has_inputs)
            || self.desk.has_inputs()
    }

    /// Waits for input; whether some is there now.
    fn wait(&mut self, time: Duration) -> bool {
        let arrivals = self.network.as_ref().map_or_else(never, Plug::arrivals);
        let done = self.view.as_ref().map_or_else(never, |view| view.events().clone());
        let mut select = Select::new();
        for feed in &self.feeds {
            select.recv(&feed.input);
        }
        select.recv(&arrivals);
        select.recv(&done);
        let _index = select.ready_timeout(time.min(self.wait_max));
        self.take_arrived();
        self.has_inputs()
    }

    /// Lets idle time pass as fast as on the host.
    fn idle_in_real_time(&mut self, now: GuestNs, wake: Option<GuestNs>) -> IdleAnswer {
        // Guest time stands still while it is waited: the same time is the same wait.
        let (_, since) = match self.anchor {
            Some(anchor) if anchor.0 == now => anchor,
            _ => *self.anchor.insert((now, Instant::now())),
        };
        let left = match wake {
            None => self.wait_max,
            Some(wake) => {
                Duration::from_nanos(wake.0.saturating_sub(now.0)).saturating_sub(since.elapsed())
            }
        };
        let arrived = !left.is_zero() && self.wait(left);
        let passed = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let host = GuestNs(now.0.saturating_add(passed));
        match wake {
            Some(wake) if host >= wake => IdleAnswer::Until(wake),
            _ if arrived => IdleAnswer::Until(host),
            _ => IdleAnswer::PollAgain,
        }
    }
}

impl World for HostWorld<'_> {
    fn look(&mut self, machine: &Machine) {
        if let Some(view) = &mut self.view {
            view.show(machine);
            self.desk.look(machine);
        }
        // Also while a debugger holds the machine, and nobody polls.
        self.take_done();
    }

    fn poll(&mut self) -> Polled {
        self.take_arrived();
        let mut inputs: Vec<Input> = self.feeds.iter_mut().filter_map(Feed::next).collect();
        if let Some(network) = &mut self.network {
            inputs.extend(network.inputs());
        }
        inputs.extend(self.desk.inputs());
        let flush = self.flushed.elapsed() >= self.flush_period;
        if flush {
            self.flushed = Instant::now();
            self.flush_period = (self.flush_period * 2).min(FLUSH_PERIOD);
        }
        Polled { inputs, flush, stop: self.stopped() }
    }

    fn idle(&mut self, now: GuestNs, wake: Option<GuestNs>) -> IdleAnswer {
        if self.has_inputs() || self.stopped() {
            return IdleAnswer::PollAgain;
        }
        match (self.idle, wake) {
            (IdlePolicy::Skip, Some(wake)) => IdleAnswer::Until(wake),
            (IdlePolicy::Skip, None) => {
                self.wait(self.wait_max);
                IdleAnswer::PollAgain
            }
            (IdlePolicy::Realtime, _) => self.idle_in_real_time(now, wake),
        }
    }

    fn output(&mut self, output: &[Output]) {
        self.console.write(output);
        self.serial.write(output);
        if let Some(network) = &self.network {
            network.send(output);
        }
    }

    fn room(&mut self, bytes: usize) {
        if let Some(network) = &mut self.network {
            network.set_room(bytes);
        }
    }

    fn progress(&mut self, progress: Progress) {
        self.meter.show(progress.at, Some(progress.log_bytes));
    }

    fn resumed(&mut self) {
        self.anchor = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten minutes in the debugger are no idle time of the guest's.
    #[test]
    fn time_that_a_debugger_takes_does_not_pass_for_the_guest() {
        let (sender, input) = crossbeam_channel::unbounded();
        let (mut console, mut meter) = (Console::none(), Meter::new(false, true));
        let stop = Arc::new(AtomicBool::new(false));
        let mut world = HostWorld::new(input, stop, IdlePolicy::Realtime, &mut console, &mut meter);
        let now = GuestNs(5_000_000_000);
        let long_ago = Instant::now().checked_sub(Duration::from_secs(600));
        let Some(long_ago) = long_ago else { return };
        for held in [false, true] {
            world.anchor = Some((now, long_ago));
            if held {
                world.resumed();
            }
            sender.send(vec![b'x']).expect("the world listens");
            let IdleAnswer::Until(until) = world.idle(now, None) else {
                panic!("something was typed");
            };
            let passed = until.0 - now.0;
            assert_eq!(passed < 300_000_000_000, held, "{passed} ns");
            world.feeds[0].waiting.clear();
        }
    }
}

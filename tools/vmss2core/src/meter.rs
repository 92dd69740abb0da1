//! How far a conversion is: a line on standard error, if that is a terminal.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use vmss2core::Progress;

const PERIOD: Duration = Duration::from_millis(100);
const BAR: usize = 30;

/// Shows a bar.
pub struct Meter {
    is_silent: bool,
    /// Where there is a terminal.
    bar: Option<Mutex<State>>,
    /// What the user was told, for programs.
    remarks: Mutex<Vec<String>>,
    /// The signal that asked for an end; 0: none.
    signal: Arc<AtomicUsize>,
}

struct State {
    name: String,
    done: u64,
    all: u64,
    shown: Instant,
}

impl Meter {
    /// A bar, unless it is not wanted or there is no terminal.
    pub fn new(is_silent: bool) -> Meter {
        let state = State { name: String::new(), done: 0, all: 0, shown: Instant::now() };
        let bar = (!is_silent && io::stderr().is_terminal()).then(|| Mutex::new(state));
        let signal = Arc::new(AtomicUsize::new(0));
        for number in [SIGINT, SIGTERM, SIGHUP] {
            // Where that cannot be had, a signal just ends the process: the file under its name is whole all the same.
            let _ = flag::register_usize(number, Arc::clone(&signal), number as usize);
        }
        // A limit of file sizes is then a failed write, which is told.
        let _ = flag::register(SIGXFSZ, Arc::default());
        Meter { is_silent, bar, remarks: Mutex::default(), signal }
    }

    /// What there was to say, in its order.
    pub fn remarks(&self) -> Vec<String> {
        self.remarks.lock().expect("nobody panics with it").clone()
    }

    /// The signal that asked for an end, if one did.
    pub fn signal(&self) -> Option<u8> {
        u8::try_from(self.signal.load(Ordering::Relaxed)).ok().filter(|&number| number != 0)
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        if self.bar.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Progress for Meter {
    fn begin(&self, file: &Path, bytes: u64) {
        if let Some(state) = &self.bar {
            let mut state = state.lock().expect("nobody panics with it");
            (state.name, state.done, state.all) = (file.display().to_string(), 0, bytes.max(1));
        }
    }

    fn advance(&self, bytes: u64) {
        let Some(state) = &self.bar else { return };
        let mut state = state.lock().expect("nobody panics with it");
        state.done += bytes;
        if state.shown.elapsed() < PERIOD {
            return;
        }
        state.shown = Instant::now();
        let part =
            |of: u64| (u128::from(of) * u128::from(state.done) / u128::from(state.all)) as u64;
        let full = "#".repeat(part(BAR as u64) as usize);
        let (name, percent, mib) = (&state.name, part(100), state.done >> 20);
        let _ = write!(io::stderr(), "\r{name} [{full:BAR$}] {percent} %, {mib} MiB\x1b[K");
    }

    fn end(&self, _file: &Path) {}

    fn is_interrupted(&self) -> bool {
        self.signal().is_some()
    }

    fn remark(&self, sentence: &str) {
        self.remarks.lock().expect("nobody panics with it").push(sentence.to_owned());
        if self.is_silent {
            return;
        }
        self.clear();
        eprintln!("vmss2core: {sentence}");
    }
}

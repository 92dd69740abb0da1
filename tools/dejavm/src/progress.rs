//! How far a run is, on standard error.

use dejavm_replay::Moment;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Between two lines on a terminal, and elsewhere.
const PERIOD_TERMINAL: Duration = Duration::from_millis(200);
const PERIOD_LINES: Duration = Duration::from_secs(1);

/// Prints progress now and then, and knows how fast a run is.
pub struct Meter {
    started: Instant,
    shown: Option<(Instant, u64)>,
    style: Style,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Silent,
    /// One line, written over again and again.
    OneLine,
    Lines,
}

impl Meter {
    /// A meter that starts now. `asked`: even where standard error is no terminal. `console_on_terminal`:
    /// the guest writes there too, and would be disturbed.
    pub fn new(asked: bool, console_on_terminal: bool) -> Meter {
        let style = match (asked, io::stderr().is_terminal() && !console_on_terminal) {
            (_, true) => Style::OneLine,
            (true, false) => Style::Lines,
            (false, false) => Style::Silent,
        };
        Meter { started: Instant::now(), shown: None, style }
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Told where the run is.
    pub fn show(&mut self, at: Moment, log_bytes: Option<u64>) {
        let period = match self.style {
            Style::Silent => return,
            Style::OneLine => PERIOD_TERMINAL,
            Style::Lines => PERIOD_LINES,
        };
        let now = Instant::now();
        let (before, from) = self.shown.unwrap_or((self.started, 0));
        if now - before < period {
            return;
        }
        self.shown = Some((now, at.position.0));
        let speed = rate(at.position.0.saturating_sub(from), (now - before).as_secs_f64());
        let log = log_bytes.map_or(String::new(), |bytes| format!(", log {}", size(bytes)));
        let line = format!(
            "guest time {}, {} M instructions, {speed:.0} M/s{log}",
            seconds(at),
            at.position.0 / 1_000_000
        );
        let _ = match self.style {
            Style::Silent => Ok(()),
            Style::OneLine => write!(io::stderr(), "\r{line}\x1b[K"),
            Style::Lines => writeln!(io::stderr(), "{line}"),
        };
    }

    /// Clears the line.
    pub fn finish(&mut self) {
        if self.style == Style::OneLine && self.shown.take().is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
        self.style = Style::Silent;
    }
}

/// Guest time in seconds with milliseconds.
pub fn seconds(at: Moment) -> String {
    let ms = at.guest_ns.0 / 1_000_000;
    format!("{}.{:03} s", ms / 1000, ms % 1000)
}

/// Millions of instructions a second.
pub fn rate(instructions: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { instructions as f64 / seconds / 1e6 } else { 0.0 }
}

/// A number of bytes for people.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..10_000_000 => format!("{:.1} KB", bytes as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

//! What a console tells while it is printed: when lines came, and how long programs took.

use crate::child::Glimpse;

/// How far both clocks of a program under measurement are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Clocks {
    /// Since it started, in seconds.
    pub wall: f64,
    /// Processor time that it has used, in seconds.
    pub cpu: f64,
}

impl Clocks {
    /// From an earlier moment to this one.
    pub fn since(self, earlier: Clocks) -> Clocks {
        Clocks { wall: self.wall - earlier.wall, cpu: self.cpu - earlier.cpu }
    }
}

/// A program that ran between its two lines.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// The program.
    pub name: String,
    /// What it computed, as it said.
    pub result: String,
    /// How long it took.
    pub took: Clocks,
}

/// A line that is looked for in a console.
#[derive(Clone, Debug)]
pub struct Landmark {
    word: &'static str,
    /// When the first line that holds the word was complete.
    pub seen: Option<Clocks>,
}

impl Landmark {
    /// Looks for `word`.
    pub fn new(word: &'static str) -> Landmark {
        Landmark { word, seen: None }
    }
}

/// Reads a console.
#[derive(Debug, Default)]
pub struct Console {
    line: Vec<u8>,
    begun: Option<(String, Clocks)>,
    /// Programs that have ended, in order.
    pub phases: Vec<Phase>,
    /// What is looked for.
    pub landmarks: Vec<Landmark>,
}

impl Console {
    /// A console with these landmarks.
    pub fn new(words: &[&'static str]) -> Console {
        let landmarks = words.iter().map(|word| Landmark::new(word)).collect();
        Console { landmarks, ..Console::default() }
    }

    /// More of it.
    pub fn read(&mut self, glimpse: &Glimpse) {
        for &byte in &glimpse.bytes {
            if byte == b'\n' {
                let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
                self.line_done(&line, glimpse.clocks);
            } else {
                self.line.push(byte);
            }
        }
    }

    fn line_done(&mut self, line: &str, now: Clocks) {
        for landmark in &mut self.landmarks {
            if landmark.seen.is_none() && line.contains(landmark.word) {
                landmark.seen = Some(now);
            }
        }
        // The kernel's own lines may come first on the same line, and its carriage returns.
        let Some(at) = line.find("DEJAVM-BENCH ") else { return };
        let words: Vec<&str> = line[at..].split_whitespace().collect();
        match words[..] {
            [_, "begin", name] => self.begun = Some((name.to_owned(), now)),
            [_, "end", name, result] => {
                if let Some((begun, then)) = self.begun.take()
                    && begun == name
                {
                    let (name, result) = (begun, result.to_owned());
                    self.phases.push(Phase { name, result, took: now.since(then) });
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(pieces: &[(f64, &str)]) -> Console {
        let mut console = Console::new(&["INIT", "NEVER"]);
        for (wall, text) in pieces {
            let clocks = Clocks { wall: *wall, cpu: wall / 2.0 };
            console.read(&Glimpse { clocks, bytes: text.as_bytes().to_vec() });
        }
        console
    }

    #[test]
    fn phases_last_from_line_to_line() {
        let console = fed(&[
            (1.0, "boot\r\nDEJAVM-INIT programs\r\n"),
            (2.0, "DEJAVM-BENCH begin a\r\nDEJAVM-BEN"),
            (4.5, "CH end a 00ff\r\nDEJAVM-BENCH begin b\r\n"),
            (6.0, "[  1.0] random: ready DEJAVM-BENCH end b failed\n"),
        ]);
        let phase = |name: &str, result: &str, wall: f64| Phase {
            name: name.to_owned(),
            result: result.to_owned(),
            took: Clocks { wall, cpu: wall / 2.0 },
        };
        assert_eq!(console.phases, [phase("a", "00ff", 2.5), phase("b", "failed", 1.5)]);
        assert_eq!(console.landmarks[0].seen, Some(Clocks { wall: 1.0, cpu: 0.5 }));
        assert_eq!(console.landmarks[1].seen, None);
    }

    #[test]
    fn a_phase_without_both_lines_is_none() {
        assert!(fed(&[(1.0, "DEJAVM-BENCH end a 1\nDEJAVM-BENCH begin b\n")]).phases.is_empty());
        let odd =
            "DEJAVM-BENCH begin a\nDEJAVM-BENCH end b 1\nDEJAVM-BENCH end a 1\nDEJAVM-BENCH\n";
        assert!(fed(&[(1.0, odd)]).phases.is_empty());
    }
}

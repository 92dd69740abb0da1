//! How a command ends: one enum of exit codes, and failures that carry one.

use dejavm_replay::{Divergence, ReadError, RecordError, ReplayError};
use serde_json::{Value, json};
use std::fmt;

/// The exit codes of every command. All are below 125, so that `git bisect run` and `timeout` can tell
/// them from their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done. For `record`: the recording is complete, however its guest ended.
    Ok = 0,
    /// It could not be done.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// The replay is not what was recorded.
    Divergence = 3,
    /// The recording cannot be used: damaged, of another version, or without a file that it needs.
    Recording = 4,
    /// This host cannot do it.
    Environment = 5,
    /// A file was not found, or it is not clear which one is meant.
    NotFound = 6,
}

impl Exit {
    /// All of them, in order.
    pub const ALL: [Exit; 7] = [
        Exit::Ok,
        Exit::Failed,
        Exit::Usage,
        Exit::Divergence,
        Exit::Recording,
        Exit::Environment,
        Exit::NotFound,
    ];

    /// The status that the process ends with.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// What it says, for people.
    pub fn meaning(self) -> &'static str {
        match self {
            Exit::Ok => {
                "done; for record: the recording is complete, however its guest ended (power off, \
                 reset, crash, stopped by the user)"
            }
            Exit::Failed => "it could not be done; the sentence on standard error says why",
            Exit::Usage => "the command line makes no sense",
            Exit::Divergence => "the replay is not what was recorded",
            Exit::Recording => {
                "the recording cannot be used: damaged, of another version, or a file that it needs \
                 is missing or changed"
            }
            Exit::Environment => "this host cannot do it; see dejavm doctor",
            Exit::NotFound => "a file was not found, or it is not clear which one is meant",
        }
    }
}

/// The table of exit codes, as `dejavm help exit-codes` prints it.
pub fn table() -> String {
    let mut text = String::from("Exit codes:\n");
    for exit in Exit::ALL {
        text.push_str(&format!("  {}  {}\n", exit.code(), exit.meaning()));
    }
    text
}

/// Why a command failed: one sentence, and the exit code.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The status to end with.
    pub exit: Exit,
    /// The sentence.
    pub sentence: String,
    /// What differed, if that is why.
    pub divergence: Option<Box<Divergence>>,
}

impl Failure {
    /// A failure with its sentence.
    pub fn new(exit: Exit, sentence: impl Into<String>) -> Failure {
        Failure { exit, sentence: sentence.into(), divergence: None }
    }

    /// A failure for programs.
    pub fn json(&self) -> Value {
        json!({
            "result": if self.divergence.is_some() { "diverged" } else { "failed" },
            "exit_code": self.exit.code(),
            "error": self.sentence,
            "divergence": self.divergence,
        })
    }

    /// Names the recording that it is about.
    pub fn about(mut self, name: &str) -> Failure {
        self.sentence = format!("{name}: {}", self.sentence);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl From<RecordError> for Failure {
    fn from(error: RecordError) -> Failure {
        match &error {
            RecordError::Write { .. } => {
                let advice = "what was written before is intact and replays so far; make room and \
                              record again";
                Failure::new(Exit::Failed, format!("{error}; {advice}"))
            }
            RecordError::Packing(_) | RecordError::Machine(_) => {
                let advice = "what was written before is intact and replays so far";
                Failure::new(Exit::Failed, format!("{error}; {advice}"))
            }
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Failure {
        match error {
            ReadError::File(error) => Failure::new(Exit::Recording, error.to_string()),
            ReadError::Io { .. } => Failure::new(Exit::Failed, error.to_string()),
        }
    }
}

impl From<ReplayError> for Failure {
    fn from(error: ReplayError) -> Failure {
        let sentence = error.to_string();
        match error {
            ReplayError::Read(error) => error.into(),
            ReplayError::Divergence(divergence) => {
                let divergence = Some(divergence);
                Failure { exit: Exit::Divergence, sentence, divergence }
            }
            ReplayError::Pages { .. }
            | ReplayError::Semantics { .. }
            | ReplayError::Machine(_)
            | ReplayError::OtherStart => Failure::new(Exit::Recording, sentence),
            ReplayError::Host(_) => Failure::new(Exit::Failed, sentence),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_these_for_ever_and_below_125() {
        let codes: Vec<u8> = Exit::ALL.iter().map(|exit| exit.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6]);
        let table = table();
        for exit in Exit::ALL {
            assert!(table.contains(&format!("  {}  {}", exit.code(), exit.meaning())));
        }
    }
}

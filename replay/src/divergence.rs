//! A replay that is not what was recorded: where, and what differs first.

use crate::digest::{BUCKETS, Digest, Hash128, bucket_pages};
use crate::file::{Moment, from_bytes};
use crate::guest::Guest;
use dejavm_memory::GuestRam;
use dejavm_units::Position;
use serde::Serialize;
use serde_json::Value;
use std::fmt;

/// The first difference found between a recording and its replay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Divergence {
    /// The position at which it was noticed; the cause lies after `since`.
    pub position: u64,
    /// The last position at which everything was still equal.
    pub since: u64,
    /// What differs: a register, a device's field, a range of pages, the console.
    pub what: String,
    /// What the recording says.
    pub expected: String,
    /// What the replay has.
    pub got: String,
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the replay differs from the recording at position {} (everything was equal at {}): {} was \
             {} when recorded and is {} now",
            self.position, self.since, self.what, self.expected, self.got
        )
    }
}

impl std::error::Error for Divergence {}

impl Divergence {
    /// One that was noticed at a position.
    pub(crate) fn at(
        position: Position,
        since: Moment,
        what: &str,
        expected: String,
        got: String,
    ) -> Divergence {
        Divergence {
            position: position.0,
            since: since.position.0,
            what: what.into(),
            expected,
            got,
        }
    }

    /// Compares a recorded digest with the replay's; `None` if they are equal.
    pub(crate) fn between<G: Guest>(
        expected: &Digest,
        got: &Digest,
        since: Moment,
        ram: &GuestRam,
    ) -> Option<Divergence> {
        let position = got.at.position.0;
        let found = |what: String, expected: String, got: String| {
            Some(Divergence { position, since: since.position.0, what, expected, got })
        };
        if expected.machine != got.machine {
            let (what, a, b) = first_difference::<G>(&expected.state, &got.state);
            return found(what, a, b);
        }
        if (expected.memory, expected.pages) != (got.memory, got.pages) {
            let bucket = (0..BUCKETS).find(|&n| expected.buckets.get(n) != got.buckets.get(n));
            let what = match bucket {
                Some(n) => {
                    let (first, last) = bucket_pages(n, ram.layout());
                    format!("RAM written between {first} and {last}")
                }
                None => "the set of pages written".into(),
            };
            let show = |digest: &Digest| format!("{} over {} pages", digest.memory, digest.pages);
            return found(what, show(expected), show(got));
        }
        None
    }
}

/// The first field in which two states differ, and both values.
fn first_difference<G: Guest>(expected: &[u8], got: &[u8]) -> (String, String, String) {
    let tree = |bytes: &[u8]| {
        from_bytes::<G::State>(bytes).ok().and_then(|state| serde_json::to_value(state).ok())
    };
    if let (Some(a), Some(b)) = (tree(expected), tree(got)) {
        let mut path = String::new();
        if let Some((a, b)) = descend(&a, &b, &mut path) {
            return (path, show(a), show(b));
        }
    }
    // States that do not decode, or equal ones under different hashes: somebody wrote the file.
    let show = |bytes: &[u8]| format!("{} in {} bytes", Hash128::of(bytes), bytes.len());
    ("the machine's state".into(), show(expected), show(got))
}

fn descend<'a>(a: &'a Value, b: &'a Value, path: &mut String) -> Option<(&'a Value, &'a Value)> {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => a.iter().find_map(|(name, a)| {
            let b = b.get(name)?;
            if a == b {
                return None;
            }
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(name);
            descend(a, b, path)
        }),
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            x.iter().zip(y).enumerate().find_map(|(n, (a, b))| {
                if a == b {
                    return None;
                }
                path.push_str(&format!("[{n}]"));
                descend(a, b, path)
            })
        }
        _ if a == b => None,
        _ => Some((a, b)),
    }
}

fn show(value: &Value) -> String {
    match value.as_u64() {
        Some(number) => format!("{number:#x}"),
        None => {
            let mut text = value.to_string();
            if text.len() > 200 {
                let cut = (0..=200).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
                text.truncate(cut);
                text.push('…');
            }
            text
        }
    }
}

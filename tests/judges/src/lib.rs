//! Programs in Python that no one here wrote, asked for what they see in our files. `install.sh` fetches them.
#![forbid(unsafe_code)]

use serde_json::Value;
use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The Python that has the judges: in `$DEJAVM_CACHE/judges/venv`, else in the project's `.cache/judges/venv`.
///
/// # Panics
/// If it is not there: says how it gets there.
pub fn python() -> PathBuf {
    let cache = env::var_os("DEJAVM_CACHE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache"), PathBuf::from);
    let python = cache.join("judges/venv/bin/python");
    assert!(
        python.exists(),
        "{} is missing: run tests/judges/install.sh (`make test` does)",
        python.display()
    );
    python
}

/// Path of one of this package's own scripts, such as `volatility.py`.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name)
}

/// Runs a script with arguments; the one JSON value that it prints.
///
/// # Panics
/// If it fails, or prints anything else: with all that it said.
#[track_caller]
pub fn ask(script: &Path, arguments: &[impl AsRef<OsStr>]) -> Value {
    let ran = Command::new(python())
        // Isolated: no environment variables of the user's, no packages of theirs; writes no __pycache__.
        .args(["-I", "-B"])
        .arg(script)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the virtual environment's Python can be executed");
    let (said, complaint) =
        (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{}: {}\n{said}{complaint}", script.display(), ran.status);
    serde_json::from_str(&said)
        .unwrap_or_else(|error| panic!("{}: {error}\n{said}{complaint}", script.display()))
}

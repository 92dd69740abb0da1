//! Runs the program as a user does.
#![allow(dead_code, reason = "each test file uses what it needs")]

pub mod debian;
pub mod facts;
pub mod gdb;
pub mod panicked;
pub mod recorder;

use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A folder of one test's own, empty at first.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    pub fn write(&self, name: &str, contents: &[u8]) -> String {
        fs::write(self.0.join(name), contents).unwrap();
        self.path(name)
    }

    /// A guest of our own, as a kernel file.
    pub fn guest(&self, name: &str) -> String {
        let guest = dejavm_images::ALL.iter().find(|(known, _)| *known == name);
        self.write(&format!("{name}.elf"), guest.expect("a guest of that name").1)
    }
}

/// What a run of the program left.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// The sentence that the program ended with.
    pub fn sentence(&self) -> &str {
        self.stderr.lines().last().unwrap_or_default()
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}\n{}", self.stdout, self.stderr))
    }

    /// Demands that it ended well.
    #[track_caller]
    pub fn ok(self) -> Ran {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self
    }
}

pub fn command(arguments: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dejavm"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A child that does not outlive its test, however that ends.
pub struct Kept(Option<Child>);

impl Kept {
    pub fn new(child: Child) -> Kept {
        Kept(Some(child))
    }

    pub fn child(&mut self) -> &mut Child {
        self.0.as_mut().expect("only its end takes it")
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Ran {
        wait(self.0.take().expect("only its end takes it"))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn wait(child: Child) -> Ran {
    let output = child.wait_with_output().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub fn run(arguments: &[impl AsRef<OsStr>]) -> Ran {
    wait(command(arguments).spawn().unwrap())
}

/// `run` with arguments in one line, cut at spaces; `{}` in order are the given paths.
pub fn dejavm(line: &str, paths: &[&str]) -> Ran {
    let mut paths = paths.iter();
    let arguments: Vec<&str> = line
        .split_whitespace()
        .map(|word| if word == "{}" { *paths.next().expect("a path for each {}") } else { word })
        .collect();
    assert!(paths.next().is_none(), "a {{}} for each path");
    run(&arguments)
}

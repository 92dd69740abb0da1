//! The two programs under measurement and the command lines of their steps.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The machine and what it boots: the same for both programs.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Linux kernel image.
    pub kernel: PathBuf,
    /// Its initramfs.
    pub initrd: PathBuf,
    /// Kernel command line.
    pub append: String,
    /// RAM in MiB.
    pub memory_mib: u32,
}

/// What is measured, in the order of a round: the two programs alternate.
pub const STEPS: [Step; 5] = [
    Step { subject: Subject::Qemu, verb: Verb::Record },
    Step { subject: Subject::Dejavm, verb: Verb::Record },
    Step { subject: Subject::Qemu, verb: Verb::Replay },
    Step { subject: Subject::Dejavm, verb: Verb::Replay },
    Step { subject: Subject::Dejavm, verb: Verb::Verify },
];

/// One program doing one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Who.
    pub subject: Subject,
    /// What.
    pub verb: Verb,
}

/// A program under measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// QEMU, software CPU, `-icount shift=3,rr=...`.
    Qemu,
    /// This project.
    Dejavm,
}

/// What a program is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Run the guest and write the log.
    Record,
    /// Run it again from the log and print its console.
    Replay,
    /// Run it again from the log and check every digest; QEMU has no such thing.
    Verify,
}

impl Step {
    /// "qemu record" and so on, as the table and the JSON call it.
    pub fn name(self) -> &'static str {
        match (self.subject, self.verb) {
            (Subject::Qemu, Verb::Record) => "qemu record",
            (Subject::Qemu, Verb::Replay) => "qemu replay",
            (Subject::Qemu, Verb::Verify) => "qemu verify",
            (Subject::Dejavm, Verb::Record) => "dejavm record",
            (Subject::Dejavm, Verb::Replay) => "dejavm replay",
            (Subject::Dejavm, Verb::Verify) => "dejavm verify",
        }
    }

    /// Whether its standard output is the guest's console.
    pub fn prints_console(self) -> bool {
        match self.verb {
            Verb::Record | Verb::Replay => true,
            Verb::Verify => false,
        }
    }
}

impl Subject {
    /// The recording that this program writes and reads, below `folder`.
    pub fn log(self, folder: &Path) -> PathBuf {
        folder.join(match self {
            Subject::Qemu => "qemu.rr",
            Subject::Dejavm => "dejavm.dvr",
        })
    }
}

/// The programs' paths.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `qemu-system-x86_64`.
    pub qemu: PathBuf,
    /// `dejavm`.
    pub dejavm: PathBuf,
}

impl Programs {
    /// QEMU recording into or replaying from `log`, with more suboptions of `-icount` in `more`; where its
    /// serial port leads is left open.
    pub fn qemu(&self, verb: Verb, more: &str, guest: &Guest, log: &Path) -> Command {
        let mode = if verb == Verb::Record { "record" } else { "replay" };
        let mut command = Command::new(&self.qemu);
        command
            .args(["-accel", "tcg", "-cpu", "qemu64", "-icount"])
            .arg(format!("shift=3,rr={mode},rrfile={}{more}", log.display()))
            .arg("-kernel")
            .arg(&guest.kernel)
            .arg("-initrd")
            .arg(&guest.initrd)
            .args(["-append", &guest.append, "-m", &guest.memory_mib.to_string()])
            .args(["-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot"]);
        command
    }

    /// Ours recording into `file`.
    pub fn dejavm_record(&self, guest: &Guest, file: &Path) -> Command {
        let mut command = Command::new(&self.dejavm);
        command
            .arg("record")
            .arg("--kernel")
            .arg(&guest.kernel)
            .arg("--initrd")
            .arg(&guest.initrd)
            .args(["--append", &guest.append, "-m", &guest.memory_mib.to_string()])
            .arg("-o")
            .arg(file)
            .arg("--force");
        command
    }

    /// The command line of `step` for `guest`, with logs in `folder`.
    pub fn command(&self, step: Step, guest: &Guest, folder: &Path) -> Command {
        let log = step.subject.log(folder);
        match (step.subject, step.verb) {
            (Subject::Qemu, verb) => {
                let mut command = self.qemu(verb, "", guest, &log);
                command.args(["-serial", "stdio"]);
                command
            }
            (Subject::Dejavm, Verb::Record) => self.dejavm_record(guest, &log),
            (Subject::Dejavm, Verb::Replay) => {
                let mut command = Command::new(&self.dejavm);
                command.arg("replay").arg(&log);
                command
            }
            (Subject::Dejavm, Verb::Verify) => {
                let mut command = Command::new(&self.dejavm);
                command.arg("verify").arg(&log).arg("--json");
                command
            }
        }
    }
}

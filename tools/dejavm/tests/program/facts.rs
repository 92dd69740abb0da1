//! Debian guests that say of themselves what others are to find in them: the workload `facts` of `images/initramfs`.

use super::debian::fetched;
use super::recorder::until;
use super::{Folder, Kept, Ran, command, dejavm};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use vmss::{Checkpoint, GuestMemory, Vcpu};
use vmss2core::Kind;

/// Of images/initramfs/facts.c.
pub const PATTERN_AT: u64 = 0x2000_0000;
pub const PATTERN_BYTES: usize = 20123;
/// What one process and its child have there.
pub const SEED: u32 = 5;
pub const CHILD_SEED: u32 = 77;
/// Said when nothing more happens.
const MOMENT: &str = "DEJAVM-FACTS-NOW";

/// The bytes at [`PATTERN_AT`].
pub fn pattern(seed: u32) -> Vec<u8> {
    (0..PATTERN_BYTES as u32)
        .map(|i| (i.wrapping_mul(167) + (i >> 8) * 13).wrapping_add(seed) as u8)
        .collect()
}

/// As judges say it.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A process, a thread of it, and its name.
pub type Task = (u64, u64, String);

/// What a guest said.
#[derive(Debug, Default)]
pub struct Facts {
    /// `uname -r`
    pub release: String,
    /// `/proc/version`
    pub version: String,
    /// Kilobytes.
    pub memory_total: u64,
    pub memory_free: u64,
    /// The process with the pattern, its child, and the one that runs.
    pub holder: u64,
    pub child: u64,
    pub spinner: u64,
    pub tasks: BTreeSet<Task>,
    /// Of `holder` and `child`: first and last address.
    pub maps: BTreeMap<u64, Vec<(u64, u64)>>,
    /// Of both: what is open, by descriptor.
    pub files: BTreeMap<u64, BTreeMap<u64, String>>,
    pub modules: Vec<String>,
}

impl Facts {
    fn parse(console: &str) -> Facts {
        let mut facts = Facts::default();
        for line in console.lines().filter_map(|line| line.trim_end().strip_prefix("FACT ")) {
            let (key, rest) = line.split_once(' ').unwrap();
            let number = || rest.parse().unwrap_or_else(|_| panic!("{line}"));
            match key {
                "release" => facts.release = rest.into(),
                "version" => facts.version = rest.into(),
                "MemTotal" => facts.memory_total = number(),
                "MemFree" => facts.memory_free = number(),
                "holder" => facts.holder = number(),
                "child" => facts.child = number(),
                "spinner" => facts.spinner = number(),
                "thread" => {}
                "module" => facts.modules.push(rest.split(' ').next().unwrap().into()),
                "task" => {
                    let [pid, tid, name] = words(rest);
                    facts.tasks.insert((pid.parse().unwrap(), tid.parse().unwrap(), name.into()));
                }
                "maps" => {
                    let [pid, range, _] = words(rest);
                    let (start, end) = range.split_once('-').unwrap();
                    let address = |text| u64::from_str_radix(text, 16).unwrap();
                    let of = facts.maps.entry(pid.parse().unwrap()).or_default();
                    of.push((address(start), address(end)));
                }
                "file" => {
                    let [pid, descriptor, name] = words(rest);
                    let of = facts.files.entry(pid.parse().unwrap()).or_default();
                    of.insert(descriptor.parse().unwrap(), name.into());
                }
                _ => panic!("{line}"),
            }
        }
        assert!(facts.tasks.len() > 20 && facts.holder > 0 && facts.child > 0, "{console}");
        facts
    }

    /// Demands that somebody sees the same tasks. Names that the kernel keeps have 15 letters at most, and `ps` adds to
    /// a worker's what it works for; workers come and go.
    #[track_caller]
    pub fn assert_tasks(&self, seen: &BTreeSet<Task>, who: &str) {
        let lasting = |tasks: &BTreeSet<Task>| -> BTreeSet<Task> {
            tasks
                .iter()
                .filter(|(_, _, name)| !name.starts_with("kworker/"))
                .map(|(pid, tid, name)| (*pid, *tid, name.chars().take(15).collect()))
                .collect()
        };
        assert_eq!(lasting(seen), lasting(&self.tasks), "{who}");
        assert!(seen.iter().any(|(_, _, name)| name.starts_with("kworker/")), "{who}: {seen:?}");
    }
}

impl Facts {
    /// Demands that drgn saw in a core of the kernel what the guest said (tests/judges/scripts/kernel.py).
    #[track_caller]
    pub fn assert_kernel(&self, vcpu: &Vcpu, seen: &Value, who: &str) {
        assert_eq!(seen["is_kernel"], true, "{who}");
        let release = format!("OSRELEASE={}\n", self.release);
        assert!(seen["vmcoreinfo"].as_str().unwrap().starts_with(&release), "{who}");
        assert_eq!(seen["banner"].as_str().unwrap().trim_end(), self.version, "{who}");
        assert_eq!(seen["memory_total_kb"], self.memory_total, "{who}");
        let modules: Vec<String> = serde_json::from_value(seen["modules"].clone()).unwrap();
        assert_eq!(modules, self.modules, "{who}");
        let tasks: BTreeSet<Task> = serde_json::from_value(seen["tasks"].clone()).unwrap();
        self.assert_tasks(&tasks, who);
        assert_eq!(seen["current"], self.spinner, "{who}");
        for (pid, seed) in [(self.holder, SEED), (self.child, CHILD_SEED)] {
            let process = &seen["processes"][pid.to_string()];
            assert!(process["pattern"].as_str() == Some(&hex(&pattern(seed))), "{who}: {pid}");
            let maps: Vec<(u64, u64)> = serde_json::from_value(process["maps"].clone()).unwrap();
            assert_eq!(maps, self.maps[&pid], "{who}");
            let files: BTreeMap<u64, String> =
                serde_json::from_value(process["files"].clone()).unwrap();
            let name = |name: &String| {
                if name.starts_with("pipe:") { "[pipefs]".into() } else { name.clone() }
            };
            let said: BTreeMap<u64, String> =
                self.files[&pid].iter().map(|(&at, file)| (at, name(file))).collect();
            assert_eq!(files, said, "{who}");
        }
        let registers = [("rip", vcpu.rip), ("rsp", vcpu.gpr[4]), ("rbx", vcpu.gpr[3])];
        for (name, value) in registers {
            assert_eq!(seen["registers"][name], format!("{value:#x}"), "{who}: {name}");
        }
    }
}

/// Cuts in three at the first spaces.
fn words(line: &str) -> [&str; 3] {
    let mut words = line.splitn(3, ' ');
    std::array::from_fn(|_| words.next().unwrap_or_else(|| panic!("{line}")))
}

/// A recording of such a guest up to the moment.
pub struct Guest {
    pub folder: Folder,
    /// The recording.
    pub file: String,
    pub console: String,
    pub facts: Facts,
}

impl Guest {
    /// Records a guest with the kernel of a flavour; `more` is appended to its command line.
    pub fn record(name: &str, flavour: &str, memory: &str, more: &str) -> Guest {
        let folder = Folder::new(name);
        let architecture = if flavour.starts_with("686") { "i386" } else { "amd64" };
        // Archives may follow each other: the last brings a kernel module.
        let parts = [format!("initramfs-{architecture}.gz"), format!("module-{flavour}.gz")];
        let initrd: Vec<u8> =
            parts.iter().flat_map(|part| std::fs::read(fetched(part)).unwrap()).collect();
        let initrd = folder.write("initrd", &initrd);
        let (file, console) = (folder.path("guest.dvr"), folder.path("console"));
        let kernel = fetched(&format!("vmlinuz-{flavour}"));
        let append =
            format!("console=ttyS0 panic=-1 cryptomgr.notests dejavm.workload=facts {more}");
        let line = [
            "record",
            "--kernel",
            &kernel,
            "--initrd",
            &initrd,
            "--append",
            &append,
            "-m",
            memory,
            "-o",
            &file,
            "--idle",
            "skip",
            "--json",
            "--console",
            &console,
        ];
        let mut recorder = Kept::new(command(&line).spawn().unwrap());
        let said =
            || String::from_utf8_lossy(&std::fs::read(&console).unwrap_or_default()).into_owned();
        until(MOMENT, || {
            let over = recorder.child().try_wait().unwrap();
            assert!(over.is_none(), "it ended: {}", said());
            said().contains(MOMENT)
        });
        let id = recorder.child().id().to_string();
        assert!(Command::new("kill").args(["-s", "TERM", &id]).status().unwrap().success());
        recorder.wait().ok();
        let console = said();
        assert!(!console.contains("WORKLOAD-FAILED"), "{console}");
        let facts = Facts::parse(&console);
        Guest { folder, file, console, facts }
    }

    /// The last moment as a checkpoint.
    pub fn checkpoint(&self, name: &str, more: &str) -> String {
        let path = self.folder.path(name);
        let line = format!("snapshot {{}} --at end -o {{}} --json {more}");
        let _: Ran = dejavm(&line, &[&self.file, &path]).ok();
        path
    }

    /// Makes one file of a checkpoint of this guest; its path.
    pub fn convert(&self, checkpoint: &str, kind: &Kind, name: &str) -> String {
        let output = self.folder.path(name);
        let made = vmss2core::convert(kind, Path::new(checkpoint), None, Path::new(&output));
        let made = made.unwrap();
        assert_eq!(made.len(), 1, "{made:?}");
        made[0].to_str().unwrap().to_owned()
    }
}

/// The processors and the memory in a checkpoint.
pub fn opened(checkpoint: &str) -> (Vec<Vcpu>, GuestMemory) {
    let (checkpoint, memory, _) = Checkpoint::open(Path::new(checkpoint), None).unwrap();
    (checkpoint.vcpus().unwrap(), memory)
}

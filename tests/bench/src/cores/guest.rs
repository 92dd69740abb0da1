//! A checkpoint of a guest with 4 GiB, most of it in use: a real one's, whose free memory is filled with its other pages.

use crate::subject::{Guest, Programs};
use crate::{child, create};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const MEMORY_MIB: u32 = 4096;
/// What a program printed that is not measured.
const STDOUT: &str = "cores.stdout";
const PAGE: usize = 4096;
const BUFFER: usize = 256 << 10;
/// Pages of zeros, of ten.
const ZEROS: u64 = 4;
/// Runs of zeros and of copies have this many pages at most, as large allocations have.
const RUN_MAX: u64 = 512;
/// Words of a page that a copy changes: otherwise, each would be there many times.
const CHANGED_WORDS: usize = 8;

/// The files of the checkpoint.
pub struct Checkpoint {
    /// `.vmss`
    pub state: PathBuf,
    /// `.vmem`, beside it.
    pub memory: PathBuf,
    /// A recording that begins there.
    pub recording: PathBuf,
    /// Where that is.
    pub position: String,
}

impl Checkpoint {
    /// Records a guest, takes its checkpoint, and fills its memory. The `.vmem` has no hole, as VMware's have none.
    pub fn make(
        programs: &Programs,
        guest: &Guest,
        work: &Path,
        limit: Duration,
    ) -> Result<Checkpoint, String> {
        // A small guest's pages are more like those of a machine in use: a large one that has just booted is its kernel's
        // page structures, above all.
        let large = Guest { memory_mib: MEMORY_MIB, ..guest.clone() };
        let [seed, pages] = [(&large, "seed"), (guest, "pages")]
            .map(|(guest, name)| snapshot_of(programs, guest, &work.join(name), limit));
        let ((seed, position), (pages, _)) = (seed?, pages?);
        let at = |name: &str| work.join(name);
        let checkpoint = Checkpoint {
            state: at("full.vmss"),
            memory: at("full.vmem"),
            recording: at("full.dvr"),
            position,
        };
        let copied = fs::copy(&seed, &checkpoint.state).map(|_| ());
        copied
            .and_then(|()| {
                let [seed, pages] = [&seed, &pages].map(|state| state.with_extension("vmem"));
                fill(&seed, &pages, &checkpoint.memory)
            })
            .map_err(|error| format!("cannot write {}: {error}", checkpoint.memory.display()))?;
        let mut record = Command::new(&programs.dejavm);
        record.arg("record").arg("--from").arg(&checkpoint.state).arg("-o");
        // It is beyond that position already.
        record.arg(&checkpoint.recording).args(["--force", "--until", "1"]);
        run(&mut record, work, limit)?;
        for path in [seed, pages] {
            let _ = fs::remove_file(path.with_extension("vmem"));
            let _ = fs::remove_file(path);
        }
        Ok(checkpoint)
    }

    /// Takes the files away: they are large.
    pub fn remove(&self) {
        for path in [&self.state, &self.memory, &self.recording] {
            let _ = fs::remove_file(path);
        }
    }
}

/// Records a guest to its end and takes its checkpoint there: the name of the `.vmss`, and the position.
fn snapshot_of(
    programs: &Programs,
    guest: &Guest,
    name: &Path,
    limit: Duration,
) -> Result<(PathBuf, String), String> {
    let work = name.parent().ok_or("a file is in a folder")?;
    let recording = name.with_extension("dvr");
    let mut record = programs.dejavm_record(guest, &recording);
    run(record.args(["--json", "--console", "/dev/null", "--idle", "skip"]), work, limit)?;
    let said = fs::read(work.join(STDOUT)).unwrap_or_default();
    let said: Value = serde_json::from_slice(&said).map_err(|error| format!("record: {error}"))?;
    let position = said["position"].as_u64().ok_or("record told no position")?.to_string();
    let state = name.with_extension("vmss");
    let mut snapshot = Command::new(&programs.dejavm);
    snapshot.arg("snapshot").arg(&recording).args(["--at", &position, "--force", "-o"]).arg(&state);
    run(&mut snapshot, work, limit)?;
    let _ = fs::remove_file(recording);
    Ok((state, position))
}

/// Runs a program that is not measured.
fn run(command: &mut Command, work: &Path, limit: Duration) -> Result<(), String> {
    let log = work.join("cores.stderr");
    child::run(command, create(work.join(STDOUT))?, create(log.clone())?, limit)
        .map(|_| ())
        .map_err(|sentence| format!("{sentence}{}", crate::last_line(&log)))
}

/// Writes memory as it is in one file into another, with runs of changed copies of another's pages where it is zero.
///
/// Little of it is in our own memory: the kernel takes our peak for that of programs that we start.
fn fill(from: &Path, pages: &Path, to: &Path) -> std::io::Result<()> {
    let copied = File::open(pages)?;
    let pool = pages_in_use(pages)?;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut memory = BufReader::with_capacity(BUFFER, File::open(from)?);
    let mut out = BufWriter::with_capacity(BUFFER, File::create(to)?);
    let mut page = [0; PAGE];
    // How many pages of zeros, or of copies, are still to come, and the next that is copied.
    let (mut zeros, mut copies, mut next) = (0, 0, 0);
    while memory.read_exact(&mut page).is_ok() {
        if page != [0; PAGE] {
            out.write_all(&page)?;
            continue;
        }
        if zeros == 0 && copies == 0 {
            let run = random.below(RUN_MAX) + 1;
            (zeros, copies) = if random.below(10) < ZEROS { (run, 0) } else { (0, run) };
            next = random.below(pool.len() as u64) as usize;
        }
        if copies > 0 {
            copies -= 1;
            copied.read_exact_at(&mut page, pool[next % pool.len()])?;
            next += 1;
            for _ in 0..CHANGED_WORDS {
                let at = random.below(PAGE as u64 / 8) as usize * 8;
                page[at] ^= random.next() as u8;
            }
        } else {
            zeros -= 1;
        }
        out.write_all(&page)?;
    }
    out.flush()
}

/// Where the pages are that are not zero.
fn pages_in_use(path: &Path) -> std::io::Result<Vec<u64>> {
    let mut memory = BufReader::with_capacity(BUFFER, File::open(path)?);
    let mut places = Vec::new();
    let mut page = [0; PAGE];
    let mut at = 0;
    while memory.read_exact(&mut page).is_ok() {
        if page != [0; PAGE] {
            places.push(at);
        }
        at += PAGE as u64;
    }
    Ok(places)
}

/// xorshift64*: the same memory in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below a bound.
    fn below(&mut self, bound: u64) -> u64 {
        ((self.next() >> 32) * bound) >> 32
    }
}

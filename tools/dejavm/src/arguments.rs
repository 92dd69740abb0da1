//! The command line.

use crate::debugger::Address;
use crate::disks::{DiskOption, Images};
use crate::engine::Engine;
use crate::entropy::EntropyOptions;
use crate::lockstep::InjectedMistake;
use crate::network::NetworkOptions;
use crate::processors::{Processors, Schedule};
use crate::serial::SerialOptions;
use crate::view;
use clap::{Args, Parser, Subcommand, ValueEnum};
use dejavm_cpu::{Model, Tuning};
use dejavm_memory::RamLayout;
use std::path::PathBuf;

/// Record a whole x86 virtual machine, replay it bit for bit, as often as you like.
#[derive(Debug, Parser)]
#[command(name = "dejavm", version, after_help = crate::exit::table(), disable_help_subcommand = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot a kernel and record all that enters the machine
    Record(Box<Record>),
    /// Run on, live, from a position of a recording, and record that
    Branch(Branch),
    /// Replay a recording at full speed, verify it, and print the guest's console
    Replay(Replay),
    /// Replay a recording and verify it, without the console
    Verify(Verify),
    /// Say what is in a recording
    Info(Info),
    /// List the recordings in a folder
    Ls(Ls),
    /// List the named positions of a recording, or name one
    Marks(Marks),
    /// Put what a recording needs of disk images into it, so that it replays without them
    Pack(Pack),
    /// Write the machine at a position of a recording as a VMware checkpoint
    Snapshot(Snapshot),
    /// Write a disk as it stands at a position of a recording to an image
    Disk(Disk),
    /// Write what the guest's display shows at a position of a recording as a picture
    Screenshot(Screenshot),
    /// Let the software CPU follow a recording of KVM's, and write one whose positions are instructions
    Convert(Convert),
    /// Say which engines this host has, and what each can promise
    Doctor(Doctor),
    /// Record and replay a guest built into this program: no file, no network, about a second
    Demo(Demo),
    /// Print a gdb script with the debugger's commands
    Gdbinit,
    /// Explain a command, or `exit-codes`
    Help(Help),
}

/// How idle time of the guest passes while it is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum IdlePolicy {
    /// It is skipped: a guest that sleeps wakes at once.
    Skip,
    /// As long as on the host's clock.
    Realtime,
}

/// `dejavm convert`.
#[derive(Debug, Args)]
pub struct Convert {
    /// The recording
    #[arg(value_name = "RECORDING")]
    pub file: Option<PathBuf>,
    /// Images elsewhere
    #[command(flatten)]
    pub images: Images,
    /// Where to write the new one; no file may be there
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// The result as JSON on stdout
    #[arg(long)]
    pub json: bool,
}

/// `dejavm record`.
#[derive(Clone, Debug, Args)]
pub struct Record {
    /// Kernel: a Linux bzImage, an ELF image (vmlinux, or with a PVH note), or a Multiboot kernel (1 or 2)
    #[arg(long, value_name = "FILE", required_unless_present_any = ["from", "bios", "vmx"])]
    pub kernel: Option<PathBuf>,
    /// Start with firmware, as a PC does, and not with a kernel [default: SeaBIOS, of the package seabios]
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = crate::firmware::SEABIOS, conflicts_with_all = ["kernel", "initrd", "append", "external"])]
    pub bios: Option<PathBuf>,
    /// The recording ends where the guest resets the machine, as it does without firmware; else the firmware starts again
    #[arg(long, requires = "bios")]
    pub no_reboot: bool,
    /// A kernel finds a display too, in text mode; a machine with firmware or --vnc always has one
    #[arg(long)]
    pub display: bool,
    /// The display's ROM [default: SeaBIOS's, of the package seabios, if it is there]
    #[arg(long, value_name = "FILE")]
    pub video_bios: Option<PathBuf>,
    /// Go on from a checkpoint that `dejavm snapshot` wrote, instead of booting a kernel
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kernel", "bios", "initrd", "disk", "cdrom", "append", "memory", "cpu", "external", "rtc_epoch", "rng", "rng_seed", "vmx", "smp", "slice", "schedule_seed"])]
    pub from: Option<PathBuf>,
    /// Initial RAM disk
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Disk, or CD: an image, which stays as it is: what the guest writes is kept apart. May be given several times
    #[arg(long, value_name = "FILE[,format=raw|qcow2|vmdk][,if=virtio|ide|cdrom][,readonly]")]
    pub disk: Vec<DiskOption>,
    /// When the recording has ended, write into the images what the guest wrote (raw images only). Recordings of an image as it was
    /// do not replay then, this one neither, unless they are packed
    #[arg(long, conflicts_with_all = ["from", "no_log"])]
    pub disk_commit: bool,
    /// CD: short for --disk FILE,if=cdrom
    #[arg(long, value_name = "FILE")]
    pub cdrom: Option<PathBuf>,
    /// A module for a Multiboot kernel, which gets its name as the module's words; may be given several times
    #[arg(long, value_name = "FILE", requires = "kernel", conflicts_with = "external")]
    pub module: Vec<PathBuf>,
    /// The kernel's command line
    #[arg(long, value_name = "TEXT", default_value = "", allow_hyphen_values = true)]
    pub append: String,
    /// Take what this file of VMware's says of the machine, its disks, its network and of debuggers, and the command line leaves
    /// open
    #[arg(long, value_name = "FILE")]
    pub vmx: Option<PathBuf>,
    /// RAM: MiB, or with a unit: 512, 512M, 2G [default: 512]
    #[arg(short, long, value_name = "SIZE", value_parser = memory)]
    pub memory: Option<RamLayout>,
    /// Its processors
    #[command(flatten)]
    pub processors: Processors,
    /// CPU model with options, for example dejavm-v2,+aes
    #[arg(long, value_name = "MODEL", default_value = "dejavm-v2")]
    pub cpu: Model,
    /// Keep kernel and initrd out of the recording: only path, length and hash
    #[arg(long)]
    pub external: bool,
    /// What the guest's real-time clock shows at start, in seconds since 1970 [default: now]
    #[arg(long, value_name = "SECONDS")]
    pub rtc_epoch: Option<u64>,
    /// Random bytes
    #[command(flatten)]
    pub entropy: EntropyOptions,
    /// The recording
    #[command(flatten)]
    pub recording: Recording,
}

/// `dejavm pack`.
#[derive(Debug, Args)]
pub struct Pack {
    /// The recording
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Images elsewhere
    #[command(flatten)]
    pub images: Images,
    /// Leave the recording as it is, and write another
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `dejavm branch`.
#[derive(Debug, Args)]
pub struct Branch {
    /// The recording to branch from; it stays as it is
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Where: a position, the name of a mark, `start` or `end`
    #[arg(long, value_name = "POSITION|MARK")]
    pub at: String,
    /// Images elsewhere
    #[command(flatten)]
    pub images: Images,
    /// Deal its turns otherwise
    #[command(flatten)]
    pub schedule: Schedule,
    /// The branch's own recording
    #[command(flatten)]
    pub recording: Recording,
}

/// `dejavm snapshot`.
#[derive(Debug, Args)]
pub struct Snapshot {
    /// The recording; it stays as it is
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Where: a position, the name of a mark, `start` or `end`
    #[arg(long, value_name = "POSITION|MARK")]
    pub at: String,
    /// The checkpoint to write, .vmss or .vmsn; guest memory goes into the .vmem beside it
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Images elsewhere
    #[command(flatten)]
    pub images: Images,
    /// Write guest memory into the checkpoint itself, as ESX did
    #[arg(long)]
    pub embed: bool,
    /// Compress by zstd, to ship: .vmss.zst and .vmem.zst, which vmss2core and `record --from` read as they are
    #[arg(long)]
    pub compress: bool,
    /// Overwrite files that exist
    #[arg(long)]
    pub force: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `dejavm disk`.
#[derive(Debug, Args)]
pub struct Disk {
    /// The recording; it stays as it is
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Where: a position, the name of a mark, `start` or `end`
    #[arg(long, value_name = "POSITION|MARK", default_value = "end")]
    pub at: String,
    /// The image to write, raw, with holes for zeros
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Which drive, from 0 on, as `dejavm info` lists them [default: the only one that the guest can write]
    #[arg(long, value_name = "N")]
    pub drive: Option<usize>,
    /// Overwrite a file that exists
    #[arg(long)]
    pub force: bool,
    /// Images elsewhere
    #[command(flatten)]
    pub images: Images,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `dejavm screenshot`.
#[derive(Debug, Args)]
pub struct Screenshot {
    /// The recording
    #[arg(value_name = "RECORDING")]
    pub file: PathBuf,
    /// The picture to write, as PNG
    #[arg(value_name = "FILE")]
    pub output: PathBuf,
    /// Where: a position, the name of a mark, `start` or `end`
    #[arg(long, value_name = "POSITION|MARK", default_value = "end")]
    pub at: String,
    /// Images elsewhere
    #[command(flatten)]
    pub images: Images,
    /// Print the text on the screen too, in text modes
    #[arg(long)]
    pub text: bool,
    /// Overwrite a file that exists
    #[arg(long)]
    pub force: bool,
    /// Print the result as JSON, with the text
    #[arg(long)]
    pub json: bool,
}

/// How a live machine is recorded.
#[derive(Clone, Debug, Args)]
pub struct Recording {
    /// The recording to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Overwrite the recording if it exists
    #[arg(long)]
    pub force: bool,
    /// How the guest's idle time passes [default: realtime on a terminal, with a network or --vnc, else skip]
    #[arg(long, value_name = "HOW")]
    pub idle: Option<IdlePolicy>,
    /// Instructions between digests; 0: only one at the end
    #[arg(long, value_name = "N", default_value_t = 1 << 28)]
    pub digest_interval: u64,
    /// Instructions between checkpoints in the recording, from which a replay can start; 0: none
    /// [default: as often as 5 % of the time allows]
    #[arg(long, value_name = "N")]
    pub checkpoint_interval: Option<u64>,
    /// What checkpoints may add to the recording: MiB, or with a unit [default: 30 % of the guest's
    /// memory]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub checkpoint_size: Option<u64>,
    /// Stop at this position
    #[arg(long, value_name = "POSITION")]
    pub until: Option<u64>,
    /// Write no recording: for measuring what one costs
    #[arg(long, hide = true, conflicts_with_all = ["until", "gdb"])]
    pub no_log: bool,
    /// Put what it needs of disk images into the recording when it has ended, as `dejavm pack` does
    #[arg(long, conflicts_with = "no_log")]
    pub pack: bool,
    /// The network
    #[command(flatten)]
    pub network: NetworkOptions,
    /// The serial ports
    #[command(flatten)]
    pub serial: SerialOptions,
    /// Show the guest's screen to VNC viewers, whose keys and mouse are the guest's: at a port of 127.0.0.1, ADDR:PORT (there is no
    /// password), a display number as in :1 (port 5901), or unix:PATH
    #[arg(long, value_name = "[ADDR:]PORT|unix:PATH", conflicts_with = "no_log")]
    pub vnc: Option<view::Address>,
    /// Where debuggers may come
    #[command(flatten)]
    pub gdb: LiveGdb,
    /// Where and how the result is told
    #[command(flatten)]
    pub report: Report,
    /// What executes
    #[command(flatten)]
    pub tuning: TuningOptions,
}

/// A debugger on a live machine.
#[derive(Clone, Debug, Args)]
pub struct LiveGdb {
    /// Let gdb attach, on 127.0.0.1:8864 (8832 for 32-bit guests) or at PORT, HOST, HOST:PORT or a unix
    /// socket's path; the guest runs until one comes
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub gdb: Option<Address>,
    /// The guest starts only when a debugger has come and lets it
    #[arg(long, requires = "gdb")]
    pub gdb_wait: bool,
    /// Whether gdb sees a guest of 64 bits [default: as the kernel is]
    #[arg(long, value_name = "32|64", requires = "gdb", value_parser = ["32", "64"])]
    pub gdb_bits: Option<String>,
}

/// `dejavm replay`.
#[derive(Debug, Args)]
pub struct Replay {
    /// The recording
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Images elsewhere
    #[command(flatten)]
    pub images: Images,
    /// Do not print the guest's console
    #[arg(short, long)]
    pub quiet: bool,
    /// Stop at this position
    #[arg(long, value_name = "POSITION", conflicts_with = "gdb")]
    pub until: Option<u64>,
    /// Wait for gdb, on 127.0.0.1:8864 (8832 for 32-bit guests) or at PORT, HOST, HOST:PORT or a unix
    /// socket's path
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub gdb: Option<Address>,
    /// Whether gdb sees a guest of 64 bits [default: as the recording tells]
    #[arg(long, value_name = "32|64", requires = "gdb", value_parser = ["32", "64"])]
    pub gdb_bits: Option<String>,
    /// Where what the serial ports sent is written
    #[command(flatten)]
    pub serial: SerialOptions,
    /// Show the guest's screen to VNC viewers, who only look, at a port of 127.0.0.1, ADDR:PORT (there is no password), a display
    /// number as in :1 (port 5901), or unix:PATH. The replay starts when one comes, and its end stays until all have left; with
    /// --gdb they see where it stands
    #[arg(long, value_name = "[ADDR:]PORT|unix:PATH")]
    pub vnc: Option<view::Address>,
    /// Where and how the result is told
    #[command(flatten)]
    pub report: Report,
    /// What executes
    #[command(flatten)]
    pub tuning: TuningOptions,
}

/// `dejavm verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// The recording
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Stop at this position
    #[arg(long, value_name = "POSITION")]
    pub until: Option<u64>,
    /// Images elsewhere
    #[command(flatten)]
    pub images: Images,
    /// Run interpreter and translator side by side: compare all registers and devices every N
    /// instructions, memory at every digest, and say where they differ
    #[arg(long, value_name = "N", conflicts_with = "engine", value_parser = clap::value_parser!(u64).range(1..))]
    pub lockstep: Option<u64>,
    /// A mistake that the translator is to make, for tests: POSITION or POSITION,memory
    #[arg(long, value_name = "WHERE", hide = true, requires = "lockstep", value_parser = crate::lockstep::mistake)]
    pub lockstep_mistake: Option<InjectedMistake>,
    /// Progress on standard error, even where it is no terminal
    #[arg(long)]
    pub progress: bool,
    /// The result as one JSON object
    #[arg(long)]
    pub json: bool,
    /// What executes
    #[command(flatten)]
    pub tuning: TuningOptions,
}

/// Where a command's result, the guest's console and the progress go.
#[derive(Clone, Debug, Args)]
pub struct Report {
    /// Progress on standard error, even where it is no terminal
    #[arg(long)]
    pub progress: bool,
    /// The result as one JSON object on standard output; the guest's console goes to standard error
    #[arg(long)]
    pub json: bool,
    /// The guest's console goes to this file: the serial port on stdio, COM1 unless --serial tells
    #[arg(long, value_name = "FILE")]
    pub console: Option<PathBuf>,
    /// What the guest writes to the debug console (ports 0x402 and 0xe9: firmware's log) goes to this file; -: to standard error
    #[arg(long, value_name = "FILE")]
    pub debug_console: Option<PathBuf>,
}

/// What executes, and disturbances: no guest can see any of it, and no recording knows of it.
#[derive(Clone, Debug, Args)]
pub struct TuningOptions {
    /// What executes the guest: soft (the software CPU: translates code that runs often), soft,interp
    /// (interprets all of it), soft,reference (interprets one instruction at a time in the plainest way: very
    /// slow), which do exactly the same, so that no recording says which it was; kvm (the host's processor,
    /// with what `dejavm doctor` says of it); auto (kvm where every replay of it is exact, else soft)
    #[arg(long, value_name = "ENGINE", default_value = "soft")]
    pub engine: Engine,
    /// Slots of the software TLB in use, 1 to 4096
    #[arg(long, value_name = "N", hide = true, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub tlb_slots: Option<u16>,
    /// Flush the software TLB at random moments
    #[arg(long, value_name = "SEED", hide = true)]
    pub tlb_flush_seed: Option<u64>,
    /// How often a block is entered before it is translated, 0 to 255
    #[arg(long, value_name = "N", hide = true)]
    pub translate_after: Option<u8>,
    /// Interpret translated blocks at random moments
    #[arg(long, value_name = "SEED", hide = true)]
    pub mix_seed: Option<u64>,
    /// Bytes of host memory for translations
    #[arg(long, value_name = "N", hide = true)]
    pub code_bytes: Option<usize>,
}

impl TuningOptions {
    /// As the CPU takes it.
    pub fn tuning(&self) -> Tuning {
        let default = Tuning::default();
        Tuning {
            tlb_slots: self.tlb_slots.map_or(default.tlb_slots, usize::from),
            flush_seed: self.tlb_flush_seed,
            engine: self.engine.into(),
            translate_after: self.translate_after.unwrap_or(default.translate_after),
            mix_seed: self.mix_seed,
            code_bytes: self.code_bytes.unwrap_or(default.code_bytes),
        }
    }
}

/// `dejavm info`.
#[derive(Debug, Args)]
pub struct Info {
    /// The recording
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The result as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `dejavm marks`.
#[derive(Debug, Args)]
pub struct Marks {
    /// The recording
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Images elsewhere
    #[command(flatten)]
    pub images: Images,
    /// Give a position this name, which another position loses
    #[arg(long, value_name = "NAME", requires = "at")]
    pub add: Option<String>,
    /// The position to name
    #[arg(long, value_name = "POSITION", requires = "add")]
    pub at: Option<u64>,
    /// The result as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `dejavm ls`.
#[derive(Debug, Args)]
pub struct Ls {
    /// The folder
    #[arg(value_name = "DIR", default_value = ".")]
    pub folder: PathBuf,
    /// The result as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `dejavm doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// The result as one JSON object
    #[arg(long)]
    pub json: bool,
    /// What `doctor` runs in a process of its own
    #[arg(long, hide = true)]
    pub probe_kvm: bool,
}

/// `dejavm demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// The result as one JSON object on standard output; the guest's console goes to standard error
    #[arg(long)]
    pub json: bool,
    /// What executes
    #[command(flatten)]
    pub tuning: TuningOptions,
}

/// `dejavm help`.
#[derive(Debug, Args)]
pub struct Help {
    /// A command, or `exit-codes`
    pub topic: Option<String>,
}

/// `512`, `512M`, `2G`: MiB unless a unit follows.
fn memory(text: &str) -> Result<RamLayout, String> {
    RamLayout::new(bytes(text)?).map_err(|error| error.to_string())
}

/// `512`, `512M`, `2G`: MiB unless a unit follows.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "M" | "m" | "MiB" => 1u64 << 20,
        "G" | "g" | "GiB" => 1 << 30,
        "K" | "k" | "KiB" => 1 << 10,
        _ => return Err("a size is a number of MiB, or one with K, M or G".into()),
    };
    let number: u64 =
        digits.parse().map_err(|_| "a size is a number of MiB, or one with K, M or G")?;
    Ok(number.saturating_mul(unit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn sizes_of_ram() {
        for (text, bytes) in
            [("512", 512 << 20), ("512M", 512 << 20), ("2G", 2 << 30), ("4096K", 4 << 20)]
        {
            assert_eq!(memory(text).map(|layout| layout.total_bytes()), Ok(bytes), "{text}");
        }
        for text in ["", "M", "-1", "1T", "1.5G", "0", "1", "65G", "99999999999999999999G", "3073K"]
        {
            assert!(memory(text).is_err(), "{text}");
        }
    }
}

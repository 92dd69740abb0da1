//! The command line: the product's options, as people remember them, and words of our own.

mod usage;

pub use usage::USAGE;

use dejavm_linux::LinuxOffsets;
use dejavm_units::Gva;
use std::num::NonZero;
use std::path::PathBuf;

/// What is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Whatever the guest's operating system wants.
    Auto(LinuxOptions, WindowsOptions),
    /// A core of each processor's address space, or of one's.
    Linear(Option<usize>),
    /// A core of physical memory.
    Physical,
    /// A core of a Linux kernel.
    Linux(LinuxOptions),
    /// The list of a Linux guest's processes, on standard output.
    Processes(LinuxOptions),
    /// A core of one process of a Linux guest.
    Process(u32, LinuxOptions),
    /// A crash dump of a Windows guest.
    Windows(WindowsOptions),
    /// A Mach-O core of a macOS guest, with its kernel.
    MacOs(MacOptions),
    /// A core of what an EFI firmware was doing when it met an exception, with the address of its context if it is known.
    Firmware(Option<Gva>),
}

/// How a core of Linux is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinuxOptions {
    /// `-l`: where things are in the kernel's structures.
    pub offsets: Option<LinuxOffsets>,
    /// `-N4`, `-N6`: the kernel is of this series.
    pub series: Option<Series>,
    /// `-O`: how far the kernel runs from where it was linked.
    pub slide: Option<u64>,
    /// kdump's compressed format instead of ELF.
    pub kdump: Option<Compression>,
    /// Leave out pages that nobody uses.
    pub without_free: bool,
}

/// A series of Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Series {
    /// 2.4
    Two4,
    /// 2.6 and what followed
    Two6,
}

/// Of pages in kdump's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Read by everything.
    Zlib,
    /// Faster and smaller; read by programs since 2022.
    Zstd,
    /// Pages as they are.
    None,
}

/// How a dump of Windows is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WindowsOptions {
    /// `-W<num>`: the build number, in decimal.
    pub build: Option<u32>,
    /// `-W8`, `-W8DDB`: the debugger's data block is encoded. We find out ourselves.
    pub is_encoded: bool,
    /// `-WK`: memory of the kernel only.
    pub kernel_only: bool,
    /// `-WDDB`, `-W8DDB`: where the debugger's data block is.
    pub debugger_data: Option<Gva>,
    /// `-WSCAN`: search all memory for it.
    pub scan_all: bool,
    /// A bitmap of pages instead of runs: zero pages take no room.
    pub bitmap: bool,
}

/// How a core of macOS is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MacOptions {
    /// `-X64`
    pub is_64: bool,
    /// The kernel, from the guest's disk.
    pub kernel: PathBuf,
}

/// A conversion, asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What.
    pub kind: Kind,
    /// Of which file.
    pub input: PathBuf,
    /// Its memory, if it is named.
    pub memory: Option<PathBuf>,
    /// Where to write.
    pub output: Option<PathBuf>,
    /// Say nothing but errors.
    pub quiet: bool,
    /// The result for programs.
    pub json: bool,
    /// How many threads, if it was said.
    pub threads: Option<NonZero<usize>>,
}

/// The command line, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Print the usage.
    Help,
    /// Print the version.
    Version,
    /// List groups and tags.
    Dump {
        /// The checkpoint.
        state: PathBuf,
        /// For programs.
        json: bool,
    },
    /// Make cores.
    Convert(Box<Request>),
}

/// Each takes memory; more do nothing more.
const THREADS_MAX: usize = 256;

/// What words have said so far.
#[derive(Default)]
struct Words {
    /// What is to be made, and the word that said so.
    chosen: Option<(Chosen, String)>,
    linux: LinuxOptions,
    windows: WindowsOptions,
    files: Vec<PathBuf>,
    output: Option<PathBuf>,
    quiet: bool,
    json: bool,
    threads: Option<NonZero<usize>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Chosen {
    Auto,
    Linear(Option<usize>),
    Physical,
    Linux,
    Processes,
    Process(u32),
    Windows,
    MacOs(MacOptions),
    Firmware(Option<Gva>),
}

impl Command {
    /// Understands a command line without the program's name, or says what is wrong with it.
    pub fn parse(arguments: &[String]) -> Result<Command, String> {
        let has = |words: [&str; 2]| arguments.iter().any(|word| words.contains(&word.as_str()));
        if arguments.is_empty() || has(["--help", "-h"]) {
            return Ok(Command::Help);
        }
        if has(["--version", "-V"]) {
            return Ok(Command::Version);
        }
        if arguments[0] == "dump" {
            return parse_dump(&arguments[1..]);
        }
        let mut words = Words::default();
        let mut rest = arguments.iter().map(String::as_str);
        while let Some(word) = rest.next() {
            match word.split_once('=').filter(|_| word.starts_with("--")) {
                // The one option whose value the product has in the same word.
                Some(("--firmware", value)) => {
                    let at = Gva(hexadecimal("--firmware", value)?);
                    words.choose(Chosen::Firmware(Some(at)), "--firmware")?;
                }
                Some((name, value)) => {
                    let mut value = std::iter::once(value);
                    words.take(name, &mut value)?;
                    if value.next().is_some() {
                        return Err(format!("{name} takes no value"));
                    }
                }
                None => words.take(word, &mut rest)?,
            }
        }
        words.request().map(|request| Command::Convert(Box::new(request)))
    }
}

fn parse_dump(arguments: &[String]) -> Result<Command, String> {
    let (options, files): (Vec<_>, Vec<_>) =
        arguments.iter().partition(|word| word.starts_with('-'));
    let [state] = files[..] else { return Err("dump wants one checkpoint".into()) };
    match options[..] {
        [] => Ok(Command::Dump { state: state.into(), json: false }),
        [word] if word == "--json" => Ok(Command::Dump { state: state.into(), json: true }),
        _ => Err(format!("dump has no option {}", options[0])),
    }
}

impl Words {
    fn take<'a>(
        &mut self,
        word: &'a str,
        rest: &mut dyn Iterator<Item = &'a str>,
    ) -> Result<(), String> {
        let mut value = |what: &str| rest.next().ok_or_else(|| format!("{word} wants {what}"));
        match word {
            "-q" | "--quiet" => self.quiet = true,
            "--json" => self.json = true,
            "-o" | "--output" => self.output = Some(value("the name of a file")?.into()),
            "--threads" => {
                let number = value("a number")?;
                let parsed = number.parse().ok();
                let parsed =
                    parsed.filter(|&threads: &NonZero<usize>| threads.get() <= THREADS_MAX);
                self.threads = Some(parsed.ok_or_else(|| {
                    format!(
                        "--threads wants a number from 1 to {THREADS_MAX}, and that is not {number}"
                    )
                })?);
            }
            "--auto" => self.choose(Chosen::Auto, word)?,
            "-M" | "--physical" => self.choose(Chosen::Physical, word)?,
            "-U" | "--vcpu" => {
                let number = value("the number of a processor")?;
                let parsed = number.parse().ok();
                let n = parsed.ok_or_else(|| {
                    format!("{word} wants the number of a processor, and that is not {number}")
                })?;
                self.choose(Chosen::Linear(Some(n)), word)?;
            }
            "-N" | "--linux" => self.choose(Chosen::Linux, word)?,
            "-N4" | "-N6" | "--linux-2.4" | "--linux-2.6" => {
                self.linux.series = Some(if matches!(word, "-N4" | "--linux-2.4") {
                    Series::Two4
                } else {
                    Series::Two6
                });
                self.choose(Chosen::Linux, word)?;
            }
            "-l" | "--offsets" => {
                let line = value("a line of offsets, as getlinuxoffsets prints it")?;
                self.linux.offsets = Some(line.parse().map_err(|error| format!("{error}"))?);
            }
            "-O" | "--slide" => self.linux.slide = Some(hexadecimal(word, value("a number")?)?),
            "--kdump" => {
                self.linux.kdump.get_or_insert(Compression::Zlib);
                self.choose(Chosen::Linux, word)?;
            }
            "--compress" => {
                self.linux.kdump = Some(match value("zlib, zstd or none")? {
                    "zlib" => Compression::Zlib,
                    "zstd" => Compression::Zstd,
                    "none" => Compression::None,
                    other => {
                        return Err(format!("--compress knows zlib, zstd and none, not {other}"));
                    }
                });
                self.choose(Chosen::Linux, "--kdump")?;
            }
            "--without-free" => self.linux.without_free = true,
            "-P" | "--processes" => self.choose(Chosen::Processes, word)?,
            "--process" => self.process(word, value("a process id")?)?,
            "-W" | "--windows" | "-W8" | "--windows-8" => {
                self.windows.is_encoded |= matches!(word, "-W8" | "--windows-8");
                self.choose(Chosen::Windows, "-W")?;
            }
            "-WK" | "--kernel-only" => self.windows(|windows| windows.kernel_only = true)?,
            "-WSCAN" | "--scan" => self.windows(|windows| windows.scan_all = true)?,
            "--bitmap" => self.windows(|windows| windows.bitmap = true)?,
            "--build" => {
                let number = value("a build number")?;
                self.build(word, number)?;
            }
            "--debugger-data" => {
                let at = Gva(hexadecimal(word, value("an address")?)?);
                self.windows(|windows| windows.debugger_data = Some(at))?;
            }
            "-X32" | "-X64" | "--macos-32" | "--macos-64" => {
                let kernel = value("the guest's mach_kernel")?.into();
                self.choose(
                    Chosen::MacOs(MacOptions { is_64: word.ends_with("64"), kernel }),
                    word,
                )?;
            }
            "-F" | "--firmware" => self.choose(Chosen::Firmware(None), word)?,
            _ => self.take_joined(word)?,
        }
        Ok(())
    }

    /// Options with their values in the same word, and files.
    fn take_joined(&mut self, word: &str) -> Result<(), String> {
        let after = |prefix: &str| word.strip_prefix(prefix).filter(|rest| !rest.is_empty());
        if let Some(address) = after("-W8DDB").or_else(|| after("-WDDB")) {
            let at = Gva(hexadecimal("-WDDB", address)?);
            self.windows.is_encoded |= word.starts_with("-W8");
            return self.windows(|windows| windows.debugger_data = Some(at));
        }
        if let Some(number) = after("-W") {
            return self.build("-W", number);
        }
        if let Some(id) = after("-P") {
            return self.process("-P", id);
        }
        if let Some(number) = after("-U") {
            let n = number.parse().map_err(|_| {
                format!("-U wants the number of a processor, and that is not {number}")
            })?;
            return self.choose(Chosen::Linear(Some(n)), "-U");
        }
        if let Some(address) = after("-F") {
            let at = Gva(hexadecimal("-F", address)?);
            return self.choose(Chosen::Firmware(Some(at)), "-F");
        }
        if word.starts_with("-S") {
            return Err(format!("{word}: cores of Solaris guests are not supported"));
        }
        if word.starts_with('-') {
            return Err(format!("there is no option {word}"));
        }
        self.files.push(word.into());
        Ok(())
    }

    fn choose(&mut self, chosen: Chosen, word: &str) -> Result<(), String> {
        match &self.chosen {
            // What is made is for the guest to say; these say how.
            Some((Chosen::Auto, _)) if matches!(chosen, Chosen::Linux | Chosen::Windows) => Ok(()),
            Some((before, earlier)) if *before != chosen => {
                Err(format!("{earlier} and {word} ask for different things; say one"))
            }
            _ => {
                self.chosen = Some((chosen, word.to_owned()));
                Ok(())
            }
        }
    }

    fn windows(&mut self, change: impl FnOnce(&mut WindowsOptions)) -> Result<(), String> {
        change(&mut self.windows);
        if matches!(self.chosen, Some((Chosen::Auto, _))) {
            return Ok(());
        }
        self.choose(Chosen::Windows, "-W")
    }

    fn build(&mut self, word: &str, number: &str) -> Result<(), String> {
        let build = number
            .parse()
            .map_err(|_| format!("{word} wants a build number, and that is not {number}"))?;
        self.windows(|windows| windows.build = Some(build))
    }

    fn process(&mut self, word: &str, id: &str) -> Result<(), String> {
        let id =
            id.parse().map_err(|_| format!("{word} wants a process id, and that is not {id}"))?;
        self.choose(Chosen::Process(id), word)
    }

    fn request(self) -> Result<Request, String> {
        let chosen = self.chosen.map_or(Chosen::Linear(None), |(chosen, _)| chosen);
        let is_linux =
            matches!(chosen, Chosen::Auto | Chosen::Linux | Chosen::Processes | Chosen::Process(_));
        if self.linux != LinuxOptions::default() && !is_linux {
            return Err("-l, -O and --without-free go with -N or -P".into());
        }
        if self.linux.without_free && self.linux.kdump.is_none() {
            return Err("--without-free goes with --kdump: an ELF core has all of memory".into());
        }
        let kind = match chosen {
            Chosen::Auto => Kind::Auto(self.linux, self.windows),
            Chosen::Linear(only) => Kind::Linear(only),
            Chosen::Physical => Kind::Physical,
            Chosen::Linux => Kind::Linux(self.linux),
            Chosen::Processes => Kind::Processes(self.linux),
            Chosen::Process(id) => Kind::Process(id, self.linux),
            Chosen::Windows => Kind::Windows(self.windows),
            Chosen::MacOs(options) => Kind::MacOs(options),
            Chosen::Firmware(at) => Kind::Firmware(at),
        };
        let mut files = self.files.into_iter();
        let input = files.next().ok_or("no checkpoint is named")?;
        let memory = files.next();
        if let Some(file) = files.next() {
            return Err(format!("{}: one checkpoint and its memory are enough", file.display()));
        }
        let (output, quiet, json, threads) = (self.output, self.quiet, self.json, self.threads);
        Ok(Request { kind, input, memory, output, quiet, json, threads })
    }
}

/// A number in hexadecimal, with or without `0x`.
fn hexadecimal(word: &str, text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    let digits = digits.replace('`', "");
    u64::from_str_radix(&digits, 16)
        .map_err(|_| format!("{word} wants a hexadecimal number, and that is not {text}"))
}

#[cfg(test)]
mod tests;

//! The command line: the product's options, as people remember them, and a few words more.

use std::path::PathBuf;

/// What is printed without arguments.
pub const USAGE: &str = "\
vmss2core: makes core files of VMware checkpoints

usage: vmss2core [options] X.vmss [X.vmem]
       vmss2core dump [--json] X.vmss

Without options: a core of each processor's address space, for gdb: vmss.core0, vmss.core1, ...
  -U i       of processor i only
  -M         a core of physical memory: vmss.core
  -N, -N6    a core of a Linux guest, for crash, drgn and makedumpfile: vmss.core
  -q         say nothing but errors
  -o FILE    where to write, instead of vmss.core (a number is appended where there are several)
  --help     this text
dump: the groups and tags of a checkpoint

Options of the product that this version does not have yet, and refuses by name:
  -l STR, -N4, -O x, -P, -P<pid>, -S..., -W..., -X32, -X64, -F
";

/// What is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A core of each processor's address space, or of one's.
    Linear(Option<usize>),
    /// A core of physical memory.
    Physical,
    /// A core of a Linux guest.
    Linux,
}

/// The command line, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Print the usage.
    Help,
    /// List groups and tags.
    Dump {
        /// The checkpoint.
        state: PathBuf,
        /// For programs.
        json: bool,
    },
    /// Make cores.
    Convert {
        /// Which.
        kind: Kind,
        /// The checkpoint.
        state: PathBuf,
        /// Its memory, if it is named.
        memory: Option<PathBuf>,
        /// Where to write.
        output: PathBuf,
        /// Say nothing but errors.
        quiet: bool,
    },
}

impl Command {
    /// Understands a command line without the program's name, or says what is wrong with it.
    pub fn parse(arguments: &[String]) -> Result<Command, String> {
        if arguments.is_empty() || arguments.iter().any(|word| word == "--help" || word == "-h") {
            return Ok(Command::Help);
        }
        if arguments[0] == "dump" {
            let (options, files): (Vec<_>, Vec<_>) =
                arguments[1..].iter().partition(|word| word.starts_with('-'));
            let [state] = files[..] else { return Err("dump wants one checkpoint".into()) };
            return match options[..] {
                [] => Ok(Command::Dump { state: state.into(), json: false }),
                [word] if word == "--json" => Ok(Command::Dump { state: state.into(), json: true }),
                _ => Err(format!("dump has no option {}", options[0])),
            };
        }
        let (mut kind, mut quiet, mut output) =
            (Kind::Linear(None), false, PathBuf::from("vmss.core"));
        let mut files = Vec::new();
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "-q" => quiet = true,
                "-M" => kind = Kind::Physical,
                "-N" | "-N6" => kind = Kind::Linux,
                "-U" => {
                    let number = words.next().and_then(|number| number.parse().ok());
                    kind = Kind::Linear(Some(number.ok_or("-U wants the number of a processor")?));
                }
                "-o" => output = words.next().ok_or("-o wants the name of a file")?.into(),
                word if word.starts_with("-S") => {
                    return Err(format!("{word}: cores of Solaris guests are not supported"));
                }
                word if is_of_the_product(word) => {
                    return Err(format!(
                        "{word}: this version does not have that option of the product yet"
                    ));
                }
                word if word.starts_with('-') => return Err(format!("there is no option {word}")),
                file => files.push(PathBuf::from(file)),
            }
        }
        let mut files = files.into_iter();
        let state = files.next().ok_or("no checkpoint is named")?;
        let memory = files.next();
        match files.next() {
            Some(file) => {
                Err(format!("{}: one checkpoint and its memory are enough", file.display()))
            }
            None => Ok(Command::Convert { kind, state, memory, output, quiet }),
        }
    }
}

fn is_of_the_product(word: &str) -> bool {
    matches!(word, "-l" | "-N4" | "-O" | "-X32" | "-X64")
        || word.starts_with("-P")
        || word.starts_with("-W")
        || word.starts_with("-F")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Command::parse(&words)
    }

    #[test]
    fn the_products_command_lines() {
        assert_eq!(parse(""), Ok(Command::Help));
        let convert = |kind, memory: Option<&str>| Command::Convert {
            kind,
            state: "x.vmss".into(),
            memory: memory.map(PathBuf::from),
            output: "vmss.core".into(),
            quiet: false,
        };
        assert_eq!(parse("x.vmss"), Ok(convert(Kind::Linear(None), None)));
        assert_eq!(parse("-N6 x.vmss y.vmem"), Ok(convert(Kind::Linux, Some("y.vmem"))));
        assert_eq!(parse("-U 3 x.vmss"), Ok(convert(Kind::Linear(Some(3)), None)));
        assert_eq!(parse("-M x.vmss"), Ok(convert(Kind::Physical, None)));
        for line in [
            "-W8 x.vmss",
            "-P12 x.vmss",
            "-S64SYMx x.vmss",
            "-Q x.vmss",
            "-U x.vmss",
            "-M",
            "a b c",
            "dump",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        assert_eq!(parse("-S32 x").unwrap_err(), "-S32: cores of Solaris guests are not supported");
    }
}

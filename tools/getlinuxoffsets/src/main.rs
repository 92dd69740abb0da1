//! `getlinuxoffsets`: the line for `monitor linuxoffsets`, from what there is of a kernel: its BTF, its symbols through gdb, or
//! its headers through a compiler.
#![forbid(unsafe_code)]

mod btf;
mod fields;
mod gdb;
mod headers;

use clap::{Parser, Subcommand};
use dejavm_linux::{FIELDS, LinuxOffsets};
use std::path::PathBuf;
use std::process::ExitCode;

/// Prints the line that `monitor linuxoffsets` takes: [-l] and 14 hexadecimal fields, 0 for what the kernel does not have.
#[derive(Parser)]
#[command(name = "getlinuxoffsets", version)]
struct Arguments {
    #[command(subcommand)]
    from: From,
    /// Also say what each field is, on standard error
    #[arg(long, global = true)]
    explain: bool,
}

#[derive(Subcommand)]
enum From {
    /// From a kernel's type information: a vmlinux with a .BTF section, or the bare bytes
    Btf {
        /// The file
        #[arg(default_value = "/sys/kernel/btf/vmlinux")]
        file: PathBuf,
        /// The kernel's version such as 6.1.176, if the file does not tell [default: of the running kernel for /sys]
        #[arg(long, value_name = "VERSION")]
        kernel_version: Option<String>,
        /// THREAD_SIZE in bytes, if the file does not tell [default: 8192 for 32 bits, 16384 for 64]
        #[arg(long, value_name = "BYTES")]
        thread_size: Option<u64>,
    },
    /// From a kernel with debugging symbols, asked through gdb
    Gdb {
        /// vmlinux, or any object that has the types
        file: PathBuf,
        /// The debugger
        #[arg(long, default_value = "gdb", value_name = "PROGRAM")]
        gdb: PathBuf,
    },
    /// From a kernel's headers, compiled
    Headers {
        /// The headers as modules are built with, such as /lib/modules/6.1.0-50-amd64/build
        folder: PathBuf,
        /// The compiler, which takes gcc's options
        #[arg(long, default_value = "gcc", value_name = "PROGRAM")]
        cc: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let line = match &arguments.from {
        From::Btf { file, kernel_version, thread_size } => {
            btf::offsets(file, kernel_version.as_deref(), *thread_size)
        }
        From::Gdb { file, gdb } => gdb::offsets(file, gdb),
        From::Headers { folder, cc } => headers::offsets(folder, cc),
    };
    match line.and_then(|offsets| checked(&offsets)) {
        Ok(line) => {
            println!("{line}");
            if arguments.explain {
                let values = line.trim_start_matches("-l ").split(',');
                for ((field, meaning), value) in FIELDS.iter().zip(values) {
                    eprintln!("{value:>10}  {field}: {meaning}");
                }
            }
            ExitCode::SUCCESS
        }
        Err(sentence) => {
            eprintln!("getlinuxoffsets: {sentence}");
            ExitCode::FAILURE
        }
    }
}

/// A line that the debugger would refuse is not printed.
fn checked(offsets: &LinuxOffsets) -> Result<String, String> {
    let line = offsets.to_string();
    match line.parse::<LinuxOffsets>() {
        Ok(_) => Ok(line),
        Err(refused) => Err(format!("what was found is no kernel's: {refused}")),
    }
}

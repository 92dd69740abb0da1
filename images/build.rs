//! Assembles `guests/*.S` with gcc and links each with ld into a 32-bit ELF in `OUT_DIR`.

use std::path::Path;
use std::process::Command;
use std::{env, fs, io};

fn main() {
    let out_dir = env::var("OUT_DIR").expect("cargo sets OUT_DIR for build scripts");
    let out_dir = Path::new(&out_dir);
    let guests = Path::new("guests");
    println!("cargo::rerun-if-changed=guests");

    let mut sources: Vec<_> = fs::read_dir(guests)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>())
        .expect("images/guests is readable");
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "S"));
    sources.sort();

    for source in sources {
        println!("cargo::rerun-if-changed={}", source.display());
        let object = out_dir.join(source.with_extension("o").file_name().expect("guests/NAME.S"));
        let elf = object.with_extension("elf");
        run(Command::new("gcc").args(["-m32", "-c", "-o"]).arg(&object).arg(&source));
        // No build id: the file's bytes depend on the source alone.
        run(Command::new("ld")
            .args(["-m", "elf_i386", "--build-id=none", "-T"])
            .arg(guests.join("guest.ld"))
            .arg("-o")
            .arg(&elf)
            .arg(&object));
    }
}

/// Runs an assembler or linker; the build fails with its message, or with what to install.
fn run(command: &mut Command) {
    let program = command.get_program().to_string_lossy().into_owned();
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{command:?}: {status}"),
        Err(error) => panic!(
            "cannot run {program}: {error}; the guests of images/ need gcc and binutils on an x86 host \
             (apt-get install gcc binutils)"
        ),
    }
}

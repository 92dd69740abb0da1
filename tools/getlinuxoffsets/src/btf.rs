//! From BTF: the kernel's own description of its types.

use dejavm_linux::{Btf, Layout, LinuxOffsets};
use memchr::memmem;
use object::{Object, ObjectSection, ObjectSymbol};
use std::fs;
use std::path::Path;

/// Reads a vmlinux or the bare bytes of its `.BTF`.
pub fn offsets(
    file: &Path,
    version: Option<&str>,
    thread_size: Option<u64>,
) -> Result<LinuxOffsets, String> {
    let name = file.display();
    let data = fs::read(file).map_err(|error| format!("{name}: {error}"))?;
    let mut said = Said::default();
    let types = if data.starts_with(b"\x7fELF") {
        said = elf(&data).map_err(|error| format!("{name}: {error}"))?;
        said.btf
            .take()
            .ok_or_else(|| format!("{name} has no .BTF section: try `getlinuxoffsets gdb`"))?
    } else {
        data
    };
    let types = Btf::parse(&types).ok_or_else(|| {
        format!("{name} is neither BTF nor a vmlinux with BTF (a vmlinuz must be unpacked first)")
    })?;
    let pointer_bytes =
        types.pointer_bytes().ok_or_else(|| format!("{name} does not say how long a `long` is"))?;
    let mut layout = Layout::from_btf(&types, pointer_bytes)
        .ok_or_else(|| format!("{name} has no `task_struct`: is it a module's?"))?;
    let usual = if pointer_bytes == 8 { 0x4000 } else { 0x2000 };
    layout.thread_size = Some(thread_size.or(said.thread_size).unwrap_or(usual));
    let running = || {
        file.starts_with("/sys").then(|| fs::read_to_string("/proc/sys/kernel/osrelease").ok())?
    };
    let version = version.map(str::to_owned).or(said.version).or_else(running).unwrap_or_default();
    Ok(LinuxOffsets::of(&layout, version.trim()))
}

/// What an ELF image says besides.
#[derive(Default)]
struct Said {
    btf: Option<Vec<u8>>,
    version: Option<String>,
    thread_size: Option<u64>,
}

fn elf(data: &[u8]) -> object::Result<Said> {
    let file = object::File::parse(data)?;
    let btf = match file.section_by_name(".BTF") {
        Some(section) => Some(section.uncompressed_data()?.into_owned()),
        None => None,
    };
    let symbol = |name: &str| {
        file.symbols().find(|symbol| symbol.name() == Ok(name)).map(|symbol| symbol.address())
    };
    let stack = symbol("__start_init_task").zip(symbol("__end_init_task"));
    let version =
        memmem::find_iter(data, b"Linux version ").find_map(|at| version(&data[at + 14..]));
    Ok(Said { btf, version, thread_size: stack.map(|(start, end)| end.wrapping_sub(start)) })
}

/// The word at the start of `text`, if a version begins there.
fn version(text: &[u8]) -> Option<String> {
    let word: Vec<u8> =
        text.iter().copied().take(64).take_while(|&byte| byte.is_ascii_graphic()).collect();
    word.first().filter(|first| first.is_ascii_digit())?;
    String::from_utf8(word).ok()
}

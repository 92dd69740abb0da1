//! From a kernel's headers, through a compiler: an object file whose sections hold the numbers.

use crate::fields::layout;
use dejavm_linux::LinuxOffsets;
use object::{Object, ObjectSection};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, process};

/// A name, the structure, and the member.
const MEMBERS: &[(&str, &str, &str)] = &[
    ("mm", "task_struct", "mm"),
    ("next_task", "task_struct", "next_task"),
    ("tasks", "task_struct", "tasks"),
    ("comm", "task_struct", "comm"),
    ("pid", "task_struct", "pid"),
    ("thread", "task_struct", "thread"),
    ("group_leader", "task_struct", "group_leader"),
    ("thread_group", "task_struct", "thread_group"),
    ("pgd", "mm_struct", "pgd"),
    ("sp0", "thread_struct", "sp0"),
    ("sp0", "thread_struct", "esp0"),
    ("sp0", "thread_struct", "rsp0"),
    ("fs", "thread_struct", "fsbase"),
    ("fs", "thread_struct", "fs"),
];
/// Each run of the compiler names the members that do not exist; this many rounds find all.
const ROUNDS: usize = 8;

/// Where the parts of a kernel's headers are.
struct Tree {
    /// The configured part: `include/generated`.
    built: PathBuf,
    /// The rest; the same folder unless the kernel was built elsewhere or the distribution splits it.
    source: PathBuf,
}

/// Compiles against the headers in `folder`.
pub fn offsets(folder: &Path, cc: &Path) -> Result<LinuxOffsets, String> {
    let tree = tree(folder)?;
    let autoconf = tree.built.join("include/generated/autoconf.h");
    let config = fs::read_to_string(&autoconf)
        .map_err(|error| format!("{}: {error}", autoconf.display()))?;
    let long = config.contains("#define CONFIG_X86_64 1");
    let object = compile(&tree, cc, long)?;
    let numbers = numbers(&object)?;
    let field = |name: &str| numbers.get(name).copied();
    let layout = layout(if long { 8 } else { 4 }, field);
    // LINUX_VERSION_CODE is the product's own encoding.
    Ok(LinuxOffsets { version: field("version").unwrap_or(0), ..LinuxOffsets::of(&layout, "") })
}

fn tree(folder: &Path) -> Result<Tree, String> {
    let built = folder.to_owned();
    let has_source = |place: &Path| place.join("include/linux/sched.h").is_file();
    if has_source(folder) {
        return Ok(Tree { source: built.clone(), built });
    }
    let mut places = vec![folder.join("source")];
    // Debian: a Makefile that includes the common part's, which may lie beside it instead.
    let makefile = fs::read_to_string(folder.join("Makefile")).unwrap_or_default();
    for line in makefile.lines() {
        if let Some(path) =
            line.strip_prefix("include ").and_then(|rest| Path::new(rest.trim()).parent())
        {
            places.push(path.to_owned());
            if let (Some(name), Ok(folder)) = (path.file_name(), folder.canonicalize()) {
                places.extend(folder.parent().map(|beside| beside.join(name)));
            }
        }
    }
    match places.into_iter().find(|place| has_source(place)) {
        Some(source) => Ok(Tree { built, source }),
        None => Err(format!(
            "{} has no include/linux/sched.h, and neither has what it refers to: it must be what modules are built with",
            folder.display()
        )),
    }
}

/// The source: each number a word in a section of its own name.
fn program(absent: &BTreeSet<String>) -> String {
    let mut text = String::from(
        "#include <linux/sched.h>\n#include <linux/mm_types.h>\n#include <linux/thread_info.h>\n#include <linux/version.h>\n\
         #define NUMBER(name, value) const unsigned long dejavm_##name \
         __attribute__((section(\".dejavm.\" #name), used)) = (value);\n\
         NUMBER(threadsize, THREAD_SIZE)\nNUMBER(version, LINUX_VERSION_CODE)\n\
         NUMBER(commsize, sizeof(((struct task_struct *)0)->comm))\n",
    );
    let mut have = BTreeSet::new();
    for (name, structure, member) in MEMBERS {
        if !absent.contains(*member) && have.insert(name) {
            text += &format!("NUMBER({name}, __builtin_offsetof(struct {structure}, {member}))\n");
        }
    }
    text
}

fn compile(tree: &Tree, cc: &Path, long: bool) -> Result<Vec<u8>, String> {
    let work = env::temp_dir().join(format!("getlinuxoffsets.{}", process::id()));
    fs::create_dir_all(&work).map_err(|error| format!("{}: {error}", work.display()))?;
    let result = compile_in(&work, tree, cc, long);
    let _ = fs::remove_dir_all(&work);
    result
}

fn compile_in(work: &Path, tree: &Tree, cc: &Path, long: bool) -> Result<Vec<u8>, String> {
    let (source, object) = (work.join("offsets.c"), work.join("offsets.o"));
    let mut absent = BTreeSet::new();
    for _ in 0..ROUNDS {
        fs::write(&source, program(&absent))
            .map_err(|error| format!("{}: {error}", source.display()))?;
        let mut command = Command::new(cc);
        // As the kernel's Makefile does (`LINUXINCLUDE`), with what changes a structure's layout.
        command.args([
            if long { "-m64" } else { "-m32" },
            "-nostdinc",
            "-D__KERNEL__",
            "-std=gnu11",
            "-O1",
            "-w",
        ]);
        command.args([
            "-ffreestanding",
            "-fno-pie",
            "-fshort-wchar",
            "-mno-sse",
            "-fno-strict-aliasing",
        ]);
        command.args(if long {
            ["-mno-red-zone", "-mcmodel=kernel"]
        } else {
            ["-mregparm=3", "-freg-struct-return"]
        });
        let places = ["arch/x86/include", "arch/x86/include/generated", "include"];
        let uapi = [
            "arch/x86/include/uapi",
            "arch/x86/include/generated/uapi",
            "include/uapi",
            "include/generated/uapi",
        ];
        for place in places.into_iter().chain(uapi) {
            for root in [&tree.source, &tree.built] {
                let folder = root.join(place);
                if folder.is_dir() {
                    command.arg("-I").arg(folder);
                }
            }
        }
        for header in ["compiler-version.h", "kconfig.h", "compiler_types.h"] {
            let header = tree.source.join("include/linux").join(header);
            if header.is_file() {
                command.arg("-include").arg(header);
            }
        }
        command.arg("-c").arg(&source).arg("-o").arg(&object);
        // The messages are looked into.
        command.env("LC_ALL", "C");
        let ran =
            command.output().map_err(|error| format!("{} cannot be run: {error}", cc.display()))?;
        if ran.status.success() {
            return fs::read(&object).map_err(|error| format!("{}: {error}", object.display()));
        }
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        let before = absent.len();
        absent.extend(missing_members(&said));
        if absent.len() == before {
            let first = said.lines().find(|line| line.contains("error")).unwrap_or("nothing");
            return Err(format!("the headers do not compile; the compiler said: {}", first.trim()));
        }
    }
    Err("the headers do not compile".to_owned())
}

/// The members that a compiler says there are none of.
fn missing_members(said: &str) -> Vec<String> {
    let member = |line: &str| {
        let (_, rest) = line.split_once("no member named ")?;
        let name: String = rest
            .trim_start_matches(['\'', '"', '`'])
            .chars()
            .take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '_')
            .collect();
        MEMBERS.iter().any(|(_, _, member)| *member == name).then_some(name)
    };
    said.lines().filter_map(member).collect()
}

fn numbers(object: &[u8]) -> Result<BTreeMap<String, u64>, String> {
    let file =
        object::File::parse(object).map_err(|error| format!("the compiler's object: {error}"))?;
    let mut found = BTreeMap::new();
    for section in file.sections() {
        if let Some(name) = section.name().ok().and_then(|name| name.strip_prefix(".dejavm.")) {
            let data = section.data().map_err(|error| format!("the compiler's object: {error}"))?;
            let value = data.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
            found.insert(name.to_owned(), value);
        }
    }
    Ok(found)
}

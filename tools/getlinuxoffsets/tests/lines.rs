//! The program against small headers of our own, shaped like a kernel's: what the compiler says and what gdb says is one line.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

const SCHED: &str = "
struct mm_struct { long a[3]; void *pgd; };
struct thread_struct { char tls[24]; unsigned long sp0, sp, fs; };
struct list_head { struct list_head *next, *prev; };
struct task_struct {
    long state; void *stack;
    struct list_head tasks;
    struct mm_struct *mm, *active_mm;
    int pid, tgid;
    struct { struct task_struct *group_leader; struct list_head thread_group; };
    char comm[16];
    struct thread_struct thread;
};
union thread_union { unsigned long stack[8192 / sizeof(unsigned long)]; };
#define THREAD_SIZE 8192
";

/// By hand from the above, for words of 8 bytes.
const LONG: &str = "-l 0x20614,0x20,0,0x10,0x50,0x30,0x60,0x18,0x18,0x28,0x2000,0x38,0x40,0x10";
/// And of 4 bytes.
const SHORT: &str = "0x20614,0x10,0,0x8,0x2c,0x18,0x3c,0xc,0x18,0x20,0x2000,0x20,0x24,0x10";

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_getlinuxoffsets"))
        .args(arguments)
        .output()
        .expect("the program runs")
}

fn line(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A folder of this test's own.
fn folder(name: &str) -> PathBuf {
    let folder = env::temp_dir().join(format!("getlinuxoffsets-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("include/linux")).unwrap();
    fs::create_dir_all(folder.join("include/generated")).unwrap();
    for header in ["mm_types.h", "thread_info.h"] {
        fs::write(folder.join("include/linux").join(header), "").unwrap();
    }
    fs::write(folder.join("include/linux/sched.h"), SCHED).unwrap();
    fs::write(folder.join("include/linux/version.h"), "#define LINUX_VERSION_CODE 0x20614\n")
        .unwrap();
    folder
}

fn configure(folder: &Path, autoconf: &str) {
    fs::write(folder.join("include/generated/autoconf.h"), autoconf).unwrap();
}

#[test]
fn headers_of_both_widths() {
    let folder = folder("headers");
    configure(&folder, "#define CONFIG_X86_64 1\n");
    assert_eq!(line(&["headers", folder.to_str().unwrap()]), LONG);
    configure(&folder, "#define CONFIG_X86_32 1\n");
    assert_eq!(line(&["headers", folder.to_str().unwrap()]), SHORT);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn symbols_through_gdb() {
    let folder = folder("gdb");
    let source = folder.join("kernel.c");
    let object = folder.join("kernel.o");
    let text = "
#include <linux/sched.h>
const char linux_banner[] = \"Linux version 2.6.20-15-generic (somebody)\";
struct task_struct init_task; struct mm_struct init_mm; union thread_union init_stack;
";
    fs::write(&source, text).unwrap();
    let compiled = Command::new("gcc")
        .args(["-g", "-m64", "-c", "-I"])
        .arg(folder.join("include"))
        .arg(&source)
        .arg("-o")
        .arg(&object)
        .status()
        .unwrap();
    assert!(compiled.success());
    assert_eq!(line(&["gdb", object.to_str().unwrap()]), LONG);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_is_no_kernel_is_refused_with_a_sentence() {
    let refused = |arguments: &[&str]| {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap().trim().to_owned()
    };
    let program = env!("CARGO_BIN_EXE_getlinuxoffsets");
    assert!(refused(&["btf", program]).ends_with("has no .BTF section: try `getlinuxoffsets gdb`"));
    assert!(refused(&["btf", "/dev/null"]).contains("is neither BTF nor a vmlinux with BTF"));
    assert!(refused(&["btf", "/no/such/file"]).contains("No such file"));
    assert!(refused(&["headers", "/proc"]).contains("has no include/linux/sched.h"));
    assert!(
        refused(&["gdb", "/dev/null", "--gdb", "/no/such/gdb"])
            .contains("/no/such/gdb cannot be run")
    );
}

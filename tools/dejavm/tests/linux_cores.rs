//! What `vmss2core` says of a real Linux that panicked, against what that Linux printed; cores of its processes in the real
//! gdb.

mod program;

use program::Folder;
use program::gdb::on_core;
use program::panicked::panicked;
use std::path::Path;
use vmss2core::{Conversion, Guest, Kind, LinuxOptions, Process, Silent};

/// The last register of a name that the panic printed: those of user mode.
fn printed(console: &str, register: &str) -> u64 {
    let found = console.rsplit(&format!("{register}: ")).next().unwrap();
    let word = found.split_whitespace().next().unwrap();
    let digits = word.rsplit(':').next().unwrap().trim_start_matches("0x");
    u64::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("{register}: {word}"))
}

#[test]
fn processes_are_listed_and_made_cores_of() {
    let folder = Folder::new("linux_cores");
    let (state, console) = panicked(&folder, "cloud-amd64", "256");
    let guest = Guest::open(Path::new(&state), None).unwrap();
    let options = LinuxOptions::default();
    let list = vmss2core::processes(&guest, &options).unwrap();
    let named = |name: &str| list.iter().find(|process| process.comm == name);
    let kernel = |process: &Process| process.is_kernel && process.page_tables.is_none();
    assert_eq!((list[0].pid, list[0].comm.as_str()), (0, "swapper/0"));
    assert!(named("kthreadd").is_some_and(|process| process.pid == 2 && kernel(process)));
    // Linux says who panicked: "CPU: 0 PID: 87 Comm: demo Not tainted".
    let line = console.rsplit("CPU: 0 PID: ").next().unwrap();
    let pid = line.split_whitespace().next().unwrap().parse().unwrap();
    let demo = named("demo").expect("it made the kernel panic");
    assert_eq!((demo.pid, demo.vcpu, demo.state), (pid, Some(0), 'R'));

    let output = folder.0.join("core.demo");
    let threads = std::num::NonZero::new(2).unwrap();
    let conversion =
        Conversion { guest: &guest, output: Some(&output), threads, progress: &Silent };
    let made = conversion.make(&Kind::Process(pid, options.clone())).unwrap();
    assert_eq!(made, std::slice::from_ref(&output));
    let said =
        on_core(&output, &["p/x $rip", "p/x $rsp", "p/x $rbx", "x/2xb $rip - 2", "info auxv"]);
    for register in ["RIP", "RSP", "RBX"] {
        let wanted = format!("= {:#x}\n", printed(&console, register));
        assert!(said.contains(&wanted), "{register} {wanted}: {said}");
    }
    assert!(said.contains("0x0f\t0x05"), "it is in a system call, behind SYSCALL: {said}");
    assert!(said.contains("\"/workload/demo\""), "AT_EXECFN leads into its stack: {said}");

    let refused =
        |id: u32| conversion.make(&Kind::Process(id, options.clone())).unwrap_err().to_string();
    assert!(refused(2).contains("kthreadd is a thread of the kernel"), "{}", refused(2));
    assert!(refused(4_000_000).contains("-P lists all"), "{}", refused(4_000_000));

    // Offsets of another kernel, and the right ones.
    let wrong = "-l 0x20614,0x80,0,0x68,0x194,0xa4,0x1b0,0x24,0x18,0x28,0x2000,0xc4,0xec,0x10";
    let with =
        |line: &str| LinuxOptions { offsets: Some(line.parse().unwrap()), ..options.clone() };
    let refused = vmss2core::processes(&guest, &with(wrong)).unwrap_err().to_string();
    assert!(refused.contains("these offsets do not fit"), "{refused}");
    let found = dejavm_linux::Kernel::find(&guest).unwrap();
    let right = dejavm_linux::LinuxOffsets::of(found.layout(), "6.1.0").to_string();
    assert_eq!(vmss2core::processes(&guest, &with(&right)).unwrap(), list);
}

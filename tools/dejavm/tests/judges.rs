//! Programs that no one here wrote, on checkpoints and cores of Debian guests: they see what the guest said of itself. See
//! `tests/judges`.

mod program;

use dejavm_judges::{ask, script};
use program::facts::{self, Guest};
use program::{Folder, dejavm};
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use vmss::GuestMemory;
use vmss2core::{Kind, LinuxOptions};

/// Pages here and there in a guest's regions, mostly such as hold something; as words for a judge.
fn pages(memory: &GuestMemory, regions: &[(u64, u64)]) -> Vec<String> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut found: BTreeSet<u64> = regions.iter().map(|&(start, _)| start).collect();
    found.extend(regions.iter().map(|&(start, bytes)| start + bytes - 4096));
    let mut somewhere = (0..20_000).map(|_| {
        let (start, bytes) = regions[random() as usize % regions.len()];
        start + random() % (bytes / 4096) * 4096
    });
    // Small guests live in the first megabytes.
    let low = (0..4 << 20).step_by(4096);
    let is_filled = |page: &u64| page_of(memory, *page) != [0; 4096];
    found.extend(somewhere.by_ref().take(8));
    found.extend(somewhere.filter(is_filled).take(24));
    found.extend(low.filter(is_filled).take(8));
    assert!(found.iter().filter(|page| is_filled(page)).count() >= 8, "it is an empty guest");
    found.iter().map(|page| format!("{page:x}")).collect()
}

fn page_of(memory: &GuestMemory, page: u64) -> [u8; 4096] {
    let mut contents = [0; 4096];
    memory.read(page, &mut contents).unwrap();
    contents
}

/// Demands that a judge saw the pages that it was asked for.
#[track_caller]
fn assert_pages(memory: &GuestMemory, asked: &[String], seen: &Value, who: &str) {
    for (page, seen) in asked.iter().zip(seen.as_array().unwrap()) {
        let ours = page_of(memory, u64::from_str_radix(page, 16).unwrap());
        assert!(seen.as_str() == Some(&facts::hex(&ours)), "{who}: the page at {page}");
    }
}

/// With the kernel's own types: no debugging information is needed.
#[test]
fn drgn_sees_what_the_guest_said() {
    let guest = Guest::record("judges_drgn", "cloud-amd64", "512", "");
    let state = guest.checkpoint("guest.vmss", "");
    let (vcpus, _) = facts::opened(&state);
    let core = guest.convert(&state, &Kind::Linux(LinuxOptions::default()), "vmss.core");
    let kdump =
        LinuxOptions { kdump: Some(vmss2core::Compression::Zstd), ..LinuxOptions::default() };
    let kdump = guest.convert(&state, &Kind::Linux(kdump), "vmss.kdump");
    for file in [core, kdump] {
        let seen = ask(&script("kernel.py"), &[&file]);
        guest.facts.assert_kernel(&vcpus[0], &seen, &file);
    }
}

/// Memory above the hole below 4 GiB too.
#[test]
fn volatility_and_leechcore_read_both_regions() {
    let guest = Guest::record("judges_regions", "cloud-amd64", "4096", "");
    let state = guest.checkpoint("guest.vmss", "");
    let (_, memory) = facts::opened(&state);
    let regions = [(0, 3 << 30), (4 << 30, 1 << 30)];
    let asked = pages(&memory, &regions);
    let vmem = guest.folder.path("guest.vmem");
    let arguments: Vec<&String> = [&vmem].into_iter().chain(&asked).collect();
    // First address, bytes, first byte in the file.
    let expected = serde_json::json!([[0, 3_u64 << 30, 0], [4_u64 << 30, 1 << 30, 3_u64 << 30]]);

    let seen = ask(&script("volatility.py"), &arguments);
    assert_eq!(seen["primary"], "VmwareLayer");
    assert_eq!(seen["mapping"], expected);
    assert_pages(&memory, &asked, &seen["pages"], "volatility3");

    let seen = ask(&script("leechcore.py"), &arguments);
    assert_eq!(seen["regions"], expected);
    assert_pages(&memory, &asked, &seen["pages"], "LeechCore");
}

#[test]
fn volatility_finds_the_guest_in_checkpoint_and_core() {
    let guest = Guest::record("judges_volatility", "cloud-amd64", "256", "");
    let state = guest.checkpoint("guest.vmss", "");
    let (_, memory) = facts::opened(&state);
    let asked = pages(&memory, &[(0, 256 << 20)]);
    let core = guest.convert(&state, &Kind::Linux(LinuxOptions::default()), "vmss.core");
    let banner = String::from("--banners");
    for (file, layer) in [(guest.folder.path("guest.vmem"), "VmwareLayer"), (core, "Elf64Layer")] {
        let arguments: Vec<&String> = [&file, &banner].into_iter().chain(&asked).collect();
        let seen = ask(&script("volatility.py"), &arguments);
        assert_eq!(seen["primary"], layer);
        let banners = seen["banners"].as_array().unwrap();
        assert!(banners.iter().any(|banner| *banner == guest.facts.version), "{banners:?}");
        assert_pages(&memory, &asked, &seen["pages"], layer);
    }
}

/// It reads memory in the checkpoint itself from files of more than 256 MB.
#[test]
fn leechcore_reads_embedded_memory() {
    let folder = Folder::new("judges_embedded");
    let (kernel, file) = (folder.guest("paging"), folder.path("guest.dvr"));
    let line = "record --kernel {} -m 320 -o {} --idle skip --json --console {}";
    dejavm(line, &[&kernel, &file, &folder.path("console")]).ok();
    let state = folder.path("guest.vmsn");
    dejavm("snapshot {} --at end -o {} --embed", &[&file, &state]).ok();
    let (_, memory) = facts::opened(&state);
    let asked = pages(&memory, &[(0, 320 << 20)]);
    let seen = ask(&script("leechcore.py"), &[&[state], &*asked].concat());
    let regions = seen["regions"].as_array().unwrap();
    assert_eq!(
        (regions.len(), &regions[0][0], &regions[0][1]),
        (1, &0.into(), &(320 << 20).into())
    );
    assert_pages(&memory, &asked, &seen["pages"], "LeechCore");
}

/// What gdb prints of a core, and memory that it reads out of it.
struct Gdb {
    said: String,
    memory: Vec<Vec<u8>>,
}

impl Gdb {
    /// `wanted`: addresses and numbers of bytes.
    fn ask(core: &str, commands: &[&str], wanted: &[(u64, usize)]) -> Gdb {
        let files: Vec<String> = (0..wanted.len()).map(|n| format!("{core}.read{n}")).collect();
        let mut gdb = Command::new("gdb");
        gdb.args(["-nx", "-batch", "-ex", "set style enabled off", "-core", core]);
        for (file, (at, bytes)) in files.iter().zip(wanted) {
            let end = at + *bytes as u64;
            gdb.args(["-ex", &format!("dump binary memory {file} {at:#x} {end:#x}")]);
        }
        for command in commands {
            gdb.args(["-ex", command]);
        }
        let ran = gdb.stdin(Stdio::null()).output();
        let ran = ran.expect("gdb is installed: `tools/install-deps.sh test`");
        let said = [ran.stdout, ran.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        let read = |file| std::fs::read(file).unwrap_or_else(|error| panic!("{error}: {said}"));
        let memory = files.iter().map(read).collect();
        Gdb { said, memory }
    }
}

/// Registers and memory, in the processor's address space, in physical memory, and in each of two processes that have
/// different bytes at the same address.
#[track_caller]
fn assert_gdb(flavour: &str, registers: [(&str, usize); 3], pc: &str) {
    let guest = Guest::record(&format!("judges_gdb_{flavour}"), flavour, "256", "");
    let facts = &guest.facts;
    let state = guest.checkpoint("guest.vmss", "");
    let (vcpus, memory) = facts::opened(&state);
    let vcpu = &vcpus[0];

    let linear = guest.convert(&state, &Kind::Linear(Some(0)), "linear.core");
    let print: Vec<String> = registers.iter().map(|(name, _)| format!("print/x ${name}")).collect();
    let mut commands: Vec<&str> = print.iter().map(String::as_str).collect();
    let print_pc = format!("print/x ${pc}");
    commands.push(&print_pc);
    let gdb = Gdb::ask(&linear, &commands, &[(vcpu.rip - 16, 32)]);
    // inc eax, and the jump back to it.
    let loops: &[u8] = if pc == "rip" { b"\xff\xc0\xeb\xfc" } else { b"\x40\xeb\xfd" };
    let is_there = gdb.memory[0].windows(loops.len()).any(|bytes| bytes == loops);
    assert!(is_there, "{:x?}: {}", gdb.memory, gdb.said);
    for value in registers.iter().map(|&(_, number)| vcpu.gpr[number]).chain([vcpu.rip]) {
        assert!(gdb.said.contains(&format!("= {value:#x}\n")), "{value:#x}: {}", gdb.said);
    }

    let physical = guest.convert(&state, &Kind::Physical, "physical.core");
    let pages = pages(&memory, &[(0, 256 << 20)]);
    let wanted = pages.iter().map(|page| (u64::from_str_radix(page, 16).unwrap(), 4096));
    let wanted: Vec<(u64, usize)> = wanted.collect();
    let gdb = Gdb::ask(&physical, &[], &wanted);
    for (&(page, _), seen) in wanted.iter().zip(&gdb.memory) {
        assert!(*seen == page_of(&memory, page), "{page:#x}: {}", gdb.said);
    }

    for (pid, seed) in [(facts.holder, facts::SEED), (facts.child, facts::CHILD_SEED)] {
        let kind = Kind::Process(pid as u32, LinuxOptions::default());
        let core = guest.convert(&state, &kind, &format!("core.{pid}"));
        let memory = [(facts::PATTERN_AT, facts::PATTERN_BYTES)];
        let gdb = Gdb::ask(&core, &["info threads", "thread apply all x/1i $pc"], &memory);
        assert!(gdb.memory[0] == facts::pattern(seed), "{pid}: {}", gdb.said);
        let threads = facts.tasks.iter().filter(|(of, _, _)| *of == pid);
        for (_, thread, _) in threads.clone() {
            assert!(gdb.said.contains(&format!("LWP {thread})")), "{thread}: {}", gdb.said);
        }
        // Each waits in a system call: in the program's text, which is in the core.
        let shown = gdb.said.matches("=> 0x").count();
        assert_eq!(shown, threads.count(), "{}", gdb.said);
        assert!(gdb.said.contains("Core was generated by `facts"), "{}", gdb.said);
    }
}

#[test]
fn gdb_opens_cores_of_a_64_bit_guest() {
    assert_gdb("cloud-amd64", [("rbx", 3), ("r15", 15), ("rsp", 4)], "rip");
}

#[test]
fn gdb_opens_cores_of_a_32_bit_guest() {
    assert_gdb("686-pae", [("ebx", 3), ("edi", 7), ("esp", 4)], "eip");
}

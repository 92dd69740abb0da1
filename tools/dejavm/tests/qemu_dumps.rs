//! Dumps that QEMU writes of a guest of its own, read by `vmss2core`: memory and registers are those that QEMU tells of the
//! same stopped guest by other ways.

mod program;

use program::Folder;
use program::debian::fetched;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use vmss2core::{Guest, Kind, LinuxOptions, processes};

const MIB: u64 = 128;
const VCPUS: usize = 2;

/// A guest in QEMU, and a way to ask it.
struct Qemu {
    child: Child,
    asked: BufReader<UnixStream>,
}

impl Qemu {
    /// Boots Debian's kernel until it has started the first process.
    fn booted(folder: &Folder) -> Qemu {
        let socket = folder.path("qmp");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut child = Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg", "-cpu", "qemu64", "-nodefaults", "-display", "none"])
            .args(["-m", &MIB.to_string(), "-smp", &VCPUS.to_string(), "-serial", "stdio"])
            .args(["-qmp", &format!("unix:{socket}")])
            .args(["-kernel", &fetched("vmlinuz-cloud-amd64")])
            .args(["-initrd", &fetched("initramfs-amd64.gz")])
            .args(["-append", "console=ttyS0 panic=-1 cryptomgr.notests dejavm.workload=idle"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("QEMU is installed: `tools/install-deps.sh test`");
        let asked = BufReader::new(listener.accept().unwrap().0);
        let mut console = BufReader::new(child.stdout.take().unwrap());
        let mut qemu = Qemu { child, asked };
        qemu.line();
        qemu.ask("qmp_capabilities", json!({}));
        let mut line = Vec::new();
        while !line.windows(9).any(|bytes| bytes == b"Run /init") {
            line.clear();
            assert!(console.read_until(b'\n', &mut line).unwrap() > 0, "the guest ended");
        }
        // Nobody reads the rest: QEMU would wait for that.
        std::thread::spawn(move || std::io::copy(&mut console, &mut std::io::sink()));
        qemu
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.asked.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn ask(&mut self, command: &str, arguments: Value) -> Value {
        let question = json!({ "execute": command, "arguments": arguments });
        writeln!(self.asked.get_mut(), "{question}").unwrap();
        loop {
            let mut answer = self.line();
            assert!(answer.get("error").is_none(), "{command}: {answer}");
            if answer.get("return").is_some() {
                return answer["return"].take();
            }
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A register as `info registers` prints it: `RIP=ffffffff81000000 `.
fn printed(registers: &str, name: &str) -> u64 {
    let found = registers.split(&format!("{name}=")).nth(1).unwrap();
    let digits = found.trim_start().split(|c: char| !c.is_ascii_hexdigit()).next().unwrap();
    u64::from_str_radix(digits, 16).unwrap()
}

#[test]
fn dumps_of_qemu_are_read() {
    let folder = Folder::new("qemu_dumps");
    let mut qemu = Qemu::booted(&folder);
    qemu.ask("stop", json!({}));
    let (elf, paging, kdump, raw) =
        (folder.path("elf"), folder.path("paging"), folder.path("kdump"), folder.path("raw"));
    let to = |path: &str| format!("file:{path}");
    qemu.ask("dump-guest-memory", json!({ "paging": false, "protocol": to(&elf) }));
    qemu.ask("dump-guest-memory", json!({ "paging": true, "protocol": to(&paging) }));
    let arguments = json!({ "paging": false, "protocol": to(&kdump), "format": "kdump-zlib" });
    qemu.ask("dump-guest-memory", arguments);
    qemu.ask("pmemsave", json!({ "val": 0, "size": MIB << 20, "filename": raw }));
    let command = json!({ "command-line": "info registers -a" });
    let said = qemu.ask("human-monitor-command", command);
    let registers: Vec<&str> = said.as_str().unwrap().split("CPU#").skip(1).collect();
    let mut memory = Vec::new();
    std::fs::File::open(&raw).unwrap().read_to_end(&mut memory).unwrap();
    assert_eq!((registers.len(), memory.len() as u64), (VCPUS, MIB << 20));

    for path in [&elf, &paging, &kdump] {
        let guest = Guest::open(Path::new(path), None).unwrap();
        assert_eq!(guest.vcpus.len(), VCPUS, "{path}");
        for (vcpu, registers) in guest.vcpus.iter().zip(&registers) {
            let table = |name: &str| {
                let line = registers.lines().find(|line| line.starts_with(name)).unwrap();
                u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
            };
            let names = ["RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8 ", "R15"];
            for (name, at) in names.iter().zip([0, 1, 2, 3, 4, 5, 6, 7, 8, 15]) {
                assert_eq!(vcpu.gpr[at], printed(registers, name), "{path}: {name}");
            }
            assert_eq!(vcpu.rip, printed(registers, "RIP"), "{path}");
            for at in [0, 2, 3, 4] {
                assert_eq!(vcpu.cr[at], printed(registers, &format!("CR{at}")), "{path}: CR{at}");
            }
            assert_eq!((vcpu.gdtr.base, vcpu.idtr.base), (table("GDT="), table("IDT=")), "{path}");
            assert!(vcpu.is_long_mode(), "{path}");
        }
        let mut page = vec![0; 4096];
        let mut read = 0;
        for region in guest.memory.regions().iter().filter(|region| region.end() <= MIB << 20) {
            for address in (region.start()..region.end()).step_by(4096) {
                guest.read(address, &mut page).unwrap();
                let at = address as usize;
                assert!(page == memory[at..at + 4096], "{path}: {address:#x}");
                read += 4096;
            }
        }
        assert!(read > (MIB << 20) - (1 << 20), "{path}: {read:#x} bytes");
        let list = processes(&guest, &LinuxOptions::default()).unwrap();
        assert!(
            list.iter().any(|process| process.pid == 2 && process.comm == "kthreadd"),
            "{path}"
        );
    }
    let [of_elf, of_kdump] = [&elf, &kdump].map(|path| {
        let made =
            vmss2core::convert(&Kind::Physical, Path::new(path), None, &folder.0.join("core"));
        std::fs::read(&made.unwrap()[0]).unwrap()
    });
    assert!(of_elf == of_kdump, "the same guest");
}

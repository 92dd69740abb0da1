//! The network: a Debian kernel uses the host's through passt while it is recorded, and the recording replays without it.

mod program;

use program::debian::fetched;
use program::{Folder, Kept, command, dejavm};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const PAYLOAD_BYTES: usize = 2_000_000;
/// Of the payload; computed apart from this.
const PAYLOAD_SHA256: &str = "c9d31abd870129ef90eefd60cac88fb1612f07665ba21f5747dbc0347533e555";
/// More than any of these guests takes.
const PATIENCE: Duration = Duration::from_secs(300);

/// Bytes that do not compress: SplitMix64 from 7 on.
fn payload() -> Vec<u8> {
    let mut state = 7u64;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31).to_le_bytes()
    };
    (0..PAYLOAD_BYTES / 8).flat_map(|_| next()).collect()
}

/// Serves the payload once, by HTTP, on the port that it returns.
fn served() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let request = BufReader::new(stream.try_clone().unwrap());
        let _ = request.lines().map_while(Result::ok).find(String::is_empty);
        let header = format!("HTTP/1.0 200 OK\r\nContent-Length: {PAYLOAD_BYTES}\r\n\r\n");
        stream.write_all(header.as_bytes()).unwrap();
        stream.write_all(&payload()).unwrap();
        let _ = stream.read(&mut [0]);
    });
    port
}

/// A port that nobody uses now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A guest with a network card.
struct Guest {
    folder: Folder,
    kernel: String,
    initrd: String,
    file: String,
}

impl Guest {
    fn new(name: &str, flavour: &str) -> Guest {
        let folder = Folder::new(name);
        let arch = if flavour.ends_with("amd64") { "amd64" } else { "i386" };
        let parts = [format!("initramfs-{arch}.gz"), format!("network-{flavour}.gz")];
        let initrd: Vec<u8> =
            parts.iter().flat_map(|part| fs::read(fetched(part)).unwrap()).collect();
        let initrd = folder.write("initrd", &initrd);
        let file = folder.path("guest.dvr");
        Guest { folder, kernel: fetched(&format!("vmlinuz-{flavour}")), initrd, file }
    }

    fn start(&self, append: &str, more: &[&str]) -> Kept {
        let append =
            format!("console=ttyS0 quiet cryptomgr.notests dejavm.workload=network {append}");
        let console = self.folder.path("console");
        let mut line = vec!["record", "--kernel", &self.kernel, "--initrd", &self.initrd];
        line.extend(["--append", &append, "-m", "128", "-o", &self.file, "--json"]);
        line.extend(["--console", &console]);
        line.extend(more);
        Kept::new(command(&line).spawn().unwrap())
    }

    fn console(&self) -> String {
        let console = fs::read(self.folder.path("console")).unwrap_or_default();
        String::from_utf8_lossy(&console).replace('\r', "")
    }

    fn wait_for(&self, text: &str) {
        let begin = Instant::now();
        while !self.console().contains(text) {
            assert!(begin.elapsed() < PATIENCE, "no {text:?} in\n{}", self.console());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the recording is complete; what it said, and the recorder's messages.
    fn end(&self, recorder: Kept) -> (Value, String) {
        let ran = recorder.wait();
        assert_eq!(ran.code, 0, "{}\n{}", ran.stderr, self.console());
        assert!(
            self.console().contains("DEJAVM-WORKLOAD-OK"),
            "{}\n{}",
            ran.stderr,
            self.console()
        );
        (ran.json(), ran.stderr)
    }

    /// Replays where there is no passt.
    fn verify(&self) -> Value {
        let mut replay = command(&["verify", &self.file, "--json"]);
        let output = replay.env("PATH", "/nonexistent").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// Fetches, serves through a forward, and draws random bytes; the log holds little more than what was received.
fn used(name: &str, flavour: &str, nic: &str) {
    let guest = Guest::new(name, flavour);
    let (fetch, host) = (served(), free_port());
    let append = format!("dejavm.fetch={fetch} dejavm.serve=7000 dejavm.random=64");
    let forward = format!("{host}:7000");
    let recorder = guest.start(&append, &["--forward", &forward, "--nic", nic, "--rng-seed", "5"]);
    guest.wait_for("dejavm: serving");
    let mut answer = String::new();
    let begin = Instant::now();
    // passt takes connections before the guest does, and hangs up then.
    while answer.is_empty() {
        assert!(begin.elapsed() < PATIENCE, "{}", guest.console());
        let mut stream = TcpStream::connect(("127.0.0.1", host)).unwrap();
        let _ = stream.write_all(b"into the guest\n");
        let _ = BufReader::new(stream).read_line(&mut answer);
    }
    assert_eq!(answer, "from the guest\n");
    let (recorded, stderr) = guest.end(recorder);
    let console = guest.console();
    for line in ["52:54:00:64:6a:76", "address 10.0.2.15 router 10.0.2.2", "into the guest"] {
        assert!(console.contains(line), "{line}\n{console}");
    }
    assert!(console.contains(PAYLOAD_SHA256), "{console}");
    let log = recorded["log_bytes"].as_u64().unwrap();
    let most = PAYLOAD_BYTES as u64 * 11 / 10 + 200_000;
    assert!(log < most, "a log of {log} bytes for {PAYLOAD_BYTES}\n{stderr}");
    let verified = guest.verify();
    assert_eq!(verified["machine_hash"], recorded["machine_hash"], "{verified}");
}

#[test]
fn a_guest_uses_the_network_through_virtio_and_the_recording_replays() {
    used("network_virtio", "cloud-amd64", "virtio");
}

#[test]
fn a_guest_of_32_bits_uses_the_network_through_an_e1000_and_the_recording_replays() {
    used("network_e1000", "686-pae", "e1000");
}

/// Process ids of a process's children.
fn children(child: &Child) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    let children = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("children")));
    let all = children.map(|children| children.unwrap_or_default()).collect::<String>();
    all.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn without_passt_the_guest_sees_its_cable_pulled_out_and_the_recording_stays_valid() {
    let guest = Guest::new("network_killed", "cloud-amd64");
    let mut recorder = guest.start("dejavm.unplugged=1", &["--net", "passt"]);
    guest.wait_for("dejavm: waiting for the cable");
    let passt = children(recorder.child());
    assert_eq!(passt.len(), 1, "{passt:?}");
    assert!(Command::new("kill").arg(&passt[0]).status().unwrap().success());
    let (recorded, stderr) = guest.end(recorder);
    assert!(guest.console().contains("unplugged\n"));
    assert_eq!(stderr.matches("without a network from here on").count(), 1, "{stderr}");
    assert_eq!(guest.verify()["machine_hash"], recorded["machine_hash"]);
}

/// A TAP interface in a network of the test's own, which a user may have where the host lets users have namespaces.
#[test]
fn a_guest_uses_a_tap_interface_and_the_recording_replays() {
    let allowed = Command::new("unshare").args(["-rn", "test", "-w", "/dev/net/tun"]).status();
    if !allowed.is_ok_and(|status| status.success()) {
        println!("SKIPPED: this host lets nobody make a TAP interface here");
        return;
    }
    let guest = Guest::new("network_tap", "cloud-amd64");
    let served = guest.folder.0.join("served");
    fs::create_dir(&served).unwrap();
    fs::write(served.join("payload"), payload()).unwrap();
    let append = "console=ttyS0 quiet cryptomgr.notests dejavm.workload=network dejavm.fetch=8000";
    let mut line = vec!["-rn", "bash", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tap/run.sh")];
    let (served, console) = (served.to_str().unwrap(), guest.folder.path("console"));
    line.extend([served, env!("CARGO_BIN_EXE_dejavm"), "record", "--net", "tap:tap0"]);
    line.extend(["--kernel", &guest.kernel, "--initrd", &guest.initrd, "--append", append]);
    line.extend(["-m", "128", "-o", &guest.file, "--json", "--console", &console]);
    let mut run = Command::new("unshare");
    let run = run.args(&line).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (recorded, _) = guest.end(Kept::new(run.spawn().unwrap()));
    let console = guest.console();
    assert!(console.contains("address 10.0.2.15 router 10.0.2.2"), "{console}");
    assert!(console.contains(PAYLOAD_SHA256), "{console}");
    assert_eq!(guest.verify()["machine_hash"], recorded["machine_hash"]);
}

#[test]
fn what_cannot_be_had_is_refused_in_a_sentence() {
    let folder = Folder::new("network_refused");
    let (kernel, output) = (folder.guest("hello"), folder.path("hello.dvr"));
    let record = |more: &[&str]| {
        let mut line = vec!["record", "--kernel", &kernel, "-o", &output];
        line.extend(more);
        command(&line)
    };
    let sentence = |command: &mut Command, code: i32| {
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        stderr.lines().last().unwrap_or_default().to_owned()
    };
    let missing = sentence(record(&["--forward", "2222:22"]).env("PATH", "/nonexistent"), 5);
    assert!(missing.contains("apt install passt"), "{missing}");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let forward = format!("{}:22", taken.local_addr().unwrap().port());
    let taken = sentence(&mut record(&["--forward", &forward]), 5);
    assert!(taken.contains("bind any port"), "{taken}");
    let unix = sentence(&mut record(&["--net", "unix:/nonexistent/socket"]), 5);
    assert!(unix.contains("/nonexistent/socket"), "{unix}");
    let both = sentence(&mut record(&["--net", "none", "--forward", "2222:22"]), 2);
    assert!(both.contains("--net passt"), "{both}");
    let ran = dejavm("record --kernel x -o y --net tun", &[]);
    assert!(ran.stderr.contains("passt, tap:NAME, unix:PATH or none"), "{}", ran.stderr);
    assert!(!fs::exists(&output).unwrap(), "nothing was recorded");
}

//! Disks: a Debian kernel mounts one, reads and writes it; its image stays as it is, and the recording replays.

mod program;

use program::debian::fetched;
use program::gdb::Gdb;
use program::recorder::until;
use program::{Folder, Kept, Ran, command, dejavm, run};
use serde_json::Value;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::process::Command;
use std::time::{Duration, Instant};

/// Of what the workload reads: computed apart from any guest.
const VERDICT: &str =
    "DEJAVM-WORKLOAD-OK c5827bb981bd2943b17fa2667c2b2818fb60288ea492d851628f6c58c84ddb18";

/// Kernel, initial RAM disk with drivers, and a disk of its own.
struct Guest {
    folder: Folder,
    initrd: String,
    disk: String,
    file: String,
}

impl Guest {
    fn new(name: &str) -> Guest {
        let folder = Folder::new(name);
        let parts = ["initramfs-amd64.gz", "modules-cloud-amd64.gz"];
        let initrd: Vec<u8> =
            parts.iter().flat_map(|part| fs::read(fetched(part)).unwrap()).collect();
        let initrd = folder.write("initrd", &initrd);
        let disk = folder.path("disk.img");
        fs::copy(fetched("disk-ext4.img"), &disk).unwrap();
        let file = folder.path("guest.dvr");
        Guest { folder, initrd, disk, file }
    }

    /// Starts to record the workload, and lets the kernel begin.
    fn begin(&self) -> Kept {
        let console = self.folder.path("console");
        // That of an earlier one says nothing of this one.
        let _ = fs::remove_file(&console);
        let append =
            "console=ttyS0 earlyprintk=ttyS0 panic=-1 cryptomgr.notests dejavm.workload=disk";
        let kernel = fetched("vmlinuz-cloud-amd64");
        let mut line = vec!["record", "--kernel", &kernel, "--initrd", &self.initrd];
        line.extend(["--append", append, "-m", "128", "--disk", &self.disk, "-o", &self.file]);
        line.extend(["--idle", "skip", "--json", "--console", &console]);
        let recorder = Kept::new(command(&line).spawn().unwrap());
        let begin = Instant::now();
        while !fs::read_to_string(&console).is_ok_and(|said| said.contains("Linux version")) {
            assert!(begin.elapsed() < Duration::from_secs(120), "the kernel says nothing");
            std::thread::yield_now();
        }
        recorder
    }

    /// Records the workload; what it said.
    fn record(&self, disk: &str, append: &str, more: &[&str]) -> (Value, String) {
        let console = self.folder.path("console");
        let append =
            format!("console=ttyS0 panic=-1 cryptomgr.notests dejavm.workload=disk {append}");
        let kernel = fetched("vmlinuz-cloud-amd64");
        let mut line = vec!["record", "--kernel", &kernel, "--initrd", &self.initrd];
        line.extend(["--append", &append, "-m", "128", "--disk", disk, "-o", &self.file]);
        line.extend(["--idle", "skip", "--rtc-epoch", "1577836800"]);
        line.extend(["--json", "--force", "--console", &console]);
        line.extend(more);
        let value = run(&line).ok().json();
        (value, String::from_utf8_lossy(&fs::read(&console).unwrap()).into_owned())
    }

    fn verify(&self) -> Ran {
        dejavm("verify {} --json", &[&self.file])
    }
}

#[test]
fn a_disk_is_used_and_the_recording_replays() {
    let guest = Guest::new("disks_used");
    let before = fs::read(&guest.disk).unwrap();
    let digests = ["--digest-interval", "100000000"];
    let (recorded, console) = guest.record(&guest.disk, "", &digests);
    assert_eq!(recorded["ending"], "power-off", "{console}");
    assert!(console.contains(VERDICT), "{console}");
    assert!(recorded["log_bytes"].as_u64().unwrap() < 100_000, "contents are in no log");
    assert!(fs::read(&guest.disk).unwrap() == before, "the image is not written");

    let verified = guest.verify().ok().json();
    for field in ["position", "machine_hash", "memory_hash"] {
        assert_eq!(verified[field], recorded[field], "{field}");
    }
    // By the old interrupts too, and the digests are compared there.
    let (recorded, console) = guest.record(&guest.disk, "pci=nomsi noapic", &digests);
    assert_eq!(recorded["ending"], "power-off", "{console}");
    assert!(console.contains(VERDICT), "{console}");
    guest.verify().ok();
}

/// What was packed into a recording is all that it needs.
#[test]
fn a_packed_recording_replays_without_the_image() {
    let guest = Guest::new("disks_packed");
    let (recorded, _) = guest.record(&guest.disk, "", &[]);
    let packed = guest.folder.path("packed.dvr");
    let result = dejavm("pack {} -o {} --json", &[&guest.file, &packed]).ok().json();
    let blocks = result["blocks"].as_u64().unwrap();
    assert!(blocks > 500 && blocks < 4000, "of 8192: {blocks}");
    for (file, held) in [(&guest.file, 0), (&packed, blocks)] {
        assert_eq!(dejavm("info {} --json", &[file]).ok().json()["packed_blocks"], held);
    }
    let told = dejavm("info {}", &[&packed]).ok().stdout;
    assert!(told.contains(&format!("{blocks} blocks of disk images")), "{told}");
    fs::remove_file(&guest.disk).unwrap();
    assert_eq!(guest.verify().code, 4, "the other needs the image");
    let verified = dejavm("verify {} --json", &[&packed]).ok().json();
    for field in ["position", "machine_hash", "memory_hash"] {
        assert_eq!(verified[field], recorded[field], "{field}");
    }
    let middle = (recorded["position"].as_u64().unwrap() / 10 * 9).to_string();
    let snapshot = guest.folder.path("now.vmss");
    dejavm("snapshot {} --at {} -o {}", &[&packed, &middle, &snapshot]).ok();

    // A branch has what its parent has, and ends where it needs more.
    let branch = guest.folder.path("branch.dvr");
    let line = "branch {} --at {} -o {} --idle skip --json --force";
    let branched = dejavm(line, &[&packed, &middle, &branch]).ok();
    assert!(branched.stderr.contains("the image of a disk is not there"), "{}", branched.stderr);
    assert_eq!(branched.json()["machine_hash"], recorded["machine_hash"]);
    let verified = dejavm("verify {} --json", &[&branch]).ok().json();
    assert_eq!(verified["machine_hash"], recorded["machine_hash"]);

    // One that a debugger makes, too.
    let socket = guest.folder.path("gdb");
    let replay = command(&["replay", &packed, &format!("--gdb={socket}")]).spawn().unwrap();
    let replay = Kept::new(replay);
    until("it listens", || fs::exists(&socket).unwrap());
    let mut gdb = Gdb::start(None);
    gdb.run(&format!("target remote {socket}"));
    gdb.run(&format!("monitor goto {middle}"));
    gdb.expect("monitor branch", "a live machine from position");
    gdb.expect("continue", "the guest switched the power off");
    gdb.run("kill");
    replay.wait().ok();
    let branch = guest.folder.path("packed-branch-1.dvr");
    let verified = dejavm("verify {} --json", &[&branch]).ok().json();
    assert_eq!(verified["position"], recorded["position"]);
}

#[test]
fn a_branch_that_needs_more_of_an_image_than_was_packed_ends_there() {
    let guest = Guest::new("disks_packed_in_part");
    let (whole, _) = guest.record(&guest.disk, "", &[]);
    let part = (whole["position"].as_u64().unwrap() / 10 * 8).to_string();
    guest.record(&guest.disk, "", &["--until", &part, "--pack"]);
    let (contents, branch) = (fs::read(&guest.disk).unwrap(), guest.folder.path("branch.dvr"));
    fs::remove_file(&guest.disk).unwrap();
    let ended = dejavm("branch {} --at end -o {} --idle skip", &[&guest.file, &branch]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    let sentence = ended.sentence();
    assert!(sentence.contains("is not among those in the recording"), "{sentence}");
    assert!(sentence.ends_with("once the image is there again"), "{sentence}");
    assert_eq!(dejavm("verify {}", &[&branch]).code, 4);
    fs::write(&guest.disk, contents).unwrap();
    assert_eq!(dejavm("verify {} --json", &[&branch]).ok().json()["complete"], false);
}

/// The same disk in the formats of other machines.
#[test]
fn images_of_other_formats_are_read() {
    let guest = Guest::new("disks_formats");
    for format in ["qcow2", "vmdk"] {
        let image = guest.folder.path(&format!("disk.{format}"));
        let converted = Command::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", format, &guest.disk, &image])
            .status();
        assert!(converted.expect("qemu-img, of qemu-utils").success());
        let (recorded, console) = guest.record(&image, "", &[]);
        assert!(console.contains(VERDICT), "{format}: {console}");
        let verified = guest.verify().ok().json();
        assert_eq!(verified["memory_hash"], recorded["memory_hash"], "{format}");
    }
    // One that is only the difference to another.
    let upper = guest.folder.path("upper.qcow2");
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "disk.qcow2", &upper])
        .status();
    assert!(made.unwrap().success());
    let kernel = fetched("vmlinuz-cloud-amd64");
    let refused =
        dejavm("record --kernel {} --disk {} -o {} --force", &[&kernel, &upper, &guest.file]);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("it is based on another file"), "{}", refused.stderr);
}

/// Through the ports of an AT, by the bus master and by the data register.
#[test]
fn an_ide_disk_is_used_and_the_recording_replays() {
    let guest = Guest::new("disks_ide");
    for dma in ["", "libata.dma=0"] {
        let (recorded, console) = guest.record(&format!("{},if=ide", guest.disk), dma, &[]);
        assert_eq!(recorded["ending"], "power-off", "{console}");
        assert!(console.contains(VERDICT), "{console}");
        let verified = guest.verify().ok().json();
        assert_eq!(verified["memory_hash"], recorded["memory_hash"]);
    }
}

/// Whoever goes back finds the disk as it was, and a branch has it.
#[test]
fn the_disk_goes_where_the_machine_goes() {
    let guest = Guest::new("disks_travel");
    let (recorded, _) = guest.record(&guest.disk, "", &["--checkpoint-interval", "200000000"]);
    let end = recorded["position"].as_u64().unwrap();
    let branch = guest.folder.path("branch.dvr");
    // Before anything is written, in the midst of it, and at the end of it.
    for at in [end / 10 * 7, end / 10 * 9] {
        let console = guest.folder.path("said");
        let line = "branch {} --at {} -o {} --idle skip --json --force --console {}";
        let branched = dejavm(line, &[&guest.file, &at.to_string(), &branch, &console]);
        let branched = branched.ok().json();
        let said = fs::read_to_string(&console).unwrap();
        assert!(said.contains(VERDICT), "{said}");
        for field in ["position", "machine_hash"] {
            assert_eq!(branched[field], recorded[field], "from {at}: {field}");
        }
        dejavm("verify {}", &[&branch]).ok();
    }
}

#[test]
fn an_image_that_is_missing_or_another_is_a_sentence() {
    let guest = Guest::new("disks_missing");
    guest.record(&guest.disk, "", &["--until", "1000000"]);
    guest.verify().ok();
    let original = fs::read(&guest.disk).unwrap();
    let mut other = original.clone();
    other[12_345] ^= 1;
    fs::write(&guest.disk, &other).unwrap();
    let changed = guest.verify();
    assert_eq!(changed.code, 4, "{}", changed.stderr);
    assert!(changed.stderr.contains("disk.img: the disk image has changed"), "{}", changed.stderr);
    fs::remove_file(&guest.disk).unwrap();
    let missing = guest.verify();
    assert_eq!(missing.code, 4, "{}", missing.stderr);
    assert!(missing.stderr.contains("put back the disk image"), "{}", missing.stderr);
    fs::write(&guest.disk, &original).unwrap();
    guest.verify().ok();
}

/// A disk at any instant, as a file: before the guest wrote to it, and at the end of what it wrote.
#[test]
fn a_disk_of_any_position_is_written_to_a_file() {
    let guest = Guest::new("disks_written");
    let (recorded, _) = guest.record(&guest.disk, "", &["--checkpoint-interval", "200000000"]);
    let before = fs::read(&guest.disk).unwrap();
    let (early, late) = (guest.folder.path("early.img"), guest.folder.path("late.img"));
    let at = (recorded["position"].as_u64().unwrap() / 2).to_string();
    let told = dejavm("disk {} --at {} -o {} --json", &[&guest.file, &at, &early]).ok().json();
    assert_eq!((&told["drive"], &told["written_blocks"]), (&0.into(), &0.into()));
    assert!(fs::read(&early).unwrap() == before, "nothing was written yet");
    let told = dejavm("disk {} -o {} --json", &[&guest.file, &late]).ok().json();
    let after = fs::read(&late).unwrap();
    let differ = before.chunks(4096).zip(after.chunks(4096)).filter(|(one, other)| one != other);
    let (differ, written) = (differ.count() as u64, told["written_blocks"].as_u64().unwrap());
    assert!((1..=written).contains(&differ), "{differ} of {written}");
    assert_eq!(after.len(), before.len());
    let fsck = Command::new("/sbin/e2fsck").args(["-fn", &late]).output().expect("e2fsck");
    assert!(fsck.status.success(), "{}", String::from_utf8_lossy(&fsck.stdout));

    // What is there stays there, and what the recording needs in any case.
    assert_eq!(dejavm("disk {} -o {}", &[&guest.file, &late]).code, 1);
    let refused = dejavm("disk {} -o {} --force", &[&guest.file, &guest.disk]);
    assert_eq!(refused.code, 1);
    assert!(refused.sentence().contains("the recording needs this file"), "{}", refused.stderr);
    assert!(fs::read(&guest.disk).unwrap() == before);
    assert_eq!(dejavm("disk {} -o {} --force --drive 1", &[&guest.file, &late]).code, 2);
}

/// What the guest wrote goes into the image if the user says so; the recording has what it needs in itself.
#[test]
fn what_the_guest_wrote_is_committed_and_the_packed_recording_replays() {
    let guest = Guest::new("disks_committed");
    let before = guest.folder.path("before.img");
    fs::copy(&guest.disk, &before).unwrap();
    let (recorded, _) = guest.record(&guest.disk, "", &["--pack", "--disk-commit"]);
    assert!(recorded["packed_blocks"].as_u64().unwrap() > 500, "{recorded}");
    let after = fs::read(&guest.disk).unwrap();
    assert!(after != fs::read(&before).unwrap());
    let end = guest.folder.path("end.img");
    dejavm("disk {} --disk {} -o {}", &[&guest.file, &before, &end]).ok();
    assert!(after == fs::read(&end).unwrap());
    let verified = guest.verify().ok().json();
    assert_eq!(verified["memory_hash"], recorded["memory_hash"]);
    fs::remove_file(&guest.disk).unwrap();
    guest.verify().ok();
}

/// Which image it is, its contents tell.
#[test]
fn an_image_that_was_moved_is_named() {
    let guest = Guest::new("disks_moved");
    let (recorded, _) = guest.record(&guest.disk, "", &["--until", "1500000000"]);
    let moved = guest.folder.path("elsewhere.img");
    fs::rename(&guest.disk, &moved).unwrap();
    let missing = guest.verify();
    assert_eq!(missing.code, 4, "{}", missing.stderr);
    assert!(missing.sentence().contains("say where it is with --disk FILE"), "{}", missing.stderr);
    let other = guest.folder.write("other.img", &[0; 4096]);
    let wrong = dejavm("verify {} --disk {}", &[&guest.file, &other]);
    assert_eq!(wrong.code, 4);
    assert!(wrong.sentence().contains("what --disk names is another"), "{}", wrong.stderr);
    let line = "verify {} --disk {} --disk {} --json";
    let verified = dejavm(line, &[&guest.file, &other, &moved]).ok().json();
    assert_eq!(verified["machine_hash"], recorded["machine_hash"]);
    // For all that stands somewhere in it.
    let branch = guest.folder.path("branch.dvr");
    let line = "branch {} --at 1000000000 --disk {} --until 1200000000 -o {} --pack";
    dejavm(line, &[&guest.file, &moved, &branch]).ok();
    dejavm("verify {}", &[&branch]).ok();
}

/// An image that was looked through is not looked through again while it is the same file, which a kept hash that is wrong shows.
#[test]
fn the_hash_of_an_image_is_kept() {
    let folder = Folder::new("disks_hashed");
    // One that was written long ago: of a file so new that it may change within its time's last tick, nothing is kept.
    let (kernel, image) = (folder.guest("hello"), fetched("disk-ext4.img"));
    let (caches, file) = (folder.path("caches"), folder.path("it.dvr"));
    let hash = |image: &str| {
        let line = ["record", "--kernel", &kernel, "--disk", image, "-o", &file, "--force"];
        let mut recorder = command(&line);
        let output = recorder.env("XDG_CACHE_HOME", &caches).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let info = dejavm("info {} --json", &[&file]).ok().json();
        info["externals"][0]["blake3"].as_str().expect("the recording names it").to_owned()
    };
    let right = hash(&image);
    let kept: Vec<_> = fs::read_dir(format!("{caches}/dejavm/hashes")).unwrap().collect();
    let [kept] = &kept[..] else { panic!("{kept:?}") };
    let kept = kept.as_ref().unwrap().path();
    assert_eq!(fs::read_to_string(&kept).unwrap(), right);
    let wrong = "5".repeat(64);
    fs::write(&kept, &wrong).unwrap();
    assert_eq!(hash(&image), wrong, "what is kept is believed");
    let copy = folder.path("copy.img");
    fs::copy(&image, &copy).unwrap();
    assert_eq!(hash(&copy), right, "another inode is another file");
    fs::write(&kept, "no hash").unwrap();
    assert_eq!(hash(&image), right, "what is none is not believed");
}

/// Before anything is recorded.
#[test]
fn images_that_cannot_be_written_are_not_committed() {
    let folder = Folder::new("disks_not_committed");
    let (kernel, image) = (folder.guest("race"), folder.write("d.img", &[0; 4096]));
    let file = folder.path("r.dvr");
    for (disks, complaint) in [
        (vec![], "there is no disk"),
        (vec![format!("{image},readonly")], "there is no disk"),
        (vec![format!("{image},format=qcow2")], "only raw images are written"),
        (vec![image.clone(), image.clone()], "two disks are of the same image"),
    ] {
        let mut line = vec!["record", "--kernel", &kernel, "-o", &file, "--disk-commit"];
        disks.iter().for_each(|disk| line.extend(["--disk", disk]));
        let refused = run(&line);
        assert_eq!(refused.code, 2, "{}", refused.stderr);
        assert!(refused.sentence().contains(complaint), "{}", refused.stderr);
    }
    let refused = dejavm("record --kernel {} -o {} --pack", &[&kernel, &file]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(fs::metadata(&file).is_err());
}

#[test]
fn an_image_that_is_deleted_while_the_machine_runs_is_the_machines_still() {
    let guest = Guest::new("disks_deleted");
    let recorder = guest.begin();
    let contents = fs::read(&guest.disk).unwrap();
    fs::remove_file(&guest.disk).unwrap();
    let recorded = recorder.wait().ok().json();
    let console =
        String::from_utf8_lossy(&fs::read(guest.folder.path("console")).unwrap()).into_owned();
    assert!(console.contains(VERDICT), "{console}");
    let missing = guest.verify();
    assert_eq!(missing.code, 4, "{}", missing.stderr);
    fs::write(&guest.disk, contents).unwrap();
    assert_eq!(guest.verify().ok().json()["memory_hash"], recorded["memory_hash"]);
}

/// What the guest would see then is not what the recording says that the disk holds: the recording ends there, and replays so far.
#[test]
fn an_image_that_is_written_while_the_machine_runs_ends_the_recording() {
    let guest = Guest::new("disks_written");
    let contents = fs::read(&guest.disk).unwrap();
    for shorter in [false, true] {
        let recorder = guest.begin();
        let mut image = fs::OpenOptions::new().write(true).open(&guest.disk).unwrap();
        match shorter {
            true => image.set_len(512).unwrap(),
            false => {
                image.seek(SeekFrom::Start(1 << 20)).unwrap();
                image.write_all(&[0xa5; 4096]).unwrap();
            }
        }
        drop(image);
        let ran = recorder.wait();
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        assert!(ran.sentence().contains("somebody has written to it"), "{}", ran.stderr);
        fs::write(&guest.disk, &contents).unwrap();
        let verified = guest.verify();
        let value = verified.ok().json();
        assert_eq!(value["complete"], false);
        assert!(value["position"].as_u64().unwrap() > 1_000_000, "{value}");
        fs::remove_file(&guest.file).unwrap();
    }
}

/// The guest's writes are in the recording's checkpoints: where they have no room, the recording ends, and replays so far.
#[test]
fn a_file_system_that_fills_up_ends_the_recording() {
    let guest = Guest::new("disks_full");
    let kernel = fetched("vmlinuz-cloud-amd64");
    // A limit on the file's size stands in for a file system that is full: making a small one takes an administrator.
    let script = format!(
        "trap '' XFSZ; ulimit -f 30000; exec {} record --kernel {kernel} --initrd {} -m 128 --disk {} -o {} --idle skip \
         --append 'console=ttyS0 panic=-1 cryptomgr.notests dejavm.workload=disk' --checkpoint-interval 100000000 \
         --checkpoint-size 1G --digest-interval 10000000 --console {}",
        env!("CARGO_BIN_EXE_dejavm"),
        guest.initrd,
        guest.disk,
        guest.file,
        guest.folder.path("console"),
    );
    let before = fs::read(&guest.disk).unwrap();
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("could not be written at offset"), "{stderr}");
    assert!(fs::read(&guest.disk).unwrap() == before);
    let value = guest.verify().ok().json();
    assert_eq!(value["complete"], false);
    assert!(value["position"].as_u64().unwrap() > 1_000_000, "{value}");
}

/// A checkpoint has what the guest has written, and names the image.
#[test]
fn a_machine_goes_on_from_a_checkpoint_with_its_disk() {
    let guest = Guest::new("disks_from");
    let (recorded, _) = guest.record(&guest.disk, "", &[]);
    let end = recorded["position"].as_u64().unwrap();
    let (state, later) = (guest.folder.path("now.vmss"), guest.folder.path("later.dvr"));
    let said = guest.folder.path("said");
    let line = "record --from {} -o {} --idle skip --json --force --console {}";
    for at in [end / 10 * 7, end / 10 * 9] {
        let at = at.to_string();
        dejavm("snapshot {} --at {} -o {} --force", &[&guest.file, &at, &state]).ok();
        let gone_on = dejavm(line, &[&state, &later, &said]).ok().json();
        let console = fs::read_to_string(&said).unwrap();
        assert!(console.contains(VERDICT), "from {at}: {console}");
        for field in ["position", "machine_hash"] {
            assert_eq!(gone_on[field], recorded[field], "from {at}: {field}");
        }
        let verified = dejavm("verify {} --json", &[&later]).ok().json();
        assert_eq!(verified["machine_hash"], recorded["machine_hash"]);
    }
    let mut other = fs::read(&guest.disk).unwrap();
    other[12_345] ^= 1;
    fs::write(&guest.disk, &other).unwrap();
    let refused = dejavm(line, &[&state, &later, &said]);
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    assert!(refused.stderr.contains("disk.img: the disk image has changed"), "{}", refused.stderr);
}

//! Files as the product writes them, files that make no sense, and files that nobody wrote.

use super::*;
use crate::arguments::{Arguments, Command};
use crate::disks::Attachment;
use crate::network::{MacAddress, Net, Nic};
use crate::serial::{Backend, Choice, Port};
use clap::Parser;

fn record(more: &[&str]) -> Record {
    let line = ["dejavm", "record", "-o", "o", "--vmx", "x"].iter().chain(more);
    match Arguments::try_parse_from(line).map(|arguments| arguments.command) {
        Ok(Command::Record(record)) => *record,
        other => panic!("{other:?}"),
    }
}

fn fill(text: &str, record: &mut Record) -> Result<Told, Failure> {
    Vmx::parse(text.as_bytes(), Path::new("/vm")).and_then(|vmx| vmx.fill(record))
}

fn refusal(text: &str) -> String {
    fill(text, &mut record(&[])).expect_err(text).sentence
}

const FILE: &str = "#!/usr/bin/vmware\n.encoding = \"UTF-8\"\nmemsize = \"256\"\nnumvcpus = \"2\"\n\
                    debugStub.listen.guest64 = \"TRUE\"\ndebugstub.port.guest64 = \"9000\"\n\
                    monitor.debugOnStartGuest64 = \"TRUE\"\nvmware.nonsense = \"TRUE\"\n\
                    debugStub.hideBreakpoints = \"TRUE\"\n";

/// What Workstation writes, with USB and sound switched off as for its own recordings.
const WHOLE: &str = include_str!("tests/debian.vmx");

#[test]
fn a_file_fills_in_what_the_command_line_leaves_open() {
    let mut plain = record(&[]);
    let told = fill(FILE, &mut plain).unwrap();
    assert_eq!(told.ignored, ["vmware.nonsense"]);
    assert_eq!(plain.memory.map(|ram| ram.total_bytes()), Some(256 << 20));
    assert_eq!(plain.processors.smp, Some(2));
    assert_eq!(plain.bios, Some(firmware::SEABIOS.into()), "what starts without a kernel");
    let LiveGdb { gdb, gdb_wait, gdb_bits } = plain.recording.gdb;
    assert_eq!(gdb, Some("9000".parse().unwrap()));
    assert_eq!((gdb_wait, gdb_bits.as_deref()), (true, Some("64")));

    let mut told = record(&["-m", "64", "--smp", "3", "--gdb=:7000", "--kernel", "k"]);
    fill(FILE, &mut told).unwrap();
    assert_eq!(told.memory.map(|ram| ram.total_bytes()), Some(64 << 20));
    assert_eq!((told.processors.smp, told.bios), (Some(3), None));
    assert_eq!(told.recording.gdb.gdb, Some(":7000".parse().unwrap()));
    assert_eq!(told.recording.gdb.gdb_bits, None);

    let mut remote = record(&[]);
    fill("debugStub.listen.guest32.remote = \"TRUE\"", &mut remote).unwrap();
    assert_eq!(remote.recording.gdb.gdb, Some("0.0.0.0".parse().unwrap()));
    assert_eq!(remote.recording.gdb.gdb_bits.as_deref(), Some("32"));
}

#[test]
fn what_workstation_writes_becomes_a_machine() {
    let mut record = record(&[]);
    let told = fill(WHOLE, &mut record).unwrap();
    assert_eq!(told.ignored, ["vmware.tools.internalversion"]);
    assert_eq!(
        told.mapped,
        [
            "sata0:1 is an IDE CD-ROM drive (iso/debian-12.iso)",
            "scsi0:0 is a virtio disk (Debian 12.vmdk)",
            "ethernet0 is an e1000 behind the host's network by passt",
            "serial0 is serial port 1, to the file /vm/com1.txt",
            "serial1 is serial port 2, to the socket /tmp/debian-com2",
        ]
    );
    let disks: Vec<_> =
        record.disk.iter().map(|disk| (disk.path.to_str().unwrap(), disk.attachment)).collect();
    let expected =
        [("/vm/iso/debian-12.iso", Attachment::Cd), ("/vm/Debian 12.vmdk", Attachment::Virtio)];
    assert_eq!(disks, expected);
    let network = &record.recording.network;
    assert_eq!((network.net.clone(), network.nic), (Some(Net::Passt), Some(Nic::E1000)));
    assert_eq!(network.mac, Some(MacAddress([0, 0x0c, 0x29, 0x5e, 0x10, 0x7a])));
    let ports = [
        Choice { port: Port::com(1), backend: Backend::File("/vm/com1.txt".into()) },
        Choice { port: Port::com(2), backend: Backend::Unix("/tmp/debian-com2".into()) },
    ];
    assert_eq!(record.recording.serial.serial, ports);
    assert_eq!(
        (record.memory.map(|ram| ram.total_bytes()), record.processors.smp),
        (Some(1 << 30), Some(2))
    );
}

#[test]
fn the_command_line_wins_over_devices_of_the_file_too() {
    let more = ["--disk", "d", "--net", "none", "--nic", "virtio", "--serial", "1=stdio"];
    let mut given = record(&more);
    let told = fill(WHOLE, &mut given).unwrap();
    assert_eq!(given.disk.len(), 1);
    assert_eq!(given.recording.network.net, Some(Net::None));
    assert_eq!(given.recording.network.nic, Some(Nic::Virtio));
    assert_eq!(given.recording.serial.serial[0].backend, Backend::Stdio);
    assert_eq!(given.recording.serial.serial.len(), 2);
    assert_eq!(told.mapped.len(), 3, "{:?}", told.mapped);
    let mut console = record(&["--console", "c"]);
    fill(WHOLE, &mut console).unwrap();
    assert_eq!(console.recording.serial.serial.len(), 1, "the console is COM1");
}

#[test]
fn disks_are_what_there_is_here() {
    let disk = |text: &str| {
        let mut record = record(&[]);
        let told = fill(text, &mut record).unwrap();
        let attachments: Vec<_> = record.disk.iter().map(|disk| disk.attachment).collect();
        (attachments, told.mapped.join("; "))
    };
    let scsi =
        "scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"a.vmdk\"\nscsi0.present = \"TRUE\"\n";
    assert_eq!(disk(scsi), (vec![Attachment::Ide], "scsi0:0 is an IDE disk (a.vmdk)".into()));
    let linux =
        format!("{scsi}guestOS = \"debian12-64\"\nscsi0:0.mode = \"independent-nonpersistent\"\n");
    assert_eq!(disk(&linux).0, [Attachment::Virtio]);
    let off = format!("{scsi}scsi0.present = \"FALSE\"");
    assert_eq!(disk(&off).0, []);
    let absent = "ide0:0.fileName = \"a.vmdk\"\nide0:0.present = \"FALSE\"";
    assert_eq!(disk(absent), (vec![], String::new()));
    for text in [
        "ide1:0.present = \"TRUE\"\nide1:0.deviceType = \"cdrom-raw\"\nide1:0.fileName = \"auto detect\"",
        "ide1:0.present = \"TRUE\"\nide1:0.deviceType = \"atapi-cdrom\"",
        "ide1:0.present = \"TRUE\"\nide1:0.fileName = \"a.iso\"\nide1:0.startConnected = \"FALSE\"",
        "ide1:0.present = \"TRUE\"\nide1:0.deviceType = \"cdrom-image\"\nide1:0.fileName = \"\"",
    ] {
        assert_eq!(disk(text), (vec![], "ide1:0 is left out, as no disc is in it".into()));
    }
    let image = "ide1:0.present = \"TRUE\"\nide1:0.deviceType = \"atapi-cdrom\"\nide1:0.fileName = \"A.ISO\"";
    assert_eq!(disk(image).0, [Attachment::Cd]);
}

#[test]
fn networks_are_what_there_is_here() {
    let net = |text: &str| {
        let mut record = record(&[]);
        let text = format!("ethernet0.present = \"TRUE\"\n{text}");
        let told = fill(&text, &mut record).unwrap();
        (record.recording.network.net, record.recording.network.nic, told.mapped.concat())
    };
    let (bridged, nic, told) = net("ethernet0.virtualDev = \"vmxnet3\"\nguestOS = \"ubuntu-64\"");
    assert_eq!((bridged, nic), (Some(Net::Passt), Some(Nic::Virtio)));
    assert!(told.contains("a virtio card") && told.contains("not bridged"), "{told}");
    assert_eq!(
        net("ethernet0.virtualDev = \"vmxnet3\"\nguestOS = \"winxppro\"").1,
        Some(Nic::E1000)
    );
    let (hostonly, _, told) = net("ethernet0.connectionType = \"hostonly\"");
    assert_eq!(hostonly, Some(Net::None));
    assert!(told.contains("left out"), "{told}");
    assert_eq!(net("ethernet0.startConnected = \"FALSE\"").0, Some(Net::None));
}

#[test]
fn what_makes_no_sense_is_refused_with_the_key() {
    for (text, sentence) in [
        ("memsize", "line 1 is not of the form key = \"value\""),
        ("memsize = \"x\"", "memsize = \"x\": it is no number that fits"),
        ("memsize = \"1\"", "memsize = \"1\": "),
        ("\nnumvcpus = \"9\"", "numvcpus = \"9\": machines have 1 to 8"),
        ("debugStub.listen.guest64 = \"maybe\"", "debugStub.listen.guest64 = \"maybe\": it is"),
        (
            "ethernet0.present = \"1\"\nethernet0.virtualDev = \"ne2000\"",
            "ethernet0.virtualdev = \"ne2000\": it is none of",
        ),
        (
            "ethernet0.present = \"1\"\nethernet0.connectionType = \"x\"",
            "ethernet0.connectiontype = \"x\": it is none",
        ),
        (
            "ethernet0.present = \"1\"\nethernet0.address = \"1\"",
            "ethernet0.address = \"1\": an address is six bytes",
        ),
        (
            "ethernet0.present = \"1\"\nethernet0.address = \"01:00:00:00:00:01\"",
            "ethernet0.address = \"01:00:00:00:00:01\": this is no",
        ),
        ("scsi0:0.present = \"1\"", "scsi0:0.filename = \"\": a disk is an image"),
        ("scsi0:0.present = \"perhaps\"", "scsi0:0.present = \"perhaps\": it is neither"),
        ("encryption.data = \"x\"", "it is encrypted"),
    ] {
        let error = refusal(text);
        assert!(error.starts_with(sentence), "{error}");
    }
}

#[test]
fn a_fifth_drive_is_refused_by_name() {
    let drives = |controller: &str, count: u32| {
        let drive = |n| {
            format!("{controller}:{n}.present = \"TRUE\"\n{controller}:{n}.fileName = \"a.vmdk\"\n")
        };
        (0..count).map(drive).collect::<String>()
    };
    assert_eq!(fill(&drives("sata0", 4), &mut record(&[])).unwrap().mapped.len(), 4);
    let fifth = refusal(&drives("sata0", 5));
    assert!(fifth.starts_with("sata0:4.present = \"TRUE\": it would be the fifth"), "{fifth}");
    assert!(fifth.ends_with("so that it says \"FALSE\""), "{fifth}");
    let linux = format!("{}guestOS = \"debian12-64\"\n{}", drives("sata0", 4), drives("scsi0", 1));
    assert_eq!(fill(&linux, &mut record(&[])).unwrap().mapped.len(), 5, "virtio has its own cards");
}

/// Each with the line as it must be.
#[test]
fn what_cannot_be_replayed_is_refused_by_name() {
    for device in [
        "usb",
        "ehci",
        "usb_xhci",
        "usb:1",
        "sound",
        "sharedFolder0",
        "ethernet1",
        "ethernet12",
        "parallel0",
        "pciPassthru0",
        "vtpm",
    ] {
        let on = refusal(&format!("{device}.present = \"TRUE\"\n{device}.more = \"1\""));
        let line = format!("{}.present = \"FALSE\"", device.to_lowercase());
        assert!(on.contains("cannot be recorded and replayed") && on.ends_with(&line), "{on}");
        let off = format!("{device}.present = \"FALSE\"\n{device}.more = \"1\"");
        assert_eq!(fill(&off, &mut record(&[])).unwrap(), Told::default(), "{device}");
    }
    let together = refusal("mks.enable3d = \"TRUE\"\nusb.present = \"TRUE\"\nfirmware = \"efi\"");
    let lines = "mks.enable3d = \"FALSE\", usb.present = \"FALSE\", firmware = \"bios\"";
    assert!(together.ends_with(lines), "{together}");
    assert!(
        fill("firmware = \"efi\"", &mut record(&["--kernel", "k"])).is_ok(),
        "no firmware starts"
    );

    let there = |device: &str, more: &str| {
        refusal(&format!("{device}.present = \"TRUE\"\n{device}.{more}"))
    };
    for (sentence, parts) in [
        (
            there("ide1:0", "deviceType = \"cdrom-raw\"\nide1:0.fileName = \"/dev/sr0\""),
            ["ide1:0.devicetype = \"cdrom-raw\"", "\"cdrom-image\""],
        ),
        (
            there("scsi0:3", "deviceType = \"rawDisk\""),
            ["scsi0:3.devicetype = \"rawDisk\"", "scsi0:3.present = \"FALSE\""],
        ),
        (
            there("scsi0:3", "deviceType = \"scsi-passthru\""),
            ["scsi-passthru", "scsi0:3.present = \"FALSE\""],
        ),
        (
            there("serial4", "fileType = \"file\""),
            ["serial4.present = \"TRUE\"", "four serial ports"],
        ),
        (
            there(
                "serial0",
                "fileType = \"pipe\"\nserial0.fileName = \"p\"\nserial0.pipe.endPoint = \"client\"",
            ),
            ["serial0.pipe.endpoint = \"client\"", "\"server\""],
        ),
        (
            there("serial1", "fileType = \"network\"\nserial1.fileName = \"telnet://:2001\""),
            ["serial1.filetype = \"network\"", "a file, a pipe or a device"],
        ),
    ] {
        assert!(parts.iter().all(|part| sentence.contains(part)), "{sentence}");
    }
}

/// SplitMix64, as in other tests.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

/// Files changed at random, cut, and put together of pieces: each is taken or refused in one line.
#[test]
fn no_file_makes_it_panic() {
    let pieces: Vec<&str> =
        WHOLE.lines().flat_map(|line| line.split_inclusive(['.', ':', '=', '"'])).collect();
    let odd = [
        "|",
        "|2",
        "\"",
        "\0",
        "=",
        "\n",
        "#",
        "\u{feff}",
        "99999999999999999999",
        "0",
        "TRUE",
        "serial",
        "scsi",
        ":",
        ".",
    ];
    let mut taken = 0;
    for seed in 0..3000 {
        let mut random = Random(seed);
        let mut file = WHOLE.as_bytes().to_vec();
        match random.below(3) {
            0 => {
                for _ in 0..=random.below(8) {
                    let at = random.below(file.len());
                    file[at] = random.below(256) as u8;
                }
            }
            1 => {
                for _ in 0..=random.below(4) {
                    let at = random.below(file.len());
                    let piece = match random.below(2) {
                        0 => odd[random.below(odd.len())],
                        _ => pieces[random.below(pieces.len())],
                    };
                    file.splice(at..at, piece.bytes());
                }
            }
            _ => {
                file.clear();
                for _ in 0..random.below(60) {
                    file.extend(pieces[random.below(pieces.len())].bytes());
                    if random.below(3) == 0 {
                        file.push(b'\n');
                    }
                }
            }
        }
        let mut record = record(&[]);
        match Vmx::parse(&file, Path::new("/vm")).and_then(|vmx| vmx.fill(&mut record)) {
            Ok(told) => {
                taken += 1;
                assert!(told.mapped.len() < 20, "seed {seed}");
            }
            Err(failure) => {
                assert_eq!(failure.exit, Exit::Usage, "seed {seed}");
                assert!(!failure.sentence.contains('\n'), "seed {seed}: {}", failure.sentence);
            }
        }
    }
    assert!(taken > 100, "some are still machines: {taken}");
}

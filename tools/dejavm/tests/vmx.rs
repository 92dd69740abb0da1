//! `.vmx` files: the machine that one describes is recorded, and what cannot be is refused with the line to change.

mod program;

use program::debian::fetched;
use program::{Folder, dejavm, run};
use std::fs;

/// What Workstation writes around what a test is about.
fn file(text: &str) -> String {
    format!(
        "#!/usr/bin/vmware\r\n.encoding = \"windows-1252\"\r\nconfig.version = \"8\"\r\nvirtualHW.version = \"6\"\r\n\
         memsize = \"128\"\r\nnvram = \"it.nvram\"\r\ndisplayName = \"a machine\"\r\nguestOS = \"debian12-64\"\r\n\
         floppy0.fileName = \"/dev/fd0\"\r\nreplay.supported = \"TRUE\"\r\nreplay.halt_delay = \"1000\"\r\n\
         debugStub.hideBreakpoints = \"TRUE\"\r\nvmci0.present = \"TRUE\"\r\n{}",
        text.replace('\n', "\r\n")
    )
}

/// A sector that a BIOS starts: it sends what follows it, up to a zero, by COM1, and leaves by the debug exit port.
fn boot_sector(text: &str) -> Vec<u8> {
    let mut sector = vec![
        0x31, 0xc0, // xor ax, ax
        0x8e, 0xd8, // mov ds, ax
        0xbe, 0x18, 0x7c, // mov si, text
        0xfc, // cld
        0xac, // again: lodsb
        0x84, 0xc0, // test al, al
        0x74, 0x06, // jz done
        0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xee, // out dx, al
        0xeb, 0xf5, // jmp again
        0xb0, 0x10, // done: mov al, 0x10
        0xe6, 0xf4, // out 0xf4, al
        0xf4, // hlt
    ];
    sector.extend(text.bytes());
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    sector
}

/// Nothing but the file says what the machine is: SeaBIOS starts its disk, and COM1 is where the file says.
#[test]
fn a_machine_starts_from_the_disk_that_the_file_names() {
    let folder = Folder::new("vmx_boots");
    let mut disk = boot_sector("from the disk\n");
    disk.resize(1 << 20, 0);
    folder.write("Disk one.img", &disk);
    let text = file(
        "ide0:0.present = \"TRUE\"\nide0:0.fileName = \"Disk one.img\"\nserial0.present = \"TRUE\"\nserial0.fileType = \"file\"\n\
         serial0.fileName = \"com1.txt\"\nserial0.yieldOnMsrRead = \"TRUE\"\nmystery = \"1\"\n",
    );
    let (vmx, dvr) = (folder.write("it.vmx", text.as_bytes()), folder.path("it.dvr"));
    let ran = dejavm("record --vmx {} -o {} --json", &[&vmx, &dvr]).ok();
    let recorded = ran.json();
    assert_eq!(
        (&recorded["ending"], &recorded["debug_exit"]),
        (&"debug-exit".into(), &0x10.into())
    );
    assert_eq!(fs::read_to_string(folder.path("com1.txt")).unwrap(), "from the disk\n");
    let told = ran.stderr.lines().filter(|line| line.contains("it.vmx: ")).collect::<Vec<_>>();
    let [mapped, ignored] = told[..] else { panic!("{told:?}") };
    assert!(
        mapped.contains("ide0:0 is an IDE disk (Disk one.img); serial0 is serial port 1"),
        "{mapped}"
    );
    assert!(ignored.ends_with("keys without a meaning here: mystery"), "{ignored}");
    let replayed = dejavm("replay {} --json", &[&dvr]).ok();
    assert_eq!(replayed.json()["machine_hash"], recorded["machine_hash"]);
    assert!(replayed.stderr.contains("from the disk"), "{}", replayed.stderr);
}

/// A Debian kernel finds the file's disks where the file has them: one with virtio, one without.
#[test]
fn a_linux_works_on_the_disk_that_the_file_names() {
    let folder = Folder::new("vmx_linux");
    let parts = ["initramfs-amd64.gz", "modules-cloud-amd64.gz"];
    let initrd: Vec<u8> = parts.iter().flat_map(|part| fs::read(fetched(part)).unwrap()).collect();
    let (initrd, kernel) = (folder.write("initrd", &initrd), fetched("vmlinuz-cloud-amd64"));
    fs::copy(fetched("disk-ext4.img"), folder.path("disk.img")).unwrap();
    let append = "console=ttyS0 cryptomgr.notests dejavm.workload=disk";
    for (device, is) in [("scsi0:0", "a virtio disk"), ("sata0:0", "an IDE disk")] {
        let text = file(&format!(
            "scsi0.present = \"TRUE\"\nscsi0.virtualDev = \"lsilogic\"\nsata0.present = \"TRUE\"\n{device}.present = \"TRUE\"\n\
             {device}.fileName = \"disk.img\"\n{device}.mode = \"independent-nonpersistent\"\n"
        ));
        let (vmx, dvr) = (folder.write("it.vmx", text.as_bytes()), folder.path("it.dvr"));
        let mut line = vec!["record", "--vmx", &vmx, "--kernel", &kernel, "--initrd", &initrd];
        line.extend(["--append", append, "-o", &dvr, "--force", "--rtc-epoch", "1577836800"]);
        let recorded = run(&line).ok();
        assert!(recorded.stdout.contains("DEJAVM-WORKLOAD-OK"), "{}", recorded.stdout);
        assert!(
            recorded.stderr.contains(&format!("{device} is {is} (disk.img)")),
            "{}",
            recorded.stderr
        );
        dejavm("verify {}", &[&dvr]).ok();
    }
}

/// In the program's own words, with nothing begun; each refusal alone is among the program's own tests.
#[test]
fn what_cannot_be_replayed_is_refused_before_anything_begins() {
    let folder = Folder::new("vmx_refused");
    let dvr = folder.path("it.dvr");
    for (text, parts) in [
        (
            "usb.present = \"TRUE\"\nsound.present = \"TRUE\"\nethernet1.present = \"TRUE\"\nsharedFolder0.present = \"TRUE\"\n",
            &[
                "ethernet1.present = \"FALSE\", sharedfolder0.present = \"FALSE\", sound.present = \"FALSE\", usb.present = \"FALSE\"",
            ][..],
        ),
        ("firmware = \"efi\"\n", &["firmware = \"bios\""]),
        (
            "ide1:0.present = \"TRUE\"\nide1:0.deviceType = \"cdrom-raw\"\nide1:0.fileName = \"/dev/sr0\"\n",
            &["\"/dev/sr0\"", "cdrom-image"],
        ),
        ("scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"none.vmdk\"\n", &["none.vmdk"]),
        ("a line of nothing\n", &["line 14 is not of the form"]),
    ] {
        let vmx = folder.write("it.vmx", file(text).as_bytes());
        let ran = dejavm("record --vmx {} -o {}", &[&vmx, &dvr]);
        assert!([1, 2, 6].contains(&ran.code), "{}: {}", ran.code, ran.stderr);
        assert!(parts.iter().all(|part| ran.sentence().contains(part)), "{}", ran.stderr);
        assert!(!fs::exists(&dvr).unwrap());
    }
}

//! Boot loaders that others wrote, through SeaBIOS: GRUB and SYSLINUX from disks, ISOLINUX from a CD, SYSLINUX from a floppy that a CD
//! emulates, memtest86+ from its own CD; and a Multiboot kernel without any. Each is recorded and replayed.

mod program;

use program::{Folder, dejavm, run};
use std::fs;
use std::path::Path;
use std::process::Command;

const SECTOR: usize = 512;
/// GRUB's core lies between the first sector and the partition.
const PARTITION_SECTOR: u32 = 2048;
const PARTITION_SECTORS: u32 = 16384;

/// Runs a program of another's that a test needs.
fn tool(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| {
        panic!("{program}: {error}; tools/install-deps.sh test installs it")
    });
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Records a machine that starts with SeaBIOS, until it ends, and replays it; what it printed.
fn boot(folder: &Folder, drive: &str, more: &[&str]) -> String {
    let (file, console) = (folder.path("boot.dvr"), folder.path("console"));
    let mut line = vec!["record", "--bios", "-m", "32", "--disk", drive, "-o", &file, "--json"];
    line.extend(["--rtc-epoch", "1577836800", "--console", &console]);
    line.extend(more);
    let recorded = run(&line).ok().json();
    let said = String::from_utf8_lossy(&fs::read(&console).unwrap()).into_owned();
    let verified = dejavm("verify {} --json", &[&file]).ok().json();
    for field in ["ending", "debug_exit", "position", "machine_hash", "console_hash"] {
        assert_eq!(verified[field], recorded[field], "{field}");
    }
    if more.is_empty() {
        assert_eq!(recorded["ending"], "debug-exit", "{said}");
        assert_eq!(recorded["debug_exit"], dejavm_images::EXIT_OK, "{said}");
    }
    said
}

/// A disk with GRUB before its partition, where its configuration and what it is to start are (GRUB's boot.S and diskboot.S: where
/// the core is found).
fn grub_disk(folder: &Folder, configuration: &str) -> String {
    const MODULES: &str = "/usr/lib/grub/i386-pc";
    let files = folder.0.join("files");
    fs::create_dir_all(files.join("boot/grub/i386-pc")).unwrap();
    for entry in fs::read_dir(MODULES).expect("grub-pc-bin; tools/install-deps.sh test installs it")
    {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "mod" || extension == "lst") {
            fs::copy(&path, files.join("boot/grub/i386-pc").join(path.file_name().unwrap()))
                .unwrap();
        }
    }
    fs::write(files.join("boot/grub/grub.cfg"), configuration).unwrap();
    fs::copy(folder.guest("multiboot"), files.join("multiboot.elf")).unwrap();
    fs::write(files.join("words.txt"), "twelve bytes").unwrap();
    let partition = folder.write("partition", &[]);
    let size = format!("{}k", PARTITION_SECTORS / 2);
    tool("/sbin/mke2fs", &["-q", "-t", "ext2", "-d", files.to_str().unwrap(), &partition, &size]);
    let core = folder.path("core.img");
    let prefix = "(hd0,msdos1)/boot/grub";
    let line = ["-O", "i386-pc", "-d", MODULES, "-p", prefix, "-o", &core];
    tool("grub-mkimage", &[&line[..], &["biosdisk", "part_msdos", "ext2"]].concat());

    let mut core = fs::read(&core).unwrap();
    let sectors = core.len().div_ceil(SECTOR);
    assert!(sectors < PARTITION_SECTOR as usize);
    // The rest of the core: from sector 2 on, so many sectors.
    core[500..508].copy_from_slice(&2u64.to_le_bytes());
    core[508..510].copy_from_slice(&(sectors as u16 - 1).to_le_bytes());
    let mut disk = fs::read(Path::new(MODULES).join("boot.img")).unwrap();
    disk[92..100].copy_from_slice(&1u64.to_le_bytes());
    // A partition of Linux, active, and no others: there is code for floppies in their place.
    disk[440..510].fill(0);
    disk[446] = 0x80;
    disk[450] = 0x83;
    disk[454..458].copy_from_slice(&PARTITION_SECTOR.to_le_bytes());
    disk[458..462].copy_from_slice(&PARTITION_SECTORS.to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk.extend(core);
    disk.resize(PARTITION_SECTOR as usize * SECTOR, 0);
    disk.extend(fs::read(&partition).unwrap());
    folder.write("disk.img", &disk)
}

#[test]
fn grub_starts_a_multiboot_kernel_from_disks() {
    let folder = Folder::new("boots_grub");
    let configuration = "serial --unit=0 --speed=115200
terminal_output serial
echo here is GRUB
multiboot /multiboot.elf
module /words.txt some words
boot
";
    let disk = grub_disk(&folder, configuration);
    for attached in ["ide", "virtio"] {
        let said = boot(&folder, &format!("{disk},if={attached}"), &[]);
        assert!(said.contains("here is GRUB"), "{said}");
        assert!(said.contains("loaded by GRUB 2.06"), "{said}");
        assert!(said.contains(", modules: 1\nsome words: 12 bytes\n"), "{said}");
        fs::remove_file(folder.path("boot.dvr")).unwrap();
    }
}

#[test]
fn isolinux_starts_a_multiboot_kernel_from_a_cd() {
    let folder = Folder::new("boots_isolinux");
    let files = folder.0.join("files");
    fs::create_dir_all(&files).unwrap();
    let modules = Path::new("/usr/lib/syslinux/modules/bios");
    let needed = ["ldlinux.c32", "mboot.c32", "libcom32.c32"].map(|name| modules.join(name));
    let loader = Path::new("/usr/lib/ISOLINUX/isolinux.bin").to_owned();
    for path in needed.into_iter().chain([loader]) {
        fs::copy(&path, files.join(path.file_name().unwrap())).unwrap_or_else(|error| {
            panic!("{}: {error}; tools/install-deps.sh test installs it", path.display())
        });
    }
    fs::copy(folder.guest("multiboot"), files.join("kernel.elf")).unwrap();
    fs::write(files.join("words.txt"), "twelve bytes").unwrap();
    let configuration = "SERIAL 0 115200
DEFAULT it
LABEL it
  KERNEL mboot.c32
  APPEND kernel.elf --- words.txt some words
";
    fs::write(files.join("isolinux.cfg"), configuration).unwrap();
    let image = folder.path("boot.iso");
    let line = ["-as", "mkisofs", "-quiet", "-o", &image, "-b", "isolinux.bin", "-c", "boot.cat"];
    let boots = ["-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"];
    tool("xorriso", &[&line[..], &boots, &[files.to_str().unwrap()]].concat());
    let said = boot(&folder, &format!("{image},if=cdrom"), &[]);
    assert!(said.contains("Loading kernel.elf... ok"), "{said}");
    assert!(said.contains("loaded by ISOLINUX 6.04"), "{said}");
    assert!(said.contains("words.txt some words: 12 bytes"), "{said}");
}

/// A floppy with SYSLINUX, the kernel and a module.
fn syslinux_floppy(folder: &Folder) -> Vec<u8> {
    let floppy = folder.path("floppy.img");
    tool("mformat", &["-C", "-f", "1440", "-i", &floppy, "::"]);
    tool("syslinux", &["--install", &floppy]);
    let configuration = "SERIAL 0 115200
DEFAULT it
LABEL it
  KERNEL mboot.c32
  APPEND multiboot.elf --- words.txt some words
";
    let modules = "/usr/lib/syslinux/modules/bios";
    let files = [
        format!("{modules}/mboot.c32"),
        format!("{modules}/libcom32.c32"),
        folder.guest("multiboot"),
        folder.write("words.txt", b"twelve bytes"),
        folder.write("syslinux.cfg", configuration.as_bytes()),
    ];
    let mut line = vec!["-i", &floppy];
    line.extend(files.iter().map(String::as_str));
    line.push("::");
    tool("mcopy", &line);
    fs::read(&floppy).unwrap()
}

/// There is no floppy drive; SeaBIOS makes one of a CD's boot image, and starts the same image as a disk.
#[test]
fn syslinux_starts_a_multiboot_kernel_from_a_floppy() {
    let folder = Folder::new("boots_syslinux");
    let files = folder.0.join("files");
    fs::create_dir_all(&files).unwrap();
    let floppy = syslinux_floppy(&folder);
    fs::write(files.join("floppy.img"), floppy).unwrap();
    let image = folder.path("boot.iso");
    let line = ["-as", "mkisofs", "-quiet", "-o", &image, "-b", "floppy.img", "-c", "boot.cat"];
    tool("xorriso", &[&line[..], &[files.to_str().unwrap()]].concat());
    for drive in [format!("{image},if=cdrom"), format!("{},if=ide", folder.path("floppy.img"))] {
        let said = boot(&folder, &drive, &[]);
        assert!(said.contains("Loading multiboot.elf... ok"), "{said}");
        assert!(said.contains("loaded by SYSLINUX 6.04"), "{said}");
        assert!(said.contains("words.txt some words: 12 bytes"), "{said}");
        fs::remove_file(folder.path("boot.dvr")).unwrap();
    }
}

/// No loader but ours.
#[test]
fn a_multiboot_kernel_starts_with_its_modules() {
    let folder = Folder::new("boots_multiboot");
    let (kernel, file) = (folder.guest("multiboot"), folder.path("it.dvr"));
    let (one, two) = (folder.write("one", b"twelve bytes"), folder.write("two", &[0; 5000]));
    let line = "record --kernel {} --module {} --module {} -o {}";
    let recorded = dejavm(line, &[&kernel, &one, &two, &file]).ok();
    for part in ["loaded by dejavm, modules: 2\n", "one: 12 bytes\n", "two: 5000 bytes\n"] {
        assert!(recorded.stdout.contains(part), "{part:?} is missing:\n{}", recorded.stdout);
    }
    fs::remove_file(&two).unwrap();
    assert_eq!(dejavm("replay {}", &[&file]).ok().stdout, recorded.stdout);
}

/// memtest86+ of the package for the memory of a small machine. Its last test would wait for minutes until memory fades:
/// `tests/debian/memtest.sh` has the patience.
#[test]
fn memtest_finds_no_errors() {
    const TESTED: &str = "12500000000";
    let folder = Folder::new("boots_memtest");
    let (file, console) = (folder.path("memtest.dvr"), folder.path("console"));
    let kernel = "/boot/memtest86+x64.bin";
    assert!(Path::new(kernel).exists(), "{kernel}: tools/install-deps.sh test installs it");
    let mut line = vec!["record", "--kernel", kernel, "--append", "nopause console=ttyS0,115200"];
    line.extend(["-m", "8", "--display", "--until", TESTED]);
    line.extend(["-o", &file, "--json", "--console", &console]);
    let recorded = run(&line).ok().json();
    assert_eq!(recorded["ending"], "stopped");
    let said = String::from_utf8_lossy(&fs::read(&console).unwrap()).into_owned();
    let errors: Vec<&str> = said
        .split("Errors:")
        .skip(1)
        .filter_map(|behind| behind.split_whitespace().next())
        .filter(|count| *count != "0")
        .collect();
    assert!(errors.is_empty(), "{errors:?}");
    let picture = folder.path("screen.png");
    let shown = dejavm("screenshot {} {} --text --force", &[&file, &picture]).ok().stdout;
    for part in ["#10 [Bit fade test", "Errors: 0", "Memory  :    8MB"] {
        assert!(shown.contains(part), "{part:?} is missing:\n{shown}");
    }
    let verified = dejavm("verify {} --json", &[&file]).ok().json();
    assert_eq!(verified["machine_hash"], recorded["machine_hash"]);
}

#[test]
fn memtest_starts_from_its_cd() {
    let folder = Folder::new("boots_memtest_cd");
    let drive = "/usr/lib/memtest86+/memtest86+x64.iso,if=cdrom";
    boot(&folder, drive, &["--until", "1500000000"]);
    let (file, picture) = (folder.path("boot.dvr"), folder.path("screen.png"));
    let shown = dejavm("screenshot {} {} --text", &[&file, &picture]).ok().stdout;
    assert!(shown.contains("Press <F1> to configure"), "{shown}");
}

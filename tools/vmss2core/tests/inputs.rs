//! Files of other kinds than checkpoints: what is made of them is what would have been made of the checkpoint; what is
//! none, or damaged, is told so in a sentence.

use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use vmss::{PAGE_BYTES, Product, Region, SegmentRegister, Table, Vcpu, Writer, segment};
use vmss2core::{Compression, Guest, Kind, LinuxOptions, convert};

const LOW: u64 = 300;
const HIGH: u64 = 200;
const VMCOREINFO: &str = "OSRELEASE=6.1.0-test\nPAGESIZE=4096\nSYMBOL(_stext)=ffffffff81000000\n\
                          NUMBER(phys_base)=0\nKERNELOFFSET=0\n";

fn vcpu(n: u64) -> Vcpu {
    let mut vcpu = Vcpu {
        gpr: std::array::from_fn(|at| 0xffff_8880_0000_0000 + n * 0x100 + at as u64),
        rip: 0xffff_ffff_8100_0000 + n,
        eflags: 0x246,
        gdtr: Table { base: 0xffff_fe00_0000_1000, limit: 0x7f },
        idtr: Table { base: 0xffff_fe00_0000_0000, limit: 0xfff },
        efer: Some(0xd01),
        kernel_gs_base: Some(7 + n),
        ..Vcpu::default()
    };
    // Without paging: page tables are another test's concern.
    (vcpu.cr[0], vcpu.cr[3], vcpu.cr[4]) = (0x33, 0x1000, 0x6f0);
    for (at, segment) in vcpu.segments.iter_mut().enumerate() {
        let (selector, base) = (at as u16 * 8, 0x1000 * at as u64);
        *segment = SegmentRegister { selector, base, limit: Some(u32::MAX), rights: Some(0xa9b) };
    }
    vcpu.segments[segment::GS].base = 0xffff_8880_1234_0000;
    vcpu
}

/// A checkpoint with memory below and above 4 GiB, of which much is zero, and a note as Linux prepares it.
fn checkpoint(folder: &Path) -> PathBuf {
    let regions = [
        Region { first_page: 0, page_in_file: 0, pages: LOW },
        Region { first_page: 1 << 20, page_in_file: LOW, pages: HIGH },
    ];
    let product = Product { name: "test".into(), version: "1".into() };
    let writer = Writer::new(&product, &[vcpu(0), vcpu(1)], &regions).unwrap();
    let mut file = Vec::new();
    writer.write(&mut file).unwrap();
    let state = folder.join("X.vmss");
    fs::write(&state, file).unwrap();
    let mut memory = vec![0; ((LOW + HIGH) * PAGE_BYTES) as usize];
    for page in (0..LOW + HIGH).filter(|page| page % 3 == 1) {
        let words = &mut memory[(page * PAGE_BYTES) as usize..][..PAGE_BYTES as usize];
        for (n, word) in (0u64..).zip(words.chunks_exact_mut(8)) {
            // Some pack well, some do not.
            let value =
                if page % 2 == 0 { page } else { (page + n).wrapping_mul(0x9e37_79b9_7f4a_7c15) };
            word.copy_from_slice(&value.to_le_bytes());
        }
    }
    let mut note = Vec::new();
    for word in [11, VMCOREINFO.len() as u32, 0] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"VMCOREINFO\0\0");
    note.extend(VMCOREINFO.as_bytes());
    let at = 250 * PAGE_BYTES as usize;
    memory[at..at + note.len()].copy_from_slice(&note);
    fs::write(folder.join("X.vmem"), memory).unwrap();
    state
}

fn linux(kdump: Option<Compression>) -> Kind {
    Kind::Linux(LinuxOptions { kdump, ..LinuxOptions::default() })
}

/// A core of a file, and its bytes.
fn core(folder: &Path, kind: &Kind, input: &Path, name: &str) -> (PathBuf, Vec<u8>) {
    let made = convert(kind, input, None, &folder.join(name)).unwrap();
    (made[0].clone(), fs::read(&made[0]).unwrap())
}

#[test]
fn cores_of_cores_are_those_of_the_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let state = checkpoint(folder);
    let (physical, expected) = core(folder, &Kind::Physical, &state, "M");
    let (_, expected_linux) = core(folder, &linux(None), &state, "N");
    let mut inputs = vec![physical];
    for (name, kdump) in [
        ("core", None),
        ("plain", Some(Compression::None)),
        ("zlib", Some(Compression::Zlib)),
        ("zstd", Some(Compression::Zstd)),
    ] {
        inputs.push(core(folder, &linux(kdump), &state, name).0);
    }
    for input in &inputs {
        let guest = Guest::open(input, None).unwrap();
        let mut expected_vcpu = vcpu(1);
        expected_vcpu.efer = Some(0x500);
        assert_eq!(guest.vcpus[1], expected_vcpu, "{}", input.display());
        assert!(guest.remarks.is_empty(), "{:?}", guest.remarks);
        assert!(core(folder, &Kind::Physical, input, "M2").1 == expected, "{}", input.display());
        assert!(core(folder, &linux(None), input, "N2").1 == expected_linux, "{}", input.display());
    }
    assert_eq!(Guest::open(&inputs[1], None).unwrap().vmcoreinfo, Some(VMCOREINFO.into()));
    // Through compression as a whole, and in pieces as they go through pipes.
    let zlib = fs::read(&inputs[3]).unwrap();
    let packed = folder.join("core.zst");
    fs::write(&packed, zstd::bulk::compress(&expected, 1).unwrap()).unwrap();
    let pieces = folder.join("pieces");
    fs::write(&pieces, flattened(&zlib)).unwrap();
    for input in [packed, pieces] {
        assert!(core(folder, &Kind::Physical, &input, "M2").1 == expected, "{}", input.display());
    }
}

/// As `makedumpfile -F` would write it, the pieces from behind.
fn flattened(dump: &[u8]) -> Vec<u8> {
    let mut out = b"makedumpfile\0\0\0\0".to_vec();
    out.resize(4096, 0);
    let pieces: Vec<_> = (0..).step_by(10_000).zip(dump.chunks(10_000)).collect();
    for (at, piece) in pieces.into_iter().rev() {
        out.extend(i64::to_be_bytes(at));
        out.extend((piece.len() as u64).to_be_bytes());
        out.extend(piece);
    }
    out.extend([0xff; 16]);
    out
}

#[test]
fn memory_that_is_named_leads_to_its_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint(folder.path());
    let [state, packed, memory] =
        ["X.vmss", "X.vmss.zst", "X.vmem"].map(|name| folder.path().join(name));
    let opened = || Guest::open(&memory, None).map(|guest| guest.vcpus);
    assert_eq!(opened().unwrap(), [vcpu(0), vcpu(1)]);
    fs::write(packed, zstd::bulk::compress(&fs::read(&state).unwrap(), 1).unwrap()).unwrap();
    fs::remove_file(state).unwrap();
    assert_eq!(opened().unwrap(), [vcpu(0), vcpu(1)]);
    fs::remove_file(folder.path().join("X.vmss.zst")).unwrap();
    let said = opened().unwrap_err().to_string();
    assert!(said.contains("neither its .vmss nor its .vmsn"), "{said}");
}

#[test]
fn short_memory_is_remarked_upon() {
    let folder = tempfile::tempdir().unwrap();
    let state = checkpoint(folder.path());
    let memory = fs::File::options().write(true).open(folder.path().join("X.vmem")).unwrap();
    memory.set_len(LOW * PAGE_BYTES).unwrap();
    let guest = Guest::open(&state, None).unwrap();
    assert!(guest.remarks[0].contains("ends 0xc8000 bytes before"), "{:?}", guest.remarks);
}

/// What is said of a changed file.
struct Changed {
    folder: TempDir,
    name: &'static str,
    bytes: Vec<u8>,
}

impl Changed {
    fn new(kind: &Kind, name: &'static str) -> Changed {
        let folder = tempfile::tempdir().unwrap();
        let state = checkpoint(folder.path());
        let bytes = core(folder.path(), kind, &state, name).1;
        Changed { folder, name, bytes }
    }

    fn said(&self, change: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut bytes = self.bytes.clone();
        change(&mut bytes);
        let path = self.folder.path().join(self.name);
        fs::write(&path, bytes).unwrap();
        let made = convert(&Kind::Physical, &path, None, &self.folder.path().join("out"));
        let said = made.unwrap_err().to_string();
        assert!(said.contains(self.name), "it names the file: {said}");
        said
    }
}

/// The bytes of a field become those of a value.
fn put(at: usize, value: impl Into<u64>, bytes: usize) -> impl FnOnce(&mut Vec<u8>) {
    let value = value.into();
    move |file| file[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes])
}

#[test]
fn elf_files_that_are_no_guests_are_told_so() {
    let core = Changed::new(&Kind::Physical, "core");
    for (wanted, said) in [
        ("its type is 2", core.said(put(16, 2u8, 2))),
        ("AArch64", core.said(put(18, 183u8, 2))),
        ("machine 21", core.said(put(18, 21u8, 2))),
        ("other processors than x86", core.said(put(5, 2u8, 1))),
        ("8 bytes instead of 56", core.said(put(54, 8u8, 2))),
        ("bytes of headers or notes are at", core.said(put(32, u64::MAX, 8))),
        (
            "4294967295 program headers",
            core.said(|file| {
                put(56, 0xffffu64, 2)(file);
                // Section 0 is where it is said: in the last bytes of the file.
                let at = file.len();
                put(40, at as u64, 8)(file);
                file.extend([0; 44]);
                file.extend([0xff; 20]);
            }),
        ),
        ("was it copied whole", core.said(|file| file.truncate(file.len() - 1))),
        ("was it copied whole", core.said(|file| file.truncate(100))),
        (
            "core of a process",
            core.said(|file| {
                for at in [64 + 56, 64 + 2 * 56] {
                    put(at + 16, 0x40_0000u64, 8)(file);
                    put(at + 24, 0u64, 8)(file);
                }
            }),
        ),
        ("beyond all physical addresses", core.said(put(64 + 56 + 24, 1u64 << 53, 8))),
    ] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
}

#[test]
fn kdumps_that_cannot_be_read_are_told_so() {
    let core = Changed::new(&linux(Some(Compression::Zlib)), "kdump");
    for (wanted, said) in [
        ("LZO", core.said(put(424, 2u8, 4))),
        ("snappy", core.said(put(424, 4u8, 4))),
        ("blocks have 8192", core.said(put(428, 8192u64, 4))),
        ("part of a dump that was split", core.said(put(4096 + 12, 1u8, 4))),
        ("16 TiB", core.said(put(4096 + 96, u64::MAX, 8))),
        ("bitmaps are 0x", core.said(put(436, u64::from(u32::MAX), 4))),
        ("bitmaps of 0x1000 bytes only", core.said(put(436, 1u64, 4))),
        ("notes have 0xff", core.said(put(4096 + 56, u64::MAX, 8))),
        ("VMCOREINFO are at", core.said(put(4096 + 32, 1u64 << 60, 8))),
        ("headers alone", core.said(|file| file.truncate(5000))),
        ("is damaged", core.said(|file| file.truncate(file.len() - 1))),
    ] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
}

#[test]
fn other_files_are_called_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    for (begin, wanted) in [
        (&b"PAGEDU64"[..], "Windows crash dump"),
        (b"QEVM\0\0\0\x03", "dump-guest-memory"),
        (b"LibvirtQemudSave", "virsh dump"),
        (b"EMiL\x01", "LiME"),
        (b"hello, world", "neither a VMware checkpoint nor an ELF core nor a kdump"),
        (b"\xd0\xbe\xd0\xbe\x08\0\0\0\x03\0\0\0", "sizes of 32 bits"),
        (b"", "it is empty"),
    ] {
        fs::write(&path, begin).unwrap();
        let said = Guest::open(&path, None).map(|_| ()).unwrap_err().to_string();
        assert!(said.contains(wanted) && said.contains("file"), "{said}");
    }
}

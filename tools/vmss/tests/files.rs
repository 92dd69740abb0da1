//! Checkpoints as files: beside each other, compressed, sparse, too short, too long, absurd.

use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use vmss::{Checkpoint, Error, PAGE_BYTES, Product, Region, TagList, Vcpu, Writer};

const PAGES: u64 = 600;

fn regions(pages: u64) -> [Region; 2] {
    let low = (pages / 3).min(0xc_0000);
    [
        Region { first_page: 0, page_in_file: 0, pages: low },
        Region { first_page: 0x10_0000, page_in_file: low, pages: pages - low },
    ]
}

fn writer(regions: &[Region]) -> Writer {
    let product = Product { name: "test".into(), version: "1".into() };
    Writer::new(&product, &[Vcpu { rip: 0x1234, ..Vcpu::default() }], regions).unwrap()
}

/// Memory of which each page says which one it is, but for some that are zero.
fn contents() -> Vec<u8> {
    let page = |n: u64| match n % 7 {
        0 => vec![0; PAGE_BYTES as usize],
        _ => (0..PAGE_BYTES / 8).flat_map(|at| (n << 32 | at).to_le_bytes()).collect(),
    };
    (0..PAGES).flat_map(page).collect()
}

/// A folder with X.vmss, and what memory it should show.
fn folder() -> (TempDir, PathBuf, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("X.vmss");
    let mut file = Vec::new();
    writer(&regions(PAGES)).write(&mut file).unwrap();
    fs::write(&state, file).unwrap();
    (folder, state, contents())
}

fn read(state: &Path) -> Result<(Vec<u8>, u64), Error> {
    let (checkpoint, memory, _) = Checkpoint::open(state, None)?;
    assert_eq!(checkpoint.vcpus()?[0].rip, 0x1234);
    let mut all = Vec::new();
    for region in memory.regions() {
        let mut bytes = vec![0xee; region.bytes() as usize];
        memory.read(region.start(), &mut bytes)?;
        all.extend(bytes);
    }
    Ok((all, memory.bytes_missing()))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    // Two members, one after the other: both count.
    let parts = bytes.split_at(bytes.len() / 2);
    let packed = [parts.0, parts.1].map(|part| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(part).unwrap();
        encoder.finish().unwrap()
    });
    packed.concat()
}

#[test]
fn what_is_compressed_is_read() {
    let (folder, state, memory) = folder();
    let zstd = |bytes: &[u8]| zstd::bulk::compress(bytes, 1).unwrap();
    for (name, packed) in
        [("X.vmem", memory.clone()), ("X.vmem.gz", gzip(&memory)), ("X.vmem.zst", zstd(&memory))]
    {
        let path = folder.path().join(name);
        fs::write(&path, packed).unwrap();
        assert!(read(&state).unwrap() == (memory.clone(), 0), "{name}");
        // By how it begins, whatever its name.
        fs::rename(&path, folder.path().join("X.vmem")).unwrap();
        assert!(read(&state).unwrap() == (memory.clone(), 0), "{name} as X.vmem");
        fs::remove_file(folder.path().join("X.vmem")).unwrap();
    }
    fs::write(folder.path().join("X.vmem"), &memory).unwrap();
    let plain = fs::read(&state).unwrap();
    fs::remove_file(&state).unwrap();
    for (name, packed) in [("X.vmss.gz", gzip(&plain)), ("X.vmss.zst", zstd(&plain))] {
        fs::write(folder.path().join(name), packed).unwrap();
        assert!(read(&folder.path().join(name)).unwrap() == (memory.clone(), 0), "{name}");
    }
}

/// Guest memory of just the right size is not taken for something compressed, however it begins.
#[test]
fn guest_memory_may_begin_with_anything() {
    let (folder, state, mut memory) = folder();
    for magic in [&b"\x1f\x8b\x08\0"[..], b"\x28\xb5\x2f\xfd", b"BZh91AY"] {
        memory[..magic.len()].copy_from_slice(magic);
        fs::write(folder.path().join("X.vmem"), &memory).unwrap();
        assert!(read(&state).unwrap() == (memory.clone(), 0), "{magic:x?}");
    }
}

#[test]
fn compressed_files_that_are_damaged_are_refused() {
    let (folder, state, memory) = folder();
    let path = folder.path().join("X.vmem.gz");
    let packed = gzip(&memory);
    fs::write(&path, &packed[..packed.len() - 100]).unwrap();
    let said = read(&state).unwrap_err().to_string();
    assert!(said.contains("X.vmem.gz: its compressed data are damaged"), "{said}");
    fs::write(&path, &memory[..5000]).unwrap();
    let said = read(&state).unwrap_err().to_string();
    assert!(said.contains("its name says that it is compressed"), "{said}");
    fs::write(folder.path().join("Y.vmss"), b"\xfd7zXZ\0......").unwrap();
    let said = read(&folder.path().join("Y.vmss")).unwrap_err().to_string();
    assert!(said.contains("compressed by xz"), "{said}");
}

#[test]
fn short_memory_is_zeros_and_memory_of_others_is_refused() {
    let (folder, state, memory) = folder();
    let said = read(&state).unwrap_err().to_string();
    for name in ["X.vmem", "X.vmem.gz", "X.vmem.zst"] {
        assert!(said.contains(name), "{said}");
    }
    let path = folder.path().join("X.vmem");
    fs::write(&path, &memory[..memory.len() - 5000]).unwrap();
    let mut short = memory.clone();
    let end = short.len();
    short[end - 5000..].fill(0);
    assert!(read(&state).unwrap() == (short, 5000));
    for (bytes, wanted) in [(0, "it is empty"), (memory.len() as u64 + 1, "bytes, and")] {
        File::create(&path).unwrap().set_len(bytes).unwrap();
        let error = read(&state).unwrap_err();
        let said = error.to_string();
        assert!(matches!(error, Error::OtherMemory { .. }) && said.contains("X.vmem"), "{said}");
        assert!(said.contains(wanted), "{said}");
    }
    // And as much when it must be unpacked.
    fs::remove_file(&path).unwrap();
    let packed = zstd::bulk::compress(&vec![0; memory.len() * 20], 1).unwrap();
    fs::write(folder.path().join("X.vmem.zst"), packed).unwrap();
    assert!(matches!(read(&state), Err(Error::OtherMemory { .. })));
}

/// 64 GiB, of which nothing is there.
#[test]
fn opening_reads_little() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("X.vmss");
    let mut file = Vec::new();
    writer(&regions(64 << 18)).write(&mut file).unwrap();
    fs::write(&state, file).unwrap();
    let memory = File::create(folder.path().join("X.vmem")).unwrap();
    memory.set_len(64 << 30).unwrap();
    let begin = Instant::now();
    let (checkpoint, memory, _) = Checkpoint::open(&state, None).unwrap();
    let mut byte = [1];
    memory.read(64 << 30, &mut byte).unwrap();
    assert_eq!((checkpoint.vcpus().unwrap().len(), memory.bytes(), byte), (1, 64 << 30, [0]));
    let took = begin.elapsed();
    // Well below a millisecond alone; reading all would take half a minute.
    assert!(took < Duration::from_secs(2), "{took:?}");
}

/// A checkpoint whose group `memory` is of these tags, and with a block of as many bytes.
fn with_tags(tags: &TagList, name: &str) -> Result<(), Error> {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = writer(&regions(PAGES));
    let mut file = Vec::new();
    writer.group(name, tags.clone());
    writer.write(&mut file).unwrap();
    // The last group of a name is the one that counts: let that be ours.
    if name == "memory" {
        file[12 + 3 * 80] = b'M';
    }
    let state = folder.path().join("X.vmss");
    fs::write(&state, file).unwrap();
    fs::write(folder.path().join("X.vmem"), contents()).unwrap();
    read(&state).map(drop)
}

#[test]
fn absurd_descriptions_are_named() {
    let memory = |change: &dyn Fn(&mut TagList)| {
        let mut tags = TagList::new();
        change(&mut tags);
        with_tags(&tags, "memory").unwrap_err().to_string()
    };
    let region = |tags: &mut TagList, n: u32, values: [u32; 3]| {
        for (name, value) in ["regionPPN", "regionPageNum", "regionSize"].iter().zip(values) {
            tags.word(name, &[n], value);
        }
    };
    let said = memory(&|tags| tags.word("regionsCount", &[], u32::MAX));
    assert!(said.contains("4294967295 regions"), "{said}");
    let said = memory(&|tags| tags.word("regionsCount", &[], 2));
    assert!(said.contains("numbered 0"), "{said}");
    let said = memory(&|tags| {
        tags.word("regionsCount", &[], 2);
        region(tags, 0, [0, 0, 100]);
        region(tags, 1, [99, 100, 100]);
    });
    assert!(said.contains("overlap"), "{said}");
    let said = memory(&|tags| {
        tags.word("regionsCount", &[], 1);
        region(tags, 0, [0xffff_ff00, 0, 0x101]);
    });
    assert!(said.contains("0xffffff00"), "{said}");
    let said = memory(&|tags| {
        tags.word("regionsCount", &[], 1);
        region(tags, 0, [0, 5, 16]);
        tags.block("Memory", &[0, 0], &vec![0; 20 << 12]);
    });
    assert!(said.contains("0x10 pages, in the file from page 0x5, and there are 0x14"), "{said}");
    let mut cpu = TagList::new();
    cpu.word("cpu:numVCPUs", &[], 0x7fff_ffff);
    let said = with_tags(&cpu, "cpu").unwrap_err().to_string();
    assert!(said.contains("2147483647 processors"), "{said}");
}

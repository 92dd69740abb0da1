//! Arbitrary bytes as a checkpoint, a core or a dump of a guest, and everything that `vmss2core` can make of one.

use crate::Random;
use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use vmss2core::{
    Compression, Conversion, Guest, Gva, Kind, LinuxOptions, MacOptions, Silent, WindowsOptions,
    processes,
};

/// Guests with more memory are looked at here and there only: a conversion takes the longer the more there is.
const MEMORY_MAX: u64 = 128 << 20;
/// Conversions of a guest.
const CONVERSIONS: usize = 3;

/// What became of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Converted {
    /// It was opened as a guest.
    pub opened: bool,
    /// So many conversions of it were asked for, and so many made.
    pub asked: usize,
    /// See there.
    pub made: usize,
}

/// Opens the file of this name in `folder/in` and converts it into `folder/out`, in some ways that the choice says.
///
/// # Panics
/// If a conversion that failed leaves a file, or one is made that nobody asked for.
pub fn checkpoint_file(folder: &Path, name: &str, choice: &mut Random) -> Converted {
    let (from, to) = (folder.join("in"), folder.join("out"));
    let mut converted = Converted::default();
    let Ok(guest) = Guest::open(&from.join(name), None) else { return converted };
    converted.opened = true;
    look_around(&guest, choice);
    if guest.memory.bytes() > MEMORY_MAX {
        return converted;
    }
    let all = kinds(&guest, &from, choice);
    fs::create_dir_all(&to).expect("the test's own folder");
    for _ in 0..CONVERSIONS {
        let kind = &all[choice.below(all.len())];
        converted.asked += 1;
        if let Kind::Processes(options) = kind {
            converted.made += usize::from(processes(&guest, options).is_ok());
            continue;
        }
        let threads = NonZero::<usize>::MIN.saturating_add(choice.below(3));
        let output = to.join("core");
        let conversion =
            Conversion { guest: &guest, output: Some(&output), threads, progress: &Silent };
        let made = conversion.make(kind);
        let mut expected: Vec<PathBuf> = made.as_ref().cloned().unwrap_or_default();
        converted.made += usize::from(made.is_ok());
        let mut there = files(&to);
        // Cores of the processors before the one that failed are whole.
        if made.is_err() && matches!(kind, Kind::Linear(None)) {
            there.retain(|path| path.extension().is_some_and(|extension| extension == "partial"));
        }
        expected.sort();
        assert_eq!(there, expected, "{kind:?}");
        files(&to).iter().for_each(|path| fs::remove_file(path).expect("it was just made"));
    }
    let around: Vec<_> =
        files(folder).iter().filter_map(|path| Some(path.file_name()?.to_owned())).collect();
    assert_eq!(around, ["in", "out"], "nothing is written elsewhere");
    converted
}

/// What is in a folder, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the test's own folder");
    let mut all: Vec<PathBuf> =
        entries.map(|entry| entry.expect("the test's own folder").path()).collect();
    all.sort();
    all
}

fn look_around(guest: &Guest, choice: &mut Random) {
    let mut bytes = [0; 5000];
    for region in guest.memory.regions().iter().take(8) {
        for at in [region.start(), region.end() - 1, region.end() - 4096] {
            let _ = guest.read(at.saturating_sub(10), &mut bytes);
        }
    }
    for _ in 0..8 {
        let _ = guest.read(choice.next_u64() >> choice.below(64), &mut bytes);
    }
    for n in 0..guest.vcpus.len().min(4) {
        let _ = guest.space(n);
    }
    let _ = (guest.memory.bytes_stored(), guest.memory.bytes_missing());
}

fn kinds(guest: &Guest, from: &Path, choice: &mut Random) -> Vec<Kind> {
    let linux = LinuxOptions::default();
    let packed = |kdump| LinuxOptions { kdump: Some(kdump), ..LinuxOptions::default() };
    // Believed, so that something is made of what is no Linux.
    let believed = LinuxOptions { slide: Some(0), ..LinuxOptions::default() };
    let windows = WindowsOptions::default();
    let somewhere = Gva(guest.vcpus[0].gpr[choice.below(16)]);
    let kernel = from.join("kernel");
    vec![
        Kind::Linear(None),
        Kind::Linear(Some(guest.vcpus.len() - 1)),
        Kind::Physical,
        Kind::Linux(linux.clone()),
        Kind::Linux(believed.clone()),
        Kind::Linux(packed(Compression::Zlib)),
        Kind::Linux(LinuxOptions { without_free: true, ..packed(Compression::Zstd) }),
        Kind::Linux(LinuxOptions { kdump: Some(Compression::None), ..believed }),
        Kind::Processes(linux.clone()),
        Kind::Process(1, linux.clone()),
        Kind::Windows(windows.clone()),
        Kind::Windows(WindowsOptions { bitmap: true, ..windows.clone() }),
        Kind::Windows(WindowsOptions { kernel_only: true, ..windows.clone() }),
        Kind::Windows(WindowsOptions { scan_all: true, is_encoded: true, ..windows.clone() }),
        Kind::Windows(WindowsOptions { debugger_data: Some(somewhere), ..windows.clone() }),
        Kind::MacOs(MacOptions { is_64: choice.below(2) == 0, kernel }),
        Kind::Firmware(None),
        Kind::Firmware(Some(somewhere)),
        Kind::Auto(linux, windows),
    ]
}

/// Bytes as files of a guest, for a fuzzer: a byte that says which, two with how many are the first's, then those; the rest
/// is memory in a file of its own.
pub fn checkpoint_bytes(folder: &Path, bytes: &[u8]) -> Converted {
    const NAMES: [&str; 4] = ["X.vmss", "X.guest", "X.core", "X.vmsn"];
    /// What a few bytes can be unpacked to is no matter here: the disk would be.
    const PACKED: [&[u8]; 2] = [b"\x1f\x8b", b"\x28\xb5\x2f\xfd"];
    let Some((&[which, low, high], bytes)) = bytes.split_first_chunk() else {
        return Converted::default();
    };
    let first = usize::from(u16::from_le_bytes([low, high])).min(bytes.len());
    let (state, memory) = bytes.split_at(if which & 0x80 != 0 { first } else { bytes.len() });
    let is_skippable = |part: &[u8]| part.get(1..4) == Some(b"\x2a\x4d\x18");
    if [state, memory]
        .iter()
        .any(|part| PACKED.iter().any(|magic| part.starts_with(magic)) || is_skippable(part))
    {
        return Converted::default();
    }
    let from = folder.join("in");
    fs::create_dir_all(&from).expect("the fuzzer's own folder");
    let name = NAMES[usize::from(which & 3)];
    for (name, contents) in [(name, state), ("X.vmem", memory), ("kernel", memory)] {
        fs::write(from.join(name), contents).expect("the fuzzer's own folder");
    }
    // A guest dump wants memory of just the right size.
    if let Ok(dump) = vmss::GuestDump::of(&state.to_vec()) {
        let size = dump.regions.iter().map(vmss::Region::bytes).sum::<u64>();
        let file = fs::File::options().write(true).open(from.join("X.vmem"));
        let _ = file.and_then(|file| file.set_len(size.min(1 << 40)));
    }
    let mut choice = Random::new(u64::from(which) << 16 | first as u64);
    checkpoint_file(folder, name, &mut choice)
}

//! A Windows guest whose memory and registers say arbitrary things, made into a crash dump.

use dejavm_windows_guest::{Options, System, Windows};
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::OnceLock;
use vmss2core::{Conversion, Guest, Gva, Kind, Silent, WindowsOptions, is_windows};

/// Changes that count: a bound for the time that a case takes.
const CHANGES_MAX: usize = 256;
const CHANGE_BYTES: usize = 12;

/// The first byte chooses a guest, the second a kind of dump; each 12 bytes after change something: pages that the guest
/// uses, registers. Returns whether there is a dump.
pub fn windows_guest(bytes: &[u8]) -> bool {
    let [which, kind, changes @ ..] = bytes else { return false };
    let mut guest = seeds()[usize::from(*which) % seeds().len()].clone();
    let pages: Vec<u64> = guest.memory.touched().collect();
    for change in changes.chunks_exact(CHANGE_BYTES).take(CHANGES_MAX) {
        let (head, value) = change.split_first_chunk::<4>().expect("12 bytes");
        let value = u64::from_le_bytes(value.try_into().expect("8 of the 12"));
        let at = u32::from_le_bytes(*head) >> 2;
        match head[0] & 3 {
            0 => put(&mut guest, &pages, at, value),
            1 => put(&mut guest, &pages, at, likely(value, &pages)),
            2 => register(&mut guest, at, value),
            _ => register(&mut guest, at, likely(value, &pages)),
        }
    }
    let debugger_data = (kind & 8 != 0).then_some(Gva(guest.debugger_data.0));
    let options = WindowsOptions {
        kernel_only: kind & 3 == 1,
        bitmap: kind & 3 == 2,
        scan_all: kind & 4 != 0,
        debugger_data,
        ..WindowsOptions::default()
    };
    let memory = guest.guest_memory();
    let opened = Guest::new(PathBuf::from("windows.vmss"), memory, guest.vcpus.clone());
    let seems = is_windows(&opened);
    let folder = tempfile::tempdir().expect("a folder for what is written");
    let path = folder.path().join("memory.dmp");
    let conversion = Conversion {
        guest: &opened,
        output: Some(&path),
        threads: NonZero::<usize>::MIN,
        progress: &Silent,
    };
    let made = conversion.make(&Kind::Windows(options)).is_ok();
    assert_eq!(made, path.exists(), "a dump is there if it is said to be");
    // With a shadow and without other traces it is found by a search only.
    let is_lost = usize::from(*which) % seeds().len() == seeds().len() - 1;
    assert!(seems || !made || is_lost || !changes.is_empty());
    made
}

/// Guests to begin with: each system, plain and encoded, with shadows and without the usual ways.
fn seeds() -> &'static [Windows] {
    static SEEDS: OnceLock<Vec<Windows>> = OnceLock::new();
    SEEDS.get_or_init(|| {
        let usual = System::ALL.map(Options::new);
        let ten = &usual[usual.len() - 1];
        let hidden = Options { kpcr_version: false, version_block: false, ..ten.clone() };
        let shadow = Options { shadow: true, ..ten.clone() };
        let lost = Options { knows_kernel_gs: false, low_stub: false, ..shadow.clone() };
        let others = [hidden, shadow, lost];
        usual.iter().chain(&others).map(Windows::new).collect()
    })
}

/// 8 bytes in a page that the guest uses.
fn put(guest: &mut Windows, pages: &[u64], at: u32, value: u64) {
    let page = pages[at as usize % pages.len()];
    let offset = u64::from(at >> 12) % 512 * 8;
    guest.memory.put(page * 4096 + offset, &value.to_le_bytes());
}

/// Values that mean something more often than random ones: entries that lead to pages in use, small numbers, addresses of
/// the kernel.
fn likely(value: u64, pages: &[u64]) -> u64 {
    let rest = value >> 8;
    match value & 7 {
        0 => 0,
        1 => u64::MAX - rest % 0x2000,
        2 | 3 => pages[rest as usize % pages.len()] << 12 | 0x63,
        4 => pages[rest as usize % pages.len()] << 12 | 0xe3,
        5 => rest % 0x1_0000,
        6 => 0xffff_f805_1040_0000 + rest % 0x100_0000,
        _ => 0x8284_5000 + rest % 0x100_0000,
    }
}

fn register(guest: &mut Windows, at: u32, value: u64) {
    let count = guest.vcpus.len();
    let vcpu = &mut guest.vcpus[at as usize % count];
    let segment = (at >> 8) as usize % 8;
    match at >> 4 & 15 {
        0 => vcpu.cr[0] = value,
        1 => vcpu.cr[3] = value,
        2 => vcpu.cr[4] = value,
        3 => vcpu.segments[segment].base = value,
        4 => vcpu.segments[segment].selector = value as u16,
        5 => vcpu.kernel_gs_base = Some(value),
        6 => vcpu.idtr.base = value,
        7 => vcpu.rip = value,
        8 => vcpu.efer = Some(value),
        9 => vcpu.is_halted = !vcpu.is_halted,
        _ => vcpu.gpr[segment] = value,
    }
}

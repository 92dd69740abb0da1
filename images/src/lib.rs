//! Small guests of our own, for tests that want an answer in milliseconds and for `dejavm demo`.
//!
//! Each is a 32-bit ELF executable loaded at 1 MiB with a PVH entry note (`XEN_ELFNOTE_PHYS32_ENTRY`; one is for Multiboot instead),
//! so the same bytes boot here and under QEMU's `-kernel`. It starts in flat 32-bit protected mode
//! with paging off, prints to the debug console (port 0xe9) and to COM1, and ends by writing
//! [`EXIT_OK`] or [`EXIT_FAILED`] to port 0xf4. The sources are `images/guests/NAME.S`.

use std::env;
use std::path::{Path, PathBuf};

/// What a guest that is content writes to the exit port; QEMU's `isa-debug-exit` makes it status 33.
pub const EXIT_OK: u8 = 0x10;

/// What a guest that found something wrong (or crashed on purpose) writes; status 35 under QEMU.
pub const EXIT_FAILED: u8 = 0x11;

/// Declares a guest's constant and lists it in [`ALL`].
macro_rules! guests {
    ($($(#[$doc:meta])* $constant:ident = $name:literal;)*) => {
        $(
            $(#[$doc])*
            pub const $constant: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".elf"));
        )*
        /// Every guest with its name, in the order of the names.
        pub const ALL: &[(&str, &[u8])] = &[$(($name, $constant)),*];
    };
}

guests! {
    /// Uses the debug registers itself: instructions, stores, accesses, steps.
    BREAKS = "breaks";
    /// Counts in memory without leaving the processor; prints at which counts five timer interrupts came.
    COUNTER = "counter";
    /// A guest with a bug, about a hundred million instructions: draws a progress bar from the timer
    /// interrupt, then dies of a division by zero whose cause lies earlier. Ends with [`EXIT_FAILED`].
    DEMO = "demo";
    /// Prints what keyboard and mouse send, by interrupt, in hexadecimal, until Esc or, on COM1, `q`; waits for ever without input.
    DESK = "desk";
    /// Echoes what COM1 receives, by interrupt, in upper case until `q`; waits for ever without input.
    ECHO = "echo";
    /// Prints one line.
    HELLO = "hello";
    /// Real mode (segments, A20, vector table, decimal) and virtual-8086 mode under a monitor.
    MODES = "modes";
    /// A Multiboot kernel: prints what its loader tells of itself and of modules.
    MULTIBOOT = "multiboot";
    /// Non-maskable interrupts: sent to itself, while another is handled, and made of the timer's ticks.
    NMI = "nmi";
    /// Accessed and dirty bits, write protection and page faults: 32-bit, then long mode.
    PAGING = "paging";
    /// The local APIC's task priority, up and down.
    PRIORITY = "priority";
    /// A program of two processors with a data race: [`EXIT_FAILED`] if it was lost.
    RACE = "race";
    /// Interrupts that STI holds off for one instruction, which reaches new pages.
    SHADOW = "shadow";
    /// Self-modifying and cross-page modifying code, ten checked cases.
    SMC = "smc";
    /// Several processors, or one: start-up, interrupts between them, locks, code and page tables that one changes under the others.
    SMP = "smp";
    /// 96 million instructions in registers and a checksum.
    SPIN = "spin";
    /// 100 timer interrupts at 100 Hz, halted in between.
    TIMER = "timer";
}

/// What the guests whose output does not depend on time print to the debug console, as QEMU showed it.
pub const EXPECTED: &[(&str, &str)] = &[
    ("breaks", include_str!("../guests/expected/breaks.txt")),
    ("hello", include_str!("../guests/expected/hello.txt")),
    ("modes", include_str!("../guests/expected/modes.txt")),
    ("nmi", include_str!("../guests/expected/nmi.txt")),
    ("paging", include_str!("../guests/expected/paging.txt")),
    ("priority", include_str!("../guests/expected/priority.txt")),
    ("shadow", include_str!("../guests/expected/shadow.txt")),
    ("smc", include_str!("../guests/expected/smc.txt")),
    ("smp", include_str!("../guests/expected/smp.txt")),
    ("spin", include_str!("../guests/expected/spin.txt")),
];

/// What the test initramfs prints after `DEJAVM-WORKLOAD-OK`, by workload: the SHA-256 of all it computed,
/// floating point included. The same for every kernel, on amd64 and i386; seen under QEMU.
pub const VERDICTS: &[(&str, &str)] = &[
    ("bench", "04a66ba15b5e2a500768dd6489142d08d176f0ae900b3c403a5750fe067b28d1"),
    ("busy", "b9afb6680baf269f7d67563332902881026ebfe8ef9729e07c4e90c81432c6d9"),
    ("demo", "7b672f47965b2ce24e0f7f66ca49ed2da18e2a7ad59e1a24371b6f14053dda22"),
    ("panic", "c7a61e53e213a5e64d70c9705213794055ff0c49c21c5c927461b789fe86df1e"),
];

/// Path of a file that `make images` fetched or built, such as `vmlinuz-cloud-amd64` or
/// `initramfs-amd64.gz`: in `$DEJAVM_IMAGES`, else `$DEJAVM_CACHE/images`, else the project's
/// `.cache/images`. For tests and benchmarks; a released program knows no project.
///
/// # Errors
/// The sentence to show when the file is not there.
pub fn fetched(name: &str) -> Result<PathBuf, String> {
    let folder = match (env::var_os("DEJAVM_IMAGES"), env::var_os("DEJAVM_CACHE")) {
        (Some(folder), _) => PathBuf::from(folder),
        (None, Some(cache)) => Path::new(&cache).join("images"),
        (None, None) => Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/images"),
    };
    let path = folder.join(name);
    if path.is_file() {
        Ok(path)
    } else {
        Err(format!("{} does not exist; make it with: make images", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_is_listed_and_in_order() {
        let mut sources: Vec<String> = std::fs::read_dir("guests")
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter_map(|name| name.strip_suffix(".S").map(str::to_owned))
            .collect();
        sources.sort();
        let listed: Vec<&str> = ALL.iter().map(|(name, _)| *name).collect();
        assert_eq!(listed, sources);
    }

    #[test]
    fn every_guest_is_a_32_bit_elf_with_a_pvh_note_or_for_multiboot() {
        // namesz 4, descsz 4, type 18 = XEN_ELFNOTE_PHYS32_ENTRY, "Xen\0".
        let note = *b"\x04\0\0\0\x04\0\0\0\x12\0\0\0Xen\0";
        for (name, elf) in ALL {
            assert_eq!(&elf[..5], b"\x7fELF\x01", "{name}");
            let has_note = elf.windows(note.len()).any(|window| window == note);
            // 0x1badb002, in the first 8 KiB.
            let is_multiboot = elf[..8192].chunks(4).any(|word| word == [0x02, 0xb0, 0xad, 0x1b]);
            assert!(has_note != is_multiboot, "{name}");
        }
    }
}

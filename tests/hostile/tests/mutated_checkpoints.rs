//! Mutated checkpoints, cores and dumps of guests, and what `vmss2core` makes of them.

use dejavm_hostile::checkpoint_rounds;
use std::fs;

const FIRST: u64 = 0x766d_7373_0000;
const ROUNDS: u64 = 1000;
/// Whatever a file says.
const MEMORY_MAX_KIB: u64 = 400 << 10;

#[test]
fn no_checkpoint_harms_the_host() {
    let tally = checkpoint_rounds(FIRST..FIRST + ROUNDS);
    eprintln!("{tally:?}");
    assert!(tally.opened > ROUNDS / 4 && tally.made > ROUNDS / 8, "mutations get deep");
    assert!(tally.opened < ROUNDS * 19 / 20, "mutations are noticed");
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < MEMORY_MAX_KIB, "{peak} KiB at the peak");
}

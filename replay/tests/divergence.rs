//! A replay that is not what was recorded says where, and what differs.

mod toy;

use dejavm_replay::{Divergence, ReplayError};
use toy::{Mistake, What, recording, replay};

fn diverge(at: u64, what: What) -> Divergence {
    let (file, recorded, _) = recording(11, 700);
    assert!(recorded.at.position.0 > at);
    match replay(&file, Mistake { at, what }) {
        Err(ReplayError::Divergence(divergence)) => *divergence,
        Err(error) => panic!("{what:?}: {error}"),
        Ok(_) => panic!("{what:?} went unnoticed"),
    }
}

#[test]
fn the_field_is_named() {
    let divergence = diverge(1500, What::Register);
    assert_eq!(divergence.what, "registers[3]");
    assert_ne!(divergence.expected, divergence.got);
    assert_eq!((divergence.since, divergence.position), (1400, 2100));
    let text = divergence.to_string();
    assert!(
        text.contains("position 2100 (everything was equal at 1400): registers[3] was "),
        "{text}"
    );
}

#[test]
fn a_field_of_128_bits_is_named() {
    let divergence = diverge(1500, What::Wide);
    assert_eq!(divergence.what, "wide[1]");
    assert_eq!(divergence.expected, (1u128 << 100).to_string());
    assert_eq!(divergence.got, (1u128 << 100 | 1 << 90).to_string());
}

#[test]
fn the_range_of_ram_is_named() {
    let divergence = diverge(1500, What::Ram);
    // 512 pages in 64 groups of 8: page 0x180 is in the group from 0x180 to 0x187.
    assert_eq!(divergence.what, "RAM written between 0x180000 and 0x187000");
}

#[test]
fn console_output_is_compared_at_the_end() {
    let divergence = diverge(1500, What::Output);
    assert_eq!(divergence.what, "the console output");
}

#[test]
fn a_machine_that_ends_or_hangs_before_the_next_event_diverges() {
    for what in [What::EndsEarly, What::Hangs] {
        let divergence = diverge(1500, what);
        assert_eq!(divergence.what, "the moment of the next event", "{what:?}");
        assert!((1400..1600).contains(&divergence.since), "{what:?}");
    }
}

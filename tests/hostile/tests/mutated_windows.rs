//! Windows guests whose memory and registers were changed at random become dumps or errors, and nothing else.

use dejavm_hostile::{Random, windows_guest};

/// Cases for each guest; each makes a dump of 64 MiB with holes.
const CASES: u64 = 60;

#[test]
fn changed_windows_guests_become_dumps_or_errors() {
    let mut made = 0;
    for case in 0..CASES * 7 {
        let mut random = Random::new(case);
        let mut bytes = vec![(case % 7) as u8, random.next_u64() as u8];
        // From none to many.
        for _ in 0..random.below(1 << (case % 9)) {
            bytes.extend(random.next_u64().to_le_bytes());
            bytes.extend((random.next_u64() as u32).to_le_bytes());
        }
        let outcome = std::panic::catch_unwind(|| windows_guest(&bytes));
        made +=
            u64::from(outcome.unwrap_or_else(|_| panic!("case {case} (of Random::new({case}))")));
    }
    // Few changes hit anything that matters.
    assert!(made > CASES * 2 && made < CASES * 7, "{made} dumps");
}

/// What is not even two bytes.
#[test]
fn nothing_is_no_guest() {
    assert!(!windows_guest(&[]));
    assert!(!windows_guest(&[1]));
    assert!(windows_guest(&[1, 0]));
}

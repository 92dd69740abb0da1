//! Conditional branches: for a stand-in of the processor's counter of them, which is told of each.

/// Whether an instruction with these bytes is one: Jcc, LOOPcc, JCXZ (SDM vol. 2A, 2.1.1, and appendix A: opcodes 70 to 7F, 0F 80 to 0F 8F, E0 to
/// E3). Whether it branches does not matter.
pub(crate) fn is_conditional_branch(bytes: impl Iterator<Item = u8>, long: bool) -> bool {
    let mut bytes = bytes.skip_while(|byte| match byte {
        0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf2 | 0xf3 => true,
        0x40..=0x4f => long,
        _ => false,
    });
    match bytes.next() {
        Some(0x70..=0x7f | 0xe0..=0xe3) => true,
        Some(0x0f) => matches!(bytes.next(), Some(0x80..=0x8f)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_are_known_by_their_bytes() {
        let is = |bytes: &[u8], long| is_conditional_branch(bytes.iter().copied(), long);
        // jz; jnz near; loop; jrcxz; jecxz; jz with the hint "taken", with a bound check
        for branch in [
            &[0x74, 0][..],
            &[0x0f, 0x85, 0, 0, 0, 0],
            &[0xe2, 0xfe],
            &[0xe3, 0],
            &[0x67, 0xe3, 0],
            &[0x3e, 0x74, 0],
            &[0xf2, 0x75, 0],
        ] {
            assert!(is(branch, true) && is(branch, false), "{branch:x?}");
        }
        // REX does nothing to it; in 32-bit code 40 is INC EAX.
        assert!(is(&[0x48, 0x74, 0], true));
        assert!(!is(&[0x40, 0x74, 0], false));
        // jmp; call; ret; mov; setz; cmovz; nothing
        for other in [
            &[0xeb, 0][..],
            &[0xe8, 0, 0, 0, 0],
            &[0xc3],
            &[0x89, 0x74],
            &[0x0f, 0x94, 0xc0],
            &[0x0f, 0x44, 0xc0],
            &[],
        ] {
            assert!(!is(other, true) && !is(other, false), "{other:x?}");
        }
    }
}

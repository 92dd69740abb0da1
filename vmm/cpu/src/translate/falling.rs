//! Blocks whose host code falls into that of the next, which is rewritten. A store drops the blocks of 64 bytes,
//! so the one before ends where those begin.

use super::callouts::agree;
use crate::run::Stop;
use crate::testing::CODE;

/// Where the block begins that is rewritten, and the one that rewrites it.
const NEXT: u64 = CODE + 0x40;
const OTHER: u64 = CODE + 0x80;

/// `inc byte [at]`
fn increment(at: u64) -> Vec<u8> {
    [&[0xfe, 0x04, 0x25][..], &(at as u32).to_le_bytes()].concat()
}

/// A block that is reached by a jump and by falling through, and whose constant grows now and then.
#[test]
fn the_next_block_is_rewritten() {
    for mask in [0u8, 1, 3, 15] {
        // dec ecx; jz to hlt; test cl, mask; jz to other
        let first = [0xff, 0xc9, 0x74, 0x4e, 0xf6, 0xc1, mask, 0x74, 0x40];
        // next: add ebx, 1; jmp to the first
        let next = [0x83, 0xc3, 0x01, 0xeb, 0xf2];
        // other: inc byte [the constant]; jmp to next; hlt
        let other = [&increment(NEXT + 2)[..], &[0xeb, 0xb7, 0xf4]].concat();
        let start = NEXT - first.len() as u64;
        let (stop, state) = agree(
            &[(start, &first), (NEXT, &next), (OTHER, &other)],
            |state| (state.rip, state.gpr[1]) = (start, 3000),
            100_000,
        );
        assert_eq!((stop, state.gpr[1]), (Stop::Halted, 0));
    }
}

/// A loop of three blocks in a row, the last of which rewrites the second.
#[test]
fn a_loop_rewrites_its_middle() {
    // dec ecx; jz to hlt
    let first = [0xff, 0xc9, 0x74, 0x4c];
    // next: add ebx, 1; 58 bytes of NOP; jnz to other
    let nops = [0x90; 58];
    let next = [&[0x83, 0xc3, 0x01][..], &nops, &[0x0f, 0x85, 0, 0, 0, 0]].concat();
    // inc byte [the constant]; jmp to the first; hlt
    let other = [&increment(NEXT + 2)[..], &[0xeb, 0xb0, 0xf4]].concat();
    let start = NEXT - first.len() as u64;
    let (stop, state) = agree(
        &[(start, &first), (NEXT, &next), (NEXT + next.len() as u64, &other)],
        |state| (state.rip, state.gpr[1]) = (start, 200),
        20_000,
    );
    assert_eq!(stop, Stop::Halted);
    assert_eq!(state.gpr[3] as i32, (1..=127).sum::<i32>() + (-128..=-57).sum::<i32>());
}

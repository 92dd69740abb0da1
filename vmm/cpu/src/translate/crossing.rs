//! Instructions that cross into the next page, which is another one in memory, and changes.

use super::callouts::{PAGE_TABLE, agree, call};
use crate::run::Stop;
use crate::testing::CODE;

/// The second of two linear pages leads to a page that is no neighbour.
const SECOND: u64 = 0x5_1000;
const ELSEWHERE: u64 = 0x7_0000;
/// The page table's entry for the second page.
const ENTRY: u64 = PAGE_TABLE + (SECOND >> 12) * 8;

/// `code` at the end of the first page, of which `crossing` bytes lie in the second.
fn across(code: &[u8], crossing: usize) -> [(u64, Vec<u8>); 2] {
    let (first, second) = code.split_at(code.len() - crossing);
    [(SECOND - first.len() as u64, first.to_vec()), (ELSEWHERE, second.to_vec())]
}

/// Calls the last instructions of the first page again and again; the bytes in the second are its `tail`.
fn run(code: &[u8], crossing: usize, tail: &[u8], more: &[u8], limit: u64) -> (Stop, [u64; 2]) {
    let [first, mut second] = across(code, crossing);
    second.1.extend_from_slice(tail);
    let main = [&call(CODE, first.0)[..], more].concat();
    let back = -(main.len() as i8) - 2;
    let main = [&main[..], &[0xeb, back as u8]].concat();
    let entry = (ELSEWHERE | 0x67).to_le_bytes();
    let (stop, state) = agree(
        &[(CODE, &main), (first.0, &first.1), (second.0, &second.1), (ENTRY, &entry)],
        |_| (),
        limit,
    );
    (stop, [state.gpr[3], state.position.0])
}

/// `inc byte [at]`
fn increment(at: u64) -> Vec<u8> {
    [&[0xfe, 0x04, 0x25][..], &(at as u32).to_le_bytes()].concat()
}

/// ADD ebx, imm32, whose constant grows between any two executions.
#[test]
fn the_part_in_the_next_page_changes() {
    for crossing in 1..=5 {
        let at = ELSEWHERE + crossing - 4;
        let constant = if crossing < 4 { SECOND - 4 + crossing } else { at };
        let (_, [sum, _]) = run(
            &[0x81, 0xc3, 0, 0, 0, 0],
            crossing as usize,
            &[0xc3],
            &increment(constant),
            5 * 50,
        );
        assert_eq!(sum, (0..50).sum::<u64>(), "{crossing}");
    }
}

/// JMP, CALL, Jcc and RET imm16, each with its last bytes in the next page.
#[test]
fn branches_cross() {
    // add ebx, 1; ret, behind the branch or where it leads
    let add = [0x83, 0xc3, 0x01, 0xc3];
    // jmp +2; (ud2); add; ret
    let jmp = [&[0x0f, 0x0b][..], &add].concat();
    // call +1; ret; add; ret
    let called = [&[0xc3][..], &add].concat();
    // test ecx, ecx; jz +2
    let jz = [0x85, 0xc9, 0x0f, 0x84, 2, 0, 0, 0];
    for crossing in 1..=4 {
        let (_, [count, _]) = run(&[0xe9, 2, 0, 0, 0], crossing, &jmp, &[], 5 * 50);
        assert_eq!(count, 50, "JMP, {crossing}");
        let (_, [count, _]) = run(&[0xe8, 1, 0, 0, 0], crossing, &called, &[], 6 * 50);
        assert_eq!(count, 50, "CALL, {crossing}");
        let (_, [count, _]) = run(&jz, crossing, &jmp, &[], 6 * 50);
        assert_eq!(count, 50, "JZ, {crossing}");
    }
}

/// The second page is missing: the fetch faults, after the instructions before it.
#[test]
fn the_next_page_is_missing() {
    let [first, second] = across(&[0x83, 0xc3, 0x01, 0x81, 0xc3, 0, 0, 0, 0], 2);
    // dec ecx; jz to it; jmp to the start
    let main = [0xff, 0xc9, 0x74, 0x02, 0xeb, 0xfa];
    let go = [&[0xe9][..], &((first.0 - (CODE + 11)) as u32).to_le_bytes()].concat();
    let main = [&main[..], &go].concat();
    let (stop, state) = agree(
        &[(CODE, &main), (first.0, &first.1), (second.0, &second.1), (ENTRY, &[0; 8])],
        |state| state.gpr[1] = 10,
        1000,
    );
    assert_eq!((stop, state.cr2, state.gpr[3]), (Stop::Halted, SECOND, 1));
}

/// The second page is another one, every other time.
#[test]
fn the_next_page_is_another() {
    let [first, mut second] = across(&[0x81, 0xc3, 1, 0, 0, 0], 4);
    second.1.push(0xc3);
    let other = [0x40, 0, 0, 0, 0xc3];
    // call; xchg [entry], rax; jmp to the call
    let [a, b, c, d] = (ENTRY as u32).to_le_bytes();
    let main =
        [&call(CODE, first.0)[..], &[0x48, 0x87, 0x04, 0x25, a, b, c, d, 0xeb, 0xf1]].concat();
    let entry = (ELSEWHERE | 0x67).to_le_bytes();
    let (_, state) = agree(
        &[
            (CODE, &main),
            (first.0, &first.1),
            (second.0, &second.1),
            (0x8_0000, &other),
            (ENTRY, &entry),
        ],
        |state| state.gpr[0] = 0x8_0000 | 0x67,
        5 * 100,
    );
    assert_eq!(state.gpr[3], 50 * 0x41);
}

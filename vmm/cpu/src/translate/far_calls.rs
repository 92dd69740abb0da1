//! Calls to other pages whose targets, callers and page tables change once they are linked.

use super::callouts::{PAGE_TABLE, agree, call};
use crate::run::Stop;
use crate::testing::CODE;

/// Three linear pages of code, and where other pages lie in memory.
const HERE: u64 = 0x5_0000;
const THERE: u64 = 0x5_1000;
const ELSEWHERE: u64 = 0x5_8000;
const PAGES: [u64; 3] = [0x6_0000, 0x7_0000, 0x8_0000];

/// The page table's entry for a linear page.
fn entry(linear: u64) -> u64 {
    PAGE_TABLE + (linear >> 12) * 8
}

fn lead_to(page: u64) -> [u8; 8] {
    (page | 0x67).to_le_bytes()
}

/// ADD ebx, n; RET
const fn add(n: u8) -> [u8; 4] {
    [0x83, 0xc3, n, 0xc3]
}

/// Every so many calls the page table leads to another callee.
#[test]
fn the_callees_page_is_another() {
    for period in [1u8, 7, 100] {
        // call; dec ecx; jnz over; mov ecx, period; xchg [entry], rax; over: jmp to the call
        let [a, b, c, d] = (entry(THERE) as u32).to_le_bytes();
        let code = [
            &call(CODE, THERE)[..],
            &[0xff, 0xc9, 0x75, 0x0d, 0xb9, period, 0, 0, 0, 0x48, 0x87, 0x04, 0x25, a, b, c, d],
            &[0xeb, 0xe8],
        ]
        .concat();
        let (_, state) = agree(
            &[
                (CODE, &code),
                (PAGES[0], &add(1)),
                (PAGES[1], &add(0x40)),
                (entry(THERE), &lead_to(PAGES[0])),
            ],
            |state| {
                state.gpr[0] = PAGES[1] | 0x67;
                state.gpr[1] = u64::from(period);
            },
            5_000,
        );
        assert_ne!(state.gpr[3] & 0x3f, 0, "both were called");
        assert!(state.gpr[3] > 0x40, "both were called");
    }
}

/// One page of code at two linear addresses, from which it calls different pages.
#[test]
fn the_caller_is_in_two_places() {
    let main = [&call(CODE, HERE)[..], &call(CODE + 5, ELSEWHERE), &[0xeb, 0xf4]].concat();
    let caller = [&call(HERE, THERE)[..], &[0xc3]].concat();
    let (_, state) = agree(
        &[
            (CODE, &main),
            (PAGES[0], &caller),
            (PAGES[1], &add(1)),
            (PAGES[2], &add(0x10)),
            (entry(HERE), &lead_to(PAGES[0])),
            (entry(ELSEWHERE), &lead_to(PAGES[0])),
            (entry(THERE), &lead_to(PAGES[1])),
            (entry(ELSEWHERE + 0x1000), &lead_to(PAGES[2])),
        ],
        |_| (),
        11 * 100,
    );
    assert_eq!(state.gpr[3], 100 * 0x11);
}

/// A linked call from a page that is mapped once more, at the end of the lower half: there it leads to no
/// canonical address, faults, and has pushed nothing.
#[test]
fn a_call_off_the_end_of_the_lower_half() {
    let end = 0x7fff_ffff_f000u64;
    // call; dec ecx; jnz to the call; jmp rax
    let main = [&call(CODE, HERE)[..], &[0xff, 0xc9, 0x75, 0xf7, 0xff, 0xe0]].concat();
    let caller = [&call(HERE, THERE)[..], &[0xc3]].concat();
    let tables = [0x1000, 0x9_1000, 0x9_2000, 0x9_3000, PAGES[0]];
    let [top, pointers, directory, table] = std::array::from_fn(|n| {
        (tables[n] + (end >> (39 - 9 * n) & 0x1ff) * 8, lead_to(tables[n + 1]))
    });
    let (stop, state) = agree(
        &[
            (CODE, &main),
            (PAGES[0], &caller),
            (PAGES[1], &add(1)),
            (entry(HERE), &lead_to(PAGES[0])),
            (entry(THERE), &lead_to(PAGES[1])),
            (top.0, &top.1),
            (pointers.0, &pointers.1),
            (directory.0, &directory.1),
            (table.0, &table.1),
        ],
        |state| (state.gpr[0], state.gpr[1]) = (end, 30),
        10_000,
    );
    // The frame of #GP: five words and an error code, on a stack aligned to 16 bytes.
    assert_eq!((stop, state.gpr[3]), (Stop::Halted, 30));
    assert_eq!(state.gpr[4], crate::testing::STACK - 6 * 8);
}

#[test]
fn the_callee_is_rewritten() {
    // call; inc byte [the callee's constant]; jmp to the call
    let [a, b, c, d] = (THERE as u32 + 2).to_le_bytes();
    let main = [&call(CODE, THERE)[..], &[0xfe, 0x04, 0x25, a, b, c, d, 0xeb, 0xf2]].concat();
    let (_, state) = agree(&[(CODE, &main), (THERE, &add(0))], |_| (), 5 * 50);
    assert_eq!(state.gpr[3], (0..50).sum::<u64>());
}

/// Two functions in different pages that call one another, far deeper than return addresses are kept.
#[test]
fn deep_recursion() {
    // dec edx; jz to the ret; call; add ebx, 1; ret
    let function = |at: u64, other: u64| {
        [&[0xff, 0xca, 0x74, 0x08][..], &call(at + 4, other), &add(1)].concat()
    };
    let main = [&call(CODE, HERE)[..], &[0xf4]].concat();
    let (stop, state) = agree(
        &[(CODE, &main), (HERE, &function(HERE, THERE)), (THERE, &function(THERE, HERE))],
        |state| (state.gpr[2], state.gpr[4]) = (20_000, 0x20_0000),
        1_000_000,
    );
    assert_eq!((stop, state.gpr[3]), (Stop::Halted, 19_999));
}

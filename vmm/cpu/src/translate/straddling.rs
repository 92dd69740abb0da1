//! Accesses that share a probe where the end of a page comes between them. Pages that are neighbours to the
//! guest are none in memory, so that whoever reads past one's end finds something else.

use super::callouts::{PAGE_TABLE, agree};
use crate::run::Stop;
use crate::testing::{CODE, DATA};

/// Four pages in a row, the next is missing.
const ROW: u64 = 0x6_0000;

/// Page table entries of the row.
fn row() -> Vec<(u64, [u8; 8])> {
    let pages = [DATA + 0x3000, DATA + 0x1000, DATA, DATA + 0x2000].map(|page| page | 0x67);
    let entries = pages.into_iter().chain([0]);
    (ROW >> 12..)
        .zip(entries)
        .map(|(page, entry)| (PAGE_TABLE + page * 8, entry.to_le_bytes()))
        .collect()
}

/// What is in all of memory where the row lies: no two words alike.
fn pattern() -> Vec<u8> {
    (0..0x4000u64 / 8).flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect()
}

fn run(code: &[u8], registers: [(usize, u64); 2], limit: u64) -> Stop {
    let (row, pattern) = (row(), pattern());
    let mut memory: Vec<(u64, &[u8])> = vec![(CODE, code), (DATA, &pattern)];
    memory.extend(row.iter().map(|(at, entry)| (*at, &entry[..])));
    let set = |state: &mut crate::state::CpuState| {
        for (register, value) in registers {
            state.gpr[register] = value;
        }
    };
    agree(&memory, set, limit).0
}

/// A structure that moves through all four pages, by an odd number of bytes, and off the last.
#[test]
fn a_structure_across_pages() {
    // mov rax, [rdi]; add rax, [rdi+0x18]; mov [rdi+0x40], rax; movzx ecx, byte [rdi+7]; add rdi, 5; jmp
    let code = [
        0x48, 0x8b, 0x07, 0x48, 0x03, 0x47, 0x18, 0x48, 0x89, 0x47, 0x40, 0x0f, 0xb6, 0x4f, 0x07,
        0x48, 0x83, 0xc7, 0x05, 0xeb, 0xeb,
    ];
    assert_eq!(run(&code, [(7, ROW), (1, 0)], 6 * 3000), Stop::Limit);
    assert_ne!(run(&code, [(7, ROW), (1, 0)], 6 * 4000), Stop::Limit);
}

/// Frames all over the stack's pages, so that each push is the first in its page once.
#[test]
fn a_stack_across_pages() {
    // push rbx; push rdi; push r9; sub rsp, 16; mov [rsp+8], rsp; mov rbx, [rsp+0x18]; add rbx, rsp;
    // add rsp, 16; pop r9; pop rdi; pop rcx; lea rsp, [rsp-8]; jmp
    let code = [
        0x53, 0x57, 0x41, 0x51, 0x48, 0x83, 0xec, 0x10, 0x48, 0x89, 0x64, 0x24, 0x08, 0x48, 0x8b,
        0x5c, 0x24, 0x18, 0x48, 0x01, 0xe3, 0x48, 0x83, 0xc4, 0x10, 0x41, 0x59, 0x5f, 0x59, 0x48,
        0x8d, 0x64, 0x24, 0xf8, 0xeb, 0xdc,
    ];
    assert_eq!(run(&code, [(4, ROW + 0x4000 - 8), (7, 3)], 13 * 1900), Stop::Limit);
}

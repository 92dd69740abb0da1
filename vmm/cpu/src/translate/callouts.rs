//! What host code's callouts may meet: code and page tables that change under their callers, faults, deep
//! stacks, and MXCSR of either side. All against the reference semantics.

use crate::mmu::{Engine, Tuning};
use crate::run::Stop;
use crate::state::CpuState;
use crate::testing::{Bench, CODE, DATA};

/// Another page of code.
const FAR: u64 = CODE + 0x1000;

/// Puts code and data at addresses of memory whose first 2 MiB are mapped by 4 KiB pages, runs it by host
/// code and by the reference semantics, and compares; returns how it ended.
pub(super) fn agree(
    memory: &[(u64, &[u8])],
    set: impl Fn(&mut CpuState),
    limit: u64,
) -> (Stop, CpuState) {
    let default = Tuning::default();
    let run = |tuning| {
        let mut bench = Bench::long().with_tables();
        bench.cpu.set_tuning(tuning);
        for page in 0..512u64 {
            bench.poke(PAGE_TABLE + page * 8, &(page << 12 | 0x67).to_le_bytes());
        }
        bench.poke(0x3000, &(PAGE_TABLE | 0x67).to_le_bytes());
        for (at, bytes) in memory {
            bench.poke(*at, bytes);
        }
        bench.change(&set);
        let stop = bench.go(limit);
        let state = bench.cpu.state();
        (stop, state, bench.peek::<0x1_0000>(DATA))
    };
    let reference = run(Tuning { engine: Engine::Reference, ..default });
    // Only blocks that were entered before are placed behind others.
    for translate_after in [0, 1] {
        let translated = run(Tuning { translate_after, ..default });
        assert_eq!(translated.0, reference.0);
        assert_eq!(translated.1, reference.1);
        assert!(translated.2 == reference.2, "memory differs");
    }
    (reference.0, reference.1)
}

pub(super) const PAGE_TABLE: u64 = 0x9_0000;

/// CALL from one address to another.
pub(super) fn call(from: u64, to: u64) -> [u8; 5] {
    let [a, b, c, d] = (to.wrapping_sub(from + 5) as u32).to_le_bytes();
    [0xe8, a, b, c, d]
}

/// Each call's return address is mapped to another page than the call was made from.
#[test]
fn return_addresses_follow_page_tables_that_a_callout_changes() {
    let (here, there) = (0x4_0000, 0x5_0000);
    let call = call(here, FAR);
    // add ebx, n; jmp to the call
    let page = |n: u8| [&call[..], &[0x83, 0xc3, n, 0xeb, 0xf6]].concat();
    // xchg rax, r8; mov ecx, 1; rep stosq; sub rdi, 8; ret
    let callee = [0x49, 0x90, 0xb9, 1, 0, 0, 0, 0xf3, 0x48, 0xab, 0x48, 0x83, 0xef, 0x08, 0xc3];
    let (_, state) = agree(
        &[(here, &page(1)), (there, &page(0x40)), (FAR, &callee)],
        |state| {
            state.rip = here;
            state.gpr[0] = here | 0x67;
            state.gpr[8] = there | 0x67;
            state.gpr[7] = PAGE_TABLE + (here >> 12) * 8;
        },
        8 * 100,
    );
    assert_eq!(state.gpr[3], 50 * 0x40 + 50);
}

/// What a callee stores is the immediate of the instruction that it returns to.
#[test]
fn a_callout_rewrites_its_caller() {
    let call = call(CODE, FAR);
    // mov eax, 0; add ebx, eax; jmp to the call
    let caller = [&call[..], &[0xb8, 0, 0, 0, 0, 0x01, 0xc3, 0xeb, 0xf2]].concat();
    // inc dl; mov al, dl; mov ecx, 1; rep stosb; dec rdi; ret
    let callee = [0xfe, 0xc2, 0x88, 0xd0, 0xb9, 1, 0, 0, 0, 0xf3, 0xaa, 0x48, 0xff, 0xcf, 0xc3];
    let (_, state) = agree(
        &[(CODE, &caller), (FAR, &callee)],
        |state| (state.gpr[2], state.gpr[7]) = (0, CODE + 6),
        10 * 50,
    );
    assert_eq!(state.gpr[3], (1..=50).sum::<u64>());
}

#[test]
fn a_callout_rewrites_its_own_block() {
    // inc dl; mov al, dl; mov ecx, 1; rep stosb; dec rdi; mov eax, 0; add ebx, eax; jmp to the start
    let code = [
        0xfe, 0xc2, 0x88, 0xd0, 0xb9, 1, 0, 0, 0, 0xf3, 0xaa, 0x48, 0xff, 0xcf, 0xb8, 0, 0, 0, 0,
        0x01, 0xc3, 0xeb, 0xe9,
    ];
    let (_, state) =
        agree(&[(CODE, &code)], |state| (state.gpr[2], state.gpr[7]) = (0, CODE + 15), 8 * 50);
    assert_eq!(state.gpr[3], (1..=50).sum::<u64>());
}

/// The third element of a fill faults.
#[test]
fn a_callout_faults_half_way() {
    let call = call(CODE, FAR);
    let caller = [&call[..], &[0xeb, 0xf9]].concat();
    // mov ecx, 3; rep stosq; ret
    let callee = [0xb9, 3, 0, 0, 0, 0xf3, 0x48, 0xab, 0xc3];
    let end = 0x5_0000;
    let hole = (PAGE_TABLE + (end >> 12) * 8, &[0u8; 8][..]);
    let (stop, state) = agree(
        &[(CODE, &caller), (FAR, &callee), hole],
        |state| state.gpr[7] = end - 8 * (3 * 100 + 2),
        10_000,
    );
    assert_eq!((stop, state.cr2, state.gpr[1]), (Stop::Halted, end, 1));
}

/// Far more calls than return addresses are kept for, a callout before and behind each.
#[test]
fn callouts_have_a_stack_however_deep_the_guest_calls() {
    let recursive = CODE + 0x10;
    let first = call(CODE, recursive);
    let again = call(recursive + 11, recursive);
    let main = [&first[..], &[0xf4]].concat();
    // dec edx; jz to ret; mov ecx, 1; rep movsb; call; mov ecx, 1; rep stosb; add ebx, 1; ret
    let function = [
        &[0xff, 0xca, 0x74, 0x16, 0xb9, 1, 0, 0, 0, 0xf3, 0xa4][..],
        &again,
        &[0xb9, 1, 0, 0, 0, 0xf3, 0xaa, 0x83, 0xc3, 0x01, 0xc3],
    ]
    .concat();
    let (stop, state) = agree(
        &[(CODE, &main), (recursive, &function)],
        |state| {
            state.gpr[2] = 20_000;
            state.gpr[4] = 0x20_0000;
            state.gpr[6] = CODE;
            state.gpr[7] = DATA;
        },
        1_000_000,
    );
    assert_eq!((stop, state.gpr[3]), (Stop::Halted, 19_999));
}

/// Rounding and flags are the guest's in its own instructions, whatever runs between them.
#[test]
fn mxcsr_is_the_guests_between_callouts() {
    // divsd xmm1, xmm2; cvtsd2si rax, xmm0; add rbx, rax; mov ecx, 1; rep stosb; cvtsd2si rax, xmm0;
    // add rbx, rax; ldmxcsr [rsi]; stmxcsr [rdi]; add rsi, 4; add rdi, 4; jmp to the start
    let code = [
        0xf2, 0x0f, 0x5e, 0xca, 0xf2, 0x48, 0x0f, 0x2d, 0xc0, 0x48, 0x01, 0xc3, 0xb9, 1, 0, 0, 0,
        0xf3, 0xaa, 0xf2, 0x48, 0x0f, 0x2d, 0xc0, 0x48, 0x01, 0xc3, 0x0f, 0xae, 0x16, 0x0f, 0xae,
        0x1f, 0x48, 0x83, 0xc6, 0x04, 0x48, 0x83, 0xc7, 0x04, 0xeb, 0xd5,
    ];
    let mut modes: Vec<u8> =
        (0..40u32).flat_map(|n| (0x1f80 | (n % 4) << 13 | n & 0x3f).to_le_bytes()).collect();
    for (last, ends) in [(0x5f80u32, false), (0x4f80, true)] {
        modes.truncate(160);
        // With #P unmasked at the end, and a division that is inexact.
        modes.extend((0..8).flat_map(|_| last.to_le_bytes()));
        let (stop, state) = agree(
            &[(CODE, &code), (DATA + 0x1000, &modes)],
            |state| {
                state.xmm[0] = f64::to_bits(2.5).into();
                state.xmm[1] = f64::to_bits(1.0).into();
                state.xmm[2] = f64::to_bits(3.0).into();
                state.gpr[6] = DATA + 0x1000;
                state.gpr[7] = DATA;
                state.cr4 |= crate::cpu::control::CR4_OSXMMEXCPT;
            },
            12 * 45,
        );
        assert_eq!(stop == Stop::Halted, ends, "{last:#x}");
        assert_ne!(state.gpr[3], 0);
    }
}

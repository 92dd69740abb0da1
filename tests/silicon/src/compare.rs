//! Where two outcomes of a test differ.

use crate::shared::{COMPLETED, Outcome};
use crate::test_case::Test;
use crate::undefined::{Allowance, allowance};
use iced_x86::FlowControl;
use std::fmt::Write;

const GPR_NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

/// #BP, #PF and #GP.
const BREAKPOINT: u32 = 3;
const GENERAL_PROTECTION: u32 = 13;
const PAGE_FAULT: u32 = 14;

/// Brings the host's account into the form of the guest's.
pub fn normalise(test: &Test, native: &mut Outcome) {
    let entry = test.case.entry;
    let is_branch = test.instruction.flow_control() != FlowControl::Next;
    match native.vector {
        // A branch landed on the breakpoints that fill the page.
        BREAKPOINT => {
            native.rip = native.rip.wrapping_sub(1);
            complete(native);
        }
        // It landed where no code is, or the instruction ended where none is.
        PAGE_FAULT if native.rip != entry && native.rip == native.cr2 => complete(native),
        // A branch to a non-canonical address: AMD faults when it fetches from there, Intel on the
        // branch itself.
        GENERAL_PROTECTION if native.rip != entry && is_branch => complete(native),
        // Linux does not tell whether such an address is mapped: it says "protection".
        PAGE_FAULT if is_beyond_user_space(native.cr2) => native.error_code |= 1,
        _ => {}
    }
    if native.vector != PAGE_FAULT {
        native.cr2 = 0;
    }
}

/// The kernel's addresses, and the guard page below the hole.
fn is_beyond_user_space(linear: u64) -> bool {
    linear >= 0x7fff_ffff_f000
}

fn complete(native: &mut Outcome) {
    native.vector = COMPLETED;
    native.error_code = 0;
}

/// Compares; the differences in words, or nothing.
pub fn compare(
    test: &Test,
    with_fx: bool,
    native: (&Outcome, &[u8]),
    soft: (&Outcome, &[u8]),
) -> Option<String> {
    let mut soft_outcome = *soft.0;
    if soft_outcome.vector == PAGE_FAULT && is_beyond_user_space(soft_outcome.cr2) {
        soft_outcome.error_code |= 1;
    }
    let allowed = allowance(test, native.0);
    differences(test, with_fx, native, (&soft_outcome, soft.1), &allowed)
}

/// Compares what two ways of the software CPU did: nothing is left open.
pub fn compare_exactly(
    test: &Test,
    with_fx: bool,
    reference: (&Outcome, &[u8]),
    soft: (&Outcome, &[u8]),
) -> Option<String> {
    let text = differences(test, with_fx, reference, soft, &Allowance::exact())?;
    Some(text.replace("native", "reference"))
}

fn differences(
    test: &Test,
    with_fx: bool,
    (native, native_memory): (&Outcome, &[u8]),
    (soft, soft_memory): (&Outcome, &[u8]),
    allowed: &Allowance,
) -> Option<String> {
    if allowed.everything {
        return None;
    }
    let both_fault = native.vector != COMPLETED && soft.vector != COMPLETED;
    let fault_is_open = allowed.fault && both_fault;
    let mut text = String::new();
    let mut differ = |what: &str, native: u64, soft: u64| {
        writeln!(text, "  {what:8} native {native:016x}  soft {soft:016x}").expect("to a string");
    };
    let vector = |v: u32| u64::from(v);
    if native.vector != soft.vector && !fault_is_open {
        differ("vector", vector(native.vector), vector(soft.vector));
    }
    if native.error_code != soft.error_code && !fault_is_open {
        differ("error", native.error_code.into(), soft.error_code.into());
    }
    if native.cr2 != soft.cr2 && !fault_is_open {
        differ("cr2", native.cr2, soft.cr2);
    }
    if native.rip != soft.rip {
        differ("rip", native.rip, soft.rip);
    }
    if (native.rflags ^ soft.rflags) & allowed.flags != 0 {
        differ("rflags", native.rflags & allowed.flags, soft.rflags & allowed.flags);
    }
    for (n, name) in GPR_NAMES.iter().enumerate() {
        if (native.gpr[n] ^ soft.gpr[n]) & allowed.gpr[n] != 0 {
            differ(name, native.gpr[n], soft.gpr[n]);
        }
    }
    if with_fx {
        compare_fx(allowed, &native.fx, &soft.fx, &mut differ);
    }
    compare_memory(test, allowed, native_memory, soft_memory, &mut differ);
    (!text.is_empty()).then_some(text)
}

fn compare_fx(
    allowed: &Allowance,
    native: &[u8; 512],
    soft: &[u8; 512],
    differ: &mut impl FnMut(&str, u64, u64),
) {
    if !allowed.x87 {
        compare_x87(allowed, native, soft, differ);
    }
    if long(native, 24) as u32 != long(soft, 24) as u32 {
        differ("mxcsr", long(native, 24) & 0xffff_ffff, long(soft, 24) & 0xffff_ffff);
    }
    if native[160..416] == soft[160..416] {
        return;
    }
    for n in 0..16 {
        for half in 0..2 {
            let at = 160 + 16 * n + 8 * half;
            let (a, b) = (long(native, at), long(soft, at));
            // Each may be 1.5 * 2^-12 off: 3 * 2^-12 of a significand of 24 bits apart.
            let near = |shift: u32| {
                let lane = |v: u64| i64::from((v >> shift) as u32);
                // At the edge of the denormal range one vendor's is already zero.
                let is_tiny = |v: u64| lane(v) & 0x7fff_ffff < 0x0100_0000;
                is_tiny(a) && is_tiny(b) || (lane(a) - lane(b)).abs() <= 0x3000
            };
            let is_other_nan = is_other_nan(a, b, allowed.other_nan_bits);
            if a != b && !is_other_nan && !(allowed.approximate && near(0) && near(32)) {
                differ(&format!("xmm{n}.{half}"), a, b);
            }
        }
    }
}

/// Whether the lanes of `bits` that differ are quiet NaNs on both sides.
fn is_other_nan(native: u64, soft: u64, bits: u32) -> bool {
    let quiet: u64 = match bits {
        32 => 0x7fc0_0000,
        64 => 0x7ff8_0000_0000_0000,
        _ => return false,
    };
    (0..64 / bits).all(|lane| {
        let [native, soft] =
            [native, soft].map(|both| both >> (lane * bits) & (u64::MAX >> (64 - bits)));
        native == soft || native & quiet == quiet && soft & quiet == quiet
    })
}

fn compare_x87(
    allowed: &Allowance,
    native: &[u8; 512],
    soft: &[u8; 512],
    differ: &mut impl FnMut(&str, u64, u64),
) {
    if word(native, 0) != word(soft, 0) {
        differ("fcw", word(native, 0).into(), word(soft, 0).into());
    }
    let (a, b) = (word(native, 2), word(soft, 2));
    if (a ^ b) & allowed.status != 0 {
        differ("fsw", (a & allowed.status).into(), (b & allowed.status).into());
    }
    if native[4] != soft[4] {
        differ("ftw", native[4].into(), soft[4].into());
    }
    for n in 0..8 {
        let at = 32 + 16 * n;
        if native[at..at + 10] != soft[at..at + 10] {
            let a = (word(native, at + 8), long(native, at));
            let b = (word(soft, at + 8), long(soft, at));
            if !is_near(a, b, allowed.ulps) {
                differ(&format!("st{n}.se"), a.0.into(), b.0.into());
                differ(&format!("st{n}"), a.1, b.1);
            }
        }
    }
}

fn word(fx: &[u8; 512], at: usize) -> u16 {
    u16::from_le_bytes([fx[at], fx[at + 1]])
}

fn long(fx: &[u8; 512], at: usize) -> u64 {
    u64::from_le_bytes(*fx[at..].first_chunk().expect("eight bytes"))
}

/// Whether two extended values are at most `ulps` apart.
fn is_near(a: (u16, u64), b: (u16, u64), ulps: u64) -> bool {
    if a.0 >> 15 != b.0 >> 15 {
        return false;
    }
    let line = |v: (u16, u64)| i128::from(v.0 & 0x7fff) << 63 | i128::from(v.1 & !(1 << 63));
    (line(a) - line(b)).unsigned_abs() <= ulps.into()
}

fn compare_memory(
    test: &Test,
    allowed: &Allowance,
    native: &[u8],
    soft: &[u8],
    differ: &mut impl FnMut(&str, u64, u64),
) {
    let operand = test.accesses.first().map_or(0, |access| access.at);
    // The stack is the last thing that an instruction accesses.
    let pushed = test.accesses.last().filter(|_| allowed.pushed);
    for window in &test.case.window[..test.case.windows as usize] {
        let range = window.to as usize..(window.to + window.len) as usize;
        if native[range.clone()] == soft[range.clone()] {
            continue;
        }
        for n in range {
            let at = u64::from(window.at) + (n as u64 - u64::from(window.to));
            let open = allowed.memory.as_ref().is_some_and(|open| {
                at >= operand + u64::from(open.start) && at < operand + u64::from(open.end)
            });
            let is_pushed = pushed.is_some_and(|pushed| {
                (pushed.at..pushed.at + u64::from(pushed.size)).contains(&at)
            });
            if native[n] != soft[n] && !open && !is_pushed {
                differ(&format!("{at:08x}"), native[n].into(), soft[n].into());
            }
        }
    }
}

//! Tests in words.

use crate::arrange::Access;
use crate::shared::Outcome;
use crate::test_case::Batch;
use iced_x86::{Formatter, NasmFormatter};
use std::fmt::Write;

/// A test: instruction, inputs and the command that runs its batch again.
pub fn describe(batch: &Batch, n: usize) -> String {
    let test = &batch.tests[n];
    let case = &test.case;
    let mut text = String::new();
    let mut disassembly = String::new();
    NasmFormatter::new().format(&test.instruction, &mut disassembly);
    let bytes: Vec<String> = test.code().iter().map(|byte| format!("{byte:02x}")).collect();
    let lock = if test.wrong_lock { " (with a LOCK prefix that it must not have)" } else { "" };
    let _ = writeln!(text, "{disassembly}{lock}   [{}] at {:x}", bytes.join(" "), case.entry);
    for (n, chunk) in case.gpr.chunks(4).enumerate() {
        let names = [
            ["rax", "rcx", "rdx", "rbx"],
            ["rsp", "rbp", "rsi", "rdi"],
            ["r8 ", "r9 ", "r10", "r11"],
            ["r12", "r13", "r14", "r15"],
        ];
        if n >= 2 && batch.family.bits() == 32 {
            break;
        }
        for (name, value) in names[n].iter().zip(chunk) {
            let _ = write!(text, "  {name}={value:016x}");
        }
        text.push('\n');
    }
    let _ = writeln!(text, "  rflags={:x}", case.rflags);
    for Access { at, size } in &test.accesses {
        let _ = write!(text, "  memory {at:x} ({size} bytes)");
        text.push('\n');
    }
    if case.poke_len != 0 {
        let poke = &batch.pokes[case.poke_from as usize..][..case.poke_len as usize];
        let poke: String = poke.iter().rev().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(text, "  operand at {:x} = {poke}", case.poke_at);
    }
    if batch.family.has_fx() {
        describe_fx(&case.fx, &mut text);
    }
    let _ = writeln!(
        text,
        "  again: cargo run --release -p dejavm-silicon -- triage {} --seed {} --batch {} --case {n}{}",
        batch.family,
        batch.seed,
        batch.number,
        batch.step.option()
    );
    text
}

fn describe_fx(fx: &[u8; 512], text: &mut String) {
    let number = |range: std::ops::Range<usize>| -> String {
        fx[range].iter().rev().map(|byte| format!("{byte:02x}")).collect()
    };
    let _ = writeln!(
        text,
        "  fcw={} fsw={} ftw={} mxcsr={}",
        number(0..2),
        number(2..4),
        number(4..5),
        number(24..28)
    );
    for n in 0..8 {
        let at = 32 + 16 * n;
        let _ = write!(text, "  st{n}={}.{}", number(at + 8..at + 10), number(at..at + 8));
        text.push_str(if n % 4 == 3 { "\n" } else { "" });
    }
    for n in 0..16 {
        let at = 160 + 16 * n;
        let _ = write!(text, "  xmm{n}={}", number(at..at + 16));
        text.push_str(if n % 4 == 3 { "\n" } else { "" });
    }
}

/// A test that came out differently.
pub fn mismatch(batch: &Batch, n: usize, native: &Outcome, difference: &str) -> String {
    let ended = if native.vector == crate::shared::COMPLETED {
        String::from("completed")
    } else {
        format!("exception {}", native.vector)
    };
    format!("{}  on the host: {ended}\n{difference}", describe(batch, n))
}

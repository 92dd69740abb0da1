//! Instructions as bytes through the whole CPU: checks before execution, deferred exceptions, the
//! layouts of environments, and the pointers.

use crate::cpu::control;
use crate::exception::{AbortReason, vector};
use crate::fpu::F80;
use crate::testing::{Bench, CODE, DATA};

/// Puts `code` at the current instruction pointer and executes one instruction of it.
fn step(bench: &mut Bench, code: &[u8]) -> Result<(), AbortReason> {
    let at = bench.cpu.cs().base + bench.cpu.rip;
    bench.poke(at, code);
    bench.cpu.try_step(&mut bench.ram, &mut bench.board)
}

const fn fault(vector: u8) -> Result<(), AbortReason> {
    Err(AbortReason::Exception { vector, error_code: None })
}

const FNINIT: &[u8] = &[0xdb, 0xe3];
const FLD1: &[u8] = &[0xd9, 0xe8];
const FLDZ: &[u8] = &[0xd9, 0xee];
const WAIT: &[u8] = &[0x9b];
const PADDB: &[u8] = &[0x0f, 0xfc, 0xc1];
const EMMS: &[u8] = &[0x0f, 0x77];
/// FLDCW [0x30000] in 32-bit code.
const FLDCW: &[u8] = &[0xd9, 0x2d, 0, 0, 3, 0];

#[test]
fn emulation_and_task_switched_bits_raise_nm_or_ud() {
    for bit in [control::CR0_EM, control::CR0_TS] {
        let mut bench = Bench::protected();
        bench.cpu.cr0 |= bit;
        for code in [FNINIT, FLD1, &[0xdf, 0xe0], &[0xd9, 0xd0]] {
            assert_eq!(step(&mut bench, code), fault(vector::NM), "{code:x?}");
        }
        let mmx = if bit == control::CR0_EM { vector::UD } else { vector::NM };
        assert_eq!(step(&mut bench, PADDB), fault(mmx));
        assert_eq!(step(&mut bench, EMMS), fault(mmx));
    }
    // WAIT looks at MP and TS together, and not at EM.
    let mut bench = Bench::protected();
    bench.cpu.cr0 |= control::CR0_TS | control::CR0_EM;
    assert_eq!(step(&mut bench, WAIT), Ok(()));
    bench.cpu.cr0 |= control::CR0_MP;
    assert_eq!(step(&mut bench, WAIT), fault(vector::NM));
}

/// 1/0 with #Z unmasked: nothing happens at the division, #MF at the next waiting instruction.
fn with_pending_zero_divide(ne: bool) -> Bench {
    let mut bench = Bench::protected();
    if ne {
        bench.cpu.cr0 |= control::CR0_NE;
    }
    bench.poke(DATA, &0x37bu16.to_le_bytes());
    for code in [FNINIT, FLDCW, FLDZ, FLD1, &[0xd8, 0xf1]] {
        assert_eq!(step(&mut bench, code), Ok(()));
    }
    bench
}

#[test]
fn unmasked_exceptions_wait_for_the_next_waiting_instruction() {
    let mut bench = with_pending_zero_divide(true);
    // ZE, ES, B, TOP = 6; the operands are untouched.
    assert_eq!(bench.cpu.fpu.status_word(), 0x8084 | 6 << 11);
    assert_eq!(bench.cpu.fpu.st(0).bits(), 0x3fff_8000_0000_0000_0000);
    for code in [WAIT, FLD1, FLDCW, PADDB, EMMS, &[0xd9, 0xd0], &[0xdd, 0x25, 0, 0, 3, 0]] {
        assert_eq!(step(&mut bench, code), fault(vector::MF), "{code:x?}");
    }
    // FNSTSW AX, FNSTCW, FNCLEX do not wait.
    assert_eq!(step(&mut bench, &[0xdf, 0xe0]), Ok(()));
    assert_eq!(bench.cpu.gpr[0] as u16, 0x8084 | 6 << 11);
    assert_eq!(step(&mut bench, &[0xd9, 0x3d, 0, 0, 3, 0]), Ok(()));
    assert_eq!(step(&mut bench, &[0xdb, 0xe2]), Ok(()));
    assert_eq!(step(&mut bench, WAIT), Ok(()));
}

#[test]
fn without_ne_execution_goes_on() {
    let mut bench = with_pending_zero_divide(false);
    assert_eq!(step(&mut bench, FLD1), Ok(()));
    assert_eq!(step(&mut bench, WAIT), Ok(()));
}

#[test]
fn environments_show_pointers_only_while_an_exception_is_pending() {
    // FNSTENV [0x30000]
    const FNSTENV: &[u8] = &[0xd9, 0x35, 0, 0, 3, 0];
    let mut bench = with_pending_zero_divide(true);
    let division = bench.cpu.rip - 2;
    assert_eq!(step(&mut bench, FNSTENV), Ok(()));
    let bytes: [u8; 28] = bench.peek(DATA);
    let field = |n: usize| u32::from_le_bytes(bytes[4 * n..4 * n + 4].try_into().unwrap());
    assert_eq!(field(0), 0xffff_037b);
    assert_eq!(field(1), 0xffff_8084 | 6 << 11);
    // R6 = 1 (valid), R7 = 0 (zero), the rest empty.
    assert_eq!(field(2), 0xffff_4fff);
    assert_eq!(field(3), division as u32);
    // D8 F1: opcode bits 0x0f1; CS = 8.
    assert_eq!(field(4), 0x00f1 << 16 | 8);
    assert_eq!(field(5), 0);
    assert_eq!(field(6), 0xffff_0000);
    // FNSTENV masked everything, so nothing is pending and the pointers are gone.
    assert_eq!(bench.cpu.fpu.control, 0x37f);
    assert_eq!(step(&mut bench, FNSTENV), Ok(()));
    let bytes: [u8; 28] = bench.peek(DATA);
    assert_eq!(bytes[12..24], [0; 12]);
}

#[test]
fn a_memory_operand_leaves_its_address() {
    let mut bench = Bench::protected();
    bench.cpu.cr0 |= control::CR0_NE;
    bench.poke(DATA, &0x37eu16.to_le_bytes());
    bench.poke(DATA + 0x100, &0x7ff0_0000_0000_0001u64.to_le_bytes());
    // FADD qword [0x30100], a signalling NaN, with #I unmasked.
    for code in [FNINIT, FLDCW, FLD1, &[0xdc, 0x05, 0, 1, 3, 0]] {
        assert_eq!(step(&mut bench, code), Ok(()));
    }
    let fpu = &bench.cpu.fpu;
    assert_eq!(fpu.status & 0xff, 0x81);
    assert_eq!((fpu.opcode, fpu.data_pointer, fpu.data_selector), (0x405, DATA + 0x100, 0x10));
    assert_eq!(fpu.instruction_pointer, bench.cpu.rip - 6);
}

#[test]
fn real_mode_layouts_have_linear_addresses() {
    let mut bench = Bench::real();
    bench.cpu.cr0 |= control::CR0_NE;
    // FNINIT; FLDCW [0x100]; FLDZ; FLD1; FDIV ST, ST(1); FNSTENV [0x200]
    bench.poke(0x100, &0x37bu16.to_le_bytes());
    for code in [FNINIT, &[0xd9, 0x2e, 0, 1], FLDZ, FLD1, &[0xd8, 0xf1]] {
        assert_eq!(step(&mut bench, code), Ok(()));
    }
    let division = CODE + bench.cpu.rip - 2;
    let pending = bench.cpu.fpu.clone();
    assert_eq!(step(&mut bench, &[0xd9, 0x36, 0, 2]), Ok(()));
    let word = |bench: &Bench, at: u64| u16::from_le_bytes(bench.peek(at));
    assert_eq!(word(&bench, 0x200), 0x37b);
    assert_eq!(word(&bench, 0x206), division as u16);
    assert_eq!(word(&bench, 0x208), ((division >> 16) << 12) as u16 | 0x0f1);
    // The same with a 32-bit operand size.
    bench.cpu.fpu = pending.clone();
    assert_eq!(step(&mut bench, &[0x66, 0xd9, 0x36, 0, 3]), Ok(()));
    let bytes: [u8; 28] = bench.peek(0x300);
    let field = |n: usize| u32::from_le_bytes(bytes[4 * n..4 * n + 4].try_into().unwrap());
    assert_eq!(field(3), 0xffff_0000 | division as u32 & 0xffff);
    assert_eq!(field(4), ((division >> 16) as u32) << 12 | 0x0f1);
    // FRSTOR of what FNSAVE stored gives everything back, as linear addresses.
    for prefix in [&[][..], &[0x66]] {
        bench.cpu.fpu = pending.clone();
        let save = [prefix, &[0xdd, 0x36, 0, 4]].concat();
        assert_eq!(step(&mut bench, &save), Ok(()));
        assert_eq!((bench.cpu.fpu.control, bench.cpu.fpu.valid), (0x37f, 0));
        let restore = [prefix, &[0xdd, 0x26, 0, 4]].concat();
        assert_eq!(step(&mut bench, &restore), Ok(()));
        let mut expected = pending.clone();
        expected.instruction_pointer = division;
        expected.instruction_selector = 0;
        assert_eq!(bench.cpu.fpu, expected);
    }
}

#[test]
fn a_store_that_faults_changes_nothing() {
    let mut bench = Bench::long();
    for code in [FNINIT, FLD1] {
        assert_eq!(step(&mut bench, code), Ok(()));
    }
    // FSTP tbyte [rdi], its last bytes beyond the mapped 4 MiB.
    bench.cpu.gpr[7] = (4 << 20) - 8;
    let before = bench.cpu.fpu.clone();
    bench.poke((4 << 20) - 8, &[0xee; 8]);
    let result = step(&mut bench, &[0xdb, 0x3f]);
    assert_eq!(result, Err(AbortReason::Exception { vector: vector::PF, error_code: Some(2) }));
    assert_eq!(bench.cpu.fpu, before);
    assert_eq!(bench.peek::<8>((4 << 20) - 8), [0xee; 8]);
}

#[test]
fn mmx_writes_all_ones_exponents_and_valid_tags() {
    let mut bench = Bench::protected();
    bench.cpu.fpu.top = 5;
    bench.cpu.fpu.registers[0] = F80::from_bits(0x0001_0203_0405_0607_08ff);
    bench.cpu.fpu.registers[1] = F80::from_bits(0x0101_0101_0101_0101);
    assert_eq!(step(&mut bench, PADDB), Ok(()));
    assert_eq!(bench.cpu.fpu.registers[0].bits(), 0xffff_0304_0506_0708_0900);
    assert_eq!((bench.cpu.fpu.top, bench.cpu.fpu.valid), (0, 0xff));
    assert_eq!(step(&mut bench, EMMS), Ok(()));
    assert_eq!((bench.cpu.fpu.top, bench.cpu.fpu.valid), (0, 0));
}

/// FPREM of a large argument converges, by the model's own steps.
#[test]
fn partial_remainders_reach_the_complete_one() {
    let mut bench = Bench::protected();
    assert_eq!(step(&mut bench, FNINIT), Ok(()));
    // 2^300 mod 3 = 1, since 2^2 = 1 mod 3.
    bench.cpu.fpu.push(F80 { significand: 3 << 62, sign_exponent: 0x4000 });
    bench.cpu.fpu.push(F80 { significand: 1 << 63, sign_exponent: 0x3fff + 300 });
    let mut steps = 0;
    while steps == 0 || bench.cpu.fpu.status & 0x400 != 0 {
        assert_eq!(step(&mut bench, &[0xd9, 0xf8]), Ok(()));
        steps += 1;
    }
    assert_eq!(bench.cpu.fpu.st(0).bits(), 0x3fff_8000_0000_0000_0000);
    // 299 - 32 - 11 = 256; 256 - 32 - ... : at least 32 places a step.
    assert!((4..=9).contains(&steps), "{steps}");
}

/// Out of range for the trigonometric instructions: C2 is set and nothing changes.
#[test]
fn angles_from_2_to_the_63_are_refused() {
    for second in [0xfe, 0xff, 0xfb, 0xf2] {
        let mut bench = Bench::protected();
        assert_eq!(step(&mut bench, FNINIT), Ok(()));
        bench.cpu.fpu.push(F80 { significand: 1 << 63, sign_exponent: 0x3fff + 63 });
        let before = bench.cpu.fpu.clone();
        assert_eq!(step(&mut bench, &[0xd9, second]), Ok(()));
        assert_eq!(bench.cpu.fpu.status, 0x400);
        bench.cpu.fpu.status = 0;
        assert_eq!(bench.cpu.fpu, before);
    }
}

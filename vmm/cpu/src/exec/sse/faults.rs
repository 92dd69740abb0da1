//! Tests of what keeps an SSE instruction from completing, and of what it leaves alone then.

use crate::cpu::control::{CR0_EM, CR0_TS, CR4_OSFXSR, CR4_OSXMMEXCPT};
use crate::exception::{AbortReason, vector};
use crate::gpr;
use crate::testing::{Bench, CODE, DATA};

const ADDPS: &[u8] = &[0x0f, 0x58, 0xc1]; // addps xmm0, xmm1
const ADDPS_RSI: &[u8] = &[0x0f, 0x58, 0x06]; // addps xmm0, [rsi]
const MOVUPS_STORE: &[u8] = &[0x0f, 0x11, 0x06]; // movups [rsi], xmm0
const MOVAPS_STORE: &[u8] = &[0x0f, 0x29, 0x06]; // movaps [rsi], xmm0
const DIVSD: &[u8] = &[0xf2, 0x0f, 0x5e, 0xc1]; // divsd xmm0, xmm1
const LDMXCSR: &[u8] = &[0x0f, 0xae, 0x16]; // ldmxcsr [rsi]
const ONE: u128 = 0x3ff0_0000_0000_0000;
/// Not mapped: only the first 4 MiB are.
const UNMAPPED: u64 = 4 << 20;

fn step(bench: &mut Bench, code: &[u8]) -> Result<(), AbortReason> {
    bench.poke(CODE, code);
    bench.cpu.rip = CODE;
    bench.cpu.try_step(&mut bench.ram, &mut bench.board)
}

fn fault(vector: u8) -> Result<(), AbortReason> {
    Err(AbortReason::Exception { vector, error_code: None })
}

fn protection() -> Result<(), AbortReason> {
    Err(AbortReason::Exception { vector: vector::GP, error_code: Some(0) })
}

#[test]
fn the_system_decides_whether_sse_exists() {
    // CR0.EM, CR0.TS, CR4.OSFXSR and what follows; #UD goes before #NM.
    for (cr0, cr4, expected) in [
        (0, CR4_OSFXSR, Ok(())),
        (CR0_TS, CR4_OSFXSR, fault(vector::NM)),
        (CR0_EM, CR4_OSFXSR, fault(vector::UD)),
        (CR0_EM | CR0_TS, CR4_OSFXSR, fault(vector::UD)),
        (0, 0, fault(vector::UD)),
        (CR0_TS, 0, fault(vector::UD)),
    ] {
        let mut bench = Bench::long();
        let state = &mut bench.cpu.state();
        state.cr0 |= cr0;
        state.cr4 = state.cr4 & !CR4_OSFXSR | cr4;
        state.gpr[gpr::RSI] = DATA;
        bench.cpu.set_state(state);
        bench.poke(DATA, &0x1f80u32.to_le_bytes());
        assert_eq!(step(&mut bench, ADDPS), expected, "{cr0:x} {cr4:x}");
        bench.poke(DATA, &0x1f80u32.to_le_bytes());
        assert_eq!(step(&mut bench, LDMXCSR), expected, "{cr0:x} {cr4:x}");
        // SFENCE, PREFETCHT0, CLFLUSH and MOVNTI ask nothing.
        for code in
            [&[0x0f, 0xae, 0xf8][..], &[0x0f, 0x18, 0x0e], &[0x0f, 0xae, 0x3e], &[0x0f, 0xc3, 0x06]]
        {
            assert_eq!(step(&mut bench, code), Ok(()), "{code:x?}");
        }
    }
}

#[test]
fn aligned_operands_must_be_aligned() {
    let mut bench = Bench::long();
    bench.cpu.gpr[gpr::RSI] = DATA + 8;
    bench.cpu.xmm[0] = 7;
    assert_eq!(step(&mut bench, ADDPS_RSI), protection());
    assert_eq!(step(&mut bench, MOVAPS_STORE), protection());
    assert_eq!(bench.peek::<16>(DATA + 8), [0; 16]);
    assert_eq!(step(&mut bench, MOVUPS_STORE), Ok(()));
    assert_eq!(bench.peek::<8>(DATA + 8), 7u64.to_le_bytes());
    // ADDSS reads four bytes anywhere.
    assert_eq!(step(&mut bench, &[0xf3, 0x0f, 0x58, 0x06]), Ok(()));
}

#[test]
fn a_page_fault_comes_before_any_effect() {
    let mut bench = Bench::long();
    // MOVUPS across the end of the mapped pages: the part that is mapped is not written.
    bench.cpu.gpr[gpr::RSI] = UNMAPPED - 8;
    bench.cpu.xmm[0] = u128::MAX;
    let result = step(&mut bench, MOVUPS_STORE);
    assert_eq!(result, Err(AbortReason::Exception { vector: vector::PF, error_code: Some(2) }));
    assert_eq!(bench.cpu.cr2, UNMAPPED);
    assert_eq!(bench.peek::<8>(UNMAPPED - 8), [0; 8]);
    // The scalar operands end before the unmapped page: four and eight bytes, not sixteen.
    bench.cpu.gpr[gpr::RSI] = UNMAPPED - 4;
    assert_eq!(step(&mut bench, &[0xf3, 0x0f, 0x58, 0x06]), Ok(()));
    bench.cpu.gpr[gpr::RSI] = UNMAPPED - 8;
    assert_eq!(step(&mut bench, &[0xf2, 0x0f, 0x58, 0x06]), Ok(()));
    // A division that would raise #XM too: the operand is fetched first, MXCSR is not touched.
    bench.cpu.mxcsr = 0;
    bench.cpu.gpr[gpr::RSI] = UNMAPPED;
    let result = step(&mut bench, &[0xf2, 0x0f, 0x5e, 0x06]);
    assert_eq!(result, Err(AbortReason::Exception { vector: vector::PF, error_code: Some(0) }));
    assert_eq!(bench.cpu.mxcsr, 0);
}

#[test]
fn an_unmasked_exception_sets_its_flag_and_nothing_else() {
    for (osxmmexcpt, expected) in [(CR4_OSXMMEXCPT, fault(vector::XM)), (0, fault(vector::UD))] {
        let mut bench = Bench::long();
        bench.cpu.cr4 = bench.cpu.cr4 & !CR4_OSXMMEXCPT | osxmmexcpt;
        // Unmasked divide by zero; the sticky precision flag alone faults nothing.
        bench.cpu.mxcsr = 0x1f80 & !(1 << 9) | 1 << 5;
        (bench.cpu.xmm[0], bench.cpu.xmm[1]) = (ONE, 0);
        assert_eq!(step(&mut bench, DIVSD), expected);
        assert_eq!(bench.cpu.xmm[0], ONE);
        assert_eq!(bench.cpu.mxcsr, 0x1f80 & !(1 << 9) | 1 << 5 | 1 << 2);
        // The flag stays set, and does not fault again by itself.
        bench.cpu.xmm[1] = ONE;
        assert_eq!(step(&mut bench, DIVSD), Ok(()));
    }
}

#[test]
fn mxcsr_has_sixteen_bits() {
    let mut bench = Bench::long();
    bench.cpu.gpr[gpr::RSI] = DATA;
    for (value, expected) in
        [(0xffffu32, Ok(())), (0x1_0000, protection()), (0x8000_1f80, protection())]
    {
        bench.cpu.mxcsr = 0x1f80;
        bench.poke(DATA, &value.to_le_bytes());
        assert_eq!(step(&mut bench, LDMXCSR), expected);
        assert_eq!(bench.cpu.mxcsr, if expected.is_ok() { value } else { 0x1f80 });
    }
}

#[test]
fn masked_stores_touch_only_what_they_store() {
    let mut bench = Bench::long();
    // maskmovdqu xmm0, xmm1, four bytes before the end of what is mapped.
    const CODE: &[u8] = &[0x66, 0x0f, 0xf7, 0xc1];
    bench.cpu.gpr[gpr::RDI] = UNMAPPED - 4;
    bench.cpu.xmm[0] = 0x0807_0605_0403_0201;
    bench.cpu.xmm[1] = 0xff00_7f80;
    assert_eq!(step(&mut bench, CODE), Ok(()));
    assert_eq!(bench.peek::<4>(UNMAPPED - 4), [1, 0, 0, 4]);
    bench.cpu.xmm[0] = 0x0909_0909_0909;
    bench.cpu.xmm[1] = 0x80_0000_0080;
    let result = step(&mut bench, CODE);
    assert_eq!(result, Err(AbortReason::Exception { vector: vector::PF, error_code: Some(2) }));
    assert_eq!(bench.peek::<4>(UNMAPPED - 4), [1, 0, 0, 4]);
}

#[test]
fn mmx_conversions_switch_the_fpu() {
    let mut bench = Bench::long();
    bench.cpu.gpr[gpr::RSI] = DATA;
    bench.poke(DATA, &[2, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    let reset = |bench: &mut Bench| (bench.cpu.fpu.top, bench.cpu.fpu.valid) = (5, 0);
    let switched = |bench: &Bench| (bench.cpu.fpu.top, bench.cpu.fpu.valid) == (0, 0xff);

    // cvtpi2pd xmm0, [rsi] reads no MMX register; cvtpi2ps xmm0, [rsi] switches all the same.
    reset(&mut bench);
    assert_eq!(step(&mut bench, &[0x66, 0x0f, 0x2a, 0x06]), Ok(()));
    assert!(!switched(&bench));
    assert_eq!(bench.cpu.xmm[0], 0xbff0_0000_0000_0000_4000_0000_0000_0000);
    assert_eq!(step(&mut bench, &[0x0f, 0x2a, 0x06]), Ok(()));
    assert!(switched(&bench));
    assert_eq!(bench.cpu.xmm[0], 0xbff0_0000_0000_0000_bf80_0000_4000_0000);

    // cvtps2pi mm3, xmm0 rounds, cvttpd2pi mm4, xmm1 truncates.
    reset(&mut bench);
    bench.cpu.xmm[0] = 0x3fc0_0000_c020_0000; // 1.5, -2.5
    assert_eq!(step(&mut bench, &[0x0f, 0x2d, 0xd8]), Ok(()));
    assert!(switched(&bench));
    assert_eq!(bench.cpu.fpu.registers[3].significand, 0x0000_0002_ffff_fffe);
    assert_eq!(bench.cpu.fpu.registers[3].sign_exponent, 0xffff);
    bench.cpu.xmm[1] = 0x3ff8_0000_0000_0000_c004_0000_0000_0000; // 1.5, -2.5
    assert_eq!(step(&mut bench, &[0x66, 0x0f, 0x2c, 0xe1]), Ok(()));
    assert_eq!(bench.cpu.fpu.registers[4].significand, 0x0000_0001_ffff_fffe);

    // movq2dq xmm2, mm3; movdq2q mm5, xmm1.
    reset(&mut bench);
    bench.cpu.xmm[2] = u128::MAX;
    assert_eq!(step(&mut bench, &[0xf3, 0x0f, 0xd6, 0xd3]), Ok(()));
    assert!(switched(&bench));
    assert_eq!(bench.cpu.xmm[2], 0x0000_0002_ffff_fffe);
    reset(&mut bench);
    assert_eq!(step(&mut bench, &[0xf2, 0x0f, 0xd6, 0xe9]), Ok(()));
    assert!(switched(&bench));
    assert_eq!(bench.cpu.fpu.registers[5].significand, 0xc004_0000_0000_0000);

    // An unmasked x87 exception is taken first; an unmasked SIMD one leaves the FPU as it was.
    reset(&mut bench);
    bench.cpu.mxcsr = 0;
    assert_eq!(step(&mut bench, &[0x0f, 0x2d, 0xd8]), fault(vector::XM));
    assert!(!switched(&bench));
    bench.cpu.fpu.set_control_and_status(0x37e, 1);
    assert_eq!(step(&mut bench, &[0x0f, 0x2d, 0xd8]), fault(vector::MF));
}

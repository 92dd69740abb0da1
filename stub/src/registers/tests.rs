//! Numbers, values, and the description.

use super::*;
use dejavm_cpu::CpuState;

fn number(layout: Layout, name: &str) -> usize {
    registers(layout).iter().position(|register| register.name == name).expect("a known name")
}

fn read_number(layout: Layout, state: &CpuState, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    assert!(read(layout, state, 7, number(layout, name), &mut bytes));
    bytes
}

/// The numbers that WinDbg's EXDI configuration for QEMU has.
#[test]
fn numbers_are_qemus() {
    for (name, expected) in [
        ("rax", 0),
        ("rbx", 1),
        ("rsp", 7),
        ("r15", 0xf),
        ("rip", 0x10),
        ("eflags", 0x11),
        ("cs", 0x12),
        ("gs", 0x17),
        ("fs_base", 0x18),
        ("k_gs_base", 0x1a),
        ("cr0", 0x1b),
        ("cr8", 0x1f),
        ("efer", 0x20),
        ("st0", 0x21),
        ("fctrl", 0x29),
        ("xmm0", 0x31),
        ("mxcsr", 0x41),
    ] {
        assert_eq!(number(Layout::Bits64, name), expected, "{name}");
    }
    for (name, expected) in
        [("eax", 0), ("ecx", 1), ("ebx", 3), ("edi", 7), ("eip", 8), ("eflags", 9), ("gs", 15)]
    {
        assert_eq!(number(Layout::Bits32, name), expected, "{name}");
    }
}

#[test]
fn values_go_out_and_come_back() {
    let mut state = CpuState::reset();
    for layout in [Layout::Bits32, Layout::Bits64] {
        for (number, register) in registers(layout).iter().enumerate() {
            let mut before = Vec::new();
            assert!(read(layout, &state, 7, number, &mut before));
            assert_eq!(before.len() * 8, usize::from(register.bits), "{}", register.name);
            write(layout, &mut state, 7, number, &before).expect("equal values can be written");
            let mut other = before.clone();
            other[0] ^= 0x40;
            match (register.what, write(layout, &mut state, 7, number, &other)) {
                (What::Selector(_), result) => assert_eq!(result, Err(Unwritable::Selector)),
                (What::Cr8, result) => assert_eq!(result, Err(Unwritable::TaskPriority)),
                (_, result) => {
                    assert_eq!(result, Ok(()), "{}", register.name);
                    let mut after = Vec::new();
                    read(layout, &state, 7, number, &mut after);
                    // Tags follow from contents: only whether a register is empty can be set.
                    if register.name != "ftag" {
                        assert_eq!(after, other, "{}", register.name);
                    }
                }
            }
            assert_eq!(write(layout, &mut state, 7, number, &other[1..]), Err(Unwritable::NoSuch));
        }
        assert!(!read(layout, &state, 7, registers(layout).len(), &mut Vec::new()));
    }
}

#[test]
fn x87_registers_are_numbered_from_the_top() {
    let mut state = CpuState::reset();
    state.fpu.top = 6;
    state.fpu.valid = 1 << 6 | 1 << 7;
    state.fpu.registers[6].significand = 1 << 63;
    state.fpu.registers[6].sign_exponent = 0x3fff;
    let one = read_number(Layout::Bits64, &state, "st0");
    assert_eq!(one, [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f]);
    // R6 is valid (00), R7 zero (01), the others empty (11).
    assert_eq!(read_number(Layout::Bits64, &state, "ftag"), [0xff, 0x4f, 0, 0]);
    assert_eq!(read_number(Layout::Bits64, &state, "fstat"), [0, 0x30, 0, 0]);
}

#[test]
fn the_description_is_one_line_and_names_every_register() {
    for layout in [Layout::Bits32, Layout::Bits64] {
        let xml = target_xml(layout);
        assert!(!xml.contains('\n'));
        for (number, register) in registers(layout).iter().enumerate() {
            let expected = format!("<reg name=\"{}\" ", register.name);
            assert_eq!(xml.matches(&expected).count(), 1, "{expected}");
            assert_eq!(xml.matches(&format!(" regnum=\"{number}\"")).count(), 1);
        }
    }
}

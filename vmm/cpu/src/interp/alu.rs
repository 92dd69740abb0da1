//! Two-operand arithmetic and logic, and the one-operand forms.

use super::{ANYWHERE, BASED, REGISTER, access, either, two_speeds};
use crate::code::{Flow, Handler, OpRef, go, leave};
use crate::cpu::Cpu;

/// Operations, by the manual's /digit of opcode 80-83, then TEST and MOV.
pub(super) const ADD: u8 = 0;
pub(super) const OR: u8 = 1;
pub(super) const ADC: u8 = 2;
pub(super) const SBB: u8 = 3;
pub(super) const AND: u8 = 4;
pub(super) const SUB: u8 = 5;
pub(super) const XOR: u8 = 6;
pub(super) const CMP: u8 = 7;
pub(super) const TEST: u8 = 8;
pub(super) const MOV: u8 = 9;

/// Operand forms: destination, source.
pub(super) const REG_REG: u8 = 0;
pub(super) const REG_MEM: u8 = 1;
pub(super) const MEM_REG: u8 = 2;
pub(super) const REG_IMM: u8 = 3;
pub(super) const MEM_IMM: u8 = 4;

/// Computes, sets flags, returns the result.
#[inline(always)]
pub(super) fn compute<const OP: u8, const S: u64>(cpu: &mut Cpu, a: u64, b: u64) -> u64 {
    let size = S as u32;
    match OP {
        ADD => {
            let result = a.wrapping_add(b);
            cpu.arith.set_add(a, b, result, size);
            result
        }
        ADC => {
            let result = a.wrapping_add(b).wrapping_add(cpu.arith.cf().into());
            cpu.arith.set_add(a, b, result, size);
            result
        }
        SUB | CMP => {
            let result = a.wrapping_sub(b);
            cpu.arith.set_sub(a, b, result, size);
            result
        }
        SBB => {
            let result = a.wrapping_sub(b).wrapping_sub(cpu.arith.cf().into());
            cpu.arith.set_sub(a, b, result, size);
            result
        }
        OR => {
            cpu.arith.set_logic(a | b, size);
            a | b
        }
        AND | TEST => {
            cpu.arith.set_logic(a & b, size);
            a & b
        }
        XOR => {
            cpu.arith.set_logic(a ^ b, size);
            a ^ b
        }
        _ => b,
    }
}

two_speeds! {
    /// One of the operations in one size and form.
    alu / alu_slow = alu_body [OP: u8, S: u64, FORM: u8, PLACE: u8]
}

#[inline(always)]
fn alu_body<const SLOW: bool, const OP: u8, const S: u64, const FORM: u8, const PLACE: u8>(
    cpu: &mut Cpu,
    op: OpRef,
) -> Flow {
    let slow = alu_slow::<OP, S, FORM, PLACE>;
    let b = match FORM {
        REG_REG | MEM_REG => cpu.get::<S>(op.src),
        REG_MEM => {
            let linear = cpu.effective_address::<PLACE>(op);
            either!(cpu, op, slow, cpu.load_hit::<S>(linear), cpu.load_sized::<S>(linear))
        }
        _ => op.imm,
    };
    let to_memory = FORM == MEM_REG || FORM == MEM_IMM;
    if !to_memory {
        let a = if OP == MOV { 0 } else { cpu.get::<S>(op.dst) };
        let result = compute::<OP, S>(cpu, a, b);
        if OP != CMP && OP != TEST {
            cpu.set::<S>(op.dst, result);
        }
        go!(cpu, op.next());
    }
    let linear = cpu.effective_address::<PLACE>(op);
    match OP {
        MOV => {
            either!(cpu, op, slow, cpu.store_hit::<S>(linear, b), cpu.store_sized::<S>(linear, b))
        }
        CMP | TEST => {
            let a = either!(cpu, op, slow, cpu.load_hit::<S>(linear), cpu.load_sized::<S>(linear));
            compute::<OP, S>(cpu, a, b);
        }
        _ => {
            let change = |cpu: &mut Cpu, a| compute::<OP, S>(cpu, a, b);
            either!(
                cpu,
                op,
                slow,
                cpu.modify_hit::<S>(linear, change),
                cpu.modify_linear::<S>(linear, change)
            );
        }
    }
    go!(cpu, op.next())
}

/// One of the operations on AH, CH, DH or BH (`dst` is the full register) and an immediate: what
/// tests of a saved flags register compile to.
fn alu_high<const OP: u8>(cpu: &mut Cpu, op: OpRef) -> Flow {
    let full = cpu.gpr[usize::from(op.dst)];
    let result = compute::<OP, 1>(cpu, full >> 8 & 0xff, op.imm);
    if OP != CMP && OP != TEST {
        cpu.gpr[usize::from(op.dst)] = full & !0xff00 | (result & 0xff) << 8;
    }
    go!(cpu, op.next())
}

/// One-operand operations.
pub(super) const INC: u8 = 0;
pub(super) const DEC: u8 = 1;
pub(super) const NOT: u8 = 2;
pub(super) const NEG: u8 = 3;

#[inline(always)]
fn compute_one<const OP: u8, const S: u64>(cpu: &mut Cpu, a: u64) -> u64 {
    let size = S as u32;
    match OP {
        INC => {
            let result = a.wrapping_add(1);
            cpu.arith.set_inc(a, result, size);
            result
        }
        DEC => {
            let result = a.wrapping_sub(1);
            cpu.arith.set_dec(a, result, size);
            result
        }
        NOT => !a,
        _ => {
            let result = a.wrapping_neg();
            cpu.arith.set_sub(0, a, result, size);
            result
        }
    }
}

two_speeds! {
    one / one_slow = one_body [OP: u8, S: u64, PLACE: u8]
}

#[inline(always)]
fn one_body<const SLOW: bool, const OP: u8, const S: u64, const PLACE: u8>(
    cpu: &mut Cpu,
    op: OpRef,
) -> Flow {
    if PLACE != REGISTER {
        let linear = cpu.effective_address::<PLACE>(op);
        let change = compute_one::<OP, S>;
        either!(
            cpu,
            op,
            (one_slow::<OP, S, PLACE>),
            cpu.modify_hit::<S>(linear, change),
            cpu.modify_linear::<S>(linear, change)
        );
    } else {
        let a = cpu.get::<S>(op.dst);
        let result = compute_one::<OP, S>(cpu, a);
        cpu.set::<S>(op.dst, result);
    }
    go!(cpu, op.next())
}

two_speeds! {
    /// IMUL with two or three operands: `PLACE` says where the multiplicand comes from, and `IMM` that
    /// the multiplier is an immediate.
    imul / imul_slow = imul_body [S: u64, PLACE: u8, IMM: bool]
}

#[inline(always)]
fn imul_body<const SLOW: bool, const S: u64, const PLACE: u8, const IMM: bool>(
    cpu: &mut Cpu,
    op: OpRef,
) -> Flow {
    let a = if PLACE != REGISTER {
        let linear = cpu.effective_address::<PLACE>(op);
        let slow = imul_slow::<S, PLACE, IMM>;
        either!(cpu, op, slow, cpu.load_hit::<S>(linear), cpu.load_sized::<S>(linear))
    } else {
        cpu.get::<S>(op.src)
    };
    let b = if IMM { op.imm } else { cpu.get::<S>(op.dst) };
    let size = S as u32;
    let (a, b) = (crate::flags::sign_extend(a, size), crate::flags::sign_extend(b, size));
    let product = i128::from(a as i64) * i128::from(b as i64);
    let result = product as u64;
    let overflow = i128::from(crate::flags::sign_extend(result, size) as i64) != product;
    cpu.set::<S>(op.dst, result);
    cpu.arith.set_product(result, overflow, size);
    go!(cpu, op.next())
}

two_speeds! {
    /// CMOVcc. A 32-bit move clears the upper half even when the condition fails.
    cmov / cmov_slow = cmov_body [S: u64, PLACE: u8]
}

#[inline(always)]
fn cmov_body<const SLOW: bool, const S: u64, const PLACE: u8>(cpu: &mut Cpu, op: OpRef) -> Flow {
    let value = if PLACE != REGISTER {
        let linear = cpu.effective_address::<PLACE>(op);
        let slow = cmov_slow::<S, PLACE>;
        either!(cpu, op, slow, cpu.load_hit::<S>(linear), cpu.load_sized::<S>(linear))
    } else {
        cpu.get::<S>(op.src)
    };
    let kept = cpu.get::<S>(op.dst);
    let value = if cpu.arith.condition(op.imm as u8) { value } else { kept };
    cpu.set::<S>(op.dst, value);
    go!(cpu, op.next())
}

two_speeds! {
    /// SETcc.
    setcc / setcc_slow = setcc_body [PLACE: u8]
}

#[inline(always)]
fn setcc_body<const SLOW: bool, const PLACE: u8>(cpu: &mut Cpu, op: OpRef) -> Flow {
    let value = cpu.arith.condition(op.imm as u8).into();
    if PLACE != REGISTER {
        let linear = cpu.effective_address::<PLACE>(op);
        let slow = setcc_slow::<PLACE>;
        either!(
            cpu,
            op,
            slow,
            cpu.store_hit::<1>(linear, value),
            cpu.store_sized::<1>(linear, value)
        );
    } else {
        cpu.set::<1>(op.dst, value);
    }
    go!(cpu, op.next())
}

/// BT with the bit base in a register.
fn bt<const S: u64, const IMM: bool>(cpu: &mut Cpu, op: OpRef) -> Flow {
    let bit = if IMM { op.imm } else { cpu.get::<S>(op.src) } & (S * 8 - 1);
    let cf = cpu.gpr[usize::from(op.dst)] >> bit & 1 != 0;
    cpu.arith.replace_cf(cf);
    go!(cpu, op.next())
}

macro_rules! by_size {
    ($name:ident, $size:expr, [$($before:expr),*], [$($after:expr),*]) => {
        match $size {
            1 => $name::<$({ $before },)* 1 $(, { $after })*> as Handler,
            2 => $name::<$({ $before },)* 2 $(, { $after })*>,
            4 => $name::<$({ $before },)* 4 $(, { $after })*>,
            _ => $name::<$({ $before },)* 8 $(, { $after })*>,
        }
    };
}
pub(super) use by_size;

macro_rules! by_form {
    ($size:expr, $form:expr, $place:expr, $op:expr) => {
        match ($form, $place) {
            (REG_REG, _) => by_size!(alu, $size, [$op], [REG_REG, REGISTER]),
            (REG_IMM, _) => by_size!(alu, $size, [$op], [REG_IMM, REGISTER]),
            (REG_MEM, BASED) => by_size!(alu, $size, [$op], [REG_MEM, BASED]),
            (REG_MEM, _) => by_size!(alu, $size, [$op], [REG_MEM, ANYWHERE]),
            (MEM_REG, BASED) => by_size!(alu, $size, [$op], [MEM_REG, BASED]),
            (MEM_REG, _) => by_size!(alu, $size, [$op], [MEM_REG, ANYWHERE]),
            (_, BASED) => by_size!(alu, $size, [$op], [MEM_IMM, BASED]),
            (_, _) => by_size!(alu, $size, [$op], [MEM_IMM, ANYWHERE]),
        }
    };
}
/// By an operand's place, which comes last.
macro_rules! by_place {
    ($name:ident, $size:expr, $place:expr, [$($before:expr),*]) => {
        match $place {
            REGISTER => {
                by_size!($name, $size, [$($before),*], [REGISTER])
            }
            BASED => {
                by_size!($name, $size, [$($before),*], [BASED])
            }
            _ => by_size!($name, $size, [$($before),*], [ANYWHERE]),
        }
    };
}

/// The handler of a two-operand operation.
pub(super) fn two_operands(op: u8, size: u64, form: u8, place: u8) -> Handler {
    match op {
        ADD => by_form!(size, form, place, ADD),
        OR => by_form!(size, form, place, OR),
        ADC => by_form!(size, form, place, ADC),
        SBB => by_form!(size, form, place, SBB),
        AND => by_form!(size, form, place, AND),
        SUB => by_form!(size, form, place, SUB),
        XOR => by_form!(size, form, place, XOR),
        CMP => by_form!(size, form, place, CMP),
        TEST => by_form!(size, form, place, TEST),
        _ => by_form!(size, form, place, MOV),
    }
}

/// The handler of a two-operand operation on a high byte register and an immediate.
pub(super) fn high_byte_immediate(op: u8) -> Handler {
    match op {
        ADD => alu_high::<ADD>,
        OR => alu_high::<OR>,
        ADC => alu_high::<ADC>,
        SBB => alu_high::<SBB>,
        AND => alu_high::<AND>,
        SUB => alu_high::<SUB>,
        XOR => alu_high::<XOR>,
        CMP => alu_high::<CMP>,
        TEST => alu_high::<TEST>,
        _ => alu_high::<MOV>,
    }
}

/// The handler of a one-operand operation.
pub(super) fn one_operand(op: u8, size: u64, place: u8) -> Handler {
    match op {
        INC => by_place!(one, size, place, [INC]),
        DEC => by_place!(one, size, place, [DEC]),
        NOT => by_place!(one, size, place, [NOT]),
        _ => by_place!(one, size, place, [NEG]),
    }
}

/// The handler of IMUL in its two- and three-operand forms (sizes 2, 4, 8).
pub(super) fn signed_multiply(size: u64, place: u8, immediate: bool) -> Handler {
    match (place, immediate) {
        (REGISTER, false) => by_size!(imul, size, [], [REGISTER, false]),
        (REGISTER, true) => by_size!(imul, size, [], [REGISTER, true]),
        (BASED, false) => by_size!(imul, size, [], [BASED, false]),
        (BASED, true) => by_size!(imul, size, [], [BASED, true]),
        (_, false) => by_size!(imul, size, [], [ANYWHERE, false]),
        (_, true) => by_size!(imul, size, [], [ANYWHERE, true]),
    }
}

/// The handler of CMOVcc (sizes 2, 4, 8).
pub(super) fn conditional_move(size: u64, place: u8) -> Handler {
    by_place!(cmov, size, place, [])
}

/// The handler of SETcc.
pub(super) fn conditional_set(place: u8) -> Handler {
    match place {
        REGISTER => setcc::<REGISTER>,
        BASED => setcc::<BASED>,
        _ => setcc::<ANYWHERE>,
    }
}

/// The handler of BT on a register.
pub(super) fn bit_test(size: u64, immediate: bool) -> Handler {
    if immediate { by_size!(bt, size, [], [true]) } else { by_size!(bt, size, [], [false]) }
}

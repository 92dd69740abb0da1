//! A comparison and the conditional jump after it, in one handler: the jump need not wait for flags
//! to go through memory. The jump's own operation stays where it is, for its links, for whoever
//! bails out in between, and for conditions that have no fused handler.

use super::alu::{ADD, AND, CMP, MEM_IMM, MEM_REG, REG_IMM, REG_MEM, REG_REG, SUB, TEST};
use super::branch::follow;
use super::{ANYWHERE, BASED, REGISTER, alu};
use crate::code::{Flow, Handler, OpRef, Way};
use crate::cpu::Cpu;
use crate::flags::{sign_extend, zero_extend};

/// An operation that sets flags: what [`branch_after`] needs to know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Comparison {
    /// As in [`alu::two_operands`].
    pub(super) op: u8,
    /// Operand size in bytes.
    pub(super) size: u64,
    /// As in [`alu::two_operands`].
    pub(super) form: u8,
    /// As in [`alu::two_operands`].
    pub(super) place: u8,
}

/// Whether a condition holds after an operation on `a` and `b`.
#[inline(always)]
fn holds<const OP: u8, const S: u64, const CC: u8>(cpu: &Cpu, a: u64, b: u64, result: u64) -> bool {
    let size = S as u32;
    let signed = |value: u64| sign_extend(value, size) as i64;
    let zero = zero_extend(result, size) == 0;
    let negative = signed(result) < 0;
    let (below, less) = match OP {
        CMP | SUB => (zero_extend(a, size) < zero_extend(b, size), signed(a) < signed(b)),
        // CF = OF = 0.
        TEST | AND => (false, negative),
        _ => return cpu.arith.condition(CC),
    };
    let holds = match CC >> 1 {
        1 => below,
        2 => zero,
        3 => below || zero,
        4 => negative,
        6 => less,
        7 => less || zero,
        _ => return cpu.arith.condition(CC),
    };
    holds ^ (CC & 1 != 0)
}

fn compare_and_jump<const OP: u8, const S: u64, const FORM: u8, const PLACE: u8, const CC: u8>(
    cpu: &mut Cpu,
    op: OpRef,
) -> Flow {
    let in_memory = if PLACE == REGISTER {
        0
    } else {
        match cpu.load_hit::<S>(cpu.effective_address::<PLACE>(op)) {
            Some(value) => value,
            // It goes on to the jump's own handler.
            None => return alu::alu_slow::<OP, S, FORM, PLACE>(cpu, op),
        }
    };
    let a = if FORM == MEM_REG || FORM == MEM_IMM { in_memory } else { cpu.get::<S>(op.dst) };
    let b = match FORM {
        REG_REG | MEM_REG => cpu.get::<S>(op.src),
        REG_MEM => in_memory,
        _ => op.imm,
    };
    let result = alu::compute::<OP, S>(cpu, a, b);
    if OP != CMP && OP != TEST {
        cpu.set::<S>(op.dst, result);
    }
    let jump = op.next();
    if holds::<OP, S, CC>(cpu, a, b, result) {
        follow(cpu, jump, Way::Taken, jump.imm)
    } else {
        follow(cpu, jump, Way::Fall, u64::from(jump.offset) + u64::from(jump.len))
    }
}

/// The handler of an operation that a jump on condition `cc` follows, if there is one for the two.
pub(super) fn branch_after(comparison: Comparison, cc: u8) -> Option<Handler> {
    let Comparison { op, size, form, place } = comparison;
    macro_rules! by_condition {
        ($op:expr, $size:expr, $form:expr, $place:expr) => {
            match cc {
                2 => compare_and_jump::<{ $op }, { $size }, { $form }, { $place }, 2> as Handler,
                3 => compare_and_jump::<{ $op }, { $size }, { $form }, { $place }, 3>,
                4 => compare_and_jump::<{ $op }, { $size }, { $form }, { $place }, 4>,
                5 => compare_and_jump::<{ $op }, { $size }, { $form }, { $place }, 5>,
                6 => compare_and_jump::<{ $op }, { $size }, { $form }, { $place }, 6>,
                7 => compare_and_jump::<{ $op }, { $size }, { $form }, { $place }, 7>,
                8 => compare_and_jump::<{ $op }, { $size }, { $form }, { $place }, 8>,
                9 => compare_and_jump::<{ $op }, { $size }, { $form }, { $place }, 9>,
                12 => compare_and_jump::<{ $op }, { $size }, { $form }, { $place }, 12>,
                13 => compare_and_jump::<{ $op }, { $size }, { $form }, { $place }, 13>,
                14 => compare_and_jump::<{ $op }, { $size }, { $form }, { $place }, 14>,
                15 => compare_and_jump::<{ $op }, { $size }, { $form }, { $place }, 15>,
                _ => return None,
            }
        };
    }
    macro_rules! by_size {
        ($op:expr, $form:expr, $place:expr) => {
            match size {
                1 => by_condition!($op, 1, $form, $place),
                2 => by_condition!($op, 2, $form, $place),
                4 => by_condition!($op, 4, $form, $place),
                _ => by_condition!($op, 8, $form, $place),
            }
        };
    }
    // Of the register forms of what writes a result, jumps on zero and sign are nearly all.
    Some(match (op, form, place) {
        (CMP, REG_REG, _) => by_size!(CMP, REG_REG, REGISTER),
        (CMP, REG_IMM, _) => by_size!(CMP, REG_IMM, REGISTER),
        (CMP, REG_MEM, BASED) => by_size!(CMP, REG_MEM, BASED),
        (CMP, REG_MEM, _) => by_size!(CMP, REG_MEM, ANYWHERE),
        (CMP, MEM_REG, BASED) => by_size!(CMP, MEM_REG, BASED),
        (CMP, MEM_REG, _) => by_size!(CMP, MEM_REG, ANYWHERE),
        (CMP, MEM_IMM, BASED) => by_size!(CMP, MEM_IMM, BASED),
        (CMP, MEM_IMM, _) => by_size!(CMP, MEM_IMM, ANYWHERE),
        (TEST, REG_REG, _) => by_size!(TEST, REG_REG, REGISTER),
        (TEST, REG_IMM, _) => by_size!(TEST, REG_IMM, REGISTER),
        (TEST, MEM_IMM, BASED) => by_size!(TEST, MEM_IMM, BASED),
        (SUB, REG_REG, _) => by_size!(SUB, REG_REG, REGISTER),
        (SUB, REG_IMM, _) => by_size!(SUB, REG_IMM, REGISTER),
        (ADD, REG_IMM, _) => by_size!(ADD, REG_IMM, REGISTER),
        (AND, REG_IMM, _) => by_size!(AND, REG_IMM, REGISTER),
        _ => return None,
    })
}

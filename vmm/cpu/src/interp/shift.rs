//! Shifts and rotates of registers by a constant or by CL. Undefined flags: docs/cpu-model.md.

use super::alu::by_size;
use crate::code::{Flow, Handler, OpRef, go};
use crate::cpu::{Cpu, gpr};
use crate::flags::{sign_extend, zero_extend};

pub(super) const SHL: u8 = 0;
pub(super) const SHR: u8 = 1;
pub(super) const SAR: u8 = 2;
pub(super) const ROL: u8 = 3;
pub(super) const ROR: u8 = 4;

/// Sizes 4 and 8 only: the count, masked to the operand, is then less than its width, which keeps
/// each case one host shift. Smaller operands go to the reference semantics.
fn shift<const OP: u8, const CL: bool, const S: u64>(cpu: &mut Cpu, op: OpRef) -> Flow {
    let bits = S as u32 * 8;
    let count = if CL { cpu.gpr[gpr::RCX] as u32 } else { op.imm as u32 } & (bits - 1);
    if count == 0 {
        // Flags stay, but a 32-bit destination is written: its upper half clears.
        let value = cpu.get::<S>(op.dst);
        cpu.set::<S>(op.dst, value);
        go!(cpu, op.next());
    }
    let a = cpu.get::<S>(op.dst);
    let size = S as u32;
    let top = |value: u64| value >> (bits - 1) & 1 != 0;
    let result = match OP {
        SHL => {
            let result = zero_extend(a << count, size);
            let cf = a >> (bits - count) & 1 != 0;
            cpu.arith.set_result_cf_of(result, cf, top(a) != top(a << 1), size);
            result
        }
        SHR => {
            let result = a >> count;
            let cf = a >> (count - 1) & 1 != 0;
            cpu.arith.set_result_cf_of(result, cf, top(a), size);
            result
        }
        SAR => {
            let signed = sign_extend(a, size) as i64;
            let result = (signed >> count) as u64;
            let cf = signed >> (count - 1) & 1 != 0;
            cpu.arith.set_result_cf_of(result, cf, false, size);
            result
        }
        ROL => {
            let result = if S == 4 {
                u64::from((a as u32).rotate_left(count))
            } else {
                a.rotate_left(count)
            };
            let cf = result & 1 != 0;
            cpu.arith.replace_cf_of(cf, top(result) != cf);
            result
        }
        _ => {
            let result = if S == 4 {
                u64::from((a as u32).rotate_right(count))
            } else {
                a.rotate_right(count)
            };
            cpu.arith.replace_cf_of(top(result), top(result) != top(result << 1));
            result
        }
    };
    cpu.set::<S>(op.dst, result);
    go!(cpu, op.next())
}

/// The handler of a shift of a 4- or 8-byte register.
pub(super) fn shift_register(op: u8, size: u64, by_cl: bool) -> Handler {
    macro_rules! pick {
        ($($name:ident),*) => {
            match (op, by_cl) {
                $(($name, false) => by_size!(shift, size, [$name, false], []),
                ($name, true) => by_size!(shift, size, [$name, true], []),)*
                _ => unreachable!("five operations exist"),
            }
        };
    }
    pick!(SHL, SHR, SAR, ROL, ROR)
}

#[cfg(test)]
mod tests {
    use crate::testing::{Bench, CODE};

    /// Undefined flags included: which of the two executes must not be seen.
    #[test]
    fn shifts_leave_what_the_reference_leaves() {
        let mut bench = Bench::long();
        for wide in [false, true] {
            for digit in [0, 1, 4, 5, 7] {
                for count in 0..=64u8 {
                    let prefix = if wide { 0x48 } else { 0x40 };
                    bench.poke(CODE, &[prefix, 0xc1, 0xc0 | digit << 3, count]);
                    for value in [0, 1, 0x8000_0001_c000_0003, 0x4000_0000_8000_0000, u64::MAX] {
                        bench.change(|state| (state.rip, state.gpr[0]) = (CODE, value));
                        let before = bench.cpu.state();
                        bench.cpu.try_step(&mut bench.ram, &mut bench.board).unwrap();
                        let expected = bench.cpu.state();
                        bench.cpu.set_state(&before);
                        bench.cpu.try_step_decoded(&mut bench.ram, &mut bench.board).unwrap();
                        assert_eq!(bench.cpu.state(), expected, "/{digit} {value:#x}, {count}");
                    }
                }
            }
        }
    }
}

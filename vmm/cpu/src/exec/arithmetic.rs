//! Addition, subtraction, logic, comparison and the exchanges built on them (SDM vol. 1, 7.3.2,
//! 7.3.5 and 7.3.1.2).

use super::{Done, Exec};
use crate::cpu::{Cpu, gpr};
use crate::flags::{Arith, zero_extend};
use crate::segment::SegReg;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// The semantics of this family's instructions.
pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    Some(match i.mnemonic() {
        Mnemonic::Add => |cpu, i| binary(cpu, i, add),
        Mnemonic::Adc => |cpu, i| binary(cpu, i, adc),
        Mnemonic::Sub => |cpu, i| binary(cpu, i, sub),
        Mnemonic::Sbb => |cpu, i| binary(cpu, i, sbb),
        Mnemonic::And => |cpu, i| binary(cpu, i, |f, a, b, size| logic(f, a & b, size)),
        Mnemonic::Or => |cpu, i| binary(cpu, i, |f, a, b, size| logic(f, a | b, size)),
        Mnemonic::Xor => |cpu, i| binary(cpu, i, |f, a, b, size| logic(f, a ^ b, size)),
        Mnemonic::Cmp => |cpu, i| compare(cpu, i, sub),
        Mnemonic::Test => |cpu, i| compare(cpu, i, |f, a, b, size| logic(f, a & b, size)),
        Mnemonic::Not => |cpu, i| unary(cpu, i, |_, a, _| !a),
        Mnemonic::Neg => |cpu, i| unary(cpu, i, |f, a, size| sub(f, 0, a, size)),
        Mnemonic::Inc => |cpu, i| unary(cpu, i, inc),
        Mnemonic::Dec => |cpu, i| unary(cpu, i, dec),
        Mnemonic::Xadd => xadd,
        Mnemonic::Xchg => xchg,
        Mnemonic::Cmpxchg => cmpxchg,
        Mnemonic::Cmpxchg8b => cmpxchg8b,
        Mnemonic::Cmpxchg16b => cmpxchg16b,
        Mnemonic::Adcx => adcx,
        Mnemonic::Adox => adox,
        _ => return None,
    })
}

fn add(flags: &mut Arith, a: u64, b: u64, size: u32) -> u64 {
    let result = a.wrapping_add(b);
    flags.set_add(a, b, result, size);
    result
}

fn adc(flags: &mut Arith, a: u64, b: u64, size: u32) -> u64 {
    let result = a.wrapping_add(b).wrapping_add(flags.cf().into());
    flags.set_add(a, b, result, size);
    result
}

fn sub(flags: &mut Arith, a: u64, b: u64, size: u32) -> u64 {
    let result = a.wrapping_sub(b);
    flags.set_sub(a, b, result, size);
    result
}

fn sbb(flags: &mut Arith, a: u64, b: u64, size: u32) -> u64 {
    let result = a.wrapping_sub(b).wrapping_sub(flags.cf().into());
    flags.set_sub(a, b, result, size);
    result
}

fn logic(flags: &mut Arith, result: u64, size: u32) -> u64 {
    flags.set_logic(result, size);
    result
}

fn inc(flags: &mut Arith, a: u64, size: u32) -> u64 {
    let result = a.wrapping_add(1);
    flags.set_inc(a, result, size);
    result
}

fn dec(flags: &mut Arith, a: u64, size: u32) -> u64 {
    let result = a.wrapping_sub(1);
    flags.set_dec(a, result, size);
    result
}

/// `op0 = f(op0, op1)`.
fn binary(
    cpu: &mut Cpu,
    i: &Instruction,
    f: impl FnOnce(&mut Arith, u64, u64, u32) -> u64,
) -> Done {
    let size = cpu.operand_size(i, 0);
    let source = cpu.read_operand(i, 1)?;
    cpu.modify_operand(i, 0, |cpu, old| f(&mut cpu.arith, old, source, size))
}

/// Flags of `f(op0, op1)` only.
fn compare(
    cpu: &mut Cpu,
    i: &Instruction,
    f: impl FnOnce(&mut Arith, u64, u64, u32) -> u64,
) -> Done {
    let size = cpu.operand_size(i, 0);
    let left = cpu.read_operand(i, 0)?;
    let right = cpu.read_operand(i, 1)?;
    f(&mut cpu.arith, left, right, size);
    Ok(())
}

/// `op0 = f(op0)`.
fn unary(cpu: &mut Cpu, i: &Instruction, f: impl FnOnce(&mut Arith, u64, u32) -> u64) -> Done {
    let size = cpu.operand_size(i, 0);
    cpu.modify_operand(i, 0, |cpu, old| f(&mut cpu.arith, old, size))
}

fn xadd(cpu: &mut Cpu, i: &Instruction) -> Done {
    let size = cpu.operand_size(i, 0);
    let source = i.op1_register();
    cpu.modify_operand(i, 0, |cpu, old| {
        let addend = cpu.reg(source);
        // The source is written first: with both operands the same register, the sum stays.
        cpu.set_reg(source, old);
        add(&mut cpu.arith, old, addend, size)
    })
}

fn xchg(cpu: &mut Cpu, i: &Instruction) -> Done {
    // The memory operand, if there is one, may be either in the decoder's order.
    let memory = if i.op1_kind() == OpKind::Memory { 1 } else { 0 };
    let other = i.op_register(1 - memory);
    cpu.modify_operand(i, memory, |cpu, old| {
        let new = cpu.reg(other);
        cpu.set_reg(other, old);
        new
    })
}

fn cmpxchg(cpu: &mut Cpu, i: &Instruction) -> Done {
    let size = cpu.operand_size(i, 0);
    let accumulator = match size {
        1 => Register::AL,
        2 => Register::AX,
        4 => Register::EAX,
        _ => Register::RAX,
    };
    if i.op0_kind() == OpKind::Register {
        let (expected, old) = (cpu.reg(accumulator), cpu.reg(i.op0_register()));
        sub(&mut cpu.arith, expected, old, size);
        // Only one of the two is written: the other keeps its upper half (so does all hardware,
        // though the manual's pseudocode writes the destination either way).
        if expected == old {
            cpu.set_reg(i.op0_register(), cpu.reg(i.op1_register()));
        } else {
            cpu.set_reg(accumulator, old);
        }
        return Ok(());
    }
    cpu.modify_operand(i, 0, |cpu, old| {
        let expected = cpu.reg(accumulator);
        sub(&mut cpu.arith, expected, old, size);
        if expected == old {
            return cpu.reg(i.op1_register());
        }
        cpu.set_reg(accumulator, old);
        // "The destination operand receives a write cycle without regard to the result of the
        // comparison" (SDM vol. 2A).
        old
    })
}

/// The only flag that CMPXCHG8B and CMPXCHG16B change.
fn replace_zf(cpu: &mut Cpu, zf: bool) {
    use crate::flags::rflags::ZF;
    let bits = cpu.arith.bits();
    cpu.arith.set_bits(if zf { bits | ZF } else { bits & !ZF });
}

fn cmpxchg8b(cpu: &mut Cpu, i: &Instruction) -> Done {
    let expected = cpu.reg(Register::EDX) << 32 | cpu.reg(Register::EAX);
    let new = cpu.reg(Register::ECX) << 32 | cpu.reg(Register::EBX);
    cpu.modify_operand(i, 0, |cpu, old| {
        replace_zf(cpu, old == expected);
        if old == expected {
            return new;
        }
        cpu.set_reg(Register::EAX, old);
        cpu.set_reg(Register::EDX, old >> 32);
        old
    })
}

fn cmpxchg16b(cpu: &mut Cpu, i: &Instruction) -> Done {
    let (segment, offset) = cpu.operand_offset(i);
    // Before the segment is asked: on the stack, #GP for the alignment wins over #SS.
    let has_base = !cpu.is_64bit() || matches!(segment, SegReg::Fs | SegReg::Gs);
    let base = if has_base { cpu.seg[segment as usize].base } else { 0 };
    if base.wrapping_add(offset) & 15 != 0 {
        return Err(cpu.general_protection(0));
    }
    let linear = cpu.linear(segment, offset, 16, true)?;
    cpu.probe_store(linear, 16)?;
    let low = cpu.load(linear, 8)?;
    let high = cpu.load(linear.wrapping_add(8), 8)?;
    let equal = low == cpu.gpr[gpr::RAX] && high == cpu.gpr[gpr::RDX];
    let new = if equal { [cpu.gpr[gpr::RBX], cpu.gpr[gpr::RCX]] } else { [low, high] };
    cpu.store(linear, new[0], 8)?;
    cpu.store(linear.wrapping_add(8), new[1], 8)?;
    if !equal {
        cpu.gpr[gpr::RAX] = low;
        cpu.gpr[gpr::RDX] = high;
    }
    replace_zf(cpu, equal);
    Ok(())
}

/// Sum with a carry in, and the carry out.
fn add_with_carry(a: u64, b: u64, carry: bool, size: u32) -> (u64, bool) {
    let wide = u128::from(zero_extend(a, size)) + u128::from(zero_extend(b, size));
    let wide = wide + u128::from(carry);
    (wide as u64, wide >> (size * 8) != 0)
}

fn adcx(cpu: &mut Cpu, i: &Instruction) -> Done {
    let size = cpu.operand_size(i, 0);
    let source = cpu.read_operand(i, 1)?;
    cpu.modify_operand(i, 0, |cpu, old| {
        let (sum, carry) = add_with_carry(old, source, cpu.arith.cf(), size);
        cpu.arith.replace_cf(carry);
        sum
    })
}

fn adox(cpu: &mut Cpu, i: &Instruction) -> Done {
    let size = cpu.operand_size(i, 0);
    let source = cpu.read_operand(i, 1)?;
    cpu.modify_operand(i, 0, |cpu, old| {
        let (sum, carry) = add_with_carry(old, source, cpu.arith.of(), size);
        let cf = cpu.arith.cf();
        cpu.arith.replace_cf_of(cf, carry);
        sum
    })
}

#[cfg(test)]
mod tests {
    use super::super::table::{exception, prepare, run64, run64_all, step};
    use crate::testing::{Bench, DATA};

    const CF: u64 = 1;
    const PF: u64 = 4;
    const AF: u64 = 0x10;
    const ZF: u64 = 0x40;
    const SF: u64 = 0x80;
    const OF: u64 = 0x800;

    #[test]
    fn each_width_writes_its_part_of_the_register() {
        let ones = u64::MAX;
        // add al, 1; add ah, 1; add ax, 1; add eax, 1; add rax, 1
        for (code, result) in [
            (&[0x04, 1][..], 0xffff_ffff_ffff_ff00),
            (&[0x80, 0xc4, 1], 0xffff_ffff_ffff_00ff),
            (&[0x66, 0x83, 0xc0, 1], 0xffff_ffff_ffff_0000),
            (&[0x83, 0xc0, 1], 0),
            (&[0x48, 0x83, 0xc0, 1], 0),
        ] {
            let ([rax, ..], flags) = run64(code, [ones, 0, 0, 0], 0);
            assert_eq!((rax, flags), (result, CF | PF | AF | ZF), "{code:x?}");
        }
    }

    #[test]
    fn carries_go_in_and_out() {
        // adc eax, ecx
        let ([rax, ..], flags) = run64(&[0x11, 0xc8], [u64::MAX, 0, 0, 0], CF);
        assert_eq!((rax, flags), (0, CF | PF | AF | ZF));
        // sbb al, cl: 0x80 - 0 - 1
        let ([rax, ..], flags) = run64(&[0x18, 0xc8], [0x80, 0, 0, 0], CF);
        assert_eq!((rax, flags), (0x7f, OF | AF));
        // neg cl of the most negative byte
        let ([_, rcx, ..], flags) = run64(&[0xf6, 0xd9], [0, 0x80, 0, 0], 0);
        assert_eq!((rcx, flags), (0x80, CF | SF | OF));
        // inc and dec keep CF
        let ([rax, ..], flags) = run64(&[0xfe, 0xc0], [0x7f, 0, 0, 0], CF);
        assert_eq!((rax, flags), (0x80, CF | AF | SF | OF));
        // not changes no flag
        let ([rax, ..], flags) = run64(&[0xf7, 0xd0], [0, 0, 0, 0], CF | OF | AF);
        assert_eq!((rax, flags), (0xffff_ffff, CF | OF | AF));
        // logic clears CF, OF and AF
        let ([rax, ..], flags) = run64(&[0x30, 0xc8], [0x0f, 0x8f, 0, 0], CF | OF | AF);
        assert_eq!((rax, flags), (0x80, SF));
    }

    #[test]
    fn adcx_and_adox_have_a_carry_each() {
        let (adcx_code, adox_code) =
            ([0x66, 0x0f, 0x38, 0xf6, 0xc1], [0xf3, 0x0f, 0x38, 0xf6, 0xc1]);
        let ([rax, ..], flags) = run64_all(&adcx_code, [0xffff_ffff, 0, 0, 0], CF | OF | SF);
        assert_eq!((rax, flags), (0, CF | OF | SF));
        let ([rax, ..], flags) = run64_all(&adox_code, [0xffff_ffff, 1, 0, 0], ZF);
        assert_eq!((rax, flags), (0, ZF | OF));
        let mut bench = Bench::long();
        assert_eq!(step(&mut bench, &adcx_code), exception(6, None));
    }

    #[test]
    fn exchanges() {
        // xadd eax, eax doubles; xadd cl, al
        let ([rax, ..], _) = run64(&[0x0f, 0xc1, 0xc0], [0x1_8000_0001, 0, 0, 0], 0);
        assert_eq!(rax, 2);
        let ([rax, rcx, ..], flags) = run64(&[0x0f, 0xc0, 0xc1], [0x101, 0xff, 0, 0], 0);
        assert_eq!((rax, rcx, flags), (0x1ff, 0, CF | PF | AF | ZF));
        // xchg eax, ecx clears both upper halves
        let ([rax, rcx, ..], _) = run64(&[0x91], [u64::MAX, 0x5_0000_0007, 0, 0], 0);
        assert_eq!((rax, rcx), (7, 0xffff_ffff));
        // cmpxchg ecx, edx: equal, RAX keeps its upper half
        let start = [0x9_0000_0001, 0x8_0000_0001, 0x7_0000_0005, 0];
        let ([rax, rcx, ..], flags) = run64(&[0x0f, 0xb1, 0xd1], start, 0);
        assert_eq!((rax, rcx, flags), (0x9_0000_0001, 5, ZF | PF));
        // not equal: the destination keeps its upper half
        let start = [0x9_0000_0002, 0x8_0000_0001, 5, 0];
        let ([rax, rcx, ..], flags) = run64(&[0x0f, 0xb1, 0xd1], start, 0);
        assert_eq!((rax, rcx, flags), (1, 0x8_0000_0001, 0));
    }

    #[test]
    fn wide_compare_and_exchange() {
        let mut bench = Bench::long();
        prepare(&mut bench, |state| {
            state.gpr[..4].copy_from_slice(&[1, 3, 2, 4]);
            state.gpr[7] = DATA;
        });
        bench.poke(DATA, &[1u64.to_le_bytes(), 2u64.to_le_bytes()].concat());
        // cmpxchg16b [rdi], twice: first equal, then not
        let code = [0x48, 0x0f, 0xc7, 0x0f];
        step(&mut bench, &code).unwrap();
        assert_eq!(bench.peek::<8>(DATA), 4u64.to_le_bytes());
        assert_eq!(bench.peek::<8>(DATA + 8), 3u64.to_le_bytes());
        assert_eq!(bench.cpu.state().rflags & ZF, ZF);
        step(&mut bench, &code).unwrap();
        let state = bench.cpu.state();
        assert_eq!((state.gpr[0], state.gpr[2], state.rflags & ZF), (4, 3, 0));
        prepare(&mut bench, |state| state.gpr[7] = DATA + 8);
        assert_eq!(step(&mut bench, &code), exception(13, Some(0)), "16-byte alignment");
        // cmpxchg8b [rdi], not equal
        prepare(&mut bench, |state| state.gpr[..4].copy_from_slice(&[9 << 32, 0, 0, 0]));
        step(&mut bench, &[0x0f, 0xc7, 0x0f]).unwrap();
        assert_eq!(bench.cpu.state().gpr[0], 3);
    }

    #[test]
    fn a_comparison_that_fails_still_needs_a_writable_page() {
        let mut bench = Bench::long();
        // The page directory entry of the first 2 MiB: present, user, not writable; CR0.WP.
        bench.poke(0x3000, &0x85u64.to_le_bytes());
        prepare(&mut bench, |state| {
            state.cr0 |= 1 << 16;
            state.gpr[7] = DATA;
            state.gpr[0] = 77;
        });
        // cmpxchg [rdi], ecx: #PF, present and write
        assert_eq!(step(&mut bench, &[0x0f, 0xb1, 0x0f]), exception(14, Some(3)));
        // add [rdi], eax: the write is checked before the read
        assert_eq!(step(&mut bench, &[0x01, 0x07]), exception(14, Some(3)));
        assert_eq!(bench.cpu.state().cr2, DATA);
    }
}

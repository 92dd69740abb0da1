//! Bit tests, bit scans, bit-field instructions and byte swaps (SDM vol. 1, 7.3.7 and 5.1.13 to
//! 5.1.16). For models without BMI1 or LZCNT the decoder gives BSF and BSR for their encodings.

use super::{Done, Exec};
use crate::cpu::Cpu;
use crate::flags::{rflags, sign_extend, zero_extend};
use crate::segment::SegReg;
use iced_x86::{Instruction, Mnemonic, OpKind};

/// The semantics of this family's instructions.
pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    Some(match i.mnemonic() {
        Mnemonic::Bt => |cpu, i| bit_test(cpu, i, None),
        Mnemonic::Bts => |cpu, i| bit_test(cpu, i, Some(|word, bit| word | bit)),
        Mnemonic::Btr => |cpu, i| bit_test(cpu, i, Some(|word, bit| word & !bit)),
        Mnemonic::Btc => |cpu, i| bit_test(cpu, i, Some(|word, bit| word ^ bit)),
        Mnemonic::Bsf => bsf,
        Mnemonic::Bsr => bsr,
        Mnemonic::Tzcnt => tzcnt,
        Mnemonic::Lzcnt => lzcnt,
        Mnemonic::Popcnt => popcnt,
        Mnemonic::Andn => |cpu, i| cpu.if_vex(i, andn),
        Mnemonic::Bextr => |cpu, i| cpu.if_vex(i, bextr),
        Mnemonic::Blsi => |cpu, i| cpu.if_vex(i, blsi),
        Mnemonic::Blsr => |cpu, i| cpu.if_vex(i, blsr),
        Mnemonic::Blsmsk => |cpu, i| cpu.if_vex(i, blsmsk),
        Mnemonic::Bzhi => |cpu, i| cpu.if_vex(i, bzhi),
        Mnemonic::Pdep => |cpu, i| cpu.if_vex(i, pdep),
        Mnemonic::Pext => |cpu, i| cpu.if_vex(i, pext),
        Mnemonic::Bswap => bswap,
        Mnemonic::Movbe => movbe,
        Mnemonic::Crc32 => crc32,
        _ => return None,
    })
}

/// BT and its kin. With a register bit offset the memory operand is a bit string that extends
/// 2^(bits-1) bits to either side of its address (SDM vol. 2A, figure 3-2); an immediate
/// offset counts modulo the operand size, as a register operand's does. Flags other than CF, which
/// the manual calls undefined except ZF, stay as they were.
fn bit_test(cpu: &mut Cpu, i: &Instruction, change: Option<fn(u64, u64) -> u64>) -> Done {
    let size = cpu.operand_size(i, 0);
    let bits = u64::from(size) * 8;
    let index = cpu.read_operand(i, 1)?;
    let mask = 1u64 << (index & (bits - 1));
    if i.op0_kind() == OpKind::Register {
        let old = cpu.reg(i.op0_register());
        cpu.arith.replace_cf(old & mask != 0);
        if let Some(change) = change {
            cpu.set_reg(i.op0_register(), change(old, mask));
        }
        return Ok(());
    }
    let (segment, offset) = bit_string_offset(cpu, i, index, size);
    if let Some(change) = change {
        cpu.modify_sized(segment, offset, size, |cpu, old| {
            cpu.arith.replace_cf(old & mask != 0);
            change(old, mask)
        })
    } else {
        let word = cpu.read_sized(segment, offset, size)?;
        cpu.arith.replace_cf(word & mask != 0);
        Ok(())
    }
}

/// Where the word lies that holds the bit.
fn bit_string_offset(cpu: &Cpu, i: &Instruction, index: u64, size: u32) -> (SegReg, u64) {
    let (segment, offset) = cpu.operand_offset(i);
    if i.op1_kind() != OpKind::Register {
        return (segment, offset);
    }
    let words = (sign_extend(index, size) as i64) >> (size * 8).trailing_zeros();
    let offset = offset.wrapping_add((words as u64).wrapping_mul(size.into()));
    (segment, zero_extend(offset, cpu.address_size(i)))
}

/// BSF and BSR: ZF tells a zero source. The other flags, undefined by the manual: PF is the parity of
/// the position found (set for a zero source), the rest are 0.
fn scan(cpu: &mut Cpu, i: &Instruction, f: impl FnOnce(u64) -> u32) -> Done {
    let source = cpu.read_operand(i, 1)?;
    if source == 0 {
        // The destination keeps all 64 bits, whatever the operand size.
        cpu.arith.set_bits(rflags::ZF | rflags::PF);
        return Ok(());
    }
    let position = f(source);
    cpu.set_reg(i.op0_register(), position.into());
    let even = position.count_ones().is_multiple_of(2);
    cpu.arith.set_bits(if even { rflags::PF } else { 0 });
    Ok(())
}

fn bsf(cpu: &mut Cpu, i: &Instruction) -> Done {
    scan(cpu, i, |source| source.trailing_zeros())
}

fn bsr(cpu: &mut Cpu, i: &Instruction) -> Done {
    scan(cpu, i, |source| 63 - source.leading_zeros())
}

/// TZCNT and LZCNT: CF tells a zero source, ZF a zero result; the others, undefined by the manual,
/// are 0.
fn count_zeros(cpu: &mut Cpu, i: &Instruction, f: impl FnOnce(u64, u32) -> u32) -> Done {
    let size = cpu.operand_size(i, 0);
    let source = cpu.read_operand(i, 1)?;
    let count = u64::from(f(source, size * 8));
    cpu.set_reg(i.op0_register(), count);
    let zf = if count == 0 { rflags::ZF } else { 0 };
    cpu.arith.set_bits(zf | u64::from(source == 0));
    Ok(())
}

fn tzcnt(cpu: &mut Cpu, i: &Instruction) -> Done {
    count_zeros(cpu, i, |source, bits| source.trailing_zeros().min(bits))
}

fn lzcnt(cpu: &mut Cpu, i: &Instruction) -> Done {
    count_zeros(cpu, i, |source, bits| source.leading_zeros() - (64 - bits))
}

fn popcnt(cpu: &mut Cpu, i: &Instruction) -> Done {
    let source = cpu.read_operand(i, 1)?;
    cpu.set_reg(i.op0_register(), source.count_ones().into());
    // All flags are clear but ZF, which tells a zero source.
    cpu.arith.set_bits(if source == 0 { rflags::ZF } else { 0 });
    Ok(())
}

fn andn(cpu: &mut Cpu, i: &Instruction) -> Done {
    let size = cpu.operand_size(i, 0);
    let inverted = cpu.read_operand(i, 1)?;
    let source = cpu.read_operand(i, 2)?;
    let result = !inverted & source;
    cpu.set_reg(i.op0_register(), result);
    cpu.arith.set_logic(result, size);
    Ok(())
}

fn bextr(cpu: &mut Cpu, i: &Instruction) -> Done {
    let source = cpu.read_operand(i, 1)?;
    let control = cpu.read_operand(i, 2)?;
    let (start, length) = ((control & 0xff) as u32, (control >> 8 & 0xff) as u32);
    let result = low_bits(source.checked_shr(start).unwrap_or(0), length);
    cpu.set_reg(i.op0_register(), result);
    // ZF follows the result; CF and OF are 0, and so are SF, AF and PF, undefined by the manual.
    cpu.arith.set_bits(if result == 0 { rflags::ZF } else { 0 });
    Ok(())
}

/// The `count` lowest bits of a value.
fn low_bits(value: u64, count: u32) -> u64 {
    if count >= 64 { value } else { value & ((1 << count) - 1) }
}

/// BLSI, BLSR, BLSMSK: `f(source)` with CF from the source. AF and PF, undefined by the manual, are
/// 0 and the result's parity.
fn lowest_set(
    cpu: &mut Cpu,
    i: &Instruction,
    cf: impl FnOnce(u64) -> bool,
    f: impl FnOnce(u64) -> u64,
) -> Done {
    let size = cpu.operand_size(i, 0);
    let source = cpu.read_operand(i, 1)?;
    let result = f(source);
    cpu.set_reg(i.op0_register(), result);
    cpu.arith.set_result_cf_of(result, cf(source), false, size);
    Ok(())
}

fn blsi(cpu: &mut Cpu, i: &Instruction) -> Done {
    lowest_set(cpu, i, |source| source != 0, |source| source & source.wrapping_neg())
}

fn blsr(cpu: &mut Cpu, i: &Instruction) -> Done {
    lowest_set(cpu, i, |source| source == 0, |source| source & source.wrapping_sub(1))
}

fn blsmsk(cpu: &mut Cpu, i: &Instruction) -> Done {
    lowest_set(cpu, i, |source| source == 0, |source| source ^ source.wrapping_sub(1))
}

fn bzhi(cpu: &mut Cpu, i: &Instruction) -> Done {
    let size = cpu.operand_size(i, 0);
    let source = cpu.read_operand(i, 1)?;
    let from = (cpu.read_operand(i, 2)? & 0xff) as u32;
    let result = low_bits(source, from);
    cpu.set_reg(i.op0_register(), result);
    cpu.arith.set_result_cf_of(result, from >= size * 8, false, size);
    Ok(())
}

/// PDEP: the low bits of op1 go to the set bits of the mask op2.
fn pdep(cpu: &mut Cpu, i: &Instruction) -> Done {
    let mut source = cpu.read_operand(i, 1)?;
    let mut mask = cpu.read_operand(i, 2)?;
    let mut result = 0;
    while mask != 0 {
        let lowest = mask & mask.wrapping_neg();
        if source & 1 != 0 {
            result |= lowest;
        }
        source >>= 1;
        mask ^= lowest;
    }
    cpu.set_reg(i.op0_register(), result);
    Ok(())
}

/// PEXT: the bits of op1 at the set bits of the mask op2 go to the low bits.
fn pext(cpu: &mut Cpu, i: &Instruction) -> Done {
    let source = cpu.read_operand(i, 1)?;
    let mut mask = cpu.read_operand(i, 2)?;
    let mut result = 0;
    let mut place = 1u64;
    while mask != 0 {
        let lowest = mask & mask.wrapping_neg();
        if source & lowest != 0 {
            result |= place;
        }
        place = place.wrapping_shl(1);
        mask ^= lowest;
    }
    cpu.set_reg(i.op0_register(), result);
    Ok(())
}

/// Reverses the bytes of a value of `size` bytes.
fn swap_bytes(value: u64, size: u32) -> u64 {
    value.swap_bytes() >> (64 - size * 8)
}

/// BSWAP. The 16-bit form, undefined by the manual, writes zero.
fn bswap(cpu: &mut Cpu, i: &Instruction) -> Done {
    let size = cpu.operand_size(i, 0);
    let old = cpu.reg(i.op0_register());
    cpu.set_reg(i.op0_register(), if size == 2 { 0 } else { swap_bytes(old, size) });
    Ok(())
}

fn movbe(cpu: &mut Cpu, i: &Instruction) -> Done {
    let size = cpu.operand_size(i, 0);
    let value = cpu.read_operand(i, 1)?;
    cpu.write_operand(i, 0, swap_bytes(value, size))
}

/// CRC32: the Castagnoli polynomial, reflected.
fn crc32(cpu: &mut Cpu, i: &Instruction) -> Done {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let bytes = cpu.operand_size(i, 1);
    let source = cpu.read_operand(i, 1)?;
    let mut crc = cpu.reg(i.op0_register()) as u32;
    for byte in &source.to_le_bytes()[..bytes as usize] {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 != 0 { POLYNOMIAL } else { 0 };
        }
    }
    cpu.set_reg(i.op0_register(), crc.into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::table::{exception, prepare, run64, run64_all, step};
    use crate::model::Features;
    use crate::testing::{Bench, DATA};

    const CF: u64 = 1;
    const PF: u64 = 4;
    const ZF: u64 = 0x40;
    const SF: u64 = 0x80;
    const ALL: u64 = 0x8d5;

    #[test]
    fn bit_tests_of_registers_count_modulo_the_width_and_touch_only_cf() {
        // bt eax, ecx; bts eax, 33; btr ax, 17; btc rax, 63
        let (_, flags) = run64(&[0x0f, 0xa3, 0xc8], [2, 33, 0, 0], ALL & !CF);
        assert_eq!(flags, ALL);
        let (out, flags) = run64(&[0x0f, 0xba, 0xe8, 33], [0xf << 32, 0, 0, 0], CF);
        assert_eq!((out[0], flags), (2, 0));
        let (out, flags) = run64(&[0x66, 0x0f, 0xba, 0xf0, 17], [0xf_ffff, 0, 0, 0], 0);
        assert_eq!((out[0], flags), (0xf_fffd, CF));
        let (out, _) = run64(&[0x48, 0x0f, 0xba, 0xf8, 63], [1, 0, 0, 0], 0);
        assert_eq!(out[0], 1 << 63 | 1);
    }

    #[test]
    fn bit_strings_extend_to_both_sides() {
        let mut bench = Bench::long();
        // btc [rdi], eax with -1: the top bit of the doubleword below
        prepare(&mut bench, |state| {
            state.gpr[7] = DATA;
            state.gpr[0] = 0x5_ffff_ffff;
        });
        step(&mut bench, &[0x0f, 0xbb, 0x07]).unwrap();
        assert_eq!(bench.peek::<4>(DATA - 4), [0, 0, 0, 0x80]);
        // bts [rdi], rax, 2^20 + 5: 128 KiB above
        prepare(&mut bench, |state| state.gpr[0] = (1 << 20) + 5);
        step(&mut bench, &[0x48, 0x0f, 0xab, 0x07]).unwrap();
        assert_eq!(bench.peek::<1>(DATA + (1 << 17)), [0x20]);
        // bts [rdi], ax, -17: the sign of the 16-bit offset
        prepare(&mut bench, |state| state.gpr[0] = 0xffef);
        step(&mut bench, &[0x66, 0x0f, 0xab, 0x07]).unwrap();
        assert_eq!(bench.peek::<4>(DATA - 4), [0, 0x80, 0, 0x80]);
        // bts dword [rdi], 200: an immediate stays in the doubleword
        step(&mut bench, &[0x0f, 0xba, 0x2f, 200]).unwrap();
        assert_eq!(bench.peek::<4>(DATA), [0, 1, 0, 0]);
    }

    #[test]
    fn scans() {
        let old = 0x1234_5678_9abc_def0;
        // bsf eax, ecx; bsr eax, ecx; bsf rax, rcx; bsr ax, cx
        for (code, source, result, flags) in [
            (&[0x0f, 0xbc, 0xc1][..], 0x30, 4, 0),
            (&[0x0f, 0xbc, 0xc1], 0x1, 0, PF),
            (&[0x0f, 0xbd, 0xc1], 0x30, 5, PF),
            (&[0x48, 0x0f, 0xbc, 0xc1], 1 << 63, 63, PF),
            (&[0x66, 0x0f, 0xbd, 0xc1], 0x1_0080, old & !0xffff | 7, 0),
            (&[0x0f, 0xbc, 0xc1], 1 << 32, old, ZF | PF),
            (&[0x0f, 0xbd, 0xc1], 0, old, ZF | PF),
            // Without BMI1 and LZCNT the F3 prefix says nothing.
            (&[0xf3, 0x0f, 0xbc, 0xc1], 0x30, 4, 0),
            (&[0xf3, 0x0f, 0xbd, 0xc1], 0x30, 5, PF),
        ] {
            let out = run64(code, [old, source, 0, 0], ALL);
            assert_eq!((out.0[0], out.1), (result, flags), "{code:x?} {source:x}");
        }
        // tzcnt eax, ecx; lzcnt eax, ecx; tzcnt ax, cx
        for (code, source, result, flags) in [
            (&[0xf3, 0x0f, 0xbc, 0xc1][..], 0x30, 4, 0),
            (&[0xf3, 0x0f, 0xbc, 0xc1], 1 << 32, 32, CF),
            (&[0xf3, 0x0f, 0xbd, 0xc1], 1 << 31, 0, ZF),
            (&[0xf3, 0x48, 0x0f, 0xbd, 0xc1], 0, 64, CF),
            (&[0x66, 0xf3, 0x0f, 0xbc, 0xc1], 1, old & !0xffff, ZF),
        ] {
            let out = run64_all(code, [old, source, 0, 0], ALL);
            assert_eq!((out.0[0], out.1), (result, flags), "{code:x?} {source:x}");
        }
        // popcnt ax, cx
        let (out, flags) = run64(&[0x66, 0xf3, 0x0f, 0xb8, 0xc1], [old, 0xf_ff00, 0, 0], ALL);
        assert_eq!((out[0], flags), (old & !0xffff | 8, 0));
    }

    #[test]
    fn bit_fields() {
        let run = |code: &[u8], gpr| {
            let (out, flags) = run64_all(code, gpr, ALL);
            (out[0], flags)
        };
        // andn eax, ecx, edx
        assert_eq!(
            run(&[0xc4, 0xe2, 0x70, 0xf2, 0xc2], [0, 0x7f, 0x8000_00ff, 0]),
            (0x8000_0080, SF)
        );
        // bextr eax, ecx, edx; start 4, length 8; then start beyond the width
        let code = [0xc4, 0xe2, 0x68, 0xf7, 0xc1];
        assert_eq!(run(&code, [0, 0x1234_5678, 0x804, 0]), (0x67, 0));
        assert_eq!(run(&code, [0, 0x1234_5678, 0x828, 0]), (0, ZF));
        assert_eq!(run(&code, [0, 0x1234_5678, 0xff80, 0]), (0, ZF));
        assert_eq!(run(&code, [0, 0x1234_5678, 0xff00, 0]), (0x1234_5678, 0));
        // blsr, blsmsk, blsi eax, ecx
        assert_eq!(run(&[0xc4, 0xe2, 0x78, 0xf3, 0xc9], [0, 0x18, 0, 0]), (0x10, 0));
        assert_eq!(run(&[0xc4, 0xe2, 0x78, 0xf3, 0xd1], [0, 0, 0, 0]), (0xffff_ffff, CF | SF | PF));
        assert_eq!(run(&[0xc4, 0xe2, 0x78, 0xf3, 0xd9], [0, 0x18, 0, 0]), (8, CF));
        // bzhi eax, ecx, edx: 8 bits, then more than there are
        let code = [0xc4, 0xe2, 0x68, 0xf5, 0xc1];
        assert_eq!(run(&code, [0, 0xabcd, 0x108, 0]), (0xcd, 0));
        assert_eq!(run(&code, [0, 0xabcd, 40, 0]), (0xabcd, CF));
        // pdep, pext eax, ecx, edx
        assert_eq!(run(&[0xc4, 0xe2, 0x73, 0xf5, 0xc2], [0, 0b101, 0xf0f0, 0]), (0x50, ALL));
        assert_eq!(run(&[0xc4, 0xe2, 0x72, 0xf5, 0xc2], [0, 0x1250, 0xf0f0, 0]), (0x15, ALL));
        // A model without BMI, and real mode on any model: #UD.
        assert_eq!(step(&mut Bench::long(), &code), exception(6, None));
        assert_eq!(step(&mut Bench::real(), &code), exception(6, None));
    }

    #[test]
    fn byte_swaps_and_checksums() {
        // movbe [rdi], ax; movbe rax, [rdi]
        let mut bench = Bench::long();
        assert_eq!(step(&mut bench, &[0x0f, 0x38, 0xf0, 0x07]), exception(6, None));
        bench.cpu.model.features = Features::ADDED;
        prepare(&mut bench, |state| {
            state.gpr[7] = DATA;
            state.gpr[0] = 0x1122;
        });
        step(&mut bench, &[0x66, 0x0f, 0x38, 0xf1, 0x07]).unwrap();
        step(&mut bench, &[0x48, 0x0f, 0x38, 0xf0, 0x07]).unwrap();
        assert_eq!(bench.cpu.state().gpr[0], 0x1122 << 48);
        // bswap eax; bswap rax; bswap ax
        let value = 0x1122_3344_5566_7788;
        assert_eq!(run64(&[0x0f, 0xc8], [value, 0, 0, 0], 0).0[0], 0x8877_6655);
        assert_eq!(run64(&[0x48, 0x0f, 0xc8], [value, 0, 0, 0], 0).0[0], value.swap_bytes());
        assert_eq!(run64(&[0x66, 0x0f, 0xc8], [value, 0, 0, 0], 0).0[0], value & !0xffff);
        // crc32 eax, byte by byte of the check string "123456789"
        let mut crc = 0xffff_ffff;
        for byte in b"123456789" {
            let code = [0xf2, 0x0f, 0x38, 0xf0, 0xc1];
            crc = run64(&code, [crc, u64::from(*byte), 0, 0], ALL).0[0];
        }
        assert_eq!(crc ^ 0xffff_ffff, 0xe306_9283);
        // crc32 rax, rcx is eight of those
        let (out, flags) = run64(&[0xf2, 0x48, 0x0f, 0x38, 0xf1, 0xc1], [u64::MAX, 0, 0, 0], ALL);
        assert_eq!((out[0], flags), (0x73d7_4d75, ALL));
    }
}

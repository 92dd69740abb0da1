//! Moves between XMM registers, memory, general registers and MMX registers, and the bitwise
//! operations, which are the same for integers and floats.

use super::operand::is_register;
use crate::cpu::Cpu;
use crate::exec::{Done, Exec};
use iced_x86::{Code, Instruction};

const LOW32: u128 = 0xffff_ffff;
const LOW64: u128 = 0xffff_ffff_ffff_ffff;

/// The semantics of an instruction of this family.
pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    let exec: Exec = match i.code() {
        Code::Movups_xmm_xmmm128
        | Code::Movupd_xmm_xmmm128
        | Code::Movdqu_xmm_xmmm128
        | Code::Lddqu_xmm_m128 => load_unaligned,
        Code::Movaps_xmm_xmmm128
        | Code::Movapd_xmm_xmmm128
        | Code::Movdqa_xmm_xmmm128
        | Code::Movntdqa_xmm_m128 => |cpu, i| cpu.binary(i, |_, b| b),
        Code::Movups_xmmm128_xmm | Code::Movupd_xmmm128_xmm | Code::Movdqu_xmmm128_xmm => {
            store_unaligned
        }
        Code::Movaps_xmmm128_xmm
        | Code::Movapd_xmmm128_xmm
        | Code::Movdqa_xmmm128_xmm
        | Code::Movntps_m128_xmm
        | Code::Movntpd_m128_xmm
        | Code::Movntdq_m128_xmm => store_aligned,

        Code::Movss_xmm_xmmm32 => load_single,
        Code::Movss_xmmm32_xmm => store_single,
        Code::Movsd_xmm_xmmm64 => load_double,
        Code::Movsd_xmmm64_xmm => store_double,
        Code::Movq_xmm_xmmm64 => |cpu, i| cpu.unary64(i, u128::from),
        Code::Movq_xmmm64_xmm => store_quadword,
        Code::Movd_xmm_rm32 | Code::Movq_xmm_rm64 => from_general,
        Code::Movd_rm32_xmm | Code::Movq_rm64_xmm => to_general,

        Code::Movhlps_xmm_xmm => |cpu, i| cpu.binary(i, |a, b| a & !LOW64 | b >> 64),
        Code::Movlhps_xmm_xmm => |cpu, i| cpu.binary(i, |a, b| a & LOW64 | b << 64),
        Code::Movlps_xmm_m64 | Code::Movlpd_xmm_m64 => load_low,
        Code::Movhps_xmm_m64 | Code::Movhpd_xmm_m64 => load_high,
        Code::Movlps_m64_xmm | Code::Movlpd_m64_xmm => store_low,
        Code::Movhps_m64_xmm | Code::Movhpd_m64_xmm => store_high,

        Code::Movmskps_r32_xmm | Code::Movmskps_r64_xmm => |cpu, i| sign_mask(cpu, i, 32),
        Code::Movmskpd_r32_xmm | Code::Movmskpd_r64_xmm => |cpu, i| sign_mask(cpu, i, 64),
        Code::Pmovmskb_r32_xmm | Code::Pmovmskb_r64_xmm => byte_mask,

        Code::Andps_xmm_xmmm128 | Code::Andpd_xmm_xmmm128 | Code::Pand_xmm_xmmm128 => {
            |cpu, i| cpu.binary(i, |a, b| a & b)
        }
        Code::Andnps_xmm_xmmm128 | Code::Andnpd_xmm_xmmm128 | Code::Pandn_xmm_xmmm128 => {
            |cpu, i| cpu.binary(i, |a, b| !a & b)
        }
        Code::Orps_xmm_xmmm128 | Code::Orpd_xmm_xmmm128 | Code::Por_xmm_xmmm128 => {
            |cpu, i| cpu.binary(i, |a, b| a | b)
        }
        Code::Xorps_xmm_xmmm128 | Code::Xorpd_xmm_xmmm128 | Code::Pxor_xmm_xmmm128 => {
            |cpu, i| cpu.binary(i, |a, b| a ^ b)
        }
        _ => return None,
    };
    Some(exec)
}

fn load_unaligned(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.sse()?;
    let value = if is_register(i, 1) { cpu.xmm_at(i, 1) } else { cpu.load_unaligned(i)? };
    cpu.set_xmm_at(i, 0, value);
    Ok(())
}

fn store_unaligned(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.sse()?;
    let value = cpu.xmm_at(i, 1);
    if is_register(i, 0) {
        cpu.set_xmm_at(i, 0, value);
        return Ok(());
    }
    cpu.store_unaligned(i, value)
}

fn store_aligned(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.sse()?;
    let value = cpu.xmm_at(i, 1);
    if is_register(i, 0) {
        cpu.set_xmm_at(i, 0, value);
        return Ok(());
    }
    cpu.store_aligned(i, value)
}

/// MOVSS from memory clears the rest of the register; from a register it keeps it.
fn load_single(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.sse()?;
    let low = u128::from(cpu.source32(i, 1)?);
    let kept = if is_register(i, 1) { cpu.xmm_at(i, 0) & !LOW32 } else { 0 };
    cpu.set_xmm_at(i, 0, kept | low);
    Ok(())
}

fn store_single(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.sse()?;
    let value = cpu.xmm_at(i, 1);
    if is_register(i, 0) {
        let kept = cpu.xmm_at(i, 0) & !LOW32;
        cpu.set_xmm_at(i, 0, kept | value & LOW32);
        return Ok(());
    }
    cpu.store_operand(i, value as u64, 4)
}

/// MOVSD from memory clears the rest of the register; from a register it keeps it.
fn load_double(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.sse()?;
    let low = u128::from(cpu.source64(i, 1)?);
    let kept = if is_register(i, 1) { cpu.xmm_at(i, 0) & !LOW64 } else { 0 };
    cpu.set_xmm_at(i, 0, kept | low);
    Ok(())
}

fn store_double(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.sse()?;
    let value = cpu.xmm_at(i, 1);
    if is_register(i, 0) {
        let kept = cpu.xmm_at(i, 0) & !LOW64;
        cpu.set_xmm_at(i, 0, kept | value & LOW64);
        return Ok(());
    }
    cpu.store_operand(i, value as u64, 8)
}

/// MOVQ to a register clears its high half, unlike MOVSD.
fn store_quadword(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.sse()?;
    let value = cpu.xmm_at(i, 1);
    if is_register(i, 0) {
        cpu.set_xmm_at(i, 0, value & LOW64);
        return Ok(());
    }
    cpu.store_operand(i, value as u64, 8)
}

fn from_general(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.sse()?;
    let value = cpu.read_operand(i, 1)?;
    cpu.set_xmm_at(i, 0, u128::from(value));
    Ok(())
}

fn to_general(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.sse()?;
    let value = cpu.xmm_at(i, 1);
    cpu.write_operand(i, 0, value as u64)
}

fn load_low(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.sse()?;
    let half = u128::from(cpu.load_operand(i, 8)?);
    let kept = cpu.xmm_at(i, 0) & !LOW64;
    cpu.set_xmm_at(i, 0, kept | half);
    Ok(())
}

fn load_high(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.sse()?;
    let half = u128::from(cpu.load_operand(i, 8)?);
    let kept = cpu.xmm_at(i, 0) & LOW64;
    cpu.set_xmm_at(i, 0, kept | half << 64);
    Ok(())
}

fn store_low(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.sse()?;
    let value = cpu.xmm_at(i, 1);
    cpu.store_operand(i, value as u64, 8)
}

fn store_high(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.sse()?;
    let value = cpu.xmm_at(i, 1);
    cpu.store_operand(i, (value >> 64) as u64, 8)
}

/// Collects the sign bits of lanes of `bits` bits.
#[inline(always)]
fn sign_mask(cpu: &mut Cpu, i: &Instruction, bits: u32) -> Done {
    cpu.sse()?;
    let value = cpu.xmm_at(i, 1);
    let mask = (0..128 / bits).fold(0, |mask, n| mask | (value >> (n * bits + bits - 1) & 1) << n);
    cpu.set_reg(i.op0_register(), mask as u64);
    Ok(())
}

/// PMOVMSKB: the sign bits of bytes.
fn byte_mask(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.sse()?;
    let signs = super::packed::byte_signs(cpu.xmm_at(i, 1));
    cpu.set_reg(i.op0_register(), signs.into());
    Ok(())
}

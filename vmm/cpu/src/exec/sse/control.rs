//! MXCSR loads and stores, fences, prefetches, cache-line flushes and stores that bypass the cache.

use super::mxcsr::EXISTING;
use crate::cpu::Cpu;
use crate::exec::{Done, Exec};
use iced_x86::{Code, Instruction};

/// The semantics of an instruction of this family.
pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    let exec: Exec = match i.code() {
        Code::Ldmxcsr_m32 => load_mxcsr,
        Code::Stmxcsr_m32 => |cpu, i| {
            cpu.sse()?;
            cpu.store_operand(i, cpu.mxcsr.into(), 4)
        },
        Code::Clflush_m8 => |cpu, i| cpu.load_operand(i, 1).map(|_| ()),
        Code::Maskmovdqu_rDI_xmm_xmm => store_masked,
        Code::Movnti_m32_r32 => |cpu, i| cpu.store_operand(i, cpu.reg(i.op1_register()), 4),
        Code::Movnti_m64_r64 => |cpu, i| cpu.store_operand(i, cpu.reg(i.op1_register()), 8),
        code if is_hint(code) => |_, _| Ok(()),
        _ => return None,
    };
    Some(exec)
}

/// Fences order nothing here, where each instruction's effects are complete before the next; a
/// prefetch never faults.
fn is_hint(code: Code) -> bool {
    matches!(
        code,
        Code::Lfence
            | Code::Lfence_E9
            | Code::Lfence_EA
            | Code::Lfence_EB
            | Code::Lfence_EC
            | Code::Lfence_ED
            | Code::Lfence_EE
            | Code::Lfence_EF
            | Code::Mfence
            | Code::Mfence_F1
            | Code::Mfence_F2
            | Code::Mfence_F3
            | Code::Mfence_F4
            | Code::Mfence_F5
            | Code::Mfence_F6
            | Code::Mfence_F7
            | Code::Sfence
            | Code::Sfence_F9
            | Code::Sfence_FA
            | Code::Sfence_FB
            | Code::Sfence_FC
            | Code::Sfence_FD
            | Code::Sfence_FE
            | Code::Sfence_FF
            | Code::Prefetch_m8
            | Code::Prefetchw_m8
            | Code::Prefetchwt1_m8
            | Code::Prefetchnta_m8
            | Code::Prefetcht0_m8
            | Code::Prefetcht1_m8
            | Code::Prefetcht2_m8
            | Code::Prefetchreserved3_m8
            | Code::Prefetchreserved4_m8
            | Code::Prefetchreserved5_m8
            | Code::Prefetchreserved6_m8
            | Code::Prefetchreserved7_m8
            | Code::Prefetchit0_m8
            | Code::Prefetchit1_m8
    )
}

/// LDMXCSR: #GP(0) if a bit that does not exist is set.
fn load_mxcsr(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.sse()?;
    let value = cpu.load_operand(i, 4)? as u32;
    if value & !EXISTING != 0 {
        return Err(cpu.general_protection(0));
    }
    cpu.mxcsr = value;
    Ok(())
}

/// MASKMOVDQU stores the bytes whose mask byte has bit 7 set. Where the manual leaves it open, bytes
/// that are not stored are not accessed either, so an all-zero mask never faults.
fn store_masked(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.sse()?;
    let value = cpu.xmm_at(i, 1).to_le_bytes();
    let mask = cpu.xmm_at(i, 2).to_le_bytes();
    let (segment, offset, address_mask) = cpu.rdi_operand(i, 0);
    let at = |n: usize| offset.wrapping_add(n as u64) & address_mask;
    let chosen = || (0..16).filter(|&n| mask[n] & 0x80 != 0);
    for n in chosen() {
        cpu.probe_write(segment, at(n), 1)?;
    }
    for n in chosen() {
        cpu.write_sized(segment, at(n), value[n].into(), 1)?;
    }
    Ok(())
}

//! SSE2's packed integer operations. Each has an intrinsic, which is the instruction itself: exact, and
//! several times faster than what the compiler makes of a loop over the lanes of a `u128`. What came
//! with SSSE3 and later is in [`integer`](super::integer) in plain Rust, because a host may lack it.
//!
//! UNSAFETY: calling these intrinsics is unsafe because a CPU might lack SSE2; every x86-64 CPU has it.
#![expect(unsafe_code, reason = "SSE2 intrinsics; see UNSAFETY above")]

use super::host::{bits, vector};
use crate::exec::Exec;
use iced_x86::{Code, Instruction};
use std::arch::x86_64::*;

/// The semantics of an instruction of this family.
pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    lanewise(i.code()).or_else(|| across_lanes(i.code())).or_else(|| shifts(i.code()))
}

/// `xmm1 = f(xmm1, xmm2/m128)`.
macro_rules! run {
    ($intrinsic:ident) => {
        |cpu, i| {
            // SAFETY: SSE2 is part of x86-64.
            cpu.binary(i, |a, b| bits(unsafe { $intrinsic(vector(a), vector(b)) }))
        }
    };
}

/// `xmm1 = f(xmm1, imm8)`.
macro_rules! shift {
    ($intrinsic:ident) => {
        |cpu, i| {
            cpu.sse()?;
            let count = vector(i.immediate8().into());
            // SAFETY: SSE2 is part of x86-64.
            let value = unsafe { $intrinsic(vector(cpu.xmm_at(i, 0)), count) };
            cpu.set_xmm_at(i, 0, bits(value));
            Ok(())
        }
    };
}

/// Operations on each pair of lanes by itself.
fn lanewise(code: Code) -> Option<Exec> {
    let exec: Exec = match code {
        Code::Paddb_xmm_xmmm128 => run!(_mm_add_epi8),
        Code::Paddw_xmm_xmmm128 => run!(_mm_add_epi16),
        Code::Paddd_xmm_xmmm128 => run!(_mm_add_epi32),
        Code::Paddq_xmm_xmmm128 => run!(_mm_add_epi64),
        Code::Psubb_xmm_xmmm128 => run!(_mm_sub_epi8),
        Code::Psubw_xmm_xmmm128 => run!(_mm_sub_epi16),
        Code::Psubd_xmm_xmmm128 => run!(_mm_sub_epi32),
        Code::Psubq_xmm_xmmm128 => run!(_mm_sub_epi64),
        Code::Paddsb_xmm_xmmm128 => run!(_mm_adds_epi8),
        Code::Paddsw_xmm_xmmm128 => run!(_mm_adds_epi16),
        Code::Paddusb_xmm_xmmm128 => run!(_mm_adds_epu8),
        Code::Paddusw_xmm_xmmm128 => run!(_mm_adds_epu16),
        Code::Psubsb_xmm_xmmm128 => run!(_mm_subs_epi8),
        Code::Psubsw_xmm_xmmm128 => run!(_mm_subs_epi16),
        Code::Psubusb_xmm_xmmm128 => run!(_mm_subs_epu8),
        Code::Psubusw_xmm_xmmm128 => run!(_mm_subs_epu16),
        Code::Pminub_xmm_xmmm128 => run!(_mm_min_epu8),
        Code::Pminsw_xmm_xmmm128 => run!(_mm_min_epi16),
        Code::Pmaxub_xmm_xmmm128 => run!(_mm_max_epu8),
        Code::Pmaxsw_xmm_xmmm128 => run!(_mm_max_epi16),
        Code::Pavgb_xmm_xmmm128 => run!(_mm_avg_epu8),
        Code::Pavgw_xmm_xmmm128 => run!(_mm_avg_epu16),
        Code::Pcmpeqb_xmm_xmmm128 => run!(_mm_cmpeq_epi8),
        Code::Pcmpeqw_xmm_xmmm128 => run!(_mm_cmpeq_epi16),
        Code::Pcmpeqd_xmm_xmmm128 => run!(_mm_cmpeq_epi32),
        Code::Pcmpgtb_xmm_xmmm128 => run!(_mm_cmpgt_epi8),
        Code::Pcmpgtw_xmm_xmmm128 => run!(_mm_cmpgt_epi16),
        Code::Pcmpgtd_xmm_xmmm128 => run!(_mm_cmpgt_epi32),
        Code::Pmullw_xmm_xmmm128 => run!(_mm_mullo_epi16),
        Code::Pmulhw_xmm_xmmm128 => run!(_mm_mulhi_epi16),
        Code::Pmulhuw_xmm_xmmm128 => run!(_mm_mulhi_epu16),
        Code::Pmuludq_xmm_xmmm128 => run!(_mm_mul_epu32),
        _ => return None,
    };
    Some(exec)
}

/// Operations whose result lanes depend on several source lanes.
fn across_lanes(code: Code) -> Option<Exec> {
    let exec: Exec = match code {
        Code::Packsswb_xmm_xmmm128 => run!(_mm_packs_epi16),
        Code::Packuswb_xmm_xmmm128 => run!(_mm_packus_epi16),
        Code::Packssdw_xmm_xmmm128 => run!(_mm_packs_epi32),
        Code::Pmaddwd_xmm_xmmm128 => run!(_mm_madd_epi16),
        Code::Psadbw_xmm_xmmm128 => run!(_mm_sad_epu8),
        Code::Punpcklbw_xmm_xmmm128 => run!(_mm_unpacklo_epi8),
        Code::Punpcklwd_xmm_xmmm128 => run!(_mm_unpacklo_epi16),
        Code::Punpckhbw_xmm_xmmm128 => run!(_mm_unpackhi_epi8),
        Code::Punpckhwd_xmm_xmmm128 => run!(_mm_unpackhi_epi16),
        Code::Punpckldq_xmm_xmmm128 | Code::Unpcklps_xmm_xmmm128 => run!(_mm_unpacklo_epi32),
        Code::Punpcklqdq_xmm_xmmm128 | Code::Unpcklpd_xmm_xmmm128 => run!(_mm_unpacklo_epi64),
        Code::Punpckhdq_xmm_xmmm128 | Code::Unpckhps_xmm_xmmm128 => run!(_mm_unpackhi_epi32),
        Code::Punpckhqdq_xmm_xmmm128 | Code::Unpckhpd_xmm_xmmm128 => run!(_mm_unpackhi_epi64),
        _ => return None,
    };
    Some(exec)
}

/// Shifts of lanes by a common count, in the low quadword of the second operand or an immediate.
fn shifts(code: Code) -> Option<Exec> {
    let exec: Exec = match code {
        Code::Psllw_xmm_xmmm128 => run!(_mm_sll_epi16),
        Code::Pslld_xmm_xmmm128 => run!(_mm_sll_epi32),
        Code::Psllq_xmm_xmmm128 => run!(_mm_sll_epi64),
        Code::Psrlw_xmm_xmmm128 => run!(_mm_srl_epi16),
        Code::Psrld_xmm_xmmm128 => run!(_mm_srl_epi32),
        Code::Psrlq_xmm_xmmm128 => run!(_mm_srl_epi64),
        Code::Psraw_xmm_xmmm128 => run!(_mm_sra_epi16),
        Code::Psrad_xmm_xmmm128 => run!(_mm_sra_epi32),
        Code::Psllw_xmm_imm8 => shift!(_mm_sll_epi16),
        Code::Pslld_xmm_imm8 => shift!(_mm_sll_epi32),
        Code::Psllq_xmm_imm8 => shift!(_mm_sll_epi64),
        Code::Psrlw_xmm_imm8 => shift!(_mm_srl_epi16),
        Code::Psrld_xmm_imm8 => shift!(_mm_srl_epi32),
        Code::Psrlq_xmm_imm8 => shift!(_mm_srl_epi64),
        Code::Psraw_xmm_imm8 => shift!(_mm_sra_epi16),
        Code::Psrad_xmm_imm8 => shift!(_mm_sra_epi32),
        _ => return None,
    };
    Some(exec)
}

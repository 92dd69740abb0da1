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

/// Hands each operation `xmm1 = f(xmm1, xmm2/m128)`, by its name in the decoder and its intrinsic, to
/// a macro: one for the reference semantics here, one for the handlers of decoded blocks.
macro_rules! each_binary {
    ($then:ident) => {
        $then! {
            Paddb_xmm_xmmm128 = _mm_add_epi8,
            Paddw_xmm_xmmm128 = _mm_add_epi16,
            Paddd_xmm_xmmm128 = _mm_add_epi32,
            Paddq_xmm_xmmm128 = _mm_add_epi64,
            Psubb_xmm_xmmm128 = _mm_sub_epi8,
            Psubw_xmm_xmmm128 = _mm_sub_epi16,
            Psubd_xmm_xmmm128 = _mm_sub_epi32,
            Psubq_xmm_xmmm128 = _mm_sub_epi64,
            Paddsb_xmm_xmmm128 = _mm_adds_epi8,
            Paddsw_xmm_xmmm128 = _mm_adds_epi16,
            Paddusb_xmm_xmmm128 = _mm_adds_epu8,
            Paddusw_xmm_xmmm128 = _mm_adds_epu16,
            Psubsb_xmm_xmmm128 = _mm_subs_epi8,
            Psubsw_xmm_xmmm128 = _mm_subs_epi16,
            Psubusb_xmm_xmmm128 = _mm_subs_epu8,
            Psubusw_xmm_xmmm128 = _mm_subs_epu16,
            Pminub_xmm_xmmm128 = _mm_min_epu8,
            Pminsw_xmm_xmmm128 = _mm_min_epi16,
            Pmaxub_xmm_xmmm128 = _mm_max_epu8,
            Pmaxsw_xmm_xmmm128 = _mm_max_epi16,
            Pavgb_xmm_xmmm128 = _mm_avg_epu8,
            Pavgw_xmm_xmmm128 = _mm_avg_epu16,
            Pcmpeqb_xmm_xmmm128 = _mm_cmpeq_epi8,
            Pcmpeqw_xmm_xmmm128 = _mm_cmpeq_epi16,
            Pcmpeqd_xmm_xmmm128 = _mm_cmpeq_epi32,
            Pcmpgtb_xmm_xmmm128 = _mm_cmpgt_epi8,
            Pcmpgtw_xmm_xmmm128 = _mm_cmpgt_epi16,
            Pcmpgtd_xmm_xmmm128 = _mm_cmpgt_epi32,
            Pmullw_xmm_xmmm128 = _mm_mullo_epi16,
            Pmulhw_xmm_xmmm128 = _mm_mulhi_epi16,
            Pmulhuw_xmm_xmmm128 = _mm_mulhi_epu16,
            Pmuludq_xmm_xmmm128 = _mm_mul_epu32,
            Packsswb_xmm_xmmm128 = _mm_packs_epi16,
            Packuswb_xmm_xmmm128 = _mm_packus_epi16,
            Packssdw_xmm_xmmm128 = _mm_packs_epi32,
            Pmaddwd_xmm_xmmm128 = _mm_madd_epi16,
            Psadbw_xmm_xmmm128 = _mm_sad_epu8,
            Punpcklbw_xmm_xmmm128 = _mm_unpacklo_epi8,
            Punpcklwd_xmm_xmmm128 = _mm_unpacklo_epi16,
            Punpckhbw_xmm_xmmm128 = _mm_unpackhi_epi8,
            Punpckhwd_xmm_xmmm128 = _mm_unpackhi_epi16,
            Punpckldq_xmm_xmmm128 = _mm_unpacklo_epi32,
            Unpcklps_xmm_xmmm128 = _mm_unpacklo_epi32,
            Punpcklqdq_xmm_xmmm128 = _mm_unpacklo_epi64,
            Unpcklpd_xmm_xmmm128 = _mm_unpacklo_epi64,
            Punpckhdq_xmm_xmmm128 = _mm_unpackhi_epi32,
            Unpckhps_xmm_xmmm128 = _mm_unpackhi_epi32,
            Punpckhqdq_xmm_xmmm128 = _mm_unpackhi_epi64,
            Unpckhpd_xmm_xmmm128 = _mm_unpackhi_epi64,
            Psllw_xmm_xmmm128 = _mm_sll_epi16,
            Pslld_xmm_xmmm128 = _mm_sll_epi32,
            Psllq_xmm_xmmm128 = _mm_sll_epi64,
            Psrlw_xmm_xmmm128 = _mm_srl_epi16,
            Psrld_xmm_xmmm128 = _mm_srl_epi32,
            Psrlq_xmm_xmmm128 = _mm_srl_epi64,
            Psraw_xmm_xmmm128 = _mm_sra_epi16,
            Psrad_xmm_xmmm128 = _mm_sra_epi32,
        }
    };
}
/// As `each_binary`, for the shifts `xmm1 = f(xmm1, imm8)` of lanes by a common count.
macro_rules! each_shift {
    ($then:ident) => {
        $then! {
            Psllw_xmm_imm8 = _mm_sll_epi16,
            Pslld_xmm_imm8 = _mm_sll_epi32,
            Psllq_xmm_imm8 = _mm_sll_epi64,
            Psrlw_xmm_imm8 = _mm_srl_epi16,
            Psrld_xmm_imm8 = _mm_srl_epi32,
            Psrlq_xmm_imm8 = _mm_srl_epi64,
            Psraw_xmm_imm8 = _mm_sra_epi16,
            Psrad_xmm_imm8 = _mm_sra_epi32,
        }
    };
}
pub(crate) use {each_binary, each_shift};

/// An operation on two vectors, or on a vector and a count.
pub(crate) trait Binary {
    fn apply(a: u128, b: u128) -> u128;
}

macro_rules! define {
    ($($name:ident = $intrinsic:ident,)*) => {
        $(
            #[expect(non_camel_case_types, reason = "the decoder's names")]
            pub(crate) enum $name {}
            impl Binary for $name {
                #[inline(always)]
                fn apply(a: u128, b: u128) -> u128 {
                    // SAFETY: SSE2 is part of x86-64.
                    bits(unsafe { $intrinsic(vector(a), vector(b)) })
                }
            }
        )*
    };
}
each_binary!(define);
each_shift!(define);

/// The sign bits of bytes.
#[inline(always)]
pub(crate) fn byte_signs(vector_of_bytes: u128) -> u32 {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_movemask_epi8(vector(vector_of_bytes)) as u32 }
}

/// The semantics of an instruction of this family.
pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    binary(i.code()).or_else(|| shift(i.code()))
}

fn binary(code: Code) -> Option<Exec> {
    macro_rules! choose {
        ($($name:ident = $intrinsic:ident,)*) => {
            match code {
                $(Code::$name => |cpu, i| cpu.binary(i, $name::apply),)*
                _ => return None,
            }
        };
    }
    let exec: Exec = each_binary!(choose);
    Some(exec)
}

fn shift(code: Code) -> Option<Exec> {
    macro_rules! choose {
        ($($name:ident = $intrinsic:ident,)*) => {
            match code {
                $(Code::$name => |cpu, i| {
                    cpu.sse()?;
                    let value = $name::apply(cpu.xmm_at(i, 0), i.immediate8().into());
                    cpu.set_xmm_at(i, 0, value);
                    Ok(())
                },)*
                _ => return None,
            }
        };
    }
    let exec: Exec = each_shift!(choose);
    Some(exec)
}

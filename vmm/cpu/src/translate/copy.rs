//! Instructions that become themselves, with other registers and a host address for a memory operand.

use super::block::{ARITHMETIC, Flags, Translation};
use super::emit::{Host, host};
use super::memory::Right;
use super::registers::{host_of, named, slot, xmm_slot};
use crate::interp::{condition, general};
use iced_x86::{
    Code, CpuidFeature, FlowControl, Instruction, Mnemonic, OpAccess, OpKind, Register,
};

/// A guest register that lives in memory and is an operand now.
struct Borrowed {
    guest: u8,
    scratch: Host,
    written: bool,
}

impl Translation<'_> {
    /// One instruction that does not end a block.
    pub(super) fn instruction(&mut self, i: &Instruction) -> Option<()> {
        if let Some(done) = self.common(i) {
            return done;
        }
        self.keeps_held = false;
        if let Some(done) = self.special(i) {
            if !self.keeps_held {
                self.held = None;
            }
            return done;
        }
        if super::high_byte::has_high_byte(i) {
            self.held = None;
            return self.with_high_byte(&normal_form(i));
        }
        let class = class_of(i)?;
        match class {
            Class::General => self.copy(&normal_form(i)),
            Class::Simd if self.block.mode.sse => {
                if !leaves_mxcsr_alone(i) {
                    self.want_mxcsr();
                }
                self.copy(i)
            }
            Class::Simd => None,
        }
    }

    /// Emits `i` with operands where they are.
    pub(super) fn copy(&mut self, i: &Instruction) -> Option<()> {
        let mut copied = *i;
        let accesses = {
            let info = self.tools.infos.info(i);
            [info.op0_access(), info.op1_access(), info.op2_access(), info.op3_access()]
        };
        if i.has_lock_prefix() {
            // One vCPU runs at a time, and nothing else stores while it does.
            copied.set_has_lock_prefix(false);
        }
        let in_memory = (0..i.op_count()).find(|&n| i.op_kind(n) == OpKind::Memory);
        if let Some(n) = in_memory {
            let bytes = i.memory_size().size();
            let right = match accesses[n as usize] {
                OpAccess::Read => Right::Load,
                OpAccess::Write | OpAccess::ReadWrite => Right::Store,
                _ => return None,
            };
            if !matches!(bytes, 1 | 2 | 4 | 8 | 16) {
                return None;
            }
            let reached = self.reach_operand(i, right, bytes as u32)?;
            if bytes == 16 && must_be_aligned(i) {
                self.require_aligned(reached);
            }
            copied.set_memory_base(Register::R8);
            copied.set_memory_index(Register::None);
            copied.set_memory_index_scale(1);
            copied.set_memory_displacement64(reached.disp as i64 as u64);
            copied.set_memory_displ_size(u32::from(reached.disp != 0));
            copied.set_segment_prefix(Register::None);
        }
        let mut free =
            [Some(host::R9), in_memory.is_none().then_some(host::R8)].into_iter().flatten();
        let mut borrowed: Vec<Borrowed> = Vec::new();
        let mut xmm_written = None;
        let mut changed = [None; 2];
        for n in 0..i.op_count() {
            if i.op_kind(n) != OpKind::Register {
                continue;
            }
            let register = i.op_register(n);
            let access = accesses[n as usize];
            if register.is_xmm() {
                let number = register.number() as u8;
                // Only part of it may be written, so it is always read.
                self.want_xmm(number);
                if access != OpAccess::Read {
                    xmm_written = Some(number);
                }
                continue;
            }
            let guest = general(register)?;
            if register == Register::CL && n > 0 {
                // A shift's count: RCX is in its own register.
                continue;
            }
            // Another operand may read the register that this one only writes.
            let reads = (0..i.op_count()).any(|m| {
                let same =
                    i.op_kind(m) == OpKind::Register && general(i.op_register(m)) == Some(guest);
                same && accesses[m as usize] != OpAccess::Write
            });
            let writes = !matches!(access, OpAccess::Read);
            if writes {
                changed[usize::from(changed[0].is_some())] = Some(guest);
            }
            let scratch = match (host_of(guest), borrowed.iter_mut().find(|b| b.guest == guest)) {
                (Some(register), _) => register,
                (None, Some(known)) => {
                    known.written |= writes;
                    known.scratch
                }
                (None, None) => {
                    let scratch = free.next()?;
                    if scratch == host::R8 {
                        self.held = None;
                    }
                    if reads || register.size() < 4 {
                        self.hot.load(scratch, slot(guest));
                    }
                    borrowed.push(Borrowed { guest, scratch, written: writes });
                    scratch
                }
            };
            let name = named(scratch, register.size());
            match n {
                0 => copied.set_op0_register(name),
                1 => copied.set_op1_register(name),
                2 => copied.set_op2_register(name),
                _ => return None,
            }
        }
        let modified = i.rflags_modified() & ARITHMETIC;
        // What it leaves of the old flags may die with what it sets.
        let in_part = modified != 0 && modified != ARITHMETIC;
        let die = in_part && self.flags_die();
        if i.rflags_read() & ARITHMETIC != 0 || in_part && !die {
            self.want_flags();
        }
        if !self.hot.encoded(&mut self.tools.encoder, &copied) {
            return None;
        }
        if modified != 0 {
            self.flags = if die { Flags::Saved } else { Flags::Live };
        }
        for register in borrowed.into_iter().filter(|register| register.written) {
            self.hot.store(slot(register.guest), register.scratch);
        }
        self.changed_by(i, changed.into_iter().flatten());
        if let Some(number) = xmm_written {
            // MOVAPS m128, xmm
            self.hot.mem(super::emit::Width::W32, &[0x0f, 0x29], number, xmm_slot(number));
        }
        Some(())
    }

    /// Makes a guest XMM register be in its host register.
    pub(super) fn want_xmm(&mut self, number: u8) {
        if self.xmm & 1 << number == 0 {
            // MOVAPS xmm, m128
            self.hot.mem(super::emit::Width::W32, &[0x0f, 0x28], number, xmm_slot(number));
            self.xmm |= 1 << number;
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    General,
    Simd,
}

/// Instructions whose operands are all explicit, and whose results and flags are those of
/// docs/cpu-model.md on every host.
pub(super) fn class_of(i: &Instruction) -> Option<Class> {
    if i.has_rep_prefix() || i.has_repne_prefix() {
        return None;
    }
    let general = match i.mnemonic() {
        Mnemonic::Mov
        | Mnemonic::Movzx
        | Mnemonic::Movsx
        | Mnemonic::Movsxd
        | Mnemonic::Add
        | Mnemonic::Or
        | Mnemonic::Adc
        | Mnemonic::Sbb
        | Mnemonic::And
        | Mnemonic::Sub
        | Mnemonic::Xor
        | Mnemonic::Cmp
        | Mnemonic::Test
        | Mnemonic::Inc
        | Mnemonic::Dec
        | Mnemonic::Not
        | Mnemonic::Neg
        | Mnemonic::Xadd => true,
        Mnemonic::Xchg => i.op_count() == 2,
        Mnemonic::Bswap => i.op0_register().size() >= 4,
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc => {
            i.op0_kind() == OpKind::Register || i.op1_kind() == OpKind::Immediate8
        }
        _ if condition(i).is_some() && i.flow_control() == FlowControl::Next => true,
        _ => false,
    };
    if general {
        return Some(Class::General);
    }
    (is_simd(i) || is_counting(i)).then_some(Class::Simd)
}

/// SSE instructions whose operands are explicit.
fn is_simd(i: &Instruction) -> bool {
    let excluded = matches!(
        i.mnemonic(),
        // Approximations differ between processors.
        Mnemonic::Rcpps
            | Mnemonic::Rcpss
            | Mnemonic::Rsqrtps
            | Mnemonic::Rsqrtss
            // They switch the x87 registers to MMX: the host's, not the guest's.
            | Mnemonic::Cvtpi2ps
            | Mnemonic::Cvtpi2pd
            // Processors differ in which of several NaNs the sum is.
            | Mnemonic::Dpps
            | Mnemonic::Dppd
            // Other registers are operands too.
            | Mnemonic::Maskmovdqu
            | Mnemonic::Pblendvb
            | Mnemonic::Blendvps
            | Mnemonic::Blendvpd
            | Mnemonic::Pcmpestri
            | Mnemonic::Pcmpestri64
            | Mnemonic::Pcmpestrm
            | Mnemonic::Pcmpestrm64
            | Mnemonic::Pcmpistrm
    );
    let mut vectors = 0;
    let operands = (0..i.op_count()).all(|n| match i.op_kind(n) {
        OpKind::Register => {
            let register = i.op_register(n);
            vectors += u32::from(register.is_xmm());
            register.is_xmm() || general_register(register)
        }
        OpKind::Memory | OpKind::Immediate8 => true,
        _ => false,
    });
    operands && vectors > 0 && !excluded && i.cpuid_features().iter().all(is_on_host)
}

/// Instructions that MXCSR means nothing to (SDM vol. 1, 10.2.3): moves, logic, integers. One that is missing
/// here costs time only.
fn leaves_mxcsr_alone(i: &Instruction) -> bool {
    matches!(
        i.mnemonic(),
        Mnemonic::Movaps
            | Mnemonic::Movapd
            | Mnemonic::Movups
            | Mnemonic::Movupd
            | Mnemonic::Movdqa
            | Mnemonic::Movdqu
            | Mnemonic::Movd
            | Mnemonic::Movq
            | Mnemonic::Movss
            | Mnemonic::Movsd
            | Mnemonic::Movlps
            | Mnemonic::Movlpd
            | Mnemonic::Movhps
            | Mnemonic::Movhpd
            | Mnemonic::Movlhps
            | Mnemonic::Movhlps
            | Mnemonic::Movntps
            | Mnemonic::Movntpd
            | Mnemonic::Movntdq
            | Mnemonic::Movmskps
            | Mnemonic::Movmskpd
            | Mnemonic::Lddqu
            | Mnemonic::Andps
            | Mnemonic::Andpd
            | Mnemonic::Andnps
            | Mnemonic::Andnpd
            | Mnemonic::Orps
            | Mnemonic::Orpd
            | Mnemonic::Xorps
            | Mnemonic::Xorpd
            | Mnemonic::Unpcklps
            | Mnemonic::Unpcklpd
            | Mnemonic::Unpckhps
            | Mnemonic::Unpckhpd
            | Mnemonic::Shufps
            | Mnemonic::Shufpd
            | Mnemonic::Pand
            | Mnemonic::Pandn
            | Mnemonic::Por
            | Mnemonic::Pxor
            | Mnemonic::Ptest
            | Mnemonic::Paddb
            | Mnemonic::Paddw
            | Mnemonic::Paddd
            | Mnemonic::Paddq
            | Mnemonic::Psubb
            | Mnemonic::Psubw
            | Mnemonic::Psubd
            | Mnemonic::Psubq
            | Mnemonic::Pmulld
            | Mnemonic::Pmullw
            | Mnemonic::Pmuludq
            | Mnemonic::Pmaddwd
            | Mnemonic::Pminub
            | Mnemonic::Pminud
            | Mnemonic::Pmaxub
            | Mnemonic::Pcmpeqb
            | Mnemonic::Pcmpeqw
            | Mnemonic::Pcmpeqd
            | Mnemonic::Pcmpgtb
            | Mnemonic::Pcmpgtw
            | Mnemonic::Pcmpgtd
            | Mnemonic::Pmovmskb
            | Mnemonic::Pshufb
            | Mnemonic::Pshufd
            | Mnemonic::Pshuflw
            | Mnemonic::Pshufhw
            | Mnemonic::Palignr
            | Mnemonic::Psllw
            | Mnemonic::Pslld
            | Mnemonic::Psllq
            | Mnemonic::Pslldq
            | Mnemonic::Psrlw
            | Mnemonic::Psrld
            | Mnemonic::Psrlq
            | Mnemonic::Psrldq
            | Mnemonic::Psraw
            | Mnemonic::Psrad
            | Mnemonic::Punpcklbw
            | Mnemonic::Punpcklwd
            | Mnemonic::Punpckldq
            | Mnemonic::Punpcklqdq
            | Mnemonic::Punpckhbw
            | Mnemonic::Punpckhwd
            | Mnemonic::Punpckhdq
            | Mnemonic::Punpckhqdq
            | Mnemonic::Packsswb
            | Mnemonic::Packuswb
            | Mnemonic::Packssdw
            | Mnemonic::Pinsrb
            | Mnemonic::Pinsrw
            | Mnemonic::Pinsrd
            | Mnemonic::Pinsrq
            | Mnemonic::Pextrb
            | Mnemonic::Pextrw
            | Mnemonic::Pextrd
            | Mnemonic::Pextrq
            | Mnemonic::Pclmulqdq
            | Mnemonic::Popcnt
    )
}

/// POPCNT, whose flags are all defined.
fn is_counting(i: &Instruction) -> bool {
    i.mnemonic() == Mnemonic::Popcnt && i.cpuid_features().iter().all(is_on_host)
}

/// Whether this processor has what an instruction needs.
fn is_on_host(feature: &CpuidFeature) -> bool {
    match feature {
        CpuidFeature::SSE | CpuidFeature::SSE2 => true,
        CpuidFeature::SSE3 => std::is_x86_feature_detected!("sse3"),
        CpuidFeature::SSSE3 => std::is_x86_feature_detected!("ssse3"),
        CpuidFeature::SSE4_1 => std::is_x86_feature_detected!("sse4.1"),
        CpuidFeature::SSE4_2 => std::is_x86_feature_detected!("sse4.2"),
        CpuidFeature::POPCNT => std::is_x86_feature_detected!("popcnt"),
        _ => false,
    }
}

/// A SIMD instruction on registers that leaves flags alone: it completes whatever happens.
pub(super) fn is_plain_simd(i: &Instruction) -> bool {
    is_simd(i)
        && (0..i.op_count()).all(|n| i.op_kind(n) != OpKind::Memory)
        && i.rflags_modified() & ARITHMETIC == 0
}

fn general_register(register: Register) -> bool {
    register.is_gpr() && register.size() >= 4
}

/// SSE instructions want their 16-byte operands aligned, but for those that say so.
fn must_be_aligned(i: &Instruction) -> bool {
    !matches!(
        i.mnemonic(),
        Mnemonic::Movups
            | Mnemonic::Movupd
            | Mnemonic::Movdqu
            | Mnemonic::Lddqu
            | Mnemonic::Pcmpistri
    )
}

/// The accumulator's own encodings as the general ones, for the accumulator is elsewhere.
fn normal_form(i: &Instruction) -> Instruction {
    let mut normal = *i;
    let code = match i.code() {
        Code::Add_AL_imm8 => Code::Add_rm8_imm8,
        Code::Add_AX_imm16 => Code::Add_rm16_imm16,
        Code::Add_EAX_imm32 => Code::Add_rm32_imm32,
        Code::Add_RAX_imm32 => Code::Add_rm64_imm32,
        Code::Or_AL_imm8 => Code::Or_rm8_imm8,
        Code::Or_AX_imm16 => Code::Or_rm16_imm16,
        Code::Or_EAX_imm32 => Code::Or_rm32_imm32,
        Code::Or_RAX_imm32 => Code::Or_rm64_imm32,
        Code::Adc_AL_imm8 => Code::Adc_rm8_imm8,
        Code::Adc_AX_imm16 => Code::Adc_rm16_imm16,
        Code::Adc_EAX_imm32 => Code::Adc_rm32_imm32,
        Code::Adc_RAX_imm32 => Code::Adc_rm64_imm32,
        Code::Sbb_AL_imm8 => Code::Sbb_rm8_imm8,
        Code::Sbb_AX_imm16 => Code::Sbb_rm16_imm16,
        Code::Sbb_EAX_imm32 => Code::Sbb_rm32_imm32,
        Code::Sbb_RAX_imm32 => Code::Sbb_rm64_imm32,
        Code::And_AL_imm8 => Code::And_rm8_imm8,
        Code::And_AX_imm16 => Code::And_rm16_imm16,
        Code::And_EAX_imm32 => Code::And_rm32_imm32,
        Code::And_RAX_imm32 => Code::And_rm64_imm32,
        Code::Sub_AL_imm8 => Code::Sub_rm8_imm8,
        Code::Sub_AX_imm16 => Code::Sub_rm16_imm16,
        Code::Sub_EAX_imm32 => Code::Sub_rm32_imm32,
        Code::Sub_RAX_imm32 => Code::Sub_rm64_imm32,
        Code::Xor_AL_imm8 => Code::Xor_rm8_imm8,
        Code::Xor_AX_imm16 => Code::Xor_rm16_imm16,
        Code::Xor_EAX_imm32 => Code::Xor_rm32_imm32,
        Code::Xor_RAX_imm32 => Code::Xor_rm64_imm32,
        Code::Cmp_AL_imm8 => Code::Cmp_rm8_imm8,
        Code::Cmp_AX_imm16 => Code::Cmp_rm16_imm16,
        Code::Cmp_EAX_imm32 => Code::Cmp_rm32_imm32,
        Code::Cmp_RAX_imm32 => Code::Cmp_rm64_imm32,
        Code::Test_AL_imm8 => Code::Test_rm8_imm8,
        Code::Test_AX_imm16 => Code::Test_rm16_imm16,
        Code::Test_EAX_imm32 => Code::Test_rm32_imm32,
        Code::Test_RAX_imm32 => Code::Test_rm64_imm32,
        Code::Xchg_r16_AX => Code::Xchg_rm16_r16,
        Code::Xchg_r32_EAX => Code::Xchg_rm32_r32,
        Code::Xchg_r64_RAX => Code::Xchg_rm64_r64,
        other => other,
    };
    normal.set_code(code);
    normal
}

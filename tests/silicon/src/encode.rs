//! Random encodings: of a given form, and from nothing.

use crate::catalogue::{Catalogue, Form};
use crate::random::Random;
use iced_x86::{Decoder, DecoderOptions, Instruction, MandatoryPrefix, OpCodeTableKind};

/// The longest instruction.
pub const LENGTH_MAX: usize = 15;

/// Bytes that may begin an instruction, and what follows at random.
pub struct Candidate {
    /// The instruction's bytes and more.
    pub bytes: [u8; LENGTH_MAX],
    /// It as the decoder sees it at address 0.
    pub instruction: Instruction,
    /// It has a LOCK prefix that it must not have: #UD.
    pub wrong_lock: bool,
}

/// An instruction of the catalogue, half of the time by form and half of the time by chance.
pub fn candidate(r: &mut Random, catalogue: &Catalogue) -> Candidate {
    loop {
        let bits = catalogue.family.bits();
        let bytes = if r.permille(700) {
            let n = r.below(catalogue.forms.len() as u32) as usize;
            of_form(r, &catalogue.forms[n], bits)
        } else {
            by_chance(r, catalogue)
        };
        let mut wrong_lock = false;
        let mut instruction = decode(&bytes, bits, 0, false);
        if instruction.is_invalid() {
            instruction = decode(&bytes, bits, 0, true);
            // Anything that is invalid for another reason may mean something to this host.
            wrong_lock = instruction.has_lock_prefix() && !takes_lock(&instruction);
            if !wrong_lock || !r.permille(20) {
                continue;
            }
        }
        if catalogue.place(instruction.code()).is_some() && !has_vendor_prefix(&instruction, &bytes)
        {
            return Candidate { bytes, instruction, wrong_lock };
        }
    }
}

/// Decodes at an address.
pub fn decode(bytes: &[u8], bits: u32, ip: u64, lenient: bool) -> Instruction {
    let options = if lenient { DecoderOptions::NO_INVALID_CHECK } else { DecoderOptions::NONE };
    Decoder::with_ip(bits, bytes, ip, options).decode()
}

fn takes_lock(i: &Instruction) -> bool {
    i.op_code().can_use_lock_prefix() && i.op0_kind() == iced_x86::OpKind::Memory
}

/// Prefixes that the vendors read differently.
fn has_vendor_prefix(i: &Instruction, bytes: &[u8; LENGTH_MAX]) -> bool {
    use iced_x86::{FlowControl as F, Mnemonic as M};
    let wide = i.code_size() == iced_x86::CodeSize::Code64;
    let is_prefix = |byte: u8| is_prefix(byte) || wide && byte & 0xf0 == 0x40;
    let has = |wanted: u8| bytes.iter().take_while(|b| is_prefix(**b)).any(|b| *b == wanted);
    let is_branch = match i.flow_control() {
        F::ConditionalBranch
        | F::UnconditionalBranch
        | F::IndirectBranch
        | F::Call
        | F::IndirectCall
        | F::Return => true,
        F::Next | F::Interrupt | F::XbeginXabortXend | F::Exception => false,
    };
    // In 64-bit code Intel ignores 66h on a near branch, AMD makes the branch 16-bit.
    let narrow_branch = is_branch && wide && has(0x66);
    narrow_branch
        || match i.mnemonic() {
            // AMD takes the prefix, not the opcode, for the condition; Intel ignores the prefix.
            M::Loope | M::Loopne => has(0xf2) || has(0xf3),
            // With REX.B it exchanges with R8 on AMD; the decoder, after Intel, says PAUSE.
            M::Pause => wide && bytes.iter().any(|byte| *byte & 0xf1 == 0x41),
            _ => false,
        }
}

fn is_prefix(byte: u8) -> bool {
    matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3)
}

/// The bytes of an instruction and how many there are.
struct Bytes([u8; LENGTH_MAX], usize);

impl Bytes {
    fn push(&mut self, byte: u8) {
        if self.1 < LENGTH_MAX {
            self.0[self.1] = byte;
            self.1 += 1;
        }
    }
}

fn noise(r: &mut Random) -> Bytes {
    let mut bytes = [0; LENGTH_MAX];
    bytes[..8].copy_from_slice(&r.next().to_le_bytes());
    bytes[8..].copy_from_slice(&r.next().to_le_bytes()[..7]);
    Bytes(bytes, 0)
}

fn segment_prefix(r: &mut Random) -> u8 {
    r.pick(&[0x26, 0x2e, 0x36, 0x3e, 0x64, 0x64, 0x65, 0x65])
}

/// Probably the given form: the caller decodes to see.
fn of_form(r: &mut Random, form: &Form, bits: u32) -> [u8; LENGTH_MAX] {
    let info = form.info;
    let mut bytes = noise(r);
    if r.permille(100) {
        bytes.push(segment_prefix(r));
    }
    if info.address_size() != 0 && info.address_size() != bits || r.permille(60) {
        bytes.push(0x67);
    }
    if info.can_use_lock_prefix() && r.permille(250) || r.permille(3) {
        bytes.push(0xf0);
    }
    if info.can_use_rep_prefix() && r.permille(500) {
        bytes.push(0xf3);
    } else if info.can_use_repne_prefix() && r.permille(300) {
        bytes.push(0xf2);
    } else if r.permille(10) {
        bytes.push(r.pick(&[0xf2, 0xf3]));
    }
    if info.operand_size() == 16 || r.permille(15) {
        bytes.push(0x66);
    }
    match info.mandatory_prefix() {
        MandatoryPrefix::P66 => bytes.push(0x66),
        MandatoryPrefix::PF3 => bytes.push(0xf3),
        MandatoryPrefix::PF2 => bytes.push(0xf2),
        _ => {}
    }
    if bits == 64 {
        let wide = info.operand_size() == 64 && !info.default_op_size64() || info.w() == 1;
        if wide || r.permille(500) {
            let others = r.below(8) as u8 | (r.permille(50) as u8) << 3;
            bytes.push(0x40 | (wide as u8) << 3 | others);
        }
    }
    match info.table() {
        OpCodeTableKind::T0F => bytes.push(0x0f),
        OpCodeTableKind::T0F38 => {
            bytes.push(0x0f);
            bytes.push(0x38);
        }
        OpCodeTableKind::T0F3A => {
            bytes.push(0x0f);
            bytes.push(0x3a);
        }
        _ => {}
    }
    let mut opcode = info.op_code();
    if form.register_in_opcode {
        opcode = opcode & !7 | r.below(8);
    }
    if info.op_code_len() == 2 {
        bytes.push((opcode >> 8) as u8);
    }
    bytes.push(opcode as u8);
    modrm(r, form, &mut bytes);
    bytes.0
}

/// Shapes the ModRM byte if there is one; its bits are random where nothing is asked.
fn modrm(r: &mut Random, form: &Form, bytes: &mut Bytes) {
    let info = form.info;
    let at = bytes.1;
    if at >= LENGTH_MAX || !(info.is_group() || info.is_rm_group()) {
        return;
    }
    let mut byte = bytes.0[at];
    if info.is_group() {
        byte = byte & !0x38 | (info.group_index() as u8) << 3;
    }
    if info.is_rm_group() {
        byte = byte & !7 | info.rm_group_index() as u8 | 0xc0;
    } else if r.permille(300) {
        byte |= 0xc0;
    }
    bytes.0[at] = byte;
}

/// Random bytes with a shape that makes instructions of the family likely.
fn by_chance(r: &mut Random, catalogue: &Catalogue) -> [u8; LENGTH_MAX] {
    let mut bytes = noise(r);
    while r.permille(250) {
        let other = segment_prefix(r);
        bytes.push(r.pick(&[0x66, 0x66, 0x67, 0xf2, 0xf3, 0xf0, other]));
    }
    let bits = catalogue.family.bits();
    if bits == 64 && r.permille(500) {
        bytes.push(0x40 | r.below(16) as u8);
    }
    use crate::family::Family as F;
    match catalogue.family {
        F::Integer64 | F::Integer32 => {
            if r.permille(350) {
                bytes.push(0x0f);
            }
        }
        F::X87Mmx64 | F::X87Mmx32 => {
            if r.permille(600) {
                bytes.push(0xd8 + r.below(8) as u8);
            } else {
                bytes.push(0x0f);
            }
        }
        F::Sse64 | F::Sse32 => {
            bytes.push(0x0f);
            if r.permille(300) {
                bytes.push(r.pick(&[0x38, 0x3a]));
            }
        }
    }
    bytes.0
}

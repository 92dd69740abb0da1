//! From a decoded instruction to a handler and its operands.

use super::fused::Comparison;
use super::{ANYWHERE, BASED, REGISTER, alu, branch, nop, packed, shift, simd, stack, transfer};
use crate::code::{Handler, NO_SEGMENT, Op};
use crate::cpu::{PAGE_REG, ZERO_REG};
use iced_x86::{Code, ConditionCode, Instruction, Mnemonic, OpKind, Register};

/// What decoding depends on besides the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mode {
    /// 64-bit mode; flat 32-bit protected mode otherwise.
    pub(crate) wide: bool,
    /// SSE instructions need no check.
    pub(crate) sse: bool,
}

impl Mode {
    /// The mode as part of a block's key.
    pub(crate) fn bits(self) -> u8 {
        u8::from(self.wide) | u8::from(self.sse) << 1
    }

    /// What [`Mode::bits`] was made of.
    pub(crate) fn of_bits(bits: u8) -> Mode {
        Mode { wide: bits & 1 != 0, sse: bits & 2 != 0 }
    }

    /// Decoder bitness.
    pub(crate) fn bitness(self) -> u32 {
        if self.wide { 64 } else { 32 }
    }
}

/// A handler's operation, and whether it ends a block with link slots.
pub(crate) struct Selected {
    pub(crate) op: Op,
    pub(super) links: bool,
    pub(super) ends: bool,
    /// What a conditional jump right after it could be fused with.
    pub(super) comparison: Option<Comparison>,
    /// The condition, if it is a conditional jump.
    pub(super) condition: Option<u8>,
}

impl Selected {
    /// An operation that ends a block.
    fn last(op: Op, links: bool) -> Selected {
        Selected { op, links, ends: true, comparison: None, condition: None }
    }
}

/// What an operand is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reg,
    Mem,
    Imm,
    Other,
}

fn kind(i: &Instruction, n: u32) -> Kind {
    if n >= i.op_count() {
        return Kind::Other;
    }
    match i.op_kind(n) {
        OpKind::Register => Kind::Reg,
        OpKind::Memory => Kind::Mem,
        OpKind::Immediate8
        | OpKind::Immediate16
        | OpKind::Immediate32
        | OpKind::Immediate64
        | OpKind::Immediate8to16
        | OpKind::Immediate8to32
        | OpKind::Immediate8to64
        | OpKind::Immediate32to64 => Kind::Imm,
        _ => Kind::Other,
    }
}

/// Index of a general register that can be read and written as the low bytes of its full register;
/// AH, CH, DH and BH cannot.
pub(crate) fn general(register: Register) -> Option<u8> {
    let whole = register.is_gpr() && high_byte(register).is_none();
    whole.then(|| register.full_register().number() as u8)
}

/// Index of the full register of AH, CH, DH or BH.
fn high_byte(register: Register) -> Option<u8> {
    let high = matches!(register, Register::AH | Register::BH | Register::CH | Register::DH);
    high.then(|| (register as usize - Register::AH as usize) as u8)
}

fn xmm(register: Register) -> Option<u8> {
    register.is_xmm().then(|| register.number() as u8)
}

/// Where an operation's memory operand lies, once [`memory`] has filled it in.
fn place(op: &Op, mode: Mode) -> u8 {
    let based = mode.wide && op.index == ZERO_REG && op.segment == NO_SEGMENT;
    if based { BASED } else { ANYWHERE }
}

fn place_if(in_memory: bool, op: &Op, mode: Mode) -> u8 {
    if in_memory { place(op, mode) } else { REGISTER }
}

/// Fills in the memory operand; `None` if only the reference semantics can compute it.
fn memory(op: &mut Op, i: &Instruction, mode: Mode) -> Option<()> {
    op.segment = match i.memory_segment() {
        Register::FS | Register::GS if !mode.wide => return None,
        // Never writable.
        Register::CS if !mode.wide => return None,
        Register::FS => 4,
        Register::GS => 5,
        _ => NO_SEGMENT,
    };
    if i.is_ip_rel_memory_operand() {
        if i.memory_base() != Register::RIP {
            return None;
        }
        op.base = PAGE_REG;
        op.disp = i32::try_from(i.ip_rel_memory_address() as i64).ok()?;
        return Some(());
    }
    let size = if mode.wide { 8 } else { 4 };
    for register in [i.memory_base(), i.memory_index()] {
        if register != Register::None && register.size() != size {
            return None;
        }
    }
    if let Some(base) = general(i.memory_base()) {
        op.base = base;
    }
    if let Some(index) = general(i.memory_index()) {
        op.index = index;
        op.scale = i.memory_index_scale().trailing_zeros() as u8;
    }
    let displacement = i.memory_displacement64();
    op.disp = if mode.wide {
        // An address without registers and with the 67h prefix wraps at 32 bits.
        let plain = i.memory_base() != Register::None || i.memory_index() != Register::None;
        if !plain && i.memory_displ_size() != 8 {
            return None;
        }
        i32::try_from(displacement as i64).ok()?
    } else {
        if i.memory_displ_size() == 2 {
            return None;
        }
        displacement as u32 as i32
    };
    Some(())
}

/// The condition code number of a Jcc, SETcc or CMOVcc.
pub(crate) fn condition(i: &Instruction) -> Option<u8> {
    Some(match i.condition_code() {
        ConditionCode::None => return None,
        ConditionCode::o => 0,
        ConditionCode::no => 1,
        ConditionCode::b => 2,
        ConditionCode::ae => 3,
        ConditionCode::e => 4,
        ConditionCode::ne => 5,
        ConditionCode::be => 6,
        ConditionCode::a => 7,
        ConditionCode::s => 8,
        ConditionCode::ns => 9,
        ConditionCode::p => 10,
        ConditionCode::np => 11,
        ConditionCode::l => 12,
        ConditionCode::ge => 13,
        ConditionCode::le => 14,
        ConditionCode::g => 15,
    })
}

/// Finds the handler of an instruction, or `None` for the reference semantics.
pub(super) fn select(i: &Instruction, mode: Mode) -> Option<Selected> {
    let mut op = Op::new(nop);
    let selected = |handler: Handler, op: &mut Op| {
        op.handler = handler;
    };
    let mut comparison = None;
    match i.mnemonic() {
        Mnemonic::Nop | Mnemonic::Endbr64 | Mnemonic::Endbr32 | Mnemonic::Pause => {}
        Mnemonic::Add => comparison = two_operands(&mut op, i, mode, alu::ADD)?,
        Mnemonic::Or => comparison = two_operands(&mut op, i, mode, alu::OR)?,
        Mnemonic::Adc => comparison = two_operands(&mut op, i, mode, alu::ADC)?,
        Mnemonic::Sbb => comparison = two_operands(&mut op, i, mode, alu::SBB)?,
        Mnemonic::And => comparison = two_operands(&mut op, i, mode, alu::AND)?,
        Mnemonic::Sub => comparison = two_operands(&mut op, i, mode, alu::SUB)?,
        Mnemonic::Xor => comparison = two_operands(&mut op, i, mode, alu::XOR)?,
        Mnemonic::Cmp => comparison = two_operands(&mut op, i, mode, alu::CMP)?,
        Mnemonic::Test => comparison = two_operands(&mut op, i, mode, alu::TEST)?,
        Mnemonic::Mov => comparison = two_operands(&mut op, i, mode, alu::MOV)?,
        Mnemonic::Inc => one_operand(&mut op, i, mode, alu::INC)?,
        Mnemonic::Dec => one_operand(&mut op, i, mode, alu::DEC)?,
        Mnemonic::Not => one_operand(&mut op, i, mode, alu::NOT)?,
        Mnemonic::Neg => one_operand(&mut op, i, mode, alu::NEG)?,
        Mnemonic::Imul => multiply(&mut op, i, mode)?,
        Mnemonic::Shl => shifts(&mut op, i, shift::SHL)?,
        Mnemonic::Shr => shifts(&mut op, i, shift::SHR)?,
        Mnemonic::Sar => shifts(&mut op, i, shift::SAR)?,
        Mnemonic::Rol => shifts(&mut op, i, shift::ROL)?,
        Mnemonic::Ror => shifts(&mut op, i, shift::ROR)?,
        Mnemonic::Lea => {
            op.dst = general(i.op0_register())?;
            memory(&mut op, i, mode)?;
            // LEA takes no segment base.
            op.segment = NO_SEGMENT;
            selected(
                transfer::load_address(i.op0_register().size() as u64, place(&op, mode)),
                &mut op,
            );
        }
        Mnemonic::Movzx | Mnemonic::Movsx | Mnemonic::Movsxd => extending_move(&mut op, i, mode)?,
        Mnemonic::Xchg if kind(i, 0) == Kind::Reg && kind(i, 1) == Kind::Reg => {
            op.dst = general(i.op0_register())?;
            op.src = general(i.op1_register())?;
            selected(transfer::exchange_registers(i.op0_register().size() as u64), &mut op);
        }
        Mnemonic::Cbw => selected(transfer::widen_accumulator(2), &mut op),
        Mnemonic::Cwde => selected(transfer::widen_accumulator(4), &mut op),
        Mnemonic::Cdqe => selected(transfer::widen_accumulator(8), &mut op),
        Mnemonic::Cwd => selected(transfer::accumulator_sign(2), &mut op),
        Mnemonic::Cdq => selected(transfer::accumulator_sign(4), &mut op),
        Mnemonic::Cqo => selected(transfer::accumulator_sign(8), &mut op),
        Mnemonic::Bswap if i.op0_register().size() >= 4 => {
            op.dst = general(i.op0_register())?;
            selected(transfer::swap_bytes(i.op0_register().size() as u64), &mut op);
        }
        Mnemonic::Bt if kind(i, 0) == Kind::Reg => {
            op.dst = general(i.op0_register())?;
            let immediate = kind(i, 1) == Kind::Imm;
            if immediate {
                op.imm = i.immediate(1);
            } else {
                op.src = general(i.op1_register())?;
            }
            selected(alu::bit_test(i.op0_register().size() as u64, immediate), &mut op);
        }
        Mnemonic::Push => push(&mut op, i, mode)?,
        Mnemonic::Pop => {
            if kind(i, 0) != Kind::Reg || i.op0_register().size() != word(mode) {
                return None;
            }
            op.dst = general(i.op0_register())?;
            selected(stack::pop_register(mode.wide), &mut op);
        }
        Mnemonic::Leave if i.stack_pointer_increment() == 0 && is_natural_leave(i, mode) => {
            selected(stack::leave_frame(mode.wide), &mut op);
        }
        Mnemonic::Jmp | Mnemonic::Call | Mnemonic::Ret => return near_branch(op, i, mode),
        _ if i.is_jcc_short_or_near() => {
            op.imm = branch_offset(i, mode)?;
            let condition = condition(i)?;
            op.handler = branch::conditional(condition);
            return Some(Selected { condition: Some(condition), ..Selected::last(op, true) });
        }
        _ if condition(i).is_some() => conditional(&mut op, i, mode)?,
        _ if mode.sse => sse(&mut op, i, mode)?,
        _ => return None,
    }
    Some(Selected { op, links: false, ends: false, comparison, condition: None })
}

/// Bytes of a stack slot and of an address in the mode.
fn word(mode: Mode) -> usize {
    if mode.wide { 8 } else { 4 }
}

fn is_natural_leave(i: &Instruction, mode: Mode) -> bool {
    i.code() == if mode.wide { Code::Leaveq } else { Code::Leaved }
}

/// `None` within if no jump can be fused with it.
fn two_operands(op: &mut Op, i: &Instruction, mode: Mode, which: u8) -> Option<Option<Comparison>> {
    if let (Some(full), Kind::Imm) = (high_byte(i.op0_register()), kind(i, 1)) {
        op.dst = full;
        op.imm = crate::flags::zero_extend(i.immediate(1), 1);
        op.handler = alu::high_byte_immediate(which);
        return Some(None);
    }
    let (form, size) = match (kind(i, 0), kind(i, 1)) {
        (Kind::Reg, Kind::Reg) => (alu::REG_REG, i.op0_register().size()),
        (Kind::Reg, Kind::Mem) => (alu::REG_MEM, i.op0_register().size()),
        (Kind::Mem, Kind::Reg) => (alu::MEM_REG, i.op1_register().size()),
        (Kind::Reg, Kind::Imm) => (alu::REG_IMM, i.op0_register().size()),
        (Kind::Mem, Kind::Imm) => (alu::MEM_IMM, i.memory_size().size()),
        _ => return None,
    };
    if kind(i, 0) == Kind::Reg {
        op.dst = general(i.op0_register())?;
    }
    match kind(i, 1) {
        Kind::Reg => op.src = general(i.op1_register())?,
        Kind::Imm => op.imm = i.immediate(1),
        _ => {}
    }
    if form == alu::REG_MEM || form == alu::MEM_REG || form == alu::MEM_IMM {
        memory(op, i, mode)?;
    }
    if form == alu::REG_IMM || form == alu::MEM_IMM {
        op.imm = crate::flags::zero_extend(op.imm, size as u32);
    }
    // TEST reg, mem is encoded mem, reg; reading either way is the same.
    let (size, place) = (size as u64, place(op, mode));
    op.handler = alu::two_operands(which, size, form, place);
    Some(Some(Comparison { op: which, size, form, place }))
}

fn one_operand(op: &mut Op, i: &Instruction, mode: Mode, which: u8) -> Option<()> {
    let in_memory = kind(i, 0) == Kind::Mem;
    let size = if in_memory {
        memory(op, i, mode)?;
        i.memory_size().size()
    } else {
        op.dst = general(i.op0_register())?;
        i.op0_register().size()
    };
    op.handler = alu::one_operand(which, size as u64, place_if(in_memory, op, mode));
    Some(())
}

fn multiply(op: &mut Op, i: &Instruction, mode: Mode) -> Option<()> {
    if i.op_count() < 2 {
        return None;
    }
    op.dst = general(i.op0_register())?;
    let in_memory = kind(i, 1) == Kind::Mem;
    if in_memory {
        memory(op, i, mode)?;
    } else {
        op.src = general(i.op1_register())?;
    }
    let immediate = i.op_count() == 3;
    if immediate {
        op.imm = i.immediate(2);
    }
    op.handler = alu::signed_multiply(
        i.op0_register().size() as u64,
        place_if(in_memory, op, mode),
        immediate,
    );
    Some(())
}

fn shifts(op: &mut Op, i: &Instruction, which: u8) -> Option<()> {
    if kind(i, 0) != Kind::Reg || i.op0_register().size() < 4 {
        return None;
    }
    op.dst = general(i.op0_register())?;
    let by_cl = kind(i, 1) == Kind::Reg;
    if !by_cl {
        op.imm = i.immediate(1);
    }
    op.handler = shift::shift_register(which, i.op0_register().size() as u64, by_cl);
    Some(())
}

fn extending_move(op: &mut Op, i: &Instruction, mode: Mode) -> Option<()> {
    op.dst = general(i.op0_register())?;
    if let (Some(full), Mnemonic::Movzx) = (high_byte(i.op1_register()), i.mnemonic()) {
        op.src = full;
        op.handler = transfer::high_byte_extension(i.op0_register().size() as u64);
        return Some(());
    }
    let in_memory = kind(i, 1) == Kind::Mem;
    let from = if in_memory {
        memory(op, i, mode)?;
        i.memory_size().size()
    } else {
        op.src = general(i.op1_register())?;
        i.op1_register().size()
    };
    let to = i.op0_register().size();
    let signed = i.mnemonic() != Mnemonic::Movzx;
    if from == to || from == 4 && !signed {
        return None;
    }
    op.handler =
        transfer::extending_move(from as u64, to as u64, signed, place_if(in_memory, op, mode));
    Some(())
}

fn push(op: &mut Op, i: &Instruction, mode: Mode) -> Option<()> {
    if i.stack_pointer_increment() != -(word(mode) as i32) {
        return None;
    }
    op.handler = match kind(i, 0) {
        Kind::Reg => {
            op.dst = general(i.op0_register())?;
            stack::push_register(mode.wide)
        }
        Kind::Imm => {
            op.imm = i.immediate(0);
            stack::push_immediate(mode.wide)
        }
        Kind::Mem => {
            memory(op, i, mode)?;
            stack::push_memory(mode.wide, place(op, mode))
        }
        Kind::Other => return None,
    };
    Some(())
}

/// Target of a direct branch relative to the page, if it has the mode's own operand size.
fn branch_offset(i: &Instruction, mode: Mode) -> Option<u64> {
    match (i.op0_kind(), mode.wide) {
        (OpKind::NearBranch64, true) | (OpKind::NearBranch32, false) => {
            Some(i.near_branch_target())
        }
        _ => None,
    }
}

fn near_branch(mut op: Op, i: &Instruction, mode: Mode) -> Option<Selected> {
    let is_call = i.mnemonic() == Mnemonic::Call;
    if i.mnemonic() == Mnemonic::Ret {
        let natural = matches!(
            (i.code(), mode.wide),
            (Code::Retnq | Code::Retnq_imm16, true) | (Code::Retnd | Code::Retnd_imm16, false)
        );
        if !natural {
            return None;
        }
        op.imm = if i.op_count() == 1 { i.immediate(0) & 0xffff } else { 0 };
        op.handler = branch::near_return(mode.wide);
        return Some(Selected::last(op, false));
    }
    if i.is_call_near() || i.is_jmp_short_or_near() {
        op.imm = branch_offset(i, mode)?;
        op.handler = if is_call { branch::near_call(mode.wide) } else { branch::jmp };
        return Some(Selected::last(op, true));
    }
    if !(i.is_call_near_indirect() || i.is_jmp_near_indirect()) {
        return None;
    }
    let in_memory = kind(i, 0) == Kind::Mem;
    let size = if in_memory {
        memory(&mut op, i, mode)?;
        i.memory_size().size()
    } else {
        op.dst = general(i.op0_register())?;
        i.op0_register().size()
    };
    if size != word(mode) {
        return None;
    }
    op.handler = if is_call {
        branch::indirect_call(mode.wide, place_if(in_memory, &op, mode))
    } else {
        branch::indirect_jump(mode.wide, place_if(in_memory, &op, mode))
    };
    Some(Selected::last(op, false))
}

/// CMOVcc and SETcc.
fn conditional(op: &mut Op, i: &Instruction, mode: Mode) -> Option<()> {
    use iced_x86::FlowControl;
    if i.flow_control() != FlowControl::Next {
        return None;
    }
    op.imm = condition(i)?.into();
    if i.op_count() == 1 {
        let in_memory = kind(i, 0) == Kind::Mem;
        if in_memory {
            memory(op, i, mode)?;
        } else {
            op.dst = general(i.op0_register())?;
        }
        op.handler = alu::conditional_set(place_if(in_memory, op, mode));
        return Some(());
    }
    op.dst = general(i.op0_register())?;
    let in_memory = kind(i, 1) == Kind::Mem;
    if in_memory {
        memory(op, i, mode)?;
    } else {
        op.src = general(i.op1_register())?;
    }
    op.handler =
        alu::conditional_move(i.op0_register().size() as u64, place_if(in_memory, op, mode));
    Some(())
}

fn sse(op: &mut Op, i: &Instruction, mode: Mode) -> Option<()> {
    let logic = |which| (which, true);
    let (which, is_logic) = match i.mnemonic() {
        Mnemonic::Movups | Mnemonic::Movupd | Mnemonic::Movdqu | Mnemonic::Lddqu => {
            return whole_move(op, i, mode, false);
        }
        Mnemonic::Movaps | Mnemonic::Movapd | Mnemonic::Movdqa => {
            return whole_move(op, i, mode, true);
        }
        Mnemonic::Movq | Mnemonic::Movd | Mnemonic::Movss | Mnemonic::Movsd => {
            return scalar_move(op, i, mode);
        }
        Mnemonic::Pand | Mnemonic::Andps | Mnemonic::Andpd => logic(simd::AND),
        Mnemonic::Por | Mnemonic::Orps | Mnemonic::Orpd => logic(simd::OR),
        Mnemonic::Pxor | Mnemonic::Xorps | Mnemonic::Xorpd => logic(simd::XOR),
        Mnemonic::Pandn | Mnemonic::Andnps | Mnemonic::Andnpd => logic(simd::AND_NOT),
        _ => (0, false),
    };
    if !is_logic {
        return packed_integer(op, i, mode);
    }
    op.dst = xmm(i.op0_register())?;
    let in_memory = kind(i, 1) == Kind::Mem;
    if in_memory {
        memory(op, i, mode)?;
    } else {
        op.src = xmm(i.op1_register())?;
    }
    op.handler = simd::logic_operation(which, place_if(in_memory, op, mode));
    Some(())
}

fn packed_integer(op: &mut Op, i: &Instruction, mode: Mode) -> Option<()> {
    if matches!(i.code(), Code::Pmovmskb_r32_xmm | Code::Pmovmskb_r64_xmm) {
        op.dst = general(i.op0_register())?;
        op.src = xmm(i.op1_register())?;
        op.handler = packed::BYTE_MASK;
        return Some(());
    }
    op.dst = xmm(i.op0_register())?;
    if i.op_count() == 3 || kind(i, 1) == Kind::Imm {
        op.imm = i.immediate8().into();
    }
    if kind(i, 1) == Kind::Imm {
        op.handler = packed::immediate_shift(i.code())?;
        return Some(());
    }
    let in_memory = kind(i, 1) == Kind::Mem;
    if in_memory {
        memory(op, i, mode)?;
    } else {
        op.src = xmm(i.op1_register())?;
    }
    op.handler = packed::two_operands(i.code(), place_if(in_memory, op, mode))?;
    Some(())
}

fn whole_move(op: &mut Op, i: &Instruction, mode: Mode, aligned: bool) -> Option<()> {
    match (kind(i, 0), kind(i, 1)) {
        (Kind::Reg, Kind::Reg) => {
            op.dst = xmm(i.op0_register())?;
            op.src = xmm(i.op1_register())?;
            op.handler = simd::MOVE_REGISTER;
        }
        (Kind::Reg, Kind::Mem) => {
            op.dst = xmm(i.op0_register())?;
            memory(op, i, mode)?;
            op.handler = simd::load_whole(aligned, place(op, mode));
        }
        (Kind::Mem, Kind::Reg) => {
            op.src = xmm(i.op1_register())?;
            memory(op, i, mode)?;
            op.handler = simd::store_whole(aligned, place(op, mode));
        }
        _ => return None,
    }
    Some(())
}

/// MOVQ, MOVD, MOVSS and MOVSD (the SSE2 one) to and from memory; MOVQ and MOVD also to and from
/// general registers.
fn scalar_move(op: &mut Op, i: &Instruction, mode: Mode) -> Option<()> {
    let (to, from) = (kind(i, 0), kind(i, 1));
    match (to, from) {
        (Kind::Reg, Kind::Mem) => {
            op.dst = xmm(i.op0_register())?;
            memory(op, i, mode)?;
            op.handler = simd::load_low(i.memory_size().size() as u64, place(op, mode));
        }
        (Kind::Mem, Kind::Reg) => {
            op.src = xmm(i.op1_register())?;
            memory(op, i, mode)?;
            op.handler = simd::store_low(i.memory_size().size() as u64, place(op, mode));
        }
        (Kind::Reg, Kind::Reg) if i.op0_register().is_xmm() && i.op1_register().is_gpr() => {
            op.dst = xmm(i.op0_register())?;
            op.src = general(i.op1_register())?;
            op.handler = simd::general_to_xmm(i.op1_register().size() as u64);
        }
        (Kind::Reg, Kind::Reg) if i.op0_register().is_gpr() && i.op1_register().is_xmm() => {
            op.dst = general(i.op0_register())?;
            op.src = xmm(i.op1_register())?;
            op.handler = simd::xmm_to_general(i.op0_register().size() as u64);
        }
        _ => return None,
    }
    Some(())
}

//! Tests and batches of them: everything follows from family, seed and batch number.

use crate::arrange::{self, Access, Arrangement, BIT_OFFSET_MAX};
use crate::catalogue::Catalogue;
use crate::emulated::Step;
use crate::encode::{self, Candidate, LENGTH_MAX};
use crate::family::Family;
use crate::layout::{self, DATA_PAGE, FILL, PAGE, PageUse, SLOT_BYTES, address};
use crate::random::Random;
use crate::shared::{CASES, Case, WINDOWS, Window};
use crate::values;
use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, MemorySize,
    Mnemonic, OpKind, Register,
};

/// One test.
#[derive(Clone)]
pub struct Test {
    /// The instruction's bytes.
    pub bytes: [u8; LENGTH_MAX],
    /// It, as decoded at its address.
    pub instruction: Instruction,
    /// It has a LOCK prefix that it must not have.
    pub wrong_lock: bool,
    /// Where its memory operands are.
    pub accesses: Vec<Access>,
    /// Registers and memory.
    pub case: Case,
}

impl Test {
    /// The instruction's bytes.
    pub fn code(&self) -> &[u8] {
        &self.bytes[..self.case.length as usize]
    }
}

/// Tests that run on the same contents of the region.
pub struct Batch {
    /// What they test.
    pub family: Family,
    /// The whole campaign's seed.
    pub seed: u64,
    /// Which batch of the campaign.
    pub number: u64,
    /// What the software CPU runs it with.
    pub step: Step,
    /// The region's bytes: code, and data before every case.
    pub region: Vec<u8>,
    /// The tests.
    pub tests: Vec<Test>,
    /// Operands to be put into memory.
    pub pokes: Vec<u8>,
}

/// Places for instructions that are still free in a batch.
struct Places {
    slots: u32,
    ends: u32,
    cells: u32,
    /// Lowest offset in the next slot that the previous one leaves free.
    free_from: u32,
}

impl Batch {
    /// Makes a batch.
    pub fn new(catalogue: &Catalogue, step: Step, seed: u64, number: u64) -> Batch {
        let family = catalogue.family;
        let mut r = Random::new(&[seed, family as u64, number]);
        let mut batch = Batch {
            family,
            seed,
            number,
            step,
            region: vec![FILL; (layout::REGION_PAGES * PAGE) as usize],
            tests: Vec::with_capacity(CASES),
            pokes: Vec::new(),
        };
        for page in layout::DATA_PAGES {
            let at = (page * PAGE) as usize;
            for lane in batch.region[at..at + PAGE as usize].as_chunks_mut::<16>().0 {
                *lane = values::vector(&mut r);
            }
        }
        let mut places = Places { slots: 0, ends: 0, cells: 0, free_from: 0 };
        let mut captures = 0;
        let mut factory = InstructionInfoFactory::new();
        while batch.tests.len() < CASES {
            let candidate = encode::candidate(&mut r, catalogue);
            batch.add(&mut r, &mut places, &mut captures, &mut factory, candidate);
        }
        batch
    }

    /// A batch of one of the tests.
    pub fn only(&self, n: usize) -> Batch {
        Batch {
            region: self.region.clone(),
            tests: vec![self.tests[n].clone()],
            pokes: self.pokes.clone(),
            ..*self
        }
    }

    fn add(
        &mut self,
        r: &mut Random,
        places: &mut Places,
        captures: &mut u32,
        factory: &mut InstructionInfoFactory,
        candidate: Candidate,
    ) -> Option<()> {
        let Candidate { mut bytes, instruction, wrong_lock } = candidate;
        let bits = self.family.bits();
        let length = instruction.len();
        let entry = places.choose(r, &instruction)?;
        patch(r, &mut bytes, &instruction, entry, bits);
        let instruction = encode::decode(&bytes[..length], bits, entry.into(), wrong_lock);
        if instruction.is_invalid() || instruction.len() != length {
            return None;
        }
        if !branch_is_safe(&instruction, entry) {
            return None;
        }
        let mut case = self.registers(r, &instruction);
        case.entry = entry.into();
        case.length = length as u32;
        let accesses = self.operands(r, factory, &instruction, &mut case)?;
        let reach = arrange::reach(&instruction, case.gpr[1]);
        let before = *captures;
        let (windows, window) = arrange::windows(&accesses, reach, captures)?;
        if *captures as usize > CASES * 2048 {
            *captures = before;
            return None;
        }
        (case.windows, case.window) = (windows, window);
        self.poke(r, &instruction, &accesses, &mut case);
        let at = (entry - layout::REGION) as usize;
        self.region[at..at + length].copy_from_slice(&bytes[..length]);
        self.way_home(at + length, bits);
        places.take(entry, length as u32);
        self.tests.push(Test { bytes, instruction, wrong_lock, accesses, case });
        Some(())
    }

    /// Puts the jump to the stub after an instruction, unless a hole is there.
    fn way_home(&mut self, at: usize, bits: u32) {
        if layout::use_of(u64::from(layout::REGION) + at as u64) != PageUse::Code {
            return;
        }
        let stub = address(layout::STUB_PAGE) + if bits == 64 { 0 } else { layout::STUB_32 };
        let next = layout::REGION + at as u32 + 5;
        self.region[at] = 0xe9;
        self.region[at + 1..at + 5].copy_from_slice(&stub.wrapping_sub(next).to_le_bytes());
    }

    fn registers(&self, r: &mut Random, i: &Instruction) -> Case {
        let mut case = Case {
            fx: [0; 512],
            gpr: std::array::from_fn(|_| values::integer(r)),
            rflags: 0x202 | r.next() & 0x8d5,
            entry: 0,
            length: 0,
            poke_at: 0,
            poke_len: 0,
            poke_from: 0,
            windows: 0,
            window: [Window::default(); WINDOWS],
        };
        if r.permille(250) {
            case.rflags |= 1 << 10;
        }
        if self.family.bits() == 32 {
            for value in &mut case.gpr[..8] {
                *value &= 0xffff_ffff;
            }
            case.gpr[8..].fill(0);
        }
        if self.family.has_fx() {
            fill_fx(r, self.family, &mut case.fx, i);
        }
        case
    }

    /// Chooses registers with a meaning, and places the memory operands.
    fn operands(
        &self,
        r: &mut Random,
        factory: &mut InstructionInfoFactory,
        i: &Instruction,
        case: &mut Case,
    ) -> Option<Vec<Access>> {
        let bits = self.family.bits();
        let mut fixed = 0u16;
        if i.is_string_instruction() && (i.has_rep_prefix() || i.has_repne_prefix()) {
            case.gpr[1] = u64::from(r.below(17));
            fixed |= 1 << 1;
        }
        match i.mnemonic() {
            Mnemonic::Div | Mnemonic::Idiv if r.permille(800) => {
                case.gpr[2] = if r.permille(500) {
                    (case.gpr[0] as i64 >> 63) as u64
                } else {
                    u64::from(r.below(4))
                };
                if bits == 32 {
                    case.gpr[2] &= 0xffff_ffff;
                }
                let high = if r.permille(500) { 0 } else { r.below(4) as u64 };
                if i.op0_kind() == OpKind::Register && i.op0_register().size() == 1
                    || i.memory_size().size() == 1
                {
                    case.gpr[0] = case.gpr[0] & !0xff00 | high << 8;
                }
            }
            Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
                if i.op0_kind() == OpKind::Memory && i.op1_kind() == OpKind::Register =>
            {
                let n = i.op1_register().full_register().number() & 15;
                let offset = u64::from(r.below(2 * BIT_OFFSET_MAX as u32));
                case.gpr[n] = offset.wrapping_sub(BIT_OFFSET_MAX);
                if bits == 32 {
                    case.gpr[n] &= 0xffff_ffff;
                }
                fixed |= 1 << n;
            }
            Mnemonic::Enter => {
                let page = u64::from(address(layout::STACK_PAGE));
                case.gpr[4] = page + 0xa00 + 8 * u64::from(r.below(64));
                case.gpr[5] = page + 0xa00 + u64::from(r.below(512));
                fixed |= 1 << 4 | 1 << 5;
            }
            _ => {}
        }
        let is_indirect =
            matches!(i.flow_control(), FlowControl::IndirectBranch | FlowControl::IndirectCall);
        if is_indirect && i.op0_kind() == OpKind::Register {
            let n = i.op0_register().full_register().number() & 15;
            case.gpr[n] = branch_target(r, bits);
            fixed |= 1 << n;
        }
        let mut arrangement = Arrangement { r, bits, gpr: &mut case.gpr, fixed };
        let accesses = arrangement.place(i, factory);
        // The bit offset may not have been free; then the reach is not what `reach` says.
        if fixed & !arrangement.fixed != 0 || bit_offset_clashes(i) {
            return None;
        }
        Some(accesses)
    }

    /// Puts a chosen operand into memory.
    fn poke(&mut self, r: &mut Random, i: &Instruction, accesses: &[Access], case: &mut Case) {
        let Some(access) = accesses.first() else { return };
        let is_branch = !matches!(i.flow_control(), FlowControl::Next);
        let size = match i.flow_control() {
            FlowControl::Return if self.family.bits() == 64 => 8,
            FlowControl::Return => 4,
            _ => access.size.min(32),
        };
        let last = access.at.wrapping_add(u64::from(size) - 1);
        let writable = |at| layout::use_of(at) == PageUse::ReadWrite;
        if !writable(access.at) || !writable(last) || (!is_branch && r.permille(100)) {
            return;
        }
        let mut value = [0u8; 32];
        if is_branch {
            value[..8].copy_from_slice(&branch_target(r, self.family.bits()).to_le_bytes());
        } else {
            memory_value(r, i, self.family, &case.gpr, &mut value);
        }
        case.poke_at = access.at as u32;
        case.poke_len = size;
        case.poke_from = self.pokes.len() as u32;
        self.pokes.extend_from_slice(&value[..size as usize]);
    }
}

impl Places {
    fn choose(&mut self, r: &mut Random, i: &Instruction) -> Option<u32> {
        let length = i.len() as u32;
        if i.flow_control() != FlowControl::Next && i.flow_control() != FlowControl::Exception {
            if self.cells == layout::BRANCH_CELLS {
                return None;
            }
            let cell = address(layout::BRANCH_PAGE) + self.cells * layout::BRANCH_CELL_BYTES;
            return Some(cell + layout::BRANCH_CELL_BYTES / 2 - 32 + r.below(64));
        }
        if self.ends < layout::END_PAGES && r.permille(16) {
            let end = address(layout::END_PAGE + 2 * self.ends) + PAGE;
            // Now and then the instruction's last bytes are missing.
            let over = if r.permille(300) { r.below(length) } else { 0 };
            return Some(end - length + over);
        }
        let slot = address(layout::SLOT_PAGE) + self.slots * SLOT_BYTES;
        let last_in_page = (self.slots + 1).is_multiple_of(PAGE / SLOT_BYTES);
        let last_slot = self.slots + 1 == layout::SLOT_PAGES * PAGE / SLOT_BYTES;
        let space = if last_in_page && !last_slot { SLOT_BYTES } else { SLOT_BYTES - length - 5 };
        let span = space.saturating_sub(self.free_from);
        (span > 0).then(|| slot + self.free_from + r.below(span))
    }

    fn take(&mut self, entry: u32, length: u32) {
        let page = (entry - layout::REGION) / PAGE;
        if page >= layout::BRANCH_PAGE {
            self.cells += 1;
        } else if page >= layout::END_PAGE {
            self.ends += 1;
        } else {
            let end = entry + length + 5;
            self.slots += 1;
            let next = address(layout::SLOT_PAGE) + self.slots * SLOT_BYTES;
            self.free_from = end.saturating_sub(next);
        }
    }
}

/// Where a branch may go: a page of breakpoints, a hole, or out of this world.
fn branch_target(r: &mut Random, bits: u32) -> u64 {
    let target = match r.below(100) {
        0..85 => u64::from(address(layout::LANDING_PAGE) + r.below(PAGE)),
        85..92 => u64::from(address(layout::LANDING_PAGE + 1) + r.below(PAGE)),
        92..95 => u64::from(address(DATA_PAGE) + r.below(PAGE)),
        95 => u64::from(r.below(0x1_0000)),
        _ => return if bits == 64 { r.next() } else { r.next() & 0x1_ffff },
    };
    if bits == 32 { target & 0xffff_ffff } else { target }
}

/// Gives operands without registers, immediates and branches their values.
fn patch(r: &mut Random, bytes: &mut [u8; LENGTH_MAX], i: &Instruction, entry: u32, bits: u32) {
    let mut decoder = Decoder::with_ip(bits, &bytes[..], 0, DecoderOptions::NO_INVALID_CHECK);
    let offsets = {
        let again = decoder.decode();
        decoder.get_constant_offsets(&again)
    };
    let next = entry.wrapping_add(i.len() as u32);
    let mut write = |at: usize, size: usize, value: u64| {
        bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
    };
    if offsets.has_displacement() {
        let (at, size) = (offsets.displacement_offset(), offsets.displacement_size());
        let is_absolute = i.memory_base() == Register::None
            && i.memory_index() == Register::None
            && i.op_kinds().any(|kind| kind == OpKind::Memory);
        let base = match (i.memory_segment(), bits) {
            (Register::FS, 64) => layout::FS_BASE_64,
            (Register::GS, 64) => layout::GS_BASE_64,
            (Register::FS, _) => layout::FS_BASE_32.into(),
            (Register::GS, _) => layout::GS_BASE_32.into(),
            _ => 0,
        };
        let operand = i.memory_size().size().max(1) as u32;
        if i.is_ip_rel_memory_operand() {
            let target = arrange::pick_address(r, operand, 32);
            write(at, size, target.wrapping_sub(base).wrapping_sub(next.into()));
        } else if is_absolute {
            let target = arrange::pick_address(r, operand, 32);
            write(at, size, target.wrapping_sub(base));
        }
    }
    if offsets.has_immediate() {
        let (at, size) = (offsets.immediate_offset(), offsets.immediate_size());
        let is_near = matches!(
            i.op0_kind(),
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64
        );
        if i.mnemonic() == Mnemonic::Enter {
            // Little room is needed, and few levels.
            let (space, level) = (u64::from(r.below(64)), u64::from(r.below(5)));
            write(at, 2, space);
            write(at + 2, 1, level | u64::from(r.below(8)) << 5);
        } else if is_near && size > 1 {
            write(at, size, branch_target(r, 32).wrapping_sub(next.into()));
        } else if !is_near && r.permille(500) {
            write(at, size, values::integer(r));
        }
    }
}

/// Whether a near branch cannot land in its own bytes or in another test's.
fn branch_is_safe(i: &Instruction, entry: u32) -> bool {
    let is_near =
        matches!(i.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64);
    if !is_near {
        return true;
    }
    let target = i.near_branch_target();
    let own = u64::from(entry)..u64::from(entry) + i.len() as u64 + 5;
    let cell = u64::from(entry) / u64::from(layout::BRANCH_CELL_BYTES);
    let in_cell = target / u64::from(layout::BRANCH_CELL_BYTES) == cell;
    match layout::use_of(target) {
        PageUse::Stub => false,
        PageUse::Code => {
            let landing = address(layout::LANDING_PAGE);
            in_cell && !own.contains(&target) || target >= landing.into()
        }
        PageUse::Hole | PageUse::ReadWrite | PageUse::ReadOnly => true,
    }
}

/// The register that holds the bit offset is also part of the address; or the address wraps before
/// the segment's base is added, so that the bit may lie far away from the operand.
fn bit_offset_clashes(i: &Instruction) -> bool {
    let is_bit_test =
        matches!(i.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc);
    is_bit_test && i.op0_kind() == OpKind::Memory && i.op1_kind() == OpKind::Register && {
        let n = i.op1_register().full_register();
        let whole = if i.code_size() == iced_x86::CodeSize::Code64 { 8 } else { 4 };
        let wraps = matches!(i.memory_segment(), Register::FS | Register::GS)
            && i.memory_base().size() != whole
            && i.memory_index().size() != whole;
        wraps || i.memory_base().full_register() == n || i.memory_index().full_register() == n
    }
}

/// A value for a memory operand.
fn memory_value(
    r: &mut Random,
    i: &Instruction,
    family: Family,
    gpr: &[u64; 16],
    value: &mut [u8; 32],
) {
    for half in value.as_chunks_mut::<16>().0 {
        *half = if family.has_fx() {
            values::vector(r)
        } else {
            let wide = u128::from(values::integer(r)) << 64 | u128::from(values::integer(r));
            wide.to_le_bytes()
        };
    }
    match i.memory_size() {
        MemorySize::Float32 => value[..4].copy_from_slice(&values::single(r).to_le_bytes()),
        MemorySize::Float64 => value[..8].copy_from_slice(&values::double(r).to_le_bytes()),
        MemorySize::Float80 => value[..10].copy_from_slice(&values::extended(r)),
        MemorySize::Bcd => value[..10].copy_from_slice(&values::decimal(r)),
        _ => {}
    }
    let wide = |low: u64, high: u64, half: u32| u128::from(low) | u128::from(high) << half;
    match i.mnemonic() {
        Mnemonic::Cmpxchg if r.permille(400) => value[..8].copy_from_slice(&gpr[0].to_le_bytes()),
        Mnemonic::Cmpxchg8b if r.permille(500) => {
            let both = wide(gpr[0] & 0xffff_ffff, gpr[2] & 0xffff_ffff, 32);
            value[..16].copy_from_slice(&both.to_le_bytes());
        }
        Mnemonic::Cmpxchg16b if r.permille(500) => {
            value[..16].copy_from_slice(&wide(gpr[0], gpr[2], 64).to_le_bytes());
        }
        Mnemonic::Ldmxcsr => {
            let mut mxcsr = r.next() as u32 & 0xffff;
            if r.permille(50) {
                mxcsr |= 1 << (16 + r.below(16));
            }
            value[..4].copy_from_slice(&mxcsr.to_le_bytes());
        }
        Mnemonic::Fldcw if r.permille(700) => {
            value[..2].copy_from_slice(&(0x37f | r.next() as u16 & 0xf00).to_le_bytes());
        }
        _ => {}
    }
}

/// The image that FXRSTOR loads (SDM vol. 1, table 10-2).
fn fill_fx(r: &mut Random, family: Family, fx: &mut [u8; 512], i: &Instruction) {
    let is_x87 = match family {
        Family::X87Mmx64 | Family::X87Mmx32 => true,
        Family::Sse64 | Family::Sse32 | Family::Integer64 | Family::Integer32 => false,
    };
    let mut control = 0x37f;
    if is_x87 {
        control = 0x7f | r.pick(&[0, 0x200, 0x300, 0x300]) | (r.below(4) as u16) << 10;
        if r.permille(100) {
            control &= !(r.next() as u16 & 0x3f);
        }
    }
    let mut status = (r.next() as u16) & 0x4700;
    let exceptions = if r.permille(300) { r.next() as u16 & 0x7f } else { 0 };
    let unmasked = exceptions & 0x3f & !control;
    if unmasked == 0 || r.permille(200) {
        status |= exceptions;
        if unmasked != 0 {
            status |= 0x8080;
        }
    }
    let mut valid = match r.below(8) {
        0..5 => 0xff,
        5 => 0,
        _ => r.next() as u8,
    };
    let top = r.below(8) as u16;
    // A load wants room: often empty the register that it pushes to.
    if is_x87 && i.fpu_stack_increment_info().increment() < 0 && r.permille(850) {
        for n in 1..=-i.fpu_stack_increment_info().increment() {
            valid &= !(1 << ((i32::from(top) - n) & 7));
        }
    }
    status |= top << 11;
    fx[..2].copy_from_slice(&control.to_le_bytes());
    fx[2..4].copy_from_slice(&status.to_le_bytes());
    fx[4] = valid;
    let mut mxcsr = 0x1f80u32;
    if r.permille(500) {
        mxcsr |= r.next() as u32 & 0xe07f;
        if r.permille(600) {
            mxcsr &= !0x8040;
        }
    }
    if r.permille(80) {
        mxcsr &= !(r.next() as u32 & 0x1f80);
    }
    fx[24..28].copy_from_slice(&mxcsr.to_le_bytes());
    let related = r.permille(200);
    for n in 0..8 {
        let at = 32 + 16 * n;
        let value = if related && n > 0 && r.permille(500) {
            let mut same = [0; 10];
            same.copy_from_slice(&fx[32..42]);
            same[r.below(10) as usize] ^= 1 << r.below(8);
            same
        } else if is_x87 && i.op0_register().is_mm() {
            let mut value = [0xff; 10];
            value[..8].copy_from_slice(&values::vector(r)[..8]);
            value
        } else {
            values::extended(r)
        };
        fx[at..at + 10].copy_from_slice(&value);
    }
    let registers = if family.bits() == 64 { 16 } else { 8 };
    for n in 0..registers {
        let at = 160 + 16 * n;
        let value = if n > 0 && related {
            let mut same = [0; 16];
            same.copy_from_slice(&fx[160..176]);
            same[r.below(16) as usize] ^= 1 << r.below(8);
            same
        } else {
            values::vector(r)
        };
        fx[at..at + 16].copy_from_slice(&value);
    }
}

//! Registers arranged so that an instruction's memory operands are where the tests want them.

use crate::layout::{self, DATA_PAGE, PAGE, PageUse, STACK_PAGE, address};
use crate::random::Random;
use crate::shared::{WINDOWS, Window};
use crate::values;
use iced_x86::{Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register, UsedMemory};

/// One access to memory, by the decoder's account.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Linear address.
    pub at: u64,
    /// Bytes.
    pub size: u32,
}

/// The registers of a test while they are being chosen.
pub struct Arrangement<'a> {
    /// Random numbers.
    pub r: &'a mut Random,
    /// The code segment's default size.
    pub bits: u32,
    /// RAX to R15.
    pub gpr: &'a mut [u64; 16],
    /// Bit n: register n has the value that it needs.
    pub fixed: u16,
}

/// An address for an operand of `size` bytes: mostly good, sometimes at an edge, sometimes bad.
pub fn pick_address(r: &mut Random, size: u32, bits: u32) -> u64 {
    let data = address(DATA_PAGE);
    let across = |r: &mut Random, boundary: u32| boundary - 1 - r.below(size.max(2) - 1);
    let at = match r.below(1000) {
        0..880 => {
            let at = data + 64 + r.below(2 * PAGE - 1024);
            let aligned = r.permille(if size >= 16 { 900 } else { 600 });
            if aligned && size.is_power_of_two() { at & !(size - 1) } else { at }
        }
        880..930 => across(r, data + PAGE),
        930..950 => (data + 2 * PAGE + r.below(PAGE - 600)) & !(15 * r.below(2)),
        950..965 => across(r, data + 2 * PAGE),
        965..970 => across(r, data + 3 * PAGE),
        970..975 => across(r, data),
        975..980 => (data + 3 * PAGE + r.below(PAGE - 600)) & !(15 * r.below(2)),
        980..985 => (address(0) + r.below(PAGE)) & !(15 * r.below(2)),
        _ if bits == 32 => return u64::from((r.next() as u32) | r.pick(&[0, 0, 0xffff_fff0])),
        985..993 => return r.next(),
        // Around the end of the lower half.
        993..996 => return 0x8000_0000_0000 - 1 - u64::from(r.below(size.max(2) + 8)),
        996..998 => return 0xffff_8000_0000_0000u64.wrapping_sub(u64::from(r.below(32))),
        _ => return 0u64.wrapping_sub(u64::from(r.below(32))),
    };
    at.into()
}

/// An address for the stack pointer.
pub fn pick_stack(r: &mut Random) -> u64 {
    let page = address(STACK_PAGE);
    let at = match r.below(100) {
        0..80 => page + 0x400 + 8 * r.below(0x100),
        80..95 => page + 0x400 + r.below(0x800),
        95 => page + r.below(24),
        96 => page + PAGE - r.below(24),
        97 => address(DATA_PAGE + 2) + 8 * r.below(0x1f0),
        _ => return pick_address(r, 8, 64),
    };
    at.into()
}

impl Arrangement<'_> {
    fn value(&self, register: Register) -> u64 {
        let full = self.gpr[register.full_register().number() & 15];
        match register.size() {
            1 if register >= Register::AH && register <= Register::BH => full >> 8 & 0xff,
            1 => full & 0xff,
            2 => full & 0xffff,
            4 => full & 0xffff_ffff,
            _ => full,
        }
    }

    /// Sets the part of a register that an address uses; the rest stays random.
    fn fix(&mut self, register: Register, value: u64) {
        let n = register.full_register().number() & 15;
        let mask = match register.size() {
            2 => 0xffff,
            4 => 0xffff_ffff,
            _ => u64::MAX,
        };
        self.gpr[n] = self.gpr[n] & !mask | value & mask;
        if self.bits == 32 {
            self.gpr[n] &= 0xffff_ffff;
        }
        self.fixed |= 1 << n;
    }

    fn is_free(&self, register: Register) -> bool {
        register.is_gpr()
            && register.size() > 1
            && self.fixed & 1 << (register.full_register().number() & 15) == 0
    }

    /// Segment bases as both CPUs have them.
    pub fn segment_base(&self, segment: Register) -> u64 {
        match (segment, self.bits) {
            (Register::FS, 64) => layout::FS_BASE_64,
            (Register::GS, 64) => layout::GS_BASE_64,
            (Register::FS, _) => layout::FS_BASE_32.into(),
            (Register::GS, _) => layout::GS_BASE_32.into(),
            _ => 0,
        }
    }

    /// Chooses base and index so that the access is at `target`, if they are free.
    fn solve(&mut self, m: &UsedMemory, target: u64) {
        let want =
            target.wrapping_sub(self.segment_base(m.segment())).wrapping_sub(m.displacement());
        let (base, index) = (m.base(), m.index());
        let scale = m.scale() as u64;
        if base != Register::None && base == index {
            if self.is_free(base) {
                let factor = scale + 1;
                let solution =
                    if factor == 2 { want / 2 } else { want.wrapping_mul(inverse(factor)) };
                self.fix(base, solution);
            }
            return;
        }
        if index != Register::None && self.is_free(index) {
            if base == Register::None {
                self.fix(index, want / scale);
                return;
            }
            if self.is_free(base) {
                let value = if self.r.permille(700) {
                    u64::from(self.r.below(64))
                } else {
                    values::integer(self.r)
                };
                self.fix(index, value);
            } else {
                let rest = want.wrapping_sub(self.value(base));
                self.fix(index, rest / scale);
                return;
            }
        }
        if base != Register::None && self.is_free(base) {
            let offset =
                if index == Register::None { 0 } else { self.value(index).wrapping_mul(scale) };
            self.fix(base, want.wrapping_sub(offset));
        }
    }

    fn address_of(&self, m: &UsedMemory) -> u64 {
        let linear = m
            .virtual_address(0, |register, _, _| {
                if register.is_segment_register() {
                    return Some(self.segment_base(register));
                }
                Some(self.value(register))
            })
            .expect("every register has a value");
        if self.bits == 32 { linear & 0xffff_ffff } else { linear }
    }

    /// Arranges all memory operands and says where they came to lie.
    pub fn place(&mut self, i: &Instruction, factory: &mut InstructionInfoFactory) -> Vec<Access> {
        let used: Vec<UsedMemory> = factory.info(i).used_memory().to_vec();
        for m in &used {
            let size = m.memory_size().size().max(1) as u32;
            let is_stack = m.base().full_register() == Register::RSP && i.is_stack_instruction()
                || i.mnemonic() == Mnemonic::Leave;
            let target =
                if is_stack { pick_stack(self.r) } else { pick_address(self.r, size, self.bits) };
            self.solve(m, target);
        }
        let size = |m: &UsedMemory| m.memory_size().size().max(1) as u32;
        used.iter().map(|m| Access { at: self.address_of(m), size: size(m) }).collect()
    }
}

/// The inverse of an odd number modulo 2^64, by Newton's iteration.
fn inverse(odd: u64) -> u64 {
    let mut x = odd;
    for _ in 0..6 {
        x = x.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(x)));
    }
    x
}

/// How far around the operand that the decoder names an instruction may write, in bytes.
pub fn reach(i: &Instruction, rcx: u64) -> (u64, u64) {
    let near = 32;
    match i.mnemonic() {
        Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc | Mnemonic::Bt
            if i.op1_kind() == OpKind::Register =>
        {
            (near + BIT_OFFSET_MAX / 8 + 8, near + BIT_OFFSET_MAX / 8 + 8)
        }
        Mnemonic::Enter => (600, near),
        _ if i.is_string_instruction() && (i.has_rep_prefix() || i.has_repne_prefix()) => {
            let bytes = (rcx & 0xffff).min(32) * 8;
            (near + bytes, near + bytes)
        }
        _ => (near, near),
    }
}

/// Largest bit offset of BT and its kin with a memory operand, either way.
pub const BIT_OFFSET_MAX: u64 = 1024;

/// Windows over all writable memory that an access may reach. `None` if there are too many, or if
/// the access touches what no test may touch.
pub fn windows(
    accesses: &[Access],
    reach: (u64, u64),
    captures: &mut u32,
) -> Option<(u32, [Window; WINDOWS])> {
    let mut window = [Window::default(); WINDOWS];
    let mut count = 0;
    for access in accesses {
        let from = access.at.saturating_sub(reach.0);
        let to = access.at.saturating_add(u64::from(access.size) + reach.1);
        let stub = u64::from(address(layout::STUB_PAGE));
        if from < stub + u64::from(PAGE) && to > stub {
            return None;
        }
        for area in [(DATA_PAGE, 2), (STACK_PAGE, 1)] {
            let start = u64::from(address(area.0));
            let end = u64::from(address(area.0 + area.1));
            let (mut from, mut to) = (from.max(start), to.min(end));
            if from >= to {
                continue;
            }
            // Swallow the windows that this one touches.
            let mut n = 0;
            while n < count {
                let (at, len) = (u64::from(window[n].at), u64::from(window[n].len));
                if from <= at + len && at <= to {
                    from = from.min(at);
                    to = to.max(at + len);
                    window[n] = window[count - 1];
                    count -= 1;
                    n = 0;
                } else {
                    n += 1;
                }
            }
            if count == WINDOWS {
                return None;
            }
            window[count] = Window { at: from as u32, len: (to - from) as u32, to: 0 };
            count += 1;
        }
    }
    for window in &mut window[..count] {
        assert!(layout::use_of(window.at.into()) == PageUse::ReadWrite);
        window.to = *captures;
        *captures += window.len;
    }
    Some((count as u32, window))
}

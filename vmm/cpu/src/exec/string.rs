//! String instructions and their repetition (SDM vol. 1, 7.3.9).
//!
//! A repeated instruction completes once, when all of it is done; no interrupt is taken inside it.
//! A fault leaves the counter and the pointers at the iteration that faulted, so that the
//! instruction goes on from there. Forward moves and fills of RAM go a page at a time
//! ([`Cpu::copy_chunk`], [`Cpu::fill_chunk`]) with the same outcome as one element at a time.

use super::{Done, Exec};
use crate::cpu::{Cpu, gpr};
use crate::exception::Abort;
use crate::flags::{rflags, zero_extend};
use crate::segment::SegReg;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// The semantics of this family's instructions.
pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    // Movsd and Cmpsd are also SSE2 instructions; those have no string operands.
    if !(0..i.op_count()).any(|n| StringAddress::width(i.op_kind(n)).is_some()) {
        return None;
    }
    Some(match i.mnemonic() {
        Mnemonic::Movsb | Mnemonic::Movsw | Mnemonic::Movsd | Mnemonic::Movsq => movs,
        Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq => stos,
        Mnemonic::Lodsb | Mnemonic::Lodsw | Mnemonic::Lodsd | Mnemonic::Lodsq => lods,
        Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsd | Mnemonic::Cmpsq => cmps,
        Mnemonic::Scasb | Mnemonic::Scasw | Mnemonic::Scasd | Mnemonic::Scasq => scas,
        _ => return None,
    })
}

/// Where a string instruction's operands are and how it advances.
struct StringAddress {
    /// Segment of the source; the destination's is always ES.
    source: SegReg,
    /// Address size in bytes: of SI, DI and the counter.
    address: u32,
    /// Element size in bytes.
    element: u32,
    /// What is added to the pointers after each element.
    step: u64,
}

impl StringAddress {
    /// Address size in bytes that a string operand of this kind implies.
    fn width(kind: OpKind) -> Option<u32> {
        match kind {
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => Some(2),
            OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => Some(4),
            OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => Some(8),
            _ => None,
        }
    }

    fn of(cpu: &Cpu, i: &Instruction) -> StringAddress {
        let address = (0..i.op_count())
            .find_map(|n| StringAddress::width(i.op_kind(n)))
            .expect("only instructions with a string operand are selected");
        let element = i.memory_size().size() as u32;
        let down = cpu.flag(rflags::DF);
        let step = u64::from(element);
        StringAddress {
            source: cpu.operand_segment(i),
            address,
            element,
            step: if down { step.wrapping_neg() } else { step },
        }
    }

    /// The register `index` in the address size.
    fn get(&self, cpu: &Cpu, index: usize) -> u64 {
        zero_extend(cpu.gpr[index], self.address)
    }

    /// Sets the register `index` in the address size.
    fn set(&self, cpu: &mut Cpu, index: usize, value: u64) {
        let full = &mut cpu.gpr[index];
        *full = match self.address {
            2 => *full & !0xffff | value & 0xffff,
            size => zero_extend(value, size),
        };
    }

    /// Moves a pointer past `elements` elements.
    fn advance(&self, cpu: &mut Cpu, index: usize, elements: u64) {
        let value = cpu.gpr[index].wrapping_add(self.step.wrapping_mul(elements));
        self.set(cpu, index, value);
    }

    fn load_source(&self, cpu: &mut Cpu) -> Result<u64, Abort> {
        cpu.read_sized(self.source, self.get(cpu, gpr::RSI), self.element)
    }

    fn load_destination(&self, cpu: &mut Cpu) -> Result<u64, Abort> {
        cpu.read_sized(SegReg::Es, self.get(cpu, gpr::RDI), self.element)
    }

    fn store_destination(&self, cpu: &mut Cpu, value: u64) -> Done {
        cpu.write_sized(SegReg::Es, self.get(cpu, gpr::RDI), value, self.element)
    }

    /// The accumulator of the element's size.
    fn accumulator(&self) -> Register {
        match self.element {
            1 => Register::AL,
            2 => Register::AX,
            4 => Register::EAX,
            _ => Register::RAX,
        }
    }

    /// How many elements the segment offsets at `index` can advance before they wrap or leave their
    /// page, at most.
    fn elements_in_page(&self, offset: u64, linear: u64) -> u64 {
        let in_page = 0x1000 - (linear & 0xfff);
        let top = zero_extend(u64::MAX, self.address);
        let before_wrap = (top - offset).saturating_add(1);
        in_page.min(before_wrap) / u64::from(self.element)
    }
}

/// Elements after which a repeated instruction counts as completed although its counter is not used
/// up: it is then the next instruction again, as after an interrupt. Without that a count of 2^63 at a
/// device's address would be one instruction that outlasts its user.
pub(crate) const REPETITIONS_MAX: u64 = 1 << 22;

/// Runs `one` once, or as often as the counter says. `one` does an element and returns how many it
/// did (more than one by a chunk, never more than it was told are left) or `None` to stop after this
/// element.
fn repeat(
    cpu: &mut Cpu,
    i: &Instruction,
    s: &StringAddress,
    mut one: impl FnMut(&mut Cpu, u64) -> Result<Step, Abort>,
) -> Done {
    // F2 before an instruction that does not compare repeats as F3 does.
    if !(i.has_rep_prefix() || i.has_repne_prefix()) {
        return one(cpu, 1).map(|_| ());
    }
    let mut allowed = REPETITIONS_MAX;
    if s.get(cpu, gpr::RCX) > allowed {
        // Begun again by itself in the middle, it would be allowed that many anew.
        cpu.require_alone()?;
    }
    loop {
        let count = s.get(cpu, gpr::RCX);
        if count == 0 {
            return Ok(());
        }
        if allowed == 0 {
            cpu.repeat_later();
            return Ok(());
        }
        // Exact, so that where it stops does not depend on how elements fell into chunks.
        let left = count.min(allowed);
        let Step { elements, last } = one(cpu, left)?;
        assert!(elements <= left, "a chunk did more than was left");
        s.set(cpu, gpr::RCX, count - elements);
        allowed -= elements;
        cpu.settle_watched();
        if last {
            return Ok(());
        }
    }
}

impl Cpu {
    /// Makes the current instruction the next one too.
    pub(crate) fn repeat_later(&mut self) {
        self.next_rip = self.rip;
        self.end_of_block = true;
    }
}

/// What one call of a string instruction's body did.
struct Step {
    elements: u64,
    /// The repetition ends here although the counter is not used up.
    last: bool,
}

const ONE: Step = Step { elements: 1, last: false };

fn movs(cpu: &mut Cpu, i: &Instruction) -> Done {
    let s = StringAddress::of(cpu, i);
    repeat(cpu, i, &s, |cpu, left| {
        let elements = if left > 1 { movs_chunk(cpu, &s, left) } else { 0 };
        if elements == 0 {
            let value = s.load_source(cpu)?;
            s.store_destination(cpu, value)?;
        }
        let elements = elements.max(1);
        s.advance(cpu, gpr::RSI, elements);
        s.advance(cpu, gpr::RDI, elements);
        Ok(Step { elements, last: false })
    })
}

/// Chunks go upwards, and past data breakpoints.
fn takes_chunks(cpu: &Cpu) -> bool {
    !cpu.flag(rflags::DF) && !cpu.is_debug_armed()
}

/// Moves as many elements as a page-wise copy can, perhaps none.
fn movs_chunk(cpu: &mut Cpu, s: &StringAddress, left: u64) -> u64 {
    if !takes_chunks(cpu) {
        return 0;
    }
    let (from, to) = (s.get(cpu, gpr::RSI), s.get(cpu, gpr::RDI));
    let Ok(source) = cpu.linear(s.source, from, s.element, false) else { return 0 };
    let Ok(target) = cpu.linear(SegReg::Es, to, s.element, true) else { return 0 };
    let elements = left.min(s.elements_in_page(from, source)).min(s.elements_in_page(to, target));
    let bytes = (elements * u64::from(s.element)) as u32;
    if elements < 2
        || cpu.linear(s.source, from, bytes, false).is_err()
        || cpu.linear(SegReg::Es, to, bytes, true).is_err()
    {
        return 0;
    }
    u64::from(cpu.copy_chunk(source, target, bytes, s.element) / s.element)
}

fn stos(cpu: &mut Cpu, i: &Instruction) -> Done {
    let s = StringAddress::of(cpu, i);
    let value = cpu.reg(s.accumulator());
    repeat(cpu, i, &s, |cpu, left| {
        let elements = if left > 1 { stos_chunk(cpu, &s, value, left) } else { 0 };
        if elements == 0 {
            s.store_destination(cpu, value)?;
        }
        let elements = elements.max(1);
        s.advance(cpu, gpr::RDI, elements);
        Ok(Step { elements, last: false })
    })
}

/// Fills as many elements as lie in one page of RAM, perhaps none.
fn stos_chunk(cpu: &mut Cpu, s: &StringAddress, value: u64, left: u64) -> u64 {
    if !takes_chunks(cpu) {
        return 0;
    }
    let to = s.get(cpu, gpr::RDI);
    let Ok(target) = cpu.linear(SegReg::Es, to, s.element, true) else { return 0 };
    let elements = left.min(s.elements_in_page(to, target));
    let bytes = (elements * u64::from(s.element)) as u32;
    if elements < 2 || cpu.linear(SegReg::Es, to, bytes, true).is_err() {
        return 0;
    }
    u64::from(cpu.fill_chunk(target, value, s.element, bytes) / s.element)
}

fn lods(cpu: &mut Cpu, i: &Instruction) -> Done {
    let s = StringAddress::of(cpu, i);
    repeat(cpu, i, &s, |cpu, _| {
        let value = s.load_source(cpu)?;
        cpu.set_reg(s.accumulator(), value);
        s.advance(cpu, gpr::RSI, 1);
        Ok(ONE)
    })
}

/// Whether a comparing repetition ends after an element with this ZF.
fn ends_comparison(i: &Instruction, zf: bool) -> bool {
    // With both prefixes the decoder keeps the last, as the hardware does.
    if i.has_repne_prefix() { zf } else { !zf }
}

fn cmps(cpu: &mut Cpu, i: &Instruction) -> Done {
    let s = StringAddress::of(cpu, i);
    repeat(cpu, i, &s, |cpu, _| {
        let left = s.load_source(cpu)?;
        let right = s.load_destination(cpu)?;
        cpu.arith.set_sub(left, right, left.wrapping_sub(right), s.element);
        s.advance(cpu, gpr::RSI, 1);
        s.advance(cpu, gpr::RDI, 1);
        Ok(Step { elements: 1, last: ends_comparison(i, left == right) })
    })
}

fn scas(cpu: &mut Cpu, i: &Instruction) -> Done {
    let s = StringAddress::of(cpu, i);
    let left = cpu.reg(s.accumulator());
    repeat(cpu, i, &s, |cpu, _| {
        let right = s.load_destination(cpu)?;
        cpu.arith.set_sub(left, right, left.wrapping_sub(right), s.element);
        s.advance(cpu, gpr::RDI, 1);
        Ok(Step { elements: 1, last: ends_comparison(i, left == right) })
    })
}

#[cfg(test)]
mod tests {
    use super::super::table::{exception, prepare, step};
    use super::REPETITIONS_MAX;
    use crate::cpu::gpr;
    use crate::run::Stop;
    use crate::state::CpuState;
    use crate::testing::{Bench, CODE, DATA};

    /// 64-bit mode with the first 2 MiB mapped by 4 KiB pages, of which `absent` is missing.
    fn paged(absent: u64) -> Bench {
        let mut bench = Bench::long();
        for page in 0..512u64 {
            let entry = if page << 12 == absent { 0 } else { page << 12 | 7 };
            bench.poke(0x4000 + page * 8, &entry.to_le_bytes());
        }
        bench.poke(0x3000, &0x4007u64.to_le_bytes());
        bench
    }

    fn pointers(rsi: u64, rdi: u64, rcx: u64) -> impl FnOnce(&mut CpuState) {
        move |state| {
            state.gpr[6] = rsi;
            state.gpr[7] = rdi;
            state.gpr[1] = rcx;
        }
    }

    fn registers(bench: &Bench) -> [u64; 3] {
        let state = bench.cpu.state();
        [state.gpr[6], state.gpr[7], state.gpr[1]]
    }

    fn pattern(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|n| (n * 7 + n / 256) as u8).collect()
    }

    const REP_MOVSB: [u8; 2] = [0xf3, 0xa4];
    const REP_MOVSQ: [u8; 3] = [0xf3, 0x48, 0xa5];

    #[test]
    fn a_repetition_is_one_instruction() {
        let mut bench = Bench::long();
        bench.poke(DATA + 3, &pattern(10_000));
        prepare(&mut bench, pointers(DATA + 3, DATA + 0x8001, 1250));
        step(&mut bench, &REP_MOVSQ).unwrap();
        assert_eq!(registers(&bench), [DATA + 10_003, DATA + 0x8001 + 10_000, 0]);
        assert_eq!(bench.peek::<10_000>(DATA + 0x8001)[..], pattern(10_000)[..]);
        assert_eq!(bench.peek::<1>(DATA + 0x8001 + 10_000), [0]);
        assert_eq!(bench.cpu.state().position.0, 1);
        // With a count of zero nothing is touched, not even an address that cannot be.
        prepare(&mut bench, pointers(1 << 62, 1 << 62, 0));
        step(&mut bench, &REP_MOVSB).unwrap();
    }

    #[test]
    fn a_repetition_without_end_comes_up_for_air() {
        // 4 MiB of RAM lie at 0; beyond is nothing, and not even that answers in this many steps.
        let mut bench = Bench::protected();
        bench.change(|state| {
            state.gpr[gpr::RCX] = 0x8000_0000;
            state.gpr[gpr::RDI] = 0x4000_0000;
        });
        bench.poke(CODE, &[0xf3, 0xaa]);
        for done in 1..=3u64 {
            assert_eq!(bench.go(1), Stop::Limit);
            let state = bench.cpu.state();
            assert_eq!((state.rip, state.position.0), (CODE, done));
            assert_eq!(state.gpr[gpr::RCX], 0x8000_0000 - done * REPETITIONS_MAX);
            assert_eq!(state.gpr[gpr::RDI], 0x4000_0000 + done * REPETITIONS_MAX);
        }
    }

    #[test]
    fn a_fault_leaves_the_iteration_that_faulted() {
        let hole = 0x3_2000;
        // Destination, then source, then both ends of a straddling element.
        for (rsi, rdi, done, cr2, code) in [
            (0x4_0010, 0x3_1ff0, 2, hole, 2),
            (0x3_1ff0, 0x4_0010, 2, hole, 0),
            (0x4_0010, 0x3_1ff3, 1, hole, 2),
        ] {
            let mut bench = paged(hole);
            bench.poke(rsi & !0xfff, &[0x5a; 0x1000]);
            prepare(&mut bench, pointers(rsi, rdi, 100));
            assert_eq!(step(&mut bench, &REP_MOVSQ), exception(14, Some(code)));
            assert_eq!(registers(&bench), [rsi + done * 8, rdi + done * 8, 100 - done]);
            let state = bench.cpu.state();
            assert_eq!((state.cr2, state.position.0), (cr2, 0));
            // Mapped, it goes on from there.
            bench.poke(0x4000 + (hole >> 12) * 8, &(hole | 7).to_le_bytes());
            step(&mut bench, &REP_MOVSQ).unwrap();
            assert_eq!(registers(&bench), [rsi + 800, rdi + 800, 0]);
            assert_eq!(bench.cpu.state().position.0, 1);
        }
    }

    #[test]
    fn overlapping_moves_repeat_what_they_wrote() {
        for distance in [1, 2, 3, 7, 8, 9, 100, 5000] {
            for (code, size) in [(&REP_MOVSB[..], 1), (&REP_MOVSQ[..], 8)] {
                let mut bench = Bench::long();
                let mut expected = pattern(16_000);
                bench.poke(DATA + 5, &expected);
                prepare(&mut bench, pointers(DATA + 5, DATA + 5 + distance, 8000 / size));
                step(&mut bench, code).unwrap();
                let size = size as usize;
                for at in (0..8000).step_by(size) {
                    expected.copy_within(at..at + size, at + distance as usize);
                }
                assert_eq!(bench.peek::<16_000>(DATA + 5)[..], expected[..], "by {distance}");
                // And downwards in memory, which never overlaps harmfully.
                let mut expected = pattern(16_000);
                bench.poke(DATA + 5, &expected);
                prepare(&mut bench, pointers(DATA + 5 + distance, DATA + 5, 8000 / size as u64));
                step(&mut bench, code).unwrap();
                expected.copy_within(distance as usize..distance as usize + 8000, 0);
                assert_eq!(bench.peek::<16_000>(DATA + 5)[..], expected[..], "by -{distance}");
            }
        }
    }

    #[test]
    fn two_addresses_of_one_frame_overlap_too() {
        // Linear 0x50000 is mapped to the frame of 0x40000.
        let mut bench = paged(u64::MAX);
        bench.poke(0x4000 + 0x50 * 8, &0x4_0007u64.to_le_bytes());
        bench.poke(0x4_0000, &[1, 2, 3, 4]);
        prepare(&mut bench, pointers(0x4_0000, 0x5_0004, 12));
        step(&mut bench, &REP_MOVSB).unwrap();
        assert_eq!(bench.peek::<16>(0x4_0000), [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4]);
    }

    #[test]
    fn the_direction_flag_turns_everything_round() {
        let mut bench = Bench::long();
        bench.poke(DATA, &pattern(5000));
        prepare(&mut bench, pointers(DATA + 4999, DATA + 5999, 5000));
        prepare(&mut bench, |state| state.rflags |= 0x400);
        step(&mut bench, &REP_MOVSB).unwrap();
        assert_eq!(registers(&bench), [DATA - 1, DATA + 999, 0]);
        assert_eq!(bench.peek::<5000>(DATA + 1000)[..], pattern(5000)[..]);
        // rep stosd downwards
        prepare(&mut bench, pointers(0, DATA + 8, 3));
        prepare(&mut bench, |state| state.gpr[0] = 0x0403_0201);
        step(&mut bench, &[0xf3, 0xab]).unwrap();
        assert_eq!(bench.peek::<12>(DATA), [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4]);
        assert_eq!(registers(&bench)[1], DATA - 4);
    }

    #[test]
    fn fills() {
        // rep stosw over page boundaries at an odd address; F2 repeats just as well
        for prefix in [0xf3, 0xf2] {
            let mut bench = Bench::long();
            prepare(&mut bench, pointers(0, DATA + 1, 4096));
            prepare(&mut bench, |state| state.gpr[0] = 0xffff_1122);
            step(&mut bench, &[0x66, prefix, 0xab]).unwrap();
            let bytes = bench.peek::<8194>(DATA);
            assert_eq!((bytes[0], bytes[8193]), (0, 0));
            assert!(bytes[1..8193].chunks(2).all(|word| word == [0x22, 0x11]));
            assert_eq!(registers(&bench), [0, DATA + 8193, 0]);
        }
    }

    #[test]
    fn pointers_wrap_in_their_width() {
        // Real mode: rep movsb from fffe to 100 goes through 0.
        let mut bench = Bench::real();
        bench.poke(0xfffe, &[1, 2]);
        bench.poke(0, &[3, 4]);
        prepare(&mut bench, pointers(0xa_fffe, 0xb_0100, 0xc_0004));
        step(&mut bench, &REP_MOVSB).unwrap();
        assert_eq!(bench.peek::<4>(0x100), [1, 2, 3, 4]);
        assert_eq!(registers(&bench), [0xa_0002, 0xb_0104, 0xc_0000]);
        // A 32-bit address size in 64-bit mode clears the upper halves of what it writes.
        let mut bench = Bench::long();
        prepare(&mut bench, pointers(7 << 32 | DATA, 8 << 32 | (DATA + 64), 9 << 32 | 2));
        step(&mut bench, &[0x67, 0xf3, 0xa4]).unwrap();
        assert_eq!(registers(&bench), [DATA + 2, DATA + 66, 0]);
    }

    #[test]
    fn comparisons_stop_at_the_first_difference_or_match() {
        let mut bench = Bench::long();
        bench.poke(DATA, b"abcdefgh");
        bench.poke(DATA + 64, b"abcdXfgh");
        // repe cmpsb
        prepare(&mut bench, pointers(DATA, DATA + 64, 8));
        step(&mut bench, &[0xf3, 0xa6]).unwrap();
        assert_eq!(registers(&bench), [DATA + 5, DATA + 69, 3]);
        assert_eq!(bench.cpu.state().rflags & 0x41, 0, "e is above X");
        // repne scasb for 'd'
        prepare(&mut bench, pointers(0, DATA, 8));
        prepare(&mut bench, |state| state.gpr[0] = u64::from(b'd'));
        step(&mut bench, &[0xf2, 0xae]).unwrap();
        assert_eq!(registers(&bench), [0, DATA + 4, 4]);
        assert_eq!(bench.cpu.state().rflags & 0x40, 0x40);
        // A count of zero leaves the flags.
        prepare(&mut bench, pointers(0, DATA, 0));
        step(&mut bench, &[0xf3, 0xae]).unwrap();
        assert_eq!(bench.cpu.state().rflags & 0x40, 0x40);
        // lodsw with GS override
        prepare(&mut bench, |state| {
            state.gpr[6] = 2;
            state.seg[5].base = DATA;
        });
        step(&mut bench, &[0x65, 0x66, 0xad]).unwrap();
        assert_eq!(bench.cpu.state().gpr[0] & 0xffff, 0x6463);
    }

    #[test]
    fn a_segment_limit_ends_a_fill_at_its_element() {
        let mut bench = Bench::protected();
        prepare(&mut bench, pointers(0, DATA, 100));
        prepare(&mut bench, |state| state.seg[0].limit = DATA as u32 + 9);
        // rep stosd: two doublewords fit
        assert_eq!(step(&mut bench, &[0xf3, 0xab]), exception(13, Some(0)));
        assert_eq!(registers(&bench), [0, DATA + 8, 98]);
    }
}

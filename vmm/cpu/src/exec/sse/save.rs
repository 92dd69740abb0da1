//! FXSAVE, FXRSTOR, XSAVE, XRSTOR (SDM vol. 1, 10.5 and chapter 13).
//!
//! The models advertise XSAVE for x87 and SSE state in the standard format only: XSAVEOPT, XSAVEC
//! and XSAVES are #UD. What the manual leaves to the implementation is fixed here:
//!
//! - XSAVE finds every component in use: XSTATE_BV gets all requested bits.
//! - With CR4.OSFXSR = 0, FXSAVE and FXRSTOR leave MXCSR and the XMM registers out.
//! - Bytes that belong to nothing are not written, but for the upper six of each x87 register and
//!   byte 5, which are zero.

use super::mxcsr::EXISTING;
use crate::cpu::{Cpu, control};
use crate::exception::{Abort, vector};
use crate::exec::{Done, Exec};
use crate::fpu::{F80, Fpu};
use crate::gpr;
use iced_x86::{Code, Instruction};

/// The semantics of an instruction of this family.
pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    let exec: Exec = match i.code() {
        Code::Fxsave_m512byte => |cpu, i| fxsave(cpu, i, Pointers::Selectors),
        Code::Fxsave64_m512byte => |cpu, i| fxsave(cpu, i, Pointers::Wide),
        Code::Fxrstor_m512byte => |cpu, i| fxrstor(cpu, i, Pointers::Selectors),
        Code::Fxrstor64_m512byte => |cpu, i| fxrstor(cpu, i, Pointers::Wide),
        Code::Xsave_mem => |cpu, i| xsave(cpu, i, Pointers::Selectors),
        Code::Xsave64_mem => |cpu, i| xsave(cpu, i, Pointers::Wide),
        Code::Xrstor_mem => |cpu, i| xrstor(cpu, i, Pointers::Selectors),
        Code::Xrstor64_mem => |cpu, i| xrstor(cpu, i, Pointers::Wide),
        _ => return None,
    };
    Some(exec)
}

/// How the image holds the x87 instruction and data pointers.
#[derive(Clone, Copy)]
enum Pointers {
    /// 32-bit offsets and 16-bit selectors.
    Selectors,
    /// 64-bit offsets (REX.W).
    Wide,
}

/// Offsets in the image (SDM vol. 1, table 10-2) and in the header after it (13.4.2).
mod image {
    pub(super) const OPCODE: usize = 6;
    pub(super) const INSTRUCTION_POINTER: usize = 8;
    pub(super) const INSTRUCTION_SELECTOR: usize = 12;
    pub(super) const DATA_POINTER: usize = 16;
    pub(super) const DATA_SELECTOR: usize = 20;
    pub(super) const MXCSR: usize = 24;
    pub(super) const ST: usize = 32;
    pub(super) const XMM: usize = 160;
    pub(super) const LEGACY_BYTES: usize = 512;
    pub(super) const XSTATE_BV: usize = 512;
    pub(super) const XCOMP_BV: usize = 520;
    pub(super) const HEADER_END: usize = 576;
}

/// XCR0 and XSTATE_BV: x87 state.
const X87: u64 = 1 << 0;
/// XCR0 and XSTATE_BV: MXCSR and XMM registers.
const SSE: u64 = 1 << 1;
/// XCR0: upper halves of YMM registers. Never enabled, but the manual's rule for MXCSR names it.
const AVX: u64 = 1 << 2;

fn u16_at(image: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(image[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(image: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(image[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(image: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(image[at..at + 8].try_into().expect("eight bytes"))
}

fn u128_at(image: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(image[at..at + 16].try_into().expect("sixteen bytes"))
}

/// Bytes 0 to 23.
fn x87_header(fpu: &Fpu, pointers: Pointers) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[0..2].copy_from_slice(&fpu.control.to_le_bytes());
    bytes[2..4].copy_from_slice(&fpu.status_word().to_le_bytes());
    bytes[4] = fpu.valid;
    bytes[image::OPCODE..][..2].copy_from_slice(&fpu.opcode.to_le_bytes());
    bytes[image::INSTRUCTION_POINTER..][..8]
        .copy_from_slice(&fpu.instruction_pointer.to_le_bytes());
    bytes[image::DATA_POINTER..][..8].copy_from_slice(&fpu.data_pointer.to_le_bytes());
    match pointers {
        Pointers::Selectors => {
            let selector = u32::from(fpu.instruction_selector);
            bytes[image::INSTRUCTION_SELECTOR..][..4].copy_from_slice(&selector.to_le_bytes());
            let selector = u32::from(fpu.data_selector);
            bytes[image::DATA_SELECTOR..][..4].copy_from_slice(&selector.to_le_bytes());
        }
        Pointers::Wide => {}
    }
    bytes
}

/// The x87 state in an image.
fn x87_state(image: &[u8], pointers: Pointers) -> Fpu {
    let mut fpu = Fpu { valid: image[4], ..Fpu::default() };
    fpu.opcode = u16_at(image, image::OPCODE) & 0x7ff;
    match pointers {
        Pointers::Selectors => {
            fpu.instruction_pointer = u32_at(image, image::INSTRUCTION_POINTER).into();
            fpu.instruction_selector = u16_at(image, image::INSTRUCTION_SELECTOR);
            fpu.data_pointer = u32_at(image, image::DATA_POINTER).into();
            fpu.data_selector = u16_at(image, image::DATA_SELECTOR);
        }
        Pointers::Wide => {
            fpu.instruction_pointer = u64_at(image, image::INSTRUCTION_POINTER);
            fpu.data_pointer = u64_at(image, image::DATA_POINTER);
        }
    }
    fpu.set_control_and_status(u16_at(image, 0), u16_at(image, 2));
    for n in 0..8 {
        let physical = fpu.physical(n);
        fpu.registers[physical] = F80::from_bits(u128_at(image, image::ST + 16 * usize::from(n)));
    }
    fpu
}

impl Cpu {
    /// XMM registers that exist in the current mode.
    fn xmm_count(&self) -> usize {
        if self.is_64bit() { 16 } else { 8 }
    }

    /// Stores a multiple of 8 bytes to where a store was probed.
    fn store_image(&mut self, linear: u64, bytes: &[u8]) -> Done {
        for (n, part) in bytes.chunks_exact(8).enumerate() {
            self.store(linear.wrapping_add(8 * n as u64), u64_at(part, 0), 8)?;
        }
        Ok(())
    }

    /// Loads a multiple of 8 bytes.
    fn load_image(&mut self, linear: u64, bytes: &mut [u8]) -> Done {
        for (n, part) in bytes.chunks_exact_mut(8).enumerate() {
            let value = self.load(linear.wrapping_add(8 * n as u64), 8)?;
            part.copy_from_slice(&value.to_le_bytes());
        }
        Ok(())
    }

    fn store_x87(&mut self, linear: u64, pointers: Pointers) -> Done {
        if self.model.is_qemus() {
            return self.store_x87_as_qemu(linear);
        }
        self.store_image(linear, &x87_header(&self.fpu, pointers))?;
        let mut registers = [0; 128];
        for (n, slot) in registers.chunks_exact_mut(16).enumerate() {
            slot.copy_from_slice(&self.fpu.st(n as u8).bits().to_le_bytes());
        }
        self.store_image(linear + image::ST as u64, &registers)
    }

    /// QEMU's processor keeps neither pointers nor an opcode, leaves the latter's bytes as they are, and the upper six of each register
    /// (target/i386/tcg/fpu_helper.c, `do_xsave_fpu`).
    fn store_x87_as_qemu(&mut self, linear: u64) -> Done {
        let header = x87_header(&self.fpu, Pointers::Wide);
        self.store(linear, u32_at(&header, 0).into(), 4)?;
        self.store(linear.wrapping_add(4), u16_at(&header, 4).into(), 2)?;
        self.store_image(linear.wrapping_add(image::INSTRUCTION_POINTER as u64), &[0; 16])?;
        for n in 0..8u8 {
            let F80 { significand, sign_exponent } = self.fpu.st(n);
            let slot = linear.wrapping_add(image::ST as u64 + 16 * u64::from(n));
            self.store(slot, significand, 8)?;
            self.store(slot.wrapping_add(8), sign_exponent.into(), 2)?;
        }
        Ok(())
    }

    fn store_mxcsr(&mut self, linear: u64) -> Done {
        let value = u64::from(EXISTING) << 32 | u64::from(self.mxcsr);
        self.store(linear + image::MXCSR as u64, value, 8)
    }

    fn store_xmm(&mut self, linear: u64) -> Done {
        let mut registers = [0; 256];
        let count = self.xmm_count();
        for (slot, value) in registers.chunks_exact_mut(16).zip(&self.xmm[..count]) {
            slot.copy_from_slice(&value.to_le_bytes());
        }
        self.store_image(linear + image::XMM as u64, &registers[..16 * count])
    }

    fn take_xmm(&mut self, image: &[u8]) {
        for n in 0..self.xmm_count() {
            self.xmm[n] = u128_at(image, image::XMM + 16 * n);
        }
    }

    /// #NM if CR0.EM or CR0.TS is set, as the x87 instructions that these began as.
    fn fxsave_allowed(&mut self) -> Done {
        if self.cr0 & (control::CR0_EM | control::CR0_TS) != 0 {
            return Err(self.exception(vector::NM, None));
        }
        Ok(())
    }

    /// #UD unless the system enabled XSAVE, then #NM if the task's state is not loaded.
    fn xsave_allowed(&mut self) -> Done {
        if self.cr4 & control::CR4_OSXSAVE == 0 {
            return Err(self.undefined_opcode());
        }
        if self.cr0 & control::CR0_TS != 0 {
            return Err(self.exception(vector::NM, None));
        }
        Ok(())
    }

    /// RFBM, the requested-feature bitmap: EDX:EAX AND XCR0.
    fn requested_features(&self) -> u64 {
        let (low, high) = (self.gpr[gpr::RAX], self.gpr[gpr::RDX]);
        (high << 32 | low & 0xffff_ffff) & self.xcr0
    }

    /// #GP(0) if an MXCSR in memory has a bit that does not exist.
    fn checked_mxcsr(&mut self, image: &[u8]) -> Result<u32, Abort> {
        let value = u32_at(image, image::MXCSR);
        if value & !EXISTING != 0 {
            return Err(self.general_protection(0));
        }
        Ok(value)
    }
}

fn fxsave(cpu: &mut Cpu, i: &Instruction, pointers: Pointers) -> Done {
    cpu.fxsave_allowed()?;
    let linear = cpu.aligned_linear(i, image::LEGACY_BYTES as u32, 16, true)?;
    cpu.probe_store(linear, image::LEGACY_BYTES as u32)?;
    cpu.store_x87(linear, pointers)?;
    if cpu.cr4 & control::CR4_OSFXSR != 0 {
        cpu.store_mxcsr(linear)?;
        cpu.store_xmm(linear)?;
    }
    Ok(())
}

fn fxrstor(cpu: &mut Cpu, i: &Instruction, pointers: Pointers) -> Done {
    cpu.fxsave_allowed()?;
    let linear = cpu.aligned_linear(i, image::LEGACY_BYTES as u32, 16, false)?;
    let mut image = [0; image::LEGACY_BYTES];
    cpu.load_image(linear, &mut image)?;
    if cpu.cr4 & control::CR4_OSFXSR != 0 {
        cpu.mxcsr = cpu.checked_mxcsr(&image)?;
        cpu.take_xmm(&image);
    }
    cpu.fpu = x87_state(&image, pointers);
    Ok(())
}

fn xsave(cpu: &mut Cpu, i: &Instruction, pointers: Pointers) -> Done {
    cpu.xsave_allowed()?;
    let requested = cpu.requested_features();
    let linear = cpu.aligned_linear(i, image::HEADER_END as u32, 64, true)?;
    cpu.probe_store(linear, image::HEADER_END as u32)?;
    let present = cpu.load(linear + image::XSTATE_BV as u64, 8)?;
    if requested & X87 != 0 {
        cpu.store_x87(linear, pointers)?;
    }
    if requested & (SSE | AVX) != 0 {
        cpu.store_mxcsr(linear)?;
    }
    if requested & SSE != 0 {
        cpu.store_xmm(linear)?;
    }
    cpu.store(linear + image::XSTATE_BV as u64, present | requested, 8)
}

fn xrstor(cpu: &mut Cpu, i: &Instruction, pointers: Pointers) -> Done {
    cpu.xsave_allowed()?;
    let requested = cpu.requested_features();
    let linear = cpu.aligned_linear(i, image::HEADER_END as u32, 64, false)?;
    let mut image = [0; image::HEADER_END];
    cpu.load_image(linear, &mut image)?;
    let present = u64_at(&image, image::XSTATE_BV);
    // Bytes 23:8 of the header: XCOMP_BV, as the compacted format is not supported, and zeros.
    let reserved = u128_at(&image, image::XCOMP_BV);
    if present & !cpu.xcr0 != 0 || reserved != 0 {
        return Err(cpu.general_protection(0));
    }
    if requested & (SSE | AVX) != 0 {
        cpu.mxcsr = cpu.checked_mxcsr(&image)?;
    }
    if requested & X87 != 0 {
        cpu.fpu = if present & X87 != 0 { x87_state(&image, pointers) } else { Fpu::default() };
    }
    if requested & SSE != 0 {
        if present & SSE == 0 {
            image[image::XMM..image::LEGACY_BYTES].fill(0);
        }
        cpu.take_xmm(&image);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::cpu::control::{CR0_TS, CR4_OSFXSR, CR4_OSXSAVE};
    use crate::exception::{AbortReason, vector};
    use crate::fpu::F80;
    use crate::gpr;
    use crate::model::Features;
    use crate::testing::{Bench, CODE, DATA};

    const FXSAVE: &[u8] = &[0x0f, 0xae, 0x06];
    const FXSAVE64: &[u8] = &[0x48, 0x0f, 0xae, 0x06];
    const FXRSTOR: &[u8] = &[0x0f, 0xae, 0x0e];
    const FXRSTOR64: &[u8] = &[0x48, 0x0f, 0xae, 0x0e];
    const XSAVE64: &[u8] = &[0x48, 0x0f, 0xae, 0x26];
    const XRSTOR64: &[u8] = &[0x48, 0x0f, 0xae, 0x2e];

    fn step(bench: &mut Bench, code: &[u8]) -> Result<(), AbortReason> {
        bench.poke(CODE, code);
        bench.cpu.rip = CODE;
        bench.cpu.try_step(&mut bench.ram, &mut bench.board)
    }

    fn protection() -> Result<(), AbortReason> {
        Err(AbortReason::Exception { vector: vector::GP, error_code: Some(0) })
    }

    /// A CPU with something in every register, RSI at the image, whose bytes are all 0xee.
    fn busy() -> Bench {
        let mut bench = Bench::long();
        bench.cpu.model.features = Features::XSAVE;
        bench.cpu.cr4 |= CR4_OSXSAVE;
        bench.cpu.xcr0 = 3;
        bench.cpu.gpr[gpr::RSI] = DATA;
        bench.cpu.mxcsr = 0x9fa5;
        for n in 0..16 {
            bench.cpu.xmm[n] = 0x0101_0101_0101_0101_0202_0202_0202_0202 * n as u128;
        }
        let fpu = &mut bench.cpu.fpu;
        for n in 0..8 {
            let significand = 0x1111_1111_1111_1111 * n;
            fpu.registers[n as usize] = F80 { significand, sign_exponent: 0x4000 + n as u16 };
        }
        // Precision is unmasked and pending, so that the pointers exist.
        (fpu.valid, fpu.top, fpu.control, fpu.status) = (0x3c, 2, 0x35f, 0x80a0);
        (fpu.opcode, fpu.instruction_pointer, fpu.data_pointer) =
            (0x123, 0x1234_5678_9abc, 0x4321_8765_cba9);
        (fpu.instruction_selector, fpu.data_selector) = (0x33, 0x2b);
        bench.poke(DATA, &[0xee; 640]);
        bench
    }

    #[test]
    fn the_image_is_laid_out_as_in_the_manual() {
        let mut bench = busy();
        assert_eq!(step(&mut bench, FXSAVE64), Ok(()));
        let image = bench.peek::<512>(DATA);
        // FCW, FSW with TOP = 2, abridged tags, a zero, FOP, FIP, FDP, MXCSR, MXCSR_MASK.
        assert_eq!(image[..8], [0x5f, 0x03, 0xa0, 0x90, 0x3c, 0, 0x23, 0x01]);
        assert_eq!(image[8..16], 0x1234_5678_9abcu64.to_le_bytes());
        assert_eq!(image[16..24], 0x4321_8765_cba9u64.to_le_bytes());
        assert_eq!(image[24..32], [0xa5, 0x9f, 0, 0, 0xff, 0xff, 0, 0]);
        // ST(0) is physical register 2.
        assert_eq!(image[32..48], [[0x22; 8], [0x02, 0x40, 0, 0, 0, 0, 0, 0]].concat());
        assert_eq!(image[32 + 16 * 6..][..10], [0, 0, 0, 0, 0, 0, 0, 0, 0x00, 0x40]);
        assert_eq!(image[160 + 16 * 15..][..16], [[0x1e; 8], [0x0f; 8]].concat());
        assert_eq!(image[416..], [0xee; 96]);

        let mut bench = busy();
        assert_eq!(step(&mut bench, FXSAVE), Ok(()));
        let image = bench.peek::<32>(DATA);
        assert_eq!(image[8..16], [0xbc, 0x9a, 0x78, 0x56, 0x33, 0, 0, 0]);
        assert_eq!(image[16..24], [0xa9, 0xcb, 0x65, 0x87, 0x2b, 0, 0, 0]);
    }

    #[test]
    fn outside_64_bit_mode_there_are_eight_xmm_registers() {
        let mut bench = Bench::protected();
        bench.cpu.cr4 |= CR4_OSFXSR;
        bench.cpu.gpr[gpr::RSI] = DATA;
        bench.cpu.xmm = [u128::MAX; 16];
        bench.poke(DATA, &[0xee; 512]);
        assert_eq!(step(&mut bench, FXSAVE), Ok(()));
        let image = bench.peek::<512>(DATA);
        assert_eq!(image[160..288], [0xff; 128]);
        assert_eq!(image[288..], [0xee; 224]);
        bench.cpu.xmm = [1; 16];
        assert_eq!(step(&mut bench, FXRSTOR), Ok(()));
        assert_eq!((bench.cpu.xmm[7], bench.cpu.xmm[8]), (u128::MAX, 1));
        // Without CR4.OSFXSR the image has no SSE state.
        bench.cpu.cr4 &= !CR4_OSFXSR;
        bench.poke(DATA, &[0xee; 512]);
        assert_eq!(step(&mut bench, FXSAVE), Ok(()));
        assert_eq!(bench.peek::<8>(DATA + 24), [0xee; 8]);
        assert_eq!(bench.peek::<128>(DATA + 160), [0xee; 128]);
        assert_eq!(step(&mut bench, FXRSTOR), Ok(()));
        assert_eq!((bench.cpu.xmm[7], bench.cpu.mxcsr), (u128::MAX, 0x1f80));
    }

    #[test]
    fn restoring_undoes_saving() {
        for (save, restore) in [(FXSAVE64, FXRSTOR64), (XSAVE64, XRSTOR64)] {
            let mut bench = busy();
            bench.cpu.gpr[gpr::RAX] = 3;
            bench.cpu.fpu.instruction_selector = 0;
            bench.cpu.fpu.data_selector = 0;
            bench.poke(DATA + 512, &[0; 64]);
            let before = bench.cpu.state();
            assert_eq!(step(&mut bench, save), Ok(()));
            bench.cpu.xmm = [5; 16];
            bench.cpu.mxcsr = 0x1f80;
            bench.cpu.fpu = crate::Fpu::default();
            assert_eq!(step(&mut bench, restore), Ok(()));
            let after = bench.cpu.state();
            assert_eq!(after.fpu, before.fpu);
            assert_eq!((after.xmm, after.mxcsr), (before.xmm, before.mxcsr));
        }
    }

    #[test]
    fn legacy_images_are_checked() {
        let mut bench = busy();
        bench.cpu.gpr[gpr::RSI] = DATA + 8;
        assert_eq!(step(&mut bench, FXSAVE), protection());
        assert_eq!(step(&mut bench, FXRSTOR), protection());
        bench.cpu.gpr[gpr::RSI] = DATA;
        // 0xeeeeeeee is no MXCSR.
        let before = bench.cpu.state();
        assert_eq!(step(&mut bench, FXRSTOR), protection());
        let after = bench.cpu.state();
        assert_eq!((after.fpu, after.xmm, after.mxcsr), (before.fpu, before.xmm, before.mxcsr));
        // An image whose second page is missing is not written at all.
        bench.cpu.gpr[gpr::RSI] = (4 << 20) - 256;
        let result = step(&mut bench, FXSAVE);
        assert_eq!(result, Err(AbortReason::Exception { vector: vector::PF, error_code: Some(2) }));
        assert_eq!(bench.peek::<256>((4 << 20) - 256), [0; 256]);
        bench.cpu.cr0 |= CR0_TS;
        let unavailable = Err(AbortReason::Exception { vector: vector::NM, error_code: None });
        assert_eq!(step(&mut bench, FXSAVE), unavailable);
        assert_eq!(step(&mut bench, XSAVE64), unavailable);
    }

    #[test]
    fn xsave_writes_what_is_requested() {
        let mut bench = busy();
        bench.cpu.gpr[gpr::RAX] = 2;
        bench.poke(DATA + 512, &[0; 16]);
        assert_eq!(step(&mut bench, XSAVE64), Ok(()));
        let image = bench.peek::<640>(DATA);
        assert_eq!(image[..24], [0xee; 24]);
        assert_eq!(image[24..32], [0xa5, 0x9f, 0, 0, 0xff, 0xff, 0, 0]);
        assert_eq!(image[32..160], [0xee; 128]);
        assert_eq!(image[160 + 16..][..16], [[0x02; 8], [0x01; 8]].concat());
        assert_eq!(image[512..528], [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(image[528..], [0xee; 112]);
    }

    #[test]
    fn xrstor_initializes_what_the_image_lacks() {
        let mut bench = busy();
        bench.poke(DATA, &[0; 640]);
        bench.poke(DATA + 24, &0x1f80u32.to_le_bytes());
        bench.cpu.gpr[gpr::RAX] = 3;
        assert_eq!(step(&mut bench, XRSTOR64), Ok(()));
        assert_eq!(bench.cpu.xmm, [0; 16]);
        assert_eq!(bench.cpu.mxcsr, 0x1f80);
        assert_eq!(bench.cpu.fpu, crate::Fpu::default());
    }

    #[test]
    fn xrstor_refuses_bad_headers() {
        // Offset of a byte to set, and what it is.
        for (offset, name) in [
            (512, "XSTATE_BV bit 2"),
            (519, "XSTATE_BV high"),
            (520, "XCOMP_BV"),
            (527, "XCOMP_BV bit 63"),
            (528, "reserved"),
            (535, "reserved"),
            (27, "MXCSR"),
        ] {
            let mut bench = busy();
            bench.cpu.gpr[gpr::RAX] = 3;
            bench.poke(DATA, &[0; 640]);
            bench.poke(DATA + offset, &[0x84]);
            let before = bench.cpu.state();
            assert_eq!(step(&mut bench, XRSTOR64), protection(), "{name}");
            let after = bench.cpu.state();
            assert_eq!((after.fpu, after.xmm, after.mxcsr), (before.fpu, before.xmm, before.mxcsr));
        }
        let mut bench = busy();
        bench.cpu.gpr[gpr::RSI] = DATA + 16;
        assert_eq!(step(&mut bench, XRSTOR64), protection());
        bench.cpu.cr4 &= !CR4_OSXSAVE;
        let undefined = Err(AbortReason::Exception { vector: vector::UD, error_code: None });
        assert_eq!(step(&mut bench, XRSTOR64), undefined);
        // XSAVEC is not advertised.
        bench.cpu.cr4 |= CR4_OSXSAVE;
        assert_eq!(step(&mut bench, &[0x0f, 0xc7, 0x26]), undefined);
    }
}

//! The x87 and SSE registers: the legacy region of an XSAVE area (SDM vol. 1, 13.4.1; the layout: vol. 1, table 10-2).
//!
//! Not KVM_GET_FPU and KVM_SET_FPU: these leave MXCSR out, and what the latter sets is forgotten where the guest has not
//! used the registers since it was made, or since XRSTOR initialized them: XSTATE_BV says then that there is nothing.
//!
//! UNSAFETY: KVM_SET_XSAVE reads as many bytes as the vCPU's features need, which is told to be more than the structure
//! that it is given where a feature was enabled with `arch_prctl`. Nobody here enables one, and without that it is the 4096 bytes
//! of the structure.
#![expect(unsafe_code, reason = "KVM_SET_XSAVE; see UNSAFETY above")]

use crate::error::{KvmError, refused};
use dejavm_cpu::{CpuState, F80, Fpu};
use kvm_bindings::kvm_xsave;
use kvm_ioctls::VcpuFd;

// Offsets in the area.
const CONTROL: usize = 0;
const STATUS: usize = 2;
const VALID: usize = 4;
const OPCODE: usize = 6;
const INSTRUCTION_POINTER: usize = 8;
const DATA_POINTER: usize = 16;
const MXCSR: usize = 24;
const ST: usize = 32;
const XMM: usize = 160;
const XSTATE_BV: usize = 512;

/// XSTATE_BV: x87 and SSE state is in the area.
const X87_AND_SSE: u64 = 3;
/// TOP in the status word.
const TOP: u16 = 7 << 11;
/// The status word's bit for an unmasked exception that is pending.
const ERROR: u16 = 1 << 7;

/// The legacy region, and as much as says that it counts.
struct Area([u8; 576]);

impl Area {
    fn of(xsave: &kvm_xsave) -> Area {
        let mut bytes = [0; 576];
        for (to, word) in bytes.chunks_exact_mut(4).zip(xsave.region) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        Area(bytes)
    }

    fn into_xsave(self) -> kvm_xsave {
        let mut xsave = kvm_xsave::default();
        for (word, from) in xsave.region.iter_mut().zip(self.0.chunks_exact(4)) {
            *word = u32::from_le_bytes(from.try_into().expect("four bytes"));
        }
        xsave
    }

    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0[at..at + N].try_into().expect("a range of that length")
    }

    fn put<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        self.0[at..at + N].copy_from_slice(&bytes);
    }
}

/// Puts the registers into a vCPU.
pub(crate) fn load(vcpu: &VcpuFd, state: &CpuState) -> Result<(), KvmError> {
    let xsave = area(state).into_xsave();
    // SAFETY: see UNSAFETY.
    unsafe { vcpu.set_xsave(&xsave) }.map_err(refused("the x87 and SSE registers"))
}

/// Takes them out.
pub(crate) fn store(vcpu: &VcpuFd, state: &mut CpuState) -> Result<(), KvmError> {
    let xsave = vcpu.get_xsave().map_err(refused("the x87 and SSE registers"))?;
    // What XSTATE_BV leaves out, the kernel has filled with what it is then.
    take(state, &Area::of(&xsave));
    Ok(())
}

fn area(state: &CpuState) -> Area {
    let mut area = Area([0; 576]);
    let fpu = &state.fpu;
    area.put(CONTROL, fpu.control.to_le_bytes());
    area.put(STATUS, (fpu.status & !TOP | u16::from(fpu.top) << 11).to_le_bytes());
    area.put(VALID, fpu.valid.to_le_bytes());
    area.put(OPCODE, fpu.opcode.to_le_bytes());
    area.put(INSTRUCTION_POINTER, fpu.instruction_pointer.to_le_bytes());
    area.put(DATA_POINTER, fpu.data_pointer.to_le_bytes());
    area.put(MXCSR, state.mxcsr.to_le_bytes());
    for n in 0..8 {
        let F80 { significand, sign_exponent } = fpu.registers[(usize::from(fpu.top) + n) & 7];
        area.put(ST + 16 * n, significand.to_le_bytes());
        area.put(ST + 16 * n + 8, sign_exponent.to_le_bytes());
    }
    for (n, xmm) in state.xmm.iter().enumerate() {
        area.put(XMM + 16 * n, xmm.to_le_bytes());
    }
    area.put(XSTATE_BV, X87_AND_SSE.to_le_bytes());
    area
}

fn take(state: &mut CpuState, area: &Area) {
    let status = u16::from_le_bytes(area.get(STATUS));
    let pending = status & ERROR != 0;
    // See `Fpu::opcode`: only of an exception that is pending, so that no host's habits show.
    let only = |value: u64| if pending { value } else { 0 };
    let mut fpu = Fpu {
        valid: u8::from_le_bytes(area.get(VALID)),
        control: u16::from_le_bytes(area.get(CONTROL)),
        status: status & !TOP,
        top: (status >> 11 & 7) as u8,
        opcode: only(u16::from_le_bytes(area.get(OPCODE)).into()) as u16 & 0x7ff,
        instruction_pointer: only(u64::from_le_bytes(area.get(INSTRUCTION_POINTER))),
        data_pointer: only(u64::from_le_bytes(area.get(DATA_POINTER))),
        instruction_selector: if pending { state.fpu.instruction_selector } else { 0 },
        data_selector: if pending { state.fpu.data_selector } else { 0 },
        ..Fpu::default()
    };
    for n in 0..8 {
        fpu.registers[(usize::from(fpu.top) + n) & 7] = F80 {
            significand: u64::from_le_bytes(area.get(ST + 16 * n)),
            sign_exponent: u16::from_le_bytes(area.get(ST + 16 * n + 8)),
        };
    }
    state.fpu = fpu;
    state.mxcsr = u32::from_le_bytes(area.get(MXCSR));
    for (n, xmm) in state.xmm.iter_mut().enumerate() {
        *xmm = u128::from_le_bytes(area.get(XMM + 16 * n));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_is_that_of_fxsave_and_gives_back_what_was_put_in() {
        let mut state = CpuState::reset();
        state.fpu =
            Fpu { valid: 0b1100_0000, control: 0x27f, top: 6, status: 0x4100, ..Fpu::default() };
        state.fpu.registers[6] = F80 { significand: 1 << 63, sign_exponent: 0x3fff };
        state.mxcsr = 0x9fc0;
        state.xmm[15] = u128::MAX - 5;
        let area = area(&state);
        // FXSAVE's layout: ST0 is the first register, whichever it is; the tags are those of the registers themselves.
        assert_eq!(area.0[..5], [0x7f, 0x02, 0x00, 0x71, 0xc0]);
        assert_eq!(area.0[24..28], [0xc0, 0x9f, 0, 0]);
        assert_eq!(area.0[32..42], [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f]);
        assert_eq!((area.0[400], area.0[401]), (0xfa, 0xff));
        assert_eq!(area.0[512..520], [3, 0, 0, 0, 0, 0, 0, 0]);
        let mut taken = CpuState::reset();
        take(&mut taken, &Area::of(&area.into_xsave()));
        assert_eq!(taken, state);
    }
}

//! Which processor of the guest is which of Windows', and where Windows keeps its registers for debuggers.

use crate::windows::debugger_data::{DebuggerData, field};
use crate::windows::roots::{is_in_kernel, kpcr_candidates};
use crate::windows::space::Space;
use vmss::Vcpu;

/// KPCR's address of itself, and of the current KPRCB.
const KPCR_SELF_64: u64 = 0x18;
const KPCR_SELF_32: u64 = 0x1c;
const KPCR_PRCB: u64 = 0x20;
const PAGE: u64 = 4096;
/// Of [`Vcpu::gpr`].
const RSP: usize = 4;
/// Stacks of the kernel have 12 KiB in 32 bits, 24 in 64, and some are larger.
const STACK_BYTES_MAX: usize = 96 << 10;

/// A processor as Windows knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processor {
    /// Its number in the checkpoint.
    pub vcpu: usize,
    /// Its KPRCB.
    pub prcb: u64,
}

/// The processors that Windows uses, by its numbers.
pub fn list(space: &Space<'_>, data: &DebuggerData, vcpus: &[Vcpu]) -> Vec<Processor> {
    let table = data.address(field::KI_PROCESSOR_BLOCK);
    let prcbs: Vec<u64> = (0..vcpus.len() as u64)
        .map_while(|n| {
            let at = table.checked_add(n * space.pointer_bytes())?;
            space.pointer(at).filter(|&prcb| space.is_kernel(prcb))
        })
        .collect();
    let own: Vec<Option<u64>> = vcpus.iter().map(|vcpu| prcb_of(space, vcpu)).collect();
    // Those that say who they are; the others in their order, in the places left.
    let known: Vec<Option<usize>> =
        prcbs.iter().map(|&prcb| own.iter().position(|own| *own == Some(prcb))).collect();
    let mut left = (0..vcpus.len()).filter(|&vcpu| !known.contains(&Some(vcpu)));
    let both = prcbs.iter().zip(&known);
    let processors = both.filter_map(|(&prcb, known)| {
        let vcpu = known.or_else(|| left.next())?;
        Some(Processor { vcpu, prcb })
    });
    processors.collect()
}

/// The KPRCB of a processor by its segment bases, if KPCR is there.
fn prcb_of(space: &Space<'_>, vcpu: &Vcpu) -> Option<u64> {
    let own = if space.is_64() { KPCR_SELF_64 } else { KPCR_SELF_32 };
    kpcr_candidates(vcpu, space.is_64()).into_iter().find_map(|kpcr| {
        let is_itself = space.pointer(kpcr.checked_add(own)?)? == kpcr;
        if is_itself { space.pointer(kpcr.checked_add(KPCR_PRCB)?) } else { None }
    })
}

impl Processor {
    /// Where its CONTEXT is: by the pointer in KPRCB, in older systems in KPRCB itself.
    pub fn context(&self, space: &Space<'_>, data: &DebuggerData) -> Option<u64> {
        let by_pointer = data.offset(field::OFFSET_PRCB_CONTEXT).and_then(|offset| {
            space.pointer(self.prcb.checked_add(offset)?).filter(|&at| space.is_kernel(at))
        });
        by_pointer.or_else(|| {
            let offset = data.offset(field::OFFSET_PRCB_PROC_STATE_CONTEXT)?;
            self.prcb.checked_add(offset)
        })
    }

    /// Where its KSPECIAL_REGISTERS are, in KPRCB.
    pub fn special_registers(&self, data: &DebuggerData) -> Option<u64> {
        self.prcb.checked_add(data.offset(field::OFFSET_PRCB_PROC_STATE_SPECIAL_REG)?)
    }
}

/// The processor that called KeBugCheckEx, of a system that has crashed: its stack has the code and three parameters
/// side by side. 64-bit functions are given room for four arguments there, and KeBugCheckEx saves its own in it; 32-bit
/// ones are given them there.
pub fn crashed(
    space: &Space<'_>,
    processors: &[Processor],
    vcpus: &[Vcpu],
    bugcheck: &[u64; 5],
) -> Option<usize> {
    let [code, parameters @ ..] = bugcheck;
    let found = processors.iter().filter_map(|&Processor { vcpu, .. }| {
        let values = stack(space, vcpus[vcpu].gpr[RSP]);
        let at = values.windows(4).position(|four| {
            // The code has 32 bits.
            four[0] as u32 == *code as u32 && four[1..] == parameters[..3]
        });
        Some((at?, vcpu))
    });
    // Where one stack lies behind another, it is the nearer one's.
    found.min().map(|(_, vcpu)| vcpu)
}

/// What is on a stack, as far as it goes.
fn stack(space: &Space<'_>, pointer: u64) -> Vec<u64> {
    let long = space.pointer_bytes();
    let mut at = space.address(pointer) & !(long - 1);
    let mut bytes = Vec::new();
    while bytes.len() < STACK_BYTES_MAX && space.is_kernel(at) {
        let mut piece = vec![0; (PAGE - at % PAGE) as usize];
        if !space.read(at, &mut piece) {
            break;
        }
        at = at.wrapping_add(piece.len() as u64);
        bytes.extend(piece);
    }
    let value = |bytes: &[u8]| {
        let mut wide = [0; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(wide)
    };
    bytes.chunks_exact(long as usize).map(value).collect()
}

/// The processor that a debugger shows first of a system that lives: one that executes the kernel, better one that does
/// something.
pub fn current(processors: &[Processor], vcpus: &[Vcpu]) -> usize {
    let all = || processors.iter().map(|processor| processor.vcpu);
    let in_kernel = |vcpu: &usize| is_in_kernel(&vcpus[*vcpu]);
    let busy = |vcpu: &usize| !vcpus[*vcpu].is_halted;
    let found = all().find(|vcpu| in_kernel(vcpu) && busy(vcpu));
    found.or_else(|| all().find(busy)).or_else(|| all().next()).unwrap_or(0)
}

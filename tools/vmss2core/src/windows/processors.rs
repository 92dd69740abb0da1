//! Which processor of the guest is which of Windows', and where Windows keeps its registers for debuggers.

use crate::windows::debugger_data::{DebuggerData, field};
use crate::windows::roots::{is_in_kernel, kpcr_candidates};
use crate::windows::space::Space;
use vmss::Vcpu;

/// KPCR's address of itself, and of the current KPRCB.
const KPCR_SELF_64: u64 = 0x18;
const KPCR_SELF_32: u64 = 0x1c;
const KPCR_PRCB: u64 = 0x20;

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
    let mut left: Vec<usize> = (0..vcpus.len())
        .filter(|&vcpu| !own[vcpu].is_some_and(|prcb| prcbs.contains(&prcb)))
        .rev()
        .collect();
    let mut processors = Vec::new();
    for prcb in prcbs {
        let known = own.iter().position(|own| *own == Some(prcb));
        if let Some(vcpu) = known.or_else(|| left.pop()) {
            processors.push(Processor { vcpu, prcb });
        }
    }
    processors
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

/// The processor that a debugger shows first: one that executes the kernel, better one that does something.
pub fn current(processors: &[Processor], vcpus: &[Vcpu]) -> usize {
    let all = || processors.iter().map(|processor| processor.vcpu);
    let in_kernel = |vcpu: &usize| is_in_kernel(&vcpus[*vcpu]);
    let busy = |vcpu: &usize| !vcpus[*vcpu].is_halted;
    let found = all().find(|vcpu| in_kernel(vcpu) && busy(vcpu));
    found.or_else(|| all().find(busy)).or_else(|| all().next()).unwrap_or(0)
}

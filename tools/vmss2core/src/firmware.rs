//! A core of what an EFI firmware was doing when it met an exception it cannot handle.
//!
//! The exception handler pushes all registers into an `EFI_SYSTEM_CONTEXT_X64` or `_IA32` on its stack (UEFI specification,
//! 18.2, EFI_DEBUG_SUPPORT_PROTOCOL), prints them, and stays in a loop. The processor's own registers are those of the loop;
//! what a debugger wants is in that structure.

use crate::conversion::Conversion;
use crate::elf::{Core, notes};
use crate::error::Error;
use crate::guest::Guest;
use crate::linear;
use dejavm_linux::{GuestView, Space};
use dejavm_units::{Gpa, Gva};
use std::path::PathBuf;
use vmss::{SegmentRegister, Table, Vcpu, segment};

/// How far above the stack pointer a context is looked for: EDK II's handler uses less than a page, and its printing some.
const STACK_BYTES: u64 = 64 << 10;
/// `FxSaveState`
const FXSAVE_BYTES: u64 = 512;

/// A core of the address space in which the exception happened, with the registers of then: `vmss.core`.
pub fn core(conversion: &Conversion<'_>, at: Option<Gva>) -> Result<PathBuf, Error> {
    let guest = conversion.guest;
    let found = (0..guest.vcpus.len()).find_map(|n| Some((n, context(guest, n, at)?)));
    let Some((n, vcpu)) = found else {
        return Err(Error::NoContext { path: guest.path.clone(), at });
    };
    let is_64 = guest.vcpus[n].is_long_mode();
    let notes = [notes::status(&vcpu, n, is_64), notes::process(is_64)].concat();
    let segments = linear::segments(guest, n)?;
    let core = Core { is_64, notes: &notes, segments: &segments, alignment: 4096 };
    core.write(conversion, &conversion.output("vmss.core"))
}

/// The registers in the context at an address, or in one that the stack of a processor holds.
fn context(guest: &Guest, n: usize, at: Option<Gva>) -> Option<Vcpu> {
    let vcpu = &guest.vcpus[n];
    let read = |at: u64| Context::read(guest, n, at);
    let fits = |context: &Context| context.is_of(vcpu);
    let found = match at {
        Some(at) => read(at.0).filter(Context::is_possible),
        None => (vcpu.gpr[4] & !7..)
            .step_by(8)
            .take(STACK_BYTES as usize / 8)
            .find_map(|at| read(at).filter(fits)),
    };
    found.map(|context| context.vcpu)
}

/// A context, with what it says of tables and control registers.
struct Context {
    vcpu: Vcpu,
    /// CR1, which is reserved.
    cr1: u64,
}

impl Context {
    fn read(guest: &Guest, n: usize, at: u64) -> Option<Context> {
        let is_64 = guest.vcpus[n].is_long_mode();
        let width = if is_64 { 8 } else { 4 };
        // CR8 and R8 to R15 are in that of 64 bits only.
        let count = if is_64 { 46 } else { 33 };
        let mut bytes = vec![0; width * count];
        let begin = at.checked_add(width as u64 + FXSAVE_BYTES)?;
        read_linear(guest, guest.space(n), begin, &mut bytes)?;
        let mut words = bytes.chunks_exact(width).map(|word| {
            let mut wide = [0; 8];
            wide[..width].copy_from_slice(word);
            u64::from_le_bytes(wide)
        });
        let mut next = || words.next().unwrap_or(0);
        let mut vcpu = Vcpu { efer: guest.vcpus[n].efer, ..Vcpu::default() };
        for at in [0, 1, 2, 3, 6, 7] {
            vcpu.dr[at] = next();
        }
        let [cr0, cr1, cr2, cr3, cr4] = std::array::from_fn(|_| next());
        vcpu.cr = [cr0, 0, cr2, cr3, cr4, 0, 0, 0, if is_64 { next() } else { 0 }];
        vcpu.eflags = next() as u32;
        let mut selector = |at: usize, vcpu: &mut Vcpu| {
            vcpu.segments[at] =
                SegmentRegister { selector: next() as u16, ..guest.vcpus[n].segments[at] };
        };
        selector(segment::LDTR, &mut vcpu);
        selector(segment::TR, &mut vcpu);
        vcpu.gdtr = Table { base: next(), limit: next() as u16 };
        vcpu.idtr = Table { base: next(), limit: next() as u16 };
        vcpu.rip = next();
        let order = [segment::GS, segment::FS, segment::ES, segment::DS, segment::CS, segment::SS];
        for at in order {
            vcpu.segments[at] =
                SegmentRegister { selector: next() as u16, ..guest.vcpus[n].segments[at] };
        }
        // RDI, RSI, RBP, RSP, RBX, RDX, RCX, RAX, by the numbers of their encodings.
        for at in [7, 6, 5, 4, 3, 2, 1, 0] {
            vcpu.gpr[at] = next();
        }
        if is_64 {
            (8..16).for_each(|at| vcpu.gpr[at] = next());
        }
        Some(Context { vcpu, cr1 })
    }

    /// What every context has, wherever it was taken.
    fn is_possible(&self) -> bool {
        const PROTECTED: u64 = 1;
        const ALWAYS_SET: u32 = 2;
        self.vcpu.cr[0] & PROTECTED != 0 && self.cr1 == 0 && self.vcpu.eflags & ALWAYS_SET != 0
    }

    /// Taken by this processor, which has not left that handler since: its tables and page tables are the same.
    fn is_of(&self, vcpu: &Vcpu) -> bool {
        let system = |vcpu: &Vcpu| (vcpu.cr[0], vcpu.cr[3], vcpu.cr[4], vcpu.gdtr, vcpu.idtr);
        self.is_possible() && system(&self.vcpu) == system(vcpu)
    }
}

fn read_linear(guest: &Guest, space: Option<Space>, at: u64, into: &mut [u8]) -> Option<()> {
    let mut done = 0;
    while done < into.len() {
        let here = Gva(at.checked_add(done as u64)?);
        let count = ((0x1000 - (here.0 & 0xfff)) as usize).min(into.len() - done);
        let gpa = match space {
            Some(space) => space.translate(guest, here)?,
            None => Gpa(here.0),
        };
        guest.read_physical(gpa, &mut into[done..done + count]).then_some(())?;
        done += count;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use vmss::{GuestMemory, Region};

    const CONTEXT: u64 = 0x5120;

    /// A firmware in protected mode without paging, whose processor loops 0x120 bytes below a context.
    fn guest() -> Guest {
        let mut vcpu = Vcpu::default();
        vcpu.cr[0] = 0x23;
        vcpu.cr[4] = 0x640;
        vcpu.gpr[4] = CONTEXT - 0x120;
        vcpu.gdtr = Table { base: 0x3000, limit: 0x47 };
        vcpu.idtr = Table { base: 0x3100, limit: 0x7ff };
        let mut memory = vec![0u8; 0x10000];
        let words: Vec<u32> = [0u32; 6] // debug registers
            .into_iter()
            .chain([0x23, 0, 0xdead_0000, 0, 0x640, 0x10246, 0, 0x40])
            .chain([0x3000, 0x47, 0x3100, 0x7ff, 0xfff0_1234])
            .chain([0x18, 0x18, 0x18, 0x18, 0x10, 0x18])
            .chain((0..8).map(|n| 0x1111 * (n + 1)))
            .collect();
        for (at, word) in (CONTEXT as usize + 4 + 512..).step_by(4).zip(words) {
            memory[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        let region = Region { first_page: 0, page_in_file: 0, pages: 16 };
        let memory = GuestMemory::new(Arc::new(memory), 0, vec![region]).unwrap();
        Guest::new("x.vmss".into(), memory, vec![vcpu])
    }

    #[test]
    fn a_context_is_found_on_the_stack_or_taken_where_it_is_said_to_be() {
        let guest = guest();
        for at in [None, Some(Gva(CONTEXT))] {
            let vcpu = context(&guest, 0, at).expect("there is one");
            assert_eq!((vcpu.rip, vcpu.cr[2], vcpu.eflags), (0xfff0_1234, 0xdead_0000, 0x10246));
            assert_eq!(vcpu.segments[segment::CS].selector, 0x10);
            // EDI first, EAX last.
            assert_eq!((vcpu.gpr[7], vcpu.gpr[0]), (0x1111, 0x8888));
        }
        assert!(context(&guest, 0, Some(Gva(0x9000))).is_none());
        assert!(context(&guest, 0, Some(Gva(u64::MAX - 4))).is_none());
    }
}

//! The RAM and the bus that the CPU runs against, lent for the duration of one run.
//!
//! UNSAFETY: instruction handlers are reached through function pointers stored in decoded blocks and
//! take one `&mut Cpu`; threading two more borrows through each of them would cost registers on the
//! hottest path. So [`Cpu::lend`] stores both as raw pointers and [`Loan`]'s drop clears them. They
//! are dereferenced only here, only while the loan (which holds the exclusive borrows) is alive, and
//! each reference made from them lives for one call.
#![expect(unsafe_code, reason = "a scoped loan of RAM and bus; see UNSAFETY above")]

use crate::bus::Bus;
use crate::code::CodeCache;
use crate::cpu::Cpu;
use crate::mmu::Mmu;
use dejavm_memory::GuestRam;
use std::ptr::NonNull;

/// Pointers to what was lent, if anything.
#[derive(Default)]
pub(crate) struct Context {
    ram: Option<NonNull<GuestRam>>,
    bus: Option<NonNull<dyn Bus>>,
}

/// Keeps RAM and bus borrowed while the CPU may use them.
pub(crate) struct Loan<'a> {
    /// The CPU to run.
    pub(crate) cpu: &'a mut Cpu,
}

impl Cpu {
    /// Lends RAM and bus to the CPU until the returned guard is dropped.
    pub(crate) fn lend<'a>(
        &'a mut self,
        ram: &'a mut GuestRam,
        bus: &'a mut (dyn Bus + 'a),
    ) -> Loan<'a> {
        assert!(self.context.ram.is_none(), "a CPU runs against one board at a time");
        let bus: NonNull<dyn Bus + 'a> = NonNull::from(bus);
        // SAFETY: only the lifetime bound changes; the guard clears the pointer before 'a ends.
        let bus: NonNull<dyn Bus> = unsafe { std::mem::transmute(bus) };
        self.context = Context { ram: Some(NonNull::from(ram)), bus: Some(bus) };
        let loan = Loan { cpu: self };
        loan.cpu.attach();
        let ahead = loan.cpu.bus().tsc_ahead();
        loan.cpu.native.follow_tsc(ahead);
        loan
    }

    /// The board's RAM. Panics outside a run.
    #[inline]
    pub(crate) fn ram(&mut self) -> &mut GuestRam {
        let mut ram = self.context.ram.expect("RAM is lent while the CPU runs");
        // SAFETY: the loan holds the exclusive borrow, and `&mut self` keeps the reference unique.
        unsafe { ram.as_mut() }
    }

    /// The MMU's caches and the RAM, together.
    #[inline]
    pub(crate) fn mmu_and_ram(&mut self) -> (&mut Mmu, &mut GuestRam) {
        let mut ram = self.context.ram.expect("RAM is lent while the CPU runs");
        // SAFETY: as for `ram`; the MMU's caches are no part of it.
        (&mut self.mmu, unsafe { ram.as_mut() })
    }

    /// The decoded code and the RAM, together.
    #[inline]
    pub(crate) fn code_and_ram(&mut self) -> (&mut CodeCache, &mut GuestRam) {
        let mut ram = self.context.ram.expect("RAM is lent while the CPU runs");
        // SAFETY: as for `mmu_and_ram`.
        (&mut self.code, unsafe { ram.as_mut() })
    }

    /// The board. Panics outside a run.
    #[inline]
    pub(crate) fn bus(&mut self) -> &mut dyn Bus {
        let mut bus = self.context.bus.expect("the bus is lent while the CPU runs");
        // SAFETY: as for `ram`.
        unsafe { bus.as_mut() }
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        self.cpu.context = Context::default();
    }
}

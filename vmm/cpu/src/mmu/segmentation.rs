//! Segment offsets to linear addresses, with the checks of SDM vol. 3A, 5.3 to 5.5.

use super::walk::Access;
use crate::cpu::{Cpu, control};
use crate::exception::{Abort, vector};
use crate::flags::rflags;
use crate::segment::SegReg;

/// Whether bits 63:47 of a linear address are all equal (4-level paging).
#[inline]
pub(crate) const fn is_canonical(linear: u64) -> bool {
    ((linear as i64) << 16 >> 16) as u64 == linear
}

impl Cpu {
    /// The linear address of `offset` in the code segment, without checks.
    #[inline]
    pub(crate) fn cs_linear(&self, offset: u64) -> u64 {
        if self.is_64bit() { offset } else { self.cs().base.wrapping_add(offset) & 0xffff_ffff }
    }

    /// The linear address of `size` bytes at `offset` of a segment; #GP(0), or #SS(0) for the stack,
    /// if the segment does not allow the access.
    pub(crate) fn linear(
        &mut self,
        s: SegReg,
        offset: u64,
        size: u32,
        write: bool,
    ) -> Result<u64, Abort> {
        let segment = &self.seg[s as usize];
        if self.is_64bit() {
            let base = if matches!(s, SegReg::Fs | SegReg::Gs) { segment.base } else { 0 };
            let linear = base.wrapping_add(offset);
            let last = linear.wrapping_add(u64::from(size) - 1);
            if !is_canonical(linear) || !is_canonical(last) {
                return Err(self.segment_fault(s));
            }
            return self.observed(linear, size, write);
        }
        let rights = segment.rights;
        let allowed = !rights.is_null()
            && if self.is_real_mode() || self.is_v86() {
                true
            } else if write {
                rights.is_writable()
            } else {
                rights.is_readable()
            };
        let last = offset + u64::from(size) - 1;
        let within = if rights.is_expand_down() {
            let top = if rights.is_big() { 0xffff_ffff } else { 0xffff };
            offset > u64::from(segment.limit) && last <= top
        } else {
            last <= u64::from(segment.limit)
        };
        if !allowed || !within {
            return Err(self.segment_fault(s));
        }
        let linear = segment.base.wrapping_add(offset) & 0xffff_ffff;
        self.observed(linear, size, write)
    }

    /// What becomes of an access that its segment allows: alignment is checked, data breakpoints are
    /// noted.
    #[inline]
    pub(crate) fn observed(&mut self, linear: u64, size: u32, write: bool) -> Result<u64, Abort> {
        if self.checks_alignment() {
            self.check_alignment(linear, size, write)?;
        }
        self.data_breakpoint(linear, size, write);
        Ok(linear)
    }

    /// Whether misaligned data accesses fault: CR0.AM, EFLAGS.AC and level 3 (SDM vol. 3A, 6.15,
    /// interrupt 17).
    #[inline]
    pub(crate) fn checks_alignment(&self) -> bool {
        self.flag(rflags::AC) && self.cpl == 3 && self.cr0 & control::CR0_AM != 0
    }

    /// #AC(0) for a misaligned word, doubleword or quadword; a page fault comes first.
    #[cold]
    fn check_alignment(&mut self, linear: u64, size: u32, write: bool) -> Result<(), Abort> {
        let misaligned = matches!(size, 2 | 4 | 8) && linear & u64::from(size - 1) != 0;
        if !misaligned {
            return Ok(());
        }
        let access = if write { Access::Write } else { Access::Read };
        self.translate(linear, access)?;
        self.translate(linear.wrapping_add(u64::from(size) - 1), access)?;
        Err(self.exception(vector::AC, Some(0)))
    }

    #[cold]
    fn segment_fault(&mut self, s: SegReg) -> Abort {
        let vector = if s == SegReg::Ss { vector::SS } else { vector::GP };
        self.exception(vector, Some(0))
    }
}

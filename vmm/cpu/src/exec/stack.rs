//! Stacks that control transfers push to and pop from before they commit to them.
//!
//! A transfer works on a [`Stack`], a copy of SS and the stack pointer, and changes the registers
//! only when all its accesses have succeeded, so that a fault leaves them as they were.

use crate::cpu::Cpu;
use crate::exception::Abort;
use crate::mmu::is_canonical;
use crate::segment::{SegReg, Segment};

/// A stack segment and pointer, current or about to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stack {
    segment: Segment,
    /// Offset of the top.
    pub(crate) pointer: u64,
    /// Width of the pointer in bytes: 2, 4 or 8 (8: 64-bit mode, the segment counts for nothing).
    width: u32,
    /// Accesses are made with user rights.
    user: bool,
    /// Error code of #SS when an access does not fit.
    error_code: u32,
}

impl Stack {
    /// The stack that a transfer to privilege level `cpl` will use.
    pub(crate) fn inner(segment: Segment, pointer: u64, cpl: u8, error_code: u32) -> Stack {
        let width = if segment.rights.is_big() { 4 } else { 2 };
        let pointer = pointer & mask(width);
        Stack { segment, pointer, width, user: cpl == 3, error_code }
    }

    /// The flat stack of 64-bit mode.
    pub(crate) fn flat(pointer: u64, cpl: u8) -> Stack {
        Stack { segment: Segment::default(), pointer, width: 8, user: cpl == 3, error_code: 0 }
    }

    fn linear(&self, offset: u64, size: u32, checked: bool) -> Option<u64> {
        if self.width == 8 {
            let last = offset.wrapping_add(u64::from(size) - 1);
            return (is_canonical(offset) && is_canonical(last)).then_some(offset);
        }
        let Segment { limit, base, rights, .. } = self.segment;
        let last = offset + u64::from(size) - 1;
        let within = if checked && rights.is_expand_down() {
            let top = if rights.is_big() { 0xffff_ffff } else { 0xffff };
            offset > u64::from(limit) && last <= top
        } else {
            last <= u64::from(limit)
        };
        let usable = !checked || !rights.is_null();
        (within && usable).then_some(base.wrapping_add(offset) & 0xffff_ffff)
    }
}

const fn mask(width: u32) -> u64 {
    match width {
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

impl Cpu {
    /// The current stack, to try pushes or pops on.
    pub(crate) fn current_stack(&self) -> Stack {
        let width = self.stack_size();
        Stack {
            segment: self.seg[SegReg::Ss as usize],
            pointer: self.gpr[crate::cpu::gpr::RSP] & mask(width),
            width,
            user: self.cpl == 3,
            error_code: 0,
        }
    }

    /// Pushes `size` bytes.
    pub(crate) fn push_on(&mut self, stack: &mut Stack, v: u64, size: u32) -> Result<(), Abort> {
        let pointer = stack.pointer.wrapping_sub(size.into()) & mask(stack.width);
        let linear = self.stack_linear(stack, pointer, size)?;
        self.observed(linear, size, true)?;
        self.store_as(linear, v, size, stack.user)?;
        stack.pointer = pointer;
        Ok(())
    }

    /// Pops `size` bytes, zero-extended.
    pub(crate) fn pop_from(&mut self, stack: &mut Stack, size: u32) -> Result<u64, Abort> {
        let value = self.peek_stack(stack, 0, size)?;
        self.release_stack(stack, u64::from(size));
        Ok(value)
    }

    /// Reads `size` bytes at `offset` above the top.
    pub(crate) fn peek_stack(
        &mut self,
        stack: &Stack,
        offset: u64,
        size: u32,
    ) -> Result<u64, Abort> {
        let pointer = stack.pointer.wrapping_add(offset) & mask(stack.width);
        let linear = self.stack_linear(stack, pointer, size)?;
        self.observed(linear, size, false)?;
        self.load_as(linear, size, stack.user)
    }

    /// Drops `bytes` from the stack.
    pub(crate) fn release_stack(&mut self, stack: &mut Stack, bytes: u64) {
        stack.pointer = stack.pointer.wrapping_add(bytes) & mask(stack.width);
    }

    /// Makes the stack pointer what the transfer left; SS is the caller's.
    pub(crate) fn commit_stack_pointer(&mut self, stack: &Stack) {
        let register = &mut self.gpr[crate::cpu::gpr::RSP];
        *register = match stack.width {
            2 => *register & !0xffff | stack.pointer,
            _ => stack.pointer,
        };
    }

    /// SS of a stack that a transfer switched to, and its pointer.
    pub(crate) fn commit_stack(&mut self, stack: &Stack) {
        self.seg[SegReg::Ss as usize] = stack.segment;
        self.commit_stack_pointer(stack);
        self.end_of_block = true;
    }

    fn stack_linear(&mut self, stack: &Stack, offset: u64, size: u32) -> Result<u64, Abort> {
        let checked = !self.is_real_mode() && !self.is_v86();
        // A V86 handler's stack is a protected-mode one; V86's own is not checked beyond its limit,
        // which its rights (expand-up) express as well.
        match stack.linear(offset, size, checked) {
            Some(linear) => Ok(linear),
            None => Err(self.stack_segment_fault(stack.error_code)),
        }
    }
}

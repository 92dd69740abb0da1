//! One decoded instruction, and how execution goes from one to the next.
//!
//! UNSAFETY: decoded blocks form a graph with cycles that is mutated while it runs (links are filled
//! in), so operations are reached through [`OpRef`], a raw pointer. It always points into the arena
//! of [`super::cache::CodeCache`], whose chunks never move and are freed only by
//! [`CodeCache::clear`](super::cache::CodeCache::clear), which the run loop calls between blocks and
//! which invalidates everything that holds an `OpRef` (jump cache, block table, pending link). A
//! block's last operation never goes on to its neighbour, so `next` stays inside the block.
#![expect(unsafe_code, reason = "operations are reached through arena pointers; see UNSAFETY")]

use crate::cpu::{Cpu, ZERO_REG};
use crate::exec::Exec;
use iced_x86::Instruction;
use std::cell::Cell;
use std::ops::Deref;
use std::ptr::NonNull;

/// What executing an operation returns. In optimised builds each handler ends in a call of the next
/// one, which the compiler turns into a jump (same signature, nothing to drop), so nothing returns
/// until the block chain is left. Elsewhere a loop calls them.
#[cfg(not(any(debug_assertions, feature = "loop-dispatch")))]
pub(crate) type Flow = ();
/// What executing an operation returns: the next operation, or `None` to leave.
#[cfg(any(debug_assertions, feature = "loop-dispatch"))]
pub(crate) type Flow = Option<OpRef>;

/// Code for one kind of operation.
pub(crate) type Handler = fn(&mut Cpu, OpRef) -> Flow;

/// A decoded instruction: 32 bytes, two to a cache line.
#[repr(C)]
pub(crate) struct Op {
    pub(crate) handler: Handler,
    /// Immediate, sign-extended; in a block header, the number of instructions; in a branch, the
    /// target relative to the page; in a reference operation, a pointer to its [`Reference`].
    pub(crate) imm: u64,
    /// Displacement; with [`PAGE_REG`](crate::cpu::PAGE_REG) as base, relative to the page.
    pub(crate) disp: i32,
    /// Offset of the instruction in its page.
    pub(crate) offset: u16,
    /// Length of the instruction in bytes.
    pub(crate) len: u8,
    /// Instructions of the block from this one to the end, itself included.
    pub(crate) rest: u8,
    /// Destination or only register operand (index into `gpr` or `xmm`).
    pub(crate) dst: u8,
    /// Source register operand.
    pub(crate) src: u8,
    /// Base register of the memory operand.
    pub(crate) base: u8,
    /// Index register.
    pub(crate) index: u8,
    /// log2 of the index's scale.
    pub(crate) scale: u8,
    /// Segment register whose base is added; 6 for none.
    pub(crate) segment: u8,
    /// Bit 0: the taken target lies in this page; bit 1: so does the fall-through.
    pub(crate) near: u8,
    pub(crate) unused: u8,
}

impl Op {
    /// An operation without operands.
    pub(crate) const fn new(handler: Handler) -> Op {
        Op {
            handler,
            imm: 0,
            disp: 0,
            offset: 0,
            len: 0,
            rest: 0,
            dst: ZERO_REG,
            src: ZERO_REG,
            base: ZERO_REG,
            index: ZERO_REG,
            scale: 0,
            segment: NO_SEGMENT,
            near: 0,
            unused: 0,
        }
    }
}

/// [`Op::segment`] when no base is added: a slot of `Cpu::seg` that is always zero.
pub(crate) const NO_SEGMENT: u8 = 6;

const _: () = assert!(size_of::<Op>() == 32);
const _: () = assert!(size_of::<Links>() <= size_of::<Op>());

/// A block header's number of instructions that no budget pays.
pub(crate) const UNPAYABLE: u64 = i64::MAX as u64;

/// Where a branch's two ways lead, once known. Occupies the slot after a branch.
#[repr(C)]
#[derive(Default)]
pub(crate) struct Links {
    taken: Cell<Option<OpRef>>,
    fall: Cell<Option<OpRef>>,
}

/// Which way a branch went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Taken,
    Fall,
}

/// A decoded instruction kept whole, for the reference semantics.
pub(crate) struct Reference {
    pub(crate) instruction: Instruction,
    pub(crate) exec: Exec,
}

/// Points to an operation in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct OpRef(NonNull<Op>);

impl Deref for OpRef {
    type Target = Op;
    #[inline(always)]
    fn deref(&self) -> &Op {
        // SAFETY: points to a live operation of the arena; see the module's argument.
        unsafe { self.0.as_ref() }
    }
}

impl OpRef {
    /// The operation at an index of a chunk.
    pub(crate) fn new(chunk: &mut Vec<Op>, index: usize) -> OpRef {
        assert!(index < chunk.len());
        // From the vector's own pointer, which may reach the neighbours and be written through.
        OpRef(NonNull::new(chunk.as_mut_ptr().wrapping_add(index)).expect("inside the arena"))
    }

    /// The operation after this one in its block.
    #[inline(always)]
    pub(crate) fn next(self) -> OpRef {
        // SAFETY: only operations that do not end a block call this; the block goes on.
        OpRef(unsafe { self.0.add(1) })
    }

    /// The links of a branch.
    #[inline(always)]
    pub(crate) fn links(&self) -> &Links {
        // SAFETY: the builder puts `Links` after every operation whose handler calls this; both fit
        // the slot's size and alignment. Links are `Cell`s and only ever accessed as such.
        unsafe { self.0.add(1).cast::<Links>().as_ref() }
    }

    /// The address, for host code.
    pub(crate) fn address(self) -> u64 {
        self.0.as_ptr() as u64
    }

    /// What [`OpRef::address`] returned, back from host code.
    pub(crate) fn from_host_code(pointer: NonNull<Op>) -> OpRef {
        OpRef(pointer)
    }

    /// The operation that this one, behind a copy of it, leads back to.
    pub(crate) fn came_from(self) -> OpRef {
        OpRef(NonNull::new(self.imm as *mut Op).expect("the builder stored an operation's address"))
    }

    /// Counts an entry of a block that is not translated yet.
    pub(crate) fn cool(self) {
        // SAFETY: as for `retire`.
        unsafe { (*self.0.as_ptr()).unused -= 1 };
    }

    /// Makes a block header enter host code.
    pub(crate) fn become_native(self, handler: Handler, entry: u32) {
        // SAFETY: as for `retire`.
        unsafe {
            (*self.0.as_ptr()).handler = handler;
            (*self.0.as_ptr()).disp = entry as i32;
        }
    }

    /// Makes a block header an ordinary one of `count` instructions.
    pub(crate) fn become_interpreted(self, handler: Handler, count: u64) {
        // SAFETY: as for `retire`.
        unsafe {
            (*self.0.as_ptr()).handler = handler;
            (*self.0.as_ptr()).imm = count;
        }
    }

    /// Puts empty links into this slot.
    pub(crate) fn write_links(self) {
        // SAFETY: the slot belongs to the block under construction and nothing reads it as an `Op`.
        unsafe { self.0.cast::<Links>().write(Links::default()) };
    }

    /// The whole instruction of a reference operation.
    #[inline(always)]
    pub(crate) fn reference(&self) -> &Reference {
        // SAFETY: the builder stored the address of a `Reference` that lives as long as the arena.
        unsafe { &*(self.imm as *const Reference) }
    }

    /// Makes a block header send everyone who still links to the block back to the run loop.
    pub(crate) fn retire(self, dead: Handler) {
        // SAFETY: single-threaded; no `&Op` is held across a call that can retire blocks, except by
        // handlers running alone, which do not read their own header again.
        unsafe {
            (*self.0.as_ptr()).handler = dead;
            (*self.0.as_ptr()).imm = UNPAYABLE;
        }
    }
}

impl Links {
    #[inline(always)]
    pub(crate) fn get(&self, way: Way) -> Option<OpRef> {
        match way {
            Way::Taken => self.taken.get(),
            Way::Fall => self.fall.get(),
        }
    }
    pub(crate) fn set(&self, way: Way, to: OpRef) {
        match way {
            Way::Taken => self.taken.set(Some(to)),
            Way::Fall => self.fall.set(Some(to)),
        }
    }
}

/// Goes on to an operation: the last thing a handler does.
#[cfg(not(any(debug_assertions, feature = "loop-dispatch")))]
macro_rules! go {
    ($cpu:expr, $op:expr) => {{
        let op: $crate::code::OpRef = $op;
        return (op.handler)($cpu, op);
    }};
}
#[cfg(any(debug_assertions, feature = "loop-dispatch"))]
macro_rules! go {
    ($cpu:expr, $op:expr) => {{
        let _ = &$cpu;
        return Some($op);
    }};
}
/// Leaves the chain of blocks, for the reason put in `cpu.exit`.
#[cfg(not(any(debug_assertions, feature = "loop-dispatch")))]
macro_rules! leave {
    () => {
        return
    };
}
#[cfg(any(debug_assertions, feature = "loop-dispatch"))]
macro_rules! leave {
    () => {
        return None
    };
}
pub(crate) use {go, leave};

/// Runs from a block header until the chain is left.
#[inline]
pub(crate) fn run_chain(cpu: &mut Cpu, header: OpRef) {
    #[cfg(not(any(debug_assertions, feature = "loop-dispatch")))]
    (header.handler)(cpu, header);
    #[cfg(any(debug_assertions, feature = "loop-dispatch"))]
    {
        let mut op = Some(header);
        while let Some(now) = op {
            op = (now.handler)(cpu, now);
        }
    }
}

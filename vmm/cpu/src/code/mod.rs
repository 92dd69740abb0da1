//! Decoded code: operations, the blocks they form, and the ways to find a block.

mod cache;
mod jumps;
mod op;
mod recent;

pub(crate) use cache::{BlockKey, CodeCache};
pub(crate) use jumps::{JumpCache, context};
pub(crate) use op::{
    Flow, Handler, NO_SEGMENT, Op, OpRef, Reference, UNPAYABLE, Way, go, leave, run_chain,
};
pub(crate) use recent::{INSTRUCTION_BYTES_MAX, Recent, RecentInstructions};

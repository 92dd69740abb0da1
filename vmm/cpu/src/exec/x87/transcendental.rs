//! placeholder
use crate::exec::Exec;
use iced_x86::Instruction;
pub(super) fn select(_i: &Instruction) -> Option<Exec> {
    None
}

//! The refusal of a saved state.

use thiserror::Error;

/// A saved state that the chip cannot hold: a damaged or hostile file, or another configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("the saved state of {chip} is not one that it can hold: field `{field}` is out of range")]
pub struct RestoreError {
    /// Which chip.
    pub chip: &'static str,
    /// The first field found out of range.
    pub field: &'static str,
}

impl RestoreError {
    /// `Ok` if `valid`, else the refusal of `field` of `chip`.
    pub(crate) fn unless(
        valid: bool,
        chip: &'static str,
        field: &'static str,
    ) -> Result<(), RestoreError> {
        if valid { Ok(()) } else { Err(RestoreError { chip, field }) }
    }
}

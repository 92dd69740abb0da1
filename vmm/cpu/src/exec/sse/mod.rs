//! SSE to SSE4.2, AES-NI and PCLMULQDQ, in their legacy encodings (SDM vol. 1, chapters 10 to 12).
//!
//! VEX and EVEX encodings are #UD: no model advertises AVX. Floating-point arithmetic is done by the
//! host's own units ([`host`]), because IEEE 754, flush-to-zero, denormals-are-zeros and the choice
//! among NaN operands are the same on all x86 CPUs. Whatever vendors do differently (RCPPS and
//! RSQRTPS, the fields of the saved image) is defined here, in software.

pub(super) mod approximate;
pub(super) mod compare;
#[cfg(test)]
mod comparison;
pub(super) mod control;
pub(super) mod convert;
pub(super) mod crypto;
#[cfg(test)]
mod faults;
pub(super) mod float;
mod host;
pub(super) mod integer;
mod lanes;
pub(super) mod mmx;
pub(super) mod moves;
mod mxcsr;
#[cfg(test)]
mod native;
mod operand;
pub(crate) mod packed;
pub(super) mod round;
pub(super) mod save;
pub(crate) mod shuffle;
pub(super) mod strings;

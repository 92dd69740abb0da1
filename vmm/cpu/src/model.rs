//! CPU models: what CPUID says, and which instructions exist because of it.

use serde::{Deserialize, Serialize};

/// A named CPU model, frozen in every recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Model {
    /// `dejavm-v1`: a 32-bit CPU with PAE, SSE and SSE2.
    V1,
    /// `dejavm-v2`: x86-64-v2 (SSE4.2, POPCNT, CMPXCHG16B), the default.
    V2,
}

//! Two machines that differ only in what no guest can see (how the TLB is sized and disturbed, whether
//! decoded blocks execute or the reference semantics), run side by side and compared.
//!
//! CPU and chips are compared every few thousand instructions, at pseudo-random distances; RAM every few
//! million, by the pages that were written since: the sets must be equal and so must the contents. At a
//! difference both are run again from the last comparison, to the first position that shows it.

mod disassembly;
mod twins;

pub use twins::{Random, Report, Twins, configuration};

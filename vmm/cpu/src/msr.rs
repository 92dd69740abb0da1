//! The model-specific registers that hold plain values.

use serde::{Deserialize, Serialize};

/// MSRs kept by the CPU itself (SDM vol. 4). EFER is in [`Cpu`](crate::Cpu); FS and GS bases are the
/// segments' own; the APIC base belongs to the board.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the manual's names")]
pub struct Msrs {
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub tsc_aux: u64,
    /// Added to the board's counter: what WRMSR to IA32_TSC left.
    pub tsc_offset: u64,
    pub pat: u64,
    pub misc_enable: u64,
    pub debugctl: u64,
    pub mtrr_def_type: u64,
    pub mtrr_fixed: [u64; 11],
    pub mtrr_variable: [[u64; 2]; 8],
}

//! Whether the host's processor is one that QEMU emulates (the lab's), and what such a one does otherwise than silicon.

use std::arch::x86_64::__cpuid;
use std::sync::OnceLock;

/// CPUID leaf 40000000H of a processor that QEMU's translator emulates: EBX, ECX, EDX (target/i386/cpu.c).
const SIGNATURE: [u32; 3] = [0x5447_4354, 0x4354_4743, 0x4743_5447];

/// Whether QEMU executes what this processor does. It takes a TSS for one of 32 bits only while its descriptor calls that
/// available, which LTR leaves there and VMRUN loads as it is: a busy one ends QEMU at the next change to ring 0 ("invalid tss
/// type", 7.2).
pub(crate) fn is_qemus() -> bool {
    // CPUID is slow where a hypervisor answers it.
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let hypervisor = __cpuid(1).ecx >> 31 & 1 != 0;
        let leaf = __cpuid(0x4000_0000);
        hypervisor && [leaf.ebx, leaf.ecx, leaf.edx] == SIGNATURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_its_text() {
        let bytes: Vec<u8> = SIGNATURE.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(bytes, b"TCGTCGTCGTCG");
    }
}

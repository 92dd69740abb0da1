//! The model's CPUID, frozen into the kernel.

use crate::emulated_host;
use crate::error::{KvmError, refused};
use crate::host::Host;
use dejavm_cpu::{Cpuid, Features, Model};
use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2,
};
use kvm_ioctls::VcpuFd;
use std::arch::x86_64::{__cpuid, __cpuid_count};

/// Leaves with subleaves, and how many a model has. Where a model has none (leaf 12H), the kernel must not find one all the same: it sets bits of
/// subleaf 1 of SGX's leaf (`kvm_vcpu_after_set_cpuid`), which an entry for every subleaf is too.
const SUBLEAVES: [(u32, u32); 5] = [(0x4, 4), (0x7, 1), (0xb, 3), (0xd, 2), (SGX, 1)];
/// SGX's leaf: no model has it.
const SGX: u32 = 0x12;
/// Beyond the model's own there are none.
const LEAVES_MAX: u32 = 64;
/// A register of a leaf.
type Register = fn(&Cpuid) -> u32;

/// Features that need something of the host's processor: what the guest executes, it executes. The others are the board's, or
/// names.
const FROM_HOST: [(u32, Register, u32, &str); 4] = [
    // All but OSXSAVE, the hypervisor's bit, and the TSC deadline: who says them is the hypervisor.
    (1, |leaf| leaf.ecx, !(1 << 27 | 1 << 31 | 1 << 24 | 1 << 21), "ECX of leaf 1"),
    // All but the APIC's, machine check's and MTRRs', which are the board's.
    (1, |leaf| leaf.edx, !(VME | 1 << 9 | 1 << 7 | 1 << 14 | 1 << 12), "EDX of leaf 1"),
    // TSC_ADJUST and what is said of FCS and FDS are ours.
    (7, |leaf| leaf.ebx, !(1 << 1 | 1 << 6 | 1 << 9 | 1 << 13), "EBX of leaf 7"),
    (0x8000_0001, |leaf| leaf.edx, u32::MAX, "EDX of leaf 80000001H"),
];

/// Virtual-8086 mode extensions: not every host's processor has them (an emulated one does not), and no 64-bit system asks. On
/// KVM no model has them: [`on_kvm`] says so, and recordings of versions that did not are replayed as they were made.
const VME: u32 = 1 << 1;

/// The model that a machine is to be of for which KVM here is wanted, so that other engines tell the guest the same and execute the
/// same: without what no guest of KVM's is told, and with what it finds although it is not told.
pub fn on_kvm(model: Model) -> Model {
    let found =
        [(has_tzcnt(), Features::HIDDEN_TZCNT), (emulated_host::is_qemus(), Features::QEMU)];
    found
        .into_iter()
        .filter(|&(is, _)| is)
        .fold(model.with(Features::NO_VME), |model, (_, feature)| model.with(feature))
}

/// TZCNT and LZCNT, which no hypervisor can keep from a guest: SDM vol. 2A, leaves 7 and 80000001H.
fn has_tzcnt() -> bool {
    __cpuid_count(7, 0).ebx >> 3 & 1 != 0 && __cpuid(0x8000_0001).ecx >> 5 & 1 != 0
}

/// Freezes the model's CPUID into a vCPU. Whether the host can do what it says, [`check`] tells.
pub(crate) fn freeze(vcpu: &VcpuFd, model: Model, apic_id: u8) -> Result<(), KvmError> {
    let entries: Vec<_> = leaves(model, apic_id)
        .map(|(function, index, leaf)| {
            let has_index = subleaves(function).is_some();
            kvm_cpuid_entry2 {
                function,
                index,
                flags: if has_index { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
                eax: leaf.eax,
                ebx: leaf.ebx,
                ecx: leaf.ecx,
                edx: if function == 1 { leaf.edx & !VME } else { leaf.edx },
                padding: [0; 3],
            }
        })
        .collect();
    let table = CpuId::from_entries(&entries).expect("a model has few leaves");
    vcpu.set_cpuid2(&table).map_err(refused("the model's CPUID"))
}

/// How many subleaves a model has of a leaf, if there it is the subleaf that matters.
fn subleaves(leaf: u32) -> Option<u32> {
    SUBLEAVES.iter().find(|&&(of, _)| of == leaf).map(|&(_, count)| count)
}

/// Every leaf and subleaf of a model.
fn leaves(model: Model, apic_id: u8) -> impl Iterator<Item = (u32, u32, Cpuid)> {
    let ranges = [0u32, 0x4000_0000, 0x8000_0000].into_iter().flat_map(move |first| {
        let last = model.cpuid(first, 0, apic_id, false).eax;
        first..=last.min(first + LEAVES_MAX)
    });
    ranges.flat_map(move |leaf| {
        (0..subleaves(leaf).unwrap_or(1))
            .map(move |index| (leaf, index, model.cpuid(leaf, index, apic_id, false)))
    })
}

/// Whether the host can do what a model's CPUID says.
pub(crate) fn check(host: &Host, model: Model, apic_id: u8) -> Result<(), KvmError> {
    let offered = host
        .kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(refused("the list of what it supports"))?;
    for (is, feature) in
        [(has_tzcnt(), Features::HIDDEN_TZCNT), (emulated_host::is_qemus(), Features::QEMU)]
    {
        if model.features.contains(feature) && !is {
            let what = "what the guest finds although CPUID does not say it".to_owned();
            return Err(KvmError::Model { what, model: model.to_string() });
        }
    }
    for (leaf, register, mask, name) in FROM_HOST {
        let wanted = register(&model.cpuid(leaf, 0, apic_id, false)) & mask;
        let entry =
            offered.as_slice().iter().find(|entry| entry.function == leaf && entry.index == 0);
        let has = entry.map_or(0, |entry| {
            let leaf = Cpuid { eax: entry.eax, ebx: entry.ebx, ecx: entry.ecx, edx: entry.edx };
            register(&leaf)
        });
        if wanted & !has != 0 {
            let what = format!("bits {:#x} in {name}", wanted & !has);
            return Err(KvmError::Model { what, model: model.to_string() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{SGX, leaves, subleaves};

    /// `kvm_vcpu_after_set_cpuid` sets ECX bits 0 and 1 in the entry that it finds for subleaf 1 of leaf 12H; one that has no
    /// significant index it finds for every subleaf.
    #[test]
    fn the_kernel_finds_no_subleaf_of_sgx_to_change() {
        let model = "dejavm-v2".parse().expect("a model that there is");
        let sgx: Vec<_> = leaves(model, 0).filter(|&(leaf, ..)| leaf == SGX).collect();
        assert!(matches!(sgx[..], [(_, 0, _)]), "{} entries", sgx.len());
        assert_eq!(subleaves(SGX), Some(1));
        assert_eq!(subleaves(1), None);
    }
}

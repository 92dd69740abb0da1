//! How CPUID tells of several processors (SDM vol. 3A, 9.9): one package, a core for each, which share nothing. A machine of one
//! processor has the leaves of [`Model::cpuid`].

use crate::model::{Cpuid, Model};

/// Leaf 1, EDX: the package may hold more than one logical processor.
const EDX_HTT: u32 = 1 << 28;

impl Model {
    /// CPUID on the vCPU with this APIC id of a machine with so many; see [`Model::cpuid`].
    pub fn cpuid_among(
        &self,
        processors: u8,
        leaf: u32,
        subleaf: u32,
        apic_id: u8,
        os_xsave: bool,
    ) -> Cpuid {
        let answer = self.cpuid(leaf, subleaf, apic_id, os_xsave);
        if processors <= 1 {
            return answer;
        }
        // APIC ids of a package are told apart by so many bits.
        let ids = u32::from(processors).next_power_of_two();
        match (leaf, subleaf) {
            (1, _) => Cpuid {
                ebx: answer.ebx & !0x00ff_0000 | ids << 16,
                edx: answer.edx | EDX_HTT,
                ..answer
            },
            // A cache of one core, in a package with room for so many.
            (4, _) if answer.eax & 0x1f != 0 => {
                Cpuid { eax: answer.eax | (ids - 1) << 26, ..answer }
            }
            (0xb, 1) => Cpuid { eax: ids.trailing_zeros(), ebx: processors.into(), ..answer },
            _ => answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn among(processors: u8, leaf: u32, subleaf: u32, apic_id: u8) -> Cpuid {
        Model::V2.cpuid_among(processors, leaf, subleaf, apic_id, false)
    }

    #[test]
    fn one_processor_is_as_it_was() {
        for leaf in (0..0x18).chain([0x4000_0000, 0x8000_0001, 0x8000_0008]) {
            for subleaf in 0..3 {
                let plain = Model::V2.cpuid(leaf, subleaf, 0, true);
                assert_eq!(Model::V2.cpuid_among(1, leaf, subleaf, 0, true), plain);
            }
        }
    }

    /// What Linux's and Windows's formulae make of the leaves: a package, a core for each APIC id.
    #[test]
    fn cores_of_one_package() {
        for (processors, bits) in [(2, 1), (3, 2), (4, 2), (5, 3), (8, 3)] {
            for id in 0..processors {
                let one = among(processors, 1, 0, id);
                assert_eq!(one.ebx >> 24, u32::from(id));
                assert_eq!((one.ebx >> 16 & 0xff, one.edx >> 28 & 1), (1 << bits, 1));
                // No cache is shared; ids of cores have so many bits.
                for subleaf in 0..3 {
                    let cache = among(processors, 4, subleaf, id).eax;
                    assert_eq!((cache >> 14 & 0xfff, cache >> 26), (0, (1 << bits) - 1));
                }
                assert_eq!(among(processors, 4, 3, id), Cpuid::default());
                let smt = among(processors, 0xb, 0, id);
                assert_eq!((smt.eax, smt.ebx, smt.ecx, smt.edx), (0, 1, 0x100, id.into()));
                let core = among(processors, 0xb, 1, id);
                let expected = (bits, processors.into(), 0x201, id.into());
                assert_eq!((core.eax, core.ebx, core.ecx, core.edx), expected);
                assert_eq!(among(processors, 0xb, 2, id).ebx, 0);
            }
        }
    }
}

//! Which event counts retired conditional branches, by processor, and how late its interrupt may come.
//!
//! Only that event is a clock. Retired instructions are not: they differ by one from run to run on Intel's processors and by some
//! forty for each exit on AMD's; AMD's event C4H counts interrupts too. What is not in the table is refused, never guessed: a count
//! that is wrong once in 10^12 makes recordings that do not replay.
//!
//! Sources: Intel, *Software Developer's Manual* vol. 3B, *Performance Monitoring*, and vol. 4, table 2-1 (models); Intel's event lists
//! (`BR_INST_RETIRED.CONDITIONAL`, `.COND`); AMD, *Processor Programming Reference*, `PMCx0D1` (retired conditional branch
//! instructions); Linux, `arch/x86/kernel/cpu/amd.c` (which models are which Zen) and `arch/x86/include/asm/intel-family.h`.
//! Events and skids agree with rr's (`src/PerfCounters.cc`), which people run on most of them. Nothing here was run on any.

use std::fmt;

/// A processor as CPUID tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processor {
    /// The twelve letters of leaf 0.
    pub vendor: [u8; 12],
    /// The family, with the extended family added where it counts.
    pub family: u16,
    /// The model, with the extended model above it where it counts.
    pub model: u8,
    /// The stepping.
    pub stepping: u8,
}

impl Processor {
    /// From the vendor of leaf 0 and EAX of leaf 1 (SDM vol. 2A, CPUID, figure 3-6; AMD's manual vol. 3, appendix E).
    pub fn from_cpuid(vendor: [u8; 12], eax: u32) -> Processor {
        let (family, extended) = (eax >> 8 & 0xf, eax >> 20 & 0xff);
        let (model, above) = (eax >> 4 & 0xf, eax >> 16 & 0xf);
        let whole = if family == 6 || family == 15 { above << 4 | model } else { model };
        Processor {
            vendor,
            family: (if family == 15 { family + extended } else { family }) as u16,
            model: whole as u8,
            stepping: (eax & 0xf) as u8,
        }
    }
}

impl fmt::Display for Processor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Processor { vendor, family, model, stepping } = self;
        let vendor = String::from_utf8_lossy(vendor);
        write!(out, "{vendor} family {family:#x} model {model:#x} stepping {stepping}")
    }
}

/// The event, and what is known of its interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The raw event as `perf_event_attr.config` has it: event select in bits 7:0, unit mask in 15:8, its extension in 47:40.
    /// Which rings count, and the enable bits, are the kernel's to add.
    pub config: u64,
    /// Branches that may retire between the overflow and the stop, as far as is known.
    pub skid: u64,
    /// Stops that are later than that have been seen, though rarely.
    pub is_unbounded: bool,
}

/// Which cores of the processor an event is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cores {
    /// There is one kind.
    All,
    /// Performance cores of a hybrid processor.
    Performance,
    /// Efficient cores of a hybrid processor.
    Efficient,
}

impl Cores {
    /// Their unit in `/sys/bus/event_source/devices`.
    pub fn unit(self) -> &'static str {
        match self {
            Cores::All => "cpu",
            Cores::Performance => "cpu_core",
            Cores::Efficient => "cpu_atom",
        }
    }
}

/// What must be set on the host for counts to be exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Branches of the firmware's system management mode are counted with the guest's, unless `/sys/devices/cpu/freeze_on_smi` is 1
    /// (`IA32_DEBUGCTL.FREEZE_WHILE_SMM`, SDM vol. 3B, *IA32_DEBUGCTL MSR*).
    FreezeOnSmi,
    /// SpecLockMap must be off (bit 54 of MSR C001_1020H, on every core), or locked instructions are counted wrongly. PMCx025 unit
    /// mask 08H stays 0 around a locked instruction where it is.
    NoSpecLockMap,
}

impl fmt::Display for Condition {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Condition::FreezeOnSmi => "freeze_on_smi must be 1",
            Condition::NoSpecLockMap => "SpecLockMap must be off",
        })
    }
}

/// A microarchitecture that has the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Microarchitecture {
    /// Its name.
    pub name: &'static str,
    /// The event for each kind of cores. A thread must stay on cores of one kind.
    pub events: &'static [(Cores, Event)],
    /// What must be set on the host.
    pub conditions: &'static [Condition],
}

/// Why a processor has no clock of branches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    /// No one has measured this vendor's.
    #[error("no event of {0} is known to count retired conditional branches exactly")]
    Vendor(Processor),
    /// A model that the table does not have.
    #[error(
        "{0} is not in the table of events (vmm/kvm/src/pmu/events.rs), and a wrong event would make recordings that do not replay"
    )]
    Model(Processor),
    /// Known, and without the event.
    #[error("{name} has no event for retired conditional branches")]
    NoEvent {
        /// The microarchitecture.
        name: &'static str,
    },
}

/// BR_INST_RETIRED.CONDITIONAL: event C4H, unit mask 01H (Nehalem to Comet Lake).
const CONDITIONAL: Event = Event { config: 0x01c4, skid: 100, is_unbounded: false };
/// BR_INST_RETIRED.COND: event C4H, unit mask 11H (Ice Lake and later).
const COND_ICE_LAKE: Event = Event { config: 0x11c4, skid: 100, is_unbounded: false };
const COND_GOLDEN_COVE: Event = Event { config: 0x11c4, skid: 125, is_unbounded: false };
/// With the unit mask's extension 01H (Lion Cove).
const COND_LION_COVE: Event = Event { config: 1 << 40 | 0x11c4, skid: 125, is_unbounded: false };
/// BR_INST_RETIRED.JCC, later .COND: event C4H, unit mask 7EH (Silvermont to Skymont).
const JCC: Event = Event { config: 0x7ec4, skid: 100, is_unbounded: false };
/// PMCx0D1, retired conditional branch instructions. 5043 branches late was the worst of a million measured on Zen 2, and 61 000 were
/// seen on Zen 5.
const ZEN: Event = Event { config: 0x00d1, skid: 10_000, is_unbounded: true };

const SMI: &[Condition] = &[Condition::FreezeOnSmi];
const CORE: &[(Cores, Event)] = &[(Cores::All, CONDITIONAL)];
const ATOM: &[(Cores, Event)] = &[(Cores::All, JCC)];
const ICE_LAKE: &[(Cores, Event)] = &[(Cores::All, COND_ICE_LAKE)];
const GOLDEN_COVE: &[(Cores, Event)] = &[(Cores::All, COND_GOLDEN_COVE)];
const HYBRID: &[(Cores, Event)] =
    &[(Cores::Performance, COND_GOLDEN_COVE), (Cores::Efficient, JCC)];
const LION_HYBRID: &[(Cores, Event)] =
    &[(Cores::Performance, COND_LION_COVE), (Cores::Efficient, JCC)];

/// A row: models of family 6, and what they are. No events: known to have none.
type Row = (&'static [u8], &'static str, &'static [(Cores, Event)], &'static [Condition]);

/// Intel's family 6.
const INTEL: &[Row] = &[
    (&[0x0e, 0x0f, 0x16, 0x17, 0x1d], "Yonah, Merom or Penryn", &[], &[]),
    (&[0x1c, 0x26, 0x27, 0x35, 0x36], "Bonnell or Saltwell", &[], &[]),
    (&[0x57, 0x85], "Xeon Phi", &[], &[]),
    (&[0x1a, 0x1e, 0x1f, 0x2e], "Nehalem", CORE, &[]),
    (&[0x25, 0x2c, 0x2f], "Westmere", CORE, &[]),
    (&[0x2a, 0x2d], "Sandy Bridge", CORE, &[]),
    (&[0x3a, 0x3e], "Ivy Bridge", CORE, &[]),
    (&[0x3c, 0x3f, 0x45, 0x46], "Haswell", CORE, &[]),
    (&[0x3d, 0x47, 0x4f, 0x56], "Broadwell", CORE, &[]),
    (&[0x4e, 0x55, 0x5e], "Skylake, Cascade Lake or Cooper Lake", CORE, &[]),
    (&[0x8e, 0x9e], "Kaby Lake or Coffee Lake", CORE, &[]),
    (&[0xa5, 0xa6], "Comet Lake", CORE, SMI),
    (&[0x6a, 0x6c, 0x7d, 0x7e, 0x9d], "Ice Lake", ICE_LAKE, SMI),
    (&[0x8c, 0x8d], "Tiger Lake", ICE_LAKE, SMI),
    (&[0xa7], "Rocket Lake", ICE_LAKE, SMI),
    (&[0x8f, 0xcf], "Sapphire Rapids or Emerald Rapids", GOLDEN_COVE, SMI),
    (&[0xad, 0xae], "Granite Rapids", GOLDEN_COVE, SMI),
    (&[0x97, 0x9a], "Alder Lake", HYBRID, SMI),
    (&[0xb7, 0xba, 0xbf], "Raptor Lake", HYBRID, SMI),
    (&[0xaa, 0xac], "Meteor Lake", HYBRID, SMI),
    (&[0xbd], "Lunar Lake", LION_HYBRID, SMI),
    (&[0xb5, 0xc5, 0xc6], "Arrow Lake", LION_HYBRID, SMI),
    (&[0x37, 0x4a, 0x4c, 0x4d, 0x5a, 0x5d, 0x75], "Silvermont or Airmont", ATOM, &[]),
    (&[0x5c, 0x5f, 0x7a], "Goldmont", ATOM, &[]),
    (&[0x86, 0x96, 0x9c], "Tremont", ATOM, &[]),
    (&[0xbe], "Gracemont", ATOM, SMI),
    (&[0xaf, 0xb6], "Crestmont", ATOM, SMI),
];

/// The clock of a processor, or why it has none.
///
/// # Errors
/// [`Unsupported`]
pub fn microarchitecture(processor: Processor) -> Result<Microarchitecture, Unsupported> {
    match &processor.vendor {
        b"GenuineIntel" => intel(processor),
        b"AuthenticAMD" => amd(processor),
        _ => Err(Unsupported::Vendor(processor)),
    }
}

fn intel(processor: Processor) -> Result<Microarchitecture, Unsupported> {
    let found = INTEL.iter().find(|(models, ..)| models.contains(&processor.model));
    match found {
        Some(&(_, name, events, conditions)) if processor.family == 6 => match events {
            [] => Err(Unsupported::NoEvent { name }),
            _ => Ok(Microarchitecture { name, events, conditions }),
        },
        _ if processor.family == 15 => Err(Unsupported::NoEvent { name: "NetBurst" }),
        _ => Err(Unsupported::Model(processor)),
    }
}

fn amd(processor: Processor) -> Result<Microarchitecture, Unsupported> {
    let name = match (processor.family, processor.model) {
        (..=0x16, _) => {
            // They have retired branches only with interrupts and exceptions among them (event C4H less C6H), taken ones.
            return Err(Unsupported::NoEvent { name: "an AMD processor before Zen" });
        }
        (0x17, 0x00..=0x2f | 0x50..=0x5f) => "Zen",
        (0x17, 0x30..=0x4f | 0x60..=0x7f | 0x90..=0x91 | 0xa0..=0xaf) => "Zen 2",
        (0x19, 0x00..=0x0f | 0x20..=0x5f) => "Zen 3",
        (0x19, 0x10..=0x1f | 0x60..=0xaf) => "Zen 4",
        (0x1a, 0x00..=0x2f | 0x40..=0x4f | 0x60..=0x7f) => "Zen 5",
        _ => return Err(Unsupported::Model(processor)),
    };
    const EVENTS: &[(Cores, Event)] = &[(Cores::All, ZEN)];
    Ok(Microarchitecture { name, events: EVENTS, conditions: &[Condition::NoSpecLockMap] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn intel_of(eax: u32) -> Result<Microarchitecture, Unsupported> {
        microarchitecture(Processor::from_cpuid(*b"GenuineIntel", eax))
    }

    fn amd_of(eax: u32) -> Result<Microarchitecture, Unsupported> {
        microarchitecture(Processor::from_cpuid(*b"AuthenticAMD", eax))
    }

    /// EAX of leaf 1 as processors of these names have it.
    #[test]
    fn processors_by_their_signatures() {
        for (eax, name, unit, config, skid) in [
            (0x0001_06a5, "Nehalem", "cpu", 0x01c4, 100),
            (0x0003_06c3, "Haswell", "cpu", 0x01c4, 100),
            (0x0005_0657, "Skylake, Cascade Lake or Cooper Lake", "cpu", 0x01c4, 100),
            (0x0009_06ec, "Kaby Lake or Coffee Lake", "cpu", 0x01c4, 100),
            (0x000a_0655, "Comet Lake", "cpu", 0x01c4, 100),
            (0x0006_06a6, "Ice Lake", "cpu", 0x11c4, 100),
            (0x0008_06f8, "Sapphire Rapids or Emerald Rapids", "cpu", 0x11c4, 125),
            (0x0009_0672, "Alder Lake", "cpu_core", 0x11c4, 125),
            (0x000b_06d1, "Lunar Lake", "cpu_core", 0x100_0000_11c4, 125),
            (0x0009_06c0, "Tremont", "cpu", 0x7ec4, 100),
        ] {
            let found = intel_of(eax).unwrap();
            let (cores, event) = found.events[0];
            let expected = (name, unit, config, skid, false);
            let seen = (found.name, cores.unit(), event.config, event.skid, event.is_unbounded);
            assert_eq!(seen, expected, "{eax:#x}");
        }
        for (eax, name) in [
            (0x0080_0f11, "Zen"),
            (0x0083_0f10, "Zen 2"),
            (0x0087_0f10, "Zen 2"),
            (0x00a2_0f10, "Zen 3"),
            (0x00a1_0f11, "Zen 4"),
            (0x00a6_0f12, "Zen 4"),
            (0x00b4_0f40, "Zen 5"),
            (0x00b0_0f21, "Zen 5"),
        ] {
            let found = amd_of(eax).unwrap();
            assert_eq!(found.name, name, "{eax:#x}");
            let event = Event { config: 0xd1, skid: 10_000, is_unbounded: true };
            assert_eq!(found.events, [(Cores::All, event)]);
            assert_eq!(found.conditions, [Condition::NoSpecLockMap]);
        }
    }

    #[test]
    fn efficient_cores_have_an_event_of_their_own() {
        for eax in [0x0009_0672, 0x000b_0671, 0x000a_06a4, 0x000c_0662] {
            let [performance, efficient] = intel_of(eax).unwrap().events else {
                panic!("{eax:#x} is hybrid");
            };
            assert_eq!((performance.0, efficient.0), (Cores::Performance, Cores::Efficient));
            assert_eq!(efficient.1.config, 0x7ec4);
            assert_ne!(performance.1.config, efficient.1.config);
        }
    }

    #[test]
    fn who_is_not_in_the_table_is_told_why() {
        assert_eq!(
            intel_of(0x0001_0676),
            Err(Unsupported::NoEvent { name: "Yonah, Merom or Penryn" })
        );
        assert_eq!(intel_of(0x0000_0f4a), Err(Unsupported::NoEvent { name: "NetBurst" }));
        assert!(matches!(amd_of(0x0060_0f20), Err(Unsupported::NoEvent { .. })), "Piledriver");
        assert!(matches!(intel_of(0x000f_06f0), Err(Unsupported::Model(_))), "no such model");
        // A model number of family 6 in another family is another processor.
        assert!(matches!(intel_of(0x0005_0550), Err(Unsupported::Model(_))));
        // The family after Zen 5's, and models between the known.
        for eax in [0x00c0_0f10, 0x00b5_0f00, 0x00a1_0f11 | 0x000f_0000] {
            assert!(matches!(amd_of(eax), Err(Unsupported::Model(_))), "{eax:#x}");
        }
        let other = Processor::from_cpuid(*b"HygonGenuine", 0x0090_0f02);
        assert_eq!((other.family, other.model, other.stepping), (0x18, 0, 2));
        let why = microarchitecture(other).unwrap_err().to_string();
        assert!(why.contains("HygonGenuine family 0x18 model 0x0 stepping 2"), "{why}");
    }

    #[test]
    fn no_model_is_listed_twice() {
        let models: Vec<u8> =
            INTEL.iter().flat_map(|(models, ..)| models.iter().copied()).collect();
        let distinct: BTreeSet<u8> = models.iter().copied().collect();
        assert_eq!(models.len(), distinct.len());
    }
}

//! CPU models: what CPUID says, and which instructions exist because of it.
//!
//! Every answer is a fixed table: nothing of the host shows through, so that a recording replays
//! anywhere (the vCPU's APIC id and CR4.OSXSAVE are the only variables, as on silicon).
//!
//! **Identity.** The models call themselves `GenuineIntel`, family 6, model 1CH: an in-order Atom
//! (Bonnell). Kernels know that processor to be free of Meltdown, Spectre and all that followed
//! (Linux: `NO_SPECULATION` in `cpu_vuln_whitelist`, which ends the search for bugs), so they neither
//! patch in mitigations nor switch page tables at each system call, which our engine has no use for
//! and would pay dearly for. Stepping 10 is past every erratum that Linux works around. The
//! hypervisor bit keeps microcode loaders away.
//!
//! **Time.** Leaf 15H gives the TSC's frequency, 2 GHz, as twice a 1 GHz crystal; Linux takes the
//! crystal for the local APIC timer's input as well, and calibrates neither. Leaf 80000007H
//! promises a constant TSC, and IA32_TSC_ADJUST spares the clocksource watchdog. Leaf 40000010H says
//! the same for who asks hypervisors.

use bitflags::bitflags;
use iced_x86::{CpuidFeature, DecoderOptions, Instruction, Mnemonic};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// TSC ticks per second.
pub const TSC_HZ: u64 = 2_000_000_000;
/// Frequency of the core crystal, which the local APIC timer counts (before its divider), in Hz.
pub const CRYSTAL_HZ: u64 = 1_000_000_000;

/// The fixed part of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Base {
    /// `dejavm-v1`: a 32-bit CPU with PAE, NX, SSE and SSE2.
    V1,
    /// `dejavm-v2`: x86-64-v2 (SSE4.2, POPCNT, CMPXCHG16B), the default.
    V2,
}

bitflags! {
    /// What can be added to a model.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Features: u32 {
        /// AES-NI.
        const AES = 1 << 0;
        /// PCLMULQDQ.
        const PCLMUL = 1 << 1;
        /// ANDN, BEXTR, BLSI, BLSMSK, BLSR, TZCNT.
        const BMI1 = 1 << 2;
        /// BZHI, MULX, PDEP, PEXT, RORX, SARX, SHLX, SHRX.
        const BMI2 = 1 << 3;
        /// ADCX, ADOX.
        const ADX = 1 << 4;
        /// MOVBE.
        const MOVBE = 1 << 5;
        /// LZCNT.
        const LZCNT = 1 << 6;
        /// XSAVE, XRSTOR, XGETBV, XSETBV for x87 and SSE state.
        const XSAVE = 1 << 7;
        /// RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE.
        const FSGSBASE = 1 << 8;
        /// Supervisor-mode execution prevention.
        const SMEP = 1 << 9;
        /// User-mode instruction prevention.
        const UMIP = 1 << 10;
        /// Taken away: virtual-8086 mode extensions, which not every host's processor has.
        const NO_VME = 1 << 11;
        /// Taken away: the time stamp counter and RDTSCP, which KVM cannot keep from a guest but by saying that there are none.
        const NO_TSC = 1 << 12;
        /// TZCNT and LZCNT are executed although CPUID says neither, as KVM's guests find it on a processor that has them; else F3
        /// is ignored there, and they are BSF and BSR.
        const HIDDEN_TZCNT = 1 << 13;
        /// What QEMU's processor does otherwise than silicon: `exec/emulated.rs`.
        const QEMU = 1 << 14;
    }
}

impl Features {
    /// All that add instructions or bits of registers to a model, and nothing else.
    pub const ADDED: Features = Features::from_bits_truncate((1 << 11) - 1);
}

/// Names of [`Features`], as they are written after the model's name.
const FEATURE_NAMES: &[(&str, Features)] = &[
    ("aes", Features::AES),
    ("pclmul", Features::PCLMUL),
    ("bmi1", Features::BMI1),
    ("bmi2", Features::BMI2),
    ("adx", Features::ADX),
    ("movbe", Features::MOVBE),
    ("lzcnt", Features::LZCNT),
    ("xsave", Features::XSAVE),
    ("fsgsbase", Features::FSGSBASE),
    ("smep", Features::SMEP),
    ("umip", Features::UMIP),
    ("hidden-tzcnt", Features::HIDDEN_TZCNT),
    ("qemu", Features::QEMU),
];

/// What is in every model and can be taken away: written with a minus.
const TAKEN_AWAY: &[(&str, Features)] = &[("vme", Features::NO_VME), ("tsc", Features::NO_TSC)];

/// Features that need 64-bit mode or the VEX encoding's operating-system support.
const NOT_ON_V1: Features = Features::FSGSBASE;

/// A named CPU model with its options, frozen in every recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// The fixed part.
    pub base: Base,
    /// What was added.
    pub features: Features,
}

/// A model that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// The name before the first `,` or `+` is not a model's.
    #[error("no CPU model is called `{0}`: there are dejavm-v1 and dejavm-v2")]
    Name(String),
    /// An option is not known.
    #[error("no CPU feature is called `{0}`: there are {names}", names = feature_names())]
    Feature(String),
    /// Something is to be taken away that cannot be.
    #[error("`{0}` cannot be taken away from a CPU: only {names}", names = names_of(TAKEN_AWAY))]
    Stays(String),
    /// An option does not fit the model.
    #[error("the CPU feature `{feature}` does not exist on {model}")]
    Unavailable {
        /// The option.
        feature: String,
        /// The model's name.
        model: &'static str,
    },
}

fn feature_names() -> String {
    names_of(FEATURE_NAMES)
}

fn names_of(features: &[(&str, Features)]) -> String {
    let names: Vec<&str> = features.iter().map(|&(name, _)| name).collect();
    names.join(", ")
}

/// What CPUID returns for a leaf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the registers' names")]
pub struct Cpuid {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// Feature bits of leaf 1 EDX (SDM vol. 2A, table 3-11).
mod leaf1_edx {
    pub(super) const FPU: u32 = 1 << 0;
    pub(super) const VME: u32 = 1 << 1;
    pub(super) const DE: u32 = 1 << 2;
    pub(super) const PSE: u32 = 1 << 3;
    pub(super) const TSC: u32 = 1 << 4;
    pub(super) const MSR: u32 = 1 << 5;
    pub(super) const PAE: u32 = 1 << 6;
    pub(super) const MCE: u32 = 1 << 7;
    pub(super) const CX8: u32 = 1 << 8;
    pub(super) const APIC: u32 = 1 << 9;
    pub(super) const SEP: u32 = 1 << 11;
    pub(super) const MTRR: u32 = 1 << 12;
    pub(super) const PGE: u32 = 1 << 13;
    pub(super) const MCA: u32 = 1 << 14;
    pub(super) const CMOV: u32 = 1 << 15;
    pub(super) const PAT: u32 = 1 << 16;
    pub(super) const PSE36: u32 = 1 << 17;
    pub(super) const CLFSH: u32 = 1 << 19;
    pub(super) const MMX: u32 = 1 << 23;
    pub(super) const FXSR: u32 = 1 << 24;
    pub(super) const SSE: u32 = 1 << 25;
    pub(super) const SSE2: u32 = 1 << 26;
}

/// Feature bits of leaf 1 ECX (SDM vol. 2A, table 3-10).
mod leaf1_ecx {
    pub(super) const SSE3: u32 = 1 << 0;
    pub(super) const PCLMULQDQ: u32 = 1 << 1;
    pub(super) const SSSE3: u32 = 1 << 9;
    pub(super) const CMPXCHG16B: u32 = 1 << 13;
    pub(super) const SSE4_1: u32 = 1 << 19;
    pub(super) const SSE4_2: u32 = 1 << 20;
    pub(super) const MOVBE: u32 = 1 << 22;
    pub(super) const POPCNT: u32 = 1 << 23;
    pub(super) const AES: u32 = 1 << 25;
    pub(super) const XSAVE: u32 = 1 << 26;
    pub(super) const OSXSAVE: u32 = 1 << 27;
    pub(super) const HYPERVISOR: u32 = 1 << 31;
}

/// Feature bits of leaf 7 (SDM vol. 2A, table 3-8).
mod leaf7 {
    pub(super) const EBX_FSGSBASE: u32 = 1 << 0;
    pub(super) const EBX_TSC_ADJUST: u32 = 1 << 1;
    pub(super) const EBX_BMI1: u32 = 1 << 3;
    /// FDP is updated by x87 exceptions only.
    pub(super) const EBX_FDP_EXCPTN_ONLY: u32 = 1 << 6;
    pub(super) const EBX_SMEP: u32 = 1 << 7;
    pub(super) const EBX_BMI2: u32 = 1 << 8;
    /// Enhanced REP MOVSB and STOSB.
    pub(super) const EBX_ERMS: u32 = 1 << 9;
    /// FCS and FDS are zero.
    pub(super) const EBX_FCS_FDS_DEPRECATED: u32 = 1 << 13;
    pub(super) const EBX_ADX: u32 = 1 << 19;
    pub(super) const ECX_UMIP: u32 = 1 << 2;
}

/// Feature bits of leaf 80000001H.
mod extended {
    pub(super) const ECX_LAHF: u32 = 1 << 0;
    pub(super) const ECX_LZCNT: u32 = 1 << 5;
    pub(super) const ECX_PREFETCHW: u32 = 1 << 8;
    pub(super) const EDX_SYSCALL: u32 = 1 << 11;
    pub(super) const EDX_NX: u32 = 1 << 20;
    pub(super) const EDX_PAGE_1GB: u32 = 1 << 26;
    pub(super) const EDX_RDTSCP: u32 = 1 << 27;
    pub(super) const EDX_LM: u32 = 1 << 29;
    /// Leaf 80000007H: the TSC runs at a constant rate in all states.
    pub(super) const EDX_INVARIANT_TSC: u32 = 1 << 8;
}

/// Family 6, model 1CH, stepping 10.
const SIGNATURE: u32 = 0x0001_06ca;
const VENDOR: &[u8; 12] = b"GenuineIntel";
const HYPERVISOR: &[u8; 12] = b"dejavmdejavm";
/// Highest basic leaf.
const BASIC_MAX: u32 = 0x16;
/// Highest extended leaf.
const EXTENDED_MAX: u32 = 0x8000_0008;
/// Highest hypervisor leaf.
const HYPERVISOR_MAX: u32 = 0x4000_0010;

fn word(bytes: &[u8], n: usize) -> u32 {
    let mut word = [0; 4];
    for (to, from) in word.iter_mut().zip(bytes.iter().skip(n * 4)) {
        *to = *from;
    }
    u32::from_le_bytes(word)
}

impl Base {
    /// The model's name.
    pub const fn name(self) -> &'static str {
        match self {
            Base::V1 => "dejavm-v1",
            Base::V2 => "dejavm-v2",
        }
    }

    /// What CPUID's brand string says.
    const fn brand(self) -> &'static [u8] {
        match self {
            Base::V1 => b"dejavm-v1 32-bit virtual CPU @ 2.00GHz",
            Base::V2 => b"dejavm-v2 64-bit virtual CPU @ 2.00GHz",
        }
    }
}

impl Model {
    /// `dejavm-v1` without options.
    pub const V1: Model = Model { base: Base::V1, features: Features::empty() };
    /// `dejavm-v2` without options.
    pub const V2: Model = Model { base: Base::V2, features: Features::empty() };

    /// IA-32e mode exists.
    pub fn has_long_mode(&self) -> bool {
        match self.base {
            Base::V1 => false,
            Base::V2 => true,
        }
    }

    pub(crate) fn has_rdtscp(&self) -> bool {
        self.has_long_mode() && self.has_tsc()
    }

    pub(crate) fn has_tsc_adjust(&self) -> bool {
        self.has_tsc()
    }

    /// CPUID says that there is a time stamp counter.
    pub fn has_tsc(&self) -> bool {
        !self.offers(Features::NO_TSC)
    }

    /// The same with these features.
    #[must_use]
    pub fn with(self, features: Features) -> Model {
        Model { features: self.features | features, ..self }
    }

    fn offers(&self, feature: Features) -> bool {
        self.features.contains(feature)
    }

    /// Bits of CR4 that exist.
    pub(crate) fn cr4_bits(&self) -> u64 {
        use crate::cpu::control::*;
        let mut bits = CR4_TSD
            | CR4_DE
            | CR4_PSE
            | CR4_PAE
            | CR4_MCE
            | CR4_PGE
            | CR4_PCE
            | CR4_OSFXSR
            | CR4_OSXMMEXCPT;
        if !self.offers(Features::NO_VME) {
            bits |= CR4_VME | CR4_PVI;
        }
        for (feature, bit) in [
            (Features::UMIP, CR4_UMIP),
            (Features::FSGSBASE, CR4_FSGSBASE),
            (Features::XSAVE, CR4_OSXSAVE),
            (Features::SMEP, CR4_SMEP),
        ] {
            if self.offers(feature) {
                bits |= bit;
            }
        }
        bits
    }

    /// Bits of EFER that can be written.
    pub(crate) fn efer_bits(&self) -> u64 {
        use crate::cpu::control::*;
        match self.base {
            Base::V1 => EFER_NXE,
            Base::V2 => EFER_NXE | EFER_LME | EFER_SCE,
        }
    }

    /// How the decoder must be told about the model: without LZCNT and TZCNT their prefix is
    /// ignored and they are BSR and BSF.
    pub(crate) fn decoder_options(&self) -> u32 {
        let mut options = DecoderOptions::NONE;
        if !self.has(CpuidFeature::BMI1) && !self.offers(Features::HIDDEN_TZCNT) {
            options |= DecoderOptions::NO_MPFX_0FBC;
        }
        if !self.has(CpuidFeature::LZCNT) {
            options |= DecoderOptions::NO_MPFX_0FBD;
        }
        options
    }

    /// Whether the model has the instruction; one that it lacks is #UD.
    pub(crate) fn allows(&self, i: &Instruction) -> bool {
        // Encodings that are no-operations where their feature is missing.
        let hint = matches!(
            i.mnemonic(),
            Mnemonic::Endbr32
                | Mnemonic::Endbr64
                | Mnemonic::Rdsspd
                | Mnemonic::Rdsspq
                | Mnemonic::Cldemote
                | Mnemonic::Prefetch
                | Mnemonic::Prefetchw
                | Mnemonic::Prefetchwt1
                | Mnemonic::Prefetchit0
                | Mnemonic::Prefetchit1
                | Mnemonic::Reservednop
        );
        let hidden = i.mnemonic() == Mnemonic::Tzcnt && self.offers(Features::HIDDEN_TZCNT);
        hint || hidden || i.cpuid_features().iter().all(|&feature| self.has(feature))
    }

    /// Whether the model has the instruction, and executes it as others do.
    pub(crate) fn executes_as_others(&self, i: &Instruction) -> bool {
        self.allows(i) && crate::exec::emulated::select(self, i).is_none()
    }

    /// See [`Features::QEMU`].
    pub(crate) fn is_qemus(&self) -> bool {
        self.offers(Features::QEMU)
    }

    /// Whether the model has a feature by the decoder's name.
    pub(crate) fn has(&self, feature: CpuidFeature) -> bool {
        use CpuidFeature as F;
        let v2 = self.has_long_mode();
        match feature {
            F::INTEL8086
            | F::INTEL186
            | F::INTEL286
            | F::INTEL386
            | F::INTEL486
            | F::FPU
            | F::FPU287
            | F::FPU387
            | F::CPUID
            | F::CX8
            | F::CMOV
            | F::MSR
            | F::RDPMC
            | F::MMX
            | F::FXSR
            | F::SSE
            | F::SSE2
            | F::SEP
            | F::CLFSH
            | F::PAUSE
            | F::MULTIBYTENOP => true,
            F::TSC => self.has_tsc(),
            F::RDTSCP => self.has_rdtscp(),
            F::X64
            | F::SYSCALL
            | F::SSE3
            | F::SSSE3
            | F::SSE4_1
            | F::SSE4_2
            | F::POPCNT
            | F::CMPXCHG16B => v2,
            F::AES => self.offers(Features::AES),
            F::PCLMULQDQ => self.offers(Features::PCLMUL),
            F::BMI1 => self.offers(Features::BMI1),
            F::BMI2 => self.offers(Features::BMI2),
            F::ADX => self.offers(Features::ADX),
            F::MOVBE => self.offers(Features::MOVBE),
            F::LZCNT => self.offers(Features::LZCNT) || self.offers(Features::HIDDEN_TZCNT),
            F::XSAVE => self.offers(Features::XSAVE),
            F::FSGSBASE => self.offers(Features::FSGSBASE),
            _ => false,
        }
    }

    /// CPUID for a leaf and subleaf on the vCPU with this APIC id (SDM vol. 2A, CPUID).
    pub fn cpuid(&self, leaf: u32, subleaf: u32, apic_id: u8, os_xsave: bool) -> Cpuid {
        // Leaves beyond the last basic one answer as the last basic one does, on Intel.
        let leaf = match leaf {
            0..=BASIC_MAX | 0x4000_0000..=HYPERVISOR_MAX | 0x8000_0000..=EXTENDED_MAX => leaf,
            _ => BASIC_MAX,
        };
        match leaf {
            0 => Cpuid {
                eax: BASIC_MAX,
                ebx: word(VENDOR, 0),
                edx: word(VENDOR, 1),
                ecx: word(VENDOR, 2),
            },
            1 => self.version_leaf(apic_id, os_xsave),
            // One descriptor: see leaf 4.
            2 => Cpuid { eax: 0x0000_ff01, ..Cpuid::default() },
            4 => cache_leaf(subleaf),
            7 if subleaf == 0 => self.structured_leaf(),
            0xb => topology_leaf(subleaf, apic_id),
            0xd if self.offers(Features::XSAVE) => xsave_leaf(subleaf),
            0x15 if self.has_tsc() => {
                Cpuid { eax: 1, ebx: (TSC_HZ / CRYSTAL_HZ) as u32, ecx: CRYSTAL_HZ as u32, edx: 0 }
            }
            // Base, maximum and bus frequency in MHz.
            0x16 => Cpuid { eax: 2000, ebx: 2000, ecx: 100, edx: 0 },
            0x4000_0000 => Cpuid {
                eax: HYPERVISOR_MAX,
                ebx: word(HYPERVISOR, 0),
                ecx: word(HYPERVISOR, 1),
                edx: word(HYPERVISOR, 2),
            },
            // TSC and APIC bus frequency in kHz.
            0x4000_0010 if self.has_tsc() => Cpuid {
                eax: (TSC_HZ / 1000) as u32,
                ebx: (CRYSTAL_HZ / 1000) as u32,
                ecx: 0,
                edx: 0,
            },
            0x8000_0000 => Cpuid { eax: EXTENDED_MAX, ..Cpuid::default() },
            0x8000_0001 => self.extended_leaf(),
            0x8000_0002..=0x8000_0004 => {
                let (brand, n) = (self.base.brand(), (leaf - 0x8000_0002) as usize * 4);
                Cpuid {
                    eax: word(brand, n),
                    ebx: word(brand, n + 1),
                    ecx: word(brand, n + 2),
                    edx: word(brand, n + 3),
                }
            }
            // 1 MiB of second-level cache, 16 ways (code 8), 64-byte lines.
            0x8000_0006 => Cpuid { ecx: 1024 << 16 | 8 << 12 | 64, ..Cpuid::default() },
            0x8000_0007 if self.has_tsc() => {
                Cpuid { edx: extended::EDX_INVARIANT_TSC, ..Cpuid::default() }
            }
            0x8000_0008 => {
                let linear = if self.has_long_mode() { 48 } else { 32 };
                Cpuid { eax: linear << 8 | crate::mmu::PHYSICAL_BITS, ..Cpuid::default() }
            }
            _ => Cpuid::default(),
        }
    }

    fn version_leaf(&self, apic_id: u8, os_xsave: bool) -> Cpuid {
        use leaf1_ecx as c;
        use leaf1_edx as d;
        let mut ecx = c::HYPERVISOR;
        if self.has_long_mode() {
            ecx |= c::SSE3 | c::SSSE3 | c::CMPXCHG16B | c::SSE4_1 | c::SSE4_2 | c::POPCNT;
        }
        for (feature, bit) in [
            (Features::PCLMUL, c::PCLMULQDQ),
            (Features::MOVBE, c::MOVBE),
            (Features::AES, c::AES),
            (Features::XSAVE, c::XSAVE),
        ] {
            if self.offers(feature) {
                ecx |= bit;
            }
        }
        if os_xsave {
            ecx |= c::OSXSAVE;
        }
        let mut edx = d::FPU
            | d::DE
            | d::PSE
            | d::MSR
            | d::PAE
            | d::MCE
            | d::CX8
            | d::APIC
            | d::SEP
            | d::MTRR
            | d::PGE
            | d::MCA
            | d::CMOV
            | d::PAT
            | d::PSE36
            | d::CLFSH
            | d::MMX
            | d::FXSR
            | d::SSE
            | d::SSE2;
        for (absent, bit) in [(Features::NO_VME, d::VME), (Features::NO_TSC, d::TSC)] {
            if !self.offers(absent) {
                edx |= bit;
            }
        }
        // CLFLUSH lines of 8 quadwords; one logical processor in the package.
        let ebx = u32::from(apic_id) << 24 | 1 << 16 | 8 << 8;
        Cpuid { eax: SIGNATURE, ebx, ecx, edx }
    }

    fn structured_leaf(&self) -> Cpuid {
        use leaf7 as l;
        let mut ebx = l::EBX_ERMS | l::EBX_FDP_EXCPTN_ONLY | l::EBX_FCS_FDS_DEPRECATED;
        if self.has_tsc_adjust() {
            ebx |= l::EBX_TSC_ADJUST;
        }
        for (feature, bit) in [
            (Features::FSGSBASE, l::EBX_FSGSBASE),
            (Features::BMI1, l::EBX_BMI1),
            (Features::SMEP, l::EBX_SMEP),
            (Features::BMI2, l::EBX_BMI2),
            (Features::ADX, l::EBX_ADX),
        ] {
            if self.offers(feature) {
                ebx |= bit;
            }
        }
        let ecx = if self.offers(Features::UMIP) { l::ECX_UMIP } else { 0 };
        Cpuid { eax: 0, ebx, ecx, edx: 0 }
    }

    fn extended_leaf(&self) -> Cpuid {
        use extended as e;
        let mut ecx = e::ECX_PREFETCHW;
        let mut edx = e::EDX_NX;
        if self.has_long_mode() {
            ecx |= e::ECX_LAHF;
            edx |= e::EDX_SYSCALL | e::EDX_PAGE_1GB | e::EDX_LM;
        }
        if self.has_rdtscp() {
            edx |= e::EDX_RDTSCP;
        }
        if self.offers(Features::LZCNT) {
            ecx |= e::ECX_LZCNT;
        }
        Cpuid { eax: 0, ebx: 0, ecx, edx }
    }
}

/// Leaf 4: 32 KiB first-level data and instruction caches, 1 MiB second level.
fn cache_leaf(subleaf: u32) -> Cpuid {
    let (kind, level, ways, sets) = match subleaf {
        0 => (1, 1, 8, 64),
        1 => (2, 1, 8, 64),
        2 => (3, 2, 16, 1024),
        _ => return Cpuid::default(),
    };
    // Lines of 64 bytes, one partition; self-initialising (bit 8).
    Cpuid { eax: kind | level << 5 | 1 << 8, ebx: 63 | (ways - 1) << 22, ecx: sets - 1, edx: 0 }
}

/// Leaf 0BH: each vCPU is a package of one core with one thread.
fn topology_leaf(subleaf: u32, apic_id: u8) -> Cpuid {
    let (count, kind) = match subleaf {
        0 => (1, 1),
        1 => (1, 2),
        _ => (0, 0),
    };
    Cpuid { eax: 0, ebx: count, ecx: kind << 8 | subleaf & 0xff, edx: apic_id.into() }
}

/// Leaf 0DH: x87 and SSE state, 512 bytes and the 64-byte header.
fn xsave_leaf(subleaf: u32) -> Cpuid {
    match subleaf {
        0 => Cpuid { eax: 3, ebx: 576, ecx: 576, edx: 0 },
        _ => Cpuid::default(),
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.base.name())?;
        for &(name, feature) in FEATURE_NAMES {
            if self.offers(feature) {
                write!(f, ",+{name}")?;
            }
        }
        for &(name, absent) in TAKEN_AWAY {
            if self.offers(absent) {
                write!(f, ",-{name}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Model {
    type Err = ModelError;

    /// Parses `dejavm-v2`, `dejavm-v2,+aes,+bmi2,-tsc`; what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Model, ModelError> {
        let mut parts = text.split(',');
        let name = parts.next().unwrap_or_default();
        let base = [Base::V1, Base::V2]
            .into_iter()
            .find(|base| base.name() == name)
            .ok_or_else(|| ModelError::Name(name.to_owned()))?;
        let mut model = Model { base, features: Features::empty() };
        for part in parts {
            if let Some(option) = part.strip_prefix('-') {
                let found = TAKEN_AWAY.iter().find(|&&(name, _)| name == option);
                let &(_, absent) = found.ok_or_else(|| ModelError::Stays(option.to_owned()))?;
                model.features |= absent;
                continue;
            }
            let option = part.strip_prefix('+').unwrap_or(part);
            let feature = FEATURE_NAMES
                .iter()
                .find(|&&(name, _)| name == option)
                .map(|&(_, feature)| feature)
                .ok_or_else(|| ModelError::Feature(option.to_owned()))?;
            if base == Base::V1 && NOT_ON_V1.contains(feature) {
                let feature = option.to_owned();
                return Err(ModelError::Unavailable { feature, model: base.name() });
            }
            model.features |= feature;
        }
        Ok(model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_to_what_they_print() {
        for name in [
            "dejavm-v1",
            "dejavm-v2",
            "dejavm-v2,+aes,+bmi2,+xsave",
            "dejavm-v1,+smep",
            "dejavm-v2,+aes,-vme,-tsc",
        ] {
            assert_eq!(name.parse::<Model>().unwrap().to_string(), name);
        }
        assert_eq!("dejavm-v2,aes".parse::<Model>().unwrap().to_string(), "dejavm-v2,+aes");
        assert!(matches!("dejavm-v3".parse::<Model>(), Err(ModelError::Name(_))));
        assert!(matches!("dejavm-v2,+avx".parse::<Model>(), Err(ModelError::Feature(_))));
        assert!(matches!("dejavm-v2,-sse".parse::<Model>(), Err(ModelError::Stays(_))));
        let refused = "dejavm-v1,+fsgsbase".parse::<Model>().unwrap_err();
        assert_eq!(refused.to_string(), "the CPU feature `fsgsbase` does not exist on dejavm-v1");
    }

    /// x86-64 psABI, table 3.1, level v2; and what must stay hidden.
    #[test]
    fn v2_is_x86_64_v2_and_not_more() {
        let one = Model::V2.cpuid(1, 0, 0, false);
        for bit in [0, 8, 15, 23, 24, 25, 26] {
            assert_ne!(one.edx & 1 << bit, 0, "leaf 1 EDX bit {bit}");
        }
        for bit in [0, 9, 13, 19, 20, 23, 31] {
            assert_ne!(one.ecx & 1 << bit, 0, "leaf 1 ECX bit {bit}");
        }
        // MONITOR, VMX, FMA, PCID, x2APIC, TSC-deadline, XSAVE, AVX, RDRAND.
        for bit in [3, 5, 12, 17, 21, 24, 26, 27, 28, 30] {
            assert_eq!(one.ecx & 1 << bit, 0, "leaf 1 ECX bit {bit}");
        }
        let seven = Model::V2.cpuid(7, 0, 0, false);
        // HLE, INVPCID, RTM, RDSEED, SMAP, and protection keys.
        for bit in [4, 10, 11, 18, 20] {
            assert_eq!(seven.ebx & 1 << bit, 0, "leaf 7 EBX bit {bit}");
        }
        assert_eq!(seven.ecx, 0);
        let extended = Model::V2.cpuid(0x8000_0001, 0, 0, false);
        for bit in [11, 20, 27, 29] {
            assert_ne!(extended.edx & 1 << bit, 0, "extended EDX bit {bit}");
        }
        assert_ne!(extended.ecx & 1, 0, "LAHF in 64-bit mode");
    }

    #[test]
    fn v1_has_pae_and_nx_and_no_long_mode() {
        let extended = Model::V1.cpuid(0x8000_0001, 0, 0, false);
        assert_eq!(extended.edx, 1 << 20);
        assert_ne!(Model::V1.cpuid(1, 0, 0, false).edx & 1 << 6, 0);
        assert_eq!(Model::V1.cpuid(1, 0, 0, false).ecx, 1 << 31);
    }

    /// SDM vol. 3B, 18.7.3: TSC frequency = ECX * EBX / EAX.
    #[test]
    fn the_clocks_need_no_calibration() {
        let leaf = Model::V2.cpuid(0x15, 0, 0, false);
        assert_eq!(u64::from(leaf.ecx) * u64::from(leaf.ebx) / u64::from(leaf.eax), 2_000_000_000);
        assert_eq!(Model::V2.cpuid(0x4000_0010, 0, 0, false).eax, 2_000_000);
        assert_eq!(Model::V2.cpuid(0x8000_0007, 0, 0, false).edx, 1 << 8);
        assert_ne!(Model::V2.cpuid(7, 0, 0, false).ebx & 2, 0, "TSC_ADJUST");
    }

    #[test]
    fn the_apic_id_is_where_kernels_look() {
        assert_eq!(Model::V2.cpuid(1, 0, 5, false).ebx >> 24, 5);
        assert_eq!(Model::V2.cpuid(0xb, 0, 5, false).edx, 5);
        assert_eq!(Model::V2.cpuid(0xb, 1, 5, false), Cpuid { eax: 0, ebx: 1, ecx: 0x201, edx: 5 });
        assert_eq!(Model::V2.cpuid(0xb, 2, 5, false).ebx, 0);
    }

    /// SDM vol. 2A, table 3-11: VME is bit 1 and TSC bit 4 of leaf 1 EDX; the counter's other leaves.
    #[test]
    fn what_is_taken_away_is_nowhere_in_cpuid() {
        let model: Model = "dejavm-v2,-vme,-tsc".parse().unwrap();
        let edx = |model: Model| model.cpuid(1, 0, 0, false).edx;
        assert_eq!(edx(Model::V2) & !edx(model), 1 << 1 | 1 << 4);
        assert_eq!(model.cpuid(0x8000_0001, 0, 0, false).edx & 1 << 27, 0, "RDTSCP");
        assert_eq!(model.cpuid(7, 0, 0, false).ebx & 2, 0, "TSC_ADJUST");
        for leaf in [0x15, 0x4000_0010, 0x8000_0007] {
            assert_eq!(model.cpuid(leaf, 0, 0, false), Cpuid::default(), "{leaf:#x}");
        }
    }

    #[test]
    fn unknown_leaves_answer_as_the_last_basic_one() {
        let last = Model::V2.cpuid(0x16, 0, 0, false);
        for leaf in [0x17, 0x1f, 0x3fff_ffff, 0x4000_0011, 0x8000_0009, 0xffff_ffff] {
            assert_eq!(Model::V2.cpuid(leaf, 0, 0, false), last, "{leaf:#x}");
        }
    }

    #[test]
    fn the_brand_string_is_terminated() {
        for model in [Model::V1, Model::V2] {
            let mut text = Vec::new();
            for leaf in 0x8000_0002..=0x8000_0004 {
                let Cpuid { eax, ebx, ecx, edx } = model.cpuid(leaf, 0, 0, false);
                for word in [eax, ebx, ecx, edx] {
                    text.extend(word.to_le_bytes());
                }
            }
            assert_eq!(text.len(), 48);
            assert_eq!(text[47], 0);
            assert!(text.starts_with(model.base.name().as_bytes()));
        }
    }

    #[test]
    fn os_xsave_is_dynamic() {
        let model: Model = "dejavm-v2,+xsave".parse().unwrap();
        assert_eq!(model.cpuid(1, 0, 0, false).ecx >> 26 & 3, 1);
        assert_eq!(model.cpuid(1, 0, 0, true).ecx >> 26 & 3, 3);
        assert_eq!(model.cpuid(0xd, 0, 0, true).ebx, 576);
    }
}

//! Which optional instructions a model has. The decoder knows them all; what a model lacks is #UD.

use super::Done;
use crate::cpu::Cpu;
use crate::model::Model;
use iced_x86::{CpuidFeature, Instruction};

impl Model {
    /// Whether the model has the integer instructions of a CPUID feature.
    pub(crate) fn has(self, feature: CpuidFeature) -> bool {
        let v2 = match self {
            Model::V1 => false,
            Model::V2 => true,
        };
        match feature {
            CpuidFeature::POPCNT | CpuidFeature::SSE4_2 | CpuidFeature::CMPXCHG16B => v2,
            CpuidFeature::BMI1
            | CpuidFeature::BMI2
            | CpuidFeature::LZCNT
            | CpuidFeature::MOVBE
            | CpuidFeature::ADX
            | CpuidFeature::CLFLUSHOPT
            | CpuidFeature::CLWB => false,
            _ => true,
        }
    }
}

impl Cpu {
    /// #UD unless the model has all that the instruction needs.
    pub(super) fn require_features(&mut self, i: &Instruction) -> Done {
        if i.cpuid_features().iter().all(|&feature| self.model.has(feature)) {
            return Ok(());
        }
        Err(self.undefined_opcode())
    }

    /// #UD unless the model has the instruction, and in real and virtual-8086 mode, where the prefix
    /// of these encodings is LDS or LES with a register, which does not exist.
    pub(super) fn require_vex(&mut self, i: &Instruction) -> Done {
        if self.is_real_mode() || self.is_v86() {
            return Err(self.undefined_opcode());
        }
        self.require_features(i)
    }
}

//! Which optional instructions a model has. The decoder knows them all; what a model lacks is #UD.

use super::{Done, Exec};
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
    /// Executes an optional instruction: #UD unless the model has all that it needs.
    pub(super) fn if_known(&mut self, i: &Instruction, exec: Exec) -> Done {
        if i.cpuid_features().iter().all(|&feature| self.model.has(feature)) {
            return exec(self, i);
        }
        Err(self.undefined_opcode())
    }

    /// As [`Cpu::if_known`], and #UD in real and virtual-8086 mode, where the VEX prefix is LDS or
    /// LES with a register operand, which does not exist.
    pub(super) fn if_vex(&mut self, i: &Instruction, exec: Exec) -> Done {
        if self.is_real_mode() || self.is_v86() {
            return Err(self.undefined_opcode());
        }
        self.if_known(i, exec)
    }
}

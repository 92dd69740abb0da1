//! The families of instructions, each with its own batches.

use iced_x86::{Code, CpuidFeature, OpCodeInfo, OpCodeOperandKind};
use std::fmt;
use std::str::FromStr;

/// A group of instructions in one kind of code segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// General registers only, 64-bit code.
    Integer64,
    /// General registers only, 32-bit code.
    Integer32,
    /// x87 and MMX, 64-bit code.
    X87Mmx64,
    /// x87 and MMX, 32-bit code.
    X87Mmx32,
    /// SSE to SSE4.2, AES, PCLMULQDQ, 64-bit code.
    Sse64,
    /// The same in 32-bit code.
    Sse32,
}

impl Family {
    /// All of them.
    pub const ALL: [Family; 6] = [
        Family::Integer64,
        Family::Integer32,
        Family::X87Mmx64,
        Family::X87Mmx32,
        Family::Sse64,
        Family::Sse32,
    ];

    /// The default size of the code segment.
    pub fn bits(self) -> u32 {
        match self {
            Family::Integer64 | Family::X87Mmx64 | Family::Sse64 => 64,
            Family::Integer32 | Family::X87Mmx32 | Family::Sse32 => 32,
        }
    }

    /// Whether x87 and SSE state is part of the tests.
    pub fn has_fx(self) -> bool {
        match self {
            Family::Integer64 | Family::Integer32 => false,
            Family::X87Mmx64 | Family::X87Mmx32 | Family::Sse64 | Family::Sse32 => true,
        }
    }

    /// Whether an instruction belongs here, as far as its registers and CPUID features tell.
    pub(crate) fn holds(self, code: Code, info: &OpCodeInfo) -> bool {
        let in_mode = if self.bits() == 64 { info.mode64() } else { info.mode32() };
        in_mode
            && match self {
                Family::Integer64 | Family::Integer32 => kind(code, info) == Kind::Integer,
                Family::X87Mmx64 | Family::X87Mmx32 => kind(code, info) == Kind::X87Mmx,
                Family::Sse64 | Family::Sse32 => kind(code, info) == Kind::Sse,
            }
    }
}

#[derive(PartialEq)]
enum Kind {
    Integer,
    X87Mmx,
    Sse,
    Other,
}

fn kind(code: Code, info: &OpCodeInfo) -> Kind {
    use CpuidFeature as F;
    let has_mmx_operand = info.op_kinds().iter().any(|kind| {
        matches!(
            kind,
            OpCodeOperandKind::mm_reg | OpCodeOperandKind::mm_rm | OpCodeOperandKind::mm_or_mem
        )
    });
    let mut kind = Kind::Integer;
    for feature in code.cpuid_features() {
        kind = match feature {
            F::INTEL8086
            | F::INTEL186
            | F::INTEL286
            | F::INTEL386
            | F::INTEL486
            | F::INTEL386_ONLY
            | F::X64
            | F::CMOV
            | F::CX8
            | F::CMPXCHG16B
            | F::POPCNT
            | F::MULTIBYTENOP
            | F::PAUSE
            | F::PREFETCHW
            | F::CLFSH
            | F::MOVBE
            | F::ADX
            | F::BMI1
            | F::BMI2
            | F::LZCNT => kind,
            F::FPU | F::FPU287 | F::FPU387 | F::MMX => Kind::X87Mmx,
            F::SSE
            | F::SSE2
            | F::SSE3
            | F::SSSE3
            | F::SSE4_1
            | F::SSE4_2
            | F::AES
            | F::PCLMULQDQ
                if matches!(kind, Kind::Integer | Kind::Sse) =>
            {
                if has_mmx_operand {
                    Kind::X87Mmx
                } else {
                    Kind::Sse
                }
            }
            F::SSE3 if kind == Kind::X87Mmx => kind,
            _ => return Kind::Other,
        };
    }
    kind
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Family::Integer64 => "integer64",
            Family::Integer32 => "integer32",
            Family::X87Mmx64 => "x87mmx64",
            Family::X87Mmx32 => "x87mmx32",
            Family::Sse64 => "sse64",
            Family::Sse32 => "sse32",
        })
    }
}

impl FromStr for Family {
    type Err = String;

    fn from_str(name: &str) -> Result<Family, String> {
        Family::ALL.into_iter().find(|family| family.to_string() == name).ok_or_else(|| {
            let known = Family::ALL.map(|family| family.to_string()).join(", ");
            format!("no family is called {name}; there are {known}")
        })
    }
}

//! Which instructions are compared, and why the others are not.

use crate::family::Family;
use iced_x86::{Code, CpuidFeature, EncodingKind, FlowControl, Instruction, Mnemonic, OpCodeInfo};

/// The instructions of one family.
pub struct Catalogue {
    /// The family.
    pub family: Family,
    /// Every form of every instruction, in the decoder's order.
    pub forms: Vec<Form>,
    /// Index in `forms` by code.
    places: Vec<Option<u16>>,
}

/// One form of an instruction.
pub struct Form {
    /// The decoder's name.
    pub code: Code,
    /// What encodes it.
    pub info: &'static OpCodeInfo,
    /// The low three bits of the opcode name a register.
    pub register_in_opcode: bool,
}

impl Catalogue {
    /// Collects a family.
    pub fn new(family: Family) -> Catalogue {
        let mut forms = Vec::new();
        let mut places = Vec::new();
        for code in Code::values() {
            let info = code.op_code();
            // In 64-bit code Intel ignores 66h on a near branch, AMD makes the branch 16-bit.
            let narrow_branch = family.bits() == 64
                && info.operand_size() == 16
                && code.flow_control() != FlowControl::Next;
            let wanted = is_comparable(code, info) && family.holds(code, info) && !narrow_branch;
            places.push(wanted.then_some(forms.len() as u16));
            if wanted {
                let kinds = info.op_kinds().iter();
                let register_in_opcode =
                    kinds.clone().any(|kind| format!("{kind:?}").ends_with("opcode"));
                forms.push(Form { code, info, register_in_opcode });
            }
        }
        Catalogue { family, forms, places }
    }

    /// The place of an instruction in `forms`.
    pub fn place(&self, code: Code) -> Option<usize> {
        self.places[code as usize].map(usize::from)
    }
}

/// Whether an instruction can run natively alone, and means the same on every host.
fn is_comparable(code: Code, info: &OpCodeInfo) -> bool {
    info.is_instruction()
        && info.encoding() == EncodingKind::Legacy
        && info.decoder_option() == 0
        // FWAIT and the instruction after it are two instructions to the hardware.
        && !info.fwait()
        && info.cpl3()
        && !info.is_privileged()
        && !info.is_input_output()
        && flow_is_near(code)
        && exclusion(code).is_none()
        && model_has(code)
}

/// Near branches come back by the breakpoints they land on; all else that leaves does not.
fn flow_is_near(code: Code) -> bool {
    match code.flow_control() {
        FlowControl::Next | FlowControl::ConditionalBranch => true,
        FlowControl::UnconditionalBranch
        | FlowControl::IndirectBranch
        | FlowControl::Return
        | FlowControl::Call
        | FlowControl::IndirectCall => {
            let mut instruction = Instruction::default();
            instruction.set_code(code);
            !(instruction.is_jmp_far()
                || instruction.is_jmp_far_indirect()
                || instruction.is_call_far()
                || instruction.is_call_far_indirect()
                || matches!(
                    code.mnemonic(),
                    Mnemonic::Retf
                        | Mnemonic::Iret
                        | Mnemonic::Iretd
                        | Mnemonic::Iretq
                        | Mnemonic::Syscall
                        | Mnemonic::Sysenter
                        | Mnemonic::Sysret
                        | Mnemonic::Sysretq
                        | Mnemonic::Sysexit
                        | Mnemonic::Sysexitq
                        | Mnemonic::Jmpe
                        | Mnemonic::Uiret
                ))
        }
        FlowControl::Exception => code == Code::Ud2,
        FlowControl::Interrupt | FlowControl::XbeginXabortXend => false,
    }
}

/// Why an instruction that would run is left out.
pub fn exclusion(code: Code) -> Option<&'static str> {
    use Mnemonic as M;
    match code {
        Code::Mov_Sreg_rm16 | Code::Mov_Sreg_r32m16 | Code::Mov_Sreg_r64m16 => {
            return Some("loads a segment from the host's descriptor tables");
        }
        Code::Popw_CS
        | Code::Popw_DS
        | Code::Popw_ES
        | Code::Popw_SS
        | Code::Popw_FS
        | Code::Popw_GS
        | Code::Popd_DS
        | Code::Popd_ES
        | Code::Popd_SS
        | Code::Popd_FS
        | Code::Popd_GS
        | Code::Popq_FS
        | Code::Popq_GS => {
            return Some("loads a segment from the host's descriptor tables");
        }
        Code::Movsxd_r16_rm16 => {
            return Some("AMD reads four bytes of memory, Intel two");
        }
        Code::Reservednop_rm16_r16_0F0D
        | Code::Reservednop_rm32_r32_0F0D
        | Code::Reservednop_rm64_r64_0F0D => {
            return Some("PREFETCHW of a register: #UD by AMD, no operation by Intel");
        }
        _ => {}
    }
    match code.mnemonic() {
        M::Lds | M::Les | M::Lfs | M::Lgs | M::Lss => {
            Some("loads a segment from the host's descriptor tables")
        }
        M::Lar | M::Lsl | M::Verr | M::Verw => Some("reads the host's descriptor tables"),
        M::Sgdt | M::Sidt | M::Sldt | M::Str | M::Smsw => {
            Some("tells of the host's system state; the kernel emulates it under UMIP")
        }
        M::Popf | M::Popfd | M::Popfq => Some("may set TF, which traps after the way home's jump"),
        M::Rdtsc | M::Rdtscp | M::Rdpmc | M::Rdrand | M::Rdseed | M::Rdpid => {
            Some("gives another value every time")
        }
        M::Cpuid | M::Xgetbv => Some("tells which CPU this is"),
        M::Fxrstor | M::Fxrstor64 | M::Fxsave | M::Fxsave64 => {
            Some("images hold implementation-specific fields")
        }
        M::Syscall | M::Sysenter | M::Int | M::Int1 | M::Int3 | M::Into => {
            Some("enters the kernel")
        }
        M::Rdfsbase | M::Rdgsbase | M::Wrfsbase | M::Wrgsbase => {
            Some("changes the segment bases that the runner set for all tests")
        }
        _ => None,
    }
}

/// Whether model `dejavm-v2` has the instruction.
fn model_has(code: Code) -> bool {
    !code.cpuid_features().iter().any(|feature| {
        matches!(
            feature,
            CpuidFeature::BMI1
                | CpuidFeature::BMI2
                | CpuidFeature::LZCNT
                | CpuidFeature::MOVBE
                | CpuidFeature::ADX
                | CpuidFeature::PREFETCHW
                | CpuidFeature::AES
                | CpuidFeature::PCLMULQDQ
        )
    })
}

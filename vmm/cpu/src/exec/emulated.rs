//! What QEMU's processor (its translator, 7.2) does otherwise than silicon, for models with [`Features::QEMU`]: recordings that were
//! made on a KVM whose host's processor is that one are followed to the last flag.
//!
//! Here are the flags that the manual leaves undefined (target/i386/tcg: `cc_helper_template.h`, `gen_shift_flags`); what is not
//! marked as accessed, and what frames show, is in `descriptor.rs` and `interrupt.rs`. And there is what KVM does for guests of that processor,
//! because it loses the shadow of STI. Not imitated: OF and AF after BT and its
//! kin, which depend there on what was translated together.
//!
//! [`Features::QEMU`]: crate::Features::QEMU

use super::shift::{double_shift, rcl, rcr, shift, shl, shld, shr, shrd};
use super::{Done, Exec};
use crate::cpu::Cpu;
use crate::flags::{Arith, rflags, sign_extend};
use crate::model::Model;
use dejavm_units::Gva;
use iced_x86::{Instruction, Mnemonic, Register};

impl Cpu {
    /// Whether an interrupt that waits is held off for one more instruction where the shadow of STI ends. On a KVM whose processor loses that
    /// shadow nobody can tell whether the guest has just executed an STI, but by the byte before the next instruction; another STI may stand there
    /// (`vmm/kvm/src/interrupt_shadow.rs`).
    pub(crate) fn is_behind_any_sti(&mut self) -> bool {
        const STI: u8 = 0xfb;
        if !self.model.is_qemus() || !self.bus().interrupt_pending() {
            return false;
        }
        let before = Gva(self.cs().base.wrapping_add(self.rip).wrapping_sub(1));
        let mut byte = [0];
        let at = self.paging().inspect(self.ram(), before, None);
        at.is_some_and(|at| self.ram().read(at, &mut byte).is_ok()) && byte == [STI]
    }
}

/// The semantics of an instruction that such a model executes otherwise than the others.
pub(crate) fn select(model: &Model, i: &Instruction) -> Option<Exec> {
    if !model.is_qemus() {
        return None;
    }
    Some(match i.mnemonic() {
        Mnemonic::Mul => mul,
        Mnemonic::Imul if i.op_count() == 1 => mul,
        Mnemonic::Imul => imul,
        Mnemonic::Shl | Mnemonic::Sal => |cpu, i| {
            shift(cpu, i, |flags, a, count, size| {
                let result = shl(flags, a, count, size);
                top_differs_from_carry(flags);
                result
            })
        },
        Mnemonic::Shr => |cpu, i| {
            shift(cpu, i, |flags, a, count, size| {
                let result = shr(flags, a, count, size);
                if count > 1 {
                    flags.replace_cf_of(flags.cf(), false);
                }
                result
            })
        },
        Mnemonic::Rcl => {
            |cpu, i| shift(cpu, i, |flags, a, n, size| through_carry(flags, a, n, size, rcl))
        }
        Mnemonic::Rcr => {
            |cpu, i| shift(cpu, i, |flags, a, n, size| through_carry(flags, a, n, size, rcr))
        }
        Mnemonic::Shld => |cpu, i| {
            double_shift(cpu, i, |flags, a, fill, count, size| {
                let result = shld(flags, a, fill, count, size);
                top_differs_from_carry(flags);
                result
            })
        },
        Mnemonic::Shrd => |cpu, i| {
            double_shift(cpu, i, |flags, a, fill, count, size| {
                let result = shrd(flags, a, fill, count, size);
                let below = result >> (size * 8 - 2) & 1 != 0;
                flags.replace_cf_of(flags.cf(), flags.sf() != below);
                result
            })
        },
        Mnemonic::Bsf | Mnemonic::Bsr => scan,
        Mnemonic::Rdmsr | Mnemonic::Wrmsr => model_specific,
        _ => return None,
    })
}

/// OF tells whether the last of the single steps changed the sign.
fn top_differs_from_carry(flags: &mut Arith) {
    flags.replace_cf_of(flags.cf(), flags.cf() != flags.sf());
}

fn through_carry(
    flags: &mut Arith,
    a: u64,
    count: u32,
    size: u32,
    rotate: impl FnOnce(&mut Arith, u64, u32, u32) -> u64,
) -> u64 {
    let before = (flags.cf(), flags.of());
    let result = rotate(flags, a, count, size);
    if count.is_multiple_of(size * 8 + 1) {
        flags.replace_cf_of(before.0, before.1);
    } else {
        let changes = (a ^ result) >> (size * 8 - 1) & 1 != 0;
        flags.replace_cf_of(flags.cf(), changes);
    }
    result
}

/// MUL, and IMUL of one operand: ZF follows the lower half too.
fn mul(cpu: &mut Cpu, i: &Instruction) -> Done {
    let size = cpu.operand_size(i, 0);
    let exec = super::multiply::select(i).expect("it multiplies");
    exec(cpu, i)?;
    let low = match size {
        1 => Register::AL,
        2 => Register::AX,
        4 => Register::EAX,
        _ => Register::RAX,
    };
    let significant = cpu.arith.cf();
    cpu.arith.set_result_cf_of(cpu.reg(low), significant, significant, size);
    Ok(())
}

/// IMUL of two and three operands, likewise.
fn imul(cpu: &mut Cpu, i: &Instruction) -> Done {
    let size = cpu.operand_size(i, 0);
    let exec = super::multiply::select(i).expect("it multiplies");
    exec(cpu, i)?;
    let significant = cpu.arith.cf();
    cpu.arith.set_result_cf_of(cpu.reg(i.op0_register()), significant, significant, size);
    Ok(())
}

/// BSF and BSR: the flags are those of a logical operation with the source for its result.
fn scan(cpu: &mut Cpu, i: &Instruction) -> Done {
    let size = cpu.operand_size(i, 0);
    let source = cpu.read_operand(i, 1)?;
    if source != 0 {
        let zeros = source.trailing_zeros();
        let position =
            if i.mnemonic() == Mnemonic::Bsf { zeros } else { 63 - source.leading_zeros() };
        cpu.set_reg(i.op0_register(), position.into());
    }
    cpu.arith.set_logic(sign_extend(source, size), size);
    Ok(())
}

/// RDMSR and WRMSR: a #GP for a register that there is not is the kernel's, which sets RF (`kvm_inject_exception`).
fn model_specific(cpu: &mut Cpu, i: &Instruction) -> Done {
    let exec = super::model_specific::select(i).expect("it accesses a register");
    let may = cpu.cpl == 0;
    exec(cpu, i).inspect_err(|_| cpu.system_flags |= if may { rflags::RF } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::super::table::run64_with;
    use crate::model::Features;
    use crate::testing::{Bench, CODE};

    const CF: u64 = 1;
    const PF: u64 = 4;
    const ZF: u64 = 0x40;
    const SF: u64 = 0x80;
    const OF: u64 = 0x800;

    /// What target/i386/tcg of QEMU 7.2 leaves: `compute_all_mul`, `compute_all_shl`, `compute_all_sar`, `compute_all_logic`.
    #[test]
    fn flags_are_those_of_qemus_processor() {
        let cases: [(&[u8], [u64; 4], u64, u64); 8] = [
            // imul eax, ecx: zero sets ZF
            (&[0x0f, 0xaf, 0xc1], [0, 3, 0, 0], 0, ZF | PF),
            // mul ecx
            (&[0xf7, 0xe1], [1 << 31, 2, 0, 0], 0, CF | ZF | PF | OF),
            // shl eax, 2: OF says whether the last step changed the sign
            (&[0xc1, 0xe0, 2], [0x6000_0000, 0, 0, 0], 0x8000_0000, CF | SF | PF),
            // shr eax, 2
            (&[0xc1, 0xe8, 2], [0x8000_0000, 0, 0, 0], 0x2000_0000, PF),
            // shld eax, ecx, 2
            (&[0x0f, 0xa4, 0xc8, 2], [0x6000_0000, 0, 0, 0], 0x8000_0000, CF | SF | PF),
            // shrd eax, ecx, 2: OF says that the new top two bits differ
            (&[0x0f, 0xac, 0xc8, 2], [0, 1, 0, 0], 0x4000_0000, PF | OF),
            // bsf eax, ecx: the flags of the source
            (&[0x0f, 0xbc, 0xc1], [0, 0x8000_0000, 0, 0], 31, SF | PF),
            // bsr eax, ecx of nothing
            (&[0x0f, 0xbd, 0xc1], [7, 0, 0, 0], 7, ZF | PF),
        ];
        for (code, gpr, result, flags) in cases {
            let ([rax, ..], got) = run64_with(Features::QEMU, code, gpr, 0);
            assert_eq!((rax, got), (result, flags), "{code:x?}");
        }
    }

    /// Where an interrupt that waits enters code with STI: behind the instruction behind it, and one later where that leads behind an STI.
    #[test]
    fn an_interrupt_is_held_off_behind_any_sti() {
        // sti; jmp to A; sti; A: nop; nop
        let jumps = [0xfb, 0xeb, 0x01, 0xfb, 0x90, 0x90];
        // sti; nop; nop
        let goes_on = [0xfb, 0x90, 0x90];
        for (features, code, enters_at) in [
            (Features::empty(), &jumps[..], 4),
            (Features::QEMU, &jumps[..], 5),
            (Features::empty(), &goes_on[..], 2),
            (Features::QEMU, &goes_on[..], 2),
        ] {
            let mut bench = Bench::protected().with_tables();
            bench.cpu.model.features = features;
            bench.board.interrupt = Some(0x30);
            assert_eq!(bench.run_to_halt(code), Some(0x30));
            assert_eq!(u64::from(bench.stack32(0)), CODE + enters_at, "{features:?} {code:x?}");
        }
    }

    /// F3 0F BC: CF tells a zero source, and the destination is the width then.
    #[test]
    fn a_hidden_tzcnt_is_one_all_the_same() {
        let code = [0xf3, 0x0f, 0xbc, 0xc1];
        let ([rax, ..], flags) = run64_with(Features::HIDDEN_TZCNT, &code, [7, 0, 0, 0], 0);
        assert_eq!((rax, flags), (32, CF));
        let ([rax, ..], flags) = run64_with(Features::empty(), &code, [7, 0, 0, 0], 0);
        assert_eq!((rax, flags), (7, ZF | PF));
    }
}

//! AH, CH, DH and BH: host code cannot name them beside R8 to R15, so they are moved to a scratch register's
//! low byte and back.

use super::block::{ARITHMETIC, Flags, Translation};
use super::emit::{Host, Width, host};
use super::registers::{host_of, named};
use crate::interp::general;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// The host register that holds the guest register of which this is the second byte.
fn high_byte(register: Register) -> Option<Host> {
    host_of(match register {
        Register::AH => 0,
        Register::CH => 1,
        Register::DH => 2,
        Register::BH => 3,
        _ => return None,
    })
}

/// Whether a register operand is one of the four.
pub(super) fn has_high_byte(i: &Instruction) -> bool {
    (0..i.op_count())
        .any(|n| i.op_kind(n) == OpKind::Register && high_byte(i.op_register(n)).is_some())
}

impl Translation<'_> {
    /// An instruction with a high byte and no memory operand.
    pub(super) fn with_high_byte(&mut self, i: &Instruction) -> Option<()> {
        let writes = match i.mnemonic() {
            Mnemonic::Test | Mnemonic::Cmp => false,
            Mnemonic::And
            | Mnemonic::Or
            | Mnemonic::Xor
            | Mnemonic::Add
            | Mnemonic::Sub
            | Mnemonic::Mov
            | Mnemonic::Movzx
            | Mnemonic::Movsx => true,
            _ => return None,
        };
        if i.op_count() != 2 || i.op0_kind() != OpKind::Register {
            return None;
        }
        let mut copied = *i;
        self.save_flags();
        match (i.op1_kind(), i.op1_register()) {
            (OpKind::Register, source) => match high_byte(source) {
                Some(full) => {
                    self.second_byte(host::R9, full);
                    copied.set_op1_register(named(host::R9, 1));
                }
                None => {
                    copied.set_op1_register(named(host_of(general(source)?)?, source.size()));
                }
            },
            (OpKind::Immediate8, _) => {}
            _ => return None,
        }
        let target = i.op0_register();
        let full = high_byte(target);
        match full {
            Some(full) => {
                self.second_byte(host::R8, full);
                copied.set_op0_register(named(host::R8, 1));
            }
            None => copied.set_op0_register(named(host_of(general(target)?)?, target.size())),
        }
        if !self.hot.encoded(&mut self.tools.encoder, &copied) {
            return None;
        }
        if i.rflags_modified() & ARITHMETIC != 0 {
            self.flags = Flags::Live;
        }
        if let (Some(full), true) = (full, writes) {
            self.save_flags();
            // MOVZX r8d, r8b; SHL r8d, 8; AND full, ~0xff00; OR full, r8
            self.hot.reg(Width::W32, &[0x0f, 0xb6], host::R8, host::R8);
            self.hot.reg(Width::W32, &[0xc1], 4, host::R8);
            self.hot.raw(&[8]);
            self.hot.arith(Width::W64, 4, full, !0xff00);
            self.hot.reg(Width::W64, &[0x0b], full, host::R8);
        }
        Some(())
    }

    /// `to` = the second byte of `full`, and more above it. Flags are lost.
    fn second_byte(&mut self, to: Host, full: Host) {
        self.hot.mov32(to, full);
        self.hot.reg(Width::W32, &[0xc1], 5, to);
        self.hot.raw(&[8]);
    }
}

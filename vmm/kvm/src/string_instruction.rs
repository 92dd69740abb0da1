//! Repeated string instructions: KVM comes out between their elements, where the software CPU takes no interrupt. So nothing
//! happens there.

use dejavm_memory::GuestRam;
use dejavm_units::Gpa;
use kvm_ioctls::VcpuFd;

/// Bytes of the longest instruction.
const INSTRUCTION_BYTES_MAX: u64 = 15;

/// Whether the next instruction is a repeated string instruction with elements left: perhaps some are behind us.
pub(crate) fn is_next(vcpu: &VcpuFd, ram: &GuestRam) -> bool {
    let (Ok(regs), Ok(sregs)) = (vcpu.get_regs(), vcpu.get_sregs()) else { return false };
    if regs.rcx == 0 {
        return false;
    }
    let start = sregs.cs.base.wrapping_add(regs.rip);
    is_repeated_string(bytes_at(vcpu, ram, start), sregs.cs.l != 0)
}

/// The next instruction's bytes, and more, as far as they can be read; and whether it is 64-bit code.
pub(crate) fn next_bytes<'a>(
    vcpu: &'a VcpuFd,
    ram: &'a GuestRam,
) -> Option<(impl Iterator<Item = u8> + 'a, bool)> {
    let (regs, sregs) = (vcpu.get_regs().ok()?, vcpu.get_sregs().ok()?);
    let start = sregs.cs.base.wrapping_add(regs.rip);
    Some((bytes_at(vcpu, ram, start), sregs.cs.l != 0))
}

fn bytes_at<'a>(vcpu: &'a VcpuFd, ram: &'a GuestRam, start: u64) -> impl Iterator<Item = u8> + 'a {
    (0..INSTRUCTION_BYTES_MAX).map_while(move |n| {
        let found =
            vcpu.translate_gva(start.wrapping_add(n)).ok().filter(|found| found.valid != 0)?;
        let mut byte = [0];
        ram.read(Gpa(found.physical_address), &mut byte).ok()?;
        Some(byte[0])
    })
}

/// SDM vol. 2A, 2.1.1: prefixes in any order, REX last; opcodes 6C to 6F, A4 to A7, AA to AF.
fn is_repeated_string(bytes: impl Iterator<Item = u8>, long: bool) -> bool {
    let mut repeated = false;
    for byte in bytes {
        match byte {
            0xf2 | 0xf3 => repeated = true,
            0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 => {}
            0x40..=0x4f if long => {}
            0x6c..=0x6f | 0xa4..=0xa7 | 0xaa..=0xaf => return repeated,
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_strings_are_known_by_their_bytes() {
        let is = |bytes: &[u8], long| is_repeated_string(bytes.iter().copied(), long);
        // rep movsq; rep outsb with an operand-size prefix; repne scasb
        assert!(is(&[0xf3, 0x48, 0xa5], true));
        assert!(is(&[0x66, 0xf3, 0x6e], false));
        assert!(is(&[0xf2, 0xae], true));
        // In 32-bit code 48 is DEC; movsb alone; rep ret; the end of what can be read.
        assert!(!is(&[0xf3, 0x48, 0xa5], false));
        assert!(!is(&[0xa4], true));
        assert!(!is(&[0xf3, 0xc3], true));
        assert!(!is(&[0xf3], true));
    }
}

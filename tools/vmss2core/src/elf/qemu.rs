//! The note in which QEMU leaves what a core has no other place for: control registers, segments and tables
//! (`struct QEMUCPUState`, QEMU's target/i386/arch_dump.c). crash finds the kernel with it, and so do we when we read a core.

use super::notes::note;
use vmss::{SegmentRegister, Table, Vcpu, segment};

/// Bytes of the structure, with KernelGSBase.
const BYTES: u32 = 440;
const VERSION: u32 = 1;

/// The segment registers in the structure's order; GDT and IDT follow.
pub const SEGMENTS: [usize; 8] = [
    segment::CS,
    segment::DS,
    segment::ES,
    segment::FS,
    segment::GS,
    segment::SS,
    segment::LDTR,
    segment::TR,
];

/// The note of a processor.
pub fn state(vcpu: &Vcpu) -> Vec<u8> {
    let mut out = Vec::with_capacity(BYTES as usize);
    let mut word = |value: u32| out.extend_from_slice(&value.to_le_bytes());
    word(VERSION);
    word(BYTES);
    let [ax, cx, dx, bx, sp, bp, si, di, more @ ..] = &vcpu.gpr;
    let mut long = |value: u64| out.extend_from_slice(&value.to_le_bytes());
    [ax, bx, cx, dx, si, di, sp, bp].into_iter().chain(more).for_each(|&value| long(value));
    long(vcpu.rip);
    long(vcpu.eflags.into());
    let table = |table: Table| SegmentRegister {
        base: table.base,
        limit: Some(table.limit.into()),
        ..SegmentRegister::default()
    };
    let segments = SEGMENTS.into_iter().map(|at| vcpu.segments[at]);
    for register in segments.chain([table(vcpu.gdtr), table(vcpu.idtr)]) {
        // `flags` are the second half of a descriptor: bits 8 to 15 and 20 to 23.
        let rights = u32::from(register.rights.unwrap_or(0));
        let flags = (rights & 0xff) << 8 | (rights & 0xf00) << 12;
        for value in [register.selector.into(), register.limit.unwrap_or(u32::MAX), flags, 0] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out.extend_from_slice(&register.base.to_le_bytes());
    }
    vcpu.cr[..5].iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
    out.extend_from_slice(&vcpu.kernel_gs_base.unwrap_or(0).to_le_bytes());
    assert_eq!(out.len(), BYTES as usize, "the structure's size");
    note("QEMU", 0, &out)
}

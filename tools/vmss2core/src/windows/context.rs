//! CONTEXT and KSPECIAL_REGISTERS: a processor's registers as Windows' debuggers read them.

use vmss::{Table, Vcpu, segment};

/// Bytes of CONTEXT on AMD64 and on x86.
const CONTEXT_64: usize = 0x4d0;
const CONTEXT_32: usize = 0x2cc;
/// The architecture, and the groups of registers that a checkpoint has: control, integer, segments, debug. Floating
/// point is not among them: nobody knows what VMware calls its tags.
const FLAGS_64: u32 = 0x10_0017;
const FLAGS_32: u32 = 0x1_0017;
/// MXCSR after reset, and FCW as Windows sets it up.
const MXCSR: u32 = 0x1f80;
const FCW: u16 = 0x027f;

struct Fields(Vec<u8>);

impl Fields {
    fn half(&mut self, at: usize, value: u16) {
        self.0[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn word(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn long(&mut self, at: usize, value: u64) {
        self.0[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
}

/// CONTEXT of a 64-bit system, or a 32-bit one.
pub fn context(vcpu: &Vcpu, is_64: bool) -> Vec<u8> {
    if is_64 { context_64(vcpu) } else { context_32(vcpu) }
}

/// A selector, or what Windows has there: debuggers take 0 for a context that is not there.
fn selector(vcpu: &Vcpu, index: usize, usual: u16) -> u16 {
    match vcpu.segments[index].selector {
        0 => usual,
        selector => selector,
    }
}

fn context_64(vcpu: &Vcpu) -> Vec<u8> {
    let mut fields = Fields(vec![0; CONTEXT_64]);
    fields.word(0x30, FLAGS_64);
    fields.word(0x34, MXCSR);
    let selectors = [
        (0x38, segment::CS, 0x10),
        (0x3a, segment::DS, 0x2b),
        (0x3c, segment::ES, 0x2b),
        (0x3e, segment::FS, 0x53),
        (0x40, segment::GS, 0x2b),
        (0x42, segment::SS, 0x18),
    ];
    for (at, index, usual) in selectors {
        fields.half(at, selector(vcpu, index, usual));
    }
    fields.word(0x44, vcpu.eflags);
    for (at, index) in (0x48..).step_by(8).zip([0, 1, 2, 3, 6, 7]) {
        fields.long(at, vcpu.dr[index]);
    }
    // The order is that of the encodings: RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 ...; Vcpu has the same.
    for (at, value) in (0x78..).step_by(8).zip(vcpu.gpr) {
        fields.long(at, value);
    }
    fields.long(0xf8, vcpu.rip);
    // XSAVE_FORMAT: FCW first, MXCSR at 0x18; readers want it equal to the other.
    fields.half(0x100, FCW);
    fields.word(0x118, MXCSR);
    fields.0
}

fn context_32(vcpu: &Vcpu) -> Vec<u8> {
    let [eax, ecx, edx, ebx, esp, ebp, esi, edi, ..] = vcpu.gpr.map(|value| value as u32);
    let mut fields = Fields(vec![0; CONTEXT_32]);
    fields.word(0, FLAGS_32);
    for (at, index) in (0x04..).step_by(4).zip([0, 1, 2, 3, 6, 7]) {
        fields.word(at, vcpu.dr[index] as u32);
    }
    let selectors = [
        (0x8c, segment::GS, None),
        (0x90, segment::FS, Some(0x30)),
        (0x94, segment::ES, Some(0x23)),
        (0x98, segment::DS, Some(0x23)),
        (0xbc, segment::CS, Some(0x08)),
        (0xc8, segment::SS, Some(0x10)),
    ];
    for (at, index, usual) in selectors {
        fields.word(at, selector(vcpu, index, usual.unwrap_or(0)).into());
    }
    let registers = [
        (0x9c, edi),
        (0xa0, esi),
        (0xa4, ebx),
        (0xa8, edx),
        (0xac, ecx),
        (0xb0, eax),
        (0xb4, ebp),
        (0xb8, vcpu.rip as u32),
        (0xc0, vcpu.eflags),
        (0xc4, esp),
    ];
    for (at, value) in registers {
        fields.word(at, value);
    }
    fields.0
}

/// The first part of KSPECIAL_REGISTERS: CR0, CR2, CR3, CR4, debug registers, descriptor tables.
pub fn special_registers(vcpu: &Vcpu, is_64: bool) -> Vec<u8> {
    let long: usize = if is_64 { 8 } else { 4 };
    let mut fields = Fields(vec![0; if is_64 { 0x74 } else { 0x3c }]);
    let registers = [vcpu.cr[0], vcpu.cr[2], vcpu.cr[3], vcpu.cr[4]]
        .into_iter()
        .chain([0, 1, 2, 3, 6, 7].map(|index| vcpu.dr[index]));
    for (n, value) in registers.enumerate() {
        match is_64 {
            true => fields.long(n * long, value),
            false => fields.word(n * long, value as u32),
        }
    }
    // KDESCRIPTOR: so much padding that the base is aligned, the limit, the base.
    let mut descriptor = |at: usize, table: Table| {
        fields.half(at + long - 2, table.limit);
        match is_64 {
            true => fields.long(at + long, table.base),
            false => fields.word(at + long, table.base as u32),
        }
    };
    descriptor(10 * long, vcpu.gdtr);
    descriptor(12 * long, vcpu.idtr);
    fields.half(14 * long, vcpu.segments[segment::TR].selector);
    fields.half(14 * long + 2, vcpu.segments[segment::LDTR].selector);
    fields.0
}

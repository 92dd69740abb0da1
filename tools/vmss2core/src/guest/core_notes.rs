//! The notes of a core: what processors hold, and what Linux says of itself.

use super::kernel_space;
use super::recognise::Parts;
use crate::elf::qemu;
use vmss::{GuestMemory, SegmentRegister, Table, Vcpu, segment};

const NT_PRSTATUS: u32 = 1;
/// More processors than any guest has.
const VCPUS_MAX: usize = 4096;
/// `EFER.LME` and `LMA`.
const LONG_MODE: u64 = 1 << 8 | 1 << 10;

/// What notes told so far.
#[derive(Default)]
pub struct Notes {
    /// From `NT_PRSTATUS`, in the order of the file.
    statuses: Vec<Vcpu>,
    /// From QEMU's notes, which tell more, in the same order.
    states: Vec<Vcpu>,
    vmcoreinfo: Option<Vec<u8>>,
}

impl Notes {
    /// Reads notes that follow one another: length of the name, length of the contents, kind (32 bits each); name and
    /// contents, each padded to words.
    pub fn read(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((header, behind)) = rest.split_at_checked(12) {
            let [name, contents, kind] = [0, 4, 8]
                .map(|at| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes")));
            let padded = |bytes: u32| (bytes as usize).next_multiple_of(4);
            let Some((name_field, behind)) = behind.split_at_checked(padded(name)) else { return };
            let end = padded(contents).min(behind.len());
            let Some(contents) = behind.get(..contents as usize) else { return };
            self.take(&name_field[..name as usize], kind, contents);
            rest = &behind[end..];
        }
    }

    fn take(&mut self, name: &[u8], kind: u32, contents: &[u8]) {
        let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
        match (&name[..end], kind) {
            (b"CORE", NT_PRSTATUS) if self.statuses.len() < VCPUS_MAX => {
                self.statuses.extend(status(contents));
            }
            (b"QEMU", 0) if self.states.len() < VCPUS_MAX => self.states.extend(state(contents)),
            (b"VMCOREINFO", 0) => self.take_vmcoreinfo(contents),
            _ => {}
        }
    }

    fn take_vmcoreinfo(&mut self, text: &[u8]) {
        let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
        if end > 0 {
            self.vmcoreinfo = Some(text[..end].to_vec());
        }
    }

    /// The same, with VMCOREINFO that stood elsewhere, unless that is empty.
    pub fn with_vmcoreinfo(mut self, text: &[u8]) -> Notes {
        self.take_vmcoreinfo(text);
        self
    }

    /// The guest that has this memory and these notes.
    pub fn parts(self, memory: GuestMemory) -> Parts {
        let Notes { statuses, states, vmcoreinfo } = self;
        let mut remarks = Vec::new();
        let mut vcpus = if states.is_empty() { statuses } else { states };
        if vcpus.iter().all(|vcpu| vcpu.cr[0] == 0) {
            let space = vmcoreinfo.as_deref().and_then(|text| kernel_space::of(text, &memory));
            remarks.push(match (vcpus.is_empty(), space) {
                (true, _) => "it tells nothing of processors: all registers are shown as zero".into(),
                (false, Some(_)) => {
                    "it tells no control registers: addresses are those of the kernel, by VMCOREINFO".into()
                }
                (false, None) => "it tells no control registers: addresses are physical ones".into(),
            });
            if vcpus.is_empty() {
                vcpus.push(Vcpu::default());
            }
            for vcpu in &mut vcpus {
                if let Some(space) = space {
                    (vcpu.cr[0], vcpu.cr[3], vcpu.cr[4]) = (space.cr0, space.cr3, space.cr4);
                    vcpu.efer = Some(LONG_MODE);
                }
            }
        }
        Parts { memory, vcpus, vmcoreinfo, remarks, memory_file: None }
    }
}

/// `struct elf_prstatus` of Linux, for x86-64 or i386: they differ in size.
fn status(contents: &[u8]) -> Option<Vcpu> {
    let mut vcpu = Vcpu::default();
    let mut select = |selectors: [(usize, u64); 6]| {
        for (at, selector) in selectors {
            vcpu.segments[at].selector = selector as u16;
        }
    };
    match contents.len() {
        336 => {
            let r = |n: usize| long(contents, 112 + 8 * n);
            select([
                (segment::CS, r(17)),
                (segment::SS, r(20)),
                (segment::DS, r(23)),
                (segment::ES, r(24)),
                (segment::FS, r(25)),
                (segment::GS, r(26)),
            ]);
            // Out of r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi.
            vcpu.gpr = [10, 11, 12, 5, 19, 4, 13, 14, 9, 8, 7, 6, 3, 2, 1, 0].map(r);
            (vcpu.rip, vcpu.eflags) = (r(16), r(18) as u32);
            vcpu.segments[segment::FS].base = r(21);
            vcpu.segments[segment::GS].base = r(22);
            vcpu.efer = Some(LONG_MODE);
        }
        144 => {
            let r = |n: usize| u64::from(word(contents, 72 + 4 * n));
            select([
                (segment::DS, r(7)),
                (segment::ES, r(8)),
                (segment::FS, r(9)),
                (segment::GS, r(10)),
                (segment::CS, r(13)),
                (segment::SS, r(16)),
            ]);
            // Out of ebx, ecx, edx, esi, edi, ebp, eax.
            let [ax, cx, dx, bx, sp, bp, si, di] = [6, 1, 2, 0, 15, 5, 3, 4].map(r);
            vcpu.gpr[..8].copy_from_slice(&[ax, cx, dx, bx, sp, bp, si, di]);
            (vcpu.rip, vcpu.eflags) = (r(12), r(14) as u32);
            vcpu.efer = Some(0);
        }
        _ => return None,
    }
    Some(vcpu)
}

/// `struct QEMUCPUState` (QEMU's target/i386/arch_dump.c); KernelGSBase came later.
fn state(contents: &[u8]) -> Option<Vcpu> {
    const VERSION: u32 = 1;
    const LEAST: usize = 432;
    const LONG_SEGMENT: u16 = 1 << 9;
    if contents.len() < LEAST || word(contents, 0) != VERSION {
        return None;
    }
    let r = |n: usize| long(contents, 8 + 8 * n);
    // Out of rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp.
    let gpr = [0, 2, 3, 1, 6, 7, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15].map(r);
    let register = |n: usize| {
        let at = 152 + 24 * n;
        // The second half of a descriptor: bits 8 to 15 and 20 to 23.
        let flags = word(contents, at + 8);
        SegmentRegister {
            selector: word(contents, at) as u16,
            base: long(contents, at + 16),
            limit: Some(word(contents, at + 4)),
            rights: Some((flags >> 8 & 0xff | flags >> 12 & 0xf00) as u16),
        }
    };
    let table = |n| {
        let register = register(n);
        Table { base: register.base, limit: register.limit.unwrap_or(0) as u16 }
    };
    let mut vcpu = Vcpu { gpr, rip: r(16), eflags: r(17) as u32, ..Vcpu::default() };
    for (n, at) in qemu::SEGMENTS.into_iter().enumerate() {
        vcpu.segments[at] = register(n);
    }
    (vcpu.gdtr, vcpu.idtr) = (table(8), table(9));
    for at in 0..5 {
        vcpu.cr[at] = long(contents, 392 + 8 * at);
    }
    vcpu.kernel_gs_base = (contents.len() >= LEAST + 8).then(|| long(contents, LEAST));
    // EFER is not among them. Code of 64 bits tells; of other code, what `Vcpu::is_long_mode` goes by.
    let is_long =
        vcpu.segments[segment::CS].rights.is_some_and(|rights| rights & LONG_SEGMENT != 0);
    vcpu.efer = is_long.then_some(LONG_MODE);
    Some(vcpu)
}

/// # Panics
/// If there are no four bytes: lengths are checked before.
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// # Panics
/// If there are no eight bytes: lengths are checked before.
fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

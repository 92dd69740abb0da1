//! The notes of a core: registers of each processor, what "process" it is, what Linux says of itself.

use crate::guest::Guest;
use vmss::{Vcpu, segment};

const NT_PRSTATUS: u32 = 1;
const NT_FPREGSET: u32 = 2;
const NT_PRPSINFO: u32 = 3;
const NT_AUXV: u32 = 6;
/// The product's cores are of a process of this number and name.
const PID: u32 = 12345;
const NAME: &[u8] = b"GuestVM";
/// SIGSEGV, as the product's.
const SIGNAL: u16 = 11;

/// A note: name and contents padded to words.
pub fn note(name: &str, kind: u32, contents: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [name.len() as u32 + 1, contents.len() as u32, kind] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(contents);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// `NT_PRSTATUS` of processor `n`.
pub fn status(vcpu: &Vcpu, n: usize, is_64: bool) -> Vec<u8> {
    thread(vcpu, PID + n as u32, SIGNAL, is_64)
}

/// `NT_PRSTATUS` of a thread: `struct elf_prstatus` (Linux, include/linux/elfcore.h).
pub fn thread(vcpu: &Vcpu, pid: u32, signal: u16, is_64: bool) -> Vec<u8> {
    let [ax, cx, dx, bx, sp, bp, si, di] = std::array::from_fn(|at| vcpu.gpr[at]);
    let selector = |at: usize| u64::from(vcpu.segments[at].selector);
    let flags = u64::from(vcpu.eflags);
    let mut out = vec![0; if is_64 { 112 } else { 72 }];
    out[12..14].copy_from_slice(&signal.to_le_bytes());
    let pid_at = if is_64 { 32 } else { 24 };
    out[pid_at..pid_at + 4].copy_from_slice(&pid.to_le_bytes());
    if is_64 {
        let r = |n: usize| vcpu.gpr[n];
        let registers = [
            r(15),
            r(14),
            r(13),
            r(12),
            bp,
            bx,
            r(11),
            r(10),
            r(9),
            r(8),
            ax,
            cx,
            dx,
            si,
            di,
            u64::MAX,
            vcpu.rip,
            selector(segment::CS),
            flags,
            sp,
            selector(segment::SS),
            vcpu.segments[segment::FS].base,
            vcpu.segments[segment::GS].base,
            selector(segment::DS),
            selector(segment::ES),
            selector(segment::FS),
            selector(segment::GS),
        ];
        registers.iter().for_each(|register| out.extend_from_slice(&register.to_le_bytes()));
        out.resize(336, 0);
    } else {
        let registers = [
            bx,
            cx,
            dx,
            si,
            di,
            bp,
            ax,
            selector(segment::DS),
            selector(segment::ES),
            selector(segment::FS),
            selector(segment::GS),
            u64::MAX,
            vcpu.rip,
            selector(segment::CS),
            flags,
            sp,
            selector(segment::SS),
        ];
        registers
            .iter()
            .for_each(|&register| out.extend_from_slice(&(register as u32).to_le_bytes()));
        out.resize(144, 0);
    }
    note("CORE", NT_PRSTATUS, &out)
}

/// All that there is of every processor: first what everybody reads, then what QEMU's own cores have.
pub fn statuses(guest: &Guest) -> Vec<u8> {
    statuses_of(guest, guest.is_64())
}

/// The same, for a kernel of 64 or of 32 bits. Where there are QEMU's notes, drgn takes a thread's number for the processor's,
/// from 1, as QEMU writes it.
pub fn statuses_of(guest: &Guest, is_64: bool) -> Vec<u8> {
    let all = (1..).zip(&guest.vcpus);
    let mut out: Vec<u8> = all.flat_map(|(n, vcpu)| thread(vcpu, n, SIGNAL, is_64)).collect();
    out.extend(guest.vcpus.iter().flat_map(super::qemu::state));
    out
}

/// `NT_PRPSINFO` as the product's.
pub fn process(is_64: bool) -> Vec<u8> {
    process_named(PID, NAME, is_64)
}

/// `NT_PRPSINFO`: `struct elf_prpsinfo`.
pub fn process_named(pid: u32, name: &[u8], is_64: bool) -> Vec<u8> {
    let (pid_at, name_at, bytes) = if is_64 { (24, 40, 136) } else { (12, 28, 124) };
    let mut out = vec![0; bytes];
    out[1] = b'R';
    for at in [pid_at, pid_at + 8, pid_at + 12] {
        out[at..at + 4].copy_from_slice(&pid.to_le_bytes());
    }
    let name = &name[..name.len().min(15)];
    out[name_at..name_at + name.len()].copy_from_slice(name);
    // The command line, after 16 bytes of name.
    out[name_at + 16..name_at + 16 + name.len()].copy_from_slice(name);
    note("CORE", NT_PRPSINFO, &out)
}

/// `NT_FPREGSET` of a 64-bit thread: what FXSAVE stores.
pub fn floating_point(area: &[u8; 512]) -> Vec<u8> {
    note("CORE", NT_FPREGSET, area)
}

/// `NT_AUXV`: what execve told the program.
pub fn auxiliary_vector(vector: &[u8]) -> Vec<u8> {
    note("CORE", NT_AUXV, vector)
}

/// What Linux says of itself, as kdump stores it.
pub fn vmcoreinfo(text: &[u8]) -> Vec<u8> {
    note("VMCOREINFO", 0, text)
}

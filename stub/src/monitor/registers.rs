//! `monitor r`, in the words of the product of 2007, and which registers gdb is told of.

use super::{Answer, shown};
use crate::bridge::{Bridge, mode};
use crate::registers::Layout;
use crate::target::Refusal;
use dejavm_cpu::{CpuState, SegReg, Segment, TableRegister};

const GENERAL: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

pub(super) fn register(bridge: &mut Bridge<'_>, arguments: &[&str]) -> Answer {
    let name = arguments.first().copied().unwrap_or_default().to_ascii_lowercase();
    let Some(view) = bridge.view() else { return Refusal::unsupported("there is no such thread") };
    let priority = bridge.target.inspect().task_priority(view.vcpu);
    describe(&view.registers, priority, &name).ok_or_else(|| {
        let sentence =
            format!("there is no register `{}`; `monitor help r` lists them", shown(&name));
        Refusal::Unsupported(sentence)
    })
}

fn describe(state: &CpuState, priority: u8, name: &str) -> Option<String> {
    let segment = |register: SegReg| {
        let segment = &state.seg[register as usize];
        let Segment { selector, base, limit, rights } = *segment;
        format!(
            "{name} {selector:#x} base {base:#x} limit {limit:#x} type {:#x} s {} dpl {} p {} db {}",
            rights.kind(),
            u8::from(rights.is_code_or_data()),
            rights.dpl(),
            u8::from(rights.is_present()),
            u8::from(rights.is_big()),
        )
    };
    let system = |segment: &Segment| {
        let Segment { selector, base, limit, rights: _ } = segment;
        format!("{name} sel {selector:#x} base {base:#x} limit {limit:#x}")
    };
    let table =
        |table: TableRegister| format!("{name} base={:#x} limit={:#x}", table.base, table.limit);
    let value = match name {
        "cs" => return Some(segment(SegReg::Cs)),
        "ss" => return Some(segment(SegReg::Ss)),
        "ds" => return Some(segment(SegReg::Ds)),
        "es" => return Some(segment(SegReg::Es)),
        "fs" => return Some(segment(SegReg::Fs)),
        "gs" => return Some(segment(SegReg::Gs)),
        "gdtr" => return Some(table(state.gdtr)),
        "idtr" => return Some(table(state.idtr)),
        "ldtr" => return Some(system(&state.ldtr)),
        "tr" => return Some(system(&state.tr)),
        "cr0" => state.cr0,
        "cr2" => state.cr2,
        "cr3" => state.cr3,
        "cr4" => state.cr4,
        "cr8" => u64::from(priority),
        "efer" => state.efer,
        "rip" | "eip" | "pc" => state.rip,
        "rflags" | "eflags" => state.rflags,
        "star" => state.msr.star,
        "lstar" => state.msr.lstar,
        "cstar" => state.msr.cstar,
        "sfmask" => state.msr.sfmask,
        "sysenter_cs" => state.msr.sysenter_cs,
        "sysenter_esp" => state.msr.sysenter_esp,
        "sysenter_eip" => state.msr.sysenter_eip,
        "pat" => state.msr.pat,
        "k_gs_base" => state.msr.kernel_gs_base,
        "dr0" => state.dr[0],
        "dr1" => state.dr[1],
        "dr2" => state.dr[2],
        "dr3" => state.dr[3],
        "dr6" => state.dr[6],
        "dr7" => state.dr[7],
        _ => {
            let wide = name.strip_prefix('e').map(|rest| format!("r{rest}"));
            let number = GENERAL
                .iter()
                .position(|known| *known == name || wide.as_deref() == Some(*known))?;
            let value = state.gpr.get(number)?;
            if wide.is_some() { value & 0xffff_ffff } else { *value }
        }
    };
    Some(format!("{name}={value:#x}"))
}

pub(super) fn layout(bridge: &mut Bridge<'_>, arguments: &[&str]) -> Answer {
    match arguments.first().copied() {
        Some("32") => (bridge.layout, bridge.follow_mode) = (Layout::Bits32, false),
        Some("64") => (bridge.layout, bridge.follow_mode) = (Layout::Bits64, false),
        Some("follow") => bridge.follow_mode = true,
        Some("mode") => {
            let view = bridge.view();
            let long = view.is_some_and(|view| mode(&view.registers) == Layout::Bits64);
            return Ok(if long { "64" } else { "32" }.to_owned());
        }
        Some(_) => return Refusal::unsupported("say 32, 64, follow or mode"),
        None => {}
    }
    let bits = if bridge.layout == Layout::Bits64 { 64 } else { 32 };
    let follows =
        if bridge.follow_mode { "; the CPU's mode decides when gdb asks next" } else { "" };
    Ok(format!("gdb was told of the registers of {bits}-bit mode{follows}"))
}

//! Commands that look at memory, and how memory is addressed.

use super::{Answer, address, number, shown};
use crate::bridge::Bridge;
use crate::running::linear_instruction_pointer;
use crate::target::{Direction, Refusal, Resume, Stopped};
use dejavm_cpu::{Stops, WatchKind, Watchpoint};
use dejavm_units::Gva;

pub(super) fn address_space(bridge: &mut Bridge<'_>, physical: bool) -> Answer {
    bridge.physical = physical;
    Ok(if physical { "memory addresses are physical" } else { "memory addresses are virtual" }
        .into())
}

pub(super) fn translate(bridge: &mut Bridge<'_>, arguments: &[&str]) -> Answer {
    let at = Gva(address(arguments.first().copied().unwrap_or_default())?);
    let Some(view) = bridge.view() else { return Refusal::unsupported("there is no such thread") };
    match bridge.target.inspect().translate(view.vcpu, at, view.space) {
        Some(physical) => Ok(format!("{at} is at physical {physical}")),
        None => Ok(format!("{at} is not mapped")),
    }
}

pub(super) fn interrupts(bridge: &mut Bridge<'_>, arguments: &[&str]) -> Answer {
    match arguments.first().copied() {
        Some("skip") => bridge.skip_interrupts = true,
        Some("show") => bridge.skip_interrupts = false,
        Some(_) => return Refusal::unsupported("say `skip` or `show`"),
        None => {}
    }
    let says = if bridge.skip_interrupts { "runs through interrupts" } else { "shows interrupts" };
    Ok(format!("stepping {says}"))
}

/// Runs backwards to the last store, and comes back.
pub(super) fn last_write(bridge: &mut Bridge<'_>, arguments: &[&str]) -> Answer {
    let start = Gva(address(arguments.first().copied().unwrap_or_default())?);
    let bytes = match arguments.get(1) {
        None => 8,
        Some(text) => {
            number(text).filter(|bytes| (1..=1 << 30).contains(bytes)).ok_or_else(|| {
                Refusal::Unsupported(format!("`{}` is no number of bytes", shown(text)))
            })?
        }
    };
    if start.0.checked_add(bytes - 1).is_none() {
        return Refusal::unsupported("that is beyond the end of the address space");
    }
    if !bridge.target.capabilities().reverse {
        return Refusal::unsupported("only a replay can look back");
    }
    let space = bridge.view().and_then(|view| view.space);
    let watch = Watchpoint { start, bytes, kind: WatchKind::Write, space };
    let stops = Stops { breakpoints: Vec::new(), watchpoints: vec![watch] };
    let now = bridge.target.inspect().position();
    let resume = Resume { direction: Direction::Backward, until: None, stops: &stops };
    let stopped = bridge.target.resume(&resume, &mut |_, _| true, &mut *bridge.interrupted);
    let machine = bridge.target.inspect();
    let found = machine.position();
    let pointer = linear_instruction_pointer(&machine.registers(machine.current_vcpu()));
    bridge.target.seek(now, &mut || false)?;
    match stopped? {
        Stopped::Watchpoint { address, .. } => Ok(format!(
            "written at {address} by the instruction at {pointer}, position {found} ({} before now); \
             `monitor goto {found}` goes there",
            now.0.saturating_sub(found.0)
        )),
        Stopped::Interrupted => Ok("interrupted".to_owned()),
        _ => Ok(format!("nothing wrote to these {bytes} bytes since the recording began")),
    }
}

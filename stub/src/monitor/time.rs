//! Commands about time: where the machine stands, and going elsewhere.

use super::{Answer, number, position as parse_position, shown};
use crate::bridge::Bridge;
use crate::running::linear_instruction_pointer;
use crate::target::{Happening, Mark, Refusal};
use std::fmt::Write;

pub(super) fn position(bridge: &mut Bridge<'_>, _: &[&str]) -> Answer {
    Ok(bridge.target.inspect().position().to_string())
}

pub(super) fn when(bridge: &mut Bridge<'_>, _: &[&str]) -> Answer {
    let machine = bridge.target.inspect();
    let vcpu = machine.current_vcpu();
    let state = machine.registers(vcpu);
    let doing = if state.halted { "halted" } else { "running" };
    let (start, end) = bridge.target.extent();
    Ok(format!(
        "position {} of {start} to {end}, guest time {}, cpu {} {doing} at {} in ring {}",
        machine.position(),
        machine.guest_ns(),
        vcpu.0,
        linear_instruction_pointer(&state),
        state.cpl,
    ))
}

pub(super) fn stopat(bridge: &mut Bridge<'_>, arguments: &[&str]) -> Answer {
    match arguments.first() {
        None => Ok(match bridge.stop_at {
            Some(at) => format!("stops at {at}"),
            None => "no position is set".to_owned(),
        }),
        Some(&"off") => {
            bridge.stop_at = None;
            Ok("no position is set".to_owned())
        }
        Some(text) => {
            let at = parse_position(bridge, text)?;
            let now = bridge.target.inspect().position();
            bridge.stop_at = Some(at);
            Ok(match at.cmp(&now) {
                std::cmp::Ordering::Greater => format!("the next continue stops at {at}"),
                std::cmp::Ordering::Less => format!("the next reverse-continue stops at {at}"),
                std::cmp::Ordering::Equal => format!("the machine stands at {at} already"),
            })
        }
    }
}

pub(super) fn goto(bridge: &mut Bridge<'_>, arguments: &[&str]) -> Answer {
    let text = arguments.first().copied().unwrap_or_default();
    let to = parse_position(bridge, text)?;
    let reached = bridge.target.seek(to, &mut *bridge.interrupted)?;
    let machine = bridge.target.inspect();
    // gdb takes the thread that it has selected for selected still.
    if bridge.threads.view(machine, bridge.selected).is_none() {
        bridge.selected = bridge.threads.current(machine);
    }
    let at = linear_instruction_pointer(&machine.registers(machine.current_vcpu()));
    let interrupted = if reached == to { "" } else { " (interrupted)" };
    Ok(format!("position {reached}{interrupted}, at {at}"))
}

pub(super) fn mark(bridge: &mut Bridge<'_>, arguments: &[&str]) -> Answer {
    let name = arguments.first().copied().unwrap_or_default();
    // It must not read as a position.
    let plain = name.chars().all(|letter| letter.is_alphanumeric() || "_.:-/@".contains(letter));
    let taken = matches!(name, "start" | "end" | "off");
    if number(name).is_some() || !plain || taken || name.starts_with(['+', '-']) || name.len() > 100
    {
        let sentence =
            format!("`{}` is no name for a mark: letters, digits, _ . : / @ -", shown(name));
        return Err(Refusal::Unsupported(sentence));
    }
    bridge.target.set_mark(name)?;
    Ok(format!("{name} is position {}", bridge.target.inspect().position()))
}

pub(super) fn marks(bridge: &mut Bridge<'_>, _: &[&str]) -> Answer {
    let marks = bridge.target.marks();
    if marks.is_empty() {
        return Ok("no position has a name; `monitor mark NAME` gives one".to_owned());
    }
    let mut text = String::new();
    for Mark { name, at } in marks {
        let _ = writeln!(text, "{:>16}  {}", at.0, shown(&name));
    }
    Ok(text)
}

pub(super) fn pace(bridge: &mut Bridge<'_>, arguments: &[&str]) -> Answer {
    if let Some(text) = arguments.first() {
        let pace = number(text).and_then(|pace| u32::try_from(pace).ok()).ok_or_else(|| {
            Refusal::Unsupported(format!("`{}` is no pace: a number from 0 on", shown(text)))
        })?;
        bridge.target.set_pace(pace)?;
    }
    Ok(match bridge.target.pace() {
        Some(pace) => format!("pace {pace}"),
        None => "there is no pace here".to_owned(),
    })
}

pub(super) fn events(bridge: &mut Bridge<'_>, arguments: &[&str]) -> Answer {
    let from = match arguments.first() {
        Some(text) => parse_position(bridge, text)?,
        None => bridge.target.inspect().position(),
    };
    let limit = arguments.get(1).and_then(|text| number(text)).map_or(20, |count| count.min(1000));
    let events = bridge.target.events(from, limit as usize)?;
    if events.is_empty() {
        return Ok(format!("nothing entered the machine from position {from} on"));
    }
    let mut text = String::new();
    for Happening { at, guest_ns, what } in events {
        let _ = writeln!(text, "{:>16}  {guest_ns}  {}", at.0, what.escape_debug());
    }
    Ok(text)
}

pub(super) fn info(bridge: &mut Bridge<'_>, _: &[&str]) -> Answer {
    let mut text = bridge.target.info();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let capabilities = bridge.target.capabilities();
    let kind = match (capabilities.replay, capabilities.writable) {
        (true, _) => "a replay: it runs backwards too, nothing in it can be changed",
        (false, true) => "live: registers and memory can be written",
        (false, false) => "live",
    };
    let machine = bridge.target.inspect();
    let ram: u64 = machine.ram().iter().map(|(_, bytes)| bytes).sum();
    let _ = writeln!(text, "{kind}");
    let _ = writeln!(text, "{} CPU, {} MiB of RAM", machine.vcpus(), ram >> 20);
    Ok(text + &when(bridge, &[])?)
}

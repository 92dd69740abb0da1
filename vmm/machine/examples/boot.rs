//! Boots a kernel and prints its serial output: `boot KERNEL INITRD|- CMDLINE MIB [INSTRUCTIONS [v1]]`. A kernel `bios:FILE` is
//! firmware, and the initial RAM disk its display's ROM.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this is the world around a machine: it reads files and takes the time"
)]

use dejavm_machine::{Boot, Firmware, Idle, Machine, MachineConfig, Output, Stop};
use dejavm_memory::RamLayout;
use dejavm_units::{GuestNs, Position};
use std::error::Error;
use std::io::Write;
use std::time::Instant;

const SLICE: u64 = 50_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, kernel, initrd, cmdline, mib, rest @ ..] = &arguments[..] else {
        return Err("usage: boot KERNEL INITRD|- CMDLINE MIB [INSTRUCTIONS [v1]]".into());
    };
    let limit = rest.first().map_or(Ok(u64::MAX), |text| text.parse())?;
    let bios = kernel.strip_prefix("bios:");
    let image = std::fs::read(bios.unwrap_or(kernel))?;
    let initrd = if initrd == "-" { None } else { Some(std::fs::read(initrd)?) };
    let mut config = MachineConfig::new(RamLayout::new(mib.parse::<u64>()? << 20)?);
    if rest.get(1).is_some_and(|model| model == "v1") {
        config.cpu = dejavm_cpu::Model::V1;
    }
    let mut machine = if bios.is_some() {
        let (rom, video_rom) = (image.into(), initrd.unwrap_or_default().into());
        config.hardware.firmware = Some(Firmware { rom, video_rom });
        Machine::power_on(&config)?
    } else {
        let boot = Boot { image: &image, initrd: initrd.as_deref(), cmdline };
        Machine::boot(&config, &boot)?
    };

    let start = Instant::now();
    let end = loop {
        let until = Position((machine.position().0 + SLICE).min(limit));
        let stop = machine.run(until);
        print_output(&mut machine)?;
        match stop {
            Stop::Limit if machine.position().0 >= limit => break "limit".to_string(),
            Stop::Limit => {}
            Stop::Idle { wake: None } => break "idle for ever".to_string(),
            Stop::Idle { wake: Some(_) } => {
                while machine.idle_until(GuestNs(u64::MAX)) == Idle::Waiting {}
            }
            Stop::End(end) => break format!("{end:?}"),
            Stop::Breakpoint { .. } | Stop::Watchpoint { .. } => unreachable!("no stops are set"),
        }
    };
    let (Position(position), elapsed) = (machine.position(), start.elapsed().as_secs_f64());
    eprintln!(
        "{end} at position {position}, guest time {}, {elapsed:.1} s, {:.1} M insn/s",
        machine.guest_ns(),
        position as f64 / elapsed / 1e6
    );
    eprintln!("unknown ports: {:x?}", machine.unknown_ports());
    let cpu = machine.save().cpu;
    eprintln!(
        "rip {:x} cr0 {:x} cr2 {:x} cr3 {:x} rflags {:x} gpr {:x?}",
        cpu.rip, cpu.cr0, cpu.cr2, cpu.cr3, cpu.rflags, cpu.gpr
    );
    Ok(())
}

fn print_output(machine: &mut Machine) -> std::io::Result<()> {
    let mut console = std::io::stdout().lock();
    for output in machine.take_output() {
        match output {
            Output::Serial { port: _, bytes } | Output::DebugConsole { bytes } => {
                console.write_all(&bytes)?;
            }
            Output::Frame { .. } => {}
        }
    }
    console.flush()
}

//! A machine that runs live and is not recorded: against this is measured what recording costs.

use crate::world::HostWorld;
use dejavm_machine::{Idle, Machine, Stop};
use dejavm_replay::{Ending, IdleAnswer, Moment, Progress, World};
use dejavm_units::{GuestNs, Position};

/// Positions between two looks at the world, as when recording: instructions, or exits.
const SLICE: u64 = 4 << 20;
const SLICE_OF_EXITS: u64 = 10_000;

/// Runs a machine until it ends or the user stops it: why, and where.
pub fn run(machine: &mut Machine, world: &mut HostWorld<'_>) -> (Ending, Moment) {
    let slice = if machine.counts_exits() { SLICE_OF_EXITS } else { SLICE };
    loop {
        world.room(machine.frame_room());
        let polled = world.poll();
        for input in &polled.inputs {
            machine.apply(input);
        }
        let stop = machine.run(Position(machine.position().0.saturating_add(slice)));
        drop(machine.take_landmarks());
        let output = machine.take_output();
        if !output.is_empty() {
            world.output(&output);
        }
        let at = Moment { position: machine.position(), guest_ns: machine.guest_ns() };
        match stop {
            Stop::End(end) => return (Ending::Guest(end), at),
            _ if polled.stop => return (Ending::Stopped, at),
            Stop::Idle { wake } => idle(machine, world, wake),
            // No stops are set.
            Stop::Limit | Stop::Breakpoint { .. } | Stop::Watchpoint { .. } => {}
        }
        world.progress(Progress { at, file_bytes: 0, log_bytes: 0 });
    }
}

fn idle(machine: &mut Machine, world: &mut HostWorld<'_>, wake: Option<GuestNs>) {
    world.room(machine.frame_room());
    let IdleAnswer::Until(until) = world.idle(machine.guest_ns(), wake) else { return };
    let until = wake.map_or(until, |wake| until.min(wake));
    while machine.guest_ns() < until {
        if machine.idle_until(until) == Idle::Runnable {
            break;
        }
    }
}

//! Landmarks: instants that are found again by what the machine is there.

use super::tests::{Random, pages};
use super::*;
use crate::TimeBase;
use dejavm_memory::RamLayout;

/// A machine for which time passes by exits, in a guest that counts in memory and does not leave the processor.
fn counting() -> Machine {
    let ram = RamLayout::new(2 << 20).unwrap();
    let config = MachineConfig { time_base: TimeBase::Exits, ..MachineConfig::new(ram) };
    let boot = Boot { image: dejavm_images::COUNTER, initrd: None, cmdline: "" };
    let mut machine = Machine::boot(&config, &boot).unwrap();
    assert_eq!(machine.run(Position(10_000)), Stop::Limit);
    machine
}

fn copy_of(machine: &Machine) -> Machine {
    let ram = RamLayout::new(2 << 20).unwrap();
    let config = MachineConfig { time_base: TimeBase::Exits, ..MachineConfig::new(ram) };
    let mut copy = Machine::from_state(&config, &machine.save()).unwrap();
    let pfns: Vec<_> = machine.ram().pages().collect();
    for (pfn, page) in pfns.into_iter().zip(pages(machine)) {
        copy.ram_mut().write(pfn.gpa(), &page).unwrap();
    }
    copy
}

#[test]
fn an_instant_of_a_loop_is_found_again_exactly() {
    let seed = 0x1a2d;
    eprintln!("seed {seed:#x}");
    let mut random = Random(seed);
    let start = counting();
    for _ in 0..20 {
        let (mut there, mut other) = (copy_of(&start), copy_of(&start));
        there.ram_mut().take_dirty();
        let far = Position(start.position().0 + 1 + random.below(3_000_000));
        assert_eq!(there.run(far), Stop::Limit);
        let written = there.ram_mut().take_dirty();
        let landmark = Landmark::of(&there.cpu.state(), there.ram(), written.into_iter());
        other.find(&landmark).unwrap();
        assert_eq!(other.position(), far);
        assert_eq!(other.save(), there.save());
        assert!(pages(&other) == pages(&there));
    }
}

//! Whether this host's debug registers tell of what a guest does: not every KVM's do. QEMU's emulation of AMD's SVM (7.2) does not
//! look at them in guests, and where the kernel's emulator executes guests (`kvm_pvm`), it looks at instructions alone.

use crate::error::{KvmError, refused};
use crate::guest_debug::{self, Kind};
use crate::host::Host;
use crate::registers::{self, Board};
use crate::slots::Slots;
use dejavm_cpu::{CpuState, Rights, SegReg, control};
use dejavm_memory::{GuestRam, RamLayout};
use dejavm_units::{Gpa, Gva};
use kvm_ioctls::VcpuExit;
use std::sync::OnceLock;

/// What they tell of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// Instructions that are about to be executed.
    pub(crate) executed: bool,
    /// Loads and stores.
    pub(crate) accessed: bool,
}

/// MOV EAX, [3000H]; MOV [2000H], EAX; NOP; NOP; HLT.
const CODE: [u8; 13] = [0xa1, 0, 0x30, 0, 0, 0xa3, 0, 0x20, 0, 0, 0x90, 0x90, 0xf4];
const START: u64 = 0x1000;
const LOADED: Gva = Gva(0x3000);
const STORED: Gva = Gva(0x2000);
/// The second NOP.
const EXECUTED: Gva = Gva(START + 11);
/// Three stops and a halt.
const EXITS: usize = 4;
/// Present, DPL 0, S, 32-bit, pages; code that can be read, and data that can be written; both accessed.
const CODE_RIGHTS: u16 = 0xc9b;
const DATA_RIGHTS: u16 = 0xc93;

/// Finds out, once; nothing where there is no KVM.
pub(crate) fn told() -> Told {
    static TOLD: OnceLock<Told> = OnceLock::new();
    *TOLD.get_or_init(|| Host::open().and_then(|host| find_out(&host)).unwrap_or_default())
}

fn find_out(host: &Host) -> Result<Told, KvmError> {
    let vm = host.kvm.create_vm().map_err(refused("a virtual machine"))?;
    let layout = RamLayout::new(2 << 20).expect("a size that can be");
    let ram = GuestRam::new(layout).ok();
    let Some(mut ram) = ram else { return Ok(Told::default()) };
    ram.write(Gpa(START), &CODE).expect("there is RAM");
    let mut vcpu = vm.create_vcpu(0).map_err(refused("a vCPU"))?;
    let mut slots = Slots::default();
    slots.bind(&vm, &mut ram)?;
    let mut state = CpuState::reset();
    state.cr0 |= control::CR0_PE;
    state.rip = START;
    for (n, segment) in state.seg.iter_mut().enumerate() {
        let rights = if n == SegReg::Cs as usize { CODE_RIGHTS } else { DATA_RIGHTS };
        (segment.base, segment.limit, segment.rights) = (0, u32::MAX, Rights(rights));
    }
    let sregs = vcpu.get_sregs().map_err(refused("the control registers"))?;
    let board =
        Board { apic_base: sregs.apic_base, cr8: 0, has_xsave: false, has_long_mode: false };
    registers::load(&vcpu, &state, &board)?;
    let mut stops = guest_debug::Stops::default();
    let wanted = [(LOADED, Kind::Access(4)), (STORED, Kind::Write(4)), (EXECUTED, Kind::Execute)];
    for (into, stop) in stops.breakpoints.iter_mut().zip(wanted) {
        *into = Some(stop);
    }
    guest_debug::set(&vcpu, &stops)?;
    let mut met = 0;
    for _ in 0..EXITS {
        match vcpu.run() {
            Ok(VcpuExit::Debug(debug)) => met |= debug.dr6 & 0b111,
            Ok(_) | Err(_) => break,
        }
    }
    Ok(Told { executed: met & 0b100 != 0, accessed: met & 0b011 == 0b011 })
}

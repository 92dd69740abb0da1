//! The same tests in the software CPU.

use crate::layout::{self, PAGE, PageUse};
use crate::shared::{COMPLETED, Case, Outcome};
use crate::test_case::{Batch, Test};
use dejavm_cpu::{
    AbortReason, Bus, Cpu, CpuState, F80, Fpu, Model, Rights, SegReg, Segment, control, vector,
};
use dejavm_memory::{GuestRam, RamLayout};
use dejavm_units::{Gpa, Position};

/// What executes one instruction in the software CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The reference semantics.
    Reference,
    /// The handlers of decoded blocks, and the reference for what they have not.
    Decoded,
    /// Host code of the translator, and the handlers for what has none.
    Translated,
}

impl Step {
    /// The option of `silicon triage` that chooses it.
    pub fn option(self) -> &'static str {
        match self {
            Step::Reference => "",
            Step::Decoded => " --decoded",
            Step::Translated => " --translated",
        }
    }

    fn run(self, cpu: &mut Cpu, ram: &mut GuestRam, bus: &mut dyn Bus) -> Result<(), AbortReason> {
        match self {
            Step::Reference => cpu.try_step(ram, bus),
            Step::Decoded => cpu.try_step_decoded(ram, bus),
            Step::Translated => cpu.try_step_translated(ram, bus),
        }
    }
}

/// The mode in which 32-bit code runs in the guest. The host always has compatibility mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 64-bit mode.
    Long,
    /// 32-bit code in long mode.
    Compatibility,
    /// Protected mode with PAE paging.
    Legacy,
}

/// Where the guest keeps the region's pages in its RAM.
const FRAMES: u64 = 0x10_0000;
/// The guest's page tables: four levels of one page each.
const TABLES: [u64; 4] = [0x1000, 0x2000, 0x3000, 0x4000];

/// A guest with the region mapped as the host has it.
pub struct Guest {
    cpu: Cpu,
    ram: GuestRam,
    board: NoBoard,
    template: CpuState,
    step: Step,
}

impl Guest {
    /// A guest that stands at CPL 3.
    pub fn new(mode: Mode, step: Step) -> Guest {
        let layout = RamLayout::new(4 << 20).expect("4 MiB is a legal size");
        let ram = GuestRam::new(layout).expect("the host has 4 MiB of memory");
        let template = template(mode);
        let mut guest = Guest { cpu: Cpu::new(Model::V2, 0), ram, board: NoBoard, template, step };
        guest.map_region(mode);
        guest
    }

    fn map_region(&mut self, mode: Mode) {
        let [pml4, pdpt, pd, pt] = TABLES;
        // Present, writable, user, accessed, dirty.
        let table = 0x67;
        self.write_entry(pml4, 0, pdpt | table);
        // The entries of PAE's first level have neither permissions nor accessed bits.
        let pdpte = if mode == Mode::Legacy { pd | 1 } else { pd | table };
        self.write_entry(pdpt, u64::from(layout::REGION >> 30), pdpte);
        self.write_entry(pd, u64::from(layout::REGION >> 21 & 511), pt | table);
        let no_execute = 1 << 63;
        for page in 0..layout::REGION_PAGES {
            let frame = FRAMES + u64::from(page * PAGE);
            let entry = match layout::page_use(page) {
                PageUse::Hole | PageUse::Stub => 0,
                PageUse::Code => frame | 0x65,
                PageUse::ReadWrite => frame | 0x67 | no_execute,
                PageUse::ReadOnly => frame | 0x65 | no_execute,
            };
            self.write_entry(pt, u64::from(layout::REGION >> 12 & 511) + u64::from(page), entry);
        }
    }

    fn write_entry(&mut self, table: u64, index: u64, entry: u64) {
        let at = Gpa(table + 8 * index);
        self.ram.write(at, &entry.to_le_bytes()).expect("tables are in RAM");
    }

    /// Puts a batch's code and data into the guest, and its CPU into the initial state.
    pub fn load(&mut self, batch: &Batch) {
        self.cpu.set_state(&self.template);
        self.ram.write(Gpa(FRAMES), &batch.region).expect("frames are in RAM");
    }

    /// Runs one test. Captured windows go where the host puts its own.
    pub fn run(&mut self, batch: &Batch, test: &Test, captures: &mut [u8]) -> Outcome {
        let case = &test.case;
        if case.poke_len != 0 {
            let poke = &batch.pokes[case.poke_from as usize..][..case.poke_len as usize];
            self.ram.write(frame(case.poke_at), poke).expect("data pages are in RAM");
        }
        let with_fx = batch.family.has_fx();
        self.enter(case, with_fx);
        let result = self.step.run(&mut self.cpu, &mut self.ram, &mut self.board);
        let state = self.cpu.state();
        for window in &case.window[..case.windows as usize] {
            let into = &mut captures[window.to as usize..][..window.len as usize];
            self.ram.read(frame(window.at), into).expect("data pages are in RAM");
            let from = (window.at - layout::REGION) as usize;
            let pristine = &batch.region[from..from + window.len as usize];
            self.ram.write(frame(window.at), pristine).expect("data pages are in RAM");
        }
        let mut outcome = Outcome {
            fx: [0; 512],
            gpr: state.gpr,
            rflags: state.rflags,
            rip: state.rip,
            cr2: 0,
            vector: COMPLETED,
            error_code: 0,
        };
        if with_fx {
            write_fx(&state, &mut outcome.fx);
        }
        match result {
            Ok(()) => {}
            Err(AbortReason::Exception { vector, error_code, .. }) => {
                outcome.vector = vector.into();
                outcome.error_code = error_code.unwrap_or(0);
                if vector == vector::PF {
                    outcome.cr2 = state.cr2;
                }
            }
            Err(_) => outcome.vector = NOT_AN_EXCEPTION,
        }
        outcome
    }

    fn enter(&mut self, case: &Case, with_fx: bool) {
        let state = &mut self.template;
        state.gpr = case.gpr;
        state.rflags = case.rflags;
        state.rip = case.entry;
        if with_fx {
            read_fx(&case.fx, state);
        }
        self.cpu.set_user_registers(state);
    }

    /// Whether the data pages are as the batch has them, so that no store went astray, and all that
    /// unprivileged instructions cannot change is what it was.
    pub fn is_pristine(&self, batch: &Batch) -> bool {
        let mut privileged = self.cpu.state();
        let CpuState { gpr, rip, rflags, xmm, mxcsr, fpu, cr2, position, .. } = &self.template;
        (privileged.gpr, privileged.rip, privileged.rflags) = (*gpr, *rip, *rflags);
        (privileged.xmm, privileged.mxcsr, privileged.fpu) = (*xmm, *mxcsr, fpu.clone());
        (privileged.cr2, privileged.position) = (*cr2, *position);
        let data = layout::DATA_PAGES.iter().all(|page| {
            let at = (page * PAGE) as usize;
            let mut bytes = [0; PAGE as usize];
            self.ram.read(frame(layout::address(*page)), &mut bytes).expect("in RAM");
            bytes == batch.region[at..at + PAGE as usize]
        });
        data && privileged == self.template
    }
}

/// `Outcome::vector` when the step ended in a way that no single instruction may.
pub const NOT_AN_EXCEPTION: u32 = 1000;

fn frame(linear: u32) -> Gpa {
    Gpa(FRAMES + u64::from(linear - layout::REGION))
}

fn template(mode: Mode) -> CpuState {
    let mut state = CpuState::reset();
    state.cr0 = control::CR0_PE
        | control::CR0_MP
        | control::CR0_ET
        | control::CR0_NE
        | control::CR0_WP
        | control::CR0_AM
        | control::CR0_PG;
    state.cr4 = control::CR4_PAE | control::CR4_OSFXSR | control::CR4_OSXMMEXCPT;
    state.efer = control::EFER_NXE;
    state.cr3 = TABLES[0];
    if mode == Mode::Legacy {
        state.cr3 = TABLES[1];
        state.pdpte[(layout::REGION >> 30) as usize] = TABLES[2] | 1;
    } else {
        state.efer |= control::EFER_LME | control::EFER_LMA | control::EFER_SCE;
    }
    state.cpl = 3;
    let flat =
        |selector, rights| Segment { selector, base: 0, limit: u32::MAX, rights: Rights(rights) };
    // Present, DPL 3, accessed, read-write data, 32-bit, page granular.
    state.seg = [flat(layout::DATA_SELECTOR, 0xcf3); 6];
    state.seg[SegReg::Cs as usize] = match mode {
        Mode::Long => flat(layout::CS_64, 0xafb),
        Mode::Compatibility | Mode::Legacy => flat(layout::CS_32, 0xcfb),
    };
    let small = |selector, base: u32, limit, rights| Segment {
        selector,
        base: base.into(),
        limit,
        rights: Rights(rights),
    };
    (state.seg[SegReg::Fs as usize], state.seg[SegReg::Gs as usize]) = match mode {
        Mode::Long => (
            Segment { selector: 0, base: layout::FS_BASE_64, limit: 0, rights: Rights::NULL },
            Segment { selector: 0, base: layout::GS_BASE_64, limit: 0, rights: Rights::NULL },
        ),
        Mode::Compatibility | Mode::Legacy => (
            small(layout::FS_SELECTOR_32, layout::FS_BASE_32, layout::FS_LIMIT_32, 0x4f3),
            small(layout::GS_SELECTOR_32, layout::GS_BASE_32, layout::GS_LIMIT_32, 0x4f1),
        ),
    };
    state.fpu = Fpu::default();
    state
}

/// FXRSTOR64, into a state at rest.
fn read_fx(fx: &[u8; 512], state: &mut CpuState) {
    let word = |at: usize| u16::from_le_bytes([fx[at], fx[at + 1]]);
    let status = word(2);
    state.fpu.control = word(0);
    state.fpu.top = (status >> 11 & 7) as u8;
    state.fpu.status = status & !0x3800;
    state.fpu.valid = fx[4];
    for n in 0..8 {
        let bytes = &fx[32 + 16 * n..];
        let significand = u64::from_le_bytes(*bytes.first_chunk().expect("8 bytes"));
        let sign_exponent = word(32 + 16 * n + 8);
        let physical = (usize::from(state.fpu.top) + n) & 7;
        state.fpu.registers[physical] = F80 { significand, sign_exponent };
    }
    state.mxcsr = u32::from_le_bytes(*fx[24..].first_chunk().expect("4 bytes"));
    for (n, xmm) in state.xmm.iter_mut().enumerate() {
        *xmm = u128::from_le_bytes(*fx[160 + 16 * n..].first_chunk().expect("16 bytes"));
    }
}

/// FXSAVE64, without the fields that tell of the last x87 instruction.
fn write_fx(state: &CpuState, fx: &mut [u8; 512]) {
    let fpu = &state.fpu;
    fx[..2].copy_from_slice(&fpu.control.to_le_bytes());
    let status = fpu.status | u16::from(fpu.top) << 11;
    fx[2..4].copy_from_slice(&status.to_le_bytes());
    fx[4] = fpu.valid;
    for n in 0..8 {
        let register = fpu.registers[(usize::from(fpu.top) + n) & 7];
        let at = 32 + 16 * n;
        fx[at..at + 8].copy_from_slice(&register.significand.to_le_bytes());
        fx[at + 8..at + 10].copy_from_slice(&register.sign_exponent.to_le_bytes());
    }
    fx[24..28].copy_from_slice(&state.mxcsr.to_le_bytes());
    for (n, xmm) in state.xmm.iter().enumerate() {
        fx[160 + 16 * n..][..16].copy_from_slice(&xmm.to_le_bytes());
    }
}

/// A board where nothing answers: user code reaches none of it.
struct NoBoard;

impl Bus for NoBoard {
    fn port_in(&mut self, _port: u16, _size: u8, _at: Position) -> u32 {
        u32::MAX
    }
    fn port_out(&mut self, _port: u16, _size: u8, _value: u32, _at: Position) {}
    fn mmio_read(&mut self, _gpa: Gpa, _size: u8, _at: Position) -> u64 {
        u64::MAX
    }
    fn mmio_write(&mut self, _gpa: Gpa, _size: u8, _value: u64, _at: Position) {}
    fn tsc(&mut self, at: Position) -> u64 {
        at.0
    }
    fn tsc_ahead(&self) -> Option<u64> {
        Some(0)
    }
    fn msr_read(&mut self, _msr: u32, _at: Position) -> Option<u64> {
        None
    }
    fn msr_write(&mut self, _msr: u32, _value: u64, _at: Position) -> bool {
        false
    }
    fn cr8(&mut self) -> u8 {
        0
    }
    fn set_cr8(&mut self, _priority: u8, _at: Position) {}
    fn interrupt_pending(&self) -> bool {
        false
    }
    fn acknowledge_interrupt(&mut self, _at: Position) -> u8 {
        unreachable!("no interrupt is ever pending")
    }
    fn signal_pending(&self) -> bool {
        false
    }
    fn take_nmi(&mut self) -> bool {
        false
    }
    fn wants_control(&self) -> bool {
        false
    }
    fn a20_enabled(&self) -> bool {
        true
    }
}

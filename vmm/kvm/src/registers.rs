//! The processor's state as the machine keeps it, and as KVM does.

use crate::emulated_host::is_qemus;
use crate::error::{KvmError, refused};
use crate::extended;
use dejavm_cpu::{CpuState, Rights, Segment, TableRegister, control, rflags};
use dejavm_units::PAGE_SIZE;
use kvm_bindings::{
    KVM_MP_STATE_RUNNABLE, KVM_VCPUEVENT_VALID_SHADOW, KVM_X86_SHADOW_INT_STI, Msrs, kvm_debugregs,
    kvm_dtable, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs, kvm_vcpu_events,
    kvm_xcr, kvm_xcrs,
};
use kvm_ioctls::VcpuFd;

/// Where the state has a register.
type Place = fn(&mut CpuState) -> &mut u64;

/// Registers that the processor itself reads, by their numbers (SDM vol. 4, table 2-2), and where the state has them. All
/// others are the software CPU's: accesses to them come out of the kernel.
const PLAIN: [(u32, Place); 9] = [
    (0x174, |state| &mut state.msr.sysenter_cs),
    (0x175, |state| &mut state.msr.sysenter_esp),
    (0x176, |state| &mut state.msr.sysenter_eip),
    (0xc000_0081, |state| &mut state.msr.star),
    (0xc000_0082, |state| &mut state.msr.lstar),
    (0xc000_0083, |state| &mut state.msr.cstar),
    (0xc000_0084, |state| &mut state.msr.sfmask),
    (0xc000_0102, |state| &mut state.msr.kernel_gs_base),
    (0xc000_0103, |state| &mut state.msr.tsc_aux),
];

/// Where [`CpuState::seg`] has SS.
const SS: usize = 2;
/// EFER.LMA
const EFER_LMA: u64 = 1 << 10;

/// Puts the state into a vCPU.
pub(crate) fn load(vcpu: &VcpuFd, state: &CpuState, board: &Board) -> Result<(), KvmError> {
    vcpu.set_sregs(&special(state, board)).map_err(refused("the control registers"))?;
    vcpu.set_regs(&general(state)).map_err(refused("the registers"))?;
    if board.has_xsave {
        let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..kvm_xcrs::default() };
        xcrs.xcrs[0] = kvm_xcr { xcr: 0, reserved: 0, value: state.xcr0 };
        vcpu.set_xcrs(&xcrs).map_err(refused("XCR0"))?;
    }
    extended::load(vcpu, state)?;
    let debug = kvm_debugregs {
        db: [state.dr[0], state.dr[1], state.dr[2], state.dr[3]],
        dr6: state.dr[6],
        dr7: state.dr[7],
        ..kvm_debugregs::default()
    };
    vcpu.set_debug_regs(&debug).map_err(refused("the debug registers"))?;
    let mut copy = state.clone();
    let entries: Vec<_> = plain(board)
        .map(|(index, place)| kvm_msr_entry { index, reserved: 0, data: *place(&mut copy) })
        .collect();
    let msrs = Msrs::from_entries(&entries).expect("a few of them");
    let count = vcpu.set_msrs(&msrs).map_err(refused("the model-specific registers"))?;
    if let Some(entry) = entries.get(count) {
        return Err(KvmError::Entry(format!("register {:#x} cannot be set", entry.index)));
    }
    let mut events = kvm_vcpu_events { flags: KVM_VCPUEVENT_VALID_SHADOW, ..Default::default() };
    events.interrupt.shadow = if state.interrupt_shadow { KVM_X86_SHADOW_INT_STI as u8 } else { 0 };
    events.nmi.masked = state.nmi_blocked.into();
    vcpu.set_vcpu_events(&events).map_err(refused("pending events"))?;
    // A halted processor is the board's business: one that is run is to execute.
    let runnable = kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE };
    vcpu.set_mp_state(runnable).map_err(refused("the processor's activity"))
}

/// Makes the processor forget which linear addresses lead where, before [`load`]: what executed elsewhere may have changed page tables
/// and told another TLB of it. KVM_SET_SREGS empties the processor's only if CR0, CR3, CR4 or EFER are new; so CR3 is another one for a moment,
/// in which no guest runs.
pub(crate) fn forget_translations(
    vcpu: &VcpuFd,
    state: &CpuState,
    board: &Board,
) -> Result<(), KvmError> {
    let other = CpuState { cr3: state.cr3 ^ PAGE_SIZE, ..state.clone() };
    vcpu.set_sregs(&special(&other, board)).map_err(refused("the control registers"))
}

/// Takes the state out; what KVM does not keep stays as it is.
pub(crate) fn store(vcpu: &VcpuFd, state: &mut CpuState, board: &Board) -> Result<(), KvmError> {
    let regs = vcpu.get_regs().map_err(refused("the registers"))?;
    let sregs = vcpu.get_sregs().map_err(refused("the control registers"))?;
    let debug = vcpu.get_debug_regs().map_err(refused("the debug registers"))?;
    let events = vcpu.get_vcpu_events().map_err(refused("pending events"))?;
    state.gpr = numbered(&regs);
    (state.rip, state.rflags) = (regs.rip, regs.rflags);
    state.seg = [sregs.es, sregs.cs, sregs.ss, sregs.ds, sregs.fs, sregs.gs].map(segment);
    (state.ldtr, state.tr) = (segment(sregs.ldt), segment(sregs.tr));
    if state.ldtr.selector & !3 == 0 && state.ldtr.limit == 0 {
        // LLDT took a null selector: some processors (QEMU's) still call that present.
        state.ldtr.rights = Rights::NULL;
    }
    if sregs.efer & EFER_LMA != 0 && sregs.ss.selector & !3 == 0 {
        // What IRET loads in long mode when it takes a null selector from the stack: some processors (QEMU's) give it attributes, which
        // nothing there looks at.
        let ss = &mut state.seg[SS];
        (ss.limit, ss.rights) = (0, Rights::NULL);
    }
    (state.gdtr, state.idtr) = (table(sregs.gdt), table(sregs.idt));
    state.cpl = sregs.ss.dpl;
    (state.cr0, state.cr2, state.cr3, state.cr4) = (sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4);
    state.efer = sregs.efer;
    if board.has_xsave {
        let xcrs = vcpu.get_xcrs().map_err(refused("XCR0"))?;
        state.xcr0 = xcrs.xcrs[0].value;
    }
    extended::store(vcpu, state)?;
    let [dr0, dr1, dr2, dr3] = debug.db;
    state.dr = [dr0, dr1, dr2, dr3, 0, 0, debug.dr6, debug.dr7];
    let entries: Vec<_> =
        plain(board).map(|(index, _)| kvm_msr_entry { index, ..Default::default() }).collect();
    let mut msrs = Msrs::from_entries(&entries).expect("a few of them");
    vcpu.get_msrs(&mut msrs).map_err(refused("the model-specific registers"))?;
    for ((_, place), entry) in plain(board).zip(msrs.as_slice()) {
        *place(state) = entry.data;
    }
    state.interrupt_shadow = events.interrupt.shadow != 0;
    state.nmi_blocked = events.nmi.masked != 0;
    Ok(())
}

/// What of the processor's state the board or the model has.
pub(crate) struct Board {
    /// IA32_APIC_BASE
    pub(crate) apic_base: u64,
    /// The task priority.
    pub(crate) cr8: u8,
    /// The model has XSAVE, and so XCR0.
    pub(crate) has_xsave: bool,
    /// The model has long mode, and the registers that belong to it.
    pub(crate) has_long_mode: bool,
}

/// Those of [`PLAIN`] that the model has.
fn plain(board: &Board) -> impl Iterator<Item = (u32, Place)> {
    let long = board.has_long_mode;
    PLAIN.into_iter().filter(move |&(msr, _)| long || msr < 0xc000_0000)
}

/// Registers whose accesses the kernel may complete by itself: the processor's own, and the bases of segments and EFER, which
/// are elsewhere in the state.
pub(crate) fn is_the_processors(msr: u32) -> bool {
    PLAIN.iter().any(|&(number, _)| number == msr)
        || matches!(msr, 0xc000_0080 | 0xc000_0100 | 0xc000_0101)
}

/// The general registers in the order of their numbers.
pub(crate) fn numbered(regs: &kvm_regs) -> [u64; 16] {
    [
        regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8,
        regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
    ]
}

/// The general registers, RIP and the flags.
pub(crate) fn general(state: &CpuState) -> kvm_regs {
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = state.gpr;
    let CpuState { rip, rflags, .. } = *state;
    kvm_regs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip,
        rflags,
    }
}

fn special(state: &CpuState, board: &Board) -> kvm_sregs {
    let [es, cs, ss, ds, fs, gs] = state.seg.map(kvm);
    kvm_sregs {
        es,
        cs,
        ss: kvm_segment { dpl: state.cpl, ..ss },
        ds,
        fs,
        gs,
        ldt: kvm(state.ldtr),
        tr: task(state.tr),
        gdt: kvm_table(state.gdtr),
        idt: kvm_table(state.idtr),
        cr0: state.cr0,
        cr2: state.cr2,
        cr3: state.cr3,
        cr4: state.cr4,
        cr8: board.cr8.into(),
        efer: state.efer,
        apic_base: board.apic_base,
        interrupt_bitmap: [0; 4],
    }
}

/// The task register in KVM's words.
fn task(tr: Segment) -> kvm_segment {
    const BUSY: u8 = 2;
    let tr = kvm(tr);
    // KVM says busy of every TSS that it gives back, so nothing is lost.
    if is_qemus() { kvm_segment { type_: tr.type_ & !BUSY, ..tr } } else { tr }
}

/// A segment register in KVM's words.
fn kvm(segment: Segment) -> kvm_segment {
    let Segment { selector, base, limit, rights: Rights(rights) } = segment;
    let bit = |n: u32| (rights >> n & 1) as u8;
    let unusable = rights & Rights::NULL.0 != 0;
    kvm_segment {
        base,
        limit,
        selector,
        type_: (rights & 0xf) as u8,
        s: bit(4),
        dpl: (rights >> 5 & 3) as u8,
        present: if unusable { 0 } else { bit(7) },
        avl: bit(8),
        l: bit(9),
        db: bit(10),
        g: bit(11),
        unusable: unusable.into(),
        padding: 0,
    }
}

fn segment(segment: kvm_segment) -> Segment {
    let kvm_segment { base, limit, selector, type_, s, dpl, present, avl, l, db, g, .. } = segment;
    if segment.unusable != 0 || present == 0 {
        // What a processor keeps of one that it does not use, differs between vendors.
        return Segment { selector, base, limit: 0, rights: Rights::NULL };
    }
    let bits = [(s, 4), (dpl, 5), (present, 7), (avl, 8), (l, 9), (db, 10), (g, 11)];
    let rights = bits.iter().fold(u16::from(type_), |all, &(bit, at)| all | u16::from(bit) << at);
    Segment { selector, base, limit, rights: Rights(rights) }
}

fn kvm_table(table: TableRegister) -> kvm_dtable {
    kvm_dtable { base: table.base, limit: table.limit, padding: [0; 3] }
}

fn table(table: kvm_dtable) -> TableRegister {
    TableRegister { base: table.base, limit: table.limit }
}

/// Whether a maskable interrupt may be delivered before the next instruction.
pub(crate) fn takes_interrupts(state: &CpuState) -> bool {
    state.rflags & rflags::IF != 0 && !state.interrupt_shadow
}

/// Whether a state is one that KVM can run: A20 closed, or a single step that the guest asked for, is not; nor, on QEMU's processor, one that
/// holds interrupts off for an instruction ([`crate::interrupt_shadow`]).
pub(crate) fn can_run(state: &CpuState) -> bool {
    const TF: u64 = 1 << 8;
    state.a20
        && state.rflags & TF == 0
        && state.pending_debug == 0
        && !(state.interrupt_shadow && is_qemus())
        && (state.cr0 & control::CR0_PE != 0 || state.cr0 & control::CR0_PG == 0)
}

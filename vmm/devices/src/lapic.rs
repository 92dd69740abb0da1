//! Local APIC in xAPIC mode (Intel SDM vol. 3A, chapter 11).
//!
//! Data path: messages, local lines and the timer set bits of IRR; the highest one goes to the
//! processor if its class is above PPR, moves to ISR when acknowledged, and leaves with EOI. The end
//! of a level-triggered one is broadcast to the IO-APICs.
//!
//! One tick of the timer's input clock is one nanosecond of guest time.
//!
//! Decided where documents leave room:
//! * After reset LINT0 of the bootstrap processor is an unmasked ExtINT, as firmware leaves it and as
//!   other virtual machines have it: a kernel that is loaded without firmware, and that does not know
//!   of APICs, gets the interrupts of its 8259.
//! * The APIC id cannot be written.
//! * An INIT level de-assert does nothing, as on processors since the Pentium 4.
//!
//! Not modelled: x2APIC, TSC deadline, suppression of EOI broadcasts, focus processors, LVT CMCI.

use crate::RestoreError;
use crate::interrupt_message::{
    DeliveryMode, DestinationMode, InterruptMessage, Ipi, Shorthand, TriggerMode,
};
use dejavm_units::GuestNs;
use serde::{Deserialize, Serialize};

/// Where the registers are after reset: guest physical address.
pub const DEFAULT_BASE: u64 = 0xfee0_0000;
/// Size of the register window, in bytes.
pub const WINDOW_SIZE: u64 = 0x1000;

const ID: u16 = 0x020;
const VERSION: u16 = 0x030;
const TPR: u16 = 0x080;
const APR: u16 = 0x090;
const PPR: u16 = 0x0a0;
const EOI: u16 = 0x0b0;
const RRD: u16 = 0x0c0;
const LDR: u16 = 0x0d0;
const DFR: u16 = 0x0e0;
const SVR: u16 = 0x0f0;
const ISR: u16 = 0x100;
const TMR: u16 = 0x180;
const IRR: u16 = 0x200;
const ESR: u16 = 0x280;
const ICR_LOW: u16 = 0x300;
const ICR_HIGH: u16 = 0x310;
const LVT: u16 = 0x320;
const INITIAL_COUNT: u16 = 0x380;
const CURRENT_COUNT: u16 = 0x390;
const DIVIDE: u16 = 0x3e0;

/// An integrated APIC, version 0x14, with six LVT entries.
const VERSION_VALUE: u32 = 0x0005_0014;

const LVT_TIMER: usize = 0;
const LVT_LINT0: usize = 3;
const LVT_LINT1: usize = 4;
const LVT_ERROR: usize = 5;
const LVT_ENTRIES: usize = 6;
const LVT_MASKED: u32 = 1 << 16;
const LVT_PERIODIC: u32 = 1 << 17;
const LVT_LEVEL: u32 = 1 << 15;
const LVT_REMOTE_IRR: u32 = 1 << 14;
const LVT_RESET: u32 = LVT_MASKED;
/// Timer, thermal, performance counters, LINT0, LINT1, error (SDM figure 11-8).
const LVT_WRITABLE: [u32; LVT_ENTRIES] =
    [0x0003_00ff, 0x0001_07ff, 0x0001_07ff, 0x0001_a7ff, 0x0001_a7ff, 0x0001_00ff];

const SVR_ENABLE: u32 = 1 << 8;
const SVR_WRITABLE: u32 = 0x3ff;
const SVR_RESET: u32 = 0xff;

const ESR_SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
const ESR_RECEIVED_ILLEGAL_VECTOR: u32 = 1 << 6;
const ESR_ILLEGAL_REGISTER: u32 = 1 << 7;
const ESR_BITS: u32 = 0xe0;

const ICR_WRITABLE: u32 = 0x000c_cfff;
const ICR_LOGICAL: u32 = 1 << 11;
const ICR_ASSERT: u32 = 1 << 14;
const ICR_LEVEL: u32 = 1 << 15;
const DIVIDE_BITS: u32 = 0x0b;

const BASE_BSP: u64 = 1 << 8;
const BASE_ENABLE: u64 = 1 << 11;
/// Physical addresses up to 52 bits.
const BASE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Vectors below this are the processor's exceptions.
const FIRST_LEGAL_VECTOR: u8 = 16;

/// A set of vectors: ISR, TMR or IRR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Vectors([u32; 8]);

impl Vectors {
    fn set(&mut self, vector: u8, value: bool) {
        let bit = 1 << (vector % 32);
        let word = &mut self.0[usize::from(vector / 32)];
        *word = if value { *word | bit } else { *word & !bit };
    }

    fn contains(&self, vector: u8) -> bool {
        self.0[usize::from(vector / 32)] & 1 << (vector % 32) != 0
    }

    fn highest(&self) -> Option<u8> {
        let (index, word) = self.0.iter().enumerate().rev().find(|(_, word)| **word != 0)?;
        Some(index as u8 * 32 + 31 - word.leading_zeros() as u8)
    }
}

/// A timer that counts: `count` at `since`, one less each divided tick.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Countdown {
    since: GuestNs,
    count: u32,
}

/// Everything of the chip that can change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    /// IA32_APIC_BASE.
    apic_base: u64,
    tpr: u8,
    ldr: u8,
    dfr: u32,
    svr: u32,
    isr: Vectors,
    tmr: Vectors,
    irr: Vectors,
    /// Errors since the last write of ESR.
    errors: u32,
    /// ESR as it reads.
    esr: u32,
    icr: [u32; 2],
    lvt: [u32; LVT_ENTRIES],
    initial_count: u32,
    divide: u32,
    countdown: Option<Countdown>,
    /// Levels of LINT0 and LINT1.
    lint: [bool; 2],
    nmi_pending: bool,
    smi_pending: bool,
    init_pending: bool,
    startup_pending: Option<u8>,
    /// An ExtINT message that waits for its acknowledge.
    ext_int_message: bool,
}

/// A local APIC.
#[derive(Clone, Debug)]
pub struct Lapic {
    // Configuration.
    apic_id: u8,
    bootstrap: bool,
    // Glue: none.
    state: State,
}

/// What a register write asks of the board.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum WriteEffect {
    /// Nothing.
    None,
    /// Deliver an inter-processor interrupt; see [`deliver_ipi`].
    Ipi(Ipi),
    /// Tell the IO-APICs that this level-triggered vector has ended.
    EndOfInterrupt(u8),
}

// Guest side.
impl Lapic {
    /// The chip at power-on. `bootstrap`: of the processor that runs first.
    pub fn new(apic_id: u8, bootstrap: bool) -> Lapic {
        let bsp = if bootstrap { BASE_BSP } else { 0 };
        Lapic {
            apic_id,
            bootstrap,
            state: State::at_reset(DEFAULT_BASE | BASE_ENABLE | bsp, bootstrap),
        }
    }

    /// The reset pin. Line levels are the devices' and stay.
    pub fn reset(&mut self) {
        let lint = self.state.lint;
        *self = Lapic::new(self.apic_id, self.bootstrap);
        self.state.lint = lint;
    }

    /// What INIT does (SDM 11.4.7.3): as reset, but IA32_APIC_BASE and the id stay.
    pub fn reset_by_init(&mut self) {
        let State { apic_base, lint, .. } = self.state;
        self.state = State { lint, ..State::at_reset(apic_base, self.bootstrap) };
    }

    /// Reads the register at `offset` (a multiple of 16) from the base.
    pub fn read(&mut self, offset: u16, now: GuestNs) -> u32 {
        self.advance(now);
        let state = &self.state;
        let vectors = |vectors: &Vectors, first| vectors.0[usize::from((offset - first) >> 4)];
        match offset {
            _ if !offset.is_multiple_of(16) => 0,
            ID => u32::from(self.apic_id) << 24,
            VERSION => VERSION_VALUE,
            TPR => u32::from(state.tpr),
            // The arbitration priority of a processor with nothing to arbitrate.
            APR | PPR => u32::from(self.processor_priority()),
            RRD | EOI => 0,
            LDR => u32::from(state.ldr) << 24,
            DFR => state.dfr,
            SVR => state.svr,
            ISR..TMR => vectors(&state.isr, ISR),
            TMR..IRR => vectors(&state.tmr, TMR),
            IRR..ESR => vectors(&state.irr, IRR),
            ESR => state.esr,
            ICR_LOW => state.icr[0],
            ICR_HIGH => state.icr[1],
            LVT..INITIAL_COUNT => state.lvt[usize::from((offset - LVT) >> 4)],
            INITIAL_COUNT => state.initial_count,
            CURRENT_COUNT => state.current_count(now),
            DIVIDE => state.divide,
            _ => {
                self.report_error(ESR_ILLEGAL_REGISTER);
                0
            }
        }
    }

    /// Writes the register at `offset` (a multiple of 16) from the base.
    pub fn write(&mut self, offset: u16, value: u32, now: GuestNs) -> WriteEffect {
        self.advance(now);
        let state = &mut self.state;
        match offset {
            _ if !offset.is_multiple_of(16) => {}
            // Read-only registers.
            ID | VERSION | APR | PPR | RRD | ISR..ESR | CURRENT_COUNT => {}
            TPR => state.tpr = value as u8,
            EOI => return self.end_of_interrupt(),
            LDR => state.ldr = (value >> 24) as u8,
            DFR => state.dfr = value | 0x0fff_ffff,
            SVR => {
                state.svr = value & SVR_WRITABLE;
                if value & SVR_ENABLE == 0 {
                    state.lvt.iter_mut().for_each(|entry| *entry |= LVT_MASKED);
                }
            }
            ESR => state.esr = std::mem::take(&mut state.errors),
            ICR_LOW => {
                state.icr[0] = value & ICR_WRITABLE;
                return self.send();
            }
            ICR_HIGH => state.icr[1] = value & 0xff00_0000,
            LVT..INITIAL_COUNT => self.write_lvt(usize::from((offset - LVT) >> 4), value),
            INITIAL_COUNT => {
                state.initial_count = value;
                state.countdown = (value != 0).then_some(Countdown { since: now, count: value });
            }
            DIVIDE => {
                // What is left to count stays, and counts at the new rate.
                let count = state.current_count(now);
                state.divide = value & DIVIDE_BITS;
                if state.countdown.is_some() {
                    state.countdown = Some(Countdown { since: now, count });
                }
            }
            _ => self.report_error(ESR_ILLEGAL_REGISTER),
        }
        WriteEffect::None
    }

    fn write_lvt(&mut self, entry: usize, value: u32) {
        let state = &mut self.state;
        let forced = if state.svr & SVR_ENABLE == 0 { LVT_MASKED } else { 0 };
        let mut remote_irr = state.lvt[entry] & LVT_REMOTE_IRR;
        if value & LVT_LEVEL == 0 {
            remote_irr = 0;
        }
        state.lvt[entry] = value & LVT_WRITABLE[entry] | remote_irr | forced;
        if entry == LVT_LINT0 || entry == LVT_LINT1 {
            self.sample_level_lint(entry);
        }
    }

    fn end_of_interrupt(&mut self) -> WriteEffect {
        let Some(vector) = self.state.isr.highest() else { return WriteEffect::None };
        self.state.isr.set(vector, false);
        for entry in [LVT_LINT0, LVT_LINT1] {
            if self.state.lvt[entry] as u8 == vector {
                self.state.lvt[entry] &= !LVT_REMOTE_IRR;
                self.sample_level_lint(entry);
            }
        }
        if self.state.tmr.contains(vector) {
            WriteEffect::EndOfInterrupt(vector)
        } else {
            WriteEffect::None
        }
    }

    /// Sends what ICR says.
    fn send(&mut self) -> WriteEffect {
        let [low, high] = self.state.icr;
        let vector = low as u8;
        let Some(delivery_mode) = DeliveryMode::from_bits((low >> 8) as u8) else {
            return WriteEffect::None;
        };
        match delivery_mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                if vector < FIRST_LEGAL_VECTOR {
                    self.report_error(ESR_SEND_ILLEGAL_VECTOR);
                    return WriteEffect::None;
                }
            }
            DeliveryMode::Init => {
                if low & ICR_LEVEL != 0 && low & ICR_ASSERT == 0 {
                    return WriteEffect::None;
                }
            }
            DeliveryMode::Smi | DeliveryMode::Nmi | DeliveryMode::StartUp => {}
            // Reserved in ICR.
            DeliveryMode::ExtInt => return WriteEffect::None,
        }
        let logical = low & ICR_LOGICAL != 0;
        let message = InterruptMessage {
            dest: (high >> 24) as u8,
            dest_mode: if logical { DestinationMode::Logical } else { DestinationMode::Physical },
            delivery_mode,
            vector,
            // "The trigger mode is edge for all but INIT level de-assert."
            trigger: TriggerMode::Edge,
        };
        let shorthand = match (low >> 18) & 3 {
            0 => Shorthand::None,
            1 => {
                self.accept(&message);
                return WriteEffect::None;
            }
            2 => Shorthand::AllIncludingSelf,
            _ => Shorthand::AllExcludingSelf,
        };
        WriteEffect::Ipi(Ipi { shorthand, message })
    }
}

impl State {
    fn at_reset(apic_base: u64, bootstrap: bool) -> State {
        let mut lvt = [LVT_RESET; LVT_ENTRIES];
        if bootstrap {
            // ExtINT, not masked.
            lvt[LVT_LINT0] = 0x700;
        }
        State {
            apic_base,
            tpr: 0,
            ldr: 0,
            dfr: 0xffff_ffff,
            svr: SVR_RESET,
            isr: Vectors::default(),
            tmr: Vectors::default(),
            irr: Vectors::default(),
            errors: 0,
            esr: 0,
            icr: [0; 2],
            lvt,
            initial_count: 0,
            divide: 0,
            countdown: None,
            lint: [false; 2],
            nmi_pending: false,
            smi_pending: false,
            init_pending: false,
            startup_pending: None,
            ext_int_message: false,
        }
    }

    fn hardware_enabled(&self) -> bool {
        self.apic_base & BASE_ENABLE != 0
    }

    /// Nanoseconds a count (SDM figure 11-10): bits 0, 1 and 3 are log2 - 1, and 7 means 1.
    fn divisor(&self) -> u64 {
        let bits = (self.divide & 3) | (self.divide >> 1 & 4);
        1 << ((bits + 1) & 7)
    }

    fn current_count(&self, now: GuestNs) -> u32 {
        let Some(Countdown { since, count }) = self.countdown else { return 0 };
        let elapsed = now.0.saturating_sub(since.0) / self.divisor();
        // Fits: not more than `count`.
        u64::from(count).saturating_sub(elapsed) as u32
    }

    /// When the count reaches zero; `None` if guest time ends before.
    fn expiry(&self) -> Option<GuestNs> {
        let Countdown { since, count } = self.countdown?;
        since.0.checked_add(u64::from(count) * self.divisor()).map(GuestNs)
    }
}

// Interrupts.
impl Lapic {
    /// Takes `message`, which [`is_addressed`](Self::is_addressed) to this chip.
    pub fn accept(&mut self, message: &InterruptMessage) {
        let state = &mut self.state;
        if !state.hardware_enabled() {
            return;
        }
        match message.delivery_mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                // A software-disabled APIC answers only INIT, NMI, SMI and start-up (SDM 11.4.7.2).
                if state.svr & SVR_ENABLE == 0 {
                    return;
                }
                if message.vector < FIRST_LEGAL_VECTOR {
                    self.report_error(ESR_RECEIVED_ILLEGAL_VECTOR);
                    return;
                }
                state.irr.set(message.vector, true);
                state.tmr.set(message.vector, message.trigger == TriggerMode::Level);
            }
            DeliveryMode::Smi => state.smi_pending = true,
            DeliveryMode::Nmi => state.nmi_pending = true,
            // A start-up message that came before it meant nothing, or what INIT undoes.
            DeliveryMode::Init => (state.init_pending, state.startup_pending) = (true, None),
            DeliveryMode::StartUp => state.startup_pending = Some(message.vector),
            DeliveryMode::ExtInt => state.ext_int_message = true,
        }
    }

    /// Whether `message` names this chip as a destination.
    pub fn is_addressed(&self, message: &InterruptMessage) -> bool {
        if !self.state.hardware_enabled() {
            return false;
        }
        let dest = message.dest;
        match message.dest_mode {
            DestinationMode::Physical => dest == self.apic_id || dest == 0xff,
            // Flat model: a bit each. Cluster model: a cluster (15: all) and four bits.
            DestinationMode::Logical if self.state.dfr >> 28 == 0xf => dest & self.state.ldr != 0,
            DestinationMode::Logical => {
                let same_cluster = dest >> 4 == 0xf || dest >> 4 == self.state.ldr >> 4;
                same_cluster && dest & self.state.ldr & 0xf != 0
            }
        }
    }

    /// Delivers a local source by its LVT entry.
    fn deliver_local(&mut self, entry: usize) {
        let lvt = self.state.lvt[entry];
        if lvt & LVT_MASKED != 0 {
            return;
        }
        let fixed = InterruptMessage {
            dest: self.apic_id,
            dest_mode: DestinationMode::Physical,
            delivery_mode: DeliveryMode::Fixed,
            vector: lvt as u8,
            // The IO-APICs are not concerned by the end of a local interrupt.
            trigger: TriggerMode::Edge,
        };
        let has_mode = LVT_WRITABLE[entry] & 0x700 != 0;
        match DeliveryMode::from_bits(if has_mode { (lvt >> 8) as u8 } else { 0 }) {
            Some(DeliveryMode::Fixed) => self.accept(&fixed),
            Some(DeliveryMode::Nmi) => self.state.nmi_pending = true,
            Some(DeliveryMode::Smi) => self.state.smi_pending = true,
            Some(DeliveryMode::Init) => self.state.init_pending = true,
            // ExtINT is a level that the processor looks at; the others are reserved here.
            Some(DeliveryMode::ExtInt | DeliveryMode::LowestPriority | DeliveryMode::StartUp)
            | None => {}
        }
    }

    /// A level-triggered, fixed LINT that is high and not yet accepted is accepted now.
    fn sample_level_lint(&mut self, entry: usize) {
        let lvt = self.state.lvt[entry];
        let fixed_level = lvt & (LVT_LEVEL | 0x700) == LVT_LEVEL;
        let high = self.state.lint[entry - LVT_LINT0];
        if fixed_level && high && lvt & (LVT_MASKED | LVT_REMOTE_IRR) == 0 {
            self.state.lvt[entry] |= LVT_REMOTE_IRR;
            self.deliver_local(entry);
        }
    }

    fn set_lint(&mut self, pin: usize, level: bool) {
        let rising = level && !self.state.lint[pin];
        self.state.lint[pin] = level;
        if !rising {
            return;
        }
        let entry = LVT_LINT0 + pin;
        if !self.state.hardware_enabled() {
            // The pins are INTR and NMI of a processor without an APIC (SDM 11.4.3).
            self.state.nmi_pending |= pin == 1;
        } else if self.state.lvt[entry] & (LVT_LEVEL | 0x700) == LVT_LEVEL {
            self.sample_level_lint(entry);
        } else {
            self.deliver_local(entry);
        }
    }

    fn report_error(&mut self, error: u32) {
        let is_new = self.state.errors & error == 0;
        self.state.errors |= error;
        // An illegal vector in the error entry itself comes back here once and finds its bit set.
        if is_new {
            self.deliver_local(LVT_ERROR);
        }
    }

    /// PPR: the higher of TPR and the class of the vector in service.
    pub fn processor_priority(&self) -> u8 {
        let in_service = self.state.isr.highest().unwrap_or(0) & 0xf0;
        if self.state.tpr & 0xf0 >= in_service { self.state.tpr } else { in_service }
    }
}

// Board side.
impl Lapic {
    /// The chip's id.
    pub fn apic_id(&self) -> u8 {
        self.apic_id
    }

    /// Sets the level of LINT0, to which the board connects the 8259 pair.
    pub fn set_lint0(&mut self, level: bool) {
        self.set_lint(0, level);
    }

    /// Sets the level of LINT1, to which the board connects NMI.
    pub fn set_lint1(&mut self, level: bool) {
        self.set_lint(1, level);
    }

    /// Whether an interrupt of the chip's own waits for the processor; then
    /// [`acknowledge`](Self::acknowledge).
    pub fn interrupt_pending(&self) -> bool {
        self.state.hardware_enabled()
            && self
                .state
                .irr
                .highest()
                .is_some_and(|vector| vector & 0xf0 > self.processor_priority() & 0xf0)
    }

    /// The vector of the interrupt that waits, which goes into service; the spurious vector if none
    /// does.
    pub fn acknowledge(&mut self) -> u8 {
        match self.state.irr.highest() {
            Some(vector) if self.interrupt_pending() => {
                self.state.irr.set(vector, false);
                self.state.isr.set(vector, true);
                vector
            }
            Some(_) | None => self.state.svr as u8,
        }
    }

    /// Whether the 8259 pair's interrupt waits for the processor (through LINT0 in ExtINT mode, an
    /// ExtINT message, or a disabled APIC). Such an interrupt has no priority here: the board then
    /// calls [`acknowledge_external`](Self::acknowledge_external) and takes the vector from the pair.
    pub fn external_interrupt_pending(&self) -> bool {
        let lvt = self.state.lvt[LVT_LINT0];
        let through_lint0 =
            if self.state.hardware_enabled() { lvt & (LVT_MASKED | 0x700) == 0x700 } else { true };
        self.state.ext_int_message || (self.state.lint[0] && through_lint0)
    }

    /// The processor takes the 8259 pair's interrupt.
    pub fn acknowledge_external(&mut self) {
        self.state.ext_int_message = false;
    }

    /// An NMI that arrived since the last call.
    pub fn take_nmi(&mut self) -> bool {
        std::mem::take(&mut self.state.nmi_pending)
    }

    /// An SMI that arrived since the last call.
    pub fn take_smi(&mut self) -> bool {
        std::mem::take(&mut self.state.smi_pending)
    }

    /// An INIT that arrived since the last call; the board then also calls
    /// [`reset_by_init`](Self::reset_by_init).
    pub fn take_init(&mut self) -> bool {
        std::mem::take(&mut self.state.init_pending)
    }

    /// A start-up message that arrived since the last call: the page to start at.
    pub fn take_startup(&mut self) -> Option<u8> {
        self.state.startup_pending.take()
    }

    /// Whether the 8259 pair's signal at LINT0 would become an NMI.
    pub fn makes_nmis(&self) -> bool {
        let lvt = self.state.lvt[LVT_LINT0];
        lvt & LVT_MASKED == 0
            && DeliveryMode::from_bits((lvt >> 8) as u8) == Some(DeliveryMode::Nmi)
    }

    /// Whether an NMI waits to be taken.
    pub fn nmi_pending(&self) -> bool {
        self.state.nmi_pending
    }

    /// Whether a start-up message waits to be taken.
    pub fn startup_pending(&self) -> bool {
        self.state.startup_pending.is_some()
    }

    /// Whether any of NMI, SMI, INIT and start-up waits to be taken.
    pub fn signal_pending(&self) -> bool {
        let State { nmi_pending, smi_pending, init_pending, startup_pending, .. } = &self.state;
        *nmi_pending || *smi_pending || *init_pending || startup_pending.is_some()
    }

    /// CR8: the class of the task priority, 0..16.
    pub fn cr8(&self) -> u8 {
        self.state.tpr >> 4
    }

    /// Sets CR8 (0..16; the upper bits are the processor's to refuse).
    pub fn set_cr8(&mut self, value: u8) {
        self.state.tpr = value << 4;
    }

    /// IA32_APIC_BASE.
    pub fn apic_base(&self) -> u64 {
        self.state.apic_base
    }

    /// Writes IA32_APIC_BASE; `false`, and nothing changes, if the processor must fault (#GP): x2APIC
    /// or reserved bits. Clearing the enable bit resets the registers (SDM 11.4.3).
    #[must_use]
    pub fn set_apic_base(&mut self, value: u64) -> bool {
        if value & !(BASE_ADDRESS | BASE_ENABLE | BASE_BSP) != 0 {
            return false;
        }
        if value & BASE_ENABLE == 0 {
            let lint = self.state.lint;
            self.state = State { lint, ..State::at_reset(value, self.bootstrap) };
        }
        self.state.apic_base = value;
        true
    }

    /// Guest physical address of the registers; `None` if the APIC is disabled.
    pub fn mmio_base(&self) -> Option<u64> {
        self.state.hardware_enabled().then_some(self.state.apic_base & BASE_ADDRESS)
    }

    /// When the timer fires, if it counts and is not masked.
    pub fn deadline(&self) -> Option<GuestNs> {
        if self.state.lvt[LVT_TIMER] & LVT_MASKED != 0 {
            return None;
        }
        self.state.expiry()
    }

    /// Brings the timer to `now`.
    pub fn advance(&mut self, now: GuestNs) {
        let Some(expiry) = self.state.expiry().filter(|expiry| *expiry <= now) else { return };
        let period = u64::from(self.state.initial_count) * self.state.divisor();
        let periodic = self.state.lvt[LVT_TIMER] & LVT_PERIODIC != 0;
        self.state.countdown = (periodic && period != 0).then(|| Countdown {
            // The last expiry at or before `now`.
            since: GuestNs(now.0 - (now.0 - expiry.0) % period),
            count: self.state.initial_count,
        });
        self.deliver_local(LVT_TIMER);
    }
}

/// Delivers `message` to the processors it is for; `false` if there is none. Of several at the lowest
/// priority, the first in order takes a [`DeliveryMode::LowestPriority`] message.
pub fn deliver<'a>(
    message: &InterruptMessage,
    lapics: impl IntoIterator<Item = &'a mut Lapic>,
) -> bool {
    let mut addressed = lapics.into_iter().filter(|lapic| lapic.is_addressed(message));
    if message.delivery_mode == DeliveryMode::LowestPriority {
        // `min_by_key` gives the first of equals. A software-disabled APIC takes nothing.
        let lowest = addressed
            .filter(|lapic| lapic.state.svr & SVR_ENABLE != 0)
            .min_by_key(|lapic| lapic.processor_priority());
        return lowest.map(|lapic| lapic.accept(message)).is_some();
    }
    let mut any = false;
    addressed.by_ref().for_each(|lapic| {
        lapic.accept(message);
        any = true;
    });
    any
}

/// Delivers `ipi`, sent by the processor whose APIC id is `sender`.
pub fn deliver_ipi<'a>(ipi: &Ipi, sender: u8, lapics: impl IntoIterator<Item = &'a mut Lapic>) {
    let Ipi { shorthand, message } = ipi;
    match shorthand {
        Shorthand::None => {
            deliver(message, lapics);
        }
        Shorthand::AllIncludingSelf => lapics.into_iter().for_each(|lapic| lapic.accept(message)),
        Shorthand::AllExcludingSelf => lapics
            .into_iter()
            .filter(|lapic| lapic.apic_id != sender)
            .for_each(|lapic| lapic.accept(message)),
    }
}

mod save_restore {
    use super::*;

    impl Lapic {
        /// The state of the chip.
        pub fn save(&self) -> State {
            let Lapic { apic_id: _, bootstrap: _, state } = self;
            state.clone()
        }

        /// Becomes `state`. Refuses bits that do not exist.
        pub fn restore(&mut self, state: State) -> Result<(), RestoreError> {
            let check = |valid, field| RestoreError::unless(valid, "the local APIC", field);
            let base_bits = BASE_ADDRESS | BASE_ENABLE | BASE_BSP;
            check(state.apic_base & !base_bits == 0, "apic_base")?;
            check(state.dfr | 0xf000_0000 == 0xffff_ffff, "dfr")?;
            check(state.svr & !SVR_WRITABLE == 0, "svr")?;
            check((state.errors | state.esr) & !ESR_BITS == 0, "esr")?;
            check(state.icr[0] & !ICR_WRITABLE == 0 && state.icr[1] << 8 == 0, "icr")?;
            for (index, (entry, writable)) in state.lvt.iter().zip(LVT_WRITABLE).enumerate() {
                let is_lint = index == LVT_LINT0 || index == LVT_LINT1;
                let read_only = if is_lint { LVT_REMOTE_IRR } else { 0 };
                check(entry & !(writable | read_only) == 0, "lvt")?;
            }
            check(state.divide & !DIVIDE_BITS == 0, "divide")?;
            let exceptions =
                [&state.isr, &state.tmr, &state.irr].iter().any(|v| v.0[0] & 0xffff != 0);
            check(!exceptions, "irr")?;
            check(state.countdown.is_none_or(|countdown| countdown.count != 0), "countdown")?;
            self.state = state;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: GuestNs = GuestNs(0);

    fn write(lapic: &mut Lapic, offset: u16, value: u32) {
        assert_eq!(lapic.write(offset, value, T), WriteEffect::None);
    }

    fn enabled() -> Lapic {
        let mut lapic = Lapic::new(0, true);
        write(&mut lapic, 0xf0, 0x1ff);
        lapic
    }

    fn message(vector: u8, trigger: TriggerMode) -> InterruptMessage {
        InterruptMessage {
            dest: 0,
            dest_mode: DestinationMode::Physical,
            delivery_mode: DeliveryMode::Fixed,
            vector,
            trigger,
        }
    }

    #[test]
    fn reset_state() {
        let mut lapic = Lapic::new(3, false);
        assert_eq!(lapic.read(0x20, T), 0x0300_0000);
        assert_eq!(lapic.read(0x30, T), 0x0005_0014);
        assert_eq!(lapic.read(0xe0, T), 0xffff_ffff);
        assert_eq!(lapic.read(0xf0, T), 0x0000_00ff);
        for offset in [0x320, 0x330, 0x340, 0x350, 0x360, 0x370] {
            assert_eq!(lapic.read(offset, T), 0x0001_0000);
        }
        assert_eq!(lapic.apic_base(), 0xfee0_0800);
        assert_eq!(Lapic::new(0, true).apic_base(), 0xfee0_0900);
    }

    #[test]
    fn priorities_and_eoi() {
        let mut lapic = enabled();
        lapic.accept(&message(0x31, TriggerMode::Edge));
        lapic.accept(&message(0x52, TriggerMode::Edge));
        assert_eq!(lapic.acknowledge(), 0x52);
        assert_eq!(lapic.read(0xa0, T), 0x50);
        assert!(!lapic.interrupt_pending(), "0x31 is of a lower class");
        lapic.accept(&message(0x5f, TriggerMode::Edge));
        assert!(!lapic.interrupt_pending(), "the same class does not interrupt itself");
        lapic.accept(&message(0x60, TriggerMode::Edge));
        assert_eq!(lapic.acknowledge(), 0x60);
        write(&mut lapic, 0xb0, 0);
        write(&mut lapic, 0xb0, 0);
        assert_eq!(lapic.acknowledge(), 0x5f);
        write(&mut lapic, 0xb0, 0);
        write(&mut lapic, 0x80, 0x30);
        assert!(!lapic.interrupt_pending(), "TPR");
        assert_eq!(lapic.cr8(), 3);
        assert_eq!(lapic.acknowledge(), 0xff, "spurious");
        lapic.set_cr8(2);
        assert_eq!(lapic.acknowledge(), 0x31);
        assert_eq!(lapic.read(0x110, T), 1 << 0x11);
    }

    #[test]
    fn level_triggered_ends_are_broadcast() {
        let mut lapic = enabled();
        lapic.accept(&message(0x41, TriggerMode::Level));
        assert_eq!(lapic.read(0x1a0, T), 2, "TMR");
        assert_eq!(lapic.acknowledge(), 0x41);
        assert_eq!(lapic.write(0xb0, 0, T), WriteEffect::EndOfInterrupt(0x41));
        assert_eq!(lapic.write(0xb0, 0, T), WriteEffect::None);
    }

    #[test]
    fn timer_one_shot() {
        let mut lapic = enabled();
        // Divide by 16.
        write(&mut lapic, 0x3e0, 0x3);
        write(&mut lapic, 0x320, 0xec);
        assert_eq!(lapic.write(0x380, 1000, GuestNs(500)), WriteEffect::None);
        assert_eq!(lapic.deadline(), Some(GuestNs(16_500)));
        assert_eq!(lapic.read(0x390, GuestNs(8_500)), 500);
        lapic.advance(GuestNs(16_499));
        assert!(!lapic.interrupt_pending());
        lapic.advance(GuestNs(16_500));
        assert_eq!(lapic.acknowledge(), 0xec);
        assert_eq!(lapic.read(0x390, GuestNs(20_000)), 0);
        assert_eq!(lapic.deadline(), None);
    }

    #[test]
    fn timer_periodic_does_not_drift() {
        let mut lapic = enabled();
        write(&mut lapic, 0x3e0, 0xb);
        write(&mut lapic, 0x320, 0x2_00ec);
        write(&mut lapic, 0x380, 333);
        for n in 1..=10u64 {
            let deadline = lapic.deadline().unwrap();
            assert_eq!(deadline, GuestNs(333 * n));
            // The board may look a little later; the next one is in phase all the same.
            lapic.advance(GuestNs(deadline.0 + 7));
            assert_eq!(lapic.acknowledge(), 0xec);
            write(&mut lapic, 0xb0, 0);
        }
        write(&mut lapic, 0x320, 0x3_00ec);
        assert_eq!(lapic.deadline(), None, "masked");
    }

    #[test]
    fn divisors() {
        for (value, divisor) in
            [(0u32, 2u32), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)]
        {
            let mut lapic = enabled();
            write(&mut lapic, 0x3e0, value);
            write(&mut lapic, 0x320, 0xec);
            write(&mut lapic, 0x380, 10);
            assert_eq!(lapic.deadline(), Some(GuestNs(u64::from(10 * divisor))));
        }
    }

    #[test]
    fn software_disable_masks_and_refuses() {
        let mut lapic = enabled();
        write(&mut lapic, 0x320, 0xec);
        write(&mut lapic, 0xf0, 0xff);
        assert_eq!(lapic.read(0x320, T), 0x1_00ec);
        write(&mut lapic, 0x320, 0xed);
        assert_eq!(lapic.read(0x320, T), 0x1_00ed, "the mask cannot be cleared");
        lapic.accept(&message(0x41, TriggerMode::Edge));
        assert!(!lapic.interrupt_pending());
        let nmi =
            InterruptMessage { delivery_mode: DeliveryMode::Nmi, ..message(0, TriggerMode::Edge) };
        lapic.accept(&nmi);
        assert!(lapic.take_nmi());
        assert!(!lapic.take_nmi());
    }

    #[test]
    fn lint0_as_ext_int_fixed_and_nmi() {
        let mut lapic = Lapic::new(0, true);
        lapic.set_lint0(true);
        assert!(lapic.external_interrupt_pending(), "virtual wire from reset on");
        write(&mut lapic, 0xf0, 0x1ff);
        write(&mut lapic, 0x350, 0x1_0700);
        assert!(!lapic.external_interrupt_pending());
        write(&mut lapic, 0x350, 0x31);
        assert!(!lapic.interrupt_pending(), "no edge");
        lapic.set_lint0(false);
        lapic.set_lint0(true);
        assert_eq!(lapic.acknowledge(), 0x31);
        write(&mut lapic, 0x350, 0x400);
        lapic.set_lint0(false);
        lapic.set_lint0(true);
        assert!(lapic.take_nmi());
    }

    #[test]
    fn lint_level_asks_again_after_eoi() {
        let mut lapic = enabled();
        write(&mut lapic, 0x360, 0x8045);
        lapic.set_lint1(true);
        assert_eq!(lapic.acknowledge(), 0x45);
        assert_eq!(lapic.read(0x360, T), 0xc045);
        write(&mut lapic, 0xb0, 0);
        assert_eq!(lapic.acknowledge(), 0x45);
        lapic.set_lint1(false);
        write(&mut lapic, 0xb0, 0);
        assert!(!lapic.interrupt_pending());
    }

    /// What Linux does to start a processor: INIT, de-assert, two start-ups.
    #[test]
    fn init_and_startup() {
        let mut bsp = enabled();
        let mut others = [Lapic::new(1, false), Lapic::new(2, false)];
        let mut send = |bsp: &mut Lapic, low| {
            write(bsp, 0x310, 1 << 24);
            match bsp.write(0x300, low, T) {
                WriteEffect::Ipi(ipi) => deliver_ipi(&ipi, 0, others.iter_mut()),
                effect => assert_eq!((effect, low), (WriteEffect::None, 0x8500)),
            }
            [0, 1].map(|n| (others[n].take_init(), others[n].take_startup()))
        };
        assert_eq!(send(&mut bsp, 0xc500), [(true, None), (false, None)]);
        assert_eq!(send(&mut bsp, 0x8500), [(false, None), (false, None)]);
        assert_eq!(send(&mut bsp, 0x0699), [(false, Some(0x99)), (false, None)]);
    }

    #[test]
    fn shorthands_and_self() {
        let mut lapics = [Lapic::new(0, true), Lapic::new(1, false), Lapic::new(2, false)];
        lapics.iter_mut().for_each(|lapic| write(lapic, 0xf0, 0x1ff));
        write(&mut lapics[1], 0x300, 0x4_00fb);
        assert_eq!(lapics[1].acknowledge(), 0xfb);
        let WriteEffect::Ipi(ipi) = lapics[0].write(0x300, 0xc_00fd, T) else { panic!() };
        deliver_ipi(&ipi, 0, lapics.iter_mut());
        assert_eq!(lapics.each_ref().map(Lapic::interrupt_pending), [false, false, true]);
        assert_eq!(lapics[1].read(0x270, T), 1 << 0x1d, "behind the one in service");
    }

    #[test]
    fn logical_destinations_and_lowest_priority() {
        let mut lapics = [Lapic::new(0, true), Lapic::new(1, false)];
        for (index, lapic) in lapics.iter_mut().enumerate() {
            write(lapic, 0xf0, 0x1ff);
            write(lapic, 0xd0, 1 << (24 + index));
        }
        let logical = |dest, delivery_mode| InterruptMessage {
            dest,
            dest_mode: DestinationMode::Logical,
            delivery_mode,
            ..message(0x51, TriggerMode::Edge)
        };
        assert!(!deliver(&logical(4, DeliveryMode::Fixed), lapics.iter_mut()));
        write(&mut lapics[0], 0x80, 0x20);
        assert!(deliver(&logical(3, DeliveryMode::LowestPriority), lapics.iter_mut()));
        assert_eq!(lapics.each_ref().map(Lapic::interrupt_pending), [false, true]);
        // Cluster model: cluster 2, member 1.
        write(&mut lapics[0], 0xe0, 0);
        write(&mut lapics[0], 0xd0, 0x2100_0000);
        assert!(lapics[0].is_addressed(&logical(0x21, DeliveryMode::Fixed)));
        assert!(lapics[0].is_addressed(&logical(0xf1, DeliveryMode::Fixed)));
        assert!(!lapics[0].is_addressed(&logical(0x11, DeliveryMode::Fixed)));
        assert!(!lapics[0].is_addressed(&logical(0x22, DeliveryMode::Fixed)));
    }

    #[test]
    fn errors_latch_by_writing_esr() {
        let mut lapic = enabled();
        write(&mut lapic, 0x370, 0xfe);
        write(&mut lapic, 0x300, 0x0005);
        assert_eq!(lapic.acknowledge(), 0xfe);
        assert_eq!(lapic.read(0x280, T), 0);
        write(&mut lapic, 0x280, 0);
        assert_eq!(lapic.read(0x280, T), 0x20);
        write(&mut lapic, 0x280, 0);
        assert_eq!(lapic.read(0x280, T), 0);
        lapic.read(0x00, T);
        write(&mut lapic, 0x280, 0);
        assert_eq!(lapic.read(0x280, T), 0x80);
    }

    #[test]
    fn apic_base_refuses_x2apic_and_disables() {
        let mut lapic = enabled();
        assert!(!lapic.set_apic_base(0xfee0_0d00));
        assert!(!lapic.set_apic_base(0xfee0_0901));
        assert_eq!(lapic.mmio_base(), Some(0xfee0_0000));
        lapic.accept(&message(0x41, TriggerMode::Edge));
        assert!(lapic.set_apic_base(0xfee0_0100));
        assert!(!lapic.interrupt_pending());
        assert_eq!(lapic.mmio_base(), None);
        lapic.set_lint0(true);
        assert!(lapic.external_interrupt_pending(), "LINT0 is INTR");
        assert!(lapic.set_apic_base(0xfee0_0900));
        assert_eq!(lapic.read(0xf0, T), 0xff);
    }

    #[test]
    fn restore_refuses_exception_vectors_and_unknown_bits() {
        let refused = |change: fn(&mut State)| {
            let mut state = enabled().save();
            change(&mut state);
            enabled().restore(state).unwrap_err().field
        };
        assert_eq!(refused(|state| state.irr.0[0] = 1 << 14), "irr");
        assert_eq!(refused(|state| state.lvt[LVT_TIMER] |= 1 << 18), "lvt");
        assert_eq!(refused(|state| state.apic_base |= 1 << 10), "apic_base");
        let zero = |state: &mut State| {
            state.countdown = Some(Countdown { since: GuestNs(0), count: 0 });
        };
        assert_eq!(refused(zero), "countdown");
    }
}

//! Intel 8259A pair: the PC/AT interrupt controller (Intel 8259A datasheet, 231468-003; the edge/level
//! control registers are those of the 82371SB, "PIIX3").
//!
//! Data path: a device line sets a bit of IRR; the highest-priority bit of IRR that is neither
//! masked by IMR nor hidden by an equal or higher bit of ISR raises INT; the acknowledge cycle moves
//! it to ISR and answers with a vector; an end-of-interrupt command clears it from ISR. The slave's
//! INT is the master's IR2.
//!
//! Decided where documents leave room:
//! * In edge mode an IRR bit follows its line down again, as in the silicon ("the IR inputs must
//!   remain high until after the falling edge of the first INTA"), where some emulators latch it.
//!   The devices of this board hold their lines, so nothing is lost and nothing spurious appears.
//! * The master's IR2 is the slave's INT level, not an edge of it: with a slave in automatic EOI a
//!   second request would otherwise wait for ever.
//! * ICW1.LTIM is ignored, as by the PIIX3, which has ELCR instead.
//!
//! Not modelled: MCS-80/85 mode (ICW4 bit 0 clear answers as if set), buffered mode, ICW3 contents.

use crate::{PortRange, RestoreError};
use dejavm_units::GuestNs;
use serde::{Deserialize, Serialize};

/// Registers 0 and 1: command and data port of the master (0x20, 0x21); 2 and 3: those of the slave
/// (0xa0, 0xa1); 4 and 5: edge/level control of the master and of the slave (0x4d0, 0x4d1).
pub const PORTS: [PortRange; 3] = [
    PortRange { first: 0x20, count: 2, reg: 0 },
    PortRange { first: 0xa0, count: 2, reg: 2 },
    PortRange { first: 0x4d0, count: 2, reg: 4 },
];

/// ICW1: more initialisation words follow; bit 4 tells it from OCW2 and OCW3.
const ICW1: u8 = 1 << 4;
const ICW1_IC4: u8 = 1 << 0;
const ICW1_SNGL: u8 = 1 << 1;
const ICW4_AEOI: u8 = 1 << 1;
const ICW4_SFNM: u8 = 1 << 4;
/// OCW3 is told from OCW2 by bit 3.
const OCW3: u8 = 1 << 3;
const OCW3_RIS: u8 = 1 << 0;
const OCW3_RR: u8 = 1 << 1;
const OCW3_P: u8 = 1 << 2;
const OCW3_SMM: u8 = 1 << 5;
const OCW3_ESMM: u8 = 1 << 6;

/// IRQ 0, 1 and 2 are edge-triggered on any PC (PIIX3, 4D0h).
const ELCR_WRITABLE_MASTER: u8 = 0xf8;
/// IRQ 8 and 13 are edge-triggered on any PC (PIIX3, 4D1h).
const ELCR_WRITABLE_SLAVE: u8 = 0xde;

/// The master's input that the slave drives.
const CASCADE: u8 = 2;
/// The input that an acknowledge without a request answers for.
const SPURIOUS: u8 = 7;

/// What a write to the data port means.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Expects {
    Ocw1,
    Icw2,
    Icw3,
    Icw4,
}

/// One 8259A.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Chip {
    /// Levels of the input lines.
    lines: u8,
    /// Inputs in edge mode whose rising edge waits for its acknowledge.
    edges: u8,
    isr: u8,
    imr: u8,
    /// Inputs that are level-triggered.
    elcr: u8,
    /// ICW2: the upper five bits of the vector.
    vector_base: u8,
    expects: Expects,
    /// ICW1 announced an ICW4.
    icw4_follows: bool,
    /// ICW1 announced that there is no cascade, hence no ICW3.
    single: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_fully_nested: bool,
    special_mask: bool,
    /// Command port reads give ISR, else IRR.
    reads_isr: bool,
    /// The next read is a poll.
    poll: bool,
    /// The input of highest priority (0..8): 0 unless rotated.
    first: u8,
}

/// Everything of the pair that can change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    master: Chip,
    slave: Chip,
}

/// The pair of 8259A of a PC/AT.
#[derive(Clone, Debug)]
pub struct Pic {
    // Configuration: none.
    // Glue: none.
    state: State,
}

impl Default for Pic {
    fn default() -> Pic {
        Pic::new()
    }
}

impl Chip {
    const fn at_reset() -> Chip {
        Chip {
            lines: 0,
            edges: 0,
            isr: 0,
            imr: 0,
            elcr: 0,
            vector_base: 0,
            expects: Expects::Ocw1,
            icw4_follows: false,
            single: false,
            auto_eoi: false,
            rotate_on_auto_eoi: false,
            special_fully_nested: false,
            special_mask: false,
            reads_isr: false,
            poll: false,
            first: 0,
        }
    }

    fn irr(&self) -> u8 {
        (self.edges & !self.elcr) | (self.lines & self.elcr)
    }

    fn set_line(&mut self, input: u8, level: bool) {
        let bit = 1 << input;
        if !level {
            self.lines &= !bit;
            self.edges &= !bit;
        } else if self.lines & bit == 0 {
            self.lines |= bit;
            self.edges |= bit & !self.elcr;
        }
    }

    /// Rank of the most urgent set bit, 0 being the highest priority; 8 if there is none.
    fn best_rank(&self, bits: u8) -> u8 {
        bits.rotate_right(u32::from(self.first)).trailing_zeros() as u8
    }

    fn input_of_rank(&self, rank: u8) -> u8 {
        (self.first + rank) & 7
    }

    /// The input that INT is raised for; `cascade` is the level of IR2 if this is the master.
    fn pending(&self, cascade: Option<bool>) -> Option<u8> {
        let mut requests = self.irr();
        let mut in_service = self.isr;
        if let Some(level) = cascade {
            requests = (requests & !(1 << CASCADE)) | (u8::from(level) << CASCADE);
            if self.special_fully_nested {
                // A slave in service may interrupt again with something more urgent of its own.
                in_service &= !(1 << CASCADE);
            }
        }
        if self.special_mask {
            in_service &= !self.imr;
        }
        let rank = self.best_rank(requests & !self.imr);
        (rank < self.best_rank(in_service)).then(|| self.input_of_rank(rank))
    }

    /// The chip's part of an acknowledge cycle for `input`.
    fn take(&mut self, input: u8) {
        self.edges &= !(1 << input);
        if !self.auto_eoi {
            self.isr |= 1 << input;
        } else if self.rotate_on_auto_eoi {
            self.first = (input + 1) & 7;
        }
    }

    fn write_command(&mut self, value: u8) {
        if value & ICW1 != 0 {
            self.initialise(value);
        } else if value & OCW3 != 0 {
            self.write_ocw3(value);
        } else {
            self.write_ocw2(value);
        }
    }

    fn initialise(&mut self, icw1: u8) {
        let Chip { lines, elcr, vector_base, .. } = *self;
        *self = Chip {
            lines,
            elcr,
            vector_base,
            expects: Expects::Icw2,
            icw4_follows: icw1 & ICW1_IC4 != 0,
            single: icw1 & ICW1_SNGL != 0,
            ..Chip::at_reset()
        };
    }

    fn write_ocw2(&mut self, value: u8) {
        let level = value & 7;
        match value >> 5 {
            0 => self.rotate_on_auto_eoi = false,
            4 => self.rotate_on_auto_eoi = true,
            // Non-specific end of interrupt, and with rotation.
            command @ (1 | 5) => {
                // In special mask mode it does not clear a masked level (datasheet, "Special mask mode").
                let candidates = if self.special_mask { self.isr & !self.imr } else { self.isr };
                let rank = self.best_rank(candidates);
                if rank < 8 {
                    let input = self.input_of_rank(rank);
                    self.isr &= !(1 << input);
                    if command == 5 {
                        self.first = (input + 1) & 7;
                    }
                }
            }
            3 => self.isr &= !(1 << level),
            7 => {
                self.isr &= !(1 << level);
                self.first = (level + 1) & 7;
            }
            6 => self.first = (level + 1) & 7,
            // 2: no operation.
            _ => {}
        }
    }

    fn write_ocw3(&mut self, value: u8) {
        if value & OCW3_P != 0 {
            self.poll = true;
        }
        if value & OCW3_RR != 0 {
            self.reads_isr = value & OCW3_RIS != 0;
        }
        if value & OCW3_ESMM != 0 {
            self.special_mask = value & OCW3_SMM != 0;
        }
    }

    fn write_data(&mut self, value: u8) {
        let after_icw3 = if self.icw4_follows { Expects::Icw4 } else { Expects::Ocw1 };
        match self.expects {
            Expects::Ocw1 => self.imr = value,
            Expects::Icw2 => {
                self.vector_base = value & 0xf8;
                self.expects = if self.single { after_icw3 } else { Expects::Icw3 };
            }
            Expects::Icw3 => self.expects = after_icw3,
            Expects::Icw4 => {
                self.special_fully_nested = value & ICW4_SFNM != 0;
                self.auto_eoi = value & ICW4_AEOI != 0;
                self.expects = Expects::Ocw1;
            }
        }
    }

    fn read_status(&self, data_port: bool, cascade: Option<bool>) -> u8 {
        if data_port {
            self.imr
        } else if self.reads_isr {
            self.isr
        } else {
            match cascade {
                Some(level) => (self.irr() & !(1 << CASCADE)) | (u8::from(level) << CASCADE),
                None => self.irr(),
            }
        }
    }

    fn poll_answer(&mut self, pending: Option<u8>) -> u8 {
        self.poll = false;
        match pending {
            Some(input) => {
                self.take(input);
                0x80 | input
            }
            None => 0,
        }
    }
}

// Guest side.
impl Pic {
    /// The pair at power-on: uninitialised, nothing masked, all inputs edge-triggered.
    pub fn new() -> Pic {
        Pic { state: State { master: Chip::at_reset(), slave: Chip::at_reset() } }
    }

    /// The reset pin. Line levels are the devices' and stay.
    pub fn reset(&mut self) {
        for chip in [&mut self.state.master, &mut self.state.slave] {
            *chip = Chip { lines: chip.lines, ..Chip::at_reset() };
        }
    }

    /// Reads register `reg` (see [`PORTS`]); all-ones if there is no such register.
    pub fn read(&mut self, reg: u16, _now: GuestNs) -> u8 {
        let cascade = Some(self.slave_int());
        let State { master, slave } = &mut self.state;
        match reg {
            0 | 1 if master.poll => {
                let pending = master.pending(cascade);
                master.poll_answer(pending)
            }
            0 | 1 => master.read_status(reg == 1, cascade),
            2 | 3 if slave.poll => {
                let pending = slave.pending(None);
                slave.poll_answer(pending)
            }
            2 | 3 => slave.read_status(reg == 3, None),
            4 => master.elcr,
            5 => slave.elcr,
            _ => 0xff,
        }
    }

    /// Writes register `reg` (see [`PORTS`]); nothing happens if there is no such register.
    pub fn write(&mut self, reg: u16, value: u8, _now: GuestNs) {
        let State { master, slave } = &mut self.state;
        match reg {
            0 => master.write_command(value),
            1 => master.write_data(value),
            2 => slave.write_command(value),
            3 => slave.write_data(value),
            4 => {
                master.elcr = value & ELCR_WRITABLE_MASTER;
                master.edges &= !master.elcr;
            }
            5 => {
                slave.elcr = value & ELCR_WRITABLE_SLAVE;
                slave.edges &= !slave.elcr;
            }
            _ => {}
        }
    }
}

// Board side.
impl Pic {
    /// Sets the level of line `irq` (0..16; 2 is the cascade and is ignored).
    pub fn set_line(&mut self, irq: u8, level: bool) {
        assert!(irq < 16, "the board has no interrupt line {irq}");
        if irq >= 8 {
            self.state.slave.set_line(irq - 8, level);
        } else if irq != CASCADE {
            self.state.master.set_line(irq, level);
        }
    }

    /// Whether line `irq` (0..16) is level-triggered.
    pub fn is_level_triggered(&self, irq: u8) -> bool {
        assert!(irq < 16, "the board has no interrupt line {irq}");
        let [low, high] = [self.state.master.elcr, self.state.slave.elcr];
        u16::from_le_bytes([low, high]) & (1 << irq) != 0
    }

    /// Level of the master's INT pin, the processor's INTR.
    pub fn interrupt_pending(&self) -> bool {
        self.state.master.pending(Some(self.slave_int())).is_some()
    }

    /// The acknowledge cycle: the vector of the most urgent request, which goes into service. Without
    /// a request it is the spurious vector (input 7 of the chip concerned), and nothing goes into
    /// service on that chip.
    pub fn acknowledge(&mut self) -> u8 {
        let cascade = Some(self.slave_int());
        let State { master, slave } = &mut self.state;
        let Some(input) = master.pending(cascade) else {
            return master.vector_base | SPURIOUS;
        };
        master.take(input);
        if input != CASCADE {
            return master.vector_base | input;
        }
        match slave.pending(None) {
            Some(input) => {
                slave.take(input);
                slave.vector_base | input
            }
            None => slave.vector_base | SPURIOUS,
        }
    }

    /// Never: the pair changes only when something is done to it.
    pub fn deadline(&self) -> Option<GuestNs> {
        None
    }

    /// Nothing depends on time.
    pub fn advance(&mut self, _now: GuestNs) {}

    fn slave_int(&self) -> bool {
        self.state.slave.pending(None).is_some()
    }
}

mod save_restore {
    use super::*;

    impl Pic {
        /// The state of the pair.
        pub fn save(&self) -> State {
            let Pic { state } = self;
            state.clone()
        }

        /// Becomes `state`. Refuses a priority that is not an input and level-triggering of inputs
        /// that cannot have it.
        pub fn restore(&mut self, state: State) -> Result<(), RestoreError> {
            let check = |valid, field| RestoreError::unless(valid, "the 8259 pair", field);
            for (chip, writable) in
                [(&state.master, ELCR_WRITABLE_MASTER), (&state.slave, ELCR_WRITABLE_SLAVE)]
            {
                check(chip.first < 8, "first")?;
                check(chip.vector_base & 7 == 0, "vector_base")?;
                check(chip.elcr & !writable == 0, "elcr")?;
                check(chip.edges & (chip.elcr | !chip.lines) == 0, "edges")?;
            }
            self.state = state;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: GuestNs = GuestNs(0);
    const MASTER_CMD: u16 = 0;
    const MASTER_DATA: u16 = 1;
    const SLAVE_CMD: u16 = 2;
    const SLAVE_DATA: u16 = 3;
    const EOI: u8 = 0x20;

    fn initialised(icw4: u8) -> Pic {
        let mut pic = Pic::new();
        for (cmd, data, base, icw3) in
            [(MASTER_CMD, MASTER_DATA, 0x30, 4), (SLAVE_CMD, SLAVE_DATA, 0x38, 2)]
        {
            pic.write(cmd, 0x11, T);
            pic.write(data, base, T);
            pic.write(data, icw3, T);
            pic.write(data, icw4, T);
        }
        pic
    }

    fn isr(pic: &mut Pic, cmd: u16) -> u8 {
        pic.write(cmd, 0x0b, T);
        pic.read(cmd, T)
    }

    fn irr(pic: &mut Pic, cmd: u16) -> u8 {
        pic.write(cmd, 0x0a, T);
        pic.read(cmd, T)
    }

    #[test]
    fn fully_nested_priority() {
        let mut pic = initialised(1);
        pic.set_line(4, true);
        assert_eq!(pic.acknowledge(), 0x34);
        assert_eq!(isr(&mut pic, MASTER_CMD), 0x10);
        pic.set_line(5, true);
        assert!(!pic.interrupt_pending(), "5 waits behind 4 in service");
        pic.set_line(1, true);
        assert!(pic.interrupt_pending(), "1 is more urgent than 4");
        assert_eq!(pic.acknowledge(), 0x31);
        pic.write(MASTER_CMD, EOI, T);
        assert_eq!(isr(&mut pic, MASTER_CMD), 0x10, "the most urgent one ends first");
        pic.write(MASTER_CMD, EOI, T);
        assert_eq!(pic.acknowledge(), 0x35);
    }

    #[test]
    fn cascade_and_spurious() {
        let mut pic = initialised(1);
        pic.set_line(12, true);
        assert_eq!(irr(&mut pic, MASTER_CMD), 0x04);
        assert_eq!(irr(&mut pic, SLAVE_CMD), 0x10);
        assert_eq!(pic.acknowledge(), 0x3c);
        assert_eq!(isr(&mut pic, MASTER_CMD), 0x04);
        assert_eq!(isr(&mut pic, SLAVE_CMD), 0x10);
        pic.write(SLAVE_CMD, EOI, T);
        pic.write(MASTER_CMD, EOI, T);
        assert!(!pic.interrupt_pending(), "one edge, one interrupt");
        assert_eq!(pic.acknowledge(), 0x37, "spurious");
        assert_eq!(isr(&mut pic, MASTER_CMD), 0, "spurious does not go into service");
    }

    #[test]
    fn an_edge_needs_a_low_line_before_it() {
        let mut pic = initialised(1);
        pic.set_line(3, true);
        pic.acknowledge();
        pic.write(MASTER_CMD, EOI, T);
        pic.set_line(3, true);
        assert!(!pic.interrupt_pending());
        pic.set_line(3, false);
        pic.set_line(3, true);
        assert!(pic.interrupt_pending());
        pic.set_line(3, false);
        assert!(!pic.interrupt_pending(), "the request leaves with the line");
    }

    #[test]
    fn initialisation_forgets_edges() {
        let mut pic = initialised(1);
        pic.set_line(3, true);
        pic.write(MASTER_CMD, 0x11, T);
        pic.write(MASTER_DATA, 0x30, T);
        pic.write(MASTER_DATA, 4, T);
        pic.write(MASTER_DATA, 1, T);
        assert!(!pic.interrupt_pending());
        assert_eq!(pic.read(MASTER_DATA, T), 0, "ICW1 clears the mask");
    }

    #[test]
    fn level_triggered_lines_ask_again() {
        let mut pic = initialised(1);
        pic.write(5, 0xff, T);
        pic.write(4, 0xff, T);
        assert_eq!(pic.read(4, T), 0xf8);
        assert_eq!(pic.read(5, T), 0xde);
        assert!(pic.is_level_triggered(11) && !pic.is_level_triggered(8));
        pic.set_line(11, true);
        assert_eq!(pic.acknowledge(), 0x3b);
        assert!(!pic.interrupt_pending());
        pic.write(SLAVE_CMD, EOI, T);
        pic.write(MASTER_CMD, EOI, T);
        assert!(pic.interrupt_pending(), "the line is still high");
        pic.set_line(11, false);
        assert!(!pic.interrupt_pending());
    }

    #[test]
    fn masked_requests_wait() {
        let mut pic = initialised(1);
        pic.write(MASTER_DATA, 0xff, T);
        pic.set_line(0, true);
        assert!(!pic.interrupt_pending());
        pic.write(MASTER_DATA, 0xfe, T);
        assert_eq!(pic.acknowledge(), 0x30);
    }

    #[test]
    fn automatic_eoi_with_rotation() {
        let mut pic = initialised(1 | 1 << 1);
        pic.write(MASTER_CMD, 0x80, T);
        pic.set_line(0, true);
        pic.set_line(1, true);
        assert_eq!(pic.acknowledge(), 0x30);
        assert_eq!(isr(&mut pic, MASTER_CMD), 0);
        pic.set_line(0, false);
        pic.set_line(0, true);
        assert_eq!(pic.acknowledge(), 0x31, "0 has become the least urgent");
        assert_eq!(pic.acknowledge(), 0x30);
    }

    #[test]
    fn automatic_eoi_slave_keeps_asking() {
        let mut pic = initialised(1 | 1 << 1);
        pic.set_line(9, true);
        pic.set_line(10, true);
        assert_eq!(pic.acknowledge(), 0x39);
        assert_eq!(pic.acknowledge(), 0x3a);
        assert!(!pic.interrupt_pending());
    }

    #[test]
    fn rotation_commands() {
        let mut pic = initialised(1);
        // Set priority: 3 is the least urgent, so 4 is the most urgent.
        pic.write(MASTER_CMD, 0xc3, T);
        pic.set_line(0, true);
        pic.set_line(4, true);
        assert_eq!(pic.acknowledge(), 0x34);
        // Rotate on specific EOI of 4: 5 first, 0 still pending.
        pic.write(MASTER_CMD, 0xe4, T);
        pic.set_line(7, true);
        assert_eq!(pic.acknowledge(), 0x37);
        pic.write(MASTER_CMD, 0xa0, T);
        assert_eq!(pic.acknowledge(), 0x30);
    }

    #[test]
    fn special_fully_nested_lets_a_slave_interrupt_itself() {
        for (icw4, expected) in [(0x01, false), (0x11, true)] {
            let mut pic = initialised(icw4);
            pic.set_line(12, true);
            pic.acknowledge();
            pic.set_line(8, true);
            assert_eq!(pic.interrupt_pending(), expected, "ICW4 {icw4:#x}");
        }
    }

    #[test]
    fn special_mask_mode() {
        let mut pic = initialised(1);
        pic.set_line(1, true);
        pic.acknowledge();
        pic.set_line(6, true);
        assert!(!pic.interrupt_pending());
        pic.write(MASTER_DATA, 0x02, T);
        pic.write(MASTER_CMD, 0x68, T);
        assert_eq!(pic.acknowledge(), 0x36, "6 passes the masked 1 in service");
        pic.write(MASTER_CMD, EOI, T);
        pic.write(MASTER_CMD, EOI, T);
        assert_eq!(isr(&mut pic, MASTER_CMD), 0x02, "EOI spares the masked level");
        pic.write(MASTER_CMD, 0x61, T);
        assert_eq!(isr(&mut pic, MASTER_CMD), 0);
    }

    #[test]
    fn poll() {
        let mut pic = initialised(1);
        pic.write(MASTER_CMD, 0x0c, T);
        assert_eq!(pic.read(MASTER_CMD, T), 0);
        pic.set_line(5, true);
        pic.write(MASTER_CMD, 0x0c, T);
        assert_eq!(pic.read(MASTER_DATA, T), 0x85);
        assert_eq!(isr(&mut pic, MASTER_CMD), 0x20);
    }

    #[test]
    fn restore_refuses_an_impossible_priority() {
        let mut state = Pic::new().save();
        state.slave.first = 8;
        let refusal = Pic::new().restore(state).unwrap_err();
        assert_eq!(refusal.field, "first");
    }
}

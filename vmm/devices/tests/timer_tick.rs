//! The chips wired as on the board, and the ways a kernel gets its timer tick through them.

use dejavm_devices::{DeliveryMode, DestinationMode, InterruptMessage, TriggerMode};
use dejavm_devices::{IoApic, Lapic, Pic, Pit, Rtc, lapic};
use dejavm_units::GuestNs;

/// 1000 Hz: 1193 ticks of 1.193182 MHz.
const LATCH: u16 = 1193;
const SECOND: u64 = 1_000_000_000;

/// Timers and interrupt controllers, polled as the board polls them.
struct Board {
    pic: Pic,
    pit: Pit,
    rtc: Rtc,
    ioapic: IoApic,
    lapic: Lapic,
    now: GuestNs,
}

impl Board {
    fn new() -> Board {
        let (pic, pit, rtc) = (Pic::new(), Pit::new(), Rtc::new(0));
        let mut board = Board {
            pic,
            pit,
            rtc,
            ioapic: IoApic::new(1),
            lapic: Lapic::new(0, true),
            now: GuestNs(0),
        };
        // As a kernel initialises the pair: vectors 0x30 and 0x38, all masked.
        for (command, data, vector, cascade) in [(0, 1, 0x30, 4), (2, 3, 0x38, 2)] {
            board.pic.write(command, 0x11, board.now);
            for icw in [vector, cascade, 1] {
                board.pic.write(data, icw, board.now);
            }
            board.pic.write(data, 0xff, board.now);
        }
        board.poll();
        board
    }

    fn program_pit(&mut self, control: u8) {
        self.pit.write(3, control, self.now);
        for byte in LATCH.to_le_bytes() {
            self.pit.write(0, byte, self.now);
        }
        self.poll();
    }

    fn poll(&mut self) {
        self.pic.set_line(0, self.pit.out(0));
        self.pic.set_line(8, self.rtc.irq());
        self.ioapic.set_line(2, self.pit.out(0));
        self.ioapic.set_line(8, self.rtc.irq());
        self.lapic.set_lint0(self.pic.interrupt_pending());
        while let Some(message) = self.ioapic.take_message() {
            lapic::deliver(&message, [&mut self.lapic]);
        }
    }

    /// On to the next deadline of any chip, or to `end`.
    fn step(&mut self, end: GuestNs) {
        let deadlines = [self.pit.deadline(), self.rtc.deadline(), self.lapic.deadline()];
        let next = deadlines.into_iter().flatten().min().unwrap_or(end);
        self.now = next.max(self.now).min(end);
        self.pit.advance(self.now);
        self.rtc.advance(self.now);
        self.lapic.advance(self.now);
        self.poll();
    }

    /// The vector of an interrupt that the processor takes now.
    fn take_interrupt(&mut self) -> Option<u8> {
        let vector = if self.lapic.external_interrupt_pending() {
            self.lapic.acknowledge_external();
            self.pic.acknowledge()
        } else if self.lapic.interrupt_pending() {
            self.lapic.acknowledge()
        } else {
            return None;
        };
        self.poll();
        Some(vector)
    }

    /// Runs for a second; returns the number of interrupts, all of `vector`, each ended by `eoi`.
    fn ticks_in_a_second(&mut self, vector: u8, eoi: fn(&mut Board)) -> u32 {
        let end = GuestNs(self.now.0 + SECOND);
        let mut ticks = 0;
        while self.now < end {
            self.step(end);
            while let Some(taken) = self.take_interrupt() {
                assert_eq!(taken, vector);
                ticks += 1;
                eoi(self);
                self.poll();
            }
        }
        ticks
    }
}

fn pic_eoi(board: &mut Board) {
    board.pic.write(0, 0x20, board.now);
}

fn lapic_eoi(board: &mut Board) {
    let _ = board.lapic.write(0xb0, 0, board.now);
}

#[test]
fn through_the_8259_and_a_processor_without_apic_knowledge() {
    for mode in [2u8, 3] {
        let mut board = Board::new();
        board.pic.write(1, 0xfe, board.now);
        board.program_pit(0x30 | mode << 1);
        // 1193182 / 1193 = 1000.15; the line's first rise may fall before the end or not.
        let ticks = board.ticks_in_a_second(0x30, pic_eoi);
        assert!((1000..=1001).contains(&ticks), "mode {mode}: {ticks}");
    }
}

/// Linux's one-shot tick on the 8254: software strobe, programmed anew at each interrupt.
#[test]
fn one_shot_through_the_8259() {
    let mut board = Board::new();
    board.pic.write(1, 0xfe, board.now);
    board.program_pit(0x38);
    // The output has been high since before the mask opened; that edge counts once.
    let ticks = board.ticks_in_a_second(0x30, |board| {
        pic_eoi(board);
        for byte in LATCH.to_le_bytes() {
            board.pit.write(0, byte, board.now);
        }
    });
    // Each takes the count and the strobe: 1195 ticks of the clock or so.
    assert!((995..=1000).contains(&ticks), "{ticks}");
}

#[test]
fn through_the_io_apic() {
    let mut board = Board::new();
    let _ = board.lapic.write(0xf0, 0x1ff, board.now);
    let _ = board.lapic.write(0x350, 0x1_0700, board.now);
    board.ioapic.write(0, 0x10 + 2 * 2, board.now);
    board.ioapic.write(0x10, 0x31, board.now);
    board.program_pit(0x34);
    let ticks = board.ticks_in_a_second(0x31, lapic_eoi);
    assert_eq!(ticks, 1000);
}

/// The last resort of Linux's check_timer(): LINT0 as a fixed interrupt, the 8259 never acknowledged.
/// It works only because a request of the 8259 leaves with its line.
#[test]
fn through_lint0_as_a_fixed_interrupt() {
    let mut board = Board::new();
    let _ = board.lapic.write(0xf0, 0x1ff, board.now);
    let _ = board.lapic.write(0x350, 0x31, board.now);
    board.pic.write(1, 0xfe, board.now);
    board.program_pit(0x34);
    let ticks = board.ticks_in_a_second(0x31, lapic_eoi);
    assert!((999..=1001).contains(&ticks), "{ticks}");
}

#[test]
fn lapic_timer() {
    let mut board = Board::new();
    let _ = board.lapic.write(0xf0, 0x1ff, board.now);
    let _ = board.lapic.write(0x350, 0x1_0700, board.now);
    // Periodic, divided by 16: 62.5 MHz, 250 Hz.
    let _ = board.lapic.write(0x320, 0x2_00ec, board.now);
    let _ = board.lapic.write(0x3e0, 0x3, board.now);
    let _ = board.lapic.write(0x380, 250_000, board.now);
    assert_eq!(board.ticks_in_a_second(0xec, lapic_eoi), 250);
}

/// The clock on the slave: nested ends of interrupt, and register C to lower the line.
#[test]
fn rtc_periodic_through_the_slave() {
    let mut board = Board::new();
    board.pic.write(1, 0xfb, board.now);
    board.pic.write(3, 0xfe, board.now);
    board.rtc.write(0, 0x0b, board.now);
    board.rtc.write(1, 0x42, board.now);
    let ticks = board.ticks_in_a_second(0x38, |board| {
        board.rtc.write(0, 0x0c, board.now);
        assert_eq!(board.rtc.read(1, board.now) & 0xc0, 0xc0);
        board.pic.write(2, 0x20, board.now);
        board.pic.write(0, 0x20, board.now);
    });
    assert_eq!(ticks, 1024);
}

#[test]
fn a_message_signalled_interrupt_reaches_its_processor() {
    let mut lapics = [Lapic::new(0, true), Lapic::new(1, false)];
    lapics.iter_mut().for_each(|lapic| {
        let _ = lapic.write(0xf0, 0x1ff, GuestNs(0));
    });
    let message = InterruptMessage::from_msi(0xfee0_1000, 0x0041).unwrap();
    assert_eq!(
        message,
        InterruptMessage {
            dest: 1,
            dest_mode: DestinationMode::Physical,
            delivery_mode: DeliveryMode::Fixed,
            vector: 0x41,
            trigger: TriggerMode::Edge,
        }
    );
    assert!(lapic::deliver(&message, lapics.iter_mut()));
    assert!(!lapics[0].interrupt_pending());
    assert_eq!(lapics[1].acknowledge(), 0x41);
}

//! The keyboard controller, keyboard and mouse by their manuals.

use super::*;

/// Enough for any byte to come.
const STEP_NS: u64 = 1_000_000;

/// A driver that polls, and the time it has.
struct Driver {
    chip: I8042,
    now: u64,
}

impl Driver {
    fn new() -> Driver {
        Driver { chip: I8042::new(), now: 0 }
    }

    fn command(&mut self, command: u8) {
        self.chip.write(4, command, GuestNs(self.now));
    }

    fn data(&mut self, value: u8) {
        self.chip.write(0, value, GuestNs(self.now));
    }

    fn send_mouse(&mut self, value: u8) {
        self.command(0xd4);
        self.data(value);
    }

    /// All that comes, with its AUX bit.
    fn drain(&mut self) -> Vec<(u8, bool)> {
        let mut bytes = Vec::new();
        loop {
            self.now += STEP_NS;
            let status = self.chip.read(4, GuestNs(self.now));
            if status & 0x01 == 0 {
                return bytes;
            }
            bytes.push((self.chip.read(0, GuestNs(self.now)), status & 0x20 != 0));
        }
    }

    fn bytes(&mut self) -> Vec<u8> {
        self.drain().into_iter().map(|(byte, _)| byte).collect()
    }
}

/// The order of Linux's i8042_controller_check(), _init() and _check_aux().
#[test]
fn linux_controller_probe() {
    let mut driver = Driver::new();
    assert_eq!(driver.chip.read(4, GuestNs(0)), 0x14);
    driver.command(0xaa);
    assert_eq!(driver.bytes(), [0x55]);
    driver.command(0x20);
    assert_eq!(driver.bytes(), [0x65]);
    // AUX loop: the byte comes back with the AUX bit.
    driver.command(0xd3);
    driver.data(0x5a);
    assert_eq!(driver.drain(), [(0x5a, true)]);
    // Not multiplexed: the version query loops back unchanged.
    for byte in [0xf0, 0x56, 0xa4] {
        driver.command(0xd3);
        driver.data(byte);
        assert_eq!(driver.drain(), [(byte, true)]);
    }
    driver.command(0xa9);
    assert_eq!(driver.bytes(), [0x00]);
    // Disabling and enabling the mouse shows in the command byte.
    driver.command(0xa8);
    driver.command(0x20);
    assert_eq!(driver.bytes()[0] & 0x20, 0);
    driver.command(0xa7);
    driver.command(0x20);
    assert_eq!(driver.bytes()[0] & 0x20, 0x20);
    // AUX interrupt delivery.
    driver.command(0x60);
    driver.data(0x47);
    driver.command(0xd3);
    driver.data(0xa5);
    assert!(driver.chip.mouse_irq() && !driver.chip.keyboard_irq());
}

/// Linux's atkbd_probe() and atkbd_activate(), with translation.
#[test]
fn linux_keyboard_probe() {
    let mut driver = Driver::new();
    driver.data(0xff);
    assert_eq!(driver.bytes(), [0xfa, 0xaa]);
    driver.data(0xf2);
    assert_eq!(driver.bytes(), [0xfa, 0xab, 0x41], "0x83 is translated");
    driver.data(0xed);
    assert_eq!(driver.bytes(), [0xfa]);
    driver.data(0x02);
    assert_eq!(driver.bytes(), [0xfa]);
    assert_eq!(driver.chip.lights(), 2);
    driver.data(0xf3);
    driver.data(0x00);
    assert_eq!(driver.bytes(), [0xfa, 0xfa]);
    driver.data(0xf4);
    assert_eq!(driver.bytes(), [0xfa]);
    driver.data(0x05);
    assert_eq!(driver.bytes(), [0xfe], "not a command");
}

#[test]
fn keys_translated_and_not() {
    let enter = Key { code: 0x1c, extended: false };
    let right_control = Key { code: 0x1d, extended: true };
    let f7 = Key { code: 0x41, extended: false };
    let mut driver = Driver::new();
    for key in [enter, right_control, f7] {
        assert!(driver.chip.key(key, true));
        assert!(driver.chip.key(key, false));
    }
    assert_eq!(driver.bytes(), [0x1c, 0x9c, 0xe0, 0x1d, 0xe0, 0x9d, 0x41, 0xc1]);
    driver.command(0x60);
    driver.data(0x05);
    for key in [enter, right_control, f7] {
        assert!(driver.chip.key(key, true));
        assert!(driver.chip.key(key, false));
    }
    assert_eq!(driver.bytes(), [0x5a, 0xf0, 0x5a, 0xe0, 0x14, 0xe0, 0xf0, 0x14, 0x83, 0xf0, 0x83]);
}

#[test]
fn every_key_of_set_1_comes_back_from_set_2() {
    for code in 1..=0x58u8 {
        if matches!(code, 0x55) {
            continue;
        }
        let set_2 = translation::set_2_of(code).unwrap_or_else(|| panic!("no key {code:#x}"));
        assert_eq!(translation::set_1_of(set_2), code);
    }
}

#[test]
fn the_interrupt_line_falls_between_two_bytes() {
    let mut chip = I8042::new();
    chip.key(Key { code: 0x1e, extended: false }, true);
    chip.key(Key { code: 0x1e, extended: false }, false);
    assert!(chip.keyboard_irq());
    assert_eq!(chip.deadline(), None, "the guest has to read first");
    assert_eq!(chip.read(0, GuestNs(1_000)), 0x1e);
    assert!(!chip.keyboard_irq());
    let deadline = chip.deadline().unwrap();
    assert!(deadline > GuestNs(1_000));
    chip.advance(deadline);
    assert!(chip.keyboard_irq());
    assert_eq!(chip.read(0, deadline), 0x9e);
    assert_eq!(chip.deadline(), None);
    assert_eq!(chip.read(0, deadline), 0x9e, "an empty buffer reads its last byte");
}

#[test]
fn a_full_keyboard_refuses_keys() {
    let mut chip = I8042::new();
    let key = Key { code: 0x1e, extended: false };
    let taken = (0..40).filter(|_| chip.key(key, true)).count();
    // 16, and the one that left for the output buffer.
    assert_eq!(taken, 17);
    let mut driver = Driver { chip, now: 0 };
    assert_eq!(driver.bytes(), [0x1e; 17]);
    driver.data(0xf5);
    assert_eq!(driver.bytes(), [0xfa]);
    assert!(!driver.chip.key(key, true), "it does not scan");
}

/// Linux's psmouse: reset, IntelliMouse and Explorer knocks, enable.
#[test]
fn linux_mouse_probe_and_packets() {
    let mut driver = Driver::new();
    driver.command(0xa8);
    driver.send_mouse(0xff);
    assert_eq!(driver.drain(), [(0xfa, true), (0xaa, true), (0x00, true)]);
    driver.send_mouse(0xf2);
    assert_eq!(driver.bytes(), [0xfa, 0x00]);
    driver.send_mouse(0xf4);
    assert_eq!(driver.bytes(), [0xfa]);
    driver.chip.move_mouse(300, -2, 0, 1);
    assert_eq!(driver.bytes(), [0x29, 0xff, 0xfe, 0x09, 45, 0]);
    let knock = |driver: &mut Driver, rates: [u8; 3]| {
        for rate in rates {
            driver.send_mouse(0xf3);
            assert_eq!(driver.bytes(), [0xfa]);
            driver.send_mouse(rate);
            assert_eq!(driver.bytes(), [0xfa]);
        }
        driver.send_mouse(0xf2);
        driver.bytes()
    };
    assert_eq!(knock(&mut driver, [200, 200, 80]), [0xfa, 0], "wheel comes first");
    assert_eq!(knock(&mut driver, [200, 100, 80]), [0xfa, 3]);
    assert_eq!(knock(&mut driver, [200, 200, 80]), [0xfa, 4]);
    driver.chip.move_mouse(0, 0, -1, 0x08);
    assert_eq!(driver.bytes(), [0x08, 0, 0, 0x1f]);
    driver.send_mouse(0xe9);
    assert_eq!(driver.bytes(), [0xfa, 0x20, 2, 80]);
    driver.send_mouse(0xee);
    driver.send_mouse(0x12);
    assert_eq!(driver.bytes(), [0xfa, 0x12], "wrap mode");
}

#[test]
fn reset_and_a20() {
    let mut driver = Driver::new();
    assert!(driver.chip.a20());
    assert!(!driver.chip.take_reset());
    driver.command(0xfe);
    assert!(driver.chip.take_reset());
    assert!(!driver.chip.take_reset());
    driver.command(0xff);
    assert!(!driver.chip.take_reset(), "no bit pulsed");
    driver.command(0xd1);
    driver.data(0xdd);
    assert!(!driver.chip.a20());
    driver.command(0xd0);
    assert_eq!(driver.bytes(), [0xcd]);
    driver.command(0xd1);
    driver.data(0xdf);
    assert!(driver.chip.a20());
    driver.command(0xd1);
    driver.data(0xde);
    assert!(driver.chip.take_reset());
}

#[test]
fn a_disabled_keyboard_keeps_its_bytes() {
    let mut driver = Driver::new();
    driver.command(0xad);
    driver.chip.key(Key { code: 0x1e, extended: false }, true);
    assert_eq!(driver.bytes(), []);
    driver.command(0xae);
    assert_eq!(driver.bytes(), [0x1e]);
    driver.command(0xad);
    driver.data(0xee);
    assert_eq!(driver.bytes(), [0xee], "writing to it enables it");
}

#[test]
fn restore_refuses_memory_that_is_not_there() {
    let mut state = I8042::new().save();
    state.expects = Expects::Memory(32);
    assert_eq!(I8042::new().restore(state).unwrap_err().field, "expects");
}

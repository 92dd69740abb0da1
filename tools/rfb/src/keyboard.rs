//! X's key symbols (X11, `keysymdef.h`) as keys of a PC's keyboard with the layout of the United States.
//!
//! A viewer may send a symbol without the Shift that it takes (a program that types), or with a Shift that it does not take (another
//! layout): Shift is then pressed, or let go, around the key. Symbols that no key has are not heard.

use std::collections::BTreeSet;

/// A key, by its code in scan code set 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Key {
    /// The make code, without bit 7.
    pub code: u8,
    /// With the prefix 0xe0.
    pub extended: bool,
}

/// A key goes down or up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stroke {
    /// Which.
    pub key: Key,
    /// Down.
    pub pressed: bool,
}

/// What a client holds down.
#[derive(Clone, Debug, Default)]
pub struct Keyboard {
    held: BTreeSet<Key>,
    /// As the client's Caps Lock made the guest's, if both were off before.
    caps_lock: bool,
}

const fn plain(code: u8) -> Key {
    Key { code, extended: false }
}

const fn extended(code: u8) -> Key {
    Key { code, extended: true }
}

const SHIFT_LEFT: Key = plain(0x2a);
const SHIFT_RIGHT: Key = plain(0x36);
const CAPS_LOCK: Key = plain(0x3a);
const CONTROLS_AND_ALTS: [Key; 4] = [plain(0x1d), extended(0x1d), plain(0x38), extended(0x38)];

/// Rows of keys: the first one's code, what they are, and what they are with Shift.
const ROWS: [(u8, &str, &str); 7] = [
    (0x02, "1234567890-=", "!@#$%^&*()_+"),
    (0x10, "qwertyuiop[]", "QWERTYUIOP{}"),
    (0x1e, "asdfghjkl;'", "ASDFGHJKL:\""),
    (0x29, "`", "~"),
    (0x2b, "\\", "|"),
    (0x2c, "zxcvbnm,./", "ZXCVBNM<>?"),
    (0x39, " ", " "),
];

/// Keypad, 0 to 9.
const KEYPAD_DIGITS: [u8; 10] = [0x52, 0x4f, 0x50, 0x51, 0x4b, 0x4c, 0x4d, 0x47, 0x48, 0x49];

/// The key with this character, and whether it takes Shift; `None` for Shift: both ways.
fn character(symbol: u8) -> Option<(Key, Option<bool>)> {
    ROWS.iter().find_map(|(first, lower, upper)| {
        let place = |row: &str| row.bytes().position(|it| it == symbol);
        let (low, high) = (place(lower), place(upper));
        let index = low.or(high)?;
        let shift = if low == high { None } else { Some(low.is_none()) };
        Some((plain(first + index as u8), shift))
    })
}

/// The key with a symbol that is no character.
fn function(symbol: u32) -> Option<Key> {
    Some(match symbol {
        0xff08 => plain(0x0e),                   // BackSpace
        0xff09 | 0xfe20 => plain(0x0f),          // Tab, ISO_Left_Tab
        0xff0a | 0xff0d => plain(0x1c),          // Linefeed, Return
        0xff13 | 0xff6b => extended(0x46), // Pause, Break: Control with Pause, as a PC sends it
        0xff14 => plain(0x46),             // Scroll_Lock
        0xff15 | 0xff61 => extended(0x37), // Sys_Req, Print
        0xff1b => plain(0x01),             // Escape
        0xff50 => extended(0x47),          // Home
        0xff51 => extended(0x4b),          // Left
        0xff52 => extended(0x48),          // Up
        0xff53 => extended(0x4d),          // Right
        0xff54 => extended(0x50),          // Down
        0xff55 => extended(0x49),          // Page_Up
        0xff56 => extended(0x51),          // Page_Down
        0xff57 => extended(0x4f),          // End
        0xff63 => extended(0x52),          // Insert
        0xff67 => extended(0x5d),          // Menu
        0xff7f => plain(0x45),             // Num_Lock
        0xff8d => extended(0x1c),          // KP_Enter
        0xff95 => plain(0x47),             // KP_Home
        0xff96 => plain(0x4b),             // KP_Left
        0xff97 => plain(0x48),             // KP_Up
        0xff98 => plain(0x4d),             // KP_Right
        0xff99 => plain(0x50),             // KP_Down
        0xff9a => plain(0x49),             // KP_Page_Up
        0xff9b => plain(0x51),             // KP_Page_Down
        0xff9c => plain(0x4f),             // KP_End
        0xff9d => plain(0x4c),             // KP_Begin
        0xff9e => plain(0x52),             // KP_Insert
        0xff9f | 0xffac | 0xffae => plain(0x53), // KP_Delete, KP_Separator, KP_Decimal
        0xffaa => plain(0x37),             // KP_Multiply
        0xffab => plain(0x4e),             // KP_Add
        0xffad => plain(0x4a),             // KP_Subtract
        0xffaf => extended(0x35),          // KP_Divide
        0xffb0..=0xffb9 => plain(KEYPAD_DIGITS[(symbol - 0xffb0) as usize]),
        0xffbe..=0xffc7 => plain(0x3b + (symbol - 0xffbe) as u8), // F1 to F10
        0xffc8 => plain(0x57),                                    // F11
        0xffc9 => plain(0x58),                                    // F12
        0xffe1 => SHIFT_LEFT,
        0xffe2 => SHIFT_RIGHT,
        0xffe3 => plain(0x1d),    // Control_L
        0xffe4 => extended(0x1d), // Control_R
        0xffe5 => CAPS_LOCK,
        0xffe7 | 0xffe9 => plain(0x38), // Meta_L, Alt_L
        0xffe8 | 0xffea | 0xfe03 | 0xff7e => extended(0x38), // Meta_R, Alt_R, ISO_Level3_Shift, Mode_switch
        0xffeb => extended(0x5b),                            // Super_L
        0xffec => extended(0x5c),                            // Super_R
        0xffff => extended(0x53),                            // Delete
        _ => return None,
    })
}

impl Keyboard {
    /// The key with a symbol goes down or up: what that is on a PC's keyboard.
    pub fn symbol(&mut self, symbol: u32, pressed: bool) -> Vec<Stroke> {
        let found = match u8::try_from(symbol) {
            Ok(symbol) => character(symbol),
            Err(_) => function(symbol).map(|key| (key, None)),
        };
        let Some((key, shift)) = found else { return Vec::new() };
        if !pressed {
            return self.release(key);
        }
        let is_letter = u8::try_from(symbol).is_ok_and(|symbol| symbol.is_ascii_alphabetic());
        let shift = match shift {
            // A shortcut, whatever the letter's case.
            Some(_) if is_letter && CONTROLS_AND_ALTS.iter().any(|key| self.held.contains(key)) => {
                None
            }
            Some(shift) => Some(shift != (is_letter && self.caps_lock)),
            None => None,
        };
        let shifts: Vec<Key> =
            [SHIFT_LEFT, SHIFT_RIGHT].into_iter().filter(|key| self.held.contains(key)).collect();
        let stroke = self.press(key);
        let around: (Vec<Key>, bool) = match shift {
            Some(true) if shifts.is_empty() => (vec![SHIFT_LEFT], true),
            Some(false) if !shifts.is_empty() => (shifts, false),
            Some(_) | None => return vec![stroke],
        };
        let (keys, first) = around;
        let all = |pressed| keys.iter().map(move |&key| Stroke { key, pressed });
        all(first).chain([stroke]).chain(all(!first)).collect()
    }

    /// A key goes down or up, by its number: bit 7 is the prefix 0xe0. Numbers that no key has are not heard.
    pub fn scanned(&mut self, scan_code: u32, pressed: bool) -> Vec<Stroke> {
        let Ok(number) = u8::try_from(scan_code) else { return Vec::new() };
        let key = Key { code: number & 0x7f, extended: number & 0x80 != 0 };
        if key.code == 0 {
            return Vec::new();
        }
        if pressed { vec![self.press(key)] } else { self.release(key) }
    }

    /// The client is gone: all that it held goes up.
    pub fn left(&mut self) -> Vec<Stroke> {
        let held = std::mem::take(&mut self.held);
        held.into_iter().map(|key| Stroke { key, pressed: false }).collect()
    }

    fn press(&mut self, key: Key) -> Stroke {
        if self.held.insert(key) && key == CAPS_LOCK {
            self.caps_lock = !self.caps_lock;
        }
        Stroke { key, pressed: true }
    }

    fn release(&mut self, key: Key) -> Vec<Stroke> {
        match self.held.remove(&key) {
            true => vec![Stroke { key, pressed: false }],
            false => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIFT: u32 = 0xffe1;

    /// As the codes of set 1 that a keyboard would send.
    fn codes(strokes: Vec<Stroke>) -> Vec<u8> {
        strokes
            .into_iter()
            .map(|stroke| stroke.key.code | if stroke.pressed { 0 } else { 0x80 })
            .collect()
    }

    #[test]
    fn every_printable_character_has_a_key() {
        for symbol in 0x20..0x7f_u8 {
            assert!(character(symbol).is_some(), "{symbol}");
        }
        let shifted = |symbol| character(symbol).unwrap();
        assert_eq!(shifted(b'a'), (plain(0x1e), Some(false)));
        assert_eq!(shifted(b'?'), (plain(0x35), Some(true)));
        assert_eq!(shifted(b' '), (plain(0x39), None));
        assert_eq!(function(0xffb7), Some(plain(0x47)));
        assert_eq!(function(0xffc7), Some(plain(0x44)));
    }

    #[test]
    fn shift_is_pressed_where_a_symbol_takes_it_and_nobody_holds_it() {
        let mut keyboard = Keyboard::default();
        assert_eq!(codes(keyboard.symbol(b'A'.into(), true)), [0x2a, 0x1e, 0xaa]);
        assert_eq!(codes(keyboard.symbol(b'A'.into(), false)), [0x9e]);
        assert_eq!(codes(keyboard.symbol(SHIFT, true)), [0x2a]);
        assert_eq!(codes(keyboard.symbol(b'A'.into(), true)), [0x1e]);
        // Shift goes up first: the symbol that is let go is another.
        assert_eq!(codes(keyboard.symbol(SHIFT, false)), [0xaa]);
        assert_eq!(codes(keyboard.symbol(b'a'.into(), false)), [0x9e]);
    }

    #[test]
    fn shift_is_let_go_where_a_symbol_does_not_take_it() {
        let mut keyboard = Keyboard::default();
        keyboard.symbol(SHIFT, true);
        // Shift and 7 on a German keyboard.
        assert_eq!(codes(keyboard.symbol(b'/'.into(), true)), [0xaa, 0x35, 0x2a]);
    }

    #[test]
    fn caps_lock_takes_the_place_of_shift_for_letters() {
        let mut keyboard = Keyboard::default();
        keyboard.symbol(0xffe5, true);
        keyboard.symbol(0xffe5, false);
        assert_eq!(codes(keyboard.symbol(b'A'.into(), true)), [0x1e]);
        assert_eq!(codes(keyboard.symbol(b'a'.into(), true)), [0x2a, 0x1e, 0xaa]);
        assert_eq!(codes(keyboard.symbol(b'!'.into(), true)), [0x2a, 0x02, 0xaa]);
    }

    #[test]
    fn a_shortcut_has_no_case() {
        let mut keyboard = Keyboard::default();
        keyboard.symbol(0xffe3, true);
        assert_eq!(codes(keyboard.symbol(b'C'.into(), true)), [0x2e]);
    }

    #[test]
    fn what_was_held_goes_up_at_the_end_and_only_that() {
        let mut keyboard = Keyboard::default();
        assert_eq!(keyboard.symbol(b'x'.into(), false), []);
        keyboard.symbol(b'x'.into(), true);
        assert_eq!(keyboard.scanned(0x9d, true), [Stroke { key: extended(0x1d), pressed: true }]);
        assert_eq!(keyboard.scanned(0x1_0000, true), []);
        assert_eq!(keyboard.scanned(0x80, true), []);
        assert_eq!(keyboard.symbol(0x1_2345, true), []);
        let up = [extended(0x1d), plain(0x2d)].map(|key| Stroke { key, pressed: false });
        let mut left = keyboard.left();
        left.sort_by_key(|stroke| stroke.key.code);
        assert_eq!(left, up);
        assert_eq!(keyboard.left(), []);
    }
}

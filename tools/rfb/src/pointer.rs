//! Places of a pointer as motions of a mouse.

/// A motion.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mouse {
    /// To the right, in pixels.
    pub right: i32,
    /// Upwards.
    pub up: i32,
    /// Notches of the wheel, towards the user.
    pub wheel: i32,
    /// Buttons that are down: bit 0 left, 1 right, 2 middle.
    pub buttons: u8,
}

/// A client's pointer. Its first place tells no motion; a wheel is buttons that are pressed and let go.
#[derive(Clone, Debug, Default)]
pub struct Pointer {
    place: Option<(u16, u16)>,
    /// As the protocol has them.
    buttons: u8,
}

const LEFT: u8 = 1 << 0;
const MIDDLE: u8 = 1 << 1;
const RIGHT: u8 = 1 << 2;
const WHEEL_UP: u8 = 1 << 3;
const WHEEL_DOWN: u8 = 1 << 4;
/// The place of a pointer that tells motions: such an offset is none.
const NO_MOTION: i32 = 0x7fff;

impl Pointer {
    /// The pointer is at a place, with these buttons down, as the protocol counts them. `relative`: the place is a motion.
    pub fn moved(&mut self, x: u16, y: u16, buttons: u8, relative: bool) -> Mouse {
        let (to_x, to_y) = (i32::from(x), i32::from(y));
        let (right, down) = match self.place {
            _ if relative => (to_x - NO_MOTION, to_y - NO_MOTION),
            Some((from_x, from_y)) => (to_x - i32::from(from_x), to_y - i32::from(from_y)),
            None => (0, 0),
        };
        self.place = (!relative).then_some((x, y));
        let pressed = buttons & !self.buttons;
        self.buttons = buttons;
        let notch = |bit: u8| i32::from(pressed & bit != 0);
        let is_down = |bit: u8, to: u8| if buttons & bit != 0 { 1 << to } else { 0 };
        Mouse {
            right,
            up: -down,
            wheel: notch(WHEEL_DOWN) - notch(WHEEL_UP),
            buttons: is_down(LEFT, 0) | is_down(RIGHT, 1) | is_down(MIDDLE, 2),
        }
    }

    /// The client is gone: its buttons are up. `None`: none was down.
    pub fn left(&mut self) -> Option<Mouse> {
        let held = std::mem::take(&mut self.buttons) & (LEFT | MIDDLE | RIGHT);
        (held != 0).then(Mouse::default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_become_motions_and_buttons_change_their_order() {
        let mut pointer = Pointer::default();
        assert_eq!(pointer.moved(100, 100, 0, false), Mouse::default());
        let mouse = Mouse { right: 5, up: 10, wheel: 0, buttons: 0b010 };
        assert_eq!(pointer.moved(105, 90, 0b100, false), mouse);
        let mouse = Mouse { right: 0, up: 0, wheel: -1, buttons: 0b110 };
        assert_eq!(pointer.moved(105, 90, 0b1110, false), mouse);
        assert_eq!(pointer.moved(105, 90, 0b1110, false).wheel, 0);
        assert_eq!(pointer.left(), Some(Mouse::default()));
        assert_eq!(pointer.left(), None);
    }

    #[test]
    fn a_relative_pointer_tells_motions() {
        let mut pointer = Pointer::default();
        let mouse = Mouse { right: 1, up: 2, wheel: 1, buttons: 1 };
        assert_eq!(pointer.moved(0x8000, 0x7ffd, 0b10001, true), mouse);
    }
}

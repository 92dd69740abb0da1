//! What viewers' users did and the guest has not been given: it takes keys and clicks at its own pace.

use dejavm_machine::{Input, Machine};
use dejavm_rfb::{Event, Key, Mouse, Stroke};
use std::collections::{BTreeSet, VecDeque};

/// Keys that wait; beyond that presses are lost.
const KEYS_MAX: usize = 1024;
/// Motions that wait; beyond that they become one.
const MOTIONS_MAX: usize = 256;

/// Keys and motions that wait.
#[derive(Debug, Default)]
pub struct Desk {
    keys: VecDeque<Stroke>,
    /// Pressed, and not lost: what is let go then is not lost either.
    down: BTreeSet<Key>,
    motions: VecDeque<Mouse>,
    /// As the guest's mouse has them.
    buttons: u8,
    /// As the machine was when it was looked at, less what was given to it since.
    key_room: usize,
    buttons_told: bool,
}

impl Desk {
    /// What the machine has room for.
    pub fn look(&mut self, machine: &Machine) {
        self.key_room = machine.key_room();
        self.buttons_told = machine.buttons_told();
    }

    /// Somebody did something.
    pub fn arrived(&mut self, event: Event) {
        match event {
            Event::Key(stroke) if stroke.pressed => {
                if self.keys.len() < KEYS_MAX {
                    self.down.insert(stroke.key);
                    self.keys.push_back(stroke);
                }
            }
            Event::Key(stroke) => {
                if self.down.remove(&stroke.key) {
                    self.keys.push_back(stroke);
                }
            }
            Event::Mouse(mouse) => {
                let full = self.motions.len() >= MOTIONS_MAX;
                match self.motions.back_mut() {
                    Some(last) if full || last.buttons == mouse.buttons => {
                        last.right = last.right.saturating_add(mouse.right);
                        last.up = last.up.saturating_add(mouse.up);
                        last.wheel = last.wheel.saturating_add(mouse.wheel);
                        last.buttons = mouse.buttons;
                    }
                    _ => self.motions.push_back(mouse),
                }
            }
        }
    }

    fn motion_enters(&self) -> bool {
        self.motions.front().is_some_and(|mouse| self.buttons_told || mouse.buttons == self.buttons)
    }

    /// Whether something can enter the machine now.
    pub fn has_inputs(&self) -> bool {
        !self.keys.is_empty() && self.key_room > 0 || self.motion_enters()
    }

    /// What enters the machine now.
    pub fn inputs(&mut self) -> Vec<Input> {
        let mut inputs = Vec::new();
        while self.key_room > 0 {
            let Some(Stroke { key, pressed }) = self.keys.pop_front() else { break };
            self.key_room -= 1;
            inputs.push(Input::Key { code: key.code, extended: key.extended, pressed });
        }
        while self.motion_enters() {
            let Some(Mouse { right, up, wheel, buttons }) = self.motions.pop_front() else { break };
            self.buttons_told &= buttons == self.buttons;
            self.buttons = buttons;
            inputs.push(Input::Mouse { right, up, wheel, buttons });
        }
        inputs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stroke(code: u8, pressed: bool) -> Event {
        Event::Key(Stroke { key: Key { code, extended: false }, pressed })
    }

    fn click(buttons: u8) -> Event {
        Event::Mouse(Mouse { right: 1, buttons, ..Mouse::default() })
    }

    #[test]
    fn keys_wait_for_room_and_none_stays_down() {
        let mut desk = Desk::default();
        for _ in 0..KEYS_MAX {
            desk.arrived(stroke(30, true));
        }
        // Lost, so that it does not go up either.
        desk.arrived(stroke(31, true));
        desk.arrived(stroke(31, false));
        desk.arrived(stroke(30, false));
        assert!(!desk.has_inputs() && desk.inputs().is_empty());
        desk.key_room = 5;
        assert!(desk.has_inputs());
        assert_eq!(desk.inputs().len(), 5);
        assert!(!desk.has_inputs());
        desk.key_room = usize::MAX;
        let rest = desk.inputs();
        assert_eq!(rest.len(), KEYS_MAX - 5 + 1);
        assert_eq!(rest.last(), Some(&Input::Key { code: 30, extended: false, pressed: false }));
    }

    #[test]
    fn motions_become_one_and_clicks_do_not() {
        let mut desk = Desk::default();
        [0, 0, 1, 1, 0].into_iter().for_each(|buttons| desk.arrived(click(buttons)));
        // Motions enter any time, a change of the buttons only after the guest was told of the one before.
        assert_eq!(desk.inputs(), [Input::Mouse { right: 2, up: 0, wheel: 0, buttons: 0 }]);
        assert!(!desk.has_inputs());
        for (buttons, right) in [(1, 2), (0, 1)] {
            desk.buttons_told = true;
            assert_eq!(desk.inputs(), [Input::Mouse { right, up: 0, wheel: 0, buttons }]);
        }
        (0..2000u32).for_each(|n| desk.arrived(click((n & 1) as u8)));
        assert_eq!(desk.motions.len(), MOTIONS_MAX);
        assert_eq!(desk.motions.iter().map(|mouse| mouse.right).sum::<i32>(), 2000);
    }
}

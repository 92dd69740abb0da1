//! The window at 0xa0000: how the sequencer and the graphics controller lead to the planes.

use super::Vga;

/// Bits of a colour's planes, each in all bits of its byte.
fn planes(bits: u8) -> u32 {
    (0..4).filter(|plane| bits & 1 << plane != 0).fold(0, |mask, plane| mask | 0xff << (8 * plane))
}

fn in_all_planes(value: u8) -> u32 {
    u32::from(value) * 0x0101_0101
}

impl Vga {
    /// The address in the planes, or in all of memory if they are chained; `None` where nothing answers.
    fn window_address(&self, offset: u32) -> Option<u32> {
        let map = self.registers.graphics[6] >> 2 & 3;
        let bank = u32::from(self.registers.bank()) << 16;
        match map {
            0 => Some(offset),
            1 => (offset < 0x1_0000).then_some(offset + bank),
            2 => offset.checked_sub(0x1_0000).filter(|offset| *offset < 0x8000),
            _ => offset.checked_sub(0x1_8000),
        }
    }

    /// Where even and odd addresses are different planes: the plane, and the place in memory.
    fn odd_even(&self, address: u32) -> (u8, usize) {
        let plane = self.registers.graphics[4] & 2 | (address & 1) as u8;
        (plane, ((address & !1) << 1) as usize | usize::from(plane))
    }

    fn latch_of(&self, address: u32) -> u32 {
        u32::from_le_bytes(std::array::from_fn(|plane| self.fetch(4 * address as usize + plane)))
    }

    pub(super) fn read_window(&mut self, offset: u32) -> u8 {
        let Some(address) = self.window_address(offset) else { return 0xff };
        if self.registers.is_chained() {
            return self.fetch(address as usize);
        }
        if self.registers.is_odd_even() {
            let (_, at) = self.odd_even(address);
            return self.fetch(at);
        }
        let latch = self.latch_of(address);
        self.registers.latch = latch;
        let graphics = &self.registers.graphics;
        if graphics[5] & 8 == 0 {
            return latch.to_le_bytes()[usize::from(graphics[4] & 3)];
        }
        let differs = (latch ^ planes(graphics[2])) & planes(graphics[7]);
        !differs.to_le_bytes().iter().fold(0, |any, plane| any | plane)
    }

    pub(super) fn write_window(&mut self, offset: u32, value: u8) {
        let Some(address) = self.window_address(offset) else { return };
        let enabled = self.registers.sequencer[2] & 0xf;
        if self.registers.is_chained() {
            if enabled & 1 << (address & 3) != 0 {
                self.put(address as usize, value);
            }
            return;
        }
        if self.registers.is_odd_even() {
            let (plane, at) = self.odd_even(address);
            if enabled & 1 << plane != 0 {
                self.put(at, value);
            }
            return;
        }
        let new = self.through_graphics(value);
        for (plane, byte) in new.to_le_bytes().into_iter().enumerate() {
            if enabled & 1 << plane != 0 {
                self.put(4 * address as usize + plane, byte);
            }
        }
    }

    /// What the graphics controller makes of a byte, for all planes.
    fn through_graphics(&self, value: u8) -> u32 {
        let graphics = &self.registers.graphics;
        let latch = self.registers.latch;
        let rotated = value.rotate_right(u32::from(graphics[3] & 7));
        let (new, bit_mask) = match graphics[5] & 3 {
            0 => {
                let set = planes(graphics[1]);
                (in_all_planes(rotated) & !set | planes(graphics[0]) & set, graphics[8])
            }
            1 => return latch,
            2 => (planes(value), graphics[8]),
            _ => (planes(graphics[0]), graphics[8] & rotated),
        };
        let new = match graphics[3] >> 3 & 3 {
            0 => new,
            1 => new & latch,
            2 => new | latch,
            _ => new ^ latch,
        };
        let mask = in_all_planes(bit_mask);
        new & mask | latch & !mask
    }
}

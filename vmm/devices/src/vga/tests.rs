//! The card driven as guests drive it.

use super::*;

const T: GuestNs = GuestNs(0);

fn out(card: &mut Vga, port: u16, value: u8) {
    card.write(LEGACY_PORTS, u64::from(port) - PORTS_FIRST, 1, value.into(), T);
}

fn input(card: &mut Vga, port: u16) -> u8 {
    card.read(LEGACY_PORTS, u64::from(port) - PORTS_FIRST, 1, T) as u8
}

fn extension(card: &mut Vga, register: u16, value: u16) {
    card.write(EXTENSION_PORTS, 0, 2, register.into(), T);
    card.write(EXTENSION_PORTS, 1, 2, value.into(), T);
}

fn pixel(picture: &Picture, x: u32, y: u32) -> [u8; 3] {
    let at = 3 * (y * picture.width + x) as usize;
    picture.rgb[at..at + 3].try_into().unwrap()
}

/// A font in which line n of character c is c where n is 3, else nothing.
fn font() -> Vec<u8> {
    let mut font = vec![0; 4096];
    (0..256).for_each(|character| font[16 * character + 3] = character as u8);
    font
}

#[test]
fn text_is_drawn_with_the_font_in_plane_2() {
    let mut card = Vga::new();
    card.set_text_mode(&font());
    // 'A' (0100 0001), yellow on blue, in row 2, column 5.
    card.write(LEGACY_MEMORY, 0x1_8000 + 2 * (80 * 2 + 5), 2, 0x1e41, T);
    let picture = card.picture();
    assert_eq!((picture.width, picture.height), (720, 400));
    let (x, y) = (9 * 5, 16 * 2);
    let (yellow, blue) = ([0xff, 0xff, 0x55], [0, 0, 0xaa]);
    for dot in 0..9 {
        let lit = dot == 1 || dot == 7;
        let expected = if lit { yellow } else { blue };
        assert_eq!(pixel(&picture, x + dot, y + 3), expected, "dot {dot}");
        assert_eq!(pixel(&picture, x + dot, y + 4), blue, "dot {dot}");
    }
    let text = card.text().unwrap();
    assert_eq!((text.len(), text[2].as_str()), (25, "     A"));
    // The cursor is at the start, on lines 13 and 14.
    assert_eq!([12, 13, 14, 15].map(|y| pixel(&picture, 0, y)[0]), [0, 0xaa, 0xaa, 0]);
    // The screen goes dark.
    out(&mut card, 0x3c0, 0);
    assert!(card.picture().rgb.iter().all(|part| *part == 0));
}

#[test]
fn four_planes_are_written_as_the_graphics_controller_says() {
    let mut card = Vga::new();
    card.set_text_mode(&[]);
    // 640x480x16, as far as memory and picture are concerned.
    for (index, port, registers) in [
        (0u8, 0x3c4, &[3, 1, 0xf, 0, 6][..]),
        (0, 0x3ce, &[0, 0, 0, 0, 0, 0, 5, 0xf, 0xff]),
        (0x11, 0x3d4, &[0x0c]),
    ] {
        for (index, value) in (index..).zip(registers) {
            out(&mut card, port, index);
            out(&mut card, port + 1, *value);
        }
    }
    for (index, value) in [(7, 0x3e), (9, 0x40), (0x12, 0xdf), (0x13, 0x28), (0x17, 0xe3)] {
        out(&mut card, 0x3d4, index);
        out(&mut card, 0x3d5, value);
    }
    card.write(LEGACY_MEMORY, 0, 8, 0, T);
    // Write mode 2, four of eight pixels: colour 4 where the mask has ones.
    for (index, value) in [(5, 2), (8, 0b0101_1010)] {
        out(&mut card, 0x3ce, index);
        out(&mut card, 0x3cf, value);
    }
    assert_eq!(card.read(LEGACY_MEMORY, 0, 1, T), 0, "loads the latch");
    card.write(LEGACY_MEMORY, 0, 1, 4, T);
    let picture = card.picture();
    assert_eq!((picture.width, picture.height), (640, 480));
    let red = |x| pixel(&picture, x, 0) == [0xaa, 0, 0];
    assert_eq!(
        [0, 1, 2, 3, 4, 5, 6, 7].map(red),
        [false, true, false, true, true, false, true, false]
    );
    // Read mode 1 compares: which pixels have colour 4.
    for (index, value) in [(2, 4), (5, 8), (7, 0xf)] {
        out(&mut card, 0x3ce, index);
        out(&mut card, 0x3cf, value);
    }
    assert_eq!(card.read(LEGACY_MEMORY, 0, 1, T), 0b0101_1010);
    // Write mode 1 copies the latch.
    out(&mut card, 0x3ce, 5);
    out(&mut card, 0x3cf, 1);
    card.write(LEGACY_MEMORY, 1, 1, 0xee, T);
    let picture = card.picture();
    assert_eq!(pixel(&picture, 9, 0), [0xaa, 0, 0]);
    assert_eq!(pixel(&picture, 8, 0), [0, 0, 0]);
}

#[test]
fn linear_modes_are_set_by_the_extension() {
    let mut card = Vga::new();
    assert_eq!(card.read(EXTENSION_PORTS, 1, 2, T), 0xb0c5);
    card.write(LINEAR, 0, 4, 0xffff_ffff, T);
    for (register, value) in [(1, 800), (2, 600), (3, 32), (4, 0x41)] {
        extension(&mut card, register, value);
    }
    assert_eq!(card.read(LINEAR, 0, 4, T), 0, "memory is cleared");
    card.write(LINEAR, 4 * (800 * 10 + 7), 4, 0x0012_3456, T);
    let picture = card.picture();
    assert_eq!((picture.width, picture.height, card.text()), (800, 600, None));
    assert_eq!(pixel(&picture, 7, 10), [0x12, 0x34, 0x56]);
    // Double buffering: the second page, by registers in memory.
    card.write(MAPPED, 0x512, 2, 600, T);
    assert_eq!(pixel(&card.picture(), 7, 10), [0, 0, 0]);
    card.write(LINEAR, 4 * (800 * 610 + 7), 4, 0x00ff_0000, T);
    assert_eq!(pixel(&card.picture(), 7, 10), [0xff, 0, 0]);
    // 5-6-5, through the banked window.
    for (register, value) in [(4, 0), (3, 16), (4, 0x41), (5, 1)] {
        extension(&mut card, register, value);
    }
    card.write(LEGACY_MEMORY, 0, 2, 0xf801, T);
    let (x, y) = (0x1_0000 / 2 % 800, 0x1_0000 / 2 / 800);
    assert_eq!(pixel(&card.picture(), x, y), [0xff, 0, 8]);
}

#[test]
fn the_palette_is_read_and_written_in_threes() {
    let mut card = Vga::new();
    out(&mut card, 0x3c8, 255);
    (1..=6).for_each(|part| out(&mut card, 0x3c9, part));
    out(&mut card, 0x3c7, 255);
    assert_eq!([(); 6].map(|()| input(&mut card, 0x3c9)), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn the_retrace_comes_70_times_a_second() {
    let mut card = Vga::new();
    out(&mut card, 0x3c2, 1);
    let mut edges = 0;
    let mut before = 0;
    for us in 0..1_000_000 {
        let port = 0x3da - PORTS_FIRST;
        let now = card.read(LEGACY_PORTS, port, 1, GuestNs(us * 1000)) & 8;
        edges += u32::from(now > before);
        before = now;
    }
    assert_eq!(edges, 70);
}

#[test]
fn pages_that_were_written_are_handed_over_once_and_can_be_brought_back() {
    let mut card = Vga::new();
    card.write(LINEAR, 4094, 4, 0x0403_0201, T);
    let mut pages = Vec::new();
    card.take_written(|number, page| pages.push((number, page.to_vec())));
    assert_eq!(pages.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1]);
    card.take_written(|_, _| panic!("there are no more"));
    let mut other = Vga::new();
    other.set_memory(|number, page| match pages.get(number as usize) {
        Some((_, contents)) => page.copy_from_slice(contents),
        None => page.fill(0),
    });
    assert_eq!(other.read(LINEAR, 4094, 4, T), 0x0403_0201);
    other.take_written(|_, _| panic!("nothing was written"));
}

/// Whatever the registers are, there is a picture of a size that a host can have, and the state goes back.
#[test]
fn no_guest_breaks_the_display() {
    let mut seed = 1u64;
    let mut random = move || {
        seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        seed >> 33
    };
    let mut card = Vga::new();
    for step in 0..60_000 {
        let (region, offset) = match random() % 5 {
            0 => (LEGACY_MEMORY, random() % LEGACY_BYTES),
            1 => (EXTENSION_PORTS, random() % 4),
            2 => (MAPPED, 0x400 + random() % 0x118),
            _ => (LEGACY_PORTS, random() % PORTS_COUNT),
        };
        let size = [1, 2, 4, 8][random() as usize % 4];
        let value = if random() % 2 == 0 { random() } else { random() % 16 };
        card.write(region, offset, size, value, GuestNs(step));
        card.read(region, offset, size, GuestNs(step));
        if step % 1000 == 0 {
            let picture = card.picture();
            assert_eq!(picture.rgb.len(), 3 * picture.width as usize * picture.height as usize);
            assert!(picture.rgb.len() <= 3 * 4096 * 2048, "step {step}");
            card.text();
            let state = card.save();
            card.restore(state.clone()).unwrap();
            assert_eq!(card.save(), state, "step {step}");
        }
    }
}

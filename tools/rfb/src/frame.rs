//! A picture, and in which places two differ.

/// A picture: rows from the top, pixels from the left, red, green and blue of 8 bits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    width: u16,
    height: u16,
    rgb: Vec<u8>,
}

/// Pixels of a screen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rect {
    /// The first column.
    pub x: u16,
    /// The first row.
    pub y: u16,
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// In pieces of such a size places are found to differ.
const TILE_WIDTH: u16 = 64;
const TILE_HEIGHT: u16 = 16;

impl Frame {
    /// A picture; `None` if its bytes are not `3 * width * height`, or a side is 0.
    pub fn new(width: u16, height: u16, rgb: Vec<u8>) -> Option<Frame> {
        let pixels = usize::from(width) * usize::from(height);
        (pixels > 0 && rgb.len() == 3 * pixels).then_some(Frame { width, height, rgb })
    }

    /// A black one. A side of 0 is taken for 1.
    pub fn black(width: u16, height: u16) -> Frame {
        let (width, height) = (width.max(1), height.max(1));
        let pixels = usize::from(width) * usize::from(height);
        Frame { width, height, rgb: vec![0; 3 * pixels] }
    }

    /// Pixels of a row.
    pub fn width(&self) -> u16 {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> u16 {
        self.height
    }

    /// All of it.
    pub fn whole(&self) -> Rect {
        Rect { x: 0, y: 0, width: self.width, height: self.height }
    }

    /// The pixels of a part of a row, three bytes each; what lies beyond the picture is left out.
    pub fn row(&self, y: u16, x: u16, width: u16) -> &[u8] {
        if y >= self.height || x >= self.width {
            return &[];
        }
        let width = width.min(self.width - x);
        let start = 3 * (usize::from(y) * usize::from(self.width) + usize::from(x));
        &self.rgb[start..start + 3 * usize::from(width)]
    }

    /// The pixels of a rectangle, row by row.
    pub fn pixels(&self, rect: Rect) -> impl Iterator<Item = [u8; 3]> {
        (rect.y..rect.y.saturating_add(rect.height))
            .flat_map(move |y| self.row(y, rect.x, rect.width).chunks_exact(3))
            .map(|pixel| [pixel[0], pixel[1], pixel[2]])
    }

    /// Takes a rectangle's pixels from another picture, where both have them.
    pub(crate) fn copy(&mut self, rect: Rect, from: &Frame) {
        for y in rect.y..rect.y.saturating_add(rect.height) {
            let source = from.row(y, rect.x, rect.width);
            if y >= self.height || rect.x >= self.width {
                continue;
            }
            let start = 3 * (usize::from(y) * usize::from(self.width) + usize::from(rect.x));
            let room = 3 * usize::from(self.width - rect.x);
            let length = source.len().min(room);
            self.rgb[start..start + length].copy_from_slice(&source[..length]);
        }
    }

    /// The same picture in other dimensions: cut off, or with black beside and below.
    pub(crate) fn fitted(&self, width: u16, height: u16) -> Frame {
        let mut fitted = Frame::black(width, height);
        fitted.copy(self.whole(), self);
        fitted
    }

    /// Where two pictures of one size differ within `part`: rectangles that do not overlap.
    pub(crate) fn differences(&self, other: &Frame, part: Rect) -> Vec<Rect> {
        let mut found: Vec<Rect> = Vec::new();
        for y in (part.y..part.bottom()).step_by(TILE_HEIGHT.into()) {
            let height = TILE_HEIGHT.min(part.bottom() - y);
            let mut run: Option<Rect> = None;
            for x in (part.x..part.right()).step_by(TILE_WIDTH.into()) {
                let width = TILE_WIDTH.min(part.right() - x);
                let tile = Rect { x, y, width, height };
                let differs =
                    (y..y + height).any(|y| self.row(y, x, width) != other.row(y, x, width));
                run = match (run, differs) {
                    (Some(run), true) => Some(Rect { width: run.width + width, ..run }),
                    (None, true) => Some(tile),
                    (Some(run), false) => {
                        join(&mut found, run);
                        None
                    }
                    (None, false) => None,
                };
            }
            if let Some(run) = run {
                join(&mut found, run);
            }
        }
        found
    }
}

impl Rect {
    fn right(self) -> u16 {
        self.x.saturating_add(self.width)
    }

    fn bottom(self) -> u16 {
        self.y.saturating_add(self.height)
    }

    /// What two have in common; nothing may be left of it.
    pub(crate) fn common(self, other: Rect) -> Rect {
        let (x, y) = (self.x.max(other.x), self.y.max(other.y));
        let width = self.right().min(other.right()).saturating_sub(x);
        let height = self.bottom().min(other.bottom()).saturating_sub(y);
        Rect { x, y, width, height }
    }

    /// The smallest that has all of both.
    pub(crate) fn hull(self, other: Rect) -> Rect {
        if self.is_empty() {
            return other;
        }
        if other.is_empty() {
            return self;
        }
        let (x, y) = (self.x.min(other.x), self.y.min(other.y));
        let width = self.right().max(other.right()) - x;
        let height = self.bottom().max(other.bottom()) - y;
        Rect { x, y, width, height }
    }

    /// What is left of it without a part of it.
    pub(crate) fn without(self, part: Rect) -> impl Iterator<Item = Rect> {
        let above = Rect { height: part.y - self.y, ..self };
        let below = Rect { y: part.bottom(), height: self.bottom() - part.bottom(), ..self };
        let beside = Rect { y: part.y, height: part.height, ..self };
        let left = Rect { width: part.x - self.x, ..beside };
        let right = Rect { x: part.right(), width: self.right() - part.right(), ..beside };
        [above, left, right, below].into_iter().filter(|rest| !rest.is_empty())
    }

    /// Whether it has no pixels.
    pub(crate) fn is_empty(self) -> bool {
        self.width == 0 || self.height == 0
    }
}

/// Adds a rectangle, to the one above it if both have the same columns.
fn join(found: &mut Vec<Rect>, rect: Rect) {
    let above = found
        .iter_mut()
        .rev()
        .find(|above| (above.x, above.width, above.bottom()) == (rect.x, rect.width, rect.y));
    match above {
        Some(above) => above.height += rect.height,
        None => found.push(rect),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_found_where_they_are() {
        let old = Frame::black(200, 50);
        assert_eq!(old.differences(&old.clone(), old.whole()), []);
        let mut new = old.clone();
        for (x, y) in [(70, 0), (70, 17), (199, 49)] {
            new.rgb[3 * (y * 200 + x)] = 1;
        }
        let expected = [
            Rect { x: 64, y: 0, width: 64, height: 32 },
            Rect { x: 192, y: 48, width: 8, height: 2 },
        ];
        assert_eq!(old.differences(&new, new.whole()), expected);
        let part = Rect { x: 71, y: 0, width: 129, height: 49 };
        assert_eq!(old.differences(&new, part), []);
        let mut copy = old;
        for rect in expected {
            copy.copy(rect, &new);
        }
        assert_eq!(copy, new);
    }

    #[test]
    fn a_part_is_taken_out() {
        let whole = Rect { x: 1, y: 1, width: 10, height: 10 };
        let part = Rect { x: 3, y: 4, width: 2, height: 3 };
        let rest: Vec<Rect> = whole.without(part).collect();
        let expected = [
            Rect { x: 1, y: 1, width: 10, height: 3 },
            Rect { x: 1, y: 4, width: 2, height: 3 },
            Rect { x: 5, y: 4, width: 6, height: 3 },
            Rect { x: 1, y: 7, width: 10, height: 4 },
        ];
        assert_eq!(rest, expected);
        assert_eq!(whole.without(whole).count(), 0);
    }

    #[test]
    fn a_picture_is_fitted_by_cutting_and_by_black() {
        let frame = Frame::new(2, 2, (1..13).collect()).unwrap();
        assert_eq!(frame.fitted(1, 3).rgb, [1, 2, 3, 7, 8, 9, 0, 0, 0]);
        assert_eq!(frame.fitted(3, 1).rgb, [1, 2, 3, 4, 5, 6, 0, 0, 0]);
        assert!(Frame::new(2, 2, vec![0; 11]).is_none() && Frame::new(0, 2, vec![]).is_none());
    }
}

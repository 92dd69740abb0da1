//! Sets of pages.

use dejavm_units::Pfn;

/// Page numbers, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PageSet(Vec<Pfn>);

impl PageSet {
    /// The pages of an ascending list.
    pub(crate) fn from_sorted(pages: Vec<Pfn>) -> PageSet {
        assert!(pages.is_sorted_by(|a, b| a < b), "pages come in ascending order, each once");
        PageSet(pages)
    }

    /// The pages, ascending.
    pub(crate) fn pages(&self) -> &[Pfn] {
        &self.0
    }

    /// Adds the pages of an ascending list.
    pub(crate) fn add(&mut self, more: &[Pfn]) {
        if more.is_empty() {
            return;
        }
        if self.0.last() < more.first() {
            self.0.extend_from_slice(more);
            return;
        }
        let mut merged = Vec::with_capacity(self.0.len() + more.len());
        let (mut a, mut b) = (self.0.iter().peekable(), more.iter().peekable());
        while let (Some(&&left), Some(&&right)) = (a.peek(), b.peek()) {
            merged.push(left.min(right));
            if left <= right {
                a.next();
            }
            if right <= left {
                b.next();
            }
        }
        merged.extend(a);
        merged.extend(b);
        self.0 = merged;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_union_has_each_page_once() {
        let list = |pages: &[u64]| pages.iter().copied().map(Pfn).collect::<Vec<_>>();
        let mut set = PageSet::default();
        set.add(&list(&[3, 7]));
        set.add(&list(&[9]));
        set.add(&list(&[1, 3, 8, 9, 12]));
        set.add(&[]);
        assert_eq!(set.pages(), list(&[1, 3, 7, 8, 9, 12]));
    }
}

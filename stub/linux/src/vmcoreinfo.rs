//! VMCOREINFO (`Documentation/admin-guide/kdump/vmcoreinfo.rst`): what the kernel writes down about itself for crash dumps,
//! as lines of text in a page of its own. Optional: not every kernel has it.

use crate::view::GuestView;
use dejavm_units::{Gpa, Gva};
use std::collections::BTreeMap;

/// Its first line.
const START: &[u8] = b"OSRELEASE=";
/// The buffer is one page.
const BYTES: usize = 4096;
/// Pages whose start is looked at: 64 GiB of RAM.
const PAGES_MAX: u64 = 16 << 20;

/// The lines, by their key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vmcoreinfo {
    lines: BTreeMap<String, String>,
}

impl Vmcoreinfo {
    /// Looks at the start of each page of RAM; the first for which `agrees` holds.
    pub(crate) fn find(
        view: &dyn GuestView,
        agrees: &dyn Fn(&Vmcoreinfo) -> bool,
    ) -> Option<(Gpa, Vmcoreinfo)> {
        let mut left = PAGES_MAX;
        for range in view.ram() {
            let mut at = range.start.checked_next_multiple_of(4096)?;
            while at < range.end && left > 0 {
                left -= 1;
                let mut start = [0; START.len()];
                if view.read_physical(Gpa(at), &mut start)
                    && start == START
                    && let Some(found) = Vmcoreinfo::at(view, Gpa(at))
                    && agrees(&found)
                {
                    return Some((Gpa(at), found));
                }
                at += 4096;
            }
        }
        None
    }

    /// Parses the page at `at`.
    pub(crate) fn at(view: &dyn GuestView, at: Gpa) -> Option<Vmcoreinfo> {
        let mut page = [0; BYTES];
        if !view.read_physical(at, &mut page) {
            return None;
        }
        Vmcoreinfo::parse(&page)
    }

    fn parse(page: &[u8]) -> Option<Vmcoreinfo> {
        let end = page.iter().position(|&byte| byte == 0).unwrap_or(page.len());
        let text = std::str::from_utf8(&page[..end]).ok()?;
        let lines = text.lines().filter_map(|line| line.split_once('='));
        Some(Vmcoreinfo {
            lines: lines.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        })
    }

    /// A value, such as that of `OSRELEASE`.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.lines.get(key).map(String::as_str)
    }

    /// The address of `SYMBOL(name)`.
    pub fn symbol(&self, name: &str) -> Option<Gva> {
        u64::from_str_radix(self.value(&format!("SYMBOL({name})"))?, 16).ok().map(Gva)
    }

    /// The build id, as bytes.
    pub fn build_id(&self) -> Option<Vec<u8>> {
        let text = self.value("BUILD-ID")?;
        let digits: Option<Vec<u8>> =
            text.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect();
        let digits = digits.filter(|digits| !digits.is_empty() && digits.len() % 2 == 0)?;
        Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_symbols_and_build_id() {
        let page = b"OSRELEASE=6.1.0-50-cloud-amd64\nBUILD-ID=00ff7a\nSYMBOL(_stext)=ffffffff81000000\nKERNELOFFSET=0\nodd\n\0\0";
        let info = Vmcoreinfo::parse(page).unwrap();
        assert_eq!(info.value("OSRELEASE"), Some("6.1.0-50-cloud-amd64"));
        assert_eq!(info.build_id(), Some(vec![0x00, 0xff, 0x7a]));
        assert_eq!(info.symbol("_stext"), Some(Gva(0xffff_ffff_8100_0000)));
        assert_eq!(info.symbol("_etext"), None);
        assert_eq!(info.value("odd"), None);
    }
}

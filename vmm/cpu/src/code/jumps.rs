//! Where jumps by linear address lead: the cache that indirect branches, returns and jumps out of a
//! page probe before they bother the run loop.

use super::op::OpRef;

/// Consecutive entries shared by the targets in one page, so that a page can be forgotten quickly.
const WINDOW: usize = 64;
const WINDOWS: usize = 512;

/// Linear address and context of a jump's target, in one word: canonical addresses have only 48
/// telling bits, so the context goes where their sign is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag(u64);

impl Tag {
    const EMPTY: Tag = Tag(0x7fff << 48);

    #[inline(always)]
    pub(crate) fn new(linear: u64, context: u64) -> Tag {
        Tag(linear ^ context)
    }
}

/// A context, shifted into place: the place is the number of a supervisor TLB or of a user address
/// space (one numbering for both), the mode what decoding depends on.
pub(crate) fn context(place: usize, mode: u8) -> u64 {
    ((place as u64) << 8 | u64::from(mode)) << 48
}

#[derive(Clone, Copy)]
struct Entry {
    tag: Tag,
    /// The page of the target; redundant with `tag`, kept apart so that forgetting needs no context.
    page: u64,
    header: Option<OpRef>,
}

const EMPTY: Entry = Entry { tag: Tag::EMPTY, page: u64::MAX, header: None };

/// The jump cache.
pub(crate) struct JumpCache {
    entries: Box<[Entry; WINDOW * WINDOWS]>,
    /// By window, a bit for each page (by [`sign_of`]) that may have targets there: most pages whose
    /// translation is dropped hold data.
    signs: Box<[u64; WINDOWS]>,
    /// Supervisor code in the lower half of the address space was entered.
    supervisor_lower_half: bool,
    /// Counts how often something was forgotten because addresses may lead elsewhere now.
    generation: u64,
}

#[inline(always)]
fn window(linear: u64) -> usize {
    let page = linear >> 12;
    (page ^ page >> 9) as usize % WINDOWS * WINDOW
}

/// The bit of [`JumpCache::signs`] of the page of a linear address.
#[inline(always)]
fn sign_of(linear: u64) -> u64 {
    1 << ((linear >> 12).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58)
}

#[inline(always)]
fn index(linear: u64) -> usize {
    (window(linear) + (linear ^ linear >> 6) as usize % WINDOW) & (WINDOW * WINDOWS - 1)
}

impl JumpCache {
    pub(crate) fn new() -> JumpCache {
        let entries = vec![EMPTY; WINDOW * WINDOWS].into_boxed_slice();
        let entries = entries.try_into().ok().expect("the length is the array's");
        let signs = Box::new([0; WINDOWS]);
        JumpCache { entries, signs, supervisor_lower_half: false, generation: 0 }
    }

    /// Changes whenever what else remembers where linear addresses lead must be looked at again.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// The block at a linear address in a context, if known.
    #[inline(always)]
    pub(crate) fn get(&self, linear: u64, context: u64) -> Option<OpRef> {
        let entry = &self.entries[index(linear)];
        if entry.tag == Tag::new(linear, context) { entry.header } else { None }
    }

    pub(crate) fn set(&mut self, linear: u64, context: u64, header: OpRef, supervisor: bool) {
        self.supervisor_lower_half |= supervisor && linear >> 47 == 0;
        self.signs[window(linear) / WINDOW] |= sign_of(linear);
        self.entries[index(linear)] =
            Entry { tag: Tag::new(linear, context), page: linear >> 12, header: Some(header) };
    }

    /// Forgets one target, if it is this block.
    pub(crate) fn forget(&mut self, linear: u64, context: u64, header: OpRef) {
        let entry = &mut self.entries[index(linear)];
        if entry.tag == Tag::new(linear, context) && entry.header == Some(header) {
            *entry = EMPTY;
        }
    }

    /// Forgets the targets in one linear page, in every context.
    pub(crate) fn forget_page(&mut self, linear: u64) {
        self.generation += 1;
        let start = window(linear);
        if self.signs[start / WINDOW] & sign_of(linear) == 0 {
            return;
        }
        for entry in &mut self.entries[start..start + WINDOW] {
            if entry.page == linear >> 12 {
                *entry = EMPTY;
            }
        }
    }

    /// Forgets the targets of one place.
    pub(crate) fn forget_place(&mut self, place: usize) {
        self.generation += 1;
        for entry in self.entries.iter_mut() {
            let sign = if entry.page >> 35 & 1 != 0 { 0xffff } else { 0 };
            if (entry.tag.0 >> 48 ^ sign) >> 8 == place as u64 {
                *entry = EMPTY;
            }
        }
    }

    /// Forgets what the supervisor jumped to in the lower half of the address space, which another
    /// space maps differently. Kernels do not do that; their loaders do.
    pub(crate) fn forget_supervisor_lower_half(&mut self) {
        if self.supervisor_lower_half {
            self.supervisor_lower_half = false;
            self.forget_all();
        }
    }

    /// Forgets everything.
    pub(crate) fn forget_all(&mut self) {
        self.generation += 1;
        self.entries.fill(EMPTY);
        self.signs.fill(0);
    }
}

//! Kernels that were found before: finding one again takes a look, where finding it first takes a search of its image.

use crate::kernel::{Confidence, Kernel, Reason};
use crate::view::GuestView;
use std::collections::VecDeque;
use std::sync::Arc;

/// More than anybody goes back and forth between.
const KERNELS_MAX: usize = 8;

/// What is known of a build, wherever it runs next.
#[derive(Debug)]
struct Known {
    kernel: Kernel,
    /// Made when it is first wanted.
    symbol_file: Option<Arc<Vec<u8>>>,
}

/// Kernels found so far. One is the same again if its image lies where it lay and its banner, which names release, compiler
/// and time of the build, stands where it stood.
#[derive(Debug, Default)]
pub struct Kernels {
    /// The last one found first.
    known: VecDeque<Known>,
}

impl Kernels {
    /// The kernel of a machine at rest: what [`Kernel::find`] finds, sooner if it was found before. What is to be checked
    /// against the machine is checked each time.
    ///
    /// # Errors
    /// As [`Kernel::find`].
    pub fn find(&mut self, view: &dyn GuestView) -> Result<Kernel, Reason> {
        let found = Kernel::find_image(view)?;
        if let Some(known) = self.known.iter().find(|known| known.kernel.is_again(view, &found)) {
            let mut kernel = Kernel { anchors: found.anchors, ..known.kernel.clone() };
            kernel.check(view);
            return Ok(kernel);
        }
        let kernel = found.learn(view);
        // What could not be verified may be told better another time.
        if kernel.confidence == Confidence::Verified && kernel.banner_at.is_some() {
            self.known.truncate(KERNELS_MAX - 1);
            self.known.push_front(Known { kernel: kernel.clone(), symbol_file: None });
        }
        Ok(kernel)
    }

    /// [`Kernel::symbol_file`], which is made once.
    pub fn symbol_file(&mut self, kernel: &Kernel) -> Option<Arc<Vec<u8>>> {
        let symbols = kernel.symbols.as_ref()?;
        let same = |known: &&mut Known| {
            let others = known.kernel.symbols.as_ref();
            others.is_some_and(|others| Arc::ptr_eq(others, symbols))
        };
        let Some(known) = self.known.iter_mut().find(same) else {
            return kernel.symbol_file().map(Arc::new);
        };
        if known.symbol_file.is_none() {
            known.symbol_file = kernel.symbol_file().map(Arc::new);
        }
        known.symbol_file.clone()
    }
}

impl Kernel {
    /// Whether `found`, of which only the image is known, is this kernel.
    fn is_again(&self, view: &dyn GuestView, found: &Kernel) -> bool {
        let (Some(at), Some(banner)) = (self.banner_at, &self.facts.banner) else { return false };
        let mut there = vec![0; banner.len()];
        self.image == found.image
            && self.paging == found.paging
            && view.read_physical(at, &mut there)
            && there == banner.as_bytes()
    }
}

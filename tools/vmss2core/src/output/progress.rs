//! Who is told how far a conversion is.

use std::path::Path;

/// Told by several threads.
pub trait Progress: Sync {
    /// A file is begun; so many bytes of guest memory will be gone through for it.
    fn begin(&self, file: &Path, bytes: u64);

    /// So many more are done.
    fn advance(&self, bytes: u64);

    /// The file stands under its name.
    fn end(&self, file: &Path);

    /// Something that the user should know of the result.
    fn remark(&self, sentence: &str);

    /// Whether to stop, and leave nothing behind.
    fn is_interrupted(&self) -> bool {
        false
    }
}

/// Nobody.
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _file: &Path, _bytes: u64) {}

    fn advance(&self, _bytes: u64) {}

    fn end(&self, _file: &Path) {}

    fn remark(&self, _sentence: &str) {}
}

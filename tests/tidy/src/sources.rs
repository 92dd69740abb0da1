//! Finds the files that people wrote.

use std::fs;
use std::path::{Path, PathBuf};

/// A text file of the project.
#[derive(Clone, Debug)]
pub struct Source {
    /// From the project's root, with `/`.
    pub path: String,
    /// Contents.
    pub text: String,
}

impl Source {
    /// The folder at the project's root that the file is in; empty for files there.
    pub fn top(&self) -> &str {
        self.path.split_once('/').map_or("", |(top, _)| top)
    }

    /// Lines with their numbers, from 1.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }
}

/// What is built or fetched, not written.
const NOT_OURS: &[&str] = &["target", "corpus", "artifacts"];

/// All text files of the project, in the order of their paths. Folders that are hidden or hold what was
/// built are left out, hidden or binary files too.
pub fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(root.join(&folder)).expect("the project's folders can be read");
        for entry in entries {
            let entry = entry.expect("the project's folders can be read");
            let name = entry.file_name().into_string().expect("file names are UTF-8");
            if name.starts_with('.') || NOT_OURS.contains(&name.as_str()) {
                continue;
            }
            let path = folder.join(&name);
            if entry.path().is_dir() {
                folders.push(path);
            } else if let Ok(text) = fs::read_to_string(entry.path()) {
                let path = path.to_str().expect("made of names in UTF-8").to_owned();
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

//! What happens to names that are taken, and to a conversion that is stopped.

mod mac_guest;

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;
use std::process::Command;
use vmss2core::{Conversion, Guest, Kind, Progress};

fn refused(state: &Path, output: &Path) -> String {
    vmss2core::convert(&Kind::Physical, state, None, output).unwrap_err().to_string()
}

#[test]
fn what_is_converted_and_what_is_no_file_are_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (state, _) = mac_guest::write(folder.path());
    let memory = state.with_extension("vmem");
    let before = fs::read(&memory).unwrap();
    let link = folder.path().join("link");
    symlink(&memory, &link).unwrap();
    for output in [&state, &memory, &link] {
        let sentence = refused(&state, output);
        assert!(sentence.contains("it is what is being converted"), "{sentence}");
    }
    assert_eq!(fs::read(&memory).unwrap(), before);

    let fifo = folder.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    assert!(refused(&state, &fifo).contains("it is no file"), "{}", refused(&state, &fifo));
    assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());

    // A link to another file leads to what is replaced, and stays.
    let (target, leads) = (folder.path().join("old.core"), folder.path().join("leads"));
    fs::write(&target, b"old").unwrap();
    symlink(&target, &leads).unwrap();
    vmss2core::convert(&Kind::Physical, &state, None, &leads).unwrap();
    assert!(fs::symlink_metadata(&leads).unwrap().is_symlink());
    assert_eq!(fs::read(&target).unwrap()[..4], *b"\x7fELF");

    // A core of a core, under the usual name.
    let core = folder.path().join("vmss.core");
    vmss2core::convert(&Kind::Physical, &state, None, &core).unwrap();
    assert!(refused(&core, &core).contains("it is what is being converted"));
}

/// Stops a conversion when it has begun.
struct Stop;

impl Progress for Stop {
    fn begin(&self, _file: &Path, _bytes: u64) {}

    fn advance(&self, _bytes: u64) {}

    fn end(&self, _file: &Path) {}

    fn remark(&self, _sentence: &str) {}

    fn is_interrupted(&self) -> bool {
        true
    }
}

#[test]
fn a_conversion_that_is_stopped_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (state, _) = mac_guest::write(folder.path());
    let guest = Guest::open(&state, None).unwrap();
    let output = folder.path().join("vmss.core");
    fs::write(&output, b"old").unwrap();
    let threads = std::num::NonZero::new(2).unwrap();
    let conversion = Conversion { guest: &guest, output: Some(&output), threads, progress: &Stop };
    let sentence = conversion.make(&Kind::Physical).unwrap_err().to_string();
    assert_eq!(sentence, "stopped by a signal; nothing was written");
    assert_eq!(fs::read(&output).unwrap(), b"old");
    let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = names.filter(|name| name.to_string_lossy().contains("partial")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// The state of one guest with the memory of none.
#[test]
fn a_processor_that_cannot_have_run_there_is_remarked() {
    let folder = tempfile::tempdir().unwrap();
    let (state, _) = mac_guest::write(folder.path());
    assert_eq!(Guest::open(&state, None).unwrap().remarks, Vec::<String>::new());
    let memory = state.with_extension("vmem");
    let bytes = fs::metadata(&memory).unwrap().len();
    fs::write(&memory, vec![0; bytes as usize]).unwrap();
    let remarks = Guest::open(&state, None).unwrap().remarks;
    assert!(remarks.concat().contains("is this the memory of that guest?"), "{remarks:?}");
}

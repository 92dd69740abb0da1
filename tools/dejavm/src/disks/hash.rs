//! The BLAKE3 of a disk image. Hashing gigabytes takes seconds, so what was found is kept, for as long as the file's inode, length
//! and times are what they were.

use crate::exit::{Exit, Failure};
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A file changed so recently may change again without its time showing it.
const SETTLED_S: i64 = 2;
/// Images whose hashing is worth a word.
const LARGE: u64 = 1 << 30;
/// Bytes read at a time.
const PIECE: usize = 1 << 20;

/// The hash of a file.
pub fn of(file: &File, path: &Path) -> Result<[u8; 32], Failure> {
    let failed = |error: io::Error| {
        Failure::new(
            Exit::Failed,
            format!("{}: the disk image cannot be read: {error}", path.display()),
        )
    };
    let metadata = file.metadata().map_err(failed)?;
    let identity = identity(&metadata);
    let kept = folder().map(|folder| folder.join(&identity));
    if let Some(kept) = &kept
        && let Ok(text) = fs::read_to_string(kept)
        && let Ok(hash) = blake3::Hash::from_hex(text.trim())
    {
        return Ok(*hash.as_bytes());
    }
    let hash = hash(file, metadata.len(), path).map_err(failed)?;
    let after = file.metadata().map_err(failed)?;
    let now =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    let settled = after.mtime().max(after.ctime()).saturating_add(SETTLED_S) < now;
    if let Some(kept) = kept
        && settled
        && self::identity(&after) == identity
    {
        keep(&kept, &hash);
    }
    Ok(*hash.as_bytes())
}

/// What changes when a file does.
fn identity(metadata: &fs::Metadata) -> String {
    format!(
        "{}-{}-{}-{}.{:09}-{}.{:09}",
        metadata.dev(),
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec()
    )
}

/// Where hashes are kept: below the user's folder for caches, if there is one.
fn folder() -> Option<PathBuf> {
    let absolute =
        |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(caches.join("dejavm").join("hashes"))
}

/// Nothing depends on it, so nobody is told if it fails.
fn keep(at: &Path, hash: &blake3::Hash) {
    let Some(folder) = at.parent() else { return };
    let written = fs::create_dir_all(folder)
        .and_then(|()| tempfile::NamedTempFile::new_in(folder))
        .and_then(|file| {
            fs::write(file.path(), hash.to_hex().as_str())?;
            file.persist(at).map_err(|error| error.error)
        });
    let _unkept = written;
}

fn hash(mut file: &File, bytes: u64, path: &Path) -> io::Result<blake3::Hash> {
    let large = bytes >= LARGE;
    let counted = large && io::stderr().is_terminal();
    if large && !counted {
        eprintln!("dejavm: {}: looking through {} GiB, once", path.display(), bytes >> 30);
    }
    file.seek(SeekFrom::Start(0))?;
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; PIECE];
    let mut done = 0u64;
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            break;
        }
        hasher.update(&piece[..read]);
        let before = done >> 28;
        done += read as u64;
        if counted && done >> 28 != before {
            let percent = done.saturating_mul(100) / bytes.max(1);
            eprint!("\rdejavm: {}: looking through it, once: {percent} %", path.display());
        }
    }
    if counted {
        eprintln!();
    }
    Ok(hasher.finalize())
}

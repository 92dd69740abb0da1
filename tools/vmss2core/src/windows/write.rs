//! Writing a dump: its header, its bitmap if it has one, its pages, and what is otherwise in them.

use crate::conversion::Conversion;
use crate::error::Error;
use crate::output::{Output, Piece, copy};
use crate::windows::bitmap::Bitmap;
use crate::windows::header::{DumpType, Header};
use crate::windows::patches::Patches;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const PAGE: u64 = 4096;
/// Pieces copied at a time: a bound for memory whose every other page is in a dump.
const PIECES: usize = 1 << 16;
/// What is before the bits in the header of a bitmap: marks, where pages begin, how many, how many bits.
const BITMAP_HEADER: usize = 0x38;

/// A full dump, run by run.
pub fn full(
    conversion: &Conversion<'_>,
    path: &Path,
    mut header: Header,
    patches: &Patches,
) -> Result<PathBuf, Error> {
    let mut end = Header::bytes(header.is_64);
    let mut pieces = Vec::new();
    for run in &header.runs {
        let bytes = run.pages * PAGE;
        pieces.push(Piece { physical: run.first * PAGE, bytes, offset: end });
        end += bytes;
    }
    // LiveKD counts memory only.
    header.required_space = end - Header::bytes(header.is_64);
    conversion.progress.begin(path, header.required_space);
    let needed = conversion.guest.memory.bytes_stored().min(header.required_space) + PAGE * 2;
    let output = Output::create(conversion.guest, path, needed)?;
    output.checked(output.file().set_len(end))?;
    output.checked(output.file().write_all_at(&header.encode(), 0))?;
    copy(conversion.guest, &pieces, &output, conversion.threads, conversion.progress)?;
    patches.write(&output, |page| {
        let run = pieces.iter().find(|piece| {
            (piece.physical..piece.physical + piece.bytes).contains(&(page * PAGE))
        })?;
        Some(run.offset + page * PAGE - run.physical)
    })?;
    finish(conversion, output)
}

/// A dump of the pages in a bitmap.
pub fn by_bitmap(
    conversion: &Conversion<'_>,
    path: &Path,
    mut header: Header,
    bitmap: &Bitmap,
    patches: &Patches,
) -> Result<PathBuf, Error> {
    let begin = Header::bytes(header.is_64);
    let bits = bitmap.encode();
    let first = begin + (BITMAP_HEADER + bits.len()).next_multiple_of(PAGE as usize) as u64;
    let bytes = bitmap.count() * PAGE;
    header.required_space = first + bytes;
    let mark = match header.dump_type {
        DumpType::BitmapKernel => b"SDMP",
        DumpType::Full | DumpType::BitmapFull => b"FDMP",
    };
    let mut head = [&mark[..], b"DUMP"].concat();
    head.resize(0x20, 0);
    for value in [first, bitmap.count(), bitmap.bits()] {
        head.extend_from_slice(&value.to_le_bytes());
    }
    head.extend_from_slice(&bits);

    conversion.progress.begin(path, bytes);
    let output = Output::create(
        conversion.guest,
        path,
        first + bytes.min(conversion.guest.memory.bytes_stored()),
    )?;
    output.checked(output.file().set_len(first + bytes))?;
    output.checked(output.file().write_all_at(&header.encode(), 0))?;
    output.checked(output.file().write_all_at(&head, begin))?;
    let mut rest = bitmap.pieces(first);
    loop {
        let pieces: Vec<Piece> = rest.by_ref().take(PIECES).collect();
        if pieces.is_empty() {
            break;
        }
        copy(conversion.guest, &pieces, &output, conversion.threads, conversion.progress)?;
    }
    patches.write(&output, |page| bitmap.has(page).then(|| first + bitmap.rank(page) * PAGE))?;
    finish(conversion, output)
}

fn finish(conversion: &Conversion<'_>, output: Output) -> Result<PathBuf, Error> {
    let path = output.finish()?;
    conversion.progress.end(&path);
    Ok(path)
}

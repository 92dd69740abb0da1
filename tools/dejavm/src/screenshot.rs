//! `dejavm screenshot`: what the guest's display shows at a position of a recording.

use crate::Outcome;
use crate::arguments::Screenshot;
use crate::exit::{Exit, Failure};
use crate::open;
use crate::record::name;
use dejavm_cpu::Tuning;
use dejavm_machine::Picture;
use flate2::Compression;
use flate2::Crc;
use flate2::write::ZlibEncoder;
use serde_json::json;
use std::io::{self, Write};

/// Writes the picture, and prints the text if told.
pub fn run(arguments: &Screenshot) -> Result<Outcome, Failure> {
    let Screenshot { output, force, text, .. } = arguments;
    if output.exists() && !force {
        let sentence = format!(
            "{}: the file exists; choose another name, or overwrite it with --force",
            name(output)
        );
        return Err(Failure::new(Exit::Failed, sentence));
    }
    let (timeline, recording, at) =
        open::at(Some(&arguments.file), &arguments.at, Tuning::default(), &arguments.images)?;
    let (_, machine) = timeline.into_machine();
    let Some(picture) = machine.picture() else {
        let sentence = format!(
            "{recording}: the machine has no display: record with --bios, or with --display"
        );
        return Err(Failure::new(Exit::Failed, sentence));
    };
    let lines = machine.screen_text();
    let file = png(&picture).and_then(|bytes| std::fs::write(output, bytes));
    file.map_err(|error| Failure::new(Exit::Failed, format!("{}: {error}", name(output))))?;
    if *text && !arguments.json {
        let shown = lines.as_deref().unwrap_or_default().join("\n");
        crate::console::print(&format!("{}\n", shown.trim_end()))?;
    }
    eprintln!(
        "dejavm: {}: the display at position {at} of {recording}, {} by {} pixels",
        name(output),
        picture.width,
        picture.height
    );
    Ok(Outcome::ok(json!({
        "picture": name(output),
        "recording": recording,
        "position": at.0,
        "width": picture.width,
        "height": picture.height,
        "text": lines,
    })))
}

/// The picture as a file (PNG specification, third edition).
fn png(picture: &Picture) -> io::Result<Vec<u8>> {
    const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
    /// Eight bits, red, green and blue; the one compression, the one set of filters, not interlaced.
    const KIND: [u8; 5] = [8, 2, 0, 0, 0];
    const NO_FILTER: u8 = 0;
    let mut header = Vec::new();
    header.extend(picture.width.to_be_bytes());
    header.extend(picture.height.to_be_bytes());
    header.extend(KIND);
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::default());
    for row in picture.rgb.chunks_exact(3 * picture.width as usize) {
        packed.write_all(&[NO_FILTER])?;
        packed.write_all(row)?;
    }
    let mut file = SIGNATURE.to_vec();
    for (kind, body) in [(b"IHDR", header), (b"IDAT", packed.finish()?), (b"IEND", Vec::new())] {
        let mut crc = Crc::new();
        crc.update(kind);
        crc.update(&body);
        file.extend((body.len() as u32).to_be_bytes());
        file.extend(kind);
        file.extend(body);
        file.extend(crc.sum().to_be_bytes());
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::ZlibDecoder;
    use std::io::Read;

    #[test]
    fn a_picture_has_its_chunks_and_rows() {
        let picture = Picture { width: 2, height: 2, rgb: (0..12).collect() };
        let file = png(&picture).unwrap();
        assert_eq!(&file[..16], b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR");
        assert_eq!(file[16..29], [0, 0, 0, 2, 0, 0, 0, 2, 8, 2, 0, 0, 0]);
        let length = u32::from_be_bytes(file[33..37].try_into().unwrap()) as usize;
        assert_eq!(&file[37..41], b"IDAT");
        let mut rows = Vec::new();
        ZlibDecoder::new(&file[41..41 + length]).read_to_end(&mut rows).unwrap();
        assert_eq!(rows, [0, 0, 1, 2, 3, 4, 5, 0, 6, 7, 8, 9, 10, 11]);
        assert_eq!(&file[file.len() - 12..], b"\0\0\0\0IEND\xae\x42\x60\x82");
    }
}

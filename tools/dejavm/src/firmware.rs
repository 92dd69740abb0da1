//! Firmware from files: SeaBIOS as the distribution's package has it, unless told.

use crate::exit::{Exit, Failure};
use dejavm_machine::Firmware;
use std::path::Path;

/// The BIOS.
pub const SEABIOS: &str = "/usr/share/seabios/bios-256k.bin";
/// The BIOS of its display.
const SEABIOS_VIDEO: &str = "/usr/share/seabios/vgabios-stdvga.bin";

/// Reads the ROMs. The recording holds them: a replay needs no file.
pub fn read(bios: &Path, video: Option<&Path>) -> Result<Firmware, Failure> {
    if bios == Path::new(SEABIOS) && !bios.exists() {
        let sentence = format!(
            "{SEABIOS} is not there: install the package seabios, or name a BIOS with --bios=FILE"
        );
        return Err(Failure::new(Exit::NotFound, sentence));
    }
    let rom = crate::record::read(bios, "the BIOS")?.into();
    let video_rom = video_rom(video)?.into();
    Ok(Firmware { rom, video_rom })
}

/// Reads the display's ROM; empty where there is none.
pub fn video_rom(path: Option<&Path>) -> Result<Vec<u8>, Failure> {
    let default = Path::new(SEABIOS_VIDEO);
    match path.or_else(|| default.exists().then_some(default)) {
        Some(path) => crate::record::read(path, "the display's ROM"),
        None => Ok(Vec::new()),
    }
}

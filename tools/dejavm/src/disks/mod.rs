//! Disk images: which ones a machine has, and how they are opened, named in recordings and found again.

mod checkpointed;
mod hash;
mod image;
mod option;
mod packed;
mod vmdk;

pub use checkpointed::checkpointed;
pub use image::Image;
pub use option::{Attachment, DiskOption, Format, Images};
pub use packed::{Tracked, hand_on, pack_into};

use crate::arguments::Record;
use crate::exit::{Exit, Failure};
use crate::record::name;
use dejavm_machine::{Card, Drive, Hardware, IdeDrive, Storages};
use dejavm_replay::{External, Header, PackedImages, Replayer};
use packed::Packed;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Drives at most: what cards there can be.
const DRIVES_MAX: usize = 24;

/// Images opened for a machine, in the order of its drives.
#[derive(Default)]
pub struct Disks {
    /// What the machine reads.
    pub storages: Storages,
    /// How the recording names them.
    pub externals: Vec<External>,
}

/// Opens the images of a new machine, and adds drives and cards to its hardware.
pub fn attach(options: &[DiskOption], hardware: &mut Hardware) -> Result<Disks, Failure> {
    let mut disks = Disks::default();
    if options.len() > DRIVES_MAX {
        let sentence = format!("--disk: {} disks are more than {DRIVES_MAX}", options.len());
        return Err(Failure::new(Exit::Usage, sentence));
    }
    for option in options {
        let shown = name(&option.path);
        let path = absolute(&option.path)?;
        let file = open_file(&option.path)?;
        let image = open_image(&option.path, &file, option.format)?;
        let bytes = image.bytes();
        if bytes == 0 || !bytes.is_multiple_of(512) {
            let sentence =
                format!("{shown}: a disk of {bytes} bytes is no whole number of sectors of 512");
            return Err(Failure::new(Exit::Failed, sentence));
        }
        let number = hardware.drives.len();
        let blake3 = hash::of(&file, &option.path)?;
        let format = image.format();
        disks.externals.push(External {
            role: External::drive_role(number, format.name()),
            path,
            bytes: length(&file, &option.path)?,
            blake3,
        });
        disks.storages.push(Arc::new(image));
        hardware.drives.push(Drive { bytes, read_only: option.read_only });
        let drive = number as u16;
        match option.attachment {
            Attachment::Virtio => hardware.cards.push(Card::VirtioBlock { drive }),
            Attachment::Ide => connect(hardware, IdeDrive { drive, cd: false })?,
            Attachment::Cd => connect(hardware, IdeDrive { drive, cd: true })?,
        }
    }
    Ok(disks)
}

/// All that the command line says of disks.
pub fn all(arguments: &Record) -> Vec<DiskOption> {
    let mut options = arguments.disk.clone();
    options.extend(arguments.cdrom.clone().map(|path| DiskOption {
        path,
        format: Format::Raw,
        attachment: Attachment::Cd,
        read_only: true,
    }));
    options
}

/// Connects a drive to the first free IDE connector.
fn connect(hardware: &mut Hardware, drive: IdeDrive) -> Result<(), Failure> {
    let ide = hardware.cards.iter_mut().find_map(|card| match card {
        Card::Ide { drives } => Some(drives),
        Card::VirtioBlock { .. }
        | Card::VirtioNet { .. }
        | Card::VirtioRng { .. }
        | Card::VirtioConsole
        | Card::E1000 { .. } => None,
    });
    let Some(drives) = ide else {
        hardware.cards.push(Card::Ide { drives: [Some(drive), None, None, None] });
        return Ok(());
    };
    match drives.iter_mut().find(|drive| drive.is_none()) {
        Some(free) => *free = Some(drive),
        None => return Err(Failure::new(Exit::Usage, "--disk: there are four IDE connectors")),
    }
    Ok(())
}

/// Of the files that a recording needs, the images of drives: what a machine that goes on from it needs too.
pub fn images(externals: &[External]) -> Vec<External> {
    externals.iter().filter(|external| external.is_drive()).cloned().collect()
}

/// Opens the images that a recording's machine had again: where they were, or where the user says that they are now.
pub fn again(replayer: &Replayer<File>, images: &Images) -> Result<Storages, Failure> {
    let drives = &replayer.header().config.hardware.drives;
    if drives.is_empty() {
        return Ok(Vec::new());
    }
    let packed = packed_images(replayer.source())?.map(|packed| Arc::new(Mutex::new(packed)));
    let mut storages: Storages = Vec::new();
    for (number, drive) in drives.iter().enumerate() {
        let (external, format) = of_drive(replayer.externals(), number)?;
        match find(external, format, drive.bytes, images) {
            Ok(image) => storages.push(Arc::new(image)),
            // What the recording holds of it will do.
            Err(failure) => match &packed {
                Some(packed) => {
                    storages.push(Arc::new(Packed::new(Arc::clone(packed), number as u16)))
                }
                None => return Err(failure),
            },
        }
    }
    Ok(storages)
}

/// The image that a recording names for a drive, and its format.
fn of_drive(externals: &[External], number: usize) -> Result<(&External, Format), Failure> {
    let external = externals
        .iter()
        .find(|external| external.drive().is_some_and(|(drive, _)| drive == number));
    let Some(external) = external else {
        let sentence = format!("its drive {number} has no image that it names");
        return Err(Failure::new(Exit::Recording, sentence));
    };
    let format = external.drive().and_then(|(_, format)| Format::named(format));
    let Some(format) = format else {
        let sentence = format!("{}: an image of an unknown format", external.path);
        return Err(Failure::new(Exit::Recording, sentence));
    };
    Ok((external, format))
}

/// What a recording holds of images, if any of these is not there itself: who goes on from the recording has nothing else of it.
pub fn standing_in(
    file: &File,
    header: &Header,
    externals: &[External],
    images: &Images,
) -> Result<Option<PackedImages>, Failure> {
    let is_there = |(number, drive): (usize, &Drive)| {
        let found = of_drive(externals, number)
            .and_then(|(external, format)| find(external, format, drive.bytes, images));
        found.is_ok()
    };
    match header.config.hardware.drives.iter().enumerate().all(is_there) {
        true => Ok(None),
        false => packed_images(file),
    }
}

/// What a recording holds of images. It is read apart from the rest, at places of its own.
pub fn packed_images(file: &File) -> Result<Option<PackedImages>, Failure> {
    let again = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(|error| {
        Failure::new(Exit::Failed, format!("the recording cannot be opened again: {error}"))
    })?;
    Ok(PackedImages::open(again)?)
}

/// The image that a recording names.
fn find(
    external: &External,
    format: Format,
    bytes: u64,
    images: &Images,
) -> Result<Image, Failure> {
    for path in &images.elsewhere {
        if let Some(image) = the_same(external, path, format, bytes)? {
            return Ok(image);
        }
    }
    let advice = match images.elsewhere.as_slice() {
        [] => "put back the disk image that was recorded, or say where it is with --disk FILE",
        _ => "put back the disk image that was recorded; what --disk names is another",
    };
    let found = the_same(external, Path::new(&external.path), format, bytes)
        .map_err(|failure| Failure::new(Exit::Recording, format!("{failure}; {advice}")))?;
    found.ok_or_else(|| {
        let sentence = format!(
            "{}: the disk image has changed since it was recorded; {advice}",
            external.path
        );
        Failure::new(Exit::Recording, sentence)
    })
}

/// The image at a path, if it is the one that a recording names.
fn the_same(
    external: &External,
    path: &Path,
    format: Format,
    bytes: u64,
) -> Result<Option<Image>, Failure> {
    let file = open_file(path)?;
    if length(&file, path)? != external.bytes || hash::of(&file, path)? != external.blake3 {
        return Ok(None);
    }
    let image = open_image(path, &file, format)?;
    Ok((image.bytes() == bytes).then_some(image))
}

fn open_file(path: &Path) -> Result<File, Failure> {
    let file = File::open(path).map_err(|error| not_opened(path, &error))?;
    let metadata = file.metadata().map_err(|error| not_opened(path, &error))?;
    if !metadata.is_file() {
        let sentence = format!("{}: this is no disk image: it is no file", path.display());
        return Err(Failure::new(Exit::Failed, sentence));
    }
    Ok(file)
}

fn open_image(path: &Path, file: &File, format: Format) -> Result<Image, Failure> {
    Image::open(path, file, format).map_err(|error| not_opened(path, &error))
}

fn not_opened(path: &Path, error: &io::Error) -> Failure {
    let exit = match error.kind() {
        io::ErrorKind::NotFound => Exit::NotFound,
        _ => Exit::Failed,
    };
    Failure::new(exit, format!("{}: the disk image cannot be opened: {error}", path.display()))
}

fn length(file: &File, path: &Path) -> Result<u64, Failure> {
    let metadata = file
        .metadata()
        .map_err(|error| Failure::new(Exit::Failed, format!("{}: {error}", path.display())))?;
    Ok(metadata.len())
}

fn absolute(path: &Path) -> Result<String, Failure> {
    let absolute = path.canonicalize().map_err(|error| not_opened(path, &error))?;
    absolute.to_str().map(str::to_owned).ok_or_else(|| {
        let sentence = format!(
            "{}: the path is not UTF-8, so a recording cannot refer to the disk image",
            absolute.display()
        );
        Failure::new(Exit::Failed, sentence)
    })
}

//! `--disk FILE[,format=raw|qcow2|vmdk][,if=virtio|ide|cdrom][,readonly]`.

use clap::Args;
use std::path::{Path, PathBuf};

/// How an image holds its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As they are.
    Raw,
    /// QEMU's, without a backing file.
    Qcow2,
    /// VMware's, in one sparse file.
    Vmdk,
}

impl Format {
    const ALL: [Format; 3] = [Format::Raw, Format::Qcow2, Format::Vmdk];

    /// In recordings and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Vmdk => "vmdk",
        }
    }

    /// What an image is that nobody says more of: by the end of its name. What is in it may be the guest's doing.
    pub fn by_name(path: &Path) -> Format {
        let extension = path.extension().and_then(|extension| extension.to_str());
        extension.and_then(Format::named).unwrap_or(Format::Raw)
    }

    /// The inverse.
    pub fn named(name: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|format| format.name() == name)
    }
}

/// How a disk is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// A virtio disk on a card of its own.
    Virtio,
    /// A disk on the next free IDE connector.
    Ide,
    /// A CD-ROM drive on the next free IDE connector, with the image as its disc.
    Cd,
}

/// What the user says of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskOption {
    /// The image.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// How it is attached.
    pub attachment: Attachment,
    /// The guest cannot write.
    pub read_only: bool,
}

/// Where images are that a recording does not find where they were.
#[derive(Clone, Debug, Default, Args)]
pub struct Images {
    /// Where a disk image is now that the recording names. Which one it is, its contents tell; may be given several times
    #[arg(long = "disk", value_name = "FILE")]
    pub elsewhere: Vec<PathBuf>,
}

/// Reads an option. A comma in a file's name cannot be written.
pub fn parse(text: &str) -> Result<DiskOption, String> {
    let mut parts = text.split(',');
    let path = parts.next().filter(|path| !path.is_empty()).ok_or("a file must come first")?;
    let mut option = DiskOption {
        path: path.into(),
        format: Format::by_name(Path::new(path)),
        attachment: Attachment::Virtio,
        read_only: false,
    };
    for part in parts {
        match part.split_once('=') {
            Some(("format", value)) => {
                option.format = Format::named(value).ok_or_else(|| {
                    let known = Format::ALL.map(Format::name).join(", ");
                    format!("format={value}: known are {known}")
                })?;
            }
            Some(("if", "virtio")) => option.attachment = Attachment::Virtio,
            Some(("if", "ide")) => option.attachment = Attachment::Ide,
            Some(("if", "cdrom")) => {
                option.attachment = Attachment::Cd;
                option.read_only = true;
            }
            Some(("if", value)) => {
                return Err(format!("if={value}: known are virtio, ide, cdrom"));
            }
            None if part == "readonly" => option.read_only = true,
            _ => {
                return Err(format!("{part:?} is no property of a disk: format, if, readonly are"));
            }
        }
    }
    Ok(option)
}

impl std::str::FromStr for DiskOption {
    type Err = String;
    fn from_str(text: &str) -> Result<DiskOption, String> {
        parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_follow_the_file() {
        let option = parse("a b.img,readonly,if=virtio,format=raw").unwrap();
        assert_eq!((option.path, option.read_only), (PathBuf::from("a b.img"), true));
        for (text, complaint) in [
            ("", "a file must come first"),
            (",readonly", "a file must come first"),
            ("x,if=floppy", "if=floppy"),
            ("x,format=vhd", "format=vhd: known are raw, qcow2, vmdk"),
            ("x,cache=none", "\"cache=none\" is no property"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(complaint), "{text}: {error}");
        }
    }
}

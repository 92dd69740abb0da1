//! Disks and CD-ROM drives of a `.vmx` file, and which there are here.

use super::{Vmx, refused};
use crate::arguments::Record;
use crate::disks::{Attachment, DiskOption, Format};
use crate::exit::Failure;
use std::collections::BTreeSet;
use std::path::Path;

/// The kinds of controller.
const CONTROLLERS: [&str; 4] = ["ide", "sata", "scsi", "nvme"];

/// What all that is no virtio disk is connected to.
const IDE_CONNECTORS: usize = 4;

/// Where a disk is: kind of controller, its number, which of its disks.
type Slot = (usize, u32, u32);

/// Controller and slot of a key as `scsi0:1.filename`; of a controller's own key the kind only.
fn slot(key: &str) -> Option<Slot> {
    let (device, _) = key.split_once('.')?;
    let (controller, slot) = device.split_once(':')?;
    let (kind, number) = numbered(controller)?;
    Some((kind, number, slot.parse().ok()?))
}

fn numbered(controller: &str) -> Option<(usize, u32)> {
    let mut kinds = (0..).zip(CONTROLLERS);
    kinds.find_map(|(kind, name)| Some((kind, controller.strip_prefix(name)?.parse().ok()?)))
}

/// What a `deviceType` says.
enum Kind {
    Disk,
    Cd,
    /// A CD-ROM drive of the host's.
    HostCd,
}

impl Vmx {
    /// Takes what is said of disks. If the command line has any, those are all that there are.
    pub(super) fn fill_disks(&mut self, record: &mut Record) -> Result<Vec<String>, Failure> {
        let slots: BTreeSet<Slot> = self.values.keys().filter_map(|key| slot(key)).collect();
        let by_command_line = !record.disk.is_empty() || record.cdrom.is_some();
        let mut told = Vec::new();
        for (kind, number, slot) in slots {
            let controller = format!("{}{number}", CONTROLLERS[kind]);
            let device = format!("{controller}:{slot}");
            // IDE's controllers need not be named.
            let off = self.values.contains_key(&format!("{controller}.present"))
                && !self.says(&format!("{controller}.present"));
            if self.take_flag(&format!("{device}.present"))? && !off {
                if by_command_line {
                    told.push(format!("{device} is left out for the command line's disks"));
                } else {
                    told.push(self.fill_disk(&device, record)?);
                }
            }
            self.forget(&device);
        }
        self.values.retain(|key, _| {
            let controller = key.split('.').next().unwrap_or_default();
            numbered(controller).is_none()
        });
        Ok(told)
    }

    fn fill_disk(&mut self, device: &str, record: &mut Record) -> Result<String, Failure> {
        let type_key = format!("{device}.devicetype");
        let named = self.take(&type_key).unwrap_or_default();
        let file = self.take(&format!("{device}.filename")).unwrap_or_default();
        let is_image =
            Path::new(&file).extension().is_some_and(|end| end.eq_ignore_ascii_case("iso"));
        let kind = match named.to_lowercase().as_str() {
            "" if is_image => Kind::Cd,
            "" | "disk" | "scsi-harddisk" | "ata-harddisk" | "plaindisk" => Kind::Disk,
            "cdrom-image" => Kind::Cd,
            "cdrom-raw" | "atapi-cdrom" if is_image => Kind::Cd,
            "cdrom-raw" | "atapi-cdrom" => Kind::HostCd,
            _ => {
                let why = "only disks and CD-ROM drives with images can be recorded and replayed: change the file so that it says \
                           \"disk\" or \"cdrom-image\", or";
                return Err(refused(
                    &type_key,
                    &named,
                    &format!("{why} {device}.present = \"FALSE\""),
                ));
            }
        };
        let connected = self.take_choice(&format!("{device}.startConnected"))?.unwrap_or(true);
        let names_none =
            matches!(file.to_lowercase().as_str(), "" | "auto detect" | "emptybackingstring");
        match kind {
            Kind::HostCd if names_none || !connected || file.eq_ignore_ascii_case("cdrom0") => {
                return Ok(format!("{device} is left out, as no disc is in it"));
            }
            Kind::HostCd => {
                let why = format!(
                    "what is in a drive of the host's ({file:?}) cannot be replayed: change the file so that it says \"cdrom-image\" \
                     and has an image's fileName, or {device}.present = \"FALSE\""
                );
                return Err(refused(&type_key, &named, &why));
            }
            Kind::Cd if names_none || !connected => {
                return Ok(format!("{device} is left out, as no disc is in it"));
            }
            Kind::Disk if names_none => {
                let key = format!("{device}.filename");
                return Err(refused(&key, &file, "a disk is an image: name its file"));
            }
            Kind::Disk | Kind::Cd => {}
        }
        let is_cd = matches!(kind, Kind::Cd);
        let virtio = self.is_linux() && (device.starts_with("scsi") || device.starts_with("nvme"));
        let (attachment, text) = match virtio {
            _ if is_cd => (Attachment::Cd, "an IDE CD-ROM drive"),
            true => (Attachment::Virtio, "a virtio disk"),
            false => (Attachment::Ide, "an IDE disk"),
        };
        let by_ide = record.disk.iter().filter(|disk| disk.attachment != Attachment::Virtio);
        if attachment != Attachment::Virtio && by_ide.count() == IDE_CONNECTORS {
            let why = "it would be the fifth drive on four IDE connectors: change the file so that it says \"FALSE\"";
            return Err(refused(&format!("{device}.present"), "TRUE", why));
        }
        let path = self.path(&file);
        // A disc's image is its sectors, whatever it is called.
        let format = if is_cd { Format::Raw } else { Format::by_name(&path) };
        record.disk.push(DiskOption { path, format, attachment, read_only: is_cd });
        Ok(format!("{device} is {text} ({file})"))
    }
}

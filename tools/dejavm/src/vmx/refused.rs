//! Devices that cannot be replayed.

use super::Vmx;
use crate::exit::{Exit, Failure};

/// Names of devices that there are none of here; a number may follow.
const DEVICES: [&str; 12] = [
    "ehci",
    "nvdimm",
    "parallel",
    "pcipassthru",
    "sharedfolder",
    "sound",
    "usb",
    "usb_xhci",
    "vsock",
    "vtpm",
    "vwifi",
    "xhci",
];

/// Whether a key is about a device that there is not.
fn is_foreign(key: &str) -> bool {
    let device = key.split(['.', ':']).next().unwrap_or_default();
    let name = device.trim_end_matches(|digit: char| digit.is_ascii_digit());
    let number = device.strip_prefix("ethernet").and_then(|number| number.parse::<u32>().ok());
    // A network card beyond the first is one too.
    DEVICES.contains(&name) || number.is_some_and(|number| number > 0) || key == "mks.enable3d"
}

impl Vmx {
    /// Refuses, all at once, what a recording cannot have. `has_kernel`: no firmware is started.
    pub(super) fn refuse_what_cannot_be_replayed(
        &mut self,
        has_kernel: bool,
    ) -> Result<(), Failure> {
        if self.values.keys().any(|key| key.starts_with("encryption.")) {
            let sentence = "it is encrypted: remove the encryption where the machine was made";
            return Err(Failure::new(Exit::Usage, sentence));
        }
        let mut lines = Vec::new();
        for key in self.values.keys().filter(|key| is_foreign(key) && self.says(key)) {
            if key.ends_with(".present") || key == "mks.enable3d" {
                lines.push(format!("{key} = \"FALSE\""));
            }
        }
        let firmware = self.values.get("firmware").map_or("", String::as_str);
        if !firmware.is_empty() && !firmware.eq_ignore_ascii_case("bios") && !has_kernel {
            lines.push("firmware = \"bios\"".into());
        }
        if !lines.is_empty() {
            let sentence = format!(
                "it has what cannot be recorded and replayed; change the file so that it says {}",
                lines.join(", ")
            );
            return Err(Failure::new(Exit::Usage, sentence));
        }
        // How they would be, were they there, means nothing.
        self.values.retain(|key, _| !is_foreign(key));
        Ok(())
    }
}

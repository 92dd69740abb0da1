//! Serial ports of a `.vmx` file: serial0 is COM1.

use super::{Vmx, refused};
use crate::arguments::Recording;
use crate::exit::Failure;
use crate::serial::{Backend, Choice, Port};

/// What a port's name in the file begins with.
const NAME: &str = "serial";

impl Vmx {
    /// Takes what is said of them, where the command line says nothing of the port.
    pub(super) fn fill_serial(
        &mut self,
        recording: &mut Recording,
    ) -> Result<Vec<String>, Failure> {
        let number = |key: &str| key.strip_prefix(NAME)?.split_once('.')?.0.parse::<u8>().ok();
        let mut numbers: Vec<u8> = self.values.keys().filter_map(|key| number(key)).collect();
        numbers.dedup();
        let mut told = Vec::new();
        for number in numbers {
            let device = format!("{NAME}{number}");
            let present = format!("{device}.present");
            if self.take_flag(&present)? {
                let Some(port) = number.checked_add(1).and_then(Port::com) else {
                    let why = "machines have four serial ports, serial0 to serial3: change the file so that it says \"FALSE\"";
                    return Err(refused(&present, "TRUE", why));
                };
                // A file for the console is a place for COM1.
                let console = port == Port::COM1 && recording.report.console.is_some();
                if !console && !recording.serial.tells_of(port)? {
                    let (backend, text) = self.backend(&device)?;
                    told.push(format!("{device} is {port}, {text}"));
                    recording.serial.serial.push(Choice { port: Some(port), backend });
                }
            }
            self.forget(&device);
        }
        Ok(told)
    }

    fn backend(&mut self, device: &str) -> Result<(Backend, String), Failure> {
        let key = format!("{device}.filetype");
        let kind = self.take(&key).unwrap_or_default();
        let name = self.take(&format!("{device}.filename")).unwrap_or_default();
        let connected = self.take_choice(&format!("{device}.startConnected"))?.unwrap_or(true);
        let named = !name.is_empty() && !name.eq_ignore_ascii_case("auto detect");
        if !connected || !named || kind.eq_ignore_ascii_case("thinprint") {
            return Ok((Backend::Null, "to nobody".into()));
        }
        let path = self.path(&name);
        let shown = path.display().to_string();
        match kind.to_lowercase().as_str() {
            "file" => Ok((Backend::File(path), format!("to the file {shown}"))),
            "device" | "" => Ok((Backend::Device(path), format!("to the device {shown}"))),
            "pipe" => {
                let end_key = format!("{device}.pipe.endpoint");
                let end = self.take(&end_key).unwrap_or_default();
                if end.eq_ignore_ascii_case("client") {
                    let why = "sockets are listened on here, and not connected to: change the file so that it says \"server\"";
                    return Err(refused(&end_key, &end, why));
                }
                Ok((Backend::Unix(path), format!("to the socket {shown}")))
            }
            _ => {
                let why = "a serial port leads to a file, a pipe or a device: change the file so that it says one of these";
                Err(refused(&key, &kind, why))
            }
        }
    }
}

//! `.vmx`: the product's description of a virtual machine, as far as it says something here. `docs/vmx.md` is the list.
//!
//! What the command line says wins over the file. Devices are mapped to those that there are, and that is said; those that
//! cannot be replayed are refused, all at once, each with its line as it must be.

mod disks;
mod network;
mod refused;
mod serial;
mod syntax;

use crate::arguments::{LiveGdb, Record};
use crate::debugger::Address;
use crate::exit::{Exit, Failure};
use crate::firmware;
use dejavm_machine::Hardware;
use dejavm_memory::RamLayout;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

/// What a file says. Keys are kept in small letters: case does not matter in them.
pub struct Vmx {
    values: BTreeMap<String, String>,
    /// Where relative names begin.
    folder: PathBuf,
}

/// What is to be told of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// What became of its devices.
    pub mapped: Vec<String>,
    /// Keys without a meaning here.
    pub ignored: Vec<String>,
}

/// Keys that are known and need nothing; `*` at the end stands for anything.
const NOTHING_TO_DO: &[&str] = &[
    // Breakpoints are hidden always, a replay's pace is the debugger's, everything is recorded, where `-o` says.
    "debugstub.hidebreakpoints",
    "replay.*",
    // What every file has.
    ".encoding",
    "config.*",
    "virtualhw.*",
    "displayname",
    "annotation",
    "guestos",
    "guestosaltname",
    "guestinfo.*",
    "extendedconfigfile",
    "nvram",
    "uuid.*",
    "vc.uuid",
    "vm.*",
    "cleanshutdown",
    "softpoweroff",
    "powertype.*",
    "policy.*",
    "tools.*",
    "toolscripts.*",
    "toolsinstallmanager.*",
    "isolation.*",
    "checkpoint.*",
    "snapshot.*",
    "migrate.*",
    "vmotion.*",
    "sched.*",
    "numa.*",
    "cpuid.corespersocket",
    "mem.hotadd",
    "vcpu.hotadd",
    "bios.*",
    "msg.autoanswer",
    "time.synchronize.*",
    // How the product shows the machine.
    "gui.*",
    "pref.*",
    "unity.*",
    "keyboardandmouseprofile",
    "mks.*",
    "svga.*",
    // Chips of its board, and what its tools talk by.
    "vmci*",
    "pcibridge*",
    "hpet0.*",
    "monitor.phys_bits_used",
    // Floppies are not replayed, nor missed.
    "floppy*",
];

fn is_known(key: &str) -> bool {
    NOTHING_TO_DO.iter().any(|known| match known.strip_suffix('*') {
        Some(beginning) => key.starts_with(beginning),
        None => key == *known,
    })
}

fn refused(key: &str, value: &str, why: &str) -> Failure {
    Failure::new(Exit::Usage, format!("{key} = {value:?}: {why}"))
}

impl Vmx {
    /// Takes a file apart; its relative names begin in `folder`.
    pub fn parse(file: &[u8], folder: &Path) -> Result<Vmx, Failure> {
        let values = syntax::parse(file).map_err(|why| Failure::new(Exit::Usage, why))?;
        Ok(Vmx { values, folder: folder.to_owned() })
    }

    fn take(&mut self, key: &str) -> Option<String> {
        self.values.remove(&key.to_lowercase())
    }

    fn take_flag(&mut self, key: &str) -> Result<bool, Failure> {
        Ok(self.take_choice(key)?.unwrap_or(false))
    }

    /// `None`: the file does not say.
    fn take_choice(&mut self, key: &str) -> Result<Option<bool>, Failure> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match value.to_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Ok(Some(true)),
            "false" | "no" | "off" | "0" => Ok(Some(false)),
            "" => Ok(None),
            _ => Err(refused(key, &value, "it is neither TRUE nor FALSE")),
        }
    }

    fn take_number<T: std::str::FromStr>(&mut self, key: &str) -> Result<Option<T>, Failure> {
        let Some(value) = self.take(key) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| refused(key, &value, "it is no number that fits"))
    }

    /// Whether a key says yes, without taking it; what is neither yes nor no does not.
    fn says(&self, key: &str) -> bool {
        let value = self.values.get(key).map(|value| value.to_lowercase());
        matches!(value.as_deref(), Some("true" | "yes" | "on" | "1"))
    }

    /// Forgets what is said of a device.
    fn forget(&mut self, device: &str) {
        let beginning = format!("{device}.");
        self.values.retain(|key, _| !key.starts_with(&beginning));
    }

    /// A file's place.
    fn path(&self, name: &str) -> PathBuf {
        // What is absolute stays so.
        self.folder.join(name)
    }

    /// Whether the guest is a Linux, by what the file calls it: it has virtio drivers then.
    fn is_linux(&self) -> bool {
        const NAMES: [&str; 17] = [
            "linux",
            "debian",
            "ubuntu",
            "redhat",
            "rhel",
            "centos",
            "fedora",
            "sles",
            "suse",
            "opensuse",
            "oraclelinux",
            "asianux",
            "mandr",
            "turbolinux",
            "amazonlinux",
            "rockylinux",
            "almalinux",
        ];
        let name = self.values.get("guestos").map(|name| name.to_lowercase()).unwrap_or_default();
        NAMES.iter().any(|known| name.contains(known))
    }

    /// Fills in what the command line leaves open.
    pub fn fill(mut self, record: &mut Record) -> Result<Told, Failure> {
        self.refuse_what_cannot_be_replayed(record.kernel.is_some())?;
        if let Some(megabytes) = self.take_number::<u64>("memsize")? {
            let ram = RamLayout::new(megabytes.saturating_mul(1 << 20))
                .map_err(|error| refused("memsize", &megabytes.to_string(), &error.to_string()))?;
            record.memory.get_or_insert(ram);
        }
        if let Some(cpus) = self.take_number::<u8>("numvcpus")? {
            if !(1..=Hardware::PROCESSORS_MAX).contains(&cpus) {
                let why = format!("machines have 1 to {} virtual CPUs", Hardware::PROCESSORS_MAX);
                return Err(refused("numvcpus", &cpus.to_string(), &why));
            }
            record.processors.smp.get_or_insert(cpus);
        }
        if let Some(seconds) = self.take_number("rtc.startTime")? {
            record.rtc_epoch.get_or_insert(seconds);
        }
        let gdb = self.take_debugging()?;
        let given = &mut record.recording.gdb;
        if given.gdb.is_none() {
            given.gdb = gdb.gdb;
            given.gdb_bits = given.gdb_bits.take().or(gdb.gdb_bits);
        }
        given.gdb_wait |= gdb.gdb_wait && given.gdb.is_some();
        let mut mapped = self.fill_disks(record)?;
        mapped.extend(self.fill_network(&mut record.recording.network)?);
        mapped.extend(self.fill_serial(&mut record.recording)?);
        self.take("firmware");
        if record.kernel.is_none() {
            record.bios.get_or_insert_with(|| firmware::SEABIOS.into());
        }
        let ignored = self.values.into_keys().filter(|key| !is_known(key)).collect();
        Ok(Told { mapped, ignored })
    }

    fn take_debugging(&mut self) -> Result<LiveGdb, Failure> {
        let mut listening = Vec::new();
        let mut gdb_wait = false;
        for bits in ["64", "32"] {
            let remote = self.take_flag(&format!("debugStub.listen.guest{bits}.remote"))?;
            let listen = self.take_flag(&format!("debugStub.listen.guest{bits}"))?;
            let port = self.take_number::<u16>(&format!("debugStub.port.guest{bits}"))?;
            gdb_wait |= self.take_flag(&format!("monitor.debugOnStartGuest{bits}"))?;
            if listen || remote {
                let host = if remote { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
                let port = port.filter(|port| *port != 0);
                listening.push((bits, Address::Tcp { host: IpAddr::V4(host), port }));
            }
        }
        // Of both, the one for 64 bits is listened on, and the kernel decides what gdb sees.
        let gdb_bits = match listening.as_slice() {
            [(bits, _)] => Some((*bits).to_owned()),
            _ => None,
        };
        let gdb = listening.into_iter().next().map(|(_, address)| address);
        Ok(LiveGdb { gdb, gdb_wait, gdb_bits })
    }
}

#[cfg(test)]
mod tests;

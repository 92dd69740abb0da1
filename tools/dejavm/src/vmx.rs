//! `.vmx`: the product's description of a virtual machine, as far as it says something here.

use crate::arguments::{LiveGdb, Record};
use crate::debugger::Address;
use crate::exit::{Exit, Failure};
use dejavm_machine::Hardware;
use dejavm_memory::RamLayout;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// What a file says. Keys are kept in small letters: case does not matter in them.
pub struct Vmx {
    values: BTreeMap<String, String>,
}

/// Keys that are known and need nothing.
const NOTHING_TO_DO: [&str; 5] = [
    // They are hidden always.
    "debugstub.hidebreakpoints",
    // A replay's pace.
    "replay.halt_delay",
    // What every file has.
    ".encoding",
    "config.version",
    "virtualhw.version",
];

fn refused(key: &str, value: &str, why: &str) -> Failure {
    Failure::new(Exit::Usage, format!("{key} = {value:?}: {why}"))
}

impl Vmx {
    /// Takes a file apart: `key = "value"` in lines, `#` begins a comment.
    pub fn parse(text: &str) -> Result<Vmx, Failure> {
        let mut values = BTreeMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim().trim_start_matches('\u{feff}');
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let Some((key, value)) = line.split_once('=') else {
                let sentence = format!("line {number} is not of the form key = \"value\"");
                return Err(Failure::new(Exit::Usage, sentence));
            };
            let value = value.trim().trim_matches('"');
            values.insert(key.trim().to_lowercase(), value.to_owned());
        }
        Ok(Vmx { values })
    }

    fn take(&mut self, key: &str) -> Option<String> {
        self.values.remove(&key.to_lowercase())
    }

    fn take_flag(&mut self, key: &str) -> Result<bool, Failure> {
        let Some(value) = self.take(key) else { return Ok(false) };
        match value.to_lowercase().as_str() {
            "true" | "yes" | "1" => Ok(true),
            "false" | "no" | "0" | "" => Ok(false),
            _ => Err(refused(key, &value, "it is neither TRUE nor FALSE")),
        }
    }

    fn take_number<T: std::str::FromStr>(&mut self, key: &str) -> Result<Option<T>, Failure> {
        let Some(value) = self.take(key) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| refused(key, &value, "it is no number that fits"))
    }

    /// Fills in what the command line leaves open. Returns the keys that mean nothing here.
    pub fn fill(mut self, record: &mut Record) -> Result<Vec<String>, Failure> {
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
        let gdb = self.take_debugging()?;
        let given = &mut record.recording.gdb;
        if given.gdb.is_none() {
            given.gdb = gdb.gdb;
            given.gdb_bits = given.gdb_bits.take().or(gdb.gdb_bits);
        }
        given.gdb_wait |= gdb.gdb_wait && given.gdb.is_some();
        for key in NOTHING_TO_DO {
            self.take(key);
        }
        Ok(self.values.into_keys().collect())
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
mod tests {
    use super::*;
    use crate::arguments::{Arguments, Command};
    use clap::Parser;

    fn record(more: &[&str]) -> Record {
        let line = ["dejavm", "record", "--kernel", "k", "-o", "o"].iter().chain(more);
        match Arguments::try_parse_from(line).map(|arguments| arguments.command) {
            Ok(Command::Record(record)) => *record,
            other => panic!("{other:?}"),
        }
    }

    const FILE: &str = "#!/usr/bin/vmware\n.encoding = \"UTF-8\"\nmemsize = \"256\"\nnumvcpus = \"2\"\n\
                        debugStub.listen.guest64 = \"TRUE\"\ndebugstub.port.guest64 = \"9000\"\n\
                        monitor.debugOnStartGuest64 = \"TRUE\"\nide1:0.present = \"TRUE\"\n\
                        debugStub.hideBreakpoints = \"TRUE\"\n";

    #[test]
    fn a_file_fills_in_what_the_command_line_leaves_open() {
        let mut plain = record(&[]);
        let ignored = Vmx::parse(FILE).and_then(|vmx| vmx.fill(&mut plain)).unwrap();
        assert_eq!(ignored, ["ide1:0.present"]);
        assert_eq!(plain.memory.map(|ram| ram.total_bytes()), Some(256 << 20));
        assert_eq!(plain.processors.smp, Some(2));
        let LiveGdb { gdb, gdb_wait, gdb_bits } = plain.recording.gdb;
        assert_eq!(gdb, Some("9000".parse().unwrap()));
        assert_eq!((gdb_wait, gdb_bits.as_deref()), (true, Some("64")));

        let mut told = record(&["-m", "64", "--smp", "3", "--gdb=:7000"]);
        Vmx::parse(FILE).and_then(|vmx| vmx.fill(&mut told)).unwrap();
        assert_eq!(told.memory.map(|ram| ram.total_bytes()), Some(64 << 20));
        assert_eq!(told.processors.smp, Some(3));
        assert_eq!(told.recording.gdb.gdb, Some(":7000".parse().unwrap()));
        assert_eq!(told.recording.gdb.gdb_bits, None);

        let mut remote = record(&[]);
        let text = "debugStub.listen.guest32.remote = \"TRUE\"";
        Vmx::parse(text).and_then(|vmx| vmx.fill(&mut remote)).unwrap();
        assert_eq!(remote.recording.gdb.gdb, Some("0.0.0.0".parse().unwrap()));
        assert_eq!(remote.recording.gdb.gdb_bits.as_deref(), Some("32"));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_key() {
        for (text, sentence) in [
            ("memsize", "line 1 is not of the form key = \"value\""),
            ("memsize = \"x\"", "memsize = \"x\": it is no number that fits"),
            ("memsize = \"1\"", "memsize = \"1\": "),
            ("\nnumvcpus = \"9\"", "numvcpus = \"9\": machines have 1 to 8"),
            ("debugStub.listen.guest64 = \"maybe\"", "debugStub.listen.guest64 = \"maybe\": it is"),
        ] {
            let error = Vmx::parse(text).and_then(|vmx| vmx.fill(&mut record(&[]))).err().unwrap();
            assert!(error.sentence.starts_with(sentence), "{}", error.sentence);
        }
    }
}

//! From a checkpoint to cores.

use crate::arguments::Kind;
use crate::elf::{Core, Segment};
use crate::paging::AddressSpace;
use crate::{linux, notes};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use vmss::{Checkpoint, GuestMemory, SparseFile, Vcpu};

/// Bytes of guest memory copied at a time.
const PIECE: u64 = 1 << 20;

/// Why there is no core.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The checkpoint, or its memory.
    #[error("{}: {source}", path.display())]
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong.
        source: vmss::Error,
    },
    /// The core.
    #[error("{}: {source}", path.display())]
    Output {
        /// The core.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// No such processor.
    #[error("{}: it has {count} processors, numbered from 0: there is no {asked}", path.display())]
    NoProcessor {
        /// The checkpoint.
        path: PathBuf,
        /// What was asked for.
        asked: usize,
        /// How many there are.
        count: usize,
    },
    /// The guest is no Linux, or an old one.
    #[error(
        "{}: no Linux kernel was found: {tried} of guest memory were searched for the VMCOREINFO note that Linux keeps since \
         2.6.24; -M makes a core of any guest",
        path.display()
    )]
    NoLinux {
        /// The checkpoint.
        path: PathBuf,
        /// How much was searched.
        tried: String,
    },
}

/// Makes the cores; their names.
pub fn convert(
    kind: Kind,
    state: &Path,
    memory: Option<&Path>,
    output: &Path,
) -> Result<Vec<PathBuf>, ConvertError> {
    let wrong = |source| ConvertError::Checkpoint { path: state.into(), source };
    let (checkpoint, memory, _) = Checkpoint::open(state, memory).map_err(wrong)?;
    let vcpus = checkpoint.vcpus().map_err(wrong)?;
    let is_64 = vcpus.iter().any(Vcpu::is_long_mode)
        || memory.regions().iter().any(|region| region.end() > 1 << 32);
    let all_notes = |vcpus: &[(usize, &Vcpu)]| {
        let mut bytes = Vec::new();
        for (n, vcpu) in vcpus {
            bytes.extend(notes::status(vcpu, *n, is_64));
        }
        bytes
    };
    let everyone: Vec<_> = vcpus.iter().enumerate().collect();
    match kind {
        Kind::Physical => {
            let notes = [all_notes(&everyone), notes::process(is_64)].concat();
            let core = Core { is_64, notes: &notes, segments: &physical(&memory), alignment: 4096 };
            write(&core, &memory, output)?;
            Ok(vec![output.into()])
        }
        Kind::Linux => {
            let Some(text) = linux::vmcoreinfo(&memory).map_err(wrong)? else {
                let tried = format!("{} MiB", memory.bytes() >> 20);
                return Err(ConvertError::NoLinux { path: state.into(), tried });
            };
            let notes = [all_notes(&everyone), notes::vmcoreinfo(&text)].concat();
            // crash takes a core for one of netdump, which knows no KASLR, if segments are aligned.
            let core = Core { is_64, notes: &notes, segments: &physical(&memory), alignment: 0 };
            write(&core, &memory, output)?;
            Ok(vec![output.into()])
        }
        Kind::Linear(only) => {
            if let Some(asked) = only.filter(|&asked| asked >= vcpus.len()) {
                return Err(ConvertError::NoProcessor {
                    path: state.into(),
                    asked,
                    count: vcpus.len(),
                });
            }
            let mut written = Vec::new();
            for (n, vcpu) in
                everyone.into_iter().filter(|(n, _)| only.is_none_or(|only| only == *n))
            {
                let notes = [all_notes(&[(n, vcpu)]), notes::process(is_64)].concat();
                let segments = linear(vcpu, &memory);
                let core = Core { is_64, notes: &notes, segments: &segments, alignment: 4096 };
                let mut name = output.as_os_str().to_owned();
                name.push(n.to_string());
                write(&core, &memory, Path::new(&name))?;
                written.push(name.into());
            }
            Ok(written)
        }
    }
}

/// Where a physical address is in the image: regions one after another.
fn offset(memory: &GuestMemory, address: u64) -> Option<u64> {
    let mut before = 0;
    for region in memory.regions() {
        if (region.start()..region.end()).contains(&address) {
            return Some(before + address - region.start());
        }
        before += region.bytes();
    }
    None
}

fn physical(memory: &GuestMemory) -> Vec<Segment> {
    let mut offset = 0;
    let segments = memory.regions().iter().map(|region| {
        let segment = Segment {
            offset,
            virtual_address: region.start(),
            physical_address: region.start(),
            bytes: region.bytes(),
        };
        offset += region.bytes();
        segment
    });
    segments.collect()
}

fn linear(vcpu: &Vcpu, memory: &GuestMemory) -> Vec<Segment> {
    let runs = AddressSpace::runs(vcpu, memory).into_iter();
    runs.filter_map(|run| {
        Some(Segment {
            offset: offset(memory, run.physical)?,
            virtual_address: run.linear,
            physical_address: run.physical,
            bytes: run.bytes,
        })
    })
    .collect()
}

/// Writes a core under another name first.
fn write(core: &Core<'_>, memory: &GuestMemory, path: &Path) -> Result<(), ConvertError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let written = write_all(core, memory, &partial).and_then(|()| fs::rename(&partial, path));
    written.map_err(|source| {
        // The sentence is about why it was not written.
        let _ = fs::remove_file(&partial);
        ConvertError::Output { path: path.into(), source }
    })
}

fn write_all(core: &Core<'_>, memory: &GuestMemory, path: &Path) -> io::Result<()> {
    let mut file = SparseFile::new(File::create(path)?)?;
    file.write_all(&core.head())?;
    let mut piece = vec![0; PIECE as usize];
    for region in memory.regions() {
        let mut at = region.start();
        while at < region.end() {
            let piece = &mut piece[..(region.end() - at).min(PIECE) as usize];
            memory.read(at, piece).map_err(io::Error::other)?;
            file.write_all(piece)?;
            at += piece.len() as u64;
        }
    }
    file.finish()?;
    Ok(())
}

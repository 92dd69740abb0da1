//! What a checkpoint says of the processor and, in a group of our own, of all the rest: so much that a machine can go
//! on from it.

use crate::disks::checkpointed;
use crate::exit::{Exit, Failure};
use dejavm_cpu::{CpuState, Segment};
use dejavm_machine::{Machine, MachineState};
use dejavm_memory::GuestRam;
use dejavm_replay::{External, Header, SEMANTICS, SEMANTICS_OLDEST};
use dejavm_units::{Gpa, Pfn};
use std::path::Path;
use vmss::{Checkpoint, SegmentRegister, Table, TagList, Vcpu};

/// Our group.
pub const GROUP: &str = "dejavm";
/// The layout of our group's tags.
const FORMAT: u32 = 1;
/// Headers and states are far smaller.
const STATE_BYTES_MAX: u64 = 64 << 20;
/// Bytes of a page and its number, as a checkpoint holds pages of volumes.
const NUMBERED_PAGE: usize = 8 + 4096;
/// Such pages in one tag.
const PAGES_IN_TAG: usize = 4096;
/// And in all: 1 GiB. They are in memory while they are written.
const PAGES_MAX: usize = 1 << 18;

/// The registers, for everybody.
pub fn vcpu(cpu: &CpuState) -> Vcpu {
    let segment = |segment: &Segment| SegmentRegister {
        selector: segment.selector,
        base: segment.base,
        limit: Some(segment.limit),
        rights: Some(segment.rights.0),
    };
    let [es, cs, ss, ds, fs, gs] = cpu.seg.each_ref().map(segment);
    Vcpu {
        gpr: cpu.gpr,
        rip: cpu.rip,
        eflags: cpu.rflags as u32,
        cr: [cpu.cr0, 0, cpu.cr2, cpu.cr3, cpu.cr4, 0, 0, 0, 0],
        dr: cpu.dr,
        segments: [es, cs, ss, ds, fs, gs, segment(&cpu.ldtr), segment(&cpu.tr)],
        gdtr: Table { base: cpu.gdtr.base, limit: cpu.gdtr.limit },
        idtr: Table { base: cpu.idtr.base, limit: cpu.idtr.limit },
        is_halted: cpu.halted,
        efer: Some(cpu.efer),
        kernel_gs_base: Some(cpu.msr.kernel_gs_base),
    }
}

/// The name of a tag with pages of volumes.
fn pages_tag(number: u32) -> String {
    format!("volumes{number}")
}

/// The machine, for ourselves: `images` are those that its drives had at the start, and what the guest has written since is in
/// pages of volumes, as RAM behind ROM and the display's memory are.
pub fn tags(header: &Header, images: &[External], state: &MachineState, ram: &GuestRam) -> TagList {
    let encode = |value: Result<Vec<u8>, bincode::error::EncodeError>| {
        value.expect("it is encoded into memory")
    };
    let config = bincode::config::standard();
    let mut tags = TagList::new();
    tags.word("format", &[], FORMAT);
    tags.word("semantics", &[], SEMANTICS);
    tags.block("header", &[], &encode(bincode::serde::encode_to_vec(header, config)));
    tags.block("state", &[], &encode(bincode::serde::encode_to_vec(state, config)));
    let volumes: Vec<Pfn> = ram.volume_pages().take(PAGES_MAX + 1).collect();
    // Who goes on from a checkpoint without them is told.
    if volumes.len() <= PAGES_MAX {
        tags.block("images", &[], &encode(bincode::serde::encode_to_vec(images, config)));
        let mut count = 0;
        for some in volumes.chunks(PAGES_IN_TAG) {
            let mut bytes = Vec::with_capacity(some.len() * NUMBERED_PAGE);
            let mut page = [0; 4096];
            for pfn in some {
                ram.read_page(*pfn, &mut page).expect("it is one of its pages");
                bytes.extend(pfn.0.to_le_bytes());
                bytes.extend(page);
            }
            tags.block(&pages_tag(count), &[], &bytes);
            count += 1;
        }
        tags.word("volumes", &[], count);
    }
    tags
}

/// Puts the pages of volumes back.
fn load_volumes(checkpoint: &Checkpoint, count: u32, ram: &mut GuestRam) -> Result<(), String> {
    for number in 0..count {
        let limit = (PAGES_IN_TAG * NUMBERED_PAGE) as u64;
        let bytes = checkpoint.value(GROUP, &pages_tag(number), limit);
        let bytes = bytes.map_err(|error| error.to_string())?;
        let bytes = bytes.ok_or_else(|| format!("{} is missing", pages_tag(number)))?;
        for numbered in bytes.chunks(NUMBERED_PAGE) {
            let (pfn, page) = numbered.split_first_chunk::<8>().ok_or("a page is cut off")?;
            let pfn = Pfn(u64::from_le_bytes(*pfn));
            if page.len() != 4096 || !ram.is_volume_page(pfn) {
                return Err(format!("page {:#x} is none of a drive's", pfn.0));
            }
            ram.write_page(pfn, page).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// A machine out of a checkpoint of ours.
pub struct Restored {
    /// The machine, with its memory.
    pub machine: Machine,
    /// Of the recording that the checkpoint was taken from.
    pub header: Header,
    /// The images of its drives.
    pub images: Vec<External>,
}

impl Restored {
    /// Makes the machine that a checkpoint is of.
    pub fn from_file(path: &Path) -> Result<Restored, Failure> {
        let shown = path.display();
        let failed = |error: vmss::Error| Failure::new(Exit::Failed, format!("{shown}: {error}"));
        let (checkpoint, memory, paths) = Checkpoint::open(path, None).map_err(failed)?;
        let word = |name| -> Result<Option<u32>, Failure> {
            let bytes = checkpoint.value(GROUP, name, 4).map_err(failed)?;
            Ok(bytes.and_then(|bytes| Some(u32::from_le_bytes(bytes.try_into().ok()?))))
        };
        match (word("format")?, word("semantics")?) {
            (None, _) => {
                let sentence = format!(
                    "{shown}: a machine can go on from a checkpoint of dejavm's only, for nobody knows how VMware stores its \
                     devices"
                );
                return Err(Failure::new(Exit::Failed, sentence));
            }
            (Some(FORMAT), Some(SEMANTICS_OLDEST..=SEMANTICS)) => {}
            _ => {
                let sentence = format!(
                    "{shown}: another version of dejavm took this checkpoint, and only that can go on from it"
                );
                return Err(Failure::new(Exit::Recording, sentence));
            }
        }
        // VMware leaves out what a guest never wrote; we do not.
        if memory.bytes_missing() > 0 {
            let file = paths.memory.unwrap_or_else(|| path.to_owned());
            let sentence = format!(
                "{}: its last {:#x} bytes are missing; it was not copied whole",
                file.display(),
                memory.bytes_missing()
            );
            return Err(Failure::new(Exit::Recording, sentence));
        }
        let header: Header = decode(&checkpoint, "header").map_err(|what| damaged(path, &what))?;
        let state: MachineState =
            decode(&checkpoint, "state").map_err(|what| damaged(path, &what))?;
        let volumes = word("volumes")?;
        if !header.config.hardware.drives.is_empty() && volumes.is_none() {
            let sentence = format!(
                "{shown}: this machine has disks, and this checkpoint does not hold what was written to them: an older \
                 dejavm took it, or it was more than 1 GiB; go on from the recording with `dejavm branch`"
            );
            return Err(Failure::new(Exit::Failed, sentence));
        }
        let images: Vec<External> = match volumes {
            Some(_) => decode(&checkpoint, "images").map_err(|what| damaged(path, &what))?,
            None => Vec::new(),
        };
        let mut machine = Machine::from_state(&header.config, &state)
            .map_err(|error| damaged(path, &error.to_string()))?;
        let pages: Vec<_> = machine.ram().pages().collect();
        let mut page = [0; 4096];
        for pfn in pages {
            let Gpa(address) = pfn.gpa();
            memory.read(address, &mut page).map_err(failed)?;
            if page != [0; 4096] {
                machine.ram_mut().write(pfn.gpa(), &page).expect("`pages` lists RAM");
            }
        }
        load_volumes(&checkpoint, volumes.unwrap_or(0), machine.ram_mut())
            .map_err(|what| damaged(path, &what))?;
        let storages = checkpointed(&header.config.hardware, &images)
            .map_err(|failure| failure.about(&shown.to_string()))?;
        machine.set_storages(storages);
        Ok(Restored { machine, header, images })
    }
}

fn decode<T: serde::de::DeserializeOwned>(
    checkpoint: &Checkpoint,
    name: &str,
) -> Result<T, String> {
    let bytes =
        checkpoint.value(GROUP, name, STATE_BYTES_MAX).map_err(|error| error.to_string())?;
    let bytes = bytes.ok_or_else(|| format!("{name} is missing"))?;
    let config = bincode::config::standard().with_limit::<{ STATE_BYTES_MAX as usize }>();
    let (value, used) =
        bincode::serde::decode_from_slice(&bytes, config).map_err(|error| error.to_string())?;
    match used == bytes.len() {
        true => Ok(value),
        false => Err(format!("{name} has {} bytes too many", bytes.len() - used)),
    }
}

fn damaged(path: &Path, what: &str) -> Failure {
    Failure::new(
        Exit::Recording,
        format!("{}: the machine in it is damaged: {what}", path.display()),
    )
}

//! What a checkpoint says of the processor and, in a group of our own, of all the rest: so much that a machine can go
//! on from it.

use crate::exit::{Exit, Failure};
use dejavm_cpu::{CpuState, Segment};
use dejavm_machine::{Machine, MachineState};
use dejavm_replay::{Header, SEMANTICS};
use dejavm_units::Gpa;
use std::path::Path;
use vmss::{Checkpoint, SegmentRegister, Table, TagList, Vcpu};

/// Our group.
pub const GROUP: &str = "dejavm";
/// The layout of our group's tags.
const FORMAT: u32 = 1;
/// Headers and states are far smaller.
const STATE_BYTES_MAX: u64 = 64 << 20;

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

/// The machine, for ourselves.
pub fn tags(header: &Header, state: &MachineState) -> TagList {
    let encode = |value: Result<Vec<u8>, bincode::error::EncodeError>| {
        value.expect("it is encoded into memory")
    };
    let config = bincode::config::standard();
    let mut tags = TagList::new();
    tags.word("format", &[], FORMAT);
    tags.word("semantics", &[], SEMANTICS);
    tags.block("header", &[], &encode(bincode::serde::encode_to_vec(header, config)));
    tags.block("state", &[], &encode(bincode::serde::encode_to_vec(state, config)));
    tags
}

/// A machine out of a checkpoint of ours.
pub struct Restored {
    /// The machine, with its memory.
    pub machine: Machine,
    /// Of the recording that the checkpoint was taken from.
    pub header: Header,
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
            (Some(FORMAT), Some(SEMANTICS)) => {}
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
        if !header.config.hardware.drives.is_empty() {
            let sentence = format!(
                "{shown}: this machine has disks, and a checkpoint does not hold them; go on from the recording with `dejavm \
                 branch`"
            );
            return Err(Failure::new(Exit::Failed, sentence));
        }
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
        Ok(Restored { machine, header })
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

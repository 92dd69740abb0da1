//! The payloads: one struct a kind.

use super::bytes::Bytes;
use super::frame::{FileError, LENGTH_MAX};
use crate::digest::Digest;
use crate::pages::PageBatch;
use dejavm_machine::{End, Hardware, Input, MachineConfig};
use dejavm_units::{GuestNs, Position};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Version of the machine's behaviour. A recording replays on the behaviour it was made on: raise this with every change that a
/// guest could notice, and say in [`Header::corrected_since`] what it is; if most guests do, raise [`SEMANTICS_OLDEST`] too.
pub const SEMANTICS: u32 = 2;

/// The oldest behaviour whose recordings are replayed. What was corrected since is met by so few guests that theirs are tried: where it
/// matters, a digest differs.
pub const SEMANTICS_OLDEST: u32 = 1;

/// A point of a run: a position, and where in the idle stretch at that position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Moment {
    /// Instructions completed.
    pub position: Position,
    /// Guest time.
    pub guest_ns: GuestNs,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "position {} ({})", self.position, self.guest_ns)
    }
}

/// What was recorded, and on what machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "HeaderInFile", into = "HeaderInFile")]
pub struct Header {
    /// Name and version of the program that wrote the file.
    pub creator: String,
    /// See [`SEMANTICS`].
    pub semantics: u32,
    /// The machine.
    pub config: MachineConfig,
    /// What was booted and how, for people: names of kernel and initrd, the kernel's command line, the engine that recorded.
    pub guest: Vec<(String, String)>,
    /// Positions between digests; 0 for only the one at the end.
    pub digest_interval: u64,
}

/// As files have it: what came later than version 2 of the format stands at the end, if it is there.
#[derive(Serialize, Deserialize)]
struct HeaderInFile {
    creator: String,
    semantics: u32,
    config: MachineConfig,
    guest: Vec<(String, String)>,
    digest_interval: u64,
    #[serde(with = "dejavm_machine::tail")]
    hardware: Hardware,
}

impl From<HeaderInFile> for Header {
    fn from(file: HeaderInFile) -> Header {
        let HeaderInFile { creator, semantics, config, guest, digest_interval, hardware } = file;
        let config = MachineConfig { hardware, ..config };
        Header { creator, semantics, config, guest, digest_interval }
    }
}

impl From<Header> for HeaderInFile {
    fn from(header: Header) -> HeaderInFile {
        let Header { creator, semantics, config, guest, digest_interval } = header;
        let hardware = config.hardware.clone();
        HeaderInFile { creator, semantics, config, guest, digest_interval, hardware }
    }
}

/// [`Header::guest`] has this if positions are exits: see [`dejavm_machine::TimeBase::Exits`].
const POSITIONS: (&str, &str) = ("positions", "exits");

impl Header {
    /// What this program's machine does otherwise than the recording's did, if anything.
    pub fn corrected_since(&self) -> Option<&'static str> {
        match self.semantics {
            1 => Some(
                "a trap behind a SYSRET that sets TF, the flag RF where a guest shuts down, DPPS and DPPD of several NaNs, a device's NMI \
                 to a processor that halted with interrupts off",
            ),
            _ => None,
        }
    }

    /// Whether positions are exits, and not instructions: an engine recorded that cannot count those.
    pub fn positions_are_exits(&self) -> bool {
        self.guest.iter().any(|(role, text)| (role.as_str(), text.as_str()) == POSITIONS)
    }

    /// Says whether positions are exits.
    pub fn set_positions_are_exits(&mut self, exits: bool) {
        self.guest.retain(|(role, _)| role != POSITIONS.0);
        if exits {
            self.guest.push((POSITIONS.0.into(), POSITIONS.1.into()));
        }
    }
}

/// The machine's state at position 0, without RAM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The state in bincode.
    pub state: Vec<u8>,
}

/// An input and when it entered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamped {
    /// When.
    pub at: Moment,
    /// What.
    pub input: Input,
}

/// How a recording ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// The machine ended by itself.
    Guest(End),
    /// The user, or the end of what was asked for, stopped it.
    Stopped,
}

/// The last chunk before the index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndChunk {
    /// Why.
    pub ending: Ending,
    /// When.
    pub at: Moment,
    /// XXH3-128 of all console output, in order.
    pub console: crate::digest::Hash128,
    /// Bytes of console output.
    pub console_bytes: u64,
}

/// A named position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// When.
    pub at: Moment,
    /// The name.
    pub name: String,
}

/// A file that the recording needs but does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct External {
    /// What it was to the machine: "kernel", "initrd", "drive0.raw".
    pub role: String,
    /// Where it was.
    pub path: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its BLAKE3.
    pub blake3: [u8; 32],
}

/// The beginning of a drive's role; its number follows.
const DRIVE: &str = "drive";

impl External {
    /// The role of an image of what a drive of the machine held at the start.
    pub fn drive_role(number: usize, format: &str) -> String {
        format!("{DRIVE}{number}.{format}")
    }

    /// Which of the machine's drives it is, and the image's format; `None`: another file.
    pub fn drive(&self) -> Option<(usize, &str)> {
        let (number, format) = self.role.strip_prefix(DRIVE)?.split_once('.')?;
        Some((number.parse().ok()?, format))
    }

    /// Whether it is a drive's.
    pub fn is_drive(&self) -> bool {
        self.drive().is_some()
    }
}

/// The machine at a later position, and the pages written since the checkpoint before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointChunk {
    /// When: at rest, just arrived.
    pub at: Moment,
    /// The state in bincode.
    pub state: Vec<u8>,
    /// Offsets of chunks with contents.
    pub sources: Vec<u64>,
    /// Page number, source (0: zeros; n: the nth of `sources`), which of its pages.
    pub pages: Vec<(u64, u32, u32)>,
}

/// What a recording was branched from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// The file's name, for people.
    pub name: String,
    /// A hash over the parent up to the place.
    pub identity: [u8; 32],
    /// The place.
    pub at: Moment,
}

/// Blocks of what a drive of the machine held at the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageBlocks {
    /// Which drive.
    pub drive: u16,
    /// The blocks' numbers, in units of 4096 bytes.
    pub blocks: Vec<u64>,
    /// Their contents.
    pub contents: Bytes,
}

/// A chunk's contents.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "named after the kinds of the format")]
pub enum Chunk {
    Header(Box<Header>),
    Start(Start),
    Pages(PageBatch),
    Inputs(Vec<Stamped>),
    Progress(Moment),
    Digest(Box<Digest>),
    End(EndChunk),
    Mark(Mark),
    External(External),
    Index(Vec<(u16, u64)>),
    Contents(Bytes),
    Checkpoint(Box<CheckpointChunk>),
    Parent(Parent),
    Image(ImageBlocks),
}

/// The kinds, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "named after the kinds of the format")]
#[repr(u16)]
pub enum Kind {
    Header = 1,
    Start = 2,
    Pages = 3,
    Inputs = 4,
    Progress = 5,
    Digest = 6,
    End = 7,
    Mark = 8,
    External = 9,
    Index = 10,
    Contents = 11,
    Checkpoint = 12,
    Parent = 13,
    Image = 14,
}

impl Kind {
    /// The kind with a number, if this version knows it.
    pub fn from_number(number: u16) -> Option<Kind> {
        [
            Kind::Header,
            Kind::Start,
            Kind::Pages,
            Kind::Inputs,
            Kind::Progress,
            Kind::Digest,
            Kind::End,
            Kind::Mark,
            Kind::External,
            Kind::Index,
            Kind::Contents,
            Kind::Checkpoint,
            Kind::Parent,
            Kind::Image,
        ]
        .into_iter()
        .find(|&kind| kind as u16 == number)
    }
}

impl Kind {
    /// Bytes of payload at most. Small where a few bytes become a large struct in memory.
    pub(super) fn length_max(self) -> u32 {
        match self {
            Kind::Header
            | Kind::Progress
            | Kind::End
            | Kind::Mark
            | Kind::External
            | Kind::Parent => 1 << 20,
            Kind::Inputs => 4 << 20,
            Kind::Pages | Kind::Contents | Kind::Checkpoint | Kind::Image => 8 << 20,
            Kind::Index => 16 << 20,
            Kind::Start | Kind::Digest => LENGTH_MAX,
        }
    }
}

impl Chunk {
    /// The chunk's kind.
    pub fn kind(&self) -> Kind {
        match self {
            Chunk::Header(_) => Kind::Header,
            Chunk::Start(_) => Kind::Start,
            Chunk::Pages(_) => Kind::Pages,
            Chunk::Inputs(_) => Kind::Inputs,
            Chunk::Progress(_) => Kind::Progress,
            Chunk::Digest(_) => Kind::Digest,
            Chunk::End(_) => Kind::End,
            Chunk::Mark(_) => Kind::Mark,
            Chunk::External(_) => Kind::External,
            Chunk::Index(_) => Kind::Index,
            Chunk::Contents(_) => Kind::Contents,
            Chunk::Checkpoint(_) => Kind::Checkpoint,
            Chunk::Parent(_) => Kind::Parent,
            Chunk::Image(_) => Kind::Image,
        }
    }

    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        into.clear();
        match self {
            Chunk::Header(payload) => write_bytes(payload, into),
            Chunk::Start(payload) => write_bytes(payload, into),
            Chunk::Pages(payload) => write_bytes(payload, into),
            Chunk::Inputs(payload) => write_bytes(payload, into),
            Chunk::Progress(payload) => write_bytes(payload, into),
            Chunk::Digest(payload) => {
                write_bytes(payload, into);
                if !payload.listed.is_empty() {
                    write_bytes(&payload.listed, into);
                }
            }
            Chunk::End(payload) => write_bytes(payload, into),
            Chunk::Mark(payload) => write_bytes(payload, into),
            Chunk::External(payload) => write_bytes(payload, into),
            Chunk::Index(payload) => write_bytes(payload, into),
            Chunk::Contents(payload) => write_bytes(payload, into),
            Chunk::Checkpoint(payload) => write_bytes(payload, into),
            Chunk::Parent(payload) => write_bytes(payload, into),
            Chunk::Image(payload) => write_bytes(payload, into),
        }
    }

    pub(super) fn decode(kind: Kind, bytes: &[u8], offset: u64) -> Result<Chunk, FileError> {
        let undecodable = |reason| FileError::Undecodable { offset, reason };
        Ok(match kind {
            Kind::Header => Chunk::Header(from_bytes(bytes).map_err(undecodable)?),
            Kind::Start => Chunk::Start(from_bytes(bytes).map_err(undecodable)?),
            Kind::Pages => Chunk::Pages(from_bytes(bytes).map_err(undecodable)?),
            Kind::Inputs => Chunk::Inputs(from_bytes(bytes).map_err(undecodable)?),
            Kind::Progress => Chunk::Progress(from_bytes(bytes).map_err(undecodable)?),
            Kind::Digest => {
                let (mut digest, used): (Digest, usize) = decode(bytes).map_err(undecodable)?;
                if used < bytes.len() {
                    digest.listed = from_bytes(&bytes[used..]).map_err(undecodable)?;
                }
                Chunk::Digest(Box::new(digest))
            }
            Kind::End => Chunk::End(from_bytes(bytes).map_err(undecodable)?),
            Kind::Mark => Chunk::Mark(from_bytes(bytes).map_err(undecodable)?),
            Kind::External => Chunk::External(from_bytes(bytes).map_err(undecodable)?),
            Kind::Index => Chunk::Index(from_bytes(bytes).map_err(undecodable)?),
            Kind::Contents => Chunk::Contents(from_bytes(bytes).map_err(undecodable)?),
            Kind::Checkpoint => Chunk::Checkpoint(from_bytes(bytes).map_err(undecodable)?),
            Kind::Parent => Chunk::Parent(from_bytes(bytes).map_err(undecodable)?),
            Kind::Image => Chunk::Image(from_bytes(bytes).map_err(undecodable)?),
        })
    }
}

/// bincode, standard configuration: the encoding of every payload.
pub(crate) fn to_bytes<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_bytes(value, &mut bytes);
    bytes
}

/// The same, behind what is there.
fn write_bytes<T: Serialize + ?Sized>(value: &T, into: &mut Vec<u8>) {
    bincode::serde::encode_into_std_write(value, into, bincode::config::standard())
        .expect("plain data always encodes into memory");
}

/// The inverse, and how many bytes it is; bounded by the largest payload.
fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), String> {
    let config = bincode::config::standard().with_limit::<{ LENGTH_MAX as usize }>();
    bincode::serde::decode_from_slice(bytes, config).map_err(|error| error.to_string())
}

/// As [`decode`]; nothing may be left over.
pub(crate) fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let (value, used) = decode(bytes)?;
    if used != bytes.len() {
        return Err(format!("{} bytes are left over", bytes.len() - used));
    }
    Ok(value)
}

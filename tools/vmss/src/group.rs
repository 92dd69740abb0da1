//! The table of groups: after the header, 80 bytes for each.

use crate::source::{ReadAt, read_all};
use crate::{Error, Magic, Result};

/// Bytes before the table: magic, version, number of groups, 32 bits each.
pub(crate) const HEADER_BYTES: u64 = 12;
/// Bytes for each group: a name of 64, position and size of 64 bits each.
pub(crate) const GROUP_BYTES: u64 = 80;
/// Bytes of a name, padded with zeros.
pub(crate) const NAME_BYTES: usize = 64;
/// More than any product writes (92 in a file of ESX 4.1).
const GROUPS_MAX: u32 = 4096;

/// A group of tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name, bytes as code points.
    pub name: String,
    /// Where its first tag is in the file.
    pub position: u64,
    /// Bytes, its end mark included.
    pub size: u64,
}

/// The header and the table of groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupTable {
    /// The first four bytes.
    pub magic: Magic,
    /// The header's second word. No reader knows what it means.
    pub version: u32,
    /// In the file's order.
    pub groups: Vec<Group>,
}

impl GroupTable {
    /// Reads the header and the table.
    pub(crate) fn read(source: &dyn ReadAt) -> Result<GroupTable> {
        let size = source.size().map_err(|source| Error::Read { at: 0, source })?;
        let mut header = [0; HEADER_BYTES as usize];
        read_all(source, &mut header, 0)?;
        let word =
            |n: usize| u32::from_le_bytes(header[4 * n..4 * n + 4].try_into().expect("four bytes"));
        let magic = Magic::of(word(0)).ok_or(Error::Magic(word(0)))?;
        if let Magic::Old(value) = magic {
            let sentence = format!(
                "an old checkpoint with sizes of 32 bits ({value:#010x}), whose format nobody has described; let a newer \
                 product resume and suspend the machine"
            );
            return Err(Error::Unsupported(sentence));
        }
        let count = word(2);
        if count > GROUPS_MAX || HEADER_BYTES + u64::from(count) * GROUP_BYTES > size {
            let what = format!("{count} groups do not fit into a file of {size} bytes");
            return Err(Error::damaged(8, what));
        }
        let mut table = vec![0; count as usize * GROUP_BYTES as usize];
        read_all(source, &mut table, HEADER_BYTES)?;
        let groups = table.chunks_exact(GROUP_BYTES as usize).enumerate().map(|(n, entry)| {
            let name = &entry[..NAME_BYTES];
            let end = name.iter().position(|&byte| byte == 0).unwrap_or(NAME_BYTES);
            let name: String = name[..end].iter().map(|&byte| char::from(byte)).collect();
            let long =
                |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().expect("eight bytes"));
            let (position, bytes) = (long(64), long(72));
            if position > size {
                let what = format!(
                    "group {name:?} would begin at {position:#x}, behind the end of the file"
                );
                return Err(Error::damaged(HEADER_BYTES + n as u64 * GROUP_BYTES + 64, what));
            }
            Ok(Group { name, position, size: bytes })
        });
        Ok(GroupTable { magic, version: word(1), groups: groups.collect::<Result<_>>()? })
    }

    /// The last group of this name: where there are several, readers go by that.
    pub fn find(&self, name: &str) -> Option<&Group> {
        self.groups.iter().rev().find(|group| group.name == name)
    }
}

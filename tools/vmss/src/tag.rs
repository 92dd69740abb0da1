//! Tags: names with indices and values.
//!
//! A tag begins with two bytes: flags (bits 7 and 6 the number of indices, bits 5 to 0 the size of the value) and the
//! length of the name; both zero end a group. The name follows, the indices of 32 bits, the value. Sizes 62 and 63
//! stand for a block, compressed and plain: bytes in the file and in memory (64 bits each), the length of a padding
//! (16 bits), the padding, the bytes.

use crate::group::Group;
use crate::source::{ReadAt, read_all};
use crate::{Error, Result};

/// Values that are this size are compressed blocks.
pub(crate) const COMPRESSED: u8 = 62;
/// Values that are this size are plain blocks.
pub(crate) const PLAIN: u8 = 63;
/// Bytes of a block before its padding.
pub(crate) const BLOCK_HEADER_BYTES: u64 = 18;

/// A tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Its name, bytes as code points.
    pub name: String,
    /// At most three.
    pub indices: Vec<u32>,
    /// Its value, or where that is.
    pub value: Value,
    /// Where the tag is in the file.
    pub position: u64,
}

/// A tag's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// At most 61 bytes, in the tag.
    Inline(Vec<u8>),
    /// Any number of bytes, somewhere in the file.
    Block(Block),
}

/// Where a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Where its bytes are in the file, behind the padding.
    pub position: u64,
    /// Bytes in the file.
    pub bytes: u64,
    /// Bytes that it stands for.
    pub bytes_in_memory: u64,
    /// Bytes of padding before it.
    pub padding: u16,
    /// By a method that no public reader knows.
    pub is_compressed: bool,
}

impl Tag {
    /// Whether this is the tag of a name and indices.
    pub fn is(&self, name: &str, indices: &[u32]) -> bool {
        self.name == name && self.indices == indices
    }

    /// The value as an integer, if it has 1, 2, 4 or 8 bytes.
    pub fn integer(&self) -> Option<u64> {
        let Value::Inline(bytes) = &self.value else { return None };
        matches!(bytes.len(), 1 | 2 | 4 | 8).then(|| {
            let mut wide = [0; 8];
            wide[..bytes.len()].copy_from_slice(bytes);
            u64::from_le_bytes(wide)
        })
    }

    /// The value's bytes, if there are at most `limit` and they are not compressed.
    pub(crate) fn bytes(&self, source: &dyn ReadAt, limit: u64) -> Result<Option<Vec<u8>>> {
        match &self.value {
            Value::Inline(bytes) => Ok(Some(bytes.clone())),
            Value::Block(block) if block.is_compressed || block.bytes > limit => Ok(None),
            Value::Block(block) => {
                let mut bytes = vec![0; block.bytes as usize];
                read_all(source, &mut bytes, block.position)?;
                Ok(Some(bytes))
            }
        }
    }
}

/// The tags of a group, one after another; ends at an error.
pub struct Tags<'a> {
    source: &'a dyn ReadAt,
    size: u64,
    at: u64,
    /// What was read ahead, and where from.
    ahead: Vec<u8>,
    ahead_at: u64,
    done: bool,
}

/// Bytes read at a time: a tag without its block has at most 2 + 255 + 12 + 61.
const AHEAD_BYTES: usize = 4096;

impl<'a> Tags<'a> {
    pub(crate) fn new(source: &'a dyn ReadAt, group: &Group) -> Result<Tags<'a>> {
        let size = source.size().map_err(|source| Error::Read { at: 0, source })?;
        Ok(Tags { source, size, at: group.position, ahead: Vec::new(), ahead_at: 0, done: false })
    }

    fn take(&mut self, count: usize) -> Result<&[u8]> {
        let have = self.at.checked_sub(self.ahead_at).map(|skip| skip as usize);
        let enough = have.is_some_and(|skip| skip.saturating_add(count) <= self.ahead.len());
        if !enough {
            let rest = usize::try_from(self.size.saturating_sub(self.at)).unwrap_or(usize::MAX);
            self.ahead.resize(AHEAD_BYTES.min(rest), 0);
            self.ahead_at = self.at;
            read_all(self.source, &mut self.ahead, self.at)?;
        }
        let from = (self.at - self.ahead_at) as usize;
        let Some(bytes) = self.ahead.get(from..from + count) else {
            return Err(Error::damaged(self.at, "the file ends within a tag"));
        };
        self.at += count as u64;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("as many bytes as asked for"))
    }

    fn tag(&mut self) -> Result<Option<Tag>> {
        let position = self.at;
        let [flags, name_bytes] = self.array()?;
        if (flags, name_bytes) == (0, 0) {
            return Ok(None);
        }
        if name_bytes == 0 {
            return Err(Error::damaged(position, "a tag without a name"));
        }
        let name = self.take(name_bytes.into())?.iter().map(|&byte| char::from(byte)).collect();
        let indices = (0..flags >> 6).map(|_| Ok(u32::from_le_bytes(self.array()?)));
        let indices = indices.collect::<Result<_>>()?;
        let value = match flags & 0x3f {
            size @ (COMPRESSED | PLAIN) => Value::Block(self.block(size == COMPRESSED)?),
            size => Value::Inline(self.take(size.into())?.to_vec()),
        };
        Ok(Some(Tag { name, indices, value, position }))
    }

    fn block(&mut self, is_compressed: bool) -> Result<Block> {
        let header = self.at;
        let bytes = u64::from_le_bytes(self.array()?);
        let bytes_in_memory = u64::from_le_bytes(self.array()?);
        let padding = u16::from_le_bytes(self.array()?);
        let position = self.at + u64::from(padding);
        match position.checked_add(bytes) {
            Some(end) if end <= self.size => self.at = end,
            _ => {
                let what = format!(
                    "a block of {bytes} bytes begins there, and the file ends at {:#x}; was it copied whole?",
                    self.size
                );
                return Err(Error::damaged(header, what));
            }
        }
        Ok(Block { position, bytes, bytes_in_memory, padding, is_compressed })
    }
}

impl Iterator for Tags<'_> {
    type Item = Result<Tag>;

    fn next(&mut self) -> Option<Result<Tag>> {
        if self.done {
            return None;
        }
        let tag = self.tag().transpose();
        self.done = !matches!(tag, Some(Ok(_)));
        tag
    }
}

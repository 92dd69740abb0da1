//! BTF, the kernel's description of its own types (`Documentation/bpf/btf.rst`): found by its magic, read on demand.
//!
//! Only offsets by *name path* are asked for, with descent through anonymous members, so that a layout is what the running
//! kernel says and never a table for a version.

use memchr::memmem;
use std::collections::BTreeMap;

/// Magic 0xeb9f, version 1, flags 0.
const MAGIC: [u8; 4] = [0x9f, 0xeb, 1, 0];
/// Kernels have up to 6 MB of it; more than this is something else.
const BYTES_MAX: u64 = 64 << 20;
/// Structures within structures; typedefs of typedefs.
const DEPTH_MAX: u32 = 16;

/// The number of a type; 0 is `void`.
pub(crate) type TypeId = u32;

/// Kinds of types, as the format numbers them.
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const FLOAT: u32 = 16;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
    pub(super) const LAST: u32 = 19;
    pub(super) const POINTER: u32 = 2;
}

/// A member found by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Bytes from the start of the outermost structure.
    pub(crate) offset: u64,
    /// What it is.
    pub(crate) ty: TypeId,
}

/// Types of a kernel.
#[derive(Clone, Debug)]
pub struct Btf {
    types: Vec<u8>,
    strings: Vec<u8>,
    /// Where type `n` begins in `types`, at index `n - 1`.
    index: Vec<u32>,
    structs: BTreeMap<Vec<u8>, TypeId>,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(word.try_into().expect("four bytes")))
}

impl Btf {
    /// The largest BTF in `image` that describes a `task_struct`: modules' BTF has the same magic.
    pub(crate) fn find(image: &[u8]) -> Option<Btf> {
        let mut best: Option<(usize, usize)> = None;
        for at in memmem::find_iter(image, &MAGIC) {
            if let Some(bytes) = plausible(&image[at..])
                && best.is_none_or(|(_, most)| bytes > most)
                && memmem::find(&image[at..at + bytes], b"\0task_struct\0").is_some()
            {
                best = Some((at, bytes));
            }
        }
        let (at, bytes) = best?;
        Btf::parse(&image[at..at + bytes])
    }

    /// Parses a `.BTF` section or `/sys/kernel/btf/vmlinux`.
    pub fn parse(data: &[u8]) -> Option<Btf> {
        plausible(data)?;
        let header = u32_at(data, 4)? as usize;
        let section = |offset: usize, length: usize| {
            let start = header.checked_add(u32_at(data, offset)? as usize)?;
            data.get(start..start.checked_add(u32_at(data, length)? as usize)?)
        };
        let mut btf = Btf {
            types: section(8, 12)?.to_vec(),
            strings: section(16, 20)?.to_vec(),
            index: Vec::new(),
            structs: BTreeMap::new(),
        };
        btf.build_index()?;
        Some(btf)
    }

    fn build_index(&mut self) -> Option<()> {
        let mut at = 0;
        while at < self.types.len() {
            let info = u32_at(&self.types, at + 4)?;
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            let more = match kind {
                kind::INT | kind::VAR | kind::DECL_TAG => 4,
                kind::ARRAY => 12,
                kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * count,
                kind::ENUM | kind::FUNC_PROTO => 8 * count,
                1..=kind::LAST => 0,
                _ => return None,
            };
            self.index.push(u32::try_from(at).ok()?);
            if kind == kind::STRUCT || kind == kind::UNION || kind == kind::DATASEC {
                let name = self.name(u32_at(&self.types, at)?).to_vec();
                if !name.is_empty() {
                    self.structs.entry(name).or_insert(self.index.len() as TypeId);
                }
            }
            at += 12 + more;
        }
        Some(())
    }

    fn name(&self, offset: u32) -> &[u8] {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        rest.split(|&byte| byte == 0).next().unwrap_or_default()
    }

    /// A type's place, kind, kind flag, number of members, and size or referred type.
    fn describe(&self, ty: TypeId) -> Option<(usize, u32, bool, usize, u32)> {
        let at = *self.index.get(ty.checked_sub(1)? as usize)? as usize;
        let info = u32_at(&self.types, at + 4)?;
        let last = u32_at(&self.types, at + 8)?;
        Some((at, info >> 24 & 0x1f, info >> 31 != 0, (info & 0xffff) as usize, last))
    }

    /// Number of types.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// No type at all.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Through typedefs and qualifiers to what they name.
    fn resolve(&self, mut ty: TypeId) -> Option<TypeId> {
        for _ in 0..DEPTH_MAX {
            let (_, kind, _, _, next) = self.describe(ty)?;
            match kind {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    ty = next
                }
                _ => return Some(ty),
            }
        }
        None
    }

    /// Size in bytes of a type.
    pub(crate) fn size(&self, ty: TypeId, pointer_bytes: u64) -> Option<u64> {
        self.size_within(ty, pointer_bytes, DEPTH_MAX)
    }

    fn size_within(&self, ty: TypeId, pointer_bytes: u64, depth: u32) -> Option<u64> {
        let ty = self.resolve(ty)?;
        let (at, kind, _, _, last) = self.describe(ty)?;
        match kind {
            kind::INT | kind::STRUCT | kind::UNION | kind::ENUM | kind::ENUM64 | kind::FLOAT => {
                Some(u64::from(last))
            }
            kind::POINTER => Some(pointer_bytes),
            kind::ARRAY if depth > 0 => {
                let element =
                    self.size_within(u32_at(&self.types, at + 12)?, pointer_bytes, depth - 1)?;
                element.checked_mul(u64::from(u32_at(&self.types, at + 20)?))
            }
            _ => None,
        }
    }

    /// Bytes of a pointer: those of `unsigned long`, which is as long on every Linux.
    pub fn pointer_bytes(&self) -> Option<u64> {
        (1..=self.len() as TypeId).find_map(|ty| {
            let (at, kind, _, _, bytes) = self.describe(ty)?;
            let name = self.name(u32_at(&self.types, at)?);
            let long =
                kind == kind::INT && (name == b"long unsigned int" || name == b"unsigned long");
            (long && (bytes == 4 || bytes == 8)).then_some(u64::from(bytes))
        })
    }

    /// The structure or union of this name.
    pub(crate) fn structure(&self, name: &str) -> Option<TypeId> {
        self.structs.get(name.as_bytes()).copied()
    }

    /// The member at a path such as `thread.sp` of a structure.
    pub(crate) fn member(&self, structure: TypeId, path: &str) -> Option<Member> {
        let mut found = Member { offset: 0, ty: structure };
        for name in path.split('.') {
            let next = self.direct_member(self.resolve(found.ty)?, name.as_bytes(), DEPTH_MAX)?;
            found = Member { offset: found.offset + next.offset, ty: next.ty };
        }
        Some(found)
    }

    /// Offset of a path in a structure given by name.
    pub fn offset(&self, structure: &str, path: &str) -> Option<u64> {
        self.member(self.structure(structure)?, path).map(|member| member.offset)
    }

    fn direct_member(&self, structure: TypeId, name: &[u8], depth: u32) -> Option<Member> {
        let (at, kind, bitfields, count, _) = self.describe(structure)?;
        if kind != kind::STRUCT && kind != kind::UNION || depth == 0 {
            return None;
        }
        for member in 0..count {
            let at = at + 12 + 12 * member;
            let this = self.name(u32_at(&self.types, at)?);
            let ty = u32_at(&self.types, at + 4)?;
            let bits = u32_at(&self.types, at + 8)? & if bitfields { 0xff_ffff } else { u32::MAX };
            let offset = u64::from(bits / 8);
            if this == name {
                return Some(Member { offset, ty });
            }
            if this.is_empty()
                && let Some(inner) =
                    self.resolve(ty).and_then(|ty| self.direct_member(ty, name, depth - 1))
            {
                return Some(Member { offset: offset + inner.offset, ty: inner.ty });
            }
        }
        None
    }

    /// Offset of a variable in the per-CPU area, as the data section `.data..percpu` lists it.
    pub(crate) fn per_cpu_variable(&self, name: &str) -> Option<u64> {
        let (at, kind, _, count, _) = self.describe(self.structure(".data..percpu")?)?;
        if kind != kind::DATASEC {
            return None;
        }
        (0..count).find_map(|entry| {
            let at = at + 12 + 12 * entry;
            let (variable, kind, ..) = self.describe(u32_at(&self.types, at)?)?;
            let named =
                kind == kind::VAR && self.name(u32_at(&self.types, variable)?) == name.as_bytes();
            named.then(|| u32_at(&self.types, at + 4).map(u64::from))?
        })
    }
}

/// Total bytes of a BTF whose header stands at the start of `data`, if the header is one.
fn plausible(data: &[u8]) -> Option<usize> {
    let field = |at| u32_at(data, at).map(u64::from);
    let (header, type_start, type_bytes) = (field(4)?, field(8)?, field(12)?);
    let (string_start, string_bytes) = (field(16)?, field(20)?);
    let total = header + string_start + string_bytes;
    let sane = data.starts_with(&MAGIC)
        && (24..=4096).contains(&header)
        && type_start == 0
        && string_start == type_start + type_bytes
        && total <= BYTES_MAX.min(data.len() as u64)
        && type_bytes >= 12;
    // The first string is the empty one.
    (sane && data[(header + string_start) as usize..].first() == Some(&0)).then_some(total as usize)
}

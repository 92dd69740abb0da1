//! A checkpoint, opened.

use crate::packed::open_memory;
use crate::source::ReadAt;
use crate::{
    Error, Group, GroupTable, GuestMemory, PAGE_BYTES, Paths, Region, Result, Tags, Value, Vcpu,
    memory_beside, open_file,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// A checkpoint, opened. Its parts are read when they are asked for.
pub struct Checkpoint {
    source: Arc<dyn ReadAt>,
    table: GroupTable,
}

/// More than any reader can do with: crash has room for 3.
const REGIONS_MAX: u64 = 256;

impl Checkpoint {
    /// Opens the checkpoint at a path, and its memory: the file named, or what lies beside it.
    ///
    /// # Errors
    /// If it is no checkpoint, or its memory is nowhere, or cannot be its memory.
    pub fn open(state: &Path, memory: Option<&Path>) -> Result<(Checkpoint, GuestMemory, Paths)> {
        Checkpoint::open_in(open_file(state)?, state, memory)
    }

    /// The same, where the file at the path is open.
    ///
    /// # Errors
    /// As for `open`.
    pub fn open_in(
        source: Arc<dyn ReadAt>,
        state: &Path,
        memory: Option<&Path>,
    ) -> Result<(Checkpoint, GuestMemory, Paths)> {
        let checkpoint = Checkpoint::of(source)?;
        if let Some(embedded) = checkpoint.embedded_memory()? {
            return Ok((checkpoint, embedded, Paths { state: state.into(), memory: None }));
        }
        let path = match memory {
            Some(path) => path.to_owned(),
            None => memory_beside(state)?,
        };
        let memory = checkpoint.memory_at(&path)?;
        Ok((checkpoint, memory, Paths { state: state.into(), memory: Some(path) }))
    }

    /// The checkpoint in a source.
    ///
    /// # Errors
    /// If it is none.
    pub fn of(source: Arc<dyn ReadAt>) -> Result<Checkpoint> {
        let table = GroupTable::read(&*source)?;
        Ok(Checkpoint { source, table })
    }

    /// The header and the groups.
    pub fn table(&self) -> &GroupTable {
        &self.table
    }

    /// The tags of a group.
    ///
    /// # Errors
    /// If the file's size cannot be had.
    pub fn tags(&self, group: &Group) -> Result<Tags<'_>> {
        Tags::new(&*self.source, group)
    }

    /// The bytes of the first tag of a name without indices in a group, if it is there and has at most `limit`.
    ///
    /// # Errors
    /// If the group is damaged before it.
    pub fn value(&self, group: &str, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(group) = self.table.find(group) else { return Ok(None) };
        for tag in self.tags(group)? {
            let tag = tag?;
            if tag.is(name, &[]) {
                return tag.bytes(&*self.source, limit);
            }
        }
        Ok(None)
    }

    /// The virtual processors.
    ///
    /// # Errors
    /// If there are none.
    pub fn vcpus(&self) -> Result<Vec<Vcpu>> {
        let group = self.table.find("cpu").ok_or(Error::Missing("the group \"cpu\""))?;
        Vcpu::read_all(&*self.source, group)
    }

    /// The memory in this file, if it is here.
    ///
    /// # Errors
    /// If it is compressed, or described wrongly.
    pub fn embedded_memory(&self) -> Result<Option<GuestMemory>> {
        let layout = self.layout()?;
        let Some(block) = layout.block else { return Ok(None) };
        if block.is_compressed {
            let sentence = "guest memory is compressed, by a method that only VMware knows; resume the machine and \
                            suspend it again, or take a snapshot";
            return Err(Error::Unsupported(sentence.into()));
        }
        let whole = [Region { first_page: 0, page_in_file: 0, pages: block.bytes / PAGE_BYTES }];
        let regions = if layout.regions.is_empty() { whole.to_vec() } else { layout.regions };
        let pages = block.bytes / PAGE_BYTES;
        let beyond = regions.iter().find(|region| {
            region.page_in_file.checked_add(region.pages).is_none_or(|end| end > pages)
        });
        if let Some(region) = beyond {
            let what = format!(
                "the region from page {:#x} has {:#x} pages, in the file from page {:#x}, and there are {pages:#x} pages in \
                 the file",
                region.first_page, region.pages, region.page_in_file
            );
            return Err(Error::Regions(what));
        }
        GuestMemory::new(Arc::clone(&self.source), block.position, regions).map(Some)
    }

    /// The memory in another file. That may be shorter than what it stands for: where the guest never wrote, copies
    /// are cut short. What is missing is zero, and [`GuestMemory::bytes_missing`] tells how much.
    ///
    /// # Errors
    /// If it is described wrongly, or the file is empty, or larger than what is described.
    pub fn memory_at(&self, path: &Path) -> Result<GuestMemory> {
        let regions = self.layout()?.regions;
        let described = self.memory_bytes(&regions)?;
        let source = match described {
            0 => open_file(path)?,
            _ => open_memory(path, described)?,
        };
        let size = source.size().map_err(|source| Error::File { path: path.into(), source })?;
        let other = |what: String| Err(Error::OtherMemory { path: path.into(), what });
        if size == 0 {
            return other("it is empty".into());
        }
        let memory = self.memory_of(source, regions)?.named(path);
        if described > 0 && size > described.next_multiple_of(PAGE_BYTES) {
            return other(format!("it has {size:#x} bytes, and {described:#x} are described"));
        }
        Ok(memory)
    }

    /// How many bytes a file with memory may have: as far as regions reach, or what the machine says to have; 0 if
    /// neither is told.
    fn memory_bytes(&self, regions: &[Region]) -> Result<u64> {
        let ends = regions.iter().map(|region| region.page_in_file.saturating_add(region.pages));
        let regions = ends.max().unwrap_or(0).saturating_mul(PAGE_BYTES);
        let word = self.value("Checkpoint", "memSize", 8)?;
        let mib = word.and_then(|bytes| Some(u32::from_le_bytes(bytes.try_into().ok()?)));
        Ok(regions.max(u64::from(mib.unwrap_or(0)) << 20))
    }

    /// The memory in another source.
    ///
    /// # Errors
    /// If it is described wrongly.
    pub fn memory_in(&self, source: Arc<dyn ReadAt>) -> Result<GuestMemory> {
        self.memory_of(source, self.layout()?.regions)
    }

    fn memory_of(&self, source: Arc<dyn ReadAt>, mut regions: Vec<Region>) -> Result<GuestMemory> {
        if regions.is_empty() {
            let bytes = source.size().map_err(|source| Error::Read { at: 0, source })?;
            regions.push(Region { first_page: 0, page_in_file: 0, pages: bytes / PAGE_BYTES });
        }
        GuestMemory::new(source, 0, regions)
    }

    fn layout(&self) -> Result<Layout> {
        let group = self.table.find("memory").ok_or(Error::Missing("the group \"memory\""))?;
        let mut layout = Layout::default();
        let mut parts: BTreeMap<u32, [Option<u64>; 3]> = BTreeMap::new();
        let mut count = 0;
        for tag in self.tags(group)? {
            let tag = tag?;
            let part = ["regionPPN", "regionPageNum", "regionSize"]
                .iter()
                .position(|&name| name == tag.name);
            match (part, tag.indices.as_slice()) {
                (Some(part), &[index]) => parts.entry(index).or_default()[part] = tag.integer(),
                _ if tag.name == "regionsCount" => count = tag.integer().unwrap_or(0),
                (_, [] | [0, 0]) if tag.name == "Memory" => {
                    if let Value::Block(block) = tag.value {
                        layout.block = Some(block);
                    }
                }
                _ => {}
            }
            if count > REGIONS_MAX || parts.len() as u64 > REGIONS_MAX {
                let what = format!(
                    "{} regions, where {REGIONS_MAX} are more than any product writes",
                    count.max(parts.len() as u64)
                );
                return Err(Error::Regions(what));
            }
        }
        for index in 0..count as u32 {
            let Some([Some(first_page), Some(page_in_file), Some(pages)]) = parts.get(&index)
            else {
                let what = format!(
                    "there are {count} regions, and of the one numbered {index} it is not said where it is"
                );
                return Err(Error::Regions(what));
            };
            let region =
                Region { first_page: *first_page, page_in_file: *page_in_file, pages: *pages };
            layout.regions.push(region);
        }
        Ok(layout)
    }
}

#[derive(Default)]
struct Layout {
    regions: Vec<Region>,
    block: Option<crate::Block>,
}

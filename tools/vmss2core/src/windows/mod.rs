//! Crash dumps of Windows guests, as WinDbg, volatility, LeechCore and others read them. See `docs/formats/cores.md`.
//!
//! Everything is found in memory, by the processors' registers and by structures that prove themselves; no symbols are
//! needed.

mod bitmap;
mod context;
mod debugger_data;
mod encoding;
mod header;
mod image;
mod kernel;
mod patches;
mod processors;
mod roots;
mod runs;
mod shared_data;
mod space;
mod tags;
mod version_block;
mod write;

use crate::arguments::WindowsOptions;
use crate::conversion::Conversion;
use crate::error::Error;
use crate::guest::Guest;
use crate::output::sizes;
use bitmap::Bitmap;
use debugger_data::{DebuggerData, field};
use dejavm_linux::Paging;
use header::{DumpType, Header};
use image::Kernel;
use patches::Patches;
use processors::Processor;
use shared_data::SharedData;
use space::Space;
use std::path::PathBuf;
use version_block::VersionBlock;

/// The code of a dump of a system that has not crashed (LIVE_SYSTEM_DUMP).
const LIVE_SYSTEM_DUMP: u64 = 0x161;
/// What the product takes a system for that does not say its build.
const BUILD_USUAL_64: u32 = 6000;
const BUILD_USUAL_32: u32 = 2195;

/// Whether the guest is a Windows, as far as can be told without searching: its processors' page tables, or those
/// that they start with, have KUSER_SHARED_DATA where only Windows has it.
pub fn recognise(guest: &Guest) -> bool {
    roots::find(guest).is_some()
}

/// Makes a crash dump.
pub fn dump(conversion: &Conversion<'_>, options: &WindowsOptions) -> Result<PathBuf, Error> {
    let guest = conversion.guest;
    let system = System::find(guest, options)?;
    let (header, patches) = system.describe(conversion, options);
    let path = conversion.output("memory.dmp");
    let runs = runs::list(guest, &system.space, &system.data);
    let fits = runs.len() <= Header::runs_max(header.is_64);
    if !fits && !options.bitmap && !options.kernel_only {
        let sentence = "Windows' memory has more runs than a full dump can list: a bitmap dump, as with --bitmap";
        conversion.progress.remark(sentence);
    }
    let dump_type = match (options.kernel_only, options.bitmap || !fits) {
        (true, _) => DumpType::BitmapKernel,
        (false, true) => DumpType::BitmapFull,
        (false, false) => DumpType::Full,
    };
    let header = Header { dump_type, runs: if fits { runs.clone() } else { Vec::new() }, ..header };
    let mut bitmap = match dump_type {
        DumpType::Full => return write::full(conversion, &path, header, &patches),
        DumpType::BitmapFull => Bitmap::of_contents(guest, &runs, conversion.threads)?,
        DumpType::BitmapKernel => Bitmap::of_kernel(guest, &system.space, &runs),
    };
    let has = |page: &u64| runs.iter().any(|run| (run.first..run.end()).contains(page));
    patches.pages().filter(has).for_each(|page| bitmap.insert(page));
    write::by_bitmap(conversion, &path, header, &bitmap, &patches)
}

/// What was found of a Windows.
struct System<'a> {
    space: Space<'a>,
    shared: SharedData,
    kernel: Kernel,
    version: Option<VersionBlock>,
    data: DebuggerData,
    processors: Vec<Processor>,
}

impl<'a> System<'a> {
    fn find(guest: &'a Guest, options: &WindowsOptions) -> Result<System<'a>, Error> {
        let limit = if options.scan_all { u64::MAX } else { tags::SEARCH_USUAL };
        let found = match roots::find(guest) {
            None => roots::search(guest, limit)?,
            found => found,
        };
        let searched = sizes::shown(guest.memory.bytes().min(limit));
        let (space, shared) = found.ok_or_else(|| Error::NoWindows {
            path: guest.path.clone(),
            tried: format!(
                "neither the page tables of its processors, nor those that processors start with, nor any that refer \
                 to themselves in {searched} of memory, lead to KUSER_SHARED_DATA"
            ),
        })?;
        let kernel = match kernel::find(guest, &space) {
            None => kernel::by_debugger_data(guest, &space, options.scan_all)?,
            found => found,
        };
        let kernel = kernel.ok_or_else(|| Error::NoWindows {
            path: guest.path.clone(),
            tried: "KUSER_SHARED_DATA is there, but there is no kernel (ntoskrnl.exe, ntkrnl*.pdb) in the 64 MiB below the \
                    handlers of interrupt 0 and below where processors are, and no debugger data block tells of one"
                .into(),
        })?;
        let version = VersionBlock::find(&space, &guest.vcpus, &kernel);
        let data = match options.debugger_data {
            Some(at) => {
                let at = space.address(at.0);
                DebuggerData::at(&space, &kernel, at).ok_or_else(|| Error::NoDebuggerData {
                    path: guest.path.clone(),
                    tried: format!("there is none at {at:#x}, neither plain nor encoded"),
                })?
            }
            None => DebuggerData::find(guest, &space, &kernel, version.as_ref(), options.scan_all)?
                .ok_or_else(|| Error::NoDebuggerData {
                path: guest.path.clone(),
                tried: format!(
                    "KdVersionBlock leads to none, none is in the kernel's image at {:#x}, plain or encoded, and no \
                         plain one anywhere in memory",
                    kernel.base
                ),
            })?,
        };
        let processors = processors::list(&space, &data, &guest.vcpus);
        Ok(System { space, shared, kernel, version, data, processors })
    }

    /// The header but for memory, and what the dump has otherwise than the guest.
    fn describe(&self, conversion: &Conversion<'_>, options: &WindowsOptions) -> (Header, Patches) {
        let guest = conversion.guest;
        let (space, data) = (&self.space, &self.data);
        let is_64 = space.is_64();
        let patches = self.patches(conversion);
        let bugcheck = self.bugcheck();
        let crashed = bugcheck
            .and_then(|why| processors::crashed(space, &self.processors, &guest.vcpus, &why));
        let current =
            crashed.unwrap_or_else(|| processors::current(&self.processors, &guest.vcpus));
        let own = roots::of_processor(guest, current);
        let root = own.map_or(space.root(), |(space, _)| space.root());
        let vcpu = &guest.vcpus[current];
        let usual = if is_64 { BUILD_USUAL_64 } else { BUILD_USUAL_32 };
        let said = self.version.as_ref().map(|version| version.minor.into());
        let header = Header {
            is_64,
            is_pae: space.tables.paging == Paging::Pae,
            major: self.version.map_or(15, |version| version.major.into()),
            minor: options.build.or(said).or(self.shared.build).unwrap_or(usual),
            directory_table_base: root,
            pfn_database: self.pfn_database(),
            modules: data.address(field::PS_LOADED_MODULE_LIST),
            processes: data.address(field::PS_ACTIVE_PROCESS_HEAD),
            machine: if is_64 { 0x8664 } else { 0x14c },
            processors: self.processors.len().max(1) as u32,
            bugcheck: bugcheck.unwrap_or([LIVE_SYSTEM_DUMP, 0, 0, 0, 0]),
            debugger_data: data.at,
            runs: Vec::new(),
            context: context::context(vcpu, is_64),
            instruction: vcpu.rip,
            dump_type: DumpType::Full,
            required_space: 0,
            system_time: self.shared.system_time,
            up_time: self.shared.interrupt_time,
            product_type: self.shared.product_type,
            suite_mask: self.shared.suite_mask,
        };
        (header, patches)
    }

    /// What debuggers do not find in the guest as they want it; the user is told what cannot be put in its place.
    fn patches(&self, conversion: &Conversion<'_>) -> Patches {
        let (space, data, vcpus) = (&self.space, &self.data, &conversion.guest.vcpus);
        let is_64 = space.is_64();
        let mut patches = Patches::default();
        let mut placed = 0;
        for processor in &self.processors {
            let vcpu = &vcpus[processor.vcpu];
            if let Some(at) = processor.context(space, data) {
                placed += usize::from(patches.put(space, at, &context::context(vcpu, is_64)));
            }
            if let Some(at) = processor.special_registers(data) {
                patches.put(space, at, &context::special_registers(vcpu, is_64));
            }
        }
        if placed < vcpus.len() {
            conversion.progress.remark(&format!(
                "Windows has a place for the registers of {placed} of {} processors: debuggers know the others' not, but for \
                 those in the header",
                vcpus.len()
            ));
        }
        if let Some(encoding) = &data.encoding {
            patches.put(space, data.at, &data.bytes);
            match encoding.flag(space, &self.kernel) {
                Some(flag) => {
                    patches.put(space, flag, &[0]);
                }
                None => conversion.progress.remark(
                    "the debugger data block is decoded in the dump, but the kernel's mark that it is encoded \
                     (KdpDataBlockEncoded) was not found: a debugger that asks for it may decode once more",
                ),
            }
        }
        patches
    }

    /// 64-bit dumps say what is in the variable, 32-bit ones where the variable is: both as the real ones that we have.
    fn pfn_database(&self) -> u64 {
        let at = self.data.address(field::MM_PFN_DATABASE);
        if self.space.is_64() && self.kernel.contains(at) {
            return self.space.pointer(at).unwrap_or(at);
        }
        at
    }

    /// KiBugcheckData, unless the system lives.
    fn bugcheck(&self) -> Option<[u64; 5]> {
        let at = self.data.address(field::KI_BUGCHECK_DATA);
        let value = |n: u64| self.space.pointer(at.checked_add(n * self.space.pointer_bytes())?);
        let said = [0, 1, 2, 3, 4].map(|n| value(n).unwrap_or(0));
        (said[0] != 0).then_some(said)
    }
}

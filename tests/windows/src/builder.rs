//! Puts a guest together.

use crate::debugger_data::{Fields, encode};
use crate::memory::Memory;
use crate::processors;
use crate::space::{Frames, Space};
use crate::system::Layout;
use crate::{Options, System, Windows, image};
use vmss::Region;

const MIB: u64 = 1 << 20;
/// Where memory that is handed out begins: first the System process's page tables, where Windows 10 has them.
const FRAMES: u64 = 0x1a_a000;
/// Where processors start.
const LOW_STUB: u64 = 0x1_3000;
/// Places in the kernel's data.
mod at {
    pub const WAIT_NEVER: u64 = 0x0040;
    pub const WAIT_ALWAYS: u64 = 0x1238;
    pub const DATA_BLOCK_ENCODED: u64 = 0x20f5;
    pub const DATA_LIST: u64 = 0x2100;
    /// Its header goes from one page into the next.
    pub const DEBUGGER_DATA: u64 = 0x2ff0;
    pub const VERSION_BLOCK: u64 = 0x4000;
    pub const MODULES: u64 = 0x4100;
    pub const PROCESSES: u64 = 0x4110;
    pub const PFN_DATABASE: u64 = 0x4200;
    pub const PHYSICAL_MEMORY_BLOCK: u64 = 0x4208;
    pub const BUGCHECK: u64 = 0x4300;
    pub const PROCESSOR_BLOCK: u64 = 0x4400;
    pub const BUILD_LAB: u64 = 0x4800;
    /// Random bytes, as crypto's tables and keys are.
    pub const RANDOM: u64 = 0x6000;
    pub const RANDOM_BYTES: u64 = 0x8000;
}

/// A guest that is being built.
pub struct Builder {
    pub memory: Memory,
    pub frames: Frames,
    pub space: Space,
    is_64: bool,
    kernel: u64,
}

impl Builder {
    /// Maps pages to new memory.
    pub fn map_new(&mut self, linear: u64, pages: u64) {
        self.space.map_new(&mut self.memory, &mut self.frames, linear, pages);
    }

    /// Puts bytes at a linear address.
    pub fn put(&mut self, linear: u64, bytes: &[u8]) {
        self.space.put(&mut self.memory, linear, bytes);
    }

    /// Puts a pointer.
    pub fn pointer(&mut self, linear: u64, value: u64) {
        let bytes = if self.is_64 { 8 } else { 4 };
        self.put(linear, &value.to_le_bytes()[..bytes]);
    }

    /// Bytes of a pointer.
    fn long(&self) -> u64 {
        if self.is_64 { 8 } else { 4 }
    }

    /// The handler of interrupt 0.
    pub fn handler(&self) -> u64 {
        self.kernel + image::HANDLER
    }

    fn data(&self, at: u64) -> u64 {
        self.kernel + u64::from(image::DATA) + at
    }
}

/// Builds a guest.
pub fn build(options: &Options) -> Windows {
    let layout = options.system.layout();
    let is_64 = options.system.is_64();
    let mut memory = Memory::default();
    let mut frames = Frames::from(FRAMES);
    let self_reference = options.self_reference.then_some(layout.self_reference);
    let space = match is_64 {
        true => Space::long(&mut memory, &mut frames, self_reference),
        false if options.system == System::Xp32 => {
            Space::legacy(&mut memory, &mut frames, self_reference)
        }
        false => Space::pae(&mut memory, &mut frames),
    };
    let mut builder = Builder { memory, frames, space, is_64, kernel: layout.kernel };
    put_image(&mut builder, options, &layout);
    let (system_time, up_time, product, suite) = put_shared_data(&mut builder, &layout);
    builder.map_new(layout.pool, 0x10);
    for n in 0x10..options.pool_pages {
        let linear = layout.pool + 0x100_0000 + n * 4096;
        builder.map_new(linear, 1);
        builder.put(linear + 0x10, &n.to_le_bytes());
    }

    let version_block = builder.data(at::VERSION_BLOCK);
    let mut contexts = Vec::new();
    for n in 0..options.processors {
        let (prcb, context) = processors::put_kpcr(&mut builder, options, n, version_block);
        let slot = builder.data(at::PROCESSOR_BLOCK) + n as u64 * builder.long();
        builder.pointer(slot, prcb);
        if layout.prcb_context != 0 {
            contexts.push(context);
        }
    }
    put_modules(&mut builder, &layout);
    let regions = regions(is_64);
    let usual = if is_64 {
        vec![(1, 0x9e), (0x100, 0x2f00), (0x10_0000, 0x1000)]
    } else {
        vec![(1, 0x9e), (0x100, 0x3f00)]
    };
    let runs = options.runs.clone().unwrap_or(usual);
    put_runs(&mut builder, &layout, &runs);
    let (debugger_data, flag) = put_debugger_data(&mut builder, options, &layout);
    if options.version_block {
        put_version_block(&mut builder, &layout);
    }
    if options.low_stub {
        put_low_stub(&mut builder);
    }
    if !is_64 {
        // Users' code. volatility 3 reads a whole page where PAE's root of 32 bytes is, so the next must be there.
        builder.map_new(0x40_1000, 1);
    }
    // What nobody looks for, at both ends of memory.
    let mut random = Random(options.seed);
    for page in [0x2000u64, 0x2fff] {
        for n in 0..512 {
            builder.memory.put(page * 4096 + n * 8, &random.next().to_le_bytes());
        }
    }
    if is_64 {
        builder.memory.put(4096 * MIB + 0xff_f000, &[0x5a; 4096]);
    }

    let rip = layout.kernel + u64::from(image::TEXT) + 0x1100;
    let mut vcpus = Vec::new();
    let mut user = None;
    for n in 0..options.processors {
        let cr3 = if options.shadow {
            shadow(&mut builder, &layout, options, n)
        } else if n == 0 || !is_64 {
            builder.space.root
        } else {
            // Another process, with the same kernel; and PCID bits, which lead nowhere.
            let space = user.get_or_insert_with(|| {
                let (memory, frames) = (&mut builder.memory, &mut builder.frames);
                let mut space = builder.space.sibling(memory, frames, layout.self_reference);
                space.map_new(memory, frames, 0x7ff7_1234_0000, 1);
                space
            });
            space.root | 2
        };
        vcpus.push(processors::vcpu(options, n, cr3, rip));
    }
    Windows {
        system: options.system,
        memory: builder.memory.clone(),
        regions,
        vcpus,
        kernel: layout.kernel,
        modules: builder.data(at::MODULES),
        processes: builder.data(at::PROCESSES),
        pfn_database: (builder.data(at::PFN_DATABASE), pfn_database(is_64)),
        debugger_data,
        flag,
        runs,
        contexts,
        shared: (system_time, up_time, product, suite),
        space: builder.space,
    }
}

fn pfn_database(is_64: bool) -> u64 {
    if is_64 { 0xffff_fa80_0000_0000 } else { 0x8300_0000 }
}

fn regions(is_64: bool) -> Vec<Region> {
    let region = |first_page, page_in_file, pages| Region { first_page, page_in_file, pages };
    match is_64 {
        true => vec![region(0, 0, 0x3000), region(0x10_0000, 0x3000, 0x1000)],
        false => vec![region(0, 0, 0x4000)],
    }
}

fn put_image(builder: &mut Builder, options: &Options, layout: &Layout) {
    let base = layout.kernel;
    builder.map_new(base, 3);
    builder.put(base, &image::front(builder.is_64, layout.symbols));
    let text = base + u64::from(image::TEXT);
    if builder.is_64 && text.is_multiple_of(2 * MIB) {
        builder.space.map_large(&mut builder.memory, &mut builder.frames, text);
    } else {
        builder.map_new(text, 4);
    }
    builder.put(text, &[0xcc; 64]);
    builder.map_new(base + u64::from(image::DATA), u64::from(image::DATA_BYTES / 4096));
    let mut random = Random(options.seed);
    for n in (0..at::RANDOM_BYTES).step_by(8) {
        let place = builder.data(at::RANDOM + n);
        builder.put(place, &random.next().to_le_bytes());
    }
}

fn put_shared_data(builder: &mut Builder, layout: &Layout) -> (u64, u64, u32, u32) {
    let (system_time, up_time) = (0x01d6_4cb3_a523_a374u64, 0x0000_0012_3456_789au64);
    let (product, suite) = (3u32, 0x112u32);
    let base = layout.shared_data;
    builder.map_new(base, 1);
    let high = |time: u64| ((time >> 32) as u32).to_le_bytes();
    for (at, time) in [(0x08, up_time), (0x14, system_time)] {
        builder.put(base + at, &(time as u32).to_le_bytes());
        builder.put(base + at + 4, &high(time));
        builder.put(base + at + 8, &high(time));
    }
    let root: Vec<u8> = "C:\\Windows".encode_utf16().flat_map(u16::to_le_bytes).collect();
    builder.put(base + 0x30, &root);
    if layout.version.0 >= 10 {
        builder.put(base + 0x260, &u32::from(layout.build).to_le_bytes());
    }
    builder.put(base + 0x264, &product.to_le_bytes());
    builder.put(base + 0x26c, &layout.version.0.to_le_bytes());
    builder.put(base + 0x270, &layout.version.1.to_le_bytes());
    builder.put(base + 0x2d0, &suite.to_le_bytes());
    (system_time, up_time, product, suite)
}

/// LDR_DATA_TABLE_ENTRYs in a ring with PsLoadedModuleList; PsActiveProcessHead is alone.
fn put_modules(builder: &mut Builder, layout: &Layout) {
    let head = builder.data(at::MODULES);
    let pool = layout.pool;
    let entries = [pool + 0x2000, pool + 0x2200];
    let ring = [head, entries[0], entries[1]];
    let long = builder.long();
    for n in 0..3 {
        builder.pointer(ring[n], ring[(n + 1) % 3]);
        builder.pointer(ring[n] + long, ring[(n + 2) % 3]);
    }
    let modules = [
        ("\\SystemRoot\\system32\\ntoskrnl.exe", layout.kernel, image::BYTES),
        ("\\SystemRoot\\system32\\hal.dll", layout.kernel - 0x4_9000, 0x4_9000),
    ];
    for (n, (name, base, bytes)) in modules.into_iter().enumerate() {
        let entry = entries[n];
        let text: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let text_at = pool + 0x3000 + n as u64 * 0x200;
        builder.put(text_at, &text);
        builder.pointer(entry + 6 * long, base);
        builder.put(entry + 8 * long, &bytes.to_le_bytes());
        for name_at in [9 * long, 9 * long + if long == 8 { 16 } else { 8 }] {
            let count = (text.len() as u16).to_le_bytes();
            builder.put(entry + name_at, &count);
            builder.put(entry + name_at + 2, &count);
            builder.pointer(entry + name_at + long, text_at);
        }
    }
    let head = builder.data(at::PROCESSES);
    builder.pointer(head, head);
    builder.pointer(head + long, head);
}

fn put_runs(builder: &mut Builder, layout: &Layout, runs: &[(u64, u64)]) {
    let block = layout.pool + 0x5000;
    let place = builder.data(at::PHYSICAL_MEMORY_BLOCK);
    builder.pointer(place, block);
    builder.put(block, &(runs.len() as u32).to_le_bytes());
    let long = builder.long();
    builder.pointer(block + long, runs.iter().map(|(_, pages)| pages).sum());
    for (n, (first, pages)) in runs.iter().enumerate() {
        builder.pointer(block + (2 + 2 * n as u64) * long, *first);
        builder.pointer(block + (3 + 2 * n as u64) * long, *pages);
    }
}

/// The block: where it is, and plain; and where KdpDataBlockEncoded is.
fn put_debugger_data(
    builder: &mut Builder,
    options: &Options,
    layout: &Layout,
) -> ((u64, Vec<u8>), u64) {
    let list = builder.data(at::DATA_LIST);
    let fields = Fields {
        list,
        bytes: layout.data_bytes,
        kernel: layout.kernel,
        modules: builder.data(at::MODULES),
        processes: builder.data(at::PROCESSES),
        bugcheck: builder.data(at::BUGCHECK),
        pfn_database: builder.data(at::PFN_DATABASE),
        build_lab: builder.data(at::BUILD_LAB),
        processor_block: builder.data(at::PROCESSOR_BLOCK),
        physical_memory_block: builder.data(at::PHYSICAL_MEMORY_BLOCK),
        prcb_context: if options.context_in_prcb { 0 } else { layout.prcb_context },
        prcb_context_frame: layout.prcb_context_frame,
        prcb_special: layout.prcb_special,
        prcb_number: layout.prcb_number,
    };
    let place = builder.data(at::PFN_DATABASE);
    builder.pointer(place, pfn_database(builder.is_64));
    let lab = format!("{}.1.amd64fre.vb_release.191206-1406\0", layout.build);
    let place = builder.data(at::BUILD_LAB);
    builder.put(place, lab.as_bytes());
    for (n, value) in options.bugcheck.into_iter().enumerate() {
        let place = builder.data(at::BUGCHECK) + n as u64 * builder.long();
        builder.pointer(place, value);
    }
    let plain = fields.block(builder.is_64);
    let flag = builder.data(at::DATA_BLOCK_ENCODED);
    let block = match options.data_in_pool {
        // High up: in the last page of memory's low part.
        true => {
            let linear = layout.pool + 0x8_0000;
            let frame = regions(builder.is_64).last().expect("some").end() - 0x2000;
            builder.space.map(&mut builder.memory, &mut builder.frames, linear, frame);
            linear + 0x230
        }
        false => builder.data(at::DEBUGGER_DATA),
    };
    if !options.data_block {
        return ((block, plain), flag);
    }
    builder.pointer(list, block);
    builder.pointer(list + builder.long(), block);
    match options.keys {
        None => builder.put(block, &plain),
        Some(keys) => {
            builder.put(block, &encode(&plain, keys, flag));
            builder.put(flag, &[1]);
            for (at, key) in [(at::WAIT_NEVER, keys.never), (at::WAIT_ALWAYS, keys.always)] {
                let place = builder.data(at);
                builder.put(place, &key.to_le_bytes());
            }
        }
    }
    ((block, plain), flag)
}

/// DBGKD_GET_VERSION64
fn put_version_block(builder: &mut Builder, layout: &Layout) {
    let place = builder.data(at::VERSION_BLOCK);
    let wide = |address: u64, is_64: bool| {
        if is_64 { address } else { i64::from(address as u32 as i32) as u64 }
    };
    let is_64 = builder.is_64;
    let mut block = [0; 0x28];
    block[0..2].copy_from_slice(&15u16.to_le_bytes());
    block[2..4].copy_from_slice(&layout.build.to_le_bytes());
    block[4..8].copy_from_slice(&[6, 2, if is_64 { 7 } else { 3 }, 0]);
    block[8..10].copy_from_slice(&if is_64 { 0x8664u16 } else { 0x14c }.to_le_bytes());
    let addresses = [layout.kernel, builder.data(at::MODULES), builder.data(at::DATA_LIST)]
        .map(|at| wide(at, is_64));
    for (n, address) in addresses.into_iter().enumerate() {
        block[0x10 + n * 8..][..8].copy_from_slice(&address.to_le_bytes());
    }
    builder.put(place, &block);
}

/// PROCESSOR_START_BLOCK: a jump, flags, the kernel's entry, CR3.
fn put_low_stub(builder: &mut Builder) {
    let entry = builder.kernel + u64::from(image::TEXT) + 0x3a80;
    let root = builder.space.root;
    builder.memory.put(LOW_STUB, &[0xe9, 0x4d, 6, 0, 1, 0, 0, 0]);
    builder.memory.put(LOW_STUB + 0x70, &entry.to_le_bytes());
    builder.memory.put(LOW_STUB + 0xa0, &root.to_le_bytes());
}

/// Page tables for users' code: of the kernel's half only the processor's KPCR.
fn shadow(builder: &mut Builder, layout: &Layout, options: &Options, n: usize) -> u64 {
    let mut space = Space::long(&mut builder.memory, &mut builder.frames, None);
    let (first, step) = layout.kpcr;
    assert!(options.system.is_64());
    for page in 0..layout.kpcr_pages {
        let linear = first + n as u64 * step + page * 4096;
        let physical = builder.space.physical(linear);
        space.map(&mut builder.memory, &mut builder.frames, linear, physical);
    }
    space.root
}

/// xorshift64*
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

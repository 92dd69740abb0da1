//! Programs that no one here wrote open the dumps: kdmp-parser, volatility 3, LeechCore.

use dejavm_judges::ask;
use dejavm_windows_guest::dump::{Dump, dump, usual};
use dejavm_windows_guest::{Options, System};
use kdmp_parser::gxa::{Gpa, Gva, Gxa};
use kdmp_parser::parse::KernelDumpParser;
use kdmp_parser::structs::DumpType;
use kdmp_parser::{phys, virt};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use vmss2core::WindowsOptions;

const BITMAP: WindowsOptions = WindowsOptions {
    build: None,
    is_encoded: false,
    kernel_only: false,
    debugger_data: None,
    scan_all: false,
    bitmap: true,
};
const KERNEL: WindowsOptions = WindowsOptions { kernel_only: true, bitmap: false, ..BITMAP };

/// Pages to look at: some in each run, most of them not zero.
fn samples(dump: &Dump) -> Vec<u64> {
    let root = dump.guest.space.root / 4096;
    let kernel = dump.guest.space.physical(dump.guest.kernel) / 4096;
    let mut pages = vec![root, kernel, 0x2000, 0x2fff];
    if dump.guest.system.is_64() {
        pages.extend([0x13, 0x10_0fff]);
    }
    pages
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn expected_pages(dump: &Dump, pages: &[u64]) -> Vec<String> {
    pages.iter().map(|&page| hex(&dump.guest.memory.page(page))).collect()
}

fn ask_of(script: &Path, dump: &Dump, pages: &[u64]) -> Value {
    let mut arguments = vec![dump.path.display().to_string()];
    arguments.extend(pages.iter().map(|page| format!("{:x}", page * 4096)));
    ask(script, &arguments)
}

fn volatility(dump: &Dump, pages: &[u64]) -> Value {
    ask_of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/volatility.py"), dump, pages)
}

/// Runs of a full dump with their offsets in the file.
fn runs(dump: &Dump) -> Value {
    let runs = dump.guest.runs.iter();
    runs.map(|&(first, pages)| json!([first * 4096, pages * 4096, dump.place(first)])).collect()
}

#[test]
fn volatility_reads_full_dumps() {
    for system in System::ALL {
        let dump = usual(&Options::new(system));
        let pages = samples(&dump);
        let seen = volatility(&dump, &pages);
        let layer =
            if system.is_64() { "WindowsCrashDump64Layer" } else { "WindowsCrashDump32Layer" };
        assert_eq!(seen["layer"], layer);
        assert_eq!(seen["mapping"], runs(&dump));
        assert_eq!(seen["pages"], json!(expected_pages(&dump, &pages)));
        let guest = &dump.guest;
        let header = [
            ("MajorVersion", 15),
            ("MinorVersion", system.layout().build.into()),
            ("DirectoryTableBase", guest.space.root),
            ("PsLoadedModuleList", guest.modules),
            ("PsActiveProcessHead", guest.processes),
            ("NumberProcessors", 2),
            ("BugCheckCode", 0x161),
            ("KdDebuggerDataBlock", guest.debugger_data.0),
            ("DumpType", 1),
            ("SystemTime", guest.shared.0),
        ];
        for (name, value) in header {
            assert_eq!(seen["header"][name], value, "{name}");
        }
        assert_eq!(seen["version"], system.layout().version.0);
        if let Some(symbols) = system.layout().symbols {
            let found = seen["kernel"][0].as_array();
            let found = found.unwrap_or_else(|| panic!("{system:?}: {}", seen["kernel"]));
            assert_eq!(found[..2], [json!(guest.kernel), json!(symbols)]);
        }
        if system.is_64() {
            assert_eq!(seen["found"], json!(["WindowsIntel32e", guest.space.root]));
        }
    }
}

#[test]
fn volatility_reads_bitmap_dumps() {
    for system in System::ALL {
        let dump = dump(&Options::new(system), &BITMAP).unwrap();
        let pages = samples(&dump);
        let seen = volatility(&dump, &pages);
        assert_eq!(seen["pages"], json!(expected_pages(&dump, &pages)));
        let at = dump.header_bytes();
        assert_eq!(seen["summary"][0], dump.long(at + 0x20));
        let mapped: u64 =
            seen["mapping"].as_array().unwrap().iter().map(|run| run[1].as_u64().unwrap()).sum();
        assert_eq!(mapped, dump.long(at + 0x28) * 4096);
        assert_eq!(seen["version"], system.layout().version.0);
    }
}

fn leechcore(dump: &Dump, pages: &[u64]) -> Value {
    ask_of(&dejavm_judges::script("leechcore.py"), dump, pages)
}

#[test]
fn leechcore_reads_full_dumps() {
    for system in System::ALL {
        let dump = usual(&Options::new(system));
        let pages = samples(&dump);
        let seen = leechcore(&dump, &pages);
        assert_eq!(seen["regions"], runs(&dump));
        assert_eq!(seen["pages"], json!(expected_pages(&dump, &pages)));
    }
}

/// LeechCore reads none of 32-bit systems, and no file of less than 16 MiB.
#[test]
fn leechcore_reads_bitmap_dumps() {
    for (options, pages) in [(BITMAP, vec![0x13, 0x2000, 0x2fff, 0x10_0fff]), (KERNEL, vec![])] {
        for system in [System::Seven64, System::Ten64] {
            let guest = Options { pool_pages: 0x1200, ..Options::new(system) };
            let dump = dump(&guest, &options).unwrap();
            let mut pages = pages.clone();
            pages.push(dump.guest.space.root / 4096);
            let seen = leechcore(&dump, &pages);
            assert_eq!(seen["pages"], json!(expected_pages(&dump, &pages)), "{options:?}");
            let regions = seen["regions"].as_array().unwrap();
            let mapped: u64 = regions.iter().map(|run| run[1].as_u64().unwrap()).sum();
            assert_eq!(mapped, dump.long(0x2028) * 4096);
        }
    }
}

#[test]
fn kdmp_parser_reads_64_bit_dumps() {
    let usual = WindowsOptions::default();
    let kinds =
        [(usual, DumpType::Full), (BITMAP, DumpType::Bmp), (KERNEL, DumpType::LiveKernelMemory)];
    for (options, kind) in kinds {
        for system in [System::Seven64, System::Ten64] {
            let dump = dump(&Options::new(system), &options).unwrap();
            let parser = KernelDumpParser::new(&dump.path)
                .unwrap_or_else(|error| panic!("{options:?}: {error}"));
            assert_eq!(parser.dump_type(), kind);
            let (guest, vcpu) = (&dump.guest, &dump.guest.vcpus[0]);
            let header = parser.headers();
            assert_eq!(header.bug_check_code, 0x161);
            assert_eq!(header.number_processors, 2);
            assert_eq!(header.system_time as u64, guest.shared.0);
            assert_eq!(header.system_up_time as u64, guest.shared.1);
            assert_eq!((header.product_type, header.suite_mask), (guest.shared.2, guest.shared.3));
            assert_eq!(parser.exception_record().exception_address, vcpu.rip);
            let context = parser.context_record();
            assert_eq!(
                (context.rip, context.rsp, context.r15),
                (vcpu.rip, vcpu.gpr[4], vcpu.gpr[15])
            );
            assert_eq!(context.mxcsr, context.mxcsr2);

            // It walks the list of modules.
            let modules: BTreeMap<u64, &str> =
                parser.kernel_modules().map(|(range, name)| (range.start.u64(), name)).collect();
            let hal = guest.kernel - 0x4_9000;
            let expected = [
                (hal, "\\SystemRoot\\system32\\hal.dll"),
                (guest.kernel, "\\SystemRoot\\system32\\ntoskrnl.exe"),
            ];
            assert_eq!(modules, BTreeMap::from(expected));

            // It reads the decoded block, and contexts of all processors, through the header's page tables.
            let memory = virt::Reader::new(&parser);
            let mut block = vec![0; guest.debugger_data.1.len()];
            memory.read_exact(Gva::new(header.kd_debugger_data_block), &mut block).unwrap();
            assert_eq!(block, guest.debugger_data.1);
            for (n, &(at, _)) in guest.contexts.iter().enumerate() {
                let mut bytes = [0; 0x100];
                memory.read_exact(Gva::new(at), &mut bytes).unwrap();
                assert_eq!(bytes[0xf8..], guest.vcpus[n].rip.to_le_bytes());
            }
            for (place, _) in parser.physmem() {
                let page = place.u64() / 4096;
                let mut bytes = [0; 4096];
                phys::Reader::new(&parser).read_exact(Gpa::new(page * 4096), &mut bytes).unwrap();
                if samples(&dump).contains(&page) {
                    assert_eq!(bytes, guest.memory.page(page));
                }
            }
        }
    }
}

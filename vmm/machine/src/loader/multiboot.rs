//! Multiboot 1 and 2 (GNU, Multiboot Specification 0.6.96 and Multiboot2 Specification 2.0): kernels that start in flat 32-bit mode
//! with modules beside them.
//!
//! Headers that ask for video modes, EFI or relocation are started all the same, without those.

use super::{elf, initrd, linux, registers};
use crate::acpi;
use crate::boot::{Boot, BootError, Module};
use crate::memory_map::{self, CMDLINE, CMDLINE_BYTES_MAX, EBDA, HIGH_MEMORY, MULTIBOOT_INFO};
use dejavm_cpu::{CpuState, gpr};
use dejavm_memory::GuestRam;
use dejavm_units::Gpa;

/// Where the second version's header may begin, and the first one's.
const SEARCH_2: usize = 32768;
const SEARCH_1: usize = 8192;
const HEADER_1: u32 = 0x1bad_b002;
const HEADER_2: u32 = 0xe852_50d6;
/// What EAX holds at the entry point.
const LOADED_1: u32 = 0x2bad_b002;
const LOADED_2: u32 = 0x36d7_6289;
/// The first version's flag for a header with addresses.
const HAS_ADDRESSES: u32 = 1 << 16;
const LOADER: &str = "dejavm";
/// Bytes that the information may take.
const INFO_BYTES_MAX: usize = 0x1_0000;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// 1 or 2.
    version: u8,
    /// Where it is in the file.
    offset: usize,
    addresses: Option<Addresses>,
    entry: Option<u32>,
}

/// Where an image goes that need not be ELF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Addresses {
    header: u32,
    load: u32,
    load_end: u32,
    bss_end: u32,
}

fn word(image: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*image.get(at..)?.first_chunk()?))
}

/// The header, if the image has one.
pub(crate) fn find(image: &[u8]) -> Option<Header> {
    let two = (0..SEARCH_2.min(image.len())).step_by(8).find_map(|at| header_2(image, at));
    two.or_else(|| (0..SEARCH_1.min(image.len())).step_by(4).find_map(|at| header_1(image, at)))
}

fn header_1(image: &[u8], offset: usize) -> Option<Header> {
    let field = |index: usize| word(image, offset + 4 * index);
    let (magic, flags, checksum) = (field(0)?, field(1)?, field(2)?);
    if magic != HEADER_1 || magic.wrapping_add(flags).wrapping_add(checksum) != 0 {
        return None;
    }
    let mut header = Header { version: 1, offset, addresses: None, entry: None };
    if flags & HAS_ADDRESSES != 0 {
        let [at, load, load_end, bss_end] = [field(3)?, field(4)?, field(5)?, field(6)?];
        header.addresses = Some(Addresses { header: at, load, load_end, bss_end });
        header.entry = Some(field(7)?);
    }
    Some(header)
}

fn header_2(image: &[u8], offset: usize) -> Option<Header> {
    const I386: u32 = 0;
    const END: u16 = 0;
    const ADDRESSES: u16 = 2;
    const ENTRY: u16 = 3;
    let field = |index: usize| word(image, offset + 4 * index);
    let (magic, architecture, length, checksum) = (field(0)?, field(1)?, field(2)?, field(3)?);
    let sum = magic.wrapping_add(architecture).wrapping_add(length).wrapping_add(checksum);
    if magic != HEADER_2 || architecture != I386 || sum != 0 {
        return None;
    }
    let mut header = Header { version: 2, offset, addresses: None, entry: None };
    let end = offset.checked_add(length as usize)?;
    let mut at = offset + 16;
    while at + 8 <= end {
        let (kind, size) = (word(image, at)? as u16, word(image, at + 4)? as usize);
        let tag = |index: usize| word(image, at + 8 + 4 * index);
        match kind {
            END => break,
            ADDRESSES => {
                let [header_at, load, load_end, bss_end] = [tag(0)?, tag(1)?, tag(2)?, tag(3)?];
                header.addresses = Some(Addresses { header: header_at, load, load_end, bss_end });
            }
            ENTRY => header.entry = Some(tag(0)?),
            _ => {}
        }
        at = at.checked_add(size.max(8).next_multiple_of(8))?;
    }
    Some(header)
}

/// Loads the image and its modules and returns the registers at the entry point.
pub(crate) fn load(
    header: Header,
    boot: &Boot<'_>,
    modules: &[Module<'_>],
    ram: &mut GuestRam,
) -> Result<CpuState, BootError> {
    let (elf_entry, end) = match header.addresses {
        Some(addresses) => (None, load_flat(header.offset, addresses, boot.image, ram)?),
        None => elf::load_for_multiboot(boot.image, ram).map(|(entry, end)| (Some(entry), end))?,
    };
    let entry = header.entry.or(elf_entry).ok_or_else(|| damaged("it has no entry point"))?;
    linux::write_cmdline(boot.cmdline, CMDLINE_BYTES_MAX as usize, ram)?;
    // The initial RAM disk is a module without a name.
    let initrd = boot.initrd.map(|bytes| Module { bytes, cmdline: "" });
    let mut placed = Vec::new();
    let mut limit = ram.layout().low_bytes();
    for module in initrd.iter().chain(modules) {
        let place = initrd::place(Some(module.bytes), end, limit, ram)?;
        if place.bytes > 0 {
            limit = place.address;
        }
        // Low RAM ends below 4 GiB.
        let start = place.address as u32;
        placed.push(Placed { start, end: start + place.bytes as u32, cmdline: module.cmdline });
    }
    let (info, magic) = match header.version {
        1 => (info_1(&placed, ram), LOADED_1),
        _ => (info_2(boot.cmdline, &placed, ram), LOADED_2),
    };
    if info.len() > INFO_BYTES_MAX {
        return Err(damaged("its modules have too many words to tell it of them"));
    }
    ram.write(Gpa(MULTIBOOT_INFO), &info)?;
    let mut cpu = registers::protected_mode(entry, ram);
    cpu.gpr[gpr::RAX] = magic.into();
    cpu.gpr[gpr::RBX] = MULTIBOOT_INFO;
    Ok(cpu)
}

fn damaged(what: &str) -> BootError {
    BootError::BadImage(what.into())
}

/// Copies the image to where its header says; returns its end.
fn load_flat(
    offset: usize,
    addresses: Addresses,
    image: &[u8],
    ram: &mut GuestRam,
) -> Result<u64, BootError> {
    let Addresses { header, load, load_end, bss_end } = addresses;
    let before = header.checked_sub(load).map(|before| before as usize);
    let first = before.and_then(|before| offset.checked_sub(before));
    let first = first.ok_or_else(|| damaged("its header lies before the address of its load"))?;
    let rest = &image[first..];
    let bytes = match load_end.checked_sub(load) {
        _ if load_end == 0 => rest,
        Some(bytes) => rest
            .get(..bytes as usize)
            .ok_or_else(|| damaged("it ends before what its header says is loaded"))?,
        None => return Err(damaged("its header lets it end before it begins")),
    };
    if u64::from(load) < HIGH_MEMORY {
        return Err(damaged("its header wants it below 1 MiB"));
    }
    let end = (u64::from(load) + bytes.len() as u64).max(bss_end.into());
    elf::check_room(end, ram)?;
    ram.write(Gpa(load.into()), bytes)?;
    Ok(end)
}

/// A module in RAM.
struct Placed<'a> {
    start: u32,
    end: u32,
    cmdline: &'a str,
}

/// KiB below 640 KiB, and from 1 MiB on.
fn memory_sizes(ram: &GuestRam) -> [u32; 2] {
    [(EBDA >> 10) as u32, ((ram.layout().low_bytes() - HIGH_MEMORY) >> 10) as u32]
}

/// The first version's information, and what it points to.
fn info_1(modules: &[Placed<'_>], ram: &GuestRam) -> Vec<u8> {
    const MEMORY: u32 = 1 << 0;
    const COMMAND_LINE: u32 = 1 << 2;
    const MODULES: u32 = 1 << 3;
    const MEMORY_MAP: u32 = 1 << 6;
    const LOADER_NAME: u32 = 1 << 9;
    const FIXED: usize = 120;
    let base = MULTIBOOT_INFO as u32;
    let mut info = vec![0; FIXED];
    let map_at = base + info.len() as u32;
    for range in memory_map::ranges(ram.layout()) {
        // The size does not count itself.
        info.extend(20u32.to_le_bytes());
        info.extend(range.start.to_le_bytes());
        info.extend(range.bytes.to_le_bytes());
        info.extend((range.kind as u32).to_le_bytes());
    }
    let map_bytes = base + info.len() as u32 - map_at;
    let name_at = base + info.len() as u32;
    info.extend(LOADER.as_bytes());
    info.push(0);
    info.resize(info.len().next_multiple_of(4), 0);
    let modules_at = base + info.len() as u32;
    let mut words_at = modules_at + 16 * modules.len() as u32;
    for module in modules {
        for field in [module.start, module.end, words_at, 0] {
            info.extend(field.to_le_bytes());
        }
        words_at += module.cmdline.len() as u32 + 1;
    }
    for module in modules {
        info.extend(module.cmdline.as_bytes());
        info.push(0);
    }
    let [lower, upper] = memory_sizes(ram);
    let flags = MEMORY | COMMAND_LINE | MODULES | MEMORY_MAP | LOADER_NAME;
    for (at, value) in [
        (0, flags),
        (4, lower),
        (8, upper),
        (16, CMDLINE as u32),
        (20, modules.len() as u32),
        (24, modules_at),
        (44, map_bytes),
        (48, map_at),
        (64, name_at),
    ] {
        info[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    info
}

/// The second version's information: tags.
fn info_2(cmdline: &str, modules: &[Placed<'_>], ram: &GuestRam) -> Vec<u8> {
    const TERMINATED: u8 = 0;
    let mut info = vec![0; 8];
    let mut tag = |kind: u32, parts: &[&[u8]]| {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        info.extend(kind.to_le_bytes());
        info.extend((8 + bytes as u32).to_le_bytes());
        parts.iter().for_each(|part| info.extend(*part));
        info.resize(info.len().next_multiple_of(8), 0);
    };
    tag(1, &[cmdline.as_bytes(), &[TERMINATED]]);
    tag(2, &[LOADER.as_bytes(), &[TERMINATED]]);
    for Placed { start, end, cmdline } in modules {
        tag(3, &[&start.to_le_bytes(), &end.to_le_bytes(), cmdline.as_bytes(), &[TERMINATED]]);
    }
    let [lower, upper] = memory_sizes(ram);
    tag(4, &[&lower.to_le_bytes(), &upper.to_le_bytes()]);
    let mut map = [24u32.to_le_bytes(), 0u32.to_le_bytes()].concat();
    for range in memory_map::ranges(ram.layout()) {
        map.extend(range.start.to_le_bytes());
        map.extend(range.bytes.to_le_bytes());
        map.extend((range.kind as u32).to_le_bytes());
        map.extend([0; 4]);
    }
    tag(6, &[&map]);
    let mut root = [0; 36];
    ram.read(Gpa(acpi::RSDP), &mut root).expect("any machine has RAM below 1 MiB");
    tag(15, &[&root]);
    tag(0, &[]);
    let bytes = info.len() as u32;
    info[..4].copy_from_slice(&bytes.to_le_bytes());
    info
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{End, Machine, MachineConfig, Output, Stop};
    use dejavm_memory::RamLayout;
    use dejavm_units::Position;

    const LOAD: u32 = 0x10_0000;

    /// A flat image: the header, padding to 64 bytes, and code.
    fn flat(version: u8, code: &[u8]) -> Vec<u8> {
        let entry = LOAD + 64;
        let words: Vec<u32> = if version == 1 {
            let flags = 1 << 16;
            vec![
                HEADER_1,
                flags,
                HEADER_1.wrapping_add(flags).wrapping_neg(),
                LOAD,
                LOAD,
                0,
                0,
                entry,
            ]
        } else {
            let length = 16 + 24 + 16 + 8;
            let sum = HEADER_2.wrapping_add(length).wrapping_neg();
            // Addresses, entry with its padding, end.
            vec![HEADER_2, 0, length, sum, 2, 24, LOAD, LOAD, 0, 0, 3, 12, entry, 0, 0, 8]
        };
        let mut image: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        image.resize(64, 0);
        image.extend(code);
        image
    }

    fn run(image: &[u8], modules: &[Module<'_>]) -> (Stop, String) {
        let config = MachineConfig::new(RamLayout::new(8 << 20).unwrap());
        let boot = Boot { image, initrd: None, cmdline: "hello world" };
        let mut machine = Machine::boot_with_modules(&config, &boot, modules).unwrap();
        let stop = machine.run(Position(10_000));
        let mut text = Vec::new();
        for output in machine.take_output() {
            if let Output::DebugConsole { bytes } = output {
                text.extend(bytes);
            }
        }
        (stop, String::from_utf8(text).unwrap())
    }

    /// Prints the string at ESI: lodsb; test al, al; jz +4; out 0xe9, al; jmp back.
    const PRINT: [u8; 9] = [0xac, 0x84, 0xc0, 0x74, 4, 0xe6, 0xe9, 0xeb, 0xf7];
    /// mov eax, 0x2a; out 0xf4, eax.
    const LEAVE: [u8; 7] = [0xb8, 0x2a, 0, 0, 0, 0xe7, 0xf4];

    #[test]
    fn a_kernel_of_version_1_says_what_its_second_module_and_its_command_line_hold() {
        let mut code = Vec::new();
        // cmp eax, 0x2badb002; jne to itself.
        code.extend([0x3d, 0x02, 0xb0, 0xad, 0x2b, 0x75, 0xfe]);
        // mov esi, [ebx + 24]; mov esi, [esi + 16]: the second module's start.
        code.extend([0x8b, 0x73, 24, 0x8b, 0x76, 16]);
        code.extend(PRINT);
        // mov esi, [ebx + 24]; mov esi, [esi + 24]: its words.
        code.extend([0x8b, 0x73, 24, 0x8b, 0x76, 24]);
        code.extend(PRINT);
        // mov esi, [ebx + 16].
        code.extend([0x8b, 0x73, 16]);
        code.extend(PRINT);
        code.extend(LEAVE);
        let modules = [
            Module { bytes: &[7; 5000], cmdline: "first" },
            Module { bytes: b"contents,\0", cmdline: "second," },
        ];
        let (stop, text) = run(&flat(1, &code), &modules);
        assert_eq!(stop, Stop::End(End::DebugExit(0x2a)), "{text}");
        assert_eq!(text, "contents,second,hello world");
    }

    #[test]
    fn a_kernel_of_version_2_finds_its_tags() {
        let mut code = Vec::new();
        code.extend([0x3d, 0x89, 0x62, 0xd7, 0x36, 0x75, 0xfe]);
        // lea esi, [ebx + 16]: behind the sizes and the first tag's head is the command line.
        code.extend([0x8d, 0x73, 16]);
        code.extend(PRINT);
        code.extend(LEAVE);
        let (stop, text) = run(&flat(2, &code), &[]);
        assert_eq!((stop, text.as_str()), (Stop::End(End::DebugExit(0x2a)), "hello world"));
    }

    #[test]
    fn a_kernel_of_version_2_says_what_its_second_module_holds() {
        let mut code = Vec::new();
        code.extend([0x3d, 0x89, 0x62, 0xd7, 0x36, 0x75, 0xfe]);
        // mov ecx, 2; lea esi, [ebx + 8]: the first tag.
        code.extend([0xb9, 2, 0, 0, 0, 0x8d, 0x73, 8]);
        // next: cmp dword [esi], 3; jne past; loop past; jmp found.
        code.extend([0x83, 0x3e, 3, 0x75, 4, 0xe2, 2, 0xeb, 13]);
        // past: mov eax, [esi + 4]; add eax, 7; and eax, -8; add esi, eax; jmp next.
        code.extend([0x8b, 0x46, 4, 0x83, 0xc0, 7, 0x83, 0xe0, 0xf8, 0x01, 0xc6, 0xeb, 0xea]);
        // found: mov edi, esi; lea esi, [edi + 16]: its words.
        code.extend([0x89, 0xf7, 0x8d, 0x77, 16]);
        code.extend(PRINT);
        // mov esi, [edi + 8]: where it starts.
        code.extend([0x8b, 0x77, 8]);
        code.extend(PRINT);
        code.extend(LEAVE);
        let modules = [
            Module { bytes: &[7; 5000], cmdline: "first" },
            Module { bytes: b"contents\0", cmdline: "second," },
        ];
        let (stop, text) = run(&flat(2, &code), &modules);
        let expected = (Stop::End(End::DebugExit(0x2a)), "second,contents");
        assert_eq!((stop, text.as_str()), expected);
    }

    #[test]
    fn tags_of_version_2_are_a_list_to_its_end() {
        let ram = GuestRam::new(RamLayout::new(8 << 20).unwrap()).unwrap();
        let modules = [Placed { start: 0x7f_0000, end: 0x7f_0003, cmdline: "x" }];
        let info = info_2("a b", &modules, &ram);
        assert_eq!(word(&info, 0), Some(info.len() as u32));
        let (mut at, mut kinds) = (8, Vec::new());
        while at < info.len() {
            kinds.push(word(&info, at).unwrap());
            at += (word(&info, at + 4).unwrap() as usize).next_multiple_of(8);
        }
        assert_eq!((at, kinds), (info.len(), vec![1, 2, 3, 4, 6, 15, 0]));
    }

    #[test]
    fn headers_that_contradict_themselves_are_refused_or_are_none() {
        let good = flat(1, &LEAVE);
        assert!(find(&good).is_some());
        let mut wrong = good.clone();
        wrong[8] ^= 1;
        assert_eq!(find(&wrong), None, "the checksum");
        let refusal = |change: fn(&mut Vec<u8>)| {
            let mut image = good.clone();
            change(&mut image);
            let config = MachineConfig::new(RamLayout::new(8 << 20).unwrap());
            let boot = Boot { image: &image, initrd: None, cmdline: "" };
            Machine::boot(&config, &boot).err().expect("it is refused").to_string()
        };
        assert!(refusal(|image| image[16] = 1).contains("before the address"));
        assert!(refusal(|image| image[22] = 0x20).contains("ends before what"));
        assert!(refusal(|image| image[27] = 0x10).contains("needs RAM"));
        for length in 0..good.len() {
            find(&good[..length]);
            find(&flat(2, &LEAVE)[..length]);
        }
    }
}

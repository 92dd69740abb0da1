//! The running kernel's symbols as an ELF file: what gdb asks for as the program's file when nobody has a `vmlinux`.
//!
//! Addresses are the running kernel's, randomization included, so nothing has to be slid. Sections hold no bytes: gdb reads
//! code and data from the machine. Layout by the System V gABI, chapters 4 and 5.

use crate::Kernel;
use dejavm_units::Gva;

/// Kernel addresses begin here in every split of a 32-bit space; what is below is an offset or a constant.
const LOWEST: u64 = 0x4000_0000;

const SHT_PROGBITS: u32 = 1;
const SHT_SYMTAB: u32 = 2;
const SHT_STRTAB: u32 = 3;
const SHT_NOTE: u32 = 7;
const SHT_NOBITS: u32 = 8;
const SHF_WRITE: u64 = 1;
const SHF_ALLOC: u64 = 2;
const SHF_EXECINSTR: u64 = 4;
const SHN_ABS: u16 = 0xfff1;
const STB_GLOBAL: u8 = 1;
const STT_OBJECT: u8 = 1;
const STT_FUNC: u8 = 2;

/// Section numbers of this file.
const TEXT: u16 = 1;
const DATA: u16 = 2;
const STRTAB: u32 = 4;
const SHSTRTAB: u16 = 5;
const SECTION_NAMES: &[u8] = b"\0.text\0.data\0.symtab\0.strtab\0.shstrtab\0.note.gnu.build-id\0";

/// Bytes in the file's own word size.
struct Writer {
    bytes: Vec<u8>,
    wide: bool,
}

impl Writer {
    fn half(&mut self, value: u16) {
        self.bytes.extend(value.to_le_bytes());
    }
    fn word(&mut self, value: u32) {
        self.bytes.extend(value.to_le_bytes());
    }
    /// An address, an offset or a size.
    fn long(&mut self, value: u64) {
        if self.wide {
            self.bytes.extend(value.to_le_bytes());
        } else {
            self.word(value as u32);
        }
    }
    /// Pads to a multiple of eight bytes; where that is.
    fn align(&mut self) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.bytes.len() as u64
    }
}

struct Section {
    name: &'static str,
    kind: u32,
    flags: u64,
    address: u64,
    offset: u64,
    size: u64,
    link: u32,
    info: u32,
    entry: u64,
}

struct Entry {
    name: u32,
    info: u8,
    section: u16,
    value: u64,
}

impl Kernel {
    /// An ELF file with the kernel's symbols at their addresses in the running kernel; `None` if they are not known.
    pub fn symbol_file(&self) -> Option<Vec<u8>> {
        let symbols = self.symbols()?;
        let text = self.facts().text?.0;
        let wide = self.pointer_bytes() == 8;
        let (mut strings, mut local, mut global) = (vec![0u8], Vec::new(), Vec::new());
        let mut last = text;
        symbols.each(&mut |at: Gva, kind, name| {
            let code = matches!(kind, b'T' | b't' | b'W' | b'w');
            let absolute = at.0 < LOWEST || matches!(kind, b'A' | b'a');
            let section = if absolute {
                SHN_ABS
            } else if code {
                TEXT
            } else {
                DATA
            };
            if !absolute && at.0 >= text {
                last = last.max(at.0);
            }
            let binding = if kind.is_ascii_uppercase() { STB_GLOBAL } else { 0 };
            let class = if code { STT_FUNC } else { STT_OBJECT };
            let entry = Entry {
                name: strings.len() as u32,
                info: binding << 4 | class,
                section,
                value: at.0,
            };
            strings.extend_from_slice(name);
            strings.push(0);
            if binding == STB_GLOBAL {
                global.push(entry)
            } else {
                local.push(entry)
            }
            true
        });
        let end = self.facts().end.map_or(last, |end| end.0).max(text);
        let etext = self.facts().etext.map_or(end, |etext| etext.0).clamp(text, end);

        let (header, program, symbol) = if wide { (64, 56, 24) } else { (52, 32, 16) };
        let mut out = Writer { bytes: vec![0; header + program], wide };
        let symtab = out.align();
        let first_global = 1 + local.len() as u32;
        out.bytes.resize(out.bytes.len() + symbol, 0);
        for entry in local.iter().chain(&global) {
            out.word(entry.name);
            if wide {
                out.bytes.extend([entry.info, 0]);
                out.half(entry.section);
                out.long(entry.value);
                out.long(0);
            } else {
                out.long(entry.value);
                out.long(0);
                out.bytes.extend([entry.info, 0]);
                out.half(entry.section);
            }
        }
        let symtab_size = out.bytes.len() as u64 - symtab;
        let strtab = out.bytes.len() as u64;
        out.bytes.extend(&strings);
        let shstrtab = out.bytes.len() as u64;
        out.bytes.extend(SECTION_NAMES);
        let note = out.align();
        if let Some(id) = &self.facts().build_id {
            // Elf_Nhdr: name "GNU", type NT_GNU_BUILD_ID = 3.
            out.word(4);
            out.word(id.len() as u32);
            out.word(3);
            out.bytes.extend(b"GNU\0");
            out.bytes.extend(id);
        }
        let note_size = out.bytes.len() as u64 - note;

        let plain = Section {
            name: "",
            kind: SHT_PROGBITS,
            flags: 0,
            address: 0,
            offset: 0,
            size: 0,
            link: 0,
            info: 0,
            entry: 0,
        };
        let sections = [
            Section { kind: 0, ..plain },
            Section {
                name: ".text",
                kind: SHT_NOBITS,
                flags: SHF_ALLOC | SHF_EXECINSTR,
                address: text,
                size: etext - text,
                ..plain
            },
            Section {
                name: ".data",
                kind: SHT_NOBITS,
                flags: SHF_ALLOC | SHF_WRITE,
                address: etext,
                size: end - etext,
                ..plain
            },
            Section {
                name: ".symtab",
                kind: SHT_SYMTAB,
                offset: symtab,
                size: symtab_size,
                link: STRTAB,
                info: first_global,
                entry: symbol as u64,
                ..plain
            },
            Section {
                name: ".strtab",
                kind: SHT_STRTAB,
                offset: strtab,
                size: strings.len() as u64,
                ..plain
            },
            Section {
                name: ".shstrtab",
                kind: SHT_STRTAB,
                offset: shstrtab,
                size: SECTION_NAMES.len() as u64,
                ..plain
            },
            Section {
                name: ".note.gnu.build-id",
                kind: SHT_NOTE,
                offset: note,
                size: note_size,
                ..plain
            },
        ];
        // The note's section comes last and is left out when there is no id.
        let count = sections.len() - usize::from(note_size == 0);
        let table = out.align();
        for section in &sections[..count] {
            out.section(section);
        }
        let physical = self.facts().text_physical.map_or(text, |at| at.0);
        let start = out.beginning(table, count as u16, text, end - text, physical);
        out.bytes[..start.len()].copy_from_slice(&start);
        Some(out.bytes)
    }
}

impl Writer {
    fn section(&mut self, section: &Section) {
        let name = SECTION_NAMES
            .windows(section.name.len() + 2)
            .position(|window| {
                window[0] == 0
                    && window[1..].starts_with(section.name.as_bytes())
                    && window[section.name.len() + 1] == 0
            })
            .map_or(0, |before| before + 1);
        self.word(name as u32);
        self.word(section.kind);
        self.long(section.flags);
        self.long(section.address);
        self.long(section.offset);
        self.long(section.size);
        self.word(section.link);
        self.word(section.info);
        self.long(8);
        self.long(section.entry);
    }

    /// The file header and the one program header.
    fn beginning(&self, table: u64, sections: u16, text: u64, size: u64, physical: u64) -> Vec<u8> {
        let mut out = Writer { bytes: Vec::new(), wide: self.wide };
        let (class, machine, header, program, section) =
            if self.wide { (2, 62, 64, 56, 64) } else { (1, 3, 52, 32, 40) };
        out.bytes.extend([0x7f, b'E', b'L', b'F', class, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        // ET_EXEC, version 1, entry.
        out.half(2);
        out.half(machine);
        out.word(1);
        out.long(text);
        out.long(header);
        out.long(table);
        out.word(0);
        for value in [header as u16, program, 1, section, sections, SHSTRTAB] {
            out.half(value);
        }
        // PT_LOAD, readable, writable and executable.
        out.word(1);
        if self.wide {
            out.word(7);
        }
        for value in [0, text, physical, 0, size] {
            out.long(value);
        }
        if !self.wide {
            out.word(7);
        }
        out.long(0x1000);
        out.bytes
    }
}

//! ELF images: by PVH where the image has its note, else a 64-bit `vmlinux` by Linux's 64-bit entry.

use super::{initrd, linux, pvh, registers};
use crate::boot::{Boot, BootError};
use crate::memory_map::{BOOT_PARAMS, CMDLINE_BYTES_MAX};
use dejavm_cpu::{CpuState, Model, gpr};
use dejavm_memory::GuestRam;
use dejavm_units::Gpa;
use linux_loader::loader::bootparam::setup_header;
use object::Endianness;
use object::elf::{EM_386, EM_X86_64, FileHeader32, FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};

const MAGIC: &[u8] = b"\x7fELF";
/// Offset and values of EI_CLASS.
const CLASS_OFFSET: usize = 4;
const CLASS_32: u8 = 1;
const CLASS_64: u8 = 2;
/// The note that holds the 32-bit entry point (Xen, xen/include/public/elfnote.h), of owner "Xen".
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
const NOTE_OWNER: &[u8] = b"Xen";
/// `COMMAND_LINE_SIZE` of x86 Linux, its terminating zero left out.
const LINUX_CMDLINE_MAX: usize = 2047;
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");

/// Whether `image` is an ELF image.
pub(crate) fn is_one(image: &[u8]) -> bool {
    image.starts_with(MAGIC)
}

/// What loading the segments found.
struct Loaded {
    /// `e_entry`: a physical address in a `vmlinux`.
    entry: u64,
    /// The entry point of the PVH note.
    pvh_entry: Option<u32>,
    /// First address after the image.
    end: u64,
}

/// Loads an ELF image and returns the registers at its entry point.
pub(crate) fn load(
    model: Model,
    boot: &Boot<'_>,
    ram: &mut GuestRam,
) -> Result<CpuState, BootError> {
    let loaded = match boot.image.get(CLASS_OFFSET) {
        Some(&CLASS_32) => load_segments::<FileHeader32<Endianness>>(boot.image, ram)?,
        Some(&CLASS_64) => load_segments::<FileHeader64<Endianness>>(boot.image, ram)?,
        _ => return Err(BootError::BadImage("it is neither 32-bit nor 64-bit ELF".into())),
    };
    let is_64bit = boot.image.get(CLASS_OFFSET) == Some(&CLASS_64);
    let low_bytes = ram.layout().low_bytes();
    let initrd = initrd::place(boot.initrd, loaded.end, low_bytes, ram)?;
    if let Some(entry) = loaded.pvh_entry {
        linux::write_cmdline(boot.cmdline, CMDLINE_BYTES_MAX as usize, ram)?;
        return pvh::start(entry, initrd, ram);
    }
    if !is_64bit {
        return Err(BootError::BadImage("it is a 32-bit ELF image without a PVH note".into()));
    }
    if model == Model::V1 {
        return Err(BootError::NeedsLongMode);
    }
    linux::write_cmdline(boot.cmdline, LINUX_CMDLINE_MAX, ram)?;
    let header =
        setup_header { boot_flag: BOOT_FLAG, header: HEADER_MAGIC, ..setup_header::default() };
    linux::write_boot_params(header, initrd, ram)?;
    let mut cpu = registers::long_mode(loaded.entry, ram);
    cpu.gpr[gpr::RSI] = BOOT_PARAMS;
    Ok(cpu)
}

/// Whether the image has an entry point for PVH, which goes before all others.
pub(crate) fn has_pvh_entry(image: &[u8]) -> bool {
    let found = match image.get(CLASS_OFFSET) {
        Some(&CLASS_32) => pvh_entry::<FileHeader32<Endianness>>(image),
        Some(&CLASS_64) => pvh_entry::<FileHeader64<Endianness>>(image),
        _ => return false,
    };
    matches!(found, Ok(Some(_)))
}

/// The entry point of the PVH note.
fn pvh_entry<H>(image: &[u8]) -> object::Result<Option<u32>>
where
    H: FileHeader<Endian = Endianness>,
{
    let header = H::parse(image)?;
    let endian = header.endian()?;
    let mut entry = None;
    for segment in header.program_headers(endian, image)? {
        let Some(mut notes) = segment.notes(endian, image)? else { continue };
        while let Some(note) = notes.next()? {
            let is_entry =
                note.name() == NOTE_OWNER && note.n_type(endian).0 == XEN_ELFNOTE_PHYS32_ENTRY;
            if let (true, Some(bytes)) = (is_entry, note.desc().first_chunk::<4>()) {
                entry = Some(u32::from_le_bytes(*bytes));
            }
        }
    }
    Ok(entry)
}

/// Loads the segments of a Multiboot kernel; its entry point and its end.
pub(crate) fn load_for_multiboot(
    image: &[u8],
    ram: &mut GuestRam,
) -> Result<(u32, u64), BootError> {
    let loaded = match image.get(CLASS_OFFSET) {
        Some(&CLASS_32) if is_one(image) => load_segments::<FileHeader32<Endianness>>(image, ram)?,
        Some(&CLASS_64) if is_one(image) => load_segments::<FileHeader64<Endianness>>(image, ram)?,
        _ => {
            let what = "its Multiboot header has no addresses, and it is no ELF image";
            return Err(BootError::BadImage(what.into()));
        }
    };
    let entry = u32::try_from(loaded.entry)
        .map_err(|_| BootError::BadImage("its entry point lies beyond 4 GiB".into()))?;
    Ok((entry, loaded.end))
}

/// Copies the loadable segments to their physical addresses; RAM is zero where a segment has no bytes
/// in the file.
fn load_segments<H>(image: &[u8], ram: &mut GuestRam) -> Result<Loaded, BootError>
where
    H: FileHeader<Endian = Endianness>,
{
    let damaged = |error: object::Error| BootError::BadImage(error.to_string());
    let header = H::parse(image).map_err(damaged)?;
    let endian = header.endian().map_err(damaged)?;
    let machine = header.e_machine(endian);
    if endian != Endianness::Little || !matches!(machine, EM_386 | EM_X86_64) {
        return Err(BootError::BadImage("it is an ELF image for another kind of CPU".into()));
    }
    let pvh_entry = pvh_entry::<H>(image).map_err(damaged)?;
    let mut loaded = Loaded { entry: header.e_entry(endian).into(), pvh_entry, end: 0 };
    for segment in header.program_headers(endian, image).map_err(damaged)? {
        if segment.p_type(endian) == PT_LOAD {
            let address: u64 = segment.p_paddr(endian).into();
            let end = address.saturating_add(segment.p_memsz(endian).into());
            loaded.end = loaded.end.max(end);
            check_room(loaded.end, ram)?;
            let content = segment
                .data(endian, image)
                .map_err(|()| BootError::BadImage("a segment lies outside the file".into()))?;
            ram.write(Gpa(address), content)?;
        }
    }
    Ok(loaded)
}

/// Refuses an image whose `end` lies beyond low RAM.
pub(crate) fn check_room(end: u64, ram: &GuestRam) -> Result<(), BootError> {
    let low_bytes = ram.layout().low_bytes();
    if end <= low_bytes {
        return Ok(());
    }
    let (needs, has) = (end.div_ceil(1 << 20), low_bytes >> 20);
    Err(BootError::KernelTooLarge { needs, has })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MachineConfig;
    use crate::machine::Machine;
    use dejavm_memory::RamLayout;
    use dejavm_units::Gpa;

    const LOAD_ADDRESS: u64 = 0x20_0000;

    /// An executable of one segment at [`LOAD_ADDRESS`], with a note that names a PVH entry if asked.
    fn image(pvh_entry: Option<u32>, memory_bytes: u64) -> Vec<u8> {
        let mut note = Vec::new();
        for word in [4u32, 4, 18] {
            note.extend(word.to_le_bytes());
        }
        note.extend(b"Xen\0");
        note.extend(pvh_entry.unwrap_or(0).to_le_bytes());
        let headers: u64 = 64 + 2 * 56;
        let note_type: u32 = if pvh_entry.is_some() { 4 } else { 0 };
        let mut image = Vec::new();
        image.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        image.extend([2, 0, 62, 0, 1, 0, 0, 0]);
        image.extend((LOAD_ADDRESS + 0x10).to_le_bytes());
        image.extend(64u64.to_le_bytes());
        image.extend([0; 12]);
        for half in [64u16, 56, 2, 0, 0, 0] {
            image.extend(half.to_le_bytes());
        }
        let mut segment = |kind: u32, offset: u64, address: u64, file: u64, memory: u64| {
            image.extend(kind.to_le_bytes());
            image.extend(7u32.to_le_bytes());
            for field in [offset, address, address, file, memory, 1] {
                image.extend(field.to_le_bytes());
            }
        };
        segment(1, headers + 20, LOAD_ADDRESS, 4, memory_bytes);
        segment(note_type, headers, 0, 20, 20);
        image.extend(note);
        image.extend(b"code");
        image
    }

    fn boot(model: Model, image: &[u8], initrd: Option<&[u8]>) -> Result<Machine, BootError> {
        let mut config = MachineConfig::new(RamLayout::new(4 << 20).unwrap());
        config.cpu = model;
        Machine::boot(&config, &Boot { image, initrd, cmdline: "hello" })
    }

    fn read<const N: usize>(machine: &Machine, gpa: u64) -> [u8; N] {
        let mut bytes = [0; N];
        machine.ram().read(Gpa(gpa), &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn pvh_gets_the_start_info_in_ebx() {
        let image = image(Some(0x20_0002), 0x1000);
        let machine = boot(Model::V1, &image, Some(b"module")).unwrap();
        let cpu = machine.save().cpu;
        assert_eq!((cpu.rip, cpu.cr0 & 0x8000_0001, cpu.efer), (0x20_0002, 1, 0));
        assert_eq!(read(&machine, LOAD_ADDRESS), *b"code");
        let info = cpu.gpr[3];
        let field = |offset| u64::from_le_bytes(read(&machine, info + offset));
        assert_eq!(field(0), 1 << 32 | 0x336e_c578, "magic and version");
        assert_eq!(field(8), 1 << 32, "flags and number of modules");
        let module = u64::from_le_bytes(read(&machine, field(16)));
        assert_eq!(read(&machine, module), *b"module");
        assert_eq!(read(&machine, field(24)), *b"hello\0");
        assert_eq!(read(&machine, field(32)), *b"RSD PTR ");
        assert_eq!(field(48), 6, "memory map entries");
        let first: [u8; 20] = read(&machine, field(40));
        assert_eq!(first[8..], [0, 0xfc, 9, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn without_a_note_it_is_a_vmlinux() {
        let image = image(None, 0x1000);
        let cpu = boot(Model::V2, &image, None).unwrap().save().cpu;
        assert_eq!((cpu.rip, cpu.gpr[6], cpu.efer & 0x500), (0x20_0010, 0x7000, 0x500));
        let refusal = boot(Model::V1, &image, None).err().unwrap();
        assert!(matches!(refusal, BootError::NeedsLongMode), "{refusal}");
    }

    #[test]
    fn segments_that_leave_ram_are_refused() {
        let refusal = boot(Model::V2, &image(None, 1 << 40), None).err().unwrap();
        assert!(matches!(refusal, BootError::KernelTooLarge { has: 4, .. }), "{refusal}");
        let whole = image(None, 0x1000);
        for cut in 6..whole.len() {
            assert!(boot(Model::V2, &whole[..cut], None).is_err(), "cut at {cut}");
        }
    }
}

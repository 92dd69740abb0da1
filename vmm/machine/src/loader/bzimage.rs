//! Linux bzImage (Linux, Documentation/arch/x86/boot.rst), by the 64-bit protocol where kernel and
//! CPU both have it, else by the 32-bit one.
//!
//! The kernel goes to the address it prefers, so that an image without relocation information and one
//! with it behave alike.

use super::{initrd, linux, registers};
use crate::boot::{Boot, BootError};
use crate::memory_map::{BOOT_PARAMS, HIGH_MEMORY};
use dejavm_cpu::{CpuState, Model, gpr};
use dejavm_memory::GuestRam;
use dejavm_units::Gpa;
use linux_loader::loader::bootparam::setup_header;
use vm_memory::ByteValued;

const HEADER_OFFSET: usize = 0x1f1;
const MAGIC_OFFSET: usize = 0x202;
const MAGIC: &[u8] = b"HdrS";
/// The byte that the jump at 0x200 skips gives the header's end: 0x202 plus its value.
const JUMP_OFFSET: usize = 0x201;
const SECTOR_BYTES: usize = 512;
/// Protocol 2.06 brought `cmdline_size`; `pref_address` and `init_size` came with 2.10.
const VERSION_MIN: u16 = 0x0206;
const VERSION_PREF_ADDRESS: u16 = 0x020a;
const LOADED_HIGH: u8 = 1 << 0;
/// `xloadflags`: a 64-bit entry point exists at load address + 0x200.
const XLF_KERNEL_64: u16 = 1 << 0;
const ENTRY_64_OFFSET: u64 = 0x200;

/// Whether `image` is a bzImage.
pub(crate) fn is_one(image: &[u8]) -> bool {
    image.get(MAGIC_OFFSET..MAGIC_OFFSET + MAGIC.len()) == Some(MAGIC)
}

/// Loads a bzImage and returns the registers at its entry point.
pub(crate) fn load(
    model: Model,
    boot: &Boot<'_>,
    ram: &mut GuestRam,
) -> Result<CpuState, BootError> {
    let mut header = header(boot.image)?;
    let payload = payload(&header, boot.image)?;
    let has_64bit_entry = header.xloadflags & XLF_KERNEL_64 != 0;
    if has_64bit_entry && !model.has_long_mode() {
        return Err(BootError::NeedsLongMode);
    }

    let (address, memory_bytes) = if header.version >= VERSION_PREF_ADDRESS {
        (header.pref_address, u64::from(header.init_size).max(payload.len() as u64))
    } else {
        (HIGH_MEMORY, payload.len() as u64)
    };
    let low_bytes = ram.layout().low_bytes();
    let end = address.saturating_add(memory_bytes);
    if address < HIGH_MEMORY {
        return Err(BootError::BadImage(format!("it prefers to be at {address:#x}, below 1 MiB")));
    }
    if end > low_bytes {
        let (needs, has) = (end.div_ceil(1 << 20), low_bytes >> 20);
        return Err(BootError::KernelTooLarge { needs, has });
    }
    ram.write(Gpa(address), payload)?;
    let initrd_limit = u64::from(header.initrd_addr_max) + 1;
    let initrd = initrd::place(boot.initrd, end, initrd_limit, ram)?;

    // Both fit: low RAM ends below 4 GiB.
    header.code32_start = address as u32;
    linux::write_cmdline(boot.cmdline, header.cmdline_size as usize, ram)?;
    linux::write_boot_params(header, initrd, ram)?;
    let mut cpu = if has_64bit_entry {
        registers::long_mode(address + ENTRY_64_OFFSET, ram)
    } else {
        registers::protected_mode(address as u32, ram)
    };
    cpu.gpr[gpr::RSI] = BOOT_PARAMS;
    Ok(cpu)
}

/// The setup header; fields that this kernel's protocol does not have yet are zero.
fn header(image: &[u8]) -> Result<setup_header, BootError> {
    let short = || BootError::BadImage("it ends within its setup header".into());
    let mut header = setup_header::default();
    let end = MAGIC_OFFSET + usize::from(*image.get(JUMP_OFFSET).ok_or_else(short)?);
    let bytes = image.get(HEADER_OFFSET..end).ok_or_else(short)?;
    let known = bytes.len().min(size_of::<setup_header>());
    header.as_mut_slice()[..known].copy_from_slice(&bytes[..known]);
    let [minor, major] = { header.version }.to_le_bytes();
    if header.version < VERSION_MIN {
        return Err(BootError::OldProtocol { major, minor });
    }
    if header.loadflags & LOADED_HIGH == 0 {
        return Err(BootError::BadImage("it is a zImage, which loads below 1 MiB".into()));
    }
    Ok(header)
}

/// The protected-mode part of the image.
fn payload<'a>(header: &setup_header, image: &'a [u8]) -> Result<&'a [u8], BootError> {
    // "For backwards compatibility, if the setup_sects field contains 0, the real value is 4."
    let sectors = match header.setup_sects {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (sectors + 1) * SECTOR_BYTES;
    match image.get(start..) {
        Some(payload) if !payload.is_empty() => Ok(payload),
        _ => Err(BootError::BadImage("it ends before its protected-mode part".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MachineConfig;
    use crate::machine::Machine;
    use dejavm_memory::RamLayout;

    /// An image of one setup sector and `payload`, made by the offsets of boot.rst.
    fn image(version: u16, xloadflags: u16, payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0xee; 1024];
        let mut put = |offset: usize, bytes: &[u8]| {
            image[offset..offset + bytes.len()].copy_from_slice(bytes);
        };
        put(0x1f1, &[1]);
        put(0x200, &[0xeb, 0x6a]);
        put(0x202, b"HdrS");
        put(0x206, &version.to_le_bytes());
        put(0x211, &[1]);
        put(0x22c, &0x7fff_ffffu32.to_le_bytes());
        put(0x230, &0x20_0000u32.to_le_bytes());
        put(0x236, &xloadflags.to_le_bytes());
        put(0x238, &100u32.to_le_bytes());
        put(0x258, &0x100_0000u64.to_le_bytes());
        put(0x260, &0x20_0000u32.to_le_bytes());
        image.extend_from_slice(payload);
        image
    }

    fn boot(mib: u64, model: Model, boot: Boot<'_>) -> Result<Machine, BootError> {
        let mut config = MachineConfig::new(RamLayout::new(mib << 20).unwrap());
        config.cpu = model;
        Machine::boot(&config, &boot)
    }

    fn u32_at(machine: &Machine, gpa: u64) -> u32 {
        let mut bytes = [0; 4];
        machine.ram().read(Gpa(gpa), &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn a_64_bit_kernel_starts_in_long_mode_at_its_preferred_address() {
        let image = image(0x20f, 1, b"the kernel");
        let boot =
            boot(32, Model::V2, Boot { image: &image, initrd: Some(&[9; 100]), cmdline: "quiet" });
        let machine = boot.unwrap();
        let cpu = machine.save().cpu;
        assert_eq!((cpu.rip, cpu.gpr[6]), (0x100_0200, 0x7000));
        assert_eq!((cpu.seg[1].selector, cpu.seg[3].selector), (0x10, 0x18));
        assert_eq!((cpu.cr0 & 0x8000_0001, cpu.efer & 0x500), (0x8000_0001, 0x500));
        let mut bytes = [0; 10];
        machine.ram().read(Gpa(0x100_0000), &mut bytes).unwrap();
        assert_eq!(&bytes, b"the kernel");
        let zero_page = 0x7000;
        assert_eq!(u32_at(&machine, zero_page + 0x218), (32 << 20) - 0x1000, "ramdisk_image");
        assert_eq!(u32_at(&machine, zero_page + 0x21c), 100, "ramdisk_size");
        assert_eq!(u32_at(&machine, zero_page + 0x228), 0x2_0000, "cmd_line_ptr");
        assert_eq!(u32_at(&machine, 0x2_0000).to_le_bytes(), *b"quie");
        assert_eq!(u32_at(&machine, zero_page + 0x1e8) & 0xff, 6, "e820_entries");
        // The bytes after the header are not the header's.
        assert_eq!(u32_at(&machine, zero_page + 0x26c), 0);
        // The identity map covers the last 2 MiB below 4 GiB.
        assert_eq!(u32_at(&machine, 0xdff8), 0xffe0_0083);
    }

    #[test]
    fn a_32_bit_kernel_starts_in_protected_mode() {
        let image = image(0x20f, 0, b"kernel");
        let machine =
            boot(32, Model::V1, Boot { image: &image, initrd: None, cmdline: "" }).unwrap();
        let cpu = machine.save().cpu;
        assert_eq!((cpu.rip, cpu.gpr[6], cpu.efer), (0x100_0000, 0x7000, 0));
        assert_eq!((cpu.cr0 & 0x8000_0001, cpu.rflags & 0x200), (1, 0));
    }

    #[test]
    fn what_cannot_be_started_is_refused_with_its_reason() {
        let good = image(0x20f, 1, b"kernel");
        let start = |mib, model, image: &[u8], initrd: Option<&[u8]>, cmdline: &str| {
            boot(mib, model, Boot { image, initrd, cmdline }).err().map(|error| error.to_string())
        };
        let refused = |image: &[u8]| start(32, Model::V2, image, None, "").unwrap();
        assert!(refused(b"").contains("neither"));
        assert!(refused(&good[..0x210]).contains("within its setup header"));
        assert!(refused(&good[..1024]).contains("before its protected-mode part"));
        assert!(refused(&image(0x202, 1, b"k")).contains("protocol 2.02"));
        assert!(start(32, Model::V1, &good, None, "").unwrap().contains("64-bit CPU"));
        assert!(start(17, Model::V2, &good, None, "").unwrap().contains("up to 18 MiB"));
        let disk = vec![0; 15 << 20];
        assert!(start(32, Model::V2, &good, Some(&disk), "").unwrap().contains("does not fit"));
        let long = "x".repeat(101);
        assert!(start(32, Model::V2, &good, None, &long).unwrap().contains("takes 100"));
        assert!(start(32, Model::V2, &good, None, "a\0b").unwrap().contains("zero byte"));
    }
}

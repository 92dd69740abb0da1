//! What all ways into Linux share: `boot_params` ("zero page") with the memory map, the command line
//! and the RAM disk (Linux, Documentation/arch/x86/boot.rst and zero-page.rst).

use super::initrd::Placed;
use crate::acpi;
use crate::boot::BootError;
use crate::memory_map::{self, BOOT_PARAMS, CMDLINE, CMDLINE_BYTES_MAX};
use dejavm_memory::GuestRam;
use dejavm_units::Gpa;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::ByteValued;

/// A boot loader without an assigned number.
const TYPE_OF_LOADER_UNDEFINED: u8 = 0xff;
/// The text mode that the kernel keeps.
const VID_MODE_NORMAL: u16 = 0xffff;

/// Writes the command line with its terminating zero; `max` is what the kernel takes without it.
pub(crate) fn write_cmdline(
    cmdline: &str,
    max: usize,
    ram: &mut GuestRam,
) -> Result<(), BootError> {
    let max = max.min(CMDLINE_BYTES_MAX as usize - 1);
    if cmdline.len() > max {
        return Err(BootError::CmdlineTooLong { bytes: cmdline.len(), max });
    }
    ram.write(Gpa(CMDLINE), cmdline.as_bytes())?;
    ram.write(Gpa(CMDLINE + cmdline.len() as u64), &[0])?;
    Ok(())
}

/// Completes `header` and writes the zero page.
pub(crate) fn write_boot_params(
    header: setup_header,
    initrd: Placed,
    ram: &mut GuestRam,
) -> Result<(), BootError> {
    let mut params = boot_params { hdr: header, ..boot_params::default() };
    params.hdr.type_of_loader = TYPE_OF_LOADER_UNDEFINED;
    params.hdr.vid_mode = VID_MODE_NORMAL;
    params.hdr.cmd_line_ptr = CMDLINE as u32;
    // Low RAM ends below 4 GiB.
    params.hdr.ramdisk_image = initrd.address as u32;
    params.hdr.ramdisk_size = initrd.bytes as u32;
    params.acpi_rsdp_addr = acpi::RSDP;
    let ranges = memory_map::ranges(ram.layout());
    params.e820_entries = ranges.len() as u8;
    for (entry, range) in params.e820_table.iter_mut().zip(&ranges) {
        *entry =
            boot_e820_entry { addr: range.start, size: range.bytes, r#type: range.kind as u32 };
    }
    ram.write(Gpa(BOOT_PARAMS), params.as_slice())?;
    Ok(())
}

//! Where an initial RAM disk (or a module) goes: as high as it may, clear of the kernel.

use crate::boot::BootError;
use dejavm_memory::GuestRam;
use dejavm_units::{Gpa, PAGE_SIZE};

/// Where the RAM disk was put. Both zero if there is none.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) address: u64,
    pub(crate) bytes: u64,
}

/// Puts `initrd` at the highest page boundary in low RAM from which it ends below `limit`. It must
/// begin at or above `kernel_end`.
pub(crate) fn place(
    initrd: Option<&[u8]>,
    kernel_end: u64,
    limit: u64,
    ram: &mut GuestRam,
) -> Result<Placed, BootError> {
    let Some(content) = initrd.filter(|content| !content.is_empty()) else {
        return Ok(Placed::default());
    };
    let bytes = content.len() as u64;
    let end = limit.min(ram.layout().low_bytes());
    let first = kernel_end.next_multiple_of(PAGE_SIZE);
    let room = end.saturating_sub(first);
    if bytes > room {
        return Err(BootError::InitrdTooLarge { bytes, room });
    }
    // `end - bytes >= first`, which is on a page boundary, so rounding down stays clear of the kernel.
    let address = (end - bytes) / PAGE_SIZE * PAGE_SIZE;
    ram.write(Gpa(address), content)?;
    Ok(Placed { address, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use dejavm_memory::RamLayout;

    #[test]
    fn it_is_as_high_as_it_may_be_and_never_on_the_kernel() {
        let mut ram = GuestRam::new(RamLayout::new(4 << 20).unwrap()).unwrap();
        let disk = vec![7; 0x1234];
        let high = place(Some(&disk), 0x10_0001, u64::MAX, &mut ram).unwrap();
        assert_eq!(high, Placed { address: 0x3f_e000, bytes: 0x1234 });
        let limited = place(Some(&disk), 0x10_0001, 0x20_0000, &mut ram).unwrap();
        assert_eq!(limited.address, 0x1f_e000);
        let refusal = place(Some(&disk), 0x3f_e001, u64::MAX, &mut ram).unwrap_err();
        assert!(
            matches!(refusal, BootError::InitrdTooLarge { bytes: 0x1234, room: 0x1000 }),
            "{refusal}"
        );
        assert_eq!(place(None, 0, 0, &mut ram).unwrap(), Placed::default());
    }
}

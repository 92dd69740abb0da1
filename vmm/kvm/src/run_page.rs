//! What of `struct kvm_run` is in unions: the access to a port that the guest waits for.
//!
//! UNSAFETY: the kernel says in `exit_reason` which variant of the union it has written, and where in the mapping that holds
//! the structure the data is. Both are read only here, after the reason was checked, and the data only within the mapping.
#![expect(unsafe_code, reason = "unions that the kernel writes; see UNSAFETY above")]

use kvm_bindings::{KVM_EXIT_IO, KVM_EXIT_IO_IN, kvm_run};

/// A guest's IN, OUT, or as much of INS or OUTS as the kernel does at once.
pub(crate) struct PortAccess<'a> {
    pub(crate) port: u16,
    /// Bytes of an element: 1, 2 or 4.
    pub(crate) size: u8,
    pub(crate) is_in: bool,
    /// All elements: to be filled, or to be written.
    pub(crate) data: &'a mut [u8],
}

/// The access that the guest waits for, if it is that; `mapping_bytes` is what the kernel maps for a vCPU.
pub(crate) fn port_access(run: &mut kvm_run, mapping_bytes: usize) -> Option<PortAccess<'_>> {
    if run.exit_reason != KVM_EXIT_IO {
        return None;
    }
    // SAFETY: the reason says that this is the variant.
    let io = unsafe { run.__bindgen_anon_1.io };
    let bytes = usize::from(io.size) * io.count as usize;
    let offset = usize::try_from(io.data_offset).ok()?;
    let inside = offset.checked_add(bytes).is_some_and(|end| end <= mapping_bytes);
    assert!(
        inside && offset >= size_of::<kvm_run>(),
        "the kernel puts the data behind the structure"
    );
    let start = std::ptr::from_mut(run).cast::<u8>();
    // SAFETY: inside the mapping that begins with `run`, as was checked; behind the structure, so that nothing else refers to it.
    let data = unsafe { std::slice::from_raw_parts_mut(start.add(offset), bytes) };
    Some(PortAccess {
        port: io.port,
        size: io.size,
        is_in: io.direction == KVM_EXIT_IO_IN as u8,
        data,
    })
}

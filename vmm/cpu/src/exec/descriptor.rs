//! Segment and gate descriptors as they lie in the GDT, the LDT and the IDT (SDM vol. 3A, 3.4.5 and
//! 5.8).

use crate::cpu::Cpu;
use crate::exception::{Abort, vector};
use crate::segment::{Rights, SegReg, Segment};

/// Types of system descriptors (SDM vol. 3A, table 3-2).
pub(crate) mod system {
    pub(crate) const TSS16_AVAILABLE: u8 = 1;
    pub(crate) const LDT: u8 = 2;
    pub(crate) const TSS16_BUSY: u8 = 3;
    pub(crate) const CALL_GATE16: u8 = 4;
    pub(crate) const TASK_GATE: u8 = 5;
    pub(crate) const INTERRUPT_GATE16: u8 = 6;
    pub(crate) const TRAP_GATE16: u8 = 7;
    pub(crate) const TSS32_AVAILABLE: u8 = 9;
    pub(crate) const TSS32_BUSY: u8 = 0xb;
    pub(crate) const CALL_GATE32: u8 = 0xc;
    pub(crate) const INTERRUPT_GATE32: u8 = 0xe;
    pub(crate) const TRAP_GATE32: u8 = 0xf;
}

/// An 8-byte descriptor, and where it was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    /// The selector that named it.
    pub(crate) selector: u16,
    /// Its linear address.
    pub(crate) address: u64,
    /// Its eight bytes.
    pub(crate) raw: u64,
    /// Loading it marks it as accessed. QEMU's processor does that where a MOV, POP or LDS names it, and nowhere else.
    pub(crate) marks: bool,
}

impl Descriptor {
    pub(crate) fn rights(&self) -> Rights {
        Rights((self.raw >> 40 & 0xff | (self.raw >> 52 & 0xf) << 8) as u16)
    }

    /// Bits 31:0 of the base.
    pub(crate) fn base(&self) -> u64 {
        self.raw >> 16 & 0xff_ffff | (self.raw >> 56) << 24
    }

    /// The limit in bytes, granularity applied.
    pub(crate) fn limit(&self) -> u32 {
        let limit = (self.raw & 0xffff | (self.raw >> 48 & 0xf) << 16) as u32;
        if self.raw >> 55 & 1 != 0 { limit << 12 | 0xfff } else { limit }
    }

    /// The register's contents when this descriptor is loaded with `selector`; the accessed bit is
    /// set in code and data segments, as the load sets it in memory.
    pub(crate) fn segment(&self, selector: u16) -> Segment {
        let mut rights = self.rights();
        if rights.is_code_or_data() && self.marks {
            rights.0 |= 1;
        }
        Segment { selector, base: self.base(), limit: self.limit(), rights }
    }

    /// Whether it is a system descriptor of this type.
    pub(crate) fn is_system(&self, kind: u8) -> bool {
        !self.rights().is_code_or_data() && self.rights().kind() == kind
    }

    /// The requestor's privilege level of the selector that named it.
    pub(crate) fn rpl(&self) -> u8 {
        (self.selector & 3) as u8
    }

    /// The selector's error code.
    pub(crate) fn error_code(&self) -> u32 {
        error_code(self.selector)
    }

    /// The selector inside a gate.
    pub(crate) fn gate_selector(&self) -> u16 {
        (self.raw >> 16) as u16
    }

    /// The 32-bit offset inside a gate.
    pub(crate) fn gate_offset(&self) -> u64 {
        self.raw & 0xffff | (self.raw >> 48) << 16
    }

    /// Number of parameters a call gate copies.
    pub(crate) fn gate_parameters(&self) -> u32 {
        (self.raw >> 32 & 0x1f) as u32
    }
}

/// The error code that names a selector (SDM vol. 3A, 6.13): index and table, without RPL.
pub(crate) fn error_code(selector: u16) -> u32 {
    u32::from(selector & !3)
}

/// Whether a selector is null: index 0 of the GDT, with any RPL.
pub(crate) fn is_null(selector: u16) -> bool {
    selector & !3 == 0
}

/// The contents of a segment register loaded with a null selector.
pub(crate) fn null_segment(selector: u16) -> Segment {
    Segment { selector, base: 0, limit: 0, rights: Rights::NULL }
}

/// The contents of a segment register in virtual-8086 mode (SDM vol. 3A, 20.1.1).
pub(crate) fn v86_segment(selector: u16) -> Segment {
    Segment { selector, base: u64::from(selector) << 4, limit: 0xffff, rights: Rights(0xf3) }
}

impl Cpu {
    /// Reads the descriptor that a selector names; `None` if its table does not reach that far, or
    /// there is no LDT. Null selectors are the caller's to refuse.
    pub(crate) fn descriptor(&mut self, selector: u16) -> Result<Option<Descriptor>, Abort> {
        self.descriptor_of_length(selector, 8)
    }

    /// As [`Cpu::descriptor`] for one of 16 bytes (system descriptors of IA-32e mode), with the
    /// upper eight.
    pub(crate) fn wide_descriptor(
        &mut self,
        selector: u16,
    ) -> Result<Option<(Descriptor, u64)>, Abort> {
        let Some(descriptor) = self.descriptor_of_length(selector, 16)? else { return Ok(None) };
        let upper = self.load_system(self.system_linear(descriptor.address, 8), 8)?;
        Ok(Some((descriptor, upper)))
    }

    fn descriptor_of_length(
        &mut self,
        selector: u16,
        length: u64,
    ) -> Result<Option<Descriptor>, Abort> {
        let (base, limit) = if selector & 4 == 0 {
            (self.gdtr.base, u64::from(self.gdtr.limit))
        } else if self.ldtr.rights.is_null() {
            return Ok(None);
        } else {
            (self.ldtr.base, u64::from(self.ldtr.limit))
        };
        let offset = u64::from(selector & !7);
        if offset + length - 1 > limit {
            return Ok(None);
        }
        let address = self.system_linear(base, offset);
        let raw = self.load_system(address, 8)?;
        Ok(Some(Descriptor { selector, address, raw, marks: !self.model.is_qemus() }))
    }

    /// `base + offset` in the linear address space: 32 bits wide outside IA-32e mode.
    pub(crate) fn system_linear(&self, base: u64, offset: u64) -> u64 {
        let linear = base.wrapping_add(offset);
        if self.is_long_mode() { linear } else { linear & 0xffff_ffff }
    }

    /// Sets the accessed bit of a code or data descriptor in memory, if it is clear.
    pub(crate) fn set_accessed(&mut self, descriptor: &Descriptor) -> Result<(), Abort> {
        let rights = descriptor.rights();
        if rights.is_code_or_data() && rights.kind() & 1 == 0 && descriptor.marks {
            let address = self.system_linear(descriptor.address, 5);
            self.store_system(address, u64::from(rights.0 & 0xff | 1), 1)?;
        }
        Ok(())
    }

    /// #TS with an error code.
    #[cold]
    pub(crate) fn invalid_tss(&mut self, error_code: u32) -> Abort {
        self.exception(vector::TS, Some(error_code))
    }

    /// #NP with an error code.
    #[cold]
    pub(crate) fn not_present(&mut self, error_code: u32) -> Abort {
        self.exception(vector::NP, Some(error_code))
    }

    /// #SS with an error code.
    #[cold]
    pub(crate) fn stack_segment_fault(&mut self, error_code: u32) -> Abort {
        self.exception(vector::SS, Some(error_code))
    }

    /// After a return to an outer privilege level: data segment registers that the new level may
    /// not use become null (SDM vol. 3A, 5.8.6).
    pub(crate) fn drop_inner_data_segments(&mut self) {
        for register in [SegReg::Es, SegReg::Ds, SegReg::Fs, SegReg::Gs] {
            let rights = self.seg[register as usize].rights;
            let guarded = rights.is_code_or_data() && !rights.is_conforming();
            if !rights.is_null() && guarded && rights.dpl() < self.cpl {
                self.seg[register as usize] = null_segment(0);
            }
        }
    }

    /// Loads CS, the privilege level with it, and ends the block.
    pub(crate) fn commit_cs(&mut self, segment: Segment, cpl: u8) {
        self.seg[SegReg::Cs as usize] = segment;
        self.set_cpl(cpl);
        self.end_of_block = true;
    }
}

//! Loads and stores at linear addresses.

use super::walk::Access;
use crate::cpu::Cpu;
use crate::exception::Abort;
use dejavm_units::Gpa;

impl Cpu {
    /// Translates one byte's address for an access by the current privilege level.
    pub(crate) fn translate(&mut self, linear: u64, access: Access) -> Result<Gpa, Abort> {
        let user = self.cpl == 3;
        Ok(self.walk(linear, access, user)?.gpa)
    }

    /// Loads 1, 2, 4 or 8 bytes at the current privilege level, zero-extended.
    #[inline]
    pub(crate) fn load(&mut self, linear: u64, size: u32) -> Result<u64, Abort> {
        let user = self.cpl == 3;
        self.load_as(linear, size, user)
    }

    /// Stores 1, 2, 4 or 8 bytes at the current privilege level.
    #[inline]
    pub(crate) fn store(&mut self, linear: u64, value: u64, size: u32) -> Result<(), Abort> {
        let user = self.cpl == 3;
        self.store_as(linear, value, size, user)
    }

    /// Checks that a store of up to 16 bytes would succeed at the current privilege level.
    pub(crate) fn probe_store(&mut self, linear: u64, size: u32) -> Result<(), Abort> {
        let first = self.translate(linear, Access::Write)?;
        let last = linear.wrapping_add(u64::from(size) - 1);
        let last = self.translate(last, Access::Write)?;
        for gpa in [first, last] {
            if self.ram().host_page(gpa.pfn()).is_none() {
                self.require_alone()?;
            }
        }
        Ok(())
    }

    /// A load that the CPU makes on its own behalf (descriptor tables, TSS): supervisor rights
    /// whatever the privilege level.
    pub(crate) fn load_system(&mut self, linear: u64, size: u32) -> Result<u64, Abort> {
        self.load_as(linear, size, false)
    }

    /// A store that the CPU makes on its own behalf.
    pub(crate) fn store_system(&mut self, linear: u64, v: u64, size: u32) -> Result<(), Abort> {
        self.store_as(linear, v, size, false)
    }

    /// Loads with user or supervisor rights.
    pub(crate) fn load_as(&mut self, linear: u64, size: u32, user: bool) -> Result<u64, Abort> {
        let mut bytes = [0u8; 8];
        let first = self.walk(linear, Access::Read, user)?.gpa;
        let in_page = (0x1000 - (linear & 0xfff)).min(size.into()) as usize;
        let mut pieces = [(first, 0, in_page), (Gpa(0), 0, 0)];
        if in_page < size as usize {
            let next = self.walk(linear.wrapping_add(in_page as u64), Access::Read, user)?.gpa;
            pieces[1] = (next, in_page, size as usize);
        }
        for (gpa, from, to) in pieces {
            if from == to {
                continue;
            }
            if self.ram().read(gpa, &mut bytes[from..to]).is_err() {
                self.require_alone()?;
                let at = self.position;
                for (n, byte) in bytes[from..to].iter_mut().enumerate() {
                    *byte = self.bus().mmio_read(gpa.wrapping_add(n as u64), 1, at) as u8;
                }
                self.end_of_block = true;
            }
        }
        Ok(u64::from_le_bytes(bytes))
    }

    /// Stores with user or supervisor rights.
    pub(crate) fn store_as(
        &mut self,
        linear: u64,
        value: u64,
        size: u32,
        user: bool,
    ) -> Result<(), Abort> {
        let bytes = value.to_le_bytes();
        let first = self.walk(linear, Access::Write, user)?.gpa;
        let in_page = (0x1000 - (linear & 0xfff)).min(size.into()) as usize;
        let mut pieces = [(first, 0, in_page), (Gpa(0), 0, 0)];
        if in_page < size as usize {
            let next = self.walk(linear.wrapping_add(in_page as u64), Access::Write, user)?.gpa;
            pieces[1] = (next, in_page, size as usize);
        }
        for (gpa, from, to) in pieces {
            if from == to {
                continue;
            }
            if self.ram().write_by_cpu(gpa, &bytes[from..to]).is_err() {
                self.require_alone()?;
                let at = self.position;
                for (n, byte) in bytes[from..to].iter().enumerate() {
                    let gpa = gpa.wrapping_add(n as u64);
                    self.bus().mmio_write(gpa, 1, u64::from(*byte), at);
                }
                self.end_of_block = true;
            }
        }
        Ok(())
    }
}

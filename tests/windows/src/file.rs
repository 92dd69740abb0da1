//! The guest as a VMware checkpoint.

use crate::Windows;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use vmss::{Product, Writer};

impl Windows {
    /// Writes `windows.vmss` and `windows.vmem` into a folder; the path of the former.
    ///
    /// # Errors
    /// As the operating system has it.
    ///
    /// # Panics
    /// If the guest's regions are more than a checkpoint can have.
    pub fn write(&self, folder: &Path) -> io::Result<PathBuf> {
        let product = Product { name: "dejavm".into(), version: "1".into() };
        let writer =
            Writer::new(&product, &self.vcpus, &self.regions).expect("two regions at most");
        let path = folder.join("windows.vmss");
        writer.write(&mut File::create(&path)?)?;
        let memory = File::create(folder.join("windows.vmem"))?;
        memory.set_len(self.regions.iter().map(vmss::Region::bytes).sum())?;
        for number in self.memory.touched() {
            let region = self.regions.iter().find(|region| {
                (region.first_page..region.first_page + region.pages).contains(&number)
            });
            let region = region.expect("memory was put where there is some");
            let at = region.page_in_file + number - region.first_page;
            memory.write_all_at(&self.memory.page(number), at * 4096)?;
        }
        Ok(path)
    }
}

//! Branches: live machines that start where a timeline stands.

use super::{Rewind, Timeline};
use crate::file::Parent;
use crate::replayer::ReplayError;
use dejavm_machine::Machine;
use std::io::{Read, Seek};

impl<R: Read + Seek> Timeline<R, Machine> {
    /// A live machine that is what the replayed one is here, with RAM of its own. It goes on counting
    /// positions and guest time; a [`Recorder`](crate::Recorder) records it like one that has just been
    /// started.
    ///
    /// # Errors
    /// The host has no memory for it.
    pub fn branch(&self) -> Result<Machine, ReplayError> {
        let machine = self.machine();
        let mut branch = Machine::from_state(&self.header().config, &machine.save())
            .map_err(|error| ReplayError::Machine(error.to_string()))?;
        branch.set_tuning(machine.tuning());
        branch.set_storages(machine.storages().clone());
        let zero = [0; super::pages::PAGE];
        let mut page = zero;
        for pfn in machine.ram().all_pages() {
            machine.ram().read_page(pfn, &mut page).expect("`all_pages` lists them");
            if page != zero {
                branch.ram_mut().write_page(pfn, &page).expect("it has the same pages");
            }
        }
        Ok(branch)
    }
}

impl<R: Read + Seek, G: Rewind> Timeline<R, G> {
    /// What the recording of a branch from here says of where it comes from. `name` is this recording's.
    pub fn as_parent(&mut self, name: &str) -> Result<Parent, ReplayError> {
        let at = self.now();
        let identity = self.log.identity(at.position)?;
        Ok(Parent { name: name.into(), identity, at })
    }
}

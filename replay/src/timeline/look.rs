//! Looking into the log, for people at a debugger.

use super::log::What;
use super::{Rewind, Timeline};
use crate::file::{Moment, Stamped, from_bytes};
use crate::replayer::ReplayError;
use dejavm_units::Position;
use std::io::{Read, Seek};

impl<R: Read + Seek, G: Rewind> Timeline<R, G> {
    /// What entered the machine from `from` (inclusive) on, at most so many.
    ///
    /// # Errors
    /// A file that has changed under us.
    pub fn inputs(&mut self, from: Position, limit: usize) -> Result<Vec<Stamped>, ReplayError> {
        let mut found = Vec::new();
        let mut cursor = self.log.find(from)?;
        while found.len() < limit {
            let Some(event) = self.log.peek(cursor)? else { break };
            if let What::Input(input) = &event.what {
                found.push(Stamped { at: event.at, input: input.clone() });
            }
            cursor = self.log.after(cursor)?;
        }
        Ok(found)
    }

    /// The state that the first digest at or behind a position holds, and when that is; `None`: there is
    /// none. Costs no replay.
    ///
    /// # Errors
    /// A file that has changed under us.
    pub fn state_behind(
        &mut self,
        position: Position,
    ) -> Result<Option<(Moment, G::State)>, ReplayError> {
        let mut cursor = self.log.find(position)?;
        while let Some(event) = self.log.peek(cursor)? {
            if let What::Digest(digest) = &event.what {
                let state = from_bytes(&digest.state).map_err(ReplayError::Machine)?;
                return Ok(Some((event.at, state)));
            }
            cursor = self.log.after(cursor)?;
        }
        Ok(None)
    }

    /// Makes coming back to where it stands cheap. `false`: it stands in the middle of a position, where
    /// inputs have entered already; there is a checkpoint near.
    pub fn keep(&mut self) -> bool {
        if self.at_rest {
            self.take_checkpoint();
        }
        self.at_rest
    }
}

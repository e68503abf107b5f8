//! What a learner does that is short of memory: it stops growing, and before there is none left it takes
//! nothing more in.

use super::{Learner, Now};
use crate::error::{Error, Result};
use crate::model::Control;

/// Share of the memory from which on the model takes no more of it. The rest is for what is on its way:
/// bodies, answers, identities, files that are being saved.
const CLOSE_AT: f64 = 0.6;
/// Share below which it may grow again. The kernel seldom gets back what was freed, so this is mostly seen
/// at a start, with more memory or with less to remember.
const OPEN_AT: f64 = 0.4;
/// Share from which on nothing is taken in.
const REFUSE_AT: f64 = 0.95;

impl Learner {
    fn memory_share(&self) -> Option<f64> {
        self.options.memory?.share()
    }

    /// Why nothing can be taken in, if memory does not allow it.
    pub(super) fn lacks_memory(&self) -> Option<Error> {
        let share = self.memory_share().filter(|share| *share >= REFUSE_AT)?;
        Some(Error::Unavailable(format!(
            "{:.0} % of the memory is used, and nothing is taken in from {:.0} % on: give the service \
             more (MEMORY_MAX_MIB, or the limit of its container), or let it remember less \
             (DEDUP_WINDOW, MAX_AGENTS, MAX_CELLS)",
            100.0 * share,
            100.0 * REFUSE_AT,
        )))
    }

    /// Closes the room of the model, or opens it, when it is time for that.
    ///
    /// # Errors
    /// As [`Learner::settle`].
    pub(super) fn heed_memory(&mut self, now: Now) -> Result<()> {
        let Some(share) = self.memory_share() else { return Ok(()) };
        let is_closed = self.model.is_room_closed();
        let control = match is_closed {
            false if share >= CLOSE_AT => Control::CloseRoom,
            true if share < OPEN_AT => Control::OpenRoom,
            _ => return Ok(()),
        };
        match self.control(&[control], now) {
            Ok(()) if is_closed => log::info!("memory=enough room=open share={share:.2}"),
            Ok(()) => log::error!(
                "memory=short room=closed share={share:.2}: new names are not learned from now on"
            ),
            // It is tried again before the next outcomes.
            Err(Error::Unavailable(_)) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

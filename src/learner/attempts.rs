//! Executions with several outcomes: those that are not final teach nothing; the final one does, or by a
//! control entry the newest, when that one does not come.

use std::time::Duration;

use super::append::Sorted;
use super::{Learner, Now, Outcome, RETRY_AFTER};
use crate::error::{Error, Result};
use crate::outcome::Status;
use crate::store::{Counters, Provisional};
use crate::watch::reporting::waited_since;

/// Executions settled in one transaction.
const SETTLED_AT_ONCE: u32 = 256;
/// Pause between looking for executions to settle.
const LOOK_AFTER: Duration = Duration::from_secs(1);

impl Sorted {
    /// Keeps an outcome that is about to be journaled as it came; there it is one that teaches nothing.
    pub(super) fn keep_provisional(&mut self, outcome: &mut Outcome) {
        self.provisional.push(Provisional { place: self.outcomes.len(), outcome: outcome.clone() });
        outcome.status = Status::Pending;
    }
}

impl Learner {
    /// Keeps an outcome for the final one, if it is not final, says something and there is room.
    pub(super) fn hold_provisional(
        &self,
        outcome: &mut Outcome,
        sorted: &mut Sorted,
        counters: &mut Counters,
    ) {
        let is_final = outcome.attempt.is_none_or(|attempt| attempt.is_final);
        if is_final || outcome.status == Status::Pending {
            return;
        }
        if self.store.may_wait(&sorted.provisional) {
            sorted.keep_provisional(outcome);
        } else {
            counters.attempts_not_held += 1;
        }
    }

    /// Learns the newest outcome of executions that have waited for their final one long enough.
    pub(super) fn settle_attempts_when_due(&mut self, now: Now) -> Result<()> {
        if now.instant < self.attempts_due || self.store.attempts() == 0 {
            return Ok(());
        }
        match self.settle_attempts(waited_since(self.options.final_after, now.unix_ms), now) {
            Ok(is_more) => {
                let pause = if is_more { Duration::ZERO } else { LOOK_AFTER };
                self.attempts_due = now.instant + pause;
                Ok(())
            }
            Err(error @ (Error::Fatal(_) | Error::Corrupt(_))) => Err(error),
            Err(error) => {
                log::warn!("attempts=not_settled error=\"{error}\"");
                self.attempts_due = now.instant + RETRY_AFTER.max(LOOK_AFTER);
                Ok(())
            }
        }
    }

    /// Whether there may be more.
    fn settle_attempts(&mut self, before_ms: i64, now: Now) -> Result<bool> {
        self.store.forget_settled(before_ms)?;
        if self.store.last_attempts(before_ms, 1)?.is_empty() {
            return Ok(false);
        }
        // What was accepted may be the final outcome of one of them.
        self.close_batch(now)?;
        self.all_is_learned()?;
        let last = self.store.last_attempts(before_ms, SETTLED_AT_ONCE)?;
        self.control(&last, now)?;
        Ok(last.len() == SETTLED_AT_ONCE as usize)
    }
}

//! Decisions whose outcome never came: given up by a control entry, after which nothing that comes for
//! them is learned.

use std::time::Duration;

use super::append::{GivenUp, Known, Sorted};
use super::{AppendRequest, Learner, Now, Outcome, RETRY_AFTER};
use crate::error::{Error, Result};
use crate::outcome::Status;
use crate::store::Late;
use crate::watch::reporting::waited_since;

/// Decisions given up in one transaction.
const GIVEN_UP_AT_ONCE: u32 = 256;
/// Pause between looking for decisions to give up.
const LOOK_AFTER: Duration = Duration::from_secs(1);

impl Known {
    /// Its decision was given up before it came.
    pub(super) fn is_late(&self, outcome: &Outcome) -> bool {
        !self.given_up.is_empty() && key_of(outcome).is_some_and(|key| self.given_up.contains(&key))
    }
}

impl Sorted {
    /// Keeps an outcome that is about to be journaled as it came; there it is one that teaches nothing.
    pub(super) fn keep_late(&mut self, outcome: &mut Outcome) {
        self.late.push(Late { place: self.outcomes.len(), outcome: outcome.clone() });
        outcome.status = Status::Pending;
    }
}

fn key_of(outcome: &Outcome) -> Option<(String, String, String)> {
    let decision = outcome.decision.as_ref()?;
    Some((outcome.tenant.clone(), decision.id().to_owned(), outcome.agent.clone()))
}

impl Learner {
    /// Which of the decisions that outcomes of the group name were given up.
    pub(super) fn given_up(&self, group: &[AppendRequest]) -> Result<GivenUp> {
        let mut given_up = GivenUp::new();
        if self.counters.decisions_missing == 0 {
            return Ok(given_up);
        }
        for record in group.iter().flat_map(|request| &request.records) {
            let Ok(outcome) = &record.content else { continue };
            if let Some(key) = key_of(outcome)
                && self.store.is_given_up(&key.0, &key.1, &key.2)?
            {
                given_up.insert(key);
            }
        }
        Ok(given_up)
    }

    /// The process could not be reached until now: outcomes have as long again to come.
    pub(crate) fn was_out_of_reach(&mut self, now: Now) {
        self.missing_due = self.options.missing_after.map(|after| now.instant + after);
        self.attempts_due = now.instant + self.options.final_after;
    }

    /// Gives up the decisions that have waited for their outcome long enough.
    pub(super) fn give_up_when_due(&mut self, now: Now) -> Result<()> {
        let (Some(after), Some(due)) = (self.options.missing_after, self.missing_due) else {
            return Ok(());
        };
        if now.instant < due {
            return Ok(());
        }
        match self.give_up(waited_since(after, now.unix_ms), now) {
            Ok(is_more) => {
                let pause = if is_more { Duration::ZERO } else { LOOK_AFTER };
                self.missing_due = Some(now.instant + pause);
                Ok(())
            }
            Err(error @ (Error::Fatal(_) | Error::Corrupt(_))) => Err(error),
            Err(error) => {
                log::warn!("decisions=not_given_up error=\"{error}\"");
                self.missing_due = Some(now.instant + RETRY_AFTER.max(LOOK_AFTER));
                Ok(())
            }
        }
    }

    /// Whether there may be more.
    fn give_up(&mut self, before_ms: i64, now: Now) -> Result<bool> {
        if self.store.unreported(before_ms, 1)?.is_empty() {
            return Ok(false);
        }
        // What was accepted may be the outcome of one of them.
        self.close_batch(now)?;
        self.all_is_learned()?;
        let missing = self.store.unreported(before_ms, GIVEN_UP_AT_ONCE)?;
        self.control(&missing, now)?;
        Ok(missing.len() == GIVEN_UP_AT_ONCE as usize)
    }
}

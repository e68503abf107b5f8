//! Outcomes on their way to a topic, from which they come back: which of them are new?

use std::collections::{BTreeSet, HashMap};

use crossbeam_channel::Sender;

use super::spans::{Place, Placing, Reported};
use super::{HTTP, Learner, Now};
use crate::error::{Error, Result};
use crate::outcome::feedback::Verdict;
use crate::outcome::{Refusal, is_conflict};
use crate::store::Append;

/// Outcomes that are to be produced to a topic.
pub struct AdmitRequest {
    /// What is to be known of each.
    pub outcomes: Vec<Reported>,
    /// They are only looked at: known ones are not counted.
    pub dry_run: bool,
    /// Answered when what they tell of others is known here.
    pub reply: Sender<Result<Admitted>>,
}

/// What is to be produced.
#[derive(Debug)]
pub struct Admitted {
    /// An admission of each outcome.
    pub admissions: Vec<Admission>,
    /// What clients add to executions that telemetry was first to tell of.
    pub verdicts: Vec<Verdict>,
}

/// Whether an outcome may be produced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    New {
        /// The id of the decision to which its trace has led.
        decision: Option<String>,
    },
    /// It is in the journal, or earlier in the same request; or its execution was reported otherwise.
    Known {
        /// With another agent or status, under the same identity.
        conflicting: bool,
    },
    /// Nobody would learn it.
    Refused(Refusal),
}

impl Learner {
    /// Says which outcomes of a request are new, and counts those that are known.
    pub(super) fn admit_outcomes(&mut self, request: &AdmitRequest, now: Now) -> Result<()> {
        // What is staged may hold the same events.
        self.append_group(now)?;
        let admitted = self.admitted_outcomes(request, now);
        if let Err(fatal @ (Error::Fatal(_) | Error::Corrupt(_))) = admitted {
            return Err(fatal);
        }
        let admissions = admitted.iter().flat_map(|admitted| &admitted.admissions);
        for admission in admissions.filter(|_| !request.dry_run) {
            let Admission::Known { conflicting } = admission else { continue };
            self.counters.duplicates += 1;
            self.counters.conflicting += u64::from(*conflicting);
            let source = self.counters.source(HTTP);
            source.duplicates += 1;
            source.conflicting += u64::from(*conflicting);
        }
        // Whoever asked may have gone.
        let _ = request.reply.send(admitted);
        Ok(())
    }

    fn admitted_outcomes(&mut self, request: &AdmitRequest, now: Now) -> Result<Admitted> {
        let outcomes = &request.outcomes;
        let has_traces = self.has_traces(outcomes.iter().map(|outcome| outcome.trace));
        if has_traces {
            self.record_decisions(now)?;
        }
        let mut tenants = BTreeSet::new();
        let mut earlier = HashMap::new();
        let mut placing = Placing::default();
        let admission = |reported: &Reported| {
            let Reported { tenant, identity, content, .. } = reported;
            if let Err(refusal) = self.admit(tenant, &tenants) {
                return Ok(Admission::Refused(refusal));
            }
            if let Some(first) = self.first_content((*identity, *content), &mut earlier) {
                return Ok(Admission::Known { conflicting: is_conflict(first, *content) });
            }
            if !self.tenants.contains(tenant) {
                tenants.insert(tenant.clone());
            }
            if !has_traces {
                return Ok(Admission::New { decision: None });
            }
            Ok(match placing.place(&self.store, reported)? {
                Place::AsItSays => Admission::New { decision: None },
                Place::Decision(id) => Admission::New { decision: Some(id) },
                Place::Same => Admission::Known { conflicting: false },
            })
        };
        let admissions = outcomes.iter().map(admission).collect::<Result<_>>()?;
        let Placing { taken, verdicts, .. } = placing;
        if !taken.is_empty() && !request.dry_run {
            // Verdicts on this telemetry are about the execution that was reported otherwise.
            let mut counters = self.current_counters(now);
            let append = Append { taken: &taken, ..Append::default() };
            self.store.append(&append, &mut counters, now.unix_ms)?;
            self.counters = counters;
        }
        Ok(Admitted { admissions, verdicts })
    }
}

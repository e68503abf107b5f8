//! What the service has done since its directory was made. No restart, and no activation of an
//! older version, sets these back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::outcome::Outcome;
use crate::watch::Foresight;
use crate::watch::budget::Spending;

/// Totals that are committed with the work they count.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Sequence number of the newest journal entry; 0 with none.
    pub last_sequence: u64,
    /// Sequence number of the newest entry that a recorded micro-batch (or activation) covers.
    pub learned_sequence: u64,
    /// Number of the newest saved version; never used again.
    pub last_version_number: u64,
    /// Number of the newest dead letter.
    pub last_dead_letter: u64,
    /// Number of the newest dead letter that was sent on to the dead-letter topic.
    pub dead_letters_sent: u64,
    /// Refused records of which nothing but the number was kept.
    pub dead_letters_unkept: u64,
    /// Number of the newest learning event.
    pub last_learning_event: u64,
    /// Control entries of the journal.
    pub controls: u64,
    /// Decisions that were given up, their outcome learned as a failure.
    pub decisions_missing: u64,
    /// Outcomes that came after that.
    pub decisions_late: u64,
    /// Outcomes that were not final and were learned when they came, for want of room.
    pub attempts_not_held: u64,
    /// Outcomes that were learned without a verdict when they came, for want of room.
    pub unjudged_not_held: u64,

    /// Outcomes journaled.
    pub accepted: u64,
    /// Records that were already known.
    pub duplicates: u64,
    /// Those of them that differ from the first of their identity in agent or status.
    pub conflicting: u64,
    /// Records refused, by reason code.
    pub rejected: BTreeMap<String, u64>,
    /// Optional fields that made no sense, by name.
    pub dropped_fields: BTreeMap<String, u64>,
    /// The same three by where records came from. (Directories of older programs begin at 0.)
    pub sources: BTreeMap<String, SourceCounters>,

    /// Micro-batches recorded.
    pub successful_updates: u64,
    /// Micro-batches whose transaction failed, each try.
    pub failed_updates: u64,
    /// Time to learn and store the successful ones, microseconds.
    pub update_time_us: u64,
    /// Outcomes learned.
    pub samples_processed: u64,

    /// Number of the newest recorded decision: so many were recorded.
    pub last_decision: u64,
    /// Bytes of all recorded decisions, roughly.
    pub decision_bytes: u64,
    /// Recorded decisions that would have been others without a draw.
    pub decisions_explored: u64,
    /// Recorded decisions that found their outcome.
    pub decisions_with_outcome: u64,
    /// Decisions that were answered but not recorded.
    pub decisions_unrecorded: u64,
    /// Outcomes that name a decision of which nothing is known: they are learned with their own task
    /// type and context.
    pub decisions_unresolved: u64,
    /// Money that tenants have spent, as far as outcomes tell.
    pub spending: BTreeMap<String, Spending>,
    /// How well outcomes were foretold.
    pub foresight: Foresight,

    /// Versions saved.
    pub saves: u64,
    /// Saves that failed.
    pub failed_saves: u64,
    /// Unix time of the newest accepted outcome's arrival, ms; 0 with none.
    pub last_event_ms: i64,
    /// Unix time of the newest micro-batch, ms; 0 with none.
    pub last_update_ms: i64,
    /// Unix time of the newest saved version, ms; 0 with none.
    pub last_save_ms: i64,
    /// Time the service has run, all runs together, ms.
    pub running_ms: u64,
}

/// What came from one source.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceCounters {
    /// Outcomes journaled.
    pub accepted: u64,
    /// Records that were already known.
    pub duplicates: u64,
    /// Those of them that differ from the first of their identity in agent or status.
    pub conflicting: u64,
    /// Records refused, by reason code.
    pub rejected: BTreeMap<String, u64>,
    /// Outcomes journaled without a task type.
    pub without_task_type: u64,
    /// Unix time of the newest accepted one's arrival, ms; 0 with none.
    pub last_ms: i64,
}

impl SourceCounters {
    /// Counts an outcome that is journaled.
    pub fn accept(&mut self, outcome: &Outcome, now_ms: i64) {
        self.accepted += 1;
        self.without_task_type += u64::from(outcome.task_type.is_none());
        self.last_ms = now_ms;
    }

    /// Records that came, whatever became of them.
    pub fn received(&self) -> u64 {
        self.accepted + self.duplicates + self.rejected.values().sum::<u64>()
    }

    /// Counts what `other` counted, too.
    pub fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.duplicates += other.duplicates;
        self.conflicting += other.conflicting;
        self.without_task_type += other.without_task_type;
        self.last_ms = self.last_ms.max(other.last_ms);
        for (reason, count) in &other.rejected {
            *self.rejected.entry(reason.clone()).or_default() += count;
        }
    }
}

impl Counters {
    /// What came from `source`, to count on.
    pub fn source(&mut self, source: &str) -> &mut SourceCounters {
        self.sources.entry(source.to_owned()).or_default()
    }

    /// Records that came, whatever became of them.
    pub fn received(&self) -> u64 {
        self.accepted + self.duplicates + self.rejected_total()
    }

    /// Micro-batches tried.
    pub fn total_updates(&self) -> u64 {
        self.successful_updates + self.failed_updates
    }

    /// Mean time to learn and store a micro-batch, ms; 0 with none.
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    pub fn avg_update_time_ms(&self) -> f64 {
        match self.successful_updates {
            0 => 0.0,
            updates => self.update_time_us as f64 / 1_000.0 / updates as f64,
        }
    }

    /// Micro-batches per minute of running time; 0 before the first.
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    pub fn updates_per_minute(&self) -> f64 {
        match self.running_ms {
            0 => 0.0,
            ms => self.total_updates() as f64 * 60_000.0 / ms as f64,
        }
    }

    /// Records refused, for whatever reason.
    pub fn rejected_total(&self) -> u64 {
        self.rejected.values().sum()
    }

    /// Counts one more under `name`.
    pub fn count(map: &mut BTreeMap<String, u64>, name: &str) {
        Self::add(map, name, 1);
    }

    /// Counts so many more under `name`.
    pub fn add(map: &mut BTreeMap<String, u64>, name: &str, more: u64) {
        match map.get_mut(name) {
            Some(count) => *count += more,
            None => {
                map.insert(name.to_owned(), more);
            }
        }
    }
}

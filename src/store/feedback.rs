//! Verdicts that come after the execution they judge.
//!
//! One whose execution is not known yet waits in `verdicts`. An execution of which only a verdict tells
//! whether it was a success waits for it in `unjudged`: in the journal it is pending. What was added to an outcome is kept in
//! `feedback`, so that it is added once; the journal has it as a control entry.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, params};

use super::decisions::MISSING;
use super::{Entry, Store, commit, decisions, execute, from_sql, query, reaction, to_sql, write};
use crate::error::{Error, Result};
use crate::model::Control;
use crate::outcome::feedback::{Target, Verdict};
use crate::outcome::{IdentityKey, Outcome, Status};

use super::bounded::Rows;

pub(super) const SCHEMA: &str = "
CREATE TABLE feedback(
    number INTEGER PRIMARY KEY,
    execution BLOB NOT NULL UNIQUE,
    status TEXT,
    quality REAL,
    cost REAL
) STRICT;
CREATE TABLE verdicts(
    number INTEGER PRIMARY KEY,
    target BLOB NOT NULL,
    arrived_ms INTEGER NOT NULL,
    verdict TEXT NOT NULL,
    UNIQUE (target, verdict)
) STRICT;
CREATE INDEX verdicts_by_arrival ON verdicts(arrived_ms);
CREATE TABLE unjudged(
    execution BLOB PRIMARY KEY,
    arrived_ms INTEGER NOT NULL,
    outcome BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX unjudged_by_arrival ON unjudged(arrived_ms);
ALTER TABLE decisions ADD COLUMN pending_sequence INTEGER;
";

/// Verdicts that may wait for their executions.
pub const VERDICTS_WAITING_MAX: usize = 10_000;
/// Executions that may wait for a verdict; further ones are learned without one.
const UNJUDGED_MAX: u64 = 100_000;
/// Executions of which it is remembered what was added.
const FEEDBACK_MAX: u64 = 100_000;

/// What was added to an outcome after it was journaled.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Added {
    /// How it ended, where it was pending.
    pub status: Option<Status>,
    /// `0..=1`.
    pub quality: Option<f64>,
    /// In the user's currency.
    pub cost: Option<f64>,
}

/// A verdict that waits.
#[derive(Debug, Clone, PartialEq)]
pub struct WaitingVerdict {
    /// Its place in the order of arrival.
    pub number: u64,
    /// What it says.
    pub verdict: Verdict,
}

/// The executions that verdicts wait for.
pub(super) fn awaited(connection: &Connection) -> Result<HashSet<IdentityKey>> {
    let targets: Vec<IdentityKey> =
        query(connection, "SELECT DISTINCT target FROM verdicts", [], |row| row.get(0))?;
    Ok(targets.into_iter().collect())
}

/// Executions that wait for a verdict.
pub(super) fn unjudged(connection: &Connection) -> Result<u64> {
    let count = query(connection, "SELECT count(*) FROM unjudged", [], |row| {
        row.get::<_, i64>(0).map(from_sql)
    })?;
    Ok(count.into_iter().next().unwrap_or(0))
}

/// Has outcomes wait for their verdicts, which are pending in the journal.
pub(super) fn await_verdicts(
    connection: &Connection,
    unjudged: &[Outcome],
    now_ms: i64,
) -> Result<()> {
    for outcome in unjudged {
        let bytes = postcard::to_stdvec(outcome)
            .map_err(|error| Error::Fatal(format!("an outcome can't be packed: {error}")))?;
        execute(
            connection,
            "INSERT OR IGNORE INTO unjudged(execution, arrived_ms, outcome) VALUES (?1, ?2, ?3)",
            params![outcome.identity, now_ms, bytes],
        )?;
        decisions::mark_pending(connection, outcome)?;
    }
    Ok(())
}

/// Notes what control entries have added, the first of them at `first_sequence`, here and at the decisions
/// that the outcomes came of. Returns how many decisions found their outcome.
pub(super) fn note(
    connection: &Connection,
    controls: &[Control],
    first_sequence: u64,
    early: &mut Rows,
) -> Result<u64> {
    let mut joined = 0;
    for (sequence, control) in (first_sequence..).zip(controls) {
        let Control::Feedback { execution, outcome, was_pending } = control else { continue };
        let Outcome { tenant, agent, status, quality, cost, decision, .. } = &**outcome;
        execute(
            connection,
            "INSERT INTO feedback(execution, status, quality, cost) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT(execution) DO UPDATE SET status = coalesce(excluded.status, status),
                 quality = coalesce(excluded.quality, quality),
                 cost = coalesce(excluded.cost, cost)",
            params![execution, was_pending.then(|| status.as_str()), quality, cost],
        )?;
        if *was_pending {
            execute(connection, "DELETE FROM unjudged WHERE execution = ?1", [execution])?;
            joined +=
                decisions::join(connection, std::slice::from_ref(&**outcome), sequence, early)?;
        } else if let Some(decision) = decision {
            execute(
                connection,
                "UPDATE decisions SET quality = coalesce(quality, ?1), cost = coalesce(cost, ?2)
                 WHERE tenant = ?3 AND id = ?4 AND chosen = ?5 AND outcome_sequence IS NOT NULL
                     AND status <> ?6",
                params![quality, cost, tenant, decision.id(), agent, MISSING],
            )?;
        }
    }
    execute(
        connection,
        "DELETE FROM feedback WHERE number <= (SELECT max(number) FROM feedback) - ?1",
        [to_sql(FEEDBACK_MAX)],
    )?;
    Ok(joined)
}

/// Takes away verdicts that have found their execution, or never will.
pub(super) fn forget(connection: &Connection, verdicts: &[u64]) -> Result<()> {
    for number in verdicts {
        execute(connection, "DELETE FROM verdicts WHERE number = ?1", [to_sql(*number)])?;
    }
    Ok(())
}

impl Store {
    /// The outcome of the execution that a verdict is about, if it is among those remembered.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now, [`Error::Corrupt`] when the journal
    /// can't be.
    pub fn execution(&self, verdict: &Verdict) -> Result<Option<Outcome>> {
        let Verdict { tenant, target, .. } = verdict;
        let sequence = match target {
            Target::Event(_) => {
                let key = target.key(tenant);
                match self.sequence_of(key) {
                    // Telemetry of what was reported before is no outcome of its own.
                    None if self.has_spans() => self.outcome_beside(key)?,
                    sequence => sequence,
                }
            }
            Target::Decision { id, agent } => {
                let found: Option<Option<i64>> = self
                    .connection
                    .prepare_cached(
                        "SELECT coalesce(outcome_sequence, pending_sequence) FROM decisions
                         WHERE tenant = ?1 AND id = ?2 AND chosen = coalesce(?3, chosen)
                             AND coalesce(status, '') <> ?4",
                    )
                    .and_then(|mut statement| {
                        let of = params![tenant, id, agent, MISSING];
                        statement.query_row(of, |row| row.get(0)).optional()
                    })
                    .map_err(|error| reaction(&error))?;
                found.flatten().map(from_sql)
            }
        };
        let Some(sequence) = sequence else { return Ok(None) };
        Ok(match self.entry(sequence)? {
            Some(Entry::Outcome(outcome)) => Some(outcome),
            Some(Entry::Control(
                Control::LastAttempt { execution, outcome }
                | Control::Feedback { execution, outcome, was_pending: true },
            )) => Some(Outcome { identity: execution, ..*outcome }),
            _ => None,
        })
    }

    /// The journal entry of the outcome that was reported beside this telemetry.
    fn outcome_beside(&self, span: IdentityKey) -> Result<Option<u64>> {
        let found = query(
            &self.connection,
            "SELECT coalesce(outcome_sequence, pending_sequence) FROM decisions
             WHERE span = ?1 AND coalesce(status, '') <> ?2",
            params![span, MISSING],
            |row| row.get::<_, Option<i64>>(0),
        )?;
        Ok(found.into_iter().flatten().next().map(from_sql))
    }

    /// What was added to an execution's outcome.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now.
    pub fn added(&self, execution: IdentityKey) -> Result<Added> {
        let found = query(
            &self.connection,
            "SELECT status, quality, cost FROM feedback WHERE execution = ?1",
            [execution],
            |row| {
                let status: Option<String> = row.get(0)?;
                let is = |status: &str, one: &Status| one.as_str() == status;
                let status =
                    status.and_then(|status| Status::ALL.into_iter().find(|one| is(&status, one)));
                Ok(Added { status, quality: row.get(1)?, cost: row.get(2)? })
            },
        )?;
        Ok(found.into_iter().next().unwrap_or_default())
    }

    /// Executions that wait for a verdict.
    pub fn unjudged(&self) -> u64 {
        self.unjudged
    }

    /// Whether one more may wait for a verdict, beside `others` of its transaction.
    pub fn may_be_unjudged(&self, others: usize) -> bool {
        self.unjudged + (others as u64) < UNJUDGED_MAX
    }

    /// Executions that have waited for a verdict since before `before_ms`, oldest first, as the control
    /// entries that learn them without one.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now, [`Error::Corrupt`] when an outcome
    /// can't be.
    pub fn unjudged_since(&self, before_ms: i64, limit: u32) -> Result<Vec<Control>> {
        let rows: Vec<(IdentityKey, Vec<u8>)> = query(
            &self.connection,
            "SELECT execution, outcome FROM unjudged WHERE arrived_ms < ?1
             ORDER BY arrived_ms LIMIT ?2",
            params![before_ms, limit],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let control = |(execution, bytes): (IdentityKey, Vec<u8>)| {
            let outcome = postcard::from_bytes(&bytes).map_err(|error| {
                Error::Corrupt(format!("an outcome without a verdict can't be read: {error}"))
            })?;
            let outcome = Box::new(outcome);
            Ok(Control::Feedback { execution, outcome, was_pending: true })
        };
        rows.into_iter().map(control).collect()
    }

    /// Forgets that executions wait for a verdict.
    ///
    /// # Errors
    /// As [`Store::await_executions`].
    pub fn drop_unjudged(&mut self, executions: &[Control]) -> Result<()> {
        let transaction = write(&self.connection, &self.patience)?;
        for control in executions {
            let Control::Feedback { execution, .. } = control else { continue };
            execute(&transaction, "DELETE FROM unjudged WHERE execution = ?1", [execution])?;
        }
        let left = unjudged(&transaction)?;
        commit(transaction, &self.place)?;
        self.unjudged = left;
        Ok(())
    }

    /// Whether verdicts wait for this execution, or for one of this decision.
    pub fn is_awaited(&self, target: IdentityKey) -> bool {
        self.awaited.contains(&target)
    }

    /// Executions that verdicts wait for.
    pub fn awaited(&self) -> usize {
        self.awaited.len()
    }

    /// Verdicts that wait, in the order in which they came: those that came before `before_ms`, or all.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now, [`Error::Corrupt`] when one can't be.
    pub fn waiting_verdicts(&self, before_ms: Option<i64>) -> Result<Vec<WaitingVerdict>> {
        let rows: Vec<(u64, String)> = query(
            &self.connection,
            "SELECT number, verdict FROM verdicts WHERE ?1 IS NULL OR arrived_ms < ?1
             ORDER BY number",
            [before_ms],
            |row| Ok((from_sql(row.get(0)?), row.get(1)?)),
        )?;
        let read = |(number, json): (u64, String)| {
            let verdict = serde_json::from_str(&json)
                .map_err(|error| Error::Corrupt(format!("a verdict can't be read: {error}")))?;
            Ok(WaitingVerdict { number, verdict })
        };
        rows.into_iter().map(read).collect()
    }

    /// Has verdicts wait for their executions, up to [`VERDICTS_WAITING_MAX`]. Tells of each whether it
    /// is new.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it can be tried again, and nothing has changed.
    ///
    /// # Panics
    /// Never: a verdict has a JSON form.
    pub fn await_executions(&mut self, verdicts: &[Verdict], now_ms: i64) -> Result<Vec<bool>> {
        self.keep_verdicts(verdicts, VERDICTS_WAITING_MAX, now_ms)
    }

    /// The same for verdicts whose executions are known: they are judged next, and however many others
    /// wait must not keep them out.
    ///
    /// # Errors
    /// As [`Store::await_executions`].
    pub fn keep_for_judging(&mut self, verdicts: &[Verdict], now_ms: i64) -> Result<()> {
        self.keep_verdicts(verdicts, usize::MAX, now_ms).map(drop)
    }

    fn keep_verdicts(
        &mut self,
        verdicts: &[Verdict],
        waiting_max: usize,
        now_ms: i64,
    ) -> Result<Vec<bool>> {
        if verdicts.is_empty() {
            return Ok(Vec::new());
        }
        let transaction = write(&self.connection, &self.patience)?;
        let mut new = Vec::with_capacity(verdicts.len());
        for verdict in verdicts {
            let json = serde_json::to_string(verdict).expect("a verdict has a JSON form");
            let target = verdict.target.key(&verdict.tenant);
            let inserted = execute(
                &transaction,
                "INSERT OR IGNORE INTO verdicts(target, arrived_ms, verdict) VALUES (?1, ?2, ?3)",
                params![target, now_ms, json],
            )?;
            new.push(inserted > 0);
        }
        let count = query(&transaction, "SELECT count(*) FROM verdicts", [], |row| {
            row.get::<_, i64>(0).map(from_sql)
        })?;
        if count.first().is_some_and(|count| *count > waiting_max as u64) {
            return Err(Error::Unavailable(format!(
                "{VERDICTS_WAITING_MAX} verdicts wait for their executions, which is the limit"
            )));
        }
        commit(transaction, &self.place)?;
        self.awaited.extend(verdicts.iter().map(|verdict| verdict.target.key(&verdict.tenant)));
        Ok(new)
    }

    /// Forgets verdicts that wait no longer.
    ///
    /// # Errors
    /// As [`Store::await_executions`].
    pub fn forget_verdicts(&mut self, numbers: &[u64]) -> Result<()> {
        if numbers.is_empty() {
            return Ok(());
        }
        let transaction = write(&self.connection, &self.patience)?;
        forget(&transaction, numbers)?;
        let left = awaited(&transaction)?;
        commit(transaction, &self.place)?;
        self.awaited = left;
        Ok(())
    }
}

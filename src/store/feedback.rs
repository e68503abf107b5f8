//! Verdicts that come after the execution they judge.
//!
//! One whose execution is not known yet waits in `verdicts`. An execution of which only a verdict tells
//! whether it was a success waits for it in `unjudged`: in the journal it is pending. What was added to an outcome is kept in
//! `feedback`, so that it is added once; the journal has it as a control entry.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;

use rusqlite::{Connection, params};

use super::decisions::MISSING;
use super::{Entry, Store, commit, decisions, execute, from_sql, query, to_sql, write};
use crate::error::{Error, Result};
use crate::model::Control;
use crate::outcome::fair_shares::{Held, Shares};
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

/// Whose share of the places each verdict takes that waits.
pub(super) const SHARES_SCHEMA: &str = "
ALTER TABLE verdicts ADD COLUMN share TEXT NOT NULL DEFAULT '';
UPDATE verdicts SET share = coalesce(json_extract(verdict, '$.tenant'), '');
CREATE INDEX verdicts_of_share ON verdicts(share, number);
";

/// Verdicts that may wait for their executions. Past it the oldest of whoever has most give way.
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

/// An execution that waits for a verdict.
#[derive(Debug, Clone)]
pub struct Unjudged {
    /// Its outcome as it came; in the journal it is pending.
    pub outcome: Outcome,
    /// Unix time, ms, from which on it waits.
    pub arrived_ms: i64,
}

/// What is known of the execution that a verdict is about.
#[derive(Debug, Clone, PartialEq)]
pub enum Execution {
    /// Nothing, or no longer.
    Unknown,
    /// Its decision was given up before it came: it teaches nothing.
    GivenUp,
    /// Its outcome.
    Known(Box<Outcome>),
}

/// What the waiting verdicts are, as far as it is committed.
#[derive(Debug)]
pub(super) struct Waiting {
    /// How many wait for an execution.
    targets: HashMap<IdentityKey, u64>,
    shares: Shares,
}

/// A row of the table, as far as it is counted.
type Counted = (IdentityKey, String);

impl Waiting {
    pub(super) fn none() -> Self {
        let max = Held { count: VERDICTS_WAITING_MAX as u64, bytes: u64::MAX };
        Self { targets: HashMap::new(), shares: Shares::new(max) }
    }

    pub(super) fn load(connection: &Connection) -> Result<Self> {
        let mut waiting = Self::none();
        let rows = query(connection, "SELECT target, share FROM verdicts", [], counted)?;
        waiting.add(rows);
        Ok(waiting)
    }

    fn add(&mut self, rows: Vec<Counted>) {
        for (target, share) in rows {
            *self.targets.entry(target).or_default() += 1;
            self.shares.add(&share, Held { count: 1, bytes: 0 });
        }
    }

    /// These rows are gone.
    pub(super) fn remove(&mut self, rows: Vec<Counted>) {
        for (target, share) in rows {
            if let Place::Occupied(mut place) = self.targets.entry(target) {
                *place.get_mut() -= 1;
                if *place.get() == 0 {
                    place.remove();
                }
            }
            self.shares.remove(&share, Held { count: 1, bytes: 0 });
        }
    }
}

fn counted(row: &rusqlite::Row<'_>) -> rusqlite::Result<Counted> {
    Ok((row.get(0)?, row.get(1)?))
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<(u64, String)> {
    Ok((from_sql(row.get(0)?), row.get(1)?))
}

fn parse(rows: Vec<(u64, String)>) -> Result<Vec<WaitingVerdict>> {
    let parse = |(number, json): (u64, String)| {
        let verdict = serde_json::from_str(&json)
            .map_err(|error| Error::Corrupt(format!("a verdict can't be read: {error}")))?;
        Ok(WaitingVerdict { number, verdict })
    };
    rows.into_iter().map(parse).collect()
}

/// Executions that wait for a verdict.
pub(super) fn unjudged(connection: &Connection) -> Result<u64> {
    let count = query(connection, "SELECT count(*) FROM unjudged", [], |row| {
        row.get::<_, i64>(0).map(from_sql)
    })?;
    Ok(count.into_iter().next().unwrap_or(0))
}

/// Has outcomes wait for their verdicts, which are pending in the journal.
pub(super) fn await_verdicts(connection: &Connection, unjudged: &[Unjudged]) -> Result<()> {
    for Unjudged { outcome, arrived_ms } in unjudged {
        let bytes = postcard::to_stdvec(outcome)
            .map_err(|error| Error::Fatal(format!("an outcome can't be packed: {error}")))?;
        execute(
            connection,
            "INSERT OR IGNORE INTO unjudged(execution, arrived_ms, outcome) VALUES (?1, ?2, ?3)",
            params![outcome.identity, arrived_ms, bytes],
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

/// Takes away verdicts that have found their execution, or never will. Returns those that were there.
pub(super) fn forget(connection: &Connection, verdicts: &[u64]) -> Result<Vec<Counted>> {
    let mut gone = Vec::with_capacity(verdicts.len());
    for number in verdicts {
        gone.extend(query(
            connection,
            "DELETE FROM verdicts WHERE number = ?1 RETURNING target, share",
            [to_sql(*number)],
            counted,
        )?);
    }
    Ok(gone)
}

impl Store {
    /// What is known of the executions that verdicts are about, of each. Each row of the journal that
    /// holds some of them is read once.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now, [`Error::Corrupt`] when the journal
    /// can't be.
    pub fn executions(&self, verdicts: &[&Verdict]) -> Result<Vec<Execution>> {
        let places: Vec<Located> =
            verdicts.iter().map(|verdict| self.locate(verdict)).collect::<Result<_>>()?;
        let entries = self.entries(places.iter().filter_map(|place| match place {
            Located::At(sequence) => Some(*sequence),
            Located::Nowhere | Located::GivenUp => None,
        }))?;
        let execution = |place: Located| {
            let sequence = match place {
                Located::Nowhere => return Ok(Execution::Unknown),
                Located::GivenUp => return Ok(Execution::GivenUp),
                Located::At(sequence) => sequence,
            };
            let outcome = match entries.get(&sequence) {
                Some(Entry::Outcome(outcome)) => outcome.clone(),
                Some(Entry::Control(
                    Control::LastAttempt { execution, outcome }
                    | Control::Feedback { execution, outcome, was_pending: true },
                )) => Outcome { identity: *execution, ..(**outcome).clone() },
                _ => return Ok(Execution::Unknown),
            };
            // One that came late is journaled as pending.
            if outcome.status == Status::Pending
                && let Some(decision) = &outcome.decision
                && self.is_given_up(&outcome.tenant, decision.id(), &outcome.agent)?
            {
                return Ok(Execution::GivenUp);
            }
            Ok(Execution::Known(Box::new(outcome)))
        };
        places.into_iter().map(execution).collect()
    }

    /// Where the journal has the execution that a verdict is about.
    fn locate(&self, Verdict { tenant, target, .. }: &Verdict) -> Result<Located> {
        let at = |sequence: Option<u64>| Ok(sequence.map_or(Located::Nowhere, Located::At));
        match (target, &self.by_decision) {
            (Target::Execution(_), _) | (Target::Event(_), Some(_)) => {
                return at(self.sequence_of(target.key(tenant)));
            }
            (Target::Decision { agent, .. }, Some(index)) => {
                return at(index.find(target.key(tenant), agent.as_deref()));
            }
            (_, None) => {}
        }
        match target {
            Target::Execution(_) => Ok(Located::Nowhere),
            Target::Event(_) => {
                let key = target.key(tenant);
                match self.sequence_of(key) {
                    Some(sequence) => Ok(Located::At(sequence)),
                    // Telemetry of what was reported before is no outcome of its own.
                    None if self.has_spans() => {
                        self.located("SELECT {} FROM decisions WHERE span = ?1", params![key])
                    }
                    None => Ok(Located::Nowhere),
                }
            }
            Target::Decision { id, agent } => self.located(
                "SELECT {} FROM decisions
                 WHERE tenant = ?1 AND id = ?2 AND chosen = coalesce(?3, chosen)",
                params![tenant, id, agent],
            ),
        }
    }

    /// A verdict as others find its execution, too, who don't have the decisions of this store: telemetry of
    /// what was reported before is no outcome of its own, and a decision has chosen an agent.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now.
    pub fn told_to_others(&self, mut verdict: Verdict) -> Result<Verdict> {
        let tenant = &verdict.tenant;
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        let found: Vec<(String, Option<String>)> = match &verdict.target {
            Target::Event(_) => {
                let key = verdict.target.key(tenant);
                if !self.has_spans() || self.sequence_of(key).is_some() {
                    return Ok(verdict);
                }
                let select = "SELECT id, chosen FROM decisions WHERE span = ?1";
                query(&self.connection, select, params![key], read)?
            }
            Target::Decision { id, agent: None } => {
                let select = "SELECT id, chosen FROM decisions WHERE tenant = ?1 AND id = ?2";
                query(&self.connection, select, params![tenant, id], read)?
            }
            Target::Decision { .. } | Target::Execution(_) => return Ok(verdict),
        };
        if let Some((id, agent)) = found.into_iter().next() {
            verdict.target = Target::Decision { id, agent };
        }
        Ok(verdict)
    }

    /// Since when the first has waited of what waits: verdicts, and executions for one. Unix time, ms.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now.
    pub fn waiting_from(&self) -> Result<Option<i64>> {
        let select = "SELECT min(arrived_ms) FROM verdicts
                      UNION ALL SELECT min(arrived_ms) FROM unjudged";
        let oldest: Vec<Option<i64>> = query(&self.connection, select, [], |row| row.get(0))?;
        Ok(oldest.into_iter().flatten().min())
    }

    /// The same by a decision that is selected.
    fn located(&self, select: &str, of: impl rusqlite::Params) -> Result<Located> {
        let columns = "coalesce(outcome_sequence, pending_sequence), status";
        let found = query(&self.connection, &select.replace("{}", columns), of, |row| {
            Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, Option<String>>(1)?))
        })?;
        Ok(match found.into_iter().next() {
            Some((_, Some(status))) if status == MISSING => Located::GivenUp,
            Some((Some(sequence), _)) => Located::At(from_sql(sequence)),
            Some((None, _)) | None => Located::Nowhere,
        })
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
    /// As [`Store::keep_verdicts`].
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
        self.waiting.targets.contains_key(&target)
    }

    /// Executions that verdicts wait for.
    pub fn awaited(&self) -> usize {
        self.waiting.targets.len()
    }

    /// Verdicts that wait.
    #[cfg(test)]
    pub fn waiting(&self) -> u64 {
        self.waiting.shares.total().count
    }

    /// Verdicts that wait in a share.
    #[cfg(test)]
    pub fn waiting_of(&self, share: &str) -> u64 {
        self.waiting.shares.of(share).count
    }

    /// Verdicts that wait for these executions, in the order in which they came.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now, [`Error::Corrupt`] when one can't be.
    pub fn waiting_for<'a>(
        &self,
        targets: impl IntoIterator<Item = &'a IdentityKey>,
    ) -> Result<Vec<WaitingVerdict>> {
        let mut rows = Vec::new();
        for target in targets {
            rows.extend(query(
                &self.connection,
                "SELECT number, verdict FROM verdicts WHERE target = ?1",
                [target],
                read,
            )?);
        }
        rows.sort_unstable_by_key(|(number, _)| *number);
        parse(rows)
    }

    /// Verdicts that wait, in the order in which they came, those after number `after`.
    ///
    /// # Errors
    /// As [`Store::waiting_for`].
    pub fn waiting_after(&self, after: u64, limit: u32) -> Result<Vec<WaitingVerdict>> {
        parse(query(
            &self.connection,
            "SELECT number, verdict FROM verdicts WHERE number > ?1 ORDER BY number LIMIT ?2",
            params![to_sql(after), limit],
            read,
        )?)
    }

    /// Verdicts that have waited since before `before_ms`, oldest first.
    ///
    /// # Errors
    /// As [`Store::waiting_for`].
    pub fn waiting_since(&self, before_ms: i64, limit: u32) -> Result<Vec<WaitingVerdict>> {
        parse(query(
            &self.connection,
            "SELECT number, verdict FROM verdicts WHERE arrived_ms < ?1
             ORDER BY arrived_ms, number LIMIT ?2",
            params![before_ms, limit],
            read,
        )?)
    }

    /// Verdicts that have no place to wait: the oldest of the share that has most. None while there is
    /// place for all; perhaps only some of them.
    ///
    /// # Errors
    /// As [`Store::waiting_for`].
    pub fn crowded_out(&self, limit: u32) -> Result<Vec<WaitingVerdict>> {
        let shares = &self.waiting.shares;
        let Some(most) = shares.most().filter(|_| shares.is_over()) else { return Ok(Vec::new()) };
        // As many as it has more than another one, so that no share is taken from before its turn.
        let gone = |count| Held { count, bytes: 0 };
        let count = (1..u64::from(limit))
            .take_while(|count| {
                shares.is_over_without(gone(*count)) && shares.is_most_without(most, gone(*count))
            })
            .count();
        parse(query(
            &self.connection,
            "SELECT number, verdict FROM verdicts WHERE share = ?1 ORDER BY number LIMIT ?2",
            params![&**most, to_sql(count as u64 + 1)],
            read,
        )?)
    }

    /// Has verdicts wait for their executions, each from its own time on (Unix, ms), and in the share that
    /// `share_of` its tenant gives. Tells
    /// of each whether it is new. There may then be more than have a place: see [`Store::crowded_out`].
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it can be tried again, and nothing has changed.
    ///
    /// # Panics
    /// Never: a verdict has a JSON form.
    pub fn keep_verdicts<'a>(
        &mut self,
        verdicts: &'a [(Verdict, i64)],
        share_of: impl Fn(&'a str) -> &'a str,
    ) -> Result<Vec<bool>> {
        if verdicts.is_empty() {
            return Ok(Vec::new());
        }
        let transaction = write(&self.connection, &self.patience)?;
        let mut is_new = Vec::with_capacity(verdicts.len());
        let mut rows = Vec::new();
        for (verdict, arrived_ms) in verdicts {
            let json = serde_json::to_string(verdict).expect("a verdict has a JSON form");
            let target = verdict.target.key(&verdict.tenant);
            let share = share_of(&verdict.tenant);
            let inserted = execute(
                &transaction,
                "INSERT OR IGNORE INTO verdicts(target, arrived_ms, verdict, share)
                 VALUES (?1, ?2, ?3, ?4)",
                params![target, arrived_ms, json, share],
            )?;
            is_new.push(inserted > 0);
            if inserted > 0 {
                rows.push((target, share.to_owned()));
            }
        }
        commit(transaction, &self.place)?;
        self.waiting.add(rows);
        Ok(is_new)
    }
}

/// Where the execution is that a verdict is about.
enum Located {
    Nowhere,
    /// Its decision was given up.
    GivenUp,
    /// The entry of the journal.
    At(u64),
}

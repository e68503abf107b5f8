//! Outcomes that are not final: the newest of each execution waits here for the final one.
//!
//! It is journaled as one that teaches nothing. The final outcome is learned like any other, and takes
//! it away; where none comes in time a control entry learns the newest. A final outcome that says which
//! attempt it was stays for as long, without anything to learn, for the case that an earlier attempt
//! comes after it.

use rusqlite::{Connection, OptionalExtension, params};

use super::bounded::Rows;
use super::{Store, decisions, execute, from_sql, query, reaction, write};
use crate::error::{Error, Result};
use crate::model::Control;
use crate::outcome::fair_shares::Held;
use crate::outcome::{IdentityKey, Outcome, Status};

pub(super) const SCHEMA: &str = "
CREATE TABLE attempts(
    execution BLOB PRIMARY KEY,
    number INTEGER NOT NULL,
    arrived_ms INTEGER NOT NULL,
    outcome BLOB
) STRICT, WITHOUT ROWID;
CREATE INDEX attempts_by_arrival ON attempts(arrived_ms);
";

/// What may wait for final outcomes: beyond it outcomes count as final when they come.
const HELD_MAX: Held = Held { count: 10_000, bytes: 64 * 1024 * 1024 };

/// An outcome that is not final, as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Provisional {
    /// Its place among the outcomes of the transaction, where it teaches nothing.
    pub place: usize,
    /// As it came.
    pub outcome: Outcome,
}

/// What waits, as far as it is committed.
pub(super) fn held(connection: &Connection) -> Result<Held> {
    let held = query(
        connection,
        "SELECT count(*), coalesce(sum(length(outcome)), 0) FROM attempts",
        [],
        |row| Ok(Held { count: from_sql(row.get(0)?), bytes: from_sql(row.get(1)?) }),
    )?;
    Ok(held.into_iter().next().unwrap_or_default())
}

/// Takes note of the outcomes of a transaction, in order: of those that are not final, and of those
/// that settle an execution. Returns what waits after it, where it has changed.
pub(super) fn note(
    connection: &Connection,
    outcomes: &[Outcome],
    provisional: &[Provisional],
    before: Held,
    now_ms: i64,
) -> Result<Option<Held>> {
    if before.count == 0
        && provisional.is_empty()
        && !outcomes.iter().any(|outcome| outcome.attempt.is_some_and(|attempt| attempt.is_told))
    {
        return Ok(None);
    }
    let mut provisional = provisional.iter().peekable();
    for (place, outcome) in outcomes.iter().enumerate() {
        let Some(attempt) = outcome.attempt else { continue };
        if let Some(Provisional { outcome, .. }) = provisional.next_if(|next| next.place == place) {
            if !decisions::is_answered(connection, outcome)? {
                let bytes = postcard::to_stdvec(outcome).map_err(|error| {
                    Error::Fatal(format!("an outcome can't be packed: {error}"))
                })?;
                keep(connection, &attempt.execution, attempt.number, now_ms, Some(&bytes))?;
                decisions::mark_pending(connection, outcome)?;
            }
        } else if outcome.status != Status::Pending {
            remove(connection, &attempt.execution)?;
            if attempt.is_told && before.count < HELD_MAX.count {
                keep(connection, &attempt.execution, attempt.number, now_ms, None)?;
            }
        }
    }
    held(connection).map(Some)
}

/// Keeps the newest of an execution, unless it is settled.
fn keep(
    connection: &Connection,
    execution: &IdentityKey,
    number: u32,
    now_ms: i64,
    outcome: Option<&[u8]>,
) -> Result<()> {
    execute(
        connection,
        "INSERT INTO attempts(execution, number, arrived_ms, outcome) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT(execution) DO UPDATE SET number = excluded.number,
             arrived_ms = excluded.arrived_ms, outcome = excluded.outcome
         WHERE attempts.outcome IS NOT NULL AND excluded.number >= attempts.number",
        params![execution, number, now_ms, outcome],
    )?;
    Ok(())
}

fn remove(connection: &Connection, execution: &IdentityKey) -> Result<()> {
    execute(
        connection,
        "DELETE FROM attempts WHERE execution = ?1 AND outcome IS NOT NULL",
        [execution],
    )?;
    Ok(())
}

/// Takes away what control entries have learned, the first of them at `first_sequence`, and joins it
/// with the decision that it names. Returns how many were joined, and what waits after it where it has
/// changed.
pub(super) fn settle(
    connection: &Connection,
    controls: &[Control],
    first_sequence: u64,
    early: &mut Rows,
) -> Result<(u64, Option<Held>)> {
    let mut joined = 0;
    let mut changed = false;
    for (sequence, control) in (first_sequence..).zip(controls) {
        let Control::LastAttempt { execution, outcome } = control else { continue };
        remove(connection, execution)?;
        joined += decisions::join(connection, std::slice::from_ref(&**outcome), sequence, early)?;
        changed = true;
    }
    let held = if changed { Some(held(connection)?) } else { None };
    Ok((joined, held))
}

impl Store {
    /// Whether one more outcome may wait for the final one, beside `others` of its transaction.
    pub fn may_wait(&self, others: &[Provisional]) -> bool {
        self.attempts.count + (others.len() as u64) < HELD_MAX.count
            && self.attempts.bytes < HELD_MAX.bytes
    }

    /// Executions of which an outcome waits for the final one, or that were settled a short time ago.
    pub fn attempts(&self) -> u64 {
        self.attempts.count
    }

    /// Outcomes that came before `before_ms` and are the newest of their executions, oldest first, as
    /// the control entries that learn them.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now, [`Error::Corrupt`] when an outcome
    /// can't be.
    pub fn last_attempts(&self, before_ms: i64, limit: u32) -> Result<Vec<Control>> {
        let rows: Vec<(IdentityKey, Vec<u8>)> = query(
            &self.connection,
            "SELECT execution, outcome FROM attempts
             WHERE arrived_ms < ?1 AND outcome IS NOT NULL ORDER BY arrived_ms LIMIT ?2",
            params![before_ms, limit],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let control = |(execution, bytes): (IdentityKey, Vec<u8>)| {
            let outcome = postcard::from_bytes(&bytes).map_err(|error| {
                Error::Corrupt(format!("an outcome that is not final can't be read: {error}"))
            })?;
            Ok(Control::LastAttempt { execution, outcome: Box::new(outcome) })
        };
        rows.into_iter().map(control).collect()
    }

    /// Forgets executions that were settled before `before_ms`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it can be tried again, and nothing has changed.
    pub fn forget_settled(&mut self, before_ms: i64) -> Result<()> {
        let oldest: Option<i64> = self
            .connection
            .query_row(
                "SELECT 1 FROM attempts WHERE arrived_ms < ?1 AND outcome IS NULL LIMIT 1",
                [before_ms],
                |row| row.get(0),
            )
            .optional()
            .map_err(|error| reaction(&error))?;
        if oldest.is_none() {
            return Ok(());
        }
        let transaction = write(&self.connection, &self.patience)?;
        execute(
            &transaction,
            "DELETE FROM attempts WHERE arrived_ms < ?1 AND outcome IS NULL",
            [before_ms],
        )?;
        let left = held(&transaction)?;
        super::commit(transaction, &self.place)?;
        self.attempts = left;
        Ok(())
    }
}

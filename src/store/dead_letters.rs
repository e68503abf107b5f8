//! Records that could not be understood, kept so that they can be looked at and fed back.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::bounded::{Rows, Table};
use super::{execute, from_sql, padded_id, query, reaction, to_sql};
use crate::error::Result;
use crate::outcome::{KeptPayload, PayloadKept, Refusal};

/// Bytes kept of a payload.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// A refused record on its way into the table.
#[derive(Debug, Clone)]
pub struct NewDeadLetter {
    /// `http`, `import` or `kafka`.
    pub source: &'static str,
    /// Why.
    pub refusal: Refusal,
    /// Topic, partition and offset, where it has them.
    pub position: Option<(Arc<str>, i32, i64)>,
    /// The identity of its arrival, which a replay keeps.
    pub identity: String,
    /// What is kept of it, at most [`PAYLOAD_BYTES_MAX`] bytes.
    pub payload: KeptPayload,
    /// When it came.
    pub created_at: String,
    /// Whose share of the table it takes.
    pub owner: Owner,
}

/// Whose share of the table a dead letter takes. Rubbish names nobody, or anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// Of a tenant that is known, or whom its sender speaks for.
    Tenant(String),
    /// It names a tenant of whom nothing is known, and came from this source.
    Named(String, &'static str),
    /// It does not tell, and came from this source.
    Unknown(&'static str),
}

/// Shares beyond which names of which nothing is known get none of their own.
const SHARES_MAX: usize = 256;

impl Owner {
    /// The share's name. That of a source is no tenant's, as far as tenants are honest.
    fn share(&self, rows: &Rows) -> String {
        match self {
            Self::Tenant(tenant) => tenant.clone(),
            Self::Named(tenant, _) if rows.has_share(tenant) || rows.shares() < SHARES_MAX => {
                tenant.clone()
            }
            Self::Named(_, source) | Self::Unknown(source) => format!("\0{source}"),
        }
    }
}

/// A refused record.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of NewDeadLetter")]
pub struct DeadLetter {
    pub id: String,
    pub source: String,
    pub code: String,
    pub detail: String,
    pub topic: Option<String>,
    pub partition: Option<i32>,
    pub offset: Option<i64>,
    pub identity: String,
    pub payload: Vec<u8>,
    pub payload_kept: PayloadKept,
    pub payload_bytes: u64,
    pub created_at: String,
}

impl DeadLetter {
    /// The payload is not kept whole.
    pub fn is_cut(&self) -> bool {
        self.payload_kept != PayloadKept::Full || self.payload_bytes > self.payload.len() as u64
    }
}

pub(super) const KEPT_SCHEMA: &str = "
ALTER TABLE dead_letters ADD COLUMN payload_kept TEXT NOT NULL DEFAULT 'full';
";

pub(super) const TABLE: Table = Table { name: "dead_letters", key: "id", bytes: "length(payload)" };

/// Inserts with ids after `last_id`, then deletes what is beyond the bounds.
pub(super) fn insert(
    connection: &Connection,
    letters: &[NewDeadLetter],
    last_id: u64,
    rows: &mut Rows,
) -> Result<()> {
    for (number, letter) in (last_id + 1..).zip(letters) {
        let position = letter.position.as_ref();
        let share = letter.owner.share(rows);
        execute(
            connection,
            "INSERT INTO dead_letters(id, source, code, detail, topic, partition, offset,
                                      identity, payload, payload_kept, payload_bytes, created_at,
                                      tenant)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
            params![
                padded_id(number),
                letter.source,
                letter.refusal.code.as_str(),
                letter.refusal.detail,
                position.map(|(topic, ..)| &**topic),
                position.map(|(_, partition, _)| partition),
                position.map(|(.., offset)| offset),
                letter.identity,
                letter.payload.bytes,
                letter.payload.kept.as_str(),
                to_sql(letter.payload.whole_bytes as u64),
                letter.created_at,
                share
            ],
        )?;
        rows.inserted(&share, letter.payload.bytes.len() as u64);
    }
    rows.prune(connection)
}

/// Deletes those that were fed back; one that is gone already is no error.
pub(super) fn remove(connection: &Connection, ids: &[String], rows: &mut Rows) -> Result<()> {
    for id in ids {
        let found = query(
            connection,
            "SELECT tenant, length(payload) FROM dead_letters WHERE id = ?1",
            [id],
            |row| Ok((row.get::<_, String>(0)?, from_sql(row.get(1)?))),
        )?;
        if let Some((tenant, bytes)) = found.into_iter().next() {
            execute(connection, "DELETE FROM dead_letters WHERE id = ?1", [id])?;
            rows.deleted(&tenant, bytes);
        }
    }
    Ok(())
}

pub(super) fn by_id(connection: &Connection, id: &str) -> Result<Option<DeadLetter>> {
    connection
        .prepare_cached(&format!("{SELECT} WHERE id = ?1"))
        .and_then(|mut statement| statement.query_row([id], read).optional())
        .map_err(|error| reaction(&error))
}

/// Newest first, those before `before`.
pub(super) fn list(
    connection: &Connection,
    before: Option<&str>,
    limit: u32,
) -> Result<Vec<DeadLetter>> {
    query(
        connection,
        &format!("{SELECT} WHERE ?1 IS NULL OR id < ?1 ORDER BY id DESC LIMIT ?2"),
        params![before, limit],
        read,
    )
}

/// Oldest first, those after `after`.
pub(super) fn list_after(
    connection: &Connection,
    after: &str,
    limit: u32,
) -> Result<Vec<DeadLetter>> {
    query(
        connection,
        &format!("{SELECT} WHERE id > ?1 ORDER BY id LIMIT ?2"),
        params![after, limit],
        read,
    )
}

/// Ids of all, oldest first.
pub(super) fn ids(connection: &Connection) -> Result<Vec<String>> {
    query(connection, "SELECT id FROM dead_letters ORDER BY id", [], |row| row.get(0))
}

const SELECT: &str = "SELECT id, source, code, detail, topic, partition, offset, identity, payload,
                      payload_bytes, created_at, payload_kept FROM dead_letters";

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<DeadLetter> {
    Ok(DeadLetter {
        id: row.get(0)?,
        source: row.get(1)?,
        code: row.get(2)?,
        detail: row.get(3)?,
        topic: row.get(4)?,
        partition: row.get(5)?,
        offset: row.get(6)?,
        identity: row.get(7)?,
        payload: row.get(8)?,
        payload_bytes: from_sql(row.get(9)?),
        created_at: row.get(10)?,
        payload_kept: PayloadKept::named(row.get_ref(11)?.as_str()?),
    })
}

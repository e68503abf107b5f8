//! Tables that are bounded over all tenants: what is full takes from the tenant that holds most, its
//! oldest rows first.

use std::sync::Arc;

use rusqlite::{Connection, params};

use super::{execute, from_sql, query, to_sql};
use crate::error::Result;
use crate::outcome::fair_shares::{Held, Shares};

/// Each row of decisions knows its own size, each dead letter its tenant, and the rows of a tenant can
/// be walked alone.
pub(super) const SCHEMA: &str = "
ALTER TABLE decisions RENAME COLUMN start_bytes TO bytes;
UPDATE decisions SET bytes = 512 + length(answer) + length(context) + length(candidates);
CREATE INDEX decisions_of_tenant ON decisions(tenant, number, bytes);
CREATE INDEX early_outcomes_of_tenant ON early_outcomes(tenant, sequence);
ALTER TABLE dead_letters ADD COLUMN tenant TEXT NOT NULL DEFAULT '';
CREATE INDEX dead_letters_of_tenant ON dead_letters(tenant, id);
";

/// Rows that are looked at in one go when some have to leave.
const LEAVE_AT_ONCE: usize = 512;

/// A table with a column `tenant`, and an index on it, the key and whatever the size is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    pub(super) name: &'static str,
    /// The column by which the oldest is told.
    pub(super) key: &'static str,
    /// A row's bytes, as an expression.
    pub(super) bytes: &'static str,
}

/// What each tenant has in a bounded table, so that the bounds cost no query.
#[derive(Debug)]
pub(super) struct Bounded {
    table: Table,
    max: Held,
    /// Counted when it is first needed, and again after a transaction that failed.
    shares: Option<Shares>,
}

/// A row that may leave: key, bytes.
type Leaving = (rusqlite::types::Value, u64);

impl Bounded {
    pub(super) fn new(table: Table, max: Held) -> Self {
        Self { table, max, shares: None }
    }

    /// What the rows are counted to be, for a transaction that gives it back with
    /// [`Bounded::keep`] once it is committed.
    pub(super) fn begin(&mut self, connection: &Connection) -> Result<Rows> {
        let shares = match self.shares.take() {
            Some(shares) => shares,
            None => self.count(connection)?,
        };
        Ok(Rows { table: self.table, shares })
    }

    /// The transaction is committed.
    pub(super) fn keep(&mut self, rows: Rows) {
        self.shares = Some(rows.shares);
    }

    fn count(&self, connection: &Connection) -> Result<Shares> {
        let Table { name, bytes, .. } = self.table;
        let mut shares = Shares::new(self.max);
        let counted = query(
            connection,
            &format!(
                "SELECT tenant, count(*), coalesce(sum({bytes}), 0) FROM {name} GROUP BY tenant"
            ),
            [],
            |row| {
                let held = Held { count: from_sql(row.get(1)?), bytes: from_sql(row.get(2)?) };
                Ok((row.get::<_, String>(0)?, held))
            },
        )?;
        for (tenant, held) in counted {
            shares.add(&tenant, held);
        }
        Ok(shares)
    }
}

/// The rows of a bounded table, while a transaction changes them.
#[derive(Debug)]
pub(super) struct Rows {
    table: Table,
    shares: Shares,
}

impl Rows {
    /// A row was inserted.
    pub(super) fn inserted(&mut self, tenant: &str, bytes: u64) {
        self.shares.add(tenant, Held { count: 1, bytes });
    }

    /// A row was deleted by its owner.
    pub(super) fn deleted(&mut self, tenant: &str, bytes: u64) {
        self.shares.remove(tenant, Held { count: 1, bytes });
    }

    /// How many have something.
    pub(super) fn shares(&self) -> usize {
        self.shares.len()
    }

    /// Whether this one has something.
    pub(super) fn has_share(&self, tenant: &str) -> bool {
        self.shares.of(tenant).count > 0
    }

    /// There are none.
    pub(super) fn is_empty(&self) -> bool {
        self.shares.total().count == 0
    }

    /// Deletes what is beyond the bounds.
    pub(super) fn prune(&mut self, connection: &Connection) -> Result<()> {
        let Table { name, key, bytes } = self.table;
        while self.shares.is_over() {
            let Some(tenant) = self.shares.most().map(Arc::clone) else { break };
            let oldest: Vec<Leaving> = query(
                connection,
                &format!(
                    "SELECT {key}, {bytes} FROM {name} WHERE tenant = ?1 ORDER BY {key} LIMIT ?2"
                ),
                params![&*tenant, to_sql(LEAVE_AT_ONCE as u64)],
                |row| Ok((row.get(0)?, from_sql(row.get(1)?))),
            )?;
            let mut leaving = Held::default();
            let mut last = None;
            for (row, bytes) in oldest {
                // Another tenant's turn, or enough.
                if last.is_some()
                    && (!self.shares.is_over_without(leaving)
                        || !self.shares.is_most_without(&tenant, leaving))
                {
                    break;
                }
                leaving.count += 1;
                leaving.bytes += bytes;
                last = Some(row);
            }
            // Only a row that left otherwise can be missing here: what is counted is then corrected.
            let Some(last) = last else {
                let held = self.shares.of(&tenant);
                self.shares.remove(&tenant, held);
                continue;
            };
            execute(
                connection,
                &format!("DELETE FROM {name} WHERE tenant = ?1 AND {key} <= ?2"),
                params![&*tenant, last],
            )?;
            self.shares.remove(&tenant, leaving);
        }
        Ok(())
    }
}

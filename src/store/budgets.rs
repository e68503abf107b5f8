//! The spending caps that were set.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};

use super::{execute, query};
use crate::error::Result;
use crate::watch::budget::{Budget, Period};

pub(super) const SCHEMA: &str = "
CREATE TABLE budgets(
    tenant TEXT PRIMARY KEY,
    amount REAL NOT NULL CHECK (amount > 0),
    period TEXT NOT NULL CHECK (period IN ('day', 'month'))
) STRICT, WITHOUT ROWID;
";

/// Sets the budget of a tenant, or takes it away.
pub(super) fn write(connection: &Connection, tenant: &str, budget: Option<Budget>) -> Result<()> {
    match budget {
        Some(Budget { amount, period }) => execute(
            connection,
            "INSERT INTO budgets(tenant, amount, period) VALUES (?1, ?2, ?3)
             ON CONFLICT(tenant) DO UPDATE SET amount = excluded.amount, period = excluded.period",
            params![tenant, amount, period.as_str()],
        )?,
        None => execute(connection, "DELETE FROM budgets WHERE tenant = ?1", [tenant])?,
    };
    Ok(())
}

/// All, by tenant.
pub(super) fn all(connection: &Connection) -> Result<BTreeMap<String, Budget>> {
    let rows = query(connection, "SELECT tenant, amount, period FROM budgets", [], |row| {
        let period: String = row.get(2)?;
        Ok((row.get(0)?, row.get(1)?, Period::of(&period)))
    })?;
    let budgets = rows
        .into_iter()
        .filter_map(|(tenant, amount, period)| Some((tenant, Budget { amount, period: period? })));
    Ok(budgets.collect())
}

//! Alerts that fire and did, so that a restart neither repeats nor forgets them.

use rusqlite::{Connection, params};

use super::{execute, from_sql, padded_id, query, to_sql};
use crate::alerts::{ALERTS_MAX, Alert, Rule, Subject};
use crate::error::Result;

/// Writes alerts as they are now, then deletes the oldest that have passed beyond the number kept.
pub(super) fn write(connection: &Connection, alerts: &[Alert]) -> Result<()> {
    for alert in alerts {
        let subject = alert.subject.as_ref();
        execute(
            connection,
            "INSERT INTO alerts(id, rule, status, tenant_id, agent_name, value, threshold, message,
                                since_ms, resolved_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
             ON CONFLICT(id) DO UPDATE SET status = excluded.status,
                                           resolved_ms = excluded.resolved_ms",
            params![
                padded_id(alert.id),
                alert.rule.as_str(),
                alert.status(),
                subject.map(|subject| &subject.tenant),
                subject.map(|subject| &subject.agent),
                alert.value,
                alert.threshold,
                alert.message,
                alert.since_ms,
                alert.resolved_ms
            ],
        )?;
    }
    execute(
        connection,
        "DELETE FROM alerts WHERE status = 'resolved' AND id <=
            (SELECT id FROM alerts ORDER BY id DESC LIMIT 1 OFFSET ?1)",
        [to_sql(ALERTS_MAX as u64)],
    )?;
    Ok(())
}

/// All, oldest first. Rules that this program does not know are left out.
pub(super) fn list(connection: &Connection) -> Result<Vec<Alert>> {
    let alerts = query(
        connection,
        "SELECT id, rule, tenant_id, agent_name, value, threshold, message, since_ms, resolved_ms
         FROM alerts ORDER BY id",
        [],
        |row| {
            let (id, rule): (String, String) = (row.get(0)?, row.get(1)?);
            let (tenant, agent): (Option<String>, Option<String>) = (row.get(2)?, row.get(3)?);
            let alert = |(id, rule)| -> rusqlite::Result<Alert> {
                Ok(Alert {
                    id,
                    rule,
                    subject: tenant.zip(agent).map(|(tenant, agent)| Subject { tenant, agent }),
                    value: row.get(4)?,
                    threshold: row.get(5)?,
                    message: row.get(6)?,
                    since_ms: row.get(7)?,
                    resolved_ms: row.get(8)?,
                })
            };
            id.parse().ok().map(from_sql).zip(Rule::of(&rule)).map(alert).transpose()
        },
    )?;
    Ok(alerts.into_iter().flatten().collect())
}

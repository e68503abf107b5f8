//! Alerts that fire and did, so that a restart neither repeats nor forgets them, and which changes of
//! them are still to be sent to whom.

use rusqlite::{Connection, params};

use super::{execute, from_sql, padded_id, query, to_sql};
use crate::error::Result;
use crate::watch::alerts::{ALERTS_MAX, Alert, Rule, Subject};

/// The changes that are still to be sent, a bit each: see [`Alert::delivery`].
pub(super) const UNSENT_SCHEMA: &str = "
ALTER TABLE alerts ADD COLUMN unsent INTEGER NOT NULL DEFAULT 0;
";

/// Writes alerts as they are now, to be sent to `channels` where that is news, then deletes the oldest
/// that have passed beyond the number kept.
pub(super) fn write(connection: &Connection, alerts: &[Alert], channels: &[usize]) -> Result<()> {
    for alert in alerts {
        let subject = alert.subject.as_ref();
        let unsent = channels.iter().fold(0, |bits, channel| bits | alert.delivery(*channel));
        execute(
            connection,
            "INSERT INTO alerts(id, rule, status, tenant_id, agent_name, value, threshold, message,
                                since_ms, resolved_ms, unsent)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
             ON CONFLICT(id) DO UPDATE SET
                 unsent = iif(status = excluded.status, unsent, unsent | excluded.unsent),
                 status = excluded.status,
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
                alert.resolved_ms,
                unsent
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

/// Takes note that changes of an alert, bits of [`Alert::delivery`], need not be sent any more.
pub(super) fn sent(connection: &Connection, id: u64, deliveries: u8) -> Result<()> {
    execute(
        connection,
        "UPDATE alerts SET unsent = unsent & ~?2 WHERE id = ?1",
        params![padded_id(id), deliveries],
    )?;
    Ok(())
}

/// All, oldest first. Rules that this program does not know are left out.
pub(super) fn list(connection: &Connection) -> Result<Vec<Alert>> {
    Ok(list_unsent(connection)?.into_iter().map(|(alert, _)| alert).collect())
}

/// The changes that are still to be sent to a channel, in the order in which they came about.
pub(super) fn unsent(connection: &Connection, channel: usize) -> Result<Vec<Alert>> {
    let mut changes = Vec::new();
    for (alert, unsent) in list_unsent(connection)? {
        let fired = alert.when_it_fired();
        let states = if alert.is_firing() { vec![alert] } else { vec![fired, alert] };
        changes.extend(states.into_iter().filter(|state| state.delivery(channel) & unsent != 0));
    }
    changes.sort_by_key(|alert| (alert.resolved_ms.unwrap_or(alert.since_ms), alert.id));
    Ok(changes)
}

/// All, oldest first, with what is still to be sent of each.
fn list_unsent(connection: &Connection) -> Result<Vec<(Alert, u8)>> {
    let alerts = query(
        connection,
        "SELECT id, rule, tenant_id, agent_name, value, threshold, message, since_ms, resolved_ms,
                unsent
         FROM alerts ORDER BY id",
        [],
        |row| {
            let (id, rule): (String, String) = (row.get(0)?, row.get(1)?);
            let (tenant, agent): (Option<String>, Option<String>) = (row.get(2)?, row.get(3)?);
            let alert = |(id, rule)| -> rusqlite::Result<(Alert, u8)> {
                let alert = Alert {
                    id,
                    rule,
                    subject: tenant.zip(agent).map(|(tenant, agent)| Subject { tenant, agent }),
                    value: row.get(4)?,
                    threshold: row.get(5)?,
                    message: row.get(6)?,
                    since_ms: row.get(7)?,
                    resolved_ms: row.get(8)?,
                };
                Ok((alert, row.get(9)?))
            };
            id.parse().ok().map(from_sql).zip(Rule::of(&rule)).map(alert).transpose()
        },
    )?;
    Ok(alerts.into_iter().flatten().collect())
}

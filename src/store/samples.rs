//! Samples for plots over time: dense for the last hour, thinner the older they are. Their order
//! is that of their ids: a clock may be set back.

use rusqlite::{Connection, OptionalExtension, params};

use super::{execute, from_sql, query, reaction, to_sql};
use crate::error::{Error, Result};
use crate::watch::samples::{AgentSample, KEPT, Sample, Subject, tier};

/// A tenant as a whole has the empty task type, which no outcome can have.
pub(super) const SCHEMA: &str = "
CREATE TABLE samples(
    id INTEGER PRIMARY KEY,
    sampled_ms INTEGER NOT NULL,
    tier INTEGER NOT NULL,
    model_version INTEGER NOT NULL,
    score REAL NOT NULL,
    accuracy REAL
) STRICT;
CREATE INDEX samples_by_tier ON samples(tier, id);
CREATE TABLE agent_samples(
    tenant TEXT NOT NULL,
    task_type TEXT NOT NULL,
    sample_id INTEGER NOT NULL REFERENCES samples(id) ON DELETE CASCADE,
    executions INTEGER NOT NULL,
    latency_p50_ms REAL,
    latency_p95_ms REAL,
    latency_p99_ms REAL,
    agents TEXT NOT NULL,
    PRIMARY KEY (tenant, task_type, sample_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX agent_samples_by_sample ON agent_samples(sample_id);
";

/// Id, time and model version of the newest sample.
pub(super) fn newest(connection: &Connection) -> Result<Option<(i64, i64, u64)>> {
    connection
        .query_row(
            "SELECT id, sampled_ms, model_version FROM samples ORDER BY id DESC LIMIT 1",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, from_sql(row.get(2)?))),
        )
        .optional()
        .map_err(|error| reaction(&error))
}

/// Writes a sample, and deletes the oldest of its tier beyond the number kept.
pub(super) fn write(connection: &Connection, sample: &Sample) -> Result<()> {
    let before = newest(connection)?;
    let id = before.map_or(1, |(id, ..)| id + 1);
    let tier = tier(before.map(|(_, before_ms, _)| before_ms), sample.sampled_ms);
    execute(
        connection,
        "INSERT INTO samples(id, sampled_ms, tier, model_version, score, accuracy)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            id,
            sample.sampled_ms,
            to_sql(tier as u64),
            to_sql(sample.model_version),
            sample.score,
            sample.accuracy
        ],
    )?;
    for subject in &sample.subjects {
        let rows: Vec<(&str, u64, f64)> =
            subject.agents.iter().map(|a| (&*a.agent, a.executions, a.best)).collect();
        let agents = serde_json::to_string(&rows).expect("names and numbers have a JSON form");
        let [p50, p95, p99] = subject.latencies_ms.map_or([None; 3], |all| all.map(Some));
        execute(
            connection,
            "INSERT INTO agent_samples(tenant, task_type, sample_id, executions, latency_p50_ms,
                                       latency_p95_ms, latency_p99_ms, agents)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                subject.tenant,
                subject.task_type.as_deref().unwrap_or_default(),
                id,
                to_sql(subject.executions),
                p50,
                p95,
                p99,
                agents
            ],
        )?;
    }
    execute(
        connection,
        "DELETE FROM samples WHERE tier = ?1 AND id <=
            (SELECT id FROM samples WHERE tier = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
        params![to_sql(tier as u64), to_sql(KEPT[tier])],
    )?;
    Ok(())
}

/// All between these times (Unix, ms) in the order in which they were taken, without their subjects.
pub(super) fn list(connection: &Connection, from_ms: i64, to_ms: i64) -> Result<Vec<Sample>> {
    query(
        connection,
        "SELECT sampled_ms, model_version, score, accuracy FROM samples
         WHERE sampled_ms BETWEEN ?1 AND ?2 ORDER BY id",
        [from_ms, to_ms],
        |row| {
            Ok(Sample {
                sampled_ms: row.get(0)?,
                model_version: from_sql(row.get(1)?),
                score: row.get(2)?,
                accuracy: row.get(3)?,
                subjects: Vec::new(),
            })
        },
    )
}

/// A tenant's agents on one task type or on everything together, between these times (Unix, ms), with
/// the time of each, in the order in which they were taken.
pub(super) fn of_subject(
    connection: &Connection,
    tenant: &str,
    task_type: Option<&str>,
    from_ms: i64,
    to_ms: i64,
) -> Result<Vec<(i64, Subject)>> {
    let rows: Vec<(i64, Subject, String)> = query(
        connection,
        "SELECT sampled_ms, executions, latency_p50_ms, latency_p95_ms, latency_p99_ms, agents
         FROM agent_samples JOIN samples ON samples.id = sample_id
         WHERE tenant = ?1 AND task_type = ?2 AND sampled_ms BETWEEN ?3 AND ?4
         ORDER BY sample_id",
        params![tenant, task_type.unwrap_or_default(), from_ms, to_ms],
        |row| {
            let latencies: [Option<f64>; 3] = [row.get(2)?, row.get(3)?, row.get(4)?];
            let subject = Subject {
                tenant: tenant.to_owned(),
                task_type: task_type.map(str::to_owned),
                executions: from_sql(row.get(1)?),
                latencies_ms: match latencies {
                    [Some(p50), Some(p95), Some(p99)] => Some([p50, p95, p99]),
                    _ => None,
                },
                agents: Vec::new(),
            };
            Ok((row.get(0)?, subject, row.get(5)?))
        },
    )?;
    let with_agents = rows.into_iter().map(|(sampled_ms, mut subject, agents)| {
        let agents: Vec<(String, u64, f64)> = serde_json::from_str(&agents)
            .map_err(|error| Error::Corrupt(format!("a sample can't be read: {error}")))?;
        let agents = agents.into_iter();
        subject.agents = agents
            .map(|(agent, executions, best)| AgentSample { agent, executions, best })
            .collect();
        Ok((sampled_ms, subject))
    });
    with_agents.collect()
}

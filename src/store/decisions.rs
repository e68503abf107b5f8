//! Decisions as they are kept: question, choice and answer, and the outcome that came of it.
//!
//! Rows are numbered in the order in which they are written. One that is written stays as it is until
//! it leaves: an id that is given again is answered from it.
//!
//! An outcome that names a decision is joined to it in the transaction that journals the outcome,
//! so it is joined exactly once, whatever crashes or is learned again. The first outcome with a
//! reward that names the agent ranked first is the decision's. One that arrives before its decision
//! waits in `early_outcomes`.
//!
//! `status` tells what was reported: nothing while it is NULL; `cancelled` without an outcome; `pending`
//! while an outcome that is not final waits for the final one; and
//! [`MISSING`] where it was given up, with the control entry as its outcome. What comes after that is kept
//! as `late`.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::bounded::{Rows, Table};
use super::{Store, execute, from_sql, query, reaction, to_sql};
use crate::error::Result;
use crate::model::Control;
use crate::outcome::decisions::{Asked, Candidate, Decision, REMEMBERED_MAX, RequestHash, Waiting};
use crate::outcome::{Context, Feature, IdentityKey, Outcome, Status, TraceId, context_of};
use crate::watch::reporting::Reporting;

pub(super) const SCHEMA: &str = "
CREATE TABLE decisions(
    number INTEGER PRIMARY KEY,
    start_bytes INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    task_type TEXT,
    chosen TEXT,
    score REAL,
    propensity REAL,
    explore INTEGER NOT NULL,
    explored INTEGER NOT NULL,
    model_version INTEGER NOT NULL,
    strategy TEXT NOT NULL,
    outcome_sequence INTEGER,
    outcome_ms INTEGER,
    status TEXT,
    reward REAL,
    latency_ms REAL,
    quality REAL,
    cost REAL,
    request BLOB NOT NULL,
    context TEXT NOT NULL,
    candidates TEXT NOT NULL,
    details TEXT,
    answer TEXT NOT NULL,
    UNIQUE (tenant, id)
) STRICT;
CREATE INDEX decisions_without_outcome ON decisions(created_ms)
    WHERE outcome_sequence IS NULL AND chosen IS NOT NULL;
CREATE TABLE early_outcomes(
    sequence INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    decision TEXT NOT NULL,
    agent TEXT NOT NULL,
    outcome_ms INTEGER NOT NULL,
    status TEXT NOT NULL,
    reward REAL NOT NULL,
    latency_ms REAL,
    quality REAL,
    cost REAL,
    UNIQUE (tenant, decision, agent)
) STRICT;
";

/// Who was chosen and did not report is told without reading a row.
pub(super) const REPORTING_SCHEMA: &str = "
ALTER TABLE decisions ADD COLUMN late TEXT;
DROP INDEX decisions_without_outcome;
CREATE INDEX decisions_without_outcome ON decisions(created_ms)
    WHERE status IS NULL AND chosen IS NOT NULL;
CREATE INDEX decisions_of_agent ON decisions(tenant, chosen, created_ms, status);
";

/// Telemetry finds its decision by the trace that both are part of, and takes it.
pub(super) const TRACES_SCHEMA: &str = "
ALTER TABLE decisions ADD COLUMN trace BLOB;
ALTER TABLE decisions ADD COLUMN span BLOB;
CREATE INDEX decisions_of_trace ON decisions(tenant, trace) WHERE trace IS NOT NULL;
CREATE INDEX decisions_with_span ON decisions(span) WHERE span IS NOT NULL;
";

/// The status of a decision whose outcome never came.
pub const MISSING: &str = "missing";
/// Decisions of a trace for one agent that are looked at.
const OF_TRACE_MAX: u32 = 256;
/// Agents whose decisions are counted at a time; candidates may be made up.
const AGENTS_MAX: usize = 10_000;

pub(super) const TABLE: Table = Table { name: "decisions", key: "number", bytes: "bytes" };
pub(super) const EARLY_TABLE: Table = Table { name: "early_outcomes", key: "sequence", bytes: "0" };

/// A decision as it was recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedDecision {
    /// Counts up in the order of recording.
    pub number: u64,
    /// Its id, unique in the tenant.
    pub id: String,
    /// Whose agents competed.
    pub tenant: String,
    /// Unix time, ms.
    pub created_ms: i64,
    /// The task type of the question.
    pub task_type: Option<String>,
    /// The context of the question.
    pub context: Context,
    /// Who competed.
    pub candidates: Vec<Candidate>,
    /// The agent ranked first; `None` when nobody was known.
    pub chosen: Option<String>,
    /// What it was ranked by.
    pub score: Option<f64>,
    /// The probability of ranking it first then.
    pub propensity: Option<f64>,
    /// The request allowed a draw.
    pub explore: bool,
    /// Without a draw another agent would have been first.
    pub explored: bool,
    /// The journal sequence that the answering snapshot had learned.
    pub model_version: u64,
    /// How agents were ranked.
    pub strategy: String,
    /// What else had a part in the choice.
    pub details: Map<String, Value>,
    /// What came of it.
    pub outcome: Option<JoinedOutcome>,
    /// It was reported as cancelled, which is no outcome.
    pub cancelled: bool,
    /// What came of it after it was given up.
    pub late: Option<JoinedOutcome>,
    /// The trace that the question was part of.
    pub trace: Option<TraceId>,
}

/// What came of a decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JoinedOutcome {
    /// Its place in the journal.
    pub sequence: u64,
    /// Unix time of the event, ms.
    pub time_ms: i64,
    /// How it ended.
    pub status: String,
    /// `0..=1`.
    pub reward: f64,
    /// Milliseconds.
    pub latency_ms: Option<f64>,
    /// `0..=1`.
    pub quality: Option<f64>,
    /// In the user's currency.
    pub cost: Option<f64>,
}

fn context_json(context: &Context) -> Map<String, Value> {
    let value = |feature: &Feature| match feature {
        Feature::Text(text) => Value::from(text.as_str()),
        Feature::Bool(yes) => Value::from(*yes),
        Feature::Number(number) => Value::from(*number),
    };
    context.iter().map(|(key, feature)| (key.clone(), value(feature))).collect()
}

/// Inserts decisions with numbers up to `last_number`, joins them with outcomes that came early, then
/// deletes what is beyond the bounds. Returns how many were joined.
pub(super) fn insert(
    connection: &Connection,
    decisions: &[Waiting],
    last_number: u64,
    rows: &mut Rows,
    early: &mut Rows,
) -> Result<u64> {
    if decisions.is_empty() {
        return Ok(0);
    }
    let first_number = last_number + 1 - decisions.len() as u64;
    for (number, waiting) in (first_number..).zip(decisions) {
        // One that is recorded already stands, with the outcome that it has.
        if insert_one(connection, waiting, number)? {
            rows.inserted(&waiting.tenant, waiting.bytes() as u64);
        }
    }
    let joined = join_early(connection, first_number, early)?;
    rows.prune(connection)?;
    Ok(joined)
}

/// Whether there was none with this id.
fn insert_one(connection: &Connection, waiting: &Waiting, number: u64) -> Result<bool> {
    let Waiting { tenant, id, decision, choice } = waiting;
    let first = choice.first.as_ref();
    let inserted = execute(
        connection,
        // OR REPLACE would have every statement prepared for its own undoing.
        "INSERT OR IGNORE INTO decisions(number, bytes, tenant, id, created_ms, task_type,
             chosen, score, propensity, explore, explored, model_version, strategy, request,
             context, candidates, details, answer, trace)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18,
             ?19)",
        params![
            to_sql(number),
            to_sql(waiting.bytes() as u64),
            tenant,
            id,
            choice.created_ms,
            decision.task_type,
            first.map(|first| &*first.agent),
            first.map(|first| first.score),
            first.map(|first| first.propensity),
            choice.explore,
            choice.explored,
            to_sql(choice.model_version),
            choice.strategy,
            decision.request,
            Value::Object(context_json(&decision.context)).to_string(),
            &*choice.candidates,
            choice.details,
            // It is JSON of our own.
            str::from_utf8(&decision.answer).unwrap_or_default(),
            choice.trace,
        ],
    )?;
    Ok(inserted > 0)
}

/// Joins decisions from `first_number` on with outcomes that came before them.
fn join_early(connection: &Connection, first_number: u64, early: &mut Rows) -> Result<u64> {
    if early.is_empty() {
        return Ok(0);
    }
    let joined = execute(
        connection,
        "UPDATE decisions SET outcome_sequence = early.sequence, outcome_ms = early.outcome_ms,
             status = early.status, reward = early.reward, latency_ms = early.latency_ms,
             quality = early.quality, cost = early.cost
         FROM early_outcomes AS early
         WHERE decisions.number >= ?1 AND early.tenant = decisions.tenant
             AND early.decision = decisions.id AND early.agent = decisions.chosen",
        [to_sql(first_number)],
    )?;
    let used: Vec<(String, u64)> = query(
        connection,
        "SELECT early.tenant, early.sequence FROM decisions JOIN early_outcomes AS early
             ON early.tenant = decisions.tenant AND early.decision = decisions.id
         WHERE decisions.number >= ?1",
        [to_sql(first_number)],
        |row| Ok((row.get(0)?, from_sql(row.get(1)?))),
    )?;
    for (tenant, sequence) in used {
        execute(connection, "DELETE FROM early_outcomes WHERE sequence = ?1", [to_sql(sequence)])?;
        early.deleted(&tenant, 0);
    }
    Ok(joined as u64)
}

/// Joins outcomes, the first of them journaled at `first_sequence`, with the decisions they name.
/// Returns how many were joined.
pub(super) fn join(
    connection: &Connection,
    outcomes: &[Outcome],
    first_sequence: u64,
    early: &mut Rows,
) -> Result<u64> {
    let mut joined = 0;
    for (sequence, outcome) in (first_sequence..).zip(outcomes) {
        let Some(decision) = &outcome.decision else { continue };
        if outcome.trace.is_some() {
            let Outcome { tenant, agent, identity, .. } = outcome;
            take(connection, tenant, decision.id(), agent, *identity)?;
        }
        let Some(reward) = outcome.reward() else {
            if outcome.status == Status::Cancelled {
                mark(connection, outcome, decision.id(), outcome.status)?;
            } else if outcome.attempt.is_none_or(|attempt| attempt.is_final) {
                // Where a verdict on it finds what it judges.
                execute(
                    connection,
                    "UPDATE decisions SET pending_sequence = ?1
                     WHERE tenant = ?2 AND id = ?3 AND chosen = ?4 AND outcome_sequence IS NULL",
                    params![to_sql(sequence), outcome.tenant, decision.id(), outcome.agent],
                )?;
            }
            continue;
        };
        let Outcome { tenant, agent, latency_ms, quality, cost, time_ms, .. } = outcome;
        let (sequence, status) = (to_sql(sequence), outcome.status.as_str());
        let updated = execute(
            connection,
            "UPDATE decisions SET outcome_sequence = ?1, outcome_ms = ?2, status = ?3, reward = ?4,
                 latency_ms = ?5, quality = ?6, cost = ?7
             WHERE tenant = ?8 AND id = ?9 AND chosen = ?10 AND outcome_sequence IS NULL",
            params![
                sequence,
                time_ms,
                status,
                reward,
                latency_ms,
                quality,
                cost,
                tenant,
                decision.id(),
                agent
            ],
        )?;
        joined += updated as u64;
        if updated == 0 {
            // Of a decision that is there it is another agent's, or a later one.
            let inserted = execute(
                connection,
                "INSERT OR IGNORE INTO early_outcomes(sequence, tenant, decision, agent, outcome_ms,
                     status, reward, latency_ms, quality, cost)
                 SELECT ?1, ?8, ?9, ?10, ?2, ?3, ?4, ?5, ?6, ?7
                 WHERE NOT EXISTS (SELECT 1 FROM decisions WHERE tenant = ?8 AND id = ?9)",
                params![
                    sequence, time_ms, status, reward, latency_ms, quality, cost, tenant,
                    decision.id(), agent
                ],
            )?;
            if inserted > 0 {
                early.inserted(tenant, 0);
            }
        }
    }
    early.prune(connection)?;
    Ok(joined)
}

/// A decision, as outcomes look for theirs among those of one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// Its id.
    pub id: String,
    /// Unix time, ms.
    pub created_ms: i64,
    /// Its agent has reported, if not for the last time.
    pub is_reported: bool,
    /// It has reported, and a verdict, or the final outcome, is still to come.
    pub is_pending: bool,
    /// It was given up: what is reported for it teaches nothing.
    pub is_given_up: bool,
    /// The telemetry that has taken it.
    pub span: Option<IdentityKey>,
}

/// Telemetry of an execution whose outcome was reported otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Whose decision.
    pub tenant: String,
    /// Its id.
    pub decision: String,
    /// Who was chosen.
    pub agent: String,
    /// By which telemetry.
    pub span: IdentityKey,
}

/// Notes which telemetry is of a decision; the first of each.
fn take(
    connection: &Connection,
    tenant: &str,
    decision: &str,
    agent: &str,
    span: IdentityKey,
) -> Result<()> {
    execute(
        connection,
        "UPDATE decisions SET span = ?1
         WHERE tenant = ?2 AND id = ?3 AND chosen = ?4 AND span IS NULL",
        params![span, tenant, decision, agent],
    )?;
    Ok(())
}

/// The same for telemetry that is not journaled.
pub(super) fn take_all(connection: &Connection, taken: &[Taken]) -> Result<()> {
    let mut taken = taken.iter();
    taken.try_for_each(|Taken { tenant, decision, agent, span }| {
        take(connection, tenant, decision, agent, *span)
    })
}

/// Whether telemetry has ever taken a decision that is kept.
pub(super) fn have_spans(connection: &Connection) -> Result<bool> {
    let found: Vec<i64> =
        query(connection, "SELECT 1 FROM decisions WHERE span IS NOT NULL LIMIT 1", [], |row| {
            row.get(0)
        })?;
    Ok(!found.is_empty())
}

/// Whether the decision that an outcome names has its outcome already. One of an item is not known to
/// be of the same execution.
pub(super) fn is_answered(connection: &Connection, outcome: &Outcome) -> Result<bool> {
    let of_item = outcome.attempt.is_some_and(|attempt| attempt.of_item);
    let Some(decision) = outcome.decision.as_ref().filter(|_| !of_item) else { return Ok(false) };
    let found: Vec<i64> = query(
        connection,
        "SELECT 1 FROM decisions
         WHERE tenant = ?1 AND id = ?2 AND chosen = ?3 AND outcome_sequence IS NOT NULL",
        [&outcome.tenant, decision.id(), &outcome.agent],
        |row| row.get(0),
    )?;
    Ok(!found.is_empty())
}

/// The agent of a decision has reported, if not for the last time.
pub(super) fn mark_pending(connection: &Connection, outcome: &Outcome) -> Result<()> {
    match &outcome.decision {
        Some(decision) => mark(connection, outcome, decision.id(), Status::Pending),
        None => Ok(()),
    }
}

/// Its agent has reported, although nothing can be learned from it.
fn mark(connection: &Connection, outcome: &Outcome, decision: &str, status: Status) -> Result<()> {
    execute(
        connection,
        "UPDATE decisions SET status = ?1
         WHERE tenant = ?2 AND id = ?3 AND chosen = ?4 AND (status IS NULL OR status = ?5)",
        [status.as_str(), &outcome.tenant, decision, &outcome.agent, Status::Pending.as_str()],
    )?;
    Ok(())
}

/// An outcome that came after its decision was given up.
#[derive(Debug, Clone, PartialEq)]
pub struct Late {
    /// Its place among the outcomes of the transaction, where it teaches nothing.
    pub place: usize,
    /// As it came.
    pub outcome: Outcome,
}

/// Keeps late outcomes, those of a transaction whose first was journaled at `first_sequence`, with the
/// decisions that they name; the first of each.
pub(super) fn keep_late(connection: &Connection, late: &[Late], first_sequence: u64) -> Result<()> {
    for Late { place, outcome } in late {
        let Some(decision) = &outcome.decision else { continue };
        let kept = JoinedOutcome {
            sequence: first_sequence + *place as u64,
            time_ms: outcome.time_ms,
            status: outcome.status.as_str().to_owned(),
            reward: outcome.reward().unwrap_or(0.0),
            latency_ms: outcome.latency_ms,
            quality: outcome.quality,
            cost: outcome.cost,
        };
        let json = serde_json::to_string(&kept).expect("numbers and a name have a JSON form");
        execute(
            connection,
            "UPDATE decisions SET late = ?1
             WHERE tenant = ?2 AND id = ?3 AND chosen = ?4 AND status = ?5 AND late IS NULL",
            [&json, &outcome.tenant, decision.id(), &outcome.agent, MISSING],
        )?;
    }
    Ok(())
}

/// Marks the decisions that are given up, the first of them by the journal entry `first_sequence`.
pub(super) fn give_up(
    connection: &Connection,
    controls: &[Control],
    first_sequence: u64,
    now_ms: i64,
) -> Result<()> {
    for (sequence, control) in (first_sequence..).zip(controls) {
        if let Control::DecisionMissing { tenant, decision_id, agent, .. } = control {
            execute(
                connection,
                "UPDATE decisions SET status = ?1, outcome_sequence = ?2, outcome_ms = ?3,
                     reward = 0.0
                 WHERE tenant = ?4 AND id = ?5 AND chosen = ?6 AND status IS NULL",
                params![MISSING, to_sql(sequence), now_ms, tenant, decision_id, agent],
            )?;
        }
    }
    Ok(())
}

impl Store {
    /// Decisions made before `before_ms` of which nothing was reported, oldest first, as the control
    /// entries that give them up.
    ///
    /// # Errors
    /// [`crate::Error::Unavailable`] when the database can't be read now.
    pub fn unreported(&self, before_ms: i64, limit: u32) -> Result<Vec<Control>> {
        query(
            &self.connection,
            "SELECT tenant, id, chosen, task_type, context FROM decisions
             WHERE status IS NULL AND chosen IS NOT NULL AND created_ms < ?1
             ORDER BY created_ms LIMIT ?2",
            params![before_ms, limit],
            |row| {
                Ok(Control::DecisionMissing {
                    tenant: row.get(0)?,
                    decision_id: row.get(1)?,
                    agent: row.get(2)?,
                    task_type: row.get(3)?,
                    context: context_of(&json_of(&row.get::<_, String>(4)?)),
                })
            },
        )
    }

    /// Whether this decision, which chose this agent, was given up.
    ///
    /// # Errors
    /// [`crate::Error::Unavailable`] when the database can't be read now.
    pub fn is_given_up(&self, tenant: &str, id: &str, agent: &str) -> Result<bool> {
        let found: Vec<i64> = query(
            &self.connection,
            "SELECT 1 FROM decisions WHERE tenant = ?1 AND id = ?2 AND chosen = ?3 AND status = ?4",
            [tenant, id, agent, MISSING],
            |row| row.get(0),
        )?;
        Ok(!found.is_empty())
    }

    /// The decisions of a trace that chose this agent, newest first.
    ///
    /// # Errors
    /// [`crate::Error::Unavailable`] when the database can't be read now.
    pub fn of_trace(&self, tenant: &str, trace: TraceId, agent: &str) -> Result<Vec<Open>> {
        query(
            &self.connection,
            "SELECT id, created_ms, coalesce(status <> ?4, 0) OR late IS NOT NULL, span,
                 coalesce(status = ?6, 0), coalesce(status = ?4, 0)
             FROM decisions WHERE tenant = ?1 AND trace = ?2 AND chosen = ?3
             ORDER BY created_ms DESC, number DESC LIMIT ?5",
            params![tenant, trace, agent, MISSING, OF_TRACE_MAX, Status::Pending.as_str()],
            open,
        )
    }

    /// The decision with this id, if it chose this agent.
    ///
    /// # Errors
    /// [`crate::Error::Unavailable`] when the database can't be read now.
    pub fn open_decision(&self, tenant: &str, id: &str, agent: &str) -> Result<Option<Open>> {
        let found = query(
            &self.connection,
            "SELECT id, created_ms, coalesce(status <> ?4, 0) OR late IS NOT NULL, span,
                 coalesce(status = ?5, 0), coalesce(status = ?4, 0)
             FROM decisions WHERE tenant = ?1 AND id = ?2 AND chosen = ?3",
            [tenant, id, agent, MISSING, Status::Pending.as_str()],
            open,
        )?;
        Ok(found.into_iter().next())
    }

    /// Telemetry may have taken decisions.
    pub fn has_spans(&self) -> bool {
        self.has_spans
    }

    /// What was asked in a recorded decision.
    ///
    /// # Errors
    /// [`crate::Error::Unavailable`] when the database can't be read now.
    pub fn asked(&self, tenant: &str, id: &str) -> Result<Option<Asked>> {
        asked(&self.connection, tenant, id)
    }

    /// The newest decisions, as many as are remembered, oldest first, each with its tenant and id.
    ///
    /// # Errors
    /// [`crate::Error::Unavailable`] when the database can't be read now.
    pub fn decisions(&self) -> Result<Vec<(String, String, Decision)>> {
        let mut decisions = query(
            &self.connection,
            "SELECT tenant, id, task_type, context, request, answer FROM decisions
             ORDER BY number DESC LIMIT ?1",
            [to_sql(REMEMBERED_MAX as u64)],
            |row| Ok((row.get(0)?, row.get(1)?, remembered(row, 2)?)),
        )?;
        decisions.reverse();
        Ok(decisions)
    }
}

fn open(row: &Row<'_>) -> rusqlite::Result<Open> {
    Ok(Open {
        id: row.get(0)?,
        created_ms: row.get(1)?,
        is_reported: row.get(2)?,
        span: row.get(3)?,
        is_pending: row.get(4)?,
        is_given_up: row.get(5)?,
    })
}

/// What was asked in a decision.
pub(super) fn asked(connection: &Connection, tenant: &str, id: &str) -> Result<Option<Asked>> {
    connection
        .prepare_cached("SELECT task_type, context FROM decisions WHERE tenant = ?1 AND id = ?2")
        .and_then(|mut statement| {
            let read = |row: &Row<'_>| {
                let context = context_of(&json_of(&row.get::<_, String>(1)?));
                Ok(Asked { task_type: row.get(0)?, context })
            };
            statement.query_row([tenant, id], read).optional()
        })
        .map_err(|error| reaction(&error))
}

/// A decision as it is remembered.
pub(super) fn answered(
    connection: &Connection,
    tenant: &str,
    id: &str,
) -> Result<Option<Decision>> {
    connection
        .prepare_cached(
            "SELECT task_type, context, request, answer FROM decisions
             WHERE tenant = ?1 AND id = ?2",
        )
        .and_then(|mut statement| {
            statement.query_row([tenant, id], |row| remembered(row, 0)).optional()
        })
        .map_err(|error| reaction(&error))
}

/// From the columns task type, context, request, answer, the first of them at `at`.
fn remembered(row: &Row<'_>, at: usize) -> rusqlite::Result<Decision> {
    Ok(Decision {
        task_type: row.get(at)?,
        context: context_of(&json_of(&row.get::<_, String>(at + 1)?)),
        request: row.get::<_, RequestHash>(at + 2)?,
        answer: row.get::<_, String>(at + 3)?.into_bytes(),
    })
}

const SELECT: &str = "
    SELECT number, tenant, id, created_ms, task_type, context, candidates, chosen, score,
           propensity, explore, explored, model_version, strategy, details, outcome_sequence,
           outcome_ms, status, reward, latency_ms, quality, cost, late, trace
    FROM decisions";

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(Value::Null)
}

fn read(row: &Row<'_>) -> rusqlite::Result<RecordedDecision> {
    let candidates: Vec<(String, f64, f64)> =
        serde_json::from_str(&row.get::<_, String>(6)?).unwrap_or_default();
    let candidates = candidates.into_iter().map(|(agent, expected_success, propensity)| {
        Candidate { agent, expected_success, propensity }
    });
    let details = row.get::<_, Option<String>>(14)?.map(|text| json_of(&text));
    let late: Option<String> = row.get(22)?;
    let outcome = match row.get::<_, Option<i64>>(15)? {
        None => None,
        Some(sequence) => Some(JoinedOutcome {
            sequence: from_sql(sequence),
            time_ms: row.get(16)?,
            status: row.get(17)?,
            reward: row.get(18)?,
            latency_ms: row.get(19)?,
            quality: row.get(20)?,
            cost: row.get(21)?,
        }),
    };
    Ok(RecordedDecision {
        number: from_sql(row.get(0)?),
        tenant: row.get(1)?,
        id: row.get(2)?,
        created_ms: row.get(3)?,
        task_type: row.get(4)?,
        context: context_of(&json_of(&row.get::<_, String>(5)?)),
        candidates: candidates.collect(),
        chosen: row.get(7)?,
        score: row.get(8)?,
        propensity: row.get(9)?,
        explore: row.get(10)?,
        explored: row.get(11)?,
        model_version: from_sql(row.get(12)?),
        strategy: row.get(13)?,
        details: match details {
            Some(Value::Object(details)) => details,
            _ => Map::new(),
        },
        cancelled: outcome.is_none()
            && row.get::<_, Option<String>>(17)?.as_deref() == Some(Status::Cancelled.as_str()),
        outcome,
        late: late.and_then(|json| serde_json::from_str(&json).ok()),
        trace: row.get(23)?,
    })
}

/// A tenant's decisions, newest first, those with a number below `before`.
pub(super) fn list(
    connection: &Connection,
    tenant: &str,
    before: Option<u64>,
    limit: u32,
) -> Result<Vec<RecordedDecision>> {
    query(
        connection,
        &format!(
            "{SELECT} WHERE tenant = ?1 AND (?2 IS NULL OR number < ?2)
             ORDER BY number DESC LIMIT ?3"
        ),
        params![tenant, before.map(to_sql), limit],
        read,
    )
}

/// A tenant's decisions with a number above `after`, made at `since_ms` or later, that chose somebody, in
/// order.
pub(super) fn choices(
    connection: &Connection,
    tenant: &str,
    after: u64,
    since_ms: i64,
    limit: u32,
) -> Result<Vec<RecordedDecision>> {
    query(
        connection,
        &format!(
            "{SELECT} WHERE number > ?1 AND tenant = ?2 AND created_ms >= ?3
                 AND chosen IS NOT NULL ORDER BY number LIMIT ?4"
        ),
        params![to_sql(after), tenant, since_ms, limit],
        read,
    )
}

/// A decision and its answer.
pub(super) fn by_id(
    connection: &Connection,
    tenant: &str,
    id: &str,
) -> Result<Option<(RecordedDecision, String)>> {
    let select = SELECT.replace("FROM decisions", ", answer FROM decisions");
    connection
        .prepare_cached(&format!("{select} WHERE tenant = ?1 AND id = ?2"))
        .and_then(|mut statement| {
            statement.query_row([tenant, id], |row| Ok((read(row)?, row.get(24)?))).optional()
        })
        .map_err(|error| reaction(&error))
}

/// How many decisions made before `before_ms` have no outcome.
pub(super) fn without_outcome(connection: &Connection, before_ms: i64) -> Result<u64> {
    let counts = query(
        connection,
        "SELECT count(*) FROM decisions
         WHERE status IS NULL AND chosen IS NOT NULL AND created_ms < ?1",
        [before_ms],
        |row| row.get(0).map(from_sql),
    )?;
    Ok(counts.into_iter().next().unwrap_or(0))
}

/// Who reports on the newest decisions for an agent of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentReporting {
    /// Whose.
    pub tenant: String,
    /// Who was chosen.
    pub agent: String,
    /// What is known.
    pub reporting: Reporting,
}

/// Of each agent that was ranked first (of `tenant`, if one is given) the `newest` decisions made before
/// `waited_since_ms`, and as many after that; by tenant and agent.
pub(super) fn reporting(
    connection: &Connection,
    tenant: Option<&str>,
    waited_since_ms: i64,
    newest: u32,
) -> Result<Vec<AgentReporting>> {
    let mut all = Vec::new();
    let (mut after_tenant, mut after_agent) =
        (tenant.unwrap_or_default().to_owned(), String::new());
    while all.len() < AGENTS_MAX {
        // From one agent to the next, and not through all that was decided.
        let next: Vec<(String, String)> = query(
            connection,
            "SELECT tenant, chosen FROM decisions
             WHERE (tenant, chosen) > (?1, ?2) AND chosen IS NOT NULL
             ORDER BY tenant, chosen LIMIT 1",
            [&after_tenant, &after_agent],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let Some((of, agent)) = next.into_iter().next() else { break };
        if tenant.is_some_and(|tenant| tenant != of) {
            break;
        }
        let count = |condition: &str| -> Result<(u64, u64)> {
            let counts = query(
                connection,
                &format!(
                    "SELECT count(*), coalesce(sum(status IS NULL OR status = ?5), 0) FROM (
                         SELECT status FROM decisions
                         WHERE tenant = ?1 AND chosen = ?2 AND {condition}
                         ORDER BY created_ms DESC LIMIT ?4)"
                ),
                params![of, agent, waited_since_ms, newest, MISSING],
                |row| Ok((from_sql(row.get(0)?), from_sql(row.get(1)?))),
            )?;
            Ok(counts.into_iter().next().unwrap_or_default())
        };
        let (decisions, missing) = count("created_ms < ?3")?;
        let (waiting, _) = count("created_ms >= ?3 AND status IS NULL")?;
        let reporting = Reporting { decisions, missing, waiting };
        all.push(AgentReporting { tenant: of.clone(), agent: agent.clone(), reporting });
        (after_tenant, after_agent) = (of, agent);
    }
    Ok(all)
}

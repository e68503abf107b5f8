//! Lists for people and pages, read beside the writer by a few read-only connections.

use std::path::{Path, PathBuf};

use crossbeam_channel::{Receiver, Sender, bounded};
use rusqlite::{Connection, params};

use super::events::LearningEvent;
use super::{
    AgentReporting, DATABASE_FILE, DeadLetter, ModelVersion, Position, RecordedDecision, alerts,
    dead_letters, decisions, from_sql, open_read_only, padded_id, query, samples, versions,
};
use crate::error::{Error, Result};
use crate::outcome::decisions::{Asked, Decision};
use crate::watch::alerts::Alert;
use crate::watch::samples::{Sample, Subject};

/// Connections in the pool: each request runs one short statement.
const READERS: usize = 4;

/// The reading end of the state directory, for any number of threads.
pub struct Reader {
    database: PathBuf,
    /// Places in the pool; a connection is opened when a place is first used.
    idle: (Sender<Option<Connection>>, Receiver<Option<Connection>>),
}

impl Reader {
    /// A reader of the database in `directory`, which must exist by the first call.
    pub fn new(directory: &Path) -> Self {
        let idle = bounded(READERS);
        for _ in 0..READERS {
            // The channel has a place for each.
            let _ = idle.0.send(None);
        }
        Self { database: directory.join(DATABASE_FILE), idle }
    }

    /// Where the database and the model files are.
    pub fn directory(&self) -> &Path {
        self.database.parent().unwrap_or(Path::new("."))
    }

    fn with<T>(&self, read: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let place = self
            .idle
            .1
            .recv_timeout(super::BUSY_TIMEOUT)
            .map_err(|_| Error::Unavailable("too many lists are being read".to_owned()))?;
        let opened = match place {
            Some(connection) => Ok(connection),
            None => open_read_only(&self.database),
        };
        let result = opened.and_then(|connection| {
            let result = read(&connection);
            Ok((result?, connection))
        });
        let (result, place) = match result {
            Ok((value, connection)) => (Ok(value), Some(connection)),
            // A connection that failed is not used again.
            Err(error) => (Err(error), None),
        };
        let _ = self.idle.0.send(place);
        result
    }

    /// A model type's versions, newest first, those before the version number `before`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now.
    pub fn versions(
        &self,
        model_type: &str,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<ModelVersion>> {
        self.with(|connection| versions::list(connection, model_type, before, limit))
    }

    /// A version by its id.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now.
    pub fn version(&self, id: &str) -> Result<Option<ModelVersion>> {
        self.with(|connection| versions::by_id(connection, id))
    }

    /// Learning events, newest first, those before the id `before`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now.
    pub fn learning_events(&self, before: Option<u64>, limit: u32) -> Result<Vec<LearningEvent>> {
        self.with(|connection| {
            query(
                connection,
                "SELECT id, model_version_id, event_type, batch_size, samples_processed,
                        metrics_before, metrics_after, improvement, duration_ms, created_at
                 FROM learning_events WHERE ?1 IS NULL OR id < ?1 ORDER BY id DESC LIMIT ?2",
                params![before.map(padded_id), limit],
                |row| {
                    Ok(LearningEvent {
                        id: row.get(0)?,
                        model_version_id: row.get(1)?,
                        event_type: row.get(2)?,
                        batch_size: from_sql(row.get(3)?),
                        samples_processed: from_sql(row.get(4)?),
                        metrics_before: row.get::<_, String>(5)?.into(),
                        metrics_after: row.get::<_, String>(6)?.into(),
                        improvement: row.get(7)?,
                        duration_ms: row.get(8)?,
                        created_at: row.get(9)?,
                    })
                },
            )
        })
    }

    /// Dead letters, newest first, those before the id `before`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now.
    pub fn dead_letters(&self, before: Option<u64>, limit: u32) -> Result<Vec<DeadLetter>> {
        let before = before.map(padded_id);
        self.with(|connection| dead_letters::list(connection, before.as_deref(), limit))
    }

    /// Dead letters after the one with this number, oldest first.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now.
    pub fn dead_letters_after(&self, number: u64, limit: u32) -> Result<Vec<DeadLetter>> {
        self.with(|connection| dead_letters::list_after(connection, &padded_id(number), limit))
    }

    /// Alerts that fire and did, oldest first.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now.
    pub fn alerts(&self) -> Result<Vec<Alert>> {
        self.with(alerts::list)
    }

    /// The changes of alerts that are still to be sent to a channel, a place in
    /// [`crate::watch::instruments::CHANNELS`], in the order in which they came about.
    ///
    /// # Errors
    /// As [`Reader::alerts`].
    pub fn unsent_alerts(&self, channel: usize) -> Result<Vec<Alert>> {
        self.with(|connection| alerts::unsent(connection, channel))
    }

    /// Time (Unix, ms) and model version of the newest sample.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now.
    pub fn newest_sample(&self) -> Result<Option<(i64, u64)>> {
        let newest = self.with(samples::newest)?;
        Ok(newest.map(|(_, sampled_ms, model_version)| (sampled_ms, model_version)))
    }

    /// The samples between these times (Unix, ms) in the order in which they were taken, without their
    /// subjects.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now.
    pub fn samples(&self, from_ms: i64, to_ms: i64) -> Result<Vec<Sample>> {
        self.with(|connection| samples::list(connection, from_ms, to_ms))
    }

    /// A tenant's agents on one task type, or on everything together, likewise, with the time of each
    /// sample (Unix, ms).
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now.
    pub fn samples_of(
        &self,
        tenant: &str,
        task_type: Option<&str>,
        from_ms: i64,
        to_ms: i64,
    ) -> Result<Vec<(i64, Subject)>> {
        self.with(|connection| samples::of_subject(connection, tenant, task_type, from_ms, to_ms))
    }

    /// How far the sources have been read.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now.
    pub fn positions(&self) -> Result<Vec<Position>> {
        self.with(super::journal::positions)
    }

    /// A dead letter by its id.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now.
    pub fn dead_letter(&self, id: &str) -> Result<Option<DeadLetter>> {
        self.with(|connection| dead_letters::by_id(connection, id))
    }

    /// The ids of all dead letters, oldest first.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now.
    pub fn dead_letter_ids(&self) -> Result<Vec<String>> {
        self.with(dead_letters::ids)
    }

    /// A tenant's decisions, newest first, those before the number `before`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now.
    pub fn decisions(
        &self,
        tenant: &str,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<RecordedDecision>> {
        self.with(|connection| decisions::list(connection, tenant, before, limit))
    }

    /// A decision by its id, and the answer's body.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now.
    pub fn decision(&self, tenant: &str, id: &str) -> Result<Option<(RecordedDecision, String)>> {
        self.with(|connection| decisions::by_id(connection, tenant, id))
    }

    /// What was asked in a recorded decision.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now.
    pub fn asked(&self, tenant: &str, id: &str) -> Result<Option<Asked>> {
        self.with(|connection| decisions::asked(connection, tenant, id))
    }

    /// A recorded decision as it would be remembered.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now.
    pub fn answered(&self, tenant: &str, id: &str) -> Result<Option<Decision>> {
        self.with(|connection| decisions::answered(connection, tenant, id))
    }

    /// A tenant's decisions with a number above `after`, made at `since_ms` or later, that chose
    /// somebody, in order.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now.
    pub fn choices(
        &self,
        tenant: &str,
        after: u64,
        since_ms: i64,
        limit: u32,
    ) -> Result<Vec<RecordedDecision>> {
        self.with(|connection| decisions::choices(connection, tenant, after, since_ms, limit))
    }

    /// Who reports on the `newest` decisions that should have an outcome, those made before
    /// `waited_since_ms`: of each agent, of `tenant` or of all.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now.
    pub fn reporting(
        &self,
        tenant: Option<&str>,
        waited_since_ms: i64,
        newest: u32,
    ) -> Result<Vec<AgentReporting>> {
        self.with(|connection| decisions::reporting(connection, tenant, waited_since_ms, newest))
    }

    /// How many decisions made before `before_ms` still have no outcome.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now.
    pub fn decisions_without_outcome(&self, before_ms: i64) -> Result<u64> {
        self.with(|connection| decisions::without_outcome(connection, before_ms))
    }
}

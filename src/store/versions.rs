//! Saved versions of the models, checkpoints, and from where a restart goes on.
//!
//! A save writes one file for all models and one row per model type. A *version* is what an
//! operator lists and activates; a *checkpoint* is the same file without rows in the list, there
//! only to make the next start fast. An activation adds rows that name the activated version's
//! file. All three are restart points.

use rusqlite::{Connection, OptionalExtension, params};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Counters, Store, Synchronous, commit,
    events::{LearningEvent, insert_events},
    execute, from_sql, query, reaction, to_sql, write,
};
use crate::error::Result;

/// Checkpoints kept.
const CHECKPOINTS_KEPT: u64 = 2;
/// Rows of archived versions kept for the record.
const ARCHIVED_ROWS_KEPT: u64 = 1_000;

/// Where a version stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VersionStatus {
    /// Its file is being written.
    Training,
    /// The newest one.
    Active,
    /// An older one, which can be activated.
    Deprecated,
    /// Its file is gone.
    Archived,
}

impl VersionStatus {
    fn as_str(self) -> &'static str {
        match self {
            Self::Training => "training",
            Self::Active => "active",
            Self::Deprecated => "deprecated",
            Self::Archived => "archived",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Training, Self::Active, Self::Deprecated, Self::Archived]
            .into_iter()
            .find(|status| status.as_str() == text)
    }
}

/// One row of `model_versions`.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct ModelVersion {
    /// `<model_type>-<version_number>`.
    pub id: String,
    /// Such as `agent_selection`.
    pub model_type: String,
    /// Counts up; never used twice.
    pub version_number: u64,
    /// Where it stands.
    pub status: VersionStatus,
    /// The settings it was learned with.
    pub parameters: serde_json::Value,
    /// What was known of its quality when it was saved.
    pub metrics: serde_json::Value,
    /// Name of its file in the state directory.
    pub model_file_path: String,
    /// RFC 3339.
    #[schemars(extend("format" = "date-time"))]
    pub created_at: String,
    /// Outcomes learned.
    pub training_samples: u64,
    /// The version it was learned from, or activated from.
    pub parent_version: Option<String>,
    /// The journal entry up to which the state holds.
    pub learned_sequence: u64,
    /// SHA-256 of the state in the file; `None` while it is written.
    pub digest: Option<String>,
}

impl ModelVersion {
    /// The id of a model type's version.
    pub fn id_of(model_type: &str, version_number: u64) -> String {
        format!("{model_type}-{version_number}")
    }
}

/// A saved state from which a restart can go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartPoint {
    /// The journal entry up to which it holds.
    pub learned_sequence: u64,
    /// Name of its file in the state directory.
    pub model_file_path: String,
    /// SHA-256 of the state in the file.
    pub digest: String,
}

const RESTART_POINTS: &str = "
    SELECT learned_sequence, model_file_path, digest FROM checkpoints
    UNION
    SELECT learned_sequence, model_file_path, digest FROM model_versions
    WHERE status IN ('active', 'deprecated') AND digest IS NOT NULL
    ORDER BY learned_sequence DESC";

/// The sequence from which the older of the two newest restart points goes on; 0 when there are
/// fewer than two.
pub(super) fn older_restart_sequence(connection: &Connection) -> Result<u64> {
    let points = query(connection, &format!("{RESTART_POINTS} LIMIT 2"), [], |row| row.get(0))?;
    Ok(points.get(1).copied().map_or(0, from_sql))
}

impl Store {
    /// The restart points, newest first.
    ///
    /// # Errors
    /// [`crate::Error::Unavailable`] when the database can't be read now.
    pub fn restart_points(&self) -> Result<Vec<RestartPoint>> {
        query(&self.connection, RESTART_POINTS, [], |row| {
            Ok(RestartPoint {
                learned_sequence: from_sql(row.get(0)?),
                model_file_path: row.get(1)?,
                digest: row.get(2)?,
            })
        })
    }

    /// The version of this model type that is active.
    ///
    /// # Errors
    /// [`crate::Error::Unavailable`] when the database can't be read now.
    pub fn active_version(&self, model_type: &str) -> Result<Option<ModelVersion>> {
        let rows = query(
            &self.connection,
            &format!("{SELECT} WHERE model_type = ?1 AND status = 'active'"),
            [model_type],
            read,
        )?;
        Ok(rows.into_iter().next())
    }

    /// A version by its id.
    ///
    /// # Errors
    /// [`crate::Error::Unavailable`] when the database can't be read now.
    pub fn version(&self, id: &str) -> Result<Option<ModelVersion>> {
        by_id(&self.connection, id)
    }

    /// Announces a save: its rows, as `training`. They are on the disk before its file is, so that
    /// no power loss leaves a file that the database does not know.
    ///
    /// # Errors
    /// [`crate::Error::Unavailable`] when it can be tried again, and nothing has changed.
    pub fn begin_version(&mut self, versions: &[ModelVersion], counters: &Counters) -> Result<()> {
        self.synced(|store| {
            let transaction = write(&store.connection, &store.patience)?;
            insert(&transaction, versions)?;
            counters.store(&transaction)?;
            commit(transaction, &store.place)
        })
    }

    /// Puts all that was committed, and these counters, on the disk: before a file that holds it.
    ///
    /// # Errors
    /// [`crate::Error::Unavailable`] when it can be tried again, and nothing has changed.
    pub fn begin_file(&mut self, counters: &Counters) -> Result<()> {
        self.synced(|store| store.learned(&[], counters))
    }

    /// Commits with a sync of the log, which takes along all that was committed before.
    fn synced(&mut self, commit: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let usual = self.options.synchronous;
        if usual == Synchronous::Full {
            return commit(self);
        }
        let set = |store: &Self, synchronous: Synchronous| {
            let pragma = format!("PRAGMA synchronous = {}", synchronous.as_sql());
            store.connection.execute_batch(&pragma).map_err(|error| reaction(&error))
        };
        set(self, Synchronous::Full)?;
        let committed = commit(self);
        set(self, usual)?;
        committed
    }

    /// Makes the save whose file is written the active one, and lets go of versions beyond the
    /// number kept, deleting their files.
    ///
    /// # Errors
    /// [`crate::Error::Unavailable`] when it can be tried again, and nothing has changed.
    pub fn finish_version(
        &mut self,
        versions: &[ModelVersion],
        event: LearningEvent,
        counters: &Counters,
    ) -> Result<()> {
        let options = self.options;
        let transaction = write(&self.connection, &self.patience)?;
        let before = files(&transaction)?;
        promote(&transaction, versions)?;
        archive(&transaction, options.versions_max)?;
        insert_events(&transaction, &[event], &options)?;
        let unused = unused_files(&transaction, before)?;
        counters.store(&transaction)?;
        commit(transaction, &self.place)?;
        self.delete_files(&unused);
        Ok(())
    }

    /// Takes back the rows of a save that failed, and its file, if that was written.
    ///
    /// # Errors
    /// [`crate::Error::Unavailable`] when it can be tried again, and the rows have not changed.
    pub fn abandon_version(
        &mut self,
        version_number: u64,
        is_written: bool,
        counters: &Counters,
    ) -> Result<()> {
        // First: without its row nobody would know the file. One that was there already is not ours.
        if is_written {
            let written = query(
                &self.connection,
                "SELECT model_file_path FROM model_versions
                 WHERE version_number = ?1 AND status = 'training'",
                [to_sql(version_number)],
                |row| row.get(0),
            )?;
            self.delete_files(&written);
        }
        let transaction = write(&self.connection, &self.patience)?;
        execute(
            &transaction,
            "DELETE FROM model_versions WHERE version_number = ?1 AND status = 'training'",
            [to_sql(version_number)],
        )?;
        counters.store(&transaction)?;
        commit(transaction, &self.place)
    }

    /// Records a checkpoint whose file is written, and lets go of the oldest.
    ///
    /// # Errors
    /// [`crate::Error::Unavailable`] when it can be tried again, and nothing has changed.
    pub fn add_checkpoint(&mut self, point: &RestartPoint, created_at: &str) -> Result<()> {
        let transaction = write(&self.connection, &self.patience)?;
        let before = files(&transaction)?;
        execute(
            &transaction,
            "INSERT INTO checkpoints(learned_sequence, model_file_path, digest, created_at)
             VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT(learned_sequence) DO UPDATE SET
                 model_file_path = excluded.model_file_path, digest = excluded.digest,
                 created_at = excluded.created_at",
            params![
                to_sql(point.learned_sequence),
                point.model_file_path,
                point.digest,
                created_at
            ],
        )?;
        execute(
            &transaction,
            "DELETE FROM checkpoints WHERE learned_sequence NOT IN
                 (SELECT learned_sequence FROM checkpoints ORDER BY learned_sequence DESC LIMIT ?1)",
            [to_sql(CHECKPOINTS_KEPT)],
        )?;
        let unused = unused_files(&transaction, before)?;
        commit(transaction, &self.place)?;
        self.delete_files(&unused);
        Ok(())
    }

    /// Deletes model files that nothing names any more; one that stays is only reported.
    pub(super) fn delete_files(&self, names: &[String]) {
        for name in names {
            if let Err(error) = std::fs::remove_file(self.directory.join(name))
                && error.kind() != std::io::ErrorKind::NotFound
            {
                log::warn!("file={name} delete=failed error=\"{error}\"");
            }
        }
    }

    /// A save that a crash cut short left its rows behind, or a file that is not deleted yet: rows
    /// never become a version, and files go. What no row tells to be ours stays, checkpoints aside,
    /// which have no row before their file is written.
    pub(super) fn forget_unfinished_saves(&mut self) -> Result<()> {
        let ours: Vec<String> = query(
            &self.connection,
            "SELECT model_file_path FROM model_versions WHERE status IN ('training', 'archived')",
            [],
            |row| row.get(0),
        )?;
        let in_use = restart_files(&self.connection)?;
        let is_leftover = |name: &String| {
            let Some(file) = ModelFileName::parse(name) else { return false };
            let is_ours = file.is_temporary
                || ours.contains(name)
                || matches!(file.kind, ModelFileKind::Checkpoint);
            is_ours && !in_use.contains(name)
        };
        if let Ok(entries) = std::fs::read_dir(&self.directory) {
            let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
            let leftovers: Vec<String> = names.filter(is_leftover).collect();
            self.delete_files(&leftovers);
        }
        // Last: without its row nobody would know the file.
        execute(&self.connection, "DELETE FROM model_versions WHERE status = 'training'", [])?;
        Ok(())
    }
}

pub(super) enum ModelFileKind {
    Version,
    Checkpoint,
}

/// The name of a model's file, also of one that is not yet written whole.
pub(super) struct ModelFileName {
    pub(super) kind: ModelFileKind,
    /// Of the version, or the journal entry up to which a checkpoint holds.
    pub(super) number: u64,
    /// It is being written.
    pub(super) is_temporary: bool,
}

impl ModelFileName {
    pub(super) fn parse(name: &str) -> Option<Self> {
        let whole = name.strip_suffix(".tmp");
        let is_temporary = whole.is_some();
        let name = whole.unwrap_or(name).strip_suffix(".json")?;
        let (kind, number) = match name.split_once('-')? {
            ("version", number) => (ModelFileKind::Version, number),
            ("checkpoint", number) => (ModelFileKind::Checkpoint, number),
            _ => return None,
        };
        Some(Self { kind, number: number.parse().ok()?, is_temporary })
    }
}

/// What was announced of these versions gives way to them.
pub(super) fn forget_announced(connection: &Connection, versions: &[ModelVersion]) -> Result<()> {
    for version in versions {
        execute(
            connection,
            "DELETE FROM model_versions WHERE id = ?1 AND status = 'training'",
            [&version.id],
        )?;
    }
    Ok(())
}

pub(super) fn insert(connection: &Connection, versions: &[ModelVersion]) -> Result<()> {
    for version in versions {
        execute(
            connection,
            "INSERT INTO model_versions(id, model_type, version_number, status, parameters,
                                        metrics, model_file_path, created_at, training_samples,
                                        parent_version, learned_sequence, digest)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            params![
                version.id,
                version.model_type,
                to_sql(version.version_number),
                VersionStatus::Training.as_str(),
                version.parameters.to_string(),
                version.metrics.to_string(),
                version.model_file_path,
                version.created_at,
                to_sql(version.training_samples),
                version.parent_version,
                to_sql(version.learned_sequence),
                version.digest
            ],
        )?;
    }
    Ok(())
}

/// The active versions are deprecated, these become active.
pub(super) fn promote(connection: &Connection, versions: &[ModelVersion]) -> Result<()> {
    for version in versions {
        execute(
            connection,
            "UPDATE model_versions SET status = 'deprecated'
             WHERE model_type = ?1 AND status = 'active'",
            [&version.model_type],
        )?;
        execute(
            connection,
            "UPDATE model_versions SET status = 'active', digest = ?2 WHERE id = ?1",
            params![version.id, version.digest],
        )?;
    }
    Ok(())
}

pub(super) fn archive(connection: &Connection, versions_max: u64) -> Result<()> {
    execute(
        connection,
        "UPDATE model_versions SET status = 'archived'
         WHERE status = 'deprecated' AND version_number NOT IN
             (SELECT DISTINCT version_number FROM model_versions
              WHERE status IN ('active', 'deprecated') ORDER BY version_number DESC LIMIT ?1)",
        [to_sql(versions_max)],
    )?;
    execute(
        connection,
        "DELETE FROM model_versions WHERE status = 'archived' AND version_number NOT IN
             (SELECT DISTINCT version_number FROM model_versions
              ORDER BY version_number DESC LIMIT ?1)",
        [to_sql(ARCHIVED_ROWS_KEPT)],
    )?;
    Ok(())
}

pub(super) fn files(connection: &Connection) -> Result<Vec<String>> {
    query(
        connection,
        "SELECT model_file_path FROM checkpoints
         UNION SELECT model_file_path FROM model_versions WHERE status != 'archived'",
        [],
        |row| row.get(0),
    )
}

/// The files of restart points.
fn restart_files(connection: &Connection) -> Result<Vec<String>> {
    query(connection, RESTART_POINTS, [], |row| row.get(1))
}

pub(super) fn unused_files(connection: &Connection, before: Vec<String>) -> Result<Vec<String>> {
    let after = files(connection)?;
    Ok(before.into_iter().filter(|file| !after.contains(file)).collect())
}

pub(super) fn by_id(connection: &Connection, id: &str) -> Result<Option<ModelVersion>> {
    connection
        .prepare_cached(&format!("{SELECT} WHERE id = ?1"))
        .and_then(|mut statement| statement.query_row([id], read).optional())
        .map_err(|error| reaction(&error))
}

/// Newest first, those before the version number `before`.
pub(super) fn list(
    connection: &Connection,
    model_type: &str,
    before: Option<u64>,
    limit: u32,
) -> Result<Vec<ModelVersion>> {
    query(
        connection,
        &format!(
            "{SELECT} WHERE model_type = ?1 AND (?2 IS NULL OR version_number < ?2)
             ORDER BY version_number DESC LIMIT ?3"
        ),
        params![model_type, before.map(to_sql), limit],
        read,
    )
}

const SELECT: &str = "SELECT id, model_type, version_number, status, parameters, metrics,
                      model_file_path, created_at, training_samples, parent_version,
                      learned_sequence, digest FROM model_versions";

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<ModelVersion> {
    let json = |text: String| serde_json::from_str(&text).unwrap_or(serde_json::Value::Null);
    Ok(ModelVersion {
        id: row.get(0)?,
        model_type: row.get(1)?,
        version_number: from_sql(row.get(2)?),
        status: VersionStatus::parse(&row.get::<_, String>(3)?).unwrap_or(VersionStatus::Archived),
        parameters: json(row.get(4)?),
        metrics: json(row.get(5)?),
        model_file_path: row.get(6)?,
        created_at: row.get(7)?,
        training_samples: from_sql(row.get(8)?),
        parent_version: row.get(9)?,
        learned_sequence: from_sql(row.get(10)?),
        digest: row.get(11)?,
    })
}

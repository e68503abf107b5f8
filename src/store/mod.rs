//! The state directory: one SQLite database, the files of saved models, a lock.
//!
//! The only part of the program that names rusqlite. One [`Store`] writes, on the learner's
//! thread; any number of threads read through a [`Reader`].
//!
//! # What a crash can't break
//!
//! An outcome is acknowledged after the transaction that holds it, its identity and its source
//! position ([`Store::append`]); what was learned is recorded in a later one ([`Store::learned`]).
//! The model is a function of the journal, so losing it costs time, never data. No transaction is
//! ever held open between two calls.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior, params};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::outcome::fair_shares::Held;
use crate::watch::alerts::Alert;
use crate::watch::budget::Budget;
use crate::watch::samples::Sample;

mod alerts;
mod attempts;
mod backup;
mod bounded;
mod budgets;
mod by_decision;
mod counters;
mod dead_letters;
mod decisions;
mod events;
mod evidence;
mod examine;
mod feedback;
mod files;
mod journal;
mod reader;
mod samples;
mod space;
mod versions;
mod wal;

pub use attempts::Provisional;
pub use backup::{Backup, restore_backup};
pub use counters::{Counters, SourceCounters};
pub use dead_letters::{DeadLetter, NewDeadLetter, Owner, PAYLOAD_BYTES_MAX};
pub use decisions::{AgentReporting, JoinedOutcome, Late, MISSING, Open, RecordedDecision, Taken};
pub use events::LearningEvent;
pub(crate) use evidence::GO_ON;
pub use evidence::set_aside;
pub use examine::Sizes;
pub use feedback::{Added, Execution, Unjudged, VERDICTS_WAITING_MAX, WaitingVerdict};
pub(crate) use files::rename_new;
pub use files::{FORMAT, learned_sequence, parse_model, read_model, write_model};
use files::{create_new, give_to_owner_of};
pub use journal::{Activation, Append, Entry, Position};
pub use reader::Reader;
pub use space::Space;
pub use versions::{ModelVersion, RestartPoint, VersionStatus};

use bounded::Bounded;
use evidence::{Evidence, Found, Place};
use journal::IdentityWindow;

/// Name of the database in the state directory.
pub const DATABASE_FILE: &str = "online-learning.db";
const LOCK_FILE: &str = "online-learning.lock";
/// Marks the file as ours: "OLRN".
const APPLICATION_ID: i32 = 0x4f4c_524e;
const SCHEMA_VERSION: i32 = 15;
/// SQLite 3.51.3 repaired a bug that could corrupt a write-ahead log with two connections.
const SQLITE_VERSION_MIN: i32 = 3_051_003;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long SQLite itself waits for its lock, between two looks whether there is still time.
const BUSY_SLICE: Duration = Duration::from_millis(250);
/// Closing leaves the write-ahead log as it is.
const KEEP_LOG: DbConfig = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
/// The write-ahead log is cut back to this after a checkpoint.
const WAL_BYTES_KEPT: u32 = 64 * 1024 * 1024;
/// Pages held in memory: a large transaction that does not fit is written twice.
const CACHE_KIB: u32 = 16 * 1024;

const SCHEMA: &str = "
CREATE TABLE counters(
    id INTEGER PRIMARY KEY CHECK (id = 1),
    value TEXT NOT NULL
) STRICT;
CREATE TABLE journal(
    first_sequence INTEGER PRIMARY KEY,
    last_sequence INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    identities BLOB NOT NULL,
    checksum BLOB NOT NULL,
    payload BLOB NOT NULL
) STRICT;
CREATE TABLE source_positions(
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,
    topic_id TEXT NOT NULL DEFAULT '',
    resets INTEGER NOT NULL DEFAULT 0,
    lost INTEGER NOT NULL DEFAULT 0,
    last_record_ms INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (topic, partition)
) STRICT, WITHOUT ROWID;
CREATE TABLE dead_letters(
    id TEXT PRIMARY KEY,
    source TEXT NOT NULL,
    code TEXT NOT NULL,
    detail TEXT NOT NULL,
    topic TEXT,
    partition INTEGER,
    offset INTEGER,
    identity TEXT NOT NULL,
    payload BLOB NOT NULL,
    payload_bytes INTEGER NOT NULL,
    created_at TEXT NOT NULL
) STRICT;
CREATE TABLE model_versions(
    id TEXT PRIMARY KEY,
    model_type TEXT NOT NULL,
    version_number INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('training', 'active', 'deprecated', 'archived')),
    parameters TEXT NOT NULL,
    metrics TEXT NOT NULL,
    model_file_path TEXT NOT NULL,
    created_at TEXT NOT NULL,
    training_samples INTEGER NOT NULL,
    parent_version TEXT,
    learned_sequence INTEGER NOT NULL,
    digest TEXT,
    UNIQUE (model_type, version_number)
) STRICT;
CREATE TABLE checkpoints(
    learned_sequence INTEGER PRIMARY KEY,
    model_file_path TEXT NOT NULL,
    digest TEXT NOT NULL,
    created_at TEXT NOT NULL
) STRICT;
CREATE TABLE learning_events(
    id TEXT PRIMARY KEY,
    model_version_id TEXT,
    event_type TEXT NOT NULL,
    batch_size INTEGER NOT NULL,
    samples_processed INTEGER NOT NULL,
    metrics_before TEXT NOT NULL,
    metrics_after TEXT NOT NULL,
    improvement REAL NOT NULL,
    duration_ms REAL NOT NULL,
    created_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;
";

const MONITORING_SCHEMA: &str = "
CREATE TABLE alerts(
    id TEXT PRIMARY KEY,
    rule TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('firing', 'resolved')),
    tenant_id TEXT,
    agent_name TEXT,
    value REAL NOT NULL,
    threshold REAL NOT NULL,
    message TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    resolved_ms INTEGER
) STRICT, WITHOUT ROWID;
";

/// What turns the schema of each version into that of the next, from version 1 on.
const MIGRATIONS: [&str; SCHEMA_VERSION as usize - 1] = [
    "
ALTER TABLE source_positions ADD COLUMN topic_id TEXT NOT NULL DEFAULT '';
ALTER TABLE source_positions ADD COLUMN resets INTEGER NOT NULL DEFAULT 0;
ALTER TABLE source_positions ADD COLUMN lost INTEGER NOT NULL DEFAULT 0;
ALTER TABLE source_positions ADD COLUMN last_record_ms INTEGER NOT NULL DEFAULT 0;
",
    decisions::SCHEMA,
    MONITORING_SCHEMA,
    samples::SCHEMA,
    budgets::SCHEMA,
    bounded::SCHEMA,
    decisions::REPORTING_SCHEMA,
    alerts::UNSENT_SCHEMA,
    journal::CONTENTS_SCHEMA,
    attempts::SCHEMA,
    dead_letters::KEPT_SCHEMA,
    decisions::TRACES_SCHEMA,
    feedback::SCHEMA,
    feedback::SHARES_SCHEMA,
];

/// How much a power loss may take: see the README on durability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Synchronous {
    /// Nothing that was acknowledged: one sync of the log per commit.
    Full,
    /// The last commits: for use where the source can send them again.
    Normal,
}

impl Synchronous {
    fn as_sql(self) -> &'static str {
        match self {
            Self::Full => "FULL",
            Self::Normal => "NORMAL",
        }
    }
}

/// What is kept, and how the database is opened.
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(missing_docs, reason = "the names say what is bounded, units last")]
pub struct StoreOptions {
    pub synchronous: Synchronous,
    /// Identities remembered for deduplication, newest first.
    pub identities_max: usize,
    pub journal_outcomes_max: u64,
    pub journal_age_max_ms: i64,
    pub learning_events_max: u64,
    pub dead_letters_max: u64,
    pub dead_letters_bytes_max: u64,
    pub decisions_max: u64,
    pub decisions_bytes_max: u64,
    /// At least 2: the newest two are restart points.
    pub versions_max: u64,
    /// Larger databases are opened without `quick_check`.
    pub quick_check_bytes_max: u64,
    /// Run the full `integrity_check` instead, whatever the size.
    pub integrity_check: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            synchronous: Synchronous::Full,
            identities_max: 2_000_000,
            journal_outcomes_max: 10_000_000,
            journal_age_max_ms: 30 * 24 * 3_600 * 1_000,
            learning_events_max: 100_000,
            dead_letters_max: 10_000,
            dead_letters_bytes_max: 256 * 1024 * 1024,
            decisions_max: 100_000,
            decisions_bytes_max: 256 * 1024 * 1024,
            versions_max: 20,
            quick_check_bytes_max: 256 * 1024 * 1024,
            integrity_check: false,
        }
    }
}

/// The writing end of the state directory; there is one per directory.
pub struct Store {
    connection: Connection,
    directory: PathBuf,
    options: StoreOptions,
    identities: IdentityWindow,
    decisions: Bounded,
    early_outcomes: Bounded,
    dead_letters: Bounded,
    patience: Patience,
    place: Place,
    /// Outcomes that wait for a final one.
    attempts: Held,
    /// Telemetry may have taken decisions.
    has_spans: bool,
    /// Verdicts that wait for their executions.
    waiting: feedback::Waiting,
    /// Executions that wait for a verdict.
    unjudged: u64,
    /// Outcomes by their decisions, where verdicts come from a topic.
    by_decision: Option<by_decision::ByDecision>,
    /// Held, never read: the lock ends with the process, however it ends. `None` for who only reads.
    _lock: Option<[File; 2]>,
}

impl Store {
    /// Opens the state directory, making what is not there yet.
    ///
    /// # Errors
    /// [`Error::Fatal`] when the directory can't be written, [`Error::InUse`] when another process
    /// holds it,
    /// [`Error::Corrupt`] when the database is damaged, foreign or of a newer program. Nothing is
    /// changed then.
    pub fn open(directory: &Path, options: StoreOptions) -> Result<Self> {
        if rusqlite::version_number() < SQLITE_VERSION_MIN {
            let linked = rusqlite::version();
            return Err(Error::Fatal(format!(
                "SQLite {linked} is linked; 3.51.3 is the oldest that is safe"
            )));
        }
        let shown = directory.display();
        fs::create_dir_all(directory)
            .map_err(|error| Error::Fatal(format!("can't make the directory {shown}: {error}")))?;
        let lock = lock(directory)?;
        let connection = open_database(directory, &options)?;
        let mut store = Self {
            identities: IdentityWindow::load(&connection, options.identities_max)?,
            decisions: decisions_of(&options),
            early_outcomes: early_outcomes_of(&options),
            dead_letters: dead_letters_of(&options),
            // The first look into a table has made the log.
            place: Place::of(&directory.join(DATABASE_FILE)),
            attempts: attempts::held(&connection)?,
            has_spans: decisions::have_spans(&connection)?,
            waiting: feedback::Waiting::load(&connection)?,
            unjudged: feedback::unjudged(&connection)?,
            by_decision: None,
            connection,
            directory: directory.to_owned(),
            options,
            patience: Patience::default(),
            _lock: Some(lock),
        };
        store.forget_unfinished_saves()?;
        Ok(store)
    }

    /// The counters as last committed.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when they can't be read.
    pub fn counters(&self) -> Result<Counters> {
        Counters::load(&self.connection)
    }

    /// Where everything is kept.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether what is written is found by the next start.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database was removed or replaced.
    pub fn check_place(&self) -> Result<()> {
        self.place.check()
    }

    /// How it was opened.
    pub fn options(&self) -> &StoreOptions {
        &self.options
    }

    /// Records micro-batches: their learning events and the counters, learned sequence included.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it can be tried again, and nothing has changed.
    pub fn learned(&mut self, events: &[LearningEvent], counters: &Counters) -> Result<()> {
        let transaction = write(&self.connection, &self.patience)?;
        events::insert_events(&transaction, events, &self.options)?;
        counters.store(&transaction)?;
        commit(transaction, &self.place)
    }

    /// The spending caps that were set, by tenant.
    ///
    /// # Errors
    /// As [`Store::learned`].
    pub fn budgets(&self) -> Result<BTreeMap<String, Budget>> {
        budgets::all(&self.connection)
    }

    /// Sets the spending cap of a tenant, or takes it away.
    ///
    /// # Errors
    /// As [`Store::learned`].
    pub fn set_budget(&mut self, tenant: &str, budget: Option<Budget>) -> Result<()> {
        let transaction = write(&self.connection, &self.patience)?;
        budgets::write(&transaction, tenant, budget)?;
        commit(transaction, &self.place)
    }

    /// Records alerts as they are now. Changes are to be sent to `channels`, places in
    /// [`crate::watch::instruments::CHANNELS`].
    ///
    /// # Errors
    /// As [`Store::learned`].
    pub fn write_alerts(&mut self, alerts: &[Alert], channels: &[usize]) -> Result<()> {
        let transaction = write(&self.connection, &self.patience)?;
        alerts::write(&transaction, alerts, channels)?;
        commit(transaction, &self.place)
    }

    /// Takes note that a change of an alert need not be sent to a channel any more.
    ///
    /// # Errors
    /// As [`Store::learned`].
    pub fn alert_sent(&mut self, alert: &Alert, channel: usize) -> Result<()> {
        let transaction = write(&self.connection, &self.patience)?;
        alerts::sent(&transaction, alert.id, alert.delivery(channel))?;
        commit(transaction, &self.place)
    }

    /// Records a sample, for plots over time.
    ///
    /// # Errors
    /// As [`Store::learned`].
    pub fn write_sample(&mut self, sample: &Sample) -> Result<()> {
        let transaction = write(&self.connection, &self.patience)?;
        samples::write(&transaction, sample)?;
        commit(transaction, &self.place)
    }

    /// From now on, what waits for another process gives up at that moment, once it is known.
    pub(crate) fn give_up_by(&mut self, moment: Arc<OnceLock<Instant>>) {
        self.patience = Patience(moment);
    }

    /// Moves the write-ahead log into the database, as the last thing before an orderly end.
    pub fn close(self) {
        let left = self.patience.left(Instant::now() + BUSY_TIMEOUT);
        // It takes any time there is.
        let _ = self.connection.busy_timeout(left);
        let truncated = self.connection.set_db_config(KEEP_LOG, false).and_then(|_| {
            self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        });
        if let Err(error) = truncated {
            log::warn!("checkpoint=failed error=\"{error}\"");
        }
    }

    #[cfg(test)]
    pub(crate) fn fill_up(&self, pages: u32) {
        self.connection
            .execute_batch(&format!("PRAGMA max_page_count = {pages}"))
            .expect("the pragma is valid");
    }
}

fn decisions_of(options: &StoreOptions) -> Bounded {
    let max = Held { count: options.decisions_max, bytes: options.decisions_bytes_max };
    Bounded::new(decisions::TABLE, max)
}

/// As many as decisions are kept.
fn early_outcomes_of(options: &StoreOptions) -> Bounded {
    let max = Held { count: options.decisions_max, bytes: u64::MAX };
    Bounded::new(decisions::EARLY_TABLE, max)
}

fn dead_letters_of(options: &StoreOptions) -> Bounded {
    let max = Held { count: options.dead_letters_max, bytes: options.dead_letters_bytes_max };
    Bounded::new(dead_letters::TABLE, max)
}

/// Locks the directory, and a file in it, which programs before looked at alone. Without the
/// directory's own lock somebody who deletes that file lets a second writer in.
fn lock(directory: &Path) -> Result<[File; 2]> {
    let path = directory.join(LOCK_FILE);
    let shown = path.display();
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| Error::Fatal(format!("can't write to {shown}: {error}")))?;
    give_to_owner_of(directory, &file);
    let itself = File::open(directory)
        .map_err(|error| Error::Fatal(format!("can't read {}: {error}", directory.display())))?;
    for (locked, must) in [(&file, true), (&itself, false)] {
        match locked.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(Error::InUse(format!(
                    "the directory {} is in use by another online-learning process; stop it, or \
                     name another directory in MODEL_STORAGE_PATH",
                    directory.display()
                )));
            }
            Err(fs::TryLockError::Error(error)) if must => {
                return Err(Error::Fatal(format!("can't lock {shown}: {error}")));
            }
            // Some network file systems lock no directories.
            Err(fs::TryLockError::Error(error)) => {
                log::debug!("directory=unlocked error=\"{error}\"");
            }
        }
    }
    Ok([file, itself])
}

/// Opens the database to write, once it is known to be ours and to agree with what lies beside it.
fn open_database(directory: &Path, options: &StoreOptions) -> Result<Connection> {
    let path = &directory.join(DATABASE_FILE);
    let evidence = Evidence::of(directory, options)?;
    let at_start = |error: rusqlite::Error| evidence.at_start(&error);
    // What a kill left in the log must stay there, should anything below or in the journal turn out
    // to be wrong: closing would move it into the database, which an orderly end does by itself.
    let has_log = fs::metadata(log_of(path)).is_ok_and(|meta| meta.len() > 0);
    // SQLite gives its other files the owner of this one. Where it can't be made, SQLite says so below.
    let _ = create_new(path);
    let mut connection = Connection::open(path).map_err(at_start)?;
    connection.set_db_config(KEEP_LOG, has_log).map_err(at_start)?;
    // What can't be opened to be written SQLite opens to be read, and says so at the first write.
    if connection.is_readonly("main").map_err(at_start)? {
        let shown = path.display();
        return Err(Error::Fatal(format!(
            "can't write to the database {shown}: it belongs to somebody else, or is read-only"
        )));
    }
    connection.busy_timeout(BUSY_TIMEOUT).map_err(at_start)?;
    connection.set_prepared_statement_cache_capacity(64);
    let found = evidence.examine(&connection, options)?;
    connection
        .execute_batch(&format!(
            "PRAGMA journal_mode = WAL;
             PRAGMA synchronous = {};
             PRAGMA foreign_keys = ON;
             PRAGMA journal_size_limit = {WAL_BYTES_KEPT};
             PRAGMA cache_size = -{CACHE_KIB};",
            options.synchronous.as_sql()
        ))
        .map_err(at_start)?;
    match found {
        Found::Nothing => {
            let transaction = connection
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(at_start)?;
            transaction
                .execute_batch(&format!(
                    "{SCHEMA} {} {MONITORING_SCHEMA} {} {} {} {} {} {} {} {} {} {}
                     PRAGMA application_id = {APPLICATION_ID};
                     PRAGMA user_version = {SCHEMA_VERSION};",
                    decisions::SCHEMA,
                    samples::SCHEMA,
                    budgets::SCHEMA,
                    bounded::SCHEMA,
                    decisions::REPORTING_SCHEMA,
                    alerts::UNSENT_SCHEMA,
                    attempts::SCHEMA,
                    dead_letters::KEPT_SCHEMA,
                    decisions::TRACES_SCHEMA,
                    feedback::SCHEMA,
                    feedback::SHARES_SCHEMA
                ))
                .map_err(at_start)?;
            transaction.commit().map_err(at_start)?;
        }
        Found::Schema(schema) => migrate(&mut connection, schema).map_err(at_start)?,
    }
    Ok(connection)
}

/// Brings the tables of an older program up to date, each version in a transaction of its own.
fn migrate(connection: &mut Connection, version: i32) -> rusqlite::Result<()> {
    for (to, migration) in (2..).zip(MIGRATIONS).filter(|(to, _)| *to > version) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(&format!("{migration} PRAGMA user_version = {to};"))?;
        transaction.commit()?;
        log::info!("storage=migrated schema={to}");
    }
    Ok(())
}

/// What SQLite's own check finds wrong with the database.
fn check_integrity(
    connection: &Connection,
    path: &Path,
    options: &StoreOptions,
) -> rusqlite::Result<Option<String>> {
    let size = fs::metadata(path).map_or(0, |meta| meta.len());
    let check = if options.integrity_check {
        "integrity_check"
    } else if size <= options.quick_check_bytes_max {
        "quick_check"
    } else {
        let limit = options.quick_check_bytes_max;
        log::info!("quick_check=skipped database_bytes={size} limit_bytes={limit}");
        return Ok(None);
    };
    let finding: String =
        connection.query_row(&format!("PRAGMA {check}(1)"), [], |row| row.get(0))?;
    Ok((finding != "ok").then_some(finding))
}

/// The write-ahead log that belongs to a database. SQLite follows a link before it names it.
fn log_of(database: &Path) -> PathBuf {
    let database = fs::canonicalize(database).unwrap_or_else(|_| database.to_owned());
    let mut path = database.into_os_string();
    path.push("-wal");
    path.into()
}

fn open_read_only(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|error| reaction(&error))?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(|error| reaction(&error))?;
    Ok(connection)
}

/// How long a write waits for another process that holds the database: a while, and never past the end
/// of a stop.
#[derive(Default)]
struct Patience(Arc<OnceLock<Instant>>);

impl Patience {
    /// What is left of the time until `end`.
    fn left(&self, end: Instant) -> Duration {
        let end = self.0.get().map_or(end, |moment| end.min(*moment));
        end.saturating_duration_since(Instant::now())
    }
}

/// Begins a transaction that may write.
fn write<'a>(connection: &'a Connection, patience: &Patience) -> Result<Transaction<'a>> {
    #[cfg(test)]
    planned_failure::step()?;
    let end = Instant::now() + BUSY_TIMEOUT;
    let begun = loop {
        // In slices: that there is no time left may become known while we wait.
        let left = patience.left(end);
        connection.busy_timeout(left.min(BUSY_SLICE)).map_err(|error| reaction(&error))?;
        // No transaction is ever open here.
        match Transaction::new_unchecked(connection, TransactionBehavior::Immediate) {
            Err(error) if is_busy(&error) && left > BUSY_SLICE => {}
            begun => break begun,
        }
    };
    // What follows may have to wait for a moment, too, such as while another process opens the database.
    let left = patience.left(Instant::now() + BUSY_TIMEOUT);
    connection.busy_timeout(left).map_err(|error| reaction(&error))?;
    begun.map_err(|error| reaction(&error))
}

fn is_busy(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}

/// Commits, unless the database is no longer where the next start looks for it.
fn commit(transaction: Transaction<'_>, place: &Place) -> Result<()> {
    #[cfg(test)]
    planned_failure::step()?;
    place.check()?;
    transaction.commit().map_err(|error| reaction(&error))
}

fn is_corruption(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// What a failure of SQLite asks of us. A full disk or a lock passes. After a failed sync the page
/// cache can't be trusted, and a live connection that reports damage may be wrong: both end the
/// process, and the next start looks again.
fn reaction(error: &rusqlite::Error) -> Error {
    const IOERR_FSYNC: i32 = 1034;
    const IOERR_DIR_FSYNC: i32 = 1290;
    let Some(failure) = error.sqlite_error() else {
        return Error::Fatal(format!("storage: {error}"));
    };
    match failure.code {
        _ if [IOERR_FSYNC, IOERR_DIR_FSYNC].contains(&failure.extended_code) => {
            Error::Fatal(format!("storage: a sync failed: {error}"))
        }
        ErrorCode::DiskFull
        | ErrorCode::DatabaseBusy
        | ErrorCode::DatabaseLocked
        | ErrorCode::OutOfMemory
        | ErrorCode::SystemIoFailure
        | ErrorCode::CannotOpen
        | ErrorCode::ReadOnly => Error::Unavailable(format!("storage: {error}")),
        _ => Error::Fatal(format!("storage: {error}")),
    }
}

/// Runs a statement that is used again and again.
fn execute(connection: &Connection, sql: &str, values: impl rusqlite::Params) -> Result<usize> {
    #[cfg(test)]
    planned_failure::step()?;
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.execute(values))
        .map_err(|error| reaction(&error))
}

/// Collects the rows of a query that is used again and again.
fn query<T>(
    connection: &Connection,
    sql: &str,
    values: impl rusqlite::Params,
    read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.query_map(values, read)?.collect())
        .map_err(|error| reaction(&error))
}

/// Ids of learning events and dead letters: as wide as any number, so that text sorts like it.
fn padded_id(number: u64) -> String {
    format!("{number:016}")
}

/// SQLite's integers are signed.
fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn from_sql(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

impl Counters {
    fn load(connection: &Connection) -> Result<Self> {
        let rows = query(connection, "SELECT value FROM counters", [], |row| row.get(0))?;
        let rows: Vec<String> = rows;
        let Some(json) = rows.first() else { return Ok(Self::default()) };
        serde_json::from_str(json)
            .map_err(|error| Error::Corrupt(format!("the counters can't be read: {error}")))
    }

    fn store(&self, connection: &Connection) -> Result<()> {
        let json = serde_json::to_string(self).expect("counters always have a JSON form");
        execute(
            connection,
            "INSERT INTO counters(id, value) VALUES (1, ?1)
             ON CONFLICT(id) DO UPDATE SET value = excluded.value",
            params![json],
        )?;
        Ok(())
    }
}

/// Failures at a step chosen by a test: every begin, statement and commit of a transaction on this
/// thread is one.
#[cfg(test)]
pub(crate) mod planned_failure {
    use std::cell::Cell;

    use crate::error::{Error, Result};

    thread_local! {
        static STEPS_LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// Lets the step after `steps` more fail, once.
    pub(crate) fn after(steps: u64) {
        STEPS_LEFT.set(Some(steps));
    }

    /// Takes the plan back; true when it was still to come.
    pub(crate) fn cancel() -> bool {
        STEPS_LEFT.take().is_some()
    }

    pub(super) fn step() -> Result<()> {
        match STEPS_LEFT.get() {
            Some(0) => {
                STEPS_LEFT.set(None);
                Err(Error::Unavailable("storage: a planned failure".to_owned()))
            }
            left => {
                STEPS_LEFT.set(left.map(|left| left - 1));
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests;

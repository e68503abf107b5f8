//! What lies in a state directory, and what that proves of its database. One examination for
//! whoever opens the directory, to write or only to look: nothing is changed by it.
//!
//! The database comes before every file: a version's number, and the journal entries that a file
//! holds, are on the disk before the file is. So a file that the database does not know was not
//! made from it. Either the database has lost something, or the file belongs elsewhere, and to go
//! on would write over one of the two.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension};

use super::versions::{ModelFileKind, ModelFileName};
use super::{
    APPLICATION_ID, Counters, DATABASE_FILE, SCHEMA_VERSION, StoreOptions, Synchronous,
    check_integrity, is_corruption, lock, log_of, reaction, wal,
};
use crate::error::{Error, Result};

/// How to go on with a state that is refused.
pub(crate) const GO_ON: &str = "restore a backup (online-learning restore FILE --start-empty) or \
                                start empty (online-learning serve --start-empty): both move what \
                                is there aside and keep it";
/// The database that a restore writes: it becomes the database when all is there.
pub(super) const RESTORED_FILE: &str = "online-learning.db.tmp";
/// What is moved aside goes to a directory of this name and the time.
const SET_ASIDE: &str = "set-aside-";

/// What a database is, as far as it can be told before anything is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// There is none yet, or no table in it.
    Nothing,
    /// One of ours, by the version of its tables.
    Schema(i32),
}

/// The files of a state directory.
pub(super) struct Evidence {
    database: PathBuf,
    /// The database has bytes.
    has_database: bool,
    /// Files of models, by name.
    models: Vec<(String, ModelFileName)>,
    directory: PathBuf,
}

impl Evidence {
    /// Looks at the files, before SQLite makes or mends any.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when there is no database and something tells that there was one, when a
    /// restore did not come to its end, or the log is damaged; [`Error::Fatal`] when the directory
    /// can't be read.
    pub(super) fn of(directory: &Path, options: &StoreOptions) -> Result<Self> {
        let database = directory.join(DATABASE_FILE);
        let has_database = has_bytes(&database)?;
        let evidence = Self {
            models: model_files(directory)?,
            directory: directory.to_owned(),
            database,
            has_database,
        };
        let log = log_of(&evidence.database);
        if !has_database {
            evidence.check_new()?;
        } else if options.synchronous == Synchronous::Full
            && let Some(finding) = wal::damage(&log)
        {
            return Err(Error::Corrupt(format!(
                "the database {} has lost entries: its log {} is damaged: {finding}; {GO_ON}",
                evidence.database.display(),
                log.display()
            )));
        }
        Ok(evidence)
    }

    /// There is a database, with bytes in it.
    pub(super) fn has_database(&self) -> bool {
        self.has_database
    }

    /// Looks into the database, and whether what lies beside it can come from it.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when it is damaged, of another or a newer program, or contradicts itself
    /// or the files beside it.
    pub(super) fn examine(&self, connection: &Connection, options: &StoreOptions) -> Result<Found> {
        let found = self.tables(connection, options).map_err(|error| self.at_start(&error))??;
        match found {
            Found::Nothing => self.check_new()?,
            Found::Schema(_) => {
                // One moment, also beside somebody who writes. The files were listed before it.
                connection.execute_batch("BEGIN").map_err(|error| reaction(&error))?;
                let agrees = self.check_agreement(connection);
                connection.execute_batch("COMMIT").map_err(|error| reaction(&error))?;
                agrees?;
            }
        }
        Ok(found)
    }

    /// What an error of SQLite means before anything was written.
    pub(super) fn at_start(&self, error: &rusqlite::Error) -> Error {
        let shown = self.database.display();
        match reaction(error) {
            Error::Fatal(text) if is_corruption(error) => Error::Corrupt(format!(
                "the database {shown} is damaged or no database: {text}; {GO_ON}"
            )),
            Error::Fatal(text) | Error::Unavailable(text) => {
                Error::Fatal(format!("can't open the database {shown}: {text}"))
            }
            other => other,
        }
    }

    /// The outer error is SQLite's, the inner one ours.
    fn tables(
        &self,
        connection: &Connection,
        options: &StoreOptions,
    ) -> rusqlite::Result<Result<Found>> {
        let pragma = |name: &str| -> rusqlite::Result<i32> {
            connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))
        };
        let shown = self.database.display();
        let schema = pragma("user_version")?;
        let application = pragma("application_id")?;
        // A crash between the switch to a write-ahead log and the first tables left a bare header.
        if application == 0 && schema == 0 && self.is_bare(connection)? {
            return Ok(Ok(Found::Nothing));
        }
        if application != APPLICATION_ID {
            let has_ours = connection
                .query_row(
                    "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'journal'",
                    [],
                    |_| Ok(()),
                )
                .optional()?;
            let whose = match has_ours {
                Some(()) => format!(
                    "has our tables, but application_id {application} instead of {APPLICATION_ID}: \
                     it was changed by hand or by another program; put it back, or {GO_ON}"
                ),
                None => format!(
                    "is an SQLite database of another program (application_id {application})"
                ),
            };
            return Ok(Err(Error::Corrupt(format!("{shown} {whose}"))));
        }
        if schema > SCHEMA_VERSION {
            return Ok(Err(Error::Corrupt(format!(
                "the database {shown} was written by a newer online-learning (schema {schema}, \
                 this program knows {SCHEMA_VERSION}); use that program"
            ))));
        }
        if schema < 1 {
            return Ok(Err(Error::Corrupt(format!(
                "the database {shown} has schema {schema} (its user_version), which no \
                 online-learning writes; known are 1 to {SCHEMA_VERSION}: it was changed by hand \
                 or by another program; put it back, or {GO_ON}"
            ))));
        }
        match check_integrity(connection, &self.database, options)? {
            None => Ok(Ok(Found::Schema(schema))),
            Some(finding) => Ok(Err(Error::Corrupt(format!(
                "the database {shown} is damaged: {finding}; {GO_ON}"
            )))),
        }
    }

    /// A database with a header and nothing in it, or with nothing at all, after what a crash had
    /// begun to write was rolled back. (SQLite takes whatever is shorter than any page for an empty
    /// database, too.)
    fn is_bare(&self, connection: &Connection) -> rusqlite::Result<bool> {
        let tables: i64 =
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        let length = fs::metadata(&self.database).map_or(0, |meta| meta.len());
        Ok(tables == 0 && (length == 0 || length >= 512))
    }

    /// Nothing may tell of a database that was there before.
    fn check_new(&self) -> Result<()> {
        let (database, directory) = (self.database.display(), self.directory.display());
        let what = if self.has_database {
            "holds no table"
        } else if self.database.exists() {
            "is empty"
        } else {
            "is missing"
        };
        if self.directory.join(RESTORED_FILE).exists() {
            return Err(Error::Corrupt(format!(
                "{directory} holds half a restore: {RESTORED_FILE} is there, and {database} {what}; \
                 run \"online-learning restore FILE\" again"
            )));
        }
        if !self.has_database {
            let log = log_of(&self.database);
            if has_bytes(&log)? {
                return Err(Error::Corrupt(format!(
                    "the database {database} {what}, while its log {} is there and holds entries of \
                     it: put the database back, or {GO_ON}",
                    log.display()
                )));
            }
        }
        // The newest of each kind sorts last.
        if let Some((name, _)) = self.models.last() {
            return Err(Error::Corrupt(format!(
                "the database {database} {what}, while {} proves that it held more: put the \
                 database back, or {GO_ON}",
                self.directory.join(name).display()
            )));
        }
        Ok(())
    }

    fn check_agreement(&self, connection: &Connection) -> Result<()> {
        let counters = Counters::load(connection)?;
        let shown = self.database.display();
        for (what, of, known) in [
            ("an entry", "max(last_sequence) FROM journal", counters.last_sequence),
            (
                "a checkpoint of entry",
                "max(learned_sequence) FROM checkpoints",
                counters.last_sequence,
            ),
            (
                "a version of entry",
                "max(learned_sequence) FROM model_versions",
                counters.last_sequence,
            ),
            ("a version", "max(version_number) FROM model_versions", counters.last_version_number),
        ] {
            let newest: Option<i64> = connection
                .query_row(&format!("SELECT {of}"), [], |row| row.get(0))
                .map_err(|error| self.at_start(&error))?;
            let newest = newest.map_or(0, super::from_sql);
            // The newest entry is never pruned.
            if newest < known && of.ends_with("journal") {
                return Err(Error::Corrupt(format!(
                    "the database {shown} contradicts itself: its journal ends at entry {newest}, \
                     its counters say {known}; {GO_ON}"
                )));
            }
            if newest > known {
                return Err(Error::Corrupt(format!(
                    "the database {shown} contradicts itself: it holds {what} {newest}, its \
                     counters end at {known}; {GO_ON}"
                )));
            }
        }
        for (name, file) in &self.models {
            let (is, ends) = match file.kind {
                ModelFileKind::Version => {
                    (format!("is version {}", file.number), counters.last_version_number)
                }
                ModelFileKind::Checkpoint => {
                    (format!("holds {} journal entries", file.number), counters.last_sequence)
                }
            };
            let knows = match file.kind {
                ModelFileKind::Version => "knows versions up to",
                ModelFileKind::Checkpoint => "ends at entry",
            };
            if file.number > ends {
                return Err(self.behind(name, &is, &format!("{knows} {ends}")));
            }
            // What can't be read gives way to an older one, or to the journal.
            let holds = super::learned_sequence(&self.directory, name).unwrap_or(0);
            if holds > counters.last_sequence {
                let ends = format!("ends at entry {}", counters.last_sequence);
                return Err(self.behind(name, &format!("holds {holds} journal entries"), &ends));
            }
        }
        Ok(())
    }

    fn behind(&self, file: &str, is: &str, ends: &str) -> Error {
        let file = self.directory.join(file);
        Error::Corrupt(format!(
            "the database {} is behind: it {ends}, while {file} {is}: it is an older copy or has lost its \
             log, or the file belongs elsewhere; put back what belongs together, or {GO_ON}; \
             to go on with what the database holds, move that file away",
            self.database.display(),
            file = file.display()
        ))
    }
}

/// Whether the file is there and not empty. A link to nowhere is no missing file: what it leads to
/// may be on a disk that is not there.
fn has_bytes(path: &Path) -> Result<bool> {
    match fs::metadata(path) {
        Ok(meta) => Ok(meta.len() > 0),
        Err(error) if error.kind() == ErrorKind::NotFound => match fs::read_link(path) {
            Ok(target) => Err(Error::Fatal(format!(
                "{} is a link to {}, which is not there",
                path.display(),
                target.display()
            ))),
            Err(_) => Ok(false),
        },
        Err(error) => Err(Error::Fatal(format!("can't read {}: {error}", path.display()))),
    }
}

/// The files of models in a directory, also those that are not yet written whole; by name.
fn model_files(directory: &Path) -> Result<Vec<(String, ModelFileName)>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            let shown = directory.display();
            return Err(Error::Fatal(format!("can't read the directory {shown}: {error}")));
        }
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut files: Vec<_> =
        names.filter_map(|name| Some((name.clone(), ModelFileName::parse(&name)?))).collect();
    files.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(files)
}

/// The files that a store has open, by what they are and not only by their names.
#[derive(Debug)]
pub(super) struct Place(Vec<(PathBuf, (u64, u64))>);

impl Place {
    /// The database and its log, as they are now.
    pub(super) fn of(database: &Path) -> Self {
        let files = [database.to_owned(), log_of(database)];
        Self(
            files
                .into_iter()
                .filter_map(|path| {
                    let meta = fs::metadata(&path).ok()?;
                    Some((path, (meta.dev(), meta.ino())))
                })
                .collect(),
        )
    }

    /// What is written now will be found there by the next start.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when a file is gone or is another one: what is written to the one that
    /// is open would be lost.
    pub(super) fn check(&self) -> Result<()> {
        for (path, identity) in &self.0 {
            let what = match fs::metadata(path) {
                Ok(meta) if (meta.dev(), meta.ino()) == *identity => continue,
                Ok(_) => "replaced",
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::NotFound
                            | ErrorKind::NotADirectory
                            | ErrorKind::StaleNetworkFileHandle
                    ) =>
                {
                    "removed"
                }
                // It can't be looked at, which takes nothing away from it.
                Err(_) => continue,
            };
            return Err(Error::Unavailable(format!(
                "storage: {} was {what} while the service runs: put it back, or restart the service",
                path.display()
            )));
        }
        Ok(())
    }
}

/// Whether a name in a state directory is one that was moved aside.
pub(super) fn is_set_aside(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(SET_ASIDE))
}

/// Moves what a state directory holds into a directory in it, named by the time, where it is kept;
/// returns which.
///
/// # Errors
/// [`Error::Fatal`] when it is in use, or can't be moved.
pub fn set_aside(directory: &Path, now_ms: i64) -> Result<PathBuf> {
    let _lock = lock(directory)?;
    set_aside_locked(directory, now_ms)
}

/// The same, for who holds the lock.
pub(super) fn set_aside_locked(directory: &Path, now_ms: i64) -> Result<PathBuf> {
    let failed = |path: &Path, error: &dyn std::fmt::Display| {
        Error::Fatal(format!("can't move {} aside: {error}", path.display()))
    };
    let now = Timestamp::from_millisecond(now_ms).unwrap_or_default().strftime("%Y%m%dT%H%M%SZ");
    let mut aside = directory.join(format!("{SET_ASIDE}{now}"));
    let mut number = 1;
    while let Err(error) = fs::create_dir(&aside) {
        if error.kind() != ErrorKind::AlreadyExists {
            return Err(failed(directory, &error));
        }
        number += 1;
        aside = directory.join(format!("{SET_ASIDE}{now}-{number}"));
    }
    let models = model_files(directory)?;
    // The database first: what a crash leaves behind is refused, and moved by the next try.
    let names = ["", "-wal", "-shm", "-journal"].map(|suffix| format!("{DATABASE_FILE}{suffix}"));
    let restored = ["", "-journal"].map(|suffix| format!("{RESTORED_FILE}{suffix}"));
    let names = names.into_iter().chain(models.into_iter().map(|(name, _)| name)).chain(restored);
    for name in names {
        let from = directory.join(&name);
        match fs::rename(&from, aside.join(&name)) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&from, &error)),
        }
    }
    for directory in [&aside, directory] {
        fs::File::open(directory)
            .and_then(|file| file.sync_all())
            .map_err(|error| failed(directory, &error))?;
    }
    Ok(aside)
}

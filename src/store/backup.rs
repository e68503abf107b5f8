//! Backups: one file, an SQLite database with the tables as of one moment and, in a table of its
//! own, the files of the models that they name.
//!
//! It is written beside whoever writes the state directory, under another name until it is whole.
//! It has an application id of its own, so that nothing takes it for a state directory's database.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, params};
use sha2::{Digest, Sha256};

use super::evidence::{RESTORED_FILE, is_set_aside, set_aside_locked};
use super::files::{create_new, rename_new};
use super::{
    APPLICATION_ID, DATABASE_FILE, LOCK_FILE, Store, is_corruption, lock, query, reaction,
    versions::ModelFileName,
};
use crate::error::{Error, Result};

/// Marks the file as a backup of ours: "OLBK".
const BACKUP_ID: i32 = 0x4f4c_424b;
/// Bytes of a model's file in one row.
const PART_BYTES: usize = 16 << 20;
/// Files of models that are held open while the tables are copied, the newest first.
const HELD_FILES_MAX: usize = 256;
/// Tries, when a file is pruned between the look at the tables and the look at the directory.
const TRIES: u32 = 5;

const BACKUP_TABLES: &str = "
CREATE TABLE backup_files(
    name TEXT NOT NULL,
    part INTEGER NOT NULL,
    content BLOB NOT NULL,
    PRIMARY KEY (name, part)
) STRICT;
CREATE TABLE backup_digests(
    table_name TEXT PRIMARY KEY,
    sha256 BLOB NOT NULL
) STRICT;";

/// What is in a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backup {
    /// Bytes of the whole.
    pub bytes: u64,
    /// The newest journal entry; 0 with none.
    pub sequence: u64,
    /// Files of models.
    pub files: usize,
}

impl Store {
    /// Writes a backup to `file`, which is only known to be whole once this returns: for somebody who
    /// gives it its name afterwards.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it can't be written.
    pub fn write_backup(&self, file: &Path) -> Result<Backup> {
        let path = file
            .to_str()
            .ok_or_else(|| Error::Config(format!("{} is no name in UTF-8", file.display())))?;
        for _ in 0..TRIES {
            // For its owner alone: dead letters hold what producers sent.
            File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(file)
                .map_err(|error| unwritten(file, &error))?;
            // What is pruned meanwhile can still be read.
            let mut held = self.hold_model_files();
            // One read transaction: the tables as of one moment.
            self.connection.execute("VACUUM INTO ?1", [path]).map_err(|error| reaction(&error))?;
            let mut connection = Connection::open(file).map_err(|error| reaction(&error))?;
            connection
                .execute_batch(&format!(
                    "PRAGMA journal_mode = DELETE; {BACKUP_TABLES}
                     PRAGMA application_id = {BACKUP_ID};"
                ))
                .map_err(|error| reaction(&error))?;
            let names = model_files(&connection)?;
            let mut missing = false;
            let transaction = connection.transaction().map_err(|error| reaction(&error))?;
            for name in &names {
                let model = match held.remove(name) {
                    Some(model) => Ok(model),
                    None => File::open(self.directory.join(name)),
                };
                match model {
                    Ok(model) => pack(&transaction, name, model)?,
                    // Made and pruned since: look at both again.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => missing = true,
                    Err(error) => {
                        return Err(Error::Unavailable(format!("can't read {name}: {error}")));
                    }
                }
            }
            for table in tables(&transaction)? {
                let digest = table_digest(&transaction, &table)?;
                transaction
                    .execute(
                        "INSERT INTO backup_digests(table_name, sha256) VALUES (?1, ?2)",
                        params![table, digest],
                    )
                    .map_err(|error| reaction(&error))?;
            }
            transaction.commit().map_err(|error| reaction(&error))?;
            if missing {
                continue;
            }
            let sequence = super::Counters::load(&connection)?.last_sequence;
            connection.close().map_err(|(_, error)| reaction(&error))?;
            let failed = |error| unwritten(file, &error);
            File::open(file).and_then(|file| file.sync_all()).map_err(failed)?;
            let bytes = fs::metadata(file).map_err(failed)?.len();
            return Ok(Backup { bytes, sequence, files: names.len() });
        }
        Err(Error::Corrupt(format!(
            "files that the database in {} names are not there: it can't be backed up as a whole",
            self.directory.display()
        )))
    }
}

impl Store {
    fn hold_model_files(&self) -> BTreeMap<String, File> {
        let Ok(entries) = fs::read_dir(&self.directory) else { return BTreeMap::new() };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> =
            names.filter(|name| ModelFileName::parse(name).is_some()).collect();
        // Their numbers are padded: the newest of each kind sort last.
        names.sort_by(|one, other| other.cmp(one));
        let held = names.into_iter().take(HELD_FILES_MAX).filter_map(|name| {
            let file = File::open(self.directory.join(&name)).ok()?;
            Some((name, file))
        });
        held.collect()
    }
}

/// Fills an empty directory from a backup; every part of it is checked on the way. With
/// the time now (Unix ms) as `start_empty`, what a state directory holds is moved aside first. A restore that was interrupted is
/// begun again.
///
/// # Errors
/// [`Error::Conflict`] when the directory is not empty, [`Error::Corrupt`] when the backup is
/// damaged or none. What was written is removed then.
pub fn restore_backup(backup: &Path, directory: &Path, start_empty: Option<i64>) -> Result<Backup> {
    let connection = open_backup(backup)?;
    fs::create_dir_all(directory).map_err(|error| unwritten(directory, &error))?;
    let _lock = lock(directory)?;
    if let Some(now_ms) = start_empty
        && find_other(directory)?.is_some()
    {
        let aside = set_aside_locked(directory, now_ms)?;
        log::warn!("restore=start_empty set_aside={}", aside.display());
    }
    // Begun in an empty directory, and without a database no start has followed: all is its own.
    if directory.join(RESTORED_FILE).exists() && !directory.join(DATABASE_FILE).exists() {
        let entries = fs::read_dir(directory).map_err(|error| unwritten(directory, &error))?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let (of_models, of_database): (Vec<_>, Vec<_>) = names
            .filter(|name| name.starts_with(RESTORED_FILE) || ModelFileName::parse(name).is_some())
            .partition(|name| !name.starts_with(RESTORED_FILE));
        for name in of_models.iter().chain(&of_database) {
            let path = directory.join(name);
            fs::remove_file(&path).map_err(|error| unwritten(&path, &error))?;
        }
    }
    if let Some(name) = find_other(directory)? {
        return Err(Error::Conflict(format!(
            "{} is not empty ({}): name an empty directory in MODEL_STORAGE_PATH, or move what is \
             there aside with --start-empty",
            directory.display(),
            name.display()
        )));
    }
    let mut written = Vec::new();
    let restored = unpack(&connection, backup, directory, &mut written);
    if restored.is_err() {
        // The mark of a restore goes last.
        for path in written.iter().rev() {
            // Best effort; what stays is named by the next try.
            let _ = fs::remove_file(path);
        }
    }
    restored
}

/// Something in a directory that a restore does not find in an empty one.
fn find_other(directory: &Path) -> Result<Option<std::ffi::OsString>> {
    let entries = fs::read_dir(directory).map_err(|error| unwritten(directory, &error))?;
    let names = entries.flatten().map(|entry| entry.file_name());
    Ok(names
        .into_iter()
        .find(|name| name != LOCK_FILE && name != "lost+found" && !is_set_aside(name)))
}

/// Opens a backup to read from it, when it is one and sound.
fn open_backup(backup: &Path) -> Result<Connection> {
    let shown = backup.display();
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let damaged = |error: rusqlite::Error| {
        if is_corruption(&error) {
            return Error::Corrupt(format!("the backup {shown} is damaged or none: {error}"));
        }
        reaction(&error)
    };
    if let Err(error) = File::open(backup) {
        return Err(Error::NotFound(format!("can't read {shown}: {error}")));
    }
    let connection = Connection::open_with_flags(backup, flags).map_err(damaged)?;
    let id: i32 =
        connection.query_row("PRAGMA application_id", [], |row| row.get(0)).map_err(damaged)?;
    if id != BACKUP_ID {
        return Err(Error::Corrupt(format!("{shown} is no backup (application_id {id})")));
    }
    let finding: String =
        connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(damaged)?;
    if finding != "ok" {
        return Err(Error::Corrupt(format!("the backup {shown} is damaged: {finding}")));
    }
    for table in tables(&connection).map_err(|error| Error::Corrupt(error.to_string()))? {
        let known: Vec<Vec<u8>> = query(
            &connection,
            "SELECT sha256 FROM backup_digests WHERE table_name = ?1",
            [&table],
            |row| row.get(0),
        )
        .map_err(|error| Error::Corrupt(format!("the backup {shown} is damaged: {error}")))?;
        if known != [table_digest(&connection, &table)?] {
            return Err(Error::Corrupt(format!(
                "the backup {shown} is damaged: the table {table} is not as it was written"
            )));
        }
    }
    Ok(connection)
}

/// Every table of a backup but that of the digests.
fn tables(connection: &Connection) -> Result<Vec<String>> {
    query(
        connection,
        "SELECT name FROM sqlite_schema
         WHERE type = 'table' AND name != 'backup_digests' AND name NOT LIKE 'sqlite_%'
         ORDER BY name",
        [],
        |row| row.get(0),
    )
}

/// SHA-256 of all values of a table, in the order in which they stand: SQLite has no checksums, and
/// not every value has one of ours.
fn table_digest(connection: &Connection, table: &str) -> Result<Vec<u8>> {
    let failed = |error: rusqlite::Error| {
        if is_corruption(&error) {
            return Error::Corrupt(format!("the backup's table {table} is damaged: {error}"));
        }
        reaction(&error)
    };
    // A name from the schema of a file that may come from anywhere.
    let quoted = table.replace('"', "\"\"");
    let mut statement =
        connection.prepare(&format!("SELECT * FROM \"{quoted}\"")).map_err(failed)?;
    let columns = statement.column_count();
    let mut rows = statement.query([]).map_err(failed)?;
    let mut hasher = Sha256::new();
    while let Some(row) = rows.next().map_err(failed)? {
        for column in 0..columns {
            let (kind, bytes) = match row.get_ref(column).map_err(failed)? {
                ValueRef::Null => (0_u8, Cow::Borrowed(&[][..])),
                ValueRef::Integer(number) => (1, Cow::Owned(number.to_le_bytes().to_vec())),
                ValueRef::Real(number) => (2, Cow::Owned(number.to_le_bytes().to_vec())),
                ValueRef::Text(text) => (3, Cow::Borrowed(text)),
                ValueRef::Blob(bytes) => (4, Cow::Borrowed(bytes)),
            };
            hasher.update([kind]);
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(&bytes);
        }
    }
    Ok(hasher.finalize().to_vec())
}

fn unpack(
    connection: &Connection,
    backup: &Path,
    directory: &Path,
    written: &mut Vec<PathBuf>,
) -> Result<Backup> {
    let names = model_files(connection)?;
    // It tells that the restore has begun, and becomes the database when all else is there.
    let temporary = directory.join(RESTORED_FILE);
    written.push(temporary.clone());
    let failed = |error: std::io::Error| unwritten(&temporary, &error);
    create_new(&temporary).and_then(|file| file.sync_all()).map_err(failed)?;
    sync_directory_of(&temporary).map_err(failed)?;
    for name in &names {
        // A name becomes a path: only those that we write ourselves.
        if ModelFileName::parse(name).is_none() || name.contains(['/', '\\']) {
            return Err(Error::Corrupt(format!(
                "the backup names a file {name:?}, which is none of ours"
            )));
        }
        let path = directory.join(name);
        written.push(path.clone());
        unpack_file(connection, name, &path)?;
    }
    // The database comes last and whole: without it there is nothing to start from.
    fs::copy(backup, &temporary).map_err(failed)?;
    let restored = Connection::open(&temporary).map_err(|error| reaction(&error))?;
    restored
        .execute_batch(&format!(
            "DROP TABLE backup_files; DROP TABLE backup_digests; PRAGMA application_id = {APPLICATION_ID}; VACUUM;"
        ))
        .map_err(|error| reaction(&error))?;
    let counters = super::Counters::load(&restored)?;
    restored.close().map_err(|(_, error)| reaction(&error))?;
    File::open(&temporary).and_then(|file| file.sync_all()).map_err(failed)?;
    let database = directory.join(DATABASE_FILE);
    rename_new(&temporary, &database).map_err(failed)?;
    sync_directory_of(&database).map_err(failed)?;
    let bytes = fs::metadata(backup).map_err(failed)?.len();
    Ok(Backup { bytes, sequence: counters.last_sequence, files: names.len() })
}

/// The files that the tables name, those that are being written aside.
fn model_files(connection: &Connection) -> Result<Vec<String>> {
    query(
        connection,
        "SELECT model_file_path FROM checkpoints UNION SELECT model_file_path FROM model_versions
         WHERE status IN ('active', 'deprecated') AND digest IS NOT NULL",
        [],
        |row| row.get(0),
    )
}

fn pack(connection: &Connection, name: &str, mut file: File) -> Result<()> {
    let mut part = Vec::new();
    for number in 0_i64.. {
        part.clear();
        (&mut file)
            .take(PART_BYTES as u64)
            .read_to_end(&mut part)
            .map_err(|error| Error::Unavailable(format!("can't read {name}: {error}")))?;
        if part.is_empty() && number > 0 {
            break;
        }
        connection
            .execute(
                "INSERT INTO backup_files(name, part, content) VALUES (?1, ?2, ?3)",
                params![name, number, part],
            )
            .map_err(|error| reaction(&error))?;
    }
    Ok(())
}

fn unpack_file(connection: &Connection, name: &str, path: &Path) -> Result<()> {
    let failed = |error: std::io::Error| unwritten(path, &error);
    let mut statement = connection
        .prepare("SELECT part, content FROM backup_files WHERE name = ?1 ORDER BY part")
        .map_err(|error| reaction(&error))?;
    let mut rows = statement.query([name]).map_err(|error| reaction(&error))?;
    let mut file = create_new(path).map_err(failed)?;
    let mut parts = 0_i64;
    while let Some(row) = rows.next().map_err(|error| reaction(&error))? {
        let content: Vec<u8> = row.get(1).map_err(|error| reaction(&error))?;
        if row.get::<_, i64>(0).map_err(|error| reaction(&error))? != parts {
            return Err(Error::Corrupt(format!("the backup lacks part {parts} of {name}")));
        }
        file.write_all(&content).map_err(failed)?;
        parts += 1;
    }
    if parts == 0 {
        return Err(Error::Corrupt(format!("the backup lacks {name}")));
    }
    file.sync_all().map_err(failed)
}

fn sync_directory_of(file: &Path) -> std::io::Result<()> {
    let directory = file.parent().filter(|path| !path.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

fn unwritten(path: &Path, error: &std::io::Error) -> Error {
    Error::Unavailable(format!("can't write {}: {error}", path.display()))
}

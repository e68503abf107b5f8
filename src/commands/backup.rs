//! `backup` and `restore`: the whole state directory in one file, and back.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};

use crate::commands::settings::Settings;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::learner::{Now, restored};
use crate::store::{Backup, Store, StoreOptions, rename_new, restore_backup};

/// Ends the name of the directory in which a backup is made or checked.
const WORK_SUFFIX: &str = ".online-learning-partial";
/// Locked by whoever works in such a directory.
const WORK_LOCK: &str = "lock";

/// What to write a backup of, and where.
#[derive(Debug, Args)]
pub struct BackUp {
    /// File to write; it must not be there yet
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// The settings of the service.
    #[command(flatten)]
    pub settings: Settings,
}

/// Writes a backup of the configured directory, beside a running service or without one, and restores
/// it once to see that it can be. Only then it gets its name, which no other file may have.
///
/// # Errors
/// As [`Store::open_read_only`], [`Store::write_backup`] and [`restore_backup`]; nothing is left
/// behind then.
pub fn back_up(plan: &BackUp, out: &mut impl Write) -> Result<()> {
    let (config, file) = (&plan.settings.config()?, plan.file.as_path());
    let store = Store::open_read_only(&config.storage_path, config.store)?;
    let is_there =
        || Error::Conflict(format!("{} is there already: name a new file", file.display()));
    if file.symlink_metadata().is_ok() {
        return Err(is_there());
    }
    let work = Work::beside(file).map_err(|error| unwritten(file, &error))?;
    let written = work.path.join("backup");
    let Backup { bytes, sequence, files } = store.write_backup(&written)?;
    drop(store);
    check(config, &written, &work)?;
    rename_new(&written, file).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => is_there(),
        _ => unwritten(file, &error),
    })?;
    let directory = directory_of(file);
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| unwritten(file, &error))?;
    print(
        out,
        &format!(
            "backup={} bytes={bytes} sequence={sequence} model_files={files} checked=yes",
            file.display()
        ),
    )
}

/// What to restore, and how.
#[derive(Debug, Args)]
pub struct Restore {
    /// Backup to read
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// Only say whether it could be restored
    #[arg(long)]
    check: bool,
    /// Move what the directory holds aside first, where it is kept
    #[arg(long)]
    start_empty: bool,
    /// The settings of the service.
    #[command(flatten)]
    pub settings: Settings,
}

/// Restores a backup into the configured directory, which must be empty, or only checks it.
///
/// # Errors
/// As [`restore_backup`].
pub fn restore(plan: &Restore, out: &mut impl Write) -> Result<()> {
    let (config, file) = (&plan.settings.config()?, plan.file.as_path());
    if let Err(error) = File::open(file) {
        return Err(Error::NotFound(format!("can't read {}: {error}", file.display())));
    }
    // The backup may lie where nothing can be written.
    let elsewhere = || std::env::temp_dir().join(file.file_name().unwrap_or_default());
    let work = Work::beside(file).or_else(|_| Work::beside(&elsewhere()));
    let work = work.map_err(|error| unwritten(&elsewhere(), &error))?;
    let Backup { bytes, sequence, files } = check(config, file, &work)?;
    if plan.check {
        return print(
            out,
            &format!(
                "backup={} bytes={bytes} sequence={sequence} model_files={files} sound=yes",
                file.display()
            ),
        );
    }
    let start_empty = plan.start_empty.then(|| Now::read().unix_ms);
    restore_backup(file, &config.storage_path, start_empty)?;
    print(
        out,
        &format!(
            "restored={} sequence={sequence} model_files={files}",
            config.storage_path.display()
        ),
    )
}

/// Restores a backup into a directory of its own, and the model from that: what comes up once comes
/// up again.
fn check(config: &Config, file: &Path, work: &Work) -> Result<Backup> {
    let directory = work.path.join("check");
    let backup = restore_backup(file, &directory, None)?;
    let options = StoreOptions { integrity_check: true, ..config.store };
    let store = Store::open(&directory, options)?;
    let counters = store.counters()?;
    let model = restored(&store, config.learner.settings)?;
    if model.sequence() != counters.learned_sequence {
        return Err(Error::Corrupt(format!(
            "the backup {} gives a model of {} entries, {} were learned",
            file.display(),
            model.sequence(),
            counters.learned_sequence
        )));
    }
    Ok(backup)
}

/// A directory that goes with its owner; what one that was killed left behind goes with the next one
/// beside it.
struct Work {
    path: PathBuf,
    /// Held, never read.
    _lock: File,
}

impl Work {
    fn beside(file: &Path) -> io::Result<Self> {
        remove_abandoned(directory_of(file));
        let mut name = file.as_os_str().to_owned();
        name.push(format!(".{}{WORK_SUFFIX}", std::process::id()));
        let path = PathBuf::from(name);
        fs::create_dir(&path)?;
        let lock = File::create_new(path.join(WORK_LOCK)).and_then(|lock| {
            lock.try_lock()?;
            Ok(lock)
        });
        match lock {
            Ok(lock) => Ok(Self { path, _lock: lock }),
            Err(error) => {
                remove(&path);
                Err(error)
            }
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(directory: &Path) {
    if let Err(error) = fs::remove_dir_all(directory)
        && error.kind() != io::ErrorKind::NotFound
    {
        log::warn!("directory={} delete=failed error=\"{error}\"", directory.display());
    }
}

/// Removes what backups that were killed have left in a directory: a lock that nobody holds tells.
fn remove_abandoned(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let is_work = entry.file_name().to_str().is_some_and(|name| name.ends_with(WORK_SUFFIX))
            && entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !is_work {
            continue;
        }
        let lock = File::open(entry.path().join(WORK_LOCK));
        if lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
            log::info!("backup=abandoned directory={} removed=yes", entry.path().display());
            remove(&entry.path());
        }
    }
}

fn directory_of(file: &Path) -> &Path {
    file.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn unwritten(path: &Path, error: &io::Error) -> Error {
    Error::Unavailable(format!("can't write {}: {error}", path.display()))
}

fn print(out: &mut impl Write, text: &str) -> Result<()> {
    writeln!(out, "{text}").map_err(Error::unprinted)
}

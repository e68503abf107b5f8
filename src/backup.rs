//! `backup` and `restore`: the whole state directory in one file, and back.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::learner::restored;
use crate::store::{Backup, Store, StoreOptions, restore_backup};

/// Writes a backup of the configured directory, beside a running service or without one, and restores
/// it once to see that it can be.
///
/// # Errors
/// As [`Store::open_read_only`], [`Store::back_up`] and [`restore_backup`].
pub fn back_up(config: &Config, file: &Path, out: &mut impl Write) -> Result<()> {
    let store = Store::open_read_only(&config.storage_path, config.store)?;
    let Backup { bytes, sequence, files } = store.back_up(file)?;
    drop(store);
    check(config, file)?;
    print(
        out,
        &format!(
            "backup={} bytes={bytes} sequence={sequence} model_files={files} checked=yes",
            file.display()
        ),
    )
}

/// Restores a backup into the configured directory, which must be empty, or only checks it.
///
/// # Errors
/// As [`restore_backup`].
pub fn restore(config: &Config, file: &Path, only_check: bool, out: &mut impl Write) -> Result<()> {
    let Backup { bytes, sequence, files } = check(config, file)?;
    if only_check {
        return print(
            out,
            &format!(
                "backup={} bytes={bytes} sequence={sequence} model_files={files} sound=yes",
                file.display()
            ),
        );
    }
    restore_backup(file, &config.storage_path)?;
    print(
        out,
        &format!(
            "restored={} sequence={sequence} model_files={files}",
            config.storage_path.display()
        ),
    )
}

/// Restores a backup into a directory of its own, beside the file, and the model from that: what
/// comes up once comes up again.
fn check(config: &Config, file: &Path) -> Result<Backup> {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".check-{}", std::process::id()));
    let directory = Temporary(PathBuf::from(name));
    let backup = restore_backup(file, &directory.0)?;
    let options = StoreOptions { integrity_check: true, ..config.store };
    let store = Store::open(&directory.0, options)?;
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

/// A directory that goes with its owner.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            log::warn!("directory={} delete=failed error=\"{error}\"", self.0.display());
        }
    }
}

fn print(out: &mut impl Write, text: &str) -> Result<()> {
    writeln!(out, "{text}").map_err(|error| Error::Fatal(format!("can't print: {error}")))
}

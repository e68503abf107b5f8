//! `export` and `import-model`: a version's model from one directory to another, as the JSON of its
//! file, whose digest goes with it.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use serde_json::Value;

use crate::commands::client::Client;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::learner::Event;
use crate::service::RealTimeModelUpdater;
use crate::store::{Store, parse_model};

/// Largest file that is imported, in bytes.
const MODEL_BYTES_MAX: u64 = 1 << 30;

/// Writes a version's model to `out`, once its digest was checked.
///
/// # Errors
/// [`Error::NotFound`] when there is no such version, [`Error::Corrupt`] when its file is damaged.
pub fn export(config: &Config, version_id: &str, out: &mut impl Write) -> Result<()> {
    let store = Store::open_read_only(&config.storage_path, config.store)?;
    let version = store
        .version(version_id)?
        .ok_or_else(|| Error::NotFound(format!("there is no version {version_id:?}")))?;
    let Some(digest) = &version.digest else {
        return Err(Error::Conflict(format!("version {version_id:?} has not been written yet")));
    };
    let path = config.storage_path.join(&version.model_file_path);
    let bytes = read(&path)?;
    if parse_model(&bytes, config.learner.settings)?.1 != *digest {
        let text = format!("{} is not the file of version {version_id:?}", path.display());
        return Err(Error::Corrupt(text));
    }
    out.write_all(&bytes).map_err(|error| Error::Fatal(format!("can't print: {error}")))
}

/// Makes the model of a file the active version of the configured directory, which no service may
/// hold.
///
/// # Errors
/// [`Error::Invalid`] when the file is no model, what [`RealTimeModelUpdater::start`] fails with.
pub fn into_storage(config: &Config, file: &Path, out: &mut impl Write) -> Result<()> {
    let (model, _) = parse_model(&read(file)?, config.learner.settings)?;
    let updater = RealTimeModelUpdater::start_configured(config)?;
    let model = Box::new(model);
    let made = updater.inbox().ask(|reply| Event::ImportModel { model, reply });
    updater.stop()?;
    print(out, &made?.version_id)
}

/// Makes the model of a file the active version of a running service.
///
/// # Errors
/// As [`Client::post`].
pub fn into_service(
    url: &str,
    token_file: Option<&Path>,
    file: &Path,
    out: &mut impl Write,
) -> Result<()> {
    let client = Client::new(url)?.with_token_file(token_file)?;
    let answer: Value = client.post_bytes("/api/learning/models/import", &read(file)?)?;
    print(out, answer["version_id"].as_str().unwrap_or_default())
}

fn print(out: &mut impl Write, version_id: &str) -> Result<()> {
    writeln!(out, "imported={version_id}")
        .map_err(|error| Error::Fatal(format!("can't print: {error}")))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let failed =
        |error: std::io::Error| Error::NotFound(format!("can't read {}: {error}", path.display()));
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MODEL_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MODEL_BYTES_MAX {
        return Err(Error::invalid(
            "",
            format!("{} is larger than {MODEL_BYTES_MAX} bytes", path.display()),
        ));
    }
    Ok(bytes)
}

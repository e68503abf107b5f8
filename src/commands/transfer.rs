//! `export` and `import-model`: a version's model from one directory to another, as the JSON of its
//! file, whose digest goes with it.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use serde_json::Value;

use crate::commands::client::Client;
use crate::commands::settings::Settings;
use crate::commands::state::StateArgs;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::learner::Event;
use crate::service::RealTimeModelUpdater;
use crate::store::{Store, parse_model};

/// Largest file that is imported, in bytes.
const MODEL_BYTES_MAX: u64 = 1 << 30;

/// Which model to print.
#[derive(Debug, Args)]
pub struct Export {
    /// Id of the version, such as agent_selection-3
    #[arg(value_name = "VERSION")]
    version: String,
    /// The settings of the service.
    #[command(flatten)]
    pub settings: Settings,
}

impl Export {
    /// Writes a version's model to `out`, once its digest was checked.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such version, [`Error::Corrupt`] when its file is damaged.
    pub fn run(&self, out: &mut impl Write) -> Result<()> {
        export(&self.settings.config()?, &self.version, out)
    }
}

/// Which model to import.
#[derive(Debug, Args)]
pub struct ImportModel {
    /// File that export printed
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// Where it is imported to.
    #[command(flatten)]
    pub state: StateArgs,
}

impl ImportModel {
    /// Makes the model of a file the active version: of a running service, or of the configured
    /// directory, which no service may hold.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the file is no model, what [`RealTimeModelUpdater::start`] fails with, or
    /// what the service answers.
    pub fn run(&self, out: &mut impl Write) -> Result<()> {
        let version_id = match self.state.service()? {
            Some(client) => into_service(&client, &self.file)?,
            None => into_storage(&self.state.settings.config()?, &self.file)?,
        };
        writeln!(out, "imported={version_id}").map_err(Error::unprinted)
    }
}

fn export(config: &Config, version_id: &str, out: &mut impl Write) -> Result<()> {
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
    out.write_all(&bytes).map_err(Error::unprinted)
}

fn into_storage(config: &Config, file: &Path) -> Result<String> {
    let (model, _) = parse_model(&read(file)?, config.learner.settings)?;
    let updater = RealTimeModelUpdater::start_configured(config)?;
    let model = Box::new(model);
    let made = updater.inbox().ask(|reply| Event::ImportModel { model, reply });
    updater.stop()?;
    Ok(made?.version_id)
}

fn into_service(client: &Client, file: &Path) -> Result<String> {
    let answer: Value = client.post_bytes("/api/learning/models/import", &read(file)?)?;
    Ok(answer["version_id"].as_str().unwrap_or_default().to_owned())
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

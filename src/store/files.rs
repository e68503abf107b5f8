//! Files of saved models: JSON, checked by the digest of the state in them, and never half
//! written under their name.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::model::{AgentPerformanceModel, Settings};
use crate::outcome::hex;

const FORMAT: u32 = 1;

/// What a file holds. The digest comes last, since it is known last.
#[derive(Deserialize)]
struct ModelFile<'a> {
    format: u32,
    #[serde(borrow)]
    state: &'a RawValue,
    digest: &'a str,
}

/// Writes a model's state to `directory/name`: to a temporary file, synced, then renamed.
/// Returns the digest of the state.
///
/// # Errors
/// [`Error::Unavailable`] when the file could not be written; none is left behind then.
pub fn write_model(directory: &Path, name: &str, model: &AgentPerformanceModel) -> Result<String> {
    let path = directory.join(name);
    let temporary = directory.join(format!("{name}.tmp"));
    let written = write_synced(&temporary, model).and_then(|digest| {
        fs::rename(&temporary, &path)?;
        // The rename is durable once the directory is.
        File::open(directory)?.sync_all()?;
        Ok(digest)
    });
    written.map_err(|error| {
        // Best effort: a leftover is overwritten by the next try.
        let _ = fs::remove_file(&temporary);
        Error::Unavailable(format!("can't write {}: {error}", path.display()))
    })
}

fn write_synced(path: &Path, model: &AgentPerformanceModel) -> io::Result<String> {
    /// Passes bytes on and hashes them on the way.
    struct Tee<W> {
        inner: W,
        hasher: Sha256,
    }
    impl<W: Write> Write for Tee<W> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let written = self.inner.write(bytes)?;
            self.hasher.update(&bytes[..written]);
            Ok(written)
        }
        fn flush(&mut self) -> io::Result<()> {
            self.inner.flush()
        }
    }

    let settings = serde_json::to_string(model.settings())?;
    let sequence = model.sequence();
    let mut file = BufWriter::with_capacity(64 * 1024, File::create(path)?);
    write!(
        file,
        "{{\"format\":{FORMAT},\"learned_sequence\":{sequence},\"settings\":{settings},\"state\":"
    )?;
    let mut tee = BufWriter::with_capacity(64 * 1024, Tee { inner: file, hasher: Sha256::new() });
    serde_json::to_writer(&mut tee, &model.state())?;
    let Tee { inner: mut file, hasher } =
        tee.into_inner().map_err(io::IntoInnerError::into_error)?;
    let digest = hex(&hasher.finalize());
    writeln!(file, ",\"digest\":\"{digest}\"}}")?;
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok(digest)
}

/// Reads the model of `directory/name`, whose state must have `digest`, as learned up to journal
/// entry `sequence`.
///
/// # Errors
/// [`Error::Corrupt`] when the file is missing, damaged or another one.
pub fn read_model(
    directory: &Path,
    name: &str,
    digest: &str,
    sequence: u64,
    settings: Settings,
) -> Result<AgentPerformanceModel> {
    let path = directory.join(name);
    let corrupt = |what: &dyn std::fmt::Display| {
        Error::Corrupt(format!("the model file {}: {what}", path.display()))
    };
    let text = fs::read_to_string(&path).map_err(|error| corrupt(&error))?;
    let file: ModelFile<'_> = serde_json::from_str(&text).map_err(|error| corrupt(&error))?;
    if file.format != FORMAT {
        let seen = file.format;
        return Err(corrupt(&format!("has format {seen}, this program reads {FORMAT}")));
    }
    let found = hex(&Sha256::digest(file.state.get()));
    if found != file.digest || found != digest {
        return Err(corrupt(&format!("its state has the digest {found}, not {digest}")));
    }
    AgentPerformanceModel::from_state(file.state.get(), sequence, settings)
}

//! Files of saved models: JSON, checked by the digest of the state in them, and never half
//! written under their name.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::model::{AgentPerformanceModel, Settings};
use crate::outcome::hex;

/// Of the files written. The state has no values (of quality, latency, cost) before 3; before 4 it has
/// four copies of the regression, and nothing that the agents have in common.
pub const FORMAT: u32 = 4;
/// The oldest one read.
const FORMAT_MIN: u32 = 2;

/// What every format has in its header.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// What stands before the state, as an object of its own.
#[derive(Deserialize)]
struct Header {
    learned_sequence: u64,
}

/// Ends the header. It can't occur in it: settings have no such field.
const BEFORE_STATE: &[u8] = b",\"state\":";
/// Longest header looked for, in bytes.
const HEADER_BYTES_MAX: u64 = 64 * 1024;
const BEFORE_DIGEST: &str = ",\"digest\":\"";
const AFTER_DIGEST: &str = "\"}\n";
/// Digits of a digest.
const DIGEST_BYTES: u64 = 64;

/// Writes a model's state to `directory/name`: to a temporary file, synced, then renamed.
/// Returns the digest of the state.
///
/// # Errors
/// [`Error::Unavailable`] when the file could not be written; none is left behind then.
pub fn write_model(directory: &Path, name: &str, model: &AgentPerformanceModel) -> Result<String> {
    let path = directory.join(name);
    let temporary = directory.join(format!("{name}.tmp"));
    // A leftover, or a link: what it leads to is none of ours.
    let _ = fs::remove_file(&temporary);
    let written = write_synced(&temporary, model).and_then(|digest| {
        rename_new(&temporary, &path)?;
        // The rename is durable once the directory is.
        File::open(directory).and_then(|directory| directory.sync_all()).inspect_err(|_| {
            // Best effort: it is named by nobody.
            let _ = fs::remove_file(&path);
        })?;
        Ok(digest)
    });
    written.map_err(|error| {
        // Best effort: a leftover is removed by the next try.
        let _ = fs::remove_file(&temporary);
        Error::Unavailable(format!("can't write {}: {error}", path.display()))
    })
}

/// Gives a file a name that no other one has. What has it already is kept: it was not written by
/// whoever calls this.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some network file systems can't.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            if to.symlink_metadata().is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            fs::rename(from, to)
        }
        renamed => Ok(renamed?),
    }
}

/// Makes a file that is not there yet, for whoever owns its directory.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    let file = File::create_new(path)?;
    give_to_owner_of(path.parent().unwrap_or(Path::new("/")), &file);
    Ok(file)
}

/// Gives what root makes in the directory of a service to the service's user, who could not read it otherwise.
/// Whoever is not root owns what is made anyway.
pub(crate) fn give_to_owner_of(directory: &Path, file: &File) {
    use std::os::unix::fs::{MetadataExt, fchown};
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let given = directory.metadata().and_then(|owner| {
        let made = file.metadata()?;
        if (made.uid(), made.gid()) == (owner.uid(), owner.gid()) {
            return Ok(());
        }
        fchown(file, Some(owner.uid()), Some(owner.gid()))
    });
    if let Err(error) = given {
        log::warn!("directory={} owner=not_given error=\"{error}\"", directory.display());
    }
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
    let mut file = BufWriter::with_capacity(64 * 1024, create_new(path)?);
    write!(
        file,
        "{{\"format\":{FORMAT},\"learned_sequence\":{sequence},\"settings\":{settings},\"state\":"
    )?;
    let mut tee = BufWriter::with_capacity(64 * 1024, Tee { inner: file, hasher: Sha256::new() });
    serde_json::to_writer(&mut tee, &model.state())?;
    let Tee { inner: mut file, hasher } =
        tee.into_inner().map_err(io::IntoInnerError::into_error)?;
    let digest = hex(&hasher.finalize());
    write!(file, "{BEFORE_DIGEST}{digest}{AFTER_DIGEST}")?;
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
    let mut file = File::open(&path).map_err(|error| corrupt(&error))?;
    let length = file.metadata().map_err(|error| corrupt(&error))?.len();

    let (_, end) = read_header(&file).map_err(|error| corrupt(&error))?;
    let start = (end + BEFORE_STATE.len()) as u64;
    let tail = BEFORE_DIGEST.len() as u64 + DIGEST_BYTES + AFTER_DIGEST.len() as u64;
    let state_bytes = length.checked_sub(start + tail).ok_or_else(|| corrupt(&"is cut short"))?;

    // Twice through the file, so that it is never in memory as a whole: first what it is.
    let mut hasher = Sha256::new();
    let mut rest = String::new();
    let mut read = || -> io::Result<()> {
        file.seek(SeekFrom::Start(start))?;
        let mut state = (&file).take(state_bytes);
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match state.read(&mut buffer)? {
                0 => break,
                count => hasher.update(&buffer[..count]),
            }
        }
        (&file).take(tail + 1).read_to_string(&mut rest)?;
        file.seek(SeekFrom::Start(start)).map(drop)
    };
    read().map_err(|error| corrupt(&error))?;
    let found = hex(&hasher.finalize());
    if rest != format!("{BEFORE_DIGEST}{found}{AFTER_DIGEST}") || found != digest {
        return Err(corrupt(&format!("its state has the digest {found}, not {digest}")));
    }
    // Then what it says.
    let state = BufReader::with_capacity(64 * 1024, file.take(state_bytes));
    AgentPerformanceModel::from_state(state, sequence, settings)
}

/// The model in the bytes of a file, as learned from no journal entry of ours, and its digest. White
/// space at the end is let pass.
///
/// # Errors
/// [`Error::Invalid`] when they are no saved model, of another format or damaged.
pub fn parse_model(bytes: &[u8], settings: Settings) -> Result<(AgentPerformanceModel, String)> {
    let wrong = |what: &dyn std::fmt::Display| Error::invalid("", format!("the model {what}"));
    let bytes = bytes.trim_ascii();
    let head = &bytes[..bytes.len().min(usize::try_from(HEADER_BYTES_MAX).unwrap_or(usize::MAX))];
    let (_, end) = parse_header(head).map_err(|error| wrong(&error))?;
    let start = end + BEFORE_STATE.len();
    let after = AFTER_DIGEST.trim_end();
    let tail = BEFORE_DIGEST.len() + usize::try_from(DIGEST_BYTES).unwrap_or(0) + after.len();
    let state_end = bytes.len().checked_sub(tail).filter(|state_end| *state_end >= start);
    let (state, rest) = match state_end {
        Some(state_end) => (&bytes[start..state_end], &bytes[state_end..]),
        None => return Err(wrong(&"is cut short")),
    };
    let digest = hex(&Sha256::digest(state));
    if rest != format!("{BEFORE_DIGEST}{digest}{after}").as_bytes() {
        return Err(wrong(&format!("is not as it was written: its state has the digest {digest}")));
    }
    let model =
        AgentPerformanceModel::from_state(state, 0, settings).map_err(|error| wrong(&error))?;
    Ok((model, digest))
}

/// Up to which journal entry the model of `directory/name` had learned.
///
/// # Errors
/// [`Error::Corrupt`] when the file is missing or no saved model.
pub fn learned_sequence(directory: &Path, name: &str) -> Result<u64> {
    let path = directory.join(name);
    let header = File::open(&path).and_then(|file| read_header(&file));
    let header = header
        .map_err(|error| Error::Corrupt(format!("the model file {}: {error}", path.display())))?;
    Ok(header.0.learned_sequence)
}

/// The header and its length in bytes.
fn read_header(file: &File) -> io::Result<(Header, usize)> {
    let mut head = Vec::new();
    file.take(HEADER_BYTES_MAX).read_to_end(&mut head)?;
    parse_header(&head)
}

fn parse_header(head: &[u8]) -> io::Result<(Header, usize)> {
    let end = head.windows(BEFORE_STATE.len()).position(|window| window == BEFORE_STATE);
    let end = end.ok_or_else(|| io::Error::other("is no saved model"))?;
    // The format first: another one may have another header.
    let header = [&head[..end], b"}"].concat();
    let Format { format } = serde_json::from_slice(&header)?;
    if !(FORMAT_MIN..=FORMAT).contains(&format) {
        let text = format!("has format {format}, this program reads {FORMAT_MIN} to {FORMAT}");
        return Err(io::Error::other(text));
    }
    Ok((serde_json::from_slice(&header)?, end))
}

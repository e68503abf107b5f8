//! What a file holds as a whole, because a line without an identity is known by it: equal lines of two
//! files are two events, and a file that is read again brings none.

use std::cell::{OnceCell, RefCell};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Result, Seek, Write};
use std::path::PathBuf;
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};

use super::{BUFFER_BYTES, as_text};
use crate::outcome::hex;

/// What a gzip file begins with.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The input, or what is packed in it.
pub(super) fn unpacked(input: impl Read + 'static) -> Result<Box<dyn Read>> {
    let mut input = BufReader::with_capacity(BUFFER_BYTES, input);
    if input.fill_buf()?.starts_with(&GZIP) {
        return Ok(Box::new(MultiGzDecoder::new(input)));
    }
    Ok(Box::new(input))
}

/// Lines that are being read. What has gone through a pipe is hashed on its way, because it does not come
/// again.
pub(super) struct Stream {
    input: Box<dyn BufRead>,
    taken: Option<Sha256>,
}

impl Stream {
    pub(super) fn new(input: Box<dyn BufRead>, is_pipe: bool) -> Self {
        Self { input, taken: is_pipe.then(Sha256::new) }
    }

    /// Hashes what is left, too, and keeps it where it takes no memory.
    fn finish(&mut self) -> Result<Sha256> {
        let mut hasher = self.taken.take().unwrap_or_default();
        let mut kept = tempfile::tempfile()?;
        hash_all(&mut self.input, &mut hasher, |bytes| kept.write_all(bytes))?;
        kept.rewind()?;
        self.input = Box::new(BufReader::with_capacity(BUFFER_BYTES, kept));
        Ok(hasher)
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for Stream {
    fn fill_buf(&mut self) -> Result<&[u8]> {
        self.input.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        if let (Some(hasher), Ok(buffer)) = (&mut self.taken, self.input.fill_buf()) {
            hasher.update(&buffer[..count.min(buffer.len())]);
        }
        self.input.consume(count);
    }
}

/// Where all of it can be read.
pub(super) enum Content {
    File(PathBuf),
    /// What came through a pipe.
    Kept(File),
    /// What comes through a pipe.
    Lines(Rc<RefCell<Stream>>),
}

impl Content {
    fn hash(&self) -> Result<Sha256> {
        let mut hasher = Sha256::new();
        let mut input: Box<dyn BufRead> = match self {
            Self::Lines(stream) => return stream.borrow_mut().finish(),
            Self::File(path) => as_text(File::open(path)?)?,
            Self::Kept(file) => {
                // Apart from where it is being read.
                let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
                Box::new(BufReader::with_capacity(BUFFER_BYTES, File::open(path)?))
            }
        };
        hash_all(&mut input, &mut hasher, |_| Ok(()))?;
        Ok(hasher)
    }
}

/// Takes the rest of the input.
fn hash_all(
    input: &mut dyn BufRead,
    hasher: &mut Sha256,
    mut take: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    loop {
        let buffer = input.fill_buf()?;
        let count = buffer.len();
        if count == 0 {
            return Ok(());
        }
        hasher.update(buffer);
        take(buffer)?;
        input.consume(count);
    }
}

/// Identities of the lines of a file that have none of their own.
pub(super) struct Identities {
    content: Content,
    /// The first half of the SHA-256 of the content, as UTF-8 and unpacked; found when it is first needed.
    digest: OnceCell<std::result::Result<String, String>>,
}

impl Identities {
    pub(super) fn new(content: Content) -> Self {
        Self { content, digest: OnceCell::new() }
    }

    /// The identity of a line, counted from 1; not to be used when [`Identities::check`] fails.
    pub(super) fn of(&self, number: u64, line: &[u8]) -> String {
        let digest = self.digest.get_or_init(|| match self.content.hash() {
            Ok(hasher) => Ok(hex(&hasher.finalize()[..16])),
            Err(error) => Err(error.to_string()),
        });
        let file = digest.as_deref().unwrap_or_default();
        format!("import:{file}:{number}:{}", hex(&Sha256::digest(line)[..16]))
    }

    /// Whether the file could be read as a whole, if that was needed.
    pub(super) fn check(&self) -> std::result::Result<(), &str> {
        match self.digest.get() {
            Some(Err(why)) => Err(why),
            _ => Ok(()),
        }
    }
}

//! Content codings: request bodies that were compressed, as their `Content-Encoding` says.

use std::io::{self, ErrorKind, Read};

use parking_lot::Mutex;

use super::body::{Body, BodyError};

/// Most codings of one body, each applied to what the one before left.
const CODINGS_MAX: usize = 4;
/// Largest window of a zstd frame, as a power of two: what RFC 9659 allows in HTTP.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// One at a time: a decoder's window is memory that no budget counts.
static DECODING: Mutex<()> = Mutex::new(());

/// A coding that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    Zstd,
}

/// The codings that `Content-Encoding` fields name, in the order in which they were applied.
///
/// # Errors
/// [`BodyError::Coding`] when one of them is not read, or there are too many.
pub(super) fn named<'f>(fields: impl Iterator<Item = &'f [u8]>) -> Result<Vec<Coding>, BodyError> {
    let mut codings = Vec::new();
    for name in fields.flat_map(|field| field.split(|byte| *byte == b',')) {
        let name = name.trim_ascii().to_ascii_lowercase();
        match &name[..] {
            b"" | b"identity" => continue,
            b"gzip" | b"x-gzip" => codings.push(Coding::Gzip),
            b"zstd" => codings.push(Coding::Zstd),
            _ => {
                let shown: String = String::from_utf8_lossy(&name).chars().take(200).collect();
                return Err(BodyError::Coding(format!(
                    "content-encoding is {shown:?}, allowed are gzip, zstd and identity"
                )));
            }
        }
        if codings.len() > CODINGS_MAX {
            return Err(BodyError::Coding(format!(
                "content-encoding names more than {CODINGS_MAX} codings"
            )));
        }
    }
    Ok(codings)
}

/// A body as it was sent, and how it was packed.
pub struct Packed {
    body: Body,
    codings: Vec<Coding>,
}

impl Packed {
    pub(super) fn new(body: Body, codings: Vec<Coding>) -> Self {
        // Nothing is nothing in every coding.
        let codings = if body.is_empty() { Vec::new() } else { codings };
        Self { body, codings }
    }

    /// Undoes the codings, to at most `limit` bytes.
    ///
    /// # Errors
    /// [`BodyError`]: more than that, no memory for it, or not what the codings say.
    pub fn unpack(self, limit: usize) -> Result<Body, BodyError> {
        if self.body.len() > limit {
            return Err(BodyError::TooLarge);
        }
        let unpack = |body: Body, coding: &Coding| coding.decode(&body, limit);
        self.codings.iter().rev().try_fold(self.body, unpack)
    }

    /// Undoes the codings while `read` reads, so that the whole need not be in memory. Where the body is not
    /// what they say, reading fails with [`ErrorKind::InvalidData`].
    pub fn unpacked<T>(&self, read: impl FnOnce(&mut dyn Read) -> T) -> T {
        let _one = (!self.codings.is_empty()).then(|| DECODING.lock());
        let mut reader: Box<dyn Read + '_> = Box::new(&self.body[..]);
        for coding in self.codings.iter().rev() {
            reader = Box::new(Unpacking { reader: coding.reader(reader), wrong: coding.wrong() });
        }
        read(&mut reader)
    }
}

/// Says what is wrong with a body that can't be unpacked.
struct Unpacking<'b> {
    reader: io::Result<Box<dyn Read + 'b>>,
    wrong: &'static str,
}

impl Read for Unpacking<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wrong = || io::Error::new(ErrorKind::InvalidData, self.wrong);
        match &mut self.reader {
            Ok(reader) => reader.read(buffer).map_err(|error| match error.kind() {
                ErrorKind::Interrupted => error,
                _ => wrong(),
            }),
            Err(_) => Err(wrong()),
        }
    }
}

impl Coding {
    /// What undoes this coding.
    fn reader<'b>(self, coded: Box<dyn Read + 'b>) -> io::Result<Box<dyn Read + 'b>> {
        match self {
            Self::Gzip => Ok(Box::new(flate2::read::MultiGzDecoder::new(coded))),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(coded)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Ok(Box::new(decoder))
            }
        }
    }

    /// Undoes this coding. What comes out takes its own share of the budget as it grows, up to
    /// `limit` bytes.
    pub(super) fn decode(self, coded: &Body, limit: usize) -> Result<Body, BodyError> {
        let _one = DECODING.lock();
        let undecodable = || BodyError::Undecodable(self.wrong());
        let mut decoder = self.reader(Box::new(&coded[..])).map_err(|_| undecodable())?;
        let mut body = Body::like(coded);
        loop {
            let room = limit - body.len();
            // One byte more than allowed tells a body that just fits from one that does not.
            let free = if room == 0 { &mut [0][..] } else { body.free(room)? };
            match decoder.read(free) {
                Ok(0) => break,
                Ok(_) if room == 0 => return Err(BodyError::TooLarge),
                Ok(count) => body.added(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(undecodable()),
            }
        }
        body.finish();
        Ok(body)
    }

    fn wrong(self) -> &'static str {
        match self {
            Self::Gzip => "content-encoding is gzip, but the body is no gzip data",
            Self::Zstd => {
                "content-encoding is zstd, but the body is no zstd data (windows of up to 8 MiB)"
            }
        }
    }
}

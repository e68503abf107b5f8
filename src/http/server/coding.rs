//! Content codings: request bodies that were compressed, as their `Content-Encoding` says.

use std::io::{self, ErrorKind, Read};
use std::sync::Mutex;

use super::body::{Body, BodyError};
use super::registry::lock;

/// What is read, for `Accept-Encoding`.
pub(super) const READ: &str = "gzip, zstd";
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

impl Coding {
    /// Undoes this coding. What comes out takes its own share of the budget as it grows, up to
    /// `limit` bytes.
    pub(super) fn decode(self, coded: &Body, limit: usize) -> Result<Body, BodyError> {
        let _one = lock(&DECODING);
        let unreadable = |_: io::Error| BodyError::Undecodable(self.wrong());
        match self {
            Self::Gzip => {
                self.read_all(flate2::bufread::MultiGzDecoder::new(&coded[..]), coded, limit)
            }
            Self::Zstd => {
                let mut decoder =
                    zstd::stream::read::Decoder::with_buffer(&coded[..]).map_err(unreadable)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(unreadable)?;
                self.read_all(decoder, coded, limit)
            }
        }
    }

    fn read_all(
        self,
        mut decoder: impl Read,
        coded: &Body,
        limit: usize,
    ) -> Result<Body, BodyError> {
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
                Err(_) => return Err(BodyError::Undecodable(self.wrong())),
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

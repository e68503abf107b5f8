//! Request bodies, within the memory that all of them share.

use std::fmt::{self, Display};
use std::ops::Deref;
use std::sync::Arc;

use super::budget::{Budget, Share};
use super::response::Response;
use super::socket::Stall;

/// Space for a body is reserved in steps while it arrives. The first is small, because every
/// connection can have one for nothing.
pub(super) const BODY_STEP_MIN: usize = 4 * 1024;
const BODY_STEP_MAX: usize = 64 * 1024;
/// Content codings that are read, for `Accept-Encoding`.
const CODINGS_READ: &str = "gzip, zstd";

/// A request body, which holds its share of the budget until dropped.
pub struct Body {
    /// `bytes[..length]` is the body. Everything else is reserved for it.
    bytes: Vec<u8>,
    length: usize,
    share: Share,
}

impl Body {
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        Self { bytes: Vec::new(), length: 0, share: Share::of(budget) }
    }

    /// An empty one that shares the same budget.
    pub(super) fn like(other: &Self) -> Self {
        Self { bytes: Vec::new(), length: 0, share: other.share.another() }
    }

    /// Space for more bytes, `room` at most; some where `room` is not 0.
    pub(super) fn free(&mut self, room: usize) -> Result<&mut [u8], BodyError> {
        self.grow(room)?;
        Ok(&mut self.bytes[self.length..])
    }

    /// Tells that so many bytes were written where there was space.
    pub(super) fn added(&mut self, count: usize) {
        self.length += count;
    }

    /// Makes space for more bytes, if there is none, but for `room` at most.
    pub(super) fn grow(&mut self, room: usize) -> Result<(), BodyError> {
        if self.length < self.bytes.len() {
            return Ok(());
        }
        // In proportion to what has arrived: a slow client holds little and copying stays linear.
        let step = self.length.clamp(BODY_STEP_MIN, BODY_STEP_MAX).max(self.length / 4).min(room);
        if !self.share.grow(step) {
            // What has no room at any time is not asked for again.
            let is_possible = self.share.may_grow(step);
            return Err(if is_possible { BodyError::Busy } else { BodyError::TooLarge });
        }
        self.bytes.try_reserve_exact(step).map_err(|_| BodyError::Busy)?;
        self.bytes.resize(self.length + step, 0);
        Ok(())
    }

    /// Gives back what a body of unknown length did not need.
    pub(super) fn finish(&mut self) {
        self.bytes.truncate(self.length);
        self.bytes.shrink_to_fit();
        self.share.shrink(self.length);
    }
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.length)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        // The memory goes first, so that the budget never promises it twice.
        self.bytes = Vec::new();
    }
}

/// Why a body could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyError {
    /// Longer than the limit, as sent or decoded. A declared length is refused before anything is
    /// read.
    TooLarge,
    /// Its content coding is not read; what was seen and what is allowed.
    Coding(String),
    /// It is not what its content coding says.
    Undecodable(&'static str),
    /// All connections together hold too many body bytes.
    Busy,
    /// It did not arrive in time.
    Timeout,
    /// It is not valid chunked data.
    Malformed(&'static str),
    /// The client went away.
    Disconnected,
}

impl From<Stall> for BodyError {
    fn from(stall: Stall) -> Self {
        match stall {
            Stall::TimedOut => Self::Timeout,
            Stall::Closed => Self::Disconnected,
        }
    }
}

impl Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "the request body is too large",
            Self::Busy => "too many request bodies are being received",
            Self::Timeout => "the request body took too long",
            Self::Coding(detail) => detail,
            Self::Malformed(detail) | Self::Undecodable(detail) => detail,
            Self::Disconnected => "the client went away",
        })
    }
}

impl std::error::Error for BodyError {}

impl From<BodyError> for Response {
    /// The usual answer: 413, 415 with `Accept-Encoding`, 503 with `Retry-After`, 408 or 400.
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge => Self::problem(413, error),
            BodyError::Busy => Self::busy(error),
            BodyError::Coding(_) => {
                Self::problem(415, error).with_header("Accept-Encoding", CODINGS_READ)
            }
            BodyError::Undecodable(_) => Self::problem(400, error),
            BodyError::Timeout => Self::problem(408, error).closing(),
            BodyError::Malformed(_) | BodyError::Disconnected => {
                Self::problem(400, error).closing()
            }
        }
    }
}

//! Request bodies: read as far as allowed, within the memory that all of them share.

use std::fmt::{self, Display};
use std::ops::Deref;
use std::sync::Arc;

use super::budget::{Budget, Share};
use super::coding;
use super::connection::Connection;
use super::head::{HEADERS_MAX, Unread, has_bare_line_feed};
use super::response::Response;
use super::socket::{Pace, Stall, read};

/// Longest chunk-size line, with its ignored extension.
pub(super) const CHUNK_LINE_MAX: usize = 256;
/// Longest trailer section.
pub(super) const TRAILERS_MAX: usize = 4 * 1024;
/// Space for a body is reserved in steps while it arrives. The first is small, because every
/// connection can have one for nothing.
pub(super) const BODY_STEP_MIN: usize = 4 * 1024;
const BODY_STEP_MAX: usize = 64 * 1024;

impl Connection {
    pub(super) fn read_body(&mut self, limit: usize) -> Result<Body, BodyError> {
        let mut body = Body::new(&self.shared.bodies);
        match self.unread {
            Unread::Nothing => return Ok(body),
            Unread::Broken => return Err(BodyError::Malformed("the body cannot be read again")),
            Unread::Length(length) => {
                let length = usize::try_from(length)
                    .ok()
                    .filter(|length| *length <= limit)
                    .ok_or(BodyError::TooLarge)?;
                // Before anything is read or asked for: a busy server can still keep alive.
                body.grow(length)?;
                self.unread = Unread::Broken;
                let mut pace = self.start_body()?;
                self.read_exactly(&mut body, length, length, &mut pace)?;
            }
            Unread::Chunked => {
                self.unread = Unread::Broken;
                let mut pace = self.start_body()?;
                self.read_chunks(&mut body, limit, &mut pace)?;
            }
        }
        self.unread = Unread::Nothing;
        body.finish();
        Ok(body)
    }

    /// Tells a client that waits for it to send its body. Returns the pace for the body.
    fn start_body(&mut self) -> Result<Pace, Stall> {
        if std::mem::take(&mut self.expects) && self.input().is_empty() {
            let mut pace = Pace::new(self.shared.limits.write_timeout);
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n", &mut pace)?;
        }
        Ok(Pace::new(self.shared.limits.body_timeout))
    }

    /// Appends `count` bytes of input to a body that may grow by `room` bytes.
    fn read_exactly(
        &mut self,
        body: &mut Body,
        mut count: usize,
        mut room: usize,
        pace: &mut Pace,
    ) -> Result<(), BodyError> {
        while count > 0 {
            let free = body.free(room)?;
            let wanted = free.len().min(count);
            let free = &mut free[..wanted];
            let buffered = wanted.min(self.end - self.start);
            let added = if buffered > 0 {
                free[..buffered].copy_from_slice(&self.buffer[self.start..][..buffered]);
                self.consume(buffered);
                buffered
            } else {
                // Large bodies skip the buffer.
                read(&self.socket.stream, &mut self.read_timeout, free, pace.deadline())?
            };
            pace.moved(added);
            body.added(added);
            count -= added;
            room -= added;
        }
        Ok(())
    }

    fn read_chunks(
        &mut self,
        body: &mut Body,
        limit: usize,
        pace: &mut Pace,
    ) -> Result<(), BodyError> {
        loop {
            let size = self.read_chunk_size(pace)?;
            if size == 0 {
                return self.skip_trailers(pace);
            }
            let room = limit.saturating_sub(body.length);
            let size = usize::try_from(size)
                .ok()
                .filter(|size| *size <= room)
                .ok_or(BodyError::TooLarge)?;
            self.read_exactly(body, size, room, pace)?;
            while self.input().len() < 2 {
                self.fill(pace.deadline())?;
            }
            if !self.input().starts_with(b"\r\n") {
                return Err(BodyError::Malformed("a chunk is longer than its size"));
            }
            self.consume(2);
        }
    }

    fn read_chunk_size(&mut self, pace: &mut Pace) -> Result<u64, BodyError> {
        const MALFORMED: BodyError = BodyError::Malformed("invalid chunk size");
        loop {
            let input = self.input();
            // The parser takes a missing size for zero, and line feeds in an extension.
            if input.first().is_some_and(|byte| !byte.is_ascii_hexdigit()) {
                return Err(MALFORMED);
            }
            match httparse::parse_chunk_size(input) {
                Ok(httparse::Status::Complete((length, size))) => {
                    if length > CHUNK_LINE_MAX || has_bare_line_feed(&input[..length]) {
                        return Err(MALFORMED);
                    }
                    self.consume(length);
                    return Ok(size);
                }
                Ok(httparse::Status::Partial) if input.len() < CHUNK_LINE_MAX => {}
                Ok(httparse::Status::Partial) | Err(_) => return Err(MALFORMED),
            }
            self.fill(pace.deadline())?;
        }
    }

    fn skip_trailers(&mut self, pace: &mut Pace) -> Result<(), BodyError> {
        const MALFORMED: BodyError = BodyError::Malformed("invalid trailer section");
        loop {
            let input = self.input();
            let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
            match httparse::parse_headers(input, &mut fields) {
                Ok(httparse::Status::Complete((length, _))) => {
                    if length > TRAILERS_MAX || has_bare_line_feed(&input[..length]) {
                        return Err(MALFORMED);
                    }
                    self.consume(length);
                    return Ok(());
                }
                Ok(httparse::Status::Partial) if input.len() < TRAILERS_MAX => {}
                Ok(httparse::Status::Partial) | Err(_) => return Err(MALFORMED),
            }
            self.fill(pace.deadline())?;
        }
    }
}

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
    fn grow(&mut self, room: usize) -> Result<(), BodyError> {
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
                Self::problem(415, error).with_header("Accept-Encoding", coding::READ)
            }
            BodyError::Undecodable(_) => Self::problem(400, error),
            BodyError::Timeout => Self::problem(408, error).closing(),
            BodyError::Malformed(_) | BodyError::Disconnected => {
                Self::problem(400, error).closing()
            }
        }
    }
}

//! Request bodies: read as far as allowed, within the memory that all of them share.

use std::fmt::{self, Display};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Instant;

use super::connection::Connection;
use super::head::{HEADERS_MAX, Unread, has_bare_line_feed};
use super::limits::after;
use super::response::Response;
use super::socket::{Stall, read};

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
        let mut body = Body::new(Arc::clone(&self.shared.budget));
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
                let deadline = self.start_body()?;
                self.read_exactly(&mut body, length, length, deadline)?;
            }
            Unread::Chunked => {
                self.unread = Unread::Broken;
                let deadline = self.start_body()?;
                self.read_chunks(&mut body, limit, deadline)?;
            }
        }
        self.unread = Unread::Nothing;
        body.finish();
        Ok(body)
    }

    /// Tells a client that waits for it to send its body. Returns the deadline for the body.
    fn start_body(&mut self) -> Result<Instant, Stall> {
        if std::mem::take(&mut self.expects) && self.input().is_empty() {
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n", after(self.shared.limits.write_timeout))?;
        }
        Ok(after(self.shared.limits.body_timeout))
    }

    /// Appends `count` bytes of input to a body that may grow by `room` bytes.
    fn read_exactly(
        &mut self,
        body: &mut Body,
        mut count: usize,
        mut room: usize,
        deadline: Instant,
    ) -> Result<(), BodyError> {
        while count > 0 {
            body.grow(room)?;
            let free = &mut body.bytes[body.length..];
            let wanted = free.len().min(count);
            let free = &mut free[..wanted];
            let buffered = wanted.min(self.end - self.start);
            let added = if buffered > 0 {
                free[..buffered].copy_from_slice(&self.buffer[self.start..][..buffered]);
                self.consume(buffered);
                buffered
            } else {
                // Large bodies skip the buffer.
                read(&self.socket.stream, &mut self.read_timeout, free, deadline)?
            };
            body.length += added;
            count -= added;
            room -= added;
        }
        Ok(())
    }

    fn read_chunks(
        &mut self,
        body: &mut Body,
        limit: usize,
        deadline: Instant,
    ) -> Result<(), BodyError> {
        loop {
            let size = self.read_chunk_size(deadline)?;
            if size == 0 {
                return self.skip_trailers(deadline);
            }
            let room = limit.saturating_sub(body.length);
            let size = usize::try_from(size)
                .ok()
                .filter(|size| *size <= room)
                .ok_or(BodyError::TooLarge)?;
            self.read_exactly(body, size, room, deadline)?;
            while self.input().len() < 2 {
                self.fill(deadline)?;
            }
            if !self.input().starts_with(b"\r\n") {
                return Err(BodyError::Malformed("a chunk is longer than its size"));
            }
            self.consume(2);
        }
    }

    fn read_chunk_size(&mut self, deadline: Instant) -> Result<u64, BodyError> {
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
            self.fill(deadline)?;
        }
    }

    fn skip_trailers(&mut self, deadline: Instant) -> Result<(), BodyError> {
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
            self.fill(deadline)?;
        }
    }
}

/// Body bytes that all connections together may hold.
pub(super) struct Budget {
    pub(super) held: AtomicUsize,
    pub(super) max: usize,
}

impl Budget {
    fn take(&self, count: usize) -> bool {
        self.held
            .fetch_update(SeqCst, SeqCst, |held| {
                held.checked_add(count).filter(|held| *held <= self.max)
            })
            .is_ok()
    }

    fn release(&self, count: usize) {
        self.held.fetch_sub(count, SeqCst);
    }
}

/// A request body, which holds its share of the budget until dropped.
pub struct Body {
    /// `bytes[..length]` is the body. Everything else is reserved for it.
    bytes: Vec<u8>,
    length: usize,
    held: usize,
    budget: Arc<Budget>,
}

impl Body {
    fn new(budget: Arc<Budget>) -> Self {
        Self { bytes: Vec::new(), length: 0, held: 0, budget }
    }

    /// Makes space for more bytes, if there is none, but for `room` at most.
    fn grow(&mut self, room: usize) -> Result<(), BodyError> {
        if self.length < self.bytes.len() {
            return Ok(());
        }
        // In proportion to what has arrived: a slow client holds little and copying stays linear.
        let step = self.length.clamp(BODY_STEP_MIN, BODY_STEP_MAX).max(self.length / 4).min(room);
        if !self.budget.take(step) {
            return Err(BodyError::Busy);
        }
        self.held += step;
        self.bytes.try_reserve_exact(step).map_err(|_| BodyError::Busy)?;
        self.bytes.resize(self.length + step, 0);
        Ok(())
    }

    /// Gives back what a body of unknown length did not need.
    fn finish(&mut self) {
        self.bytes.truncate(self.length);
        self.bytes.shrink_to_fit();
        self.budget.release(self.held - self.length);
        self.held = self.length;
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
        self.budget.release(self.held);
    }
}

/// Why a body could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// Longer than the limit. A declared length is refused before anything is read.
    TooLarge,
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
            Self::Malformed(detail) => detail,
            Self::Disconnected => "the client went away",
        })
    }
}

impl std::error::Error for BodyError {}

impl From<BodyError> for Response {
    /// The usual answer: 413, 503 with `Retry-After`, 408 or 400.
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge => Self::problem(413, error),
            BodyError::Busy => Self::problem(503, error).with_header("Retry-After", "1"),
            BodyError::Timeout => Self::problem(408, error).closing(),
            BodyError::Malformed(_) | BodyError::Disconnected => {
                Self::problem(400, error).closing()
            }
        }
    }
}

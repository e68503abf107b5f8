//! Reading request bodies off their connections, as far as allowed.

use super::body::{Body, BodyError};
use super::connection::Connection;
use super::head::{HEADERS_MAX, Unread, has_bare_line_feed};
use super::socket::{Pace, Stall, read};

/// Longest chunk-size line, with its ignored extension.
pub(super) const CHUNK_LINE_MAX: usize = 256;
/// Longest trailer section.
pub(super) const TRAILERS_MAX: usize = 4 * 1024;
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
            let room = limit.saturating_sub(body.len());
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

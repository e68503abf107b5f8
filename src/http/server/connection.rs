//! The life of one connection: a request after another, each with its deadlines.

use std::any::Any;
use std::net::{Shutdown, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use super::body::{Body, BodyError};
use super::budget::count_answers;
use super::coding::{self, Packed};
use super::head::{Head, Reject, Unread, parse_head};
use super::limits::{Limits, after};
use super::registry::{InFlight, Shared, Socket};
use super::response::{Broken, Framing, Parts, Response};
use super::socket::{Pace, Stall, read, write_all};

/// First size of a connection's read buffer; it doubles as needed.
const BUFFER_MIN: usize = 4 * 1024;
/// Smallest upper bound of the read buffer; must exceed the chunk line and trailer bounds.
const BUFFER_MAX: usize = 8 * 1024;
/// Longest unread body that is skipped to keep a connection alive.
const DRAIN_MAX: u64 = 64 * 1024;
/// Response bodies up to this size go out in the same write as the head.
const COALESCE_MAX: usize = 16 * 1024;
/// A closing connection discards at most this much input, for at most this long.
const LINGER_BYTES: usize = 16 * 1024 * 1024;
pub(super) const LINGER_TIME: Duration = Duration::from_secs(1);

/// Why a connection beyond the cap is closed.
pub(super) const FULL: &str = "too many connections";
/// Connections beyond the cap have to ask at once.
const SPARE_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) type Handler = dyn Fn(&mut Request<'_>) -> Response + Send + Sync;
pub(super) type Finish = dyn Fn(Response) -> Response + Send + Sync;

/// What makes answers.
pub(super) struct Answering {
    pub(super) handler: Box<Handler>,
    /// What answers go through that the handler had no part in.
    pub(super) finish: Box<Finish>,
    /// Paths that are answered also beyond the cap.
    pub(super) probes: &'static [&'static str],
}

impl Answering {
    /// An answer that the handler has no part in.
    fn own(&self, response: Response) -> Response {
        (self.finish)(response)
    }
}

/// The life of one connection. Takes what answers by value: it must be released before the
/// connection leaves the registry.
#[expect(clippy::needless_pass_by_value, reason = "see the doc comment")]
pub(super) fn serve(shared: &Arc<Shared>, socket: Arc<Socket>, answering: Arc<Answering>) {
    // Some systems let accepted sockets inherit the listener's mode.
    if socket.stream.set_nonblocking(false).is_err() || socket.stream.set_nodelay(true).is_err() {
        return;
    }
    count_answers(&shared.answers);
    let Limits { idle_timeout, header_timeout, .. } = shared.limits;
    let (idle, heading) =
        if socket.spare { (SPARE_TIMEOUT, SPARE_TIMEOUT) } else { (idle_timeout, header_timeout) };
    let mut connection = Connection::new(Arc::clone(shared), Arc::clone(&socket));
    let answered = loop {
        let refusal = match connection.read_head(idle, heading) {
            Ok(Some(mut head)) => {
                head.keep_alive &= !socket.spare;
                let may = !socket.spare || answering.probes.contains(&&*head.path);
                match InFlight::new(shared, &socket).filter(|_| may) {
                    Some(in_flight) => {
                        match exchange(in_flight, &mut connection, head, &answering) {
                            Ok(true) => None,
                            Ok(false) => break true,
                            Err(_) => break false,
                        }
                    }
                    None => Some(Response::busy(FULL)),
                }
            }
            Ok(None) if socket.spare => Some(Response::busy(FULL)),
            Ok(None) => break false,
            Err(reject) => {
                log::debug!("{}: {} {}", socket.peer, reject.status, reject.detail);
                Some(Response::problem(reject.status, &reject.detail))
            }
        };
        if let Some(refusal) = refusal {
            let response = answering.own(refusal);
            break connection.write_response(response, Asked::NOTHING, Some("close")).is_ok();
        }
        // Stop marks first and looks at `busy` second; here it is the other way round, so that
        // one of the two always notices.
        if shared.stopping.load(SeqCst) {
            break true;
        }
    };
    if answered {
        connection.linger();
    }
}

/// What of a request decides how an answer is written.
#[derive(Clone, Copy)]
struct Asked {
    head_only: bool,
    http10: bool,
}

impl Asked {
    /// What was sent is no request.
    const NOTHING: Self = Self { head_only: false, http10: false };
}

/// Answers one request. Returns whether the connection stays open.
fn exchange(
    in_flight: InFlight<'_>,
    connection: &mut Connection,
    head: Head,
    answering: &Answering,
) -> Result<bool, Stall> {
    let mut request = Request { connection: &mut *connection, head };
    let response = catch_unwind(AssertUnwindSafe(|| (answering.handler)(&mut request)));
    let Head { method, keep_alive, http10, .. } = request.head;
    let response = response.unwrap_or_else(|panic| {
        log::error!("the handler panicked: {}", panic_message(&*panic));
        answering.own(Response::problem(500, "the request could not be handled")).closing()
    });
    let skip = match connection.unread {
        Unread::Nothing => Some(0),
        Unread::Length(length) if length <= DRAIN_MAX && !connection.expects => Some(length),
        _ => None,
    };
    // HTTP/1.0 has no chunks: a body of unknown length ends with the connection.
    let until_close = http10 && response.rest.is_some();
    let stopping = connection.shared.stopping.load(SeqCst);
    let keep = keep_alive && !response.close && skip.is_some() && !stopping && !until_close;
    let connection_header = match (keep, http10) {
        (false, _) => Some("close"),
        (true, true) => Some("keep-alive"),
        (true, false) => None,
    };
    let asked = Asked { head_only: method == "HEAD", http10 };
    connection.write_response(response, asked, connection_header)?;
    drop(in_flight);
    if let (true, Some(length)) = (keep, skip) {
        connection.skip_body(length)?;
    }
    Ok(keep)
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// One connection with its input that was received but not used yet.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) socket: Arc<Socket>,
    /// `buffer[start..end]` is unused input, kept from one request to the next.
    pub(super) buffer: Vec<u8>,
    pub(super) start: usize,
    pub(super) end: usize,
    /// Timeouts set on the socket now; zero for none.
    pub(super) read_timeout: Duration,
    write_timeout: Duration,
    output: Vec<u8>,
    pub(super) unread: Unread,
    /// The client waits for `100 Continue`.
    pub(super) expects: bool,
}

impl Connection {
    fn new(shared: Arc<Shared>, socket: Arc<Socket>) -> Self {
        Self {
            shared,
            socket,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            read_timeout: Duration::ZERO,
            write_timeout: Duration::ZERO,
            output: Vec::new(),
            unread: Unread::Nothing,
            expects: false,
        }
    }

    pub(super) fn input(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    /// Reads more input into the buffer.
    pub(super) fn fill(&mut self, deadline: Instant) -> Result<(), Stall> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.end == self.buffer.len() {
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            } else {
                let max = self.shared.limits.header_bytes_max.max(BUFFER_MAX);
                self.buffer.resize((self.buffer.len() * 2).clamp(BUFFER_MIN, max), 0);
            }
        }
        let free = &mut self.buffer[self.end..];
        self.end += read(&self.socket.stream, &mut self.read_timeout, free, deadline)?;
        Ok(())
    }

    /// Waits for the next request and reads its head. `None` means close without an answer.
    fn read_head(&mut self, idle: Duration, heading: Duration) -> Result<Option<Head>, Reject> {
        let idle = after(idle);
        loop {
            // Empty lines between requests are allowed, and are not the start of a request.
            while self.input().starts_with(b"\r\n") {
                self.consume(2);
            }
            if !self.input().is_empty() {
                break;
            }
            if self.fill(idle).is_err() {
                return Ok(None);
            }
        }
        let deadline = after(heading);
        let max = self.shared.limits.header_bytes_max;
        let mut seen = 0;
        loop {
            let input = self.input();
            // Parsing at line ends only bounds the work a dripping client can cause.
            if (seen == 0 || input[seen..].contains(&b'\n'))
                && let Some((length, head)) = parse_head(input, max)?
            {
                self.consume(length);
                self.unread = head.body;
                self.expects = head.expects;
                return Ok(Some(head));
            }
            seen = input.len();
            if seen >= max {
                return Err(Reject::new(431, "the header section is too long"));
            }
            match self.fill(deadline) {
                Ok(()) => {}
                Err(Stall::TimedOut) => {
                    return Err(Reject::new(408, "the header section took too long"));
                }
                Err(Stall::Closed) => return Ok(None),
            }
        }
    }

    /// Discards a body the handler did not want, to reach the next request.
    fn skip_body(&mut self, mut length: u64) -> Result<(), Stall> {
        let deadline = after(self.shared.limits.body_timeout);
        while length > 0 {
            if self.input().is_empty() {
                self.fill(deadline)?;
            }
            let count = usize::try_from(length).unwrap_or(usize::MAX).min(self.input().len());
            self.consume(count);
            length -= count as u64;
        }
        Ok(())
    }

    pub(super) fn write(&mut self, bytes: &[u8], pace: &mut Pace) -> Result<(), Stall> {
        write_all(&self.socket.stream, &mut self.write_timeout, bytes, pace)
    }

    fn write_response(
        &mut self,
        mut response: Response,
        asked: Asked,
        connection: Option<&'static str>,
    ) -> Result<(), Stall> {
        let mut pace = Pace::new(self.shared.limits.write_timeout);
        let mut output = std::mem::take(&mut self.output);
        output.clear();
        let framing = match (response.rest.is_some(), asked.http10) {
            (false, _) => Framing::Length,
            (true, false) => Framing::Chunks,
            (true, true) => Framing::Close,
        };
        response.write_head(&mut output, framing, connection);
        let head_only = asked.head_only || !response.may_have_body();
        if let Some(rest) = response.rest.take().filter(|_| !head_only) {
            let first = std::mem::take(&mut response.body);
            return self.write_parts(output, first, rest, framing, &mut pace);
        }
        let body = if head_only { &[] } else { &*response.body };
        // One plain write for both. A vectored write could raise SIGPIPE.
        let separate = if body.len() <= COALESCE_MAX {
            output.extend_from_slice(body);
            &[]
        } else {
            body
        };
        let result = self.write(&output, &mut pace).and_then(|()| self.write(separate, &mut pace));
        if output.capacity() <= 2 * COALESCE_MAX {
            self.output = output;
        }
        result
    }

    /// Writes a head and a body that is made meanwhile.
    fn write_parts(
        &mut self,
        mut output: Vec<u8>,
        first: Vec<u8>,
        rest: Parts,
        framing: Framing,
        pace: &mut Pace,
    ) -> Result<(), Stall> {
        let chunks = framing == Framing::Chunks;
        for part in std::iter::once(Ok(first)).chain(rest) {
            let part = part.map_err(|Broken| Stall::Closed)?;
            // An empty chunk would be the last one.
            if part.is_empty() {
                continue;
            }
            if chunks {
                output.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
            }
            output.extend_from_slice(&part);
            if chunks {
                output.extend_from_slice(b"\r\n");
            }
            drop(part);
            pace.resume();
            self.write(&output, pace)?;
            output.clear();
        }
        if chunks {
            output.extend_from_slice(b"0\r\n\r\n");
        }
        self.write(&output, pace)
    }

    /// Ends the response and discards input for a while. Closing with unread input would reset
    /// the connection, and the client could lose the response.
    fn linger(&mut self) {
        if self.socket.stream.shutdown(Shutdown::Write).is_err() {
            return;
        }
        let deadline = after(LINGER_TIME);
        let mut discarded = 0;
        while discarded < LINGER_BYTES {
            (self.start, self.end) = (0, 0);
            if self.fill(deadline).is_err() {
                return;
            }
            discarded += self.end;
        }
    }
}

/// A request whose body has not been read.
pub struct Request<'c> {
    connection: &'c mut Connection,
    head: Head,
}

impl Request<'_> {
    /// The method, as sent.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.head.method
    }

    /// The path as sent, without decoding and without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.head.path
    }

    /// The query as sent, without its question mark.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.head.query.as_deref()
    }

    /// The first header field of that name. `None` also when its value is not UTF-8.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        str::from_utf8(self.head.values(name).next()?).ok()
    }

    /// The address of the other end of the connection.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.connection.socket.peer
    }

    /// The declared length of the body. `None` when chunked; 0 without a body.
    #[must_use]
    pub fn content_length(&self) -> Option<u64> {
        match self.head.body {
            Unread::Length(length) => Some(length),
            Unread::Nothing => self.header("content-length").map(|_| 0),
            Unread::Chunked | Unread::Broken => None,
        }
    }

    /// Whether a body was announced, which may still turn out to be empty when chunked.
    #[must_use]
    pub fn has_body(&self) -> bool {
        self.head.body != Unread::Nothing
    }

    /// Reads the whole body and undoes its content codings. Empty when there is none or when it was read before.
    ///
    /// # Errors
    /// See [`BodyError`]. Where the body was not read to its end, and is not short, the connection
    /// closes after the response.
    pub fn read_body(&mut self, limit: usize) -> Result<Body, BodyError> {
        self.read_packed(limit)?.unpack(limit)
    }

    /// Reads the whole body as it was sent, at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Request::read_body`].
    pub fn read_packed(&mut self, limit: usize) -> Result<Packed, BodyError> {
        let codings = coding::named(self.head.values("content-encoding"))?;
        Ok(Packed::new(self.connection.read_body(limit)?, codings))
    }
}

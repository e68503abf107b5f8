//! A small synchronous HTTP/1.1 server: one acceptor thread and one thread per connection.
//!
//! It owns everything between the socket and the handler: the connection cap, message framing,
//! deadlines, the memory budget for request bodies, keep-alive, closing and stopping.
//!
//! It never trusts a declared length with memory, never waits on a client without a deadline,
//! never guesses where an ambiguous message ends (it answers 4xx and closes), never answers a
//! connection that asked for nothing, and never lets a client or a handler panic take it down.
//! It does not do TLS, HTTP/2, upgrades, compression or streaming responses.

use std::any::Any;
use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::fmt::{self, Display};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use schemars::JsonSchema;
use serde::Serialize;

/// Most header fields in a request or a trailer section.
const HEADERS_MAX: usize = 64;
/// Longest chunk-size line, with its ignored extension.
const CHUNK_LINE_MAX: usize = 256;
/// Longest trailer section.
const TRAILERS_MAX: usize = 4 * 1024;
/// First size of a connection's read buffer; it doubles as needed.
const BUFFER_MIN: usize = 4 * 1024;
/// Smallest upper bound of the read buffer; must exceed the chunk line and trailer bounds.
const BUFFER_MAX: usize = 8 * 1024;
/// Space for a body is reserved in steps while it arrives. The first is small, because every
/// connection can have one for nothing.
const BODY_STEP_MIN: usize = 4 * 1024;
const BODY_STEP_MAX: usize = 64 * 1024;
/// Longest unread body that is skipped to keep a connection alive.
const DRAIN_MAX: u64 = 64 * 1024;
/// Response bodies up to this size go out in the same write as the head.
const COALESCE_MAX: usize = 16 * 1024;
/// A closing connection discards at most this much input, for at most this long.
const LINGER_BYTES: usize = 16 * 1024 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(1);
/// Refused connections kept open for a moment so that their answer is not lost to a reset.
const REFUSED_MAX: usize = 64;
const STACK_SIZE: usize = 512 * 1024;
const LISTEN_BACKLOG: i32 = 1024;
const ACCEPT_POLL: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
const ACCEPT_BACKOFF: Duration = Duration::from_millis(75);
const ACCEPT_RETRY: Duration = Duration::from_millis(5);
/// A limit not hit for this long is over.
const EPISODE_END: Duration = Duration::from_secs(1);
/// How long [`Handle::at_limit`] remembers a failed accept.
const STARVED_MEMORY: Duration = Duration::from_secs(1);
/// How long [`Handle::stop`] waits for threads whose sockets it has shut down.
const STOP_GRACE: Duration = Duration::from_secs(1);
/// Longer timeouts are cut to this, so that deadlines cannot overflow.
const TIMEOUT_MAX: Duration = Duration::from_hours(24 * 365);

type Handler = dyn Fn(&mut Request<'_>) -> Response + Send + Sync;
type Finish = dyn Fn(Response) -> Response + Send + Sync;

/// What makes answers.
struct Answering {
    handler: Box<Handler>,
    /// What answers go through that the handler had no part in.
    finish: Box<Finish>,
}

/// What one server may hold and how long it waits. Every timeout is a total, not per read.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open connections; more are answered 503 and closed.
    pub connections_max: usize,
    /// Request line and header fields of one request.
    pub header_bytes_max: usize,
    /// Request body bytes held, summed over all connections.
    pub in_flight_body_bytes_max: usize,
    /// Wait for the first byte of a request.
    pub idle_timeout: Duration,
    /// From the first byte of a request to the end of its headers.
    pub header_timeout: Duration,
    /// Reading one whole body.
    pub body_timeout: Duration,
    /// Writing one whole response.
    pub write_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 2048,
            header_bytes_max: 16 * 1024,
            in_flight_body_bytes_max: 32 * 1024 * 1024,
            idle_timeout: Duration::from_mins(1),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(10),
        }
    }
}

/// A bound server that does not accept yet.
pub struct Server {
    listener: TcpListener,
    addr: SocketAddr,
    limits: Limits,
    finish: Box<Finish>,
}

impl Server {
    /// Binds the listening socket.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn bind(addr: SocketAddr, limits: Limits) -> io::Result<Self> {
        let listener = TcpListener::bind(addr)?;
        listener.set_nonblocking(true)?;
        // A second listen only raises the backlog, which a burst of clients can fill.
        rustix::net::listen(&listener, LISTEN_BACKLOG)?;
        let addr = listener.local_addr()?;
        Ok(Self { listener, addr, limits, finish: Box::new(|response| response) })
    }

    /// Answers that the server gives by itself, to what is no request or is one too many, go through
    /// `finish` before they are sent.
    #[must_use]
    pub fn finishing(self, finish: impl Fn(Response) -> Response + Send + Sync + 'static) -> Self {
        Self { finish: Box::new(finish), ..self }
    }

    /// The bound address, with the real port when port 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Starts to accept. Dropping the handle leaves the server running.
    ///
    /// # Errors
    /// When the acceptor thread cannot be started.
    pub fn spawn(
        self,
        handler: impl Fn(&mut Request<'_>) -> Response + Send + Sync + 'static,
    ) -> io::Result<Handle> {
        let shared = Arc::new(Shared {
            budget: Arc::new(Budget {
                held: AtomicUsize::new(0),
                max: self.limits.in_flight_body_bytes_max,
            }),
            limits: self.limits,
            stopping: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            connections: Mutex::new(HashMap::new()),
            ended: Condvar::new(),
            starved_at: Mutex::new(None),
        });
        let acceptor = Acceptor {
            listener: self.listener,
            shared: Arc::clone(&shared),
            answering: Arc::new(Answering { handler: Box::new(handler), finish: self.finish }),
            refused: VecDeque::new(),
            next_id: 0,
            full: Episode::new("the connection limit is reached"),
            starved: Episode::new("connections cannot be accepted for want of resources"),
        };
        let acceptor = thread::Builder::new()
            .name("http-acceptor".to_owned())
            .spawn(move || acceptor.run())?;
        Ok(Handle { shared, acceptor })
    }
}

/// A running server.
pub struct Handle {
    shared: Arc<Shared>,
    acceptor: JoinHandle<()>,
}

impl Handle {
    /// Open connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections().len()
    }

    /// Requests whose headers were read and whose response is not written yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(SeqCst)
    }

    /// Whether new connections are refused now, or could not be accepted within the last second.
    #[must_use]
    pub fn at_limit(&self) -> bool {
        self.connections() >= self.shared.limits.connections_max
            || lock(&self.shared.starved_at).is_some_and(|at| at.elapsed() < STARVED_MEMORY)
    }

    /// Stops accepting, closes idle connections, waits up to `drain` for requests in flight, then
    /// shuts down what is left. Returns whether every thread ended.
    #[must_use]
    pub fn stop(self, drain: Duration) -> bool {
        let deadline = after(drain);
        self.shared.stopping.store(true, SeqCst);
        self.shared.close_idle();
        let acceptor_ended = self.acceptor.join().is_ok();
        // The acceptor may have admitted a last connection after the first pass.
        self.shared.close_idle();
        if !self.shared.wait_until_empty(deadline) {
            for connection in self.shared.connections().values() {
                let _ = connection.stream.shutdown(Shutdown::Both);
            }
            return self.shared.wait_until_empty(after(STOP_GRACE)) && acceptor_ended;
        }
        acceptor_ended
    }
}

/// State shared by the handle, the acceptor and the connection threads. It does not own the
/// handler, so that what the handler captured is released once the last connection ended.
struct Shared {
    limits: Limits,
    budget: Arc<Budget>,
    stopping: AtomicBool,
    in_flight: AtomicUsize,
    connections: Mutex<HashMap<u64, Arc<Socket>>>,
    ended: Condvar,
    starved_at: Mutex<Option<Instant>>,
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, HashMap<u64, Arc<Socket>>> {
        lock(&self.connections)
    }

    /// Wakes the threads that wait for a request. Only reading is shut down, so that a request
    /// that has just arrived can still be answered.
    fn close_idle(&self) {
        for connection in self.connections().values() {
            if !connection.busy.load(SeqCst) {
                let _ = connection.stream.shutdown(Shutdown::Read);
            }
        }
    }

    fn wait_until_empty(&self, deadline: Instant) -> bool {
        let timeout = deadline.saturating_duration_since(Instant::now());
        let (connections, _) = self
            .ended
            .wait_timeout_while(self.connections(), timeout, |open| !open.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        connections.is_empty()
    }
}

/// One open connection as the registry sees it.
struct Socket {
    stream: TcpStream,
    peer: SocketAddr,
    /// A request is in flight.
    busy: AtomicBool,
}

/// Keeps a connection in the registry; dropped last in its thread, also when that panics.
struct Registration {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let socket = self.shared.connections().remove(&self.id);
        // The socket closes here, outside the lock, and before a stop is told.
        drop(socket);
        self.shared.ended.notify_all();
    }
}

/// Marks a request as in flight until dropped.
struct InFlight<'a> {
    shared: &'a Shared,
    socket: &'a Socket,
}

impl<'a> InFlight<'a> {
    fn new(shared: &'a Shared, socket: &'a Socket) -> Self {
        shared.in_flight.fetch_add(1, SeqCst);
        socket.busy.store(true, SeqCst);
        Self { shared, socket }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.socket.busy.store(false, SeqCst);
        self.shared.in_flight.fetch_sub(1, SeqCst);
    }
}

/// A condition that is logged when it starts and when it is over, not each time it is seen.
struct Episode {
    what: &'static str,
    seen: Option<Instant>,
}

impl Episode {
    fn new(what: &'static str) -> Self {
        Self { what, seen: None }
    }

    fn see(&mut self, cause: &dyn Display) {
        if self.seen.replace(Instant::now()).is_none() {
            log::warn!("{}: {cause}", self.what);
        }
    }

    fn settle(&mut self) {
        if self.seen.is_some_and(|seen| seen.elapsed() >= EPISODE_END) {
            self.seen = None;
            log::info!("over: {}", self.what);
        }
    }
}

struct Acceptor {
    listener: TcpListener,
    shared: Arc<Shared>,
    answering: Arc<Answering>,
    refused: VecDeque<(Instant, Arc<Socket>)>,
    next_id: u64,
    full: Episode,
    starved: Episode,
}

impl Acceptor {
    fn run(mut self) {
        while !self.stopping() {
            let mut fds = [PollFd::new(&self.listener, PollFlags::IN)];
            match poll(&mut fds, Some(&ACCEPT_POLL)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => self.accept_pending(),
                Err(error) => {
                    self.starved.see(&error);
                    thread::sleep(ACCEPT_BACKOFF);
                }
            }
            self.full.settle();
            self.starved.settle();
            while self.refused.front().is_some_and(|(until, _)| *until <= Instant::now()) {
                self.forget_refused();
            }
        }
    }

    fn stopping(&self) -> bool {
        self.shared.stopping.load(SeqCst)
    }

    fn accept_pending(&mut self) {
        while !self.stopping() {
            match self.listener.accept() {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if is_starvation(&error) => {
                    self.starve(&error);
                    thread::sleep(ACCEPT_BACKOFF);
                    return;
                }
                // The client gave up while it was queued.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    log::debug!("accept failed: {error}");
                    thread::sleep(ACCEPT_RETRY);
                    return;
                }
            }
        }
    }

    fn starve(&mut self, cause: &dyn Display) {
        self.starved.see(cause);
        *lock(&self.shared.starved_at) = Some(Instant::now());
        self.refused.clear();
    }

    fn admit(&mut self, stream: TcpStream, peer: SocketAddr) {
        let socket = Arc::new(Socket { stream, peer, busy: AtomicBool::new(false) });
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        {
            let mut connections = self.shared.connections();
            if connections.len() >= self.shared.limits.connections_max {
                drop(connections);
                self.full.see(&self.shared.limits.connections_max);
                return self.refuse(socket, "too many connections");
            }
            connections.insert(id, Arc::clone(&socket));
        }
        let registration = Registration { shared: Arc::clone(&self.shared), id };
        let answering = Arc::clone(&self.answering);
        let served = Arc::clone(&socket);
        let spawned = thread::Builder::new()
            .name("http-connection".to_owned())
            .stack_size(STACK_SIZE)
            .spawn(move || {
                serve(&registration.shared, served, answering);
                drop(registration);
            });
        if let Err(error) = spawned {
            self.starve(&error);
            self.refuse(socket, "no thread for this connection");
        }
    }

    /// Answers 503 without ever blocking. The socket stays open for a moment, because closing it
    /// with unread input would reset it and could take the answer away from the client.
    fn refuse(&mut self, socket: Arc<Socket>, detail: &str) {
        let response = Response::problem(503, detail).with_header("Retry-After", "1");
        let response = (self.answering.finish)(response);
        let mut bytes = Vec::new();
        response.write_head(&mut bytes, Some("close"));
        bytes.extend_from_slice(&response.body);
        let mut stream = &socket.stream;
        if stream.set_nonblocking(true).is_err() || stream.write(&bytes).is_err() {
            return;
        }
        let _ = stream.shutdown(Shutdown::Write);
        if self.refused.len() >= REFUSED_MAX {
            self.forget_refused();
        }
        self.refused.push_back((after(LINGER_TIME), socket));
    }

    fn forget_refused(&mut self) {
        if let Some((_, socket)) = self.refused.pop_front() {
            let _ = (&socket.stream).read(&mut [0; 4096]);
        }
    }
}

fn is_starvation(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
    )
}

/// The life of one connection. Takes what answers by value: it must be released before the
/// connection leaves the registry.
#[expect(clippy::needless_pass_by_value, reason = "see the doc comment")]
fn serve(shared: &Arc<Shared>, socket: Arc<Socket>, answering: Arc<Answering>) {
    // Some systems let accepted sockets inherit the listener's mode.
    if socket.stream.set_nonblocking(false).is_err() || socket.stream.set_nodelay(true).is_err() {
        return;
    }
    let mut connection = Connection::new(Arc::clone(shared), Arc::clone(&socket));
    let answered = loop {
        match connection.read_head() {
            Ok(Some(head)) => match exchange(shared, &socket, &mut connection, head, &answering) {
                Ok(true) => {}
                Ok(false) => break true,
                Err(_) => break false,
            },
            Ok(None) => break false,
            Err(reject) => {
                log::debug!("{}: {} {}", socket.peer, reject.status, reject.detail);
                let response = Response::problem(reject.status, &reject.detail);
                let response = (answering.finish)(response);
                break connection.write_response(&response, false, Some("close")).is_ok();
            }
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

/// Answers one request. Returns whether the connection stays open.
fn exchange(
    shared: &Shared,
    socket: &Socket,
    connection: &mut Connection,
    head: Head,
    answering: &Answering,
) -> Result<bool, Stall> {
    let in_flight = InFlight::new(shared, socket);
    let mut request = Request { connection: &mut *connection, head };
    let response = catch_unwind(AssertUnwindSafe(|| (answering.handler)(&mut request)));
    let Head { method, keep_alive, http10, .. } = request.head;
    let response = response.unwrap_or_else(|panic| {
        log::error!("the handler panicked: {}", panic_message(&*panic));
        (answering.finish)(Response::problem(500, "the request could not be handled")).closing()
    });
    let skip = match connection.unread {
        Unread::Nothing => Some(0),
        Unread::Length(length) if length <= DRAIN_MAX && !connection.expects => Some(length),
        _ => None,
    };
    let keep = keep_alive && !response.close && skip.is_some() && !shared.stopping.load(SeqCst);
    let connection_header = match (keep, http10) {
        (false, _) => Some("close"),
        (true, true) => Some("keep-alive"),
        (true, false) => None,
    };
    connection.write_response(&response, method == "HEAD", connection_header)?;
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

/// Why reading or writing cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stall {
    TimedOut,
    Closed,
}

/// What of the current request's body has not been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unread {
    Nothing,
    Length(u64),
    Chunked,
    /// Reading failed half-way: where the next request starts is not known.
    Broken,
}

/// One connection with its input that was received but not used yet.
struct Connection {
    shared: Arc<Shared>,
    socket: Arc<Socket>,
    /// `buffer[start..end]` is unused input, kept from one request to the next.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Timeouts set on the socket now; zero for none.
    read_timeout: Duration,
    write_timeout: Duration,
    output: Vec<u8>,
    unread: Unread,
    /// The client waits for `100 Continue`.
    expects: bool,
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

    fn input(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    /// Reads more input into the buffer.
    fn fill(&mut self, deadline: Instant) -> Result<(), Stall> {
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
    fn read_head(&mut self) -> Result<Option<Head>, Reject> {
        let idle = after(self.shared.limits.idle_timeout);
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
        let deadline = after(self.shared.limits.header_timeout);
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

    fn read_body(&mut self, limit: usize) -> Result<Body, BodyError> {
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

    fn write(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), Stall> {
        write_all(&self.socket.stream, &mut self.write_timeout, bytes, deadline)
    }

    fn write_response(
        &mut self,
        response: &Response,
        head_only: bool,
        connection: Option<&'static str>,
    ) -> Result<(), Stall> {
        let deadline = after(self.shared.limits.write_timeout);
        let mut output = std::mem::take(&mut self.output);
        output.clear();
        response.write_head(&mut output, connection);
        let body = if head_only || !response.may_have_body() { &[] } else { &*response.body };
        // One plain write for both. A vectored write could raise SIGPIPE.
        let separate = if body.len() <= COALESCE_MAX {
            output.extend_from_slice(body);
            &[]
        } else {
            body
        };
        let result = self.write(&output, deadline).and_then(|()| self.write(separate, deadline));
        if output.capacity() <= 2 * COALESCE_MAX {
            self.output = output;
        }
        result
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

/// Reads once, at the latest until the deadline. End of input is `Closed`.
fn read(
    mut stream: &TcpStream,
    current: &mut Duration,
    buffer: &mut [u8],
    deadline: Instant,
) -> Result<usize, Stall> {
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        if let Some(timeout) = next_timeout(*current, remaining)? {
            stream.set_read_timeout(Some(timeout)).map_err(|_| Stall::Closed)?;
            *current = timeout;
        }
        match stream.read(buffer) {
            Ok(0) => return Err(Stall::Closed),
            Ok(count) => return Ok(count),
            Err(error) if is_retryable(&error) => {}
            Err(_) => return Err(Stall::Closed),
        }
    }
}

fn write_all(
    mut stream: &TcpStream,
    current: &mut Duration,
    mut bytes: &[u8],
    deadline: Instant,
) -> Result<(), Stall> {
    while !bytes.is_empty() {
        let remaining = deadline.saturating_duration_since(Instant::now());
        if let Some(timeout) = next_timeout(*current, remaining)? {
            stream.set_write_timeout(Some(timeout)).map_err(|_| Stall::Closed)?;
            *current = timeout;
        }
        match stream.write(bytes) {
            Ok(0) => return Err(Stall::Closed),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if is_retryable(&error) => {}
            Err(_) => return Err(Stall::Closed),
        }
    }
    Ok(())
}

fn is_retryable(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// The socket timeout to set, if the current one will not do. A shorter one than `remaining` only
/// costs a retry, so powers of two are used and setting one again is rare.
fn next_timeout(current: Duration, remaining: Duration) -> Result<Option<Duration>, Stall> {
    if remaining.is_zero() {
        return Err(Stall::TimedOut);
    }
    let millis = u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX).max(1);
    let wanted = Duration::from_millis(1 << millis.ilog2());
    // Zero, for no timeout set, never fits.
    let fits = current >= wanted / 4 && current <= remaining && !current.is_zero();
    Ok((!fits).then_some(wanted))
}

fn after(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(TIMEOUT_MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request that is answered without the handler.
#[derive(Debug)]
struct Reject {
    status: u16,
    detail: Cow<'static, str>,
}

impl Reject {
    fn new(status: u16, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, detail: detail.into() }
    }
}

/// A parsed request line and header section.
#[derive(Debug)]
struct Head {
    method: String,
    path: String,
    query: Option<String>,
    /// All names and values, one after another.
    text: Vec<u8>,
    /// Start of a name, its end (which starts the value), end of the value; in `text`.
    fields: Vec<(usize, usize, usize)>,
    body: Unread,
    expects: bool,
    keep_alive: bool,
    http10: bool,
}

/// Parses a request head. `None` when it is not complete.
fn parse_head(input: &[u8], max: usize) -> Result<Option<(usize, Head)>, Reject> {
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(input) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Reject::new(431, "too many header fields"));
        }
        Err(httparse::Error::Version) if names_a_version(input) => {
            return Err(Reject::new(505, "only HTTP/1.0 and HTTP/1.1 are supported"));
        }
        Err(error) => return Err(Reject::new(400, error.to_string())),
    };
    if length > max {
        return Err(Reject::new(431, "the header section is too long"));
    }
    if has_bare_line_feed(&input[..length]) {
        return Err(Reject::new(400, "lines must end with CR LF"));
    }
    let (Some(method), Some(target), Some(version)) =
        (request.method, request.path, request.version)
    else {
        return Err(Reject::new(400, "incomplete request line"));
    };
    let http10 = version == 0;
    let headers = &*request.headers;
    check_host(headers, http10)?;
    let body = body_framing(headers, http10)?;
    let (path, query) = split_target(target)?;
    let mut expects = false;
    // An HTTP/1.0 client cannot understand an interim response.
    for expectation in values(headers, "expect").filter(|_| !http10) {
        if !expectation.eq_ignore_ascii_case(b"100-continue") {
            return Err(Reject::new(417, "only 100-continue can be expected"));
        }
        expects = body != Unread::Nothing;
    }
    let connection_has = |option: &[u8]| {
        values(headers, "connection")
            .flat_map(|value| value.split(|byte| *byte == b','))
            .any(|token| token.trim_ascii().eq_ignore_ascii_case(option))
    };
    let keep_alive = !connection_has(b"close") && (!http10 || connection_has(b"keep-alive"));
    let mut text = Vec::with_capacity(length);
    let mut fields = Vec::with_capacity(headers.len());
    for header in headers {
        let start = text.len();
        text.extend_from_slice(header.name.as_bytes());
        let name_end = text.len();
        text.extend_from_slice(header.value);
        fields.push((start, name_end, text.len()));
    }
    let method = method.to_owned();
    let head = Head { method, path, query, text, fields, body, expects, keep_alive, http10 };
    Ok(Some((length, head)))
}

fn values<'h>(
    headers: &'h [httparse::Header<'h>],
    name: &'h str,
) -> impl Iterator<Item = &'h [u8]> {
    headers
        .iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(name))
        .map(|header| header.value)
}

/// Whether a line ends with LF alone, which other implementations may not take for a line end.
fn has_bare_line_feed(lines: &[u8]) -> bool {
    let mut lines = lines.split(|byte| *byte == b'\n');
    lines.next_back();
    lines.any(|line| !line.ends_with(b"\r"))
}

/// Whether the third word of the request line is well-formed as an HTTP version.
fn names_a_version(input: &[u8]) -> bool {
    let line = input.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii_end();
    let version = line.splitn(3, |byte| *byte == b' ').nth(2).unwrap_or_default();
    matches!(version.strip_prefix(b"HTTP/"),
        Some([major, b'.', minor]) if major.is_ascii_digit() && minor.is_ascii_digit())
}

fn check_host(headers: &[httparse::Header<'_>], http10: bool) -> Result<(), Reject> {
    let mut hosts = values(headers, "host");
    let host = hosts.next();
    if hosts.next().is_some() || (host.is_none() && !http10) {
        return Err(Reject::new(400, "exactly one Host field is needed"));
    }
    let is_valid = |byte: &u8| byte.is_ascii_graphic() && !b",/?#@\\".contains(byte);
    if !host.unwrap_or_default().iter().all(is_valid) {
        return Err(Reject::new(400, "invalid Host field"));
    }
    Ok(())
}

/// Decides how long the body is, or refuses: two readings of one message are how requests are
/// smuggled past a proxy.
fn body_framing(headers: &[httparse::Header<'_>], http10: bool) -> Result<Unread, Reject> {
    let bad = |detail| Err(Reject::new(400, detail));
    let mut lengths = values(headers, "content-length");
    let mut codings = values(headers, "transfer-encoding");
    match (lengths.next(), codings.next()) {
        (None, None) => Ok(Unread::Nothing),
        (Some(_), Some(_)) => bad("both Content-Length and Transfer-Encoding"),
        (Some(value), None) => {
            if lengths.next().is_some() {
                return bad("more than one Content-Length");
            }
            let length = Some(value)
                .filter(|value| value.iter().all(u8::is_ascii_digit))
                .and_then(|value| str::from_utf8(value).ok()?.parse().ok());
            match length {
                Some(0) => Ok(Unread::Nothing),
                Some(length) => Ok(Unread::Length(length)),
                None => bad("invalid Content-Length"),
            }
        }
        (None, Some(value)) => {
            if http10 {
                return bad("Transfer-Encoding in HTTP/1.0");
            }
            if codings.next().is_some() {
                return bad("more than one Transfer-Encoding");
            }
            if value.eq_ignore_ascii_case(b"chunked") {
                return Ok(Unread::Chunked);
            }
            let is_chunked = |coding: &&[u8]| coding.eq_ignore_ascii_case(b"chunked");
            let mut others = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            let last = others.next_back().unwrap_or_default();
            if !is_token(last) || others.any(|coding| !is_token(coding) || is_chunked(&coding)) {
                return bad("invalid Transfer-Encoding");
            }
            Err(Reject::new(501, "only the chunked transfer coding is supported"))
        }
    }
}

fn is_token(bytes: &[u8]) -> bool {
    let is_valid = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(is_valid)
}

/// Splits a request target into path and query.
fn split_target(target: &str) -> Result<(String, Option<String>), Reject> {
    let invalid = || Reject::new(400, "invalid request target");
    let local = if target.starts_with('/') {
        target
    } else {
        let (scheme, rest) = target.split_at_checked(7).ok_or_else(invalid)?;
        let (authority, local) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if !scheme.eq_ignore_ascii_case("http://") || authority.is_empty() {
            return Err(invalid());
        }
        local
    };
    if local.contains('#') {
        return Err(invalid());
    }
    let (path, query) =
        local.split_once('?').map_or((local, None), |(path, query)| (path, Some(query)));
    let path = if path.is_empty() { "/" } else { path };
    Ok((path.to_owned(), query.map(str::to_owned)))
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
        let text = &self.head.text;
        let (_, start, end) = self.head.fields.iter().find(|(start, name_end, _)| {
            text[*start..*name_end].eq_ignore_ascii_case(name.as_bytes())
        })?;
        str::from_utf8(&text[*start..*end]).ok()
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

    /// Reads the whole body. Empty when there is none or when it was read before.
    ///
    /// # Errors
    /// See [`BodyError`]. After an error other than `TooLarge` for a declared length or an early
    /// `Busy`, the connection closes after the response.
    pub fn read_body(&mut self, limit: usize) -> Result<Body, BodyError> {
        self.connection.read_body(limit)
    }
}

/// Body bytes that all connections together may hold.
struct Budget {
    held: AtomicUsize,
    max: usize,
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

/// A problem document (RFC 9457): what went wrong.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Problem {
    /// Always `about:blank`: the status says it all.
    r#type: &'static str,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    #[schemars(range(min = 400, max = 599))]
    status: u16,
    /// What was seen and what is allowed.
    detail: String,
    /// The fields that are wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldProblem>,
    /// As in the header `X-Request-Id`. It is appended to the finished document.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    request_id: Option<String>,
}

/// A field that is wrong.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct FieldProblem {
    /// A JSON pointer into the body, or the name of a parameter; empty for the whole body.
    pub(super) pointer: String,
    /// What was seen and what is allowed.
    pub(super) detail: String,
}

/// A response. The server adds `Content-Length` and `Connection` and ignores those given here.
#[derive(Debug, Clone)]
pub struct Response {
    /// The final status code.
    pub status: u16,
    /// Header fields; control characters are removed from values.
    pub headers: Vec<(&'static str, Cow<'static, str>)>,
    /// The body; not sent in answer to HEAD or with a status that forbids one.
    pub body: Vec<u8>,
    /// Close the connection after this response.
    pub close: bool,
}

impl Response {
    /// A response of type `application/json`.
    #[must_use]
    pub fn json(status: u16, body: Vec<u8>) -> Self {
        let headers = vec![("Content-Type", Cow::Borrowed("application/json"))];
        Self { status, headers, body, close: false }
    }

    /// A problem document (RFC 9457).
    #[must_use]
    pub fn problem(status: u16, detail: impl Display) -> Self {
        Self::problem_of_fields(status, detail, Vec::new())
    }

    /// A problem document that names the fields that are wrong.
    pub(super) fn problem_of_fields(
        status: u16,
        detail: impl Display,
        errors: Vec<FieldProblem>,
    ) -> Self {
        let problem = Problem {
            r#type: "about:blank",
            title: reason(status),
            status,
            detail: detail.to_string(),
            errors,
            request_id: None,
        };
        let body = serde_json::to_vec(&problem).expect("text always has a JSON form");
        let headers = vec![("Content-Type", Cow::Borrowed("application/problem+json"))];
        Self { status, headers, body, close: false }
    }

    /// Adds a header field.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Closes the connection after this response.
    #[must_use]
    pub fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    fn may_have_body(&self) -> bool {
        !matches!(self.status, 100..=199 | 204 | 304)
    }

    fn write_head(&self, output: &mut Vec<u8>, connection: Option<&str>) {
        // Any other number would not be a status line.
        let status = if (100..=999).contains(&self.status) { self.status } else { 500 };
        output.extend_from_slice(b"HTTP/1.1 ");
        output.extend_from_slice(status.to_string().as_bytes());
        output.push(b' ');
        output.extend_from_slice(reason(status).as_bytes());
        output.extend_from_slice(b"\r\n");
        for (name, value) in &self.headers {
            // The server alone decides where a response ends.
            let framing = ["content-length", "transfer-encoding", "connection"];
            if !framing.iter().any(|field| name.eq_ignore_ascii_case(field)) {
                write_field(output, name, value);
            }
        }
        if self.may_have_body() {
            write_field(output, "Content-Length", &self.body.len().to_string());
        }
        if let Some(connection) = connection {
            write_field(output, "Connection", connection);
        }
        output.extend_from_slice(b"\r\n");
    }
}

/// Writes a header field. Without control characters a value cannot end its line.
fn write_field(output: &mut Vec<u8>, name: &str, value: &str) {
    output.extend_from_slice(name.as_bytes());
    output.extend_from_slice(b": ");
    output.extend(value.bytes().filter(|byte| !byte.is_ascii_control()));
    output.extend_from_slice(b"\r\n");
}

fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {

    use std::io::{BufRead, BufReader};
    use std::net::Ipv4Addr;
    use std::sync::mpsc;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(300);

    fn start(
        limits: Limits,
        handler: impl Fn(&mut Request<'_>) -> Response + Send + Sync + 'static,
    ) -> (SocketAddr, Handle) {
        let server = Server::bind((Ipv4Addr::LOCALHOST, 0).into(), limits).unwrap();
        let server = server.finishing(|response| response.with_header("X-Finished", "once"));
        (server.local_addr(), server.spawn(handler).unwrap())
    }

    fn text(status: u16, text: impl Into<String>) -> Response {
        let body = text.into().into_bytes();
        Response { status, headers: Vec::new(), body, close: false }
    }

    /// Answers `METHOD path?query body`; some paths do something special.
    fn demo(request: &mut Request<'_>) -> Response {
        match request.path() {
            "/panic" => panic!("asked to"),
            "/skip" => text(200, "skipped"),
            "/empty" => text(204, "not sent"),
            "/big" => text(200, "x".repeat(64 << 20)),
            "/inject" => text(200, "").with_header("X-Name", "a\r\nSet-Cookie: b\0\u{7f}c\n"),
            _ => match request.read_body(1 << 20) {
                Ok(body) => {
                    let query = request.query().unwrap_or("-");
                    let head = format!("{} {}?{query} ", request.method(), request.path());
                    text(200, head + str::from_utf8(&body).unwrap())
                }
                Err(error) => error.into(),
            },
        }
    }

    fn connect(addr: SocketAddr) -> BufReader<TcpStream> {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        BufReader::new(stream)
    }

    fn send(client: &BufReader<TcpStream>, bytes: impl AsRef<[u8]>) {
        client.get_ref().write_all(bytes.as_ref()).unwrap();
    }

    /// Reads a response head, with its final empty line.
    fn receive_head(client: &mut BufReader<TcpStream>) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(client.read_line(&mut head).unwrap(), 0, "closed after {head:?}");
        }
        head
    }

    fn status(head: &str) -> u16 {
        head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn receive(client: &mut BufReader<TcpStream>) -> (u16, String, String) {
        let head = receive_head(client);
        let (_, rest) = head.split_once("Content-Length: ").unwrap();
        let mut body = vec![0; rest.lines().next().unwrap().parse().unwrap()];
        client.read_exact(&mut body).unwrap();
        (status(&head), head, String::from_utf8(body).unwrap())
    }

    fn receive_all(client: &mut BufReader<TcpStream>) -> String {
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        String::from_utf8(all).unwrap()
    }

    /// Everything the server says to these bytes until it closes.
    fn talk(addr: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
        let mut client = connect(addr);
        send(&client, bytes);
        receive_all(&mut client)
    }

    fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < deadline, "never: {what}");
            thread::yield_now();
        }
    }

    fn assert_serves(addr: SocketAddr) {
        let answer = talk(addr, "GET /ok HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert!(answer.ends_with("GET /ok?- "), "{answer:?}");
    }

    #[test]
    fn keeps_alive_and_answers_pipelined_requests_in_order() {
        let (addr, handle) = start(Limits::default(), demo);
        let mut client = connect(addr);
        let mut pipeline = Vec::new();
        for index in 0..200 {
            write!(
                pipeline,
                "POST /p{index}?q HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
            )
            .unwrap();
        }
        send(&client, &pipeline);
        for index in 0..200 {
            let (status, head, body) = receive(&mut client);
            assert_eq!((status, body), (200, format!("POST /p{index}?q abc")));
            assert!(!head.contains("Connection"), "{head:?}");
        }
        send(&client, "\r\n\r\nGET http://a:80?x HTTP/1.0\r\nConnection: x, Keep-Alive\r\n\r\n");
        let (_, head, body) = receive(&mut client);
        assert!(head.contains("\r\nConnection: keep-alive\r\n"), "{head:?}");
        assert_eq!(body, "GET /?x ");
        // Byte by byte, through every state of the parser.
        for byte in b"POST /z HTTP/1.1\r\nhost:a\r\nconnection: Close\r\ncontent-length:1\r\n\r\n."
        {
            send(&client, [*byte]);
        }
        let (_, head, body) = receive(&mut client);
        assert!(head.contains("\r\nConnection: close\r\n"), "{head:?}");
        assert_eq!(body, "POST /z?- .");
        assert_eq!(receive_all(&mut client), "");
        assert!(talk(addr, "GET / HTTP/1.0\r\n\r\n").contains("\r\nConnection: close\r\n"));
        assert!(handle.stop(PATIENCE));
    }

    #[test]
    fn sends_no_body_where_none_belongs_and_cleans_headers() {
        let (addr, _handle) = start(Limits::default(), demo);
        let mut client = connect(addr);
        send(&client, "HEAD /h HTTP/1.1\r\nHost: a\r\n\r\nGET /empty HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = receive_head(&mut client);
        assert!(head.contains("\r\nContent-Length: 10\r\n"), "{head:?}");
        let head = receive_head(&mut client);
        assert_eq!(head, "HTTP/1.1 204 No Content\r\n\r\n");
        send(&client, "GET /inject HTTP/1.1\r\nHost: a\r\n\r\n");
        let (_, head, _) = receive(&mut client);
        assert!(head.contains("\r\nX-Name: aSet-Cookie: bc\r\n"), "{head:?}");
    }

    #[test]
    fn decodes_chunked_bodies_strictly() {
        let (addr, _handle) = start(Limits::default(), demo);
        let head = "POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n";
        let check = |body: &str, wanted: Option<&str>| {
            for pieces in [1, body.len()] {
                let mut client = connect(addr);
                send(&client, head);
                for piece in body.as_bytes().chunks(body.len().div_ceil(pieces)) {
                    // The server may close as soon as it has seen enough.
                    let _ = client.get_ref().write_all(piece);
                }
                let (status, _, answer) = receive(&mut client);
                match wanted {
                    Some(wanted) => {
                        assert_eq!((status, answer), (200, format!("POST /c?- {wanted}")));
                        send(&client, "GET /next HTTP/1.1\r\nHost: a\r\n\r\n");
                        assert_eq!(receive(&mut client).0, 200, "after {body:?}");
                    }
                    None => assert_eq!(status, 400, "{body:?}"),
                }
            }
        };
        check("0\r\n\r\n", Some(""));
        check(
            "3\r\nabc\r\n0A;x=y\r\n0123456789\r\n000\r\nT: 1\r\nU: 2\r\n\r\n",
            Some("abc0123456789"),
        );
        check("1 ;x\r\na\r\n0\r\n\r\n", Some("a"));
        check("\r\n\r\n", None);
        check(";x\r\n\r\n", None);
        check(" 1\r\na\r\n0\r\n\r\n", None);
        check("+1\r\na\r\n0\r\n\r\n", None);
        check("0x1\r\na\r\n0\r\n\r\n", None);
        check("1\na\r\n0\r\n\r\n", None);
        check("1;a\nb\r\na\r\n0\r\n\r\n", None);
        check("1\r\nab\r\n0\r\n\r\n", None);
        check("3\r\nab\r\n0\r\n\r\n", None);
        check("11111111111111111\r\na\r\n0\r\n\r\n", None);
        check(&format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(CHUNK_LINE_MAX)), None);
        check("0\r\nbad trailer\r\n\r\n", None);
        check("0\r\nT: 1\n\r\n", None);
        check(&format!("0\r\n{}\r\n", "T: 1\r\n".repeat(HEADERS_MAX + 1)), None);
        check(&format!("0\r\nT: {}\r\n\r\n", "x".repeat(TRAILERS_MAX)), None);
        let huge = talk(addr, format!("{head}FFFFFFFFFFFFFFFF\r\n"));
        assert_eq!(status(&huge), 413, "{huge:?}");
        // Grown over the limit by small chunks.
        let mut client = connect(addr);
        let grown = format!("{head}{}", format!("8000\r\n{}\r\n", "x".repeat(0x8000)).repeat(33));
        let _ = client.get_ref().write_all(grown.as_bytes());
        assert_eq!(receive(&mut client).0, 413);
    }

    #[test]
    fn refuses_ambiguous_and_malformed_requests() {
        let (addr, _handle) = start(Limits::default(), |request| {
            assert_eq!(request.path(), "/ok", "reached the handler");
            text(200, "")
        });
        let check = |request: &str, wanted: u16| {
            let request = request.replace('\n', "\r\n").replace("\\n", "\n");
            // Half-open, so that waiting for more of the request would be noticed.
            let mut client = connect(addr);
            send(&client, &request);
            let (status, head, body) = receive(&mut client);
            assert_eq!(status, wanted, "{request:?}");
            assert!(head.contains("\r\nConnection: close\r\n"), "{request:?}");
            assert!(head.contains("\r\nContent-Type: application/problem+json\r\n"));
            assert_eq!(head.matches("\r\nX-Finished: once\r\n").count(), 1, "{request:?}");
            let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(problem["status"], wanted, "{request:?}");
            assert_eq!(receive_all(&mut client), "", "{request:?}");
        };
        let field = |fields: &str, wanted| {
            check(&format!("POST / HTTP/1.1\nHost: a\n{fields}\n\nGET /ok HTTP/1.1\n\n"), wanted);
        };
        field("Content-Length: 1\nContent-Length: 1", 400);
        field("Content-Length: 1\nContent-Length: 2", 400);
        field("Content-Length: 1, 1", 400);
        field("Content-Length: +1", 400);
        field("Content-Length: -1", 400);
        field("Content-Length: 0x1", 400);
        field("Content-Length:", 400);
        field("Content-Length: 1 1", 400);
        field("Content-Length: 99999999999999999999", 400);
        field("Content-Length : 1", 400);
        field("Content-Length: 1\nTransfer-Encoding: chunked", 400);
        field("Transfer-Encoding: chunked\nContent-Length: 0", 400);
        field("Transfer-Encoding: chunked\nTransfer-Encoding: chunked", 400);
        field("Transfer-Encoding: chunked\nTransfer-Encoding: identity", 400);
        field("Transfer-Encoding: chunked, chunked", 400);
        field("Transfer-Encoding: chunked, identity", 400);
        field("Transfer-Encoding: chunked,", 400);
        field("Transfer-Encoding: \"chunked\"", 400);
        field("Transfer-Encoding:", 400);
        field("Transfer-Encoding: \u{b}chunked", 400);
        field("Transfer-Encoding: xchunked", 501);
        field("Transfer-Encoding: gzip, chunked", 501);
        field("Transfer-Encoding\n: chunked", 400);
        field("X: a\n folded", 400);
        field("X: a\\nContent-Length: 1", 400);
        field("X: a\rContent-Length: 1", 400);
        field("X: \0", 400);
        field("X y: 1", 400);
        field(": 1", 400);
        field("Host: a", 400);
        field("Expect: 200-ok", 417);
        field(&"X: 1\n".repeat(64), 431);
        check("GET / HTTP/1.1\n\n", 400);
        check("GET / HTTP/1.1\nHost: a b\n\n", 400);
        check("GET / HTTP/1.1\nHost: a, b\n\n", 400);
        check("GET / HTTP/1.1\\nHost: a\\n\\n", 400);
        check("\\nGET / HTTP/1.1\nHost: a\n\n", 400);
        check("POST / HTTP/1.0\nTransfer-Encoding: chunked\n\n", 400);
        check("GET  / HTTP/1.1\nHost: a\n\n", 400);
        check("GET /a b HTTP/1.1\nHost: a\n\n", 400);
        check("GET * HTTP/1.1\nHost: a\n\n", 400);
        check("GET a HTTP/1.1\nHost: a\n\n", 400);
        check("GET /#a HTTP/1.1\nHost: a\n\n", 400);
        check("GET http:///a HTTP/1.1\nHost: a\n\n", 400);
        check("GET https://a/ HTTP/1.1\nHost: a\n\n", 400);
        check("CONNECT a:80 HTTP/1.1\nHost: a\n\n", 400);
        check("GET / HTTP/2.0\nHost: a\n\n", 505);
        check("PRI * HTTP/2.0\n\nSM\n\n", 505);
        check("GET / HTTP/1.1x\nHost: a\n\n", 400);
        check("GET / FTP/1.1\nHost: a\n\n", 400);
        check("GET /\n\n", 400);
        check("\u{16}\u{3}\u{1}", 400);
        check(&format!("GET /{} HTTP/1.1\nHost: a\n\n", "x".repeat(20_000)), 431);
        check(&format!("GET / HTTP/1.1\nHost: a\nX: {}", "x".repeat(16 * 1024)), 431);
    }

    #[test]
    fn survives_random_and_mutated_input() {
        let (addr, handle) = start(Limits { header_timeout: SHORT, ..Limits::default() }, demo);
        let seed = b"POST /a?b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 33).unwrap() % below
        };
        for _ in 0..2000 {
            let mut bytes = seed.to_vec();
            for _ in 0..=random(3) {
                let at = random(bytes.len());
                match random(3) {
                    0 => bytes[at] = b"\r\n\0 :;,a1\xff"[random(10)],
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, b"\r\n\0 :;,a1\xff"[random(10)]),
                }
            }
            let client = connect(addr);
            let _ = client.get_ref().write_all(&bytes);
            let _ = client.get_ref().shutdown(Shutdown::Write);
            let _ = client.into_inner().read_to_end(&mut Vec::new());
        }
        assert_serves(addr);
        assert!(handle.stop(PATIENCE));
    }

    #[test]
    fn refuses_a_large_body_before_reading_it() {
        let (addr, _handle) = start(Limits::default(), demo);
        let answer =
            talk(addr, "PUT /b HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000000\r\n\r\n");
        assert_eq!(status(&answer), 413, "{answer:?}");
        assert!(answer.contains("\r\nConnection: close\r\n"));
        // A client that sends regardless still gets the answer, not a reset.
        let mut client = connect(addr);
        send(&client, "PUT /b HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n");
        send(&client, vec![b'x'; 100_000]);
        assert_eq!(receive(&mut client).0, 413);
    }

    #[test]
    fn skips_a_short_unread_body_and_keeps_alive() {
        let (addr, _handle) = start(Limits::default(), demo);
        let mut client = connect(addr);
        let request = |length: usize| {
            let body = "x".repeat(length);
            format!("PUT /skip HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}")
        };
        for length in [1, 10_000, 64 * 1024] {
            send(&client, request(length));
            assert_eq!(receive(&mut client).2, "skipped");
        }
        send(&client, request(64 * 1024 + 1));
        let (_, head, body) = receive(&mut client);
        assert!(head.contains("\r\nConnection: close\r\n"));
        assert_eq!((body.as_str(), receive_all(&mut client).as_str()), ("skipped", ""));
    }

    #[test]
    fn asks_for_an_expected_body_only_when_it_is_read() {
        let (addr, _handle) = start(Limits::default(), demo);
        let expect = "Host: a\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n";
        let mut client = connect(addr);
        for _ in 0..2 {
            send(&client, format!("PUT /e HTTP/1.1\r\n{expect}"));
            assert_eq!(receive_head(&mut client), "HTTP/1.1 100 Continue\r\n\r\n");
            send(&client, "ab");
            assert_eq!(receive(&mut client).2, "PUT /e?- ab");
        }
        let answer = talk(addr, format!("PUT /skip HTTP/1.1\r\n{expect}"));
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer:?}");
        assert!(answer.contains("\r\nConnection: close\r\n"), "{answer:?}");
        let old = talk(addr, format!("PUT /e HTTP/1.0\r\n{expect}ab"));
        assert!(old.starts_with("HTTP/1.1 200 OK\r\n"), "{old:?}");
    }

    #[test]
    fn a_dripping_header_is_cut_off_while_others_are_served() {
        let (addr, _handle) = start(Limits { header_timeout: SHORT, ..Limits::default() }, demo);
        let mut slow = connect(addr);
        let begun = Instant::now();
        send(&slow, "GET / HTTP/1.1\r\nX: ");
        slow.get_ref().set_read_timeout(Some(SHORT / 10)).unwrap();
        let mut answer = Vec::new();
        while answer.is_empty() {
            assert!(begun.elapsed() < SHORT + PATIENCE / 4, "dripped for too long");
            let _ = slow.get_ref().write_all(b"x");
            let _ = slow.read_until(b'\n', &mut answer);
            assert_serves(addr);
        }
        assert!(begun.elapsed() >= SHORT);
        assert_eq!(answer, b"HTTP/1.1 408 Request Timeout\r\n");
    }

    #[test]
    fn a_dripping_body_is_cut_off() {
        let (addr, handle) = start(Limits { body_timeout: SHORT, ..Limits::default() }, demo);
        let mut slow = connect(addr);
        send(&slow, "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
        slow.get_ref().set_read_timeout(Some(SHORT / 10)).unwrap();
        let mut answer = Vec::new();
        eventually("a dripping body is cut off", || {
            let _ = slow.get_ref().write_all(b"x");
            let _ = slow.read_until(b'\n', &mut answer);
            let held = handle.shared.budget.held.load(SeqCst);
            assert!(held <= BODY_STEP_MIN, "{held} bytes held for a slow client");
            !answer.is_empty()
        });
        assert_eq!(answer, b"HTTP/1.1 408 Request Timeout\r\n");
    }

    #[test]
    fn closes_idle_connections_silently() {
        let (addr, _handle) = start(Limits { idle_timeout: SHORT, ..Limits::default() }, demo);
        assert_eq!(receive_all(&mut connect(addr)), "");
        let mut client = connect(addr);
        send(&client, "GET /i HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(receive(&mut client).2, "GET /i?- ");
        assert_eq!(receive_all(&mut client), "");
    }

    #[test]
    fn slow_connections_do_not_delay_a_normal_request() {
        let (addr, handle) = start(Limits::default(), demo);
        let slow: Vec<_> = (0..300)
            .map(|index| {
                let client = connect(addr);
                let body = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx";
                send(&client, if index % 2 == 0 { "GET / HT" } else { body });
                client
            })
            .collect();
        eventually("all slow connections wait", || {
            handle.connections() == slow.len() && handle.in_flight() == slow.len() / 2
        });
        let begun = Instant::now();
        assert_serves(addr);
        assert!(begun.elapsed() < Duration::from_secs(1), "took {:?}", begun.elapsed());
    }

    #[test]
    fn a_client_that_does_not_read_is_dropped() {
        let (addr, handle) = start(Limits { write_timeout: SHORT, ..Limits::default() }, demo);
        let client = connect(addr);
        send(&client, "GET /big HTTP/1.1\r\nHost: a\r\n\r\n");
        eventually("the request is handled", || handle.in_flight() == 1);
        eventually("the thread is free again", || {
            handle.in_flight() == 0 && handle.connections() == 0
        });
    }

    #[test]
    fn refuses_connections_over_the_cap() {
        let (addr, handle) = start(Limits { connections_max: 2, ..Limits::default() }, demo);
        let mut first = connect(addr);
        let second = connect(addr);
        eventually("both are admitted", || handle.connections() == 2);
        assert!(handle.at_limit());
        for _ in 0..2 * REFUSED_MAX {
            let mut third = connect(addr);
            let (status, head, _) = receive(&mut third);
            assert_eq!(status, 503);
            assert!(head.contains("\r\nRetry-After: 1\r\nX-Finished: once\r\n"), "{head:?}");
            assert!(head.contains("\r\nConnection: close\r\n"), "{head:?}");
            assert_eq!(receive_all(&mut third), "");
        }
        send(&first, "GET /f HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(receive(&mut first).0, 200);
        drop(second);
        eventually("a slot is free", || !handle.at_limit());
        assert_serves(addr);
    }

    #[test]
    fn bodies_share_one_budget() {
        let (entered, is_entered) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let released = Mutex::new(released);
        let limits = Limits { in_flight_body_bytes_max: 100_000, ..Limits::default() };
        let (addr, handle) = start(limits, move |request| match request.read_body(100_000) {
            Ok(body) if request.path() == "/hold" => {
                entered.send(body.len()).unwrap();
                let _ = lock(&released).recv();
                text(200, "held")
            }
            Ok(body) => text(200, body.len().to_string()),
            Err(error) => error.into(),
        });
        let put = |path: &str, length: usize| {
            let body = "x".repeat(length);
            let head =
                format!("PUT {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
            head + &body
        };
        let mut holder = connect(addr);
        send(&holder, put("/hold", 99_000));
        assert_eq!(is_entered.recv_timeout(PATIENCE).unwrap(), 99_000);
        assert_eq!(handle.shared.budget.held.load(SeqCst), 99_000);
        let mut other = connect(addr);
        send(&other, put("/", 2_000));
        let (status, head, _) = receive(&mut other);
        assert_eq!(status, 503);
        assert!(head.contains("\r\nRetry-After: 1\r\n") && !head.contains("close"), "{head:?}");
        send(&other, put("/", 1_000));
        assert_eq!(receive(&mut other).2, "1000");
        release.send(()).unwrap();
        assert_eq!(receive(&mut holder).2, "held");
        send(&other, put("/", 100_000));
        assert_eq!(receive(&mut other).2, "100000");
        assert_eq!(handle.shared.budget.held.load(SeqCst), 0);
    }

    #[test]
    fn a_handler_panic_is_a_500() {
        let (addr, handle) = start(Limits::default(), demo);
        let answer = talk(addr, "GET /panic HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(status(&answer), 500, "{answer:?}");
        assert!(answer.contains("\r\nConnection: close\r\n"));
        assert!(answer.contains("\r\nX-Finished: once\r\n"));
        assert_serves(addr);
        assert_eq!(handle.in_flight(), 0);
    }

    #[test]
    fn stop_closes_idle_connections_and_waits_for_requests() {
        let (entered, is_entered) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let released = Mutex::new(released);
        let captured = Arc::new(());
        let witness = Arc::clone(&captured);
        let (addr, handle) = start(Limits::default(), move |request| {
            let _ = &captured;
            if request.path() == "/wait" {
                entered.send(()).unwrap();
                let _ = lock(&released).recv();
            }
            text(200, "done")
        });
        let mut idle = connect(addr);
        send(&idle, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(receive(&mut idle).0, 200);
        let mut waiting = connect(addr);
        send(&waiting, "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
        is_entered.recv_timeout(PATIENCE).unwrap();
        let stopping = thread::spawn(move || handle.stop(PATIENCE));
        assert_eq!(receive_all(&mut idle), "");
        eventually("the listener is closed", || TcpStream::connect(addr).is_err());
        assert!(!stopping.is_finished());
        release.send(()).unwrap();
        let (_, head, body) = receive(&mut waiting);
        assert!(head.contains("\r\nConnection: close\r\n"), "{head:?}");
        assert_eq!(body, "done");
        drop(waiting);
        assert!(stopping.join().unwrap());
        assert_eq!(Arc::strong_count(&witness), 1, "the handler is still held");
    }

    #[test]
    fn stop_gives_up_on_requests_after_the_drain_time() {
        let (addr, handle) = start(Limits::default(), demo);
        let mut client = connect(addr);
        send(&client, "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n");
        eventually("the body is waited for", || handle.in_flight() == 1);
        let begun = Instant::now();
        assert!(handle.stop(SHORT));
        assert!(begun.elapsed() >= SHORT && begun.elapsed() < PATIENCE / 4);
        let _ = client.read_to_end(&mut Vec::new());

        let (release, released) = mpsc::channel::<()>();
        let released = Mutex::new(released);
        let (addr, handle) = start(Limits::default(), move |_| {
            let _ = lock(&released).recv();
            text(200, "")
        });
        let client = connect(addr);
        send(&client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        eventually("the handler is stuck", || handle.in_flight() == 1);
        assert!(!handle.stop(Duration::ZERO));
        drop(release);
    }

    #[test]
    fn holds_many_connections_at_once() {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        if limit.current.is_some_and(|current| current < 8192) {
            limit.current = Some(limit.maximum.unwrap_or(8192).min(8192));
            setrlimit(Resource::Nofile, limit).unwrap();
        }
        let (addr, handle) = start(Limits::default(), demo);
        let mut clients: Vec<_> = (0..1100).map(|_| connect(addr)).collect();
        for round in 0..3 {
            for client in &clients {
                send(client, "GET /m HTTP/1.1\r\nHost: a\r\n\r\n");
            }
            for client in &mut clients {
                assert_eq!(receive(client).2, "GET /m?- ", "round {round}");
            }
        }
        assert_eq!(handle.connections(), clients.len());
        assert!(!handle.at_limit());
        assert!(handle.stop(PATIENCE));
    }

    #[test]
    fn a_handle_can_be_shared_between_threads() {
        fn check<T: Send + Sync>() {}
        check::<Handle>();
        check::<Body>();
    }

    #[test]
    fn only_resource_errors_count_as_starvation() {
        let check = |errno: Errno, wanted| {
            assert_eq!(is_starvation(&io::Error::from(errno)), wanted, "{errno:?}");
        };
        check(Errno::MFILE, true);
        check(Errno::NFILE, true);
        check(Errno::NOBUFS, true);
        check(Errno::NOMEM, true);
        check(Errno::CONNABORTED, false);
        check(Errno::INTR, false);
    }

    #[test]
    fn socket_timeouts_never_pass_the_deadline() {
        let check = |current: u64, remaining: u64, wanted: Option<u64>| {
            let [current, remaining] = [current, remaining].map(Duration::from_millis);
            let next = next_timeout(current, remaining);
            assert_eq!(next, Ok(wanted.map(Duration::from_millis)), "{current:?} {remaining:?}");
        };
        check(0, 60_000, Some(32_768));
        check(32_768, 60_000, None);
        check(32_768, 30_000, Some(16_384));
        check(16_384, 60_000, None);
        check(1_024, 60_000, Some(32_768));
        check(2, 1, Some(1));
        assert_eq!(next_timeout(Duration::ZERO, Duration::ZERO), Err(Stall::TimedOut));
    }
}

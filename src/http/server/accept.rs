//! The acceptor: takes connections, up to the cap, and tells the others to come back.

use std::collections::VecDeque;
use std::fmt::Display;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::connection::{Answering, FULL, LINGER_TIME, serve};
use super::limits::after;
use super::registry::{Registration, Shared, Socket};
use super::response::{Framing, Response};

/// Refused connections kept open for a moment so that their answer is not lost to a reset.
pub(super) const REFUSED_MAX: usize = 64;
const STACK_SIZE: usize = 512 * 1024;
const ACCEPT_POLL: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
const ACCEPT_BACKOFF: Duration = Duration::from_millis(75);
const ACCEPT_RETRY: Duration = Duration::from_millis(5);
/// Connections beyond the cap, on which only probes are answered.
pub(super) const SPARE_MAX: usize = 32;
/// How long a new connection waits for the place of one that was closed for it.
const ROOM_WAIT: Duration = Duration::from_millis(100);
/// A limit not hit for this long is over.
const EPISODE_END: Duration = Duration::from_secs(1);
/// A crowd is over when no connection had to be closed for this long: a steady load comes near the limit
/// again and again.
const CROWD_END: Duration = Duration::from_mins(1);

/// A condition that is logged when it starts and when it is over, not each time it is seen.
struct Episode {
    what: &'static str,
    /// Without it for this long, it is over.
    end: Duration,
    seen: Option<Instant>,
}

impl Episode {
    fn new(what: &'static str, end: Duration) -> Self {
        Self { what, end, seen: None }
    }

    fn see(&mut self, cause: &dyn Display) {
        if self.seen.replace(Instant::now()).is_none() {
            log::warn!("{}: {cause}", self.what);
        }
    }

    fn settle(&mut self) {
        if self.seen.is_some_and(|seen| seen.elapsed() >= self.end) {
            self.seen = None;
            log::info!("over: {}", self.what);
        }
    }
}

pub(super) struct Acceptor {
    listener: TcpListener,
    shared: Arc<Shared>,
    answering: Arc<Answering>,
    refused: VecDeque<(Instant, Arc<Socket>)>,
    next_id: u64,
    crowded: Episode,
    full: Episode,
    starved: Episode,
}

impl Acceptor {
    pub(super) fn new(
        listener: TcpListener,
        shared: Arc<Shared>,
        answering: Arc<Answering>,
    ) -> Self {
        Self {
            listener,
            shared,
            answering,
            refused: VecDeque::new(),
            next_id: 0,
            crowded: Episode::new("idle connections are closed to make room", CROWD_END),
            full: Episode::new("the connection limit is reached", EPISODE_END),
            starved: Episode::new(
                "connections cannot be accepted for want of resources",
                EPISODE_END,
            ),
        }
    }

    pub(super) fn run(mut self) {
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
            self.crowded.settle();
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
                    let open = self.shared.ordinary();
                    // The place of an idle connection will do.
                    if self.shared.make_room(false, open) {
                        self.shared.wait_for_end(ACCEPT_BACKOFF, |now| now < open);
                    } else {
                        thread::sleep(ACCEPT_BACKOFF);
                    }
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
        *self.shared.starved_at.lock() = Some(Instant::now());
        self.refused.clear();
    }

    fn admit(&mut self, stream: TcpStream, peer: SocketAddr) {
        let spare = !self.find_room();
        let socket = Socket::new(stream, peer, spare);
        if spare && !self.find_spare_room() {
            return self.refuse(socket, FULL);
        }
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        {
            let mut connections = self.shared.connections();
            connections.insert(id, Arc::clone(&socket));
            self.shared.spare.fetch_add(usize::from(spare), SeqCst);
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

    /// Whether one more connection is within the cap. From nine tenths of it on, each new one takes
    /// the place of an idle one.
    fn find_room(&mut self) -> bool {
        let max = self.shared.limits.connections_max;
        let open = self.shared.ordinary();
        let most = max - max / 10;
        if open < most {
            return true;
        }
        let made = self.shared.make_room(false, most);
        if made {
            self.crowded.see(&format_args!("open {open}, allowed {max}"));
        }
        if open < max || (made && self.shared.wait_for_end(ROOM_WAIT, |open| open < max)) {
            return true;
        }
        self.full.see(&max);
        false
    }

    /// Whether there is room for a connection that may only probe.
    fn find_spare_room(&self) -> bool {
        let is_free = || self.shared.spare.load(SeqCst) < SPARE_MAX;
        is_free()
            || (self.shared.make_room(true, SPARE_MAX)
                && self.shared.wait_for_end(ROOM_WAIT, |_| is_free()))
    }

    /// Answers 503 without ever blocking. The socket stays open for a moment, because closing it
    /// with unread input would reset it and could take the answer away from the client.
    fn refuse(&mut self, socket: Arc<Socket>, detail: &str) {
        let response = (self.answering.finish)(Response::busy(detail));
        let mut bytes = Vec::new();
        response.write_head(&mut bytes, Framing::Length, Some("close"));
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

pub(super) fn is_starvation(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
    )
}

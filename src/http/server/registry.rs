//! Who is connected, and who is being answered.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::budget::Budget;
use super::limits::Limits;

/// State shared by the handle, the acceptor and the connection threads. It does not own the
/// handler, so that what the handler captured is released once the last connection ended.
pub(super) struct Shared {
    pub(super) limits: Limits,
    /// For request bodies.
    pub(super) bodies: Arc<Budget>,
    /// For answers.
    pub(super) answers: Arc<Budget>,
    pub(super) stopping: AtomicBool,
    pub(super) in_flight: AtomicUsize,
    pub(super) connections: Mutex<HashMap<u64, Arc<Socket>>>,
    /// Of these, beyond the cap.
    pub(super) spare: AtomicUsize,
    pub(super) ended: Condvar,
    pub(super) starved_at: Mutex<Option<Instant>>,
}

impl Shared {
    pub(super) fn connections(&self) -> MutexGuard<'_, HashMap<u64, Arc<Socket>>> {
        self.connections.lock()
    }

    /// Wakes the threads that wait for a request. Only reading is shut down, so that a request
    /// that has just arrived can still be answered.
    pub(super) fn close_idle(&self) {
        for connection in self.connections().values() {
            if connection.state.load(SeqCst) != BUSY {
                let _ = connection.stream.shutdown(Shutdown::Read);
            }
        }
    }

    /// Connections that count for the cap.
    pub(super) fn ordinary(&self) -> usize {
        self.connections().len().saturating_sub(self.spare.load(SeqCst))
    }

    /// Closes the oldest idle connections of the address that has most connections, of those within
    /// the cap or of those beyond it, so that fewer than `most` stay. An address that has many idle
    /// ones, as a proxy has, loses those that waited longest; whoever has few is left alone. Some
    /// more are closed at once where there are hundreds, because looking for them takes a moment.
    /// Returns whether any is about to end.
    pub(super) fn make_room(&self, spare: bool, most: usize) -> bool {
        let connections = self.connections();
        let mut origin_to_count: HashMap<IpAddr, usize> = HashMap::new();
        let mut idle = Vec::new();
        let (mut staying, mut leaving) = (0, 0);
        for socket in connections.values().filter(|socket| socket.spare == spare) {
            let state = socket.state.load(SeqCst);
            if state == LEAVING {
                leaving += 1;
                continue;
            }
            staying += 1;
            let origin = origin(socket.peer);
            *origin_to_count.entry(origin).or_default() += 1;
            if state == IDLE {
                idle.push((origin, socket));
            }
        }
        if staying >= most {
            let count = staying + 1 - most + most / 100;
            idle.sort_by_cached_key(|(origin, socket)| {
                (Reverse(origin_to_count[origin]), socket.idle_since())
            });
            leaving += idle.iter().filter(|(_, socket)| socket.leave()).take(count).count();
        }
        leaving > 0
    }

    /// Waits until `enough` holds, as connections end.
    pub(super) fn wait_for_end(&self, timeout: Duration, enough: impl Fn(usize) -> bool) -> bool {
        let spare = || self.spare.load(SeqCst);
        let mut connections = self.connections();
        let too_many = |open: &mut HashMap<_, _>| !enough(open.len().saturating_sub(spare()));
        self.ended.wait_while_for(&mut connections, too_many, timeout);
        enough(connections.len().saturating_sub(spare()))
    }

    pub(super) fn wait_until_empty(&self, deadline: Instant) -> bool {
        let timeout = deadline.saturating_duration_since(Instant::now());
        let mut connections = self.connections();
        self.ended.wait_while_for(&mut connections, |open| !open.is_empty(), timeout);
        connections.is_empty()
    }
}

/// One open connection as the registry sees it.
pub(super) struct Socket {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    /// Beyond the cap: there for probes.
    pub(super) spare: bool,
    state: AtomicU8,
    accepted: Instant,
    /// When its last request was answered, in nanoseconds after it was accepted.
    answered_ns: AtomicU64,
}

/// It waits for a request.
const IDLE: u8 = 0;
/// A request is in flight.
const BUSY: u8 = 1;
/// It has to make room.
const LEAVING: u8 = 2;

impl Socket {
    pub(super) fn new(stream: TcpStream, peer: SocketAddr, spare: bool) -> Arc<Self> {
        let state = AtomicU8::new(IDLE);
        let answered_ns = AtomicU64::new(0);
        Arc::new(Self { stream, peer, spare, state, accepted: Instant::now(), answered_ns })
    }

    fn idle_since(&self) -> Instant {
        self.accepted + Duration::from_nanos(self.answered_ns.load(SeqCst))
    }

    /// Closes it unless a request is in flight or waits to be read; whether it was idle.
    fn leave(&self) -> bool {
        let mut waiting = [PollFd::new(&self.stream, PollFlags::IN)];
        if poll(&mut waiting, Some(&Timespec::default())) != Ok(0) {
            return false;
        }
        let left = self.state.compare_exchange(IDLE, LEAVING, SeqCst, SeqCst).is_ok();
        if left {
            let _ = self.stream.shutdown(Shutdown::Read);
        }
        left
    }
}

/// Who is behind an address: one machine has a whole network of version 6.
pub(super) fn origin(peer: SocketAddr) -> IpAddr {
    match peer.ip().to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address @ IpAddr::V4(_) => address,
    }
}

/// Keeps a connection in the registry; dropped last in its thread, also when that panics.
pub(super) struct Registration {
    pub(super) shared: Arc<Shared>,
    pub(super) id: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let socket = {
            let mut connections = self.shared.connections();
            let socket = connections.remove(&self.id);
            if socket.as_ref().is_some_and(|socket| socket.spare) {
                self.shared.spare.fetch_sub(1, SeqCst);
            }
            socket
        };
        // The socket closes here, outside the lock, and before a stop is told.
        drop(socket);
        self.shared.ended.notify_all();
    }
}

/// Marks a request as in flight until dropped.
pub(super) struct InFlight<'a> {
    shared: &'a Shared,
    socket: &'a Socket,
}

impl<'a> InFlight<'a> {
    /// `None` when the connection was just told to make room.
    pub(super) fn new(shared: &'a Shared, socket: &'a Socket) -> Option<Self> {
        socket.state.compare_exchange(IDLE, BUSY, SeqCst, SeqCst).ok()?;
        shared.in_flight.fetch_add(1, SeqCst);
        Some(Self { shared, socket })
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let answered = self.socket.accepted.elapsed().as_nanos();
        self.socket.answered_ns.store(u64::try_from(answered).unwrap_or(u64::MAX), SeqCst);
        self.socket.state.store(IDLE, SeqCst);
        self.shared.in_flight.fetch_sub(1, SeqCst);
    }
}

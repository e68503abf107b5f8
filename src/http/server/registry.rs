//! Who is connected, and who is being answered.

use std::collections::HashMap;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::body::Budget;
use super::limits::Limits;

/// State shared by the handle, the acceptor and the connection threads. It does not own the
/// handler, so that what the handler captured is released once the last connection ended.
pub(super) struct Shared {
    pub(super) limits: Limits,
    pub(super) budget: Arc<Budget>,
    pub(super) stopping: AtomicBool,
    pub(super) in_flight: AtomicUsize,
    pub(super) connections: Mutex<HashMap<u64, Arc<Socket>>>,
    pub(super) ended: Condvar,
    pub(super) starved_at: Mutex<Option<Instant>>,
}

impl Shared {
    pub(super) fn connections(&self) -> MutexGuard<'_, HashMap<u64, Arc<Socket>>> {
        lock(&self.connections)
    }

    /// Wakes the threads that wait for a request. Only reading is shut down, so that a request
    /// that has just arrived can still be answered.
    pub(super) fn close_idle(&self) {
        for connection in self.connections().values() {
            if !connection.busy.load(SeqCst) {
                let _ = connection.stream.shutdown(Shutdown::Read);
            }
        }
    }

    pub(super) fn wait_until_empty(&self, deadline: Instant) -> bool {
        let timeout = deadline.saturating_duration_since(Instant::now());
        let (connections, _) = self
            .ended
            .wait_timeout_while(self.connections(), timeout, |open| !open.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        connections.is_empty()
    }
}

/// One open connection as the registry sees it.
pub(super) struct Socket {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    /// A request is in flight.
    pub(super) busy: AtomicBool,
}

/// Keeps a connection in the registry; dropped last in its thread, also when that panics.
pub(super) struct Registration {
    pub(super) shared: Arc<Shared>,
    pub(super) id: u64,
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
pub(super) struct InFlight<'a> {
    shared: &'a Shared,
    socket: &'a Socket,
}

impl<'a> InFlight<'a> {
    pub(super) fn new(shared: &'a Shared, socket: &'a Socket) -> Self {
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

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

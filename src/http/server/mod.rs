//! A small synchronous HTTP/1.1 server: one acceptor thread and one thread per connection.
//!
//! It owns everything between the socket and the handler: the connection cap, message framing,
//! deadlines, the memory budget for request bodies, keep-alive, closing and stopping.
//!
//! It never trusts a declared length with memory, never waits on a client without a deadline,
//! never guesses where an ambiguous message ends (it answers 4xx and closes), never answers a
//! connection that asked for nothing, and never lets a client or a handler panic take it down.
//! It does not do TLS, HTTP/2, upgrades or compression of responses.

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

mod accept;
mod body;
mod budget;
mod coding;
mod connection;
mod head;
mod limits;
mod receive;
mod registry;
mod response;
mod socket;
#[cfg(test)]
mod tests;

use accept::Acceptor;
use budget::Budget;
use connection::{Answering, Finish};
use limits::after;
use registry::Shared;

pub use body::{Body, BodyError};
pub use coding::Packed;
pub use connection::Request;
pub use limits::Limits;
pub use response::{Broken, Parts, Response};
pub(super) use response::{FieldProblem, Problem};

const LISTEN_BACKLOG: i32 = 1024;
const SEND_BUFFER_BYTES: usize = 128 * 1024;
/// How long [`Handle::at_limit`] remembers a failed accept.
const STARVED_MEMORY: Duration = Duration::from_secs(1);
/// How long [`Handle::stop`] waits for threads whose sockets it has shut down.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// A bound server that does not accept yet.
pub struct Server {
    listener: TcpListener,
    addr: SocketAddr,
    limits: Limits,
    finish: Box<Finish>,
    probes: &'static [&'static str],
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
        // What slow readers make the kernel hold, too; accepted sockets take this over.
        rustix::net::sockopt::set_socket_send_buffer_size(&listener, SEND_BUFFER_BYTES)?;
        let addr = listener.local_addr()?;
        Ok(Self { listener, addr, limits, finish: Box::new(|response| response), probes: &[] })
    }

    /// Answers that the server gives by itself, to what is no request or is one too many, go through
    /// `finish` before they are sent.
    #[must_use]
    pub fn finishing(self, finish: impl Fn(Response) -> Response + Send + Sync + 'static) -> Self {
        Self { finish: Box::new(finish), ..self }
    }

    /// Some connections beyond the cap are admitted, and answered if they ask for one of these paths.
    #[must_use]
    pub fn probed_at(self, probes: &'static [&'static str]) -> Self {
        Self { probes, ..self }
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
            bodies: Budget::new(self.limits.in_flight_body_bytes_max),
            answers: Budget::new(self.limits.in_flight_answer_bytes_max),
            limits: self.limits,
            stopping: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            connections: Mutex::new(HashMap::new()),
            spare: AtomicUsize::new(0),
            ended: Condvar::new(),
            starved_at: Mutex::new(None),
        });
        let (finish, probes) = (self.finish, self.probes);
        let answering = Answering { handler: Box::new(handler), finish, probes };
        let acceptor = Acceptor::new(self.listener, Arc::clone(&shared), Arc::new(answering));
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
        self.shared.ordinary() >= self.shared.limits.connections_max
            || self.shared.starved_at.lock().is_some_and(|at| at.elapsed() < STARVED_MEMORY)
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

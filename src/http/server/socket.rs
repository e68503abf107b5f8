//! Reading and writing with deadlines.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::limits::TIMEOUT_MAX;

/// The slowest transfer that is waited for, in bytes per second.
const RATE_MIN: u64 = 16 * 1024;

/// The deadline of a transfer, which moves as the transfer does: it may not stand still for longer
/// than its timeout, nor be slower on the whole than [`RATE_MIN`].
pub(super) struct Pace {
    timeout: Duration,
    pub(super) begun: Instant,
    pub(super) moved_at: Instant,
    /// Bytes so far.
    moved: u64,
}

impl Pace {
    pub(super) fn new(timeout: Duration) -> Self {
        let now = Instant::now();
        Self { timeout: timeout.min(TIMEOUT_MAX), begun: now, moved_at: now, moved: 0 }
    }

    pub(super) fn moved(&mut self, count: usize) {
        self.moved = self.moved.saturating_add(count as u64);
        self.moved_at = Instant::now();
    }

    /// The time since the last bytes was not the client's.
    pub(super) fn resume(&mut self) {
        let now = Instant::now();
        self.begun += now.saturating_duration_since(self.moved_at);
        self.moved_at = now;
    }

    pub(super) fn deadline(&self) -> Instant {
        let due = Duration::from_millis(self.moved.saturating_mul(1000) / RATE_MIN);
        let slowest = self.begun + (self.timeout + due).min(TIMEOUT_MAX);
        slowest.min(self.moved_at + self.timeout)
    }
}

/// Why reading or writing cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stall {
    TimedOut,
    Closed,
}

/// Reads once, at the latest until the deadline. End of input is `Closed`.
pub(super) fn read(
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

pub(super) fn write_all(
    mut stream: &TcpStream,
    current: &mut Duration,
    mut bytes: &[u8],
    pace: &mut Pace,
) -> Result<(), Stall> {
    while !bytes.is_empty() {
        let remaining = pace.deadline().saturating_duration_since(Instant::now());
        if let Some(timeout) = next_timeout(*current, remaining)? {
            stream.set_write_timeout(Some(timeout)).map_err(|_| Stall::Closed)?;
            *current = timeout;
        }
        match stream.write(bytes) {
            Ok(0) => return Err(Stall::Closed),
            Ok(count) => {
                bytes = bytes.get(count..).unwrap_or_default();
                pace.moved(count);
            }
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
pub(super) fn next_timeout(
    current: Duration,
    remaining: Duration,
) -> Result<Option<Duration>, Stall> {
    if remaining.is_zero() {
        return Err(Stall::TimedOut);
    }
    let millis = u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX).max(1);
    let wanted = Duration::from_millis(1 << millis.ilog2());
    // Zero, for no timeout set, never fits.
    let fits = current >= wanted / 4 && current <= remaining && !current.is_zero();
    Ok((!fits).then_some(wanted))
}

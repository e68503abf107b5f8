//! Reading and writing with deadlines.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

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

//! What one server may hold, and how long it waits.

use std::time::{Duration, Instant};

/// Longer timeouts are cut to this, so that deadlines cannot overflow.
pub(super) const TIMEOUT_MAX: Duration = Duration::from_hours(24 * 365);

/// What one server may hold and how long it waits. No timeout is per read: they are totals, or follow progress where that is said.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open connections. From nine tenths of it on idle ones make room; more are answered 503 and
    /// closed, unless they ask for a probe.
    pub connections_max: usize,
    /// Request line and header fields of one request.
    pub header_bytes_max: usize,
    /// Request body bytes held, summed over all connections.
    pub in_flight_body_bytes_max: usize,
    /// Bytes of answers held, summed over all connections; short ones are not counted.
    pub in_flight_answer_bytes_max: usize,
    /// Wait for the first byte of a request.
    pub idle_timeout: Duration,
    /// From the first byte of a request to the end of its headers.
    pub header_timeout: Duration,
    /// Reading a body: longest time in which nothing comes. It also has to come faster than 16 KiB
    /// a second on the whole, after that time.
    pub body_timeout: Duration,
    /// Writing a response ends this long after its last byte was taken, or where it is as slow as that.
    pub write_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 2048,
            header_bytes_max: 16 * 1024,
            in_flight_body_bytes_max: 32 * 1024 * 1024,
            in_flight_answer_bytes_max: 64 * 1024 * 1024,
            idle_timeout: Duration::from_mins(1),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(10),
        }
    }
}

/// The deadline of a timeout that begins now.
pub(super) fn after(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(TIMEOUT_MAX)
}

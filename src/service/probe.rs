//! Asks the service over its own socket, as a client would, whether it answers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Whether the service at `address` answers at all, with whatever status.
pub fn is_alive(address: SocketAddr, timeout: Duration) -> bool {
    let answered = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut start = [0; 8];
        stream.read_exact(&mut start)?;
        Ok(&start == b"HTTP/1.1")
    };
    answered().unwrap_or(false)
}

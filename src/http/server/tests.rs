//! The server against good, clumsy and hostile clients, over real sockets.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::mpsc;
use std::time::Instant;

use rustix::io::Errno;

use super::accept::{REFUSED_MAX, SPARE_MAX, is_starvation};
use super::body::BODY_STEP_MIN;
use super::head::HEADERS_MAX;
use super::receive::{CHUNK_LINE_MAX, TRAILERS_MAX};
use super::registry::origin;
use super::socket::{Pace, Stall, next_timeout};
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
    let mut response = Response::new(status, "text/plain", text.into().into_bytes());
    response.headers.clear();
    response
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
        write!(pipeline, "POST /p{index}?q HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
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
    for byte in b"POST /z HTTP/1.1\r\nhost:a\r\nconnection: Close\r\ncontent-length:1\r\n\r\n." {
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
    check("3\r\nabc\r\n0A;x=y\r\n0123456789\r\n000\r\nT: 1\r\nU: 2\r\n\r\n", Some("abc0123456789"));
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
    check("GET http://b@a/ HTTP/1.1\nHost: a\n\n", 400);
    check("GET http://a/ HTTP/1.1\n\n", 400);
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
    let seed =
        b"POST /a?b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
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
    let answer = talk(addr, "PUT /b HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000000\r\n\r\n");
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
        let held = handle.shared.bodies.held();
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
fn a_reader_that_goes_on_is_waited_for() {
    let (addr, _handle) = start(Limits { write_timeout: SHORT, ..Limits::default() }, demo);
    let mut client = connect(addr);
    send(&client, "GET /big HTTP/1.1\r\nHost: a\r\n\r\n");
    receive_head(&mut client);
    let begun = Instant::now();
    let (_never, pause) = mpsc::channel::<()>();
    let mut part = vec![0; 1 << 20];
    for index in 0..64 {
        client.read_exact(&mut part).unwrap_or_else(|error| panic!("part {index}: {error}"));
        let _ = pause.recv_timeout(SHORT / 20);
    }
    assert!(begun.elapsed() > 2 * SHORT, "too fast to show anything");
}

#[test]
fn a_transfer_may_neither_stand_still_nor_crawl() {
    let check = |moved: usize, quiet_s: u64, wanted_ms: u64| {
        let begun = Instant::now();
        let mut pace = Pace::new(Duration::from_secs(10));
        pace.begun = begun;
        pace.moved(moved);
        pace.moved_at = begun + Duration::from_secs(quiet_s);
        assert_eq!(pace.deadline(), begun + Duration::from_millis(wanted_ms), "{moved} {quiet_s}");
    };
    check(0, 0, 10_000);
    // Without the floor of 16 KiB a second it would be at 17 s.
    check(1_024, 7, 10_062);
    check(160 * 1024, 7, 17_000);
    check(160 * 1024, 12, 20_000);
    // 25 MB at 1 MB/s.
    check(25_000_000, 25, 35_000);
    check(usize::MAX, 1, 11_000);
}

#[test]
fn an_absolute_target_names_the_host() {
    let (addr, _handle) = start(Limits::default(), |request| {
        text(200, format!("{} {}", request.header("host").unwrap_or("-"), request.path()))
    });
    let check = |request: &str, wanted: &str| {
        let answer = talk(addr, request.replace('\n', "\r\n"));
        assert!(answer.ends_with(&format!("\r\n\r\n{wanted}")), "{request:?}: {answer:?}");
    };
    check("GET /x HTTP/1.1\nHost: a\nConnection: close\n\n", "a /x");
    check("GET http://b:80/x HTTP/1.1\nHost: a\nConnection: close\n\n", "b:80 /x");
    check("GET HTTP://b/x HTTP/1.1\nConnection: close\nhOST: a\n\n", "b /x");
    check("GET http://[::1]:8000 HTTP/1.1\nHost: a\nConnection: close\n\n", "[::1]:8000 /");
    check("GET http://b/x HTTP/1.0\n\n", "b /x");
    check("GET /x HTTP/1.0\n\n", "- /x");
}

/// Puts a body with these header fields; the status, the head, and the body that the handler saw.
fn put(addr: SocketAddr, fields: &str, body: &[u8]) -> (u16, String, String) {
    let mut client = connect(addr);
    let length = body.len();
    let head = format!("PUT /c HTTP/1.1\r\nHost: a\r\n{fields}Content-Length: {length}\r\n\r\n");
    send(&client, [head.as_bytes(), body].concat());
    receive(&mut client)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

/// `abc`, written for a decoder with a window of that power of two.
fn zstd_with_window(log: u32) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.window_log(log).unwrap();
    encoder.write_all(b"abc").unwrap();
    encoder.flush().unwrap();
    encoder.finish().unwrap()
}

#[test]
fn decodes_what_content_encoding_names() {
    let (addr, handle) = start(Limits::default(), demo);
    let plain = b"abc".repeat(10_000);
    let read = |fields: &str, body: &[u8], wanted: &[u8]| {
        let (status, _, answer) = put(addr, fields, body);
        let wanted = format!("PUT /c?- {}", str::from_utf8(wanted).unwrap());
        assert_eq!((status, answer), (200, wanted), "{fields:?}");
    };
    read("", &plain, &plain);
    read("Content-Encoding: identity\r\n", &plain, &plain);
    read("Content-Encoding:\r\n", &plain, &plain);
    read("Content-Encoding: gzip\r\n", &gzip(&plain), &plain);
    read("content-encoding: X-GZip\r\n", &gzip(&plain), &plain);
    read(
        "Content-Encoding: gzip\r\n",
        &[gzip(&plain), gzip(b"d")].concat(),
        &[&plain[..], b"d"].concat(),
    );
    read("Content-Encoding: zstd\r\n", &zstd(&plain), &plain);
    read(
        "Content-Encoding: zstd\r\n",
        &[zstd(&plain), zstd(b"d")].concat(),
        &[&plain[..], b"d"].concat(),
    );
    read("Content-Encoding: zstd\r\n", &zstd_with_window(23), b"abc");
    read("Content-Encoding: gzip, identity ,zstd\r\n", &zstd(&gzip(&plain)), &plain);
    read("Content-Encoding: zstd\r\nContent-Encoding: gzip\r\n", &gzip(&zstd(&plain)), &plain);
    read("Content-Encoding: gzip\r\n", b"", b"");
    read("Content-Encoding: gzip\r\n", &gzip(b""), b"");
    // As long as allowed, to the byte.
    let most = vec![b'x'; 1 << 20];
    read("Content-Encoding: gzip\r\n", &gzip(&most), &most);
    read("Content-Encoding: zstd\r\n", &zstd(&most), &most);
    assert_eq!(handle.shared.bodies.held(), 0);
}

#[test]
fn refuses_codings_that_it_does_not_read_and_what_they_do_not_fit() {
    let limits = Limits { in_flight_body_bytes_max: 4 << 20, ..Limits::default() };
    let (addr, handle) = start(limits, demo);
    let check = |coding: &str, body: &[u8], wanted: u16| {
        let (status, head, answer) = put(addr, &format!("Content-Encoding: {coding}\r\n"), body);
        assert_eq!(status, wanted, "{coding}: {answer}");
        assert_eq!(head.contains("\r\nAccept-Encoding: gzip, zstd\r\n"), status == 415, "{head}");
        assert!(!head.contains("Connection: close"), "{head}");
    };
    for unread in ["br", "compress", "deflate", "zlib", "gzip;q=1", "*", "gzip, br", "\"gzip\""] {
        check(unread, &gzip(b"abc"), 415);
    }
    check("gzip, gzip, gzip, gzip, gzip", &gzip(b"abc"), 415);
    let cut = |mut bytes: Vec<u8>| {
        bytes.truncate(bytes.len() - 1);
        bytes
    };
    let flipped = |mut bytes: Vec<u8>| {
        let at = bytes.len() - 6;
        bytes[at] ^= 1;
        bytes
    };
    check("gzip", b"abc", 400);
    check("gzip", &zstd(b"abc"), 400);
    check("gzip", &cut(gzip(b"abc")), 400);
    check("gzip", &flipped(gzip(b"abc")), 400);
    check("gzip", &[gzip(b"abc"), b"tail".to_vec()].concat(), 400);
    check("zstd", b"abc", 400);
    check("zstd", &gzip(b"abc"), 400);
    check("zstd", &cut(zstd(b"abc")), 400);
    check("zstd", &[zstd(b"abc"), b"tail".to_vec()].concat(), 400);
    // A decoder would need a window of 128 MiB.
    check("zstd", &zstd_with_window(27), 400);
    // Bombs.
    let bomb = vec![b'x'; (1 << 20) + 1];
    check("gzip", &gzip(&bomb), 413);
    check("zstd", &zstd(&bomb), 413);
    let bomb = vec![0; 64 << 20];
    check("gzip", &gzip(&bomb), 413);
    check("zstd", &zstd(&bomb), 413);
    check("gzip, gzip", &gzip(&gzip(&bomb)), 413);
    assert_eq!(handle.shared.bodies.held(), 0);
}

#[test]
fn decoded_bodies_share_the_budget() {
    let limits = Limits { in_flight_body_bytes_max: 500_000, ..Limits::default() };
    let (addr, handle) = start(limits, demo);
    let other = connect(addr);
    let head = "PUT /c HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n";
    send(&other, format!("{head}{}", "x".repeat(290_000)));
    eventually("the other body has its share", || handle.shared.bodies.held() > 290_000);
    let coded = gzip(&vec![b'x'; 400_000]);
    let (status, head, _) = put(addr, "Content-Encoding: gzip\r\n", &coded);
    assert_eq!(status, 503);
    assert!(head.contains("\r\nRetry-After: 1\r\n"), "{head}");
    drop(other);
    eventually("nothing is held", || handle.shared.bodies.held() == 0);
    // What has no room at any time need not be tried again.
    let coded = gzip(&vec![b'x'; 600_000]);
    assert_eq!(put(addr, "Content-Encoding: gzip\r\n", &coded).0, 413);
    assert_eq!(handle.shared.bodies.held(), 0);
    assert_eq!(put(addr, "Content-Encoding: gzip\r\n", &gzip(b"x")).2, "PUT /c?- x");
}

#[test]
fn a_client_that_does_not_read_is_dropped() {
    let (addr, handle) = start(Limits { write_timeout: SHORT, ..Limits::default() }, demo);
    let client = connect(addr);
    send(&client, "GET /big HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the request is handled", || handle.in_flight() == 1);
    eventually("the thread is free again", || handle.in_flight() == 0 && handle.connections() == 0);
}

/// A client whose request is in flight for as long as it likes.
fn connect_busy(addr: SocketAddr) -> BufReader<TcpStream> {
    let client = connect(addr);
    send(&client, "PUT /busy HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n");
    client
}

#[track_caller]
fn check_refused(client: &mut BufReader<TcpStream>) {
    let (status, head, _) = receive(client);
    assert_eq!(status, 503);
    assert!(head.contains("\r\nRetry-After: 1\r\nX-Finished: once\r\n"), "{head:?}");
    assert!(head.contains("\r\nConnection: close\r\n"), "{head:?}");
    assert_eq!(receive_all(client), "");
}

#[test]
fn refuses_connections_over_the_cap() {
    let (addr, handle) = start(Limits { connections_max: 2, ..Limits::default() }, demo);
    let mut first = connect_busy(addr);
    let second = connect_busy(addr);
    eventually("both are busy", || handle.in_flight() == 2);
    assert!(handle.at_limit());
    // None of them asks for anything.
    let mut more: Vec<_> = (0..2 * REFUSED_MAX).map(|_| connect(addr)).collect();
    more.iter_mut().for_each(check_refused);
    // They stay for a moment; with them the cap would not hold.
    assert!(handle.connections() <= 2 + SPARE_MAX);
    let mut asking = connect(addr);
    send(&asking, "GET /f HTTP/1.1\r\nHost: a\r\n\r\n");
    check_refused(&mut asking);
    send(&first, ".");
    assert_eq!(receive(&mut first).2, "PUT /busy?- .");
    drop(second);
    eventually("a slot is free", || !handle.at_limit());
    assert_serves(addr);
}

#[test]
fn probes_are_answered_over_the_cap() {
    let limits = Limits { connections_max: 2, ..Limits::default() };
    let server = Server::bind((Ipv4Addr::LOCALHOST, 0).into(), limits).unwrap();
    let addr = server.local_addr();
    let handle = server.probed_at(&["/probe"]).spawn(demo).unwrap();
    let _busy = [connect_busy(addr), connect_busy(addr)];
    eventually("both are busy", || handle.in_flight() == 2);
    // Whoever asks for nothing keeps no probe out.
    let _silent: Vec<_> = (0..2 * SPARE_MAX).map(|_| connect(addr)).collect();
    for (path, wanted) in [("/probe", 200), ("/probe?x", 200), ("/prob", 503), ("/probe/", 503)] {
        let mut client = connect(addr);
        send(&client, format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let (status, head, _) = receive(&mut client);
        assert_eq!(status, wanted, "{path}");
        assert!(head.contains("\r\nConnection: close\r\n"), "{head:?}");
    }
    assert!(handle.at_limit());
    assert!(handle.stop(SHORT));
}

/// A connection from an address of this machine.
fn connect_from(from: [u8; 4], addr: SocketAddr) -> BufReader<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&fd, &SocketAddr::from((from, 0))).unwrap();
    connect(&fd, &addr).unwrap();
    let stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    BufReader::new(stream)
}

#[test]
fn idle_connections_of_the_busiest_address_make_room() {
    let (addr, handle) = start(Limits { connections_max: 20, ..Limits::default() }, demo);
    let get = |client: &mut BufReader<TcpStream>| {
        let under_way = handle.in_flight();
        send(client, "GET /i HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(receive(client).2, "GET /i?- ");
        // It is idle from here on, not from its answer's arrival.
        eventually("it is idle", || handle.in_flight() == under_way);
    };
    // The oldest of all, but of an address that has few.
    let mut alone = connect_from([127, 0, 0, 2], addr);
    get(&mut alone);
    let mut busy = connect_busy(addr);
    eventually("it is busy", || handle.in_flight() == 1);
    // An old connection that was just used is younger than one that never asked.
    let mut used = connect(addr);
    let mut idle: Vec<_> = (0..15).map(|_| connect(addr)).collect();
    eventually("all are admitted", || handle.connections() == 18);
    get(&mut used);
    for round in 1..=15 {
        let mut new = connect(addr);
        get(&mut new);
        assert_eq!(receive_all(&mut idle.remove(0)), "", "round {round}");
        idle.push(new);
        assert!(handle.connections() <= 20);
    }
    let mut last = connect(addr);
    get(&mut last);
    assert_eq!(receive_all(&mut used), "");
    get(&mut alone);
    send(&busy, ".");
    assert_eq!(receive(&mut busy).2, "PUT /busy?- .");
    // As many as a flood has: nobody is refused.
    let flood: Vec<_> = (0..200).map(|_| connect(addr)).collect();
    assert_serves(addr);
    get(&mut alone);
    drop(flood);
    assert!(handle.stop(PATIENCE));
}

#[test]
fn one_connection_is_enough_for_many_clients_in_turn() {
    let (addr, handle) = start(Limits { connections_max: 1, ..Limits::default() }, demo);
    let mut before = connect(addr);
    for _ in 0..20 {
        eventually("it is idle", || handle.connections() == 1 && handle.in_flight() == 0);
        let mut client = connect(addr);
        send(&client, "GET /i HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(receive(&mut client).2, "GET /i?- ");
        assert_eq!(receive_all(&mut before), "");
        before = client;
    }
}

#[test]
fn an_origin_is_an_address_or_a_network_of_version_6() {
    let check = |one: &str, other: &str, same: bool| {
        let [one_origin, other_origin] = [one, other].map(|text| origin(text.parse().unwrap()));
        assert_eq!(one_origin == other_origin, same, "{one} {other}");
    };
    check("10.0.0.1:1", "10.0.0.1:2", true);
    check("10.0.0.1:1", "[::ffff:10.0.0.1]:1", true);
    check("10.0.0.1:1", "10.0.0.2:1", false);
    check("[2001:db8:1:2::1]:1", "[2001:db8:1:2:9::]:1", true);
    check("[2001:db8:1:2::1]:1", "[2001:db8:1:3::1]:1", false);
}

/// Reads a body in chunks, as it is framed: its parts.
fn receive_chunks(client: &mut BufReader<TcpStream>) -> Vec<String> {
    let mut chunks = Vec::new();
    loop {
        let mut line = String::new();
        client.read_line(&mut line).unwrap();
        let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
        let mut chunk = vec![0; size + 2];
        client.read_exact(&mut chunk).unwrap();
        assert!(chunk.ends_with(b"\r\n"));
        if size == 0 {
            return chunks;
        }
        chunks.push(String::from_utf8_lossy(&chunk[..size]).into_owned());
    }
}

fn in_parts(request: &mut Request<'_>) -> Response {
    let fails = request.path() == "/broken";
    let rest = (0..4).map(move |index| match index {
        2 if fails => Err(Broken),
        1 => Ok(Vec::new()),
        _ => Ok(vec![b'0' + index; 3]),
    });
    Response::json_in_parts(200, b"first".to_vec(), Box::new(rest))
}

#[test]
fn answers_can_be_made_in_parts() {
    let (addr, handle) = start(Limits::default(), in_parts);
    let mut client = connect(addr);
    for _ in 0..2 {
        send(&client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = receive_head(&mut client);
        assert!(head.contains("\r\nTransfer-Encoding: chunked\r\n"), "{head:?}");
        assert!(!head.contains("Content-Length"), "{head:?}");
        assert_eq!(receive_chunks(&mut client), ["first", "000", "222", "333"]);
    }
    send(&client, "HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(receive_head(&mut client).contains("\r\nTransfer-Encoding: chunked\r\n"));
    assert!(receive_head(&mut client).starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(receive_chunks(&mut client).concat(), "first000222333");
    // An old client knows no chunks: the body ends with the connection.
    let old = talk(addr, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert!(old.ends_with("\r\nConnection: close\r\n\r\nfirst000222333"), "{old:?}");
    // What can't be finished is not ended: the client can tell.
    let broken = talk(addr, "GET /broken HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(broken.ends_with("\r\n\r\n5\r\nfirst\r\n3\r\n000\r\n"), "{broken:?}");
    eventually("all is given back", || handle.shared.answers.held() == 0);
}

#[test]
fn answers_share_one_budget() {
    let limits = Limits { in_flight_answer_bytes_max: 40 << 20, ..Limits::default() };
    let (addr, handle) = start(limits, |request| match request.path() {
        "/large" => Response::new(200, "text/plain", vec![b'x'; 30 << 20]),
        "/json" => Response::serialized(200, &vec!["y".repeat(1 << 20); 30]).unwrap(),
        "/parts" => in_parts(request),
        _ => Response::new(200, "text/plain", vec![b'x'; 16 << 10]),
    });
    let get = |path: &str| {
        let client = connect(addr);
        send(&client, format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        client
    };
    let slow = get("/large");
    eventually("the first is counted", || handle.shared.answers.held() == 30 << 20);
    for path in ["/large", "/json"] {
        let (status, head, _) = receive(&mut get(path));
        assert_eq!(status, 503, "{path}");
        assert!(head.contains("\r\nRetry-After: 1\r\n") && !head.contains("close"), "{head:?}");
    }
    // What is short, or made in parts, goes on.
    assert_eq!(receive(&mut get("/short")).0, 200);
    let mut parts = get("/parts");
    receive_head(&mut parts);
    assert_eq!(receive_chunks(&mut parts).concat(), "first000222333");
    drop(slow);
    eventually("it is given back", || handle.shared.answers.held() == 0);
    let (status, _, body) = receive(&mut get("/json"));
    assert_eq!((status, body.len()), (200, 30 * ((1 << 20) + 3) + 1));
    eventually("it is given back", || handle.shared.answers.held() == 0);
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
            let _ = released.lock().recv();
            text(200, "held")
        }
        Ok(body) => text(200, body.len().to_string()),
        Err(error) => error.into(),
    });
    let put = |path: &str, length: usize| {
        let body = "x".repeat(length);
        let head = format!("PUT {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        head + &body
    };
    let mut holder = connect(addr);
    send(&holder, put("/hold", 99_000));
    assert_eq!(is_entered.recv_timeout(PATIENCE).unwrap(), 99_000);
    assert_eq!(handle.shared.bodies.held(), 99_000);
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
    assert_eq!(handle.shared.bodies.held(), 0);
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
            let _ = released.lock().recv();
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
        let _ = released.lock().recv();
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

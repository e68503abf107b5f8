//! Starts the real program on a free port with a state directory of its own, waits until it is
//! ready, kills it at the end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for anything that should happen soon.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// The program, with none of this process's settings.
pub(crate) fn program() -> Command {
    without_environment(env!("CARGO_BIN_EXE_online-learning"))
}

/// Has the program learn the journal of a directory again, and come to the same model.
#[track_caller]
pub(crate) fn verify(directory: &Path) {
    let mut command = program();
    let output = command.arg("verify").env("MODEL_STORAGE_PATH", directory).output();
    let output = output.expect("the program can be run");
    assert!(output.status.success(), "{output:?}");
}

/// A command that knows nothing of the environment that the tests run in.
pub(crate) fn without_environment(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    // Coverage and sanitizer runs need it; the program does not read it.
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

/// Waits until `condition` gives a value.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: did not come about within {SOON:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits up to `limit` until `condition` is right; until then it says what is still wrong.
#[track_caller]
pub(crate) fn within<T>(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match condition() {
            Ok(value) => return value,
            Err(seen) => assert!(
                Instant::now() < deadline,
                "{what}: did not come about within {limit:?}, last seen: {seen}"
            ),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An answer: status, headers by lower-case name, body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// What a service is started with.
pub(crate) struct Setup {
    pub(crate) directory: PathBuf,
    pub(crate) settings: Vec<(String, String)>,
    arguments: Vec<String>,
    home: Option<PathBuf>,
}

impl Setup {
    pub(crate) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            settings: Vec::new(),
            arguments: Vec::new(),
            home: None,
        }
    }

    /// Adds an environment variable.
    pub(crate) fn with(mut self, variable: &str, value: impl std::fmt::Display) -> Self {
        self.settings.push((variable.to_owned(), value.to_string()));
        self
    }

    /// Adds an argument of the command line.
    pub(crate) fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Runs it in this directory, which relative paths start from.
    pub(crate) fn within(mut self, home: &Path) -> Self {
        self.home = Some(home.to_owned());
        self
    }

    /// The command that runs the service on `address`, its output piped.
    pub(crate) fn command(&self, address: SocketAddr) -> Command {
        let mut command = program();
        command
            .arg("serve")
            .args(&self.arguments)
            .env("LISTEN_ADDR", address.to_string())
            .env("MODEL_STORAGE_PATH", &self.directory)
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(home) = &self.home {
            command.current_dir(home);
        }
        command
    }

    /// Starts the service and waits until it is ready.
    #[track_caller]
    pub(crate) fn start(&self) -> Service {
        // Between finding a free port and binding it, somebody else may take it: once more then.
        for _ in 0..2 {
            let mut service = self.spawn(free_address());
            if service.wait_until_ready() {
                return service;
            }
            let log = service.log();
            assert!(log.contains("can't listen"), "the service did not start: {log}");
        }
        panic!("no free port was found twice");
    }

    /// Starts the service without waiting.
    #[track_caller]
    pub(crate) fn spawn(&self, address: SocketAddr) -> Service {
        let mut child = self.command(address).spawn().expect("the program can be run");
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().expect("it is piped");
        let lines = log.clone();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = lines.lock().expect("no holder panics");
                log.push_str(&line);
                log.push('\n');
            }
        });
        Service { child, address, log, reader: Some(reader), agent: agent() }
    }
}

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_mins(1)))
        .http_status_as_error(false)
        .build();
    config.into()
}

/// A port that was free a moment ago.
pub(crate) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    listener.local_addr().expect("it is bound")
}

/// A running service; killed when dropped.
pub(crate) struct Service {
    child: Child,
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<String>>,
    reader: Option<std::thread::JoinHandle<()>>,
    agent: ureq::Agent,
}

impl Service {
    fn wait_until_ready(&mut self) -> bool {
        eventually("the service is ready", || {
            // What it logs before is read by another thread, and tests look for it.
            if self.try_get("/readyz").is_ok_and(|answer| answer.status == 200)
                && self.log().contains("service=started")
            {
                return Some(true);
            }
            self.child.try_wait().expect("it is our child").map(|_| false)
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Everything logged so far; all of it once the service has ended.
    pub(crate) fn log(&mut self) -> String {
        if self.child.try_wait().expect("it is our child").is_some()
            && let Some(reader) = self.reader.take()
        {
            reader.join().expect("reading the log does not panic");
        }
        self.log.lock().expect("no holder panics").clone()
    }

    pub(crate) fn try_get(&self, path: &str) -> Result<Answer, ureq::Error> {
        answer(self.agent.get(self.url(path)).call()?)
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.try_get(path).unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    pub(crate) fn try_post(
        &self,
        path: &str,
        media: &str,
        body: impl AsRef<[u8]>,
    ) -> Result<Answer, ureq::Error> {
        answer(self.agent.post(self.url(path)).content_type(media).send(body.as_ref())?)
    }

    #[track_caller]
    pub(crate) fn post(&self, path: &str, media: &str, body: impl AsRef<[u8]>) -> Answer {
        self.try_post(path, media, body).unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    #[track_caller]
    pub(crate) fn put_json(&self, path: &str, body: &Value) -> Answer {
        let sent = self.agent.put(self.url(path)).content_type("application/json");
        sent.send(body.to_string().as_bytes())
            .and_then(answer)
            .unwrap_or_else(|error| panic!("PUT {path}: {error}"))
    }

    #[track_caller]
    pub(crate) fn delete(&self, path: &str) -> Answer {
        let sent = self.agent.delete(self.url(path)).call();
        sent.and_then(answer).unwrap_or_else(|error| panic!("DELETE {path}: {error}"))
    }

    #[track_caller]
    pub(crate) fn post_json(&self, path: &str, body: &Value) -> Answer {
        self.post(path, "application/json", body.to_string())
    }

    /// Reports outcomes, a line each, and waits until they are learned.
    #[track_caller]
    pub(crate) fn learn(&self, lines: &str) -> Value {
        let answer = self.post("/api/learning/outcomes?wait=true", "application/x-ndjson", lines);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    #[track_caller]
    pub(crate) fn digest(&self) -> String {
        let model = self.get("/api/learning/models/agent_selection").json();
        model["digest"].as_str().expect("it is a string").to_owned()
    }

    /// Waits until the log says `text`.
    #[track_caller]
    pub(crate) fn wait_for_log(&mut self, text: &str) {
        eventually(&format!("the log says {text:?}"), || self.log().contains(text).then_some(()));
    }

    /// Whether the process is still there.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }

    /// Sends a signal by its name, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([format!("-{name}"), self.pid().to_string()])
            .status()
            .expect("kill can be run");
        assert!(status.success(), "kill -{name}");
    }

    /// Waits until the service has ended by itself.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        eventually("the service ends", || self.child.try_wait().expect("it is our child"))
    }

    /// Stops the service in good order.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        self.signal("TERM");
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "{}", self.log());
    }

    /// Ends the service as a power cut would end the process.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
    }
}

/// A bare connection, for what a well-behaved client would not send.
pub(crate) struct Wire {
    stream: BufReader<TcpStream>,
}

impl Wire {
    pub(crate) fn open(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.set_write_timeout(Some(SOON))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref())
    }

    /// Sends a whole GET request, which leaves the connection open.
    pub(crate) fn get(&mut self, path: &str) -> std::io::Result<Answer> {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"))?;
        self.answer()
    }

    /// Reads one answer.
    pub(crate) fn answer(&mut self) -> std::io::Result<Answer> {
        let line = self.line()?;
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| std::io::Error::other(format!("answered {line:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut answer = Answer { status, headers, body: String::new() };
        let length = answer.header("content-length").and_then(|text| text.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        self.stream.read_exact(&mut body)?;
        answer.body = String::from_utf8_lossy(&body).into_owned();
        Ok(answer)
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}

/// Copies the files of a directory into another.
pub(crate) fn copy_files(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("the directory is there") {
        let entry = entry.expect("it can be read");
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("it can be copied");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn answer(mut response: ureq::http::Response<ureq::Body>) -> Result<Answer, ureq::Error> {
    let headers = response.headers().iter().map(|(name, value)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    let (status, headers) = (response.status().as_u16(), headers.collect());
    let body = response.body_mut().with_config().limit(256 * 1024 * 1024).read_to_string()?;
    Ok(Answer { status, headers, body })
}

/// A performance list without how agents report on decisions, which is no part of what was learned.
pub(crate) fn without_decisions(mut rows: Value) -> Value {
    for row in rows.as_array_mut().expect("the list is a bare array") {
        let row = row.as_object_mut().expect("a row is an object");
        row.retain(|field, _| !field.starts_with("decisions"));
    }
    rows
}

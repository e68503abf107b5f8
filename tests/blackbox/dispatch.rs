//! `dispatch`: a command becomes an agent execution with feedback.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::harness::{
    SOON, Service, Setup, eventually, free_address, program, without_environment,
};

fn start() -> (TempDir, Service) {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let service = Setup::new(directory.path()).start();
    (directory, service)
}

/// `dispatch` with the agent `a`, up to the command.
fn dispatch(service: &Service, options: &[&str], command: &[&str]) -> Command {
    let mut line = dispatch_to(&service.url(""), options);
    line.args(["--candidates", "a", "--"]).args(command);
    line
}

fn dispatch_to(url: &str, options: &[&str]) -> Command {
    // Whoever runs the tests in the background of a shell without job control has them ignore interrupts,
    // and nohup has them ignore hangups.
    let mut line = without_environment("env");
    line.arg("--default-signal=INT,HUP,TERM").arg(env!("CARGO_BIN_EXE_online-learning"));
    line.args(["dispatch", "--url", url, "--task-type", "t"]).args(options);
    line
}

/// What a run left behind.
#[derive(Debug)]
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

#[track_caller]
fn run(command: &mut Command) -> Run {
    let output = command.stdin(Stdio::null()).output().expect("the program can be run");
    Run {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Lines that a program prints, waited for with a deadline.
struct Lines(Receiver<String>);

impl Lines {
    fn of(output: impl Read + Send + 'static) -> Self {
        let (lines_tx, lines_rx) = channel();
        std::thread::spawn(move || {
            // Until the end of the output, or of the test.
            BufReader::new(output)
                .lines()
                .map_while(Result::ok)
                .all(|line| lines_tx.send(line).is_ok())
        });
        Self(lines_rx)
    }

    /// The next one; empty at the end.
    #[track_caller]
    fn next(&self) -> String {
        match self.0.recv_timeout(SOON) {
            Ok(line) => line.trim_end().to_owned(),
            Err(RecvTimeoutError::Disconnected) => String::new(),
            Err(RecvTimeoutError::Timeout) => panic!("no line within {SOON:?}"),
        }
    }
}

/// A run whose input and output the test holds.
struct Running {
    child: Child,
    stdout: Lines,
    stderr: Lines,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program can be run");
        let stdout = Lines::of(child.stdout.take().expect("it is piped"));
        let stderr = Lines::of(child.stderr.take().expect("it is piped"));
        Self { child, stdout, stderr }
    }

    /// The next line of the output.
    #[track_caller]
    fn line(&mut self) -> String {
        self.stdout.next()
    }

    #[track_caller]
    fn complaint(&mut self) -> String {
        self.stderr.next()
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([format!("-{name}"), self.child.id().to_string()])
            .status()
            .expect("kill can be run");
        assert!(status.success(), "kill -{name}");
    }

    fn end_input(&mut self) {
        drop(self.child.stdin.take());
    }

    #[track_caller]
    fn code(&mut self) -> Option<i32> {
        eventually("dispatch ends", || self.child.try_wait().expect("it is our child")).code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // The second one kills the command too.
            self.signal("TERM");
            self.signal("TERM");
        }
    }
}

/// How often each status was counted for an agent.
#[track_caller]
fn check_statuses(service: &Service, tenant: &str, agent: &str, expected: &[(&str, u64)]) {
    service.learn("");
    let rows = service.get(&format!("/api/learning/agents/performance?tenant_id={tenant}")).json();
    let row = rows.as_array().and_then(|rows| rows.iter().find(|row| row["agent_name"] == agent));
    let row = row.unwrap_or_else(|| panic!("{agent:?} is not in {rows}"));
    let counted: Vec<(&str, u64)> = row["statuses"]
        .as_object()
        .expect("they are counted by name")
        .iter()
        .filter_map(|(status, count)| Some((status.as_str(), count.as_u64().filter(|n| *n > 0)?)))
        .collect();
    assert_eq!(counted, expected, "{row}");
}

/// Whether the process has gone; a zombie has.
fn has_ended(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
}

#[test]
fn exit_code_and_output_are_passed_through_and_the_outcome_is_reported() {
    let (_directory, service) = start();
    let check = |tenant: &str, script: &str, code: i32, status: &str| {
        let mut command =
            dispatch(&service, &["--tenant", tenant], &["sh", "-c", script, "sh", "{agent}"]);
        let ended = run(&mut command);
        assert_eq!(ended.code, Some(code), "{script}: {ended:?}");
        assert_eq!((&*ended.stdout, &*ended.stderr), ("to a\n", "said\n"), "{script}");
        check_statuses(&service, tenant, "a", &[(status, 1)]);
    };
    check("zero", "echo to $1; echo said >&2", 0, "success");
    check("three", "echo to $1; echo said >&2; exit 3", 3, "failure");
    check("most", "echo to $1; echo said >&2; exit 255", 255, "failure");
    check("killed", "echo to $1; echo said >&2; kill -KILL $$", 137, "failure");
    check("dead", "echo to $1; echo said >&2; kill -TERM $$", 143, "failure");
    let mut reading = Running::start(&mut dispatch(&service, &[], &["cat"]));
    let mut input = reading.child.stdin.take().expect("it is piped");
    input.write_all(b"a line\n").expect("somebody reads");
    assert_eq!(reading.line(), "a line");
    drop(input);
    assert_eq!(reading.code(), Some(0));
}

#[test]
fn the_outcome_is_joined_with_its_decision_and_carries_its_time() {
    let (_directory, service) = start();
    let script = "echo \"$ONLINE_LEARNING_AGENT $ONLINE_LEARNING_DECISION_ID\"";
    let options = ["--context", "size:=3", "--context", "domain=law"];
    let ended = run(&mut dispatch(&service, &options, &["sh", "-c", script]));
    let (agent, decision) = ended.stdout.trim().split_once(' ').expect("both are there");
    assert_eq!((agent, decision.len()), ("a", 36), "{ended:?}");
    service.learn("");
    let rows = service.get("/api/learning/agents/performance?task_type=t").json();
    assert_eq!((&rows[0]["agent_name"], &rows[0]["total_executions"]), (&json!("a"), &json!(1)));
    let rows = service.get("/api/learning/agents/performance").json();
    assert!(rows[0]["avg_latency_ms"].as_f64() > Some(0.0), "{rows}");
    let caps = service.get("/api/learning/status").json()["caps"].clone();
    assert_eq!(caps["context_keys_per_tenant"]["used"], 2, "{caps}");
    let question = json!({"task_type": "t", "context": {"size": 3, "domain": "law"},
        "candidates": ["a"], "top_k": 1, "decision_id": decision});
    let answer = service.post_json("/api/learning/predict/agent-selection", &question);
    assert_eq!(answer.status, 200, "it is the decision of this question: {answer:?}");
    let other = json!({"task_type": "u", "decision_id": decision});
    let answer = service.post_json("/api/learning/predict/agent-selection", &other);
    assert_eq!(answer.status, 409, "{answer:?}");
}

#[test]
fn names_and_arguments_arrive_as_they_are() {
    let (_directory, service) = start();
    let name = "an \"agent\" with 'quotes', $HOME; and \u{e9}";
    let mut line = dispatch_to(&service.url(""), &[]);
    // A comma parts candidates, so this one is known from an outcome.
    service.learn(&json!({"agent_name": name, "status": "success"}).to_string());
    line.args(["--", "printf", "%s|", "{agent}", "--as={agent}/{agent}.log", "{other}", ""])
        .arg(OsStr::from_bytes(b"\xff{agent}\xfe"))
        .arg("--url");
    let output = line.output().expect("the program can be run");
    let expected = format!("{name}|--as={name}/{name}.log|{{other}}||");
    let mut expected = expected.into_bytes();
    expected.extend([b"\xff", name.as_bytes(), b"\xfe|--url|"].concat());
    assert_eq!(output.stdout, expected, "{output:?}");
    check_statuses(&service, "default", name, &[("success", 2)]);

    // The program's own name has places for it too.
    let ended = run(&mut dispatch_to(&service.url(""), &["--candidates", "echo", "--", "{agent}"]));
    assert_eq!((ended.code, &*ended.stdout), (Some(0), "\n"), "{ended:?}");
}

#[test]
fn without_an_agent_nothing_is_run() {
    let (directory, service) = start();
    let trace = directory.path().join("trace");
    let trace = trace.to_str().expect("it is UTF-8");
    let check = |url: &str, options: &[&str], code: i32, named: &[&str]| {
        let ended = run(dispatch_to(url, options).args(["--", "touch", trace]));
        assert_eq!((ended.code, &*ended.stdout), (Some(code), ""), "{ended:?}");
        for name in named {
            assert!(ended.stderr.contains(name), "{name} is not in {ended:?}");
        }
        assert!(!std::fs::exists(trace).expect("it can be looked for"));
        ended.stderr.lines().count()
    };
    let url = service.url("");
    assert_eq!(check(&url, &[], 1, &["no agent is known", "--candidates"]), 1);
    let nobody = format!("http://{}", free_address());
    assert_eq!(check(&nobody, &["--candidates", "a"], 1, &[&nobody, "is the service running"]), 1);
    let long = "x".repeat(257);
    assert_eq!(check(&url, &["--candidates", &long], 1, &["candidates", "422"]), 1);
    assert_eq!(check(&url, &["--context", "size"], 2, &["--context", "KEY=VALUE"]), 1);
    check(&url, &["--timeout", "0"], 2, &["--timeout", "greater than 0"]);
    check(&url, &["--url", "localhost"], 2, &["--url"]);
    let mut line = program();
    let ended = run(line.args(["dispatch", "--task-type", "t", "--url", &url]));
    assert_eq!(ended.code, Some(2), "a command is needed: {ended:?}");
}

#[test]
fn a_command_that_cannot_be_started_says_nothing_about_the_agent() {
    let (directory, service) = start();
    let plain = directory.path().join("plain");
    std::fs::write(&plain, "text").expect("it can be written");
    std::fs::set_permissions(&plain, PermissionsExt::from_mode(0o644)).expect("it is ours");
    let plain = plain.to_str().expect("it is UTF-8");
    let check = |tenant: &str, command: &str, code: i32| {
        let ended = run(&mut dispatch(&service, &["--tenant", tenant], &[command, "{agent}"]));
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert!(ended.stderr.contains(&format!("can't run {command}")), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        check_statuses(&service, tenant, "a", &[("cancelled", 1)]);
    };
    check("missing", "no-such-command-anywhere", 127);
    check("plain", plain, 126);
    check("folder", "/", 126);
    // No argument can hold this name.
    let name = "a\0b";
    service.learn(&json!({"agent_name": name, "status": "success"}).to_string());
    let ended = run(dispatch_to(&service.url(""), &[]).args(["--", "echo", "{agent}"]));
    assert_eq!((ended.code, &*ended.stdout), (Some(126), ""), "{ended:?}");
    check_statuses(&service, "default", name, &[("success", 1), ("cancelled", 1)]);
}

#[test]
fn a_timeout_ends_everything_that_the_command_started() {
    let (_directory, service) = start();
    // A grandchild, and one in a session of its own whose parent has ended already.
    let script = "sleep 1000 & echo $!; (setsid sleep 1000 & echo $!); wait";
    let mut command = dispatch(&service, &["--timeout", "0.5"], &["sh", "-c", script]);
    let mut running = Running::start(&mut command);
    let (near, far) = (running.line(), running.line());
    assert_eq!(running.code(), Some(124));
    assert!(has_ended(&near) && has_ended(&far), "they were ended before dispatch was");
    check_statuses(&service, "default", "a", &[("timeout", 1)]);

    // One that does not listen is killed.
    let deaf = "trap '' TERM; echo $$; while :; do :; done";
    let mut command =
        dispatch(&service, &["--timeout", "0.2", "--tenant", "deaf"], &["sh", "-c", deaf]);
    let mut running = Running::start(&mut command);
    let pid = running.line();
    assert_eq!(running.code(), Some(124));
    assert!(has_ended(&pid));
    check_statuses(&service, "deaf", "a", &[("timeout", 1)]);

    // In time, and what it leaves running is left alone.
    let script = "sleep 1000 > /dev/null 2>&1 & echo $!";
    let mut command =
        dispatch(&service, &["--timeout", "1000", "--tenant", "left"], &["sh", "-c", script]);
    let mut running = Running::start(&mut command);
    let pid = running.line();
    assert_eq!(running.code(), Some(0));
    assert!(!has_ended(&pid));
    assert!(Command::new("kill").arg(&pid).status().expect("kill can be run").success());
    check_statuses(&service, "left", "a", &[("success", 1)]);
}

#[test]
fn an_interrupt_is_passed_on_and_a_second_one_kills() {
    let (_directory, service) = start();
    let check = |tenant: &str, script: &str, signals: &[&str], code: i32| {
        let mut command = dispatch(&service, &["--tenant", tenant], &["sh", "-c", script]);
        let mut running = Running::start(&mut command);
        for signal in signals {
            assert_eq!(running.line(), "ready", "{tenant}");
            running.signal(signal);
        }
        assert_eq!(running.code(), Some(code), "{tenant}");
        check_statuses(&service, tenant, "a", &[("cancelled", 1)]);
    };
    check("int", "echo ready; exec sleep 1000", &["INT"], 130);
    check("term", "echo ready; exec sleep 1000", &["TERM"], 143);
    check("hup", "echo ready; exec sleep 1000", &["HUP"], 129);
    // What it makes of the signal is its own affair; that it was one is known.
    check("handled", "trap 'exit 0' INT; echo ready; while :; do :; done", &["INT"], 0);
    let deaf = "trap 'echo ready' TERM; echo ready; while :; do :; done";
    check("deaf", deaf, &["TERM", "TERM"], 137);
}

#[test]
fn an_outcome_is_reported_when_the_service_comes_back() {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let setup = Setup::new(directory.path());
    let service = setup.start();
    let address = service.address;
    let script = "echo ready; read line; exit 3";
    let mut running = Running::start(&mut dispatch(&service, &[], &["sh", "-c", script]));
    assert_eq!(running.line(), "ready");
    service.kill();
    running.end_input();
    let complaint = running.complaint();
    assert!(complaint.contains("can't report yet"), "{complaint}");
    let service = setup.spawn(address);
    assert_eq!(running.code(), Some(3));
    check_statuses(&service, "default", "a", &[("failure", 1)]);
    let rows = service.get("/api/learning/agents/performance?task_type=t").json();
    assert_eq!(rows[0]["agent_name"], "a", "the new process does not know the decision: {rows}");
}

#[test]
fn what_was_not_reported_is_said_and_can_be_fed_later() {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let setup = Setup::new(directory.path());
    let service = setup.start();
    let (address, url) = (service.address, service.url(""));
    let script = "echo ready; read line; exit 0";
    let mut running = Running::start(&mut dispatch(&service, &[], &["sh", "-c", script]));
    assert_eq!(running.line(), "ready");
    service.kill();
    running.end_input();
    assert!(running.complaint().contains("can't report yet"));
    running.signal("TERM");
    assert_eq!(running.code(), Some(0), "the command's own result");
    let rest = running.complaint();
    assert_eq!(running.complaint(), "", "one line more");
    assert!(rest.contains("the outcome was not reported"), "{rest}");
    let start = rest.find('{').expect("the outcome is in the line");
    let outcome: Value = serde_json::from_str(&rest[start..]).expect("it is JSON");
    assert_eq!((&outcome["status"], &outcome["agent_name"]), (&json!("success"), &json!("a")));
    for field in ["event_id", "decision_id", "task_type", "tenant_id", "timestamp"] {
        assert!(outcome[field].is_string(), "{field} is not in {outcome}");
    }
    assert!(outcome["context"].is_object() && outcome["latency_ms"].is_number(), "{outcome}");

    let service = setup.spawn(address);
    eventually("the service is ready", || service.try_get("/readyz").ok());
    for _ in 0..2 {
        let mut import = program();
        let mut child = import
            .args(["import", "-", "--url", &url])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("the program can be run");
        let mut input = child.stdin.take().expect("it is piped");
        input.write_all(&rest.as_bytes()[start..]).expect("somebody reads");
        drop(input);
        assert!(child.wait().expect("it is our child").success());
    }
    check_statuses(&service, "default", "a", &[("success", 1)]);
}

#[test]
fn at_a_terminal_the_command_can_read_and_ctrl_c_reaches_it_once() {
    let available = Command::new("script").arg("--version").output().is_ok();
    if !available {
        #[expect(clippy::print_stderr, reason = "a test that proves nothing has to say so")]
        {
            eprintln!("skipped: script(1) is not here to make a terminal");
        }
        return;
    }
    let (directory, service) = start();
    let inner = "trap 'echo caught' INT; read answer; echo \"read $answer\"; \
                 while [ ! -e stop ]; do read line; done; exit 5";
    std::fs::write(directory.path().join("inner.sh"), inner).expect("it can be written");
    let binary = env!("CARGO_BIN_EXE_online-learning");
    let line = format!(
        "exec {binary} dispatch --url {} --task-type t --candidates a -- sh inner.sh",
        service.url("")
    );
    let mut command = Command::new("env");
    command
        .args(["--default-signal=INT", "script", "-qec", &line, "/dev/null"])
        .current_dir(directory.path())
        .env("SHELL", "/bin/sh");
    let mut running = Running::start(&mut command);
    let mut input = running.child.stdin.take().expect("it is piped");
    let wait_for = |running: &mut Running, text: &str| {
        let mut seen = String::new();
        while !seen.ends_with(text) {
            let line = running.line();
            assert!(!line.is_empty() || !seen.is_empty(), "the terminal is gone before {text:?}");
            seen = line;
        }
    };
    input.write_all(b"yes\n").expect("the terminal takes it");
    wait_for(&mut running, "read yes");
    // Twice: the terminal's own signals don't kill what handles them.
    for _ in 0..2 {
        input.write_all(b"\x03").expect("the terminal takes it");
        wait_for(&mut running, "caught");
    }
    std::fs::write(directory.path().join("stop"), "").expect("it can be written");
    input.write_all(b"\n").expect("the terminal takes it");
    assert_eq!(running.code(), Some(5));
    check_statuses(&service, "default", "a", &[("cancelled", 1)]);
}

//! From the start to the stop: signals, systemd's protocol, the lock, what happens by the clock.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{SOON, Service, Setup, Wire, eventually, free_address};

const NDJSON: &str = "application/x-ndjson";
const OUTCOMES: &str = "/api/learning/outcomes";
/// Micro-batches that only a flush or the end closes.
const NEVER: u32 = 3_600;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// A service in which nothing happens by itself.
fn patient(directory: &Path) -> Setup {
    Setup::new(directory)
        .with("MODEL_BATCH_SIZE", 1_000)
        .with("MODEL_BATCH_TIMEOUT", NEVER)
        .with("MODEL_SAVE_INTERVAL", 0)
}

fn lines(range: std::ops::Range<u32>) -> String {
    range
        .map(|id| format!(r#"{{"event_id":"e{id}","agent_name":"a","status":"success"}}"#) + "\n")
        .collect()
}

#[track_caller]
fn report(service: &Service, range: std::ops::Range<u32>) {
    let answer = service.post(OUTCOMES, NDJSON, lines(range));
    assert_eq!(answer.status, 202, "{answer:?}");
}

fn executions(service: &Service) -> u64 {
    let agents = service.get("/api/learning/agents/performance").json();
    agents[0]["total_executions"].as_u64().unwrap_or(0)
}

fn status(service: &Service, key: &str) -> u64 {
    service.get("/api/learning/status").json()[key].as_u64().expect("it is a number")
}

fn versions(service: &Service) -> Vec<Value> {
    let page = service.get("/api/learning/models/agent_selection/versions").json();
    page["versions"].as_array().expect("it is an array").clone()
}

/// Lets the service live for some more seconds, by its own clock.
fn live_on(service: &Service, seconds: u64) {
    let until = status(service, "uptime_seconds") + seconds;
    eventually("time passes", || (status(service, "uptime_seconds") >= until).then_some(()));
}

/// Makes every micro-batch take the time to count this many rows: a few million a second.
fn slow_down(directory: &Path, rows: u64) {
    let database = open(directory);
    database
        .execute_batch(&format!(
            "CREATE VIEW long AS
                 WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers
                                               LIMIT {rows})
                 SELECT count(*) AS counted FROM numbers;
             CREATE TRIGGER slow BEFORE INSERT ON learning_events
             WHEN new.event_type = 'micro_batch' BEGIN SELECT counted FROM long; END;"
        ))
        .expect("the schema can be changed");
}

fn speed_up(directory: &Path) {
    open(directory).execute_batch("DROP TRIGGER slow; DROP VIEW long;").expect("they are there");
}

fn open(directory: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(directory.join("online-learning.db")).expect("it can be opened")
}

/// The learner is in the middle of a transaction.
fn wait_until_learning(directory: &Path) {
    let database = open(directory);
    database.busy_timeout(Duration::ZERO).expect("it is allowed");
    eventually("a micro-batch is under way", || {
        database.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_err().then_some(())
    });
}

/// Long enough for a few requests on a machine with much to do, and well below what a stop may take.
const A_WHILE: u64 = 3_000_000;
const FOR_EVER: u64 = 1 << 40;

#[track_caller]
fn check_orderly_end(signal: &str) {
    let directory = directory();
    let setup = patient(directory.path());
    let mut service = setup.start();
    report(&service, 0..5);
    assert_eq!(status(&service, "model_version"), 0, "the micro-batch is open");
    service.signal(signal);
    assert_eq!(service.wait().code(), Some(0), "{}", service.log());

    let mut service = setup.start();
    assert!(service.log().contains("to_learn=0"), "{}", service.log());
    assert_eq!(executions(&service), 5);
    let versions = versions(&service);
    assert_eq!(versions.len(), 1, "{versions:?}");
    assert_eq!(versions[0]["status"], "active");
    assert_eq!(versions[0]["training_samples"], 5);
}

#[test]
fn sigterm_learns_what_was_accepted_saves_a_version_and_exits_0() {
    check_orderly_end("TERM");
}

#[test]
fn sigint_learns_what_was_accepted_saves_a_version_and_exits_0() {
    check_orderly_end("INT");
}

#[test]
fn a_stop_without_anything_new_saves_nothing() {
    let directory = directory();
    let setup = patient(directory.path());
    setup.start().stop();
    let service = setup.start();
    assert_eq!(versions(&service), Vec::<Value>::new());
    service.learn(&lines(0..3));
    service.stop();
    setup.start().stop();
    assert_eq!(versions(&setup.start()).len(), 1);
}

#[test]
fn requests_during_the_stop_get_503_and_the_connection_is_closed() {
    let directory = directory();
    let setup = patient(directory.path());
    let mut service = setup.start();
    let mut kept = Wire::open(service.address).expect("it listens");
    assert_eq!(kept.get("/livez").expect("it answers").status, 200);
    report(&service, 0..5);
    slow_down(directory.path(), A_WHILE);
    service.signal("TERM");
    service.wait_for_log("service=stopping");

    let on_kept = kept.get("/livez").expect("a kept connection is answered");
    let mut fresh = Wire::open(service.address).expect("it still listens");
    let on_fresh = fresh.get("/api/learning/status").expect("a new connection is answered");
    let posted = service.post(OUTCOMES, NDJSON, lines(5..6));
    assert!(service.is_running(), "the answers came during the stop: {}", service.log());
    for answer in [&on_kept, &on_fresh, &posted] {
        assert_eq!(answer.status, 503, "{answer:?}");
        assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
    }
    assert!(kept.answer().is_err(), "the kept connection is closed");

    assert_eq!(service.wait().code(), Some(0), "{}", service.log());
    speed_up(directory.path());
    assert_eq!(executions(&setup.start()), 5, "what was refused is not counted");
}

#[test]
fn a_request_that_waits_to_be_learned_is_answered_at_once_by_the_stop() {
    let directory = directory();
    let setup = patient(directory.path());
    let mut service = setup.start();
    report(&service, 0..5);
    slow_down(directory.path(), A_WHILE);
    let answer = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let path = format!("{OUTCOMES}?wait=true");
            service.post(&path, NDJSON, lines(5..6))
        });
        eventually("it is durable", || (status(&service, "journal_sequence") == 6).then_some(()));
        wait_until_learning(directory.path());
        service.signal("TERM");
        waiting.join().expect("it is answered")
    });
    assert!(service.is_running(), "answered before the end: {}", service.log());
    assert_eq!(answer.status, 202, "accepted, not yet learned: {answer:?}");
    assert_eq!(answer.json()["accepted"], 1);
    assert_eq!(service.wait().code(), Some(0), "{}", service.log());
    speed_up(directory.path());
    assert_eq!(executions(&setup.start()), 6);
}

#[test]
fn a_second_signal_ends_the_service_at_once_with_code_1() {
    let directory = directory();
    let setup = patient(directory.path());
    let mut service = setup.start();
    report(&service, 0..5);
    slow_down(directory.path(), FOR_EVER);
    service.signal("TERM");
    service.wait_for_log("service=stopping");
    service.signal("INT");
    assert_eq!(service.wait().code(), Some(1), "{}", service.log());

    speed_up(directory.path());
    let service = setup.start();
    service.learn("");
    assert_eq!(executions(&service), 5, "the journal has what the stop could not learn");
}

/// Ten seconds are granted, and some for a machine with much to do.
const STOPPED_WITHIN: Duration = Duration::from_secs(13);

#[test]
fn a_stop_while_another_process_holds_the_database_ends_in_time_and_says_what_is_not_saved() {
    let directory = directory();
    let setup = patient(directory.path());
    let mut service = setup.start();
    service.learn(&lines(0..5));
    report(&service, 5..8);
    let holder = open(directory.path());
    holder.execute_batch("BEGIN IMMEDIATE").expect("nobody else holds it");
    let question = serde_json::json!({"candidates": ["a"], "decision_id": "d"});
    let answer = service.post_json("/api/learning/predict/agent-selection", &question);
    assert_eq!(answer.status, 200, "{answer:?}");

    let began = Instant::now();
    service.signal("TERM");
    assert_eq!(service.wait().code(), Some(1), "{}", service.log());
    let took = began.elapsed();
    assert!(took < STOPPED_WITHIN, "{took:?}: {}", service.log());
    let log = service.log();
    for unsaved in ["what 3 outcomes teach", "a version of the model", "1 decisions"] {
        assert!(log.contains(unsaved), "{unsaved}: {log}");
    }
    assert!(!log.contains("service=stopped"), "{log}");

    holder.execute_batch("ROLLBACK").expect("it is held");
    let service = setup.start();
    service.learn("");
    assert_eq!(executions(&service), 8, "the journal has everything");
    service.stop();
}

#[test]
fn a_stop_ends_in_time_whatever_the_learner_does() {
    let directory = directory();
    let setup = patient(directory.path());
    let mut service = setup.start();
    slow_down(directory.path(), FOR_EVER);
    report(&service, 0..1_000);
    wait_until_learning(directory.path());
    let began = Instant::now();
    service.signal("TERM");
    assert_eq!(service.wait().code(), Some(1), "{}", service.log());
    let took = began.elapsed();
    assert!(took < STOPPED_WITHIN, "{took:?}: {}", service.log());
    assert!(service.log().contains("the learner did not end in time"), "{}", service.log());

    speed_up(directory.path());
    let service = setup.start();
    service.learn("");
    assert_eq!(executions(&service), 1_000);
}

/// Ctrl-Z, a paused virtual machine: longer than any part may be silent.
#[test]
fn a_process_that_was_stopped_for_long_goes_on_where_it_was() {
    let systemd = Systemd::new();
    let directory = directory();
    let setup = patient(directory.path())
        .with("NOTIFY_SOCKET", systemd.path())
        .with("WATCHDOG_USEC", 3_000_000)
        .with("DECISION_WAIT", 20)
        .with("DECISION_MISSING", "failure");
    let mut service = setup.start();
    let mut kept = Wire::open(service.address).expect("it listens");
    assert_eq!(kept.get("/livez").expect("it answers").status, 200);
    service.learn(&lines(0..3));
    let question = serde_json::json!({"candidates": ["a"], "decision_id": "d"});
    service.post_json("/api/learning/predict/agent-selection", &question);
    eventually("the decision is recorded", || {
        (service.get("/api/learning/decisions/d").status == 200).then_some(())
    });
    service.signal("STOP");
    let stopped = Instant::now();
    systemd.socket.set_read_timeout(Some(Duration::from_secs(35))).expect("it is allowed");
    let mut bytes = [0; 4_096];
    // Those that came before, and then nothing, for as long as that takes.
    while systemd.socket.recv(&mut bytes).is_ok() {}
    let stopped = stopped.elapsed();
    assert!(stopped > Duration::from_secs(31), "{stopped:?}");
    service.signal("CONT");
    systemd.socket.set_read_timeout(Some(SOON)).expect("it is allowed");
    service.wait_for_log("service=continued");
    // A second apart: the learner has looked for decisions to give up meanwhile.
    for _ in 0..3 {
        systemd.wait_for("WATCHDOG=1");
    }
    // Nobody could report what came of it.
    let decision = service.get("/api/learning/decisions/d").json();
    assert_eq!(decision["outcome"], Value::Null, "{decision}");
    let event = r#"{"agent_name":"a","status":"success","decision_id":"d"}"#;
    service.learn(event);
    let decision = service.get("/api/learning/decisions/d").json();
    assert_eq!(decision["outcome"]["status"], "success", "{decision}");
    assert_eq!(executions(&service), 4);
    assert_eq!(kept.get("/livez").expect("it answers").status, 200, "a kept connection, too");
    // And for longer than the first probe of the HTTP server takes.
    for _ in 0..10 {
        systemd.wait_for("WATCHDOG=1");
    }
    assert!(service.is_running(), "{}", service.log());
    service.stop();
}

#[test]
fn a_second_process_on_the_same_directory_ends_at_once_and_leaves_the_first_alone() {
    let directory = directory();
    let setup = patient(directory.path());
    let service = setup.start();
    service.learn(&lines(0..3));
    let digest = service.digest();

    let mut second = setup.spawn(free_address());
    assert_eq!(second.wait().code(), Some(1));
    let log = second.log();
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.contains("in use by another online-learning process"), "{log}");
    assert!(log.contains(&directory.path().display().to_string()), "{log}");

    assert_eq!(service.digest(), digest);
    service.learn(&lines(3..4));
    assert_eq!(executions(&service), 4);
    service.stop();
}

#[test]
fn a_busy_port_is_named_and_the_storage_is_left_alone() {
    let first_directory = directory();
    let first = patient(first_directory.path()).start();
    let directory = directory();
    let storage = directory.path().join("models");
    let mut second = patient(&storage).spawn(first.address);
    assert_eq!(second.wait().code(), Some(1));
    let log = second.log();
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.contains(&first.address.to_string()), "{log}");
    assert!(!storage.exists());
}

/// The socket that systemd would listen on.
struct Systemd {
    directory: tempfile::TempDir,
    socket: UnixDatagram,
}

impl Systemd {
    fn new() -> Self {
        let directory = directory();
        let socket = UnixDatagram::bind(directory.path().join("notify")).expect("it is free");
        socket.set_read_timeout(Some(SOON)).expect("it is allowed");
        Self { directory, socket }
    }

    fn path(&self) -> String {
        self.directory.path().join("notify").display().to_string()
    }

    fn next(&self) -> String {
        let mut bytes = [0; 4_096];
        let size = self.socket.recv(&mut bytes).expect("the service has something to tell");
        String::from_utf8_lossy(&bytes[..size]).into_owned()
    }

    /// Skips messages until one of them says `text`.
    fn wait_for(&self, text: &str) {
        while !self.next().lines().any(|line| line == text) {}
    }
}

#[test]
fn systemd_is_told_of_readiness_of_life_and_of_the_stop() {
    let systemd = Systemd::new();
    let directory = directory();
    let setup = patient(directory.path())
        .with("NOTIFY_SOCKET", systemd.path())
        .with("WATCHDOG_USEC", 3_000_000);
    let mut service = setup.spawn(free_address());
    assert_eq!(systemd.next().trim_end(), "STATUS=starting: restores the model");
    let ready = systemd.next();
    let ready: Vec<&str> = ready.lines().collect();
    assert_eq!(ready, ["READY=1", "STATUS=learned 0 outcomes, lag 0, sources http"]);
    let answer = service.get("/readyz");
    assert_eq!(answer.status, 200, "it is ready when it says so: {answer:?}");
    for _ in 0..3 {
        assert_eq!(systemd.next().trim_end(), "WATCHDOG=1");
    }
    service.signal("TERM");
    let stopping = eventually("it says that it stops", || {
        let message = systemd.next();
        message.starts_with("STOPPING=1").then_some(message)
    });
    let status = "STATUS=stopping: learns what was accepted, saves a version";
    assert_eq!(stopping.lines().nth(1), Some(status));
    assert_eq!(service.wait().code(), Some(0), "{}", service.log());
}

#[test]
fn the_status_line_follows_what_is_learned_and_goes_on_after_a_restart() {
    let systemd = Systemd::new();
    let directory = directory();
    let setup = patient(directory.path()).with("NOTIFY_SOCKET", systemd.path());
    let service = setup.start();
    systemd.wait_for("STATUS=learned 0 outcomes, lag 0, sources http");
    report(&service, 0..1_200);
    systemd.wait_for("STATUS=learned 1,000 outcomes, lag 200, sources http");
    service.learn("");
    systemd.wait_for("STATUS=learned 1,200 outcomes, lag 0, sources http");
    service.stop();
    systemd.wait_for("STOPPING=1");

    let service = setup.start();
    assert_eq!(systemd.next().trim_end(), "STATUS=starting: restores the model");
    let ready = "READY=1\nSTATUS=learned 1,200 outcomes, lag 0, sources http";
    assert_eq!(systemd.next().trim_end(), ready);
    service.stop();
}

#[test]
fn the_status_line_says_what_is_wrong() {
    let systemd = Systemd::new();
    let directory = directory();
    let service = patient(directory.path())
        .with("NOTIFY_SOCKET", systemd.path())
        .with("KAFKA_BOOTSTRAP_SERVERS", free_address())
        .start();
    let begins = "STATUS=learned 0 outcomes, lag 0, sources kafka, http; degraded: kafka: ";
    eventually("it says that the broker is away", || {
        systemd.next().lines().any(|line| line.starts_with(begins)).then_some(())
    });
    service.stop();
}

#[test]
fn a_learner_that_hangs_gets_no_more_pings_and_ends_the_service_with_code_1() {
    let systemd = Systemd::new();
    let directory = directory();
    let setup = patient(directory.path())
        .with("NOTIFY_SOCKET", systemd.path())
        .with("WATCHDOG_USEC", 3_000_000);
    let mut service = setup.start();
    systemd.wait_for("READY=1");
    slow_down(directory.path(), FOR_EVER);
    // A full micro-batch.
    report(&service, 0..1_000);
    wait_until_learning(directory.path());
    let answer = service.post_json("/api/learning/predict/agent-selection", &Value::Null);
    assert!(answer.status < 500, "others answer meanwhile: {answer:?}");

    let deadline = Instant::now() + 3 * SOON;
    let mut last_ping = Instant::now();
    systemd.socket.set_read_timeout(Some(Duration::from_millis(50))).expect("it is allowed");
    while service.is_running() {
        assert!(Instant::now() < deadline, "it still runs: {}", service.log());
        let mut bytes = [0; 4_096];
        if let Ok(size) = systemd.socket.recv(&mut bytes)
            && bytes[..size].starts_with(b"WATCHDOG=1")
        {
            last_ping = Instant::now();
        }
    }
    let silent = last_ping.elapsed();
    assert!(silent > Duration::from_secs(3), "systemd would have noticed first: {silent:?}");
    assert_eq!(service.wait().code(), Some(1));
    assert!(service.log().contains("learner was silent"), "{}", service.log());

    speed_up(directory.path());
    let service = setup.start();
    service.learn("");
    assert_eq!(executions(&service), 1_000);
}

#[test]
fn a_version_is_saved_by_the_clock_when_something_was_learned_and_only_then() {
    let directory = directory();
    let setup = patient(directory.path()).with("MODEL_SAVE_INTERVAL", 1);
    let service = setup.start();
    service.learn(&lines(0..3));
    let saved = |count: usize| {
        let versions = versions(&service);
        (versions.len() == count && versions[0]["status"] == "active").then_some(versions)
    };
    eventually("a version is saved", || saved(1));
    live_on(&service, 3);
    assert_eq!(versions(&service).len(), 1, "nothing new was learned");
    service.learn(&lines(0..3));
    live_on(&service, 3);
    assert_eq!(versions(&service).len(), 1, "duplicates are nothing new");
    service.learn(&lines(3..4));
    let versions = eventually("a second version is saved", || saved(2));
    assert_eq!(versions[0]["training_samples"], 4);
    assert_eq!(versions[0]["parent_version"], versions[1]["id"]);
    assert_eq!(versions[1]["status"], "deprecated");
}

#[test]
fn a_save_interval_of_0_saves_nothing_by_the_clock() {
    let directory = directory();
    let service = patient(directory.path()).start();
    service.learn(&lines(0..3));
    live_on(&service, 3);
    assert_eq!(versions(&service), Vec::<Value>::new());
}

#[test]
fn a_micro_batch_that_does_not_fill_is_learned_when_its_time_is_up() {
    let directory = directory();
    let service = patient(directory.path()).with("MODEL_BATCH_TIMEOUT", 1).start();
    report(&service, 0..3);
    eventually("it is learned", || (status(&service, "model_version") == 3).then_some(()));
    let events = service.get("/api/learning/events").json();
    assert_eq!(events["events"][0]["batch_size"], 3, "as one micro-batch: {events}");
}

#[test]
fn the_time_of_a_micro_batch_counts_from_its_first_outcome() {
    let directory = directory();
    let service = patient(directory.path())
        .with("MODEL_BATCH_SIZE", 100_000)
        .with("MODEL_BATCH_TIMEOUT", 1)
        .start();
    let mut next = 0;
    // A stream without pauses must not put it off for ever.
    eventually("something is learned", || {
        report(&service, next..next + 1);
        next += 1;
        (status(&service, "model_version") > 0).then_some(())
    });
}

#[test]
fn full_micro_batches_are_learned_at_once_and_the_rest_waits() {
    let directory = directory();
    let service = patient(directory.path()).with("MODEL_BATCH_SIZE", 10).start();
    report(&service, 0..25);
    eventually("two are learned", || (status(&service, "model_version") == 20).then_some(()));
    live_on(&service, 2);
    assert_eq!(status(&service, "model_version"), 20, "the third is not full");
    let lag = service.get("/api/learning/status").json();
    assert_eq!(lag["lag"]["records"], 5, "{lag}");
    service.learn("");
    assert_eq!(status(&service, "model_version"), 25);
}

#[test]
fn a_learner_that_dies_ends_the_service_with_code_1() {
    let directory = directory();
    let mut service = patient(directory.path()).start();
    open(directory.path()).execute_batch("DROP TABLE journal").expect("it is there");
    let answer = service.post(OUTCOMES, NDJSON, lines(0..1));
    assert_eq!(answer.status, 500, "{answer:?}");
    assert_eq!(service.wait().code(), Some(1), "systemd starts it afresh");
    let log = service.log();
    assert!(log.contains("no such table: journal"), "{log}");
}

//! Alerts: each is raised, and passes, through what it is about.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::harness::{Service, Setup, eventually};

const ALERTS: &str = "/api/learning/alerts";
const PREDICT: &str = "/api/learning/predict/agent-selection";

/// A service that looks ten times a second and soon forgets what was.
fn setup(directory: &std::path::Path) -> Setup {
    Setup::new(directory)
        .with("ALERT_INTERVAL", "0.1")
        .with("ALERT_WINDOW", 2)
        // Whatever the machine's disk is like.
        .with("ALERT_DISK_USED_MAX", 1)
        .with("MODEL_SAVE_INTERVAL", 0)
}

/// Outcomes of one agent, a line each.
fn outcomes(agent: &str, status: &str, count: usize, more: &Value) -> String {
    let mut event = json!({"agent_name": agent, "status": status});
    for (key, value) in more.as_object().expect("it is an object") {
        event[key] = value.clone();
    }
    format!("{event}\n").repeat(count)
}

fn alerts(service: &Service, query: &str) -> Vec<Value> {
    let answer = service.get(&format!("{ALERTS}{query}"));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["alerts"].as_array().expect("it is a list").clone()
}

/// Waits until the newest alert of a rule has this status.
#[track_caller]
fn wait_for(service: &Service, rule: &str, status: &str) -> Value {
    eventually(&format!("{rule} is {status}"), || {
        let newest = alerts(service, "").into_iter().find(|alert| alert["rule"] == rule)?;
        (newest["status"] == status).then_some(newest)
    })
}

/// Waits until it fires; it is in the metrics and the status, and once in the log.
#[track_caller]
fn check_fires(service: &mut Service, rule: &str) -> Value {
    let alert = wait_for(service, rule, "firing");
    for field in ["id", "severity", "message", "since"] {
        assert!(alert[field].as_str().is_some_and(|text| !text.is_empty()), "{alert}");
    }
    assert!(alert["value"].is_number() && alert["threshold"].is_number(), "{alert}");
    assert_eq!(alert["resolved_at"], Value::Null);
    let metrics = service.get("/metrics").body;
    assert!(metrics.contains(&format!("online_learning_alerts_firing{{rule=\"{rule}\"}} 1\n")));
    let status = service.get("/api/learning/status").json();
    assert!(status["alerts_firing"].as_u64() >= Some(1), "{status}");
    service.wait_for_log(&format!("alert=firing rule={rule} "));
    alert
}

#[track_caller]
fn check_passes(service: &mut Service, rule: &str) {
    let alert = wait_for(service, rule, "resolved");
    assert!(alert["resolved_at"].is_string(), "{alert}");
    service.wait_for_log(&format!("alert=resolved rule={rule} "));
    let log = service.log();
    assert_eq!(log.matches(&format!("alert=firing rule={rule} ")).count(), 1, "{log}");
    assert_eq!(log.matches(&format!("alert=resolved rule={rule} ")).count(), 1, "{log}");
}

#[test]
fn nothing_is_wrong_with_a_new_service() {
    let directory = tempdir().unwrap();
    let service = setup(directory.path()).start();
    service.learn(&outcomes("a", "success", 20, &json!({})));
    assert_eq!(service.get(ALERTS).json(), json!({"alerts": [], "next_before": null}));
    for wrong in ["?status=red", "?limit=0", "?before=x"] {
        assert_eq!(service.get(&format!("{ALERTS}{wrong}")).status, 422, "{wrong}");
    }
    service.stop();
}

#[test]
fn outcomes_that_wait_to_be_learned_are_a_lag() {
    let directory = tempdir().unwrap();
    let mut service = setup(directory.path())
        .with("MODEL_BATCH_SIZE", 100_000)
        .with("MODEL_BATCH_TIMEOUT", 3_600)
        .start();
    let lines = outcomes("a", "success", 1_200, &json!({}));
    let answer = service.post("/api/learning/outcomes", "application/x-ndjson", lines);
    assert_eq!(answer.status, 202);
    let alert = check_fires(&mut service, "lag");
    assert_eq!((&alert["value"], &alert["threshold"]), (&json!(1200.0), &json!(1000.0)));
    service.learn(&outcomes("a", "success", 1, &json!({})));
    check_passes(&mut service, "lag");
    service.stop();
}

#[test]
fn a_score_that_falls_is_told_until_it_recovers() {
    let directory = tempdir().unwrap();
    let mut service = setup(directory.path()).start();
    service.learn(&outcomes("a", "success", 1_100, &json!({})));
    service.learn(&outcomes("a", "failure", 200, &json!({})));
    let alert = check_fires(&mut service, "improvement");
    assert!(alert["value"].as_f64() < Some(-0.1), "{alert}");
    service.learn(&outcomes("a", "success", 2_000, &json!({})));
    check_passes(&mut service, "improvement");
    service.stop();
}

#[test]
fn slow_micro_batches_are_told_until_they_are_over() {
    let directory = tempdir().unwrap();
    let mut service = setup(directory.path()).with("ALERT_UPDATE_TIME_MAX_MS", "0.000001").start();
    // The time of a batch is stored with the one after it.
    eventually("it fires", || {
        service.learn(&outcomes("a", "success", 200, &json!({})));
        alerts(&service, "?status=firing")
            .iter()
            .any(|alert| alert["rule"] == "update_time")
            .then_some(())
    });
    check_fires(&mut service, "update_time");
    check_passes(&mut service, "update_time");
    service.stop();
}

#[test]
fn silence_while_predictions_flow_is_told_until_events_come() {
    let directory = tempdir().unwrap();
    let mut service = setup(directory.path()).with("ALERT_NO_EVENTS_AFTER", "0.5").start();
    service.learn(&outcomes("a", "success", 1, &json!({})));
    eventually("it fires", || {
        assert_eq!(service.post_json(PREDICT, &json!({})).status, 200);
        alerts(&service, "?status=firing")
            .iter()
            .any(|alert| alert["rule"] == "no_events")
            .then_some(())
    });
    let alert = check_fires(&mut service, "no_events");
    assert!(alert["message"].as_str().unwrap().contains("predictions"), "{alert}");
    service.learn(&outcomes("a", "success", 1, &json!({})));
    check_passes(&mut service, "no_events");
    service.stop();
}

#[test]
fn a_cap_that_is_reached_is_told_until_there_is_room() {
    let directory = tempdir().unwrap();
    let mut service = setup(directory.path()).with("MAX_AGENTS", 4).start();
    for agent in ["a", "b", "c", "d"] {
        service.learn(&outcomes(agent, "success", 1, &json!({})));
    }
    let alert = check_fires(&mut service, "cap_reached");
    let message = alert["message"].as_str().unwrap();
    assert!(message.contains("4 of 4 agents_per_tenant of tenant \"default\""), "{message}");
    assert_eq!(alert["value"], 1.0);
    assert_eq!(service.delete("/api/learning/agents/b").status, 200);
    check_passes(&mut service, "cap_reached");
    service.stop();
}

#[test]
fn many_dead_letters_are_told_until_they_are_few() {
    let directory = tempdir().unwrap();
    let mut service = setup(directory.path()).start();
    let lines = outcomes("a", "success", 150, &json!({})) + &"{\"agent_name\": \"a\"}\n".repeat(3);
    service.learn(&lines);
    let alert = check_fires(&mut service, "dead_letters");
    assert!((alert["value"].as_f64().unwrap() - 3.0 / 153.0).abs() < 1e-9, "{alert}");
    service.learn(&outcomes("a", "success", 1_000, &json!({})));
    check_passes(&mut service, "dead_letters");
    service.stop();
}

#[test]
fn saves_that_fail_three_times_are_told_until_one_succeeds() {
    let directory = tempdir().unwrap();
    let mut service = setup(directory.path()).start();
    let save = || service.post("/api/learning/models/save", "", "").status;
    for number in 1..=3 {
        // Where the file is written first there is a directory: it can't be.
        let blocked = directory.path().join(format!("version-{number:06}.json.tmp"));
        std::fs::create_dir(blocked).unwrap();
        assert_eq!(save(), 503);
    }
    assert_eq!(check_fires(&mut service, "saves_failed")["severity"], "critical");
    assert_eq!(service.post("/api/learning/models/save", "", "").status, 200);
    check_passes(&mut service, "saves_failed");
    service.stop();
}

#[test]
fn an_agent_past_its_thresholds_is_told_until_it_is_better() {
    let directory = tempdir().unwrap();
    let mut service = setup(directory.path())
        .with("ALERT_AGENT_SUCCESS_MIN", "0.5")
        .with("ALERT_AGENT_LATENCY_P95_MAX_MS", 2_000)
        .with("ALERT_AGENT_COST_MAX", "0.5")
        .start();
    let (bad, good) =
        (json!({"latency_ms": 9_000, "cost": 2.0}), json!({"latency_ms": 50, "cost": 0.1}));
    service.learn(&outcomes("good", "success", 60, &good));
    service.learn(&outcomes("bad", "failure", 29, &bad));
    service.learn(&outcomes("bad", "success", 29, &bad));
    // 29 latencies are too few; 58 costs are not.
    let alert = check_fires(&mut service, "agent_cost");
    assert_eq!((&alert["agent_name"], &alert["tenant_id"]), (&json!("bad"), &json!("default")));
    service.learn(&outcomes("bad", "success", 1, &bad));
    check_fires(&mut service, "agent_latency");
    service.learn(&outcomes("bad", "failure", 60, &bad));
    check_fires(&mut service, "agent_success");
    assert!(alerts(&service, "").iter().all(|alert| alert["agent_name"] == "bad"));
    service.learn(&outcomes("bad", "success", 100, &good));
    for rule in ["agent_cost", "agent_latency", "agent_success"] {
        check_passes(&mut service, rule);
    }
    service.stop();
}

#[test]
fn an_agent_that_changes_is_told_until_it_is_steady() {
    let directory = tempdir().unwrap();
    let mut service = setup(directory.path()).start();
    service.learn(&outcomes("a", "success", 200, &json!({})));
    service.learn(&outcomes("a", "failure", 50, &json!({})));
    let alert = check_fires(&mut service, "agent_drift");
    assert!(alert["message"].as_str().unwrap().contains("fell from 1.00"), "{alert}");
    service.learn(&outcomes("a", "failure", 120, &json!({})));
    check_passes(&mut service, "agent_drift");
    service.stop();
}

#[test]
fn what_fires_survives_a_restart_and_is_not_told_again() {
    let directory = tempdir().unwrap();
    let setup = setup(directory.path()).with("ALERT_PERFECT_OUTCOMES", 200);
    let mut service = setup.start();
    service.learn(&outcomes("too\ngood", "success", 200, &json!({})));
    let alert = check_fires(&mut service, "agent_perfect");
    let line = service.log();
    let line =
        line.lines().find(|line| line.contains("alert=firing")).expect("it is logged").to_owned();
    assert!(line.contains("too\\ngood"), "a name makes no line of its own: {line}");
    service.stop();

    let mut service = setup.start();
    service.learn(&outcomes("another", "success", 10, &json!({})));
    for _ in 0..3 {
        assert_eq!(wait_for(&service, "agent_perfect", "firing"), alert, "the same one");
    }
    assert!(!service.log().contains("alert=firing"), "{}", service.log());
    service.learn(&outcomes("too\ngood", "failure", 1, &json!({})));
    let resolved = wait_for(&service, "agent_perfect", "resolved");
    assert_eq!((&resolved["id"], &resolved["since"]), (&alert["id"], &alert["since"]));
    assert_eq!(alerts(&service, "?status=firing"), [] as [Value; 0]);
    service.kill();

    let service = setup.start();
    assert_eq!(alerts(&service, "?status=resolved"), [resolved], "also over a crash");
    service.stop();
}

#[test]
fn what_begins_anew_with_the_process_neither_ends_an_alert_nor_repeats_it() {
    let directory = tempdir().unwrap();
    let setup = setup(directory.path()).with("ALERT_AGENT_COST_MAX", "0.5");
    let mut service = setup.start();
    let dear = json!({"cost": 2.0});
    service.learn(&outcomes("a", "success", 200, &dear));
    service.learn(&outcomes("a", "failure", 50, &dear));
    let fired = ["agent_cost", "agent_drift"].map(|rule| check_fires(&mut service, rule));
    service.stop();

    let mut service = setup.start();
    // Too few for a mean cost, and for a change to have passed.
    service.learn(&outcomes("a", "failure", 20, &dear));
    service.learn(&outcomes("b", "failure", 40, &dear));
    eventually("all agents were looked at since", || {
        alerts(&service, "").iter().any(|alert| alert["agent_name"] == "b").then_some(())
    });
    let of_a = |query: &str| {
        let mut found = alerts(&service, query);
        found.retain(|alert| alert["agent_name"] == "a");
        found.sort_by_key(|alert| alert["rule"].to_string());
        found
    };
    assert_eq!(of_a(""), fired, "the same, and no others");
    service.learn(&outcomes("a", "failure", 100, &json!({"cost": 0.1})));
    let passed = eventually("both have passed", || {
        Some(of_a("?status=resolved")).filter(|resolved| resolved.len() == 2)
    });
    let ids = |alerts: &[Value]| alerts.iter().map(|alert| alert["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&passed), ids(&fired));
    let log = service.log();
    assert_eq!(log.matches("alert=firing").count(), 1, "that of b: {log}");
    service.stop();
}

/// A receiver that answers each request with the next of these, then always with 204.
struct Receiver {
    address: SocketAddr,
    bodies: Arc<Mutex<Vec<Value>>>,
}

impl Receiver {
    fn start(answers: &'static [&'static str]) -> Self {
        Self::listen(SocketAddr::from(([127, 0, 0, 1], 0)), answers)
    }

    fn listen(address: SocketAddr, answers: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind(address).expect("the receiver works");
        let address = listener.local_addr().expect("the receiver works");
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let seen = bodies.clone();
        std::thread::spawn(move || {
            let mut answers = answers.iter();
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.expect("the receiver works"));
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    stream.read_line(&mut line).expect("the receiver works");
                    let line = line.trim().to_ascii_lowercase();
                    if let Some(value) = line.strip_prefix("content-length:") {
                        length = value.trim().parse().expect("the receiver works");
                    }
                    if line.is_empty() {
                        break;
                    }
                }
                let mut body = vec![0; length];
                stream.read_exact(&mut body).expect("the receiver works");
                seen.lock()
                    .expect("the receiver works")
                    .push(serde_json::from_slice(&body).expect("the receiver works"));
                let status = answers.next().unwrap_or(&"204 No Content");
                let answer =
                    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
                stream.get_mut().write_all(answer.as_bytes()).expect("the receiver works");
            }
        });
        Self { address, bodies }
    }

    fn bodies(&self) -> Vec<Value> {
        self.bodies.lock().expect("the receiver works").clone()
    }
}

#[test]
fn a_webhook_is_told_each_change_once_it_listens_and_learning_does_not_wait() {
    let directory = tempdir().unwrap();
    let receiver = Receiver::start(&["503 Service Unavailable", "204 No Content"]);
    let mut service = setup(directory.path())
        .with("ALERT_PERFECT_OUTCOMES", 200)
        .with("ALERT_WEBHOOK_URL", format!("http://{}/hook?token=s3cret", receiver.address))
        .start();
    service.learn(&outcomes("a", "success", 200, &json!({})));
    let alert = check_fires(&mut service, "agent_perfect");
    service.learn(&outcomes("a", "failure", 1, &json!({})));
    eventually("both changes have come", || (receiver.bodies().len() == 3).then_some(()));
    let bodies = receiver.bodies();
    assert_eq!((&bodies[0], &bodies[1]), (&alert, &alert), "the first was asked to come later");
    assert_eq!((&bodies[2]["status"], &bodies[2]["id"]), (&json!("resolved"), &alert["id"]));
    let sent = "online_learning_alert_notifications_total{channel=\"webhook\",result=\"sent\"} 2\n";
    eventually("they are counted", || service.get("/metrics").body.contains(sent).then_some(()));
    assert!(!service.log().contains("s3cret"));
    service.stop();
}

#[test]
fn a_webhook_that_hangs_holds_up_neither_learning_nor_the_stop() {
    let directory = tempdir().unwrap();
    // It takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut service = setup(directory.path())
        .with("ALERT_PERFECT_OUTCOMES", 200)
        .with("ALERT_WEBHOOK_URL", format!("http://{}/", silent.local_addr().unwrap()))
        .start();
    service.learn(&outcomes("a", "success", 200, &json!({})));
    check_fires(&mut service, "agent_perfect");
    let (_connection, _) = silent.accept().unwrap();
    let began = std::time::Instant::now();
    service.learn(&outcomes("a", "success", 100, &json!({})));
    service.stop();
    assert!(began.elapsed().as_secs() < 8, "{:?}", began.elapsed());
}

#[test]
fn what_a_receiver_missed_is_sent_after_a_restart_in_order_and_once() {
    let directory = tempdir().unwrap();
    // The receiver is started at this address later.
    let address = crate::harness::free_address();
    let setup = setup(directory.path())
        .with("ALERT_PERFECT_OUTCOMES", 200)
        .with("ALERT_WEBHOOK_URL", format!("http://{address}/hook"));
    let mut service = setup.start();
    service.learn(&outcomes("a", "success", 200, &json!({})));
    let fired = check_fires(&mut service, "agent_perfect");
    service.learn(&outcomes("a", "failure", 1, &json!({})));
    check_passes(&mut service, "agent_perfect");
    service.learn(&outcomes("b", "success", 200, &json!({})));
    let second = wait_for(&service, "agent_perfect", "firing");
    assert_eq!(second["agent_name"], "b");
    service.kill();

    let receiver = Receiver::listen(address, &["503 Service Unavailable", "204 No Content"]);
    let service = setup.start();
    eventually("all have come", || (receiver.bodies().len() == 4).then_some(()));
    let bodies = receiver.bodies();
    assert_eq!((&bodies[0], &bodies[1]), (&fired, &fired), "the first was asked to come later");
    assert_eq!((&bodies[2]["status"], &bodies[2]["id"]), (&json!("resolved"), &fired["id"]));
    assert_eq!(bodies[3], second);
    let sent = "online_learning_alert_notifications_total{channel=\"webhook\",result=\"sent\"} 3\n";
    eventually("they are counted", || service.get("/metrics").body.contains(sent).then_some(()));
    let database = rusqlite::Connection::open(directory.path().join("online-learning.db")).unwrap();
    eventually("that is recorded", || {
        let unsent = "SELECT count(*) FROM alerts WHERE unsent != 0";
        let unsent: i64 = database.query_row(unsent, [], |row| row.get(0)).unwrap();
        (unsent == 0).then_some(())
    });
    drop(database);
    service.stop();
    // What was sent stays so.
    let service = setup.start();
    service.learn(&outcomes("b", "failure", 1, &json!({})));
    wait_for(&service, "agent_perfect", "resolved");
    eventually("the next has come", || (receiver.bodies().len() == 5).then_some(()));
    assert_eq!(receiver.bodies()[4]["status"], "resolved");
    service.stop();
}

//! Verdicts over HTTP: what was missing is added, once, and never revised.

use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::harness::{Service, Setup, eventually, program, verify};

const FEEDBACK: &str = "/api/learning/feedback";
const OUTCOMES: &str = "/api/learning/outcomes";

fn counts(body: &Value) -> [u64; 5] {
    ["accepted", "waiting", "duplicates", "ignored", "rejected_total"]
        .map(|field| body[field].as_u64().unwrap_or_else(|| panic!("{field} in {body}")))
}

#[track_caller]
fn judged(service: &Service, body: &Value) -> (u16, [u64; 5]) {
    let answer = service.post_json(FEEDBACK, body);
    (answer.status, counts(&answer.json()))
}

#[test]
fn one_verdict_several_and_lines_are_taken_and_say_what_became_of_them() {
    let home = tempfile::tempdir().expect("a directory");
    let setup = Setup::new(home.path()).with("OTLP_QUALITY", "relevance");
    let service = setup.start();
    let event = |id: &str| json!({"agent_name": "a", "status": "success", "event_id": id});
    service.post_json(OUTCOMES, &json!([event("1"), event("2"), event("3")]));
    let quality = |id: &str, quality: f64| json!({"event_id": id, "quality_score": quality});
    assert_eq!(judged(&service, &quality("1", 0.5)), (200, [1, 0, 0, 0, 0]));
    assert_eq!(judged(&service, &quality("1", 0.5)), (200, [0, 0, 1, 0, 0]));
    let conflict = service.post_json(FEEDBACK, &quality("1", 0.75));
    assert_eq!(conflict.status, 409);
    assert_eq!(conflict.json()["detail"], "quality_score is 0.75, known is 0.5 already");
    let wrong = service.post_json(FEEDBACK, &json!({"quality_score": 0.5}));
    assert_eq!(wrong.status, 422, "{}", wrong.body);
    assert_eq!(service.post(FEEDBACK, "application/json", "{").status, 400);
    assert_eq!(service.post(FEEDBACK, "text/plain", "{}").status, 415);

    let several = json!([
        quality("2", 0.25),
        quality("not yet", 1.0),
        quality("1", 0.75),
        {"event_id": "3", "name": "relevance", "score": 0.5},
        {"event_id": "3", "name": "tone", "score": 0.5},
    ]);
    let answer = service.post_json(FEEDBACK, &several);
    assert_eq!((answer.status, counts(&answer.json())), (202, [2, 1, 0, 1, 1]));
    assert_eq!(answer.json()["rejected"][0]["index"], 2);
    assert_eq!(answer.json()["rejected"][0]["code"], "conflict");
    let lines = format!("{}\n\n{}\n", quality("2", 0.25), quality("3", 0.5));
    let answer = service.post(FEEDBACK, "application/x-ndjson", lines);
    assert_eq!((answer.status, counts(&answer.json())), (200, [0, 0, 2, 0, 0]));
    let nothing = service.post_json(FEEDBACK, &json!([quality("1", 0.75)]));
    assert_eq!(nothing.status, 422, "{}", nothing.body);

    // Its execution comes after a kill.
    service.kill();
    let service = setup.start();
    service.post_json(OUTCOMES, &event("not yet"));
    let question = json!({"candidates": ["a"]});
    eventually("it is learned", || {
        let body = service.post_json("/api/learning/predict/quality", &question).json();
        (body["predictions"][0]["samples"] == 4).then_some(())
    });
}

#[test]
fn a_pending_execution_is_judged_by_its_decision() {
    let home = tempfile::tempdir().expect("a directory");
    let service = Setup::new(home.path()).start();
    let question = json!({"candidates": ["a"], "decision_id": "d"});
    service.post_json("/api/learning/predict/agent-selection", &question);
    let pending = json!({"agent_name": "a", "status": "pending", "decision_id": "d"});
    assert_eq!(service.post_json(OUTCOMES, &pending).json()["accepted"], 1);
    let verdict = json!({"decision_id": "d", "status": "partial", "quality_score": 0.75});
    assert_eq!(judged(&service, &verdict), (200, [1, 0, 0, 0, 0]));
    let row = service.get("/api/learning/decisions/d").json();
    assert_eq!(
        (&row["outcome"]["status"], &row["outcome"]["reward"]),
        (&json!("partial"), &json!(0.75))
    );
    let rows = service.get("/api/learning/agents/performance").json();
    assert_eq!(
        (&rows[0]["total_executions"], &rows[0]["statuses"]["pending"]),
        (&json!(1), &json!(0))
    );
}

fn event(id: &str, status: &str) -> Value {
    json!({
        "event_id": id, "agent_name": "a", "status": status, "task_type": "t",
        "timestamp": "2026-11-29T12:00:00Z",
    })
}

/// Values of quality that are known, executions, and those of each status.
fn learned(service: &Service) -> (u64, u64, [u64; 3]) {
    let question = json!({"candidates": ["a"]});
    let quality = service.post_json("/api/learning/predict/quality", &question).json();
    let samples = quality["predictions"][0]["samples"].as_u64().unwrap_or(0);
    let rows = service.get("/api/learning/agents/performance").json();
    let statuses = ["success", "failure", "pending"];
    let statuses = statuses.map(|status| rows[0]["statuses"][status].as_u64().unwrap_or(0));
    (samples, rows[0]["total_executions"].as_u64().unwrap_or(0), statuses)
}

/// What is sent, one after the other: verdicts before and after their executions, of which some are
/// pending, and one that comes to say otherwise.
fn phases() -> Vec<(&'static str, Value)> {
    let quality = |id: &str, quality: f64| json!({"event_id": id, "quality_score": quality});
    let mut held = event("held", "success");
    held["awaits_verdict"] = true.into();
    vec![
        (FEEDBACK, quality("early", 0.25)),
        (FEEDBACK, quality("early", 0.75)),
        (OUTCOMES, event("early", "success")),
        (OUTCOMES, event("late", "success")),
        (FEEDBACK, quality("late", 0.5)),
        (OUTCOMES, event("open", "pending")),
        (FEEDBACK, json!({"event_id": "open", "cost_estimate": 2})),
        (FEEDBACK, json!({"event_id": "open", "status": "failure"})),
        (OUTCOMES, held),
        (FEEDBACK, json!({"event_id": "held", "status": "failure", "quality_score": 1})),
        (FEEDBACK, quality("never", 1.0)),
    ]
}

#[test]
fn a_kill_in_any_phase_leaves_every_verdict_learned_once() {
    let mut digest = None;
    for killed_after in std::iter::once(None).chain((0..phases().len()).map(Some)) {
        let home = tempfile::tempdir().expect("a directory");
        let setup = Setup::new(home.path());
        let mut service = setup.start();
        for (number, (path, body)) in phases().into_iter().enumerate() {
            let answer = service.post_json(path, &body);
            assert!(answer.status < 300, "{killed_after:?} {number}: {answer:?}");
            if killed_after == Some(number) {
                service.kill();
                verify(home.path());
                service = setup.start();
                // Whoever has got no answer sends it again.
                let answer = service.post_json(path, &body);
                assert!(answer.status < 300, "{killed_after:?} {number}: {answer:?}");
            }
        }
        let expected = (3, 4, [2, 2, 0]);
        let answers = eventually("all is learned", || {
            let learned = learned(&service);
            (learned.1 == 4 && learned.0 == 3).then_some(learned)
        });
        assert_eq!(answers, expected, "{killed_after:?}");
        let letters = service.get("/api/learning/dead-letters").json()["dead_letters"].clone();
        let codes: Vec<&Value> =
            letters.as_array().into_iter().flatten().map(|letter| &letter["code"]).collect();
        assert_eq!(codes, ["conflict"], "{killed_after:?}");
        let is = service.digest();
        assert_eq!(&is, digest.get_or_insert_with(|| is.clone()), "{killed_after:?}");
        service.kill();
        verify(home.path());
        let service = setup.start();
        assert_eq!((service.digest(), learned(&service)), (is, expected), "{killed_after:?}");
        service.stop();
        verify(home.path());
    }
}

/// Whenever it happens, also in the middle of an answer.
#[test]
fn kills_at_random_moments_lose_no_verdict_and_learn_none_twice() {
    const EXECUTIONS: usize = 60;
    const SEED: u64 = 9;
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(SEED);
    let home = tempfile::tempdir().expect("a directory");
    let setup = Setup::new(home.path()).with("MODEL_BATCH_SIZE", 3);
    let mut service = setup.start();
    let mut kills = 0;
    let mut sent = Vec::new();
    for number in 0..EXECUTIONS {
        let id = format!("e{number}");
        let mut both = [
            (OUTCOMES, event(&id, if number % 2 == 0 { "success" } else { "pending" })),
            (FEEDBACK, json!({"event_id": id, "status": "success", "quality_score": 0.5})),
        ];
        if rng.random_bool(0.5) {
            both.reverse();
        }
        sent.extend(both);
    }
    // Not each right after the other.
    for place in 0..sent.len() {
        let other = (place + rng.random_range(0..6)).min(sent.len() - 1);
        sent.swap(place, other);
    }
    for (path, body) in sent {
        let mut is_killed = rng.random_bool(0.2);
        loop {
            let moment = Duration::from_micros(rng.random_range(0..6_000));
            let answer = std::thread::scope(|scope| {
                let service = &service;
                let killer = std::mem::take(&mut is_killed).then(|| {
                    scope.spawn(move || {
                        std::thread::sleep(moment);
                        service.signal("KILL");
                    })
                });
                let answer = service.try_post(path, "application/json", body.to_string());
                let was_killed = killer.is_some();
                answer.ok().filter(|answer| answer.status < 500).map(|answer| (answer, was_killed))
            });
            let done = answer.as_ref().is_some_and(|(answer, _)| answer.status < 300);
            if answer.is_none_or(|(_, was_killed)| was_killed) {
                kills += 1;
                service.kill();
                service = setup.start();
            }
            if done {
                break;
            }
        }
    }
    let expected = (EXECUTIONS as u64, EXECUTIONS as u64, [EXECUTIONS as u64, 0, 0]);
    eventually("all is learned", || (learned(&service) == expected).then_some(()));
    assert!(kills > 5, "{kills}");
    let digest = service.digest();
    service.kill();
    verify(home.path());
    let service = setup.start();
    assert_eq!((service.digest(), learned(&service)), (digest, expected));
    let letters = service.get("/api/learning/dead-letters").json();
    assert_eq!(letters["dead_letters"], json!([]));
}

#[test]
fn verdicts_that_wait_are_in_a_backup() {
    let home = tempfile::tempdir().expect("a directory");
    let [storage, restored] = ["state", "restored"].map(|name| home.path().join(name));
    let service = Setup::new(&storage).start();
    let early = json!({"event_id": "early", "quality_score": 0.25});
    assert_eq!(judged(&service, &early), (202, [0, 1, 0, 0, 0]));
    let open = json!({"event_id": "open", "status": "failure"});
    assert_eq!(service.post_json(OUTCOMES, &event("open", "pending")).status, 202);
    let file = home.path().join("backup.olbk");
    for (command, directory) in [("backup", &storage), ("restore", &restored)] {
        let mut run = program();
        let run = run.arg(command).arg(&file).env("MODEL_STORAGE_PATH", directory);
        let output = run.output().expect("the program can be run");
        assert!(output.status.success(), "{command}: {output:?}");
    }
    service.stop();
    verify(&restored);
    let service = Setup::new(&restored).start();
    assert_eq!(judged(&service, &early), (200, [0, 0, 1, 0, 0]), "it waits");
    service.post_json(OUTCOMES, &event("early", "success"));
    assert_eq!(judged(&service, &open), (200, [1, 0, 0, 0, 0]));
    eventually("both are learned", || (learned(&service) == (1, 2, [1, 1, 0])).then_some(()));
    service.stop();
    verify(&restored);
}

/// What a verdict adds is of the agent as it is then: after it was removed, a new one with its name.
#[test]
fn a_verdict_on_an_execution_of_an_agent_that_was_removed_is_learned_the_same_after_a_restart() {
    let home = tempfile::tempdir().expect("a directory");
    let setup = Setup::new(home.path());
    let service = setup.start();
    let events = [event("open", "pending"), event("known", "success")];
    assert_eq!(service.post_json(OUTCOMES, &json!(events)).status, 202);
    assert_eq!(service.delete("/api/learning/agents/a").status, 200);
    let quality = json!({"event_id": "known", "quality_score": 0.5});
    let status = json!({"event_id": "open", "status": "failure"});
    assert_eq!(judged(&service, &quality), (200, [1, 0, 0, 0, 0]));
    assert_eq!(judged(&service, &status), (200, [1, 0, 0, 0, 0]));
    let (is, digest) = (learned(&service), service.digest());
    assert_eq!((is.1, is.2), (1, [0, 1, 0]));
    service.kill();
    verify(home.path());
    let service = setup.start();
    assert_eq!((learned(&service), service.digest()), (is, digest));
    assert_eq!(judged(&service, &quality), (200, [0, 0, 1, 0, 0]));
    assert_eq!(judged(&service, &status), (200, [0, 0, 1, 0, 0]));
}

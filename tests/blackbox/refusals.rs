//! Bodies of which nothing is understood: they hold up nobody, and push out nobody's dead letters.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Service, Setup};

const OUTCOMES: &str = "/api/learning/outcomes";
const EVENT: &str = r#"{"agent_name": "a", "status": "success"}"#;

#[test]
fn a_body_of_rubbish_holds_up_nobody_and_pushes_nobody_out() {
    const LINES: u64 = 200_000;
    let home = tempfile::tempdir().expect("there is room for a directory");
    let service = Setup::new(home.path()).with("MODEL_BATCH_TIMEOUT", 1).start();
    // A tenant that is known, one that is not, and an event of no tenant.
    let wrong = |tenant: &str| {
        format!(
            r#"{{"agent_name": "a", "status": "nonsense of {tenant}", "tenant_id": "{tenant}"}}"#
        )
    };
    service.learn(r#"{"agent_name": "a", "status": "success", "tenant_id": "known"}"#);
    let plain = r#"{"agent_name": "a", "status": "nonsense of default"}"#;
    let body = [wrong("known"), wrong("stranger"), plain.to_owned()].join("\n");
    assert_eq!(service.post(OUTCOMES, "application/x-ndjson", body).json()["rejected_total"], 3);
    let rubbish = "x\n".repeat(usize::try_from(LINES).expect("it is small"));
    let told = std::thread::scope(|scope| {
        let sent = scope.spawn(|| service.post(OUTCOMES, "application/x-ndjson", &rubbish));
        while !sent.is_finished() {
            assert_eq!(service.post(OUTCOMES, "application/json", EVENT).status, 202);
        }
        sent.join().expect("it is answered")
    });
    let told = told.json();
    assert_eq!(told["rejected_total"], LINES);
    assert_eq!(told["dead_letters_unkept"], LINES - 500);
    let named = told["rejected"].as_array().expect("it is a list");
    assert_eq!(named.len(), 10_000);
    assert!((0..10_000).all(|place| named[place]["index"] == place), "in their places");
    // More than the table holds, of which all but a share is rubbish.
    for _ in 0..24 {
        let answer = service.post(OUTCOMES, "application/x-ndjson", "x\n".repeat(1_000));
        assert_eq!(answer.json()["dead_letters_unkept"], 500);
    }
    let mut letters = String::new();
    let mut before = String::new();
    let mut count = 0;
    loop {
        let path = format!("/api/learning/dead-letters?limit=1000{before}");
        let page = service.get(&path).json();
        count += page["dead_letters"].as_array().expect("it is a list").len();
        letters.push_str(&page["dead_letters"].to_string());
        match page["next_before"].as_str() {
            Some(id) => before = format!("&before={id}"),
            None => break,
        }
    }
    assert_eq!(count, 10_000);
    for tenant in ["known", "stranger", "default"] {
        assert!(letters.contains(&format!("nonsense of {tenant}")), "{tenant}");
    }
    let metrics = service.get("/api/learning/metrics").json();
    assert_eq!(metrics["rejected"]["not_json"], LINES + 24_000);
    assert_eq!(metrics["dead_letters_unkept"], LINES - 500 + 12_000);
    let prometheus = service.get("/metrics").body;
    let line = format!("online_learning_dead_letters_unkept_total {}", LINES - 500 + 12_000);
    assert!(prometheus.contains(&line), "{line}");
}

#[test]
fn a_body_of_which_nothing_is_understood_is_no_success_in_any_form() {
    let home = tempfile::tempdir().expect("there is room for a directory");
    let service = Setup::new(home.path()).start();
    let known = r#"{"event_id": "1", "agent_name": "a", "status": "success"}"#;
    assert_eq!(service.post(OUTCOMES, "application/json", known).status, 202);
    let wrong = r#"{"agent_name": "a"}"#;
    let (json, lines) = ("application/json", "application/x-ndjson");
    for path in [OUTCOMES.to_owned(), format!("{OUTCOMES}/batch?wait=true")] {
        let learned = if path == OUTCOMES { 202 } else { 200 };
        for (media, body, status) in [
            (json, wrong.to_owned(), 422),
            (json, format!("[{wrong}, {{}}]"), 422),
            (lines, format!("{wrong}\nnonsense\n"), 422),
            // Known already is understood, and nothing to understand is nothing wrong.
            (lines, format!("{wrong}\n{known}"), learned),
            (json, "[]".to_owned(), learned),
            (lines, String::new(), learned),
        ] {
            let answer = service.post(&path, media, &body);
            assert_eq!(answer.status, status, "{path} {body}: {answer:?}");
            if status != 422 {
                continue;
            }
            assert_eq!(answer.header("content-type"), Some("application/problem+json"));
            let told = answer.json();
            let detail = told["detail"].as_str().expect("it says why");
            assert!(detail.contains("status is missing, allowed are"), "{detail}");
            assert_eq!(told["rejected"][0]["code"], "missing_status", "{told}");
            assert_eq!((&told["accepted"], &told["status"]), (&0.into(), &422.into()), "{told}");
        }
    }
    let letters = service.get("/api/learning/dead-letters").json();
    assert_eq!(letters["dead_letters"].as_array().map(Vec::len), Some(12), "{letters}");
    let tried = service.post(&format!("{OUTCOMES}?dry_run=true"), json, wrong);
    assert_eq!((tried.status, &tried.json()["rejected_total"]), (200, &1.into()), "{tried:?}");
    service.stop();
}

/// A call as `LiteLLM` reports it, with a prompt and an answer that must not be kept.
fn litellm_call(marker: &str) -> Value {
    json!({
        "id": "chatcmpl-1", "litellm_call_id": "c1", "call_type": "acompletion", "status": "success",
        "model": "gpt-4o", "model_group": "smart", "response_cost": 0.25, "response_time": 1.5,
        "messages": [{"role": "user", "content": marker}],
        "response": {"choices": [{"message": {"content": marker}}]},
    })
}

/// Whether a text stands in any file of the state directory.
fn is_stored(directory: &Path, marker: &str) -> bool {
    let files = std::fs::read_dir(directory).expect("it is there");
    let files = files.map(|entry| entry.expect("it can be read").path());
    let holds = |file: &Path| {
        let bytes = std::fs::read(file).expect("it can be read");
        bytes.windows(marker.len()).any(|window| window == marker.as_bytes())
    };
    files.filter(|file| file.is_file()).any(|file| holds(&file))
}

fn newest_letter(service: &Service) -> Value {
    service.get("/api/learning/dead-letters?limit=1").json()["dead_letters"][0].clone()
}

#[test]
fn of_a_log_of_calls_no_prompt_is_kept() {
    const MARKER: &str = "a-prompt-that-nobody-may-keep";
    let home = tempfile::tempdir().expect("there is room for a directory");
    let mut service = Setup::new(home.path()).start();
    let (json, lines) = ("application/json", "application/x-ndjson");
    let call = litellm_call(MARKER);
    for (media, body) in [
        (json, call.to_string()),
        (json, json!([call, call]).to_string()),
        (lines, format!("{call}\n{call}\n")),
    ] {
        let answer = service.post(OUTCOMES, media, body);
        assert_eq!(answer.status, 422, "{answer:?}");
        assert!(!answer.body.contains(MARKER), "{answer:?}");
        let letter = newest_letter(&service);
        assert_eq!(letter["payload_kept"], "keys", "{letter}");
        assert_eq!(letter["payload_cut"], true, "{letter}");
        let payload = letter["payload"].as_str().expect("it is text");
        let outline: Value = serde_json::from_str(payload).expect("it is JSON");
        let content = format!("string, {} bytes", MARKER.len());
        assert_eq!(outline["messages"][0]["content"], content, "{letter}");
    }
    let replayed = service.post("/api/learning/dead-letters/replay", json, "{}").json();
    assert_eq!(replayed["skipped"].as_array().map(Vec::len), Some(5), "{replayed}");
    assert_eq!(replayed["skipped"][0]["reason"], "only its names, types and lengths were kept");
    assert!(!service.log().contains(MARKER));
    service.stop();
    assert!(!is_stored(home.path(), MARKER));
}

#[test]
fn of_dead_letters_as_much_is_kept_as_is_asked_for() {
    const MARKER: &str = "a-value-in-an-event";
    let event = json!({"agent_name": "a", "context": {"k": MARKER}}).to_string();
    for kept in ["full", "keys", "none"] {
        let home = tempfile::tempdir().expect("there is room for a directory");
        let service = Setup::new(home.path()).with("DEAD_LETTER_PAYLOAD", kept).start();
        assert_eq!(service.post(OUTCOMES, "application/json", &event).status, 422);
        let letter = newest_letter(&service);
        let payload = letter["payload"].as_str().expect("it is text");
        assert_eq!(letter["payload_kept"], kept, "{letter}");
        assert_eq!(payload.contains(MARKER), kept == "full", "{letter}");
        assert_eq!(payload.contains("context"), kept != "none", "{letter}");
        assert_eq!(letter["payload_bytes"], event.len(), "{letter}");
        service.stop();
        assert_eq!(is_stored(home.path(), MARKER), kept == "full");
    }
}

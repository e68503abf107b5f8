//! What producers send, and the outcome or refusal it ends in.

use std::fmt::Write as _;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const NOW_MS: i64 = 1_800_000_000_000;

fn parse(record: impl AsRef<[u8]>) -> Result<Outcome, Refusal> {
    Outcome::parse(record.as_ref(), NOW_MS, || "made-up".to_owned())
}

/// The smallest event with these fields added or replaced.
fn event(fields: &Value) -> String {
    let mut event = json!({"agent_name": "a", "status": "success"});
    for (key, value) in fields.as_object().unwrap() {
        event[key] = value.clone();
    }
    event.to_string()
}

#[track_caller]
fn outcome(fields: &Value) -> Outcome {
    parse(event(fields)).unwrap()
}

fn text(key: &str, value: &str) -> (String, Feature) {
    (key.to_owned(), Feature::Text(value.to_owned()))
}

fn number(key: &str, value: f64) -> (String, Feature) {
    (key.to_owned(), Feature::Number(value))
}

#[test]
fn every_producer_shape_is_understood() {
    #[track_caller]
    fn check(record: &[u8], expected: &Outcome) {
        assert_eq!(parse(record).as_ref(), Ok(expected));
    }
    check(
        include_bytes!("../../tests/fixtures/shape_a.json"),
        &Outcome {
            identity: identity_key("default", "7d9f3c52-6a0e-4b7e-9d0c-3f1b8f0c2a11"),
            context: vec![
                text("complexity", "high"),
                text("domain", "backend"),
                ("first_review".to_owned(), Feature::Bool(true)),
                number("lines_changed", 212.0),
                text("repo.language", "python"),
                number("repo.size.files", 38.0),
            ],
            latency_ms: Some(2431.57),
            quality: Some(0.91),
            cost: Some(0.0184),
            time_ms: 1_793_610_903_482,
            decision: Some(DecisionRef::Correlation(
                "c0a8012e-5b1d-4f6e-8f57-0d5d2b7f9e10".to_owned(),
            )),
            dropped: vec!["context_list", "context_null"],
            ..Outcome::new("ReflectionAgent", Status::Success).on_task("code_review")
        },
    );
    check(
        include_bytes!("../../tests/fixtures/shape_a_workflow_step.json"),
        &Outcome {
            identity: identity_key("default", "1b6e0d0a-92f4-4c1b-8a55-6c2f7e9d4b22"),
            latency_ms: Some(1200.0),
            time_ms: 1_793_610_971_204,
            ..Outcome::new("PlanExecuteAgent", Status::Success)
        },
    );
    let parts =
        r#"["run-2026-11-02-0050","ToolUseAgent","tool_use","success","845.3","data_extraction"]"#;
    check(
        include_bytes!("../../tests/fixtures/shape_b.json"),
        &Outcome {
            identity: identity_key("default", &format!("run:{}", hex(&Sha256::digest(parts)))),
            latency_ms: Some(845.3),
            quality: Some(0.88),
            time_ms: 1_793_611_200_115,
            zero_is_unknown: true,
            ..Outcome::new("ToolUseAgent", Status::Success).on_task("data_extraction")
        },
    );
    check(
        include_bytes!("../../tests/fixtures/shape_c_cloudevents.json"),
        &Outcome {
            identity: identity_key(
                "default",
                r#"cloudevent:["/agents/monitor","5c1e7f0e-3d7a-4a77-b0d6-90a4b1c2d333"]"#,
            ),
            latency_ms: Some(1310.0),
            quality: Some(0.2),
            cost: Some(0.0061),
            time_ms: 1_793_611_500_300,
            zero_is_unknown: true,
            ..Outcome::new("ReActAgent", Status::Failure).on_task("compliance_analysis")
        },
    );
    check(
        include_bytes!("../../tests/fixtures/shape_minimal.json"),
        &Outcome {
            identity: identity_key("default", "made-up"),
            time_ms: NOW_MS,
            ..Outcome::new("a", Status::Success)
        },
    );
}

#[test]
fn each_status_has_its_reward_and_shows_what_it_may() {
    #[track_caller]
    fn check(status: &str, rewards: [Option<f64>; 2], latency: Option<f64>, quality: Option<f64>) {
        let fields = json!({"status": status, "latency_ms": 5, "quality_score": 0.75});
        let with_quality = outcome(&fields);
        assert_eq!(with_quality.status.as_str(), status);
        assert_eq!(outcome(&json!({"status": status})).reward(), rewards[0]);
        assert_eq!(with_quality.reward(), rewards[1]);
        assert_eq!(with_quality.observed_latency_ms(), latency);
        assert_eq!(with_quality.observed_quality(), quality);
    }
    check("success", [Some(1.0), Some(1.0)], Some(5.0), Some(0.75));
    check("partial", [Some(0.5), Some(0.75)], Some(5.0), Some(0.75));
    check("failure", [Some(0.0), Some(0.0)], None, Some(0.75));
    check("timeout", [Some(0.0), Some(0.0)], None, Some(0.75));
    check("cancelled", [None, None], None, Some(0.75));
    check("pending", [None, None], None, None);
}

#[test]
fn the_first_source_of_an_identity_wins() {
    #[track_caller]
    fn check(record: &str, identity: &str) {
        assert_eq!(parse(record).unwrap().identity, identity_key("default", identity));
    }
    let full = json!({
        "event_id": "e", "decision_id": "d", "metadata": {"decision_id": "m"}, "run_id": "r",
        "correlation_id": "c"
    });
    let mut fields = full.clone();
    check(&event(&fields), "e");
    fields["event_id"] = json!("");
    check(&event(&fields), r#"decision:["d","a","success"]"#);
    fields["decision_id"] = json!(null);
    check(&event(&fields), r#"decision:["m","a","success"]"#);
    fields["metadata"] = json!(null);
    let run = parse(event(&fields)).unwrap();
    assert_ne!(run.identity, identity_key("default", "made-up"));
    fields["run_id"] = json!(null);
    check(&event(&fields), "made-up");

    let envelope = |data: &str| {
        format!(r#"{{"specversion": "1.0", "source": "s", "id": "i", "data": {data}}}"#)
    };
    check(&envelope(&event(&full)), "e");
    check(
        &envelope(&event(&json!({"decision_id": "d", "run_id": "r"}))),
        r#"cloudevent:["s","i"]"#,
    );
    // Without version it is no envelope but an event that knows no `data`.
    check(r#"{"agent_name": "a", "status": "success", "source": "s", "id": "i"}"#, "made-up");
}

#[test]
fn numbers_identify_events_to_the_last_digit() {
    let identity = |id: Value| outcome(&json!({"event_id": id})).identity;
    assert_eq!(identity(json!(7)), identity(json!("7")));
    assert_ne!(
        identity(json!(1_234_567_890_123_456_789_u64)),
        identity(json!(1_234_567_890_123_456_788_u64)),
        "ids of 64 bits are common, and have more digits than a float"
    );
    assert_ne!(
        identity(json!(-9_007_199_254_740_993_i64)),
        identity(json!(-9_007_199_254_740_992_i64))
    );
}

#[test]
fn items_and_attempts_are_part_of_an_identity_that_names_no_event() {
    let identity = |fields: &Value| outcome(fields).identity;
    let key = |text: &str| identity_key("default", text);
    // As it was before there were any.
    assert_eq!(identity(&json!({"decision_id": "d"})), key(r#"decision:["d","a","success"]"#));
    assert_eq!(identity(&json!({"event_id": "e", "item": 1, "final": false})), key("e"));
    let all = json!({"decision_id": "d", "item": 0, "attempt": "2", "final": "FALSE"});
    let expected = r#"decision:["d","a","success","item 0","attempt 2","not final"]"#;
    assert_eq!(identity(&all), key(expected));
    for field in ["item", "attempt"] {
        let run = |value: u32| identity(&json!({"run_id": "r", field: value}));
        assert_ne!(run(1), run(2), "{field}");
        assert_ne!(run(1), identity(&json!({"run_id": "r"})), "{field}");
    }
    let attempt = outcome(&all).attempt.unwrap();
    assert_eq!((attempt.number, attempt.is_final, attempt.of_item), (2, false, true));
    let plain = outcome(&json!({"decision_id": "d"})).attempt.unwrap();
    assert_eq!((plain.number, plain.is_final, plain.is_told), (0, true, false));
    assert_eq!(outcome(&json!({"run_id": "r", "correlation_id": "c"})).attempt, None);
    assert_eq!(outcome(&json!({"final": true})).attempt, None);
    for (fields, dropped) in [
        (json!({"item": [1]}), "item"),
        (json!({"item": "x".repeat(257)}), "item"),
        (json!({"attempt": -1}), "attempt"),
        (json!({"attempt": 1.5}), "attempt"),
        (json!({"attempt": "first"}), "attempt"),
        (json!({"attempt": true}), "attempt"),
        (json!({"final": "no"}), "final"),
        (json!({"final": 0}), "final"),
    ] {
        let outcome = outcome(&fields);
        assert_eq!((outcome.attempt, &*outcome.dropped), (None, &[dropped][..]), "{fields}");
    }
    for unset in [json!(null), json!(""), json!(" ")] {
        let outcome = outcome(&json!({"item": unset, "attempt": unset, "final": unset}));
        assert_eq!((outcome.attempt, outcome.dropped), (None, vec![]), "{unset}");
    }
}

#[test]
fn an_id_is_the_digits_as_they_came() {
    #[track_caller]
    fn check(digits: &str) {
        for field in ["event_id", "decision_id", "run_id", "correlation_id"] {
            let read = |id: &str| {
                let record = format!(r#"{{"agent_name":"a","status":"success","{field}":{id}}}"#);
                parse(record).unwrap()
            };
            let outcome = read(digits);
            assert_eq!(outcome, read(&format!("\"{digits}\"")), "{field}: {digits}");
            if let Some(decision) = outcome.decision {
                assert_eq!(decision.id(), digits);
            }
        }
        let nested = format!(
            r#"{{"specversion":"1.0","source":"s","id":{digits},
                 "data":{{"agent_name":"a","status":"success"}}}}"#
        );
        let identity = format!(r#"cloudevent:["s","{digits}"]"#);
        assert_eq!(parse(nested).unwrap().identity, identity_key("default", &identity));
        let metadata = format!(
            r#"{{"agent_name":"a","status":"success","metadata":{{"decision_id":{digits}}}}}"#
        );
        let expected = Some(DecisionRef::Explicit(digits.to_owned()));
        assert_eq!(parse(metadata).unwrap().decision, expected);
    }
    check("7");
    check("18446744073709551615");
    check("18446744073709551616");
    check("20261129063000120000");
    check("20261129063000120001");
    check("-170141183460469231731687303715884105729");
    check(&"9".repeat(200));
    check("1e30");
    check("1E400");
    check("1.50");
    // Only a text can have these.
    let identity = |id: &str| outcome(&json!({"event_id": id})).identity;
    assert_ne!(identity("007"), identity("7"));
    assert_eq!(identity("007"), identity_key("default", "007"));
    let escaped = parse(r#"{"agent_name":"a","status":"success","event_id":"\u0037\n"}"#).unwrap();
    assert_eq!(escaped.identity, identity_key("default", "7\n"));
    let broken = parse(r#"{"agent_name":"a","status":"success","event_id":"\ud800"}"#);
    assert_eq!(broken.map_err(|refusal| refusal.code), Err(RefusalCode::NotJson));
}

#[test]
fn what_programs_write_for_nothing_is_no_id() {
    #[track_caller]
    fn check(id: &str, is_told: bool) {
        for field in ["event_id", "run_id", "decision_id", "correlation_id"] {
            let record = format!(r#"{{"agent_name":"a","status":"success","{field}":{id}}}"#);
            let outcome = parse(record).unwrap();
            assert_eq!(outcome.identity, identity_key("default", "made-up"), "{field}: {id}");
            assert_eq!(outcome.decision, None, "{field}: {id}");
            // A correlation may be anything.
            let dropped: &[&str] =
                if is_told && field != "correlation_id" { &[field] } else { &[] };
            assert_eq!(outcome.dropped, dropped, "{field}: {id}");
        }
        let nested = format!(
            r#"{{"specversion":"1.0","source":"s","id":{id},
                 "data":{{"agent_name":"a","status":"success","run_id":"r"}}}}"#
        );
        let run = outcome(&json!({"run_id": "r"}));
        assert_eq!(parse(nested).unwrap().identity, run.identity, "{id}");
    }
    for id in ["null", r#""""#, r#"" \t""#] {
        check(id, false);
    }
    for id in
        ["None", "null", "NULL", "nil", "<nil>", "undefined", "NaN", "nan", "NaT", "<NA>", "N/A"]
    {
        check(&format!("\"{id}\""), true);
        check(&format!("\" {} \"", id.to_uppercase()), true);
    }
    for id in ["0", "0.0", "-0", "[]", "{}", "true", r#""0""#, r#""-""#, r#""[object Object]""#] {
        check(id, true);
    }
    check(r#""00000000-0000-0000-0000-000000000000""#, true);
    check(r#""{00000000-0000-0000-0000-000000000000}""#, true);
    check(r#""urn:uuid:00000000-0000-0000-0000-000000000000""#, true);
    check(r#""00000000000000000000000000000000""#, true);
    for id in [
        "none of them",
        "nullable",
        "00000000-0000-0000-0000-000000000001",
        "10",
        "0-0",
        "0.0.0",
        "nanny",
        "o",
    ] {
        assert_eq!(outcome(&json!({"event_id": id})).identity, identity_key("default", id));
    }
    // The next source of an identity is taken.
    let decided = outcome(&json!({"event_id": "None", "decision_id": "d"}));
    assert_eq!(decided.identity, outcome(&json!({"decision_id": "d"})).identity);
}

#[test]
fn an_identity_is_made_up_only_when_it_is_needed() {
    for fields in [json!({"event_id": "e"}), json!({"decision_id": "d"}), json!({"run_id": "r"})] {
        Outcome::parse(event(&fields).as_bytes(), NOW_MS, || unreachable!("{fields}")).unwrap();
    }
}

#[test]
fn a_run_sent_again_is_the_same_whatever_its_timestamp() {
    #[track_caller]
    fn check(change: &Value, same: bool) {
        let sent = json!({
            "run_id": "r", "agent_type": "t", "duration_ms": 5, "timestamp": "2026-01-01T00:00:00",
            "metadata": {"task_type": "review"}
        });
        let mut again = sent.clone();
        for (key, value) in change.as_object().unwrap() {
            again[key] = value.clone();
        }
        let [sent, again] = [outcome(&sent).identity, outcome(&again).identity];
        assert_eq!(sent == again, same, "{change}");
    }
    check(&json!({"timestamp": "2026-01-02T00:00:00"}), true);
    check(&json!({"quality_score": 0.5, "context": {"a": 1}, "correlation_id": "c"}), true);
    check(&json!({"run_id": "s"}), false);
    check(&json!({"agent_name": "b"}), false);
    check(&json!({"agent_type": "u"}), false);
    check(&json!({"status": "failure"}), false);
    check(&json!({"duration_ms": 6}), false);
    check(&json!({"metadata": {"task_type": "test"}}), false);
    check(&json!({"tenant_id": "x"}), false);
    // What a decision fills in later does not change what was sent.
    check(&json!({"resolved": {"tenant_id": "default", "task_type": "other"}}), true);
}

#[test]
fn identities_are_scoped_by_tenant() {
    assert_ne!(identity_key("a", "1"), identity_key("b", "1"));
    assert_ne!(identity_key("ab", "c"), identity_key("a", "bc"));
    assert_eq!(
        outcome(&json!({"event_id": "e", "tenant_id": "default"})).identity,
        outcome(&json!({"event_id": "e"})).identity
    );
    let tenant = |fields: Value| outcome(&fields).tenant;
    assert_eq!(tenant(json!({"tenant_id": "t", "metadata": {"tenant_id": "m"}})), "t");
    assert_eq!(tenant(json!({"tenant_id": null, "metadata": {"tenant_id": "m"}})), "m");
}

#[test]
fn non_finite_literals_are_null_outside_of_strings_only() {
    #[track_caller]
    fn check(sent: &str, expected: Option<&str>) {
        assert_eq!(raw::non_finite_as_null(sent).as_deref(), expected);
    }
    check(r#"{"a": NaN}"#, Some(r#"{"a": null}"#));
    check("[NaN,Infinity,-Infinity]", Some("[null,null,null]"));
    check(r#"{"NaN": "Infinity", "b": "-Infinity"}"#, None);
    check(
        r#"["a \" NaN", NaN, "\\", NaN, "NaN"]"#,
        Some(r#"["a \" NaN", null, "\\", null, "NaN"]"#),
    );
    check(r#"["é NaN", NaN]"#, Some(r#"["é NaN", null]"#));
    check(r#"["NaN"#, None);

    let kept = parse(
        r#"{"agent_name": "NaN", "status": "success", "latency_ms": NaN, "duration_ms": 7,
            "cost": -Infinity, "quality_score": Infinity, "context": {"x": NaN, "y": "NaN \" NaN"}}"#,
    )
    .unwrap();
    assert_eq!(kept.agent, "NaN");
    assert_eq!(kept.latency_ms, Some(7.0));
    assert_eq!((kept.cost, kept.quality), (None, None));
    assert_eq!(kept.context, [text("y", "NaN \" NaN")]);
    assert_eq!(kept.dropped, ["context_null"], "outside of a context null is unset");
}

#[test]
fn amounts_are_taken_in_range_and_otherwise_dropped_by_name() {
    #[track_caller]
    fn check(fields: &Value, taken: [Option<f64>; 3], dropped: &[&str]) {
        let outcome = outcome(fields);
        assert_eq!([outcome.latency_ms, outcome.quality, outcome.cost], taken, "{fields}");
        assert_eq!(outcome.dropped, dropped, "{fields}");
    }
    check(
        &json!({"latency_ms": "12.5", "quality_score": " 1e-1 "}),
        [Some(12.5), Some(0.1), None],
        &[],
    );
    check(&json!({"latency_ms": 0, "duration_ms": 9}), [Some(0.0), None, None], &[]);
    check(&json!({"latency_ms": null, "duration_ms": 9}), [Some(9.0), None, None], &[]);
    check(&json!({"latency_ms": -1, "duration_ms": 9}), [Some(9.0), None, None], &["latency_ms"]);
    check(
        &json!({"latency_ms": 1e12, "cost_estimate": 1_000_000_000_001_u64}),
        [Some(1e12), None, None],
        &["cost_estimate"],
    );
    check(&json!({"quality_score": 7}), [None, None, None], &["quality_score"]);
    check(
        &json!({"quality_score": true, "metadata": {"quality_score": "0.25"}}),
        [None, Some(0.25), None],
        &["quality_score"],
    );
    check(
        &json!({"latency_ms": [1], "duration_ms": {"ms": 1}, "cost_estimate": "much"}),
        [None, None, None],
        &["latency_ms", "duration_ms", "cost_estimate"],
    );
    check(
        &json!({"latency_ms": "NaN", "quality_score": "inf"}),
        [None; 3],
        &["latency_ms", "quality_score"],
    );
    check(&json!({"cost_estimate": 0, "cost": 3}), [None, None, Some(0.0)], &[]);
    check(&json!({"cost_estimate": null, "cost": 3}), [None, None, Some(3.0)], &[]);
    let negative_zero = outcome(&json!({"latency_ms": -0.0})).latency_ms.unwrap();
    assert!(negative_zero.is_sign_positive(), "-0 prints unlike 0");
}

#[test]
fn a_cost_of_0_is_unknown_from_the_monitor_alone() {
    #[track_caller]
    fn check(fields: &Value, cost: Option<f64>) {
        assert_eq!(outcome(fields).cost, cost, "{fields}");
    }
    check(&json!({"cost": 0}), Some(0.0));
    check(&json!({"cost_estimate": 0}), Some(0.0));
    check(&json!({"cost": "0"}), Some(0.0));
    for zero in ["cost", "cost_estimate"] {
        check(&json!({"memory_mb": 0.0, "cpu_ms": 0.0, zero: 0}), None);
        check(&json!({"memory_mb": null, "cpu_ms": null, "event_id": null, zero: 0}), None);
        check(&json!({"memory_mb": 12.5, "cpu_ms": 3, "event_id": "", zero: 0}), None);
        check(&json!({"memory_mb": 0, "cpu_ms": 0, "event_id": "e", zero: 0}), Some(0.0));
        check(&json!({"memory_mb": 0, zero: 0}), Some(0.0));
        check(&json!({"cpu_ms": 0, zero: 0}), Some(0.0));
        check(&json!({"memory_mb": 0, "cpu_ms": 0, zero: 0.01}), Some(0.01));
    }
    // Only where the event looks like the monitor's, and has an identity that is not its own.
    let resolved = json!({"tenant_id": "default", "zero_is_unknown": true});
    check(&json!({"cost": 0, "event_id": "e", "resolved": resolved}), Some(0.0));
    check(
        &json!({"cost": 0, "event_id": "e", "memory_mb": 0, "cpu_ms": 0, "resolved": resolved}),
        None,
    );
}

#[test]
fn spellings_of_one_name_are_one_name() {
    let sent = json!({
        "agent_name": " e\u{301}\u{a0}", "tenant_id": "\tt ", "task_type": " review ",
        "context": {" domain ": " la\u{308}w ", "a": {" b ": 1}, "blank": " \u{feff}"},
    });
    let kept = outcome(&sent);
    assert_eq!(
        (&*kept.agent, &*kept.tenant, kept.task_type.as_deref()),
        ("é", "t", Some("review"))
    );
    assert_eq!(kept.context, [number("a.b", 1.0), text("domain", "läw")]);
    assert_eq!(kept.dropped, ["context_value"], "a blank is no value");
    assert_eq!(context_of(&sent["context"]), kept.context, "questions and events meet");
    assert_eq!(named_tenant(event(&sent).as_bytes()).as_deref(), Some("t"), "so do their rights");

    assert_eq!(outcome(&json!({"agent_name": 1})).agent, "1");
    assert_eq!(outcome(&json!({"agent_name": -20, "task_type": " "})).agent, "-20");
    for blank in [" ", "\u{3000}\n", "\u{feff}"] {
        let refusal = parse(event(&json!({"agent_name": blank}))).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::InvalidAgentName);
        assert!(refusal.detail.contains("agent_name is blank"), "{refusal}");
    }
    // What is composed is what is measured.
    let long = "e\u{301}".repeat(128);
    assert_eq!(outcome(&json!({"agent_name": long})).agent.len(), 256);
}

#[test]
fn names_have_1_to_256_bytes() {
    #[track_caller]
    fn check(bytes: usize, allowed: bool) {
        // Two bytes each, so that characters and bytes are told apart.
        let name = "é".repeat(bytes / 2) + &"x".repeat(bytes % 2);
        for (field, code) in [
            ("agent_name", RefusalCode::InvalidAgentName),
            ("tenant_id", RefusalCode::InvalidTenantId),
        ] {
            let parsed = parse(event(&json!({field: name})));
            assert_eq!(parsed.as_ref().map(drop).map_err(|refusal| refusal.code), {
                if allowed { Ok(()) } else { Err(code) }
            });
            if let Err(Refusal { detail, .. }) = parsed {
                assert_eq!(detail, format!("{field} has {bytes} bytes, allowed are 1 to 256"));
            }
        }
        let others = outcome(&json!({
            "task_type": name, "context": {"k": name, &name: 1}, "decision_id": name
        }));
        assert_eq!(others.task_type.is_some(), allowed);
        assert_eq!(others.context.len(), if allowed { 2 } else { 0 });
        assert_eq!(others.decision.is_some(), allowed);
        let mut dropped = others.dropped;
        dropped.sort_unstable();
        let named: &[&str] = match (allowed, bytes) {
            (true, _) => &[],
            // An empty identifier is an unset one.
            (false, 0) => &["context_key", "context_value", "task_type"],
            (false, _) => &["context_key", "context_value", "decision_id", "task_type"],
        };
        assert_eq!(dropped, named);
    }
    check(0, false);
    check(1, true);
    check(256, true);
    check(257, false);
}

#[test]
fn the_task_type_is_the_first_name_but_never_a_workflow_step() {
    #[track_caller]
    fn check(fields: &Value, task_type: Option<&str>, dropped: &[&str]) {
        let outcome = outcome(fields);
        assert_eq!(outcome.task_type.as_deref(), task_type, "{fields}");
        assert_eq!(outcome.dropped, dropped, "{fields}");
    }
    let metadata = json!({"task_type": "m"});
    check(&json!({"task_type": "t", "metadata": metadata, "action_type": "a"}), Some("t"), &[]);
    check(&json!({"task_type": null, "metadata": metadata, "action_type": "a"}), Some("m"), &[]);
    check(&json!({"task_type": "", "metadata": [], "action_type": "a"}), Some("a"), &["task_type"]);
    check(&json!({"task_type": 5, "metadata": metadata}), Some("m"), &["task_type"]);
    check(&json!({"action_type": "workflow_step"}), None, &[]);
    check(&json!({"task_type": "workflow_step"}), Some("workflow_step"), &[]);
}

#[test]
fn a_decision_is_named_explicitly_or_correlated() {
    #[track_caller]
    fn check(fields: &Value, expected: Option<&DecisionRef>) {
        assert_eq!(outcome(fields).decision.as_ref(), expected, "{fields}");
    }
    let explicit = |id: &str| DecisionRef::Explicit(id.to_owned());
    let metadata = json!({"decision_id": "m"});
    check(
        &json!({"decision_id": "d", "metadata": metadata, "correlation_id": "c"}),
        Some(&explicit("d")),
    );
    check(&json!({"metadata": metadata, "correlation_id": "c"}), Some(&explicit("m")));
    check(&json!({"decision_id": 12}), Some(&explicit("12")));
    check(&json!({"correlation_id": "c"}), Some(&DecisionRef::Correlation("c".to_owned())));
    check(&json!({"decision_id": true, "correlation_id": ["c"]}), None);
}

#[test]
fn a_refusal_names_the_field_what_was_seen_and_what_is_allowed() {
    #[track_caller]
    fn check(record: impl AsRef<[u8]>, code: &str, detail: &str) {
        let refusal = parse(record).unwrap_err();
        assert_eq!(refusal.code.as_str(), code, "{refusal}");
        assert!(refusal.detail.contains(detail), "{refusal}");
    }
    const STATUSES: &str = "allowed are success, partial, failure, timeout, cancelled, pending";
    check("{}", "missing_agent_name", "agent_name is missing");
    check(r#"{"agent_name": null, "status": "success"}"#, "missing_agent_name", "agent_name");
    check(
        r#"{"agent_name": 5.5, "status": "success"}"#,
        "invalid_agent_name",
        "agent_name is 5.5, allowed is a string",
    );
    check(r#"{"agent_name": "a"}"#, "missing_status", &format!("status is missing, {STATUSES}"));
    check(
        event(&json!({"status": "Sucess"})),
        "unknown_status",
        &format!("status is \"Sucess\", {STATUSES}; did you mean success?"),
    );
    check(event(&json!({"status": {}})), "unknown_status", "status is an array or object");
    check(event(&json!({"status": "é".repeat(500)})), "unknown_status", "é\"..., allowed");
    check(
        event(&json!({"tenant_id": false})),
        "invalid_tenant_id",
        "tenant_id is false, allowed is a string",
    );
    for record in ["[]", "5", "null", "\"text\"", "true", "1e3", "[{\"agent_name\": \"a\"}]"] {
        check(record, "not_an_object", "allowed is an object");
    }
    check("", "not_json", "EOF");
    check("{\"agent_name\": \"a\"", "not_json", "column");
    check(r#"{"agent_name": "a", "status": "success"} x"#, "not_json", "trailing");
    check(r#"{"agent_name": NaNa, "status": "success"}"#, "not_json", "");
    check(b"{\"agent_name\": \"\xff\"}", "not_utf8", "index 16");
    let large = event(&json!({"output": "x".repeat(RECORD_BYTES_MAX)}));
    check(&large, "too_large", &format!("{} bytes, allowed are 1048576", large.len()));
    let padding = RECORD_BYTES_MAX - event(&json!({"output": ""})).len();
    assert!(parse(event(&json!({"output": "x".repeat(padding)}))).is_ok(), "the limit itself");
}

#[test]
fn a_context_is_flattened_by_dotted_path() {
    #[track_caller]
    fn check(context: &str, expected: &[(String, Feature)], dropped: &[&str]) {
        let record = format!(r#"{{"agent_name": "a", "status": "success", "context": {context}}}"#);
        let outcome = parse(record).unwrap();
        assert_eq!(outcome.context, expected, "{context}");
        assert_eq!(outcome.dropped, dropped, "{context}");
        let of_request: Value = serde_json::from_str(context).unwrap();
        assert_eq!(context_of(&of_request), expected, "{context}");
    }
    check(
        r#"{"b": "x", "a": {"c": 1, "b": {"d": true}}}"#,
        &[("a.b.d".to_owned(), Feature::Bool(true)), number("a.c", 1.0), text("b", "x")],
        &[],
    );
    check(
        r#"{"list": [1, {"a": 2}], "nothing": null, "empty": {}, "in": {"list": [], "no": null}}"#,
        &[],
        &["context_list", "context_null", "context_list", "context_null"],
    );
    check(
        r#"{"a": 1, "a": 2, "b": {"c": 3}, "b.c": 4}"#,
        &[number("a", 2.0), number("b.c", 4.0)],
        &[],
    );
    check(r#"{"b.c": 4, "b": {"c": 3}}"#, &[number("b.c", 3.0)], &[]);
    check(r#"{"": 1, "a": "", "b": 2}"#, &[number("b", 2.0)], &["context_key", "context_value"]);
    check(r#"{"\u0061": "\u00e9"}"#, &[text("a", "é")], &[]);
    check("{}", &[], &[]);
    check("7", &[], &["context"]);
    check("[7]", &[], &["context"]);
    check("null", &[], &[]);
}

#[test]
fn a_snapshot_stands_in_for_a_context_that_is_no_object() {
    let snapshot = json!({"b": 2});
    for (context, expected) in [
        (json!({"a": 1}), Some("a")),
        (json!({}), None),
        (json!(null), Some("b")),
        (json!(3), Some("b")),
    ] {
        let outcome = outcome(&json!({"context_snapshot": snapshot, "context": context}));
        let key = outcome.context.first().map(|(key, _)| key.as_str());
        assert_eq!(key, expected, "{context}");
    }
}

#[test]
fn features_past_the_cap_are_dropped_and_counted() {
    let features: serde_json::Map<String, Value> =
        (0..FEATURES_MAX + 3).map(|i| (format!("k{i:04}"), json!(i))).collect();
    let outcome = outcome(&json!({"context": features}));
    assert_eq!(outcome.context.len(), FEATURES_MAX);
    assert_eq!(outcome.dropped, ["context_feature"; 3]);
    assert_eq!(outcome.context.last().unwrap().0, "k0255");
}

#[test]
fn deep_nesting_is_skipped_or_refused_but_never_overflows() {
    #[track_caller]
    fn check(field: &str, open: &str, close: &str, understood: bool) {
        const DEPTH: usize = 10_000;
        let (open, close) = (open.repeat(DEPTH), close.repeat(DEPTH));
        let record =
            format!(r#"{{"{field}": {open}1{close}, "agent_name": "a", "status": "success"}}"#);
        match parse(record) {
            Ok(outcome) => assert!(understood && outcome.context.is_empty()),
            Err(refusal) => {
                assert!(!understood && refusal.code == RefusalCode::NotJson, "{field}: {refusal}");
            }
        }
    }
    // What is not looked into may be as deep as it likes.
    for field in ["output", "context", "context_snapshot", "metadata", "resolved", "status_x"] {
        check(field, "[", "]", true);
    }
    check("output", r#"{"a":"#, "}", true);
    check("metadata", r#"{"a":"#, "}", true);
    check("context", r#"{"a":"#, "}", false);
    check("data", r#"{"data":"#, "}", true);
    let data = format!(r#"{{"context": {}1{}}}"#, r#"{"a":"#.repeat(200), "}".repeat(200));
    let enveloped = parse(format!(r#"{{"specversion": "1.0", "data": {data}}}"#));
    assert_eq!(enveloped.unwrap_err().code, RefusalCode::NotJson);
    assert_eq!(parse("[".repeat(10_000)).unwrap_err().code, RefusalCode::NotJson);
}

#[test]
fn what_was_resolved_beats_every_other_source() {
    #[track_caller]
    fn check(sent: &Value, resolved: &Value, expected: (&str, Option<&str>, &[&str], bool)) {
        let mut fields = sent.clone();
        fields["resolved"] = resolved.clone();
        let outcome = outcome(&fields);
        let keys: Vec<&str> = outcome.context.iter().map(|(key, _)| key.as_str()).collect();
        let seen = (&*outcome.tenant, outcome.task_type.as_deref(), &*keys, outcome.resolved);
        assert_eq!(seen, expected, "{resolved}");
    }
    let sent = json!({
        "tenant_id": "t", "task_type": "own", "context": {"own": 1}, "decision_id": "d",
        "metadata": {"tenant_id": "m", "task_type": "m"}
    });
    check(
        &sent,
        &json!({"tenant_id": "r", "task_type": "theirs", "context": {"theirs": 1}}),
        ("r", Some("theirs"), &["theirs"], true),
    );
    check(
        &sent,
        &json!({"tenant_id": "r", "task_type": null, "context": null}),
        ("r", None, &[], true),
    );
    // No decision was found: only the tenant is settled.
    check(&sent, &json!({"tenant_id": "r"}), ("r", Some("own"), &["own"], false));
    check(&sent, &json!(null), ("t", Some("own"), &["own"], false));
    check(&sent, &json!([1]), ("t", Some("own"), &["own"], false));
    // Writing it twice changes nothing.
    let identity = |fields: &Value| outcome(fields).identity;
    let mut resolved = sent.clone();
    resolved["resolved"] = json!({"tenant_id": "t", "task_type": "x", "context": {}});
    assert_eq!(identity(&sent), identity(&resolved));
}

#[test]
fn times_are_read_with_and_without_zone() {
    #[track_caller]
    fn check(timestamp: &Value, time_ms: i64, dropped: &[&str]) {
        let outcome = outcome(&json!({"timestamp": timestamp}));
        assert_eq!((outcome.time_ms, &*outcome.dropped), (time_ms, dropped), "{timestamp}");
    }
    const NINE: i64 = 1_793_610_000_000;
    check(&json!("2026-11-02T09:00:00"), NINE, &[]);
    check(&json!("2026-11-02T09:00:00Z"), NINE, &[]);
    check(&json!("2026-11-02T10:00:00+01:00"), NINE, &[]);
    check(&json!("2026-11-02T00:30:00-08:30"), NINE, &[]);
    check(&json!("2026-11-02 09:00:00.123456789"), NINE + 123, &[]);
    check(&json!("1969-12-31T23:59:59.5"), -500, &[]);
    check(&json!(null), NOW_MS, &[]);
    for same in [
        "2026-11-02T09:00Z",
        "2026-11-02t09:00:00z",
        " 2026-11-02 09:00:00 ",
        "2026-11-02 09:00:00Z",
        "2026-11-02 09:00:00 UTC",
        "2026-11-02 09:00:00 GMT",
        "2026-11-02 09:00:00 Z",
        "2026-11-02 10:00:00 +0100",
        "2026-11-02 10:00:00 +01:00",
        "2026-11-02T10:00:00+0100",
        "2026-11-02T10:00:00+01",
        "2026-11-02T10:00:00+01:00[Europe/Berlin]",
        "2026-11-02T09:00:00.000000+0000",
        "20261102T090000Z",
        "Mon, 02 Nov 2026 09:00:00 +0000",
        "Mon, 2 Nov 2026 10:00:00 +0100",
        "Mon, 02 Nov 2026 09:00:00 GMT",
        "Mon, 02 Nov 2026 09:00:00 UTC",
        "Tue, 02 Nov 2026 09:00:00 GMT",
        "2 Nov 2026 09:00:00 GMT",
        "1793610000",
        " 1793610000 ",
        "1793610000.0",
        "1793610000000",
        "1793610000000000",
        "1793610000000000000",
    ] {
        check(&json!(same), NINE, &[]);
    }
    check(&json!("2026-11-02 09:00:00,123"), NINE + 123, &[]);
    check(&json!("2026-11-02"), NINE - 9 * 3_600_000, &[]);
    check(&json!(1_793_610_000), NINE, &[]);
    check(&json!(1_793_610_000.25), NINE + 250, &[]);
    check(&json!(NINE + 7), NINE + 7, &[]);
    check(&json!(1_793_610_000_007_900_u64), NINE + 8, &[]);
    check(&json!(1_793_610_000_007_000_000_u64), NINE + 7, &[]);
    check(&json!(-1.5), -1_500, &[]);
    check(&json!(99_999_999_999_u64), 99_999_999_999_000, &[]);
    check(&json!(100_000_000_000_u64), 100_000_000_000, &[]);
    check(&json!(" "), NOW_MS, &[]);
    assert_eq!(format_time(NINE + 7), "2026-11-02T09:00:00.007+00:00");
    assert_eq!(parse_time_ms(&format_time(-1)), Some(-1));
}

#[test]
fn an_unreadable_time_is_dropped_and_belongs_to_no_period() {
    for timestamp in [
        json!("yesterday"),
        json!("2026-13-02T09:00:00"),
        json!("05/01/2026 10:00"),
        json!("nan"),
        json!("inf"),
        json!("1e40"),
        json!(1e40),
        json!(0),
        json!("0"),
        json!(true),
        json!([1_793_610_000]),
        json!("\u{0}"),
        json!("é".repeat(10_000)),
    ] {
        let outcome = outcome(&json!({"timestamp": timestamp}));
        assert_eq!((outcome.time_ms, outcome.undated), (NOW_MS, true), "{timestamp}");
        assert_eq!(outcome.dropped, ["timestamp"], "{timestamp}");
    }
    assert!(!outcome(&json!({})).undated, "one that says nothing is of its arrival");
}

#[test]
fn the_time_of_an_envelope_stands_in_for_that_of_its_event() {
    const NINE: i64 = 1_793_610_000_000;
    #[track_caller]
    fn check(time: &Value, timestamp: &Value, expected: (i64, bool), dropped: &[&str]) {
        let record = json!({
            "specversion": "1.0", "id": "1", "source": "/s", "time": time,
            "data": {"agent_name": "a", "status": "success", "timestamp": timestamp}
        });
        let outcome = parse(record.to_string()).unwrap();
        assert_eq!((outcome.time_ms, outcome.undated), expected, "{record}");
        assert_eq!(outcome.dropped, dropped, "{record}");
    }
    let (time, timestamp) = (json!("2026-11-02T09:00:00Z"), json!("2026-11-02T09:00:01Z"));
    check(&time, &json!(null), (NINE, false), &[]);
    check(&time, &timestamp, (NINE + 1_000, false), &[]);
    check(&time, &json!("soon"), (NINE, false), &["timestamp"]);
    check(&json!("soon"), &json!(null), (NOW_MS, true), &["time"]);
    check(&json!(null), &json!(null), (NOW_MS, false), &[]);
    // Without an envelope it is no field of an event.
    assert_eq!(outcome(&json!({"time": "2026-11-02T09:00:00Z"})).time_ms, NOW_MS);
}

#[test]
fn unknown_fields_and_odd_ones_are_ignored() {
    let plain = outcome(&json!({}));
    let newer = outcome(&json!({
        "severity": "apocalyptic", "retry_count": "many", "new": {"a": [1, {"b": null}]},
        "tags": 5, "metadata": "none", "specversion": 3, "data": "no object", "source": [], "": 1
    }));
    assert_eq!(plain, newer);
}

#[test]
fn a_null_that_comes_again_unsets_nothing() {
    let parsed = parse(
        r#"{"agent_name": "a", "status": "failure", "status": "success", "agent_name": null}"#,
    )
    .unwrap();
    assert_eq!((&*parsed.agent, parsed.status), ("a", Status::Success));
}

#[test]
fn a_payload_is_its_part_of_the_body() {
    let body: Arc<dyn AsRef<[u8]> + Send + Sync> = Arc::new(b"one\ntwo".to_vec());
    assert_eq!(Payload::new(body.clone(), 4..7).bytes(), b"two");
    assert_eq!(Payload::new(body.clone(), 4..8).bytes(), b"", "outside is empty, not a panic");
    assert_eq!(format!("{:?}", Payload::new(body, 0..3)), "Payload(3 bytes)");
}

/// Whatever comes in, an outcome keeps its promises.
fn assert_in_bounds(outcome: &Outcome) {
    let name = |name: &str| (1..=NAME_BYTES_MAX).contains(&name.len());
    assert!(name(&outcome.tenant) && name(&outcome.agent));
    assert!(outcome.task_type.as_deref().is_none_or(name));
    assert!(outcome.decision.as_ref().is_none_or(|decision| name(decision.id())));
    assert!(outcome.latency_ms.is_none_or(|ms| (0.0..=1e12).contains(&ms)));
    assert!(outcome.cost.is_none_or(|cost| (0.0..=1e12).contains(&cost)));
    assert!(outcome.quality.is_none_or(|quality| (0.0..=1.0).contains(&quality)));
    assert!(outcome.context.len() <= FEATURES_MAX);
    assert!(outcome.context.is_sorted_by(|a, b| a.0 < b.0));
    for (key, value) in &outcome.context {
        assert!(name(key));
        assert!(match value {
            Feature::Text(text) => name(text),
            Feature::Number(number) => number.is_finite(),
            Feature::Bool(_) => true,
        });
    }
}

/// JSON text, `NaN` included, made of the keys and values that parsing looks at.
fn any_json() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        prop::sample::select(vec![
            "event_id",
            "run_id",
            "agent_name",
            "agent_type",
            "action_type",
            "task_type",
            "tenant_id",
            "timestamp",
            "status",
            "duration_ms",
            "latency_ms",
            "cost_estimate",
            "cost",
            "quality_score",
            "decision_id",
            "correlation_id",
            "context",
            "context_snapshot",
            "metadata",
            "resolved",
            "specversion",
            "source",
            "id",
            "data",
        ])
        .prop_map(str::to_owned),
        ".{0,3}",
    ];
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("NaN".to_owned()),
        Just("-Infinity".to_owned()),
        Just(r#""success""#.to_owned()),
        Just(r#""1e308""#.to_owned()),
        Just(format!("\"{}\"", "x".repeat(257))),
        any::<bool>().prop_map(|value| value.to_string()),
        any::<i64>().prop_map(|value| value.to_string()),
        any::<f64>().prop_filter_map("JSON", |value| {
            value.is_finite().then(|| json!(value).to_string())
        }),
        ".{0,4}".prop_map(|value| json!(value).to_string()),
    ];
    leaf.prop_recursive(4, 64, 8, move |inner| {
        let object = prop::collection::vec((key.clone(), inner.clone()), 0..8).prop_map(|fields| {
            let mut text = String::from("{\"agent_name\":\"a\",\"status\":\"partial\"");
            for (key, value) in fields {
                write!(text, ",{}:{value}", json!(key)).unwrap();
            }
            text + "}"
        });
        let array =
            prop::collection::vec(inner, 0..4).prop_map(|values| format!("[{}]", values.join(",")));
        prop_oneof![4 => object, 1 => array]
    })
}

fn any_outcome() -> impl Strategy<Value = Outcome> {
    let amount = || prop::option::of(0.0..=1e12);
    let feature = prop_oneof![
        ".{1,8}".prop_map(Feature::Text),
        any::<bool>().prop_map(Feature::Bool),
        prop::num::f64::NORMAL.prop_map(Feature::Number),
    ];
    let decision = prop_oneof![
        ".{1,8}".prop_map(DecisionRef::Explicit),
        ".{1,8}".prop_map(DecisionRef::Correlation),
    ];
    (
        (".{1,8}", ".{1,8}", prop::option::of(".{1,8}"), prop::sample::select(&Status::ALL[..])),
        prop::collection::vec((".{1,8}", feature), 0..4),
        (amount(), prop::option::of(0.0..=1.0), amount(), any::<i64>()),
        prop::option::of(decision),
    )
        .prop_map(|((tenant, agent, task_type, status), context, amounts, decision)| {
            let (latency_ms, quality, cost, time_ms) = amounts;
            let base = Outcome::new(agent, status);
            Outcome {
                content: ContentKey::default(),
                tenant,
                task_type,
                context,
                latency_ms,
                quality,
                cost,
                time_ms,
                decision,
                ..base
            }
        })
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_an_outcome_or_a_refusal(record in any::<Vec<u8>>()) {
        let _ = parse(&record);
    }

    #[test]
    fn arbitrary_json_ends_in_bounds(record in any_json()) {
        if let Ok(outcome) = parse(&record) {
            assert_in_bounds(&outcome);
            prop_assert_eq!(Ok(outcome), parse(&record), "a function of the record");
        }
    }

    #[test]
    fn what_is_journaled_is_read_back(outcomes in prop::collection::vec(any_outcome(), 0..4)) {
        let bytes = postcard::to_stdvec(&outcomes).unwrap();
        prop_assert_eq!(postcard::from_bytes::<Vec<Outcome>>(&bytes).unwrap(), outcomes);
    }
}

//! The REST API, call by call: shapes, numbers, refusals.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::Deref;

use serde_json::{Value, json};

use super::harness::{Answer, SOON, Service, Setup, eventually, without_decisions};

const PREDICT: &str = "/api/learning/predict/agent-selection";
const OUTCOMES: &str = "/api/learning/outcomes";
const WAITING: &str = "/api/learning/outcomes?wait=true";
const METRICS: &str = "/api/learning/metrics";
const PERFORMANCE: &str = "/api/learning/agents/performance";
const STATUS: &str = "/api/learning/status";
const SAVE: &str = "/api/learning/models/save";
const MODEL: &str = "/api/learning/models/agent_selection";
const VERSIONS: &str = "/api/learning/models/agent_selection/versions";
const EVENTS: &str = "/api/learning/events";
const DEAD_LETTERS: &str = "/api/learning/dead-letters";
const REPLAY: &str = "/api/learning/dead-letters/replay";
const JSON: &str = "application/json";
const ND_JSON: &str = "application/x-ndjson";

/// A service and its state directory, which goes with it.
struct Running {
    service: Service,
    setup: Setup,
    directory: tempfile::TempDir,
}

impl Deref for Running {
    type Target = Service;

    fn deref(&self) -> &Service {
        &self.service
    }
}

/// A service with these settings and nothing learned.
#[track_caller]
fn started(settings: &[(&str, &str)]) -> Running {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let setup = settings
        .iter()
        .fold(Setup::new(directory.path()), |setup, (name, value)| setup.with(name, value));
    Running { service: setup.start(), setup, directory }
}

impl Running {
    /// Stops in good order and starts again with these settings on top.
    #[track_caller]
    fn restarted(self, settings: &[(&str, &str)]) -> Self {
        let Self { service, setup, directory } = self;
        service.stop();
        let setup = settings.iter().fold(setup, |setup, (name, value)| setup.with(name, value));
        Self { service: setup.start(), setup, directory }
    }

    #[track_caller]
    fn ask(&self, body: &Value) -> Value {
        let answer = self.post_json(PREDICT, body);
        assert_eq!(answer.status, 200, "{body}: {answer:?}");
        answer.json()
    }

    #[track_caller]
    fn read(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some(JSON), "{path}");
        answer.json()
    }

    /// The rows of the performance list by agent; `query` may begin with `?`.
    #[track_caller]
    fn performance(&self, query: &str) -> BTreeMap<String, Value> {
        let rows = self.read(&format!("{PERFORMANCE}{query}"));
        let rows = rows.as_array().expect("the list is a bare array");
        rows.iter().map(|row| (text(&row["agent_name"]), row.clone())).collect()
    }

    /// Sends lines of which none is accepted.
    #[track_caller]
    fn refuse(&self, lines: &str) -> Value {
        let answer = self.post(OUTCOMES, ND_JSON, lines);
        assert_eq!(answer.status, 422, "{answer:?}");
        answer.json()
    }

    /// What was learned of each agent.
    fn learned(&self) -> Value {
        without_decisions(self.read(PERFORMANCE))
    }

    #[track_caller]
    fn list(&self, path: &str, name: &str) -> Vec<Value> {
        self.read(&format!("{path}?limit=1000"))[name].as_array().expect("it is a list").clone()
    }

    #[track_caller]
    fn dead_letters(&self) -> Vec<Value> {
        self.list(DEAD_LETTERS, "dead_letters")
    }

    /// Outcomes counted, of all agents of a tenant.
    #[track_caller]
    fn executions(&self, tenant: &str) -> u64 {
        let rows = self.performance(&format!("?tenant_id={tenant}"));
        rows.values().map(|row| whole(&row["total_executions"])).sum()
    }

    #[track_caller]
    fn save(&self) -> String {
        let answer = self.post(SAVE, JSON, "");
        assert_eq!(answer.status, 200, "{answer:?}");
        text(&answer.json()["version_id"])
    }

    #[track_caller]
    fn activate(&self, version: &str) -> Answer {
        self.post(&format!("{VERSIONS}/{version}/activate"), JSON, "")
    }
}

#[track_caller]
fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a string")).to_owned()
}

#[track_caller]
fn whole(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is not a whole number"))
}

#[track_caller]
fn real(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

#[track_caller]
fn close(seen: &Value, expected: f64) {
    assert!((real(seen) - expected).abs() < 1e-9, "{seen} is not {expected}");
}

#[track_caller]
fn recommended(answer: &Value) -> &Vec<Value> {
    answer["recommendations"].as_array().expect("it is an array")
}

fn names(answer: &Value) -> Vec<String> {
    recommended(answer).iter().map(|row| text(&row["agent_name"])).collect()
}

fn the_agent<'a>(answer: &'a Value, agent: &str) -> &'a Value {
    let found = recommended(answer).iter().find(|row| row["agent_name"] == agent);
    found.unwrap_or_else(|| panic!("{agent} is not in {answer}"))
}

/// `count` events without an identity, so that each counts.
fn outcomes(count: usize, agent: &str, task_type: &str, status: &str) -> String {
    let event = json!({"agent_name": agent, "task_type": task_type, "status": status});
    format!("{event}\n").repeat(count)
}

/// Four agents on one task type, far apart.
fn four_agents() -> String {
    [("amy", 9), ("bob", 7), ("cid", 4), ("dan", 1)].iter().fold(
        String::new(),
        |lines, (name, of)| {
            lines + &outcomes(*of, name, "t", "success") + &outcomes(10 - of, name, "t", "failure")
        },
    )
}

/// What a value of an answer has to be.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    Time,
    Whole,
    Number,
    Flag,
    Array,
    Object,
}

impl Kind {
    fn holds(self, value: &Value) -> bool {
        match self {
            Self::Text => value.is_string(),
            Self::Time => value.as_str().is_some_and(is_time),
            Self::Whole => value.is_u64(),
            Self::Number => value.is_number(),
            Self::Flag => value.is_boolean(),
            Self::Array => value.is_array(),
            Self::Object => value.is_object(),
        }
    }
}

/// RFC 3339 with a numeric offset of UTC.
fn is_time(text: &str) -> bool {
    text.len() >= 25
        && text.ends_with("+00:00")
        && text.as_bytes()[10] == b'T'
        && text[..10].split('-').map(str::len).eq([4, 2, 2])
}

#[track_caller]
fn check_shape(value: &Value, shape: &[(&str, Kind)]) {
    assert!(value.is_object(), "{value} is not an object");
    for (key, kind) in shape {
        let field = value.get(key).unwrap_or_else(|| panic!("{key} is missing in {value}"));
        assert!(kind.holds(field), "{key} is {field}, which is not {kind:?}");
    }
}

const RECOMMENDATION: [(&str, Kind); 3] =
    [("agent_name", Kind::Text), ("score", Kind::Number), ("rank", Kind::Whole)];
const PREDICTION: [(&str, Kind); 6] = [
    ("recommendations", Kind::Array),
    ("model_score", Kind::Number),
    ("timestamp", Kind::Time),
    ("decision_id", Kind::Text),
    ("model_version", Kind::Whole),
    ("strategy", Kind::Text),
];
const METRIC: [(&str, Kind); 8] = [
    ("total_updates", Kind::Whole),
    ("successful_updates", Kind::Whole),
    ("failed_updates", Kind::Whole),
    ("avg_update_time_ms", Kind::Number),
    ("samples_processed", Kind::Whole),
    ("current_model_score", Kind::Number),
    ("improvement_rate", Kind::Number),
    ("updates_per_minute", Kind::Number),
];
const AGENT: [(&str, Kind); 6] = [
    ("agent_name", Kind::Text),
    ("success_rate", Kind::Number),
    ("avg_latency_ms", Kind::Number),
    ("total_executions", Kind::Whole),
    ("alpha", Kind::Number),
    ("beta", Kind::Number),
];

#[test]
fn the_given_answers_have_the_given_keys_and_types() {
    let service = started(&[]);
    for learned in [false, true] {
        if learned {
            service.learn(&four_agents());
        }
        let answer = service.ask(&json!({
            "task_type": "t", "context": {"complexity": "high", "domain": "financial"}, "top_k": 3,
        }));
        check_shape(&answer, &PREDICTION);
        for row in recommended(&answer) {
            check_shape(row, &RECOMMENDATION);
            check_shape(
                row,
                &[
                    ("expected_success", Kind::Number),
                    ("interval", Kind::Array),
                    ("samples", Kind::Whole),
                    ("propensity", Kind::Number),
                    ("evidence", Kind::Text),
                ],
            );
        }
        check_shape(&service.read(METRICS), &METRIC);
        let performance = service.read(PERFORMANCE);
        let rows = performance.as_array().expect("a bare array");
        assert_eq!(rows.len(), if learned { 4 } else { 0 });
        for row in rows {
            check_shape(row, &AGENT);
        }

        let status = service.read(STATUS);
        check_shape(
            &status,
            &[
                ("status", Kind::Text),
                ("running", Kind::Flag),
                ("kafka_topic", Kind::Text),
                ("batch_size", Kind::Whole),
                ("models_loaded", Kind::Array),
                ("source", Kind::Text),
                ("version", Kind::Text),
            ],
        );
        assert_eq!(status["status"], "running");
        assert_eq!(status["running"], true);
        assert_eq!(status["kafka_topic"], "agent-outcomes");
        assert_eq!(status["batch_size"], 10);
        assert_eq!(status["models_loaded"][0], "agent_selection");

        let model = service.read(MODEL);
        check_shape(
            &model,
            &[
                ("model_type", Kind::Text),
                ("update_count", Kind::Whole),
                ("performance_summary", Kind::Object),
                ("learned_sequence", Kind::Whole),
                ("digest", Kind::Text),
            ],
        );
        assert_eq!(model["model_type"], "agent_selection");
        let last_update = &model["last_update"];
        assert!(if learned { Kind::Time.holds(last_update) } else { last_update.is_null() });
        check_shape(
            &model["performance_summary"],
            &[("total_agents", Kind::Whole), ("task_patterns", Kind::Whole)],
        );
        let expected = if learned { (4, 1) } else { (0, 0) };
        let summary = &model["performance_summary"];
        assert_eq!((whole(&summary["total_agents"]), whole(&summary["task_patterns"])), expected);
        let digest = text(&model["digest"]);
        assert!(digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()));

        let saved = service.post(SAVE, JSON, "");
        assert_eq!(saved.status, 200, "{saved:?}");
        let saved = saved.json();
        check_shape(&saved, &[("message", Kind::Text), ("version_id", Kind::Text)]);
        assert_eq!(saved["status"], "success");
    }
}

#[test]
fn settings_show_in_the_status() {
    let service = started(&[("MODEL_BATCH_SIZE", "25"), ("KAFKA_OUTCOME_TOPIC", "another-topic")]);
    let status = service.read(STATUS);
    assert_eq!(status["batch_size"], 25);
    assert_eq!(status["kafka_topic"], "another-topic");
}

#[test]
fn recommendations_are_ranked_best_first_and_three_unless_asked_otherwise() {
    let service = started(&[]);
    service.learn(&four_agents());
    let check = |top_k: Value, expected: usize| {
        let answer = service.ask(&json!({"task_type": "t", "top_k": top_k}));
        let rows = recommended(&answer);
        assert_eq!(rows.len(), expected, "top_k {top_k}");
        for (place, row) in rows.iter().enumerate() {
            assert_eq!(row["rank"], place + 1);
            assert!((0.0..=1.0).contains(&real(&row["score"])), "{row}");
        }
        assert!(rows.windows(2).all(|two| real(&two[0]["score"]) >= real(&two[1]["score"])));
    };
    check(Value::Null, 3);
    check(json!(1), 1);
    check(json!(4), 4);
    check(json!(1_000), 4);
    // Nothing but the agents' record is needed to be answered.
    assert_eq!(recommended(&service.post(PREDICT, JSON, "").json()).len(), 3);
    assert_eq!(recommended(&service.ask(&json!({}))).len(), 3);
}

#[test]
fn candidates_and_exclusions_decide_who_competes() {
    let service = started(&[]);
    service.learn(&four_agents());
    let check = |candidates: Value, exclude: Value, expected: &[&str]| {
        let request = json!({
            "task_type": "t", "top_k": 100, "explore": false,
            "candidates": candidates, "exclude": exclude,
        });
        assert_eq!(names(&service.ask(&request)), expected, "{request}");
    };
    check(Value::Null, Value::Null, &["amy", "bob", "cid", "dan"]);
    check(json!(["dan", "amy"]), Value::Null, &["amy", "dan"]);
    check(json!(["dan", "dan", "amy", "dan"]), json!([]), &["amy", "dan"]);
    check(json!(["new"]), Value::Null, &["new"]);
    check(Value::Null, json!(["amy", "nobody"]), &["bob", "cid", "dan"]);
    check(json!(["amy", "bob"]), json!(["amy"]), &["bob"]);
    // Nobody is left, but nobody was named either.
    check(Value::Null, json!(["amy", "bob", "cid", "dan"]), &[]);

    for (candidates, exclude) in
        [(json!(["amy"]), json!(["amy"])), (json!(["n", "n"]), json!(["n"]))]
    {
        let answer =
            service.post_json(PREDICT, &json!({"candidates": candidates, "exclude": exclude}));
        check_problem(&answer, 422);
    }
    let answer = service.ask(&json!({"candidates": ["amy", "new"], "task_type": "t"}));
    let new = the_agent(&answer, "new");
    assert_eq!((&new["samples"], &new["evidence"]), (&json!(0), &json!("insufficient")));
    assert_eq!(the_agent(&answer, "amy")["samples"], 10);
}

#[test]
fn nobody_known_is_an_empty_answer_and_a_candidate_competes_from_its_prior() {
    let service = started(&[]);
    let answer = service.ask(&json!({"task_type": "t"}));
    assert!(recommended(&answer).is_empty(), "{answer}");
    close(&answer["model_score"], 0.0);
    assert_eq!(answer["model_version"], 0);
    let answer = service.ask(&json!({"candidates": ["x"], "explore": false}));
    // Nothing is known of it, nor of any other of the tenant's agents: even odds, and hardly a bound.
    let x = the_agent(&answer, "x");
    close(&x["expected_success"], 0.5);
    let [low, high] = [&x["interval"][0], &x["interval"][1]].map(real);
    assert!(low < 0.01 && high > 0.99, "{answer}");
}

#[test]
fn without_exploration_the_rank_is_by_expected_success_and_ties_by_name() {
    let service = started(&[]);
    service.learn(&four_agents());
    let request = json!({"task_type": "t", "explore": false, "top_k": 10});
    let answer = service.ask(&request);
    assert_eq!(names(&answer), ["amy", "bob", "cid", "dan"]);
    for row in recommended(&answer) {
        assert_eq!(row["score"], row["expected_success"]);
        close(&row["propensity"], if row["rank"] == 1 { 1.0 } else { 0.0 });
    }
    for _ in 0..5 {
        assert_eq!(service.ask(&request)["recommendations"], answer["recommendations"]);
    }
    let tied =
        service.ask(&json!({"candidates": ["z", "m", "é", "a"], "explore": false, "top_k": 4}));
    assert_eq!(names(&tied), ["a", "m", "z", "é"]);
    let shares: Vec<f64> = recommended(&tied).iter().map(|row| real(&row["propensity"])).collect();
    assert_eq!(shares, [1.0, 0.0, 0.0, 0.0]);
}

#[test]
fn a_seed_repeats_the_draw_and_another_one_changes_it() {
    let service = started(&[]);
    service.learn(&four_agents());
    let draw = |seed: u64| {
        let answer = service.ask(&json!({"task_type": "t", "seed": seed}));
        answer["recommendations"].clone()
    };
    assert_eq!(draw(7), draw(7));
    assert_eq!(draw(u64::MAX), draw(u64::MAX));
    let scores: BTreeSet<String> = (0..20).map(|seed| draw(seed)[0]["score"].to_string()).collect();
    // A draw is its mean when it would be below.
    assert!(scores.len() >= 10, "every seed has a draw of its own: {scores:?}");
    let unseeded: BTreeSet<String> = (0..40)
        .map(|_| service.ask(&json!({"task_type": "t"}))["recommendations"][0]["score"].to_string())
        .collect();
    assert!(unseeded.len() > 5, "without a seed every request has a draw of its own");
}

#[test]
fn a_decision_id_given_again_repeats_the_whole_answer() {
    let service = started(&[]);
    service.learn(&four_agents());
    let request = json!({"task_type": "t", "decision_id": "d-1", "context": {"a": 1}});
    let first = service.post_json(PREDICT, &request);
    assert_eq!(first.json()["decision_id"], "d-1");
    service.learn(&four_agents());
    let again = service.post_json(PREDICT, &request);
    assert_eq!((again.status, &again.body), (200, &first.body), "although it has learned since");

    let mut other = request.clone();
    other["task_type"] = "u".into();
    check_problem(&service.post_json(PREDICT, &other), 409);
    other = request.clone();
    other["context"]["a"] = 2.into();
    check_problem(&service.post_json(PREDICT, &other), 409);
    other = request.clone();
    other["tenant_id"] = "another".into();
    let elsewhere = service.post_json(PREDICT, &other);
    assert_eq!(elsewhere.status, 200, "{elsewhere:?}");
    assert!(recommended(&elsewhere.json()).is_empty());
    assert_eq!(service.post_json(PREDICT, &request).body, first.body);
}

#[test]
fn generated_decision_ids_are_uuids_of_version_7_and_never_twice_the_same() {
    let service = started(&[]);
    let ids: BTreeSet<String> =
        (0..20).map(|_| text(&service.ask(&json!({}))["decision_id"])).collect();
    assert_eq!(ids.len(), 20);
    for id in ids {
        let parts: Vec<&str> = id.split('-').collect();
        assert!(parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12]), "{id}");
        assert!(parts[2].starts_with('7') && parts[3].starts_with(['8', '9', 'a', 'b']), "{id}");
    }
}

#[test]
fn an_explanation_is_given_when_asked_for() {
    let service = started(&[]);
    service.learn(&four_agents());
    let answer =
        service.ask(&json!({"task_type": "t", "candidates": ["amy", "new"], "explain": true}));
    for row in recommended(&answer) {
        check_shape(row, &[("explanation", Kind::Object)]);
    }
    let answer = service.ask(&json!({"task_type": "t", "explain": false}));
    assert!(recommended(&answer).iter().all(|row| row.get("explanation").is_none()));
}

#[test]
fn unknown_task_types_and_contexts_are_no_error() {
    let service = started(&[]);
    service.learn(&four_agents());
    for request in [
        json!({"task_type": "never seen"}),
        json!({"task_type": null, "context": null, "top_k": null, "seed": null}),
        json!({"context": {"k": "v", "list": [1], "nothing": null, "deep": {"er": true}}}),
        json!({"tenant_id": "default"}),
    ] {
        assert_eq!(names(&service.ask(&request)).len(), 3, "{request}");
    }
    let answer = service.ask(&json!({"task_type": "never seen", "top_k": 4}));
    for row in recommended(&answer) {
        assert_eq!((&row["samples"], &row["evidence"]), (&json!(10), &json!("insufficient")));
    }
}

#[test]
fn propensities_sum_to_one_and_follow_the_draws() {
    let service = started(&[]);
    service.learn(&four_agents());
    let request =
        json!({"task_type": "t", "top_k": 10, "candidates": ["amy", "bob", "dan", "new"]});
    let answer = service.ask(&request);
    let sum: f64 = recommended(&answer).iter().map(|row| real(&row["propensity"])).sum();
    assert!((sum - 1.0).abs() < 1e-6, "{sum}");
    for row in recommended(&answer) {
        let interval = row["interval"].as_array().expect("it is an array");
        let (low, high) = (real(&interval[0]), real(&interval[1]));
        let mean = real(&row["expected_success"]);
        assert_eq!(interval.len(), 2);
        assert!(0.0 <= low && low < mean && mean < high && high <= 1.0, "{row}");
    }
    // Of 600 draws, the share won by an agent is within 5 standard errors (0.0204 at most) and
    // the 0.01 that propensities are good for. The seeds are fixed, so this can't flicker.
    let mut won: BTreeMap<String, u32> = BTreeMap::new();
    for seed in 0..600 {
        let mut request = request.clone();
        request["seed"] = seed.into();
        *won.entry(names(&service.ask(&request))[0].clone()).or_default() += 1;
    }
    for row in recommended(&answer) {
        let wins = won.get(&text(&row["agent_name"])).copied().unwrap_or(0);
        let share = f64::from(wins) / 600.0;
        assert!((share - real(&row["propensity"])).abs() < 0.112, "{row}: {share}");
    }
}

#[test]
fn evidence_is_of_the_task_type_and_samples_of_the_agent() {
    let service = started(&[]);
    let mut learned = 0;
    for (total, expected) in [
        (1, "insufficient"),
        (4, "insufficient"),
        (5, "emerging"),
        (29, "emerging"),
        (30, "established"),
    ] {
        service.learn(&outcomes(total - learned, "amy", "t", "success"));
        learned = total;
        let answer = service.ask(&json!({"task_type": "t"}));
        let row = the_agent(&answer, "amy");
        assert_eq!((whole(&row["samples"]), &row["evidence"]), (total as u64, &json!(expected)));
    }
    service.learn(&outcomes(30, "amy", "t", "cancelled"));
    let answer = service.ask(&json!({"task_type": "u"}));
    let row = the_agent(&answer, "amy");
    assert_eq!((&row["samples"], &row["evidence"]), (&json!(30), &json!("insufficient")));
}

#[test]
fn the_model_version_counts_the_journal_and_survives_a_restart() {
    let service = started(&[("MODEL_BATCH_SIZE", "3")]);
    let version = |service: &Running| whole(&service.ask(&json!({}))["model_version"]);
    assert_eq!(version(&service), 0);
    service.learn(&outcomes(5, "amy", "t", "success"));
    assert_eq!(version(&service), 5);
    service.learn(&outcomes(2, "amy", "t", "pending"));
    assert_eq!(version(&service), 7);
    let service = service.restarted(&[]);
    assert_eq!(version(&service), 7);
    service.learn(&outcomes(1, "amy", "t", "success"));
    assert_eq!(version(&service), 8);
}

#[test]
fn tenants_have_a_model_each() {
    let service = started(&[]);
    let event = |tenant: &str, agent: &str| {
        format!("{}\n", json!({"tenant_id": tenant, "agent_name": agent, "status": "success"}))
    };
    let inside =
        json!({"metadata": {"tenant_id": "red"}, "agent_name": "amy", "status": "failure"});
    let own = json!({"agent_name": "dot", "status": "success"});
    service.learn(&format!("{}{}{inside}\n{own}", event("red", "amy"), event("blue", "bob")));
    for (tenant, expected) in [("red", "amy"), ("blue", "bob"), ("default", "dot")] {
        assert_eq!(names(&service.ask(&json!({"tenant_id": tenant}))), [expected]);
        let rows = service.performance(&format!("?tenant_id={tenant}"));
        assert_eq!(rows.into_keys().collect::<Vec<_>>(), [expected]);
    }
    assert!(service.performance("?tenant_id=green").is_empty());
    assert!(service.performance("").contains_key("dot"));
    assert_eq!(service.performance("?tenant_id=red")["amy"]["total_executions"], 2);
    assert_eq!(service.read(METRICS)["samples_processed"], 4, "metrics cover all tenants");
    close(&service.read(METRICS)["current_model_score"], 0.75);
}

#[track_caller]
fn check_problem(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    let problem = answer.json();
    let shape = [
        ("type", Kind::Text),
        ("title", Kind::Text),
        ("status", Kind::Whole),
        ("detail", Kind::Text),
    ];
    check_shape(&problem, &shape);
    assert_eq!(problem["status"], status);
    assert!(!text(&problem["detail"]).is_empty());
}

#[track_caller]
fn check_field(answer: &Answer, pointer: &str) {
    check_problem(answer, 422);
    let problem = answer.json();
    assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    check_shape(&problem["errors"][0], &[("detail", Kind::Text)]);
}

#[test]
fn a_wrong_field_of_a_prediction_is_named() {
    let service = started(&[]);
    let long = "x".repeat(257);
    for (body, pointer) in [
        (json!({"task_type": 7}), "/task_type"),
        (json!({"task_type": ""}), "/task_type"),
        (json!({"task_type": long}), "/task_type"),
        (json!({"context": "high"}), "/context"),
        (json!({"context": [1]}), "/context"),
        (json!({"top_k": 0}), "/top_k"),
        (json!({"top_k": -1}), "/top_k"),
        (json!({"top_k": 1.5}), "/top_k"),
        (json!({"top_k": "3"}), "/top_k"),
        (json!({"candidates": "amy"}), "/candidates"),
        (json!({"candidates": {"amy": 1}}), "/candidates"),
        (json!({"candidates": ["amy", 3.5]}), "/candidates/1"),
        (json!({"candidates": ["amy", " "]}), "/candidates/1"),
        (json!({"task_type": "\u{a0}"}), "/task_type"),
        (json!({"candidate": ["amy"]}), "/candidate"),
        (json!({"candidates": [""]}), "/candidates/0"),
        (json!({"candidates": []}), "/candidates"),
        (json!({"exclude": 1}), "/exclude"),
        (json!({"exclude": [null]}), "/exclude/0"),
        (json!({"tenant_id": ""}), "/tenant_id"),
        (json!({"tenant_id": {}}), "/tenant_id"),
        (json!({"explore": "yes"}), "/explore"),
        (json!({"explore": 1}), "/explore"),
        (json!({"seed": -1}), "/seed"),
        (json!({"seed": "a"}), "/seed"),
        (json!({"decision_id": ""}), "/decision_id"),
        (json!({"decision_id": 5}), "/decision_id"),
        (json!({"explain": "no"}), "/explain"),
        (json!([1]), ""),
        (json!("text"), ""),
        (json!(null), ""),
    ] {
        check_field(&service.post_json(PREDICT, &body), pointer);
    }
}

#[test]
fn a_wrong_parameter_of_a_query_is_named() {
    let service = started(&[]);
    for (path, pointer) in [
        (format!("{EVENTS}?limit=0"), "limit"),
        (format!("{EVENTS}?limit=1001"), "limit"),
        (format!("{DEAD_LETTERS}?limit=many"), "limit"),
        (format!("{VERSIONS}?limit=-1"), "limit"),
        (format!("{EVENTS}?before=yesterday"), "before"),
        (format!("{DEAD_LETTERS}?before=x"), "before"),
        (format!("{PERFORMANCE}?tenant_id="), "tenant_id"),
        (format!("{PERFORMANCE}?task_type="), "task_type"),
    ] {
        check_field(&service.get(&path), pointer);
    }
    check_field(&service.post(&format!("{OUTCOMES}?wait=perhaps"), ND_JSON, "{}"), "wait");
    check_field(&service.post_json(REPLAY, &json!({"ids": "1"})), "/ids");
    check_field(&service.post_json(REPLAY, &json!({"ids": ["1", 2]})), "/ids/1");
}

#[test]
fn what_is_no_request_of_ours_is_answered_with_a_problem() {
    let service = started(&[]);
    let event = br#"{"agent_name": "a", "status": "success"}"#;
    let large = |bytes: usize| " ".repeat(bytes);
    for (path, media, body, status) in [
        (PREDICT, JSON, b"{".to_vec(), 400),
        (PREDICT, JSON, b"{} {}".to_vec(), 400),
        (PREDICT, JSON, b"{\"top_k\": NaN}".to_vec(), 400),
        (PREDICT, JSON, b"\xff\xfe".to_vec(), 400),
        (SAVE, JSON, b"{".to_vec(), 400),
        (REPLAY, JSON, b"ids".to_vec(), 400),
        (OUTCOMES, JSON, b"{\"agent_name\": ".to_vec(), 400),
        (OUTCOMES, JSON, b"[{}".to_vec(), 400),
        (OUTCOMES, JSON, b"".to_vec(), 400),
        (OUTCOMES, JSON, b"\xff".to_vec(), 400),
        (OUTCOMES, JSON, [&event[..], event].concat(), 400),
        (PREDICT, "text/plain", b"{}".to_vec(), 415),
        (PREDICT, ND_JSON, b"{}".to_vec(), 415),
        (OUTCOMES, "text/csv", event.to_vec(), 415),
        (OUTCOMES, "application/xml", event.to_vec(), 415),
        ("/api/learning/nothing", JSON, b"{}".to_vec(), 404),
        ("/api/learning", JSON, b"{}".to_vec(), 404),
        ("/api/learning/predict/unknown", JSON, b"{}".to_vec(), 404),
    ] {
        let answer = service
            .try_post(path, media, &body)
            .unwrap_or_else(|error| panic!("{path} {media} {status}: {error}"));
        check_problem(&answer, status);
    }
    check_problem(&service.get("/api/learning/models/unknown"), 404);
    check_problem(&service.get("/api/learning/models/unknown/versions"), 404);
    check_problem(&service.get(&format!("{PREDICT}/more")), 404);
    // A body that is just as large as allowed, and a type with parameters, are taken.
    let answer = service.post(
        PREDICT,
        "Application/JSON; charset=utf-8",
        format!("{{{}}}", large(1024 * 1024 - 2)),
    );
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = service.post(OUTCOMES, ND_JSON, large(8 * 1024 * 1024));
    assert_eq!(answer.status, 202, "{answer:?}");
}

/// A POST whose body of `length` bytes is announced, and of which only the start is sent.
#[track_caller]
fn announced(service: &Service, path: &str, length: usize) -> (u16, String) {
    let mut stream = TcpStream::connect(service.address).expect("the service listens");
    stream.set_read_timeout(Some(SOON)).expect("it is not zero");
    let media = if path == OUTCOMES { ND_JSON } else { JSON };
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {media}\r\n\
         Content-Length: {length}\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).expect("it is read");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the connection is closed after the answer");
    let status = answer.get(9..12).and_then(|code| code.parse().ok()).expect("a status line");
    (status, answer)
}

#[test]
fn a_body_that_is_too_large_is_refused_before_it_is_read() {
    let service = started(&[]);
    let mib = 1024 * 1024;
    for (path, length) in [
        (PREDICT, mib + 1),
        (SAVE, mib + 1),
        (REPLAY, 100_000_000_000),
        (OUTCOMES, 8 * mib + 1),
        (OUTCOMES, 100_000_000_000),
    ] {
        let (status, answer) = announced(&service, path, length);
        assert_eq!(status, 413, "{path}: {answer}");
        let (head, body) = answer.split_once("\r\n\r\n").expect("it has a head");
        assert!(head.to_lowercase().contains("content-type: application/problem+json"), "{head}");
        let problem: Value = serde_json::from_str(body).expect("it is JSON");
        check_shape(
            &problem,
            &[("type", Kind::Text), ("title", Kind::Text), ("detail", Kind::Text)],
        );
        assert_eq!(problem["status"], 413);
    }
}

#[test]
fn a_wrong_method_is_answered_with_the_right_one() {
    let service = started(&[]);
    for path in [PREDICT, OUTCOMES, SAVE, REPLAY, &format!("{VERSIONS}/agent_selection-1/activate")]
    {
        let answer = service.get(path);
        check_problem(&answer, 405);
        assert_eq!(answer.header("allow"), Some("POST"), "{path}");
    }
    for path in [METRICS, PERFORMANCE, STATUS, MODEL, VERSIONS, EVENTS, DEAD_LETTERS, "/livez"] {
        let answer = service.post(path, JSON, "{}");
        check_problem(&answer, 405);
        let allow = answer.header("allow").expect("Allow is there");
        assert!(allow.split(", ").any(|method| method == "GET"), "{path}: {allow}");
    }
}

#[test]
fn a_post_without_a_body_needs_no_type() {
    let service = started(&[]);
    let post = |path: &str| {
        let config = ureq::Agent::config_builder().http_status_as_error(false).build();
        let agent: ureq::Agent = config.into();
        let answer = agent.post(service.url(path)).send_empty().expect("the service answers");
        answer.status().as_u16()
    };
    service.learn(&outcomes(1, "amy", "t", "success"));
    for (path, status) in
        [(PREDICT, 200), (SAVE, 200), (REPLAY, 200), (OUTCOMES, 202), (WAITING, 200)]
    {
        assert_eq!(post(path), status, "{path}");
    }
}

// Strategies

#[test]
fn strategies_without_a_posterior_rank_by_their_mean() {
    // Ten failures, then ten successes: the mean of all is 0.5, an exponential one is above.
    let exponential = (0..10).fold(0.0, |mean, _| mean + 0.1 * (1.0 - mean));
    for (strategy, expected) in [("moving_average", 0.5), ("exponential", exponential)] {
        let service = started(&[("MODEL_STRATEGY", strategy)]);
        service.learn(&outcomes(10, "amy", "t", "failure"));
        service.learn(&outcomes(10, "amy", "t", "success"));
        service.learn(&outcomes(3, "bob", "t", "failure"));
        let answers: Vec<Value> =
            [json!({"seed": 1}), json!({"seed": 2}), json!({"explore": false})]
                .iter()
                .map(|request| service.ask(request))
                .collect();
        for answer in &answers {
            assert_eq!(answer["strategy"], strategy);
            assert_eq!(answer["recommendations"], answers[0]["recommendations"]);
            assert_eq!(names(answer), ["amy", "bob"]);
            let amy = the_agent(answer, "amy");
            close(&amy["score"], expected);
            close(&amy["expected_success"], expected);
            close(&amy["propensity"], 1.0);
            assert!(amy.get("interval").is_some_and(Value::is_null), "{amy}");
            close(&the_agent(answer, "bob")["propensity"], 0.0);
        }
    }
}

#[test]
fn the_moving_average_is_of_the_last_hundred_rewards() {
    let service = started(&[("MODEL_STRATEGY", "moving_average")]);
    service.learn(&outcomes(60, "amy", "t", "failure"));
    service.learn(&outcomes(90, "amy", "t", "success"));
    let answer = service.ask(&json!({}));
    close(&the_agent(&answer, "amy")["score"], 0.9);
    close(&service.performance("")["amy"]["success_rate"], 0.6);
}

#[test]
fn the_strategy_beta_is_the_arithmetic_of_the_specification() {
    let service = started(&[("MODEL_STRATEGY", "beta")]);
    service.learn(&four_agents());
    let answer = service.ask(&json!({"task_type": "t", "explore": false, "top_k": 4}));
    assert_eq!(answer["strategy"], "beta");
    for (agent, successes) in [("amy", 9.0), ("bob", 7.0), ("cid", 4.0), ("dan", 1.0)] {
        close(&the_agent(&answer, agent)["expected_success"], (successes + 1.0) / 12.0);
        let row = &service.performance("")[agent];
        close(&row["alpha"], successes + 1.0);
        close(&row["beta"], 11.0 - successes);
    }
}

#[test]
fn another_strategy_at_a_restart_keeps_every_count() {
    let mut service = started(&[]);
    service.learn(&four_agents());
    assert_eq!(service.ask(&json!({}))["strategy"], "thompson");
    let (performance, digest) = (service.learned(), service.digest());
    let mut expected: BTreeMap<&str, Value> = BTreeMap::new();
    let request = json!({"task_type": "t", "top_k": 4, "seed": 3});
    for strategy in
        ["thompson", "moving_average", "beta", "exponential", "thompson", "beta", "moving_average"]
    {
        service = service.restarted(&[("MODEL_STRATEGY", strategy)]);
        assert_eq!(service.learned(), performance, "{strategy}");
        // The effects are learned again from the journal, and are the same, down to the last bit.
        assert_eq!(service.digest() == digest, strategy == "thompson", "{strategy}");
        let answer = service.ask(&request);
        assert_eq!(answer["strategy"], strategy);
        let seen = answer["recommendations"].clone();
        assert_eq!(expected.entry(strategy).or_insert_with(|| seen.clone()), &seen, "{strategy}");
    }
}

// Outcomes

#[track_caller]
fn codes(answer: &Value) -> Vec<(u64, String)> {
    let rejected = answer["rejected"].as_array().expect("it is an array");
    for refusal in rejected {
        check_shape(
            refusal,
            &[("index", Kind::Whole), ("code", Kind::Text), ("detail", Kind::Text)],
        );
    }
    rejected.iter().map(|refusal| (whole(&refusal["index"]), text(&refusal["code"]))).collect()
}

#[test]
fn every_form_of_a_body_is_understood() {
    let service = started(&[]);
    let check =
        |media: &str, body: &str, accepted: u64, duplicates: u64, rejected: &[(u64, &str)]| {
            let answer = service.post(OUTCOMES, media, body);
            let understood = accepted + duplicates > 0 || rejected.is_empty();
            assert_eq!(answer.status, if understood { 202 } else { 422 }, "{body}: {answer:?}");
            let answer = answer.json();
            let seen = (whole(&answer["accepted"]), whole(&answer["duplicates"]));
            assert_eq!(seen, (accepted, duplicates), "{body}: {answer}");
            let rejected: Vec<(u64, String)> =
                rejected.iter().map(|(index, code)| (*index, (*code).to_owned())).collect();
            assert_eq!(codes(&answer), rejected, "{body}");
        };
    let ok = r#"{"agent_name": "amy", "status": "success"}"#;
    let one = r#"{"event_id": "1", "agent_name": "amy", "status": "success"}"#;
    let two = r#"{"event_id": "2", "agent_name": "amy", "status": "failure"}"#;
    let cloud = |id: u32| {
        format!(
            r#"{{"specversion": "1.0", "id": "{id}", "type": "t", "source": "/s",
                "data": {{"agent_name": "amy", "status": "success"}}}}"#
        )
    };
    check(JSON, ok, 1, 0, &[]);
    check(JSON, &format!("\n {ok} \n"), 1, 0, &[]);
    check(JSON, one, 1, 0, &[]);
    check(JSON, one, 0, 1, &[]);
    check(JSON, &format!("[{one}, {two}, {two}]"), 1, 2, &[]);
    check(JSON, "[]", 0, 0, &[]);
    check(JSON, "7", 0, 0, &[(0, "not_an_object")]);
    check(JSON, "null", 0, 0, &[(0, "not_an_object")]);
    check(JSON, "{}", 0, 0, &[(0, "missing_agent_name")]);
    check(
        JSON,
        &format!("[{ok}, {{}}, [], {ok}]"),
        2,
        0,
        &[(1, "missing_agent_name"), (2, "not_an_object")],
    );
    check(JSON, r#"{"agent_name": "amy", "status": "success", "latency_ms": NaN}"#, 1, 0, &[]);
    check(
        JSON,
        &format!(
            r#"[{ok}, {{"agent_name": "NaN", "status": "success", "metadata": {{"x": -Infinity}}}}, {{"status": NaN}}]"#
        ),
        2,
        0,
        &[(2, "missing_agent_name")],
    );
    check(JSON, &cloud(1), 1, 0, &[]);
    check("application/cloudevents+json", &cloud(1), 0, 1, &[]);
    check("application/cloudevents+json; charset=UTF-8", &cloud(2), 1, 0, &[]);
    let batch = format!("[{}, {}, {}]", cloud(2), cloud(3), cloud(4));
    check("application/cloudevents-batch+json", &batch, 2, 1, &[]);
    check("application/cloudevents-batch+json", "[]", 0, 0, &[]);
    check(ND_JSON, "", 0, 0, &[]);
    check(ND_JSON, "\n\r\n  \n", 0, 0, &[]);
    check(ND_JSON, ok, 1, 0, &[]);
    check(ND_JSON, &format!("{ok}\r\n{ok}\n"), 2, 0, &[]);
    check(
        ND_JSON,
        &format!("{one}\nnonsense\n{ok}\n{{\"agent_name\": \n"),
        1,
        1,
        &[(1, "not_json"), (3, "not_json")],
    );
    check(
        ND_JSON,
        r#"{"agent_name": "amy", "status": "success", "metadata": {"drift": NaN}}"#,
        1,
        0,
        &[],
    );
    service.post(WAITING, ND_JSON, "");
    assert!(service.performance("").contains_key("NaN"), "a string is left alone");
}

#[test]
fn an_array_holds_a_thousand_events_at_most() {
    let service = started(&[]);
    let array = |count: usize| {
        let events = vec![json!({"agent_name": "amy", "status": "success"}); count];
        service.post_json(WAITING, &json!(events))
    };
    assert_eq!(array(1_000).json()["accepted"], 1_000);
    check_problem(&array(1_001), 422);
    assert_eq!(service.executions("default"), 1_000, "nothing of it was taken");
}

#[test]
fn a_record_that_is_not_understood_is_refused_with_a_reason_and_kept() {
    let service = started(&[]);
    let long = "x".repeat(257);
    let large = format!("{{\"agent_name\": \"amy\", \"output\": \"{}\"}}", "x".repeat(1024 * 1024));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"not json".to_vec(), "not_json"),
        (b"{\"agent_name\": \"amy\", \"status\": \"success\"".to_vec(), "not_json"),
        (b"{\"agent_name\": \"\xff\", \"status\": \"success\"}".to_vec(), "not_utf8"),
        (b"[]".to_vec(), "not_an_object"),
        (br#"{"status": "success"}"#.to_vec(), "missing_agent_name"),
        (br#"{"agent_name": null, "status": "success"}"#.to_vec(), "missing_agent_name"),
        (br#"{"agent_name": "", "status": "success"}"#.to_vec(), "invalid_agent_name"),
        (br#"{"agent_name": 7.5, "status": "success"}"#.to_vec(), "invalid_agent_name"),
        (br#"{"agent_name": " ", "status": "success"}"#.to_vec(), "invalid_agent_name"),
        (
            format!(r#"{{"agent_name": "{long}", "status": "success"}}"#).into_bytes(),
            "invalid_agent_name",
        ),
        (br#"{"agent_name": "amy"}"#.to_vec(), "missing_status"),
        (br#"{"agent_name": "amy", "status": "splendid"}"#.to_vec(), "unknown_status"),
        (br#"{"agent_name": "amy", "status": 1}"#.to_vec(), "unknown_status"),
        (
            br#"{"agent_name": "amy", "status": "success", "tenant_id": ""}"#.to_vec(),
            "invalid_tenant_id",
        ),
        (
            br#"{"agent_name": "amy", "status": "success", "tenant_id": 5}"#.to_vec(),
            "invalid_tenant_id",
        ),
        (large.into_bytes(), "too_large"),
    ];
    let good = br#"{"agent_name": "amy", "status": "success"}"#;
    let mut body = Vec::new();
    for (line, _) in &cases {
        body.extend_from_slice(line);
        body.push(b'\n');
        body.extend_from_slice(good);
        body.push(b'\n');
    }
    let answer = service.post(WAITING, ND_JSON, &body);
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    assert_eq!(answer["accepted"], cases.len());
    let expected: Vec<(u64, String)> = (0..)
        .step_by(2)
        .zip(&cases)
        .map(|(index, (_, code))| (index, (*code).to_owned()))
        .collect();
    assert_eq!(codes(&answer), expected);

    let letters = service.dead_letters();
    assert_eq!(letters.len(), cases.len());
    for (letter, (line, code)) in letters.iter().rev().zip(&cases) {
        assert_eq!((&letter["code"], &letter["source"]), (&json!(code), &json!("http")));
        check_shape(
            letter,
            &[("id", Kind::Text), ("detail", Kind::Text), ("created_at", Kind::Time)],
        );
        assert!(
            letter["topic"].is_null()
                && letter["partition"].is_null()
                && letter["offset"].is_null()
        );
        let kept = String::from_utf8_lossy(&line[..line.len().min(64 * 1024)]).into_owned();
        assert_eq!(text(&letter["payload"]), kept);
        assert_eq!(letter["payload_bytes"], line.len());
        assert_eq!(letter["payload_cut"], line.len() > 64 * 1024);
    }
    let metrics = service.read(METRICS);
    let counted = metrics["rejected"].as_object().expect("it is an object");
    assert_eq!(counted.values().map(whole).sum::<u64>(), cases.len() as u64);
    assert_eq!(counted["not_json"], 2);
}

#[test]
fn a_large_body_of_lines_is_counted_line_by_line() {
    let service = started(&[]);
    let mut body = String::new();
    for line in 0..20_000 {
        let (agent, task) = (["amy", "bob"][line % 2], ["t", "u", "v"][line % 3]);
        // Every thousandth line is no event, the one after it is one for the second time.
        match line % 1_000 {
            500 => writeln!(body, "garbage {line}"),
            501 => writeln!(body, r#"{{"event_id":"e-0","agent_name":"amy","status":"success"}}"#),
            _ => writeln!(
                body,
                r#"{{"event_id":"e-{line}","agent_name":"{agent}","task_type":"{task}","status":"success"}}"#
            ),
        }
        .expect("a String takes all");
    }
    let answer = service.post(WAITING, ND_JSON, &body);
    assert_eq!(answer.status, 200);
    let answer = answer.json();
    assert_eq!((&answer["accepted"], &answer["duplicates"]), (&json!(19_960), &json!(20)));
    let refused = codes(&answer);
    assert!(refused.iter().map(|(index, _)| *index).eq((500..20_000).step_by(1_000)));
    let rows = service.performance("");
    assert_eq!(rows["amy"]["total_executions"], 9_980);
    assert_eq!(rows["bob"]["total_executions"], 9_980);
    assert_eq!(service.read(METRICS)["samples_processed"], 19_960);
    let tasks: u64 = ["t", "u", "v"]
        .iter()
        .flat_map(|task| service.performance(&format!("?task_type={task}")).into_values())
        .map(|row| whole(&row["total_executions"]))
        .sum();
    assert_eq!(tasks, 19_960);
    assert_eq!(service.post(WAITING, ND_JSON, &body).json()["duplicates"], 19_980);
    assert_eq!(service.executions("default"), 19_960);
}

#[test]
fn an_answer_does_not_wait_for_the_micro_batch_unless_asked() {
    let service = started(&[("MODEL_BATCH_TIMEOUT", "3600")]);
    let event = r#"{"event_id": "1", "agent_name": "amy", "status": "success"}"#;
    assert_eq!(service.post(OUTCOMES, JSON, event).status, 202);
    assert_eq!(service.read(METRICS)["samples_processed"], 0, "the micro-batch is open");
    assert_eq!(service.post(OUTCOMES, JSON, event).status, 202);
    let waited = service.post(WAITING, JSON, event);
    assert_eq!((waited.status, &waited.json()["duplicates"]), (200, &json!(1)));
    assert_eq!(service.read(METRICS)["samples_processed"], 1, "although it was a duplicate");
    assert_eq!(names(&service.ask(&json!({}))), ["amy"]);
    let bad = service.post(WAITING, JSON, "{}");
    assert_eq!((bad.status, &bad.json()["accepted"]), (422, &json!(0)));
    assert_eq!(service.read(METRICS)["total_updates"], 1, "nothing is no micro-batch");

    service.post(OUTCOMES, ND_JSON, outcomes(10, "bob", "t", "success"));
    eventually("a full micro-batch is learned", || {
        (service.executions("default") == 11).then_some(())
    });
}

#[test]
fn a_micro_batch_that_is_not_full_is_learned_after_its_time() {
    let service = started(&[("MODEL_BATCH_TIMEOUT", "0.05")]);
    service.post(OUTCOMES, ND_JSON, outcomes(1, "amy", "t", "success"));
    eventually("the micro-batch is learned", || (service.executions("default") == 1).then_some(()));
}

#[test]
fn every_status_counts_and_only_those_that_tell_something_are_learned() {
    let service = started(&[]);
    // Status, fields, learned outcomes, reward, latency and quality that were learned.
    let cases = [
        ("success", json!({"latency_ms": 10, "quality_score": 0.2}), 1, 1.0, 10.0, 0.2),
        ("partial", json!({"latency_ms": 20, "quality_score": 0.8}), 1, 0.8, 20.0, 0.8),
        ("partial", json!({"latency_ms": 30}), 1, 0.5, 30.0, 0.0),
        ("partial", json!({"metadata": {"quality_score": 0.3}}), 1, 0.3, 0.0, 0.3),
        ("failure", json!({"latency_ms": 40, "quality_score": 0.1}), 1, 0.0, 0.0, 0.1),
        ("timeout", json!({"duration_ms": 50, "quality_score": 0.4}), 1, 0.0, 0.0, 0.4),
        ("cancelled", json!({"latency_ms": 60, "quality_score": 0.6}), 0, 0.0, 0.0, 0.6),
        ("pending", json!({"latency_ms": 70, "quality_score": 0.7}), 0, 0.0, 0.0, 0.0),
    ];
    let mut body = String::new();
    for (number, (status, fields, ..)) in cases.iter().enumerate() {
        let mut event = fields.clone();
        event["agent_name"] = format!("agent-{number}").into();
        event["status"] = (*status).into();
        event["task_type"] = "t".into();
        writeln!(body, "{event}").expect("a String takes all");
    }
    service.learn(&body);
    let (rows, on_task) = (service.performance(""), service.performance("?task_type=t"));
    for (number, (status, _, learned, reward, latency_ms, quality)) in cases.iter().enumerate() {
        let name = format!("agent-{number}");
        for row in [&rows[&name], &on_task[&name]] {
            assert_eq!(row["total_executions"], 1, "{status}");
            let rate = if *learned == 1 { *reward } else { 0.5 };
            close(&row["success_rate"], rate);
            close(&row["avg_latency_ms"], *latency_ms);
            close(&row["alpha"], 1.0 + reward);
            close(&row["beta"], 1.0 + f64::from(*learned) - reward);
        }
        close(&rows[&name]["avg_quality"], *quality);
    }
    let metrics = service.read(METRICS);
    assert_eq!(metrics["samples_processed"], 6);
    close(&metrics["current_model_score"], (1.0 + 0.8 + 0.5 + 0.3) / 6.0);
    let unlearned = service.ask(&json!({"candidates": ["agent-6"], "task_type": "t"}));
    assert_eq!(the_agent(&unlearned, "agent-6")["samples"], 0);
}

#[test]
fn averages_are_over_the_last_hundred_values() {
    let service = started(&[]);
    let body = (1..=150).fold(String::new(), |body, ms| {
        let quality = f64::from(ms) / 1_000.0;
        body + &format!(
            "{}\n",
            json!({"agent_name": "amy", "status": "success", "latency_ms": ms, "quality_score": quality})
        )
    });
    service.learn(&body);
    // The mean of 51 to 150.
    let row = &service.performance("")["amy"];
    close(&row["avg_latency_ms"], 100.5);
    close(&row["avg_quality"], 0.1005);
    assert_eq!(row["total_executions"], 150);
}

#[test]
fn a_field_that_makes_no_sense_is_dropped_and_the_outcome_counts() {
    let service = started(&[]);
    // Fields of the event, and the one that is dropped.
    let cases = [
        (json!({"latency_ms": -1}), "latency_ms"),
        (json!({"latency_ms": "soon"}), "latency_ms"),
        (json!({"quality_score": 7}), "quality_score"),
        (json!({"cost_estimate": -0.1}), "cost_estimate"),
        (json!({"timestamp": "yesterday"}), "timestamp"),
        (json!({"task_type": ""}), "task_type"),
        (json!({"task_type": "x".repeat(257)}), "task_type"),
        (json!({"context": {"": 1}}), "context_key"),
        (json!({"context": {"k": ""}}), "context_value"),
        (json!({"context": "high"}), "context"),
    ];
    let mut dropped: BTreeMap<&str, u64> = BTreeMap::new();
    for (fields, field) in &cases {
        let mut event = fields.clone();
        event["agent_name"] = "amy".into();
        event["status"] = "success".into();
        assert_eq!(service.post_json(OUTCOMES, &event).json()["accepted"], 1, "{event}");
        *dropped.entry(field).or_default() += 1;
    }
    service.post(WAITING, ND_JSON, "");
    let row = &service.performance("")["amy"];
    assert_eq!(row["total_executions"], cases.len());
    close(&row["avg_latency_ms"], 0.0);
    assert_eq!(service.read(METRICS)["dropped_fields"], json!(dropped));
    assert!(service.dead_letters().is_empty());
}

#[test]
fn numbers_may_be_strings_and_severities_anything() {
    let service = started(&[]);
    service.learn(
        r#"{"agent_name": "amy", "status": "partial", "latency_ms": "12.5", "quality_score": "0.25", "severity": "odd"}"#,
    );
    let row = &service.performance("")["amy"];
    close(&row["avg_latency_ms"], 12.5);
    close(&row["success_rate"], 0.25);
    assert_eq!(service.read(METRICS)["dropped_fields"], json!({}));
}

#[test]
fn any_name_of_up_to_256_bytes_comes_back_as_it_was_sent() {
    let service = started(&[]);
    let names_sent = [
        "x".repeat(256),
        "é".repeat(128),
        "line\nbreak \"quote\" \\ \u{0} \u{7f} \u{202e} tab\t.".to_owned(),
        "🦀".to_owned(),
        "<script>alert(1)</script>".to_owned(),
        "other".to_owned(),
    ];
    for name in &names_sent {
        let event = json!({"agent_name": name, "task_type": name, "status": "success"});
        assert_eq!(service.post_json(WAITING, &event).json()["accepted"], 1, "{event}");
    }
    let rows = service.performance("");
    let answer = service.ask(&json!({"top_k": 100}));
    for name in &names_sent {
        assert!(rows.contains_key(name), "{name:?}");
        assert_eq!(the_agent(&answer, name)["samples"], 1);
        let query: String = form_urlencoded::byte_serialize(name.as_bytes()).collect();
        assert_eq!(service.performance(&format!("?task_type={query}")).len(), 1, "{name:?}");
    }
    assert_eq!(rows.len(), names_sent.len());
}

/// Whether two events count as one.
#[track_caller]
fn check_identity(service: &Service, first: &Value, second: &Value, is_same: bool) {
    let first = service.post_json(OUTCOMES, first).json();
    assert_eq!(first["accepted"], 1, "{first}");
    let answer = service.post_json(OUTCOMES, second).json();
    let expected = if is_same { (0, 1) } else { (1, 0) };
    let seen = (whole(&answer["accepted"]), whole(&answer["duplicates"]));
    assert_eq!(seen, expected, "{second}: {answer}");
}

/// The event with other fields on top.
fn with(event: &Value, fields: &Value) -> Value {
    let mut event = event.clone();
    for (key, value) in fields.as_object().expect("it is an object") {
        event[key] = value.clone();
    }
    event
}

#[test]
fn an_event_counts_once_whatever_its_identity_is_made_of() {
    let service = started(&[]);
    let base = json!({"agent_name": "amy", "status": "success"});
    let event = |fields: Value| with(&base, &fields);
    check_identity(&service, &base, &base, false);

    let id = event(json!({"event_id": "id"}));
    check_identity(
        &service,
        &id,
        &with(&id, &json!({"agent_name": "bob", "status": "failure"})),
        true,
    );
    check_identity(
        &service,
        &with(&id, &json!({"tenant_id": "red"})),
        &with(&id, &json!({"tenant_id": "blue"})),
        false,
    );
    // Integers that a float can't tell apart.
    let (one, other) = (9_007_199_254_740_992_u64, 9_007_199_254_740_993_u64);
    check_identity(
        &service,
        &event(json!({"event_id": one})),
        &event(json!({"event_id": other})),
        false,
    );
    check_identity(
        &service,
        &event(json!({"event_id": 77})),
        &event(json!({"event_id": 77})),
        true,
    );

    let run = event(
        json!({"run_id": "r1", "duration_ms": 5, "task_type": "t", "timestamp": "2026-11-02T09:15:03"}),
    );
    check_identity(&service, &run, &with(&run, &json!({"timestamp": "2026-11-03T10:00:00"})), true);
    for fields in [
        json!({"run_id": "r2"}),
        json!({"agent_name": "bob"}),
        json!({"agent_type": "k"}),
        json!({"status": "failure"}),
        json!({"duration_ms": 6}),
        json!({"task_type": "u"}),
        json!({"tenant_id": "red"}),
    ] {
        let answer = service.post_json(OUTCOMES, &with(&run, &fields)).json();
        assert_eq!(answer["accepted"], 1, "{fields}");
    }
    let (one, other) = (i64::MAX - 1, i64::MAX);
    check_identity(
        &service,
        &event(json!({"run_id": one})),
        &event(json!({"run_id": other})),
        false,
    );

    let decided = event(json!({"decision_id": "d1"}));
    check_identity(&service, &decided, &with(&decided, &json!({"task_type": "other"})), true);
    check_identity(
        &service,
        &event(json!({"metadata": {"decision_id": "d1"}, "agent_name": "bob"})),
        &with(&decided, &json!({"agent_name": "bob"})),
        true,
    );
    check_identity(
        &service,
        &event(json!({"decision_id": "d2"})),
        &event(json!({"decision_id": "d2", "status": "failure"})),
        false,
    );
    // A correlation is no identity.
    let correlated = event(json!({"correlation_id": "c"}));
    check_identity(&service, &correlated, &correlated, false);

    let cloud = |source: &str, id: &str, data: &Value| json!({"specversion": "1.0", "type": "x", "source": source, "id": id, "data": data});
    check_identity(
        &service,
        &cloud("/s", "1", &base),
        &cloud("/s", "1", &event(json!({"status": "failure"}))),
        true,
    );
    check_identity(&service, &cloud("/s", "2", &base), &cloud("/t", "2", &base), false);
    check_identity(
        &service,
        &cloud("/s", "3", &event(json!({"event_id": "e3"}))),
        &event(json!({"event_id": "e3"})),
        true,
    );
    check_identity(&service, &cloud("/s", "4", &run), &cloud("/s", "5", &run), false);

    let before = service.read(METRICS)["accepted"].clone();
    let service = service.restarted(&[]);
    assert_eq!(service.post_json(OUTCOMES, &id).json()["duplicates"], 1, "after a restart too");
    assert_eq!(service.read(METRICS)["accepted"], before);
}

#[test]
fn an_outcome_is_learned_with_the_task_type_and_context_of_its_decision() {
    let service = started(&[]);
    let keys = || whole(&service.read(STATUS)["caps"]["context_keys_per_tenant"]["used"]);
    let decide = |fields: Value| {
        let question = json!({"candidates": ["amy"], "context": {"asked": "x", "deep": {"er": 1}}});
        text(&service.ask(&with(&question, &fields))["decision_id"])
    };
    let learn = |fields: Value| {
        let event = json!({"agent_name": "amy", "status": "success", "context": {"sent": "y"}});
        assert_eq!(service.post_json(WAITING, &with(&event, &fields)).json()["accepted"], 1);
    };
    let on = |task: &str| {
        let rows = service.performance(&format!("?task_type={task}"));
        rows.get("amy").map_or(0, |row| whole(&row["total_executions"]))
    };
    let executions = || service.executions("default");

    learn(json!({"decision_id": decide(json!({"task_type": "asked"}))}));
    assert_eq!((on("asked"), keys()), (1, 2));
    learn(json!({"decision_id": decide(json!({"task_type": "asked"})), "task_type": "sent"}));
    assert_eq!((on("asked"), on("sent"), keys()), (2, 0, 2));
    learn(
        json!({"metadata": {"decision_id": decide(json!({"task_type": "asked"})), "task_type": "sent"}}),
    );
    assert_eq!((on("asked"), on("sent"), keys()), (3, 0, 2));
    learn(json!({"correlation_id": decide(json!({"task_type": "asked"})), "task_type": "sent"}));
    assert_eq!((on("asked"), on("sent"), keys()), (4, 0, 2));
    learn(json!({"decision_id": decide(json!({"task_type": "asked", "decision_id": "mine"}))}));
    assert_eq!((on("asked"), keys()), (5, 2));
    // A question without a task type has an outcome without one.
    learn(json!({"decision_id": decide(json!({})), "task_type": "sent"}));
    assert_eq!((on("asked"), on("sent"), keys(), executions()), (5, 0, 2, 6));
    // What names no decision of this tenant is learned with what it carries.
    learn(json!({"decision_id": "unknown", "task_type": "sent"}));
    assert_eq!((on("asked"), on("sent"), keys()), (5, 1, 3));
    learn(json!({"correlation_id": "something else", "task_type": "sent"}));
    assert_eq!((on("asked"), on("sent")), (5, 2));
    learn(
        json!({"decision_id": decide(json!({"task_type": "asked", "tenant_id": "red"})), "task_type": "sent"}),
    );
    assert_eq!((on("asked"), on("sent"), executions()), (5, 3, 9));
}

#[test]
fn a_decision_is_learned_from_once_per_agent_and_status() {
    let service = started(&[]);
    service.ask(&json!({"task_type": "asked", "candidates": ["amy"], "decision_id": "d"}));
    // Identities hold what was sent, so the task type of the decision changes none.
    let event =
        json!({"agent_name": "amy", "status": "success", "run_id": "r", "correlation_id": "d"});
    check_identity(&service, &event, &event, true);
    check_identity(
        &service,
        &json!({"agent_name": "amy", "status": "success", "decision_id": "d"}),
        &json!({"agent_name": "amy", "status": "success", "decision_id": "d", "timestamp": "2026-01-01T00:00:00Z"}),
        true,
    );
    service.post(WAITING, ND_JSON, "");
    assert_eq!(service.performance("?task_type=asked")["amy"]["total_executions"], 2);
}

fn fixture(name: &str) -> String {
    let path = format!("{}/tests/fixtures/{name}.json", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn the_shapes_that_producers_send_are_learned_right() {
    // Fixture, media, agent, task type, success rate, latency, quality, context keys.
    let cases = [
        ("shape_a", JSON, "ReflectionAgent", Some("code_review"), 1.0, 2_431.57, 0.91, 6),
        ("shape_a_workflow_step", JSON, "PlanExecuteAgent", None, 1.0, 1_200.0, 0.0, 0),
        ("shape_b", JSON, "ToolUseAgent", Some("data_extraction"), 1.0, 845.3, 0.88, 0),
        (
            "shape_c_cloudevents",
            "application/cloudevents+json",
            "ReActAgent",
            Some("compliance_analysis"),
            0.0,
            0.0,
            0.2,
            0,
        ),
        ("shape_minimal", JSON, "a", None, 1.0, 0.0, 0.0, 0),
    ];
    let service = started(&[]);
    for (name, media, agent, task_type, rate, latency_ms, quality, keys) in cases {
        let event = fixture(name);
        let answer = service.post(WAITING, media, &event);
        assert_eq!((answer.status, &answer.json()["accepted"]), (200, &json!(1)), "{name}");
        let row = &service.performance("")[agent];
        assert_eq!(row["total_executions"], 1, "{name}");
        close(&row["success_rate"], rate);
        close(&row["avg_latency_ms"], latency_ms);
        close(&row["avg_quality"], quality);
        if let Some(task_type) = task_type {
            let rows = service.performance(&format!("?task_type={task_type}"));
            assert_eq!(rows.into_keys().collect::<Vec<_>>(), [agent], "{name}");
        }
        // The same event on a service of its own, in an array and as a line.
        let alone = started(&[]);
        let array = format!("[{event}]");
        let array_media = media.replace("cloudevents+", "cloudevents-batch+");
        assert_eq!(alone.post(WAITING, &array_media, array).json()["accepted"], 1, "{name}");
        assert_eq!(&alone.performance("")[agent], row, "{name}");
        let caps = &alone.read(STATUS)["caps"];
        assert_eq!(caps["context_keys_per_tenant"]["used"], keys, "{name}");
        assert_eq!(caps["task_types_per_tenant"]["used"], u64::from(task_type.is_some()), "{name}");
        let dropped = match name {
            "shape_a" => json!({"context_list": 1, "context_null": 1}),
            _ => json!({}),
        };
        assert_eq!(alone.read(METRICS)["dropped_fields"], dropped, "{name}");

        let again = alone.post(WAITING, ND_JSON, &event).json();
        let duplicates = u64::from(name != "shape_minimal");
        assert_eq!(again["duplicates"], duplicates, "{name}");
        assert_eq!(again["accepted"], 1 - duplicates, "{name}");
    }
    // The monitor sends the last day again, with new timestamps.
    let resent =
        fixture("shape_b").replace("2026-11-02T09:20:00.115000", "2026-11-03T00:00:00.000001");
    assert_eq!(service.post(WAITING, JSON, resent).json()["duplicates"], 1);
}

// Dead letters

/// All items of a list, read in pages of two.
#[track_caller]
fn paged(service: &Running, path: &str, name: &str) -> Vec<Value> {
    let mut items: Vec<Value> = Vec::new();
    let mut before = String::new();
    loop {
        let page = service.read(&format!("{path}?limit=2{before}"));
        let part = page[name].as_array().expect("it is a list");
        assert!(part.len() <= 2, "{page}");
        items.extend(part.iter().cloned());
        let Some(next) = page["next_before"].as_str() else {
            assert!(page.get("next_before").is_some_and(Value::is_null), "{page}");
            return items;
        };
        assert_eq!(part.last().map(|last| &last["id"]), Some(&json!(next)));
        before = format!("&before={next}");
    }
}

#[test]
fn lists_are_read_in_pages_newest_first() {
    let service = started(&[("MODEL_BATCH_SIZE", "1")]);
    for number in 0..5 {
        service.post(OUTCOMES, ND_JSON, format!("garbage {number}"));
        service.learn(&outcomes(1, "amy", "t", "success"));
        service.save();
    }
    for (path, name, count) in
        [(DEAD_LETTERS, "dead_letters", 5), (EVENTS, "events", 10), (VERSIONS, "versions", 5)]
    {
        let all = service.list(path, name);
        assert_eq!(all.len(), count, "{name}");
        assert_eq!(paged(&service, path, name), all, "{name}");
        let times: Vec<String> = all.iter().map(|item| text(&item["created_at"])).collect();
        assert!(times.is_sorted_by(|later, earlier| later >= earlier), "{times:?}");
        let ids: BTreeSet<String> = all.iter().map(|item| text(&item["id"])).collect();
        assert_eq!(ids.len(), count, "{name}");
    }
    let payloads: Vec<String> =
        service.dead_letters().iter().map(|letter| text(&letter["payload"])).collect();
    assert_eq!(payloads, ["garbage 4", "garbage 3", "garbage 2", "garbage 1", "garbage 0"]);
}

#[test]
fn a_list_without_a_limit_has_a_hundred_items() {
    let service = started(&[]);
    service.post(OUTCOMES, ND_JSON, "garbage\n".repeat(101));
    let page = service.read(DEAD_LETTERS);
    assert_eq!(page["dead_letters"].as_array().map(Vec::len), Some(100));
    assert!(page["next_before"].is_string());
}

#[test]
fn a_replay_of_what_is_still_bad_leaves_it_once_and_names_what_was_cut() {
    let service = started(&[]);
    let garbage = "x".repeat(64 * 1024 + 1);
    let whole_one = "y".repeat(64 * 1024);
    service.post(OUTCOMES, ND_JSON, format!("{{}}\n{garbage}\n{whole_one}"));
    let letters = service.dead_letters();
    let ids: Vec<Value> = letters.iter().map(|letter| letter["id"].clone()).collect();
    let [kept, cut, empty] = &ids[..] else { panic!("three were refused: {letters:?}") };
    for request in [json!({}), json!({"ids": null}), json!({"ids": [empty, cut, kept]})] {
        let answer = service.post_json(REPLAY, &request);
        assert_eq!(answer.status, 200, "{answer:?}");
        let answer = answer.json();
        assert_eq!((&answer["accepted"], &answer["duplicates"]), (&json!(0), &json!(0)));
        let rejected = answer["rejected"].as_array().expect("it is an array");
        let rejected: Vec<_> = rejected.iter().map(|one| (&one["id"], &one["code"])).collect();
        assert_eq!(rejected, [(empty, &json!("missing_agent_name")), (kept, &json!("not_json"))]);
        assert_eq!(answer["skipped"].as_array().map(Vec::len), Some(1));
        assert_eq!(&answer["skipped"][0]["id"], cut);
        assert_eq!(service.dead_letters(), letters, "{request}");
    }
    let nothing = service.post_json(REPLAY, &json!({"ids": []})).json();
    assert_eq!(nothing["rejected"], json!([]));
    let unknown = service.post_json(REPLAY, &json!({"ids": ["nobody"]})).json();
    assert_eq!(unknown["skipped"][0]["id"], "nobody");
}

#[test]
fn a_dead_letter_that_can_be_learned_now_is_learned_once_under_its_first_identity() {
    let service = started(&[("MAX_TENANTS", "1")]);
    service.learn(&outcomes(1, "amy", "t", "success"));
    let nameless = r#"{"tenant_id": "red", "agent_name": "bob", "status": "success"}"#;
    let named =
        r#"{"event_id": "1", "tenant_id": "red", "agent_name": "bob", "status": "success"}"#;
    let answer = service.refuse(&format!("{nameless}\n{named}\n"));
    assert_eq!(codes(&answer), [(0, "tenant_limit".to_owned()), (1, "tenant_limit".to_owned())]);
    assert_eq!(service.executions("red"), 0);
    let replayed = service.post_json(REPLAY, &json!({})).json();
    assert_eq!((&replayed["accepted"], service.dead_letters().len()), (&json!(0), 2));

    let service = service.restarted(&[("MAX_TENANTS", "2")]);
    let letters = service.dead_letters();
    let id_of = |payload: &str| {
        let letter = letters.iter().find(|letter| letter["payload"] == payload);
        letter.expect("it was kept")["id"].clone()
    };
    let (nameless_id, named_id) = (id_of(nameless), id_of(named));
    let replayed = service.post_json(REPLAY, &json!({"ids": [nameless_id, nameless_id]})).json();
    assert_eq!((&replayed["accepted"], &replayed["duplicates"]), (&json!(1), &json!(1)));
    assert_eq!(service.dead_letters().len(), 1, "what is learned is no dead letter");
    let replayed = service.post_json(REPLAY, &json!({"ids": [nameless_id]})).json();
    assert_eq!((&replayed["accepted"], &replayed["skipped"][0]["id"]), (&json!(0), &nameless_id));
    assert_eq!(
        service.learn(nameless)["accepted"],
        1,
        "the same without an identity is another one"
    );
    assert_eq!(service.learn(named)["accepted"], 1);
    let replayed = service.post_json(REPLAY, &json!({"ids": [named_id]})).json();
    assert_eq!((&replayed["accepted"], &replayed["duplicates"]), (&json!(0), &json!(1)));
    assert!(service.dead_letters().is_empty());
    service.post(WAITING, ND_JSON, "");
    assert_eq!(service.executions("red"), 3);
}

// Learning events and versions

#[test]
fn every_step_leaves_a_learning_event() {
    let service = started(&[("MODEL_BATCH_SIZE", "4")]);
    service.learn(&outcomes(6, "amy", "t", "success"));
    service.learn(&(outcomes(1, "amy", "t", "failure") + &outcomes(1, "amy", "t", "pending")));
    let version = service.save();
    assert_eq!(service.activate(&version).status, 200);
    let mut events = service.list(EVENTS, "events");
    events.reverse();
    let steps: Vec<(String, u64, u64)> = events
        .iter()
        .map(|event| {
            check_shape(
                event,
                &[
                    ("id", Kind::Text),
                    ("event_type", Kind::Text),
                    ("batch_size", Kind::Whole),
                    ("samples_processed", Kind::Whole),
                    ("metrics_before", Kind::Object),
                    ("metrics_after", Kind::Object),
                    ("improvement", Kind::Number),
                    ("duration_ms", Kind::Number),
                    ("created_at", Kind::Time),
                ],
            );
            let size = whole(&event["batch_size"]);
            (text(&event["event_type"]), size, whole(&event["samples_processed"]))
        })
        .collect();
    let expected = [
        ("micro_batch", 4, 4),
        ("micro_batch", 2, 2),
        ("micro_batch", 2, 1),
        ("save", 0, 0),
        ("activation", 0, 0),
    ];
    assert!(
        steps.iter().map(|(name, size, samples)| (name.as_str(), *size, *samples)).eq(expected),
        "{steps:?}"
    );
    assert!(events[0]["model_version_id"].is_null());
    assert_eq!(events[3]["model_version_id"], version.as_str());
    let mut before = &events[0]["metrics_before"];
    for event in &events {
        assert_eq!(&event["metrics_before"], before, "each goes on from the one before");
        before = &event["metrics_after"];
        let change = real(&before["model_score"]) - real(&event["metrics_before"]["model_score"]);
        close(&event["improvement"], change);
    }
    close(&events[1]["metrics_after"]["model_score"], 1.0);
    close(&events[2]["improvement"], -1.0 / 7.0);
    assert_eq!(service.read(METRICS)["total_updates"], 3);
}

#[test]
fn versions_follow_each_other_and_old_ones_lose_their_file() {
    let service = started(&[("MODEL_VERSIONS_MAX", "2")]);
    let mut ids: Vec<String> = Vec::new();
    for number in 1..=4 {
        service.learn(&outcomes(number, "amy", "t", "success"));
        ids.push(service.save());
    }
    let versions = service.list(VERSIONS, "versions");
    let mut samples = 10;
    for (age, (version, status)) in
        versions.iter().zip(["active", "deprecated", "archived", "archived"]).enumerate()
    {
        check_shape(
            version,
            &[
                ("id", Kind::Text),
                ("model_type", Kind::Text),
                ("version_number", Kind::Whole),
                ("parameters", Kind::Object),
                ("metrics", Kind::Object),
                ("model_file_path", Kind::Text),
                ("created_at", Kind::Time),
            ],
        );
        assert_eq!((&version["id"], &version["status"]), (&json!(ids[3 - age]), &json!(status)));
        assert_eq!(version["version_number"], 4 - age);
        assert_eq!(version["training_samples"], samples);
        samples -= 4 - age;
        let parent = versions.get(age + 1).map_or(Value::Null, |older| older["id"].clone());
        assert_eq!(version["parent_version"], parent);
        let file = service.directory.path().join(text(&version["model_file_path"]));
        assert_eq!(file.exists(), status != "archived", "{}", file.display());
    }
    check_problem(&service.activate(&ids[0]), 409);
    check_problem(&service.activate("agent_selection-99"), 404);
    check_problem(&service.activate("nonsense"), 404);
    check_problem(&service.post("/api/learning/models/none/versions/1/activate", JSON, ""), 404);
    assert_eq!(service.executions("default"), 10, "nothing has changed");
    assert_eq!(service.list(VERSIONS, "versions"), versions);
}

#[test]
fn activating_an_older_version_rolls_the_model_back_and_nothing_else() {
    let service = started(&[("MODEL_BATCH_TIMEOUT", "3600")]);
    service.learn(&four_agents());
    let first = service.save();
    let (digest, performance) = (service.digest(), service.learned());
    let question = json!({"task_type": "t", "top_k": 10, "seed": 5});
    let answer = service.ask(&question);

    let between = (0..20).fold(String::new(), |lines, number| {
        let event = json!({"event_id": format!("e-{number}"), "agent_name": "amy", "task_type": "t", "status": "failure", "tenant_id": "default"});
        lines + &format!("{event}\n")
    });
    service.learn(&(between.clone() + &outcomes(3, "eve", "t", "success")));
    let second = service.save();
    // This one is accepted, and its micro-batch open when the version is activated.
    service.post(OUTCOMES, ND_JSON, outcomes(1, "fay", "t", "success"));
    let metrics = service.read(METRICS);
    assert_eq!(metrics["samples_processed"], 63);

    let activated = service.activate(&first);
    assert_eq!(activated.status, 200, "{activated:?}");
    let third = text(&activated.json()["version_id"]);
    assert_eq!(service.digest(), digest);
    assert_eq!(service.learned(), performance);
    let again = service.ask(&question);
    assert_eq!(again["recommendations"], answer["recommendations"]);
    assert_eq!(again["model_score"], answer["model_score"]);
    assert!(whole(&again["model_version"]) > whole(&answer["model_version"]) + 23);
    assert_eq!(service.read(STATUS)["lag"]["records"], 0);

    let later = service.read(METRICS);
    assert_eq!(later["samples_processed"], 64, "the open micro-batch was closed");
    assert_eq!(whole(&later["total_updates"]), whole(&metrics["total_updates"]) + 1);
    assert_eq!(later["current_model_score"], answer["model_score"]);

    let versions = service.list(VERSIONS, "versions");
    let rows: Vec<(&Value, &Value, &Value)> = versions
        .iter()
        .map(|version| (&version["id"], &version["status"], &version["parent_version"]))
        .collect();
    let (first_id, second_id, third_id) = (json!(first), json!(second), json!(third));
    assert_eq!(
        rows,
        [
            (&third_id, &json!("active"), &first_id),
            (&second_id, &json!("deprecated"), &first_id),
            (&first_id, &json!("deprecated"), &Value::Null),
        ]
    );
    assert_eq!(service.read(STATUS)["active_version"], third_id);

    let resent = service.learn(&between);
    assert_eq!((&resent["accepted"], &resent["duplicates"]), (&json!(0), &json!(20)));
    service.learn(&outcomes(2, "amy", "t", "success"));
    assert_eq!(service.performance("")["amy"]["total_executions"], 12);
    let (digest, performance) = (service.digest(), service.learned());

    let service = service.restarted(&[]);
    assert_eq!((service.digest(), service.learned()), (digest.clone(), performance));
    assert_eq!(service.read(METRICS)["samples_processed"], 66);
    assert_eq!(service.learn(&between)["duplicates"], 20);

    // Forward again, to the version that was rolled back.
    assert_eq!(service.activate(&second).status, 200);
    assert_eq!(service.performance("")["eve"]["total_executions"], 3);
    assert_eq!(service.performance("")["amy"]["total_executions"], 30);
    assert_ne!(service.digest(), digest);
    let numbers: Vec<u64> = service
        .list(VERSIONS, "versions")
        .iter()
        .map(|version| whole(&version["version_number"]))
        .collect();
    assert!(numbers.is_sorted_by(|newer, older| newer > older), "{numbers:?}");
}

#[test]
fn an_activation_survives_a_kill_and_version_numbers_are_not_used_again() {
    let service = started(&[]);
    service.learn(&outcomes(3, "amy", "t", "success"));
    let first = service.save();
    service.learn(&outcomes(4, "amy", "t", "failure"));
    assert_eq!(service.activate(&first).status, 200);
    service.learn(&outcomes(1, "amy", "t", "success"));
    let digest = service.digest();
    let Running { service, setup, directory } = service;
    service.kill();
    let service = Running { service: setup.start(), setup, directory };
    assert_eq!(service.digest(), digest);
    assert_eq!(service.executions("default"), 4);
    assert_eq!(service.save(), "agent_selection-3");
    let parent = service.list(VERSIONS, "versions")[0]["parent_version"].clone();
    assert_eq!(parent, "agent_selection-2");
}

// Caps

#[test]
fn a_tenant_past_the_cap_is_refused_and_the_known_ones_go_on() {
    let service = started(&[("MAX_TENANTS", "2")]);
    let event = |tenant: &str| {
        format!("{{\"tenant_id\":\"{tenant}\",\"agent_name\":\"amy\",\"status\":\"success\"}}\n")
    };
    let answer = service.learn(&(event("red") + &event("blue") + &event("green") + &event("red")));
    assert_eq!(
        (&answer["accepted"], codes(&answer)),
        (&json!(3), vec![(2, "tenant_limit".to_owned())])
    );
    let service = service.restarted(&[]);
    assert_eq!(codes(&service.refuse(&event("green"))).len(), 1);
    assert_eq!(service.learn(&event("blue"))["accepted"], 1);
    // A question creates no tenant.
    assert_eq!(names(&service.ask(&json!({"tenant_id": "green", "candidates": ["x"]}))), ["x"]);
    assert_eq!(service.read(STATUS)["caps"]["tenants"], json!({"used": 2, "max": 2}));
}

#[test]
fn names_past_a_cap_count_as_other_and_are_never_recommended() {
    let service = started(&[
        ("MAX_AGENTS", "2"),
        ("MAX_TASK_TYPES", "2"),
        ("MAX_CONTEXT_KEYS", "1"),
        ("MAX_CONTEXT_VALUES", "2"),
        ("MAX_CELLS", "5"),
    ]);
    let event = |agent: &str, task: &str, value: &str| {
        let context = json!({"color": value});
        format!(
            "{}\n",
            json!({"agent_name": agent, "task_type": task, "status": "success", "context": context})
        )
    };
    service.learn(&(event("amy", "t", "red") + &event("bob", "u", "blue")));
    service.learn(
        &(event("cid", "t", "red") + &event("dan", "v", "green") + &event("cid", "v", "pink")),
    );
    service.learn(r#"{"agent_name": "amy", "status": "failure", "context": {"size": 1}}"#);
    let caps = service.read(STATUS)["caps"].clone();
    for (cap, used, max, other) in [
        ("agents_per_tenant", 2, 2, 3),
        ("task_types_per_tenant", 2, 2, 2),
        ("context_keys_per_tenant", 1, 1, 1),
        ("context_values_per_key", 2, 2, 2),
    ] {
        assert_eq!(caps[cap], json!({"used": used, "max": max, "other_outcomes": other}), "{cap}");
    }
    assert_eq!(names(&service.ask(&json!({"top_k": 10, "explore": false}))), ["bob", "amy"]);
    let answer = service.ask(&json!({"candidates": ["amy", "cid"], "top_k": 10}));
    assert_eq!(the_agent(&answer, "cid")["samples"], 0, "it competes from its prior");
    let rows = service.read(PERFORMANCE);
    let rows: Vec<(&Value, &Value)> = rows
        .as_array()
        .expect("it is an array")
        .iter()
        .map(|row| (&row["agent_name"], &row["total_executions"]))
        .collect();
    let expected = [(json!("amy"), 2), (json!("bob"), 1), (json!("other"), 3)];
    assert_eq!(rows.len(), 3);
    for (row, (name, executions)) in rows.iter().zip(&expected) {
        assert_eq!((row.0, row.1), (name, &json!(executions)));
    }
    assert_eq!(service.read(METRICS)["samples_processed"], 6, "each of them is learned from");

    // One more cell: (amy, u) is the fifth, (bob, t) would be the sixth.
    service.learn(&(event("amy", "u", "red") + &event("bob", "t", "red")));
    let cells = service.read(STATUS)["caps"]["cells"].clone();
    assert_eq!(cells, json!({"used": 5, "max": 5, "other_outcomes": 1}));
    assert_eq!(service.performance("")["bob"]["total_executions"], 2);
}

#[test]
fn an_event_has_256_features_at_most() {
    let service = started(&[("MAX_CONTEXT_KEYS", "1000")]);
    let context: BTreeMap<String, u32> =
        (0..300).map(|number| (format!("key-{number}"), number)).collect();
    service.learn(&json!({"agent_name": "a", "status": "success", "context": context}).to_string());
    assert_eq!(service.read(STATUS)["caps"]["context_keys_per_tenant"]["used"], 256);
    assert_eq!(service.read(METRICS)["dropped_fields"], json!({"context_feature": 44}));
}

#[test]
fn the_newest_are_kept_of_what_is_bounded() {
    let service = started(&[
        ("MODEL_BATCH_SIZE", "1"),
        ("LEARNING_EVENTS_MAX", "3"),
        ("DEAD_LETTERS_MAX", "2"),
        ("DEDUP_WINDOW", "4"),
    ]);
    let event = |number: u32| {
        json!({"event_id": number, "agent_name": "amy", "status": "success"}).to_string()
    };
    for number in 1..=4 {
        service.learn(&event(number));
        service.refuse(&format!("garbage {number}"));
    }
    let numbers = |path: &str, name: &str| -> Vec<u64> {
        let ids = service.list(path, name);
        ids.iter().map(|item| text(&item["id"]).parse().expect("it is a number")).collect()
    };
    assert_eq!(numbers(EVENTS, "events"), [4, 3, 2]);
    assert_eq!(numbers(DEAD_LETTERS, "dead_letters"), [4, 3]);
    // All four are remembered, then the fifth takes the place of the first.
    for number in 1..=4 {
        assert_eq!(service.learn(&event(number))["duplicates"], 1, "{number}");
    }
    assert_eq!(service.learn(&event(5))["accepted"], 1);
    let service = service.restarted(&[]);
    for number in 2..=5 {
        assert_eq!(service.learn(&event(number))["duplicates"], 1, "{number}");
    }
    assert_eq!(service.learn(&event(1))["accepted"], 1, "as documented, it counts again");
    assert_eq!(service.executions("default"), 6);
}

// Numbers with a given meaning

#[test]
fn an_agent_that_was_never_learned_from_has_a_success_rate_of_one_half() {
    let service = started(&[]);
    service.learn(&outcomes(2, "amy", "t", "pending"));
    let row = &service.performance("")["amy"];
    close(&row["success_rate"], 0.5);
    close(&row["avg_latency_ms"], 0.0);
    assert_eq!(row["total_executions"], 2);
    let metrics = service.read(METRICS);
    assert_eq!((&metrics["samples_processed"], &metrics["total_updates"]), (&json!(0), &json!(1)));
    close(&metrics["current_model_score"], 0.0);
}

/// `current_model_score` and `improvement_rate` by their definition.
fn expected_scores(rewards: &[f64]) -> (f64, f64) {
    #[expect(clippy::cast_precision_loss, reason = "a few thousand rewards")]
    let mean = |rewards: &[f64]| match rewards.len() {
        0 => 0.0,
        count => rewards.iter().sum::<f64>() / count as f64,
    };
    let (before, window) = rewards.split_at(rewards.len().saturating_sub(1_000));
    let before = &before[before.len().saturating_sub(1_000)..];
    let (score, earlier) = (mean(window), mean(before));
    let rate = if before.len() < 50 || earlier <= 0.0 { 0.0 } else { (score - earlier) / earlier };
    (score, rate)
}

#[test]
fn the_score_is_of_the_last_thousand_and_the_improvement_against_those_before() {
    let mut service = started(&[]);
    let mut rewards: Vec<f64> = Vec::new();
    // Each step: failures, then successes.
    let steps = [(0, 0), (2, 1), (498, 499), (0, 49), (0, 1), (450, 500), (0, 500), (1_500, 0)];
    for (failures, successes) in steps {
        service.learn(
            &(outcomes(failures, "amy", "t", "failure")
                + &outcomes(successes, "amy", "t", "success")),
        );
        rewards.extend(std::iter::repeat_n(0.0, failures));
        rewards.extend(std::iter::repeat_n(1.0, successes));
        let (score, rate) = expected_scores(&rewards);
        let metrics = service.read(METRICS);
        close(&metrics["current_model_score"], score);
        close(&metrics["improvement_rate"], rate);
        close(&service.ask(&json!({}))["model_score"], score);
        assert_eq!(metrics["samples_processed"], rewards.len());
        let updates = ["total_updates", "successful_updates", "failed_updates"]
            .map(|name| whole(&metrics[name]));
        assert_eq!(updates[0], updates[1] + updates[2]);
        assert_eq!(updates[2], 0);
    }
    let before = service.read(METRICS);
    assert!(real(&before["avg_update_time_ms"]) > 0.0);
    service = service.restarted(&[]);
    let after = service.read(METRICS);
    for name in METRIC.map(|(name, _)| name) {
        if name != "updates_per_minute" {
            assert!(
                (real(&before[name]) - real(&after[name])).abs() < 1e-3,
                "{name}: {before} {after}"
            );
        }
    }
    assert!(real(&after["updates_per_minute"]) > 0.0);
}

#[test]
fn there_is_no_improvement_after_a_score_of_zero() {
    let service = started(&[]);
    service.learn(&outcomes(1_000, "amy", "t", "failure"));
    service.learn(&outcomes(900, "amy", "t", "success"));
    let metrics = service.read(METRICS);
    close(&metrics["current_model_score"], 0.9);
    close(&metrics["improvement_rate"], 0.0);
}

//! `/metrics`, and what in `data/` relies on its names.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use online_learning::outcome::hex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::tempdir;

use crate::harness::{Answer, Service, Setup, Wire};

/// A scrape: the type of each family, and each series with its value.
struct Scrape {
    text: String,
    families: BTreeMap<String, String>,
    series: BTreeMap<String, f64>,
}

impl Scrape {
    #[track_caller]
    fn of(service: &Service) -> Self {
        let answer = service.get("/metrics");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        Self::parse(answer.body)
    }

    /// Every line is help, type or a sample of the family before; no series comes twice.
    #[track_caller]
    fn parse(text: String) -> Self {
        let (mut families, mut series) = (BTreeMap::new(), BTreeMap::new());
        let mut helped = BTreeSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("it has both");
                assert!(!help.is_empty() && helped.insert(name.to_owned()), "{line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("it has both");
                assert!(helped.contains(name), "{line}");
                assert_eq!(families.insert(name.to_owned(), kind.to_owned()), None, "{line}");
            } else {
                let (name, value) = line.rsplit_once(' ').expect("it has both");
                let value = match value {
                    "NaN" => f64::NAN,
                    "+Inf" => f64::INFINITY,
                    value => value.parse().unwrap_or_else(|error| panic!("{error}: {line}")),
                };
                assert!(series.insert(name.to_owned(), value).is_none(), "{line} comes twice");
            }
        }
        Self { text, families, series }
    }

    #[track_caller]
    fn value(&self, series: &str) -> f64 {
        *self.series.get(series).unwrap_or_else(|| panic!("no {series} in {}", self.text))
    }

    #[track_caller]
    fn check(&self, series: &str, expected: f64) {
        let value = self.value(series);
        assert!((value - expected).abs() < 1e-9, "{series} is {value}, not {expected}");
    }

    /// The names of all samples.
    fn names(&self) -> BTreeSet<&str> {
        self.series.keys().map(|series| series.split('{').next().expect("it has both")).collect()
    }
}

/// What stands in a text and looks like one of our metrics.
fn metrics_named(text: &str) -> BTreeSet<&str> {
    text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_')
        .filter(|word| word.starts_with("online_learning_") || word.starts_with("process_"))
        .collect()
}

#[test]
fn every_family_is_there_from_the_first_scrape_in_base_units() {
    let directory = tempdir().unwrap();
    let service = Setup::new(directory.path()).start();
    let scrape = Scrape::of(&service);
    let ours: Vec<&String> =
        scrape.families.keys().filter(|name| name.starts_with("online_learning_")).collect();
    assert!(ours.len() >= 30, "{}: {ours:?}", ours.len());
    let units = ["_seconds", "_bytes", "_ratio", "_total", "_records", "_info"];
    for (name, kind) in &scrape.families {
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        assert!(!["_ms", "_millis", "_kb", "_percent"].iter().any(|unit| name.ends_with(unit)));
        let has_sample = scrape.names().iter().any(|sample| sample.starts_with(name.as_str()));
        assert!(has_sample, "{name} has no sample");
    }
    assert!(units.iter().all(|unit| scrape.families.keys().any(|name| name.ends_with(unit))));
    for name in [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_threads",
        "process_start_time_seconds",
    ] {
        // So far it may have used less than a tick of the clock.
        let used = scrape.value(name);
        assert!(used > 0.0 || (used == 0.0 && name == "process_cpu_seconds_total"), "{name}");
    }
    let version = env!("CARGO_PKG_VERSION");
    let info = format!("online_learning_build_info{{strategy=\"thompson\",version=\"{version}\"}}");
    scrape.check(&info, 1.0);
    // The same families when it has learned, been asked, refused and saved.
    use_it(&service);
    let later = Scrape::of(&service);
    assert_eq!(later.families, scrape.families);
    service.stop();
}

fn use_it(service: &Service) {
    let lines: Vec<String> = (0..40)
        .map(|index| {
            let status = if index % 4 == 0 { "failure" } else { "success" };
            json!({"event_id": format!("e{index}"), "agent_name": "a", "status": status,
                   "latency_ms": 250})
            .to_string()
        })
        .collect();
    service.learn(&lines.join("\n"));
    // Once more: all known. And two that nobody can understand.
    service.learn(&lines.join("\n"));
    let nonsense = "{\"agent_name\": \"a\"}\nnonsense\n";
    let refused = service.post("/api/learning/outcomes", "application/x-ndjson", nonsense);
    assert_eq!(refused.status, 422);
    for _ in 0..7 {
        let answer = service.post_json("/api/learning/predict/agent-selection", &json!({}));
        assert_eq!(answer.status, 200);
    }
    assert_eq!(service.post("/api/learning/models/save", "", "").status, 200);
    assert_eq!(service.get("/no/such/path").status, 404);
    assert_eq!(service.get("/api/learning/models/nothing").status, 404);
}

#[test]
fn what_happens_is_counted_where_it_belongs() {
    let directory = tempdir().unwrap();
    let setup = Setup::new(directory.path());
    let service = setup.start();
    use_it(&service);
    let check = |scrape: &Scrape, expected: &[(&str, f64)]| {
        for (name, value) in expected {
            scrape.check(&format!("online_learning_{name}"), *value);
        }
    };
    let scrape = Scrape::of(&service);
    let kept = [
        ("events_received_total{source=\"http\"}", 82.0),
        ("events_accepted_total{source=\"http\"}", 40.0),
        ("events_duplicate_total{source=\"http\"}", 40.0),
        ("events_received_total{source=\"kafka\"}", 0.0),
        ("events_learned_total", 40.0),
        ("batches_total{result=\"success\"}", 4.0),
        ("batches_total{result=\"failure\"}", 0.0),
        ("saves_total{result=\"success\"}", 1.0),
        ("agent_executions{agent=\"a\",tenant=\"default\"}", 40.0),
        ("agent_success_ratio{agent=\"a\",tenant=\"default\"}", 0.75),
        ("agent_latency_seconds{agent=\"a\",tenant=\"default\"}", 0.25),
        ("model_score", 0.75),
        ("agents", 1.0),
    ];
    check(&scrape, &kept);
    for reason in ["missing_status", "not_json"] {
        let series = format!("events_rejected_total{{reason=\"{reason}\",source=\"http\"}}");
        check(&scrape, &[(&series, 1.0)]);
    }
    check(
        &scrape,
        &[
            ("prediction_duration_seconds_count", 7.0),
            ("batch_duration_seconds_count", 4.0),
            ("http_requests_total{route=\"other\",status=\"4xx\"}", 1.0),
            (
                "http_requests_total{route=\"/api/learning/models/{model_type}\",status=\"4xx\"}",
                1.0,
            ),
            ("http_requests_total{route=\"/api/learning/outcomes\",status=\"2xx\"}", 2.0),
            ("http_requests_total{route=\"/api/learning/outcomes\",status=\"4xx\"}", 1.0),
            ("learning_delay_seconds_count", 1.0),
            ("kafka_enabled", 0.0),
        ],
    );
    let brier = scrape.value("online_learning_model_brier_score");
    // Always expecting one half scores 0.25, always expecting success 0.25 here, too.
    assert!((0.1..0.35).contains(&brier), "{brier}");
    assert!(scrape.value("online_learning_database_bytes") > 0.0);
    assert!(scrape.value("online_learning_storage_free_bytes") > 0.0);
    let (saved, started) = (
        scrape.value("online_learning_last_save_timestamp_seconds"),
        scrape.value("process_start_time_seconds"),
    );
    assert!((0.0..600.0).contains(&(saved - started)), "{saved} {started}");
    service.stop();

    // Service counters go on over a restart.
    let again = setup.start();
    check(&Scrape::of(&again), &kept[..6]);
    again.stop();
}

/// What is answered to a request with these lines after the first.
fn asked(service: &Service, method: &str, path: &str, headers: &[&str]) -> Answer {
    let mut wire = Wire::open(service.address).expect("it listens");
    let fields = headers.join("\r\n");
    wire.send(format!("{method} {path} HTTP/1.1\r\n{fields}\r\n\r\n")).expect("it reads");
    wire.answer().expect("it answers")
}

#[test]
fn what_was_not_allowed_is_counted_by_reason_and_what_was_no_request_with_the_others() {
    let directory = tempdir().unwrap();
    let digest = |secret: &str| hex(&Sha256::digest(secret));
    let tokens = directory.path().join("tokens");
    let lines = format!(
        "reader, read, blue, {}\nroot, admin, , {}\n",
        digest("reader-secret"),
        digest("root-secret")
    );
    std::fs::write(&tokens, lines).unwrap();
    let service = Setup::new(&directory.path().join("models"))
        .with("AUTH_TOKENS_FILE", tokens.display())
        .with("RATE_LIMIT", "0.001")
        .with("RATE_LIMIT_BURST", 6)
        .start();
    let (reader, root) =
        ("authorization: Bearer reader-secret", "authorization: Bearer root-secret");
    let scrape = || {
        let answer = asked(&service, "GET", "/metrics", &["host: localhost", root]);
        assert_eq!(answer.status, 200, "{answer:?}");
        Scrape::parse(answer.body)
    };
    let count = |scrape: &Scrape, reason: &str| {
        let name = "online_learning_http_requests_refused_total";
        scrape.value(&format!("{name}{{reason=\"{reason}\"}}"))
    };
    let reasons =
        ["host", "origin", "no_token", "unknown_token", "scope", "tenant", "all_tenants", "rate"];
    let before = scrape();
    assert!(reasons.iter().all(|reason| count(&before, reason) == 0.0), "{}", before.text);

    let performance = "/api/learning/agents/performance";
    let blue = "/api/learning/agents/performance?tenant_id=blue";
    let red = "/api/learning/agents/performance?tenant_id=red";
    for (method, path, headers, status) in [
        ("GET", "/livez", vec!["host: evil.example"], 403),
        ("GET", "/livez", vec!["host: localhost", "origin: http://evil.example"], 403),
        ("GET", performance, vec!["host: localhost"], 401),
        ("GET", performance, vec!["host: localhost", "authorization: Bearer other"], 401),
        ("GET", performance, vec!["host: localhost", "authorization: Bearer another"], 401),
        ("POST", "/api/learning/models/save", vec!["host: localhost", reader], 403),
        ("GET", red, vec!["host: localhost", reader], 403),
        ("GET", "/metrics", vec!["host: localhost", reader], 403),
        ("GET", blue, vec!["host: localhost", reader], 200),
        ("GET", blue, vec!["host: localhost", reader], 200),
        ("GET", blue, vec!["host: localhost", reader], 200),
        ("GET", blue, vec!["host: localhost", reader], 429),
        // No request at all.
        ("GET", "/livez", vec!["host: a b"], 400),
    ] {
        let answer = asked(&service, method, path, &headers);
        assert_eq!(answer.status, status, "{method} {path} {headers:?}: {answer:?}");
    }
    let after = scrape();
    for (reason, wanted) in reasons.iter().zip([1.0, 1.0, 1.0, 2.0, 1.0, 1.0, 1.0, 1.0]) {
        let counted = count(&after, reason);
        assert!((counted - wanted).abs() < 1e-9, "{reason} is {counted}, not {wanted}");
    }
    let requests = "online_learning_http_requests_total";
    after.check(&format!("{requests}{{route=\"/livez\",status=\"4xx\"}}"), 2.0);
    after.check(&format!("{requests}{{route=\"{performance}\",status=\"4xx\"}}"), 5.0);
    after.check(&format!("{requests}{{route=\"other\",status=\"4xx\"}}"), 1.0);
    service.stop();
}

/// `OpenMetrics` 1.0.0, where it differs from the other format.
#[test]
fn open_metrics_is_answered_where_it_is_asked_for() {
    let directory = tempdir().unwrap();
    let service = Setup::new(directory.path()).start();
    use_it(&service);
    service.learn(&json!({"agent_name": "# EOF\n\"{le=\"1\"}\\", "status": "success"}).to_string());
    let accept = |accept: &str| asked(&service, "GET", "/metrics", &["host: localhost", accept]);
    let plain = accept("accept: text/plain, */*");
    assert_eq!(plain.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let plain = Scrape::parse(plain.body);
    let open = accept("accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
    let media = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(open.header("content-type"), Some(media));
    assert_eq!(open.header("vary"), Some("accept"));
    let body = open.body.strip_suffix("\n# EOF\n").expect("the end is marked");

    let (mut families, mut series) = (BTreeMap::new(), BTreeSet::new());
    let mut current = (String::new(), String::new());
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, _) = rest.split_once(' ').expect("it has both");
            current = (name.to_owned(), String::new());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("it has both");
            assert_eq!(name, current.0, "{line}");
            assert_eq!(families.insert(name.to_owned(), kind.to_owned()), None, "{line}");
            kind.clone_into(&mut current.1);
        } else {
            let (labelled, value) = line.rsplit_once(' ').expect("it has both");
            let sample = labelled.split('{').next().expect("it has a name");
            let suffix = sample.strip_prefix(current.0.as_str()).expect("it is of its family");
            let suffixes: &[&str] = match current.1.as_str() {
                "counter" => &["_total"],
                "gauge" => &[""],
                "histogram" => &["_bucket", "_sum", "_count"],
                other => panic!("there is no type {other}"),
            };
            assert!(suffixes.contains(&suffix), "{line}");
            assert!(value == "NaN" || value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
            let mut named = labelled.to_owned();
            if suffix == "_bucket" {
                let bound = labelled.split('"').nth(1).expect("it has a bound");
                assert!(bound == "+Inf" || bound.contains('.'), "{line}");
                named = named.replace(".0\"}", "\"}");
            }
            assert!(series.insert(named), "{line} comes twice");
        }
    }
    let named: BTreeMap<String, String> = plain
        .families
        .iter()
        .map(|(name, kind)| (name.trim_end_matches("_total").to_owned(), kind.clone()))
        .collect();
    assert_eq!(families, named);
    let same: BTreeSet<String> = plain.series.keys().cloned().collect();
    assert_eq!(series, same);
    service.stop();
}

#[test]
fn however_many_agents_there_are_few_are_shown_and_the_rest_is_one() {
    let directory = tempdir().unwrap();
    let service = Setup::new(directory.path()).with("METRICS_AGENTS_MAX", 5).start();
    let lines: String = (0..40_u32)
        .flat_map(|agent| {
            let name =
                if agent == 39 { "other \"\n\\".to_owned() } else { format!("agent{agent}") };
            std::iter::repeat_n(
                json!({"agent_name": name, "status": "success"}).to_string(),
                agent as usize + 1,
            )
        })
        .map(|line| line + "\n")
        .collect();
    service.learn(&lines);
    let scrape = Scrape::of(&service);
    let of = |name: &str| {
        let prefix = format!("online_learning_{name}{{");
        scrape
            .series
            .iter()
            .filter(move |(series, _)| series.starts_with(&prefix))
            .collect::<Vec<_>>()
    };
    for name in ["agent_executions", "agent_success_ratio", "agent_latency_seconds"] {
        assert_eq!(of(name).len(), 6, "{name}: {:?}", of(name));
    }
    let total: f64 = of("agent_executions").iter().map(|(_, value)| **value).sum();
    assert!((total - f64::from((1..=40).sum::<u32>())).abs() < 1e-9, "{total}");
    scrape.check(
        "online_learning_agent_executions{agent=\"other\",tenant=\"\"}",
        f64::from((1..=35).sum::<u32>()),
    );
    let odd = "online_learning_agent_executions{agent=\"other \\\"\\n\\\\\",tenant=\"default\"}";
    scrape.check(odd, 40.0);
    service.stop();
}

#[test]
fn rules_and_dashboard_name_only_what_is_there() {
    let directory = tempdir().unwrap();
    let service = Setup::new(directory.path()).start();
    let scrape = Scrape::of(&service);
    let there = scrape.names();
    let rules = include_str!("../../data/alert_rules.yml");
    let dashboard = include_str!("../../data/grafana_dashboard.json");
    let parsed: Value = serde_json::from_str(dashboard).expect("the dashboard is JSON");
    let panels = parsed["panels"].as_array().expect("it has panels");
    let expressions: Vec<&str> = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().expect("each panel has targets"))
        .map(|target| target["expr"].as_str().expect("each target has an expression"))
        .collect();
    assert!(expressions.len() >= panels.len() && panels.len() >= 20, "{}", panels.len());
    for (file, text) in [("rules", rules), ("dashboard", &expressions.join("\n"))] {
        let named = metrics_named(text);
        assert!(named.len() >= 10, "{file}: {named:?}");
        for name in named {
            assert!(there.contains(name), "the {file} name {name}, which is not there");
        }
    }
    service.stop();
}

/// Prometheus' own checks of a scrape and of the rules.
#[test]
fn promtool_has_nothing_to_say() {
    let is_there = Command::new("promtool").arg("--version").output().is_ok();
    if !is_there {
        #[expect(clippy::print_stderr, reason = "a test that proves nothing has to say so")]
        {
            eprintln!("skipped: promtool is not there");
        }
        return;
    }
    let directory = tempdir().unwrap();
    let service = Setup::new(directory.path()).start();
    let first = Scrape::of(&service).text;
    use_it(&service);
    for text in [first, Scrape::of(&service).text] {
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = promtool.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success() && said.trim().is_empty(), "{said}");
    }
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/data/alert_rules.yml");
    let output = Command::new("promtool").args(["check", "rules", rules]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    service.stop();
}

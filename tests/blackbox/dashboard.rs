//! What the dashboard is made of: samples over time, plots, what can be asked for.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::harness::{Service, Setup, eventually};

const PLOTS: [&str; 6] = ["posterior", "best", "traffic", "score", "calibration", "latency"];

/// Outcomes of three agents on two task types; the last one's name is markup.
fn outcomes(count: usize) -> String {
    let agents = ["solid", "lucky", "<img src=x onerror=alert(1)>"];
    let line = |index: usize| {
        let is_good = [3, 5].into_iter().any(|each| index.is_multiple_of(each));
        let event = json!({
            "agent_name": agents[index % 3],
            "task_type": if index.is_multiple_of(2) { "review" } else { "search" },
            "status": if is_good { "success" } else { "failure" },
            "latency_ms": 100 + index,
        });
        format!("{event}\n")
    };
    (0..count).map(line).collect()
}

#[track_caller]
fn plot(service: &Service, query: &str) -> String {
    let answer = service.get(&format!("/plots/{query}"));
    assert_eq!(answer.status, 200, "{query}: {answer:?}");
    assert_eq!(answer.header("content-type"), Some("image/svg+xml; charset=utf-8"));
    assert_eq!(answer.header("cross-origin-resource-policy"), Some("cross-origin"));
    assert!(answer.body.starts_with("<svg ") && answer.body.trim_end().ends_with("</svg>"));
    assert!(answer.body.len() < 100_000, "{query}: {} bytes", answer.body.len());
    answer.body
}

/// All samples and those of a model version that was sampled before.
fn samples(directory: &Path) -> (i64, i64) {
    let file = directory.join("online-learning.db");
    let database = rusqlite::Connection::open(file).expect("it can be opened");
    let sql = "SELECT count(*), count(*) - count(DISTINCT model_version) FROM samples";
    let counts = database.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)));
    counts.expect("they can be counted")
}

#[test]
fn plots_show_what_was_learned_and_samples_survive_a_restart() {
    let directory = tempdir().unwrap();
    let setup = Setup::new(directory.path()).with("SAMPLE_INTERVAL", 0.05);
    let service = setup.start();
    for name in PLOTS {
        assert!(plot(&service, &format!("{name}.svg")).contains("Nothing"), "{name}");
    }
    service.learn(&outcomes(60));
    let first =
        eventually("a sample is taken", || Some(samples(directory.path()).0).filter(|n| *n > 0));
    service.learn(&outcomes(90));
    eventually("another is taken", || (samples(directory.path()).0 > first).then_some(()));
    for name in PLOTS {
        let drawn = plot(&service, &format!("{name}.svg"));
        assert!(!drawn.contains("Nothing") && !drawn.contains("<img"), "{name}: {drawn}");
        assert!(drawn.contains("<polyline") || drawn.contains("<polygon"), "{name}: {drawn}");
    }
    let best = plot(&service, "best.svg");
    assert!(best.contains("&lt;img src=x onerror=alert(1)&gt; "), "{best}");
    assert!(plot(&service, "latency.svg").contains("p95 1"), "milliseconds");
    service.stop();

    let service = setup.start();
    let again = plot(&service, "best.svg");
    let line = |svg: &str| svg.lines().find(|line| line.contains("<polyline")).map(str::to_owned);
    assert_eq!(line(&again), line(&best), "nothing was learned since");
    // Time in which many samples could have been taken.
    eventually("it has run for a second", || {
        (service.get("/api/learning/status").json()["uptime_seconds"].as_u64()? >= 1).then_some(())
    });
    assert_eq!(samples(directory.path()).1, 0, "none while idle, also after a restart");
    service.stop();
}

#[test]
fn latencies_are_those_of_the_task_type_that_is_asked_for() {
    let directory = tempdir().unwrap();
    let service = Setup::new(directory.path()).with("SAMPLE_INTERVAL", 0.05).start();
    let lines: Vec<String> = (0..40)
        .map(|index| {
            let (task, latency_ms) = if index % 4 == 0 { ("slow", 9_000) } else { ("quick", 20) };
            let event = json!({"agent_name": "a", "task_type": task, "status": "success",
                               "latency_ms": latency_ms});
            format!("{event}\n")
        })
        .collect();
    service.learn(&lines.concat());
    let of = |query: &str| plot(&service, &format!("latency.svg?{query}"));
    let said = eventually("a sample is taken", || {
        let said = ["", "task_type=slow", "task_type=quick"].map(of);
        said[0].contains("p50 ").then_some(said)
    });
    let cases = [["20 ms", "9 s"], ["9 s", "9 s"], ["20 ms", "20 ms"]];
    for (drawn, [p50, p95]) in said.iter().zip(cases) {
        let legend = [format!("p50 {p50}"), format!("p95 {p95}")];
        assert!(legend.iter().all(|entry| drawn.contains(entry)), "{legend:?}: {drawn}");
    }
    assert!(said[1].contains("Latency of completed executions, slow"), "{}", said[1]);
    service.stop();
}

#[test]
fn plots_are_of_the_tenant_task_type_theme_and_size_that_is_asked_for() {
    let directory = tempdir().unwrap();
    let service = Setup::new(directory.path()).with("SAMPLE_INTERVAL", 0.05).start();
    service.learn(&outcomes(30));
    service.learn("{\"agent_name\": \"other\", \"tenant_id\": \"t\", \"status\": \"success\"}\n");
    let of = |query: &str| plot(&service, &format!("posterior.svg?{query}"));
    assert!(of("").contains("solid") && !of("").contains("other"));
    assert!(of("tenant_id=t").contains("other") && !of("tenant_id=t").contains("solid"));
    assert!(of("tenant_id=nobody").contains("Nothing is known of any agent yet."));
    assert!(of("task_type=review").contains("Chance of success, review"));
    assert_ne!(of("task_type=review").replace("review", "search"), of("task_type=search"));
    assert!(of("theme=dark").contains("#171D26") && !of("theme=light").contains("#171D26"));
    assert!(of("width=400").starts_with("<svg width=\"400\""));
    assert!(of("hours=1").contains("solid"));
    for wrong in ["theme=blue", "width=279", "width=1201", "width=x", "hours=0", "hours=2161"] {
        let answer = service.get(&format!("/plots/best.svg?{wrong}"));
        assert_eq!(answer.status, 422, "{wrong}: {answer:?}");
    }
    for nothing in ["none.svg", "best", "best.png", ""] {
        assert_eq!(service.get(&format!("/plots/{nothing}")).status, 404, "{nothing}");
    }
    service.stop();
}

#[test]
fn the_catalog_names_what_can_be_asked_for() {
    let directory = tempdir().unwrap();
    let service = Setup::new(directory.path()).start();
    let catalog = || service.get("/api/learning/catalog").json();
    let all = json!({"scope": "admin", "tenant_id": null});
    let none: [&str; 0] = [];
    let expected = json!({"caller": all, "tenants": none, "task_types": none, "agents": none,
                          "context_keys": none, "context_types": {}});
    assert_eq!(catalog(), expected);
    service.learn(&outcomes(6));
    service.learn(
        "{\"agent_name\": \"a\", \"tenant_id\": \"t\", \"status\": \"success\", \"context\": {\"k\": 1}}\n",
    );
    assert_eq!(catalog()["tenants"], json!(["default", "t"]));
    assert_eq!(catalog()["task_types"], json!(["review", "search"]));
    assert_eq!(catalog()["agents"], json!(["<img src=x onerror=alert(1)>", "lucky", "solid"]));
    let of_t = service.get("/api/learning/catalog?tenant_id=t").json();
    assert_eq!((&of_t["agents"], &of_t["context_keys"]), (&json!(["a"]), &json!(["k"])));
    service.stop();
}

#[test]
fn performance_says_what_is_expected_of_each_agent() {
    let directory = tempdir().unwrap();
    let service = Setup::new(directory.path()).start();
    service.learn(&outcomes(300));
    // Only one agent has ever told what it costs.
    let paid = |status: &str| json!({"agent_name": "solid", "task_type": "search", "status": status, "cost": 0.25});
    service.learn(&format!("{}\n", paid("success")));
    for query in ["", "&task_type=search"] {
        let path = format!("/api/learning/agents/performance?outlook=true{query}");
        let rows = service.get(&path).json();
        let rows: &Vec<Value> = rows.as_array().unwrap();
        assert_eq!(rows.len(), 3);
        let real = |row: &Value, field: &str| row[field].as_f64().unwrap();
        let best: f64 = rows.iter().map(|row| real(row, "probability_best")).sum();
        assert!((best - 1.0).abs() < 1e-9, "{rows:?}");
        for (index, row) in rows.iter().enumerate() {
            let [low, high] = [0, 1].map(|end| row["interval"][end].as_f64().unwrap());
            let expected = real(row, "expected_success");
            assert!(0.0 < low && low < expected && expected < high && high < 1.0, "{row}");
            assert_eq!(row["plot_index"], index, "in the order of names");
            assert_eq!(row["latency_p95_ms"].is_number(), query.is_empty(), "{row}");
        }
        // Latency, cost and who is unbeaten are what the other calls say of the same task.
        let task = if query.is_empty() { json!({}) } else { json!({"task_type": "search"}) };
        for (measure, field) in [("latency", "expected_latency_ms"), ("cost", "expected_cost")] {
            let path = format!("/api/learning/predict/{measure}");
            let said = service.post_json(&path, &task).json()["predictions"].clone();
            for row in rows {
                let of = |said: &&Value| said["agent_name"] == row["agent_name"];
                let said = said.as_array().unwrap().iter().find(of).unwrap();
                let expected = if measure == "cost" && row["agent_name"] != "solid" {
                    assert!(said["mean"].is_number(), "as the others: {said}");
                    &Value::Null
                } else {
                    &said["mean"]
                };
                assert_eq!(&row[field], expected, "{row}, {said}");
            }
        }
        let path = format!("/api/learning/agents/pareto?{query}");
        let front = service.get(&path).json()["pareto"].clone();
        for row in rows {
            let is_on_front = |of: &Value| of["agent_name"] == row["agent_name"];
            let is_unbeaten = front.as_array().unwrap().iter().any(is_on_front);
            assert_eq!(row["unbeaten"], is_unbeaten, "{row}");
            assert!(real(row, "expected_latency_p95_ms") > real(row, "expected_latency_ms"));
        }
        let first = rows
            .iter()
            .max_by(|a, b| real(a, "expected_success").total_cmp(&real(b, "expected_success")));
        assert_eq!(first.unwrap()["agent_name"], "solid", "it always succeeds");
    }
    service.stop();
}

//! Quality, latency and cost: predicted, saved and restored.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Service, Setup};

const MODEL_TYPES: [&str; 4] =
    ["agent_selection", "quality_prediction", "latency_prediction", "cost_prediction"];

/// Three agents, 40 outcomes each: `fast` is cheap and poor, `slow` good and dear, and of `silent`
/// nothing but success is known.
fn outcomes() -> String {
    let mut lines = Vec::new();
    for index in 0..40 {
        let spread = 1.0 + 0.01 * f64::from(index % 7);
        lines.push(json!({"agent_name": "fast", "task_type": "t", "status": "success",
            "latency_ms": 100.0 * spread, "quality_score": 0.4, "cost_estimate": 0.01 * spread}));
        lines.push(json!({"agent_name": "slow", "task_type": "t", "status": "success",
            "latency_ms": 4_000.0 * spread, "quality_score": 0.9, "cost_estimate": 0.2 * spread}));
        lines.push(json!({"agent_name": "silent", "task_type": "t", "status": "success"}));
    }
    lines.iter().map(Value::to_string).collect::<Vec<_>>().join("\n")
}

#[track_caller]
fn predict(service: &Service, measure: &str, request: &Value) -> Vec<Value> {
    let answer = service.post_json(&format!("/api/learning/predict/{measure}"), request);
    assert_eq!(answer.status, 200, "{answer:?}");
    let body = answer.json();
    assert!(body["timestamp"].as_str().is_some_and(|time| time.ends_with("+00:00")), "{body}");
    body["predictions"].as_array().expect("it is a list").clone()
}

fn agents(predictions: &[Value]) -> Vec<&str> {
    predictions.iter().map(|row| row["agent_name"].as_str().expect("it has a name")).collect()
}

#[test]
fn each_measure_is_predicted_best_first_with_its_evidence() {
    let directory = TempDir::new().unwrap();
    let service = Setup::new(directory.path()).start();
    assert!(predict(&service, "cost", &json!({})).is_empty());
    let nothing = predict(&service, "cost", &json!({"candidates": ["a"]}));
    let expected = json!([{"agent_name": "a", "mean": null, "interval": null, "samples": 0,
                           "evidence": "insufficient"}]);
    assert_eq!(json!(nothing), expected, "unknown is not zero");

    service.learn(&outcomes());
    let on_task = json!({"task_type": "t"});
    for (measure, first, mean, fields) in
        [("quality", "slow", 0.9, 5), ("latency", "fast", 103.0, 8), ("cost", "fast", 0.0103, 5)]
    {
        let predictions = predict(&service, measure, &on_task);
        let best = &predictions[0];
        assert_eq!(best["agent_name"], first, "{measure}");
        assert_eq!((&best["samples"], &best["evidence"]), (&json!(40), &json!("established")));
        let seen = best["mean"].as_f64().unwrap();
        assert!((seen / mean - 1.0).abs() < 0.05, "{measure}: {seen}");
        let interval: Vec<f64> = serde_json::from_value(best["interval"].clone()).unwrap();
        assert!(interval[0] < seen && seen < interval[1], "{measure}: {best}");
        assert_eq!(best.as_object().unwrap().len(), fields, "{measure}: {best}");
        let silent = predictions.iter().find(|row| row["agent_name"] == "silent").unwrap();
        assert_eq!(silent["evidence"], "insufficient", "{measure}");
        assert!(silent["mean"].as_f64().unwrap() > 0.0, "{measure}: it is answered from the pool");
    }
    let latency = predict(&service, "latency", &on_task);
    let of = |field: &str| latency[0][field].as_f64().unwrap();
    assert!(of("p50") < of("p95") && of("p95") < of("p99"));

    let request = json!({"candidates": ["slow", "new", "fast"], "exclude": ["fast"], "top_k": 2});
    assert_eq!(agents(&predict(&service, "quality", &request)), ["slow", "new"]);
    let other = json!({"task_type": "t", "tenant_id": "another"});
    assert!(predict(&service, "quality", &other).is_empty());
    let refused = service.post_json("/api/learning/predict/latency", &json!({"top_k": 0}));
    assert_eq!((refused.status, &refused.json()["errors"][0]["pointer"]), (422, &json!("/top_k")));
    assert_eq!(service.get("/api/learning/predict/cost").header("allow"), Some("POST"));
}

#[test]
fn a_version_holds_all_models_and_any_of_its_rows_activates_them() {
    let directory = TempDir::new().unwrap();
    let setup = Setup::new(directory.path());
    let service = setup.start();
    service.learn(&outcomes());
    let request = json!({"task_type": "t", "top_k": 2});
    let before: Vec<_> = ["quality", "latency", "cost"]
        .iter()
        .map(|measure| predict(&service, measure, &request))
        .collect();
    assert_eq!(service.post("/api/learning/models/save", "", "").status, 200);
    let slower = json!({"agent_name": "fast", "task_type": "t", "status": "success",
                        "latency_ms": 9_000, "quality_score": 0.1, "cost_estimate": 3});
    service.learn(&vec![slower.to_string(); 50].iter().enumerate().fold(
        String::new(),
        |lines, (index, event)| {
            lines + &event.replacen('{', &format!("{{\"event_id\":{index},"), 1) + "\n"
        },
    ));
    assert_ne!(predict(&service, "cost", &request), before[2]);

    let status = service.get("/api/learning/status").json();
    assert_eq!(status["models_loaded"], json!(MODEL_TYPES));
    for model_type in MODEL_TYPES {
        let path = format!("/api/learning/models/{model_type}");
        let model = service.get(&path).json();
        assert_eq!(model["model_type"], model_type);
        assert_eq!(model["active_version"], format!("{model_type}-1"));
        let versions = service.get(&format!("{path}/versions")).json()["versions"].clone();
        assert_eq!(versions.as_array().unwrap().len(), 1, "{versions}");
        assert_eq!(versions[0]["id"], format!("{model_type}-1"));
    }
    assert_eq!(service.get("/api/learning/models/success_prediction").status, 404);

    let path = "/api/learning/models/cost_prediction/versions/cost_prediction-1/activate";
    assert_eq!(service.post(path, "", "").json()["version_id"], "agent_selection-2");
    let after = |service: &Service| -> Vec<_> {
        ["quality", "latency", "cost"]
            .iter()
            .map(|measure| predict(service, measure, &request))
            .collect()
    };
    assert_eq!(after(&service), before);
    for model_type in MODEL_TYPES {
        let versions = service.get(&format!("/api/learning/models/{model_type}/versions")).json();
        assert_eq!(versions["versions"][0]["parent_version"], format!("{model_type}-1"));
    }
    service.kill();
    let service = setup.start();
    assert_eq!(after(&service), before);
    service.stop();
}

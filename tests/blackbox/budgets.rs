//! Spending caps: what was spent is counted once, against what may be.

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::harness::{Service, Setup};

const MONTHLY: &str = "/api/learning/budgets/default";

fn cost(id: u32, status: &str, more: &Value) -> String {
    let mut event = json!({"event_id": format!("e{id}"), "agent_name": "a", "status": status});
    for (key, value) in more.as_object().expect("it is an object") {
        event[key] = value.clone();
    }
    format!("{event}\n")
}

#[track_caller]
fn spent(service: &Service, path: &str) -> f64 {
    let answer = service.get(path);
    assert_eq!(answer.status, 200, "{answer:?}");
    let budget = answer.json();
    let number = |name: &str| budget[name].as_f64().unwrap_or_else(|| panic!("{name}: {budget}"));
    let (spent, share) = (number("spent"), number("share_spent"));
    assert!((share - spent / number("amount")).abs() < 1e-12, "{budget}");
    assert!((0.0..1.0).contains(&number("share_elapsed")), "{budget}");
    let rush = share / number("share_elapsed").max(0.01);
    // Time goes on between two looks at the clock.
    assert!((number("cost_weight") - rush.max(1.0)).abs() < 1e-3 * rush.max(1.0), "{budget}");
    assert_eq!(budget["exhausted"], share >= 1.0, "{budget}");
    assert!(budget["period_start"].as_str() < budget["period_end"].as_str(), "{budget}");
    spent
}

#[test]
fn every_outcome_is_paid_for_once_also_over_a_crash_and_a_rollback() {
    let directory = tempdir().expect("there is room");
    let setup = Setup::new(directory.path()).with("MODEL_SAVE_INTERVAL", 0);
    let service = setup.start();
    assert_eq!(service.get(MONTHLY).status, 404);
    // Money is counted from the start, whether or not there is a cap yet.
    service.learn(&cost(1, "success", &json!({"cost_estimate": 0.25})));
    let set = service.put_json(MONTHLY, &json!({"amount": 2.0, "period": "month"}));
    assert_eq!((set.status, &set.json()["tenant_id"]), (200, &json!("default")), "{set:?}");
    assert!((spent(&service, MONTHLY) - 0.25).abs() < 1e-12);

    let saved = service.post("/api/learning/models/save", "application/json", "").json();
    let version = saved["version_id"].as_str().expect("it has an id").to_owned();
    // Failures cost money, too; what goes on has not; what came before is a duplicate; what another
    // tenant spends is its own; of an unknown cost nothing is known.
    let lines = [
        cost(1, "success", &json!({"cost_estimate": 0.25})),
        cost(2, "failure", &json!({"cost_estimate": 0.5})),
        cost(3, "cancelled", &json!({"cost": 1.0})),
        cost(4, "pending", &json!({"cost_estimate": 64.0})),
        cost(5, "success", &json!({"cost_estimate": 64.0, "tenant_id": "other"})),
        cost(6, "success", &json!({})),
        cost(7, "success", &json!({"cost_estimate": 64.0, "timestamp": "2020-01-01T00:00:00Z"})),
        cost(9, "success", &json!({"cost_estimate": 64.0, "timestamp": "the day before"})),
    ];
    service.learn(&lines.concat());
    assert!((spent(&service, MONTHLY) - 1.75).abs() < 1e-12);
    let back = format!("/api/learning/models/agent_selection/versions/{version}/activate");
    assert_eq!(service.post(&back, "application/json", "").status, 200);
    assert!((spent(&service, MONTHLY) - 1.75).abs() < 1e-12, "money does not come back");

    service.kill();
    let service = setup.start();
    assert!((spent(&service, MONTHLY) - 1.75).abs() < 1e-12);
    service.learn(&lines.concat());
    service.learn(&cost(8, "success", &json!({"cost_estimate": 0.25})));
    assert!((spent(&service, MONTHLY) - 2.0).abs() < 1e-12, "and nothing is left");

    let other = "/api/learning/budgets/other";
    assert_eq!(service.put_json(other, &json!({"amount": 128, "period": "month"})).status, 200);
    assert!((spent(&service, other) - 64.0).abs() < 1e-12);
    assert_eq!(service.put_json(other, &json!({"amount": 32, "period": "day"})).status, 200);
    assert_eq!(service.get(other).json()["period"], "day", "the newest stands");
    let list = service.get("/api/learning/budgets").json()["budgets"].clone();
    let spent =
        [0, 1].map(|place| (list[place]["tenant_id"].clone(), list[place]["spent"].as_f64()));
    assert_eq!(spent, [(json!("default"), Some(2.0)), (json!("other"), Some(64.0))], "{list}");
    assert_eq!(service.delete(other).status, 200);
    assert_eq!((service.get(other).status, service.delete(other).status), (404, 404));
    service.stop();
}

#[track_caller]
fn check_refused(service: &Service, body: &Value, pointer: &str) {
    let answer = service.put_json(MONTHLY, body);
    assert_eq!(answer.status, 422, "{answer:?}");
    let problem = answer.json();
    assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    let detail = problem["errors"][0]["detail"].as_str().expect("it is a text");
    assert!(detail.contains("allowed is"), "{detail}");
}

#[test]
fn what_makes_no_sense_is_told() {
    let directory = tempdir().expect("there is room");
    let service = Setup::new(directory.path()).with("MAX_TENANTS", 2).start();
    for amount in
        [json!(0), json!(-1), json!(1e-310), json!(1e300), json!("5"), json!(null), json!([1])]
    {
        check_refused(&service, &json!({"amount": amount, "period": "day"}), "/amount");
    }
    check_refused(&service, &json!({"period": "day"}), "/amount");
    for period in [json!("week"), json!("Day"), json!(1), json!(null)] {
        check_refused(&service, &json!({"amount": 1, "period": period}), "/period");
    }
    let long = format!("/api/learning/budgets/{}", "x".repeat(257));
    let budget = json!({"amount": 1, "period": "day"});
    assert_eq!(service.put_json(&long, &budget).status, 422);
    assert_eq!(service.get(MONTHLY).status, 404, "nothing was set");

    let post = service.post_json(MONTHLY, &budget);
    assert_eq!((post.status, post.header("allow")), (405, Some("GET, HEAD, PUT, DELETE")));
    for (tenant, status) in [("a", 200), ("b%2Fc", 200), ("d", 409), ("a", 200)] {
        let path = format!("/api/learning/budgets/{tenant}");
        assert_eq!(service.put_json(&path, &budget).status, status, "{tenant}");
    }
    assert_eq!(service.get("/api/learning/budgets/b%2Fc").json()["tenant_id"], "b/c");
    service.stop();
}

//! Who may ask for what: tokens, scopes, tenants, rates, hosts, origins, and what the log says of it.

use std::fs;
use std::path::{Path, PathBuf};

use online_learning::outcome::hex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::harness::{Answer, Service, Setup, Wire, eventually, free_address, program};

const PREDICT: &str = "/api/learning/predict/agent-selection";
const OUTCOMES: &str = "/api/learning/outcomes";
const ND_JSON: &str = "application/x-ndjson";

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("there is room for a directory")
}

/// A line of the file of tokens; the token of `name` is `<name>-secret`.
fn line(name: &str, scope: &str, tenant: &str) -> String {
    let digest = hex(&Sha256::digest(format!("{name}-secret")));
    format!("{name}, {scope}, {tenant}, {digest}\n")
}

fn tokens(directory: &Path) -> PathBuf {
    let file = directory.join("tokens");
    let lines = [
        line("reader", "read", ""),
        line("reporter", "ingest", "*"),
        line("root", "admin", ""),
        line("red", "ingest", "red"),
        line("red-root", "admin", "red"),
    ];
    fs::write(&file, lines.concat()).expect("it can be written");
    file
}

/// Sends a request with these further header lines.
#[track_caller]
fn ask(service: &Service, method: &str, path: &str, headers: &[String], body: &str) -> Answer {
    let mut wire = Wire::open(service.address).expect("it listens");
    let host = if headers.iter().any(|line| line.starts_with("host:")) {
        String::new()
    } else {
        format!("host: {}\r\n", service.address)
    };
    let headers = headers.iter().flat_map(|line| [line, "\r\n"]).collect::<String>();
    let length = match body.len() {
        0 => String::new(),
        length => format!("content-length: {length}\r\n"),
    };
    wire.send(format!(
        "{method} {path} HTTP/1.1\r\n{host}{headers}{length}connection: close\r\n\r\n{body}"
    ))
    .expect("it is taken");
    wire.answer().unwrap_or_else(|error| panic!("{method} {path}: {error}"))
}

/// Asks with the token of that name, or none.
#[track_caller]
fn with_token(service: &Service, token: &str, method: &str, path: &str, body: &str) -> Answer {
    let media = if path.starts_with(OUTCOMES) { ND_JSON } else { "application/json" };
    let mut headers = vec![format!("content-type: {media}")];
    if !token.is_empty() {
        headers.push(format!("authorization: Bearer {token}-secret"));
    }
    ask(service, method, path, &headers, body)
}

#[test]
fn each_scope_reaches_its_routes_and_no_more() {
    let directory = directory();
    let service = Setup::new(directory.path())
        .with("AUTH_TOKENS_FILE", tokens(directory.path()).display())
        .start();
    let activate = "/api/learning/models/agent_selection/versions/none/activate";
    // For each route the answer to: nobody, a wrong token, reader, reporter, root, red, red-root.
    let cases = [
        ("GET", "/livez", [200; 7]),
        ("GET", "/readyz", [200; 7]),
        ("GET", "/readyz?verbose", [401, 401, 200, 200, 200, 200, 200]),
        ("GET", "/health", [401, 401, 200, 200, 200, 200, 200]),
        ("POST", PREDICT, [401, 401, 200, 200, 200, 200, 200]),
        ("POST", "/ofrep/v1/evaluate/flags/t", [401, 401, 400, 400, 400, 400, 400]),
        ("GET", "/api/learning/status", [401, 401, 200, 200, 200, 200, 200]),
        ("GET", "/api/learning/agents/performance", [401, 401, 200, 200, 200, 200, 200]),
        ("GET", "/api/learning/catalog", [401, 401, 200, 200, 200, 200, 200]),
        ("GET", "/plots/posterior.svg", [401, 401, 200, 200, 200, 200, 200]),
        ("GET", "/plots/best.svg", [401, 401, 200, 200, 200, 200, 200]),
        ("GET", "/plots/traffic.svg", [401, 401, 200, 200, 200, 200, 200]),
        ("GET", "/plots/latency.svg", [401, 401, 200, 200, 200, 200, 200]),
        ("GET", "/plots/score.svg", [401, 401, 200, 200, 200, 403, 403]),
        ("GET", "/plots/calibration.svg", [401, 401, 200, 200, 200, 403, 403]),
        ("GET", "/api/learning/metrics", [401, 401, 200, 200, 200, 403, 403]),
        ("GET", "/api/learning/models/agent_selection", [401, 401, 200, 200, 200, 403, 403]),
        (
            "GET",
            "/api/learning/models/agent_selection/versions",
            [401, 401, 200, 200, 200, 403, 403],
        ),
        ("GET", "/api/learning/events", [401, 401, 200, 200, 200, 403, 403]),
        ("GET", "/api/learning/budgets", [401, 401, 200, 200, 200, 200, 200]),
        ("GET", "/api/learning/budgets/red", [401, 401, 404, 404, 404, 404, 404]),
        ("GET", "/api/learning/budgets/blue", [401, 401, 404, 404, 404, 403, 403]),
        ("PUT", "/api/learning/budgets/red", [401, 401, 403, 403, 422, 403, 403]),
        ("DELETE", "/api/learning/budgets/red", [401, 401, 403, 403, 404, 403, 403]),
        ("DELETE", "/api/learning/agents/nobody", [401, 401, 403, 403, 404, 403, 404]),
        ("POST", OUTCOMES, [401, 401, 403, 202, 202, 202, 202]),
        ("POST", "/api/learning/models/save", [401, 401, 403, 403, 200, 403, 403]),
        ("POST", activate, [401, 401, 403, 403, 404, 403, 403]),
        ("GET", "/api/learning/dead-letters", [401, 401, 403, 403, 200, 403, 403]),
        ("POST", "/api/learning/dead-letters/replay", [401, 401, 403, 403, 200, 403, 403]),
    ];
    for (method, path, expected) in cases {
        let askers = ["", "wrong", "reader", "reporter", "root", "red", "red-root"];
        for (asker, status) in askers.into_iter().zip(expected) {
            let answer = with_token(&service, asker, method, path, "");
            assert_eq!(answer.status, status, "{asker:?} {method} {path}: {answer:?}");
            let challenge = answer.header("www-authenticate").unwrap_or_default();
            assert_eq!(
                challenge.starts_with("Bearer "),
                status == 401 || challenge.contains("scope")
            );
            if status == 401 {
                assert_eq!(challenge.contains("invalid_token"), asker == "wrong", "{challenge}");
            }
        }
    }
    service.stop();
}

#[test]
fn a_token_with_a_tenant_asks_and_reports_for_that_one_alone() {
    let directory = directory();
    let service = Setup::new(directory.path())
        .with("AUTH_TOKENS_FILE", tokens(directory.path()).display())
        .start();
    let report = |token: &str, body: &str| {
        with_token(&service, token, "POST", &format!("{OUTCOMES}?wait=true"), body)
    };
    let own = "{\"agent_name\": \"a\", \"status\": \"success\"}\n\
               {\"agent_name\": \"b\", \"status\": \"success\", \"tenant_id\": \"red\"}\n\
               {\"agent_name\": \"c\", \"status\": \"late\"}";
    let answer = report("red", own);
    assert_eq!((answer.status, &answer.json()["accepted"]), (200, &json!(2)), "{answer:?}");
    // One line of another tenant, and nothing of the body is taken.
    for named in [
        "\"tenant_id\": \"blue\"",
        "\"metadata\": {\"tenant_id\": \"default\"}",
        "\"resolved\": {\"tenant_id\": \"blue\"}",
    ] {
        let foreign = format!(
            "{{\"agent_name\": \"d\", \"status\": \"success\"}}\n\
             {{\"agent_name\": \"d\", \"status\": \"success\", {named}}}"
        );
        let answer = report("red", &foreign);
        assert_eq!(answer.status, 403, "{named}: {answer:?}");
    }
    let array = vec![
        "content-type: application/json".to_owned(),
        "authorization: Bearer red-secret".to_owned(),
    ];
    let foreign = "[{\"agent_name\": \"d\", \"status\": \"success\", \"tenant_id\": \"blue\"}]";
    assert_eq!(ask(&service, "POST", OUTCOMES, &array, foreign).status, 403);
    let native = "[{\"agent_name\": \"e\", \"status\": \"success\"}]";
    let answer = ask(&service, "POST", &format!("{OUTCOMES}?wait=true"), &array, native);
    assert_eq!(answer.json()["accepted"], 1);

    let agents = |token: &str, query: &str| {
        let path = format!("/api/learning/agents/performance{query}");
        let answer = with_token(&service, token, "GET", &path, "");
        let rows = answer.json();
        let names = rows.as_array().into_iter().flatten().map(|row| row["agent_name"].clone());
        (answer.status, names.collect::<Vec<Value>>())
    };
    let red = (200, vec![json!("a"), json!("b"), json!("e")]);
    assert_eq!(agents("red", ""), red);
    assert_eq!(agents("red", "?tenant_id=red"), red);
    assert_eq!(agents("red", "?tenant_id=default").0, 403);
    assert_eq!(agents("root", "?tenant_id=red"), red);
    assert_eq!(agents("root", ""), (200, Vec::new()));

    let predict =
        |token: &str, body: &Value| with_token(&service, token, "POST", PREDICT, &body.to_string());
    let answer = predict("red", &json!({"decision_id": "d-1", "seed": 1}));
    assert_eq!(answer.json()["recommendations"].as_array().map(Vec::len), Some(3));
    // The same decision, also when the tenant is named, and by whoever may.
    for (token, named) in [
        ("red", json!({"decision_id": "d-1", "seed": 1, "tenant_id": "red"})),
        ("root", json!({"decision_id": "d-1", "seed": 1, "tenant_id": "red"})),
    ] {
        assert_eq!(predict(token, &named).json(), answer.json(), "{token}");
    }
    assert_eq!(predict("red", &json!({"tenant_id": "blue"})).status, 403);

    for tenant in ["red", "blue"] {
        let path = format!("/api/learning/budgets/{tenant}");
        let budget = r#"{"amount": 1, "period": "day"}"#;
        assert_eq!(with_token(&service, "root", "PUT", &path, budget).status, 200);
    }
    for (token, expected) in [("root", &["blue", "red"][..]), ("red", &["red"])] {
        let list = with_token(&service, token, "GET", "/api/learning/budgets", "").json();
        let budgets = list["budgets"].as_array().expect("it is a list").iter();
        let tenants: Vec<&Value> = budgets.map(|budget| &budget["tenant_id"]).collect();
        assert_eq!(tenants, expected, "{token}");
    }

    // A dead letter comes back without its token, and stays with the tenant.
    let letters = with_token(&service, "root", "GET", "/api/learning/dead-letters", "").json();
    let payload = letters["dead_letters"][0]["payload"].as_str().expect("it is text");
    let payload: Value = serde_json::from_str(payload).expect("it is JSON");
    assert_eq!((&payload["agent_name"], &payload["tenant_id"]), (&json!("c"), &json!("red")));
    service.stop();
}

/// However a verdict names its tenant, the token's is checked against the one that is judged.
#[test]
fn a_token_with_a_tenant_judges_for_that_one_alone() {
    let directory = directory();
    let service = Setup::new(directory.path())
        .with("AUTH_TOKENS_FILE", tokens(directory.path()).display())
        .start();
    for tenant in ["default", "red", "blue"] {
        let event = json!({
            "agent_name": "a", "status": "pending", "event_id": "e", "tenant_id": tenant,
        });
        let answer = with_token(&service, "reporter", "POST", OUTCOMES, &event.to_string());
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    let judge = |verdict: &Value| {
        with_token(&service, "red", "POST", "/api/learning/feedback", &verdict.to_string())
    };
    for named in [
        json!({"tenant_id": "blue"}),
        json!({"tenant_id": "default"}),
        json!({"metadata": {"tenant_id": "blue"}}),
    ] {
        let mut verdict = named.clone();
        verdict["event_id"] = json!("e");
        verdict["status"] = json!("failure");
        assert_eq!(judge(&verdict).status, 403, "{named}");
    }
    for (named, quality, cost) in [
        (json!({"metadata": {"tenant_id": "red"}}), Some(0.5), None),
        (json!({"resolved": {"tenant_id": "red"}}), None, Some(1)),
        (json!({"tenant_id": null}), None, None),
    ] {
        let mut verdict = named.clone();
        verdict["event_id"] = json!("e");
        verdict["quality_score"] = json!(quality);
        verdict["cost_estimate"] = json!(cost);
        if quality.is_none() && cost.is_none() {
            verdict["status"] = json!("success");
        }
        let answer = judge(&verdict);
        assert_eq!((answer.status, &answer.json()["accepted"]), (200, &json!(1)), "{named}");
    }
    let statuses = |tenant: &str| {
        let path = format!("/api/learning/agents/performance?tenant_id={tenant}");
        let rows = with_token(&service, "root", "GET", &path, "").json();
        let statuses = &rows[0]["statuses"];
        (statuses["pending"].clone(), statuses["success"].clone())
    };
    assert_eq!(statuses("red"), (json!(0), json!(1)));
    for other in ["default", "blue"] {
        assert_eq!(statuses(other), (json!(1), json!(0)), "{other}");
        let verdict =
            json!({"event_id": "e", "tenant_id": other, "quality_score": 1, "cost_estimate": 2});
        let answer =
            with_token(&service, "root", "POST", "/api/learning/feedback", &verdict.to_string());
        assert_eq!(answer.json()["accepted"], 1, "{other}: it was judged before: {answer:?}");
    }
    service.stop();
}

/// What a tenant sees does not tell how much others report.
#[test]
fn a_tenant_learns_nothing_of_the_others_from_numbers() {
    let directory = directory();
    let service = Setup::new(directory.path())
        .with("AUTH_TOKENS_FILE", tokens(directory.path()).display())
        .start();
    let report = |tenant: &str, status: &str, count: usize| {
        let event = json!({"agent_name": "a", "status": status, "tenant_id": tenant});
        let lines = format!("{event}\n").repeat(count);
        let path = format!("{OUTCOMES}?wait=true");
        assert_eq!(with_token(&service, "root", "POST", &path, &lines).status, 200);
    };
    report("red", "success", 4);
    report("red", "failure", 1);
    report("blue", "failure", 7);
    let seen = || {
        let get = |path: &str| {
            let mut answer = with_token(&service, "red", "GET", path, "").json();
            answer.as_object_mut().expect("it is an object").remove("uptime_seconds");
            answer
        };
        let question = r#"{"explore": false}"#;
        let mut answer = with_token(&service, "red", "POST", PREDICT, question).json();
        for field in ["timestamp", "decision_id"] {
            answer.as_object_mut().expect("it is an object").remove(field);
        }
        [get("/api/learning/status"), get("/health"), get("/readyz?verbose"), answer]
    };
    let before = seen();
    let [status, health, ready, answer] = &before;
    assert_eq!((&answer["model_score"], &answer["model_version"]), (&json!(0.8), &json!(5)));
    assert_eq!((&health["samples_processed"], &health["model_version"]), (&json!(5), &json!(5)));
    assert_eq!((&status["model_version"], &ready["model_version"]), (&json!(5), &json!(5)));
    for total in ["lag", "queue", "journal_sequence", "last_event", "dead_letters_total"] {
        assert_eq!(status.get(total), None, "{total}");
    }
    assert_eq!(status["caps"]["agents_per_tenant"]["used"], 1);
    assert_eq!(status["caps"].get("tenants"), None);
    report("blue", "success", 50);
    with_token(&service, "root", "POST", PREDICT, r#"{"tenant_id": "blue"}"#);
    assert_eq!(seen(), before);
    // Those who run the service see all of it.
    let all = with_token(&service, "root", "GET", "/api/learning/status", "").json();
    assert_eq!((&all["model_version"], &all["journal_sequence"]), (&json!(62), &json!(62)));
    assert_eq!(all["caps"]["tenants"]["used"], 2);
    let metrics = with_token(&service, "root", "GET", "/api/learning/metrics", "").json();
    assert_eq!(metrics["current_model_score"], 54.0 / 62.0);

    let question = r#"{"tenant_id": "red", "decision_id": "d-1"}"#;
    let answer = with_token(&service, "root", "POST", PREDICT, question).json();
    assert_eq!((&answer["model_score"], &answer["model_version"]), (&json!(0.8), &json!(62)));
    let event = json!({"agent_name": "a", "status": "success", "decision_id": "d-1"}).to_string();
    let path = format!("{OUTCOMES}?wait=true");
    assert_eq!(with_token(&service, "red", "POST", &path, &event).status, 200);
    let recorded = |token: &str| {
        let path = "/api/learning/decisions/d-1?tenant_id=red";
        eventually("it is recorded", || {
            let answer = with_token(&service, token, "GET", path, "");
            (answer.status == 200).then(|| answer.json())
        })
    };
    let of_root = recorded("root");
    assert_eq!(of_root["answer"]["model_version"], 62);
    assert_eq!(
        (&of_root["model_version"], &of_root["outcome"]["journal_sequence"]),
        (&json!(62), &json!(63))
    );
    let of_red = recorded("red");
    assert_eq!(of_red.get("model_version"), None);
    assert_eq!(of_red["outcome"].get("journal_sequence"), None);
    assert_eq!(of_red["answer"].get("model_version"), None);
    assert_eq!(of_red["explain"]["model_version"], 6);
    service.stop();
}

#[test]
fn a_tenants_administrator_removes_its_own_agents_only() {
    let directory = directory();
    let service = Setup::new(directory.path())
        .with("AUTH_TOKENS_FILE", tokens(directory.path()).display())
        .start();
    for tenant in ["red", "blue"] {
        let event = json!({"agent_name": "a/b c", "status": "success", "tenant_id": tenant});
        let path = format!("{OUTCOMES}?wait=true");
        assert_eq!(with_token(&service, "root", "POST", &path, &event.to_string()).status, 200);
    }
    let agent = "/api/learning/agents/a%2Fb%20c";
    let remove = |token: &str, query: &str| {
        with_token(&service, token, "DELETE", &format!("{agent}{query}"), "").status
    };
    assert_eq!(remove("red-root", "?tenant_id=blue"), 403);
    assert_eq!(remove("red-root", ""), 200);
    assert_eq!(remove("red-root", "?tenant_id=red"), 404);
    assert_eq!(remove("root", ""), 404, "the default tenant has none");
    assert_eq!(remove("root", "?tenant_id=blue"), 200);
    service.stop();
}

#[test]
fn tokens_are_read_again_on_sighup_and_a_wrong_file_changes_nothing() {
    let directory = directory();
    let file = tokens(directory.path());
    let mut service = Setup::new(directory.path()).with("AUTH_TOKENS_FILE", file.display()).start();
    let status = |service: &Service, token: &str| {
        with_token(service, token, "GET", "/api/learning/status", "").status
    };
    assert_eq!((status(&service, "reader"), status(&service, "new")), (200, 401));
    fs::write(&file, line("new", "read", "")).expect("it can be written");
    assert_eq!(status(&service, "reader"), 200, "nobody has said that it changed");
    service.signal("HUP");
    service.wait_for_log("tokens=reloaded count=1");
    assert_eq!((status(&service, "reader"), status(&service, "new")), (401, 200));

    fs::write(&file, format!("{}broken, read", line("reader", "read", ""))).expect("it is written");
    service.signal("HUP");
    service.wait_for_log("tokens=unchanged");
    let log = service.log();
    assert!(log.contains("line 2: has 2 fields"), "{log}");
    assert_eq!((status(&service, "reader"), status(&service, "new")), (401, 200));
    service.stop();
}

#[test]
fn a_service_without_tokens_outlives_a_sighup() {
    let directory = directory();
    let mut service = Setup::new(directory.path()).start();
    service.signal("HUP");
    service.wait_for_log("tokens=none reload=nothing");
    assert_eq!(service.get("/livez").status, 200);
    service.stop();
}

#[test]
fn a_start_that_would_let_everybody_in_is_refused_unless_that_is_spelled_out() {
    let directory = directory();
    let mut open = free_address();
    open.set_ip([0, 0, 0, 0].into());
    let mut refused = Setup::new(&directory.path().join("a")).spawn(open);
    assert_eq!(refused.wait().code(), Some(2));
    let log = refused.log();
    for said in ["LISTEN_ADDR", "0.0.0.0", "AUTH_TOKENS_FILE", "--insecure"] {
        assert!(log.contains(said), "{said}: {log}");
    }
    assert!(!directory.path().join("a").exists(), "it has touched nothing");

    for setup in [
        Setup::new(directory.path()).with("LISTEN_INSECURE", "true"),
        Setup::new(directory.path()).argument("--insecure"),
        Setup::new(directory.path()).with("AUTH_TOKENS_FILE", tokens(directory.path()).display()),
    ] {
        let mut service = setup.spawn(open);
        eventually("it listens", || {
            service.try_get("/readyz").ok().filter(|answer| answer.status == 200)
        });
        // Under any address, and under no foreign name.
        let host =
            |host: &str| ask(&service, "GET", "/livez", &[format!("host: {host}")], "").status;
        assert_eq!(
            (host("192.0.2.7:8000"), host("[2001:db8::1]"), host("evil.example")),
            (200, 200, 403)
        );
        service.signal("TERM");
        assert_eq!(service.wait().code(), Some(0), "{}", service.log());
    }
    let wrong = directory.path().join("wrong");
    fs::write(&wrong, "a, read, *, SECRET").expect("it can be written");
    for (file, says) in [(wrong, "line 1"), (directory.path().join("missing"), "No such file")] {
        let mut refused = Setup::new(directory.path())
            .with("AUTH_TOKENS_FILE", file.display())
            .spawn(free_address());
        assert_eq!(refused.wait().code(), Some(2));
        let log = refused.log();
        assert!(log.contains("AUTH_TOKENS_FILE") && log.contains(says), "{log}");
        assert!(!log.contains("SECRET"), "{log}");
    }
}

#[test]
fn no_web_page_reaches_a_loopback_service() {
    let directory = directory();
    let service =
        Setup::new(directory.path()).with("ALLOWED_HOSTS", "learn.example.org, b").start();
    let port = service.address.port();
    let host = |host: &str| {
        let answer = ask(&service, "GET", "/api/learning/status", &[format!("host: {host}")], "");
        (answer.status, answer.header("access-control-allow-origin").map(str::to_owned))
    };
    for own in
        [&format!("localhost:{port}"), "LOCALHOST", "127.0.0.1", "[::1]:1", "Learn.Example.org"]
    {
        assert_eq!(host(own), (200, None), "{own}");
    }
    // As a page of a name that was rebound to loopback asks.
    for foreign in
        [&format!("evil.example:{port}"), "192.0.2.7", "localhost.evil.example", "0.0.0.0"]
    {
        assert_eq!(host(foreign), (403, None), "{foreign}");
    }
    let origin = |origin: &str, method: &str, path: &str| {
        let headers = [
            format!("host: localhost:{port}"),
            format!("origin: {origin}"),
            "content-type: text/plain".to_owned(),
        ];
        let answer = ask(&service, method, path, &headers, "");
        assert_eq!(answer.header("access-control-allow-origin"), None);
        answer.status
    };
    for foreign in ["https://evil.example", "http://localhost:1", "null", "http://127.0.0.1"] {
        assert_eq!(origin(foreign, "POST", "/api/learning/models/save"), 403, "{foreign}");
        assert_eq!(origin(foreign, "OPTIONS", OUTCOMES), 403, "{foreign}");
        assert_eq!(origin(foreign, "GET", "/api/learning/status"), 403, "{foreign}");
    }
    for own in [&format!("http://localhost:{port}"), "https://learn.example.org"] {
        assert_eq!(origin(own, "POST", "/api/learning/models/save"), 200, "{own}");
    }
    let saved = service.get("/api/learning/metrics").json();
    assert_eq!(saved["saves"], 2, "those of its own pages, and none of the others");
    service.stop();
}

#[test]
fn answers_carry_the_headers_that_keep_browsers_in_bounds() {
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    for path in ["/livez", "/api/learning/status", "/nothing"] {
        let answer = service.get(path);
        let policy = answer.header("content-security-policy").unwrap_or_default();
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}");
        }
        for absent in ["set-cookie", "access-control-allow-origin", "server"] {
            assert_eq!(answer.header(absent), None, "{path}");
        }
    }
    service.stop();
}

/// Those of the server too, which no handler sees.
#[test]
fn what_is_no_request_or_one_too_many_is_answered_like_everything_else() {
    let directory = directory();
    let service = Setup::new(directory.path()).with("HTTP_MAX_CONNECTIONS", 20).start();
    let check = |answer: &Answer, status: u16| {
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        let id = answer.header("x-request-id").expect("there is one");
        assert_eq!((id.len(), &answer.json()["request_id"]), (36, &json!(id)));
        for (name, value) in [
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
            ("cross-origin-resource-policy", "same-origin"),
            ("connection", "close"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{status}");
        }
    };
    for (request, status) in [
        ("nonsense\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\r\nexpect: tea\r\n\r\n", 417),
        (&format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(20_000)), 431),
        ("GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n", 501),
        ("GET / HTTP/2.0\r\nhost: a\r\n\r\n", 505),
    ] {
        let mut wire = Wire::open(service.address).unwrap();
        wire.send(request).unwrap();
        check(&wire.answer().unwrap(), status);
    }
    // Each of these is under way until its body comes, so there is no room for another.
    let mut open = Vec::new();
    let last = eventually("there are too many", || {
        let mut wire = Wire::open(service.address).unwrap();
        wire.send(format!(
            "POST {OUTCOMES} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {ND_JSON}\r\n\
             content-length: 1\r\n\r\n"
        ))
        .unwrap();
        open.push(wire);
        let answer = Wire::open(service.address).unwrap().get("/api/learning/status").unwrap();
        (answer.status != 200).then_some(answer)
    });
    check(&last, 503);
    assert!((18..=20).contains(&open.len()), "{}", open.len());
    drop(open);
    service.stop();
}

#[test]
fn what_an_admin_does_is_logged_with_the_name_of_the_token() {
    let directory = directory();
    let mut service = Setup::new(directory.path())
        .with("AUTH_TOKENS_FILE", tokens(directory.path()).display())
        .start();
    let event = "{\"agent_name\":\"a b\",\"status\":\"success\"}";
    with_token(&service, "reporter", "POST", &format!("{OUTCOMES}?wait=true"), event);
    with_token(&service, "reporter", "POST", PREDICT, "{}");
    let acts = [
        ("root", "POST", "/api/learning/models/save", "", 200),
        ("root", "POST", "/api/learning/models/agent_selection/versions/x/activate", "", 404),
        ("root", "POST", "/api/learning/models/import", "{}", 422),
        ("root", "POST", "/api/learning/dead-letters/replay", "{}", 200),
        ("root", "PUT", "/api/learning/budgets/red", "{}", 422),
        ("root", "DELETE", "/api/learning/agents/a%20b", "", 200),
        ("red-root", "DELETE", "/api/learning/agents/a%20b", "", 404),
    ];
    for (token, method, path, body, status) in acts {
        let answer = with_token(&service, token, method, path, body);
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        let id = answer.header("x-request-id").expect("there is one");
        let line =
            format!("admin=acted token={token} method={method} path=\"{path}\" status={status}");
        eventually(&format!("{line} {id} is logged"), || {
            let log = service.log();
            log.lines().any(|logged| logged.contains(&line) && logged.contains(id)).then_some(())
        });
    }
    // Looking is no act, and who may not act did not.
    with_token(&service, "root", "GET", "/api/learning/dead-letters", "");
    with_token(&service, "reader", "POST", "/api/learning/models/save", "");
    let log = service.log();
    assert_eq!(log.matches("admin=").count(), acts.len(), "{log}");
    assert!(!log.contains("-secret"), "{log}");
}

#[test]
fn a_request_id_is_in_the_answer_in_problems_and_in_the_log() {
    let directory = directory();
    let mut service = Setup::new(directory.path())
        .with("RUST_LOG", "debug")
        .with("LOG_FORMAT", "json")
        .with("AUTH_TOKENS_FILE", tokens(directory.path()).display())
        .start();
    let get = |path: &str, id: &str| {
        let headers =
            [format!("x-request-id: {id}"), "authorization: Bearer root-secret".to_owned()];
        ask(&service, "GET", path, &headers, "")
    };
    let answer = get("/api/learning/status", "mine-1");
    assert_eq!(answer.header("x-request-id"), Some("mine-1"));
    let problem = get("/api/learning/events?limit=x", "mine-2");
    assert_eq!((problem.status, &problem.json()["request_id"]), (422, &json!("mine-2")));
    assert_eq!(problem.header("content-type"), Some("application/problem+json"));
    for bad in ["a b", "x\"y", &"x".repeat(129), ""] {
        let answer = get("/api/learning/status", bad);
        let id = answer.header("x-request-id").expect("there is one").to_owned();
        assert_eq!((id.len(), id.split('-').count()), (36, 5), "{bad:?} became {id}");
    }
    let one = service.get("/livez").header("x-request-id").map(str::to_owned);
    assert_ne!(one, service.get("/livez").header("x-request-id").map(str::to_owned));

    service.wait_for_log("mine-2");
    service.signal("TERM");
    assert_eq!(service.wait().code(), Some(0));
    let log = service.log();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let line = lines.iter().find(|line| line["request_id"] == "mine-1").expect("it is logged");
    let said = line["message"].as_str().unwrap_or_default();
    assert!(said.contains("status=200") && said.contains("token=root"), "{line}");
    assert!(lines.iter().any(|line| line["level"] == "INFO" && line.get("request_id").is_none()));
    assert!(lines.iter().all(|line| line["time"].as_str().is_some_and(|time| time.ends_with('Z'))));
    assert!(!log.contains("root-secret"), "{log}");
}

#[test]
fn each_token_has_its_rate() {
    let directory = directory();
    let service = Setup::new(directory.path())
        .with("AUTH_TOKENS_FILE", tokens(directory.path()).display())
        .with("RATE_LIMIT", "0.01")
        .with("RATE_LIMIT_BURST", "3")
        .start();
    let status = |token: &str| with_token(&service, token, "GET", "/api/learning/status", "");
    for _ in 0..3 {
        assert_eq!(status("reader").status, 200);
    }
    let answer = status("reader");
    assert_eq!(answer.status, 429, "{answer:?}");
    let wait: u64 =
        answer.header("retry-after").and_then(|text| text.parse().ok()).expect("a number");
    assert!((90..=100).contains(&wait), "one comes back every 100 s, said was {wait}");
    assert_eq!(status("root").status, 200, "others have their own");
    assert_eq!(with_token(&service, "reader", "GET", "/livez", "").status, 200);
    service.stop();
}

#[test]
fn the_commands_can_send_a_token() {
    let directory = directory();
    let service = Setup::new(directory.path())
        .with("AUTH_TOKENS_FILE", tokens(directory.path()).display())
        .start();
    let file = directory.path().join("token");
    fs::write(&file, "root-secret\n").expect("it can be written");
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/data/sample_outcomes.jsonl");
    let run = |arguments: &[&str], token: bool| {
        let mut command = program();
        command.args(arguments).env("ONLINE_LEARNING_URL", service.url(""));
        if token {
            command.env("ONLINE_LEARNING_TOKEN_FILE", &file);
        }
        let output = command.output().expect("the program can be run");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let url = service.url("");
    let evaluate = ["evaluate", "--policy", "greedy", "--tenant", "simulation-1", "--url", &url];
    let commands: [&[&str]; 5] = [
        &["import", sample, "--url", &url],
        &["predict", "--task-type", "code_review"],
        &["simulate", "--tasks", "50"],
        &evaluate,
        &["dispatch", "--task-type", "code_review", "--", "true"],
    ];
    for arguments in commands {
        let (code, said) = run(arguments, false);
        assert_eq!(code, Some(1), "{arguments:?}: {said}");
        assert!(said.contains("a token is needed"), "{said}");
        let (code, said) = run(arguments, true);
        assert_eq!(code, Some(0), "{arguments:?}: {said}");
    }
    fs::write(&file, "\n").expect("it can be written");
    let (code, said) = run(&["predict"], true);
    assert_eq!((code, said.contains("--token-file")), (Some(2), true), "{said}");
    service.stop();
}

#[test]
fn the_journal_gets_priorities_and_other_files_do_not() {
    use std::os::unix::fs::MetadataExt;
    let directory = directory();
    let file = directory.path().join("log");
    let log = fs::File::create(&file).expect("it can be made");
    let seen = log.metadata().expect("it is open");
    for (inode, starts) in [(seen.ino(), "<6>"), (seen.ino() + 1, "20")] {
        log.set_len(0).expect("it is a file");
        let mut child = Setup::new(&directory.path().join("state"))
            .with("JOURNAL_STREAM", format!("{}:{inode}", seen.dev()))
            .command(free_address())
            .stderr(fs::File::options().append(true).open(&file).expect("it is there"))
            .spawn()
            .expect("the program can be run");
        let said = eventually("it logs", || {
            let said = fs::read_to_string(&file).expect("it can be read");
            said.contains("service=started").then_some(said)
        });
        child.kill().expect("it is our child");
        child.wait().expect("it is our child");
        for line in said.lines() {
            assert!(line.starts_with(starts), "{said}");
        }
    }
}

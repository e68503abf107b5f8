//! Kill -9 at any moment: what was acknowledged is counted once, and the model is the one that an
//! uninterrupted run learns from the same journal.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, SystemTime};

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::harness::{
    Answer, Service, Setup, copy_files, eventually, free_address, without_decisions,
};

const NDJSON: &str = "application/x-ndjson";
const OUTCOMES: &str = "/api/learning/outcomes";
const TENANTS: [&str; 3] = ["default", "acme", "globex"];
const AGENTS: [&str; 5] = ["ReActAgent", "ToolUseAgent", "PlannerAgent", "Critic", "Écrivain"];
const TASKS: [&str; 4] = ["code_review", "compliance_analysis", "triage", "summary"];
/// Each with whether it is learned from.
const STATUSES: [(&str, bool); 6] = [
    ("success", true),
    ("failure", true),
    ("partial", true),
    ("timeout", true),
    ("cancelled", false),
    ("pending", false),
];

/// Of `CRASH_SEED`, else a new one; printed, so that a run can be repeated (its timing can't).
fn seed() -> u64 {
    let seed = std::env::var("CRASH_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.map_or(0, |now| u64::from(now.subsec_nanos()))
    });
    #[expect(clippy::print_stderr, reason = "shown when the test fails")]
    {
        eprintln!("CRASH_SEED={seed}");
    }
    seed
}

fn rng(seed: u64) -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(seed)
}

fn pick<T: Copy>(rng: &mut Xoshiro256PlusPlus, all: &[T]) -> T {
    all[rng.random_range(0..all.len())]
}

/// Settings under which everything that is written now and then is written often.
fn busy(directory: &Path) -> Setup {
    Setup::new(directory)
        .with("CHECKPOINT_OUTCOMES", 1_000)
        .with("MODEL_SAVE_INTERVAL", 1)
        .with("MODEL_BATCH_SIZE", 7)
        .with("MODEL_BATCH_TIMEOUT", "0.05")
}

/// An event with an identity of its own.
fn event(rng: &mut Xoshiro256PlusPlus, id: &str) -> Value {
    let mut event = json!({
        "event_id": id,
        "tenant_id": pick(rng, &TENANTS),
        "agent_name": pick(rng, &AGENTS),
        "status": pick(rng, &STATUSES).0,
        "latency_ms": rng.random_range(1.0..5_000.0),
        "context": {"complexity": pick(rng, &["low", "high"]), "size": rng.random_range(0..100)},
    });
    if rng.random_bool(0.8) {
        event["task_type"] = pick(rng, &TASKS).into();
    }
    if rng.random_bool(0.5) {
        event["quality_score"] = rng.random_range(0.0..1.0).into();
    }
    event
}

#[test]
fn fifty_kills_under_load_lose_nothing_and_count_nothing_twice() {
    const KILLS: usize = 50;
    const KILLS_AT_START: usize = 10;
    let seed = seed();
    let mut rng = rng(seed);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let setup = busy(directory.path());
    let field = Field::default();
    let mut ledger = Ledger::default();
    let mut service = None;
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..6)
            .map(|number| {
                let field = &field;
                scope.spawn(move || client(number, seed, field))
            })
            .collect();
        let saver = scope.spawn(|| save_now_and_then(&field));
        for kill in 0..KILLS {
            if kill % (KILLS / KILLS_AT_START) == 0 {
                let starting = setup.spawn(free_address());
                let moment = Duration::from_micros(rng.random_range(0..60_000));
                std::thread::sleep(moment);
                starting.kill();
            }
            let running = setup.start();
            field.open(running.address);
            // A random amount of progress, then a random moment within what is going on.
            let goal = field.acknowledged.load(SeqCst) + rng.random_range(1..120);
            eventually("the clients get on", || {
                (field.acknowledged.load(SeqCst) >= goal).then_some(())
            });
            std::thread::sleep(Duration::from_micros(rng.random_range(0..15_000)));
            field.close();
            running.kill();
        }
        let last = setup.start();
        field.open(last.address);
        field.stop.store(true, SeqCst);
        for client in clients {
            ledger.add(client.join().expect("the client saw only right answers"));
        }
        saver.join().expect("the saver saw only right answers");
        service = Some(last);
    });
    let service = service.expect("it was started last");
    service.learn("");

    check_counts(&service, &ledger);
    let (digest, sequence) = state(&service);
    assert_eq!(sequence, ledger.events(), "each event is one journal entry");
    service.kill();

    let copy = tempfile::tempdir().expect("a temporary directory");
    copy_files(directory.path(), copy.path());
    remove_restart_points(copy.path());
    let mut from_the_prior = busy(copy.path()).start();
    from_the_prior.wait_for_log(&format!("model=restored sequence={sequence} from=0 "));
    assert_eq!(state(&from_the_prior), (digest.clone(), sequence), "learned from the prior");

    let mut restarted = setup.start();
    assert!(!restarted.log().contains(" from=0 "), "a checkpoint was used: {}", restarted.log());
    assert_eq!(state(&restarted), (digest, sequence), "learned with {KILLS} kills");
    restarted.stop();
    check_no_leftovers(directory.path());
}

#[test]
fn a_kill_during_the_very_first_start_does_not_keep_the_next_one_from_starting() {
    let mut rng = rng(seed());
    for kill in 0..40 {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let setup = Setup::new(directory.path());
        let starting = setup.spawn(free_address());
        // The moment that matters is when the database is made.
        eventually("it has begun", || {
            directory.path().join("online-learning.db").exists().then_some(())
        });
        std::thread::sleep(Duration::from_micros(rng.random_range(0..4_000)));
        starting.kill();
        let service = setup.start();
        service.learn(&event(&mut rng, "1").to_string());
        assert_eq!(state(&service).1, 1, "kill {kill}");
    }
}

/// Where the service is now, and what the clients have achieved together.
#[derive(Default)]
struct Field {
    address: Mutex<Option<SocketAddr>>,
    acknowledged: AtomicU64,
    stop: AtomicBool,
}

impl Field {
    fn open(&self, address: SocketAddr) {
        *self.address.lock().expect("no holder panics") = Some(address);
    }

    /// No new request after this: the port may soon be somebody else's.
    fn close(&self) {
        *self.address.lock().expect("no holder panics") = None;
    }

    fn address(&self) -> SocketAddr {
        eventually("the service is back", || *self.address.lock().expect("no holder panics"))
    }

    /// Sends until it is answered; `None` when the service was gone or busy.
    fn post(&self, agent: &ureq::Agent, path: &str, media: &str, body: &str) -> Option<Answer> {
        let url = format!("http://{}{path}", self.address());
        let mut response = agent.post(url).content_type(media).send(body).ok()?;
        let status = response.status().as_u16();
        let body = response.body_mut().read_to_string().ok()?;
        (status != 503).then_some(Answer { status, headers: Vec::new(), body })
    }
}

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(20)))
        .http_status_as_error(false)
        .build();
    config.into()
}

/// What clients sent and what they were told.
#[derive(Default)]
struct Ledger {
    /// Unique events by tenant and agent.
    executions: BTreeMap<(String, String), u64>,
    learned: u64,
    /// Lines in requests that were acknowledged, each once.
    lines: u64,
    accepted: u64,
    duplicates: u64,
    rejected: u64,
}

impl Ledger {
    fn events(&self) -> u64 {
        self.executions.values().sum()
    }

    fn note(&mut self, event: &Value) {
        let name = |key: &str| event[key].as_str().expect("it is a string").to_owned();
        *self.executions.entry((name("tenant_id"), name("agent_name"))).or_default() += 1;
        let status = STATUSES.iter().find(|(status, _)| event["status"] == *status);
        self.learned += u64::from(status.expect("it is one of them").1);
    }

    fn add(&mut self, other: Self) {
        for (key, count) in other.executions {
            *self.executions.entry(key).or_default() += count;
        }
        self.learned += other.learned;
        self.lines += other.lines;
        self.accepted += other.accepted;
        self.duplicates += other.duplicates;
        self.rejected += other.rejected;
    }
}

/// Reports outcomes, each request again and again until it is acknowledged.
fn client(number: u64, seed: u64, field: &Field) -> Ledger {
    let mut rng = rng(seed ^ (number + 1));
    let agent = agent();
    let mut ledger = Ledger::default();
    let mut known: Vec<String> = Vec::new();
    while !field.stop.load(SeqCst) {
        let single = rng.random_bool(0.3);
        let size = if single { 1 } else { rng.random_range(1..60) };
        let mut lines = Vec::new();
        let mut garbage = 0;
        for _ in 0..size {
            if !known.is_empty() && rng.random_bool(0.1) {
                lines.push(known[rng.random_range(0..known.len())].clone());
            } else if !single && rng.random_bool(0.03) {
                garbage += 1;
                lines.push(pick(&mut rng, &GARBAGE).to_owned());
            } else {
                let event = event(&mut rng, &format!("client-{number}-event-{}", known.len()));
                ledger.note(&event);
                known.push(event.to_string());
                lines.push(event.to_string());
            }
        }
        let media = if single { "application/json" } else { NDJSON };
        let body = lines.join("\n");
        let answer = loop {
            if let Some(answer) = field.post(&agent, OUTCOMES, media, &body) {
                break answer;
            }
        };
        let status = if garbage == size { 422 } else { 202 };
        assert_eq!(answer.status, status, "{answer:?}");
        let told = answer.json();
        let count = |key: &str| told[key].as_u64().expect("it is a number");
        let rejected = told["rejected"].as_array().expect("it is an array").len() as u64;
        assert_eq!(rejected, garbage, "{answer:?}");
        assert_eq!(count("accepted") + count("duplicates") + garbage, size, "{answer:?}");
        ledger.lines += size;
        ledger.accepted += count("accepted");
        ledger.duplicates += count("duplicates");
        ledger.rejected += garbage;
        field.acknowledged.fetch_add(1, SeqCst);
    }
    ledger
}

const GARBAGE: [&str; 4] = [
    "this is not JSON",
    r#"{"agent_name": "", "status": "success"}"#,
    r#"{"agent_name": "ReActAgent", "status": "splendid"}"#,
    r#"{"status": "success"}"#,
];

/// A save for every few acknowledged requests.
fn save_now_and_then(field: &Field) {
    let agent = agent();
    let mut next = 0;
    while !field.stop.load(SeqCst) {
        if field.acknowledged.load(SeqCst) < next {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        }
        if let Some(answer) = field.post(&agent, "/api/learning/models/save", "", "") {
            assert_eq!(answer.status, 200, "{answer:?}");
            next = field.acknowledged.load(SeqCst) + 25;
        }
    }
}

/// Every unique event counts once, as each client was told or would have been told.
#[track_caller]
fn check_counts(service: &Service, ledger: &Ledger) {
    let mut executions = BTreeMap::new();
    for tenant in TENANTS {
        let path = format!("/api/learning/agents/performance?tenant_id={tenant}");
        for row in service.get(&path).json().as_array().expect("it is an array") {
            let agent = row["agent_name"].as_str().expect("it is a string").to_owned();
            executions.insert((tenant.to_owned(), agent), row["total_executions"].as_u64());
        }
    }
    let expected: BTreeMap<_, _> =
        ledger.executions.iter().map(|(key, count)| (key.clone(), Some(*count))).collect();
    assert_eq!(executions, expected);

    let metrics = service.get("/api/learning/metrics").json();
    let count = |key: &str| metrics[key].as_u64().expect("it is a number");
    assert_eq!(count("accepted"), ledger.events(), "{metrics}");
    assert_eq!(count("samples_processed"), ledger.learned, "{metrics}");
    assert_eq!(count("total_updates"), count("successful_updates") + count("failed_updates"));
    assert_eq!(ledger.accepted + ledger.duplicates + ledger.rejected, ledger.lines);
    // An answer that a kill took away may hide an acceptance, never invent one.
    assert!(ledger.accepted <= ledger.events());
    assert!(count("duplicates") >= ledger.duplicates, "{metrics}");
    let rejected = metrics["rejected"].as_object().expect("it is an object");
    let rejected: u64 = rejected.values().filter_map(Value::as_u64).sum();
    assert!(rejected >= ledger.rejected, "{metrics}");
}

/// The digest, and the journal entry up to which it holds.
#[track_caller]
fn state(service: &Service) -> (String, u64) {
    let model = service.get("/api/learning/models/agent_selection").json();
    let digest = model["digest"].as_str().expect("it is a string").to_owned();
    (digest, model["learned_sequence"].as_u64().expect("it is a number"))
}

fn database(directory: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(directory.join("online-learning.db")).expect("it can be opened")
}

fn is_model_file(name: &str) -> bool {
    name.starts_with("checkpoint-") || name.starts_with("version-")
}

fn file_names(directory: &Path) -> BTreeSet<String> {
    std::fs::read_dir(directory)
        .expect("the directory is there")
        .map(|entry| {
            entry.expect("it can be read").file_name().into_string().expect("names are UTF-8")
        })
        .collect()
}

/// Takes everything away from which a start could go on, except the journal.
fn remove_restart_points(directory: &Path) {
    let database = database(directory);
    let checkpoints = database.execute("DELETE FROM checkpoints", []).expect("the table is there");
    let versions = database.execute("DELETE FROM model_versions", []).expect("the table is there");
    assert!(checkpoints > 0 && versions > 0, "{checkpoints} checkpoints, {versions} versions");
    for name in file_names(directory).iter().filter(|name| is_model_file(name)) {
        std::fs::remove_file(directory.join(name)).expect("it can be deleted");
    }
}

/// What a kill interrupts leaves no files that nobody would ever delete.
#[track_caller]
fn check_no_leftovers(directory: &Path) {
    let database = database(directory);
    let mut statement = database
        .prepare(
            "SELECT model_file_path FROM checkpoints
             UNION SELECT model_file_path FROM model_versions WHERE status != 'archived'",
        )
        .expect("the tables are there");
    let named: BTreeSet<String> = statement
        .query_map([], |row| row.get(0))
        .and_then(Iterator::collect)
        .expect("the rows can be read");
    let found: BTreeSet<String> =
        file_names(directory).into_iter().filter(|name| is_model_file(name)).collect();
    assert_eq!(found, named, "the model files are those that the database names");
}

/// One thing that the only sender does.
enum Step {
    Report(String),
    Save,
    /// Activate what the save at this step made.
    Activate(usize),
}

fn script(seed: u64) -> Vec<Step> {
    let mut rng = rng(seed);
    let mut steps = Vec::new();
    let mut saves = Vec::new();
    let mut events = 0;
    for number in 0..240 {
        if number % 20 == 19 {
            saves.push(steps.len());
            steps.push(Step::Save);
        } else if number % 50 == 49 {
            steps.push(Step::Activate(pick(&mut rng, &saves)));
        } else {
            let lines = (0..rng.random_range(1..80)).map(|_| {
                events += 1;
                event(&mut rng, &format!("event-{events}")).to_string()
            });
            steps.push(Step::Report(lines.collect::<Vec<_>>().join("\n")));
        }
    }
    steps
}

#[test]
fn a_run_with_kills_and_activations_ends_like_the_same_run_without_kills() {
    const KILLS: usize = 30;
    let seed = seed();
    let steps = script(seed);
    let mut rng = rng(seed ^ 1);
    let mut moments: BTreeMap<usize, Duration> = BTreeMap::new();
    while moments.len() < KILLS {
        let moment = Duration::from_micros(rng.random_range(0..8_000));
        moments.insert(rng.random_range(0..steps.len()), moment);
    }
    let with_kills = play(&steps, &moments);
    let without_kills = play(&steps, &BTreeMap::new());
    assert_eq!(with_kills, without_kills);
}

/// Plays the steps one after the other, each until it has succeeded, with a kill some time after
/// the beginning of each step in `kills`. Returns the digest and what all agents have done.
fn play(steps: &[Step], kills: &BTreeMap<usize, Duration>) -> (String, Vec<Value>) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    // No batch is closed by time or by size alone, and every saved version can be activated.
    let setup = busy(directory.path())
        .with("MODEL_BATCH_SIZE", 64)
        .with("MODEL_BATCH_TIMEOUT", 3_600)
        .with("MODEL_VERSIONS_MAX", 10_000);
    let mut service = setup.start();
    let mut versions: BTreeMap<usize, String> = BTreeMap::new();
    for (number, step) in steps.iter().enumerate() {
        let mut kill = kills.get(&number);
        loop {
            let answer = std::thread::scope(|scope| {
                if let Some(moment) = kill {
                    let service = &service;
                    scope.spawn(move || {
                        std::thread::sleep(*moment);
                        service.signal("KILL");
                    });
                }
                attempt(&service, step, &versions)
            });
            if kill.take().is_some() {
                // It is dead, whether the answer came before or not.
                service.kill();
                service = setup.start();
            }
            if let Some(version) = answer {
                versions.insert(number, version);
                break;
            }
        }
    }
    service.learn("");
    let rows = TENANTS.map(|tenant| {
        service.get(&format!("/api/learning/agents/performance?tenant_id={tenant}")).json()
    });
    let digest = service.digest();
    service.stop();
    (digest, rows.to_vec())
}

/// Does one step; what a save made, else nothing of interest. `None` when there was no answer.
fn attempt(service: &Service, step: &Step, versions: &BTreeMap<usize, String>) -> Option<String> {
    let answer = match step {
        Step::Report(lines) => service.try_post(OUTCOMES, NDJSON, lines),
        Step::Save => service.try_post("/api/learning/models/save", "", ""),
        Step::Activate(save) => {
            let path = format!(
                "/api/learning/models/agent_selection/versions/{}/activate",
                versions[save]
            );
            service.try_post(&path, "", "")
        }
    };
    let answer = answer.ok()?;
    assert!([200, 202].contains(&answer.status), "{answer:?}");
    Some(answer.json()["version_id"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_restart_changes_neither_the_model_nor_what_it_answers() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let setup = Setup::new(directory.path()).with("CHECKPOINT_OUTCOMES", 1_000);
    let mut rng = rng(7);
    let lines: Vec<String> =
        (0..2_500).map(|number| event(&mut rng, &number.to_string()).to_string()).collect();
    let service = setup.start();
    service.learn(&lines.join("\n"));
    let before = answers(&service);
    service.stop();

    let service = setup.start();
    assert_eq!(answers(&service), before, "after an orderly stop");
    service.kill();

    let service = setup.start();
    assert_eq!(answers(&service), before, "after a kill");
}

/// What must outlive the process: digest, counters, predictions with a seed, agents' records.
fn answers(service: &Service) -> Value {
    let mut predictions = Vec::new();
    for tenant in TENANTS {
        for (seed, task) in TASKS.iter().enumerate() {
            let question = json!({
                "tenant_id": tenant, "task_type": task, "seed": seed, "top_k": 5,
                "context": {"complexity": "high"}, "explain": true,
            });
            let path = "/api/learning/predict/agent-selection";
            let mut answer = service.post_json(path, &question).json();
            let answer = answer.as_object_mut().expect("it is an object");
            answer.remove("timestamp");
            answer.remove("decision_id");
            predictions.push(Value::Object(answer.clone()));
        }
    }
    let metrics = service.get("/api/learning/metrics").json();
    let kept = [
        "total_updates",
        "successful_updates",
        "failed_updates",
        "samples_processed",
        "current_model_score",
        "improvement_rate",
        "accepted",
        "duplicates",
    ];
    let metrics: Vec<&Value> = kept.iter().map(|key| &metrics[key]).collect();
    let agents = service.get("/api/learning/agents/performance?tenant_id=acme").json();
    let agents = without_decisions(agents);
    json!({
        "state": state(service), "metrics": metrics, "agents": agents, "predictions": predictions,
    })
}

#[test]
fn a_restart_after_a_kill_reads_a_bounded_part_of_the_journal() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let setup = Setup::new(directory.path()).with("MODEL_BATCH_SIZE", 1_000);
    let service = setup.start();
    for part in 0..6 {
        let lines: Vec<String> = (0..50_000)
            .map(|number| {
                let agent = AGENTS[number % AGENTS.len()];
                format!(
                    r#"{{"event_id":"{part}-{number}","agent_name":"{agent}","status":"success"}}"#
                )
            })
            .collect();
        let answer = service.post(OUTCOMES, NDJSON, lines.join("\n"));
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    service.learn("");
    let (digest, sequence) = state(&service);
    assert_eq!(sequence, 300_000);
    service.kill();

    let mut service = setup.start();
    // Ready may be seen before the line is read.
    service.wait_for_log("model=restored sequence=300000 from=");
    let log = service.log();
    let (_, rest) = log.split_once("model=restored sequence=300000 from=").expect("it is logged");
    let from: u64 = rest.split(' ').next().and_then(|text| text.parse().ok()).expect("a number");
    assert!(sequence - from <= 200_000, "{} entries were learned again", sequence - from);
    assert_eq!(state(&service).0, digest);
}

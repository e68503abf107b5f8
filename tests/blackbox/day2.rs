//! Backup, restore, export, import of a model, verify: on real directories, beside running services.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::harness::{Service, Setup, eventually, program};

const SAMPLE: &str = include_str!("../../data/sample_outcomes.jsonl");
const VERSIONS: &str = "/api/learning/models/agent_selection/versions";

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("there is room for a directory")
}

fn at(storage: &Path, arguments: &[&str]) -> Command {
    let mut command = program();
    command.args(arguments).env("MODEL_STORAGE_PATH", storage);
    command
}

/// Exit code, standard output, standard error.
fn run(storage: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = at(storage, arguments).output().expect("the program can be run");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it is text");
    let code = output.status.code().expect("it ends by itself");
    (code, text(output.stdout), text(output.stderr))
}

/// What a run that must succeed prints.
#[track_caller]
fn printed(storage: &Path, arguments: &[&str]) -> String {
    let (code, said, complained) = run(storage, arguments);
    assert_eq!(code, 0, "{arguments:?}: {said}{complained}");
    said
}

/// A run must end with code 1 and say this.
#[track_caller]
fn fails(storage: &Path, arguments: &[&str], says: &str) {
    let (code, said, complained) = run(storage, arguments);
    assert_eq!((code, said.as_str()), (1, ""), "{complained}");
    assert!(complained.contains(says), "{says:?} is not in {complained}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("it is text")
}

/// What a fixed question is answered, timestamps and ids aside.
#[track_caller]
fn draws(service: &Service) -> Value {
    let question = json!({"task_type": "code_review", "seed": 7});
    let answer = service.post_json("/api/learning/predict/agent-selection", &question).json();
    answer["recommendations"].clone()
}

/// A service that has learned, saved, been rolled back, and learned on.
fn experienced(storage: &Path) -> Service {
    let service = Setup::new(storage).start();
    let half = SAMPLE.lines().count() / 2;
    let part = |lines: &mut dyn Iterator<Item = &str>| lines.collect::<Vec<_>>().join("\n");
    service.learn(&part(&mut SAMPLE.lines().take(half)));
    let saved = service.post("/api/learning/models/save", "", "").json();
    let first = saved["version_id"].as_str().expect("it was saved").to_owned();
    service.learn(&part(&mut SAMPLE.lines().skip(half).take(100)));
    service.post("/api/learning/models/save", "", "");
    assert_eq!(service.post(&format!("{VERSIONS}/{first}/activate"), "", "").status, 200);
    service.learn(&part(&mut SAMPLE.lines().skip(half + 100)));
    service.post("/api/learning/models/save", "", "");
    // Accepted, and not learned yet.
    service.post(
        "/api/learning/outcomes",
        "application/json",
        r#"{"agent_name": "z", "status": "success"}"#,
    );
    service
}

#[test]
fn a_backup_made_beside_a_running_service_comes_up_as_the_same_model() {
    let (directory, elsewhere) = (directory(), directory());
    let storage = directory.path().join("state");
    let service = experienced(&storage);
    let file = directory.path().join("a.backup");
    let said = printed(&storage, &["backup", text(&file)]);
    assert!(said.contains("checked=yes") && said.contains(" sequence=818 "), "{said}");
    let left: Vec<_> = fs::read_dir(directory.path())
        .expect("it is there")
        .map(|entry| entry.expect("it can be read").file_name())
        .filter(|name| !["state", "a.backup"].iter().any(|known| name == known))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o077, 0, "others can't read what producers sent");
    // The service has not noticed, and goes on.
    service.learn(r#"{"agent_name": "late", "status": "success"}"#);

    fails(&storage, &["backup", text(&file)], "there already");
    fails(&storage, &["restore", text(&file)], "in use by another");
    let said = printed(elsewhere.path(), &["restore", text(&file), "--check"]);
    assert!(said.contains("sound=yes"), "{said}");
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0, "a check restores nothing");

    let restored = elsewhere.path().join("new/state");
    printed(&restored, &["restore", text(&file)]);
    fails(&restored, &["restore", text(&file)], "is not empty");
    // What came after the backup is what the other has more.
    let second = Setup::new(&restored).start();
    second.learn(r#"{"agent_name": "late", "status": "success"}"#);
    assert_eq!(second.digest(), service.digest());
    assert_eq!(draws(&second), draws(&service));
    let versions = |service: &Service| {
        let list = service.get(VERSIONS).json();
        let ids =
            list["versions"].as_array().into_iter().flatten().map(|version| version["id"].clone());
        ids.collect::<Vec<Value>>()
    };
    assert_eq!(versions(&second), versions(&service));
    // A re-send is known there, too, and every version can be activated.
    assert_eq!(second.learn(SAMPLE)["duplicates"], 816);
    assert_eq!(second.post(&format!("{VERSIONS}/agent_selection-1/activate"), "", "").status, 200);
    second.stop();
    service.stop();
}

#[test]
fn backups_made_while_outcomes_stream_in_are_each_whole() {
    let directory = directory();
    let storage = directory.path().join("state");
    // Versions come and go all the time.
    let service = Setup::new(&storage).with("MODEL_VERSIONS_MAX", 2).start();
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| {
            for round in 0..40 {
                let lines: Vec<String> = (0..50)
                    .map(|n| {
                        format!(
                            "{{\"agent_name\": \"a{}\", \"status\": \"success\"}}",
                            (n + round) % 7
                        )
                    })
                    .collect();
                service.learn(&lines.join("\n"));
                assert_eq!(service.post("/api/learning/models/save", "", "").status, 200);
            }
        });
        for number in 0..5 {
            let file = directory.path().join(format!("{number}.backup"));
            eventually("there is something to back up", || {
                storage.join("online-learning.db").exists().then_some(())
            });
            printed(&storage, &["backup", text(&file)]);
        }
        busy.join().expect("the service takes everything");
    });
    service.stop();
    for number in 0..5 {
        let restored = directory.path().join(format!("restored-{number}"));
        printed(&restored, &["restore", text(&directory.path().join(format!("{number}.backup")))]);
        assert!(printed(&restored, &["verify"]).contains("verified=yes"));
    }
}

#[test]
fn a_damaged_backup_is_told_and_restores_nothing() {
    let directory = directory();
    let storage = directory.path().join("state");
    let service = experienced(&storage);
    let file = directory.path().join("a.backup");
    printed(&storage, &["backup", text(&file)]);
    service.stop();
    let sound = fs::read(&file).expect("it can be read");
    let target = directory.path().join("target");
    // A bit in each model's file, which only a digest can tell. SQLite may leave a copy behind in the
    // unused part of a page, so all of them.
    let needle = b"\"format\":";
    let mut flipped = sound.clone();
    for place in 0..sound.len() - 400 {
        if sound[place..].starts_with(needle) {
            flipped[place + 100] ^= 1;
        }
    }
    assert_ne!(flipped, sound);
    let mut torn = sound.clone();
    torn.truncate(sound.len() / 2);
    let mut page = sound.clone();
    page[4096..4196].fill(0xff);
    for damaged in [flipped, torn, page, b"no backup".to_vec(), Vec::new()] {
        fs::write(&file, &damaged).expect("it can be written");
        for arguments in [&["restore", text(&file), "--check"][..], &["restore", text(&file)]] {
            let (code, said, complained) = run(&target, arguments);
            assert_eq!((code, said.as_str()), (1, ""), "{arguments:?} {complained}");
            assert!(
                complained.contains("damaged") || complained.contains("no backup"),
                "{complained}"
            );
        }
        assert!(!target.join("online-learning.db").exists());
    }
    fails(&target, &["restore", "/nowhere"], "can't read");
    // A database is no backup, and a backup no database.
    fails(&target, &["restore", text(&storage.join("online-learning.db"))], "is no backup");
    fs::create_dir_all(&target).expect("it can be made");
    fs::write(target.join("online-learning.db"), &sound).expect("it can be written");
    let mut service = Setup::new(&target).spawn(super::harness::free_address());
    assert_eq!(service.wait().code(), Some(1));
    assert!(service.log().contains("another program"), "{}", service.log());
}

#[test]
fn a_model_goes_from_one_directory_to_another() {
    let (directory, elsewhere) = (directory(), directory());
    let service = experienced(directory.path());
    let file = elsewhere.path().join("model.json");
    let exported = printed(directory.path(), &["export", "agent_selection-4"]);
    fs::write(&file, &exported).expect("it can be written");
    let json: Value = serde_json::from_str(&exported).expect("it is JSON");
    assert_eq!(json["digest"].as_str().map(str::len), Some(64));
    fails(directory.path(), &["export", "agent_selection-99"], "there is no version");

    // Through a running service, which has learned something else.
    let storage = elsewhere.path().join("state");
    let other = Setup::new(&storage).start();
    other.learn(r#"{"agent_name": "forgotten", "status": "success"}"#);
    let said = printed(&storage, &["import-model", text(&file), "--url", &other.url("")]);
    assert_eq!(said, "imported=agent_selection-1\n");
    assert_eq!(other.digest(), json["digest"].as_str().unwrap());
    assert_eq!(draws(&other), draws(&service));
    let versions = other.get(VERSIONS).json();
    let version = &versions["versions"][0];
    assert_eq!((&version["status"], &version["parent_version"]), (&json!("active"), &Value::Null));
    assert_eq!(
        other.get("/api/learning/events?limit=1").json()["events"][0]["event_type"],
        "import"
    );

    // What comes later is learned on top of it, a restart finds the same, and so does the journal.
    other.learn(r#"{"agent_name": "later", "status": "success", "task_type": "code_review"}"#);
    let digest = other.digest();
    assert!(printed(&storage, &["verify"]).contains(&digest));
    other.kill();
    let other = Setup::new(&storage).start();
    assert_eq!(other.digest(), digest);
    other.stop();

    // Into the directory itself, when nobody holds it.
    let third = elsewhere.path().join("third");
    assert_eq!(printed(&third, &["import-model", text(&file)]), "imported=agent_selection-1\n");
    let third = Setup::new(&third).start();
    assert_eq!(draws(&third), draws(&service));
    let held = run(&elsewhere.path().join("third"), &["import-model", text(&file)]);
    assert!(held.0 == 1 && held.2.contains("in use"), "{held:?}");

    // Touched on the way, cut short, another format, something else.
    let before = third.digest();
    let touched = exported.replacen("\"learned\":", "\"learned\": ", 1);
    let format = exported.replacen("\"format\":4", "\"format\":1", 1);
    for (wrong, says) in [
        (touched.as_str(), "is not as it was written"),
        (&exported[..exported.len() / 2], "is not as it was written"),
        (&format, "has format 1"),
        ("{}", "is no saved model"),
        ("", "is no saved model"),
    ] {
        fs::write(&file, wrong).expect("it can be written");
        fails(directory.path(), &["import-model", text(&file), "--url", &third.url("")], says);
    }
    assert_eq!(third.digest(), before);
    third.stop();
    service.stop();
}

#[test]
fn verify_finds_the_model_to_be_what_the_journal_says() {
    let directory = directory();
    fails(directory.path(), &["verify"], "there is no database");
    let service = experienced(directory.path());
    // From the journal's beginning, across a rollback, past the saves.
    let said = printed(directory.path(), &["verify"]);
    assert!(said.starts_with("verified=yes from=beginning entries=817 "), "{said}");
    assert!(said.contains(" versions=3 "), "{said}");
    assert!(said.contains(&service.digest()), "{said}");
    service.stop();

    // With other settings the model could not be the same, so it is begun with what came later.
    let service = Setup::new(directory.path()).with("MODEL_PRIOR_ALPHA", 2).start();
    service.learn(r#"{"agent_name": "a", "status": "success"}"#);
    service.post("/api/learning/models/save", "", "");
    service.learn(r#"{"agent_name": "a", "status": "failure"}"#);
    let mut command = at(directory.path(), &["verify"]);
    let output = command.env("MODEL_PRIOR_ALPHA", "2").output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.starts_with("verified=yes from=agent_selection-6 entries=1 "), "{said}");
    service.stop();
}

/// Whoever reads the journal knows of it: verify, a backup, a start after a kill, an older version.
#[test]
fn a_removed_agent_is_gone_wherever_the_model_comes_from() {
    let (directory, elsewhere) = (directory(), directory());
    let storage = directory.path().join("state");
    let mut service = experienced(&storage);
    let names = |service: &Service| {
        let rows = service.get("/api/learning/agents/performance").json();
        let rows = rows.as_array().expect("it is a list").iter();
        rows.map(|row| row["agent_name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = names(&service);
    let name = all[0].clone();
    let agent = format!("/api/learning/agents/{name}");
    let removed = service.delete(&agent);
    assert_eq!((removed.status, &removed.json()["status"]), (200, &json!("success")));
    assert_eq!(service.delete(&agent).status, 404);
    let without: Vec<String> = all.iter().skip(1).cloned().chain(["z".to_owned()]).collect();
    assert_eq!(names(&service), without, "and what was accepted before is learned");
    let event = &service.get("/api/learning/events?limit=1").json()["events"][0];
    assert_eq!(event["event_type"], "remove_agent");
    let event = json!({"agent_name": name, "status": "success"}).to_string();
    service.learn(&event);
    let digest = service.digest();
    assert!(printed(&storage, &["verify"]).contains(&digest));
    service.signal("KILL");
    service.wait();
    let file = directory.path().join("a.backup");
    printed(&storage, &["backup", text(&file)]);
    let restored = elsewhere.path().join("state");
    printed(&restored, &["restore", text(&file)]);
    for storage in [&storage, &restored] {
        assert!(printed(storage, &["verify"]).contains(&digest));
        let service = Setup::new(storage).start();
        assert_eq!(service.digest(), digest);
        let rows = service.get("/api/learning/agents/performance").json();
        let of_name = rows.as_array().unwrap().iter().find(|row| row["agent_name"] == *name);
        assert_eq!(of_name.expect("it came again")["total_executions"], 1);
        // A version of before has it as it was.
        let path = format!("{VERSIONS}/agent_selection-1/activate");
        assert_eq!(service.post(&path, "", "").status, 200);
        assert!(names(&service).contains(&name));
        service.stop();
        assert!(printed(storage, &["verify"]).contains("verified=yes"));
    }
}

#[test]
fn an_agent_may_have_the_name_of_another_path() {
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    for name in ["performance", "pareto", "a/b?c", "%41"] {
        let event = json!({"agent_name": name, "status": "success", "tenant_id": "t"});
        service.learn(&event.to_string());
        let encoded: Vec<String> = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let encoded = encoded.concat();
        for path in [encoded.as_str(), name] {
            if path == "a/b?c" || path == "%41" {
                continue;
            }
            let path = format!("/api/learning/agents/{path}?tenant_id=t");
            let status = if path.contains('%') { 200 } else { 404 };
            assert_eq!(service.delete(&path).status, status, "{path}");
        }
    }
    assert_eq!(service.get("/api/learning/agents/performance?tenant_id=t").json(), json!([]));
    let other = service.get("/api/learning/agents/nobody");
    assert_eq!((other.status, other.header("allow")), (405, Some("DELETE")));
    assert_eq!(service.delete(&format!("/api/learning/agents/{}", "x".repeat(257))).status, 422);
    service.stop();
}

#[test]
fn verify_tells_a_version_that_is_not_what_the_journal_says() {
    let directory = directory();
    let service = experienced(directory.path());
    service.stop();
    // As a bug would leave it: the digest of another state in the row of a version.
    let database = directory.path().join("online-learning.db");
    let changed = rusqlite::Connection::open(database)
        .and_then(|database| {
            database.execute(
                "UPDATE model_versions SET digest = ?1 WHERE id = 'agent_selection-2'",
                ["0".repeat(64)],
            )
        })
        .expect("it can be written");
    assert_eq!(changed, 1);
    fails(directory.path(), &["verify"], "the version agent_selection-2 was saved with 0000");
}

#[test]
fn every_command_has_a_manual_page() {
    let directory = directory();
    printed(directory.path(), &["man", text(directory.path())]);
    let page = |name: &str| {
        fs::read_to_string(directory.path().join(name))
            .unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    assert!(page("online-learning.1").contains("dispatch"));
    assert!(page("online-learning-serve.1").contains("MODEL_BATCH_SIZE"), "flags and variables");
    assert!(page("online-learning-config-print.1").contains("effective"));
    assert!(!directory.path().join("online-learning-man.1").exists());
}

//! State that contradicts itself is refused by all who look at it, and never written over.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{Service, Setup, copy_files, eventually, free_address, program};

const DATABASE: &str = "online-learning.db";
const OUTCOMES: &str = "/api/learning/outcomes";
const EVENT: &str = r#"{"agent_name": "a", "status": "success"}"#;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("there is room for a directory")
}

fn command(storage: &Path, arguments: &[&str]) -> Command {
    let mut command = program();
    command.args(arguments).env("MODEL_STORAGE_PATH", storage);
    command.env("LISTEN_ADDR", free_address().to_string());
    command
}

/// Exit code, and what is said.
fn run(storage: &Path, arguments: &[&str]) -> (i32, String) {
    let output = command(storage, arguments).output().expect("the program can be run");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().expect("it ends by itself"), String::from_utf8_lossy(&said).into_owned())
}

/// The files of a directory, without those in directories, locks and SQLite's shared memory.
fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).expect("it is there").flatten();
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    let names = files.map(|entry| entry.file_name().into_string().expect("names are UTF-8"));
    names
        .filter(|name| !name.ends_with("-shm") && name != "online-learning.lock")
        .map(|name| (name.clone(), fs::read(directory.join(name)).expect("it can be read")))
        .collect()
}

fn learn(service: &Service, count: usize) {
    service.learn(&vec![EVENT; count].join("\n"));
}

/// A directory with 50 outcomes, a saved version of them, and 10 more outcomes.
fn saved() -> (tempfile::TempDir, PathBuf) {
    let home = directory();
    let storage = home.path().join("state");
    let service = Setup::new(&storage).with("MODEL_SAVE_INTERVAL", 0).start();
    learn(&service, 50);
    assert_eq!(service.post("/api/learning/models/save", "", "").status, 200);
    learn(&service, 10);
    service.stop();
    assert!(storage.join("version-000001.json").exists());
    (home, storage)
}

/// `serve`, `doctor` and `verify` refuse what `tamper` leaves, each says all of `says`, and nothing is
/// changed. Then an empty start keeps what is moved aside.
#[track_caller]
fn check_refused(tamper: impl FnOnce(&Path), says: &[&str]) {
    let (_home, storage) = saved();
    tamper(&storage);
    let before = contents(&storage);
    for (arguments, refuses_with) in [(&["serve"][..], 1), (&["doctor"], 4), (&["verify"], 1)] {
        let (code, said) = run(&storage, arguments);
        assert_eq!(code, refuses_with, "{arguments:?}: {said}");
        for says in says {
            assert!(said.contains(says), "{arguments:?}: {says:?} is not in {said}");
        }
        let mut after = contents(&storage);
        // A look may make an empty log.
        after.retain(|name, bytes| before.contains_key(name) || !bytes.is_empty());
        assert!(after == before, "{arguments:?}: {:?} {:?}", after.keys(), before.keys());
    }
    let mut service = Setup::new(&storage).argument("--start-empty").start();
    assert!(service.log().contains("set_aside="), "{}", service.log());
    assert_eq!(service.get("/api/learning/agents/performance").json(), Value::Array(Vec::new()));
    service.stop();
    let aside = fs::read_dir(&storage).expect("it is there").flatten();
    let aside = aside.map(|entry| entry.path()).find(|path| path.is_dir()).expect("it was made");
    let mut kept = contents(&aside);
    kept.retain(|name, bytes| before.contains_key(name) || !bytes.is_empty());
    assert!(kept == before, "{:?} {:?}", kept.keys(), before.keys());
    // What is sound now stays, whatever is asked for.
    let mut service = Setup::new(&storage).argument("--start-empty").start();
    learn(&service, 3);
    assert!(!service.log().contains("set_aside="), "{}", service.log());
    service.stop();
    let mut service = Setup::new(&storage).argument("--start-empty").start();
    assert!(service.log().contains("start_empty=ignored"), "{}", service.log());
    assert_eq!(service.get("/api/learning/agents/performance").json()[0]["total_executions"], 3);
    service.stop();
}

fn remove_database(storage: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(storage.join(format!("{DATABASE}{suffix}")));
    }
}

fn sql(storage: &Path, sql: &str) {
    let database = rusqlite::Connection::open(storage.join(DATABASE)).expect("it can be opened");
    database.execute_batch(sql).expect("it is allowed");
}

#[test]
fn a_database_that_is_gone_while_a_version_is_there_is_refused_by_all() {
    check_refused(remove_database, &["is missing", DATABASE, "version-000002.json", "restore"]);
}

#[test]
fn a_database_that_was_emptied_is_refused_by_all() {
    let empty = |storage: &Path| fs::write(storage.join(DATABASE), "").expect("it is writable");
    check_refused(empty, &["is empty", "version-000002.json"]);
}

#[test]
fn an_older_copy_of_the_database_beside_newer_files_is_refused_by_all() {
    let older = |storage: &Path| {
        let elsewhere = directory();
        let service = Setup::new(elsewhere.path()).with("MODEL_SAVE_INTERVAL", 0).start();
        learn(&service, 5);
        service.kill();
        remove_database(storage);
        for suffix in ["", "-wal"] {
            let name = format!("{DATABASE}{suffix}");
            fs::copy(elsewhere.path().join(&name), storage.join(&name)).expect("it is there");
        }
    };
    check_refused(older, &["is behind", "version-000001.json"]);
}

#[test]
fn a_schema_that_no_program_writes_is_refused_by_all() {
    for schema in [0, -1] {
        let set = |storage: &Path| sql(storage, &format!("PRAGMA user_version = {schema}"));
        check_refused(set, &[&format!("has schema {schema}"), DATABASE]);
    }
}

/// Everything is in the log, which is damaged at its beginning: SQLite would find an empty database.
#[test]
fn a_damaged_log_is_refused_also_without_any_file_that_proves_it() {
    for at in [40, 5_000] {
        let home = directory();
        let storage = home.path().join("state");
        let service = Setup::new(&storage).with("MODEL_SAVE_INTERVAL", 0).start();
        for _ in 0..20 {
            learn(&service, 1);
        }
        service.kill();
        let log = storage.join(format!("{DATABASE}-wal"));
        let mut bytes = fs::read(&log).expect("it is there");
        bytes[at] ^= 1;
        fs::write(&log, bytes).expect("it is writable");
        let before = contents(&storage);
        for (command, code) in [("serve", 1), ("doctor", 4), ("verify", 1)] {
            let (ended, said) = run(&storage, &[command]);
            assert_eq!(ended, code, "{said}");
            assert!(said.contains("-wal is damaged"), "{said}");
        }
        assert!(contents(&storage) == before);
    }
}

#[test]
fn all_agree_on_a_first_start_that_was_cut_short() {
    let home = directory();
    fs::write(home.path().join(DATABASE), "").expect("it is writable");
    let (code, said) = run(home.path(), &["doctor"]);
    assert!(code == 0 && said.contains("the first start makes it"), "{code} {said}");
    sql(home.path(), "PRAGMA journal_mode = WAL");
    let (code, said) = run(home.path(), &["doctor"]);
    assert!(code == 0 && said.contains("the first start makes it"), "{code} {said}");
    let (code, said) = run(home.path(), &["verify"]);
    assert!(code == 1 && said.contains("there is no database"), "{code} {said}");
    Setup::new(home.path()).start().stop();
}

/// Outcomes are refused and the service says that it is degraded, also when nobody sends anything.
#[track_caller]
fn check_notices(change: impl FnOnce(&Path), says: &str) -> (tempfile::TempDir, Service) {
    let home = directory();
    let storage = home.path().join("state");
    let mut service = Setup::new(&storage).start();
    learn(&service, 10);
    change(&storage);
    let trouble = eventually("it is degraded", || {
        let status = service.get("/api/learning/status").json();
        (status["status"] == "degraded").then(|| status["trouble"].to_string())
    });
    assert!(trouble.contains(says), "{trouble}");
    let answer = service.post(OUTCOMES, "application/json", EVENT);
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.body.contains(says), "{answer:?}");
    let question = serde_json::json!({"candidates": ["a", "b"]});
    let asked = service.post_json("/api/learning/predict/agent-selection", &question);
    assert_eq!(asked.status, 200, "predictions go on: {asked:?}");
    assert!(service.is_running());
    (home, service)
}

#[test]
fn a_state_directory_that_vanishes_or_is_replaced_is_noticed() {
    check_notices(|storage| fs::remove_dir_all(storage).expect("it is there"), "was removed");
    let replace = |storage: &Path| {
        fs::rename(storage, storage.with_extension("old")).expect("it is there");
        fs::create_dir(storage).expect("it is gone");
        copy_files(&storage.with_extension("old"), storage);
    };
    let (home, service) = check_notices(replace, "was replaced");
    // No save goes to a directory that is none of ours.
    let storage = home.path().join("state");
    let before = contents(&storage);
    assert_eq!(service.post("/api/learning/models/save", "", "").status, 503);
    assert!(contents(&storage) == before);
    // It was put back: nothing is lost, and it goes on.
    fs::remove_dir_all(&storage).expect("it is there");
    fs::rename(storage.with_extension("old"), &storage).expect("it is there");
    eventually("it goes on", || {
        (service.get("/api/learning/status").json()["status"] == "running").then_some(())
    });
    learn(&service, 5);
    service.kill();
    let service = Setup::new(&storage).start();
    assert_eq!(service.get("/api/learning/agents/performance").json()[0]["total_executions"], 15);
}

#[test]
fn a_database_that_vanishes_under_the_service_is_noticed_and_so_is_its_log() {
    for name in [DATABASE.to_owned(), format!("{DATABASE}-wal")] {
        let remove = |storage: &Path| fs::remove_file(storage.join(&name)).expect("it is there");
        check_notices(remove, "was removed");
    }
}

#[test]
fn who_deletes_the_lock_file_lets_no_second_writer_in() {
    let home = directory();
    let service = Setup::new(home.path()).start();
    learn(&service, 1);
    fs::remove_file(home.path().join("online-learning.lock")).expect("it is there");
    let (code, said) = run(home.path(), &["serve"]);
    assert!(code == 1 && said.contains("in use by another"), "{code} {said}");
    service.stop();
}

#[test]
fn a_restore_that_was_killed_is_refused_by_serve_and_completed_by_the_next() {
    let (home, storage) = saved();
    let backup = home.path().join("a.backup");
    let file = backup.to_str().expect("it is text");
    assert_eq!(run(&storage, &["backup", file]).0, 0);
    let mut halves = 0;
    for number in 0..60 {
        let target = home.path().join(format!("target-{number}"));
        let mut restore = command(&target, &["restore", file])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program can be run");
        eventually("it has begun", || {
            let begun = target.join(format!("{DATABASE}.tmp")).exists();
            (begun || restore.try_wait().expect("it is ours").is_some()).then_some(())
        });
        restore.kill().expect("it is ours");
        restore.wait().expect("it is ours");
        if target.join(DATABASE).exists() || !target.exists() {
            continue;
        }
        halves += 1;
        for command in ["serve", "verify", "doctor"] {
            let (code, said) = run(&target, &[command]);
            assert!(code != 0 && said.contains("half a restore"), "{command}: {code} {said}");
        }
        let (code, said) = run(&target, &["restore", file]);
        assert_eq!(code, 0, "{said}");
        assert_eq!(run(&target, &["verify"]).0, 0);
        let names: Vec<String> = contents(&target).into_keys().collect();
        assert!(!names.iter().any(|name| name.contains(".tmp")), "{names:?}");
        if halves == 3 {
            break;
        }
    }
    assert!(halves > 0, "no restore was killed in the middle");
    // What the killed ones were checking in is gone, too.
    let left = fs::read_dir(home.path()).expect("it is there").flatten();
    let left = left.map(|entry| entry.file_name().into_string().expect("names are UTF-8"));
    let left: Vec<_> = left.filter(|name| name.contains("partial")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_backup_cleans_up_after_one_that_was_killed() {
    let (home, storage) = saved();
    let names = || {
        let entries = fs::read_dir(home.path()).expect("it is there").flatten();
        let names = entries.map(|entry| entry.file_name().into_string().expect("it is text"));
        names.filter(|name| name != "state").collect::<Vec<_>>()
    };
    let mut killed = 0;
    for number in 0..60 {
        let file = home.path().join(format!("{number}.backup"));
        let mut backup = command(&storage, &["backup", file.to_str().expect("it is text")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program can be run");
        eventually("it has begun", || {
            (!names().is_empty() || backup.try_wait().expect("it is ours").is_some()).then_some(())
        });
        backup.kill().expect("it is ours");
        backup.wait().expect("it is ours");
        if file.exists() {
            fs::remove_file(&file).expect("it is there");
        }
        killed += u32::from(!names().is_empty());
        if killed == 3 {
            break;
        }
    }
    assert!(killed > 0, "no backup was killed in the middle");
    let file = home.path().join("whole.backup");
    let (code, said) = run(&storage, &["backup", file.to_str().expect("it is text")]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(names(), ["whole.backup"]);
}

/// What root makes in the directory of a service belongs to the service's user, who could not read it
/// otherwise: import, a version, verify, restore.
#[test]
fn what_root_makes_belongs_to_the_owner_of_the_directory() {
    use std::os::unix::fs::{MetadataExt, chown};

    /// Of a user and a group that are not ours.
    const OWNER: (u32, u32) = (65_533, 65_532);

    let home = directory();
    if fs::metadata(home.path()).expect("it is there").uid() != 0 {
        #[expect(clippy::print_stderr, reason = "a test that proves nothing has to say so")]
        {
            eprintln!("skipped: only root can give files away");
        }
        return;
    }
    let storage = home.path().join("state");
    fs::create_dir(&storage).expect("there is room");
    chown(&storage, Some(OWNER.0), Some(OWNER.1)).expect("root may");
    let events = home.path().join("events.jsonl");
    fs::write(&events, format!("{EVENT}\n").repeat(30)).expect("there is room");
    let backup = home.path().join("backup.olbk");
    let [events, backup] = [&events, &backup].map(|path| path.to_str().expect("it is text"));
    for arguments in [
        &["import", events][..],
        &["verify"],
        &["backup", backup],
        &["restore", backup, "--start-empty"],
        &["import", events],
    ] {
        let (code, said) = run(&storage, arguments);
        assert_eq!(code, 0, "{arguments:?}: {said}");
        let mut files = 0;
        for entry in fs::read_dir(&storage).expect("it is there").flatten() {
            let made = entry.metadata().expect("it is there");
            if made.is_file() {
                let name = entry.file_name();
                assert_eq!((made.uid(), made.gid()), OWNER, "{name:?} after {arguments:?}");
                files += 1;
            }
        }
        // The database, the lock, a model.
        assert!(files >= 3, "{files} files after {arguments:?}");
    }
}

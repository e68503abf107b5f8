//! Bad days: damaged files, a full disk, a locked database, hostile and slow clients, too few
//! descriptors, floods of names. Nothing acknowledged is lost, and it passes by itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::harness::{Answer, SOON, Service, Setup, Wire, copy_files, eventually, free_address};

const NDJSON: &str = "application/x-ndjson";
const OUTCOMES: &str = "/api/learning/outcomes";
const PREDICT: &str = "/api/learning/predict/agent-selection";
const DATABASE: &str = "online-learning.db";

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn lines(range: std::ops::Range<u32>) -> String {
    range
        .map(|id| {
            let agent = id % 7;
            format!(
                r#"{{"event_id":"e{id}","agent_name":"agent-{agent}","task_type":"t","status":"success"}}"#
            ) + "\n"
        })
        .collect()
}

fn executions(service: &Service) -> u64 {
    let agents = service.get("/api/learning/agents/performance").json();
    let agents = agents.as_array().expect("it is an array");
    agents.iter().filter_map(|agent| agent["total_executions"].as_u64()).sum()
}

fn status(service: &Service) -> Value {
    service.get("/api/learning/status").json()
}

#[track_caller]
fn check_predicts(service: &Service) {
    let answer = service.post_json(PREDICT, &json!({"task_type": "t"}));
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[track_caller]
fn check_pushed_back(answer: &Answer) {
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
}

fn open(directory: &Path) -> Connection {
    Connection::open(directory.join(DATABASE)).expect("it can be opened")
}

// Damaged files.

/// Every file's bytes, except SQLite's shared memory, which is rebuilt by whoever looks.
fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(directory)
        .expect("the directory is there")
        .map(|entry| entry.expect("it can be read"))
        .map(|entry| {
            let name = entry.file_name().into_string().expect("names are UTF-8");
            (name, fs::read(entry.path()).expect("it can be read"))
        })
        .filter(|(name, _)| !name.ends_with("-shm"))
        .collect()
}

/// What the service says about a damaged database after an orderly stop and after a kill, when
/// part of the data is still in the write-ahead log.
#[track_caller]
fn check_refused(damage: impl Fn(&Path), expected: &str) {
    for killed in [false, true] {
        let directory = directory();
        let service = Setup::new(directory.path()).start();
        service.learn(&lines(0..3_000));
        service.stop();
        let service = Setup::new(directory.path()).start();
        service.learn(&lines(3_000..3_100));
        if killed {
            service.kill();
        } else {
            service.stop();
        }
        damage(directory.path());
        let before = contents(directory.path());

        let mut refused = Setup::new(directory.path()).spawn(free_address());
        assert_eq!(refused.wait().code(), Some(1), "{}", refused.log());
        let log = refused.log();
        assert_eq!(log.lines().count(), 1, "killed={killed}: {log}");
        assert!(log.contains(DATABASE) && log.contains(expected), "killed={killed}: {log}");
        let after = contents(directory.path());
        let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&after), names(&before), "killed={killed}");
        for (name, bytes) in before {
            assert!(after[&name] == bytes, "killed={killed}: {name} was changed");
        }
    }
}

fn overwrite(path: &Path, at: u64, bytes: impl FnOnce(&mut [u8]), length: usize) {
    let mut file = OpenOptions::new().read(true).write(true).open(path).expect("it is there");
    let mut part = vec![0; length];
    file.seek(SeekFrom::Start(at)).expect("it is long enough");
    file.read_exact(&mut part).expect("it is long enough");
    bytes(&mut part);
    file.seek(SeekFrom::Start(at)).expect("it is long enough");
    file.write_all(&part).expect("it can be written");
}

#[test]
fn a_database_with_flipped_bytes_in_the_middle_is_refused_and_left_as_it_is() {
    let damage = |directory: &Path| {
        let path = directory.join(DATABASE);
        let middle = fs::metadata(&path).expect("it is there").len() / 2 / 4_096 * 4_096;
        overwrite(&path, middle, |bytes| bytes.iter_mut().for_each(|byte| *byte ^= 0xff), 16_384);
    };
    check_refused(damage, "is damaged");
}

#[test]
fn a_database_of_garbage_is_refused_and_left_as_it_is() {
    let damage = |directory: &Path| {
        fs::write(directory.join(DATABASE), vec![0xab; 50_000]).expect("it can be written");
    };
    check_refused(damage, "damaged");
}

#[test]
fn a_truncated_database_is_refused_and_left_as_it_is() {
    let damage = |directory: &Path| {
        // What is in the log would mend it.
        let _ = fs::remove_file(directory.join(format!("{DATABASE}-wal")));
        let file = OpenOptions::new().write(true).open(directory.join(DATABASE));
        let file = file.expect("it is there");
        let length = file.metadata().expect("it is there").len();
        file.set_len(length / 2 + 100).expect("it can be cut");
    };
    check_refused(damage, "damaged");
}

#[test]
fn a_database_of_a_newer_program_is_refused_and_left_as_it_is() {
    let damage = |directory: &Path| {
        // Held open by a second connection until the file is written, so that the log stays.
        let database = open(directory);
        database.pragma_update(None, "user_version", 99).expect("it can be written");
        let wal = directory.join(format!("{DATABASE}-wal"));
        let kept = fs::read(&wal).expect("it is there");
        let main = fs::read(directory.join(DATABASE)).expect("it is there");
        drop(database);
        fs::write(&wal, kept).expect("it can be written");
        fs::write(directory.join(DATABASE), main).expect("it can be written");
    };
    check_refused(damage, "newer online-learning (schema 99");
}

#[test]
fn a_database_of_another_program_is_refused_and_left_as_it_is() {
    let damage = |directory: &Path| {
        for name in [DATABASE.to_owned(), format!("{DATABASE}-wal"), format!("{DATABASE}-shm")] {
            let _ = fs::remove_file(directory.join(name));
        }
        let foreign = open(directory);
        foreign.execute_batch("CREATE TABLE bookmarks(url TEXT)").expect("it can be written");
    };
    check_refused(damage, "of another program");
}

#[test]
fn a_path_that_can_be_no_directory_is_named() {
    let directory = directory();
    let file = directory.path().join("file");
    fs::write(&file, "not a directory").expect("it can be written");
    for path in [file.clone(), file.join("below")] {
        let mut refused = Setup::new(&path).spawn(free_address());
        assert_eq!(refused.wait().code(), Some(1), "{}", refused.log());
        let log = refused.log();
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(log.contains(&path.display().to_string()), "{log}");
    }
    assert_eq!(fs::read_to_string(&file).expect("it is there"), "not a directory");
}

#[test]
fn a_damaged_journal_entry_is_named_and_nothing_is_changed() {
    let directory = directory();
    let setup = Setup::new(directory.path()).with("MODEL_SAVE_INTERVAL", 0);
    let service = setup.start();
    for part in 0..4 {
        service.learn(&lines(part * 10..(part + 1) * 10));
    }
    service.kill();
    let database = open(directory.path());
    // What the kill left in the log stays there.
    let keep_log = rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
    database.set_db_config(keep_log, true).expect("it is allowed");
    let damaged = database
        .execute(
            "UPDATE journal SET payload = CAST(substr(payload, 1, 50) || x'00'
                                               || substr(payload, 52) AS BLOB)
             WHERE first_sequence = 21",
            [],
        )
        .expect("it can be written");
    assert_eq!(damaged, 1);
    drop(database);
    let before = contents(directory.path());

    let mut refused = setup.spawn(free_address());
    assert_eq!(refused.wait().code(), Some(1), "{}", refused.log());
    let log = refused.log();
    assert!(log.contains("entry 21 of 40") && log.contains("damaged"), "{log}");
    assert!(contents(directory.path()) == before, "a file was changed: {log}");
}

/// Files of restart points, newest first.
fn restart_points(directory: &Path) -> Vec<PathBuf> {
    let database = open(directory);
    let mut statement = database
        .prepare(
            "SELECT learned_sequence, model_file_path FROM checkpoints
             UNION SELECT learned_sequence, model_file_path FROM model_versions
             ORDER BY learned_sequence DESC",
        )
        .expect("the tables are there");
    let files = statement.query_map([], |row| row.get::<_, String>(1)).expect("it can be read");
    files.map(|file| directory.join(file.expect("it can be read"))).collect()
}

#[test]
fn a_damaged_newest_model_file_gives_way_to_an_older_one_and_the_same_model() {
    let original = directory();
    let setup = Setup::new(original.path())
        .with("CHECKPOINT_OUTCOMES", 1_000)
        .with("MODEL_SAVE_INTERVAL", 0);
    let mut service = setup.start();
    for part in 0..4 {
        service.learn(&lines(part * 1_200..(part + 1) * 1_200));
        if part % 2 == 0 {
            let saved = service.post("/api/learning/models/save", "", "");
            assert_eq!(saved.status, 200, "{saved:?}");
        } else {
            service.wait_for_log(&format!("checkpoint=written sequence={}", (part + 1) * 1_200));
        }
    }
    service.learn(&lines(4_800..5_000));
    let digest = service.digest();
    service.kill();
    let points = restart_points(original.path()).len();
    assert!(points >= 3, "{points} restart points");

    let damages: [fn(&Path); 3] = [
        |file| {
            let text = fs::read_to_string(file).expect("it is there");
            // Still JSON, but another state.
            let changed = text.replacen("\"executions\":", "\"executions\":1", 1);
            assert_ne!(changed, text);
            fs::write(file, changed).expect("it can be written");
        },
        |file| {
            let length = fs::metadata(file).expect("it is there").len();
            let opened = OpenOptions::new().write(true).open(file).expect("it is there");
            opened.set_len(length / 2).expect("it can be cut");
        },
        |file| fs::remove_file(file).expect("it is there"),
    ];
    for damaged in 1..=points {
        let copy = directory();
        copy_files(original.path(), copy.path());
        for (file, damage) in
            restart_points(copy.path()).iter().take(damaged).zip(damages.iter().cycle())
        {
            damage(file);
        }
        let mut service = Setup::new(copy.path()).start();
        let log = service.log();
        assert_eq!(log.matches(" skipped error=").count(), damaged, "{log}");
        assert_eq!(service.digest(), digest, "{damaged} damaged: {log}");
    }
}

// Full disk, locked database.

/// A file system of its own; gone when dropped.
struct SmallDisk {
    mounted: tempfile::TempDir,
}

impl SmallDisk {
    /// `None` where that is not allowed.
    fn mount(size: &str) -> Option<Self> {
        let mounted = directory();
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(mounted.path())
            .status();
        if status.is_ok_and(|status| status.success()) {
            return Some(Self { mounted });
        }
        #[expect(clippy::print_stderr, reason = "a test that proves nothing has to say so")]
        {
            eprintln!("skipped: a small tmpfs can't be mounted here");
        }
        None
    }

    fn storage(&self) -> PathBuf {
        self.mounted.path().join("models")
    }

    fn filler(&self) -> PathBuf {
        self.mounted.path().join("filler")
    }

    /// Leaves no byte free.
    fn fill(&self) {
        let filler = OpenOptions::new().create(true).append(true).open(self.filler());
        let mut filler = filler.expect("it can be made");
        for size in [65_536, 4_096, 1] {
            while filler.write_all(&vec![7; size]).is_ok() {}
        }
    }

    fn free(&self) {
        fs::remove_file(self.filler()).expect("it is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.mounted.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "it can be unmounted");
    }
}

#[test]
fn a_full_disk_stops_learning_until_there_is_space_and_predictions_never() {
    let Some(disk) = SmallDisk::mount("8m") else { return };
    let storage = disk.storage();
    let setup = Setup::new(&storage).with("MODEL_SAVE_INTERVAL", 0);
    let mut service = setup.start();
    service.learn(&lines(0..100));
    disk.fill();
    // The log may have room left for some.
    let mut accepted = 100;
    let refused = eventually("the disk is full for the service too", || {
        let answer = service.post(OUTCOMES, NDJSON, lines(accepted..accepted + 50));
        if answer.status == 202 {
            accepted += 50;
            return None;
        }
        Some(answer)
    });
    check_pushed_back(&refused);
    for _ in 0..20 {
        check_predicts(&service);
        check_pushed_back(&service.post(OUTCOMES, NDJSON, lines(accepted..accepted + 50)));
    }
    assert_eq!(status(&service)["status"], "degraded", "{}", status(&service));
    let save = service.post("/api/learning/models/save", "", "");
    assert!(save.status >= 500, "{save:?}");
    assert!(service.is_running(), "{}", service.log());

    disk.free();
    eventually("learning resumes by itself", || {
        let status = status(&service);
        (status["status"] == "running").then_some(())
    });
    let again = service.learn(&lines(0..accepted + 50));
    assert_eq!(again["duplicates"], accepted, "what was acknowledged is known: {again}");
    assert_eq!(again["accepted"], 50, "what was refused is not: {again}");
    assert_eq!(executions(&service), u64::from(accepted) + 50);
    let digest = service.digest();
    service.kill();
    let service = setup.start();
    assert_eq!(service.digest(), digest);
    assert_eq!(executions(&service), u64::from(accepted) + 50);
    service.stop();
}

#[test]
fn outcomes_that_were_accepted_before_the_disk_was_full_are_learned_once_there_is_space() {
    let Some(disk) = SmallDisk::mount("8m") else { return };
    let storage = disk.storage();
    let setup = Setup::new(&storage)
        .with("MODEL_SAVE_INTERVAL", 0)
        .with("MODEL_BATCH_SIZE", 100_000)
        .with("MODEL_BATCH_TIMEOUT", 3);
    let service = setup.start();
    let answer = service.post(OUTCOMES, NDJSON, lines(0..70));
    assert_eq!(answer.status, 202, "{answer:?}");
    disk.fill();
    let updates = |key: &str| {
        let metrics = service.get("/api/learning/metrics").json();
        metrics[key].as_u64().expect("it is a number")
    };
    eventually("learning them fails", || (updates("failed_updates") > 0).then_some(()));
    assert_eq!(status(&service)["status"], "degraded", "{}", status(&service));
    assert_eq!(status(&service)["model_version"], 0, "nothing is shown that is not recorded");
    check_predicts(&service);

    disk.free();
    eventually("they are learned by themselves", || {
        (status(&service)["model_version"] == 70).then_some(())
    });
    assert_eq!(status(&service)["status"], "running", "{}", status(&service));
    assert_eq!(executions(&service), 70);
    assert_eq!(updates("successful_updates"), 1);
    assert_eq!(updates("total_updates"), 1 + updates("failed_updates"));
    service.stop();
}

#[test]
fn a_full_disk_is_told_with_what_follows_from_it_until_there_is_space() {
    let Some(disk) = SmallDisk::mount("8m") else { return };
    let service = Setup::new(&disk.storage())
        .with("MODEL_SAVE_INTERVAL", 0)
        .with("MODEL_BATCH_SIZE", 100_000)
        .with("MODEL_BATCH_TIMEOUT", 2)
        .with("ALERT_INTERVAL", "0.1")
        .with("ALERT_WINDOW", 15)
        .start();
    let answer = service.post(OUTCOMES, NDJSON, lines(0..70));
    assert_eq!(answer.status, 202, "{answer:?}");
    disk.fill();
    let is_so = |rule: &str, status: &str| {
        let list = service.get("/api/learning/alerts").json();
        let alerts = list["alerts"].as_array().expect("it is a list").clone();
        alerts.iter().any(|alert| alert["rule"] == rule && alert["status"] == status).then_some(())
    };
    eventually("the disk is told to be full", || is_so("disk_full", "firing"));
    // Learning is tried twice a second; 20 tries say enough.
    eventually("updates are told to fail", || is_so("failed_updates", "firing"));
    disk.free();
    eventually("the disk has space again", || is_so("disk_full", "resolved"));
    eventually("no update fails any more", || is_so("failed_updates", "resolved"));
    service.stop();
}

#[test]
fn a_start_on_a_full_disk_either_serves_or_says_why_not_and_loses_nothing() {
    let Some(disk) = SmallDisk::mount("8m") else { return };
    let storage = disk.storage();
    let setup = Setup::new(&storage);
    let service = setup.start();
    service.learn(&lines(0..500));
    let digest = service.digest();
    service.kill();
    disk.fill();
    let mut starved = setup.spawn(free_address());
    let ended = eventually("it is ready or has ended", || {
        if starved.try_get("/readyz").is_ok_and(|answer| answer.status == 200) {
            return Some(false);
        }
        (!starved.is_running()).then_some(true)
    });
    if ended {
        assert_eq!(starved.wait().code(), Some(1));
        assert!(starved.log().contains("full"), "{}", starved.log());
    } else {
        assert_eq!(starved.digest(), digest);
        check_predicts(&starved);
    }
    starved.kill();
    disk.free();
    let service = setup.start();
    assert_eq!(service.digest(), digest);
    assert_eq!(executions(&service), 500);
}

#[test]
fn a_database_that_another_process_locks_gets_503_and_recovers() {
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    service.learn(&lines(0..10));
    let other = open(directory.path());
    other.execute_batch("BEGIN IMMEDIATE").expect("it can be locked");
    let refused = service.post(OUTCOMES, NDJSON, lines(10..20));
    check_pushed_back(&refused);
    assert_eq!(status(&service)["status"], "degraded", "{}", status(&service));
    check_predicts(&service);
    other.execute_batch("ROLLBACK").expect("it can be unlocked");
    eventually("learning resumes by itself", || {
        (status(&service)["status"] == "running").then_some(())
    });
    service.learn(&lines(0..20));
    assert_eq!(executions(&service), 20);
}

#[test]
fn a_full_queue_pushes_back_at_once_and_what_it_took_is_counted() {
    const SENDERS: u32 = 24;
    let directory = directory();
    let service = Setup::new(directory.path()).with("QUEUE_CAPACITY", 1).start();
    let other = open(directory.path());
    other.execute_batch("BEGIN IMMEDIATE").expect("it can be locked");
    let (answer_tx, answer_rx) = std::sync::mpsc::channel();
    let mut answers: Vec<Answer> = Vec::new();
    std::thread::scope(|scope| {
        for sender in 0..SENDERS {
            let (answer_tx, service) = (answer_tx.clone(), &service);
            scope.spawn(move || {
                let answer = service.post(OUTCOMES, NDJSON, lines(sender..sender + 1));
                answer_tx.send(answer).expect("somebody listens");
            });
        }
        // The learner waits for the lock, one request waits for the learner: the others can't.
        let first = answer_rx.recv_timeout(SOON).expect("somebody is pushed back");
        assert!(first.body.contains("queue is full"), "{first:?}");
        check_predicts(&service);
        other.execute_batch("ROLLBACK").expect("it can be unlocked");
        answers.push(first);
        for _ in 1..SENDERS {
            answers.push(answer_rx.recv_timeout(SOON).expect("everybody is answered"));
        }
    });
    let (taken, pushed_back): (Vec<_>, Vec<_>) =
        answers.iter().partition(|answer| answer.status == 202);
    pushed_back.into_iter().for_each(check_pushed_back);
    assert!(!taken.is_empty(), "{answers:?}");
    service.learn("");
    assert_eq!(executions(&service), taken.len() as u64);
}

// Hostile and slow clients.

#[test]
fn a_body_of_100_gb_is_refused_before_it_is_read() {
    let directory = directory();
    let mut service = Setup::new(directory.path()).start();
    for path in [OUTCOMES, PREDICT] {
        let mut wire = Wire::open(service.address).expect("it listens");
        wire.send(format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: 100000000000\r\n\r\n{{"
        ))
        .expect("it is taken");
        let answer = wire.answer().expect("it is answered");
        assert_eq!(answer.status, 413, "{answer:?}");
        assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
        assert!(wire.answer().is_err(), "the rest is not taken for a request");
    }
    assert!(service.is_running(), "{}", service.log());
    check_predicts(&service);
}

#[test]
fn three_hundred_slow_clients_delay_nobody() {
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    let slow: Vec<Wire> = (0..300)
        .map(|number| {
            let mut wire = Wire::open(service.address).expect("it listens");
            let part = if number % 2 == 0 {
                "POST /api/learning/outcomes HTTP/1.1\r\nhost: te".to_owned()
            } else {
                format!(
                    "POST {OUTCOMES} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {NDJSON}\r\n\
                     content-length: 8000000\r\n\r\n{{\"agent_name\":"
                )
            };
            wire.send(part).expect("it is taken");
            wire
        })
        .collect();
    let began = Instant::now();
    for round in 0..100 {
        service.learn(&lines(round..round + 1));
        check_predicts(&service);
        let fresh = Wire::open(service.address).and_then(|mut wire| wire.get("/livez"));
        assert_eq!(fresh.expect("it is answered").status, 200);
    }
    // The first of the slow ones gives up after 10 s: whoever had to wait for them took longer.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    drop(slow);
}

/// Lets this process hold more connections than a shell grants.
fn raise_own_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("up to the hard limit everybody may");
}

#[test]
fn eleven_hundred_connections_at_the_same_time_are_each_answered_twice() {
    raise_own_descriptor_limit();
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    let mut wires: Vec<Wire> =
        (0..1_100).map(|_| Wire::open(service.address).expect("it listens")).collect();
    for round in 0..2 {
        for wire in &mut wires {
            wire.send("GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("it is taken");
        }
        for (number, wire) in wires.iter_mut().enumerate() {
            let answer = wire.answer();
            let answer = answer.unwrap_or_else(|error| panic!("{round}: {number}: {error}"));
            assert_eq!(answer.status, 200, "{round}: {number}: {answer:?}");
        }
    }
}

#[test]
fn running_out_of_descriptors_is_survived_and_recovered_from() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    raise_own_descriptor_limit();
    let directory = directory();
    let mut service = Setup::new(directory.path()).start();
    service.learn(&lines(0..10));
    let pid = Pid::from_raw(service.pid().cast_signed()).expect("it is no zero");
    let few = Rlimit { current: Some(64), maximum: Some(64) };
    prlimit(Some(pid), Resource::Nofile, few).expect("it is our child");
    let mut early = Wire::open(service.address).expect("it listens");
    assert_eq!(early.get("/livez").expect("it is answered").status, 200);
    let body = lines(10..20);
    early
        .send(format!(
            "POST {OUTCOMES}?wait=true HTTP/1.1\r\nhost: localhost\r\ncontent-type: {NDJSON}\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        ))
        .expect("it is taken");

    let wires: Vec<Wire> = (0..200).filter_map(|_| Wire::open(service.address).ok()).collect();
    service.wait_for_log("for want of resources");
    assert!(service.is_running());
    // Idle connections give way to new ones; whose request is under way is served, as far as no
    // further file is needed.
    early.send(&body).expect("it is taken");
    let answer = early.answer().expect("it is answered");
    assert_eq!(answer.status, 200, "{answer:?}");
    early
        .send("POST /api/learning/models/save HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .expect("taken");
    let answer = early.answer().expect("it is answered");
    assert!([200, 503].contains(&answer.status), "{answer:?}");

    drop(wires);
    eventually("new clients are answered again", || {
        let answer = Wire::open(service.address).and_then(|mut wire| wire.get("/livez"));
        answer.is_ok_and(|answer| answer.status == 200).then_some(())
    });
    service.learn(&lines(20..30));
    assert_eq!(executions(&service), 30);
    let saved = service.post("/api/learning/models/save", "", "");
    assert_eq!(saved.status, 200, "{saved:?}");
    service.stop();
}

// Floods of names.

/// `VmRSS` and `VmHWM` of a process, in MB.
fn memory(service: &Service) -> (u64, u64) {
    let path = format!("/proc/{}/status", service.pid());
    let text = fs::read_to_string(path).expect("it is our child");
    let field = |name: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with(name)).expect("it is there");
        let kib = line.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok());
        kib.expect("it is a number") * 1_024 / 1_000_000
    };
    (field("VmRSS"), field("VmHWM"))
}

#[track_caller]
fn check_memory(what: &str, service: &Service, max: u64) {
    let (now, most) = memory(service);
    #[expect(clippy::print_stderr, reason = "a figure of interest, shown with --nocapture")]
    {
        eprintln!("{what}: VmRSS {now} MB, VmHWM {most} MB");
    }
    assert!(now < max && most < max, "{what}: VmRSS {now} MB, VmHWM {most} MB, allowed {max}");
}

#[test]
fn an_idle_service_takes_less_than_200_mb() {
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    check_predicts(&service);
    check_memory("idle", &service, 200);
}

/// A name of 200 bytes that nobody else has.
fn long_name(kind: &str, number: u32) -> String {
    format!("{kind}-{number:0>width$}", width = 199 - kind.len())
}

/// Four new names an event: agent, task type, context key, context value. The tenants fill their cap and go on
/// to a quarter of the events.
fn flood_with_names(service: &Service, events: u32) {
    const SENDERS: u32 = 2;
    let body = |first: u32| {
        let mut body = String::new();
        for number in first..first + 5_000 {
            let tenant = if number % 4 == 0 { number } else { number % 97 * 4 };
            writeln!(
                body,
                r#"{{"event_id":"{number}","tenant_id":"{}","agent_name":"{}","task_type":"{}","status":"success","latency_ms":5,"context":{{"{}":"{}"}}}}"#,
                long_name("tenant", tenant),
                long_name("agent", number),
                long_name("task", number),
                long_name("key", number),
                long_name("value", number),
            )
            .expect("a string takes everything");
        }
        body
    };
    std::thread::scope(|scope| {
        for sender in 0..SENDERS {
            let body = &body;
            scope.spawn(move || {
                let share = events / SENDERS;
                for first in (sender * share..(sender + 1) * share).step_by(5_000) {
                    let body = body(first);
                    eventually("the flood is taken", || {
                        (service.post(OUTCOMES, NDJSON, &body).status == 202).then_some(())
                    });
                }
            });
        }
    });
    service.learn("");
}

#[test]
fn a_flood_of_a_million_made_up_names_leaves_the_service_under_600_mb() {
    let directory = directory();
    let setup = Setup::new(directory.path())
        .with("MODEL_BATCH_SIZE", 1_000)
        .with("SQLITE_SYNCHRONOUS", "normal");
    let service = setup.start();
    flood_with_names(&service, 250_000);
    check_predicts(&service);
    let digest = service.digest();
    check_memory("after a flood of names", &service, 600);
    service.kill();

    let service = setup.start();
    assert_eq!(service.digest(), digest);
    check_memory("after a flood of names and a restart", &service, 600);
}

#[test]
fn with_little_memory_made_up_names_are_not_learned_and_all_else_goes_on() {
    const MAX_MIB: u64 = 384;
    let directory = directory();
    let setup = Setup::new(directory.path())
        .with("MODEL_BATCH_SIZE", 1_000)
        .with("SQLITE_SYNCHRONOUS", "normal")
        .with("MEMORY_MAX_MIB", MAX_MIB);
    let service = setup.start();
    let room = || service.get("/api/learning/status").json()["memory"]["room"].clone();
    let executions = |service: &Service| {
        let agents = service.get("/api/learning/agents/performance").json();
        let agents = agents.as_array().expect("it is a list").clone();
        agents
            .iter()
            .find(|row| row["agent_name"] == "real")
            .map(|row| row["total_executions"].clone())
    };
    let real = |first: u32| {
        let events = (first..first + 100).map(|number| {
            json!({"event_id": format!("real{number}"), "agent_name": "real", "status": "success"}).to_string()
        });
        events.collect::<Vec<_>>().join("\n")
    };
    service.learn(&real(0));
    assert_eq!(room(), "open");
    flood_with_names(&service, 200_000);
    assert_eq!(room(), "closed");
    let metrics = service.get("/metrics").body;
    assert!(metrics.contains("online_learning_room_closed 1"), "{metrics}");
    service.learn(&real(100));
    assert_eq!(executions(&service), Some(json!(200)));
    check_predicts(&service);
    check_memory(
        "after a flood of names with little memory",
        &service,
        (MAX_MIB << 20) / 1_000_000,
    );
    let digest = service.digest();
    service.kill();

    let service = setup.start();
    assert_eq!(service.digest(), digest);
    assert_eq!(executions(&service), Some(json!(200)));
}

// The log.

#[test]
fn payloads_and_secrets_stay_out_of_the_log_and_the_journal() {
    let directory = directory();
    let mut service = Setup::new(directory.path()).with("RUST_LOG", "debug").start();
    let secrets = json!({
        "event_id": "1", "agent_name": "a", "status": "success",
        "input_data": {"text": "SECRET-1"}, "output": "SECRET-2", "stack_trace": "SECRET-3",
        "error_message": "SECRET-4", "metadata": {"password": "SECRET-5"},
        "cost_estimate": "SECRET-6", "latency_ms": -1,
    });
    service.learn(&secrets.to_string());
    let journal: Vec<u8> = contents(directory.path()).into_values().flatten().collect();
    assert!(!journal.windows(7).any(|bytes| bytes == b"SECRET-"), "the journal keeps no payloads");

    let lines = "{\"agent_name\": \"SECRET-7\", \"status\": \"SECRET-8\"}\nSECRET-9 {";
    assert_eq!(service.post(OUTCOMES, "application/x-ndjson", lines).status, 422);
    let wrong = json!({"task_type": ["SECRET-10"], "top_k": "SECRET-11"});
    assert_eq!(service.post_json(PREDICT, &wrong).status, 422);
    service.post("/api/learning/models/save", "text/plain", "SECRET-12");
    service.post(OUTCOMES, "application/json", "SECRET-13");
    service.get("/api/learning/status?token=SECRET-14");
    service.get("/SECRET-15");
    let mut wire = Wire::open(service.address).expect("it listens");
    wire.send("GET /livez HTTP/1.1\r\nhost: localhost\r\nauthorization: SECRET-16\r\n\r\n")
        .expect("ok");
    assert_eq!(wire.answer().expect("it is answered").status, 200);
    let mut wire = Wire::open(service.address).expect("it listens");
    wire.send("SECRET-17 \u{1}\r\nSECRET-18\r\n\r\n").expect("it is taken");
    assert_eq!(wire.answer().expect("it is answered").status, 400);
    service.signal("TERM");
    assert_eq!(service.wait().code(), Some(0));
    let log = service.log();
    assert!(log.contains("service=stopped"), "{log}");
    assert!(!log.contains("SECRET-"), "{log}");
}

#[test]
fn a_name_with_newlines_makes_no_log_line_of_its_own() {
    let directory = directory();
    let forged = "x\nERROR service=hacked\r\nERROR service=hacked\u{1b}[31m";
    // Also where a name from outside is sure to be logged: in the path of the storage.
    let storage = directory.path().join(forged);
    let mut service = Setup::new(&storage).with("RUST_LOG", "debug").start();
    let event = json!({
        "agent_name": forged, "status": "success", "tenant_id": forged, "task_type": forged,
        "event_id": forged, "decision_id": forged, "context": {forged: forged},
    });
    assert_eq!(service.learn(&event.to_string())["accepted"], 1);
    let question = json!({"candidates": [forged], "tenant_id": forged, "decision_id": forged});
    assert_eq!(service.post_json(PREDICT, &question).status, 200);
    let path = "/api/learning/models/agent_selection/versions/%0AERROR%20service=hacked/activate";
    assert_eq!(service.post(path, "", "").status, 404);
    service.signal("TERM");
    assert_eq!(service.wait().code(), Some(0));

    let log = service.log();
    assert!(log.contains("service=stopped"), "{log}");
    for line in log.lines() {
        assert!(!line.starts_with("ERROR service=hacked"), "{log}");
        assert!(!line.contains(char::is_control), "{log:?}");
    }
    let mut second = Setup::new(&storage.join("online-learning.db")).spawn(free_address());
    assert_eq!(second.wait().code(), Some(1));
    assert_eq!(second.log().lines().count(), 1, "{}", second.log());
}

#[test]
fn a_client_that_goes_away_in_the_middle_of_its_request_changes_nothing() {
    let directory = directory();
    let mut service = Setup::new(directory.path()).start();
    for length in 0..lines(0..1).len() {
        let body = lines(0..1);
        let mut wire = Wire::open(service.address).expect("it listens");
        wire.send(format!(
            "POST {OUTCOMES} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {NDJSON}\r\n\
             content-length: {}\r\n\r\n{}",
            body.len(),
            &body[..length]
        ))
        .expect("it is taken");
    }
    assert_eq!(service.learn("")["accepted"], 0);
    assert_eq!(executions(&service), 0);
    assert!(service.is_running(), "{}", service.log());
    let refused = Wire::open(free_address()).map(drop);
    assert_eq!(refused.map_err(|error| error.kind()), Err(ErrorKind::ConnectionRefused));
}

//! What is durable, what is refused to be opened, what is let go.

use std::collections::{BTreeMap, BTreeSet};

use tempfile::TempDir;

use super::evidence::RESTORED_FILE;
use super::journal::Row;
use super::*;
use crate::model::{AgentPerformanceModel, Control, Measure, Question, Settings};
use crate::outcome::decisions::{Choice, Decision, Waiting};
use crate::outcome::feedback::{Target, Verdict};
use crate::outcome::{
    ContentKey, FEATURES_MAX, Feature, IdentityKey, NAME_BYTES_MAX, Outcome, PayloadKept, Refusal,
    RefusalCode, Status,
};

const NOW_MS: i64 = 1_800_000_000_000;

/// As the program opens it, but without waiting for the disk.
fn quick() -> StoreOptions {
    StoreOptions { synchronous: Synchronous::Normal, ..StoreOptions::default() }
}

/// As the program opens it.
fn full() -> StoreOptions {
    StoreOptions::default()
}

fn identity(number: u64) -> IdentityKey {
    u128::from(number).to_be_bytes()
}

fn outcome(number: u64) -> Outcome {
    Outcome {
        identity: identity(number),
        ..Outcome::new(format!("agent{number}"), Status::Success)
    }
}

fn letter(payload: &str) -> NewDeadLetter {
    NewDeadLetter {
        source: "kafka",
        refusal: Refusal::new(RefusalCode::NotJson, "the record is not JSON: \"quoted\" é"),
        position: Some(("topic".into(), 3, 42)),
        identity: "topic/3/42".to_owned(),
        payload: PayloadKept::Full.of(payload.as_bytes(), 65_536),
        created_at: "2026-11-02T09:00:00.000+00:00".to_owned(),
        owner: Owner::Tenant("default".to_owned()),
    }
}

fn event(number: u64) -> LearningEvent {
    LearningEvent {
        id: LearningEvent::id_of(number),
        model_version_id: None,
        event_type: "micro_batch".to_owned(),
        batch_size: 10,
        samples_processed: 9,
        metrics_before: "{\"model_score\":0.5}".into(),
        metrics_after: "{\"model_score\":0.75}".into(),
        improvement: 0.25,
        duration_ms: 1.5,
        created_at: "2026-11-02T09:00:00.000+00:00".to_owned(),
    }
}

fn version(number: u64, learned_sequence: u64, file: &str) -> ModelVersion {
    ModelVersion {
        id: ModelVersion::id_of("agent_selection", number),
        model_type: "agent_selection".to_owned(),
        version_number: number,
        status: VersionStatus::Training,
        parameters: serde_json::json!({"prior_alpha": 1.0}),
        metrics: serde_json::json!({"model_score": 0.5}),
        model_file_path: file.to_owned(),
        created_at: "2026-11-02T09:00:00.000+00:00".to_owned(),
        training_samples: 7,
        parent_version: None,
        learned_sequence,
        digest: None,
    }
}

/// A store with the counters that the learner keeps for it.
struct Kept {
    directory: TempDir,
    store: Option<Store>,
    options: StoreOptions,
    counters: Counters,
    now_ms: i64,
}

impl Kept {
    fn new(options: StoreOptions) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), options).unwrap();
        Self {
            directory,
            store: Some(store),
            options,
            counters: Counters::default(),
            now_ms: NOW_MS,
        }
    }

    fn store(&mut self) -> &mut Store {
        self.store.as_mut().unwrap()
    }

    fn reopen(&mut self) {
        self.store = None;
        self.store = Some(Store::open(self.directory.path(), self.options).unwrap());
    }

    fn reader(&self) -> Reader {
        Reader::new(self.directory.path())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn try_append(
        &mut self,
        outcomes: &[Outcome],
        dead_letters: &[NewDeadLetter],
        replayed: &[String],
        positions: &[Position],
    ) -> Result<()> {
        let mut counters = self.counters.clone();
        counters.last_sequence += outcomes.len() as u64;
        counters.last_dead_letter += dead_letters.len() as u64;
        let append = Append { outcomes, dead_letters, replayed, positions, ..Append::default() };
        let now_ms = self.now_ms;
        self.store().append(&append, &mut counters, now_ms)?;
        self.counters = counters;
        Ok(())
    }

    /// Appends outcomes by their numbers.
    fn append(&mut self, numbers: std::ops::RangeInclusive<u64>) {
        let outcomes: Vec<Outcome> = numbers.map(outcome).collect();
        self.try_append(&outcomes, &[], &[], &[]).unwrap();
    }

    fn learn_all(&mut self) {
        self.counters.learned_sequence = self.counters.last_sequence;
        let counters = self.counters.clone();
        self.store().learned(&[], &counters).unwrap();
    }

    fn replayed(&mut self, after: u64) -> Result<Vec<(u64, Entry)>> {
        let last = self.counters.last_sequence;
        let mut entries = Vec::new();
        self.store().replay(after, last, |sequence, entry| {
            entries.push((sequence, entry));
            Ok(())
        })?;
        Ok(entries)
    }

    fn oldest(&mut self) -> u64 {
        self.store().oldest_sequence().unwrap().unwrap()
    }

    /// A version whose file is only a placeholder, as far as learned now.
    fn save(&mut self, number: u64) {
        let file = format!("version-{number}.json");
        fs::write(self.file(&file), b"{}").unwrap();
        let mut row = version(number, self.counters.learned_sequence, &file);
        let counters = self.counters.clone();
        self.store().begin_version(&[row.clone()], &counters).unwrap();
        row.digest = Some(format!("digest{number}"));
        self.counters.last_version_number = number;
        self.counters.last_learning_event += 1;
        let (event, counters) = (event(self.counters.last_learning_event), self.counters.clone());
        self.store().finish_version(&[row], event, &counters).unwrap();
    }

    /// Makes the save `from` the version `number`.
    fn activate(&mut self, from: u64, number: u64) {
        let file = format!("version-{from}.json");
        self.counters.last_sequence += 1;
        self.counters.learned_sequence = self.counters.last_sequence;
        self.counters.last_version_number = number;
        self.counters.last_learning_event += 1;
        let mut row = version(number, self.counters.last_sequence, &file);
        row.digest = Some(format!("digest{from}"));
        row.parent_version = Some(ModelVersion::id_of("agent_selection", from));
        let activation = Activation {
            version_id: ModelVersion::id_of("agent_selection", from),
            model_file_path: file,
            digest: format!("digest{from}"),
        };
        let (event, counters) = (event(self.counters.last_learning_event), self.counters.clone());
        let now_ms = self.now_ms;
        self.store().activate(&activation, &[row], event, &counters, now_ms).unwrap();
    }

    /// Records a decision of an answer of 5 bytes.
    fn decide(&mut self, tenant: &str, id: &str) -> Result<()> {
        let decision = Decision {
            task_type: Some("t".to_owned()),
            context: Vec::new(),
            request: [1; 16],
            answer: b"{\"a\"".to_vec(),
        };
        let choice = Choice {
            created_ms: NOW_MS,
            candidates: "[]".into(),
            first: None,
            explore: true,
            explored: false,
            model_version: 0,
            strategy: "thompson",
            details: None,
            trace: None,
        };
        let (tenant, id) = (tenant.to_owned(), id.to_owned());
        let waiting = [Waiting { tenant, id, decision: decision.into(), choice }];
        let mut counters = self.counters.clone();
        counters.last_decision += 1;
        let append = Append { decisions: &waiting, ..Append::default() };
        let now_ms = self.now_ms;
        self.store().append(&append, &mut counters, now_ms)?;
        self.counters = counters;
        Ok(())
    }

    /// The ids of a tenant's decisions, newest first.
    fn decided(&self, tenant: &str) -> Vec<String> {
        let rows = self.reader().decisions(tenant, None, 100).unwrap();
        rows.into_iter().map(|row| row.id).collect()
    }

    fn control(&mut self, controls: &[Control]) -> Result<()> {
        let mut counters = self.counters.clone();
        counters.last_sequence += controls.len() as u64;
        counters.learned_sequence = counters.last_sequence;
        counters.controls += controls.len() as u64;
        counters.last_learning_event += 1;
        let now_ms = self.now_ms;
        let event = event(counters.last_learning_event);
        self.store().control(controls, event, &mut counters, now_ms)?;
        self.counters = counters;
        Ok(())
    }

    /// Version numbers by status, newest first.
    fn versions(&self) -> Vec<(u64, VersionStatus)> {
        let rows = self.reader().versions("agent_selection", None, 100).unwrap();
        rows.into_iter().map(|row| (row.version_number, row.status)).collect()
    }

    fn files(&self) -> BTreeSet<String> {
        fs::read_dir(self.directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with("online-learning."))
            .collect()
    }
}

#[test]
fn opening_makes_the_directory_and_everything_in_it() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("a/b");
    let store = Store::open(&directory, StoreOptions::default()).unwrap();
    assert!(directory.join(DATABASE_FILE).is_file() && directory.join(LOCK_FILE).is_file());
    assert_eq!(store.counters().unwrap(), Counters::default());
    assert_eq!((store.oldest_sequence().unwrap(), store.positions().unwrap()), (None, vec![]));
    assert_eq!(store.directory(), directory);
    let strict: i64 = store
        .connection
        .query_row(
            "SELECT count(*) FROM pragma_table_list WHERE schema = 'main' AND type = 'table'
             AND strict AND name NOT LIKE 'sqlite%'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(strict, 17, "all tables are strict");
    let mode: String =
        store.connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    let synchronous: i64 =
        store.connection.query_row("PRAGMA synchronous", [], |row| row.get(0)).unwrap();
    assert_eq!((mode.as_str(), synchronous), ("wal", 2), "acknowledged is on the disk");
}

#[test]
fn a_second_opening_fails_and_names_the_directory() {
    let kept = Kept::new(quick());
    let Err(Error::InUse(text)) = Store::open(kept.directory.path(), quick()) else {
        panic!("two writers in one directory");
    };
    assert!(text.contains(&kept.directory.path().display().to_string()), "{text}");
    assert!(text.contains("MODEL_STORAGE_PATH"), "{text}");
    drop(kept.store);
    Store::open(kept.directory.path(), quick()).unwrap();
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    fs::write(&file, b"").unwrap();
    let Err(Error::Fatal(text)) = Store::open(&file, quick()) else { panic!("a file was opened") };
    assert!(text.contains(&file.display().to_string()), "{text}");
}

/// Opens a database that was tampered with; nothing may have changed afterwards.
#[track_caller]
fn check_refused(tamper: impl FnOnce(&Path), says: &str) {
    let mut kept = Kept::new(quick());
    for number in 0..50 {
        kept.append(10 * number..=10 * number + 9);
    }
    kept.store.take().unwrap().close();
    let database = kept.file(DATABASE_FILE);
    tamper(&database);
    let image = |name: &str| fs::read(kept.file(name)).unwrap_or_default();
    let wal = format!("{DATABASE_FILE}-wal");
    let before = [image(DATABASE_FILE), image(&wal)];
    let Err(Error::Corrupt(text)) = Store::open(kept.directory.path(), quick()) else {
        panic!("opened, or another error");
    };
    assert!(text.contains(says), "{text}");
    assert!(text.contains(&database.display().to_string()), "{text}");
    assert!(before == [image(DATABASE_FILE), image(&wal)], "the files were changed");
}

#[test]
fn a_database_that_is_not_ours_or_damaged_is_left_as_it_is() {
    let sql = |database: &Path, sql: &str| {
        Connection::open(database).unwrap().execute_batch(sql).unwrap();
    };
    let another = "an SQLite database of another program";
    let newer = SCHEMA_VERSION + 1;
    check_refused(
        |path| sql(path, &format!("PRAGMA user_version = {newer}")),
        &format!("a newer online-learning (schema {newer}"),
    );
    check_refused(
        |path| sql(path, "PRAGMA application_id = 7"),
        "has our tables, but application_id 7",
    );
    for schema in [0, -1] {
        check_refused(
            |path| sql(path, &format!("PRAGMA user_version = {schema}")),
            &format!("has schema {schema} (its user_version), which no online-learning writes"),
        );
        check_refused(
            |path| sql(path, &format!("PRAGMA application_id = 0; PRAGMA user_version = {schema}")),
            "has our tables, but application_id 0",
        );
    }
    check_refused(
        |path| {
            fs::remove_file(path).unwrap();
            sql(path, "CREATE TABLE theirs(id INTEGER)");
        },
        another,
    );
    check_refused(
        |path| {
            fs::remove_file(path).unwrap();
            sql(path, "PRAGMA user_version = 1; CREATE TABLE theirs(id INTEGER)");
        },
        another,
    );
    check_refused(|path| fs::write(path, "no database at all\n".repeat(999)).unwrap(), "damaged");
    check_refused(|path| fs::write(path, "x").unwrap(), another);
    check_refused(
        |path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        },
        "damaged",
    );
    check_refused(
        |path| {
            // The root page of the first table.
            let mut bytes = fs::read(path).unwrap();
            bytes[4096..4096 + 64].fill(0x5a);
            fs::write(path, bytes).unwrap();
        },
        "damaged",
    );
}

#[test]
fn what_a_crash_left_in_the_log_of_a_refused_database_stays_there() {
    let mut kept = Kept::new(quick());
    kept.append(1..=10);
    let newer = format!("PRAGMA user_version = {}", SCHEMA_VERSION + 1);
    kept.store().connection.execute_batch(&newer).unwrap();
    // The image of a process that was killed: the newest state is in the log.
    let image = tempfile::tempdir().unwrap();
    let names = [DATABASE_FILE.to_owned(), format!("{DATABASE_FILE}-wal")];
    for name in &names {
        fs::copy(kept.file(name), image.path().join(name)).unwrap();
    }
    let read = || names.clone().map(|name| fs::read(image.path().join(name)).unwrap_or_default());
    let before = read();
    let opened = Store::open(image.path(), quick());
    assert!(matches!(opened, Err(Error::Corrupt(_))), "a newer schema");
    drop(opened);
    assert!(before == read(), "the files were changed");
}

#[test]
fn a_crash_before_the_tables_were_made_is_no_foreign_database() {
    let directory = tempfile::tempdir().unwrap();
    // The switch to a write-ahead log is written before the tables are.
    Connection::open(directory.path().join(DATABASE_FILE))
        .unwrap()
        .execute_batch("PRAGMA journal_mode = WAL")
        .unwrap();
    assert_ne!(fs::metadata(directory.path().join(DATABASE_FILE)).unwrap().len(), 0);
    let store = Store::open(directory.path(), quick()).unwrap();
    store.counters().unwrap();
}

#[test]
fn a_full_check_finds_what_the_quick_one_is_not_run_for() {
    let mut kept = Kept::new(quick());
    kept.append(1..=10);
    kept.store.take().unwrap().close();
    let path = kept.file(DATABASE_FILE);
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 4096..end - 4000].fill(0x5a);
    fs::write(&path, bytes).unwrap();
    let options = StoreOptions { quick_check_bytes_max: 0, integrity_check: true, ..quick() };
    let opened = Store::open(kept.directory.path(), options);
    assert!(matches!(opened, Err(Error::Corrupt(_))));
}

#[test]
fn the_journal_gives_back_exactly_what_was_appended() {
    let mut kept = Kept::new(StoreOptions::default());
    let rich = Outcome {
        tenant: "t".to_owned(),
        task_type: Some("review".to_owned()),
        context: vec![
            ("k".to_owned(), Feature::Number(0.1)),
            ("l".to_owned(), Feature::Bool(true)),
        ],
        latency_ms: Some(0.1 + 0.2),
        quality: Some(1e-300),
        cost: Some(1e12),
        time_ms: -5,
        decision: Some(crate::outcome::DecisionRef::Explicit("d".to_owned())),
        ..outcome(4)
    };
    kept.append(1..=3);
    kept.try_append(&[rich.clone(), outcome(5)], &[], &[], &[]).unwrap();
    kept.append(6..=6);
    let counters = kept.counters.clone();
    kept.reopen();
    assert_eq!(kept.store().counters().unwrap(), counters);

    let mut all: Vec<Outcome> = (1..=6).map(outcome).collect();
    all[3] = rich;
    for after in 0..=6 {
        let entries = kept.replayed(after).unwrap();
        let seen: Vec<_> = entries
            .into_iter()
            .map(|(sequence, entry)| match entry {
                Entry::Outcome(outcome) => (sequence, outcome),
                other => panic!("{other:?}"),
            })
            .collect();
        let expected = (after + 1..).zip(all.iter().skip(usize::try_from(after).unwrap()).cloned());
        assert_eq!(seen, expected.collect::<Vec<_>>(), "after {after}");
    }
    for number in 1..=6 {
        assert!(kept.store().is_known(identity(number)));
    }
    assert!(!kept.store().is_known(identity(7)));
}

#[test]
fn a_replay_that_ends_early_is_an_error_of_the_visitor() {
    let mut kept = Kept::new(quick());
    kept.append(1..=3);
    let mut seen = 0;
    let stopped = kept.store().replay(0, 3, |_, _| {
        seen += 1;
        Err(Error::Unavailable("enough".to_owned()))
    });
    assert_eq!((stopped, seen), (Err(Error::Unavailable("enough".to_owned())), 1));
}

#[test]
fn positions_of_sources_survive_and_move_on() {
    let position = |topic: &str, partition, next_offset| Position {
        topic: topic.into(),
        partition,
        next_offset,
        topic_id: format!("id of {topic}").into(),
        resets: 2,
        lost: 7,
        last_record_ms: NOW_MS,
    };
    let mut kept = Kept::new(quick());
    let first = [position("a", 1, 10), position("a", 0, 5), position("b", 0, i64::MAX)];
    kept.try_append(&[], &[], &[], &first).unwrap();
    kept.try_append(&[outcome(1)], &[], &[], &[position("a", 1, 11), position("a", 1, 12)])
        .unwrap();
    kept.reopen();
    assert_eq!(
        kept.store().positions().unwrap(),
        [position("a", 0, 5), position("a", 1, 12), position("b", 0, i64::MAX)]
    );
}

/// What the program of schema 1 left behind is taken over with everything in it.
#[test]
fn an_older_schema_is_brought_up_to_date_with_its_content() {
    let mut kept = Kept::new(quick());
    let position = Position { topic: "t".into(), next_offset: 9, ..Position::default() };
    kept.try_append(&[outcome(1)], &[], &[], std::slice::from_ref(&position)).unwrap();
    kept.store()
        .connection
        .execute_batch(&format!(
            "{WITHOUT_FEEDBACK}
             ALTER TABLE source_positions DROP COLUMN topic_id;
             ALTER TABLE source_positions DROP COLUMN resets;
             ALTER TABLE source_positions DROP COLUMN lost;
             ALTER TABLE source_positions DROP COLUMN last_record_ms;
             DROP TABLE decisions;
             DROP TABLE early_outcomes;
             DROP TABLE attempts;
             DROP TABLE budgets;
             DROP TABLE alerts;
             DROP TABLE agent_samples;
             DROP TABLE samples;
             DROP INDEX dead_letters_of_tenant;
             ALTER TABLE dead_letters DROP COLUMN tenant;
             ALTER TABLE dead_letters DROP COLUMN payload_kept;
             PRAGMA user_version = 1;"
        ))
        .unwrap();
    kept.reopen();
    assert_eq!(kept.store().positions().unwrap(), [position]);
    assert_eq!(kept.replayed(0).unwrap().len(), 1);
    let version: i32 =
        kept.store().connection.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(version, SCHEMA_VERSION);
}

#[test]
fn alerts_survive_and_those_that_have_passed_make_room() {
    use crate::watch::alerts::{ALERTS_MAX, Alert, Rule, Subject};
    let mut kept = Kept::new(quick());
    let alert = |id, resolved_ms| Alert {
        id,
        rule: Rule::AgentSuccess,
        subject: Some(Subject { tenant: "t".to_owned(), agent: "a \n".to_owned() }),
        value: 0.25,
        threshold: 0.5,
        message: "too low".to_owned(),
        since_ms: 7,
        resolved_ms,
    };
    let service = Alert { subject: None, rule: Rule::Lag, ..alert(2, None) };
    kept.store().write_alerts(&[alert(1, None), service.clone()], &[]).unwrap();
    kept.store().write_alerts(&[alert(1, Some(9))], &[]).unwrap();
    kept.reopen();
    assert_eq!(kept.reader().alerts().unwrap(), [alert(1, Some(9)), service.clone()]);

    let many: Vec<Alert> = (3..3 + ALERTS_MAX as u64).map(|id| alert(id, Some(9))).collect();
    kept.store().write_alerts(&many, &[]).unwrap();
    let left = kept.reader().alerts().unwrap();
    assert_eq!(left[0], service, "what fires stays");
    assert_eq!(left.len(), ALERTS_MAX + 1);
}

#[test]
fn changes_of_alerts_wait_for_their_receivers_over_a_restart_until_they_are_sent() {
    use crate::watch::alerts::{Alert, Rule};
    let mut kept = Kept::new(quick());
    let alert = |id, since_ms, resolved_ms| Alert {
        id,
        rule: Rule::Lag,
        subject: None,
        value: 2.0,
        threshold: 1.0,
        message: "too many".to_owned(),
        since_ms,
        resolved_ms,
    };
    let (first, second) = (alert(1, 5, None), alert(2, 7, None));
    let passed = alert(1, 5, Some(9));
    kept.store().write_alerts(&[first.clone(), second.clone()], &[0, 1]).unwrap();
    kept.store().write_alerts(std::slice::from_ref(&passed), &[0]).unwrap();
    kept.reopen();
    let unsent = |kept: &mut Kept, channel| kept.reader().unsent_alerts(channel).unwrap();
    assert_eq!(unsent(&mut kept, 0), [first.clone(), second.clone(), passed.clone()]);
    assert_eq!(unsent(&mut kept, 1), [first.clone(), second.clone()], "nobody asked for the rest");

    kept.store().alert_sent(&first, 0).unwrap();
    kept.store().alert_sent(&second, 1).unwrap();
    // Recorded once more, because nobody knew whether it was.
    kept.store().write_alerts(&[second.clone(), passed.clone()], &[0, 1]).unwrap();
    kept.reopen();
    assert_eq!(unsent(&mut kept, 0), [second.clone(), passed.clone()]);
    assert_eq!(unsent(&mut kept, 1), [first]);
    kept.store().alert_sent(&passed, 0).unwrap();
    kept.store().alert_sent(&second, 0).unwrap();
    assert_eq!(unsent(&mut kept, 0), []);
}

#[test]
fn samples_survive_and_are_thinned_out_by_age() {
    use crate::watch::samples::{AgentSample, KEPT, Sample, Subject};
    let sample = |sampled_ms: i64| Sample {
        sampled_ms,
        model_version: 3,
        score: 0.25,
        accuracy: (sampled_ms > NOW_MS).then_some(0.5),
        subjects: [None, Some("t \n".to_owned())]
            .map(|task_type| Subject {
                tenant: "default".to_owned(),
                latencies_ms: task_type.is_none().then_some([1.0, 2.5, 9.0]),
                task_type,
                executions: 12,
                agents: vec![AgentSample { agent: "\"a".to_owned(), executions: 7, best: 0.125 }],
            })
            .to_vec(),
    };
    let mut kept = Kept::new(quick());
    kept.store().write_sample(&sample(NOW_MS)).unwrap();
    kept.store().write_sample(&sample(NOW_MS + 1)).unwrap();
    kept.reopen();
    let reader = kept.reader();
    assert_eq!(reader.newest_sample().unwrap(), Some((NOW_MS + 1, 3)));
    let seen = reader.samples(0, i64::MAX).unwrap();
    let bare = |at| Sample { subjects: Vec::new(), ..sample(at) };
    assert_eq!(seen, [bare(NOW_MS), bare(NOW_MS + 1)]);
    for subject in sample(NOW_MS).subjects {
        let of = |from| reader.samples_of("default", subject.task_type.as_deref(), from, i64::MAX);
        let both = [(NOW_MS, subject.clone()), (NOW_MS + 1, subject.clone())];
        assert_eq!(of(NOW_MS).unwrap(), both);
        assert_eq!(of(NOW_MS + 1).unwrap(), both[1..]);
    }
    assert_eq!(reader.samples_of("other", None, 0, i64::MAX).unwrap(), []);

    // Every 10 seconds for half a day, the clock set back in between.
    for index in 0..4_320 {
        let set_back = if index < 2_000 { 0 } else { 500_000 };
        kept.store().write_sample(&sample(NOW_MS + index * 10_000 - set_back)).unwrap();
    }
    let count = |table: &str| -> u64 {
        let sql = format!("SELECT count(*) FROM {table}");
        from_sql(
            kept.store.as_ref().unwrap().connection.query_row(&sql, [], |row| row.get(0)).unwrap(),
        )
    };
    // All of the two upper tiers are still there: one of each minute, and of each quarter of an hour.
    let minutes = 4_320 / 6;
    assert!((KEPT[0] + minutes..=KEPT[0] + minutes + 12).contains(&count("samples")));
    assert_eq!(count("agent_samples"), 2 * count("samples"), "they go together");
    let seen = kept.reader().samples(0, i64::MAX).unwrap();
    let last: Vec<i64> = seen.iter().rev().take(360).map(|s| s.sampled_ms).collect();
    assert!(last.windows(2).all(|pair| pair[0] - pair[1] == 10_000), "the newest are dense");
    assert!(seen[0].sampled_ms <= NOW_MS, "the oldest stays");
}

#[test]
fn dead_letters_are_kept_whole_until_they_are_fed_back() {
    let mut kept = Kept::new(quick());
    let mut cut = letter("beginning");
    cut.payload.whole_bytes = 70_000;
    cut.position = None;
    kept.try_append(&[], &[letter("not json \u{0}\u{ff}"), cut], &[], &[]).unwrap();
    kept.reopen();
    let reader = kept.reader();
    let [newer, older] = &reader.dead_letters(None, 10).unwrap()[..] else { panic!("two") };
    assert_eq!((&*older.id, &*newer.id), ("0000000000000001", "0000000000000002"));
    let expected = DeadLetter {
        id: older.id.clone(),
        source: "kafka".to_owned(),
        code: "not_json".to_owned(),
        detail: "the record is not JSON: \"quoted\" é".to_owned(),
        topic: Some("topic".to_owned()),
        partition: Some(3),
        offset: Some(42),
        identity: "topic/3/42".to_owned(),
        payload: "not json \u{0}\u{ff}".into(),
        payload_kept: PayloadKept::Full,
        payload_bytes: 12,
        created_at: "2026-11-02T09:00:00.000+00:00".to_owned(),
    };
    assert_eq!(older, &expected);
    assert_eq!((older.is_cut(), newer.is_cut()), (false, true));
    assert_eq!((&newer.topic, newer.offset), (&None, None));
    assert_eq!(kept.store().dead_letter(&older.id).unwrap().as_ref(), Some(older));
    assert_eq!(reader.dead_letters(Some(2), 10).unwrap(), std::slice::from_ref(older));
    assert_eq!(reader.dead_letters(None, 1).unwrap(), std::slice::from_ref(newer));

    let fed_back = [older.id.clone(), "0000000000000099".to_owned()];
    kept.try_append(&[outcome(1)], &[], &fed_back, &[]).unwrap();
    assert_eq!(reader.dead_letter_ids().unwrap(), [&*newer.id]);
    assert_eq!(reader.dead_letter(&older.id).unwrap(), None);
}

#[test]
fn dead_letters_are_bounded_by_count_and_by_bytes() {
    #[track_caller]
    fn check(
        dead_letters_max: u64,
        dead_letters_bytes_max: u64,
        sizes: &[usize],
        kept_ids: &[u64],
    ) {
        let options = StoreOptions { dead_letters_max, dead_letters_bytes_max, ..quick() };
        let mut kept = Kept::new(options);
        for size in sizes {
            kept.try_append(&[], &[letter(&"x".repeat(*size))], &[], &[]).unwrap();
            // What is counted and what is there agree, also after a start.
            kept.reopen();
        }
        let ids: Vec<u64> =
            kept.reader().dead_letter_ids().unwrap().iter().map(|id| id.parse().unwrap()).collect();
        assert_eq!(ids, kept_ids);
    }
    check(3, 1_000, &[1, 1, 1, 1, 1], &[3, 4, 5]);
    check(9, 100, &[50, 50], &[1, 2]);
    check(9, 100, &[50, 50, 1], &[2, 3]);
    check(9, 100, &[10, 10, 10, 95], &[4]);
    check(9, 100, &[10, 101, 5], &[3]);

    // Those that were fed back make room.
    let mut kept = Kept::new(StoreOptions { dead_letters_max: 2, ..quick() });
    kept.try_append(&[], &[letter("1"), letter("2")], &[], &[]).unwrap();
    kept.try_append(&[], &[], &["0000000000000001".to_owned()], &[]).unwrap();
    kept.try_append(&[], &[letter("3")], &[], &[]).unwrap();
    assert_eq!(kept.reader().dead_letter_ids().unwrap().len(), 2);
}

#[test]
fn exactly_the_newest_identities_are_known_also_after_a_start() {
    let mut kept = Kept::new(StoreOptions { identities_max: 10, ..quick() });
    for (last, batch) in [(4_u64, 1..=4), (9, 5..=9), (10, 10..=10), (14, 11..=14), (40, 15..=40)] {
        kept.append(batch);
        for _ in 0..2 {
            for number in 1..=41 {
                let expected = number <= last && number > last.saturating_sub(10);
                assert_eq!(kept.store().is_known(identity(number)), expected, "{number} of {last}");
            }
            kept.reopen();
        }
    }
    // One that was forgotten counts again, and is then remembered as new.
    kept.append(1..=1);
    kept.reopen();
    assert!(kept.store().is_known(identity(1)) && !kept.store().is_known(identity(31)));
}

/// What takes schema 14 back to 13.
const WITHOUT_FEEDBACK: &str = "
    DROP TABLE feedback;
    DROP TABLE verdicts;
    DROP TABLE unjudged;
";

/// In schema 14 verdicts had no shares.
#[test]
fn verdicts_that_wait_since_schema_14_are_in_the_share_of_their_tenant() {
    let mut kept = Kept::new(quick());
    let target = Target::Event("e".to_owned());
    let verdict = |tenant: &str| Verdict {
        tenant: tenant.to_owned(),
        target: target.clone(),
        status: None,
        quality: Some(0.5),
        cost: None,
    };
    let waiting = ["a", "b", "b"].map(|name| (verdict(name), 7));
    kept.store().keep_verdicts(&waiting, |_| "").unwrap();
    let version = "DROP INDEX verdicts_of_share; ALTER TABLE verdicts DROP COLUMN share;
                   PRAGMA user_version = 14;";
    kept.store().connection.execute_batch(version).unwrap();
    kept.reopen();
    let of = |kept: &mut Kept, share| kept.store().waiting_of(share);
    let held = (of(&mut kept, "a"), of(&mut kept, "b"), of(&mut kept, ""));
    assert_eq!(held, (1, 1, 0), "one was there already");
    let waiting = kept.store().waiting_for([&target.key("b")]).unwrap();
    assert_eq!(waiting.into_iter().map(|one| one.verdict).collect::<Vec<_>>(), [verdict("b")]);
}

/// What takes it back to 12.
const WITHOUT_TRACES: &str = "
    ALTER TABLE decisions DROP COLUMN pending_sequence;
    DROP INDEX decisions_of_trace;
    DROP INDEX decisions_with_span;
    ALTER TABLE decisions DROP COLUMN trace;
    ALTER TABLE decisions DROP COLUMN span;
";

/// Decisions of schema 12 are of no trace; an outcome that names one finds it all the same.
#[test]
fn decisions_of_before_there_were_traces_keep_their_outcomes() {
    let mut kept = Kept::new(quick());
    kept.decide("t", "old").unwrap();
    let version = format!("{WITHOUT_FEEDBACK} {WITHOUT_TRACES} PRAGMA user_version = 12;");
    kept.store().connection.execute_batch(&version).unwrap();
    kept.reopen();
    assert!(!kept.store().has_spans());
    kept.decide("t", "new").unwrap();
    let version = "PRAGMA user_version";
    let read = |row: &rusqlite::Row<'_>| row.get::<_, i32>(0);
    let version = kept.store().connection.query_row(version, [], read).unwrap();
    assert_eq!(version, SCHEMA_VERSION);
    let ids: Vec<String> =
        kept.store().decisions().unwrap().into_iter().map(|(_, id, _)| id).collect();
    assert_eq!(ids, ["old", "new"]);
}

/// Rows of schema 9 and older hold identities alone; those are known, whatever they stood for.
#[test]
fn contents_are_known_also_after_a_start_and_not_of_older_rows() {
    let mut kept = Kept::new(StoreOptions { identities_max: 5, ..quick() });
    kept.append(1..=3);
    let column = |kept: &mut Kept| -> Vec<u8> {
        let select = "SELECT identities FROM journal WHERE first_sequence = 1";
        kept.store().connection.query_row(select, [], |row| row.get(0)).unwrap()
    };
    assert_eq!(column(&mut kept).len(), 3 * (16 + 2));
    let payload = kept.store().connection.query_row(
        "SELECT payload FROM journal WHERE first_sequence = 1",
        [],
        |row| row.get(0),
    );
    let old = Row {
        first_sequence: 1,
        last_sequence: 3,
        kind: 1,
        identities: column(&mut kept)[..3 * 16].to_vec(),
        payload: payload.unwrap(),
    };
    let connection = &kept.store().connection;
    let update = "UPDATE journal SET identities = ?1, checksum = ?2";
    connection.execute(update, params![old.identities, old.checksum()]).unwrap();
    let version = format!(
        "{WITHOUT_FEEDBACK} {WITHOUT_TRACES} DROP TABLE attempts;
         ALTER TABLE dead_letters DROP COLUMN payload_kept; PRAGMA user_version = 9;"
    );
    connection.execute_batch(&version).unwrap();
    kept.reopen();
    kept.append(4..=6);
    for _ in 0..2 {
        for number in 2..=6 {
            let expected = if number > 3 { outcome(number).content } else { ContentKey::default() };
            assert_eq!(kept.store().known_content(identity(number)), Some(expected), "{number}");
        }
        assert_eq!(kept.store().known_content(identity(1)), None, "five are remembered");
        let replayed = kept.replayed(0).unwrap();
        let of = |entry: &Entry| match entry {
            Entry::Outcome(outcome) => (outcome.identity, outcome.content),
            other => panic!("{other:?}"),
        };
        let keys: Vec<_> = replayed.iter().map(|(_, entry)| of(entry)).collect();
        assert_eq!(keys[2], (identity(3), ContentKey::default()));
        assert_eq!(keys[3], (identity(4), outcome(4).content));
        kept.reopen();
    }
}

#[test]
fn a_flipped_byte_in_the_journal_is_found_and_its_entry_named() {
    for column in ["payload", "identities", "checksum"] {
        let mut kept = Kept::new(quick());
        for start in [1, 4, 7] {
            kept.append(start..=start + 2);
        }
        kept.store()
            .connection
            .execute_batch(&format!(
                "UPDATE journal SET {column} =
                     CAST(substr({column}, 1, 5) || X'ee' || substr({column}, 7) AS BLOB)
                 WHERE first_sequence = 4"
            ))
            .unwrap();
        let Err(Error::Corrupt(text)) = kept.replayed(0) else { panic!("{column} is not checked") };
        assert!(text.contains("entry 4 of 9"), "{text}");
        assert!(text.contains(&kept.directory.path().display().to_string()), "{text}");
        assert_eq!(kept.replayed(6).unwrap().len(), 3, "what comes after is whole");
    }
}

#[test]
fn a_missing_journal_row_is_found() {
    for (deleted, first_missing) in [(1, 1), (4, 4), (7, 7)] {
        let mut kept = Kept::new(quick());
        for start in [1, 4, 7] {
            kept.append(start..=start + 2);
        }
        kept.store()
            .connection
            .execute("DELETE FROM journal WHERE first_sequence = ?1", [deleted])
            .unwrap();
        let Err(Error::Corrupt(text)) = kept.replayed(0) else { panic!("{deleted} is not missed") };
        assert!(text.contains(&format!("entry {first_missing} of 9")), "{text}");
    }
}

#[test]
fn a_full_disk_changes_nothing_and_passes() {
    let mut kept = Kept::new(quick());
    kept.append(1..=5);
    let pages: u32 =
        kept.store().connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    kept.store().fill_up(pages);
    let large = Outcome { agent: "x".repeat(100_000), ..outcome(6) };
    for _ in 0..2 {
        let refused = kept.try_append(
            std::slice::from_ref(&large),
            &[letter("also")],
            &[],
            &[Position { topic: "t".into(), next_offset: 9, ..Position::default() }],
        );
        assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
        assert!(!kept.store().is_known(identity(6)));
        assert_eq!(kept.replayed(0).unwrap().len(), 5);
        assert_eq!(kept.store().positions().unwrap(), []);
        assert!(kept.reader().dead_letter_ids().unwrap().is_empty());
        let counters = kept.counters.clone();
        assert_eq!(kept.store().counters().unwrap(), counters);
    }
    kept.store().fill_up(1_000_000);
    kept.try_append(std::slice::from_ref(&large), &[letter("also")], &[], &[]).unwrap();
    kept.reopen();
    assert!(kept.store().is_known(identity(6)));
    assert_eq!(kept.replayed(0).unwrap().len(), 6);
    assert_eq!(kept.reader().dead_letter_ids().unwrap().len(), 1);
}

#[test]
fn every_failing_step_of_an_append_leaves_everything_as_it_was() {
    let options = StoreOptions { dead_letters_max: 1, identities_max: 4, ..quick() };
    for steps in 0.. {
        let mut kept = Kept::new(options);
        kept.try_append(&[outcome(1), outcome(2)], &[letter("1")], &[], &[]).unwrap();
        let before = kept.counters.clone();
        planned_failure::after(steps);
        let position = Position { topic: "t".into(), next_offset: 9, ..Position::default() };
        let again = |kept: &mut Kept| {
            let new = [outcome(3), outcome(4), outcome(5)];
            kept.try_append(&new, &[letter("2")], &[], std::slice::from_ref(&position))
        };
        let appended = again(&mut kept);
        if planned_failure::cancel() {
            assert!(steps > 6, "an append has more steps than {steps}");
            return appended.unwrap();
        }
        assert!(matches!(appended, Err(Error::Unavailable(_))));
        for reopened in [false, true] {
            assert_eq!(kept.store().counters().unwrap(), before);
            assert_eq!(kept.replayed(0).unwrap().len(), 2);
            assert!(kept.store().is_known(identity(1)) && !kept.store().is_known(identity(3)));
            assert_eq!(kept.reader().dead_letter_ids().unwrap(), ["0000000000000001"]);
            assert_eq!(kept.store().positions().unwrap(), []);
            if !reopened {
                kept.reopen();
            }
        }
        again(&mut kept).unwrap();
        assert!(!kept.store().is_known(identity(1)) && kept.store().is_known(identity(5)));
        assert_eq!(kept.reader().dead_letter_ids().unwrap(), ["0000000000000002"]);
    }
}

#[test]
fn learning_events_are_listed_newest_first_and_bounded() {
    let mut kept = Kept::new(StoreOptions { learning_events_max: 5, ..quick() });
    let counters = Counters { learned_sequence: 3, ..Counters::default() };
    kept.store().learned(&(1..=4).map(event).collect::<Vec<_>>(), &counters).unwrap();
    kept.store().learned(&(5..=12).map(event).collect::<Vec<_>>(), &counters).unwrap();
    kept.store().learned(&[], &counters).unwrap();
    let ids = |before, limit| -> Vec<u64> {
        let events = kept.reader().learning_events(before, limit).unwrap();
        events.iter().map(|event| event.id.parse().unwrap()).collect()
    };
    assert_eq!(ids(None, 100), [12, 11, 10, 9, 8]);
    assert_eq!(ids(None, 2), [12, 11]);
    assert_eq!(ids(Some(10), 100), [9, 8]);
    assert_eq!(kept.reader().learning_events(None, 1).unwrap(), [event(12)]);
    let shown = serde_json::to_value(event(12)).unwrap();
    assert_eq!(shown["metrics_after"]["model_score"], 0.75);
    assert_eq!(kept.store.unwrap().counters().unwrap(), counters);
}

#[test]
fn a_version_is_training_then_active_then_deprecated_then_archived() {
    use VersionStatus::{Active, Archived, Deprecated, Training};
    let mut kept = Kept::new(StoreOptions { versions_max: 2, ..quick() });
    let counters = kept.counters.clone();
    fs::write(kept.file("version-1.json"), b"{}").unwrap();
    kept.store().begin_version(&[version(1, 0, "version-1.json")], &counters).unwrap();
    assert_eq!(kept.versions(), [(1, Training)]);
    assert_eq!(kept.store().active_version("agent_selection").unwrap(), None);
    assert_eq!(kept.store().restart_points().unwrap(), [], "its file is not there yet");
    kept.store().abandon_version(1, true, &counters).unwrap();
    assert_eq!(kept.versions(), []);
    assert!(kept.files().is_empty(), "a file without a row stays for ever");

    kept.save(2);
    assert_eq!(kept.versions(), [(2, Active)]);
    kept.save(3);
    kept.save(4);
    assert_eq!(kept.versions(), [(4, Active), (3, Deprecated), (2, Archived)]);
    assert_eq!(kept.files().into_iter().collect::<Vec<_>>(), ["version-3.json", "version-4.json"]);
    let active = kept.store().active_version("agent_selection").unwrap().unwrap();
    assert_eq!((&*active.id, active.digest.as_deref()), ("agent_selection-4", Some("digest4")));
    assert_eq!(kept.store().version("agent_selection-4").unwrap(), Some(active));
    assert_eq!(kept.store().version("agent_selection-9").unwrap(), None);
    assert_eq!(kept.store().active_version("other").unwrap(), None);
    let numbers = |before, limit| -> Vec<u64> {
        let rows = kept.reader().versions("agent_selection", before, limit).unwrap();
        rows.iter().map(|row| row.version_number).collect()
    };
    assert_eq!((numbers(Some(4), 1), numbers(Some(2), 9)), (vec![3], vec![]));
}

#[test]
fn a_save_that_a_crash_cut_short_is_forgotten_with_its_file() {
    let mut kept = Kept::new(quick());
    kept.save(1);
    fs::write(kept.file("version-2.json"), b"{}").unwrap();
    let counters = Counters { last_version_number: 2, ..kept.counters.clone() };
    kept.store().begin_version(&[version(2, 0, "version-2.json")], &counters).unwrap();
    kept.reopen();
    assert_eq!(kept.versions(), [(1, VersionStatus::Active)]);
    assert_eq!(kept.files().into_iter().collect::<Vec<_>>(), ["version-1.json"]);
}

#[test]
fn a_file_that_a_newer_version_names_outlives_the_version_that_wrote_it() {
    use VersionStatus::{Active, Archived, Deprecated};
    let mut kept = Kept::new(StoreOptions { versions_max: 2, ..quick() });
    kept.save(1);
    kept.save(2);
    kept.activate(1, 3);
    kept.save(4);
    assert_eq!(kept.versions(), [(4, Active), (3, Deprecated), (2, Archived), (1, Archived)]);
    let files = kept.files().into_iter().collect::<Vec<_>>();
    assert_eq!(files, ["version-1.json", "version-4.json"], "3 is the state of 1");
    kept.save(5);
    let files = kept.files().into_iter().collect::<Vec<_>>();
    assert_eq!(files, ["version-4.json", "version-5.json"]);
}

#[test]
fn checkpoints_are_restart_points_of_which_two_are_kept() {
    let mut kept = Kept::new(quick());
    for sequence in [10, 20, 30] {
        let name = format!("checkpoint-{sequence}.json");
        fs::write(kept.file(&name), b"{}").unwrap();
        let point = RestartPoint {
            learned_sequence: sequence,
            model_file_path: name,
            digest: format!("digest{sequence}"),
        };
        // Written twice, it is still one.
        for _ in 0..2 {
            kept.store().add_checkpoint(&point, "2026-11-02T09:00:00.000+00:00").unwrap();
        }
    }
    kept.counters.learned_sequence = 25;
    kept.save(1);
    let points: Vec<u64> =
        kept.store().restart_points().unwrap().iter().map(|point| point.learned_sequence).collect();
    assert_eq!(points, [30, 25, 20], "newest first");
    let files = kept.files().into_iter().collect::<Vec<_>>();
    assert_eq!(files, ["checkpoint-20.json", "checkpoint-30.json", "version-1.json"]);
    assert_eq!(kept.versions().len(), 1, "a checkpoint is no version");
}

#[test]
fn an_activation_is_a_journal_entry_a_version_and_an_event() {
    let mut kept = Kept::new(quick());
    kept.append(1..=2);
    kept.learn_all();
    kept.save(1);
    kept.append(3..=3);
    kept.learn_all();
    kept.save(2);
    kept.activate(1, 3);
    kept.append(4..=4);
    kept.reopen();
    let entries = kept.replayed(2).unwrap();
    let shown: Vec<_> = entries
        .iter()
        .map(|(sequence, entry)| match entry {
            Entry::Outcome(outcome) => (*sequence, outcome.agent.as_str()),
            Entry::Activation(activation) => (*sequence, activation.version_id.as_str()),
            Entry::Control(control) => (*sequence, control.kind()),
        })
        .collect();
    assert_eq!(shown, [(3, "agent3"), (4, "agent_selection-1"), (5, "agent4")]);
    let active = kept.store().active_version("agent_selection").unwrap().unwrap();
    assert_eq!((active.version_number, active.learned_sequence), (3, 4));
    assert_eq!(active.parent_version.as_deref(), Some("agent_selection-1"));
    let points = kept.store().restart_points().unwrap();
    assert_eq!((points[0].learned_sequence, &*points[0].model_file_path), (4, "version-1.json"));
    assert!(kept.store().is_known(identity(3)), "what is rolled back stays a duplicate");
}

#[test]
fn a_version_number_is_never_used_twice() {
    let mut kept = Kept::new(quick());
    kept.save(1);
    let counters = kept.counters.clone();
    let twice = kept.store().begin_version(&[version(1, 0, "other.json")], &counters);
    assert!(matches!(twice, Err(Error::Fatal(_))), "{twice:?}");
    assert_eq!(kept.versions(), [(1, VersionStatus::Active)]);
}

#[test]
fn no_table_takes_a_number_that_is_none() {
    let mut kept = Kept::new(quick());
    let counters = kept.counters.clone();
    let wrong = LearningEvent { improvement: f64::NAN, ..event(1) };
    let stored = kept.store().learned(&[wrong], &counters);
    assert!(stored.is_err(), "SQLite stores NaN as NULL, which the column refuses");
    assert!(kept.reader().learning_events(None, 10).unwrap().is_empty());
    // As JSON it would be null, which no reader of counters or states takes for a number.
    let status: i64 = kept
        .store()
        .connection
        .query_row(
            "SELECT count(*) FROM model_versions WHERE status NOT IN
                 ('training', 'active', 'deprecated', 'archived')",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(status, 0);
}

#[test]
fn a_model_file_gives_the_model_back_or_is_corrupt() {
    let directory = tempfile::tempdir().unwrap();
    let mut model = AgentPerformanceModel::new(Settings::default());
    for number in 0..300 {
        let outcome = Outcome {
            latency_ms: Some(0.1),
            quality: Some(0.3),
            cost: Some(0.01),
            context: vec![("k\"é".to_owned(), Feature::Text("v\n".to_owned()))],
            ..Outcome::new(format!("agent {}", number % 7), Status::ALL[number % 6])
        };
        model.update(&outcome.on_task(format!("task {}", number % 5)));
    }
    let digest = write_model(directory.path(), "m.json", &model).unwrap();
    assert_eq!(digest, model.digest());
    let read =
        |digest: &str| read_model(directory.path(), "m.json", digest, 77, Settings::default());
    let restored = read(&digest).unwrap();
    assert_eq!((restored.digest(), restored.sequence()), (digest.clone(), 77));
    assert!(matches!(read("another"), Err(Error::Corrupt(_))));
    let names: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "no temporary file is left");

    let path = directory.path().join("m.json");
    let bytes = fs::read(&path).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!((&json["digest"], &json["learned_sequence"]), (&digest.into(), &300.into()));
    let state = bytes.windows(8).position(|part| part == b"\"state\":").unwrap() + 8;
    let digest = model.digest();
    for place in (state..bytes.len() - 2).step_by(bytes.len() / 200) {
        let mut damaged = bytes.clone();
        damaged[place] ^= 1;
        fs::write(&path, &damaged).unwrap();
        let Err(Error::Corrupt(text)) = read(&digest) else {
            panic!("byte {place} is not checked")
        };
        assert!(text.contains("m.json"), "{text}");
    }
    for damaged in [&bytes[..bytes.len() / 2], b"", b"{\"format\":2,\"state\":{},\"digest\":\"\"}"]
    {
        fs::write(&path, damaged).unwrap();
        assert!(matches!(read(&digest), Err(Error::Corrupt(_))));
    }
    fs::remove_file(&path).unwrap();
    assert!(matches!(read(&digest), Err(Error::Corrupt(_))));
}

/// The file was written by the last program of format 2, from the first nine outcomes of
/// `data/sample_outcomes.jsonl`.
#[test]
fn a_model_file_of_the_format_before_is_read_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let old = include_bytes!("../../tests/fixtures/model_format_2.json");
    fs::write(directory.path().join("m.json"), old).unwrap();
    let json: serde_json::Value = serde_json::from_slice(old).unwrap();
    assert_eq!(json["format"], 2);
    let digest = json["digest"].as_str().unwrap();
    let read = |digest: &str| {
        read_model(directory.path(), "m.json", digest, 9, Settings::default()).unwrap()
    };
    let mut model = read(digest);
    assert_eq!((model.total().executions, model.value_bytes()), (9, 0));
    let context = Vec::new();
    let question = Question {
        tenant: "default",
        task_type: None,
        context: &context,
        candidates: None,
        exclude: &[],
    };
    assert_eq!(model.standings(&question).len(), 4);
    let predicted =
        |model: &AgentPerformanceModel| model.predictions(&question, Measure::Latency, &[]);
    assert!(predicted(&model).iter().all(|one| one.value.is_none() && one.samples == 0));

    let outcome =
        Outcome { latency_ms: Some(700.0), ..Outcome::new("ReActAgent", Status::Success) };
    model.update(&outcome);
    assert!(predicted(&model).iter().all(|one| one.value.is_some()));
    fs::remove_file(directory.path().join("m.json")).unwrap();
    let digest = write_model(directory.path(), "m.json", &model).unwrap();
    let written: serde_json::Value =
        serde_json::from_slice(&fs::read(directory.path().join("m.json")).unwrap()).unwrap();
    assert_eq!(written["format"], FORMAT);
    assert_eq!(read(&digest).digest(), model.digest());
}

/// The file was written by the last program of format 3, which had learned 90 outcomes of three agents on
/// two task types, with a text, a number and a boolean as context.
#[test]
fn a_model_file_of_format_3_believes_the_same_of_known_agents() {
    let directory = tempfile::tempdir().unwrap();
    let old = include_bytes!("../../tests/fixtures/model_format_3.json");
    fs::write(directory.path().join("m.json"), old).unwrap();
    let json: serde_json::Value = serde_json::from_slice(old).unwrap();
    assert_eq!(json["format"], 3);
    let digest = json["digest"].as_str().unwrap();
    let settings = Settings::default();
    let mut model = read_model(directory.path(), "m.json", digest, 90, settings).unwrap();
    let context = vec![
        ("lang".to_owned(), Feature::Text("go".to_owned())),
        ("size".to_owned(), Feature::Number(20.0)),
        ("urgent".to_owned(), Feature::Bool(false)),
    ];
    let question = Question {
        tenant: "default",
        task_type: Some("review"),
        context: &context,
        candidates: None,
        exclude: &[],
    };
    // What that program answered. Its prior was narrower, about .7 in log-odds.
    for (standing, then) in model.standings(&question).iter().zip([0.845, 0.695, 0.364]) {
        let now = standing.expected_success();
        assert!((now - then).abs() < 0.06, "{}: {now}, {then} then", standing.agent);
    }
    // It goes on, and what is written is read as it was.
    for number in 0..200 {
        let status = if number % 3 == 0 { Status::Failure } else { Status::Success };
        let context = vec![("size".to_owned(), Feature::Number(f64::from(number)))];
        model.update(&Outcome { context, ..Outcome::new("bee", status).on_task("write") });
    }
    fs::remove_file(directory.path().join("m.json")).unwrap();
    let digest = write_model(directory.path(), "m.json", &model).unwrap();
    let sequence = model.sequence();
    let again = read_model(directory.path(), "m.json", &digest, sequence, settings).unwrap();
    assert_eq!(again.digest(), model.digest());
}

/// The file was written by the last program of format 3, whose values were sums of regressions: `slow` took
/// 60 s at a cost of 5 in 20 executions on `t2` and 100 ms at 0.01 on `t1`, `quick` 100 ms at 0.01 on both
/// (each within 4 %), and of `few` there are three latencies of 500 ms and no cost.
#[test]
fn values_of_the_format_before_begin_where_its_sums_ended() {
    let directory = tempfile::tempdir().unwrap();
    let old = include_bytes!("../../tests/fixtures/model_format_3_values.json");
    fs::write(directory.path().join("m.json"), old).unwrap();
    let json: serde_json::Value = serde_json::from_slice(old).unwrap();
    let digest = json["digest"].as_str().unwrap();
    let read = |digest: &str| {
        read_model(directory.path(), "m.json", digest, 83, Settings::default()).unwrap()
    };
    let mut model = read(digest);
    assert_eq!(read(digest).digest(), model.digest());
    let context = Vec::new();
    let predicted = |model: &AgentPerformanceModel, measure, task_type| {
        let question = Question {
            tenant: "default",
            task_type: Some(task_type),
            context: &context,
            candidates: None,
            exclude: &[],
        };
        model.predictions(&question, measure, &[0.95])
    };
    // In the order of their names.
    let [few, quick, slow] = [0, 1, 2];
    for (measure, agent, task_type, expected) in [
        (Measure::Latency, slow, "t2", 60_000.0),
        (Measure::Latency, slow, "t1", 100.0),
        (Measure::Latency, quick, "t2", 100.0),
        (Measure::Latency, few, "t1", 500.0),
        (Measure::Cost, slow, "t2", 5.0),
        (Measure::Cost, quick, "t1", 0.01),
        (Measure::Quality, slow, "t2", 0.5),
    ] {
        let one = &predicted(&model, measure, task_type)[agent];
        let evidence = if agent == few { 3 } else { 20 };
        assert_eq!(one.evidence, evidence, "{measure:?} {task_type}");
        let (mean, factor) = (one.value.unwrap().mean(), if agent == few { 2.0 } else { 1.2 });
        let off: f64 = mean / expected;
        assert!(off < factor && off > 1.0 / factor, "{measure:?} {task_type}: {mean}");
    }
    assert_eq!(predicted(&model, Measure::Cost, "t1")[few].samples, 0);
    for _ in 0..600 {
        let outcome = Outcome::new("slow", Status::Success).on_task("t2");
        model.update(&Outcome { latency_ms: Some(100.0), ..outcome });
    }
    let now = predicted(&model, Measure::Latency, "t2")[slow].clone();
    assert_eq!((now.evidence, now.quantiles[0]), (620, 100.0));
    fs::remove_file(directory.path().join("m.json")).unwrap();
    let digest = write_model(directory.path(), "m.json", &model).unwrap();
    assert_eq!(read(&digest).digest(), model.digest());
}

#[test]
fn a_model_file_that_cannot_be_written_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let model = AgentPerformanceModel::new(Settings::default());
    // A directory stands where the file should go.
    fs::create_dir(directory.path().join("m.json")).unwrap();
    let written = write_model(directory.path(), "m.json", &model);
    assert!(matches!(written, Err(Error::Unavailable(_))), "{written:?}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

/// Appends 20,000 outcomes in rows of 10 under `options`, learning and saving as told; returns the
/// oldest sequence still there. Time goes on by one second a row.
fn oldest_after_pruning(
    options: StoreOptions,
    learned_until: u64,
    saves_at: &[u64],
    activations_at: &[u64],
) -> (Kept, u64) {
    let mut kept = Kept::new(options);
    let mut saves = 0;
    for row in 0..2_000_u64 {
        kept.now_ms += 1_000;
        kept.append(10 * row + 1..=10 * row + 10);
        if kept.counters.last_sequence <= learned_until {
            kept.counters.learned_sequence = kept.counters.last_sequence;
        }
        if saves_at.contains(&(10 * row)) {
            saves += 1;
            kept.save(saves);
        }
        if activations_at.contains(&(10 * row)) {
            saves += 1;
            kept.activate(1, saves);
        }
    }
    let oldest = kept.oldest();
    (kept, oldest)
}

#[test]
fn the_journal_is_pruned_by_count_and_by_age() {
    let options = StoreOptions { identities_max: 100, ..quick() };
    let saves = [9_000, 19_000];
    // Looked at every 1,024 outcomes, so up to that many more are there.
    let by_count = StoreOptions { journal_outcomes_max: 12_000, ..options };
    let (_, oldest) = oldest_after_pruning(by_count, u64::MAX, &saves, &[]);
    assert!((20_000 - 12_000 - 1_030..=20_000 - 12_000 + 1).contains(&oldest), "{oldest}");
    let by_age = StoreOptions { journal_age_max_ms: 1_200_000, ..options };
    let (_, oldest) = oldest_after_pruning(by_age, u64::MAX, &saves, &[]);
    assert!((20_000 - 12_000 - 1_030..=20_000 - 12_000 + 1).contains(&oldest), "{oldest}");
    let (_, oldest) = oldest_after_pruning(options, u64::MAX, &saves, &[]);
    assert_eq!(oldest, 1, "neither old nor too many");
}

#[test]
fn pruning_spares_what_is_still_needed() {
    #[track_caller]
    fn check(identities_max: usize, learned_until: u64, saves_at: &[u64], needed: u64, slack: u64) {
        let options = StoreOptions {
            identities_max,
            journal_outcomes_max: 10,
            journal_age_max_ms: 0,
            ..quick()
        };
        let (mut kept, oldest) = oldest_after_pruning(options, learned_until, saves_at, &[]);
        assert!(oldest <= needed, "{oldest} was kept, {needed} is needed");
        assert!(oldest + slack >= needed, "{oldest} is kept, {needed} would do");
        // What is there is whole, and the window is full.
        kept.reopen();
        assert_eq!(kept.replayed(oldest - 1).unwrap().len() as u64, 20_000 - oldest + 1);
        for number in [20_001 - identities_max as u64, 20_000] {
            assert!(kept.store().is_known(identity(number)), "{number}");
        }
    }
    let saves = [9_000, 15_000, 18_000];
    // The older of the two newest restart points holds up to 15,010.
    check(100, u64::MAX, &saves, 15_011, 1_030);
    check(100, u64::MAX, &[9_000], 1, 0);
    check(100, u64::MAX, &[], 1, 0);
    check(8_000, u64::MAX, &saves, 12_001, 1_030);
    check(100, 7_000, &saves, 7_001, 0);
}

#[test]
fn activations_do_not_take_the_place_of_identities() {
    let options = StoreOptions {
        identities_max: 500,
        journal_outcomes_max: 10,
        journal_age_max_ms: 0,
        ..quick()
    };
    let activations: Vec<u64> = (1_900..1_999).map(|row| 10 * row).collect();
    let (mut kept, before) = oldest_after_pruning(options, u64::MAX, &[100], &activations);
    let mut last = 20_000;
    while kept.oldest() == before {
        kept.append(last + 1..=last + 10);
        last += 10;
        kept.learn_all();
        let number = kept.counters.last_version_number + 1;
        kept.activate(1, number);
    }
    // Right after pruning, with many activations among the entries that were spared.
    for _ in 0..2 {
        let known = (1..=last).filter(|number| kept.store().is_known(identity(*number)));
        assert_eq!(known.count(), 500);
        kept.reopen();
    }
}

#[test]
fn readers_go_on_beside_the_writer_and_beside_each_other() {
    let mut kept = Kept::new(quick());
    let reader = kept.reader();
    for number in 1..=20 {
        kept.try_append(&[outcome(number)], &[letter("x")], &[], &[]).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let ids = reader.dead_letter_ids().unwrap();
                    assert_eq!(ids.len() as u64, number);
                });
            }
        });
    }
}

#[test]
fn a_reader_of_nothing_says_that_it_cannot_now() {
    let directory = tempfile::tempdir().unwrap();
    let reader = Reader::new(directory.path());
    for _ in 0..10 {
        // More often than there are places in the pool: a failure gives its place back.
        let listed = reader.dead_letters(None, 1);
        assert!(matches!(listed, Err(Error::Unavailable(_))), "{listed:?}");
    }
    Store::open(directory.path(), quick()).unwrap();
    assert_eq!(reader.dead_letters(None, 1).unwrap(), []);
}

/// What the program of schema 6 has recorded keeps its place and counts by its size.
#[test]
fn recorded_decisions_of_an_older_schema_are_bounded_with_the_new_ones() {
    let mut kept = Kept::new(StoreOptions { decisions_max: 3, ..quick() });
    let old = |number: u64| {
        format!(
            "INSERT INTO decisions(number, start_bytes, tenant, id, created_ms, explore, explored,
                 model_version, strategy, request, context, candidates, answer)
             VALUES ({number}, 7000000, 'old', 'd{number}', 1, 1, 0, 0, 'thompson', zeroblob(16),
                 '{{}}', '[]', '{{\"a\":1}}');"
        )
    };
    kept.store()
        .connection
        .execute_batch(&format!(
            "{WITHOUT_FEEDBACK} {WITHOUT_TRACES}
             DROP INDEX decisions_of_agent;
             DROP INDEX decisions_without_outcome;
             CREATE INDEX decisions_without_outcome ON decisions(created_ms)
                 WHERE outcome_sequence IS NULL AND chosen IS NOT NULL;
             ALTER TABLE decisions DROP COLUMN late;
             DROP INDEX decisions_of_tenant;
             DROP INDEX early_outcomes_of_tenant;
             DROP INDEX dead_letters_of_tenant;
             ALTER TABLE dead_letters DROP COLUMN tenant;
             ALTER TABLE dead_letters DROP COLUMN payload_kept;
             ALTER TABLE decisions RENAME COLUMN bytes TO start_bytes;
             ALTER TABLE alerts DROP COLUMN unsent;
             {}{}{}
             DROP TABLE attempts;
             PRAGMA user_version = 6;",
            old(1),
            old(2),
            old(3)
        ))
        .unwrap();
    kept.counters.last_decision = 3;
    kept.reopen();
    let sizes: Vec<i64> =
        query(&kept.store().connection, "SELECT bytes FROM decisions", [], |row| row.get(0))
            .unwrap();
    assert_eq!(sizes, [512 + 7 + 2 + 2; 3]);
    kept.decide("new", "d4").unwrap();
    assert_eq!(kept.decided("old"), ["d3", "d2"]);
    assert_eq!(kept.decided("new"), ["d4"]);
}

/// However much one tenant asks, reports or sends: the rows of another stay, up to an even share.
#[test]
fn what_is_full_takes_from_the_tenant_that_holds_most() {
    let options = StoreOptions { decisions_max: 10, dead_letters_max: 10, ..quick() };
    let mut kept = Kept::new(options);
    let early = |kept: &mut Kept, tenant: &str, number: u64| {
        let decision = Some(crate::outcome::DecisionRef::Explicit(format!("e{number}")));
        let outcome = Outcome { tenant: tenant.to_owned(), decision, ..outcome(number) };
        kept.try_append(&[outcome], &[], &[], &[]).unwrap();
    };
    let letter_of =
        |tenant: &str| NewDeadLetter { owner: Owner::Tenant(tenant.to_owned()), ..letter("x") };
    let waiting = |kept: &mut Kept, tenant: &str| -> i64 {
        let sql = "SELECT count(*) FROM early_outcomes WHERE tenant = ?1";
        kept.store().connection.query_row(sql, [tenant], |row| row.get(0)).unwrap()
    };
    let letters = |kept: &mut Kept, tenant: &str| -> i64 {
        let sql = "SELECT count(*) FROM dead_letters WHERE tenant = ?1";
        kept.store().connection.query_row(sql, [tenant], |row| row.get(0)).unwrap()
    };
    for number in 1..=7 {
        kept.decide("quiet", &format!("q{number}")).unwrap();
        early(&mut kept, "quiet", number);
        kept.try_append(&[], &[letter_of("quiet")], &[], &[]).unwrap();
    }
    for number in 0..50 {
        kept.decide("loud", &format!("l{number}")).unwrap();
        early(&mut kept, "loud", 100 + number);
        kept.try_append(&[], &[letter_of("loud")], &[], &[]).unwrap();
        // Counted again, the same leave.
        if number % 7 == 0 {
            kept.reopen();
        }
    }
    assert_eq!(kept.decided("quiet"), ["q7", "q6", "q5", "q4", "q3"]);
    assert_eq!(kept.decided("loud"), ["l49", "l48", "l47", "l46", "l45"]);
    for tenant in ["quiet", "loud"] {
        assert_eq!((waiting(&mut kept, tenant), letters(&mut kept, tenant)), (5, 5), "{tenant}");
    }
    // One that holds little takes from both, and many at once leave in one go.
    kept.decide("third", "t1").unwrap();
    assert_eq!(kept.decided("quiet").len() + kept.decided("loud").len(), 9);
    assert!(kept.decided("quiet").len() >= 4 && kept.decided("loud").len() >= 4);
    let many: Vec<NewDeadLetter> = (0..2_000).map(|_| letter_of("loud")).collect();
    kept.try_append(&[], &many, &[], &[]).unwrap();
    assert_eq!((letters(&mut kept, "quiet"), letters(&mut kept, "loud")), (5, 5));
}

#[test]
fn a_tenants_decisions_are_walked_alone() {
    let mut kept = Kept::new(quick());
    for sql in [
        "SELECT answer FROM decisions WHERE tenant = 't' AND (9 IS NULL OR number < 9)
         ORDER BY number DESC LIMIT 3",
        "SELECT answer FROM decisions WHERE number > 7 AND tenant = 't' AND created_ms >= 1
         AND outcome_sequence <= 5 ORDER BY number LIMIT 3",
        "SELECT number, bytes FROM decisions WHERE tenant = 't' ORDER BY number LIMIT 512",
    ] {
        let plan: Vec<String> =
            query(&kept.store().connection, &format!("EXPLAIN QUERY PLAN {sql}"), [], |row| {
                row.get(3)
            })
            .unwrap();
        let plan = plan.join("; ");
        assert!(plan.contains("decisions_of_tenant") && !plan.contains("TEMP"), "{plan}");
    }
}

/// A control entry with the largest context that a question can have, in bytes that JSON writes as six.
fn largest_control() -> Control {
    let texts = |number: usize| {
        let bytes = "\u{1}".repeat(NAME_BYTES_MAX - 3);
        (format!("{number:03}{bytes}"), Feature::Text(format!("{number:03}{bytes}")))
    };
    Control::DecisionMissing {
        tenant: "\u{1}".repeat(NAME_BYTES_MAX),
        decision_id: "\u{1}".repeat(NAME_BYTES_MAX),
        agent: "\u{1}".repeat(NAME_BYTES_MAX),
        task_type: Some("\u{1}".repeat(NAME_BYTES_MAX)),
        context: (0..FEATURES_MAX).map(texts).collect(),
    }
}

fn removal() -> Control {
    Control::RemoveAgent { tenant: "a\"b".to_owned(), agent: "é\n".to_owned() }
}

#[test]
fn control_entries_come_back_as_they_were_in_their_place() {
    let mut kept = Kept::new(quick());
    kept.append(1..=2);
    kept.learn_all();
    let controls = [removal(), largest_control()];
    kept.control(&controls).unwrap();
    kept.append(3..=3);
    kept.reopen();
    for after in 0..=4 {
        let entries = kept.replayed(after).unwrap();
        assert_eq!(entries[0].0, after + 1);
        let seen: Vec<&Control> = entries
            .iter()
            .filter_map(|(_, entry)| match entry {
                Entry::Control(control) => Some(control),
                _ => None,
            })
            .collect();
        let passed = usize::try_from(after.saturating_sub(2)).unwrap().min(2);
        assert_eq!(seen, controls[passed..].iter().collect::<Vec<_>>(), "after {after}");
    }
    let counters = kept.counters.clone();
    assert_eq!(kept.store().counters().unwrap(), counters);
    let events = kept.reader().learning_events(None, 1).unwrap();
    assert_eq!(events[0].id, LearningEvent::id_of(counters.last_learning_event));
}

#[test]
fn a_control_entry_that_is_too_large_changes_nothing() {
    let mut kept = Kept::new(quick());
    let Control::DecisionMissing { tenant, decision_id, agent, task_type, mut context } =
        largest_control()
    else {
        unreachable!()
    };
    context.extend(context.clone());
    let large = Control::DecisionMissing { tenant, decision_id, agent, task_type, context };
    let written = kept.control(&[removal(), large]);
    let Err(Error::Invalid { detail, .. }) = written else { panic!("{written:?}") };
    assert!(detail.contains("allowed are 1048576"), "{detail}");
    assert_eq!(kept.replayed(0).unwrap().len(), 0);
}

/// What this program does not know of a control entry would change the model: it stops.
#[test]
fn a_control_entry_of_a_newer_program_is_refused_and_named() {
    #[track_caller]
    fn check(payload: &str, named: &str) {
        let mut kept = Kept::new(quick());
        kept.append(1..=1);
        kept.learn_all();
        kept.control(&[removal()]).unwrap();
        kept.append(3..=3);
        let mut row = Row {
            first_sequence: 2,
            last_sequence: 2,
            kind: 3,
            identities: Vec::new(),
            payload: payload.as_bytes().to_vec(),
        };
        let replace = "UPDATE journal SET payload = ?1, checksum = ?2 WHERE first_sequence = 2";
        let write = |kept: &mut Kept, row: &Row| {
            let values = params![row.payload, row.checksum()];
            kept.store().connection.execute(replace, values).unwrap();
        };
        write(&mut kept, &row);
        let refused = kept.replayed(0).map(|entries| entries.len());
        let Err(Error::Corrupt(text)) = refused else { panic!("{payload}: {refused:?}") };
        for part in ["journal entries 2 to 2", named, "use that program"] {
            assert!(text.contains(part), "{payload}: {text}");
        }
        // As it was written, it is read.
        row.payload =
            br#"{"version":1,"control":{"kind":"remove_agent","tenant":"t","agent":"a"}}"#.to_vec();
        write(&mut kept, &row);
        assert_eq!(kept.replayed(0).unwrap().len(), 3);
    }
    check(
        r#"{"version":1,"control":{"kind":"set_share","tenant":"t"}}"#,
        "unknown variant `set_share`, expected one of `remove_agent`",
    );
    check(
        r#"{"version":1,"control":{"kind":"remove_agent","tenant":"t","agent":"a","until":7}}"#,
        "unknown field `until`",
    );
    check(r#"{"version":2,"control":{"anything":[]}}"#, "of version 2, this program knows 1");
    check(
        r#"{"version":1,"control":{"kind":"remove_agent","tenant":"t","agent":"a"},"more":1}"#,
        "unknown field `more`",
    );
    check(r#"{"version":1,"control":{"kind":"remove_agent","tenant":"t"}}"#, "missing field");
    check("{}", "missing field");
}

#[test]
fn control_entries_do_not_take_the_place_of_identities() {
    let options = StoreOptions {
        identities_max: 500,
        journal_outcomes_max: 10,
        journal_age_max_ms: 0,
        ..quick()
    };
    let (mut kept, _) = oldest_after_pruning(options, u64::MAX, &[100, 200], &[]);
    let mut last = 20_000;
    for round in 0..400 {
        kept.learn_all();
        kept.control(&[removal(), removal(), removal()]).unwrap();
        kept.append(last + 1..=last + 5);
        last += 5;
        if round % 100 == 0 {
            kept.learn_all();
            let number = kept.counters.last_version_number + 1;
            kept.save(number);
        }
    }
    assert!(kept.oldest() > 20_000 - 500 - 1_030 - 1_200, "old rows go also by control entries");
    kept.reopen();
    let known = (1..=last).filter(|number| kept.store().is_known(identity(*number)));
    assert_eq!(known.count(), 500);
}

/// A state directory with a version, a checkpoint and 60 outcomes after them, all in the database.
fn with_files() -> Kept {
    let mut kept = Kept::new(quick());
    for part in 0..6 {
        kept.append(10 * part + 1..=10 * part + 10);
        if part == 2 {
            kept.learn_all();
            kept.save(1);
            let name = "checkpoint-000000000030.json";
            fs::write(kept.file(name), b"{}").unwrap();
            let (model_file_path, digest) = (name.to_owned(), "d".to_owned());
            let point = RestartPoint { learned_sequence: 30, model_file_path, digest };
            kept.store().add_checkpoint(&point, "2026-11-02T09:00:00.000+00:00").unwrap();
        }
    }
    kept.store.take().unwrap().close();
    kept
}

fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
    files
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .filter(|(name, _)| !name.ends_with("-shm") && name != LOCK_FILE)
        .collect()
}

/// Whoever opens what `tamper` left refuses it and says each of `says`; nothing is changed by that.
#[track_caller]
fn check_contradiction(tamper: impl FnOnce(&Path), says: &[&str]) {
    let kept = with_files();
    let directory = kept.directory.path();
    tamper(directory);
    let before = contents(directory);
    let written = Store::open(directory, quick()).err();
    let read = Store::open_read_only(directory, quick()).err();
    assert_eq!(written, read, "who writes and who reads agree");
    let Some(Error::Corrupt(text)) = written else { panic!("opened, or another error: {read:?}") };
    for says in says {
        assert!(text.contains(says), "{says:?} is not in {text}");
    }
    let mut after = contents(directory);
    // A look at a database in this mode makes an empty log.
    after.retain(|name, bytes| before.contains_key(name) || !bytes.is_empty());
    assert!(before == after, "{:?} {:?}", before.keys(), after.keys());
}

#[test]
fn a_state_that_contradicts_itself_is_refused_by_whoever_opens_it() {
    let database = |directory: &Path| directory.join(DATABASE_FILE);
    let sql = |directory: &Path, sql: &str| {
        Connection::open(database(directory)).unwrap().execute_batch(sql).unwrap();
    };
    let remove = |directory: &Path, name: &str| fs::remove_file(directory.join(name)).unwrap();
    let gone = |directory: &Path| remove(directory, DATABASE_FILE);
    check_contradiction(gone, &["is missing", DATABASE_FILE, "version-1.json", "--start-empty"]);
    check_contradiction(
        |directory| {
            gone(directory);
            remove(directory, "version-1.json");
        },
        &["is missing", "checkpoint-000000000030.json"],
    );
    check_contradiction(
        |directory| {
            gone(directory);
            remove(directory, "version-1.json");
            remove(directory, "checkpoint-000000000030.json");
            fs::write(directory.join(format!("{DATABASE_FILE}-wal")), b"entries").unwrap();
        },
        &["is missing", "online-learning.db-wal"],
    );
    check_contradiction(
        |directory| fs::write(database(directory), b"").unwrap(),
        &["is empty", "version-1.json"],
    );
    // A new database in the place of the old one: with a bare header, and with tables.
    check_contradiction(
        |directory| {
            gone(directory);
            sql(directory, "PRAGMA journal_mode = WAL");
        },
        &["holds no table", "version-1.json"],
    );
    check_contradiction(
        |directory| {
            let elsewhere = tempfile::tempdir().unwrap();
            Store::open(elsewhere.path(), quick()).unwrap().close();
            fs::copy(database(elsewhere.path()), database(directory)).unwrap();
        },
        &["ends at entry 0", "checkpoint-000000000030.json", "is behind"],
    );
    // Files that come from elsewhere, or from later.
    for (name, is) in [
        ("version-000007.json", "is version 7"),
        ("version-000007.json.tmp", "is version 7"),
        ("checkpoint-000000000061.json", "holds 61 journal entries"),
    ] {
        check_contradiction(
            |directory| fs::write(directory.join(name), b"{}").unwrap(),
            &[name, is, "is behind"],
        );
    }
    check_contradiction(
        |directory| {
            let model = AgentPerformanceModel::new(Settings::default()).at_sequence(61);
            remove(directory, "version-1.json");
            write_model(directory, "version-1.json", &model).unwrap();
        },
        &["version-1.json", "holds 61 journal entries", "ends at entry 60"],
    );
    // A database that contradicts itself.
    check_contradiction(|directory| sql(directory, "DELETE FROM counters"), &["counters end at 0"]);
    check_contradiction(
        |directory| sql(directory, "DELETE FROM journal"),
        &["ends at entry 0", "counters say 60"],
    );
    check_contradiction(
        |directory| sql(directory, "UPDATE model_versions SET learned_sequence = 61"),
        &["a version of entry 61"],
    );
    // Half a restore.
    check_contradiction(
        |directory| fs::rename(database(directory), directory.join(RESTORED_FILE)).unwrap(),
        &["half a restore", "restore FILE"],
    );
}

#[test]
fn a_database_that_is_a_link_to_nowhere_is_not_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("disk/away.db");
    std::os::unix::fs::symlink(&target, directory.path().join(DATABASE_FILE)).unwrap();
    fs::create_dir(directory.path().join("disk")).unwrap();
    let Err(Error::Fatal(text)) = Store::open(directory.path(), quick()) else {
        panic!("opened");
    };
    assert!(text.contains("away.db") && !target.exists(), "{text}");
    // One to somewhere is followed, also to its log.
    let elsewhere = Kept::new(quick());
    elsewhere.store.unwrap().close();
    fs::copy(elsewhere.directory.path().join(DATABASE_FILE), &target).unwrap();
    let mut store = Store::open(directory.path(), quick()).unwrap();
    store.learned(&[], &Counters::default()).unwrap();
    fs::remove_file(directory.path().join("disk/away.db-wal")).unwrap();
    assert!(matches!(store.learned(&[], &Counters::default()), Err(Error::Unavailable(_))));
}

#[test]
fn what_is_moved_aside_is_kept_and_makes_room_for_a_start() {
    let kept = with_files();
    let directory = kept.directory.path();
    fs::write(directory.join("version-000007.json"), b"{}").unwrap();
    fs::write(directory.join("theirs.txt"), b"not ours").unwrap();
    let before = contents(directory);
    assert!(Store::open(directory, quick()).is_err());
    let aside = set_aside(directory, NOW_MS).unwrap();
    let mut moved = contents(&aside);
    moved.insert("theirs.txt".to_owned(), b"not ours".to_vec());
    moved.retain(|name, bytes| before.contains_key(name) || !bytes.is_empty());
    assert!(moved == before, "{:?} {:?}", moved.keys(), before.keys());
    let store = Store::open(directory, quick()).unwrap();
    assert_eq!(store.counters().unwrap().last_sequence, 0);
    assert!(set_aside(directory, NOW_MS).is_err(), "it is in use");
}

#[test]
fn what_is_written_to_a_database_that_is_gone_is_not_acknowledged() {
    for name in [DATABASE_FILE.to_owned(), format!("{DATABASE_FILE}-wal")] {
        for replaced in [false, true] {
            let mut kept = Kept::new(quick());
            kept.append(1..=5);
            let (file, away) = (kept.file(&name), kept.file("away"));
            let before = kept.counters.clone();
            fs::rename(&file, &away).unwrap();
            if replaced {
                fs::copy(&away, &file).unwrap();
            }
            let text = match kept.try_append(&[outcome(6)], &[], &[], &[]) {
                Err(Error::Unavailable(text)) => text,
                other => panic!("{name}: {other:?}"),
            };
            let what = if replaced { "was replaced" } else { "was removed" };
            assert!(text.contains(&name) && text.contains(what), "{text}");
            assert!(kept.store().check_place().is_err());
            // It was put back: nothing has changed, and it goes on.
            fs::rename(&away, &file).unwrap();
            assert_eq!(kept.store().counters().unwrap(), before);
            kept.counters = before;
            kept.append(6..=6);
            kept.reopen();
            assert_eq!(kept.replayed(0).unwrap().len(), 6);
        }
    }
}

#[test]
fn a_model_file_never_takes_the_place_of_another() {
    let directory = tempfile::tempdir().unwrap();
    let model = AgentPerformanceModel::new(Settings::default());
    let theirs = directory.path().join("version-000001.json");
    fs::write(&theirs, b"of another instance").unwrap();
    let Err(Error::Unavailable(text)) =
        write_model(directory.path(), "version-000001.json", &model)
    else {
        panic!("written over");
    };
    assert!(text.contains("version-000001.json") && text.contains("exists"), "{text}");
    assert_eq!(fs::read(&theirs).unwrap(), b"of another instance");
    // Nor does a link where it is written first.
    let linked = directory.path().join("theirs");
    fs::write(&linked, b"theirs").unwrap();
    let temporary = directory.path().join("version-000002.json.tmp");
    std::os::unix::fs::symlink(&linked, &temporary).unwrap();
    write_model(directory.path(), "version-000002.json", &model).unwrap();
    assert_eq!(fs::read(&linked).unwrap(), b"theirs");
    let mut names: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["theirs", "version-000001.json", "version-000002.json"]);
}

/// The image of a process that was killed with everything since its start in the log.
fn killed(transactions: u64, options: StoreOptions) -> tempfile::TempDir {
    let mut kept = Kept::new(options);
    for number in 1..=transactions {
        kept.append(number..=number);
    }
    let image = tempfile::tempdir().unwrap();
    for name in [DATABASE_FILE.to_owned(), format!("{DATABASE_FILE}-wal")] {
        fs::copy(kept.file(&name), image.path().join(name)).unwrap();
    }
    image
}

#[test]
fn a_log_that_is_damaged_before_its_end_is_refused() {
    const HEADER: usize = 32;
    const FRAME: usize = 24 + 4096;
    let damage = |change: &dyn Fn(&mut Vec<u8>), options: StoreOptions| {
        let image = killed(20, options);
        let log = image.path().join(format!("{DATABASE_FILE}-wal"));
        let mut bytes = fs::read(&log).unwrap();
        assert!((bytes.len() - HEADER).is_multiple_of(FRAME), "{}", bytes.len());
        change(&mut bytes);
        fs::write(&log, &bytes).unwrap();
        let opened = Store::open(image.path(), options);
        let read = Store::open_read_only(image.path(), options);
        assert_eq!(opened.is_ok(), read.is_ok());
        match opened {
            Ok(store) => Ok(store.counters().unwrap().last_sequence),
            Err(Error::Corrupt(text)) => {
                assert!(text.contains("-wal is damaged"), "{text}");
                assert!(fs::read(&log).unwrap() == bytes, "it was changed");
                Err(text)
            }
            Err(other) => panic!("{other}"),
        }
    };
    let flip = |at: usize| move |bytes: &mut Vec<u8>| bytes[at] ^= 1;
    let normal = StoreOptions { synchronous: Synchronous::Normal, ..full() };
    assert_eq!(damage(&|_| {}, full()), Ok(20), "a sound one is read");
    for at in [0, 8, 17, 25, HEADER, HEADER + 9, HEADER + 17, HEADER + 2_000, HEADER + 9 * FRAME] {
        assert!(damage(&flip(at), full()).is_err(), "byte {at}");
    }
    // What a power loss does to the end is none: the last transaction was not acknowledged.
    let cut = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 100);
    assert_eq!(damage(&cut, full()), Ok(19));
    let torn = |bytes: &mut Vec<u8>| {
        let at = bytes.len() - 100;
        bytes[at..].fill(0);
    };
    assert_eq!(damage(&torn, full()), Ok(19));
    // Where commits are not synced it may do that to more of them.
    assert!(damage(&flip(HEADER + 40 * FRAME), normal).is_ok());
}

#[test]
fn a_log_that_was_begun_again_is_sound() {
    let mut kept = Kept::new(quick());
    for number in 1..=30 {
        kept.append(number..=number);
    }
    // All of it is moved into the database; the next entries go over its beginning.
    kept.store().connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
    kept.append(31..=31);
    let image = tempfile::tempdir().unwrap();
    for name in [DATABASE_FILE.to_owned(), format!("{DATABASE_FILE}-wal")] {
        fs::copy(kept.file(&name), image.path().join(name)).unwrap();
    }
    let store = Store::open(image.path(), quick()).unwrap();
    assert_eq!(store.counters().unwrap().last_sequence, 31);
}

#[test]
fn half_a_restore_is_begun_again_and_ends_whole() {
    let mut kept = Kept::new(quick());
    kept.append(1..=10);
    kept.learn_all();
    kept.save(1);
    let backup = kept.file("backup");
    kept.store().write_backup(&backup).unwrap();
    let target = tempfile::tempdir().unwrap();
    let at = |name: &str| target.path().join(name);
    // As a kill leaves it: begun, one file cut, SQLite at work on the tables.
    fs::write(at(RESTORED_FILE), b"SQLite").unwrap();
    fs::write(at(&format!("{RESTORED_FILE}-journal")), b"x").unwrap();
    fs::write(at("version-1.json"), b"{").unwrap();
    fs::write(at("version-000009.json"), b"of another backup").unwrap();
    assert!(matches!(Store::open(target.path(), quick()), Err(Error::Corrupt(_))));
    restore_backup(&backup, target.path(), None).unwrap();
    assert_eq!(
        contents(target.path()).into_keys().collect::<Vec<_>>(),
        [DATABASE_FILE, "version-1.json"]
    );
    let store = Store::open(target.path(), quick()).unwrap();
    assert_eq!(store.counters().unwrap().last_sequence, 10);
    drop(store);
    // What is there is only replaced when that is said, and is kept then.
    let before = contents(target.path());
    assert!(matches!(restore_backup(&backup, target.path(), None), Err(Error::Conflict(_))));
    assert!(contents(target.path()) == before);
    restore_backup(&backup, target.path(), Some(NOW_MS)).unwrap();
    Store::open(target.path(), quick()).unwrap().close();
    let aside = fs::read_dir(target.path()).unwrap().map(|entry| entry.unwrap());
    let aside: Vec<_> = aside.filter(|entry| entry.file_type().unwrap().is_dir()).collect();
    assert_eq!(aside.len(), 1);
    assert!(contents(&aside[0].path()) == before);
}

#[test]
fn rubbish_takes_from_rubbish_of_its_source_alone() {
    let mut kept = Kept::new(StoreOptions { dead_letters_max: 600, ..quick() });
    let letter_of = |owner: Owner| NewDeadLetter { owner, ..letter("x") };
    let ours = letter_of(Owner::Tenant("ours".to_owned()));
    let from_topic = letter_of(Owner::Unknown("kafka"));
    let first: Vec<_> = [vec![ours; 3], vec![from_topic; 3]].concat();
    kept.try_append(&[], &first, &[], &[]).unwrap();
    for round in 0..4 {
        let rubbish = vec![letter_of(Owner::Unknown("http")); 500];
        kept.try_append(&[], &rubbish, &[], &[]).unwrap();
        // Each a name of its own, of which nothing is known.
        let names = (0..500).map(|number| format!("name{round}-{number}"));
        let names: Vec<_> = names.map(|name| letter_of(Owner::Named(name, "http"))).collect();
        kept.try_append(&[], &names, &[], &[]).unwrap();
    }
    let mut count = |sql: &str| -> i64 {
        kept.store().connection.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    let of = |share: &str| format!("SELECT count(*) FROM dead_letters WHERE tenant = '{share}'");
    assert_eq!(count(&of("ours")), 3);
    assert_eq!(count("SELECT count(*) FROM dead_letters WHERE tenant = char(0) || 'kafka'"), 3);
    assert_eq!(count("SELECT count(*) FROM dead_letters"), 600);
    assert!(count("SELECT count(DISTINCT tenant) FROM dead_letters") <= 258);
}

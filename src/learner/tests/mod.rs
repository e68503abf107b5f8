//! The learner driven step by step: no thread, no clock, failures where a test plans them.

use std::collections::{HashMap, HashSet};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use proptest::prelude::{any, prop, prop_assert_eq, proptest};
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use tempfile::TempDir;

use super::append::{PENDING_OUTCOMES_MAX, RECORDED_AT_ONCE};
use super::*;
use crate::model::{Caps, Control, Question, rank};
use crate::outcome::decisions::{Decision, RequestHash};
use crate::outcome::{ContentKey, DecisionRef, Feature, Payload, Refusal, RefusalCode, Status};
use crate::store::{
    Entry, PAYLOAD_BYTES_MAX, Position, Reader, StoreOptions, Synchronous, VersionStatus,
    planned_failure,
};

mod attempts;
mod control;
mod decisions;
mod feedback;
mod memory;
mod missing;
mod spans;
mod topic;

/// What is sent in a test: identity `number`, everything else made of it.
fn outcome(number: u64) -> Outcome {
    let status = Status::ALL[usize::try_from(number * 7 % 6).unwrap()];
    let quality = f64::from(u32::try_from(number % 11).unwrap()) / 10.0;
    Outcome {
        identity: u128::from(number).to_be_bytes(),
        latency_ms: Some(quality * 100.0),
        quality: (!number.is_multiple_of(3)).then_some(quality),
        cost: number.is_multiple_of(2).then_some(quality),
        context: vec![("k".to_owned(), Feature::Text(format!("v{}", number % 4)))],
        ..Outcome::new(format!("agent{}", number % 6), status)
            .on_task(format!("task{}", number % 3))
    }
}

fn record(outcome: Outcome) -> Record {
    Record {
        content: Ok(outcome),
        payload: Payload::new(Arc::new(Vec::new()), 0..0),
        identity: String::new(),
        source: "http",
        position: None,
        replay_of: None,
        tenant: None,
        arrived_ms: None,
    }
}

fn refused(payload: &str) -> Record {
    Record {
        content: Err(Refusal::new(RefusalCode::NotJson, "the record is not JSON")),
        payload: Payload::new(Arc::new(payload.as_bytes().to_vec()), 0..payload.len()),
        identity: "of its arrival".to_owned(),
        position: Some(("topic".into(), 0, 7)),
        ..record(outcome(0))
    }
}

/// A model that has simply learned these, in order.
fn learned(
    settings: Settings,
    outcomes: impl IntoIterator<Item = Outcome>,
) -> AgentPerformanceModel {
    let mut model = AgentPerformanceModel::new(settings);
    outcomes.into_iter().for_each(|outcome| model.update(&outcome));
    model
}

fn digest_of(numbers: impl IntoIterator<Item = u64>) -> String {
    learned(Settings::default(), numbers.into_iter().map(outcome)).digest()
}

/// Does one job of the saver.
fn written(job: SaveJob) -> Saved {
    let (job_tx, job_rx) = bounded(1);
    let (saved_tx, saved_rx) = bounded(1);
    job_tx.send(job).unwrap();
    drop(job_tx);
    Saver::run(&job_rx, &saved_tx);
    saved_rx.try_recv().unwrap()
}

/// A learner and what surrounds it in the service.
struct Bench {
    directory: TempDir,
    learner: Option<Learner>,
    jobs: Receiver<SaveJob>,
    options: LearnerOptions,
    store_options: StoreOptions,
    now: Now,
}

fn request(records: Vec<Record>, room: Room, reply: Sender<Result<AppendReply>>) -> AppendRequest {
    let (positions, replayed) = (Vec::new(), Vec::new());
    AppendRequest { records, left_out: LeftOut::new(), room, positions, replayed, reply }
}

impl Bench {
    #[expect(clippy::large_types_passed_by_value, reason = "it is taken once, at the start")]
    fn new(options: LearnerOptions) -> Self {
        let mut bench = Self {
            directory: tempfile::tempdir().unwrap(),
            learner: None,
            jobs: unbounded().1,
            options,
            store_options: StoreOptions {
                synchronous: Synchronous::Normal,
                ..StoreOptions::default()
            },
            now: Now { instant: Instant::now(), unix_ms: 1_800_000_000_000 },
        };
        bench.reopen();
        bench
    }

    /// Crashes, if it runs, and starts again; a failure planned for the start is met and passes.
    fn reopen(&mut self) {
        self.learner = None;
        while self.learner.is_none() {
            let (jobs_tx, jobs) = unbounded();
            self.jobs = jobs;
            let opened = Store::open(self.directory.path(), self.store_options)
                .and_then(|store| Learner::open(store, self.options, jobs_tx, self.now));
            match opened {
                Ok(learner) => self.learner = Some(learner),
                Err(Error::Unavailable(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn learner(&mut self) -> &mut Learner {
        self.learner.as_mut().unwrap()
    }

    fn model(&self) -> &AgentPerformanceModel {
        self.learner.as_ref().unwrap().model()
    }

    fn digest(&self) -> String {
        self.model().digest()
    }

    fn counters(&self) -> Arc<Counters> {
        self.learner.as_ref().unwrap().shared().counters()
    }

    fn reader(&self) -> Reader {
        Reader::new(self.directory.path())
    }

    fn pass(&mut self, time: Duration) {
        self.now.instant += time;
        self.now.unix_ms += i64::try_from(time.as_millis()).unwrap();
    }

    /// Stages records without settling them.
    fn stage(&mut self, records: Vec<Record>) -> Receiver<Result<AppendReply>> {
        let (reply, reply_rx) = bounded(1);
        let now = self.now;
        let request = request(records, Room::unlimited(), reply);
        self.learner().on_event(Event::Append(request), now).unwrap();
        reply_rx
    }

    fn settle(&mut self) {
        let now = self.now;
        self.learner().settle(now).unwrap();
    }

    fn append(&mut self, records: Vec<Record>) -> Result<AppendReply> {
        let reply = self.stage(records);
        self.settle();
        reply.try_recv().unwrap()
    }

    /// Appends outcomes by their numbers; returns how many were new.
    #[track_caller]
    fn send(&mut self, numbers: impl IntoIterator<Item = u64>) -> u64 {
        let reply = self.append(numbers.into_iter().map(|n| record(outcome(n))).collect()).unwrap();
        assert_eq!(reply.rejected, []);
        reply.accepted
    }

    fn flush(&mut self) -> Receiver<()> {
        let (reply, reply_rx) = bounded(1);
        let now = self.now;
        self.learner().on_event(Event::Flush(reply), now).unwrap();
        reply_rx
    }

    #[track_caller]
    fn flushed(&mut self) {
        assert_eq!(self.flush().try_recv(), Ok(()));
    }

    /// Writes the file that waits, if one does, and reports it.
    fn write_file(&mut self) -> bool {
        let Ok(job) = self.jobs.try_recv() else { return false };
        let (saved, now) = (written(job), self.now);
        self.learner().on_saved(saved, now).unwrap();
        true
    }

    fn ask_save(&mut self) -> Receiver<Result<SavedVersion>> {
        let (reply, reply_rx) = bounded(1);
        let now = self.now;
        self.learner().on_event(Event::Save(reply), now).unwrap();
        reply_rx
    }

    fn save(&mut self) -> Result<SavedVersion> {
        let reply = self.ask_save();
        while self.write_file() {}
        reply.try_recv().unwrap()
    }

    fn ask_activate(&mut self, version_id: &str) -> Receiver<Result<SavedVersion>> {
        let (reply, reply_rx) = bounded(1);
        let now = self.now;
        let version_id = version_id.to_owned();
        self.learner().on_event(Event::Activate { version_id, reply }, now).unwrap();
        reply_rx
    }

    fn activate(&mut self, version_id: &str) -> Result<SavedVersion> {
        self.ask_activate(version_id).try_recv().unwrap()
    }

    /// Model, counters, journal, and what is shown of them, tell one story.
    #[track_caller]
    fn assert_agrees(&self) {
        let learner = self.learner.as_ref().unwrap();
        let stored = learner.store.counters().unwrap();
        let shown = learner.shared.counters();
        for counters in [&stored, &*shown] {
            assert_eq!(counters.learned_sequence, learner.model.sequence());
            assert_eq!(
                counters.last_sequence,
                learner.model.sequence() + learner.pending.len() as u64
            );
        }
        assert_eq!(stored.accepted, shown.accepted);
        assert_eq!(stored.samples_processed, shown.samples_processed);
        assert_eq!(stored.successful_updates, shown.successful_updates);
        let mut entries = 0;
        let replay = learner.store.replay(0, stored.last_sequence, |_, entry| {
            entries += u64::from(matches!(entry, Entry::Outcome(_)));
            Ok(())
        });
        assert_eq!((replay, entries), (Ok(()), stored.accepted));
        assert_eq!(learner.shared.model().digest(), learner.model.digest());
    }

    /// What the same seeds answer now.
    fn draws(&self) -> Vec<(String, u64)> {
        let model = self.model();
        let context = Vec::new();
        let mut draws = Vec::new();
        for seed in 0..4 {
            let question = Question {
                tenant: "default",
                task_type: Some("task1"),
                context: &context,
                candidates: None,
                exclude: &[],
            };
            let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
            for draw in rank(&model.standings(&question), true, &mut rng) {
                draws.push((draw.agent.to_string(), draw.score.to_bits()));
            }
        }
        draws
    }
}

/// Nothing is learned or saved unless a test asks for it.
fn manual() -> LearnerOptions {
    LearnerOptions {
        save_interval: None,
        checkpoint_outcomes: u64::MAX,
        checkpoint_learning_time: Duration::MAX,
        ..LearnerOptions::default()
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_record_is_acknowledged_before_its_micro_batch_is_learned() {
    let mut bench = Bench::new(manual());
    let reply = bench.stage(vec![record(outcome(1))]);
    assert!(reply.try_recv().is_err(), "staged is not durable");
    assert_eq!(bench.counters().accepted, 0);
    bench.settle();
    let expected = AppendReply { accepted: 1, ..AppendReply::default() };
    assert_eq!(reply.try_recv().unwrap(), Ok(expected));
    assert_eq!((bench.counters().last_sequence, bench.counters().learned_sequence), (1, 0));
    assert_eq!(bench.digest(), digest_of([]));
    bench.assert_agrees();
}

#[test]
fn a_full_batch_is_learned_at_once_and_the_rest_waits() {
    let mut bench = Bench::new(manual());
    bench.send(1..=9);
    assert_eq!(bench.model().sequence(), 0);
    bench.send(10..=35);
    assert_eq!(bench.digest(), digest_of(1..=30));
    assert_eq!(bench.counters().successful_updates, 3);
    let events = bench.reader().learning_events(None, 10).unwrap();
    let sizes: Vec<_> = events.iter().map(|event| (&*event.event_type, event.batch_size)).collect();
    assert_eq!(sizes, [("micro_batch", 10); 3]);
    let samples: u64 = events.iter().map(|event| event.samples_processed).sum();
    assert_eq!(samples, bench.model().total().learned);
    assert_eq!(events[0].metrics_before, events[1].metrics_after);
    bench.assert_agrees();
}

#[test]
fn a_batch_that_is_not_full_waits_from_its_first_event() {
    let mut bench = Bench::new(manual());
    assert_eq!(bench.learner().deadline(), None);
    let first = bench.now.instant;
    bench.send([1]);
    bench.pass(29 * SECOND);
    bench.send([2]);
    assert_eq!(bench.learner().deadline(), Some(first + 30 * SECOND));
    bench.settle();
    assert_eq!(bench.model().sequence(), 0);
    bench.pass(SECOND);
    let now = bench.now;
    bench.learner().on_deadline(now).unwrap();
    assert_eq!(bench.digest(), digest_of([1, 2]));
    assert_eq!(bench.learner().deadline(), None);
    // The next one has a time of its own, also when it comes with a full batch.
    bench.pass(SECOND);
    bench.send(3..=14);
    assert_eq!(bench.learner().deadline(), Some(bench.now.instant + 30 * SECOND));
}

#[test]
fn a_flush_is_answered_when_everything_before_it_is_seen() {
    let mut bench = Bench::new(manual());
    bench.flushed();
    let reply = bench.stage((1..=3).map(|n| record(outcome(n))).collect());
    bench.flushed();
    assert_eq!(reply.try_recv().unwrap().unwrap().accepted, 3);
    assert_eq!(bench.learner().shared().model().digest(), digest_of(1..=3));
}

#[test]
fn duplicates_are_told_within_a_request_across_requests_and_across_restarts() {
    let mut bench = Bench::new(manual());
    assert_eq!(bench.send([1, 2, 1]), 2);
    let [a, b] = [vec![record(outcome(3))], vec![record(outcome(3)), record(outcome(4))]];
    let [a, b] = [bench.stage(a), bench.stage(b)];
    bench.settle();
    let [a, b] = [a, b].map(|reply| reply.try_recv().unwrap().unwrap());
    assert_eq!([(a.accepted, a.duplicates), (b.accepted, b.duplicates)], [(1, 0), (1, 1)]);
    assert_eq!(bench.send([2]), 0);
    bench.reopen();
    assert_eq!(bench.send([4, 1, 5]), 1);
    // The first event counts, whatever a later one holds.
    let other = Outcome { identity: outcome(1).identity, ..outcome(99) };
    assert_eq!(bench.append(vec![record(other)]).unwrap().duplicates, 1);
    bench.flushed();
    assert_eq!(bench.digest(), digest_of(1..=5));
    assert_eq!((bench.counters().accepted, bench.counters().duplicates), (5, 6));
}

#[test]
fn a_tenant_past_the_cap_is_refused_and_its_record_kept() {
    let settings = Settings { caps: Caps { tenants: 2, ..Caps::default() }, ..Settings::default() };
    let mut bench = Bench::new(LearnerOptions { settings, ..manual() });
    let of = |tenant: &str, number| {
        let payload = format!("payload of {tenant}");
        Record {
            payload: Payload::new(Arc::new(payload.clone().into_bytes()), 0..payload.len()),
            ..record(Outcome { tenant: tenant.to_owned(), ..outcome(number) })
        }
    };
    let reply = bench.append(vec![of("a", 1), of("b", 2), of("c", 3), of("a", 4)]).unwrap();
    assert_eq!((reply.accepted, reply.rejected_total), (3, 1));
    let (index, refusal) = &reply.rejected[0];
    assert_eq!((*index, refusal.code), (2, RefusalCode::TenantLimit));
    assert!(refusal.detail.contains("\"c\"") && refusal.detail.contains('2'), "{refusal}");
    // Pending tenants count, also after a restart.
    bench.reopen();
    assert_eq!(bench.append(vec![of("c", 5), of("b", 6)]).unwrap().rejected_total, 1);
    let letters = bench.reader().dead_letters(None, 10).unwrap();
    assert_eq!(letters.len(), 2);
    assert_eq!(letters[1].payload, b"payload of c");
    assert_eq!(letters[1].code, "tenant_limit");
    assert_eq!(bench.counters().rejected["tenant_limit"], 2);
}

#[test]
fn a_refused_record_is_kept_with_where_it_came_from_and_cut() {
    let mut bench = Bench::new(manual());
    let long = "x".repeat(PAYLOAD_BYTES_MAX + 5);
    let reply = bench.append(vec![refused("{"), record(outcome(1)), refused(&long)]).unwrap();
    let places: Vec<usize> = reply.rejected.iter().map(|(index, _)| *index).collect();
    assert_eq!((reply.accepted, &*places), (1, &[0, 2][..]));
    let [newer, older] = &bench.reader().dead_letters(None, 10).unwrap()[..] else { panic!("two") };
    assert_eq!((&*older.payload, older.is_cut()), (&b"{"[..], false));
    assert_eq!((newer.payload.len(), newer.payload_bytes), (PAYLOAD_BYTES_MAX, long.len() as u64));
    assert!(newer.is_cut());
    assert_eq!((&*older.identity, older.offset), ("of its arrival", Some(7)));
    assert_eq!((bench.counters().rejected_total(), bench.counters().accepted), (2, 1));
}

#[test]
fn a_dead_letter_that_is_fed_back_goes_and_counts_once() {
    let mut bench = Bench::new(manual());
    bench.append(vec![refused("1"), refused("2")]).unwrap();
    let ids = bench.reader().dead_letter_ids().unwrap();
    let again = |content, id: &String| Record {
        content,
        replay_of: Some(id.clone()),
        ..record(outcome(0))
    };
    let still = Refusal::new(RefusalCode::NotJson, "still");
    let reply =
        bench.append(vec![again(Ok(outcome(1)), &ids[0]), again(Err(still), &ids[1])]).unwrap();
    assert_eq!((reply.accepted, reply.rejected_total), (1, 1));
    assert_eq!(bench.reader().dead_letter_ids().unwrap(), ids[1..], "it is not doubled");
    // A second try finds its identity known; the letter goes, since nothing is lost with it.
    let reply = bench.append(vec![again(Ok(outcome(1)), &ids[1])]).unwrap();
    assert_eq!((reply.accepted, reply.duplicates), (0, 1));
    assert_eq!(bench.reader().dead_letter_ids().unwrap(), [] as [String; 0]);
}

#[test]
fn source_positions_are_stored_with_the_records_also_without_any() {
    let mut bench = Bench::new(manual());
    let now = bench.now;
    for next_offset in [5, 9] {
        let (reply, reply_rx) = bounded(1);
        let positions =
            vec![Position { topic: "t".into(), partition: 0, next_offset, ..Position::default() }];
        let request = AppendRequest {
            positions: positions.clone(),
            ..request(Vec::new(), Room::unlimited(), reply)
        };
        bench.learner().on_event(Event::Append(request), now).unwrap();
        bench.settle();
        assert_eq!(reply_rx.try_recv().unwrap(), Ok(AppendReply::default()));
        bench.reopen();
        assert_eq!(bench.learner().store.positions().unwrap(), positions);
    }
}

#[test]
fn an_outcome_of_a_decision_is_learned_with_the_task_and_context_of_that_moment() {
    #[track_caller]
    fn check(mut sent: Outcome, decision: Option<DecisionRef>, expected: (Option<&str>, &str)) {
        let mut bench = Bench::new(manual());
        let decided = Decision {
            task_type: Some("decided".to_owned()),
            context: vec![("decided".to_owned(), Feature::Bool(true))],
            request: RequestHash::default(),
            answer: Vec::new(),
        };
        bench.learner().shared().decisions.remember("default", "d", decided, None);
        sent.decision = decision;
        bench.append(vec![record(sent)]).unwrap();
        for reopened in [false, true] {
            if reopened {
                // It is in the journal: the decisions are gone now.
                bench.reopen();
            }
            let pending = &bench.learner().pending[0];
            let seen = (pending.task_type.as_deref(), &*pending.context[0].0);
            assert_eq!(seen, expected);
        }
    }
    let explicit = |id: &str| Some(DecisionRef::Explicit(id.to_owned()));
    let correlated = |id: &str| Some(DecisionRef::Correlation(id.to_owned()));
    let own = (Some("task1"), "k");
    let decided = (Some("decided"), "decided");
    check(outcome(1), None, own);
    check(outcome(1), explicit("d"), decided);
    check(outcome(1), correlated("d"), decided);
    check(outcome(1), explicit("unknown"), own);
    check(outcome(1), correlated("unknown"), own);
    check(Outcome { resolved: true, ..outcome(1) }, explicit("d"), own);
    check(Outcome { tenant: "other".to_owned(), ..outcome(1) }, explicit("d"), own);
}

/// Replicas that read the same topic know different decisions and must learn the same.
#[test]
fn what_comes_from_the_topic_is_learned_with_what_it_carries() {
    let mut bench = Bench::new(manual());
    let decided = Decision {
        task_type: Some("decided".to_owned()),
        context: Vec::new(),
        request: RequestHash::default(),
        answer: Vec::new(),
    };
    bench.learner().shared().decisions.remember("default", "d", decided, None);
    let explicit = Some(DecisionRef::Explicit("d".to_owned()));
    let correlated = Some(DecisionRef::Correlation("d".to_owned()));
    for (number, resolved, sent, kept) in [
        (1, false, &explicit, &explicit),
        (2, false, &correlated, &None),
        (3, true, &correlated, &correlated),
    ] {
        let sent = Outcome { decision: sent.clone(), resolved, ..outcome(number) };
        let own = (sent.task_type.clone(), sent.context.clone());
        bench.append(vec![Record { source: TOPIC, ..record(sent) }]).unwrap();
        let pending = bench.learner().pending.back().unwrap();
        assert_eq!((pending.task_type.clone(), pending.context.clone()), own);
        assert_eq!(&pending.decision, kept);
    }
}

#[test]
fn outcomes_on_their_way_to_a_topic_are_new_known_or_refused() {
    let caps = Caps { tenants: 2, ..Caps::default() };
    let settings = Settings { caps, ..Settings::default() };
    let mut bench = Bench::new(LearnerOptions { settings, ..manual() });
    let now = bench.now;
    bench.send(1..=1);
    let before = bench.counters().duplicates;
    // Staged, not yet durable.
    let (reply, _staged) = bounded(1);
    let records = vec![record(outcome(2))];
    let request = request(records, Room::unlimited(), reply);
    bench.learner().on_event(Event::Append(request), now).unwrap();

    let of = |tenant: &str, number: u64| Reported {
        tenant: tenant.to_owned(),
        ..Reported::of(&outcome(number))
    };
    let other = |number| Reported { content: [7, 7], ..of("default", number) };
    let outcomes = vec![
        of("default", 1),
        of("default", 2),
        of("default", 3),
        of("default", 3),
        of("new", 4),
        of("one too many", 5),
        other(1),
        other(2),
        other(3),
    ];
    let (reply, reply_rx) = bounded(1);
    let request = AdmitRequest { outcomes, dry_run: false, reply };
    bench.learner().on_event(Event::Admit(request), now).unwrap();
    let Admitted { admissions, .. } = reply_rx.try_recv().unwrap().unwrap();
    let known = Admission::Known { conflicting: false };
    let new = Admission::New { decision: None };
    let expected = [known.clone(), known.clone(), new.clone(), known];
    assert_eq!((&admissions[..4], &admissions[4]), (&expected[..], &new));
    let conflicts = [const { Admission::Known { conflicting: true } }; 3];
    assert_eq!(admissions[6..], conflicts);
    let Admission::Refused(refusal) = &admissions[5] else { panic!("{admissions:?}") };
    assert_eq!(refusal.code, RefusalCode::TenantLimit);
    // Counted with the next transaction; nothing was stored.
    bench.settle();
    bench.send(6..=6);
    assert_eq!(bench.counters().duplicates, before + 6);
    assert_eq!((bench.counters().accepted, bench.counters().conflicting), (3, 3));
}

/// One id that comes again with another agent or status is counted, whether the first is in the same
/// request, the same transaction, the journal, or the journal of the run before.
#[test]
fn an_id_given_to_two_executions_is_counted_as_conflicting() {
    let mut bench = Bench::new(manual());
    let sent = |agent: &str, status| Outcome { identity: [9; 16], ..Outcome::new(agent, status) };
    let (first, again) = (sent("a", Status::Success), sent("a", Status::Success));
    let (failed, other) = (sent("a", Status::Failure), sent("b", Status::Success));
    let mut expected =
        AppendReply { accepted: 1, duplicates: 3, conflicting: 2, ..AppendReply::default() };
    for round in 1..=3 {
        let group = [first.clone(), again.clone(), failed.clone(), other.clone()];
        let reply = bench.append(group.into_iter().map(record).collect()).unwrap();
        assert_eq!(reply, expected, "round {round}");
        (expected.accepted, expected.duplicates) = (0, 4);
        bench.reopen();
        assert_eq!(bench.counters().conflicting, 2 * round);
        assert_eq!(bench.counters().sources["http"].conflicting, 2 * round);
    }
    // What an older program journaled has no content to compare with.
    let unknown = Outcome { identity: [8; 16], content: ContentKey::default(), ..first };
    bench.append(vec![record(unknown)]).unwrap();
    let reply = bench.append(vec![record(Outcome { identity: [8; 16], ..failed })]).unwrap();
    assert_eq!((reply.duplicates, reply.conflicting), (1, 0));
}

#[test]
fn an_id_that_is_no_decision_is_kept_only_when_it_was_meant_as_one() {
    let mut bench = Bench::new(manual());
    for (number, decision) in [
        (1, DecisionRef::Explicit("later".to_owned())),
        (2, DecisionRef::Correlation("something else".to_owned())),
    ] {
        let sent = Outcome { decision: Some(decision), ..outcome(number) };
        bench.append(vec![record(sent)]).unwrap();
    }
    let decisions: Vec<_> =
        bench.learner().pending.iter().map(|outcome| outcome.decision.clone()).collect();
    assert_eq!(decisions, [Some(DecisionRef::Explicit("later".to_owned())), None]);
}

#[test]
fn counters_add_up_and_go_on_over_a_restart() {
    let mut bench = Bench::new(manual());
    bench.send(1..=25);
    bench.pass(90 * SECOND);
    bench.flushed();
    let before = bench.counters();
    assert_eq!(
        (before.total_updates(), before.successful_updates, before.failed_updates),
        (3, 3, 0)
    );
    assert_eq!(before.samples_processed, bench.model().total().learned);
    assert_eq!(before.last_update_ms, bench.now.unix_ms);
    assert_eq!(before.last_event_ms, bench.now.unix_ms - 90_000);
    assert!(before.running_ms >= 90_000);
    assert!(before.avg_update_time_ms() > 0.0);
    let now = bench.now;
    let unsaved = bench.learner.take().unwrap().close(now).unwrap_err().to_string();
    assert_eq!(
        unsaved,
        "not saved at the stop: a version of the model (the journal has what it lacks)"
    );
    bench.reopen();
    let after = bench.counters();
    assert_eq!(after.update_time_us, before.update_time_us, "an orderly end takes all along");
    assert_eq!((after.total_updates(), after.accepted), (3, 25));
    bench.send(26..=35);
    assert_eq!(bench.counters().total_updates(), 4);
}

#[test]
fn learning_that_fails_is_counted_tried_again_and_wakes_up_for_it() {
    let mut bench = Bench::new(LearnerOptions { save_interval: Some(SECOND), ..manual() });
    bench.send(1..=9);
    bench.pass(2 * SECOND);
    let reply = bench.stage((10..=25).map(|n| record(outcome(n))).collect());
    // The append has its transaction; the next one to begin is that of learning.
    let shared = bench.learner().shared();
    let steps = (0..100).find(|steps| {
        let mut probe = Bench::new(manual());
        probe.send(1..=9);
        let reply = probe.stage((10..=25).map(|n| record(outcome(n))).collect());
        planned_failure::after(*steps);
        probe.settle();
        assert!(!planned_failure::cancel());
        reply.try_recv().unwrap().is_ok()
    });
    planned_failure::after(steps.unwrap());
    bench.settle();
    assert!(!planned_failure::cancel());
    assert_eq!(reply.try_recv().unwrap().unwrap().accepted, 16, "durable all the same");
    assert_eq!(bench.model().sequence(), 0);
    assert!(shared.trouble().unwrap().contains("planned"));
    let counters = bench.counters();
    assert_eq!((counters.total_updates(), counters.failed_updates), (2, 2), "each batch, each try");
    // A full batch waits for the retry, not for the batch timeout; nothing is due before that.
    assert_eq!(bench.learner().deadline(), Some(bench.now.instant + RETRY_AFTER));
    let flush = bench.flush();
    assert!(flush.try_recv().is_err());
    assert_eq!(bench.learner().deadline(), Some(bench.now.instant + RETRY_AFTER));
    bench.pass(RETRY_AFTER);
    bench.settle();
    assert_eq!(flush.try_recv(), Ok(()));
    assert_eq!(bench.digest(), digest_of(1..=25));
    assert_eq!(shared.trouble(), None);
    let counters = bench.counters();
    assert_eq!((counters.successful_updates, counters.failed_updates), (3, 2));
    bench.assert_agrees();
}

#[test]
fn a_flush_during_trouble_is_answered_at_the_retry() {
    let mut bench = Bench::new(manual());
    bench.send([1]);
    planned_failure::after(0);
    let flush = bench.flush();
    assert!(!planned_failure::cancel() && flush.try_recv().is_err());
    assert_eq!(
        bench.learner().deadline(),
        Some(bench.now.instant + RETRY_AFTER),
        "not at the batch timeout"
    );
}

#[test]
fn a_due_save_does_not_spin_while_learning_fails() {
    let mut bench = Bench::new(LearnerOptions { save_interval: Some(20 * SECOND), ..manual() });
    bench.send(1..=11);
    bench.pass(30 * SECOND);
    planned_failure::after(0);
    bench.settle();
    assert!(!planned_failure::cancel());
    bench.settle();
    assert!(bench.learner().deadline().is_none_or(|due| due > bench.now.instant));
}

#[test]
fn more_than_can_wait_is_pushed_back_while_learning_fails() {
    let mut bench = Bench::new(LearnerOptions { batch_outcomes: 200_000, ..manual() });
    bench.send(1..=PENDING_OUTCOMES_MAX as u64 + 1);
    planned_failure::after(0);
    let flush = bench.flush();
    assert!(flush.try_recv().is_err());
    let pushed_back = bench.append(vec![record(outcome(1_000_000))]);
    assert!(matches!(pushed_back, Err(Error::Unavailable(_))), "{pushed_back:?}");
    assert_eq!(bench.counters().accepted, PENDING_OUTCOMES_MAX as u64 + 1);
    bench.pass(RETRY_AFTER);
    bench.settle();
    assert_eq!(flush.try_recv(), Ok(()));
    assert_eq!(bench.send([1_000_000]), 1);
}

#[test]
fn a_disk_that_is_full_for_a_while_loses_and_doubles_nothing() {
    let mut bench = Bench::new(manual());
    bench.send(1..=9);
    bench.learner().store.fill_up(1);
    let large = || {
        let agent = "x".repeat(200_000);
        record(Outcome { agent, ..outcome(10) })
    };
    let refused = bench.append(vec![large()]);
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    assert!(bench.learner().shared().trouble().is_some());
    bench.assert_agrees();
    bench.learner().store.fill_up(1_000_000);
    assert_eq!(bench.append(vec![large()]).unwrap().accepted, 1);
    assert_eq!(bench.append(vec![large()]).unwrap().duplicates, 1);
    assert_eq!(bench.model().sequence(), 10);
    assert_eq!(bench.learner().shared().trouble(), None);
    bench.assert_agrees();
}

/// Everything that writes, each tried until it works, with a failure at one step.
fn eventful_life(bench: &mut Bench) {
    fn until_it_works<T>(bench: &mut Bench, mut step: impl FnMut(&mut Bench) -> Result<T>) -> T {
        for _ in 0..10 {
            match step(bench) {
                Ok(value) => return value,
                Err(Error::Unavailable(_)) => bench.assert_agrees(),
                Err(error) => panic!("{error}"),
            }
            bench.pass(SECOND);
            bench.settle();
        }
        panic!("it never works");
    }
    fn append(bench: &mut Bench, numbers: std::ops::RangeInclusive<u64>) {
        let records = || {
            let outcomes = numbers.clone().map(|number| record(outcome(number)));
            outcomes.chain([refused("x")]).collect::<Vec<_>>()
        };
        until_it_works(bench, |bench| bench.append(records()));
    }
    fn flush(bench: &mut Bench) {
        until_it_works(bench, |bench| {
            let flushed = bench.flush().try_recv();
            flushed.map_err(|_| Error::Unavailable("not yet".to_owned()))
        });
    }
    append(bench, 1..=25);
    // A save keeps what can be learned then, which is not all while learning fails.
    flush(bench);
    let first = until_it_works(bench, Bench::save).version_id;
    append(bench, 26..=38);
    until_it_works(bench, Bench::save);
    append(bench, 20..=44);
    until_it_works(bench, |bench| bench.activate(&first));
    append(bench, 40..=57);
    bench.reopen();
    append(bench, 58..=60);
    flush(bench);
    bench.assert_agrees();
}

#[test]
fn after_a_failure_at_any_step_the_retry_ends_where_no_failure_would() {
    let mut undisturbed = Bench::new(manual());
    eventful_life(&mut undisturbed);
    assert_eq!(undisturbed.digest(), digest_of((1..=25).chain(45..=60)));
    for steps in 0.. {
        let mut bench = Bench::new(manual());
        planned_failure::after(steps);
        eventful_life(&mut bench);
        if planned_failure::cancel() {
            assert!(steps > 80, "a life has more steps than {steps}");
            return;
        }
        assert_eq!(bench.digest(), undisturbed.digest(), "failing at step {steps}");
        assert_eq!(bench.draws(), undisturbed.draws(), "failing at step {steps}");
        let (seen, expected) = (bench.counters(), undisturbed.counters());
        assert_eq!(seen.accepted, expected.accepted, "failing at step {steps}");
        assert_eq!(seen.duplicates, expected.duplicates, "failing at step {steps}");
        assert_eq!(seen.rejected, expected.rejected, "failing at step {steps}");
        assert_eq!(seen.samples_processed, expected.samples_processed, "failing at step {steps}");
        bench.reopen();
        assert_eq!(bench.digest(), undisturbed.digest(), "failing at step {steps}");
    }
}

#[test]
fn a_restart_at_any_point_changes_nothing() {
    const LAST: u64 = 33;
    let mut uninterrupted = Bench::new(manual());
    for number in 1..=LAST {
        uninterrupted.send([number]);
    }
    for restart_after in 0..=LAST {
        let mut bench = Bench::new(manual());
        for number in 1..=LAST {
            bench.send([number]);
            if number == 17 {
                bench.save().unwrap();
            }
            if number == restart_after {
                let (digest, draws, pending) =
                    (bench.digest(), bench.draws(), bench.learner().pending.clone());
                bench.reopen();
                assert_eq!((bench.digest(), bench.draws()), (digest, draws), "{restart_after}");
                assert_eq!(bench.learner().pending, pending, "{restart_after}");
                bench.assert_agrees();
            }
        }
        bench.flushed();
        uninterrupted.flushed();
        assert_eq!(bench.digest(), uninterrupted.digest(), "{restart_after}");
        assert_eq!(bench.draws(), uninterrupted.draws(), "{restart_after}");
    }
}

#[test]
fn what_waited_at_a_restart_is_learned_in_time_and_in_order() {
    let mut bench = Bench::new(LearnerOptions { batch_outcomes: 100, ..manual() });
    bench.send(1..=45);
    bench.options.batch_outcomes = 10;
    bench.reopen();
    assert_eq!(bench.model().sequence(), 0);
    assert!(bench.learner().deadline().unwrap() <= bench.now.instant, "four batches are full");
    bench.settle();
    assert_eq!(bench.digest(), digest_of(1..=40));
    bench.send(46..=47);
    bench.flushed();
    assert_eq!(bench.digest(), digest_of(1..=47));
}

#[test]
fn a_restart_with_another_strategy_has_what_that_strategy_would_have_learned() {
    let mut bench = Bench::new(manual());
    bench.send(1..=40);
    bench.save().unwrap();
    bench.send(41..=60);
    for strategy in crate::model::Strategy::ALL {
        bench.options.settings.strategy = strategy;
        bench.reopen();
        let fresh = learned(bench.options.settings, (1..=60).map(outcome));
        assert_eq!(bench.digest(), fresh.digest());
        let asked = bench.draws();
        bench.learner().model = fresh;
        assert_eq!(asked, bench.draws(), "{strategy:?}");
    }
}

#[test]
fn a_damaged_restart_point_is_passed_over_as_long_as_something_tells_the_same() {
    let mut bench = Bench::new(manual());
    bench.send(1..=10);
    bench.save().unwrap();
    bench.send(11..=20);
    bench.save().unwrap();
    bench.send(21..=30);
    for name in ["version-000002.json", "version-000001.json"] {
        let path = bench.directory.path().join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        bench.reopen();
        assert_eq!(bench.digest(), digest_of(1..=30), "{name}");
    }
}

#[test]
fn activation_goes_back_to_the_version_and_on_from_there() {
    let mut bench = Bench::new(manual());
    bench.send(1..=12);
    let first = bench.save().unwrap();
    assert_eq!((&*first.version_id, first.version_number), ("agent_selection-1", 1));
    assert_eq!(first.training_samples, bench.model().total().learned);
    bench.send(13..=25);
    let second = bench.save().unwrap();
    bench.send(26..=27);
    let before = bench.counters();

    let activated = bench.activate(&first.version_id).unwrap();
    assert_eq!(activated.version_id, "agent_selection-3");
    assert_eq!(bench.digest(), digest_of(1..=12), "in effect with the answer");
    let shared = bench.learner().shared();
    assert_eq!(shared.model().digest(), digest_of(1..=12));
    assert_eq!(shared.active_version().unwrap(), "agent_selection-3");
    let after = bench.counters();
    assert_eq!(after.last_sequence, before.last_sequence + 1, "an entry of the journal");
    assert!(after.samples_processed > before.samples_processed, "the open batch was closed first");
    assert_eq!(bench.model().sequence(), after.last_sequence);
    assert_eq!(bench.send([5, 20, 27]), 0, "what came in between stays known");
    let event = &bench.reader().learning_events(None, 1).unwrap()[0];
    assert_eq!(event.event_type, "activation");
    assert_eq!(event.model_version_id.as_deref(), Some("agent_selection-3"));

    bench.send(28..=40);
    bench.flushed();
    let expected = digest_of((1..=12).chain(28..=40));
    assert_eq!(bench.digest(), expected);
    let draws = bench.draws();
    bench.reopen();
    assert_eq!((bench.digest(), bench.draws()), (expected, draws));
    assert_eq!(bench.learner().shared().active_version().unwrap(), "agent_selection-3");
    bench.assert_agrees();

    bench.save().unwrap();
    let rows = bench.reader().versions("agent_selection", None, 10).unwrap();
    let chain: Vec<_> = rows
        .iter()
        .map(|row| (row.version_number, row.parent_version.as_deref(), row.status))
        .collect();
    assert_eq!(
        chain,
        [
            (4, Some("agent_selection-3"), VersionStatus::Active),
            (3, Some("agent_selection-1"), VersionStatus::Deprecated),
            (2, Some("agent_selection-1"), VersionStatus::Deprecated),
            (1, None, VersionStatus::Deprecated),
        ]
    );
    assert_eq!(rows[1].digest, rows[3].digest);
    // Forward again, to what was rolled back.
    bench.activate(&second.version_id).unwrap();
    assert_eq!(bench.digest(), digest_of(1..=25));
    bench.reopen();
    assert_eq!(bench.digest(), digest_of(1..=25));
}

#[test]
fn a_version_that_is_not_there_cannot_be_activated() {
    let mut bench = Bench::new(manual());
    bench.store_options.versions_max = 2;
    bench.reopen();
    for number in 1..=3 {
        bench.send([number]);
        bench.save().unwrap();
    }
    bench.send([4]);
    let unknown = bench.activate("agent_selection-99");
    assert!(matches!(&unknown, Err(Error::NotFound(text)) if text.contains("-99")), "{unknown:?}");
    let archived = bench.activate("agent_selection-1");
    assert!(
        matches!(&archived, Err(Error::Conflict(text)) if text.contains("archived")),
        "{archived:?}"
    );
    std::fs::write(bench.directory.path().join("version-000002.json"), "damaged").unwrap();
    let damaged = bench.activate("agent_selection-2");
    assert!(matches!(&damaged, Err(Error::Conflict(_))), "{damaged:?}");
    assert_eq!(bench.digest(), digest_of(1..=4), "nothing has changed");
    assert_eq!(bench.counters().last_sequence, 4);
    bench.assert_agrees();
}

#[test]
fn an_activation_waits_until_what_was_accepted_can_be_learned() {
    let mut bench = Bench::new(manual());
    bench.send([1]);
    let version = bench.save().unwrap().version_id;
    bench.send([2]);
    planned_failure::after(0);
    let refused = bench.activate(&version);
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    bench.activate(&version).unwrap();
    bench.flushed();
    assert_eq!(bench.digest(), digest_of([1]));
}

#[test]
fn saves_and_activations_wait_for_the_file_being_written() {
    let mut bench = Bench::new(manual());
    bench.send([1]);
    let first = bench.ask_save();
    assert!(bench.learner().is_saving());
    bench.send([2]);
    let second = bench.ask_save();
    let activated = bench.ask_activate("agent_selection-1");
    for reply in [&first, &second, &activated] {
        assert!(reply.try_recv().is_err());
    }
    bench.send([3]);
    assert_eq!(bench.jobs.len(), 1, "one file at a time");
    assert!(bench.write_file());
    assert_eq!(first.try_recv().unwrap().unwrap().version_number, 1);
    assert!(bench.write_file());
    assert_eq!(second.try_recv().unwrap().unwrap().version_number, 2);
    assert_eq!(activated.try_recv().unwrap().unwrap().version_number, 3);
    assert!(!bench.learner().is_saving());
    bench.flushed();
    assert_eq!(bench.digest(), digest_of([1]));
    // The file holds what was learned when it was asked for, and what had been accepted.
    bench.activate("agent_selection-2").unwrap();
    assert_eq!(bench.digest(), digest_of(1..=3));

    let _first = bench.ask_save();
    let waiting: Vec<_> = (0..100).map(|_| bench.ask_save()).collect();
    let refused = waiting.iter().filter_map(|reply| reply.try_recv().ok()).collect::<Vec<_>>();
    assert!(!refused.is_empty() && refused.iter().all(Result::is_err), "the queue has a bound");
}

#[test]
fn a_save_whose_file_cannot_be_written_is_an_error_and_leaves_nothing() {
    let mut bench = Bench::new(manual());
    bench.send([1]);
    std::fs::create_dir(bench.directory.path().join("version-000001.json.tmp")).unwrap();
    let failed = bench.save();
    assert!(matches!(&failed, Err(Error::Unavailable(_))), "{failed:?}");
    assert_eq!(bench.counters().failed_saves, 1);
    assert_eq!(bench.reader().versions("agent_selection", None, 10).unwrap(), []);
    let saved = bench.save().unwrap();
    assert_eq!(saved.version_number, 2, "a number is never used twice");
    assert_eq!(bench.counters().saves, 1);
    bench.reopen();
    assert_eq!((bench.counters().failed_saves, bench.digest()), (1, digest_of([1])));
}

#[test]
fn a_crash_while_a_file_is_written_leaves_no_version() {
    for is_written in [false, true] {
        let mut bench = Bench::new(manual());
        bench.send(1..=10);
        bench.save().unwrap();
        bench.send(11..=20);
        let _reply = bench.ask_save();
        if is_written {
            let _unheard = written(bench.jobs.try_recv().unwrap());
        }
        bench.reopen();
        let rows = bench.reader().versions("agent_selection", None, 10).unwrap();
        assert_eq!(rows.iter().map(|row| row.version_number).collect::<Vec<_>>(), [1]);
        assert!(!bench.directory.path().join("version-000002.json").exists());
        assert_eq!(bench.digest(), digest_of(1..=20));
        assert_eq!(bench.save().unwrap().version_number, 3);
    }
}

#[test]
fn a_save_is_made_when_it_is_due_and_there_is_something_new() {
    let mut bench = Bench::new(LearnerOptions { save_interval: Some(300 * SECOND), ..manual() });
    let start = bench.now.instant;
    bench.pass(1_000 * SECOND);
    bench.settle();
    assert_eq!((bench.jobs.len(), bench.learner().deadline()), (0, None));
    bench.reopen();
    let start = start + 1_000 * SECOND;
    bench.send(1..=10);
    assert_eq!(bench.learner().deadline(), Some(start + 300 * SECOND));
    bench.pass(299 * SECOND);
    bench.settle();
    assert_eq!(bench.jobs.len(), 0);
    bench.pass(SECOND);
    bench.settle();
    assert!(bench.write_file());
    assert_eq!(bench.learner().shared().active_version().unwrap(), "agent_selection-1");
    assert_eq!((bench.learner().deadline(), bench.counters().saves), (None, 1));
    bench.pass(1_000 * SECOND);
    bench.send(11..=20);
    assert_eq!(bench.jobs.len(), 1, "long past due: at once");
}

#[test]
fn a_checkpoint_is_written_after_so_many_outcomes_and_makes_the_restart_short() {
    let mut bench = Bench::new(LearnerOptions { checkpoint_outcomes: 30, ..manual() });
    bench.send(1..=29);
    assert_eq!(bench.jobs.len(), 0);
    bench.send(30..=30);
    assert!(bench.write_file());
    let points = bench.learner().store.restart_points().unwrap();
    assert_eq!(points.iter().map(|point| point.learned_sequence).collect::<Vec<_>>(), [30]);
    assert_eq!(bench.reader().versions("agent_selection", None, 10).unwrap(), []);
    bench.send(31..=50);
    assert_eq!(bench.jobs.len(), 0, "counted from the last restart point");
    bench.reopen();
    assert_eq!(bench.digest(), digest_of(1..=50));
    bench.send(51..=60);
    assert_eq!(bench.jobs.len(), 1, "also over a restart");

    let mut slow = Bench::new(LearnerOptions {
        checkpoint_learning_time: Duration::from_nanos(1),
        ..manual()
    });
    slow.send(1..=10);
    assert_eq!(slow.jobs.len(), 1, "also when learning took long");
}

#[test]
fn an_orderly_end_learns_everything_and_saves_it() {
    let mut bench = Bench::new(manual());
    let reply = bench.stage((1..=13).map(|n| record(outcome(n))).collect());
    let now = bench.now;
    bench.learner().finish(now).unwrap();
    assert_eq!(reply.try_recv().unwrap().unwrap().accepted, 13);
    assert!(bench.write_file() && !bench.learner().is_saving());
    let now = bench.now;
    bench.learner.take().unwrap().close(now).unwrap();
    bench.reopen();
    assert_eq!(bench.learner().shared().active_version().unwrap(), "agent_selection-1");
    assert_eq!(bench.digest(), digest_of(1..=13));
    let wal = bench.directory.path().join("online-learning.db-wal");
    assert!(std::fs::metadata(wal).map_or(0, |meta| meta.len()) == 0, "the log is moved over");

    // Nothing new, nothing to save.
    bench.learner().finish(now).unwrap();
    assert!(!bench.learner().is_saving());
}

#[test]
fn an_end_during_a_save_saves_what_came_after_it_too() {
    let mut bench = Bench::new(manual());
    bench.send(1..=10);
    let reply = bench.ask_save();
    bench.send(11..=13);
    let now = bench.now;
    bench.learner().finish(now).unwrap();
    while bench.learner().is_saving() {
        assert!(bench.write_file());
    }
    assert_eq!(reply.try_recv().unwrap().unwrap().version_number, 1);
    let rows = bench.reader().versions("agent_selection", None, 10).unwrap();
    let saved: Vec<_> = rows.iter().map(|row| (row.version_number, row.learned_sequence)).collect();
    assert_eq!(saved, [(2, 13), (1, 10)]);
    assert_eq!(rows[0].digest, Some(digest_of(1..=13)));
    assert_eq!(rows[1].digest, Some(digest_of(1..=10)));
}

#[test]
fn the_saver_ends_with_the_learners_that_it_writes_for() {
    let (jobs_tx, jobs) = bounded(1);
    let (saved_tx, saved) = unbounded();
    let benches = [5, 10].map(|last| {
        let mut bench = Bench::new(manual());
        bench.send(1..=last);
        let _reply = bench.ask_save();
        bench
    });
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || Saver::run(&jobs, &saved_tx));
        for bench in &benches {
            jobs_tx.send(bench.jobs.try_recv().unwrap()).unwrap();
        }
        drop(jobs_tx);
        thread.join().unwrap();
    });
    assert_eq!(saved.iter().count(), 2);
    for bench in benches {
        assert!(bench.directory.path().join("version-000001.json").is_file());
    }
}

#[test]
fn an_import_is_recorded() {
    let mut bench = Bench::new(manual());
    bench.send([1]);
    let (reply, reply_rx) = bounded(1);
    let now = bench.now;
    let event = Event::Imported { accepted: 1, duration: 2 * SECOND, reply };
    bench.learner().on_event(event, now).unwrap();
    assert_eq!(reply_rx.try_recv(), Ok(()));
    let events = bench.reader().learning_events(None, 10).unwrap();
    let types: Vec<_> = events.iter().map(|event| &*event.event_type).collect();
    assert_eq!(types, ["import", "micro_batch"]);
    assert!((events[0].duration_ms - 2_000.0).abs() < 1e-9);
}

proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(24))]
    #[test]
    fn neither_groups_nor_batch_sizes_change_the_digest(
        cuts in prop::collection::vec(1..60_u64, 1..20),
        batch_outcomes in prop::sample::select(vec![1, 10, 1_000]),
        flush_after in any::<prop::sample::Index>(),
    ) {
        let mut bench = Bench::new(LearnerOptions { batch_outcomes, ..manual() });
        let flush_after = flush_after.index(cuts.len());
        let mut last = 0;
        for (index, cut) in cuts.into_iter().enumerate() {
            bench.send(last + 1..=last + cut);
            last += cut;
            if index == flush_after {
                bench.flushed();
                prop_assert_eq!(bench.digest(), digest_of(1..=last));
            }
        }
        bench.flushed();
        prop_assert_eq!(bench.digest(), digest_of(1..=last));
        prop_assert_eq!(bench.model().sequence(), last);
        bench.assert_agrees();
    }
}

/// An entry of the reference's journal.
enum Step {
    Learn(Box<Outcome>),
    Control(Control),
    /// The state after that many steps comes back.
    GoBackTo(usize),
}

/// What a model is by definition: the journal, learned in order.
fn reference(settings: Settings, steps: &[Step]) -> AgentPerformanceModel {
    let mut model = AgentPerformanceModel::new(settings);
    for step in steps {
        match step {
            Step::Learn(outcome) => model.update(outcome),
            Step::Control(control) => {
                model.apply(control);
            }
            Step::GoBackTo(count) => model = reference(settings, &steps[..*count]),
        }
    }
    model
}

#[expect(clippy::too_many_lines, reason = "one life, told in order")]
/// One random life, after each step compared with the naive reference.
fn simulate(seed: u64) {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let caps = Caps {
        agents_per_tenant: 4,
        tenants: 2,
        context_values_per_key: 3,
        recent_values: 60,
        cells: 20,
        effects: 12,
        ..Caps::default()
    };
    let mut bench = Bench::new(LearnerOptions {
        settings: Settings { caps, ..Settings::default() },
        batch_outcomes: rng.random_range(1..20),
        batch_timeout: 30 * SECOND,
        save_interval: rng.random_bool(0.5).then_some(100 * SECOND),
        checkpoint_outcomes: rng.random_range(20..200),
        checkpoint_learning_time: Duration::MAX,
        ..LearnerOptions::default()
    });
    bench.store_options.versions_max = rng.random_range(2..5);
    bench.reopen();
    let settings = bench.options.settings;
    let mut steps: Vec<Step> = Vec::new();
    let mut known = HashSet::new();
    let (mut duplicates, mut rejected) = (0, 0);
    // Activations that wait for a file, with the steps that their version holds.
    let mut waiting: Vec<(Receiver<Result<SavedVersion>>, usize)> = Vec::new();
    let mut id_to_steps: HashMap<String, usize> = HashMap::new();

    for _ in 0..60 {
        match rng.random_range(0..100) {
            0..45 => {
                let mut expected = AppendReply::default();
                let mut accepted = Vec::new();
                let mut fresh = known.clone();
                let mut records = Vec::new();
                for index in 0..rng.random_range(1..15) {
                    if rng.random_bool(0.1) {
                        records.push(refused("x"));
                        expected.rejected_total += 1;
                        let refusal = Refusal::new(RefusalCode::NotJson, "the record is not JSON");
                        expected.rejected.push((index, refusal));
                        continue;
                    }
                    let mut sent = outcome(rng.random_range(0..600));
                    if sent.identity[15].is_multiple_of(5) {
                        "other".clone_into(&mut sent.tenant);
                    }
                    if fresh.insert(sent.identity) {
                        expected.accepted += 1;
                        accepted.push(Step::Learn(Box::new(sent.clone())));
                    } else {
                        expected.duplicates += 1;
                    }
                    records.push(record(sent));
                }
                match bench.append(records) {
                    Ok(reply) => {
                        assert_eq!(reply, expected);
                        known = fresh;
                        steps.extend(accepted);
                        duplicates += expected.duplicates;
                        rejected += expected.rejected_total;
                    }
                    Err(error) => assert!(matches!(error, Error::Unavailable(_)), "{error}"),
                }
            }
            45..55 => {
                let _reply = bench.flush();
            }
            55..62 => {
                let _reply = bench.ask_save();
            }
            62..74 => {
                bench.write_file();
            }
            74..78 => {
                let agent = format!("agent{}", rng.random_range(0..6));
                let tenant = ["default", "other"][rng.random_range(0..2)].to_owned();
                let control = if rng.random_bool(0.5) {
                    Control::RemoveAgent { tenant, agent }
                } else {
                    let (decision_id, task_type) = ("d".to_owned(), Some("task1".to_owned()));
                    let context = outcome(rng.random_range(0..600)).context;
                    Control::DecisionMissing { tenant, decision_id, agent, task_type, context }
                };
                match bench.control(std::slice::from_ref(&control)) {
                    Ok(()) => steps.push(Step::Control(control)),
                    Err(error) => assert!(matches!(error, Error::Unavailable(_)), "{error}"),
                }
            }
            78..84 => {
                let rows = bench.reader().versions("agent_selection", None, 100).unwrap();
                if !rows.is_empty() {
                    let row = &rows[rng.random_range(0..rows.len())];
                    let held = usize::try_from(row.learned_sequence).unwrap();
                    // What a version holds never changes.
                    assert_eq!(*id_to_steps.entry(row.id.clone()).or_insert(held), held);
                    let reply = bench.ask_activate(&row.id);
                    waiting.push((reply, held));
                }
            }
            84..90 => {
                let seconds = rng.random_range(0..40);
                bench.pass(SECOND * seconds);
                let now = bench.now;
                bench.learner().on_deadline(now).unwrap();
            }
            90..95 => planned_failure::after(rng.random_range(0..25)),
            _ => bench.reopen(),
        }
        waiting.retain(|(reply, held)| match reply.try_recv() {
            Ok(Ok(_)) => {
                steps.push(Step::GoBackTo(*held));
                false
            }
            Ok(Err(error)) => {
                // Its file is gone, or was never written.
                let gone = matches!(error, Error::Conflict(_) | Error::NotFound(_));
                assert!(gone || matches!(error, Error::Unavailable(_)), "{error}");
                false
            }
            Err(crossbeam_channel::TryRecvError::Empty) => true,
            Err(crossbeam_channel::TryRecvError::Disconnected) => false,
        });
        let learned = usize::try_from(bench.model().sequence()).unwrap();
        assert!(learned <= steps.len());
        assert_eq!(bench.digest(), reference(settings, &steps[..learned]).digest());
    }

    planned_failure::cancel();
    bench.reopen();
    bench.flushed();
    let model = reference(settings, &steps);
    assert_eq!(bench.digest(), model.digest());
    bench.assert_agrees();
    let counters = bench.counters();
    assert_eq!(counters.accepted, known.len() as u64);
    assert_eq!((counters.duplicates, counters.rejected_total()), (duplicates, rejected));
    assert_eq!(counters.last_sequence, steps.len() as u64);
    let draws = bench.draws();
    bench.learner().model = model;
    assert_eq!(draws, bench.draws());
}

/// Names the seed of a life that ended badly.
struct Seed(u64);
impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[expect(clippy::print_stderr, reason = "the seed repeats the failure")]
            {
                eprintln!("the seed is {}", self.0);
            }
        }
    }
}

#[test]
fn random_lives_agree_with_a_naive_reference() {
    for seed in 0..200 {
        let _named = Seed(seed);
        simulate(seed);
    }
}

#[test]
fn of_one_body_so_many_refused_records_are_kept_and_the_others_counted() {
    let mut bench = Bench::new(manual());
    let now = bench.now;
    let room = Room::of_body();
    let mut replies = Vec::new();
    for _ in 0..2 {
        let (reply, reply_rx) = bounded(1);
        let records = (0..300).map(|_| refused("x")).collect();
        let left_out = LeftOut::from([((HTTP, "not_json"), 7)]);
        let request = AppendRequest { left_out, ..request(records, room.clone(), reply) };
        bench.learner().on_event(Event::Append(request), now).unwrap();
        replies.push(reply_rx);
    }
    bench.settle();
    let replies: Vec<_> = replies.iter().map(|reply| reply.try_recv().unwrap().unwrap()).collect();
    let of = |reply: &AppendReply| (reply.rejected_total, reply.unkept, reply.rejected.len());
    assert_eq!([of(&replies[0]), of(&replies[1])], [(307, 7, 300), (307, 107, 300)]);
    bench.reopen();
    let counters = bench.counters();
    assert_eq!((counters.rejected["not_json"], counters.dead_letters_unkept), (614, 114));
    assert_eq!(counters.sources[HTTP].rejected["not_json"], 614);
    assert_eq!(bench.reader().dead_letter_ids().unwrap().len(), LETTERS_KEPT_MAX);
    // What has a way to be asked for again is another matter.
    let (reply, _reply_rx) = bounded(1);
    let records = (0..600).map(|_| refused("x")).collect();
    let event = Event::Append(request(records, Room::unlimited(), reply));
    bench.learner().on_event(event, now).unwrap();
    bench.settle();
    assert_eq!(bench.reader().dead_letter_ids().unwrap().len(), LETTERS_KEPT_MAX + 600);
}

#[test]
fn a_sieve_lets_pass_what_is_understood_and_names_what_it_left_out() {
    let records = (0..3_000_u64).map(|number| match number % 3 {
        0 => record(outcome(number)),
        _ => refused("x"),
    });
    let mut sieve = Sieve::new(records);
    let (places, passed): (Vec<_>, Vec<_>) = sieve.by_ref().unzip();
    let understood = passed.iter().filter(|record| record.content.is_ok()).count();
    assert_eq!((understood, passed.len()), (1_000, 1_000 + LETTERS_KEPT_MAX));
    assert_eq!(places.last(), Some(&2_997), "in their places");
    assert_eq!(sieve.take_left_out(), LeftOut::from([((HTTP, "not_json"), 1_500)]));
    assert_eq!(sieve.take_left_out(), LeftOut::new());
    let mut total = AppendReply::default();
    total.rejected.push((2_999, Refusal::new(RefusalCode::NotJson, "")));
    sieve.name_left_out(&mut total);
    // 500 pairs of refused ones passed: the first left out is the 751st place.
    assert_eq!((total.rejected[0].0, total.rejected.len()), (751, 1_501));
    assert!(total.rejected.is_sorted_by_key(|(place, _)| *place));
}

#[test]
fn a_save_whose_file_is_there_already_fails_and_leaves_it() {
    let mut bench = Bench::new(manual());
    bench.send(1..=10);
    let theirs = bench.directory.path().join("version-000001.json");
    std::fs::write(&theirs, b"of another instance").unwrap();
    let failed = bench.save();
    assert!(matches!(&failed, Err(Error::Unavailable(text)) if text.contains("version-000001")));
    assert_eq!(std::fs::read(&theirs).unwrap(), b"of another instance");
    assert_eq!(bench.counters().failed_saves, 1);
    // The next one has the next number; nothing of the first is left but what was there.
    assert_eq!(bench.save().unwrap().version_id, "agent_selection-2");
    bench.reopen();
    assert_eq!(std::fs::read(&theirs).unwrap(), b"of another instance");
}

//! Verdicts that come later: in either order with their execution, once, without revising anything.

use super::*;
use crate::model::Measure;
use crate::outcome::feedback::{Target, Verdict};
use crate::store::VERDICTS_WAITING_MAX;

pub(super) const WAIT: Duration = Duration::from_hours(1);

/// The identity of outcome `number` where it has one of its own.
fn name(number: u64) -> String {
    format!("e{number}")
}

/// An outcome of two agents on two task types, which says nothing but how it ended.
pub(super) fn bare(number: u64) -> Outcome {
    let status = if number.is_multiple_of(3) { Status::Failure } else { Status::Success };
    let context = vec![("k".to_owned(), Feature::Text(format!("v{}", number % 4)))];
    Outcome {
        identity: crate::outcome::identity_key("default", &name(number)),
        time_ms: 1_800_000_000_000,
        context,
        ..Outcome::new(format!("agent{}", number % 2), status)
            .on_task(format!("task{}", number % 2))
    }
}

pub(super) fn unjudged(number: u64) -> Outcome {
    Outcome { awaits_verdict: true, status: Status::Success, ..bare(number) }
}

fn verdict(number: u64) -> Verdict {
    let target = Target::Event(name(number));
    Verdict { tenant: "default".to_owned(), target, status: None, quality: None, cost: None }
}

/// What verdict `number` adds: a quality and a cost.
pub(super) fn values(number: u64) -> Verdict {
    let share = f64::from(u32::try_from(number % 8).unwrap()) / 8.0;
    Verdict { quality: Some(share), cost: Some(2.0 * share), ..verdict(number) }
}

pub(super) fn judged(number: u64) -> Verdict {
    let status = if number.is_multiple_of(4) { Status::Failure } else { Status::Success };
    Verdict { status: Some(status), ..verdict(number) }
}

impl Bench {
    pub(super) fn judge(&mut self, verdicts: Vec<Verdict>) -> Result<Vec<Judged>> {
        let (reply, replied) = bounded(1);
        let now = self.now;
        let request = FeedbackRequest { verdicts, reply };
        self.learner().on_event(Event::Feedback(request), now).unwrap();
        let answer = replied.try_recv().unwrap();
        self.learner().on_deadline(now).unwrap();
        answer
    }

    fn wait_for(&mut self, time: Duration) {
        self.pass(time);
        let now = self.now;
        self.learner().on_deadline(now).unwrap();
    }
}

/// What is expected of every agent on every task type and context, and of its quality and cost, to the bit.
fn answers(model: &AgentPerformanceModel) -> Vec<u64> {
    let mut all = Vec::new();
    for number in 0..4 {
        let Outcome { task_type, context, .. } = bare(number);
        let question = Question {
            tenant: "default",
            task_type: task_type.as_deref(),
            context: &context,
            candidates: None,
            exclude: &[],
        };
        for standing in model.standings(&question) {
            all.push(standing.expected_success().to_bits());
            all.push(standing.samples);
        }
        for measure in [Measure::Quality, Measure::Cost] {
            for predicted in model.predictions(&question, measure, &[]) {
                all.push(predicted.value.map_or(0, |value| value.mean().to_bits()));
            }
        }
    }
    all
}

#[test]
fn what_is_added_later_is_learned_once_in_either_order() {
    for verdict_first in [false, true] {
        for crashes in [false, true] {
            let mut bench = Bench::new(manual());
            let place = (verdict_first, crashes);
            for number in 1..=40 {
                let outcome = vec![record(bare(number))];
                if verdict_first {
                    assert_eq!(bench.judge(vec![values(number)]).unwrap(), [Judged::Waits]);
                    assert_eq!(bench.judge(vec![values(number)]).unwrap(), [Judged::Known]);
                }
                if crashes {
                    bench.reopen();
                }
                bench.append(outcome).unwrap();
                if crashes {
                    bench.reopen();
                }
                if !verdict_first {
                    assert_eq!(bench.judge(vec![values(number)]).unwrap(), [Judged::Added]);
                }
                let now = bench.now;
                bench.learner().on_deadline(now).unwrap();
                // Again, whichever came first.
                assert_eq!(
                    bench.judge(vec![values(number)]).unwrap(),
                    [Judged::Known],
                    "{place:?}"
                );
            }
            let complete = (1..=40).map(|number| {
                let Verdict { quality, cost, .. } = values(number);
                Outcome { quality, cost, ..bare(number) }
            });
            let complete = learned(Settings::default(), complete);
            assert_eq!(answers(bench.model()), answers(&complete), "{place:?}");
            assert_eq!(bench.model().total(), complete.total(), "{place:?}");
            let digest = bench.digest();
            bench.reopen();
            assert_eq!(bench.digest(), digest, "{place:?}");
            let spent = &bench.counters().spending["default"];
            let expected: f64 = (1..=40).filter_map(|number| values(number).cost).sum();
            let now_ms = bench.now.unix_ms;
            let period = crate::watch::budget::Period::Month;
            assert!((spent.in_period(period, now_ms) - expected).abs() < 1e-9, "{place:?}");
        }
    }
}

#[test]
fn what_is_known_is_never_revised() {
    let mut bench = Bench::new(manual());
    let known = Outcome { quality: Some(0.5), ..bare(1) };
    bench.append(vec![record(known), record(bare(2))]).unwrap();
    let digest = |bench: &Bench| (bench.digest(), bench.counters().last_sequence);
    bench.flushed();
    let before = digest(&bench);
    let quality = |number, quality| Verdict { quality: Some(quality), ..verdict(number) };
    let status = |number, status| Verdict { status: Some(status), ..verdict(number) };
    let all = bench
        .judge(vec![
            quality(1, 0.25),
            quality(1, 0.5),
            status(1, Status::Failure),
            status(1, Status::Success),
            // What it adds is not taken where something else is wrong.
            Verdict { cost: Some(1.0), ..quality(1, 0.25) },
        ])
        .unwrap();
    let is_conflict = |judged: &Judged| matches!(judged, Judged::Conflicts(_));
    let conflicts: Vec<bool> = all.iter().map(is_conflict).collect();
    assert_eq!(conflicts, [true, false, true, false, true], "{all:?}");
    assert_eq!(all[0], Judged::Conflicts("quality_score is 0.25, known is 0.5 already".to_owned()));
    assert_eq!(digest(&bench), before);

    // Of two in one request the first counts, and goes on to after a restart.
    let two = bench.judge(vec![quality(2, 0.75), quality(2, 0.25), quality(2, 0.75)]).unwrap();
    assert_eq!((&two[0], &two[2]), (&Judged::Added, &Judged::Known));
    assert!(is_conflict(&two[1]), "{two:?}");
    bench.reopen();
    assert!(is_conflict(&bench.judge(vec![quality(2, 0.25)]).unwrap()[0]));
    assert_eq!(bench.judge(vec![quality(2, 0.75)]).unwrap(), [Judged::Known]);
}

#[test]
fn a_success_that_is_found_out_later_is_learned_as_if_it_came_then() {
    for pending in [false, true] {
        for crashes in [false, true] {
            let mut bench = Bench::new(manual());
            let place = (pending, crashes);
            let sent = |number| {
                let pending = pending.then(|| Outcome { status: Status::Pending, ..bare(number) });
                pending.unwrap_or_else(|| unjudged(number))
            };
            for number in 1..=40 {
                bench.append(vec![record(sent(number))]).unwrap();
            }
            bench.flushed();
            assert_eq!(bench.model().total().learned, 0, "{place:?}");
            if crashes {
                bench.reopen();
            }
            // Judged from the last to the first, some with a quality that came before.
            for number in (1..=40_u64).rev() {
                if number.is_multiple_of(5) {
                    assert_eq!(bench.judge(vec![values(number)]).unwrap(), [Judged::Added]);
                }
                assert_eq!(
                    bench.judge(vec![judged(number)]).unwrap(),
                    [Judged::Added],
                    "{place:?}"
                );
                if crashes {
                    bench.reopen();
                }
            }
            let complete = (1..=40).rev().map(|number| {
                let added = values(number);
                let has_values = number.is_multiple_of(5);
                Outcome {
                    status: judged(number).status.unwrap(),
                    quality: added.quality.filter(|_| has_values),
                    cost: added.cost.filter(|_| has_values),
                    ..bare(number)
                }
            });
            let complete = learned(Settings::default(), complete);
            assert_eq!(answers(bench.model()), answers(&complete), "{place:?}");
            assert_eq!(bench.model().total(), complete.total(), "{place:?}");
            let agent = bench.model().tenant("default").unwrap().agent("agent0").unwrap();
            assert_eq!((agent.with_status(Status::Pending), agent.tally.executions), (0, 20));
            // Nothing is left to be learned when the wait is over.
            let digest = bench.digest();
            bench.wait_for(WAIT + Duration::from_secs(2));
            assert_eq!(bench.digest(), digest, "{place:?}");
        }
    }
}

#[test]
fn an_execution_that_waits_in_vain_is_learned_as_it_came_or_dropped() {
    for learn_unjudged in [true, false] {
        let mut bench = Bench::new(LearnerOptions { learn_unjudged, ..manual() });
        bench.append(vec![record(unjudged(1)), record(unjudged(2))]).unwrap();
        assert_eq!(bench.judge(vec![values(1)]).unwrap(), [Judged::Added]);
        bench.wait_for(WAIT / 2);
        bench.append(vec![record(unjudged(4))]).unwrap();
        bench.reopen();
        bench.wait_for(WAIT / 2 + Duration::from_secs(2));
        let learned = bench.model().total().learned;
        assert_eq!(learned, if learn_unjudged { 2 } else { 0 });
        // The last one still waits, and those that were learned are judged no more.
        assert_eq!(bench.judge(vec![judged(4)]).unwrap(), [Judged::Added]);
        let late = Verdict { status: Some(Status::Failure), ..verdict(1) };
        let late = bench.judge(vec![late]).unwrap();
        assert_eq!(matches!(late[0], Judged::Conflicts(_)), learn_unjudged, "{late:?}");
        if learn_unjudged {
            let tenant = bench.model().tenant("default").unwrap();
            let agent = tenant.agent("agent1").unwrap();
            assert_eq!(agent.qualities.iter().collect::<Vec<_>>(), [0.125]);
        }
    }
}

#[test]
fn a_verdict_finds_its_execution_by_the_decision() {
    let by = |agent: Option<&str>| Verdict {
        target: Target::Decision { id: "d".to_owned(), agent: agent.map(str::to_owned) },
        ..values(5)
    };
    for verdict_first in [false, true] {
        let mut bench = Bench::new(manual());
        bench.decide("d", "amy");
        let outcome = decisions::of_decision(1, "d", "amy", Status::Success);
        let outcome = match outcome.content {
            Ok(content) => record(Outcome { quality: None, cost: None, ..content }),
            Err(refusal) => panic!("{refusal}"),
        };
        if verdict_first {
            assert_eq!(bench.judge(vec![by(Some("amy"))]).unwrap(), [Judged::Waits]);
        }
        bench.append(vec![outcome]).unwrap();
        let now = bench.now;
        bench.learner().on_deadline(now).unwrap();
        if !verdict_first {
            assert_eq!(bench.judge(vec![by(Some("bob"))]).unwrap(), [Judged::Waits], "another's");
            assert_eq!(bench.judge(vec![by(None)]).unwrap(), [Judged::Added]);
        }
        let joined = bench.recorded("d").unwrap().outcome.unwrap();
        assert_eq!((joined.quality, joined.cost), (Some(0.625), Some(1.25)));
        assert_eq!(bench.judge(vec![by(Some("amy"))]).unwrap(), [Judged::Known]);
    }
}

/// Its decision is open until then, and is not given up.
#[test]
fn a_decision_whose_execution_waits_for_a_verdict_is_not_missing() {
    let mut bench = Bench::new(LearnerOptions { missing_after: Some(WAIT / 4), ..manual() });
    bench.decide("d", "agent1");
    let decision = Some(DecisionRef::Explicit("d".to_owned()));
    bench.append(vec![record(Outcome { decision, ..unjudged(1) })]).unwrap();
    bench.record();
    bench.wait_for(WAIT / 2);
    assert_eq!(bench.recorded("d").unwrap().outcome, None);
    assert_eq!(bench.counters().decisions_missing, 0);
    bench.judge(vec![judged(1)]).unwrap();
    assert_eq!(bench.recorded("d").unwrap().outcome.unwrap().status, "success");
    assert_eq!(bench.counters().decisions_with_outcome, 1);
}

#[test]
fn a_verdict_that_waits_in_vain_becomes_a_dead_letter() {
    let mut bench = Bench::new(manual());
    bench.judge(vec![values(1), values(2)]).unwrap();
    bench.wait_for(WAIT / 2);
    bench.append(vec![record(bare(2))]).unwrap();
    let now = bench.now;
    bench.learner().on_deadline(now).unwrap();
    bench.wait_for(WAIT / 2 + Duration::from_secs(2));
    let letters = bench.reader().dead_letters(None, 10).unwrap();
    let codes: Vec<&str> = letters.iter().map(|letter| &*letter.code).collect();
    assert_eq!(codes, ["unknown_target"]);
    assert!(String::from_utf8_lossy(&letters[0].payload).contains("e1"), "{letters:?}");
    bench.wait_for(WAIT);
    assert_eq!(bench.reader().dead_letters(None, 10).unwrap().len(), 1);
}

/// The codes of the dead letters, newest first.
fn letters(bench: &Bench) -> Vec<String> {
    let letters = bench.reader().dead_letters(None, 1_000).unwrap();
    letters.into_iter().map(|letter| letter.code).collect()
}

#[test]
fn a_waiting_verdict_that_conflicts_later_becomes_a_dead_letter() {
    for crashes in [false, true] {
        let mut bench = Bench::new(manual());
        let other = Verdict { quality: Some(0.875), ..verdict(1) };
        let waits = [Judged::Waits, Judged::Waits];
        assert_eq!(bench.judge(vec![values(1), other]).unwrap(), waits);
        if crashes {
            bench.reopen();
        }
        bench.append(vec![record(bare(1))]).unwrap();
        bench.settle();
        assert_eq!(letters(&bench), ["conflict"]);
        assert_eq!(bench.counters().rejected["conflict"], 1);
        let letter = bench.reader().dead_letters(None, 1).unwrap().remove(0);
        assert_eq!(letter.detail, "quality_score is 0.875, known is 0.125 already");
        // It can be posted again as it is.
        let payload: serde_json::Value = serde_json::from_slice(&letter.payload).unwrap();
        let expected =
            serde_json::json!({"event_id": "e1", "quality_score": 0.875, "tenant_id": "default"});
        assert_eq!(payload, expected);
        assert_eq!(bench.learner().store.awaited(), 0);
        bench.reopen();
        bench.wait_for(WAIT * 2);
        assert_eq!(letters(&bench).len(), 1);
    }
}

#[test]
fn a_tenant_whose_verdicts_wait_in_vain_takes_no_place_of_others() {
    let of = |tenant: &str, number: u64| Verdict { tenant: tenant.to_owned(), ..values(number) };
    let known = |bench: &mut Bench, tenant: &str, number| {
        let identity = crate::outcome::identity_key(tenant, &name(number));
        let outcome = Outcome { tenant: tenant.to_owned(), identity, ..bare(number) };
        bench.append(vec![record(outcome)]).unwrap();
    };
    let waiting_max = VERDICTS_WAITING_MAX as u64;
    let mut bench = Bench::new(manual());
    for (tenant, number) in [("noisy", 1), ("quiet", 2)] {
        known(&mut bench, tenant, number);
    }
    for first in (0..waiting_max).step_by(1_000) {
        bench.judge((first..first + 1_000).map(|n| of("noisy", 100 + n)).collect()).unwrap();
    }
    assert_eq!(letters(&bench), [""; 0]);
    // The oldest of whoever has most give way, and say so.
    let judged = bench.judge((0..10).map(|n| of("quiet", 10 + n)).collect()).unwrap();
    assert_eq!(judged, [const { Judged::Waits }; 10]);
    assert_eq!(letters(&bench), ["crowded_out"; 10]);
    assert_eq!(bench.counters().rejected["crowded_out"], 10);
    let letter = bench.reader().dead_letters(None, 1).unwrap().remove(0);
    assert!(String::from_utf8_lossy(&letter.payload).contains(r#""e109""#), "{letter:?}");
    assert_eq!(bench.learner().store.waiting(), waiting_max);
    // The newest always has a place.
    assert_eq!(bench.judge(vec![of("noisy", 100_000)]).unwrap(), [Judged::Waits]);
    bench.reopen();
    known(&mut bench, "quiet", 10);
    known(&mut bench, "noisy", 100_000);
    bench.settle();
    assert_eq!(bench.judge(vec![of("quiet", 10)]).unwrap(), [Judged::Known]);
    assert_eq!(bench.judge(vec![of("noisy", 100_000)]).unwrap(), [Judged::Known]);
    // Names that nobody has heard of have one share together.
    for number in 0..20 {
        bench.judge(vec![of(&format!("nobody-{number}"), 1)]).unwrap();
    }
    let share = |bench: &mut Bench, of: &str| bench.learner().store.waiting_of(of);
    assert_eq!((share(&mut bench, "quiet"), share(&mut bench, "nobody-7")), (9, 0));
    assert_eq!(bench.learner().store.waiting(), waiting_max);
}

/// Whichever step fails, and whether it is a failure that passes or the end.
#[test]
fn what_waits_in_vain_is_a_dead_letter_once_whatever_fails() {
    for crashes in [false, true] {
        let mut steps = 0;
        loop {
            let mut bench = Bench::new(manual());
            let other = Verdict { quality: Some(0.875), ..verdict(1) };
            bench.judge(vec![values(1), other, values(3)]).unwrap();
            planned_failure::after(steps);
            let appended = bench.append(vec![record(bare(1))]);
            bench.wait_for(WAIT + Duration::from_secs(2));
            let is_through = planned_failure::cancel();
            if crashes {
                bench.reopen();
            }
            bench.wait_for(Duration::from_secs(2));
            if appended.is_err() {
                // By then all of them waited in vain.
                assert_eq!(letters(&bench).len(), 3, "{crashes} {steps}");
            } else {
                assert_eq!(letters(&bench), ["unknown_target", "conflict"], "{crashes} {steps}");
                assert_eq!(bench.counters().rejected["conflict"], 1, "{crashes} {steps}");
            }
            assert_eq!(bench.learner().store.waiting(), 0, "{crashes} {steps}");
            if is_through {
                break;
            }
            steps += 1;
        }
        assert!(steps > 10, "{steps}");
    }
}

/// It was learned as a failure, and what comes for it after that is not learned.
#[test]
fn a_verdict_on_a_decision_that_was_given_up_is_refused_at_once() {
    let options = LearnerOptions { missing_after: Some(WAIT / 4), ..manual() };
    for verdict_first in [false, true] {
        let mut bench = Bench::new(options);
        bench.decide("d", "agent1");
        bench.record();
        bench.wait_for(WAIT / 4 + Duration::from_secs(1));
        assert_eq!(bench.counters().decisions_missing, 1);
        let decision = Some(DecisionRef::Explicit("d".to_owned()));
        let late = vec![record(Outcome { decision, ..bare(1) })];
        if verdict_first {
            assert_eq!(bench.judge(vec![judged(1)]).unwrap(), [Judged::Waits]);
        }
        bench.append(late).unwrap();
        bench.flushed();
        assert_eq!(bench.counters().decisions_late, 1);
        let digest = bench.digest();
        if verdict_first {
            bench.settle();
            assert_eq!(letters(&bench), ["conflict"]);
        }
        let target = Target::Decision { id: "d".to_owned(), agent: None };
        let by_decision = Verdict { target, ..judged(1) };
        for verdict in [judged(1), values(1), by_decision] {
            let judged = bench.judge(vec![verdict]).unwrap();
            assert!(
                matches!(&judged[0], Judged::Conflicts(why) if why.contains("given up")),
                "{judged:?}"
            );
        }
        assert_eq!(bench.digest(), digest);
        assert_eq!(bench.learner().store.waiting(), 0);
    }
}

/// Its outcome may have been the first of both.
#[test]
fn a_verdict_on_a_decision_is_judged_when_the_decision_is_recorded_after_its_outcome() {
    let mut bench = Bench::new(manual());
    let target = Target::Decision { id: "d".to_owned(), agent: None };
    let verdict = Verdict { target, ..values(5) };
    assert_eq!(bench.judge(vec![verdict.clone()]).unwrap(), [Judged::Waits]);
    let decision = Some(DecisionRef::Explicit("d".to_owned()));
    let outcome = Outcome { decision, agent: "amy".to_owned(), ..bare(1) };
    bench.append(vec![record(outcome)]).unwrap();
    bench.settle();
    assert_eq!(bench.learner().store.waiting(), 1);
    bench.decide("d", "amy");
    bench.record();
    bench.settle();
    assert_eq!(bench.learner().store.waiting(), 0);
    assert_eq!(bench.judge(vec![verdict]).unwrap(), [Judged::Known]);
}

/// A waiting verdict costs nothing until its execution comes.
#[test]
fn waiting_verdicts_leave_the_open_micro_batch_open() {
    let mut bench = Bench::new(LearnerOptions { batch_outcomes: 10, ..LearnerOptions::default() });
    bench.judge(vec![values(1)]).unwrap();
    bench.append(vec![record(bare(2)), record(bare(3))]).unwrap();
    bench.wait_for(Duration::from_secs(5));
    assert_eq!(bench.model().total().learned, 0);
    bench.append(vec![record(bare(1))]).unwrap();
    bench.settle();
    assert_eq!(bench.model().total().learned, 3, "what is judged was learned before");
}

#[test]
fn a_failure_at_any_step_adds_nothing_twice() {
    let mut steps = 0;
    loop {
        let mut bench = Bench::new(manual());
        bench.append(vec![record(bare(1)), record(unjudged(2))]).unwrap();
        bench.flushed();
        let verdicts = || vec![values(1), judged(2), values(3)];
        planned_failure::after(steps);
        let first = bench.judge(verdicts());
        let was_early = planned_failure::cancel();
        bench.pass(Duration::from_secs(2));
        if first.is_err() {
            bench.judge(verdicts()).unwrap();
        }
        bench.append(vec![record(bare(3))]).unwrap();
        bench.wait_for(Duration::from_secs(2));
        assert_eq!(bench.judge(verdicts()).unwrap(), [const { Judged::Known }; 3], "{steps}");
        let tenant = bench.model().tenant("default").unwrap();
        let qualities = |agent: &str| tenant.agent(agent).unwrap().qualities.iter().count();
        assert_eq!((qualities("agent0"), qualities("agent1")), (0, 2), "{steps}");
        assert_eq!(bench.model().total().executions, 3, "{steps}");
        let digest = bench.digest();
        bench.reopen();
        assert_eq!(bench.digest(), digest, "{steps}");
        if was_early {
            break;
        }
        steps += 1;
    }
    assert!(steps > 10, "{steps}");
}

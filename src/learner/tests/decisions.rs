//! Answered selections on their way into the database, and the outcomes that join them.

use super::*;
use crate::outcome::decisions::{Choice, First};
use crate::store::RecordedDecision;

pub(super) fn choice(agent: &str) -> Choice {
    Choice {
        created_ms: 1_800_000_000_000,
        candidates: format!("[[{agent:?},0.75,0.5],[\"other\",0.5,0.5]]").into(),
        first: Some(First { agent: agent.into(), score: 0.625, propensity: 0.5 }),
        explore: true,
        explored: true,
        model_version: 7,
        strategy: "thompson",
        details: Some(r#"{"parts":{"success":0.625}}"#.to_owned()),
        trace: None,
    }
}

pub(super) fn decision() -> Decision {
    Decision {
        task_type: Some("task1".to_owned()),
        context: vec![
            ("a.b".to_owned(), Feature::Text("é\"".to_owned())),
            ("n".to_owned(), Feature::Number(3.0)),
            ("yes".to_owned(), Feature::Bool(true)),
        ],
        request: [7; 16],
        answer: br#"{"decision_id":"d"}"#.to_vec(),
    }
}

impl Bench {
    /// Answers a selection in which `agent` is first.
    pub(super) fn decide(&mut self, id: &str, agent: &str) {
        self.decide_for("default", id, agent);
    }

    fn decide_for(&mut self, tenant: &str, id: &str, agent: &str) {
        let (shared, now) = (self.learner().shared(), self.now);
        let waits = shared.decisions.has_room(tenant).then(|| {
            let created_ms = now.unix_ms;
            Choice { created_ms, ..choice(agent) }
        });
        let (_, is_first) = shared.decisions.remember(tenant, id, decision(), waits);
        if is_first {
            self.learner().on_event(Event::Decisions, now).unwrap();
        }
    }

    pub(super) fn recorded(&self, id: &str) -> Option<RecordedDecision> {
        self.reader().decision("default", id).unwrap().map(|(decision, _)| decision)
    }

    /// The number of the outcome that was joined to a decision, if one was.
    fn joined(&self, id: &str) -> Option<u64> {
        let outcome = self.recorded(id)?.outcome?;
        assert_eq!(outcome.time_ms % 1_000, 0);
        Some(u64::try_from(outcome.time_ms / 1_000).unwrap())
    }

    /// Lets what waits be recorded.
    pub(super) fn record(&mut self) {
        self.pass(RECORD_AFTER);
        let now = self.now;
        self.learner().on_deadline(now).unwrap();
    }
}

/// Outcome `number` of a decision.
pub(super) fn of_decision(number: u64, id: &str, agent: &str, status: Status) -> Record {
    let time_ms = i64::try_from(number * 1_000).unwrap();
    let decision = Some(DecisionRef::Explicit(id.to_owned()));
    record(Outcome { agent: agent.to_owned(), status, time_ms, decision, ..outcome(number) })
}

#[test]
fn a_decision_is_recorded_whole_after_a_moment_with_others() {
    let mut bench = Bench::new(manual());
    bench.decide("d", "amy");
    bench.settle();
    assert_eq!(bench.recorded("d"), None);
    assert_eq!(bench.learner().deadline(), Some(bench.now.instant + RECORD_AFTER));
    bench.pass(RECORD_AFTER / 2);
    bench.decide("e", "bob");
    bench.pass(RECORD_AFTER / 2);
    let now = bench.now;
    bench.learner().on_deadline(now).unwrap();
    assert!(bench.recorded("e").is_some());
    assert_eq!(bench.learner().deadline(), None);

    let (row, answer) = bench.reader().decision("default", "d").unwrap().unwrap();
    assert_eq!(answer.as_bytes(), decision().answer);
    assert_eq!((row.task_type.clone(), row.context.clone()), {
        let Decision { task_type, context, .. } = decision();
        (task_type, context)
    });
    assert_eq!((row.number, row.model_version), (1, 7));
    assert_eq!((row.chosen.as_deref(), row.score), (Some("amy"), Some(0.625)));
    assert_eq!((row.propensity, row.explore, row.explored), (Some(0.5), true, true));
    assert_eq!((&*row.candidates[0].agent, row.candidates[0].expected_success), ("amy", 0.75));
    assert_eq!(row.details["parts"]["success"], 0.625);
    assert_eq!(row.outcome, None);
    let counters = bench.counters();
    assert_eq!((counters.last_decision, counters.decisions_explored), (2, 2));
}

#[test]
fn after_a_flood_of_decisions_recording_rests() {
    let mut bench = Bench::new(manual());
    for number in 0..RECORDED_AT_ONCE {
        bench.decide(&format!("d{number}"), "amy");
    }
    bench.record();
    assert_eq!(bench.counters().last_decision, RECORDED_AT_ONCE as u64);

    // Its outcome is joined although it is recorded later.
    bench.decide("late", "amy");
    bench.append(vec![of_decision(1, "late", "amy", Status::Success)]).unwrap();
    assert_eq!(bench.recorded("late"), None);
    bench.pass(Duration::from_mins(1));
    let now = bench.now;
    bench.learner().on_deadline(now).unwrap();
    assert_eq!(bench.joined("late"), Some(1));

    // Whoever waits for everything does not wait for the rest.
    for number in 0..RECORDED_AT_ONCE {
        bench.decide(&format!("e{number}"), "amy");
    }
    bench.record();
    bench.decide("f", "amy");
    let now = bench.now;
    bench.learner().finish(now).unwrap();
    assert!(bench.recorded("f").is_some());
}

#[test]
fn decisions_of_earlier_runs_are_remembered() {
    let mut bench = Bench::new(manual());
    bench.decide("d", "amy");
    bench.record();
    bench.decide("lost", "amy");
    bench.reopen();
    let shared = bench.learner().shared();
    assert_eq!(*shared.decisions.get("default", "d").unwrap(), decision());
    assert!(shared.decisions.get("default", "lost").is_none(), "it was answered a moment before");
    let correlation = Some(DecisionRef::Correlation("d".to_owned()));
    bench.append(vec![record(Outcome { decision: correlation, ..outcome(1) })]).unwrap();
    assert_eq!(bench.learner().pending[0].context, decision().context);
}

/// The first outcome with a reward that names the agent ranked first is the decision's, whichever
/// comes first and whatever crashes in between.
#[test]
fn outcomes_are_joined_in_either_order() {
    use Status::{Cancelled, Failure, Pending, Success};
    #[track_caller]
    fn check(outcomes: &[(&str, Status)], expected: Option<u64>) {
        let records = || {
            (1..)
                .zip(outcomes)
                .map(|(number, (agent, status))| of_decision(number, "d", agent, *status))
        };
        for decided_after in 0..=outcomes.len() {
            for crashes in [false, true] {
                let mut bench = Bench::new(manual());
                for (index, record) in records().enumerate() {
                    if index == decided_after {
                        bench.decide("d", "amy");
                        if crashes {
                            bench.record();
                            bench.reopen();
                        }
                    }
                    bench.append(vec![record]).unwrap();
                    if crashes {
                        bench.reopen();
                    }
                }
                if decided_after == outcomes.len() {
                    bench.decide("d", "amy");
                }
                bench.record();
                bench.flushed();
                let place = (decided_after, crashes);
                assert_eq!(bench.joined("d"), expected, "{place:?}");
                let with_outcome = bench.counters().decisions_with_outcome;
                assert_eq!(with_outcome, u64::from(expected.is_some()), "{place:?}");
                bench.reopen();
                assert_eq!(bench.counters().decisions_with_outcome, with_outcome, "{place:?}");
                assert_eq!(bench.model().total().executions, outcomes.len() as u64, "{place:?}");
            }
        }
    }
    check(&[("amy", Success)], Some(1));
    check(&[("amy", Failure), ("amy", Success)], Some(1));
    check(&[("bob", Success), ("amy", Success)], Some(2));
    check(&[("bob", Success)], None);
    check(&[("amy", Pending), ("amy", Cancelled), ("amy", Failure)], Some(3));
    check(&[("amy", Cancelled)], None);
}

#[test]
fn what_is_joined_is_what_the_outcome_says() {
    let mut bench = Bench::new(manual());
    bench.decide("d", "amy");
    let sent = Outcome {
        agent: "amy".to_owned(),
        status: Status::Partial,
        latency_ms: Some(12.5),
        quality: Some(0.25),
        cost: Some(0.125),
        time_ms: 5_000,
        decision: Some(DecisionRef::Explicit("d".to_owned())),
        ..outcome(1)
    };
    // From the topic, too: there the decision's context is not looked for, the join is the same.
    bench.append(vec![record(outcome(2)), Record { source: TOPIC, ..record(sent) }]).unwrap();
    let joined = bench.recorded("d").unwrap().outcome.unwrap();
    assert_eq!((joined.sequence, &*joined.status, joined.reward), (2, "partial", 0.25));
    assert_eq!((joined.latency_ms, joined.quality), (Some(12.5), Some(0.25)));
    assert_eq!((joined.cost, joined.time_ms), (Some(0.125), 5_000));
}

#[test]
fn only_decisions_that_had_a_choice_and_no_outcome_are_orphans() {
    let mut bench = Bench::new(manual());
    for id in ["joined", "orphan", "another's"] {
        bench.decide(id, "amy");
    }
    let nobody = Choice { first: None, explored: false, ..choice("amy") };
    bench.learner().shared().decisions.remember("default", "nobody", decision(), Some(nobody));
    bench.append(vec![of_decision(1, "joined", "amy", Status::Success)]).unwrap();
    bench.append(vec![of_decision(2, "another's", "bob", Status::Success)]).unwrap();
    bench.record();
    let orphans = |before| bench.reader().decisions_without_outcome(before).unwrap();
    assert_eq!(orphans(choice("amy").created_ms), 0);
    assert_eq!(orphans(choice("amy").created_ms + 1), 2);
}

#[test]
fn decisions_are_bounded_by_count_and_by_bytes() {
    #[track_caller]
    fn check(decisions_max: u64, decisions_bytes_max: u64, kept: &[u64]) {
        let mut bench = Bench::new(manual());
        let store = StoreOptions { decisions_max, decisions_bytes_max, ..bench.store_options };
        bench.store_options = store;
        bench.reopen();
        for number in 1..=9 {
            bench.decide(&number.to_string(), "amy");
            if number % 3 == 0 {
                bench.record();
            }
        }
        let list = bench.reader().decisions("default", None, 100).unwrap();
        let mut numbers: Vec<u64> = list.iter().map(|row| row.number).collect();
        numbers.reverse();
        assert_eq!(numbers, kept);
    }
    let mut bench = Bench::new(manual());
    bench.decide("d", "amy");
    bench.record();
    let bytes = bench.counters().decision_bytes;
    check(100, 1 << 30, &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    check(2, 1 << 30, &[8, 9]);
    check(100, 4 * bytes, &[6, 7, 8, 9]);
    check(100, 4 * bytes - 1, &[7, 8, 9]);
    check(100, bytes - 1, &[]);
    check(0, 1 << 30, &[]);
}

/// More decisions of a tenant than are remembered.
fn flood(bench: &mut Bench, tenant: &str) {
    for number in 0..=crate::outcome::decisions::REMEMBERED_MAX {
        bench.decide_for(tenant, &format!("f{number}"), "amy");
    }
    bench.record();
    // Recording rests after so many.
    bench.pass(Duration::from_mins(1));
}

#[test]
fn a_recorded_decision_stands_when_its_id_is_given_again_after_it_was_forgotten() {
    let mut bench = Bench::new(manual());
    bench.decide("d", "amy");
    bench.append(vec![of_decision(1, "d", "amy", Status::Success)]).unwrap();
    bench.record();
    flood(&mut bench, "default");
    let shared = bench.learner().shared();
    assert!(shared.decisions.get("default", "d").is_none() && shared.decisions.has_forgotten());
    assert_eq!(bench.reader().answered("default", "d").unwrap(), Some(decision()));
    bench.decide("d", "bob");
    bench.record();
    assert_eq!(bench.recorded("d").unwrap().chosen.as_deref(), Some("amy"));
    assert_eq!(bench.joined("d"), Some(1));
    assert_eq!(bench.counters().decisions_with_outcome, 1);
}

/// What memory has forgotten is in the database, also for what waits to be written there, and for an
/// outcome that was reported after a restart.
#[test]
fn an_outcome_is_learned_with_its_decision_however_many_came_since() {
    let mut bench = Bench::new(manual());
    bench.decide("d", "amy");
    flood(&mut bench, "default");
    let asked = decision();
    let check = |bench: &mut Bench, number: u64, id: &str, known: bool| {
        let named = [DecisionRef::Explicit(id.to_owned()), DecisionRef::Correlation(id.to_owned())];
        for (number, named) in (number..).zip(named) {
            let unresolved = bench.counters().decisions_unresolved;
            let is_explicit = matches!(named, DecisionRef::Explicit(_));
            let sent = Outcome { decision: Some(named), ..outcome(number) };
            bench.append(vec![record(sent.clone())]).unwrap();
            let learned = bench.learner().pending.back().unwrap();
            if known {
                let taken = (&learned.task_type, &learned.context);
                assert_eq!(taken, (&asked.task_type, &asked.context), "{id}");
            } else {
                assert_eq!(
                    (&learned.task_type, &learned.context),
                    (&sent.task_type, &sent.context)
                );
            }
            let counted = bench.counters().decisions_unresolved - unresolved;
            assert_eq!(counted, u64::from(!known && is_explicit), "{id}");
        }
    };
    check(&mut bench, 1, "d", true);
    check(&mut bench, 3, "nobody's", false);
    bench.reopen();
    check(&mut bench, 5, "d", true);
    // Forgotten before it was written.
    bench.decide("waits", "amy");
    let more = crate::outcome::decisions::REMEMBERED_MAX + 1;
    (0..more).for_each(|number| bench.decide(&format!("more{number}"), "amy"));
    assert!(bench.recorded("waits").is_none());
    check(&mut bench, 7, "waits", true);
}

/// Nobody's decisions are forgotten, or not recorded, for another tenant's.
#[test]
fn a_tenant_that_asks_much_takes_nothing_from_one_that_asks_little() {
    let mut bench = Bench::new(manual());
    bench.store_options.decisions_max = 20;
    bench.reopen();
    bench.decide_for("quiet", "d", "amy");
    for _ in 0..3 {
        flood(&mut bench, "loud");
    }
    let shared = bench.learner().shared();
    assert!(shared.decisions.get("quiet", "d").is_some(), "remembered");
    assert!(bench.reader().answered("quiet", "d").unwrap().is_some(), "and recorded");
    assert_eq!(bench.reader().decisions("loud", None, 100).unwrap().len(), 19);
    // With all places taken that one may take there are some for another.
    while shared.decisions.has_room("loud") {
        let number = shared.decisions.waiting();
        bench.decide_for("loud", &format!("w{number}"), "amy");
    }
    let taken = shared.decisions.waiting();
    assert_eq!(taken, (16_384 * 8_usize).div_ceil(9), "8 of 9 places");
    for number in 0..1_000 {
        assert!(shared.decisions.has_room("quiet"), "{number}");
        bench.decide_for("quiet", &format!("q{number}"), "amy");
    }
    assert!(!shared.decisions.has_room("loud"));
}

#[test]
fn as_many_early_outcomes_wait_as_decisions_are_kept() {
    let mut bench = Bench::new(manual());
    bench.store_options.decisions_max = 10;
    bench.reopen();
    for number in 1..=12 {
        let id = format!("d{number}");
        bench.append(vec![of_decision(number, &id, "amy", Status::Success)]).unwrap();
        // Others don't count.
        bench.send([100 + number]);
    }
    for number in [2, 3, 12] {
        bench.decide(&format!("d{number}"), "amy");
    }
    bench.record();
    assert_eq!([2, 3, 12].map(|n| bench.joined(&format!("d{n}"))), [None, Some(3), Some(12)]);
    // Those that were joined make room.
    for number in 13..=14 {
        let id = format!("d{number}");
        bench.append(vec![of_decision(number, &id, "amy", Status::Success)]).unwrap();
    }
    bench.decide("d4", "amy");
    bench.record();
    assert_eq!(bench.joined("d4"), Some(4));
}

/// The transaction that fails is tried again with everything in it, at whichever step it fails.
#[test]
fn after_a_failure_at_any_step_every_decision_has_its_outcome_once() {
    fn life(bench: &mut Bench) {
        let until_it_works = |bench: &mut Bench, sent: &dyn Fn() -> Vec<Record>| {
            for _ in 0..10 {
                if bench.append(sent()).is_ok() {
                    return;
                }
                bench.pass(SECOND);
            }
            panic!("it never works");
        };
        let success = |number, id| of_decision(number, id, "amy", Status::Success);
        until_it_works(bench, &|| vec![success(1, "early")]);
        bench.decide("early", "amy");
        bench.decide("late", "amy");
        bench.decide("both", "amy");
        bench.record();
        until_it_works(bench, &|| vec![success(2, "late"), success(3, "both")]);
        bench.decide("never", "amy");
        until_it_works(bench, &|| vec![success(4, "both"), record(outcome(5))]);
        for _ in 0..3 {
            bench.pass(SECOND);
            bench.record();
        }
        bench.reopen();
    }
    let ids = ["early", "late", "both", "never"];
    for steps in 0.. {
        let mut bench = Bench::new(manual());
        planned_failure::after(steps);
        life(&mut bench);
        let joined = ids.map(|id| bench.joined(id));
        assert_eq!(joined, [Some(1), Some(2), Some(3), None], "failing at step {steps}");
        assert!(bench.recorded("never").is_some(), "failing at step {steps}");
        let counters = bench.counters();
        let seen = (counters.last_decision, counters.decisions_with_outcome);
        assert_eq!(seen, (4, 3), "failing at step {steps}");
        if planned_failure::cancel() {
            assert!(steps > 25, "a life has more steps than {steps}");
            return;
        }
    }
}

#[test]
fn what_cannot_be_recorded_is_counted_and_the_count_goes_on() {
    let mut bench = Bench::new(LearnerOptions { decisions_waiting_max: 2, ..manual() });
    for id in ["1", "2", "3"] {
        bench.decide(id, "amy");
    }
    bench.record();
    bench.decide("4", "amy");
    bench.record();
    assert!(bench.recorded("3").is_none() && bench.recorded("4").is_some());
    assert_eq!((bench.counters().decisions_unrecorded, bench.counters().last_decision), (1, 3));
    bench.reopen();
    assert_eq!(bench.learner().shared().decisions.unrecorded(), 1);
}

#[test]
fn an_orderly_end_records_what_waits() {
    let mut bench = Bench::new(manual());
    bench.decide("d", "amy");
    let now = bench.now;
    bench.learner().finish(now).unwrap();
    assert!(bench.recorded("d").is_some());
    bench.decide("e", "amy");
    let now = bench.now;
    bench.learner.take().unwrap().close(now).unwrap();
    assert!(bench.recorded("e").is_some());
}

/// Every outcome is foretold by what was learned before it, however the stream is cut.
#[test]
fn foresight_depends_on_nothing_but_the_stream_and_goes_on_over_a_restart() {
    let mut expected = crate::watch::Foresight::default();
    let mut model = AgentPerformanceModel::new(Settings::default());
    for number in 1..=50 {
        let outcome = outcome(number);
        if let (Some(before), Some(reward)) = (model.foretell(&outcome), outcome.reward()) {
            expected.add(before, reward);
        }
    }
    assert_eq!(expected.predictions(), model.total().learned);
    for batch_outcomes in [1, 7, 100] {
        let mut bench = Bench::new(LearnerOptions { batch_outcomes, ..manual() });
        bench.send(1..=20);
        bench.reopen();
        bench.send(21..=50);
        bench.flushed();
        bench.reopen();
        assert_eq!(bench.counters().foresight, expected, "{batch_outcomes}");
    }
}

/// One random life of decisions and outcomes, with crashes and failures; in the end each decision has
/// the first accepted outcome with a reward that names the agent ranked first.
fn simulate_decisions(seed: u64) {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let agents = ["amy", "bob"];
    let mut bench =
        Bench::new(LearnerOptions { batch_outcomes: rng.random_range(1..6), ..manual() });
    // Who was ranked first, and whether that is known to be in the database.
    let mut id_to_agent: HashMap<String, (&str, bool)> = HashMap::new();
    let mut known = HashSet::new();
    let mut accepted: Vec<(u64, String, &str, Status)> = Vec::new();
    for _ in 0..80 {
        match rng.random_range(0..100) {
            0..35 => {
                let (id, agent) =
                    (rng.random_range(0..12).to_string(), agents[rng.random_range(0..2)]);
                let shared = bench.learner().shared();
                if shared.decisions.get("default", &id).is_none() {
                    assert!(!id_to_agent.get(&id).is_some_and(|(_, kept)| *kept), "{id} is gone");
                    bench.decide(&id, agent);
                    id_to_agent.insert(id, (agent, false));
                }
            }
            35..75 => {
                let statuses = [Status::Success, Status::Failure, Status::Cancelled];
                let sent: Vec<_> = (0..rng.random_range(1..4))
                    .map(|_| {
                        let id = rng.random_range(0..12).to_string();
                        (
                            rng.random_range(1..300),
                            id,
                            agents[rng.random_range(0..2)],
                            statuses[rng.random_range(0..3)],
                        )
                    })
                    .collect();
                let records = sent
                    .iter()
                    .map(|(number, id, agent, status)| of_decision(*number, id, agent, *status));
                if bench.append(records.collect()).is_ok() {
                    accepted.extend(sent.into_iter().filter(|(number, ..)| known.insert(*number)));
                }
            }
            75..85 => bench.record(),
            85..93 => planned_failure::after(rng.random_range(0..30)),
            _ => {
                bench.reopen();
                let shared = bench.learner().shared();
                id_to_agent.retain(|id, (_, kept)| {
                    let is_there = shared.decisions.get("default", id).is_some();
                    assert!(is_there || !*kept, "{id} was written and is gone");
                    is_there
                });
            }
        }
        if bench.learner().shared().decisions.waiting() == 0 {
            for (_, kept) in id_to_agent.values_mut() {
                *kept = true;
            }
        }
    }

    planned_failure::cancel();
    for _ in 0..3 {
        bench.record();
        bench.pass(SECOND);
    }
    bench.reopen();
    bench.flushed();
    bench.assert_agrees();
    let mut with_outcome = 0;
    for (id, (agent, _)) in &id_to_agent {
        let is_of = |(_, of, by, status): &&(u64, String, &str, Status)| {
            of == id && by == agent && *status != Status::Cancelled
        };
        let expected = accepted.iter().find(is_of).map(|(number, ..)| *number);
        assert_eq!(bench.recorded(id).and_then(|row| row.chosen).as_deref(), Some(*agent), "{id}");
        assert_eq!(bench.joined(id), expected, "{id}");
        with_outcome += u64::from(expected.is_some());
    }
    let counters = bench.counters();
    let counted = (counters.last_decision, counters.decisions_with_outcome);
    assert_eq!(counted, (id_to_agent.len() as u64, with_outcome));
}

#[test]
fn random_lives_of_decisions_agree_with_a_naive_reference() {
    for seed in 0..200 {
        let _named = Seed(seed);
        simulate_decisions(seed);
    }
}

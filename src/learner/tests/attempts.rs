//! Executions with several outcomes: attempts before the final one, and items.

use serde_json::{Value, json};

use super::decisions::decision;
use super::*;

const WAIT: Duration = Duration::from_mins(10);

/// An event with these fields, sent over HTTP.
fn sent(fields: &Value) -> Record {
    let mut event = json!({"agent_name": "amy", "status": "failure"});
    for (key, value) in fields.as_object().unwrap() {
        event[key] = value.clone();
    }
    let bytes = event.to_string().into_bytes();
    let size = bytes.len();
    Record::read(Payload::new(Arc::new(bytes), 0..size), HTTP, 7, || "fresh".to_owned())
}

impl Bench {
    /// Sends events, each in a transaction of its own; how many were new.
    #[track_caller]
    fn events(&mut self, events: &[Value]) -> u64 {
        let mut accepted = 0;
        for event in events {
            let reply = self.append(vec![sent(event)]).unwrap();
            assert_eq!(reply.rejected, []);
            accepted += reply.accepted;
        }
        self.flushed();
        accepted
    }

    fn wait_for_finals(&mut self) {
        self.pass(WAIT + Duration::from_secs(1));
        let now = self.now;
        self.learner().on_deadline(now).unwrap();
    }

    /// Learned outcomes of an agent and their mean reward, and executions of every status.
    fn of_agent(&self, agent: &str) -> (u64, f64, u64) {
        let Some(agent) = self.model().tenant("default").and_then(|tenant| tenant.agent(agent))
        else {
            return (0, 0.5, 0);
        };
        (agent.tally.learned, agent.tally.success_rate(), agent.tally.executions)
    }
}

#[test]
fn the_final_outcome_of_a_retried_execution_is_the_one_that_is_learned() {
    let mut bench = Bench::new(manual());
    bench.decide("d", "amy");
    bench.record();
    let first = json!({"decision_id": "d", "attempt": 1, "final": false});
    let second = json!({"decision_id": "d", "attempt": 2, "final": false});
    let third = json!({"decision_id": "d", "attempt": 3, "status": "success"});
    assert_eq!(bench.events(&[first.clone(), first.clone(), second.clone()]), 2);
    assert_eq!(bench.of_agent("amy"), (0, 0.5, 2), "nothing is learned yet");
    let row = bench.recorded("d").unwrap();
    assert_eq!((row.outcome, row.cancelled), (None, false));
    bench.reopen();
    assert_eq!(bench.events(std::slice::from_ref(&third)), 1);
    assert_eq!(bench.of_agent("amy"), (1, 1.0, 3));
    assert_eq!(bench.recorded("d").unwrap().outcome.unwrap().status, "success");
    // Sent again, and waited for, nothing changes any more.
    assert_eq!(bench.events(&[first, second, third]), 0);
    bench.wait_for_finals();
    bench.wait_for_finals();
    assert_eq!((bench.of_agent("amy"), bench.counters().controls), ((1, 1.0, 3), 0));
    assert_eq!(bench.learner().store.attempts(), 0, "what is settled is forgotten");
    bench.assert_agrees();
}

#[test]
fn without_a_final_outcome_the_newest_is_learned_by_a_journal_entry() {
    // A decision that has reported is not given up as well.
    let mut bench = Bench::new(LearnerOptions { missing_after: Some(WAIT), ..manual() });
    bench.decide("d", "amy");
    bench.record();
    bench.events(&[
        json!({"decision_id": "d", "attempt": 2, "final": false, "status": "partial",
               "quality_score": 0.25, "cost_estimate": 3}),
        // Comes later, and is older.
        json!({"decision_id": "d", "attempt": 1, "final": false, "cost_estimate": 1}),
    ]);
    bench.pass(WAIT / 2);
    let now = bench.now;
    bench.learner().on_deadline(now).unwrap();
    assert_eq!(bench.counters().controls, 0, "the final one may still come");
    bench.pass(WAIT / 2);
    bench.wait_for_finals();
    assert_eq!((bench.counters().controls, bench.counters().decisions_missing), (1, 0));
    assert_eq!(bench.counters().decisions_with_outcome, 1);
    assert_eq!(bench.of_agent("amy"), (1, 0.25, 3));
    let row = bench.recorded("d").unwrap();
    let outcome = row.outcome.unwrap();
    assert_eq!((&*outcome.status, outcome.reward, outcome.sequence), ("partial", 0.25, 3));
    assert_eq!((outcome.quality, outcome.cost), (Some(0.25), Some(3.0)));
    // It is learned with what was asked.
    let Decision { task_type, context, .. } = decision();
    let mut found = None;
    let last = bench.counters().last_sequence;
    bench
        .learner()
        .store
        .replay(2, last, |_, entry| {
            found = Some(entry);
            Ok(())
        })
        .unwrap();
    let Some(Entry::Control(Control::LastAttempt { outcome, .. })) = found else {
        panic!("{found:?}")
    };
    assert_eq!((outcome.task_type, outcome.context), (task_type, context));
    let digest = bench.digest();
    bench.wait_for_finals();
    bench.reopen();
    assert_eq!((bench.digest(), bench.counters().controls), (digest, 1));
    bench.assert_agrees();
    // What comes after that is an outcome of its own; the decision has its outcome.
    bench.events(&[json!({"decision_id": "d", "attempt": 3, "status": "success"})]);
    assert_eq!(bench.of_agent("amy").0, 2);
    assert_eq!(bench.recorded("d").unwrap().outcome.unwrap().status, "partial");
}

#[test]
fn an_attempt_that_comes_after_the_final_one_teaches_nothing() {
    let mut bench = Bench::new(manual());
    bench.decide("d", "amy");
    bench.record();
    // Of a decision, known by its outcome; of a run and of an item, by what the final one said.
    bench.events(&[
        json!({"decision_id": "d", "status": "success"}),
        json!({"decision_id": "d", "attempt": 1, "final": false}),
        json!({"run_id": "r", "attempt": 2, "status": "success"}),
        json!({"run_id": "r", "attempt": 1, "final": false}),
        json!({"run_id": "s", "final": true, "status": "success"}),
        json!({"run_id": "s", "final": "false"}),
        json!({"decision_id": "x", "item": 0, "attempt": 2, "status": "success"}),
        json!({"decision_id": "x", "item": 0, "attempt": 1, "final": false}),
    ]);
    bench.wait_for_finals();
    assert_eq!((bench.of_agent("amy"), bench.counters().controls), ((4, 1.0, 8), 0));
}

#[test]
fn only_the_final_outcome_of_the_same_execution_settles_it() {
    let mut bench = Bench::new(manual());
    bench.events(&[
        json!({"decision_id": "d", "final": false}),
        json!({"decision_id": "d", "agent_name": "bob", "status": "success"}),
        json!({"decision_id": "d", "item": 1, "status": "success"}),
        json!({"decision_id": "e", "status": "success"}),
        json!({"decision_id": "d", "tenant_id": "other", "status": "success"}),
        json!({"decision_id": "d", "status": "pending"}),
        // Nothing tells what it is an attempt at.
        json!({"final": false, "event_id": "alone", "agent_name": "solo"}),
        // It has a final one; run and decision are not the same.
        json!({"run_id": "d", "final": false, "agent_name": "cid"}),
        json!({"run_id": "d", "final": true, "agent_name": "cid", "status": "cancelled"}),
    ]);
    bench.wait_for_finals();
    assert_eq!(bench.counters().controls, 2);
    assert_eq!((bench.of_agent("amy").0, bench.of_agent("bob").0), (3, 1));
    assert_eq!((bench.of_agent("solo"), bench.of_agent("cid").0), ((1, 0.0, 2), 0));
}

#[test]
fn every_item_of_a_batch_is_an_outcome_of_its_own() {
    let mut bench = Bench::new(manual());
    bench.decide("d", "amy");
    bench.record();
    let items = |key: &str| -> Vec<Value> {
        let status = |item| if item % 2 == 0 { "success" } else { "failure" };
        (0..10).map(|item| json!({key: "d", "item": item, "status": status(item)})).collect()
    };
    for (key, learned) in [("decision_id", 10), ("run_id", 20)] {
        assert_eq!(bench.events(&items(key)), 10, "{key}");
        assert_eq!(bench.events(&items(key)), 0, "{key}");
        assert_eq!(bench.of_agent("amy"), (learned, 0.5, learned));
    }
    // Two numbers of one item are two outcomes; so are two attempts that are not said to be followed.
    let of = |attempt| json!({"decision_id": "d", "item": "x", "attempt": attempt});
    assert_eq!(bench.events(&[of(1), of(2), of(2)]), 2);
}

/// Whatever fails at whatever step, an execution is settled once.
#[test]
fn a_failure_while_an_execution_is_settled_is_tried_again() {
    let mut failures = 0;
    loop {
        let mut bench = Bench::new(manual());
        bench.decide("d", "amy");
        bench.record();
        bench.events(&[json!({"decision_id": "d", "final": false})]);
        planned_failure::after(failures);
        bench.wait_for_finals();
        bench.reopen();
        let unmet = planned_failure::cancel();
        bench.wait_for_finals();
        bench.wait_for_finals();
        assert_eq!((bench.of_agent("amy"), bench.counters().controls), ((1, 0.0, 2), 1));
        assert_eq!(bench.counters().decisions_with_outcome, 1);
        bench.assert_agrees();
        failures += 1;
        if unmet {
            break;
        }
    }
    assert!(failures > 5, "{failures}");
}

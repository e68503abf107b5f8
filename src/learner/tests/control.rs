//! Control entries: durable before they take effect, and the same to whoever reads the journal.

use super::*;
use crate::model::{Control, Strategy};

fn removal(agent: &str) -> Control {
    Control::RemoveAgent { tenant: "default".to_owned(), agent: agent.to_owned() }
}

fn missing(id: &str, agent: &str) -> Control {
    Control::DecisionMissing {
        tenant: "default".to_owned(),
        decision_id: id.to_owned(),
        agent: agent.to_owned(),
        task_type: Some("task1".to_owned()),
        // 0.1 + 0.2 has 17 digits, a half of a pair is no UTF-8: both must come back as they were.
        context: vec![
            ("a.b\"\u{1}".to_owned(), Feature::Text("é\u{1f600}\\".to_owned())),
            ("n".to_owned(), Feature::Number(0.1 + 0.2)),
            ("yes".to_owned(), Feature::Bool(true)),
        ],
    }
}

impl Bench {
    pub(super) fn control(&mut self, controls: &[Control]) -> Result<()> {
        let now = self.now;
        self.learner().control(controls, now)
    }

    pub(super) fn remove(&mut self, agent: &str) -> Result<()> {
        let (reply, reply_rx) = bounded(1);
        let now = self.now;
        let (tenant, agent) = ("default".to_owned(), agent.to_owned());
        self.learner().on_event(Event::RemoveAgent { tenant, agent, reply }, now).unwrap();
        reply_rx.try_recv().unwrap()
    }
}

/// What the journal's entries say, one after the other.
fn by_definition(steps: &[&[Step]]) -> String {
    let mut model = AgentPerformanceModel::new(Settings::default());
    for step in steps.iter().copied().flatten() {
        match step {
            Step::Learn(outcome) => model.update(outcome),
            Step::Control(control) => {
                model.apply(control);
            }
            Step::GoBackTo(_) => unreachable!("none here"),
        }
    }
    model.digest()
}

fn learn(numbers: impl IntoIterator<Item = u64>) -> Vec<Step> {
    numbers.into_iter().map(|number| Step::Learn(Box::new(outcome(number)))).collect()
}

#[test]
fn an_agent_is_removed_after_what_was_accepted_before_and_stays_so() {
    let mut bench = Bench::new(manual());
    bench.send(1..=23);
    let before = bench.counters();
    // Staged only, and of this agent.
    let reply = bench.stage(vec![record(outcome(25))]);
    bench.remove("agent1").unwrap();
    assert_eq!(reply.try_recv().unwrap().unwrap().accepted, 1);
    let numbers = (1..=23).chain([25]);
    let expected = by_definition(&[&learn(numbers), &[Step::Control(removal("agent1"))]]);
    assert_eq!(bench.digest(), expected);
    assert_eq!(bench.learner().shared().model().digest(), expected, "in effect with the answer");
    let after = bench.counters();
    assert_eq!((after.last_sequence, after.controls), (before.last_sequence + 2, 1));
    let event = &bench.reader().learning_events(None, 1).unwrap()[0];
    assert_eq!((&*event.event_type, event.batch_size), ("remove_agent", 1));
    assert_eq!(event.samples_processed, 0);
    bench.assert_agrees();

    let gone = bench.remove("agent1");
    assert!(matches!(&gone, Err(Error::NotFound(text)) if text.contains("agent1")), "{gone:?}");
    assert_eq!(bench.counters().last_sequence, after.last_sequence, "no entry without an agent");
    bench.reopen();
    assert_eq!(bench.digest(), expected);
    assert_eq!(bench.send([1, 7, 25]), 0, "its outcomes stay known");

    // The next outcome makes it a new one.
    bench.send([31]);
    bench.flushed();
    let agent = bench.model().tenant("default").unwrap().agent("agent1").unwrap();
    assert_eq!(agent.tally.executions, 1);
    bench.reopen();
    bench.assert_agrees();
}

#[test]
fn a_missing_outcome_is_learned_as_a_failure_of_the_decisions_question() {
    let mut bench = Bench::new(manual());
    bench.send(1..=12);
    let samples = bench.counters().samples_processed;
    bench.control(&[]).unwrap();
    bench.control(&[missing("d", "agent2"), missing("e", "new")]).unwrap();
    let failure = |agent: &str| {
        let Control::DecisionMissing { context, .. } = missing("d", agent) else { unreachable!() };
        Outcome { context, ..Outcome::new(agent, Status::Failure).on_task("task1") }
    };
    let expected = learned(
        Settings::default(),
        (1..=12).map(outcome).chain([failure("agent2"), failure("new")]),
    );
    assert_eq!(bench.digest(), expected.digest());
    let counters = bench.counters();
    assert_eq!(counters.samples_processed, expected.total().learned);
    assert!(counters.samples_processed > samples);
    assert_eq!((counters.last_sequence, counters.accepted, counters.controls), (14, 12, 2));
    let event = &bench.reader().learning_events(None, 1).unwrap()[0];
    assert_eq!((&*event.event_type, event.batch_size), ("decision_missing", 2));
    assert_eq!(event.samples_processed, 2);
    bench.reopen();
    assert_eq!(bench.digest(), expected.digest());
    bench.assert_agrees();
}

/// Whichever step of the transaction fails: nothing has happened, or all has.
#[test]
fn an_entry_that_cannot_be_written_takes_no_effect() {
    let mut steps = 0;
    loop {
        let mut bench = Bench::new(manual());
        bench.send(1..=15);
        bench.flushed();
        let (before, sequence) = (bench.digest(), bench.counters().last_sequence);
        planned_failure::after(steps);
        let removed = bench.remove("agent1");
        if planned_failure::cancel() {
            removed.unwrap();
            break;
        }
        assert!(matches!(removed, Err(Error::Unavailable(_))), "{removed:?}");
        assert_eq!((bench.digest(), bench.counters().last_sequence), (before.clone(), sequence));
        bench.reopen();
        assert_eq!(bench.digest(), before);
        bench.remove("agent1").unwrap();
        bench.assert_agrees();
        steps += 1;
    }
    assert!(steps >= 4, "begin, entry, event, counters, commit: {steps}");
}

#[test]
fn an_older_version_has_the_agent_again_and_later_ones_do_not() {
    let mut bench = Bench::new(manual());
    bench.send(1..=12);
    let with = bench.save().unwrap();
    bench.remove("agent1").unwrap();
    let without = bench.save().unwrap();
    bench.send(13..=20);
    bench.flushed();
    let now = bench.digest();
    bench.reopen();
    assert_eq!(bench.digest(), now, "from a version after the removal");
    bench.activate(&with.version_id).unwrap();
    assert_eq!(bench.digest(), digest_of(1..=12));
    bench.reopen();
    assert_eq!(bench.digest(), digest_of(1..=12));
    bench.activate(&without.version_id).unwrap();
    bench.reopen();
    let expected = by_definition(&[&learn(1..=12), &[Step::Control(removal("agent1"))]]);
    assert_eq!(bench.digest(), expected);
}

/// What the strategy needs is learned from the journal again: not from what was removed or undone.
#[test]
fn a_removed_agent_stays_away_when_effects_are_learned_again() {
    let settings = Settings { strategy: Strategy::Beta, ..Settings::default() };
    let mut bench = Bench::new(LearnerOptions { settings, ..manual() });
    bench.send(1..=24);
    bench.remove("agent1").unwrap();
    bench.control(&[missing("d", "agent2")]).unwrap();
    bench.send([31]);
    bench.save().unwrap();
    bench.options.settings.strategy = Strategy::Thompson;
    bench.reopen();
    let mut fresh = AgentPerformanceModel::new(bench.options.settings);
    (1..=24).for_each(|number| fresh.update(&outcome(number)));
    fresh.apply(&removal("agent1"));
    fresh.apply(&missing("d", "agent2"));
    fresh.update(&outcome(31));
    assert_eq!(bench.digest(), fresh.digest());
}

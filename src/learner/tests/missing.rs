//! Decisions whose outcome never came: learned as failures where that is asked for, once, and not undone by
//! what comes late.

use super::decisions::{decision, of_decision};
use super::*;
use crate::store::{MISSING, RecordedDecision};

const WAIT: Duration = Duration::from_mins(10);

fn giving_up() -> LearnerOptions {
    LearnerOptions { missing_after: Some(WAIT), ..manual() }
}

/// The entry that gives up a decision of the bench.
fn missing(id: &str, agent: &str) -> Control {
    let Decision { task_type, context, .. } = decision();
    Control::DecisionMissing {
        tenant: "default".to_owned(),
        decision_id: id.to_owned(),
        agent: agent.to_owned(),
        task_type,
        context,
    }
}

impl Bench {
    /// The wait is over, and a little more.
    fn wait(&mut self) {
        self.pass(WAIT + Duration::from_secs(1));
        let now = self.now;
        self.learner().on_deadline(now).unwrap();
    }

    fn row(&self, id: &str) -> RecordedDecision {
        self.recorded(id).unwrap()
    }

    fn status(&self, id: &str) -> Option<String> {
        self.row(id).outcome.map(|outcome| outcome.status)
    }
}

/// What the entries say, one after the other.
fn of_entries(entries: &[Step]) -> String {
    reference(Settings::default(), entries).digest()
}

#[test]
fn a_decision_without_an_outcome_is_learned_as_a_failure_once() {
    let mut bench = Bench::new(giving_up());
    for (id, agent) in [("d", "amy"), ("reported", "amy"), ("cancelled", "bob"), ("e", "mute")] {
        bench.decide(id, agent);
    }
    bench.record();
    let reported = of_decision(1, "reported", "amy", Status::Success);
    let cancelled = of_decision(2, "cancelled", "bob", Status::Cancelled);
    bench.append(vec![reported, cancelled]).unwrap();
    bench.flushed();
    bench.pass(WAIT / 2);
    bench.decide("young", "amy");
    bench.record();
    assert_eq!(bench.counters().controls, 0, "they may still come");
    bench.pass(WAIT / 2 + Duration::from_secs(1));
    let now = bench.now;
    bench.learner().on_deadline(now).unwrap();
    assert_eq!(bench.counters().decisions_missing, 2);
    assert_eq!(bench.status("d").as_deref(), Some(MISSING));
    assert_eq!(bench.status("e").as_deref(), Some(MISSING));
    assert_eq!(bench.status("reported").as_deref(), Some("success"));
    assert_eq!((bench.status("cancelled"), bench.row("cancelled").cancelled), (None, true));
    assert_eq!(bench.status("young"), None);
    let outcome = bench.row("d").outcome.unwrap();
    assert_eq!((outcome.sequence, outcome.reward), (3, 0.0));
    let agent = bench.model().tenant("default").unwrap().agent("mute").unwrap();
    assert_eq!((agent.tally.learned, agent.with_status(Status::Failure)), (1, 1));
    let digest = bench.digest();
    bench.assert_agrees();

    // Again, and after a restart, there is nothing more to give up but the young one.
    bench.reopen();
    assert_eq!(bench.digest(), digest);
    let now = bench.now;
    bench.learner().on_deadline(now).unwrap();
    assert_eq!(
        bench.counters().decisions_missing,
        2,
        "whoever could not reach us has as long again"
    );
    bench.wait();
    assert_eq!((bench.counters().decisions_missing, bench.counters().controls), (3, 3));
    bench.wait();
    assert_eq!(bench.counters().controls, 3);
    bench.reopen();
    bench.assert_agrees();
}

#[test]
fn what_comes_late_is_kept_and_not_learned() {
    let mut bench = Bench::new(giving_up());
    bench.decide("d", "amy");
    bench.record();
    bench.wait();
    let late = of_decision(7, "d", "amy", Status::Success);
    // Another agent's is no late one, and learned.
    let others = of_decision(8, "d", "bob", Status::Success);
    let again = of_decision(9, "d", "amy", Status::Partial);
    let reply = bench.append(vec![late, others, again]).unwrap();
    assert_eq!((reply.accepted, reply.duplicates), (3, 0));
    bench.flushed();
    assert_eq!(bench.counters().decisions_late, 2);
    let row = bench.row("d");
    assert_eq!(row.outcome.unwrap().status, MISSING);
    let kept = row.late.unwrap();
    assert_eq!((&*kept.status, kept.reward, kept.sequence), ("success", 1.0, 2));
    assert_eq!(kept.time_ms, 7_000, "the first of them");
    let amy = bench.model().tenant("default").unwrap().agent("amy").unwrap();
    assert_eq!((amy.tally.learned, amy.tally.reward), (1, 0.0));
    assert_eq!(amy.with_status(Status::Pending), 2);
    assert_eq!((amy.qualities.mean(), amy.latencies_ms.mean()), (None, None));
    assert_eq!(bench.model().tenant("default").unwrap().agent("bob").unwrap().tally.learned, 1);
    let digest = bench.digest();
    bench.reopen();
    assert_eq!(bench.digest(), digest, "the journal says so, too");
    let duplicate = of_decision(7, "d", "amy", Status::Success);
    assert_eq!(bench.append(vec![duplicate]).unwrap().duplicates, 1);
    bench.assert_agrees();
}

#[test]
fn an_outcome_that_waits_to_be_learned_is_not_given_up() {
    let mut bench = Bench::new(giving_up());
    bench.decide("d", "amy");
    bench.record();
    bench.pass(WAIT + Duration::from_secs(1));
    // It comes with the round in which the decision would be given up.
    let reply = bench.stage(vec![of_decision(1, "d", "amy", Status::Success)]);
    bench.settle();
    assert_eq!(reply.try_recv().unwrap().unwrap().accepted, 1);
    assert_eq!(bench.status("d").as_deref(), Some("success"));
    assert_eq!((bench.counters().controls, bench.counters().decisions_late), (0, 0));
}

#[test]
fn unless_it_is_asked_for_nothing_is_given_up() {
    let mut bench = Bench::new(manual());
    bench.decide("d", "amy");
    bench.record();
    assert_eq!(bench.learner().deadline(), None);
    bench.wait();
    assert_eq!((bench.status("d"), bench.counters().controls), (None, 0));
    bench.append(vec![of_decision(1, "d", "amy", Status::Success)]).unwrap();
    assert_eq!(bench.status("d").as_deref(), Some("success"), "however late");
}

#[test]
fn many_are_given_up_one_transaction_after_the_other() {
    let mut bench = Bench::new(giving_up());
    for number in 0..600 {
        bench.decide(&format!("d{number}"), "amy");
    }
    bench.record();
    bench.wait();
    let deadline = bench.learner().deadline();
    assert_eq!(deadline, Some(bench.now.instant), "there are more");
    for _ in 0..2 {
        bench.settle();
    }
    assert_eq!(bench.counters().decisions_missing, 600);
    let deadline = bench.learner().deadline().unwrap();
    assert!(deadline > bench.now.instant, "no more of them");
    bench.assert_agrees();
}

/// Whichever step fails: a decision is given up with its entry or not at all, and its failure is learned
/// once.
#[test]
fn a_failure_on_the_way_gives_up_nothing_twice() {
    let mut steps = 0;
    loop {
        let mut bench = Bench::new(giving_up());
        bench.decide("d", "amy");
        bench.decide("e", "bob");
        bench.record();
        planned_failure::after(steps);
        bench.wait();
        let is_through = planned_failure::cancel();
        let (given_up, counters) = (bench.status("d").is_some(), bench.counters());
        assert_eq!(counters.decisions_missing, if given_up { 2 } else { 0 });
        assert_eq!((given_up, bench.status("e").is_some()), (is_through, is_through));
        bench.pass(Duration::from_secs(2));
        let now = bench.now;
        bench.learner().on_deadline(now).unwrap();
        let expected = [missing("d", "amy"), missing("e", "bob")].map(Step::Control);
        assert_eq!(bench.digest(), of_entries(&expected));
        bench.reopen();
        assert_eq!(bench.digest(), of_entries(&expected));
        bench.assert_agrees();
        if is_through {
            break;
        }
        steps += 1;
    }
    assert!(steps >= 5, "{steps}");
}

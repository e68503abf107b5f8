//! Telemetry finds the decision of its trace, and is one outcome with what a client reports.

use super::*;
use crate::outcome::feedback::{Target, Verdict};
use crate::store::VERDICTS_WAITING_MAX;

const TRACE: [u8; 16] = [9; 16];

impl Bench {
    fn decide_in(&mut self, trace: [u8; 16], id: &str, agent: &str) {
        let (shared, now) = (self.learner().shared(), self.now);
        let created_ms = now.unix_ms;
        let choice = decisions::choice(agent);
        let choice = crate::outcome::decisions::Choice { created_ms, trace: Some(trace), ..choice };
        shared.decisions.remember("default", id, decisions::decision(), Some(choice));
        self.learner().on_event(Event::Decisions, now).unwrap();
    }

    /// The status of a decision's outcome, once everything is learned.
    fn status_of(&mut self, id: &str) -> Option<String> {
        self.record();
        self.flushed();
        self.recorded(id)?.outcome.map(|outcome| outcome.status)
    }

    fn executions(&mut self) -> u64 {
        self.flushed();
        self.model().total().executions
    }
}

/// What telemetry tells of an execution that ended a second from the bench's start.
fn span(number: u64, agent: &str, status: Status) -> Record {
    let outcome = Outcome {
        trace: Some(TRACE),
        time_ms: 1_800_000_001_000,
        agent: agent.to_owned(),
        status,
        ..outcome(number)
    };
    Record { source: OTLP, ..record(outcome) }
}

fn report(number: u64, id: &str, agent: &str, status: Status) -> Record {
    decisions::of_decision(number, id, agent, status)
}

#[test]
fn a_span_is_the_outcome_of_the_decision_of_its_trace() {
    for crashes in [false, true] {
        let mut bench = Bench::new(manual());
        bench.decide_in(TRACE, "d", "amy");
        bench.decide_in([8; 16], "of another trace", "amy");
        if crashes {
            bench.record();
            bench.reopen();
        }
        // Of another agent and of no trace: outcomes of their own.
        let stranger = span(2, "bob", Status::Failure);
        bench.append(vec![span(1, "amy", Status::Success), stranger]).unwrap();
        let learned = bench.learner().pending[0].clone();
        assert_eq!(learned.task_type, decisions::decision().task_type, "{crashes}");
        assert_eq!(learned.context, decisions::decision().context);
        assert_eq!(bench.learner().pending[1].task_type, outcome(2).task_type);
        assert_eq!(bench.status_of("d").as_deref(), Some("success"));
        assert_eq!(bench.status_of("of another trace"), None);
        let counters = bench.counters();
        assert_eq!((counters.accepted, counters.decisions_with_outcome), (2, 1));

        // Sent again it is a duplicate, also after a restart.
        bench.reopen();
        let reply = bench.append(vec![span(1, "amy", Status::Success)]).unwrap();
        assert_eq!((reply.accepted, reply.duplicates), (0, 1));
        assert_eq!(bench.executions(), 2);
    }
}

#[test]
fn a_span_and_a_report_are_one_outcome_in_either_order() {
    use Status::{Cancelled, Failure, Success};
    for reported_first in [true, false] {
        for together in [true, false] {
            for crashes in [false, true] {
                for status in [Success, Cancelled] {
                    let mut bench = Bench::new(manual());
                    bench.decide_in(TRACE, "d", "amy");
                    let mut records =
                        [report(1, "d", "amy", status), span(2, "amy", Failure)].into_iter();
                    let (first, second) = (records.next().unwrap(), records.next().unwrap());
                    let order = if reported_first { [first, second] } else { [second, first] };
                    let place = (reported_first, together, crashes, status);
                    let mut replies = Vec::new();
                    if together {
                        replies.push(bench.append(order.into()).unwrap());
                    } else {
                        for record in order {
                            replies.push(bench.append(vec![record]).unwrap());
                            if crashes {
                                bench.reopen();
                            }
                        }
                    }
                    let sum = |of: fn(&AppendReply) -> u64| replies.iter().map(of).sum::<u64>();
                    assert_eq!(sum(|reply| reply.accepted), 1, "{place:?}");
                    assert_eq!(sum(|reply| reply.duplicates), 1, "{place:?}");
                    assert_eq!(sum(|reply| reply.conflicting), 0, "{place:?}");
                    assert_eq!(bench.executions(), 1, "{place:?}");
                    let expected = match (reported_first, status) {
                        (false, _) => Some("failure"),
                        (true, Success) => Some("success"),
                        // A decision is cancelled without an outcome.
                        (true, _) => None,
                    };
                    assert_eq!(bench.status_of("d").as_deref(), expected, "{place:?}");

                    // Either comes again, and changes nothing.
                    bench.reopen();
                    let again = vec![span(2, "amy", Failure), report(1, "d", "amy", status)];
                    assert_eq!(bench.append(again).unwrap().duplicates, 2, "{place:?}");
                    assert_eq!(bench.executions(), 1, "{place:?}");
                    // A second execution of the trace is one, without a decision of its own.
                    let other = bench.append(vec![span(3, "amy", Success)]).unwrap();
                    assert_eq!((other.accepted, bench.executions()), (1, 2), "{place:?}");
                    assert_eq!(bench.status_of("d").as_deref(), expected, "{place:?}");
                }
            }
        }
    }
}

#[test]
fn a_span_that_names_its_decision_is_one_outcome_with_the_report() {
    let named = || {
        let mut record = span(1, "amy", Status::Failure);
        if let Ok(outcome) = &mut record.content {
            outcome.decision = Some(DecisionRef::Explicit("d".to_owned()));
        }
        record
    };
    let mut bench = Bench::new(manual());
    // The question was no part of the trace.
    bench.decide("d", "amy");
    assert_eq!(bench.append(vec![named()]).unwrap().accepted, 1);
    let late = bench.append(vec![report(2, "d", "amy", Status::Success)]).unwrap();
    assert_eq!((late.accepted, late.duplicates), (0, 1));
    assert_eq!(bench.status_of("d").as_deref(), Some("failure"));

    let mut bench = Bench::new(manual());
    bench.decide("d", "amy");
    assert_eq!(bench.append(vec![report(2, "d", "amy", Status::Success)]).unwrap().accepted, 1);
    assert_eq!(bench.append(vec![named()]).unwrap().duplicates, 1);
    assert_eq!(bench.status_of("d").as_deref(), Some("success"));
}

/// A batch has an outcome for each item; other agents' and other tenants' reports are their own.
#[test]
fn what_is_not_the_same_execution_is_not_taken_for_it() {
    let mut bench = Bench::new(manual());
    bench.decide_in(TRACE, "d", "amy");
    bench.append(vec![span(1, "amy", Status::Success)]).unwrap();
    let of_other = report(2, "d", "bob", Status::Success);
    let mut of_item = report(3, "d", "amy", Status::Success);
    let mut of_tenant = report(4, "d", "amy", Status::Success);
    if let (Ok(item), Ok(tenant)) = (&mut of_item.content, &mut of_tenant.content) {
        item.attempt = Some(crate::outcome::Attempt {
            execution: [1; 16],
            number: 1,
            is_told: false,
            is_final: true,
            of_item: true,
        });
        tenant.tenant = "another".to_owned();
    }
    let reply = bench.append(vec![of_other, of_item, of_tenant]).unwrap();
    assert_eq!((reply.accepted, reply.duplicates), (3, 0));
}

/// How long decisions wait for their outcome.
const WAIT: Duration = Duration::from_mins(10);

/// The decision "d" for the agent "amy" in [`TRACE`] has waited in vain.
fn given_up() -> Bench {
    let mut bench = Bench::new(LearnerOptions { missing_after: Some(WAIT), ..manual() });
    bench.decide_in(TRACE, "d", "amy");
    bench.record();
    bench.pass(WAIT + Duration::from_secs(1));
    let now = bench.now;
    bench.learner().on_deadline(now).unwrap();
    bench
}

#[test]
fn a_span_that_comes_after_its_decision_was_given_up_is_kept_as_late() {
    let mut bench = given_up();
    assert_eq!(bench.status_of("d").as_deref(), Some(crate::store::MISSING));
    bench.append(vec![span(1, "amy", Status::Success)]).unwrap();
    let late = bench.recorded("d").unwrap().late.unwrap();
    assert_eq!(late.status, "success");
    assert_eq!(bench.counters().decisions_late, 1);
}

#[test]
fn a_failure_at_any_step_leaves_the_decision_to_be_found_again() {
    let mut steps = 0;
    loop {
        let mut bench = Bench::new(manual());
        bench.decide_in(TRACE, "d", "amy");
        planned_failure::after(steps);
        let first = bench.append(vec![span(1, "amy", Status::Success)]);
        let was_early = planned_failure::cancel();
        if first.is_err() {
            bench.pass(Duration::from_secs(1));
            bench.append(vec![span(1, "amy", Status::Success)]).unwrap();
        }
        assert_eq!(bench.status_of("d").as_deref(), Some("success"), "{steps}");
        assert_eq!(bench.counters().decisions_with_outcome, 1, "{steps}");
        if was_early {
            break;
        }
        steps += 1;
    }
    assert!(steps > 5, "{steps}");
}

/// What goes to the topic carries the decision to which its trace led.
#[test]
fn outcomes_on_their_way_to_the_topic_are_placed_the_same() {
    let mut bench = Bench::new(manual());
    for (trace, id) in [(TRACE, "open"), ([8; 16], "reported")] {
        bench.decide_in(trace, id, "amy");
    }
    bench.append(vec![report(1, "reported", "amy", Status::Success)]).unwrap();
    let of = |record: Record| Reported::of(&record.content.unwrap());
    let other_trace = Reported { trace: Some([8; 16]), ..of(span(3, "amy", Status::Success)) };
    let outcomes = vec![
        of(span(2, "amy", Status::Success)),
        other_trace,
        of(span(4, "amy", Status::Success)),
        of(report(5, "open", "amy", Status::Success)),
    ];
    let (reply, reply_rx) = bounded(1);
    let now = bench.now;
    let request = AdmitRequest { outcomes, dry_run: false, reply };
    bench.learner().on_event(Event::Admit(request), now).unwrap();
    let Admitted { admissions, verdicts } = reply_rx.try_recv().unwrap().unwrap();
    let known = Admission::Known { conflicting: false };
    let led = Admission::New { decision: Some("open".to_owned()) };
    let own = Admission::New { decision: None };
    assert_eq!(admissions, [led, known.clone(), own, known]);
    // What the report adds to the span is to be produced, and the other span is known to be
    // of what was reported.
    let of_open = Target::Decision { id: "open".to_owned(), agent: Some("amy".to_owned()) };
    let added: Vec<_> = verdicts.iter().map(|one| (&one.target, one.quality, one.cost)).collect();
    let Outcome { quality, cost, .. } = outcome(5);
    let expected = [(quality, None), (None, cost)].map(|(quality, cost)| (&of_open, quality, cost));
    let says = |one: &&(&Target, Option<f64>, Option<f64>)| (one.1, one.2) != (None, None);
    assert_eq!(added, expected.iter().filter(says).copied().collect::<Vec<_>>());
    let reported = bench.learner().store.open_decision("default", "reported", "amy").unwrap();
    let other = span(3, "amy", Status::Success).content.unwrap();
    assert_eq!(reported.unwrap().span, Some(other.identity));

    // It comes back from the topic, as every replica learns it.
    let mut back = span(2, "amy", Status::Success);
    if let Ok(outcome) = &mut back.content {
        outcome.decision = Some(DecisionRef::Explicit("open".to_owned()));
    }
    bench.append(vec![Record { source: TOPIC, ..back }]).unwrap();
    assert_eq!(bench.status_of("open").as_deref(), Some("success"));
    let late = bench.append(vec![report(5, "open", "amy", Status::Failure)]).unwrap();
    assert_eq!(late.duplicates, 1);
}

/// Where telemetry was first, the client's report is a verdict: what it adds is not lost.
#[test]
fn what_a_report_adds_to_a_span_is_learned() {
    for together in [false, true] {
        let mut bench = Bench::new(manual());
        bench.decide_in(TRACE, "d", "amy");
        let bare = |mut record: Record| {
            if let Ok(outcome) = &mut record.content {
                (outcome.quality, outcome.cost) = (None, None);
            }
            record
        };
        let with_quality = |mut record: Record| {
            if let Ok(outcome) = &mut record.content {
                (outcome.quality, outcome.cost) = (Some(0.25), None);
            }
            record
        };
        let first = bare(span(1, "amy", Status::Success));
        let second = with_quality(report(2, "d", "amy", Status::Failure));
        if together {
            bench.append(vec![first, second]).unwrap();
        } else {
            bench.append(vec![first]).unwrap();
            assert_eq!(bench.append(vec![second]).unwrap().duplicates, 1);
        }
        let now = bench.now;
        bench.learner().on_deadline(now).unwrap();
        let joined = bench.recorded("d").unwrap().outcome.unwrap();
        assert_eq!((&*joined.status, joined.quality), ("success", Some(0.25)), "{together}");
        assert_eq!(bench.executions(), 1);
    }

    // While the execution waits for a verdict the report is one.
    let mut bench = Bench::new(manual());
    bench.decide_in(TRACE, "d", "amy");
    let mut waits = span(1, "amy", Status::Success);
    if let Ok(outcome) = &mut waits.content {
        outcome.awaits_verdict = true;
    }
    bench.append(vec![waits]).unwrap();
    bench.append(vec![report(2, "d", "amy", Status::Failure)]).unwrap();
    let now = bench.now;
    bench.learner().on_deadline(now).unwrap();
    assert_eq!(bench.status_of("d").as_deref(), Some("failure"));
    assert_eq!(bench.executions(), 1);
}

/// The span is no outcome of its own, and evaluations of it are of the decision's.
#[test]
fn a_verdict_on_a_span_that_was_reported_before_it_is_on_the_decision() {
    for verdict_first in [false, true] {
        let mut bench = Bench::new(manual());
        bench.decide_in(TRACE, "d", "amy");
        let mut reported = report(1, "d", "amy", Status::Success);
        if let Ok(outcome) = &mut reported.content {
            (outcome.quality, outcome.cost) = (None, None);
        }
        let mut span = span(2, "amy", Status::Success);
        if let Ok(outcome) = &mut span.content {
            outcome.identity = crate::outcome::identity_key("default", "otlp:trace:span");
        }
        bench.append(vec![reported]).unwrap();
        let verdict = Verdict {
            tenant: "default".to_owned(),
            target: Target::Event("otlp:trace:span".to_owned()),
            status: None,
            quality: Some(0.25),
            cost: None,
        };
        if verdict_first {
            assert_eq!(bench.judge(vec![verdict.clone()]).unwrap(), [Judged::Waits]);
        }
        assert_eq!(bench.append(vec![span]).unwrap().duplicates, 1);
        if verdict_first {
            let now = bench.now;
            bench.learner().on_deadline(now).unwrap();
        } else {
            assert_eq!(bench.judge(vec![verdict.clone()]).unwrap(), [Judged::Added]);
        }
        let joined = bench.recorded("d").unwrap().outcome.unwrap();
        assert_eq!(joined.quality, Some(0.25), "{verdict_first}");
        assert_eq!(bench.judge(vec![verdict]).unwrap(), [Judged::Known], "{verdict_first}");
        assert_eq!(bench.executions(), 1);
    }
}

/// Verdicts of which none finds its execution don't keep outcomes out.
#[test]
fn a_report_is_taken_also_while_no_more_verdicts_may_wait() {
    let mut bench = Bench::new(manual());
    bench.decide_in(TRACE, "d", "amy");
    let mut first = span(1, "amy", Status::Success);
    if let Ok(outcome) = &mut first.content {
        (outcome.quality, outcome.cost) = (None, None);
    }
    bench.append(vec![first]).unwrap();
    let lost = |number: usize| Verdict {
        tenant: "default".to_owned(),
        target: Target::Event(format!("lost-{number}")),
        status: Some(Status::Success),
        quality: None,
        cost: None,
    };
    bench.judge((0..VERDICTS_WAITING_MAX).map(lost).collect()).unwrap();
    assert_eq!(bench.learner().store.waiting(), VERDICTS_WAITING_MAX as u64);
    let reported = report(2, "d", "amy", Status::Success);
    let quality = reported.content.as_ref().unwrap().quality;
    let other = record(outcome(3));
    let reply = bench.append(vec![reported, other]).unwrap();
    assert_eq!((reply.accepted, reply.duplicates), (1, 1));
    let now = bench.now;
    bench.learner().on_deadline(now).unwrap();
    assert_eq!(bench.recorded("d").unwrap().outcome.unwrap().quality, quality);
    assert_eq!(bench.learner().store.waiting(), VERDICTS_WAITING_MAX as u64, "none gave way");
}

/// The decision was given up before its span came: there is nothing that could be added.
#[test]
fn a_report_on_a_decision_that_was_given_up_leaves_nothing_that_waits() {
    let mut bench = given_up();
    bench.append(vec![span(1, "amy", Status::Success)]).unwrap();
    let reply = bench.append(vec![report(2, "d", "amy", Status::Success)]).unwrap();
    assert_eq!((reply.accepted, reply.duplicates), (0, 1));
    assert_eq!(bench.learner().store.waiting(), 0);
    bench.flushed();
    bench.pass(WAIT * 100);
    let now = bench.now;
    bench.learner().on_deadline(now).unwrap();
    assert_eq!(bench.reader().dead_letters(None, 10).unwrap(), []);
    assert_eq!(bench.model().total().executions, 2, "its failure, and the late one");
}

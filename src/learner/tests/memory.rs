//! A learner that is short of memory.

use std::cell::Cell;

use super::*;
use crate::watch::process::MemoryLimit;

thread_local! {
    /// Per cent of the memory that is used.
    static USED: Cell<u64> = const { Cell::new(10) };
}

fn bench() -> Bench {
    let memory = MemoryLimit {
        resident_max: 100,
        virtual_max: u64::MAX,
        read: || Some((1_000, USED.get())),
    };
    Bench::new(LearnerOptions { memory: Some(memory), ..manual() })
}

fn of(agent: &str, tenant: &str, number: u64) -> Outcome {
    Outcome { agent: agent.to_owned(), tenant: tenant.to_owned(), ..outcome(number) }
}

#[test]
fn short_of_memory_it_learns_of_those_it_knows_and_of_nobody_new() {
    USED.set(59);
    let mut bench = bench();
    bench.send(1..=30);
    bench.flushed();
    assert!(!bench.model().is_room_closed());
    let agents = |bench: &Bench| bench.model().tenant("default").unwrap().agents().len();
    let executions = |bench: &Bench, agent: &str| {
        let tenant = bench.model().tenant("default").unwrap();
        tenant.agent(agent).map(|agent| agent.tally.executions)
    };
    let (known, before) = (agents(&bench), executions(&bench, "agent1").unwrap());
    let sequence = bench.counters().last_sequence;

    USED.set(60);
    let records = [("agent1", 1_001), ("made up", 1_002), ("agent1", 1_003)];
    let records = records.map(|(agent, number)| record(of(agent, "default", number)));
    assert_eq!(bench.append(records.into()).unwrap().accepted, 3);
    bench.flushed();
    assert!(bench.model().is_room_closed());
    assert_eq!(executions(&bench, "agent1"), Some(before + 2));
    assert_eq!((agents(&bench), executions(&bench, "made up")), (known, None));
    assert_eq!(bench.model().tenant("default").unwrap().other().agent.tally.executions, 1);
    assert_eq!(bench.counters().last_sequence, sequence + 4, "one entry said so, once");
    let event = |bench: &Bench| {
        let events = bench.reader().learning_events(None, 100).unwrap();
        events.iter().filter(|event| event.event_type.ends_with("_room")).count()
    };
    assert_eq!(event(&bench), 1);
    // Nor of a new tenant, whose outcomes are kept where what is refused is.
    let reply = bench.append(vec![record(of("a", "new tenant", 1_004))]).unwrap();
    assert_eq!(reply.rejected[0].1.code, RefusalCode::TenantLimit);
    // A restart knows.
    let digest = bench.digest();
    bench.reopen();
    assert_eq!(bench.digest(), digest);
    assert!(bench.model().is_room_closed());
    bench.assert_agrees();

    // It may take somewhat less again before there is room.
    USED.set(40);
    bench.append(vec![record(of("made up", "default", 1_005))]).unwrap();
    assert!(bench.model().is_room_closed());
    USED.set(39);
    bench.append(vec![record(of("made up", "default", 1_006))]).unwrap();
    bench.flushed();
    assert!(!bench.model().is_room_closed());
    assert_eq!(executions(&bench, "made up"), Some(1));
    assert_eq!(event(&bench), 2);
    bench.reopen();
    bench.assert_agrees();
}

#[test]
fn before_there_is_none_left_it_takes_nothing_in_and_says_why() {
    USED.set(10);
    let mut bench = bench();
    bench.send(1..=5);
    USED.set(95);
    let refused = bench.append(vec![record(outcome(6))]);
    let Err(Error::Unavailable(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("95 % of the memory") && why.contains("MEMORY_MAX_MIB"), "{why}");
    let trouble = |bench: &Bench| bench.learner.as_ref().unwrap().shared().trouble();
    assert_eq!(trouble(&bench).as_deref(), Some(&*why));
    for _ in 0..3 {
        bench.pass(SECOND);
        let now = bench.now;
        bench.learner().on_deadline(now).unwrap();
        assert!(trouble(&bench).is_some(), "it lasts as long as memory is short");
    }
    assert_eq!(bench.counters().accepted, 5);
    USED.set(94);
    bench.pass(SECOND);
    let now = bench.now;
    bench.learner().on_deadline(now).unwrap();
    assert_eq!(trouble(&bench), None);
    assert_eq!(bench.send([6]), 1);
}

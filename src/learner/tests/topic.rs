//! Verdicts among the outcomes of a topic: every reader of it comes to the same.

use super::feedback::{WAIT, bare, judged, unjudged, values};
use super::*;
use crate::outcome::feedback::{Target, Verdict};

/// What a record says, and when it came.
type Written = (Says, i64);

#[derive(Clone)]
enum Says {
    Outcome(Outcome),
    Verdict(Verdict),
}

fn by_topic() -> LearnerOptions {
    LearnerOptions { by_topic: true, ..manual() }
}

/// Executions, verdicts before and after them, by their identities and by their decisions, some again, some
/// that say otherwise, and some that never find an execution; the times pass by FEEDBACK_WAIT many times.
fn written(seed: u64, count: u64) -> Vec<Written> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut time_ms = 1_800_000_000_000;
    let mut outcomes: Vec<u64> = (1..=count / 2).collect();
    outcomes.reverse();
    let record = |_| {
        time_ms += rng.random_range(0..i64::try_from(WAIT.as_millis()).unwrap() / 8);
        let number = rng.random_range(1..=count / 2 + 3);
        let decision = number.is_multiple_of(3).then(|| format!("d{number}"));
        let says = if rng.random_bool(0.5)
            && let Some(number) = outcomes.pop()
        {
            let awaits = number.is_multiple_of(2);
            let outcome = if awaits { unjudged(number) } else { bare(number) };
            let decision =
                number.is_multiple_of(3).then(|| DecisionRef::Explicit(format!("d{number}")));
            Says::Outcome(Outcome { decision, ..outcome })
        } else {
            let verdict = match rng.random_range(0..3) {
                0 => judged(number),
                1 => values(number),
                _ => Verdict { quality: Some(0.1), ..values(number) },
            };
            let target = match (decision, rng.random_bool(0.5)) {
                (Some(id), true) => {
                    let agent = rng.random_bool(0.5).then(|| bare(number).agent);
                    Target::Decision { id, agent }
                }
                (_, true) => Target::Execution(bare(number).identity),
                (_, false) => verdict.target.clone(),
            };
            Says::Verdict(Verdict { target, ..verdict })
        };
        (says, time_ms)
    };
    (0..count).map(record).collect()
}

impl Bench {
    /// Reads up to `count` more records, from where the journal says.
    fn read(&mut self, log: &[Written], count: usize) -> Result<()> {
        let stored = self.reader().positions().unwrap();
        let from = stored.first().map_or(0, |position| position.next_offset);
        self.read_from(log, usize::try_from(from).unwrap(), count)
    }

    fn read_from(&mut self, log: &[Written], from: usize, count: usize) -> Result<()> {
        let part = log.iter().enumerate().skip(from).take(count);
        let records: Vec<FromTopic> = part
            .map(|(place, (says, time_ms))| {
                let offset = i64::try_from(place).unwrap();
                let said = match says {
                    Says::Verdict(verdict) => Said::Verdict(verdict.clone()),
                    Says::Outcome(outcome) => Said::Record(Record {
                        source: TOPIC,
                        position: Some(("t".into(), 0, offset)),
                        arrived_ms: Some(*time_ms),
                        ..record(outcome.clone())
                    }),
                };
                FromTopic { said, partition: 0, offset, time_ms: *time_ms }
            })
            .collect();
        let next_offset = i64::try_from(from + records.len()).unwrap();
        let positions = vec![Position { topic: "t".into(), next_offset, ..Position::default() }];
        let (reply, replied) = bounded(1);
        let now = self.now;
        let request = TopicRequest { topic: "t".into(), records, positions, reply };
        self.learner().on_event(Event::Topic(request), now).unwrap();
        self.learner().settle(now).unwrap();
        replied.try_recv().unwrap().map(drop)
    }

    fn read_all(&mut self, log: &[Written], mut count: impl FnMut() -> usize) {
        while self.reader().positions().unwrap().first().map_or(0, |at| at.next_offset)
            < i64::try_from(log.len()).unwrap()
        {
            self.read(log, count()).unwrap();
        }
        self.flushed();
    }

    /// What every reader must come to.
    fn result(&self) -> (String, Vec<(String, String)>, u64) {
        let letters = self.reader().dead_letters(None, 1_000).unwrap();
        let letters = letters
            .into_iter()
            .map(|letter| (letter.code, String::from_utf8_lossy(&letter.payload).into_owned()));
        let mut letters: Vec<_> = letters.collect();
        letters.sort();
        (self.digest(), letters, self.counters().last_sequence)
    }
}

#[test]
fn replicas_come_to_the_same_however_they_read_the_topic() {
    for seed in 0..8 {
        let log = written(seed, 120);
        let mut one_by_one = Bench::new(by_topic());
        one_by_one.read_all(&log, || 1);
        let expected = one_by_one.result();
        let codes: BTreeSet<&str> = expected.1.iter().map(|(code, _)| &**code).collect();
        assert_eq!(codes, BTreeSet::from(["conflict", "unknown_target"]), "seed {seed}");

        let mut at_once = Bench::new(by_topic());
        at_once.read_all(&log, || log.len());
        assert_eq!(at_once.result(), expected, "seed {seed}");
        let digest = at_once.digest();
        at_once.reopen();
        assert_eq!(at_once.digest(), digest, "seed {seed}");

        // With its own decisions, at another time, with crashes in between.
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut in_parts = Bench::new(by_topic());
        in_parts.decide("d3", "somebody else");
        in_parts.decide("d6", &bare(6).agent);
        let wait = |bench: &mut Bench, rng: &mut Xoshiro256PlusPlus| {
            bench.pass(WAIT * rng.random_range(0..3));
            let now = bench.now;
            bench.learner().on_deadline(now).unwrap();
            if rng.random_bool(0.2) {
                bench.reopen();
            }
        };
        for _ in 0..log.len() {
            wait(&mut in_parts, &mut rng);
            in_parts.read(&log, rng.random_range(0..9)).unwrap();
        }
        in_parts.read_all(&log, || 7);
        assert_eq!(in_parts.result(), expected, "seed {seed}");
    }
}

#[test]
fn a_failure_or_a_crash_at_any_step_changes_nothing() {
    let log = written(3, 40);
    let mut undisturbed = Bench::new(by_topic());
    undisturbed.read_all(&log, || 10);
    let expected = undisturbed.result();
    for crashes in [false, true] {
        for steps in (0..).step_by(7) {
            let mut bench = Bench::new(by_topic());
            planned_failure::after(steps);
            // The consumer goes on from what it was told, a new one from what is stored.
            let mut from = 0;
            while from < log.len() {
                match bench.read_from(&log, from, 10) {
                    Ok(()) => from += 10,
                    Err(Error::Unavailable(_)) if crashes => {
                        bench.reopen();
                        let stored = bench.reader().positions().unwrap();
                        let stored = stored.first().map_or(0, |position| position.next_offset);
                        from = usize::try_from(stored).unwrap();
                    }
                    Err(Error::Unavailable(_)) => bench.pass(RETRY_AFTER),
                    Err(error) => panic!("{error}"),
                }
            }
            let done = planned_failure::cancel();
            bench.pass(RETRY_AFTER);
            bench.flushed();
            assert_eq!(bench.result(), expected, "step {steps}, crashes {crashes}");
            assert_eq!(bench.counters().duplicates, 0, "step {steps}");
            if done {
                break;
            }
        }
    }
}

/// However late it is by the clock: it may be read long after it was written.
#[test]
fn a_wait_ends_by_the_times_of_the_records() {
    let wait_ms = i64::try_from(WAIT.as_millis()).unwrap();
    for passed_ms in [wait_ms, wait_ms + 1] {
        let log = [
            (Says::Verdict(values(1)), 5),
            (Says::Outcome(unjudged(2)), 5),
            (Says::Outcome(bare(3)), 5 + passed_ms),
            (Says::Outcome(bare(1)), 5),
            (Says::Verdict(judged(2)), 5),
        ];
        let mut bench = Bench::new(by_topic());
        bench.read(&log, 2).unwrap();
        bench.pass(10 * WAIT);
        let now = bench.now;
        bench.learner().on_deadline(now).unwrap();
        assert_eq!(bench.model().total().learned, 0);
        bench.read_all(&log, || 1);
        let letters: Vec<_> = bench.result().1.into_iter().map(|(code, _)| code).collect();
        // The second was a success, and says so.
        let too_late = if passed_ms > wait_ms { vec!["unknown_target"] } else { vec![] };
        assert_eq!(letters, too_late, "{passed_ms}");
        assert_eq!(bench.model().total().learned, 3);
    }
}

#[test]
fn a_verdict_that_is_to_be_produced_is_judged_without_effect_and_resolved() {
    let mut bench = Bench::new(by_topic());
    bench.decide("d", "amy");
    let decision = |id: &str| Some(DecisionRef::Explicit(id.to_owned()));
    let log = [(Says::Outcome(Outcome { decision: decision("e"), ..bare(1) }), 5)];
    bench.read_all(&log, || 1);
    let before = bench.counters().last_sequence;
    let of = |id: &str| Verdict {
        target: Target::Decision { id: id.to_owned(), agent: None },
        ..values(1)
    };
    for _ in 0..2 {
        let (reply, replied) = bounded(1);
        let verdicts = vec![values(1), of("e"), of("d"), of("nobody's")];
        let now = bench.now;
        let request = AdmitVerdictsRequest { verdicts, reply };
        bench.learner().on_event(Event::AdmitVerdicts(request), now).unwrap();
        let all = replied.try_recv().unwrap().unwrap();
        let judged: Vec<_> = all.iter().map(|one| one.judged.clone()).collect();
        assert_eq!(judged, [Judged::Added, Judged::Known, Judged::Waits, Judged::Waits]);
        let found: Vec<_> = all.iter().map(|one| one.execution).collect();
        assert_eq!(found, [Some(bare(1).identity), Some(bare(1).identity), None, None]);
        // Who has been chosen is known here only.
        let agent = Some("amy".to_owned());
        assert_eq!(all[2].verdict.target, Target::Decision { id: "d".to_owned(), agent });
        assert_eq!(all[3].verdict, of("nobody's"));
    }
    assert_eq!(bench.counters().last_sequence, before);
}

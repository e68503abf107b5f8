use super::*;

fn options() -> AlertOptions {
    AlertOptions {
        interval: Duration::from_secs(1),
        window: Duration::from_mins(1),
        no_events_after: Some(Duration::from_mins(1)),
        agent_success_min: Some(0.5),
        agent_latency_p95_max_ms: Some(2_000.0),
        agent_cost_max: Some(0.5),
        ..AlertOptions::default()
    }
}

fn agent(name: &str) -> AgentSeen<'_> {
    AgentSeen {
        tenant: "default",
        agent: name,
        success: Some(0.9),
        latency_p95_ms: Some(100.0),
        mean_cost: Some(0.1),
        drift: Drift::default(),
        streak: 3,
        reporting: None,
    }
}

/// What there is to see.
#[derive(Clone, Default)]
struct Scene {
    seen: Seen,
    agents: Vec<AgentSeen<'static>>,
}

impl std::ops::Deref for Scene {
    type Target = Seen;

    fn deref(&self) -> &Seen {
        &self.seen
    }
}

impl std::ops::DerefMut for Scene {
    fn deref_mut(&mut self) -> &mut Seen {
        &mut self.seen
    }
}

/// A service to look at, second by second.
struct Bench {
    evaluator: Evaluator,
    seen: Scene,
    all: Vec<Alert>,
}

impl Bench {
    fn new() -> Self {
        let seen = Seen { disk_used: Some(0.5), ..Seen::default() };
        Self::with(options(), &[], Scene { seen, agents: vec![agent("a")] })
    }

    fn with(options: AlertOptions, kept: &[Alert], seen: Scene) -> Self {
        let evaluator = Evaluator::new(options, Some(25.0), kept);
        let mut bench = Self { evaluator, seen, all: Vec::new() };
        bench.look();
        bench
    }

    /// Lets a second pass; the changes as `firing rule` or `resolved rule`.
    fn look(&mut self) -> Vec<String> {
        self.seen.now_ms += 1_000;
        let agents = self.seen.agents.iter().cloned();
        let changed = self.evaluator.evaluate(&self.seen.seen, agents);
        let said =
            changed.iter().map(|alert| format!("{} {}", alert.status(), alert.rule.as_str()));
        let said = said.collect();
        self.all.extend(changed);
        said
    }

    /// Several seconds in which nothing happens.
    fn pass(&mut self, seconds: usize) -> Vec<String> {
        (0..seconds).flat_map(|_| self.look()).collect()
    }
}

/// `fire` makes the rule fire once however long it lasts, `near` leaves it, `pass` lets it pass.
#[track_caller]
fn check(rule: Rule, fire: fn(&mut Scene), near: fn(&mut Scene), pass: fn(&mut Scene)) {
    let mut bench = Bench::new();
    assert_eq!(bench.pass(5), [] as [String; 0], "nothing is wrong yet");
    fire(&mut bench.seen);
    assert_eq!(bench.pass(20), [format!("firing {}", rule.as_str())], "told once");
    near(&mut bench.seen);
    assert_eq!(bench.pass(20), [] as [String; 0], "near is not away");
    pass(&mut bench.seen);
    assert_eq!(bench.pass(20), [format!("resolved {}", rule.as_str())]);
    let [firing, resolved] = &bench.all[..] else { panic!("{:?}", bench.all) };
    assert_eq!((firing.id, firing.since_ms), (resolved.id, resolved.since_ms));
    assert!(resolved.resolved_ms > Some(resolved.since_ms), "{resolved:?}");
    assert!(firing.is_firing() && !firing.message.is_empty(), "{firing:?}");
    let id = firing.id;
    // And once more, a window later, under a number of its own.
    bench.pass(70);
    fire(&mut bench.seen);
    assert_eq!(bench.pass(20), [format!("firing {}", rule.as_str())]);
    assert_eq!(bench.all[2].id, id + 1);
}

#[test]
fn a_cap_that_is_reached_is_told_until_there_is_room() {
    check(
        Rule::CapReached,
        |seen| seen.cap = Some((1.0, "10 of 10 agents_per_tenant".to_owned())),
        |seen| seen.cap = Some((0.95, "95 of 100 effects".to_owned())),
        |seen| seen.cap = Some((0.9, "9 of 10 agents_per_tenant".to_owned())),
    );
}

#[test]
fn every_rule_of_the_service_fires_once_and_passes_away_from_its_threshold() {
    check(
        Rule::FailedUpdates,
        |seen| {
            seen.totals.updates += 40;
            seen.totals.failed_updates += 4;
        },
        // 4 of 85 are 4.7 %.
        |seen| seen.totals.updates += 45,
        |seen| seen.totals.updates += 1_000,
    );
    check(
        Rule::Improvement,
        |seen| seen.improvement = -0.11,
        |seen| seen.improvement = -0.095,
        |seen| seen.improvement = 0.0,
    );
    check(
        Rule::UpdateTime,
        |seen| {
            seen.totals.updates += 10;
            seen.totals.update_time_us += 11_000_000;
        },
        |seen| seen.totals.updates += 1,
        |seen| seen.totals.updates += 100,
    );
    check(Rule::Lag, |seen| seen.lag = 1_001, |seen| seen.lag = 950, |seen| seen.lag = 900);
    check(
        Rule::Stalled,
        |seen| seen.stall = Some("9 records wait, and none was stored for 16 s".to_owned()),
        |seen| seen.stall = Some("8 records wait, and none was stored for 17 s".to_owned()),
        |seen| seen.stall = None,
    );
    check(
        Rule::DeadLetters,
        |seen| {
            seen.totals.received += 100;
            seen.totals.rejected += 2;
        },
        |seen| seen.totals.received += 105,
        |seen| seen.totals.received += 1_000,
    );
    check(
        Rule::Conflicting,
        |seen| {
            seen.totals.received += 100;
            seen.totals.conflicting += 3;
        },
        |seen| seen.totals.received += 210,
        |seen| seen.totals.received += 1_000,
    );
    check(
        Rule::SavesFailed,
        |seen| seen.totals.failed_saves += 3,
        |seen| seen.totals.failed_saves += 1,
        |seen| seen.totals.saves += 1,
    );
    check(
        Rule::DiskFull,
        |seen| seen.disk_used = Some(0.951),
        |seen| seen.disk_used = Some(0.945),
        |seen| seen.disk_used = Some(0.93),
    );
}

#[test]
fn every_rule_of_an_agent_fires_once_and_passes_away_from_its_threshold() {
    check(
        Rule::AgentSuccess,
        |seen| seen.agents[0].success = Some(0.49),
        |seen| seen.agents[0].success = Some(0.52),
        |seen| seen.agents[0].success = Some(0.56),
    );
    check(
        Rule::AgentLatency,
        |seen| seen.agents[0].latency_p95_ms = Some(2_001.0),
        |seen| seen.agents[0].latency_p95_ms = Some(1_900.0),
        |seen| seen.agents[0].latency_p95_ms = Some(1_800.0),
    );
    check(
        Rule::AgentCost,
        |seen| seen.agents[0].mean_cost = Some(0.51),
        |seen| seen.agents[0].mean_cost = Some(0.48),
        |seen| seen.agents[0].mean_cost = Some(0.45),
    );
    check(
        Rule::AgentDrift,
        |seen| {
            let changes = seen.agents[0].drift.changes + 1;
            seen.agents[0].drift =
                Drift { changes, since: 0, statistic: 26.0, before: 0.8, after: 0.3 };
        },
        |seen| seen.agents[0].drift.since = 99,
        |seen| seen.agents[0].drift.since = 100,
    );
    check(
        Rule::AgentPerfect,
        |seen| seen.agents[0].streak = 500,
        |seen| seen.agents[0].streak = 200,
        |seen| seen.agents[0].streak = 0,
    );
}

#[test]
fn silence_is_strange_only_while_predictions_flow() {
    let mut bench = Bench::new();
    bench.seen.totals.predictions += 29;
    assert_eq!(bench.pass(120), [] as [String; 0], "too few to be sure");
    bench.seen.totals.predictions += 1;
    assert_eq!(bench.pass(120), ["firing no_events"]);
    bench.seen.totals.received += 1;
    assert_eq!(bench.pass(30), ["resolved no_events"]);
    bench.seen.totals.predictions += 100;
    assert_eq!(bench.pass(20), [] as [String; 0], "not yet a minute");
    assert_eq!(bench.pass(20), ["firing no_events"]);
}

#[test]
fn too_few_samples_say_nothing() {
    let mut bench = Bench::new();
    bench.seen.totals =
        Totals { updates: 19, failed_updates: 19, received: 99, rejected: 99, ..Totals::default() };
    bench.seen.totals.update_time_us = 9_000_000_000;
    bench.seen.agents[0] =
        AgentSeen { success: None, latency_p95_ms: None, mean_cost: None, ..agent("a") };
    assert_eq!(bench.pass(120), [] as [String; 0]);
    // A service that has done nothing at all.
    let mut bench = Bench::new();
    bench.seen = Scene::default();
    assert_eq!(bench.pass(200), [] as [String; 0]);
}

#[test]
fn rates_are_of_the_window_and_pass_with_it() {
    let mut bench = Bench::new();
    bench.seen.totals = Totals { updates: 20, failed_updates: 20, ..Totals::default() };
    assert_eq!(bench.look(), ["firing failed_updates"]);
    assert_eq!(bench.pass(30), [] as [String; 0]);
    assert_eq!(bench.pass(40), ["resolved failed_updates"], "none within a whole minute");
    assert!(bench.evaluator.past.len() <= POINTS_MAX as usize + 2);
    // However much went well long ago.
    bench.seen.totals.updates += 1_000_000;
    bench.pass(70);
    bench.seen.totals.updates += 20;
    bench.seen.totals.failed_updates += 2;
    assert_eq!(bench.look(), ["firing failed_updates"]);
}

#[test]
fn a_short_burst_is_no_lag() {
    let mut bench = Bench::new();
    for _ in 0..5 {
        bench.seen.lag = 100_000;
        assert_eq!(bench.pass(2), [] as [String; 0]);
        bench.seen.lag = 0;
        assert_eq!(bench.pass(1), [] as [String; 0]);
    }
}

/// Ten decisions say something, and only against what the others do.
#[test]
fn an_agent_that_is_chosen_and_never_reports_is_told_of() {
    let of = |missing, decisions| Reporting { decisions, missing, waiting: 0 };
    let mute = |bench: &mut Bench, own, others| {
        let silent =
            AgentSeen { reporting: Some([own, others]), ..AgentSeen::unknown("t", "mute") };
        bench.seen.agents = vec![agent("a"), silent];
        bench.pass(20)
    };
    let nothing = [] as [String; 0];
    let mut bench = Bench::new();
    assert_eq!(mute(&mut bench, of(9, 9), of(0, 200)), nothing, "too few");
    assert_eq!(mute(&mut bench, of(200, 200), of(200, 200)), nothing, "nobody reports");
    assert_eq!(mute(&mut bench, of(200, 200), of(0, 0)), nothing, "there is nobody else");
    assert_eq!(mute(&mut bench, of(30, 200), of(20, 200)), nothing, "it may be chance");
    assert_eq!(mute(&mut bench, of(12, 12), of(3, 200)), ["firing agent_silent"]);
    let alert = bench.all.last().unwrap();
    assert_eq!(alert.subject.as_ref().map(|of| &*of.agent), Some("mute"));
    assert!((alert.value - 1.0).abs() < 1e-12 && (alert.threshold - 0.115).abs() < 1e-12);
    assert!(alert.message.contains("12 of its last 12"), "{}", alert.message);
    assert_eq!(mute(&mut bench, of(15, 200), of(3, 200)), nothing, "near is not away");
    assert_eq!(mute(&mut bench, of(10, 200), of(3, 200)), ["resolved agent_silent"]);
    // One that is gone from the log has nothing to report.
    assert_eq!(mute(&mut bench, of(50, 200), of(3, 200)), ["firing agent_silent"]);
    bench.seen.agents.pop();
    assert_eq!(bench.pass(3), ["resolved agent_silent"]);
}

#[test]
fn a_restart_neither_repeats_nor_forgets_what_fires() {
    let mut bench = Bench::new();
    bench.seen.totals.failed_saves = 3;
    bench.seen.agents[0].streak = 600;
    bench.seen.agents[0].success = Some(0.1);
    bench.seen.totals.updates = 40;
    bench.seen.totals.failed_updates = 40;
    let mut fired = bench.look();
    fired.sort();
    let rules = ["agent_perfect", "agent_success", "failed_updates", "saves_failed"];
    assert_eq!(fired, rules.map(|rule| format!("firing {rule}")));

    let mut again = Bench::with(options(), &bench.all, bench.seen.clone());
    assert_eq!(again.all, []);
    assert_eq!(again.pass(10), [] as [String; 0], "nothing has changed");
    // Turned off, and an agent that an activation has taken away.
    let off = AlertOptions { perfect_outcomes: None, ..options() };
    let off = Bench::with(off, &bench.all, bench.seen.clone());
    let resolved: Vec<_> = off.all.iter().map(|alert| (alert.rule, alert.is_firing())).collect();
    assert_eq!(resolved, [(Rule::AgentPerfect, false)]);
    again.seen.agents.clear();
    let mut resolved = again.look();
    resolved.sort();
    assert_eq!(resolved, ["resolved agent_perfect", "resolved agent_success"]);
}

#[test]
fn alerts_are_bounded_however_many_agents_there_are() {
    let mut bench = Bench::new();
    bench.seen.agents = (0..2_000)
        .map(|number| AgentSeen { success: Some(0.0), ..agent(format!("agent{number}").leak()) })
        .collect();
    assert_eq!(bench.look().len(), FIRING_MAX);
    let board = Board::new(&bench.all);
    for _ in 0..5 {
        bench.all.clear();
        for agent in &mut bench.seen.agents {
            agent.success = Some(1.0);
        }
        bench.look();
        for agent in &mut bench.seen.agents {
            agent.success = Some(0.0);
        }
        bench.look();
        board.show(&bench.all);
    }
    assert_eq!(board.list(None, None, usize::MAX).len(), ALERTS_MAX);
    assert_eq!(board.firing().iter().sum::<u64>(), FIRING_MAX as u64);
}

#[test]
fn the_board_is_read_page_by_page_newest_first() {
    let board = Board::default();
    let alert = |id, resolved_ms| Alert {
        id,
        rule: Rule::Lag,
        subject: None,
        value: 2_000.0,
        threshold: 1_000.0,
        message: "2000 records wait to be learned".to_owned(),
        since_ms: 1_000,
        resolved_ms,
    };
    board.show(&[alert(1, None), alert(2, Some(5_000)), alert(3, None)]);
    let ids = |firing, before, limit| -> Vec<u64> {
        board.list(firing, before, limit).iter().map(|alert| alert.id).collect()
    };
    assert_eq!(ids(None, None, 10), [3, 2, 1]);
    assert_eq!(ids(None, Some(3), 1), [2]);
    assert_eq!(ids(Some(true), None, 10), [3, 1]);
    assert_eq!(ids(Some(false), None, 10), [2]);
    board.show(&[alert(3, Some(9_000))]);
    assert_eq!(board.firing()[Rule::Lag as usize], 1);
    let shown = alert(2, Some(5_000)).body();
    assert_eq!((shown.rule, shown.status), ("lag", "resolved"));
    assert_eq!(shown.since, "1970-01-01T00:00:01.000+00:00");
    for (index, rule) in Rule::ALL.into_iter().enumerate() {
        assert_eq!((rule as usize, Rule::of(rule.as_str())), (index, Some(rule)));
    }
}

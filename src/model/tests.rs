//! Properties of what is learned, and of what is recommended from it.
#![expect(clippy::float_cmp, reason = "equal means bit-equal here, unless `close` says otherwise")]
#![expect(clippy::cast_precision_loss, reason = "test numbers are small")]

use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::Strategy as Arbitrary;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};

use super::records::{Places, RECENT_VALUES_MIN};
use super::*;
use crate::outcome::{DEFAULT_TENANT, Feature, Outcome, Status};

fn settings(strategy: Strategy) -> Settings {
    Settings { strategy, ..Settings::default() }
}

fn rng(seed: u64) -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(seed)
}

fn success(agent: &str, task: &str) -> Outcome {
    Outcome::new(agent, Status::Success).on_task(task)
}

fn failure(agent: &str, task: &str) -> Outcome {
    Outcome::new(agent, Status::Failure).on_task(task)
}

fn learned(settings: Settings, outcomes: &[Outcome]) -> AgentPerformanceModel {
    let mut model = AgentPerformanceModel::new(settings);
    for outcome in outcomes {
        model.update(outcome);
    }
    model
}

/// `successes` and `failures` of every (agent, task type), one agent after the other.
fn record(records: &[(&str, &str, usize, usize)]) -> Vec<Outcome> {
    records
        .iter()
        .flat_map(|&(agent, task, successes, failures)| {
            let successes = std::iter::repeat_n(success(agent, task), successes);
            successes.chain(std::iter::repeat_n(failure(agent, task), failures))
        })
        .collect()
}

#[test]
fn a_density_is_one_and_its_interval_holds_nine_tenths() {
    let outcomes = record(&[("a", "t", 9, 3), ("b", "t", 0, 1), ("c", "u", 200, 1)]);
    for strategy in [Strategy::Thompson, Strategy::Beta] {
        let model = learned(settings(strategy), &outcomes);
        for standing in model.standings(&on_task("t")) {
            // By the trapezoidal rule in log-odds, where densities are smooth up to both ends.
            let mass = |from: f64, to: f64| {
                let step = (to - from) / 4_000.0;
                let at = |index: i32| {
                    let chance = 1.0 / (1.0 + (-(from + step * f64::from(index))).exp());
                    standing.density(chance).unwrap() * chance * (1.0 - chance)
                };
                let inner: f64 = (1..4_000).map(at).sum();
                step * (inner + 0.5 * (at(0) + at(4_000)))
            };
            let whole = mass(-30.0, 30.0);
            assert!((whole - 1.0).abs() < 1e-4, "{strategy:?} {standing:?}: {whole}");
            let [low, high] = standing.interval().unwrap().map(|p| (p / (1.0 - p)).ln());
            let inner = mass(low, high);
            assert!((inner - 0.9).abs() < 1e-4, "{strategy:?} {standing:?}: {inner}");
            assert_eq!([0.0, 1.0, -1.0, f64::NAN].map(|p| standing.density(p)), [Some(0.0); 4]);
        }
    }
    let model = learned(settings(Strategy::MovingAverage), &outcomes);
    assert_eq!(model.standings(&ANY)[0].density(0.5), None);
}

const ANY: Question<'static> = Question {
    tenant: DEFAULT_TENANT,
    task_type: None,
    context: &Vec::new(),
    candidates: None,
    exclude: &[],
};

fn on_task(task_type: &str) -> Question<'_> {
    Question { task_type: Some(task_type), ..ANY }
}

fn names(standings: &[Standing]) -> Vec<&str> {
    standings.iter().map(|standing| &*standing.agent).collect()
}

fn ranking(model: &AgentPerformanceModel, question: &Question<'_>) -> Vec<String> {
    let ranked = rank(&model.standings(question), false, &mut rng(0));
    ranked.into_iter().map(|recommendation| recommendation.agent.to_string()).collect()
}

fn posterior(model: &AgentPerformanceModel, question: &Question<'_>, agent: &str) -> Posterior {
    let standings = model.standings(question);
    let standing = standings.iter().find(|standing| &*standing.agent == agent).unwrap();
    match &standing.belief {
        Belief::Posterior(posterior) => *posterior,
        other => panic!("{agent} has {other:?}"),
    }
}

fn restored(model: &AgentPerformanceModel) -> AgentPerformanceModel {
    let json = serde_json::to_string(&model.state()).unwrap();
    AgentPerformanceModel::from_state(json.as_bytes(), model.sequence(), *model.settings()).unwrap()
}

#[track_caller]
fn close(seen: f64, expected: f64) {
    assert!((seen - expected).abs() < 1e-12, "{seen} is not {expected}");
}

/// Streams over a few names, so that they meet again.
fn any_outcome() -> impl Arbitrary<Value = Outcome> {
    let feature = prop_oneof![
        (0..4_u8).prop_map(|value| Feature::Text(format!("v{value}"))),
        any::<bool>().prop_map(Feature::Bool),
        prop::num::f64::NORMAL.prop_map(Feature::Number),
    ];
    (
        (0..2_u8, 0..5_u8, prop::option::of(0..4_u8), prop::sample::select(&Status::ALL[..])),
        (prop::option::of(0.0..=1e12), prop::option::of(0.0..=1.0)),
        prop::collection::vec(((0..3_u8).prop_map(|key| format!("k{key}")), feature), 0..2),
    )
        .prop_map(|((tenant, agent, task, status), (latency_ms, quality), context)| Outcome {
            tenant: if tenant == 0 { DEFAULT_TENANT.to_owned() } else { "t".to_owned() },
            task_type: task.map(|task| format!("task{task}")),
            context,
            latency_ms,
            quality,
            ..Outcome::new(format!("agent{agent}"), status)
        })
}

fn any_stream() -> impl Arbitrary<Value = Vec<Outcome>> {
    prop::collection::vec(any_outcome(), 0..120)
}

fn any_settings() -> impl Arbitrary<Value = Settings> {
    let strategy = prop::sample::select(&Strategy::ALL[..]);
    let counts = || prop::option::of(1e-3..100.0);
    (strategy, counts(), counts(), 1e-3..=1.0_f64).prop_map(
        |(strategy, prior_alpha, prior_beta, exponential_alpha)| Settings {
            strategy,
            prior_alpha,
            prior_beta,
            exponential_alpha,
            caps: Caps {
                agents_per_tenant: 4,
                task_types_per_tenant: 3,
                context_keys_per_tenant: 2,
                context_values_per_key: 3,
                cells: 16,
                joint_values_per_agent: 3,
                effects: 20,
                ..Caps::default()
            },
        },
    )
}

/// Every question that the streams can be asked.
fn every_standing(model: &AgentPerformanceModel) -> Vec<Standing> {
    let candidates: Vec<String> = (0..6).map(|agent| format!("agent{agent}")).collect();
    let mut standings = Vec::new();
    for tenant in [DEFAULT_TENANT, "t", "unknown"] {
        for task_type in [None, Some("task0"), Some("task3"), Some("unknown")] {
            for candidates in [None, Some(&*candidates)] {
                standings.extend(model.standings(&Question {
                    tenant,
                    task_type,
                    candidates,
                    ..ANY
                }));
            }
        }
    }
    standings
}

proptest! {
    #[test]
    fn no_posterior_falls_below_the_prior(settings in any_settings(), stream in any_stream()) {
        let model = learned(settings, &stream);
        for standing in every_standing(&model) {
            match &standing.belief {
                Belief::Posterior(Posterior { alpha, beta }) => {
                    prop_assert!(*alpha >= settings.prior().0 && alpha.is_finite());
                    prop_assert!(*beta >= settings.prior().1 && beta.is_finite());
                }
                Belief::Point(point) => prop_assert!((0.0..=1.0).contains(point)),
                Belief::Mixture(mixture) => {
                    prop_assert!((0.0..=1.0).contains(&mixture.expected()));
                }
            }
        }
    }

    #[test]
    fn nothing_infinite_comes_out(settings in any_settings(), stream in any_stream()) {
        let model = learned(settings, &stream);
        let standings = every_standing(&model);
        for explore in [false, true] {
            for recommendation in rank(&standings, explore, &mut rng(1)) {
                prop_assert!((0.0..=1.0).contains(&recommendation.score));
            }
        }
        for standing in &standings {
            prop_assert!((0.0..=1.0).contains(&standing.expected_success()));
            if let Some([low, high]) = standing.interval() {
                prop_assert!(0.0 <= low && low <= high && high <= 1.0);
            }
        }
        prop_assert!((0.0..=1.0).contains(&model.score().current()));
        prop_assert!(model.score().improvement_rate().is_finite());
        for (_, tenant) in model.tenants() {
            for (_, agent) in tenant.agents() {
                prop_assert!((0.0..=1.0).contains(&agent.tally.success_rate()));
                prop_assert!(agent.latencies_ms.mean().is_none_or(|ms| (0.0..=1e12).contains(&ms)));
                prop_assert!(agent.qualities.mean().is_none_or(|mean| (0.0..=1.0).contains(&mean)));
                for task in ["task0", "task1"] {
                    let mean = tenant.cell(agent, task).mean_latency_ms();
                    prop_assert!(mean.is_none_or(|ms| (0.0..=1e12).contains(&ms)));
                }
            }
        }
    }

    #[test]
    fn how_the_stream_is_cut_and_who_shares_the_model_changes_nothing(
        settings in any_settings(),
        stream in any_stream(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let uncut = learned(settings, &stream);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.push(stream.len());
        cuts.sort_unstable();
        let mut model = AgentPerformanceModel::new(settings);
        let mut published = Vec::new();
        let mut start = 0;
        for end in cuts {
            // As the learner does: learn on a clone, keep the old one for readers.
            published.push((model.clone(), model.digest(), model.sequence()));
            let mut next = model.clone();
            stream[start..end].iter().for_each(|outcome| next.update(outcome));
            model = next;
            start = end;
        }
        prop_assert_eq!(model.digest(), uncut.digest());
        prop_assert_eq!(model.sequence(), stream.len() as u64);
        for (snapshot, digest, sequence) in published {
            prop_assert_eq!(snapshot.digest(), digest, "a published snapshot never changes");
            prop_assert_eq!(snapshot.sequence(), sequence);
        }
    }

    #[test]
    fn a_restored_model_is_the_same_and_learns_on_as_the_same(
        settings in any_settings(),
        before in any_stream(),
        after in any_stream(),
    ) {
        let mut model = learned(settings, &before);
        let mut copy = restored(&model);
        for _ in 0..2 {
            prop_assert_eq!(copy.digest(), model.digest());
            prop_assert_eq!(copy.cells(), model.cells());
            prop_assert_eq!(copy.sequence(), model.sequence());
            prop_assert_eq!(copy.total(), model.total());
            let draw = |model: &AgentPerformanceModel| -> Vec<(String, u64)> {
                rank(&every_standing(model), true, &mut rng(3))
                    .into_iter()
                    .map(|draw| (draw.agent.to_string(), draw.score.to_bits()))
                    .collect()
            };
            prop_assert_eq!(draw(&copy), draw(&model));
            for outcome in &after {
                model.update(outcome);
                copy.update(outcome);
            }
        }
    }

    #[test]
    fn counts_do_not_tell_in_which_order_names_came(seed in any::<u64>()) {
        // Every reward, latency and value alike, so that only the order of the names differs.
        let mut stream: Vec<Outcome> = (0..60)
            .map(|i| Outcome {
                latency_ms: Some(8.0),
                context: vec![(format!("k{}", i % 3), Feature::Text(format!("v{}", i % 5)))],
                ..success(&format!("agent{}", i % 7), &format!("task{}", i % 4))
            })
            .collect();
        let counts = |stream: &[Outcome]| {
            let model = learned(settings(Strategy::Beta), stream);
            let mut state = serde_json::to_value(model.state()).unwrap();
            let tenant = &mut state["tenants"][DEFAULT_TENANT];
            // The last values stand in the order in which they came.
            tenant["records"].take();
            // Who was seen last is of the order, too.
            tenant["tasks_seen"].take();
            let agents = tenant["agents"].as_object_mut().unwrap();
            agents.values_mut().for_each(|agent| drop(agent["seen"].take()));
            state
        };
        let one = counts(&stream);
        stream.shuffle(&mut rng(seed));
        prop_assert_eq!(counts(&stream), one);
    }
}

#[test]
fn another_state_has_another_digest() {
    let digest = |outcomes: &[Outcome]| learned(Settings::default(), outcomes).digest();
    let base = digest(&[success("a", "t")]);
    assert_eq!(base.len(), 64);
    let with = |change: fn(&mut Outcome)| {
        let mut outcome = success("a", "t");
        change(&mut outcome);
        digest(&[outcome])
    };
    for (what, other) in [
        ("agent", with(|outcome| outcome.agent = "b".to_owned())),
        ("task type", with(|outcome| outcome.task_type = None)),
        ("tenant", with(|outcome| outcome.tenant = "b".to_owned())),
        ("status", with(|outcome| outcome.status = Status::Cancelled)),
        ("latency", with(|outcome| outcome.latency_ms = Some(1.0))),
        ("quality", with(|outcome| outcome.quality = Some(1.0))),
        ("cost", with(|outcome| outcome.cost = Some(0.0))),
        ("key", with(|outcome| outcome.context = vec![("k".to_owned(), Feature::Number(1.0))])),
        ("again", digest(&[success("a", "t"), success("a", "t")])),
        ("order", digest(&[])),
    ] {
        assert_ne!(base, other, "{what}");
    }
    // What clocks and positions say is no part of it.
    let mut later = success("a", "t");
    (later.time_ms, later.identity) = (5, [7; 16]);
    assert_eq!(digest(&[later]), base);
    let model = learned(Settings::default(), &[success("a", "t")]);
    assert_eq!(model.clone().at_sequence(99).digest(), base);
    assert_eq!(model.at_sequence(99).sequence(), 99);
}

#[test]
fn a_state_that_is_none_is_corrupt() {
    let model = learned(Settings::default(), &[success("a", "t")]);
    let json = serde_json::to_string(&model.state()).unwrap();
    for damaged in
        [&json[1..], "{}", &json.replace("[0,0,1", "[0,1,1"), &json.replace("[0,0,1", "[9,0,1")]
    {
        assert_ne!(damaged, json);
        let restored =
            AgentPerformanceModel::from_state(damaged.as_bytes(), 1, Settings::default());
        assert!(matches!(restored, Err(crate::Error::Corrupt(_))), "{damaged}");
    }
}

#[test]
fn names_past_a_cap_count_as_other_and_are_never_recommended() {
    let caps = Caps {
        agents_per_tenant: 2,
        task_types_per_tenant: 2,
        context_keys_per_tenant: 2,
        context_values_per_key: 2,
        ..Caps::default()
    };
    let mut model = AgentPerformanceModel::new(Settings { caps, ..settings(Strategy::Beta) });
    for (agent, task) in [("a", "s"), ("b", "t"), ("c", "s"), ("c", "u"), ("a", "u"), ("a", "t")] {
        let text = |key: &str, value: &str| (key.to_owned(), Feature::Text(value.to_owned()));
        let mut outcome = success(agent, task);
        outcome.context = vec![text("agent", agent), text("task", task), text("third", "x")];
        model.update(&outcome);
    }
    let tenant = model.tenant(DEFAULT_TENANT).unwrap();
    assert_eq!(names(&model.standings(&ANY)), ["a", "b"]);
    assert_eq!(tenant.total().executions, 6, "everything is counted");
    assert_eq!(tenant.other().agent.tally, Tally { executions: 2, learned: 2, reward: 2.0 });
    assert_eq!(tenant.other().task_type, Tally { executions: 2, learned: 2, reward: 2.0 });
    assert_eq!(tenant.other().context_keys, 6);
    let keys: Vec<_> = tenant
        .context_keys()
        .map(|(name, key)| (name, key.outcomes, key.distinct(), key.other))
        .collect();
    assert_eq!(keys, [("agent", 6, 2, 2), ("task", 6, 2, 2)]);
    let tasks: Vec<_> = tenant.task_types().map(|(name, tally)| (name, tally.executions)).collect();
    assert_eq!(tasks, [("s", 2), ("t", 2)]);
    // Three records and four context values.
    assert_eq!(model.cells(), 3 + 4);

    // As a candidate an agent past the cap competes from its prior, like one never heard of.
    let candidates = ["c".to_owned(), "new".to_owned()];
    let question = Question { candidates: Some(&candidates), ..on_task("s") };
    assert_eq!(posterior(&model, &question, "c"), posterior(&model, &question, "new"));
}

#[test]
fn the_cap_on_cells_holds_for_all_tenants_together() {
    let caps = Caps { cells: 3, ..Caps::default() };
    let mut model = AgentPerformanceModel::new(Settings { caps, ..Settings::default() });
    let mut of_other = success("a", "t");
    of_other.tenant = "x".to_owned();
    of_other.context = vec![("k".to_owned(), Feature::Bool(true))];
    for outcome in [of_other, success("a", "s"), success("a", "t"), success("a", "s")] {
        model.update(&outcome);
    }
    let mut valued = success("b", "t");
    valued.context = vec![
        ("k".to_owned(), Feature::Text("v".to_owned())),
        ("n".to_owned(), Feature::Number(2.0)),
    ];
    model.update(&valued);
    assert_eq!(model.cells(), 3);
    let tenant = model.tenant(DEFAULT_TENANT).unwrap();
    assert_eq!(tenant.other().cell, Tally { executions: 2, learned: 2, reward: 2.0 });
    let (_, a) = tenant.agents().next().unwrap();
    assert_eq!(tenant.cell(a, "s").tally.executions, 2, "a known cell goes on");
    assert_eq!(tenant.cell(a, "t"), Cell::default());
    assert_eq!(a.tally.executions, 3, "the agent's own record has no gap");
    let keys: Vec<_> =
        tenant.context_keys().map(|(name, key)| (name, key.distinct(), key.other)).collect();
    assert_eq!(keys, [("k", 0, 1), ("n", 0, 0)], "numbers have no distinct values");
}

#[test]
fn what_is_unknown_is_answered_from_the_prior() {
    let settings =
        Settings { prior_alpha: Some(3.0), prior_beta: Some(1.0), ..settings(Strategy::Beta) };
    let empty = AgentPerformanceModel::new(settings);
    assert!(empty.standings(&ANY).is_empty());
    assert!(empty.predict_best_agent(Some("t"), &Vec::new(), 3, &mut rng(0)).is_empty());

    let candidates = ["new".to_owned()];
    let prior = Posterior { alpha: 3.0, beta: 1.0 };
    let new = Question { candidates: Some(&candidates), ..on_task("t") };
    assert_eq!(posterior(&empty, &new, "new"), prior);
    let model = learned(settings, &record(&[("a", "t", 4, 0)]));
    assert_eq!(posterior(&model, &Question { tenant: "unknown", ..new }, "new"), prior);
    assert!(model.standings(&Question { tenant: "unknown", ..on_task("t") }).is_empty());
    assert_eq!(posterior(&model, &new, "new"), prior);
    for strategy in [Strategy::MovingAverage, Strategy::Exponential] {
        let model = AgentPerformanceModel::new(Settings { strategy, ..settings });
        let standing = &model.standings(&new)[0];
        assert_eq!(standing.belief, Belief::Point(0.75));
        assert_eq!(standing.interval(), None);
    }
}

#[test]
fn a_standing_tells_samples_and_evidence() {
    let mut model = learned(Settings::default(), &record(&[("a", "s", 3, 1), ("a", "t", 1, 0)]));
    model.update(&Outcome::new("a", Status::Cancelled).on_task("s"));
    let counts = |question: &Question<'_>| {
        let standing = &model.standings(question)[0];
        (standing.samples, standing.evidence)
    };
    assert_eq!(counts(&on_task("s")), (5, 4));
    assert_eq!(counts(&on_task("t")), (5, 1));
    assert_eq!(counts(&on_task("unknown")), (5, 0));
    assert_eq!(counts(&ANY), (5, 5));
}

#[test]
fn candidates_and_exclusions_choose_who_competes() {
    #[track_caller]
    fn check(
        model: &AgentPerformanceModel,
        candidates: Option<&[&str]>,
        exclude: &[&str],
        expected: &[&str],
    ) {
        let candidates: Option<Vec<String>> =
            candidates.map(|names| names.iter().map(|&name| name.to_owned()).collect());
        let exclude: Vec<String> = exclude.iter().map(|&name| name.to_owned()).collect();
        let question =
            Question { candidates: candidates.as_deref(), exclude: &exclude, ..on_task("t") };
        assert_eq!(names(&model.standings(&question)), expected);
    }
    let model = learned(
        Settings::default(),
        &record(&[("a", "t", 1, 0), ("b", "t", 1, 0), ("c", "t", 1, 0)]),
    );
    check(&model, None, &[], &["a", "b", "c"]);
    check(&model, None, &["b", "unknown"], &["a", "c"]);
    check(&model, Some(&["c", "new", "a", "c"]), &[], &["a", "c", "new"]);
    check(&model, Some(&["c", "a"]), &["a"], &["c"]);
    check(&model, Some(&["a"]), &["a"], &[]);
    check(&model, Some(&[]), &[], &[]);
}

#[test]
fn without_exploring_the_order_is_by_mean_then_name() {
    for strategy in Strategy::ALL {
        let outcomes =
            record(&[("d", "t", 1, 1), ("b", "t", 2, 0), ("c", "t", 2, 0), ("a", "t", 0, 2)]);
        let model = learned(settings(strategy), &outcomes);
        assert_eq!(ranking(&model, &on_task("t")), ["b", "c", "d", "a"], "{strategy:?}");
        let standings = model.standings(&on_task("t"));
        for recommendation in rank(&standings, false, &mut rng(4)) {
            let standing = &standings[recommendation.standing];
            assert_eq!(recommendation.score, standing.expected_success());
            assert_eq!(recommendation.agent, standing.agent);
        }
    }
}

#[test]
fn a_seed_gives_its_draw_again_and_another_seed_another() {
    let outcomes = record(&[("a", "t", 5, 5), ("b", "t", 5, 5)]);
    let draw = |strategy, seed| -> Vec<u64> {
        let model = learned(settings(strategy), &outcomes);
        let ranked = model.predict_best_agent(Some("t"), &Vec::new(), 2, &mut rng(seed));
        assert!(ranked[0].score >= ranked[1].score);
        ranked.iter().map(|recommendation| recommendation.score.to_bits()).collect()
    };
    for strategy in [Strategy::Thompson, Strategy::Beta] {
        assert_eq!(draw(strategy, 1), draw(strategy, 1));
        assert_ne!(draw(strategy, 1), draw(strategy, 2));
    }
    for strategy in [Strategy::MovingAverage, Strategy::Exponential] {
        assert_eq!(draw(strategy, 1), draw(strategy, 2), "there is nothing to draw");
    }
    let model = learned(Settings::default(), &outcomes);
    for (top_k, expected) in [(0, 0), (1, 1), (5, 2)] {
        let ranked = model.predict_best_agent(None, &Vec::new(), top_k, &mut rng(0));
        assert_eq!(ranked.len(), expected);
    }
}

#[test]
fn beta_is_the_record_of_the_agent_alone() {
    let outcomes = record(&[("a", "t", 3, 1), ("a", "u", 0, 2), ("b", "t", 9, 0)]);
    let model = learned(settings(Strategy::Beta), &outcomes);
    for question in [ANY, on_task("t"), on_task("unknown")] {
        assert_eq!(posterior(&model, &question, "a"), Posterior { alpha: 4.0, beta: 4.0 });
    }
}

#[test]
fn an_agent_good_at_this_task_beats_one_good_elsewhere_once_there_is_evidence() {
    let specialist_first = |evidence: usize| {
        let outcomes = record(&[
            ("generalist", "other", 90, 10),
            ("generalist", "this", evidence * 3 / 5, evidence - evidence * 3 / 5),
            ("specialist", "other", 40, 60),
            ("specialist", "this", evidence * 9 / 10, evidence - evidence * 9 / 10),
        ]);
        let model = learned(Settings::default(), &outcomes);
        assert_eq!(ranking(&model, &on_task("other"))[0], "generalist");
        ranking(&model, &on_task("this"))[0] == "specialist"
    };
    assert!(!specialist_first(0), "without evidence, the better record elsewhere decides");
    assert!(specialist_first(50));
}

#[test]
fn partial_rewards_are_shared_between_success_and_failure() {
    let mut outcome = Outcome::new("a", Status::Partial).on_task("t");
    outcome.quality = Some(0.25);
    let model =
        learned(settings(Strategy::Beta), &[outcome.clone(), Outcome::new("a", Status::Partial)]);
    assert_eq!(posterior(&model, &ANY, "a"), Posterior { alpha: 1.75, beta: 2.25 });
    let (_, agent) = model.tenant(DEFAULT_TENANT).unwrap().agents().next().unwrap();
    assert_eq!(agent.tally.success_rate(), 0.375);
    assert_eq!(agent.with_status(Status::Partial), 2);
}

#[test]
fn executions_are_counted_and_only_rewards_learned() {
    let mut model = AgentPerformanceModel::new(Settings::default());
    for status in Status::ALL {
        let mut outcome = Outcome::new("a", status).on_task("t");
        (outcome.latency_ms, outcome.quality) = (Some(10.0), Some(0.5));
        model.update(&outcome);
    }
    let tenant = model.tenant(DEFAULT_TENANT).unwrap();
    let (_, agent) = tenant.agents().next().unwrap();
    let tally = Tally { executions: 6, learned: 4, reward: 1.5 };
    assert_eq!(
        [agent.tally, model.total(), tenant.total(), tenant.cell(agent, "t").tally],
        [tally; 4]
    );
    assert_eq!(agent.statuses, [1; 6]);
    assert_eq!(agent.latencies_ms.iter().count(), 2, "success and partial");
    assert_eq!(tenant.cell(agent, "t").mean_latency_ms(), Some(10.0));
    assert_eq!(agent.qualities.iter().count(), 5, "all but pending");
    assert_eq!(agent.rewards.iter().count(), 4);
    assert_eq!(Tally::default().success_rate(), 0.5);
}

#[test]
fn the_moving_average_is_the_mean_of_the_last_100_rewards() {
    let mut model = AgentPerformanceModel::new(settings(Strategy::MovingAverage));
    for _ in 0..50 {
        model.update(&failure("a", "t"));
    }
    for successes in 1..=120_u32 {
        model.update(&success("a", "t"));
        let standing = &model.standings(&ANY)[0];
        let (last_100, count) = (successes.min(100), (50 + successes).min(100));
        assert_eq!(standing.expected_success(), f64::from(last_100) / f64::from(count));
    }
}

#[test]
fn the_exponential_mean_starts_at_the_first_reward() {
    let mut model = AgentPerformanceModel::new(Settings {
        exponential_alpha: 0.25,
        ..settings(Strategy::Exponential)
    });
    for (outcome, expected) in [
        (success("a", "t"), 1.0),
        (failure("a", "t"), 0.75),
        (Outcome::new("a", Status::Cancelled), 0.75),
        (success("a", "t"), 0.8125),
    ] {
        model.update(&outcome);
        assert_eq!(model.standings(&ANY)[0].expected_success(), expected);
    }
}

#[test]
fn recent_values_are_the_last_100_in_order() {
    let mut recent = Recent::default();
    assert_eq!(recent.mean(), None);
    for value in 0..250_u32 {
        recent.push(f64::from(value), &mut Places { taken: 0, max: usize::MAX });
        let oldest = (value + 1).saturating_sub(100);
        assert!(recent.iter().eq((oldest..=value).map(f64::from)));
        let copy = Recent::from(Vec::from(recent.clone()));
        assert!(copy.iter().eq(recent.iter()));
        assert_eq!(copy.mean(), recent.mean());
    }
    assert_eq!(recent.mean(), Some(199.5));
}

#[test]
fn the_score_compares_the_last_window_with_the_one_before() {
    #[track_caller]
    fn check(rewards: &[(usize, bool)], current: f64, improvement: f64) {
        let mut model = AgentPerformanceModel::new(Settings::default());
        for &(count, good) in rewards {
            let status = if good { Status::Success } else { Status::Failure };
            (0..count).for_each(|_| model.update(&Outcome::new("a", status)));
        }
        close(model.score().current(), current);
        close(model.score().improvement_rate(), improvement);
    }
    check(&[], 0.0, 0.0);
    check(&[(1, true)], 1.0, 0.0);
    check(&[(3, true), (1, false)], 0.75, 0.0);
    // 49 before the last 1,000 are too few, 50 are enough.
    check(&[(49, true), (1_000, false)], 0.0, 0.0);
    check(&[(50, true), (1_000, false)], 0.0, -1.0);
    check(&[(25, true), (25, false), (1_000, true)], 1.0, 1.0);
    check(&[(1_000, false), (1_000, true)], 1.0, 0.0);
    check(&[(500, true), (500, false), (600, true), (400, false)], 0.6, 0.2);
    // Rewards older than both windows are gone.
    check(&[(5_000, false), (800, true), (200, false), (400, true), (600, false)], 0.4, -0.5);
}

#[test]
fn propensities_are_how_often_an_agent_is_drawn_first() {
    const DRAWS: u32 = 20_000;
    for strategy in Strategy::ALL {
        let outcomes = record(&[("a", "t", 8, 2), ("b", "t", 2, 8), ("c", "t", 7, 2)]);
        let model = learned(settings(strategy), &outcomes);
        let standings = model.standings(&on_task("t"));
        let expected = propensities(&standings);
        close(expected.iter().sum(), 1.0);
        let mut rng = rng(5);
        let mut firsts = [0_u32; 3];
        for _ in 0..DRAWS {
            firsts[rank(&standings, true, &mut rng)[0].standing] += 1;
        }
        for (first, expected) in firsts.into_iter().zip(&expected) {
            // Three standard errors of a proportion, at most 0.0106.
            let seen = f64::from(first) / f64::from(DRAWS);
            assert!((seen - expected).abs() < 0.0107, "{strategy:?}: {seen}, {expected}");
        }
        let best = best_expected(&standings).unwrap();
        assert_eq!(*standings[best].agent, *ranking(&model, &on_task("t"))[0]);
    }
    assert_eq!(best_expected(&[]), None);
    assert!(propensities(&[]).is_empty());
    // The first of equals, as ranking does it.
    let equal =
        learned(settings(Strategy::MovingAverage), &record(&[("b", "t", 1, 0), ("a", "t", 1, 0)]));
    let standings = equal.standings(&ANY);
    assert_eq!((best_expected(&standings), propensities(&standings)), (Some(0), vec![1.0, 0.0]));
}

#[test]
fn an_explanation_adds_up_to_the_posterior() {
    let outcomes = record(&[("a", "t", 3, 1), ("a", "u", 2, 2), ("b", "t", 1, 3)]);
    let sum =
        |parts: &[Part], of: fn(&Part) -> Option<f64>| -> f64 { parts.iter().filter_map(of).sum() };
    for (question, name) in [(on_task("t"), "a"), (ANY, "a"), (on_task("u"), "b")] {
        let model = learned(settings(Strategy::Beta), &outcomes);
        let explanation = model.explain(&question, name);
        let seen = posterior(&model, &question, name);
        close(sum(&explanation.parts, |part| part.reward), seen.alpha);
        close(sum(&explanation.parts, |part| part.missed), seen.beta);
        close(explanation.expected_success, seen.mean());

        let model = learned(Settings::default(), &outcomes);
        let explanation = model.explain(&question, name);
        let standings = model.standings(&question);
        let standing = standings.iter().find(|standing| &*standing.agent == name).unwrap();
        let Belief::Mixture(mixture) = &standing.belief else { panic!("{standing:?}") };
        close(sum(&explanation.parts, |part| part.log_odds), mixture.log_odds());
        close(explanation.expected_success, standing.expected_success());
        close(explanation.weights.iter().map(|copy| copy.weight).sum(), 1.0);
    }
    let explanation = AgentPerformanceModel::new(Settings::default()).explain(&ANY, "nobody");
    close(sum(&explanation.parts, |part| part.log_odds), 0.0);
}

/// Bound of the issue: agents that succeed in 90, 80 and 70 % of their tasks, 1,000 tasks, learned
/// one by one. Random choice has 0.8, knowing the best from the start 0.9; the mean over 100 fixed
/// seeds has a standard error below 0.001.
#[track_caller]
fn check_choices_are_good(strategy: Strategy, at_least: f64) {
    const RATES: [(&str, f64); 3] = [("best", 0.9), ("middle", 0.8), ("worst", 0.7)];
    let candidates = RATES.map(|(name, _)| name.to_owned());
    let question = Question { candidates: Some(&candidates), ..on_task("t") };
    let mut means = Vec::new();
    for seed in 0..100 {
        let mut rng = rng(seed);
        let mut model = AgentPerformanceModel::new(settings(strategy));
        let mut chosen = 0.0;
        for _ in 0..1_000 {
            let agent = rank(&model.standings(&question), true, &mut rng).swap_remove(0).agent;
            let (name, rate) = RATES.into_iter().find(|(name, _)| **name == *agent).unwrap();
            chosen += rate;
            let good = rng.random_bool(rate);
            model.update(&if good { success(name, "t") } else { failure(name, "t") });
        }
        means.push(chosen / 1_000.0);
    }
    let mean = means.iter().sum::<f64>() / means.len() as f64;
    let lowest = means.iter().copied().fold(f64::INFINITY, f64::min);
    #[expect(clippy::print_stdout, reason = "the number is of interest, also when it is fine")]
    {
        println!(
            "{strategy:?}: mean success of the chosen agents {mean:.5}, worst seed {lowest:.4}"
        );
    }
    assert!(mean >= at_least, "{strategy:?}, seeds 0..100: {mean} is below {at_least}");
}

#[test]
fn thompson_learns_to_choose_the_best_agent() {
    check_choices_are_good(Strategy::Thompson, 0.885);
}

#[test]
fn beta_learns_to_choose_the_best_agent() {
    check_choices_are_good(Strategy::Beta, 0.885);
}

/// A file that somebody made names hats past the last feature, or a time to come.
#[test]
fn a_state_whose_numbers_point_nowhere_is_corrupt() {
    let outcome = |number: u32| Outcome {
        context: vec![("size".to_owned(), Feature::Number(f64::from(number)))],
        ..success("a", "t")
    };
    let outcomes: Vec<Outcome> = (0..100).map(outcome).collect();
    let model = learned(Settings::default(), &outcomes);
    let json = serde_json::to_string(&model.state()).unwrap();
    let read = |json: &str| {
        AgentPerformanceModel::from_state(json.as_bytes(), model.sequence(), Settings::default())
    };
    assert!(read(&json).is_ok());
    for (field, wrong) in [
        ("first_hat", u32::MAX - 3),
        ("first_hat", 5),
        ("line", u32::MAX),
        ("renewed_at", u32::MAX),
    ] {
        let start = json.find(&format!("\"{field}\":")).unwrap() + field.len() + 3;
        let end = start + json[start..].find([',', '}']).unwrap();
        let made = format!("{}{wrong}{}", &json[..start], &json[end..]);
        assert!(matches!(read(&made), Err(crate::error::Error::Corrupt(_))), "{field}: {wrong}");
    }
}

#[test]
fn buffers_stop_growing_at_the_cap_on_values_and_a_restart_agrees() {
    let caps = Caps { recent_values: 60, ..Caps::default() };
    let mut model = AgentPerformanceModel::new(Settings { caps, ..Settings::default() });
    let outcome = |agent: u32, latency_ms: f64| Outcome {
        latency_ms: Some(latency_ms),
        ..Outcome::new(format!("agent-{agent}"), Status::Success)
    };
    let mut restored = model.clone();
    for round in 0..200_u32 {
        for agent in 0..5 {
            model.update(&outcome(agent, f64::from(round)));
            restored.update(&outcome(agent, f64::from(round)));
        }
        if round % 7 == 0 {
            // A restart in between changes nothing in what comes after.
            let json = serde_json::to_vec(&restored.state()).unwrap();
            let sequence = restored.sequence();
            restored =
                AgentPerformanceModel::from_state(&*json, sequence, *restored.settings()).unwrap();
        }
    }
    assert_eq!(model.digest(), restored.digest());
    let tenant = model.tenant("default").unwrap();
    let lengths: Vec<usize> =
        tenant.agents().map(|(_, agent)| agent.latencies_ms.iter().count()).collect();
    assert!(lengths.iter().all(|length| (RECENT_VALUES_MIN..20).contains(length)), "{lengths:?}");
    let newest = tenant.agents().next().unwrap().1.latencies_ms.iter().last();
    assert_eq!(newest, Some(199.0), "the newest value takes the place of the oldest");
}

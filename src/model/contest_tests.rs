//! Choosing by more than success, on agents whose success, latency and cost are known.

use proptest::prelude::{prop, prop_assert, proptest};
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};

use super::contest::*;
use super::*;
use crate::outcome::{DEFAULT_TENANT, Outcome, Status};

const TASK: &str = "extract";

fn rng(seed: u64) -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(seed)
}

fn question(candidates: Option<&[String]>) -> Question<'_> {
    Question {
        tenant: DEFAULT_TENANT,
        task_type: Some(TASK),
        context: const { &Vec::new() },
        candidates,
        exclude: &[],
    }
}

/// Success, latency in ms, quality and cost around their means.
struct Simulated {
    name: &'static str,
    success: f64,
    latency_ms: f64,
    quality: f64,
    cost: f64,
}

const GOOD: Simulated =
    Simulated { name: "good", success: 0.9, latency_ms: 2_000.0, quality: 0.9, cost: 0.05 };
const FAST_BUT_BAD: Simulated =
    Simulated { name: "hasty", success: 0.2, latency_ms: 50.0, quality: 0.4, cost: 0.04 };
const CHEAP: Simulated =
    Simulated { name: "cheap", success: 0.7, latency_ms: 3_000.0, quality: 0.6, cost: 0.002 };

fn outcome(agent: &Simulated, rng: &mut impl rand::Rng) -> Outcome {
    let is_success = rng.random::<f64>() < agent.success;
    let status = if is_success { Status::Success } else { Status::Failure };
    let noise = rng.random_range(0.8..1.2);
    Outcome {
        latency_ms: Some(agent.latency_ms * noise),
        cost: Some(agent.cost * noise),
        quality: is_success.then_some(agent.quality * rng.random_range(0.9..1.1)),
        ..Outcome::new(agent.name, status).on_task(TASK)
    }
}

fn learned(
    settings: Settings,
    agents: &[Simulated],
    outcomes: usize,
    seed: u64,
) -> AgentPerformanceModel {
    let mut rng = rng(seed);
    let mut model = AgentPerformanceModel::new(settings);
    for _ in 0..outcomes {
        for agent in agents {
            model.update(&outcome(agent, &mut rng));
        }
    }
    model
}

fn model() -> AgentPerformanceModel {
    learned(Settings::default(), &[GOOD, FAST_BUT_BAD, CHEAP], 200, 1)
}

fn names(contest: &Contest, ranked: &[Recommendation]) -> Vec<String> {
    let name = |recommendation: &Recommendation| {
        let agent = recommendation.agent.to_string();
        assert_eq!(*agent, *contest.standings[recommendation.standing].agent);
        agent
    };
    ranked.iter().map(name).collect()
}

fn ranked(contest: &Contest) -> Vec<String> {
    names(contest, &contest.rank(false, &mut rng(1)))
}

fn firsts(contest: &Contest, draws: usize) -> Vec<f64> {
    let mut rng = rng(11);
    let mut counts = vec![0_u32; contest.standings.len()];
    for _ in 0..draws {
        counts[contest.rank(true, &mut rng)[0].standing] += 1;
    }
    #[expect(clippy::cast_precision_loss, reason = "draws are few")]
    counts.into_iter().map(|count| f64::from(count) / draws as f64).collect()
}

#[test]
fn by_default_the_score_is_the_success_draw_alone() {
    let model = model();
    let question = question(None);
    let contest = model.contest(&question, &Terms::default());
    for seed in 0..100 {
        let by_success = rank(&model.standings(&question), true, &mut rng(seed));
        let by_terms = contest.rank(true, &mut rng(seed));
        assert_eq!(names(&contest, &by_success), names(&contest, &by_terms));
        for (a, b) in by_success.iter().zip(&by_terms) {
            assert_eq!((a.score, b.parts), (b.score, Parts::success(a.score)));
        }
    }
    assert_eq!(contest.propensities(), propensities(&model.standings(&question)));
    assert_eq!(contest.scales, Scales::default());
}

#[test]
fn a_fast_but_bad_agent_is_chosen_only_when_speed_is_asked_for_and_it_is_admissible() {
    let model = model();
    let first_of = |terms: &Terms| {
        let contest = model.contest(&question(None), terms);
        let shares = firsts(&contest, 10_000);
        let share = |name: &str| {
            contest.standings.iter().position(|s| &*s.agent == name).map(|index| shares[index])
        };
        (share("hasty"), contest)
    };
    assert_eq!(first_of(&Terms::default()).0, Some(0.0));

    let fast = Terms { weights: Preset::Fast.weights(), ..Terms::default() };
    assert_eq!(first_of(&fast).0, Some(1.0));
    // It succeeds in a fifth of its tasks: what can be said of 60 with 80 % is around that.
    for (min_success, is_admissible) in [(0.0, true), (0.1, true), (0.3, false), (0.8, false)] {
        let limits = Limits { min_success: Some(min_success), ..Limits::default() };
        let (share, contest) = first_of(&Terms { limits, ..fast });
        assert_eq!(share, is_admissible.then_some(1.0), "min_success {min_success}");
        let excluded: Vec<&str> = contest.excluded.iter().map(|out| &*out.agent).collect();
        assert_eq!(excluded.contains(&"hasty"), !is_admissible);
        if !is_admissible {
            let reason =
                &contest.excluded.iter().find(|out| &*out.agent == "hasty").unwrap().reason;
            assert!(reason.starts_with("min_success: ") && reason.contains("80 %"), "{reason}");
        }
    }
}

#[test]
fn presets_choose_what_they_say() {
    let model = model();
    let best = |preset: Preset| {
        ranked(
            &model
                .contest(&question(None), &Terms { weights: preset.weights(), ..Terms::default() }),
        )
    };
    assert_eq!(best(Preset::Success)[0], "good");
    assert_eq!(best(Preset::Fast)[0], "hasty");
    assert_eq!(best(Preset::Cheap)[0], "cheap");
    assert_eq!(best(Preset::Balanced)[0], "good");
}

#[test]
fn parts_are_measured_by_the_median_of_the_tenant_or_by_what_was_given() {
    let usual = Simulated { name: "usual", latency_ms: 1_000.0, cost: 0.1, ..GOOD };
    let model = learned(Settings::default(), &[usual], 400, 3);
    let weights = Weights { success: 1.0, quality: 1.0, latency: 1.0, cost: 1.0 };
    let terms = Terms { weights, ..Terms::default() };
    let expected = |terms: &Terms| {
        let contest = model.contest(&question(None), terms);
        (contest.rank(false, &mut rng(1))[0].clone(), contest.scales)
    };
    let near = |seen: f64, wanted: f64| {
        assert!((seen - wanted).abs() < 0.01 * wanted.max(1.0), "{seen}, {wanted}");
    };
    let (first, scales) = expected(&terms);
    near(scales.latency_ms.unwrap(), 993.0);
    near(scales.cost.unwrap(), 0.0993);
    let Parts { success, quality, latency, cost } = first.parts;
    near(latency.unwrap(), 0.5);
    near(cost.unwrap(), 0.5);
    near(quality.unwrap(), 0.9);
    near(first.score, (success + quality.unwrap() + latency.unwrap() + cost.unwrap()) / 4.0);

    let given = Scales { latency_ms: Some(3_000.0), cost: Some(0.025) };
    let (first, scales) = expected(&Terms { scales: given, ..terms });
    assert_eq!(scales, given);
    near(first.parts.latency.unwrap(), 0.75);
    near(first.parts.cost.unwrap(), 0.2);
}

#[test]
fn what_nobody_has_shown_has_no_say() {
    let mut model = AgentPerformanceModel::new(Settings::default());
    for _ in 0..20 {
        model.update(&Outcome::new("a", Status::Success).on_task(TASK));
        model.update(&Outcome::new("b", Status::Failure).on_task(TASK));
    }
    let terms = Terms { weights: Preset::Cheap.weights(), ..Terms::default() };
    let contest = model.contest(&question(None), &terms);
    let first = &contest.rank(false, &mut rng(1))[0];
    assert_eq!((&*first.agent, first.parts.cost), ("a", None));
    assert!((first.score - first.parts.success).abs() < 1e-12);
    assert_eq!(contest.scales.cost, None);
    // One of whom only the cost is known leaves the others with the tenant's, not with none.
    model.update(&Outcome { cost: Some(5.0), ..Outcome::new("b", Status::Failure).on_task(TASK) });
    let contest = model.contest(&question(None), &terms);
    for one in contest.rank(false, &mut rng(1)) {
        let part = one.parts.cost.unwrap();
        assert!((0.3..0.7).contains(&part), "{}: {part}", one.agent);
    }
    // Nobody at all is no error.
    let nobody = AgentPerformanceModel::new(Settings::default());
    let contest = nobody.contest(&question(None), &terms);
    assert!(contest.is_feasible() && contest.rank(true, &mut rng(1)).is_empty());
    assert_eq!((contest.best_expected(), contest.propensities()), (None, Vec::new()));
}

#[test]
fn limits_on_latency_and_cost_are_about_one_execution_and_name_who_is_out() {
    let model = model();
    let check = |limits: Limits, excluded: &[&str]| {
        let contest = model.contest(&question(None), &Terms { limits, ..Terms::default() });
        let out: Vec<&str> = contest.excluded.iter().map(|out| &*out.agent).collect();
        assert_eq!(out, excluded, "{limits:?}: {:?}", contest.excluded);
        assert_eq!(contest.standings.len() + out.len(), 3);
        assert!(contest.is_feasible());
        assert!((contest.propensities().iter().sum::<f64>() - 1.0).abs() < 1e-9);
    };
    let limits = Limits::default();
    check(Limits { max_latency_ms: Some(10_000.0), ..limits }, &[]);
    // A mean of 2,000 with up to 2,400 in one execution.
    check(Limits { max_latency_ms: Some(2_050.0), ..limits }, &["cheap", "good"]);
    check(Limits { max_latency_ms: Some(2_050.0), confidence: 0.3, ..limits }, &["cheap"]);
    check(Limits { max_cost: Some(0.01), ..limits }, &["good", "hasty"]);
    check(Limits { min_quality: Some(0.55), ..limits }, &["hasty"]);
    let both = Limits { max_latency_ms: Some(2_900.0), max_cost: Some(0.1), ..limits };
    check(both, &["cheap"]);
}

#[test]
fn what_cannot_be_judged_is_said_to_be_unknown_and_on_unknown_decides() {
    let mut model = model();
    let all: Vec<String> =
        ["good", "hasty", "new", "slow"].into_iter().map(ToOwned::to_owned).collect();
    let contest = |model: &AgentPerformanceModel, on_unknown| {
        let limits = Limits { max_latency_ms: Some(100.0), ..Limits::default() };
        let terms = Terms { limits, on_unknown, ..Terms::default() };
        model.contest(&question(Some(&all)), &terms)
    };
    let excluded = |model: &AgentPerformanceModel, on_unknown| {
        let contest = contest(model, on_unknown);
        contest.excluded.iter().map(|out| out.agent.to_string()).collect::<Vec<_>>()
    };
    // Nothing is known of new and slow.
    assert_eq!(excluded(&model, OnUnknown::Auto), ["good"]);
    assert_eq!(excluded(&model, OnUnknown::Admit), ["good"]);
    assert_eq!(excluded(&model, OnUnknown::Exclude), ["good", "new", "slow"]);
    let verdicts = |contest: &Contest| contest.verdicts.concat();
    assert_eq!(
        verdicts(&contest(&model, OnUnknown::Auto)),
        [Verdict::Met, Verdict::Unknown, Verdict::Unknown].map(|v| ("max_latency_ms", v))
    );
    let slow = |latency_ms, task| Outcome {
        latency_ms: Some(latency_ms),
        ..Outcome::new("slow", Status::Success).on_task(task)
    };
    // Where an agent was not slow, nothing speaks against it.
    let mut quick = model.clone();
    (0..4).for_each(|_| quick.update(&slow(50.0, "other")));
    assert_eq!(excluded(&quick, OnUnknown::Auto), ["good"]);
    // Little says enough where it is clear: on another task type, or on this one.
    for task in ["other", TASK] {
        let mut model = model.clone();
        (0..4).for_each(|_| model.update(&slow(60_000.0, task)));
        assert_eq!(excluded(&model, OnUnknown::Auto), ["good", "slow"], "{task}");
        assert_eq!(excluded(&model, OnUnknown::Admit), ["good"], "{task}");
        let contest = contest(&model, OnUnknown::Auto);
        let reason = &contest.excluded.last().unwrap().reason;
        let known = if task == TASK { 4 } else { 0 };
        let says = format!("max_latency_ms: unknown by {known} of the 5 values needed, but with");
        assert!(reason.starts_with(&says) && reason.ends_with(", allowed is 100"), "{reason}");
    }
    (0..5).for_each(|_| model.update(&slow(60_000.0, TASK)));
    assert_eq!(excluded(&model, OnUnknown::Admit), ["good", "slow"], "now it is judged");

    // A measure that nobody has shown can't be judged of anybody.
    let mut bare = AgentPerformanceModel::new(Settings::default());
    (0..20).for_each(|_| bare.update(&Outcome::new("good", Status::Success).on_task(TASK)));
    assert!(excluded(&bare, OnUnknown::Auto).is_empty());
    let nobody = contest(&bare, OnUnknown::Exclude);
    assert!(!nobody.is_feasible() && nobody.violations.len() == 4);
    assert_eq!(nobody.violations[0].reason, "max_latency_ms: unknown by 0 of the 5 values needed");
    // The chance of success as well.
    let limits = Limits { min_success: Some(0.6), ..Limits::default() };
    let terms = Terms { limits, on_unknown: OnUnknown::Exclude, ..Terms::default() };
    let contest = bare.contest(&question(Some(&all)), &terms);
    assert_eq!(contest.verdicts, [[("min_success", Verdict::Met)]]);
    assert_eq!(contest.excluded.len(), 3);
}

/// Two prices have no log-normal distribution: four executions of five cost 0.01, the others 0.1.
#[test]
fn a_limit_is_met_by_what_happened_not_by_a_shape() {
    for count in [50, 200, 2_000] {
        let mut model = AgentPerformanceModel::new(Settings::default());
        for index in 0..count {
            let cost = Some(if index % 5 == 0 { 0.1 } else { 0.01 });
            model.update(&Outcome { cost, ..Outcome::new("a", Status::Success).on_task(TASK) });
        }
        let meets = |max_cost, confidence| {
            let limits = Limits { max_cost: Some(max_cost), confidence, ..Limits::default() };
            let terms = Terms { limits, ..Terms::default() };
            model.contest(&question(None), &terms).is_feasible()
        };
        assert!(meets(0.1, 0.9) && meets(0.01, 0.7), "{count}");
        assert!(!meets(0.0999, 0.9) && !meets(0.0099, 0.2), "{count}");
        if count >= 200 {
            assert!(meets(0.1, 0.999));
        }
    }
}

#[test]
fn when_nobody_is_admissible_the_least_violation_comes_first() {
    let model = model();
    let limits = Limits { max_latency_ms: Some(10.0), ..Limits::default() };
    let contest = model.contest(&question(None), &Terms { limits, ..Terms::default() });
    assert!(!contest.is_feasible());
    assert_eq!(contest.excluded, []);
    assert_eq!(ranked(&contest), ["hasty", "good", "cheap"]);
    assert_eq!(firsts(&contest, 100), [0.0, 0.0, 1.0]);
    assert_eq!(contest.propensities(), [0.0, 0.0, 1.0]);
    assert_eq!(contest.best_expected(), Some(2));
    let reasons: Vec<&str> = contest.violations.iter().map(|v| &*v.reason).collect();
    assert!(reasons.iter().all(|reason| reason.starts_with("max_latency_ms: ")), "{reasons:?}");
    // Nobody meets a limit of 0, and by how much tells them apart.
    let limits = Limits { max_cost: Some(0.0), ..Limits::default() };
    let contest = model.contest(&question(None), &Terms { limits, ..Terms::default() });
    assert_eq!(ranked(&contest), ["cheap", "hasty", "good"]);
    // With nothing left to spend, too; and the objective rules among equals only.
    let terms = Terms { weights: Preset::Fast.weights(), cheapest_first: true, ..Terms::default() };
    let contest = model.contest(&question(None), &Terms { limits, ..terms });
    assert_eq!(ranked(&contest), ["cheap", "hasty", "good"]);
    assert_eq!(contest.best_expected(), Some(0));
    // Two limits count more than one.
    let limits = Limits { min_success: Some(0.99), max_cost: Some(0.01), ..Limits::default() };
    let contest = model.contest(&question(None), &Terms { limits, ..Terms::default() });
    assert_eq!(ranked(&contest), ["cheap", "good", "hasty"]);
    assert!(contest.violations[1].reason.contains("; max_cost: "));
}

#[test]
fn when_nothing_may_be_spent_the_cheapest_admissible_is_first() {
    let model = model();
    let terms = Terms { cheapest_first: true, ..Terms::default() };
    let contest = model.contest(&question(None), &terms);
    assert_eq!(ranked(&contest), ["cheap", "hasty", "good"]);
    assert_eq!(contest.propensities(), [1.0, 0.0, 0.0]);
    let limits = Limits { min_success: Some(0.8), ..Limits::default() };
    let contest = model.contest(&question(None), &Terms { limits, ..terms });
    assert_eq!(ranked(&contest), ["good"]);
}

#[test]
fn a_strategy_without_draws_has_none_of_any_part() {
    let settings = Settings { strategy: Strategy::MovingAverage, ..Settings::default() };
    let model = learned(settings, &[GOOD, FAST_BUT_BAD, CHEAP], 20, 1);
    let terms = Terms { weights: Preset::Balanced.weights(), ..Terms::default() };
    let contest = model.contest(&question(None), &terms);
    assert_eq!(firsts(&contest, 100), contest.propensities());
    let best = contest.best_expected().unwrap();
    assert!(contest.propensities()[best] > 1.0 - 1e-12);
    assert_eq!(ranked(&contest)[0], *contest.standings[best].agent);
}

/// Worlds in which it is open who is first: few outcomes, agents alike.
fn open_world(
    strategy: Strategy,
    agents: usize,
    seed: u64,
) -> (AgentPerformanceModel, Vec<String>) {
    let mut rng = rng(seed);
    let settings = Settings { strategy, ..Settings::default() };
    let mut model = AgentPerformanceModel::new(settings);
    let names: Vec<String> = (0..agents).map(|agent| format!("agent-{agent:04}")).collect();
    for name in &names[..agents - 1] {
        let agent = Simulated {
            name: "",
            success: rng.random_range(0.3..0.9),
            latency_ms: rng.random_range(500.0..3_000.0),
            quality: rng.random_range(0.3..0.9),
            cost: rng.random_range(0.01..0.1),
        };
        for _ in 0..rng.random_range(1..30) {
            model.update(&Outcome { agent: name.clone(), ..outcome(&agent, &mut rng) });
        }
    }
    // And one of which nothing is known.
    (model, names)
}

#[test]
fn propensities_are_the_frequencies_of_being_first() {
    const DRAWS: usize = 100_000;
    let mut rng = rng(5);
    let mut worst = 0.0_f64;
    for seed in 0..12 {
        let strategy = if seed % 3 == 2 { Strategy::Beta } else { Strategy::Thompson };
        let (model, names) = open_world(strategy, 2 + usize::try_from(seed).unwrap(), seed);
        let mut weight = || if rng.random_bool(0.3) { 0.0 } else { rng.random_range(0.1..1.0) };
        let weights =
            Weights { success: weight(), quality: weight(), latency: weight(), cost: 0.2 };
        let terms = Terms { weights, ..Terms::default() };
        let contest = model.contest(&question(Some(&names)), &terms);
        let propensities = contest.propensities();
        assert!((propensities.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        for (seen, told) in firsts(&contest, DRAWS).into_iter().zip(propensities) {
            worst = worst.max((seen - told).abs());
        }
    }
    // The standard error of a frequency is at most 0.0016: 0.005 of the bound is for that.
    assert!(worst < 0.01, "{worst}");
}

/// One strong agent among others that are weaker, but may be first.
fn strong_among(agents: usize, seed: u64) -> (AgentPerformanceModel, Vec<String>) {
    let mut rng = rng(seed);
    let mut model = AgentPerformanceModel::new(Settings::default());
    let names: Vec<String> = (0..agents).map(|agent| format!("agent-{agent:04}")).collect();
    for (place, name) in names.iter().enumerate() {
        let (success, latency_ms) = if place == agents / 2 { (0.9, 800.0) } else { (0.6, 1_500.0) };
        let agent = Simulated { name: "", success, latency_ms, quality: 0.7, cost: 0.05 };
        // Few know less.
        for _ in 0..if agents < 100 { 4 } else { 12 } {
            model.update(&Outcome { agent: name.clone(), ..outcome(&agent, &mut rng) });
        }
    }
    (model, names)
}

#[test]
fn propensities_of_very_many_agents_are_frequencies_too() {
    // (agents, draws, bound): what is told, and three standard errors of the draws.
    for (agents, draws, bound) in
        [(20, 40_000, 0.01 + 0.0075), (50, 40_000, 0.01 + 0.0075), (1_000, 20_000, 0.01 + 0.0106)]
    {
        for seed in 0..2 {
            let (model, names) = strong_among(agents, seed);
            let weights = Weights { success: 1.0, quality: 0.0, latency: 0.5, cost: 0.0 };
            let terms = Terms { weights, ..Terms::default() };
            let contest = model.contest(&question(Some(&names)), &terms);
            let propensities = contest.propensities();
            assert!((propensities.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            for (seen, told) in firsts(&contest, draws).into_iter().zip(propensities) {
                assert!((seen - told).abs() < bound, "{agents}: {seen} {told}");
            }
        }
    }
}

#[test]
fn agents_with_the_same_scores_have_the_same_propensity() {
    // Everybody's quality is always 1: a draw of it mostly is 1, too.
    let mut model = AgentPerformanceModel::new(Settings::default());
    let names: Vec<String> = (0..10).map(|agent| format!("agent-{agent}")).collect();
    for _ in 0..20 {
        for name in &names {
            let perfect = Outcome::new(name.clone(), Status::Success).on_task(TASK);
            model.update(&Outcome { quality: Some(1.0), cost: Some(0.0), ..perfect });
        }
    }
    let quality = Weights { success: 0.0, quality: 1.0, latency: 0.0, cost: 0.0 };
    let terms = Terms { weights: quality, ..Terms::default() };
    for told in model.contest(&question(Some(&names)), &terms).propensities() {
        assert!((told - 0.1).abs() < 0.01, "{told}");
    }
    // Nobody has paid anything, so cost has no say.
    let terms = Terms { weights: Preset::Cheap.weights(), ..Terms::default() };
    let contest = model.contest(&question(Some(&names)), &terms);
    assert_eq!(contest.scales.cost, None);
    assert!(contest.rank(true, &mut rng(1)).iter().all(|one| one.parts.cost.is_none()));
}

#[test]
fn propensities_do_not_depend_on_how_small_scores_are() {
    for latency in [3.0, 7.0, 1_000.1, 123_456.7] {
        let mut model = AgentPerformanceModel::new(Settings::default());
        for (agent, slower) in [("a", 1.0), ("b", 1.0), ("slow", 2.0)] {
            for _ in 0..30_000 {
                let success = Outcome::new(agent, Status::Success).on_task(TASK);
                model.update(&Outcome { latency_ms: Some(slower * latency), ..success });
            }
        }
        for scale in [1e-300, 0.9 * latency, 1.1 * latency, 9.7 * latency, 1e12] {
            let terms = Terms {
                weights: Weights { success: 0.0, quality: 0.0, latency: 1.0, cost: 0.0 },
                scales: Scales { latency_ms: Some(scale), cost: None },
                ..Terms::default()
            };
            for candidates in [&["a"][..], &["a", "b", "slow"]] {
                let candidates: Vec<String> = candidates.iter().map(ToString::to_string).collect();
                let contest = model.contest(&question(Some(&candidates)), &terms);
                let propensities = contest.propensities();
                let sum: f64 = propensities.iter().sum();
                assert!((sum - 1.0).abs() < 1e-9, "{candidates:?}: {propensities:?}");
                if let [a, b, slow] = propensities[..] {
                    assert!((a - b).abs() < 0.01 && slow == 0.0, "{scale}: {propensities:?}");
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn parts_and_scores_stay_in_range_and_fall_with_latency_and_cost(
        a in 0.0..1e12_f64, b in 0.0..1e12_f64, scale in 1e-9..1e12_f64,
        weights in prop::array::uniform4(0.0..1e12_f64),
    ) {
        let mut model = AgentPerformanceModel::new(Settings::default());
        for (agent, amount) in [("a", a), ("b", b)] {
            for _ in 0..3 {
                model.update(&Outcome {
                    latency_ms: Some(amount), cost: Some(amount), quality: Some(0.5),
                    ..Outcome::new(agent, Status::Success).on_task(TASK)
                });
            }
        }
        let [success, quality, latency, cost] = weights;
        let terms = Terms {
            weights: Weights { success: success + 1e-3, quality, latency, cost },
            scales: Scales { latency_ms: Some(scale), cost: Some(scale) },
            ..Terms::default()
        };
        let contest = model.contest(&question(None), &terms);
        for explore in [false, true] {
            let mut ranked = contest.rank(explore, &mut rng(1));
            for one in &ranked {
                prop_assert!((0.0..=1.0).contains(&one.score));
                let Parts { success, quality, latency, cost } = one.parts;
                for part in [Some(success), quality, latency, cost].into_iter().flatten() {
                    prop_assert!((0.0..=1.0).contains(&part), "{:?}", one.parts);
                }
            }
            ranked.sort_by_key(|one| one.standing);
            if !explore && a < b {
                prop_assert!(ranked[0].parts.cost >= ranked[1].parts.cost);
                prop_assert!(ranked[0].parts.latency >= ranked[1].parts.latency);
            }
        }
    }
}

/// A floor deals its share out evenly among those who may be first, and propensities say so.
#[test]
fn a_floor_is_part_of_every_propensity() {
    let mut model = AgentPerformanceModel::new(Settings::default());
    for number in 0..200 {
        for (agent, rate) in [("a", 95), ("b", 50), ("c", 5)] {
            let status = if number * 37 % 100 < rate { Status::Success } else { Status::Failure };
            model.update(&Outcome::new(agent, status));
        }
    }
    let without = model.contest(&question(None), &Terms::default()).propensities();
    assert!(without[1] < 1e-3 && without[2] < 1e-3, "{without:?}");
    let terms = Terms { explore_min: 0.3, ..Terms::default() };
    let contest = model.contest(&question(None), &terms);
    let propensities = contest.propensities();
    for (with, without) in propensities.iter().zip(&without) {
        assert!((with - (0.7 * without + 0.1)).abs() < 1e-12, "{with} of {without}");
    }
    let rounds = 20_000;
    let mut first = [0.0; 3];
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(5);
    for _ in 0..rounds {
        let ranked = contest.rank(true, &mut rng);
        assert_eq!(ranked.len(), 3);
        first[ranked[0].standing] += 1.0 / f64::from(rounds);
    }
    for (share, propensity) in first.iter().zip(&propensities) {
        // Four standard errors of the share.
        let bound = 4.0 * (propensity * (1.0 - propensity) / f64::from(rounds)).sqrt();
        assert!((share - propensity).abs() < bound, "{first:?} drawn, {propensities:?} said");
    }
    // Without exploration there is none, and who is out because of a limit stays out.
    let ranked = contest.rank(false, &mut rng);
    assert_eq!(ranked[0].standing, 0);
    let limits = Limits { min_success: Some(0.3), ..Limits::default() };
    let contest = model.contest(&question(None), &Terms { limits, ..terms });
    let left = contest.propensities();
    assert_eq!(left.len(), 2);
    assert!((left[1] - 0.15).abs() < 1e-3, "{left:?}");
}

/// Two to six agents of all kinds, by objectives of two and of four parts, each seen often or hardly.
#[test]
fn propensities_by_an_objective_are_frequencies() {
    const DRAWS: u32 = 300_000;
    let mut rng = rng(3);
    for case in 0..12 {
        let agents = 2 + case % 5;
        let mut model = AgentPerformanceModel::new(Settings::default());
        for agent in 0..agents {
            let chance = rng.random_range(0.2..0.98);
            let latency_ms: f64 = rng.random_range(200.0..3_000.0);
            let cost: f64 = rng.random_range(0.001..0.05);
            for _ in 0..[3, 10, 40, 300][rng.random_range(0..4)] {
                let status =
                    if rng.random_bool(chance) { Status::Success } else { Status::Failure };
                let noise: f64 = rng.random_range(0.5..2.0);
                model.update(&Outcome {
                    latency_ms: Some(latency_ms * noise),
                    cost: Some(cost * noise),
                    quality: Some((chance * noise).min(1.0)),
                    ..Outcome::new(format!("a{agent}"), status).on_task(TASK)
                });
            }
        }
        let preset = [Preset::Balanced, Preset::Fast, Preset::Cheap][case % 3];
        let terms = Terms { weights: preset.weights(), ..Terms::default() };
        let contest = model.contest(&question(None), &terms);
        let mut first = vec![0_u32; agents];
        for _ in 0..DRAWS {
            first[contest.rank(true, &mut rng)[0].standing] += 1;
        }
        for (propensity, first) in contest.propensities().iter().zip(first) {
            let share = f64::from(first) / f64::from(DRAWS);
            // What is promised, and four standard errors of the share.
            let bound = 0.002 + 4.0 * (share * (1.0 - share) / f64::from(DRAWS)).sqrt();
            assert!((propensity - share).abs() < bound, "{propensity}, drawn {share}: {preset:?}");
        }
    }
}

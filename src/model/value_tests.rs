//! What is predicted of quality, latency and cost, on simulated agents whose truth is known.

use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use rand_distr::{Beta, Distribution, Gamma, LogNormal};

use super::*;

const ANY: Question<'static> = Question {
    tenant: DEFAULT_TENANT,
    task_type: None,
    context: &Vec::new(),
    candidates: None,
    exclude: &[],
};

fn rng(seed: u64) -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(seed)
}

fn learned(outcomes: impl IntoIterator<Item = Outcome>) -> AgentPerformanceModel {
    let mut model = AgentPerformanceModel::new(Settings::default());
    for outcome in outcomes {
        model.update(&outcome);
    }
    model
}

fn done(agent: &str, latency_ms: f64) -> Outcome {
    Outcome { latency_ms: Some(latency_ms), ..Outcome::new(agent, Status::Success) }
}

fn of<'a>(predictions: &'a [Predicted], agent: &str) -> &'a Predicted {
    predictions.iter().find(|predicted| &*predicted.agent == agent).unwrap()
}

fn value(
    model: &AgentPerformanceModel,
    question: &Question<'_>,
    agent: &str,
    measure: Measure,
) -> Value {
    of(&model.predictions(question, measure), agent).value.unwrap()
}

#[track_caller]
fn check_near(actual: f64, expected: f64, tolerance: f64) {
    let off = (actual / expected - 1.0).abs();
    assert!(off <= tolerance, "{actual} instead of {expected}, off by {off:.4}");
}

/// A simulated agent on a task type.
struct Truth {
    quality: Beta<f64>,
    latency: LogNormal<f64>,
    cost: Gamma<f64>,
    /// The means of the three.
    means: [f64; 3],
    p95_ms: f64,
}

impl Truth {
    fn new(rng: &mut impl rand::Rng) -> Self {
        let (mean, strength) = (rng.random_range(0.3..0.95), rng.random_range(5.0..30.0));
        let (median_ms, spread) =
            (rng.random_range(300.0..20_000.0_f64), rng.random_range(0.2..0.6));
        let (cost, shape) = (rng.random_range(0.002..0.5), rng.random_range(1.5..8.0));
        Self {
            quality: Beta::new(mean * strength, (1.0 - mean) * strength).unwrap(),
            latency: LogNormal::new(median_ms.ln(), spread).unwrap(),
            cost: Gamma::new(shape, cost / shape).unwrap(),
            means: [mean, median_ms * (0.5 * spread * spread).exp(), cost],
            p95_ms: median_ms * (1.644_853_626_951_472_2 * spread).exp(),
        }
    }

    fn outcome(&self, agent: &str, task: &str, rng: &mut impl rand::Rng) -> Outcome {
        Outcome {
            quality: Some(self.quality.sample(rng)),
            latency_ms: Some(self.latency.sample(rng)),
            cost: Some(self.cost.sample(rng)),
            ..Outcome::new(agent, Status::Success).on_task(task)
        }
    }
}

/// Eight agents on two task types, `count` outcomes each, in turn.
fn simulated(seed: u64, count: usize) -> (AgentPerformanceModel, Vec<(String, String, Truth)>) {
    let mut rng = rng(seed);
    let mut cells = Vec::new();
    for agent in 0..8 {
        for task in 0..2 {
            cells.push((format!("agent{agent}"), format!("task{task}"), Truth::new(&mut rng)));
        }
    }
    let mut model = AgentPerformanceModel::new(Settings::default());
    for _ in 0..count {
        for (agent, task, truth) in &cells {
            model.update(&truth.outcome(agent, task, &mut rng));
        }
    }
    (model, cells)
}

/// 20 seeds of 16 cells each: 320 intervals per measure. If they cover with 90 %, the share has a
/// standard deviation of 1.7 %, so 85 to 95 % is three of them to both sides.
#[test]
fn intervals_of_the_mean_cover_it_after_200_outcomes() {
    let mut covered = [0; 3];
    let mut intervals = 0;
    for seed in 0..20 {
        let (model, cells) = simulated(seed, 200);
        for (agent, task, truth) in &cells {
            let question = Question { task_type: Some(task), ..ANY };
            for measure in Measure::ALL {
                let [low, high] = value(&model, &question, agent, measure).interval();
                let mean = truth.means[measure as usize];
                covered[measure as usize] += u32::from(low <= mean && mean <= high);
            }
            intervals += 1;
        }
    }
    for (measure, covered) in Measure::ALL.into_iter().zip(covered) {
        let share = f64::from(covered) / f64::from(intervals);
        assert!((0.85..=0.95).contains(&share), "{measure:?}: {share}");
    }
}

/// The estimate of the p95 of a log-normal has a standard deviation of `spread * sqrt((1 + z^2 / 2) /
/// n)` on the log scale: 2.9 % for the widest spread here, so that 10 % are 3.4 of them.
#[test]
fn p95_of_latency_is_near_after_1000_outcomes() {
    for seed in 100..105 {
        let (model, cells) = simulated(seed, 1_000);
        for (agent, task, truth) in &cells {
            let question = Question { task_type: Some(task), ..ANY };
            let [p50, p95, p99] = value(&model, &question, agent, Measure::Latency).quantiles();
            assert!(p50 < p95 && p95 < p99);
            check_near(p95, truth.p95_ms, 0.1);
        }
    }
}

/// Executions are stopped at a limit that 30 % would pass.
#[test]
fn a_timeout_counts_as_at_least_so_long_and_not_as_nothing() {
    let mut rng = rng(7);
    let (median_ms, spread) = (1_000.0_f64, 0.6);
    let truth = LogNormal::new(median_ms.ln(), spread).unwrap();
    let limit_ms = median_ms * (0.524 * spread).exp();
    let (mut all, mut completed) = (Vec::new(), Vec::new());
    for _ in 0..2_000 {
        let latency_ms = truth.sample(&mut rng);
        if latency_ms <= limit_ms {
            all.push(done("a", latency_ms));
            completed.push(done("a", latency_ms));
        } else {
            let stopped = Outcome::new("a", Status::Timeout);
            all.push(Outcome { latency_ms: Some(limit_ms), ..stopped });
        }
    }
    let mean_ms = median_ms * (0.5 * spread * spread).exp();
    let p95_ms = median_ms * (1.645 * spread).exp();
    let with = value(&learned(all), &ANY, "a", Measure::Latency);
    check_near(with.quantiles()[0], median_ms, 0.05);
    check_near(with.mean(), mean_ms, 0.06);
    check_near(with.quantiles()[1], p95_ms, 0.1);
    let without = value(&learned(completed), &ANY, "a", Measure::Latency);
    assert!(without.mean() < 0.75 * mean_ms, "{}", without.mean());
    assert!(without.quantiles()[1] < 0.7 * p95_ms);
    let low = with.interval()[0];
    assert!(without.interval()[1] < low, "the bias is no chance");
}

/// Censoring keeps apart what context and task type explain.
#[test]
fn timeouts_of_one_task_type_leave_another_alone() {
    let mut rng = rng(8);
    let mut model = AgentPerformanceModel::new(Settings::default());
    for _ in 0..1_000 {
        for (task, median_ms) in [("short", 100.0_f64), ("long", 10_000.0)] {
            let latency_ms: f64 = LogNormal::new(median_ms.ln(), 0.5).unwrap().sample(&mut rng);
            let outcome = if latency_ms > 10_000.0 {
                Outcome { latency_ms: Some(10_000.0), ..Outcome::new("a", Status::Timeout) }
            } else {
                done("a", latency_ms)
            };
            model.update(&outcome.on_task(task));
        }
    }
    for (task, median_ms) in [("short", 100.0), ("long", 10_000.0)] {
        let question = Question { task_type: Some(task), ..ANY };
        let [p50, ..] = value(&model, &question, "a", Measure::Latency).quantiles();
        check_near(p50, median_ms, 0.08);
    }
}

#[test]
fn one_absurd_latency_changes_little_wherever_it_comes() {
    let values: Vec<f64> = {
        let mut rng = rng(9);
        let latency = LogNormal::new(1_000.0_f64.ln(), 0.5).unwrap();
        (0..300).map(|_| latency.sample(&mut rng)).collect()
    };
    let sane = |values: &[f64]| {
        value(&learned(values.iter().map(|ms| done("a", *ms))), &ANY, "a", Measure::Latency)
    };
    let before = sane(&values);
    for absurd in [1e12, 0.0] {
        for place in [0, 1, 3, 4, 5, 20, 299] {
            let mut values = values.clone();
            values.insert(place, absurd);
            let after = sane(&values);
            check_near(after.mean(), before.mean(), 0.06);
            check_near(after.quantiles()[1], before.quantiles()[1], 0.12);
        }
    }
}

#[test]
fn an_agent_that_becomes_slower_is_followed() {
    let fast = std::iter::repeat_with(|| done("a", 100.0)).take(500);
    let slow = std::iter::repeat_with(|| done("a", 10_000.0)).take(20_000);
    let model = learned(fast.chain(slow));
    check_near(value(&model, &ANY, "a", Measure::Latency).quantiles()[0], 10_000.0, 0.2);
}

#[test]
fn what_is_unknown_of_an_agent_comes_from_the_pool() {
    let mut rng = rng(10);
    let mut outcomes = Vec::new();
    for index in 0..400 {
        let factor = if index % 2 == 0 { 1.0 } else { 4.0 };
        let complexity = if index % 2 == 0 { "low" } else { "high" };
        let latency: f64 = LogNormal::new(0.0, 0.3).unwrap().sample(&mut rng);
        let mut outcome = done(&format!("agent{}", index % 7), 500.0 * factor * latency);
        outcome.context = vec![("complexity".into(), Feature::Text(complexity.into()))];
        outcomes.push(outcome);
    }
    outcomes.push(Outcome::new("silent", Status::Success));
    let model = learned(outcomes);
    let candidates = ["new".to_owned(), "silent".to_owned(), "agent1".to_owned()];
    for (complexity, expected) in [("low", 500.0), ("high", 2_000.0)] {
        let context = vec![("complexity".to_owned(), Feature::Text(complexity.into()))];
        let question = Question { context: &context, candidates: Some(&candidates), ..ANY };
        let predictions = model.predictions(&question, Measure::Latency);
        for agent in ["new", "silent", "agent1"] {
            let predicted = of(&predictions, agent);
            let value = predicted.value.unwrap();
            check_near(value.quantiles()[0], expected, 0.15);
            assert_eq!(predicted.samples > 0, agent == "agent1");
        }
        let width = |agent: &str| {
            let [low, high] = of(&predictions, agent).value.unwrap().interval();
            high / low
        };
        assert!(width("new") > 1.1 * width("agent1"), "less is known of a new one");
    }
}

#[test]
fn the_pool_holds_back_a_few_values_and_gives_way_to_many() {
    let agents = (0..600).map(|index| {
        let quality = 0.7 + 0.05 * f64::from(index % 5);
        let agent = format!("agent{}", index % 6);
        Outcome { quality: Some(quality), ..Outcome::new(agent, Status::Success) }
    });
    let poor = |count| {
        let poor = Outcome { quality: Some(0.1), ..Outcome::new("poor", Status::Success) };
        let model = learned(agents.clone().chain(std::iter::repeat_n(poor, count)));
        value(&model, &ANY, "poor", Measure::Quality).mean()
    };
    let (one, many) = (poor(1), poor(200));
    assert!((0.3..0.75).contains(&one), "{one}");
    assert!((many - 0.1).abs() < 0.02, "{many}");
}

#[test]
fn a_cost_that_is_unknown_is_not_zero() {
    let outcome = |agent: &str, cost| Outcome { cost, ..Outcome::new(agent, Status::Success) };
    let model = learned([outcome("a", None), outcome("b", None)]);
    let nothing = model.predictions(&ANY, Measure::Cost);
    assert!(nothing.iter().all(|predicted| predicted.value.is_none() && predicted.samples == 0));

    let mut outcomes = vec![outcome("free", Some(0.0)); 40];
    outcomes.extend(vec![outcome("paid", Some(0.3)); 40]);
    outcomes.extend(vec![outcome("silent", None); 40]);
    let failed = Outcome { status: Status::Failure, ..outcome("fails", Some(0.5)) };
    outcomes.extend(vec![failed; 40]);
    let pending = Outcome { status: Status::Pending, ..outcome("paid", Some(1e6)) };
    outcomes.push(pending);
    let mut predictions = learned(outcomes).predictions(&ANY, Measure::Cost);
    best_first(&mut predictions, Measure::Cost);
    let names: Vec<&str> = predictions.iter().map(|predicted| &*predicted.agent).collect();
    assert_eq!(names, ["free", "silent", "paid", "fails"]);
    let mean = |agent: &str| of(&predictions, agent).value.unwrap().mean();
    assert!(mean("free") < 0.01);
    check_near(mean("paid"), 0.3, 0.02);
    check_near(mean("fails"), 0.5, 0.02);
    check_near(mean("silent"), 0.267, 0.1);
}

#[test]
fn a_failure_says_nothing_about_latency() {
    let failed = Outcome { latency_ms: Some(1.0), ..Outcome::new("a", Status::Failure) };
    let mut outcomes = vec![done("a", 1_000.0); 20];
    outcomes.extend(vec![failed; 50]);
    let model = learned(outcomes);
    let predicted = &model.predictions(&ANY, Measure::Latency)[0];
    assert_eq!(predicted.samples, 20);
    check_near(predicted.value.unwrap().quantiles()[0], 1_000.0, 0.02);
}

/// Half of the executions take 100 ms, half 10,000 ms, as the task type and the size say.
#[test]
fn what_the_question_does_not_say_is_as_usual() {
    let mut rng = rng(11);
    let outcomes = (0..800).map(|index| {
        let is_long = index % 4 < 2;
        let latency = LogNormal::new(if is_long { 10_000.0_f64 } else { 100.0 }.ln(), 0.2).unwrap();
        let mut outcome = done(&format!("agent{}", index % 2), latency.sample(&mut rng));
        let size = if is_long { "large" } else { "small" };
        outcome.context = vec![("size".to_owned(), Feature::Text(size.to_owned()))];
        outcome.quality = Some(if is_long { 0.8 } else { 0.4 });
        outcome.on_task(if is_long { "long" } else { "short" })
    });
    let model = learned(outcomes);
    for task_type in [None, Some("unknown")] {
        let question = Question { task_type, ..ANY };
        let latency = value(&model, &question, "agent0", Measure::Latency);
        let [p50, p95, _] = latency.quantiles();
        check_near(p50, 1_000.0, 0.1);
        assert!(p95 > 10_000.0, "either may come: {p95}");
        let quality = value(&model, &question, "agent0", Measure::Quality);
        check_near(quality.mean(), 0.6, 0.02);
        let [low, high] = quality.interval();
        assert_eq!(high - low < 0.1, task_type.is_none(), "{task_type:?}: {low} to {high}");
    }
    for (task, expected) in [("short", 100.0), ("long", 10_000.0)] {
        let question = Question { task_type: Some(task), ..ANY };
        let [p50, ..] = value(&model, &question, "agent0", Measure::Latency).quantiles();
        let off: f64 = p50 / expected;
        assert!(
            (0.2..5.0).contains(&off),
            "task type and size share what they both explain: {p50}"
        );
    }
}

#[test]
fn evidence_is_of_the_task_type() {
    let mut outcomes = vec![done("a", 5.0).on_task("x"); 7];
    outcomes.extend(vec![done("a", 5.0).on_task("y"); 4]);
    outcomes.push(done("a", 5.0));
    let model = learned(outcomes);
    for (task_type, evidence) in [(None, 12), (Some("x"), 7), (Some("y"), 4), (Some("new"), 0)] {
        let predicted = &model.predictions(&Question { task_type, ..ANY }, Measure::Latency)[0];
        assert_eq!((predicted.samples, predicted.evidence), (12, evidence), "{task_type:?}");
    }
}

/// Every number that can come, in any order: what is answered is finite and in range, and the state
/// gives the same model back.
#[test]
fn whatever_is_learned_the_answers_are_sane_and_the_state_is_whole() {
    for seed in 0..40 {
        let mut rng = rng(seed);
        let amounts = [0.0, 1e-300, 1e-9, 0.5, 1.0, 7.0, 1e12];
        let mut model = AgentPerformanceModel::new(Settings::default());
        for _ in 0..rng.random_range(1..200) {
            let mut pick = || rng.random_bool(0.8).then(|| amounts[rng.random_range(0..7)]);
            let (latency_ms, cost) = (pick(), pick());
            let quality = pick().map(|quality: f64| quality.min(1.0));
            let number = pick().unwrap_or(-1e300);
            let status = Status::ALL[rng.random_range(0..6)];
            let mut context = vec![("n".to_owned(), Feature::Number(number))];
            context.extend((0..rng.random_range(0..4)).map(|key| {
                (format!("t{key}"), Feature::Text(rng.random_range(0..90).to_string()))
            }));
            let agent = format!("agent{}", rng.random_range(0..3));
            let outcome =
                Outcome { context, latency_ms, quality, cost, ..Outcome::new(agent, status) };
            let task = rng.random_range(0..60).to_string();
            model.update(&if rng.random_bool(0.7) { outcome.on_task(task) } else { outcome });
        }
        let context = vec![
            ("n".to_owned(), Feature::Number(1e300)),
            ("t0".to_owned(), Feature::Text("1".into())),
        ];
        let question = Question { task_type: Some("1"), context: &context, ..ANY };
        let json = serde_json::to_string(&model.state()).unwrap();
        let settings = *model.settings();
        let restored = AgentPerformanceModel::from_state(json.as_bytes(), 0, settings).unwrap();
        assert_eq!(restored.digest(), model.digest());
        assert_eq!(restored.value_bytes(), model.value_bytes());
        for measure in Measure::ALL {
            let predictions = model.predictions(&question, measure);
            for (predicted, again) in
                predictions.iter().zip(restored.predictions(&question, measure))
            {
                assert_eq!(predicted.value, again.value);
                let Some(value) = predicted.value else { continue };
                let [low, high] = value.interval();
                let numbers = [low, value.mean(), high];
                let max = if measure == Measure::Quality { 1.0 } else { 1e12 };
                let all = numbers.iter().chain(&value.quantiles()).all(|x| (0.0..=max).contains(x));
                assert!(all && numbers.is_sorted(), "seed {seed}: {measure:?} {value:?}");
            }
        }
    }
}

#[test]
fn memory_is_bounded_and_what_does_not_fit_is_learned_without_its_features() {
    let caps = Caps { covariances_mib: 0, ..Caps::default() };
    let mut model = AgentPerformanceModel::new(Settings { caps, ..Settings::default() });
    for index in 0..2_000 {
        let mut outcome = done(&format!("agent{}", index % 50), 200.0);
        outcome.context = vec![("k".to_owned(), Feature::Text((index % 40).to_string()))];
        model.update(&outcome.on_task(format!("task{}", index % 30)));
    }
    // An intercept takes two numbers; 50 agents and the pool have one.
    assert_eq!(model.value_bytes(), 51 * 2 * 8);
    check_near(value(&model, &ANY, "agent1", Measure::Latency).quantiles()[0], 200.0, 0.02);

    let mut model = AgentPerformanceModel::new(Settings::default());
    for index in 0..20_000 {
        let mut outcome = done("a", 200.0);
        outcome.context = vec![
            ("ticket".to_owned(), Feature::Text(index.to_string())),
            ("kind".to_owned(), Feature::Text((index % 50).to_string())),
        ];
        model.update(&outcome.on_task(format!("task{}", index % 900)));
    }
    // 48 rows of the agent and of the pool.
    assert!(model.value_bytes() <= 2 * (48 * 49 / 2 + 48) * 8, "{}", model.value_bytes());
}

/// Whoever imports a model may bring any state: a row of several features would be counted as often.
#[test]
fn a_state_in_which_features_share_a_row_is_corrupt() {
    let model = learned(["t", "u"].map(|task| done("a", 200.0).on_task(task)));
    let json = serde_json::to_string(&model.state()).unwrap();
    let shared = json.replace(r#""rows":[1,2],"row_keys""#, r#""rows":[1,1],"row_keys""#);
    assert_ne!(shared, json);
    let restored = AgentPerformanceModel::from_state(shared.as_bytes(), 2, *model.settings());
    assert!(matches!(restored, Err(crate::Error::Corrupt(_))));
}

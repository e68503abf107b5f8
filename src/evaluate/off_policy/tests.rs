//! Estimates by hand, coverage worked out exactly where it can be, and against the value of policies in
//! made-up worlds.
#![expect(clippy::float_cmp, reason = "equal means bit-equal here, unless `close` says otherwise")]

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::model::{AgentPerformanceModel, Question, Settings, propensities, rank};
use crate::outcome::{Context, DEFAULT_TENANT, Feature, Outcome, Status};

#[track_caller]
fn close(seen: f64, expected: f64) {
    assert!((seen - expected).abs() < 1e-12, "{seen}, {expected}");
}

fn candidate(propensity: f64, expected_success: f64) -> Candidate {
    Candidate { agent: String::new(), expected_success, propensity }
}

/// A decision between one whom the policy would choose and one whom it would not.
fn one_of_two(propensity: f64, expected: f64, is_chosen: bool, reward: Option<f64>) -> Judged {
    let candidates = [candidate(propensity, expected), candidate(1.0 - propensity, expected)];
    Judged::new(&candidates, &[1.0, 0.0], usize::from(!is_chosen), reward)
}

fn estimated(decisions: &[Judged]) -> Estimates {
    estimate(decisions, &Support::of(decisions)).expect("there is something to estimate from")
}

#[test]
fn the_estimates_are_those_of_their_formulas() {
    // pi, p, q of two candidates, who was chosen, and what came of it.
    let decision = |pi: f64, p: f64, q: [f64; 2], chosen: usize, reward: f64| {
        let candidates = [candidate(p, q[0]), candidate(1.0 - p, q[1])];
        Judged::new(&candidates, &[pi, 1.0 - pi], chosen, Some(reward))
    };
    let four = [
        decision(1.0, 0.5, [0.75, 0.25], 0, 1.0),
        decision(1.0, 0.5, [0.25, 0.5], 1, 1.0),
        decision(0.25, 0.25, [0.5, 0.25], 0, 0.0),
        decision(0.75, 0.5, [0.25, 0.5], 1, 0.5),
    ];
    // Weights 2, 0, 1, 0.5; rewards 1, 1, 0, 0.5; expected 0.75, -, 0.5, 0.5 of the chosen and
    // 0.75, 0.25, 0.3125, 0.3125 of the policy; expected squares 2, 2, 1, 1.25.
    let log: Vec<Judged> = four.iter().cycle().take(100).cloned().collect();
    let Estimates { logged, effective_sample_size, ips, snips, dm, dr } = estimated(&log);
    close(logged.value, 2.5 / 4.0);
    close(effective_sample_size, 25.0 * 3.5_f64.powi(2) / 5.25);
    close(ips.value, (2.0 + 0.25) / 4.0);
    close(snips.value, 2.25 / 3.5);
    close(dm.value, 1.625 / 4.0);
    close(dr.value, 1.625 / 4.0 + (0.5 - 0.5) / 3.5);

    // The squares are expected to sum to 156.25, more than the 131.25 seen.
    let inflation = 156.25 / 131.25;
    let one = inflation * 131.25 / 87.5;
    let all = 87.5 + 4.0 * one;
    let centre = (25.0 * 2.25 + 2.0 * one) / all;
    let seen = [(2.0, 1.0), (1.0, 0.0), (0.5, 0.5)]
        .map(|(weight, reward): (f64, f64)| 25.0 * (weight * (reward - centre)).powi(2));
    let ends = 2.0 * one * one * ((1.0 - centre).powi(2) + centre.powi(2));
    let variance = (inflation * seen.iter().sum::<f64>() + ends) / all / all;
    let margin = t_975(87.5 / one + 3.0) * variance.sqrt();
    close(snips.interval[0], centre - margin);
    close(snips.interval[1], centre + margin);
    assert_eq!(snips.interval, snips.judged_interval, "nothing is left out");
    assert!(dm.interval[0] <= dr.interval[0] && dr.interval[1] <= dm.interval[1]);
    assert!(ips.interval[1] - ips.interval[0] > snips.interval[1] - snips.interval[0]);
}

#[test]
fn the_logging_policy_earns_what_was_logged() {
    let log: Vec<Judged> = (0..10)
        .map(|number| {
            let candidates = [candidate(0.25, 0.5), candidate(0.75, 0.5)];
            let reward = f64::from(number % 3 % 2);
            Judged::new(&candidates, &[0.25, 0.75], usize::from(number > 2), Some(reward))
        })
        .collect();
    let estimates = estimated(&log);
    for estimate in [estimates.ips, estimates.snips, estimates.dr] {
        close(estimate.value, estimates.logged.value);
        close(estimate.interval[0], estimates.logged.interval[0]);
        close(estimate.interval[1], estimates.logged.interval[1]);
    }
    close(estimates.effective_sample_size, 10.0);
}

#[test]
fn a_few_successes_say_little() {
    let log = vec![one_of_two(1.0, 0.9, true, Some(1.0)); 5];
    // Seven of nine, with t for eight degrees of freedom.
    let variance = (5.0 * (2.0_f64 / 9.0).powi(2) + 2.0 * (4.0 + 49.0) / 81.0) / 81.0;
    let low = 7.0 / 9.0 - t_975(8.0) * variance.sqrt();
    let Estimates { ips, snips, dr, logged, .. } = estimated(&log);
    for estimate in [ips, snips, dr, logged] {
        close(estimate.value, 1.0);
        close(estimate.interval[0], low);
        assert_eq!(estimate.interval[1], 1.0);
    }
    assert!((0.4..0.5).contains(&low), "{low}");
}

#[test]
fn the_better_the_reward_model_the_less_the_doubly_robust_estimate_varies() {
    let of = |model: fn(f64) -> f64| {
        let log: Vec<Judged> = (0..2_000)
            .map(|number| {
                let reward = f64::from(number / 2 % 2);
                one_of_two(0.5, model(reward), number % 2 == 0, Some(reward))
            })
            .collect();
        estimated(&log)
    };
    let width = |estimate: Estimate| estimate.interval[1] - estimate.interval[0];
    let (perfect, ignorant) = (of(|reward| reward), of(|_| 0.0));
    close(perfect.dr.value, 0.5);
    close(ignorant.dr.value, ignorant.snips.value);
    close(width(ignorant.dr), width(ignorant.snips));
    assert!(width(perfect.dr) < 0.8 * width(ignorant.dr), "{perfect:?}");
}

#[test]
fn a_log_that_says_nothing_gives_no_estimate() {
    let one = one_of_two(0.5, 0.5, true, Some(1.0));
    let other_choice = one_of_two(0.5, 0.5, false, Some(1.0));
    let missing = one_of_two(0.5, 0.5, true, None);
    let none = |log: &[Judged]| estimate(log, &Support::of(log)).is_none();
    assert!(none(&[]));
    assert!(none(std::slice::from_ref(&one)));
    assert!(none(&vec![other_choice.clone(); 5]));
    assert!(none(&[one.clone(), missing.clone()]), "one is known");
    assert!(none(&[missing.clone(), missing, other_choice.clone(), other_choice.clone()]));
    assert!(!none(&[one, other_choice]));
}

/// What can't be judged is told by its reason, and widens the interval by as much as it could matter.
#[test]
fn what_is_left_out_takes_the_worst_and_the_best_case() {
    let mut log: Vec<Judged> =
        (0..600).map(|number| one_of_two(0.5, 0.6, number % 2 == 0, Some(1.0))).collect();
    let plain = estimated(&log);
    log.extend(vec![Judged::against(Reason::Absent, Some(0.0)); 100]);
    log.extend(vec![Judged::against(Reason::InSample, Some(1.0)); 200]);
    log.extend(vec![Judged::against(Reason::Undrawn, Some(1.0)); 50]);
    log.extend(vec![one_of_two(0.0, 0.6, false, Some(1.0)); 50]);
    let support = Support::of(&log);
    for (seen, expected) in support.left_out.iter().zip([0.1, 0.05, 0.2, 0.05, 0.0]) {
        close(*seen, expected);
    }
    close(support.left_out_share(), 0.4);
    assert_eq!(support.judged, 600);
    let estimates = estimated(&log);
    let scaled = |low: f64| 0.6 * low;
    for (seen, alone) in [(estimates.snips, plain.snips), (estimates.dr, plain.dr)] {
        close(seen.value, alone.value);
        close(seen.judged_interval[1], alone.judged_interval[1]);
        close(seen.interval[1], 1.0);
        assert!((seen.interval[0] - scaled(alone.interval[0])).abs() < 0.01, "{seen:?}, {alone:?}");
    }
    assert_eq!(estimates.logged.value, 900.0 / 1_000.0);
}

#[test]
fn a_missing_outcome_may_have_been_anything() {
    let log: Vec<Judged> = (0..1_000)
        .map(|number| {
            let reward = (number % 10 != 0).then_some(f64::from(number / 10 % 2));
            one_of_two(0.5, 0.5, number % 5 < 4, reward)
        })
        .collect();
    // 800 with a weight of 2, of which 100 are missing.
    let support = Support::of(&log);
    close(support.left_out_share(), 0.125);
    assert_eq!(support.left_out[4], support.left_out_share());
    let Estimates { snips, dr, logged, .. } = estimated(&log);
    for estimate in [snips, dr] {
        close(estimate.value, 0.5);
        let [low, high] = estimate.interval;
        let [own_low, own_high] = estimate.judged_interval;
        let wider = (high - low) - (own_high - own_low);
        assert!((wider - 0.125).abs() < 0.01, "{wider}");
        assert!(low < 0.4375 && high > 0.5625, "both extremes are held: {estimate:?}");
    }
    assert!(logged.interval[0] < 0.45 && logged.interval[1] > 0.55, "{logged:?}");
}

#[test]
fn what_is_rare_counts_where_enough_of_it_was_to_be_expected() {
    let rare = |count: usize, propensity: f64| {
        let mut log = vec![one_of_two(0.9, 0.5, true, Some(1.0)); 9 * count];
        log.extend(vec![one_of_two(propensity, 0.5, false, Some(1.0)); count]);
        Support::of(&log)
    };
    // Ten were to be expected of a thousand; three of thirty are too few.
    let few = rare(100, 0.02);
    assert_eq!(few.weight_max, 2.0);
    close(few.left_out_share(), 0.1);
    let many = rare(20_000, 0.02);
    assert_eq!((many.weight_max, many.left_out_share()), (50.0, 0.0));
    // Never beyond a hundred.
    close(rare(20_000, 0.009).left_out_share(), 0.1);
    // What the policy itself rarely chooses is no heavy weight.
    let candidates = [candidate(0.999, 0.5), candidate(0.001, 0.5)];
    let log = vec![Judged::new(&candidates, &[0.999, 0.001], 0, Some(1.0)); 50];
    assert_eq!(Support::of(&log).left_out_share(), 0.0);
    // Where everything is rare there is nothing else to go by.
    let log: Vec<Judged> =
        (0..50).map(|number| one_of_two(0.1, 0.5, number % 10 == 0, Some(1.0))).collect();
    assert_eq!(Support::of(&log).left_out_share(), 0.0);
}

#[test]
fn quantiles_of_students_t_are_those_of_the_tables() {
    for (freedom, expected) in [
        (2.0, 4.302_653),
        (3.0, 3.182_446),
        (5.0, 2.570_582),
        (10.0, 2.228_139),
        (30.0, 2.042_272),
        (1e9, 1.959_964),
    ] {
        let seen = t_975(freedom);
        assert!((seen - expected).abs() < 0.008 * expected, "{freedom}: {seen}, {expected}");
    }
    assert!(t_975(0.0) > 11.0 && t_975(f64::MAX).is_finite());
}

const RATES: [f64; 13] = [0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98, 0.99];

/// Logarithms of the factorials of 0 to 1,000.
fn ln_factorials() -> Vec<f64> {
    let mut all = vec![0.0];
    for number in 1..=1_000 {
        all.push(all[number - 1] + count_f64(number).ln());
    }
    all
}

fn binomial(factorials: &[f64], of: usize, count: usize, chance: f64) -> f64 {
    let ways = factorials[of] - factorials[count] - factorials[of - count];
    (ways + count_f64(count) * chance.ln() + count_f64(of - count) * (-chance).ln_1p()).exp()
}

/// The probability, summed over all logs, that an interval holds the rate: of decisions in which the
/// agent was chosen with this propensity, and expected to succeed with this probability.
fn coverages(decisions: usize, propensity: f64, expected: f64) -> Vec<[f64; 4]> {
    let factorials = ln_factorials();
    let mut held = vec![([0.0; 4], 0.0); RATES.len()];
    for chosen in 1..=decisions {
        let chance = match propensity {
            1.0 if chosen == decisions => 1.0,
            1.0 => continue,
            _ => binomial(&factorials, decisions, chosen, propensity),
        };
        if chance < 1e-7 {
            continue;
        }
        for successes in 0..=chosen {
            let likely = RATES.map(|rate| chance * binomial(&factorials, chosen, successes, rate));
            if likely.iter().all(|likely| *likely < 1e-9) {
                continue;
            }
            let log: Vec<Judged> = (0..decisions)
                .map(|number| {
                    let reward = f64::from(u8::from(number < successes));
                    one_of_two(propensity, expected, number < chosen, Some(reward))
                })
                .collect();
            let Estimates { ips, snips, dm, dr, .. } = estimated(&log);
            for ((held, rate), likely) in held.iter_mut().zip(RATES).zip(likely) {
                held.1 += likely;
                for (held, of) in held.0.iter_mut().zip([ips, snips, dm, dr]) {
                    if of.interval[0] <= rate && rate <= of.interval[1] {
                        *held += likely;
                    }
                }
            }
        }
    }
    held.into_iter().map(|(held, of)| held.map(|held| held / of)).collect()
}

/// Worked out, not drawn: no seed has a part in it. (At .9 with 20 outcomes the interval of the weighted
/// mean alone holds the rate in 65 %.)
#[test]
fn intervals_hold_every_rate_whatever_the_number_of_outcomes() {
    let mut least: f64 = 1.0;
    for (propensity, numbers) in [
        (1.0, &[5, 6, 7, 10, 14, 20, 30, 50, 100, 200, 500, 1_000][..]),
        (0.5, &[10, 14, 20, 28, 40, 100]),
        (0.2, &[25, 35, 50, 100]),
        (0.05, &[100]),
    ] {
        for (decisions, expected) in
            numbers.iter().flat_map(|number| [(*number, 0.5), (*number, 0.95)])
        {
            for (rate, held) in RATES.iter().zip(coverages(decisions, propensity, expected)) {
                let [ips, snips, dm, dr] = held;
                let of = format!("{decisions} at {propensity}, rate {rate}: {held:?}");
                assert!(snips >= 0.9 && dm >= 0.9 && dr >= 0.9, "{of}");
                assert!(ips >= 0.85, "{of}");
                least = least.min(snips).min(dr);
            }
        }
    }
    assert!(least < 0.95, "they are no wider than they need be: {least}");
}

/// A tenth of the questions, in which the agent is chosen in one of fifty and does better by .3, which is
/// rarely seen in a log of a few hundred decisions.
#[test]
fn what_is_rarely_chosen_does_not_deceive() {
    let rng = &mut Xoshiro256PlusPlus::seed_from_u64(5);
    for rate in [0.01, 0.2, 0.6] {
        for decisions in [30, 300, 1_200, 5_000] {
            const LOGS: u32 = 200;
            let mut held = [0; 3];
            for _ in 0..LOGS {
                let (mut log, mut value) = (Vec::new(), 0.0);
                for _ in 0..decisions {
                    let (propensity, chance) =
                        if rng.random_bool(0.1) { (0.02, rate + 0.3) } else { (0.9, rate) };
                    value += chance / f64::from(decisions);
                    let is_chosen = rng.random_bool(propensity);
                    let reward = rng.random_bool(if is_chosen { chance } else { 0.5 });
                    let reward = f64::from(u8::from(reward));
                    log.push(one_of_two(propensity, 0.5, is_chosen, Some(reward)));
                }
                let Estimates { snips, dm, dr, .. } = estimated(&log);
                for (held, of) in held.iter_mut().zip([snips, dm, dr]) {
                    *held += u32::from(of.interval[0] <= value && value <= of.interval[1]);
                }
            }
            // 90 % of 200, less three deviations of such a number.
            assert!(held.iter().all(|held| *held >= 167), "{rate}, {decisions}: {held:?}");
        }
    }
}

const AGENTS: usize = 4;
const TASKS: usize = 3;

/// Agents whose chances of success differ by task type and size.
struct World {
    agents: Vec<String>,
    chances: [[[f64; 2]; TASKS]; AGENTS],
}

#[derive(Clone)]
struct Asked {
    task: usize,
    large: usize,
    task_type: String,
    context: Context,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        // Every third world succeeds nearly always, or hardly ever.
        let range =
            [0.35..0.75, 0.85..0.99, 0.01..0.15][usize::try_from(seed % 3).unwrap()].clone();
        let mut chances = [[[0.0; 2]; TASKS]; AGENTS];
        for chance in chances.iter_mut().flatten().flatten() {
            *chance = rng.random_range(range.clone());
        }
        Self { agents: (0..AGENTS).map(|agent| format!("agent{agent}")).collect(), chances }
    }

    fn ask(rng: &mut Xoshiro256PlusPlus) -> Asked {
        let (task, large) = (rng.random_range(0..TASKS), rng.random_range(0..2));
        let context = vec![("large".to_owned(), Feature::Bool(large == 1))];
        Asked { task, large, task_type: format!("task{task}"), context }
    }

    fn question<'a>(&'a self, asked: &'a Asked) -> Question<'a> {
        Question {
            tenant: DEFAULT_TENANT,
            task_type: Some(&asked.task_type),
            context: &asked.context,
            candidates: Some(&self.agents),
            exclude: &[],
        }
    }

    fn chance(&self, agent: usize, asked: &Asked) -> f64 {
        self.chances[agent][asked.task][asked.large]
    }
}

/// A decision of the log.
struct Logged {
    asked: Asked,
    candidates: Vec<Candidate>,
    chosen: usize,
    reward: f64,
}

/// The service's life: asked, answered by a draw, told what came of it ten at a time.
fn live(
    world: &World,
    model: &mut AgentPerformanceModel,
    decisions: usize,
    rng: &mut Xoshiro256PlusPlus,
) -> Vec<Logged> {
    let mut log = Vec::new();
    let mut batch = Vec::new();
    for _ in 0..decisions {
        let asked = World::ask(rng);
        let standings = model.standings(&world.question(&asked));
        let chosen = rank(&standings, true, rng)[0].standing;
        let propensities = propensities(&standings);
        let candidates =
            standings.iter().zip(&propensities).map(|(standing, propensity)| Candidate {
                agent: standing.agent.to_string(),
                expected_success: standing.expected_success(),
                propensity: *propensity,
            });
        let candidates = candidates.collect();
        let success = rng.random_bool(world.chance(chosen, &asked));
        let status = if success { Status::Success } else { Status::Failure };
        let outcome = Outcome::new(&*standings[chosen].agent, status).on_task(&*asked.task_type);
        batch.push(Outcome { context: asked.context.clone(), ..outcome });
        log.push(Logged { asked, candidates, chosen, reward: f64::from(u8::from(success)) });
        if batch.len() == 10 {
            batch.drain(..).for_each(|outcome| model.update(&outcome));
        }
    }
    log
}

/// Four policies on a hundred logs, each compared with what it would have earned on *all* decisions: the
/// best by expected success, the draw, one agent always, and a model saved before. Of intervals that hold
/// the value in 95 % fewer than 90 of 100 do with a probability of 1.2 %; the seeds are fixed.
#[test]
fn intervals_hold_what_the_policy_would_have_earned_on_all_decisions() {
    const LOGS: u64 = 100;
    const DECISIONS: usize = 600;
    let mut answered = [0; 4];
    let mut held = [[0; 4]; 4];
    let mut bias = [0.0; 4];
    for seed in 0..LOGS {
        let world = World::new(seed);
        let rng = &mut Xoshiro256PlusPlus::seed_from_u64(seed + 1_000);
        let mut model = AgentPerformanceModel::new(Settings::default());
        live(&world, &mut model, 100, rng);
        let saved = model.clone();
        let log = live(&world, &mut model, DECISIONS, rng);
        for policy in 0..4 {
            let mut value = 0.0;
            let judged: Vec<Judged> = log
                .iter()
                .map(|Logged { asked, candidates, chosen, reward }| {
                    let one = |place: usize| {
                        (0..AGENTS).map(|other| f64::from(u8::from(other == place))).collect()
                    };
                    let best = |best: usize, other: usize| {
                        let expected = |place: usize| candidates[place].expected_success;
                        if expected(other) > expected(best) { other } else { best }
                    };
                    let probabilities: Vec<f64> = match policy {
                        0 => one((0..AGENTS).reduce(best).unwrap()),
                        1 => candidates.iter().map(|candidate| candidate.propensity).collect(),
                        2 => one(usize::try_from(seed).unwrap() % AGENTS),
                        _ => propensities(&saved.standings(&world.question(asked))),
                    };
                    let chances = (0..AGENTS).map(|agent| world.chance(agent, asked));
                    let mean: f64 = probabilities.iter().zip(chances).map(|(pi, c)| pi * c).sum();
                    value += mean / count_f64(DECISIONS);
                    Judged::new(candidates, &probabilities, *chosen, Some(*reward))
                })
                .collect();
            let support = Support::of(&judged);
            let estimates = estimate(&judged, &support);
            let Some(Estimates { ips, snips, dm, dr, .. }) = estimates else { continue };
            answered[policy] += 1;
            if support.left_out_share() < 0.01 {
                bias[policy] += dr.value - value;
            }
            for (held, estimate) in held[policy].iter_mut().zip([ips, snips, dm, dr]) {
                *held += i32::from(estimate.interval[0] <= value && value <= estimate.interval[1]);
            }
        }
    }
    for (policy, (answered, held)) in answered.iter().zip(held).enumerate() {
        let refused = 100 - answered;
        assert!(refused <= 30, "{policy}: {answered} of {LOGS} were answered, {held:?}");
        assert!(held.iter().all(|held| held + refused >= 90), "{policy}: {held:?} of {answered}");
    }
    // Nothing is judged by what it has learned from: in sample the first two were too high by .03.
    for (policy, sum) in bias.iter().enumerate() {
        let mean = sum / f64::from(answered[policy]);
        assert!(mean.abs() < 0.01, "{policy}: {mean}");
    }
}

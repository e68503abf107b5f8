//! What is stated holds as often as it says: intervals and the probability to be best, over simulated
//! worlds whose truth is known.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

use super::*;
use crate::outcome::{DEFAULT_TENANT, Outcome, Status};

const ANY: Question<'_> = Question {
    tenant: DEFAULT_TENANT,
    task_type: None,
    context: &Vec::new(),
    candidates: None,
    exclude: &[],
};

/// A model that has learned so many outcomes of every agent, in random order, of agents with these rates.
fn world(rates: &[f64], outcomes: &[usize], rng: &mut Xoshiro256PlusPlus) -> AgentPerformanceModel {
    let mut model = AgentPerformanceModel::new(Settings::default());
    let mut left: Vec<usize> = outcomes.to_vec();
    let mut agents: Vec<usize> = (0..rates.len()).filter(|agent| left[*agent] > 0).collect();
    while !agents.is_empty() {
        let place = rng.random_range(0..agents.len());
        let agent = agents[place];
        let status = if rng.random_bool(rates[agent]) { Status::Success } else { Status::Failure };
        model.update(&Outcome::new(format!("agent-{agent}"), status));
        left[agent] -= 1;
        if left[agent] == 0 {
            agents.swap_remove(place);
        }
    }
    model
}

/// Share of worlds in which the 90 % interval of the first of four agents holds its rate: `rate` where
/// given, else uniform as the others' are.
fn coverage(rate: Option<f64>, outcomes: usize, worlds: u32, seed: u64) -> f64 {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut held = 0;
    for _ in 0..worlds {
        let mut rates = [0.0; 4].map(|_: f64| rng.random::<f64>());
        rates[0] = rate.unwrap_or(rates[0]);
        let model = world(&rates, &[outcomes; 4], &mut rng);
        let [low, high] = model.standings(&ANY)[0].interval().unwrap();
        held += u32::from((low..=high).contains(&rates[0]));
    }
    f64::from(held) / f64::from(worlds)
}

#[track_caller]
fn check_coverage(
    rate: Option<f64>,
    outcomes: usize,
    worlds: u32,
    promised: std::ops::RangeInclusive<f64>,
) {
    let seen = coverage(rate, outcomes, worlds, 1 + outcomes as u64);
    // Two standard errors of the share, at 90 %.
    let luck = 2.0 * (0.09 / f64::from(worlds)).sqrt();
    assert!(
        (promised.start() - luck..=promised.end() + luck).contains(&seen),
        "rate {rate:?}, {outcomes} outcomes: {seen} of the intervals hold it, promised {promised:?}"
    );
}

#[test]
fn intervals_hold_uniform_rates_as_often_as_they_say() {
    for (outcomes, worlds) in [(5, 1_000), (20, 1_000), (100, 600), (1_000, 100)] {
        check_coverage(None, outcomes, worlds, 0.86..=0.95);
    }
}

#[test]
fn intervals_hold_whatever_the_rate() {
    for rate in [0.02, 0.5, 0.98] {
        for outcomes in [5, 20] {
            check_coverage(Some(rate), outcomes, 400, 0.8..=1.0);
        }
        check_coverage(Some(rate), 100, 300, 0.86..=0.97);
        check_coverage(Some(rate), 1_000, 60, 0.86..=0.97);
    }
}

/// Statements that an agent is best, by tenths: how many, what they say on average, how often it is true.
fn best_by_tenths(
    worlds: u32,
    seed: u64,
    rates: impl Fn(&mut Xoshiro256PlusPlus) -> [f64; 4],
) -> [(f64, f64, f64); 10] {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut tenths = [(0.0, 0.0, 0.0); 10];
    for _ in 0..worlds {
        let rates = rates(&mut rng);
        let outcomes = [0; 4].map(|_: usize| [3, 10, 30, 100][rng.random_range(0..4)]);
        let model = world(&rates, &outcomes, &mut rng);
        let truly = rates.iter().copied().fold(f64::MIN, f64::max);
        for (said, rate) in best_probabilities(&model.standings(&ANY)).into_iter().zip(rates) {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "0..=1 times ten"
            )]
            let tenth = &mut tenths[((said * 10.0) as usize).min(9)];
            *tenth = (tenth.0 + 1.0, tenth.1 + said, tenth.2 + f64::from(u8::from(rate >= truly)));
        }
    }
    tenths.map(|(count, said, true_)| (count, said / count, true_ / count))
}

#[track_caller]
fn check_best(tenths: [(f64, f64, f64); 10], beside: f64) {
    for (count, said, seen) in tenths {
        // Three standard errors of what is seen if what is said is right.
        let bound = 3.0 * (said * (1.0 - said) / count).sqrt() + beside;
        assert!((said - seen).abs() < bound, "{said} said, {seen} true of {count}");
    }
}

/// Rates drawn from what the model assumes of a tenant it knows nothing of.
#[test]
fn the_probability_to_be_best_is_how_often_it_is_true() {
    let tenths = best_by_tenths(2_000, 1, |rng| {
        let mut normal = |deviation: f64| -> f64 {
            let z: f64 = StandardNormal.sample(rng);
            deviation * z
        };
        let common = normal(3.0);
        let own = [(); 4].map(|()| normal(1.0));
        let spread = [0.05_f64, 0.2, 0.8, 3.2][rng.random_range(0..4)].sqrt();
        own.map(|own| 1.0 / (1.0 + (-common - spread * own).exp()))
    });
    check_best(tenths, 0.0);
}

#[test]
fn the_probability_to_be_best_holds_for_uniform_rates() {
    let tenths = best_by_tenths(2_000, 2, |rng| [(); 4].map(|()| rng.random::<f64>()));
    // They are not what is assumed: log-odds of a logistic distribution, always of the same spread.
    check_best(tenths, 0.03);
}

/// 60 of 100 against 65 of 100: of two Beta(1 + s, 1 + f) the second is the larger with .766.
#[test]
fn sixty_of_a_hundred_against_sixty_five() {
    let mut model = AgentPerformanceModel::new(Settings::default());
    for task in 0..100 {
        for (agent, successes) in [("a", 60), ("b", 65)] {
            let status =
                if (task * 37) % 100 < successes { Status::Success } else { Status::Failure };
            model.update(&Outcome::new(agent, status));
        }
    }
    let best = best_probabilities(&model.standings(&ANY));
    // What the agents have in common is a prior that the Betas lack: two that are alike are believed to
    // be alike, which moves it towards a half.
    assert!((0.70..0.78).contains(&best[1]), "{best:?}");
}

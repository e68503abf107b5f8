//! The probability of each of several agents to be first: by one optimistic draw each (the propensity
//! of a choice), or by one draw each of independent Gaussians (the probability to be best).
//!
//! Draws depend on one `zc` that all agents of a decision share and one `za` of each agent's own. Given
//! `zc`, they are independent, so the probability is a sum over `zc` ([`shared_draws`]) of integrals of
//! `product of F_j dF_i` over the others' distribution functions `F_j`.

use std::sync::LazyLock;

use super::score::Score;
use crate::stats::normal;

/// Draws are looked at as far as a `z` of this: 3e-7 of the mass is beyond.
const REACH: f64 = 5.0;
/// The same of what all agents share.
const SHARED_REACH: f64 = 6.0;
/// First step of the walk over draws, as a share of the narrowest spread, and how steps grow with the
/// distance. With these two results are within .0005 of steps of a tenth.
const FIRST_STEP: f64 = 0.15;
const GROWTH: f64 = 0.4;
/// Points of each Gaussian on each side at which distribution functions are known, and their distance
/// in deviations.
const POINTS: u32 = 40;
const DISTANCE: f64 = 0.13;
/// Consecutive steps of a distribution function, and products of the others' over two steps, that differ by
/// more than this factor are integrated over as powers, else by parabolas.
const UNEVEN: f64 = 4.0;
/// Of more agents than this the shared `z` is looked at more closely.
const CROWD: usize = 8;
const CROWD_BREAKS: [f64; 4] = [0.5, 1.0, 1.75, 2.5];
/// Steps in which the product of all functions grows by more than this factor, to more than this, are
/// shortened, down to this share.
const STEEP: f64 = 8.0;
const STEEP_FROM: f64 = 1e-5;
const SHARE_MIN: f64 = 1.0 / 64.0;
/// A product that grows less than this, as a logarithm, does not change.
const GROWTH_MIN: f64 = 1e-9;
/// Points of less weight are left out.
const WEIGHT_MIN: f64 = 1e-7;

/// Where an agent's draws lie: at `centre + sqrt(overall za^2 + rest zc^2)` for positive `z`, and as if
/// they were 0 for negative ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Draws {
    pub(super) centre: f64,
    /// Variance that the agent's own `z` multiplies, > 0.
    pub(super) overall: f64,
    /// Variance that the shared `z` multiplies, at least 0.
    pub(super) rest: f64,
}

impl Draws {
    /// The draw of these `z`, both >= 0.
    pub(super) fn at(&self, own: f64, shared: f64) -> f64 {
        self.centre + (self.overall * own * own + self.rest * shared * shared).sqrt()
    }

    /// Probability of a draw of at most `t`, given the shared `z`.
    fn below(&self, t: f64, shared: f64) -> f64 {
        let distance = t - self.centre;
        let square = distance * distance - self.rest * shared * shared;
        if distance < 0.0 || square < 0.0 {
            0.0
        } else {
            normal::below((square / self.overall).sqrt())
        }
    }
}

/// (`max(zc, 0)`, its weight), by which a function of it is summed up: 0 half of the time. Where agents'
/// own spreads are narrow, who is first changes at once where the lowest draw of one passes that of the
/// highest, at these `breaks` (ascending, inside of 0 and 6). So the other half is summed up between
/// each two of them, by the tanh-sinh rule, whose points crowd at both ends (Takahasi and Mori,
/// Publications of RIMS 9, 1974).
pub(super) fn shared_draws(breaks: &[f64]) -> Vec<(f64, f64)> {
    /// (place in -1..=1, weight): 19 points.
    static RULE: LazyLock<Vec<(f64, f64)>> = LazyLock::new(|| {
        const STEP: f64 = 0.35;
        let point = |k: i32| {
            let t = STEP * f64::from(k);
            let u = std::f64::consts::FRAC_PI_2 * t.sinh();
            let weight = STEP * std::f64::consts::FRAC_PI_2 * t.cosh() / u.cosh().powi(2);
            (u.tanh(), weight)
        };
        (-9..=9).map(point).collect()
    });
    let mut draws = vec![(0.0, 0.5)];
    let mut from = 0.0;
    for to in breaks.iter().copied().chain([SHARED_REACH]) {
        let (middle, half) = (0.5 * (from + to), 0.5 * (to - from));
        for (place, weight) in RULE.iter() {
            let z = half.mul_add(*place, middle);
            let weight = half * weight * normal::density(z);
            if weight > WEIGHT_MIN {
                draws.push((z, weight));
            }
        }
        from = to;
    }
    let total: f64 = draws[1..].iter().map(|(_, weight)| weight).sum();
    for (_, weight) in &mut draws[1..] {
        *weight *= 0.5 / total;
    }
    draws
}

/// Where another of these lines, (height at 0, slope), becomes the highest, inside of 0 and
/// [`SHARED_REACH`].
fn envelope_breaks(lines: &[(f64, f64)]) -> Vec<f64> {
    let higher = |a: &&(f64, f64), b: &&(f64, f64)| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1));
    let Some(mut highest) = lines.iter().max_by(higher) else { return Vec::new() };
    let mut breaks = Vec::new();
    let mut place = 0.0;
    loop {
        let crossing = |line: &&(f64, f64)| (highest.0 - line.0) / (line.1 - highest.1);
        let steeper = lines.iter().filter(|line| line.1 > highest.1);
        // Of those that cross at the same place the steepest.
        let next =
            steeper.min_by(|a, b| crossing(a).total_cmp(&crossing(b)).then(b.1.total_cmp(&a.1)));
        let Some(next) = next.filter(|next| crossing(next) < SHARED_REACH) else { return breaks };
        let crossed = crossing(&next);
        if crossed > place {
            breaks.push(crossed);
            place = crossed;
        }
        highest = next;
    }
}

/// The same of curves over the shared `z`: looked for on a grid, then narrowed down.
pub(super) fn curve_breaks(curves: &[impl Fn(f64) -> f64]) -> Vec<f64> {
    const STEPS: u32 = 32;
    const HALVINGS: u32 = 20;
    let highest = |z: f64| {
        let heights = curves.iter().map(|curve| curve(z)).enumerate();
        heights.max_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(index, _)| index)
    };
    let mut breaks = Vec::new();
    let (mut from, mut before) = (0.0, highest(0.0));
    for step in 1..=STEPS {
        let to = SHARED_REACH * f64::from(step) / f64::from(STEPS);
        let after = highest(to);
        if after != before {
            let (mut low, mut high) = (from, to);
            for _ in 0..HALVINGS {
                let middle = 0.5 * (low + high);
                if highest(middle) == before {
                    low = middle;
                } else {
                    high = middle;
                }
            }
            breaks.push(high);
        }
        (from, before) = (to, after);
    }
    breaks
}

/// The probability of each to have the largest draw, equal ones in random order; sums to 1.
///
/// Given the shared `z`, draws are independent, and none is below its lowest, `Draws::at(0, z)`,
/// which half of them are. So the largest is at or above the highest of the lowest, `M`: an even
/// share of the probability that nobody is above `M` goes to those whose lowest it is, and the rest
/// is the integral over `t > M` of `product of F_j dF_i`.
pub(super) fn probabilities_first(draws: &[Draws]) -> Vec<f64> {
    let lines: Vec<(f64, f64)> =
        draws.iter().map(|draws| (draws.centre, draws.rest.sqrt())).collect();
    let mut result = vec![0.0; draws.len()];
    let mut breaks = envelope_breaks(&lines);
    if draws.len() > CROWD {
        // The highest of many is far above their lowest, and so is where another passes it.
        breaks.extend(CROWD_BREAKS);
        breaks.sort_unstable_by(f64::total_cmp);
    }
    for (shared, weight) in shared_draws(&breaks) {
        add_first_given(draws, shared, weight, &mut result);
    }
    let total: f64 = result.iter().sum();
    result.iter().map(|first| first / total).collect()
}

/// One agent on a walk over draws.
struct Contender {
    index: usize,
    /// Probability of a draw of at most the walk's place, and of the two places before, > 0.
    below: [f64; 3],
    first: f64,
}

impl Contender {
    /// Integrates over the last two steps of the walk, with the product of all functions at their ends.
    fn add_two_steps(&mut self, products: [f64; 3]) {
        let [before, middle, after] = self.below;
        let others = [0, 1, 2].map(|end| products[end] / self.below[end]);
        let (first, second) = (middle - before, after - middle);
        let both = first + second;
        let is_even = |a: f64, b: f64| a <= b * UNEVEN && b <= a * UNEVEN;
        self.first += if both > 0.0 && is_even(first, second) && is_even(others[0], others[2]) {
            // Simpson's rule with unequal steps.
            let parabola = (2.0 - second / first) * others[0]
                + both * both / (first * second) * others[1]
                + (2.0 - first / second) * others[2];
            both / 6.0 * parabola
        } else {
            self.share_of_step(products, 0) + self.share_of_step(products, 1)
        };
    }

    /// The share of the step from `from` to the next place, as if all functions were powers of each other
    /// in it: `d(product) / product` is the sum of all `dF / F`. Never below 0.
    fn share_of_step(&self, products: [f64; 3], from: usize) -> f64 {
        let [before, after] = [self.below[from], self.below[from + 1]];
        let [low, high] = [products[from], products[from + 1]];
        let growth = (high / low).ln();
        if growth > GROWTH_MIN {
            (high - low) * (after / before).ln() / growth
        } else {
            (after - before) * high / after
        }
    }
}

/// Adds `weight` times what each has of all integrals.
fn add_shares(contenders: &[Contender], weight: f64, result: &mut [f64]) {
    let total: f64 = contenders.iter().map(|contender| contender.first).sum();
    if total > 0.0 {
        for contender in contenders {
            result[contender.index] += weight * contender.first / total;
        }
    }
}

fn add_first_given(draws: &[Draws], shared: f64, weight: f64, result: &mut [f64]) {
    let lowest = |draws: &Draws| draws.at(0.0, shared);
    let highest = draws.iter().map(lowest).fold(f64::NEG_INFINITY, f64::max);
    let (mut end, mut narrowest) = (highest, f64::INFINITY);
    let mut contenders = Vec::new();
    for (index, draws) in draws.iter().enumerate() {
        let reach = draws.at(REACH, shared);
        if reach > highest {
            end = end.max(reach);
            narrowest = narrowest.min(draws.at(1.0, shared) - lowest(draws));
            let below = draws.below(highest, shared).max(0.5);
            contenders.push(Contender { index, below: [below; 3], first: 0.0 });
        }
    }
    if let [only] = &contenders[..] {
        result[only.index] += weight;
        return;
    }
    let all_below: f64 = contenders.iter().map(|c| c.below[2]).product();
    let is_tied = |c: &&mut Contender| lowest(&draws[c.index]) >= highest;
    let tied = contenders.iter_mut().filter(is_tied).count();
    for contender in contenders.iter_mut().filter(is_tied) {
        #[expect(clippy::cast_precision_loss, reason = "there are few agents")]
        let share = all_below / tied as f64;
        contender.first = share;
    }
    // Rounding must not make a step vanish.
    let smallest = (FIRST_STEP * narrowest).max(1e-12 * (1.0 + end.abs()));
    let mut products = [all_below; 3];
    let mut t = highest;
    let mut share = 1.0;
    while t < end {
        products[0] = products[2];
        for c in &mut contenders {
            c.below[0] = c.below[2];
        }
        let after = loop {
            let mut place = t;
            for (step, product) in products.iter_mut().enumerate().skip(1) {
                place += share * smallest.max(GROWTH * (place - highest));
                *product = 1.0;
                for c in &mut contenders {
                    c.below[step] = draws[c.index].below(place, shared).max(c.below[step - 1]);
                    *product *= c.below[step];
                }
            }
            // Where many are alike, the highest of them lies within little.
            let is_steep = products[2] > STEEP_FROM && products[2] > STEEP * products[0];
            if !is_steep || share <= SHARE_MIN {
                break place;
            }
            share *= 0.5;
        };
        t = after;
        share = f64::min(2.0 * share, 1.0);
        for c in &mut contenders {
            c.add_two_steps(products);
        }
    }
    add_shares(&contenders, weight, result);
}

/// The probability of each of these independent Gaussians, (mean, deviation >= 0), to have the largest
/// value; sums to 1. Equal certain values share.
pub(super) fn probabilities_highest(gaussians: &[(f64, f64)]) -> Vec<f64> {
    /// Deviations below this are taken to be this wide.
    const DEVIATION_MIN: f64 = 1e-9;
    let reach = DISTANCE * f64::from(POINTS);
    let gaussians: Vec<(f64, f64)> =
        gaussians.iter().map(|(mean, deviation)| (*mean, deviation.max(DEVIATION_MIN))).collect();
    let lowest = gaussians.iter().map(|(mean, deviation)| mean - reach * deviation);
    let lowest = lowest.fold(f64::NEG_INFINITY, f64::max);
    let below = |(mean, deviation): (f64, f64), t: f64| normal::below((t - mean) / deviation);
    let mut contenders = Vec::new();
    let mut nodes = Vec::new();
    for (index, &(mean, deviation)) in gaussians.iter().enumerate() {
        if mean + reach * deviation >= lowest {
            let tiny = below((mean, deviation), lowest).max(f64::MIN_POSITIVE);
            contenders.push(Contender { index, below: [tiny; 3], first: 0.0 });
            // Half of the points for the middles of steps.
            for point in 0..=2 * POINTS {
                let z = DISTANCE * (f64::from(point) - f64::from(POINTS));
                nodes.push(deviation.mul_add(z, mean));
            }
        }
    }
    walk(nodes, lowest, &mut contenders, |index, t| below(gaussians[index], t));
    let mut result = vec![0.0; gaussians.len()];
    add_shares(&contenders, 1.0, &mut result);
    result
}

/// Integrates over the nodes from `lowest` on, and over the middles between them.
fn walk(
    mut nodes: Vec<f64>,
    lowest: f64,
    contenders: &mut [Contender],
    below: impl Fn(usize, f64) -> f64,
) {
    nodes.retain(|node| *node > lowest);
    nodes.sort_unstable_by(f64::total_cmp);
    let mut products = [contenders.iter().map(|c| c.below[2]).product::<f64>(); 3];
    let mut last = lowest;
    for node in nodes {
        products[0] = products[2];
        for c in &mut *contenders {
            c.below[0] = c.below[2];
        }
        for (step, t) in [(1, 0.5 * (last + node)), (2, node)] {
            products[step] = 1.0;
            for c in &mut *contenders {
                c.below[step] = below(c.index, t).max(c.below[step - 1]);
                products[step] *= c.below[step];
            }
        }
        for c in &mut *contenders {
            c.add_two_steps(products);
        }
        last = node;
    }
}

/// The probability of each of these independent scores to be the highest; sums to 1.
pub(super) fn probabilities_of_highest_score(scores: &[Score]) -> Vec<f64> {
    let lowest = scores.iter().map(Score::lowest).fold(f64::NEG_INFINITY, f64::max);
    let mut contenders = Vec::new();
    let mut nodes = Vec::new();
    for (index, score) in scores.iter().enumerate() {
        if score.highest() >= lowest {
            let below = score.below(lowest).max(f64::MIN_POSITIVE);
            // Nobody is certain to be above: what is at the lowest counts, too.
            let first = if score.lowest() >= lowest { below } else { 0.0 };
            contenders.push(Contender { index, below: [below; 3], first });
            nodes.extend(score.points().step_by(2));
        }
    }
    walk(nodes, lowest, &mut contenders, |index, t| scores[index].below(t));
    let mut result = vec![0.0; scores.len()];
    add_shares(&contenders, 1.0, &mut result);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::Xoshiro256PlusPlus;
    use rand::{RngExt, SeedableRng};
    use rand_distr::{Distribution, StandardNormal};

    /// Bounds on the error of a propensity: absolute, and relative down to `RELATIVE_FROM`.
    const ABSOLUTE: f64 = 0.002;
    const RELATIVE: f64 = 0.05;
    const RELATIVE_FROM: f64 = 0.001;

    /// Two to eight agents, own variances over five decades or over two, half of them without rest.
    fn scenario(rng: &mut Xoshiro256PlusPlus) -> Vec<Draws> {
        let agents = rng.random_range(2..=8);
        let has_rest = rng.random_bool(0.5);
        let (narrowest, widest_rest) =
            if rng.random_bool(0.5) { (-5.0, 0.6) } else { (-2.0, -1.0) };
        let mut draws = |_| {
            let centre: f64 = StandardNormal.sample(rng);
            let overall = 10_f64.powf(rng.random_range(narrowest..0.3));
            let rest =
                if has_rest { 10_f64.powf(rng.random_range(-4.0..widest_rest)) } else { 0.0 };
            Draws { centre: 0.5 * centre, overall, rest }
        };
        (0..agents).map(&mut draws).collect()
    }

    /// By brute force: 600 even steps of the shared `z`, and 600 points of every agent's own.
    fn reference(draws: &[Draws]) -> Vec<f64> {
        const STEPS: u32 = 600;
        let mut first = vec![0.0; draws.len()];
        let mut add = |shared: f64, weight: f64| {
            let highest = draws.iter().map(|d| d.at(0.0, shared)).fold(f64::NEG_INFINITY, f64::max);
            let others = |index: usize, t: f64| -> f64 {
                let others = draws.iter().enumerate().filter(|(other, _)| *other != index);
                others.map(|(_, d)| d.below(t, shared)).product()
            };
            for (index, d) in draws.iter().enumerate() {
                if d.at(0.0, shared) >= highest {
                    first[index] += weight * 0.5 * others(index, highest);
                }
                for step in 0..STEPS {
                    let width = 6.0 / f64::from(STEPS);
                    let own = (f64::from(step) + 0.5) * width;
                    let t = d.at(own, shared);
                    if t >= highest {
                        first[index] += weight * width * normal::density(own) * others(index, t);
                    }
                }
            }
        };
        add(0.0, 0.5);
        for step in 0..STEPS {
            let width = 6.0 / f64::from(STEPS);
            let shared = (f64::from(step) + 0.5) * width;
            add(shared, width * normal::density(shared));
        }
        first
    }

    fn errors(actual: &[f64], expected: &[f64]) -> (f64, f64) {
        let pairs = || actual.iter().zip(expected);
        let absolute = pairs().map(|(a, e)| (a - e).abs()).fold(0.0, f64::max);
        let relative = pairs().filter(|(_, e)| **e >= RELATIVE_FROM);
        (absolute, relative.map(|(a, e)| (a / e - 1.0).abs()).fold(0.0, f64::max))
    }

    #[test]
    fn propensities_are_those_of_brute_force() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let (mut absolute, mut relative): (f64, f64) = (0.0, 0.0);
        for _ in 0..80 {
            let draws = scenario(&mut rng);
            let (actual, expected) = (probabilities_first(&draws), reference(&draws));
            let (a, r) = errors(&actual, &expected);
            (absolute, relative) = (absolute.max(a), relative.max(r));
        }
        assert!(absolute < ABSOLUTE && relative < RELATIVE, "{absolute} {relative}");
    }

    /// Many agents, some of them alike.
    fn crowd(seed: u64) -> Vec<Draws> {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let fresh = rng.random_range(0..60);
        let known = rng.random_range(1..30);
        let spread = 10_f64.powf(rng.random_range(-3.0..0.5));
        let mut draws = vec![Draws { centre: 0.0, overall: 1.0, rest: 0.3 }; fresh];
        draws.extend((0..known).map(|_| {
            let centre: f64 = StandardNormal.sample(&mut rng);
            let overall = 10_f64.powf(rng.random_range(-5.0..0.3));
            let rest = 10_f64.powf(rng.random_range(-5.0..0.3));
            Draws { centre: spread * centre, overall, rest }
        }));
        draws
    }

    #[test]
    fn propensities_of_a_crowd_are_probabilities() {
        for seed in 0..200 {
            let draws = crowd(seed);
            let first = probabilities_first(&draws);
            assert!(first.iter().all(|p| (0.0..=1.0).contains(p)), "{seed}: {first:?}");
            assert!((first.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{seed}");
            // Whoever is believed the same is chosen as often.
            let fresh = |index: &usize| draws[*index] == draws[0];
            let apart = (0..draws.len()).filter(fresh).map(|index| (first[index] - first[0]).abs());
            assert!(apart.fold(0.0, f64::max) < 1e-12, "{seed}: {first:?}");
        }
    }

    #[test]
    fn propensities_are_how_often_a_draw_is_the_largest() {
        const DRAWS: u32 = 300_000;
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(2);
        let scenarios: Vec<_> =
            (0..20).map(|_| scenario(&mut rng)).chain((0..20).map(crowd)).collect();
        for draws in scenarios {
            let mut first = vec![0_u32; draws.len()];
            for _ in 0..DRAWS {
                let mut z = || -> f64 { f64::max(StandardNormal.sample(&mut rng), 0.0) };
                let shared = z();
                let values: Vec<f64> = draws.iter().map(|draws| draws.at(z(), shared)).collect();
                let best = (0..values.len()).max_by(|a, b| values[*a].total_cmp(&values[*b]));
                first[best.unwrap()] += 1;
            }
            for (actual, first) in probabilities_first(&draws).iter().zip(first) {
                let share = f64::from(first) / f64::from(DRAWS);
                // Four standard errors of the share, and half of what is promised.
                let bound =
                    4.0 * (share * (1.0 - share) / f64::from(DRAWS)).sqrt() + ABSOLUTE / 2.0;
                let agents = draws.len();
                assert!((actual - share).abs() < bound, "{actual}, drawn {share} of {agents}");
            }
        }
    }

    #[test]
    fn the_highest_gaussian_is_known_exactly_where_it_can_be() {
        // Two: below((m1 - m2)/sqrt(s1^2 + s2^2)).
        for (a, b) in
            [((0.3, 0.5), (0.0, 0.2)), ((2.0, 1.0), (0.0, 0.01)), ((1.0, 3.0), (0.0, 3.0))]
        {
            let expected = normal::below((a.0 - b.0) / f64::hypot(a.1, b.1));
            let actual = probabilities_highest(&[a, b]);
            assert!((actual[0] - expected).abs() < 2e-4, "{actual:?}, not {expected}");
            assert!((actual[0] + actual[1] - 1.0).abs() < 1e-12);
        }
        // Equal ones share, however many.
        let equal = probabilities_highest(&[(1.0, 0.5); 7]);
        assert!(equal.iter().all(|p| (p - 1.0 / 7.0).abs() < 1e-6), "{equal:?}");
        assert_eq!(probabilities_highest(&[(-3.0, 0.1)]), [1.0]);
        assert!(probabilities_highest(&[]).is_empty());
    }

    /// Drawn, with deviations over four decades.
    #[test]
    fn the_highest_gaussian_is_how_often_it_is_the_largest() {
        const DRAWS: u32 = 400_000;
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(3);
        for _ in 0..10 {
            let gaussians: Vec<(f64, f64)> = (0..rng.random_range(3..8))
                .map(|_| (rng.random_range(-1.0..1.0), 10_f64.powf(rng.random_range(-3.0..0.5))))
                .collect();
            let mut highest = vec![0_u32; gaussians.len()];
            for _ in 0..DRAWS {
                let drawn: Vec<f64> = gaussians
                    .iter()
                    .map(|(mean, deviation)| {
                        let z: f64 = StandardNormal.sample(&mut rng);
                        mean + deviation * z
                    })
                    .collect();
                let best = (0..drawn.len()).max_by(|a, b| drawn[*a].total_cmp(&drawn[*b]));
                highest[best.unwrap()] += 1;
            }
            for (actual, highest) in probabilities_highest(&gaussians).iter().zip(highest) {
                let share = f64::from(highest) / f64::from(DRAWS);
                let bound = 4.0 * (share * (1.0 - share) / f64::from(DRAWS)).sqrt() + 5e-4;
                assert!((actual - share).abs() < bound, "{actual}, {share} in {gaussians:?}");
            }
        }
    }

    #[test]
    fn lines_and_curves_break_at_the_same_places() {
        let lines = [(0.0, 1.0), (1.0, 0.2), (-1.0, 1.6), (0.9, 0.1)];
        let breaks = envelope_breaks(&lines);
        // 1 + .2 z = z at 1.25; z = -1 + 1.6 z at 5/3.
        assert_eq!(breaks.len(), 2);
        assert!((breaks[0] - 1.25).abs() < 1e-12 && (breaks[1] - 5.0 / 3.0).abs() < 1e-12);
        let curves: Vec<_> =
            lines.iter().map(|(height, slope)| move |z: f64| height + slope * z).collect();
        for (line, curve) in breaks.iter().zip(curve_breaks(&curves)) {
            assert!((line - curve).abs() < 1e-4, "{line} {curve}");
        }
        assert!(envelope_breaks(&[]).is_empty());
        let total: f64 = shared_draws(&breaks).iter().map(|(_, weight)| weight).sum();
        assert!((total - 1.0).abs() < 1e-12);
    }
}

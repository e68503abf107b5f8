//! The distribution of a score: a sum of independent parts, each a growing function of a standard
//! Gaussian.

use crate::stats::normal;

/// A part is known between these `z`, at equal steps.
const REACH: f64 = 4.75;
const STEPS: usize = 76;
/// Points by which a part is summed over: the middles of steps this long.
const POINTS: u32 = 19;
/// Points of each part by which the distribution of a sum of two is found.
const POINTS_OF_SUM: u32 = 38;
/// Share of the range of a sum within which two are the same.
const SAME_SUM: f64 = 1e-4;
/// A score is known at this many points of its own, of which every second is one to look at.
const KNOWN: u32 = 61;
/// And at this many above a value with much probability.
const KNOWN_ABOVE: u32 = 10;
const KNOWN_REACH: f64 = 4.5;
/// A value with at least this probability is summed over by itself.
const ATOM_MIN: f64 = 0.1;

#[expect(clippy::cast_precision_loss, reason = "steps are few")]
fn z_of(step: usize) -> f64 {
    (step as f64 / STEPS as f64).mul_add(2.0 * REACH, -REACH)
}

/// The middles of equal steps over all `z`, and their probabilities, which sum to 1.
fn points(count: u32) -> impl Iterator<Item = (f64, f64)> {
    let width = 2.0 * REACH / f64::from(count);
    (0..count).map(move |point| {
        let from = f64::from(point).mul_add(width, -REACH);
        let below = |z: f64| {
            // What is beyond belongs to the ends.
            if z <= -REACH + 1e-9 {
                0.0
            } else if z >= REACH - 1e-9 {
                1.0
            } else {
                normal::below(z)
            }
        };
        (from + 0.5 * width, below(from + width) - below(from))
    })
}

/// A part of a score, by the standard Gaussian it is drawn from; a straight line between steps.
#[derive(Debug, Clone)]
pub(super) struct Part(Vec<f64>);

impl Part {
    /// `part` does not fall.
    pub(super) fn of(part: impl Fn(f64) -> f64) -> Self {
        Self((0..=STEPS).map(|step| part(z_of(step))).collect())
    }

    fn at(&self, z: f64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "steps are few")]
        let place = ((z + REACH) / (2.0 * REACH) * STEPS as f64).clamp(0.0, STEPS as f64);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range")]
        let step = (place as usize).min(STEPS - 1);
        #[expect(clippy::cast_precision_loss, reason = "steps are few")]
        let beyond = place - step as f64;
        (self.0[step + 1] - self.0[step]).mul_add(beyond, self.0[step])
    }

    /// The largest `z` whose value is at most `x`; `None` below all.
    fn z_below(&self, x: f64) -> Option<f64> {
        let above = self.0.partition_point(|value| *value <= x);
        match above {
            0 => None,
            above if above > STEPS => Some(f64::INFINITY),
            above => {
                let (low, high) = (self.0[above - 1], self.0[above]);
                let step = z_of(above) - z_of(above - 1);
                Some(z_of(above - 1) + step * (x - low) / (high - low))
            }
        }
    }

    /// Probability of a value of at most `x`.
    fn below(&self, x: f64) -> f64 {
        self.z_below(x).map_or(0.0, normal::below)
    }

    /// The sum of this and another, independent one.
    pub(super) fn plus(&self, other: &Self) -> Self {
        let mut sums: Vec<(f64, f64)> = points(POINTS_OF_SUM)
            .flat_map(|(z, p)| {
                let value = self.at(z);
                points(POINTS_OF_SUM).map(move |(y, q)| (value + other.at(y), p * q))
            })
            .collect();
        sums.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        // Equal parts have equal sums: what is nearly the same is one.
        let apart = (self.0[STEPS] + other.0[STEPS] - self.0[0] - other.0[0]) * SAME_SUM;
        sums.dedup_by(|next, last| {
            let is_same = next.0 - last.0 <= apart;
            if is_same {
                last.1 += next.1;
            }
            is_same
        });
        // Each stands for the middle of its own probability.
        let mut below = 0.0;
        for (_, p) in &mut sums {
            let own = *p;
            *p = below + 0.5 * own;
            below += own;
        }
        Self::of(|z| {
            let wanted = normal::below(z);
            let above = sums.partition_point(|(_, below)| *below <= wanted);
            match above {
                0 => self.at(-REACH) + other.at(-REACH),
                above if above == sums.len() => self.at(REACH) + other.at(REACH),
                above => {
                    let (low, high) = (sums[above - 1], sums[above]);
                    let share = (wanted - low.1) / (high.1 - low.1).max(f64::MIN_POSITIVE);
                    (high.0 - low.0).mul_add(share, low.0)
                }
            }
        })
    }
}

/// How a score is distributed: its distribution function, known at some scores.
#[derive(Debug, Clone)]
pub(super) struct Score {
    /// (score, normal quantile of the probability below it), rising.
    known: Vec<(f64, f64)>,
}

impl Score {
    /// Of two independent parts. One of them may have a value with much probability, as the lowest draw
    /// of success has.
    pub(super) fn of(success: &Part, rest: &Part) -> Self {
        let mut atoms: Vec<(f64, f64)> = Vec::new();
        let mut spread: Vec<(f64, f64)> = Vec::new();
        for (z, p) in points(2 * POINTS) {
            let value = success.at(z);
            match spread.last_mut() {
                Some(last) if last.0 >= value => last.1 += p,
                _ => spread.push((value, p)),
            }
        }
        spread.retain(|&(value, p)| {
            let is_atom = p >= ATOM_MIN;
            if is_atom {
                atoms.push((value, p));
            }
            !is_atom
        });
        let width = |part: &Part| part.at(1.0) - part.at(0.0);
        let by_rest = width(rest) < width(success);
        let rest_points: Vec<(f64, f64)> = points(POINTS).map(|(z, p)| (rest.at(z), p)).collect();
        let atom = atoms.iter().map(|(_, p)| p).sum::<f64>();
        let below = |x: f64| {
            let at_once: f64 = atoms.iter().map(|(value, p)| p * rest.below(x - value)).sum();
            let gradually: f64 = if spread.is_empty() {
                0.0
            } else if by_rest {
                // Sums over the narrower of the two.
                let beside = |value: f64| (success.below(x - value) - atom).max(0.0);
                rest_points.iter().map(|(value, p)| p * beside(*value)).sum()
            } else {
                spread.iter().map(|(value, p)| p * rest.below(x - value)).sum()
            };
            (at_once + gradually).clamp(1e-12, 1.0 - 1e-9)
        };
        let by_both = (0..KNOWN).map(|point| {
            let share = f64::from(point) / f64::from(KNOWN - 1);
            let z = share.mul_add(2.0 * KNOWN_REACH, -KNOWN_REACH);
            success.at(z) + rest.at(z)
        });
        // Where what stands at one value ends.
        let above_atoms = atoms.iter().flat_map(|(value, _)| {
            (1..=KNOWN_ABOVE).map(move |point| {
                value + rest.at(KNOWN_REACH * f64::from(point) / f64::from(KNOWN_ABOVE))
            })
        });
        let mut scores: Vec<f64> = by_both.chain(above_atoms).collect();
        scores.sort_unstable_by(f64::total_cmp);
        let mut known: Vec<(f64, f64)> = Vec::new();
        for score in scores {
            if known.last().is_none_or(|(last, _)| *last < score) {
                let quantile = normal::quantile(below(score));
                known.push((score, known.last().map_or(quantile, |last| last.1.max(quantile))));
            }
        }
        Self { known }
    }

    pub(super) fn lowest(&self) -> f64 {
        self.known[0].0
    }

    pub(super) fn highest(&self) -> f64 {
        self.known[self.known.len() - 1].0
    }

    /// Scores to look at.
    pub(super) fn points(&self) -> impl Iterator<Item = f64> + '_ {
        self.known.iter().map(|(score, _)| *score)
    }

    /// Probability of a score of at most `x`.
    pub(super) fn below(&self, x: f64) -> f64 {
        let above = self.known.partition_point(|(score, _)| *score <= x);
        if above == 0 {
            return 0.0;
        }
        if above == self.known.len() {
            return 1.0;
        }
        let (low, high) = (self.known[above - 1], self.known[above]);
        normal::below((high.1 - low.1).mul_add((x - low.0) / (high.0 - low.0), low.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaussian(mean: f64, deviation: f64) -> Part {
        Part::of(|z| deviation.mul_add(z, mean))
    }

    #[track_caller]
    fn close(actual: f64, expected: f64, what: &str) {
        // A part that is a sum is known by some 1,400 sums of points.
        assert!((actual - expected).abs() < 4e-3, "{what}: {actual}, not {expected}");
    }

    /// Sums of Gaussians are Gaussian, whichever is the narrower.
    #[test]
    fn a_sum_of_gaussians_is_one() {
        for (a, b) in [(1.0, 1.0), (1.0, 0.1), (0.02, 1.0), (1.0, 0.0)] {
            let deviation = f64::hypot(a, b);
            let score = Score::of(&gaussian(2.0, a), &gaussian(-1.0, b));
            let sum = gaussian(2.0, a).plus(&gaussian(-1.0, b));
            for z in [-2.5, -1.0, 0.0, 0.7, 2.0, 3.0] {
                let x = 1.0 + z * deviation;
                close(score.below(x), normal::below(z), "score");
                close(sum.below(x), normal::below(z), "part");
            }
        }
    }

    /// Half of the probability at one value, the rest above, as of a draw that is never below its mean.
    #[test]
    fn an_atom_keeps_its_probability() {
        let draw = Part::of(|z: f64| z.max(0.0));
        let alone = Score::of(&draw, &gaussian(0.0, 1e-6));
        close(alone.below(-1e-3), 0.0, "below the atom");
        close(alone.below(1e-3), normal::below(1e-3), "above it");
        close(alone.below(1.5), normal::below(1.5), "far above");
        // With as much noise: P(max(z, 0) + y <= x), by a sum over z.
        let noisy = Score::of(&draw, &gaussian(0.0, 1.0));
        for x in [-1.0, 0.0, 1.0, 2.5] {
            let above: f64 = (0..6_000)
                .map(|step| {
                    let z = (f64::from(step) + 0.5) / 1_000.0;
                    normal::density(z) / 1_000.0 * normal::below(x - z)
                })
                .sum();
            close(noisy.below(x), 0.5 * normal::below(x) + above, "noisy");
        }
    }
}

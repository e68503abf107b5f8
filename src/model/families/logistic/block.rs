//! An agent's effects over its context, with one covariance.

use super::copies::{COPIES, FORGETFUL, Lanes, OWN_FEATURE, lanes};
use super::effect::{Effect, Step, Sum, kept};
use super::hierarchy::{BASE, Overall};
use crate::model::families::family::Room;
use crate::model::features::Active;
use crate::model::small_map::SmallMap;

/// A feature gets its row in an agent's covariance at this outcome of the agent with it: values
/// that never come again (a ticket number) get none.
const ROW_AT_OUTCOME: u32 = 2;

/// An agent's effects over its context: `A` in row 0, then one `AC_k` per row.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::model) struct Block {
    /// The feature of each row from 1 on.
    pub(super) features: Vec<u32>,
    /// (feature, row), sorted.
    pub(super) rows: Vec<(u32, u32)>,
    /// Outcomes of the agent with the row's feature, by row.
    pub(super) outcomes: Vec<u32>,
    /// By row.
    pub(in crate::model) mean: Vec<Lanes>,
    /// The lower triangle, row after row.
    pub(in crate::model) covariance: Vec<Lanes>,
    /// Features without a row.
    pub(super) cells: SmallMap<u32, FeatureCell>,
    /// Outcomes the tenant had learned when this was last changed.
    pub(super) at: u64,
}

/// The effect of a feature without a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct FeatureCell {
    pub(super) effect: Effect,
    pub(super) outcomes: u32,
}

/// What is believed about an agent's own effects on a question under the base prior, per copy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Own {
    /// Mean and variance of all of them.
    pub(super) sum: Sum,
    /// Covariance of `A` with the sum.
    pub(super) covariance: Lanes,
    /// Mean and variance of `A` alone.
    pub(super) overall: Overall,
}

/// Where the lower triangle holds (row, column), in either order.
fn place(row: usize, column: usize) -> usize {
    let (low, high) = if row < column { (row, column) } else { (column, row) };
    high * (high + 1) / 2 + low
}

impl Block {
    pub(in crate::model) fn new(now: u64) -> Self {
        Self {
            outcomes: vec![0],
            mean: vec![[0.0; COPIES]],
            covariance: vec![BASE],
            at: now,
            ..Self::default()
        }
    }

    pub(super) fn joint_values(&self) -> usize {
        self.features.len()
    }

    pub(super) fn independent_effects(&self) -> usize {
        self.cells.len()
    }

    /// Outcomes that it was learned from.
    pub(super) fn learned(&self) -> u64 {
        self.outcomes[0].into()
    }

    /// What is believed about `A` at a time not before the last change.
    pub(super) fn overall(&self, now: u64) -> Overall {
        let effect = Effect { mean: self.mean[0], variance: self.covariance[0], at: self.at };
        let Effect { mean, variance, .. } = effect.aged(&BASE, now);
        Overall { mean, variance }
    }

    fn row(&self, feature: u32) -> Option<usize> {
        let found = self.rows.binary_search_by_key(&feature, |(feature, _)| *feature);
        found.ok().map(|index| self.rows[index].1 as usize)
    }

    /// Gives features of an outcome that is about to be learned their rows and cells.
    pub(super) fn admit(&mut self, active: &Active, now: u64, room: &mut Room) {
        for active in &active.features {
            let feature = active.feature;
            if self.row(feature).is_some() {
                continue;
            }
            let known = self.cells.get(&feature).copied();
            let outcomes = known.map_or(0, |cell| cell.outcomes);
            let rows = self.mean.len();
            if active.is_joint
                && outcomes + 1 >= ROW_AT_OUTCOME
                && rows <= room.rows_max
                && room.covariances + rows < room.covariances_max
            {
                room.covariances += rows + 1;
                let cell = known.map_or_else(|| Effect::new(&OWN_FEATURE, now), |cell| cell.effect);
                self.add_row(feature, outcomes, &cell.aged(&OWN_FEATURE, now), now);
                if self.cells.remove(&feature).is_some() {
                    room.effects -= 1;
                }
            } else if known.is_none() {
                if room.effects >= room.effects_max {
                    room.refused += 1;
                    continue;
                }
                room.effects += 1;
                let effect = Effect::new(&OWN_FEATURE, now);
                self.cells.insert(feature, FeatureCell { effect, outcomes: 0 });
            }
        }
    }

    fn add_row(&mut self, feature: u32, outcomes: u32, effect: &Effect, now: u64) {
        self.age(now);
        let row = self.mean.len();
        self.features.push(feature);
        let place = self.rows.partition_point(|(known, _)| *known < feature);
        self.rows.insert(place, (feature, u32::try_from(row).expect("rows are capped")));
        self.outcomes.push(outcomes);
        self.mean.push(effect.mean);
        self.covariance.extend(std::iter::repeat_n([0.0; COPIES], row));
        self.covariance.push(effect.variance);
    }

    /// Prior variance of a row.
    fn prior(row: usize) -> &'static Lanes {
        if row == 0 { &BASE } else { &OWN_FEATURE }
    }

    /// Works forgetting out up to `now`.
    pub(in crate::model) fn age(&mut self, now: u64) {
        if now == self.at {
            return;
        }
        let kept = kept(now - self.at);
        let squared = kept * kept;
        self.at = now;
        for mean in &mut self.mean {
            mean[FORGETFUL] *= kept;
        }
        for covariance in &mut self.covariance {
            covariance[FORGETFUL] *= squared;
        }
        for row in 0..self.mean.len() {
            let variance = &mut self.covariance[place(row, row)][FORGETFUL];
            *variance += (1.0 - squared) * Self::prior(row)[FORGETFUL];
        }
    }

    /// Splits what is active into rows and the sum of the rest.
    pub(super) fn split(&self, active: &Active, now: u64, rows: &mut Vec<(usize, f64)>) -> Sum {
        let mut rest = Sum::default();
        let mut unknown = active.unknown_squares;
        rows.clear();
        rows.push((0, 1.0));
        for active in &active.features {
            let x = active.x;
            if let Some(row) = self.row(active.feature) {
                rows.push((row, x));
            } else if let Some(cell) = self.cells.get(&active.feature) {
                cell.effect.add_to(&mut rest, x, &OWN_FEATURE, now);
            } else {
                unknown += x * x;
            }
        }
        rest.add_unknown(unknown, &OWN_FEATURE);
        rest
    }

    /// What is believed about the sum of the block's active effects. `rows` is scratch space.
    pub(super) fn own(&self, active: &Active, now: u64, rows: &mut Vec<(usize, f64)>) -> Own {
        let rest = self.split(active, now, rows);
        let (mut mean, mut form, mut norm) = ([0.0; COPIES], [0.0; COPIES], 0.0);
        let mut with_overall = self.covariance[0];
        for (count, &(row, x)) in rows.iter().enumerate() {
            let diagonal = &self.covariance[place(row, row)];
            let mut line = lanes(|copy| 0.5 * x * diagonal[copy]);
            for &(other, y) in &rows[..count] {
                let covariance = &self.covariance[place(row, other)];
                for copy in 0..COPIES {
                    line[copy] += y * covariance[copy];
                }
            }
            for copy in 0..COPIES {
                mean[copy] += x * self.mean[row][copy];
                form[copy] += 2.0 * x * line[copy];
            }
            if count > 0 {
                norm += x * x;
                let covariance = &self.covariance[place(row, 0)];
                for copy in 0..COPIES {
                    with_overall[copy] += x * covariance[copy];
                }
            }
        }
        let kept = kept(now - self.at);
        let squared = kept * kept;
        let renewed = 1.0 - squared;
        mean[FORGETFUL] *= kept;
        let prior = BASE[FORGETFUL] + norm * OWN_FEATURE[FORGETFUL];
        form[FORGETFUL] = squared * form[FORGETFUL] + renewed * prior;
        with_overall[FORGETFUL] = squared * with_overall[FORGETFUL] + renewed * BASE[FORGETFUL];
        let sum = Sum {
            mean: lanes(|copy| mean[copy] + rest.mean[copy]),
            // Rounding must not make a variance negative.
            variance: lanes(|copy| form[copy].max(0.0) + rest.variance[copy]),
        };
        Own { sum, covariance: with_overall, overall: self.overall(now) }
    }

    /// An agent of which nothing is known.
    pub(super) fn unknown(active: &Active) -> Own {
        let squares: f64 = active.features.iter().map(|active| active.x * active.x).sum();
        let mut sum = Sum { mean: [0.0; COPIES], variance: BASE };
        sum.add_unknown(squares + active.unknown_squares, &OWN_FEATURE);
        Own { sum, covariance: BASE, overall: Overall::UNKNOWN }
    }

    /// What these features add, without `A`, its covariance with `A`, and the agent's outcomes with the
    /// one that has most.
    pub(super) fn of_features(&self, active: &Active, now: u64) -> (Sum, Lanes, u64) {
        let with = self.own(active, now, &mut Vec::new());
        // Var(A + F) = Var(A) + 2 Cov(A, F) + Var(F), and Cov(A, A + F) = Var(A) + Cov(A, F).
        let Overall { mean, variance } = with.overall;
        let covariance = lanes(|copy| with.covariance[copy] - variance[copy]);
        let sum = Sum {
            mean: lanes(|copy| with.sum.mean[copy] - mean[copy]),
            variance: lanes(|copy| {
                (with.sum.variance[copy] - variance[copy] - 2.0 * covariance[copy]).max(0.0)
            }),
        };
        let outcomes = active.features.iter().map(|active| match self.row(active.feature) {
            Some(row) => self.outcomes[row],
            None => self.cells.get(&active.feature).map_or(0, |cell| cell.outcomes),
        });
        (sum, covariance, outcomes.max().unwrap_or(0).into())
    }

    /// Covariances of every row with the sum of the active ones.
    pub(super) fn gains(&self, rows: &[(usize, f64)]) -> Vec<Lanes> {
        let mut gains = vec![[0.0; COPIES]; self.mean.len()];
        for &(active, x) in rows {
            let line = &self.covariance[place(active, 0)..=place(active, active)];
            for (gain, covariance) in gains.iter_mut().zip(line) {
                for copy in 0..COPIES {
                    gain[copy] += x * covariance[copy];
                }
            }
            let mut below = place(active, active);
            for (row, gain) in gains.iter_mut().enumerate().skip(active + 1) {
                below += row;
                let covariance = &self.covariance[below];
                for copy in 0..COPIES {
                    gain[copy] += x * covariance[copy];
                }
            }
        }
        gains
    }

    pub(super) fn learn(
        &mut self,
        active: &Active,
        now: u64,
        rows: &[(usize, f64)],
        gains: &[Lanes],
        step: &Step,
    ) {
        for (mean, gain) in self.mean.iter_mut().zip(gains) {
            for copy in 0..COPIES {
                mean[copy] += gain[copy] * step.error[copy];
            }
        }
        let mut rest = &mut *self.covariance;
        for (row, gain) in gains.iter().enumerate() {
            let (line, below) = rest.split_at_mut(row + 1);
            rest = below;
            let shrink = lanes(|copy| step.shrink[copy] * gain[copy]);
            for (covariance, other) in line.iter_mut().zip(gains) {
                for copy in 0..COPIES {
                    covariance[copy] -= shrink[copy] * other[copy];
                }
            }
        }
        for &(row, _) in rows {
            self.outcomes[row] += 1;
        }
        for active in &active.features {
            if self.row(active.feature).is_none()
                && let Some(cell) = self.cells.get_mut(&active.feature)
            {
                cell.effect.learn(active.x, &OWN_FEATURE, now, step);
                cell.outcomes += 1;
            }
        }
    }

    /// Takes a prior `N(mean, variance)` of `A`, under which it was learned, out, and puts the base
    /// prior in: a step with what the one says more than the other.
    pub(super) fn rebase(&mut self, mean: Lanes, variance: Lanes) {
        let column: Vec<Lanes> =
            (0..self.mean.len()).map(|row| self.covariance[place(row, 0)]).collect();
        let precision = lanes(|copy| 1.0 / BASE[copy] - 1.0 / variance[copy]);
        let information = lanes(|copy| -mean[copy] / variance[copy]);
        let own = self.mean[0];
        let quotient = lanes(|copy| (1.0 + self.covariance[0][copy] * precision[copy]).max(1e-9));
        let error =
            lanes(|copy| (information[copy] - precision[copy] * own[copy]) / quotient[copy]);
        let shrink = lanes(|copy| precision[copy] / quotient[copy]);
        let step = Step { error, shrink };
        self.learn(&Active::default(), self.at, &[], &column, &step);
    }
}

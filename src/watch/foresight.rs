//! How well outcomes are foretold: progressive validation. Every outcome is predicted before it is
//! learned, so that no prediction has seen what it is measured by (Blum, Kalai and Langford,
//! "Beating the hold-out", COLT 1999).

use serde::{Deserialize, Serialize};

/// Bins of equal width over predictions in `0..=1`.
pub const BINS: usize = 10;
/// Predictions are kept this far from 0 and 1 where their logarithm is taken.
const LOG_LOSS_MARGIN: f64 = 1e-15;

/// Sums over all predictions so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Foresight {
    /// Of squared differences to the rewards.
    squared_error: f64,
    /// Of logarithmic losses.
    log_loss: f64,
    bins: [Bin; BINS],
}

/// Predictions of one bin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// How many.
    pub predictions: u64,
    predicted: f64,
    observed: f64,
}

impl Bin {
    /// Mean prediction; `None` with none.
    pub fn mean_predicted(&self) -> Option<f64> {
        mean(self.predicted, self.predictions)
    }

    /// Mean reward; `None` with none.
    pub fn mean_observed(&self) -> Option<f64> {
        mean(self.observed, self.predictions)
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn mean(sum: f64, count: u64) -> Option<f64> {
    (count > 0).then(|| sum / count as f64)
}

impl Foresight {
    /// Adds an expected reward and the one that came, both in `0..=1`.
    pub fn add(&mut self, expected: f64, reward: f64) {
        self.squared_error += (expected - reward).powi(2);
        let bounded = expected.clamp(LOG_LOSS_MARGIN, 1.0 - LOG_LOSS_MARGIN);
        self.log_loss -= reward * bounded.ln() + (1.0 - reward) * (-bounded).ln_1p();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "0..=1 times ten"
        )]
        let index = (expected * BINS as f64) as usize;
        let bin = &mut self.bins[index.min(BINS - 1)];
        bin.predictions += 1;
        bin.predicted += expected;
        bin.observed += reward;
    }

    /// How many there were.
    pub fn predictions(&self) -> u64 {
        self.bins.iter().map(|bin| bin.predictions).sum()
    }

    /// 1 minus the Brier score, the mean squared error of the predictions; `None` with none.
    pub fn accuracy(&self) -> Option<f64> {
        mean(self.squared_error, self.predictions()).map(|brier| 1.0 - brier)
    }

    /// Mean logarithmic loss; `None` with none.
    pub fn log_loss(&self) -> Option<f64> {
        mean(self.log_loss, self.predictions())
    }

    /// The bins, lowest first; the last includes 1.
    pub fn bins(&self) -> &[Bin; BINS] {
        &self.bins
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_those_of_their_definitions() {
        let mut foresight = Foresight::default();
        assert_eq!((foresight.accuracy(), foresight.log_loss()), (None, None));
        let pairs = [(0.8, 1.0), (0.8, 0.0), (0.85, 1.0), (0.05, 0.0), (1.0, 1.0), (0.5, 0.5)];
        for (expected, reward) in pairs {
            foresight.add(expected, reward);
        }
        let brier = (0.04 + 0.64 + 0.0225 + 0.0025) / 6.0;
        assert!((foresight.accuracy().unwrap() - (1.0 - brier)).abs() < 1e-12);
        let losses = [0.8_f64.ln(), 0.2_f64.ln(), 0.85_f64.ln(), 0.95_f64.ln(), 0.5_f64.ln()];
        let log_loss = -losses.iter().sum::<f64>() / 6.0;
        assert!((foresight.log_loss().unwrap() - log_loss).abs() < 1e-12);
        let counts: Vec<u64> = foresight.bins().iter().map(|bin| bin.predictions).collect();
        assert_eq!(counts, [1, 0, 0, 0, 0, 1, 0, 0, 3, 1]);
        let bin = foresight.bins()[8];
        assert!((bin.mean_predicted().unwrap() - 2.45 / 3.0).abs() < 1e-12);
        assert!((bin.mean_observed().unwrap() - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(foresight.bins()[1].mean_observed(), None);
    }

    #[test]
    fn a_certain_prediction_that_fails_costs_much_but_not_everything() {
        let mut foresight = Foresight::default();
        foresight.add(1.0, 0.0);
        foresight.add(0.0, 1.0);
        assert!((30.0..40.0).contains(&foresight.log_loss().unwrap()));
        assert_eq!(foresight.accuracy(), Some(0.0));
    }
}

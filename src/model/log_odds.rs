//! Log-odds and the chances that they stand for.

/// The chance that these log-odds stand for.
pub(super) fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

/// `ln(1 + exp(z))`, without overflow.
pub(super) fn softplus(z: f64) -> f64 {
    z.max(0.0) + (-z.abs()).exp().ln_1p()
}

/// The mean of a sigmoid over a Gaussian is about the sigmoid of the mean times this (`MacKay`,
/// "The evidence framework applied to classification networks", 1992, equation 10).
pub(super) fn moderation(variance: f64) -> f64 {
    1.0 / (1.0 + std::f64::consts::FRAC_PI_8 * variance).sqrt()
}

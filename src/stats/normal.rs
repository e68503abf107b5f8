//! The standard Gaussian distribution.

/// Upper quantile of 95 %.
pub(crate) const Z_95: f64 = 1.644_853_626_951_472_2;

/// Beyond this the hazard is a continued fraction.
const FAR: f64 = 2.5;
/// Terms of it: more than double precision needs from [`FAR`] on.
const TERMS: u32 = 60;

pub(crate) fn density(z: f64) -> f64 {
    const SCALE: f64 = 0.398_942_280_401_432_7;
    SCALE * (-0.5 * z * z).exp()
}

/// Probability below `z`, within 1.5e-7: Abramowitz and Stegun, 26.2.19.
pub(crate) fn below(z: f64) -> f64 {
    const SERIES: [f64; 6] = [
        0.049_867_347_0,
        0.021_141_006_1,
        0.003_277_626_3,
        0.000_038_003_6,
        0.000_048_890_6,
        0.000_005_383_0,
    ];
    let x = z.abs();
    let sum = SERIES.iter().rev().fold(0.0, |sum, term| (sum + term) * x) + 1.0;
    let above = 0.5 / sum.powi(16);
    if z > 0.0 { 1.0 - above } else { above }
}

/// The `z` that lies above with probability `1 - p`, for `p` in (0, 1): within 4.5e-4 by Abramowitz and
/// Stegun, 26.2.23, and within 2e-5 after a step of Newton's method where [`below`] is precise enough.
pub(crate) fn quantile(p: f64) -> f64 {
    let tail = p.min(1.0 - p).max(f64::MIN_POSITIVE);
    let t = (-2.0 * tail.ln()).sqrt();
    let above = 2.515_517 + t * (0.802_853 + t * 0.010_328);
    let under = 1.0 + t * (1.432_788 + t * (0.189_269 + t * 0.001_308));
    let far = t - above / under;
    let far = if tail < 0.001 { far } else { far + (below(-far) - tail) / density(far) };
    if p < 0.5 { -far } else { far }
}

/// The mean of what lies above `z`: density over the probability above, the inverse of Mills' ratio.
/// Far out by its continued fraction `z + 1/(z + 2/(z + 3/(z + ...)))` (Abramowitz and Stegun,
/// 26.2.14).
pub(crate) fn hazard(z: f64) -> f64 {
    if z < FAR {
        return density(z) / below(-z);
    }
    (1..=TERMS).rev().fold(z, |rest, term| z + f64::from(term) / rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_match_references() {
        // Table 26.5 of Abramowitz and Stegun.
        for (p, expected) in
            [(0.5, 0.0), (0.8, 0.841_62), (0.95, Z_95), (0.99, 2.326_35), (0.999, 3.090_23)]
        {
            assert!((quantile(p) - expected).abs() < 2e-5, "{p}: {}", quantile(p));
            assert!(
                (quantile(1.0 - p) + expected).abs() < 2e-5,
                "{}: {}",
                1.0 - p,
                quantile(1.0 - p)
            );
        }
        assert!((quantile(1e-6) + 4.753_42).abs() < 5e-4);
        assert!(quantile(1.0).is_finite() && quantile(0.0).is_finite());
    }

    #[test]
    fn probabilities_and_hazards_match_references() {
        // Tables 26.1 and 26.2 of Abramowitz and Stegun; hazards by the complementary error function.
        for (z, expected) in [(0.0, 0.5), (1.0, 0.841_344_746), (-2.0, 0.022_750_132)] {
            assert!((below(z) - expected).abs() < 2e-7, "below {z}");
        }
        for (z, expected) in [
            (-3.0, 0.004_437_8),
            (0.0, 0.797_884_56),
            (1.0, 1.525_135_28),
            (2.4, 2.731_861_2),
            (2.6, 2.914_057_4),
            (5.0, 5.186_503_97),
            (10.0, 10.098_093_23),
        ] {
            assert!((hazard(z) / expected - 1.0).abs() < 2e-5, "hazard {z}: {}", hazard(z));
        }
    }
}

//! Statistics that more than one part needs. Pure, and open to all.

pub(crate) mod normal;

/// The smallest of these values that at least `share` of them do not exceed (the inverse of the
/// empirical distribution function, type 1 of Hyndman and Fan 1996); `None` without values.
///
/// `share` is in `0..=1`; no value is NaN.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "there are fewer values than 2^52"
)]
pub fn quantile(values: impl IntoIterator<Item = f64>, share: f64) -> Option<f64> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_values() {
        assert_eq!(quantile([], 0.95), None);
        assert_eq!(quantile([7.0], 0.95), Some(7.0));
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        for (share, expected) in [(0.0, 1.0), (0.5, 50.0), (0.95, 95.0), (1.0, 100.0)] {
            assert_eq!(quantile(hundred.clone(), share), Some(expected), "{share}");
        }
    }
}

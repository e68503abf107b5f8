//! Who is worth choosing for somebody, whatever success, latency and cost are worth to them.

/// What is compared of an agent; `None` where nothing is known of anybody.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Merits {
    /// Expected reward, more is better.
    pub success: f64,
    /// Expected latency in ms, less is better.
    pub latency_ms: Option<f64>,
    /// Expected cost, less is better.
    pub cost: Option<f64>,
}

impl Merits {
    /// All as numbers of which more is better. What one of two does not know tells nothing of them.
    fn gains(&self, over: &Self) -> [f64; 3] {
        let less =
            |own: Option<f64>, other: Option<f64>| own.zip(other).map_or(0.0, |(a, b)| b - a);
        [
            self.success - over.success,
            less(self.latency_ms, over.latency_ms),
            less(self.cost, over.cost),
        ]
    }

    /// Whether this is nowhere worse and somewhere better (Pareto dominance).
    pub fn dominates(&self, other: &Self) -> bool {
        let gains = self.gains(other);
        gains.iter().all(|gain| *gain >= 0.0) && gains.iter().any(|gain| *gain > 0.0)
    }
}

/// For each of these the place of one that dominates it and is dominated by none itself: of several the
/// one with the most success, then the first. `None` for those that nobody dominates. Either all or
/// none of them have each of latency and cost.
pub fn dominators(merits: &[Merits]) -> Vec<Option<usize>> {
    let mut best_first: Vec<usize> = (0..merits.len()).collect();
    best_first.sort_by(|a, b| merits[*b].success.total_cmp(&merits[*a].success));
    let is_dominated = |place: &usize| merits.iter().any(|other| other.dominates(&merits[*place]));
    let front: Vec<usize> = best_first.into_iter().filter(|place| !is_dominated(place)).collect();
    let dominator =
        |one: &Merits| front.iter().copied().find(|place| merits[*place].dominates(one));
    merits.iter().map(dominator).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn merits(success: f64, latency_ms: f64, cost: f64) -> Merits {
        Merits { success, latency_ms: Some(latency_ms), cost: Some(cost) }
    }

    #[test]
    fn only_who_is_worse_in_something_and_better_in_nothing_is_dominated() {
        let all = [
            merits(0.9, 100.0, 3.0),
            merits(0.8, 50.0, 1.0),
            merits(0.8, 60.0, 1.0),
            merits(0.7, 70.0, 2.0),
            merits(0.1, 1.0, 9.0),
            merits(0.1, 1.0, 9.0),
        ];
        assert_eq!(dominators(&all), [None, None, Some(1), Some(1), None, None]);
        // Where nobody's latency and cost are known, success alone is left.
        let bare = all.map(|one| Merits { latency_ms: None, cost: None, ..one });
        assert_eq!(dominators(&bare), [None, Some(0), Some(0), Some(0), Some(0), Some(0)]);
        assert_eq!(dominators(&[]), []);
    }

    proptest! {
        /// Few different numbers, so that there are ties.
        #[test]
        fn a_dominator_is_not_dominated_and_who_has_none_is_dominated_by_nobody(
            all in prop::collection::vec((0..4_u8, 0..4_u8, 0..4_u8), 0..30),
        ) {
            let all: Vec<Merits> =
                all.into_iter().map(|(a, b, c)| merits(a.into(), b.into(), c.into())).collect();
            let found = dominators(&all);
            for (one, dominator) in all.iter().zip(&found) {
                match dominator {
                    Some(place) => {
                        prop_assert!(all[*place].dominates(one));
                        prop_assert_eq!(found[*place], None);
                    }
                    None => prop_assert!(!all.iter().any(|other| other.dominates(one))),
                }
            }
        }
    }
}

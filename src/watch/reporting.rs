//! Who reports what came of the decisions that chose them, and who does not.

use std::collections::BTreeMap;
use std::time::Duration;

/// Newest decisions of an agent that alerts look at.
pub const RECENT: u32 = 200;
/// Deviations by which two shares must differ: about one pair of a thousand equal ones does by chance.
const DEVIATIONS: f64 = 3.0;
/// Decisions of an agent without which its share says nothing.
const DECISIONS_MIN: u64 = 10;

/// A decision made before this (Unix, ms) should have its outcome by now.
pub fn waited_since(wait: Duration, now_ms: i64) -> i64 {
    now_ms.saturating_sub(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX))
}

/// Decisions that chose an agent, and what is known of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reporting {
    /// Those old enough to have an outcome, and younger ones that have one.
    pub decisions: u64,
    /// Of those, the ones without an outcome.
    pub missing: u64,
    /// Those without an outcome that may still come.
    pub waiting: u64,
}

impl Reporting {
    /// The share of decisions whose outcome is missing, `0..=1`; 0 without any.
    #[expect(clippy::cast_precision_loss, reason = "decisions are far fewer than 2^53")]
    pub fn missing_share(&self) -> f64 {
        self.missing as f64 / self.decisions.max(1) as f64
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            decisions: self.decisions + other.decisions,
            missing: self.missing + other.missing,
            waiting: self.waiting + other.waiting,
        }
    }

    /// This one without those of an agent that are part of it.
    #[must_use]
    pub fn without(self, part: Self) -> Self {
        Self {
            decisions: self.decisions.saturating_sub(part.decisions),
            missing: self.missing.saturating_sub(part.missing),
            waiting: self.waiting.saturating_sub(part.waiting),
        }
    }

    /// Outcomes are missing more often than of the `others`, by more than `margin` and by more than
    /// chance explains.
    pub fn exceeds(&self, others: &Self, margin: f64) -> bool {
        self.decisions >= DECISIONS_MIN
            && others.decisions > 0
            && self.interval()[0] > others.interval()[1] + margin
    }

    /// Wilson's interval of the missing share (Wilson, "Probable inference, the law of succession, and
    /// statistical inference", Journal of the American Statistical Association 22, 1927).
    #[expect(clippy::cast_precision_loss, reason = "decisions are far fewer than 2^53")]
    fn interval(&self) -> [f64; 2] {
        let (count, missing) = (self.decisions as f64, self.missing as f64);
        let square = DEVIATIONS * DEVIATIONS;
        let all = count + square;
        let centre = (missing + square / 2.0) / all;
        let spread = missing * (count - missing) / count.max(1.0) + square / 4.0;
        let margin = DEVIATIONS * spread.sqrt() / all;
        [centre - margin, centre + margin]
    }
}

/// Of each agent of each tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ByAgent {
    tenants: BTreeMap<String, OfTenant>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct OfTenant {
    all: Reporting,
    agents: BTreeMap<String, Reporting>,
}

impl FromIterator<(String, String, Reporting)> for ByAgent {
    fn from_iter<T: IntoIterator<Item = (String, String, Reporting)>>(rows: T) -> Self {
        let mut tenants: BTreeMap<String, OfTenant> = BTreeMap::new();
        for (tenant, agent, reporting) in rows {
            let of = tenants.entry(tenant).or_default();
            of.all = of.all.and(reporting);
            of.agents.insert(agent, reporting);
        }
        Self { tenants }
    }
}

impl ByAgent {
    /// Tenant and name of each agent.
    pub fn agents(&self) -> impl Iterator<Item = (&str, &str)> {
        let tenants = self.tenants.iter();
        tenants.flat_map(|(tenant, of)| of.agents.keys().map(move |agent| (&**tenant, &**agent)))
    }

    /// Of an agent, and of the others of its tenant together.
    pub fn of(&self, tenant: &str, agent: &str) -> Option<[Reporting; 2]> {
        let of = self.tenants.get(tenant)?;
        let own = *of.agents.get(agent)?;
        Some([own, of.all.without(own)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(missing: u64, decisions: u64) -> Reporting {
        Reporting { decisions, missing, waiting: 0 }
    }

    #[test]
    fn intervals_are_those_of_wilson() {
        // n p^ = 10 of 100 at z = 3: (10 + 4.5 +- 3 sqrt(9 + 2.25)) / 109.
        let [low, high] = of(10, 100).interval();
        assert!((low - (14.5 - 3.0 * 11.25_f64.sqrt()) / 109.0).abs() < 1e-12);
        assert!((high - (14.5 + 3.0 * 11.25_f64.sqrt()) / 109.0).abs() < 1e-12);
        let [low, high] = of(0, 9).interval();
        assert!(low.abs() < 1e-12 && (high - 0.5).abs() < 1e-12);
    }

    #[test]
    fn one_that_never_reports_stands_out_and_chance_does_not() {
        assert!(of(30, 30).exceeds(&of(0, 60), 0.1));
        assert!(!of(0, 60).exceeds(&of(30, 30), 0.0));
        assert!(!of(3, 3).exceeds(&of(0, 60), 0.1), "three may be chance");
        assert!(!of(12, 100).exceeds(&of(10, 100), 0.0));
        assert!(of(400, 1_000).exceeds(&of(250, 1_000), 0.0));
        assert!(!of(400, 1_000).exceeds(&of(250, 1_000), 0.1), "a little more is no alarm");
        assert!(!of(30, 30).exceeds(&of(0, 0), 0.0), "there is nobody to compare with");
        assert!(!of(30, 30).exceeds(&of(60, 60), 0.0), "nobody reports");
    }

    #[test]
    fn an_agent_is_compared_with_the_others_of_its_tenant() {
        let row =
            |tenant: &str, agent: &str, reporting| (tenant.to_owned(), agent.to_owned(), reporting);
        let rows = [row("t", "a", of(1, 10)), row("t", "b", of(2, 20)), row("u", "a", of(7, 7))];
        let all: ByAgent = rows.into_iter().collect();
        assert_eq!(all.of("t", "a"), Some([of(1, 10), of(2, 20)]));
        assert_eq!(all.of("u", "a"), Some([of(7, 7), of(0, 0)]));
        assert_eq!((all.of("u", "b"), all.of("v", "a")), (None, None));
        assert_eq!(all.agents().collect::<Vec<_>>(), [("t", "a"), ("t", "b"), ("u", "a")]);
    }

    #[test]
    fn a_part_can_be_taken_out_again() {
        let (a, b) = (of(3, 10), of(1, 20));
        assert_eq!(a.and(b).without(b), a);
        assert!((a.missing_share() - 0.3).abs() < 1e-12);
        assert!(of(0, 0).missing_share() < 1e-12);
    }
}

//! Names that people take for one another, and values in another unit than those beside them.

use std::collections::{BTreeMap, BTreeSet};

use unicode_normalization::UnicodeNormalization;
use unicode_security::confusable_detection::skeleton;

use super::{NAMES_SHOWN, Report, State, names};
use crate::model::{AgentPerformanceModel, Tenant};
use crate::outcome::is_blank;

/// Latencies of an agent without which their mean says little.
const LATENCIES_MIN: usize = 5;
/// How many times lower than the others' an agent's latencies are when they are hardly in the same unit.
/// Seconds are 1,000 times lower than milliseconds; no two agents are alike.
const UNITS_APART: f64 = 500.0;

/// Are there names that look like others?
pub(super) fn look_alikes(model: &AgentPerformanceModel, report: &mut Report) {
    let mut found = Vec::new();
    for (tenant, of) in model.tenants() {
        let kinds = [
            ("agents", alike(of.agents().map(|(name, _)| name))),
            ("task types", alike(of.task_types().map(|(name, _)| name))),
            ("context keys", alike(of.context_keys().map(|(name, _)| name))),
        ];
        for (kind, groups) in kinds {
            found.extend(groups.iter().map(|group| {
                // What can't be told apart when it is shown is spelt out.
                let names: Vec<String> =
                    group.iter().map(|name| format!("\"{}\"", name.escape_default())).collect();
                format!("{kind} {} of tenant {tenant:?}", names.join(" and "))
            }));
        }
    }
    if found.is_empty() {
        return report.ok("names", "no two names look alike");
    }
    let more = found.len().saturating_sub(NAMES_SHOWN);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    found.truncate(NAMES_SHOWN);
    report.add(
        "names",
        State::Warn,
        format!("these look alike and are learned apart: {}{more}", found.join("; ")),
        "report one of them alone; DELETE /api/learning/agents/NAME lets go of the other",
    );
}

/// Does an agent report its latencies in another unit than the others?
pub(super) fn units(model: &AgentPerformanceModel, report: &mut Report) {
    let found: Vec<&str> = model.tenants().flat_map(|(_, tenant)| in_seconds(tenant)).collect();
    if found.is_empty() {
        return report.ok("units", "latencies of all agents may be in the same unit");
    }
    report.add(
        "units",
        State::Warn,
        format!(
            "latencies are {UNITS_APART} times and more below those of the others: {}",
            names(&found)
        ),
        "latency_ms and duration_ms are milliseconds: does it report seconds?",
    );
}

fn in_seconds(tenant: &Tenant) -> Vec<&str> {
    let means: Vec<(&str, f64)> = tenant
        .agents()
        .filter(|(_, agent)| agent.latencies_ms.iter().count() >= LATENCIES_MIN)
        .filter_map(|(name, agent)| Some((name, agent.latencies_ms.mean()?)))
        .collect();
    // The lower median of the others' means, so that one of two that is in another unit does not make
    // the other look so.
    let typical_of_others = |at: usize| {
        let mut others: Vec<f64> = means
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != at)
            .map(|(_, (_, mean))| *mean)
            .collect();
        others.sort_by(f64::total_cmp);
        others.get(others.len().saturating_sub(1) / 2).copied()
    };
    let is_apart = |at: &usize| {
        let mean = means[*at].1;
        let typical = typical_of_others(*at);
        mean > 0.0 && typical.is_some_and(|typical| typical >= mean * UNITS_APART)
    };
    (0..means.len()).filter(is_apart).map(|at| means[at].0).collect()
}

/// Groups of names that look alike, each in order.
fn alike<'a>(names: impl Iterator<Item = &'a str>) -> Vec<Vec<&'a str>> {
    let mut by_shape: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for name in names {
        for shape in shapes(name) {
            by_shape.entry(shape).or_default().insert(name);
        }
    }
    let groups: BTreeSet<Vec<&str>> = by_shape
        .into_values()
        .filter(|group| group.len() > 1)
        .map(|group| group.into_iter().collect())
        .collect();
    groups.into_iter().collect()
}

/// What is left of a name when case, width, blanks, kinds of dashes and letters that look like others
/// (UTS 39, section 4) make no difference. Case before and after the letters: `I` looks like `l`, and
/// its small form does not.
fn shapes(name: &str) -> [String; 2] {
    let plain: String = name
        .nfkc()
        .filter(|sign| !is_blank(*sign))
        .map(|sign| if is_dash(sign) { '-' } else { sign })
        .collect();
    let seen: String = skeleton(&plain).collect();
    let lower: String = skeleton(&plain.to_lowercase()).collect();
    [seen.to_lowercase(), lower]
}

fn is_dash(sign: char) -> bool {
    matches!(sign, '_' | '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{ad}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Settings;
    use crate::outcome::{Outcome, Status};

    #[test]
    fn names_that_look_alike_are_found() {
        #[track_caller]
        fn check(one: &str, other: &str, expected: bool) {
            assert_eq!(!alike([one, other].into_iter()).is_empty(), expected, "{one:?} {other:?}");
        }
        for (one, other) in [
            ("ReActAgent", "reactagent"),
            ("code agent", "code  agent"),
            ("code agent", "code\u{a0}agent"),
            ("code agent", "codeagent"),
            ("code-agent", "code\u{2013}agent"),
            ("code-agent", "code_agent"),
            ("code-agent", "code\u{ff0d}agent"),
            ("agent", "\u{ff41}gent"),
            ("agent", "\u{430}gent"),
            ("\u{410}gent", "Agent"),
            ("AI", "ai"),
            ("AI", "Al"),
            ("gpt-4o", "gpt-40"),
            ("a\u{200b}b", "ab"),
            ("a\u{ad}b", "a-b"),
        ] {
            check(one, other, true);
        }
        for (one, other) in [
            ("a", "b"),
            ("agent-1", "agent-2"),
            ("agent1", "agent11"),
            ("gpt-4", "gpt-5"),
            ("résumé", "resume"),
            ("plan", "planner"),
        ] {
            check(one, other, false);
        }
        assert_eq!(alike(["a-b", "x", "a_b", "A-B"].into_iter()), [["A-B", "a-b", "a_b"]]);
    }

    /// Who is found where agents take so long on average.
    #[track_caller]
    fn check_units(latencies_ms: &[(&str, f64)], expected: &[&str]) {
        let mut model = AgentPerformanceModel::new(Settings::default());
        for (agent, latency_ms) in latencies_ms {
            for share in [0.5, 0.75, 1.0, 1.25, 1.5] {
                let mut outcome = Outcome::new(*agent, Status::Success);
                outcome.latency_ms = Some(latency_ms * share);
                model.update(&outcome);
            }
        }
        let found: Vec<&str> = model.tenants().flat_map(|(_, tenant)| in_seconds(tenant)).collect();
        assert_eq!(found, expected, "{latencies_ms:?}");
    }

    #[test]
    fn an_agent_that_reports_seconds_is_found() {
        check_units(&[("a", 1_200.0), ("b", 1.5)], &["b"]);
        check_units(&[("a", 1_200.0), ("b", 900.0), ("c", 1.5)], &["c"]);
        check_units(&[("a", 1_200.0), ("b", 1.5), ("c", 2.0)], &[]);
        check_units(&[("a", 1_200.0), ("b", 3.0)], &[]);
        check_units(&[("a", 1_200.0), ("b", 0.0)], &[]);
        check_units(&[("a", 1_200_000.0), ("b", 1_000.0), ("c", 900.0)], &[]);
        check_units(&[("a", 1.0)], &[]);
    }
}

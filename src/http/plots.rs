//! `GET /plots/*.svg`: what was learned, to look at.

use crate::outcome::fields::Name;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

use super::access::{Caller, Need, Scope};
use super::operation::Operation;
use super::route::{Route, Tag};
use super::server::{Request, Response};
use super::{Answer, App, Query, nothing_at};
use crate::error::{Error, Result};
use crate::learner::Now;
use crate::model::{Belief, Question, Standing};
use crate::outcome::Context;
use crate::plots::{self, COLOURS, Calibrated, Line, Look, Ridge, Unit, WIDTH, WIDTHS};
use crate::watch::samples::{self, FORECASTS_MIN, LATENCIES_MIN, Subject};

/// Steps of an axis over time on which shares of traffic are counted: wide enough to hold some.
const TRAFFIC_STEPS: usize = 60;
/// Samples older than this are not shown, hours.
pub(super) const HOURS_MAX: u32 = 90 * 24;
const BINS: usize = 10;
/// Chances for which a density is worked out, on the whole and about its middle.
const DENSITY_POINTS: u32 = 100;
const RIDGES: usize = 12;

/// What a plot shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plot {
    /// Densities of the agents' chances of success, now.
    Posterior,
    /// Each agent's probability of being the best, over time.
    Best,
    /// Each agent's share of the outcomes, over time.
    Traffic,
    /// Model score and accuracy, over time.
    Score,
    /// What came against what was expected.
    Calibration,
    /// Quantiles of latencies, over time.
    Latency,
}

impl Plot {
    const ALL: [Self; 6] =
        [Self::Posterior, Self::Best, Self::Traffic, Self::Score, Self::Calibration, Self::Latency];

    fn as_str(self) -> &'static str {
        match self {
            Self::Posterior => "posterior",
            Self::Best => "best",
            Self::Traffic => "traffic",
            Self::Score => "score",
            Self::Calibration => "calibration",
            Self::Latency => "latency",
        }
    }

    fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|plot| plot.as_str() == name)
    }
}

/// What is asked of a plot.
struct Asked<'a> {
    look: Look,
    tenant: &'a str,
    task_type: Option<&'a str>,
    from_ms: i64,
    to_ms: i64,
}

impl<'a> Asked<'a> {
    fn of(query: &'a Query, tenant: &'a str) -> Result<Self> {
        let is_dark = match query.get("theme") {
            None | Some("light") => false,
            Some("dark") => true,
            Some(other) => {
                let text = format!("is {other:?}, allowed are light and dark");
                return Err(Error::invalid("theme", text));
            }
        };
        let within = |name, min: u32, max: u32, default| match query.get(name) {
            None => Ok(default),
            Some(text) => {
                text.parse().ok().filter(|number| (min..=max).contains(number)).ok_or_else(|| {
                    Error::invalid(name, format!("is {text:?}, allowed is {min} to {max}"))
                })
            }
        };
        let (min, max) = (*plots::WIDTHS.start(), *plots::WIDTHS.end());
        let width = within("width", min, max, plots::WIDTH)?;
        let hours = within("hours", 1, HOURS_MAX, HOURS_MAX)?;
        let to_ms = Now::read().unix_ms;
        Ok(Self {
            look: Look { is_dark, width },
            tenant,
            task_type: query.name("task_type")?,
            from_ms: to_ms - i64::from(hours) * 3_600_000,
            to_ms,
        })
    }

    /// What is shown, for titles.
    fn about(&self, what: &str) -> String {
        match self.task_type {
            None => what.to_owned(),
            Some(task_type) => format!("{what}, {task_type}"),
        }
    }
}

/// The agents that have a colour of their own in every plot of a tenant and task type, and which: those
/// with outcomes that have the most traffic or the best prospects, in the order of their names.
pub(super) fn colours(agents: &[samples::AgentSample]) -> BTreeMap<&str, usize> {
    let seen = agents.iter().filter(|agent| agent.executions > 0).take(COLOURS);
    let names: BTreeSet<&str> = seen.map(|agent| &*agent.agent).collect();
    names.into_iter().enumerate().map(|(index, name)| (name, index)).collect()
}

pub(super) const PLOT: Route = Route {
    method: "GET",
    pattern: "/plots/{plot}.svg",
    id: "getPlot",
    tag: Tag::Reports,
    need: Need::Scope(Scope::Read),
    handler: |app, call| app.plot(&call.names[0], call.request, call.caller),
    describe: |schemas| {
        let (min, max) = (WIDTHS.start(), WIDTHS.end());
        let width = json!({"type": "integer", "minimum": min, "maximum": max, "default": WIDTH});
        let hours = json!({"type": "integer", "minimum": 1, "maximum": HOURS_MAX});
        Operation::new("What was learned, to look at")
            .name("plot", json!({"type": "string", "enum": Plot::ALL.map(Plot::as_str)}))
            .tenant(schemas)
            .query("task_type", "Only on this task type", schemas.asked::<Name>())
            .query(
                "theme",
                "Colours",
                json!({"type": "string", "enum": ["light", "dark"], "default": "light"}),
            )
            .query("width", "In pixels", width)
            .query("hours", "How far back", hours)
            .answer_of("A plot", json!({"image/svg+xml": {"schema": {"type": "string"}}}))
    },
};

impl App {
    fn plot(&self, name: &str, request: &Request<'_>, caller: &Caller) -> Answer {
        let plot = Plot::of(name).ok_or_else(|| nothing_at(request.path()))?;
        // What these show is of all tenants together.
        if matches!(plot, Plot::Score | Plot::Calibration) {
            caller.of_all_tenants()?;
        }
        let query = Query::of(request);
        let asked = Asked::of(&query, query.tenant(caller)?)?;
        let svg = match plot {
            Plot::Posterior => self.posterior_plot(&asked),
            Plot::Best => self.best_plot(&asked)?,
            Plot::Traffic => self.traffic_plot(&asked)?,
            Plot::Score => self.score_plot(&asked)?,
            Plot::Calibration => self.calibration_plot(&asked),
            Plot::Latency => self.latency_plot(&asked)?,
        };
        // Other pages may show it: they learn its size from that, which is the same whatever it shows.
        let response = Response::new(200, "image/svg+xml; charset=utf-8", svg.into_bytes());
        Ok(response.with_header("cross-origin-resource-policy", "cross-origin"))
    }

    fn subject_samples(&self, asked: &Asked<'_>) -> Result<Vec<(i64, Subject)>> {
        let Asked { tenant, task_type, from_ms, to_ms, .. } = *asked;
        let mut samples = self.reader.samples_of(tenant, task_type, from_ms, to_ms)?;
        keep_growing(&mut samples, |(time, _)| *time);
        Ok(samples)
    }

    /// Why there is nothing over time.
    fn no_samples(&self) -> String {
        match self.options.sample_interval {
            None => "Nothing is sampled: SAMPLE_INTERVAL is 0.".to_owned(),
            Some(interval) => format!(
                "Nothing yet: a sample is taken every {} s while outcomes are learned.",
                interval.as_secs_f64()
            ),
        }
    }

    fn posterior_plot(&self, asked: &Asked<'_>) -> String {
        let model = self.shared.model();
        let agents = samples::agents(&model, asked.tenant, asked.task_type);
        let colours = colours(&agents);
        let context = Context::new();
        let names: Vec<String> =
            agents.iter().take(RIDGES).map(|agent| agent.agent.clone()).collect();
        let question = Question {
            tenant: asked.tenant,
            task_type: asked.task_type,
            context: &context,
            candidates: Some(&names),
            exclude: &[],
        };
        let mut standings = model.standings(&question);
        standings.sort_by(|a, b| b.expected_success().total_cmp(&a.expected_success()));
        let ridges: Vec<Ridge> =
            standings.iter().map(|standing| ridge(standing, &colours)).collect();
        plots::ridges(
            asked.look,
            &asked.about("Chance of success"),
            "What is believed of each agent's chance of success: density, 90 % interval and mean",
            "Nothing is known of any agent yet.",
            &ridges,
        )
    }

    fn best_plot(&self, asked: &Asked<'_>) -> Result<String> {
        let samples = self.subject_samples(asked)?;
        let model = self.shared.model();
        let agents = samples::agents(&model, asked.tenant, asked.task_type);
        let lines = colours(&agents).into_iter().map(|(name, colour)| {
            let points = samples.iter().filter_map(|(time, subject)| {
                let agent = subject.agents.iter().find(|agent| agent.agent == name)?;
                Some((*time, agent.best))
            });
            Line { name: name.to_owned(), colour: Some(colour), points: points.collect() }
        });
        let mut lines: Vec<Line> = lines.collect();
        lines.retain(|line| !line.points.is_empty());
        Ok(plots::lines(
            asked.look,
            &asked.about("Probability of being the best"),
            "Probability of each agent to be ranked first, over time",
            &self.no_samples(),
            Unit::Share,
            &lines,
        ))
    }

    fn traffic_plot(&self, asked: &Asked<'_>) -> Result<String> {
        let samples = self.subject_samples(asked)?;
        let model = self.shared.model();
        let agents = samples::agents(&model, asked.tenant, asked.task_type);
        let mut colours: Vec<(&str, usize)> = colours(&agents).into_iter().collect();
        colours.sort_by_key(|(_, colour)| *colour);
        let rows = traffic(&samples, &colours);
        let mut parts: Vec<(String, Option<usize>)> =
            colours.iter().map(|(name, colour)| ((*name).to_owned(), Some(*colour))).collect();
        if rows.iter().any(|(_, shares)| shares.last().is_some_and(|others| *others > 0.0)) {
            parts.push(("others".to_owned(), None));
        }
        Ok(plots::shares(
            asked.look,
            &asked.about("Share of traffic"),
            "Share of each agent in the outcomes that came, over time",
            &self.no_samples(),
            &parts,
            &rows,
        ))
    }

    fn score_plot(&self, asked: &Asked<'_>) -> Result<String> {
        let mut samples = self.reader.samples(asked.from_ms, asked.to_ms)?;
        keep_growing(&mut samples, |sample| sample.sampled_ms);
        let score = samples.iter().map(|sample| (sample.sampled_ms, sample.score)).collect();
        let accuracy =
            samples.iter().filter_map(|sample| Some((sample.sampled_ms, sample.accuracy?)));
        let line = |name: &str, colour, points| Line { name: name.to_owned(), colour, points };
        let lines = [
            line("model score", Some(0), score),
            line("forecasts that were right", Some(1), accuracy.collect()),
        ];
        Ok(plots::lines(
            asked.look,
            "Model score and accuracy",
            "Mean reward and share of right forecasts of the last 1,000 outcomes, over time",
            &self.no_samples(),
            Unit::Share,
            &lines,
        ))
    }

    fn calibration_plot(&self, asked: &Asked<'_>) -> String {
        let (count, recent) = self
            .shared
            .with_watch(|watch| (watch.forecasts.len(), watch.forecasts.calibration(BINS)));
        let counters = self.shared.counters();
        let (count, bins): (u64, Vec<Calibrated>) = if count >= FORECASTS_MIN {
            let bins = recent.iter().map(|bin| Calibrated {
                count: bin.count,
                expected: bin.expected,
                reward: bin.reward,
            });
            (count as u64, bins.collect())
        } else {
            // Since a restart there were too few: all that ever were.
            let bins = counters.foresight.bins().iter().filter_map(|bin| {
                let (expected, reward) = bin.mean_predicted().zip(bin.mean_observed())?;
                Some(Calibrated { count: bin.predictions, expected, reward })
            });
            (counters.foresight.predictions(), bins.collect())
        };
        plots::calibration(
            asked.look,
            &format!("Calibration of the last {count} forecasts"),
            "Success that came over success that was expected, with 90 % intervals",
            "Nothing was foretold yet.",
            &bins,
        )
    }

    fn latency_plot(&self, asked: &Asked<'_>) -> Result<String> {
        let samples = self.subject_samples(asked)?;
        let lines = ["p50", "p95", "p99"].into_iter().enumerate().map(|(index, name)| {
            let points = samples
                .iter()
                .filter_map(|(time, subject)| Some((*time, subject.latencies_ms?[index])));
            Line { name: name.to_owned(), colour: Some(index), points: points.collect() }
        });
        let lines: Vec<Line> = lines.collect();
        let nothing = if samples.is_empty() {
            self.no_samples()
        } else {
            format!("Fewer than {LATENCIES_MIN} outcomes had a latency.")
        };
        Ok(plots::lines(
            asked.look,
            &asked.about("Latency of completed executions"),
            "Quantiles of the last 1,000 latencies of completed executions, over time",
            &nothing,
            Unit::Milliseconds,
            &lines,
        ))
    }
}

/// Drops what a clock that was set back left out of order.
fn keep_growing<T>(samples: &mut Vec<T>, time: impl Fn(&T) -> i64) {
    let mut latest = i64::MIN;
    samples.retain(|sample| {
        let is_later = time(sample) > latest;
        if is_later {
            latest = time(sample);
        }
        is_later
    });
}

fn ridge(standing: &Standing, colours: &BTreeMap<&str, usize>) -> Ridge {
    let interval = standing.interval();
    let chances = match (&standing.belief, interval) {
        (Belief::Point(_), _) | (_, None) => Vec::new(),
        (_, Some([low, high])) => {
            // A narrow one would fall between points of the whole.
            let reach = 0.5 * (high - low) + 1e-9;
            let share = |index: u32| (f64::from(index) + 0.5) / f64::from(DENSITY_POINTS);
            let near = |index| low - reach + share(index) * (high - low + 2.0 * reach);
            let all = (0..DENSITY_POINTS).map(share).chain((0..DENSITY_POINTS).map(near));
            let mut all: Vec<f64> = all.filter(|chance| (0.0..=1.0).contains(chance)).collect();
            all.sort_unstable_by(f64::total_cmp);
            all
        }
    };
    let density =
        chances.into_iter().filter_map(|chance| Some((chance, standing.density(chance)?)));
    Ridge {
        name: standing.agent.to_string(),
        colour: colours.get(&*standing.agent).copied(),
        expected: standing.expected_success(),
        interval,
        density: density.collect(),
    }
}

/// The share of each agent, and of all others, in the outcomes between one step and the next.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn traffic(samples: &[(i64, Subject)], agents: &[(&str, usize)]) -> Vec<(i64, Vec<f64>)> {
    let step = samples.len().div_ceil(TRAFFIC_STEPS).max(1);
    // The newest is always one.
    let mut chosen: Vec<&(i64, Subject)> = samples.iter().rev().step_by(step).collect();
    chosen.reverse();
    // What was before the first is one step.
    let nothing = Subject { executions: 0, agents: Vec::new(), ..Subject::default() };
    let mut before = &nothing;
    let mut rows = Vec::new();
    for (time, after) in chosen {
        let total = after.executions.saturating_sub(before.executions);
        // An activation takes counts back: nothing can be said of that step.
        if total > 0 {
            let mut shares: Vec<f64> = agents
                .iter()
                .map(|(name, _)| came(before, after, name).min(total) as f64 / total as f64)
                .collect();
            let known: f64 = shares.iter().sum();
            shares.push((1.0 - known).max(0.0));
            rows.push((*time, shares));
        }
        before = after;
    }
    rows
}

/// Outcomes of an agent between two samples, as far as they tell.
fn came(before: &Subject, after: &Subject, agent: &str) -> u64 {
    let executions = |subject: &Subject| {
        subject.agents.iter().find(|seen| seen.agent == agent).map(|seen| seen.executions)
    };
    match (executions(before), executions(after)) {
        (Some(before), Some(after)) => after.saturating_sub(before),
        // Where there is room for more, it had none.
        (None, Some(after)) if before.agents.len() < samples::AGENTS_MAX => after,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::samples::AgentSample;

    fn subject(executions: u64, agents: &[(&str, u64)]) -> Subject {
        let agent = |&(agent, executions): &(&str, u64)| AgentSample {
            agent: agent.to_owned(),
            executions,
            best: 0.0,
        };
        Subject { executions, agents: agents.iter().map(agent).collect(), ..Subject::default() }
    }

    #[test]
    fn shares_of_traffic_are_of_what_came_between_samples() {
        let samples = [
            (1, subject(10, &[("a", 10)])),
            (2, subject(10, &[("a", 10)])),
            (3, subject(30, &[("a", 15), ("b", 10)])),
            // An older version was activated.
            (4, subject(20, &[("a", 12), ("b", 5)])),
            (5, subject(24, &[("a", 12), ("b", 9)])),
        ];
        let rows = traffic(&samples, &[("a", 0), ("b", 1)]);
        let expected =
            [(1, vec![1.0, 0.0, 0.0]), (3, vec![0.25, 0.5, 0.25]), (5, vec![0.0, 1.0, 0.0])];
        assert_eq!(rows, expected, "the last share is that of all others");
    }

    #[test]
    fn an_agent_that_was_not_among_the_first_has_no_share_that_could_be_told() {
        let many: Vec<(String, u64)> =
            (0..samples::AGENTS_MAX).map(|index| (format!("m{index}"), 5)).collect();
        let many: Vec<(&str, u64)> = many.iter().map(|(name, count)| (&**name, *count)).collect();
        let samples = [(1, subject(60, &many)), (2, subject(70, &[("late", 14)]))];
        let rows = traffic(&samples, &[("late", 0)]);
        assert_eq!(rows[1], (2, vec![0.0, 1.0]));
    }

    #[test]
    fn many_samples_are_counted_in_few_steps_that_end_with_the_newest() {
        let sample = |at: i64| (at, subject(at.unsigned_abs(), &[("a", at.unsigned_abs())]));
        let samples: Vec<(i64, Subject)> = (1..=2_424).map(sample).collect();
        let rows = traffic(&samples, &[("a", 0)]);
        assert!((50..=TRAFFIC_STEPS).contains(&rows.len()), "{}", rows.len());
        assert_eq!(rows[rows.len() - 1], (2_424, vec![1.0, 0.0]));
    }

    #[test]
    fn what_a_clock_left_out_of_order_is_dropped() {
        let mut times = vec![5, 6, 2, 6, 7, 3, 9];
        keep_growing(&mut times, |time| *time);
        assert_eq!(times, [5, 6, 7, 9]);
    }
}

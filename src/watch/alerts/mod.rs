//! Alerts: what is watched for, when it fires, when it has passed.
//!
//! [`Evaluator::evaluate`] compares what is seen with the thresholds and tells only the changes. It is
//! pure: what is seen, the time included, is passed in. The [`Board`] holds what fires and what did.
//!
//! # No noise
//!
//! - A rule fires once, and is silent until it has passed. It passes at a distance from the threshold
//!   (a tenth of it, as a rule), so that a value at the threshold does not flicker.
//! - Rates are of the last minutes and need a minimum of samples. With too few the alert stays as it
//!   is; once a whole window has gone by without any of what it counts, it has passed.
//! - At most [`FIRING_MAX`] fire at a time.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use schemars::JsonSchema;
use serde::Serialize;

use crate::outcome::format_time;
use crate::watch::reporting::Reporting;

/// Alerts that may fire at the same time: agents are many.
pub const FIRING_MAX: usize = 500;
/// Alerts kept, firing or not; the oldest that have passed make room.
pub const ALERTS_MAX: usize = 1_000;
/// Micro-batches without which no share of them says anything.
const UPDATES_MIN: u64 = 20;
/// Micro-batches without which their mean time says nothing.
const UPDATE_TIMES_MIN: u64 = 10;
/// Records without which no share of them says anything.
const RECORDS_MIN: u64 = 100;
/// Events that conflict with an earlier one of their identity, below which they may be a mishap; and
/// the share of all records from which on outcomes are being lost.
const CONFLICTS_MIN: u64 = 3;
const CONFLICTS_MAX: f64 = 0.01;
/// Predictions without which silence is nothing strange.
const PREDICTIONS_MIN: u64 = 30;
/// Values of an agent without which their mean or quantile says nothing.
pub const AGENT_VALUES_MIN: usize = 30;
/// Saves that failed one after the other: three intervals.
const FAILED_SAVES_MAX: u64 = 2;
/// Evaluations in a row for which the lag must be too large: a burst is no lag.
const LAG_ROUNDS: u32 = 3;
/// Outcomes of an agent after which a change of its mean has passed.
const DRIFT_PASSED_AFTER: u64 = 100;
/// A run of successes below which an agent is above suspicion.
const PERFECT_PASSED_BELOW: u64 = 100;
/// By how much the share of an agent's decisions without an outcome must exceed that of the others.
const SILENT_MARGIN: f64 = 0.1;
/// Distance below the threshold at which a disk is no longer nearly full.
const DISK_MARGIN: f64 = 0.01;
/// Points of the past kept per window.
const POINTS_MAX: u32 = 256;

/// What is watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "Rule::help describes them")]
pub enum Rule {
    FailedUpdates,
    Improvement,
    UpdateTime,
    Lag,
    Stalled,
    NoEvents,
    DeadLetters,
    Conflicting,
    SavesFailed,
    DiskFull,
    CapReached,
    AgentSuccess,
    AgentLatency,
    AgentCost,
    AgentDrift,
    AgentPerfect,
    AgentSilent,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Self; 17] = [
        Self::FailedUpdates,
        Self::Improvement,
        Self::UpdateTime,
        Self::Lag,
        Self::Stalled,
        Self::NoEvents,
        Self::DeadLetters,
        Self::Conflicting,
        Self::SavesFailed,
        Self::DiskFull,
        Self::CapReached,
        Self::AgentSuccess,
        Self::AgentLatency,
        Self::AgentCost,
        Self::AgentDrift,
        Self::AgentPerfect,
        Self::AgentSilent,
    ];

    /// Its name in answers, metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FailedUpdates => "failed_updates",
            Self::Improvement => "improvement",
            Self::UpdateTime => "update_time",
            Self::Lag => "lag",
            Self::Stalled => "stalled",
            Self::NoEvents => "no_events",
            Self::DeadLetters => "dead_letters",
            Self::Conflicting => "conflicting",
            Self::SavesFailed => "saves_failed",
            Self::DiskFull => "disk_full",
            Self::CapReached => "cap_reached",
            Self::AgentSuccess => "agent_success",
            Self::AgentLatency => "agent_latency",
            Self::AgentCost => "agent_cost",
            Self::AgentDrift => "agent_drift",
            Self::AgentPerfect => "agent_perfect",
            Self::AgentSilent => "agent_silent",
        }
    }

    /// The rule of this name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.as_str() == name)
    }

    /// `critical` where something is being lost, else `warning`.
    pub fn severity(self) -> &'static str {
        match self {
            Self::FailedUpdates | Self::Stalled | Self::SavesFailed | Self::DiskFull => "critical",
            _ => "warning",
        }
    }
}

/// An agent of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// Whose.
    pub tenant: String,
    /// Who.
    pub agent: String,
}

/// Thresholds, and how often they are looked at; rules that are `None` are off.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "config::OPTIONS describes them")]
pub struct AlertOptions {
    pub interval: Duration,
    pub window: Duration,
    pub failed_updates_max: f64,
    pub improvement_min: f64,
    pub update_time_max_ms: f64,
    pub lag_max: u64,
    pub no_events_after: Option<Duration>,
    pub dead_letters_max: f64,
    pub disk_used_max: f64,
    pub agent_success_min: Option<f64>,
    pub agent_latency_p95_max_ms: Option<f64>,
    pub agent_cost_max: Option<f64>,
    pub perfect_outcomes: Option<u64>,
    pub webhook_url: Option<String>,
}

impl Default for AlertOptions {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            window: Duration::from_mins(15),
            failed_updates_max: 0.05,
            improvement_min: -0.1,
            update_time_max_ms: 1_000.0,
            lag_max: 1_000,
            no_events_after: Some(Duration::from_mins(10)),
            dead_letters_max: 0.01,
            disk_used_max: 0.95,
            agent_success_min: None,
            agent_latency_p95_max_ms: None,
            agent_cost_max: None,
            perfect_outcomes: Some(500),
            webhook_url: None,
        }
    }
}

/// Totals that only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[expect(missing_docs, reason = "the names are those of the counters")]
pub struct Totals {
    pub updates: u64,
    pub failed_updates: u64,
    pub update_time_us: u64,
    pub received: u64,
    pub conflicting: u64,
    pub rejected: u64,
    pub predictions: u64,
    pub saves: u64,
    pub failed_saves: u64,
}

/// A change of an agent's mean reward.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Drift {
    /// Changes found so far.
    pub changes: u64,
    /// Outcomes since the last one.
    pub since: u64,
    /// The statistic of the test when it was found.
    pub statistic: f64,
    /// Mean reward before it.
    pub before: f64,
    /// Mean reward when it was found.
    pub after: f64,
}

/// One agent, as seen; `None` where there are too few values, or nobody asked.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "Rule describes what they are for")]
pub struct AgentSeen<'a> {
    pub tenant: &'a str,
    pub agent: &'a str,
    pub success: Option<f64>,
    pub latency_p95_ms: Option<f64>,
    pub mean_cost: Option<f64>,
    pub drift: Drift,
    /// Successes since the last outcome that was less.
    pub streak: u64,
    /// Its newest decisions that should have an outcome, and those of the tenant's other agents.
    pub reporting: Option<[Reporting; 2]>,
}

impl<'a> AgentSeen<'a> {
    /// One of which nothing was learned.
    pub fn unknown(tenant: &'a str, agent: &'a str) -> Self {
        Self {
            tenant,
            agent,
            success: None,
            latency_p95_ms: None,
            mean_cost: None,
            drift: Drift::default(),
            streak: 0,
            reporting: None,
        }
    }
}

/// The service, as seen at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    /// Unix time, ms.
    pub now_ms: i64,
    /// Totals.
    pub totals: Totals,
    /// Relative change of the model score.
    pub improvement: f64,
    /// Records that wait to be read or learned.
    pub lag: u64,
    /// The backlog that makes no progress, if there is one, in words.
    pub stall: Option<String>,
    /// Share of the disk in use; `None` when that can't be told.
    pub disk_used: Option<f64>,
    /// The cap on names and values of which most is in use: what share that is, and in words.
    pub cap: Option<(f64, String)>,
}

/// Something that fires or did.
#[derive(Debug, Clone, PartialEq)]
pub struct Alert {
    /// Counts up.
    pub id: u64,
    /// What was watched for.
    pub rule: Rule,
    /// The agent that it is about, if it is about one.
    pub subject: Option<Subject>,
    /// The value that fired.
    pub value: f64,
    /// The threshold that it passed.
    pub threshold: f64,
    /// In words.
    pub message: String,
    /// When it fired, Unix ms.
    pub since_ms: i64,
    /// When it had passed, Unix ms; `None` while it fires.
    pub resolved_ms: Option<i64>,
}

impl Alert {
    /// It fires.
    pub fn is_firing(&self) -> bool {
        self.resolved_ms.is_none()
    }

    /// `firing` or `resolved`.
    pub fn status(&self) -> &'static str {
        if self.is_firing() { "firing" } else { "resolved" }
    }

    /// The bit that stands for its sending as it is now to a channel, a place in
    /// [`crate::watch::instruments::CHANNELS`].
    pub fn delivery(&self, channel: usize) -> u8 {
        1 << (2 * channel + usize::from(!self.is_firing()))
    }

    /// As it was when it fired.
    pub(crate) fn when_it_fired(&self) -> Self {
        Self { resolved_ms: None, ..self.clone() }
    }

    /// As the API shows it and channels send it.
    pub fn body(&self) -> AlertBody {
        let (tenant_id, agent_name) = match &self.subject {
            Some(Subject { tenant, agent }) => (Some(tenant.clone()), Some(agent.clone())),
            None => (None, None),
        };
        AlertBody {
            id: format!("{:016}", self.id),
            rule: self.rule.as_str(),
            severity: self.rule.severity(),
            status: self.status(),
            tenant_id,
            agent_name,
            value: self.value,
            threshold: self.threshold,
            message: self.message.clone(),
            since: format_time(self.since_ms),
            resolved_at: self.resolved_ms.map(format_time),
        }
    }
}

/// An alert, as the API shows it and channels send it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Alert")]
pub struct AlertBody {
    /// Sorts by time.
    pub id: String,
    /// What was watched for.
    #[schemars(extend("enum" = Rule::ALL.map(Rule::as_str)))]
    pub rule: &'static str,
    /// `critical` or `warning`.
    pub severity: &'static str,
    /// `firing` or `resolved`.
    #[schemars(extend("enum" = ["firing", "resolved"]))]
    pub status: &'static str,
    /// Whose agent it is about, if it is about one.
    pub tenant_id: Option<String>,
    /// That agent.
    pub agent_name: Option<String>,
    /// The value that fired.
    pub value: f64,
    /// The threshold that it passed.
    pub threshold: f64,
    /// In words.
    pub message: String,
    /// When it fired.
    #[schemars(extend("format" = "date-time"))]
    pub since: String,
    /// When it had passed.
    #[schemars(extend("format" = "date-time"))]
    pub resolved_at: Option<String>,
}

/// Where a value stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// Past the threshold: fires.
    Past,
    /// Too near to it to say that it has passed.
    Near,
    /// Well away from it.
    Away,
}

impl Level {
    fn of(is_past: bool, is_away: bool) -> Self {
        match (is_past, is_away) {
            (true, _) => Self::Past,
            (false, true) => Self::Away,
            (false, false) => Self::Near,
        }
    }

    fn above(value: f64, threshold: f64) -> Self {
        Self::of(value > threshold, value <= threshold - 0.1 * threshold.abs())
    }

    fn below(value: f64, threshold: f64) -> Self {
        Self::of(value < threshold, value >= threshold + 0.1 * threshold.abs())
    }
}

/// What one rule says now. The message is only written when it is needed: agents are many.
struct Reading<'a, M> {
    rule: Rule,
    agent: Option<(&'a str, &'a str)>,
    value: f64,
    threshold: f64,
    level: Level,
    message: M,
}

type Key = (Rule, Option<Subject>);

/// Remembers what fires, and as much of the past as the rules need.
pub struct Evaluator {
    options: AlertOptions,
    drift_threshold: Option<f64>,
    firing: BTreeMap<Key, Alert>,
    last_id: u64,
    /// Totals of the window, oldest first.
    past: VecDeque<(i64, Totals)>,
    /// When records last came, and the totals then.
    last_received: Option<(i64, Totals)>,
    /// Totals when a save last succeeded, and whether that was seen.
    last_saved: Option<(Totals, bool)>,
    lag_rounds: u32,
    /// Changes of mean that have been told.
    changes_told: BTreeMap<Subject, u64>,
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

impl Evaluator {
    /// Goes on from the alerts of the run before.
    pub fn new(options: AlertOptions, drift_threshold: Option<f64>, kept: &[Alert]) -> Self {
        let firing = kept.iter().filter(|alert| alert.is_firing());
        Self {
            options,
            drift_threshold,
            firing: firing
                .map(|alert| ((alert.rule, alert.subject.clone()), alert.clone()))
                .collect(),
            last_id: kept.iter().map(|alert| alert.id).max().unwrap_or(0),
            past: VecDeque::new(),
            last_received: None,
            last_saved: None,
            lag_rounds: 0,
            changes_told: BTreeMap::new(),
        }
    }

    /// What has changed: alerts that fire now and alerts that have passed. `agents` are those of the
    /// model.
    pub fn evaluate<'a>(
        &mut self,
        seen: &Seen,
        agents: impl Iterator<Item = AgentSeen<'a>>,
    ) -> Vec<Alert> {
        let mut changed = Vec::new();
        self.look_at_service(seen, &mut changed);
        let subjects = self.firing.keys().filter_map(|(_, subject)| subject.clone());
        let mut missing: HashSet<Subject> = subjects.collect();
        for agent in agents {
            if !missing.is_empty() {
                let AgentSeen { tenant, agent, .. } = agent;
                missing.remove(&Subject { tenant: tenant.to_owned(), agent: agent.to_owned() });
            }
            self.look_at_agent(&agent, seen.now_ms, &mut changed);
        }
        self.forget_the_gone(&missing, seen.now_ms, &mut changed);
        changed
    }

    fn take(
        &mut self,
        reading: Reading<'_, impl FnOnce() -> String>,
        now_ms: i64,
        changed: &mut Vec<Alert>,
    ) {
        let Reading { rule, agent, value, threshold, level, message } = reading;
        let key = || {
            let subject = |(tenant, agent): (&str, &str)| Subject {
                tenant: tenant.to_owned(),
                agent: agent.to_owned(),
            };
            (rule, agent.map(subject))
        };
        match level {
            Level::Past if value.is_finite() && self.firing.len() < FIRING_MAX => {
                let key = key();
                if self.firing.contains_key(&key) {
                    return;
                }
                self.last_id += 1;
                let alert = Alert {
                    id: self.last_id,
                    rule,
                    subject: key.1.clone(),
                    value,
                    threshold,
                    message: message(),
                    since_ms: now_ms,
                    resolved_ms: None,
                };
                self.firing.insert(key, alert.clone());
                changed.push(alert);
            }
            Level::Away if !self.firing.is_empty() => {
                let passed = self.firing.remove(&key());
                changed.extend(passed.map(|alert| Alert { resolved_ms: Some(now_ms), ..alert }));
            }
            Level::Past | Level::Near | Level::Away => {}
        }
    }

    /// Alerts about agents that are no longer there, and of rules that were turned off, have passed.
    fn forget_the_gone(
        &mut self,
        missing: &HashSet<Subject>,
        now_ms: i64,
        changed: &mut Vec<Alert>,
    ) {
        let is_off = |rule: Rule| match rule {
            Rule::NoEvents => self.options.no_events_after.is_none(),
            Rule::AgentSuccess => self.options.agent_success_min.is_none(),
            Rule::AgentLatency => self.options.agent_latency_p95_max_ms.is_none(),
            Rule::AgentCost => self.options.agent_cost_max.is_none(),
            Rule::AgentDrift => self.drift_threshold.is_none(),
            Rule::AgentPerfect => self.options.perfect_outcomes.is_none(),
            _ => false,
        };
        self.firing.retain(|(rule, subject), alert| {
            let is_gone = subject.as_ref().is_some_and(|subject| missing.contains(subject));
            if is_gone || is_off(*rule) {
                changed.push(Alert { resolved_ms: Some(now_ms), ..alert.clone() });
                return false;
            }
            true
        });
    }

    /// The totals at the beginning of the window, and whether it is as long as it should be.
    fn window(&mut self, seen: &Seen) -> (Totals, bool) {
        let window_ms = i64::try_from(self.options.window.as_millis()).unwrap_or(i64::MAX);
        let step_ms = window_ms / i64::from(POINTS_MAX);
        if self.past.back().is_none_or(|(at, _)| seen.now_ms - at > step_ms) {
            self.past.push_back((seen.now_ms, seen.totals));
        }
        // The newest point that is a whole window old begins it.
        while self.past.get(1).is_some_and(|(at, _)| seen.now_ms - at >= window_ms) {
            self.past.pop_front();
        }
        let (at, totals) = self.past.front().copied().unwrap_or((seen.now_ms, seen.totals));
        (totals, seen.now_ms - at >= window_ms)
    }

    fn look_at_service(&mut self, seen: &Seen, changed: &mut Vec<Alert>) {
        self.look_at_rates(seen, changed);
        let now_ms = seen.now_ms;
        let improvement = seen.improvement;
        let reading = Reading {
            rule: Rule::Improvement,
            agent: None,
            value: improvement,
            threshold: self.options.improvement_min,
            level: Level::below(improvement, self.options.improvement_min),
            message: || {
                format!(
                    "the mean reward of the last 1,000 outcomes changed by {:.1} % against the \
                     1,000 before",
                    100.0 * improvement
                )
            },
        };
        self.take(reading, now_ms, changed);
        if let Some(value) = seen.disk_used {
            let threshold = self.options.disk_used_max;
            let level = Level::of(value > threshold, value <= threshold - DISK_MARGIN);
            let message = || format!("{:.1} % of the disk is in use", 100.0 * value);
            let reading =
                Reading { rule: Rule::DiskFull, agent: None, value, threshold, level, message };
            self.take(reading, now_ms, changed);
        }
        if let Some((value, cap)) = &seen.cap {
            let reading = Reading {
                rule: Rule::CapReached,
                agent: None,
                value: *value,
                threshold: 1.0,
                level: Level::of(*value >= 1.0, *value <= 0.9),
                message: || cap.clone(),
            };
            self.take(reading, now_ms, changed);
        }
        self.look_at_lag(seen, changed);
        self.look_at_backlog(seen, changed);
        self.look_at_silence(seen, changed);
        self.look_at_saves(seen, changed);
    }

    /// What is counted within the window.
    fn look_at_rates(&mut self, seen: &Seen, changed: &mut Vec<Alert>) {
        let (then, is_whole) = self.window(seen);
        let window = self.options.window.as_secs_f64();
        let grown = |of: fn(&Totals) -> u64| of(&seen.totals).saturating_sub(of(&then));
        let updates = grown(|totals| totals.updates);
        let failed = grown(|totals| totals.failed_updates);
        let learned = updates.saturating_sub(failed);
        // The time of a batch is counted with the one after it.
        let time_us = if learned == 0 { 0 } else { grown(|totals| totals.update_time_us) };
        let update_ms = share(time_us, learned) / 1_000.0;
        let received = grown(|totals| totals.received);
        let rejected = grown(|totals| totals.rejected);
        let conflicting = grown(|totals| totals.conflicting);
        let AlertOptions { failed_updates_max, update_time_max_ms, dead_letters_max, .. } =
            self.options;
        let rates: [(Rule, bool, f64, f64, String); 4] = [
            (
                Rule::FailedUpdates,
                updates >= UPDATES_MIN || (is_whole && failed == 0),
                share(failed, updates),
                failed_updates_max,
                format!("{failed} of {updates} micro-batches failed within {window} s"),
            ),
            (
                Rule::UpdateTime,
                learned >= UPDATE_TIMES_MIN || (is_whole && learned == 0),
                update_ms,
                update_time_max_ms,
                format!("a micro-batch took {update_ms:.1} ms on average within {window} s"),
            ),
            (
                Rule::DeadLetters,
                received >= RECORDS_MIN || (is_whole && rejected == 0),
                share(rejected, received),
                dead_letters_max,
                format!("{rejected} of {received} records became dead letters within {window} s"),
            ),
            (
                Rule::Conflicting,
                conflicting >= CONFLICTS_MIN || (is_whole && conflicting == 0),
                share(conflicting, received),
                CONFLICTS_MAX,
                format!(
                    "{conflicting} of {received} records within {window} s have the identity of an \
                     earlier one and another agent or status, and were not learned: does every \
                     execution have an id of its own?"
                ),
            ),
        ];
        for (rule, _, value, threshold, text) in rates.into_iter().filter(|rate| rate.1) {
            let level = Level::above(value, threshold);
            let reading = Reading { rule, agent: None, value, threshold, level, message: || text };
            self.take(reading, seen.now_ms, changed);
        }
    }

    fn look_at_lag(&mut self, seen: &Seen, changed: &mut Vec<Alert>) {
        let (value, threshold) = (share(seen.lag, 1), share(self.options.lag_max, 1));
        let level = Level::above(value, threshold);
        self.lag_rounds = if level == Level::Past { self.lag_rounds + 1 } else { 0 };
        if level != Level::Past || self.lag_rounds >= LAG_ROUNDS {
            let message = || format!("{} records wait to be learned", seen.lag);
            let reading =
                Reading { rule: Rule::Lag, agent: None, value, threshold, level, message };
            self.take(reading, seen.now_ms, changed);
        }
    }

    /// What waits stands still: whoever says so has been patient already.
    fn look_at_backlog(&mut self, seen: &Seen, changed: &mut Vec<Alert>) {
        let is_stalled = seen.stall.is_some();
        let reading = Reading {
            rule: Rule::Stalled,
            agent: None,
            value: f64::from(u8::from(is_stalled)),
            threshold: 0.0,
            level: Level::of(is_stalled, !is_stalled),
            message: || seen.stall.clone().unwrap_or_default(),
        };
        self.take(reading, seen.now_ms, changed);
    }

    /// No records come, although decisions are asked for.
    fn look_at_silence(&mut self, seen: &Seen, changed: &mut Vec<Alert>) {
        let Some(after) = self.options.no_events_after else { return };
        let (since_ms, then) = *self.last_received.get_or_insert((seen.now_ms, seen.totals));
        let is_new = then.received != seen.totals.received;
        if is_new {
            self.last_received = Some((seen.now_ms, seen.totals));
        }
        let silent = Duration::from_millis(u64::try_from(seen.now_ms - since_ms).unwrap_or(0));
        let predictions = seen.totals.predictions.saturating_sub(then.predictions);
        let is_strange = !is_new && silent > after && predictions >= PREDICTIONS_MIN;
        let reading = Reading {
            rule: Rule::NoEvents,
            agent: None,
            value: silent.as_secs_f64(),
            threshold: after.as_secs_f64(),
            level: Level::of(is_strange, is_new),
            message: || {
                format!(
                    "no record came for {} s, in which {predictions} predictions were made",
                    silent.as_secs()
                )
            },
        };
        self.take(reading, seen.now_ms, changed);
    }

    fn look_at_saves(&mut self, seen: &Seen, changed: &mut Vec<Alert>) {
        let (then, is_seen) = *self.last_saved.get_or_insert((seen.totals, false));
        let is_new = then.saves != seen.totals.saves;
        if is_new {
            self.last_saved = Some((seen.totals, true));
        }
        let all = seen.totals.failed_saves.saturating_sub(then.failed_saves);
        let failed = if is_new { 0 } else { all };
        let reading = Reading {
            rule: Rule::SavesFailed,
            agent: None,
            value: share(failed, 1),
            threshold: share(FAILED_SAVES_MAX, 1),
            // Without a save that was seen to succeed nothing has passed.
            level: Level::of(failed > FAILED_SAVES_MAX, failed == 0 && (is_new || is_seen)),
            message: || format!("{failed} saves failed, one after the other"),
        };
        self.take(reading, seen.now_ms, changed);
    }

    fn look_at_agent(&mut self, agent: &AgentSeen<'_>, now_ms: i64, changed: &mut Vec<Alert>) {
        let name = agent.agent;
        let about = Some((agent.tenant, agent.agent));
        let AlertOptions {
            agent_success_min,
            agent_latency_p95_max_ms,
            agent_cost_max,
            perfect_outcomes,
            ..
        } = self.options;
        if let (Some(threshold), Some(value)) = (agent_success_min, agent.success) {
            // A threshold near 1 leaves no tenth above it.
            let away = (1.1 * threshold).min(f64::midpoint(1.0, threshold));
            let level = Level::of(value < threshold, value >= away);
            let message = || format!("{name} has a success rate of {:.1} %", 100.0 * value);
            let rule = Rule::AgentSuccess;
            self.take(
                Reading { rule, agent: about, value, threshold, level, message },
                now_ms,
                changed,
            );
        }
        if let (Some(threshold), Some(value)) = (agent_latency_p95_max_ms, agent.latency_p95_ms) {
            let level = Level::above(value, threshold);
            let message =
                || format!("{name} takes {value:.0} ms or longer in one of 20 executions");
            let rule = Rule::AgentLatency;
            self.take(
                Reading { rule, agent: about, value, threshold, level, message },
                now_ms,
                changed,
            );
        }
        if let (Some(threshold), Some(value)) = (agent_cost_max, agent.mean_cost) {
            let level = Level::above(value, threshold);
            let message = || format!("{name} costs {value:.4} on average");
            let rule = Rule::AgentCost;
            self.take(
                Reading { rule, agent: about, value, threshold, level, message },
                now_ms,
                changed,
            );
        }
        if let Some(threshold) = perfect_outcomes {
            let streak = agent.streak;
            let level =
                Level::of(streak >= threshold, streak < threshold.min(PERFECT_PASSED_BELOW));
            let message = || {
                format!(
                    "the last {streak} outcomes of {name} were successes: does it report its \
                     failures?"
                )
            };
            let (value, threshold) = (share(streak, 1), share(threshold, 1));
            let rule = Rule::AgentPerfect;
            self.take(
                Reading { rule, agent: about, value, threshold, level, message },
                now_ms,
                changed,
            );
        }
        if let Some([own, others]) = agent.reporting {
            let value = own.missing_share();
            let threshold = others.missing_share() + SILENT_MARGIN;
            let level = Level::of(
                own.exceeds(&others, SILENT_MARGIN),
                value <= others.missing_share() + SILENT_MARGIN / 2.0,
            );
            let message = || {
                format!(
                    "{name} reported no outcome in {} of its last {} decisions, the others in {:.1} %: does \
                     it run, and does it report its failures?",
                    own.missing,
                    own.decisions,
                    100.0 * others.missing_share()
                )
            };
            let rule = Rule::AgentSilent;
            self.take(
                Reading { rule, agent: about, value, threshold, level, message },
                now_ms,
                changed,
            );
        }
        if let Some(threshold) = self.drift_threshold {
            let Drift { since, statistic: value, before, after, .. } = agent.drift;
            let level = Level::of(self.is_new_change(agent), since >= DRIFT_PASSED_AFTER);
            let direction = if after < before { "fell" } else { "rose" };
            let message = || {
                format!(
                    "the mean reward of {name} {direction} from {before:.2} to about {after:.2}"
                )
            };
            let rule = Rule::AgentDrift;
            self.take(
                Reading { rule, agent: about, value, threshold, level, message },
                now_ms,
                changed,
            );
        }
    }

    /// A change of an agent's mean is told once, also when it has passed before anybody looked.
    fn is_new_change(&mut self, agent: &AgentSeen<'_>) -> bool {
        if agent.drift.changes == 0 {
            return false;
        }
        let subject = Subject { tenant: agent.tenant.to_owned(), agent: agent.agent.to_owned() };
        self.changes_told.insert(subject, agent.drift.changes).unwrap_or(0) < agent.drift.changes
    }
}

/// What fires and what did, for everybody who asks.
#[derive(Debug, Default)]
pub struct Board {
    /// By id.
    alerts: Mutex<BTreeMap<u64, Alert>>,
}

impl Board {
    /// Begins with the alerts of the run before.
    pub fn new(kept: &[Alert]) -> Self {
        let board = Self::default();
        board.show(kept);
        board
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Alert>> {
        self.alerts.lock()
    }

    /// Shows alerts as they are now.
    pub fn show(&self, changed: &[Alert]) {
        let mut alerts = self.lock();
        for alert in changed {
            alerts.insert(alert.id, alert.clone());
        }
        while alerts.len() > ALERTS_MAX {
            // There are never so many that fire.
            let oldest = alerts.values().find(|alert| !alert.is_firing()).map(|alert| alert.id);
            let Some(oldest) = oldest else { break };
            alerts.remove(&oldest);
        }
    }

    /// Newest first, those before the id `before`; only firing or resolved ones where `firing` says.
    pub fn list(&self, firing: Option<bool>, before: Option<u64>, limit: usize) -> Vec<Alert> {
        let before = before.unwrap_or(u64::MAX);
        self.lock()
            .range(..before)
            .rev()
            .map(|(_, alert)| alert)
            .filter(|alert| firing.is_none_or(|firing| alert.is_firing() == firing))
            .take(limit)
            .cloned()
            .collect()
    }

    /// How many fire, by rule, in the order of [`Rule::ALL`].
    pub fn firing(&self) -> [u64; Rule::ALL.len()] {
        let mut counts = [0; Rule::ALL.len()];
        for alert in self.lock().values().filter(|alert| alert.is_firing()) {
            counts[alert.rule as usize] += 1;
        }
        counts
    }
}

#[cfg(test)]
mod tests;

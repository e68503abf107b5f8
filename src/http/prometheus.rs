//! `GET /metrics`: everything that is known of the service, as Prometheus reads it: text format 0.0.4,
//! or `OpenMetrics` 1.0.0 where `Accept` asks for that.
//!
//! Every family is there from the first scrape, with Kafka or without, and the number of series is
//! bounded: agents beyond a few are one series, routes are patterns. Service counters come from the
//! database and go on over restarts; histograms and requests are of this process.

use serde_json::json;
use std::path::Path;
use std::sync::Arc;

use prometheus::TextEncoder;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::access::{self, Need, Scope};
use super::operation::Operation;
use super::route::{NOWHERE, Route, Tag};
use super::server::{Request, Response};
use super::{Answer, App};
use crate::error::Error;
use crate::learner::{Now, SOURCES};
use crate::model::{Agent, AgentPerformanceModel};
use crate::outcome::RefusalCode;
use crate::store::{Counters, Space};
use crate::watch::alerts::Rule;
use crate::watch::process::Usage;
use crate::watch::reporting::{RECENT, Reporting};

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether an `Accept` field asks for `OpenMetrics` by name, and likes it no less than plain text.
fn wants_open_metrics(accept: &str) -> bool {
    // The best quality of the ranges of that name, 0 without one (RFC 9110, section 12.5.1).
    let quality = |wanted: &str, version: &str| {
        let ranges = accept.split(',').filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let is_wanted = parts.next()?.eq_ignore_ascii_case(wanted);
            let mut quality = 1.0;
            for (name, value) in parts.filter_map(|parameter| parameter.split_once('=')) {
                match (name.to_ascii_lowercase().as_str(), value.trim_matches('"')) {
                    ("q", value) => quality = value.parse().ok()?,
                    ("version", value) if value != version => return None,
                    _ => {}
                }
            }
            is_wanted.then_some(quality)
        });
        ranges.fold(0.0, f64::max)
    };
    let open_metrics = quality("application/openmetrics-text", "1.0.0");
    open_metrics > 0.0 && open_metrics >= quality("text/plain", "0.0.4")
}

/// Text of the format 0.0.4 as `OpenMetrics` 1.0.0: a counter's family is named without the `_total` of
/// its samples, whole bounds of buckets are written as floats, and the end is marked. Of all families
/// only counters end in `_total`; in values of labels quotes and line breaks are escaped.
fn open_metrics(text: &str) -> String {
    let mut open = String::with_capacity(text.len() + 64);
    for line in text.lines() {
        let described = line.strip_prefix("# ").and_then(|rest| {
            // HELP or TYPE, the name, what is said of it.
            let mut words = rest.splitn(3, ' ');
            let (keyword, name, said) = (words.next()?, words.next()?, words.next()?);
            Some(format!("# {keyword} {} {said}", name.strip_suffix("_total")?))
        });
        let bounded = line.split_once("{le=\"").and_then(|(name, rest)| {
            let (bound, value) = rest.split_once('"')?;
            let is_whole = bound.bytes().all(|byte| byte.is_ascii_digit());
            is_whole.then(|| format!("{name}{{le=\"{bound}.0\"{value}"))
        });
        open.push_str(described.or(bounded).as_deref().unwrap_or(line));
        open.push('\n');
    }
    open.push_str("# EOF\n");
    open
}

/// Families under construction.
#[derive(Default)]
struct Families(Vec<MetricFamily>);

impl Families {
    fn family<'a, L: AsRef<[(&'a str, &'a str)]>>(
        &mut self,
        kind: MetricType,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (L, f64)>,
    ) {
        let metric = |(labels, value): (L, f64)| {
            let label = |(name, value): &(&str, &str)| {
                let mut pair = LabelPair::default();
                pair.set_name((*name).to_owned());
                pair.set_value((*value).to_owned());
                pair
            };
            let mut metric = Metric::from_label(labels.as_ref().iter().map(label).collect());
            if kind == MetricType::COUNTER {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            } else {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            metric
        };
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(series.into_iter().map(metric).collect());
        self.0.push(family);
    }

    fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.family(MetricType::COUNTER, name, help, [([], value)]);
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.family(MetricType::GAUGE, name, help, [([], value)]);
    }

    fn counters<'a, L: AsRef<[(&'a str, &'a str)]>>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (L, f64)>,
    ) {
        self.family(MetricType::COUNTER, name, help, series);
    }

    fn gauges<'a, L: AsRef<[(&'a str, &'a str)]>>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (L, f64)>,
    ) {
        self.family(MetricType::GAUGE, name, help, series);
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn number(count: u64) -> f64 {
    count as f64
}

fn size(count: usize) -> f64 {
    number(count as u64)
}

/// Unix time in seconds; 0 stays 0, "never".
#[expect(clippy::cast_precision_loss, reason = "milliseconds stay far below 2^53")]
fn seconds(unix_ms: i64) -> f64 {
    unix_ms as f64 / 1_000.0
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

pub(super) const SCRAPE: Route = Route {
    method: "GET",
    pattern: "/metrics",
    id: "scrapeMetrics",
    tag: Tag::Operations,
    need: Need::AllTenants(Scope::Read),
    handler: |app, call| app.prometheus(call.request),
    describe: |_| {
        let text = json!({"schema": {"type": "string"}});
        let content = json!({"text/plain": text, "application/openmetrics-text": text});
        let what = "The text format 0.0.4, or OpenMetrics where `Accept` asks for it";
        Operation::new("Everything that is measured, for Prometheus").answer_of(what, content)
    },
};

impl App {
    pub(super) fn prometheus(&self, request: &Request<'_>) -> Answer {
        let mut families = Families::default();
        let counters = self.shared.counters();
        let model = self.shared.model();
        self.add_service(&mut families, &counters);
        add_events(&mut families, &counters);
        add_work(&mut families, &counters);
        self.add_kafka(&mut families);
        self.add_model(&mut families, &model);
        add_agents(&mut families, &model, self.options.metrics_agents_max);
        self.add_reporting(&mut families);
        add_storage(&mut families, &self.options.storage_path);
        self.add_process(&mut families);
        self.add_alerts(&mut families);
        let mut patterns: Vec<&str> = self.routes.iter().map(|route| route.pattern).collect();
        patterns.push(NOWHERE);
        let measured = self.shared.instruments.collect(&patterns, &access::REASONS);
        families.0.extend(measured);
        families.0.sort_by(|one, other| one.name().cmp(other.name()));

        let mut text = String::with_capacity(32 * 1_024);
        TextEncoder::new()
            .encode_utf8(&families.0, &mut text)
            .map_err(|error| Error::Fatal(format!("the metrics can't be written: {error}")))?;
        let (media, text) = if wants_open_metrics(request.header("accept").unwrap_or_default()) {
            (OPEN_METRICS, open_metrics(&text))
        } else {
            (TEXT, text)
        };
        Ok(Response::new(200, media, text.into_bytes()).with_header("vary", "accept"))
    }

    fn add_service(&self, to: &mut Families, counters: &Counters) {
        let labels = [
            ("strategy", self.options.learner.settings.strategy.as_str()),
            ("version", env!("CARGO_PKG_VERSION")),
        ];
        to.gauges("online_learning_build_info", "Always 1; which program", [(labels, 1.0)]);
        let stalled = self.shared.trouble().is_some() || self.shared.stall().is_some();
        to.gauge(
            "online_learning_learning_stalled",
            "1 while what came can't be stored or learned, or what waits makes no progress",
            flag(stalled),
        );
        let (depth, capacity) = self.inbox.depth();
        to.gauge(
            "online_learning_memory_used_ratio",
            "Used share of the memory, of what is nearest to its limit",
            self.options.learner.memory.and_then(|limit| limit.share()).unwrap_or(0.0),
        );
        to.gauge(
            "online_learning_room_closed",
            "1 while memory is short and new names are not learned",
            flag(self.shared.model().is_room_closed()),
        );
        to.gauge("online_learning_queue_depth", "Requests that wait for the learner", size(depth));
        to.gauge(
            "online_learning_queue_capacity",
            "The most requests that may wait for the learner",
            size(capacity),
        );
        to.gauge(
            "online_learning_unlearned_outcomes",
            "Outcomes accepted and not learned yet",
            number(counters.last_sequence - counters.learned_sequence),
        );
        to.gauge(
            "online_learning_decisions_remembered",
            "Decisions in memory; outcomes may name any that is recorded",
            size(self.shared.decisions.len()),
        );
        to.counter(
            "online_learning_decisions_unresolved_total",
            "Outcomes that name a decision of which nothing is known",
            number(counters.decisions_unresolved),
        );
        to.counter(
            "online_learning_decisions_missing_total",
            "Decisions given up after DECISION_WAIT and learned as failures",
            number(counters.decisions_missing),
        );
        to.counter(
            "online_learning_decisions_late_total",
            "Outcomes that came after their decision was given up, and were not learned",
            number(counters.decisions_late),
        );
        to.counter(
            "online_learning_attempts_not_held_total",
            "Outcomes that were not final and were learned when they came, for want of room",
            number(counters.attempts_not_held),
        );
        to.counter(
            "online_learning_unjudged_not_held_total",
            "Outcomes that were learned without a verdict when they came, for want of room",
            number(counters.unjudged_not_held),
        );
    }

    /// The agents of which most outcomes are missing.
    fn add_reporting(&self, to: &mut Families) {
        let mut rows = match self.reader.reporting(None, self.waited_since(), RECENT) {
            Ok(rows) => rows,
            // The others are told all the same.
            Err(error) => return log::debug!("reporting=unknown error=\"{error}\""),
        };
        rows.sort_by_key(|row| std::cmp::Reverse(row.reporting.missing));
        let shown = rows.iter().take_while(|row| row.reporting.missing > 0).count();
        let rest = rows.split_off(shown.min(self.options.metrics_agents_max));
        let rest = rest.iter().fold(Reporting::default(), |rest, row| rest.and(row.reporting));
        let labels = |agent, tenant| [("agent", agent), ("tenant", tenant)];
        let series = rows
            .iter()
            .map(|row| (labels(&*row.agent, &*row.tenant), row.reporting.missing_share()))
            .chain([(labels("other", ""), rest.missing_share())]);
        to.gauges(
            "online_learning_agent_missing_outcomes_ratio",
            "Share of the last 200 decisions for an agent whose outcome is missing, where there are any",
            series,
        );
    }

    fn add_kafka(&self, to: &mut Families) {
        let status = self.kafka.as_ref().map(|kafka| kafka.view.status());
        let is_on = status.is_some();
        let status = status.unwrap_or_default();
        let connected = status.connection == crate::sources::kafka::Connection::Connected;
        to.gauge("online_learning_kafka_enabled", "1 when outcomes come from a topic", flag(is_on));
        to.gauge("online_learning_kafka_connected", "1 while brokers answer", flag(connected));
        to.gauge(
            "online_learning_kafka_paused",
            "1 while nothing is fetched because the queue is full",
            flag(status.paused),
        );
        to.gauge(
            "online_learning_kafka_lag_records",
            "Records of the topic that are not in the journal; 0 without Kafka",
            number(status.lag()),
        );
        to.gauge(
            "online_learning_kafka_lag_seconds",
            "Age of the last record in the journal while there are newer ones; 0 without Kafka",
            status.lag_seconds(Now::read().unix_ms).unwrap_or(0.0),
        );
        to.gauge(
            "online_learning_kafka_partitions",
            "Partitions of the topic",
            size(status.partitions.len()),
        );
        let stopped = status.partitions.iter().filter(|partition| partition.stopped.is_some());
        to.gauge(
            "online_learning_kafka_partitions_stopped",
            "Partitions that are not read because their log is another one",
            size(stopped.count()),
        );
        to.counter(
            "online_learning_kafka_lost_records_total",
            "Records that were gone before they were read",
            number(status.lost()),
        );
    }

    fn add_model(&self, to: &mut Families, model: &Arc<AgentPerformanceModel>) {
        to.gauge(
            "online_learning_model_score",
            "Mean reward of the last 1,000 learned outcomes",
            model.score().current(),
        );
        to.gauge(
            "online_learning_model_improvement_ratio",
            "Its relative change against the 1,000 before",
            model.score().improvement_rate(),
        );
        let (brier, accuracy) =
            self.shared.with_watch(|watch| (watch.forecasts.brier(), watch.forecasts.accuracy()));
        to.gauge(
            "online_learning_model_brier_score",
            "Mean squared error of the last 1,000 forecasts, each made before its outcome was \
             learned; NaN before the first",
            brier.unwrap_or(f64::NAN),
        );
        to.gauge(
            "online_learning_model_accuracy_ratio",
            "Share of these forecasts on the right side of one half; NaN before the first",
            accuracy.unwrap_or(f64::NAN),
        );
        to.gauge(
            "online_learning_model_sequence",
            "Number of the last journal entry that the model has learned",
            number(model.sequence()),
        );
        to.gauge("online_learning_tenants", "Tenants known", size(model.tenants().len()));
        let (agents, tasks) = model.tenants().fold((0, 0), |(agents, tasks), (_, tenant)| {
            (agents + tenant.agents().len(), tasks + tenant.task_types().len())
        });
        to.gauge("online_learning_agents", "Agents known, of all tenants", size(agents));
        to.gauge("online_learning_task_types", "Task types known, of all tenants", size(tasks));
        let records = model.tenants().map(|(_, tenant)| tenant.value_records());
        let (records, evicted) =
            records.fold((0, 0), |(records, evicted), more| (records + more.0, evicted + more.1));
        to.gauge(
            "online_learning_values_bytes",
            "Memory of the values by which quality, latency and cost are predicted",
            size(model.value_bytes()),
        );
        to.gauge(
            "online_learning_values_records",
            "Records of an agent's values on a task type",
            size(records),
        );
        to.gauge(
            "online_learning_values_records_evicted",
            "Such records that gave way for lack of memory",
            number(evicted),
        );
    }

    fn add_alerts(&self, to: &mut Families) {
        let firing = Rule::ALL.into_iter().zip(self.board.firing());
        let series = firing
            .map(|(rule, count)| ([("rule", rule.as_str())], number(count)))
            .collect::<Vec<_>>();
        to.gauges("online_learning_alerts_firing", "Alerts that fire, by rule", series);
    }

    fn add_process(&self, to: &mut Families) {
        let usage = Usage::read().unwrap_or_default();
        to.counter(
            "process_cpu_seconds_total",
            "User and system time of the process",
            usage.cpu_seconds,
        );
        to.gauge(
            "process_resident_memory_bytes",
            "Resident memory of the process",
            number(usage.resident_bytes),
        );
        to.gauge(
            "process_virtual_memory_bytes",
            "Address space of the process",
            number(usage.virtual_bytes),
        );
        to.gauge("process_threads", "Threads of the process", number(usage.threads));
        to.gauge("process_open_fds", "Open file descriptors", number(usage.open_fds));
        to.gauge(
            "process_max_fds",
            "The most file descriptors that may be open",
            usage.max_fds.map_or(f64::INFINITY, number),
        );
        to.gauge(
            "process_start_time_seconds",
            "Unix time at which the process started",
            seconds(self.started_ms),
        );
    }
}

fn add_events(to: &mut Families, counters: &Counters) {
    let none = crate::store::SourceCounters::default();
    let source = |name: &str| counters.sources.get(name).unwrap_or(&none);
    let of_each = |count: fn(&crate::store::SourceCounters) -> u64| {
        SOURCES.map(|name| ([("source", name)], number(count(source(name)))))
    };
    to.counters(
        "online_learning_events_received_total",
        "Records that came, by source, whatever became of them",
        of_each(crate::store::SourceCounters::received),
    );
    to.counters(
        "online_learning_events_accepted_total",
        "Outcomes made durable, by source",
        of_each(|source| source.accepted),
    );
    to.counters(
        "online_learning_events_duplicate_total",
        "Records that were known already, by source",
        of_each(|source| source.duplicates),
    );
    to.counters(
        "online_learning_events_conflicting_total",
        "Duplicates that differ from the first of their identity in agent or status, by source",
        of_each(|source| source.conflicting),
    );
    let reasons = SOURCES.iter().flat_map(|name| {
        RefusalCode::ALL.iter().map(move |code| {
            let count = source(name).rejected.get(code.as_str()).copied().unwrap_or(0);
            ([("reason", code.as_str()), ("source", *name)], number(count))
        })
    });
    to.counters(
        "online_learning_events_rejected_total",
        "Records that became dead letters, by source and reason",
        reasons.collect::<Vec<_>>(),
    );
    to.counter(
        "online_learning_dead_letters_unkept_total",
        "Rejected records of which nothing but the number is kept: their body had too many",
        number(counters.dead_letters_unkept),
    );
    to.counter(
        "online_learning_events_learned_total",
        "Outcomes with a reward that were learned",
        number(counters.samples_processed),
    );
    let dropped: u64 = counters.dropped_fields.values().sum();
    to.counter(
        "online_learning_event_fields_dropped_total",
        "Optional fields of events that made no sense",
        number(dropped),
    );
    to.gauge(
        "online_learning_last_event_timestamp_seconds",
        "Unix time of the last accepted outcome; 0 before the first",
        seconds(counters.last_event_ms),
    );
}

fn add_work(to: &mut Families, counters: &Counters) {
    to.counters(
        "online_learning_batches_total",
        "Micro-batches tried, by result",
        [
            ([("result", "success")], number(counters.successful_updates)),
            ([("result", "failure")], number(counters.failed_updates)),
        ],
    );
    to.gauge(
        "online_learning_last_batch_timestamp_seconds",
        "Unix time of the last micro-batch; 0 before the first",
        seconds(counters.last_update_ms),
    );
    to.counters(
        "online_learning_saves_total",
        "Versions to be saved, by result",
        [
            ([("result", "success")], number(counters.saves)),
            ([("result", "failure")], number(counters.failed_saves)),
        ],
    );
    to.gauge(
        "online_learning_last_save_timestamp_seconds",
        "Unix time of the last saved version; 0 before the first",
        seconds(counters.last_save_ms),
    );
}

/// The agents with most executions; the rest, and those past the cap, are one, of no tenant.
fn add_agents(to: &mut Families, model: &AgentPerformanceModel, agents_max: usize) {
    let mut agents: Vec<(&str, &str, &Agent)> = model
        .tenants()
        .flat_map(|(tenant, of)| of.agents().map(move |(name, agent)| (tenant, name, agent)))
        .collect();
    let order = |one: &(&str, &str, &Agent), other: &(&str, &str, &Agent)| {
        let most = other.2.tally.executions.cmp(&one.2.tally.executions);
        most.then_with(|| (one.0, one.1).cmp(&(other.0, other.1)))
    };
    let mut rest = crate::model::Tally::default();
    let mut other = |tally: &crate::model::Tally| {
        rest.executions += tally.executions;
        rest.learned += tally.learned;
        rest.reward += tally.reward;
    };
    if agents.len() > agents_max {
        if agents_max > 0 {
            agents.select_nth_unstable_by(agents_max - 1, order);
        }
        for (_, _, agent) in agents.drain(agents_max..) {
            other(&agent.tally);
        }
    }
    agents.sort_unstable_by(order);
    for (_, tenant) in model.tenants() {
        other(&tenant.other().agent.tally);
    }
    let of_each = |value: fn(&Agent) -> f64, of_rest: f64| {
        let labels = |tenant, name| [("agent", name), ("tenant", tenant)];
        let mut series: Vec<_> = agents
            .iter()
            .map(|&(tenant, name, agent)| (labels(tenant, name), value(agent)))
            .collect();
        series.push((labels("", "other"), of_rest));
        series
    };
    to.gauges(
        "online_learning_agent_executions",
        "Outcomes of an agent, as the active model counts them",
        of_each(|agent| number(agent.tally.executions), number(rest.executions)),
    );
    to.gauges(
        "online_learning_agent_success_ratio",
        "Mean reward of an agent; 0.5 with none",
        of_each(|agent| agent.tally.success_rate(), rest.success_rate()),
    );
    to.gauges(
        "online_learning_agent_latency_seconds",
        "Mean of an agent's last 100 latencies; NaN with none",
        of_each(|agent| agent.latencies_ms.mean().map_or(f64::NAN, |ms| ms / 1_000.0), f64::NAN),
    );
}

fn add_storage(to: &mut Families, directory: &Path) {
    let space = Space::of(directory);
    to.gauge(
        "online_learning_database_bytes",
        "Size of the database",
        number(space.database_bytes),
    );
    to.gauge("online_learning_wal_bytes", "Size of its write-ahead log", number(space.wal_bytes));
    to.gauge(
        "online_learning_storage_free_bytes",
        "Space that is left where the database is",
        number(space.free_bytes),
    );
    to.gauge(
        "online_learning_storage_size_bytes",
        "Space that there is where the database is",
        number(space.size_bytes),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_is_for_who_asks_for_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,\
                          application/openmetrics-text;version=0.0.1;q=0.4,\
                          text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for wanted in [
            prometheus,
            "application/openmetrics-text",
            "Application/OpenMetrics-Text; version=\"1.0.0\"; charset=utf-8",
            "text/plain, application/openmetrics-text",
            "text/plain;q=0.9, application/openmetrics-text",
            "text/plain;version=1.0.0;q=0.9,application/openmetrics-text;q=0.8",
        ] {
            assert!(wants_open_metrics(wanted), "{wanted}");
        }
        for other in [
            "",
            "*/*",
            "application/*",
            "text/plain",
            "text/plain, application/openmetrics-text;q=0.9",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=much",
            "application/openmetrics-text;version=2.0.0",
            "application/openmetrics-text;version=0.0.1",
            "application/openmetrics-texts",
        ] {
            assert!(!wants_open_metrics(other), "{other}");
        }
    }

    #[test]
    fn what_differs_between_the_formats_is_changed_and_nothing_else() {
        let text = "# HELP a_total Of b_total c\n# TYPE a_total counter\na_total{x=\"{le=\\\"1\\\"}\"} 1\n\
                    # HELP h H\n# TYPE h histogram\nh_bucket{le=\"0.5\"} 0\nh_bucket{le=\"60\"} 1\n\
                    h_bucket{le=\"+Inf\"} 1\nh_sum 7\nh_count 1\n";
        let open = "# HELP a Of b_total c\n# TYPE a counter\na_total{x=\"{le=\\\"1\\\"}\"} 1\n\
                    # HELP h H\n# TYPE h histogram\nh_bucket{le=\"0.5\"} 0\nh_bucket{le=\"60.0\"} 1\n\
                    h_bucket{le=\"+Inf\"} 1\nh_sum 7\nh_count 1\n# EOF\n";
        assert_eq!(open_metrics(text), open);
    }
}

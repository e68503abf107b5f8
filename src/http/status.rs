//! How the service is, and what its agents have done.

use crate::outcome::fields::Name;
use std::collections::BTreeMap;

use super::access::{Caller, Need, Scope};
use super::answers::{
    AgentPerformance, CalibrationBin, Cap, Caps, DecisionCounts, Health, HealthChecks, Kafka, Lag,
    Memory, Metrics, OverallPerformance, Partition, Probe, Queue, Readiness, ServiceStatus,
    SourceStatus, StatusCounts, Totals,
};
use super::operation::{Operation, flag};
use super::pareto::Compared;
use super::plots::colours;
use super::route::{Route, Tag};
use super::server::{Request, Response};
use super::{Answer, App, Query, answers, json_response};
use crate::error::Result;
use crate::learner::{HTTP, MODEL_TYPES, Now, OTLP, SOURCES, TOPIC};
use crate::model::{
    Agent, AgentPerformanceModel, Predicted, Question, Settings, Tally, Tenant, best_probabilities,
};
use crate::outcome::{Context, Status, format_time};
use crate::sources::kafka;
use crate::stats::quantile;
use crate::store::{AgentReporting, Counters, SourceCounters};
use crate::watch::reporting::waited_since;
use crate::watch::samples;
use crate::watch::{BINS, Foresight};

/// Of the decisions that chose an agent, those that tell whether it reports.
const DECISIONS_NEWEST: u32 = 1_000;

pub(super) const METRICS: Route = Route {
    method: "GET",
    pattern: "/api/learning/metrics",
    id: "getMetrics",
    tag: Tag::Operations,
    need: Need::AllTenants(Scope::Read),
    handler: |app, _| app.metrics(),
    describe: |schemas| {
        let answer = schemas.answered::<answers::Metrics>();
        Operation::new("How learning goes, in numbers").answer(200, "The numbers", answer)
    },
};

pub(super) const AGENTS_PERFORMANCE: Route = Route {
    method: "GET",
    pattern: "/api/learning/agents/performance",
    id: "listAgentPerformance",
    tag: Tag::Reports,
    need: Need::Scope(Scope::Read),
    handler: |app, call| app.performance(&Query::of(call.request), call.caller),
    describe: |schemas| {
        let rows = schemas.answered::<Vec<answers::AgentPerformance<'_>>>();
        Operation::new("What each agent has done")
            .query("task_type", "Only on this task type", schemas.asked::<Name>())
            .tenant(schemas)
            .query("outlook", "Also what is expected of each", flag())
            .answer(200, "A row for each agent", rows)
    },
};

pub(super) const STATUS: Route = Route {
    method: "GET",
    pattern: "/api/learning/status",
    id: "getStatus",
    tag: Tag::Operations,
    need: Need::Scope(Scope::Read),
    handler: |app, call| Ok(app.status(call.caller)),
    describe: |schemas| {
        let answer = schemas.answered::<answers::ServiceStatus>();
        Operation::new("How the service is").answer(200, "Its state", answer)
    },
};

pub(super) const LIVEZ: Route = Route {
    method: "GET",
    pattern: "/livez",
    id: "isAlive",
    tag: Tag::Operations,
    need: Need::Nothing,
    handler: |_, _| Ok(json_response(200, &Probe { status: "ok", verbose: None })),
    describe: |schemas| {
        let answer = schemas.answered::<Probe>();
        Operation::new("Whether the service answers").answer(200, "It does", answer)
    },
};

pub(super) const READYZ: Route = Route {
    method: "GET",
    pattern: "/readyz",
    id: "isReady",
    tag: Tag::Operations,
    // What the verbose one tells is for those who run the service.
    need: Need::Asked(Scope::Read),
    handler: |app, call| app.readyz(call.request, call.caller),
    describe: |schemas| {
        Operation::new("Whether the model is loaded")
            .query("verbose", "Say more; needs a token where there are any", flag())
            .answer(200, "It is", schemas.answered::<Probe>())
    },
};

pub(super) const HEALTH: Route = Route {
    method: "GET",
    pattern: "/health",
    id: "getHealth",
    tag: Tag::Operations,
    need: Need::Scope(Scope::Read),
    handler: |app, call| Ok(app.health(call.caller)),
    describe: |schemas| {
        let answer = schemas.answered::<answers::Health>();
        Operation::new("What is well and what is not, in short").answer(200, "The checks", answer)
    },
};

impl App {
    pub(super) fn metrics(&self) -> Answer {
        let model = self.shared.model();
        let counters = self.shared.counters();
        let score = model.score();
        let body = Metrics {
            total_updates: counters.total_updates(),
            successful_updates: counters.successful_updates,
            failed_updates: counters.failed_updates,
            avg_update_time_ms: counters.avg_update_time_ms(),
            updates_per_minute: self.updates_per_minute(&counters),
            samples_processed: counters.samples_processed,
            current_model_score: score.current(),
            improvement_rate: score.improvement_rate(),
            accepted: counters.accepted,
            duplicates: counters.duplicates,
            conflicting: counters.conflicting,
            rejected: counters.rejected.clone(),
            dead_letters_unkept: counters.dead_letters_unkept,
            dropped_fields: counters.dropped_fields.clone(),
            saves: counters.saves,
            failed_saves: counters.failed_saves,
            prediction_accuracy: counters.foresight.accuracy(),
            log_loss: counters.foresight.log_loss(),
            calibration: calibration(&counters.foresight),
            decisions: self.decision_counts(&counters)?,
        };
        Ok(json_response(200, &body))
    }

    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    fn decision_counts(&self, counters: &Counters) -> Result<DecisionCounts> {
        let recorded = counters.last_decision;
        let waited_since = self.waited_since();
        Ok(DecisionCounts {
            recorded,
            unrecorded: self.shared.decisions.unrecorded(),
            explored: counters.decisions_explored,
            explored_share: (recorded > 0)
                .then(|| counters.decisions_explored as f64 / recorded as f64),
            with_outcome: counters.decisions_with_outcome,
            orphaned: self.reader.decisions_without_outcome(waited_since)?,
            missing: counters.decisions_missing,
            late: counters.decisions_late,
            unresolved: counters.decisions_unresolved,
        })
    }

    /// A decision made before this, Unix ms, should have its outcome by now.
    pub(super) fn waited_since(&self) -> i64 {
        waited_since(self.options.decision_wait, Now::read().unix_ms)
    }

    fn updates_per_minute(&self, counters: &Counters) -> f64 {
        // The stored time lags behind while nothing is committed.
        let run = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let counters = Counters { running_ms: counters.running_ms.max(run), ..counters.clone() };
        counters.updates_per_minute()
    }

    pub(super) fn performance(&self, query: &Query, caller: &Caller) -> Answer {
        let (tenant, task_type) = (query.tenant(caller)?, query.name("task_type")?);
        let outlook = query.flag("outlook")?;
        let model = self.shared.model();
        let settings = model.settings();
        let reporting = match task_type {
            None => self.reader.reporting(Some(tenant), self.waited_since(), DECISIONS_NEWEST)?,
            Some(_) => Vec::new(),
        };
        let mut rows = Vec::new();
        if let Some(of) = model.tenant(tenant) {
            let outlook = outlook.then(|| Outlook::of(&model, tenant, task_type));
            for (name, agent) in of.agents() {
                let row = match task_type {
                    None => Some(agent_row(name, agent, settings)),
                    Some(task_type) => task_row(name, agent, of, task_type, settings),
                };
                rows.extend(row.map(|row| match &outlook {
                    Some(outlook) => outlook.added_to(row),
                    None => row,
                }));
            }
        }
        for AgentReporting { agent, reporting, .. } in &reporting {
            let place =
                rows.binary_search_by(|row: &AgentPerformance<'_>| row.agent_name.cmp(agent));
            let place = place.unwrap_or_else(|place| {
                // Who was chosen and never reported.
                rows.insert(place, agent_row(agent, &Agent::default(), settings));
                place
            });
            let row = &mut rows[place];
            row.decisions = Some(reporting.decisions);
            row.decisions_missing = Some(reporting.missing);
            row.decisions_waiting = Some(reporting.waiting);
        }
        if let Some(tenant) = model.tenant(tenant) {
            let other = &tenant.other().agent;
            if task_type.is_none() && other.tally.executions > 0 {
                // Not one agent, but all that came past the cap.
                let row = agent_row("other", other, settings);
                rows.push(AgentPerformance { is_other: Some(true), ..row });
            }
        }
        Ok(json_response(200, &rows))
    }

    /// What keeps us from learning, if anything: the storage, the topic, or something that only shows
    /// in a backlog that stands still.
    pub(crate) fn trouble(&self) -> Option<String> {
        let kafka = || {
            let why = self.kafka.as_ref()?.view.status().trouble()?;
            Some(format!("kafka: {why}"))
        };
        self.shared.trouble().or_else(kafka).or_else(|| self.shared.stall())
    }

    pub(super) fn status(&self, caller: &Caller) -> Response {
        let model = self.shared.model();
        let counters = self.shared.counters();
        // What all tenants do together is no tenant's to see.
        let of_all = caller.tenant().is_none();
        let trouble = self.trouble();
        let kafka = self.kafka.as_ref().map(|kafka| kafka.view.status());
        let lag = match &kafka {
            Some(status) => {
                Lag { records: status.lag(), seconds: status.lag_seconds(Now::read().unix_ms) }
            }
            None => {
                Lag { records: counters.last_sequence - counters.learned_sequence, seconds: None }
            }
        };
        let (depth, capacity) = self.inbox.depth();
        let time = |ms: i64| (ms > 0).then(|| format_time(ms));
        let body = ServiceStatus {
            status: if trouble.is_some() { "degraded" } else { "running" },
            running: true,
            kafka_topic: self.options.kafka_topic.clone(),
            batch_size: self.options.learner.batch_outcomes,
            models_loaded: &MODEL_TYPES,
            trouble,
            source: if kafka.is_some() { "kafka" } else { "http" },
            lag: of_all.then(|| lag.clone()),
            kafka: kafka.as_ref().filter(|_| of_all).map(kafka_status),
            queue: of_all.then_some(Queue { depth, capacity }),
            batch_timeout_seconds: self.options.learner.batch_timeout.as_secs_f64(),
            strategy: model.settings().strategy.as_str(),
            uptime_seconds: self.started.elapsed().as_secs(),
            version: env!("CARGO_PKG_VERSION"),
            active_version: self.shared.active_version(),
            model_version: caller.version_of(&model),
            totals: of_all.then(|| Totals {
                journal_sequence: counters.last_sequence,
                last_event: time(counters.last_event_ms),
                last_update: time(counters.last_update_ms),
                last_save: time(counters.last_save_ms),
                dead_letters_total: counters.rejected_total(),
                alerts_firing: self.board.firing().iter().sum::<u64>(),
                decisions_remembered: self.shared.decisions.len(),
                decisions_unresolved: counters.decisions_unresolved,
                sources: self.sources(&counters, &lag),
            }),
            memory: of_all.then(|| Memory {
                share: self.options.learner.memory.and_then(|limit| limit.share()),
                room: if model.is_room_closed() { "closed" } else { "open" },
            }),
            caps: caps(&model, caller.tenant()),
        };
        json_response(200, &body)
    }

    /// What came from where.
    fn sources(&self, counters: &Counters, lag: &Lag) -> Vec<SourceStatus> {
        let none = SourceCounters::default();
        // What everything comes by has the lag.
        let way = if self.kafka.is_some() { TOPIC } else { HTTP };
        let is_on =
            |name: &str| name == HTTP || name == way || (name == OTLP && self.otlp.is_some());
        let counted = |name: &str| counters.sources.get(name).unwrap_or(&none);
        let shown = |name: &&str| is_on(name) || counted(name).received() > 0;
        let status = |name: &'static str| {
            let counted = counted(name);
            SourceStatus {
                name,
                accepted: counted.accepted,
                duplicates: counted.duplicates,
                rejected: counted.rejected.values().sum(),
                without_task_type: counted.without_task_type,
                last_event: (counted.last_ms > 0).then(|| format_time(counted.last_ms)),
                lag: (name == way).then_some(lag.records),
            }
        };
        SOURCES.into_iter().filter(shown).map(status).collect()
    }

    pub(super) fn readyz(&self, request: &Request<'_>, caller: &Caller) -> Answer {
        // The model is restored before the server begins to accept.
        if !Query::of(request).flag("verbose")? {
            return Ok(json_response(200, &Probe { status: "ready", verbose: None }));
        }
        let counters = self.shared.counters();
        let readiness = Readiness {
            model_version: caller.version_of(&self.shared.model()),
            lag: caller
                .tenant()
                .is_none()
                .then_some(counters.last_sequence - counters.learned_sequence),
            kafka: self.kafka.as_ref().map(|kafka| {
                let status = kafka.view.status();
                status.trouble().unwrap_or_else(|| status.connection.as_str().to_owned())
            }),
            learning: self
                .shared
                .trouble()
                .or_else(|| self.shared.stall())
                .unwrap_or_else(|| "ok".to_owned()),
        };
        Ok(json_response(200, &Probe { status: "ready", verbose: Some(readiness) }))
    }

    pub(super) fn health(&self, caller: &Caller) -> Response {
        let trouble = self.shared.trouble();
        let kafka = self.kafka.as_ref().map(|kafka| kafka.view.status());
        let kafka_trouble = kafka.as_ref().and_then(kafka::Status::trouble);
        let model = self.shared.model();
        let counters = self.shared.counters();
        let stall = self.shared.stall();
        let is_degraded = trouble.is_some() || kafka_trouble.is_some() || stall.is_some();
        let ok = || "ok".to_owned();
        let body = Health {
            status: if is_degraded { "degraded" } else { "healthy" },
            checks: HealthChecks {
                model: "ok",
                learner: if trouble.is_some() { "stalled" } else { "ok" },
                storage: trouble.unwrap_or_else(ok),
                kafka: kafka.map(|_| kafka_trouble.unwrap_or_else(ok)),
                backlog: stall.unwrap_or_else(ok),
            },
            model_version: caller.version_of(&model),
            samples_processed: match caller.tenant() {
                None => counters.samples_processed,
                Some(tenant) => model.tenant(tenant).map_or(0, |tenant| tenant.total().learned),
            },
            uptime_seconds: self.started.elapsed().as_secs(),
        };
        json_response(200, &body)
    }
}

/// How often what was foretold came true, by what was foretold.
#[expect(clippy::cast_precision_loss, reason = "there are ten bins")]
fn calibration(foresight: &Foresight) -> Vec<CalibrationBin> {
    let edge = |index: usize| index as f64 / BINS as f64;
    let bins = foresight.bins().iter().enumerate().map(|(index, bin)| CalibrationBin {
        from: edge(index),
        to: edge(index + 1),
        count: bin.predictions,
        mean_predicted: bin.mean_predicted(),
        mean_observed: bin.mean_observed(),
    });
    bins.collect()
}

fn kafka_status(status: &kafka::Status) -> Kafka {
    let partitions = status.partitions.iter().map(|partition| Partition {
        partition: partition.partition,
        position: partition.position,
        low: partition.low,
        high: partition.high,
        lag: partition.lag(),
        lost: partition.lost,
        state: if partition.stopped.is_some() { "stopped" } else { "running" },
        message: partition.stopped.clone(),
    });
    Kafka {
        state: status.connection.as_str(),
        error: status.error.clone(),
        paused: status.paused,
        gaps: status.lost(),
        partitions: partitions.collect(),
    }
}

/// What is expected of each agent.
struct Outlook {
    compared: Compared,
    /// Of each, in the same order, the probability of the highest expected success.
    best: Vec<f64>,
    agent_to_colour: BTreeMap<String, usize>,
}

impl Outlook {
    fn of(model: &AgentPerformanceModel, tenant: &str, task_type: Option<&str>) -> Self {
        let context = Context::new();
        let question =
            Question { tenant, task_type, context: &context, candidates: None, exclude: &[] };
        let compared = Compared::of(model, &question);
        let best = best_probabilities(&compared.standings);
        let agents = samples::agents(model, tenant, task_type);
        let colours = colours(&agents).into_iter();
        Self {
            agent_to_colour: colours.map(|(name, colour)| (name.to_owned(), colour)).collect(),
            compared,
            best,
        }
    }

    fn added_to<'a>(&self, row: AgentPerformance<'a>) -> AgentPerformance<'a> {
        let Compared { standings, latencies, costs, dominators, .. } = &self.compared;
        let found = standings.binary_search_by(|standing| (*standing.agent).cmp(row.agent_name));
        let Ok(place) = found else { return row };
        // What an agent has not shown the model takes from the others; here it is unknown.
        let shown = |predicted: &[Predicted]| {
            predicted[place].value.filter(|_| predicted[place].samples > 0)
        };
        let (latency, cost) = (shown(latencies), shown(costs));
        let p95_ms = latency.and_then(|_| latencies[place].quantiles.first().copied());
        let standing = &standings[place];
        AgentPerformance {
            expected_success: Some(standing.expected_success()),
            interval: standing.interval(),
            probability_best: Some(self.best[place]),
            expected_latency_ms: latency.map(|value| value.mean()),
            expected_latency_p95_ms: p95_ms,
            expected_cost: cost.map(|value| value.mean()),
            unbeaten: Some(dominators[place].is_none()),
            plot_index: self.agent_to_colour.get(row.agent_name).copied(),
            ..row
        }
    }
}

/// What the names learned take of what they may; of one tenant, or of all.
fn caps(model: &AgentPerformanceModel, tenant: Option<&str>) -> Caps {
    let caps = &model.settings().caps;
    let tenants =
        || model.tenants().filter(|(name, _)| tenant.is_none_or(|tenant| tenant == *name));
    let of_all = |cap: Cap| tenant.is_none().then_some(cap);
    let most =
        |count: fn(&Tenant) -> usize| tenants().map(|(_, tenant)| count(tenant)).max().unwrap_or(0);
    let sum = |count: fn(&Tenant) -> u64| tenants().map(|(_, t)| count(t)).sum::<u64>();
    let plain = |used: usize, max: usize| Cap { used, max, ..Cap::default() };
    let with_other = |used: usize, max: usize, other: fn(&Tenant) -> u64| Cap {
        other_outcomes: Some(sum(other)),
        ..plain(used, max)
    };
    let values = tenants()
        .flat_map(|(_, tenant)| tenant.context_keys().map(|(_, key)| key.distinct()))
        .max()
        .unwrap_or(0);
    Caps {
        tenants: of_all(plain(model.tenants().len(), caps.tenants)),
        agents_per_tenant: with_other(
            most(|tenant| tenant.agents().len()),
            caps.agents_per_tenant,
            |tenant| tenant.other().agent.tally.executions,
        ),
        task_types_per_tenant: with_other(
            most(|tenant| tenant.task_types().len()),
            caps.task_types_per_tenant,
            |tenant| tenant.other().task_type.executions,
        ),
        context_keys_per_tenant: with_other(
            most(|tenant| tenant.context_keys().len()),
            caps.context_keys_per_tenant,
            |tenant| tenant.other().context_keys,
        ),
        context_values_per_key: with_other(values, caps.context_values_per_key, |tenant| {
            tenant.context_keys().map(|(_, key)| key.other).sum()
        }),
        cells: of_all(with_other(model.cells(), caps.cells, |tenant| {
            tenant.other().cell.executions
        })),
        effects: of_all(with_other(model.effects(), caps.effects, |tenant| tenant.other().effects)),
        covariances_mib: of_all(plain(model.covariance_bytes() >> 20, caps.covariances_mib)),
        joint_values_per_agent: Cap {
            independent: Some(sum(Tenant::independent_effects)),
            ..plain(most(Tenant::joint_values), caps.joint_values_per_agent)
        },
        recent_values: of_all(plain(model.recent_values(), caps.recent_values)),
        values_mib: {
            let records = || model.tenants().map(|(_, tenant)| tenant.value_records());
            of_all(Cap {
                records: Some(records().map(|(records, _)| records).sum()),
                evicted: Some(records().map(|(_, evicted)| evicted).sum()),
                ..plain(model.value_bytes() >> 20, caps.covariances_mib)
            })
        },
    }
}

fn base_row<'a>(
    name: &'a str,
    tally: &Tally,
    latency_ms: Option<f64>,
    settings: &Settings,
) -> AgentPerformance<'a> {
    AgentPerformance {
        agent_name: name,
        success_rate: tally.success_rate(),
        avg_latency_ms: latency_ms.unwrap_or(0.0),
        total_executions: tally.executions,
        samples: tally.learned,
        alpha: settings.prior().0 + tally.reward,
        beta: settings.prior().1 + tally.missed(),
        mean_latency_ms: latency_ms,
        overall: None,
        expected_success: None,
        interval: None,
        probability_best: None,
        expected_latency_ms: None,
        expected_latency_p95_ms: None,
        expected_cost: None,
        unbeaten: None,
        plot_index: None,
        decisions: None,
        decisions_missing: None,
        decisions_waiting: None,
        is_other: None,
    }
}

fn agent_row<'a>(name: &'a str, agent: &Agent, settings: &Settings) -> AgentPerformance<'a> {
    let statuses = StatusCounts {
        success: agent.with_status(Status::Success),
        partial: agent.with_status(Status::Partial),
        failure: agent.with_status(Status::Failure),
        timeout: agent.with_status(Status::Timeout),
        cancelled: agent.with_status(Status::Cancelled),
        pending: agent.with_status(Status::Pending),
    };
    let quality = agent.qualities.mean();
    let overall = OverallPerformance {
        avg_quality: quality.unwrap_or(0.0),
        mean_quality: quality,
        statuses,
        latency_p95_ms: quantile(agent.latencies_ms.iter(), 0.95),
    };
    AgentPerformance {
        overall: Some(overall),
        ..base_row(name, &agent.tally, agent.latencies_ms.mean(), settings)
    }
}

/// The agent's record on one task type; `None` without any.
fn task_row<'a>(
    name: &'a str,
    agent: &Agent,
    tenant: &Tenant,
    task_type: &str,
    settings: &Settings,
) -> Option<AgentPerformance<'a>> {
    let cell = tenant.cell(agent, task_type);
    (cell.tally.executions > 0)
        .then(|| base_row(name, &cell.tally, cell.mean_latency_ms(), settings))
}

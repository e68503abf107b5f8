//! Looks at the service every few seconds: evaluates the alerts, shows them, has them recorded, hands
//! the changes to whoever sends them, and takes samples for plots over time. Never waits for a receiver, and learning never waits for it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::error::Result;
use crate::learner::{Event, Inbox, Now, Shared};
use crate::model::{Agent, AgentPerformanceModel, Recent, Used};
use crate::sources::kafka::View;
use crate::stats::quantile;
use crate::store::{Reader, Space};
use crate::watch::alerts::{
    AGENT_VALUES_MIN, AgentSeen, Alert, AlertOptions, Board, Drift, Evaluator, Seen, Totals,
};
use crate::watch::reporting::{ByAgent, RECENT, waited_since};
use crate::watch::samples::Sample;
use crate::watch::{Watch, Watched};

/// Longest wait until changes are recorded; they are tried again in the next round.
const RECORD_TIMEOUT: Duration = Duration::from_secs(5);

/// What the monitor looks at.
pub struct Observed {
    /// The learner, as others see it.
    pub shared: Arc<Shared>,
    /// The queue into it.
    pub inbox: Arc<Inbox>,
    /// The consumer, with Kafka.
    pub view: Option<Arc<View>>,
    /// The state directory.
    pub directory: PathBuf,
    /// The database in it.
    pub reader: Reader,
    /// After which time a decision should have its outcome.
    pub decision_wait: Duration,
}

/// Where changes of alerts are sent: a name for the counters, and a bounded queue.
pub struct Channel {
    /// One of [`crate::watch::instruments::CHANNELS`].
    pub name: &'static str,
    /// Its place there.
    pub place: usize,
    /// Into the thread that sends.
    pub changes: Sender<Alert>,
}

/// The value of the monitor's thread.
pub struct Monitor {
    observed: Observed,
    options: AlertOptions,
    evaluator: Evaluator,
    board: Arc<Board>,
    channels: Vec<Channel>,
    /// Changes that are not recorded yet, by id.
    unrecorded: BTreeMap<u64, Alert>,
    sampler: Option<Sampler>,
    /// As last seen.
    reporting: ByAgent,
}

/// Takes samples while something is learned.
pub struct Sampler {
    /// Time between two.
    pub interval: Duration,
    /// Sequence number of the last journal entry that the newest had learned; 0 without any.
    pub model_version: u64,
}

impl Sampler {
    fn round(&mut self, observed: &Observed, now: Now) {
        let Observed { shared, inbox, .. } = observed;
        let model = shared.model();
        if model.sequence() == self.model_version {
            return;
        }
        let look = |look: &mut dyn FnMut(&Watch)| shared.with_watch(|watch| look(watch));
        let sample = Box::new(Sample::take(&model, look, now.unix_ms));
        // A full queue has other things to do: the next one will do.
        if inbox.try_send(Event::Sample(sample)).is_ok() {
            self.model_version = model.sequence();
        }
    }
}

impl Monitor {
    /// Goes on from the alerts of the run before.
    pub fn new(
        observed: Observed,
        options: AlertOptions,
        drift_threshold: Option<f64>,
        kept: &[Alert],
        board: Arc<Board>,
        channels: Vec<Channel>,
    ) -> Self {
        let evaluator = Evaluator::new(options.clone(), drift_threshold, kept);
        let unrecorded = BTreeMap::new();
        Self {
            observed,
            options,
            evaluator,
            board,
            channels,
            unrecorded,
            sampler: None,
            reporting: ByAgent::default(),
        }
    }

    /// As well, takes samples.
    #[must_use]
    pub fn sampling(mut self, sampler: Option<Sampler>) -> Self {
        self.sampler = sampler;
        self
    }

    /// Looks again and again, until `stop` is disconnected.
    pub fn run(&mut self, stop: &Receiver<()>) {
        let first = Instant::now();
        let (mut look_at, mut sample_at) = (first, self.sampler.as_ref().map(|_| first));
        loop {
            let now = Now::read();
            if now.instant >= look_at {
                self.round(now);
                look_at = now.instant + self.options.interval;
            }
            if let Some(sampler) = &mut self.sampler
                && sample_at.is_some_and(|at| now.instant >= at)
            {
                sampler.round(&self.observed, now);
                sample_at = Some(now.instant + sampler.interval);
            }
            let next = sample_at.map_or(look_at, |at| at.min(look_at));
            if stop.recv_deadline(next) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    fn round(&mut self, now: Now) {
        let changed = self.evaluate(now);
        self.unrecorded.extend(changed.iter().map(|alert| (alert.id, alert.clone())));
        if !self.unrecorded.is_empty() && self.record().is_ok() {
            self.unrecorded.clear();
        }
        // After that, so that what is shown and sent survives a crash, unless the storage fails.
        self.board.show(&changed);
        for alert in changed {
            log_change(&alert);
            for channel in &self.channels {
                // A receiver that is away for long costs the newest changes until the next start, and
                // they are counted.
                if channel.changes.try_send(alert.clone()).is_err() {
                    let instruments = &self.observed.shared.instruments;
                    instruments.notifications(channel.name, "dropped").inc();
                    log::warn!("alert_channel={} dropped={}", channel.name, alert.id);
                }
            }
        }
    }

    fn record(&self) -> Result<()> {
        let (reply_tx, reply_rx) = bounded(1);
        let alerts = self.unrecorded.values().cloned().collect();
        let channels = self.channels.iter().map(|channel| channel.place).collect();
        self.observed.inbox.try_send(Event::Alerts { alerts, channels, reply: reply_tx })?;
        let late = |_| crate::Error::Unavailable("the learner is busy".to_owned());
        reply_rx.recv_timeout(RECORD_TIMEOUT).map_err(late)?
    }

    fn evaluate(&mut self, now: Now) -> Vec<Alert> {
        let seen = self.see(now);
        self.see_reporting(now);
        let Self { observed, options, evaluator, reporting, .. } = self;
        let (model, shared) = (observed.shared.model(), &observed.shared);
        let (options, reporting) = (&*options, &*reporting);
        let agents = model.tenants().flat_map(|(tenant, of)| {
            of.agents().map(move |(name, agent)| {
                let seen = shared.with_watch(|watch| {
                    see_agent(options, (tenant, name), agent, watch.agent(tenant, name))
                });
                AgentSeen { reporting: reporting.of(tenant, name), ..seen }
            })
        });
        // Whoever never reported is not in the model.
        let unknown = reporting.agents().filter(|(tenant, name)| {
            model.tenant(tenant).is_none_or(|tenant| tenant.agent(name).is_none())
        });
        let unknown = unknown.map(|(tenant, agent)| AgentSeen {
            reporting: reporting.of(tenant, agent),
            ..AgentSeen::unknown(tenant, agent)
        });
        evaluator.evaluate(&seen, agents.chain(unknown))
    }

    /// Who reports on decisions. Where that can't be read now, it stays as it was.
    fn see_reporting(&mut self, now: Now) {
        let waited_since = waited_since(self.observed.decision_wait, now.unix_ms);
        match self.observed.reader.reporting(None, waited_since, RECENT) {
            Ok(rows) => {
                let rows = rows.into_iter().map(|row| (row.tenant, row.agent, row.reporting));
                self.reporting = rows.collect();
            }
            Err(error) => log::debug!("reporting=unknown error=\"{error}\""),
        }
    }

    fn see(&self, now: Now) -> Seen {
        let Observed { shared, view, directory, .. } = &self.observed;
        let counters = shared.counters();
        let lag = match view {
            Some(view) => view.status().lag(),
            None => counters.last_sequence - counters.learned_sequence,
        };
        Seen {
            now_ms: now.unix_ms,
            totals: Totals {
                updates: counters.total_updates(),
                failed_updates: counters.failed_updates,
                update_time_us: counters.update_time_us,
                received: counters.received(),
                conflicting: counters.conflicting,
                rejected: counters.rejected_total(),
                predictions: shared.instruments.prediction_seconds.get_sample_count(),
                saves: counters.saves,
                failed_saves: counters.failed_saves,
            },
            improvement: shared.model().score().improvement_rate(),
            lag,
            stall: shared.stall(),
            disk_used: Space::of(directory).used(),
            cap: fullest_cap(&shared.model()),
        }
    }
}

/// The cap of which most is in use, and what to say when that is all.
fn fullest_cap(model: &AgentPerformanceModel) -> Option<(f64, String)> {
    let fullest = model.used().max_by(|a, b| a.share().total_cmp(&b.share()))?;
    let Used { cap, tenant, key, used, max } = fullest;
    let tenant = tenant.map(|tenant| format!(" of tenant {tenant:?}")).unwrap_or_default();
    let key = key.map(|key| format!(" for the context key {key:?}")).unwrap_or_default();
    let message = format!(
        "{used} of {max} {cap}{tenant}{key} are in use: what comes past that is not learned, or counts \
         as \"other\""
    );
    Some((fullest.share(), message))
}

/// What nobody asks for is not worked out.
fn see_agent<'a>(
    options: &AlertOptions,
    (tenant, name): (&'a str, &'a str),
    agent: &Agent,
    watched: Option<&Watched>,
) -> AgentSeen<'a> {
    let asked = |threshold: Option<f64>, values: &Recent| {
        threshold.is_some() && values.iter().count() >= AGENT_VALUES_MIN
    };
    let is_success_asked = asked(options.agent_success_min, &agent.rewards);
    let is_latency_asked = asked(options.agent_latency_p95_max_ms, &agent.latencies_ms);
    let change = watched.and_then(|watched| watched.change);
    AgentSeen {
        tenant,
        agent: name,
        success: is_success_asked.then(|| agent.rewards.mean()).flatten(),
        latency_p95_ms: is_latency_asked
            .then(|| quantile(agent.latencies_ms.iter(), 0.95))
            .flatten(),
        mean_cost: watched
            .filter(|watched| watched.costs() >= AGENT_VALUES_MIN)
            .and_then(Watched::mean_cost),
        drift: Drift {
            changes: watched.map_or(0, |watched| watched.changes),
            since: watched.map_or(0, |watched| watched.since_change),
            statistic: change.map_or(0.0, |change| change.statistic),
            before: change.map_or(0.0, |change| change.before),
            after: change.map_or(0.0, |change| change.after),
        },
        streak: watched.map_or(0, |watched| watched.streak),
        reporting: None,
    }
}

/// One line per change. Names can't break it: they are written with escapes.
fn log_change(alert: &Alert) {
    let Alert { id, rule, value, threshold, message, .. } = alert;
    let (status, rule, severity) = (alert.status(), rule.as_str(), rule.severity());
    if !alert.is_firing() {
        log::info!("alert={status} rule={rule} id={id} message={message:?}");
        return;
    }
    let level = if severity == "critical" { log::Level::Error } else { log::Level::Warn };
    log::log!(
        level,
        "alert={status} rule={rule} id={id} value={value} threshold={threshold} message={message:?}"
    );
}

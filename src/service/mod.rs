//! The only file that spawns threads (the HTTP server has its own): wires the parts, waits for a
//! reason to stop, stops them in order, joins them.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use rand::RngExt;
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::http::access::Access;
use crate::http::{self, App, Sources, server};
use crate::learner::{
    AppendReply, Event, Inbox, Learner, LearnerOptions, MODEL_TYPES, Now, Record, Saved,
    SavedVersion, Saver, Shared,
};
use crate::model::{Measure, Predicted, Question, Recommendation, best_first};
use crate::outcome::{Context, DEFAULT_TENANT, Outcome, Payload};
use crate::service::monitor::{Channel, Monitor, Observed, Sampler};
use crate::service::notify::Webhook;
use crate::sources::formats;
use crate::sources::kafka::{self, KafkaOptions, Producer, View};
use crate::sources::otlp::Otlp;
use crate::store::{Counters, Reader, Store, StoreOptions, set_aside};
use crate::watch::alerts::{Alert, Board};
use crate::watch::instruments::CHANNELS;

mod backlog;
pub mod monitor;
pub mod notify;
mod probe;
mod status_line;

use backlog::{Backlogs, Queue, Seen};
use status_line::{StatusLine, Told};

pub use probe::is_alive;

/// Longest time the learner sleeps, so that its heartbeat shows that it lives.
const ROUND_MAX: Duration = Duration::from_secs(1);
/// Longest time from the reason to stop to the end, whatever keeps us.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Of that, what the learner may take; the rest is for what comes after it.
const LEARNER_STOP_TIMEOUT: Duration = Duration::from_millis(7_500);
/// How much longer than it should the learner may take before it is left behind.
const LEARNER_GRACE: Duration = Duration::from_secs(1);
/// Of the learner's time, what is left when the last model file is waited for no longer.
const CLOSE_REST: Duration = Duration::from_millis(500);
/// Longest wait for the saver, after the learner has ended.
const SAVER_TIMEOUT: Duration = Duration::from_millis(500);
/// Longest wait for the consumer's loop, which may be asking brokers that are away.
const TOPIC_STOP_TIMEOUT: Duration = Duration::from_secs(4);
/// Longest wait for the consumer's client.
const CLIENT_STOP_TIMEOUT: Duration = Duration::from_millis(500);
/// Longest wait for requests under way at the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the service looks after itself.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// Silence after which a part counts as dead.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How late a look may be before the process itself can't have run: stopped, or a machine that slept.
const LATE_MAX: Duration = Duration::from_secs(5);
/// How long nothing of a backlog may be done before it counts as stalled.
const STALLED_AFTER: Duration = Duration::from_secs(15);
/// Pause between two looks whether a thread has ended.
const JOIN_PAUSE: Duration = Duration::from_millis(5);

/// Learns from outcomes as they come in, on threads of its own, and answers at any time.
///
/// ```
/// use online_learning::learner::LearnerOptions;
/// use online_learning::outcome::{Outcome, Status};
/// use online_learning::service::RealTimeModelUpdater;
/// use online_learning::store::StoreOptions;
///
/// # fn main() -> online_learning::Result<()> {
/// let directory = std::env::temp_dir().join(format!("updater-doc-{}", std::process::id()));
/// let updater = RealTimeModelUpdater::start(
///     &directory,
///     StoreOptions::default(),
///     LearnerOptions::default(),
/// )?;
/// updater.submit(vec![
///     Outcome::new("ReActAgent", Status::Success).on_task("code_review"),
///     Outcome::new("ToolUseAgent", Status::Failure).on_task("code_review"),
/// ])?;
/// updater.flush()?;
/// let best = updater.predict("agent_selection", Some("code_review"), &Vec::new(), 3)?;
/// assert_eq!(best.len(), 2);
/// updater.stop()?;
/// # std::fs::remove_dir_all(directory).ok();
/// # Ok(())
/// # }
/// ```
pub struct RealTimeModelUpdater {
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
    learner: JoinHandle<Result<()>>,
    saver: JoinHandle<()>,
    /// Disconnected when the learner's thread ends, however it ends.
    ended: Receiver<()>,
    /// Likewise, of the saver's.
    saver_ended: Receiver<()>,
}

impl RealTimeModelUpdater {
    /// Most events that wait for the learner, unless said otherwise.
    pub const QUEUE_CAPACITY: usize = 1_024;

    /// Opens the state directory, restores the model and starts to learn.
    ///
    /// # Errors
    /// As [`Store::open`] and [`Learner::open`].
    pub fn start(
        directory: &std::path::Path,
        store: StoreOptions,
        options: LearnerOptions,
    ) -> Result<Self> {
        Self::start_with_queue(directory, store, options, Self::QUEUE_CAPACITY, false)
    }

    /// As [`RealTimeModelUpdater::start`], in the directory and with the limits of a configuration.
    ///
    /// # Errors
    /// As [`RealTimeModelUpdater::start`].
    pub fn start_configured(config: &Config) -> Result<Self> {
        Self::start_or_start_empty(config, false)
    }

    /// As [`RealTimeModelUpdater::start_configured`]; with `start_empty` what can't be trusted is
    /// moved aside, and the start is an empty one then.
    ///
    /// # Errors
    /// As [`RealTimeModelUpdater::start`].
    pub fn start_or_start_empty(config: &Config, start_empty: bool) -> Result<Self> {
        let Config { storage_path, store, learner, queue_capacity, .. } = config;
        Self::start_with_queue(storage_path, *store, *learner, *queue_capacity, start_empty)
    }

    #[expect(clippy::large_types_passed_by_value, reason = "it is taken once, at the start")]
    fn start_with_queue(
        directory: &std::path::Path,
        store: StoreOptions,
        options: LearnerOptions,
        capacity: usize,
        start_empty: bool,
    ) -> Result<Self> {
        let (inbox_tx, inbox_rx) = bounded(capacity);
        let (jobs_tx, jobs_rx) = unbounded();
        let (saved_tx, saved_rx) = unbounded();
        let (ended_tx, ended_rx) = bounded::<()>(0);
        let open = || {
            let store = Store::open(directory, store)?;
            Learner::open(store, options, jobs_tx.clone(), Now::read())
        };
        let learner = match open() {
            Err(Error::Corrupt(why)) if start_empty => {
                let aside = set_aside(directory, Now::read().unix_ms)?;
                log::warn!("start=empty set_aside={} reason=\"{why}\"", aside.display());
                open()?
            }
            Ok(learner) if start_empty && learner.has_journal() => {
                log::warn!("start_empty=ignored reason=\"nothing is wrong with what is there\"");
                learner
            }
            opened => opened?,
        };
        // The saver ends when the learner lets go of its end.
        drop(jobs_tx);
        let shared = learner.shared();
        let (saver_ended_tx, saver_ended_rx) = bounded::<()>(0);
        let saver = spawn("saver", move || {
            // Dropped at the end of the thread, however it ends.
            let _ended = saver_ended_tx;
            Saver::run(&jobs_rx, &saved_tx);
        })?;
        let beating = shared.clone();
        let learner = spawn("learner", move || {
            // Dropped at the end of the thread, however it ends.
            let _ended = ended_tx;
            let result = catch_unwind(AssertUnwindSafe(|| {
                run_learner(learner, &inbox_rx, &saved_rx, &beating)
            }));
            result.unwrap_or_else(|_| {
                Err(Error::Fatal("the learner's thread panicked; see the log above".to_owned()))
            })
        })?;
        let inbox = Arc::new(Inbox::new(inbox_tx));
        Ok(Self { inbox, shared, learner, saver, ended: ended_rx, saver_ended: saver_ended_rx })
    }

    /// The queue into the learner.
    pub fn inbox(&self) -> Arc<Inbox> {
        self.inbox.clone()
    }

    /// What other threads see of the learner.
    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Makes outcomes durable and queues them to be learned. Outcomes without an identity of their
    /// own ([`Outcome::identity`] all zeros) get a fresh one.
    ///
    /// # Errors
    /// As [`Inbox::submit`].
    pub fn submit(&self, outcomes: Vec<Outcome>) -> Result<AppendReply> {
        let nothing: Arc<dyn AsRef<[u8]> + Send + Sync> = Arc::new([0_u8; 0]);
        self.inbox.submit(outcomes.into_iter().map(|mut outcome| {
            if outcome.identity == [0; 16] {
                outcome.identity = rand::rng().random();
            }
            Record {
                content: Ok(outcome),
                payload: Payload::new(nothing.clone(), 0..0),
                identity: String::new(),
                source: "library",
                position: None,
                replay_of: None,
                tenant: None,
                arrived_ms: None,
            }
        }))
    }

    /// Waits until everything accepted before is learned and visible.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the queue is full or the learner has ended.
    pub fn flush(&self) -> Result<()> {
        let (reply_tx, reply_rx) = bounded(1);
        self.inbox.send(Event::Flush(reply_tx))?;
        reply_rx.recv().map_err(|_| Error::Unavailable("the learner ended".to_owned()))
    }

    /// Saves a version now.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it could not be saved.
    pub fn save(&self) -> Result<SavedVersion> {
        self.inbox.ask(Event::Save)
    }

    /// What a model makes of a task: for `agent_selection` the `top_k` agents, best first, each by
    /// one draw.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a model type that ranks no agents, or is not learned.
    pub fn predict(
        &self,
        model_type: &str,
        task_type: Option<&str>,
        context: &Context,
        top_k: usize,
    ) -> Result<Vec<Recommendation>> {
        if model_type != MODEL_TYPES[0] {
            let ranks = MODEL_TYPES[0];
            return Err(Error::NotFound(format!(
                "there is no model type {model_type:?} that ranks agents, only {ranks}"
            )));
        }
        let model = self.shared.model();
        Ok(model.predict_best_agent(task_type, context, top_k, &mut rand::rng()))
    }

    /// What is expected of a measure of the default tenant's `top_k` agents, best first; of latency and
    /// cost with what one execution stays below with a probability of 50, 95 and 99 %.
    pub fn predict_value(
        &self,
        measure: Measure,
        task_type: Option<&str>,
        context: &Context,
        top_k: usize,
    ) -> Vec<Predicted> {
        let question =
            Question { tenant: DEFAULT_TENANT, task_type, context, candidates: None, exclude: &[] };
        let mut predictions =
            self.shared.model().predictions(&question, measure, &[0.5, 0.95, 0.99]);
        best_first(&mut predictions, measure);
        predictions.truncate(top_k);
        predictions
    }

    /// Learns what was accepted, saves a version and ends, within 10 seconds.
    ///
    /// # Errors
    /// What ended the learner, if it was not this call; [`Error::Unavailable`] naming what could not be
    /// saved.
    pub fn stop(self) -> Result<()> {
        self.stop_by(Instant::now() + LEARNER_STOP_TIMEOUT)
    }

    fn stop_by(self, by: Instant) -> Result<()> {
        self.shared.stop_by(by);
        self.inbox.close();
        // Nothing is ever sent.
        if self.ended.recv_deadline(by + LEARNER_GRACE) == Err(RecvTimeoutError::Timeout) {
            return Err(Error::Fatal(
                "the learner did not end in time: what it held in memory was not saved, the \
                 journal has what was accepted"
                    .to_owned(),
            ));
        }
        let learned = join(self.learner);
        // The learner has let go of the saver's jobs. A file that takes longer than the learner
        // would wait for it is left unfinished; the next start removes it.
        if self.saver_ended.recv_timeout(SAVER_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            return learned;
        }
        let saved = self.saver.join();
        learned?;
        saved.map_err(|_| Error::Fatal("the saver's thread panicked".to_owned()))
    }
}

fn join(thread: JoinHandle<Result<()>>) -> Result<()> {
    thread.join().unwrap_or_else(|_| Err(Error::Fatal("a thread panicked".to_owned())))
}

fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(|error| Error::Fatal(format!("can't start the thread {name}: {error}")))
}

/// The loop around the learner: takes what comes, settles when nothing more is waiting, wakes up
/// for deadlines. Ends when every sender has let go.
fn run_learner(
    mut learner: Learner,
    inbox_rx: &Receiver<Event>,
    saved_rx: &Receiver<Saved>,
    shared: &Shared,
) -> Result<()> {
    let mut looked = Now::read();
    learner.settle(looked)?;
    // The present; where it is late, nobody could reach us since the last time.
    let mut look = |learner: &mut Learner| {
        let before = std::mem::replace(&mut looked, Now::read());
        if looked.since(before) > SILENCE_MAX {
            learner.was_out_of_reach(looked);
        }
        looked
    };
    loop {
        shared.beat();
        let until = learner.deadline().unwrap_or_else(|| Instant::now() + ROUND_MAX);
        let timeout = until.saturating_duration_since(Instant::now()).min(ROUND_MAX);
        crossbeam_channel::select! {
            recv(inbox_rx) -> event => match event {
                Ok(event) => {
                    let now = look(&mut learner);
                    learner.on_event(event, now)?;
                    // Whatever is waiting already shares the transaction.
                    while !learner.is_group_full()
                        && let Ok(event) = inbox_rx.try_recv()
                    {
                        learner.on_event(event, now)?;
                    }
                    learner.settle(now)?;
                }
                Err(_) => break,
            },
            recv(saved_rx) -> saved => match saved {
                Ok(saved) => {
                    let now = look(&mut learner);
                    learner.on_saved(saved, now)?;
                }
                Err(_) => return Err(Error::Fatal("the saver's thread has ended".to_owned())),
            },
            default(timeout) => {
                let now = look(&mut learner);
                learner.on_deadline(now)?;
            }
        }
    }
    let by = shared.end().unwrap_or_else(|| Instant::now() + LEARNER_STOP_TIMEOUT);
    let last = by.checked_sub(CLOSE_REST).unwrap_or(by);
    // A save that is under way may take long: first what was accepted is learned.
    learner.finish(Now::read())?;
    while learner.is_saving() {
        let Ok(saved) = saved_rx.recv_deadline(last) else { break };
        learner.on_saved(saved, Now::read())?;
    }
    learner.close(Now::read())
}

/// What `serve` is asked for beside its settings.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Recorded outcomes that are fed to the service as soon as it runs.
    pub import: Option<PathBuf>,
    /// Move a state that can't be trusted aside, and start with an empty one.
    pub start_empty: bool,
}

/// Runs the service until a signal or a failure ends it.
///
/// # Errors
/// Whatever kept it from starting, or ended it.
#[expect(clippy::too_many_lines, reason = "the life of the service, in its order")]
pub fn serve(config: &Config, plan: Plan) -> Result<()> {
    raise_descriptor_limit();
    let started = Instant::now();
    // Before anybody can see that the service runs and stop it.
    let (signals, hangups) = watch_signals()?;
    let at_terminal = std::io::stdin().is_terminal();
    config.check_exposure()?;
    let access = Arc::new(Access::open(&config.access)?);
    let otlp = config.otlp.clone().map(Otlp::new).transpose()?;
    let litellm = formats::Reader::of_litellm(config.litellm_agent.clone())?;
    // First, so that a port in use leaves the storage alone.
    let server = bind(config, &access)?;
    let address = server.local_addr();
    notify(&[NotifyState::Status("starting: restores the model")]);
    let updater = RealTimeModelUpdater::start_or_start_empty(config, plan.start_empty)?;
    // Closed at the stop: wakes requests that wait.
    let (stop_tx, stop_rx) = bounded::<()>(0);
    let topic = config
        .kafka
        .as_ref()
        .map(|options| Topic::start(options, &config.storage_path, &updater, &stop_rx))
        .transpose()?;
    let ends = topic.as_ref().map(Topic::ends);
    let kept_alerts = Reader::new(&config.storage_path).alerts()?;
    let board = Arc::new(Board::new(&kept_alerts));
    let (inbox, shared) = (updater.inbox(), updater.shared());
    let app = Arc::new(App::new(
        config.http(),
        access.clone(),
        inbox,
        shared,
        Sources { kafka: ends, otlp, litellm: Some(litellm) },
        board.clone(),
        stop_rx,
    ));
    let (handler, finisher) = (app.clone(), app.clone());
    let http = server
        .finishing(move |response| finisher.finish(response))
        .probed_at(crate::http::PROBES)
        .spawn(move |request| handler.handle(request))
        .map_err(|error| Error::Fatal(format!("can't start the HTTP server: {error}")))?;
    let http = Arc::new(http);
    let health = Arc::new(Health::new());
    let (probe_stop_tx, probe_stop_rx) = bounded::<()>(0);
    let prober = {
        let (http, health, shared) = (http.clone(), health.clone(), updater.shared());
        let view = topic.as_ref().map(|topic| topic.view.clone());
        let stop = probe_stop_rx.clone();
        spawn("probe", move || {
            probe(address, &http, &shared, view.as_deref(), &health, &stop);
        })?
    };
    let monitoring =
        Monitoring::start(config, &updater, topic.as_ref(), &kept_alerts, board, &probe_stop_rx)?;

    let pid = std::process::id();
    log::info!(
        "service=started listen={address} storage={} pid={pid} start_ms={}",
        config.storage_path.display(),
        started.elapsed().as_millis()
    );
    let mut watch = Watch::new(&health, config.learner, &updater, topic.as_ref());
    let mut status_line = StatusLine::default();
    // The line comes with the readiness, so that nobody sees an old one.
    tell(&[NotifyState::Ready], &mut status_line, &watch, &app);
    let importer = plan.import.map(|file| {
        let inbox = updater.inbox();
        spawn("import", move || match crate::sources::file::into_inbox(&inbox, &file) {
            Ok(summary) => {
                log::info!("import=done {summary}");
                if let Err(error) = summary.check(&file.display().to_string()) {
                    log::error!("import=useless error=\"{error}\"");
                }
                show_next_steps(address);
            }
            Err(error) => log::error!("import=failed error=\"{error}\""),
        })
    });
    let importer = importer.transpose()?;

    let never = crossbeam_channel::never();
    let topic_ended = topic.as_ref().map_or(&never, |topic| &topic.ended);
    let mut on_hangup = || hung_up(&access, at_terminal);
    let ended = (&updater.ended, topic_ended);
    let mut on_look = |watch: &Watch<'_>| tell(&[], &mut status_line, watch, &app);
    let reason =
        wait_for_reason(&signals, &hangups, &mut on_hangup, ended, &mut watch, &mut on_look);
    let now = Instant::now();
    let (learned_by, by) = (now + LEARNER_STOP_TIMEOUT, now + STOP_TIMEOUT);
    // Also what the learner waits for at this moment must end in time.
    watch.shared.stop_by(learned_by);
    app.stop();
    log::info!("service=stopping reason=\"{reason}\"");
    notify(&[
        NotifyState::Stopping,
        NotifyState::Status("stopping: learns what was accepted, saves a version"),
    ]);
    drop(stop_tx);
    drop(probe_stop_tx);
    let topic_ended = topic.map_or(Ok(()), Topic::stop);
    // New requests are still answered, with 503, while what was accepted is learned and saved.
    let stopped = match reason {
        // A learner that hangs can't be joined: the process ends, the journal has everything.
        Reason::Silence(what) => Err(Error::Fatal(format!("{what} was silent for too long"))),
        Reason::Signal | Reason::LearnerEnded | Reason::TopicEnded => {
            updater.stop_by(learned_by).and(topic_ended)
        }
    };
    monitoring.leave();
    for thread in [Some(prober), Some(monitoring.monitor), importer].into_iter().flatten() {
        join_by(thread, by);
    }
    stop_http(http, by);
    if let Err(error) = &stopped {
        log::error!("service=failed error=\"{error}\"");
    } else {
        log::info!("service=stopped");
    }
    match (stopped, reason) {
        (Ok(()), Reason::LearnerEnded | Reason::TopicEnded) => {
            Err(Error::Fatal(reason.to_string()))
        }
        (stopped, _) => stopped,
    }
}

/// Takes the port, and says who can reach it.
fn bind(config: &Config, access: &Access) -> Result<server::Server> {
    let limits = server::Limits {
        connections_max: config.http_connections_max,
        in_flight_body_bytes_max: config.http_body_bytes_max,
        in_flight_answer_bytes_max: config.http_answer_bytes_max,
        ..server::Limits::default()
    };
    let address = config.listen_addr;
    let server = server::Server::bind(address, limits).map_err(|error| {
        Error::Fatal(format!(
            "can't listen on {address}: {error}; LISTEN_ADDR names another address"
        ))
    })?;
    let address = server.local_addr();
    if !address.ip().is_loopback() {
        match access.tokens() {
            0 => log::warn!("listen={address} reachable=from_other_machines access_control=none"),
            tokens => log::info!("listen={address} reachable=from_other_machines tokens={tokens}"),
        }
    }
    Ok(server)
}

/// Waits for a thread to end, unless that takes too long.
fn join_by(thread: JoinHandle<()>, by: Instant) {
    while !thread.is_finished() {
        if Instant::now() >= by {
            log::warn!("stop: the thread {:?} did not end in time", thread.thread().name());
            return;
        }
        thread::sleep(JOIN_PAUSE);
    }
    if thread.join().is_err() {
        log::error!("stop: a thread had panicked");
    }
}

/// Waits for requests under way, as long as that is good.
fn stop_http(http: Arc<server::Handle>, by: Instant) {
    match Arc::try_unwrap(http) {
        Ok(http) => {
            let left = by.saturating_duration_since(Instant::now());
            if !http.stop(left.min(DRAIN_TIMEOUT)) {
                log::warn!("stop: some connections did not end in time");
            }
        }
        Err(_) => log::warn!("stop: the HTTP server is still in use"),
    }
}

/// Tells a newcomer where to look next.
fn show_next_steps(address: SocketAddr) {
    let url = format!("http://{address}");
    let predict = "{\"task_type\": \"code_review\", \"context\": {\"complexity\": \"high\"}}";
    let text = format!(
        "\nonline-learning listens on {url}: open it in a browser. In another terminal:\n\n  \
         curl -s {url}/api/learning/agents/performance\n  \
         curl -s {url}/api/learning/predict/agent-selection -H 'content-type: application/json' \\\n    \
         -d '{predict}'\n  \
         cargo run -- predict --url {url} --task-type code_review\n  \
         cargo run -- simulate --url {url}\n\nCtrl-C stops it in good order.\n"
    );
    // For people: when nobody reads, the service runs all the same.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
}

/// The threads at the topic, and what others need of them.
struct Topic {
    producer: Arc<Producer>,
    view: Arc<View>,
    consumer: JoinHandle<()>,
    dead_letters: Option<JoinHandle<()>>,
    /// How the consumer's loop ended. Its client may take longer to end.
    ended: Receiver<Result<()>>,
    /// Disconnected when the client has ended, too.
    closed: Receiver<()>,
    stop: Sender<()>,
}

impl Topic {
    fn start(
        options: &KafkaOptions,
        storage: &std::path::Path,
        updater: &RealTimeModelUpdater,
        stopping: &Receiver<()>,
    ) -> Result<Self> {
        let (stop, stop_rx) = bounded::<()>(0);
        let (ended_tx, ended) = bounded(1);
        let (closed_tx, closed) = bounded::<()>(0);
        let view = Arc::new(View::default());
        let producer = Arc::new(Producer::new(options)?);
        let reader = Reader::new(storage);
        let positions = reader.positions()?;
        let consumer = kafka::Consumer::new(
            options,
            positions,
            updater.inbox(),
            view.clone(),
            stop_rx.clone(),
        )?;
        let consumer = spawn("kafka", move || {
            let _closed = closed_tx;
            // Dropped before the line above says so: what a closure captures outlives its locals.
            let mut consumer = consumer;
            let ended = catch_unwind(AssertUnwindSafe(|| consumer.run())).unwrap_or_else(|_| {
                Err(Error::Fatal("the consumer's thread panicked; see the log above".to_owned()))
            });
            // There is a place for it.
            let _ = ended_tx.send(ended);
        })?;
        let dead_letters = options.dead_letter_topic.clone().map(|topic| {
            let (producer, shared, inbox) = (producer.clone(), updater.shared(), updater.inbox());
            let stopping = stopping.clone();
            spawn("dead-letters", move || {
                kafka::forward_dead_letters(&topic, &producer, &reader, &shared, &inbox, &stopping);
            })
        });
        let dead_letters = dead_letters.transpose()?;
        Ok(Self { producer, view, consumer, dead_letters, ended, closed, stop })
    }

    fn ends(&self) -> http::Kafka {
        http::Kafka { producer: self.producer.clone(), view: self.view.clone() }
    }

    /// Stops reading. A client whose brokers are away may take long to end: it is not waited for.
    fn stop(self) -> Result<()> {
        let Self { consumer, dead_letters, ended, closed, stop, .. } = self;
        drop(stop);
        let result = match ended.recv_timeout(TOPIC_STOP_TIMEOUT) {
            Ok(result) => result,
            // It was the reason to stop.
            Err(RecvTimeoutError::Disconnected) => Ok(()),
            Err(RecvTimeoutError::Timeout) => {
                log::warn!("stop: the consumer did not end in time");
                Ok(())
            }
        };
        if closed.recv_timeout(CLIENT_STOP_TIMEOUT) == Err(RecvTimeoutError::Disconnected)
            && consumer.join().is_err()
        {
            log::error!("stop: the consumer's thread had panicked");
        }
        if let Some(thread) = dead_letters.filter(JoinHandle::is_finished)
            && thread.join().is_err()
        {
            log::error!("stop: the thread of the dead letters had panicked");
        }
        result
    }
}

/// Sends a change of an alert to one channel.
type Sending = dyn Fn(&Alert) -> std::result::Result<(), notify::Failure> + Send;

/// The threads that look at the service and tell what they see.
struct Monitoring {
    monitor: JoinHandle<()>,
    channels: Vec<JoinHandle<()>>,
}

impl Monitoring {
    fn start(
        config: &Config,
        updater: &RealTimeModelUpdater,
        topic: Option<&Topic>,
        kept: &[Alert],
        board: Arc<Board>,
        stop: &Receiver<()>,
    ) -> Result<Self> {
        let observed = Observed {
            shared: updater.shared(),
            inbox: updater.inbox(),
            view: topic.map(|topic| topic.view.clone()),
            directory: config.storage_path.clone(),
            reader: Reader::new(&config.storage_path),
            decision_wait: config.decision_wait,
        };
        let (mut channels, mut threads) = (Vec::new(), Vec::new());
        let mut open = |thread, place: usize, send: Box<Sending>| -> Result<()> {
            let name = CHANNELS[place];
            let (changes, changes_rx) = bounded(notify::QUEUE_MAX);
            channels.push(Channel { name, place, changes });
            let unsent = observed.reader.unsent_alerts(place)?;
            let (shared, inbox, stop) =
                (observed.shared.clone(), observed.inbox.clone(), stop.clone());
            threads.push(spawn(thread, move || {
                let delivery = notify::Delivery {
                    channel: name,
                    unsent,
                    changes: &changes_rx,
                    stop: &stop,
                    instruments: &shared.instruments,
                };
                delivery.run(send, |alert| {
                    // Should there be no place in the queue, it is sent once more after a restart.
                    let _ = inbox.send(Event::AlertSent { alert, channel: place });
                });
            })?);
            Ok(())
        };
        if let Some(url) = &config.alerts.webhook_url {
            let webhook = Webhook::new(url);
            open("webhook", 0, Box::new(move |alert| webhook.send(alert)))?;
        }
        let alert_topic = config.kafka.as_ref().and_then(|kafka| kafka.alert_topic.clone());
        if let (Some(name), Some(topic)) = (alert_topic, topic) {
            let (producer, view) = (topic.producer.clone(), topic.view.clone());
            let send = move |alert: &Alert| notify::to_topic(&name, &producer, &view, alert);
            open("alert-topic", 1, Box::new(send))?;
        }
        let drift_threshold = config.learner.drift_threshold;
        let alerts = config.alerts.clone();
        let newest_sample = Reader::new(&config.storage_path).newest_sample()?;
        let sampler = config.sample_interval.map(|interval| Sampler {
            interval,
            model_version: newest_sample.map_or(0, |(_, model_version)| model_version),
        });
        let mut monitor = Monitor::new(observed, alerts, drift_threshold, kept, board, channels)
            .sampling(sampler);
        let stop = stop.clone();
        let monitor = spawn("monitor", move || monitor.run(&stop))?;
        Ok(Self { monitor, channels: threads })
    }

    /// A channel in the middle of sending may take seconds: it is not waited for.
    fn leave(&self) {
        for channel in self.channels.iter().filter(|channel| !channel.is_finished()) {
            log::debug!("stop: {:?} was sending", channel.thread().name());
        }
    }
}

/// Why the service stops.
#[derive(Debug, Clone, Copy)]
enum Reason {
    Signal,
    LearnerEnded,
    TopicEnded,
    Silence(&'static str),
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Signal => f.write_str("signal"),
            Self::LearnerEnded => f.write_str("the learner ended"),
            Self::TopicEnded => f.write_str("the consumer of the topic ended"),
            Self::Silence(what) => write!(f, "{what} was silent for too long"),
        }
    }
}

/// What SIGHUP asks for: the tokens are read again. Without any, a service that was started at a
/// terminal has lost it. Returns whether to stop.
fn hung_up(access: &Access, at_terminal: bool) -> bool {
    match access.reload() {
        Ok(Some(tokens)) => log::info!("tokens=reloaded count={tokens}"),
        Ok(None) if at_terminal => return true,
        Ok(None) => log::info!("tokens=none reload=nothing"),
        Err(error) => log::error!("tokens=unchanged error=\"{error}\""),
    }
    false
}

fn wait_for_reason(
    signals: &Receiver<()>,
    hangups: &Receiver<()>,
    on_hangup: &mut dyn FnMut() -> bool,
    (ended, topic_ended): (&Receiver<()>, &Receiver<Result<()>>),
    watch: &mut Watch<'_>,
    on_look: &mut dyn FnMut(&Watch<'_>),
) -> Reason {
    let watchdog = sd_notify::watchdog_enabled();
    let tick = watchdog.map_or(ROUND_MAX, |interval| (interval / 3).min(ROUND_MAX));
    let mut pinged = Instant::now();
    loop {
        crossbeam_channel::select! {
            recv(signals) -> _ => return Reason::Signal,
            recv(hangups) -> _ => if on_hangup() { return Reason::Signal },
            recv(ended) -> _ => return Reason::LearnerEnded,
            recv(topic_ended) -> ended => {
                if let Ok(Err(error)) = ended {
                    log::error!("kafka=ended error=\"{error}\"");
                }
                return Reason::TopicEnded;
            }
            default(tick) => {}
        }
        let now = Instant::now();
        watch.look(tick, now);
        on_look(watch);
        match watch.health.silent(now) {
            Some((what, silence)) if silence > SILENCE_MAX => return Reason::Silence(what),
            Some((_, silence)) if watchdog.is_some_and(|interval| silence > interval / 2) => {}
            // systemd advises a ping at half the interval.
            _ => {
                if let Some(interval) = watchdog
                    && pinged.elapsed() >= interval / 3
                {
                    notify(&[NotifyState::Watchdog]);
                    pinged = Instant::now();
                }
            }
        }
    }
}

/// What looks for parts that are silent and for backlogs that stand still.
struct Watch<'a> {
    health: &'a Health,
    backlogs: Backlogs,
    shared: Arc<Shared>,
    /// With Kafka.
    view: Option<Arc<View>>,
    options: LearnerOptions,
    /// The last time.
    looked: Instant,
}

impl<'a> Watch<'a> {
    #[expect(clippy::large_types_passed_by_value, reason = "it is taken once, at the start")]
    fn new(
        health: &'a Health,
        options: LearnerOptions,
        updater: &RealTimeModelUpdater,
        topic: Option<&Topic>,
    ) -> Self {
        Self {
            health,
            backlogs: Backlogs::default(),
            shared: updater.shared(),
            view: topic.map(|topic| topic.view.clone()),
            options,
            looked: health.origin,
        }
    }

    /// Records that wait in the topic; without Kafka, outcomes that wait to be learned.
    fn lag(&self) -> u64 {
        if let Some(view) = &self.view {
            return view.status().lag();
        }
        let counters = self.shared.counters();
        counters.last_sequence - counters.learned_sequence
    }

    /// Looks once more, at least every `tick` while the process runs.
    fn look(&mut self, tick: Duration, now: Instant) {
        let late = now.saturating_duration_since(self.looked).saturating_sub(tick);
        self.looked = now;
        if late > LATE_MAX {
            // Nobody could make progress: the process was stopped, or the machine slept.
            log::warn!("service=continued paused_seconds={}", late.as_secs());
            self.health.begin_anew(now);
            self.backlogs.begin_anew();
        }
        let counters = self.shared.counters();
        let seen = seen_in(&counters, self.view.as_deref(), &self.options);
        let stall = self.backlogs.look(seen, now);
        self.shared.note_stall(stall);
    }
}

/// What waits, and what was done.
fn seen_in(counters: &Counters, view: Option<&View>, options: &LearnerOptions) -> Vec<Seen> {
    let unlearned = counters.last_sequence - counters.learned_sequence;
    let full = unlearned >= options.batch_outcomes as u64;
    let done = counters.learned_sequence;
    let mut seen = vec![
        Seen {
            queue: Queue::Batches,
            waiting: if full { unlearned } else { 0 },
            done,
            patience: STALLED_AFTER,
        },
        Seen {
            queue: Queue::Outcomes,
            waiting: unlearned,
            done,
            patience: options.batch_timeout.saturating_add(STALLED_AFTER),
        },
    ];
    let partitions = view.map(|view| view.status().partitions).unwrap_or_default();
    // Those that are stopped say so themselves.
    let read = partitions.iter().filter(|partition| partition.stopped.is_none());
    seen.extend(read.map(|partition| Seen {
        queue: Queue::Partition(partition.partition),
        waiting: partition.lag(),
        done: u64::try_from(partition.position).unwrap_or(0),
        patience: STALLED_AFTER,
    }));
    seen
}

/// When the learner and the HTTP server were last seen to make progress.
struct Health {
    origin: Instant,
    learner_ms: AtomicU64,
    http_ms: AtomicU64,
    /// Without Kafka, there is nothing to wait for.
    consumer_ms: AtomicU64,
}

impl Health {
    fn new() -> Self {
        Self {
            origin: Instant::now(),
            learner_ms: AtomicU64::new(0),
            http_ms: AtomicU64::new(0),
            consumer_ms: AtomicU64::new(0),
        }
    }

    fn saw(&self, part: &AtomicU64, now: Instant) {
        let since = now.saturating_duration_since(self.origin).as_millis();
        part.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Nobody was silent until now.
    fn begin_anew(&self, now: Instant) {
        for part in [&self.learner_ms, &self.http_ms, &self.consumer_ms] {
            self.saw(part, now);
        }
    }

    /// The part that has been silent for longest, beyond what a probe's pace explains.
    fn silent(&self, now: Instant) -> Option<(&'static str, Duration)> {
        let parts = [
            ("learner", &self.learner_ms),
            ("http server", &self.http_ms),
            ("consumer of the topic", &self.consumer_ms),
        ];
        parts
            .map(|(name, seen)| {
                let seen = self.origin + Duration::from_millis(seen.load(Ordering::Relaxed));
                (name, now.saturating_duration_since(seen))
            })
            .into_iter()
            .filter(|(_, silence)| *silence > 2 * PROBE_INTERVAL)
            .max_by_key(|(_, silence)| *silence)
    }
}

/// Looks every few seconds whether learner and consumer go round and the HTTP server answers.
fn probe(
    address: SocketAddr,
    http: &server::Handle,
    shared: &Shared,
    view: Option<&View>,
    health: &Health,
    stop: &Receiver<()>,
) {
    let limited = AtomicBool::new(false);
    let consumer = || view.map_or(0, View::heartbeats);
    let mut heartbeats = (shared.heartbeats(), consumer());
    loop {
        let beats = (shared.heartbeats(), consumer());
        if beats.0 != heartbeats.0 {
            health.saw(&health.learner_ms, Instant::now());
        }
        if view.is_none() || beats.1 != heartbeats.1 {
            health.saw(&health.consumer_ms, Instant::now());
        }
        heartbeats = beats;
        // Connections or descriptors at their limit are no sign of death, and pass by themselves.
        let at_limit = http.at_limit();
        if limited.swap(at_limit, Ordering::Relaxed) != at_limit {
            if at_limit {
                log::warn!("http=at_limit connections={}", http.connections());
            } else {
                log::info!("http=below_limit connections={}", http.connections());
            }
        }
        if at_limit || is_alive(address, PROBE_INTERVAL) || http.at_limit() {
            health.saw(&health.http_ms, Instant::now());
        }
        match stop.recv_timeout(PROBE_INTERVAL) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return,
        }
    }
}

/// The first SIGTERM or SIGINT asks for an orderly stop, a second one ends the process at once.
/// SIGHUP comes through the second receiver.
fn watch_signals() -> Result<(Receiver<()>, Receiver<()>)> {
    let (signal_tx, signal_rx) = unbounded();
    // However often it comes meanwhile: one more look is enough.
    let (hangup_tx, hangup_rx) = bounded(1);
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|error| Error::Fatal(format!("can't watch signals: {error}")))?;
    // Never joined: it waits for a second signal as long as the process lives.
    spawn("signals", move || {
        let mut asked = false;
        for signal in signals.forever() {
            if signal == SIGHUP {
                let _ = hangup_tx.try_send(());
                continue;
            }
            if asked {
                log::warn!("service=killed reason=\"second signal\"");
                signal_hook::low_level::exit(1);
            }
            asked = true;
            // Main may be past waiting.
            let _ = signal_tx.send(());
        }
    })?;
    Ok((signal_rx, hangup_rx))
}

/// Tells systemd these states and, where it is due, the status line.
fn tell(states: &[NotifyState<'_>], line: &mut StatusLine, watch: &Watch<'_>, app: &App) {
    let trouble = app.trouble();
    let told = Told {
        learned: watch.shared.counters().samples_processed,
        lag: watch.lag(),
        sources: if watch.view.is_some() { &["kafka", "http"] } else { &["http"] },
        trouble: trouble.as_deref(),
    };
    let line = line.due(told, Instant::now()).map(NotifyState::Status);
    let states: Vec<NotifyState<'_>> = states.iter().cloned().chain(line).collect();
    if !states.is_empty() {
        notify(&states);
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::debug!("sd_notify=failed error=\"{error}\"");
    }
}

/// A connection each, and files: what the shell grants by default may be too few.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        log::warn!("descriptors=limited error=\"{error}\"");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service whose learner is never heard of again.
    fn with_watch(test: impl FnOnce(&mut Watch<'_>, &Shared)) {
        let directory = tempfile::tempdir().unwrap();
        let (store, learner) = (StoreOptions::default(), LearnerOptions::default());
        let updater = RealTimeModelUpdater::start(directory.path(), store, learner).unwrap();
        let health = Health::new();
        let mut watch = Watch::new(&health, learner, &updater, None);
        let shared = updater.shared();
        test(&mut watch, &shared);
        updater.stop().unwrap();
    }

    #[test]
    fn silence_begins_anew_when_the_process_did_not_run_and_else_ends_the_service() {
        let silent = |watch: &Watch<'_>, now| watch.health.silent(now).map(|(_, silence)| silence);
        with_watch(|watch, _| {
            let start = watch.looked;
            let at = |seconds| start + Duration::from_secs(seconds);
            // It was stopped for an hour.
            watch.look(ROUND_MAX, at(3_600));
            assert_eq!(silent(watch, at(3_600)), None);
            // It runs, and nothing is heard.
            for second in 3_601..=3_631 {
                watch.look(ROUND_MAX, at(second));
            }
            assert!(silent(watch, at(3_631)) > Some(SILENCE_MAX));
            assert_eq!(silent(watch, at(3_630)), Some(SILENCE_MAX));
        });
    }

    #[test]
    fn a_late_look_forgets_the_backlog_and_steady_ones_tell_it() {
        with_watch(|watch, shared| {
            let start = watch.looked;
            let at = |seconds| start + Duration::from_secs(seconds);
            let counters = Counters { last_sequence: 50, ..Default::default() };
            let told = |from: u64, to: u64, backlogs: &mut Backlogs| {
                (from..=to).find_map(|second| {
                    let seen = seen_in(&counters, None, &LearnerOptions::default());
                    backlogs.look(seen, at(second)).map(|_| second)
                })
            };
            assert_eq!(told(0, 60, &mut watch.backlogs), Some(16), "a full batch waits");
            watch.look(ROUND_MAX, at(120));
            assert_eq!(shared.stall(), None);
            assert_eq!(told(121, 150, &mut watch.backlogs), Some(137));
        });
    }
}

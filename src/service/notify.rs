//! Sends changes of alerts to where people look: a webhook, a topic.
//!
//! Each channel has a thread and a bounded queue of its own. What can't be sent is tried again with
//! growing pauses, in order, also by the next run of the program; after a day it is given up, counted and
//! logged. It stays on the board either way.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::sources::kafka::{Outgoing, Producer, View};
use crate::watch::alerts::{ALERTS_MAX, Alert};
use crate::watch::instruments::Instruments;

/// Changes that may wait for a channel: each alert that is kept fires and passes.
pub const QUEUE_MAX: usize = 2 * ALERTS_MAX;
/// The first pause; each one after is twice as long, up to the longest.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_mins(5);
/// How long one change is tried.
const GIVE_UP_AFTER: Duration = Duration::from_hours(24);
/// Longest wait for a webhook's answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why a change could not be sent.
#[derive(Debug)]
pub enum Failure {
    /// It may work later.
    Later(String),
    /// It never will.
    Never(String),
}

/// Where changes come from and whom to tell what became of them.
pub struct Delivery<'a> {
    /// One of [`crate::watch::instruments::CHANNELS`].
    pub channel: &'static str,
    /// Changes that a run before did not send.
    pub unsent: Vec<Alert>,
    /// Those that come after them.
    pub changes: &'a Receiver<Alert>,
    /// Disconnected at the stop.
    pub stop: &'a Receiver<()>,
    /// What becomes of them is counted here.
    pub instruments: &'a Instruments,
}

impl Delivery<'_> {
    /// Sends change after change until the queue's sender is gone or the service stops. `settled` is told
    /// each one that was sent or never will be: the others are sent by the next run.
    pub fn run(mut self, send: impl Fn(&Alert) -> Result<(), Failure>, settled: impl Fn(Alert)) {
        for alert in std::mem::take(&mut self.unsent) {
            if self.deliver(&alert, &send).is_break() {
                return;
            }
            settled(alert);
        }
        loop {
            let alert = crossbeam_channel::select! {
                recv(self.changes) -> alert => match alert {
                    Ok(alert) => alert,
                    Err(_) => return,
                },
                recv(self.stop) -> _ => return,
            };
            if self.deliver(&alert, &send).is_break() {
                return;
            }
            settled(alert);
        }
    }

    /// Sends one, as often as that takes. Breaks off when the service stops.
    fn deliver(
        &self,
        alert: &Alert,
        send: impl Fn(&Alert) -> Result<(), Failure>,
    ) -> ControlFlow<()> {
        let channel = self.channel;
        let began = Instant::now();
        let mut pause = PAUSE;
        loop {
            let error = match send(alert) {
                Ok(()) => {
                    self.instruments.notifications(channel, "sent").inc();
                    return ControlFlow::Continue(());
                }
                Err(Failure::Later(error)) if began.elapsed() < GIVE_UP_AFTER => {
                    log::debug!("alert_channel={channel} id={} error={error:?}", alert.id);
                    if self.stop.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                        return ControlFlow::Break(());
                    }
                    pause = (2 * pause).min(PAUSE_MAX);
                    continue;
                }
                Err(Failure::Later(error) | Failure::Never(error)) => error,
            };
            self.instruments.notifications(channel, "failed").inc();
            log::warn!("alert_channel={channel} id={} sending=failed error={error:?}", alert.id);
            return ControlFlow::Continue(());
        }
    }
}

/// Posts alerts as JSON. The address may hold a secret and is never logged.
pub struct Webhook {
    agent: ureq::Agent,
    url: String,
}

impl Webhook {
    /// Posts to `url`, `http` or `https`.
    pub fn new(url: &str) -> Self {
        let tls = ureq::tls::TlsConfig::builder()
            .provider(ureq::tls::TlsProvider::NativeTls)
            .root_certs(ureq::tls::RootCerts::PlatformVerifier)
            .build();
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .tls_config(tls)
            .build();
        Self { agent: config.into(), url: url.to_owned() }
    }

    /// Posts one change.
    ///
    /// # Errors
    /// [`Failure::Never`] when the receiver refuses it for good.
    pub fn send(&self, alert: &Alert) -> Result<(), Failure> {
        let body = alert_json(alert);
        let request = self.agent.post(&self.url).content_type("application/json");
        match request.send(body) {
            Ok(answer) => match answer.status().as_u16() {
                200..300 => Ok(()),
                status @ (408 | 425 | 429 | 500..) => Err(Failure::Later(format!("HTTP {status}"))),
                status => Err(Failure::Never(format!("HTTP {status}"))),
            },
            Err(ureq::Error::BadUri(_)) => Err(Failure::Never("no such address".to_owned())),
            Err(error) => Err(Failure::Later(error.to_string().replace(&self.url, "..."))),
        }
    }
}

fn alert_json(alert: &Alert) -> String {
    serde_json::to_string(&alert.body()).expect("text and numbers always have a JSON form")
}

/// Writes one change to a topic, keyed by rule and agent, so that the changes of one alert stay in
/// order.
///
/// # Errors
/// [`Failure::Later`] while brokers do not take it.
pub fn to_topic(
    topic: &str,
    producer: &Producer,
    view: &View,
    alert: &Alert,
) -> Result<(), Failure> {
    if let Some(why) = view.away() {
        return Err(Failure::Later(why));
    }
    let subject = alert.subject.as_ref();
    let agent = subject.map(|subject| format!("/{}/{}", subject.tenant, subject.agent));
    let record = Outgoing {
        key: format!("{}{}", alert.rule.as_str(), agent.unwrap_or_default()),
        value: alert_json(alert).into_bytes(),
        headers: Vec::new(),
    };
    let sent = producer.send(topic, &[record]);
    match (sent.failure, sent.too_large.first()) {
        (Some(error), _) => Err(Failure::Later(error)),
        (None, Some((_, error))) => Err(Failure::Never(error.clone())),
        (None, None) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::thread;

    use crossbeam_channel::bounded;

    use super::*;
    use crate::watch::alerts::Rule;

    fn alert() -> Alert {
        Alert {
            id: 1,
            rule: Rule::Lag,
            subject: None,
            value: 2.0,
            threshold: 1.0,
            message: String::new(),
            since_ms: 0,
            resolved_ms: None,
        }
    }

    #[test]
    fn what_may_work_later_is_tried_again_and_what_never_will_is_not() {
        let (changes_tx, changes) = bounded(4);
        let (_stop_tx, stop) = bounded::<()>(0);
        changes_tx.send(alert()).unwrap();
        changes_tx.send(alert()).unwrap();
        drop(changes_tx);
        let tries = Cell::new(0);
        let instruments = Instruments::default();
        let settled = Cell::new(0);
        let delivery = Delivery {
            channel: "webhook",
            unsent: Vec::new(),
            changes: &changes,
            stop: &stop,
            instruments: &instruments,
        };
        let send = |_: &Alert| {
            tries.set(tries.get() + 1);
            match tries.get() {
                1 => Err(Failure::Later("busy".to_owned())),
                2 => Ok(()),
                _ => Err(Failure::Never("no".to_owned())),
            }
        };
        delivery.run(send, |_| settled.set(settled.get() + 1));
        assert_eq!((tries.get(), settled.get()), (3, 2));
        let count = |result| instruments.notifications("webhook", result).get();
        assert_eq!((count("sent"), count("failed")), (1, 1));
    }

    #[test]
    fn a_pause_ends_with_the_service() {
        let (changes_tx, changes) = bounded(1);
        let (stop_tx, stop) = bounded::<()>(0);
        let (tried_tx, tried) = bounded(8);
        changes_tx.send(alert()).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let delivery = Delivery {
                    channel: "webhook",
                    unsent: vec![alert()],
                    changes: &changes,
                    stop: &stop,
                    instruments: &Instruments::default(),
                };
                let send = |_: &Alert| {
                    tried_tx.send(()).unwrap();
                    Err(Failure::Later("away".to_owned()))
                };
                delivery.run(send, |_| panic!("the next run sends it"));
            });
            tried.recv().unwrap();
            drop(stop_tx);
        });
        assert!(tried.len() <= 1, "it gave up at once");
    }
}

//! What is measured where it happens: histograms and counters of this process, a few atomic
//! additions each. Everything else that `/metrics` shows is read when it is asked for.

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts};

/// Seconds. A prediction takes microseconds, a batch some hundred.
const FAST_BUCKETS: [f64; 14] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025,
    0.1, 0.5, 1.0,
];
/// Seconds. An outcome may wait for its batch as long as `MODEL_BATCH_TIMEOUT` says.
const DELAY_BUCKETS: [f64; 13] =
    [0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0];
/// The classes of answers, by the first digit of the status.
pub const STATUS_CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];
/// Where alerts are sent.
pub const CHANNELS: [&str; 2] = ["webhook", "kafka"];
/// What becomes of an alert that is sent.
pub const DELIVERIES: [&str; 3] = ["sent", "failed", "dropped"];

/// What spans tell of.
pub const SPANS: [&str; 3] = ["execution", "ignored", "refused"];
/// What becomes of a verdict: it adds something, waits for its execution, was known, says other than what is
/// known, is of an evaluation that nothing is made of, or can't be read.
pub const VERDICTS: [&str; 6] = ["added", "waiting", "known", "conflict", "ignored", "refused"];

/// The instruments of a process.
pub struct Instruments {
    /// Time to answer a prediction, its body read, seconds.
    pub prediction_seconds: Histogram,
    /// Time to learn and store a micro-batch, seconds.
    pub batch_seconds: Histogram,
    /// Time from the arrival of the oldest outcome of a batch until it was learned, seconds.
    pub learning_delay_seconds: Histogram,
    http_requests: IntCounterVec,
    http_refused: IntCounterVec,
    notifications: IntCounterVec,
    otlp_spans: IntCounterVec,
    verdicts: IntCounterVec,
}

fn histogram(name: &str, help: &str, buckets: &[f64]) -> Histogram {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    Histogram::with_opts(options).expect("name and buckets are valid")
}

fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name, help), labels).expect("names are valid")
}

impl Default for Instruments {
    fn default() -> Self {
        Self {
            prediction_seconds: histogram(
                "online_learning_prediction_duration_seconds",
                "Time to answer a prediction",
                &FAST_BUCKETS,
            ),
            batch_seconds: histogram(
                "online_learning_batch_duration_seconds",
                "Time to learn and store a micro-batch",
                &FAST_BUCKETS,
            ),
            learning_delay_seconds: histogram(
                "online_learning_learning_delay_seconds",
                "Time from the arrival of the oldest outcome of a batch until it was learned",
                &DELAY_BUCKETS,
            ),
            http_requests: counters(
                "online_learning_http_requests_total",
                "Requests answered, by route and class of status",
                &["route", "status"],
            ),
            http_refused: counters(
                "online_learning_http_requests_refused_total",
                "Requests that were not allowed, by reason",
                &["reason"],
            ),
            notifications: counters(
                "online_learning_alert_notifications_total",
                "Changes of alerts that were to be sent, by channel and result",
                &["channel", "result"],
            ),
            otlp_spans: counters(
                "online_learning_otlp_spans_total",
                "Spans that came, by what they told of",
                &["kind"],
            ),
            verdicts: counters(
                "online_learning_verdicts_total",
                "Verdicts that came, by what became of them then",
                &["result"],
            ),
        }
    }
}

impl Instruments {
    /// Counts requests to `route`, which is a pattern and never a path.
    pub fn http_requests(&self, route: &'static str, status: u16) -> IntCounter {
        let class = match status {
            500.. => "5xx",
            400.. => "4xx",
            300.. => "3xx",
            _ => "2xx",
        };
        self.http_requests.with_label_values(&[route, class])
    }

    /// Counts requests that were not allowed; `reason` is one of few.
    pub fn http_refused(&self, reason: &'static str) -> IntCounter {
        self.http_refused.with_label_values(&[reason])
    }

    /// Counts what became of alerts; see [`CHANNELS`] and [`DELIVERIES`].
    pub fn notifications(&self, channel: &'static str, result: &'static str) -> IntCounter {
        self.notifications.with_label_values(&[channel, result])
    }

    /// Counts spans; `kind` is one of [`SPANS`].
    pub fn otlp_spans(&self, kind: &'static str) -> IntCounter {
        self.otlp_spans.with_label_values(&[kind])
    }

    /// Counts verdicts; `result` is one of [`VERDICTS`].
    pub fn verdicts(&self, result: &'static str) -> IntCounter {
        self.verdicts.with_label_values(&[result])
    }

    /// As they stand. What has not happened yet is shown as 0.
    pub fn collect(&self, routes: &[&'static str], reasons: &[&'static str]) -> Vec<MetricFamily> {
        for route in routes {
            for class in STATUS_CLASSES {
                self.http_requests.with_label_values(&[route, class]);
            }
        }
        for reason in reasons {
            self.http_refused(reason);
        }
        for channel in CHANNELS {
            for result in DELIVERIES {
                self.notifications(channel, result);
            }
        }
        for kind in SPANS {
            self.otlp_spans(kind);
        }
        for result in VERDICTS {
            self.verdicts(result);
        }
        let collectors: [&dyn Collector; 8] = [
            &self.prediction_seconds,
            &self.batch_seconds,
            &self.learning_delay_seconds,
            &self.http_requests,
            &self.http_refused,
            &self.notifications,
            &self.otlp_spans,
            &self.verdicts,
        ];
        collectors.into_iter().flat_map(Collector::collect).collect()
    }
}

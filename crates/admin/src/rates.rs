//! Rates from two samples.

use crate::{App, snapshot};
use hornpipe_types::ids::{ConnectionId, QueueId};
use hornpipe_types::stats::{BrokerStats, ConnectionStats, MessageStats, QueueStats};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// The numbers of a queue a rate is made of.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct QueueSample {
    pub(crate) stats: MessageStats,
    pub(crate) ready: u64,
    pub(crate) unacked: u64,
}

/// The numbers of a connection a rate is made of.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ConnectionSample {
    pub(crate) recv_oct: u64,
    pub(crate) send_oct: u64,
}

/// Everything at one moment.
#[derive(Debug)]
pub(crate) struct Sample {
    at: Instant,
    totals: BrokerStats,
    queues: HashMap<QueueId, QueueSample>,
    connections: HashMap<ConnectionId, ConnectionSample>,
    channels: HashMap<(ConnectionId, u16), MessageStats>,
}

impl Sample {
    pub(crate) fn new(
        at: Instant,
        totals: BrokerStats,
        queues: &[QueueStats],
        connections: &[ConnectionStats],
    ) -> Self {
        Self {
            at,
            totals,
            queues: queues
                .iter()
                .map(|q| {
                    let sample = QueueSample {
                        stats: q.message_stats,
                        ready: q.messages_ready,
                        unacked: q.messages_unacknowledged,
                    };
                    (q.id, sample)
                })
                .collect(),
            connections: connections
                .iter()
                .map(|c| (c.id, ConnectionSample { recv_oct: c.recv_oct, send_oct: c.send_oct }))
                .collect(),
            channels: connections
                .iter()
                .flat_map(|c| c.channels.iter().map(move |ch| ((c.id, ch.number), ch.message_stats)))
                .collect(),
        }
    }
}

/// The last two samples.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    before: Option<Sample>,
    last: Option<Sample>,
}

impl Rates {
    /// Takes in a newer sample.
    pub(crate) fn push(&mut self, sample: Sample) {
        self.before = self.last.replace(sample);
    }

    fn span<T: Copy + Default>(&self, of: impl Fn(&Sample) -> Option<T>) -> Span<T> {
        let (Some(before), Some(last)) = (&self.before, &self.last) else { return Span::default() };
        let Some(to) = of(last) else { return Span::default() };
        // What the older sample did not know began in between, so its counts began at zero.
        let from = of(before).unwrap_or_default();
        Span { from, to, seconds: last.at.saturating_duration_since(before.at).as_secs_f64() }
    }

    /// Broker-wide.
    pub(crate) fn totals(&self) -> Span<BrokerStats> {
        self.span(|s| Some(s.totals))
    }
    /// Of a queue.
    pub(crate) fn queue(&self, id: QueueId) -> Span<QueueSample> {
        self.span(|s| s.queues.get(&id).copied())
    }
    /// Of a connection.
    pub(crate) fn connection(&self, id: ConnectionId) -> Span<ConnectionSample> {
        self.span(|s| s.connections.get(&id).copied())
    }
    /// Of a channel.
    pub(crate) fn channel(&self, id: ConnectionId, number: u16) -> Span<MessageStats> {
        self.span(|s| s.channels.get(&(id, number)).copied())
    }
}

/// Two values of something and the time between; without two samples all rates are 0.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Span<T> {
    pub(crate) from: T,
    pub(crate) to: T,
    pub(crate) seconds: f64,
}

impl<T> Span<T> {
    /// Change per second, negative when it shrinks.
    pub(crate) fn rate(&self, of: impl Fn(&T) -> u64) -> f64 {
        if self.seconds <= 0.0 {
            return 0.0;
        }
        (of(&self.to) as f64 - of(&self.from) as f64) / self.seconds
    }
    /// `{"rate": …}` of it.
    pub(crate) fn details(&self, of: impl Fn(&T) -> u64) -> Value {
        json!({"rate": self.rate(of)})
    }
    /// The part `of` it.
    pub(crate) fn part<U>(&self, of: impl Fn(&T) -> U) -> Span<U> {
        Span { from: of(&self.from), to: of(&self.to), seconds: self.seconds }
    }
}

/// How to read one of the counts.
type Count = fn(&MessageStats) -> u64;
/// The counts under `message_stats` in the API's names.
const COUNTS: [(&str, &str, Count); 9] = [
    ("publish", "publish_details", |s| s.publish),
    ("deliver", "deliver_details", |s| s.deliver),
    ("deliver_no_ack", "deliver_no_ack_details", |s| s.deliver_no_ack),
    ("get", "get_details", |s| s.get),
    ("get_no_ack", "get_no_ack_details", |s| s.get_no_ack),
    ("deliver_get", "deliver_get_details", MessageStats::deliver_get),
    ("redeliver", "redeliver_details", |s| s.redeliver),
    ("ack", "ack_details", |s| s.ack),
    ("get_empty", "get_empty_details", |s| s.get_empty),
];
/// Those that only channels and the broker as a whole have.
const PUBLISHER_COUNTS: [(&str, &str, Count); 3] = [
    ("confirm", "confirm_details", |s| s.confirm),
    ("return_unroutable", "return_unroutable_details", |s| s.return_unroutable),
    ("drop_unroutable", "drop_unroutable_details", |s| s.drop_unroutable),
];

/// The `message_stats` of a queue: live counts, sampled rates; `None` until something happened.
pub(crate) fn queue_message_stats(now: &MessageStats, span: Span<MessageStats>) -> Option<Value> {
    counts(now, span, &COUNTS)
}

/// The `message_stats` of a channel or the broker; `None` until something happened.
pub(crate) fn publisher_message_stats(now: &MessageStats, span: Span<MessageStats>) -> Option<Value> {
    let all: Vec<_> = COUNTS.into_iter().chain(PUBLISHER_COUNTS).collect();
    counts(now, span, &all)
}

fn counts(now: &MessageStats, span: Span<MessageStats>, names: &[(&str, &str, Count)]) -> Option<Value> {
    if names.iter().all(|(_, _, of)| of(now) == 0) {
        return None;
    }
    let mut out = Map::new();
    for (name, details, of) in names {
        out.insert((*name).to_owned(), of(now).into());
        out.insert((*details).to_owned(), span.details(of));
    }
    Some(Value::Object(out))
}

/// Takes a sample now; nothing changes when the broker does not answer.
pub(crate) async fn sample_once(app: &App) {
    let (Ok(totals), Ok(queues), Ok(connections)) =
        (snapshot::totals(app).await, snapshot::queues(app, None).await, snapshot::connections(app).await)
    else {
        return;
    };
    let sample = Sample::new(Instant::now(), *totals, &queues, &connections);
    app.rates().push(sample);
}

/// Takes samples for ever.
pub(crate) async fn sample(app: Arc<App>) {
    // An interval of zero would make tokio panic.
    let mut ticks = tokio::time::interval(app.config.sample_interval.max(std::time::Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // In a task of its own: a panic costs one sample, not all that would follow.
        let app = app.clone();
        if let Err(error) = tokio::spawn(async move { sample_once(&app).await }).await {
            tracing::error!(%error, "a sample for rates failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn sample(at: Instant, publish: u64) -> Sample {
        let stats = MessageStats { publish, ..MessageStats::default() };
        Sample {
            at,
            totals: BrokerStats { message_stats: stats, ..BrokerStats::default() },
            queues: HashMap::from([(QueueId(1), QueueSample { stats, ready: publish, unacked: 0 })]),
            connections: HashMap::new(),
            channels: HashMap::new(),
        }
    }

    #[test]
    fn a_rate_is_the_difference_over_the_time_between() {
        let zero = Instant::now();
        let mut rates = Rates::default();
        rates.push(sample(zero, 10));
        assert_eq!(rates.queue(QueueId(1)).rate(|q| q.stats.publish), 0.0, "one sample is no rate");
        rates.push(sample(zero + Duration::from_secs(4), 50));
        assert_eq!(rates.queue(QueueId(1)).rate(|q| q.stats.publish), 10.0);
        assert_eq!(rates.totals().rate(|t| t.message_stats.publish), 10.0);
        rates.push(sample(zero + Duration::from_secs(6), 45));
        assert_eq!(rates.queue(QueueId(1)).rate(|q| q.ready), -2.5, "a queue that drains");
        assert_eq!(rates.queue(QueueId(2)).rate(|q| q.ready), 0.0, "an unknown queue");
    }

    #[test]
    fn what_began_between_the_samples_counts_from_zero() {
        let zero = Instant::now();
        let mut rates = Rates::default();
        let mut first = sample(zero, 0);
        first.queues.clear();
        rates.push(first);
        rates.push(sample(zero + Duration::from_secs(5), 50));
        assert_eq!(rates.queue(QueueId(1)).rate(|q| q.stats.publish), 10.0);
    }

    #[test]
    fn message_stats_are_absent_until_something_happened() {
        let mut stats = MessageStats::default();
        assert_eq!(queue_message_stats(&stats, Span::default()), None);
        stats.get_empty = 1;
        let value = queue_message_stats(&stats, Span::default()).unwrap();
        assert_eq!(value["publish"], 0);
        assert!(value["publish_details"]["rate"].is_f64(), "rates are floats even when 0");
    }
}

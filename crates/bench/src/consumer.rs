//! Consuming threads: frames scanned in the read buffer, nothing allocated per message.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::batch::{SEQUENCE_BITS, filler};
use crate::client::{BIG_BUFFER, Client, Fill, Url, consume, frame_at, qos, refusal};
use crate::histogram::Histogram;
use crate::load::nanos;
use crate::plan::{Plan, Route};
use crate::wire::{self, BODY, HEADER, METHOD, Out, be16, be64};

/// A consumer looks that often whether the run is over.
const GLANCE: Duration = Duration::from_millis(20);

/// What the run's supervisor sees of a consumer.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) received: AtomicU64,
    /// When the last message was read, nanoseconds.
    pub(crate) last: AtomicU64,
    /// Set when nothing more is to come.
    pub(crate) stop: AtomicBool,
    /// Set when the consumer gave up.
    pub(crate) failed: AtomicBool,
}

/// A connection with a consumer.
#[derive(Debug)]
pub(crate) struct Consumer {
    client: Client,
    scanner: Scanner,
}

/// State of the scan, apart from the bytes.
#[derive(Debug)]
pub(crate) struct Scanner {
    sizes: [usize; 2],
    ack_every: Option<u64>,
    /// Latencies are counted for messages due at or after this time; `None`: not at all.
    measure_from: Option<u64>,
    /// Every message of a publisher must come, so sequence numbers have no gaps.
    gapless: bool,
    /// Answers to basic.consume that are still to come.
    subscribing: usize,
    /// Publishing channels.
    sources: usize,
    /// Several consumers share this connection: each has an order of its own.
    shared: bool,
    /// Whose delivery is under way.
    subscription: usize,
    /// Next expected sequence number by consumer, where they share, and publishing channel.
    expected: Vec<u64>,
    pub(crate) received: u64,
    unacked: u64,
    tag: u64,
    /// Tag of the last message whose body is complete.
    whole: u64,
    /// Body bytes still to come for the message under way.
    missing: usize,
    at_start_of_body: bool,
    check_body: bool,
    latencies: Histogram,
    pub(crate) acks: Out,
}

impl Consumer {
    /// Connects and subscribes.
    pub(crate) fn open(url: &Url, plan: &Plan, index: usize) -> Result<Self> {
        let mut client = Client::open(url, BIG_BUFFER)?;
        if plan.ack.is_some() {
            client.call(wire::BASIC_QOS, wire::BASIC_QOS_OK, |args| qos(args, plan.prefetch))?;
        }
        let mut out = Out::default();
        let mut wanted = 0;
        for queue in plan.queues_of(index) {
            for _ in 0..plan.subscriptions {
                let tag = format!("c{wanted}");
                out.method(1, wire::BASIC_CONSUME, |args| consume(args, &queue, &tag, plan.ack.is_none()));
                wanted += 1;
            }
        }
        // Deliveries of the first come between the answers to the others, so they are left to the scanner.
        client.write(&out.0)?;
        let scanner = Scanner { subscribing: wanted, ..Scanner::new(plan) };
        let mut consumer = Self { client, scanner };
        while consumer.scanner.subscribing > 0 {
            match consumer.client.fill()? {
                Fill::Data => {}
                Fill::Idle => bail!("no answer to basic.consume within the timeout"),
                Fill::End => bail!("the broker closed the socket"),
            }
            let used = consumer.scanner.scan(consumer.client.bytes(), nanos())?;
            consumer.client.consume(used);
            consumer.write_acks()?;
        }
        Ok(consumer)
    }

    /// Counts latencies of messages due at that time (nanoseconds) or later.
    pub(crate) fn measuring_from(mut self, nanos: Option<u64>) -> Self {
        self.scanner.measure_from = nanos;
        self
    }

    /// Consumes until told to stop; returns the latencies.
    pub(crate) fn run(mut self, progress: &Progress) -> Result<Histogram> {
        let outcome = self.receive(progress);
        progress.failed.store(outcome.is_err(), Ordering::Release);
        outcome?;
        self.client.close()?;
        Ok(self.scanner.latencies)
    }

    fn receive(&mut self, progress: &Progress) -> Result<()> {
        self.client.stream().set_read_timeout(Some(GLANCE))?;
        // Deliveries may have come along with consume-ok.
        let mut fill = Fill::Data;
        loop {
            match fill {
                Fill::Data => {
                    let now = nanos();
                    let before = self.scanner.received;
                    let used = self.scanner.scan(self.client.bytes(), now)?;
                    self.client.consume(used);
                    if self.scanner.received > before {
                        progress.last.store(now, Ordering::Relaxed);
                        progress.received.store(self.scanner.received, Ordering::Release);
                    }
                    // A run is stopped once everything has come; only a sink goes on sending.
                    if progress.stop.load(Ordering::Relaxed) {
                        self.scanner.ack_rest();
                        self.write_acks()?;
                        return Ok(());
                    }
                }
                Fill::Idle => {
                    self.scanner.ack_rest();
                    if progress.stop.load(Ordering::Acquire) {
                        self.write_acks()?;
                        return Ok(());
                    }
                }
                Fill::End => bail!("the broker closed the socket"),
            }
            self.write_acks()?;
            fill = self.client.fill()?;
        }
    }

    fn write_acks(&mut self) -> Result<()> {
        if !self.scanner.acks.0.is_empty() {
            self.client.write(&self.scanner.acks.0)?;
            self.scanner.acks.0.clear();
        }
        Ok(())
    }
}

impl Scanner {
    pub(crate) fn new(plan: &Plan) -> Self {
        let alone = plan.consumers == plan.queues;
        let subscriptions = plan.queues_of(0).count() * plan.subscriptions;
        let (sources, shared) = (plan.publishers * plan.channels, subscriptions > 1);
        Self {
            sizes: [plan.size(0), plan.size(1)],
            ack_every: plan.ack,
            measure_from: None,
            gapless: alone && !shared && plan.spread == 0 && !matches!(plan.route, Route::Topic(_)),
            subscribing: 0,
            sources,
            shared,
            subscription: 0,
            expected: vec![0; sources * subscriptions],
            received: 0,
            unacked: 0,
            tag: 0,
            whole: 0,
            missing: 0,
            at_start_of_body: false,
            check_body: false,
            latencies: Histogram::default(),
            acks: Out::default(),
        }
    }

    /// Scans all whole frames; returns the bytes used.
    pub(crate) fn scan(&mut self, bytes: &[u8], now: u64) -> Result<usize> {
        // Filler bytes are compared once per read: enough to see a broker that mixes bodies up.
        self.check_body = true;
        let mut used = 0;
        while let Some(frame) = frame_at(&bytes[used..])? {
            match frame.kind {
                METHOD => self.method(frame.payload)?,
                HEADER => self.header(frame.payload)?,
                BODY => self.content(frame.payload, now)?,
                other => bail!("frame of type {other}"),
            }
            used += frame.total;
        }
        Ok(used)
    }

    fn method(&mut self, payload: &[u8]) -> Result<()> {
        match (be16(payload, 0), be16(payload, 2)) {
            wire::BASIC_DELIVER => {
                let after = 5 + usize::from(payload[4]);
                let tag = be64(payload, after);
                if tag != self.tag + 1 {
                    bail!("delivery tag {tag} after {}", self.tag);
                }
                self.tag = tag;
                if payload[after + 8] != 0 {
                    bail!("delivery {tag} is marked redelivered");
                }
                if self.shared {
                    let digits = std::str::from_utf8(&payload[6..after]).unwrap_or_default();
                    self.subscription = digits.parse().unwrap_or(usize::MAX);
                }
                Ok(())
            }
            wire::BASIC_CONSUME_OK if self.subscribing > 0 => {
                self.subscribing -= 1;
                Ok(())
            }
            id @ (wire::CONNECTION_CLOSE | wire::CHANNEL_CLOSE) => Err(refusal(id, payload)),
            id => bail!("unexpected method {id:?} on a consuming channel"),
        }
    }

    fn header(&mut self, payload: &[u8]) -> Result<()> {
        let size = be64(payload, 4) as usize;
        if !self.sizes.contains(&size) {
            bail!("body of {size} bytes, {:?} were published", self.sizes);
        }
        self.missing = size;
        self.at_start_of_body = true;
        if self.missing == 0 {
            self.complete();
        }
        Ok(())
    }

    #[inline]
    fn content(&mut self, payload: &[u8], now: u64) -> Result<()> {
        if payload.len() > self.missing {
            bail!("{} body bytes where {} were missing", payload.len(), self.missing);
        }
        if self.at_start_of_body {
            self.at_start_of_body = false;
            if payload.len() >= 8 {
                self.sequence(be64(payload, 0))?;
            }
            if let (Some(from), true) = (self.measure_from, payload.len() >= 16) {
                let due = be64(payload, 8);
                if due >= from {
                    self.latencies.record(now.saturating_sub(due));
                }
            }
            if std::mem::take(&mut self.check_body) {
                let wrong = payload.iter().enumerate().skip(16).find(|(at, byte)| **byte != filler(*at));
                if let Some((at, byte)) = wrong {
                    bail!("body byte {at} is {byte}, {} was published", filler(at));
                }
            }
        }
        self.missing -= payload.len();
        if self.missing == 0 {
            self.complete();
        }
        Ok(())
    }

    /// A channel's messages come in the order they were published [spec §4.7].
    #[inline]
    fn sequence(&mut self, word: u64) -> Result<()> {
        let (channel, sequence) = ((word >> SEQUENCE_BITS) as usize, word & ((1 << SEQUENCE_BITS) - 1));
        let place = if self.shared { self.subscription * self.sources + channel } else { channel };
        let Some(expected) = self.expected.get_mut(place) else { bail!("message of channel {channel}") };
        if sequence < *expected || (self.gapless && sequence > *expected) {
            bail!("message {sequence} of channel {channel} where {expected} was due");
        }
        *expected = sequence + 1;
        Ok(())
    }

    #[inline]
    fn complete(&mut self) {
        self.received += 1;
        self.whole = self.tag;
        if let Some(every) = self.ack_every {
            self.unacked += 1;
            if self.unacked == every {
                self.ack_rest();
            }
        }
    }

    pub(crate) fn ack_rest(&mut self) {
        if self.ack_every.is_some() && self.unacked > 0 {
            let (tag, multiple) = (self.whole, u8::from(self.unacked > 1));
            self.acks.method(1, wire::BASIC_ACK, |args| {
                args.u64(tag);
                args.u8(multiple);
            });
            self.unacked = 0;
        }
    }
}

//! Consuming threads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::client::{BIG_BUFFER, Client, Fill, Url, consume, qos};
use crate::histogram::Histogram;
use crate::load::nanos;
use crate::plan::Plan;
use crate::scanner::Scanner;
use crate::wire::{self, Out};

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

/// What a consumer can tell in the end.
#[derive(Debug, Default)]
pub(crate) struct Consumed {
    pub(crate) latencies: Histogram,
    /// Sum of the numbers of its messages, where others took from the same queues.
    pub(crate) numbers: u64,
}

/// A connection with a consumer.
#[derive(Debug)]
pub(crate) struct Consumer {
    client: Client,
    scanner: Scanner,
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
        for queue in plan.queue_numbers_of(index).map(|number| plan.queue(number)) {
            for _ in 0..plan.subscriptions {
                let tag = format!("c{wanted}");
                out.method(1, wire::BASIC_CONSUME, |args| consume(args, &queue, &tag, plan.ack.is_none()));
                wanted += 1;
            }
        }
        // Deliveries of the first come between the answers to the others, so they are left to the scanner.
        client.write(&out.0)?;
        let scanner = Scanner::new(plan, index).subscribing(wanted);
        let mut consumer = Self { client, scanner };
        while consumer.scanner.is_subscribing() {
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
        self.scanner.measure_from(nanos);
        self
    }

    /// Consumes until told to stop.
    pub(crate) fn run(mut self, progress: &Progress) -> Result<Consumed> {
        let outcome = self.receive(progress);
        progress.failed.store(outcome.is_err(), Ordering::Release);
        outcome?;
        self.client.close()?;
        let numbers = self.scanner.numbers();
        Ok(Consumed { latencies: self.scanner.into_latencies(), numbers })
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

//! The store by itself: what a confirm can't be faster than.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use hornpipe_store::{Store, StoreConfig};
use hornpipe_types::ids::{CommitSeq, EnqueueId, QueueId};
use hornpipe_types::message::{BatchBuilder, MessageMeta, Span};
use hornpipe_types::op::{Enqueue, Group, RunMeta, StoreOp, Target};

use crate::histogram::Histogram;
use crate::load::nanos;
use crate::process::sharpen_sleep;
use crate::report::Outcome;

/// Writes of a measurement; the first tenth warms up.
const WRITES: u64 = 1000;

/// Messages of that size into a store of its own, each an insert into sled, a flush and an fdatasync: at that rate, as a load has
/// them, and one after another. A disk that rests in between may take longer. Returns the median at the rate, milliseconds.
pub(crate) fn store(body: usize, rate: f64, outcome: &mut Outcome) -> Result<f64> {
    // A slow schedule gets as many writes as fit into a second, but enough for a median.
    let writes = WRITES.min(rate as u64).max(50);
    let paced = measure(body, writes, Some(1e9 / rate))?;
    outcome.add("store alone p50, ms", paced);
    outcome.add("store alone, one after another p50, ms", measure(body, WRITES, None)?);
    Ok(paced)
}

/// Median of so many writes, milliseconds; `interval` in nanoseconds.
fn measure(body: usize, writes: u64, interval: Option<f64>) -> Result<f64> {
    sharpen_sleep();
    let directory = tempfile::Builder::new().prefix("bench-").tempdir()?;
    let mut store = Store::open(directory.path(), StoreConfig::default())?;
    store.recover(&mut |_| {})?;
    let header = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 2];
    let body: Vec<u8> = (0..body).map(crate::batch::filler).collect();
    let mut latencies = Histogram::default();
    let start = nanos();
    for number in 1..=writes {
        let mut builder = BatchBuilder::default();
        let route = builder.push_route("", "queue");
        builder.push_message(&header, [&body[..]], MessageMeta { route, flags: 1, ..MessageMeta::default() }, 0);
        let enqueue = Enqueue {
            id: EnqueueId(number),
            targets: vec![Target { queue: QueueId(1), first_seq: number }],
            meta: RunMeta::default(),
            span: Span::whole(builder.finish()),
            more: Vec::new(),
        };
        let group = Group { upto: CommitSeq(number), ops: vec![StoreOp::Enqueue(enqueue)], ..Group::default() };
        let due = interval.map_or(0, |interval| start + (number as f64 * interval) as u64);
        thread::sleep(Duration::from_nanos(due.saturating_sub(nanos())));
        let begin = nanos();
        store.commit(&group)?;
        store.sync()?;
        if number > writes / 10 {
            latencies.record(nanos() - begin);
        }
    }
    store.close()?;
    Ok(latencies.quantile_ms(0.5))
}

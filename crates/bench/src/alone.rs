//! The disk without a broker: what a confirm is compared with.

use std::fs::File;
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

/// Medians of what a confirm is compared with, milliseconds.
pub(crate) struct Alone {
    /// An insert into sled, a flush, an fdatasync.
    pub(crate) sled: f64,
    /// The same by the store, as the broker does it.
    pub(crate) store: f64,
}

/// Writes messages of that size alone, by sled as it comes and by a store: at that rate, as a load has them, and one after
/// another. A disk that rests in between may take longer.
pub(crate) fn writes(body: usize, rate: f64, outcome: &mut Outcome) -> Result<Alone> {
    // A slow schedule gets as many writes as fit into a second, but enough for a median.
    let writes = WRITES.min(rate as u64).max(50);
    let interval = Some(1e9 / rate);
    // Before a store tells sled's threads where to run.
    let by_sled = sled_alone(body, writes, interval)?;
    let by_store = store_alone(body, writes, interval)?;
    let alone = Alone { sled: by_sled.quantile_ms(0.5), store: by_store.quantile_ms(0.5) };
    outcome.add("sled alone p50, ms", alone.sled);
    outcome.add("sled alone p99, ms", by_sled.quantile_ms(0.99));
    outcome.add("store alone p50, ms", alone.store);
    outcome.add("store alone p99, ms", by_store.quantile_ms(0.99));
    outcome.add("store alone, one after another p50, ms", store_alone(body, WRITES, None)?.quantile_ms(0.5));
    Ok(alone)
}

/// So many times `write`, `interval` nanoseconds apart, which records how long it took; the first tenth is forgotten.
fn measure(
    writes: u64,
    interval: Option<f64>,
    mut write: impl FnMut(u64, &mut Histogram) -> Result<()>,
) -> Result<Histogram> {
    sharpen_sleep();
    let mut latencies = Histogram::default();
    let start = nanos();
    for number in 1..=writes {
        let due = interval.map_or(0, |interval| start + (number as f64 * interval) as u64);
        thread::sleep(Duration::from_nanos(due.saturating_sub(nanos())));
        write(number, &mut latencies)?;
        if number == writes / 10 {
            latencies = Histogram::default();
        }
    }
    Ok(latencies)
}

fn sled_alone(body: usize, writes: u64, interval: Option<f64>) -> Result<Histogram> {
    let directory = tempfile::Builder::new().prefix("bench-").tempdir()?;
    let db = sled::Config::new().path(directory.path()).flush_every_ms(None).segment_size(8 << 20).open()?;
    let file = File::options().read(true).write(true).open(directory.path().join("db"))?;
    let body: Vec<u8> = (0..body).map(crate::batch::filler).collect();
    measure(writes, interval, |number, latencies| {
        let begin = nanos();
        db.insert(number.to_be_bytes(), &body[..])?;
        db.flush()?;
        file.sync_data()?;
        latencies.record(nanos() - begin);
        Ok(())
    })
}

fn store_alone(body: usize, writes: u64, interval: Option<f64>) -> Result<Histogram> {
    let directory = tempfile::Builder::new().prefix("bench-").tempdir()?;
    let mut store = Store::open(directory.path(), StoreConfig::default())?;
    store.recover(&mut |_| {})?;
    let header = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 2];
    let body: Vec<u8> = (0..body).map(crate::batch::filler).collect();
    let latencies = measure(writes, interval, |number, latencies| {
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
        let begin = nanos();
        store.commit(&group)?;
        store.sync()?;
        latencies.record(nanos() - begin);
        // As the broker does before the next group.
        store.tend()?;
        Ok(())
    })?;
    store.close()?;
    Ok(latencies)
}

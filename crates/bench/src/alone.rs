//! The store by itself: what a confirm can't be faster than.

use anyhow::Result;
use hornpipe_store::{Store, StoreConfig};
use hornpipe_types::ids::{CommitSeq, EnqueueId, QueueId};
use hornpipe_types::message::{BatchBuilder, MessageMeta, Span};
use hornpipe_types::op::{Enqueue, Group, RunMeta, StoreOp, Target};

use crate::histogram::Histogram;
use crate::load::nanos;
use crate::report::Outcome;

/// Writes of the measurement; the first tenth warms up.
const WRITES: u64 = 1000;

/// One message of that size after another into a store of its own: each an insert into sled, a flush and an fdatasync.
pub(crate) fn store(body: usize, outcome: &mut Outcome) -> Result<f64> {
    let directory = tempfile::Builder::new().prefix("bench-").tempdir()?;
    let mut store = Store::open(directory.path(), StoreConfig::default())?;
    store.recover(&mut |_| {})?;
    let header = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 2];
    let body: Vec<u8> = (0..body).map(crate::batch::filler).collect();
    let mut latencies = Histogram::default();
    for number in 1..=WRITES {
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
        if number > WRITES / 10 {
            latencies.record(nanos() - begin);
        }
    }
    store.close()?;
    let p50 = latencies.quantile_ms(0.5);
    outcome.add("store alone p50, ms", p50);
    Ok(p50)
}

//! Groups per second and CPU per message of the store on a disk: `store_bench DIR [SECONDS]`.
//!
//! One message is one enqueue and, some groups later, one settle; records and files without anything live are removed, as
//! the broker does it.

use hornpipe_store::{Store, StoreConfig};
use hornpipe_types::ids::{CommitSeq, EnqueueId, QueueId};
use hornpipe_types::message::{BatchBuilder, MessageMeta, Span};
use hornpipe_types::op::{Enqueue, Group, Place, RunMeta, StoreOp, Target};
use hornpipe_types::range::SeqRange;
use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

type Failure = Box<dyn std::error::Error>;

/// Seconds of CPU this process has used.
fn cpu() -> Result<f64, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / 100.0)
}

fn resident_mib() -> Result<u64, Failure> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    Ok(statm.split_whitespace().nth(1).and_then(|p| p.parse::<u64>().ok()).unwrap_or(0) * 4 / 1024)
}

fn run(dir: &Path, messages: u32, size: usize, for_time: Duration) -> Result<String, Failure> {
    let mut store = Store::open(dir, StoreConfig::default())?;
    store.recover(&mut |_| {})?;
    let mut b = BatchBuilder::default();
    let route = b.push_route("", "queue");
    let header = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 2];
    let mut x = 88_172_645_463_325_252_u64;
    for _ in 0..messages {
        let body: Vec<u8> = (0..size)
            .map(|_| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                x as u8
            })
            .collect();
        b.push_message(&header, [&body[..]], MessageMeta { route, flags: 1, ..MessageMeta::default() }, 0);
    }
    let batch = b.finish();
    let mut live: VecDeque<(u64, Place)> = VecDeque::new();
    let (mut seq, mut n, mut latency) = (1u64, 0u64, Vec::new());
    let mut gone: Vec<Place> = Vec::new();
    let (start, cpu_start) = (Instant::now(), cpu()?);
    while start.elapsed() < for_time {
        n += 1;
        let targets = vec![Target { queue: QueueId(1), first_seq: seq }];
        let span = Span::whole(batch.clone());
        let mut g = Group { upto: CommitSeq(n), ..Group::default() };
        g.ops.push(StoreOp::Enqueue(Enqueue {
            id: EnqueueId(n),
            targets,
            meta: RunMeta::default(),
            span,
            more: Vec::new(),
        }));
        // What the groups before have settled goes now.
        for place in gone.drain(..) {
            g.remove_records.push(place.lsn);
            if let Some(body) = place.body
                && live.front().and_then(|l| l.1.body).is_some_and(|b| b.file > body.file)
            {
                g.remove_files.push(body.file);
            }
        }
        if live.len() as u64 * u64::from(messages) > 10_000
            && let Some((first, place)) = live.pop_front()
        {
            g.ops.push(StoreOp::Settled { queue: QueueId(1), ranges: vec![SeqRange::dense(first, messages)] });
            gone.push(place);
        }
        let t = Instant::now();
        store.commit(&g)?;
        for c in store.sync()? {
            for (_, place) in c.places {
                live.push_back((seq, place));
            }
        }
        latency.push(t.elapsed());
        seq += u64::from(messages);
    }
    let (wall, used) = (start.elapsed().as_secs_f64(), cpu()? - cpu_start);
    latency.sort_unstable();
    let at = |p: usize| latency.get(latency.len() * p / 100).copied().unwrap_or_default();
    let total = (n * u64::from(messages)) as f64;
    let hornpipe_store::Usage { map_bytes: map, body_bytes: bodies, .. } = store.usage();
    store.close()?;
    Ok(format!(
        "{messages:>5} x {size:>5} B: {:>8.0} groups/s {:>9.0} msg/s, CPU {:>7.2} us/msg, p50 {:?} p99 {:?}, RSS {} MiB, map {} MiB, bodies {} MiB",
        n as f64 / wall,
        total / wall,
        used * 1e6 / total,
        at(50),
        at(99),
        resident_mib()?,
        map >> 20,
        bodies >> 20,
    ))
}

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("usage: store_bench DIR [SECONDS]")?;
    let seconds = args.next().and_then(|s| s.parse().ok()).unwrap_or(3);
    for (i, (messages, size)) in
        [(256, 1024), (256, 100), (2048, 1024), (2048, 100), (16, 1024), (1, 1024)].into_iter().enumerate()
    {
        let line = run(&Path::new(&dir).join(format!("case-{i}")), messages, size, Duration::from_secs(seconds))?;
        #[allow(clippy::print_stdout)]
        {
            println!("{line}");
        }
    }
    Ok(())
}

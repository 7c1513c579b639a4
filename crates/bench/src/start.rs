//! How long a start takes: on nothing, and on a long queue.

use anyhow::{Result, bail};

use crate::broker::{Broker, Startable};
use crate::client::{Client, SMALL_BUFFER};
use crate::load;
use crate::process::Memory;
use crate::report::Outcome;

/// A fresh start, up to the first completed login.
pub(crate) fn fresh(what: &Startable) -> Result<Outcome> {
    let mut broker = Broker::prepare(what)?;
    let (target, took) = broker.start()?;
    let mut outcome = Outcome::default();
    outcome.add("start, s", took.as_secs_f64());
    memory(&mut outcome, target.pid);
    broker.stop()?;
    Ok(outcome)
}

/// An orderly stop and a start with a long queue, up to the moment a client sees its whole length.
pub(crate) fn with_backlog(what: &Startable, count: u64, body: usize) -> Result<Outcome> {
    let mut broker = Broker::prepare(what)?;
    let (target, _) = broker.start()?;
    load::fill(&target, count, body)?;
    let mut outcome = Outcome::default();
    if let Some(pid) = target.pid {
        outcome.add("RSS before, MiB", Memory::of_tree(pid).rss as f64 / 1048576.0);
    }
    let begin = std::time::Instant::now();
    broker.stop()?;
    outcome.add("stop, s", begin.elapsed().as_secs_f64());
    let begin = std::time::Instant::now();
    let (target, _) = broker.start()?;
    let mut client = Client::open(&target.url, SMALL_BUFFER)?;
    let waiting = u64::from(client.queue_length("bench.0")?);
    outcome.add("restart, s", begin.elapsed().as_secs_f64());
    memory(&mut outcome, target.pid);
    client.close()?;
    broker.stop()?;
    if waiting != count {
        bail!("{waiting} messages after the restart, {count} were confirmed before");
    }
    Ok(outcome)
}

fn memory(outcome: &mut Outcome, pid: Option<u32>) {
    if let Some(pid) = pid {
        outcome.add("RSS after, MiB", Memory::of_tree(pid).rss as f64 / 1048576.0);
    }
}

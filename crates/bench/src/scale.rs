//! Many of something: idle connections, queues, connections that come and go.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use crate::broker::Target;
use crate::client::{Client, SMALL_BUFFER, queue_declare, queue_delete};
use crate::process::{Memory, Sample};
use crate::report::Outcome;
use crate::wire::{self, Out};

/// Threads that open connections side by side.
const OPENERS: usize = 2;
/// Read buffer of a connection that stays idle.
const IDLE_BUFFER: usize = 2048;
/// Declares written before their answers are read.
const PIPELINE: usize = 500;

/// Opens so many connections with a channel each and leaves them idle.
pub(crate) fn idle_connections(target: &Target, count: usize) -> Result<Outcome> {
    let before = Sample::take(target.pid);
    let memory_before = target.pid.map(Memory::of_tree);
    let begin = Instant::now();
    let clients = in_threads(count, |share| {
        (0..share).map(|_| Client::open(&target.url, IDLE_BUFFER)).collect::<Result<Vec<_>>>()
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    let used = Sample::take(target.pid).since(before);
    let mut outcome = Outcome::default();
    outcome.add("opened/s", count as f64 / seconds);
    if let (Some(pid), Some(memory_before)) = (target.pid, memory_before) {
        outcome.add("broker CPU ms per connection", used.broker * 1e3 / count as f64);
        // Buffers of the handshake may go back a moment later; what stays is what counts.
        thread::sleep(Duration::from_millis(500));
        let memory = Memory::of_tree(pid);
        outcome.add("RSS per connection, KiB", grown(memory.rss, memory_before.rss, count));
        outcome.add("PSS per connection, KiB", grown(memory.pss, memory_before.pss, count));
        let idle = Sample::take(target.pid);
        thread::sleep(Duration::from_secs(1));
        outcome.add("CPU while idle, % of a core", Sample::take(target.pid).since(idle).broker * 100.0);
    }
    for client in clients {
        client.close()?;
    }
    Ok(outcome)
}

fn grown(after: u64, before: u64, count: usize) -> f64 {
    after.saturating_sub(before) as f64 / 1024.0 / count as f64
}

/// Declares so many durable queues on one channel, pipelined, and deletes them the same way.
pub(crate) fn many_queues(target: &Target, count: usize) -> Result<Outcome> {
    let mut client = Client::open(&target.url, SMALL_BUFFER)?;
    let names: Vec<String> = (0..count).map(|index| format!("bench.many.{index}")).collect();
    let memory_before = target.pid.map(Memory::of_tree);
    let before = Sample::take(target.pid);
    let begin = Instant::now();
    pipelined(&mut client, &names, |out, name| {
        out.method(1, wire::QUEUE_DECLARE, |args| queue_declare(args, name, None, false));
        wire::QUEUE_DECLARE_OK
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    let used = Sample::take(target.pid).since(before);
    let mut outcome = Outcome::default();
    outcome.add("declared/s", count as f64 / seconds);
    if let (Some(pid), Some(memory_before)) = (target.pid, memory_before) {
        outcome.add("broker CPU ms per declare", used.broker * 1e3 / count as f64);
        let memory = Memory::of_tree(pid);
        outcome.add("RSS per queue, KiB", grown(memory.rss, memory_before.rss, count));
    }
    let begin = Instant::now();
    pipelined(&mut client, &names, |out, name| {
        out.method(1, wire::QUEUE_DELETE, |args| queue_delete(args, name));
        wire::QUEUE_DELETE_OK
    })?;
    outcome.add("deleted/s", count as f64 / begin.elapsed().as_secs_f64());
    client.close()?;
    Ok(outcome)
}

/// Makes a request for each name without waiting for the answer to the one before; returns the answers.
pub(crate) fn pipelined(
    client: &mut Client,
    names: &[String],
    request: impl Fn(&mut Out, &str) -> wire::MethodId,
) -> Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    for chunk in names.chunks(PIPELINE) {
        let mut out = Out::default();
        let answers: Vec<_> = chunk.iter().map(|name| request(&mut out, name)).collect();
        client.write(&out.0)?;
        for answer in answers {
            all.push(client.expect(answer)?);
        }
    }
    Ok(all)
}

/// Shares a count among the openers and joins what they made.
fn in_threads<T: Send>(count: usize, work: impl Fn(usize) -> Result<Vec<T>> + Sync) -> Result<Vec<T>> {
    if count == 0 {
        bail!("nothing to open");
    }
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..OPENERS)
            .map(|index| {
                let share = count / OPENERS + usize::from(index < count % OPENERS);
                scope.spawn(move || work(share))
            })
            .collect();
        let mut all = Vec::new();
        for thread in threads {
            all.extend(thread.join().map_err(|_| anyhow!("a thread panicked"))??);
        }
        Ok(all)
    })
}

//! Runs a plan against one broker: topology, threads, figures, and whether every message came.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::batch::topic_binding;
use crate::broker::Target;
use crate::client::{Client, SMALL_BUFFER, queue_declare, queue_delete};
use crate::consumer::{Consumed, Consumer, Progress};
use crate::histogram::Histogram;
use crate::plan::{Amount, Plan, Route};
use crate::process::{Memory, Sample};
use crate::publisher::{Published, Publisher, WARM_UP};
use crate::report::Outcome;
use crate::scale::pipelined;
use crate::wire;

/// A run is given up when nothing has arrived for so long.
const STALL: Duration = Duration::from_secs(20);
/// Time for all threads to reach their start.
const HEAD_START: u64 = 20_000_000;

/// Nanoseconds since this process first asked.
pub(crate) fn nanos() -> u64 {
    static BASE: OnceLock<Instant> = OnceLock::new();
    BASE.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// Runs a plan and checks that every message came once, in order.
pub(crate) fn run(target: &Target, plan: &Plan) -> Result<Outcome> {
    let mut admin = Client::open(&target.url, SMALL_BUFFER)?;
    set_up(&mut admin, plan)?;
    let outcome = if plan.drain { fill_and_drain(target, plan, &mut admin) } else { flow(target, plan) }?;
    let left = tear_down(&mut admin, plan)?;
    admin.close()?;
    if left > 0 && plan.consumers > 0 {
        bail!("{left} messages were still in the queues after all had been consumed and acknowledged");
    }
    Ok(outcome)
}

fn set_up(admin: &mut Client, plan: &Plan) -> Result<()> {
    if plan.keep {
        return Ok(());
    }
    tear_down_queues(admin, plan)?;
    pipelined(admin, &names(plan), |out, name| {
        out.method(1, wire::QUEUE_DECLARE, |args| queue_declare(args, name, plan.queue_type.as_deref(), false));
        wire::QUEUE_DECLARE_OK
    })?;
    match plan.route {
        Route::Queue => {}
        Route::Fanout => {
            admin.declare_exchange(plan.exchange(), "fanout")?;
            for index in 0..plan.queues {
                admin.bind(&plan.queue(index), plan.exchange(), &[String::new()])?;
            }
        }
        Route::Topic(bindings) => {
            admin.declare_exchange(plan.exchange(), "topic")?;
            for queue in 0..plan.queues {
                let keys: Vec<String> = (queue..bindings).step_by(plan.queues).map(topic_binding).collect();
                admin.bind(&plan.queue(queue), plan.exchange(), &keys)?;
            }
        }
    }
    Ok(())
}

fn names(plan: &Plan) -> Vec<String> {
    (0..plan.queues).map(|index| plan.queue(index)).collect()
}

fn tear_down_queues(admin: &mut Client, plan: &Plan) -> Result<u64> {
    let answers = pipelined(admin, &names(plan), |out, name| {
        out.method(1, wire::QUEUE_DELETE, |args| queue_delete(args, name));
        wire::QUEUE_DELETE_OK
    })?;
    Ok(answers.iter().map(|ok| u64::from(wire::be32(ok, 4))).sum())
}

fn tear_down(admin: &mut Client, plan: &Plan) -> Result<u64> {
    if plan.keep {
        return Ok(0);
    }
    let left = tear_down_queues(admin, plan)?;
    if plan.route != Route::Queue {
        admin.delete_exchange(plan.exchange())?;
    }
    Ok(left)
}

/// Publishers and consumers at once.
fn flow(target: &Target, plan: &Plan) -> Result<Outcome> {
    let progress: Vec<Progress> = (0..plan.consumers).map(|_| Progress::default()).collect();
    let publishers = open_publishers(target, plan)?;
    thread::scope(|scope| {
        let consumers =
            (0..plan.consumers).map(|index| Consumer::open(&target.url, plan, index)).collect::<Result<Vec<_>>>()?;
        let before = Sample::take(target.pid);
        let start = nanos() + HEAD_START;
        let measure_from = plan.rate.map(|rate| start + warm_up(plan, rate));
        let consuming: Vec<_> = consumers
            .into_iter()
            .zip(&progress)
            .map(|(consumer, progress)| {
                let consumer = consumer.measuring_from(measure_from);
                scope.spawn(move || consumer.run(progress))
            })
            .collect();
        let published = join_publishers(spawn_publishers(scope, publishers, plan, start));
        let arrived = published
            .as_ref()
            .ok()
            .map(|published| await_arrival(&progress, published.count * u64::from(plan.consumers > 0) * plan.copies()));
        let used = Sample::take(target.pid).since(before);
        let wall = nanos() - start;
        for progress in &progress {
            progress.stop.store(true, Ordering::Release);
        }
        let consumed = join_consumers(consuming);
        // What a consumer has to say explains more than what the supervisor missed.
        let published = published?;
        let consumed = consumed?;
        arrived.unwrap_or(Ok(()))?;
        each_once(plan, &published, &consumed)?;
        let latencies = consumed.latencies;
        let memory = target.pid.map(Memory::of_tree);
        let received: u64 = sum(&progress, |progress| &progress.received);
        let last = progress.iter().map(|progress| progress.last.load(Ordering::Relaxed)).max().unwrap_or(0);
        let mut outcome = Outcome::default();
        let handled = received.max(published.count);
        if plan.rate.is_none() {
            outcome.add("in, messages/s", rate(published.count, published.finished - start));
            if plan.consumers > 0 {
                outcome.add("out, messages/s", rate(received, last.saturating_sub(start)));
            }
        } else if !latencies.is_empty() {
            outcome.add("end to end p50, ms", latencies.quantile_ms(0.5));
            outcome.add("end to end p99, ms", latencies.quantile_ms(0.99));
            outcome.add("end to end p99.9, ms", latencies.quantile_ms(0.999));
            outcome.add("end to end max, ms", latencies.max_ms());
        }
        confirm_figures(&mut outcome, &published.confirms);
        cpu_figures(&mut outcome, target, used, handled, wall);
        if let Some(memory) = memory {
            outcome.add("broker RSS, MiB", memory.rss as f64 / 1048576.0);
        }
        Ok(outcome)
    })
}

fn warm_up(plan: &Plan, rate: f64) -> u64 {
    let seconds = match plan.amount {
        Amount::Seconds(seconds) => seconds,
        Amount::Count(count) | Amount::Within(count, _) => count as f64 / rate,
    };
    (seconds * WARM_UP * 1e9) as u64
}

/// Everything in first, then everything out; each phase has its figures.
fn fill_and_drain(target: &Target, plan: &Plan, admin: &mut Client) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let publishers = open_publishers(target, plan)?;
    let before = Sample::take(target.pid);
    let start = nanos() + HEAD_START;
    let published = thread::scope(|scope| join_publishers(spawn_publishers(scope, publishers, plan, start)))?;
    let used = Sample::take(target.pid).since(before);
    outcome.add("in, messages/s", rate(published.count, published.finished - start));
    if target.pid.is_some() {
        outcome.add("broker CPU s per M in", per_million(used.broker, published.count));
    }
    confirm_figures(&mut outcome, &published.confirms);
    let waiting: u64 = (0..plan.queues)
        .map(|index| admin.queue_length(&plan.queue(index)).map(u64::from))
        .collect::<Result<Vec<_>>>()?
        .iter()
        .sum();
    // Without confirms a broker may still be routing, which it is free to do.
    if plan.confirm.is_some() && waiting != published.count * plan.copies() {
        bail!("{waiting} messages wait where {} were published", published.count * plan.copies());
    }
    outcome.add("waiting, messages", waiting as f64);
    if let Some(memory) = target.pid.map(Memory::of_tree) {
        outcome.add("broker RSS full, MiB", memory.rss as f64 / 1048576.0);
    }
    if plan.consumers == 0 {
        return Ok(outcome);
    }
    let progress: Vec<Progress> = (0..plan.consumers).map(|_| Progress::default()).collect();
    let before = Sample::take(target.pid);
    let start = nanos();
    thread::scope(|scope| {
        let consumers: Vec<_> = progress
            .iter()
            .enumerate()
            .map(|(index, progress)| {
                scope.spawn(move || {
                    Consumer::open(&target.url, plan, index)
                        .inspect_err(|_| progress.failed.store(true, Ordering::Release))?
                        .run(progress)
                })
            })
            .collect();
        let arrived = await_arrival(&progress, published.count * plan.copies());
        let used = Sample::take(target.pid).since(before);
        for progress in &progress {
            progress.stop.store(true, Ordering::Release);
        }
        let consumed = join_consumers(consumers)?;
        arrived?;
        each_once(plan, &published, &consumed)?;
        let last = progress.iter().map(|progress| progress.last.load(Ordering::Relaxed)).max().unwrap_or(0);
        let received = sum(&progress, |progress| &progress.received);
        outcome.add("out, messages/s", rate(received, last.saturating_sub(start)));
        if target.pid.is_some() {
            outcome.add("broker CPU s per M out", per_million(used.broker, received));
        }
        Ok(outcome)
    })
}

fn open_publishers(target: &Target, plan: &Plan) -> Result<Vec<Publisher>> {
    (0..plan.publishers).map(|index| Publisher::open(&target.url, plan, index)).collect()
}

/// A thread for each, or as many as the plan allows.
fn spawn_publishers<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    mut publishers: Vec<Publisher>,
    plan: &'scope Plan,
    start: u64,
) -> Vec<thread::ScopedJoinHandle<'scope, Result<Published>>> {
    let share = plan.threads.map_or(1, |threads| publishers.len().div_ceil(threads));
    let mut threads = Vec::new();
    while !publishers.is_empty() {
        let rest = publishers.split_off(share.min(publishers.len()));
        let some = std::mem::replace(&mut publishers, rest);
        threads.push(scope.spawn(move || {
            wait_until(start)?;
            Publisher::run_all(some, plan, start)
        }));
    }
    threads
}

fn wait_until(start: u64) -> Result<()> {
    let now = nanos();
    if start > now {
        thread::sleep(Duration::from_nanos(start - now));
    }
    Ok(())
}

fn join_publishers(threads: Vec<thread::ScopedJoinHandle<'_, Result<Published>>>) -> Result<Published> {
    let mut all = Published { count: 0, finished: 0, confirms: Histogram::default(), numbers: 0 };
    let mut failure = None;
    for thread in threads {
        match thread.join().map_err(|_| anyhow!("a publisher panicked")).and_then(|done| done) {
            Ok(one) => {
                all.count += one.count;
                all.finished = all.finished.max(one.finished);
                all.confirms.merge(&one.confirms);
                all.numbers = all.numbers.wrapping_add(one.numbers);
            }
            Err(error) => failure = Some(error.context("publishing")),
        }
    }
    failure.map_or(Ok(all), Err)
}

fn join_consumers(threads: Vec<thread::ScopedJoinHandle<'_, Result<Consumed>>>) -> Result<Consumed> {
    let mut all = Consumed::default();
    let mut failure = None;
    for thread in threads {
        match thread.join().map_err(|_| anyhow!("a consumer panicked")).and_then(|done| done) {
            Ok(one) => {
                all.latencies.merge(&one.latencies);
                all.numbers = all.numbers.wrapping_add(one.numbers);
            }
            Err(error) => failure = Some(error.context("consuming")),
        }
    }
    failure.map_or(Ok(all), Err)
}

/// Consumers that share queues can't tell a message that one of them lost from one that another was to have; their numbers
/// together can, since as many came as were sent.
fn each_once(plan: &Plan, published: &Published, consumed: &Consumed) -> Result<()> {
    if plan.shares_queues() && plan.body >= 8 && plan.consumers > 0 {
        let wanted = published.numbers.wrapping_mul(plan.copies());
        if consumed.numbers != wanted {
            bail!(
                "as many messages came as were sent, but not the same: their numbers sum up to {} instead of {wanted}",
                consumed.numbers
            );
        }
    }
    Ok(())
}

fn sum(progress: &[Progress], pick: impl Fn(&Progress) -> &AtomicU64) -> u64 {
    progress.iter().map(|progress| pick(progress).load(Ordering::Acquire)).sum()
}

fn await_arrival(progress: &[Progress], expected: u64) -> Result<()> {
    let mut seen = 0;
    let mut since = Instant::now();
    loop {
        let received = sum(progress, |progress| &progress.received);
        if received >= expected {
            // One too many comes right behind, if at all.
            thread::sleep(Duration::from_millis(5));
            let received = sum(progress, |progress| &progress.received);
            return if received == expected { Ok(()) } else { Err(anyhow!("{received} of {expected} came")) };
        }
        if progress.iter().any(|progress| progress.failed.load(Ordering::Acquire)) {
            bail!("a consumer gave up");
        }
        if received > seen {
            (seen, since) = (received, Instant::now());
        } else if since.elapsed() > STALL {
            bail!("{received} of {expected} messages came, then nothing for {} s", STALL.as_secs());
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn rate(count: u64, nanos: u64) -> f64 {
    count as f64 * 1e9 / nanos.max(1) as f64
}

fn per_million(seconds: f64, count: u64) -> f64 {
    seconds * 1e6 / count.max(1) as f64
}

fn confirm_figures(outcome: &mut Outcome, confirms: &Histogram) {
    if !confirms.is_empty() {
        outcome.add("confirm p50, ms", confirms.quantile_ms(0.5));
        outcome.add("confirm p99, ms", confirms.quantile_ms(0.99));
    }
}

/// CPU of broker and generator; `handled` is the greater of messages in and out.
fn cpu_figures(outcome: &mut Outcome, target: &Target, used: Sample, handled: u64, wall: u64) {
    if target.pid.is_some() {
        outcome.add("broker CPU s per M", per_million(used.broker, handled));
    }
    outcome.add("generator CPU s per M", per_million(used.own, handled));
    let seconds = wall as f64 / 1e9;
    outcome.add("CPU used by others, cores", ((used.machine - used.broker - used.own) / seconds).max(0.0));
}

/// Fills one queue with persistent messages and leaves them there.
pub(crate) fn fill(target: &Target, count: u64, body: usize) -> Result<()> {
    let flags = crate::plan::Flags {
        body: Some(body),
        persistent: Some(true),
        confirm: Some(10_000),
        consumers: Some(0),
        count: Some(count),
        ..Default::default()
    };
    let plan = Plan::new(None, &flags)?;
    let mut admin = Client::open(&target.url, SMALL_BUFFER)?;
    set_up(&mut admin, &plan)?;
    let start = nanos();
    Publisher::open(&target.url, &plan, 0)?.run(&plan, start).context("filling the queue")?;
    let waiting = u64::from(admin.queue_length(&plan.queue(0))?);
    if waiting != count {
        bail!("{waiting} messages wait where {count} were published and confirmed");
    }
    admin.close()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Flags;

    /// Two connections take from one queue; between them they have the messages of two publishers.
    #[test]
    fn a_message_that_came_in_place_of_another_is_seen_beside_others_at_the_queue() {
        let flags = Flags { queues: Some(1), publishers: Some(2), consumers: Some(2), ..Flags::default() };
        let plan = Plan::new(None, &flags).expect("sound");
        let published =
            Published { count: 10, finished: 0, confirms: Histogram::default(), numbers: 2 * (1 + 2 + 3 + 4) };
        let consumed = |numbers| Consumed { numbers, ..Consumed::default() };
        assert!(each_once(&plan, &published, &consumed(20)).is_ok());
        // the last but one twice, the last not at all
        let error = each_once(&plan, &published, &consumed(19)).expect_err("seen").to_string();
        assert!(error.contains("sum up to 19 instead of 20"), "{error}");
        // alone at the queue a consumer knows what is due
        let alone = Plan::new(None, &Flags { consumers: Some(1), ..flags }).expect("sound");
        assert!(each_once(&alone, &published, &consumed(0)).is_ok());
    }
}

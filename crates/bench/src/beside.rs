//! What clients do to each other: a small client beside heavy ones, and a consumer that doesn't read beside a publisher.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::broker::Target;
use crate::client::{Client, Fill, SMALL_BUFFER, consume, frame_at};
use crate::histogram::Histogram;
use crate::load::{self, nanos};
use crate::plan::{Case, Flags, Plan};
use crate::process::{Memory, sharpen_sleep, yield_to_others};
use crate::report::Outcome;
use crate::wire::{self, BODY, Out};

/// The small client's queue.
const QUEUE: &str = "bench.small";
/// A request of it is due so often, nanoseconds; not in step with what happens each millisecond.
const INTERVAL: u64 = 1_100_000;
/// How often memory is looked at.
const GLANCE: Duration = Duration::from_millis(20);

/// Heavy traffic, and what the small client's waits beside it are called.
struct Neighbour {
    flags: Flags,
    case: Case,
    p99: &'static str,
    worst: &'static str,
}

/// Waits of the small client.
#[derive(Default)]
struct Waits {
    /// From when each request was due: what it waited for the answer to the one before counts.
    since_due: Histogram,
    /// From when it was written.
    since_asked: Histogram,
}

/// Requests on a schedule beside each kind of heavy traffic in turn: how long did they wait?
pub(crate) fn small_client(target: &Target, seconds: f64) -> Result<Outcome> {
    let seconds = Some(seconds);
    let fill = |write| Flags { seconds, consumers: Some(0), write: Some(write), ..Flags::default() };
    let neighbours = [
        Neighbour {
            flags: Flags { seconds, ..Flags::default() },
            case: Case::A,
            p99: "beside a flood p99, ms",
            worst: "beside a flood worst, ms",
        },
        Neighbour {
            flags: fill(64 * 1024),
            case: Case::C,
            p99: "beside a fill in runs p99, ms",
            worst: "beside a fill in runs worst, ms",
        },
        Neighbour {
            // Every write holds one message, and no two in a row are of one queue.
            flags: Flags { queues: Some(4), spread: Some(1), ..fill(1) },
            case: Case::C,
            p99: "beside a fill one by one p99, ms",
            worst: "beside a fill one by one worst, ms",
        },
    ];
    let mut outcome = Outcome::default();
    let (mut late, mut alone) = (Histogram::default(), Waits::default());
    ask_until(target, &AtomicBool::new(false), Some(300), &mut alone, &mut late)?;
    outcome.add("alone p99, ms", alone.since_due.quantile_ms(0.99));
    for Neighbour { flags, case, p99, worst } in neighbours {
        // `consumers` follows `queues` unless it was given.
        let plan = Plan::new(Some(case), &flags)?;
        let done = AtomicBool::new(false);
        let mut waits = Waits::default();
        thread::scope(|scope| {
            let heavy = scope.spawn(|| {
                // Two cores for everything: the machine shouldn't make the small client wait for the load generator.
                yield_to_others();
                let outcome = load::run(target, &plan);
                done.store(true, Ordering::Release);
                outcome
            });
            let asked = ask_until(target, &done, None, &mut waits, &mut late);
            heavy.join().map_err(|_| anyhow!("the heavy load panicked"))?.context(worst)?;
            asked
        })?;
        outcome.add(p99, waits.since_due.quantile_ms(0.99));
        outcome.add(worst, waits.since_asked.max_ms());
    }
    // What the machine alone does to a thread that wants to go on: no wait above can be told from that.
    outcome.add("own wake-up late p99, ms", late.quantile_ms(0.99));
    outcome.add("own wake-up late worst, ms", late.max_ms());
    Ok(outcome)
}

/// Asks on a schedule until it is over; notes the waits and how much later than wanted this thread woke up. An answer that is late
/// makes requests late, which counts for each of them.
fn ask_until(
    target: &Target,
    done: &AtomicBool,
    times: Option<u64>,
    waits: &mut Waits,
    late: &mut Histogram,
) -> Result<()> {
    sharpen_sleep();
    let mut client = Client::open(&target.url, SMALL_BUFFER)?;
    client.delete_queue(QUEUE)?;
    client.declare_queue(QUEUE, None)?;
    client.call(wire::BASIC_CONSUME, wire::BASIC_CONSUME_OK, |args| consume(args, QUEUE, "small", true))?;
    let mut request = Out::default();
    request.method(1, wire::BASIC_PUBLISH, |args| {
        args.u16(0);
        args.short("");
        args.short(QUEUE);
        args.u8(0);
    });
    request.frame(wire::HEADER, 1, |args| {
        args.u16(60);
        args.u16(0);
        args.u64(16);
        args.u16(0);
    });
    request.frame(BODY, 1, |args| args.bytes(&[7; 16]));
    let (start, mut asked) = (nanos() + INTERVAL, 0);
    while !done.load(Ordering::Acquire) && times.is_none_or(|times| asked < times) {
        let due = start + asked * INTERVAL;
        let now = nanos();
        if due > now {
            thread::sleep(Duration::from_nanos(due - now));
            late.record(nanos().saturating_sub(due));
        }
        let begin = nanos();
        client.write(&request.0)?;
        await_body(&mut client)?;
        let answered = nanos();
        waits.since_due.record(answered.saturating_sub(due));
        waits.since_asked.record(answered - begin);
        asked += 1;
    }
    client.delete_queue(QUEUE)?;
    client.close()
}

fn await_body(client: &mut Client) -> Result<()> {
    loop {
        while let Some(frame) = frame_at(client.bytes())? {
            let (kind, total) = (frame.kind, frame.total);
            client.consume(total);
            if kind == BODY {
                return Ok(());
            }
        }
        match client.fill()? {
            Fill::Data => {}
            Fill::Idle => bail!("no answer within the timeout"),
            Fill::End => bail!("the broker closed the socket"),
        }
    }
}

/// Publishes persistent messages to a queue whose consumer takes none off its socket: how much does the broker grow?
pub(crate) fn stuck_consumer(target: &Target, flags: &Flags) -> Result<Outcome> {
    let Some(pid) = target.pid else { bail!("memory is only known with a pid") };
    let flags = Flags { consumers: Some(0), ..flags.clone() };
    let mut plan = Plan::new(Some(Case::C), &flags)?;
    plan.keep = true;
    let mut client = Client::open(&target.url, SMALL_BUFFER)?;
    client.delete_queue(&plan.queue(0))?;
    client.declare_queue(&plan.queue(0), plan.queue_type.as_deref())?;
    client.call(wire::BASIC_CONSUME, wire::BASIC_CONSUME_OK, |args| consume(args, &plan.queue(0), "stuck", true))?;
    let before = Memory::of_tree(pid).rss;
    let done = AtomicBool::new(false);
    let (load, most) = thread::scope(|scope| {
        let load = scope.spawn(|| {
            let outcome = load::run(target, &plan);
            done.store(true, Ordering::Release);
            outcome
        });
        let mut most = before;
        while !done.load(Ordering::Acquire) {
            most = most.max(Memory::of_tree(pid).rss);
            thread::sleep(GLANCE);
        }
        (load.join().map_err(|_| anyhow!("the publisher panicked")), most)
    });
    let load = load??;
    // Its socket is full, so it can't say goodbye in order; the broker sees that it's gone.
    drop(client);
    let mut admin = Client::open(&target.url, SMALL_BUFFER)?;
    let waiting = admin.queue_length(&plan.queue(0))?;
    admin.delete_queue(&plan.queue(0))?;
    admin.close()?;
    let mut outcome = Outcome::default();
    outcome.0.extend(load.0.into_iter().filter(|metric| metric.name == "in, messages/s"));
    outcome.add("waiting, messages", f64::from(waiting));
    outcome.add("broker RSS before, MiB", before as f64 / 1048576.0);
    outcome.add("broker RSS at most, MiB", most as f64 / 1048576.0);
    Ok(outcome)
}

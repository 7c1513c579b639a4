//! Publishing threads: as fast as the socket takes it, within a confirm window, or on a schedule.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::batch::Batch;
use crate::client::{Client, Fill, SMALL_BUFFER, Url};
use crate::confirms::Confirms;
use crate::histogram::Histogram;
use crate::load::nanos;
use crate::plan::{Amount, Plan};
use crate::process::sharpen_sleep;
use crate::wire;

/// Share of a scheduled run at its start whose latencies are not counted: connections and code warm up.
pub(crate) const WARM_UP: f64 = 0.1;

/// A connection ready to publish.
#[derive(Debug)]
pub(crate) struct Publisher {
    client: Client,
    batch: Batch,
    index: usize,
    /// Messages published without confirms or schedule.
    sent: u64,
}

/// What a publisher did.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) count: u64,
    /// When everything was written and, with confirms, confirmed.
    pub(crate) finished: u64,
    pub(crate) confirms: Histogram,
    /// Sum of the numbers of the messages; each channel counts for itself.
    pub(crate) numbers: u64,
}

/// Sum of the numbers that so many messages of a publisher have.
fn numbers(count: u64, channels: usize) -> u64 {
    let channels = channels as u64;
    let of_channel = |channel| {
        let own = u128::from(count / channels + u64::from(channel < count % channels));
        // As the consumers' sums, it may go round.
        (own * own.saturating_sub(1) / 2) as u64
    };
    (0..channels).fold(0, |sum, channel| sum.wrapping_add(of_channel(channel)))
}

impl Publisher {
    pub(crate) fn open(url: &Url, plan: &Plan, index: usize) -> Result<Self> {
        let mut client = Client::open(url, SMALL_BUFFER)?;
        client.keep_little_unsent()?;
        for channel in 2..=plan.channels {
            client.open_channel(channel as u16)?;
        }
        if plan.confirm.is_some() {
            client.call(wire::CONFIRM_SELECT, wire::CONFIRM_SELECT_OK, |args| args.u8(0))?;
        }
        Ok(Self { client, batch: Batch::new(plan, index), index, sent: 0 })
    }

    /// Publishes what the plan says, from `start` (nanoseconds) on.
    pub(crate) fn run(self, plan: &Plan, start: u64) -> Result<Published> {
        let goal = Goal::new(plan, self.index, start);
        match (plan.rate, plan.confirm) {
            (Some(rate), _) => self.scheduled(plan, rate, &goal, start),
            (None, Some(window)) => self.windowed(plan, window, &goal),
            (None, None) => self.flood(plan, &goal),
        }
    }

    /// Publishes with several, one write of each in turn where they are more than one.
    pub(crate) fn run_all(mut publishers: Vec<Self>, plan: &Plan, start: u64) -> Result<Published> {
        if let (Some(one), true) = (publishers.pop_if(|_| plan.threads.is_none()), publishers.is_empty()) {
            return one.run(plan, start);
        }
        let goals: Vec<Goal> = publishers.iter().map(|one| Goal::new(plan, one.index, start)).collect();
        let mut going = true;
        while going {
            going = false;
            for (publisher, goal) in publishers.iter_mut().zip(&goals) {
                going |= publisher.write_once(goal)?;
            }
        }
        let (mut count, mut sum) = (0, 0u64);
        for publisher in publishers {
            count += publisher.sent;
            sum = sum.wrapping_add(numbers(publisher.sent, plan.channels));
            publisher.client.close()?;
        }
        Ok(Published { count, finished: nanos(), confirms: Histogram::default(), numbers: sum })
    }

    /// One write as fast as the socket takes it; whether there was anything left to publish.
    fn write_once(&mut self, goal: &Goal) -> Result<bool> {
        let Some(left) = goal.left(self.sent) else { return Ok(false) };
        let at = (self.sent % self.batch.capacity() as u64) as usize;
        let take = self.batch.write_from(at).min(usize::try_from(left).unwrap_or(usize::MAX));
        let now = nanos();
        for index in 0..take {
            self.batch.stamp(at + index, self.index, self.sent + index as u64, now);
        }
        self.client.write(self.batch.bytes(at, at + take))?;
        self.sent += take as u64;
        Ok(true)
    }

    fn flood(mut self, plan: &Plan, goal: &Goal) -> Result<Published> {
        while self.write_once(goal)? {}
        // close-ok comes after every publish was taken in.
        self.client.close()?;
        let numbers = numbers(self.sent, plan.channels);
        Ok(Published { count: self.sent, finished: nanos(), confirms: Histogram::default(), numbers })
    }

    fn windowed(mut self, plan: &Plan, window: u64, goal: &Goal) -> Result<Published> {
        let mut confirms = Confirms::new(window * 4);
        let mut count = 0;
        // The batch is walked on, so that a topic load goes through all its keys.
        let mut at = 0;
        // Waiting for a little room keeps the generator from writing messages one by one.
        let enough = (window / 8).clamp(1, self.batch.capacity() as u64);
        loop {
            let left = goal.left(count);
            if left.is_none() && confirms.outstanding() == 0 {
                break;
            }
            let room = (window - confirms.outstanding()).min(confirms.room());
            match left {
                Some(left) if room >= enough.min(left) => {
                    let take = (room.min(left) as usize).min(self.batch.write_from(at));
                    let now = nanos();
                    for index in 0..take {
                        self.batch.stamp(at + index, self.index, count + index as u64, now);
                        confirms.sent(now);
                    }
                    self.client.write(self.batch.bytes(at, at + take))?;
                    count += take as u64;
                    at = (at + take) % self.batch.capacity();
                }
                _ => read_confirms(&mut self.client, &mut confirms)?,
            }
        }
        let finished = nanos();
        self.client.close()?;
        let numbers = numbers(count, plan.channels);
        Ok(Published { count, finished, confirms: confirms.into_latencies(), numbers })
    }

    /// Message n is due at start + n / rate, whatever became of those before it. Its latencies count from then, so a
    /// broker or a generator that stalls is charged for every message it delays.
    fn scheduled(mut self, plan: &Plan, rate: f64, goal: &Goal, start: u64) -> Result<Published> {
        sharpen_sleep();
        let interval = 1e9 * plan.publishers as f64 / rate;
        let phase = interval * self.index as f64 / plan.publishers as f64;
        let total = match plan.amount {
            Amount::Seconds(seconds) => (seconds * 1e9 / interval) as u64,
            Amount::Count(_) | Amount::Within(..) => goal.count,
        };
        let due = |sequence: u64| start + (phase + sequence as f64 * interval) as u64;
        let warm = due((total as f64 * WARM_UP) as u64);
        let confirming = plan.confirm.is_some();
        let confirms = Mutex::new(Confirms::new(1 << 20));
        let failed = AtomicBool::new(false);
        let mut reader = ConfirmReader { client: &mut self.client, confirms: &confirms, failed: &failed, total };
        let stream = reader.client.stream().try_clone()?;
        let (batch, publisher) = (&mut self.batch, self.index);
        let count = thread::scope(|scope| -> Result<u64> {
            let reading = confirming.then(|| scope.spawn(move || reader.run()));
            let mut count = 0;
            while count < total && !failed.load(Ordering::Relaxed) {
                let now = nanos();
                if due(count) > now {
                    thread::sleep(Duration::from_nanos(due(count) - now));
                    continue;
                }
                let at = (count % batch.capacity() as u64) as usize;
                let mut take = 0;
                let mut book = lock(&confirms)?;
                while count < total && due(count) <= now && at + take < batch.capacity() {
                    batch.stamp(at + take, publisher, count, due(count));
                    if confirming {
                        if book.room() == 0 {
                            bail!("a million publishes are unconfirmed");
                        }
                        // Send time 0 would read as confirmed: what is not counted is marked by a time in the future.
                        book.sent(if due(count) < warm { u64::MAX } else { due(count) });
                    }
                    take += 1;
                    count += 1;
                }
                drop(book);
                std::io::Write::write_all(&mut &stream, batch.bytes(at, at + take)).context("publishing")?;
            }
            if let Some(reading) = reading {
                reading.join().map_err(|_| anyhow!("the confirm reader panicked"))??;
            }
            Ok(count)
        })?;
        let finished = nanos();
        self.client.close()?;
        let confirms = confirms.into_inner().map_err(|_| anyhow!("a thread panicked"))?;
        let numbers = numbers(count, plan.channels);
        Ok(Published { count, finished, confirms: confirms.into_latencies(), numbers })
    }
}

fn lock(confirms: &Mutex<Confirms>) -> Result<std::sync::MutexGuard<'_, Confirms>> {
    confirms.lock().map_err(|_| anyhow!("a thread panicked"))
}

/// Reads confirms beside a scheduled publisher.
struct ConfirmReader<'a> {
    client: &'a mut Client,
    confirms: &'a Mutex<Confirms>,
    failed: &'a AtomicBool,
    total: u64,
}

impl ConfirmReader<'_> {
    fn run(&mut self) -> Result<()> {
        let outcome = self.read_all();
        self.failed.store(outcome.is_err(), Ordering::Relaxed);
        outcome
    }

    fn read_all(&mut self) -> Result<()> {
        while !lock(self.confirms)?.all_confirmed(self.total) {
            match self.client.fill()? {
                Fill::Data => {}
                Fill::Idle => bail!("no confirm within the timeout"),
                Fill::End => bail!("the broker closed the socket"),
            }
            let used = lock(self.confirms)?.scan(self.client.bytes(), nanos())?;
            self.client.consume(used);
        }
        Ok(())
    }
}

fn read_confirms(client: &mut Client, confirms: &mut Confirms) -> Result<()> {
    match client.fill()? {
        Fill::Data => {}
        Fill::Idle => bail!("{} confirms did not come within the timeout", confirms.outstanding()),
        Fill::End => bail!("the broker closed the socket"),
    }
    let used = confirms.scan(client.bytes(), nanos())?;
    client.consume(used);
    Ok(())
}

/// How far a publisher goes.
struct Goal {
    count: u64,
    until: u64,
}

impl Goal {
    fn new(plan: &Plan, index: usize, start: u64) -> Self {
        let publishers = plan.publishers as u64;
        let share = |count: u64| count / publishers + u64::from((index as u64) < count % publishers);
        let after = |seconds: f64| start + (seconds * 1e9) as u64;
        match plan.amount {
            Amount::Count(count) => Self { count: share(count), until: u64::MAX },
            Amount::Seconds(seconds) => Self { count: u64::MAX, until: after(seconds) },
            Amount::Within(count, seconds) => Self { count: share(count), until: after(seconds) },
        }
    }

    /// Messages left to publish after so many; `None` when it is over.
    fn left(&self, published: u64) -> Option<u64> {
        (published < self.count && (self.until == u64::MAX || nanos() < self.until)).then(|| self.count - published)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_number_their_own() {
        assert_eq!(numbers(5, 1), 10);
        // 0, 1, 2 on the first and 0, 1 on the second.
        assert_eq!(numbers(5, 2), 4);
        assert_eq!(numbers(0, 3), 0);
    }
}

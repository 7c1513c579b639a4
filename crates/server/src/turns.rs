//! How long the owner's turns take: what everybody waits for who waits for the owner.

use hornpipe_types::stats::{TURN_BOUNDS_US, TurnTimes};
use rustix::time::{ClockId, clock_gettime};
use std::sync::atomic::{AtomicU64, Ordering};

/// A histogram of times, in µs.
#[derive(Debug, Default)]
struct Times {
    buckets: [AtomicU64; TURN_BOUNDS_US.len() + 1],
    sum: AtomicU64,
    max: AtomicU64,
}

impl Times {
    fn note(&self, us: u64) {
        let bucket = TURN_BOUNDS_US.partition_point(|bound| *bound < us);
        if let Some(count) = self.buckets.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(us, Ordering::Relaxed);
        self.max.fetch_max(us, Ordering::Relaxed);
    }
    fn read(&self) -> TurnTimes {
        let counts = std::array::from_fn(|k| self.buckets.get(k).map_or(0, |c| c.load(Ordering::Relaxed)));
        TurnTimes { counts, sum_us: self.sum.load(Ordering::Relaxed), max_us: self.max.load(Ordering::Relaxed) }
    }
}

/// Turns by wall clock and by processor time. On a machine that is short of processors the first grows without the broker
/// doing more: the second tells.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    wall: Times,
    cpu: Times,
}

/// When a turn began.
#[derive(Debug)]
pub(crate) struct Begun {
    wall: std::time::Instant,
    cpu_ns: u64,
}

impl Begun {
    /// A turn begins.
    pub(crate) fn now() -> Self {
        Self { wall: std::time::Instant::now(), cpu_ns: thread_ns() }
    }
    /// How long it lasts already, µs.
    pub(crate) fn us(&self) -> u64 {
        u64::try_from(self.wall.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

impl Turns {
    /// A turn is over.
    pub(crate) fn note(&self, begun: &Begun) {
        let us = begun.us();
        self.wall.note(us);
        // No turn takes more of the processor than it lasts. The clock of a thread is a system call, unlike the wall's, so
        // where both times are in the first bucket it isn't asked again.
        let cpu = if us <= TURN_BOUNDS_US[0] { us } else { thread_ns().saturating_sub(begun.cpu_ns) / 1000 };
        self.cpu.note(cpu);
    }
    /// By wall clock.
    pub(crate) fn wall(&self) -> TurnTimes {
        self.wall.read()
    }
    /// By processor time.
    pub(crate) fn cpu(&self) -> TurnTimes {
        self.cpu.read()
    }
}

/// Processor time of this thread so far, ns.
fn thread_ns() -> u64 {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(t.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_lands_in_the_first_bucket_that_holds_it() {
        let times = Times::default();
        for us in [0, 100, 101, 5000, 5001, u64::MAX / 2] {
            times.note(us);
        }
        let read = times.read();
        let at = |bound| TURN_BOUNDS_US.iter().position(|b| *b == bound).map(|k| read.counts[k]);
        assert_eq!((at(100), at(5000)), (Some(2), Some(1)));
        assert_eq!(read.counts.iter().sum::<u64>(), 6);
        assert_eq!(read.counts.last(), Some(&1));
        assert_eq!(read.max_us, u64::MAX / 2);
    }
}

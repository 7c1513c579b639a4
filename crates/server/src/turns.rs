//! How long the owner's turns take: what everybody waits for who waits for the owner.

use hornpipe_types::stats::{TURN_BOUNDS_US, TurnTimes};
use rustix::time::{ClockId, clock_gettime};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

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

/// A look at a thread's processor time.
#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    cpu_ns: u64,
}

thread_local! {
    /// The last look this thread took.
    static LAST: Cell<Option<Look>> = const { Cell::new(None) };
}

/// How old a look may be to stand for the beginning of a turn. Processor time is a system call, two of them were 4 % of a short turn.
const FRESH: Duration = Duration::from_micros(250);

/// When a turn began.
#[derive(Debug)]
pub(crate) struct Begun {
    wall: Instant,
    /// Of this thread then, or up to [`FRESH`] before.
    cpu_ns: u64,
}

impl Begun {
    /// A turn begins.
    pub(crate) fn now() -> Self {
        let wall = Instant::now();
        let last = LAST.get().filter(|look| wall.saturating_duration_since(look.at) < FRESH);
        Self { wall, cpu_ns: last.unwrap_or_else(|| look(wall)).cpu_ns }
    }
    /// When that was.
    pub(crate) fn at(&self) -> Instant {
        self.wall
    }
    /// How long it lasts already, µs.
    pub(crate) fn us(&self) -> u64 {
        u64::try_from(self.wall.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

impl Turns {
    /// A turn is over. It can't have used more processor time than it took, so a short one needs no look; of a longer one that was interrupted
    /// too much may be noted, by [`FRESH`] at most.
    pub(crate) fn note(&self, begun: &Begun) {
        let us = begun.us();
        self.wall.note(us);
        let used =
            if us <= TURN_BOUNDS_US[0] { us } else { look(Instant::now()).cpu_ns.saturating_sub(begun.cpu_ns) / 1000 };
        self.cpu.note(used.min(us));
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

/// Takes a look at this thread's processor time.
fn look(at: Instant) -> Look {
    let look = Look { at, cpu_ns: thread_ns() };
    LAST.set(Some(look));
    look
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

    #[test]
    fn a_turn_that_works_is_told_from_one_that_waits() {
        let turns = Turns::default();
        let begun = Begun::now();
        std::thread::sleep(Duration::from_millis(30));
        turns.note(&begun);
        let waited = turns.cpu().max_us;
        let wall = turns.wall().max_us;
        assert!(wall >= 30_000 && waited < wall / 2, "{waited} of {wall}");
        let begun = Begun::now();
        while begun.us() < waited + 5000 || thread_ns() - begun.cpu_ns < (waited + 5000) * 1000 {
            std::hint::spin_loop();
        }
        turns.note(&begun);
        assert!(turns.cpu().max_us >= waited + 5000, "{waited}, then {:?}", turns.cpu());
    }
}

//! How the front waits for the next thing that happens.
//!
//! A client that logs in is answered and speaks again at once, if it is near. A thread that goes to sleep in between must be woken by it,
//! and wakes it with its own answer in turn: on two processors that takes both longer than all the rest (up to 30 µs a wake
//! on a virtual machine). So after something happened the front looks for what comes next for a while, and lets others have
//! its processor at each look; it sleeps when nothing came. Where clients are far away, that is in vain and it soon stops trying
//! ([ADR 0029](../../../docs/adr/0029-looking-before-sleeping.md)).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Looking pays as long as what comes takes no longer than this, µs: about what falling asleep and two wakes cost.
const WORTH_US: u64 = 60;
/// Things that happen and are not looked after, after looking has not paid once; twice as many after each further time.
const FIRST_PAUSE: u64 = 8;
/// Most of them.
const PAUSE_MAX: u64 = 4096;
/// A new wait counts for so much of the mean: one part in that many. A wait in which the processor went to others who had much to
/// do takes milliseconds, and so is too much at once.
const WEIGHT: u64 = 16;
/// So many waits in turn must have paid for the pause to become shorter again: beside others who compute, some pay, but not most.
const PAID: u64 = 64;

/// Whether looking pays: see the module's documentation.
#[derive(Debug, Default)]
struct Experience {
    /// Mean of what was waited, in µs times [`WEIGHT`].
    mean: u64,
    /// Things that happen until the next try.
    left: u64,
    pause: u64,
    /// Waits that have paid since one did not, or since the pause was shortened.
    paid: u64,
}

impl Experience {
    /// Things happened: whether to look for what comes next.
    fn allows(&mut self, things: u64) -> bool {
        self.left = self.left.saturating_sub(things);
        self.left == 0
    }

    /// Something came after so long, or nothing did; whether to look on.
    fn waited(&mut self, us: u64, came: bool) -> bool {
        // However short a look in vain was made by the limit, it was for nothing.
        let us = if came { us } else { us.max(2 * WORTH_US) };
        self.mean = self.mean - self.mean / WEIGHT + us;
        if self.mean > WORTH_US * WEIGHT {
            self.pause = (self.pause * 2).clamp(FIRST_PAUSE, PAUSE_MAX);
            self.left = self.pause;
            // The next try is judged by itself.
            (self.mean, self.paid) = (0, 0);
            return false;
        }
        self.paid += 1;
        if self.paid == PAID {
            (self.pause, self.paid) = (self.pause / 2, 0);
        }
        came
    }
}

/// Looks out for what connections on the front do.
#[derive(Debug)]
pub(crate) struct Lookout {
    /// How long nothing may happen until the front sleeps; zero to sleep at once.
    limit: Duration,
    /// Things that happened.
    seen: AtomicU64,
    /// It looks, so nobody need call it.
    looks: AtomicBool,
    call: Notify,
    /// Time it looked in vain or not, µs.
    looked_us: AtomicU64,
}

impl Lookout {
    /// With so much patience.
    pub(crate) fn new(limit: Duration) -> Self {
        let (seen, looks) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { limit, seen, looks, call: Notify::new(), looked_us: AtomicU64::new(0) }
    }

    /// Something happened. Called on the front only.
    pub(crate) fn saw(&self) {
        self.seen.fetch_add(1, Ordering::Relaxed);
        if !self.limit.is_zero() && !self.looks.load(Ordering::Relaxed) {
            self.call.notify_one();
        }
    }

    /// Microseconds that the front has spent looking, what others did with its processor in between included.
    pub(crate) fn looked_us(&self) -> u64 {
        self.looked_us.load(Ordering::Relaxed)
    }

    /// Keeps the thread it runs on from sleeping as long as that pays; a task of the front's own runtime.
    pub(crate) async fn look(&self) {
        let mut experience = Experience::default();
        let mut seen = 0;
        loop {
            self.call.notified().await;
            let now = self.seen.load(Ordering::Relaxed);
            if now != seen && experience.allows(now - seen) {
                self.looks.store(true, Ordering::Relaxed);
                seen = self.look_on(now, &mut experience).await;
                self.looks.store(false, Ordering::Relaxed);
            } else {
                seen = now;
            }
        }
    }

    /// Looks until nothing comes, or it doesn't pay; returns what was seen.
    async fn look_on(&self, mut seen: u64, experience: &mut Experience) -> u64 {
        let mut since = Instant::now();
        loop {
            // The runtime asks the system what is ready, and serves it, before it comes back.
            tokio::task::yield_now().await;
            let (found, now) = (self.seen.load(Ordering::Relaxed), Instant::now());
            let (waited, came) = (now - since, found != seen);
            if came || waited > self.limit {
                let us = waited.as_micros() as u64;
                self.looked_us.fetch_add(us, Ordering::Relaxed);
                if !experience.waited(us, came) {
                    return found;
                }
                (seen, since) = (found, now);
            }
            rustix::thread::sched_yield();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::task::{Context, Waker};

    /// Out of so many things, how many were looked after, when each look ends like this.
    fn looks(experience: &mut Experience, things: u64, us: u64, came: bool) -> u64 {
        let mut looks = 0;
        for _ in 0..things {
            if experience.allows(1) {
                looks += 1;
                experience.waited(us, came);
            }
        }
        looks
    }

    #[test]
    fn who_answers_soon_is_looked_for_each_time() {
        assert_eq!(looks(&mut Experience::default(), 10_000, 20, true), 10_000);
    }

    #[test]
    fn who_is_far_away_is_soon_not_looked_for() {
        let mut experience = Experience::default();
        let few = looks(&mut experience, 100_000, 100, false);
        assert!((10..1000).contains(&few), "{few} of 100 000");
        let few = looks(&mut Experience::default(), 100_000, 20, false);
        assert!((10..1000).contains(&few), "{few} of 100 000");
        // Those who come nearer are found again.
        assert!(looks(&mut experience, 20_000, 20, true) > 10_000);
    }

    #[test]
    fn beside_others_who_compute_it_sleeps() {
        let mut experience = Experience::default();
        let round = |_| looks(&mut experience, 10, 20, true) + looks(&mut experience, 1, 3000, true);
        let few: u64 = (0..10_000).map(round).sum();
        assert!((10..1000).contains(&few), "{few} of 110 000");
        assert!(looks(&mut experience, 20_000, 20, true) > 10_000);
    }

    #[test]
    fn the_last_answer_of_a_few_is_no_reason_to_stop() {
        let mut experience = Experience::default();
        let tries = (0..1000).map(|_| looks(&mut experience, 5, 20, true) + looks(&mut experience, 1, 120, false));
        assert_eq!(tries.sum::<u64>(), 6000);
    }

    #[tokio::test]
    async fn the_thread_sleeps_again_when_nothing_comes() {
        let lookout = Arc::new(Lookout::new(Duration::from_micros(200)));
        let looking = || lookout.looks.load(Ordering::Relaxed);
        let task = tokio::spawn({
            let lookout = lookout.clone();
            async move { lookout.look().await }
        });
        for n in 1..=3 {
            // Where others compute, a look may have lasted so long that the next things are not looked after, or be over already.
            while !looking() && lookout.looked_us() < n * 200 {
                lookout.saw();
                tokio::task::yield_now().await;
            }
            while looking() {
                tokio::task::yield_now().await;
            }
            assert!(lookout.looked_us() >= n * 200);
        }
        task.abort();
    }

    #[tokio::test]
    async fn without_patience_it_never_looks() {
        let lookout = Lookout::new(Duration::ZERO);
        let look = std::pin::pin!(lookout.look());
        lookout.saw();
        assert!(look.poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert!(!lookout.looks.load(Ordering::Relaxed));
    }
}

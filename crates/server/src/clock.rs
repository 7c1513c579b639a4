//! The one place with the system clock: everything below is told the time.

use hornpipe_types::time::{Instant, Now, UnixMillis};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Reads both clocks. Copies share their zero, so instants of one process can be compared.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    zero: std::time::Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock {
    /// A clock whose monotonic part starts one second after zero, so that "a moment before now" never saturates.
    pub fn new() -> Self {
        let now = std::time::Instant::now();
        Self { zero: now.checked_sub(Duration::from_secs(1)).unwrap_or(now) }
    }

    /// The monotonic clock.
    pub fn mono(&self) -> Instant {
        self.instant(std::time::Instant::now())
    }

    fn instant(&self, at: std::time::Instant) -> Instant {
        Instant(u64::try_from(at.saturating_duration_since(self.zero).as_micros()).unwrap_or(u64::MAX))
    }

    /// Both clocks.
    pub fn now(&self) -> Now {
        self.now_at(std::time::Instant::now())
    }

    /// Both clocks, of which the monotonic one was just looked at.
    pub(crate) fn now_at(&self, at: std::time::Instant) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono: self.instant(at), wall: UnixMillis(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)) }
    }

    /// An instant as tokio's timers want it. Far instants are cut to a day ahead: waking early is harmless.
    pub fn deadline(&self, at: Instant) -> tokio::time::Instant {
        let ahead = Duration::from_micros(at.0.saturating_sub(self.mono().0)).min(Duration::from_secs(86_400));
        tokio::time::Instant::now() + ahead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_never_go_back_and_deadlines_lie_ahead() {
        let clock = Clock::new();
        let a = clock.now();
        let b = clock.now();
        assert!(a.mono <= b.mono && a.mono.0 > 0 && a.wall.0 > 0);
        let before = tokio::time::Instant::now();
        assert!(clock.deadline(Instant(0)) >= before);
        assert!(clock.deadline(Instant(u64::MAX)) <= tokio::time::Instant::now() + Duration::from_secs(86_400));
    }
}

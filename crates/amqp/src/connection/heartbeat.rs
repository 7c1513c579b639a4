//! Heartbeats both ways [spec §4.2.7], timed as RabbitMQ does: ours after half an interval without output; the peer is given
//! up after two whole intervals in a row without input.

use hornpipe_types::time::Instant;

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// Nothing was sent for half an interval.
    Send,
    /// Nothing was received for two intervals.
    Dead,
}

/// Both timers of one connection; off while `interval_ms` is 0.
#[derive(Debug, Default)]
pub(super) struct Heartbeat {
    interval_ms: u64,
    sent: Instant,
    check_at: Instant,
    received: bool,
    misses: u8,
}

impl Heartbeat {
    /// Starts both timers; 0 seconds is off.
    pub(super) fn start(&mut self, seconds: u16, now: Instant) {
        self.interval_ms = u64::from(seconds) * 1000;
        self.sent = now;
        self.check_at = now.plus_ms(self.interval_ms);
        self.received = true;
        self.misses = 0;
    }
    pub(super) fn stop(&mut self) {
        self.interval_ms = 0;
    }
    pub(super) fn on_sent(&mut self, now: Instant) {
        self.sent = now;
    }
    pub(super) fn on_received(&mut self) {
        self.received = true;
    }
    fn send_at(&self) -> Instant {
        self.sent.plus_ms(self.interval_ms / 2)
    }
    pub(super) fn deadline(&self) -> Option<Instant> {
        (self.interval_ms > 0).then(|| self.send_at().min(self.check_at))
    }
    /// What is due now. `paused`: the socket is not being read, so silence is not the peer's.
    pub(super) fn on_timeout(&mut self, now: Instant, paused: bool) -> Due {
        if self.interval_ms == 0 {
            return Due::Nothing;
        }
        if now >= self.check_at {
            // counted from now: a driver that was late itself must not count two misses at once
            self.check_at = now.plus_ms(self.interval_ms);
            if self.received || paused {
                self.misses = 0;
            } else {
                self.misses += 1;
            }
            self.received = false;
            if self.misses >= 2 {
                return Due::Dead;
            }
        }
        if now >= self.send_at() {
            self.sent = now;
            return Due::Send;
        }
        Due::Nothing
    }
}

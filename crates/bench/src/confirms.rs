//! Which publishes the broker has confirmed, and how long each took.

use anyhow::{Result, bail};

use crate::client::{frame_at, refusal};
use crate::histogram::Histogram;
use crate::wire::{self, METHOD, be16, be64};

/// Outstanding publishes of one channel, by tag.
#[derive(Debug)]
pub(crate) struct Confirms {
    /// Send time of each tag in nanoseconds, 0 once confirmed; a ring.
    sent: Vec<u64>,
    /// Lowest tag that isn't confirmed.
    lowest: u64,
    /// Next tag to be given.
    next: u64,
    outstanding: u64,
    latencies: Histogram,
}

impl Confirms {
    /// Room for `span` tags between the oldest unconfirmed and the newest.
    pub(crate) fn new(span: u64) -> Self {
        let size = span.next_power_of_two().max(1024) as usize;
        Self { sent: vec![0; size], lowest: 1, next: 1, outstanding: 0, latencies: Histogram::default() }
    }

    /// Whether `total` publishes were made and all are confirmed.
    pub(crate) fn all_confirmed(&self, total: u64) -> bool {
        self.next > total && self.outstanding == 0
    }

    pub(crate) fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// Tags that can be given now without overrunning the ring.
    pub(crate) fn room(&self) -> u64 {
        self.sent.len() as u64 - (self.next - self.lowest)
    }

    /// Notes the next tag as sent at that time.
    #[inline]
    pub(crate) fn sent(&mut self, nanos: u64) {
        let mask = self.sent.len() as u64 - 1;
        self.sent[(self.next & mask) as usize] = nanos.max(1);
        self.next += 1;
        self.outstanding += 1;
    }

    /// Takes basic.ack for one tag or for all up to it.
    pub(crate) fn acked(&mut self, tag: u64, multiple: bool, now: u64) -> Result<()> {
        if tag >= self.next || (tag == 0 && !multiple) {
            bail!("confirm for tag {tag}, which was not published (next is {})", self.next);
        }
        let mask = self.sent.len() as u64 - 1;
        if multiple {
            let upto = if tag == 0 { self.next - 1 } else { tag };
            for tag in self.lowest..=upto {
                self.settle((tag & mask) as usize, now);
            }
        } else {
            let slot = (tag & mask) as usize;
            if tag < self.lowest || self.sent[slot] == 0 {
                bail!("tag {tag} confirmed twice");
            }
            self.settle(slot, now);
        }
        while self.lowest < self.next && self.sent[(self.lowest & mask) as usize] == 0 {
            self.lowest += 1;
        }
        Ok(())
    }

    #[inline]
    fn settle(&mut self, slot: usize, now: u64) {
        let sent = std::mem::take(&mut self.sent[slot]);
        if sent != 0 {
            self.outstanding -= 1;
            // A time in the future marks a warm-up message.
            if sent <= now {
                self.latencies.record(now - sent);
            }
        }
    }

    /// Scans whole frames; returns the bytes used.
    ///
    /// # Errors
    /// A nack, a return, a close, or a confirm of something never sent.
    pub(crate) fn scan(&mut self, bytes: &[u8], now: u64) -> Result<usize> {
        let mut used = 0;
        while let Some(frame) = frame_at(&bytes[used..])? {
            if frame.kind == METHOD {
                match (be16(frame.payload, 0), be16(frame.payload, 2)) {
                    wire::BASIC_ACK => self.acked(be64(frame.payload, 4), frame.payload[12] & 1 == 1, now)?,
                    wire::BASIC_NACK => bail!("the broker nacked publish {}", be64(frame.payload, 4)),
                    id @ (wire::CONNECTION_CLOSE | wire::CHANNEL_CLOSE) => return Err(refusal(id, frame.payload)),
                    id => bail!("unexpected method {id:?} on a publishing channel"),
                }
            }
            used += frame.total;
        }
        Ok(used)
    }

    pub(crate) fn into_latencies(self) -> Histogram {
        self.latencies
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_and_multiple_meet() {
        let mut confirms = Confirms::new(8);
        for at in 1..=5 {
            confirms.sent(at);
        }
        confirms.acked(3, false, 10).expect("known");
        assert_eq!((confirms.outstanding(), confirms.lowest), (4, 1));
        confirms.acked(2, true, 10).expect("known");
        assert_eq!((confirms.outstanding(), confirms.lowest), (2, 4));
        assert!(confirms.acked(3, false, 10).is_err());
        assert!(confirms.acked(6, false, 10).is_err());
        confirms.acked(0, true, 10).expect("everything");
        assert_eq!(confirms.outstanding(), 0);
    }
}

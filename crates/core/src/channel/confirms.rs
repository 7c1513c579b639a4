//! Publisher confirms of one channel: which publish tags still wait, and what is to be sent.

use hornpipe_types::effect::ChannelEffect;
use hornpipe_types::ids::{CommitSeq, Tag};
use std::collections::VecDeque;

#[derive(Debug, Clone, Copy)]
struct Waiter {
    first: Tag,
    count: u32,
    commit: CommitSeq,
}

/// Confirm state of a channel in confirm mode.
#[derive(Debug)]
pub(crate) struct Confirms {
    /// Which of all channels in confirm mode this is: numbers are used again.
    pub(crate) incarnation: u32,
    /// Tag of the next publish.
    next: Tag,
    /// In tag order.
    waiters: VecDeque<Waiter>,
    /// Confirmed in this turn, not sent yet.
    acked: Vec<(Tag, u32)>,
    nacked: Vec<(Tag, u32)>,
}

impl Confirms {
    /// Of a channel that was not in confirm mode before.
    pub(crate) fn new(incarnation: u32) -> Self {
        Self { incarnation, next: 1, waiters: VecDeque::new(), acked: Vec::new(), nacked: Vec::new() }
    }
    /// Counts `count` publishes; the tag of the first.
    pub(crate) fn publish(&mut self, count: u32) -> Tag {
        let first = self.next;
        self.next += u64::from(count);
        first
    }
    /// Publishes that are not confirmed yet.
    pub(crate) fn unconfirmed(&self) -> u64 {
        self.waiters.iter().map(|w| u64::from(w.count)).sum()
    }
    /// These wait for the watermark.
    pub(crate) fn wait(&mut self, first: Tag, count: u32, commit: CommitSeq) {
        if let Some(last) = self.waiters.back_mut()
            && last.commit == commit
            && last.first + u64::from(last.count) == first
        {
            last.count += count;
            return;
        }
        self.waiters.push_back(Waiter { first, count, commit });
    }
    /// These are confirmed without having waited.
    pub(crate) fn ack_now(&mut self, first: Tag, count: u32) {
        self.acked.push((first, count));
    }
    /// These are refused.
    pub(crate) fn nack_now(&mut self, first: Tag, count: u32) {
        self.nacked.push((first, count));
    }
    /// Confirms waiting tags before the watermark covers them: their messages exist nowhere any more. Tags that don't wait
    /// are passed over. `step` apart.
    pub(crate) fn ack_early(&mut self, first: Tag, count: u32, step: u32) {
        if step == 1 || count == 1 {
            self.settle_waiting(first, count);
        } else {
            for i in 0..u64::from(count) {
                self.settle_waiting(first + i * u64::from(step), 1);
            }
        }
    }

    fn settle_waiting(&mut self, first: Tag, count: u32) {
        let end = first + u64::from(count);
        let mut k = if self.waiters.front().is_some_and(|w| w.first + u64::from(w.count) > first) {
            0
        } else {
            self.waiters.partition_point(|w| w.first + u64::from(w.count) <= first)
        };
        while let Some(w) = self.waiters.get_mut(k) {
            let w_end = w.first + u64::from(w.count);
            if w.first >= end {
                break;
            }
            let (a, b) = (w.first.max(first), w_end.min(end));
            self.acked.push((a, (b - a) as u32));
            match (a == w.first, b == w_end) {
                (true, true) => {
                    self.waiters.remove(k);
                    continue;
                }
                (true, false) => {
                    w.first = b;
                    w.count = (w_end - b) as u32;
                }
                (false, true) => w.count = (a - w.first) as u32,
                (false, false) => {
                    w.count = (a - w.first) as u32;
                    let rest = Waiter { first: b, count: (w_end - b) as u32, commit: w.commit };
                    self.waiters.insert(k + 1, rest);
                }
            }
            k += 1;
        }
    }

    /// The watermark moved: everything it covers is confirmed.
    pub(crate) fn durable(&mut self, upto: CommitSeq) {
        while let Some(w) = self.waiters.front() {
            if w.commit > upto {
                break;
            }
            self.acked.push((w.first, w.count));
            self.waiters.pop_front();
        }
    }

    /// Whether something is to be sent.
    pub(crate) fn has_output(&self) -> bool {
        !self.acked.is_empty() || !self.nacked.is_empty()
    }

    /// What is to be sent, in as few frames as the rules allow: one cumulative confirm as far as nothing below is open,
    /// single ones above. Returns how many publishes were confirmed.
    pub(crate) fn drain(&mut self, mut send: impl FnMut(ChannelEffect)) -> u64 {
        let open = self.waiters.front().map_or(self.next, |w| w.first);
        self.acked.sort_unstable();
        self.nacked.sort_unstable();
        let confirmed = self.acked.iter().map(|(_, n)| u64::from(*n)).sum();
        // nacks go first; a cumulative one covers nothing that is open or about to be acked, and RabbitMQ makes even a lone one
        // cumulative
        let open_nack = self.acked.first().map_or(open, |(first, _)| open.min(*first));
        let below = self.nacked.iter().take_while(|(first, count)| first + u64::from(*count) <= open_nack).count();
        if below > 0
            && let Some((first, count)) = self.nacked.get(below - 1).copied()
        {
            let tag = first + u64::from(count) - 1;
            send(ChannelEffect::Confirm { tag, count: 1, multiple: true, ack: false });
        }
        for (first, count) in self.nacked.drain(..).skip(below) {
            send(ChannelEffect::Confirm { tag: first, count, multiple: false, ack: false });
        }
        let below = self.acked.iter().take_while(|(first, count)| first + u64::from(*count) <= open).count();
        if below > 0
            && let Some((first, count)) = self.acked.get(below - 1).copied()
        {
            let last = first + u64::from(count) - 1;
            let multiple = below > 1 || count > 1;
            send(ChannelEffect::Confirm { tag: last, count: 1, multiple, ack: true });
        }
        for (first, count) in self.acked.drain(..).skip(below) {
            send(ChannelEffect::Confirm { tag: first, count, multiple: false, ack: true });
        }
        confirmed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// Every publish is confirmed exactly once, whatever the order; a cumulative confirm never covers an open tag.
        #[test]
        fn each_tag_is_confirmed_once(runs in prop::collection::vec((1u32..6, 0u8..4), 1..20), early in prop::collection::vec((1u64..40, 1u32..5, 1u32..3), 0..20)) {
            let mut c = Confirms::new(0);
            let mut open = BTreeSet::new();
            let mut waiting = BTreeSet::new();
            let mut commit = 0;
            let mut sent = vec![];
            for (n, kind) in runs {
                let first = c.publish(n);
                open.extend(first..first + u64::from(n));
                match kind {
                    0 => c.ack_now(first, n),
                    1 => c.nack_now(first, n),
                    _ => { commit += 1; c.wait(first, n, CommitSeq(commit)); waiting.extend(first..first + u64::from(n)); }
                }
            }
            let mut early = early.into_iter();
            for upto in 0..=commit {
                if let Some((t, n, s)) = early.next() { c.ack_early(t, n, s); }
                c.durable(CommitSeq(upto));
                c.drain(|e| sent.push(e));
            }
            for e in sent {
                let ChannelEffect::Confirm { tag, count, multiple, .. } = e else { unreachable!() };
                if multiple {
                    prop_assert!(open.remove(&tag));
                    open.retain(|t| *t > tag);
                } else {
                    for t in tag..tag + u64::from(count) { prop_assert!(open.remove(&t), "{} twice", t); }
                }
            }
            prop_assert!(open.is_empty());
            prop_assert_eq!(c.unconfirmed(), 0);
        }
    }
}

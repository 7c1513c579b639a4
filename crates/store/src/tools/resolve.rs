//! Which messages are waiting, from what the log tells: the broker's rules for a recovery, without the broker.

use hornpipe_types::definition::{Definition, QueueDefinition};
use hornpipe_types::ids::{QueueId, Seq};
use hornpipe_types::op::{Place, Recovered, RunMeta};
use hornpipe_types::replay::{self, Replay};
use hornpipe_types::time::UnixMillis;
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy)]
struct Run {
    count: u32,
    /// Index of its first message in the run at the place.
    index: u32,
    place: Place,
    meta: RunMeta,
}

impl replay::Run for Run {
    fn count(&self) -> u32 {
        self.count
    }
    fn part(&self, from: u32, count: u32) -> Self {
        Self { count, index: self.index + from, ..*self }
    }
}

/// Messages of a queue that are waiting and lie one behind the other in one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) first: Seq,
    pub(crate) count: u32,
    /// Index of the first one in the run at `place`.
    pub(crate) index: u32,
    pub(crate) place: Place,
    pub(crate) meta: RunMeta,
    /// Not before this time, or the place among the returned ones.
    pub(crate) hold_until: UnixMillis,
}

/// What the log says of a queue.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    replay: Replay<Run>,
    states: BTreeMap<Seq, (u32, u32, UnixMillis)>,
}

impl Messages {
    /// What is waiting, in the queue's order. Messages with counters of their own stand alone.
    pub(crate) fn waiting(&self, clean: bool) -> Vec<Stretch> {
        let mut out: Vec<Stretch> = Vec::new();
        for (first, run) in self.replay.runs() {
            for (mut at, end) in self.replay.live(first, first + Seq::from(run.count)) {
                while at < end {
                    let own = self.states.get(&at);
                    let (marked, until) = self.replay.is_redelivered(at);
                    let alike = end.min(until);
                    let next_own = self.states.range(at + 1..alike).next().map_or(alike, |(s, _)| *s);
                    let stop = if own.is_some() { at + 1 } else { next_own };
                    let (mut meta, mut hold_until) = (run.meta, UnixMillis(0));
                    if let Some(own) = own {
                        (meta.delivery_count, meta.acquired_count, hold_until) = *own;
                    }
                    meta.redelivered |= !clean || marked || meta.acquired_count > 0 || own.is_some();
                    let (index, count) = (run.index + (at - first) as u32, (stop - at) as u32);
                    out.push(Stretch { first: at, count, index, place: run.place, meta, hold_until });
                    at = stop;
                }
            }
        }
        out
    }
}

/// Definitions and messages.
#[derive(Debug, Default)]
pub(crate) struct Resolved {
    pub(crate) definitions: Vec<Definition>,
    messages: BTreeMap<QueueId, Messages>,
    /// Whether the last stop was clean: else every message may have been delivered.
    pub(crate) clean: bool,
}

impl Resolved {
    /// Takes in what a recovery tells.
    pub(crate) fn add(&mut self, item: Recovered) {
        match item {
            Recovered::Definition(d) => self.definitions.push(d),
            // no start of a broker would find them
            Recovered::Run { meta: RunMeta { transient: true, .. }, .. } => {}
            Recovered::Run { targets, meta, count, place, .. } => {
                for t in targets {
                    let run = Run { count, index: 0, place, meta };
                    self.messages.entry(t.queue).or_default().replay.enter(t.first_seq, run);
                }
            }
            Recovered::Settled { queue, ranges } => {
                let messages = self.messages.entry(queue).or_default();
                ranges.into_iter().for_each(|r| messages.replay.leave(r));
            }
            Recovered::Redelivered { queue, ranges } => {
                let messages = self.messages.entry(queue).or_default();
                ranges.into_iter().for_each(|r| messages.replay.mark_redelivered(r));
            }
            Recovered::State { queue, seq, delivery_count, acquired_count, hold_until } => {
                let states = &mut self.messages.entry(queue).or_default().states;
                states.insert(seq, (delivery_count, acquired_count, hold_until));
            }
            Recovered::Purge { queue, upto, except } => {
                let messages = self.messages.entry(queue).or_default();
                messages.replay.purge(upto, &except);
            }
            Recovered::DropQueue(queue) => {
                self.messages.remove(&queue);
            }
            // Reading shows it, message by message.
            Recovered::Record { .. } | Recovered::Hurt { .. } => {}
            Recovered::End { clean, .. } => self.clean = clean,
        }
    }

    /// The queues that are defined, by id, with what is waiting in them.
    pub(crate) fn queues(&self) -> Vec<(&QueueDefinition, Vec<Stretch>)> {
        let mut queues: Vec<_> = self
            .definitions
            .iter()
            .filter_map(|d| match d {
                Definition::Queue(q) => Some((q, self.messages.get(&q.id).map(|m| m.waiting(self.clean)))),
                _ => None,
            })
            .map(|(q, waiting)| (q, waiting.unwrap_or_default()))
            .collect();
        queues.sort_by_key(|(q, _)| q.id);
        queues
    }

    /// Messages of queues that are not defined any more: nobody will get them.
    pub(crate) fn homeless(&self) -> u64 {
        let known: std::collections::BTreeSet<QueueId> = self.queues().iter().map(|(q, _)| q.id).collect();
        let others = self.messages.iter().filter(|(id, _)| !known.contains(id));
        others.flat_map(|(_, m)| m.waiting(true)).map(|s| u64::from(s.count)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hornpipe_types::op::Target;
    use hornpipe_types::range::SeqRange;
    use proptest::prelude::*;

    fn place(lsn: u64) -> Place {
        Place { lsn, part: 0, index: 0, body: None }
    }

    proptest! {
        /// Against a map from seq to where the message lies.
        #[test]
        fn what_waits_is_what_a_plain_map_says(ops in prop::collection::vec((0u8..4, 0u64..60, 1u32..12), 1..40)) {
            let mut resolved = Resolved::default();
            let (mut model, mut gone) = (BTreeMap::new(), std::collections::BTreeSet::new());
            let queue = QueueId(1);
            for (n, (kind, first, count)) in ops.into_iter().enumerate() {
                let n = n as u64;
                match kind {
                    0 | 1 => {
                        let targets = vec![Target { queue, first_seq: first }];
                        let meta = RunMeta::default();
                        resolved.add(Recovered::Run { targets, meta, count, body_bytes: 0, place: place(n) });
                        model.extend((0..u64::from(count)).map(|i| (first + i, (n, i as u32))));
                    }
                    2 => {
                        let range = SeqRange { first, count, step: 1 + count % 3 };
                        gone.extend(range.iter());
                        resolved.add(Recovered::Settled { queue, ranges: vec![range] });
                    }
                    _ => {
                        let except = vec![SeqRange::dense(first / 2, count)];
                        gone.extend((0..=first).filter(|s| !except[0].iter().any(|e| e == *s)));
                        resolved.add(Recovered::Purge { queue, upto: first, except });
                    }
                }
            }
            model.retain(|seq, _| !gone.contains(seq));
            let waiting = resolved.messages.get(&queue).map(|m| m.waiting(true)).unwrap_or_default();
            let found: BTreeMap<_, _> = waiting
                .iter()
                .flat_map(|s| (0..s.count).map(move |i| (s.first + u64::from(i), (s.place.lsn, s.index + i))))
                .collect();
            prop_assert_eq!(found, model);
        }
    }
}

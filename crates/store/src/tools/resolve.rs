//! Which messages are waiting, from what the log tells: the broker's rules for a recovery, without the broker.

use hornpipe_types::definition::{Definition, QueueDefinition};
use hornpipe_types::ids::{QueueId, Seq};
use hornpipe_types::op::{Place, Recovered, RunMeta};
use hornpipe_types::range::SeqRange;
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

/// Messages of a queue that are waiting and lie one behind the other in one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) first: Seq,
    pub(crate) count: u32,
    /// Index of the first one in the run at `place`.
    pub(crate) index: u32,
    pub(crate) place: Place,
    pub(crate) meta: RunMeta,
    /// Not before this time; 0 = at once.
    pub(crate) hold_until: UnixMillis,
}

/// What the log says of a queue.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    /// By first seq; no two overlap.
    runs: BTreeMap<Seq, Run>,
    /// First → end (exclusive) of what has left; merged.
    gone: BTreeMap<Seq, Seq>,
    states: BTreeMap<Seq, (u32, u32, UnixMillis)>,
}

impl Messages {
    /// `first .. end` has left.
    fn remove(&mut self, first: Seq, end: Seq) {
        let (mut first, mut end) = (first, end);
        if let Some((f, e)) = self.gone.range(..=first).next_back().map(|(f, e)| (*f, *e))
            && e >= first
        {
            (first, end) = (f, end.max(e));
        }
        let inside: Vec<Seq> = self.gone.range(first..=end).map(|(f, _)| *f).collect();
        for f in inside {
            end = end.max(self.gone.remove(&f).unwrap_or(end));
        }
        self.gone.insert(first, end);
    }
    /// A run enters; what it overlaps is replaced by it.
    fn add(&mut self, first: Seq, run: Run) {
        let end = first + Seq::from(run.count);
        let before = self.runs.range(..end).rev();
        let hit: Vec<Seq> = before.take_while(|(f, r)| **f + Seq::from(r.count) > first).map(|(f, _)| *f).collect();
        for f in hit {
            let Some(old) = self.runs.remove(&f) else { continue };
            let old_end = f + Seq::from(old.count);
            if f < first {
                self.runs.insert(f, Run { count: (first - f) as u32, ..old });
            }
            if old_end > end {
                let cut = (end - f) as u32;
                self.runs.insert(end, Run { count: old.count - cut, index: old.index + cut, ..old });
            }
        }
        self.runs.insert(first, run);
    }
    /// What is waiting, in the queue's order. Messages with counters of their own stand alone.
    pub(crate) fn waiting(&self, clean: bool) -> Vec<Stretch> {
        let mut out: Vec<Stretch> = Vec::new();
        for (first, run) in &self.runs {
            let (mut at, end) = (*first, first + Seq::from(run.count));
            while at < end {
                if let Some((_, e)) = self.gone.range(..=at).next_back().filter(|(_, e)| **e > at) {
                    at = *e;
                    continue;
                }
                let next_gone = self.gone.range(at..end).next().map_or(end, |(f, _)| *f);
                let own = self.states.get(&at);
                let next_own = self.states.range(at + 1..next_gone).next().map_or(next_gone, |(s, _)| *s);
                let stop = if own.is_some() { at + 1 } else { next_own };
                let (mut meta, mut hold_until) = (run.meta, UnixMillis(0));
                if let Some(own) = own {
                    (meta.delivery_count, meta.acquired_count, hold_until) = *own;
                }
                meta.redelivered |= !clean || meta.acquired_count > 0 || own.is_some();
                let index = run.index + (at - first) as u32;
                out.push(Stretch { first: at, count: (stop - at) as u32, index, place: run.place, meta, hold_until });
                at = stop;
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
            Recovered::Run { targets, meta, count, place, .. } => {
                for t in targets {
                    let run = Run { count, index: 0, place, meta };
                    self.messages.entry(t.queue).or_default().add(t.first_seq, run);
                }
            }
            Recovered::Settled { queue, ranges } => {
                let messages = self.messages.entry(queue).or_default();
                for r in ranges {
                    if r.step == 1 {
                        messages.remove(r.first, r.last() + 1);
                    } else {
                        r.iter().for_each(|seq| messages.remove(seq, seq + 1));
                    }
                }
            }
            Recovered::State { queue, seq, delivery_count, acquired_count, hold_until } => {
                let states = &mut self.messages.entry(queue).or_default().states;
                states.insert(seq, (delivery_count, acquired_count, hold_until));
            }
            Recovered::Purge { queue, upto, except } => {
                let messages = self.messages.entry(queue).or_default();
                let mut at = 0;
                for seq in except.iter().flat_map(SeqRange::iter) {
                    if seq > at {
                        messages.remove(at, seq);
                    }
                    at = seq + 1;
                }
                if at <= upto {
                    messages.remove(at, upto + 1);
                }
            }
            Recovered::DropQueue(queue) => {
                self.messages.remove(&queue);
            }
            Recovered::Record { .. } => {}
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

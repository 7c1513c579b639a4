//! A disk that keeps in maps what the store would keep in files, and knows what recovery would find.

use hornpipe_types::effect::{Load, Loaded};
use hornpipe_types::ids::{QueueId, Seq};
use hornpipe_types::message::{Batch, BatchBuilder, Span};
use hornpipe_types::op::{BodyPlace, Committed, Enqueue, Group, Place, StoreOp, Target};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Groups that were handed over, and what those on disk hold.
#[derive(Debug, Default)]
pub struct Disk {
    /// Messages lie in body files, three groups to a file, instead of in the records.
    pub in_files: bool,
    waiting: VecDeque<Group>,
    last_lsn: u64,
    /// Where the next message in each body file goes.
    ends: BTreeMap<u64, u64>,
    runs: BTreeMap<Place, Arc<Batch>>,
    /// Places of runs that a restart forgets.
    transient: BTreeSet<Place>,
    /// Unsettled messages and where they lie: what a restart would bring back.
    live: BTreeMap<(QueueId, Seq), (Place, u32)>,
}

fn holds_the_same(a: &Enqueue, b: &Enqueue) -> bool {
    a.spans().count() == b.spans().count() && a.spans().zip(b.spans()).all(|(a, b)| a.is_same(b))
}

/// The messages of spans as a batch of their own.
fn copied<'a>(spans: impl IntoIterator<Item = &'a Span>) -> Arc<Batch> {
    let mut b = BatchBuilder::default();
    spans.into_iter().for_each(|span| b.append(span));
    b.finish()
}

impl Disk {
    /// Takes a group to be written.
    pub fn hand_over(&mut self, group: Group) {
        self.waiting.push_back(group);
    }
    /// Groups not on disk yet.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Writes the oldest group.
    pub fn commit(&mut self) -> Option<Committed> {
        let group = self.waiting.pop_front()?;
        let logs = group.ops.iter().any(|op| !matches!(op, StoreOp::Put(_) | StoreOp::Delete(_)));
        let mut committed = Committed { upto: group.upto, ..Committed::default() };
        if logs {
            self.last_lsn += 1;
            committed.lsn = self.last_lsn;
        }
        // like the store: what holds the same as the run before lies there once
        let mut before: Option<(Enqueue, BodyPlace)> = None;
        for (index, op) in group.ops.into_iter().enumerate() {
            let at = Place { lsn: self.last_lsn, part: 0, index: index as u16, body: None };
            match op {
                StoreOp::Enqueue(e) => {
                    let batch = copied(e.spans());
                    let len: usize = (0..batch.len()).map(|i| batch.frames(i).len()).sum();
                    let same = before.as_ref().filter(|(before, _)| holds_the_same(before, &e)).map(|(_, body)| *body);
                    let body = self.in_files.then(|| {
                        same.unwrap_or_else(|| {
                            let file = self.last_lsn / 3 + 1;
                            let end = self.ends.entry(file).or_default();
                            let offset = *end;
                            *end += len as u64;
                            BodyPlace { file, offset, len: len as u32, crc: 0 }
                        })
                    });
                    before = body.map(|body| (e.clone(), body));
                    let place = Place { body, ..at };
                    self.put(place, batch, &e.targets);
                    if e.meta.transient {
                        self.transient.insert(place);
                    }
                    committed.places.push((e.id, place));
                }
                StoreOp::Refer { id, targets, meta, place, from, count } => {
                    let there = self.runs.get(&place);
                    let there = Arc::clone(there.unwrap_or_else(|| panic!("reference to {place:?}, which is gone")));
                    let is_part = place.body.is_some() && (place.is_part() || count != there.len());
                    let batch = copied([&Span { batch: there, from, count, step: 1 }]);
                    let index = at.index | if is_part { Place::PART } else { 0 };
                    let place = Place { body: place.body, index, ..at };
                    self.put(place, batch, &targets);
                    if meta.transient {
                        self.transient.insert(place);
                    }
                    committed.places.push((id, place));
                }
                StoreOp::Settled { queue, ranges } => {
                    for seq in ranges.iter().flat_map(|r| r.iter()) {
                        self.live.remove(&(queue, seq));
                    }
                }
                StoreOp::Purge { queue, upto, except } => {
                    let stays: Vec<Seq> = except.iter().flat_map(|r| r.iter()).collect();
                    self.live.retain(|(q, seq), _| *q != queue || *seq > upto || stays.contains(seq));
                }
                StoreOp::DropQueue(queue) => self.live.retain(|(q, _), _| *q != queue),
                StoreOp::State { .. } | StoreOp::Redelivered { .. } | StoreOp::Put(_) | StoreOp::Delete(_) => {}
            }
        }
        self.runs.retain(|place, _| {
            !group.remove_records.contains(&place.lsn)
                && !place.body.is_some_and(|b| group.remove_files.contains(&b.file))
        });
        for (at, (place, _)) in &self.live {
            assert!(self.runs.contains_key(place), "the message {at:?} is live, but its run at {place:?} was removed");
        }
        Some(committed)
    }

    fn put(&mut self, place: Place, batch: Arc<Batch>, targets: &[Target]) {
        for target in targets {
            for i in 0..batch.len() {
                self.live.insert((target.queue, target.first_seq + u64::from(i)), (place, i));
            }
        }
        self.runs.insert(place, batch);
    }

    /// Reads a run.
    pub fn read(&self, load: &Load) -> Loaded {
        let run = |place: &Place| self.runs.get(place).cloned().ok_or_else(|| format!("{place:?} is gone"));
        Loaded { id: load.id, batch: load.read_with(run) }
    }

    /// Whether a run is there.
    pub fn has(&self, place: &Place) -> bool {
        self.runs.contains_key(place)
    }

    /// What a restart would find of a queue: each message's batch and index, in order.
    pub fn messages(&self, queue: QueueId) -> Vec<(Arc<Batch>, u32)> {
        let range = (queue, 0)..=(queue, Seq::MAX);
        let kept = self.live.range(range).filter(|(_, (place, _))| !self.transient.contains(place));
        let found = kept.filter_map(|(_, (place, i))| Some((Arc::clone(self.runs.get(place)?), *i)));
        found.collect()
    }
    /// The body files that were not removed: octets of each, and of what is live in it, once however many runs share it.
    pub fn files(&self) -> BTreeMap<u64, (u64, u64)> {
        let there = self.runs.keys().filter_map(|place| place.body).map(|body| body.file);
        let mut files: BTreeMap<u64, (u64, u64)> =
            there.map(|file| (file, (self.ends.get(&file).copied().unwrap_or(0), 0))).collect();
        let mut live = BTreeMap::new();
        for (place, i) in self.live.values() {
            let (Some(body), Some(batch)) = (place.body, self.runs.get(place)) else { continue };
            // what is part of a longer run counts apart from it
            let part = place.is_part().then_some(*place);
            live.insert((body, part, *i), batch.frames(*i).len() as u64);
        }
        for ((body, ..), octets) in live {
            files.entry(body.file).or_default().1 += octets;
        }
        files
    }
    /// Unsettled messages of all queues.
    pub fn live(&self) -> usize {
        self.live.len()
    }
}

//! Random groups, restarts in between: what is told and read is what a plain list says.

#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use hornpipe_store::{Memory, Store};
use hornpipe_types::definition::{Definition, DefinitionKey};
use hornpipe_types::ids::{EnqueueId, QueueId};
use hornpipe_types::message::{Batch, Span};
use hornpipe_types::op::{Enqueue, Group, Place, Recovered, RunMeta, StoreOp};
use hornpipe_types::range::SeqRange;
use hornpipe_types::time::UnixMillis;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a test case is made of; indexes are taken modulo what there is.
#[derive(Debug, Clone)]
enum Step {
    Enqueue { sizes: Vec<usize>, from: usize, targets: u64, meta: (u64, u8, bool) },
    Refer { run: usize, from: usize, count: usize },
    Settled(Vec<(u64, u32, u32)>),
    State(u64, u32),
    Purge(u64),
    Drop(u64),
    Put(u8, usize),
    Delete(u8),
    RemoveRecord(usize),
    Commit,
    Sync,
    Restart { clean: bool },
}

fn any_step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![4 => 0usize..200, 2 => 900usize..1100, 1 => 20_000usize..60_000];
    let enqueue = (prop::collection::vec(size, 1..20), any::<usize>(), 1u64..4, any::<(u64, u8, bool)>())
        .prop_map(|(sizes, from, targets, meta)| Step::Enqueue { sizes, from, targets, meta });
    let ranges = prop::collection::vec((any::<u64>(), 1u32..9, 1u32..5), 0..6);
    prop_oneof![
        6 => enqueue,
        3 => any::<(usize, usize, usize)>().prop_map(|(run, from, count)| Step::Refer { run, from, count }),
        2 => ranges.prop_map(Step::Settled),
        1 => any::<(u64, u32)>().prop_map(|(a, b)| Step::State(a, b)),
        1 => any::<u64>().prop_map(Step::Purge),
        1 => any::<u64>().prop_map(Step::Drop),
        2 => (0u8..5, 0usize..120_000).prop_map(|(k, n)| Step::Put(k, n)),
        1 => (0u8..5).prop_map(Step::Delete),
        3 => any::<usize>().prop_map(Step::RemoveRecord),
        4 => Just(Step::Commit),
        2 => Just(Step::Sync),
        1 => any::<bool>().prop_map(|clean| Step::Restart { clean }),
    ]
}

/// A record as it must be told: its ops in words, its runs' contents.
type Record = Vec<(String, Option<Arc<Batch>>)>;

#[derive(Debug, Default)]
struct Model {
    definitions: BTreeMap<DefinitionKey, Definition>,
    records: BTreeMap<u64, Record>,
    /// Runs whose place is known: place, contents.
    runs: Vec<(Place, Arc<Batch>)>,
}

/// An item without its place, which the model does not know beforehand.
fn words(item: &Recovered) -> String {
    match item {
        Recovered::Run { targets, meta, count, body_bytes, .. } => run_words(targets, meta, *count, *body_bytes),
        other => format!("{other:?}"),
    }
}

fn run_words(targets: &[hornpipe_types::op::Target], meta: &RunMeta, count: u32, body_bytes: u64) -> String {
    format!("run {targets:?} {meta:?} {count} {body_bytes}")
}

fn slice(batch: &Arc<Batch>, from: u32, count: u32) -> Arc<Batch> {
    let mut b = hornpipe_types::message::BatchBuilder::default();
    for i in from..from + count {
        let route = b.push_full_route(batch.full_route(i));
        b.push_copy(batch, i, route);
    }
    b.finish()
}

struct Case<'a> {
    bed: &'a dyn Bed,
    store: Store,
    model: Model,
    group: Group,
    /// Record of the group in the making.
    record: Record,
    /// Runs of groups committed and not yet reported.
    unreported: BTreeMap<u64, Arc<Batch>>,
    next: u64,
}

impl Case<'_> {
    fn step(&mut self, step: &Step) {
        self.next += 1;
        let n = self.next;
        match step {
            Step::Enqueue { sizes, from, targets, meta } => {
                let b = batch(n, sizes);
                let from = (from % sizes.len()) as u32;
                let span = Span { batch: b.clone(), from, count: b.len() - from, step: 1 };
                let meta = RunMeta {
                    deadline: UnixMillis(meta.0),
                    priority: meta.1,
                    redelivered: meta.2,
                    ..RunMeta::default()
                };
                let targets: Vec<_> = (0..*targets).map(|t| target(t, n * 100)).collect();
                let contents = slice(&b, from, span.count);
                self.record.push((run_words(&targets, &meta, span.count, span.body_bytes()), Some(contents.clone())));
                self.unreported.insert(n, contents);
                // every other run comes in two parts
                let front = if n.is_multiple_of(2) { span.count.div_ceil(2) } else { span.count };
                let back = Span { from: span.from + front, count: span.count - front, ..span.clone() };
                let more = if back.count > 0 { vec![back] } else { Vec::new() };
                let span = Span { count: front, ..span };
                self.group.ops.push(StoreOp::Enqueue(Enqueue { id: EnqueueId(n), targets, meta, span, more }));
            }
            Step::Refer { run, from, count } => {
                if self.model.runs.is_empty() {
                    return;
                }
                let (place, b) = self.model.runs[run % self.model.runs.len()].clone();
                if self.group.remove_records.contains(&place.lsn) {
                    // Fine as well, but only in the group that removes it.
                    self.commit();
                    return;
                }
                let from = (*from % b.len() as usize) as u32;
                let count = 1 + (*count % (b.len() - from) as usize) as u32;
                let contents = slice(&b, from, count);
                let targets = vec![target(77, n * 100)];
                let meta = RunMeta { delivery_count: 3, acquired_count: 4, ..RunMeta::default() };
                let sum = contents.body_bytes(0, count, 1);
                self.record.push((run_words(&targets, &meta, count, sum), Some(contents.clone())));
                self.unreported.insert(n, contents);
                self.group.ops.push(StoreOp::Refer { id: EnqueueId(n), targets, meta, place, from, count });
            }
            Step::Settled(ranges) => {
                if ranges.is_empty() {
                    return;
                }
                let ranges: Vec<_> =
                    ranges.iter().map(|&(first, count, step)| SeqRange { first, count, step }).collect();
                let item = Recovered::Settled { queue: QueueId(n), ranges: ranges.clone() };
                self.op(StoreOp::Settled { queue: QueueId(n), ranges }, &item);
            }
            Step::State(seq, c) => {
                let (queue, seq, hold_until) = (QueueId(n), *seq, UnixMillis(n));
                self.op(
                    StoreOp::State { queue, seq, delivery_count: *c, acquired_count: c ^ 1, hold_until },
                    &Recovered::State { queue, seq, delivery_count: *c, acquired_count: c ^ 1, hold_until },
                );
            }
            Step::Purge(upto) => {
                let (queue, upto, except) = (QueueId(n), *upto, vec![SeqRange::dense(*upto, 1)]);
                self.op(
                    StoreOp::Purge { queue, upto, except: except.clone() },
                    &Recovered::Purge { queue, upto, except },
                );
            }
            Step::Drop(q) => self.op(StoreOp::DropQueue(QueueId(*q)), &Recovered::DropQueue(QueueId(*q))),
            Step::Put(k, size) => {
                let d = parameter(&format!("p{k}"), "v".repeat(*size));
                self.model.definitions.insert(d.key(), d.clone());
                self.group.ops.push(StoreOp::Put(d));
            }
            Step::Delete(k) => {
                let key = parameter(&format!("p{k}"), "").key();
                self.model.definitions.remove(&key);
                self.group.ops.push(StoreOp::Delete(key));
            }
            Step::RemoveRecord(i) => {
                let reported: Vec<u64> = self.model.records.keys().copied().collect();
                if !reported.is_empty() {
                    let lsn = reported[i % reported.len()];
                    self.group.remove_records.push(lsn);
                    self.model.records.remove(&lsn);
                    // What refers to it in this very group stays valid.
                    self.model.runs.retain(|r| r.0.lsn != lsn);
                }
            }
            Step::Commit => self.commit(),
            Step::Sync => self.sync(),
            Step::Restart { clean } => self.restart(*clean),
        }
    }

    fn op(&mut self, op: StoreOp, item: &Recovered) {
        self.group.ops.push(op);
        self.record.push((words(item), None));
    }

    fn commit(&mut self) {
        let group = std::mem::take(&mut self.group);
        let record = std::mem::take(&mut self.record);
        let lsn = self.store.commit(&group).expect("commits");
        assert_eq!(lsn == 0, record.is_empty());
        if lsn != 0 {
            assert!(self.model.records.insert(lsn, record).is_none());
        }
    }

    fn sync(&mut self) {
        self.commit();
        for c in self.store.sync().expect("syncs") {
            for (id, place) in c.places {
                let contents = self.unreported.remove(&id.0).expect("reported once");
                if self.model.records.contains_key(&place.lsn) {
                    self.model.runs.push((place, contents));
                }
            }
        }
        assert!(self.unreported.is_empty());
    }

    fn restart(&mut self, clean: bool) {
        self.sync();
        let scratch = Store::with_medium(Box::new(Memory::new()), config());
        let old = std::mem::replace(&mut self.store, scratch);
        if clean {
            old.close().expect("closes");
        } else {
            drop(old);
        }
        let (store, told) = open(self.bed);
        self.store = store;
        assert_eq!(told.clean, clean);
        let definitions: BTreeMap<_, _> = told.definitions.into_iter().map(|d| (d.key(), d)).collect();
        assert!(definitions == self.model.definitions, "definitions");
        let items = told.items.iter().filter(|i| !matches!(i, Recovered::Record { .. }));
        let expected: Vec<_> = self.model.records.values().flatten().collect();
        let told_words: Vec<_> = items.clone().map(words).collect();
        assert_eq!(told_words, expected.iter().map(|e| e.0.clone()).collect::<Vec<_>>());
        let reader = self.store.reader();
        for (item, (_, contents)) in items.zip(expected) {
            if let (Recovered::Run { place, .. }, Some(contents)) = (item, contents) {
                assert_reads(&reader, place, contents);
                let known = self.model.runs.iter().find(|r| r.0 == *place);
                assert!(known.is_some(), "a place that was reported: {place:?}");
            }
        }
        let mut without_runs: Vec<u64> =
            self.model.records.iter().filter(|r| r.1.iter().all(|o| o.1.is_none())).map(|r| *r.0).collect();
        without_runs.sort_unstable();
        let told_records: Vec<u64> = told
            .items
            .iter()
            .filter_map(|i| match i {
                Recovered::Record { lsn } => Some(*lsn),
                _ => None,
            })
            .collect();
        assert_eq!(told_records, without_runs);
    }
}

fn check(bed: &dyn Bed, steps: &[Step]) {
    let (store, _) = open(bed);
    let mut case = Case {
        bed,
        store,
        model: Model::default(),
        group: Group::default(),
        record: Vec::new(),
        unreported: BTreeMap::new(),
        next: 0,
    };
    for step in steps {
        case.step(step);
    }
    case.restart(false);
    case.restart(true);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn in_memory(steps in prop::collection::vec(any_step(), 1..60)) {
        check(&InMemory(Memory::new()), &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn on_sled(steps in prop::collection::vec(any_step(), 1..80)) {
        check(&on_disk(), &steps);
    }
}

//! What the tests of the store share: backends behind one face, groups by hand, and what a reopened store tells.
#![allow(dead_code, unreachable_pub, missing_docs, missing_debug_implementations)]

pub mod script;

use hornpipe_store::{Call, Fault, Faulty, Memory, Reader, Store, StoreConfig, StoreError};
use hornpipe_types::definition::{Definition, ParameterDefinition};
use hornpipe_types::ids::{CommitSeq, EnqueueId, QueueId};
use hornpipe_types::message::{Batch, BatchBuilder, MessageMeta, Span};
use hornpipe_types::op::{Committed, Enqueue, Group, Place, Recovered, RunMeta, StoreOp, Target};
use std::sync::Arc;
use std::time::Duration;

/// A medium that survives its store.
pub trait Bed {
    fn open(&self, config: StoreConfig) -> Result<Store, StoreError>;
}

pub struct OnDisk(pub tempfile::TempDir);
pub struct InMemory(pub Memory);
pub struct Wrapped(pub Memory);

impl Bed for OnDisk {
    fn open(&self, config: StoreConfig) -> Result<Store, StoreError> {
        Store::open(self.0.path(), config)
    }
}
impl Bed for InMemory {
    fn open(&self, config: StoreConfig) -> Result<Store, StoreError> {
        Ok(Store::with_medium(Box::new(self.0.clone()), config))
    }
}
impl Bed for Wrapped {
    fn open(&self, config: StoreConfig) -> Result<Store, StoreError> {
        let (medium, faults) = Faulty::new(self.0.clone());
        // Slow now and then.
        for call in Call::ALL {
            for skip in [0, 3, 9] {
                faults.arm(call, skip, Fault::Delay(Duration::from_millis(2)));
            }
        }
        Ok(Store::with_medium(Box::new(medium), config))
    }
}

pub fn on_disk() -> OnDisk {
    OnDisk(tempfile::tempdir().expect("a temporary folder"))
}

pub fn beds() -> Vec<(&'static str, Box<dyn Bed>)> {
    vec![
        ("sled", Box::new(on_disk())),
        ("memory", Box::new(InMemory(Memory::new()))),
        ("faulty", Box::new(Wrapped(Memory::new()))),
    ]
}

/// Small files, so that they change often, and a mark with every sync.
pub fn config() -> StoreConfig {
    StoreConfig { body_file_bytes: 256 << 10, mark_every: Duration::ZERO, ..StoreConfig::default() }
}

/// What a store told while it recovered.
#[derive(Debug, Default)]
pub struct Told {
    pub definitions: Vec<Definition>,
    pub items: Vec<Recovered>,
    pub clean: bool,
    pub orphans: Vec<u64>,
}

impl Told {
    pub fn runs(&self) -> Vec<(Vec<Target>, RunMeta, u32, u64, Place)> {
        self.items
            .iter()
            .filter_map(|i| match i {
                Recovered::Run { targets, meta, count, body_bytes, place } => {
                    Some((targets.clone(), *meta, *count, *body_bytes, *place))
                }
                _ => None,
            })
            .collect()
    }
}

pub fn recover(store: &mut Store) -> Result<Told, StoreError> {
    let mut told = Told::default();
    let mut ended = false;
    store.recover(&mut |item| {
        assert!(!ended, "something after the end");
        match item {
            Recovered::Definition(d) => {
                assert!(told.items.is_empty(), "a definition after the log began");
                told.definitions.push(d);
            }
            Recovered::End { clean, orphan_files } => {
                ended = true;
                told.clean = clean;
                told.orphans = orphan_files;
            }
            other => told.items.push(other),
        }
    })?;
    assert!(ended, "no end");
    Ok(told)
}

/// Opens once nobody else has it: a child that another test starts has our locks too, from its fork until it is another program.
pub fn open_alone(bed: &dyn Bed) -> Result<Store, StoreError> {
    for _ in 0..10_000 {
        match bed.open(config()) {
            Err(StoreError::Locked { .. }) => std::thread::sleep(Duration::from_millis(1)),
            opened => return opened,
        }
    }
    bed.open(config())
}

pub fn open(bed: &dyn Bed) -> (Store, Told) {
    let mut store = open_alone(bed).expect("opens");
    let told = recover(&mut store).expect("recovers");
    (store, told)
}

/// Messages of these sizes; content follows from `salt`.
pub fn batch(salt: u64, sizes: &[usize]) -> Arc<Batch> {
    let mut b = BatchBuilder::default();
    b.push_route("unused", "route");
    let routes = [b.push_route("ex", "key"), b.push_route("", "other.key")];
    for (i, &size) in sizes.iter().enumerate() {
        let header = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 2];
        let body: Vec<u8> = (0..size as u64)
            .map(|k| (k.wrapping_mul(31) ^ (k >> 8) ^ (salt + i as u64).wrapping_mul(167)) as u8)
            .collect();
        let meta =
            MessageMeta { route: routes[i % 3 / 2], flags: 1, priority: (i % 2) as u8, ..MessageMeta::default() };
        b.push_message(&header, [&body[..]], meta, 128 << 10);
    }
    b.finish()
}

pub fn target(queue: u64, first_seq: u64) -> Target {
    Target { queue: QueueId(queue), first_seq }
}

pub fn enqueue(id: u64, targets: Vec<Target>, batch: &Arc<Batch>) -> StoreOp {
    let span = Span::whole(batch.clone());
    StoreOp::Enqueue(Enqueue { id: EnqueueId(id), targets, meta: RunMeta::default(), span, more: Vec::new() })
}

pub fn group(upto: u64, ops: Vec<StoreOp>) -> Group {
    Group { upto: CommitSeq(upto), ops, ..Group::default() }
}

pub fn parameter(name: &str, value: impl Into<String>) -> Definition {
    Definition::Parameter(ParameterDefinition {
        vhost: Some("/".into()),
        component: "test".into(),
        name: name.into(),
        value: value.into(),
    })
}

pub fn put(store: &mut Store, g: &Group) -> Committed {
    store.commit(g).expect("commits");
    store.sync().expect("syncs").pop().expect("one group")
}

pub fn assert_same(span: &Span, back: &Batch) {
    assert_eq!(span.count, back.len());
    for (k, i) in span.indexes().enumerate() {
        let k = k as u32;
        assert_eq!(span.batch.frames(i), back.frames(k));
        assert_eq!((span.batch.exchange(i), span.batch.routing_key(i)), (back.exchange(k), back.routing_key(k)));
        let (a, b) = (span.batch.meta(i), back.meta(k));
        assert_eq!((a.len, a.body, a.flags, a.priority), (b.len, b.body, b.flags, b.priority));
    }
}

pub fn assert_reads(reader: &Reader, place: &Place, expected: &Arc<Batch>) {
    assert_same(&Span::whole(expected.clone()), &reader.read(place).expect("reads"));
}

//! Writes a stopped store anew: only what is live, in order.

use super::Stopped;
use super::export::Writer;
use crate::error::StoreError;
use crate::record::SLICED;
use crate::shards::{COMPACTING, folder};
use crate::{Store, StoreConfig, disk};
use hornpipe_types::ids::{QueueId, Seq};
use hornpipe_types::message::Span;
use hornpipe_types::op::{Place, RunMeta, Target};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Octets before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compacted {
    /// Of database and body files before.
    pub before: u64,
    /// And after.
    pub after: u64,
    /// Messages that are waiting.
    pub messages: u64,
}

/// A live part of a run: its first index and the one behind its last.
type Part = (u32, u32);

/// All of a [`RunMeta`].
type MetaKey = (u64, u8, bool, u32, u32);

/// Writes each store of the data folder `dir` anew and puts it in the place of the old one, which is removed.
///
/// # Errors
/// When a store is in use or damaged, or the file system can't exchange two folders at once. The old store is untouched
/// then, those of shards before it are done, and nothing is left of the copy. A crash leaves the old store or the new one, and
/// perhaps a folder `compacting` that the next start or compaction removes.
pub fn compact(dir: &Path, config: &StoreConfig) -> Result<Compacted, StoreError> {
    let mut sum = Compacted::default();
    for config in super::shards(dir, config)? {
        let done = compact_shard(dir, &config)?;
        sum.before += done.before;
        sum.after += done.after;
        sum.messages += done.messages;
    }
    Ok(sum)
}

fn compact_shard(dir: &Path, config: &StoreConfig) -> Result<Compacted, StoreError> {
    let beside = dir.join(COMPACTING);
    let stopped = Stopped::open(dir, config)?;
    disk::remove_dir(&beside)?;
    let done = copy(stopped, dir, &beside, config).and_then(|done| exchange(dir, &beside, config).map(|()| done));
    if done.is_err() {
        // The error is what matters: what can't be removed now, a start removes.
        let _ = disk::remove_dir(&beside);
    }
    let done = done?;
    disk::sync_dir(dir)?;
    disk::sync_dir(&beside)?;
    disk::remove_dir(&beside)?;
    Ok(done)
}

/// Puts the copy of a store in its place; durable once the folders are synced.
fn exchange(dir: &Path, beside: &Path, config: &StoreConfig) -> Result<(), StoreError> {
    let (old, new) = (folder(dir, config.shard), folder(beside, config.shard));
    renameat_with(CWD, &old, CWD, &new, RenameFlags::EXCHANGE)
        .map_err(|e| disk::io_error("cannot exchange with its copy", &old)(e.into()))
}

/// Writes a store anew into the folder `beside`, and looks whether the copy is right.
fn copy(stopped: Stopped, dir: &Path, beside: &Path, config: &StoreConfig) -> Result<Compacted, StoreError> {
    stopped.check_log()?;
    let sizes = |files: u64, map: u64| files + map;
    let before = sizes(stopped.inspected.files.iter().map(|f| f.1).sum(), stopped.medium.map_bytes());
    let reader = stopped.reader();
    let mut store = Store::open(beside, config.clone())?;
    store.recover(&mut |_| {})?;
    let mut writer = Writer::new(&mut store);
    for definition in &stopped.resolved.definitions {
        writer.definition(definition.clone())?;
    }
    let mut messages = 0;
    // What lies together stays together, and what several queues share is written once.
    let mut parts: BTreeMap<(Place, Part, MetaKey), (RunMeta, Vec<Target>)> = BTreeMap::new();
    // Runs that share a body are one run of different kinds: the first place stands for all.
    let mut first: BTreeMap<(u64, u64), Place> = BTreeMap::new();
    let queues = stopped.resolved.queues();
    let mut cuts: BTreeMap<Place, BTreeSet<u32>> = BTreeMap::new();
    for s in queues.iter().flat_map(|(_, waiting)| waiting) {
        if let Some(body) = whole_body(&s.place) {
            let place = first.entry(body).or_insert(s.place);
            *place = s.place.min(*place);
        }
    }
    let leader = |place: &Place| whole_body(place).and_then(|body| first.get(&body)).copied().unwrap_or(*place);
    for s in queues.iter().flat_map(|(_, waiting)| waiting) {
        cuts.entry(leader(&s.place)).or_default().extend([s.index, s.index + s.count]);
        messages += u64::from(s.count);
    }
    for (queue, waiting) in &queues {
        let queue: QueueId = queue.id;
        for s in waiting {
            let place = leader(&s.place);
            let Some(cuts) = cuts.get(&place) else { continue };
            let mut at = s.index;
            for end in cuts.range(s.index + 1..=s.index + s.count) {
                let target = Target { queue, first_seq: s.first + Seq::from(at - s.index) };
                let key = (place, (at, *end), meta_key(&s.meta));
                parts.entry(key).or_insert_with(|| (s.meta, Vec::new())).1.push(target);
                at = *end;
            }
        }
    }
    let held: Vec<_> = queues
        .iter()
        .flat_map(|(q, waiting)| waiting.iter().filter(|s| s.hold_until.0 > 0).map(|s| (q.id, *s)))
        .collect();
    drop(queues);
    let mut last = None;
    for ((place, (from, end), _), (meta, targets)) in parts {
        let batch = match last.take() {
            Some((of, batch)) if of == place => batch,
            _ => reader.read(&place)?,
        };
        if end > batch.len() {
            return Err(StoreError::damaged("the log", "a queue waits for messages a run does not have"));
        }
        let span = Span { batch: std::sync::Arc::clone(&batch), from, count: end - from, step: 1 };
        writer.enqueue(targets, meta, span)?;
        last = Some((place, batch));
    }
    for (queue, stretch) in held {
        writer.hold(queue, stretch.first, &stretch.meta, stretch.hold_until)?;
    }
    writer.finish()?;
    store.close()?;
    drop((reader, stopped));
    // The copy is looked at before the old one goes.
    let copy = super::verify::verify_shard(beside, config)?;
    let found: u64 = copy.queues.iter().map(|q| q.messages).sum();
    if !copy.is_whole() || found != messages {
        return Err(StoreError::Fatal(format!(
            "the copy of {} is not right; nothing was changed",
            folder(dir, config.shard).display()
        )));
    }
    Ok(Compacted { before, after: sizes(copy.body_files.1, copy.map_bytes.0), messages })
}

/// File and offset of a body that is all of the run at a place: runs that differ in deadline or priority alone share one.
fn whole_body(place: &Place) -> Option<(u64, u64)> {
    place.body.filter(|_| place.index & SLICED == 0).map(|body| (body.file, body.offset))
}

/// Orders by what must be alike to stay one run.
fn meta_key(m: &RunMeta) -> MetaKey {
    (m.deadline.0, m.priority, m.redelivered, m.delivery_count, m.acquired_count)
}

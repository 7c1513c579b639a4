//! Checks every checksum and every reference, and says which queue is hurt and how.

use super::Stopped;
use crate::StoreConfig;
use crate::error::StoreError;
use hornpipe_types::definition::Definition;
use hornpipe_types::ids::Seq;
use std::collections::BTreeMap;
use std::path::Path;

/// Messages of a queue that can't be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hurt {
    /// Position of the first in its queue.
    pub first: Seq,
    /// How many.
    pub count: u64,
    /// The file or record, and what is wrong with it.
    pub reason: String,
}

/// A queue as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueReport {
    /// Its vhost.
    pub vhost: String,
    /// Its name.
    pub name: String,
    /// It was deleted: these died in it before, and are still to be dead-lettered.
    pub deleted: bool,
    /// Messages waiting in it, readable or not.
    pub messages: u64,
    /// Octets of the readable bodies.
    pub body_bytes: u64,
    /// What can't be read.
    pub hurt: Vec<Hurt>,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// All queues, by the order they were made in, one shard after the other.
    pub queues: Vec<QueueReport>,
    /// Definitions that were read.
    pub definitions: u64,
    /// Log records that were read.
    pub records: u64,
    /// Damage of the log, of definitions and of body files as such, and why a store can't be opened at all.
    pub damage: Vec<String>,
    /// What could not be checked.
    pub unchecked: Vec<String>,
    /// Where the log breaks off as after a cut of power; no damage, the next start removes it.
    pub cut: Option<String>,
    /// Whether the last stop was clean.
    pub clean: bool,
    /// Octets of the database's file, and of what is in it.
    pub map_bytes: (u64, u64),
    /// Body files and their octets.
    pub body_files: (u64, u64),
    /// Body files that nothing names; the next start removes them.
    pub orphans: u64,
    /// Messages of queues that are no more; the next start drops them.
    pub homeless: u64,
}

impl Report {
    /// Counts another shard in.
    fn add(&mut self, more: Self) {
        self.queues.extend(more.queues);
        self.definitions += more.definitions;
        self.records += more.records;
        self.damage.extend(more.damage);
        self.unchecked.extend(more.unchecked);
        self.cut = self.cut.take().or(more.cut);
        self.clean &= more.clean;
        self.map_bytes = (self.map_bytes.0 + more.map_bytes.0, self.map_bytes.1 + more.map_bytes.1);
        self.body_files = (self.body_files.0 + more.body_files.0, self.body_files.1 + more.body_files.1);
        self.orphans += more.orphans;
        self.homeless += more.homeless;
    }
    /// Whether nothing that was confirmed is missing or wrong.
    pub fn is_whole(&self) -> bool {
        self.damage.is_empty() && self.queues.iter().all(|q| q.hurt.is_empty())
    }
}

/// Checks all stores of the data folder `dir`. Reads everything, changes nothing. A store that is too damaged to be opened is
/// damage like any other; the rest is checked all the same.
///
/// # Errors
/// When a store can't be looked at: it is in use, of a newer format, the system refuses, or there is none.
pub fn verify(dir: &Path, config: &StoreConfig) -> Result<Report, StoreError> {
    let mut sum = Report { clean: true, ..Report::default() };
    let count = crate::shard_count(dir, Some(&mut sum.damage))?;
    for config in super::numbered(count, config) {
        // One that is missing was told.
        if !crate::has_shard(dir, config.shard) && !sum.damage.is_empty() {
            continue;
        }
        match verify_shard(dir, &config) {
            Ok(report) => sum.add(report),
            Err(error @ StoreError::Damaged { .. }) => {
                sum.clean = false;
                sum.damage.push(format!("{error}; nothing else in shard-{} could be checked", config.shard));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(sum)
}

/// Checks the store in `dir/shard-N`.
pub(super) fn verify_shard(dir: &Path, config: &StoreConfig) -> Result<Report, StoreError> {
    Stopped::open(dir, config).map(|stopped| report(&stopped))
}

fn report(stopped: &Stopped) -> Report {
    let reader = stopped.reader();
    let inspected = &stopped.inspected;
    // By place: octets of each body, or what is wrong. Only the last, and all bad ones: a fan-out is read for each queue.
    let mut bad: BTreeMap<_, String> = BTreeMap::new();
    let mut queues = Vec::new();
    for (queue, waiting) in stopped.resolved.queues() {
        let mut report = QueueReport {
            vhost: queue.vhost.to_string(),
            name: queue.grave.as_ref().map_or(&queue.name, |grave| &grave.queue).to_string(),
            deleted: queue.grave.is_some(),
            messages: 0,
            body_bytes: 0,
            hurt: Vec::new(),
        };
        let mut last = None;
        for s in waiting {
            report.messages += u64::from(s.count);
            if last.as_ref().is_none_or(|(place, _)| *place != s.place) && !bad.contains_key(&s.place) {
                match reader.read(&s.place) {
                    Ok(batch) => last = Some((s.place, batch)),
                    Err(error) => {
                        bad.insert(s.place, error.to_string());
                    }
                }
            }
            let reason = match (&last, bad.get(&s.place)) {
                (_, Some(reason)) => reason.clone(),
                (Some((place, batch)), _) if *place == s.place => {
                    if s.index.checked_add(s.count).is_some_and(|end| end <= batch.len()) {
                        report.body_bytes += batch.body_bytes(s.index, s.count, 1);
                        continue;
                    }
                    format!("the run at log record {} has fewer messages than are waiting", s.place.lsn)
                }
                _ => continue,
            };
            match report.hurt.last_mut() {
                Some(h) if h.reason == reason && h.first + h.count == s.first => h.count += u64::from(s.count),
                _ => report.hurt.push(Hurt { first: s.first, count: s.count.into(), reason }),
            }
        }
        queues.push(report);
    }
    let definitions = stopped.resolved.definitions.iter().filter(|d| !matches!(d, Definition::NextIds { .. }));
    Report {
        queues,
        definitions: definitions.count() as u64,
        records: inspected.records,
        damage: inspected.losses.clone(),
        unchecked: inspected.unchecked.clone(),
        cut: inspected.cut.clone(),
        clean: stopped.resolved.clean,
        map_bytes: (stopped.medium.map_bytes(), inspected.map_live_bytes),
        body_files: (inspected.files.len() as u64, inspected.files.iter().map(|f| f.1).sum()),
        orphans: inspected.files.iter().filter(|f| !f.2).count() as u64,
        homeless: stopped.resolved.homeless(),
    }
}

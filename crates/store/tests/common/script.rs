//! A workload that follows from a number, so that one process can write it and another one check it.
//!
//! Group n enqueues run n, settles the first message of run n-5, sets the parameter `p` to n and removes record n-20 and
//! what body files that frees.

use super::{batch, enqueue, group, parameter, target};
use hornpipe_store::{Store, StoreError};
use hornpipe_types::definition::Definition;
use hornpipe_types::ids::QueueId;
use hornpipe_types::message::Batch;
use hornpipe_types::op::{Group, Place, Recovered, StoreOp};
use hornpipe_types::range::SeqRange;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub const KEPT: u64 = 20;

/// The messages of run n: small ones, a few KiB, or more than a body file.
pub fn messages(n: u64) -> Arc<Batch> {
    match n % 7 {
        0 | 1 => batch(n, &[(n % 300) as usize; 3]),
        2 | 3 => batch(n, &[1000; 50]),
        4 => batch(n, &[20_000, 0, 5, 9000]),
        5 => batch(n, &[16; 2000]),
        _ => batch(n, &[if n.is_multiple_of(5) { 300_000 } else { 40_000 }]),
    }
}

pub fn seq(n: u64) -> u64 {
    n * 10_000 + 1
}

/// What a store holds of the script.
#[derive(Debug, Default)]
pub struct Script {
    pub last: u64,
    pub runs: BTreeMap<u64, Place>,
    /// Bodies that were told to be damaged.
    pub hurt: Vec<String>,
    files: BTreeSet<u64>,
}

impl Script {
    /// Recovers a store and checks that what it tells is a state of the script: whole groups, up to some last one.
    pub fn recover(store: &mut Store) -> Result<Self, StoreError> {
        let mut s = Self::default();
        let mut settled = BTreeSet::new();
        let mut wrong = Vec::new();
        store.recover(&mut |item| match item {
            Recovered::Definition(Definition::Parameter(p)) => s.last = p.value.parse().unwrap_or(u64::MAX),
            Recovered::Run { targets, count, body_bytes, place, .. } => {
                let n = targets[0].first_seq / 10_000;
                let b = messages(n);
                if (count, body_bytes) != (b.len(), b.body_bytes(0, b.len(), 1)) || s.runs.insert(n, place).is_some() {
                    wrong.push(format!("run {n}"));
                }
                s.files.extend(place.body.map(|b| b.file));
            }
            Recovered::Settled { ranges, .. } => settled.extend(ranges.iter().map(|r| r.first / 10_000)),
            Recovered::End { orphan_files, .. } => s.files.extend(orphan_files),
            Recovered::Hurt { reason, .. } => s.hurt.push(reason),
            other => wrong.push(format!("{other:?}")),
        })?;
        assert!(wrong.is_empty(), "{wrong:?}");
        let first = s.last.saturating_sub(KEPT - 1).max(1);
        let expected: Vec<u64> = (first..=s.last).collect();
        assert_eq!(s.runs.keys().copied().collect::<Vec<_>>(), expected, "the runs that are there");
        let expected: BTreeSet<u64> = expected.into_iter().filter(|n| *n > 5).map(|n| n - 5).collect();
        assert_eq!(settled, expected, "the settles that are there");
        Ok(s)
    }

    /// Reads all runs back; errors are returned, wrong bytes are a failure.
    pub fn read_all(&self, store: &Store) -> Result<(), StoreError> {
        let reader = store.reader();
        for (n, place) in &self.runs {
            let b = messages(*n);
            let back = reader.read(place)?;
            super::assert_same(&hornpipe_types::message::Span::whole(b), &back);
        }
        Ok(())
    }

    /// Writes the next group and waits until it is durable.
    pub fn step(&mut self, store: &mut Store) -> Result<u64, StoreError> {
        let n = self.last + 1;
        let mut g: Group = group(n, vec![enqueue(n, vec![target(1, seq(n))], &messages(n))]);
        if n > 5 {
            let ranges = vec![SeqRange::dense(seq(n - 5), 1)];
            g.ops.push(StoreOp::Settled { queue: QueueId(1), ranges });
        }
        g.ops.push(StoreOp::Put(parameter("p", n.to_string())));
        if let Some(old) = n.checked_sub(KEPT).and_then(|old| self.runs.remove(&old)) {
            g.remove_records.push(old.lsn);
        }
        let live: Vec<u64> = self.runs.values().filter_map(|p| p.body).map(|b| b.file).collect();
        if let Some(newest) = live.iter().max() {
            g.remove_files.extend(self.files.iter().filter(|f| *f < newest && !live.contains(f)));
        }
        store.commit(&g)?;
        for c in store.sync()? {
            for (id, place) in c.places {
                self.runs.insert(id.0, place);
                self.files.extend(place.body.map(|b| b.file));
            }
        }
        self.files.retain(|f| !g.remove_files.contains(f));
        self.last = n;
        Ok(n)
    }
}

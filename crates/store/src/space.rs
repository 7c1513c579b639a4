//! What the map holds, and giving back the room it no longer needs.
//!
//! A map on disk only grows. When it takes much more than it holds, its contents are copied to a fresh one in slices, between
//! groups; what a group changes behind the place reached goes to both. Then the fresh one takes the other's place at once.
//! A snapshot is made the same way, and gets the body files of the moment it is whole.

use crate::StoreConfig;
use crate::body::BodyWriter;
use crate::error::StoreError;
use crate::key;
use crate::medium::{Batch, Medium, View};
use hornpipe_types::Map;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Octets copied at a time, so that a group waits no longer than for one of its own size.
const SLICE_BYTES: usize = 1 << 20;
/// Keys copied at a time: batches of thousands stall.
const SLICE_KEYS: usize = 128;
/// What a copy takes beside its contents: segments that are begun and not full.
const COPY_ROOM: u64 = 24 << 20;
/// What an entry takes beside its key and value, roughly.
const ENTRY: u64 = 32;

/// Octets of the map's contents, and what is known of each log record.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// Parts and octets by lsn.
    records: Map<u64, (u16, u32)>,
    log_bytes: u64,
    definition_bytes: u64,
}

impl Contents {
    pub(crate) fn add(&mut self, lsn: u64, parts: u16, bytes: u64) {
        self.records.insert(lsn, (parts, bytes.min(u64::from(u32::MAX)) as u32));
        self.log_bytes += bytes + u64::from(parts) * ENTRY;
    }
    /// A record leaves; how many parts it has. `None` when there is none.
    pub(crate) fn remove(&mut self, lsn: u64) -> Option<u16> {
        let (parts, bytes) = self.records.remove(&lsn)?;
        self.log_bytes = self.log_bytes.saturating_sub(u64::from(bytes) + u64::from(parts) * ENTRY);
        Some(parts)
    }
    /// Definitions changed by so much.
    pub(crate) fn add_definitions(&mut self, more: u64, less: u64) {
        self.definition_bytes = (self.definition_bytes + more).saturating_sub(less);
    }
    pub(crate) fn bytes(&self) -> u64 {
        self.log_bytes + self.definition_bytes
    }
}

/// A snapshot that was made.
pub struct Snapshot {
    /// Where.
    pub to: PathBuf,
    /// Octets of the map in it, roughly.
    pub map_bytes: u64,
    rest: Box<dyn FnOnce() -> Result<u64, StoreError> + Send>,
}

impl Snapshot {
    /// Does what is left, which may take long when body files are copied to another file system; to be called on a thread
    /// that has time. Returns the octets of body files in the snapshot.
    pub fn finish(self) -> Result<u64, StoreError> {
        (self.rest)()
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("to", &self.to).finish_non_exhaustive()
    }
}

/// What [`crate::Store::tend`] came to.
#[derive(Debug, Default)]
pub struct Tended {
    /// There is more to do at once.
    pub more: bool,
    /// The snapshot asked for is as of now, or why there is none.
    pub snapshot: Option<Result<Snapshot, StoreError>>,
}

/// What of the store a step needs.
pub(crate) struct Side<'a> {
    pub(crate) medium: &'a mut dyn Medium,
    pub(crate) view: &'a dyn View,
    pub(crate) bodies: &'a mut BodyWriter,
    /// Octets in the map.
    pub(crate) live: u64,
    pub(crate) config: &'a StoreConfig,
    /// Octets a copy may take.
    pub(crate) spare_room: u64,
}

#[derive(Debug)]
struct Copy {
    /// Keys up to this one are in both maps.
    upto: Vec<u8>,
    /// The folder of a snapshot; `None` when the copy is to take the map's place.
    to: Option<PathBuf>,
}

/// Copies of the map: when to begin one, and one under way.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    copy: Option<Copy>,
    /// A snapshot asked for.
    asked: Option<PathBuf>,
    /// Why the snapshot under way is given up.
    failed: Option<StoreError>,
    /// Octets of the map right after it was exchanged last, and of its contents.
    last: u64,
    last_live: u64,
    /// How many times it was.
    pub(crate) renewals: u64,
}

impl Copies {
    /// Asks for a snapshot; one at a time.
    pub(crate) fn ask(&mut self, to: &Path) -> bool {
        if self.asked.is_some() || self.copy.as_ref().is_some_and(|c| c.to.is_some()) {
            return false;
        }
        self.asked = Some(to.to_owned());
        true
    }

    /// Whether the map takes too much.
    fn is_wanted(&self, map: u64, live: u64, config: &StoreConfig) -> bool {
        let twice = (2 * live).saturating_add(config.map_slack_bytes);
        let too_much = map > twice || map > config.map_min_bytes.max(8 * live);
        // Should a fresh map be as large as that, copying it again would not help.
        too_much && (map > self.last + self.last / 2 || 2 * live < self.last_live)
    }

    /// What a copy under way must learn of changes to the map, because it is behind them already.
    pub(crate) fn mirrored(&self, changes: &Batch) -> Option<Batch> {
        let upto = &self.copy.as_ref()?.upto;
        let both: Batch = changes.iter().filter(|(k, _)| k <= upto).cloned().collect();
        (!both.is_empty()).then_some(both)
    }

    /// Hands a copy what [`Self::mirrored`] said. That a snapshot fails is no failure of the store.
    pub(crate) fn mirror(&mut self, medium: &mut dyn Medium, changes: Batch) -> Result<(), StoreError> {
        let applied = medium.apply_copy(changes);
        match &self.copy {
            Some(Copy { to: Some(_), .. }) => {
                self.failed = self.failed.take().or(applied.err());
                Ok(())
            }
            _ => applied,
        }
    }

    /// A step, when there is one to do. Everything applied must be synced; `mark` is what a snapshot of this moment is to
    /// begin with.
    pub(crate) fn step(&mut self, s: &mut Side<'_>, mark: &[u8]) -> Result<Tended, StoreError> {
        let snapshot = match (&self.copy, &self.asked) {
            (Some(copy), _) => copy.to.clone(),
            (None, asked) => asked.clone(),
        };
        let Some(to) = snapshot else { return self.on(s, mark) };
        let stepped = match self.failed.take() {
            Some(error) => Err(error),
            // A panic of the medium's is its own affair here too.
            None => catch_unwind(AssertUnwindSafe(|| self.on(s, mark)))
                .unwrap_or_else(|panic| Err(StoreError::Fatal(format!("panic: {}", crate::panic_text(&*panic))))),
        };
        stepped.or_else(|error| {
            (self.copy, self.asked) = (None, None);
            s.medium.drop_copy();
            let error = StoreError::Fatal(format!("no snapshot was made in {}: {error}", to.display()));
            Ok(Tended { more: false, snapshot: Some(Err(error)) })
        })
    }

    /// Whether there is no room for a copy of so many octets, or for going on with one.
    fn is_short(&self, s: &Side<'_>) -> bool {
        let needed = match &self.copy {
            None => (2 * s.live).saturating_add(COPY_ROOM),
            Some(_) => COPY_ROOM / 2,
        };
        let to = self.copy.as_ref().map_or(&self.asked, |c| &c.to);
        s.spare_room < needed && to.as_ref().is_none_or(|to| s.medium.shares_room(to))
    }

    fn on(&mut self, s: &mut Side<'_>, mark: &[u8]) -> Result<Tended, StoreError> {
        if (self.copy.is_some() || self.asked.is_some()) && self.is_short(s) {
            if self.copy.as_ref().is_some_and(|c| c.to.is_none()) {
                // Another time; what there is of it goes.
                self.copy = None;
                s.medium.drop_copy();
                return Ok(Tended::default());
            }
            return Err(StoreError::Fatal("there is too little room on the volume of the data folder".to_owned()));
        }
        let Some(Copy { upto, to }) = &mut self.copy else {
            let wanted = || self.is_wanted(s.medium.map_bytes(), s.live, s.config) && !self.is_short(s);
            if self.asked.is_none() && !wanted() {
                return Ok(Tended::default());
            }
            s.medium.begin_copy(self.asked.as_deref())?;
            self.copy = Some(Copy { upto: Vec::new(), to: self.asked.take() });
            return Ok(Tended { more: true, snapshot: None });
        };
        let (mut batch, mut bytes, mut more) = (Batch::new(), 0, false);
        let mut from = upto.clone();
        if !from.is_empty() {
            from.push(0);
        }
        s.view.scan(&from, &[key::END], &mut |k, v| {
            bytes += k.len() + v.len();
            batch.push((k.to_vec(), Some(v.to_vec())));
            more = bytes >= SLICE_BYTES || batch.len() >= SLICE_KEYS;
            Ok(!more)
        })?;
        if let Some((last, _)) = batch.last() {
            upto.clone_from(last);
            s.medium.apply_copy(batch)?;
        }
        // The end is in sight: another step would find what the next group adds, and so on.
        if more {
            return Ok(Tended { more: true, snapshot: None });
        }
        if to.is_some() {
            // What is in a snapshot must not be written to any more.
            s.bodies.roll(s.medium)?;
        }
        let rest = s.medium.finish_copy(mark)?;
        let snapshot = match (to.take(), rest) {
            (Some(to), Some(rest)) => Some(Ok(Snapshot { to, map_bytes: s.live, rest })),
            (Some(_), None) => Some(Err(StoreError::Fatal("this medium makes no snapshots".to_owned()))),
            (None, _) => {
                (self.last, self.last_live) = (s.medium.map_bytes(), s.live);
                self.renewals += 1;
                None
            }
        };
        self.copy = None;
        Ok(Tended { more: self.asked.is_some(), snapshot })
    }
}

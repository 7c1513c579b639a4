//! Groups in, places out.

use crate::body::{self, BodyWriter};
use crate::error::StoreError;
use crate::faulty::{Faults, Faulty};
use crate::key;
use crate::medium::{Batch as Changes, Medium, View};
use crate::reader::{Reader, read, slice};
use crate::record::{self, Live, PART_MAX, Parts, SLICED, TARGETS_MAX};
use crate::recover::{self, Mark};
use crate::run;
use crate::sled::{Accepted, SledMedium};
use crate::space::{Contents, Copies, Side, Tended};
use crate::{StoreConfig, definition};
use hornpipe_types::Map;
use hornpipe_types::definition::{Definition, DefinitionKey};
use hornpipe_types::ids::EnqueueId;
use hornpipe_types::message::Span;
use hornpipe_types::op::{BodyPlace, Committed, Group, Place, Recovered, RunMeta, StoreOp, Target};
use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// `inline_bytes_max` is cut to this, so that an inline run with its targets fits a part.
const INLINE_MAX: usize = 40 << 10;

/// The store of one shard.
#[derive(Debug)]
pub struct Store {
    medium: Box<dyn Medium>,
    view: Arc<dyn View>,
    config: StoreConfig,
    /// Why nothing is accepted any more.
    failed: Option<String>,
    recovered: bool,
    bodies: BodyWriter,
    last_lsn: u64,
    /// Lsn up to which everything is durable.
    watermark: u64,
    live: Live,
    /// What there is of definitions, said by every record.
    defined: Live,
    contents: Contents,
    copies: Copies,
    /// Records without ops of a group, removed with the next group. The newest one stays: the end of the log must not move back.
    empty: Vec<u64>,
    pending: Vec<Pending>,
    dirty: bool,
    marked: Instant,
    marked_lsn: u64,
    losses: Vec<String>,
    unchecked: Vec<String>,
    spare_room: u64,
    tables: Vec<u8>,
    op: Vec<u8>,
}

/// What a store takes on disk, octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// The map's files, without a copy in the making. What is above [`Self::map_live_bytes`] is reserved: it is used
    /// again, or given back by a renewal.
    pub map_bytes: u64,
    /// What the map holds, roughly.
    pub map_live_bytes: u64,
    /// The body files.
    pub body_bytes: u64,
    /// How many times the map was copied to a fresh place since the store was opened.
    pub renewals: u64,
}

#[derive(Debug)]
struct Pending {
    committed: Committed,
    lsn: u64,
    remove_files: Vec<u64>,
}

/// A run to be written: its op, its messages, where its table lies in `tables`, octets of its frames.
struct Job<'a> {
    id: EnqueueId,
    targets: &'a [Target],
    meta: &'a RunMeta,
    span: Cow<'a, Span>,
    more: &'a [Span],
    table: std::ops::Range<usize>,
    frames: usize,
}

impl Job<'_> {
    /// Whether another one's messages are these very ones, not only alike.
    fn holds_the_same(&self, other: &Self) -> bool {
        self.span.is_same(&other.span)
            && self.more.len() == other.more.len()
            && self.more.iter().zip(other.more).all(|(a, b)| a.is_same(b))
    }
}

impl Store {
    /// Opens or creates `dir/shard-N`. A second process is refused. Damage that shows only in the log is found by
    /// [`Self::recover`].
    pub fn open(dir: &Path, config: StoreConfig) -> Result<Self, StoreError> {
        let (medium, accepted) = Self::medium(dir, &config)?;
        let mut store = Self::with_medium(Box::new(medium), config);
        (store.losses, store.unchecked) = (accepted.losses, accepted.unchecked);
        Ok(store)
    }

    /// The same on a disk that fails on command.
    pub fn open_faulty(dir: &Path, config: StoreConfig) -> Result<(Self, Faults), StoreError> {
        let (medium, faults) = Faulty::new(Self::medium(dir, &config)?.0);
        Ok((Self::with_medium(Box::new(medium), config), faults))
    }

    fn medium(dir: &Path, config: &StoreConfig) -> Result<(SledMedium, Accepted), StoreError> {
        let dir = crate::shards::folder(dir, config.shard);
        let first_mark = Mark { watermark: 0, clean: true }.encode();
        let mut medium = SledMedium::open(&dir, config.cache_bytes, config.accept_data_loss, Some(&first_mark))?;
        let accepted = medium.take_accepted();
        Ok((medium, accepted))
    }

    /// A store on any medium.
    pub fn with_medium(medium: Box<dyn Medium>, mut config: StoreConfig) -> Self {
        config.inline_bytes_max = config.inline_bytes_max.min(INLINE_MAX);
        Self {
            view: medium.view(),
            bodies: BodyWriter::new(config.body_file_bytes),
            medium,
            config,
            failed: None,
            recovered: false,
            last_lsn: 0,
            watermark: 0,
            live: Live::default(),
            defined: Live::default(),
            contents: Contents::default(),
            copies: Copies::default(),
            empty: Vec::new(),
            pending: Vec::new(),
            dirty: false,
            marked: Instant::now(),
            marked_lsn: 0,
            losses: Vec::new(),
            unchecked: Vec::new(),
            spare_room: u64::MAX,
            tables: Vec::new(),
            op: Vec::new(),
        }
    }

    /// Runs a step; once one has failed, all fail.
    fn guarded<T>(&mut self, step: impl FnOnce(&mut Self) -> Result<T, StoreError>) -> Result<T, StoreError> {
        if let Some(text) = &self.failed {
            return Err(StoreError::Fatal(text.clone()));
        }
        let result = match catch_unwind(AssertUnwindSafe(|| step(self))) {
            Ok(result) => result,
            Err(panic) => Err(StoreError::Fatal(format!("panic: {}", crate::panic_text(&*panic)))),
        };
        result.map_err(|e| {
            let text = match e {
                StoreError::Fatal(text) => text,
                other => other.to_string(),
            };
            self.failed = Some(text.clone());
            StoreError::Fatal(text)
        })
    }

    /// Tells what is there: definitions, then the log in order, then `End`. To be called once, before the first commit.
    ///
    /// [`StoreError::Damaged`] when something that was reported durable is missing or wrong, unless
    /// [`StoreConfig::accept_data_loss`] is set; nothing on disk was changed then. What the visitor was told before an error
    /// is void.
    pub fn recover(&mut self, visit: &mut dyn FnMut(Recovered)) -> Result<(), StoreError> {
        if self.recovered {
            return Err(StoreError::Fatal("the store was recovered before".to_owned()));
        }
        let accept = self.config.accept_data_loss;
        // Not guarded as a whole: damage keeps its own kind here, and a panic of the visitor is not the store's.
        let found = recover::recover(&mut *self.medium, accept, visit)?;
        self.guarded(|s| {
            s.last_lsn = found.last_lsn;
            s.watermark = found.last_lsn;
            s.live = found.live;
            s.defined = found.definitions;
            s.contents = found.contents;
            s.empty = found.empty;
            let is_less = !found.losses.is_empty() || found.cut;
            s.losses.extend(found.losses);
            s.unchecked.extend(found.unchecked);
            s.bodies.start_at(found.last_file + 1);
            if is_less {
                // So that what is left passes the checks of the next start: a new end of the log that says what is there.
                s.write_group(&Group::default(), true)?;
                s.pending.clear();
                s.medium.sync()?;
                s.dirty = false;
                s.watermark = s.last_lsn;
            }
            // From here on the stop is unclean until close says otherwise.
            s.mark(false)?;
            s.recovered = true;
            Ok(())
        })
    }

    /// What was lost and accepted while recovering, in words; empty unless [`StoreConfig::accept_data_loss`] was needed.
    pub fn losses(&self) -> &[String] {
        &self.losses
    }

    /// What recovery could not check, in words.
    pub fn unchecked(&self) -> &[String] {
        &self.unchecked
    }

    /// Writes a group: bodies, their fdatasync, then everything else as one atomic batch. Returns the lsn, 0 when the group
    /// put nothing into the log that the shard must keep account of. Durable after [`Self::sync`].
    ///
    /// `remove_files` may name only files without anything live in it, with all that [`Self::sync`] has returned taken into
    /// account; files with runs of groups not yet returned are kept. Any error is final.
    pub fn commit(&mut self, group: &Group) -> Result<u64, StoreError> {
        self.guarded(|s| {
            if !s.recovered {
                return Err(StoreError::Fatal("commit before recover".to_owned()));
            }
            s.write_group(group, false)
        })
    }

    fn write_group(&mut self, group: &Group, force: bool) -> Result<u64, StoreError> {
        if group.is_empty() && !force {
            let committed = Committed { upto: group.upto, ..Committed::default() };
            self.pending.push(Pending { committed, lsn: self.last_lsn, remove_files: Vec::new() });
            return Ok(0);
        }
        let remove_files = self.removable_files(group)?;
        let lsn = self.last_lsn + 1;
        let (mut parts, places) = self.encode(group, lsn)?;
        self.bodies.finish(&mut *self.medium)?;

        let mut changes = Changes::new();
        self.definitions(group, &mut changes)?;
        let mut live = self.live;
        live.add(lsn);
        let mut gone = std::mem::take(&mut self.empty);
        gone.extend(&group.remove_records);
        for old in gone {
            // One that is not there is not an error: the shard may repeat itself.
            let Some(count) = self.contents.remove(old) else { continue };
            live.remove(old);
            changes.extend((0..count).map(|p| (key::log(old, p).to_vec(), None)));
        }
        // A record that holds other things too may go on naming a file that has gone.
        changes.extend(remove_files.iter().map(|f| (key::removed_file(*f).to_vec(), Some(Vec::new()))));
        let empty = parts.is_empty();
        self.op.clear();
        record::put_definitions(&mut self.op, self.defined);
        // The last one: places count the ops before it.
        parts.push(&self.op);
        let parts = parts
            .finish(lsn, self.watermark, live)
            .ok_or_else(|| StoreError::Fatal("a group of more than 65535 parts".to_owned()))?;
        let bytes: usize = parts.iter().map(|(_, v)| v.len()).sum();
        self.contents.add(lsn, parts.len() as u16, bytes as u64);
        changes.extend(parts.into_iter().map(|(k, v)| (k, Some(v))));
        self.dirty = true;
        let mirrored = self.copies.mirrored(&changes);
        self.medium.apply(changes)?;
        if let Some(changes) = mirrored {
            self.copies.mirror(&mut *self.medium, changes)?;
        }
        self.last_lsn = lsn;
        self.live = live;
        if empty {
            self.empty.push(lsn);
        }
        let reported = if empty { 0 } else { lsn };
        let committed = Committed { upto: group.upto, places, lsn: reported };
        self.pending.push(Pending { committed, lsn, remove_files });
        Ok(reported)
    }

    /// The files of a group that may really go. The active one is closed first, unless groups that nobody was told of yet
    /// may have written to it: then it stays, and is an orphan at the next start at the latest.
    fn removable_files(&mut self, group: &Group) -> Result<Vec<u64>, StoreError> {
        let mut files = group.remove_files.clone();
        let untold = |file: u64, pending: &[Pending]| {
            pending.iter().flat_map(|p| &p.committed.places).any(|(_, p)| p.body.is_some_and(|b| b.file == file))
        };
        files.retain(|f| !untold(*f, &self.pending));
        if self.bodies.active_file().is_some_and(|f| files.contains(&f)) {
            self.bodies.roll(&mut *self.medium)?;
        }
        Ok(files)
    }

    /// Encodes all ops but those on definitions, writing bodies on the way.
    fn encode(&mut self, group: &Group, lsn: u64) -> Result<(Parts, Vec<(EnqueueId, Place)>), StoreError> {
        let mut tables = std::mem::take(&mut self.tables);
        tables.clear();
        let jobs = self.jobs(group, &mut tables)?;
        let bytes: usize = jobs.iter().map(|j| run::PREFIX + j.table.len() + j.frames).sum();
        let out_of_line = bytes >= self.config.inline_bytes_max || jobs.iter().any(|j| j.targets.len() > TARGETS_MAX);
        let (mut parts, mut places) = (Parts::default(), Vec::with_capacity(jobs.len()));
        let stamp = body::Stamp { lsn, watermark: self.watermark };
        let mut jobs = jobs.into_iter();
        let mut before: Option<(Job<'_>, BodyPlace)> = None;
        let mut op = std::mem::take(&mut self.op);
        for store_op in &group.ops {
            op.clear();
            match store_op {
                StoreOp::Enqueue(_) | StoreOp::Refer { place: Place { body: None, .. }, .. } => {
                    let Some(job) = jobs.next() else { continue };
                    let table = &tables[job.table.clone()];
                    let spans = || std::iter::once(&*job.span).chain(job.more);
                    let sums = (spans().map(|s| s.count).sum(), spans().map(Span::body_bytes).sum());
                    let (at, body) = if out_of_line {
                        // queues that differ in deadline or priority have a run each of what is the same on disk
                        let body = match &before {
                            Some((same, body)) if same.holds_the_same(&job) => *body,
                            _ => self.bodies.append(&mut *self.medium, stamp, spans(), table, job.frames)?,
                        };
                        (put_body(&mut parts, &mut op, job.targets, job.meta, sums, &body, None), Some(body))
                    } else {
                        let len = run::PREFIX + table.len() + job.frames;
                        record::put_inline(&mut op, job.targets, job.meta, sums, len);
                        run::put_run(&mut op, table, spans());
                        (parts.push(&op), None)
                    };
                    places.push((job.id, Place { lsn, part: at.0, index: at.1, body }));
                    before = body.map(|body| (job, body));
                }
                StoreOp::Refer { id, targets, meta, place, from, count } => {
                    let Some(body) = place.body else { continue };
                    let first = self.slice_start(place, *from, *count)?;
                    // A damaged table shows when the messages are read; moving them is still right.
                    let (bytes, of) = body::body_bytes(&*self.view, &body, first, *count).unwrap_or_default();
                    // of a whole run the record need not be asked when it is read
                    let from = (*count != of).then_some(first);
                    let (part, index) = put_body(&mut parts, &mut op, targets, meta, (*count, bytes), &body, from);
                    let index = index | if from.is_some() { SLICED } else { 0 };
                    places.push((*id, Place { lsn, part, index, body: Some(body) }));
                }
                StoreOp::Settled { queue, ranges } => {
                    record::put_settled(&mut op, *queue, ranges, |o| parts.push(o));
                }
                StoreOp::State { queue, seq, delivery_count, acquired_count, hold_until } => {
                    record::put_state(&mut op, *queue, *seq, (*delivery_count, *acquired_count), *hold_until);
                    parts.push(&op);
                }
                StoreOp::Purge { queue, upto, except } => {
                    record::put_purge(&mut op, *queue, *upto, except, |o| parts.push(o));
                }
                StoreOp::Redelivered { queue, ranges } => {
                    record::put_redelivered(&mut op, *queue, ranges, |o| parts.push(o));
                }
                StoreOp::DropQueue(queue) => {
                    record::put_drop_queue(&mut op, *queue);
                    parts.push(&op);
                }
                StoreOp::Put(_) | StoreOp::Delete(_) => {}
            }
        }
        self.op = op;
        if tables.capacity() <= 4 * PART_MAX {
            self.tables = tables;
        }
        Ok((parts, places))
    }

    /// The runs of a group whose messages must be written, with their tables. References to inline messages are among
    /// them: a copy stays valid when the record it came from goes.
    fn jobs<'a>(&self, group: &'a Group, tables: &mut Vec<u8>) -> Result<Vec<Job<'a>>, StoreError> {
        let mut jobs = Vec::new();
        for op in &group.ops {
            let (id, targets, meta, span, more) = match op {
                StoreOp::Enqueue(e) => (e.id, &e.targets, &e.meta, Cow::Borrowed(&e.span), &e.more[..]),
                StoreOp::Refer { id, targets, meta, place: place @ Place { body: None, .. }, from, count } => {
                    let batch = read(&*self.view, place)?;
                    if from.checked_add(*count).is_none_or(|end| end > batch.len()) {
                        return Err(StoreError::Fatal(format!("a reference beyond the run at {place:?}")));
                    }
                    (*id, targets, meta, Cow::Owned(Span { batch, from: *from, count: *count, step: 1 }), &[][..])
                }
                _ => continue,
            };
            let start = tables.len();
            let frames = run::put_table(tables, std::iter::once(&*span).chain(more));
            jobs.push(Job { id, targets, meta, span, more, table: start..tables.len(), frames });
        }
        Ok(jobs)
    }

    /// Index in the body frame of message `from` of the run at a place.
    fn slice_start(&self, place: &Place, from: u32, count: u32) -> Result<u32, StoreError> {
        if place.index & SLICED == 0 {
            return Ok(from);
        }
        let (start, total) = slice(&*self.view, place)?;
        if from.checked_add(count).is_none_or(|end| end > total) {
            return Err(StoreError::Fatal(format!("a reference beyond the run at {place:?}")));
        }
        Ok(start + from)
    }

    /// The last change of each definition of the group.
    fn definitions(&mut self, group: &Group, changes: &mut Changes) -> Result<(), StoreError> {
        let mut last: Map<Cow<'_, DefinitionKey>, Option<&Definition>> = Map::default();
        let mut order = Vec::new();
        for op in &group.ops {
            let (key, definition) = match op {
                StoreOp::Put(d) => (Cow::Owned(d.key()), Some(d)),
                StoreOp::Delete(k) => (Cow::Borrowed(k), None),
                _ => continue,
            };
            if last.insert(key.clone(), definition).is_none() {
                order.push(key);
            }
        }
        for key in &order {
            let (more, less) =
                definition::put(changes, &*self.view, key, last.get(key).copied().flatten(), &mut self.defined)?;
            self.contents.add_definitions(more, less);
        }
        Ok(())
    }

    /// Makes all groups committed so far durable and reports them, in order. Body files that were to go are gone then. Any
    /// error is final: in particular nothing of this may be confirmed.
    pub fn sync(&mut self) -> Result<Vec<Committed>, StoreError> {
        self.guarded(|s| {
            if s.dirty {
                s.medium.sync()?;
                s.dirty = false;
                s.watermark = s.last_lsn;
                // Before anybody is told: so the next process knows what was, though the mark is synced now and then only.
                s.medium.note_mark(&s.mark_of(false))?;
            }
            let pending = std::mem::take(&mut s.pending);
            let mut done = Vec::with_capacity(pending.len());
            for p in pending {
                debug_assert!(p.lsn <= s.watermark);
                for file in p.remove_files {
                    s.medium.remove_file(file)?;
                }
                done.push(p.committed);
            }
            // Only the first one need be on disk before anybody is told; later ones can wait for [`Self::tend`].
            if s.marked_lsn == 0 && s.is_mark_due() {
                s.mark(false)?;
            }
            Ok(done)
        })
    }

    /// Housekeeping that is not for a group: renews the mark, gives back room of the map and makes a snapshot that was asked
    /// for, a slice at a time. To be called after each sync and now and then while nothing happens. Any error is final; that
    /// a snapshot fails is none.
    pub fn tend(&mut self) -> Result<Tended, StoreError> {
        self.guarded(|s| {
            if !s.recovered || s.dirty || !s.pending.is_empty() {
                return Ok(Tended::default());
            }
            if s.is_mark_due() {
                s.mark(false)?;
            }
            let mark = s.mark_of(false);
            let mut side = Side {
                medium: &mut *s.medium,
                view: &*s.view,
                bodies: &mut s.bodies,
                live: s.contents.bytes(),
                config: &s.config,
                spare_room: s.spare_room,
            };
            s.copies.step(&mut side, &mark)
        })
    }

    /// So many octets of the disk may be used by [`Self::tend`]; any number until told otherwise.
    pub fn set_spare_room(&mut self, octets: u64) {
        self.spare_room = octets;
    }

    /// Asks for a snapshot in the folder `to`, a data folder like this one's; it holds what was synced when it is told by
    /// [`Self::tend`]. What can be shared on disk is shared.
    pub fn snapshot(&mut self, to: &Path) -> Result<(), StoreError> {
        if self.copies.ask(to) {
            return Ok(());
        }
        Err(StoreError::Fatal("a snapshot is being made already".to_owned()))
    }

    fn mark_of(&self, clean: bool) -> Vec<u8> {
        Mark { watermark: self.watermark, clean }.encode()
    }

    /// When [`Self::tend`] would sync the mark, for who has nothing else to do: a while after the last time, at once when it
    /// has never told of anything; never while it tells all there is.
    pub fn mark_due(&self) -> Option<Duration> {
        let lags = self.recovered && self.marked_lsn != self.watermark;
        let wait = if self.marked_lsn == 0 { Duration::ZERO } else { self.config.mark_every };
        lags.then(|| wait.saturating_sub(self.marked.elapsed()))
    }

    fn is_mark_due(&self) -> bool {
        self.mark_due() == Some(Duration::ZERO)
    }

    fn mark(&mut self, clean: bool) -> Result<(), StoreError> {
        self.medium.write_mark(&self.mark_of(clean))?;
        self.marked = Instant::now();
        self.marked_lsn = self.watermark;
        Ok(())
    }

    /// A handle that reads messages back, for other threads. The folder stays locked as long as one lives.
    pub fn reader(&self) -> Reader {
        Reader::on(self.view.clone())
    }

    /// What is taken on disk.
    pub fn usage(&self) -> Usage {
        let files = self.medium.files().unwrap_or_default();
        Usage {
            map_bytes: self.medium.map_bytes(),
            map_live_bytes: self.contents.bytes(),
            body_bytes: files.iter().map(|f| f.1).sum(),
            renewals: self.copies.renewals,
        }
    }

    /// Syncs and marks the stop as clean. Groups not yet reported are durable afterwards.
    pub fn close(mut self) -> Result<(), StoreError> {
        self.sync()?;
        self.guarded(|s| {
            if s.recovered {
                s.bodies.roll(&mut *s.medium)?;
                s.mark(true)?;
            }
            Ok(())
        })
    }
}

/// Appends a run in a body file, with further ops about the same bytes when it has many targets; returns the first one's
/// part and index.
fn put_body(
    parts: &mut Parts,
    op: &mut Vec<u8>,
    targets: &[Target],
    meta: &RunMeta,
    sums: (u32, u64),
    body: &BodyPlace,
    from: Option<u32>,
) -> (u16, u16) {
    let mut first = None;
    for chunk in targets.chunks(TARGETS_MAX) {
        op.clear();
        record::put_body(op, chunk, meta, sums, body, from);
        let at = parts.push(op);
        first.get_or_insert(at);
    }
    first.unwrap_or_default()
}

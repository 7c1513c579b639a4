//! What a restart finds, and the rule that tells a cut from damage.
//!
//! The highest watermark found, in records and in the mark, divides the log. Everything at or below it was reported as
//! durable and must be whole: else it is damage and the store is not opened. Above it the first bad record is where the
//! power went away: it ends the log, and what follows it is removed.

use crate::body;
use crate::error::StoreError;
use crate::key;
use crate::medium::{Batch, Medium, View};
use crate::record::{self, At, BadPart, Live, LogOp, Run, SLICED};
use crate::space::Contents;
use crate::wire::Input;
use hornpipe_types::op::{BodyPlace, Place, Recovered};
use hornpipe_types::range::SeqRange;
use std::cmp::Ordering;
use std::collections::BTreeMap;

const MARK_VERSION: u8 = 1;

/// The small file beside the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mark {
    /// Lsn at or below which everything was durable when the mark was written.
    pub(crate) watermark: u64,
    /// Whether the store was closed in order.
    pub(crate) clean: bool,
}

impl Mark {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = vec![MARK_VERSION, u8::from(self.clean)];
        out.extend_from_slice(&self.watermark.to_be_bytes());
        out
    }
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let mut r = Input(bytes);
        let bad = || StoreError::damaged("the mark", "it is too short");
        let version = r.u8().ok_or_else(bad)?;
        if version != MARK_VERSION {
            let what = "the mark".to_owned();
            return Err(StoreError::Unsupported { what, found: version, known: MARK_VERSION });
        }
        Ok(Self { clean: r.u8().ok_or_else(bad)? != 0, watermark: r.u64().ok_or_else(bad)? })
    }
}

/// What the writer must know to go on.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) last_lsn: u64,
    /// Highest number of a body file that is there, was removed or is named by a record: a missing one's must not be given
    /// out again, else what is done about the old file hits the new one.
    pub(crate) last_file: u64,
    pub(crate) live: Live,
    /// What there is of definitions.
    pub(crate) definitions: Live,
    pub(crate) contents: Contents,
    /// Records without ops but the one they all have.
    pub(crate) empty: Vec<u64>,
    /// Whether bad records above the watermark were dropped.
    pub(crate) cut: bool,
    /// Damage that was accepted, in words.
    pub(crate) losses: Vec<String>,
    /// What could not be checked, in words.
    pub(crate) unchecked: Vec<String>,
    pub(crate) clean: bool,
}

/// All parts of one lsn as they lie in the map.
#[derive(Debug, Default)]
struct Entry {
    lsn: u64,
    parts: Vec<(u16, Vec<u8>)>,
}

struct Recovery<'a> {
    view: &'a dyn View,
    visit: &'a mut dyn FnMut(Recovered),
    accept: bool,
    /// Only looked at: a record that names a body which is not there is told nevertheless.
    inspect: bool,
    files: BTreeMap<u64, FileSeen>,
    marked: Option<Mark>,
    watermark: u64,
    /// Where the log ended before its last record, and why.
    cut: Option<(u64, StoreError)>,
    /// What the last good record says must be there.
    expected: Live,
    /// And what of definitions; earlier versions said nothing.
    expected_definitions: Option<Live>,
    /// What the last record of all counts of them, if that can be read of it, whole or not: a group and its definitions are one
    /// batch, so that is what there is.
    last_definitions: Option<Live>,
    /// The last record that is whole.
    last_whole: u64,
    /// Parts of definitions that can't be read.
    bad_definitions: u64,
    remove: Vec<Vec<u8>>,
    /// Body files removed on purpose, and whether a record still names them.
    removed: BTreeMap<u64, bool>,
    /// Bodies at or below the watermark that are missing or not what they should be, and why.
    hurt: BTreeMap<BodyPlace, String>,
    found: Found,
}

#[derive(Debug)]
struct FileSeen {
    size: u64,
    last: Option<BodyPlace>,
}

/// Reads everything and tells it to `visit`; removes what lies behind a cut.
pub(crate) fn recover(
    medium: &mut dyn Medium,
    accept: bool,
    visit: &mut dyn FnMut(Recovered),
) -> Result<Found, StoreError> {
    let view = medium.view();
    let mut r = Recovery::new(medium, &*view, accept, visit)?;
    r.read_all()?;
    // Files on the list that no record names any more leave the list, those that a crash left leave the folder.
    let named = |n: &u64| r.removed.get(n).copied().unwrap_or(false);
    r.remove.extend(r.removed.keys().filter(|n| !named(n)).map(|n| key::removed_file(*n).to_vec()));
    let left: Vec<u64> = r.files.keys().filter(|n| r.removed.contains_key(n)).copied().collect();
    for file in &left {
        r.files.remove(file);
    }
    let last_removed = r.removed.keys().next_back().copied().unwrap_or(0);
    let orphan_files: Vec<u64> = r.files.iter().filter(|(_, f)| f.last.is_none()).map(|(n, _)| *n).collect();
    r.end(orphan_files);
    let mut found = r.found;
    found.cut = r.cut.is_some();
    let spare = r.files.iter().filter_map(|(n, f)| f.last.map(|b| (*n, end(&b), f.size)));
    let spare: Vec<(u64, u64)> = spare.filter(|s| s.2 > s.1).map(|s| (s.0, s.1)).collect();
    let last_there = r.files.keys().next_back().copied().unwrap_or(0);
    found.last_file = found.last_file.max(last_there).max(last_removed);
    let batch: Batch = r.remove.into_iter().map(|k| (k, None)).collect();
    // What an earlier process wrote was seen, but need not be on the disk yet.
    if !batch.is_empty() {
        medium.apply(batch)?;
    }
    medium.sync()?;
    for file in left {
        medium.remove_file(file)?;
    }
    if found.losses.is_empty() {
        // Room that was allocated and not used.
        for (file, size) in spare {
            medium.seal_file(file, size)?;
        }
    }
    Ok(found)
}

/// What an inspection found.
#[derive(Debug)]
pub(crate) struct Inspected {
    /// Damage in words: of records, of body files, of the log as a whole.
    pub(crate) losses: Vec<String>,
    /// What could not be checked, in words.
    pub(crate) unchecked: Vec<String>,
    /// Where the log breaks off above the watermark, as after a cut of power, and why.
    pub(crate) cut: Option<String>,
    pub(crate) records: u64,
    pub(crate) map_live_bytes: u64,
    /// Body files: number, octets, whether a record names it.
    pub(crate) files: Vec<(u64, u64, bool)>,
}

/// Reads everything and tells it to `visit`, with all damage there is; changes nothing.
pub(crate) fn inspect(medium: &dyn Medium, visit: &mut dyn FnMut(Recovered)) -> Result<Inspected, StoreError> {
    let view = medium.view();
    let mut r = Recovery::new(medium, &*view, true, visit)?;
    r.inspect = true;
    r.read_all()?;
    let files: Vec<_> = r.files.iter().map(|(n, f)| (*n, f.size, f.last.is_some())).collect();
    let orphan_files = files.iter().filter(|f| !f.2).map(|f| f.0).collect();
    r.end(orphan_files);
    Ok(Inspected {
        losses: r.found.losses,
        unchecked: r.found.unchecked,
        cut: r.cut.map(|(lsn, error)| format!("the log ends before record {lsn}: {error}")),
        records: r.found.live.count,
        map_live_bytes: r.found.contents.bytes(),
        files,
    })
}

/// Where a frame ends.
fn end(b: &BodyPlace) -> u64 {
    b.offset.saturating_add(body::FRAME as u64 + u64::from(b.len))
}

impl<'a> Recovery<'a> {
    fn new(
        medium: &dyn Medium,
        view: &'a dyn View,
        accept: bool,
        visit: &'a mut dyn FnMut(Recovered),
    ) -> Result<Self, StoreError> {
        let marked = medium.read_mark()?.map(|bytes| Mark::decode(&bytes)).transpose()?;
        let mark = marked.unwrap_or_default();
        let files = medium.files()?.into_iter().map(|(n, size)| (n, FileSeen { size, last: None })).collect();
        Ok(Self {
            view,
            visit,
            accept,
            inspect: false,
            files,
            marked,
            watermark: mark.watermark,
            cut: None,
            expected: Live::default(),
            expected_definitions: None,
            last_definitions: None,
            last_whole: 0,
            bad_definitions: 0,
            remove: Vec::new(),
            removed: BTreeMap::new(),
            hurt: BTreeMap::new(),
            found: Found { last_lsn: mark.watermark, clean: mark.clean, ..Found::default() },
        })
    }

    fn read_all(&mut self) -> Result<(), StoreError> {
        self.newest_watermark()?;
        self.removed_files()?;
        self.definitions()?;
        let last_seen = self.log()?;
        self.found.clean |= self.marked.is_none() && last_seen == 0;
        self.check_log(&self.marked.unwrap_or_default(), last_seen)?;
        self.check_end(last_seen)?;
        self.check_files();
        Ok(())
    }

    /// The last record knows the newest watermark. If it can't be read, those before it tell while the log is read.
    fn newest_watermark(&mut self) -> Result<(), StoreError> {
        if let Some((k, v)) = self.view.last(&[key::LOG], &[key::CHECKPOINTS])?
            && let Ok((header, _)) = record::open(&k, &v)
        {
            self.watermark = self.watermark.max(header.watermark);
        }
        Ok(())
    }

    fn lost(&mut self, error: StoreError) -> Result<(), StoreError> {
        if !self.accept || matches!(error, StoreError::Fatal(_) | StoreError::Unsupported { .. }) {
            return Err(error);
        }
        self.found.losses.push(error.to_string());
        Ok(())
    }

    fn log_name(&self) -> String {
        format!("the log in {}", self.view.map_name())
    }

    fn record_name(&self, lsn: u64) -> String {
        format!("log record {lsn} in {}", self.view.map_name())
    }

    fn removed_files(&mut self) -> Result<(), StoreError> {
        let removed = &mut self.removed;
        self.view.scan(&[key::REMOVED_FILES], &[key::REMOVED_FILES + 1], &mut |k, _| {
            removed.extend(key::parse_removed_file(k).map(|file| (file, false)));
            Ok(true)
        })
    }

    fn definitions(&mut self) -> Result<(), StoreError> {
        let (accept, losses, remove) = (self.accept, &mut self.found.losses, &mut self.remove);
        let bad = &mut self.bad_definitions;
        let visit = &mut self.visit;
        let tell = &mut |d| visit(Recovered::Definition(d));
        let map = self.view.map_name();
        let (bytes, all) = crate::definition::scan(self.view, tell, &mut |keys, error| {
            let error = match error {
                StoreError::Damaged { file, reason } => {
                    StoreError::Damaged { file: format!("{file} in {map}"), reason }
                }
                error => error,
            };
            if !accept {
                return Err(error);
            }
            losses.push(error.to_string());
            *bad += keys.len() as u64;
            remove.extend(keys);
            Ok(())
        })?;
        self.found.contents.add_definitions(bytes, 0);
        self.found.definitions = all;
        Ok(())
    }

    /// Reads the log; returns the highest lsn in it, good or bad.
    fn log(&mut self) -> Result<u64, StoreError> {
        let (mut entry, mut last) = (Entry::default(), 0);
        let view = self.view;
        view.scan(&[key::LOG], &[key::CHECKPOINTS], &mut |k, v| {
            let Some((lsn, part)) = key::parse_log(k) else {
                self.lost(StoreError::damaged(self.log_name(), "a key of odd length"))?;
                return Ok(true);
            };
            if lsn != entry.lsn {
                self.entry(&std::mem::take(&mut entry))?;
                entry.lsn = lsn;
                last = lsn;
            }
            entry.parts.push((part, v.to_vec()));
            Ok(true)
        })?;
        self.entry(&entry)?;
        Ok(last)
    }

    fn entry(&mut self, entry: &Entry) -> Result<(), StoreError> {
        if entry.parts.is_empty() {
            return Ok(());
        }
        let lsn = entry.lsn;
        self.found.last_lsn = self.found.last_lsn.max(lsn);
        self.note_parts(entry);
        let opened = self.open(entry);
        if let Ok((watermark, ..)) = opened {
            self.watermark = self.watermark.max(watermark);
        }
        if let Some((cut, error)) = &self.cut {
            // Only looked at for its watermark: one at or above the cut says that the cut is damage.
            if self.watermark >= *cut {
                let error = error.clone();
                self.cut = None;
                self.lost(error)?;
            } else {
                self.drop(entry);
                return Ok(());
            }
        }
        let checked = opened.and_then(|(_, live, ops)| self.check_bodies(lsn, &ops).map(|()| (live, ops)));
        match checked {
            Ok((live, ops)) => {
                self.expected = live;
                self.expected_definitions = self.last_definitions;
                self.last_whole = lsn;
                self.found.live.add(lsn);
                let bytes: usize = entry.parts.iter().map(|p| p.1.len()).sum();
                self.found.contents.add(lsn, entry.parts.len() as u16, bytes as u64);
                self.tell(lsn, ops);
                Ok(())
            }
            Err(error @ (StoreError::Fatal(_) | StoreError::Unsupported { .. })) => Err(error),
            Err(error) if lsn <= self.watermark => {
                self.drop(entry);
                self.lost(error)
            }
            Err(error) => {
                self.drop(entry);
                self.cut = Some((lsn, error));
                Ok(())
            }
        }
    }

    /// Notes the numbers of body files that an entry names, and what it counts of definitions, also when it is not whole.
    fn note_parts(&mut self, entry: &Entry) {
        self.last_definitions = None;
        for (part, value) in &entry.parts {
            let Ok((_, ops)) = record::open(&key::log(entry.lsn, *part), value) else { continue };
            let mut r = Input(ops);
            while let Some(op) = record::decode(&mut r) {
                match op {
                    LogOp::Run(Run { at: At::Body(b) | At::Slice(b, _), .. }) => {
                        self.found.last_file = self.found.last_file.max(b.file);
                    }
                    LogOp::Definitions(all) => self.last_definitions = Some(all),
                    _ => {}
                }
            }
        }
    }

    fn drop(&mut self, entry: &Entry) {
        self.remove.extend(entry.parts.iter().map(|p| key::log(entry.lsn, p.0).to_vec()));
    }

    /// Checks all parts of an entry and decodes their ops.
    #[allow(clippy::type_complexity)]
    fn open<'e>(&self, entry: &'e Entry) -> Result<(u64, Live, Vec<(u16, Vec<LogOp<'e>>)>), StoreError> {
        let damaged = |reason: &str| StoreError::damaged(self.record_name(entry.lsn), reason);
        let mut first: Option<record::Header> = None;
        let mut parts = Vec::with_capacity(entry.parts.len());
        for (i, (part, value)) in entry.parts.iter().enumerate() {
            let (header, ops) = record::open(&key::log(entry.lsn, *part), value).map_err(|e| match e {
                BadPart::Version(found) => {
                    StoreError::Unsupported { what: "a log record".to_owned(), found, known: record::VERSION }
                }
                BadPart::Wrong(reason) => damaged(reason),
            })?;
            if usize::from(*part) != i || *first.get_or_insert(header) != header {
                return Err(damaged("its parts do not belong together"));
            }
            let (mut r, mut decoded) = (Input(ops), Vec::new());
            while !r.is_empty() {
                decoded.push(record::decode(&mut r).ok_or_else(|| damaged("an op makes no sense"))?);
            }
            parts.push((*part, decoded));
        }
        let header = first.ok_or_else(|| damaged("it is empty"))?;
        if usize::from(header.parts) != entry.parts.len() {
            return Err(damaged(&format!("{} of its {} parts are there", entry.parts.len(), header.parts)));
        }
        Ok((header.watermark, header.live, parts))
    }

    /// Every referenced frame must lie within its file, unless the file was removed on purpose. One that does not concerns its
    /// queues alone. Above the watermark it is read, because nothing says that it reached the disk, and ends the log; when
    /// loss is accepted it is read too, so that all that is lost is known.
    fn check_bodies(&mut self, lsn: u64, parts: &[(u16, Vec<LogOp<'_>>)]) -> Result<(), StoreError> {
        let bodies = || {
            parts.iter().flat_map(|p| &p.1).filter_map(|op| match op {
                LogOp::Run(run) => match run.at {
                    At::Body(b) | At::Slice(b, _) => Some(b),
                    At::Inline(_) => None,
                },
                _ => None,
            })
        };
        let reported = lsn <= self.watermark;
        for b in bodies() {
            if let Some(named) = self.removed.get_mut(&b.file) {
                *named = true;
                continue;
            }
            let damaged = |reason| Err(StoreError::damaged(self.view.file_name(b.file), reason));
            let found = match self.files.get(&b.file) {
                None => damaged("the file is missing".to_owned()),
                Some(file) if end(&b) > file.size => {
                    damaged(format!("the file ends before the frame at {} does", b.offset))
                }
                Some(_) if !reported || self.accept && !self.inspect => body::read_frame(self.view, &b).map(|_| ()),
                Some(_) => Ok(()),
            };
            match found {
                Err(error) if reported => self.hurt(b, &error),
                found => found?,
            }
        }
        for b in bodies() {
            if let Some(file) = self.files.get_mut(&b.file)
                && end(&b) <= file.size
                && file.last.is_none_or(|l| l.offset < b.offset)
            {
                file.last = Some(b);
            }
        }
        Ok(())
    }

    fn hurt(&mut self, body: BodyPlace, error: &StoreError) {
        self.hurt.entry(body).or_insert_with(|| error.to_string());
    }

    fn tell(&mut self, lsn: u64, parts: Vec<(u16, Vec<LogOp<'_>>)>) {
        let (mut runs, mut ops) = (0, 0);
        let mut exceptions: Vec<SeqRange> = Vec::new();
        for (part, list) in parts {
            for (index, op) in list.into_iter().enumerate() {
                ops += usize::from(!matches!(op, LogOp::Definitions(_)));
                let index = index as u16;
                (self.visit)(match op {
                    LogOp::Run(run) => {
                        runs += 1;
                        let (body, index) = match run.at {
                            At::Inline(_) => (None, index),
                            At::Body(b) => (Some(b), index),
                            At::Slice(b, _) => (Some(b), index | SLICED),
                        };
                        Recovered::Run {
                            targets: run.targets,
                            meta: run.meta,
                            count: run.count,
                            body_bytes: run.body_bytes,
                            place: Place { lsn, part, index, body },
                        }
                    }
                    LogOp::Settled { queue, ranges } => Recovered::Settled { queue, ranges },
                    LogOp::Redelivered { queue, ranges } => Recovered::Redelivered { queue, ranges },
                    LogOp::State { queue, seq, delivery_count, acquired_count, hold_until } => {
                        Recovered::State { queue, seq, delivery_count, acquired_count, hold_until }
                    }
                    LogOp::Purge { queue, upto, except, more } => {
                        exceptions.extend(except);
                        if more {
                            continue;
                        }
                        Recovered::Purge { queue, upto, except: std::mem::take(&mut exceptions) }
                    }
                    LogOp::DropQueue(queue) => Recovered::DropQueue(queue),
                    LogOp::Definitions(_) => continue,
                });
            }
        }
        if ops == 0 {
            self.found.empty.push(lsn);
        } else if runs == 0 {
            (self.visit)(Recovered::Record { lsn });
        }
    }

    fn check_log(&mut self, mark: &Mark, last_seen: u64) -> Result<(), StoreError> {
        // The last record is never removed, so an end below the mark means that the map fell back to an older state.
        if last_seen < mark.watermark {
            let reason = format!("it ends at {last_seen}, but everything up to {} was on disk", mark.watermark);
            self.lost(StoreError::damaged(self.log_name(), reason))?;
        } else if self.cut.is_none() && self.found.losses.is_empty() && self.expected != self.found.live {
            let reason = format!("it has {} records, but {} must be there", self.found.live.count, self.expected.count);
            self.lost(StoreError::damaged(self.log_name(), reason))?;
        }
        if last_seen < mark.watermark {
            let map = self.view.map_name();
            self.unchecked(format!(
                "definitions in {map} are as of record {last_seen}; what changed in them later is not known"
            ));
        }
        self.check_definitions(last_seen)
    }

    fn unchecked(&mut self, what: String) {
        self.found.unchecked.push(what);
    }

    /// A database that skips a damaged part of its file without a word may have lost or brought back definitions. The last record
    /// counts them even if it is not whole, or is of a group that was under way.
    fn check_definitions(&mut self, last_seen: u64) -> Result<(), StoreError> {
        let (found, bad) = (self.found.definitions, self.bad_definitions);
        let is_whole = self.last_whole == last_seen;
        let counted = if is_whole { self.expected_definitions } else { self.last_definitions };
        let Some(expected) = counted else {
            if !is_whole && self.expected_definitions != Some(found) {
                let map = self.view.map_name();
                let count = found.count;
                self.unchecked(format!(
                    "record {last_seen}, which counts the definitions, can't be read: whether the {count} parts of definitions \
                     in {map} are all there must be, and as they must be, was not checked"
                ));
            }
            return Ok(());
        };
        if expected == found {
            return Ok(());
        }
        if bad > 0 && found.count + bad == expected.count {
            let map = self.view.map_name();
            self.unchecked(format!(
                "beside definitions that can't be read, whether the others in {map} are the newest was not checked"
            ));
            return Ok(());
        }
        let mut counts = format!("{} parts of definitions are there, {} must be", found.count, expected.count);
        if bad > 0 {
            counts += &format!(" ({bad} more can't be read)");
        }
        let reason = match (found.count + bad).cmp(&expected.count) {
            Ordering::Less => format!("definitions are missing: {counts}"),
            Ordering::Equal => format!("definitions are older than they must be: {counts}"),
            Ordering::Greater => format!("definitions that were deleted are back: {counts}"),
        };
        self.lost(StoreError::damaged(format!("the definitions in {}", self.view.map_name()), reason))
    }

    /// Bodies are written before the record that names them, and say what was durable by then: more than the log has means that
    /// it has lost its end, which the mark need not know after a cut of power. Frames behind the log's end that don't say so are
    /// of a group that was under way. Later files have later groups, so the last frame there is decides.
    fn check_end(&mut self, last_seen: u64) -> Result<(), StoreError> {
        for (file, seen) in self.files.iter().rev() {
            let named = seen.last.as_ref().map(end);
            let last = body::last_frame(self.view, *file, named.unwrap_or(0), seen.size)?;
            let Some((place, stamp)) = last else {
                if named.is_some() {
                    break;
                }
                continue;
            };
            if stamp.watermark > last_seen && body::read_frame(self.view, &place).is_ok() {
                let (reason, body) = (
                    format!("it ends at {last_seen}, but everything up to {} was on disk", stamp.watermark),
                    format!("{}, frame at {}", self.view.file_name(*file), place.offset),
                );
                self.found.last_lsn = self.found.last_lsn.max(stamp.watermark);
                return self.lost(StoreError::damaged(self.log_name(), format!("{reason} (says {body})")));
            }
            break;
        }
        Ok(())
    }

    /// One look into each file, at its last frame: a file that was cut and grew again, or that is another one, shows there.
    /// The rest is checked when it is read.
    fn check_files(&mut self) {
        let last: Vec<BodyPlace> = self.files.values().filter_map(|f| f.last).collect();
        for b in last {
            if let Err(error) = body::check_header(self.view, &b) {
                self.hurt(b, &error);
            }
        }
    }

    /// Tells of hurt bodies and of the end.
    fn end(&mut self, orphan_files: Vec<u64>) {
        self.found.clean &= self.found.losses.is_empty();
        let dropped = self.accept && !self.inspect;
        for (body, reason) in std::mem::take(&mut self.hurt) {
            (self.visit)(Recovered::Hurt { body, reason, dropped });
        }
        (self.visit)(Recovered::End { clean: self.found.clean, orphan_files });
    }
}

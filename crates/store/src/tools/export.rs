//! To a portable file and back: JSON lines, so that nobody is locked in to the store's format. Documented in
//! `docs/storage.md`; whatever changes here must raise [`VERSION`] or leave old files readable.

use super::Stopped;
use super::resolve::Stretch;
use crate::error::StoreError;
use crate::shards::{IMPORTING, folder};
use crate::{Store, StoreConfig, disk};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hornpipe_types::Map;
use hornpipe_types::definition::{Definition, GraveDefinition, QueueDefinition};
use hornpipe_types::header::{self, Properties};
use hornpipe_types::ids::{CommitSeq, EnqueueId, QueueId, Seq, VhostId};
use hornpipe_types::message::{Batch, BatchBuilder, DEAD_LETTERED, Span};
use hornpipe_types::names::ShortStr;
use hornpipe_types::op::{Enqueue, Group, PLACES, RunMeta, StoreOp, Target};
use hornpipe_types::range::{SeqRange, SeqSet, push_range};
use hornpipe_types::table::FieldTable;
use hornpipe_types::time::UnixMillis;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::path::Path;

const FORMAT: &str = "hornpipe-export";
const VERSION: u32 = 1;
/// Octets of messages written at once.
const GROUP_BYTES: usize = 4 << 20;
/// Runs written at once.
const GROUP_RUNS: usize = 1000;
/// Body frames are cut to this, so that any client can be sent them as they are.
const FRAME_MAX: usize = 4096;

/// A line: one of these keys.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// The first one.
    Format {
        name: String,
        version: u32,
    },
    Definition(Definition),
    Message(Box<Message>),
    /// The last one: a file without it is not whole.
    End(Ported),
}

/// How much was written or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ported {
    /// Definitions.
    pub definitions: u64,
    /// Messages; one that waits in several queues counts in each.
    pub messages: u64,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A message in a queue. Lines of a queue stand in its order.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Message {
    vhost: ShortStr,
    queue: ShortStr,
    exchange: ShortStr,
    routing_key: ShortStr,
    properties: PropertiesLine,
    /// In base64.
    body: String,
    #[serde(skip_serializing_if = "is_default")]
    redelivered: bool,
    #[serde(skip_serializing_if = "is_default")]
    delivery_count: u32,
    #[serde(skip_serializing_if = "is_default")]
    acquired_count: u32,
    /// Milliseconds since 1970.
    #[serde(skip_serializing_if = "is_default")]
    expires_at: u64,
    /// Not delivered again before: milliseconds since 1970.
    #[serde(skip_serializing_if = "is_default")]
    held_until: u64,
    /// Place among those that came back to a quorum queue.
    #[serde(skip_serializing_if = "is_default")]
    returned: u64,
    /// Routing keys of a BCC header, which was taken off.
    #[serde(skip_serializing_if = "is_default")]
    hidden_keys: Vec<ShortStr>,
    /// Its CC header no longer counts as routing keys.
    #[serde(skip_serializing_if = "is_default")]
    cc_spent: bool,
    /// Level in a priority queue.
    #[serde(skip_serializing_if = "is_default")]
    level: u8,
    /// Its `x-death` header was written by a broker.
    #[serde(skip_serializing_if = "is_default")]
    dead_lettered: bool,
}

macro_rules! properties {
    ($($name:ident $($rename:literal)?: $type:ty),* $(,)?) => {
        /// The 14 properties of class basic, by their names in the specification; those that are set.
        #[derive(Debug, Default, Serialize, Deserialize)]
        #[serde(default)]
        struct PropertiesLine {
            $(#[serde(skip_serializing_if = "Option::is_none" $(, rename = $rename)?)] $name: Option<$type>,)*
        }
        impl From<Properties> for PropertiesLine {
            fn from(p: Properties) -> Self {
                Self { $($name: p.$name,)* }
            }
        }
        impl From<PropertiesLine> for Properties {
            fn from(p: PropertiesLine) -> Self {
                Self { $($name: p.$name,)* }
            }
        }
    };
}

properties! {
    content_type: ShortStr,
    content_encoding: ShortStr,
    headers: FieldTable,
    delivery_mode: u8,
    priority: u8,
    correlation_id: ShortStr,
    reply_to: ShortStr,
    expiration: ShortStr,
    message_id: ShortStr,
    timestamp: u64,
    kind "type": ShortStr,
    user_id: ShortStr,
    app_id: ShortStr,
    cluster_id: ShortStr,
}

fn put(out: &mut dyn Write, line: &Line) -> Result<(), StoreError> {
    let text = serde_json::to_string(line).map_err(|e| StoreError::Fatal(format!("no JSON form: {e}")))?;
    writeln!(out, "{text}").map_err(|e| StoreError::io("cannot write the export", &e))
}

/// Writes all definitions and all waiting messages of the data folder `dir`, one line each, one shard after the other.
///
/// # Errors
/// When the store is in use or damaged, when a message can't be read, when `out` can't be written to. What was written is
/// not whole then, and [`import`] refuses it.
pub fn export(dir: &Path, config: &StoreConfig, out: &mut dyn Write) -> Result<Ported, StoreError> {
    let mut ported = Ported::default();
    put(out, &Line::Format { name: FORMAT.to_owned(), version: VERSION })?;
    for config in super::shards(dir, config)? {
        export_shard(&Stopped::open(dir, &config)?, config.shard, &mut ported, out)?;
    }
    put(out, &Line::End(ported))?;
    out.flush().map_err(|e| StoreError::io("cannot write the export", &e))?;
    Ok(ported)
}

fn export_shard(stopped: &Stopped, shard: u32, ported: &mut Ported, out: &mut dyn Write) -> Result<(), StoreError> {
    stopped.check_log()?;
    let reader = stopped.reader();
    let queues = stopped.resolved.queues();
    for definition in &stopped.resolved.definitions {
        // Shard 0 decides about users, the others only follow.
        if shard > 0 && matches!(definition, Definition::User(_)) {
            continue;
        }
        let mut definition = definition.clone();
        if let Definition::Queue(QueueDefinition { id, grave: Some(grave), .. }) = &mut definition {
            let waiting = queues.iter().find(|(queue, _)| queue.id == *id);
            renumber(grave, waiting.map_or(&[], |(_, waiting)| waiting));
        }
        put(out, &Line::Definition(definition))?;
        ported.definitions += 1;
    }
    for (queue, waiting) in queues {
        let mut last = None;
        for s in waiting {
            let batch = match last.take() {
                Some((place, batch)) if place == s.place => batch,
                _ => reader.read(&s.place).map_err(|e| match e {
                    StoreError::Damaged { file, reason } => {
                        let reason = format!("{reason}; queue '{}' in vhost '{}' needs it", queue.name, queue.vhost);
                        StoreError::Damaged { file, reason }
                    }
                    e => e,
                })?,
            };
            for i in s.index..s.index + s.count {
                put(out, &Line::Message(Box::new(line_of(&batch, i, &s, &queue.vhost, &queue.name)?)))?;
                ported.messages += 1;
            }
            last = Some((s.place, batch));
        }
    }
    Ok(())
}

/// An import counts positions anew: of what the messages of a grave died is said by the new ones.
fn renumber(grave: &mut GraveDefinition, waiting: &[Stretch]) {
    for (_, ranges) in &mut grave.reasons {
        let mut old = SeqSet::default();
        std::mem::take(ranges).into_iter().for_each(|range| old.insert_range(range));
        let seqs = waiting.iter().flat_map(|s| SeqRange::dense(s.first, s.count).iter());
        for (new, _) in (1..).zip(seqs).filter(|(_, seq)| old.at(*seq).0) {
            push_range(ranges, SeqRange::dense(new, 1));
        }
    }
}

fn line_of(batch: &Batch, i: u32, s: &Stretch, vhost: &ShortStr, queue: &ShortStr) -> Result<Message, StoreError> {
    let meta = &s.meta;
    if i >= batch.len() {
        return Err(StoreError::damaged("the log", format!("queue '{queue}' waits for messages a run does not have")));
    }
    let properties = Properties::decode(batch.header(i))
        .map_err(|e| StoreError::damaged("a message", format!("its header in queue '{queue}' makes no sense: {e}")))?;
    let body: Vec<u8> = batch.body(i).flatten().copied().collect();
    let (held_until, returned) = if s.hold_until.0 < PLACES { (0, s.hold_until.0) } else { (s.hold_until.0, 0) };
    Ok(Message {
        vhost: vhost.clone(),
        queue: queue.clone(),
        exchange: batch.exchange(i).into(),
        routing_key: batch.routing_key(i).into(),
        properties: properties.into(),
        body: STANDARD.encode(body),
        redelivered: meta.redelivered,
        delivery_count: meta.delivery_count,
        acquired_count: meta.acquired_count,
        expires_at: meta.deadline.0,
        held_until,
        returned,
        hidden_keys: batch.hidden_keys(i).map(ShortStr::from).collect(),
        cc_spent: batch.cc_spent(i),
        level: meta.priority,
        dead_lettered: batch.meta(i).flags & DEAD_LETTERED != 0,
    })
}

/// Makes a new data folder of so many shards from what [`export`] wrote. A vhost goes to the shard it came from, or to the
/// one with the fewest when there is no such shard.
///
/// # Errors
/// When there is a store already, when a line makes no sense (its number is named), when the file is of a newer version or
/// ends early. What was made is removed then.
pub fn import(input: &mut dyn BufRead, dir: &Path, config: &StoreConfig, shards: u32) -> Result<Ported, StoreError> {
    let shards = shards.max(1);
    let importing = dir.join(IMPORTING);
    let there = || (0..).map(|shard| folder(dir, shard)).take_while(|folder| folder.exists());
    // Beside one that was not finished there is nothing but what it made itself.
    if !importing.exists()
        && let Some(shard) = there().next()
    {
        let text = format!("{} is there already: an import makes a new store", shard.display());
        return Err(StoreError::Fatal(text));
    }
    let tidy = || {
        there().collect::<Vec<_>>().iter().rev().try_for_each(|folder| disk::remove_dir(folder))?;
        disk::remove_dir(&importing)
    };
    tidy()?;
    disk::create_dir(&importing)?;
    let imported = import_new(input, &importing, config, shards).and_then(|ported| {
        // Until the last of them is in its place the folder is no data folder.
        for shard in 0..shards {
            let (made, place) = (folder(&importing, shard), folder(dir, shard));
            std::fs::rename(&made, &place).map_err(disk::io_error("cannot put in its place", &made))?;
        }
        disk::sync_dir(dir)?;
        crate::set_shard_count(dir, shards)?;
        Ok(ported)
    });
    if imported.is_err() {
        tidy()?;
    }
    imported
}

fn import_new(input: &mut dyn BufRead, dir: &Path, config: &StoreConfig, shards: u32) -> Result<Ported, StoreError> {
    let mut stores = Vec::new();
    for shard in 0..shards {
        let mut store = Store::open(dir, StoreConfig { shard, ..config.clone() })?;
        store.recover(&mut |_| {})?;
        stores.push(store);
    }
    let mut writers = Spread::over(&mut stores);
    let (mut number, mut ported, mut ended) = (0u64, Ported::default(), false);
    let mut text = String::new();
    loop {
        text.clear();
        let n = input.read_line(&mut text).map_err(|e| StoreError::io("cannot read the export", &e))?;
        if n == 0 {
            break;
        }
        number += 1;
        let bad = |reason: &dyn std::fmt::Display| StoreError::Fatal(format!("line {number} of the export: {reason}"));
        if text.trim().is_empty() {
            continue;
        }
        if ended {
            return Err(bad(&"something after the end"));
        }
        let mut json = serde_json::Deserializer::from_str(&text);
        // Tables may be nested deeper than the default allows; how deep was bounded when they were made.
        json.disable_recursion_limit();
        match Line::deserialize(&mut json).map_err(|e| bad(&e))? {
            Line::Format { name, .. } if name != FORMAT || number != 1 => {
                return Err(bad(&"no export begins like this"));
            }
            Line::Format { version, .. } if version > VERSION => {
                let (what, found) = ("the export".to_owned(), u8::try_from(version).unwrap_or(u8::MAX));
                return Err(StoreError::Unsupported { what, found, known: VERSION as u8 });
            }
            Line::Format { .. } => {}
            _ if number == 1 => return Err(bad(&"the first line must name the format")),
            Line::Definition(definition) => {
                ported.definitions += 1;
                writers.definition(definition)?;
            }
            Line::Message(message) => {
                ported.messages += 1;
                writers.message(*message).map_err(|e| bad(&e))?;
            }
            Line::End(told) if told == ported => ended = true,
            Line::End(told) => {
                return Err(bad(&format!(
                    "it should hold {} messages, but {} were found",
                    told.messages, ported.messages
                )));
            }
        }
    }
    if !ended {
        return Err(StoreError::Fatal(format!("the export breaks off after line {number}")));
    }
    writers.finish()?;
    stores.into_iter().try_for_each(Store::close)?;
    Ok(ported)
}

/// Queues that come to a shard where their id is taken get ids from here on.
const MOVED_FROM: u64 = 1 << 40;

/// Fills the stores of several shards.
struct Spread<'a> {
    shards: Vec<Landing<'a>>,
    /// Where each vhost went.
    vhosts: Map<ShortStr, usize>,
    /// The greatest of all [`Definition::NextIds`].
    next: (QueueId, VhostId),
}

/// A shard that is filled.
struct Landing<'a> {
    writer: Writer<'a>,
    taken: BTreeSet<QueueId>,
    vhosts: u32,
}

impl<'a> Spread<'a> {
    fn over(stores: &'a mut [Store]) -> Self {
        let landing = |store| Landing { writer: Writer::new(store), taken: BTreeSet::new(), vhosts: 0 };
        Self { shards: stores.iter_mut().map(landing).collect(), vhosts: Map::default(), next: Default::default() }
    }

    /// The shard a vhost went to; shard 0 for what is of none, and for one that isn't defined, which its store tells.
    fn at(&self, vhost: Option<&str>) -> usize {
        vhost.and_then(|vhost| self.vhosts.get(vhost)).copied().unwrap_or(0)
    }

    fn message(&mut self, message: Message) -> Result<(), StoreError> {
        let at = self.at(Some(&message.vhost));
        self.shards[at].writer.message(message)
    }

    fn definition(&mut self, mut definition: Definition) -> Result<(), StoreError> {
        use Definition as D;
        let vhost = match &mut definition {
            D::Vhost(d) => {
                let emptiest = || (0..self.shards.len()).min_by_key(|at| self.shards[*at].vhosts).unwrap_or(0);
                let at = Some(d.shard as usize).filter(|at| *at < self.shards.len()).unwrap_or_else(emptiest);
                d.shard = at as u32;
                self.shards[at].vhosts += 1;
                self.vhosts.insert(d.name.clone(), at);
                Some(&d.name)
            }
            D::NextIds { queue, vhost } => {
                self.next = (self.next.0.max(*queue), self.next.1.max(*vhost));
                let (queue, vhost) = self.next;
                return self.shards.iter_mut().try_for_each(|s| s.writer.definition(D::NextIds { queue, vhost }));
            }
            D::Queue(d) => {
                let at = self.at(Some(&d.vhost));
                let taken = &mut self.shards[at].taken;
                if !taken.insert(d.id) {
                    d.id = QueueId(taken.last().map_or(0, |last| last.0 + 1).max(MOVED_FROM));
                    taken.insert(d.id);
                }
                Some(&d.vhost)
            }
            D::User(_) => None,
            D::Permission(d) => Some(&d.vhost),
            D::TopicPermission(d) => Some(&d.vhost),
            D::Exchange(d) => Some(&d.vhost),
            D::Binding(d) => Some(&d.vhost),
            D::Policy(d) => Some(&d.vhost),
            D::Parameter(d) => d.vhost.as_ref(),
        };
        let at = self.at(vhost.map(ShortStr::as_str));
        self.shards[at].writer.definition(definition)
    }

    fn finish(self) -> Result<(), StoreError> {
        self.shards.into_iter().try_for_each(|s| s.writer.finish())
    }
}

/// Fills a new store.
pub(super) struct Writer<'a> {
    store: &'a mut Store,
    queues: Map<(ShortStr, ShortStr), QueueId>,
    next_seq: Map<QueueId, Seq>,
    run: Option<(QueueId, RunMeta, BatchBuilder)>,
    /// Of the run's messages those that came back.
    again: Vec<(Seq, UnixMillis)>,
    group: Group,
    bytes: usize,
    enqueues: u64,
}

impl<'a> Writer<'a> {
    pub(super) fn new(store: &'a mut Store) -> Self {
        let (queues, next_seq) = (Map::default(), Map::default());
        let again = Vec::new();
        Self { store, queues, next_seq, run: None, again, group: Group::default(), bytes: 0, enqueues: 0 }
    }
    pub(super) fn definition(&mut self, definition: Definition) -> Result<(), StoreError> {
        if let Definition::Queue(q) = &definition {
            self.queues.insert((q.vhost.clone(), q.name.clone()), q.id);
        }
        self.group.ops.push(StoreOp::Put(definition));
        // each is a key of its own
        if self.group.ops.len() >= 100 { self.write() } else { Ok(()) }
    }
    fn message(&mut self, m: Message) -> Result<(), StoreError> {
        let wrong = |reason: String| StoreError::Fatal(reason);
        let name = (m.vhost, m.queue);
        let Some(queue) = self.queues.get(&name).copied() else {
            return Err(wrong(format!("queue '{}' in vhost '{}' is not defined before it", name.1, name.0)));
        };
        let meta = RunMeta {
            deadline: UnixMillis(m.expires_at),
            priority: m.level,
            redelivered: m.redelivered,
            delivery_count: m.delivery_count,
            acquired_count: m.acquired_count,
            transient: false,
        };
        let body = STANDARD.decode(&m.body).map_err(|e| wrong(format!("the body is no base64: {e}")))?;
        let payload = Properties::from(m.properties).encode(body.len() as u64);
        let mut message = header::scan(&payload).map_err(|e| wrong(format!("the properties make no sense: {e}")))?;
        if m.dead_lettered {
            message.flags |= DEAD_LETTERED;
        }
        let goes_on =
            self.run.as_ref().is_some_and(|(q, r, b)| (*q, *r) == (queue, meta) && !b.is_full() && b.len() < 4096);
        if !goes_on {
            self.end_run()?;
        }
        let (_, _, builder) = self.run.get_or_insert_with(|| (queue, meta, BatchBuilder::default()));
        let hidden: Vec<&str> = m.hidden_keys.iter().map(|k| &**k).collect();
        message.route = builder.push_route_beside(&m.exchange, &m.routing_key, m.cc_spent, &hidden);
        builder.push_message(&payload, [&body[..]], message, FRAME_MAX);
        let again = m.held_until.max(m.returned);
        if again > 0 {
            let seq = self.next_seq.get(&queue).map_or(1, |n| *n) + Seq::from(builder.len() - 1);
            self.again.push((seq, UnixMillis(again)));
        }
        if builder.size() >= GROUP_BYTES { self.end_run() } else { Ok(()) }
    }
    fn end_run(&mut self) -> Result<(), StoreError> {
        let Some((queue, meta, builder)) = self.run.take() else { return Ok(()) };
        let span = Span::whole(builder.finish());
        let first_seq = *self.next_seq.entry(queue).or_insert(1);
        self.next_seq.insert(queue, first_seq + Seq::from(span.count));
        self.enqueue(vec![Target { queue, first_seq }], meta, span)?;
        // behind the run: what stands before it may leave the log before it
        std::mem::take(&mut self.again).into_iter().try_for_each(|(seq, again)| self.hold(queue, seq, &meta, again))
    }
    /// A message is not to be delivered before a time, or has a place among those that came back.
    pub(super) fn hold(
        &mut self,
        queue: QueueId,
        seq: Seq,
        meta: &RunMeta,
        until: UnixMillis,
    ) -> Result<(), StoreError> {
        let (delivery_count, acquired_count) = (meta.delivery_count, meta.acquired_count);
        self.group.ops.push(StoreOp::State { queue, seq, delivery_count, acquired_count, hold_until: until });
        if self.group.ops.len() >= GROUP_RUNS { self.write() } else { Ok(()) }
    }
    pub(super) fn enqueue(&mut self, targets: Vec<Target>, meta: RunMeta, span: Span) -> Result<(), StoreError> {
        self.enqueues += 1;
        // what is the same as the run before is written once
        if !matches!(self.group.ops.last(), Some(StoreOp::Enqueue(e)) if e.span.is_same(&span)) {
            self.bytes += span.indexes().map(|i| span.batch.meta(i).len as usize).sum::<usize>();
        }
        self.group.ops.push(StoreOp::Enqueue(Enqueue {
            id: EnqueueId(self.enqueues),
            targets,
            meta,
            span,
            more: Vec::new(),
        }));
        if self.bytes >= GROUP_BYTES || self.group.ops.len() >= GROUP_RUNS { self.write() } else { Ok(()) }
    }
    fn write(&mut self) -> Result<(), StoreError> {
        let mut group = std::mem::take(&mut self.group);
        group.upto = CommitSeq(self.enqueues);
        self.bytes = 0;
        self.store.commit(&group)?;
        self.store.sync().map(|_| ())
    }
    pub(super) fn finish(mut self) -> Result<(), StoreError> {
        self.end_run()?;
        self.write()
    }
}

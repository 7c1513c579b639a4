//! Input to commands. Publishes whose frames lie complete in the buffer are taken in runs; all else goes frame by frame.

use super::channel::{Assembly, Channel, ChannelState, Sink, Stage, room_ahead};
use super::{Connection, State};
use crate::codec::awaited::Awaited;
use crate::codec::frame::{self, BODY, Frame, HEADER, HEARTBEAT, METHOD, PREFIX, cannot_decode, frame_error};
use crate::codec::hot::{self, HEADER_START, PUBLISH, PUBLISH_START, PublishError, ROUTE_AT, Scanned, Settlement};
use crate::codec::method::{self, ChannelMethod, ConnectionMethod, put_method};
use crate::codec::{fields::not_utf8, frame::unexpected_frame};
use amq_protocol::protocol::{AMQPClass, connection};
use bytes::Buf;
use hornpipe_types::command::{ChannelCommand, Command, PublishRun, Publishes, RunHead};
use hornpipe_types::error::{AmqpError, ReplyCode};
use hornpipe_types::header;
use hornpipe_types::message::{Batch, BatchBuilder, CONTENT_HEADER_FIXED, MULTI_FRAME};
use hornpipe_types::time::Instant;
use std::sync::Arc;

/// Largest body RabbitMQ's frame reader lets pass, whatever is configured.
const BODY_MAX: u64 = 512 * 1024 * 1024;
/// Bodies over this (and over frame_max) are collected into a batch of their own.
const LARGE_BODY: u64 = 128 * 1024;

/// Where messages are so large, a read is to bring one, octets: then its buffer becomes the batch.
const ONE_A_READ: usize = 48 * 1024;

/// Room made for messages before it is known how many a read brought, at most.
const MESSAGES_EXPECTED: usize = 4096;

/// The publish method frame seen last in this buffer: an identical one needs no look.
#[derive(Debug, Default)]
struct Repeat<'a> {
    /// The whole frame; empty when there is none.
    frame: &'a [u8],
    channel: [u8; 2],
    route: &'a [u8],
    mandatory: bool,
    /// The route's index in the batch being built.
    index: Option<u16>,
    scanned: Scanned<'a>,
    /// None yet: most reads bring no publish, and the table is large.
    known: Option<KnownFrames<'a>>,
    /// The frame is not among those yet.
    is_new: bool,
}

/// Publish method frames seen in this buffer that were found good, with the index of their routes in the batch being built: where
/// channels and keys alternate, the same few come again and again.
#[derive(Debug)]
struct KnownFrames<'a>([(&'a [u8], u16); 64]);

impl Default for KnownFrames<'_> {
    fn default() -> Self {
        Self([(&[], 0); 64])
    }
}

impl<'a> KnownFrames<'a> {
    /// Where a frame belongs: those that differ mostly do so in the channel or at the end of the key.
    fn slot(&mut self, frame: &[u8]) -> Option<&mut (&'a [u8], u16)> {
        let (_, end) = frame.split_last_chunk::<8>()?;
        let mixed = u64::from_le_bytes(*end) ^ u64::from(*frame.get(2)?) << 4;
        self.0.get_mut((mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize)
    }
    fn index_of(&mut self, frame: &[u8]) -> Option<u16> {
        self.slot(frame).filter(|(known, _)| *known == frame).map(|(_, index)| *index)
    }
    fn keep(&mut self, frame: &'a [u8], index: u16) {
        if let Some(slot) = self.slot(frame) {
            *slot = (frame, index);
        }
    }
}

impl Repeat<'_> {
    /// Neither channels nor batch may be what they were.
    fn forget(&mut self) {
        self.frame = &[];
        self.index = None;
        self.known = None;
    }

    /// The index of the route of a frame that was found good.
    fn index_of(&mut self, frame: &[u8]) -> Option<u16> {
        self.known.as_mut()?.index_of(frame)
    }
}

/// Where the batch of this read ends so far: the last run can grow when the same publish goes on.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// The last run's route.
    index: u16,
    /// Route octets of the message that came frame by frame last …
    route: Vec<u8>,
    /// … and their index.
    route_index: u16,
}

/// A message that begins at the front of the input and is not complete.
#[derive(Debug)]
pub(super) struct Coming {
    channel: [u8; 2],
    /// Octets of its publish frame.
    front: usize,
    content: Awaited,
    /// Octets it will measure, as far as that is known.
    size: usize,
}

impl Coming {
    /// How many octets the buffer is to hold, which was made for `fresh` if that is not 0; 0 where that doesn't matter.
    fn room(&self, have: usize, fresh: usize) -> usize {
        let is_known = self.content.has_header();
        // hardly any of it would stay empty
        if !is_known || (self.size..=self.size + self.size / 16).contains(&fresh) {
            fresh
        } else if self.size < ONE_A_READ {
            0
        } else {
            room_ahead(have, self.size)
        }
    }
}

impl Connection {
    /// Whether there is no more to do than to wait for the rest of a message.
    fn still_comes(&mut self) -> bool {
        let Some(mut coming) = self.coming.take() else { return false };
        let (frame_max, body_max) = (self.frame_max, self.body_max());
        if self.state != State::Running || !self.is_idle(u16::from_be_bytes(coming.channel)) {
            return false;
        }
        let had_header = coming.content.has_header();
        let content = self.input.get(coming.front..).unwrap_or(&[]);
        let Some(size) = coming.content.goes_on(content, coming.channel, frame_max, body_max) else { return false };
        if self.hold.is_some() {
            // what has come stays where it is: it would be there twice for a while
            if !coming.content.has_header() {
                return false;
            }
            self.on_content();
        }
        coming.size = coming.front + size;
        let (have, fresh) = (self.input.len(), self.fresh());
        if fresh == 0 || !had_header || have >= fresh {
            self.wanted = coming.room(have, fresh);
        }
        self.coming = Some(coming);
        true
    }

    /// What the input buffer was made for, if it was made for a message and nothing of it is used up; or else 0.
    fn fresh(&self) -> usize {
        if self.input.capacity() == self.wanted { self.wanted } else { 0 }
    }

    /// Turns what is complete in the input buffer into commands.
    pub(super) fn read(&mut self, now: Instant) {
        if self.still_comes() {
            return;
        }
        let fresh = self.fresh();
        let mut input = std::mem::take(&mut self.input);
        let used = self.walk(now, &input);
        let mut each = 0;
        match self.batch.take() {
            Some(builder) => {
                each = used / builder.len().max(1) as usize;
                let batch = builder.finish_with(&mut input, used);
                self.hand_batch(batch);
            }
            None => input.advance(used),
        }
        self.wanted = match &self.coming {
            Some(coming) => coming.room(input.len(), if used == 0 { fresh } else { 0 }),
            None if used == 0 => fresh,
            None => 0,
        };
        if self.wanted == 0 && each >= ONE_A_READ {
            self.wanted = each;
        }
        self.input = input;
    }

    fn walk(&mut self, now: Instant, bytes: &[u8]) -> usize {
        let mut repeat = Repeat::default();
        let mut at = 0;
        while let Some(rest) = bytes.get(at..)
            && !rest.is_empty()
        {
            match self.state {
                State::Header => {
                    let Some(n) = self.on_protocol_header(rest) else { break };
                    at += n;
                    continue;
                }
                // the answer decides what the rest means
                State::Authenticating | State::OpenSent => break,
                State::Draining { .. }
                | State::Closed(_)
                | State::Failing { fatal: true, .. }
                | State::CloseSent { fatal: true, .. } => return bytes.len(),
                State::Running if self.held || self.is_behind() => break,
                // under an alarm frame by frame: the first content ends it
                State::Running if self.hold.is_none() => {
                    let (n, waits) = self.read_publishes(bytes, at, &mut repeat);
                    at += n;
                    if waits {
                        break;
                    }
                    if n > 0 {
                        continue;
                    }
                }
                _ => {}
            }
            let frame = match frame::first(rest, self.frame_max) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    self.fail(now, error, true);
                    return bytes.len();
                }
            };
            at += frame.len();
            match self.state {
                State::Start | State::Tune | State::Opening => self.on_handshake_frame(now, frame),
                State::Running if frame.channel == 0 => self.on_connection_frame(now, frame),
                State::Running => {
                    if let Some(settlement) = hot::settlement(frame.payload)
                        && frame.kind == METHOD
                        && self.is_idle(frame.channel)
                    {
                        self.push_settle(frame.channel, settlement);
                    } else {
                        repeat.forget();
                        self.on_channel_frame(now, frame);
                        if self.batch.as_ref().is_some_and(BatchBuilder::is_full) {
                            self.finish_batch(bytes);
                        }
                    }
                }
                _ => self.on_frame_while_closing(frame),
            }
        }
        at
    }

    /// Whether a channel is open and no content is due on it.
    fn is_idle(&self, channel: u16) -> bool {
        self.channels.get(&channel).is_some_and(|c| c.state == ChannelState::Open && c.assembly.is_none())
    }

    fn body_max(&self) -> u64 {
        self.config.limits.max_message_size.min(BODY_MAX)
    }

    /// Takes the complete publishes that begin at `start`: octets taken, and whether the next publish is to be left there until
    /// more of it has come. Stops at the first thing that is anything else.
    fn read_publishes<'a>(&mut self, bytes: &'a [u8], start: usize, repeat: &mut Repeat<'a>) -> (usize, bool) {
        let (frame_max, body_max) = (self.frame_max, self.body_max());
        let mut at = start;
        let (mut from, mut count) = (0, 0);
        let mut waits = false;
        loop {
            let rest = &bytes[at..];
            if repeat.frame.is_empty() || !rest.starts_with(repeat.frame) {
                self.push_run(repeat, from, count);
                count = 0;
                if !self.begin_run(rest, repeat) {
                    break;
                }
            }
            let content = &rest[repeat.frame.len()..];
            let Some((len, mut meta)) = hot::content(content, repeat.channel, frame_max, body_max, &mut repeat.scanned)
            else {
                let (channel, front) = (repeat.channel, repeat.frame.len());
                let mut awaited = Awaited::default();
                if let Some(size) = awaited.goes_on(content, channel, frame_max, body_max) {
                    waits = true;
                    self.coming = Some(Coming { channel, front, content: awaited, size: front + size });
                }
                break;
            };
            if self.batch.as_ref().is_some_and(BatchBuilder::is_full) {
                self.push_run(repeat, from, count);
                count = 0;
                self.finish_batch(bytes);
                repeat.index = None;
                repeat.known = None;
            }
            let size = repeat.frame.len() + len;
            let batch = self.batch.get_or_insert_with(|| {
                let mut batch = BatchBuilder::default();
                batch.reserve((rest.len() / size + 1).min(MESSAGES_EXPECTED));
                batch
            });
            if count == 0 {
                from = batch.len();
            }
            meta.route = match repeat.index {
                Some(index) => index,
                None => *repeat.index.insert(batch.push_route_at(at + PREFIX + ROUTE_AT, repeat.route)),
            };
            if std::mem::take(&mut repeat.is_new) {
                repeat.known.get_or_insert_default().keep(repeat.frame, meta.route);
            }
            batch.push_frames_at(at + repeat.frame.len(), &content[..len], meta);
            count += 1;
            at += size;
        }
        self.push_run(repeat, from, count);
        (at - start, waits)
    }

    /// Looks at a publish frame that differs from the one before; `false` for anything out of the ordinary.
    fn begin_run<'a>(&self, bytes: &'a [u8], repeat: &mut Repeat<'a>) -> bool {
        repeat.frame = &[];
        let Some(&[METHOD, c0, c1, ..]) = bytes.first_chunk::<PREFIX>() else {
            return false;
        };
        let channel = [c0, c1];
        let Some(payload) = hot::envelope(bytes, METHOD, channel, self.frame_max) else {
            return false;
        };
        let frame = &bytes[..payload.len() + frame::OVERHEAD];
        if let Some(index) = repeat.index_of(frame)
            && let Some((bits, route)) = payload.split_last()
            && let Some(route) = route.get(ROUTE_AT..)
        {
            (repeat.frame, repeat.channel, repeat.index) = (frame, channel, Some(index));
            (repeat.route, repeat.mandatory) = (route, bits & 1 != 0);
            return true;
        }
        if !payload.starts_with(&PUBLISH_START) || !self.is_idle(u16::from_be_bytes(channel)) {
            return false;
        }
        match hot::publish(payload) {
            Ok(publish) if !publish.immediate => {
                repeat.frame = frame;
                repeat.is_new = true;
                repeat.channel = channel;
                repeat.mandatory = publish.mandatory;
                if repeat.route != publish.route {
                    repeat.route = publish.route;
                    repeat.index = None;
                }
                if repeat.index.is_none() && self.batch.is_some() && self.tail.route == publish.route {
                    repeat.index = Some(self.tail.route_index);
                }
                true
            }
            _ => false,
        }
    }

    /// Hands on `count` messages of the batch from `from` on; grows the last run where they continue it.
    fn push_run(&mut self, repeat: &Repeat<'_>, from: u32, count: u32) {
        if let (1.., Some(index)) = (count, repeat.index) {
            self.push_batched(u16::from_be_bytes(repeat.channel), index, from, count, repeat.mandatory);
        }
    }

    fn push_batched(&mut self, channel: u16, index: u16, from: u32, count: u32, mandatory: bool) {
        // nothing came since the last run of this batch
        let goes_on = self.runs.last().is_some_and(|last| last + 1 == self.commands.len());
        let head = RunHead { channel, mandatory, from, count };
        if goes_on && let Some(Command::Publishes(publishes)) = self.commands.last_mut() {
            match publishes.runs.last_mut() {
                Some(last)
                    if (last.channel, last.mandatory, last.from + last.count) == (channel, mandatory, from)
                        && self.tail.index == index =>
                {
                    last.count += count;
                }
                _ => publishes.runs.push(head),
            }
        } else {
            self.runs.push(self.commands.len());
            self.commands.push(Command::Publishes(Publishes { batch: self.no_batch.clone(), runs: vec![head] }));
        }
        self.tail.index = index;
    }

    /// Ends the batch so far of what is read, which lies in `bytes`.
    fn finish_batch(&mut self, bytes: &[u8]) {
        if let Some(mut builder) = self.batch.take() {
            builder.copy_outside(bytes);
            self.hand_batch(builder.finish());
        }
    }

    /// Gives a finished batch to the runs made of it.
    fn hand_batch(&mut self, batch: Arc<Batch>) {
        self.tail = Tail::default();
        for i in self.runs.drain(..) {
            let Some(command) = self.commands.get_mut(i) else { continue };
            let Command::Publishes(publishes) = command else { continue };
            publishes.batch = Arc::clone(&batch);
            if let [head] = publishes.runs[..] {
                let (channel, publish) = publishes.run(head);
                *command = Command::Channel(channel, publish);
            }
        }
    }

    fn push_settle(&mut self, channel: u16, s: Settlement) {
        if let Some(Command::Channel(number, ChannelCommand::Settle { how, tag, count, multiple: false })) =
            self.commands.last_mut()
            && !s.multiple
            && *number == channel
            && *how == s.how
            && *tag > 0
            && tag.checked_add(u64::from(*count)) == Some(s.tag)
            && let Some(more) = count.checked_add(1)
        {
            *count = more;
            return;
        }
        let Settlement { how, tag, multiple } = s;
        self.commands.push(Command::Channel(channel, ChannelCommand::Settle { how, tag, count: 1, multiple }));
    }

    fn on_connection_frame(&mut self, now: Instant, frame: Frame<'_>) {
        if let Err(error) = self.connection_frame(frame) {
            self.fail(now, error, false);
        }
    }

    fn connection_frame(&mut self, frame: Frame<'_>) -> Result<(), AmqpError> {
        well_formed(&frame)?;
        let id = match (frame.kind, frame.method()) {
            (HEARTBEAT, _) => return Ok(()),
            (METHOD, Some(id)) => id,
            _ => return Err(unexpected_frame(frame.kind, frame.payload)),
        };
        match method::on_connection(id, frame.payload)? {
            ConnectionMethod::Close => {
                self.commands.push(Command::Close);
                self.state = State::ClosingByClient;
            }
            ConnectionMethod::UpdateSecret => {
                // passwords do not expire, so a new one changes nothing
                let ok = connection::AMQPMethod::UpdateSecretOk(connection::UpdateSecretOk {});
                put_method(&mut self.output.bytes, &mut self.scratch, 0, &AMQPClass::Connection(ok));
            }
            _ => {
                let text = "unexpected method in connection state running";
                return Err(AmqpError::new(ReplyCode::ChannelError, text).in_method(id.0, id.1));
            }
        }
        Ok(())
    }

    fn on_channel_frame(&mut self, now: Instant, frame: Frame<'_>) {
        if let Err(error) = self.channel_frame(frame) {
            self.fail(now, error, false);
        }
    }

    fn channel_frame(&mut self, frame: Frame<'_>) -> Result<(), AmqpError> {
        well_formed(&frame)?;
        if frame.kind == HEARTBEAT {
            return Err(unexpected_frame(frame.kind, frame.payload));
        }
        let method = frame.method().filter(|_| frame.kind == METHOD);
        let Some(channel) = self.channels.get_mut(&frame.channel) else {
            return self.unopened(frame, method);
        };
        match (channel.state, method) {
            (ChannelState::Open, _) => {}
            (ChannelState::Failed { .. }, Some((20, 40))) => {
                channel.state = ChannelState::Failed { owes_close_ok: true };
                return Ok(());
            }
            (ChannelState::CloseSent, Some((20, 40))) => {
                self.put_channel_close_ok(frame.channel);
                return Ok(());
            }
            (ChannelState::CloseSent, Some((20, 41))) => {
                self.channels.remove(&frame.channel);
                return Ok(());
            }
            // it is the one thing that is not ignored
            (_, Some((20, 10))) => return method::on_channel((20, 10), frame.payload).and(Err(second_open())),
            _ => return Ok(()),
        }
        match (&channel.assembly, method) {
            (None, Some(id)) => self.channel_method(frame, id),
            (None, None) => Err(out_of_place("expected method frame, got non method frame instead".to_owned())),
            (Some(_), _) => self.content_frame(frame).map_err(|e| e.in_method(PUBLISH.0, PUBLISH.1)),
        }
    }

    /// A frame on a number that is not open.
    fn unopened(&mut self, frame: Frame<'_>, method: Option<(u16, u16)>) -> Result<(), AmqpError> {
        let id = match method {
            None => return Err(out_of_place("expected method frame, got non method frame instead".to_owned())),
            Some(id) => id,
        };
        if id != (20, 10) {
            return Err(AmqpError::new(ReplyCode::ChannelError, "expected 'channel.open'").in_method(id.0, id.1));
        }
        method::on_channel(id, frame.payload)?;
        let (open, max) = (self.live_channels, self.channel_max);
        if open >= u32::from(max) {
            return Err(AmqpError::not_allowed(format!(
                "number of channels opened ({open}) has reached the negotiated channel_max ({max})"
            )));
        }
        self.live_channels += 1;
        self.channels.insert(frame.channel, Channel { state: ChannelState::Open, assembly: None });
        self.commands.push(Command::Channel(frame.channel, ChannelCommand::Open));
        Ok(())
    }

    fn channel_method(&mut self, frame: Frame<'_>, id: (u16, u16)) -> Result<(), AmqpError> {
        if id == PUBLISH {
            let publish = hot::publish(frame.payload).map_err(|e| match e {
                PublishError::NotUtf8 => not_utf8(),
                PublishError::Malformed => cannot_decode(&frame.payload[4..]).in_method(id.0, id.1),
            })?;
            if publish.immediate {
                return Err(AmqpError::not_implemented("immediate=true").in_method(id.0, id.1));
            }
            let (route, mandatory) = (publish.route.to_vec(), publish.mandatory);
            if let Some(channel) = self.channels.get_mut(&frame.channel) {
                channel.assembly = Some(Box::new(Assembly { route, mandatory, stage: Stage::Header }));
            }
            return Ok(());
        }
        let command = match method::on_channel(id, frame.payload)? {
            ChannelMethod::Command(ChannelCommand::Open) => {
                return Err(second_open());
            }
            ChannelMethod::Command(ChannelCommand::Close) => {
                if let Some(channel) = self.channels.get_mut(&frame.channel) {
                    channel.state = ChannelState::ClosingByClient;
                }
                ChannelCommand::Close
            }
            ChannelMethod::Command(command) => {
                self.gets += u32::from(matches!(command, ChannelCommand::Get { .. }));
                command
            }
            ChannelMethod::CloseOk | ChannelMethod::CancelOk => return Ok(()),
        };
        self.commands.push(Command::Channel(frame.channel, command));
        Ok(())
    }

    /// A frame on a channel where content is due.
    fn content_frame(&mut self, frame: Frame<'_>) -> Result<(), AmqpError> {
        let (frame_max, body_max) = (self.frame_max, self.body_max());
        let Some(assembly) = self.channels.get_mut(&frame.channel).and_then(|c| c.assembly.as_mut()) else {
            return Ok(());
        };
        let done = match &mut assembly.stage {
            Stage::Header => {
                let size = announced(&frame)?;
                let sink = if size > body_max {
                    Sink::Discard(size)
                } else {
                    let meta = header::scan(frame.payload).map_err(|_| cannot_decode(frame.payload))?;
                    if size > LARGE_BODY.max(u64::from(frame_max)) {
                        Sink::large(&assembly.route, frame.payload, meta)
                    } else {
                        Sink::small(frame.payload, meta)
                    }
                };
                assembly.stage = Stage::Body { missing: size, into: sink };
                size == 0
            }
            Stage::Body { missing, into } => {
                if frame.kind != BODY {
                    return Err(out_of_place("expected content body, got non content body frame instead".to_owned()));
                }
                let Some(left) = missing.checked_sub(frame.payload.len() as u64) else {
                    let text = "content body frame exceeds remaining content size";
                    return Err(AmqpError::new(ReplyCode::FrameError, text));
                };
                into.push(frame.payload, *missing, frame_max);
                *missing = left;
                left == 0
            }
        };
        if done {
            self.content_complete(frame.channel);
        }
        self.on_content();
        Ok(())
    }

    fn content_complete(&mut self, number: u16) {
        let max = self.body_max();
        let Some(channel) = self.channels.get_mut(&number) else {
            return;
        };
        let Some(Assembly { route, mandatory, stage: Stage::Body { into, .. } }) =
            channel.assembly.take().map(|boxed| *boxed)
        else {
            return;
        };
        match into {
            Sink::Small { frames, mut meta } => {
                if frames.body_frames > 1 {
                    meta.flags |= MULTI_FRAME;
                }
                let batch = self.batch.get_or_insert_default();
                let from = batch.len();
                if from == 0 || self.tail.route != route {
                    self.tail.route_index = batch.push_route_bytes(&route);
                    self.tail.route = route;
                }
                meta.route = self.tail.route_index;
                batch.push_frames(&frames.bytes, meta);
                self.push_batched(number, meta.route, from, 1, mandatory);
            }
            Sink::Large { mut builder, .. } => {
                builder.end_message();
                let run = PublishRun { batch: builder.finish(), from: 0, count: 1, mandatory };
                self.commands.push(Command::Channel(number, ChannelCommand::Publish(run)));
            }
            Sink::Discard(size) => {
                channel.state = ChannelState::Failed { owes_close_ok: false };
                let text = format!("message size {size} is larger than configured max size {max}");
                let error = AmqpError::precondition(text).in_method(PUBLISH.0, PUBLISH.1);
                self.commands.push(Command::Channel(number, ChannelCommand::Fail(error)));
            }
        }
    }
}

/// Types and sizes RabbitMQ's frame analysis knows; anything else is an unknown frame to it.
fn well_formed(frame: &Frame<'_>) -> Result<(), AmqpError> {
    let known = match frame.kind {
        METHOD => frame.payload.len() >= 4,
        HEADER => frame.payload.len() >= CONTENT_HEADER_FIXED,
        BODY => true,
        HEARTBEAT => frame.payload.is_empty(),
        _ => false,
    };
    if known { Ok(()) } else { Err(frame_error(frame.kind, frame.payload, "unknown_frame")) }
}

fn second_open() -> AmqpError {
    AmqpError::new(ReplyCode::ChannelError, "second 'channel.open' seen").in_method(20, 10)
}

fn out_of_place(text: String) -> AmqpError {
    AmqpError::new(ReplyCode::UnexpectedFrame, text)
}

/// The body size a content header announces, or what is wrong with the frame in its place.
fn announced(frame: &Frame<'_>) -> Result<u64, AmqpError> {
    let fixed = frame.payload.first_chunk::<CONTENT_HEADER_FIXED>().filter(|_| frame.kind == HEADER);
    let Some(&[c0, c1, 0, 0, size @ ..]) = fixed else {
        return Err(out_of_place(
            "expected content header for class 60, got non content header frame instead".to_owned(),
        ));
    };
    if [c0, c1] != HEADER_START[..2] {
        let class = u16::from_be_bytes([c0, c1]);
        return Err(out_of_place(format!("expected content header for class 60, got one for class {class} instead")));
    }
    let size = u64::from_be_bytes(size);
    if size > BODY_MAX {
        let text = format!("content body size {size} exceeds maximum allowed size {BODY_MAX}");
        return Err(AmqpError::new(ReplyCode::FrameError, text));
    }
    Ok(size)
}

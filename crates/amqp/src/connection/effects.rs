//! Effects to output.

use super::channel::{Channel, ChannelState};
use super::{Connection, State};
use crate::codec::content::{is_shared, put_content, share_content};
use crate::codec::frame::{METHOD, put};
use crate::codec::hot;
use crate::codec::method::{CHANNEL_CLOSE_OK, CHANNEL_OPEN_OK, CONNECTION_OPEN_OK, put_method};
use amq_protocol::protocol::{AMQPClass, access, basic, channel, confirm, connection, exchange, queue, tx};
use amq_protocol::types::ShortString;
use bytes::{BufMut, BytesMut};
use hornpipe_types::command::Command;
use hornpipe_types::effect::{ChannelEffect, ConnectionEffect, Delivery, span_cost};
use hornpipe_types::error::AmqpError;
use hornpipe_types::message::Span;
use hornpipe_types::names::ShortStr;
use hornpipe_types::time::Instant;

impl Connection {
    pub(super) fn on_effect(&mut self, now: Instant, effect: ConnectionEffect) {
        match effect {
            ConnectionEffect::Opened => {
                if self.state == State::OpenSent {
                    self.state = State::Running;
                    put(&mut self.output.bytes, METHOD, 0, &CONNECTION_OPEN_OK);
                }
            }
            ConnectionEffect::CloseOk => self.on_close_ok_effect(now),
            ConnectionEffect::Close(error) => self.on_close_effect(now, error),
            ConnectionEffect::Hold(Some(reason)) => self.hold = Some(reason),
            ConnectionEffect::Hold(None) => {
                self.hold = None;
                let was_held = std::mem::take(&mut self.held);
                if was_held && self.blocked_notify && self.is_writable() {
                    let unblocked = connection::AMQPMethod::Unblocked(connection::Unblocked {});
                    self.put_method(0, AMQPClass::Connection(unblocked));
                }
            }
            ConnectionEffect::Channel(number, effect) => self.on_channel_effect(number, effect),
        }
    }

    /// Content came: under an alarm nothing more is read, and the client is told why if it wants to hear.
    pub(super) fn on_content(&mut self) {
        let Some(reason) = self.hold.filter(|_| !self.held) else { return };
        self.held = true;
        self.commands.push(Command::Blocked);
        if self.blocked_notify && self.is_writable() {
            let blocked = connection::Blocked { reason: reason.into() };
            self.put_method(0, AMQPClass::Connection(connection::AMQPMethod::Blocked(blocked)));
        }
    }

    /// Whether the core's channels may still speak: up to the answer to a close or failure.
    fn is_writable(&self) -> bool {
        matches!(self.state, State::Running | State::Failing { .. } | State::ClosingByClient)
    }

    fn on_channel_effect(&mut self, number: u16, effect: ChannelEffect) {
        let state = self.channels.get(&number).map(|c| c.state).filter(|_| self.is_writable());
        let Some(state) = state.filter(|s| *s != ChannelState::CloseSent) else {
            // never written, yet the core waits for the room it takes
            let cost = match &effect {
                ChannelEffect::Deliver(d) => span_cost(&d.span),
                ChannelEffect::GetOk { span, .. } | ChannelEffect::Return { span, .. } => span_cost(span),
                _ => 0,
            };
            if cost > 0 && self.is_writable() {
                self.commands.push(Command::Written(cost));
            }
            return;
        };
        let reply = match effect {
            ChannelEffect::Deliver(delivery) => return self.put_deliver(number, &delivery),
            ChannelEffect::GetOk { tag, redelivered, messages, span } => {
                return self.put_contents(number, &span, |frame, route| {
                    hot::get_ok(frame, number, tag, redelivered, route, messages);
                });
            }
            ChannelEffect::Return { code, text, span } => {
                return self.put_contents(number, &span, |frame, route| {
                    hot::returned(frame, number, code.number(), &text, route);
                });
            }
            ChannelEffect::Confirm { tag, count, multiple, ack } => {
                return hot::confirms(&mut self.output.bytes, number, tag, count, multiple, ack);
            }
            ChannelEffect::Close(error) => return self.put_channel_close(number, state, &error),
            ChannelEffect::CloseOk => {
                if state == ChannelState::ClosingByClient {
                    self.channels.remove(&number);
                    self.live_channels = self.live_channels.saturating_sub(1);
                    self.put_channel_close_ok(number);
                }
                return;
            }
            ChannelEffect::OpenOk => return put(&mut self.output.bytes, METHOD, number, &CHANNEL_OPEN_OK),
            plain => reply(plain),
        };
        if let Some(reply) = reply {
            self.put_method(number, reply);
        }
    }

    fn put_channel_close(&mut self, number: u16, state: ChannelState, error: &AmqpError) {
        let close = AMQPClass::Channel(channel::AMQPMethod::Close(channel::Close {
            reply_code: error.code.number(),
            reply_text: error.reply_text().into(),
            class_id: error.method.0,
            method_id: error.method.1,
        }));
        self.put_method(number, close);
        // both sides closed at once: the client gets its answer too
        if matches!(state, ChannelState::ClosingByClient | ChannelState::Failed { owes_close_ok: true }) {
            self.put_channel_close_ok(number);
        }
        self.channels.insert(number, Channel { state: ChannelState::CloseSent, assembly: None });
        self.live_channels = self.live_channels.saturating_sub(1);
    }

    pub(super) fn put_channel_close_ok(&mut self, number: u16) {
        put(&mut self.output.bytes, METHOD, number, &CHANNEL_CLOSE_OK);
    }

    pub(super) fn put_method(&mut self, number: u16, method: AMQPClass) {
        put_method(&mut self.output.bytes, &mut self.scratch, number, &method);
    }

    /// basic.deliver of each message: one method frame made per route, the tag patched per message.
    fn put_deliver(&mut self, number: u16, delivery: &Delivery) {
        let Delivery { consumer_tag, first_tag, redelivered, span } = delivery;
        let (out, frame) = (&mut self.output, &mut self.scratch);
        let shared = is_shared(span);
        if !shared {
            reserve(&mut out.bytes, span, consumer_tag.len());
        }
        let (mut route, mut tag_at) = (None, 0);
        let mut tag = *first_tag;
        for i in span.indexes() {
            let this = Some(span.batch.meta(i).route);
            if route != this {
                route = this;
                tag_at = hot::deliver(frame, number, consumer_tag, *redelivered, span.batch.route_bytes(i));
            }
            frame[tag_at..tag_at + 8].copy_from_slice(&tag.to_be_bytes());
            out.bytes.put_slice(frame);
            if shared {
                share_content(out, number, &span.batch, i, self.frame_max as usize);
            } else {
                put_content(&mut out.bytes, number, &span.batch, i, self.frame_max as usize);
            }
            tag = tag.saturating_add(1);
        }
        self.unwritten += span_cost(span);
    }

    fn put_contents(&mut self, number: u16, span: &Span, make: impl Fn(&mut Vec<u8>, &[u8])) {
        let out = &mut self.output;
        let shared = is_shared(span);
        if !shared {
            reserve(&mut out.bytes, span, 32);
        }
        for i in span.indexes() {
            make(&mut self.scratch, span.batch.route_bytes(i));
            out.bytes.put_slice(&self.scratch);
            if shared {
                share_content(out, number, &span.batch, i, self.frame_max as usize);
            } else {
                put_content(&mut out.bytes, number, &span.batch, i, self.frame_max as usize);
            }
        }
        self.unwritten += span_cost(span);
    }
}

/// Makes room for a span in one go.
fn reserve(out: &mut BytesMut, span: &Span, extra: usize) {
    let octets: usize = span.indexes().map(|i| span.batch.meta(i).len as usize).sum();
    let method = 24 + extra + span.indexes().next().map_or(0, |i| span.batch.route_bytes(i).len());
    out.reserve(octets + span.count as usize * method);
}

fn short(text: &ShortStr) -> ShortString {
    ShortString::from(text.as_str())
}

/// The reply of the same name; `None` for effects that are no plain method.
fn reply(effect: ChannelEffect) -> Option<AMQPClass> {
    use ChannelEffect as E;
    Some(match effect {
        E::ExchangeDeclareOk => AMQPClass::Exchange(exchange::AMQPMethod::DeclareOk(exchange::DeclareOk {})),
        E::ExchangeDeleteOk => AMQPClass::Exchange(exchange::AMQPMethod::DeleteOk(exchange::DeleteOk {})),
        E::ExchangeBindOk => AMQPClass::Exchange(exchange::AMQPMethod::BindOk(exchange::BindOk {})),
        E::ExchangeUnbindOk => AMQPClass::Exchange(exchange::AMQPMethod::UnbindOk(exchange::UnbindOk {})),
        E::QueueDeclareOk { queue, messages, consumers } => {
            AMQPClass::Queue(queue::AMQPMethod::DeclareOk(queue::DeclareOk {
                queue: short(&queue),
                message_count: messages,
                consumer_count: consumers,
            }))
        }
        E::QueueBindOk => AMQPClass::Queue(queue::AMQPMethod::BindOk(queue::BindOk {})),
        E::QueueUnbindOk => AMQPClass::Queue(queue::AMQPMethod::UnbindOk(queue::UnbindOk {})),
        E::QueuePurgeOk { messages } => {
            AMQPClass::Queue(queue::AMQPMethod::PurgeOk(queue::PurgeOk { message_count: messages }))
        }
        E::QueueDeleteOk { messages } => {
            AMQPClass::Queue(queue::AMQPMethod::DeleteOk(queue::DeleteOk { message_count: messages }))
        }
        E::QosOk => AMQPClass::Basic(basic::AMQPMethod::QosOk(basic::QosOk {})),
        E::ConsumeOk { consumer_tag } => {
            AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(basic::ConsumeOk { consumer_tag: short(&consumer_tag) }))
        }
        E::CancelOk { consumer_tag } => {
            AMQPClass::Basic(basic::AMQPMethod::CancelOk(basic::CancelOk { consumer_tag: short(&consumer_tag) }))
        }
        E::Cancel { consumer_tag } => {
            // nobody waits for a cancel-ok
            let cancel = basic::Cancel { consumer_tag: short(&consumer_tag), nowait: true };
            AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel))
        }
        E::GetEmpty => AMQPClass::Basic(basic::AMQPMethod::GetEmpty(basic::GetEmpty {})),
        E::RecoverOk => AMQPClass::Basic(basic::AMQPMethod::RecoverOk(basic::RecoverOk {})),
        E::ConfirmSelectOk => AMQPClass::Confirm(confirm::AMQPMethod::SelectOk(confirm::SelectOk {})),
        E::FlowOk => AMQPClass::Channel(channel::AMQPMethod::FlowOk(channel::FlowOk { active: true })),
        // carries ticket 1, which nobody looks at
        E::AccessRequestOk => AMQPClass::Access(access::AMQPMethod::RequestOk(access::RequestOk {})),
        E::TxSelectOk => AMQPClass::Tx(tx::AMQPMethod::SelectOk(tx::SelectOk {})),
        E::TxCommitOk => AMQPClass::Tx(tx::AMQPMethod::CommitOk(tx::CommitOk {})),
        E::TxRollbackOk => AMQPClass::Tx(tx::AMQPMethod::RollbackOk(tx::RollbackOk {})),
        E::OpenOk
        | E::CloseOk
        | E::Close(_)
        | E::Deliver(_)
        | E::GetOk { .. }
        | E::Return { .. }
        | E::Confirm { .. } => {
            return None;
        }
    })
}

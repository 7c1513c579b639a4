//! The other half of the oracle: judges what the broker says against what the commands made true.

use super::{Entry, Oracle, OrderKey, Outcome, Phase};
use crate::invariants::{
    Violation, confirms, delayed, ensure, once, order, prefetch, provenance, redelivered, settled, ttl,
};
use hornpipe_types::command::Settle;
use hornpipe_types::effect::{ChannelEffect, ConnectionEffect};
use hornpipe_types::header::Properties;
use hornpipe_types::ids::{ConnectionId, Tag};
use hornpipe_types::message::Span;
use hornpipe_types::table::Value;
use std::collections::BTreeSet;

impl Oracle {
    /// All effects of a turn. What went to channels that are gone by now comes first: it has been returned already.
    pub(crate) fn effects(
        &mut self,
        all: &[(ConnectionId, Vec<ConnectionEffect>)],
        durable: u64,
    ) -> Result<(), Violation> {
        for (connection, effects) in all {
            for effect in effects {
                if let ConnectionEffect::Channel(number, effect) = effect
                    && !self.channels.contains_key(&(*connection, *number))
                {
                    self.channel_effect((*connection, *number), effect)?;
                }
            }
        }
        let known: BTreeSet<_> = self.channels.keys().copied().collect();
        let closes = |effects: &[ConnectionEffect]| {
            effects.iter().any(|e| {
                matches!(e, ConnectionEffect::Close(_) | ConnectionEffect::Channel(_, ChannelEffect::Close(_)))
            })
        };
        let recovers = |effects: &[ConnectionEffect]| {
            effects.iter().any(|e| matches!(e, ConnectionEffect::Channel(_, ChannelEffect::RecoverOk)))
        };
        // what returns something comes before what hands it out again
        let mut order: Vec<_> = all.iter().collect();
        order.sort_by_key(|(_, effects)| if closes(effects) { 0 } else { 2 - u8::from(recovers(effects)) });
        for (connection, effects) in order {
            for effect in effects {
                match effect {
                    ConnectionEffect::Channel(number, effect) if known.contains(&(*connection, *number)) => {
                        self.channel_effect((*connection, *number), effect)?;
                    }
                    ConnectionEffect::Close(error) => {
                        ensure(error.code.number() == 320, "protocol", || {
                            format!("a connection is closed: {error:?}")
                        })?;
                        self.connection_gone(*connection);
                    }
                    _ => {}
                }
            }
        }
        order::at_turn_end(self)?;
        self.furthest.clear();
        // a delivery without acknowledgement, to whomever, may be what a confirm rests on
        for (message, ack) in std::mem::take(&mut self.to_check) {
            confirms::on_confirm(self, message, ack, durable)?;
        }
        Ok(())
    }

    fn channel_effect(&mut self, at: (ConnectionId, u16), effect: &ChannelEffect) -> Result<(), Violation> {
        use ChannelEffect as E;
        let kind = match effect {
            E::OpenOk => "open",
            E::CloseOk => return Ok(()),
            E::ExchangeDeclareOk => "exchange-declare",
            E::QueueDeclareOk { .. } => "declare",
            E::QueueBindOk => "bind",
            E::QueuePurgeOk { .. } => "purge",
            E::QueueDeleteOk { .. } => "delete",
            E::QosOk => "qos",
            E::ConsumeOk { .. } => "consume",
            E::CancelOk { .. } => "cancel",
            E::ConfirmSelectOk => "confirm-select",
            E::TxSelectOk => "tx-select",
            E::TxCommitOk => "tx-commit",
            E::TxRollbackOk => "tx-rollback",
            E::RecoverOk => "recover",
            E::GetOk { .. } | E::GetEmpty => "get",
            E::Deliver(d) => {
                let (queue, no_ack) = read_tag(&d.consumer_tag).unwrap_or((0, false));
                return self.delivered(at, queue, d.first_tag, d.redelivered, &d.span, no_ack, Some(&d.consumer_tag));
            }
            E::Return { span, .. } => return self.returned(at, span),
            E::Confirm { tag, count, multiple, ack } => {
                return self.confirmed(at, *tag, *count, *multiple, *ack);
            }
            E::Cancel { consumer_tag } => {
                if let Some(channel) = self.channels.get_mut(&at) {
                    channel.consumers.remove(consumer_tag.as_str());
                }
                return Ok(());
            }
            E::Close(error) => {
                let partial = error.text.contains("partial tx") && self.plan.queues.iter().any(|q| q.refuses);
                ensure(partial, "protocol", || format!("a channel is closed: {error:?}"))?;
                self.channel_gone(at);
                return Ok(());
            }
            other => return Err(Violation::new("protocol", format!("an effect that nothing asks for: {other:?}"))),
        };
        let mut get = None;
        if let Some(channel) = self.channels.get_mut(&at) {
            let reply = channel.replies.pop_front();
            ensure(reply.as_ref().is_some_and(|r| r.kind == kind), "protocol", || {
                format!("{kind}-ok comes, awaited is {reply:?}")
            })?;
            let said = reply.as_ref().map_or(0, |reply| reply.turn);
            if let Some(reply) = reply {
                for id in reply.ends {
                    let copy = &mut self.copies[id];
                    let swept = kind != "tx-commit";
                    let last = copy.history.last();
                    let by_this = last.is_some_and(|h| (h.done, h.swept, h.turn) == (true, swept, reply.turn));
                    // what was purged where nothing is logged may still be on disk where it came from
                    let from_elsewhere = copy.deaths > 0 || copy.due.is_some();
                    copy.ended = by_this && (reply.durable || !from_elsewhere);
                }
                if kind == "tx-commit" {
                    for number in reply.messages {
                        self.messages[number].outcome = Outcome::Acked;
                    }
                }
            }
            if kind == "recover" {
                // what was delivered in its turn before the recover went back with the rest
                let tags = channel.settleable();
                if said < self.turn {
                    // and may have been purged since
                    for (id, _) in channel.outstanding.values() {
                        self.copies[*id].lost_ok = true;
                    }
                }
                self.settle_now(at, Settle::Nack { requeue: true }, &tags);
                return Ok(());
            }
            if kind == "get" {
                get = channel.gets.pop_front();
            }
        }
        if let E::GetOk { tag, redelivered, span, .. } = effect {
            // an answer to a channel that is gone went to nobody: the channel's end has taken care of it
            if let Some((queue, no_ack)) = get {
                self.delivered(at, queue, *tag, *redelivered, span, no_ack, None)?;
            }
        }
        Ok(())
    }

    fn returned(&mut self, at: (ConnectionId, u16), span: &Span) -> Result<(), Violation> {
        let Some(channel) = self.channels.get_mut(&at) else { return Ok(()) };
        for i in span.indexes() {
            let body: Vec<u8> = span.batch.body(i).flatten().copied().collect();
            let message = provenance::read_body(&body, self.messages.len())?;
            let awaited = channel.returns.pop_front();
            ensure(awaited == Some(message), "protocol", || {
                format!("message {message} is returned, awaited is {awaited:?}")
            })?;
        }
        Ok(())
    }

    fn confirmed(
        &mut self,
        at: (ConnectionId, u16),
        tag: Tag,
        count: u32,
        multiple: bool,
        ack: bool,
    ) -> Result<(), Violation> {
        let Some(channel) = self.channels.get_mut(&at) else { return Ok(()) };
        let Some(confirms) = &mut channel.confirms else {
            return Err(Violation::new("confirms", "a confirm on a channel that wants none"));
        };
        let tags: Vec<Tag> = if multiple {
            confirms.open.range(..=tag).map(|(t, _)| *t).collect()
        } else {
            (tag..tag + u64::from(count)).collect()
        };
        let mut messages = Vec::new();
        for t in &tags {
            let message = confirms.open.remove(t);
            messages.extend(message);
            ensure(message.is_some(), "confirms", || format!("publish {t} is confirmed twice or was never made"))?;
        }
        ensure(!tags.is_empty(), "confirms", || format!("a confirm up to {tag} that confirms nothing"))?;
        for message in messages {
            self.messages[message].outcome = if ack { Outcome::Acked } else { Outcome::Refused };
            self.confirmed += 1;
            self.to_check.push((message, ack));
            if !ack {
                for id in self.messages[message].copies.clone() {
                    self.copies[id].lost_ok = true;
                }
            }
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn delivered(
        &mut self,
        at: (ConnectionId, u16),
        queue: usize,
        first_tag: Tag,
        redelivered: bool,
        span: &Span,
        no_ack: bool,
        consumer: Option<&str>,
    ) -> Result<(), Violation> {
        for (tag, i) in (first_tag..).zip(span.indexes()) {
            self.delivered += 1;
            let body: Vec<u8> = span.batch.body(i).flatten().copied().collect();
            let message = provenance::read_body(&body, self.messages.len())?;
            let (deaths, first_death) = self.deaths(span.batch.header(i))?;
            let origin = first_death.unwrap_or(queue);
            let found = self.messages[message].copies.iter().copied().find(|c| self.copies[*c].origin == origin);
            let Some(id) = found else { return Err(provenance::not_routed(self, message, queue)) };
            let copy = &self.copies[id];
            settled::on_delivery(self, copy, queue)?;
            provenance::on_delivery(self, copy, queue, deaths)?;
            redelivered::on_delivery(self, copy, queue, deaths, redelivered)?;
            delayed::on_delivery(self, copy)?;
            let first_of_life = deaths == 0 && copy.seen != self.incarnation;
            if deaths == copy.deaths {
                ttl::on_delivery(self, copy, queue)?;
            }
            let is_open = self.channels.contains_key(&at);
            if is_open {
                once::on_delivery(self, copy, queue)?;
            }
            // what came back to a quorum queue goes before the others, in the order of its return
            let returned = self.plan.queues[queue].quorum && copy.last.is_some();
            let released = copy.due.is_some();
            let just_released = self.may_be_held(copy);
            if first_of_life && !released && !returned && is_open && consumer.is_some() {
                let m = &self.messages[message];
                let key = OrderKey { to: at, queue, source: m.publisher, priority: m.priority };
                order::on_delivery(self, copy, &key, m.index)?;
                self.order.insert(key, m.index);
            }
            let rejected = copy.rejected.filter(|_| deaths == copy.deaths && is_open && consumer.is_some());
            if let Some((by, number)) = rejected {
                let priority = self.messages[message].priority;
                let key = OrderKey { to: at, queue, source: by, priority };
                order::on_delivery(self, copy, &key, number)?;
                self.order.insert(key, number);
            }
            self.copies[id].rejected = None;
            self.enter_delivery(id, queue, deaths);
            // delivered, and then dropped with its queue in the same turn
            let drop = self.dropped.get(&queue);
            // what was let go in that very turn may have come to the queue declared again
            let again = just_released
                && consumer.is_some_and(|tag| self.channels.get(&at).is_some_and(|c| c.consumers.contains_key(tag)));
            let dropped = drop.is_some_and(|d| d.0 == self.turn && id < d.1) && !again;
            if dropped && self.copies[id].phase != Phase::Done {
                self.end(id, true, true);
            }
            let copy = &mut self.copies[id];
            let Some(channel) = self.channels.get_mut(&at) else {
                // handed to a channel that ended in this turn: back already, or gone with it
                if no_ack && copy.phase != Phase::Done {
                    self.end(id, false, false);
                }
                continue;
            };
            ensure(tag == channel.last_tag + 1, "protocol", || {
                format!("delivery tag {tag} follows {}", channel.last_tag)
            })?;
            channel.last_tag = tag;
            if no_ack {
                if copy.phase != Phase::Done {
                    self.end(id, false, false);
                }
                continue;
            }
            if copy.phase != Phase::Done {
                copy.phase = Phase::Out;
            }
            channel.outstanding.insert(tag, (id, consumer.map(str::to_owned)));
            if let Some(tag) = consumer {
                if let Some(consumer) = channel.consumers.get_mut(tag) {
                    consumer.unacked += 1;
                }
                prefetch::on_delivery(channel, tag)?;
            }
        }
        Ok(())
    }

    /// A delivery tells where a copy is.
    fn enter_delivery(&mut self, id: usize, queue: usize, deaths: u64) {
        let (turn, incarnation) = (self.turn, self.incarnation);
        let copy = &mut self.copies[id];
        // what a purge of this turn seemed to take had been delivered before it
        if copy.phase == Phase::Done && copy.history.last().is_some_and(|h| h.swept && !h.dropped) {
            copy.history.pop();
            copy.phase = Phase::Ready;
            copy.lost_ok = true;
            self.live.insert(id);
        }
        if deaths > copy.deaths {
            copy.at = queue;
            copy.deaths = deaths;
            copy.died_alone = true;
            copy.deadline = None;
            copy.history.push(Entry {
                turn,
                at: queue,
                deaths,
                deadline: None,
                done: false,
                swept: false,
                dropped: false,
            });
        }
        // what came back to a quorum queue goes before those that were never out
        let returned = self.plan.queues[queue].quorum && copy.last.is_some();
        copy.last = Some((queue, deaths));
        copy.flag_unknown = false;
        (copy.seen, copy.ready_since) = (incarnation, turn);
        if copy.deaths == 0 && !returned && copy.due.is_none() {
            let m = &self.messages[copy.message];
            let furthest = self.furthest.entry((queue, m.publisher, m.priority)).or_default();
            *furthest = m.index.max(*furthest);
        }
    }

    /// How often a message died, and in which queue first.
    fn deaths(&self, header: &[u8]) -> Result<(u64, Option<usize>), Violation> {
        let broken =
            |e: &dyn std::fmt::Debug| Violation::new("provenance", format!("a content header is broken: {e:?}"));
        let properties = Properties::decode(header).map_err(|e| broken(&e))?;
        let Some(headers) = properties.headers else { return Ok((0, None)) };
        let mut deaths = 0;
        if let Some(Value::Array(list)) = headers.get("x-death") {
            for entry in list {
                if let Value::Table(t) = entry {
                    deaths += t.get("count").and_then(Value::as_int).unwrap_or(0) as u64;
                }
            }
        }
        let first = headers.get("x-first-death-queue").and_then(Value::as_str);
        let first = first.and_then(|name| self.plan.queues.iter().position(|q| q.name == name));
        Ok((deaths, first))
    }
}

fn read_tag(tag: &str) -> Option<(usize, bool)> {
    let mut parts = tag.split('/');
    Some((parts.next()?.parse().ok()?, parts.next()? == "n"))
}

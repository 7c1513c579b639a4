//! Opening and closing connections and channels: what they hold and how it is let go.

use crate::connection::Connection;
use crate::settle::Back;
use crate::shard::Shard;
use crate::work::{Ending, Work};
use hornpipe_types::Map;
use hornpipe_types::command::OpenConnection;
use hornpipe_types::effect::{ChannelEffect, ConnectionEffect};
use hornpipe_types::error::{AmqpError, Scope};
use hornpipe_types::ids::ConnectionId;
use hornpipe_types::time::Now;
use std::collections::{BTreeSet, VecDeque};

impl Shard {
    /// connection.open: limits, then the vhost, then permission.
    pub(crate) fn on_open(&mut self, now: Now, id: ConnectionId, open: OpenConnection) {
        let elsewhere = self.elsewhere.remove(&id).unwrap_or_default();
        // it was on its way when all others were closed: nobody would close it any more
        if let Some(text) = &self.stopping {
            let error = crate::shard::forced(text);
            self.last_effect(id, ConnectionEffect::Close(error));
            return;
        }
        self.finish_razing(now, &open.vhost);
        if let Err(error) = self.check_open(&open, elsewhere) {
            self.last_effect(id, ConnectionEffect::Close(error.in_method(10, 40)));
            return;
        }
        let Some(index) = self.vhost_names.get(&open.vhost).copied() else { return };
        self.admit(now, id, open, index);
        self.effect(id, ConnectionEffect::Opened);
        if let Some(reason) = self.alarm() {
            self.effect(id, ConnectionEffect::Hold(Some(reason)));
        }
    }

    /// Takes a connection in.
    pub(crate) fn admit(&mut self, now: Now, id: ConnectionId, open: OpenConnection, index: usize) {
        if let Some(v) = self.vhosts.get_mut(index) {
            v.connections += 1;
        }
        self.stats.connections_opened += 1;
        let connection = Connection {
            id,
            open,
            vhost: index,
            connected_at: now.wall,
            channels: Map::default(),
            effects: Vec::new(),
            unsent: 0,
            stalled: VecDeque::new(),
            held: Map::default(),
            exclusive_queues: BTreeSet::new(),
            blocked: false,
        };
        self.connections.insert(id, connection);
    }

    fn check_open(&self, open: &OpenConnection, elsewhere: (u64, u64)) -> Result<(), AmqpError> {
        let limit = self.limits.connections;
        if limit > 0 && self.connections.len() as u64 + elsewhere.0 >= limit {
            return Err(AmqpError::not_allowed(format!(
                "connection refused: node connection limit ({limit}) is reached"
            )));
        }
        let vhost = self.vhost_names.get(&open.vhost).and_then(|i| self.vhosts.get(*i));
        let of_user = || self.connections.values().filter(|c| c.open.user == open.user).count() as u64;
        let is_limited = self.access.user_limit(&open.user, "max-connections").is_some();
        let of_user = if is_limited { of_user() + elsewhere.1 } else { 0 };
        self.access.check_connection_limits(&open.user, &open.vhost, vhost.map_or(0, |v| v.connections), of_user)?;
        self.access.check_vhost(&open.user, &open.vhost, vhost.is_some())
    }

    /// Lets go all a connection holds: unacked deliveries, consumers, exclusive queues.
    pub(crate) fn release_connection(&mut self, now: Now, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id) else { return };
        let mut numbers: Vec<u16> = connection.channels.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            self.release_channel(now, id, number);
        }
        let exclusive = self.connections.get_mut(&id).map(|c| std::mem::take(&mut c.exclusive_queues));
        if let Some(queues) = exclusive.filter(|queues| !queues.is_empty()) {
            self.begin_work(now, Work::Bereave { owner: id, queues });
        }
        if let Some(connection) = self.connections.remove(&id) {
            self.stats.connections_closed += 1;
            if let Some(v) = self.vhosts.get_mut(connection.vhost) {
                v.connections = v.connections.saturating_sub(1);
            }
            // what was to be said before the end is still said
            if !connection.effects.is_empty() {
                self.out.connections.push((id, connection.effects));
            }
        }
    }

    /// A connection error: everything is let go, then the connection is closed.
    pub(crate) fn fail_connection(&mut self, now: Now, id: ConnectionId, error: AmqpError) {
        self.release_connection(now, id);
        self.tell_settled(id, ConnectionEffect::Close(error));
    }

    /// An error of a method closes the channel, or the connection.
    pub(crate) fn fail_method(
        &mut self,
        now: Now,
        (from, number): (ConnectionId, u16),
        error: AmqpError,
        (class, method): (u16, u16),
    ) {
        let error = error.in_method(class, method);
        match error.scope() {
            Scope::Channel => self.fail_channel(now, from, number, error),
            Scope::Connection => self.fail_connection(now, from, error),
        }
    }

    /// A channel error: everything is let go, then the channel is closed.
    pub(crate) fn fail_channel(&mut self, now: Now, id: ConnectionId, number: u16, error: AmqpError) {
        self.release_channel(now, id, number);
        self.tell_settled(id, ConnectionEffect::Channel(number, ChannelEffect::Close(error)));
    }

    /// Lets go all a channel holds.
    pub(crate) fn release_channel(&mut self, now: Now, id: ConnectionId, number: u16) {
        // confirms that are due are sent before the channel ends
        self.send_confirms();
        let Some(channel) = self.channel_mut(id, number) else { return };
        let consumers: Vec<u64> = channel.consumers.drain(..).map(|(_, key)| key).collect();
        let tx = channel.tx.take();
        let settles = tx.into_iter().flat_map(|tx| tx.settles);
        let freed: u64 = settles.map(|(_, taken)| channel.unacked.restore(taken)).sum();
        let unacked = channel.unacked.take_all();
        let reply = channel.reply_consumer.take();
        self.resident -= freed.min(self.resident);
        if let Some((_, address)) = reply {
            self.reply_addresses.remove(&address);
        }
        self.drop_places(id, number);
        // consumers leave first: returned messages must not come back to this channel; auto-delete queues are deleted last
        let mut queues = Vec::new();
        for key in consumers {
            queues.extend(self.remove_consumer(now, key));
        }
        self.forget_channel((id, number));
        self.settle_taken(now, (id, number), false, Ending::Returned(Back::Failed), unacked);
        self.work_off_deaths(now);
        for queue in queues {
            self.after_consumer_left(now, queue);
        }
        if let Some(connection) = self.connections.get_mut(&id)
            && let Some(channel) = connection.channels.remove(&number)
        {
            self.stats.channels_closed += 1;
            if channel.published {
                self.stats.publishers = self.stats.publishers.saturating_sub(1);
            }
        }
    }
}

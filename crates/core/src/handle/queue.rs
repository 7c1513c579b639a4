//! Class queue [spec §1.7; RabbitMQ "Queues", "Exclusive Queues", "Queue TTL"].

use crate::access::{Permission, Resource};
use crate::delayed::{HIDDEN, OWN};
use crate::handle::exchange::{clean_name, default_exchange_refused};
use crate::policy::{Effective, QueueSettings, Target};
use crate::publish::REPLY_TO;
use crate::queue::Queue;
use crate::shard::Shard;
use crate::timer::TimerKey;
use crate::topology::Destination;
use hornpipe_types::args::{
    QueueArgs, QueueContext, QueueKind, check_queue_equivalent, check_server_named, dead_letter_exchange_argument,
    with_default_queue_type,
};
use hornpipe_types::command::{Bind, QueueDeclare};
use hornpipe_types::definition::{BindingDefinition, Definition, QueueDefinition};
use hornpipe_types::effect::ChannelEffect;
use hornpipe_types::error::{AmqpError, ReplyCode};
use hornpipe_types::ids::{CommitSeq, ConnectionId, QueueId};
use hornpipe_types::names::ShortStr;
use hornpipe_types::time::Now;

/// Queue ids are reserved in the log in strides, so that a new queue does not rewrite the counter each time.
const ID_STRIDE: u64 = 1000;

impl Shard {
    /// A name as RabbitMQ makes them: `prefix` and 22 url-safe base64 characters.
    pub(crate) fn generated_name(&mut self, prefix: &str) -> ShortStr {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut name = String::from(prefix);
        for _ in 0..22 {
            let c = ALPHABET[(self.rng.next_u64() % 64) as usize];
            name.push(char::from(c));
        }
        ShortStr::new(&name)
    }

    /// The queue a method names; the empty name is the one declared last on the channel.
    pub(crate) fn named_queue(
        &mut self,
        from: ConnectionId,
        number: u16,
        name: &ShortStr,
    ) -> Result<ShortStr, AmqpError> {
        if !name.is_empty() {
            return Ok(clean_name(name));
        }
        self.channel_mut(from, number)
            .and_then(|c| c.last_queue.clone())
            .ok_or_else(|| AmqpError::not_found("no previously declared queue"))
    }

    /// Looks a queue up and refuses one that is another connection's own.
    pub(crate) fn find_queue(&self, from: ConnectionId, name: &str) -> Result<QueueId, AmqpError> {
        let Some(connection) = self.connections.get(&from) else { return Err(AmqpError::no_queue(name, "")) };
        let vhost = &connection.open.vhost;
        let id = self
            .vhosts
            .get(connection.vhost)
            .and_then(|v| v.queues.get(name))
            .copied()
            .ok_or_else(|| AmqpError::no_queue(name, vhost))?;
        self.check_owner(from, id)?;
        Ok(id)
    }

    fn check_owner(&self, from: ConnectionId, id: QueueId) -> Result<(), AmqpError> {
        let Some(queue) = self.queues.get(&id) else { return Ok(()) };
        match queue.owner {
            Some(owner) if owner != from => {
                Err(AmqpError::resource_locked(&queue.definition.name, &queue.definition.vhost))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn on_queue_declare(
        &mut self,
        now: Now,
        from: ConnectionId,
        number: u16,
        mut d: QueueDeclare,
    ) -> Result<(), AmqpError> {
        let Some((user, vhost, index)) = self.who(from) else { return Ok(()) };
        d.queue = clean_name(&d.queue);
        if let Some(rest) = d.queue.strip_prefix(REPLY_TO) {
            return self.declare_reply_to(from, number, &d, rest);
        }
        let known = self.vhosts.get(index).and_then(|v| v.queues.get(&d.queue)).copied();
        let id = if d.passive {
            self.access.any_of_three(&user, &vhost, Resource::Queue, &d.queue)?;
            let id = known.ok_or_else(|| AmqpError::no_queue(&d.queue, &vhost))?;
            self.check_owner(from, id)?;
            id
        } else {
            if d.exclusive {
                d.durable = false;
            }
            let default = self.vhosts.get(index).and_then(|v| v.definition.default_queue_type.clone());
            d.arguments =
                with_default_queue_type(d.arguments, default.as_deref(), d.durable, d.exclusive, d.auto_delete);
            if d.queue.is_empty() {
                check_server_named(&d.arguments)?;
                d.queue = self.generated_name("amq.gen-");
            } else if known.is_none() && d.queue.starts_with("amq.") {
                return Err(AmqpError::access_refused(format!(
                    "queue name '{}' contains reserved prefix 'amq.*'",
                    d.queue
                )));
            }
            check_not_own(&d.queue)?;
            self.access.check(&user, &vhost, Permission::Configure, Resource::Queue, &d.queue)?;
            match known {
                Some(id) => {
                    self.check_redeclare(from, id, &d)?;
                    id
                }
                None => self.create_queue(now, from, index, &d)?,
            }
        };
        // created by this or there already: it may be on its way to the disk
        let logged = self.queues.get(&id).is_some_and(|q| q.is_logged());
        let commit = logged.then(|| self.log.defined());
        self.stats.queues_declared += 1;
        self.renew_lease(now, id, d.passive);
        if let Some(channel) = self.channel_mut(from, number) {
            channel.last_queue = Some(d.queue.clone());
        }
        if !d.nowait {
            let (messages, consumers) = self
                .queues
                .get(&id)
                .map_or((0, 0), |q| (u32::try_from(q.ready).unwrap_or(u32::MAX), q.consumers.len() as u32));
            self.reply(from, number, ChannelEffect::QueueDeclareOk { queue: d.queue, messages, consumers }, commit);
        }
        Ok(())
    }

    /// The pseudo-queue of direct reply-to exists while its consumer does.
    fn declare_reply_to(
        &mut self,
        from: ConnectionId,
        number: u16,
        d: &QueueDeclare,
        rest: &str,
    ) -> Result<(), AmqpError> {
        let alive = rest.is_empty() || rest.strip_prefix('.').is_some_and(|a| self.reply_addresses.contains_key(a));
        if !alive {
            let vhost = self.who(from).map(|w| w.1).unwrap_or_default();
            return Err(AmqpError::no_queue(&d.queue, &vhost));
        }
        if !d.nowait {
            let effect = ChannelEffect::QueueDeclareOk { queue: d.queue.clone(), messages: 0, consumers: 1 };
            self.reply(from, number, effect, None);
        }
        Ok(())
    }

    fn check_redeclare(&self, from: ConnectionId, id: QueueId, d: &QueueDeclare) -> Result<(), AmqpError> {
        self.check_owner(from, id)?;
        let Some(queue) = self.queues.get(&id) else { return Ok(()) };
        let is = &queue.definition;
        // strict: an exclusive queue is redeclared as such, others are not
        if is.exclusive != d.exclusive {
            return Err(AmqpError::resource_locked(&is.name, &is.vhost));
        }
        check_queue_equivalent(is, d.durable, d.auto_delete, &d.arguments)
    }

    fn create_queue(
        &mut self,
        now: Now,
        from: ConnectionId,
        index: usize,
        d: &QueueDeclare,
    ) -> Result<QueueId, AmqpError> {
        let Some((user, vhost, _)) = self.who(from) else { return Err(AmqpError::no_queue(&d.queue, "")) };
        let context = QueueContext {
            queue: &d.queue,
            vhost: &vhost,
            durable: d.durable,
            exclusive: d.exclusive,
            auto_delete: d.auto_delete,
        };
        if let Some(dlx) = dead_letter_exchange_argument(&d.arguments, &d.queue, &vhost)? {
            self.access.check(&user, &vhost, Permission::Read, Resource::Queue, &d.queue)?;
            self.access.check(&user, &vhost, Permission::Write, Resource::Exchange, dlx)?;
        }
        let args = QueueArgs::parse(&d.arguments, &context)?;
        if !d.durable && !d.exclusive && !self.limits.transient_nonexcl_queues {
            return Err(AmqpError::new(
                ReplyCode::InternalError,
                "Feature `transient_nonexcl_queues` is deprecated. By default, this feature is not permitted. Set \
                 `transient_nonexcl_queues = true` to permit it.",
            ));
        }
        let count = self.vhosts.get(index).map_or(0, |v| v.queues.len() as u64);
        self.access.check_queue_limit(&d.queue, &vhost, count)?;
        let definition = QueueDefinition {
            vhost,
            name: d.queue.clone(),
            id: self.new_queue_id(),
            durable: d.durable,
            exclusive: d.exclusive,
            auto_delete: d.auto_delete,
            arguments: d.arguments.clone(),
            grave: None,
        };
        let id = definition.id;
        let owner = d.exclusive.then_some(from);
        self.insert_queue(now, index, definition.clone(), args, owner);
        if let Some(owner) = owner
            && let Some(connection) = self.connections.get_mut(&owner)
        {
            connection.exclusive_queues.insert(id);
        }
        self.stats.queues_created += 1;
        if definition.durable && !definition.exclusive {
            self.put_definition(Definition::Queue(definition));
        }
        Ok(id)
    }

    /// A queue id that was never used in this data folder.
    pub(crate) fn new_queue_id(&mut self) -> QueueId {
        let id = self.next_queue;
        self.next_queue = id.next();
        if self.next_queue > self.reserved_queue {
            self.reserved_queue = QueueId(self.next_queue.0 + ID_STRIDE);
            let next = Definition::NextIds { queue: self.reserved_queue, vhost: self.next_vhost };
            self.put_definition(next);
        }
        id
    }

    /// Puts a queue, new or recovered, into its vhost.
    pub(crate) fn insert_queue(
        &mut self,
        now: Now,
        index: usize,
        definition: QueueDefinition,
        args: QueueArgs,
        owner: Option<ConnectionId>,
    ) {
        // a policy is about what users see: one that matches all must not expire or bound what an exchange holds
        let effective = if definition.name.starts_with(HIDDEN) {
            Effective::default()
        } else {
            self.policies.effective(&definition.vhost, &definition.name, Target::Queue(args.kind))
        };
        let settings = QueueSettings::resolve(&args, &effective);
        let id = definition.id;
        if let Some(v) = self.vhosts.get_mut(index) {
            v.queues.insert(definition.name.clone(), id);
            v.queues_generation += 1;
        }
        let (args, settings) = (self.alike_args.share(args), self.alike_settings.share(settings));
        let effective = self.alike_effective.share(effective);
        let mut queue = Box::new(Queue::new(definition, index, args, effective, settings));
        queue.owner = owner;
        queue.last_used = now.mono;
        queue.idle_since = now.wall;
        self.queues.insert(id, queue);
        self.queue_order.insert(id);
        self.arm_expiry(now, id);
    }

    /// A declare or get renews the lease of `x-expires` (quorum queues: not a redeclare).
    pub(crate) fn renew_lease(&mut self, now: Now, id: QueueId, passive: bool) {
        if let Some(queue) = self.queues.get_mut(&id) {
            if queue.args.kind == QueueKind::Quorum && !passive {
                return;
            }
            queue.last_used = now.mono;
        }
    }

    pub(crate) fn arm_expiry(&mut self, now: Now, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let Some(expires) = queue.settings.expires_ms else { return };
        if queue.expiry_timer.is_none() && queue.consumers.is_empty() {
            let at = queue.last_used.max(now.mono.min(queue.last_used)).plus_ms(expires);
            queue.expiry_timer = Some(at);
            self.timers.arm(at, TimerKey::QueueExpiry(id));
        }
    }

    pub(crate) fn on_queue_expiry(&mut self, now: Now, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        queue.expiry_timer = None;
        let Some(expires) = queue.settings.expires_ms else { return };
        if !queue.consumers.is_empty() {
            return;
        }
        if queue.last_used.plus_ms(expires) <= now.mono {
            self.delete_queue(now, id);
        } else {
            self.arm_expiry(now, id);
        }
    }

    fn queue_binding(
        &mut self,
        from: ConnectionId,
        number: u16,
        b: &Bind,
    ) -> Result<Option<BindingDefinition>, AmqpError> {
        let Some((user, vhost, _)) = self.who(from) else { return Ok(None) };
        let queue = self.named_queue(from, number, &b.destination)?;
        let routing_key =
            if b.destination.is_empty() && b.routing_key.is_empty() { queue.clone() } else { b.routing_key.clone() };
        let source = clean_name(&b.source);
        if queue.starts_with(REPLY_TO) {
            return Err(AmqpError::access_refused("cannot bind or unbind to a volatile (direct reply-to) queue"));
        }
        self.access.check(&user, &vhost, Permission::Write, Resource::Queue, &queue)?;
        if source.is_empty() {
            return Err(default_exchange_refused());
        }
        self.access.check(&user, &vhost, Permission::Read, Resource::Exchange, &source)?;
        self.check_topic_read(&user, &vhost, &source, &routing_key)?;
        Ok(Some(BindingDefinition {
            vhost,
            source,
            destination: queue,
            destination_is_queue: true,
            routing_key,
            arguments: b.arguments.clone(),
            ..BindingDefinition::default()
        }))
    }

    pub(crate) fn on_queue_bind(
        &mut self,
        now: Now,
        from: ConnectionId,
        number: u16,
        b: Bind,
    ) -> Result<(), AmqpError> {
        let nowait = b.nowait;
        let Some(binding) = self.queue_binding(from, number, &b)? else { return Ok(()) };
        let Some((_, vhost, index)) = self.who(from) else { return Ok(()) };
        if self.vhosts.get(index).is_some_and(|v| v.topology.find(&binding.source).is_none()) {
            return Err(AmqpError::no_exchange(&binding.source, &vhost));
        }
        let id = self.find_queue(from, &binding.destination)?;
        let commit = self.add_binding(now, index, binding, Destination::Queue(id))?;
        if !nowait {
            self.reply(from, number, ChannelEffect::QueueBindOk, commit);
        }
        Ok(())
    }

    pub(crate) fn on_queue_unbind(&mut self, from: ConnectionId, number: u16, b: Bind) -> Result<(), AmqpError> {
        let Some(binding) = self.queue_binding(from, number, &b)? else { return Ok(()) };
        // what is not there may still be on disk
        let mut commit = Some(self.log.defined());
        let index = self.who(from).map_or(0, |w| w.2);
        // what is not there is unbound already; another connection's exclusive queue is not protected from this, as in RabbitMQ
        if let Some(v) = self.vhosts.get_mut(index)
            && let Some(id) = v.queues.get(&binding.destination).copied()
        {
            let changes = v.topology.unbind(&binding, Destination::Queue(id));
            commit = self.log_changes(index, changes).or(commit);
        }
        self.reply(from, number, ChannelEffect::QueueUnbindOk, commit);
        Ok(())
    }

    pub(crate) fn on_queue_purge(
        &mut self,
        now: Now,
        from: ConnectionId,
        number: u16,
        queue: &ShortStr,
        nowait: bool,
    ) -> Result<(), AmqpError> {
        let Some((user, vhost, _)) = self.who(from) else { return Ok(()) };
        let name = self.named_queue(from, number, queue)?;
        self.access.check(&user, &vhost, Permission::Read, Resource::Queue, &name)?;
        let id = self.find_queue(from, &name)?;
        let logged = self.queues.get(&id).is_some_and(|q| q.is_logged());
        let messages = self.purge(now, id);
        // whether this wrote anything or not: what came from another queue may be gone from here, and its departure there
        // not on disk yet
        let commit = logged.then(|| self.log.current());
        if !nowait {
            self.reply(from, number, ChannelEffect::QueuePurgeOk { messages }, commit);
        }
        Ok(())
    }

    /// Removes all ready messages, without dead-lettering; how many.
    pub(crate) fn purge(&mut self, now: Now, id: QueueId) -> u32 {
        let Some(queue) = self.queues.get_mut(&id) else { return 0 };
        let messages = u32::try_from(queue.ready).unwrap_or(u32::MAX);
        queue.unreadable_from = u64::MAX;
        self.forget_damage(id);
        self.purge_ready(now, id);
        // gets that wait for a body have nothing to wait for
        self.mark_dirty(id);
        messages
    }

    #[allow(clippy::too_many_arguments)]
    pub(crate) fn on_queue_delete(
        &mut self,
        now: Now,
        from: ConnectionId,
        number: u16,
        queue: &ShortStr,
        if_unused: bool,
        if_empty: bool,
        nowait: bool,
    ) -> Result<(), AmqpError> {
        let Some((user, vhost, _)) = self.who(from) else { return Ok(()) };
        let name = self.named_queue(from, number, queue)?;
        self.access.check(&user, &vhost, Permission::Configure, Resource::Queue, &name)?;
        let queue = match self.find_queue(from, &name) {
            Ok(id) => {
                if let Some(queue) = self.queues.get(&id) {
                    if queue.args.kind == QueueKind::Quorum && (if_unused || if_empty) {
                        let flag = if if_unused { "if-unused" } else { "if-empty" };
                        return Err(AmqpError::not_implemented(format!(
                            "cannot delete queue '{name}' in vhost '{vhost}'. queue.delete operations with {flag} flag \
                             set are not supported by quorum queues"
                        )));
                    }
                    if if_unused && !queue.consumers.is_empty() {
                        return Err(AmqpError::precondition(format!("queue '{name}' in vhost '{vhost}' in use")));
                    }
                    if if_empty && (queue.ready > 0 || queue.returning > 0) {
                        return Err(AmqpError::precondition(format!("queue '{name}' in vhost '{vhost}' not empty")));
                    }
                }
                if !if_unused && !if_empty {
                    self.abandon(now, (from, number), nowait, id);
                    return Ok(());
                }
                Some(id)
            }
            Err(error) if error.code == ReplyCode::NotFound => None,
            Err(error) => return Err(error),
        };
        self.delete_for(now, (from, number), nowait, queue, None);
        Ok(())
    }

    /// Deletes a queue for a channel and answers it, if it is still there: `None` when the queue is gone already. `earlier`
    /// covers what was taken off it before.
    pub(crate) fn delete_for(
        &mut self,
        now: Now,
        (from, number): (ConnectionId, u16),
        nowait: bool,
        queue: Option<QueueId>,
        earlier: Option<CommitSeq>,
    ) {
        self.deleting = Some((from, number));
        let (messages, commit) = match queue {
            Some(id) => self.delete_queue(now, id),
            // it may still be on disk
            None => (0, Some(self.log.defined())),
        };
        self.deleting = None;
        let cancelled = std::mem::take(&mut self.cancelled);
        if self.channel_mut(from, number).is_none() {
            return;
        }
        if !nowait {
            self.reply(from, number, ChannelEffect::QueueDeleteOk { messages }, commit.max(earlier));
        }
        // a channel that deletes a queue it consumes from is answered first, told second: clients rely on it
        for consumer_tag in cancelled {
            self.reply(from, number, ChannelEffect::Cancel { consumer_tag }, None);
        }
    }

    /// Removes a queue with all that belongs to it: consumers are told, bindings go, messages are dropped.
    pub(crate) fn delete_queue(&mut self, now: Now, id: QueueId) -> (u32, Option<CommitSeq>) {
        let Some(queue) = self.queues.get_mut(&id) else { return (0, None) };
        let messages = u32::try_from(queue.ready).unwrap_or(u32::MAX);
        let consumers = std::mem::take(&mut queue.consumers);
        let (ttl, expiry) = (queue.ttl_timer.take(), queue.expiry_timer.take());
        let held = queue.drop_held_back();
        self.resident -= held.bytes.min(self.resident);
        if let Some(at) = held.timer {
            self.timers.disarm(at, TimerKey::HeldBack(id));
        }
        let index = queue.vhost;
        if let Some(at) = ttl {
            self.timers.disarm(at, TimerKey::MessageTtl(id));
        }
        if let Some(at) = expiry {
            self.timers.disarm(at, TimerKey::QueueExpiry(id));
        }
        for key in consumers {
            self.cancel_by_server(key);
        }
        let mut commit = None;
        if let Some(v) = self.vhosts.get_mut(index) {
            let changes = v.topology.remove_queue(id);
            commit = self.log_changes(index, changes);
        }
        self.forget_damage(id);
        if let Some(queue) = self.queues.remove(&id) {
            self.resident -= queue.resident.min(self.resident);
            self.stats.queues_deleted += 1;
            // gets that wait for the disk are answered all the same
            for get in &queue.waiting_gets {
                self.reply_in(get.connection, get.channel, get.place, ChannelEffect::GetEmpty);
            }
            if let Some(v) = self.vhosts.get_mut(index) {
                v.queues.remove(&queue.definition.name);
                v.queues_generation += 1;
            }
            if let Some(owner) = queue.owner
                && let Some(connection) = self.connections.get_mut(&owner)
            {
                connection.exclusive_queues.remove(&id);
            }
            commit = match self.has_rest(&queue) {
                true => self.dig_grave(now, queue),
                false => self.drop_queue(now, queue),
            }
            .or(commit);
        }
        (messages, commit)
    }
}

/// Refuses names as the broker gives its own queues: one of them and a client's would be one on disk. RabbitMQ has no such names.
pub(crate) fn check_not_own(queue: &str) -> Result<(), AmqpError> {
    if queue.starts_with(OWN) {
        let text = format!("queue name '{}' contains reserved prefix '\\u0001'", queue.escape_default());
        return Err(AmqpError::access_refused(text));
    }
    Ok(())
}

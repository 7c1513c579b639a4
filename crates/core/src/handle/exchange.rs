//! Class exchange [spec §1.6; RabbitMQ "Exchange to Exchange Bindings", "Alternate Exchanges"].

use crate::access::{Permission, Resource};
use crate::publish::Entry;
use crate::shard::Shard;
use crate::topology::{Changes, Destination, ExchangeId, QueueTraits, RemovedExchange};
use hornpipe_types::args::alternate_exchange_argument;
use hornpipe_types::command::{Bind, ExchangeDeclare};
use hornpipe_types::definition::{BindingDefinition, Definition, DefinitionKey, ExchangeDefinition};
use hornpipe_types::effect::ChannelEffect;
use hornpipe_types::error::AmqpError;
use hornpipe_types::header::Properties;
use hornpipe_types::ids::{CommitSeq, ConnectionId, QueueId};
use hornpipe_types::message::PERSISTENT;
use hornpipe_types::names::ShortStr;
use hornpipe_types::op::StoreOp;
use hornpipe_types::time::Now;

/// RabbitMQ strips line breaks from names.
pub(crate) fn clean_name(name: &ShortStr) -> ShortStr {
    if name.contains(['\r', '\n']) { ShortStr::new(&name.replace(['\r', '\n'], "")) } else { name.clone() }
}

pub(crate) fn default_exchange_refused() -> AmqpError {
    AmqpError::access_refused("operation not permitted on the default exchange")
}

impl Shard {
    pub(crate) fn on_exchange_declare(
        &mut self,
        from: ConnectionId,
        number: u16,
        mut d: ExchangeDeclare,
    ) -> Result<(), AmqpError> {
        let Some((user, vhost, index)) = self.who(from) else { return Ok(()) };
        d.exchange = clean_name(&d.exchange);
        let nowait = d.nowait;
        if d.exchange.is_empty() {
            return Err(default_exchange_refused());
        }
        let Some(v) = self.vhosts.get_mut(index) else { return Ok(()) };
        if d.passive {
            self.access.any_of_three(&user, &vhost, Resource::Exchange, &d.exchange)?;
            v.topology.check_declare(&d)?;
        } else {
            // an unknown type is told before the permission is looked at
            v.topology.check_declare_kind(&d)?;
            self.access.check(&user, &vhost, Permission::Configure, Resource::Exchange, &d.exchange)?;
            if v.topology.check_declare(&d)?.is_none() {
                if let Some(alternate) = alternate_exchange_argument(&d.arguments, &d.exchange, &vhost)? {
                    self.access.check(&user, &vhost, Permission::Read, Resource::Exchange, &d.exchange)?;
                    self.access.check(&user, &vhost, Permission::Write, Resource::Exchange, alternate)?;
                }
                let definition = ExchangeDefinition {
                    vhost: vhost.clone(),
                    name: d.exchange.clone(),
                    kind: d.kind.clone(),
                    durable: d.durable,
                    auto_delete: d.auto_delete,
                    internal: d.internal,
                    arguments: d.arguments.clone(),
                };
                v.topology.declare(definition.clone())?;
                if d.durable {
                    self.put_definition(Definition::Exchange(definition));
                }
                self.apply_exchange_policy(index, &d.exchange);
            }
        }
        if !nowait {
            // created by this or there already: it may be on its way to the disk
            let topology = self.vhosts.get(index).map(|v| &v.topology);
            let durable =
                topology.is_some_and(|t| t.find(&d.exchange).is_some_and(|id| t.exchange(id).definition.durable));
            let commit = durable.then(|| self.log.defined());
            self.reply(from, number, ChannelEffect::ExchangeDeclareOk, commit);
        }
        Ok(())
    }

    pub(crate) fn on_exchange_delete(
        &mut self,
        now: Now,
        from: ConnectionId,
        number: u16,
        exchange: &ShortStr,
        if_unused: bool,
        nowait: bool,
    ) -> Result<(), AmqpError> {
        let Some((user, vhost, index)) = self.who(from) else { return Ok(()) };
        let exchange = clean_name(exchange);
        let Some(v) = self.vhosts.get_mut(index) else { return Ok(()) };
        // names that can't be deleted are told before the permission is looked at
        v.topology.check_delete(&exchange, false)?;
        self.access.check(&user, &vhost, Permission::Configure, Resource::Exchange, &exchange)?;
        match v.topology.check_delete(&exchange, if_unused)? {
            Some(id) => self.delete_exchange(now, (from, number), nowait, (index, id)),
            None if nowait => {}
            // it may still be on disk
            None => self.reply(from, number, ChannelEffect::ExchangeDeleteOk, Some(self.log.defined())),
        }
        Ok(())
    }

    /// Logs what disappeared with an exchange, a queue or a binding.
    pub(crate) fn log_changes(&mut self, vhost: usize, changes: Changes) -> Option<CommitSeq> {
        let mut commit = None;
        for binding in changes.removed_bindings.into_iter().filter(|b| b.durable) {
            commit = Some(self.log.op(StoreOp::Delete(binding.definition.key())));
        }
        for RemovedExchange { definition, .. } in changes.removed_exchanges {
            self.drop_delayed(vhost, &definition.name);
            if definition.durable {
                let key = DefinitionKey::Exchange { vhost: definition.vhost, name: definition.name };
                commit = Some(self.log.op(StoreOp::Delete(key)));
            }
        }
        commit
    }

    fn check_exchange_bind(&mut self, from: ConnectionId, b: &Bind) -> Result<Option<BindingDefinition>, AmqpError> {
        let Some((user, vhost, _)) = self.who(from) else { return Ok(None) };
        let (destination, source) = (clean_name(&b.destination), clean_name(&b.source));
        if destination.is_empty() || source.is_empty() {
            return Err(default_exchange_refused());
        }
        self.access.check(&user, &vhost, Permission::Write, Resource::Exchange, &destination)?;
        self.access.check(&user, &vhost, Permission::Read, Resource::Exchange, &source)?;
        self.check_topic_read(&user, &vhost, &source, &b.routing_key)?;
        Ok(Some(BindingDefinition {
            vhost,
            source,
            destination,
            destination_is_queue: false,
            routing_key: b.routing_key.clone(),
            arguments: b.arguments.clone(),
            ..BindingDefinition::default()
        }))
    }

    /// Topic read permission where the source is a topic exchange.
    pub(crate) fn check_topic_read(&self, user: &str, vhost: &str, source: &str, key: &str) -> Result<(), AmqpError> {
        let topic = self.vhost_names.get(vhost).and_then(|i| self.vhosts.get(*i)).is_some_and(|v| {
            v.topology.find(source).is_some_and(|id| v.topology.exchange(id).definition.kind == "topic")
        });
        if topic { self.access.check_topic(user, vhost, Permission::Read, source, key) } else { Ok(()) }
    }

    pub(crate) fn on_exchange_bind(
        &mut self,
        now: Now,
        from: ConnectionId,
        number: u16,
        b: Bind,
    ) -> Result<(), AmqpError> {
        let nowait = b.nowait;
        let Some(binding) = self.check_exchange_bind(from, &b)? else { return Ok(()) };
        let mut commit = None;
        if let Some(index) = self.vhost_names.get(&binding.vhost).copied()
            && let Some(v) = self.vhosts.get_mut(index)
        {
            let missing = |name: &str| AmqpError::no_exchange(name, &binding.vhost);
            v.topology.find(&binding.source).ok_or_else(|| missing(&binding.source))?;
            let id = v.topology.find(&binding.destination).ok_or_else(|| missing(&binding.destination))?;
            commit = self.add_binding(now, index, binding, Destination::Exchange(id))?;
        }
        if !nowait {
            self.reply(from, number, ChannelEffect::ExchangeBindOk, commit);
        }
        Ok(())
    }

    /// Adds a binding and logs it where both ends are durable; what covers it on disk, also when it was there already.
    pub(crate) fn add_binding(
        &mut self,
        now: Now,
        vhost: usize,
        binding: BindingDefinition,
        destination: Destination,
    ) -> Result<Option<CommitSeq>, AmqpError> {
        let traits = match destination {
            Destination::Queue(id) => self.queues.get(&id).map_or(QueueTraits::classic(false), |q| QueueTraits {
                durable: q.is_logged(),
                kind: q.args.kind.name(),
            }),
            Destination::Exchange(_) => QueueTraits::classic(false),
        };
        let Some(v) = self.vhosts.get_mut(vhost) else { return Ok(None) };
        let outcome = v.topology.bind(&binding, destination, traits)?;
        if !outcome.added {
            return Ok(outcome.durable.then(|| self.log.defined()));
        }
        self.replay_recent(now, vhost, outcome.source, destination);
        Ok(outcome.durable.then(|| {
            let order = outcome.order;
            self.put_definition(Definition::Binding(BindingDefinition { order, ..binding }))
        }))
    }

    /// A recent-history exchange brings what it kept to what was bound to it just now.
    fn replay_recent(&mut self, now: Now, vhost: usize, source: ExchangeId, destination: Destination) {
        let Some(v) = self.vhosts.get(vhost) else { return };
        for span in v.topology.replay(source) {
            let queues: std::sync::Arc<[QueueId]> = match destination {
                Destination::Queue(id) => [id].into(),
                Destination::Exchange(id) => {
                    let i = span.from;
                    let Ok(properties) = Properties::decode(span.batch.header(i)) else { continue };
                    let key = span.batch.routing_key(i).to_owned();
                    self.route_in(vhost, id, &[&key], &properties).queues
                }
            };
            let persistent = span.batch.meta(span.from).flags & PERSISTENT != 0;
            self.enter(now, &queues, &span, Entry { persistent, ..Entry::default() });
        }
    }

    pub(crate) fn on_exchange_unbind(&mut self, from: ConnectionId, number: u16, b: Bind) -> Result<(), AmqpError> {
        let nowait = b.nowait;
        let Some(binding) = self.check_exchange_bind(from, &b)? else { return Ok(()) };
        // what is not there may still be on disk
        let mut commit = Some(self.log.defined());
        if let Some(index) = self.vhost_names.get(&binding.vhost).copied()
            && let Some(v) = self.vhosts.get_mut(index)
            && let Some(id) = v.topology.find(&binding.destination)
        {
            let changes = v.topology.unbind(&binding, Destination::Exchange(id));
            commit = self.log_changes(index, changes).or(commit);
        }
        if !nowait {
            self.reply(from, number, ChannelEffect::ExchangeUnbindOk, commit);
        }
        Ok(())
    }
}

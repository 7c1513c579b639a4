//! Changes the admin side asks for.
//!
//! What a client could do over AMQP too runs on a channel of a connection that exists only for it, so that permissions,
//! equivalence checks and texts are those of clients and cannot drift from them. Definitions are changed here directly.
//!
//! **Invariant:** an outcome is told once all it changed is on disk.

use crate::handle::queue::check_not_own;
use crate::shard::Shard;
use crate::topology::Destination;
use hornpipe_types::args::{QueueArgs, QueueContext, with_default_queue_type};
use hornpipe_types::command::{ChannelCommand, ExchangeDeclare, OpenConnection, PublishRun, Settle};
use hornpipe_types::definition::{
    BindingDefinition, Definition, ExchangeDefinition, ParameterDefinition, QueueDefinition,
};
use hornpipe_types::effect::{ChannelEffect, ConnectionEffect};
use hornpipe_types::error::{AmqpError, ReplyCode};
use hornpipe_types::header::{Properties, scan};
use hornpipe_types::ids::{CommitSeq, ConnectionId, RequestId};
use hornpipe_types::message::{Batch, BatchBuilder, MessageMeta};
use hornpipe_types::names::ShortStr;
use hornpipe_types::operate::{GetMode, GotMessage, Operation, Outcome};
use hornpipe_types::time::Now;
use std::collections::BTreeMap;
use std::sync::Arc;

mod definitions;
#[cfg(test)]
mod tests;

/// Ids of the connections made here; no socket ever gets one.
const INTERNAL: u64 = 1 << 63;
/// The channel used on them.
const CHANNEL: u16 = 1;
/// Octets of messages after which a get is content with what it has.
const GET_BYTES_MAX: u64 = 64 << 20;

/// Whether a connection was made here.
pub(crate) fn is_internal(id: ConnectionId) -> bool {
    id.0 >= INTERNAL
}

/// Component and name of a parameter, in a vhost or global.
type ParameterKey = (Option<ShortStr>, ShortStr, ShortStr);

/// Operations under way, and the parameters they keep.
#[derive(Debug, Default)]
pub(crate) struct Operations {
    pub(crate) parameters: BTreeMap<ParameterKey, ParameterDefinition>,
    /// Outcomes that wait for the disk, in commit order.
    waiting: Vec<(CommitSeq, RequestId, Outcome)>,
    working: Vec<Working>,
    last: u64,
}

/// An operation on a channel of its own.
#[derive(Debug)]
struct Working {
    request: RequestId,
    connection: ConnectionId,
    task: Task,
}

#[derive(Debug)]
enum Task {
    /// One method: its reply means this.
    Call(Outcome),
    Publish {
        returned: bool,
    },
    Get(Getting),
}

#[derive(Debug)]
struct Getting {
    queue: ShortStr,
    mode: GetMode,
    left: u32,
    bytes: u64,
    last_tag: u64,
    got: Vec<GotMessage>,
}

impl Getting {
    fn next(&self) -> ChannelCommand {
        ChannelCommand::Get { queue: self.queue.clone(), no_ack: self.mode == GetMode::Ack }
    }
}

impl Shard {
    /// A change the admin side asks for in the name of `user`; its outcome comes with [`Shard::poll_effects`].
    pub fn handle_operation(&mut self, now: Now, id: RequestId, user: &ShortStr, operation: Operation) {
        self.flush(now);
        self.log.begin_command();
        use Operation as O;
        match operation {
            O::DeclareQueue { vhost, declare } => {
                let outcome = if self.has_queue(&vhost, &declare.queue) { Outcome::Exists } else { Outcome::Created };
                self.call(now, id, user, &vhost, outcome, ChannelCommand::QueueDeclare(Box::new(declare)));
            }
            O::DeleteQueue { vhost, queue, if_unused, if_empty } if self.has_queue(&vhost, &queue) => {
                let command = ChannelCommand::QueueDelete { queue, if_unused, if_empty, nowait: false };
                self.call(now, id, user, &vhost, Outcome::Done, command);
            }
            O::PurgeQueue { vhost, queue } if self.has_queue(&vhost, &queue) => {
                let command = ChannelCommand::QueuePurge { queue, nowait: false };
                self.call(now, id, user, &vhost, Outcome::Done, command);
            }
            O::DeclareExchange { vhost, declare } => {
                let known = self.has_exchange(&vhost, &declare.exchange);
                let outcome = if known { Outcome::Exists } else { Outcome::Created };
                self.call(now, id, user, &vhost, outcome, ChannelCommand::ExchangeDeclare(Box::new(declare)));
            }
            O::DeleteExchange { vhost, exchange, if_unused } if self.has_exchange(&vhost, &exchange) => {
                let command = ChannelCommand::ExchangeDelete { exchange, if_unused, nowait: false };
                self.call(now, id, user, &vhost, Outcome::Done, command);
            }
            O::Bind { vhost, to_queue, bind } => {
                let bind = Box::new(bind);
                let command =
                    if to_queue { ChannelCommand::QueueBind(bind) } else { ChannelCommand::ExchangeBind(bind) };
                self.call(now, id, user, &vhost, Outcome::Created, command);
            }
            O::Unbind { vhost, to_queue, bind } => {
                let bind = Box::new(bind);
                let command =
                    if to_queue { ChannelCommand::QueueUnbind(bind) } else { ChannelCommand::ExchangeUnbind(bind) };
                self.call(now, id, user, &vhost, Outcome::Done, command);
            }
            O::Publish { body, .. } if body.len() as u64 > self.limits.max_message_size => {
                let (size, max) = (body.len(), self.limits.max_message_size);
                let text = format!("message size {size} is larger than configured max size {max}");
                self.out.outcomes.push((id, Outcome::Refused(AmqpError::precondition(text))));
            }
            O::Publish { vhost, exchange, routing_key, properties, body } => {
                let batch = batch_of(&exchange, &routing_key, &properties, &body);
                let publish = PublishRun { batch, from: 0, count: 1, mandatory: true };
                let commands = [ChannelCommand::ConfirmSelect { nowait: false }, ChannelCommand::Publish(publish)];
                self.begin(now, id, user, &vhost, Task::Publish { returned: false }, commands);
            }
            O::Get { vhost, queue, count, mode } if self.has_queue(&vhost, &queue) => {
                let got = Vec::new();
                let getting = Getting { queue, mode, left: count, bytes: 0, last_tag: 0, got };
                if count == 0 {
                    self.out.outcomes.push((id, Outcome::Messages(Vec::new())));
                } else {
                    let first = getting.next();
                    self.begin(now, id, user, &vhost, Task::Get(getting), [first]);
                }
            }
            O::DeleteQueue { .. } | O::PurgeQueue { .. } | O::DeleteExchange { .. } | O::Get { .. } => {
                self.tell_outcome(id, Outcome::NotFound, self.log.defined());
            }
            O::DeleteVhost { name } => self.begin_delete_vhost(now, id, &name),
            other => {
                let before = self.log.current();
                let outcome = self.change(now, user, other);
                self.work_off_deaths(now);
                let commit = self.log.current();
                // where nothing changed, what is there or gone already may be on its way to the disk
                let commit = if commit == before { self.log.defined() } else { commit };
                self.tell_outcome(id, outcome, commit);
            }
        }
    }

    /// Tells an outcome once `commit` is on disk.
    fn tell_outcome(&mut self, id: RequestId, outcome: Outcome, commit: CommitSeq) {
        if self.log.is_durable(commit) {
            self.out.outcomes.push((id, outcome));
        } else {
            let waiting = &mut self.operations.waiting;
            let at = waiting.partition_point(|(other, ..)| *other <= commit);
            waiting.insert(at, (commit, id, outcome));
        }
    }

    fn has_queue(&self, vhost: &str, queue: &str) -> bool {
        self.vhost_names.get(vhost).and_then(|i| self.vhosts.get(*i)).is_some_and(|v| v.queues.contains_key(queue))
    }

    fn has_exchange(&self, vhost: &str, exchange: &str) -> bool {
        let vhost = self.vhost_names.get(vhost).and_then(|i| self.vhosts.get(*i));
        vhost.is_some_and(|v| v.topology.find(exchange).is_some())
    }

    fn call(
        &mut self,
        now: Now,
        id: RequestId,
        user: &ShortStr,
        vhost: &ShortStr,
        outcome: Outcome,
        command: ChannelCommand,
    ) {
        self.begin(now, id, user, vhost, Task::Call(outcome), [command]);
    }

    /// Opens a connection of the user's for a task and gives the first commands.
    fn begin(
        &mut self,
        now: Now,
        request: RequestId,
        user: &ShortStr,
        vhost: &ShortStr,
        task: Task,
        commands: impl IntoIterator<Item = ChannelCommand>,
    ) {
        let Some(index) = self.vhost_names.get(vhost).copied() else {
            self.out.outcomes.push((request, Outcome::NotFound));
            return;
        };
        if let Err(error) = self.access.check_vhost(user, vhost, true) {
            self.out.outcomes.push((request, Outcome::Refused(error)));
            return;
        }
        self.operations.last += 1;
        let connection = ConnectionId(INTERNAL | self.operations.last);
        let open = OpenConnection {
            cancel_notify: false,
            blocked_notify: false,
            channel_max: CHANNEL,
            ..OpenConnection::without_socket("management", user, vhost)
        };
        self.admit(now, connection, open, index);
        self.on_channel_command(now, connection, CHANNEL, ChannelCommand::Open);
        if let Some(c) = self.connections.get_mut(&connection) {
            c.effects.clear();
        }
        for command in commands {
            self.on_channel_command(now, connection, CHANNEL, command);
        }
        self.operations.working.push(Working { request, connection, task });
    }

    /// Takes in what the operations under way were answered, and tells the outcomes of those that are done.
    pub(crate) fn poll_operations(&mut self, now: Now) {
        let mut working = std::mem::take(&mut self.operations.working);
        working.retain_mut(|w| match self.advance(now, w) {
            Some(outcome) => {
                if let Some(c) = self.connections.get_mut(&w.connection) {
                    c.effects.clear();
                }
                self.release_connection(now, w.connection);
                self.out.connections.retain(|(id, _)| *id != w.connection);
                self.out.outcomes.push((w.request, outcome));
                false
            }
            None => true,
        });
        self.operations.working = working;
        let durable = self.operations.waiting.partition_point(|(commit, ..)| self.log.is_durable(*commit));
        let told = self.operations.waiting.drain(..durable);
        self.out.outcomes.extend(told.map(|(_, id, outcome)| (id, outcome)));
    }

    fn advance(&mut self, now: Now, w: &mut Working) -> Option<Outcome> {
        loop {
            let Some(connection) = self.connections.get_mut(&w.connection) else {
                return Some(Outcome::Refused(self.why_closed(w.connection)));
            };
            let effects = std::mem::take(&mut connection.effects);
            // there is no socket that could be slow
            connection.unsent = 0;
            if effects.is_empty() {
                return None;
            }
            let mut again = false;
            for effect in effects {
                let ConnectionEffect::Channel(_, effect) = effect else { continue };
                match (&mut w.task, effect) {
                    (_, ChannelEffect::Close(error)) => return Some(Outcome::Refused(error)),
                    (Task::Publish { returned }, ChannelEffect::Return { .. }) => *returned = true,
                    (Task::Publish { returned }, ChannelEffect::Confirm { ack, .. }) => {
                        return Some(if ack { Outcome::Routed(!*returned) } else { Outcome::Rejected });
                    }
                    (Task::Publish { .. }, _) => {}
                    (Task::Get(getting), ChannelEffect::GetOk { tag, redelivered, messages, span }) => {
                        getting.bytes += span.body_bytes();
                        getting.got.push(GotMessage { span, redelivered, messages });
                        getting.left -= 1;
                        getting.last_tag = tag;
                        if getting.left == 0 || getting.bytes >= GET_BYTES_MAX {
                            return Some(self.end_get(now, w));
                        }
                        again = true;
                    }
                    (Task::Get(_), _) => return Some(self.end_get(now, w)),
                    (Task::Call(outcome), _) => return Some(outcome.clone()),
                }
            }
            if again && let Task::Get(getting) = &w.task {
                let next = getting.next();
                self.on_channel_command(now, w.connection, CHANNEL, next);
            }
        }
    }

    /// Settles what a get brought.
    fn end_get(&mut self, now: Now, w: &mut Working) -> Outcome {
        let Task::Get(getting) = &mut w.task else { return Outcome::Messages(Vec::new()) };
        let got = std::mem::take(&mut getting.got);
        let how = match getting.mode {
            GetMode::Ack => None,
            GetMode::Requeue => Some(Settle::Nack { requeue: true }),
            GetMode::Reject => Some(Settle::Nack { requeue: false }),
        };
        if let Some(how) = how.filter(|_| !got.is_empty()) {
            let command = ChannelCommand::Settle { how, tag: getting.last_tag, count: 1, multiple: true };
            self.on_channel_command(now, w.connection, CHANNEL, command);
        }
        Outcome::Messages(got)
    }

    /// A connection error of an operation, out of what would have been sent.
    fn why_closed(&mut self, connection: ConnectionId) -> AmqpError {
        let mut why = None;
        for (_, effects) in self.out.connections.iter_mut().filter(|(id, _)| *id == connection) {
            for effect in effects.drain(..) {
                if let ConnectionEffect::Close(error) = effect {
                    why = Some(error);
                }
            }
        }
        why.unwrap_or_else(|| AmqpError::new(ReplyCode::ConnectionForced, "the broker is stopping"))
    }

    /// A queue of a definitions file.
    fn import_queue(&mut self, now: Now, mut d: QueueDefinition) -> Outcome {
        let Some(index) = self.vhost_names.get(&d.vhost).copied() else { return Outcome::NotFound };
        if self.has_queue(&d.vhost, &d.name) {
            return Outcome::Exists;
        }
        let default = self.vhosts.get(index).and_then(|v| v.definition.default_queue_type.clone());
        d.arguments = with_default_queue_type(d.arguments, default.as_deref(), d.durable, d.exclusive, d.auto_delete);
        let context = QueueContext {
            queue: &d.name,
            vhost: &d.vhost,
            durable: d.durable,
            exclusive: d.exclusive,
            auto_delete: d.auto_delete,
        };
        let args = match check_not_own(&d.name).and_then(|()| QueueArgs::parse(&d.arguments, &context)) {
            Ok(args) => args,
            Err(error) => return Outcome::Refused(error),
        };
        d.id = self.new_queue_id();
        self.stats.queues_created += 1;
        self.insert_queue(now, index, d.clone(), args, None);
        if d.durable {
            self.put_definition(Definition::Queue(d));
        }
        Outcome::Created
    }

    /// An exchange of a definitions file.
    fn import_exchange(&mut self, d: ExchangeDefinition) -> Outcome {
        let Some(index) = self.vhost_names.get(&d.vhost).copied() else { return Outcome::NotFound };
        let Some(v) = self.vhosts.get_mut(index) else { return Outcome::NotFound };
        if v.topology.find(&d.name).is_some() {
            return Outcome::Exists;
        }
        let declare = ExchangeDeclare {
            exchange: d.name.clone(),
            kind: d.kind.clone(),
            passive: false,
            durable: d.durable,
            auto_delete: d.auto_delete,
            internal: d.internal,
            nowait: false,
            arguments: d.arguments.clone(),
        };
        if let Err(error) = v.topology.check_declare(&declare).and_then(|_| v.topology.declare(d.clone())) {
            return Outcome::Refused(error);
        }
        let name = d.name.clone();
        if d.durable {
            self.put_definition(Definition::Exchange(d));
        }
        self.apply_exchange_policy(index, &name);
        Outcome::Created
    }

    /// A binding of a definitions file.
    fn import_binding(&mut self, now: Now, d: BindingDefinition) -> Outcome {
        let Some(index) = self.vhost_names.get(&d.vhost).copied() else { return Outcome::NotFound };
        let Some(v) = self.vhosts.get(index) else { return Outcome::NotFound };
        if d.source.is_empty() {
            // every queue is bound to the default exchange as it is
            return Outcome::Exists;
        }
        if v.topology.find(&d.source).is_none() {
            return Outcome::Refused(AmqpError::no_exchange(&d.source, &d.vhost));
        }
        let destination = if d.destination_is_queue {
            v.queues.get(&d.destination).copied().map(Destination::Queue)
        } else {
            v.topology.find(&d.destination).map(Destination::Exchange)
        };
        let Some(destination) = destination else {
            let missing = if d.destination_is_queue { AmqpError::no_queue } else { AmqpError::no_exchange };
            return Outcome::Refused(missing(&d.destination, &d.vhost));
        };
        match self.add_binding(now, index, d, destination) {
            Ok(_) => Outcome::Created,
            Err(error) => Outcome::Refused(error),
        }
    }
}

/// A batch of one message.
fn batch_of(exchange: &str, key: &str, properties: &Properties, body: &[u8]) -> Arc<Batch> {
    let mut b = BatchBuilder::with_capacity(body.len() + 1024);
    let route = b.push_route(exchange, key);
    let header = properties.encode(body.len() as u64);
    let meta = scan(&header).unwrap_or_default();
    b.push_message(&header, [body], MessageMeta { route, ..meta }, 131_072);
    b.finish()
}

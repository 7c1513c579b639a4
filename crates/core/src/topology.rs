//! Exchanges and bindings of one vhost. Queues are known by id only.
//!
//! Invariants: a binding lies in exactly four places (its slot, the index by identity, its source's lists, its
//! destination's list), and each remembers where the others are, so that binding and unbinding never search. Routing
//! visits each exchange and names each queue at most once per message, by marks instead of sets. Nothing here depends on
//! the order of a hashed map.

mod keys;
mod route;
#[cfg(test)]
mod tests;

use crate::exchange::declare;
use crate::exchange::{BindTo, BindingRef, Exchange, Kind, Node, Place, Target};
use hornpipe_types::Map;
use hornpipe_types::command::ExchangeDeclare;
use hornpipe_types::definition::{BindingDefinition, ExchangeDefinition};
use hornpipe_types::error::AmqpError;
use hornpipe_types::ids::QueueId;
use hornpipe_types::message::Span;
use hornpipe_types::names::ShortStr;
use hornpipe_types::table::FieldTable;
use keys::{BindingKey, Keys};
pub use route::{RouteInput, Routed};
use std::collections::BTreeMap;

/// An exchange within its topology. Reused once the exchange is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ExchangeId(pub u32);

/// Where a binding leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Destination {
    /// A queue, which the caller knows.
    Queue(QueueId),
    /// An exchange of the same topology.
    Exchange(ExchangeId),
}

/// What a binding must know of its destination queue. Not looked at when the destination is an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueTraits<'a> {
    /// The queue outlives a restart.
    pub durable: bool,
    /// Its `x-queue-type`: `classic`, `quorum`, `stream`.
    pub kind: &'a str,
}

impl QueueTraits<'static> {
    /// A classic queue.
    pub const fn classic(durable: bool) -> Self {
        Self { durable, kind: "classic" }
    }
}

/// What became of a bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BindOutcome {
    /// False: the very same binding was there.
    pub added: bool,
    /// Both ends are durable: the binding is to be stored.
    pub durable: bool,
    /// The source exchange.
    pub source: ExchangeId,
    /// What is to be stored as the binding's `order`.
    pub order: u64,
}

/// A binding that is gone.
#[derive(Debug, Clone, PartialEq)]
pub struct RemovedBinding {
    /// As it was listed.
    pub definition: BindingDefinition,
    /// Where it led. An exchange in it may be gone as well.
    pub destination: Destination,
    /// It was stored.
    pub durable: bool,
}

/// An exchange that is gone.
#[derive(Debug, Clone, PartialEq)]
pub struct RemovedExchange {
    /// The id it had; a later exchange may get the same.
    pub id: ExchangeId,
    /// As it was declared.
    pub definition: ExchangeDefinition,
}

/// What an unbind or a deletion took away, in the order it went.
#[derive(Debug, Clone, PartialEq, Default)]
#[must_use = "durable ones must be taken off the disk"]
pub struct Changes {
    /// Bindings, those of removed exchanges included.
    pub removed_bindings: Vec<RemovedBinding>,
    /// Exchanges: the one deleted and those whose auto-delete it set off.
    pub removed_exchanges: Vec<RemovedExchange>,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.removed_bindings.is_empty() && self.removed_exchanges.is_empty()
    }
}

#[derive(Debug)]
struct Binding {
    definition: BindingDefinition,
    key: BindingKey,
    node: Node,
    durable: bool,
    seq: u64,
    /// Position in the source's list of outgoing bindings.
    out_pos: u32,
    /// Position in the destination's list of incoming bindings.
    in_pos: u32,
    /// Where the source's router keeps it.
    place: Place,
}

/// A queue that something is bound to.
#[derive(Debug, Default)]
struct QueueSlot {
    id: QueueId,
    bindings: Vec<u32>,
}

/// Exchanges and bindings of one vhost.
#[derive(Debug)]
pub struct Topology {
    vhost: ShortStr,
    exchanges: Vec<Option<Exchange>>,
    free_exchanges: Vec<u32>,
    by_name: BTreeMap<ShortStr, ExchangeId>,
    /// Boxed, so that little is moved when the list grows.
    bindings: Vec<Option<Box<Binding>>>,
    free_bindings: Vec<u32>,
    by_key: Keys,
    queues: Vec<QueueSlot>,
    free_queues: Vec<u32>,
    by_queue: Map<QueueId, u32>,
    next_seq: u64,
    generation: u64,
    walk: route::Walk,
}

/// Names and types of the exchanges every vhost begins with, all durable; the last one internal.
const PREDECLARED: [(&str, Kind); 7] = [
    ("", Kind::Direct),
    ("amq.direct", Kind::Direct),
    ("amq.fanout", Kind::Fanout),
    ("amq.topic", Kind::Topic),
    ("amq.headers", Kind::Headers),
    ("amq.match", Kind::Headers),
    ("amq.rabbitmq.trace", Kind::Topic),
];

impl Topology {
    /// A topology with the predeclared exchanges. The default exchange is one of them, but queues by name are the
    /// caller's: routing through it only sets [`Routed::to_default`].
    pub fn new(vhost: ShortStr) -> Self {
        let mut topology = Self {
            vhost: vhost.clone(),
            exchanges: Vec::new(),
            free_exchanges: Vec::new(),
            by_name: BTreeMap::new(),
            bindings: Vec::new(),
            free_bindings: Vec::new(),
            by_key: Keys::default(),
            queues: Vec::new(),
            free_queues: Vec::new(),
            by_queue: Map::default(),
            next_seq: 0,
            generation: 0,
            walk: route::Walk::default(),
        };
        for (name, kind) in PREDECLARED {
            let definition = ExchangeDefinition {
                vhost: vhost.clone(),
                name: name.into(),
                kind: kind.name().into(),
                durable: true,
                auto_delete: false,
                internal: name == "amq.rabbitmq.trace",
                arguments: FieldTable::default(),
            };
            topology.add(definition, kind);
        }
        topology
    }

    /// The vhost's name.
    pub fn vhost(&self) -> &ShortStr {
        &self.vhost
    }

    /// The exchange of that name.
    pub fn find(&self, name: &str) -> Option<ExchangeId> {
        self.by_name.get(name).copied()
    }

    /// An exchange. Panics when there is none of that id: ids come from this topology and end with [`RemovedExchange`].
    pub fn exchange(&self, id: ExchangeId) -> &Exchange {
        self.get(id).expect("exchange ids are dropped when the exchange is")
    }

    /// An exchange, if there is one of that id.
    pub fn get(&self, id: ExchangeId) -> Option<&Exchange> {
        self.exchanges.get(id.0 as usize).and_then(Option::as_ref)
    }

    fn get_mut(&mut self, id: ExchangeId) -> Option<&mut Exchange> {
        self.exchanges.get_mut(id.0 as usize).and_then(Option::as_mut)
    }

    /// All exchanges, sorted by name.
    pub fn exchanges(&self) -> impl Iterator<Item = (ExchangeId, &Exchange)> {
        self.by_name.values().filter_map(|id| Some((*id, self.get(*id)?)))
    }

    /// The exchanges after this name, sorted by name: for listing in slices.
    pub fn exchanges_after(&self, name: &str) -> impl Iterator<Item = (ExchangeId, &Exchange)> {
        let bounds = (std::ops::Bound::Excluded(name), std::ops::Bound::Unbounded);
        self.by_name.range::<str, _>(bounds).filter_map(|(_, id)| Some((*id, self.get(*id)?)))
    }

    /// Number of exchanges, the predeclared ones included.
    pub fn exchange_count(&self) -> usize {
        self.by_name.len()
    }

    /// Number of bindings.
    pub fn binding_count(&self) -> usize {
        self.bindings.len() - self.free_bindings.len()
    }

    /// Changes with every change that can alter a route.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Adds to the publish counters of an exchange.
    pub fn count(&mut self, id: ExchangeId, published_in: u64, published_out: u64) {
        if let Some(x) = self.get_mut(id) {
            x.publish_in += published_in;
            x.publish_out += published_out;
        }
    }

    /// Sets or clears the alternate exchange that a policy names; the exchange's own argument wins over it.
    pub fn set_policy_alternate(&mut self, id: ExchangeId, alternate: Option<ShortStr>) {
        self.generation += 1;
        if let Some(x) = self.get_mut(id) {
            x.policy_alternate = alternate;
        }
    }

    // --- declare, delete ---

    /// The first checks of exchange.declare, to be made before permissions: not the default exchange, a known type
    /// (not looked at when passive).
    pub fn check_declare_kind(&self, d: &ExchangeDeclare) -> Result<(), AmqpError> {
        if d.exchange.is_empty() {
            return Err(default_refused());
        }
        if !d.passive && Kind::parse(&d.kind).is_none() {
            return Err(unknown_kind(&d.kind));
        }
        Ok(())
    }

    /// All checks of exchange.declare but permissions and limits; those of [`Self::check_declare_kind`] included. Returns
    /// the exchange when it is there and equivalent (passive: when it is there).
    pub fn check_declare(&self, d: &ExchangeDeclare) -> Result<Option<ExchangeId>, AmqpError> {
        if d.passive && !d.exchange.is_empty() {
            let found = self.find(&d.exchange);
            return found.map(Some).ok_or_else(|| AmqpError::no_exchange(&d.exchange, &self.vhost));
        }
        self.check_declare_kind(d)?;
        if let Some(id) = self.find(&d.exchange) {
            declare::check_equivalence(self.exchange(id), d)?;
            return Ok(Some(id));
        }
        let kind = Kind::parse(&d.kind).ok_or_else(|| unknown_kind(&d.kind))?;
        declare::check_new(&self.vhost, kind, d)?;
        Ok(None)
    }

    /// Creates an exchange; one of the same name is left as it is. Nothing but the type is checked (406): the rest is
    /// [`Self::check_declare`]'s, and what comes from the disk has passed it.
    pub fn declare(&mut self, definition: ExchangeDefinition) -> Result<ExchangeId, AmqpError> {
        if let Some(id) = self.find(&definition.name) {
            return Ok(id);
        }
        let kind = Kind::parse(&definition.kind).ok_or_else(|| unknown_kind(&definition.kind))?;
        Ok(self.add(definition, kind))
    }

    fn add(&mut self, mut definition: ExchangeDefinition, kind: Kind) -> ExchangeId {
        self.generation += 1;
        definition.vhost = self.vhost.clone();
        let name = definition.name.clone();
        let exchange = Exchange::new(definition, kind);
        let id = match self.free_exchanges.pop() {
            Some(slot) => {
                self.exchanges[slot as usize] = Some(exchange);
                ExchangeId(slot)
            }
            None => {
                self.exchanges.push(Some(exchange));
                self.walk.add_exchange();
                ExchangeId(self.exchanges.len() as u32 - 1)
            }
        };
        self.by_name.insert(name, id);
        id
    }

    /// The refusals of exchange.delete (403, 406) that need no permission. `None`: there is no such exchange, which is
    /// no error.
    pub fn check_delete(&self, name: &str, if_unused: bool) -> Result<Option<ExchangeId>, AmqpError> {
        if name.is_empty() {
            return Err(default_refused());
        }
        if name.starts_with("amq.") {
            return Err(AmqpError::access_refused(format!(
                "deletion of system exchange '{name}' in vhost '{}' not allowed",
                self.vhost
            )));
        }
        let Some(id) = self.find(name) else { return Ok(None) };
        if if_unused && self.in_use(id) {
            return Err(AmqpError::precondition(format!("exchange '{name}' in vhost '{}' in use", self.vhost)));
        }
        Ok(Some(id))
    }

    /// Deletes an exchange with its bindings in both roles; exchanges that thereby lose their last outgoing binding and
    /// are auto-delete go too.
    pub fn delete(&mut self, id: ExchangeId) -> Changes {
        let mut changes = Changes::default();
        self.delete_all(vec![id], &mut changes);
        changes
    }

    /// Marks an exchange as one that [`Self::delete_some`] is called for until it is gone.
    pub fn begin_delete(&mut self, id: ExchangeId) {
        if let Some(x) = self.get_mut(id) {
            x.leaving = true;
        }
    }

    /// Takes so many bindings at most off an exchange, which goes when it has none any more; whether it is gone.
    pub fn delete_some(&mut self, id: ExchangeId, most: usize, changes: &mut Changes) -> bool {
        for _ in 0..most {
            let Some(x) = self.get(id) else { return true };
            let doomed = match (x.outgoing.last(), x.incoming.last()) {
                // an auto-delete exchange that is being deleted needs no second reason
                (Some(last), _) => self.detach(last.binding, changes).filter(|source| *source != id),
                (None, Some(&last)) => self.detach(last, changes),
                (None, None) => Some(id),
            };
            self.delete_all(doomed.into_iter().collect(), changes);
        }
        self.get(id).is_none()
    }

    /// Whether anything is bound to it as the source.
    pub fn in_use(&self, id: ExchangeId) -> bool {
        self.get(id).is_some_and(|x| !x.outgoing.is_empty())
    }

    fn delete_all(&mut self, mut doomed: Vec<ExchangeId>, changes: &mut Changes) {
        while let Some(id) = doomed.pop() {
            while let Some(last) = self.get(id).and_then(|x| x.outgoing.last()) {
                // an auto-delete exchange that is being deleted needs no second reason
                self.detach(last.binding, changes);
            }
            while let Some(&last) = self.get(id).and_then(|x| x.incoming.last()) {
                doomed.extend(self.detach(last, changes));
            }
            if let Some(x) = self.exchanges.get_mut(id.0 as usize).and_then(Option::take) {
                self.generation += 1;
                self.by_name.remove(&x.definition.name);
                self.free_exchanges.push(id.0);
                changes.removed_exchanges.push(RemovedExchange { id, definition: x.definition });
            }
        }
    }

    // --- bind, unbind ---

    /// The default exchange can be neither end of a binding (403); for bind and unbind alike.
    pub fn check_binding_ends(b: &BindingDefinition) -> Result<(), AmqpError> {
        if b.source.is_empty() || (!b.destination_is_queue && b.destination.is_empty()) {
            return Err(default_refused());
        }
        Ok(())
    }

    /// Binds. `queue` tells of the destination when that is a queue. Errors: 403 default exchange, 404 no source, 406
    /// refused by the source's type. Binding what is bound already changes nothing.
    pub fn bind(
        &mut self,
        b: &BindingDefinition,
        destination: Destination,
        queue: QueueTraits<'_>,
    ) -> Result<BindOutcome, AmqpError> {
        Self::check_binding_ends(b)?;
        let source = self.find(&b.source).ok_or_else(|| AmqpError::no_exchange(&b.source, &self.vhost))?;
        let destination_durable = match destination {
            Destination::Queue(_) => queue.durable,
            Destination::Exchange(id) => match self.get(id) {
                Some(x) => x.definition.durable,
                None => return Err(AmqpError::no_exchange(&b.destination, &self.vhost)),
            },
        };
        let durable = destination_durable && self.exchange(source).definition.durable;
        let key = BindingKey::new(source, b, destination);
        if let Some(found) = self.find_binding(&key).and_then(|slot| self.binding(slot)) {
            let order = found.definition.order;
            return Ok(BindOutcome { added: false, durable: found.durable, source, order });
        }
        let to = match destination {
            Destination::Queue(_) => BindTo::Queue(queue.kind),
            Destination::Exchange(_) => BindTo::Exchange,
        };
        self.exchange(source).router.check_bind(&b.routing_key, &b.arguments, to)?;
        let order = self.attach(b, key, durable);
        Ok(BindOutcome { added: true, durable, source, order })
    }

    /// Returns the binding's place in the order of all, which is the old one when it was recovered: consistent hashing goes by
    /// it.
    fn attach(&mut self, b: &BindingDefinition, key: BindingKey, durable: bool) -> u64 {
        self.generation += 1;
        let seq = if b.order > 0 { b.order } else { self.next_seq.max(1) };
        self.next_seq = self.next_seq.max(seq + 1);
        let slot = self.free_bindings.pop().unwrap_or_else(|| {
            self.bindings.push(None);
            self.bindings.len() as u32 - 1
        });
        let mut definition = b.clone();
        definition.order = seq;
        // names are shared with the exchanges: 100 000 bindings should not hold 100 000 copies
        definition.vhost = self.vhost.clone();
        let (node, in_pos) = match key.destination {
            Destination::Queue(id) => {
                let q = self.queue_slot(id);
                let list = &mut self.queues[q as usize].bindings;
                list.push(slot);
                (Node::Queue(q), list.len() as u32 - 1)
            }
            Destination::Exchange(id) => {
                let mut pos = 0;
                if let Some(x) = self.get_mut(id) {
                    x.incoming.push(slot);
                    pos = x.incoming.len() as u32 - 1;
                    definition.destination = x.definition.name.clone();
                }
                (Node::Exchange(id), pos)
            }
        };
        let target = Target { node, binding: slot };
        let (mut out_pos, mut place) = (0, Place::default());
        if let Some(x) = self.get_mut(key.source) {
            definition.source = x.definition.name.clone();
            out_pos = x.outgoing.push(target);
            if let Node::Exchange(to) = node {
                *x.downstream.entry(to).or_default() += 1;
            }
            place = x.router.insert(BindingRef {
                target,
                key: &definition.routing_key,
                arguments: &definition.arguments,
                destination: &definition.destination,
                seq,
            });
        }
        self.by_key.put(&key, slot);
        let binding = Binding { definition, key, node, durable, seq, out_pos, in_pos, place };
        self.bindings[slot as usize] = Some(Box::new(binding));
        seq
    }

    /// The slot of a queue that is about to get a binding.
    fn queue_slot(&mut self, id: QueueId) -> u32 {
        if let Some(&slot) = self.by_queue.get(&id) {
            return slot;
        }
        let slot = match self.free_queues.pop() {
            Some(slot) => {
                self.queues[slot as usize].id = id;
                slot
            }
            None => {
                self.queues.push(QueueSlot { id, bindings: Vec::new() });
                self.walk.add_queue();
                self.queues.len() as u32 - 1
            }
        };
        self.by_queue.insert(id, slot);
        slot
    }

    /// Unbinds. What is not there is no error and no change.
    pub fn unbind(&mut self, b: &BindingDefinition, destination: Destination) -> Changes {
        let mut changes = Changes::default();
        let slot = self.find(&b.source).and_then(|s| self.find_binding(&BindingKey::new(s, b, destination)));
        if let Some(slot) = slot {
            let doomed = self.detach(slot, &mut changes);
            self.delete_all(doomed.into_iter().collect(), &mut changes);
        }
        changes
    }

    /// Removes all bindings of a queue that is being deleted.
    pub fn remove_queue(&mut self, queue: QueueId) -> Changes {
        let mut changes = Changes::default();
        self.unbind_some(queue, usize::MAX, &mut changes);
        changes
    }

    /// Takes so many bindings at most off a queue; whether it has none any more.
    pub fn unbind_some(&mut self, queue: QueueId, most: usize, changes: &mut Changes) -> bool {
        let mut doomed = Vec::new();
        let mut left = most;
        while left > 0
            && let Some(slot) =
                self.by_queue.get(&queue).and_then(|q| self.queues[*q as usize].bindings.last().copied())
        {
            doomed.extend(self.detach(slot, changes));
            left -= 1;
        }
        self.delete_all(doomed, changes);
        !self.by_queue.contains_key(&queue)
    }

    /// Takes one binding out of everything; returns its source if that is to be auto-deleted for it.
    fn detach(&mut self, slot: u32, changes: &mut Changes) -> Option<ExchangeId> {
        let b = *self.bindings.get_mut(slot as usize)?.take()?;
        self.generation += 1;
        self.free_bindings.push(slot);
        self.by_key.forget(&b.key, slot);
        let (mut moved_out, mut moved_place, mut doomed) = (None, None, None);
        if let Some(x) = self.get_mut(b.key.source) {
            moved_out = x.outgoing.remove(b.out_pos);
            let target = Target { node: b.node, binding: slot };
            moved_place = x.router.remove(
                BindingRef {
                    target,
                    key: &b.definition.routing_key,
                    arguments: &b.definition.arguments,
                    destination: &b.definition.destination,
                    seq: b.seq,
                },
                b.place,
            );
            if let Node::Exchange(to) = b.node
                && let Some(n) = x.downstream.get_mut(&to)
            {
                *n -= 1;
                if *n == 0 {
                    x.downstream.remove(&to);
                }
            }
            if x.definition.auto_delete && x.outgoing.is_empty() {
                doomed = Some(b.key.source);
            }
        }
        let moved_in = match b.node {
            Node::Queue(q) => {
                let queue = &mut self.queues[q as usize];
                let moved = swap_out(&mut queue.bindings, b.in_pos);
                if queue.bindings.is_empty() {
                    queue.bindings = Vec::new();
                    self.by_queue.remove(&queue.id);
                    self.free_queues.push(q);
                }
                moved
            }
            Node::Exchange(id) => self.get_mut(id).and_then(|x| swap_out(&mut x.incoming, b.in_pos)),
        };
        if let Some(m) = moved_out.and_then(|m| self.binding_mut(m)) {
            m.out_pos = b.out_pos;
        }
        if let Some(m) = moved_place.and_then(|m| self.binding_mut(m)) {
            m.place = b.place;
        }
        if let Some(m) = moved_in.and_then(|m| self.binding_mut(m)) {
            m.in_pos = b.in_pos;
        }
        changes.removed_bindings.push(RemovedBinding {
            definition: b.definition,
            destination: b.key.destination,
            durable: b.durable,
        });
        doomed
    }

    // --- listing ---

    fn binding(&self, slot: u32) -> Option<&Binding> {
        self.bindings.get(slot as usize)?.as_deref()
    }
    fn binding_mut(&mut self, slot: u32) -> Option<&mut Binding> {
        self.bindings.get_mut(slot as usize)?.as_deref_mut()
    }

    /// All bindings, in no order that means anything; the implicit ones of the default exchange are the caller's.
    pub fn bindings(&self) -> impl Iterator<Item = (&BindingDefinition, Destination)> {
        self.bindings_slice(0, usize::MAX).1
    }

    /// Bindings in slots `from .. from + slots`, and the `from` of the next slice (`None` at the end): for listing in
    /// slices. Bindings made or removed meanwhile may be missed.
    pub fn bindings_slice(
        &self,
        from: usize,
        slots: usize,
    ) -> (Option<usize>, impl Iterator<Item = (&BindingDefinition, Destination)>) {
        let from = from.min(self.bindings.len());
        let end = from.saturating_add(slots).min(self.bindings.len());
        let next = (end < self.bindings.len()).then_some(end);
        (next, self.bindings[from..end].iter().flatten().map(|b| (&b.definition, b.key.destination)))
    }

    /// The bindings of a queue.
    pub fn bindings_of_queue(&self, queue: QueueId) -> impl Iterator<Item = &BindingDefinition> {
        let slots = self.by_queue.get(&queue).map_or(&[][..], |q| &self.queues[*q as usize].bindings);
        slots.iter().filter_map(|slot| self.binding(*slot)).map(|b| &b.definition)
    }

    /// The bindings an exchange is the source of.
    pub fn bindings_from(&self, id: ExchangeId) -> impl Iterator<Item = (&BindingDefinition, Destination)> {
        self.get(id)
            .into_iter()
            .flat_map(|x| x.outgoing.iter())
            .filter_map(|t| self.binding(t.binding))
            .map(|b| (&b.definition, b.key.destination))
    }

    /// The bindings an exchange is the destination of.
    pub fn bindings_to(&self, id: ExchangeId) -> impl Iterator<Item = &BindingDefinition> {
        let slots = self.get(id).map_or(&[][..], |x| &x.incoming);
        slots.iter().filter_map(|slot| self.binding(*slot)).map(|b| &b.definition)
    }

    // --- recent history ---

    /// Keeps messages in the history of an x-recent-history exchange; see [`Routed::recent`].
    pub fn remember(&mut self, id: ExchangeId, span: &Span) {
        if let Some(history) = self.get_mut(id).and_then(|x| x.router.history_mut()) {
            history.remember(span);
        }
    }

    /// What a newly bound destination of this exchange gets at once, oldest first, one message per span; empty for all
    /// other types.
    pub fn replay(&self, id: ExchangeId) -> Vec<Span> {
        self.get(id).and_then(|x| x.router.history()).map(|h| h.replay()).unwrap_or_default()
    }
}

fn default_refused() -> AmqpError {
    AmqpError::access_refused("operation not permitted on the default exchange")
}

fn unknown_kind(kind: &str) -> AmqpError {
    AmqpError::precondition(format!("unknown exchange type '{kind}'"))
}

/// Removes what is at `pos`; returns what moved there from the end, if something did.
fn swap_out(list: &mut Vec<u32>, pos: u32) -> Option<u32> {
    let pos = pos as usize;
    if pos < list.len() {
        list.swap_remove(pos);
    }
    list.get(pos).copied()
}

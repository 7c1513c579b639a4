//! The walk of a message through exchanges to queues.

use super::{ExchangeId, Topology};
use crate::exchange::{Kind, Look, Node, Router, delayed, recent_history};
use crate::rng::Rng;
use hornpipe_types::ids::QueueId;
use hornpipe_types::table::FieldTable;

/// What routing may look at. Only `keys` matter where [`Topology::route_depends_on_key_only`] says so.
#[derive(Debug, Clone, Copy, Default)]
pub struct RouteInput<'a> {
    /// The routing key, then those of `CC` and `BCC`.
    pub keys: &'a [&'a str],
    /// The property `headers`.
    pub headers: Option<&'a FieldTable>,
    /// The property `message-id`, for x-consistent-hash.
    pub message_id: Option<&'a str>,
    /// The property `correlation-id`, for x-consistent-hash.
    pub correlation_id: Option<&'a str>,
    /// The property `timestamp`, for x-consistent-hash.
    pub timestamp: Option<u64>,
}

/// Where a message goes. Kept by the caller and reused, so that routing allocates nothing in the long run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Routed {
    /// Queues, each once, in an order that the same history of binds and unbinds always gives.
    pub queues: Vec<QueueId>,
    /// The walk came through the default exchange (published to, or an alternate): the queues named by the routing keys
    /// get the message too, unless they are in `queues` already.
    pub to_default: bool,
    /// Delayed-message exchanges that hold the message, with the milliseconds each; they have selected nothing yet.
    pub delayed: Vec<(ExchangeId, u64)>,
    /// Recent-history exchanges that are to keep the message: [`Topology::remember`].
    pub recent: Vec<ExchangeId>,
    /// How far it was: about one for a binding that was tested, a node of a trie, a target that was selected; more for an exchange.
    pub steps: u32,
}

/// Steps that an exchange counts for, whatever it selects.
const EXCHANGE_STEPS: u32 = 3;

impl Routed {
    /// Forgets everything but the allocations.
    pub fn clear(&mut self) {
        self.queues.clear();
        self.to_default = false;
        self.delayed.clear();
        self.recent.clear();
        self.steps = 0;
    }
}

/// Scratch of the walk: who was visited by which message, and exchanges still to visit.
#[derive(Debug, Default)]
pub(super) struct Walk {
    message: u64,
    queues: Vec<u64>,
    exchanges: Vec<u64>,
    pending: Vec<ExchangeId>,
}

impl Walk {
    pub(super) fn add_queue(&mut self) {
        self.queues.push(0);
    }
    pub(super) fn add_exchange(&mut self) {
        self.exchanges.push(0);
    }
}

/// Whether this is the first visit for a message.
fn first(marks: &mut [u64], slot: u32, message: u64) -> bool {
    match marks.get_mut(slot as usize) {
        Some(mark) if *mark != message => {
            *mark = message;
            true
        }
        _ => false,
    }
}

impl Topology {
    /// Where a message published to `id` goes; `out` is overwritten. Exchange-to-exchange bindings and alternate
    /// exchanges are followed, each exchange at most once; an alternate is used where an exchange itself selected nothing
    /// (RabbitMQ "Alternate Exchanges"). A message held by a delayed exchange does not go to that one's alternate.
    pub fn route(&mut self, id: ExchangeId, input: &RouteInput<'_>, rng: &mut Rng, out: &mut Routed) {
        self.walk(id, input, rng, out, false);
    }

    /// Where a message goes that a delayed exchange has held and now lets go: as [`Self::route`], but no exchange on the
    /// way holds it again.
    pub fn route_released(&mut self, id: ExchangeId, input: &RouteInput<'_>, rng: &mut Rng, out: &mut Routed) {
        self.walk(id, input, rng, out, true);
    }

    fn walk(&mut self, id: ExchangeId, input: &RouteInput<'_>, rng: &mut Rng, out: &mut Routed, released: bool) {
        out.clear();
        let Self { walk, exchanges, queues, by_name, .. } = self;
        walk.message += 1;
        let Walk { message, queues: queue_marks, exchanges: exchange_marks, pending } = walk;
        let message = *message;
        pending.clear();
        if first(exchange_marks, id.0, message) {
            pending.push(id);
        }
        let mut done = 0;
        while let Some(&id) = pending.get(done) {
            done += 1;
            let Some(x) = exchanges.get_mut(id.0 as usize).and_then(Option::as_mut) else { continue };
            if matches!(x.router, Router::Default) {
                out.to_default = true;
                continue;
            }
            if matches!(x.router, Router::Delayed(..))
                && !released
                && let Some(ms) = delayed::delay(input.headers)
            {
                out.delayed.push((id, ms));
                continue;
            }
            if x.router.history().is_some() && recent_history::is_kept(input.headers) {
                out.recent.push(id);
            }
            let mut selected = 0u32;
            let found = &mut out.queues;
            let looked = x.router.select(Look { input, outgoing: &x.outgoing, rng }, &mut |node| {
                selected = selected.saturating_add(1);
                match node {
                    Node::Queue(slot) => {
                        if first(queue_marks, slot, message) {
                            found.push(queues[slot as usize].id);
                        }
                    }
                    Node::Exchange(to) => {
                        if first(exchange_marks, to.0, message) {
                            pending.push(to);
                        }
                    }
                }
            });
            out.steps = out.steps.saturating_add(EXCHANGE_STEPS).saturating_add(looked).saturating_add(selected);
            if selected == 0
                && let Some(&to) = x.alternate().and_then(|name| by_name.get(name))
                && first(exchange_marks, to.0, message)
            {
                pending.push(to);
            }
        }
    }

    /// Whether all a walk from this exchange can meet selects by routing key alone, so that the caller may keep the
    /// result for a key as long as [`Self::generation`] stays.
    pub fn route_depends_on_key_only(&self, id: ExchangeId) -> bool {
        let Some(x) = self.get(id) else { return true };
        if !x.by_key_only() {
            return false;
        }
        if x.downstream.is_empty() && x.alternate().is_none() {
            return true;
        }
        let mut seen = vec![id];
        let mut done = 0;
        while let Some(&id) = seen.get(done) {
            done += 1;
            let Some(x) = self.get(id) else { continue };
            if !x.by_key_only() {
                return false;
            }
            let alternate = x.alternate().and_then(|name| self.find(name));
            for to in x.downstream.keys().copied().chain(alternate) {
                if !seen.contains(&to) {
                    seen.push(to);
                }
            }
        }
        true
    }

    /// Whether topic permissions apply to the exchange; not to a delayed one that routes as topic, as in RabbitMQ.
    pub fn is_topic(&self, id: ExchangeId) -> bool {
        self.get(id).is_some_and(|x| x.kind() == Kind::Topic)
    }
}

//! Exchanges: one file per kind, the set is closed. What a kind stores is only what it needs to pick targets; bindings
//! themselves belong to [`crate::topology`].

pub(crate) mod consistent_hash;
pub(crate) mod declare;
pub(crate) mod delayed;
pub(crate) mod direct;
pub(crate) mod fanout;
pub(crate) mod headers;
pub(crate) mod modulus_hash;
pub(crate) mod recent_history;
pub(crate) mod topic;

use crate::rng::Rng;
use crate::topology::{ExchangeId, RouteInput};
use hornpipe_types::definition::ExchangeDefinition;
use hornpipe_types::error::AmqpError;
use hornpipe_types::names::ShortStr;
use hornpipe_types::table::FieldTable;
use std::collections::BTreeMap;

/// The exchange types this broker has. Their names are RabbitMQ's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `direct`: the routing key equals the binding key [spec §3.1.3.1].
    Direct,
    /// `fanout`: every binding [spec §3.1.3.2].
    Fanout,
    /// `topic`: patterns of words [spec §3.1.3.3].
    Topic,
    /// `headers`: by header values [spec §3.1.3.4].
    Headers,
    /// `x-consistent-hash`: one binding, by hash and weight.
    ConsistentHash,
    /// `x-modulus-hash`: one binding, by hash modulo their number.
    ModulusHash,
    /// `x-random`: one binding at random.
    Random,
    /// `x-local-random`: one queue at random; with one node the same as `x-random`.
    LocalRandom,
    /// `x-recent-history`: fanout that replays the last messages to whoever is newly bound.
    RecentHistory,
    /// `x-delayed-message`: holds a message for as long as its `x-delay` header says.
    Delayed,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::Direct,
        Self::Fanout,
        Self::Topic,
        Self::Headers,
        Self::ConsistentHash,
        Self::ModulusHash,
        Self::Random,
        Self::LocalRandom,
        Self::RecentHistory,
        Self::Delayed,
    ];

    /// The name in `exchange.declare`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
            Self::Headers => "headers",
            Self::ConsistentHash => "x-consistent-hash",
            Self::ModulusHash => "x-modulus-hash",
            Self::Random => "x-random",
            Self::LocalRandom => "x-local-random",
            Self::RecentHistory => "x-recent-history",
            Self::Delayed => "x-delayed-message",
        }
    }

    /// The kind of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.name() == name)
    }
}

/// An exchange and what is bound to it.
#[derive(Debug)]
pub struct Exchange {
    /// As declared.
    pub definition: ExchangeDefinition,
    /// Messages published to it; see [`crate::topology::Topology::count`].
    pub publish_in: u64,
    /// Copies it brought to queues.
    pub publish_out: u64,
    pub(crate) kind: Kind,
    pub(crate) argument_alternate: Option<ShortStr>,
    pub(crate) policy_alternate: Option<ShortStr>,
    pub(crate) router: Router,
    /// All bindings of which it is the source.
    pub(crate) outgoing: Leaf,
    /// Slots of all bindings of which it is the destination.
    pub(crate) incoming: Vec<u32>,
    /// Exchanges bound to it, with the number of bindings each.
    pub(crate) downstream: BTreeMap<ExchangeId, u32>,
    /// It is being deleted, binding by binding.
    pub(crate) leaving: bool,
}

impl Exchange {
    pub(crate) fn new(definition: ExchangeDefinition, kind: Kind) -> Self {
        let argument_alternate =
            definition.arguments.get(declare::ALTERNATE).and_then(|v| v.as_str()).map(ShortStr::new);
        let router =
            if definition.name.is_empty() { Router::Default } else { Router::new(kind, &definition.arguments) };
        Self {
            definition,
            publish_in: 0,
            publish_out: 0,
            kind,
            argument_alternate,
            policy_alternate: None,
            router,
            outgoing: Leaf::default(),
            incoming: Vec::new(),
            downstream: BTreeMap::new(),
            leaving: false,
        }
    }

    /// Its type.
    pub fn kind(&self) -> Kind {
        self.kind
    }
    /// The type it routes by: for a delayed exchange the one named by `x-delayed-type`.
    pub fn routing_kind(&self) -> Kind {
        match &self.router {
            Router::Delayed(inner, _) => *inner,
            _ => self.kind,
        }
    }
    /// Name of the alternate exchange in effect: the argument wins over the policy.
    pub fn alternate(&self) -> Option<&ShortStr> {
        self.argument_alternate.as_ref().or(self.policy_alternate.as_ref())
    }
    /// Number of bindings of which it is the source.
    pub fn bindings_out(&self) -> usize {
        self.outgoing.len()
    }
    /// Number of bindings of which it is the destination.
    pub fn bindings_in(&self) -> usize {
        self.incoming.len()
    }
    /// Whether what it selects depends on nothing but the routing keys.
    pub(crate) fn by_key_only(&self) -> bool {
        matches!(self.router, Router::Default | Router::Direct(_) | Router::Fanout | Router::Topic(_))
    }
}

/// Where a binding leads, in the topology's own slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Node {
    Queue(u32),
    Exchange(ExchangeId),
}

/// A binding as routing sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) node: Node,
    /// Slot of the binding.
    pub(crate) binding: u32,
}

/// Bindings that are selected together. A binding remembers its position, so removal never searches. Most leaves hold one,
/// which then lies in the leaf itself.
#[derive(Debug, Default)]
pub(crate) enum Leaf {
    #[default]
    Empty,
    One(Target),
    Several(Vec<Target>),
}

impl Leaf {
    fn targets(&self) -> &[Target] {
        match self {
            Self::Empty => &[],
            Self::One(target) => std::slice::from_ref(target),
            Self::Several(targets) => targets,
        }
    }
    pub(crate) fn push(&mut self, target: Target) -> u32 {
        match self {
            Self::Empty => *self = Self::One(target),
            Self::One(first) => *self = Self::Several(vec![*first, target]),
            Self::Several(targets) => targets.push(target),
        }
        self.len() as u32 - 1
    }
    /// Removes what is at `pos`; returns the binding that moved there from the end, if one did.
    pub(crate) fn remove(&mut self, pos: u32) -> Option<u32> {
        let pos = pos as usize;
        match self {
            Self::One(_) if pos == 0 => *self = Self::Empty,
            Self::Several(targets) if pos < targets.len() => {
                targets.swap_remove(pos);
                if let [last] = targets[..] {
                    *self = Self::One(last);
                }
            }
            _ => {}
        }
        self.get(pos).map(|t| t.binding)
    }
    pub(crate) fn len(&self) -> usize {
        self.targets().len()
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.targets().is_empty()
    }
    pub(crate) fn get(&self, pos: usize) -> Option<Target> {
        self.targets().get(pos).copied()
    }
    pub(crate) fn last(&self) -> Option<Target> {
        self.targets().last().copied()
    }
    pub(crate) fn iter(&self) -> impl Iterator<Item = Target> {
        self.targets().iter().copied()
    }
}

/// Where a router keeps a binding: a leaf of its own numbering and the position in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Place {
    pub(crate) leaf: u32,
    pub(crate) pos: u32,
}

/// A binding while it is put in or taken out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BindingRef<'a> {
    pub(crate) target: Target,
    pub(crate) key: &'a ShortStr,
    pub(crate) arguments: &'a FieldTable,
    pub(crate) destination: &'a ShortStr,
    /// Grows with each binding of the vhost: the order of binding.
    pub(crate) seq: u64,
}

/// What a router looks at when it selects.
#[derive(Debug)]
pub(crate) struct Look<'a, 'b> {
    pub(crate) input: &'a RouteInput<'b>,
    pub(crate) outgoing: &'a Leaf,
    pub(crate) rng: &'a mut Rng,
}

/// The part of an exchange that depends on its type.
#[derive(Debug)]
pub(crate) enum Router {
    /// The default exchange: the caller knows queues by name.
    Default,
    Direct(direct::Direct),
    Fanout,
    Topic(topic::Topic),
    Headers(headers::Headers),
    ConsistentHash(consistent_hash::ConsistentHash),
    ModulusHash(modulus_hash::ModulusHash),
    Random,
    LocalRandom,
    RecentHistory(recent_history::RecentHistory),
    Delayed(Kind, Box<Router>),
}

impl Router {
    pub(crate) fn new(kind: Kind, arguments: &FieldTable) -> Self {
        match kind {
            Kind::Direct => Self::Direct(direct::Direct::default()),
            Kind::Fanout => Self::Fanout,
            Kind::Topic => Self::Topic(topic::Topic::default()),
            Kind::Headers => Self::Headers(headers::Headers::default()),
            Kind::ConsistentHash => Self::ConsistentHash(consistent_hash::ConsistentHash::new(arguments)),
            Kind::ModulusHash => Self::ModulusHash(modulus_hash::ModulusHash::default()),
            Kind::Random => Self::Random,
            Kind::LocalRandom => Self::LocalRandom,
            Kind::RecentHistory => Self::RecentHistory(recent_history::RecentHistory::new(arguments)),
            Kind::Delayed => {
                // `declare` has refused a missing or recursive inner type; a damaged record falls back to direct
                let inner = delayed::inner_kind(arguments).unwrap_or(Kind::Direct);
                Self::Delayed(inner, Box::new(Self::new(inner, arguments)))
            }
        }
    }

    /// Type-specific refusal of a binding (406).
    pub(crate) fn check_bind(&self, key: &str, arguments: &FieldTable, to: BindTo<'_>) -> Result<(), AmqpError> {
        match self {
            Self::Topic(_) => topic::check_key(key),
            Self::Headers(_) => headers::check_arguments(arguments),
            Self::ConsistentHash(_) => consistent_hash::check_key(key),
            Self::LocalRandom => fanout::check_local_random(key, to),
            Self::Delayed(_, inner) => inner.check_bind(key, arguments, to),
            _ => Ok(()),
        }
    }

    pub(crate) fn insert(&mut self, b: BindingRef<'_>) -> Place {
        match self {
            Self::Direct(r) => r.insert(b),
            Self::Topic(r) => r.insert(b),
            Self::Headers(r) => r.insert(b),
            Self::ConsistentHash(r) => r.insert(b),
            Self::ModulusHash(r) => r.insert(b),
            Self::Delayed(_, inner) => inner.insert(b),
            Self::Default | Self::Fanout | Self::Random | Self::LocalRandom | Self::RecentHistory(_) => {
                Place::default()
            }
        }
    }

    /// Takes a binding out; returns the binding that moved to its place, if one did.
    pub(crate) fn remove(&mut self, b: BindingRef<'_>, place: Place) -> Option<u32> {
        match self {
            Self::Direct(r) => r.remove(b, place),
            Self::Topic(r) => r.remove(place),
            Self::Headers(r) => r.remove(place),
            Self::ConsistentHash(r) => r.remove(b),
            Self::ModulusHash(r) => r.remove(b),
            Self::Delayed(_, inner) => inner.remove(b, place),
            Self::Default | Self::Fanout | Self::Random | Self::LocalRandom | Self::RecentHistory(_) => None,
        }
    }

    /// Gives every selected target to `sink`, some perhaps more than once; says how many things it looked at beside them.
    pub(crate) fn select(&mut self, look: Look<'_, '_>, sink: &mut impl FnMut(Node)) -> u32 {
        match self {
            Self::Topic(r) => return r.select(look.input, sink),
            Self::Headers(r) => return r.select(look.input, sink),
            Self::Delayed(_, inner) => return inner.select(look, sink),
            Self::Default => {}
            Self::Direct(r) => r.select(look.input, sink),
            Self::Fanout | Self::RecentHistory(_) => fanout::all(look.outgoing, sink),
            Self::ConsistentHash(r) => r.select(look.input, sink),
            Self::ModulusHash(r) => r.select(look.input, sink),
            Self::Random | Self::LocalRandom => fanout::one(look.outgoing, look.rng, sink),
        }
        0
    }

    /// The history, for that kind alone or inside a delayed exchange.
    pub(crate) fn history(&self) -> Option<&recent_history::RecentHistory> {
        match self {
            Self::RecentHistory(r) => Some(r),
            Self::Delayed(_, inner) => inner.history(),
            _ => None,
        }
    }
    pub(crate) fn history_mut(&mut self) -> Option<&mut recent_history::RecentHistory> {
        match self {
            Self::RecentHistory(r) => Some(r),
            Self::Delayed(_, inner) => inner.history_mut(),
            _ => None,
        }
    }
}

/// What kind of thing a binding leads to, as far as a refusal may depend on it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum BindTo<'a> {
    /// A queue of this `x-queue-type`.
    Queue(&'a str),
    Exchange,
}

/// Octets in the way Erlang prints a binary in error texts.
pub(crate) fn erlang_binary(octets: &[u8]) -> String {
    match std::str::from_utf8(octets) {
        Ok(text) if !text.is_empty() && !text.chars().any(char::is_control) => format!("<<\"{text}\">>"),
        _ => {
            let list: Vec<String> = octets.iter().map(u8::to_string).collect();
            format!("<<{}>>", list.join(","))
        }
    }
}

/// A hash that stays the same over restarts and builds: FNV-1a, mixed.
pub(crate) fn stable_hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325u64;
    for part in parts {
        for &b in part {
            h = (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        // ends each part, so that ("ab", "c") and ("a", "bc") differ; 0x1ff is no octet
        h = (h ^ 0x1ff).wrapping_mul(0x0000_0100_0000_01b3);
    }
    crate::rng::mix(h)
}

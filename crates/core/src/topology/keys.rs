//! Which bindings are there: by the hash of what identifies them. A table that grows puts in anew all it holds, which takes a moment
//! where it holds numbers alone; with the keys themselves it would read the texts of each.

use super::{Binding, Destination, ExchangeId, Topology};
use hornpipe_types::definition::BindingDefinition;
use hornpipe_types::names::ShortStr;
use std::hash::BuildHasher;

/// The identity of a binding: source, destination, routing key, arguments sorted by key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct BindingKey {
    pub(super) source: ExchangeId,
    pub(super) destination: Destination,
    routing_key: ShortStr,
    arguments: Box<[u8]>,
}

impl BindingKey {
    pub(super) fn new(source: ExchangeId, b: &BindingDefinition, destination: Destination) -> Self {
        let mut arguments = Vec::new();
        if !b.arguments.is_empty() {
            b.arguments.sorted().encode_pairs(&mut arguments);
        }
        Self { source, destination, routing_key: b.routing_key.clone(), arguments: arguments.into() }
    }
}

impl Topology {
    fn hash(&self, key: &BindingKey) -> u64 {
        self.by_key.hasher().hash_one(key)
    }

    /// The slot of the binding with that key.
    pub(super) fn find_binding(&self, key: &BindingKey) -> Option<u32> {
        let mut slot = *self.by_key.get(&self.hash(key))?;
        loop {
            let binding = self.binding(slot)?;
            if binding.key == *key {
                return Some(slot);
            }
            slot = binding.next?;
        }
    }

    /// Takes a binding, which is in its slot no more, out of those with the same hash.
    pub(super) fn forget_key(&mut self, slot: u32, binding: &Binding) {
        let hash = self.hash(&binding.key);
        let Some(&first) = self.by_key.get(&hash) else { return };
        if first == slot {
            match binding.next {
                Some(next) => self.by_key.insert(hash, next),
                None => self.by_key.remove(&hash),
            };
            return;
        }
        let mut at = Some(first);
        while let Some(before) = at.and_then(|at| self.binding_mut(at)) {
            if before.next == Some(slot) {
                before.next = binding.next;
                return;
            }
            at = before.next;
        }
    }

    /// Puts a binding in front of those with the same hash; gives them back.
    pub(super) fn put_key(&mut self, key: &BindingKey, slot: u32) -> Option<u32> {
        self.by_key.insert(self.hash(key), slot)
    }
}

//! Which bindings are there: by the hash of what identifies them. A table that grows puts in anew all it holds, which takes a moment
//! where it holds numbers alone; with the keys themselves it would read the texts of each.

use super::{Destination, ExchangeId, Topology};
use hashbrown::HashTable;
use hornpipe_types::Hasher;
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

/// The slots of bindings, each with the hash of its key.
#[derive(Debug, Default)]
pub(super) struct Keys(HashTable<(u64, u32)>);

impl Keys {
    pub(super) fn put(&mut self, key: &BindingKey, slot: u32) {
        let hash = Hasher::default().hash_one(key);
        self.0.insert_unique(hash, (hash, slot), |(hash, _)| *hash);
    }

    pub(super) fn forget(&mut self, key: &BindingKey, slot: u32) {
        let hash = Hasher::default().hash_one(key);
        if let Ok(entry) = self.0.find_entry(hash, |entry| *entry == (hash, slot)) {
            entry.remove();
        }
    }

    /// How many bindings there are, and how many hashes.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        let hashes: std::collections::BTreeSet<_> = self.0.iter().map(|(hash, _)| hash).collect();
        (self.0.len(), hashes.len())
    }
}

impl Topology {
    /// The slot of the binding with that key.
    pub(super) fn find_binding(&self, key: &BindingKey) -> Option<u32> {
        let is_it = |slot| self.binding(slot).is_some_and(|binding| binding.key == *key);
        let hash = Hasher::default().hash_one(key);
        let found = self.by_key.0.find(hash, |&(other, slot)| other == hash && is_it(slot));
        found.map(|(_, slot)| *slot)
    }
}

//! x-modulus-hash: the hash of the routing keys modulo the number of bindings, over sorted destinations.

use super::{BindingRef, Node, Place, stable_hash};
use crate::topology::RouteInput;
use hornpipe_types::names::ShortStr;
use std::collections::BTreeMap;

/// Bindings sorted by destination; a flat copy is made at the first message after a change.
#[derive(Debug, Default)]
pub(crate) struct ModulusHash {
    sorted: BTreeMap<(ShortStr, bool, u32), Node>,
    flat: Vec<Node>,
    stale: bool,
}

fn sort_key(b: BindingRef<'_>) -> (ShortStr, bool, u32) {
    (b.destination.clone(), matches!(b.target.node, Node::Queue(_)), b.target.binding)
}

impl ModulusHash {
    pub(crate) fn insert(&mut self, b: BindingRef<'_>) -> Place {
        self.sorted.insert(sort_key(b), b.target.node);
        self.stale = true;
        Place::default()
    }

    pub(crate) fn remove(&mut self, b: BindingRef<'_>) -> Option<u32> {
        self.sorted.remove(&sort_key(b));
        self.stale = true;
        None
    }

    pub(crate) fn select(&mut self, input: &RouteInput<'_>, sink: &mut impl FnMut(Node)) {
        if self.stale {
            self.flat.clear();
            self.flat.extend(self.sorted.values());
            self.stale = false;
        }
        if self.flat.is_empty() {
            return;
        }
        let hash = stable_hash(input.keys.iter().map(|k| k.as_bytes()));
        sink(self.flat[(hash % self.flat.len() as u64) as usize]);
    }
}

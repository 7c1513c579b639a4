//! direct: binding key equals routing key [spec §3.1.3.1].

use super::{BindingRef, Leaf, Node, Place};
use crate::steps::StepMap;
use crate::topology::RouteInput;
use hornpipe_types::names::ShortStr;

/// Bindings by key.
#[derive(Debug, Default)]
pub(crate) struct Direct {
    by_key: StepMap<ShortStr, Leaf>,
}

impl Direct {
    pub(crate) fn insert(&mut self, b: BindingRef<'_>) -> Place {
        let pos = match self.by_key.get_mut(b.key.as_str()) {
            Some(leaf) => leaf.push(b.target),
            None => {
                let mut leaf = Leaf::default();
                let pos = leaf.push(b.target);
                self.by_key.insert(b.key.clone(), leaf);
                pos
            }
        };
        Place { leaf: 0, pos }
    }

    pub(crate) fn remove(&mut self, b: BindingRef<'_>, place: Place) -> Option<u32> {
        let leaf = self.by_key.get_mut(b.key.as_str())?;
        let moved = leaf.remove(place.pos);
        if leaf.is_empty() {
            self.by_key.remove(b.key.as_str());
        }
        moved
    }

    pub(crate) fn select(&self, input: &RouteInput<'_>, sink: &mut impl FnMut(Node)) {
        for key in input.keys {
            if let Some(leaf) = self.by_key.get(*key) {
                leaf.iter().for_each(|t| sink(t.node));
            }
        }
    }
}

//! The table of logged runs, and lists of their ids.
//!
//! Ids count up by one, so a page of consecutive ones is an array: the runs of one group lie side by side, nothing is hashed
//! where messages come and go at once, and the table grows by a page, never by moving all it has. What outlives its
//! neighbours is put together in a smaller page.

use hornpipe_types::Map;
use hornpipe_types::ids::EnqueueId;

/// Ids of a page: those that differ in their last octet only.
const PAGE: usize = 256;

/// Values by id. Ids are given out in order: each is above all before.
#[derive(Debug)]
pub(super) struct Runs<T> {
    /// The page that takes the next ones, and its number.
    newest: Page<T>,
    number: u64,
    /// Pages with something in them.
    older: Map<u64, Page<T>>,
    len: usize,
}

impl<T> Default for Runs<T> {
    fn default() -> Self {
        Self { newest: Page::default(), number: 0, older: Map::default(), len: 0 }
    }
}

/// A stretch of ids with room for a value each, or, once most of them are gone, those that are left.
#[derive(Debug)]
struct Page<T> {
    /// Last octets of the ids that are left, in order. Empty: the ids are consecutive from `first` on.
    left: Box<[u8]>,
    first: u8,
    live: u16,
    slots: Vec<Option<T>>,
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Self { left: Box::default(), first: 0, live: 0, slots: Vec::new() }
    }
}

impl<T> Page<T> {
    fn index(&self, low: u8) -> Option<usize> {
        if self.left.is_empty() {
            low.checked_sub(self.first).map(usize::from)
        } else {
            self.left.binary_search(&low).ok()
        }
    }
    fn get(&self, low: u8) -> Option<&T> {
        self.slots.get(self.index(low)?)?.as_ref()
    }
    fn get_mut(&mut self, low: u8) -> Option<&mut T> {
        let index = self.index(low)?;
        self.slots.get_mut(index)?.as_mut()
    }
    fn remove(&mut self, low: u8) -> Option<T> {
        let index = self.index(low)?;
        let value = self.slots.get_mut(index)?.take()?;
        self.live -= 1;
        Some(value)
    }
    fn is_sparse(&self) -> bool {
        usize::from(self.live) * 2 <= self.slots.len()
    }
    /// Gives back the room of what is gone.
    fn shrink(&mut self) {
        let low = |index: usize| self.left.get(index).copied().unwrap_or(self.first.wrapping_add(index as u8));
        let left = self.slots.iter().enumerate().filter(|(_, slot)| slot.is_some()).map(|(k, _)| low(k)).collect();
        self.left = left;
        self.slots.retain(Option::is_some);
        self.slots.shrink_to_fit();
    }
    fn iter(&self) -> impl Iterator<Item = (u8, &T)> {
        self.slots.iter().enumerate().filter_map(|(k, slot)| {
            let low = self.left.get(k).copied().unwrap_or(self.first.wrapping_add(k as u8));
            Some((low, slot.as_ref()?))
        })
    }
}

fn split(id: EnqueueId) -> (u64, u8) {
    (id.0 / PAGE as u64, (id.0 % PAGE as u64) as u8)
}

impl<T> Runs<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn page(&self, number: u64) -> Option<&Page<T>> {
        if number == self.number { Some(&self.newest) } else { self.older.get(&number) }
    }

    pub(super) fn get(&self, id: EnqueueId) -> Option<&T> {
        let (number, low) = split(id);
        self.page(number)?.get(low)
    }

    pub(super) fn get_mut(&mut self, id: EnqueueId) -> Option<&mut T> {
        let (number, low) = split(id);
        if number == self.number { &mut self.newest } else { self.older.get_mut(&number)? }.get_mut(low)
    }

    pub(super) fn contains(&self, id: EnqueueId) -> bool {
        self.get(id).is_some()
    }

    /// The first id from `id` on that may be there: nothing is looked at where whole pages are gone.
    pub(super) fn gone_until(&self, id: EnqueueId) -> EnqueueId {
        match self.page(split(id).0) {
            Some(_) if self.contains(id) => id,
            Some(_) => id.next(),
            None => EnqueueId((split(id).0 + 1) * PAGE as u64),
        }
    }

    /// Adds the value of the id that follows the one added last.
    pub(super) fn push(&mut self, id: EnqueueId, value: T) {
        let (number, low) = split(id);
        if number != self.number {
            self.turn_page(number);
        }
        let page = &mut self.newest;
        if page.slots.is_empty() {
            page.first = low;
        }
        debug_assert_eq!(page.index(low), Some(page.slots.len()), "ids count up by one");
        page.slots.push(Some(value));
        page.live += 1;
        self.len += 1;
    }

    fn turn_page(&mut self, number: u64) {
        debug_assert!(number > self.number, "ids count up");
        if self.newest.live > 0 {
            let mut full =
                std::mem::replace(&mut self.newest, Page { slots: Vec::with_capacity(PAGE), ..Page::default() });
            if full.is_sparse() {
                full.shrink();
            }
            self.older.insert(self.number, full);
        }
        self.newest.slots.clear();
        self.number = number;
    }

    pub(super) fn remove(&mut self, id: EnqueueId) -> Option<T> {
        let (number, low) = split(id);
        if number == self.number {
            let value = self.newest.remove(low)?;
            self.len -= 1;
            if self.newest.live == 0 {
                self.newest.slots.clear();
            }
            return Some(value);
        }
        let page = self.older.get_mut(&number)?;
        let value = page.remove(low)?;
        self.len -= 1;
        if page.live == 0 {
            self.older.remove(&number);
        } else if page.is_sparse() {
            page.shrink();
        }
        Some(value)
    }

    /// All of them, in no order that means anything.
    pub(super) fn iter(&self) -> impl Iterator<Item = (EnqueueId, &T)> {
        let pages = self.older.iter().map(|(n, page)| (*n, page)).chain([(self.number, &self.newest)]);
        pages.flat_map(|(n, page)| page.iter().map(move |(low, v)| (EnqueueId(n * PAGE as u64 + u64::from(low)), v)))
    }
}

/// Ids in the order they were added, as stretches of consecutive ones.
#[derive(Debug, Default)]
pub(super) struct Ids {
    stretches: Vec<(EnqueueId, u32)>,
}

impl Ids {
    pub(super) fn push(&mut self, id: EnqueueId) {
        if let Some((first, count)) = self.stretches.last_mut()
            && first.0 + u64::from(*count) == id.0
            && *count < u32::MAX
        {
            *count += 1;
            return;
        }
        self.stretches.push((id, 1));
    }
    /// Forgets those at the front that are not in a table any more.
    pub(super) fn drop_front<T>(&mut self, runs: &Runs<T>) {
        let mut done = 0;
        for (first, count) in &mut self.stretches {
            while *count > 0 && !runs.contains(*first) {
                let next = runs.gone_until(*first).0.min(first.0 + u64::from(*count));
                *count -= (next - first.0) as u32;
                *first = EnqueueId(next);
            }
            if *count > 0 {
                break;
            }
            done += 1;
        }
        self.stretches.drain(..done);
    }
    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.stretches.iter().map(|(_, count)| u64::from(*count)).sum()
    }
    /// Those that are in a table.
    pub(super) fn within<T>(&self, runs: &Runs<T>) -> impl Iterator<Item = EnqueueId> {
        self.stretches.iter().flat_map(move |(first, count)| {
            let (mut at, end) = (*first, first.0 + u64::from(*count));
            std::iter::from_fn(move || {
                while at.0 < end && !runs.contains(at) {
                    at = runs.gone_until(at);
                }
                let found = (at.0 < end).then_some(at);
                at = at.next();
                found
            })
        })
    }
    pub(super) fn iter(&self) -> impl Iterator<Item = EnqueueId> {
        self.stretches.iter().flat_map(|(first, count)| (first.0..first.0 + u64::from(*count)).map(EnqueueId))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Whatever is added and removed, in whatever order, the table has what a map has, and no page without anything.
        #[test]
        fn the_table_is_a_map(first in 0u64..600, steps in prop::collection::vec((1u64..400, 0u64..8, any::<u64>()), 1..12)) {
            let (mut runs, mut model) = (Runs::default(), BTreeMap::new());
            let mut next = first;
            for (added, kept, salt) in steps {
                for id in next..next + added {
                    runs.push(EnqueueId(id), id);
                    model.insert(id, id);
                }
                next += added;
                let keeps = |id: u64| id.wrapping_mul(salt | 1).rotate_left(32) % 8 < kept;
                for id in first..next {
                    if keeps(id) {
                        if let Some(value) = runs.get_mut(EnqueueId(id)) { *value += 1; }
                        model.entry(id).and_modify(|v| *v += 1);
                    } else {
                        prop_assert_eq!(runs.remove(EnqueueId(id)), model.remove(&id));
                    }
                }
                prop_assert_eq!(runs.len(), model.len());
                for id in first.saturating_sub(2)..next + 2 {
                    prop_assert_eq!(runs.get(EnqueueId(id)), model.get(&id));
                    prop_assert_eq!(runs.contains(EnqueueId(id)), model.contains_key(&id));
                }
                let all: BTreeMap<u64, u64> = runs.iter().map(|(id, v)| (id.0, *v)).collect();
                prop_assert_eq!(&all, &model);
                prop_assert!(runs.older.values().all(|p| p.live > 0 && p.slots.capacity() <= PAGE));
                let slots: usize = runs.older.values().map(|p| p.slots.len()).sum();
                prop_assert!(slots <= 2 * runs.len(), "{slots} for {}", runs.len());
            }
        }

        #[test]
        fn ids_come_back_as_they_were_added(ids in prop::collection::vec((0u64..100, 1u64..5), 0..20)) {
            let given: Vec<EnqueueId> = ids.iter().flat_map(|(a, n)| (*a..a + n).map(EnqueueId)).collect();
            let mut list = Ids::default();
            given.iter().for_each(|id| list.push(*id));
            prop_assert_eq!(list.count(), given.len() as u64);
            prop_assert_eq!(list.iter().collect::<Vec<_>>(), given);
        }

        #[test]
        fn ids_that_are_gone_are_left_out(upto in 1u64..2000, lives in prop::collection::btree_set(0u64..2000, 0..40), step in 1usize..4) {
            let mut runs = Runs::default();
            (0..upto).for_each(|id| runs.push(EnqueueId(id), ()));
            for id in (0..upto).filter(|id| !lives.contains(id)) { runs.remove(EnqueueId(id)); }
            let mut list = Ids::default();
            (0..upto).step_by(step).for_each(|id| list.push(EnqueueId(id)));
            let left: Vec<EnqueueId> = list.iter().filter(|id| lives.contains(&id.0)).collect();
            prop_assert_eq!(list.within(&runs).collect::<Vec<_>>(), left.clone());
            list.drop_front(&runs);
            prop_assert_eq!(list.iter().next(), left.first().copied());
            prop_assert_eq!(list.within(&runs).collect::<Vec<_>>(), left);
        }
    }
}

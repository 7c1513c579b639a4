//! A hash map that grows in small steps, for tables of names: a plain one puts all it holds in anew each time it doubles, and reads every
//! text for that, which took 29 ms at 230 000 queues, in the turn of whoever declared one more.
//!
//! It is cut into parts, and each time there are too many entries for their number one part is split in two: parts are split in turn, so
//! that after each round there are twice as many. (Linear hashing, W. Litwin 1980.) A part is a plain table of at most some thousand entries.

use hashbrown::HashTable;
use hornpipe_types::Hasher;
use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash};

/// Entries of a part on average, above which one is split.
const PART: usize = 512;

/// See above. The order of its entries means nothing.
#[derive(Debug)]
pub(crate) struct StepMap<K, V> {
    parts: Vec<HashTable<(K, V)>>,
    len: usize,
}

impl<K, V> Default for StepMap<K, V> {
    fn default() -> Self {
        Self { parts: Vec::new(), len: 0 }
    }
}

fn hash_of<Q: Hash + ?Sized>(key: &Q) -> u64 {
    Hasher::default().hash_one(key)
}

/// Which of so many parts a key is in. The tables go by the lowest bits and the highest ones.
fn part_of(hash: u64, parts: usize) -> usize {
    let bits = (hash >> 24) as usize & 0xffff_ffff;
    let all = parts.next_power_of_two();
    let part = bits & (all - 1);
    if part < parts { part } else { part & (all / 2).saturating_sub(1) }
}

impl<K: Hash + Eq, V> StepMap<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let hash = hash_of(key);
        let part = self.parts.get(part_of(hash, self.parts.len()))?;
        part.find(hash, |(k, _)| k.borrow() == key).map(|(_, value)| value)
    }

    pub(crate) fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let hash = hash_of(key);
        let of = part_of(hash, self.parts.len());
        self.parts.get_mut(of)?.find_mut(hash, |(k, _)| k.borrow() == key).map(|(_, value)| value)
    }

    pub(crate) fn contains_key<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// What the key had before, if anything.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if let Some(known) = self.get_mut(&key) {
            return Some(std::mem::replace(known, value));
        }
        if self.len >= self.parts.len() * PART {
            self.split();
        }
        self.len += 1;
        self.put(key, value);
        None
    }

    pub(crate) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let hash = hash_of(key);
        let of = part_of(hash, self.parts.len());
        let entry = self.parts.get_mut(of)?.find_entry(hash, |(k, _)| k.borrow() == key).ok()?;
        let ((_, value), _) = entry.remove();
        self.len -= 1;
        Some(value)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.parts.iter().flat_map(|part| part.iter()).map(|(_, value)| value)
    }

    /// Puts in what is not there.
    fn put(&mut self, key: K, value: V) {
        let hash = hash_of(&key);
        let of = part_of(hash, self.parts.len());
        if let Some(part) = self.parts.get_mut(of) {
            part.insert_unique(hash, (key, value), |(key, _)| hash_of(key));
        }
    }

    /// Adds a part, which gets its half of another.
    fn split(&mut self) {
        let parts = self.parts.len();
        // where its entries are so far: the highest bit of its number does not count yet
        let from = parts.checked_ilog2().map_or(0, |bit| parts - (1 << bit));
        let entries = self.parts.get_mut(from).map(std::mem::take).unwrap_or_default();
        self.parts.push(HashTable::new());
        entries.into_iter().for_each(|(key, value)| self.put(key, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use std::cell::Cell;
    use std::collections::BTreeMap;

    thread_local! {
        static HASHED: Cell<usize> = const { Cell::new(0) };
    }

    /// Counts how often it is hashed.
    #[derive(PartialEq, Eq)]
    struct Counted(String);
    impl Hash for Counted {
        fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
            HASHED.set(HASHED.get() + 1);
            state.write(self.0.as_bytes());
        }
    }

    #[test]
    fn no_insertion_puts_in_anew_more_than_some_parts() {
        let mut map = StepMap::default();
        let mut most = 0;
        for n in 0..200_000 {
            HASHED.set(0);
            map.insert(Counted(format!("queue-{n}")), n);
            most = most.max(HASHED.get());
        }
        assert!(most < 6 * PART, "{most}");
        assert_eq!(map.len(), 200_000);
        assert_eq!(map.get(&Counted("queue-77777".to_owned())), Some(&77_777));
    }

    #[test]
    fn it_holds_what_a_sorted_map_holds() {
        let mut rng = Rng::new(7);
        let (mut map, mut model) = (StepMap::default(), BTreeMap::new());
        // grows, shrinks, and grows again
        for (rounds, removals) in [(30_000, 2), (30_000, 8), (30_000, 1)] {
            for n in 0..rounds {
                let key = rng.below(20_000);
                if rng.below(10) < removals {
                    assert_eq!(map.remove(&key), model.remove(&key));
                } else {
                    assert_eq!(map.insert(key, n), model.insert(key, n));
                }
                assert_eq!(map.len(), model.len());
            }
            let mut values: Vec<_> = map.values().copied().collect();
            let mut expected: Vec<_> = model.values().copied().collect();
            values.sort_unstable();
            expected.sort_unstable();
            assert_eq!(values, expected);
            for key in 0..20_000 {
                assert_eq!(map.get(&key), model.get(&key));
                assert_eq!(map.contains_key(&key), model.contains_key(&key));
            }
        }
    }
}

//! A deque in chunks of bounded size: neither growing nor shrinking nor inserting ever moves more than one chunk, however
//! long it is. A plain deque of ten million entries is copied as a whole when it grows and given back to the system as a
//! whole when it goes, and everybody waits for that.

use std::collections::VecDeque;

/// Entries of a chunk.
const CHUNK: usize = 256;

/// A place in a [`Chunked`]; any change before it makes it meaningless.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct At {
    chunk: usize,
    index: usize,
}

/// See the module's documentation. No chunk is empty but for a sole one, which is kept for its room.
#[derive(Debug, Clone)]
pub(crate) struct Chunked<T> {
    chunks: VecDeque<VecDeque<T>>,
    len: usize,
}

impl<T> Default for Chunked<T> {
    fn default() -> Self {
        Self { chunks: VecDeque::new(), len: 0 }
    }
}

impl<T> Chunked<T> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }
    pub(crate) fn front(&self) -> Option<&T> {
        self.chunks.front()?.front()
    }
    pub(crate) fn front_mut(&mut self) -> Option<&mut T> {
        self.chunks.front_mut()?.front_mut()
    }
    pub(crate) fn back(&self) -> Option<&T> {
        self.chunks.back()?.back()
    }
    pub(crate) fn back_mut(&mut self) -> Option<&mut T> {
        self.chunks.back_mut()?.back_mut()
    }

    pub(crate) fn push_back(&mut self, value: T) {
        self.len += 1;
        match self.chunks.back_mut() {
            Some(chunk) if chunk.len() < CHUNK => chunk.push_back(value),
            _ => self.chunks.push_back(VecDeque::from([value])),
        }
    }
    pub(crate) fn push_front(&mut self, value: T) {
        self.len += 1;
        match self.chunks.front_mut() {
            Some(chunk) if chunk.len() < CHUNK => chunk.push_front(value),
            _ => self.chunks.push_front(VecDeque::from([value])),
        }
    }
    pub(crate) fn pop_front(&mut self) -> Option<T> {
        let alone = self.chunks.len() == 1;
        let chunk = self.chunks.front_mut()?;
        let value = chunk.pop_front()?;
        self.len -= 1;
        if alone {
            give_back(chunk);
        } else if chunk.is_empty() {
            self.chunks.pop_front();
        }
        Some(value)
    }

    /// The first place.
    pub(crate) fn start(&self) -> At {
        At { chunk: 0, index: 0 }
    }
    /// The place after the last entry.
    pub(crate) fn end(&self) -> At {
        match self.chunks.back() {
            Some(chunk) => At { chunk: self.chunks.len() - 1, index: chunk.len() },
            None => self.start(),
        }
    }
    pub(crate) fn get(&self, at: At) -> Option<&T> {
        self.chunks.get(at.chunk)?.get(at.index)
    }
    pub(crate) fn get_mut(&mut self, at: At) -> Option<&mut T> {
        self.chunks.get_mut(at.chunk)?.get_mut(at.index)
    }
    /// The place after `at`, which holds an entry.
    pub(crate) fn next(&self, at: At) -> At {
        let next = At { index: at.index + 1, ..at };
        let full = self.chunks.get(at.chunk).is_none_or(|c| next.index >= c.len());
        if full && at.chunk + 1 < self.chunks.len() { At { chunk: at.chunk + 1, index: 0 } } else { next }
    }
    /// The place before `at`.
    pub(crate) fn previous(&self, at: At) -> Option<At> {
        if at.index > 0 {
            return Some(At { index: at.index - 1, ..at });
        }
        let chunk = at.chunk.checked_sub(1)?;
        Some(At { chunk, index: self.chunks.get(chunk)?.len().checked_sub(1)? })
    }
    /// The first place whose entry does not satisfy `before`, which holds for a head of the list and for nothing else.
    pub(crate) fn partition_point(&self, mut before: impl FnMut(&T) -> bool) -> At {
        let chunk = self.chunks.partition_point(|c| c.back().is_some_and(&mut before));
        match self.chunks.get(chunk) {
            Some(entries) => At { chunk, index: entries.partition_point(before) },
            None => self.end(),
        }
    }

    /// `at`, or the start of the next chunk where `at` is the end of one.
    fn normal(&self, at: At) -> At {
        let ends = self.chunks.get(at.chunk).is_some_and(|c| at.index >= c.len());
        if ends && at.chunk + 1 < self.chunks.len() { At { chunk: at.chunk + 1, index: 0 } } else { at }
    }
    /// Puts an entry before the one at `at`; its own place is returned.
    pub(crate) fn insert(&mut self, mut at: At, value: T) -> At {
        self.len += 1;
        if self.chunks.is_empty() {
            self.chunks.push_back(VecDeque::new());
        }
        if let Some(chunk) = self.chunks.get_mut(at.chunk)
            && chunk.len() >= CHUNK
        {
            let half = chunk.len() / 2;
            let tail = chunk.split_off(half);
            self.chunks.insert(at.chunk + 1, tail);
            if at.index > half {
                at = At { chunk: at.chunk + 1, index: at.index - half };
            }
        }
        if let Some(chunk) = self.chunks.get_mut(at.chunk) {
            at.index = at.index.min(chunk.len());
            chunk.insert(at.index, value);
        }
        at
    }
    /// Takes the entry at `at` out; the place of what followed it is returned too.
    pub(crate) fn remove(&mut self, at: At) -> Option<(T, At)> {
        let chunk = self.chunks.get_mut(at.chunk)?;
        let value = chunk.remove(at.index)?;
        give_back(chunk);
        self.len -= 1;
        if chunk.is_empty() && self.chunks.len() > 1 {
            self.chunks.remove(at.chunk);
            return Some((value, if at.chunk < self.chunks.len() { At { index: 0, ..at } } else { self.end() }));
        }
        Some((value, self.normal(at)))
    }

    /// Splits off the entries before `at`, which keep their order; whole chunks change hands.
    pub(crate) fn take_head(&mut self, at: At) -> Self {
        let mut chunks: VecDeque<VecDeque<T>> = self.chunks.drain(..at.chunk.min(self.chunks.len())).collect();
        if at.index > 0
            && let Some(chunk) = self.chunks.front_mut()
        {
            chunks.push_back(chunk.drain(..at.index.min(chunk.len())).collect());
            if chunk.is_empty() && self.chunks.len() > 1 {
                self.chunks.pop_front();
            }
        }
        let len = chunks.iter().map(VecDeque::len).sum();
        self.len -= len;
        Self { chunks, len }
    }
    /// Adds the entries of another one behind its own; whole chunks change hands.
    pub(crate) fn append(&mut self, mut other: Self) {
        if self.is_empty() {
            *self = other;
        } else if !other.is_empty() {
            self.len += other.len;
            self.chunks.append(&mut other.chunks);
        }
    }
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.chunks.iter().flatten()
    }
}

/// Gives room back that entries left which are gone: a broker may have many short lists.
fn give_back<T>(chunk: &mut VecDeque<T>) {
    const KEPT: usize = 8;
    if chunk.capacity() > KEPT && chunk.len() < chunk.capacity() / 4 {
        chunk.shrink_to((2 * chunk.len()).max(KEPT));
    }
}

impl<T> FromIterator<T> for Chunked<T> {
    fn from_iter<I: IntoIterator<Item = T>>(entries: I) -> Self {
        let mut all = Self::default();
        entries.into_iter().for_each(|entry| all.push_back(entry));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a plain vector, with chunks that split, run empty and are walked over.
        #[test]
        fn behaves_as_a_sorted_vector(
            start in 0u32..1500,
            ops in prop::collection::vec((0u8..8, 0u32..4000), 1..300),
        ) {
            let mut list: Chunked<u32> = (0..start).map(|i| i * 2).collect();
            let mut model: Vec<u32> = (0..start).map(|i| i * 2).collect();
            for (op, value) in ops {
                let k = model.partition_point(|v| *v < value);
                let at = list.partition_point(|v| *v < value);
                prop_assert_eq!(list.get(at), model.get(k));
                prop_assert_eq!(list.previous(at).and_then(|p| list.get(p)), k.checked_sub(1).and_then(|k| model.get(k)));
                match op {
                    0 | 1 if model.get(k) != Some(&value) => {
                        let own = list.insert(at, value);
                        model.insert(k, value);
                        prop_assert_eq!(list.get(own), Some(&value));
                        prop_assert_eq!(list.get(list.next(own)), model.get(k + 1));
                    }
                    2 if k < model.len() => {
                        let removed = list.remove(at);
                        prop_assert_eq!(removed.map(|(v, next)| (v, list.get(next).copied())), Some((model.remove(k), model.get(k).copied())));
                    }
                    3 => {
                        let head = list.take_head(at);
                        prop_assert_eq!(head.iter().copied().collect::<Vec<_>>(), model.drain(..k).collect::<Vec<_>>());
                        prop_assert_eq!(head.len(), k);
                    }
                    7 => {
                        let mut head = list.take_head(at);
                        head.append(std::mem::take(&mut list));
                        list = head;
                    }
                    4 => prop_assert_eq!(list.pop_front(), (!model.is_empty()).then(|| model.remove(0))),
                    5 => {
                        let last = model.last().map_or(0, |v| v + 1);
                        list.push_back(last);
                        model.push(last);
                    }
                    6 => {
                        let first = model.first().map_or(1, |v| v.saturating_sub(1));
                        if model.first() != Some(&first) {
                            list.push_front(first);
                            model.insert(0, first);
                        }
                    }
                    _ => {}
                }
                prop_assert_eq!(list.len(), model.len());
                prop_assert_eq!((list.front(), list.back()), (model.first(), model.last()));
            }
            prop_assert_eq!(list.iter().copied().collect::<Vec<_>>(), model);
        }
    }
}

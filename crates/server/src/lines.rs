//! Who waits for the owner: in two lines, those who bring little and those who bring much. They are served in turns, so that who brings
//! little waits for one turn of the others at most, however many of them there are, and they for no more than that either.
//!
//! What the store reports comes before the others who bring much. What a connection says stays in its order: behind much of its own, its little waits as well, and much waits for all the little that
//! was there before it.

use crate::inbox::Item;
use hornpipe_types::Map;
use hornpipe_types::command::Command;
use hornpipe_types::ids::ConnectionId;
use std::collections::VecDeque;

/// Steps of an item that are much: each that may take another way through the broker than the one before.
const MUCH: usize = 256;

/// Both lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    short: VecDeque<Item>,
    /// How many items of the short line were taken, ever.
    taken: u64,
    /// How many of those that wait there somebody wants something by.
    asking: usize,
    /// Those who bring much, and how many of the short line are to be taken before.
    long: VecDeque<(u64, Item)>,
    /// How many items each connection has in the long line.
    of: Map<ConnectionId, usize>,
}

impl Lines {
    /// Puts an item where it belongs.
    pub(crate) fn add(&mut self, item: Item) {
        let from = says(&item);
        let behind = || !self.of.is_empty() && from.is_some_and(|from| self.of.contains_key(&from));
        if !brings_much(&item) && !behind() {
            self.asking += usize::from(asks(&item));
            self.short.push_back(item);
            return;
        }
        if let Item::Committed(_) = item {
            // There is one at a time, confirms wait for it, and the disk has nothing to do until it is taken.
            self.long.push_front((0, item));
            return;
        }
        if let Some(from) = from {
            *self.of.entry(from).or_default() += 1;
        }
        self.long.push_back((self.taken + self.short.len() as u64, item));
    }

    /// Takes the first item out of the short line.
    pub(crate) fn next_short(&mut self) -> Option<Item> {
        let item = self.short.pop_front()?;
        self.taken += 1;
        self.asking -= usize::from(asks(&item));
        Some(item)
    }

    /// Takes the first item out of the long line, if its turn has come.
    pub(crate) fn next_long(&mut self) -> Option<Item> {
        if !self.has_long() {
            return None;
        }
        let (_, item) = self.long.pop_front()?;
        if let Some(from) = says(&item)
            && let Some(left) = self.of.get_mut(&from)
        {
            *left -= 1;
            if *left == 0 {
                self.of.remove(&from);
            }
        }
        Some(item)
    }

    /// Whether the turn of the first in the long line has come.
    pub(crate) fn has_long(&self) -> bool {
        self.long.front().is_some_and(|(before, _)| *before <= self.taken)
    }

    /// Whether anything in the short line asks for something: that sockets took what was written to them can wait.
    pub(crate) fn asks(&self) -> bool {
        self.asking > 0
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.short.is_empty() && self.long.is_empty()
    }
}

fn asks(item: &Item) -> bool {
    !matches!(item, Item::Commands(_, commands) if commands.iter().all(|c| matches!(c, Command::Written(_))))
}

/// Whose words an item is.
pub(crate) fn says(item: &Item) -> Option<ConnectionId> {
    match item {
        Item::Connected(id, _) | Item::Opening(id, ..) | Item::Commands(id, _) | Item::Gone(id) => Some(*id),
        _ => None,
    }
}

fn brings_much(item: &Item) -> bool {
    match item {
        Item::Commands(_, commands) => {
            let steps = commands.iter().map(|command| match command {
                Command::Publishes(many) => many.runs.len(),
                _ => 1,
            });
            steps.sum::<usize>() > MUCH
        }
        Item::Committed(groups) => groups.iter().map(|group| group.places.len()).sum::<usize>() > MUCH,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hornpipe_types::command::{Publishes, RunHead};
    use hornpipe_types::ids::EnqueueId;
    use hornpipe_types::op::{Committed, Place};
    use std::sync::Arc;

    fn said(by: u64, commands: usize) -> Item {
        Item::Commands(ConnectionId(by), std::iter::repeat_n((), commands).map(|()| Command::Written(1)).collect())
    }

    fn seen(item: Option<Item>) -> Option<(u64, usize)> {
        match item? {
            Item::Commands(id, commands) => Some((id.0, commands.len())),
            Item::Gone(id) => Some((id.0, 0)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_brings_little_need_not_wait_behind_much_but_behind_its_own() {
        let mut lines = Lines::default();
        let items = [said(1, MUCH + 1), said(2, 1), said(1, 2), said(3, MUCH), Item::Gone(ConnectionId(1))];
        items.into_iter().for_each(|item| lines.add(item));
        assert_eq!(seen(lines.next_short()), Some((2, 1)));
        assert_eq!(seen(lines.next_long()), Some((1, MUCH + 1)));
        lines.add(said(1, 3));
        assert_eq!([(); 2].map(|()| seen(lines.next_short())), [Some((3, MUCH)), None]);
        assert_eq!([(); 3].map(|()| seen(lines.next_long())), [Some((1, 2)), Some((1, 0)), Some((1, 3))]);
        lines.add(said(1, 4));
        assert_eq!((seen(lines.next_short()), seen(lines.next_long())), (Some((1, 4)), None));
        assert!(lines.is_empty() && !lines.has_long());
    }

    #[test]
    fn much_waits_for_the_little_that_was_there_before_it() {
        let mut lines = Lines::default();
        let items = [said(1, 1), said(2, 2), said(1, MUCH + 1), said(3, 3)];
        items.into_iter().for_each(|item| lines.add(item));
        for before in [(1, 1), (2, 2)] {
            assert_eq!((lines.has_long(), seen(lines.next_long())), (false, None));
            assert_eq!(seen(lines.next_short()), Some(before));
        }
        assert!(lines.has_long());
        assert_eq!((seen(lines.next_long()), seen(lines.next_short())), (Some((1, MUCH + 1)), Some((3, 3))));
    }

    #[test]
    fn publishes_that_go_many_ways_are_much_and_thousands_that_go_one_are_not() {
        let runs = |count: usize, each: u32| {
            let run = RunHead { channel: 1, mandatory: false, from: 0, count: each };
            let publishes = Publishes { batch: Arc::default(), runs: vec![run; count] };
            Item::Commands(ConnectionId(1), vec![Command::Publishes(publishes)])
        };
        let [one_way, many_ways] = [runs(1, 4000), runs(MUCH + 1, 1)];
        assert_eq!([brings_much(&one_way), brings_much(&many_ways)], [false, true]);
    }

    #[test]
    fn a_long_report_of_the_store_is_the_first_of_those_who_bring_much() {
        let place = (EnqueueId::default(), Place { lsn: 1, part: 0, index: 0, body: None });
        let group = |runs| Committed { places: vec![place; runs], ..Committed::default() };
        let mut lines = Lines::default();
        let items = [said(1, 1), said(2, MUCH + 1), Item::Committed(vec![group(MUCH), group(1)])];
        items.into_iter().for_each(|item| lines.add(item));
        assert!(matches!(lines.next_long(), Some(Item::Committed(_))));
        lines.add(Item::Committed(vec![group(MUCH)]));
        assert_eq!((lines.has_long(), seen(lines.next_short())), (false, Some((1, 1))));
        assert!(matches!(lines.next_short(), Some(Item::Committed(_))));
        assert_eq!(seen(lines.next_long()), Some((2, MUCH + 1)));
    }

    #[test]
    fn what_sockets_took_asks_for_nothing() {
        let mut lines = Lines::default();
        let asks = |lines: &mut Lines, item| {
            lines.add(item);
            lines.asks()
        };
        assert!(!asks(&mut lines, said(1, 1)));
        assert!(asks(&mut lines, Item::Gone(ConnectionId(1))));
        assert!(asks(&mut lines, said(2, 2)));
        assert!(lines.next_short().is_some() && lines.asks());
        assert!(lines.next_short().is_some() && !lines.asks());
    }
}

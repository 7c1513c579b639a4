//! What tasks and threads share about each shard, and which vhost lives in which one.
//!
//! A vhost with all that is in it, its permissions and limits too, lives in exactly one shard. Users are in every shard,
//! because permissions speak of them: shard 0 decides about them and the others follow (`spread.rs`).

use crate::inbox::{Inbox, Item};
use crate::progress::Progress;
use crate::shard_task::Desk;
use crate::turns::Turns;
use crate::{SnapshotAsked, SnapshotTold};
use hornpipe_store::{Usage, set_shard_count};
use hornpipe_types::Map;
use hornpipe_types::names::ShortStr;
use hornpipe_types::operate::{Operation, Outcome};
use hornpipe_types::stats::{Answer, Request};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use tokio::sync::oneshot;

/// What whoever waits for a shard that has ended is told.
pub(crate) const STOPPED: &str = "the broker has stopped";

/// Vhosts that are gone and remembered.
const LEFT_MAX: usize = 10_000;

/// One shard as seen from outside its owner.
#[derive(Debug, Default)]
pub(crate) struct Home {
    pub(crate) number: u32,
    pub(crate) inbox: Inbox,
    pub(crate) desk: Desk,
    pub(crate) turns: Turns,
    pub(crate) usage: Mutex<Usage>,
    /// A snapshot asked for and not answered yet; the sender is taken when it is begun.
    pub(crate) snapshot: Mutex<Option<SnapshotAsked>>,
    pub(crate) progress: Progress,
}

impl Home {
    /// Asks the shard at once; the answer is to be waited for.
    pub(crate) fn ask(&self, request: Request) -> impl Future<Output = Result<Answer, String>> + use<> {
        let (asker, answer) = oneshot::channel();
        self.inbox.push(Item::Ask(request, asker));
        async { answer.await.map_err(|_| STOPPED.to_owned()) }
    }

    /// Has the shard do something at once; what became of it, once that is on disk, is to be waited for.
    pub(crate) fn operate(
        &self,
        user: &ShortStr,
        operation: Operation,
    ) -> impl Future<Output = Result<Outcome, String>> + use<> {
        let (asker, outcome) = oneshot::channel();
        self.inbox.push(Item::Operate(user.clone(), Box::new(operation), asker));
        async { outcome.await.map_err(|_| STOPPED.to_owned()) }
    }

    /// Name of a thread of this shard's.
    pub(crate) fn thread_name(&self, what: &str) -> String {
        if self.number == 0 { what.to_owned() } else { format!("{what}-{}", self.number) }
    }

    /// What the store takes on disk, as last noted.
    pub(crate) fn usage(&self) -> Usage {
        *self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All shards there are; at least one.
#[derive(Debug)]
pub(crate) struct Homes {
    first: Arc<Home>,
    /// Those after the first.
    others: Vec<Arc<Home>>,
    /// The shard of each vhost. Kept when there are several shards only.
    vhosts: RwLock<Map<ShortStr, u32>>,
    /// Where vhosts were that are gone: see [`Self::place`].
    left: Mutex<Map<ShortStr, u32>>,
    /// Connections that opened or are about to, by user and shard. Kept when there are several shards only.
    connections: Mutex<Map<(ShortStr, u32), u64>>,
    /// Held by who changes users or adds or removes vhosts while there are several shards.
    pub(crate) changing: tokio::sync::Mutex<()>,
}

impl Homes {
    /// So many shards.
    pub(crate) fn new(count: u32) -> Self {
        let home = |number| Arc::new(Home { number, ..Home::default() });
        Self {
            first: home(0),
            others: (1..count).map(home).collect(),
            vhosts: RwLock::default(),
            left: Mutex::default(),
            connections: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
        }
    }

    /// The one that decides about users.
    pub(crate) fn first(&self) -> &Arc<Home> {
        &self.first
    }

    /// Those that follow the first.
    pub(crate) fn others(&self) -> &[Arc<Home>] {
        &self.others
    }

    /// All, by number.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Home>> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// Whether there is but one.
    pub(crate) fn is_single(&self) -> bool {
        self.others.is_empty()
    }

    /// How far the start is, in words.
    pub(crate) fn progress(&self) -> String {
        if self.is_single() {
            return self.first.progress.text();
        }
        let texts: Vec<_> = self.all().map(|home| format!("shard {}: {}", home.number, home.progress.text())).collect();
        texts.join("; ")
    }

    /// The shard of a number.
    pub(crate) fn numbered(&self, number: u32) -> Option<&Arc<Home>> {
        self.all().nth(number as usize)
    }

    /// The shard of a vhost. One that there isn't is answered for by the first.
    pub(crate) fn of(&self, vhost: &str) -> &Arc<Home> {
        if self.is_single() {
            return &self.first;
        }
        self.find(vhost).unwrap_or(&self.first)
    }

    /// The shard of a vhost, if it is known. For several shards only.
    pub(crate) fn find(&self, vhost: &str) -> Option<&Arc<Home>> {
        let number = self.vhosts.read().unwrap_or_else(PoisonError::into_inner).get(vhost).copied();
        number.and_then(|number| self.numbered(number))
    }

    /// The shard with the fewest vhosts, the lowest of them: where a new one goes.
    pub(crate) fn emptiest(&self) -> &Arc<Home> {
        let vhosts = self.vhosts.read().unwrap_or_else(PoisonError::into_inner);
        let count = |home: &Home| vhosts.values().filter(|number| **number == home.number).count();
        self.all().min_by_key(|home| count(home)).unwrap_or(&self.first)
    }

    /// Where a vhost is, or is to go if it is new: to the shard that had one of its name before, or else to the emptiest. Shards
    /// copy their stores for a snapshot each in its own time, and what moves meanwhile could be in two copies or in none.
    pub(crate) fn place(&self, vhost: &str) -> &Arc<Home> {
        let before = || self.left.lock().unwrap_or_else(PoisonError::into_inner).get(vhost).copied();
        let known = self.find(vhost).or_else(|| before().and_then(|number| self.numbered(number)));
        known.unwrap_or_else(|| self.emptiest())
    }

    /// Counts a connection of a user in; says how many there are in other shards, and how many of these are the user's. Two
    /// that come to two shards at once count each other, so that both may be refused by a limit which has room for one.
    pub(crate) fn count_in(&self, user: ShortStr, home: &Home) -> (u64, u64) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let others = || connections.iter().filter(|((_, shard), _)| *shard != home.number);
        let all = others().map(|(_, count)| count).sum();
        let theirs = others().filter(|((of, _), _)| *of == user).map(|(_, count)| count).sum();
        *connections.entry((user, home.number)).or_default() += 1;
        (all, theirs)
    }

    /// Counts it out again.
    pub(crate) fn count_out(&self, user: ShortStr, home: &Home) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (user, home.number);
        match connections.get_mut(&key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(connections.remove(&key)),
        }
    }

    /// Asks all for a snapshot in a folder; what became of each is to be waited for.
    ///
    /// # Errors
    /// A sentence when one waits to be made already, or the folder can't be written to.
    pub(crate) fn ask_snapshot(&self, to: &Path) -> Result<Vec<oneshot::Receiver<SnapshotTold>>, String> {
        let mut slots: Vec<_> =
            self.all().map(|home| home.snapshot.lock().unwrap_or_else(PoisonError::into_inner)).collect();
        if slots.iter().any(|slot| slot.is_some()) {
            return Err("a snapshot is being made already".to_owned());
        }
        // First, so that a snapshot that lacks a shard is refused.
        set_shard_count(to, slots.len() as u32).map_err(|error| error.to_string())?;
        let ask = |slot: &mut MutexGuard<'_, Option<SnapshotAsked>>| {
            let (asker, made) = oneshot::channel();
            **slot = Some((to.to_owned(), asker));
            made
        };
        Ok(slots.iter_mut().map(ask).collect())
    }

    /// Notes where a vhost lives; says where it was said to live before.
    pub(crate) fn enter(&self, vhost: ShortStr, home: &Home) -> Option<u32> {
        self.vhosts.write().unwrap_or_else(PoisonError::into_inner).insert(vhost, home.number)
    }

    /// Forgets a vhost.
    pub(crate) fn leave(&self, vhost: &str) {
        let Some((name, number)) = self.vhosts.write().unwrap_or_else(PoisonError::into_inner).remove_entry(vhost)
        else {
            return;
        };
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        // far more than go while a snapshot is made
        if left.len() >= LEFT_MAX {
            left.clear();
        }
        left.insert(name, number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_vhosts_go_to_the_shard_with_the_fewest() {
        let homes = Homes::new(3);
        let mut went = Vec::new();
        for name in ["a", "b", "c", "d"] {
            let home = homes.emptiest();
            went.push(home.number);
            assert_eq!(homes.enter(name.into(), home), None);
        }
        assert_eq!(went, [0, 1, 2, 0]);
        let counted: Vec<_> = [("u", 0), ("v", 1), ("u", 1)]
            .map(|(user, at)| homes.count_in(user.into(), homes.numbered(at).unwrap()))
            .into();
        assert_eq!(counted, [(0, 0), (1, 0), (1, 1)]);
        homes.count_out("u".into(), homes.first());
        assert_eq!(homes.count_in("u".into(), &homes.others()[1]), (2, 1));
        homes.leave("b");
        assert_eq!(homes.emptiest().number, 1);
        homes.leave("a");
        homes.leave("c");
        let places = ["a", "b", "c", "d", "e"].map(|name| homes.place(name).number);
        assert_eq!(places, [0, 1, 2, 0, 1], "each where it was before");
        assert_eq!(homes.enter("c".into(), homes.place("c")), None);
        assert_eq!((homes.of("c").number, homes.of("nowhere").number), (2, 0));
        assert!(homes.find("nowhere").is_none());
    }
}

//! Free room of the data folder's volume, shared by all threads that write to it.

use std::sync::{Mutex, PoisonError};

/// What was granted to groups that are being written now. Without it each of several shards would find room for itself, and
/// together they would meet a full disk.
#[derive(Debug, Default)]
pub(crate) struct Room {
    granted: Mutex<u64>,
}

impl Room {
    /// Takes so many octets if they are free beside what others were granted; says whether they were. Who waits holds nothing,
    /// so nobody waits for who waits.
    ///
    /// `free` is asked under the lock: a figure from before it may be of a moment when the group of another, given back since,
    /// was not on the disk yet, and would count that room as free once more.
    pub(crate) fn take(&self, octets: u64, free: impl FnOnce() -> u64) -> bool {
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        // What a group under way has written already is counted twice: on the safe side.
        let fits = free() >= granted.saturating_add(octets);
        if fits {
            *granted += octets;
        }
        fits
    }

    /// The group is written.
    pub(crate) fn give_back(&self, octets: u64) {
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        *granted = granted.saturating_sub(octets);
    }

    /// What is granted now.
    pub(crate) fn granted(&self) -> u64 {
        *self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_that_fit_alone_do_not_fit_together() {
        let room = Room::default();
        let ten = || 10;
        assert!(room.take(6, ten));
        assert!(!room.take(6, ten), "the first one may still write");
        assert!(room.take(4, ten));
        assert_eq!(room.granted(), 10);
        room.give_back(6);
        assert!(room.take(6, ten), "it has written");
        room.give_back(6);
        room.give_back(4);
        assert_eq!(room.granted(), 0);
        assert!(!room.take(11, ten));
    }

    /// One writes and gives back between another's look at the disk and its turn: it would find the room free that was taken.
    #[test]
    fn what_is_free_is_read_while_nobody_gives_back() {
        let room = Room::default();
        assert!(room.take(6, || 10));
        room.take(1, || {
            assert!(room.granted.try_lock().is_err());
            10
        });
    }
}

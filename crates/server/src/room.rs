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
    pub(crate) fn take(&self, octets: u64, free: u64) -> bool {
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        // What a group under way has written already is counted twice: on the safe side.
        let fits = free >= granted.saturating_add(octets);
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
        assert!(room.take(6, 10));
        assert!(!room.take(6, 10), "the first one may still write");
        assert!(room.take(4, 10));
        assert_eq!(room.granted(), 10);
        room.give_back(6);
        assert!(room.take(6, 10), "it has written");
        room.give_back(6);
        room.give_back(4);
        assert_eq!(room.granted(), 0);
        assert!(!room.take(11, 10));
    }
}

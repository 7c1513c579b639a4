//! Whether it is worth to wait a moment before a group is written.
//!
//! A message whose consumer acknowledges it at once need not be written at all: its publisher can be told when the
//! acknowledgement comes, which is sooner than any disk is done. But the store is free when little goes on, and would be given
//! the message before its consumer has even read it. So what is in the hands of consumers is kept back for a moment, as
//! long as experience says that this pays.

use hornpipe_types::ids::EnqueueId;

/// Groups that are not waited for after the wait was in vain once; twice as many after each further time.
const FIRST_PAUSE: u32 = 8;
/// Most groups that are not waited for.
const PAUSE_MAX: u32 = 1024;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    /// What is waited for: the oldest run of the group that gathers.
    awaited: Option<EnqueueId>,
    /// Groups that are still to be written at once.
    left: u32,
    /// How many these were when it was in vain last.
    pause: u32,
}

impl Patience {
    /// The group that gathers could be spared: whether to wait for that.
    pub(crate) fn allows(&mut self) -> bool {
        self.left = self.left.saturating_sub(1);
        self.left == 0
    }

    /// A wait begins, and this is the oldest run that may be spared.
    pub(crate) fn begin(&mut self, oldest: EnqueueId) {
        self.awaited = Some(oldest);
    }

    /// The wait is over, and this is the oldest run that still waits for the disk.
    pub(crate) fn end(&mut self, oldest: Option<EnqueueId>) {
        let Some(awaited) = self.awaited.take() else { return };
        if oldest == Some(awaited) {
            self.pause = (self.pause * 2).clamp(FIRST_PAUSE, PAUSE_MAX);
            self.left = self.pause;
        } else {
            self.pause = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups out of so many that are waited for when every wait ends like this.
    fn waits(patience: &mut Patience, groups: u64, paid: bool) -> u64 {
        let mut waits = 0;
        for id in 1..=groups {
            if patience.allows() {
                waits += 1;
                patience.begin(EnqueueId(id));
                patience.end((!paid).then_some(EnqueueId(id)));
            }
        }
        waits
    }

    #[test]
    fn it_waits_as_long_as_that_pays_and_tries_again_seldom() {
        let mut patience = Patience::default();
        assert_eq!(waits(&mut patience, 1000, true), 1000);
        assert!((5..10).contains(&waits(&mut patience, 1000, false)));
        // once it pays again it does so for good
        let first = waits(&mut patience, 1100, true);
        assert!(first > 0);
        assert_eq!(waits(&mut patience, 1000, true), 1000);
    }

    #[test]
    fn a_younger_message_that_waits_at_the_end_was_not_waited_for() {
        let mut patience = Patience::default();
        for id in 1..100 {
            assert!(patience.allows());
            patience.begin(EnqueueId(id));
            patience.end(Some(EnqueueId(id + 1)));
        }
    }
}

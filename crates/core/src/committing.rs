//! Commits of transactions, in slices where they are more than a turn should do.
//!
//! A commit is work like any other that goes on in slices ([`crate::work`]). What fits the allowance of its command is done in
//! one turn, under one commit of the log. A wider one is not: after a crash before commit-ok some of its publishes may be there
//! and others not, as some of its settlements may be, but **no settlement is done before all publishes are in their queues**,
//! and what is done in a later slice reaches the disk no earlier. So what was taken in a transaction and published on in it may be there twice
//! after a crash, and is never lost.
//!
//! Until the last publish is in its queues the settlements stay with the channel, as before the commit. A channel that ends in
//! between, or whose publish is refused for what changed since the commit was begun, gives back all they hold, and of its messages
//! those that were on their way already still reach their queues, the others go with it. From then on the settlements are
//! those of this work, and happen whatever becomes of the channel.

use crate::connection::Tx;
use crate::shard::Shard;
use crate::spread::Wide;
use crate::work::{Ending, Settling};
use hornpipe_types::command::PublishRun;
use hornpipe_types::effect::ChannelEffect;
use hornpipe_types::error::AmqpError;
use hornpipe_types::ids::{CommitSeq, ConnectionId};
use hornpipe_types::time::Now;
use std::collections::VecDeque;

/// Class and method of tx.commit.
const COMMIT: (u16, u16) = (90, 20);

/// What is left of a commit.
#[derive(Debug)]
pub(crate) struct Committing {
    pub(crate) from: ConnectionId,
    number: u16,
    publishes: VecDeque<PublishRun>,
    /// What is left of the run before them: messages on their way into their queues, and those behind them.
    wide: Option<Wide>,
    rest: Option<PublishRun>,
    /// All is published, and the settlements are here.
    published: bool,
    /// The last comes first.
    pub(crate) settlings: Vec<Settling>,
    /// There were settlements.
    settles: bool,
    /// A queue refused a message.
    refused: bool,
    /// What covers all that was done so far.
    commit: Option<CommitSeq>,
}

impl Committing {
    pub(crate) fn new((from, number): (ConnectionId, u16), publishes: Vec<PublishRun>) -> Self {
        Self {
            from,
            number,
            publishes: publishes.into(),
            wide: None,
            rest: None,
            published: false,
            settlings: Vec::new(),
            settles: false,
            refused: false,
            commit: None,
        }
    }
}

impl Shard {
    /// Goes on with a commit as far as the allowance reaches; whether it is done.
    pub(crate) fn commit_some(&mut self, now: Now, committing: &mut Committing) -> bool {
        let before = self.log.current();
        let outcome = self.do_some(now, committing);
        // what dies in it may make queues serve, and those that get something back wait for all of it
        self.hold_for(&mut committing.settlings);
        // what died in it belongs to it
        self.work_off_deaths(now);
        let commit = self.log.current();
        if commit != before {
            committing.commit = Some(commit);
        }
        match outcome {
            Ok(true) => self.answer_commit(now, committing),
            Ok(false) => return false,
            Err(error) => self.fail_method(now, (committing.from, committing.number), error, COMMIT),
        }
        true
    }

    fn do_some(&mut self, now: Now, committing: &mut Committing) -> Result<bool, AmqpError> {
        if !committing.published {
            if !self.publish_some(now, committing)? {
                return Ok(false);
            }
            committing.published = true;
            self.take_settles(committing);
        }
        while let Some(settling) = committing.settlings.last_mut() {
            if !self.settle_some(now, settling) {
                return Ok(false);
            }
            let settled = committing.settlings.pop();
            settled.into_iter().flat_map(|settled| settled.holds).for_each(|id| self.release_hold(id));
        }
        Ok(true)
    }

    /// Whether all that is to be published is.
    fn publish_some(&mut self, now: Now, committing: &mut Committing) -> Result<bool, AmqpError> {
        self.tx_rejected = false;
        let done = self.publish_more(now, committing);
        committing.refused |= std::mem::take(&mut self.tx_rejected);
        done
    }

    fn publish_more(&mut self, now: Now, committing: &mut Committing) -> Result<bool, AmqpError> {
        let (from, number) = (committing.from, committing.number);
        loop {
            if let Some(wide) = &mut committing.wide {
                if !self.place_some(now, wide) {
                    return Ok(false);
                }
                committing.refused |= wide.is_refused();
                committing.wide = None;
            }
            let is_last = committing.rest.is_none() && committing.publishes.is_empty();
            if is_last || self.channel_mut(from, number).is_none() {
                return Ok(true);
            }
            if self.units == 0 {
                return Ok(false);
            }
            let spent = std::mem::take(&mut self.spent);
            let outcome = match (committing.rest.take(), &mut committing.publishes) {
                (Some(rest), _) => self.publish_on(now, from, number, &rest),
                (None, runs) => match runs.pop_front() {
                    Some(run) => self.publish_run(now, from, number, &run),
                    None => Ok(None),
                },
            };
            let units = std::mem::replace(&mut self.spent, spent);
            self.spend(units.max(1));
            if let Some(left) = outcome? {
                (committing.wide, committing.rest) = (left.wide, left.rest);
            }
        }
    }

    /// All is published: the channel has nothing to do with the settlements any more.
    fn take_settles(&mut self, committing: &mut Committing) {
        let at = (committing.from, committing.number);
        let Some(tx) = self.channel_mut(at.0, at.1).and_then(|channel| channel.tx.as_mut()) else { return };
        let Tx { settles, .. } = std::mem::take(tx);
        self.stamp += 1;
        let stamp = self.stamp;
        let settlings = settles.into_iter().rev();
        let settlings = settlings.map(|(how, taken)| {
            let mut settling = Settling::new(at, Ending::of(how), taken, stamp);
            settling.in_tx = true;
            settling
        });
        committing.settlings = settlings.collect();
        committing.settles = !committing.settlings.is_empty();
    }

    /// All of a commit is done.
    fn answer_commit(&mut self, now: Now, committing: &Committing) {
        let (from, number) = (committing.from, committing.number);
        if self.channel_mut(from, number).is_none() {
            return;
        }
        if committing.refused {
            let error = AmqpError::precondition("partial tx completion");
            return self.fail_method(now, (from, number), error, COMMIT);
        }
        // what was settled may be a dead letter that the disk does not know here, not yet or never: then where it came from must
        // have forgotten it on disk too, or a crash would bring it back
        let commit = if committing.settles { Some(self.log.current()) } else { committing.commit };
        self.reply(from, number, ChannelEffect::TxCommitOk, commit);
    }
}

//! What takes a wide topology with it: an exchange or a queue with very many bindings is deleted, a connection with very many exclusive
//! queues ends, a vhost with very many queues is deleted. All that goes on in slices ([`crate::work`]), and whoever asked for it is answered
//! when the last of it is gone.
//!
//! The exchange or queue goes once it has no bindings any more; until then it is there, and is routed to by those it has left. A crash
//! in between finds it so. A queue with few bindings goes at once, and so does one that goes only if nobody uses it or it is empty,
//! for that may be otherwise a slice later. An exclusive queue whose turn has not come still has its name, and is still nobody else's. A
//! vhost whose name is asked for again meanwhile, by who connects or makes it anew, goes at once.

use crate::shard::Shard;
use crate::topology::{Changes, ExchangeId};
use crate::work::Work;
use hornpipe_types::effect::ChannelEffect;
use hornpipe_types::ids::{CommitSeq, ConnectionId, QueueId, RequestId};
use hornpipe_types::names::ShortStr;
use hornpipe_types::time::Now;
use std::collections::BTreeSet;

/// Units that a binding costs which goes.
const UNBIND_UNITS: u32 = 2;
/// So many bindings go with their queue at once, whatever the allowance: most queues have few, and are deleted in one step.
const AT_ONCE: u32 = 64;
/// Units that a queue costs which goes.
const DELETE_UNITS: u32 = 8;

/// An exchange that is being deleted.
#[derive(Debug)]
pub(crate) struct Leaving {
    pub(crate) from: ConnectionId,
    number: u16,
    nowait: bool,
    vhost: usize,
    exchange: ShortStr,
    commit: Option<CommitSeq>,
}

/// A queue that is being deleted.
#[derive(Debug)]
pub(crate) struct Abandoning {
    pub(crate) from: ConnectionId,
    number: u16,
    nowait: bool,
    queue: QueueId,
    commit: Option<CommitSeq>,
}

/// A vhost that is being deleted.
#[derive(Debug)]
pub(crate) struct Razing {
    request: RequestId,
    vhost: usize,
    /// Those of its queues that are left.
    queues: BTreeSet<QueueId>,
}

impl Shard {
    /// Deletes a queue, and says so when it is gone.
    pub(crate) fn abandon(&mut self, now: Now, (from, number): (ConnectionId, u16), nowait: bool, queue: QueueId) {
        let abandoning = Abandoning { from, number, nowait, queue, commit: None };
        self.begin_work(now, Work::Abandon(Box::new(abandoning)));
    }

    /// Whether a queue is there. Its grave has its number, and is nobody's to delete again.
    fn is_deletable(&self, id: QueueId) -> bool {
        self.queues.get(&id).is_some_and(|queue| !queue.is_grave())
    }

    /// Takes bindings off a queue as far as the allowance reaches, and deletes it when it has none; whether it is gone.
    pub(crate) fn abandon_some(&mut self, now: Now, abandoning: &mut Abandoning) -> bool {
        let Abandoning { from, number, queue, .. } = *abandoning;
        let (bare, commit) = self.unbind_queue(queue);
        abandoning.commit = commit.max(abandoning.commit);
        if !bare {
            return false;
        }
        // somebody else may have deleted it meanwhile
        let queue = Some(queue).filter(|id| self.is_deletable(*id));
        self.delete_for(now, (from, number), abandoning.nowait, queue, abandoning.commit);
        true
    }

    /// Takes bindings off a queue as far as the allowance reaches; whether it has none any more, and what covers that on disk.
    fn unbind_queue(&mut self, id: QueueId) -> (bool, Option<CommitSeq>) {
        let Some(index) = self.queues.get(&id).map(|queue| queue.vhost) else { return (true, None) };
        let Some(v) = self.vhosts.get_mut(index) else { return (true, None) };
        let most = (self.units / UNBIND_UNITS).max(AT_ONCE) as usize;
        let mut changes = Changes::default();
        let bare = v.topology.unbind_some(id, most, &mut changes);
        let units = u32::try_from(changes.removed_bindings.len()).unwrap_or(u32::MAX).saturating_mul(UNBIND_UNITS);
        self.spend(if bare { units } else { u32::MAX });
        (bare, self.log_changes(index, changes))
    }

    /// Deletes a vhost, and tells the outcome when it is gone.
    pub(crate) fn raze(&mut self, now: Now, request: RequestId, vhost: usize) {
        let queues = self.vhosts.get(vhost).map(|v| v.queues.values().copied().collect()).unwrap_or_default();
        self.allow();
        self.begin_work(now, Work::Raze(Box::new(Razing { request, vhost, queues })));
    }

    /// Deletes a vhost to the end if it is being deleted: somebody wants to come in, or a new one, and both come after.
    pub(crate) fn finish_razing(&mut self, now: Now, vhost: &ShortStr) {
        let Some(index) = self.vhost_names.get(vhost).copied() else { return };
        while let Some(at) = self.work.iter().position(|w| matches!(w, Work::Raze(razing) if razing.vhost == index))
            && let Some(work) = self.work.remove(at)
        {
            self.units = u32::MAX;
            self.go_on_with(now, work);
        }
        self.units = self.units.min(self.limits.slice_units);
    }

    /// Deletes the queues of a vhost as far as the allowance reaches, and the vhost with the last; whether it is gone.
    pub(crate) fn raze_some(&mut self, now: Now, razing: &mut Razing) -> bool {
        if !self.bereave_some(now, &mut razing.queues) {
            return false;
        }
        self.delete_vhost_at(now, razing.request, razing.vhost);
        true
    }

    /// Deletes an exchange, and says so when it is gone.
    pub(crate) fn delete_exchange(
        &mut self,
        now: Now,
        (from, number): (ConnectionId, u16),
        nowait: bool,
        (vhost, id): (usize, ExchangeId),
    ) {
        let Some(v) = self.vhosts.get_mut(vhost) else { return };
        let exchange = v.topology.exchange(id).definition.name.clone();
        v.topology.begin_delete(id);
        let leaving = Leaving { from, number, nowait, vhost, exchange, commit: None };
        self.begin_work(now, Work::Leave(Box::new(leaving)));
    }

    /// Takes bindings off an exchange as far as the allowance reaches; whether it is gone.
    pub(crate) fn leave_some(&mut self, leaving: &mut Leaving) -> bool {
        if self.units == 0 {
            return false;
        }
        let most = (self.units / UNBIND_UNITS).max(1) as usize;
        let Some(v) = self.vhosts.get_mut(leaving.vhost) else { return true };
        // somebody else may have deleted it meanwhile, and a third declared it anew
        let Some(id) = v.topology.find(&leaving.exchange).filter(|id| v.topology.exchange(*id).leaving) else {
            // it may still be on disk
            leaving.commit = leaving.commit.max(Some(self.log.defined()));
            return true;
        };
        let mut changes = Changes::default();
        let gone = v.topology.delete_some(id, most, &mut changes);
        let units = u32::try_from(changes.removed_bindings.len()).unwrap_or(u32::MAX).saturating_mul(UNBIND_UNITS);
        self.spend(if gone { units } else { u32::MAX });
        leaving.commit = self.log_changes(leaving.vhost, changes).max(leaving.commit);
        gone
    }

    pub(crate) fn left(&mut self, leaving: &Leaving) {
        if !leaving.nowait && self.channel_mut(leaving.from, leaving.number).is_some() {
            self.reply(leaving.from, leaving.number, ChannelEffect::ExchangeDeleteOk, leaving.commit);
        }
    }

    /// Deletes queues as far as the allowance reaches; whether that were all.
    pub(crate) fn bereave_some(&mut self, now: Now, queues: &mut BTreeSet<QueueId>) -> bool {
        while self.units > 0 {
            let Some(&id) = queues.first() else { return true };
            if !self.unbind_queue(id).0 {
                return false;
            }
            queues.pop_first();
            self.spend(DELETE_UNITS);
            if self.is_deletable(id) {
                self.delete_queue(now, id);
            }
        }
        queues.is_empty()
    }
}

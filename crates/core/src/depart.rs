//! What takes a wide topology with it: an exchange with very many bindings is deleted, a connection with very many exclusive queues
//! ends. Both go on in slices ([`crate::work`]), and whoever asked for it is answered when the last of it is gone.
//!
//! The exchange goes once it has no bindings any more; until then it is there, and routes by those it has left. A crash in between finds
//! it so. An exclusive queue whose turn has not come still has its name, and is still nobody else's.

use crate::shard::Shard;
use crate::topology::{Changes, ExchangeId};
use crate::work::Work;
use hornpipe_types::effect::ChannelEffect;
use hornpipe_types::ids::{CommitSeq, ConnectionId, QueueId};
use hornpipe_types::names::ShortStr;
use hornpipe_types::time::Now;
use std::collections::BTreeSet;

/// Units that a binding costs which goes.
const UNBIND_UNITS: u32 = 2;
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

impl Shard {
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

    /// Deletes the exclusive queues of a connection that ends, as far as the allowance reaches; whether that was all.
    pub(crate) fn bereave_some(&mut self, now: Now, queues: &mut BTreeSet<QueueId>) -> bool {
        while self.units > 0 {
            let Some(id) = queues.pop_first() else { return true };
            self.spend(DELETE_UNITS);
            self.delete_queue(now, id);
        }
        queues.is_empty()
    }
}

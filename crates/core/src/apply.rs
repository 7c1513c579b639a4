//! Policies take effect: every queue and exchange of a vhost looks again at what applies to it.

use crate::policy::{QueueSettings, Target, alternate_exchange};
use crate::shard::Shard;
use crate::timer::TimerKey;
use crate::work::Work;
use hornpipe_types::ids::QueueId;
use hornpipe_types::time::Now;

/// Units it costs to look up what applies to a queue and to serve it anew.
const LOOK_UNITS: u32 = 8;

impl Shard {
    /// Applies the policies of a vhost to all its exchanges and queues. Queues come one after another, and when they are more
    /// than a command may look at they follow in slices: until its slice a queue goes on as before.
    pub(crate) fn apply_policies(&mut self, now: Now, vhost: usize) {
        let Some(v) = self.vhosts.get(vhost) else { return };
        let exchanges: Vec<_> = v.topology.exchanges().map(|(_, x)| x.definition.name.clone()).collect();
        for name in exchanges {
            self.apply_exchange_policy(vhost, &name);
        }
        // what is under way began with policies that are no longer all
        self.work.retain(|work| !matches!(work, Work::Policies { vhost: other, .. } if *other == vhost));
        self.begin_work(now, Work::Policies { vhost, after: QueueId::default() });
    }

    /// The same, to all at once: nobody else waits yet.
    pub(crate) fn apply_policies_whole(&mut self, now: Now, vhost: usize) {
        let units = std::mem::replace(&mut self.units, u32::MAX);
        self.apply_policies(now, vhost);
        self.units = units;
    }

    /// Applies them to the next queues, as many as the allowance permits; whether it is done.
    pub(crate) fn apply_to_some(&mut self, now: Now, vhost: usize, after: &mut QueueId) -> bool {
        loop {
            let Some(id) = self.queue_order.after(*after).next() else { return true };
            if self.units == 0 {
                return false;
            }
            *after = id;
            self.spend(1);
            if self.queues.get(&id).is_some_and(|q| q.vhost == vhost && !q.is_hidden()) {
                self.spend(LOOK_UNITS);
                self.apply_to_queue(now, id);
            }
        }
    }

    fn apply_to_queue(&mut self, now: Now, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let d = &queue.definition;
        let effective = self.policies.effective(&d.vhost, &d.name, Target::Queue(queue.args.kind));
        queue.settings = self.alike_settings.share(QueueSettings::resolve(&queue.args, &effective));
        queue.effective = self.alike_effective.share(effective);
        if let Some(at) = queue.expiry_timer.take() {
            self.timers.disarm(at, TimerKey::QueueExpiry(id));
        }
        self.arm_expiry(now, id);
        self.mark_dirty(id);
    }

    /// Applies the policies to one exchange.
    pub(crate) fn apply_exchange_policy(&mut self, vhost: usize, name: &str) {
        let Some(v) = self.vhosts.get_mut(vhost) else { return };
        let Some(id) = v.topology.find(name) else { return };
        let effective = self.policies.effective(&v.definition.name, name, Target::Exchange);
        let definition = &v.topology.exchange(id).definition;
        let alternate = alternate_exchange(&definition.arguments, &effective);
        let argument = definition.arguments.get("alternate-exchange").is_some();
        v.topology.set_policy_alternate(id, if argument { None } else { alternate });
    }
}

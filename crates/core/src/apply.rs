//! Policies take effect: every queue and exchange of a vhost looks again at what applies to it.

use crate::policy::{QueueSettings, Target, alternate_exchange};
use crate::shard::Shard;
use crate::timer::TimerKey;
use hornpipe_types::time::Now;

impl Shard {
    /// Applies the policies of a vhost to all its queues and exchanges, at once.
    pub(crate) fn apply_policies(&mut self, now: Now, vhost: usize) {
        let Some(v) = self.vhosts.get(vhost) else { return };
        let mut queues: Vec<_> = v.queues.values().copied().collect();
        queues.sort_unstable();
        let exchanges: Vec<_> = v.topology.exchanges().map(|(_, x)| x.definition.name.clone()).collect();
        for id in queues {
            let Some(queue) = self.queues.get_mut(&id) else { continue };
            let d = &queue.definition;
            let effective = self.policies.effective(&d.vhost, &d.name, Target::Queue(queue.args.kind));
            queue.settings = self.alike_settings.share(QueueSettings::resolve(&queue.args, &effective));
            queue.effective = effective;
            if let Some(at) = queue.expiry_timer.take() {
                self.timers.disarm(at, TimerKey::QueueExpiry(id));
            }
            self.arm_expiry(now, id);
            self.mark_dirty(id);
        }
        for name in exchanges {
            self.apply_exchange_policy(vhost, &name);
        }
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

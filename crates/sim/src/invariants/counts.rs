//! Ready and unacked as the admin side reports them are what clients can add up themselves.

use super::{Violation, ensure};
use crate::oracle::{Oracle, Phase};
use hornpipe_types::stats::QueueStats;

pub(crate) fn on_inspected(oracle: &Oracle, stats: &[QueueStats]) -> Result<(), Violation> {
    let n = oracle.plan.queues.len();
    // certainly ready, possibly ready, unacked
    let (mut low, mut high, mut unacked) = (vec![0u64; n], vec![0u64; n], vec![0u64; n]);
    let mut certain = 0u64;
    for id in &oracle.live {
        let copy = &oracle.copies[*id];
        match copy.phase {
            Phase::Out => unacked[copy.at] += 1,
            Phase::Ready => {
                let (reach, _) = oracle.reach(copy);
                let sure = !oracle.may_be_gone(copy) && !oracle.may_be_held(copy);
                certain += u64::from(sure);
                if let [only] = reach[..]
                    && sure
                {
                    low[only] += 1;
                }
                for q in reach {
                    high[q] += 1;
                }
            }
            Phase::Done => {}
        }
    }
    let mut ready = 0;
    for s in stats {
        let Some(q) = oracle.plan.queues.iter().position(|q| q.name == s.name.as_str()) else { continue };
        ready += s.messages_ready;
        ensure((low[q]..=high[q]).contains(&s.messages_ready), "counts", || {
            let here =
                oracle.live.iter().map(|id| &oracle.copies[*id]).filter(|c| c.phase == Phase::Ready && c.at == q);
            let here: Vec<usize> = here.map(|c| c.message).collect();
            format!("{} reports {} ready, there must be {} to {}: {here:?}", s.name, s.messages_ready, low[q], high[q])
        })?;
        ensure(s.messages_unacknowledged == unacked[q], "counts", || {
            format!("{} reports {} unacked, {} are outstanding", s.name, s.messages_unacknowledged, unacked[q])
        })?;
        ensure(s.messages_ram <= s.messages_ready && s.messages_persistent <= s.messages_ready, "counts", || {
            format!("{} reports more in memory or on disk than ready: {s:?}", s.name)
        })?;
    }
    ensure(ready >= certain, "counts", || format!("all queues together report {ready} ready, {certain} must be there"))
}

//! Body files: what lies in them, and how much of it lives.
//!
//! Runs of a group that hold the same messages, because their queues differ in deadline or priority limit, share one frame of
//! a file. Most frames belong to one run: those are added up and not known one by one. Of a shared one the file knows the runs
//! and, in sixteenths, how much of it each has left. **As much of it lives as of the run that has most**: exactly that when
//! queues are consumed from the front, purged or deleted, and never more than there is, so that a file of which most is dead
//! never looks as if it were not. Where every queue has left something else it is too little: then a file is written again
//! before it must be, after which what lives in it is whole again.

use super::runs::Ids;
use hornpipe_types::Map;
use hornpipe_types::ids::EnqueueId;
use hornpipe_types::op::BodyPlace;

/// How finely it is known what lives of a shared frame.
const PARTS: usize = 16;

/// A frame that several runs share.
#[derive(Debug, Default)]
struct Shared {
    /// Runs that are there.
    alive: u32,
    /// How many of them have one, two … all of the parts of the frame left.
    left: [u32; PARTS],
    /// All that ever were.
    runs: Ids,
}

impl Shared {
    /// How many parts of a frame so many octets are, rounded down.
    fn parts(body: &BodyPlace, live: u64) -> usize {
        (PARTS as u64 * live / u64::from(body.len.max(1))).min(PARTS as u64) as usize
    }
    /// Where a run with so many live octets is counted. One with next to nothing isn't.
    fn count_of(&mut self, body: &BodyPlace, live: u64) -> Option<&mut u32> {
        self.left.get_mut(Self::parts(body, live).checked_sub(1)?)
    }
    fn live_bytes(&self, body: &BodyPlace) -> u64 {
        let most = self.left.iter().rposition(|runs| *runs > 0).map_or(0, |k| k as u64 + 1);
        u64::from(body.len) * most / PARTS as u64
    }
    fn add(&mut self, body: &BodyPlace, id: EnqueueId, live: u64) {
        self.alive += 1;
        self.runs.push(id);
        self.count_of(body, live).into_iter().for_each(|n| *n += 1);
    }
    /// A run has less left of it.
    fn change(&mut self, body: &BodyPlace, before: u64, after: u64) {
        self.count_of(body, before).into_iter().for_each(|n| *n = n.saturating_sub(1));
        self.count_of(body, after).into_iter().for_each(|n| *n += 1);
    }
}

/// What is known of a body file.
#[derive(Debug, Default)]
pub(super) struct BodyFile {
    /// Runs in it that live.
    pub(super) live: u32,
    /// Octets of frames that live.
    pub(super) live_bytes: u64,
    /// Where the last run that is known ends: so many octets it takes.
    pub(super) end: u64,
    /// All runs in it, as they came.
    pub(super) runs: Ids,
    /// By the offsets of their frames.
    shared: Map<u64, Shared>,
    /// Runs came whose frames lie in front of others that were there before: frames may be shared.
    pub(super) repeats: bool,
}

impl BodyFile {
    /// A run lies in the file, and so many octets of it live. Whether its frame is behind all before.
    pub(super) fn add(&mut self, id: EnqueueId, body: &BodyPlace, live: u64) -> bool {
        let is_new = body.offset >= self.end;
        self.repeats |= !is_new;
        self.live += 1;
        self.end = self.end.max(body.offset + u64::from(body.len));
        self.runs.push(id);
        match self.shared.get_mut(&body.offset) {
            Some(shared) => {
                let before = shared.live_bytes(body);
                shared.add(body, id, live);
                self.live_bytes += shared.live_bytes(body) - before;
            }
            None => self.live_bytes += live,
        }
        is_new
    }

    /// A run that was added with so many live octets, and counted alone, shares its frame with others.
    pub(super) fn share(&mut self, id: EnqueueId, body: &BodyPlace, live: u64) {
        let shared = self.shared.entry(body.offset).or_default();
        let before = shared.live_bytes(body) + live;
        shared.add(body, id, live);
        self.live_bytes = (self.live_bytes + shared.live_bytes(body)).saturating_sub(before);
    }

    /// A run that had so many octets left has less.
    pub(super) fn change(&mut self, body: &BodyPlace, before: u64, after: u64) {
        let (was, is) = match self.shared.get_mut(&body.offset) {
            Some(shared) => {
                let was = shared.live_bytes(body);
                shared.change(body, before, after);
                (was, shared.live_bytes(body))
            }
            None => (before, after),
        };
        self.live_bytes = (self.live_bytes + is).saturating_sub(was);
    }

    /// A run that had so many octets left is no more.
    pub(super) fn remove(&mut self, body: &BodyPlace, live: u64) {
        self.change(body, live, 0);
        self.live = self.live.saturating_sub(1);
        if let Some(shared) = self.shared.get_mut(&body.offset) {
            shared.alive = shared.alive.saturating_sub(1);
            if shared.alive == 0 {
                self.shared.remove(&body.offset);
            }
        }
    }

    /// Whether more than half of it is dead.
    pub(super) fn is_half_dead(&self) -> bool {
        self.live_bytes * 2 < self.end
    }
    /// Whether several runs use a frame.
    pub(super) fn is_shared(&self, body: &BodyPlace) -> bool {
        self.shared.get(&body.offset).is_some_and(|shared| shared.alive > 1)
    }
    /// All runs a shared frame ever had.
    pub(super) fn sharers(&self, body: &BodyPlace) -> Option<&Ids> {
        self.shared.get(&body.offset).map(|shared| &shared.runs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LEN: u32 = 1600;

    fn frame(n: u64) -> BodyPlace {
        BodyPlace { file: 1, offset: n * 2000, len: LEN, crc: 0 }
    }

    proptest! {
        /// A frame counts as what the run has that has most of it, in sixteenths where it is shared; a file is alive as long as
        /// one of its runs is.
        #[test]
        fn a_frame_counts_once(
            sharers in prop::collection::vec(1usize..6, 1..8),
            deaths in prop::collection::vec((any::<prop::sample::Index>(), 0u64..1700), 0..60),
        ) {
            let mut file = BodyFile::default();
            let mut runs: Vec<(usize, u64)> = Vec::new();
            for (n, sharers) in sharers.iter().enumerate() {
                let body = frame(n as u64);
                for k in 0..*sharers {
                    let first = EnqueueId(runs.len() as u64 - k as u64);
                    if k > 0 && file.sharers(&body).is_none() {
                        file.share(first, &body, LEN.into());
                    }
                    prop_assert_eq!(file.add(EnqueueId(runs.len() as u64), &body, LEN.into()), k == 0);
                    runs.push((n, LEN.into()));
                }
            }
            prop_assert_eq!(file.live_bytes, sharers.len() as u64 * u64::from(LEN));
            for (which, died) in deaths {
                let which = which.index(runs.len().max(1));
                let Some((n, live)) = runs.get_mut(which) else { break };
                let (n, left) = (*n, live.saturating_sub(died));
                let before = std::mem::replace(live, left);
                if left > 0 {
                    file.change(&frame(n as u64), before, left);
                } else {
                    file.remove(&frame(n as u64), before);
                    runs.retain(|(_, live)| *live > 0);
                }
                let mut live = 0;
                for (n, sharers) in sharers.iter().enumerate() {
                    let of: Vec<u64> = runs.iter().filter(|(of, _)| *of == n).map(|(_, live)| *live).collect();
                    let most = of.iter().max().copied().unwrap_or(0);
                    live += if *sharers > 1 { most / 100 * 100 } else { most };
                    prop_assert_eq!(file.is_shared(&frame(n as u64)), of.len() > 1);
                }
                prop_assert_eq!(file.live_bytes, live);
                prop_assert_eq!(file.live as usize, runs.len());
            }
        }
    }
}

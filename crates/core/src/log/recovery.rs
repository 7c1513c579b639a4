//! What a start finds in the log: its runs, what of them lives, and what is there for nothing.

use super::{At, Log, LoggedRun, whole_frame};
use hornpipe_types::ids::{EnqueueId, QueueId};
use hornpipe_types::op::{BodyPlace, Place, RunMeta, Target};
use std::collections::BTreeMap;

impl Log {
    /// A run that recovery found in the log.
    pub(crate) fn recovered(
        &mut self,
        place: Place,
        targets: Vec<Target>,
        meta: RunMeta,
        count: u32,
        body_bytes: u64,
    ) -> EnqueueId {
        self.last_enqueue = self.last_enqueue.next();
        let id = self.last_enqueue;
        let most = body_bytes + u64::from(count) * 64;
        let bytes = whole_frame(&place).unwrap_or_else(|| place.body.map_or(most, |b| most.min(b.len.into())));
        let (meta, targets) = (meta.into(), targets.into());
        self.runs.push(id, LoggedRun { live: 0, count, bytes, at: At::Stored(place), meta, targets });
        // what lives of it is known when recovery is done
        self.settle_down(id, place, 0);
        id
    }

    /// So many copies of a recovered run are live.
    pub(crate) fn recovered_live(&mut self, id: EnqueueId, live: u32) {
        if let Some(run) = self.runs.get_mut(id) {
            run.live += live;
        }
    }
    /// Recovery is done: runs without live messages are buried.
    pub(crate) fn recovery_done(&mut self) {
        let stored = |(id, run): (EnqueueId, &LoggedRun)| match run.at {
            At::Stored(place) if run.live == 0 => Some((id, place)),
            _ => None,
        };
        let mut dead: Vec<(EnqueueId, Place)> = self.runs.iter().filter_map(stored).collect();
        dead.sort_unstable_by_key(|(id, _)| *id);
        for (id, place) in dead {
            self.runs.remove(id);
            self.bury(place, 0);
        }
        // of frames that may be shared: where, which run, its first queue
        let mut frames: Vec<(BodyPlace, EnqueueId, Option<QueueId>)> = Vec::new();
        for (id, run) in self.runs.iter() {
            let At::Stored(place) = run.at else { continue };
            match place.body {
                Some(body) => {
                    let Some(file) = self.files.get_mut(&body.file) else { continue };
                    file.change(&body, 0, run.live_bytes());
                    if file.repeats {
                        frames.push((body, id, run.targets.first().map(|t| t.queue)));
                    }
                }
                None => self.inline_live += run.live_bytes(),
            }
        }
        frames.sort_unstable();
        for same in frames.chunk_by(|(a, ..), (b, ..)| (a.file, a.offset) == (b.file, b.offset)) {
            // parts of one run that was cut have nothing in common: they are added up like runs with a frame each
            if same.iter().all(|(_, _, queue)| same.first().is_some_and(|first| first.2 == *queue)) {
                continue;
            }
            for (body, id, _) in same {
                let live = self.runs.get(*id).map_or(0, LoggedRun::live_bytes);
                self.files.get_mut(&body.file).into_iter().for_each(|file| file.share(*id, body, live));
            }
        }
    }

    /// Recovered runs whose body is one of these, with its index.
    pub(crate) fn runs_of(&mut self, bodies: &[BodyPlace]) -> BTreeMap<EnqueueId, usize> {
        let index: BTreeMap<BodyPlace, usize> = bodies.iter().enumerate().map(|(k, b)| (*b, k)).collect();
        if index.is_empty() {
            return BTreeMap::new();
        }
        let of = |run: &LoggedRun| match run.at {
            At::Stored(Place { body: Some(body), .. }) => index.get(&body).copied(),
            _ => None,
        };
        self.runs.iter().filter_map(|(id, run)| of(run).map(|k| (id, k))).collect()
    }
    /// A record that recovery found without live runs.
    pub(crate) fn recovered_record(&mut self, lsn: u64) {
        self.records.entry(lsn).or_default();
    }
    /// A body file that recovery found without a reference.
    pub(crate) fn recovered_orphan(&mut self, file: u64) {
        self.dead_files.push(file);
    }
}

//! Bodies that come back from disk: for the heads of queues, for messages that die or are due, and for runs that are written
//! again.

use crate::log::{LogRun, Member};
use crate::shard::Shard;
use hornpipe_types::effect::{Load, Loaded};
use hornpipe_types::ids::{EnqueueId, QueueId};
use hornpipe_types::message::Batch;
use hornpipe_types::op::Place;
use hornpipe_types::time::Now;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Who wants bodies back from disk.
#[derive(Debug)]
pub(crate) enum LoadFor {
    /// A queue, to serve its head.
    Queue(QueueId, EnqueueId, Place),
    /// The log, to write runs again that hold the same.
    Rewrite(Vec<(EnqueueId, Place)>),
    /// The log, to write some runs as one.
    Join(Vec<Member>),
}

/// Runs that all hold the messages of a batch, to be written again.
pub(crate) type Rewritten = (Vec<(EnqueueId, Place)>, Arc<Batch>);

impl Shard {
    /// Asks for the run that holds the head of a queue, and some behind it.
    pub(crate) fn load_head(&mut self, id: QueueId) {
        let Some(first) = self.queues.get(&id).and_then(|q| q.head()).map(|(_, head)| head.first) else { return };
        self.load_from(id, first);
    }

    /// Asks for the run that holds `first`, and some behind it.
    pub(crate) fn load_from(&mut self, id: QueueId, first: u64) {
        const AHEAD: usize = 4;
        let Some(queue) = self.queues.get(&id) else { return };
        let mut wanted = Vec::new();
        let passed_over = |r: &LogRun| queue.delayed.is_some() && self.log.is_unreadable(r.enqueue);
        let live = queue.log_runs_from(first).filter(|r| r.live > 0 && !passed_over(r));
        for run in live.take_while(|r| queue.is_readable(r)).take(AHEAD) {
            // on its way to the disk: its commit brings us back, those behind it would only be read over and over till then
            let Some((place, _)) = self.log.place(run.enqueue) else { break };
            let first = run.first - u64::from(run.index);
            if !queue.loading.values().any(|f| *f == first) {
                wanted.push((first, run.enqueue, place));
            }
        }
        for (first, enqueue, place) in wanted {
            self.ask_for(id, first, enqueue, place);
        }
    }

    /// Asks for the run that holds `seq`, if it is on disk.
    pub(crate) fn load_run(&mut self, id: QueueId, seq: u64) {
        let Some(queue) = self.queues.get(&id) else { return };
        let Some(run) = queue.log_runs_from(seq).next().filter(|r| queue.is_readable(r)) else { return };
        let (first, enqueue) = (run.first - u64::from(run.index), run.enqueue);
        if let Some((place, _)) = self.log.place(enqueue)
            && !queue.loading.values().any(|f| *f == first)
        {
            self.ask_for(id, first, enqueue, place);
        }
    }

    fn ask_for(&mut self, id: QueueId, first: u64, enqueue: EnqueueId, place: Place) {
        let load = self.next_load;
        self.next_load = load.next();
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.loading.insert(load, first);
        }
        self.loads.insert(load, LoadFor::Queue(id, enqueue, place));
        self.out.loads.push(Load { id: load, enqueue, place, behind: Vec::new() });
    }

    /// Writes again what keeps dead space from going.
    pub(crate) fn copy_forward(&mut self) {
        if self.rewriting > 0 || self.stopping.is_some() || self.no_spare_room || self.is_burying() {
            return;
        }
        let plan = self.log.copy_plan(&self.limits, &mut self.queues);
        if plan.is_empty() {
            return;
        }
        self.log.begin_command();
        for (id, place) in plan.refer {
            self.log.copy_forward(id, place, None, &mut self.queues);
        }
        for runs in plan.rewrite {
            let Some((id, place)) = runs.first().copied() else { continue };
            self.load_to_rewrite(id, place, Vec::new(), LoadFor::Rewrite(runs));
        }
        self.load_to_join(plan.join);
    }

    /// Joins more short runs once those asked for last are there.
    fn join_more(&mut self) {
        if self.rewriting == 0 && self.stopping.is_none() && !self.no_spare_room && !self.is_burying() {
            let plan = self.log.more_joins(&self.limits, &mut self.queues);
            self.load_to_join(plan);
        }
    }

    fn load_to_join(&mut self, plan: Vec<Vec<Member>>) {
        for members in plan {
            let mut places = members.iter().map(|m| (m.id, m.place));
            let Some((id, place)) = places.next() else { continue };
            let behind = places.map(|(_, place)| place).collect();
            self.load_to_rewrite(id, place, behind, LoadFor::Join(members));
        }
    }

    fn load_to_rewrite(&mut self, enqueue: EnqueueId, place: Place, behind: Vec<Place>, what: LoadFor) {
        let load = self.next_load;
        self.next_load = load.next();
        self.loads.insert(load, what);
        self.rewriting += 1;
        self.out.loads.push(Load { id: load, enqueue, place, behind });
    }

    /// All that was to be written again has been read.
    fn rewrite(&mut self) {
        let mut rewrites = std::mem::take(&mut self.rewrites);
        // they are planned anew when it is over
        if self.is_burying() {
            return;
        }
        rewrites.sort_by_key(|(runs, _)| runs.first().map(|(id, _)| *id));
        let mut rewrites = rewrites.into_iter().peekable();
        while let Some((mut runs, batch)) = rewrites.next() {
            // in records each run has its messages for itself: those that are the same lie side by side, and need be there once
            let first_queue = |(id, _): &(EnqueueId, Place)| self.log.first_queue(*id);
            let mut queues: BTreeSet<QueueId> = runs.iter().filter_map(first_queue).collect();
            // never two of one queue
            while let Some((more, _)) = rewrites.next_if(|(more, next)| {
                next.is_alike(&batch) && more.iter().filter_map(first_queue).all(|queue| queues.insert(queue))
            }) {
                runs.extend(more);
            }
            self.log.rewrite(&runs, &batch, &mut self.queues);
        }
    }

    pub(crate) fn on_loaded(&mut self, now: Now, loaded: Loaded) {
        let (id, enqueue, place) = match self.loads.remove(&loaded.id) {
            Some(LoadFor::Queue(id, enqueue, place)) => (id, enqueue, place),
            Some(LoadFor::Rewrite(runs)) => {
                self.rewriting -= 1;
                match loaded.batch {
                    Ok(batch) => self.rewrites.push((runs, batch)),
                    // they stay where they are: their queues tell when they are wanted
                    Err(_) => runs.iter().for_each(|(id, _)| self.log.note_unreadable(*id)),
                }
                if self.rewriting == 0 {
                    self.rewrite();
                }
                return;
            }
            Some(LoadFor::Join(members)) => {
                self.rewriting -= 1;
                match loaded.batch {
                    // some of them may be purged and not know it yet
                    Ok(_) if self.is_burying() => self.log.join_later(&members, &mut self.queues),
                    Ok(batch) => self.log.join_stored(&members, &batch, &mut self.queues),
                    Err(_) => self.log.leave_apart(&members, &mut self.queues),
                }
                self.join_more();
                return;
            }
            None => return,
        };
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let Some(first) = queue.loading.remove(&loaded.id) else { return };
        match loaded.batch {
            Ok(batch) => {
                batch.count_in(self.paging.batches());
                if let Some(delayed) = &mut queue.delayed {
                    let attached = delayed.attach(first, &batch);
                    queue.resident += attached;
                    self.resident += attached;
                    self.on_delayed_due(now, id);
                    self.page_out(id);
                    return;
                }
                self.resident += queue.attach(first, &batch);
                self.bury_loaded(now, id, first, &batch);
                self.mark_dirty(id);
                self.serve_waiting_gets(now, id);
            }
            // it died or was written elsewhere while the read waited: its old place may be gone
            Err(_) if self.log.place(enqueue).is_none_or(|(at, _)| at != place) => {
                if queue.delayed.is_some() {
                    self.on_delayed_due(now, id);
                    return;
                }
                self.load_dying(id);
                self.mark_dirty(id);
                self.serve_waiting_gets(now, id);
            }
            Err(error) => {
                // the messages stay where they are, are never served wrong and not asked for again: a disk that lost them
                // once will not bring them back
                let (name, vhost) = (&queue.definition.name, &queue.definition.vhost);
                if let Some(delayed) = &queue.delayed {
                    // what it holds goes by time, not by place: the others go on, and no client could purge it
                    self.out.remarks.push(format!(
                        "exchange '{}' in vhost '{vhost}' leaves out messages that can't be read back: {error}; \
                         delete it to be rid of them",
                        delayed.exchange
                    ));
                    self.log.note_unreadable(enqueue);
                    self.note_damage(id, error);
                    self.on_delayed_due(now, id);
                    return;
                }
                self.out.remarks.push(match &queue.definition.grave {
                    Some(grave) => format!(
                        "queue '{}' in vhost '{vhost}' was deleted, and messages that died in it before can't be read \
                         back: {error}; start with --accept-data-loss to go on without them",
                        grave.queue
                    ),
                    None => format!(
                        "queue '{name}' in vhost '{vhost}' stops at messages that can't be read back: {error}; \
                         purge or delete it to go on without them"
                    ),
                });
                queue.unreadable_from = queue.unreadable_from.min(first);
                self.log.note_unreadable(enqueue);
                self.note_damage(id, error);
            }
        }
    }
}

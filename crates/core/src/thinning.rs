//! Letting go of batches that stay for few of their messages.
//!
//! A waiting or outstanding message keeps the whole batch it came in. Where most of what came with it is gone, little of what is in
//! memory is wanted, and the budget for bodies does not see it. So the octets of all batches are counted ([`BatchGauge`]), and when
//! they are far more than the bodies, all that holds any is looked at in slices, twice: first each batch learns how
//! much of it is wanted, then what is wanted of those that are mostly waste is copied to new ones. A batch that is shared by
//! many queues, or by the priorities of one, is judged by what all of them want.
//!
//! A round costs as much as there are messages. The next one comes when the octets have doubled since.

use crate::paging::{PageOut, Stage};
use crate::queue::ready::Segment;
use crate::shard::Shard;
use crate::work::Work;
use hornpipe_types::gauge::BatchGauge;
use hornpipe_types::ids::{QueueId, Seq};
use hornpipe_types::message::{Batch, Span, copy_apart};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a copy costs, units of work, and octets whose copying costs one more.
const COPY_UNITS: u32 = 3;
const COPY_OCTETS: u64 = 1024;
/// So many messages of a run are summed up for a unit.
const SUMMED: u32 = 256;

/// One look at some of what holds batches.
#[derive(Debug)]
pub(crate) struct Look<'a> {
    round: u32,
    /// It is the second one of its round.
    copies: bool,
    units: u32,
    gauge: &'a BatchGauge,
}

impl<'a> Look<'a> {
    pub(crate) fn new(round: u32, copies: bool, units: u32, gauge: &'a BatchGauge) -> Self {
        Self { round, copies, units, gauge }
    }
    /// Units it has left.
    pub(crate) fn units(&self) -> u32 {
        self.units
    }
    pub(crate) fn spend(&mut self, units: u32) {
        self.units = self.units.saturating_sub(units);
    }
    /// Somebody wants messages of a batch, `bytes` octets of bodies: from, count, step of each part. Whether they are to be copied.
    pub(crate) fn at(
        &mut self,
        batch: Option<&Batch>,
        bytes: u64,
        parts: impl Iterator<Item = (u32, u32, u32)>,
    ) -> bool {
        self.spend(1);
        let Some(batch) = batch else { return false };
        if self.copies {
            let copies = batch.is_waste(self.round);
            if copies {
                self.spend(COPY_UNITS + u32::try_from(bytes / COPY_OCTETS).unwrap_or(u32::MAX));
            }
            return copies;
        }
        for (from, count, step) in parts {
            batch.want(self.round, from, count, step);
            self.spend(count / SUMMED);
        }
        false
    }
    /// The same for waiting messages: these, when they are to be copied.
    pub(crate) fn at_segment(&mut self, segment: &Segment) -> Option<Span> {
        let part = std::iter::once((segment.from, segment.count, 1));
        if self.at(segment.batch.as_deref(), segment.bytes, part) { segment.span() } else { None }
    }
    /// The same for messages that are kept one by one, from a key on; where to go on, `None` at the end.
    pub(crate) fn at_map<T>(
        &mut self,
        map: &mut BTreeMap<(u64, Seq), T>,
        from: Option<(u64, Seq)>,
        segment: impl Fn(&mut T) -> &mut Segment,
    ) -> Option<(u64, Seq)> {
        let (mut found, mut next) = (Vec::new(), None);
        for (key, entry) in map.range_mut(from.unwrap_or_default()..) {
            if self.units == 0 {
                next = Some(*key);
                break;
            }
            let segment = segment(entry);
            found.extend(self.at_segment(segment).map(|span| (segment, span)));
        }
        self.copy(found, |segment, batch, from| (segment.batch, segment.from) = (Some(batch), from));
        next
    }
    /// Copies messages apart and says where they are.
    pub(crate) fn copy<P>(&self, found: Vec<(P, Span)>, mut put: impl FnMut(P, Arc<Batch>, u32)) {
        let (places, spans): (Vec<P>, Vec<Span>) = found.into_iter().unzip();
        for (place, (batch, from)) in places.into_iter().zip(copy_apart(&spans)) {
            batch.count_in(self.gauge);
            put(place, batch, from);
        }
    }
}

impl Shard {
    /// When batches keep far more than bodies in memory, looks for those that are mostly waste.
    pub(crate) fn thin_out_batches(&mut self) {
        // what is on its way from a read to a socket or the disk is in batches, too
        let usual = self.limits.resident_bytes.saturating_add(self.resident.saturating_mul(2));
        if self.paging.batches_grew() > usual && !self.work.iter().any(|w| matches!(w, Work::PageOut(_))) {
            let out = self.page_out_from(Stage::Want);
            // in its turn: what is left of this one belongs to those who wait
            self.work.push_back(Work::PageOut(Box::new(out)));
        }
    }

    /// Goes on with the lists of a queue; whether that is done with.
    pub(crate) fn look_at_queue(&mut self, id: QueueId, out: &mut PageOut) -> bool {
        let Some(queue) = self.queues.get_mut(&id) else {
            self.spend(1);
            return true;
        };
        let (levels, gauge) = (queue.levels.len(), self.paging.batches());
        let mut look = Look::new(out.round, out.stage == Stage::Copy, self.units, gauge);
        while out.list < levels + 2 {
            if let Some(level) = queue.levels.get_mut(out.list) {
                out.at = level.look_at(out.at, &mut look);
            } else if out.list > levels {
                out.key = look.at_map(&mut queue.held_back, out.key, |(_, segment)| segment);
            } else if let Some(delayed) = &mut queue.delayed {
                out.key = delayed.look_at(out.key, &mut look);
            }
            if out.at.is_some() || out.key.is_some() {
                self.units = 0;
                return false;
            }
            out.list += 1;
        }
        // at the end: however little a slice may do, it comes further
        look.spend(1 + (levels / 16) as u32);
        self.units = look.units();
        true
    }
}

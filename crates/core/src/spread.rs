//! Publishes that are more than one turn should do: to very many queues, or of messages each of which goes its own way into many.
//!
//! What is left of such a publish is work like any other that goes on in slices ([`crate::work`]). Each queue gets the messages in
//! their order, and what the connection says next waits until the last queue has the last of them, so that the publishes of a channel
//! reach each queue in the order they were sent. A message is confirmed once every queue has it, by the last of the commits that
//! cover it. What is durable is logged slice by slice: after a crash before the confirm some queues may have it and others not.
//!
//! The queues are those of the moment the message was routed. One that is deleted before its turn comes gets nothing, and what
//! becomes of the channel meanwhile changes nothing, for what it published is published; but messages of a run that were not even routed yet
//! go with the channel, as all does that waits for its turn.

use crate::log::Publisher;
use crate::publish::{Entered, Entry, priority_of};
use crate::shard::Shard;
use crate::work::Work;
use hornpipe_types::command::PublishRun;
use hornpipe_types::ids::{ConnectionId, QueueId};
use hornpipe_types::message::Span;
use hornpipe_types::time::Now;
use std::sync::Arc;

/// Class and method of basic.publish.
const PUBLISH: (u16, u16) = (60, 40);

/// What is left of a run that was published.
#[derive(Debug)]
pub(crate) struct Spreading {
    /// Who published it.
    pub(crate) from: ConnectionId,
    pub(crate) number: u16,
    /// Messages that are on their way into their queues.
    pub(crate) wide: Option<Wide>,
    /// Those behind them.
    pub(crate) rest: Option<PublishRun>,
}

/// Messages on their way into many queues.
#[derive(Debug)]
pub(crate) struct Wide {
    span: Span,
    queues: Arc<[QueueId]>,
    entry: Entry,
    /// What became of each message so far.
    entered: Vec<Entered>,
    /// The queues before this one have all of them.
    next: usize,
    /// Those before this one have the first `at`.
    until: usize,
    at: u32,
}

impl Wide {
    pub(crate) fn new(span: Span, queues: Arc<[QueueId]>, entry: Entry) -> Self {
        let entered = vec![Entered::default(); span.count as usize];
        Self { span, queues, entry, entered, next: 0, until: 0, at: 0 }
    }
    /// Whether a queue refused any of it so far.
    pub(crate) fn is_refused(&self) -> bool {
        self.entered.iter().any(|entered| entered.rejected)
    }
}

/// Into which pieces a run is cut for the sake of the queues it goes to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pieces {
    /// A queue may refuse each.
    pub(crate) by_one: bool,
    /// A queue tells priorities apart.
    pub(crate) by_priority: bool,
}

impl Pieces {
    /// How many messages of a span from the `i`th on are one piece.
    pub(crate) fn next(self, span: &Span, i: u32) -> u32 {
        if self.by_one {
            return 1;
        }
        let take = span.count - i;
        if !self.by_priority || take == 1 {
            return take;
        }
        let priority = |k| priority_of(span.batch.meta(span.from + (i + k) * span.step));
        let first = priority(0);
        1 + (1..take).take_while(|k| priority(*k) == first).count() as u32
    }
}

impl Shard {
    pub(crate) fn pieces(&self, queues: &[QueueId]) -> Pieces {
        let mut pieces = Pieces::default();
        for queue in queues.iter().filter_map(|id| self.queues.get(id)) {
            pieces.by_one |= queue.settings.refuses();
            pieces.by_priority |= queue.levels.len() > 1;
        }
        pieces
    }

    /// Goes on with a run some other time.
    pub(crate) fn spread(&mut self, now: Now, left: Box<Spreading>) {
        self.begin_work(now, Work::Spread(left));
        // serving the queues that got something has an allowance of its own
        self.allow();
    }

    /// Goes on with a run as far as the allowance reaches; whether it is done.
    pub(crate) fn spread_some(&mut self, now: Now, left: &mut Spreading) -> bool {
        loop {
            if let Some(wide) = &mut left.wide {
                if !self.place_some(now, wide) {
                    return false;
                }
                self.answer_wide(wide);
                left.wide = None;
            }
            if left.rest.is_some() && self.units == 0 {
                return false;
            }
            let Some(rest) = left.rest.take() else { return true };
            if self.channel_mut(left.from, left.number).is_none() {
                return true;
            }
            let before = std::mem::take(&mut self.spent);
            let outcome = self.publish_on(now, left.from, left.number, &rest);
            let units = std::mem::replace(&mut self.spent, before);
            self.spend(units);
            match outcome {
                Ok(None) => return true,
                Ok(Some(more)) => (left.wide, left.rest) = (more.wide, more.rest),
                Err(error) => {
                    self.fail_method(now, (left.from, left.number), error, PUBLISH);
                    return true;
                }
            }
        }
    }

    /// Puts messages into their queues as far as the allowance reaches; whether all have all.
    pub(crate) fn place_some(&mut self, now: Now, wide: &mut Wide) -> bool {
        while wide.next < wide.queues.len() {
            if self.units == 0 {
                return false;
            }
            // what some of them have already the others are to have before any gets more
            if wide.at == 0 {
                wide.until = wide.queues.len().min(wide.next.saturating_add(self.units as usize));
            }
            let queues = wide.queues.get(wide.next..wide.until).unwrap_or_default();
            let lives = |id: &&QueueId| self.queues.get(id).is_some_and(|queue| !queue.is_grave());
            let queues: Vec<QueueId> = queues.iter().filter(lives).copied().collect();
            let pieces = self.pieces(&queues);
            while wide.at < wide.span.count {
                if self.units == 0 {
                    return false;
                }
                let count = pieces.next(&wide.span, wide.at);
                let from = wide.span.from + wide.at * wide.span.step;
                let part = Span { batch: Arc::clone(&wide.span.batch), from, count, step: 1 };
                // it takes from the allowance, not from what the turn has left beside
                let spent = self.spent;
                let entered = self.enter(now, &queues, &part, Entry { publisher: None, ..wide.entry });
                self.spent = spent;
                if pieces.by_one {
                    self.flush_queues(now, &queues);
                }
                self.spend((wide.until - wide.next) as u32);
                let of_part = wide.entered.iter_mut().skip(wide.at as usize).take(count as usize);
                of_part.for_each(|each| *each = each.and(entered));
                wide.at += count;
            }
            (wide.next, wide.at) = (wide.until, 0);
        }
        true
    }

    /// All queues have all messages.
    fn answer_wide(&mut self, wide: &Wide) {
        let Some(mut publisher): Option<Publisher> = wide.entry.publisher else { return };
        for alike in wide.entered.chunk_by(|a, b| a == b) {
            let Some(entered) = alike.first() else { continue };
            self.answer_publish(publisher, alike.len() as u32, *entered);
            publisher.first_tag += alike.len() as u64;
        }
    }
}

//! Which message goes to which queue: its publisher and its place in the publisher's stream tell, so a consumer knows what is due
//! to it.

use std::fmt::Write as _;

use anyhow::anyhow;

use crate::plan::{Plan, Route};

/// No message of that source comes to that consumer.
const NEVER: u64 = u64::MAX;

/// The keys of a load, and what they lead to.
#[derive(Debug, Clone)]
pub(crate) struct Routing {
    route: Route,
    queues: usize,
    channels: usize,
    /// Publishers address the queues in turn.
    spread: bool,
    /// Keys that a publisher goes through.
    keys: usize,
    /// Messages in a row with one key.
    row: usize,
}

impl Routing {
    pub(crate) fn new(plan: &Plan) -> Self {
        let keys = match plan.route {
            Route::Queue if plan.spread > 0 => plan.queues,
            Route::Topic(bindings) => bindings,
            Route::Queue | Route::Fanout => 1,
        };
        Self {
            route: plan.route,
            queues: plan.queues,
            channels: plan.channels,
            spread: plan.spread > 0,
            keys,
            row: plan.spread.max(1),
        }
    }

    /// Messages of a publisher after which its keys and channels come again.
    pub(crate) fn cycle(&self) -> usize {
        self.keys * self.channels * self.row
    }

    /// Number of the key of a publisher's message.
    fn key_number(&self, message: u64) -> usize {
        let message = message as usize;
        // With the round of channels the keys move on by one, so that no channel keeps to one key.
        let round = if self.channels > 1 { message / self.channels } else { 0 };
        (message / self.row + round) % self.keys
    }

    /// Appends the routing key of a publisher's message.
    pub(crate) fn write_key(&self, publisher: usize, message: u64, out: &mut String) {
        // Writing to a string can't fail.
        let _ = match self.route {
            Route::Fanout => Ok(()),
            Route::Queue => write!(out, "bench.{}", self.queue_of(publisher, message).unwrap_or_default()),
            Route::Topic(_) => write!(out, "site{}.sensor.x", self.key_number(message)),
        };
    }

    /// The queue of a publisher's message; `None` where all have it.
    fn queue_of(&self, publisher: usize, message: u64) -> Option<usize> {
        match self.route {
            Route::Fanout => None,
            Route::Queue if self.spread => Some((publisher + self.key_number(message)) % self.queues),
            Route::Queue => Some(publisher % self.queues),
            Route::Topic(_) => Some(self.key_number(message) % self.queues),
        }
    }

    /// Place in its publisher's stream of a source's message; a source is a publisher's channel.
    pub(crate) fn message(&self, source: usize, number: u64) -> (usize, u64) {
        let channels = self.channels;
        (source / channels, number * channels as u64 + (source % channels) as u64)
    }

    /// Whether a source's message belongs to that queue.
    pub(crate) fn leads(&self, source: usize, number: u64, queue: usize) -> bool {
        let (publisher, message) = self.message(source, number);
        self.queue_of(publisher, message).is_none_or(|found| found == queue)
    }

    /// The first message of a source for each queue that has some.
    fn firsts(&self, source: usize, mut found: impl FnMut(usize, u64)) {
        let mut seen = vec![false; self.queues];
        for number in 0..(self.keys * self.row) as u64 {
            let (publisher, message) = self.message(source, number);
            match self.queue_of(publisher, message) {
                Some(queue) if !std::mem::replace(&mut seen[queue], true) => found(queue, number),
                Some(_) => {}
                None => {
                    (0..self.queues).for_each(|queue| found(queue, 0));
                    return;
                }
            }
        }
    }

    /// From each message of a source to the next one of the same queue, in the shortest cycle.
    fn steps(&self, channel: usize) -> Vec<u32> {
        let cycle = self.keys * self.row;
        let mut next = vec![0; self.queues];
        let mut steps = vec![1; cycle];
        for number in (0..cycle * 2).rev() {
            let (publisher, message) = self.message(channel, number as u64);
            let Some(queue) = self.queue_of(publisher, message) else { return vec![1] };
            if number < cycle {
                steps[number] = (next[queue] - number) as u32;
            }
            next[queue] = number;
        }
        let shortest = (1..cycle)
            .filter(|length| cycle.is_multiple_of(*length))
            .find(|length| steps[*length..] == steps[..cycle - length]);
        steps.truncate(shortest.unwrap_or(cycle));
        steps
    }
}

/// What comes next from a source to a consumer.
#[derive(Debug, Clone, Copy)]
struct Track {
    /// Number of the message that is due, or the lowest that may come.
    due: u64,
    /// Place of `due` in the cycle of steps.
    at: u32,
}

/// How the number that is due moves on.
#[derive(Debug)]
enum Follow {
    /// Always by so many.
    Every(u64),
    /// By a step for each place in a cycle, for each channel.
    Cycle(Vec<Vec<u32>>),
    /// Others take from the same queue, so that only the direction is known.
    Later,
}

/// What is due to a connection's consumers.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) routing: Routing,
    follow: Follow,
    sources: usize,
    /// By consumer and source.
    tracks: Vec<Track>,
    /// Queue of each consumer.
    queues: Vec<usize>,
    /// Numbers that came, where others take from the same queue: all together are known.
    pub(crate) sum: u64,
}

impl Order {
    /// For a plan's consuming connection of that number.
    pub(crate) fn new(plan: &Plan, connection: usize) -> Self {
        let routing = Routing::new(plan);
        let sources = plan.publishers * plan.channels;
        let queues: Vec<usize> = plan
            .queue_numbers_of(connection)
            .flat_map(|queue| std::iter::repeat_n(queue, plan.subscriptions))
            .collect();
        let connections = plan.consumers.clamp(1, plan.queues);
        let mut tracks = vec![Track { due: NEVER, at: 0 }; sources * queues.len()];
        for source in 0..sources {
            routing.firsts(source, |queue, number| {
                if queue % connections == connection % connections {
                    let from = queue / connections * plan.subscriptions;
                    for consumer in from..from + plan.subscriptions {
                        tracks[consumer.wrapping_mul(sources).wrapping_add(source)].due = number;
                    }
                }
            });
        }
        let follow = if plan.shares_queues() {
            Follow::Later
        } else {
            let cycles: Vec<Vec<u32>> = (0..plan.channels).map(|channel| routing.steps(channel)).collect();
            match cycles.iter().flatten().max() {
                Some(step) if cycles.iter().flatten().all(|other| other == step) => Follow::Every(u64::from(*step)),
                _ => Follow::Cycle(cycles),
            }
        };
        if let Follow::Cycle(cycles) = &follow {
            for (place, track) in tracks.iter_mut().enumerate().filter(|(_, track)| track.due != NEVER) {
                track.at = (track.due % cycles[place % sources % plan.channels].len() as u64) as u32;
            }
        }
        Self { routing, follow, sources, tracks, queues, sum: 0 }
    }

    /// Consumers of the connection.
    pub(crate) fn consumers(&self) -> usize {
        self.queues.len()
    }

    /// Takes a message to a consumer; `false` if another one was due.
    #[inline]
    pub(crate) fn take(&mut self, consumer: usize, source: usize, number: u64) -> bool {
        let sources = self.sources;
        if let (Follow::Every(step), Some(track)) =
            (&self.follow, self.tracks.get_mut(consumer.wrapping_mul(sources).wrapping_add(source)))
            && track.due == number
            && source < sources
        {
            track.due += *step;
            return true;
        }
        self.take_otherwise(consumer, source, number)
    }

    /// The same for what isn't the plain next one.
    #[inline(never)]
    fn take_otherwise(&mut self, consumer: usize, source: usize, number: u64) -> bool {
        let Some(track) = self.tracks.get_mut(consumer.wrapping_mul(self.sources).wrapping_add(source)) else {
            return false;
        };
        match &self.follow {
            _ if source >= self.sources => false,
            Follow::Every(_) => false,
            Follow::Cycle(cycles) => {
                let steps = &cycles[source % cycles.len()];
                let (due, step) = (track.due, steps[track.at as usize]);
                track.due = due.wrapping_add(u64::from(step));
                track.at = (track.at + step) % steps.len() as u32;
                due == number
            }
            Follow::Later => {
                let later = number >= track.due && self.routing.leads(source, number, self.queues[consumer]);
                track.due = number + 1;
                self.sum = self.sum.wrapping_add(number);
                later
            }
        }
    }

    /// Why a message was not taken.
    #[cold]
    pub(crate) fn complaint(&self, consumer: usize, source: usize, number: u64) -> anyhow::Error {
        let (publisher, channel) = (source / self.routing.channels, source % self.routing.channels + 1);
        let what = format!("message {number} of channel {channel} of publisher {publisher}");
        let Some(queue) = self.queues.get(consumer).filter(|_| source < self.sources) else {
            return anyhow!("{what}, which isn't there, came to consumer {consumer}");
        };
        if self.routing.leads(source, number, *queue) {
            anyhow!("{what} came to bench.{queue} out of turn: one before it is lost, or it came twice or late")
        } else {
            anyhow!("{what} came to bench.{queue}, where it doesn't belong")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Case, Flags};

    /// Sends so many messages of each publisher as the routing says; `wrong` may change a message's queue.
    fn deliver(plan: &Plan, count: u64, mut wrong: impl FnMut(u64, usize) -> usize) -> Result<u64, String> {
        let mut orders: Vec<Order> = (0..plan.consumers).map(|index| Order::new(plan, index)).collect();
        let mut taken = 0;
        for number in 0..count {
            for source in 0..plan.publishers * plan.channels {
                let routing = Routing::new(plan);
                let (publisher, message) = routing.message(source, number);
                let queues = match routing.queue_of(publisher, message) {
                    Some(queue) => queue..queue + 1,
                    None => 0..plan.queues,
                };
                for queue in queues {
                    let queue = wrong(message, queue);
                    let (connection, consumer) = (queue % plan.consumers, queue / plan.consumers * plan.subscriptions);
                    if !orders[connection].take(consumer, source, number) {
                        return Err(orders[connection].complaint(consumer, source, number).to_string());
                    }
                    taken += 1;
                }
            }
        }
        Ok(taken)
    }

    fn plans() -> Vec<Plan> {
        let flags = |queues, consumers, spread| Flags {
            queues: Some(queues),
            consumers: Some(consumers),
            spread: Some(spread),
            ..Flags::default()
        };
        let mut plans: Vec<Plan> = [Case::A, Case::D, Case::F, Case::G, Case::N]
            .into_iter()
            .map(|case| Plan::new(Some(case), &Flags::default()).expect("sound"))
            .collect();
        plans.push(Plan::new(None, &flags(12, 3, 8)).expect("sound"));
        plans.push(Plan::new(Some(Case::N), &flags(4, 2, 3)).expect("sound"));
        // Bindings that don't divide evenly over the queues: the steps aren't all alike.
        plans.push(Plan::new(None, &Flags { topic: Some(7), queues: Some(3), ..Flags::default() }).expect("sound"));
        plans
    }

    #[test]
    fn what_is_due_comes() {
        for plan in plans() {
            let messages = 100 * (plan.publishers * plan.channels) as u64;
            assert_eq!(deliver(&plan, 100, |_, queue| queue), Ok(messages * plan.copies()), "{plan:?}");
        }
    }

    #[test]
    fn a_message_in_another_queue_is_seen() {
        for plan in plans().into_iter().filter(|plan| plan.queues > 1) {
            let everywhere = plan.route == Route::Fanout;
            let wrong = |message, queue| message == 77 && (queue == 0 || !everywhere);
            let other = |message, queue| if wrong(message, queue) { (queue + 1) % plan.queues } else { queue };
            let complaint = deliver(&plan, 100, other).expect_err("seen");
            assert!(
                complaint.contains(if everywhere { "out of turn" } else { "where it doesn't belong" }),
                "{complaint}"
            );
        }
    }

    #[test]
    fn a_message_left_out_or_repeated_is_seen() {
        for plan in plans() {
            for wrong in [1u64, 2] {
                let mut order = Order::new(&plan, 0);
                let routing = Routing::new(&plan);
                let mine: Vec<u64> = (0..200).filter(|number| routing.leads(0, *number, 0)).take(6).collect();
                let taken: Vec<u64> = if wrong == 1 {
                    mine.iter().copied().filter(|number| *number != mine[3]).collect()
                } else {
                    [&mine[..4], &mine[3..]].concat()
                };
                let all = taken.iter().all(|number| order.take(0, 0, *number));
                assert!(!all, "{plan:?}");
            }
        }
    }

    #[test]
    fn beside_others_at_the_same_queue_direction_and_queue_are_known() {
        let flags = Flags { topic: Some(10), queues: Some(2), consumers: Some(4), ..Flags::default() };
        let plan = Plan::new(None, &flags).expect("sound");
        let mut order = Order::new(&plan, 3);
        assert!(order.take(0, 0, 1) && order.take(0, 0, 7));
        assert!(!order.take(0, 0, 5), "backwards");
        assert!(!order.take(0, 0, 8), "of the other queue");
        assert_eq!(order.sum, 1 + 7 + 5 + 8);
    }
}

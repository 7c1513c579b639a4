//! What a load run does: the cases of the table and the flags that change them.

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::inputs::{rate, seconds, within};

/// Letters of the table in `docs/performance.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Case {
    /// 1 publisher, 1 consumer, 16 B transient, auto-ack
    A,
    /// the same with 1 KiB
    B,
    /// 1 KiB persistent, confirms (window 1000), manual ack
    C,
    /// as c, with 4 publishers, 4 queues, 4 consumers
    D,
    /// 2 M × 100 B persistent with confirms into one queue, then drained
    E,
    /// fanout to 10 queues, 16 B
    F,
    /// topic exchange with 1000 bindings, every message another key, 16 B
    G,
    /// 1 000 messages a second, 1 KiB persistent, confirms, manual ack: latencies
    H,
    /// 2 000 idle connections
    I,
    /// 10 000 durable queues, declared pipelined
    J,
    /// fresh start
    K,
    /// restart with 1 M × 100 B waiting
    L,
    /// connections opened and closed
    M,
    /// mixed traffic: runs of one, 16 and 24 B transient, acks one by one
    N,
    /// 1 000 messages a second, 1 KiB transient: latencies
    O,
    /// 10 000 messages a second, 1 KiB transient: latencies
    P,
    /// a small client that asks and waits, beside others' floods and fills
    Q,
    /// a consumer that doesn't read, beside a publisher
    R,
    /// as h without a consumer: confirms that wait for the disk
    S,
}

impl Case {
    pub(crate) const ALL: [Self; 19] = [
        Self::A,
        Self::B,
        Self::C,
        Self::D,
        Self::E,
        Self::F,
        Self::G,
        Self::N,
        Self::H,
        Self::S,
        Self::O,
        Self::P,
        Self::Q,
        Self::R,
        Self::I,
        Self::J,
        Self::M,
        Self::K,
        Self::L,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::A => "a. 1 → 1, 16 B transient, auto-ack",
            Self::B => "b. 1 → 1, 1 KiB transient, auto-ack",
            Self::C => "c. 1 → 1, 1 KiB persistent, confirms, manual ack",
            Self::D => "d. 4 → 4 queues → 4, otherwise as c",
            Self::E => "e. 2 M × 100 B persistent into one queue, then drained",
            Self::F => "f. fanout to 10 queues, 16 B",
            Self::G => "g. topic, 1000 bindings, 16 B",
            Self::H => "h. 1 000/s, 1 KiB persistent",
            Self::I => "i. 2 000 idle connections",
            Self::J => "j. 10 000 durable queues",
            Self::K => "k. fresh start",
            Self::L => "l. restart with 1 M × 100 B",
            Self::M => "m. connection open and close",
            Self::N => "n. mixed: keys, sizes, channels alternate, acks one by one",
            Self::O => "o. 1 000/s, 1 KiB transient",
            Self::P => "p. 10 000/s, 1 KiB transient",
            Self::Q => "q. a small client beside heavy ones",
            Self::R => "r. a consumer that doesn't read",
            Self::S => "s. 1 000/s, 1 KiB persistent, no consumer",
        }
    }
}

/// Flags that describe or change a load.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Flags {
    /// Body size in bytes
    #[arg(long, value_parser = within::<usize>(0..=1 << 29))]
    pub(crate) body: Option<usize>,
    /// Delivery mode 2
    #[arg(long)]
    pub(crate) persistent: Option<bool>,
    /// Publisher confirms with at most that many outstanding; 0 for none
    #[arg(long, value_parser = within::<u64>(0..=1_000_000))]
    pub(crate) confirm: Option<u64>,
    /// Manual acks, one `multiple` for every so many messages; 0 for auto-ack
    #[arg(long, value_parser = within::<u64>(0..=1_000_000))]
    pub(crate) ack: Option<u64>,
    /// basic.qos prefetch count with manual acks; 0 for unlimited
    #[arg(long)]
    pub(crate) prefetch: Option<u16>,
    /// Publishing connections
    #[arg(long, value_parser = within::<usize>(1..=65_536))]
    pub(crate) publishers: Option<usize>,
    /// Queues on the default exchange
    #[arg(long, value_parser = within::<usize>(1..=1_000_000))]
    pub(crate) queues: Option<usize>,
    /// Consuming connections
    #[arg(long, value_parser = within::<usize>(0..=65_536))]
    pub(crate) consumers: Option<usize>,
    /// Fanout exchange to that many queues
    #[arg(long, value_parser = within::<usize>(1..=65_536))]
    pub(crate) fanout: Option<usize>,
    /// Topic exchange with that many bindings over the queues
    #[arg(long, value_parser = within::<usize>(1..=10_000_000))]
    pub(crate) topic: Option<usize>,
    /// Messages to publish in all, in place of --seconds
    #[arg(long, value_parser = within::<u64>(1..=1 << 40), conflicts_with = "seconds")]
    pub(crate) count: Option<u64>,
    /// How long to publish
    #[arg(long, value_parser = seconds)]
    pub(crate) seconds: Option<f64>,
    /// Messages a second in all, for latencies; without it as fast as it goes
    #[arg(long, value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// Publish everything first, then consume
    #[arg(long)]
    pub(crate) drain: Option<bool>,
    /// Bytes handed to the socket in one write
    #[arg(long, value_parser = within::<usize>(1..=1 << 26))]
    pub(crate) write: Option<usize>,
    /// Channels of each publishing connection, used in turn
    #[arg(long, value_parser = within::<usize>(1..=1000))]
    pub(crate) channels: Option<usize>,
    /// Publishers address all queues in turn, so many messages in a row each; 0: each publisher has its queue
    #[arg(long, value_parser = within::<usize>(0..=1_000_000))]
    pub(crate) spread: Option<usize>,
    /// Every other body is 8 bytes longer
    #[arg(long)]
    pub(crate) uneven: Option<bool>,
    /// Threads that the publishers share, in turn; without it each has one
    #[arg(long, value_parser = within::<usize>(1..=1000))]
    pub(crate) threads: Option<usize>,
    /// Consumers of each consuming connection on each of its queues
    #[arg(long, value_parser = within::<usize>(1..=65_536))]
    pub(crate) subscriptions: Option<usize>,
    /// Clients of case m side by side
    #[arg(long, value_parser = within::<usize>(1..=65_536))]
    pub(crate) clients: Option<usize>,
    /// Whether clients of case m open a channel
    #[arg(long)]
    pub(crate) channel: Option<bool>,
    /// x-queue-type
    #[arg(long)]
    pub(crate) queue_type: Option<String>,
}

/// Where messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// Straight to a queue, publisher p to queue p modulo the number of queues.
    Queue,
    /// To every queue.
    Fanout,
    /// Each of n keys matches one binding; binding i belongs to queue i modulo the number of queues.
    Topic(usize),
}

/// When publishing ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Amount {
    Count(u64),
    Seconds(f64),
    /// So many, or fewer if that takes longer than so many seconds.
    Within(u64, f64),
}

/// A load, complete.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) body: usize,
    pub(crate) persistent: bool,
    pub(crate) confirm: Option<u64>,
    pub(crate) ack: Option<u64>,
    pub(crate) prefetch: u16,
    pub(crate) publishers: usize,
    pub(crate) queues: usize,
    pub(crate) consumers: usize,
    pub(crate) route: Route,
    pub(crate) amount: Amount,
    pub(crate) rate: Option<f64>,
    pub(crate) drain: bool,
    pub(crate) write: usize,
    pub(crate) channels: usize,
    pub(crate) spread: usize,
    pub(crate) uneven: bool,
    pub(crate) threads: Option<usize>,
    pub(crate) subscriptions: usize,
    pub(crate) queue_type: Option<String>,
    /// The queues are there already and stay.
    pub(crate) keep: bool,
}

impl Plan {
    /// A case of the table, or for none the plain flow of case a, with flags on top.
    ///
    /// # Errors
    /// When the flags contradict each other, or the case isn't a message load.
    pub(crate) fn new(case: Option<Case>, flags: &Flags) -> Result<Self> {
        let mut plan = Self {
            body: 16,
            persistent: false,
            confirm: None,
            ack: None,
            prefetch: 1000,
            publishers: 1,
            queues: 1,
            consumers: 1,
            route: Route::Queue,
            amount: Amount::Seconds(3.0),
            rate: None,
            drain: false,
            write: 64 * 1024,
            channels: 1,
            spread: 0,
            uneven: false,
            threads: None,
            subscriptions: 1,
            queue_type: None,
            keep: false,
        };
        match case {
            None | Some(Case::A) => {}
            Some(Case::B) => plan.body = 1024,
            Some(Case::C) => plan.durable(),
            Some(Case::D) => {
                plan.durable();
                (plan.publishers, plan.queues, plan.consumers) = (4, 4, 4);
            }
            Some(Case::E) => {
                plan.durable();
                (plan.body, plan.ack, plan.drain) = (100, None, true);
                plan.amount = Amount::Within(2_000_000, 20.0);
            }
            Some(Case::F) => (plan.route, plan.queues, plan.consumers) = (Route::Fanout, 10, 10),
            Some(Case::G) => (plan.route, plan.queues, plan.consumers) = (Route::Topic(1000), 10, 10),
            Some(Case::H) => {
                plan.durable();
                (plan.rate, plan.ack, plan.amount) = (Some(1000.0), Some(1), Amount::Seconds(5.0));
            }
            // Nobody acknowledges a message before it is written, so each waits for the disk.
            Some(Case::S) => {
                plan.durable();
                (plan.rate, plan.amount, plan.consumers) = (Some(1000.0), Amount::Seconds(5.0), 0);
            }
            Some(Case::N) => {
                (plan.publishers, plan.queues, plan.consumers) = (4, 4, 4);
                (plan.channels, plan.spread, plan.uneven) = (8, 1, true);
                (plan.write, plan.ack) = (1024, Some(1));
            }
            Some(case @ (Case::O | Case::P)) => {
                plan.rate = Some(if case == Case::O { 1000.0 } else { 10_000.0 });
                (plan.body, plan.amount) = (1024, Amount::Seconds(5.0));
            }
            Some(case) => bail!("{case:?} is not a message load"),
        }
        plan.apply(flags)?;
        Ok(plan)
    }

    fn durable(&mut self) {
        (self.body, self.persistent, self.confirm, self.ack) = (1024, true, Some(1000), Some(100));
    }

    fn apply(&mut self, flags: &Flags) -> Result<()> {
        set(&mut self.body, flags.body);
        set(&mut self.persistent, flags.persistent);
        set(&mut self.prefetch, flags.prefetch);
        set(&mut self.publishers, flags.publishers);
        set(&mut self.drain, flags.drain);
        set(&mut self.write, flags.write);
        set(&mut self.channels, flags.channels);
        set(&mut self.spread, flags.spread);
        set(&mut self.uneven, flags.uneven);
        set(&mut self.subscriptions, flags.subscriptions);
        self.threads = flags.threads.or(self.threads);
        if let Some(window) = flags.confirm {
            self.confirm = (window > 0).then_some(window);
        }
        if let Some(every) = flags.ack {
            self.ack = (every > 0).then_some(every);
        }
        if let Some(queues) = flags.fanout {
            (self.route, self.queues, self.consumers) = (Route::Fanout, queues, queues);
        }
        if let Some(bindings) = flags.topic {
            self.route = Route::Topic(bindings);
        }
        if let Some(queues) = flags.queues {
            // A case without consumers stays one.
            (self.queues, self.consumers) = (queues, if self.consumers == 0 { 0 } else { queues });
        }
        set(&mut self.consumers, flags.consumers);
        match (flags.count, flags.seconds) {
            (Some(count), _) => self.amount = Amount::Count(count),
            (None, Some(seconds)) => self.amount = Amount::Seconds(seconds),
            (None, None) => {}
        }
        if flags.rate.is_some() {
            self.rate = flags.rate;
        }
        self.queue_type.clone_from(&flags.queue_type);
        self.check()
    }

    fn check(&self) -> Result<()> {
        if self.publishers * self.channels > 1 << 16 {
            bail!("{} publishers with {} channels each are more than 65536 channels", self.publishers, self.channels);
        }
        if !self.consumers.is_multiple_of(self.queues) && !self.queues.is_multiple_of(self.consumers) {
            bail!("{} consumers don't divide evenly over {} queues", self.consumers, self.queues);
        }
        if self.threads.is_some() && (self.rate.is_some() || self.confirm.is_some()) {
            bail!("publishers that share threads don't wait for confirms or a schedule");
        }
        if self.ack.is_some_and(|every| self.prefetch > 0 && every > u64::from(self.prefetch)) {
            bail!("acks come less often than the prefetch of {} allows", self.prefetch);
        }
        if self.rate.is_some() && self.body < 16 {
            bail!("latencies need bodies of 16 bytes: sequence number and scheduled send time");
        }
        if self.spread > 0 && self.route != Route::Queue {
            bail!("--spread is for messages that go straight to queues");
        }
        if self.channels > 1 && self.confirm.is_some() {
            bail!("confirms are counted on one channel: give --confirm 0 or --channels 1");
        }
        if self.rate.is_some() && self.drain {
            bail!("--rate and --drain exclude each other");
        }
        Ok(())
    }

    /// Copies of each message that queues hold together.
    pub(crate) fn copies(&self) -> u64 {
        if self.route == Route::Fanout { self.queues as u64 } else { 1 }
    }

    pub(crate) fn exchange(&self) -> &'static str {
        match self.route {
            Route::Queue => "",
            Route::Fanout => "bench.fanout",
            Route::Topic(_) => "bench.topic",
        }
    }

    /// Size of the message that many places after the first of a publisher.
    pub(crate) fn size(&self, index: usize) -> usize {
        self.body + if self.uneven { index % 2 * 8 } else { 0 }
    }

    /// Queues of a consuming connection, by number.
    pub(crate) fn queue_numbers_of(&self, consumer: usize) -> impl Iterator<Item = usize> {
        (consumer..self.queues.max(consumer + 1)).step_by(self.consumers.max(1)).map(|index| index % self.queues)
    }

    /// Whether queues have several consumers, so that none knows what is due to it.
    pub(crate) fn shares_queues(&self) -> bool {
        self.consumers > self.queues || self.subscriptions > 1
    }

    pub(crate) fn queue(&self, index: usize) -> String {
        format!("bench.{}", index % self.queues)
    }
}

fn set<T: Copy>(target: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *target = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_case() {
        let flags = Flags { confirm: Some(0), seconds: Some(1.0), queues: Some(2), ..Flags::default() };
        let plan = Plan::new(Some(Case::C), &flags).expect("sound");
        assert_eq!((plan.confirm, plan.amount, plan.consumers), (None, Amount::Seconds(1.0), 2));
        assert_eq!((plan.body, plan.persistent, plan.ack), (1024, true, Some(100)));
    }

    #[test]
    fn contradictions_are_refused() {
        let refused = |flags: Flags| assert!(Plan::new(None, &flags).is_err(), "{flags:?}");
        refused(Flags { consumers: Some(3), queues: Some(2), ..Flags::default() });
        refused(Flags { ack: Some(10), prefetch: Some(5), ..Flags::default() });
        refused(Flags { rate: Some(1.0), body: Some(8), ..Flags::default() });
        refused(Flags { publishers: Some(65_536), channels: Some(2), ..Flags::default() });
        refused(Flags { channels: Some(2), confirm: Some(10), ..Flags::default() });
        refused(Flags { spread: Some(1), topic: Some(10), ..Flags::default() });
        assert!(Plan::new(Some(Case::K), &Flags::default()).is_err());
    }
}

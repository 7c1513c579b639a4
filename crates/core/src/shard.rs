//! The shard: one owner of vhosts, queues, connections and the log's bookkeeping.

use crate::access::Access;
use crate::connection::{Channel, Connection, Consumer, Held};
use crate::loads::{LoadFor, Rewritten};
use crate::log::{EarlyConfirm, Log};
use crate::policy::{Effective, Policies, QueueSettings};
use crate::queue::order::Order;
use crate::queue::{Alike, Queues};
use crate::rng::Rng;
use crate::steps::StepMap;
use crate::timer::Timers;
use crate::topology::Topology;
use hornpipe_types::Map;
use hornpipe_types::args::QueueArgs;
use hornpipe_types::command::{ChannelCommand, Command};
use hornpipe_types::definition::{Definition, VhostDefinition};
use hornpipe_types::effect::{ChannelEffect, ConnectionEffect, Loaded, Outbox};
use hornpipe_types::error::AmqpError;
use hornpipe_types::ids::{CommitSeq, ConnectionId, EnqueueId, LoadId, QueueId, RequestId, VhostId};
use hornpipe_types::limits::Limits;
use hornpipe_types::names::ShortStr;
use hornpipe_types::op::{Committed, Group, StoreOp};
use hornpipe_types::range::{SeqRange, push_range};
use hornpipe_types::stats::{Answer, BrokerStats, MessageStats, Request};
use hornpipe_types::time::{Instant, Now};
use std::collections::{BTreeMap, VecDeque};

/// Units of work that a method costs which is neither a publish nor a settlement.
const METHOD_UNITS: u32 = 8;

/// What a shard is configured with.
#[derive(Debug, Clone, Default)]
pub struct CoreConfig {
    /// Every limit.
    pub limits: Limits,
    /// Seed of all randomness (generated names, random exchanges).
    pub seed: u64,
    /// Which shard this is. Only the first one, 0, begins with a vhost and a user.
    pub number: u32,
}

/// A vhost.
#[derive(Debug)]
pub(crate) struct Vhost {
    pub(crate) definition: VhostDefinition,
    pub(crate) topology: Topology,
    pub(crate) queues: StepMap<ShortStr, QueueId>,
    /// Counts changes of `queues`, for route caches.
    pub(crate) queues_generation: u64,
    pub(crate) connections: u64,
    /// Deleted; the slot stays so that indexes hold.
    pub(crate) gone: bool,
}

/// One owner, no locks, no IO, no clock. Owns one or more vhosts.
///
/// Things that happened go in by `handle_*`; after one or several of them all output is drained by
/// [`Shard::poll_effects`], and [`Shard::poll_group`] is asked whenever the store has room.
#[derive(Debug)]
pub struct Shard {
    pub(crate) number: u32,
    pub(crate) limits: Limits,
    pub(crate) rng: Rng,
    pub(crate) access: Access,
    pub(crate) policies: Policies,
    pub(crate) vhosts: Vec<Vhost>,
    pub(crate) vhost_names: Map<ShortStr, usize>,
    pub(crate) queues: Queues,
    pub(crate) queue_order: Order,
    pub(crate) alike_args: Alike<QueueArgs>,
    pub(crate) alike_settings: Alike<QueueSettings>,
    pub(crate) alike_effective: Alike<Effective>,
    pub(crate) connections: Map<ConnectionId, Connection>,
    /// How many connections other shards have, and of these the user's own, as told of connections that are about to open.
    pub(crate) elsewhere: Map<ConnectionId, (u64, u64)>,
    pub(crate) consumers: Map<u64, Consumer>,
    pub(crate) log: Log,
    pub(crate) timers: Timers,
    /// Address of direct reply-to consumers by their opaque part.
    pub(crate) reply_addresses: Map<ShortStr, (ConnectionId, u16)>,

    /// Hidden queues of delayed exchanges.
    pub(crate) hidden: Map<(usize, ShortStr), QueueId>,
    pub(crate) next_consumer: u64,
    /// Places kept for answers to basic.get so far.
    next_place: u64,
    /// Channels that were put into confirm mode so far.
    pub(crate) next_incarnation: u32,
    pub(crate) next_queue: QueueId,
    pub(crate) next_vhost: VhostId,
    /// Ids below these are persisted as used.
    pub(crate) reserved_queue: QueueId,
    pub(crate) next_load: LoadId,
    pub(crate) loads: Map<LoadId, LoadFor>,
    /// Reads for copying forward that are under way, and what they brought.
    pub(crate) rewriting: usize,
    pub(crate) rewrites: Vec<Rewritten>,

    /// Queues to serve at the end of the turn.
    pub(crate) dirty_queues: Vec<QueueId>,
    /// Connections whose sockets took content while consumers waited for that.
    pub(crate) relisting: Vec<ConnectionId>,
    /// Connections with effects.
    pub(crate) dirty_connections: Vec<ConnectionId>,
    /// Channels with confirms to send.
    pub(crate) dirty_confirms: Vec<(ConnectionId, u16)>,
    /// Messages that died and are to be routed on; worked off in the turn, never by recursion.
    pub(crate) deaths: VecDeque<crate::dead_letter::Death>,
    /// What goes on in slices.
    pub(crate) work: VecDeque<crate::work::Work>,
    /// Connections that wait for some of it.
    pub(crate) unsettled: Map<ConnectionId, crate::work::Unsettled>,
    /// What the command under way may still do of it, and what was done in this turn.
    pub(crate) units: u32,
    pub(crate) spent: u32,
    /// Units done in this turn at which the slice under way ends.
    pub(crate) enough: u32,
    /// Counts purges and settlements, to tell which came first.
    pub(crate) stamp: u64,
    pub(crate) early: Vec<EarlyConfirm>,
    pub(crate) logins_changed: bool,
    pub(crate) out: Outbox,
    pub(crate) resident: u64,
    pub(crate) paging: crate::paging::Paging,
    /// Room for the consumers of a dispatch.
    pub(crate) takers: Vec<u64>,
    /// Room for sorting publishes.
    pub(crate) gathering: crate::gather::Gathering,
    /// See [`Self::poll_outrun`].
    pub(crate) outrun: Option<QueueId>,
    pub(crate) memory_alarm: bool,
    pub(crate) disk_alarm: bool,
    pub(crate) stats: BrokerStats,
    /// Totals of queues that are gone are kept here: broker-wide counters never fall.
    pub(crate) totals: MessageStats,
    /// The channel whose queue.delete is under way, and its own consumers that end with it.
    pub(crate) deleting: Option<(ConnectionId, u16)>,
    pub(crate) cancelled: Vec<ShortStr>,
    /// A queue refused a publish since [`Self::publish_some`] began.
    pub(crate) tx_rejected: bool,
    /// Connections are being closed for good, with these words: what was outstanding is remembered.
    pub(crate) stopping: Option<Box<str>>,
    /// See [`Self::set_spare_room`].
    pub(crate) no_spare_room: bool,
    /// Why queues have messages that can't be read back.
    pub(crate) damaged: BTreeMap<QueueId, String>,
    pub(crate) operations: crate::operate::Operations,
    pub(crate) recovery: Option<Box<crate::recover::Recovery>>,
}

impl Shard {
    /// An empty shard; recovery comes next.
    pub fn new(config: CoreConfig) -> Self {
        let room = config.limits.resident_bytes;
        Self {
            number: config.number,
            units: config.limits.slice_units,
            enough: config.limits.slice_units,
            limits: config.limits,
            rng: Rng::new(config.seed),
            access: Access::default(),
            policies: Policies::default(),
            vhosts: Vec::new(),
            vhost_names: Map::default(),
            queues: Queues::default(),
            queue_order: Order::default(),
            alike_args: Alike::default(),
            alike_settings: Alike::default(),
            alike_effective: Alike::default(),
            connections: Map::default(),
            elsewhere: Map::default(),
            consumers: Map::default(),
            log: Log::default(),
            timers: Timers::default(),
            reply_addresses: Map::default(),
            hidden: Map::default(),
            next_consumer: 1,
            next_place: 0,
            next_incarnation: 0,
            next_queue: QueueId(1),
            next_vhost: VhostId(1),
            reserved_queue: QueueId(1),
            next_load: LoadId(1),
            loads: Map::default(),
            rewriting: 0,
            rewrites: Vec::new(),
            dirty_queues: Vec::new(),
            relisting: Vec::new(),
            dirty_connections: Vec::new(),
            dirty_confirms: Vec::new(),
            deaths: VecDeque::new(),
            work: VecDeque::new(),
            unsettled: Map::default(),
            spent: 0,
            stamp: 0,
            early: Vec::new(),
            logins_changed: false,
            out: Outbox::default(),
            resident: 0,
            paging: crate::paging::Paging::new(room),
            takers: Vec::new(),
            gathering: crate::gather::Gathering::default(),
            outrun: None,
            memory_alarm: false,
            disk_alarm: false,
            stats: BrokerStats::default(),
            totals: MessageStats::default(),
            deleting: None,
            cancelled: Vec::new(),
            tx_rejected: false,
            stopping: None,
            no_spare_room: false,
            damaged: BTreeMap::new(),
            operations: crate::operate::Operations::default(),
            recovery: Some(Box::default()),
        }
    }

    /// How many connections other shards have when one is about to open here, and how many of these are its user's: they
    /// count against the limits.
    pub fn handle_elsewhere(&mut self, from: ConnectionId, connections: u64, of_user: u64) {
        self.elsewhere.insert(from, (connections, of_user));
    }

    /// Everything one read of a connection brought. `commands` is drained: what they wait for is done at once.
    pub fn handle_commands(&mut self, now: Now, from: ConnectionId, commands: &mut Vec<Command>) {
        for command in commands.drain(..) {
            let mut next = Some(command);
            while let Some(command) = next {
                if self.is_settling(from) && !matches!(command, Command::Written(_)) {
                    self.finish_settling(now, from);
                }
                next = self.on_command(now, from, command, u32::MAX);
            }
        }
    }

    /// The same, but no more than one slice of work, and nothing while [`Self::is_settling`]: what is left stays in `commands`
    /// and is to be handed in again, in front of what this connection says next.
    pub fn handle_some(&mut self, now: Now, from: ConnectionId, commands: &mut VecDeque<Command>) {
        // some of it at least
        let most = self.enough.max(self.done());
        while self.done() <= most
            && !self.is_settling(from)
            && let Some(command) = commands.pop_front()
        {
            if let Some(rest) = self.on_command(now, from, command, most) {
                commands.push_front(rest);
            }
        }
    }

    /// Others come to their turn: what is done from now on has a slice of its own. The first slice of a turn begins by itself.
    pub fn begin_slice(&mut self) {
        self.enough = self.done().saturating_add(self.limits.slice_units);
    }

    /// Whether a slice of work is done: others should come to theirs, by [`Self::begin_slice`] or, at the end of a turn,
    /// [`Self::poll_effects`].
    pub fn is_tired(&self) -> bool {
        self.done() > self.enough
    }

    /// Handles a command until so much work is done in this turn; gives back what is left of it.
    fn on_command(&mut self, now: Now, from: ConnectionId, command: Command, most: u32) -> Option<Command> {
        self.log.begin_command();
        self.allow();
        match command {
            Command::Channel(number, command) => self.on_channel_command(now, from, number, command),
            Command::Written(n) => self.on_written(from, n),
            Command::Blocked => self.on_blocked(from),
            Command::Publishes(publishes) => {
                return self.on_publishes(now, from, publishes, most).map(Command::Publishes);
            }
            other => {
                self.flush(now);
                self.on_connection_command(now, from, other);
            }
        }
        None
    }

    fn on_connection_command(&mut self, now: Now, from: ConnectionId, command: Command) {
        match command {
            Command::Open(open) => self.on_open(now, from, *open),
            Command::Close => {
                self.release_connection(now, from);
                self.tell_settled(from, ConnectionEffect::CloseOk);
            }
            Command::Fail(error) => self.fail_connection(now, from, error),
            Command::Gone => {
                self.elsewhere.remove(&from);
                self.release_connection(now, from);
            }
            Command::Written(_) | Command::Blocked | Command::Channel(..) | Command::Publishes(_) => {}
        }
    }

    pub(crate) fn on_channel_command(&mut self, now: Now, from: ConnectionId, number: u16, command: ChannelCommand) {
        let Some(connection) = self.connections.get_mut(&from) else { return };
        if let ChannelCommand::Open = command {
            let user = connection.open.user.clone();
            // counted only for those who have a limit
            if self.access.user_limit(&user, "max-channels").is_some() {
                let theirs = self.connections.values().filter(|c| c.open.user == user);
                let open = theirs.map(|c| c.channels.len() as u64).sum();
                if let Err(error) = self.access.check_channel_limit(&user, open) {
                    self.fail_connection(now, from, error.in_method(20, 10));
                    return;
                }
            }
            let Some(connection) = self.connections.get_mut(&from) else { return };
            connection.channels.insert(number, Channel::default());
            self.stats.channels_opened += 1;
            self.reply(from, number, ChannelEffect::OpenOk, None);
            return;
        }
        // what was under way when the channel closed is ignored
        if !connection.channels.contains_key(&number) {
            return;
        }
        let hot = matches!(command, ChannelCommand::Publish(_) | ChannelCommand::Settle { .. });
        if !hot {
            self.spent = self.spent.saturating_add(METHOD_UNITS);
            self.flush(now);
            // what the flush changed is not this command's: its reply waits for its own commit
            self.log.begin_command();
        }
        let (class, method) = method_of(&command);
        if let Err(error) = self.on_method(now, from, number, command) {
            self.fail_method(now, (from, number), error, (class, method));
        }
        self.work_off_deaths(now);
    }

    fn on_method(
        &mut self,
        now: Now,
        from: ConnectionId,
        number: u16,
        command: ChannelCommand,
    ) -> Result<(), AmqpError> {
        use ChannelCommand as C;
        match command {
            C::Publish(run) => self.on_publish(now, from, number, run),
            C::Settle { how, tag, count, multiple } => self.on_settle(now, from, number, how, tag, count, multiple),
            C::Open => Ok(()),
            C::Close => {
                self.release_channel(now, from, number);
                self.tell_settled(from, ConnectionEffect::Channel(number, ChannelEffect::CloseOk));
                Ok(())
            }
            C::Fail(error) => Err(error),
            C::ExchangeDeclare(d) => self.on_exchange_declare(from, number, *d),
            C::ExchangeDelete { exchange, if_unused, nowait } => {
                self.on_exchange_delete(now, from, number, &exchange, if_unused, nowait)
            }
            C::ExchangeBind(b) => self.on_exchange_bind(now, from, number, *b),
            C::ExchangeUnbind(b) => self.on_exchange_unbind(from, number, *b),
            C::QueueDeclare(d) => self.on_queue_declare(now, from, number, *d),
            C::QueueBind(b) => self.on_queue_bind(now, from, number, *b),
            C::QueueUnbind(b) => self.on_queue_unbind(from, number, *b),
            C::QueuePurge { queue, nowait } => self.on_queue_purge(now, from, number, &queue, nowait),
            C::QueueDelete { queue, if_unused, if_empty, nowait } => {
                self.on_queue_delete(now, from, number, &queue, if_unused, if_empty, nowait)
            }
            C::Qos { prefetch_size, prefetch_count, global } => {
                self.on_qos(from, number, prefetch_size, prefetch_count, global)
            }
            C::Consume(c) => self.on_consume(now, from, number, *c),
            C::Cancel { consumer_tag, nowait } => self.on_cancel(now, from, number, &consumer_tag, nowait),
            C::Get { queue, no_ack } => self.on_get(now, from, number, &queue, no_ack),
            C::Recover { requeue, nowait } => self.on_recover(now, from, number, requeue, nowait),
            C::ConfirmSelect { nowait } => self.on_confirm_select(from, number, nowait),
            C::Flow => self.answer_plainly(from, number, ChannelEffect::FlowOk),
            C::AccessRequest => self.answer_plainly(from, number, ChannelEffect::AccessRequestOk),
            C::TxSelect => self.on_tx_select(from, number),
            C::TxCommit => self.on_tx_commit(now, from, number),
            C::TxRollback => self.on_tx_rollback(from, number),
        }
    }

    /// Answers what asks for nothing else, in its turn.
    fn answer_plainly(&mut self, from: ConnectionId, number: u16, answer: ChannelEffect) -> Result<(), AmqpError> {
        self.reply(from, number, answer, None);
        Ok(())
    }

    /// Whether the disk has room for copying forward, which takes some before it gives more back.
    pub fn set_spare_room(&mut self, spare: bool) {
        self.no_spare_room = !spare;
    }

    /// A group is on disk: confirms and replies it covers go out.
    pub fn handle_committed(&mut self, now: Now, committed: Committed) {
        self.log.begin_command();
        self.allow();
        let mut touched = Vec::new();
        self.log.committed(committed, &mut touched);
        for (id, stored) in touched {
            if let Some(queue) = self.queues.get_mut(&id) {
                queue.stored_upto = queue.stored_upto.max(stored);
                self.log.note_crowd(&self.limits, queue);
            }
            self.page_out(id);
            // what had no place on disk yet can be read now
            if self.queues.get(&id).is_some_and(|q| !q.dying.is_empty()) {
                self.load_dying(id);
            }
            if self.queues.get(&id).is_some_and(|q| q.delayed.is_some()) {
                self.on_delayed_due(now, id);
            }
            if self.queues.get(&id).is_some_and(|q| q.head().is_some_and(|(_, head)| head.batch.is_none())) {
                self.mark_dirty(id);
                self.serve_waiting_gets(now, id);
            }
        }
        self.release_waiters();
        self.copy_forward();
        self.log.tidy_soon(now, self.limits.settle_delay_ms);
    }

    /// Bodies came back from disk.
    pub fn handle_loaded(&mut self, now: Now, loaded: Loaded) {
        self.log.begin_command();
        self.allow();
        self.on_loaded(now, loaded);
        self.work_off_deaths(now);
    }

    /// A question of the admin side.
    pub fn handle_request(&mut self, now: Now, id: RequestId, request: Request) {
        self.log.begin_command();
        self.flush(now);
        let answer: Answer = self.answer(now, request);
        self.out.answers.push((id, answer));
    }

    /// Memory or disk alarms rose or fell.
    pub fn handle_alarms(&mut self, now: Now, memory: bool, disk: bool) {
        if (self.memory_alarm, self.disk_alarm) == (memory, disk) {
            return;
        }
        let rises = memory && !self.memory_alarm;
        (self.memory_alarm, self.disk_alarm) = (memory, disk);
        if rises {
            self.allow();
            self.page_out_all(now);
        }
        let alarm = self.alarm();
        let mut ids: Vec<_> = self.connections.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            if alarm.is_none()
                && let Some(connection) = self.connections.get_mut(&id)
            {
                connection.blocked = false;
            }
            self.effect(id, ConnectionEffect::Hold(alarm));
        }
    }

    /// The machine holds a connection back, unless the alarm is over meanwhile.
    fn on_blocked(&mut self, id: ConnectionId) {
        let blocked = self.alarm().is_some();
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.blocked = blocked;
        }
    }

    /// Why publishers are blocked, in RabbitMQ's words; `None` when they are not.
    pub(crate) fn alarm(&self) -> Option<&'static str> {
        match (self.memory_alarm, self.disk_alarm) {
            (true, true) => Some("low on disk & memory"),
            (true, false) => Some("low on memory"),
            (false, true) => Some("low on disk"),
            (false, false) => None,
        }
    }

    /// The deadline of [`Self::poll_timeout`] has come, or may have.
    pub fn handle_timeout(&mut self, now: Now) {
        self.log.begin_command();
        // one at least, however much has come in
        let mut first = true;
        while (std::mem::take(&mut first) || self.done() < self.limits.slice_units)
            && let Some(key) = self.timers.pop_due(now.mono)
        {
            self.log.begin_command();
            self.allow();
            self.on_timer(now, key);
            self.work_off_deaths(now);
        }
    }

    /// Closes every connection with 320 and `text`.
    pub fn handle_shutdown(&mut self, now: Now, text: &str) {
        self.stopping = Some(text.into());
        let mut ids: Vec<_> = self.connections.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.finish_settling(now, id);
            self.log.begin_command();
            self.fail_connection(now, id, forced(text));
        }
        self.finish_work(now);
        self.remember_redelivered();
    }

    /// A clean stop keeps the mark of messages that were handed out before and are back in their queue; at most so many
    /// stretches of them, because the mark is a courtesy and the stop has a deadline.
    fn remember_redelivered(&mut self) {
        const MOST: usize = 10_000;
        let mut left = MOST;
        let mut ids: Vec<QueueId> = self.queues.values().filter(|q| q.is_logged()).map(|q| q.id).collect();
        ids.sort_unstable();
        for id in ids {
            let Some(queue) = self.queues.get(&id) else { continue };
            let mut ranges = Vec::new();
            for s in queue.levels.iter().flat_map(|l| l.iter()).filter(|s| s.redelivered && s.logged) {
                push_range(&mut ranges, SeqRange::dense(s.first, s.count));
            }
            ranges.truncate(left);
            left -= ranges.len();
            if !ranges.is_empty() {
                self.log.op(StoreOp::Redelivered { queue: id, ranges });
            }
        }
    }

    /// End of a turn: serves queues, then drains all output into `out`.
    pub fn poll_effects(&mut self, now: Now, out: &mut Outbox) {
        self.flush(now);
        if self.can_work() {
            self.work_slice(now);
            self.allow();
            self.flush(now);
        }
        self.allow();
        (self.spent, self.enough) = (0, self.limits.slice_units);
        self.log.cover_cancelled();
        self.release_waiters();
        self.send_confirms();
        self.page_out_others();
        self.thin_out_channels();
        self.thin_out_batches();
        self.poll_operations(now);
        for id in self.dirty_connections.drain(..) {
            if let Some(connection) = self.connections.get_mut(&id) {
                let effects = std::mem::take(&mut connection.effects);
                if !effects.is_empty() {
                    self.out.connections.push((id, effects));
                }
            }
        }
        if std::mem::take(&mut self.logins_changed) {
            self.out.logins = Some(std::sync::Arc::new(self.access.login_table()));
        }
        out.connections.append(&mut self.out.connections);
        out.loads.append(&mut self.out.loads);
        out.answers.append(&mut self.out.answers);
        out.outcomes.append(&mut self.out.outcomes);
        out.remarks.append(&mut self.out.remarks);
        if let Some(logins) = self.out.logins.take() {
            out.logins = Some(logins);
        }
    }

    /// What is to be written next, asked whenever the store has room.
    pub fn poll_group(&mut self, now: Now) -> Option<Group> {
        self.log.take_group(now, &mut self.queues, self.limits.group_messages)
    }

    /// Whether all that waits for the store is in the hands of consumers: when they acknowledge it, nothing has to be written.
    /// Names the oldest of it.
    pub fn may_be_spared(&self) -> Option<EnqueueId> {
        let on_loan = |id| self.queues.get(&id).is_some_and(|queue| queue.ready == 0 && queue.unacked > 0);
        if self.log.pending_queues()?.all(on_loan) { self.log.oldest_pending() } else { None }
    }

    /// The oldest messages that wait for the store.
    pub fn oldest_pending(&self) -> Option<EnqueueId> {
        self.log.oldest_pending()
    }

    /// When [`Self::handle_timeout`] or [`Self::poll_group`] is wanted next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match (self.timers.next(), self.log.deadline()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Whether sliced work is left: come back at once.
    pub fn has_work(&self) -> bool {
        !self.dirty_queues.is_empty() || !self.deaths.is_empty() || self.is_thinning_out() || self.can_work()
    }

    /// Whether work on long lists is under way: until it is done counters may still show what it takes away or brings back.
    pub fn is_working(&self) -> bool {
        !self.work.is_empty()
    }

    /// Whether messages of deleted queues are still to be dead-lettered, which no list of queues shows. Goes through all queues.
    pub fn has_graves(&self) -> bool {
        self.queues.values().any(|queue| queue.is_grave())
    }

    /// Whether the driver stops reading publishers: so much waits for the store, or there are so many runs in the log that
    /// what is being joined, or copied so that others can be, must be there first.
    pub fn is_full(&self) -> bool {
        self.store_is_full() || self.copies_are_behind()
    }

    /// Whether as much waits for the store as may.
    pub(crate) fn store_is_full(&self) -> bool {
        self.log.pending_bytes() > self.limits.pending_bytes || self.log.pending_copies() > self.limits.pending_copies
    }

    /// Only as long as a step is under way, for it comes to an end whatever anybody does: where there is nothing to do, runs
    /// may be more.
    fn copies_are_behind(&self) -> bool {
        self.log.too_many_runs(&self.limits) && (self.rewriting > 0 || self.log.writes_copies())
    }

    /// Whether the log's sums are those of what it lists, and if not, what differs. Goes through all runs: for tests.
    ///
    /// # Errors
    /// The first difference.
    pub fn check_log(&self) -> Result<(), String> {
        self.log.check()
    }

    /// What waits for the store, as octets; each copy to be logged counts as its part of what may wait.
    pub fn waiting_for_store(&self) -> u64 {
        let copy = self.limits.pending_bytes / self.limits.pending_copies.max(1);
        self.log.pending_bytes() + self.log.pending_copies() * copy
    }

    /// How much of [`Self::waiting_for_store`] is too much.
    pub fn waiting_max(&self) -> u64 {
        self.limits.pending_bytes
    }

    // ---- helpers used by all handlers -------------------------------------------------------------------------------

    /// Queues an effect for a connection.
    pub(crate) fn effect(&mut self, id: ConnectionId, effect: ConnectionEffect) {
        if let Some(connection) = self.connections.get_mut(&id) {
            if connection.effects.is_empty() {
                self.dirty_connections.push(id);
            }
            connection.effects.push(effect);
        }
    }

    /// Queues an effect for a connection that the shard has already forgotten.
    pub(crate) fn last_effect(&mut self, id: ConnectionId, effect: ConnectionEffect) {
        self.out.connections.push((id, vec![effect]));
    }

    /// Queues an effect on a channel that holds nothing back (deliveries, returns, confirms).
    pub(crate) fn tell(&mut self, id: ConnectionId, channel: u16, effect: ChannelEffect) {
        self.effect(id, ConnectionEffect::Channel(channel, effect));
    }

    /// Sends a reply, in order with other replies of its channel, once `commit` is on disk.
    pub(crate) fn reply(&mut self, id: ConnectionId, channel: u16, effect: ChannelEffect, commit: Option<CommitSeq>) {
        let commit = commit.filter(|c| !self.log.is_durable(*c));
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if commit.is_none() && !connection.held.contains_key(&channel) {
            self.tell(id, channel, effect);
            return;
        }
        connection.held.entry(channel).or_default().push_back(Held::Reply(commit.unwrap_or_default(), effect));
        if let Some(commit) = commit {
            self.log.wait_reply(commit, id, channel);
        }
    }

    /// Whether replies on a channel are held back.
    pub(crate) fn is_held(&self, id: ConnectionId, channel: u16) -> bool {
        self.connections.get(&id).is_some_and(|c| c.held.contains_key(&channel))
    }

    /// Keeps the place of a basic.get's answer among the replies of its channel; what names the place.
    pub(crate) fn hold_place(&mut self, id: ConnectionId, channel: u16) -> u64 {
        self.next_place += 1;
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.held.entry(channel).or_default().push_back(Held::Get(self.next_place));
        }
        self.next_place
    }

    /// Whether the answer to a get is still wanted: its channel has not closed since. Place 0: it never waited.
    pub(crate) fn is_wanted(&self, id: ConnectionId, channel: u16, place: u64) -> bool {
        let Some(connection) = self.connections.get(&id) else { return false };
        if place == 0 {
            return connection.channels.contains_key(&channel);
        }
        let held = connection.held.get(&channel);
        held.is_some_and(|h| h.iter().any(|h| matches!(h, Held::Get(p) if *p == place)))
    }

    /// Sends the answer to a get in its place.
    pub(crate) fn reply_in(&mut self, id: ConnectionId, channel: u16, place: u64, effect: ChannelEffect) {
        if place == 0 {
            return self.reply(id, channel, effect, None);
        }
        let held = self.connections.get_mut(&id).and_then(|c| c.held.get_mut(&channel));
        let slot = held.and_then(|h| h.iter_mut().find(|h| matches!(h, Held::Get(p) if *p == place)));
        if let Some(slot) = slot {
            *slot = Held::Reply(CommitSeq::default(), effect);
            self.release_replies(id, channel);
        }
    }

    /// Nobody waits for gets on a channel any more.
    pub(crate) fn drop_places(&mut self, id: ConnectionId, number: u16) {
        if let Some(held) = self.connections.get_mut(&id).and_then(|c| c.held.get_mut(&number)) {
            held.retain(|h| !matches!(h, Held::Get(_)));
            self.release_replies(id, number);
        }
    }

    /// Lets go the replies of a channel that wait for nothing any more.
    fn release_replies(&mut self, id: ConnectionId, number: u16) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Some(mut held) = connection.held.remove(&number) else { return };
        let mut released = Vec::new();
        while matches!(held.front(), Some(Held::Reply(commit, _)) if self.log.is_durable(*commit)) {
            released.extend(held.pop_front());
        }
        if !held.is_empty() {
            connection.held.insert(number, held);
        }
        for held in released {
            let Held::Reply(_, effect) = held else { continue };
            if let ChannelEffect::ConsumeOk { consumer_tag } = &effect {
                self.release_consumer(id, number, consumer_tag.clone());
            }
            self.tell(id, number, effect);
        }
    }

    /// Lets go replies and confirms the watermark has reached.
    fn release_waiters(&mut self) {
        while let Some((id, number)) = self.log.ready_replies() {
            self.release_replies(id, number);
        }
        let mut ready = Vec::new();
        self.log.ready_confirms(|commit, id, number| ready.push((commit, id, number)));
        for (commit, id, number) in ready {
            if let Some(confirms) = self
                .connections
                .get_mut(&id)
                .and_then(|c| c.channels.get_mut(&number))
                .and_then(|c| c.confirms.as_mut())
            {
                confirms.durable(commit);
                self.list_confirms(id, number);
            }
        }
    }

    /// A consumer whose consume-ok was held may be served.
    fn release_consumer(&mut self, id: ConnectionId, number: u16, tag: ShortStr) {
        let key = self
            .connections
            .get(&id)
            .and_then(|c| c.channels.get(&number))
            .and_then(|c| c.consumers.iter().find(|(t, _)| *t == tag).map(|(_, key)| *key));
        if let Some(key) = key
            && let Some(consumer) = self.consumers.get_mut(&key)
        {
            consumer.held = false;
            self.reactivate(key);
        }
    }

    /// Lists a channel for sending confirms at the end of the turn.
    pub(crate) fn list_confirms(&mut self, id: ConnectionId, number: u16) {
        if let Some(channel) = self.connections.get_mut(&id).and_then(|c| c.channels.get_mut(&number))
            && channel.confirms.as_ref().is_some_and(|c| c.has_output())
            && !channel.confirms_listed
        {
            channel.confirms_listed = true;
            self.dirty_confirms.push((id, number));
        }
    }

    pub(crate) fn send_confirms(&mut self) {
        for EarlyConfirm { connection: id, channel: number, incarnation, tags } in std::mem::take(&mut self.early) {
            if let Some(confirms) = self
                .connections
                .get_mut(&id)
                .and_then(|c| c.channels.get_mut(&number))
                .and_then(|c| c.confirms.as_mut())
                .filter(|confirms| confirms.incarnation == incarnation)
            {
                confirms.ack_early(tags.first, tags.count, tags.step);
                self.list_confirms(id, number);
            }
        }
        for (id, number) in std::mem::take(&mut self.dirty_confirms) {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            let Some(channel) = connection.channels.get_mut(&number) else { continue };
            channel.confirms_listed = false;
            let Some(confirms) = channel.confirms.as_mut() else { continue };
            let effects = &mut connection.effects;
            if effects.is_empty() {
                self.dirty_connections.push(id);
            }
            let n = confirms.drain(|e| effects.push(ConnectionEffect::Channel(number, e)));
            channel.stats.confirm += n;
            self.totals.confirm += n;
        }
    }

    /// Logs a definition of something durable.
    pub(crate) fn put_definition(&mut self, definition: Definition) -> CommitSeq {
        self.log.op(StoreOp::Put(definition))
    }

    /// Lists a queue for serving.
    pub(crate) fn mark_dirty(&mut self, id: QueueId) {
        if let Some(queue) = self.queues.get_mut(&id)
            && !queue.dirty
        {
            queue.dirty = true;
            self.dirty_queues.push(id);
        }
    }

    /// Serves every queue that has something to serve.
    pub(crate) fn flush(&mut self, now: Now) {
        self.work_off_deaths(now);
        while !self.dirty_queues.is_empty() || self.relist() {
            for id in std::mem::take(&mut self.dirty_queues) {
                if let Some(queue) = self.queues.get_mut(&id) {
                    queue.dirty = false;
                    self.serve(now, id);
                }
            }
            self.work_off_deaths(now);
        }
    }

    /// Names of a connection's user and vhost.
    pub(crate) fn who(&self, id: ConnectionId) -> Option<(ShortStr, ShortStr, usize)> {
        let c = self.connections.get(&id)?;
        Some((c.open.user.clone(), c.open.vhost.clone(), c.vhost))
    }
}

/// What a connection is told that is closed because the broker stops.
pub(crate) fn forced(text: &str) -> AmqpError {
    AmqpError::new(hornpipe_types::error::ReplyCode::ConnectionForced, text)
}

/// Class and method id a command stands for, for error replies.
fn method_of(command: &ChannelCommand) -> (u16, u16) {
    use ChannelCommand as C;
    use hornpipe_types::command::Settle;
    match command {
        C::Open => (20, 10),
        C::Close => (20, 40),
        C::Fail(e) => e.method,
        C::ExchangeDeclare(_) => (40, 10),
        C::ExchangeDelete { .. } => (40, 20),
        C::ExchangeBind(_) => (40, 30),
        C::ExchangeUnbind(_) => (40, 40),
        C::QueueDeclare(_) => (50, 10),
        C::QueueBind(_) => (50, 20),
        C::QueueUnbind(_) => (50, 50),
        C::QueuePurge { .. } => (50, 30),
        C::QueueDelete { .. } => (50, 40),
        C::Qos { .. } => (60, 10),
        C::Consume(_) => (60, 20),
        C::Cancel { .. } => (60, 30),
        C::Get { .. } => (60, 70),
        C::Publish(_) => (60, 40),
        C::Settle { how: Settle::Ack, .. } => (60, 80),
        C::Settle { how: Settle::Nack { .. }, .. } => (60, 120),
        C::Settle { how: Settle::Reject { .. }, .. } => (60, 90),
        C::Recover { nowait: true, .. } => (60, 100),
        C::Recover { .. } => (60, 110),
        C::ConfirmSelect { .. } => (85, 10),
        C::Flow => (20, 20),
        C::AccessRequest => (30, 10),
        C::TxSelect => (90, 10),
        C::TxCommit => (90, 20),
        C::TxRollback => (90, 30),
    }
}

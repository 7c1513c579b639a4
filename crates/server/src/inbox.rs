//! Hand-overs: the shard's inbox and each connection's mailbox. Both are a locked vector and a wake-up, emptied by
//! swapping the whole vector, so that a busy receiver is woken once for many items.

use crate::alarms::Alarms;
use hornpipe_types::command::Command;
use hornpipe_types::effect::{ConnectionEffect, Loaded};
use hornpipe_types::ids::ConnectionId;
use hornpipe_types::names::ShortStr;
use hornpipe_types::op::Committed;
use hornpipe_types::operate::{Operation, Outcome};
use hornpipe_types::stats::{Answer, Request};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Waker};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::{Notify, oneshot};

/// Read batches of one connection that may wait in the inbox: it reads on only while there are fewer. Two keep the owner
/// busy while the next one is read; more only cost cache.
pub(crate) const READ_CREDIT: u32 = 2;

/// Items that may wait without the owner being woken for them.
const QUIET_MAX: usize = 64;

/// Something that happened, for the owner task.
#[derive(Debug)]
pub(crate) enum Item {
    /// A socket was accepted: where its effects go.
    Connected(ConnectionId, Arc<Link>),
    /// A connection is about to open: where its effects go, and how many connections other shards have, how many of them
    /// its user's.
    Opening(ConnectionId, Arc<Link>, (u64, u64)),
    /// All commands of one read.
    Commands(ConnectionId, Vec<Command>),
    /// The connection's task has ended.
    Gone(ConnectionId),
    /// What the store has on disk, and that it is free for the next group.
    Committed(Vec<Committed>),
    /// Bodies read back.
    Loaded(Vec<Loaded>),
    /// A question of the admin side.
    Ask(Request, oneshot::Sender<Answer>),
    /// A change the admin side asks for in a user's name.
    Operate(ShortStr, Box<Operation>, oneshot::Sender<Outcome>),
    /// Alarms changed.
    Alarms(Alarms),
    /// Close every connection with this text.
    CloseAll(String),
    /// Write what is left, mark the store clean and end; answered when done.
    Finish(oneshot::Sender<Result<(), String>>),
    /// Stay in this turn until other owners are in theirs.
    #[cfg(test)]
    Meet(Arc<crate::spread::tests::Meeting>),
    /// Panic if the turn is taken on the front.
    #[cfg(test)]
    PanicOnFront,
}

/// The owner task's inbox.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    waiting: Mutex<Waiting>,
    closed: AtomicBool,
    wake: Notify,
    /// What a thread outside the runtime wakes the owner by.
    bell: OnceLock<OwnedFd>,
}

/// What waits for the owner.
#[derive(Debug, Default)]
struct Waiting {
    items: Vec<Item>,
    /// The owner was woken for them.
    told: bool,
    /// How often the owner has looked.
    takes: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in these critical sections can panic half-way, so a poisoned lock still holds a whole vector.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inbox {
    /// Adds an item; wakes the owner when it was the first that matters.
    pub(crate) fn push(&self, item: Item) {
        self.add(item, 0);
    }

    /// How often the owner has looked into it.
    pub(crate) fn takes(&self) -> u64 {
        lock(&self.waiting).takes
    }

    /// The same from a thread that is not the runtime's. When the owner has looked into the inbox no more than once since `takes`, so
    /// little goes on, a bell is rung that the runtime waits for as it does for sockets: woken in its own way, the runtime
    /// wakes a second thread to look for more, before the first does what it was woken for. When much goes on, just that is
    /// right, for the bell isn't heard before a thread has nothing else to do.
    pub(crate) fn push_from_outside(&self, item: Item, takes: u64) {
        if self.is_to_be_told(item, 0) && !(self.takes() <= takes + 1 && self.ring()) {
            self.wake();
        }
    }

    fn ring(&self) -> bool {
        self.bell.get().is_some_and(|bell| rustix::io::write(bell, &[0]).is_ok())
    }

    /// A bell to be waited for by the owner beside [`Self::wait`]; one that is never rung where there can't be one.
    pub(crate) fn hang_bell(&self) -> Bell {
        let hung = || {
            let (rope, bell) = pipe::pipe().ok()?;
            self.bell.set(rope.into_nonblocking_fd().ok()?).ok()?;
            Some(bell)
        };
        Bell(hung())
    }

    /// Adds an item that can wait for company: the owner is woken by the next one that can't, or when many have gathered. Waking
    /// it for each connection that comes and goes costs more than what it has to do then.
    pub(crate) fn push_quietly(&self, item: Item) {
        self.add(item, QUIET_MAX);
    }

    /// Adds an item of which the owner need not be told, since its turn is about to be taken. Gives it back when the owner was told
    /// of others: they are its own to do.
    pub(crate) fn push_unless_told(&self, item: Item) -> Option<Item> {
        let mut waiting = lock(&self.waiting);
        if waiting.told || self.closed.load(Ordering::Relaxed) {
            return Some(item);
        }
        waiting.items.push(item);
        None
    }

    /// Has the owner's task take a turn.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    fn add(&self, item: Item, quiet: usize) {
        if self.is_to_be_told(item, quiet) {
            self.wake();
        }
    }

    /// Adds an item; whether the owner must be woken for it now.
    fn is_to_be_told(&self, item: Item, quiet: usize) -> bool {
        let mut waiting = lock(&self.waiting);
        if self.closed.load(Ordering::Relaxed) {
            return false;
        }
        waiting.items.push(item);
        if waiting.told || waiting.items.len() <= quiet {
            return false;
        }
        waiting.told = true;
        true
    }

    /// The owner has ended: what waits and what comes later is dropped, so that nobody waits for its answer.
    pub(crate) fn close(&self) {
        let mut waiting = lock(&self.waiting);
        self.closed.store(true, Ordering::Relaxed);
        waiting.items.clear();
    }

    /// Swaps the items with `empty`.
    pub(crate) fn take(&self, empty: &mut Vec<Item>) {
        debug_assert!(empty.is_empty());
        let mut waiting = lock(&self.waiting);
        std::mem::swap(&mut waiting.items, empty);
        waiting.told = false;
        waiting.takes += 1;
    }

    /// Waits until an item that matters was pushed since the last take (may also return early).
    pub(crate) async fn wait(&self) {
        self.wake.notified().await;
    }
}

/// Rung by [`Inbox::push_from_outside`].
#[derive(Debug)]
pub(crate) struct Bell(Option<pipe::Receiver>);

impl Bell {
    /// Waits until it was rung since the last time (may also return early).
    pub(crate) async fn rung(&mut self) {
        let Some(bell) = &mut self.0 else { return std::future::pending().await };
        // It is rung once between two takes at most, so little has gathered when it wasn't waited for.
        if !matches!(bell.read(&mut [0; 256]).await, Ok(1..)) {
            // What can't be heard can't be rung either: then the owner is woken as by others.
            self.0 = None;
        }
    }
}

/// What the owner and a connection's task share.
#[derive(Debug, Default)]
pub(crate) struct Link {
    mail: Mutex<Mail>,
    /// Read batches in the inbox.
    waiting: AtomicU32,
    /// The task stopped reading for want of credit.
    starved: AtomicBool,
    /// The broker stops: a connection that isn't open yet ends at once.
    stopping: AtomicBool,
    /// Octets read from the socket.
    pub(crate) received: AtomicU64,
    /// Octets written to the socket.
    pub(crate) sent: AtomicU64,
}

#[derive(Debug, Default)]
struct Mail {
    effects: Vec<ConnectionEffect>,
    /// The task's waker, from its first poll on.
    waker: Option<Waker>,
}

impl Link {
    /// Owner: hands over effects; drains `effects`.
    pub(crate) fn deliver(&self, effects: &mut Vec<ConnectionEffect>) {
        let waker = {
            let mut mail = lock(&self.mail);
            if mail.effects.is_empty() {
                std::mem::swap(&mut mail.effects, effects);
                mail.waker.clone()
            } else {
                // Woken already when the first of them came.
                mail.effects.append(effects);
                None
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn wake(&self) {
        let waker = lock(&self.mail).waker.clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Owner: a read batch has been processed.
    pub(crate) fn credit(&self) {
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        if self.starved.swap(false, Ordering::SeqCst) {
            self.wake();
        }
    }

    /// The broker stops.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Task: swaps the effects with `empty`; says whether there were any. The task is woken when more come.
    pub(crate) fn take(&self, cx: &Context<'_>, empty: &mut Vec<ConnectionEffect>) -> bool {
        debug_assert!(empty.is_empty());
        let mut mail = lock(&self.mail);
        if !mail.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            mail.waker = Some(cx.waker().clone());
        }
        std::mem::swap(&mut mail.effects, empty);
        !empty.is_empty()
    }

    /// Task: nobody need wake it, for it looks at its mail before it waits.
    pub(crate) fn stay_awake(&self) {
        lock(&self.mail).waker = None;
    }

    /// Task: a read batch goes into the inbox.
    pub(crate) fn spend(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
    }

    /// Task: whether it may read. When not, the task is woken once it may.
    pub(crate) fn may_read(&self) -> bool {
        self.waits_below(READ_CREDIT)
    }

    /// Task: whether all it handed over has been dealt with. When not, the task is woken when some is.
    pub(crate) fn is_idle(&self) -> bool {
        self.waits_below(1)
    }

    fn waits_below(&self, most: u32) -> bool {
        if self.waiting.load(Ordering::SeqCst) < most {
            return true;
        }
        // Say so first and look again: the owner may have credited in between.
        self.starved.store(true, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) < most {
            self.starved.store(false, Ordering::SeqCst);
            return true;
        }
        false
    }

    /// Task: whether the broker stops.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_stops_after_two_batches_and_goes_on_after_one_is_done() {
        let link = Link::default();
        assert!(link.may_read());
        link.spend();
        assert!(link.may_read());
        link.spend();
        assert!(!link.may_read());
        link.credit();
        assert!(link.may_read());
    }

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Counter(AtomicU32);
    impl std::task::Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_starved_task_is_woken_by_credit_and_no_other() {
        let (link, counter) = (Link::default(), Arc::new(Counter::default()));
        let waker = Waker::from(counter.clone());
        assert!(!link.take(&Context::from_waker(&waker), &mut Vec::new()));
        link.spend();
        link.credit();
        assert_eq!(counter.0.load(Ordering::SeqCst), 0);
        link.spend();
        link.spend();
        assert!(!link.may_read());
        link.credit();
        assert_eq!(counter.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn effects_arrive_in_order_and_whole_with_one_wake_up() {
        let (link, counter) = (Link::default(), Arc::new(Counter::default()));
        let waker = Waker::from(counter.clone());
        let cx = Context::from_waker(&waker);
        assert!(!link.take(&cx, &mut Vec::new()));
        link.deliver(&mut vec![ConnectionEffect::Opened, ConnectionEffect::Hold(None)]);
        link.deliver(&mut vec![ConnectionEffect::CloseOk]);
        assert_eq!(counter.0.load(Ordering::SeqCst), 1);
        let mut taken = Vec::new();
        assert!(link.take(&cx, &mut taken));
        let expected = [ConnectionEffect::Opened, ConnectionEffect::Hold(None), ConnectionEffect::CloseOk];
        assert_eq!(format!("{taken:?}"), format!("{expected:?}"));
        assert!(!link.take(&cx, &mut Vec::new()));
    }

    #[tokio::test]
    async fn the_inbox_is_swapped_whole() {
        let inbox = Inbox::default();
        inbox.push(Item::Gone(ConnectionId(1)));
        inbox.push(Item::Gone(ConnectionId(2)));
        inbox.wait().await;
        let mut items = Vec::new();
        inbox.take(&mut items);
        assert_eq!(items.len(), 2);
        items.clear();
        inbox.take(&mut items);
        assert!(items.is_empty());
    }

    /// Whether the owner would go on now.
    fn is_woken(inbox: &Inbox) -> bool {
        let wait = std::pin::pin!(inbox.wait());
        wait.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn quiet_items_wait_for_one_that_matters_or_for_many() {
        let inbox = Inbox::default();
        let mut items = Vec::new();
        inbox.push_quietly(Item::Gone(ConnectionId(1)));
        assert!(!is_woken(&inbox));
        inbox.push(Item::Gone(ConnectionId(2)));
        assert!(is_woken(&inbox));
        inbox.take(&mut items);
        assert_eq!(format!("{items:?}"), "[Gone(ConnectionId(1)), Gone(ConnectionId(2))]");
        items.clear();
        for _ in 0..QUIET_MAX {
            inbox.push_quietly(Item::Gone(ConnectionId(3)));
        }
        assert!(!is_woken(&inbox));
        inbox.push_quietly(Item::Gone(ConnectionId(3)));
        assert!(is_woken(&inbox), "they don't pile up");
    }

    #[test]
    fn what_is_served_in_place_joins_quiet_items_and_leaves_the_rest_to_the_owner() {
        let inbox = Inbox::default();
        let mut items = Vec::new();
        inbox.push_quietly(Item::Gone(ConnectionId(1)));
        assert!(inbox.push_unless_told(Item::Gone(ConnectionId(2))).is_none());
        assert!(!is_woken(&inbox));
        inbox.take(&mut items);
        assert_eq!(format!("{items:?}"), "[Gone(ConnectionId(1)), Gone(ConnectionId(2))]");
        inbox.push(Item::Gone(ConnectionId(3)));
        assert!(inbox.push_unless_told(Item::Gone(ConnectionId(4))).is_some(), "3 comes first, and the owner does it");
        assert!(is_woken(&inbox));
        inbox.wake();
        assert!(is_woken(&inbox));
        inbox.close();
        assert!(inbox.push_unless_told(Item::Gone(ConnectionId(5))).is_some());
    }

    #[tokio::test]
    async fn a_thread_outside_rings_once_between_two_takes_and_wakes_where_no_bell_is_heard() {
        let inbox = Inbox::default();
        let push = || {
            std::thread::scope(|s| {
                drop(s.spawn(|| inbox.push_from_outside(Item::Gone(ConnectionId(1)), inbox.takes())))
            })
        };
        let mut items = Vec::new();
        push();
        assert!(is_woken(&inbox), "no bell yet");
        inbox.take(&mut items);

        let mut bell = inbox.hang_bell();
        for _ in 0..3 {
            push();
            push();
            bell.rung().await;
            assert!(!is_woken(&inbox));
            let once_more = std::pin::pin!(bell.rung());
            assert!(once_more.poll(&mut Context::from_waker(Waker::noop())).is_pending());
            items.clear();
            inbox.take(&mut items);
            assert_eq!(items.len(), 2);
        }

        inbox.push_from_outside(Item::Gone(ConnectionId(1)), inbox.takes() - 2);
        assert!(is_woken(&inbox), "who is busy may not hear the bell");
        inbox.take(&mut Vec::new());

        drop(bell);
        push();
        assert!(is_woken(&inbox), "nobody hears the bell");
    }

    #[tokio::test]
    async fn nobody_waits_for_a_closed_inbox() {
        let inbox = Inbox::default();
        let (before, after) = (oneshot::channel(), oneshot::channel());
        inbox.push(Item::Ask(Request::Totals, before.0));
        inbox.close();
        inbox.push(Item::Ask(Request::Totals, after.0));
        assert!(before.1.await.is_err() && after.1.await.is_err());
    }
}

//! The task of one connection: reads the socket into the machine, hands its commands to the shard, writes what the machine
//! answers. One future polled as a whole, so that a wake-up does everything there is to do and idle costs nothing.

use crate::Shared;
use crate::auth::is_loopback;
use crate::homes::Home;
use crate::inbox::{Item, Link};
use bytes::{Buf, BufMut};
use hornpipe_amqp::{AuthOutcome, AuthRequest, CloseReason, Connection, Status};
use hornpipe_types::command::{ChannelCommand, Command};
use hornpipe_types::effect::ConnectionEffect;
use hornpipe_types::ids::ConnectionId;
use hornpipe_types::names::ShortStr;
use hornpipe_types::stats::{AdminUser, LoginRefused};
use hornpipe_types::time::Instant;
use std::cell::OnceCell;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::Sleep;

/// Octets asked for in one read, and the size of a batch that a read becomes: above it the cache suffers, below it syscalls cost
/// more.
pub(crate) const READ_BYTES: usize = 128 * 1024;
/// Octets of a large message that one read takes, at most: others wait meanwhile.
const READ_MOST: usize = 512 * 1024;
/// A peer that doesn't take so many octets of answers isn't read any more.
const OUTPUT_PAUSE: usize = 4 * 1024 * 1024;
/// Reads in one poll before other tasks get their turn; large ones count as several.
const READS_PER_POLL: usize = 16;
/// Octets written in one poll before other tasks get their turn.
const WRITTEN_PER_POLL: usize = 2 * 1024 * 1024;
/// The last frames must be taken by the peer within this.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// After our end is closed the peer's leftovers are read for so long: closing with unread input would send a reset, and
/// that can overtake the last frame.
const LINGER: Duration = Duration::from_secs(1);

/// How a connection ended.
#[derive(Debug)]
enum End {
    /// The machine says so.
    Closed(CloseReason),
    /// The peer closed the socket.
    Eof,
    /// The socket failed.
    Lost(io::Error),
    /// The peer doesn't take our last words.
    Stuck,
    /// The broker stops and the connection was not open yet.
    Stopped,
    /// It goes on elsewhere.
    Moves,
}

/// The connection's place at a shard. Tells it that the connection is gone, whatever ended the task, a panic included.
struct Seat {
    shared: Arc<Shared>,
    /// The first shard until a vhost was asked for, then the vhost's.
    home: Arc<Home>,
    id: ConnectionId,
    /// For whom it was counted.
    user: Option<ShortStr>,
    /// The shard has let go of all the connection held: that it is gone can wait.
    released: bool,
}

impl Seat {
    /// Takes the connection to the shard of the vhost it asks for. The shard it comes from knows nothing of it but its link.
    fn go_to(&mut self, open: &Open, link: &Arc<Link>) {
        let homes = &self.shared.homes;
        if homes.is_single() {
            return;
        }
        let home = homes.of(&open.vhost).clone();
        let elsewhere = homes.count_in(open.user.clone(), &home);
        self.user = Some(open.user.clone());
        home.inbox.push(Item::Opening(self.id, link.clone(), elsewhere));
        let before = std::mem::replace(&mut self.home, home);
        if before.number != self.home.number {
            before.inbox.push(Item::Gone(self.id));
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let gone = Item::Gone(self.id);
        match self.released {
            true => self.home.inbox.push_quietly(gone),
            false => self.home.inbox.push(gone),
        }
        if let Some(user) = self.user.take() {
            self.shared.homes.count_out(user, &self.home);
        }
        self.shared.sockets.leave();
    }
}

/// Serves one accepted socket until it is closed: here until it does more than come and go, then in `workers`.
pub(crate) async fn run(shared: Arc<Shared>, workers: Handle, stream: TcpStream, peer: SocketAddr, local: SocketAddr) {
    let id = shared.next_connection_id();
    let seat = Seat { shared: shared.clone(), home: shared.homes.first().clone(), id, user: None, released: false };
    let link = Arc::new(Link::default());
    // It has nothing to say to the shard before it is logged in.
    seat.home.inbox.push_quietly(Item::Connected(id, link.clone()));
    let now = shared.clock.mono();
    let end_of = |address: SocketAddr| (address.ip().to_canonical().to_string(), address.port());
    let machine = Connection::new(shared.machine.clone(), end_of(peer), end_of(local), false, now);
    let mut driver = Driver {
        on_front: true,
        moves: false,
        served: false,
        link,
        seat,
        machine,
        stream,
        loopback: is_loopback(peer.ip()),
        ends: (peer, local),
        name: OnceCell::new(),
        commands: Vec::new(),
        effects: Vec::new(),
        open: None,
        opened: false,
        told_opened: false,
        closing: None,
        give_up: None,
        armed: None,
        login: None,
        started: now,
        shared,
    };
    let end = driver.drive().await;
    if matches!(end, End::Moves) {
        if let Some(driver) = driver.settle(&workers) {
            workers.spawn(driver.serve());
        }
    } else if let Some((shared, stream)) = driver.finish(&end) {
        linger(&shared, stream).await;
    }
}

/// Whether a connection only comes or goes, or opens and closes channels.
fn comes_or_goes(command: &Command) -> bool {
    match command {
        Command::Open(_) | Command::Close => true,
        Command::Channel(_, command) => matches!(command, ChannelCommand::Open | ChannelCommand::Close),
        _ => false,
    }
}

/// What the log calls a connection by.
fn name_of((peer, local): (SocketAddr, SocketAddr)) -> Box<str> {
    format!("{} -> {}", canonical(peer), canonical(local)).into()
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Who asked for which vhost.
struct Open {
    user: ShortStr,
    vhost: ShortStr,
}

type Verdict = dyn Future<Output = Result<AdminUser, LoginRefused>> + Send;

struct Driver {
    shared: Arc<Shared>,
    /// It has only come and gone so far, and so holds nothing.
    on_front: bool,
    /// It does more, and is to leave the front.
    moves: bool,
    /// The owner's turn was taken here: there may be mail nobody wakes us for.
    served: bool,
    link: Arc<Link>,
    seat: Seat,
    machine: Connection,
    stream: TcpStream,
    loopback: bool,
    /// Peer and local.
    ends: (SocketAddr, SocketAddr),
    /// `peer -> local`, once the log wants it: that is after the first answers, which clients wait for.
    name: OnceCell<Box<str>>,
    commands: Vec<Command>,
    effects: Vec<ConnectionEffect>,
    /// What was asked for in connection.open, once it was.
    open: Option<Open>,
    opened: bool,
    told_opened: bool,
    /// Why it ends, once the shard has let go of it.
    closing: Option<CloseReason>,
    /// When the last words are given up.
    give_up: Option<Instant>,
    /// What the timer is set to.
    armed: Option<Instant>,
    /// A login that is being verified.
    login: Option<(AuthRequest, Pin<Box<Verdict>>)>,
    started: Instant,
}

impl Driver {
    fn name(&self) -> &str {
        self.name.get_or_init(|| name_of(self.ends))
    }

    /// Serves the connection until it ends or is to go on elsewhere.
    async fn drive(&mut self) -> End {
        let mut sleep = pin!(tokio::time::sleep(Duration::from_secs(86_400)));
        poll_fn(|cx| self.poll(cx, sleep.as_mut())).await
    }

    /// Makes the socket one of the workers'.
    fn settle(self, workers: &Handle) -> Option<Self> {
        let _inside = workers.enter();
        match self.stream.into_std().and_then(TcpStream::from_std) {
            Ok(stream) => Some(Self { stream, on_front: false, armed: None, ..self }),
            Err(error) => {
                tracing::warn!("closing AMQP connection ({}): {error}", name_of(self.ends));
                None
            }
        }
    }

    /// Serves one that has moved until it is closed.
    async fn serve(mut self) {
        let end = self.drive().await;
        if let Some((shared, stream)) = self.finish(&end) {
            linger(&shared, stream).await;
        }
    }

    /// The end; gives back what is to be read to its end. Not a future: that would hold all of it a second time.
    fn finish(self, end: &End) -> Option<(Arc<Shared>, TcpStream)> {
        self.report(end);
        let Self { seat, shared, stream, .. } = self;
        drop(seat);
        matches!(end, End::Closed(_)).then_some((shared, stream))
    }

    fn poll(&mut self, cx: &mut Context<'_>, mut sleep: Pin<&mut Sleep>) -> Poll<End> {
        let mut reads = 0;
        if self.on_front {
            self.shared.lookout.saw();
        }
        // One look at the clock for all of it: what is timed here is timed in seconds.
        let mut now = self.shared.clock.mono();
        loop {
            if self.machine.poll_timeout().is_some_and(|at| at <= now) {
                if !self.link.may_read() {
                    // We are the ones who don't read, so silence proves nothing: without this the peer would be taken
                    // for dead when the disk is slow.
                    self.machine.handle_input(now);
                }
                self.machine.handle_timeout(now);
            }
            // asked before the effects are taken, so that they are all of them
            let caught_up = self.machine.is_behind() && self.link.is_idle();
            self.served = false;
            if self.link.take(cx, &mut self.effects) {
                self.note_effects();
                self.machine.handle_effects(now, &mut self.effects);
                self.effects.clear();
            }
            self.answer_auth(cx, now);
            let written = self.poll_write(cx, now);
            if let Poll::Ready(Err(error)) = written {
                return Poll::Ready(End::Lost(error));
            }
            self.tell_opened();
            if caught_up && self.machine.output().remaining() < OUTPUT_PAUSE {
                self.machine.handle_caught_up(now);
                self.hand_over();
            }
            if let Status::Closed(reason) = self.machine.status() {
                // The core may have to hear of the reason: its commands go before `Gone`.
                self.hand_over();
                if written.is_ready() {
                    return Poll::Ready(End::Closed(reason));
                }
                let at = *self.give_up.get_or_insert(now.plus_ms(LAST_WORDS.as_millis() as u64));
                if at <= now {
                    return Poll::Ready(End::Stuck);
                }
            } else if self.link.is_stopping() && self.open.is_none() {
                return Poll::Ready(End::Stopped);
            }
            let read = if self.may_read() { self.poll_read(cx) } else { Poll::Pending };
            match read {
                Poll::Ready(Ok(0)) => {
                    self.hand_over();
                    return Poll::Ready(End::Eof);
                }
                Poll::Ready(Ok(count)) => {
                    self.machine.handle_input(now);
                    self.hand_over();
                    if self.moves && self.on_front {
                        return Poll::Ready(End::Moves);
                    }
                    reads += count.div_ceil(READ_BYTES);
                    if reads >= READS_PER_POLL {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    continue;
                }
                Poll::Ready(Err(error)) => {
                    self.hand_over();
                    return Poll::Ready(End::Lost(error));
                }
                Poll::Pending => self.hand_over(),
            }
            if self.moves && self.on_front {
                return Poll::Ready(End::Moves);
            }
            if self.served {
                continue;
            }
            let deadline = [self.machine.poll_timeout(), self.give_up].into_iter().flatten().min();
            if self.arm(cx, sleep.as_mut(), deadline).is_pending() {
                return Poll::Pending;
            }
            now = self.shared.clock.mono();
        }
    }

    /// Whether more input is wanted: not while an alarm holds us, the shard is behind, or the peer doesn't take its answers.
    fn may_read(&mut self) -> bool {
        if matches!(self.machine.status(), Status::Closed(_)) || self.machine.is_held() {
            return false;
        }
        self.machine.output().remaining() < OUTPUT_PAUSE && self.link.may_read()
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let wanted = self.machine.wanted_input();
        let input = self.machine.input();
        self.shared.buffers.make_room(input, wanted);
        let read = pin!(self.stream.read_buf(&mut input.limit(READ_MOST))).poll(cx);
        match &read {
            Poll::Ready(Ok(count)) => {
                self.link.received.fetch_add(*count as u64, Ordering::Relaxed);
            }
            // An idle connection keeps no buffer.
            _ if input.is_empty() => self.shared.buffers.give(std::mem::take(input)),
            _ => {}
        }
        read
    }

    /// Ready when all output is written.
    fn poll_write(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<io::Result<()>> {
        let output = self.machine.output();
        if !output.has_remaining() {
            return Poll::Ready(Ok(()));
        }
        let mut written = 0;
        while output.has_remaining() {
            if written >= WRITTEN_PER_POLL {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let mut slices = [IoSlice::new(&[]); 16];
            let used = output.chunks_vectored(&mut slices);
            let stream = Pin::new(&mut self.stream);
            let count = ready!(match &slices[..used] {
                [one] => stream.poll_write(cx, one),
                many => stream.poll_write_vectored(cx, many),
            })?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            output.advance(count);
            written += count;
            self.link.sent.fetch_add(count as u64, Ordering::Relaxed);
        }
        self.machine.handle_written(now);
        Poll::Ready(Ok(()))
    }

    /// Sets the timer when it is needed earlier than it is set: deadlines move with each octet, the timer seldom.
    /// Ready when the deadline may have come.
    fn arm(&mut self, cx: &mut Context<'_>, mut sleep: Pin<&mut Sleep>, deadline: Option<Instant>) -> Poll<()> {
        let Some(deadline) = deadline else { return Poll::Pending };
        if self.armed.is_none_or(|armed| deadline < armed) {
            sleep.as_mut().reset(self.shared.clock.deadline(deadline));
            self.armed = Some(deadline);
        }
        ready!(sleep.poll(cx));
        self.armed = None;
        Poll::Ready(())
    }

    /// Puts what the machine has for the shard into the inbox, as one item.
    fn hand_over(&mut self) {
        self.machine.poll_commands(&mut self.commands);
        if self.commands.is_empty() {
            return;
        }
        if self.open.is_none() {
            self.open = self.commands.iter().find_map(|command| match command {
                Command::Open(open) => Some(Open { user: open.user.clone(), vhost: open.vhost.clone() }),
                _ => None,
            });
            if let Some(open) = &self.open {
                self.seat.go_to(open, &self.link);
            }
        }
        self.link.spend();
        let inbox = &self.seat.home.inbox;
        if !self.on_front || !self.commands.iter().all(comes_or_goes) {
            self.moves = true;
            return inbox.push(Item::Commands(self.seat.id, std::mem::take(&mut self.commands)));
        }
        self.link.stay_awake();
        self.served = true;
        let item = Item::Commands(self.seat.id, std::mem::take(&mut self.commands));
        if let Some(item) = self.seat.home.desk.serve(item) {
            inbox.push(item);
        }
    }

    /// Verifies a login: right here when that costs less than moving it elsewhere, which is so but for slow hashes.
    fn answer_auth(&mut self, cx: &mut Context<'_>, now: Instant) {
        if let Some(request) = self.machine.poll_auth() {
            let (user, password) = (&request.username, &request.password);
            if !self.shared.auth.is_slow(user, password) {
                let verdict = self.shared.auth.login(user, password, self.loopback);
                return self.decide(now, &request, verdict);
            }
            let verdict = crate::slow_login(Arc::clone(&self.shared), user.clone(), password.clone(), self.loopback);
            self.login = Some((request, Box::pin(verdict)));
        }
        let Some((request, mut verdict)) = self.login.take() else { return };
        match verdict.as_mut().poll(cx) {
            Poll::Ready(verdict) => self.decide(now, &request, verdict),
            Poll::Pending => self.login = Some((request, verdict)),
        }
    }

    /// Tells the machine what became of a login, and the log when nothing did.
    fn decide(&mut self, now: Instant, request: &AuthRequest, verdict: Result<AdminUser, LoginRefused>) {
        let outcome = match verdict {
            Ok(user) => AuthOutcome::Ok(user.name),
            Err(refused) => {
                let why = match refused {
                    LoginRefused::Credentials => "invalid credentials",
                    LoginRefused::NotLoopback => "user can only connect via localhost",
                };
                let name = name_of(self.ends);
                tracing::warn!(
                    "connection {name}: {} login refused: user '{}' - {why}",
                    request.mechanism,
                    request.username
                );
                AuthOutcome::Refused
            }
        };
        self.machine.handle_auth(now, outcome);
    }

    /// Keeps what the log wants to know.
    fn note_effects(&mut self) {
        for effect in &self.effects {
            match effect {
                ConnectionEffect::Opened => self.opened = true,
                ConnectionEffect::CloseOk => self.closing = Some(CloseReason::ByClient),
                ConnectionEffect::Close(error) => self.closing = Some(CloseReason::ByServer(error.clone())),
                _ => {}
            }
            self.seat.released = self.closing.is_some();
        }
    }

    /// Says in the log that it is open, once: after the client was told, who waits for that.
    fn tell_opened(&mut self) {
        if self.told_opened || !self.opened {
            return;
        }
        self.told_opened = true;
        if let Some(open) = &self.open {
            let (name, user, vhost) = (self.name(), &open.user, &open.vhost);
            tracing::info!("connection {name}: user '{user}' authenticated and granted access to vhost '{vhost}'");
        }
    }

    /// Port probes and health checks stay below info.
    fn report(&self, end: &End) {
        let name = self.name();
        let silent = self.link.received.load(Ordering::Relaxed) == 0;
        let who = match &self.open {
            Some(open) if self.opened => {
                let seconds = self.shared.clock.mono().ms_since(self.started) / 1000;
                format!("{name}, vhost: '{}', user: '{}', duration: {seconds} s", open.vhost, open.user)
            }
            _ => name.to_owned(),
        };
        let reason = match (end, &self.closing) {
            (_, Some(reason)) | (End::Closed(reason), None) => Some(reason),
            _ => None,
        };
        match (end, reason) {
            _ if silent => tracing::debug!("connection {who} closed before any data"),
            (_, Some(CloseReason::ByClient)) if self.opened => tracing::info!("closing AMQP connection ({who})"),
            (_, Some(CloseReason::ByClient)) => tracing::debug!("closing AMQP connection ({who})"),
            // Told when it was refused.
            (_, Some(CloseReason::LoginRefused)) => tracing::debug!("closing AMQP connection ({who})"),
            (_, Some(reason)) => tracing::warn!("closing AMQP connection ({who}): {reason}"),
            (End::Eof | End::Lost(_), None) if !self.opened => {
                tracing::debug!("connection {who} closed during the handshake");
            }
            (End::Eof, None) => {
                tracing::warn!("closing AMQP connection ({who}): client unexpectedly closed TCP connection");
            }
            (End::Lost(error), None) => tracing::warn!("closing AMQP connection ({who}): {error}"),
            (End::Stuck | End::Closed(_), None) => {
                tracing::warn!("closing AMQP connection ({who}): the peer does not read");
            }
            (End::Moves, None) => {}
            (End::Stopped, None) => tracing::debug!("connection {who} dropped: the broker stops"),
        }
    }
}

/// Reads what the peer still sends after our end is closed.
async fn linger(shared: &Shared, mut stream: TcpStream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut sink = shared.buffers.take();
    let rest = async {
        while matches!(stream.read_buf(&mut sink).await, Ok(count) if count > 0) {
            sink.clear();
        }
    };
    let _ = tokio::time::timeout(LINGER, rest).await;
    shared.buffers.give(sink);
}

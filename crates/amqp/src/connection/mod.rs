//! The server's side of one connection: what framing needs and no more. Consumers, unacked deliveries and confirms live
//! in the core.

mod api;
mod channel;
mod closing;
mod effects;
mod handshake;
mod heartbeat;
mod input;
mod output;

pub use api::{AuthOutcome, AuthRequest, CloseReason, MachineConfig, Status};
pub use output::Output;

use bytes::BytesMut;
use channel::Channel;
use handshake::Login;
use heartbeat::{Due, Heartbeat};
use hornpipe_types::Map;
use hornpipe_types::command::Command;
use hornpipe_types::effect::ConnectionEffect;
use hornpipe_types::error::AmqpError;
use hornpipe_types::message::{Batch, BatchBuilder};
use hornpipe_types::time::Instant;
use input::{Coming, Tail};
use std::sync::Arc;

/// Buffers larger than this are given back when the connection falls idle, octets.
const IDLE_BUFFER: usize = 4096;
/// Idle: nothing happened for so long, milliseconds.
const IDLE_MS: u64 = 1000;
/// Input that may wait for an answer (login, open) before the socket is no longer read, octets.
const WAITING_INPUT: usize = 64 * 1024;
/// basic.gets handed over before the core must have dealt with them: each may be answered by a message of any size, so a
/// peer that asks and does not read would fill the memory.
const GETS_AHEAD: u32 = 16;

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// The protocol header is due.
    Header,
    /// start was sent, start-ok is due.
    Start,
    /// The driver verifies the credentials.
    Authenticating,
    /// tune was sent, tune-ok is due.
    Tune,
    /// connection.open is due.
    Opening,
    /// The core decides about connection.open.
    OpenSent,
    Running,
    /// The machine found an error and told the core; its `Close` is due.
    Failing {
        /// Input makes no sense any more.
        fatal: bool,
        /// The client sent close meanwhile.
        owes_close_ok: bool,
    },
    /// The client closed; the core's `CloseOk` is due.
    ClosingByClient,
    /// connection.close was sent, close-ok is due.
    CloseSent {
        drop_at: Instant,
        error: AmqpError,
        fatal: bool,
    },
    /// All is said; the peer is to close the socket.
    Draining {
        drop_at: Instant,
        reason: CloseReason,
    },
    Closed(CloseReason),
}

/// The server's side of one connection: a machine without IO.
///
/// After each `handle_*` the driver drains [`Self::poll_commands`] and [`Self::poll_auth`], writes [`Self::output`], looks at
/// [`Self::status`] and sleeps until [`Self::poll_timeout`] or the next event. Only the driver knows when the socket is gone:
/// the machine never emits `Command::Gone`.
#[derive(Debug)]
pub struct Connection {
    config: Arc<MachineConfig>,
    /// Both ends, until the core is told.
    peer: (String, u16),
    local: (String, u16),
    tls: bool,

    state: State,
    handshake_deadline: Instant,
    heartbeat: Heartbeat,
    heartbeat_seconds: u16,
    login: Option<Box<Login>>,
    auth: Option<AuthRequest>,
    /// Largest frame in both directions; until tune-ok that of incoming ones.
    frame_max: u32,
    channel_max: u16,
    blocked_notify: bool,

    channels: Map<u16, Channel>,
    /// Channels the core knows or is about to know; those in `CloseSent` are not counted.
    live_channels: u32,
    /// An alarm is up for this reason …
    hold: Option<&'static str>,
    /// … and content has come since: nothing is read.
    held: bool,
    /// basic.gets handed over since [`Self::handle_caught_up`].
    gets: u32,

    input: BytesMut,
    /// See [`Self::wanted_input`].
    wanted: usize,
    /// What the input begins with.
    coming: Option<Coming>,
    output: Output,
    commands: Vec<Command>,
    /// Content cost of what is in the output.
    unwritten: u64,
    /// A buffer for method payloads.
    scratch: Vec<u8>,

    /// The batch of this read; `None` between reads.
    batch: Option<BatchBuilder>,
    /// Commands that wait for the batch.
    runs: Vec<usize>,
    tail: Tail,
    /// Stands in runs until their batch is finished.
    no_batch: Arc<Batch>,

    last_activity: Instant,
    /// When to look whether buffers can be given back.
    release_at: Option<Instant>,
}

impl Connection {
    /// A connection that was just accepted; `now` starts the handshake timeout.
    pub fn new(config: Arc<MachineConfig>, peer: (String, u16), local: (String, u16), tls: bool, now: Instant) -> Self {
        let limits = &config.limits;
        Self {
            peer,
            local,
            tls,
            state: State::Header,
            handshake_deadline: now.plus_ms(limits.handshake_timeout_ms),
            heartbeat: Heartbeat::default(),
            heartbeat_seconds: 0,
            login: None,
            auth: None,
            frame_max: limits.initial_frame_max,
            channel_max: limits.channel_max,
            config,
            blocked_notify: false,
            channels: Map::default(),
            live_channels: 0,
            hold: None,
            held: false,
            gets: 0,
            input: BytesMut::new(),
            wanted: 0,
            coming: None,
            output: Output::default(),
            commands: Vec::new(),
            unwritten: 0,
            scratch: Vec::new(),
            batch: None,
            runs: Vec::new(),
            tail: Tail::default(),
            no_batch: Arc::default(),
            last_activity: now,
            release_at: None,
        }
    }

    /// The buffer the driver reads the socket into (append only), followed by [`Self::handle_input`].
    ///
    /// It is given back after a second of silence, so reserve room just before reading, not while waiting for input.
    pub fn input(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// How many octets the buffer should hold in all when the next read ends, no more: the large message that has begun, or one
    /// as large as the last. It needs no copy when nothing else is there. 0 where that doesn't matter.
    pub fn wanted_input(&self) -> usize {
        self.wanted
    }

    /// Turns all complete frames of the input buffer into commands. To be called only after octets were read: they count as
    /// a sign of life.
    pub fn handle_input(&mut self, now: Instant) {
        self.heartbeat.on_received();
        self.on_activity(now);
        self.read(now);
    }

    /// The answer to [`Self::poll_auth`].
    pub fn handle_auth(&mut self, now: Instant, outcome: AuthOutcome) {
        self.on_auth(now, outcome);
        self.read(now);
    }

    /// Encodes effects into the output; `effects` is drained. Input that waited for an answer may become commands.
    pub fn handle_effects(&mut self, now: Instant, effects: &mut Vec<ConnectionEffect>) {
        self.on_activity(now);
        let (waited, held) = (self.state == State::OpenSent, self.held);
        for effect in effects.drain(..) {
            self.on_effect(now, effect);
        }
        if (waited && self.state != State::OpenSent) || (held && !self.held) {
            self.read(now);
        }
    }

    /// The time of [`Self::poll_timeout`] has come (an earlier call is harmless).
    pub fn handle_timeout(&mut self, now: Instant) {
        match &self.state {
            State::Draining { drop_at, reason } if now >= *drop_at => {
                let reason = reason.clone();
                self.give_up(reason);
            }
            State::CloseSent { drop_at, error, .. } if now >= *drop_at => {
                let reason = CloseReason::ByServer(error.clone());
                self.give_up(reason);
            }
            _ if self.is_handshake() && now >= self.handshake_deadline => {
                self.give_up(CloseReason::HandshakeTimeout);
            }
            _ => {}
        }
        match self.heartbeat.on_timeout(now, self.held) {
            Due::Dead => self.give_up(CloseReason::HeartbeatTimeout),
            // what waits to be written is as good
            Due::Send if self.output.is_empty() => {
                crate::codec::frame::put(&mut self.output.bytes, crate::codec::frame::HEARTBEAT, 0, &[]);
            }
            _ => {}
        }
        if self.release_at.is_some_and(|at| now >= at) {
            self.release(now);
        }
    }

    /// The core has dealt with all commands, and what it said was taken by [`Self::handle_effects`]. To be called while
    /// [`Self::is_behind`], once the peer has taken enough of its answers.
    pub fn handle_caught_up(&mut self, now: Instant) {
        if self.is_behind() {
            self.gets = 0;
            self.read(now);
        }
    }

    /// Whether input waits because too much was asked for ahead of the answers.
    pub fn is_behind(&self) -> bool {
        self.gets >= GETS_AHEAD && self.state == State::Running
    }

    /// All output was written to the socket.
    pub fn handle_written(&mut self, now: Instant) {
        self.heartbeat.on_sent(now);
        if self.unwritten > 0 {
            self.commands.push(Command::Written(std::mem::take(&mut self.unwritten)));
        }
    }

    /// Appends all commands for the core.
    pub fn poll_commands(&mut self, out: &mut Vec<Command>) {
        if out.is_empty() {
            return std::mem::swap(out, &mut self.commands);
        }
        out.append(&mut self.commands);
    }

    /// Octets to write; [`Self::handle_written`] once there are none left.
    pub fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// Credentials to verify; each is handed out once and answered by [`Self::handle_auth`].
    pub fn poll_auth(&mut self) -> Option<AuthRequest> {
        self.auth.take()
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let state = match &self.state {
            State::Draining { drop_at, .. } | State::CloseSent { drop_at, .. } => Some(*drop_at),
            _ if self.is_handshake() => Some(self.handshake_deadline),
            State::Closed(_) => return None,
            _ => None,
        };
        [state, self.heartbeat.deadline(), self.release_at].into_iter().flatten().min()
    }

    /// Where the connection stands.
    pub fn status(&self) -> Status {
        match &self.state {
            State::Draining { drop_at, .. } | State::CloseSent { drop_at, .. } => Status::Closing { drop_at: *drop_at },
            State::Closed(reason) => Status::Closed(reason.clone()),
            _ => Status::Running,
        }
    }

    /// Whether the driver must not read the socket for now: an alarm is up and this connection publishes, or it sends ahead
    /// of answers more than is reasonable.
    pub fn is_held(&self) -> bool {
        let waits = matches!(self.state, State::Authenticating | State::OpenSent);
        self.held || self.is_behind() || (waits && self.input.len() > WAITING_INPUT)
    }

    fn is_handshake(&self) -> bool {
        use State::{Authenticating, Header, OpenSent, Opening, Start, Tune};
        matches!(self.state, Header | Start | Authenticating | Tune | Opening | OpenSent)
    }

    /// The end without a word: a peer that does not read would keep the output from becoming empty.
    fn give_up(&mut self, reason: CloseReason) {
        self.output.clear();
        self.heartbeat.stop();
        self.release_at = None;
        self.state = State::Closed(reason);
    }

    fn on_activity(&mut self, now: Instant) {
        self.last_activity = now;
        if self.release_at.is_none() {
            self.release_at = Some(now.plus_ms(IDLE_MS));
        }
    }

    /// Gives large empty buffers back once the connection is idle.
    fn release(&mut self, now: Instant) {
        if now.ms_since(self.last_activity) < IDLE_MS {
            self.release_at = Some(self.last_activity.plus_ms(IDLE_MS));
            return;
        }
        self.release_at = None;
        if self.input.is_empty() && self.input.capacity() > IDLE_BUFFER {
            self.input = BytesMut::new();
        }
        self.output.release(IDLE_BUFFER);
        self.commands.shrink_to(8);
        self.runs.shrink_to(8);
        self.scratch.clear();
        self.scratch.shrink_to(256);
    }
}

//! The server's side of one connection.

mod api;

pub use api::{AuthOutcome, AuthRequest, CloseReason, MachineConfig, Output, Status};

use bytes::BytesMut;
use hornpipe_types::command::Command;
use hornpipe_types::effect::ConnectionEffect;
use hornpipe_types::time::Instant;
use std::sync::Arc;

/// The server's side of one connection: a machine without IO.
///
/// After each `handle_*` the driver drains `poll_commands` and `poll_auth`, writes the output and looks at `status`.
/// Only the driver knows when the socket is gone: the machine never emits `Command::Gone`.
#[derive(Debug)]
pub struct Connection {
    config: Arc<MachineConfig>,
    input: BytesMut,
    output: Output,
    commands: Vec<Command>,
    auth: Option<AuthRequest>,
}

impl Connection {
    /// A connection that was just accepted.
    pub fn new(
        config: Arc<MachineConfig>,
        peer: (String, u16),
        local: (String, u16),
        tls: bool,
        now: Instant,
    ) -> Self {
        let _ = (peer, local, tls, now);
        Self { config, input: BytesMut::new(), output: Output::default(), commands: Vec::new(), auth: None }
    }
    /// The buffer the driver reads the socket into (append only), followed by [`Self::handle_input`].
    pub fn input(&mut self) -> &mut BytesMut {
        &mut self.input
    }
    /// Turns all complete frames of the input buffer into commands. Call it only after octets were read.
    pub fn handle_input(&mut self, now: Instant) {
        let _ = (now, &self.config);
    }
    /// The answer to [`Self::poll_auth`].
    pub fn handle_auth(&mut self, now: Instant, outcome: AuthOutcome) {
        let _ = (now, outcome);
    }
    /// Encodes effects into the output; `effects` is drained.
    pub fn handle_effects(&mut self, now: Instant, effects: &mut Vec<ConnectionEffect>) {
        let _ = now;
        effects.clear();
    }
    /// The time of [`Self::poll_timeout`] has come (or an earlier one: harmless).
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }
    /// All output was written to the socket.
    pub fn handle_written(&mut self, now: Instant) {
        let _ = now;
    }
    /// Appends all commands for the core.
    pub fn poll_commands(&mut self, out: &mut Vec<Command>) {
        out.append(&mut self.commands);
    }
    /// Octets to write.
    pub fn output(&mut self) -> &mut Output {
        &mut self.output
    }
    /// Credentials to verify, once.
    pub fn poll_auth(&mut self) -> Option<AuthRequest> {
        self.auth.take()
    }
    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }
    /// Where the connection stands.
    pub fn status(&self) -> Status {
        Status::Running
    }
    /// Whether the driver must not read the socket for now.
    pub fn is_held(&self) -> bool {
        false
    }
}

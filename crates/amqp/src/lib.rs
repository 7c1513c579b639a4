//! AMQP 0-9-1 on the wire: the frame codec and the server's side of a connection, as a machine without IO.
//!
//! Bytes go in, [`Command`](hornpipe_types::command::Command)s come out; [`ConnectionEffect`](hornpipe_types::effect::ConnectionEffect)s
//! go in, bytes come out. No sockets, threads or clocks: time is an argument. Read first: [`Connection`].

mod codec;
mod connection;

pub use connection::{AuthOutcome, AuthRequest, CloseReason, Connection, MachineConfig, Output, Status};

//! What the admin side can change: a closed set of operations, what becomes of them, and the trait that is the door.
//!
//! What clients could do over AMQP too (declare, bind, publish, get) is done with the caller's permissions and refused with
//! the same errors. Users, vhosts, permissions and policies are the caller's to guard: the broker does not ask for tags.

use crate::command::{Bind, ExchangeDeclare, QueueDeclare};
use crate::definition::{
    Definition, ParameterDefinition, PermissionDefinition, PolicyDefinition, TopicPermissionDefinition, UserDefinition,
};
use crate::error::AmqpError;
use crate::header::Properties;
use crate::ids::ConnectionId;
use crate::message::Span;
use crate::names::ShortStr;
use crate::stats::{BoxFuture, Inspect};

/// What a vhost is to have; `None` = as it is, or the default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct VhostSettings {
    pub description: Option<String>,
    pub tags: Option<Vec<String>>,
    pub default_queue_type: Option<ShortStr>,
}

/// The password of a user that is put.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// The hash in the user's definition counts.
    Hashed,
    /// In clear; hashed beside the owner task before the operation reaches it.
    Clear(String),
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self, Self::Hashed) { "Hashed" } else { "Clear(…)" })
    }
}

/// What is done with the messages a [`Operation::Get`] brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GetMode {
    /// They go back to the queue.
    Requeue,
    /// They are acknowledged.
    Ack,
    /// They are rejected: dead-lettered or dropped.
    Reject,
}

/// A change. Names are taken literally; the default exchange is the empty name.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum Operation {
    /// Adds or changes a vhost; the caller gets full permissions on a new one, as in RabbitMQ.
    PutVhost {
        name: ShortStr,
        settings: VhostSettings,
    },
    /// Removes a vhost with all in it; its connections are closed.
    DeleteVhost {
        name: ShortStr,
    },
    /// Adds or replaces a user; limits of an existing one stay.
    PutUser {
        user: UserDefinition,
        password: Password,
    },
    DeleteUser {
        name: ShortStr,
    },
    PutPermission(PermissionDefinition),
    DeletePermission {
        vhost: ShortStr,
        user: ShortStr,
    },
    PutTopicPermission(TopicPermissionDefinition),
    /// Without an exchange: those on all.
    DeleteTopicPermission {
        vhost: ShortStr,
        user: ShortStr,
        exchange: Option<ShortStr>,
    },
    PutPolicy(PolicyDefinition),
    DeletePolicy {
        vhost: ShortStr,
        operator: bool,
        name: ShortStr,
    },
    /// Sets (`Some`) or clears a limit of a vhost.
    LimitVhost {
        vhost: ShortStr,
        limit: ShortStr,
        value: Option<i64>,
    },
    /// Sets (`Some`) or clears a limit of a user.
    LimitUser {
        user: ShortStr,
        limit: ShortStr,
        value: Option<i64>,
    },
    PutParameter(ParameterDefinition),
    DeleteParameter {
        vhost: Option<ShortStr>,
        component: ShortStr,
        name: ShortStr,
    },
    DeclareQueue {
        vhost: ShortStr,
        declare: QueueDeclare,
    },
    DeleteQueue {
        vhost: ShortStr,
        queue: ShortStr,
        if_unused: bool,
        if_empty: bool,
    },
    PurgeQueue {
        vhost: ShortStr,
        queue: ShortStr,
    },
    DeclareExchange {
        vhost: ShortStr,
        declare: ExchangeDeclare,
    },
    DeleteExchange {
        vhost: ShortStr,
        exchange: ShortStr,
        if_unused: bool,
    },
    Bind {
        vhost: ShortStr,
        to_queue: bool,
        bind: Bind,
    },
    Unbind {
        vhost: ShortStr,
        to_queue: bool,
        bind: Bind,
    },
    /// Publishes one message and waits for its confirm.
    Publish {
        vhost: ShortStr,
        exchange: ShortStr,
        routing_key: ShortStr,
        properties: Box<Properties>,
        body: Vec<u8>,
    },
    /// Takes up to `count` messages.
    Get {
        vhost: ShortStr,
        queue: ShortStr,
        count: u32,
        mode: GetMode,
    },
    /// Closes a connection with 320 and this reason.
    CloseConnection {
        connection: ConnectionId,
        reason: String,
    },
    /// Adds a queue, exchange or binding of a definitions file: no permission is asked, what is there is left as it is.
    Import(Box<Definition>),
}

/// A message that was got.
#[derive(Debug, Clone)]
pub struct GotMessage {
    /// The message alone.
    pub span: Span,
    /// The flag.
    pub redelivered: bool,
    /// Messages left in the queue.
    pub messages: u32,
}

/// What became of an operation. Durable changes are on disk when it is told.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// It is there now and was not before.
    Created,
    /// It was there before, and is now as asked.
    Exists,
    /// Done.
    Done,
    /// What it is about is not there.
    NotFound,
    /// A client would have been told this.
    Refused(AmqpError),
    /// It makes no sense; the sentence is for the caller.
    Invalid(String),
    /// What [`Operation::Get`] brought.
    Messages(Vec<GotMessage>),
    /// Whether what [`Operation::Publish`] published reached a queue.
    Routed(bool),
    /// A queue was full (`reject-publish`).
    Rejected,
}

/// The admin's door for changing.
pub trait Operate: Send + Sync {
    /// Does it in the name of `user`. Fails with a sentence when the broker is not serving.
    fn operate(&self, user: &ShortStr, operation: Operation) -> BoxFuture<'_, Result<Outcome, String>>;

    /// Makes a copy of the store as of one moment in a folder of the broker's machine, while traffic goes on. Done when it
    /// is on disk. The caller guards who may.
    fn snapshot(&self, folder: &str) -> BoxFuture<'_, Result<SnapshotMade, SnapshotRefused>>;
}

/// A snapshot that is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotMade {
    /// Where.
    pub folder: String,
    /// Octets of the log's database in it, roughly.
    pub db_bytes: u64,
    /// Octets of body files in it; shared with the broker's where both are on one file system.
    pub body_bytes: u64,
}

/// Why there is no snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotRefused {
    /// The folder can't be one for a snapshot.
    Folder(String),
    /// The broker can't make one now, or failed to.
    Broker(String),
}

/// Both doors.
pub trait Manage: Inspect + Operate {}
impl<T: Inspect + Operate> Manage for T {}

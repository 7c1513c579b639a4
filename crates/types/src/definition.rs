//! Definitions: what exists besides messages. Plain data, as stored and as exported.
//!
//! Stored as JSON. A field that is missing there has its default, so that what older versions wrote still opens; a field may
//! be added, but none renamed, and none given another meaning (a test in `hornpipe-store` holds the forms written so far).

use crate::Map;
use crate::ids::{QueueId, VhostId};
use crate::names::ShortStr;
use crate::range::SeqRange;
use crate::table::FieldTable;
use serde::{Deserialize, Serialize};

/// A durable definition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Definition {
    Vhost(VhostDefinition),
    User(UserDefinition),
    Permission(PermissionDefinition),
    TopicPermission(TopicPermissionDefinition),
    Exchange(ExchangeDefinition),
    Queue(QueueDefinition),
    Binding(BindingDefinition),
    Policy(PolicyDefinition),
    Parameter(ParameterDefinition),
    /// Ids below these may have been used; persisted in strides so that none is reused.
    NextIds {
        #[serde(default)]
        queue: QueueId,
        #[serde(default)]
        vhost: VhostId,
    },
}

/// What names a definition; the key a definition is stored under.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum DefinitionKey {
    Vhost {
        name: ShortStr,
    },
    User {
        name: ShortStr,
    },
    Permission {
        user: ShortStr,
        vhost: ShortStr,
    },
    TopicPermission {
        user: ShortStr,
        vhost: ShortStr,
        exchange: ShortStr,
    },
    Exchange {
        vhost: ShortStr,
        name: ShortStr,
    },
    Queue {
        vhost: ShortStr,
        name: ShortStr,
    },
    /// `arguments` is the sorted argument table in its AMQP encoding.
    Binding {
        vhost: ShortStr,
        source: ShortStr,
        destination_is_queue: bool,
        destination: ShortStr,
        routing_key: ShortStr,
        arguments: Vec<u8>,
    },
    Policy {
        vhost: ShortStr,
        operator: bool,
        name: ShortStr,
    },
    Parameter {
        vhost: Option<ShortStr>,
        component: ShortStr,
        name: ShortStr,
    },
    NextIds,
}

impl Definition {
    /// The key of this definition.
    pub fn key(&self) -> DefinitionKey {
        match self {
            Self::Vhost(d) => DefinitionKey::Vhost { name: d.name.clone() },
            Self::User(d) => DefinitionKey::User { name: d.name.clone() },
            Self::Permission(d) => DefinitionKey::Permission { user: d.user.clone(), vhost: d.vhost.clone() },
            Self::TopicPermission(d) => DefinitionKey::TopicPermission {
                user: d.user.clone(),
                vhost: d.vhost.clone(),
                exchange: d.exchange.clone(),
            },
            Self::Exchange(d) => DefinitionKey::Exchange { vhost: d.vhost.clone(), name: d.name.clone() },
            Self::Queue(d) => DefinitionKey::Queue { vhost: d.vhost.clone(), name: d.name.clone() },
            Self::Binding(d) => d.key(),
            Self::Policy(d) => {
                DefinitionKey::Policy { vhost: d.vhost.clone(), operator: d.operator, name: d.name.clone() }
            }
            Self::Parameter(d) => DefinitionKey::Parameter {
                vhost: d.vhost.clone(),
                component: d.component.clone(),
                name: d.name.clone(),
            },
            Self::NextIds { .. } => DefinitionKey::NextIds,
        }
    }
}

/// A virtual host.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct VhostDefinition {
    pub name: ShortStr,
    pub id: VhostId,
    /// The shard that owns it.
    pub shard: u32,
    pub description: String,
    pub tags: Vec<String>,
    pub default_queue_type: Option<ShortStr>,
    /// `max-connections`, `max-queues`; negative = none.
    pub limits: Vec<(ShortStr, i64)>,
}

/// A user. `password_hash` is base64(salt\[4\] ‖ H(salt ‖ password)), a PHC string for Argon2; empty = no password login.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct UserDefinition {
    pub name: ShortStr,
    pub password_hash: String,
    /// `rabbit_password_hashing_sha256`, `…_sha512`, `…_md5`, `hornpipe_password_hashing_argon2id`.
    pub hashing_algorithm: String,
    pub tags: Vec<String>,
    /// `max-connections`, `max-channels`; negative = none.
    pub limits: Vec<(ShortStr, i64)>,
}

/// What a user may do in a vhost; unanchored regexes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct PermissionDefinition {
    pub user: ShortStr,
    pub vhost: ShortStr,
    pub configure: String,
    pub write: String,
    pub read: String,
}

/// What routing keys a user may write and read through a topic exchange.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct TopicPermissionDefinition {
    pub user: ShortStr,
    pub vhost: ShortStr,
    pub exchange: ShortStr,
    pub write: String,
    pub read: String,
}

/// An exchange.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ExchangeDefinition {
    pub vhost: ShortStr,
    pub name: ShortStr,
    pub kind: ShortStr,
    pub durable: bool,
    pub auto_delete: bool,
    pub internal: bool,
    pub arguments: FieldTable,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// A queue. There may be a million: what most have not is not written.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct QueueDefinition {
    pub vhost: ShortStr,
    pub name: ShortStr,
    pub id: QueueId,
    pub durable: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub exclusive: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub auto_delete: bool,
    #[serde(skip_serializing_if = "FieldTable::is_empty")]
    pub arguments: FieldTable,
    /// Set in what stays of a deleted queue for a while.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grave: Option<Box<GraveDefinition>>,
}

/// What a deleted queue leaves behind whose rejected messages are still to be dead-lettered: all that is in the log under
/// its id then. It has a name that no client sees.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GraveDefinition {
    /// The name the queue had.
    pub queue: ShortStr,
    /// Its dead-letter exchange.
    pub exchange: ShortStr,
    /// The routing key for its dead letters; `None` = their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routing_key: Option<ShortStr>,
    /// Messages that died of something else than a rejection: RabbitMQ's word for it and their seqs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<(ShortStr, Vec<SeqRange>)>,
}

/// A binding of an exchange to a queue or an exchange.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct BindingDefinition {
    pub vhost: ShortStr,
    pub source: ShortStr,
    pub destination: ShortStr,
    pub destination_is_queue: bool,
    pub routing_key: ShortStr,
    pub arguments: FieldTable,
    /// Bindings of a vhost were made in this order; 0 = before this was noted. No part of the identity.
    pub order: u64,
}

impl BindingDefinition {
    /// The identity of a binding: source, destination, routing key and arguments sorted by key.
    pub fn key(&self) -> DefinitionKey {
        let mut arguments = Vec::new();
        if !self.arguments.is_empty() {
            self.arguments.sorted().encode_pairs(&mut arguments);
        }
        DefinitionKey::Binding {
            vhost: self.vhost.clone(),
            source: self.source.clone(),
            destination_is_queue: self.destination_is_queue,
            destination: self.destination.clone(),
            routing_key: self.routing_key.clone(),
            arguments,
        }
    }
}

/// A policy or operator policy. Values in `definition` are long strings, longs and bools, as JSON brings them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct PolicyDefinition {
    pub vhost: ShortStr,
    pub operator: bool,
    pub name: ShortStr,
    pub pattern: String,
    /// `queues`, `exchanges`, `all`, `classic_queues`, `quorum_queues`, `streams`.
    pub apply_to: String,
    pub priority: i64,
    pub definition: FieldTable,
}

/// A runtime parameter (of a vhost) or a global parameter (no vhost, component empty). `value` is JSON text.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ParameterDefinition {
    pub vhost: Option<ShortStr>,
    pub component: ShortStr,
    pub name: ShortStr,
    pub value: String,
}

/// What a login needs to know, kept outside the core so that password hashing never runs on the owner task.
#[derive(Debug, Clone, Default)]
pub struct LoginTable {
    /// Users by name.
    pub users: Map<ShortStr, UserDefinition>,
}

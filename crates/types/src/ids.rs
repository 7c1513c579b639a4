//! Newtypes for every id, so that they can't be mixed up.

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl $name {
            /// The id after this one.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// One socket, from accept to close. Never reused within a process.
    ConnectionId
);
id!(
    /// A virtual host. Never reused within a data folder.
    VhostId
);
id!(
    /// A queue. Never reused within a data folder, so that log records of a dropped queue can't reach a new one.
    QueueId
);
id!(
    /// One per command that changes durable state; the store's watermark moves over these.
    CommitSeq
);
id!(
    /// One logged run of messages (an `Enqueue` op), however many queues it went to. 0 = not logged. Not persisted.
    EnqueueId
);
id!(
    /// A question from the admin side (inspect, operate), answered by id.
    RequestId
);
id!(
    /// A request to read bodies back from the store.
    LoadId
);

/// Channel number on a connection; 0 is the connection itself [spec §4.2.3].
pub type ChannelNumber = u16;
/// Position of a message in its queue. Grows by one per message; a requeued message returns to its own position.
pub type Seq = u64;
/// Delivery or publish tag: per channel, from 1 [spec §1.1].
pub type Tag = u64;

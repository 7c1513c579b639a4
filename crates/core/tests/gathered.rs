//! The publishes of one read handed over together come to the same as each alone.

use hornpipe_testkit::{Broker, message};
use hornpipe_types::command::{ChannelCommand, Command, Consume, Publishes, QueueDeclare, RunHead};
use hornpipe_types::effect::{ChannelEffect, ConnectionEffect};
use hornpipe_types::header::Properties;
use hornpipe_types::ids::ConnectionId;
use hornpipe_types::limits::Limits;
use hornpipe_types::message::{BatchBuilder, Span};
use hornpipe_types::stats::MessageStats;
use hornpipe_types::table::{FieldTable, Value};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const PUBLISHER: ConnectionId = ConnectionId(1);
const CONSUMER: ConnectionId = ConnectionId(2);
/// Channels of the publisher: two plain ones, one with confirms, one with transactions, and one that is not open.
const CONFIRMING: u16 = 3;
const TRANSACTIONAL: u16 = 4;
const CLOSED: u16 = 5;
/// Keys of queues of all sorts, and one of none.
const KEYS: [&str; 9] = ["plain", "other", "third", "short", "full", "levels", "quorum", "fleeting", "nowhere"];

/// A run: channel, index of the key, mandatory, kinds of its messages.
type Run = (u16, usize, bool, Vec<u8>);

fn declare(queue: &str) -> ChannelCommand {
    let mut arguments = FieldTable::default();
    match queue {
        "short" => arguments.set("x-max-length", Value::I32(3)),
        "full" => {
            arguments.set("x-max-length", Value::I32(3));
            arguments.set("x-overflow", Value::long_str("reject-publish"));
        }
        "levels" => arguments.set("x-max-priority", Value::I32(3)),
        "quorum" => arguments.set("x-queue-type", Value::long_str("quorum")),
        _ => {}
    }
    let durable = queue != "fleeting";
    let (passive, exclusive, auto_delete, nowait) = (false, false, false, true);
    let queue = queue.into();
    let declare = QueueDeclare { queue, passive, durable, exclusive, auto_delete, nowait, arguments };
    ChannelCommand::QueueDeclare(Box::new(declare))
}

/// What a message is like.
fn properties(kind: u8) -> Properties {
    let copies = |key: &str| {
        let mut headers = FieldTable::default();
        headers.set(key, Value::Array(vec![Value::long_str("other")]));
        Some(headers)
    };
    let delivery_mode = Some(1 + (kind & 1));
    let properties = Properties { delivery_mode, ..Properties::default() };
    match kind >> 1 {
        0 => Properties { priority: Some(2), ..properties },
        1 => Properties { headers: copies("CC"), ..properties },
        2 => Properties { headers: copies("x"), ..properties },
        3 => Properties { expiration: Some("100000".into()), ..properties },
        4 => Properties { user_id: Some("somebody else".into()), ..properties },
        _ => properties,
    }
}

fn read(runs: &[Run]) -> Publishes {
    let mut batch = BatchBuilder::default();
    let mut heads = Vec::new();
    let mut number = 0;
    for (channel, key, mandatory, kinds) in runs {
        let route = batch.push_route("", KEYS[*key]);
        let from = batch.len();
        for kind in kinds {
            message::push(&mut batch, route, &properties(*kind), number, 3);
            number += 1;
        }
        let (channel, mandatory, count) = (*channel, *mandatory, kinds.len() as u32);
        heads.push(RunHead { channel, mandatory, from, count });
    }
    Publishes { batch: batch.finish(), runs: heads }
}

fn numbers(span: &Span) -> impl Iterator<Item = (String, u64)> {
    span.indexes().map(|i| (span.batch.routing_key(i).to_owned(), message::id_of(&span.batch, i)))
}

/// What came of it.
#[derive(Debug, PartialEq, Default)]
struct Came {
    /// By queue: key and number of each message.
    delivered: BTreeMap<String, Vec<(String, u64)>>,
    returned: Vec<(u16, String, u64)>,
    confirmed: BTreeSet<(u64, bool)>,
    closed: Vec<(u16, String)>,
    totals: MessageStats,
    sizes: u64,
}

fn publish(runs: &[Run], before: &[&str], commands: Vec<Command>, slices: bool) -> Came {
    let mut broker = Broker::new(Limits { slice_units: if slices { 2 } else { 2048 }, ..Limits::default() }, 1);
    broker.open(PUBLISHER, 4, true);
    broker.open(CONSUMER, 1, true);
    let say = |broker: &mut Broker, from, channel, command| broker.run(from, vec![Command::Channel(channel, command)]);
    for key in &KEYS[..8] {
        say(&mut broker, CONSUMER, 1, declare(key));
    }
    say(&mut broker, PUBLISHER, CONFIRMING, ChannelCommand::ConfirmSelect { nowait: true });
    say(&mut broker, PUBLISHER, TRANSACTIONAL, ChannelCommand::TxSelect);
    let consume = |broker: &mut Broker, key: &str| {
        let (no_ack, exclusive, nowait, arguments) = (true, false, true, FieldTable::default());
        let consume = Consume { queue: key.into(), consumer_tag: key.into(), no_ack, exclusive, nowait, arguments };
        say(broker, CONSUMER, 1, ChannelCommand::Consume(Box::new(consume)));
    };
    before.iter().for_each(|key| consume(&mut broker, key));
    broker.commit_all();
    broker.told(PUBLISHER);
    if slices {
        let mut commands = commands.into();
        loop {
            broker.shard.handle_some(broker.now, PUBLISHER, &mut commands);
            broker.turn();
            if commands.is_empty() {
                break;
            }
        }
    } else {
        broker.run(PUBLISHER, commands);
    }
    say(&mut broker, PUBLISHER, TRANSACTIONAL, ChannelCommand::TxCommit);
    broker.commit_all();
    KEYS[..8].iter().filter(|key| !before.contains(key)).for_each(|key| consume(&mut broker, key));
    broker.commit_all();
    let mut came = Came::default();
    let mut next_tag = 1;
    for effect in broker.told(PUBLISHER) {
        match effect {
            ConnectionEffect::Channel(channel, ChannelEffect::Return { span, .. }) => {
                came.returned.extend(numbers(&span).map(|(key, number)| (channel, key, number)));
            }
            ConnectionEffect::Channel(_, ChannelEffect::Confirm { tag, count, multiple, ack }) => {
                let tags = if multiple { next_tag..tag + 1 } else { tag..tag + u64::from(count) };
                // one that counts from the last is about those that were not confirmed alone before
                let told =
                    |tag: &u64| multiple && [true, false].iter().any(|ack| came.confirmed.contains(&(*tag, *ack)));
                let new: Vec<u64> = tags.filter(|tag| !told(tag)).collect();
                came.confirmed.extend(new.into_iter().map(|tag| (tag, ack)));
                next_tag = if multiple { tag + 1 } else { next_tag };
            }
            ConnectionEffect::Channel(channel, ChannelEffect::Close(error)) => {
                came.closed.push((channel, error.to_string()));
            }
            _ => {}
        }
    }
    for effect in broker.told(CONSUMER) {
        if let ConnectionEffect::Channel(_, ChannelEffect::Deliver(delivery)) = effect {
            came.delivered.entry(delivery.consumer_tag.to_string()).or_default().extend(numbers(&delivery.span));
        }
    }
    let totals = broker.totals();
    (came.totals, came.sizes) = (totals.message_stats, totals.size_sum);
    if !came.closed.is_empty() {
        // what was confirmed before depends on where turns end
        came.confirmed.clear();
        came.totals.confirm = 0;
    }
    let published: u64 = runs.iter().map(|(.., kinds)| kinds.len() as u64).sum();
    assert!(came.totals.publish <= published);
    came
}

proptest! {
    #[test]
    fn together_or_alone_the_same_comes_of_it(
        runs in prop::collection::vec(
            (
                prop_oneof![8 => 1..CONFIRMING, 2 => CONFIRMING..=CLOSED],
                prop_oneof![8 => 0..3usize, 2 => 0..KEYS.len()],
                prop::bool::weighted(0.1),
                prop::collection::vec(prop_oneof![40 => 12..14u8, 2 => 0..12u8], 1..4),
            ),
            1..40,
        ),
        before in prop::sample::subsequence(&KEYS[..8], 0..8),
        slices: bool,
    ) {
        let alone = read(&runs);
        let each = alone.runs.iter().map(|head| alone.run(*head)).map(|(n, command)| Command::Channel(n, command));
        let mut alone = publish(&runs, &before, each.collect(), false);
        let mut together = publish(&runs, &before, vec![Command::Publishes(read(&runs))], slices);
        if slices {
            // of messages of several priorities those go first that are there when a turn ends
            for came in [&mut alone, &mut together] {
                for queue in ["levels", "quorum"] {
                    came.delivered.entry(queue.to_owned()).and_modify(|numbers| numbers.sort());
                }
            }
        }
        prop_assert_eq!(alone, together);
    }
}

//! What a delayed exchange holds: whose rules it follows, how it is confirmed, and what it takes in memory.

use hornpipe_testkit::{Broker, message};
use hornpipe_types::command::{Bind, ChannelCommand, Command, ExchangeDeclare, PublishRun, QueueDeclare};
use hornpipe_types::definition::PolicyDefinition;
use hornpipe_types::effect::{ChannelEffect, ConnectionEffect};
use hornpipe_types::header::Properties;
use hornpipe_types::ids::{ConnectionId, RequestId};
use hornpipe_types::limits::Limits;
use hornpipe_types::message::BatchBuilder;
use hornpipe_types::operate::Operation;
use hornpipe_types::table::{FieldTable, Value};

const PEER: ConnectionId = ConnectionId(1);

fn table(entries: &[(&str, Value)]) -> FieldTable {
    let mut table = FieldTable::default();
    entries.iter().for_each(|(key, value)| table.set(key, value.clone()));
    table
}

fn say(broker: &mut Broker, commands: Vec<ChannelCommand>) {
    broker.run(PEER, commands.into_iter().map(|c| Command::Channel(1, c)).collect());
}

fn bind(queue: &str, source: &str) -> Bind {
    Bind {
        destination: queue.into(),
        source: source.into(),
        routing_key: "".into(),
        nowait: true,
        arguments: FieldTable::default(),
    }
}

/// A delayed exchange `later` behind `amq.fanout`, a durable queue `q` bound to both, and a channel with confirms.
fn broker(limits: Limits, durable: bool, queue: &[(&str, Value)]) -> Broker {
    let mut broker = Broker::new(limits, 1);
    broker.open(PEER, 1, false);
    let exchange = ExchangeDeclare {
        exchange: "later".into(),
        kind: "x-delayed-message".into(),
        passive: false,
        durable,
        auto_delete: false,
        internal: false,
        nowait: true,
        arguments: table(&[("x-delayed-type", Value::long_str("fanout"))]),
    };
    let declare = QueueDeclare {
        queue: "q".into(),
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        nowait: true,
        arguments: table(queue),
    };
    let set_up = vec![
        ChannelCommand::ExchangeDeclare(Box::new(exchange)),
        ChannelCommand::QueueDeclare(Box::new(declare)),
        ChannelCommand::QueueBind(Box::new(bind("q", "later"))),
        ChannelCommand::QueueBind(Box::new(bind("q", "amq.fanout"))),
        ChannelCommand::ExchangeBind(Box::new(bind("later", "amq.fanout"))),
        ChannelCommand::ConfirmSelect { nowait: true },
    ];
    say(&mut broker, set_up);
    broker.commit_all();
    broker.told(PEER);
    broker
}

/// Publishes one persistent message.
fn publish(broker: &mut Broker, exchange: &str, id: u64, delay: i32, padding: usize) {
    let mut b = BatchBuilder::default();
    let route = b.push_route(exchange, "");
    let headers = Some(table(&[("x-delay", Value::I32(delay))]));
    let properties = Properties { delivery_mode: Some(2), headers, ..Properties::default() };
    message::push(&mut b, route, &properties, id, padding);
    let run = PublishRun { batch: b.finish(), from: 0, count: 1, mandatory: false };
    say(broker, vec![ChannelCommand::Publish(run)]);
}

/// Messages confirmed and refused.
fn confirmed(broker: &mut Broker) -> (u32, u32) {
    let mut found = (0, 0);
    for effect in broker.told(PEER) {
        if let ConnectionEffect::Channel(1, ChannelEffect::Confirm { tag, count, multiple, ack }) = effect {
            // tags count from one, and whoever asks asks once
            let count = if multiple { tag as u32 - found.0 - found.1 } else { count };
            if ack { found.0 += count } else { found.1 += count }
        }
    }
    found
}

fn ready(broker: &mut Broker) -> u64 {
    broker.queue("q").expect("it was declared").messages_ready
}

#[test]
fn policies_for_queues_are_not_for_what_an_exchange_holds() {
    let mut broker = broker(Limits::default(), true, &[]);
    let bounds = [
        ("expires", Value::I64(100)),
        ("message-ttl", Value::I64(100)),
        ("max-length", Value::I64(1)),
        ("overflow", Value::long_str("reject-publish")),
    ];
    // the name users can't see, but a pattern may match
    let policy = PolicyDefinition {
        vhost: "/".into(),
        name: "all".into(),
        pattern: "delayed".to_owned(),
        apply_to: "all".to_owned(),
        definition: table(&bounds),
        ..PolicyDefinition::default()
    };
    broker.shard.handle_operation(broker.now, RequestId(1 << 32), &"guest".into(), Operation::PutPolicy(policy));
    broker.turn();
    broker.commit_all();
    for id in 0..5 {
        publish(&mut broker, "later", id, 2000, 10);
    }
    broker.commit_all();
    assert_eq!(confirmed(&mut broker), (5, 0));
    for _ in 0..4 {
        broker.advance(400);
    }
    assert_eq!(ready(&mut broker), 0);
    broker.advance(500);
    broker.commit_all();
    assert_eq!(ready(&mut broker), 5);
}

#[test]
fn what_goes_to_a_queue_too_is_confirmed_when_all_of_it_is_safe() {
    // the exchange promises nothing, the queue does
    let mut broker = broker(Limits::default(), false, &[]);
    publish(&mut broker, "amq.fanout", 1, 1000, 10);
    assert_eq!(confirmed(&mut broker), (0, 0), "it is not on disk");
    broker.commit_all();
    assert_eq!((confirmed(&mut broker), ready(&mut broker)), ((1, 0), 1));
}

#[test]
fn a_queue_beside_it_may_refuse() {
    let full = [("x-max-length", Value::I32(1)), ("x-overflow", Value::long_str("reject-publish"))];
    let mut broker = broker(Limits::default(), true, &full);
    for id in 0..2 {
        publish(&mut broker, "amq.fanout", id, 1000, 10);
    }
    broker.commit_all();
    assert_eq!((confirmed(&mut broker), ready(&mut broker)), ((1, 1), 1));
}

#[test]
fn memory_is_given_back_with_the_exchange() {
    let mut broker = broker(Limits::default(), true, &[]);
    for id in 0..10 {
        publish(&mut broker, "later", id, 1000, 1000);
    }
    broker.commit_all();
    assert!(broker.totals().resident_bytes >= 10_000);
    let delete = ChannelCommand::ExchangeDelete { exchange: "later".into(), if_unused: false, nowait: true };
    say(&mut broker, vec![delete]);
    broker.commit_all();
    assert_eq!(broker.totals().resident_bytes, 0);
}

#[test]
fn what_is_held_leaves_memory_where_it_is_short() {
    const COUNT: u64 = 500;
    let mut broker = broker(Limits { resident_bytes: 20_000, ..Limits::default() }, true, &[]);
    for id in 0..COUNT {
        // the one that comes first is due last
        publish(&mut broker, "later", id, 6000 - id as i32 * 10, 1000);
        broker.commit_all();
    }
    let held = broker.totals().resident_bytes;
    assert!(held < 100_000, "{held} octets in memory");
    for _ in 0..70 {
        broker.advance(100);
        broker.commit_all();
    }
    assert_eq!(ready(&mut broker), COUNT);
    let queue = broker.queue("q").expect("it was declared").id;
    let found: Vec<u64> = broker.disk.messages(queue).iter().map(|(batch, i)| message::id_of(batch, *i)).collect();
    assert_eq!(found, (0..COUNT).rev().collect::<Vec<_>>());
}

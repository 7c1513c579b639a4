//! What a user of lapin does, once around. Prints `ok - what` or `not ok - what: expected …, got …`.

use futures_lite::{StreamExt, future::block_on};
use lapin::message::Delivery;
use lapin::options::*;
use lapin::publisher_confirm::Confirmation;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Error, ExchangeKind, Result};
use std::fmt::Debug;
use std::process::{Command, ExitCode};

const QUEUE: &str = "clients.lapin";

#[derive(Default)]
struct Round {
    bad: bool,
}

impl Round {
    fn same<T: PartialEq + Debug>(&mut self, what: &str, expected: T, got: T) {
        if expected == got {
            println!("ok - lapin: {what}");
        } else {
            println!("not ok - lapin: {what}: expected {expected:?}, got {got:?}");
            self.bad = true;
        }
    }

    fn refused<T: Debug>(&mut self, what: &str, code: u16, text: &str, got: Result<T>) {
        let got = match got {
            Err(Error::ProtocolError(error)) => (error.get_id(), error.get_message().to_string()),
            other => (0, format!("{other:?}")),
        };
        self.same(what, (code, text.to_owned()), got);
    }
}

fn durable() -> QueueDeclareOptions {
    QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() }
}

fn arguments() -> FieldTable {
    let mut table = FieldTable::default();
    table.insert("x-max-length".into(), AMQPValue::LongInt(100));
    table
}

fn properties() -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert("bool".into(), AMQPValue::Boolean(true));
    headers.insert("byte".into(), AMQPValue::ShortShortInt(-1));
    headers.insert("short".into(), AMQPValue::ShortInt(-2));
    headers.insert("int".into(), AMQPValue::LongInt(-3));
    headers.insert("uint".into(), AMQPValue::LongUInt(u32::MAX));
    headers.insert("long".into(), AMQPValue::LongLongInt(i64::MIN));
    headers.insert("double".into(), AMQPValue::Double(0.5));
    headers.insert("text".into(), AMQPValue::LongString("grüße".into()));
    headers.insert("time".into(), AMQPValue::Timestamp(1_700_000_000));
    headers.insert("none".into(), AMQPValue::Void);
    headers.insert("table".into(), AMQPValue::FieldTable(arguments()));
    headers.insert("octets".into(), AMQPValue::ByteArray(vec![0u8, 255].into()));
    BasicProperties::default()
        .with_content_type("text/plain".into())
        .with_delivery_mode(2)
        .with_priority(3)
        .with_correlation_id("c".into())
        .with_message_id("m".into())
        .with_timestamp(1_700_000_000)
        .with_type("t".into())
        .with_app_id("a".into())
        .with_headers(headers)
}

async fn publish(channel: &Channel, exchange: &str, key: &str, body: &[u8]) -> Result<Confirmation> {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    channel.basic_publish(exchange, key, options, body, properties()).await?.await
}

async fn get(channel: &Channel) -> Result<Option<Delivery>> {
    Ok(channel.basic_get(QUEUE, BasicGetOptions::default()).await?.map(|message| message.delivery))
}

async fn connect(url: &str) -> Result<(Connection, Channel)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok((connection, channel))
}

async fn messages(round: &mut Round, channel: &Channel) -> Result<()> {
    let queue = channel.queue_declare(QUEUE, durable(), arguments()).await?;
    round.same(
        "declare",
        (QUEUE.to_owned(), 0, 0),
        (queue.name().to_string(), queue.message_count(), queue.consumer_count()),
    );
    let exchange = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare("clients.lapin.x", ExchangeKind::Topic, exchange, FieldTable::default()).await?;
    channel.queue_bind(QUEUE, "clients.lapin.x", "a.#", QueueBindOptions::default(), FieldTable::default()).await?;
    let confirmed = publish(channel, "clients.lapin.x", "a.b", b"first").await?;
    round.same("a confirm", true, matches!(confirmed, Confirmation::Ack(None)));
    match publish(channel, "clients.lapin.x", "none", b"lost").await? {
        Confirmation::Ack(Some(back)) => {
            let got = (back.reply_code, back.reply_text.to_string(), back.delivery.data.clone());
            round.same("a return before its confirm", (312, "NO_ROUTE".to_owned(), b"lost".to_vec()), got);
        }
        other => round.same("a return before its confirm", String::new(), format!("{other:?}")),
    }
    let large: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
    publish(channel, "", QUEUE, &large).await?;

    if let Some(first) = get(channel).await? {
        round.same("get", (b"first".to_vec(), false), (first.data.clone(), first.redelivered));
        round.same("properties", properties(), first.properties.clone());
        first.nack(BasicNackOptions { requeue: true, ..BasicNackOptions::default() }).await?;
    }
    channel.basic_qos(1, BasicQosOptions::default()).await?;
    let mut consumer =
        channel.basic_consume(QUEUE, "tag", BasicConsumeOptions::default(), FieldTable::default()).await?;
    let mut got = Vec::new();
    while got.len() < 2 {
        let Some(delivery) = consumer.next().await else { break };
        let delivery = delivery?;
        got.push((delivery.data.len(), delivery.redelivered));
        delivery.ack(BasicAckOptions::default()).await?;
    }
    round.same("consume with prefetch 1, requeued first", vec![(5, true), (large.len(), false)], got);
    channel.basic_cancel("tag", BasicCancelOptions::default()).await?;
    round.same("empty", true, get(channel).await?.is_none());
    for n in 0..500u32 {
        let sent =
            channel.basic_publish("", QUEUE, BasicPublishOptions::default(), &n.to_be_bytes(), properties()).await?;
        drop(sent);
    }
    round.same("returns of a burst", 0, channel.wait_for_confirms().await?.len());
    round.same("x-max-length", 100, channel.queue_purge(QUEUE, QueuePurgeOptions::default()).await?);
    Ok(())
}

async fn transactions(round: &mut Round, connection: &Connection) -> Result<()> {
    let channel = connection.create_channel().await?;
    channel.tx_select().await?;
    for (body, commit) in [(b"rolled back", false), (b"c o m m i t", true)] {
        drop(channel.basic_publish("", QUEUE, BasicPublishOptions::default(), body, properties()).await?);
        if commit { channel.tx_commit().await? } else { channel.tx_rollback().await? }
    }
    let found = get(&channel).await?.map(|delivery| delivery.data.clone());
    round.same("tx", Some(b"c o m m i t".to_vec()), found);
    // not acked: back with the end of the channel
    channel.close(200, "bye").await
}

async fn refusals(round: &mut Round, connection: &Connection) -> Result<()> {
    let channel = connection.create_channel().await?;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let missing = channel.queue_declare("clients.none", passive, FieldTable::default()).await;
    round.refused("404 of a missing queue", 404, "NOT_FOUND - no queue 'clients.none' in vhost '/'", missing);
    let channel = connection.create_channel().await?;
    let text = "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'clients.lapin' in vhost '/': received none but current is the value '100' of type 'signedint'";
    round.refused(
        "406 of an inequivalent declare",
        406,
        text,
        channel.queue_declare(QUEUE, durable(), FieldTable::default()).await,
    );
    let channel = connection.create_channel().await?;
    let text = "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'";
    round.refused(
        "403 of a reserved name",
        403,
        text,
        channel.queue_declare("amq.mine", durable(), FieldTable::default()).await,
    );
    Ok(())
}

async fn cancelled(round: &mut Round, connection: &Connection) -> Result<()> {
    let channel = connection.create_channel().await?;
    channel.queue_declare("clients.lapin.short", QueueDeclareOptions::default(), FieldTable::default()).await?;
    let mut consumer =
        channel.basic_consume("clients.lapin.short", "", BasicConsumeOptions::default(), FieldTable::default()).await?;
    let other = connection.create_channel().await?;
    other.queue_delete("clients.lapin.short", QueueDeleteOptions::default()).await?;
    round.same("a consumer ends with its queue", true, consumer.next().await.is_none());
    // a channel that is dropped closes behind our back, and the connection's own close may cross it
    other.close(200, "bye").await?;
    channel.close(200, "bye").await
}

async fn all(round: &mut Round, url: &str) -> Result<()> {
    let (connection, channel) = connect(url).await?;
    messages(round, &channel).await?;
    transactions(round, &connection).await?;
    refusals(round, &connection).await?;
    cancelled(round, &connection).await?;
    connection.close(200, "bye").await?;

    let restarted = Command::new("sh").args(["-c", &std::env::var("RESTART").unwrap_or_default()]).status();
    round.same("restart", true, restarted.is_ok_and(|status| status.success()));
    let (connection, channel) = connect(url).await?;
    let left = get(&channel).await?.map(|delivery| (delivery.data.clone(), delivery.redelivered));
    round.same("left after a restart", Some((b"c o m m i t".to_vec(), true)), left);
    channel.queue_delete(QUEUE, QueueDeleteOptions::default()).await?;
    channel.exchange_delete("clients.lapin.x", ExchangeDeleteOptions::default()).await?;
    connection.close(200, "bye").await
}

fn main() -> ExitCode {
    let mut round = Round::default();
    let url = format!("amqp://guest:guest@127.0.0.1:{}/%2f", std::env::var("AMQP_PORT").unwrap_or_default());
    if let Err(error) = block_on(all(&mut round, &url)) {
        println!("not ok - lapin: the round: expected no error, got {error}");
        round.bad = true;
    }
    if round.bad { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

"""Publishing with pika: confirms, returns, transactions, properties and bodies of all sizes."""

import os

import pika
import pytest
from helpers import PERSISTENT, collect, get_all, put, ready, refused


def test_confirms_one_by_one(channel, name):
    queue = name()
    channel.queue_declare(queue, durable=True)
    for n in range(50):
        channel.basic_publish("", queue, str(n).encode(), PERSISTENT)
    assert get_all(channel, queue) == [str(n).encode() for n in range(50)]


def test_mandatory_unroutable_comes_back_whole(channel, name):
    key = name("nowhere")
    properties = pika.BasicProperties(headers={"n": 7}, message_id="m1", delivery_mode=2)
    with pytest.raises(pika.exceptions.UnroutableError) as caught:
        channel.basic_publish("amq.direct", key, b"come back", properties, mandatory=True)
    (message,) = caught.value.messages
    assert (message.method.reply_code, message.method.reply_text) == (312, "NO_ROUTE")
    assert (message.method.exchange, message.method.routing_key) == ("amq.direct", key)
    assert message.body == b"come back"
    assert (message.properties.headers, message.properties.message_id) == ({"n": 7}, "m1")
    # Without the flag it is dropped, and confirmed all the same.
    channel.basic_publish("amq.direct", key, b"gone")


def test_reject_publish_overflow_is_nacked(channel, name):
    queue = name()
    channel.queue_declare(queue, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    put(channel, queue, b"fits")
    with pytest.raises(pika.exceptions.NackError):
        channel.basic_publish("", queue, b"doesn't")
    assert get_all(channel, queue) == [b"fits"]


def test_tx_commit_and_rollback(connection, name):
    queue = name()
    tx = connection.channel()
    tx.queue_declare(queue, durable=True)
    tx.tx_select()
    put(tx, queue, b"1", b"2")
    watch = connection.channel()
    assert ready(watch, queue) == 0
    tx.tx_commit()
    assert ready(watch, queue) == 2
    put(tx, queue, b"3")
    tx.tx_rollback()
    tx.tx_commit()
    assert ready(watch, queue) == 2


def test_tx_settles_on_commit_only(connection, name):
    queue = name()
    tx = connection.channel()
    tx.queue_declare(queue)
    put(tx, queue, b"1")
    tx.tx_select()
    method, _, _ = tx.basic_get(queue)
    tx.basic_ack(method.delivery_tag)
    tx.tx_rollback()
    tx.basic_ack(method.delivery_tag)
    tx.tx_commit()
    tx.close()
    assert ready(connection.channel(), queue) == 0
    other = connection.channel()
    refused(other.tx_commit, 406, "PRECONDITION_FAILED - channel is not transactional")


def test_confirm_and_tx_exclude_each_other(connection):
    ch = connection.channel()
    ch.confirm_delivery()
    refused(ch.tx_select, 406, "cannot switch from confirm to tx mode")
    ch = connection.channel()
    ch.tx_select()
    refused(ch.confirm_delivery, 406, "cannot switch from tx to confirm mode")


def test_all_properties(channel, name):
    """All but cluster-id, whose use the protocol reserves: test_raw sends that one too."""
    queue = name()
    channel.queue_declare(queue)
    sent = pika.BasicProperties(
        content_type="application/json",
        content_encoding="gzip",
        headers={"k": "v"},
        delivery_mode=2,
        priority=7,
        correlation_id="c-1",
        reply_to="some.queue",
        expiration="3600000",
        message_id="m-1",
        timestamp=1700000000,
        type="order",
        user_id="guest",
        app_id="app",
    )
    channel.basic_publish("", queue, b"x", sent)
    ((_, got, _),) = collect(channel, queue, 1)
    assert vars(got) == vars(sent)


def test_no_properties_and_empty_body(channel, name):
    queue = name()
    channel.queue_declare(queue)
    channel.basic_publish("", queue, b"", pika.BasicProperties())
    ((_, got, body),) = collect(channel, queue, 1)
    assert body == b"" and vars(got) == vars(pika.BasicProperties())


# Around the 131072 octets of a frame, less its 8 octets of envelope, and far beyond it.
@pytest.mark.parametrize("size", [1, 131063, 131064, 131065, 262128, 1_000_003])
@pytest.mark.parametrize("persistent", [False, True])
def test_bodies_over_many_frames(channel, name, size, persistent):
    queue = name()
    channel.queue_declare(queue, durable=True)
    body = os.urandom(size)
    put(channel, queue, body, b"after", persistent=persistent)
    assert [m[2] for m in collect(channel, queue, 2)] == [body, b"after"]


def test_small_frames(connect, name):
    """A peer that asks for small frames gets small ones, whatever size the publisher used."""
    queue = name()
    publisher = connect().channel()
    publisher.confirm_delivery()
    publisher.queue_declare(queue)
    body = os.urandom(300_000)
    put(publisher, queue, body)
    narrow = connect(frame_max=8192).channel()
    assert collect(narrow, queue, 1)[0][2] == body
    narrow.confirm_delivery()
    put(narrow, queue, body)
    assert get_all(publisher, queue) == [body]


def test_15_mb_body(channel, name):
    queue = name()
    channel.queue_declare(queue, durable=True)
    body = os.urandom(15_000_000)
    put(channel, queue, body)
    assert collect(channel, queue, 1)[0][2] == body


def test_20_mb_body_is_too_large_by_default(own_broker, connect):
    connection = connect(own_broker())
    ch = connection.channel()
    ch.confirm_delivery()
    ch.queue_declare("large")
    refused(
        lambda: ch.basic_publish("", "large", bytes(20_000_000)),
        406,
        "PRECONDITION_FAILED - message size 20000000 is larger than configured max size 16777216",
    )
    # The connection survives it.
    assert ready(connection.channel(), "large") == 0


def test_20_mb_body_with_a_raised_limit(own_broker, connect):
    ch = connect(own_broker(HORNPIPE_MAX_MESSAGE_SIZE="33554432")).channel()
    ch.confirm_delivery()
    ch.queue_declare("large", durable=True)
    body = os.urandom(20_000_000)
    put(ch, "large", body)
    assert collect(ch, "large", 1)[0][2] == body

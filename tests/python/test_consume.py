"""Consuming with pika: prefetch, acks, requeue order, get, cancel, recover, qos."""

import pika
import pytest
from brokers import until
from helpers import collect, get_all, pump, put, ready, refused


def fill(channel, queue, count):
    channel.queue_declare(queue)
    bodies = [f"{n:04}".encode() for n in range(count)]
    put(channel, queue, *bodies)
    return bodies


def test_order_and_acks(channel, name):
    queue = name()
    bodies = fill(channel, queue, 200)
    got = collect(channel, queue, 200)
    assert [m[2] for m in got] == bodies
    assert not any(m[0].redelivered for m in got)
    assert [m[0].delivery_tag for m in got] == list(range(1, 201))
    assert ready(channel, queue) == 0


def test_auto_ack(connection, channel, name):
    queue = name()
    bodies = fill(channel, queue, 20)
    ch = connection.channel()
    assert [m[2] for m in collect(ch, queue, 20, auto_ack=True)] == bodies
    ch.close()
    assert ready(channel, queue) == 0


def test_prefetch_limits_what_is_out(connection, channel, name):
    queue = name()
    fill(channel, queue, 10)
    ch = connection.channel()
    ch.basic_qos(prefetch_count=3)
    got = []
    ch.basic_consume(queue, lambda c, method, p, body: got.append((method.delivery_tag, body)))
    pump(ch, lambda: len(got) == 3, "three deliveries")
    assert ready(channel, queue) == 7
    # One settled, one more comes; what is out stays at three.
    ch.basic_ack(got[1][0])
    pump(ch, lambda: len(got) == 4, "a fourth delivery")
    assert ready(channel, queue) == 6
    ch.basic_ack(got[3][0], multiple=True)
    pump(ch, lambda: len(got) == 7, "three more")
    assert ready(channel, queue) == 3
    assert [body for _, body in got] == [f"{n:04}".encode() for n in range(7)]


def test_qos_without_global_binds_later_consumers_only(connection, channel, name):
    first, second = name(), name()
    fill(channel, first, 5)
    fill(channel, second, 5)
    ch = connection.channel()
    ch.basic_qos(prefetch_count=2)
    got = {first: [], second: []}
    ch.basic_consume(first, lambda c, m, p, b: got[first].append(m.delivery_tag))
    ch.basic_qos(prefetch_count=4)
    ch.basic_consume(second, lambda c, m, p, b: got[second].append(m.delivery_tag))
    pump(ch, lambda: len(got[first]) == 2 and len(got[second]) == 4, "2 and 4 deliveries")
    assert (ready(channel, first), ready(channel, second)) == (3, 1)


def test_qos_global_takes_effect_on_running_consumers(connection, channel, name):
    """What Celery does to raise and lower its prefetch while it runs."""
    queue = name()
    fill(channel, queue, 10)
    ch = connection.channel()
    ch.basic_qos(prefetch_count=2, global_qos=True)
    got = []
    ch.basic_consume(queue, lambda c, m, p, b: got.append(m.delivery_tag))
    pump(ch, lambda: len(got) == 2, "two deliveries")
    assert ready(channel, queue) == 8
    ch.basic_qos(prefetch_count=5, global_qos=True)
    pump(ch, lambda: len(got) == 5, "five deliveries")
    assert ready(channel, queue) == 5


def test_nack_requeue_keeps_the_order(channel, name):
    queue = name()
    bodies = fill(channel, queue, 6)
    tags = [channel.basic_get(queue)[0].delivery_tag for _ in range(4)]
    channel.basic_nack(tags[2], requeue=True)
    channel.basic_nack(tags[0], requeue=True)
    channel.basic_ack(tags[1])
    channel.basic_nack(tags[3], requeue=True)
    until(lambda: ready(channel, queue) == 5, "three messages to come back")
    got = collect(channel, queue, 5)
    assert [m[2] for m in got] == [bodies[0], bodies[2], bodies[3], bodies[4], bodies[5]]
    assert [m[0].redelivered for m in got] == [True, True, True, False, False]


def test_nack_multiple(channel, name):
    queue = name()
    bodies = fill(channel, queue, 4)
    tags = [channel.basic_get(queue)[0].delivery_tag for _ in range(4)]
    channel.basic_nack(tags[1], multiple=True, requeue=False)
    channel.basic_nack(0, multiple=True, requeue=True)
    until(lambda: ready(channel, queue) == 2, "two messages to come back")
    assert get_all(channel, queue) == bodies[2:]


def test_closing_a_channel_returns_what_is_out(connection, channel, name):
    queue = name()
    bodies = fill(channel, queue, 3)
    ch = connection.channel()
    ch.basic_get(queue)
    ch.basic_get(queue)
    ch.close()
    got = collect(channel, queue, 3)
    assert [m[2] for m in got] == bodies
    assert [m[0].redelivered for m in got] == [True, True, False]


def test_recover(connection, channel, name):
    queue = name()
    bodies = fill(channel, queue, 2)
    ch = connection.channel()
    ch.basic_get(queue)
    ch.basic_get(queue)
    ch.basic_recover(requeue=True)
    got = collect(channel, queue, 2)
    assert [m[2] for m in got] == bodies and all(m[0].redelivered for m in got)


def test_get(channel, name):
    queue = name()
    channel.queue_declare(queue)
    assert channel.basic_get(queue) == (None, None, None)
    put(channel, queue, b"a", b"b", b"c")
    method, _, body = channel.basic_get(queue)
    assert (body, method.message_count, method.redelivered, method.routing_key) == (b"a", 2, False, queue)
    channel.basic_reject(method.delivery_tag, requeue=True)
    until(lambda: ready(channel, queue) == 3, "the message to come back")
    method, _, body = channel.basic_get(queue, auto_ack=True)
    assert (body, method.redelivered) == (b"a", True)


def test_round_robin_between_consumers(connect, channel, name):
    queue = name()
    channel.queue_declare(queue)
    counts = [0, 0, 0]
    consumers = []
    for n in range(3):
        ch = connect().channel()
        ch.basic_qos(prefetch_count=1)

        def on_message(c, method, _p, _b, n=n):
            counts[n] += 1
            c.basic_ack(method.delivery_tag)

        ch.basic_consume(queue, on_message)
        consumers.append(ch)
    put(channel, queue, *[b"x"] * 30)

    def step():
        for ch in consumers:
            ch.connection.process_data_events(time_limit=0.001)
        return sum(counts) == 30

    until(step, "30 messages over three consumers")
    assert all(count > 0 for count in counts), counts


def test_cancel_notification_when_the_queue_goes(connection, channel, name):
    queue = name()
    channel.queue_declare(queue)
    ch = connection.channel()
    cancelled = []
    ch.add_on_cancel_callback(lambda frame: cancelled.append(frame.method.consumer_tag))
    tag = ch.basic_consume(queue, lambda *_: None)
    channel.queue_delete(queue)
    pump(ch, lambda: cancelled, "a server-sent basic.cancel")
    assert cancelled == [tag]
    # The channel goes on.
    ch.queue_declare(queue)


def test_exclusive_consumer(connection, channel, name):
    queue = name()
    channel.queue_declare(queue)
    ch = connection.channel()
    ch.basic_consume(queue, lambda *_: None, exclusive=True)
    other = connection.channel()
    refused(
        lambda: other.basic_consume(queue, lambda *_: None),
        403,
        f"ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use",
    )


def test_single_active_consumer(connect, channel, name):
    queue = name()
    channel.queue_declare(queue, arguments={"x-single-active-consumer": True})
    seen = {"first": [], "second": []}
    first, second = connect(), connect()
    for label, connection in (("first", first), ("second", second)):
        ch = connection.channel()
        ch.basic_consume(queue, lambda c, m, p, b, label=label: seen[label].append(b))
    put(channel, queue, b"1", b"2")
    until(lambda: first.process_data_events(0.01) or len(seen["first"]) == 2, "the active one to get both")
    first.close()
    until(lambda: second.process_data_events(0.01) or len(seen["second"]) == 2, "the next one to take over")
    assert seen == {"first": [b"1", b"2"], "second": [b"1", b"2"]}


def test_consumer_priorities(connect, channel, name):
    queue = name()
    channel.queue_declare(queue)
    low, high = connect(), connect()
    got = {"low": 0, "high": 0}
    for label, connection, priority in (("low", low, -1), ("high", high, 10)):
        ch = connection.channel()

        def on_message(c, m, p, b, label=label):
            got[label] += 1

        ch.basic_consume(queue, on_message, arguments={"x-priority": priority})
    put(channel, queue, *[b"x"] * 10)
    until(lambda: high.process_data_events(0.01) or got["high"] == 10, "the higher one to get all")
    assert got == {"low": 0, "high": 10}


def test_direct_reply_to(connect, channel, name):
    queue = name("rpc")
    channel.queue_declare(queue)
    client = connect().channel()
    answers = []
    client.basic_consume("amq.rabbitmq.reply-to", lambda c, m, p, b: answers.append((m.exchange, b)), auto_ack=True)
    client.basic_publish("", queue, b"ask", pika.BasicProperties(reply_to="amq.rabbitmq.reply-to"))
    ((_, properties, _),) = collect(channel, queue, 1)
    assert properties.reply_to.startswith("amq.rabbitmq.reply-to.")
    channel.basic_publish("", properties.reply_to, b"answer")
    pump(client, lambda: answers, "the answer")
    assert answers == [("", b"answer")]


@pytest.mark.parametrize("settle", ["ack", "nack", "reject"])
def test_unknown_delivery_tag(connection, settle):
    ch = connection.channel()

    def call():
        getattr(ch, f"basic_{settle}")(42)
        ch.queue_declare("amq.none", passive=True)

    refused(call, 406, "PRECONDITION_FAILED - unknown delivery tag 42")

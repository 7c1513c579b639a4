"""Exchanges of every type, bindings between them, queues of every kind: with pika."""

import pika
import pytest
from helpers import collect, get_all, put, ready, refused
from brokers import until


def route(channel, exchange, key, headers=None):
    """Publishes one message whose body says where it was sent."""
    body = f"{key}|{sorted((headers or {}).items())}"
    channel.basic_publish(exchange, key, body.encode(), pika.BasicProperties(headers=headers))
    return body.encode()


def test_default_exchange_routes_by_queue_name(channel, name):
    queue = name()
    channel.queue_declare(queue)
    put(channel, queue, b"one", b"two")
    assert get_all(channel, queue) == [b"one", b"two"]


def test_direct(channel, name):
    exchange, red, blue = name("x"), name("red"), name("blue")
    channel.exchange_declare(exchange, "direct")
    for queue in (red, blue):
        channel.queue_declare(queue)
    channel.queue_bind(red, exchange, "red")
    channel.queue_bind(blue, exchange, "blue")
    channel.queue_bind(blue, exchange, "both")
    channel.queue_bind(red, exchange, "both")
    a, b, c = (route(channel, exchange, key) for key in ("red", "blue", "both"))
    route(channel, exchange, "green")
    assert get_all(channel, red) == [a, c]
    assert get_all(channel, blue) == [b, c]


def test_fanout_ignores_the_key_and_delivers_once_per_queue(channel, name):
    exchange, queues = name("x"), [name(), name(), name()]
    channel.exchange_declare(exchange, "fanout")
    for queue in queues:
        channel.queue_declare(queue)
        channel.queue_bind(queue, exchange, "a")
        channel.queue_bind(queue, exchange, "b")
    sent = [route(channel, exchange, key) for key in ("a", "b", "", "zz")]
    for queue in queues:
        assert get_all(channel, queue) == sent


TOPICS = [
    ("*.orange.*", "quick.orange.rabbit", True),
    ("*.orange.*", "quick.orange", False),
    ("lazy.#", "lazy", True),
    ("lazy.#", "lazy.brown.fox", True),
    ("#", "", True),
    ("#", "a.b.c", True),
    # The empty key has no words at all.
    ("*", "", False),
    ("*", "a", True),
    ("*", "a.b", False),
    ("a.#.b", "a.b", True),
    ("a.#.b", "a.x.y.b", True),
    ("a.#.b", "a.x.y", False),
    ("#.b.#", "a.b.c", True),
    ("a.*.#", "a", False),
    ("a..b", "a..b", True),
    ("a.*.b", "a..b", True),
]


@pytest.mark.parametrize("pattern, key, matches", TOPICS)
def test_topic(channel, name, pattern, key, matches):
    exchange, queue = name("x"), name()
    channel.exchange_declare(exchange, "topic")
    channel.queue_declare(queue)
    channel.queue_bind(queue, exchange, pattern)
    sent = route(channel, exchange, key)
    assert get_all(channel, queue) == ([sent] if matches else [])


HEADERS = [
    ({"x-match": "all", "a": 1, "b": "two"}, {"a": 1, "b": "two", "c": True}, True),
    ({"x-match": "all", "a": 1, "b": "two"}, {"a": 1}, False),
    ({"a": 1}, {"a": 1}, True),
    ({"x-match": "any", "a": 1, "b": "two"}, {"b": "two"}, True),
    ({"x-match": "any", "a": 1, "b": "two"}, {"a": "1"}, False),
    ({"x-match": "all", "a": None}, {"a": "anything"}, True),
    ({"x-match": "all"}, {"a": 1}, True),
    ({"x-match": "any"}, {"a": 1}, False),
    ({"x-match": "all", "x-ignored": 1, "a": 1}, {"a": 1}, True),
]


@pytest.mark.parametrize("binding, headers, matches", HEADERS)
def test_headers(channel, name, binding, headers, matches):
    exchange, queue = name("x"), name()
    channel.exchange_declare(exchange, "headers")
    channel.queue_declare(queue)
    channel.queue_bind(queue, exchange, "ignored", binding)
    sent = route(channel, exchange, "other", headers)
    assert get_all(channel, queue) == ([sent] if matches else [])


def test_predeclared_exchanges(channel, name):
    for exchange, kind in [
        ("amq.direct", "direct"),
        ("amq.fanout", "fanout"),
        ("amq.topic", "topic"),
        ("amq.headers", "headers"),
        ("amq.match", "headers"),
    ]:
        channel.exchange_declare(exchange, passive=True)
        channel.exchange_declare(exchange, kind, durable=True)
    queue, key = name(), name("key")
    channel.queue_declare(queue)
    channel.queue_bind(queue, "amq.topic", f"{key}.#")
    sent = route(channel, "amq.topic", f"{key}.x")
    assert get_all(channel, queue) == [sent]


def test_exchange_to_exchange_bindings_deliver_once(channel, name):
    """Two ways lead to the queue, and a cycle back to the start: one copy arrives."""
    start, left, right, queue = name("s"), name("l"), name("r"), name()
    channel.exchange_declare(start, "topic")
    channel.exchange_declare(left, "fanout")
    channel.exchange_declare(right, "direct")
    channel.queue_declare(queue)
    channel.exchange_bind(left, start, "a.*")
    channel.exchange_bind(right, start, "#")
    channel.exchange_bind(start, left, "")
    channel.queue_bind(queue, left)
    channel.queue_bind(queue, right, "a.b")
    one = route(channel, start, "a.b")
    two = route(channel, start, "a.c")
    route(channel, start, "b")
    assert get_all(channel, queue) == [one, two]
    channel.exchange_unbind(left, start, "a.*")
    route(channel, start, "a.c")
    assert get_all(channel, queue) == []


def test_alternate_exchange_takes_what_nobody_wants(channel, name):
    exchange, spare, queue, rest = name("x"), name("ae"), name(), name()
    channel.exchange_declare(spare, "fanout")
    channel.exchange_declare(exchange, "direct", arguments={"alternate-exchange": spare})
    channel.queue_declare(queue)
    channel.queue_declare(rest)
    channel.queue_bind(queue, exchange, "known")
    channel.queue_bind(rest, spare)
    known = route(channel, exchange, "known")
    channel.basic_publish(exchange, "unknown", b"spare", mandatory=True)
    assert get_all(channel, queue) == [known]
    assert get_all(channel, rest) == [b"spare"]


def test_unbind_and_repeated_bind(channel, name):
    exchange, queue = name("x"), name()
    channel.exchange_declare(exchange, "direct")
    channel.queue_declare(queue)
    channel.queue_bind(queue, exchange, "k")
    channel.queue_bind(queue, exchange, "k")
    channel.queue_unbind(queue, exchange, "k")
    route(channel, exchange, "k")
    assert get_all(channel, queue) == []
    # What is not there can be unbound and deleted.
    channel.queue_unbind(queue, exchange, "k")
    channel.queue_delete(name("never"))
    channel.exchange_delete(name("never"))


def test_declare_ok_counts_ready_messages_and_consumers(channel, name, connect):
    queue = name()
    channel.queue_declare(queue)
    put(channel, queue, b"a", b"b", b"c")
    channel.basic_get(queue)
    other = connect().channel()
    other.basic_consume(name_of := queue, lambda *_: None, auto_ack=False)
    until(lambda: ready(channel, name_of) == 0, "the consumer to take what is ready")
    ok = channel.queue_declare(queue, passive=True).method
    assert (ok.message_count, ok.consumer_count) == (0, 1)


def test_server_named_queue(channel):
    first = channel.queue_declare("", exclusive=True).method.queue
    second = channel.queue_declare("", exclusive=True).method.queue
    assert first.startswith("amq.gen-") and second.startswith("amq.gen-") and first != second
    put(channel, first, b"x")
    assert get_all(channel, first) == [b"x"]
    # An empty name means the one declared last on this channel.
    put(channel, second, b"y")
    assert channel.basic_get("", auto_ack=True)[2] == b"y"


def test_exclusive_queue_is_locked_and_goes_with_its_connection(connect, name):
    queue = name()
    owner = connect()
    owner.channel().queue_declare(queue, exclusive=True)
    other = connect()
    for call in (
        lambda ch: ch.queue_declare(queue, passive=True),
        lambda ch: ch.queue_declare(queue),
        lambda ch: ch.basic_get(queue),
        lambda ch: ch.queue_purge(queue),
        lambda ch: ch.queue_delete(queue),
    ):
        ch = other.channel()
        refused(lambda: call(ch), 405, f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{queue}'")
    owner.close()
    ch = other.channel()
    refused(lambda: ch.queue_declare(queue, passive=True), 404, f"NOT_FOUND - no queue '{queue}' in vhost '/'")


def test_auto_delete_queue_goes_with_its_last_consumer(connect, name):
    queue = name()
    connection = connect()
    ch = connection.channel()
    ch.queue_declare(queue, auto_delete=True)
    ch.queue_declare(queue, passive=True)
    one = ch.basic_consume(queue, lambda *_: None)
    two = ch.basic_consume(queue, lambda *_: None)
    ch.basic_cancel(one)
    ch.queue_declare(queue, passive=True)
    ch.basic_cancel(two)
    refused(lambda: ch.queue_declare(queue, passive=True), 404, "no queue")


def test_auto_delete_exchange_goes_with_its_last_binding(connection, name):
    exchange, queue = name("x"), name()
    ch = connection.channel()
    ch.exchange_declare(exchange, "fanout", auto_delete=True)
    ch.queue_declare(queue)
    ch.queue_bind(queue, exchange)
    ch.queue_delete(queue)
    refused(lambda: ch.exchange_declare(exchange, passive=True), 404, f"no exchange '{exchange}' in vhost '/'")


def test_delete_counts_and_conditions(connection, channel, name):
    queue = name()
    channel.queue_declare(queue)
    put(channel, queue, b"a", b"b")
    ch = connection.channel()
    refused(lambda: ch.queue_delete(queue, if_empty=True), 406, f"queue '{queue}' in vhost '/' not empty")
    tag = channel.basic_consume(queue, lambda *_: None)
    ch = connection.channel()
    refused(lambda: ch.queue_delete(queue, if_unused=True), 406, f"queue '{queue}' in vhost '/' in use")
    channel.basic_cancel(tag)
    # Cancelling doesn't give back what was delivered; pika rejects what its user hadn't seen yet.
    until(lambda: ready(channel, queue) == 2, "the messages to be ready again")
    assert channel.queue_delete(queue).method.message_count == 2
    exchange = name("x")
    other = name()
    channel.exchange_declare(exchange, "direct")
    channel.queue_declare(other)
    channel.queue_bind(other, exchange, "k")
    ch = connection.channel()
    refused(lambda: ch.exchange_delete(exchange, if_unused=True), 406, f"exchange '{exchange}' in vhost '/' in use")


def test_purge_leaves_what_is_out(channel, name):
    queue = name()
    channel.queue_declare(queue)
    put(channel, queue, b"a", b"b", b"c")
    method, _, _ = channel.basic_get(queue)
    assert channel.queue_purge(queue).method.message_count == 2
    channel.basic_nack(method.delivery_tag, requeue=True)
    assert [m[2] for m in collect(channel, queue, 1)] == [b"a"]


def test_dead_letter_with_history(channel, name):
    queue, dead, exchange = name(), name("dead"), name("dlx")
    channel.exchange_declare(exchange, "direct")
    channel.queue_declare(dead)
    channel.queue_bind(dead, exchange, "gone")
    channel.queue_declare(
        queue, arguments={"x-dead-letter-exchange": exchange, "x-dead-letter-routing-key": "gone"}
    )
    put(channel, queue, b"x")
    method, _, _ = channel.basic_get(queue)
    channel.basic_reject(method.delivery_tag, requeue=False)
    ((method, properties, body),) = collect(channel, dead, 1)
    assert body == b"x" and method.exchange == exchange and method.routing_key == "gone"
    (death,) = properties.headers["x-death"]
    assert (death["queue"], death["reason"], death["count"], death["exchange"], death["routing-keys"]) == (
        queue,
        "rejected",
        1,
        "",
        [queue],
    )
    assert properties.headers["x-first-death-queue"] == queue


def test_message_ttl_and_queue_length(channel, name):
    queue, dead = name(), name("dead")
    channel.queue_declare(dead)
    channel.queue_declare(
        queue,
        arguments={
            "x-max-length": 2,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": dead,
            "x-message-ttl": 200,
        },
    )
    put(channel, queue, b"1", b"2", b"3")
    got = collect(channel, dead, 3)
    assert [(body, properties.headers["x-death"][0]["reason"]) for _, properties, body in got] == [
        (b"1", "maxlen"),
        (b"2", "expired"),
        (b"3", "expired"),
    ]


def test_priority_queue(channel, name):
    queue = name()
    channel.queue_declare(queue, arguments={"x-max-priority": 5})
    for priority, body in [(1, b"low"), (5, b"high"), (None, b"none"), (3, b"mid"), (9, b"clamped")]:
        channel.basic_publish("", queue, body, pika.BasicProperties(priority=priority))
    assert get_all(channel, queue) == [b"high", b"clamped", b"mid", b"low", b"none"]

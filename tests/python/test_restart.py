"""What a stop, a crash and a return look like from outside."""

import os
import threading
import time

import pika
import pytest
from brokers import until
from helpers import PERSISTENT, collect, get_all, put, ready, refused


def test_persistent_messages_survive_a_clean_restart(own_broker, connect):
    broker = own_broker()
    ch = connect(broker).channel()
    ch.confirm_delivery()
    ch.queue_declare("durable", durable=True)
    ch.queue_declare("transient")
    ch.exchange_declare("x", "topic", durable=True)
    ch.exchange_declare("gone", "topic")
    ch.queue_bind("durable", "x", "a.#")
    put(ch, "durable", *[str(n).encode() for n in range(100)])
    ch.basic_publish("x", "a.b", b"routed", PERSISTENT)
    put(ch, "durable", b"not persistent", persistent=False)
    broker.restart()
    connection = connect(broker)
    ch = connection.channel()
    ch.confirm_delivery()
    ch.basic_publish("x", "a.b.c", b"after", PERSISTENT)
    bodies = [m[2] for m in collect(ch, "durable", 102)]
    assert bodies == [str(n).encode() for n in range(100)] + [b"routed", b"after"]
    refused(lambda: ch.queue_declare("transient", passive=True), 404, "no queue 'transient'")
    ch = connection.channel()
    refused(lambda: ch.exchange_declare("gone", passive=True), 404, "no exchange 'gone'")


def test_settled_messages_stay_away_after_a_restart(own_broker, connect):
    broker = own_broker()
    ch = connect(broker).channel()
    ch.confirm_delivery()
    ch.queue_declare("q", durable=True)
    put(ch, "q", b"acked", b"out", b"ready")
    ch.basic_ack(ch.basic_get("q")[0].delivery_tag)
    ch.basic_get("q")
    # A synchronous method behind the ack: the broker has seen it.
    assert ready(ch, "q") == 1
    broker.restart()
    ch = connect(broker).channel()
    got = collect(ch, "q", 2)
    assert [m[2] for m in got] == [b"out", b"ready"]
    assert got[0][0].redelivered


def test_confirmed_messages_survive_kill_9(own_broker, connect):
    broker = own_broker()
    ch = connect(broker).channel()
    ch.confirm_delivery()
    ch.queue_declare("q", durable=True)
    large = bytes(range(256)) * 4000
    put(ch, "q", b"1", large, b"3")
    broker.kill()
    broker.start()
    assert get_all(connect(broker).channel(), "q") == [b"1", large, b"3"]


def test_sigterm_closes_connections_with_320_and_exits_0(own_broker, connect):
    broker = own_broker()
    connection = connect(broker)
    connection.channel()
    codes = []
    stopper = threading.Thread(target=lambda: codes.append(broker.stop()))
    stopper.start()
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker) as caught:
        until(lambda: connection.process_data_events(0.05), "the connection to be closed")
    stopper.join()
    assert caught.value.reply_code == 320
    assert caught.value.reply_text.startswith("CONNECTION_FORCED"), caught.value
    if broker.kind == "hornpipe":
        assert codes == [0], broker.log_tail()


def test_many_restarts(own_broker, connect):
    """Each time one message more; none gets lost on the way."""
    broker = own_broker()
    expected = []
    for n in range(5):
        ch = connect(broker).channel()
        ch.confirm_delivery()
        ch.queue_declare("q", durable=True)
        put(ch, "q", str(n).encode())
        expected.append(str(n).encode())
        broker.restart()
    assert get_all(connect(broker).channel(), "q") == expected


def test_delayed_messages_are_released_after_a_kill_beside_other_traffic(own_broker, connect):
    # their runs are written again while they wait: what is due then must not be forgotten
    broker = own_broker(HORNPIPE_INLINE_LIVE_BYTES="1MiB", HORNPIPE_LOG_RECORDS_SLACK="8", HORNPIPE_SHORT_RUNS="16")
    ch = connect(broker).channel()
    ch.exchange_declare("later", "x-delayed-message", durable=True, arguments={"x-delayed-type": "fanout"})
    ch.queue_declare("out", durable=True)
    ch.queue_declare("busy", durable=True)
    ch.queue_bind("out", "later")
    ch.confirm_delivery()
    count, due = 1500, time.monotonic() + 3
    for n in range(count):
        delay = max(1, int((due + n / 1000 - time.monotonic()) * 1000))
        properties = pika.BasicProperties(delivery_mode=2, headers={"x-delay": delay})
        ch.basic_publish("later", "", str(n).encode(), properties)
    broker.kill()
    broker.start()
    ch = connect(broker).channel()
    ch.confirm_delivery()

    def all_out():
        ch.basic_publish("", "busy", b"x" * 200, PERSISTENT)
        ch.basic_get("busy", auto_ack=True)
        return ch.queue_declare("out", passive=True).method.message_count == count

    until(all_out, "every delayed message to be released")


@pytest.mark.parametrize("there", [0, 50, 1500], ids=lambda n: f"{n} there")
@pytest.mark.parametrize("again", [False, True], ids=["gone", "declared again"])
def test_what_was_rejected_before_its_queue_was_deleted_outlives_a_kill(own_broker, connect, there, again):
    """The deletion is answered while dead letters go on their way in slices, and the kill comes in between."""
    if os.environ.get("AMQP_URL") or os.environ.get("BROKER") == "rabbitmq":
        pytest.skip("about what Hornpipe does in slices")
    count = 3000
    broker = own_broker(HORNPIPE_SLICE_UNITS="64")
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    connection = connect(broker)
    ch = connection.channel()
    ch.confirm_delivery()
    ch.queue_declare("dead", durable=True)
    ch.queue_declare("work", durable=True, arguments=arguments)
    put(ch, "work", *[b"%d" % n for n in range(count)])
    tags = []
    ch.basic_consume("work", lambda _ch, method, _properties, _body: tags.append(method.delivery_tag))
    while len(tags) < count:
        connection.process_data_events(time_limit=1)
    ch.basic_nack(tags[-1], multiple=True, requeue=False)
    ch.queue_delete("work")
    if again:
        ch.queue_declare("work", durable=True, arguments=arguments)
        put(ch, "work", b"new")
    if there:
        until(lambda: ready(ch, "dead") >= there, f"{there} dead letters")
    broker.kill()
    broker.start()
    connection = connect(broker)
    ch = connection.channel()
    until(lambda: ready(ch, "dead") >= count, f"{count} dead letters, {ready(ch, 'dead')} are there")
    assert get_all(ch, "dead") == [b"%d" % n for n in range(count)]
    if again:
        assert get_all(ch, "work") == [b"new"]
    else:
        refused(lambda: ch.queue_declare("work", passive=True), 404, "no queue 'work'")

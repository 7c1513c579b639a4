"""py-amqp and Kombu, what Celery stands on."""

import socket

import amqp
import pytest
from brokers import until
from kombu import Connection, Exchange, Queue


@pytest.fixture
def plain(broker):
    it = amqp.Connection(f"{broker.host}:{broker.port}", broker.user, broker.password, virtual_host=broker.vhost)
    it.connect()
    yield it
    it.close()


def test_py_amqp_round(plain, name):
    queue = name()
    channel = plain.channel()
    assert channel.queue_declare(queue, durable=True, auto_delete=False) == (queue, 0, 0)
    channel.confirm_select()
    for n in range(20):
        channel.basic_publish_confirm(
            amqp.Message(str(n), delivery_mode=2, application_headers={"n": n}), routing_key=queue
        )
    got = []

    def on_message(message):
        got.append((message.body, message.headers["n"]))
        channel.basic_ack(message.delivery_tag)

    channel.basic_qos(0, 5, False)
    tag = channel.basic_consume(queue, callback=on_message)
    until(lambda: plain.drain_events(timeout=10) or len(got) == 20, "20 messages")
    assert got == [(str(n), n) for n in range(20)]
    channel.basic_cancel(tag)
    assert channel.queue_declare(queue, passive=True).message_count == 0


def test_py_amqp_tells_what_the_broker_is(plain):
    assert plain.server_properties["product"]
    assert plain.server_properties["version"]
    capabilities = plain.server_capabilities
    for it in ("publisher_confirms", "exchange_exchange_bindings", "basic.nack", "consumer_cancel_notify"):
        assert capabilities[it] is True, it
    assert capabilities["connection.blocked"] is True


def test_py_amqp_errors(plain, name):
    channel = plain.channel()
    with pytest.raises(amqp.exceptions.NotFound):
        channel.queue_declare(name(), passive=True)
    channel = plain.channel()
    queue = name()
    channel.queue_declare(queue, durable=True, auto_delete=False)
    with pytest.raises(amqp.exceptions.PreconditionFailed):
        channel.queue_declare(queue, durable=False, auto_delete=False)


def test_py_amqp_refused_login(broker):
    it = amqp.Connection(f"{broker.host}:{broker.port}", broker.user, "wrong")
    with pytest.raises(amqp.exceptions.AccessRefused):
        it.connect()


def test_py_amqp_heartbeat(broker):
    """Kept alive by heartbeats alone, over several intervals of each side."""
    it = amqp.Connection(f"{broker.host}:{broker.port}", broker.user, broker.password, heartbeat=2)
    it.connect()
    received = it.bytes_recv

    def beats():
        it.heartbeat_tick()
        # Well below the second after which the broker beats: py-amqp waits anew after each beat it reads.
        with pytest.raises(socket.timeout):
            it.drain_events(timeout=0.2)
        return it.bytes_recv - received

    until(lambda: beats() >= 6, "six heartbeats")
    it.channel().close()
    it.close()


def test_kombu_producer_and_consumer(broker, name):
    exchange = Exchange(name("x"), "topic", durable=True)
    queue = Queue(name(), exchange, routing_key="task.#", queue_arguments={"x-max-priority": 3})
    with Connection(broker.url, transport_options={"confirm_publish": True}) as connection:
        producer = connection.Producer(serializer="json")
        for n in range(10):
            producer.publish(
                {"n": n, "text": "grüße"},
                exchange=exchange,
                routing_key="task.add",
                declare=[exchange, queue],
                retry=True,
                compression="zlib",
            )
        got = []

        def on_message(body, message):
            got.append(body)
            message.ack()

        with connection.Consumer(queue, callbacks=[on_message], prefetch_count=4):
            until(lambda: connection.drain_events(timeout=10) or len(got) == 10, "ten messages")
        assert got == [{"n": n, "text": "grüße"} for n in range(10)]


def test_kombu_simple_queue(broker, name):
    with Connection(broker.url) as connection:
        queue = connection.SimpleQueue(name())
        queue.put({"hello": "world"})
        message = queue.get(timeout=60)
        assert message.payload == {"hello": "world"}
        message.requeue()
        message = queue.get(timeout=60)
        assert message.delivery_info["redelivered"] is True
        message.ack()
        assert queue.qsize() == 0
        queue.close()


def test_kombu_reconnects_after_a_restart(own_broker):
    broker = own_broker()
    with Connection(broker.url, transport_options={"confirm_publish": True}) as connection:
        queue = Queue("kombu", durable=True)
        producer = connection.Producer()
        send = connection.ensure(
            producer, producer.publish, max_retries=100, interval_start=0.05, interval_step=0.05, interval_max=0.2
        )
        send("before", routing_key="kombu", declare=[queue], delivery_mode=2)
        broker.restart()
        send("after", routing_key="kombu", declare=[queue], delivery_mode=2)
        got = connection.SimpleQueue(queue)
        assert [got.get(timeout=60).payload for _ in range(2)] == ["before", "after"]

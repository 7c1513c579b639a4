"""Small steps the pika tests share."""

import pika
import pytest
from brokers import until

PERSISTENT = pika.BasicProperties(delivery_mode=2)


def put(channel, queue, *bodies, persistent=True):
    """Publishes through the default exchange."""
    for body in bodies:
        channel.basic_publish("", queue, body, PERSISTENT if persistent else None)


def get_all(channel, queue, ack=True):
    """Takes all that is ready with basic.get and returns the bodies."""
    bodies = []
    while True:
        method, _, body = channel.basic_get(queue, auto_ack=ack)
        if method is None:
            return bodies
        bodies.append(body)


def ready(channel, queue):
    """How many messages are ready, by a passive declare."""
    return channel.queue_declare(queue, passive=True).method.message_count


def collect(channel, queue, count, ack=True, **arguments):
    """Consumes until `count` messages came, cancels, and returns [(method, properties, body)]."""
    got = []

    def on_message(ch, method, properties, body):
        if len(got) < count:
            got.append((method, properties, body))
            if ack and not arguments.get("auto_ack"):
                ch.basic_ack(method.delivery_tag)

    tag = channel.basic_consume(queue, on_message, **arguments)
    pump(channel, lambda: len(got) >= count, f"{count} messages from {queue}, got {len(got)}")
    channel.basic_cancel(tag)
    return got


def pump(channel, condition, what):
    """Lets the connection work until the condition holds."""

    def step():
        channel.connection.process_data_events(time_limit=0.01)
        return condition()

    until(step, what)


def refused(call, code, text, scope=pika.exceptions.ChannelClosedByBroker):
    """Runs `call`, which the broker must answer by closing the channel (or connection) with this code and text."""
    with pytest.raises(scope) as caught:
        call()
    assert caught.value.reply_code == code, caught.value
    assert text in caught.value.reply_text, caught.value

"""What RabbitMQ refuses, with its code, scope and words: clients match on all three."""

import pika
import pytest
from conftest import parameters
from helpers import put, refused

CONNECTION = pika.exceptions.ConnectionClosedByBroker


def test_404(connection, name):
    queue = name()
    for call, text in [
        (lambda ch: ch.queue_declare(queue, passive=True), f"NOT_FOUND - no queue '{queue}' in vhost '/'"),
        (lambda ch: ch.exchange_declare(queue, passive=True), f"NOT_FOUND - no exchange '{queue}' in vhost '/'"),
        (lambda ch: ch.basic_get(queue), f"NOT_FOUND - no queue '{queue}' in vhost '/'"),
        (lambda ch: ch.basic_consume(queue, print), f"NOT_FOUND - no queue '{queue}' in vhost '/'"),
        (lambda ch: ch.queue_purge(queue), f"NOT_FOUND - no queue '{queue}' in vhost '/'"),
        (lambda ch: ch.queue_bind(queue, "amq.direct", "k"), f"NOT_FOUND - no queue '{queue}' in vhost '/'"),
    ]:
        ch = connection.channel()
        refused(lambda: call(ch), 404, text)


def test_404_on_publish_arrives_later(connection, name):
    exchange = name("x")
    ch = connection.channel()
    ch.confirm_delivery()
    refused(lambda: ch.basic_publish(exchange, "k", b""), 404, f"NOT_FOUND - no exchange '{exchange}' in vhost '/'")
    # Only that channel went.
    assert connection.is_open and connection.channel().is_open


def test_403(connection, name):
    for call, text in [
        (
            lambda ch: ch.exchange_declare(f"amq.{name()}"),
            "contains reserved prefix 'amq.*'",
        ),
        (lambda ch: ch.queue_declare(f"amq.{name()}"), "contains reserved prefix 'amq.*'"),
        (lambda ch: ch.exchange_delete("amq.direct"), "amq.direct"),
        (lambda ch: ch.queue_bind(ch.queue_declare("", exclusive=True).method.queue, "", "k"), "default exchange"),
    ]:
        ch = connection.channel()
        refused(lambda: call(ch), 403, text)


def test_403_internal_exchange(connection, name):
    exchange = name("x")
    ch = connection.channel()
    ch.exchange_declare(exchange, "fanout", internal=True)
    ch.confirm_delivery()
    refused(
        lambda: ch.basic_publish(exchange, "", b""),
        403,
        f"ACCESS_REFUSED - cannot publish to internal exchange '{exchange}' in vhost '/'",
    )


def test_406_queue_redeclared_differently(connection, name):
    queue = name()
    connection.channel().queue_declare(queue, durable=True, arguments={"x-message-ttl": 1000})
    for changes, text in [
        (
            dict(durable=False, arguments={"x-message-ttl": 1000}),
            f"inequivalent arg 'durable' for queue '{queue}' in vhost '/': received 'false' but current is 'true'",
        ),
        (
            dict(durable=True, arguments={"x-message-ttl": 2000}),
            f"inequivalent arg 'x-message-ttl' for queue '{queue}' in vhost '/': received '2000' but current is '1000'",
        ),
        (
            dict(durable=True),
            f"inequivalent arg 'x-message-ttl' for queue '{queue}' in vhost '/': "
            "received none but current is the value '1000' of type 'signedint'",
        ),
        (
            dict(durable=True, auto_delete=True, arguments={"x-message-ttl": 1000}),
            "inequivalent arg 'auto_delete'",
        ),
    ]:
        ch = connection.channel()
        refused(lambda: ch.queue_declare(queue, **changes), 406, f"PRECONDITION_FAILED - {text}")
    # The same again, unknown arguments aside, is fine.
    connection.channel().queue_declare(queue, durable=True, arguments={"x-message-ttl": 1000, "x-unknown": 1})


def test_406_exchange_redeclared_differently(connection, name):
    exchange = name("x")
    connection.channel().exchange_declare(exchange, "direct")
    for changes, text in [
        (dict(exchange_type="fanout"), "'type' for exchange '%s' in vhost '/': received 'fanout' but current is 'direct'"),
        (
            dict(exchange_type="direct", durable=True),
            "'durable' for exchange '%s' in vhost '/': received 'true' but current is 'false'",
        ),
    ]:
        ch = connection.channel()
        refused(
            lambda: ch.exchange_declare(exchange, **changes),
            406,
            "PRECONDITION_FAILED - inequivalent arg " + text % exchange,
        )


@pytest.mark.parametrize(
    "arguments",
    [
        {"x-message-ttl": -1},
        {"x-message-ttl": "soon"},
        {"x-expires": 0},
        {"x-max-length": -5},
        {"x-overflow": "whatever"},
        {"x-max-priority": 300},
        {"x-dead-letter-routing-key": "k"},
        {"x-queue-type": "nonsense"},
    ],
)
def test_406_bad_queue_arguments(connection, name, arguments):
    ch = connection.channel()
    refused(lambda: ch.queue_declare(name(), arguments=arguments), 406, "PRECONDITION_FAILED - invalid arg")


def test_406_bad_expiration_and_user_id(connection, name):
    queue = name()
    connection.channel().queue_declare(queue)
    for properties, text in [
        (pika.BasicProperties(expiration="10ms"), "invalid expiration '10ms'"),
        (pika.BasicProperties(user_id="other"), "user_id property set to 'other' but authenticated user was 'guest'"),
    ]:
        ch = connection.channel()
        ch.confirm_delivery()
        refused(lambda: ch.basic_publish("", queue, b"", properties), 406, text)


def test_530_consumer_tag_reused(connect, name):
    queue = name()
    ch = connect().channel()
    ch.queue_declare(queue)
    ch.basic_consume(queue, print, consumer_tag="same")
    # pika guards against it by itself, so the second one is sent past its check.
    ch._consumer_infos.clear()
    ch._impl._consumers.clear()
    refused(
        lambda: ch.basic_consume(queue, print, consumer_tag="same"),
        530,
        "NOT_ALLOWED - attempt to reuse consumer tag 'same'",
        CONNECTION,
    )


def test_530_unknown_vhost(broker):
    with pytest.raises(pika.exceptions.AMQPConnectionError) as caught:
        pika.BlockingConnection(parameters(broker, virtual_host="nowhere"))
    text = repr(caught.value)
    assert "530" in text and "NOT_ALLOWED - vhost nowhere not found" in text, text


@pytest.mark.parametrize("user, password", [("guest", "wrong"), ("nobody", "guest"), ("guest", "")])
def test_403_wrong_login(broker, user, password):
    with pytest.raises(pika.exceptions.AMQPConnectionError) as caught:
        pika.BlockingConnection(parameters(broker, credentials=pika.PlainCredentials(user, password)))
    text = repr(caught.value)
    assert "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN" in text, text


def test_540_not_implemented(connect, name):
    queue = name()
    ch = connect().channel()
    ch.queue_declare(queue)
    refused(lambda: ch.basic_qos(prefetch_size=10), 540, "NOT_IMPLEMENTED - prefetch_size!=0 (10)", CONNECTION)
    ch = connect().channel()
    refused(lambda: ch.basic_recover(requeue=False), 540, "NOT_IMPLEMENTED", CONNECTION)


def test_a_failed_channel_gives_back_what_was_out(connection, channel, name):
    queue = name()
    channel.queue_declare(queue)
    put(channel, queue, b"x")
    ch = connection.channel()
    ch.basic_get(queue)
    refused(lambda: ch.queue_declare(queue, durable=True), 406, "inequivalent arg 'durable'")
    method, _, body = channel.basic_get(queue, auto_ack=True)
    assert (body, method.redelivered) == (b"x", True)


def test_a_closed_channel_number_can_be_used_again(connection):
    for _ in range(3):
        ch = connection.channel(channel_number=9)
        refused(lambda: ch.queue_declare("amq.nope", passive=True), 404, "no queue")
    connection.channel(channel_number=9).close()

"""What is limited per user, vhost and channel, as seen by a client."""

import urllib.parse
import uuid

import pika
import pytest
from helpers import pump, put, refused
from test_alarms import http


@pytest.fixture
def user(broker):
    """A user with all permissions on the default vhost."""
    if broker.http_port is None:
        pytest.skip("needs the management API")
    name = f"u{uuid.uuid4().hex[:8]}"
    assert http(broker, "PUT", f"/api/users/{name}", {"password": "p", "tags": ""})[0] == 201
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    assert http(broker, "PUT", f"/api/permissions/%2F/{name}", everything)[0] == 201
    yield name
    http(broker, "DELETE", f"/api/users/{name}")


def test_channels_of_a_user_are_limited(broker, user, connect):
    limit = f"/api/user-limits/{user}/max-channels"
    assert http(broker, "PUT", limit, {"value": 2})[0] in (201, 204)
    first = connect(credentials=pika.PlainCredentials(user, "p"))
    first.channel()
    second = connect(credentials=pika.PlainCredentials(user, "p"))
    second.channel()
    text = f"number of channels opened for user '{user}' has reached the maximum allowed user limit of (2)"
    refused(second.channel, 530, text, pika.exceptions.ConnectionClosedByBroker)
    # the channels of the connection that was closed are free again; a limit that is gone limits nothing
    first.channel()
    assert http(broker, "DELETE", limit)[0] == 204
    first.channel()


def test_a_limit_for_each_consumer_lifts_the_shared_one(channel, name):
    queue = name()
    channel.queue_declare(queue, auto_delete=False)
    put(channel, queue, *(str(n) for n in range(9)))
    channel.basic_qos(prefetch_count=3, global_qos=True)
    got = []
    channel.basic_consume(queue, lambda ch, method, properties, body: got.append(body))
    pump(channel, lambda: len(got) == 3, "three deliveries")
    channel.basic_qos(prefetch_count=0)
    pump(channel, lambda: len(got) == 9, "the others")
    channel.queue_delete(queue)


def test_a_vhosts_default_type_needs_a_name(broker, connect):
    if broker.kind != "hornpipe":
        pytest.skip("older RabbitMQ has no default type")
    vhost = f"v{uuid.uuid4().hex[:8]}"
    path = f"/api/vhosts/{urllib.parse.quote(vhost)}"
    assert http(broker, "PUT", path, {"default_queue_type": "quorum"})[0] == 201
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    http(broker, "PUT", f"/api/permissions/{vhost}/{broker.user}", everything)
    connection = connect(virtual_host=vhost)
    connection.channel().queue_declare("named", durable=True)
    assert http(broker, "GET", f"/api/queues/{vhost}/named")[1]["type"] == "quorum"
    # what can't be a quorum queue is a classic one, and needs no name
    connection.channel().queue_declare("", exclusive=True)
    refused(
        lambda: connection.channel().queue_declare("", durable=True),
        406,
        "Cannot declare a server-named queue for type",
    )
    connection.close()
    assert http(broker, "DELETE", path)[0] == 204

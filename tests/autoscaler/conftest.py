"""A running broker, told by environment, and a little traffic in it.

* HORNPIPE_AMQP    amqp://user:password@host:port/vhost
* HORNPIPE_HTTP    http://host:port, the management API (with a path prefix, if there is one)
* HORNPIPE_METRICS http://host:port, the Prometheus pages

The same tests may be pointed at a RabbitMQ with its management and prometheus plugins, to check the tests themselves.
"""

import base64
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid

import pika
import pytest

# Bounds a wait that would otherwise hang for ever; nothing measures a duration with it. RabbitMQ's numbers lag by up to 5 s and its
# rates need two samples.
DEADLINE = float(os.environ.get("TEST_DEADLINE", "60"))


def setting(name):
    value = os.environ.get(name)
    if not value:
        pytest.skip(f"{name} is not set")
    return value


def until(look, what):
    """Looks again until the answer is truthy, and returns it."""
    end = time.monotonic() + DEADLINE
    while True:
        value = look()
        if value:
            return value
        assert time.monotonic() < end, f"gave up waiting: {what}"
        time.sleep(0.05)


class Api:
    """Plain HTTP with basic authentication, as autoscalers do it: only 200 is success."""

    def __init__(self, base, user=None, password=None):
        self.base = base.rstrip("/")
        self.headers = {}
        if user is not None:
            token = base64.b64encode(f"{user}:{password}".encode()).decode()
            self.headers["Authorization"] = f"Basic {token}"

    def text(self, path):
        request = urllib.request.Request(self.base + path, headers=self.headers)
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            assert answer.status == 200
            return answer.read().decode()

    def json(self, path):
        return json.loads(self.text(path))

    def status(self, path):
        try:
            self.text(path)
        except urllib.error.HTTPError as error:
            return error.code
        return 200


@pytest.fixture(scope="session")
def amqp():
    return pika.URLParameters(setting("HORNPIPE_AMQP"))


@pytest.fixture(scope="session")
def api(amqp):
    return Api(setting("HORNPIPE_HTTP"), amqp.credentials.username, amqp.credentials.password)


@pytest.fixture(scope="session")
def anonymous():
    return Api(setting("HORNPIPE_HTTP"))


@pytest.fixture(scope="session")
def metrics():
    return Api(setting("HORNPIPE_METRICS"))


@pytest.fixture(scope="session")
def vhost(amqp):
    """The vhost as a path segment."""
    return urllib.parse.quote(amqp.virtual_host, safe="")


@pytest.fixture
def channel(amqp):
    connection = pika.BlockingConnection(amqp)
    channel = connection.channel()
    channel.confirm_delivery()
    yield channel
    connection.close()


@pytest.fixture
def queue(channel):
    """Makes queues with names of their own; they go when the test ends."""
    made = []

    def make(suffix="", messages=0):
        name = f"autoscaler-{uuid.uuid4().hex[:12]}{suffix}"
        channel.queue_declare(name, durable=True)
        made.append(name)
        for n in range(messages):
            channel.basic_publish("", name, f"job {n}".encode(), pika.BasicProperties(delivery_mode=2))
        return name

    yield make
    for name in made:
        channel.queue_delete(name)

"""Fixtures: one broker for the run, private ones for tests that stop or configure it, connections that get closed."""

import sys
import uuid
from pathlib import Path

import pika
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "run"))

import brokers  # noqa: E402


@pytest.fixture(scope="session")
def broker(tmp_path_factory):
    """The broker most tests share; each takes names of its own."""
    it = brokers.make(tmp_path_factory.mktemp("broker"))
    if it.kind != "external":
        it.start()
    yield it
    if it.kind == "hornpipe":
        ended = it.process.poll()
        assert ended is None, f"the shared broker ended during the run with {ended}\n{it.log_tail()}"
        assert it.stop() == 0, f"the shared broker didn't stop cleanly\n{it.log_tail()}"
    it.cleanup()


@pytest.fixture
def own_broker(tmp_path):
    """Starts brokers that belong to the test alone: `own_broker(HORNPIPE_MAX_MESSAGE_SIZE="…")`."""
    made = []

    def start(**env):
        try:
            it = brokers.make(tmp_path / f"broker{len(made)}", env, private=True)
        except brokers.NotHere as reason:
            pytest.skip(str(reason))
        made.append(it)
        return it.start()

    yield start
    for it in made:
        it.cleanup()


def parameters(broker, **changes):
    """pika's connection parameters for a broker."""
    values = dict(
        host=broker.host,
        port=broker.port,
        virtual_host=broker.vhost,
        credentials=pika.PlainCredentials(broker.user, broker.password),
        heartbeat=0,
        blocked_connection_timeout=brokers.DEADLINE,
    )
    values.update(changes)
    return pika.ConnectionParameters(**values)


@pytest.fixture
def connect(broker):
    """Opens pika connections, to the shared broker unless another is named, and closes them afterwards."""
    opened = []

    def open_one(to=None, **changes):
        it = pika.BlockingConnection(parameters(to or broker, **changes))
        opened.append(it)
        return it

    yield open_one
    for it in opened:
        try:
            if it.is_open:
                it.close()
        except pika.exceptions.AMQPError:
            pass


@pytest.fixture
def connection(connect):
    return connect()


@pytest.fixture
def channel(connection):
    """A pika channel in confirm mode: when publish returns, the broker has the message."""
    it = connection.channel()
    it.confirm_delivery()
    return it


@pytest.fixture
def name(connect):
    """Makes names nobody else uses; what is left under them is deleted after the test."""
    made = []

    def new(stem="t"):
        made.append(f"{stem}-{uuid.uuid4().hex[:12]}")
        return made[-1]

    yield new
    try:
        tidy = connect().channel()
        for it in made:
            tidy.queue_delete(it)
            tidy.exchange_delete(it)
    except pika.exceptions.AMQPError:
        pass

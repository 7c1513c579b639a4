"""Alarms of memory and disk as clients meet them: who is blocked, from when on, and what they are told.

The levers are those of each broker: RabbitMQ's limits are moved by rabbitmqctl; ours are fixed, so what they watch moves: a file
takes the room of the data folder's volume, a queue of transient messages the memory.
"""

import base64
import json
import os
import shutil
import socket
import struct
import tempfile
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import brokers
import pytest
from brokers import until
from raw import BODY, HEADER, Raw, capabilities, long, short

NOTIFIED = capabilities("connection.blocked")
BLOCKED, UNBLOCKED = (10, 60), (10, 61)
MIB = 1024 * 1024


def http(broker, verb, path, body=None):
    """Status and answer of the management API."""
    call = urllib.request.Request(f"http://127.0.0.1:{broker.http_port}{path}", method=verb)
    login = f"{broker.user}:{broker.password}".encode()
    call.add_header("authorization", "Basic " + base64.b64encode(login).decode())
    call.add_header("content-type", "application/json")
    try:
        with urllib.request.urlopen(call, json.dumps(body).encode() if body is not None else None, timeout=60) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"null")


class Levers:
    """A broker whose alarms the test raises and lowers."""

    def __init__(self, directory, folder):
        self.up = set()
        self.ballast = folder / "ballast"
        free = os.statvfs(folder)
        settings = dict(
            HORNPIPE_ALARM_INTERVAL_MS="20",
            HORNPIPE_DISK_FREE_LIMIT=str(free.f_bavail * free.f_frsize - 256 * MIB),
            HORNPIPE_MEMORY_LIMIT=str(200 * MIB),
            HORNPIPE_RESIDENT_BYTES=str(1024 * MIB),
        )
        rabbitmq = os.environ.get("BROKER") == "rabbitmq"
        self.broker = brokers.make(directory, {} if rabbitmq else settings, private=True, data=folder / "data").start()

    def told(self):
        """The alarms that are up, as the health check says."""
        status, answer = http(self.broker, "GET", "/api/health/checks/local-alarms")
        assert status in (200, 503), (status, answer)
        return {alarm["resource"].split()[0] for alarm in answer.get("alarms", [])}

    def set(self, *which):
        """Exactly these alarms are up when it returns."""
        for resource in ("memory", "disk"):
            if (resource in which) != (resource in self.up):
                getattr(self, resource)(resource in which)
        self.up = set(which)
        until(lambda: self.told() == self.up, f"the alarms to be {self.up}")

    def memory(self, up):
        if self.broker.kind == "rabbitmq":
            self.broker.ctl("set_vm_memory_high_watermark", "0.000001" if up else "0.6")
            return
        if up:
            filler = Raw(self.broker)
            filler.method(1, 50, 10, struct.pack(">H", 0) + short("ballast") + b"\0" + long(b""))
            filler.expect(50, 11)
            body = bytes(100_000)
            frame = struct.pack(">BHI", BODY, 1, len(body)) + body + b"\xce"
            # blocked before the end, and its last octets stay in the socket
            filler.socket.setblocking(True)
            filler.socket.settimeout(60)
            publish = struct.pack(">HHH", 60, 40, 0) + short("") + short("ballast") + b"\0"
            header = struct.pack(">HHQ", 60, 0, len(body)) + b"\0\0"
            one = b"".join(struct.pack(">BHI", k, 1, len(p)) + p + b"\xce" for k, p in ((1, publish), (HEADER, header)))
            for _ in range(2000):
                try:
                    filler.socket.settimeout(5)
                    filler.socket.sendall(one + frame)
                except TimeoutError:
                    break
                if self.told() >= {"memory"}:
                    break
            filler.close()
        else:
            remover = Raw(self.broker)
            remover.method(1, 50, 30, struct.pack(">H", 0) + short("ballast") + b"\0")
            remover.expect(50, 31)
            remover.close()

    def disk(self, up):
        if self.broker.kind == "rabbitmq":
            self.broker.ctl("set_disk_free_limit", "100000GB" if up else "50MB")
        elif up:
            with open(self.ballast, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, 512 * MIB)
        else:
            self.ballast.unlink()


@pytest.fixture(scope="module")
def its_levers(tmp_path_factory):
    # a volume whose free room nobody else moves
    home = "/dev/shm" if shutil.disk_usage("/dev/shm").free > 2048 * MIB else None
    with tempfile.TemporaryDirectory(dir=home) as folder:
        try:
            it = Levers(tmp_path_factory.mktemp("alarms"), Path(folder))
        except brokers.NotHere as reason:
            pytest.skip(str(reason))
        yield it
        it.broker.cleanup()


@pytest.fixture
def levers(its_levers):
    its_levers.queue = f"q-{uuid.uuid4().hex[:12]}"
    yield its_levers
    its_levers.set()


def publish(peer, key, body=b"body", properties=b"\0\0"):
    peer.publish(key, properties, body)


def hears(peer):
    """The next method frame as (ids, arguments)."""
    kind, channel, payload = peer.read()
    assert kind == 1, (kind, channel, payload)
    return struct.unpack(">HH", payload[:4]), payload[4:]


def hears_nothing(peer):
    """Asks something whose answer comes next if nothing else was said."""
    peer.method(1, 20, 20, b"\1")  # channel.flow(true)
    assert hears(peer) == ((20, 21), b"\1")


def confirming(broker, **options):
    peer = Raw(broker, **options)
    peer.method(1, 85, 10, b"\0")
    peer.expect(85, 11)
    return peer


def count(peer, queue):
    peer.method(1, 50, 10, struct.pack(">H", 0) + short(queue) + b"\1" + long(b""))
    rest = peer.expect(50, 11)
    return struct.unpack(">I", rest[1 + rest[0] :][:4])[0]


def declared(broker, queue):
    """A peer that looks at a queue which it declared; it publishes nothing."""
    peer = Raw(broker, client_properties=NOTIFIED)
    peer.method(1, 50, 10, struct.pack(">H", 0) + short(queue) + b"\0" + long(b""))
    peer.expect(50, 11)
    return peer


def test_a_publisher_is_told_when_it_publishes_under_an_alarm(levers):
    broker = levers.broker
    watcher = declared(broker, levers.queue)
    peer = confirming(broker, client_properties=NOTIFIED)
    publish(peer, levers.queue, b"before")
    peer.expect(60, 80)
    levers.set("disk")
    # it has published, but not since
    hears_nothing(peer)
    publish(peer, levers.queue, b"during")
    assert hears(peer) == (BLOCKED, short("low on disk"))
    assert count(watcher, levers.queue) == 1
    levers.set()
    assert hears(peer) == (UNBLOCKED, b"")
    assert hears(peer)[0] == (60, 80)
    assert count(watcher, levers.queue) == 2
    hears_nothing(watcher)
    # the next time is a new story
    levers.set("disk")
    hears_nothing(peer)
    publish(peer, levers.queue, b"again")
    assert hears(peer) == (BLOCKED, short("low on disk"))
    levers.set()
    assert hears(peer) == (UNBLOCKED, b"")


def test_texts_and_once_per_alarm(levers):
    broker = levers.broker
    declared(broker, levers.queue)
    first = confirming(broker, client_properties=NOTIFIED)
    levers.set("memory")
    publish(first, levers.queue)
    assert hears(first) == (BLOCKED, short("low on memory"))
    levers.set("memory", "disk")
    second = confirming(broker, client_properties=NOTIFIED)
    publish(second, levers.queue)
    assert hears(second) == (BLOCKED, short("low on disk & memory"))
    # one of two falls: nobody is told, nobody goes on
    levers.set("disk")
    third = confirming(broker, client_properties=NOTIFIED)
    publish(third, levers.queue)
    assert hears(third) == (BLOCKED, short("low on disk"))
    levers.set()
    for peer in (first, second, third):
        assert hears(peer) == (UNBLOCKED, b"")
        assert hears(peer)[0] == (60, 80)


def test_without_the_capability_nothing_is_told(levers):
    broker = levers.broker
    watcher = declared(broker, levers.queue)
    peer = confirming(broker)
    levers.set("disk")
    publish(peer, levers.queue, b"held")
    told = confirming(broker, client_properties=NOTIFIED)
    publish(told, levers.queue, b"held too")
    assert hears(told)[0] == BLOCKED
    assert count(watcher, levers.queue) == 0
    levers.set()
    assert hears(peer)[0] == (60, 80)
    until(lambda: count(watcher, levers.queue) == 2, "both messages")


def test_nothing_is_read_after_the_header_of_a_publish(levers):
    """What was sent behind it waits: the rest of the body, other channels, a close."""
    broker = levers.broker
    watcher = declared(broker, levers.queue)
    peer = confirming(broker, client_properties=NOTIFIED)
    levers.set("disk")
    peer.method(1, 60, 40, struct.pack(">H", 0) + short("") + short(levers.queue) + b"\0")
    peer.frame(HEADER, 1, struct.pack(">HHQ", 60, 0, 6) + b"\0\0")
    assert hears(peer) == (BLOCKED, short("low on disk"))
    peer.frame(BODY, 1, b"abc")
    peer.frame(BODY, 1, b"def")
    peer.method(1, 20, 20, b"\1")
    assert count(watcher, levers.queue) == 0
    levers.set()
    assert hears(peer) == (UNBLOCKED, b"")
    assert {hears(peer)[0], hears(peer)[0]} == {(20, 21), (60, 80)}
    assert watcher.get(levers.queue) == (b"\0\0", b"abcdef")


def test_a_message_without_body_passes_before_the_block(levers):
    """It is whole when its header has been read, and nothing is looked at before that."""
    watcher = declared(levers.broker, levers.queue)
    peer = confirming(levers.broker, client_properties=NOTIFIED)
    levers.set("disk")
    publish(peer, levers.queue, b"")
    assert {hears(peer)[0], hears(peer)[0]} == {BLOCKED, (60, 80)}
    assert count(watcher, levers.queue) == 1
    levers.set()
    assert hears(peer) == (UNBLOCKED, b"")


def test_consumers_go_on(levers):
    broker = levers.broker
    peer = declared(broker, levers.queue)
    for n in range(3):
        publish(peer, levers.queue, b"%d" % n)
    consumer = Raw(broker, client_properties=NOTIFIED)
    until(lambda: count(consumer, levers.queue) == 3, "the messages")
    levers.set("disk")
    late = Raw(broker, client_properties=NOTIFIED)
    for it in (consumer, late):
        it.method(1, 60, 10, struct.pack(">IHB", 0, 1, 0))
        it.expect(60, 11)
    consumer.method(1, 60, 20, struct.pack(">H", 0) + short(levers.queue) + short("") + b"\0" + long(b""))
    consumer.expect(60, 21)
    for n in range(3):
        consumer.expect(60, 60)
        assert consumer.read()[0] == HEADER
        assert consumer.read()[2] == b"%d" % n
        consumer.method(1, 60, 80, struct.pack(">QB", n + 1, 0))
    until(lambda: count(late, levers.queue) == 0, "the queue to be empty")
    hears_nothing(consumer)


def test_a_blocked_client_is_not_taken_for_dead(levers):
    broker = levers.broker
    declared(broker, levers.queue)
    levers.set("disk")
    peer = confirming(broker, client_properties=NOTIFIED, heartbeat=1)
    publish(peer, levers.queue)
    assert hears(peer)[0] == BLOCKED
    # heartbeats still come from the broker, ours are not read: after eight of them we would be dead
    for _ in range(8):
        assert peer.read()[0] == 8
    levers.set()
    peer.frame(8, 0, b"")
    frames = []
    while (60, 80) not in frames:
        frame = peer.read()
        assert frame is not None, f"the connection was closed after {frames}"
        if frame[0] == 1:
            frames.append(struct.unpack(">HH", frame[2][:4]))
    assert frames == [UNBLOCKED, (60, 80)]


def test_publish_over_http_is_not_blocked(levers):
    broker = levers.broker
    watcher = declared(broker, levers.queue)
    levers.set("disk")
    message = {"properties": {}, "routing_key": levers.queue, "payload": "x", "payload_encoding": "string"}
    assert http(broker, "POST", "/api/exchanges/%2F/amq.default/publish", message) == (200, {"routed": True})
    until(lambda: count(watcher, levers.queue) == 1, "the message")


def test_the_state_of_connections(levers):
    broker = levers.broker
    declared(broker, levers.queue)
    peers = {"publisher": confirming(broker, client_properties=NOTIFIED), "idle": Raw(broker, client_properties=NOTIFIED)}
    ports = {str(peer.socket.getsockname()[1]): name for name, peer in peers.items()}

    def states():
        _, found = http(broker, "GET", "/api/connections")
        return {ports[str(c["peer_port"])]: c["state"] for c in found if str(c["peer_port"]) in ports and "state" in c}

    until(lambda: states() == {"publisher": "running", "idle": "running"}, "both to run")
    levers.set("disk")
    publish(peers["publisher"], levers.queue)
    assert hears(peers["publisher"])[0] == BLOCKED
    wanted = {"publisher": "blocked", "idle": "blocking"}
    until(lambda: states() == wanted, f"{wanted}, not {states()}", 30)
    levers.set()
    # RabbitMQ says "flow" for a while, and nothing new of a connection that does nothing
    until(lambda: states()["publisher"] in ("running", "flow"), "the publisher to run again")

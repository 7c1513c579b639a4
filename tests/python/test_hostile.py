"""Peers that mean ill or are broken: the broker's memory stays bounded and whoever behaves goes on.

Memory is compared with the same process before; each case sends or announces many times what it allows for.
"""

import random
import resource
import socket
import struct

import brokers
import pytest
from brokers import until
from raw import BODY, HEADER, METHOD, Raw, long, short

MIB = 1024 * 1024
# Octets the resident memory may grow by where nothing has to be kept: buffers, caches of the allocator, freed pages.
SLACK = 48 * MIB


def resident(broker):
    with open(f"/proc/{broker.process.pid}/status") as status:
        line = next(line for line in status if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


class World:
    """A broker of our own, what it used when it was calm, and a client that behaves."""

    def __init__(self, broker):
        self.broker = broker
        self.peers = []
        self.good = self.raw()
        self.good.declare("good")
        self.good.method(1, 85, 10, b"\0")
        self.good.expect(85, 11)
        for _ in range(50):
            self.goes_on()
        self.base = resident(broker)

    def raw(self, **options):
        self.peers.append(Raw(self.broker, **options))
        return self.peers[-1]

    def socket(self):
        """A connection without a handshake."""
        it = socket.create_connection((self.broker.host, self.broker.port), timeout=60)
        self.peers.append(it)
        return it

    def drop(self):
        for peer in self.peers[1:]:
            peer.close()
        del self.peers[1:]

    def goes_on(self):
        """One message there and back for the client that behaves."""
        self.good.publish("good", b"\0\0", b"body")
        self.good.expect(60, 80)
        assert self.good.get("good") == (b"\0\0", b"body")

    def grown(self):
        return resident(self.broker) - self.base

    def stays_small(self, allowed=SLACK):
        self.goes_on()
        grown = self.grown()
        assert grown < allowed, f"{grown / MIB:.1f} MiB more than before, {allowed / MIB:.0f} allowed"


@pytest.fixture
def world(own_broker, request):
    settings = dict(getattr(request, "param", {}))
    broker = own_broker(**settings)
    if broker.kind != "hornpipe":
        pytest.skip("looks into the process of our own broker")
    it = World(broker)
    yield it
    it.drop()
    it.goes_on()
    it.good.close()
    assert broker.process.poll() is None, broker.log_tail()
    assert "panicked" not in broker.log.read_text(errors="replace"), broker.log_tail()


def configured(**settings):
    return pytest.mark.parametrize("world", [settings], indirect=True, ids=[""])


def frame(kind, channel, payload):
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def method(channel, class_id, method_id, arguments=b""):
    return frame(METHOD, channel, struct.pack(">HH", class_id, method_id) + arguments)


def publish(channel, key, mandatory=False, exchange=""):
    return method(channel, 60, 40, struct.pack(">H", 0) + short(exchange) + short(key) + bytes([mandatory]))


def header(channel, size, properties=b"\0\0"):
    return frame(HEADER, channel, struct.pack(">HHQ", 60, 0, size) + properties)


def pour(sock, data, most, pause=5):
    """Writes `data` again and again, up to `most` octets; how many the other side took before it stopped reading."""
    sock.settimeout(pause)
    sent = 0
    try:
        while sent < most:
            n = sock.send(data[sent % len(data) :])
            sent += n
    except (TimeoutError, ConnectionError, BrokenPipeError):
        pass
    return sent


def ends(sock):
    """Reads until the other side closes; what it said."""
    sock.settimeout(brokers.DEADLINE)
    said = b""
    try:
        while part := sock.recv(65536):
            said = (said + part)[-MIB:]
    except ConnectionResetError:
        pass
    return said


def nested(depth, tag):
    """A value inside `depth` tables or arrays."""
    value = b"V"
    for _ in range(depth):
        value = tag + long((short("k") if tag == b"F" else b"") + value)
    return value


@pytest.mark.parametrize("tag", [b"F", b"A"], ids=["tables", "arrays"])
@pytest.mark.parametrize("depth", [10, 100, 16_000])
def test_deep_values(world, tag, depth):
    """In arguments, in message headers and before the login."""
    table = long(short("k") + nested(depth, tag))
    for _ in range(30):
        peer = world.raw()
        peer.socket.sendall(method(1, 50, 10, struct.pack(">H", 0) + short("deep") + b"\x0c" + table))
        peer.socket.sendall(publish(1, "good") + header(1, 0, struct.pack(">H", 1 << 13) + table) + method(1, 20, 20, b"\1"))
        assert peer.read() is not None
        world.goes_on() if depth > 100 else None
    for _ in range(30):
        it = world.socket()
        it.sendall(b"AMQP\x00\x00\x09\x01")
        arguments = table + short("PLAIN") + long(b"\0guest\0guest") + short("en_US")
        it.sendall(method(0, 10, 11, arguments))
        assert it.recv(1)
    world.drop()
    world.good.method(1, 50, 30, struct.pack(">H", 0) + short("good") + b"\0")
    world.good.expect(50, 31)
    world.stays_small()


def test_announced_bodies_take_no_room(world):
    """2 000 channels on 3 connections announce 16 MiB each and send one octet of it."""
    for _ in range(3):
        peer = world.raw()
        for number in range(2, 2001):
            peer.socket.sendall(method(number, 20, 10, b"\0"))
            peer.expect(20, 11)
        for number in range(2, 2001):
            peer.socket.sendall(publish(number, "good") + header(number, 16 * MIB) + frame(BODY, number, b"x"))
        peer.method(1, 20, 20, b"\1")
        peer.expect(20, 21)
        world.goes_on()
    world.stays_small()


@pytest.mark.parametrize("size", [16 * MIB + 1, 2**32, 2**63 - 1, 2**64 - 1])
def test_bodies_over_the_limit(world, size):
    peer = world.raw()
    try:
        peer.socket.sendall(publish(1, "good") + header(1, size))
        pour(peer.socket, frame(BODY, 1, bytes(100_000)), 300 * MIB)
    except ConnectionError:
        pass
    world.stays_small()


def test_frames_over_the_limit(world):
    """A frame that announces 4 GiB is refused by its first octets; before the login 8 KiB are."""
    refused = []
    for announced in (131_072 - 7, 2**24, 2**32 - 1):
        for _ in range(10):
            peer = world.raw()
            pour(peer.socket, struct.pack(">BHI", BODY, 1, announced) + bytes(2 * MIB), 2 * MIB, pause=0.2)
            early = world.socket()
            pour(early, b"AMQP\x00\x00\x09\x01" + struct.pack(">BHI", METHOD, 0, announced) + bytes(2 * MIB), 2 * MIB, pause=0.2)
            refused += [peer.socket, early]
        world.goes_on()
    world.stays_small()
    for it in refused:
        ends(it)


def test_half_open_connections(world):
    """Sockets that say nothing, a part of the header, a part of a frame, or stop before each step of the handshake."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    many = min(3000, hard // 2 - 100)
    login = method(0, 10, 11, long(b"") + short("PLAIN") + long(b"\0guest\0guest") + short("en_US"))
    tune = method(0, 10, 31, struct.pack(">HIH", 10, 131072, 0))
    steps = [b"", b"AMQ", b"AMQP\x00\x00\x09\x01", login[:20], login, tune, method(0, 10, 40, short("/") + b"\0\0")]
    said = [b"".join(steps[:1]), b"AMQ"] + [b"".join([steps[2], *steps[n:m]]) for n, m in ((0, 0), (3, 4), (4, 5), (4, 6), (4, 7))]
    for n in range(many):
        it = world.socket()
        it.sendall(said[n % len(said)])
        if n % 500 == 0:
            world.goes_on()
    # about 17 KiB each are allowed, and their buffers
    world.stays_small(SLACK + many * 20 * 1024)
    world.drop()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@configured(HORNPIPE_HANDSHAKE_TIMEOUT_MS="700")
def test_slow_handshakes_end(world):
    """Octets trickle in, each well before any idle limit: what counts is the time of the whole."""
    sockets = [world.socket() for _ in range(100)]
    opening = b"AMQP\x00\x00\x09\x01" + method(0, 10, 11, long(b"") + short("PLAIN") + long(b"\0guest\0guest") + short("en_US"))
    sent = dict.fromkeys(sockets, 0)

    def all_ended():
        for it in list(sent):
            it.setblocking(False)
            try:
                if sent[it] < len(opening) - 1:
                    it.send(opening[sent[it] : sent[it] + 1])
                    sent[it] += 1
                if not it.recv(65536):
                    del sent[it]
            except BlockingIOError:
                pass
            except (ConnectionError, BrokenPipeError):
                del sent[it]
        world.goes_on()
        return not sent

    until(all_ended, "the broker to end the slow ones")


def test_garbage(world):
    """Random octets instead of, and in the middle of, everything."""
    dice = random.Random(7)
    for n in range(300):
        junk = dice.randbytes(dice.choice([1, 8, 100, 5000, 70_000]))
        if n % 3 == 0:
            it = world.socket()
            it.sendall(junk)
        else:
            it = world.raw().socket
            good = publish(1, "good", True) + header(1, 3) + frame(BODY, 1, b"abc")
            start = bytearray(good + method(1, 60, 70, struct.pack(">H", 0) + short("good") + b"\0"))
            for _ in range(dice.randrange(1, 4)):
                start[dice.randrange(len(start))] = dice.randrange(256)
            try:
                it.sendall(bytes(start) + (junk if n % 3 == 1 else b""))
            except ConnectionError:
                pass
        if n % 50 == 49:
            world.drop()
            # what got through is not ours to keep
            world.good.method(1, 50, 30, struct.pack(">H", 0) + short("good") + b"\0")
            world.good.expect(50, 31)
            world.goes_on()
    world.stays_small()


@configured(HORNPIPE_RESIDENT_BYTES=str(8 * MIB), HORNPIPE_INLINE_LIVE_BYTES=str(4 * MIB), HORNPIPE_STORE_CACHE_BYTES=str(8 * MIB))
def test_consumers_that_never_read(world):
    """300 MiB of persistent messages for consumers whose sockets are full; another queue goes on."""
    maker = world.raw()
    maker.method(1, 50, 10, struct.pack(">H", 0) + short("stuck") + b"\2" + long(b""))
    maker.expect(50, 11)
    maker.method(1, 85, 10, b"\0")
    maker.expect(85, 11)
    for _ in range(5):
        peer = world.raw()
        peer.method(1, 60, 20, struct.pack(">H", 0) + short("stuck") + short("") + b"\2" + long(b""))
        peer.expect(60, 21)
    body = random.Random(1).randbytes(100_000)
    one = publish(1, "stuck") + header(1, len(body), struct.pack(">HB", 1 << 12, 2)) + frame(BODY, 1, body)
    confirmed = 0
    for n in range(3000):
        maker.socket.sendall(one)
        if n % 50 == 49:
            while confirmed <= n:
                confirmed = struct.unpack(">Q", maker.expect(60, 80)[:8])[0]
            world.goes_on()
    world.stays_small(SLACK + 40 * MIB)
    maker.method(1, 50, 40, struct.pack(">H", 0) + short("stuck") + b"\0")
    maker.expect(50, 41)


@pytest.mark.parametrize("what", ["returned", "taken", "asked"])
def test_answers_nobody_reads(world, what):
    """Returns of unroutable messages, deliveries by basic.get, replies: the broker stops reading before it piles them up."""
    body = bytes(100_000)
    keeper = world.raw()
    keeper.method(1, 50, 10, struct.pack(">H", 0) + short("big") + b"\0" + long(b""))
    keeper.expect(50, 11)
    keeper.publish("big", b"\0\0", body)
    requests = {
        "returned": publish(1, "nowhere", True) + header(1, len(body)) + frame(BODY, 1, body),
        # taken, and back in the queue: 100 kB for 60 octets
        "taken": (method(1, 60, 70, struct.pack(">H", 0) + short("big") + b"\0") + method(1, 60, 110, b"\1")) * 500,
        "asked": method(1, 50, 10, struct.pack(">H", 0) + short("big") + b"\1" + long(b"")) * 1000,
    }
    peer = world.raw()
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    taken = pour(peer.socket, requests[what], 400 * MIB)
    assert taken < 400 * MIB, "all requests were read though no answer was"
    world.stays_small()


def test_churn(world):
    """Connections and channels that come and go leave nothing behind."""
    for round in range(3):
        for n in range(400):
            peer = Raw(world.broker)
            peer.declare(f"churn{n}")
            if n % 2:
                peer.method(0, 10, 50, struct.pack(">H", 200) + short("") + bytes(4))
                peer.expect(10, 51)
            peer.close()
        world.goes_on()
    world.stays_small()


def test_slow_http_requests(world):
    """More unfinished requests than connections are served at a time: they end, and others are answered."""
    slow = []
    for n in range(300):
        it = socket.create_connection(("127.0.0.1", world.broker.http_port), timeout=60)
        world.peers.append(it)
        slow.append(it)
        it.sendall(b"GET /api/overview HTTP/1.1\r\nhost: x\r\nx: " if n % 2 else b"POST /api/definitions HTTP/1.1\r\ncontent-length: 999999999\r\n")
    asked = socket.create_connection(("127.0.0.1", world.broker.http_port), timeout=brokers.DEADLINE)
    asked.sendall(b"GET /api/health/checks/local-alarms HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n\r\n")
    assert ends(asked).startswith(b"HTTP/1.1 200")
    asked.close()
    world.stays_small()

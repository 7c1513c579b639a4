"""What client libraries decode and encode away: header octets, heartbeats, odd openings."""

import socket
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest
from raw import HEARTBEAT, Raw, long, short

FLAGS = {
    "content_type": 15,
    "content_encoding": 14,
    "headers": 13,
    "delivery_mode": 12,
    "priority": 11,
    "correlation_id": 10,
    "reply_to": 9,
    "expiration": 8,
    "message_id": 7,
    "timestamp": 6,
    "type": 5,
    "user_id": 4,
    "app_id": 3,
    "cluster_id": 2,
}


def properties(**values):
    """Flags and values in the order the protocol gives them."""
    flags, data = 0, b""
    for name, bit in FLAGS.items():
        if name in values:
            flags |= 1 << bit
            data += values[name]
    return struct.pack(">H", flags) + data


def table(entries):
    return long(b"".join(short(key) + value for key, value in entries))


# One entry per tag of RabbitMQ's grammar, sorted by key as RabbitMQ 4 sends it on.
# `L` is left out: RabbitMQ turns it into `l`.
EVERY_TAG = [
    ("a-bool", b"t\x01"),
    ("b-byte", b"b\x80"),
    ("c-unsigned-byte", b"B\xff"),
    ("d-short", b"s" + struct.pack(">h", -2)),
    ("e-unsigned-short", b"u" + struct.pack(">H", 65535)),
    ("f-int", b"I" + struct.pack(">i", -(2**31))),
    ("g-unsigned-int", b"i" + struct.pack(">I", 2**32 - 1)),
    ("h-long", b"l" + struct.pack(">q", -(2**63))),
    ("i-float", b"f" + struct.pack(">f", 1.5)),
    ("j-double", b"d" + struct.pack(">d", 0.1)),
    ("k-decimal", b"D\x02" + struct.pack(">I", 31415)),
    ("l-longstr", b"S" + long("grüße".encode())),
    ("m-longstr-not-utf8", b"S" + long(b"\xff\x00\xfe")),
    ("n-bytes", b"x" + long(bytes(range(256)))),
    ("o-timestamp", b"T" + struct.pack(">Q", 2**40)),
    ("p-table", b"F" + table([("inner", b"V"), ("list", b"A" + long(b"t\x00b\x05"))])),
    ("q-array", b"A" + long(b"S" + long(b"x") + b"I\x00\x00\x00\x01" + b"F" + table([]))),
    ("r-void", b"V"),
    ("s-empty-longstr", b"S" + long(b"")),
]


@pytest.fixture
def raw(broker):
    it = Raw(broker)
    yield it
    it.close()


def test_every_field_type_survives_octet_by_octet(raw, name):
    queue = name()
    raw.declare(queue)
    sent = properties(headers=table(EVERY_TAG))
    raw.publish(queue, sent, b"body")
    got, body = raw.get(queue)
    assert body == b"body"
    assert got == sent


@pytest.mark.parametrize("key, value", EVERY_TAG, ids=[key for key, _ in EVERY_TAG])
def test_each_field_type(raw, name, key, value):
    queue = name()
    raw.declare(queue)
    sent = properties(headers=table([(key, value)]))
    raw.publish(queue, sent)
    assert raw.get(queue) == (sent, b"")


def test_all_fourteen_properties(raw, name):
    queue = name()
    raw.declare(queue)
    sent = properties(
        content_type=short("text/plain"),
        content_encoding=short("utf-8"),
        headers=table([("k", b"t\x01")]),
        delivery_mode=b"\x02",
        priority=b"\x05",
        correlation_id=short("c" * 255),
        reply_to=short("r"),
        expiration=short("3600000"),
        message_id=short("m"),
        timestamp=struct.pack(">Q", 1700000000),
        type=short("t"),
        user_id=short("guest"),
        app_id=short("a"),
        cluster_id=short("cl"),
    )
    raw.publish(queue, sent, b"x")
    assert raw.get(queue) == (sent, b"x")


@pytest.mark.parametrize("field", FLAGS)
def test_each_property_alone(raw, name, field):
    value = {
        "headers": table([("k", b"V")]),
        "delivery_mode": b"\x01",
        "priority": b"\x00",
        "expiration": short("100000"),
        "timestamp": struct.pack(">Q", 0),
        "user_id": short("guest"),
    }.get(field, short(""))
    queue = name()
    raw.declare(queue)
    sent = properties(**{field: value})
    raw.publish(queue, sent, b"x")
    assert raw.get(queue) == (sent, b"x")


def test_heartbeats_are_sent_when_asked_for(broker):
    raw = Raw(broker, heartbeat=1)
    kind, channel, payload = raw.read()
    assert (kind, channel, payload) == (HEARTBEAT, 0, b"")
    # Answered, the connection lives on past the interval at which a silent peer is dropped.
    for _ in range(8):
        raw.frame(HEARTBEAT, 0, b"")
        assert raw.read()[0] == HEARTBEAT
    raw.close()


def test_a_silent_peer_is_dropped(broker):
    raw = Raw(broker, heartbeat=1)
    while (frame := raw.read()) is not None:
        assert frame[0] == HEARTBEAT, frame
    raw.close()


@pytest.mark.parametrize("opening", [b"GET / HTTP/1.1\r\n\r\n", b"AMQP\x00\x00\x08\x00", b"\x16\x03\x01\x00\xa5\x01\x00\x00"])
def test_another_protocol_gets_a_header_and_the_door(broker, opening):
    with socket.create_connection((broker.host, broker.port), timeout=60) as peer:
        peer.sendall(opening)
        answer = b""
        try:
            while part := peer.recv(64):
                answer += part
        except ConnectionResetError:
            pass  # closed with our octets unread
    assert answer[:4] == b"AMQP" and len(answer) == 8, answer


def test_a_connection_without_an_octet_disturbs_nobody(broker, connection):
    socket.create_connection((broker.host, broker.port)).close()
    assert connection.channel().is_open


class Conversation:
    """A whole connection's frames, each with what answers it: (class, method), or what content is expected."""

    def __init__(self, broker, queue):
        login = f"\0{broker.user}\0{broker.password}".encode()
        q = struct.pack(">H", 0) + short(queue)
        content = struct.pack(">HHQH", 60, 0, 2, 0)
        self.steps = [
            (b"AMQP\x00\x00\x09\x01", [(10, 10)]),
            (self.method(0, 10, 11, long(b"") + short("PLAIN") + long(login) + short("en_US")), [(10, 30)]),
            (self.method(0, 10, 31, struct.pack(">HIH", 2047, 131072, 0)), []),
            (self.method(0, 10, 40, short(broker.vhost) + short("") + b"\0"), [(10, 41)]),
            (self.method(1, 20, 10, short("")), [(20, 11)]),
            (self.method(1, 50, 10, q + bytes([0b0000_0100]) + long(b"")), [(50, 11)]),
            (self.method(1, 60, 40, struct.pack(">H", 0) + short("") + short(queue) + b"\0"), []),
            (self.frame(2, 1, content), []),
            (self.frame(3, 1, b"hi"), []),
            (self.method(1, 60, 70, q + b"\1"), [(60, 71), "header", b"hi"]),
            (self.method(1, 20, 40, struct.pack(">H", 200) + short("") + struct.pack(">HH", 0, 0)), [(20, 41)]),
            (self.method(0, 10, 50, struct.pack(">H", 200) + short("") + struct.pack(">HH", 0, 0)), [(10, 51)]),
        ]

    @staticmethod
    def frame(kind, channel, payload):
        return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"

    @classmethod
    def method(cls, channel, class_id, method_id, arguments):
        return cls.frame(1, channel, struct.pack(">HH", class_id, method_id) + arguments)

    def hold(self, broker, cuts):
        """Sends the frames in one piece up to each cut, and the next piece when all before is answered."""
        with socket.create_connection((broker.host, broker.port), timeout=60) as peer, peer.makefile("rb") as answers:
            for start, end in zip([0, *cuts], [*cuts, len(self.steps)]):
                piece = self.steps[start:end]
                peer.sendall(b"".join(octets for octets, _ in piece))
                for expected in (one for _, answer in piece for one in answer):
                    kind, _, size = struct.unpack(">BHI", answers.read(7))
                    payload = answers.read(size + 1)[:-1]
                    if expected == "header":
                        assert kind == 2, (kind, payload)
                    elif kind == 3:
                        assert payload == expected
                    else:
                        assert struct.unpack(">HH", payload[:4]) == expected, payload


def test_a_connection_gets_its_answers_however_it_is_cut_into_packets(broker):
    """Where it goes from the thread that takes connections in to those that serve them, nothing of it may be left behind."""
    steps = len(Conversation(broker, "").steps)
    cuts = [[], list(range(1, steps)), *([k] for k in range(1, steps)), *([k, k + 1] for k in range(1, steps - 1))]

    def one(n, cut):
        # connection.close alone: RabbitMQ may leave out what it would still have answered before it
        Conversation(broker, f"cut-{n}").hold(broker, sorted({*cut, steps - 1}))

    with ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(one, n, cut) for n, cut in enumerate(cuts * 4)]:
            done.result()

"""What client libraries decode and encode away: header octets, heartbeats, odd openings."""

import socket
import struct

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

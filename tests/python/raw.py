"""A peer that writes and reads octets itself, for what client libraries hide: exact header bytes and heartbeats."""

import socket
import struct

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8


def short(text):
    data = text.encode()
    return bytes([len(data)]) + data


def long(data):
    return struct.pack(">I", len(data)) + data


def capabilities(*names):
    """Client properties that declare these capabilities."""
    inner = b"".join(short(name) + b"t\x01" for name in names)
    return long(short("capabilities") + b"F" + long(inner))


class Raw:
    def __init__(self, broker, heartbeat=0, timeout=60, client_properties=long(b"")):
        self.socket = socket.create_connection((broker.host, broker.port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")
        self.socket.sendall(b"AMQP\x00\x00\x09\x01")
        self.expect(10, 10)
        login = f"\0{broker.user}\0{broker.password}".encode()
        self.method(0, 10, 11, client_properties + short("PLAIN") + long(login) + short("en_US"))
        self.expect(10, 30)
        self.method(0, 10, 31, struct.pack(">HIH", 2047, 131072, heartbeat))
        self.method(0, 10, 40, short(broker.vhost) + short("") + b"\0")
        self.expect(10, 41)
        self.method(1, 20, 10, short(""))
        self.expect(20, 11)

    def frame(self, kind, channel, payload):
        self.socket.sendall(struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce")

    def method(self, channel, class_id, method_id, arguments=b""):
        self.frame(METHOD, channel, struct.pack(">HH", class_id, method_id) + arguments)

    def read(self):
        """The next frame as (type, channel, payload); None at the end of the stream."""
        try:
            head = self.file.read(7)
        except ConnectionResetError:
            return None
        if len(head) < 7:
            return None
        kind, channel, size = struct.unpack(">BHI", head)
        payload = self.file.read(size)
        assert self.file.read(1) == b"\xce"
        return kind, channel, payload

    def expect(self, class_id, method_id):
        """The arguments of the next method, which must be this one; heartbeats between are skipped."""
        while True:
            frame = self.read()
            assert frame is not None, f"end of stream where {class_id}.{method_id} was due"
            kind, _, payload = frame
            if kind == HEARTBEAT:
                continue
            assert kind == METHOD, frame
            got = struct.unpack(">HH", payload[:4])
            assert got == (class_id, method_id), (got, payload)
            return payload[4:]

    def declare(self, queue):
        """A classic queue that goes with the connection."""
        self.method(1, 50, 10, struct.pack(">H", 0) + short(queue) + bytes([0b0000_0100]) + long(b""))
        self.expect(50, 11)

    def publish(self, key, properties, body=b""):
        """`properties`: flags and values as they stand in the content header."""
        self.method(1, 60, 40, struct.pack(">H", 0) + short("") + short(key) + b"\0")
        self.frame(HEADER, 1, struct.pack(">HHQ", 60, 0, len(body)) + properties)
        if body:
            self.frame(BODY, 1, body)

    def get(self, queue):
        """Takes one message: (properties as octets, body)."""
        self.method(1, 60, 70, struct.pack(">H", 0) + short(queue) + b"\1")
        self.expect(60, 71)
        kind, _, payload = self.read()
        assert kind == HEADER
        size = struct.unpack(">Q", payload[4:12])[0]
        body = b""
        while len(body) < size:
            kind, _, part = self.read()
            assert kind == BODY
            body += part
        return payload[12:], body

    def close(self):
        # both, for the socket stays open as long as its file is
        self.file.close()
        self.socket.close()

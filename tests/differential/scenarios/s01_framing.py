"""Frames that break the rules: what is said, on which channel, and when the socket ends."""

import struct

import wire
from cases import each
from wire import BODY, HEADER, HEARTBEAT, METHOD


def frame_end_wrong(t):
    "A frame that does not end in 0xCE is fatal"
    c = t.connect()
    c.frame(METHOD, 1, wire.method("channel.open"), end=0xCD, note="channel.open with end octet 0xCD")
    c.eof()


def frame_type_unknown(t):
    "A frame of a type nobody knows"
    c = t.connect()
    c.frame(4, 0, b"abc")
    c.eof()


def frame_type_unknown_on_channel(t):
    "A frame of an unknown type on an open channel"
    c = t.connect()
    c.channel()
    c.frame(5, 1, b"abc")
    c.eof()


def frame_too_large(t):
    "A payload beyond the negotiated size is refused from its first octets"
    c = t.connect(frame_max=8192)
    c.channel()
    c.octets(struct.pack(">BHI", BODY, 1, 8193), "the start of a body frame of 8193 octets")
    c.eof()


def frame_too_large_before_tune(t):
    "Before tune-ok the limit is the initial one"
    c = t.raw()
    c.start()
    c.octets(struct.pack(">BHI", METHOD, 0, 200000), "the start of a method frame of 200000 octets")
    c.eof()


def frame_slack(t):
    "A body frame whose payload is as long as frame_max itself is let through"
    c = t.connect(frame_max=8192)
    ch = c.channel()
    ch.queue("@q")
    ch.send("basic.publish", routing_key="@q")
    c.frame(HEADER, 1, wire.header(8192, {}))
    c.frame(BODY, 1, b"x" * 8192)
    ch.settle("@q", 1)


def heartbeat_on_channel(t):
    "Heartbeats belong to channel 0"
    c = t.connect()
    c.channel()
    c.frame(HEARTBEAT, 1, b"")
    c.eof()


def heartbeat_with_payload(t):
    "A heartbeat frame that carries octets"
    c = t.connect()
    ch = c.channel()
    c.frame(HEARTBEAT, 0, b"abc")
    ch.sync()


def heartbeat_unasked(t):
    "A heartbeat is welcome even when none was negotiated"
    c = t.connect(heartbeat=0)
    ch = c.channel()
    c.frame(HEARTBEAT, 0, b"")
    ch.call("channel.flow", active=True)


def header_without_method(t):
    "A content header where a method is due"
    c = t.connect()
    c.channel()
    c.frame(HEADER, 1, wire.header(0, {}))
    c.eof()


def body_without_method(t):
    "A body frame where a method is due"
    c = t.connect()
    c.channel()
    c.frame(BODY, 1, b"abc")
    c.eof()


def header_class_wrong(t):
    "A content header of another class"
    c = t.connect()
    ch = c.channel()
    ch.send("basic.publish", routing_key="@q")
    c.frame(HEADER, 1, wire.header(0, {}, class_id=50))
    c.eof()


def header_weight_set(t):
    "A content header whose weight is not zero"
    c = t.connect()
    ch = c.channel()
    ch.queue("@q")
    ch.send("basic.publish", routing_key="@q")
    c.frame(HEADER, 1, wire.header(0, {}, weight=1))
    c.next(0)
    c.eof()


def method_instead_of_header(t):
    "A method where a content header is due"
    c = t.connect()
    ch = c.channel()
    ch.send("basic.publish", routing_key="@q")
    ch.send("basic.qos", prefetch_count=1)
    c.eof()


def body_instead_of_header(t):
    "A body where a content header is due"
    c = t.connect()
    ch = c.channel()
    ch.send("basic.publish", routing_key="@q")
    c.frame(BODY, 1, b"abc")
    c.eof()


def method_instead_of_body(t):
    "A method where a body is due"
    c = t.connect()
    ch = c.channel()
    ch.send("basic.publish", routing_key="@q")
    c.frame(HEADER, 1, wire.header(5, {}))
    ch.send("basic.qos", prefetch_count=1)
    c.eof()


def header_instead_of_body(t):
    "A second content header where a body is due"
    c = t.connect()
    ch = c.channel()
    ch.send("basic.publish", routing_key="@q")
    c.frame(HEADER, 1, wire.header(5, {}))
    c.frame(HEADER, 1, wire.header(5, {}))
    c.eof()


def body_too_long(t):
    "More body than the header announced"
    c = t.connect()
    ch = c.channel()
    ch.queue("@q")
    ch.send("basic.publish", routing_key="@q")
    c.frame(HEADER, 1, wire.header(3, {}))
    c.frame(BODY, 1, b"abcd")
    c.eof()


def body_announced_huge(t):
    "An announced body over 512 MiB is refused before it comes"
    c = t.connect()
    ch = c.channel()
    ch.send("basic.publish", routing_key="@q")
    c.frame(HEADER, 1, wire.header(512 * 1024 * 1024 + 1, {}))
    c.next(0)


def body_in_pieces(t):
    "A body may come in any number of frames, empty ones included"
    c = t.connect()
    ch = c.channel()
    ch.queue("@q")
    ch.send("basic.publish", routing_key="@q")
    c.frame(HEADER, 1, wire.header(5, {}))
    for part in (b"h", b"", b"ell", b"o"):
        c.frame(BODY, 1, part)
    ch.get("@q")


def body_empty(t):
    "An empty body is a header frame alone, in both directions"
    ch = t.channel()
    ch.queue("@q")
    ch.pub("", "@q", b"")
    ch.pub("", "@q", b"next")
    ch.get("@q")
    ch.get("@q")


@each(exact=8192 - 8, one_more=8192 - 7, three=20000)
def body_split(t, size):
    "A long body is cut at frame_max less eight octets on its way out"
    c = t.connect(frame_max=8192)
    ch = c.channel()
    ch.queue("@q")
    ch.pub("", "@q", b"0123456789" * (size // 10) + b"x" * (size % 10))
    ch.get("@q")


def content_on_two_channels(t):
    "Contents of two channels may be interleaved frame by frame"
    c = t.connect()
    one, two = c.channel(), c.channel()
    one.queue("@q")
    one.send("basic.publish", routing_key="@q")
    two.send("basic.publish", routing_key="@q")
    c.frame(HEADER, 1, wire.header(3, {}))
    c.frame(HEADER, 2, wire.header(3, {}))
    c.frame(BODY, 1, b"one")
    c.frame(BODY, 2, b"two")
    two.sync()
    one.settle("@q", 2)


def method_class_unknown(t):
    "A method of a class that does not exist"
    c = t.connect()
    c.channel()
    c.frame(METHOD, 1, struct.pack(">HH", 77, 10))
    c.eof()


def method_id_unknown(t):
    "A method that its class does not have"
    c = t.connect()
    c.channel()
    c.frame(METHOD, 1, struct.pack(">HH", 50, 99))
    c.eof()


def method_truncated(t):
    "A method whose arguments end too early"
    c = t.connect()
    c.channel()
    c.frame(METHOD, 1, wire.method("queue.declare", queue="q")[:-3])
    c.eof()


def method_empty(t):
    "A method frame without a single octet"
    c = t.connect()
    c.channel()
    c.frame(METHOD, 1, b"")
    c.eof()


def method_two_octets(t):
    "A method frame that ends inside the method id"
    c = t.connect()
    c.channel()
    c.frame(METHOD, 1, b"\0\x32\0")
    c.eof()


def table_tag_unknown(t):
    "A field table with a tag nobody defined"
    c = t.connect()
    ch = c.channel()
    ch.send("queue.declare", queue="@q", arguments={"x": wire.V("Z", b"")})
    c.eof()


def shortstr_not_utf8(t):
    "A queue name that is not UTF-8"
    c = t.connect()
    c.channel()
    c.frame(METHOD, 1, struct.pack(">HHH", 50, 10, 0) + wire.short(b"a\xff\xfe") + b"\0" + wire.long(b""))
    c.next(0)


def frames_in_single_octets(t):
    "The input may arrive one octet at a time"
    c = t.connect()
    ch = c.channel()
    ch.queue("@q")
    data = (wire.frame(METHOD, 1, wire.method("basic.publish", routing_key=t.full("@q")))
            + wire.frame(HEADER, 1, wire.header(2, {"type": "x"})) + wire.frame(BODY, 1, b"hi"))
    for at in range(len(data)):
        c.octets(data[at:at + 1])
    ch.get("@q")

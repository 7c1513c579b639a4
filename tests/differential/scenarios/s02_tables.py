"""Field tables and properties come back with every tag."""

import wire
from cases import each
from wire import V, Table

_EVERY = {
    "bool": {"yes": V("t", True), "no": V("t", False)},
    "bytes": {"i8": V("b", -5), "u8": V("B", 250)},
    "shorts": {"i16": V("s", -3000), "u16": V("u", 60000)},
    "ints": {"i32": V("I", -70000), "u32": V("i", 4000000000)},
    "longs": {"l": V("l", -5000000000)},
    "longs_unsigned": {"L": V("L", 5000000000)},
    "floats": {"f": V("f", 1.5), "d": V("d", -2.25)},
    "decimal": {"D": V("D", (2, 314))},
    "strings": {"S": V("S", "text"), "empty": V("S", ""), "odd": V("S", b"\xff\0\xfe")},
    "binary": {"x": V("x", b"\0\1\2")},
    "timestamp": {"T": V("T", 1000000000), "zero": V("T", 0)},
    "void": {"V": V("V")},
    "nested_table": {"F": {"b": {"c": {"d": V("s", 4)}}, "a": V("t", True)}},
    "empty_table": {"F": {}},
    "array": {"A": [V("I", 1), V("S", "two"), V("F", {"three": V("d", 3.0)}), V("A", []), V("V")]},
    "unsorted": {"z": V("I", 1), "a": V("I", 2), "m": V("I", 3)},
}


@each(**_EVERY)
def headers_kept(t, headers):
    "Headers of a message keep their tags"
    ch = t.channel()
    ch.queue("@q")
    ch.pub("", "@q", b"m", headers=headers)
    ch.get("@q")


def headers_duplicate_key(t):
    "A key that occurs twice in a table"
    ch = t.channel()
    ch.queue("@q")
    ch.pub("", "@q", b"m", headers=Table([("k", V("I", 1)), ("k", V("S", "two"))]))
    ch.get("@q")


def headers_empty(t):
    "An empty headers table is present, not absent"
    ch = t.channel()
    ch.queue("@q")
    ch.pub("", "@q", b"m", headers={})
    ch.get("@q")


def properties_all(t):
    "Every property comes back"
    ch = t.channel()
    ch.queue("@q")
    ch.pub("", "@q", b"m", content_type="text/plain", content_encoding="utf-8", headers={"h": V("S", "v")},
           delivery_mode=2, priority=7, correlation_id="cor", reply_to="rep", expiration="600000", message_id="mid",
           timestamp=1000000000, type="typ", app_id="app", cluster_id="clu")
    ch.get("@q")


def properties_none(t):
    "No property comes back as no property"
    ch = t.channel()
    ch.queue("@q")
    ch.pub("", "@q", b"m")
    ch.get("@q")


@each(zero=0, one=1, two=2, three=3, top=255)
def properties_delivery_mode(t, mode):
    "delivery-mode comes back as it was sent"
    ch = t.channel()
    ch.queue("@q")
    ch.pub("", "@q", b"m", delivery_mode=mode)
    ch.get("@q")


@each(int_as_long=(V("I", 60000), V("l", 60000)), int_as_short=(V("I", 6000), V("s", 6000)),
      int_as_byte=(V("I", 100), V("B", 100)), int_as_unsigned=(V("I", 60000), V("i", 60000)),
      long_as_unsigned=(V("l", 60000), V("L", 60000)))
def equivalence_across_widths(t, pair):
    "An integer argument may be redeclared in another width"
    first, second = pair
    ch = t.channel()
    ch.queue("@q", {"x-message-ttl": first})
    ch.queue("@q", {"x-message-ttl": second})


@each(other_value=V("I", 61000), string=V("S", "60000"), float=V("d", 60000.5))
def equivalence_refused(t, second):
    "An argument redeclared with another value or kind"
    ch = t.channel()
    ch.queue("@q", {"x-message-ttl": V("I", 60000)})
    ch.queue("@q", {"x-message-ttl": second})


def table_duplicate_argument(t):
    "Of two arguments with one key the first counts"
    ch = t.channel()
    ch.queue("@q", Table([("x-max-length", V("I", 1)), ("x-max-length", V("I", 3))]))
    for body in (b"a", b"b", b"c", b"d"):
        ch.pub("", "@q", body)
    ch.passive("@q")


def table_length_lies(t):
    "A table whose length reaches past the frame"
    c = t.connect()
    c.channel()
    payload = wire.method("queue.declare", queue="q")
    c.frame(wire.METHOD, 1, payload[:-4] + b"\0\0\0\x20" + b"\x01k", note="queue.declare with a table cut short")
    c.eof()

"""AMQP 0-9-1 on the wire: frames, methods, properties and field tables, with nothing hidden.

Every field-table value keeps its tag and every table its order and its duplicates, because that is what the
comparison is about. Only the standard library is used.
"""

import struct
import time
import zlib

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
FRAME_END = 0xCE

# Argument types: o octet, s u16, l u32, L u64, S long string, c short string, F table, b bit, T timestamp.
# A name that begins with an underscore is a reserved field: sent as zero, not shown.
_METHODS = """
10.10 connection.start version_major:o version_minor:o server_properties:F mechanisms:S locales:S
10.11 connection.start-ok client_properties:F mechanism:c response:S locale:c
10.20 connection.secure challenge:S
10.21 connection.secure-ok response:S
10.30 connection.tune channel_max:s frame_max:l heartbeat:s
10.31 connection.tune-ok channel_max:s frame_max:l heartbeat:s
10.40 connection.open vhost:c _capabilities:c _insist:b
10.41 connection.open-ok known_hosts:c
10.50 connection.close code:s text:c class_id:s method_id:s
10.51 connection.close-ok
10.60 connection.blocked reason:c
10.61 connection.unblocked
10.70 connection.update-secret secret:S reason:c
10.71 connection.update-secret-ok
20.10 channel.open _out_of_band:c
20.11 channel.open-ok channel_id:S
20.20 channel.flow active:b
20.21 channel.flow-ok active:b
20.40 channel.close code:s text:c class_id:s method_id:s
20.41 channel.close-ok
30.10 access.request realm:c exclusive:b passive:b active:b write:b read:b
30.11 access.request-ok ticket:s
40.10 exchange.declare _ticket:s exchange:c type:c passive:b durable:b auto_delete:b internal:b nowait:b arguments:F
40.11 exchange.declare-ok
40.20 exchange.delete _ticket:s exchange:c if_unused:b nowait:b
40.21 exchange.delete-ok
40.30 exchange.bind _ticket:s destination:c source:c routing_key:c nowait:b arguments:F
40.31 exchange.bind-ok
40.40 exchange.unbind _ticket:s destination:c source:c routing_key:c nowait:b arguments:F
40.51 exchange.unbind-ok
50.10 queue.declare _ticket:s queue:c passive:b durable:b exclusive:b auto_delete:b nowait:b arguments:F
50.11 queue.declare-ok queue:c message_count:l consumer_count:l
50.20 queue.bind _ticket:s queue:c exchange:c routing_key:c nowait:b arguments:F
50.21 queue.bind-ok
50.30 queue.purge _ticket:s queue:c nowait:b
50.31 queue.purge-ok message_count:l
50.40 queue.delete _ticket:s queue:c if_unused:b if_empty:b nowait:b
50.41 queue.delete-ok message_count:l
50.50 queue.unbind _ticket:s queue:c exchange:c routing_key:c arguments:F
50.51 queue.unbind-ok
60.10 basic.qos prefetch_size:l prefetch_count:s global_:b
60.11 basic.qos-ok
60.20 basic.consume _ticket:s queue:c consumer_tag:c no_local:b no_ack:b exclusive:b nowait:b arguments:F
60.21 basic.consume-ok consumer_tag:c
60.30 basic.cancel consumer_tag:c nowait:b
60.31 basic.cancel-ok consumer_tag:c
60.40 basic.publish _ticket:s exchange:c routing_key:c mandatory:b immediate:b
60.50 basic.return code:s text:c exchange:c routing_key:c
60.60 basic.deliver consumer_tag:c delivery_tag:L redelivered:b exchange:c routing_key:c
60.70 basic.get _ticket:s queue:c no_ack:b
60.71 basic.get-ok delivery_tag:L redelivered:b exchange:c routing_key:c message_count:l
60.72 basic.get-empty cluster_id:c
60.80 basic.ack delivery_tag:L multiple:b
60.90 basic.reject delivery_tag:L requeue:b
60.100 basic.recover-async requeue:b
60.110 basic.recover requeue:b
60.111 basic.recover-ok
60.120 basic.nack delivery_tag:L multiple:b requeue:b
85.10 confirm.select nowait:b
85.11 confirm.select-ok
90.10 tx.select
90.11 tx.select-ok
90.20 tx.commit
90.21 tx.commit-ok
90.30 tx.rollback
90.31 tx.rollback-ok
"""

BY_NAME, BY_ID = {}, {}
for _line in _METHODS.split("\n"):
    if _line:
        _id, _name, *_args = _line.split(" ")
        _ids = tuple(int(part) for part in _id.split("."))
        _fields = [tuple(arg.split(":")) for arg in _args]
        BY_NAME[_name] = (_ids, _fields)
        BY_ID[_ids] = (_name, _fields)

# Content header properties from bit 15 down.
PROPERTIES = [
    ("content_type", "c"), ("content_encoding", "c"), ("headers", "F"), ("delivery_mode", "o"),
    ("priority", "o"), ("correlation_id", "c"), ("reply_to", "c"), ("expiration", "c"),
    ("message_id", "c"), ("timestamp", "T"), ("type", "c"), ("user_id", "c"), ("app_id", "c"),
    ("cluster_id", "c"),
]
WITH_CONTENT = {"basic.return", "basic.deliver", "basic.get-ok"}


class V:
    """A field-table value with an explicit tag: V("l", 5)."""

    def __init__(self, tag, value=None):
        self.tag, self.value = tag, value

    def __eq__(self, other):
        return isinstance(other, V) and (self.tag, self.value) == (other.tag, other.value)


class Table(list):
    """A table as (key, value) pairs in order, for duplicates and for keys that are not text."""


class Malformed(Exception):
    """The peer sent octets that do not decode."""


def raw(data):
    return data.encode() if isinstance(data, str) else bytes(data)


def short(data):
    data = raw(data)
    return bytes([len(data)]) + data


def long(data):
    data = raw(data)
    return struct.pack(">I", len(data)) + data


def table(pairs):
    items = pairs.items() if isinstance(pairs, dict) else pairs
    return long(b"".join(short(key) + value(item) for key, item in items))


_FIXED = {"b": ">b", "B": ">B", "s": ">h", "u": ">H", "I": ">i", "i": ">I", "l": ">q", "L": ">q",
          "f": ">f", "d": ">d", "T": ">Q"}


def tagged(item):
    """The natural tag for a plain Python value."""
    if isinstance(item, V):
        return item
    if item is None:
        return V("V")
    if isinstance(item, bool):
        return V("t", item)
    if isinstance(item, int):
        return V("I" if -2**31 <= item < 2**31 else "l", item)
    if isinstance(item, float):
        return V("d", item)
    if isinstance(item, (str, bytes)):
        return V("S", item)
    if isinstance(item, (dict, Table)):
        return V("F", item)
    if isinstance(item, (list, tuple)):
        return V("A", item)
    raise TypeError(item)


def value(item):
    item = tagged(item)
    tag, data = item.tag, item.value
    out = tag.encode("latin-1")
    if tag in _FIXED:
        return out + struct.pack(_FIXED[tag], data)
    if tag == "t":
        return out + bytes([data])
    if tag == "D":
        return out + struct.pack(">BI", *data)
    if tag in "Sx":
        return out + long(data)
    if tag == "F":
        return out + table(data)
    if tag == "A":
        return out + long(b"".join(value(part) for part in data))
    if tag == "V":
        return out
    return out + raw(data)  # an unknown tag with octets of the scenario's choice


def fields(kinds, values):
    """Encodes arguments; consecutive bits share an octet."""
    out, bits, count = b"", 0, 0
    for name, kind in kinds:
        data = values.pop(name, None)
        if kind == "b":
            if count == 8:
                out, bits, count = out + bytes([bits]), 0, 0
            bits |= bool(data) << count
            count += 1
            continue
        if count:
            out, bits, count = out + bytes([bits]), 0, 0
        if kind == "c":
            out += short(data or "")
        elif kind == "S":
            out += long(data or "")
        elif kind == "F":
            out += table(data or {})
        else:
            out += struct.pack({"o": ">B", "s": ">H", "l": ">I", "L": ">Q", "T": ">Q"}[kind], data or 0)
    if count:
        out += bytes([bits])
    if values:
        raise TypeError(f"no such field: {sorted(values)}")
    return out


def method(name, **values):
    ids, kinds = BY_NAME[name]
    return struct.pack(">HH", *ids) + fields(kinds, values)


def header(size, properties, class_id=60, weight=0):
    flags, out = 0, b""
    for bit, (name, kind) in enumerate(PROPERTIES):
        if name in properties:
            flags |= 1 << (15 - bit)
            out += fields([(name, kind)], {name: properties[name]})
    unknown = set(properties) - {name for name, _ in PROPERTIES}
    if unknown:
        raise TypeError(f"no such property: {sorted(unknown)}")
    return struct.pack(">HHQH", class_id, weight, size, flags) + out


def frame(kind, channel, payload, end=FRAME_END):
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + bytes([end])


class Reader:
    """Takes values off the front of some octets."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        if self.at + count > len(self.data):
            raise Malformed(f"{count} octets wanted, {len(self.data) - self.at} left")
        self.at += count
        return self.data[self.at - count:self.at]

    def number(self, layout):
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def short(self):
        return self.take(self.number(">B"))

    def long(self):
        return self.take(self.number(">I"))

    def table(self):
        inner, pairs = Reader(self.long()), Table()
        while inner.at < len(inner.data):
            key = inner.short()
            pairs.append((key.decode("utf-8", "backslashreplace"), inner.value()))
        return pairs

    def value(self):
        tag = self.take(1).decode("latin-1")
        if tag in _FIXED:
            return V(tag, self.number(_FIXED[tag]))
        if tag == "t":
            return V(tag, self.number(">B") != 0)
        if tag == "D":
            return V(tag, struct.unpack(">BI", self.take(5)))
        if tag in "Sx":
            return V(tag, self.long())
        if tag == "F":
            return V(tag, self.table())
        if tag == "A":
            inner, items = Reader(self.long()), []
            while inner.at < len(inner.data):
                items.append(inner.value())
            return V(tag, items)
        if tag == "V":
            return V(tag)
        raise Malformed(f"unknown tag {tag!r}")

    def fields(self, kinds):
        out, bits, used = {}, 0, 8
        for name, kind in kinds:
            if kind == "b":
                if used == 8:
                    bits, used = self.number(">B"), 0
                out[name] = bool(bits >> used & 1)
                used += 1
                continue
            used = 8
            if kind == "c":
                out[name] = self.short()
            elif kind == "S":
                out[name] = self.long()
            elif kind == "F":
                out[name] = self.table()
            else:
                out[name] = self.number({"o": ">B", "s": ">H", "l": ">I", "L": ">Q", "T": ">Q"}[kind])
        return out


def parse_method(payload):
    reader = Reader(payload)
    ids = struct.unpack(">HH", reader.take(4))
    if ids not in BY_ID:
        raise Malformed(f"unknown method {ids}")
    name, kinds = BY_ID[ids]
    values = reader.fields(kinds)
    if reader.at != len(payload):
        raise Malformed(f"{len(payload) - reader.at} octets after {name}")
    return name, values


def parse_header(payload):
    """Returns (class, weight, body size, list of (name, kind, value))."""
    reader = Reader(payload)
    class_id, weight, size, flags = struct.unpack(">HHQH", reader.take(14))
    properties = []
    for bit, (name, kind) in enumerate(PROPERTIES):
        if flags & 1 << (15 - bit):
            properties.append((name, kind, reader.fields([(name, kind)])[name]))
    if flags & 3:
        raise Malformed(f"property flags {flags:#06x}")
    if reader.at != len(payload):
        raise Malformed(f"{len(payload) - reader.at} octets after the properties")
    return class_id, weight, size, properties


# How things look in a transcript.

def text(data):
    """Octets as quoted text, or as hexadecimal when they are not text."""
    data = raw(data)
    try:
        decoded = data.decode("utf-8")
        if all(char.isprintable() or char == "\n" for char in decoded):
            return '"' + decoded.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    except UnicodeDecodeError:
        pass
    return "0x" + data.hex()


def show(item):
    item = tagged(item)
    tag, data = item.tag, item.value
    if tag == "V":
        return "V"
    if tag in "Sx":
        return f"{tag} {text(data)}"
    if tag == "F":
        return "F " + show_table(data)
    if tag == "A":
        return "A [" + ", ".join(show(part) for part in data) + "]"
    if tag == "t":
        return "t " + ("true" if data else "false")
    if tag == "T" and abs(data - time.time()) < 86400:
        return "T now"
    if tag == "D":
        return "D {}/{}".format(*data)
    return f"{tag} {data!r}"


def show_table(pairs):
    items = pairs.items() if isinstance(pairs, dict) else pairs
    return "{" + ", ".join(f"{key}={show(item)}" for key, item in items) + "}"


def show_field(kind, data):
    if kind == "F":
        return show_table(data)
    if kind in "cS":
        return text(data)
    if kind == "b":
        return "true" if data else "false"
    if kind == "T" and abs(data - time.time()) < 86400:
        return "now"
    return str(data)


def show_body(data, sizes):
    if len(data) <= 64:
        shown = text(data)
    else:
        shown = f"{len(data)} octets, crc {zlib.crc32(data):08x}"
    return shown + (f" in frames of {sizes}" if len(sizes) > 1 else "")
